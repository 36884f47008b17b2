"""Who is shown, and at what price: reads the lists that `ads.ranking` keeps in Redis."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple, Protocol

import orjson

ESCAPES = str.maketrans({"%": "%25", ":": "%3A"})
"""As the sink writes names into `rtb:{placement}:{category}`: a colon in one of them is none of the template's."""


class Redis(Protocol):
    """The one command of a Redis client that is used."""

    def hmget(self, name: str, keys: list[str]) -> list[bytes | str | None]: ...


class Offer(NamedTuple):
    """A campaign in its place."""

    campaign_id: str
    advertiser_id: str
    product_id: str
    actual_price: Decimal
    """What a click costs."""
    score: Decimal


class Ranked(NamedTuple):
    """A list as it was at one moment."""

    version: int
    """Of two lists the later one has the larger version."""
    total_campaigns: int
    """How many campaigns are eligible; `offers` may be fewer."""
    offers: list[Offer]


class Auction:
    """Answers from Redis who is shown: one command, one consistent list.

        auction = Auction(redis.Redis.from_url("redis://localhost"))
        best = auction.who("HOME", "electronics")

    Args:
        redis: a client (`redis.Redis`).
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def ranked(self, placement: str, category: str) -> Ranked:
        """The whole list. Version 0 and no offers where there never was a campaign."""
        return self._read(placement, category, None)

    def who(self, placement: str, category: str, n: int = 1) -> list[Offer]:
        """The first `n` of them, best first."""
        return self._read(placement, category, n).offers

    def _read(self, placement: str, category: str, n: int | None) -> Ranked:
        name = f"rtb:{placement.translate(ESCAPES)}:{category.translate(ESCAPES)}"
        found = self._redis.hmget(name, ["version", "total_campaigns", "ranking_list"])
        version, total, lines = found
        if version is None or total is None or lines is None:
            return Ranked(0, 0, [])
        return Ranked(int(version), int(total), [_offer(line) for line in orjson.loads(lines)[:n]])


def _offer(line: dict[str, str]) -> Offer:
    price, score = Decimal(line["actual_price"]), Decimal(line["score"])
    return Offer(line["campaign_id"], line["advertiser_id"], line["product_id"], price, score)
