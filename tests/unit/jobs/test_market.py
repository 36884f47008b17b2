"""`adstream.jobs.ads.market` keeps its promises, and its truth is what docs/ads.md says, on examples computed by hand."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from itertools import count, pairwise
from typing import Any

import pytest

from adstream.jobs.ads.market import Market, Sent, closing, day, opening
from adstream.jobs.ads.market_truth import Balance, Budget, MarketTruth, compute
from adstream.jobs.ads.topics import TOPICS
from adstream.jobs.ads.traffic import partition_of
from adstream.jobs.ads.truth import Record

SMALL = Market(seed=7, events=4000)


def all_of(market: Market) -> list[Sent]:
    return [*opening(market), *day(market), *closing(market)]


def logs_of(sent: Iterable[Sent]) -> dict[str, list[Record]]:
    logs: dict[str, list[Record]] = {topic.name: [] for topic in TOPICS}
    offset = count()
    for topic, partition, key, value, at in sent:
        logs[topic].append((partition, next(offset), key, value, at))
    return logs


def test_the_same_settings_give_the_same_bytes() -> None:
    def digest(market: Market) -> str:
        return hashlib.sha256(repr(all_of(market)).encode()).hexdigest()

    assert digest(SMALL) == "1980ea4320339287a1dadba5c7106977ea65b37af51702dee7ed0ae041199477"
    assert digest(Market(seed=8, events=4000)) != digest(SMALL)


def test_records_lie_where_kafka_puts_them_and_time_does_not_go_back() -> None:
    partitions = {topic.name: topic.partitions for topic in TOPICS}
    for stage in (opening, day, closing):
        clock: Counter[str] = Counter()
        for record in stage(SMALL):
            assert record.timestamp_ms >= clock[record.topic]
            clock[record.topic] = record.timestamp_ms
            if record.key is not None:
                assert record.partition == partition_of(record.key, partitions[record.topic])
            assert 0 <= record.partition < partitions[record.topic]
    assert sum(record.topic == "ad-events" for record in day(SMALL)) == SMALL.events


def test_changes_come_evenly_beside_the_same_day() -> None:
    changing = replace(SMALL, changes=500)
    records = list(day(changing))
    beside = [record for record in records if record.topic in ("campaign-events", "product-meta-data")]
    assert [record for record in records if record not in beside] == list(day(SMALL))
    assert [record.timestamp_ms for record in records] == sorted(record.timestamp_ms for record in records)
    assert len(beside) == 500
    assert {round(b.timestamp_ms - a.timestamp_ms) for a, b in pairwise(beside)} == {7200}
    terms = [json.loads(record.value) for record in beside if record.topic == "campaign-events"]
    assert {event["advertiser_id"] for event in terms}.isdisjoint({"advertiser_07", "advertiser_18", "advertiser_19"})
    assert len({(event["campaign_id"], event["bid_price"]) for event in terms}) == len(terms) == 400
    for record, event in zip((r for r in beside if r.topic == "campaign-events"), terms, strict=True):
        assert record.key == f"{event['placement']}:{event['category']}".encode()
    # They change nothing of what is charged, but what is told of budgets.
    with_, without = (compute(logs_of([*opening(m), *day(m), *closing(m)])) for m in (changing, SMALL))
    assert with_.balances == without.balances
    last = {event["campaign_id"]: Decimal(event["daily_budget"]) for event in terms}
    assert {id: with_.budgets[id].budget for id in last} == last


@pytest.mark.parametrize("seed", range(5))
def test_there_is_a_truth_and_everything_is_in_it(seed: int) -> None:
    market = Market(seed=seed, events=20_000)
    truth = compute(logs_of(all_of(market)))
    assert {credit.matched_by for credit in truth.credits.values()} == {"device", "session", "user", None}
    assert min(truth.late_clicks, truth.dead_clicks, truth.repeated_clicks, truth.gross.total.late) > 10
    assert len(truth.duplicates) > 200
    kinds = {
        kind: [b for id, b in truth.balances.items() if id[-1] in ends]
        for kind, ends in {"rich": "0123456", "poor": "7", "capped": "89"}.items()
    }
    assert all(b.unbilled == 0 and b.refunds > 0 for b in kinds["rich"])
    assert all(b.unbilled > 0 and b.refunds == 0 and b.available < 1000 for b in kinds["poor"])
    assert all(b.unbilled > 0 and b.refunds == 0 for b in kinds["capped"])
    assert any(budget == Budget("2024-01-17", Decimal(0), budget.budget) for budget in truth.budgets.values())
    apart = sorted(
        credit.at - truth.clicks[credit.click_event_id].at for credit in truth.credits.values() if credit.click_event_id
    )
    assert 500 in apart
    assert 3_600_000 in apart


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"advertisers": 9}, "advertisers must be at least 10"),
        ({"campaigns": 10}, "at least as many as advertisers"),
        ({"share_clicks": 1.5}, r"share_clicks must be in \[0, 1\]"),
        ({"minutes": 0}, "minutes must be at least 1"),
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Market(**wrong)


# --- The truth, by hand -------------------------------------------------------------------------------------


def told(
    events: list[dict[str, Any]], *, paid: int = 10**6, budget: int | None = None, bought: Any = ()
) -> MarketTruth:
    common = {"event_type": "CLICK", "device_id": "d1", "ad_id": "a", "campaign_id": "c", "advertiser_id": "A"}
    common |= {"product_id": "p", "placement": "HOME", "actual_price": "1200"}
    created = {"campaign_id": "c", "timestamp": "2024-01-15T00:00:00Z", "daily_budget": budget}
    topics: dict[str, list[dict[str, Any]]] = {
        "ad-events": [common | {"event_id": f"e{n}"} | event for n, event in enumerate(events, 1)],
        "ad-payments": [{"payment_id": "p1", "advertiser_id": "A", "amount": paid}],
        "campaign-events": [created],
        "conversion-events": [
            {"event_id": f"v{n}", "product_id": "p", "conversion_type": "PURCHASE", "revenue_amount": "5"}
            | {"device_id": None, "session_id": None, "user_id": None, "attribution_window": None}
            | one
            for n, one in enumerate(bought)
        ],
    }
    return compute(
        {
            name: [(0, n, None, json.dumps(row).encode(), 0) for n, row in enumerate(rows)]
            for name, rows in topics.items()
        }
    )


def at(time: str, **more: Any) -> dict[str, Any]:
    return {"timestamp": f"2024-01-15T{time}Z", **more}


def test_the_golden_trace() -> None:
    """E4: three duplicates, 8000 paid would not suffice for all before the refunds, so enough is paid here."""
    clicks = [
        *(at("10:30:15"), at("10:30:18"), at("10:30:22", actual_price="1300")),
        *(at("10:34:59", device_id="d2"), at("10:35:01", device_id="d2"), at("10:35:15")),
    ]
    found = told(clicks, paid=10_000)
    assert found.duplicates == {"e2", "e3", "e5"}
    assert found.balances["A"] == Balance(Decimal(10_000), Decimal(7300), Decimal(3700), 6, 0)
    assert found.budgets["c"] == Budget("2024-01-15", Decimal(3600), None)
    assert [(row.clicks, row.clicks_net, row.spend, row.spend_net) for row in found.net.values()] == [
        (4, 2, Decimal(4900), Decimal(2400)),  # from 10:30
        (2, 1, Decimal(2400), Decimal(1200)),  # from 10:35
    ]
    with pytest.raises(ValueError, match="depends on the order"):
        told(clicks, paid=7000)


def test_the_window_of_duplicates_is_anchored_and_half_open() -> None:
    assert told([at("10:00:00"), at("10:04:59"), at("10:09:58")]).duplicates == {"e2"}
    assert told([at("10:00:00"), at("10:05:00")]).duplicates == set()


def test_a_late_click_is_a_duplicate_of_a_kept_one_on_either_side() -> None:
    later = at("10:30:00", ad_id="other")
    found = told([at("10:10:00"), later, at("10:05:01"), at("10:15:00"), at("10:14:59")])
    assert (found.late_clicks, found.duplicates) == (3, {"e3", "e5"})


def test_83_clicks_of_1200_fit_into_100000_and_midnight_is_in_seoul() -> None:
    clicks = [at(f"14:{n // 60:02}:{n % 60:02}", device_id=f"d{n}") for n in range(90)]
    clicks.append(at("15:00:00"))  # the 16th in Seoul
    found = told(clicks, budget=100_000)
    assert found.balances["A"][3:] == (84, 7)
    assert found.budgets["c"] == Budget("2024-01-16", Decimal(1200), Decimal(100_000))
    assert next(iter(found.net.values())).spend_net is None


def test_a_conversion_is_owed_to_the_last_click_of_its_device_then_session_then_user() -> None:
    clicks = [
        at("10:00:00"),
        at("10:10:00", device_id="d2", session_id="s"),
        at("10:20:00", device_id="d3", user_id="u"),
        at("10:20:01", device_id="d3", user_id="u"),  # a duplicate
    ]
    orders = [
        at("11:00:00", order_id="1", device_id="d1", session_id="s", user_id="u"),
        at("11:00:00", order_id="2", device_id="x", session_id="s", user_id="u"),
        at("11:00:00", order_id="3", device_id="x", session_id="y", user_id="u"),
        at("11:00:00", order_id="4", device_id="x"),
        at("11:00:00", order_id="5", device_id="d1", attribution_window=1),
        at("11:00:00.001", order_id="6", device_id="d1", attribution_window=1),
    ]
    found = told(clicks, bought=orders)
    owed = {order: (credit.click_event_id, credit.matched_by) for (order, _), credit in found.credits.items()}
    assert owed == {
        "1": ("e1", "device"),
        "2": ("e2", "session"),
        "3": ("e3", "user"),
        "4": (None, None),
        "5": ("e1", "device"),
        "6": (None, None),
    }
