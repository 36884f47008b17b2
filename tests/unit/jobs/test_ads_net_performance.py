"""Net columns (C2), and those of the golden trace (E4)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from adstream.jobs.ads.net_performance import net_performance
from adstream.testing import TopologyTestDriver
from tests.unit.jobs.test_ads_duplicates import GOLDEN

SQL = "sql-ad_performance_metrics_net"
TEN = datetime(2024, 1, 15, 10, tzinfo=UTC)
ROW = {"device_id": "d", "campaign_id": "c", "product_id": "p", "placement": "HOME", "advertiser_id": "A"}


class Job:
    def __init__(self, driver: TopologyTestDriver) -> None:
        self.driver = driver
        self.clicks: dict[str, dict[str, Any]] = {}

    def event(self, kind: str, id: str, at: str, **fields: Any) -> None:
        event = ROW | {"event_type": kind, "event_id": id, "timestamp": f"2024-01-15T{at}Z"} | fields
        self.driver.input("ad-events").pipe(event, key="d", at=event["timestamp"])

    def click(self, id: str, at: str, price: int = 1200, **fields: Any) -> None:
        self.clicks[id] = ROW | {"event_id": id, "timestamp": f"2024-01-15T{at}Z", "actual_price": price} | fields
        self.driver.input("ad-clicks").pipe(self.clicks[id], key="d")

    def duplicate(self, id: str) -> None:
        self.driver.input("invalid-clicks").pipe(self.clicks[id], key="d")

    def refund(self, id: str, amount: int | None = None, status: str = "APPLIED", **fields: str) -> None:
        click = self.clicks[id]
        refund = {"refund_id": f"dup:{id}", "event_id": id, "timestamp": click["timestamp"], "status": status} | fields
        refund["click_time"] = click["timestamp"]
        refund["amount"] = click["actual_price"] if amount is None else amount
        self.driver.input("refund-applied").pipe(refund, key="A")

    def decided(self, id: str, status: str, amount: int) -> None:
        """As the ledger tells it."""
        click = self.clicks[id]
        row = {"posting_id": f"click:{id}", "kind": "CHARGE", "status": status, "amount": amount}
        row["requested"] = click["actual_price"]
        self.driver.input("ad-ledger").pipe(row | {"timestamp": click["timestamp"]}, key="A")

    def row(self, minute: int = 0, campaign: str = "c") -> dict[str, Any]:
        return self.driver.table(SQL)[campaign, "p", "HOME", TEN.replace(minute=minute)]


@pytest.fixture(params=[1, 4])
def job(request: pytest.FixtureRequest) -> Iterator[Job]:
    with TopologyTestDriver(net_performance, partitions=request.param) as driver:
        yield Job(driver)


def example(job: Job) -> None:
    for i in range(200):
        job.event("IMPRESSION", f"i{i}", "10:00:01")
    for i in range(4):
        job.click(f"k{i}", "10:01:00")
    job.event("CONVERSION", "v", "10:02:00", revenue_amount=50000)


def test_a_duplicate_leaves_and_its_refund_is_netted(job: Job):
    example(job)
    assert (job.row()["click_count_net"], job.row()["total_spend_net"]) == (4, Decimal("4800.00"))
    job.duplicate("k3")
    job.refund("k3")
    assert job.row() == {
        "campaign_id": "c",
        "product_id": "p",
        "placement": "HOME",
        "metric_time": TEN,
        "impression_count": 200,
        "conversion_count": 1,
        "click_count": 4,
        "click_count_net": 3,
        "total_spend": Decimal("4800.00"),
        "total_spend_net": Decimal("3600.00"),
        "total_revenue": Decimal("50000.00"),
        "roas_net": Decimal("13.888889"),
    }


def test_a_correction_is_told_again(job: Job):
    job.click("a", "10:01:00")
    job.click("b", "10:01:01")
    assert job.row()["click_count_net"] == 2
    job.refund("b")
    job.duplicate("b")
    assert (job.row()["click_count_net"], job.row()["total_spend_net"]) == (1, Decimal("1200.00"))
    told = [record.value["click_count_net"] for record in job.driver.output("ad-performance-net").read()]
    assert told[-1] == 1


def test_a_refund_counts_once_and_only_if_it_was_applied(job: Job):
    for id in "abc":
        job.click(id, "10:01:00")
    for id in "bc":
        job.duplicate(id)
    job.refund("b")
    job.refund("b")
    job.refund("c", status="REJECTED", amount=0)
    assert (job.row()["click_count_net"], job.row()["total_spend_net"]) == (1, Decimal("2400.00"))


@pytest.mark.parametrize("first", ["click", "ledger"])
def test_what_the_ledger_did_not_charge_is_no_spend(job: Job, first: str):
    """F20: net spend is charges less refunds. A click is told of by two topics, in any order."""
    for id in "abc":
        job.click(id, "10:01:00")
    if first == "ledger":
        job.clicks["d"] = job.clicks["c"] | {"event_id": "d"}
    else:
        job.click("d", "10:01:00")
    job.decided("a", "POSTED", 1200)
    for id in "bd":
        job.decided(id, "UNBILLED", 0)
    job.decided("b", "UNBILLED", 0)  # told again
    job.decided("c", "POSTED", 1200)
    if first == "ledger":
        job.click("d", "10:01:00")
    payment = {"posting_id": "payment:b", "kind": "DEPOSIT", "status": "POSTED", "amount": 9}
    job.driver.input("ad-ledger").pipe(payment | {"timestamp": "2024-01-15T10:01:00Z"}, key="A")
    assert (job.row()["total_spend"], job.row()["total_spend_net"]) == (Decimal("4800.00"), Decimal("2400.00"))
    for id in "bc":  # one of a click that was charged, one of a click that was not
        job.duplicate(id)
    job.refund("b", amount=0, status="REJECTED")
    job.refund("c")
    assert (job.row()["click_count_net"], job.row()["total_spend_net"]) == (2, Decimal("1200.00"))


def test_a_refund_of_a_click_that_is_no_duplicate_is_netted(job: Job):
    """F20, whoever asked for it, and whenever."""
    for id in "ab":
        job.click(id, "10:01:00")
    job.refund("b", 500, refund_id="goodwill:1", timestamp="2024-01-15T18:00:00Z")
    assert (job.row()["click_count_net"], job.row()["total_spend_net"]) == (2, Decimal("1900.00"))


def test_empty_ids_are_none(job: Job):
    job.event("IMPRESSION", "i", "10:01:00", product_id="")
    job.click("a", "10:01:00", product_id=None)
    job.event("IMPRESSION", "j", "10:01:00", campaign_id="")
    [row] = job.driver.table(SQL).values()
    assert (row["product_id"], row["impression_count"], row["click_count"]) == (None, 1, 1)


def test_the_window_is_that_of_the_click(job: Job):
    job.click("a", "10:04:59.999")
    job.click("b", "10:05:00")
    job.duplicate("b")
    job.refund("b")
    assert (job.row(0)["total_spend_net"], job.row(5)["total_spend_net"]) == (Decimal("1200.00"), Decimal("0.00"))
    assert job.row(5)["roas_net"] == 0


def test_golden_trace(job: Job):
    for id, at, fields in GOLDEN:
        job.click(id, at, **fields)
    for id in ("e2", "e3", "e5"):
        job.duplicate(id)
        job.refund(id)
    names = ("click_count", "total_spend", "click_count_net", "total_spend_net")
    first, second = (tuple(job.row(minute)[name] for name in names) for minute in (30, 35))
    assert first == (4, Decimal("4900.00"), 2, Decimal("2400.00"))
    assert second == (2, Decimal("2400.00"), 1, Decimal("1200.00"))


def test_metrics_of_products(job: Job):
    example(job)
    job.duplicate("k3")
    told = job.driver.output("product-metrics").read()[-1]
    assert (told.key, told.value) == ("p", {"product_id": "p", "impressions": 200, "clicks": 3, "conversions": 1})
