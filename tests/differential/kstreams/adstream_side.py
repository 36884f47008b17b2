"""The same cases on adstream: its public language and test driver, one partition, a commit after every record."""

import contextlib
import random
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import adstream as ads
from adstream.dsl import store as adstream_store
from adstream.testing import TopologyTestDriver
from tests.differential.kstreams.functions import fn, fn2, holds, plain
from tests.differential.kstreams.generate import Case
from tests.differential.kstreams.processors_side import Processors
from tests.differential.kstreams.scripts import headed

Json = Any
Result = dict[str, Any]

SERDES = {
    "string": ads.serdes.string,
    "int64": ads.serdes.int64,
    "int32": ads.serdes.int32,
    "double": ads.serdes.float64,
    "bytes": ads.serdes.bytes,
    "json": ads.serdes.json_,
}
APP = "app"
JOINS = {"inner": "join", "left": "left_join", "outer": "outer_join"}


class NoWord(Exception):
    """adstream's language has no word for it."""


store_type: Literal["memory", "disk"] = "memory"
"""Where adstream has its stores, of all cases: `run.py --store-type`."""

DISTURBANCES = ("restart", "abort", "crash")


def run(case: Case, disturb: str | None = None, partitions: int = 1) -> Result:
    """What adstream does with a case, told as the original's recorder tells it (README.md).

    With more `partitions` each task has a stream time of its own: cases that read it differ.

    `disturb`, which must not change anything: `restart` (all tasks are dropped and restored, now and then), `abort` (a
    commit fails, and tasks undo in memory), `crash` (a commit fails, and tasks are restored).
    """
    result: Result = {"name": case["name"]}
    seen: list[Json] = []
    try:
        driver = TopologyTestDriver(
            Builder(case, seen).build(),
            partitions=dict.fromkeys(case["topics"], partitions),  # of a pattern, all that there will be
            commit_every=1,
            store_type=store_type,
            wall_clock=case.get("options", {}).get("wall_clock", 0),
        )
    except ads.AdstreamError as error:
        return result | {"error": _error("build", error)}
    with driver:
        _Run(case, driver, seen, result, disturb).all()
    return result


def run_at_once(case: Case, commit_every: int | None, batch_rows: int | None) -> Json:
    """What comes, by topic, of all inputs together; of cases with one input topic, so that their order is known."""
    driver = TopologyTestDriver(
        Builder(case, []).build(), partitions=1, commit_every=commit_every, batch_rows=batch_rows
    )
    with driver:
        run = _Run(case, driver, [], {}, None)
        for record in case["inputs"]:
            run.pipe(record)
        return run.told().get("out", {})


def _error(at: str, error: Exception) -> Json:
    return {"at": at, "class": type(error).__name__, "cause": getattr(error, "code", ""), "message": str(error)[:300]}


def serde(kind: str) -> ads.serdes.Serde:
    if kind in SERDES:
        return SERDES[kind]
    if kind.startswith("session:"):
        return ads.serdes.session_windowed(serde(kind.removeprefix("session:")))
    inner, _, size = kind.removeprefix("windowed:").rpartition(":")
    return ads.serdes.time_windowed_ms(serde(inner), int(size))


def ms(value: int | None) -> timedelta | None:
    return None if value is None else timedelta(milliseconds=value)


def placed(key: Any, value: Any, ts: int, partition: int, at: ads.RecordContext) -> int:
    assert at.topic is not None
    assert at.offset is not None
    assert at.partition is not None
    return at.timestamp + 10 * (at.offset % 3) + len(at.topic) + at.partition + len(at.headers)


class OwnWindows(ads.Windows):
    """As `OwnWindows.java`."""

    def __init__(self, said: Json) -> None:
        self.said = said
        self.first, self.second = said["lengths"]

    def at(self, time: int) -> tuple[int, int]:
        period = self.first + self.second
        start = time // period * period
        return (start, start + self.first) if time - start < self.first else (start + self.first, start + period)

    def windows_for(self, timestamp: int) -> list[tuple[int, int]]:
        own = self.at(timestamp)
        following = self.at(own[1])
        return {"before": [following, own], "after": [own, following]}.get(self.said.get("more", ""), [own])

    def size(self) -> timedelta:
        return timedelta(milliseconds=max(self.first, self.second))

    def grace_period(self) -> timedelta:
        return timedelta(milliseconds=self.said["grace"] or 0)


class Builder(Processors):
    """A topology of a case's nodes, in their order."""

    def __init__(self, case: Case, seen: list[Json], name: str = APP) -> None:
        self.case = case
        self.name = name
        self.seen = seen
        self.made: dict[str, Any] = {}
        self.types: dict[str, list[str]] = {}
        self.caching = case.get("options", {}).get("cache", False)

    def build(self) -> ads.Built:
        @ads.topology(name=self.name)
        def app(app: ads.App) -> None:
            self.app = app
            self.begin()
            for node in self.case["nodes"]:
                self.types[node["id"]] = node.get("types", ["", ""])
                make = getattr(self, f"_{node['op']}", None)
                if make is None:
                    raise NoWord(node["op"])
                self.made[node["id"]] = make(node, *(self.made[name] for name in node.get("in", ())))

        return app.build()

    # --- What a node says

    def serdes(self, node: Json) -> dict[str, Any]:
        """Of what the node gives."""
        key, value = node["types"]
        return {"key": serde(key), "value": serde(value)}

    def materialized(self, node: Json) -> ads.Materialized:
        store = node.get("store") or {}
        key, value = node["types"]
        if node["op"] in ("count", "reduce", "aggregate"):
            key = self.types[node["in"][0]][0]  # without the window
        return ads.Materialized(
            store.get("name"),
            key=serde(key),
            value=serde(value),
            caching=store.get("cache", True) and self.caching,
            logging=store.get("logging", True),
            retention=ms(store.get("retention")),
            history=ms(store.get("history")),
            max_entries=store.get("lru"),
        )

    def fn(self, node: Json, field: str = "fn") -> Callable[..., Any]:
        f = fn(node[field])
        if node["op"] in ("map_values", "flat_map_values", "fk_join") and not node.get("with_key"):
            return lambda value: f(None, value)
        return lambda key, value: f(key, value)

    def predicate(self, asked: Json) -> Callable[..., bool]:
        f = fn(asked)
        return lambda key, value: holds(f, key, value)

    def joiner(self, node: Json) -> Callable[..., Any]:
        f = fn2(node["fn"])
        if node.get("with_key"):
            return lambda key, left, right: f(key, left, right)
        return lambda left, right: f(None, left, right)

    def pair(self, asked: Json) -> Callable[..., Any]:
        f = fn(asked)

        def pair(key: Any, value: Any) -> Any:
            found = f(key, value)
            return None if found is None else tuple(found)

        return pair

    # --- Sources

    def timestamps(self, asked: Json) -> Callable[..., int] | ads.TimestampExtractor | None:
        match asked:
            case None:
                return None
            case ["fail_on_invalid"] | ["log_and_skip"] | ["use_partition_time"]:
                return ads.TimestampExtractor(f"{asked[0]}_on_invalid_timestamp".replace("invalid_on_", ""))
            case ["value"]:
                return lambda key, value, ts, partition: value if isinstance(value, int) else -1
            case ["plus", more]:
                return lambda key, value, ts, partition: ts + more
            case ["partition_time"]:
                return lambda key, value, ts, partition: partition
            case ["placed"]:
                return placed
        raise NoWord(f"timestamps {asked[0]}")

    def _stream(self, node: Json) -> Any:
        topics = re.compile(node["pattern"]) if "pattern" in node else node["topics"]
        return self.app.stream(topics, timestamp=self.timestamps(node.get("timestamps")), **self.serdes(node))

    def _table(self, node: Json) -> Any:
        timestamp = self.timestamps(node.get("timestamps"))
        return self.app.table(node["topic"], self.materialized(node), timestamp=timestamp, **self.serdes(node))

    def _global_table(self, node: Json) -> Any:
        timestamp = self.timestamps(node.get("timestamps"))
        return self.app.global_table(node["topic"], self.materialized(node), timestamp=timestamp, **self.serdes(node))

    # --- Stateless

    def _filter(self, node: Json, on: Any) -> Any:
        return on.filter(self.predicate(node["fn"]), *self.as_table(node, on))

    def _filter_not(self, node: Json, on: Any) -> Any:
        return on.filter_not(self.predicate(node["fn"]), *self.as_table(node, on))

    def _map_values(self, node: Json, on: Any) -> Any:
        return on.map_values(self.fn(node), *self.as_table(node, on))

    def _transform_values(self, node: Json, on: Any) -> Any:
        class Counting(ads.ValueTransformerWithKey[Any]):
            def init(self, ctx: ads.Context) -> None:
                self.counts = ctx.get_state_store(node["counts"])

            def transform(self, key: Any, value: Any) -> Any:
                now = (self.counts.get(key) or 0) + 1
                self.counts.put(key, now)
                return None if value is None else now

        return on.transform_values(Counting, node["counts"], materialized=self.materialized(node))

    def as_table(self, node: Json, on: Any) -> list[Any]:
        return [self.materialized(node)] if isinstance(on, ads.KTable) else []

    def _map(self, node: Json, on: Any) -> Any:
        return on.map(self.pair(node["fn"]))

    def _flat_map(self, node: Json, on: Any) -> Any:
        f = fn(node["fn"])
        return on.flat_map(lambda key, value: [tuple(pair) for pair in f(key, value)])

    def _flat_map_values(self, node: Json, on: Any) -> Any:
        return on.flat_map_values(self.fn(node))

    def _select_key(self, node: Json, on: Any) -> Any:
        return on.select_key(self.fn(node))

    def _peek(self, node: Json, on: Any) -> Any:
        return on.peek(self.see(node))

    def _foreach(self, node: Json, on: Any) -> None:
        on.foreach(self.see(node))

    def see(self, node: Json) -> Callable[..., None]:
        return lambda key, value: self.seen.append([node["id"], plain(key), plain(value)])

    def _merge(self, node: Json, left: Any, right: Any) -> Any:
        return left.merge(right)

    def _split(self, node: Json, on: Any) -> None:
        split = on.split()
        names = [branch["name"] for branch in node["branches"]]
        for branch in node["branches"]:
            split = split.branch(self.predicate(branch["fn"]))
        default = node.get("default")
        streams = split.no_default_branch() if default is None else split.default_branch()
        for name, stream in zip([*names, *([] if default is None else [default])], streams, strict=True):
            self.made[f"{node['id']}.{name}"] = stream
            self.types[f"{node['id']}.{name}"] = node["types"]

    def _repartition(self, node: Json, on: Any) -> Any:
        return on.repartition(node.get("name"), partitions=node.get("partitions"), **self.serdes(node))

    def _to(self, node: Json, on: Any) -> None:
        topic: Any = node.get("topic")
        if topic is None:  # any there is; the cases of `add_sink` declare them
            f = fn(node["topic_fn"])
            topic = lambda key, value: f(key, value)  # noqa: E731
        key, value = self.types[node["in"][0]]
        on.to(topic, key=serde(key), value=serde(value), partitioner=self.partitioner(node))

    def partitioner(self, node: Json) -> Callable[..., Any] | None:
        match node.get("partitioner"):
            case None:
                return None
            case ["drop_if", predicate]:
                f = fn(predicate)
                return lambda topic, key, value, count: [] if holds(f, key, value) else None
            case ["all"]:
                return lambda topic, key, value, count: list(range(count))
        return lambda topic, key, value, count: None

    def _to_table(self, node: Json, on: Any) -> Any:
        return on.to_table(self.materialized(node))

    def _to_stream(self, node: Json, on: Any) -> Any:
        return on.to_stream(self.fn(node)) if "fn" in node else on.to_stream()

    # --- Joins

    def _stream_join(self, node: Json, left: Any, right: Any) -> Any:
        windows = ads.JoinWindows.of_time_difference_and_grace(ms(0), ms(node.get("grace") or 0))
        before, after = ms(node["before"]), ms(node["after"])
        # The greater first: at no time may the sum be negative.
        windows = windows.before(before).after(after) if before > after else windows.after(after).before(before)
        join = getattr(left, JOINS[node["how"]])
        stores: dict[str, Any] = {}
        if "stores" in node:
            size = windows.size_ms
            kept, order = ms(size + (node.get("grace") or 0)), {"memory": "time", "rocksdb": "key"}[node["stores"]]
            stores = {
                f"{side}_store": ads.store.window(f"{node['id']}-{side}", kept, ms(size), duplicates=True, order=order)
                for side in ("this", "other")
            }
        return join(right, self.joiner(node), windows, name=node.get("name"), **stores)

    def _stream_table_join(self, node: Json, stream: Any, table: Any) -> Any:
        join = getattr(stream, JOINS[node["how"]])
        return join(table, self.joiner(node), name=node.get("name"), grace=ms(node.get("grace")))

    def _stream_global_join(self, node: Json, stream: Any, table: Any) -> Any:
        join = getattr(stream, JOINS[node["how"]])
        key = fn(node["key"])
        return join(table, lambda k, v: key(k, v), self.joiner(node))

    def _table_join(self, node: Json, left: Any, right: Any) -> Any:
        join = getattr(left, JOINS[node["how"]])
        return join(right, self.joiner(node), self.materialized(node))

    def _fk_join(self, node: Json, left: Any, right: Any) -> Any:
        join = {"inner": left.join, "left": left.left_join}[node["how"]]
        f = fn(node["key"])
        key = (lambda key, value: f(key, value)) if node.get("with_key") else (lambda value: f(None, value))
        return join(right, self.joiner({**node, "with_key": False}), self.materialized(node), foreign_key=key)

    # --- Grouped

    def _group_by_key(self, node: Json, on: Any) -> Any:
        return on.group_by_key(node.get("name"), **self.serdes(node))

    def _group_by(self, node: Json, on: Any) -> Any:
        selector = self.pair(node["fn"]) if isinstance(on, ads.KTable) else self.fn(node)
        return on.group_by(selector, node.get("name"), **self.serdes(node))

    def _count(self, node: Json, on: Any) -> Any:
        return on.count(self.materialized(node))

    def _reduce(self, node: Json, on: Any) -> Any:
        adder = self.reducer(node["fn"])
        if "sub" in node:
            return on.reduce(adder, self.reducer(node["sub"]), self.materialized(node))
        return on.reduce(adder, self.materialized(node))

    def reducer(self, asked: Json) -> Callable[..., Any]:
        f = fn2(asked)
        return lambda aggregate, value: f(None, value, aggregate)

    def aggregator(self, asked: Json) -> Callable[..., Any]:
        f = fn2(asked)
        return lambda key, value, aggregate: f(key, value, aggregate)

    def _aggregate(self, node: Json, on: Any) -> Any:
        first = node["init"]
        functions = [self.aggregator(node[field]) for field in ("fn", "sub", "merger") if field in node]
        return on.aggregate(lambda: first, *functions, self.materialized(node))

    # --- By window

    def _windowed_by(self, node: Json, on: Any) -> Any:
        window = node["window"]
        grace = ms(window.get("grace") or 0)
        made: Any
        match window["type"]:
            case "tumbling":
                made = ads.tumbling(ms(window["size"]), grace=grace)
            case "hopping":
                made = ads.hopping(ms(window["size"]), advance=ms(window["advance"]), grace=grace)
            case "sliding":
                made = ads.sliding(ms(window["difference"]), grace=grace)
            case "session":
                made = ads.session(ms(window["gap"]), grace=grace)
            case "own":
                made = OwnWindows(window)
            case _:
                made = ads.unlimited(ms(window.get("start", 0)))
        windowed = on.windowed_by(made)
        return windowed.emit_strategy("close") if node.get("emit") == "close" else windowed

    def _cogroup(self, node: Json, first: Any, *others: Any) -> Any:
        fns = [self.aggregator(asked) for asked in node["fns"]]
        cogrouped = first.cogroup(fns[0])
        for other, f in zip(others, fns[1:], strict=True):
            cogrouped = cogrouped.cogroup(other, f)
        return cogrouped

    def _suppress(self, node: Json, on: Any) -> Any:
        asked = node.get("buffer") or {}
        buffer = ads.Suppressed.unbounded()
        if "records" in asked:
            buffer = buffer.with_max_records(asked["records"])
        if "bytes" in asked:
            buffer = buffer.with_max_bytes(asked["bytes"])
        if asked.get("full") == "emit":
            buffer = buffer.emit_early_when_full()
        if node["until"] == "closes":
            terms = ads.Suppressed.until_window_closes(buffer)
        else:
            terms = ads.Suppressed.until_time_limit(ms(node["limit"]), buffer)
        name = node.get("name")
        return on.suppress(terms.with_name(name) if name is not None else terms)


class _Run:
    """One case on one driver."""

    def __init__(
        self, case: Case, driver: TopologyTestDriver, seen: list[Json], result: Result, disturb: str | None
    ) -> None:
        self.case = case
        self.driver = driver
        self.seen = seen
        self.result = result
        self.outputs = [name for name, topic in case["topics"].items() if topic.get("out")]
        self.disturb = disturb
        self.chance = random.Random(case["name"])
        anywhere = any("topic_fn" in node for node in case["nodes"])
        self.written = {name for name in self.outputs if anywhere or name in driver.partitions}

    def all(self) -> None:
        steps: list[Json] = []
        self.result["steps"] = steps
        dropped = 0
        for number, record in enumerate(self.case["inputs"]):
            try:
                if self.disturb is not None and self.chance.random() < 0.4:
                    self.disturbance()
                if "advance_wall_clock" in record:
                    self.driver.advance_wall_clock(timedelta(milliseconds=record["advance_wall_clock"]))
                else:
                    self.pipe(record)
                    self.driver.run()
            except ads.AdstreamError as error:
                self.result["error"] = _error(str(number), error)
                steps.append({})
                return
            step = self.told()
            now = self.dropped()
            if now != dropped:
                step["dropped"] = now - dropped
                dropped = now
            steps.append(step)
        self.result["stores"] = self.stores()

    def disturbance(self) -> None:
        if self.disturb == "restart":
            self.driver.restart()
        else:
            step = self.chance.choice(["process", "close", "produce", "before-commit"])
            self.driver.crash_at(step, commits=self.chance.choice([0, 0, 1]), restart=self.disturb == "crash")

    def pipe(self, record: Json) -> None:
        topic = self.driver.input(record["topic"])
        types = self.case["topics"][record["topic"]]
        key, value = (
            bytes.fromhex(part["hex"]) if isinstance(part, dict) else serde(types[which]).serialize(part)
            for which, part in (("key", record["key"]), ("value", record["value"]))
        )
        headers = [(name, None if text is None else text.encode()) for name, text in record.get("headers", ())]
        topic.pipe_raw(key, value, at=record["ts"], headers=headers)

    def told(self) -> Json:
        step: Json = {}
        out: dict[str, Json] = {}
        for topic in self.outputs:
            if topic in self.written:
                types = self.case["topics"][topic]
                key, value = serde(types["key"]), serde(types["value"])
                for record in self.driver.output(topic).read_raw():
                    one = [plain(key.deserialize(record.key)), plain(value.deserialize(record.value)), record.timestamp]
                    if record.headers:
                        one.append([[name, None if text is None else text.decode()] for name, text in record.headers])
                    out.setdefault(topic, []).append(one)
        if out:
            step["out"] = out
        if self.seen:
            step["seen"] = list(self.seen)
            self.seen.clear()
        return step

    def dropped(self) -> int:
        return sum(
            count
            for reasons in self.driver.counters().values()
            for reason, count in reasons.items()
            if reason.startswith(("dropped", "dead")) or reason == "late"
        )

    def stores(self) -> Json:
        """What named stores hold, in the order in which they tell it themselves."""
        nodes = [node["store"]["name"] for node in self.case["nodes"] if (node.get("store") or {}).get("name")]
        names = {*nodes, *(store["name"] for store in self.case.get("stores", ()))}
        found = {}
        for name in sorted(names):
            try:
                store = self.driver.store(name)
            except KeyError:
                continue  # nobody needed it
            found[name] = self.contents(store)
        return found

    def contents(self, store: Any) -> Json:
        if isinstance(store, adstream_store.ReadOnlyVersionedKeyValueStore):
            keys = {str(r["key"]): r["key"] for r in self.case["inputs"] if isinstance(r.get("key"), str | int)}
            told = []
            for _, key in sorted(keys.items()):
                with contextlib.suppress(TypeError):  # of another topic, of another type
                    if (version := store.get(key)) is not None:
                        told.append([plain(key), plain(version.value), version.timestamp])
            return told
        entries = store.fetch(None, None) if isinstance(store, adstream_store.ReadOnlySessionStore) else store.all()
        told = []
        for key, value in entries:
            stamped = isinstance(value, ads.ValueAndTimestamp)
            place = [plain(key.key), key.start, key.end] if isinstance(key, ads.Windowed) else plain(key)
            told.append([place, *([plain(value.value), value.timestamp] if stamped else [plain(headed(value))])])
        return told
