"""Expressions, aggregates and joins of dicts over records: the same as functions that say so in Python."""

from collections.abc import Callable
from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver
from tests.unit.dsl.support import refused

col, S = ads.col, ads.serdes.string
ROWS = [
    ("a", {"x": 1, "y": "p"}, 5),
    ("b", {"x": 20, "y": None}, 6),
    ("a", {"x": 30}, 7),
    ("a", {"x": -2, "y": "q"}, 3),
]


def run(build: Callable[[ads.App], None], rows: list[tuple[Any, Any, int]] = ROWS) -> list[tuple[Any, Any, int]]:
    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1, commit_every=1) as driver:
        for key, value, ts in rows:
            driver.input("in").pipe(value, key=key, at=ts)
        return [(r.key, r.value, r.timestamp) for r in driver.output("out").read()]


def both(native: Callable[[ads.KStream], Any], python: Callable[[ads.KStream], Any]) -> list[Any]:
    def build(how: Callable[[ads.KStream], Any]) -> Callable[[ads.App], None]:
        return lambda app: how(app.stream("in", key=S)).to("out")

    found = run(build(native))
    assert found == run(build(python))
    return found


def test_conditions() -> None:
    found = both(
        lambda s: s.filter((col("x") > 0) & col("y").is_not_null()),
        lambda s: s.filter(lambda k, v: v["x"] > 0 and v.get("y") is not None),
    )
    assert [v["x"] for _, v, _ in found] == [1]
    both(lambda s: s.filter_not(ads.key() == "a"), lambda s: s.filter_not(lambda k, v: k == "a"))


def test_values_and_keys() -> None:
    found = both(
        lambda s: s.map_values(
            ads.struct(
                k=ads.key(),
                twice=col("x") * 2,
                big=ads.when(col("x") >= 20).then(ads.lit("yes")).otherwise(ads.lit("no")),
            )
        ),
        lambda s: s.map_values(lambda k, v: {"k": k, "twice": v["x"] * 2, "big": "yes" if v["x"] >= 20 else "no"}),
    )
    assert found[1] == ("b", {"k": "b", "twice": 40, "big": "yes"}, 6)
    both(
        lambda s: s.select_key(ads.concat_str(ads.key(), ads.lit("-"), col("x").cast(str))),
        lambda s: s.select_key(lambda k, v: f"{k}-{v['x']}"),
    )


def test_branches() -> None:
    def branches(big: Any) -> Callable[[ads.KStream], ads.KStream]:
        def build(stream: ads.KStream) -> ads.KStream:
            many, few = stream.split().branch(big).default_branch()
            return few.merge(many)

        return build

    both(branches(col("x") >= 20), branches(lambda k, v: v["x"] >= 20))


@pytest.mark.parametrize("restart", [False, True])
def test_aggregates(restart: bool) -> None:
    def build(app: ads.App) -> None:
        folded = (
            app.stream("in", key=S)
            .group_by_key()
            .aggregate(
                n=ads.count(where=col("x") > 0),
                total=ads.sum("x"),
                low=ads.min("x"),
                last=ads.last("y"),
                first=ads.first("y"),
            )
        )
        folded.to_stream().to("out")

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1, commit_every=1) as driver:
        for key, value, ts in ROWS:
            driver.input("in").pipe(value, key=key, at=ts)
            if restart:
                driver.restart()
        found = {r.key: r.value for r in driver.output("out").read()}
    assert found == {
        "a": {"n": 2, "total": 29, "low": -2, "last": "q", "first": "p"},
        "b": {"n": 1, "total": 20, "low": 20, "last": None, "first": None},
    }


def test_aggregates_of_sessions_merge() -> None:
    window = ads.session("10ms", grace="1h")

    def fold(key: str, value: dict[str, Any], held: dict[str, Any]) -> dict[str, Any]:
        return {"n": held["n"] + 1, "total": held["total"] + value["x"]}

    def merge(key: str, one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        return {name: one[name] + other[name] for name in one}

    def native(stream: ads.KStream) -> ads.KStream:
        return stream.group_by_key().windowed_by(window).aggregate(n=ads.count(), total=ads.sum("x")).to_stream()

    def python(stream: ads.KStream) -> ads.KStream:
        grouped = stream.group_by_key().windowed_by(window)
        return grouped.aggregate(lambda: {"n": 0, "total": 0}, fold, merge).to_stream()

    rows = [("a", {"x": x}, at) for x, at in ((1, 100), (2, 120), (4, 150), (8, 110), (16, 90), (32, 140), (64, 130))]
    found: list[list[Any]] = []
    for build in (native, python):
        with TopologyTestDriver(
            ads.topology(name="app")(lambda app, build=build: build(app.stream("in", key=S)).to("out")),
            partitions=1,
            commit_every=1,
        ) as driver:
            for key, value, ts in rows:
                driver.input("in").pipe(value, key=key, at=ts)
            found.append([(r.key, r.value, r.timestamp) for r in driver.output("out").read()])
    assert found[0] == found[1]
    assert found[0][-1][1:] == ({"n": 7, "total": 127}, 150)


def test_aggregates_of_a_table_take_back() -> None:
    def build(app: ads.App) -> None:
        table = app.table("in", key=S)
        grouped = table.group_by(ads.pair(col("y").fill_null("none"), ads.value()))
        grouped.aggregate(n=ads.count(), total=ads.sum("x")).to_stream().to("out")

    assert run(build)[-1] == ("q", {"n": 1, "total": -2}, 3)
    newest = {k: v for k, v, _ in run(build)}
    assert newest == {"p": {"n": 0, "total": 0}, "none": {"n": 1, "total": 20}, "q": {"n": 1, "total": -2}}


def test_a_value_of_another_kind_is_a_dead_letter() -> None:
    def build(app: ads.App) -> None:
        app.stream("in", key=S).filter(col("x") > 1).named("large").to("out")

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        for value in ({"x": "many"}, 7, {"x": 2}):
            driver.input("in").pipe(value, key="k")
        assert [r.value for r in driver.output("out").read()] == [{"x": 2}]
        assert [(d.reason, d.operator, d.offset) for d in driver.dead_letters("in")] == [
            ("bad_type", "large", 0),
            ("bad_type", "large", 1),
        ]


@pytest.mark.parametrize(
    ("code", "build"),
    [
        ("aggregate_without_group", lambda s: s.filter(ads.sum("x") > 1)),
        ("not_native", lambda s: s.map_values(ads.udf(lambda v: 1, type=int))),
        ("not_native", lambda s: s.group_by_key().aggregate(n=ads.sum(ads.udf(lambda v: 1, type=int)))),
        ("not_an_aggregate", lambda s: s.group_by_key().aggregate(n=ads.mean("x"))),
        ("not_retractable", lambda s: s.to_table().group_by(lambda k, v: (k, v)).aggregate(n=ads.min("x"))),
        ("bad_argument", lambda s: s.group_by_key().aggregate(lambda: 0, lambda k, v, a: a, n=ads.count())),
        ("bad_argument", lambda s: s.group_by_key().reduce(col("x"))),
        ("bad_argument", lambda s: s.group_by_key().windowed_by(ads.session("1s", grace="1s")).aggregate(int, int)),
        (
            "bad_argument",
            lambda s: s.group_by_key().windowed_by(ads.session("1s", grace="1s")).aggregate(merger=max, n=ads.count()),
        ),
    ],
)
def test_what_is_refused(code: str, build: Callable[[ads.KStream], Any]) -> None:
    with pytest.raises(ads.TopologyError) as raised:
        ads.topology(name="app")(lambda app: build(app.stream("in", key=S))).build()
    assert raised.value.code == code
    assert raised.value.operation


@pytest.mark.parametrize(
    ("operation", "build"),
    [
        ("filter", lambda s: s.filter(ads.now() >= ads.col("at"))),
        ("filter_not", lambda s: s.filter_not((ads.col("n") > 0) & (ads.now() >= ads.col("at")))),
        ("map_values", lambda s: s.map_values(ads.struct(at=ads.now()))),
        ("aggregate", lambda s: s.group_by_key().aggregate(n=ads.max(ads.now()))),
        ("aggregate", lambda s: s.group_by_key().aggregate(n=ads.count(where=ads.now() > ads.col("at")))),
    ],
)
def test_records_have_no_timers(operation: str, build: Callable[[ads.KStream], Any]) -> None:
    """Said when the operation is written, with the line: the core would only say that there is no such function."""
    with refused("not_a_timer", "`now()` says from when on a row passes", ".rows(", operation):
        build(ads.App("test").stream("in"))
