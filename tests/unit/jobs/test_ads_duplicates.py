"""What the description of C4 (duplicate clicks) demands, value by value."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from adstream.jobs.ads.duplicates import duplicates
from adstream.testing import TopologyTestDriver

DAY = datetime(2024, 1, 15, tzinfo=UTC)


class Job:
    def __init__(self, driver: TopologyTestDriver) -> None:
        self.driver = driver
        self.number = 0

    def click(self, at: str, id: str | None = None, price: int = 1200, **fields: Any) -> str:
        self.number += 1
        row = {
            "event_id": id or f"e{self.number}",
            "device_id": "d1",
            "ad_id": "ad1",
            "campaign_id": "c100",
            "advertiser_id": "A50",
            "product_id": "p1",
            "actual_price": price,
        } | fields
        self.driver.input("ad-clicks").pipe(row, key=row["device_id"], at=f"2024-01-15T{at}Z")
        return str(row["event_id"])

    def clock(self, at: str = "23:00:00") -> None:
        """Others click later: what was held back leaves."""
        self.click(at, device_id="other", ad_id=f"other-{self.number}")

    def refunds(self) -> list[dict[str, Any]]:
        return [record.value for record in self.driver.output("compensation-events").read()]

    def ids(self) -> list[str]:
        return sorted(refund["event_id"] for refund in self.refunds())


@pytest.fixture
def job() -> Iterator[Job]:
    with TopologyTestDriver(duplicates, partitions=1) as driver:
        yield Job(driver)


def total(refunds: list[dict[str, Any]]) -> float:
    return sum(float(refund["refund_amount"]) for refund in refunds)


def test_three_clicks_in_seven_seconds_refund_2400(job: Job):
    for at in ("10:30:15", "10:30:18", "10:30:22"):
        job.click(at)
    job.clock()
    refunds = job.refunds()
    assert total(refunds) == 2400
    assert [refund["refund_id"] for refund in refunds] == ["dup:e2", "dup:e3"]
    told = job.driver.output("duplicate-clicks").read()[-1]
    assert told.key == "A50"
    assert told.value == {
        "advertiser_id": "A50",
        "campaign_id": "c100",
        "ad_id": "ad1",
        "device_id": "d1",
        "kept_event_id": "e1",
        "duplicate_click_count": 3,
        "refund_amount": "2400.00",
        "original_click_timestamps": [f"2024-01-15T10:30:{s}.000Z" for s in (15, 18, 22)],
        "timestamp": "2024-01-15T10:35:00.000Z",
        "detection_window": "5_MINUTES",
        "reason": "DUPLICATE_CLICK_DETECTED",
        "compensation_type": "BALANCE_REFUND",
    }


def test_a_refund_says_what_it_is_of(job: Job):
    job.click("10:30:15")
    job.click("10:30:18")
    job.clock()
    [record] = job.driver.output("compensation-events").read()
    assert record.key == "A50"
    assert record.value == {
        "timestamp": "2024-01-15T10:30:18.000Z",
        "event_id": "e2",
        "advertiser_id": "A50",
        "campaign_id": "c100",
        "ad_id": "ad1",
        "device_id": "d1",
        "kept_event_id": "e1",
        "refund_id": "dup:e2",
        "refund_amount": "1200.00",
        "reason": "DUPLICATE_CLICK_DETECTED",
        "compensation_type": "BALANCE_REFUND",
    }
    [invalid] = job.driver.output("invalid-clicks").read()
    assert (invalid.key, invalid.value["event_id"], invalid.value["product_id"]) == ("d1", "e2", "p1")


def test_across_the_border_of_five_minutes(job: Job):
    job.click("10:34:59")
    job.click("10:35:01")
    job.clock()
    assert total(job.refunds()) == 1200


@pytest.mark.parametrize(("second", "found"), [("10:35:00.000", []), ("10:34:59.999", ["e2"])])
def test_300_seconds_later_is_a_new_click(job: Job, second: str, found: list[str]):
    job.click("10:30:00")
    job.click(second)
    job.clock()
    assert job.ids() == found


def test_the_refund_is_the_price_of_the_duplicate(job: Job):
    job.click("10:30:00", price=1200)
    job.click("10:30:05", price=1300)
    job.clock()
    assert total(job.refunds()) == 1300


def test_the_window_is_anchored_at_the_kept_click(job: Job):
    job.click("10:00:00")
    job.click("10:04:59")
    job.click("10:09:58")
    job.clock()
    assert job.ids() == ["e2"]


@pytest.mark.parametrize("order", list(permutations((15, 18, 22))))
def test_any_order_within_grace(job: Job, order: tuple[int, ...]):
    for second in order:
        job.click(f"10:30:{second}", f"at{second}")
    job.clock()
    assert job.ids() == ["at18", "at22"]


def test_of_equal_times_the_smaller_id_is_kept(job: Job):
    job.click("10:30:15", "b")
    job.click("10:30:15", "a")
    job.clock()
    assert job.ids() == ["b"]


def test_a_third_click_after_the_first_refund_is_one_more_refund(job: Job):
    job.click("10:30:15")
    job.click("10:30:18")
    job.click("10:31:30", device_id="other")
    assert job.ids() == ["e2"]
    job.click("10:31:40", "third")
    job.clock()
    assert job.ids() == ["third"]


@pytest.mark.parametrize("device", [None])
def test_clicks_without_a_device_are_no_duplicates(job: Job, device: None):
    job.click("10:30:15", device_id=device)
    job.click("10:30:18", device_id=device)
    job.clock()
    assert job.refunds() == []
    assert {"filtered:no_device": 2} in job.driver.counters().values()


def test_10000_clicks_of_a_device_in_a_second_are_one(job: Job):
    rows = [
        {"event_id": f"e{i:05}", "device_id": "d", "ad_id": "a", "advertiser_id": "A", "actual_price": 1}
        for i in range(10_000)
    ]
    for row in rows:
        row["timestamp"] = (DAY + timedelta(hours=10, milliseconds=hash_of(row["event_id"]))).isoformat()
    job.driver.input("ad-clicks").pipe_many(rows, key="d")
    job.clock()
    assert len(job.refunds()) == 9_999


def hash_of(text: str) -> int:
    """A place in a second."""
    return int(text[1:]) * 7919 % 1000


def test_late_by_more_than_grace_is_still_refunded(job: Job):
    job.click("10:30:15", "kept")
    job.click("10:40:00", device_id="other")  # the clock is past the grace
    job.click("10:35:14.999", "late")
    job.click("10:25:15.001", "late and before")
    job.click("10:35:15", "late and new")
    job.click("10:25:15", "late and old")
    job.click("10:41:00", device_id="other", ad_id="more")
    assert job.ids() == ["late", "late and before"]


def test_late_beside_two_kept_clicks_is_one_refund(job: Job):
    job.click("10:30:00")
    job.click("10:35:00")
    job.click("10:45:00", device_id="other")
    job.click("10:33:00", "late")
    job.click("10:46:00", device_id="other", ad_id="more")
    assert job.ids() == ["late"]


@pytest.mark.parametrize("again", ["10:30:20", "12:00:00"])
def test_a_click_that_comes_again_is_no_duplicate_of_itself(job: Job, again: str):
    """`ads.clicks` forgets an event after an hour, and knows nothing of copies on other partitions."""
    for id in ("e1", "e2"):
        job.click("10:30:15", id)
    job.click(again, device_id="other", ad_id="x")
    for id in ("e1", "e2", "e1"):
        job.click("10:30:15", id)
    job.clock()
    assert job.ids() == ["e2"]
    assert [r.value["event_id"] for r in job.driver.output("invalid-clicks").read()] == ["e2"]


def test_another_ad_or_device_is_another_click(job: Job):
    job.click("10:30:00")
    job.click("10:30:01", ad_id="ad2")
    job.click("10:30:02", device_id="d2")
    job.clock()
    assert job.ids() == []


def test_golden_trace(job: Job):
    for id, at, fields in GOLDEN:
        job.click(at, id, **fields)
    job.clock()
    assert job.ids() == ["e2", "e3", "e5"]


GOLDEN: list[tuple[str, str, dict[str, Any]]] = [
    ("e1", "10:30:15", {}),
    ("e2", "10:30:18", {}),
    ("e3", "10:30:22", {"price": 1300}),
    ("e4", "10:34:59", {"device_id": "d2"}),
    ("e5", "10:35:01", {"device_id": "d2"}),
    ("e6", "10:35:15", {}),
    ("e7", "11:00:00", {"ad_id": "ad2", "campaign_id": "c200", "price": 900}),
    ("e8", "11:00:00", {"ad_id": "ad2", "device_id": None, "price": 900}),
    ("e9", "12:30:00", {"ad_id": "ad3", "campaign_id": "c300", "price": 700}),
]
