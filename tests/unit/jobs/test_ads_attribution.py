"""What the description of C3 (conversion attribution) demands, value by value."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from adstream.jobs.ads.attribution import attribution
from adstream.testing import TopologyTestDriver
from tests.unit.jobs.examples import CONVERSION_EVENT

SQL = "sql-conversion_attribution_results"
MIDNIGHT = datetime(2024, 1, 15, tzinfo=UTC)


class Job:
    def __init__(self, driver: TopologyTestDriver) -> None:
        self.driver = driver
        self.clicks: dict[str, dict[str, Any]] = {}

    def click(self, id: str, at: str | datetime, **fields: Any) -> None:
        self.clicks[id] = {
            "event_id": id,
            "timestamp": moment(at),
            "device_id": "d",
            "product_id": "p",
            "campaign_id": f"of-{id}",
            "ad_id": f"ad-{id}",
            "advertiser_id": "A",
            "actual_price": 1200,
        } | fields
        self.driver.input("ad-clicks").pipe(self.clicks[id], key=self.clicks[id]["device_id"])

    def invalid(self, id: str) -> None:
        click = self.clicks[id]
        self.driver.input("invalid-clicks").pipe(click | {"kept_event_id": "?"}, key=click["device_id"])

    def conversion(self, at: str | datetime, order: str = "o", **fields: Any) -> None:
        event = {
            "timestamp": moment(at),
            "device_id": "d",
            "order_id": order,
            "product_id": "p",
            "revenue_amount": 50000,
            "conversion_type": "PURCHASE",
            "attribution_window": 24,
        } | fields
        self.driver.input("conversion-events").pipe(event, key=event["device_id"], at=event["timestamp"])

    def clock(self, at: str | datetime) -> None:
        self.click(f"clock-{at}", at, device_id="other")

    @property
    def rows(self) -> dict[Any, dict[str, Any]]:
        return self.driver.table(SQL)

    @property
    def row(self) -> dict[str, Any]:
        [row] = self.rows.values()
        return row

    def credit(self) -> tuple[Any, ...]:
        return self.row["click_event_id"], self.row["matched_by"], self.row["status"]

    def reasons(self) -> list[str]:
        return [letter.reason for letter in self.driver.dead_letters("conversion-events")]


def moment(at: str | datetime) -> str:
    return f"2024-01-15T{at}Z" if isinstance(at, str) else at.isoformat(timespec="milliseconds")


@pytest.fixture
def job() -> Iterator[Job]:
    with TopologyTestDriver(attribution, partitions=1) as driver:
        yield Job(driver)
        letters = [driver.dead_letters(t) for t in ("ad-clicks", "invalid-clicks", "conversion-events")]
        assert "callable_raised" not in [letter.reason for found in letters for letter in found]


def test_the_last_click_before_the_conversion(job: Job):
    job.click("camp100", "10:00:00")
    job.click("camp200", "11:00:00")
    job.conversion("12:00:00", "order_789")
    job.click("camp300", "13:00:00")
    assert job.rows == {
        ("order_789", "p"): {
            "order_id": "order_789",
            "product_id": "p",
            "attribution_model": "LAST_CLICK",
            "status": "FINAL",
            "conversion_type": "PURCHASE",
            "revenue_amount": Decimal("50000.00"),
            "conversion_time": MIDNIGHT + timedelta(hours=12),
            "click_event_id": "camp200",
            "click_time": MIDNIGHT + timedelta(hours=11),
            "time_to_conversion": 3600,
            "matched_by": "device",
            "ad_id": "ad-camp200",
            "campaign_id": "of-camp200",
            "advertiser_id": "A",
            "ctc_too_fast": False,
        }
    }


def test_provisional_at_once_then_final(job: Job):
    job.click("c", "10:00:00")
    job.conversion("12:00:00")
    assert job.credit() == ("c", "device", "PROVISIONAL")
    job.clock("12:59:59.999")
    assert job.credit() == ("c", "device", "PROVISIONAL")
    job.clock("13:00:00.000")
    assert job.credit() == ("c", "device", "FINAL")
    assert [r.value["status"] for r in job.driver.output("conversion-attributions").read()] == ["PROVISIONAL", "FINAL"]


def test_the_example_is_accepted(job: Job):
    job.driver.input("conversion-events").pipe(CONVERSION_EVENT, key="device_12345", at=CONVERSION_EVENT["timestamp"])
    job.clock("13:00:00")
    assert (job.row["attribution_model"], job.row["revenue_amount"]) == ("UNATTRIBUTED", Decimal("50000.00"))
    assert job.reasons() == []


@pytest.mark.parametrize(("later", "model", "seconds"), [(0, "LAST_CLICK", 86400), (1, "UNATTRIBUTED", None)])
def test_24_hours_both_ends_included(job: Job, later: int, model: str, seconds: int | None):
    job.click("c", "12:00:00")
    at = MIDNIGHT + timedelta(hours=36, milliseconds=later)
    job.conversion(at)
    job.clock(at + timedelta(hours=1))
    assert (job.row["attribution_model"], job.row["time_to_conversion"]) == (model, seconds)


def test_a_shorter_window(job: Job):
    job.click("c", "10:00:00")
    job.conversion("11:00:00", "in", attribution_window=1)
    job.conversion("11:00:00.001", "out", attribution_window=1)
    job.clock("12:00:01")
    assert {key[0]: row["click_event_id"] for key, row in job.rows.items()} == {"in": "c", "out": None}


def test_a_longer_window_is_24_hours(job: Job):
    job.click("c", "10:00:00")
    job.conversion(MIDNIGHT + timedelta(hours=35), attribution_window=48)
    job.clock(MIDNIGHT + timedelta(hours=36))
    assert job.row["attribution_model"] == "UNATTRIBUTED"


def test_at_the_moment_of_the_click(job: Job):
    job.click("c", "12:00:00")
    job.conversion("12:00:00")
    assert (job.row["click_event_id"], job.row["time_to_conversion"], job.row["ctc_too_fast"]) == ("c", 0, True)


def test_a_click_after_the_conversion_is_none(job: Job):
    job.click("c", "12:00:00.001")
    job.conversion("12:00:00")
    job.clock("13:00:00")
    assert job.row["attribution_model"] == "UNATTRIBUTED"


def test_a_click_of_the_device_comes_before_a_later_one_of_the_session(job: Job):
    job.click("device", "10:00:00", session_id="s1")
    job.click("session", "10:30:00", device_id="d2", session_id="s")
    job.conversion("12:00:00", session_id="s")
    assert job.credit() == ("device", "device", "PROVISIONAL")


def test_only_a_click_of_the_session(job: Job):
    job.click("session", "10:30:00", device_id="d2", session_id="s", user_id="u")
    job.click("user", "11:30:00", device_id="d2", session_id="s2", user_id="u")
    job.conversion("12:00:00", session_id="s", user_id="u")
    assert job.credit() == ("session", "session", "PROVISIONAL")


def test_only_a_click_of_the_user(job: Job):
    job.click("user", "10:30:00", device_id="d2", session_id="s2", user_id="u")
    job.conversion("12:00:00", session_id="s", user_id="u")
    assert job.credit() == ("user", "user", "PROVISIONAL")


@pytest.mark.parametrize("nothing", [None, ""])
def test_nothing_is_equal_to_nothing(job: Job, nothing: str | None):
    job.click("c", "10:00:00", device_id=None)
    job.conversion("12:00:00", device_id=nothing, session_id=nothing, user_id=nothing)
    job.clock("13:00:00")
    assert job.row["attribution_model"] == "UNATTRIBUTED"


def test_unattributed_only_when_final(job: Job):
    job.conversion("12:00:00")
    job.clock("12:59:59.999")
    assert job.rows == {}
    job.clock("13:00:00")
    assert (job.row["attribution_model"], job.row["status"]) == ("UNATTRIBUTED", "FINAL")


def test_an_order_that_is_sent_three_times_is_one_row(job: Job):
    job.click("c", "10:00:00")
    for _ in range(3):
        job.conversion("12:00:00", "order_789")
    job.clock("13:00:00")
    assert job.credit() == ("c", "device", "FINAL")
    assert len(job.driver.output("conversion-attributions").read()) == 2


def test_two_products_of_an_order_are_two_rows(job: Job):
    for product in "pq":
        job.click(f"c{product}", "10:00:00", product_id=product)
        job.conversion("12:00:00", "o", product_id=product)
    assert {key: row["click_event_id"] for key, row in job.rows.items()} == {("o", "p"): "cp", ("o", "q"): "cq"}


def test_another_product(job: Job):
    job.click("c", "10:00:00", product_id="q")
    job.conversion("12:00:00")
    job.clock("13:00:00")
    assert job.row["attribution_model"] == "UNATTRIBUTED"


def test_a_sign_up_has_no_revenue(job: Job):
    job.click("c", "10:00:00")
    job.conversion("12:00:00", conversion_type="SIGNUP")
    assert (job.row["click_event_id"], job.row["revenue_amount"]) == ("c", Decimal("0.00"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"revenue_amount": -1}, "bad_revenue"),
        ({"revenue_amount": None}, "bad_revenue"),
        ({"conversion_type": "REFUND"}, "bad_field:conversion_type"),
        ({"order_id": ""}, "no_order"),
        ({"product_id": None}, "no_product"),
        ({"attribution_window": 0}, "bad_window"),
        ({"attribution_window": 86400}, "bad_window"),
        ({"order_id": "o" * 257}, "id_too_long"),
    ],
)
def test_refused(job: Job, fields: dict[str, Any], reason: str):
    job.conversion("12:00:00", **fields)
    assert (job.rows, job.reasons()) == ({}, [reason])


def test_a_conversion_that_is_read_before_its_click(job: Job):
    job.conversion("12:00:00")
    job.click("c", "11:59:40")
    assert job.credit() == ("c", "device", "PROVISIONAL")


@pytest.mark.parametrize(("clock", "credited"), [("12:59:00", "late"), ("13:01:00", "early")])
def test_a_late_click_wins_within_an_hour(job: Job, clock: str, credited: str):
    job.click("early", "10:00:00")
    job.conversion("12:00:00")
    job.clock(clock)
    job.click("late", "12:00:00")
    job.clock("14:00:00")
    assert job.credit() == (credited, "device", "FINAL")
    assert len(job.driver.output("late-clicks").read()) == (credited == "early")


def test_a_late_conversion_is_set_aside(job: Job):
    job.click("c", "10:00:00")
    job.conversion("13:00:00", "other")
    job.conversion("12:00:00", "late")
    assert [key[0] for key in job.rows] == ["other"]
    [late] = job.driver.output("late-conversions").read()
    assert late.value["order_id"] == "late"


@pytest.mark.parametrize("final", [False, True])
def test_the_credit_of_a_duplicate_goes_to_the_original(job: Job, final: bool):
    job.click("original", "11:58:00")
    job.click("duplicate", "11:59:00")
    job.conversion("12:00:00")
    assert job.row["click_event_id"] == "duplicate"
    if final:
        job.clock("13:00:00")
    job.invalid("duplicate")
    assert job.credit() == ("original", "device", "FINAL" if final else "PROVISIONAL")
    assert len(job.rows) == 1


def test_the_only_click_turns_out_invalid(job: Job):
    job.click("c", "11:58:00")
    job.conversion("12:00:00")
    assert job.credit() == ("c", "device", "PROVISIONAL")
    job.invalid("c")
    assert job.credit() == (None, None, "PROVISIONAL")
    assert (job.row["attribution_model"], job.row["campaign_id"]) == ("UNATTRIBUTED", None)


def test_a_click_that_is_known_as_invalid_before_it_comes(job: Job):
    job.clicks["c"] = {"event_id": "c", "timestamp": moment("11:58:00"), "device_id": "d", "product_id": "p"}
    job.clicks["c"] |= {"advertiser_id": "A", "actual_price": 1}
    job.invalid("c")
    job.click("c", "11:58:00")
    job.conversion("12:00:00")
    job.clock("13:00:00")
    assert job.row["attribution_model"] == "UNATTRIBUTED"


def test_what_is_old_is_forgotten(job: Job):
    job.click("c", "10:00:00")
    job.conversion("12:00:00")
    job.invalid("c")
    job.clock(MIDNIGHT + timedelta(hours=44))
    job.clock(MIDNIGHT + timedelta(hours=120))
    for name in ("conversions", "orders", "waiting", "invalid"):
        assert list(job.driver.store(name).all()) == []
    assert len(list(job.driver.store("clicks").all())) == 1


def test_a_restart_and_a_crash_show_nowhere(job: Job):
    job.click("original", "11:58:00")
    job.click("duplicate", "11:59:00")
    job.driver.crash_at("before-commit")
    job.conversion("12:00:00")
    job.driver.restart()
    job.invalid("duplicate")
    job.clock("13:00:00")
    assert job.credit() == ("original", "device", "FINAL")
