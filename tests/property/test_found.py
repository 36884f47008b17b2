"""What the properties found, as small as it gets."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

import adstream as ads
from adstream import col
from adstream.testing import TopologyTestDriver


class Event(ads.Record):
    at: datetime
    user: str | None
    shop: str | None
    n: int | None


def events(app: ads.App) -> ads.Stream:
    return app.stream("events", Event, timestamp="at", key="user")


def at(second: float) -> int:
    return 1_705_312_800_000 + round(second * 1000)


@ads.topology(name="uncombined")
def uncombined(app: ads.App, combine: bool = False) -> None:
    grouped = events(app).group_by("shop").windowed_by(ads.tumbling("1s", grace="0s"))
    grouped.aggregate(combine=combine, rows=ads.count(), total=ads.sum("n")).final().to("final")


def finals_of_two_lanes(**options: Any) -> list[Any]:
    """Lane 0 reaches second 5 with a row for another partition than s1's, lane 1 with one for any."""
    with TopologyTestDriver(uncombined, partitions=2, **options) as driver:
        source = driver.input("events")
        for shop in ("s1", "s2", "s3", "s4"):
            source.pipe({"shop": shop, "n": 1}, partition=0, at=at(1))
        source.pipe({"shop": "s2", "n": 1}, partition=0, at=at(5))
        source.pipe({"shop": "s2", "n": 1}, partition=1, at=at(5))
        return sorted((r.value or {})["shop"] for r in driver.output("final").read())


def test_rows_that_travel_uncombined_close_windows_of_all_partitions() -> None:
    assert finals_of_two_lanes(combine=True) == ["s1", "s2", "s3", "s4"]
    assert finals_of_two_lanes(batch_rows=1) == ["s1", "s2", "s3", "s4"]
    assert finals_of_two_lanes() == ["s1", "s2", "s3", "s4"]


@ads.topology(name="regrouped")
def regrouped(app: ads.App, combine: bool = False) -> None:
    table = events(app).group_by("user").aggregate(rows=ads.count())
    table.group_by("user").aggregate(combine=combine, groups=ads.count(), rows=ads.sum("rows")).named("all")


def groups_after_four_changes(combine: bool) -> dict[str, Any]:
    with TopologyTestDriver(regrouped, partitions=1, commit_every=1, combine=combine) as driver:
        for second in range(4):
            driver.input("events").pipe({"user": "u1"}, at=at(second))
        return driver.table("all")["u1"]


def test_a_table_is_regrouped_without_combining() -> None:
    right = {"user": "u1", "groups": 1, "rows": 4}
    assert groups_after_four_changes(combine=True) == right
    assert groups_after_four_changes(combine=False) == right


@ads.topology(name="poisoned")
def poisoned(app: ads.App, combine: bool = False) -> None:
    grouped = events(app).group_by("shop").windowed_by(ads.tumbling("1s", grace="0s"))
    grouped.aggregate(combine=combine, total=ads.sum(col("n") * 2**62)).named("sums")


def test_a_row_that_dies_in_the_aggregate_does_not_move_its_time() -> None:
    def late(combine: bool) -> int:
        with TopologyTestDriver(poisoned, partitions=1, combine=combine) as driver:
            for second, n in ((1, 1), (9, 4), (1.5, 0)):
                driver.input("events").pipe({"shop": "s1", "n": n}, at=at(second))
            assert [x.reason for x in driver.dead_letters("events")] == ["overflow"]
            return driver.late

    assert late(combine=True) == 0
    assert late(combine=False) == 0


@ads.topology(name="placed")
def placed(app: ads.App, combine: bool = True) -> None:
    grouped = events(app).group_by("shop")
    grouped.aggregate(combine=combine, last=ads.last(ads.offset()), total=ads.sum(ads.partition())).named("places")


def test_where_a_record_lay_is_known_in_an_aggregate_or_refused() -> None:
    with TopologyTestDriver(placed, partitions=2) as driver:
        for second in range(3):
            driver.input("events").pipe({"shop": "s1"}, partition=1, at=at(second))
        assert driver.table("places")["s1"] == {"shop": "s1", "last": 2, "total": 3}
    # Row by row, the aggregate lies behind the shuffle, where the record's place is another.
    with pytest.raises(Exception, match="metadata_behind_shuffle"):
        TopologyTestDriver(placed, partitions=2, combine=False)


@ads.topology(name="ordered")
def ordered(app: ads.App, key: str = "shop") -> None:
    events(app).group_by(key).aggregate(rows=ads.count()).to("changes")


def test_changes_come_in_the_order_of_each_groups_latest_update() -> None:
    def told(key: str) -> list[Any]:
        with TopologyTestDriver(ordered, partitions=1, key=key) as driver:
            for second, name in enumerate("aba"):
                driver.input("events").pipe({"user": name, "shop": name}, at=at(second))
            return [r.key for r in driver.output("changes").read()]

    assert told("user") == ["b", "a"]
    assert told("shop") == ["b", "a"]
