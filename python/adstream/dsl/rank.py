"""`ads.rank`: bids in order of what showing them is worth, and what each pays. `rust/core/src/rank.rs` has the formulas.

list = ads.rank.Ranking(reserve=100)
list.put("a", bid=1500, ctr=Decimal("0.01"), cvr=Decimal("0.005"), value=1_000_000)
list.put("b", bid=1200, ctr=Decimal("0.02"), cvr=Decimal("0.01"), value=300_000)
list.top()          [Ranked(id="b", score=30, bid=1200, price=700), Ranked(id="a", …, price=100)]
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from adstream import _core

NANO = 1_000_000_000
_RATE, _CENT = Decimal("1e-9"), Decimal("0.01")
Number = int | str | Decimal


class Ranked(NamedTuple):
    """A line of a ranking."""

    id: str
    score: Decimal
    """The expected value of showing it once, with six digits."""
    bid: Decimal
    """The most that a click may cost."""
    price: Decimal
    """What a click costs."""


def smoothed(successes: int, trials: int, *, prior: Number = "0.01", strength: int = 1000) -> Decimal:
    """A rate that few trials do not carry away: `(successes + prior · strength) / (trials + strength)`, at most 1, with nine
    digits: the mean of the posterior of a Beta(prior · strength, (1 - prior) · strength) prior.

    Args:
        successes, trials: at least 0.
        prior: the rate where nothing is known, in [0, 1].
        strength: how many trials the prior weighs.

    Raises:
        ValueError: a number is out of these bounds.
    """
    expected = Decimal(prior)
    if successes < 0 or trials < 0 or not 0 <= expected <= 1 or strength < 1:
        raise ValueError(f"no rate: {successes} of {trials}, prior {prior} with strength {strength}")
    rate = (successes + expected * strength) / (trials + strength)
    return min(rate, Decimal(1)).quantize(_RATE, ROUND_HALF_EVEN)


class Ranking:
    """Bids, best first: by score, then the higher bid, then the older (`since`), then the id. A change costs as many steps as a
    search in the list, a look at the first k lines k.

    Args:
        reserve: the least that a click costs; bids below it are not listed.
        tick: the unit of prices (1 for won, 0.01 for dollars).

    Money has two digits and is below 10^13; rates are fractions in [0, 1] with nine digits.

    Raises:
        ValueError: of this and of all methods: an amount or a rate is out of these bounds, or has more digits.
    """

    def __init__(self, *, reserve: Number = 0, tick: Number = 1) -> None:
        least, unit = _cents(reserve), _cents(tick)
        if least < 0 or unit < 1:
            raise ValueError(f"no reserve and tick: {reserve}, {tick}")
        self._list = _core.Ranking(least, unit)

    def __len__(self) -> int:
        return len(self._list)

    def put(self, id: str, *, bid: Number, ctr: Number, cvr: Number, value: Number, since: int = 0) -> bool:
        """Lists a bid, in place of the id's earlier one.

        Args:
            id: whose it is.
            bid: the most that a click may cost.
            ctr: clicks by impressions.
            cvr: conversions by clicks.
            value: what a conversion brings.
            since: since when it is there, in ms: of equals the older comes first.

        Returns:
            Whether it is listed: a bid below the reserve is not, and an earlier one of the id neither, then.
        """
        return self._list.put(id, _cents(bid), _nanos(ctr), _nanos(cvr), _cents(value), since)

    def put_many(
        self,
        ids: Sequence[str],
        *,
        bids: Sequence[int],
        ctrs: Sequence[int],
        cvrs: Sequence[int],
        values: Sequence[int],
        since: Sequence[int],
    ) -> None:
        """As `put` for each, by columns of whole numbers: money in hundredths, rates in billionths."""
        self._list.put_many(ids, bids, ctrs, cvrs, values, since)

    def remove(self, id: str) -> bool:
        """Whether it was listed."""
        return self._list.remove(id)

    def top(self, k: int | None = None) -> list[Ranked]:
        """The first `k` lines, or all."""
        lines = self._list.top(len(self._list) if k is None else k)
        return [
            Ranked(id, Decimal(score), Decimal(bid).scaleb(-2), Decimal(price).scaleb(-2))
            for id, score, bid, price in lines
        ]


def _cents(amount: Number) -> int:
    return _whole(amount, 2, "money has two digits")


def _nanos(rate: Number) -> int:
    return _whole(rate, 9, "rates have nine digits")


def _whole(number: Number, digits: int, what: str) -> int:
    if isinstance(number, float) or not (scaled := Decimal(number).scaleb(digits)).is_finite():
        raise ValueError(f"{number!r} is not exact: write a Decimal, an int or text")
    if scaled != (whole := int(scaled)):
        raise ValueError(f"{number}: {what}")
    return whole
