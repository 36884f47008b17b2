"""Topics that meet in a state have equal partition counts; internal ones are made to fit."""

from collections.abc import Callable
from typing import Any

import pytest

import adstream as ads
from adstream.errors import ConfigError
from adstream.testing import TopologyTestDriver
from tests.unit.kstreams.support import I, S, newest

Build = Callable[[ads.App], None]


def start(build: Build, partitions: int | dict[str, int]) -> TopologyTestDriver:
    return TopologyTestDriver(ads.topology(name="app")(build), partitions=partitions)


def joined(app: ads.App) -> None:
    left, right = app.table("left", key=S, value=I), app.table("right", key=S, value=I)
    left.join(right, lambda a, b: a + b).named("both").to_stream().to("out", value=I)


def test_tables_that_are_joined_need_equal_counts() -> None:
    start(joined, {"left": 3, "right": 3})
    with pytest.raises(ConfigError) as raised:
        start(joined, {"left": 3, "right": 2})
    text = str(raised.value)
    assert "topics that meet in `both`" in text
    assert "`left` has 3, `right` has 2" in text
    assert "give them the same count, or move one of them" in text


def test_aggregations_of_merged_streams_do_too_and_merges_alone_do_not() -> None:
    def merged(app: ads.App) -> Any:
        return app.stream("left", key=S, value=I).merge(app.stream("right", key=S, value=I))

    def counted(app: ads.App) -> None:
        merged(app).group_by_key().count().to_stream().to("out")

    def rekeyed(app: ads.App) -> None:
        merged(app).group_by(lambda k, v: v).count().to_stream().to("out", key=I)

    def passed(app: ads.App) -> None:
        merged(app).to("out", value=I)

    counts = {"left": 3, "right": 2}
    with pytest.raises(ConfigError, match="`left` has 3, `right` has 2"):
        start(counted, counts)
    assert start(rekeyed, counts).partitions["app-to-1-repartition"] == 3
    assert start(passed, counts).partitions["out"] == 3


def test_an_internal_topic_is_made_to_fit_what_it_meets() -> None:
    def build(app: ads.App) -> None:
        small, wide = app.table("small", key=S, value=I), app.stream("wide", key=S, value=I)
        moved = wide.select_key(lambda k, v: f"k{v}").repartition("moved").to_table()
        small.join(moved, lambda a, b: a + b).to_stream().to("out", value=I)

    with start(build, {"small": 2, "wide": 7}) as driver:
        assert driver.partitions["app-moved-repartition"] == 2
        for i in range(20):
            driver.input("small").pipe(i, key=f"k{i}", at=i)
            driver.input("wide").pipe(i, key="x", partition=i % 7, at=i)
        assert newest(driver) == {f"k{i}": 2 * i for i in range(20)}


def test_repartition_with_partitions_sets_the_count() -> None:
    def build(app: ads.App) -> None:
        moved = app.stream("in", key=S, value=I).repartition("moved", partitions=5)
        moved.group_by_key().count().to_stream().to("out", value=I)

    with start(build, 2) as driver:
        assert driver.partitions["app-moved-repartition"] == 5
        for i in range(30):
            driver.input("in").pipe(i, key=f"k{i % 10}", at=i)
        assert newest(driver) == {f"k{i}": 3 for i in range(10)}


def test_an_explicit_count_must_agree() -> None:
    def with_topic(app: ads.App) -> None:
        moved = app.stream("left", key=S, value=I).repartition("moved", partitions=5).to_table()
        moved.join(app.table("right", key=S, value=I), lambda a, b: a).to_stream().to("out", value=I)

    def with_another(app: ads.App) -> None:
        one = app.stream("left", key=S, value=I).repartition("one", partitions=5).to_table()
        two = app.stream("right", key=S, value=I).repartition("two", partitions=6).to_table()
        one.join(two, lambda a, b: a).to_stream().to("out", value=I)

    start(with_topic, {"left": 1, "right": 5})
    with pytest.raises(ConfigError, match=r"`right` has 3, `app-moved-repartition` asks for 5(.|\n)*partitions=3"):
        start(with_topic, 3)
    with pytest.raises(ConfigError, match=r"asks for 5, `app-two-repartition` asks for 6(.|\n)*the same `partitions`"):
        start(with_another, 3)


def test_a_count_is_a_count() -> None:
    def build(app: ads.App) -> None:
        app.stream("in").repartition(partitions=0)

    with pytest.raises(ads.TopologyError, match="`partitions` must be at least 1"):
        ads.topology(name="app")(build).build()


def test_foreign_keys_need_no_equal_counts() -> None:
    def build(app: ads.App) -> None:
        left, right = app.table("left", key=S, value=S), app.table("right", key=S, value=I)
        left.join(right, lambda a, b: b, foreign_key=lambda v: v).to_stream().to("out", value=I)

    start(build, {"left": 2, "right": 3})


def test_what_feeds_itself_is_one_level() -> None:
    """A merge with its own repartition: what comes round is worked off, too."""

    def build(app: ads.App) -> None:
        stream = app.stream("in", key=S, value=I)
        stream.merge(stream.repartition("round")).group_by_key().count().to_stream().to("out", value=I)

    with start(build, 3) as driver:
        for i in range(12):
            driver.input("in").pipe(i, key=f"k{i % 4}", at=i)
        assert newest(driver) == {f"k{i}": 6 for i in range(4)}
