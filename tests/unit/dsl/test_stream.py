import inspect
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import pytest

import adstream as ads
from adstream import col
from adstream.dsl.expr import CallRow
from adstream.dsl.stream import MapRow
from tests.unit.dsl.support import Event, events, nodes, refused


def windowed(**aggregates: Any) -> ads.Table:
    grouped = events().group_by("user").windowed_by(ads.tumbling("5m", grace="10s"))
    return grouped.aggregate(**(aggregates or {"n": ads.count()}))


def plain() -> ads.Table:
    return events().group_by("user").aggregate(n=ads.count(), total=ads.sum("price"))


# --- rows ---------------------------------------------------------------------------------------


def test_every_operation_is_a_new_node_with_the_users_line():
    source = events()
    line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    kept = source.filter(col("price") > 0, reason="free")
    assert kept is not source
    assert nodes(kept)[-1] == {
        "id": 1,
        "op": "filter",
        "name": "filter-1",
        "inputs": [[0, 0]],
        "line": f"test_stream.py:{line}",
        "expr": {"op": "gt", "args": [{"op": "col", "name": "price"}, {"op": "lit", "type": "int", "value": 0}]},
        "reason": "free",
    }


def test_a_stream_forks():
    source = events()
    a, b = source.filter(col("price") > 0), source.filter(col("price") <= 0)
    assert [n["inputs"] for n in nodes(a)] == [[], [[0, 0]], [[0, 0]]]
    assert [n["name"] for n in nodes(b)] == ["events", "filter-1", "filter-2"]


def test_filter_not_keeps_null():
    text = repr(nodes(events().filter_not(col("price") > 0))[-1]["expr"])
    assert text.startswith("{'op': 'not', 'args': [{'op': 'fill_null'")


def test_require():
    node = nodes(events().require(bad_price=col("price") >= 0, no_user=col("user").is_not_null()))[-1]
    assert node["op"] == "require"
    assert [reason for reason, _ in node["rules"]] == ["bad_price", "no_user"]
    with refused("not_a_condition", "the rule `bad` is int", operation="require"):
        events().require(bad=col("count"))
    with refused("bad_argument", "names no rule"):
        events().require()


def test_projections_know_their_types():
    stream = events().with_columns(double=col("price") * 2, name=ads.lit("x"), copy="user")
    assert list(stream.schema.items())[-3:] == [("double", "decimal(38,2)"), ("name", "str"), ("copy", "str")]
    chosen = stream.select("user", col("double").alias("twice"), half=col("count") / 2)
    assert chosen.schema == {"user": "str", "twice": "decimal(38,2)", "half": "float"}
    assert "price" not in events().drop_columns("price", "count").schema
    with refused("unnamed_expression", '`col("count") / 2` has no name', 'name=col("count") / 2', "select"):
        events().select(col("count") / 2)
    with refused("duplicate_column", "`user` is there twice"):
        events().select("user", user=col("kind"))
    with refused("reserved_name", "`$x`"):
        events().with_columns(**{"$x": col("user")})


def test_conditions_are_conditions():
    with refused("not_a_condition", "the condition is int, not bool", 'compare it: `col("count") == …`', "filter"):
        events().filter(col("count"))
    with refused("bad_argument", "not a condition: 'price > 0'", operation="filter"):
        events().filter("price > 0")  # type: ignore[arg-type]


def test_unknown_columns_have_a_nearest_name():
    with refused("unknown_column", "no column `pricee`", "did you mean `price`?", "filter"):
        events().filter(col("pricee") > 0)
    with refused("unknown_column", "no column `CLICK`", 'for the text itself write `lit("CLICK")`', "with_columns"):
        events().with_columns(x=ads.when(col("count") > 0).then("CLICK").otherwise("user"))
    with refused("unknown_column", "no column `usr`", "did you mean `user`?", "group_by"):
        events().group_by("usr")
    with refused("unknown_column", "no column `evnt_id`", "`event_id`", "deduplicate"):
        events().deduplicate("evnt_id", within="1h")
    with refused("unknown_column", "no column `usr`", "`user`", "to"):
        events().to("out", key="usr")
    with refused("unknown_column", "no column `usr`", "`user`", "sink"):
        plain().sink(ads.sinks.Sql("t", key=["usr"]))


def test_types_that_do_not_fit_are_the_cores_to_refuse():
    with pytest.raises(ads.TopologyError) as raised:
        events().filter(col("price") > col("weight"))
    assert (raised.value.code, raised.value.operation) == ("type_mismatch", "filter")
    assert str(raised.value.line).startswith("test_stream.py:")
    assert "cast" in str(raised.value.hint)
    with pytest.raises(ads.TopologyError) as raised:
        events().filter(col("kind") == "CLIK")
    assert "`CLICK`" in str(raised.value.hint)


def test_deduplicate():
    node = nodes(events().deduplicate("event_id", within="1h"))[-1]
    assert (node["columns"], node["within_ms"]) == (["event_id"], 3_600_000)
    with refused("bad_argument", "by which columns?"):
        events().deduplicate(within="1h")
    with refused("duplicate_column", "`user` is there twice"):
        events().deduplicate("user", "user", within="1h")


# --- callables ----------------------------------------------------------------------------------


def test_callables_stand_wherever_expressions_do():
    def twice(row: dict[str, Any]) -> Annotated[Decimal, ads.decimal(12, 2)]:
        return row["price"] * 2

    stream = events().filter(lambda row: row["price"] > 0).with_columns(twice=twice)
    assert stream.schema["twice"] == "decimal(12,2)"
    _, kept, added = nodes(stream)
    assert (kept["expr"]["op"], kept["expr"]["type"], kept["expr"]["function"]) == ("call", "bool", 0)
    assert [arg["name"] for arg in kept["expr"]["args"]] == list(Event.__adstream_schema__.types)
    assert added["exprs"][0][1]["function"] == 1
    assert all(isinstance(fn, CallRow) for fn in stream._graph.callables)
    with refused("untyped_callable", "`x`: what does `<lambda>` return?", "x=ads.udf(<lambda>, type=…)"):
        events().with_columns(x=lambda row: 1)


def test_map():
    class Out(ads.Record):
        user: str
        n: int | None

    stream = events(key="user").map(lambda row: Out(user=row["user"]), schema=Out)
    assert stream.schema == {"user": "str", "n": "int"}
    node = nodes(stream)[-1]
    assert (node["op"], node["function"]) == ("map", 0)
    assert node["schema"] == [{"name": "user", "type": "str"}, {"name": "n", "type": "int"}]
    (fn,) = stream._graph.callables
    assert isinstance(fn, MapRow)
    assert fn({"user": "u"}) == {"user": "u", "n": None}
    with refused("bad_argument", "not a function", ".with_columns(…)"):
        events().map(col("user"), schema=Out)  # type: ignore[arg-type]

    async def waits(row: dict[str, Any]) -> dict[str, Any]:
        return row

    with refused("bad_argument", "an async function: `waits`", ".map_async(", "map"):
        events().map(waits, schema=Out)


# --- forks and joints ---------------------------------------------------------------------------


def test_branch():
    clicks, views, rest = events().branch(col("kind") == "CLICK", col("kind") == "VIEW")
    assert [s._port for s in (clicks, views, rest)] == [(1, 0), (1, 1), (1, 2)]
    named = events().split(click=col("kind") == "CLICK")
    assert list(named) == ["click", "rest"]
    with refused("bad_argument", "all named or none"):
        events().branch(col("count") > 0, more=col("count") > 1)  # type: ignore[call-overload]
    with refused("bad_argument", "`rest` is the name"):
        events().branch(rest=col("count") > 0)


def test_merge():
    a, b, _ = events(key="user").branch(col("kind") == "CLICK", col("kind") == "VIEW")
    both = a.merge(b)
    assert nodes(both)[-1]["inputs"] == [[1, 0], [1, 1]]
    assert [part.name for part in both._key] == ["user"]
    with refused("schema_mismatch", "the other has no `price`", ".select(…)", "merge"):
        a.merge(b.drop_columns("price"))
    with refused("schema_mismatch", "`count` is int here and float in the other"):
        a.merge(b.with_columns(count=col("weight")))
    with refused("other_app", "two apps"):
        a.merge(events())


# --- names --------------------------------------------------------------------------------------


def test_names():
    stream = events().filter(col("count") > 0).named("positive")
    assert nodes(stream)[-1]["name"] == "positive"
    assert repr(stream).startswith("<Stream positive: event_id: str, ")
    with refused("duplicate_name", "`positive` is the name of a filter at test_stream.py:"):
        stream.select("user").named("positive")
    with refused("bad_name", "`a b` cannot be a name"):
        stream.select("user").named("a b")
    with refused("renamed", "it is called `positive` already"):
        stream.named("other")


# --- groups and windows -------------------------------------------------------------------------


def test_group_by_expressions():
    table = events().group_by("user", day=col("at").dt.truncate("1d")).count()
    assert table.schema == {"user": "str", "day": "timestamp", "count": "int"}
    assert [n["op"] for n in nodes(table)] == ["source", "with_columns", "aggregate"]
    assert nodes(table)[-1]["keys"] == ["user", "day"]


def test_windows_need_groups():
    with refused("window_without_key", "a window needs groups", ".group_by(…)", "windowed_by"):
        events().windowed_by(ads.tumbling("5m", grace="0s"))
    with refused("aggregate_without_group", "needs groups", ".group_by(…)"):
        events().aggregate(n=ads.count())
    with refused("bad_argument", "not a window: '5m'", "ads.tumbling"):
        events().group_by("user").windowed_by("5m")  # type: ignore[arg-type]
    with refused("not_windowed", "`window_start()` needs a window", ".windowed_by"):
        events().with_columns(w=ads.window_start())
    with refused("not_windowed", "`window_end()` needs a window"):
        plain().with_columns(w=ads.window_end())


def test_a_windowed_aggregate_in_the_plan():
    node = nodes(windowed())[-1]
    assert node["window"] == {"kind": "tumbling", "size_ms": 300_000, "grace_ms": 10_000, "retention_ms": 310_000}
    assert (node["keys"], node["combine"]) == (["user"], True)
    assert list(windowed().schema) == ["user", "$window_start", "$window_end", "n"]


# --- tables -------------------------------------------------------------------------------------


def test_views_are_put_on_the_final_port_too():
    rows = windowed().with_columns(start=ads.window_start()).select("user", "start", "n")
    rows.to_stream()
    final = rows.final()
    assert rows.final() is final
    plan = nodes(final)
    assert [(n["name"], n["inputs"]) for n in plan[1:]] == [
        ("aggregate-1", [[0, 0]]),
        ("with_columns-1", [[1, 0]]),
        ("select-1", [[2, 0]]),
        ("to_stream-1", [[3, 0]]),
        ("with_columns-1-final", [[1, 1]]),
        ("select-1-final", [[5, 0]]),
    ]
    assert plan[2]["exprs"] == plan[5]["exprs"]
    assert final.schema == rows.schema
    assert list(final.schema) == ["$window_start", "$window_end", "user", "start", "n"]


def test_late_rows_are_the_input():
    table = windowed()
    late = table.with_columns(x=col("n") + 1).late
    assert late._port == (1, 2)
    assert list(late.schema) == [*events().schema, "$window_start", "$window_end", "$reason"]
    late.to("late")
    assert nodes(table)[-1]["key"] == ["user"]
    assert "$reason" not in nodes(table)[-1]["columns"]


def test_only_windows_close():
    with refused("not_windowed", "never final", "`.to_stream()`", "final"):
        plain().final()
    with refused("not_windowed", "nothing is late without windows", operation="late"):
        _ = plain().late


def test_a_table_keeps_its_key():
    with refused("key_dropped", "nothing holds `user` any more", 'add `"user"`', "select"):
        plain().select("n")
    with refused("key_dropped", "`user`", operation="with_columns"):
        plain().with_columns(user=col("user").str.to_lowercase())
    renamed = plain().select("n", customer="user")
    renamed.sink(ads.sinks.Sql("t", key=["customer"]))
    assert nodes(renamed)[-1]["key"] == ["customer"]


def test_a_table_of_a_table():
    table = windowed(n=ads.count(), total=ads.sum("price")).group_by("user").aggregate(total=ads.sum("total"))
    assert nodes(table)[-1]["inputs"] == [[1, 0]]
    assert nodes(table)[-1]["window"] is None
    assert table.schema == {"user": "str", "total": "decimal(38,2)"}
    assert plain().group_by("user").count().schema == {"user": "str", "count": "int"}


@pytest.mark.parametrize(
    ("aggregate", "remedy"),
    [
        (ads.first("n"), 'ads.first("…", order_by="…")'),
        (ads.last("n"), 'ads.last("…", order_by="…")'),
        (ads.approx_count_distinct("n"), ".to_stream().group_by(…)"),
    ],
)
def test_what_cannot_take_values_back_over_a_table(aggregate, remedy):
    with refused("not_retractable", "cannot take back the old value", remedy, "aggregate"):
        plain().group_by("user").aggregate(x=aggregate)


@pytest.mark.parametrize(
    ("aggregate", "dtype"),
    [
        (ads.min("total"), "decimal(38,2)"),
        (ads.arg_max("n", "total"), "int"),
        (ads.last("n", order_by=[col("total").desc()]), "int"),
        (ads.top_k("n", 3), "json"),
        (ads.collect_list("n", order_by="total"), "json"),
        (ads.count_distinct("n"), "int"),
        (ads.quantile("total", 0.5), "decimal(38,2)"),
        (ads.quantile("total", 0.5, error=0.01), "float"),
        (ads.std("total"), "float"),
        (ads.median("total"), "decimal(38,6)"),
        (ads.median("n"), "float"),
    ],
)
def test_what_takes_values_back_over_a_table(aggregate, dtype):
    table = windowed(n=ads.count(), total=ads.sum("price")).group_by("user").aggregate(x=aggregate)
    assert table.schema == {"user": "str", "x": dtype}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ads.top_k("n", 0), "`k` is 0"),
        (lambda: ads.quantile("n", 95), "`q` is 95"),
        (lambda: ads.quantile("n", 0.5, error=1), "`error` is 1"),
        (lambda: ads.quantile("n", 0.5, error=1e-7), "`error` is 1e-07"),
        (lambda: ads.var("n", ddof=-1), "`ddof` is -1"),
        (lambda: ads.first("n", order_by=[3]), "`order_by` is 3"),
        (lambda: ads.arg_max("n", []), "by what?"),
    ],
)
def test_arguments_of_aggregates_that_make_no_sense(make, message):
    with refused("bad_argument", message, ""):
        make()


def test_an_order_holds_no_aggregate():
    with refused("nested_aggregate", "cannot contain another one", "aggregate twice", "first"):
        ads.first("n", order_by=ads.count())


@pytest.mark.parametrize(
    "aggregate", [ads.median("user"), ads.var("user"), ads.std("kind"), ads.quantile("user", 0.5, error=0.1)]
)
def test_what_has_no_spread(aggregate):
    with refused("type_mismatch", "there is no", "", "aggregate"):
        events().group_by("user").aggregate(x=aggregate)


def test_an_order_names_columns_that_there_are():
    with refused("unknown_column", "nowhere", "", "aggregate"):
        events().group_by("user").aggregate(x=ads.first("count", order_by="nowhere"))


def test_floats_cannot_be_taken_back_exactly():
    table = events().group_by("user").aggregate(w=ads.sum("weight"))
    with refused("not_retractable", "cannot take floats back", "cast to a decimal", "aggregate"):
        table.group_by("user").aggregate(w=ads.sum("w"))


def test_enums_are_text_after_a_group():
    assert events().group_by("kind").count().schema == {"kind": "str", "count": "int"}


def test_what_tables_do_not_do():
    with refused("window_over_table", "states, not events", ".to_stream()"):
        plain().group_by("user").windowed_by(ads.tumbling("5m", grace="0s"))
    with refused("not_on_table", "cannot be filtered yet", ".to_stream().filter"):
        plain().filter(col("n") > 1)


# --- ends ---------------------------------------------------------------------------------------


def test_to_writes_what_is_the_users():
    rows = windowed().with_columns(start=ads.window_start())
    rows.to("out")
    assert nodes(rows)[-1] == {
        "id": 4,
        "op": "to_topic",
        "name": "to-out",
        "inputs": [[3, 0]],
        "line": nodes(rows)[-1]["line"],
        "topic": "out",
        "key": ["user"],
        "columns": ["user", "n", "start"],
        "format": "json",
    }
    rows.to("out", key=("user", "start"), columns=["n"]).named("second")
    assert nodes(rows)[-1]["key"] == ["user", "start"]
    assert nodes(rows)[-1]["columns"] == ["n"]
    assert nodes(rows)[-1]["name"] == "second"
    assert nodes(rows)[-1]["inputs"] == [[3, 0]]  # one stream of changes


def test_the_default_key_is_the_streams():
    stream = events(key="user")
    stream.to("a")
    stream.drop_columns("user").to("b")
    events_ = nodes(stream)
    assert [n["key"] for n in events_ if n["op"] == "to_topic"] == [["user"], None]


def test_sinks_in_the_plan():
    table = plain()
    table.sink(ads.sinks.RedisHash("m:{user}"))
    stream, sink = nodes(table)[-2:]
    assert stream["op"] == "to_stream"
    assert {k: sink[k] for k in ("op", "name", "kind", "key", "columns", "options")} == {
        "op": "sink",
        "name": "redis-hash-m",
        "kind": "redis_hash",
        "key": ["user"],
        "columns": ["user", "n", "total"],
        "options": {"template": "m:{user}", "connection": "redis"},
    }
    with refused("bad_argument", "not a sink: 'postgresql://x'", "ads.sinks.Sql"):
        table.sink("postgresql://x")  # type: ignore[arg-type]


def test_a_sinks_key_contains_the_streams_key():
    with refused("sink_key_incomplete", "`user` is missing", "add `user` to the key", "sink"):
        plain().sink(ads.sinks.Sql("t", key=["n"]))
    with refused("sink_key_incomplete", "dropped or replaced", "keep the column `user`"):
        plain().to_stream().drop_columns("user").sink(ads.sinks.Sql("t", key=["n"]))
    with refused("sink_key_incomplete", "`user` is missing"):
        events(key="user").sink(ads.sinks.Sql("t", key=["event_id"]))
    events(key="user").sink(ads.sinks.Sql("t", key=["event_id", "user"]))
    events().sink(ads.sinks.Sql("t", key=["event_id"]))


def test_a_windowed_table_needs_its_window_in_the_sinks_key():
    with refused("sink_key_without_window", "one row for all windows", "metric_time=ads.window_start()", "sink"):
        windowed().sink(ads.sinks.Sql("t", key=["user"]))
    rows = windowed().with_columns(metric_time=ads.window_start())
    with refused("sink_key_without_window", "has no window", "add `metric_time` to the key"):
        rows.sink(ads.sinks.Sql("t", key=["user"]))
    rows.sink(ads.sinks.Sql("t", key=["user", "metric_time"]))
    rows.final().sink(ads.sinks.RedisHash("m:{user}:{metric_time}"))


@pytest.mark.parametrize(
    "held",
    [
        lambda rows: rows.filter(ads.now() >= ads.lit(datetime(2026, 1, 15, tzinfo=UTC))),
        lambda rows: rows.in_order(grace="1s"),
        lambda rows: rows.in_order(grace="1s", late="route").late,
    ],
    ids=["now", "in_order", "late"],
)
def test_rows_that_wait_keep_their_window_in_the_sinks_key(held: Any):
    with refused("sink_key_without_window", "one row for all windows", "still have their window", "sink"):
        held(windowed().final()).sink(ads.sinks.Sql("t", key=["user"]))
    rows = held(windowed().with_columns(metric_time=ads.window_start()).final())
    with refused("sink_key_without_window", "has no window", "add `metric_time` to the key"):
        rows.sink(ads.sinks.Sql("t", key=["user"]))
    rows.sink(ads.sinks.Sql("t", key=["user", "metric_time"]))
    with refused("sink_key_incomplete", "dropped or replaced", "keep the column `user`"):
        held(plain().to_stream().drop_columns("user")).sink(ads.sinks.Sql("t", key=["n"]))
    for rows in (windowed().final(), held(windowed().final()), held(windowed().to_stream().select("user"))):
        rows.to("out")
        assert nodes(rows)[-1]["key"] == ["user"]


def test_a_filter_with_two_moments_is_two_waits_with_one_name():
    def waits(rows: ads.Stream) -> list[tuple[str, str, str]]:
        found = [n for n in nodes(rows) if n.get("kind") == "wait_until"]
        assert [s["name"] for s in rows._graph.stores] == [n["store"] for n in found]
        assert [n["stores"] for n in found] == [[n["store"]] for n in found]
        return [(n["name"], n["store"], n["reason"]) for n in found]

    both = (ads.now() >= col("at")) & (ads.now() >= ads.lit(datetime(2026, 1, 15, tzinfo=UTC)))
    assert waits(events().filter(both).named("w")) == [("w", "w-waiting", "w"), ("w-2", "w-2-waiting", "w")]
    assert [reason for *_, reason in waits(events().filter(both, reason="early").named("w"))] == ["early", "early"]
    apart = events().filter(ads.now() >= col("at")).named("a").filter(ads.now() > col("at")).named("b")
    assert waits(apart) == [("a", "a-waiting", "a"), ("b", "b-waiting", "b")]
    with refused("duplicate_name", "w-2", "", "named"):
        events().filter(col("count") > 0).named("w-2").filter(both).named("w")
    with refused("renamed", "it is called `w` already", "", "named"):
        events().filter(both).named("w").named("x")


def test_lists_are_lists_for_records_and_functions():
    from adstream.testing import TopologyTestDriver

    @ads.topology(name="lists")
    def lists(app: ads.App) -> None:
        class Hit(ads.Record):
            user: str
            n: int

        table = app.stream("in", Hit, key="user").group_by("user").aggregate(seen=ads.collect_list("n"))
        changes = table.to_stream()
        changes.records("user").map_values(lambda value: [type(value["seen"]).__name__, value["seen"]]).to("records")
        changes.filter(lambda row: len(row["seen"]) > 1).filter(col("seen").is_not_null()).to("rows", key="user")

    with TopologyTestDriver(lists, partitions=1, commit_every=1) as driver:
        for n in (3, 5):
            driver.input("in").pipe({"user": "u", "n": n})
        assert driver.output("records").read()[-1].value == ["list", [3, 5]]
        assert [r.value for r in driver.output("rows").read()] == [{"user": "u", "seen": [3, 5]}]


class Visits(ads.State):
    last: datetime | None = None
    n: int = 0


def scan(**options):
    s = ads.state(Visits)
    given = {"emit": {"nth": s.n + 1}, "update": {"n": s.n + 1}} | options
    return events().group_by("user").scan(Visits, **given)


def test_a_scan_adds_columns():
    s = ads.state(Visits)
    found = scan(emit={"gap": col("at") - s.last, "nth": s.n + 1, "count": s.n})
    assert found.schema == events().schema | {"gap": "duration", "nth": "int", "count": "int"}


@pytest.mark.parametrize(
    ("code", "message", "make"),
    [
        ("bad_argument", "`emit` is {}", lambda: scan(emit={})),
        ("bad_argument", "`update` is 3", lambda: scan(update=3)),
        ("unknown_column", "`Visits` has no field `m`", lambda: scan(update={"m": col("count")})),
        ("unknown_column", "no column `nowhere`", lambda: scan(emit={"x": col("nowhere")})),
        ("type_mismatch", "`n` of `Visits` is int", lambda: scan(update={"n": col("weight")})),
        ("reserved_name", "`$x`", lambda: scan(emit={"$x": col("count")})),
        ("not_native", "calls Python", lambda: scan(emit={"x": ads.udf(lambda n: n, type=int, columns=["count"])})),
        ("unknown_column", "`offset()` cannot be asked inside", lambda: scan(emit={"x": ads.offset()})),
        ("bad_duration", "", lambda: scan(ttl="soon")),
    ],
)
def test_scans_that_make_no_sense(code, message, make):
    with pytest.raises(ads.TopologyError) as raised:
        make()
    assert (raised.value.code, message in str(raised.value)) == (code, True)
    assert raised.value.hint
    assert raised.value.line


def test_states_that_make_no_sense():
    class Unset(ads.State):
        n: int

    class Wrong(ads.State):
        n: int = "none"  # type: ignore[assignment]

    with refused("bad_argument", "`Unset.n` begins with what?", "", "state"):
        ads.state(Unset)
    with refused("bad_argument", "not a state", "class Visits(ads.State)", "state"):
        ads.state(int)
    with refused("unknown_column", "`Visits` has no field `m`", "`last`, `n`", "state"):
        _ = ads.state(Visits).m
    with refused("type_mismatch", "`Wrong.n` is int and begins with 'none'", ""):
        events().group_by("user").scan(Wrong, emit={"x": ads.state(Wrong).n}, update={"n": col("count")})


def test_edges_need_conditions():
    grouped = events().group_by("user")
    with refused("not_a_condition", "`enter` is int", ""):
        grouped.edges(enter=col("count"), leave=col("count") > 1)
    with refused("bad_argument", "`leave` is True", "", "edges"):
        grouped.edges(enter=col("count") > 1, leave=True)
    assert grouped.edges(enter=col("count") > 1, leave=col("count") < 1).schema["edge"] == "str"


def rolled(*args, **options):
    return events().group_by("user").rolling(*args, **options)


def test_over_says_which_rows_are_met_and_has_no_meaning_elsewhere():
    assert repr(ads.count(where=col("count") > 1).over("user")) == 'count(where=col("count") > 1).over("user")'
    with pytest.raises(ads.TopologyError, match="over what") as raised:
        ads.count().over()
    assert raised.value.code == "bad_argument"
    for column in (7, None, b"user", ["user"]):
        with refused("bad_argument", f"over {column!r}", 'over("kind")', "count"):
            ads.count().over(column)
    with pytest.raises(ads.TopologyError, match="here there is none") as raised:
        events().group_by("user").aggregate(n=ads.count().over("count"))
    assert (raised.value.code, raised.value.operation) == ("bad_argument", "aggregate")
    with pytest.raises(ads.TopologyError, match="cannot contain another"):
        ads.count().over(ads.sum("count"))


def test_rolling_adds_columns():
    found = rolled("5m", n=ads.count(), total=ads.sum("price"), most=ads.top_k("count", 2, by="weight"))
    assert found.schema == events().schema | {"n": "int", "total": "decimal(38,2)", "most": "json"}
    shared = rolled(rows=5, share=col("weight") / ads.sum("weight"), n=ads.count())
    assert shared.schema == events().schema | {"share": "float", "n": "int"}


@pytest.mark.parametrize(
    ("code", "message", "make"),
    [
        ("bad_argument", "over how much?", lambda: rolled(n=ads.count())),
        ("bad_argument", "over how much?", lambda: rolled("5m", rows=3, n=ads.count())),
        ("bad_argument", "`rows` is 0", lambda: rolled(rows=0, n=ads.count())),
        ("bad_argument", "`grace` goes with a time", lambda: rolled(rows=3, grace="1s", n=ads.count())),
        ("bad_argument", "names no aggregate", lambda: rolled("5m")),
        ("bad_duration", "", lambda: rolled("soon", n=ads.count())),
        ("bad_duration", "", lambda: rolled("0s", n=ads.count())),
        ("duplicate_column", "`count` is a column already", lambda: rolled("5m", count=ads.count())),
        ("not_an_aggregate", "`n` is", lambda: rolled("5m", n=col("count") + 1)),
        ("not_an_aggregate", "`n` is 3", lambda: rolled("5m", n=3)),
        ("not_native", "calls Python", lambda: rolled("5m", n=ads.udaf(int, lambda a, r: a, type=int))),
        ("not_native", "calls Python", lambda: rolled("5m", n=ads.count(where=lambda row: True))),
        ("reserved_name", "`$n`", lambda: rolled("5m", **{"$n": ads.count()})),
        ("type_mismatch", "there is no sum of str", lambda: rolled("5m", n=ads.sum("user"))),
        ("unknown_column", "nowhere", lambda: rolled("5m", n=ads.sum("nowhere"))),
        ("unknown_column", "`offset()` cannot be asked inside", lambda: rolled("5m", n=ads.max(ads.offset()))),
        ("unknown_column", "nowhere", lambda: rolled("5m", n=ads.count().over("nowhere"))),
        ("not_native", "calls Python", lambda: rolled("5m", n=ads.count().over(ads.udf(lambda row: 1, type=int)))),
    ],
)
def test_rolling_that_makes_no_sense(code, message, make):
    with pytest.raises(ads.TopologyError) as raised:
        make()
    assert (raised.value.code, message in str(raised.value)) == (code, True)
    assert raised.value.operation == "rolling"
    assert raised.value.hint
    assert raised.value.line


def test_rows_in_order_need_a_grace_and_an_order():
    rows = events()
    with refused("grace_missing", "", 'write `grace="30s"`', "in_order"):
        rows.in_order("count")
    with refused("bad_argument", "`late` is 'drop'", '"route"', "in_order"):
        rows.in_order("count", grace="1s", late="drop")
    with refused("bad_argument", "ordered by 3", "", "in_order"):
        rows.in_order(3, grace="1s")
    with refused("unknown_column", "nowhere", "", "in_order"):
        rows.in_order("nowhere", grace="1s")
    with refused("not_native", "calls Python", "", "in_order"):
        rows.in_order(ads.udf(lambda n: n, type=int, columns=["count"]), grace="1s")
    with refused("bad_argument", "go on with the others", 'late="route"', "late"):
        _ = rows.in_order(grace="1s").late


@pytest.mark.parametrize("value", [Decimal("0.005"), Decimal("1e8"), Decimal("NaN"), 10**9, "0.00", True])
def test_a_decimal_of_a_state_begins_with_one_that_it_can_hold(value):
    state = type("Money", (ads.State,), {"__annotations__": {"x": Annotated[Decimal, ads.decimal(10, 2)]}, "x": value})
    with pytest.raises(ads.TopologyError, match="begins with") as raised:
        events().group_by("user").scan(state, emit={"x": ads.state(state).x}, update={"x": ads.state(state).x})
    assert raised.value.code == "type_mismatch"


def test_large_decimals_are_kept_whole():
    large = Decimal("9" * 36 + ".99")
    state = type("Money", (ads.State,), {"__annotations__": {"x": Annotated[Decimal, ads.decimal(38, 2)]}, "x": large})
    found = events().group_by("user").scan(state, emit={"x": ads.state(state).x}, update={"x": ads.state(state).x})
    assert found.schema["x"] == "decimal(38,2)"
