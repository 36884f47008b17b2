"""What `ads.budget` shows is what the ledger sums up, in whatever order its topics are read (C6: counter = ledger sum)."""

from __future__ import annotations

import random
from datetime import date, timedelta
from typing import Any

import pytest

from adstream.jobs.ads.budget import budget
from adstream.jobs.ads.compensation import compensation
from adstream.jobs.ads.ledger import ledger as job
from adstream.testing import TopologyTestDriver
from tests.jobs.ads.money import Ledger

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_ledgers_sum(ledger: Ledger, seed: int) -> None:
    chance = random.Random(seed)
    how: dict[str, Any] = {"connections": {"ledger": ledger.url}, "partitions": 2}
    clicks = [
        {
            "event_id": f"e{n}",
            "timestamp": f"2024-01-15T{chance.choice(['14:59:59.999', '15:00:00', '10:00:00'])}Z",
            "advertiser_id": "A",
            "campaign_id": chance.choice(["c", "d", None]),
            "actual_price": chance.choice(["1200", "700", "0"]),
        }
        for n in range(60)
    ]
    told: list[tuple[str, Any]] = []
    with TopologyTestDriver(job, **how) as driver:
        paid = {"payment_id": "p", "timestamp": "2024-01-15T09:00:00Z", "advertiser_id": "A", "amount": "1000000"}
        driver.input("ad-payments").pipe(paid, key="A")
        terms = {"event_type": "CAMPAIGN_CREATED", "timestamp": "2024-01-15T09:00:00Z", "advertiser_id": "A"}
        driver.input("campaign-events").pipe(terms | {"event_id": "1", "campaign_id": "c", "daily_budget": "9000"})
        for click in clicks:
            driver.input("ad-clicks").pipe(click)
        told += [("ad-ledger", r.value) for r in driver.output("ad-ledger").read()]
    with TopologyTestDriver(compensation, **how) as driver:
        for click in chance.sample(clicks, 15):
            refund = {"refund_id": f"dup:{click['event_id']}", "event_id": click["event_id"], "advertiser_id": "A"}
            refund |= {"campaign_id": click["campaign_id"], "refund_amount": click["actual_price"]}
            driver.input("compensation-events").pipe(refund | {"timestamp": click["timestamp"]}, key="A")
        told += [("refund-applied", r.value) for r in driver.output("refund-applied").read()]
    again = [one for one in told if chance.random() < 0.3]  # told again
    with TopologyTestDriver(budget, partitions=2) as driver:
        for place, (topic, value) in enumerate(chance.sample(told + again, len(told + again))):
            if place == 40:
                driver.restart()
            driver.input(topic).pipe(value, key="A")
        found = driver.table("redis-hash-budget")
        assert [d for topic in ("ad-ledger", "refund-applied") for d in driver.dead_letters(topic)] == []
    newest = ledger.query(
        "SELECT DISTINCT ON (campaign_id) campaign_id, day::text, spend FROM ads_ledger.campaign_day"
        " WHERE campaign_id <> '' ORDER BY campaign_id, day DESC"
    )
    assert {row["campaign_id"]: (row["day"], row["spend"]) for row in newest} == {
        name: (row["day"], row["spend"]) for name, row in found.items()
    }
    assert (found["c"]["budget"], found["c"]["remaining"]) == (9000, 9000 - found["c"]["spend"])
    assert found["d"]["budget"] is None


def posting(number: int, day: date, amount: int, budget: int | None, campaign: str = "c", kind: str = "CHARGE") -> Any:
    told = {
        "posting_id": f"{kind}:{number}",
        "kind": kind,
        "status": "POSTED",
        "campaign_id": campaign,
        "day": str(day),
    }
    return told | {"timestamp": f"{day}T10:00:00Z", "amount": amount, "budget": budget}


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_campaign_that_rests_keeps_its_budget_and_its_last_day(partitions: int) -> None:
    """Its days are forgotten, as those of the others; nobody should take it for one without a budget."""
    first = date(2024, 1, 1)
    with TopologyTestDriver(budget, partitions=partitions) as driver:
        told = driver.input("ad-ledger")
        for n in (998, 999):
            told.pipe(posting(n, first, 300, 1000, "rests"), key="A")
        for n in range(30):
            day = first + timedelta(days=n)
            for p in range(partitions):
                told.pipe(posting(n * partitions + p, day, 500, 1000), partition=p)
        found = driver.table("redis-hash-budget")
        assert [found["rests"][name] for name in ("day", "spend", "budget")] == [str(first), 600, 1000]
        assert [found["c"][name] for name in ("day", "spend")] == [str(day), 500 * partitions]
        told.pipe(posting(9999, first, 70, 1000, "rests"), key="A")  # counted from nothing
        assert driver.table("redis-hash-budget")["rests"]["spend"] == 600


def test_a_budget_that_is_changed_at_midnight_is_shown_at_once() -> None:
    """The event is of yesterday and comes behind the first click of today."""
    with TopologyTestDriver(budget, partitions=1) as driver:
        told = driver.input("ad-ledger")
        told.pipe(posting(1, date(2024, 1, 15), 600, 1000), key="A")
        told.pipe(posting(2, date(2024, 1, 16), 700, 1000), key="A")
        told.pipe(posting(3, date(2024, 1, 15), 0, 500, kind="CAMPAIGN"), key="A")
        found = driver.table("redis-hash-budget")["c"]
        assert [found[name] for name in ("day", "spend", "budget", "remaining")] == ["2024-01-16", 700, 500, -200]
