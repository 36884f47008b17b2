"""`idle=`: a partition that says nothing no longer holds windows open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import adstream as ads
from adstream import col
from adstream.errors import TopologyError
from adstream.testing import TopologyTestDriver


class Event(ads.Record):
    at: datetime
    user: str | None
    shop: str | None


NOON = datetime(2024, 1, 15, 12, tzinfo=UTC)


@ads.topology(name="idle")
def shops(app: ads.App, idle: str | None = "30s", combine: bool = True) -> None:
    events = app.stream("events", Event, timestamp="at", key="user", idle=idle).filter(col("shop") != "none")
    grouped = events.group_by("shop").windowed_by(ads.tumbling("1m", grace="0s"))
    table = grouped.aggregate(n=ads.count(), combine=combine).named("table")
    table.final().select("shop", "n", start=ads.window_start()).to("final", key="shop")
    table.late.select("user", why=col("$reason")).to("late", key="user")


def pipe(driver: TopologyTestDriver, partition: int, second: float, shop: str | None = "s1") -> None:
    event = {"user": f"u{partition}", "shop": shop}
    driver.input("events").pipe(event, partition=partition, at=NOON + timedelta(seconds=second))


def final(driver: TopologyTestDriver) -> list[tuple[int, int]]:
    """(minute, n) of what closed since the last look."""
    found = [record.value for record in driver.output("final").read() if record.value is not None]
    return [((datetime.fromisoformat(row["start"]) - NOON) // timedelta(minutes=1), row["n"]) for row in found]


def late(driver: TopologyTestDriver) -> list[tuple[str, str]]:
    return [(r.value["user"], r.value["why"]) for r in driver.output("late").read() if r.value is not None]


def test_a_partition_that_never_spoke_is_waited_for_until_it_is_idle() -> None:
    with TopologyTestDriver(shops, partitions=2) as driver:
        pipe(driver, 0, 1)
        pipe(driver, 0, 61)
        assert final(driver) == []
        driver.advance_wall_clock("1ms")  # from here on silence counts
        driver.advance_wall_clock("29s")
        pipe(driver, 0, 62)
        assert final(driver) == []
        driver.advance_wall_clock("1s")
        assert final(driver) == [(0, 1)]
        pipe(driver, 0, 121)
        assert final(driver) == [(1, 2)]


def test_without_idle_it_is_waited_for_for_ever() -> None:
    with TopologyTestDriver(shops, partitions=2, idle=None) as driver:
        pipe(driver, 0, 1)
        pipe(driver, 0, 61)
        for _ in range(3):
            driver.advance_wall_clock("1h")
        assert final(driver) == []


def test_a_partition_whose_rows_are_all_filtered_out_is_idle_too() -> None:
    with TopologyTestDriver(shops, partitions=2) as driver:
        pipe(driver, 0, 1)
        pipe(driver, 0, 61)
        driver.advance_wall_clock("1ms")
        for second in range(3):
            driver.advance_wall_clock("10s")
            pipe(driver, 0, 61 + second)
            pipe(driver, 1, second, "none")
        driver.advance_wall_clock("0s")
        assert final(driver) == [(0, 1)]


def test_a_row_whose_window_closed_without_it_is_late_for_that_reason() -> None:
    with TopologyTestDriver(shops, partitions=2) as driver:
        pipe(driver, 0, 1)
        pipe(driver, 0, 61)
        driver.advance_wall_clock("1ms")
        driver.advance_wall_clock("30s")
        assert final(driver) == [(0, 1)]
        pipe(driver, 1, 2)  # not late in its own partition
        pipe(driver, 1, 63)
        pipe(driver, 1, 3)  # late in its own partition
        assert late(driver) == [("u1", "closed_while_idle"), ("u1", "late")]
        assert driver.counters()["table"] == {"counted": 3, "closed_while_idle": 1, "late": 1}
        assert driver.late == 2


def test_a_partition_that_speaks_again_is_waited_for_again_by_everybody() -> None:
    with TopologyTestDriver(shops, partitions=2) as driver:
        shops_of = {shop: [] for shop in ("s1", "s2", "s3", "s4", "s5")}  # on both partitions of the shuffle
        for shop in shops_of:
            pipe(driver, 0, 1, shop)
        driver.advance_wall_clock("1ms")
        driver.advance_wall_clock("30s")
        pipe(driver, 1, 50)  # speaks to one partition of the shuffle only
        driver.run()
        pipe(driver, 0, 70)
        assert final(driver) == []
        pipe(driver, 1, 60)
        assert sorted(final(driver)) == [(0, 1)] * 4 + [(0, 2)]


def test_when_all_are_idle_time_is_where_the_fastest_was() -> None:
    with TopologyTestDriver(shops, partitions=2) as driver:
        pipe(driver, 0, 61)
        pipe(driver, 1, 1)
        driver.advance_wall_clock("1ms")
        driver.advance_wall_clock("1h")
        assert final(driver) == [(0, 1)]  # and minute 1 stays open: nothing has passed it
        pipe(driver, 1, 2)
        pipe(driver, 1, 119)
        pipe(driver, 0, 119)
        assert (final(driver), late(driver)) == ([], [("u1", "closed_while_idle")])
        pipe(driver, 0, 120)
        pipe(driver, 1, 120)
        assert final(driver) == [(1, 3)]


@pytest.mark.parametrize("idle", ["30s", None])
def test_silence_counts_through_restarts_and_crashes(idle: str | None) -> None:
    with TopologyTestDriver(shops, partitions=2, idle=idle) as driver:
        pipe(driver, 0, 1)
        pipe(driver, 0, 61)
        driver.advance_wall_clock("1ms")
        driver.restart()
        driver.advance_wall_clock("15s")
        driver.restart()
        pipe(driver, 0, 62)
        driver.crash_at("before-commit")
        driver.advance_wall_clock("15s")
        driver.restart()
        assert final(driver) == ([(0, 1)] if idle else [])
        driver.restart()
        pipe(driver, 0, 120)
        assert final(driver) == ([(1, 2)] if idle else [])
        pipe(driver, 1, 5)
        assert driver.late == (1 if idle else 0)


@ads.topology(name="merged")
def merged(app: ads.App, left: str | None = "30s", right: str | None = "60s") -> None:
    a = app.stream("a", Event, timestamp="at", idle=left)
    b = app.stream("b", Event, timestamp="at", idle=right)
    grouped = a.merge(b).group_by("shop").windowed_by(ads.tumbling("1m", grace="0s"))
    grouped.count().named("table").final().to("final")


def test_of_several_sources_the_most_patient_one_says_when() -> None:
    with TopologyTestDriver(merged, partitions=2) as driver:
        for second in (1, 61):
            event = {"user": "u", "shop": "s1"}
            driver.input("a").pipe(event, partition=0, at=NOON + timedelta(seconds=second))
        driver.advance_wall_clock("1ms")
        driver.advance_wall_clock("59s")
        assert driver.output("final").read() == []
        driver.advance_wall_clock("1s")
        assert len(driver.output("final").read()) == 1


def test_idle_of_some_is_refused() -> None:
    with pytest.raises(TopologyError, match=r"`a` may be idle and `b` may not") as error:
        merged.build(right=None)
    assert error.value.code == "idle_of_some"
    assert error.value.hint == "give `b` an `idle`, too"
    assert "test_idle.py" in str(error.value.line)


def test_idle_without_a_shuffle_is_refused() -> None:
    @ads.topology(name="local")
    def local(app: ads.App) -> None:
        events = app.stream("events", Event, timestamp="at", key="user", idle="30s")
        events.group_by("user").windowed_by(ads.tumbling("1m", grace="0s")).count().final().to("out")
        events.group_by("shop").count().to("other")

    with pytest.raises(TopologyError, match="`idle` on `events` has no effect") as error:
        local.build()
    assert (error.value.code, error.value.operation) == ("idle_without_lanes", "stream")
    assert "test_idle.py" in str(error.value.line)


@ads.topology(name="hops")
def hops(app: ads.App) -> None:
    events = app.stream("events", Event, timestamp="at", key="user", idle="30s")
    minutes = events.group_by("shop", "user").windowed_by(ads.tumbling("1m", grace="0s")).count().named("minutes")
    hours = minutes.final().group_by("shop").windowed_by(ads.tumbling("5m", grace="0s"))
    hours.aggregate(minutes=ads.count()).named("hours").final().to("final")


def test_behind_a_second_shuffle_a_lane_is_idle_when_all_that_feeds_it_is() -> None:
    with TopologyTestDriver(hops, partitions=2) as driver:
        for minute in range(7):
            pipe(driver, 0, 60 * minute)
        driver.advance_wall_clock("1ms")
        driver.advance_wall_clock("29s")
        pipe(driver, 0, 60 * 7)
        driver.advance_wall_clock("1s")  # partition 1 is idle, 0 is not: the first windows close
        assert driver.output("final").read() == []
        driver.advance_wall_clock("29s")  # now everything is
        (closed,) = driver.output("final").read()
        assert closed.value is not None
        assert closed.value["minutes"] == 5


def test_a_bad_idle() -> None:
    def build(idle: Any) -> None:
        ads.topology(name="x")(lambda app: app.stream("events", Event, timestamp="at", idle=idle)).build()

    with pytest.raises(TopologyError, match="`idle` is zero"):
        build("0s")
    with pytest.raises(TopologyError, match="has no unit"):
        build(30)
