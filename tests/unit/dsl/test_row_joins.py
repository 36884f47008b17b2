"""Joins of rows: columns, keys, what is refused, and that Python has no part in them."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream.testing import TopologyTestDriver

col = ads.col


class Shown(ads.Record):
    user: str
    ad: int
    kind: Literal["WEB", "APP"]


class Click(ads.Record):
    user: str
    ad: int
    price: Annotated[Decimal, ads.decimal(10, 2)]
    clicked: datetime


SPAN: dict[str, Any] = {"within": "10s", "grace": "1s"}


def sides() -> tuple[ads.Stream, ads.Stream]:
    app = ads.App("x")
    return app.stream("shown", Shown, key="user"), app.stream("click", Click, timestamp="clicked")


def test_columns_of_both() -> None:
    left, right = sides()
    assert left.join(right.drop_columns("ad"), on="user", **SPAN).schema == {
        **left.schema,
        "price": "decimal(10,2)",
        "clicked": "timestamp",
    }
    nested = left.join(right, on="user", into="click", **SPAN)
    assert list(nested.schema) == [
        *("user", "ad", "kind"),
        *("click.user", "click.ad", "click.price", "click.clicked"),
    ]


def test_a_schema_says_what_is_kept() -> None:
    class Both(ads.Record):
        price: Annotated[Decimal, ads.decimal(10, 2)]
        user: str

    left, right = sides()
    joined = left.join(right, on=["user", "ad"], into=Both, **SPAN)
    assert joined.schema == {"price": "decimal(10,2)", "user": "str"}


def run(build: Callable[[ads.App], None], rows: list[tuple[str, dict[str, Any], int]], **options: Any) -> list[Any]:
    options = {"partitions": 1, "commit_every": 1} | options
    with TopologyTestDriver(ads.topology(name="app")(build), **options) as driver:
        for topic, value, at in rows:
            driver.input(topic).pipe(value, key=value["user"], at=at)
        return [(r.key, r.value, r.timestamp) for r in driver.output("out").read()]


def shown(user: str, ad: int, at: int) -> tuple[str, dict[str, Any], int]:
    return ("shown", {"user": user, "ad": ad, "kind": "WEB"}, at)


def click(user: str, ad: int, price: str, at: int) -> tuple[str, dict[str, Any], int]:
    clicked = f"2024-01-15T10:00:{at // 1000:02}.{at % 1000:03}Z"
    return ("click", {"user": user, "ad": ad, "price": price, "clicked": clicked}, at)


BASE = 1_705_312_800_000  # 2024-01-15T10:00:00Z


@pytest.mark.parametrize("how", ["inner", "left", "outer"])
def test_values_keep_their_types(how: Any) -> None:
    """Decimals and times that are compared, computed with and written behind the join; the key of whichever side came."""

    def build(app: ads.App) -> None:
        left = app.stream("shown", Shown, key="user")
        right = app.stream("click", Click, key="user", timestamp="clicked")
        joined = left.join(right, on=["user", "ad"], how=how, **SPAN)
        joined.select("user", "ad", "kind", double=col("price") * 2, second=col("clicked").dt.second()).to("out")

    rows = [
        shown("a", 1, BASE),
        click("a", 1, "1.25", 3_000),
        click("a", 2, "9.00", 4_000),
        shown("b", 1, BASE + 60_000),
        shown("b", 1, BASE + 61_000),
    ]
    both = {"user": "a", "ad": 1, "kind": "WEB", "double": "2.50", "second": 3}
    alone = {"user": "a", "ad": 2, "kind": None, "double": "18.00", "second": 4}
    expected = [both, *([alone] if how == "outer" else [])]
    assert [value for _, value, _ in run(build, rows)] == expected


def test_the_result_has_the_later_time_and_the_key() -> None:
    def build(app: ads.App) -> None:
        left, right = app.stream("shown", Shown, key="user"), app.stream("click", Click, timestamp="clicked")
        left.join(right, on="user", into="click", where=col("ad") == col("click.ad"), **SPAN).to("out", columns=["ad"])

    rows = [click("a", 1, "1.00", 5_000), shown("a", 1, BASE), shown("a", 2, BASE)]
    assert run(build, rows) == [("a", {"ad": 1}, BASE + 5_000)]


@pytest.mark.parametrize("how", ["left", "outer"])
def test_a_pair_that_fails_is_no_match(how: Any) -> None:
    """Of two rows that wait at one time, a match takes away its own; decimals, times and columns of `on` in the condition."""

    def build(app: ads.App) -> None:
        left = app.stream("shown", Shown, key="user")
        right = app.stream("click", Click, key="user", timestamp="clicked")
        where = (col("ad") == col("click.ad")) & (col("click.price") >= 1) & (col("user") == col("click.user"))
        joined = left.join(right, on="user", how=how, where=where, into="click", **SPAN)
        joined.select("user", "ad", click=col("click.ad")).to("out")

    end = [shown("z", 9, BASE + 60_000), shown("z", 9, BASE + 61_000)]
    rows = [shown("a", 1, BASE), shown("a", 2, BASE), click("a", 2, "1.00", 1_000), click("a", 1, "0.99", 2_000), *end]
    found = [(value["user"], value["ad"], value["click"], at - BASE) for _, value, at in run(build, rows)]
    alone = [("a", None, 1, 2_000)] if how == "outer" else []
    assert found == [("a", 2, 2, 1_000), ("a", 1, None, 0), *alone]


@pytest.mark.parametrize("key", ["word", "number", "flag"])
def test_what_is_moved_meets_what_stays(key: str) -> None:
    """The left topic is keyed by the column and stays where it is; the right one is keyed by nothing."""

    class Left(ads.Record):
        word: str
        number: int
        flag: bool

    def build(app: ads.App) -> None:
        left, right = app.stream("l", Left, key=key), app.stream("r", Left)
        joined = left.join(right, on=key, into="r", **SPAN)
        joined.group_by(key).aggregate(n=ads.count()).to("out")

    words = [*(f"w{n}" for n in range(20)), 'ünï "quoted"', "tab\there"]
    with TopologyTestDriver(ads.topology(name="app")(build), partitions=5) as driver:
        for n, word in enumerate(words):
            row = {"word": word, "number": n - 3, "flag": n % 2 == 0}
            text = {"word": word, "number": str(n - 3), "flag": "true" if n % 2 == 0 else "false"}[key]
            driver.input("l").pipe(row, key=text, at=1_000 + n)
            driver.input("r").pipe(row, at=1_000 + n)
        found = {r.value[key]: r.value["n"] for r in driver.output("out").read()}
        topics = [topic for topic in driver._description["topics"] if "repartition" in topic]
    assert len(topics) == 1, topics
    half = len(words) // 2
    assert found == (
        {True: half * half, False: half * half}
        if key == "flag"
        else {word if key == "word" else n - 3: 1 for n, word in enumerate(words)}
    )


def test_joins_of_joins() -> None:
    """Rows of a join are joined again, and grouped by its key without being moved."""

    def build(app: ads.App) -> None:
        left, right = (
            app.stream("shown", Shown, key="user"),
            app.stream("click", Click, key="user", timestamp="clicked"),
        )
        once = left.join(right, on="user", into="one", **SPAN)
        twice = once.join(right, on={"user": "user"}, into="two", **SPAN)
        twice.group_by("user").aggregate(n=ads.count()).to("out")

    rows = [shown("a", 1, BASE), click("a", 1, "1.00", 1_000), click("a", 2, "1.00", 2_000)]
    assert run(build, rows)[-1][:2] == ("a", {"user": "a", "n": 4})


def test_no_python_is_called() -> None:
    graphs = []

    def build(app: ads.App) -> None:
        left, right = app.stream("shown", Shown, key="user"), app.stream("click", Click, timestamp="clicked")
        where = col("ad") == col("click.ad")
        for how in ("inner", "left", "outer"):
            on = ["user", col("ad") * 2]
            found = left.join(right, on=on, how=how, where=where, into="click", **SPAN)
            found.to(f"out-{how}")
        pick = ads.latest_by("click.clicked", "click.ad")
        left.join(right, on="user", where=where, into="click", pick=pick, **SPAN).to("out-picked")
        table = right.to_table("user", latest_by="clicked")
        left.join(table, on="user", how="left", where=where, into="click").to("out-table")
        graphs.append(left._graph)

    ads.topology(name="app")(build).build()
    assert graphs
    for graph in graphs:
        assert {type(fn).__name__ for fn in graph.callables} <= {"Native"}
        assert {node.rung for node in graph.nodes} <= {"expression", "record"}


def test_a_table_is_joined_with_typed_and_moved_by_its_key() -> None:
    """One table, joined with twice; its topic is keyed by nothing, the stream's by another column."""

    def build(app: ads.App) -> None:
        newest = app.stream("click", Click, timestamp="clicked").to_table("ad", latest_by=col("clicked"), name="newest")
        left = app.stream("shown", Shown, key="user")
        left.join(newest, on="ad", how="left", into="click", name="j").select(
            "user", double=col("click.price") * 2, second=col("click.clicked").dt.second()
        ).to("out")
        left.join(newest, on={"ad": "ad"}, where=col("price") > 2, into=Priced).to("dear")

    class Priced(ads.Record):
        ad: int
        kind: str
        price: Annotated[Decimal, ads.decimal(10, 2)]

    # The table's `user` clashes with the stream's, and the schema does not ask for it.
    with pytest.raises(ads.TopologyError) as raised:
        ads.topology(name="app")(build).build()
    assert raised.value.code == "duplicate_column"

    def moved(app: ads.App) -> None:
        clicks = app.stream("click", Click, timestamp="clicked").drop_columns("user")
        newest = clicks.to_table("ad", latest_by=col("clicked"), name="newest")
        left = app.stream("shown", Shown, key="user")
        double = left.join(newest, on="ad", how="left", into="click", name="j")
        double.select("user", double=col("click.price") * 2, second=col("click.clicked").dt.second()).to("out")
        left.join(newest, on={"ad": "ad"}, where=col("price") > 2, into=Priced, name="k").to("dear")

    with TopologyTestDriver(ads.topology(name="app")(moved), partitions=3) as driver:
        for topic, value, at in [
            click("a", 7, "2.50", 3_000),
            click("a", 7, "9.00", 2_000),
            click("a", 8, "1.00", 1_000),
        ]:
            driver.input(topic).pipe(value, at=at)
        for n, ad in enumerate((7, 8, 9)):
            topic, value, at = shown("u", ad, BASE + 5_000 + n)
            driver.input(topic).pipe(value, key="u", at=at)
        found = sorted((r.timestamp, r.value["double"], r.value["second"]) for r in driver.output("out").read())
        assert found == [(BASE + 5_000, "5.00", 3), (BASE + 5_001, "2.00", 1), (BASE + 5_002, None, None)]
        assert [r.value for r in driver.output("dear").read()] == [{"ad": 7, "kind": "WEB", "price": "2.50"}]
        assert sum(reasons.get("dropped:older", 0) for reasons in driver.counters().values()) == 1


def test_a_table_with_a_history_says_what_held_then() -> None:
    def build(app: ads.App) -> None:
        clicks = app.stream("click", Click, key="user", timestamp="clicked")
        left = app.stream("shown", Shown, key="user")
        table = clicks.to_table("user", history="1h", name="t")
        left.join(table, on="user", grace="5s", into="click").to("out", columns=["click.price"])

    rows = [
        click("a", 1, "1.00", 1_000),
        shown("a", 1, BASE + 6_000),
        click("a", 1, "2.00", 4_000),  # late, and it held when the row came
        click("a", 1, "3.00", 7_000),
        shown("b", 1, BASE + 30_000),
    ]
    assert run(build, rows) == [("a", {"click.price": "2.00"}, BASE + 6_000)]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.sampled_from(["put", "gone", None])), max_size=12),
    st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_a_row_takes_its_key_out_of_the_table(changes: list[Any], versions: bool) -> None:
    """After each change, what a join sees of each key is what a dict has; also as of times, and after a restart."""

    class Change(ads.Record):
        user: str
        n: int
        kind: str | None

    def build(app: ads.App) -> None:
        how: dict[str, Any] = {"history": "1h"} if versions else {}
        table = app.stream("changes", Change).to_table("user", deletes=col("kind") == "gone", name="kept", **how)
        asked = app.stream("asked", Asked)
        asked.join(table, on="user", how="left", into="t", name="j").select("user", n=col("t.n")).to("out")

    class Asked(ads.Record):
        user: str

    model: dict[str, int] = {}
    with TopologyTestDriver(ads.topology(name="app")(build), partitions=2) as driver:
        for at, (user, n, kind) in enumerate(changes):
            driver.input("changes").pipe({"user": user, "n": n, "kind": kind}, at=10 * at)
            driver.run()
            model[user] = n
            if kind == "gone":
                del model[user]
            if at % 5 == 4:
                driver.restart()
            for one in "ab":
                driver.input("asked").pipe({"user": one}, at=10 * at + 1)
            assert {r.value["user"]: r.value["n"] for r in driver.output("out").read()} == {
                one: model.get(one) for one in "ab"
            }


def test_deletions_count_whatever_latest_by_says() -> None:
    class Offer(ads.Record):
        ad: int
        price: Annotated[Decimal, ads.decimal(10, 2)]
        over: bool

    def build(app: ads.App) -> None:
        table = app.stream("offers", Offer).to_table("ad", latest_by="price", deletes=col("over"))
        joined = app.stream("shown", Shown).join(table, on="ad", how="left", into="c", name="j")
        joined.select("ad", price=col("c.price")).to("out")

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        for price, over in [("5.00", False), ("4.00", False), ("1.00", True), ("2.00", False)]:
            driver.input("offers").pipe({"ad": 1, "price": price, "over": over}, at=1)
            driver.run()
            driver.input("shown").pipe({"user": "u", "ad": 1, "kind": "WEB"}, at=1)
        assert [r.value["price"] for r in driver.output("out").read()] == ["5.00", "5.00", None, "2.00"]


def test_what_is_refused_of_tables() -> None:
    into: dict[str, Any] = {"into": "c"}
    refused("not_the_key", lambda a, b: a.join(b.to_table("user"), on="ad", **into))
    refused("not_the_key", lambda a, b: a.join(b.to_table("user", "ad"), on="ad", **into))
    refused("not_the_key", lambda a, b: a.join(b.to_table("user"), on=col("user").str.to_lowercase(), **into))
    refused("bad_argument", lambda a, b: a.join(b.to_table("user"), on="user", how="outer", **into))
    refused("bad_argument", lambda a, b: a.join(b.to_table("user"), on="user", within="1s", **into))
    refused("grace_without_versions", lambda a, b: a.join(b.to_table("user"), on="user", grace="1s", **into))
    for made, code in [
        (lambda rows: rows.to_table(), "bad_argument"),
        (lambda rows: rows.to_table("usr"), "unknown_column"),
        (lambda rows: rows.to_table("user", latest_by="cliked"), "unknown_column"),
        (lambda rows: rows.to_table("user", latest_by=3), "bad_argument"),
        (lambda rows: rows.to_table("user", latest_by=ads.udf(lambda row: 1, type=int)), "not_native"),
        (lambda rows: rows.to_table("user", latest_by="ad", history="1h"), "bad_argument"),
        (lambda rows: rows.to_table("user", deletes="ad"), "bad_argument"),
        (lambda rows: rows.to_table("user", deletes=col("ad")), "type_mismatch"),
        (lambda rows: rows.to_table("user", deletes=col("add") == 1), "unknown_column"),
        (lambda rows: rows.to_table("user", deletes=ads.udf(lambda row: True, type=bool)), "not_native"),
    ]:
        with pytest.raises(ads.TopologyError) as raised:
            made(sides()[1])
        assert (raised.value.code, raised.value.operation) == (code, "to_table")


def refused(code: str, join: Callable[[ads.Stream, ads.Stream], object]) -> ads.TopologyError:
    with pytest.raises(ads.TopologyError) as raised:
        join(*sides())
    assert raised.value.code == code
    assert raised.value.operation in ("join", "between")
    assert "at test_row_joins.py:" in str(raised.value)
    assert raised.value.hint
    return raised.value


def test_what_is_refused() -> None:
    assert refused("unknown_column", lambda a, b: a.join(b, on="usr", **SPAN)).hint == "did you mean `user`?"
    refused("unknown_column", lambda a, b: a.join(b, on="kind", **SPAN))  # of one side only
    refused("type_mismatch", lambda a, b: a.join(b, on={"user": "ad"}, **SPAN))
    refused("bad_argument", lambda a, b: a.join(b, on=[], **SPAN))
    refused("bad_argument", lambda a, b: a.join(b, on=3, **SPAN))  # type: ignore[arg-type]
    refused("bad_argument", lambda a, b: a.join(b, on="user", how="full", **SPAN))  # type: ignore[arg-type]
    refused("bad_argument", lambda a, b: a.join(b.records("user"), on="user", **SPAN))  # type: ignore[arg-type]
    refused("bad_argument", lambda a, b: a.join(b, on="user", into="", **SPAN))
    refused("reserved_name", lambda a, b: a.join(b, on="user", into="$x", **SPAN))
    refused("within_missing", lambda a, b: a.join(b, on="user", grace="1s"))
    refused("grace_missing", lambda a, b: a.join(b, on="user", within="1s"))
    refused("bad_duration", lambda a, b: a.join(b, on="user", within="1mo", grace="1s"))
    refused("bad_window", lambda a, b: a.join(b, on="user", within=ads.between("1s", "0s"), grace="1s"))
    refused("bad_window", lambda a, b: a.join(b, on="user", within="0s", grace="0s"))
    clash = refused("duplicate_column", lambda a, b: a.join(b, on="user", **SPAN))
    assert '`into="right"`' in str(clash.hint)
    refused("not_a_condition", lambda a, b: a.join(b, on="user", into="c", where=col("c.price") + 1, **SPAN))
    refused("unknown_column", lambda a, b: a.join(b, on="user", into="c", where=col("c.prise") > 1, **SPAN))
    refused("bad_argument", lambda a, b: a.join(b, on="user", into="c", where=lambda row: True, **SPAN))  # type: ignore[arg-type]
    refused("other_app", lambda a, b: a.join(sides()[1], on="user", into="c", **SPAN))


@pytest.mark.parametrize("how", ["left", "outer"])
def test_conditions_that_are_refused_inside_a_join(how: Any) -> None:
    options: dict[str, Any] = {"on": "user", "how": how, "into": "c", **SPAN}
    refused("not_a_condition", lambda a, b: a.join(b, where=col("ad") + 1, **options))
    refused("unknown_column", lambda a, b: a.join(b, where=col("cad") > 1, **options))
    refused("unknown_column", lambda a, b: a.join(b, where=ads.offset() > 1, **options))
    refused("not_native", lambda a, b: a.join(b, where=ads.udf(lambda row: True, type=bool), **options))


def test_what_cannot_be_picked() -> None:
    options: dict[str, Any] = {"on": "user", "into": "c", **SPAN}
    refused("bad_argument", lambda a, b: a.join(b, pick="best", **options))  # type: ignore[arg-type]
    refused("bad_argument", lambda a, b: a.join(b, pick="last", how="outer", **options))
    refused("bad_argument", lambda a, b: a.join(b.to_table("user"), on="user", into="c", pick="last"))
    refused("unknown_column", lambda a, b: a.join(b, pick=ads.latest_by("c.when"), **options))
    refused("unknown_column", lambda a, b: a.join(b, pick=ads.latest_by(ads.offset()), **options))
    call = ads.udf(lambda row: True, type=bool)
    refused("not_native", lambda a, b: a.join(b, pick=ads.latest_by(call), **options))
    refused("not_native", lambda a, b: a.join(b, pick="first", where=call, **options))
    with pytest.raises(ads.TopologyError) as raised:
        ads.latest_by()
    assert (raised.value.code, raised.value.operation) == ("bad_argument", "latest_by")


def test_a_schema_must_fit() -> None:
    class Wrong(ads.Record):
        price: int

    class Missing(ads.Record):
        cost: int

    both = ["user", "ad"]
    refused("schema_mismatch", lambda a, b: a.join(b, on=both, into=Wrong, **SPAN))
    refused("unknown_column", lambda a, b: a.join(b, on=both, into=Missing, **SPAN))


class Event(ads.Record):
    user: str
    n: int


@pytest.mark.parametrize("pick", [None, "last"])
@pytest.mark.parametrize("first", ["l", "r"])
@pytest.mark.parametrize(("at", "met"), [(89, False), (90, True), (120, True), (121, False)])
def test_both_ends_of_a_span_belong_to_it(at: int, met: bool, first: str, pick: Any) -> None:
    """Left at 100, right from 90 to 120, whichever comes first."""

    def build(app: ads.App) -> None:
        left, right = app.stream("l", Event, key="user"), app.stream("r", Event, key="user")
        within = ads.between("-10ms", "20ms")
        left.join(right, on="user", within=within, grace="1s", pick=pick, into="r").to("out")

    rows = {"l": 100, "r": at}
    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1, commit_every=1) as driver:
        for topic in sorted(rows, reverse=first == "r"):
            driver.input(topic).pipe({"user": "a", "n": rows[topic]}, key="a", at=rows[topic])
        driver.input("r").pipe({"user": "z", "n": 0}, key="z", at=9_000)
        found = [(r.value["n"], r.value["r.n"], r.timestamp) for r in driver.output("out").read()]
    assert found == ([(100, at, max(100, at))] if met else [])


def test_who_picks_leaves_when_nothing_can_come_any_more_and_not_before() -> None:
    """Left at 100, right from 90 to 110, grace 5: over when 116 has been seen."""

    def told(rows: list[tuple[str, str, int, int]]) -> list[Any]:
        def build(app: ads.App) -> None:
            left, right = app.stream("l", Event, key="user"), app.stream("r", Event, key="user")
            within = ads.between("-10ms", "10ms")
            found = left.join(right, on="user", how="left", within=within, grace="5ms", pick="last", into="r")
            found.to("out", columns=["user", "r.n"])

        found = []
        with TopologyTestDriver(ads.topology(name="app")(build), partitions=1, commit_every=1) as driver:
            for topic, user, n, at in rows:
                driver.input(topic).pipe({"user": user, "n": n}, key=user, at=at)
                found.append([(r.value["r.n"], r.timestamp) for r in driver.output("out").read() if r.key == "a"])
        return found

    left = ("l", "a", 0, 100)
    first, last = ("r", "a", 1, 90), ("r", "a", 2, 110)
    still, over = ("r", "z", 0, 115), ("r", "z", 0, 116)
    assert told([left, still, last, over]) == [[], [], [], [(2, 110)]]  # the last moment to come late
    assert told([first, left, still, over]) == [[], [], [], [(1, 100)]]  # the earliest is still kept
    assert told([still, left, last, over]) == [[], [], [], [(2, 110)]]  # late itself, and not too late
    assert told([over, left, last]) == [[], [(None, 100)], []]  # too late: at once, by what is there
    assert told([left, ("l", "z", 0, 115), last, ("l", "z", 0, 116)]) == [[], [], [], [(2, 110)]]  # either side's time


@pytest.mark.parametrize("pick", ["first", "last", ads.latest_by("r.n")])
@pytest.mark.parametrize("how", ["inner", "left"])
def test_a_span_before_the_first_instant_holds_nobody_to_pick(how: Any, pick: Any) -> None:
    """Left at 2, right from -10 to -1: time begins at 0, and the right row there is none of it."""

    def build(app: ads.App) -> None:
        left, right = app.stream("l", Event, key="user"), app.stream("r", Event, key="user")
        within = ads.between("-12ms", "-3ms")
        left.join(right, on="user", how=how, within=within, grace="5ms", pick=pick, into="r").to("out")

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1, commit_every=1) as driver:
        driver.input("l").pipe({"user": "a", "n": 0}, key="a", at=2)
        driver.input("r").pipe({"user": "a", "n": 1}, key="a", at=0)
        driver.input("l").pipe({"user": "a", "n": 2}, key="a", at=3)  # 0 is three before: the first it can have
        driver.input("r").pipe({"user": "z", "n": 3}, key="z", at=100)
        found = [(r.value["n"], r.value["r.n"], r.timestamp) for r in driver.output("out").read()]
    assert found == ([(0, None, 2)] if how == "left" else []) + [(2, 1, 3)]


def test_a_span_in_the_past_is_kept_whole_for_who_picks() -> None:
    """Other right rows are as new as the left one: what lies at the far end of its span is not forgotten for them."""

    def build(app: ads.App) -> None:
        left, right = app.stream("l", Event, key="user"), app.stream("r", Event, key="user")
        within = ads.between("-9ms", "-2ms")
        left.join(right, on="user", within=within, grace="0ms", pick="first", into="r").to("out")

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1, commit_every=1) as driver:
        driver.input("r").pipe({"user": "b", "n": 1}, key="b", at=100)
        driver.input("r").pipe({"user": "a", "n": 2}, key="a", at=109)
        driver.input("l").pipe({"user": "b", "n": 3}, key="b", at=109)
        assert [(r.value["n"], r.value["r.n"], r.timestamp) for r in driver.output("out").read()] == [(3, 1, 109)]
