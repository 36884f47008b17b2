"""What the description of C2 (campaign performance) demands, value by value, of the job itself.

The window is [10:00, 10:05) of 2024-01-15, its grace 10 s: it closes when the clock reaches 10:05:10.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from adstream.jobs.ads.performance import performance
from adstream.testing import TopologyTestDriver

SQL = "sql-ad_performance_metrics_realtime"
REDIS = "redis-hash-product-metrics"
NOON = datetime(2024, 1, 15, 10, tzinfo=UTC)
KEY = ("c1", "p1", "MAIN", NOON)


class Job:
    """The job on one partition, where time is simplest."""

    def __init__(self, driver: TopologyTestDriver) -> None:
        self.driver = driver
        self.events = driver.input("ad-events")
        self.number = 0

    def send(self, event_type: str, at: str, **fields: Any) -> None:
        self.number += 1
        event = {
            "event_id": f"e{self.number}",
            "event_type": event_type,
            "device_id": "d1",
            "campaign_id": "c1",
            "product_id": "p1",
            "placement": "MAIN",
        }
        self.events.pipe(event | fields, at=f"2024-01-15T{at}Z")

    def impressions(self, n: int, at: str = "10:00:01", **fields: Any) -> None:
        for _ in range(n):
            self.send("IMPRESSION", at, **fields)

    def click(self, at: str = "10:01:00", price: Any = "1200.00", **fields: Any) -> None:
        self.send("CLICK", at, actual_price=price, **fields)

    def conversion(self, at: str = "10:02:00", revenue: Any = "50000.00", **fields: Any) -> None:
        self.send("CONVERSION", at, revenue_amount=revenue, **fields)

    def clock(self, at: str) -> None:
        """Somebody else's event moves time on."""
        self.send("IMPRESSION", at, campaign_id="other", product_id="other")

    @property
    def rows(self) -> dict[Any, dict[str, Any]]:
        return self.driver.table(SQL)

    @property
    def row(self) -> dict[str, Any]:
        return self.rows[KEY]

    def reasons(self) -> list[str]:
        return [letter.reason for letter in self.driver.dead_letters("ad-events")]


@pytest.fixture
def job() -> Iterator[Job]:
    with TopologyTestDriver(performance, partitions=1) as driver:
        yield Job(driver)


def example(job: Job) -> None:
    job.impressions(200)
    for _ in range(4):
        job.click()
    job.conversion()


# --- The numbers ------------------------------------------------------------------------------------------------------


def test_200_impressions_4_clicks_1_conversion(job: Job) -> None:
    example(job)
    assert job.row == {
        "campaign_id": "c1",
        "product_id": "p1",
        "placement": "MAIN",
        "metric_time": NOON,
        "impression_count": 200,
        "click_count": 4,
        "conversion_count": 1,
        "total_spend": Decimal("4800.00"),
        "total_revenue": Decimal("50000.00"),
        "ctr": 2.0,
        "cvr": 25.0,
        "roas": Decimal("10.416667"),
        "ctr_undefined": False,
        "updated_at": datetime(2024, 1, 15, 10, 2, tzinfo=UTC),
    }


def test_the_closed_window_is_written_once(job: Job) -> None:
    example(job)
    job.clock("10:05:09.999")
    assert job.driver.output("ad-performance").read() == []
    job.clock("10:05:10")
    (record,) = job.driver.output("ad-performance").read()
    assert record.key == ("c1", "p1", "MAIN")
    assert record.value is not None
    assert (record.value["metric_time"], record.value["roas"]) == ("2024-01-15T10:00:00.000Z", "10.416667")
    assert (record.value["total_spend"], record.value["ctr"]) == ("4800.00", 2.0)
    job.clock("10:30:00")
    assert [r.key for r in job.driver.output("ad-performance").read()] == [("other", "other", "MAIN")]


def test_redis_holds_fractions_not_per_cent(job: Job) -> None:
    example(job)
    assert job.driver.table(REDIS)["p1"] == {
        "product_id": "p1",
        "impressions": 200,
        "clicks": 4,
        "conversions": 1,
        "ctr": 0.02,
        "cvr": 0.25,
    }


def test_redis_runs_over_all_windows_and_leaves_out_what_is_late(job: Job) -> None:
    example(job)
    job.impressions(100, "10:06:00", placement="SIDE")
    job.clock("10:05:10")
    job.click("10:04:00")
    redis = job.driver.table(REDIS)["p1"]
    assert (redis["impressions"], redis["clicks"]) == (300, 4)
    assert job.driver.late == 1


# --- Windows ----------------------------------------------------------------------------------------------------------


def test_a_click_in_the_last_millisecond_is_in_and_the_next_one_is_not(job: Job) -> None:
    job.click("10:04:59.999", "1.00")
    job.click("10:05:00.000", "2.00")
    assert {key[3]: row["total_spend"] for key, row in job.rows.items()} == {
        NOON: Decimal("1.00"),
        datetime(2024, 1, 15, 10, 5, tzinfo=UTC): Decimal("2.00"),
    }


def test_metric_time_is_the_windows_start(job: Job) -> None:
    job.click("10:04:59.999")
    assert job.row["metric_time"] == NOON


def test_updated_at_is_the_newest_event_time_in_the_row(job: Job) -> None:
    job.click("10:04:00")
    job.click("10:01:00")
    job.clock("10:04:30")
    assert job.row["updated_at"] == datetime(2024, 1, 15, 10, 4, tzinfo=UTC)


def test_clicks_without_impressions_are_marked(job: Job) -> None:
    job.click()
    assert (job.row["impression_count"], job.row["click_count"], job.row["ctr"]) == (0, 1, 0.0)
    assert job.row["ctr_undefined"] is True
    assert (job.row["cvr"], job.row["roas"]) == (0.0, Decimal("0.000000"))


def test_nothing_spent_is_a_roas_of_zero(job: Job) -> None:
    job.conversion()
    assert (job.row["roas"], job.row["cvr"], job.row["ctr_undefined"]) == (Decimal("0.000000"), 0.0, False)


# --- Late -------------------------------------------------------------------------------------------------------------


def test_9_s_after_the_windows_end_still_counts(job: Job) -> None:
    job.impressions(1)
    job.clock("10:05:09")
    job.click("10:04:59")
    assert job.row["click_count"] == 1
    assert job.driver.late == 0


def test_11_s_after_the_windows_end_is_late(job: Job) -> None:
    job.impressions(1)
    job.clock("10:05:11")
    job.click("10:04:59", event_id="late one")
    assert job.row["click_count"] == 0
    (record,) = job.driver.output("ad-performance-late").read()
    assert record.value is not None
    assert (record.value["event_id"], record.value["actual_price"]) == ("late one", "1200.00")
    assert job.driver.counters()["gross"]["late"] == 1


def test_a_longer_grace_takes_it(job: Job) -> None:
    with TopologyTestDriver(performance, partitions=1, grace="30s") as driver:
        patient = Job(driver)
        patient.clock("10:05:11")
        patient.click("10:04:59")
        assert patient.row["click_count"] == 1


# --- What does not count ----------------------------------------------------------------------------------------------


def test_a_repeated_event_id_changes_nothing(job: Job) -> None:
    job.click(event_id="same")
    before = job.row
    job.click(event_id="same")
    assert job.row == before
    assert job.driver.counters()["deduplicate-1"]["repeated"] == 1


def test_without_an_id_the_same_bytes_are_the_same_event(job: Job) -> None:
    for price in ("1.00", "1.00", "2.00"):
        job.click(price=price, event_id=None)
    assert (job.row["click_count"], job.row["total_spend"]) == (2, Decimal("3.00"))
    assert job.reasons() == []


@pytest.mark.parametrize("price", [-1, None, "-0.01"])
def test_a_click_without_a_price_of_at_least_zero_is_a_dead_letter(job: Job, price: Any) -> None:
    job.click(price=price)
    assert job.reasons() == ["bad_price"]
    assert job.rows == {}


def test_a_free_click_counts(job: Job) -> None:
    job.click(price=0)
    assert (job.row["click_count"], job.row["total_spend"]) == (1, Decimal("0.00"))


def test_a_conversion_without_revenue_is_a_dead_letter(job: Job) -> None:
    job.conversion(revenue=None)
    assert job.reasons() == ["bad_revenue"]


def test_an_impression_needs_no_price(job: Job) -> None:
    job.impressions(1, actual_price=-1)
    assert job.row["impression_count"] == 1


@pytest.mark.parametrize("campaign", [None, ""])
def test_without_a_campaign_an_event_is_dropped_and_counted(job: Job, campaign: str | None) -> None:
    job.impressions(3, campaign_id=campaign)
    assert job.rows == {}
    assert sum(reasons.get("filtered:no_campaign", 0) for reasons in job.driver.counters().values()) == 3
    assert job.reasons() == []


def test_an_empty_event_id_is_none(job: Job) -> None:
    """All events that have one would be copies of the first."""
    job.impressions(2, event_id="")
    assert job.rows == {}
    assert job.reasons() == ["no_event_id"] * 2


def test_what_has_no_campaign_does_not_move_time(job: Job) -> None:
    job.impressions(1, "10:30:00", campaign_id=None)
    job.click("10:04:59")
    assert job.row["click_count"] == 1


def test_the_dead_letter_is_the_record_as_it_came(job: Job) -> None:
    job.events.pipe(b'{"event_type": "CLICK"', key="d1", at=5, headers=[("trace", b"7")])
    (letter,) = job.driver.dead_letters("ad-events")
    assert (letter.reason, letter.value, letter.key) == ("malformed_json", b'{"event_type": "CLICK"', b"d1")
    assert (letter.partition, letter.offset, letter.timestamp) == (0, 0, 5)
    assert letter.headers == (("trace", b"7"),)


# --- The ledger -------------------------------------------------------------------------------------------------------


def mixture(driver: TopologyTestDriver) -> int:
    """Events of every fate on every partition; how many."""
    events, sent = driver.input("ad-events"), 0
    kinds = [
        {"event_type": "IMPRESSION"},
        {"event_type": "CLICK", "actual_price": "0.10"},
        {"event_type": "CLICK", "actual_price": None},
        {"event_type": "CLICK", "actual_price": "0.20", "campaign_id": None},
        {"event_type": "CONVERSION", "revenue_amount": "3.30"},
        {"event_type": "VIEW"},
        {"event_type": "IMPRESSION", "event_id": "again"},
    ]
    for i in range(120):
        kind = kinds[i % len(kinds)]
        minute, second = divmod((i * 37) % 900, 60)
        event = {"event_id": f"e{i}", "campaign_id": f"c{i % 3}", "product_id": f"p{i % 2}", "placement": None} | kind
        at = f"2024-01-15T10:{minute:02}:{second:02}Z"
        events.pipe(event, key=f"d{i}", partition=i % driver.partitions["ad-events"], at=at)
        sent += 1
    for p in range(driver.partitions["ad-events"]):
        event = {"event_id": f"end{p}", "event_type": "IMPRESSION", "campaign_id": "end", "product_id": "p0"}
        events.pipe(event, key="end", partition=p, at="2024-01-15T11:00:00Z")
        events.pipe(b"no json", partition=p)
        sent += 2
    return sent


@pytest.mark.parametrize("partitions", [1, 2, 4])
def test_the_ledger_of_disjoint_ends_closes(partitions: int) -> None:
    """read = passed + filtered + repeated + dead, and passed = counted + late: from the topics, which no counter
    made; dropped rows, which leave no record, are what is left over, and equal the counters'."""
    with TopologyTestDriver(performance, partitions=partitions, commit_every=7) as driver:
        sent = mixture(driver)
        read = len(driver.output("ad-events").read_raw())
        dead = len(driver.output("ad-events-dlq").read_raw())
        late = len(driver.output("ad-performance-late").read_raw())
        finals = [r.value or {} for r in driver.output("ad-performance").read()]
        of_type = ("impression_count", "click_count", "conversion_count")
        closed = sum(row[name] for row in finals for name in of_type)
        still_open = sum(row[n] for key, row in driver.table(SQL).items() if key[0] == "end" for n in of_type)
        counted = closed + still_open
        assert counted == sum(row[name] for row in driver.table(SQL).values() for name in of_type)

        reasons: Counter[str] = Counter()
        for found in driver.counters().values():
            reasons.update(found)
        filtered, repeated = reasons["filtered:no_campaign"], reasons["repeated"]
        assert read == sent
        assert read - dead - (counted + late) == filtered + repeated
        assert (reasons["read"], reasons["late"]) == (read, late)
        assert sum(n for reason, n in reasons.items() if reason.startswith("dead:")) == dead
        # By construction: who is dead, who has no campaign.
        assert dead == sum(1 for i in range(120) if i % 7 in (2, 5)) + partitions
        assert filtered == sum(1 for i in range(120) if i % 7 == 3)
        assert late > 0
        assert repeated > 0


def test_spend_over_all_windows_is_the_sum_of_what_clicks_cost() -> None:
    with TopologyTestDriver(performance, partitions=3, grace="1h") as driver:
        mixture(driver)
        spend = sum(row["total_spend"] for row in driver.table(SQL).values())
        assert spend == sum(1 for i in range(120) if i % 7 == 1) * Decimal("0.10")


@pytest.mark.parametrize("options", [{"batch_rows": 1}, {"pipelined": True}, {"seed": 3}])
def test_the_ledger_does_not_know_how_it_was_run(options: dict[str, Any]) -> None:
    def answer(**options: Any) -> Any:
        with TopologyTestDriver(performance, partitions=4, commit_every=5, **options) as driver:
            mixture(driver)
            finals = sorted(map(repr, driver.output("ad-performance").read()))
            return driver.table(SQL), driver.table(REDIS), finals, driver.counters()

    assert answer(**options) == answer()
