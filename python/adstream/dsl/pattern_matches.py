"""Patterns on streams: what `match` adds to the plan, and the streams that come out of it.

A match is an object of its stages, in order of their first event, with their events. Conditions are numbered; those that are
expressions are run by the core, with what they ask of the events taken before (`rust/core/src/flow/looks.rs`). Several patterns
are one node: they share the events that wait, and a condition that several of them have is asked once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

from adstream.dsl import flow, natives, pattern_drawing, store
from adstream.dsl.durations import Duration, duration_ms
from adstream.dsl.expr import Expr
from adstream.dsl.faults import fault, nearest, user_line
from adstream.dsl.flow import Materialized
from adstream.dsl.graph import Graph, Node, Port
from adstream.dsl.kstream import Flowing, KGroupedStream, KStream, ProcessedStream
from adstream.dsl.pattern import LOOK, RULE, AfterMatchSkipStrategy, Pattern, check_skip
from adstream.dsl.pattern_json import stage_names
from adstream.dsl.pattern_rules import Reader, Rules
from adstream.dsl.pattern_text import condition_text
from adstream.dsl.serdes import Serde
from adstream.errors import TopologyError

OnMaxRuns = Literal["drop_oldest", "dead_letter", "fail"]
"""What becomes of an event that would leave its key more runs than it may have."""
Time = Literal["event", "processing"]
"""Whose time counts: the events', or that of the logged clock when they come."""
MATCHES, TIMED_OUT, LATE, TRACE = range(4)
"""Ports of a first pattern; those of others come behind, without one for what is late."""


def port_of(place: int, port: int) -> int:
    """The port of the `place`-th pattern that is `port` of the first one."""
    return port if place == 0 or port == LATE else 3 * place + (3 if port == TRACE else port + 1)


class Lowering:
    """Conditions by their numbers."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.conditions: list[dict[str, Any]] = []
        self.texts: list[str] = []

    def guard(self, condition: Any) -> dict[str, Any]:
        if isinstance(condition, tuple):
            how, one, other = condition
            return {how: [self.guard(one), self.guard(other)]}
        said = self.expression(condition) if isinstance(condition, Expr) else self._function(condition)
        if said not in self.conditions:
            self.conditions.append(said)
            self.texts.append(condition_text(condition))
        return {"is": self.conditions.index(said)}

    def expression(self, e: Expr) -> dict[str, Any]:
        """A condition as the plan has it."""
        said = flow.function(self._graph, e, "condition", "where")
        return {**said, "uses": [use(self._graph, asked, asked["of"]) for asked in looks(e)]}

    def _function(self, fn: Callable[..., Any]) -> dict[str, Any]:
        low, _ = flow._arity(fn) or (1, 1)
        said = flow.call(self._graph, fn, "condition", "where", 2 if low == 2 else 1)
        return {"call": self._graph.register(flow.Condition(fn)), "with_key": said["with_key"], "history": low == 2}


def looks(e: Expr) -> list[dict[str, Any]]:
    """What it asks of the events that are taken: `name`, `stage`, `look`, and the tree `of`."""
    names = {node.name for node in e.walk() if node.op == "col" and node.name and node.name.startswith(LOOK)}
    texts = sorted(name.removeprefix("$other.") for name in names if name is not None)
    return [{"name": text, **json.loads(text)} for text in texts]


def use(graph: Graph, asked: Mapping[str, Any], of: Any) -> dict[str, Any]:
    """The same as the plan has it; `of`: the tree of the function."""
    call = None
    if of is not None:
        native = natives.Native({"expr": of}, f"{asked['look']} of `{asked['stage']}`")
        call = {"call": graph.register(native), "with_key": True}
    return {"name": asked["name"], "stage": asked["stage"], "look": asked["look"], "of": call}


def sums(graph: Graph) -> dict[str, Any]:
    """How the core adds and divides what it is asked for."""
    a, b = natives.value(), natives.other()
    functions = {"add": a + b, "divide": a / b}
    return {
        name: {"call": graph.register(natives.expression(e, "match")), "with_key": True}
        for name, e in functions.items()
    }


class Matches:
    """What was found of a pattern, and beside it what timed out and what came too late."""

    def __init__(
        self,
        flowing: Flowing,
        node: Node,
        texts: list[str],
        stages: list[str] | None,
        place: int = 0,
        label: str = "",
    ) -> None:
        """`stages`: the pattern's; None: of many patterns, not known here."""
        self._flowing, self._node, self._texts, self._stages = flowing, node, texts, stages
        self._place, self._label = place, label

    def _port(self, port: int, value: Serde | None = None) -> KStream:
        return KStream(self._flowing.at(self._node, port_of(self._place, port), value=value))

    def _wants(self, what: str) -> None:
        parameters = self._node.parameters
        (parameters["others"][self._place - 1] if self._place else parameters)[what] = True

    @property
    def matches(self) -> KStream:
        """Each match: the key, `{stage: [events]}` with the stages in order of their first event, the time of the last one (or,
        of a pattern that ends with what must not come, when that was certain)."""
        return self._port(MATCHES)

    @property
    def timed_out(self) -> KStream:
        """What was there of each run whose window ended, and when it did."""
        self._wants("timed_out")
        return self._port(TIMED_OUT)

    @property
    def trace(self) -> KStream:
        """Of each event that a key's runs were shown: `event`, `at`, and `runs`. For finding out why something is no match.

        Of each run: its `state`, the time of its first event (`since`; null: the run that waits for one), what it `did` (`took`,
        `skipped`, `took and skipped`, `stopped`, `dropped`, `waits`) and the `edges` it asked, as `explain()` names them, each
        with its condition (`if`) and whether that held. Every such record costs a call of Python."""
        self._wants("trace")
        return self._port(TRACE).map_values(Traced(tuple(self._texts)))

    @property
    def late(self) -> KStream:
        """Events behind the watermark, as they came; of several patterns the same ones. In processing time none is late."""
        return self._port(LATE, self._flowing.value)

    def at_most(self, matches: int, *, per: Duration) -> ProcessedStream:
        """The matches, but of each key at most so many in any stretch of `per` of event time: an alert that does not ring all
        day. The others are its output `held_back`. Not in Flink.

        What was told is remembered in a store, with changelog and exactly-once. A match counts for `per` from its time on, that
        end not included; those that are held back do not count. Each match calls Python.

        Raises:
            TopologyError: `bad_argument`, `bad_duration`.
        """
        if type(matches) is not int or matches < 1:
            raise fault(
                "bad_argument", f"at most {matches!r} matches", operation="at_most", hint="write a number of 1 or more"
            )
        ms = duration_ms(per, "per", operation="at_most", zero=False)
        from adstream.dsl.pattern_backoff import AtMost  # the language loads without the core

        name = f"{self._node.name}{self._label and '-'}{self._label}-at-most"
        kept = store.window(name, f"{2 * ms}ms", f"{ms}ms", duplicates=True)
        return self.matches.process_values(partial(AtMost, name, matches, ms), kept)

    def select(self, fn: Callable[..., Any] | Expr) -> KStream:
        """One value for each match: `fn(match)` or `fn(key, match)`, or an expression that asks the match's events:
        `ads.struct(card=ads.key(), n=ads.matched("a").count())`. In Flink: `select`."""
        if not isinstance(fn, Expr):
            return self.matches.map_values(fn)
        self._check(looks(fn), user_line())
        graph = self._flowing.graph
        node = flow.add(
            graph,
            "select_match",
            [self.matches._flowing.port],
            make=flow.function(graph, fn, "select", "select", values=2),
            uses=[use(graph, asked, asked["of"]) for asked in looks(fn)],
            **sums(graph),
        )
        return KStream(self._flowing.at(node, value=None))

    def _check(self, asked: list[dict[str, Any]], line: str | None) -> None:
        """Whether what is asked of a match are stages that it can have."""
        for stage in (one["stage"] for one in asked):
            if self._stages is None or stage is None or stage in self._stages:
                continue
            if stage == RULE:
                text, hint = "this is a match of a pattern, and no rule's", "rules: `match(app.rules(topic), …)`"
            else:
                near = nearest(stage, self._stages)
                text = f"the pattern has no stage `{stage}`"
                hint = f"did you mean `{near}`?" if near else f"it has {', '.join(self._stages)}"
            raise fault("malformed_pattern", text, operation="select", line=line, hint=hint)

    def flat_select(self, fn: Callable[..., Any]) -> KStream:
        """Any number of values for each match. In Flink: `flatSelect`."""
        return self.matches.flat_map_values(fn)


@dataclass(frozen=True, slots=True)
class Traced:
    """Names the conditions in what the core says of an event."""

    texts: tuple[str, ...]

    def __call__(self, said: dict[str, Any]) -> dict[str, Any]:
        numbered = pattern_drawing.Numbered()
        numbered.texts += self.texts
        runs = [{**run, "edges": [self._edge(edge, numbered) for edge in run["edges"]]} for run in said["runs"]]
        return {**said, "runs": runs}

    def _edge(self, edge: dict[str, Any], numbered: pattern_drawing.Numbered) -> dict[str, Any]:
        named = {name: edge[name] for name in ("from", "action", "to")}
        return {**named, "if": numbered.text(json.loads(edge["guard"])), "holds": edge["holds"]}


@dataclass(frozen=True, slots=True)
class Options:
    """How `match` looks for patterns: its arguments, checked."""

    max_delay: Duration | None
    time: Time = "event"
    idle: Duration | None = None
    skip: AfterMatchSkipStrategy | None = None
    max_runs: int | None = None
    on_max_runs: OnMaxRuns = "drop_oldest"

    def __post_init__(self) -> None:
        check_skip(self.skip)
        if self.time not in get_args(Time):
            raise _wrong(f"`time` is {self.time!r}", 'write "event" or "processing"')
        if self.time == "event" and self.max_delay is None:
            raise _wrong(
                "how late may an event come?", 'write `max_delay="5s"`, or `time="processing"` for the time of arrival'
            )
        if self.time == "processing" and (self.max_delay is not None or self.idle is not None):
            given = "max_delay" if self.max_delay is not None else "idle"
            raise _wrong(f"`{given}` in processing time, where the clock goes on by itself", f"leave `{given}` out")
        if self.max_runs is not None and (type(self.max_runs) is not int or self.max_runs < 1):
            raise _wrong(f"not a number of runs: {self.max_runs!r}", "write 1 or more")
        if self.on_max_runs not in get_args(OnMaxRuns):
            raise _wrong(
                f"not what can be done with too many runs: {self.on_max_runs!r}",
                'write "drop_oldest", "dead_letter" or "fail"',
            )

    def plan(self) -> dict[str, Any]:
        """Parameters of the node."""
        delay = None if self.max_delay is None else duration_ms(self.max_delay, "max_delay", operation="match")
        said: dict[str, Any] = {"max_delay_ms": delay, "max_runs": self.max_runs, "on_max_runs": self.on_max_runs}
        if self.idle is not None:
            said["idle_ms"] = duration_ms(self.idle, "idle", operation="match", zero=False)
        if self.time == "processing" or self.idle is not None:
            said["timed"] = True
        return said


def _wrong(text: str, hint: str) -> TopologyError:
    return fault("bad_argument", text, operation="match", hint=hint)


Patterns = Pattern | Mapping[str, Pattern]
"""One, or several by names."""


def match(
    grouped: KGroupedStream,
    patterns: Patterns | Rules,
    options: Options,
    order_by: Callable[..., Any] | Expr | None,
    materialized: Materialized | str | None,
) -> Matches | dict[str, Matches]:
    """See `KGroupedStream.match`."""
    if isinstance(patterns, Rules):
        how = flow.materialized(materialized, "match")
        return match_rules(grouped.keyed("match", how), patterns, options, order_by, how)
    check(patterns, options.skip)
    how = flow.materialized(materialized, "match")
    flowing = grouped.keyed("match", how)
    return _by_name(patterns, _add(flowing, patterns, options, order_by, how))


def match_unkeyed(
    stream: KStream,
    patterns: Patterns | Rules,
    options: Options,
    order_by: Callable[..., Any] | Expr | None,
    materialized: Materialized | str | None,
) -> Matches | dict[str, Matches]:
    """See `KStream.match`."""
    if isinstance(patterns, Rules):
        how = flow.materialized(materialized, "match")
        return match_rules(stream._flowing, patterns, options, order_by, how, unkeyed=True)
    check(patterns, options.skip)
    how = flow.materialized(materialized, "match")
    found = _add(stream._flowing, patterns, options, order_by, how, unkeyed=True)
    return _by_name(patterns, found)


def _add(
    flowing: Flowing,
    patterns: Patterns,
    options: Options,
    order_by: Callable[..., Any] | Expr | None,
    how: Materialized,
    **more: Any,
) -> list[Matches]:
    order = None if order_by is None else flow.function(flowing.graph, order_by, "order_by", "match")
    return add(flowing, patterns, Lowering(flowing.graph), options, order, how, **more)


def match_rules(
    flowing: Flowing,
    rules: Rules,
    options: Options,
    order_by: Callable[..., Any] | Expr | None,
    how: Materialized,
    **more: Any,
) -> Matches:
    """As `match` and `match_unkeyed`, of rules."""
    order = None if order_by is None else flow.function(flowing.graph, order_by, "order_by", "match")
    return add_rules(flowing, rules, Reader(Lowering, options.skip), options, order, how, **more)


def _by_name(patterns: Patterns, found: list[Matches]) -> Matches | dict[str, Matches]:
    return found[0] if isinstance(patterns, Pattern) else dict(zip(patterns, found, strict=True))


def check(patterns: object, skip: AfterMatchSkipStrategy | None = None) -> None:
    """Whether they are such, and can be."""
    named = patterns if isinstance(patterns, Mapping) else {"a": patterns}
    what, hint = "a pattern", "write `Pattern.begin(name).where(…)`"
    if isinstance(patterns, Mapping):
        what, hint = "patterns by name", 'write `{"name": Pattern.begin(…).where(…)}`'
    for name, pattern in named.items():
        if isinstance(pattern, Pattern) and isinstance(name, str) and name:
            replace(pattern, _skip=skip or pattern._skip).explain()
            continue
        raise fault("bad_argument", f"not {what}: {patterns!r}", operation="match", hint=hint)
    if not named:
        raise fault("bad_argument", f"not {what}: {patterns!r}", operation="match", hint=hint)


def add(
    flowing: Flowing,
    patterns: Patterns,
    lowering: Lowering,
    options: Options,
    order_by: dict[str, Any] | None,
    how: Materialized,
    name: str | None = None,
    unkeyed: bool = False,
) -> list[Matches]:
    """The node, where the records of a key are together; what is found of each pattern."""
    named = {"": patterns} if isinstance(patterns, Pattern) else dict(patterns)
    wanted: list[dict[str, Any]] = [
        {
            "pattern": pattern._document(lowering, options.skip),
            "timed_out": False,
            "trace": False,
        }
        for pattern in named.values()
    ]
    looked = {
        **wanted[0],
        **({"others": wanted[1:]} if len(wanted) > 1 else {}),
        "names": list(named),
        "conditions": lowering.conditions,
        "texts": lowering.texts,
    }
    node = _node(flowing, looked, options, order_by, how, name, unkeyed)
    stages = [stage_names(pattern._stages) for pattern in named.values()]
    return [Matches(flowing, node, lowering.texts, stages[i], i, label) for i, label in enumerate(named)]


def add_rules(
    flowing: Flowing,
    rules: Rules,
    reader: Reader,
    options: Options,
    order_by: dict[str, Any] | None,
    how: Materialized,
    name: str | None = None,
    unkeyed: bool = False,
) -> Matches:
    """The same for rules: what is found of any."""
    graph = flowing.graph
    if rules._graph is not graph:
        raise _wrong(f"the rules of `{rules.topic}` are of another application", "use `app.rules(…)` of the same `app`")
    looked = {"timed_out": False, "trace": False, "names": [""], "conditions": [], "texts": []}
    node = _node(flowing, looked, options, order_by, how, name, unkeyed)
    said = rules.read_by(reader, node.name)
    kept = flow.store(graph, "patterns", Materialized(), said["store"], "match")
    node.parameters |= {"rules": said, "stores": [*node.parameters["stores"], kept]}
    return RuleMatches(flowing, node, [], None)


def _node(
    flowing: Flowing,
    looked: Mapping[str, Any],
    options: Options,
    order_by: dict[str, Any] | None,
    how: Materialized,
    name: str | None,
    unkeyed: bool,
) -> Node:
    graph = flowing.graph
    keys = {"unkeyed": True} if unkeyed else {}
    more = {"order_by": order_by, **keys, **options.plan(), **sums(graph)}
    lanes = _lanes(flowing) if options.time == "event" else []
    more |= {"lanes": True} if lanes else {}
    node = flow.add(graph, "match", [flowing.port, *lanes], name=name, **looked, **more)
    kept = flow.store(graph, "patterns", how, f"{node.name}-store", "match")
    node.parameters |= {"store": kept, "stores": [kept]}
    return node


def _lanes(flowing: Flowing) -> list[Port]:
    """Where the clocks of lanes come from: right behind a topic by which records are moved (`rust/core/src/flow/lanes.rs`)."""
    graph = flowing.graph
    source = graph.nodes[flowing.port[0]]
    if source.parameters.get("kind") != "source" or not source.parameters.get("internal"):
        return []
    read = source.parameters["topics"]
    writers = [n for n in graph.nodes if n.parameters.get("kind") == "to" and n.parameters["topics"] == read]
    for node in [source, *writers]:
        node.parameters["lanes"] = True
    return [(source.id, 1)]


class RuleMatches(Matches):
    """What was found of rules: each match has, beside its stages, `"$rule": [{"id": …, "version": …}]`."""

    @property
    def trace(self) -> KStream:
        raise _wrong("rules are not traced", "try the pattern alone: `match(Pattern.parse(…), …).trace`")
