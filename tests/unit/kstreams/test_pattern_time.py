"""Patterns by the clock: processing time, time-outs without a further event, and what is refused of both. What is matched in
processing time: `tests/differential/cep`."""

from __future__ import annotations

from typing import Any

import pytest

import adstream as ads
from adstream import Pattern, TopologyError, col
from adstream.testing import TopologyTestDriver

TEXT = ads.serdes.string
PAIR = Pattern.begin("a").where(col("t") == "a").followed_by("b").where(col("t") == "b").within("10s")
SILENT = Pattern.begin("a").where(col("t") == "a").not_followed_by("b").where(col("t") == "b").within("10s")


def driver_of(pattern: Pattern, rows: bool = False, **options: Any) -> TopologyTestDriver:
    class Event(ads.Record):
        k: str
        t: str

    def build(app: ads.App) -> None:
        if rows:
            of_rows = app.stream("in", schema=Event).group_by("k").match(pattern, name="runs", **options)
            chosen = {"k": col("k"), "n": ads.matched("a").count()}
            of_rows.select(**chosen).to("out")
            of_rows.timed_out.select(**chosen).to("gone")
            of_rows.late.to("late")
            return
        found = app.stream("in", key=TEXT).group_by_key().match(pattern, materialized="runs-store", **options)
        found.matches.to("out", key=TEXT)
        found.timed_out.to("gone", key=TEXT)
        found.late.to("late", key=TEXT)

    return TopologyTestDriver(ads.topology(name="app")(build), partitions=1, wall_clock=1_000_000)


def pipe(driver: TopologyTestDriver, rows: bool, letter: str, at: int) -> None:
    value = {"t": letter, "k": "k"}
    driver.input("in").pipe(value, **({} if rows else {"key": "k"}), at=at)


def times(driver: TopologyTestDriver, topic: str) -> list[int]:
    return [r.timestamp for r in driver.output(topic).read()]


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_time_goes_on_with_the_clock_where_nothing_comes(rows: bool, restart: bool) -> None:
    with driver_of(PAIR, rows, max_delay="2s", idle="30s") as driver:
        pipe(driver, rows, "a", 5_000)
        driver.run()
        for _ in range(2):
            driver.advance_wall_clock("10s")
            if restart:
                driver.restart()
        # Nothing of it has been looked at: the watermark has not passed it.
        assert [c.waiting for c in driver.patterns("runs-store").values()] == [1]
        driver.advance_wall_clock("10s")
        # Time is 5 s + 30 s now: the event was looked at, and its window is over.
        assert times(driver, "gone") == [15_000]
        assert driver.patterns("runs-store") == {}
        # What comes now is behind; time is held by what came, no more by the clock.
        pipe(driver, rows, "b", 32_999)
        pipe(driver, rows, "a", 33_000)
        pipe(driver, rows, "b", 36_000)
        assert times(driver, "late") == [32_999]
        driver.advance_wall_clock("29s")
        assert times(driver, "out") == []
        driver.advance_wall_clock("1s")
        assert times(driver, "out") == [36_000]


def test_absence_is_told_without_a_further_event() -> None:
    with driver_of(SILENT, max_delay="0s", idle="1s") as driver:
        pipe(driver, False, "a", 5_000)
        driver.run()
        driver.advance_wall_clock("9s")
        assert times(driver, "out") == []
        driver.advance_wall_clock("2s")
        # Time is 16 s, and its window ended at 15.
        assert times(driver, "out") == [15_999]


def test_without_idle_a_silent_task_waits() -> None:
    with driver_of(PAIR, max_delay="0s") as driver:
        pipe(driver, False, "a", 5_000)
        driver.run()
        driver.advance_wall_clock("1d")
        assert times(driver, "gone") == []


@pytest.mark.parametrize("rows", [False, True])
def test_in_processing_time_the_clock_ends_windows(rows: bool) -> None:
    with driver_of(PAIR, rows, time="processing") as driver:
        pipe(driver, rows, "a", 77)
        driver.run()
        driver.advance_wall_clock("9999ms")
        assert times(driver, "gone") == []
        driver.restart()
        driver.advance_wall_clock("2ms")
        # Given up when its window ended; as in Flink looked at a millisecond later.
        assert times(driver, "gone") == [1_010_000]
        pipe(driver, rows, "b", 78)
        pipe(driver, rows, "a", 3)
        pipe(driver, rows, "b", 1)
        assert times(driver, "out") == [1_010_001]
        assert times(driver, "late") == []


def test_what_is_due_is_told_before_what_comes_then() -> None:
    with driver_of(SILENT, time="processing") as driver:
        pipe(driver, False, "a", 1)
        driver.run()
        driver.advance_wall_clock("11s")
        pipe(driver, False, "b", 2)
        assert times(driver, "out") == [1_011_000]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "how late may an event come?"),
        ({"max_delay": "1s", "time": "wall"}, "`time` is 'wall'"),
        ({"max_delay": "1s", "time": "processing"}, "`max_delay` in processing time"),
        ({"idle": "1s", "time": "processing"}, "`idle` in processing time"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(TopologyError, match=told) as refused:
        driver_of(PAIR, **options)
    assert refused.value.code == "bad_argument"
    assert refused.value.hint


@pytest.mark.parametrize(("bound", "waits"), [("0ms", set()), ("5ms", {"a"})])
def test_what_begins_nothing_is_kept_only_while_something_may_come_before_it(bound: str, waits: set[str]) -> None:
    """And what it would have failed on is told in both."""
    pattern = Pattern.begin("one").where(col("v") > 5).next("two").where(col("v") > 7)

    @ads.topology(name="idle")
    def idle(app: ads.App) -> None:
        found = (
            app.stream("in", key=ads.serdes.string).group_by_key().match(pattern, max_delay=bound, materialized="runs")
        )
        found.matches.to("found", key=ads.serdes.string)

    with TopologyTestDriver(idle, partitions=1, commit_every=1) as driver:
        driver.input("in").pipe({"v": 1}, key="a", at=1_000)
        assert set(driver.patterns("runs")) == waits
        driver.input("in").pipe({"v": "no number"}, key="a", at=1_000)
        driver.input("in").pipe({"v": 6}, key="a", at=1_001)
        driver.input("in").pipe({"v": 8}, key="a", at=1_001)
        driver.input("in").pipe({"v": 1}, key="a", at=1_002)
        driver.input("in").pipe({"v": 1}, key="b", at=2_000)
        assert [[e["v"] for es in r.value.values() for e in es] for r in driver.output("found").read()] == [[6, 8]]
        assert len(driver.dead_letters("in")) == 1
