"""Clicks and their duplicates: F1-F3 and F18, of the two jobs one behind the other.

The oracle sorts all clicks and applies the rule; it shares nothing with the jobs.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adstream.jobs.ads.clicks import clicks
from adstream.jobs.ads.duplicates import duplicates
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS

START = datetime(2024, 1, 15, 10, tzinfo=UTC)
WINDOW_MS, GRACE_MS = 300_000, 30_000


class Click(NamedTuple):
    id: str
    at_ms: int
    device: str | None
    ad: str
    price: int
    delay_ms: int
    """How much later than it happened it is sent."""
    copies: int


@st.composite
def traffic(draw: st.DrawFn) -> list[Click]:
    steps = st.sampled_from([0, 1, 999, 15_000, 149_999, 150_000, 299_999, 300_000, 300_001])
    found, at = [], 0
    for i in range(draw(st.integers(1, 25))):
        at += draw(steps)
        device = draw(st.sampled_from(["d1", "d2", "d3", None]))
        delay = draw(st.integers(0, GRACE_MS))
        found.append(Click(f"e{i:02}", at, device, draw(st.sampled_from("ab")), i, delay, draw(st.integers(1, 3))))
    return found


def invalid(clicks: list[Click]) -> dict[str, int]:
    """The duplicates, with their prices."""
    kept: dict[tuple[str, str], int] = {}
    found = {}
    for click in sorted(clicks, key=lambda c: (c.at_ms, c.id)):
        if click.device is None:
            continue
        key = (click.device, click.ad)
        if key in kept and click.at_ms - kept[key] < WINDOW_MS:
            found[click.id] = click.price
        else:
            kept[key] = click.at_ms
    return found


def event(click: Click) -> dict[str, Any]:
    return {
        "event_id": click.id,
        "event_type": "CLICK",
        "timestamp": (START + timedelta(milliseconds=click.at_ms)).isoformat(timespec="milliseconds"),
        "device_id": click.device,
        "ad_id": click.ad,
        "advertiser_id": f"of-{click.ad}",
        "actual_price": click.price,
    }


schedules = st.fixed_dictionaries(
    {
        "partitions": st.integers(1, 8),
        "seed": st.none() | st.integers(0, 99),
        "pipelined": st.booleans(),
        "commit_every": st.sampled_from([None, 1, 3]),
    }
)
crashes = st.none() | st.sampled_from(STEPS)


@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck), print_blob=True)
@given(found=traffic(), how=schedules, crash=crashes)
def test_the_same_clicks_are_refunded_once_whatever_their_order_and_copies(
    found: list[Click], how: dict[str, Any], crash: Any
):
    sent = sorted((c.at_ms + c.delay_ms, n, i) for i, c in enumerate(found) for n in range(c.copies))
    with TopologyTestDriver(clicks, **how) as driver:
        for _, _, i in sent:
            driver.input("ad-events").pipe(event(found[i]), key=found[i].device, at=START + timedelta(days=1))
        canonical = driver.output("ad-clicks").read()
        counters = driver.counters()
    if None not in {c.device for c in found}:  # records without a key lie on any partition, and so do their copies
        assert sorted(r.value["event_id"] for r in canonical) == sorted(c.id for c in found)
        assert counters["ad-events"]["read"] == len(found) + counters.get("once", {}).get("repeated", 0)
    with TopologyTestDriver(duplicates, **how) as driver:
        if crash is not None:
            driver.crash_at(crash, commits=2)
        for record in canonical:
            driver.input("ad-clicks").pipe(record.value, key=record.key)
        for partition in range(how["partitions"]):
            last = START + timedelta(days=2)
            driver.input("ad-clicks").pipe(
                event(Click("last", 0, "other", f"x{partition}", 0, 0, 1)) | {"timestamp": last.isoformat()},
                partition=partition,
            )
        refunds = driver.output("compensation-events").read()
        late = driver.counters().get("ordered", {}).get("late", 0)
    assert late == 0
    told = defaultdict(list)
    for record in refunds:
        told[record.value["event_id"]].append(int(float(record.value["refund_amount"])))
    assert told == {id: [price] for id, price in invalid(found).items()}
    assert {r.value["refund_id"] for r in refunds} == {f"dup:{id}" for id in told}
