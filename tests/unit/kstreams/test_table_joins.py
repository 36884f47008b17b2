"""Joins of tables by their key: results, times, deletions, old values, views, one table twice."""

from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver
from tests.unit.kstreams.support import I, S, newest, run, steps

CHANGES = [
    ("left", "a", 1, 10),
    ("right", "a", 2, 5),
    ("left", "a", 3, 7),
    ("right", "a", None, 8),
    ("left", "a", 4, 20),
    ("left", "a", None, 9),
    ("right", "a", 5, 11),
    ("right", "a", None, 12),
    ("right", "a", None, 13),
]


def joined(how: str, store: str | None = None) -> Any:
    def build(app: ads.App) -> None:
        left, right = app.table("left", key=S, value=I), app.table("right", key=S, value=I)
        join = {"inner": left.join, "left": left.left_join, "outer": left.outer_join}[how]
        join(right, lambda mine, theirs: f"{mine}:{theirs}", store).to_stream().to("out", value=S)

    return build


@pytest.mark.parametrize("store", [None, "joined"])
def test_inner(store: str | None) -> None:
    found = steps(joined("inner", store), CHANGES, caching=False)
    assert found == [[], [("a", "1:2", 10)], [("a", "3:2", 7)], [("a", None, 8)], [], [], [], [], []]


@pytest.mark.parametrize("store", [None, "joined"])
def test_left(store: str | None) -> None:
    found = steps(joined("left", store), CHANGES, caching=False)
    assert found == [
        [("a", "1:None", 10)],
        [("a", "1:2", 10)],
        [("a", "3:2", 7)],
        [("a", "3:None", 8)],
        [("a", "4:None", 20)],
        [("a", None, 9)],
        [],
        [],
        [],
    ]


@pytest.mark.parametrize("store", [None, "joined"])
def test_outer(store: str | None) -> None:
    found = steps(joined("outer", store), CHANGES, caching=False)
    assert found == [
        [("a", "1:None", 10)],
        [("a", "1:2", 10)],
        [("a", "3:2", 7)],
        [("a", "3:None", 8)],
        [("a", "4:None", 20)],
        [("a", None, 9)],
        [("a", "None:5", 11)],
        [("a", None, 12)],
        [],
    ]


def test_joiners_may_take_the_key() -> None:
    def build(app: ads.App) -> None:
        left, right = app.table("left", key=S, value=I), app.table("right", key=S, value=I)
        left.join(right, lambda key, mine, theirs: f"{key}{mine}{theirs}").to_stream().to("out", value=S)

    assert run(build, CHANGES[:2]) == [("a", "a12", 10)]


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("how", ["inner", "left", "outer"])
def test_old_values_are_taken_back_from_a_group(how: str, caching: bool) -> None:
    def build(app: ads.App) -> None:
        left, right = app.table("left", key=S, value=I), app.table("right", key=S, value=I)
        join = {"inner": left.join, "left": left.left_join, "outer": left.outer_join}[how]
        both = join(right.filter(lambda v: v < 100), lambda mine, theirs: (mine or 0) + (theirs or 0))
        grouped = both.group_by(lambda k, v: ("all", v))
        grouped.reduce(lambda a, v: a + v, lambda a, v: a - v).to_stream().to("out", value=I)

    changes = [(topic, key, value, ts) for key in "ab" for topic, _, value, ts in CHANGES[:8]]
    changes += [("left", "a", 7, 30), ("right", "a", 8, 31), ("right", "a", 200, 32), ("right", "b", 9, 33)]
    assert run(build, changes, caching=caching)[-1][1] == {"inner": 0, "left": 7, "outer": 16}[how]


def test_a_table_joined_with_itself_tells_twice() -> None:
    def build(app: ads.App) -> None:
        table = app.table("in", key=S, value=I)
        table.join(table, lambda mine, theirs: f"{mine}{theirs}").to_stream().to("out", value=S)

    assert steps(build, [("in", "a", 1, 1), ("in", "a", 2, 2), ("in", "a", None, 3)], caching=False) == [
        [("a", "11", 1), ("a", "11", 1)],
        [("a", "22", 2), ("a", "22", 2)],
        [],
    ]


def test_a_join_without_a_store_is_read_through_its_tables() -> None:
    def build(app: ads.App) -> None:
        one, two, three = (app.table(name, key=S, value=I) for name in ("one", "two", "three"))
        pair = one.left_join(two, lambda a, b: (a or 0) + (b or 0)).map_values(lambda v: v * 10)
        pair.join(three, lambda mine, theirs: mine + theirs).to_stream().to("out", value=I)

    found = steps(build, [("one", "a", 1, 5), ("three", "a", 7, 1), ("two", "a", 2, 9), ("three", "a", 8, 2)])
    assert found == [[], [("a", 17, 5)], [("a", 37, 9)], [("a", 38, 9)]]


@pytest.mark.parametrize("partitions", [1, 4])
def test_joins_are_the_same_through_restarts(partitions: int) -> None:
    topology = ads.topology(name="app")(joined("outer", "joined"))
    with TopologyTestDriver(topology, partitions=partitions) as driver:
        table: dict[str, str] = {}
        for i in range(60):
            driver.input("left" if i % 3 else "right").pipe(i if i % 7 else None, key=f"k{i % 5}", at=i)
            if i % 20 == 19:
                driver.restart()
                table |= newest(driver)
        left, right = dict[str, int](), dict[str, int]()
        for i in range(60):
            side = left if i % 3 else right
            side.pop(f"k{i % 5}", None)
            if i % 7:
                side[f"k{i % 5}"] = i
        assert table == {k: f"{left.get(k)}:{right.get(k)}" for k in left | right}


def test_what_cannot_be_joined() -> None:
    def build(app: ads.App) -> None:
        app.table("in", key=S, value=I).join(app.stream("other"), lambda a, b: a)  # type: ignore[arg-type]

    with pytest.raises(ads.TopologyError, match="not a table of this application"):
        ads.topology(name="app")(build).build()
