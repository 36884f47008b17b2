"""`ads.rank`: rates, scores and prices."""

from __future__ import annotations

from decimal import Decimal

import pytest

import adstream as ads


def test_rates_are_smoothed():
    found = [ads.rank.smoothed(*counts) for counts in ((0, 0), (1, 2), (0, 10), (300, 10000))]
    assert [round(rate, 7) for rate in found] == [Decimal(t) for t in ("0.01", "0.0109780", "0.0099010", "0.0281818")]


@pytest.mark.parametrize(
    ("args", "how"),
    [((-1, 2), {}), ((1, -2), {}), ((0, 0), {"prior": "1.5"}), ((0, 0), {"strength": 0})],
)
def test_what_is_no_rate(args: tuple[int, int], how: dict[str, object]):
    with pytest.raises(ValueError, match="no rate"):
        ads.rank.smoothed(*args, **how)


def test_more_clicks_than_impressions_are_1_at_most():
    assert ads.rank.smoothed(10_000, 1) == 1


def test_order_and_prices():
    listed = ads.rank.Ranking(reserve=100)
    listed.put("A", bid=1500, ctr="0.01", cvr="0.005", value=1_000_000)
    listed.put("B", bid=1200, ctr="0.02", cvr="0.01", value=300_000)
    listed.put("C", bid=3000, ctr="0.005", cvr="0.002", value=50_000)
    assert [(line.id, line.score, line.price) for line in listed.top()] == [
        ("B", 30, 700),
        ("A", 20, 1005),
        ("C", Decimal("15.05"), 100),
    ]
    assert [line.id for line in listed.top(1)] == ["B"]
    assert (len(listed), listed.remove("B"), listed.remove("B"), len(listed)) == (3, True, False, 2)


def test_columns_are_as_one_after_the_other():
    by_column, one_by_one = ads.rank.Ranking(tick="0.01"), ads.rank.Ranking(tick="0.01")
    ids = [f"c{i}" for i in range(50)]
    bids = [100 + i * 37 % 11 for i in range(50)]
    by_column.put_many(ids, bids=bids, ctrs=[10_000_000] * 50, cvrs=[0] * 50, values=[0] * 50, since=[7] * 50)
    for id, bid in zip(ids, bids, strict=True):
        one_by_one.put(id, bid=Decimal(bid).scaleb(-2), ctr="0.01", cvr=0, value=0, since=7)
    assert by_column.top() == one_by_one.top()


def test_an_offer_below_the_reserve_takes_the_earlier_one_away():
    listed = ads.rank.Ranking(reserve=100)
    assert listed.put("A", bid=100, ctr=1, cvr=0, value=0)
    assert not listed.put("A", bid="99.99", ctr=1, cvr=0, value=0)
    assert listed.top() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"ctr": 2},
        {"cvr": "-0.1"},
        {"bid": -1},
        {"bid": 10**13},
        {"value": 10**13},
        {"bid": "1.005"},
        {"ctr": "0.0000000001"},
        {"ctr": 0.01},
        {"value": "NaN"},
    ],
)
def test_refused(wrong: dict[str, object]):
    good: dict[str, object] = {"bid": 1500, "ctr": "0.01", "cvr": 0, "value": 0}
    with pytest.raises(ValueError, match=r"rate|amount|digits|exact"):
        ads.rank.Ranking().put("A", **good | wrong)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="different lengths"):
        ads.rank.Ranking().put_many(["a"], bids=[], ctrs=[1], cvrs=[1], values=[1], since=[1])


def test_no_reserve():
    with pytest.raises(ValueError, match="no reserve"):
        ads.rank.Ranking(reserve=-1)
