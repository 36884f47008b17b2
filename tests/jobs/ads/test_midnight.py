"""Budgets over midnight: whatever crashes, comes again or lies on whichever partition, nobody stays paused for a past day."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from adstream.jobs.ads.ledger import HOLDS
from adstream.jobs.ads.ledger import ledger as job
from adstream.testing import TopologyTestDriver
from tests.jobs.ads.money import Ledger

pytestmark = pytest.mark.servers

STEPS = ("process", "close", "produce", "before-commit", "after-commit")


@pytest.mark.parametrize("seed", range(6))
def test_nobody_stays_paused_for_a_day_that_is_over(ledger: Ledger, seed: int) -> None:
    chance = random.Random(seed)
    partitions, shown, sent, hours = 1 + seed % 4, defaultdict[str, bool](lambda: True), [], 10
    how = {"partitions": partitions, "batch_rows": chance.choice([1, 3, None]), "wall_clock": "2024-01-15T10:00:00Z"}
    with TopologyTestDriver(job, connections={"ledger": ledger.url}, **how) as driver:  # type: ignore[arg-type]
        told, clicks = driver.output("campaign-events"), driver.input("ad-clicks")

        def listen() -> None:
            for record in told.read():
                if record.value.get("reason") in HOLDS:
                    shown[record.value["campaign_id"]] = record.value["status"] == "ACTIVE"

        begins = {"timestamp": "2024-01-15T09:00:00Z"}
        for owner in "AB":
            paid = {"payment_id": owner, "advertiser_id": owner, "amount": 1_000_000}
            driver.input("ad-payments").pipe(paid | begins, key=owner)
        for n in range(4):
            campaign = {
                "event_id": f"t{n}",
                "event_type": "CAMPAIGN_CREATED",
                "campaign_id": f"c{n}",
                "daily_budget": 3000,
            }
            driver.input("campaign-events").pipe(campaign | begins | {"advertiser_id": "AB"[n % 2], "status": "ACTIVE"})
        for number in range(60):
            listen()
            n = chance.randrange(4)
            if shown[f"c{n}"] or chance.random() < 0.2:  # who is paused is shown a little longer
                at = f"2024-01-{15 + hours // 24}T{hours % 24:02}:00:00Z"
                click = {
                    "event_id": f"e{number}",
                    "timestamp": at,
                    "advertiser_id": "AB"[n % 2],
                    "campaign_id": f"c{n}",
                }
                sent.append(click | {"actual_price": chance.choice([700, 1200])})
                if chance.random() < 0.2:
                    driver.crash_at(chance.choice(STEPS), commits=chance.randrange(2))  # type: ignore[arg-type]
                for one in [sent[-1], *([chance.choice(sent)] if chance.random() < 0.2 else [])]:
                    clicks.pipe(one, partition=chance.randrange(partitions))
            if chance.random() < 0.25:
                hours += 1
                driver.advance_wall_clock("1h")
            if chance.random() < 0.1:
                driver.restart()
        driver.run()
        assert ledger.effects("RESUME") != []
        driver.advance_wall_clock("26h")
        listen()
    assert [campaign for campaign, active in shown.items() if not active] == []
    assert ledger.query("SELECT campaign_id FROM ads_ledger.campaign WHERE budget_price IS NOT NULL") == []
    ledger.check()
