"""The golden trace (E4) through the streaming jobs, one behind the other. Here every refund is given back in full; what the
ledger decides has tests of its own."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from adstream.jobs.ads.attribution import attribution
from adstream.jobs.ads.clicks import clicks
from adstream.jobs.ads.duplicates import duplicates
from adstream.jobs.ads.net_performance import net_performance
from adstream.jobs.ads.performance import performance
from adstream.jobs.ads.ranking import ranking
from adstream.testing import TopologyTestDriver
from tests.unit.jobs.examples import AD_EVENT, CAMPAIGN_EVENT, CONVERSION_EVENT
from tests.unit.jobs.test_ads_duplicates import GOLDEN

Records = list[tuple[Any, dict[str, Any]]]


def events() -> list[dict[str, Any]]:
    return [
        AD_EVENT
        | {"device_id": "d1", "ad_id": "ad1", "campaign_id": "c100", "product_id": "p1"}
        | {"event_id": id, "timestamp": f"2024-01-15T{at}Z", "actual_price": fields.get("price", 1200)}
        | {name: value for name, value in fields.items() if name != "price"}
        for id, at, fields in GOLDEN
    ]


def through(topology: Any, partitions: int, outputs: tuple[str, ...], **inputs: Records) -> list[Records]:
    with TopologyTestDriver(topology, partitions=partitions) as driver:
        for topic, records in inputs.items():
            for key, value in records:
                driver.input(topic.replace("_", "-")).pipe(value, key=key, at=value["timestamp"])
            driver.run()
        assert [letter for topic in inputs for letter in driver.dead_letters(topic.replace("_", "-"))] == []
        return [[(record.key, record.value) for record in driver.output(topic).read()] for topic in outputs]


@pytest.mark.parametrize(("partitions", "copies"), list(product((1, 3, 8), (1, 2))))
def test_golden_trace(partitions: int, copies: int):
    sent = [(e["device_id"], e) for e in events() if e["device_id"] is not None for _ in range(copies)]
    sent += [(None, event) for event in events() if event["device_id"] is None]  # its copies may lie anywhere
    [canonical] = through(clicks, partitions, ("ad-clicks",), ad_events=sent)
    assert sorted(click["event_id"] for _, click in canonical) == [f"e{i}" for i in range(1, 10)]

    end = {"timestamp": "2024-01-15T20:00:00.000Z", "advertiser_id": "A", "actual_price": "0.00"}
    ends = [
        (f"end{i}", end | {"event_id": f"end{i}", "device_id": f"end{i}", "ad_id": "a", "product_id": f"p{i}"})
        for i in range(64)  # some on each partition: time goes on in all of them
    ]
    refunds, invalid = through(
        duplicates, partitions, ("compensation-events", "invalid-clicks"), ad_clicks=canonical + ends
    )
    found = {refund["refund_id"]: refund["refund_amount"] for _, refund in refunds}
    assert found == {"dup:e2": "1200.00", "dup:e3": "1300.00", "dup:e5": "1200.00"}
    assert len(refunds) == 3

    applied = [
        (key, refund | {"status": "APPLIED", "amount": refund["refund_amount"], "click_time": refund["timestamp"]})
        for key, refund in refunds
    ]
    [rows] = through(
        net_performance,
        partitions,
        ("ad-performance-net",),
        ad_clicks=canonical,
        invalid_clicks=invalid,
        refund_applied=applied,
    )
    last = {tuple(key): row for key, row in rows}
    names = ("click_count", "total_spend", "click_count_net", "total_spend_net")
    at_30, at_35 = (
        tuple(row[name] for name in names)
        for time in ("10:30", "10:35")
        for row in last.values()
        if row["campaign_id"] == "c100" and time in row["metric_time"]
    )
    assert at_30 == (4, "4900.00", 2, "2400.00")
    assert at_35 == (2, "2400.00", 1, "1200.00")
    assert sum(float(row["total_spend_net"]) for row in last.values()) == 6100

    bought = {"timestamp": "2024-01-15T10:34:00.000Z", "device_id": "d1", "order_id": "o1", "product_id": "p1"}
    bought |= {"revenue_amount": 50000, "conversion_type": "PURCHASE"}
    [credits] = through(
        attribution,
        partitions,
        ("conversion-attributions",),
        ad_clicks=canonical + ends,  # hours ahead of the conversion, as in a backlog
        conversion_events=[("d1", bought)],
        invalid_clicks=invalid,
    )
    assert (credits[-1][1]["click_event_id"], credits[-1][1]["status"]) == ("e1", "FINAL")


def test_a_refund_of_another_system_on_the_shared_topic_is_refused():
    with TopologyTestDriver(net_performance, partitions=1) as driver:
        rollback = {"orderId": "o1", "timestamp": "2024-01-15T10:34:00Z", "type": "STOCK_RESTORATION_REQUIRED"}
        driver.input("refund-applied").pipe(rollback)
        [letter] = driver.dead_letters("refund-applied")
        assert letter.reason.startswith("missing_field:")


@pytest.mark.parametrize(
    ("topology", "topic", "example"),
    [
        (clicks, "ad-events", AD_EVENT),
        (performance, "ad-events", AD_EVENT),
        (net_performance, "ad-events", AD_EVENT | {"event_type": "IMPRESSION"}),
        (net_performance, "ad-events", AD_EVENT | {"event_type": "CONVERSION", "revenue_amount": 50000}),
        (ranking, "campaign-events", CAMPAIGN_EVENT),
        (attribution, "conversion-events", CONVERSION_EVENT),
    ],
)
def test_the_example_of_a_topic_is_accepted_by_who_reads_it(topology: Any, topic: str, example: dict[str, Any]):
    with TopologyTestDriver(topology, partitions=1, wall_clock="2024-01-15T12:00:00Z") as driver:
        driver.input(topic).pipe(example)
        driver.run()
        assert driver.dead_letters(topic) == []
        said = driver.counters()
    assert said[topic]["read"] == 1
    assert not [reason for found in said.values() for reason in found if reason.startswith(("filtered", "dropped"))]
