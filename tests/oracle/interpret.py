"""Operators, tasks, lanes and commit points, one record at a time.

A task is a sub-topology on a partition. What it sends through a shuffle is a list of rows, each with its stamp: the
largest event time that this task has sent on this edge, the row included. The task's partition is the rows' *lane*.

- A row is late if `window end + grace <= stamp`-clock of its lane.
- A window closes when all lanes' clocks have passed the same point. How a lane's clock becomes known downstream is the
  engine's affair; here a lane tells every partition its clock with each commit.
- A lane that may be idle is so when, at a commit, its task has nothing left to read and has sent no row for long enough
  on the logged clock; it tells so with that commit. It wakes with its next row. Windows do not wait for idle lanes; of
  lanes that are all idle the fastest counts. What has closed stays closed: a row that comes too late only for that is
  late, too, for a reason of its own.
- With a ttl a group is the rows of a key of which each came less than that after the one before; a row comes when its
  lane's clock shows, or that of the slowest lane if it was idle. What nothing can continue any more is taken back from the
  tables behind, at the end of the next `ttl` of time, counted from the epoch, after the one in which its last row came.
- A table tells, at a commit, the groups that changed, in the order of their latest updates.

Every round gives each task a turn, upstream first, in the order of their numbers: a task processes what there is (one
that reads a user topic `commit_every` rows at most) and commits.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from tests.oracle.expression import Bad, Typed, decimal, floating, integer, is_decimal, scale, typed, widened
from tests.oracle.text import Refused, as_json, key_bytes, parse_payload, partition_of

NEVER = -(2**63)
DAY_MS = 86_400_000

Input = tuple[int, bytes | None, bytes | None]  # timestamp, key, value


@dataclass
class Row:
    """`cells`: columns by name. `origin`: topic, partition, offset; None for what exists only inside."""

    cells: dict[str, Any]
    ts: int
    origin: tuple[str, int, int] | None = None
    sign: int = 1
    stamp: int = NEVER
    lane: int = 0

    def named(self) -> dict[str, Any]:
        _, partition, offset = self.origin or (None, None, None)
        return {"$timestamp": self.ts, "$offset": offset, "$partition": partition, **self.cells}


class Written(NamedTuple):
    key: bytes | None
    value: Any
    timestamp: int


class Dead(NamedTuple):
    origin: tuple[str, int, int] | None
    operator: str
    reason: str


@dataclass
class Answer:
    topics: dict[str, dict[int, list[Written]]] = field(default_factory=dict)
    tables: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    dead: list[Dead] = field(default_factory=list)
    counters: dict[str, Counter[str]] = field(default_factory=dict)


def interpret(
    plan: Mapping[str, Any],
    callables: Sequence[Callable[..., Any]],
    inputs: Mapping[str, Mapping[int, Sequence[Input]]],
    partitions: int,
    commit_every: int | None = None,
) -> Answer:
    """What the topology answers to these records, by topic and partition. All topics have as many partitions."""
    oracle = Oracle(plan, callables, partitions, commit_every)
    for topic, lanes in inputs.items():
        for partition, records in lanes.items():
            for record in records:
                oracle.append(topic, partition, record)
    oracle.run()
    return oracle.answer


class Oracle:
    """An application: records come, it runs, wall clock passes."""

    def __init__(
        self,
        plan: Mapping[str, Any],
        callables: Sequence[Callable[..., Any]],
        partitions: int,
        commit_every: int | None = None,
    ) -> None:
        shape = Shape(plan, callables)
        self.answer = Answer()
        self.commit_every = commit_every
        self.tasks = [
            Task(shape, sub, p, partitions, self.answer) for sub in shape.subtopologies for p in range(partitions)
        ]
        levels = sorted({shape.level(task.nodes) for task in self.tasks})
        self.in_order = [task for level in levels for task in self.tasks if shape.level(task.nodes) == level]
        self.ends: Counter[tuple[str, int]] = Counter()
        self.now = 0

    def append(self, topic: str, partition: int, record: Input) -> None:
        task = next(t for t in self.tasks if topic in t.queues and t.partition == partition)
        task.queues[topic].append((self.ends[topic, partition], *record))
        self.ends[topic, partition] += 1

    def run(self) -> None:
        while self.round(everybody=False):
            pass

    def advance(self, ms: int) -> None:
        """The clock moves on with nothing to read, and every task commits; as often as that makes a difference."""
        self.run()
        self.now += ms
        while self.round(everybody=True):
            self.run()

    def round(self, *, everybody: bool) -> bool:
        moved = False
        for task in self.in_order:
            if not task.process(self.commit_every) and not everybody:
                continue
            told = task.commit(self.now)
            moved |= not everybody or any(message.rows or message.news for _, _, message in told)
            for edge, p, message in told:
                next(t for t in self.tasks if edge in t.arrivals and t.partition == p).arrivals[edge].append(message)
        return moved


# --- The plan ---------------------------------------------------------------------------------------------------------


class Shape:
    """Types, who reads whom, where the shuffles are."""

    def __init__(self, plan: Mapping[str, Any], callables: Sequence[Callable[..., Any]]) -> None:
        self.nodes: list[dict[str, Any]] = plan["nodes"]
        self.callables = callables
        self.types: list[list[dict[str, str]]] = []
        self.table: list[bool] = []
        self.keyed: list[list[str] | None] = []
        self.shuffled: list[bool] = []
        self.readers: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for node in self.nodes:
            self.learn(node)
            for i, (source, port) in enumerate(node["inputs"]):
                self.readers.setdefault((source, port), []).append((node["id"], i))
        self.subtopologies = self.cut()
        self.used = {n["id"]: self.fields_used(n) for n in self.nodes if n["op"] == "source"}

    def typed(self, e: Mapping[str, Any], types: Mapping[str, str]) -> Typed:
        return typed(e, types, self.callables)

    def learn(self, node: dict[str, Any]) -> None:
        op = node["op"]
        if op == "source":
            self.types.append([{f["name"]: f["type"] for f in node["fields"]}])
            self.table.append(False)
            self.keyed.append(node["key"])
            self.shuffled.append(False)
            return
        source, port = node["inputs"][0]
        given = self.types[source][port]
        table = self.table[source] and (port == 0 or self.nodes[source]["op"] != "aggregate")
        keyed = self.keyed[source]
        ports = [given]
        shuffled = False
        if op in ("with_columns", "select"):
            made = {name: self.typed(e, given).type for name, e in node["exprs"]}
            ports = [{**(given if op == "with_columns" else {}), **made}]
            if op == "with_columns":
                kept = keyed is not None and not set(keyed) & set(made)
            else:
                same = {name for name, e in node["exprs"] if e["op"] == "col" and e["name"] == name}
                kept = keyed is not None and set(keyed) <= same
            keyed = keyed if kept else None
        elif op == "map":
            ports, keyed = [{f["name"]: f["type"] for f in node["schema"]}], None
        elif op == "branch":
            ports = [given] * (len(node["exprs"]) + 1)
        elif op == "merge":
            others = [self.types[n][p] for n, p in node["inputs"]]
            ports = [{k: t if all(o[k] == t for o in others) else widened(t) for k, t in given.items()}]
            if any(self.keyed[n] != keyed for n, _ in node["inputs"]):
                keyed = None
        elif op == "aggregate":
            bounds = {"$window_start": "timestamp", "$window_end": "timestamp"} if node["window"] else {}
            made = {a["name"]: self.result_type(a, given) for a in node["aggregates"]}
            changes = {**{k: widened(given[k]) for k in node["keys"]}, **bounds, **made}
            ports = [changes, changes, {**given, **bounds, "$reason": "str"}]
            shuffled = table or keyed != node["keys"]
            table, keyed = True, node["keys"]
        elif op == "to_stream":
            table = False
        self.types.append(ports)
        self.table.append(table)
        self.keyed.append(keyed)
        self.shuffled.append(shuffled)

    def result_type(self, a: Mapping[str, Any], given: Mapping[str, str]) -> str:
        if a["fn"] == "count":
            return "int"
        if a["fn"] == "python":
            return str(a["type"])
        dtype = self.typed(a["arg"], given).type or "int"
        if a["fn"] == "sum":
            return f"decimal(38,{scale(dtype)})" if is_decimal(dtype) else dtype
        if a["fn"] == "mean":
            if dtype == "duration":
                return dtype
            return f"decimal(38,{max(6, scale(dtype))})" if is_decimal(dtype) else "float"
        return widened(dtype)

    def cut(self) -> list[list[int]]:
        group = list(range(len(self.nodes)))
        for node in self.nodes:
            if not self.shuffled[node["id"]]:
                for source, _ in node["inputs"]:
                    old, new = group[node["id"]], group[source]
                    old, new = max(old, new), min(old, new)
                    group = [new if g == old else g for g in group]
        return [[i for i, g in enumerate(group) if g == root] for root in sorted(set(group))]

    def level(self, nodes: Sequence[int]) -> int:
        above = [self.nodes[n]["inputs"][0][0] for n in nodes if self.shuffled[n]]
        return max((1 + self.level(next(s for s in self.subtopologies if a in s)) for a in above), default=0)

    def patience(self, aggregate: Mapping[str, Any]) -> int | None:
        """How long a lane of the shuffle before it may be silent, in ms; None: for ever."""
        above, sources, hops = [aggregate["inputs"][0][0]], [], 0
        while above:
            n = above.pop()
            hops += self.shuffled[n]
            if self.nodes[n]["op"] == "source":
                sources.append(self.nodes[n].get("idle_ms"))
            above += [source for source, _ in self.nodes[n]["inputs"]]
        if (aggregate["window"] is None and aggregate.get("ttl_ms") is None) or None in sources:
            return None
        return 0 if hops else max(sources)

    def fields_used(self, source: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What nobody refers to is not looked at."""
        used = self.needed(source["id"], 0) | {source["timestamp"]}
        return [f for f in source["fields"] if f["name"] in used]

    def needed(self, node: int, port: int) -> set[str]:
        found: set[str] = set()
        for reader, _ in self.readers.get((node, port), ()):
            found |= self.reads(self.nodes[reader], self.types[node][port])
        return found

    def reads(self, node: Mapping[str, Any], given: Mapping[str, str]) -> set[str]:
        op, n = node["op"], node["id"]
        behind = set().union(*(self.needed(n, p) for p in range(len(self.types[n]))))
        exprs = [e for _, e in (node.get("rules") or ())]
        match op:
            case "map":
                return set(given)
            case "filter":
                return names([node["expr"]]) | behind
            case "require" | "merge" | "to_stream":
                return names(exprs) | behind
            case "branch":
                return names(node["exprs"]) | behind
            case "with_columns":
                return names(e for _, e in node["exprs"]) | (behind - {name for name, _ in node["exprs"]})
            case "select":
                return names(e for _, e in node["exprs"])
            case "deduplicate":
                return {*node["columns"], *behind}
            case "aggregate":
                whole = any(a["fn"] == "python" for a in node["aggregates"]) or (n, 2) in self.readers
                parts = [e for a in node["aggregates"] for e in (a["arg"], a["where"]) if e is not None]
                return set(given) if whole else {*node["keys"], *names(parts)}
        return {*node["columns"], *(node["key"] or ())}


def names(exprs: Any) -> set[str]:
    found: set[str] = set()
    for e in exprs:
        if e["op"] == "col":
            found.add(e["name"])
        found |= names(e.get("args", ()))
    return found


# --- A task -----------------------------------------------------------------------------------------------------------


class Message(NamedTuple):
    """What one commit of one lane tells one partition."""

    lane: int
    rows: list[Row]
    clock: int
    idle: bool
    news: bool
    """Whether the lane fell silent or woke up with this commit."""


class Task:
    def __init__(self, shape: Shape, nodes: list[int], partition: int, partitions: int, answer: Answer) -> None:
        self.shape, self.nodes, self.partition, self.partitions = shape, nodes, partition, partitions
        self.answer = answer
        self.queues: dict[str, list[Any]] = {}
        self.sources: dict[str, dict[str, Any]] = {}
        self.arrivals: dict[int, list[Message]] = {}
        self.clocks: dict[str, int] = {}
        self.operators: dict[int, Operator] = {}
        self.sending: dict[int, Sending] = {}
        for n in nodes:
            node = shape.nodes[n]
            if node["op"] == "source":
                self.queues[node["topic"]] = []
                self.sources[node["topic"]] = node
                self.clocks[node["topic"]] = NEVER
            else:
                self.operators[n] = OPERATORS[node["op"]](self, node)
            if shape.shuffled[n]:
                self.arrivals[n] = []
        for node in shape.nodes:
            if shape.shuffled[node["id"]] and node["inputs"][0][0] in nodes:
                self.sending[node["id"]] = Sending(self, node)

    # Rows

    def process(self, commit_every: int | None) -> int:
        """One generation's rows; how many there were."""
        done = 0
        while (topic := self.choose()) is not None and (commit_every is None or done < commit_every):
            self.take(topic, *self.queues[topic].pop(0))
            done += 1
        for edge, messages in self.arrivals.items():
            for message in messages:
                done += 1
                aggregate = self.operators[edge]
                assert isinstance(aggregate, Aggregate)
                for row in message.rows:
                    aggregate.idle[message.lane] = False
                    aggregate.process(row)
                aggregate.told(message.lane, message.clock, message.idle)
            messages.clear()
        return done

    def choose(self) -> str | None:
        """Of the topics with records, the one whose next is the oldest; ties by name."""
        waiting = [(self.head_time(t), t) for t, queue in self.queues.items() if queue]
        return min(waiting)[1] if waiting else None

    def head_time(self, topic: str) -> int:
        row = self.read(topic, *self.queues[topic][0])
        return max(self.clocks[topic], row.ts) if isinstance(row, Row) else self.clocks[topic]

    def read(self, topic: str, offset: int, timestamp: int, key: bytes | None, value: bytes | None) -> Row | Dead:
        node = self.sources[topic]
        origin = (topic, self.partition, offset)
        try:
            cells = parse_payload(value, self.shape.used[node["id"]])
        except Refused as refused:
            return Dead(origin, node["name"], str(refused))
        ts = timestamp if node["timestamp"] is None else cells[node["timestamp"]]
        ahead = node.get("max_ahead_ms")
        if ts is not None and ahead is not None and ts > timestamp + ahead:
            return Dead(origin, node["name"], "ahead_of_clock")
        if ts is None or ts < 0:
            return Dead(origin, node["name"], "missing_timestamp")
        return Row(cells, ts, origin)

    def take(self, topic: str, *record: Any) -> None:
        node = self.sources[topic]
        self.count(node["name"], "read")
        row = self.read(topic, *record)
        if isinstance(row, Dead):
            self.dead(row)
            return
        self.clocks[topic] = max(self.clocks[topic], row.ts)
        self.emit(node["id"], 0, row)

    def emit(self, node: int, port: int, row: Row) -> None:
        for reader, _ in self.shape.readers.get((node, port), ()):
            receiver = self.sending.get(reader) or self.operators[reader]
            receiver.process(Row(dict(row.cells), row.ts, row.origin, row.sign, row.stamp, row.lane))

    def commit(self, now: int) -> list[tuple[int, int, Message]]:
        for n in sorted(self.operators):
            self.operators[n].flush()
        read_all = not any(self.queues.values()) and not any(self.arrivals.values())
        receiving = [self.operators[edge] for edge in self.arrivals]
        asleep = all(idle for a in receiving if isinstance(a, Aggregate) for idle in a.idle)
        return [told for edge in self.sending.values() for told in edge.messages(now, read_all, asleep)]

    # What happens to rows

    def count(self, name: str, reason: str, n: int = 1) -> None:
        self.answer.counters.setdefault(name, Counter())[reason] += n

    def dead(self, dead: Dead) -> None:
        self.count(dead.operator, f"dead:{dead.reason}")
        self.answer.dead.append(dead)

    def kill(self, row: Row, name: str, reason: str) -> None:
        self.dead(Dead(row.origin, name, reason))


class Operator:
    def __init__(self, task: Task, node: dict[str, Any]) -> None:
        self.task, self.node, self.id, self.name = task, node, node["id"], node["name"]
        source, port = node["inputs"][0]
        self.types = task.shape.types[source][port]
        self.prepare()

    def prepare(self) -> None: ...

    def process(self, row: Row) -> None: ...

    def flush(self) -> None: ...

    def typed(self, e: Mapping[str, Any]) -> Typed:
        return self.task.shape.typed(e, self.types)

    def emit(self, row: Row, port: int = 0) -> None:
        self.task.emit(self.id, port, row)

    def count(self, reason: str) -> None:
        self.task.count(self.name, reason)

    def kill(self, row: Row, reason: str) -> None:
        self.task.kill(row, self.name, reason)

    def first_error(self, row: Row, columns: Sequence[str]) -> bool:
        """Whether reading these columns meets an error; then the row is dead."""
        for name in columns:
            if isinstance(value := row.cells[name], Bad):
                self.kill(row, value.reason)
                return True
        return False


class Filter(Operator):
    def prepare(self) -> None:
        self.condition = self.typed(self.node["expr"])
        self.reason = self.node["reason"] or self.name

    def process(self, row: Row) -> None:
        verdict = self.condition.value(row.named())
        if verdict is True:
            self.emit(row)
        elif isinstance(verdict, Bad):
            self.kill(row, verdict.reason)
        else:
            self.count(f"filtered:{self.reason}")


class Require(Operator):
    def prepare(self) -> None:
        self.rules = [(reason, self.typed(e)) for reason, e in self.node["rules"]]

    def process(self, row: Row) -> None:
        broken = next((reason for reason, rule in self.rules if rule.value(row.named()) is not True), None)
        if broken is None:
            self.emit(row)
        else:
            self.kill(row, broken)


class Project(Operator):
    def prepare(self) -> None:
        self.exprs = [(name, self.typed(e)) for name, e in self.node["exprs"]]
        self.keep = self.node["op"] == "with_columns"

    def process(self, row: Row) -> None:
        made = {name: e.value(row.named()) for name, e in self.exprs}
        row.cells = {**row.cells, **made} if self.keep else made
        self.emit(row)


class Map(Operator):
    def process(self, row: Row) -> None:
        if self.first_error(row, [name for name in row.cells if not name.startswith("$")]):
            return
        function = self.task.shape.callables[self.node["function"]]
        try:
            row.cells = dict(function({k: v for k, v in row.cells.items() if not k.startswith("$")}))
        except Exception:
            self.kill(row, "callable_raised")
            return
        self.emit(row)


class Branch(Operator):
    def prepare(self) -> None:
        self.conditions = [self.typed(e) for e in self.node["exprs"]]

    def process(self, row: Row) -> None:
        for port, condition in enumerate(self.conditions):
            verdict = condition.value(row.named())
            if isinstance(verdict, Bad):
                self.kill(row, verdict.reason)
                return
            if verdict is True:
                self.emit(row, port)
                return
        self.emit(row, len(self.conditions))


class Pass(Operator):
    """merge"""

    def process(self, row: Row) -> None:
        self.emit(row)


class ToStream(Operator):
    def process(self, row: Row) -> None:
        if row.sign > 0:
            self.emit(row)


class Deduplicate(Operator):
    def prepare(self) -> None:
        self.seen: dict[Any, int] = {}
        self.clock = NEVER

    def process(self, row: Row) -> None:
        if self.first_error(row, self.node["columns"]):
            return
        self.clock = max(self.clock, row.ts)
        identity = tuple(row.cells[name] for name in self.node["columns"])
        at = self.seen.get(identity)
        if at is not None and self.clock <= at + self.node["within_ms"]:
            self.count("repeated")
            return
        self.seen[identity] = row.ts
        self.emit(row)


class ToTopic(Operator):
    def process(self, row: Row) -> None:
        node = self.node
        if row.sign < 0 or self.first_error(row, [*node["columns"], *(node["key"] or ())]):
            return
        self.count("out")
        keys = node["key"] or []
        key = key_bytes([row.cells[k] for k in keys], [self.types[k] for k in keys]) if keys else None
        count = self.task.partitions
        p = self.task.partition if key is None else partition_of(key, count)
        value = {name: as_json(row.cells[name], self.types[name]) for name in node["columns"]}
        topic = self.task.answer.topics.setdefault(node["topic"], {})
        topic.setdefault(p, []).append(Written(key, value, row.ts))


class Sink(Operator):
    def process(self, row: Row) -> None:
        node = self.node
        if row.sign < 0 or self.first_error(row, node["columns"]):
            return
        self.count("out")
        key = tuple(row.cells[name] for name in node["key"])
        self.task.answer.tables.setdefault(self.name, {})[key] = {name: row.cells[name] for name in node["columns"]}


class Sending(Operator):
    """A shuffle: rows by key, each with its stamp."""

    def prepare(self) -> None:
        self.clock = NEVER
        self.waiting: dict[int, list[Row]] = {}
        self.parts = [self.typed(e) for a in self.node["aggregates"] for e in (a["arg"], a["where"]) if e is not None]
        self.patience = self.task.shape.patience(self.node)
        self.spoke_at: int | None = None
        self.idle = False

    def process(self, row: Row) -> None:
        keys = self.node["keys"]
        if self.first_error(row, keys):
            return
        # An aggregate that cannot read its argument has not got the row: it does not move time.
        values = [part.value(row.named()) for part in self.parts]
        if error := next((v for v in values if isinstance(v, Bad)), None):
            self.kill(row, error.reason)
            return
        key = key_bytes([row.cells[k] for k in keys], [self.types[k] for k in keys])
        if key is None:
            self.count("dropped:null_key")
            return
        self.clock = max(self.clock, row.ts)
        p = partition_of(key, self.task.partitions)
        self.waiting.setdefault(p, []).append(
            Row(row.cells, row.ts, row.origin, row.sign, self.clock, self.task.partition)
        )

    def messages(self, now: int, read_all: bool, asleep: bool) -> list[tuple[int, int, Message]]:
        was = self.idle
        if now and (self.waiting or self.spoke_at is None):
            self.spoke_at = now
        if self.waiting or not asleep:
            self.idle = False
        elif self.patience is not None and read_all and self.spoke_at is not None:
            self.idle |= now - self.spoke_at >= self.patience
        made = [
            (self.id, p, Message(self.task.partition, self.waiting.get(p, []), self.clock, self.idle, self.idle != was))
            for p in range(self.task.partitions)
        ]
        self.waiting = {}
        return made


# --- Aggregates -------------------------------------------------------------------------------------------------------


@dataclass
class Group:
    start: int | None
    key: tuple[Any, ...]
    ts: int = NEVER
    folded: list[tuple[tuple[int, int, int], int, list[Any]]] = field(default_factory=list)
    """place, sign, one (value or nothing) per aggregate; as they came."""


NOTHING = object()


class Aggregate(Operator):
    """Keeps every row of every group, and folds them anew whenever it is asked. Nothing to get wrong."""

    def prepare(self) -> None:
        node, shape = self.node, self.task.shape
        self.shuffled = shape.shuffled[self.id]
        self.lanes = [NEVER] * (self.task.partitions if self.shuffled else 1)
        self.idle = [False] * len(self.lanes)
        self.window = node["window"]
        self.parts = [
            (a, a["arg"] and self.typed(a["arg"]), a["where"] and self.typed(a["where"])) for a in node["aggregates"]
        ]
        self.groups: dict[tuple[Any, ...], Group] = {}
        self.changed: dict[tuple[Any, ...], None] = {}
        self.before: dict[tuple[Any, ...], Row] = {}
        self.closed: set[int] = set()
        self.slowest = NEVER
        self.position = 0
        self.result_types = shape.types[self.id][0]
        self.ttl = node.get("ttl_ms")
        self.rows: dict[tuple[Any, ...], list[tuple[int, int, tuple[Any, ...]]]] = {}
        """With a ttl: by key, when a row came, its time, and what a group folds of it; as they came."""
        self.told_of: dict[tuple[Any, ...], Row] = {}

    def process(self, row: Row) -> None:
        keys = self.node["keys"]
        if self.first_error(row, keys):
            return
        values = []
        named = row.named()
        for _, arg, where in self.parts:
            value = arg.value(named) if arg else 1
            condition = where.value(named) if where else True
            if error := next((v for v in (value, condition) if isinstance(v, Bad)), None):
                self.kill(row, error.reason)
                return
            values.append(value if condition is True else NOTHING)
        key = tuple(row.cells[k] for k in keys)
        if key == (None,):
            self.count("dropped:null_key")
            return
        lane = row.lane if self.shuffled else 0
        self.lanes[lane] = max(self.lanes[lane], row.stamp if self.shuffled else row.ts)
        if self.ttl is not None:
            self.live(row, key, lane, values)
        taken = False
        for window in starts(self.window, row.ts) if self.window else [None]:
            if window is not None and self.closes_at(window) <= max(self.lanes[lane], self.slowest):
                reason = "late" if self.closes_at(window) <= self.lanes[lane] else "closed_while_idle"
                self.count(reason)
                self.emit_late(row, window, reason)
                continue
            taken = True
            self.take(row, window, key, lane, values)
        if taken:
            self.count("counted")
            self.position += 1
        self.close_windows()

    def live(self, row: Row, key: tuple[Any, ...], lane: int, values: list[Any]) -> None:
        came = max(self.lanes[lane], self.slowest)
        newest = self.lives(key)[-1:]
        self.rows.setdefault(key, []).append((came, row.ts, ((row.ts, lane, self.position), row.sign, values)))
        if self.lives(key)[-1:] != newest:
            self.changed.pop((None, *key), None)
            self.changed[(None, *key)] = None

    def lives(self, key: tuple[Any, ...]) -> list[list[tuple[int, int, tuple[Any, ...]]]]:
        """A key's rows cut where none came for `ttl`."""
        found: list[list[Any]] = []
        for i, row in sorted(enumerate(self.rows.get(key, [])), key=lambda r: (r[1][0], r[0])):
            if not found or row[0] >= found[-1][-1][1][0] + self.ttl:
                found.append([])
            found[-1].append((i, row))
        return [[row for _, row in sorted(life, key=lambda r: r[0])] for life in found]

    def take(self, row: Row, start: int | None, key: tuple[Any, ...], lane: int, values: list[Any]) -> None:
        if self.ttl is not None:
            return
        identity = (start, *key)
        if identity not in self.changed and identity in self.groups:
            self.before[identity] = self.result(self.groups[identity], -1)
        group = self.groups.setdefault(identity, Group(start, key))
        group.ts = max(group.ts, row.ts)
        group.folded.append(((row.ts, lane, self.position), row.sign, values))
        self.changed.pop(identity, None)
        self.changed[identity] = None

    def closes_at(self, start: int) -> int:
        return int(end(self.window, start) + self.window["grace_ms"])

    def told(self, lane: int, clock: int, idle: bool) -> None:
        self.lanes[lane] = max(self.lanes[lane], clock)
        self.idle[lane] = idle
        self.close_windows()

    def close_windows(self) -> None:
        awake = [clock for clock, idle in zip(self.lanes, self.idle, strict=True) if not idle]
        slowest = min(awake) if awake else max(self.lanes)
        if slowest <= self.slowest:
            return
        self.slowest = slowest
        if not self.window:
            return
        due = [g for g in self.groups.values() if g.start is not None and self.closes_at(g.start) <= slowest]
        due = [g for g in due if g.start not in self.closed]
        for group in sorted(due, key=lambda g: (g.start, ordered(g.key))):
            self.emit(self.result(group, 1), 1)
        self.closed |= {g.start for g in due if g.start is not None}

    def emit_late(self, row: Row, start: int, reason: str) -> None:
        bounds = {"$window_start": start, "$window_end": end(self.window, start)}
        # After a shuffle nobody knows where a row came from.
        origin = None if self.shuffled else row.origin
        self.emit(Row({**row.cells, **bounds, "$reason": reason}, row.ts, origin), 2)

    def flush_lives(self) -> None:
        """The newest life of each key that changed, then what is gone with its stretch of `ttl` length, and another one."""
        for _, *rest in self.changed:
            key = tuple(rest)
            life = self.lives(key)[-1]
            group = Group(None, key, max(ts for _, ts, _ in life), [folded for _, _, folded in life])
            if key in self.told_of:
                self.emit(replace(self.told_of[key], ts=group.ts))
            self.emit(self.result(group, 1))
            self.told_of[key] = self.result(group, -1)
        self.changed = {}
        gone = []
        for key in self.rows:
            stretch = max(came for came, _, _ in self.lives(key)[-1]) // self.ttl
            if key in self.told_of and (stretch + 2) * self.ttl <= self.slowest:
                gone.append((stretch, ordered(key), key))
        for *_, key in sorted(gone):
            self.emit(self.told_of.pop(key))

    def flush(self) -> None:
        if self.ttl is not None:
            self.flush_lives()
            return
        for identity in self.changed:
            if identity in self.before:
                self.emit(self.before[identity])
            self.emit(self.result(self.groups[identity], 1))
        self.changed, self.before = {}, {}

    def result(self, group: Group, sign: int) -> Row:
        cells = dict(zip(self.node["keys"], group.key, strict=True))
        if group.start is not None:
            cells |= {"$window_start": group.start, "$window_end": end(self.window, group.start)}
        for i, (a, arg, _) in enumerate(self.parts):
            found = [(place, sign, values[i]) for place, sign, values in group.folded if values[i] is not NOTHING]
            cells[a["name"]] = fold(a["fn"], found, (arg.type if arg else None) or "int", self.result_types[a["name"]])
        return Row(cells, group.ts, None, sign)


def starts(window: Mapping[str, Any], ts: int) -> list[int]:
    """Of all windows that hold a time."""
    if window["kind"] == "civil":
        zone = ZoneInfo(window["zone"])
        day = datetime.fromtimestamp(ts // 1000, zone).date()
        day -= timedelta(days=day.weekday() if window["size_ms"] > DAY_MS else 0)
        return [midnight(day, zone)]
    size, advance = window["size_ms"], window.get("advance_ms", window["size_ms"])
    first = max(0, (ts - size) // advance * advance)
    return [start for start in range(first, ts + 1, advance) if ts < start + size]


def end(window: Mapping[str, Any], start: int) -> int:
    if window["kind"] == "civil":
        zone = ZoneInfo(window["zone"])
        day = datetime.fromtimestamp(start // 1000, zone).date()
        return midnight(day + timedelta(days=window["size_ms"] // DAY_MS), zone)
    return int(start + window["size_ms"])


def midnight(day: date, zone: ZoneInfo) -> int:
    """The first moment of a day, in ms; where the clocks skip it, the moment they do."""
    naive = datetime(day.year, day.month, day.day, tzinfo=zone)
    return int(naive.astimezone(UTC).timestamp()) * 1000


def ordered(key: tuple[Any, ...]) -> list[Any]:
    """Null first; texts by their bytes."""
    return [(v is not None, v.encode() if isinstance(v, str) else v if v is not None else 0) for v in key]


def fold(fn: str, found: list[tuple[Any, int, Any]], given: str, dtype: str) -> Any:
    if fn == "count":
        return sum(sign for _, sign, value in found if value is not None)
    found = [(place, sign, value) for place, sign, value in found if value is not None]
    values = [value for _, _, value in found]
    if fn == "sum" and given == "float":
        total = 0.0
        for value in values:
            total += value
        return floating(total)
    if fn == "sum":
        exact = sum((Fraction(value) * sign for _, sign, value in found), Fraction(0))
        if not is_decimal(dtype):
            return integer(int(exact))
        return decimal(int(exact * 10 ** scale(dtype)), scale(dtype))
    if fn == "mean":
        count = sum(sign for _, sign, _ in found)
        if count == 0:
            return None
        if given == "float":
            total = 0.0
            for value in values:
                total += value
            return floating(total / count)
        exact = sum((Fraction(value) * sign for _, sign, value in found), Fraction(0))
        if is_decimal(dtype):
            return decimal(round(exact / count * 10 ** scale(dtype)), scale(dtype))
        if dtype == "duration":
            return round(exact / count)
        return floating(float(exact) / float(count))
    if not found:
        return None
    if fn in ("min", "max"):
        by = (lambda v: v.encode()) if isinstance(values[0], str) else (lambda v: v)
        return (min if fn == "min" else max)(values, key=by)
    return (min if fn == "first" else max)(found, key=lambda f: f[0])[2]


OPERATORS: dict[str, type[Operator]] = {
    "filter": Filter,
    "require": Require,
    "with_columns": Project,
    "select": Project,
    "map": Map,
    "branch": Branch,
    "merge": Pass,
    "deduplicate": Deduplicate,
    "aggregate": Aggregate,
    "to_stream": ToStream,
    "to_topic": ToTopic,
    "sink": Sink,
}


def decoded(value: bytes | None) -> Any:
    """A written payload, to compare with `Written.value`."""
    return None if value is None else json.loads(value)
