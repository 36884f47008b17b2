"""What the description of C1 (RTB ranking) demands, value by value. The reserve is 100."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from adstream.jobs.ads.ranking import ranking
from adstream.testing import TopologyTestDriver
from tests.unit.jobs.examples import CAMPAIGN_EVENT

REDIS = "redis-hash-rtb"
HOME, SEARCH = ("HOME", "electronics"), ("SEARCH", "electronics")


class Job:
    def __init__(self, driver: TopologyTestDriver) -> None:
        self.driver = driver
        self.clock = 0

    def campaign(self, id: str, at: str | None = None, **fields: Any) -> None:
        self.clock += 1
        event = CAMPAIGN_EVENT | {
            "campaign_id": id,
            "advertiser_id": f"of-{id}",
            "product_id": f"p{id}",
            "timestamp": at or f"2024-01-15T10:00:{self.clock:02}Z",
        }
        self.driver.input("campaign-events").pipe(event | fields, key="HOME,electronics")

    def status(self, id: str, status: str, at: str | None = None, **fields: Any) -> None:
        """As the ledger writes it: only what changes."""
        self.clock += 1
        event = {"event_type": "CAMPAIGN_STATUS_CHANGED", "campaign_id": id, "status": status}
        event["timestamp"] = at or f"2024-01-15T10:00:{self.clock:02}Z"
        self.driver.input("campaign-events").pipe(event | fields, key="HOME,electronics")

    def product(self, id: str, ctr: Any = None, cvr: Any = None, price: Any = None, **counts: int) -> None:
        at = "2024-01-15T09:00:00Z"
        if ctr is not None or counts:
            rates = {"product_id": f"p{id}", "ctr": ctr, "cvr": cvr} | counts
            self.driver.input("product-metrics").pipe(rates, key=f"p{id}", at=at)
        if price is not None:
            meta = {"product_id": f"p{id}", "product_price": price}
            self.driver.input("product-meta-data").pipe(meta, key=f"p{id}", at=at)

    def abc(self) -> None:
        self.product("A", 0.01, 0.005, 1_000_000)
        self.product("B", 0.02, 0.01, 300_000)
        self.product("C", 0.005, 0.002, 50_000)
        for id, bid in (("A", 1500), ("B", 1200), ("C", 3000)):
            self.campaign(id, bid_price=bid)

    def lines(self, where: tuple[str, str] = HOME) -> list[dict[str, str]]:
        row = self.driver.table(REDIS).get(where)
        return [] if row is None else json.loads(row["ranking_list"])

    def prices(self, where: tuple[str, str] = HOME) -> list[tuple[str, str]]:
        return [(line["campaign_id"], line["actual_price"]) for line in self.lines(where)]

    def ids(self, where: tuple[str, str] = HOME) -> list[str]:
        return [line["campaign_id"] for line in self.lines(where)]

    def reasons(self, topic: str = "campaign-events") -> list[str]:
        return [letter.reason for letter in self.driver.dead_letters(topic)]


@pytest.fixture
def job() -> Iterator[Job]:
    with TopologyTestDriver(ranking, partitions=2, wall_clock="2024-01-15T10:00:00Z") as driver:
        yield Job(driver)
        assert "callable_raised" not in [
            letter.reason
            for topic in ("campaign-events", "product-metrics", "product-meta-data")
            for letter in driver.dead_letters(topic)
        ]


def settle(job: Job) -> None:
    """Timers are looked at when a task commits."""
    job.driver.advance_wall_clock("1s")


def test_order_and_prices(job: Job):
    job.abc()
    settle(job)
    assert job.lines() == [
        {
            "campaign_id": id,
            "advertiser_id": f"of-{id}",
            "product_id": f"p{id}",
            "bid_price": bid,
            "score": score,
            "actual_price": price,
        }
        for id, bid, score, price in [
            ("B", "1200.00", "30.000000", "700.00"),
            ("A", "1500.00", "20.000000", "1005.00"),
            ("C", "3000.00", "15.050000", "100.00"),
        ]
    ]
    assert job.driver.table(REDIS)[HOME]["total_campaigns"] == 3


def test_the_example_is_accepted(job: Job):
    job.driver.input("campaign-events").pipe(CAMPAIGN_EVENT, key="HOME,electronics")
    settle(job)
    assert (job.ids(), job.reasons()) == (["campaign_100"], [])


def test_unknown_metrics_have_the_prior(job: Job):
    job.product("A", price=1_000_000)
    job.campaign("A")
    settle(job)
    assert [line["score"] for line in job.lines()] == ["20.000000"]


def test_a_missing_price_counts_as_nothing(job: Job):
    job.campaign("A")
    settle(job)
    assert [line["score"] for line in job.lines()] == ["15.000000"]


@pytest.mark.parametrize("rates", [(2.0, 0.01), (0.02, 1.01), (-0.1, 0.01)])
def test_per_cent_are_refused_and_what_was_known_stays(job: Job, rates: tuple[float, float]):
    job.product("A", 0.02, 0.01, 300_000)
    job.campaign("A", bid_price=1200)
    job.product("A", *rates)
    settle(job)
    assert job.reasons("product-metrics") == ["bad_rate"]
    assert [line["score"] for line in job.lines()] == ["30.000000"]


@pytest.mark.parametrize(
    ("clicks", "impressions", "score"),
    [(0, 0, "15.000000"), (1, 2, "16.467066"), (0, 10, "14.851485"), (300, 10000, "42.272728")],
)
def test_counts_are_smoothed(job: Job, clicks: int, impressions: int, score: str):
    job.product("A", clicks=clicks, impressions=impressions, conversions=0)
    job.campaign("A", bid_price=1500)
    settle(job)
    [line] = job.lines()
    assert abs(float(line["score"]) - float(score)) < 1e-5


@pytest.mark.parametrize("bid", [0, -1, None])
def test_a_bad_bid_is_refused_and_the_previous_kept(job: Job, bid: object):
    job.abc()
    job.campaign("B", event_type="CAMPAIGN_UPDATED", bid_price=bid)
    settle(job)
    assert job.reasons() == ["bad_bid"]
    assert job.prices()[0] == ("B", "700.00")


def test_paused_leaves_the_list_and_the_next_price_stays(job: Job):
    job.abc()
    settle(job)
    job.status("B", "PAUSED")
    assert job.prices() == [("A", "1005.00"), ("C", "100.00")]


def test_deleted_twice_is_deleted(job: Job):
    job.abc()
    settle(job)
    for _ in range(2):
        job.status("B", "DELETED")
    assert job.ids() == ["A", "C"]


def test_a_campaign_that_moves_leaves_its_old_list(job: Job):
    job.abc()
    settle(job)
    job.campaign("B", event_type="CAMPAIGN_UPDATED", bid_price=1200, placement="SEARCH")
    assert (job.ids(), job.ids(SEARCH)) == (["A", "C"], ["B"])


def test_older_events_change_nothing(job: Job):
    job.campaign("A", "2024-01-15T10:05:00Z", bid_price=2000)
    job.campaign("A", "2024-01-15T10:00:00Z", bid_price=1000, status="PAUSED")
    settle(job)
    assert [line["bid_price"] for line in job.lines()] == ["2000.00"]


def test_of_one_time_the_larger_event_id_wins(job: Job):
    for id, bid in (("b", 2000), ("a", 1000)):
        job.campaign("A", "2024-01-15T10:05:00Z", event_id=id, bid_price=bid)
    settle(job)
    assert [line["bid_price"] for line in job.lines()] == ["2000.00"]


def test_a_status_that_comes_before_its_campaign(job: Job):
    job.status("A", "PAUSED", "2024-01-15T10:05:00Z")
    job.campaign("A", "2024-01-15T10:00:00Z")
    settle(job)
    assert job.ids() == []


def test_effective_from_needs_no_event(job: Job):
    job.campaign("A", effective_from="2024-01-15T11:00:00Z")
    job.driver.advance_wall_clock("59m59s999ms")
    assert job.ids() == []
    job.driver.advance_wall_clock("1ms")
    assert job.ids() == ["A"]


def test_a_restart_forgets_no_timer(job: Job):
    job.campaign("A", effective_from="2024-01-15T11:00:00Z")
    job.driver.restart()
    job.driver.advance_wall_clock("1h")
    assert job.ids() == ["A"]


@pytest.mark.parametrize("approval", [None, "PENDING", "REJECTED"])
def test_without_approval_it_is_absent(job: Job, approval: object):
    job.campaign("A", approval_status=approval)
    settle(job)
    assert job.ids() == []
    job.campaign("A", event_type="CAMPAIGN_APPROVED")
    settle(job)
    assert job.ids() == ["A"]


def test_equal_scores_have_one_order(job: Job):
    for id, since in (("A", "02"), ("B", "01"), ("C", "02")):
        job.campaign(id, effective_from=f"2024-01-{since}T00:00:00Z")
    settle(job)
    assert job.ids() == ["B", "A", "C"]


def test_the_last_one_leaves_an_empty_list(job: Job):
    job.campaign("A")
    settle(job)
    job.status("A", "DELETED")
    row = job.driver.table(REDIS)[HOME]
    assert (row["total_campaigns"], row["ranking_list"]) == (0, "[]")


def test_new_metrics_rank_anew(job: Job):
    job.abc()
    settle(job)
    before = job.driver.table(REDIS)[HOME]["version"]
    job.product("A", 0.05, 0.005)
    assert job.ids() == ["A", "B", "C"]
    assert job.driver.table(REDIS)[HOME]["version"] > before


def test_a_bid_below_the_reserve_is_absent(job: Job):
    job.campaign("A", bid_price="99.99")
    settle(job)
    assert job.ids() == []


def test_who_is_held_by_the_ledger_comes_back_only_if_it_is_active(job: Job):
    job.abc()
    settle(job)
    job.status("A", "PAUSED", reason="BUDGET")
    job.status("B", "PAUSED", reason="BUDGET")
    job.status("B", "DELETED")
    assert job.ids() == ["C"]
    job.status("A", "ACTIVE", reason="BUDGET")
    job.status("B", "ACTIVE", reason="BUDGET")
    assert job.ids() == ["A", "C"]


def test_the_newest_word_of_the_ledger_holds_whatever_its_reason(job: Job):
    """It says PAUSED for the first reason, and ACTIVE when the last is gone."""
    job.campaign("A")
    settle(job)
    job.status("A", "PAUSED", reason="BUDGET")
    assert job.ids() == []
    job.status("A", "ACTIVE", reason="BALANCE")
    assert job.ids() == ["A"]
    job.status("A", "PAUSED", "2024-01-15T10:00:00Z", reason="BUDGET")
    assert job.ids() == ["A"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"event_type": "CAMPAIGN_CREATE"}, "bad_field:event_type"),
        ({"status": "RUNNING"}, "bad_field:status"),
        ({"placement": "FOOTER"}, "bad_field:placement"),
        ({"placement": None}, "no_placement"),
        ({"category": ""}, "no_category"),
        ({"campaign_id": ""}, "no_campaign"),
        ({"campaign_id": None}, "no_campaign"),
        ({"timestamp": 1705314615}, "bad_field:timestamp"),
        ({"bid_price": "12.345"}, "bad_field:bid_price"),
    ],
)
def test_refused(job: Job, fields: dict[str, Any], reason: str):
    job.driver.input("campaign-events").pipe(CAMPAIGN_EVENT | fields, at="2024-01-15T10:00:00Z")
    settle(job)
    assert (job.ids(), job.reasons()) == ([], [reason])


def test_categories_of_any_text(job: Job):
    job.campaign("A", category="전자제품/컴퓨터")
    settle(job)
    assert job.ids(("HOME", "전자제품/컴퓨터")) == ["A"]


def test_a_crash_shows_nowhere(job: Job):
    job.driver.crash_at("before-commit", commits=3)
    job.abc()
    settle(job)
    job.driver.restart()
    job.status("B", "PAUSED")
    assert job.prices() == [("A", "1005.00"), ("C", "100.00")]
