"""Lists of campaigns: F1, F2 and F14. The oracle computes with fractions and sorts all of it at the end."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adstream.jobs.ads.ranking import ranking
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS

RESERVE = 100
Event = dict[str, Any]


@st.composite
def campaign_events(draw: st.DrawFn) -> list[Event]:
    found = []
    for i in range(draw(st.integers(1, 20))):
        event: Event = {
            "event_id": f"e{i:02}",
            "campaign_id": draw(st.sampled_from("ABCD")),
            "timestamp": f"2024-01-15T10:00:{draw(st.integers(0, 9)):02}Z",
            "status": draw(st.sampled_from(["ACTIVE", "ACTIVE", "PAUSED", "DELETED"])),
        }
        if draw(st.booleans()):
            event |= {"event_type": "CAMPAIGN_STATUS_CHANGED"}
        else:
            event |= {
                "event_type": "CAMPAIGN_UPDATED",
                "product_id": draw(st.sampled_from("pq")),
                "placement": draw(st.sampled_from(["HOME", "SEARCH"])),
                "category": "c",
                "bid_price": draw(st.sampled_from([99, 100, 150, 1500, 3000])),
                "approval_status": draw(st.sampled_from(["APPROVED", "APPROVED", "PENDING"])),
                "effective_from": draw(st.sampled_from([None, "2024-01-15T10:00:01Z", "2024-01-15T10:00:02Z"])),
            }
        found.append(event)
    return found


products = st.dictionaries(
    st.sampled_from("pq"),
    st.tuples(st.integers(0, 50), st.integers(0, 5000), st.integers(0, 9), st.none() | st.integers(0, 500_000)),
)


def expected(events: list[Event], products: dict[str, Any]) -> dict[str, list[tuple[str, int]]]:
    standing: dict[str, Event] = {}
    status: dict[str, str] = {}
    for event in sorted(events, key=lambda e: (e["timestamp"], e["event_id"])):
        status[event["campaign_id"]] = event["status"]
        if event["event_type"] != "CAMPAIGN_STATUS_CHANGED":
            standing[event["campaign_id"]] = event
    lists: dict[str, list[Any]] = {}
    for id, event in standing.items():
        if status[id] != "ACTIVE" or event["approval_status"] != "APPROVED" or event["bid_price"] < RESERVE:
            continue
        clicks, impressions, conversions, price = products.get(event["product_id"], (0, 0, 0, None))
        ctr = round(min(Fraction(1), Fraction(clicks + 10, impressions + 1000)), 9)
        cvr = round(min(Fraction(1), Fraction(conversions + 5, clicks + 1000)), 9)
        beside = Fraction(1, 10) * ctr * cvr * (price or 0)
        score = event["bid_price"] * ctr + beside
        line = (-score, -event["bid_price"], event["effective_from"] or "", id, ctr, beside)
        lists.setdefault(event["placement"], []).append(line)
    found = {}
    for placement, lines in lists.items():
        lines.sort()
        prices = []
        for i, (_, bid, _, id, ctr, beside) in enumerate(lines):
            enough = ceil((-lines[i + 1][0] - beside) / ctr) if i + 1 < len(lines) else 0
            prices.append((id, min(max(enough, RESERVE), -bid)))
        found[placement] = prices
    return found


@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck), print_blob=True)
@given(
    events=campaign_events(),
    products=products,
    order=st.randoms(use_true_random=False),
    copies=st.integers(1, 3),
    partitions=st.integers(1, 8),
    seed=st.none() | st.integers(0, 99),
    crash=st.none() | st.sampled_from(STEPS),
)
def test_the_same_lists_whatever_the_order_and_copies(
    events: list[Event], products: dict[str, Any], order: Any, copies: int, partitions: int, seed: Any, crash: Any
):
    sent = events * copies
    order.shuffle(sent)
    wall = "2024-01-15T12:00:00Z"
    with TopologyTestDriver(ranking, partitions=partitions, seed=seed, wall_clock=wall) as driver:
        if crash is not None:
            driver.crash_at(crash, commits=3)
        for event in sent:
            driver.input("campaign-events").pipe(event, key=event["campaign_id"])
        for id, (clicks, impressions, conversions, price) in products.items():
            rates = {"product_id": id, "clicks": clicks, "impressions": impressions, "conversions": conversions}
            driver.input("product-metrics").pipe(rates, key=id, at=wall)
            if price is not None:
                driver.input("product-meta-data").pipe({"product_id": id, "product_price": price}, key=id, at=wall)
        driver.advance_wall_clock("1s")
        rows = driver.table("redis-hash-rtb")
        letters = driver.dead_letters("campaign-events") + driver.dead_letters("product-metrics")
    assert letters == []
    found = {}
    for (placement, _), row in rows.items():
        lines = json.loads(row["ranking_list"])
        assert row["total_campaigns"] == len(lines)
        scores = [Decimal(line["score"]) for line in lines]
        assert scores == sorted(scores, reverse=True)
        if lines:
            found[placement] = [(line["campaign_id"], int(Decimal(line["actual_price"]))) for line in lines]
    assert found == expected(events, products)
