"""How a campaign's budget stands, and how much of it to show: reads the hashes that `ads.budget` keeps in Redis.

The ledger decides what is charged. Whoever shows ads need not wait for its PAUSED: it knows what it has shown and nobody has
clicked yet (`Standing.stops`), and it can spread a day's budget over the day (`Standing.paced`).
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import NamedTuple, Protocol

LEAST = 0.01
"""What is let through at least, so that there is something to go by."""
STEP = 0.1
"""By how much of itself the share changes in an interval."""


class Redis(Protocol):
    """The one command of a Redis client that is used."""

    def hmget(self, name: str, keys: list[str]) -> list[bytes | str | None]: ...


class Standing(NamedTuple):
    """A campaign's budget on a day."""

    day: date
    """In the advertiser's zone."""
    spend: Decimal
    """Charges less their refunds, in the ledger's currency."""
    budget: Decimal | None
    """None: there is none, or the ledger has not told of any."""

    @property
    def remaining(self) -> Decimal | None:
        """What is left. Below 0 where the budget was lowered below the spend; None without a budget."""
        return None if self.budget is None else self.budget - self.spend

    def stops(self, in_flight: Decimal | int = 0) -> bool:
        """Whether to show it no more: what is spent and what is to be expected come to the budget. Never without a budget.

        Args:
            in_flight: what may still be charged for what was shown: the sum of price times predicted click rate over the
                impressions of the last 10 minutes, in the ledger's currency.

        Raises:
            ValueError: `in_flight` is negative or no number.

        Source: "Using Kafka Streams API for predictive budgeting" (Pinterest, 2017).
        """
        if not in_flight >= 0:
            raise ValueError(f"in_flight is {in_flight}: hand in a sum of money of at least 0")
        return self.budget is not None and self.spend + in_flight >= self.budget

    def paced(self, share: float, forecast: float) -> float:
        """The share of requests to let through in the next interval, `LEAST` to 1; 1 without a budget.

        A tenth less where a larger part of the budget is spent than of the day's traffic is over, else a tenth more.

        Args:
            share: what was let through in the last interval, 0 to 1. Begin a day with a small one, 0.1 for instance.
            forecast: what part of the day's traffic should be over by now, 0 to 1.

        Raises:
            ValueError: one of them is not within 0 and 1, as per cent are not.

        Source: "Budget Pacing for Targeted Online Advertisements at LinkedIn" (Agarwal et al., KDD 2014).
        """
        for name, given in (("share", share), ("forecast", forecast)):
            if not 0 <= given <= 1:
                raise ValueError(f"{name} is {given}: hand in a fraction, 0 to 1 (30 per cent are 0.3)")
        if self.budget is None:
            return 1.0
        ahead = self.spend > self.budget * Decimal(str(forecast))
        return min(max(share * (1 - STEP if ahead else 1 + STEP), LEAST), 1.0)


class Budgets:
    """Answers from Redis how budgets stand: one command, consistent fields.

        budgets = Budgets(redis.Redis.from_url("redis://localhost"))
        budgets.of("c100", datetime.now(ZoneInfo("Asia/Seoul")).date()).remaining

    Args:
        redis: a client (`redis.Redis`).
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def of(self, campaign_id: str, today: date) -> Standing:
        """How it stands today. Nothing is spent and no budget known of a campaign that the ledger has not told of.

        Args:
            campaign_id: the campaign.
            today: in the advertiser's zone. Where the ledger has told of days before alone, nothing is spent yet of the budget.
                Of a later day (a click was dated ahead, or this clock is behind) it is that day's standing, with that day.
        """
        name = "budget:" + campaign_id.replace("%", "%25")  # as the sink writes it
        day, spend, budget = (_text(found) for found in self._redis.hmget(name, ["day", "spend", "budget"]))
        limit = None if budget is None else Decimal(budget)
        if day is None or spend is None or (newest := date.fromisoformat(day)) < today:
            return Standing(today, Decimal(0), limit)
        return Standing(newest, Decimal(spend), limit)


def _text(found: bytes | str | None) -> str | None:
    return found.decode() if isinstance(found, bytes) else found
