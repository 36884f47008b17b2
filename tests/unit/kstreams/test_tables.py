"""Tables: what is told, with which time, what travels as the old value; with caches and without."""

from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver
from tests.unit.kstreams.support import I, S, dropped, run, steps


def test_the_last_to_arrive_wins_and_takes_its_time_along() -> None:
    def build(app: ads.App) -> None:
        app.table("in", "store", key=S, value=I).to_stream().to("out")

    records = [("in", "a", 1, 9), ("in", "a", 2, 5), ("in", "a", 2, 5), ("in", None, 1, 6), ("in", "a", None, 7)]
    assert run(build, records, caching=False) == [("a", 1, 9), ("a", 2, 5), ("a", 2, 5), ("a", None, 7)]


@pytest.mark.parametrize("caching", [True, False])
def test_a_deletion_of_nothing_is_told_only_where_nothing_is_held_back(caching: bool) -> None:
    def build(app: ads.App) -> None:
        app.table("in", "store", key=S, value=I).to_stream().to("out")

    assert run(build, [("in", "a", None, 1)], caching=caching) == ([] if caching else [("a", None, 1)])


def test_a_filter_whose_parent_can_tell_old_values_keeps_deletions_of_what_never_passed() -> None:
    def plain(app: ads.App) -> None:
        app.table("in", key=S, value=I).filter(lambda k, v: v > 5).to_stream().to("out")

    def stored(app: ads.App) -> None:
        app.table("in", "store", key=S, value=I).filter(lambda k, v: v > 5).to_stream().to("out")

    def viewed(app: ads.App) -> None:
        table = app.table("in", "store", key=S, value=I).map_values(lambda v: v + 1)
        table.filter_not(lambda k, v: v < 7).to_stream().map_values(lambda v: v and v - 1).to("out", value=I)

    records = [("in", "a", 1, 1), ("in", "a", 7, 2), ("in", "a", 2, 3), ("in", "a", None, 4)]
    passed = [("a", 7, 2), ("a", None, 3)]
    assert run(plain, records, caching=False) == [("a", None, 1), *passed, ("a", None, 4)]
    assert run(stored, records, caching=False) == passed
    assert run(viewed, records, caching=False) == passed


def test_a_filter_with_a_store_takes_old_values_from_it() -> None:
    def build(app: ads.App) -> None:
        some = app.table("in", key=S, value=I).filter(lambda k, v: v > 5, "some")
        some.group_by(lambda k, v: ("all", v)).reduce(lambda a, v: a + v, lambda a, v: a - v).to_stream().to(
            "out", value=I
        )

    records = [("in", "a", 1, 1), ("in", "a", 7, 2), ("in", "b", 8, 3), ("in", "a", 2, 4), ("in", "b", 9, 5)]
    for caching in (True, False):
        assert run(build, records, caching=caching) == [("all", 7, 2), ("all", 15, 3), ("all", 8, 4), ("all", 9, 5)]


def test_a_cache_tells_each_key_once_per_commit_in_the_order_of_latest_updates() -> None:
    def build(app: ads.App) -> None:
        app.table("in", "store", key=S, value=I).to_stream().to("out")

    records = [("in", "a", 1, 1), ("in", "b", 2, 2), ("in", "a", 3, 3), ("in", "c", 4, 4), ("in", "c", None, 5)]
    topology = ads.topology(name="app")(build)
    for caching in (True, False):
        with TopologyTestDriver(topology, partitions=1, caching=caching) as driver:
            for _, key, value, ts in records:
                driver.input("in").pipe(value, key=key, at=ts)
            told = [(r.key, r.value, r.timestamp) for r in driver.output("out").read()]
            everything = [(key, value, ts) for _, key, value, ts in records]
            assert told == ([("b", 2, 2), ("a", 3, 3)] if caching else everything)


def test_materialized_without_caching_tells_everything() -> None:
    def build(app: ads.App) -> None:
        app.table("in", ads.Materialized("store", caching=False), key=S, value=I).to_stream().to("out")

    topology = ads.topology(name="app")(build)
    with TopologyTestDriver(topology, partitions=1) as driver:
        for value in (1, 2):
            driver.input("in").pipe(value, key="a", at=value)
        assert [r.value for r in driver.output("out").read()] == [1, 2]


@pytest.mark.parametrize("caching", [True, False])
def test_the_time_of_an_aggregate_that_its_function_deletes(caching: bool) -> None:
    """A cache knows no time of a deletion but that of the record that caused it."""

    def build(app: ads.App) -> None:
        grouped = app.stream("in", key=S, value=I).group_by_key()
        grouped.aggregate(lambda: 0, lambda k, v, a: None if v < 0 else a + v).to_stream().to("out", value=I)

    records = [("in", "a", 1, 9), ("in", "a", -1, 5), ("in", "a", 2, 6)]
    assert run(build, records, caching=caching) == [("a", 1, 9), ("a", None, 5 if caching else 9), ("a", 2, 6)]


def test_the_first_old_value_of_a_streams_aggregate_is_what_it_began_from() -> None:
    def build(app: ads.App) -> None:
        counts = app.stream("in", key=S, value=I).group_by_key().count()
        totals = counts.group_by(lambda k, v: ("n", v))
        totals.aggregate(lambda: "", lambda k, v, a: f"{a}+{v}", lambda k, v, a: f"{a}-{v}").to_stream().to(
            "out", value=S
        )

    records = [("in", "a", 5, 1), ("in", "b", 5, 2)]
    # Without a cache the count's initial 0 is taken back from a group that has something already.
    assert run(build, records, caching=False) == [("n", "+1", 1), ("n", "+1-0+1", 2)]
    assert run(build, records, caching=True) == [("n", "+1", 1), ("n", "+1+1", 2)]


def test_group_by_skips_halves_without_key_or_value() -> None:
    def build(app: ads.App) -> None:
        def selector(key: str, value: int) -> Any:
            return None if value == 0 else (None, value) if value == 1 else ("g", None if value == 2 else value)

        grouped = app.table("in", key=S, value=I).group_by(selector)
        grouped.reduce(lambda a, v: a + v, lambda a, v: a - v).to_stream().to("out", value=I)

    records = [("in", "a", value, ts) for ts, value in enumerate((0, 1, 2, 5, 1, 7, None))]
    found = steps(build, records, caching=False)
    assert found == [[], [], [], [("g", 5, 3)], [("g", 0, 4)], [("g", 7, 5)], [("g", 0, 6)]]


def test_one_group_takes_both_halves_at_once_and_two_groups_the_old_half_first() -> None:
    def build(app: ads.App) -> None:
        grouped = app.table("in", key=S, value=S).group_by(lambda k, v: (v[0], v))
        grouped.aggregate(lambda: "", lambda k, v, a: f"{a}+{v}", lambda k, v, a: f"{a}-{v}").to_stream().to(
            "out", value=S
        )

    records = [("in", "k", "a1", 1), ("in", "k", "a2", 2), ("in", "k", "b1", 3)]
    found = steps(build, records, caching=False)
    assert found == [[("a", "+a1", 1)], [("a", "+a1-a1+a2", 2)], [("a", "+a1-a1+a2-a2", 3), ("b", "+b1", 3)]]


def test_to_stream_may_choose_another_key_and_to_table_follows() -> None:
    def build(app: ads.App) -> None:
        by_value = app.table("in", key=S, value=I).to_stream(lambda k, v: f"v{v}")
        by_value.to_table("by-value").map_values(lambda v: v + 1).to_stream().to("out", value=I)

    assert run(build, [("in", "a", 1, 1), ("in", "b", 1, 2)]) == [("v1", 2, 1), ("v1", 2, 2)]


def test_only_a_store_with_a_name_can_be_asked_for_it() -> None:
    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        table = app.table("in", key=S, value=I)
        assert table.queryable_store_name is None
        counts = table.group_by(lambda k, v: (v, v)).count()
        assert counts.queryable_store_name is None
        assert table.queryable_store_name is None
        assert table.filter(lambda v: True).queryable_store_name is None
        assert table.filter(lambda v: True, "some").queryable_store_name == "some"

    topology.build()


def test_latest_by_is_the_newest_by_what_the_value_says() -> None:
    def build(app: ads.App) -> None:
        table = app.table("in", key=S, value=ads.serdes.json_, latest_by=lambda v: v["version"])
        table.map_values(lambda v: v["price"]).to_stream().to("out", value=I)

    def row(version: int, price: int) -> dict[str, int]:
        return {"version": version, "price": price}

    topology = ads.topology(name="app")(build)
    with TopologyTestDriver(topology, partitions=1, commit_every=1) as driver:
        for ts, value in enumerate([row(1, 10), row(3, 30), row(2, 20), row(3, 31), None, row(1, 11)]):
            driver.input("in").pipe(value, key="a", at=ts)
        found = [(r.value, r.timestamp) for r in driver.output("out").read()]
        assert found == [(10, 0), (30, 1), (31, 3), (None, 4), (11, 5)]
        assert dropped(driver, "older") == 1


class Counting(ads.ValueTransformerWithKey[Any]):
    """How often a key was asked for, behind its value; kept in a store."""

    def init(self, ctx: ads.Context) -> None:
        self.seen = ctx.get_state_store("seen")

    def transform(self, key: str, value: Any) -> str | None:
        n = (self.seen.get(key) or 0) + 1
        self.seen.put(key, n)
        return None if value is None else f"{value}#{n}"


@pytest.mark.parametrize("materialized", [None, "made"])
def test_values_are_transformed_with_a_store(materialized: str | None) -> None:
    """As Kafka Streams' KTableTransformValues: deletions are transformed, too."""

    def build(app: ads.App) -> None:
        app.add_state_store(ads.store.key_value("seen", key=S, value=I))
        table = app.table("in", key=S, value=S).transform_values(Counting, "seen", materialized=materialized)
        table.to_stream().to("out", value=S)

    changes = [("in", "a", "x", 1), ("in", "b", "y", 2), ("in", "a", None, 3), ("in", "a", "z", 4)]
    assert steps(build, changes, caching=False) == [
        [("a", "x#1", 1)],
        [("b", "y#1", 2)],
        [("a", None, 3)],
        [("a", "z#3", 4)],
    ]


def test_who_looks_into_a_transformed_table_has_a_transformer_of_its_own() -> None:
    """Without a store for the table: the join's look-up asks again, and where old values are told they are asked for, too."""

    def build(app: ads.App) -> None:
        app.add_state_store(ads.store.key_value("seen", key=S, value=I))
        table = app.table("left", key=S, value=S).transform_values(Counting, "seen")
        right = app.table("right", key=S, value=S)
        table.join(right, lambda a, b: f"{a} {b}").to_stream().to("out", value=S)

    changes = [("left", "a", "x", 1), ("right", "a", "r", 2), ("right", "a", "s", 3)]
    assert steps(build, changes, caching=False) == [[], [("a", "x#2 r", 2)], [("a", "x#3 s", 3)]]


def test_a_transformer_forwards_nothing() -> None:
    class Forwarding(ads.ValueTransformerWithKey[Any]):
        def init(self, ctx: ads.Context) -> None:
            self.ctx = ctx

        def transform(self, key: str, value: Any) -> Any:
            self.ctx.forward(ads.ProcessorRecord(key, value, 1))

    def build(app: ads.App) -> None:
        app.table("in", key=S, value=S).transform_values(Forwarding).to_stream().to("out", value=S)

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        driver.input("in").pipe("x", key="a", at=1)
        [letter] = driver.dead_letters("in")
        assert "a transformer forwards nothing" in str(letter)
