"""`ttl` of groups without windows: how it is said, and that memory comes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver

START = datetime(2026, 1, 15, tzinfo=UTC)


class Row(ads.Record):
    key: str
    till: str | None = None


def counted(ttl: Any, by: str = "key") -> ads.Topology:
    def build(app: ads.App) -> None:
        app.stream("in", Row, key="key").group_by(by).count(ttl=ttl).named("counts").to("out")

    return ads.topology(name="app")(build)


@pytest.mark.parametrize(
    ("ttl", "said"), [("0s", "zero"), ("-1h", "minus"), (3600, 'write "3600s"'), ("1mo", "1mo"), (ads.count(), "count")]
)
def test_what_cannot_be_is_refused(ttl: Any, said: str) -> None:
    with pytest.raises(ads.TopologyError) as caught:
        counted(ttl).build()
    assert caught.value.code == "bad_duration"
    assert said in str(caught.value)


def test_describe_says_how_long_groups_are_kept() -> None:
    assert "forgotten 35d after its last row" in counted("35d").build().describe()
    assert "kept for ever" in counted(None).build().describe()
    assert "kept for ever" not in counted(timedelta(days=35)).build().describe()


def keys_held(driver: TopologyTestDriver) -> int:
    nodes = [task.core.stats()["nodes"].get("counts", {}) for task in driver._tasks]
    return sum(node.get("state_keys", 0) for node in nodes)


@pytest.mark.parametrize("by", ["key", "till"])
def test_memory_comes_back_also_through_restarts(by: str) -> None:
    held = []
    with TopologyTestDriver(counted("1h", by), partitions=2, commit_every=10) as driver:
        for hour in range(12):
            at = START + timedelta(hours=hour)
            for i in range(40):
                name = f"{hour} {i}"
                driver.input("in").pipe(
                    {"key": name, "till": name}, key=name, at=at + timedelta(minutes=i), partition=i % 2
                )
            driver.run()
            if hour % 3 == 2:
                driver.restart()
            held.append(keys_held(driver))
        told = [record.value["count"] for record in driver.output("out").read()]
    assert told == [1] * 480
    assert max(held) <= 3 * 40
    assert min(held[2:]) >= 40


def test_a_gap_of_a_ttl_ends_a_group_to_the_millisecond() -> None:
    hour = timedelta(hours=1)
    with TopologyTestDriver(counted("1h"), partitions=1, commit_every=1) as driver:
        at = START
        for gap in (
            timedelta(),
            hour - timedelta(milliseconds=1),
            hour,
            hour + timedelta(milliseconds=1),
            timedelta(),
            hour,
        ):
            at += gap
            driver.input("in").pipe({"key": "k"}, at=at)
        assert [record.value["count"] for record in driver.output("out").read()] == [1, 2, 1, 1, 2, 1]


def test_a_lane_that_is_far_behind_joins_what_looked_like_two() -> None:
    with TopologyTestDriver(counted("1h", "till"), partitions=2, commit_every=1) as driver:

        def pipe(partition: int, hour: float) -> None:
            at = START + timedelta(hours=hour)
            driver.input("in").pipe({"key": "k", "till": "t"}, at=at, partition=partition)
            driver.run()

        pipe(0, 1)
        pipe(0, 2.5)  # an hour and a half later
        pipe(1, 1.75)
        pipe(1, 4)
        pipe(0, 3.2)
        assert [record.value["count"] for record in driver.output("out").read()] == [1, 1, 3, 1, 5]
