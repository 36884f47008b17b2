"""Who the ledger pauses is not shown, and is again when the ledger says so: `ads.ranking` behind a real ledger."""

from __future__ import annotations

from datetime import timedelta

import pytest

from adstream.jobs.ads.ledger import effects_of
from adstream.jobs.ads.ranking import ranking
from adstream.testing import TopologyTestDriver
from tests.jobs.ads.money import AT, Ledger, click, deposit, refund, terms
from tests.unit.jobs.examples import CAMPAIGN_EVENT

pytestmark = pytest.mark.servers


def shown(ledger: Ledger) -> list[int]:
    """How many campaigns the list has: at first, then with each change of status that the ledger tells."""
    query = "SELECT id, advertiser_id, effects::text FROM ads_ledger.posting WHERE effects IS NOT NULL ORDER BY seq"
    changes = [e for row in ledger.query(query) for e in effects_of(row) if e["effect"] == "STATUS"]
    with TopologyTestDriver(ranking, partitions=1, wall_clock="2024-01-15T12:00:00Z") as driver:
        events = driver.input("campaign-events")
        events.pipe(CAMPAIGN_EVENT | {"campaign_id": "c"})
        driver.advance_wall_clock("1s")
        found = [driver.table("redis-hash-rtb")["HOME", "electronics"]["total_campaigns"]]
        for change in changes:
            names = ("event_id", "campaign_id", "status", "reason")
            told = {"event_type": "CAMPAIGN_STATUS_CHANGED", "timestamp": change["at"]}
            events.pipe(told | {name: change[name] for name in names})
            found.append(driver.table("redis-hash-rtb")["HOME", "electronics"]["total_campaigns"])
        assert driver.dead_letters("campaign-events") == []
    return found


def test_a_refund_of_an_older_click_lets_it_go(ledger: Ledger) -> None:
    """The refund is dated as the click that is paid back, long before the pause."""
    clicks = [click(n, 1200, when=AT + timedelta(seconds=n)) for n in range(1, 85)]
    ledger.post(deposit(1, 10_000_000), terms(1, 100_000), *clicks)
    ledger.refund(refund("dup:1", 1, 1200, when=AT + timedelta(seconds=1)))
    ledger.post(click(101, 1200), click(102, 1200))
    assert shown(ledger) == [1, 0, 1, 0]


def test_paused_for_one_reason_and_active_when_the_other_is_gone(ledger: Ledger) -> None:
    """PAUSED is told for the first reason, ACTIVE for the last that is gone."""
    ledger.post(deposit(1, 100), terms(1, 1000), click(1, 1200), click(2, 150))
    ledger.post(terms(2, 2000, when=AT), deposit(2, 200))
    assert [(e["status"], e["reason"]) for e in ledger.effects("STATUS")] == [
        ("PAUSED", "BUDGET"),
        ("ACTIVE", "BALANCE"),
    ]
    assert shown(ledger) == [1, 0, 1]
