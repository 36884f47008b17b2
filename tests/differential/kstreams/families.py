"""The families of cases: each starts with what gives it its name, then grows."""

from collections.abc import Callable

from tests.differential.kstreams.topologies import KEYS, Gen, Json, Ref


def stateless(g: Gen) -> None:
    ref = g.stream()
    for _ in range(g.rng.randint(1, 5)):
        ref = g.stateless(ref)
    g.finish(ref, 0)


def merge(g: Gen) -> None:
    left = g.stream()
    right = g.stream(left.key, left.value)
    both = g.add("merge", [left, right], "stream", left.key, left.value)
    if g.chance(0.5):
        split = g.split(both)
        both = g.add("merge", [split, left], "stream", left.key, left.value)
    g.finish(both)


def repartition(g: Gen) -> None:
    ref = g.prepare(g.stream())
    ref = g.add("repartition", [ref], "stream", ref.key, ref.value, name="r" if g.chance(0.5) else None)
    g.finish(ref)


def to_table(g: Gen) -> None:
    g.finish(g.to_table(g.prepare(g.stream())))


def tables(g: Gen) -> None:
    ref = g.table()
    for _ in range(g.rng.randint(0, 3)):
        ref = g.table_op(ref)
    g.finish(ref, 2)


def transformed(g: Gen) -> None:
    what = g.pick(["plain", "again", "group", "join", "stream"])
    stored = g.chance(0.5) or what not in ("plain", "group")
    ref = g.transform_values(g.table("string"), stored=stored)
    match what:
        case "again":
            ref = g.table_op(ref)
        case "group":
            ref = g.aggregated(g.group_table(ref))
        case "join":
            sides = [ref, g.table("string")]
            g.rng.shuffle(sides)
            ref = g.table_join(*sides)
        case "stream":
            ref = g.stream_table_join(g.prepare(g.stream("string"), 0), ref)
    g.finish(ref, 2 if stored else 0, forks=stored)


def table_groups(g: Gen) -> None:
    ref = g.table()
    if g.chance(0.3):
        ref = g.table_op(ref)
    g.finish(g.aggregated(g.group_table(ref)), 2)


def table_joins(g: Gen) -> None:
    left = g.table("string")
    right = g.table("string")
    if g.chance(0.3):
        left = g.table_op(left)
    if g.chance(0.2):
        right = g.table_op(right)
    g.finish(g.table_join(left, right), 2)


def foreign_keys(g: Gen) -> None:
    left = g.table("string", g.pick(["int64", "string"]))
    if g.chance(0.2):
        left = g.table_op(left)
    g.finish(g.fk_join(left), 2)


def versioned(g: Gen) -> None:
    table = g.table("string", versioned=True)
    match g.pick(["plain", "stream", "stream", "table", "group", "fk"]):
        case "plain":
            ref = g.table_op(table)
        case "stream":
            ref = g.stream_table_join(g.prepare(g.stream("string"), 0), table)
        case "table":
            ref = g.table_join(table, g.table("string", versioned=g.chance(0.5)))
        case "group":
            ref = g.aggregated(g.group_table(table))
        case _:
            ref = g.fk_join(table)
    g.finish(ref, 1)


def table_grace(g: Gen) -> None:
    """A stream that waits for a versioned table. (A left join throws on a null key in the original.)"""
    g.null_keys = False
    table = g.table("string", versioned=True)
    history = g.nodes[-1]["store"]["history"]
    grace = g.pick([0, history // 2, history])
    if grace:
        g.distances.append(grace)
    g.finish(g.stream_table_join(g.stream("string"), table, grace=grace), 1)


def stream_joins(g: Gen) -> None:
    left = g.prepare(g.stream("string"), 1)
    right = g.stream(left.key) if left.key in KEYS else left
    g.finish(g.stream_join(left, right), 2)


def self_join(g: Gen) -> None:
    ref = g.stream("string")
    other = g.add("map_values", [ref], "stream", ref.key, "string", fn=["append", "'"]) if g.chance(0.5) else ref
    g.finish(g.stream_join(ref, other, "inner" if g.chance(0.6) else None), 1)


def stream_tables(g: Gen) -> None:
    stream = g.prepare(g.stream("string"), 1)
    g.finish(g.stream_table_join(stream, g.partner("table", stream.key)), 2)


def stream_globals(g: Gen) -> None:
    stream = g.prepare(g.stream(), 1)
    g.finish(g.stream_global_join(stream, g.global_table(g.pick(["string", "string", "int64"]))), 2)


def aggregates(g: Gen) -> None:
    g.finish(g.aggregated(g.group(g.prepare(g.stream()))), 2)


def _windows(kind: str) -> Callable[[Gen], None]:
    def family(g: Gen) -> None:
        g.finish(g.aggregated(g.windowed(g.group(g.prepare(g.stream(), 1)), kind)), 2)

    return family


def own_windows(g: Gen) -> None:
    """Windows that the application makes itself; some of them told once more when they close."""
    table = g.aggregated(g.windowed(g.group(g.prepare(g.stream(), 1)), "own"))
    g.finish(g.suppress(table, "closes") if g.chance(0.3) else table, 2)


def cogroups(g: Gen) -> None:
    ref = g.cogroup([g.stream("string") for _ in range(g.pick([2, 2, 3]))])
    if g.chance(0.6):
        ref = g.windowed(ref)
    g.finish(g.aggregated(ref), 1)


def emit_close(g: Gen) -> None:
    kind = g.pick(["tumbling", "hopping", "sliding", "session"])
    g.finish(g.aggregated(g.windowed(g.group(g.stream()), kind, emit="close")), 2)


def suppress_closes(g: Gen) -> None:
    g.stepped = 0.85
    kind = g.pick(["tumbling", "tumbling", "hopping", "session", "session", "sliding"])
    table = g.aggregated(g.windowed(g.group(g.prepare(g.stream(), 1)), kind))
    if g.chance(0.2):
        table = g.table_op(table)
    g.finish(g.suppress(table, "closes"), 2)


def suppress_limit(g: Gen) -> None:
    table = g.table(versioned=False) if g.chance(0.4) else g.aggregated(g.group(g.stream()))
    g.finish(g.suppress(table, "limit"), 1)


def processors(g: Gen) -> None:
    g.finish(g.process(g.prepare(g.stream(), 1)), 1)


def anchored(g: Gen) -> None:
    """Punctuators that begin at a time of their own, scheduled at once and later."""
    ref = g.stream(value=g.pick(["int64", "string"]))
    g.wall = True
    g.options["wall_clock"] = g.pick([0, g.ms(7, 23, 100)])

    def every() -> Json:
        made = {"ms": g.ms(3, 5, 10), "type": g.pick(["stream", "wall"]), "do": [["seen"], ["forward"]]}
        if g.chance(0.8):
            made["start"] = g.pick([0, g.ms(1, 3, 12), g.ms(30, 60, 150)])
        if g.chance(0.2):
            made["times"] = g.pick([1, 2])
        return made

    do: list[Json] = [["forward"], ["stop_if", g.predicate(ref.value)], ["schedule", every()]]
    script = {"do": do, "every": [every() for _ in range(g.rng.randint(1, 3))]}
    ref = g.add("process", [ref], "stream", ref.key, "json", script=script)
    g.finish(ref, 0)


def fixed_processors(g: Gen) -> None:
    g.finish(g.process_values(g.prepare(g.stream(), 1)), 2)


def punctuators(g: Gen) -> None:
    """The Processor API's own topology: a source, processors with named children, sinks, shared stores."""
    key, value = g.key_type(), g.pick(["int64", "string"])
    topics = [g.topic(key, value) for _ in range(g.pick([1, 2]))]
    g.nodes.append({"id": "source", "op": "add_source", "types": [key, value], "topics": topics})
    every: list[Json] = []
    name = f"p{g.number()}"
    do: list[Json] = [["stop_if", ["key_is_null"]], ["put", name]]
    match g.pick(["named", "all", "punctuate", "punctuate"]):
        case "named":
            do += [
                ["forward", "left"],
                ["set", ["null_if", g.predicate_of_value(value), ["value"]]],
                ["forward", "right"],
            ]
        case "all":
            do += [["forward"], ["time", g.ms(1, 5)], ["header", "p", "x"], ["forward", "right"]]
        case _:
            for kind in g.pick([["stream"], ["wall"], ["stream", "wall"]]):
                every.append(
                    {
                        "ms": g.ms(3, 5, 10),
                        "type": kind,
                        "do": [["seen"], ["each", name, [["forward", g.pick(["left", "right"])], ["delete", name]]]],
                    }
                )
                if g.chance(0.3):
                    every[-1]["times"] = g.pick([1, 2])
            g.wall = True
    if g.chance(0.3):
        do += [["meta"], ["seen"]]
    if g.chance(0.2):
        do += [["stream_time"], ["seen"]]
    script = {"do": do} | ({"every": every} if every else {})
    g.nodes.append({"id": "first", "op": "add_processor", "in": ["source"], "script": script})
    f, mapped = g.value_fn(value, key=True)
    g.nodes.append({"id": "left", "op": "add_processor", "in": ["first"], "script": {"do": [["set", f], ["forward"]]}})
    second: list[Json] = [["stop_if", ["key_is_null"]], ["get", name], ["forward"]]
    g.nodes.append({"id": "right", "op": "add_processor", "in": ["first"], "script": {"do": second}})
    store = {"name": name, "type": "kv", "key": key, "value": value, "backend": "memory"}
    g.nodes.append({"id": "state", "op": "add_store", "in": ["first", "right"], "store": store})
    out = g.topic(key, mapped, out=True)
    g.nodes.append({"id": "sink0", "op": "add_sink", "in": ["left"], "types": [key, mapped], "topic": out})
    out = g.topic(key, value, out=True)
    g.nodes.append({"id": "sink1", "op": "add_sink", "in": ["right"], "types": [key, value], "topic": out})


def headed_stores(g: Gen) -> None:
    g.finish(g.headed(g.stream()), 1)


def added_stores(g: Gen) -> None:
    """Global stores and read-only stores, read by a processor."""
    kind = g.pick(["add_global_store", "add_read_only_store"])
    key, value = "string", g.pick(["int64", "string"])
    store = {"name": "shared", "type": "kv", "key": key, "value": value, "backend": "memory"}
    if kind == "add_global_store":
        store["logging"] = False
    keep: list[Json] = [["stop_if", ["key_is_null"]]]
    if g.chance(0.3):
        keep.append(["set", ["null_if", g.predicate_of_value(value), ["value"]]])
    g.nodes.append(
        {
            "id": "keeper",
            "op": kind,
            "types": [key, value],
            "topic": g.topic(key, value),
            "store": store,
            "script": {"do": [*keep, ["put", "shared"]]},
        }
    )
    g.nodes.append({"id": "source", "op": "add_source", "types": [key, "string"], "topics": [g.topic(key, "string")]})
    do: list[Json] = [["stop_if", ["key_is_null"]], ["get", "shared"], ["forward"], ["set_key", ["const", "b"]]]
    do += [["get", "shared"], ["forward"]]
    g.nodes.append({"id": "reader", "op": "add_processor", "in": ["source"], "script": {"do": do}})
    if kind == "add_read_only_store":
        g.nodes.append({"id": "connection", "op": "add_connection", "in": ["reader"], "stores": ["shared"]})
    out = g.topic(key, value, out=True)
    g.nodes.append({"id": "sink", "op": "add_sink", "in": ["reader"], "types": [key, value], "topic": out})


def timestamps(g: Gen) -> None:
    ref = g.stream(value="int64")
    g.nodes[-1]["timestamps"] = g.pick(
        [
            ["value"],
            ["plus", -g.ms(5, 10)],
            ["partition_time"],
            ["use_partition_time"],
            ["log_and_skip"],
            ["wall_clock"],
        ]
    )
    g.wall = g.nodes[-1]["timestamps"] == ["wall_clock"]
    g.finish(g.grow(ref), 1)


def timed_tables(g: Gen) -> None:
    """Tables whose records' times are those of an extractor."""

    def timed(ref: Ref) -> Ref:
        extractors: list[Json] = [
            ["plus", -g.ms(5, 10)],
            ["plus", g.ms(5, 10)],
            ["partition_time"],
            ["use_partition_time"],
        ]
        if ref.value == "int64":
            extractors += [["value"]] * 2
        g.nodes[-1]["timestamps"] = g.pick(extractors)
        return ref

    match g.pick(["plain", "versioned", "join", "stream", "global", "group"]):
        case "plain":
            ref = g.table_op(timed(g.table()))
        case "versioned":
            ref = g.table_op(timed(g.table("string", "int64", versioned=True)))
        case "join":
            left = timed(g.table("string", "int64"))
            ref = g.table_join(left, timed(g.table("string")) if g.chance(0.5) else g.table("string"))
        case "stream":
            versioned = g.chance(0.5)
            table = timed(g.table("string", "int64", versioned=versioned))
            ref = g.stream_table_join(g.stream("string"), table)
        case "global":
            table = timed(g.global_table("string", "int64"))
            ref = g.stream_global_join(g.stream("string"), table)
        case _:
            ref = g.aggregated(g.group_table(timed(g.table("string", "int64"))))
    g.finish(ref, 1)


def errors(g: Gen) -> None:
    """Functions that fail, bytes that are none, handlers that go on or do not."""
    ref = g.stream(value="int64")
    if g.chance(0.5):
        g.options["processing"] = "continue"
    if g.chance(0.5):
        g.options["deserialization"] = "continue"
    fails: Json = ["fail_if", g.pick([["value_gt", 4], ["value_is_null"], ["value_gt", 100]]), ["value"]]
    match g.pick(["map_values", "filter", "aggregate", "select_key", "process"]):
        case "map_values":
            ref = g.add("map_values", [ref], "stream", ref.key, ref.value, fn=fails)
        case "filter":
            ref = g.add("filter", [ref], "stream", ref.key, ref.value, fn=["then", fails, ["value_even"]])
        case "select_key":
            ref = g.add("select_key", [ref], "stream", "string", ref.value, fn=["then", fails, ["text"]])
        case "process":
            do = [["forward"], ["fail_if", fails[1]], ["set", ["add", 100]], ["forward"]]
            ref = g.add("process", [ref], "stream", ref.key, ref.value, script={"do": do})
        case _:
            grouped = g.add("group_by_key", [ref], "grouped_stream", ref.key, ref.value)
            ref = g.add(
                "aggregate", [grouped], "table", ref.key, "int64", fn=["fail_when", fails[1], ["sum"]], store=g.store()
            )
            g.nodes[-1]["init"] = 0
    g.finish(ref, 1)


def errors_handled(g: Gen) -> None:
    """As `errors`, with handlers that go on with some records and not with others."""
    errors(g)
    for stage in g.pick([["processing"], ["deserialization"], ["processing", "deserialization"]]):
        g.options[stage] = "some"


def errors_told(g: Gen) -> None:
    """As the others, with handlers that say what they were told."""
    g.pick([errors, errors_in_two, errors_punctuated])(g)
    g.options |= {"processing": "told", "deserialization": "told"}
    if any(node["op"] == "stream_join" and node["how"] != "inner" for node in g.nodes):
        g.tags.add("waiting_fails")


def timestamps_placed(g: Gen) -> None:
    """Times by where records lie and by their headers."""
    ref = g.stream(value="int64")
    g.nodes[-1]["timestamps"] = ["placed"]
    g.finish(g.grow(ref), 1)


def errors_in_two(g: Gen) -> None:
    """Functions of two values that fail: joiners, aggregators, what derives a table."""
    if g.chance(0.6):
        g.options["processing"] = "continue"
    condition: Json = g.pick([["value_gt", 4], ["value_even"], ["value_is_null"]])
    match g.pick(["stream_table", "tables", "streams", "window", "regrouped", "derived"]):
        case "stream_table":
            table = g.table("string")
            ref = g.stream_table_join(g.stream("string", "int64"), table)
        case "tables":
            ref = g.table_join(g.table("string", "int64"), g.table("string"))
        case "streams":
            ref = g.stream_join(g.stream("string", "int64"), g.stream("string"))
            if g.options.get("processing") == "continue" and g.nodes[-1]["how"] != "inner":
                g.tags.add("waiting_fails")
        case "window":
            grouped = g.windowed(g.group(g.stream("string", "int64")), g.pick(["tumbling", "hopping", "session"]))
            ref = g.aggregated(grouped, g.pick(["aggregate", "reduce"]))
        case "regrouped":
            ref = g.aggregated(g.group_table(g.table("string", "int64")), g.pick(["aggregate", "reduce"]))
        case _:
            ref = g.table("string", "int64")
            ref = g.add("map_values", [ref], "table", ref.key, "int64", fn=["value"], store=g.store())
    [node] = [node for node in g.nodes if node["id"] == ref.id]
    fails = "fail_if" if node["op"] == "map_values" else "fail_when"
    for name in [name for name in ("fn", "subtractor") if name in node]:
        node[name] = [fails, condition, node[name]]
    g.finish(ref, 1)


def caches(g: Gen) -> None:
    g.options["cache"] = True
    composed(g)


def small_caches(g: Gen) -> None:
    """Stores that forget what was not used for longest."""
    g.finish(g.recent(g.stream()), 1)


def errors_punctuated(g: Gen) -> None:
    """Punctuators that fail: before they have told anything, or in the middle."""
    if g.chance(0.6):
        g.options["processing"] = "continue"
    ref = g.stream(value="int64")
    g.wall = True
    name = g.state("kv", ref.key, ref.value)
    fails: Json = ["fail_if", g.predicate(ref.value)]
    told: Json = ["each", name, g.pick([[["forward"]], [["forward"], ["delete", name]], [fails, ["forward"]]])]
    every: list[Json] = []
    for kind in g.pick([["stream"], ["wall"], ["stream", "wall"]]):
        do: list[Json] = g.pick([[["seen"], told], [told, fails, ["forward"]], [fails, told]])
        every.append({"ms": g.ms(3, 5, 10), "type": kind, "do": do})
    script = {"do": [["stop_if", ["key_is_null"]], ["put", name], ["forward"]], "every": every}
    ref = g.add("process", [ref], "stream", ref.key, ref.value, script=script, stores=[name])
    g.finish(ref, 0)


def optimized(g: Gen) -> None:
    """With `topology.optimization=all`: sources as changelogs, shuffles made one, self-joins."""
    g.options["optimize"] = True
    g.pick([self_join, chains, composed, tables, repartition, table_groups, foreign_keys, stream_joins])(g)


def composed(g: Gen) -> None:
    ref = g.stream() if g.chance(0.7) else g.table()
    for _ in range(g.rng.randint(3, 7)):
        ref = g.grow(ref)
    g.finish(ref, 0)


def chains(g: Gen) -> None:
    """What people write: several stateful operators in a row."""
    stream = g.stream("string", "int64")
    match g.pick(["enrich", "pipeline", "regroup", "fork", "late"]):
        case "enrich":
            table = g.aggregated(g.group(stream))
            ref = g.stream_table_join(g.stream(table.key), table)
        case "pipeline":
            windowed = g.aggregated(g.windowed(g.group(stream), g.pick(["tumbling", "hopping"])))
            out = g.to_stream(g.suppress(windowed, "closes"))
            f, key, _ = g.key_fn(out)
            mapped = g.add("map", [out], "stream", key, "string", fn=["kv", f, ["text"]])
            ref = g.aggregated(g.add("group_by_key", [mapped], "grouped_stream", key, "string"))
        case "regroup":
            joined = g.table_join(g.table("string"), g.table("string"))
            ref = g.aggregated(g.group_table(joined))
        case "fork":
            left = g.add("filter", [stream], "stream", stream.key, stream.value, fn=g.predicate("int64"))
            right = g.add("repartition", [stream], "stream", stream.key, stream.value, name="r")
            both = g.add("merge", [left, right], "stream", stream.key, stream.value)
            ref = g.aggregated(g.group(both))
        case _:
            joined = g.stream_join(stream, g.stream("string"))
            ref = g.aggregated(g.windowed(g.group(joined)))
    g.finish(ref, 1)


def lru_tables(g: Gen) -> None:
    """Tables whose stores forget what was not used for longest, and tell nobody."""
    g.options.pop("cache", None)  # what a cache answers is no use of the store behind it; here each look is one
    table = g.table(versioned=False)
    match g.pick(["table", "to_table", "stream", "aggregate", "aggregate", "group", "join"]):
        case "table":
            ref = g.table_op(table) if g.chance(0.5) else table
        case "to_table":
            ref = g.to_table(g.prepare(g.stream()))
        case "stream":
            ref = g.stream_table_join(g.prepare(g.stream(table.key), 0), table)
        case "group":
            ref = g.aggregated(g.group_table(table))
        case "join":
            ref = g.table_join(table, g.table(table.key, versioned=False))
        case _:
            ref = g.aggregated(g.group(g.stream("string")))
    g.finish(ref, 1)
    windowed = {node["id"] for node in g.nodes if node["op"] in ("windowed_by", "cogroup")}
    for number, node in enumerate(g.nodes):
        kept = node["op"] in ("table", "to_table", "count", "reduce", "aggregate")
        if kept and not windowed & set(node.get("in", ())) and "history" not in (node.get("store") or {}):
            node["store"] = {"name": f"l{number}", "lru": g.pick([1, 2, 2, 3])}


def patterns(g: Gen) -> None:
    """A source of all topics that a pattern matches."""
    ref = g.stream()
    source = g.nodes[-1]
    types = g.topics[source["topics"][0]]
    source["topics"] += [g.topic(types["key"], types["value"]) for _ in range(g.pick([0, 1, 1, 2]))]
    source["pattern"] = "|".join(source["topics"])
    if g.chance(0.3):
        ref = g.add("merge", [ref, g.stream(ref.key, ref.value)], "stream", ref.key, ref.value)
    if g.chance(0.5):
        ref = g.stateless(ref)
    g.finish(ref if g.chance(0.4) else g.aggregated(g.group(ref)), 1)
    if any(["meta"] in node.get("script", {}).get("do", ()) for node in g.nodes):
        del source["pattern"]  # the original's driver counts offsets for all topics of a pattern together


def misuse(g: Gen) -> None:
    """What the original refuses before there is any input."""
    stream = g.stream("string", "int64")
    name = {"name": "s"}
    windows = [
        {"type": "tumbling", "size": 0},
        {"type": "tumbling", "size": -10, "grace": 1},
        {"type": "tumbling", "size": 10, "grace": -1},
        {"type": "hopping", "size": 10, "advance": 11, "grace": 0},
        {"type": "hopping", "size": 10, "advance": 0, "grace": 0},
        {"type": "sliding", "difference": -1, "grace": 0},
        {"type": "session", "gap": 0, "grace": 0},
        {"type": "session", "gap": 5, "grace": -1},
        {"type": "unlimited", "start": -1},
    ]
    kind = g.pick(
        [*windows, "retention", "bounds", "grace", "history", "suppress", "versioned", "names", "store", "shared"]
    )
    grouped = g.add("group_by_key", [stream], "grouped_stream", "string", "int64")
    if isinstance(kind, dict):
        key = "session:string" if kind["type"] == "session" else "windowed:string:10"
        windowed = g.add("windowed_by", [grouped], "windowed", "string", "int64", window=kind)
        ref = g.add("count", [windowed], "table", key, "int64")
    elif kind == "retention":
        window = {"type": "tumbling", "size": 10, "grace": 5}
        windowed = g.add("windowed_by", [grouped], "windowed", "string", "int64", window=window)
        store = name | {"retention": 14}
        ref = g.add("count", [windowed], "table", "windowed:string:10", "int64", store=store)
    elif kind == "bounds":
        bounds = {"before": -5, "after": 4, "grace": 0} if g.chance(0.5) else {"before": 5, "after": 5, "grace": -1}
        right = g.stream("string", "int64")
        ref = g.add("stream_join", [stream, right], "stream", "string", "int64", how="inner", fn=["sum"], **bounds)
    elif kind in ("grace", "history"):
        table = g.table("string", "int64", versioned=kind == "history")
        grace = g.nodes[-1]["store"]["history"] + 1 if kind == "history" else 5
        ref = g.stream_table_join(stream, table, "inner", grace)
    elif kind == "suppress":
        ref = g.add("count", [grouped], "table", "string", "int64")
        ref = g.add("suppress", [ref], "table", "string", "int64", until="closes", buffer={})
    elif kind == "versioned":
        ref = g.table("string", "int64", versioned=True)
        ref = g.add("suppress", [ref], "table", "string", "int64", until="limit", limit=5, buffer={})
    elif kind == "names":
        ref = g.add("count", [grouped], "table", "string", "int64", store=name)
        g.add("reduce", [grouped], "table", "string", "int64", fn=["sum"], store=name)
    elif kind == "store":
        do = [["count", "nowhere"], ["forward"]]
        ref = g.add("process", [stream], "stream", "string", "int64", script={"do": do}, stores=["nowhere"])
    else:
        topic = g.nodes[0]["topics"][0]
        ref = g.add("table", [], "table", "string", "int64", topic=topic)
    g.finish(ref, 0)


FAMILIES: dict[str, Callable[[Gen], None]] = {
    "stateless": stateless,
    "merge": merge,
    "repartition": repartition,
    "to_table": to_table,
    "tables": tables,
    "table_groups": table_groups,
    "table_joins": table_joins,
    "foreign_keys": foreign_keys,
    "versioned": versioned,
    "table_grace": table_grace,
    "stream_joins": stream_joins,
    "self_join": self_join,
    "stream_tables": stream_tables,
    "stream_globals": stream_globals,
    "aggregates": aggregates,
    "tumbling": _windows("tumbling"),
    "hopping": _windows("hopping"),
    "sliding": _windows("sliding"),
    "session": _windows("session"),
    "unlimited": _windows("unlimited"),
    "cogroups": cogroups,
    "emit_close": emit_close,
    "suppress_closes": suppress_closes,
    "suppress_limit": suppress_limit,
    "processors": processors,
    "fixed_processors": fixed_processors,
    "punctuators": punctuators,
    "anchored": anchored,
    "added_stores": added_stores,
    "headed_stores": headed_stores,
    "timestamps": timestamps,
    "timed_tables": timed_tables,
    "transformed": transformed,
    "errors_in_two": errors_in_two,
    "errors": errors,
    "small_caches": small_caches,
    "errors_punctuated": errors_punctuated,
    "optimized": optimized,
    "caches": caches,
    "composed": composed,
    "chains": chains,
    "lru_tables": lru_tables,
    "patterns": patterns,
    "own_windows": own_windows,
    "errors_handled": errors_handled,
    "timestamps_placed": timestamps_placed,
    "errors_told": errors_told,
    "misuse": misuse,
}
