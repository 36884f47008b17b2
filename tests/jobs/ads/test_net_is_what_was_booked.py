"""F20: net spend over all windows is what the ledger charged less what it gave back, click by click of each campaign."""

from __future__ import annotations

import random
from collections import defaultdict
from decimal import Decimal
from typing import Any

import pytest

from adstream.jobs.ads.compensation import compensation
from adstream.jobs.ads.ledger import ledger as ledger_job
from adstream.jobs.ads.net_performance import net_performance
from adstream.testing import TopologyTestDriver
from tests.jobs.ads.money import Ledger

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("seed", range(4))
def test_net_spend_is_charges_less_refunds(ledger: Ledger, seed: int) -> None:
    chance = random.Random(seed)
    clicks = [
        {
            "event_id": f"e{i}",
            "timestamp": f"2024-01-15T10:{i // 2:02}:{chance.randrange(60):02}Z",
            "device_id": f"d{i % 7}",
            "advertiser_id": "A",
            "campaign_id": chance.choice(["c1", "c2"]),
            "product_id": chance.choice(["p", "q", None]),
            "placement": "HOME",
            "actual_price": chance.choice([0, 100, 1200]),
        }
        for i in range(100)
    ]
    asked = [
        {
            "refund_id": f"{'dup' if n else 'goodwill'}:{click['event_id']}",
            "event_id": click["event_id"],
            "timestamp": click["timestamp"] if n else "2024-01-15T20:00:00Z",
            "advertiser_id": "A",
            "refund_amount": chance.choice([50, 1200]),
        }
        for click in clicks
        for n in range(chance.choice([0, 0, 1, 2]))
    ]
    paid = {"payment_id": "p", "timestamp": "2024-01-15T09:00:00Z", "advertiser_id": "A", "amount": 20_000}
    terms = {"event_type": "CAMPAIGN_CREATED", "timestamp": "2024-01-15T09:00:00Z", "campaign_id": "c1"}
    terms |= {"advertiser_id": "A", "daily_budget": 9_000}

    told: dict[str, list[Any]] = {}
    how = {"partitions": 2, "connections": {"ledger": ledger.url}}
    with TopologyTestDriver(ledger_job, **how) as driver:  # type: ignore[arg-type]
        for topic, record in [("ad-payments", paid), ("campaign-events", terms)]:
            driver.input(topic).pipe(record, key="A")
            driver.run()
        for click in clicks:
            driver.input("ad-clicks").pipe(click, key=click["device_id"])
        told["ad-ledger"] = driver.output("ad-ledger").read()
    with TopologyTestDriver(compensation, **how) as driver:  # type: ignore[arg-type]
        for refund in asked:
            driver.input("compensation-events").pipe(refund, key="A")
        told["refund-applied"] = driver.output("refund-applied").read()
    with TopologyTestDriver(net_performance, partitions=2) as driver:
        sent = [("ad-clicks", click["device_id"], click) for click in clicks]
        sent += [(topic, "A", record.value) for topic, records in told.items() for record in records]
        sent += [row for row in sent if row[0] != "ad-clicks" and chance.random() < 0.3]  # told again
        chance.shuffle(sent)
        for topic, key, value in sent:
            driver.input(topic).pipe(value, key=key)
        rows = driver.table("sql-ad_performance_metrics_net").values()
        assert [d for topic in {t for t, *_ in sent} for d in driver.dead_letters(topic)] == []
    net: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        net[row["campaign_id"]] += row["total_spend_net"]
    booked = ledger.query(
        "SELECT campaign_id, sum(CASE kind WHEN 'CHARGE' THEN amount ELSE -amount END) AS sum FROM ads_ledger.posting"
        " WHERE kind IN ('CHARGE', 'REFUND') GROUP BY 1"
    )
    assert net == {row["campaign_id"]: row["sum"] for row in booked}
    reasons = {row["reason"] for row in ledger.query("SELECT DISTINCT reason FROM ads_ledger.posting")}
    assert {"OVER_BUDGET", "NO_BALANCE"} <= reasons  # the traffic is one that is not all charged
    ledger.check()
