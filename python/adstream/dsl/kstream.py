"""Streams of keys and values, as in Kafka Streams: the same operations under the same names, in snake_case.

    KStream ──group_by_key, group_by──▶ KGroupedStream ──count, reduce, aggregate──▶ KTable
       │  ▲                                   ├──windowed_by──▶ windows (kwindows.py)
       │  │                                   └──cogroup──▶ one aggregate of several streams (kwindows.py)
       │  └──to_stream────────────────────────────────────────────────────────────── KTable
       ├──to_table──▶ KTable
       └──split──▶ BranchedKStream

- Keys and values are Python objects, read and written by serdes; either may be None. Functions are called with (key,
  value), or with the value alone if they take one argument.
- *Key changes.* `map`, `flat_map`, `select_key`, `group_by` and `process` may change keys; a keyed operation behind them
  moves records through a topic `<app>-<name>-repartition` first, so that equal keys meet in one task. `repartition` does
  so at once. The mark is not cleared by use: two keyed operations on one re-keyed stream make two topics.
- Nothing runs here. Every method adds a node and returns a new object; a stream forks by being used twice, and what was
  said first is done first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, overload

from adstream.dsl import flow, natives, serdes
from adstream.dsl.durations import Duration
from adstream.dsl.expr import Expr
from adstream.dsl.faults import fault, topic_name, unknown_column
from adstream.dsl.flow import Materialized
from adstream.dsl.graph import Graph, Node, Port, check_name
from adstream.dsl.printing import Printer
from adstream.dsl.schema import schema_of
from adstream.dsl.serdes import Serde

if TYPE_CHECKING:
    from adstream.dsl.joins import GlobalKTable, JoinWindows
    from adstream.dsl.ktable import KTable
    from adstream.dsl.kwindows import CogroupedKStream, SessionWindowedKStream, TimeWindowedKStream
    from adstream.dsl.pattern import AfterMatchSkipStrategy, Pattern
    from adstream.dsl.pattern_matches import Matches, OnMaxRuns, Time
    from adstream.dsl.pattern_rules import Rules
    from adstream.dsl.store import StoreBuilder
    from adstream.dsl.stream import Stream
    from adstream.dsl.windows import Hopping, Session, Sliding, Tumbling, Unlimited, Windows

Fn = Callable[..., Any] | Expr
"""A function, or an expression over the record (`natives.py`)."""


@dataclass(frozen=True, slots=True)
class Flowing:
    """What is known of the records at a port.

    Attributes:
        app: the application's name, with which internal topics begin.
        key, value: how they are written where nobody says it; None: unknown since a function made them.
        rekeyed: a keyed operation must move the records first.
    """

    app: str
    graph: Graph
    port: Port
    key: Serde | None
    value: Serde | None
    rekeyed: bool = False

    def at(self, node: Node, port: int = 0, **changes: Any) -> Flowing:
        return replace(self, port=(node.id, port), **changes)


def across(graph: Graph, to: Node, topic: str, operation: str) -> Node:
    """Where the records come out again that `to` writes to an internal topic."""
    if any(topic in node.parameters.get("topics", ()) for node in graph.nodes):
        raise fault(
            "duplicate_name",
            f"two operations write `{topic}`",
            operation=operation,
            hint="give one of them another name",
        )
    to.parameters["topics"] = [topic]
    to.about = f"topic {topic}"
    return flow.add(
        graph,
        "source",
        [],
        topics=[topic],
        key="internal_key",
        value="internal",
        internal=True,
        about=f"topic {topic}",
    )


def repartition(
    flowing: Flowing,
    name: str | None,
    operation: str,
    *,
    key: Serde | None = None,
    partitions: int | None = None,
    partitioner: Fn | None = None,
    changes: bool = False,
    fallback: str | None = None,
) -> Flowing:
    """Through a topic of the application's own, by key."""
    graph = flowing.graph
    key = key.at(f"{flowing.app}-{name or fallback or operation}-repartition", "key", operation) if key else flowing.key
    if partitions is not None and (not isinstance(partitions, int) or partitions < 1):
        raise fault(
            "bad_argument",
            f"`partitions` must be at least 1, not {partitions!r}",
            operation=operation,
            hint="leave it out: the topic is made to fit",
        )
    # The node that writes is named like the topic's middle, which state survives by.
    to = flow.add(
        graph,
        "to",
        [flowing.port],
        topics=[],
        key="internal_key",
        partition_by=key.to_plan(graph.register) if key is not None else None,
        value="internal",
        partitioner=flow.call(graph, partitioner, "partitioner", operation, 4) if partitioner is not None else None,
        changes=changes,
        drop_null_keys=True,  # unless a join behind wants them (joins.py)
        internal=True,
        partitions=partitions,
    )
    source = across(graph, to, f"{flowing.app}-{name or fallback or to.name}-repartition", operation)
    if changes:
        source = flow.add(graph, "changes", [(source.id, 0)])
    return flowing.at(source, key=key, rekeyed=False)


class KStream:
    """Records, one after the other: key, value, time, headers. In Kafka Streams: `KStream`."""

    def __init__(self, flowing: Flowing) -> None:
        self._flowing = flowing
        self._moved_for_joins: Flowing | None = None

    @property
    def _graph(self) -> Graph:
        return self._flowing.graph

    @property
    def _node(self) -> Node:
        return self._graph.nodes[self._flowing.port[0]]

    def named(self, name: str) -> Self:
        """Names the operation just made, for metrics and dead letters. In Kafka Streams: `Named.as`."""
        self._graph.rename(self._node, name)
        return self

    def on_error(self, what: flow.OnError) -> Self:
        """What becomes of records that fail at the operation just made, in place of what `App.on_error` says."""
        self._node.parameters["on_error"] = flow.on_error(self._graph, what)
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._node.name}>"

    def _next(self, kind: str, changes: dict[str, Any] | None = None, **parameters: Any) -> KStream:
        node = flow.add(self._graph, kind, [self._flowing.port], **parameters)
        return KStream(self._flowing.at(node, **(changes or {})))

    def _fn(self, fn: object, what: str, operation: str) -> dict[str, Any]:
        return flow.function(self._graph, fn, what, operation)

    # --- One to one, or none --------------------------------------------------------------------------------------

    def filter(self, predicate: Fn) -> KStream:
        """Keeps records for which `predicate(key, value)` is true."""
        return self._next("filter", predicate=self._condition(predicate, "filter"), negate=False)

    def filter_not(self, predicate: Fn) -> KStream:
        """Drops records for which `predicate(key, value)` is true."""
        return self._next("filter", predicate=self._condition(predicate, "filter_not"), negate=True)

    def _condition(self, predicate: object, operation: str) -> dict[str, Any]:
        return flow.condition(self._graph, predicate, "predicate", operation)

    def map(self, mapper: Fn) -> KStream:
        """`mapper(key, value)` returns the new (key, value)."""
        changes = {"key": None, "value": None, "rekeyed": True}
        return self._next("map", changes, mapper=self._fn(mapper, "mapper", "map"))

    def map_values(self, mapper: Fn) -> KStream:
        """`mapper(value)` or `mapper(key, value)` returns the new value."""
        return self._next("map_values", {"value": None}, mapper=self._fn(mapper, "mapper", "map_values"))

    def flat_map(self, mapper: Fn) -> KStream:
        """`mapper(key, value)` returns or yields any number of (key, value)."""
        changes = {"key": None, "value": None, "rekeyed": True}
        return self._next("flat_map", changes, mapper=flow.listing(self._graph, mapper, "mapper", "flat_map"))

    def flat_map_values(self, mapper: Fn) -> KStream:
        """`mapper(value)` or `mapper(key, value)` returns or yields any number of values."""
        found = flow.listing(self._graph, mapper, "mapper", "flat_map_values")
        return self._next("flat_map_values", {"value": None}, mapper=found)

    def select_key(self, mapper: Fn) -> KStream:
        """`mapper(key, value)` returns the new key."""
        changes = {"key": None, "rekeyed": True}
        return self._next("select_key", changes, mapper=self._fn(mapper, "mapper", "select_key"))

    def peek(self, action: Fn) -> KStream:
        """Calls `action(key, value)` and passes the record on."""
        return self._next("peek", action=self._fn(action, "action", "peek"))

    def foreach(self, action: Fn, *, name: str | None = None) -> None:
        """Calls `action(key, value)`; nothing comes out. `name`: of the operation."""
        self._next("peek", name=name, action=self._fn(action, "action", "foreach"))

    def print(
        self,
        *,
        label: str | None = None,
        file: str | os.PathLike[str] | None = None,
        mapper: Callable[[Any, Any], str] | None = None,
        name: str | None = None,
    ) -> None:
        """Writes a line of text for each record, `[label]: key, value`, to see what goes by. Nothing comes out.

        It is written when the record is processed, not when it is committed: after a failure some lines come again. What
        cannot be written any more (a full disk, a closed pipe) is said once in the log, and records go on.

        Args:
            label: by default the name of the operation whose records they are.
            file: a path, in UTF-8, emptied by the first record; by default standard output.
            mapper: `(key, value)` returns the text behind the label.
            name: of the operation.

        Raises:
            TopologyError: `bad_argument`.

        In Kafka Streams: `print` with `Printed`.
        """
        if mapper is not None and not callable(mapper):
            raise fault(
                "bad_argument",
                f"`mapper` must be a function, not {mapper!r}",
                operation="print",
                hint="write `lambda key, value: …`",
            )
        if file is not None and not os.fspath(file):
            raise fault("bad_argument", "the file has no name", operation="print", hint="leave `file` out, or name it")
        if file is not None and not Path(file).parent.is_dir():
            raise fault(
                "bad_argument",
                f"there is no directory `{Path(file).parent}` for `{Path(file).name}`",
                operation="print",
                hint="make it first, or print to another place",
            )
        printer = Printer(self._node.name if label is None else label, file, mapper)
        self._next("peek", name=name, action=self._fn(printer, "printer", "print"))

    # --- By hand ----------------------------------------------------------------------------------------------------

    def process(
        self, processor: Callable[[], object], *stores: str | StoreBuilder, name: str | None = None
    ) -> ProcessedStream:
        """What a processor forwards. It may change keys, so that keyed operations behind move the records first.

        Args:
            processor: a class (`ads.Processor`), or a function without arguments that makes one; called once per task.
            stores: the stores it reaches, by name or as they are declared (which adds them).
            name: of the operation.

        In Kafka Streams: `process`.
        """
        return self._process("process", processor, stores, name, key=None, value=None, rekeyed=True)

    def process_values(
        self, processor: Callable[[], object], *stores: str | StoreBuilder, name: str | None = None
    ) -> ProcessedStream:
        """As `process`, of a processor that changes no keys (`ads.FixedKeyProcessor`). In Kafka Streams: `processValues`."""
        return self._process("process_values", processor, stores, name, value=None)

    def _process(
        self,
        operation: str,
        processor: object,
        stores: tuple[str | StoreBuilder, ...],
        name: str | None,
        **changes: Any,
    ) -> ProcessedStream:
        from adstream.dsl import processors

        fixed = operation == "process_values"
        flowing = self._flowing
        graph, app = flowing.graph, flowing.app
        node = processors.node(graph, app, processor, [flowing.port], stores, name, operation, fixed_key=fixed)
        stream = ProcessedStream(flowing.at(node, **changes))
        for port, output in enumerate(processors.outputs_of(processor), start=1):
            known = {**changes, "value": output.value, **({} if fixed else {"key": output.key})}
            stream.add_output(output.name, KStream(flowing.at(node, port, **known)), operation)
        return stream

    # --- Many to one, one to many ---------------------------------------------------------------------------------

    def merge(self, other: KStream) -> KStream:
        """The records of both, in no promised order between them."""
        same_app(self, other, "merge")
        ports = dict.fromkeys([self._flowing.port, other._flowing.port])  # with itself: once, as in Kafka Streams
        node = flow.add(self._graph, "merge", list(ports))
        mine, theirs = self._flowing, other._flowing
        return KStream(
            mine.at(
                node,
                key=mine.key if mine.key == theirs.key else None,
                value=mine.value if mine.value == theirs.value else None,
                rekeyed=mine.rekeyed or theirs.rekeyed,
            )
        )

    def split(self, name: str | None = None) -> BranchedKStream:
        """Records to the first branch whose predicate holds. `name` begins the names of the branches, too. In Kafka Streams:
        `split`."""
        return BranchedKStream(self, name)

    # --- As rows --------------------------------------------------------------------------------------------------

    def rows(
        self,
        schema: object,
        *,
        key: str | Sequence[str] | None = None,
        value: str | None = None,
        start: str | None = None,
        end: str | None = None,
        timestamp: str | None = None,
    ) -> Stream:
        """The records as rows of a schema: for expressions, sinks and the compiled windows. `Stream.records` leads here.

        Fields are filled from the value, a dict, by their names; a value that has not a field's type is a dead letter
        (`bad_field`). Records without a value are dropped (`dropped:null_value`).

        Args:
            schema: as for `app.stream`.
            key: the fields that hold the key: one, or one for each part of a tuple.
            value: the field that holds the value, where it is no dict.
            start, end: the fields that hold the bounds of a windowed key; `key` then looks at the key inside.
            timestamp: the field that holds the record's time.

        Raises:
            TopologyError: `unknown_column`, or what is wrong with the schema.
        """
        from adstream.dsl.stream import KeyPart, Stream

        declared = schema_of(schema, operation="rows")
        keys = [key] if isinstance(key, str) else list(key or ())
        fill: dict[str, Any] = {f.name: {"field": f.name} for f in declared.fields}
        places: dict[str, Any] = {name: {"key_part": i} if len(keys) > 1 else "key" for i, name in enumerate(keys)}
        named = ((value, "value"), (start, "window_start"), (end, "window_end"), (timestamp, "timestamp"))
        places |= {name: place for name, place in named if name is not None}
        for name in places:
            if name not in fill:
                raise unknown_column(name, fill, operation="rows")
        fill |= places
        node = flow.add(
            self._graph,
            "to_rows",
            [self._flowing.port],
            schema=[{"name": name, "type": dtype} for name, dtype in declared.types.items()],
            fill=list(fill.values()),
            keys=[] if self._flowing.rekeyed else keys,
            about=declared.name,
        )
        parts = tuple(KeyPart(name, frozenset({name})) for name in keys)
        if start is not None:
            parts = (*parts, KeyPart("$window_start", frozenset({start})))
        return Stream(self._graph, (node.id, 0), dict(declared.types), parts)

    # --- Topics ---------------------------------------------------------------------------------------------------

    def to(
        self,
        topic: str | Fn,
        *,
        key: Serde | None = None,
        value: Serde | None = None,
        topics: Sequence[str] = (),
        partitioner: Fn | None = None,
        on_error: flow.OnError | None = None,
        name: str | None = None,
    ) -> None:
        """Writes the records to a topic.

        Args:
            topic: its name, or a function `(key, value)` or `(key, value, context)` that returns one; the context is an
                `ads.RecordContext`.
            key, value: serdes; by default those of the source, as long as no function has changed it, else JSON for
                values and text for keys.
            topics: the names that a function may return, looked at (and made, with `--create-topics`) at the start;
                another name is a dead letter, `unknown_topic`. By default it may return any topic that there is when a
                record is written to it first.
            partitioner: `(topic, key, value, partitions)` returns a partition, several (each gets the record), none (an
                empty list: dropped), or None for the default: murmur2 of the key's bytes, as Java's client.
            on_error: what becomes of records that cannot be written, in place of what `App.on_error` says.
            name: of the operation, for metrics and dead letters.

        In Kafka Streams: `to` with `Produced`; `TopicNameExtractor`, `StreamPartitioner` (KIP-873).
        """
        flowing = self._flowing
        names = [topic_name(name, "to") for name in ([topic] if isinstance(topic, str) else topics)]
        node = flow.add(
            self._graph,
            "to",
            [flowing.port],
            name=name,
            about=flow.about_topics(names),
            topics=names,
            key=_serde(key or flowing.key or serdes.string, "key", "to")
            .at(names, "key", "to")
            .to_plan(self._graph.register, writes=True),
            value=_serde(value or flowing.value or serdes.json_, "value", "to")
            .at(names, "value", "to")
            .to_plan(self._graph.register, writes=True),
            **flow.topic_extractor(self._graph, topic, "to"),
            partitioner=flow.call(self._graph, partitioner, "partitioner", "to", 4) if partitioner else None,
        )
        if on_error is not None:
            node.parameters["on_error"] = flow.on_error(self._graph, on_error, "to")

    def repartition(
        self,
        name: str | None = None,
        *,
        key: Serde | None = None,
        value: Serde | None = None,
        partitions: int | None = None,
        partitioner: Fn | None = None,
    ) -> KStream:
        """Through a topic `<app>-<name>-repartition`, by key; records without one are dropped (`filtered:null_key`).

        In Kafka Streams: `repartition` with `Repartitioned`.
        """
        flowing = replace(self._flowing, value=value or self._flowing.value)
        moved = repartition(flowing, name, "repartition", key=key, partitions=partitions, partitioner=partitioner)
        return KStream(moved)

    def _keyed(self, operation: str, name: str | None, *, key: Serde | None = None) -> Flowing:
        """The records where equal keys meet."""
        if not self._flowing.rekeyed:
            return replace(self._flowing, key=key or self._flowing.key)
        return repartition(self._flowing, name, operation, key=key)

    # --- Joins ----------------------------------------------------------------------------------------------------

    @overload
    def join(
        self,
        other: KStream,
        joiner: Fn,
        windows: JoinWindows,
        *,
        name: str | None = ...,
        store_name: str | None = ...,
        this_store: StoreBuilder | None = ...,
        other_store: StoreBuilder | None = ...,
        key: Serde | None = ...,
        logging: bool = ...,
    ) -> KStream: ...
    @overload
    def join(
        self,
        other: KTable,
        joiner: Fn,
        *,
        name: str | None = ...,
        key: Serde | None = ...,
        grace: Duration | None = ...,
    ) -> KStream: ...
    @overload
    def join(self, other: GlobalKTable, key_selector: Fn, joiner: Fn, *, name: str | None = ...) -> KStream: ...
    def join(self, other: Any, *args: Any, **options: Any) -> KStream:
        """Records that have a match, with what `joiner(left, right)` or `joiner(key, left, right)` makes of both.

        - With another stream: records of one key whose times lie within `windows`; each pair once, with the larger time.
        - With a table: what it says of the record's key at that moment; with one that keeps versions (`history=`), at the
          record's time. `grace`: records wait so long for changes that come late.
        - With a global table: what it says of the key that `key_selector(key, value)` returns.

        Records without a key or without a value have no match and are dropped and counted.

        Args:
            name: of the operation, its repartition topics, its stores.
            store_name: what the names of a stream join's stores begin with; by default the operation's name.
            this_store, other_store: stores of windows for the two sides; with duplicates, and with just the size (before +
                after) and the retention (and grace) of the join.
            key: serde of the key, for repartition topics.
            logging: whether a stream join's stores have a changelog.

        In Kafka Streams: `join` with `StreamJoined` or `Joined`.
        """
        from adstream.dsl import joins

        return joins.join(self, other, joins.INNER, args, options)

    @overload
    def left_join(
        self,
        other: KStream,
        joiner: Fn,
        windows: JoinWindows,
        *,
        name: str | None = ...,
        store_name: str | None = ...,
        this_store: StoreBuilder | None = ...,
        other_store: StoreBuilder | None = ...,
        key: Serde | None = ...,
        logging: bool = ...,
    ) -> KStream: ...
    @overload
    def left_join(
        self,
        other: KTable,
        joiner: Fn,
        *,
        name: str | None = ...,
        key: Serde | None = ...,
        grace: Duration | None = ...,
    ) -> KStream: ...
    @overload
    def left_join(self, other: GlobalKTable, key_selector: Fn, joiner: Fn, *, name: str | None = ...) -> KStream: ...
    def left_join(self, other: Any, *args: Any, **options: Any) -> KStream:
        """As `join`, and records of this stream without a match with None as the right value: of a stream join once no
        match can come any more, of others at once."""
        from adstream.dsl import joins

        return joins.join(self, other, joins.LEFT, args, options)

    def outer_join(
        self,
        other: KStream,
        joiner: Fn,
        windows: JoinWindows,
        *,
        name: str | None = None,
        store_name: str | None = None,
        this_store: StoreBuilder | None = None,
        other_store: StoreBuilder | None = None,
        key: Serde | None = None,
        logging: bool = True,
    ) -> KStream:
        """As `join` with another stream, and records of either without a match, with None for the other value."""
        from adstream.dsl import joins

        stores = {"store_name": store_name, "this_store": this_store, "other_store": other_store, "logging": logging}
        options = {"name": name, "key": key, **stores}
        return joins.join(self, other, joins.OUTER, (joiner, windows), options)

    # --- Keyed ----------------------------------------------------------------------------------------------------

    @overload
    def match(
        self,
        pattern: Pattern | Rules,
        *,
        max_delay: Duration | None = ...,
        time: Time = ...,
        idle: Duration | None = ...,
        skip: AfterMatchSkipStrategy | None = ...,
        order_by: Fn | None = ...,
        materialized: Materialized | str | None = ...,
        max_runs: int | None = ...,
        on_max_runs: OnMaxRuns = ...,
    ) -> Matches: ...
    @overload
    def match(
        self,
        pattern: Mapping[str, Pattern],
        *,
        max_delay: Duration | None = ...,
        time: Time = ...,
        idle: Duration | None = ...,
        skip: AfterMatchSkipStrategy | None = ...,
        order_by: Fn | None = ...,
        materialized: Materialized | str | None = ...,
        max_runs: int | None = ...,
        on_max_runs: OnMaxRuns = ...,
    ) -> dict[str, Matches]: ...
    def match(
        self,
        pattern: Pattern | Mapping[str, Pattern] | Rules,
        *,
        max_delay: Duration | None = None,
        time: Time = "event",
        idle: Duration | None = None,
        skip: AfterMatchSkipStrategy | None = None,
        order_by: Fn | None = None,
        materialized: Materialized | str | None = None,
        max_runs: int | None = None,
        on_max_runs: OnMaxRuns = "drop_oldest",
    ) -> Matches | dict[str, Matches]:
        """The pattern's matches among all events of a partition, whatever their keys; a match has no key (docs/patterns.md).

        It is what Flink does without `keyBy`, where that has one lane: each partition is matched by itself. For matches over the
        events of several partitions write `.repartition(partitions=1)` before; `.group_by_key()` for those of each key.

        Args:
            pattern: one, or several by names: then each name's matches are returned. Several share the events that wait, and a
                condition that several of them have is asked once; each finds what it would find alone.
            max_delay: how far behind the largest time seen an event may come; later ones are `.late`. An event is looked at
                when the largest time lies more than that ahead of it.
            time: `"processing"`: events are read as they come, and their time is what the logged clock shows then, which ends
                windows, too. In Flink: `inProcessingTime`.
            idle: after so much time of the logged clock without a record of the task, event time goes on as the clock does: what
                is due is told without a further event. An event that comes later than that is late.
            skip: which runs go when a match is found, instead of what the pattern says.
            order_by: of events with one time, what comes first (ascending); without it, what came first.
            max_runs: how many partial matches a key may have of a pattern; without it there is no bound. The counter `many_runs`
                warns at half of it, or at 1000.
            on_max_runs: of the event that would leave more: `drop_oldest` reads it, and the runs that began first go (counter
                `runs_dropped`); `dead_letter` sets it aside (`too_many_runs`), the runs are as before; `fail` stops the task.

        Raises:
            TopologyError: `malformed_pattern`, when the topology is built; `bad_argument`, `bad_duration`.
        """
        from adstream.dsl import pattern_matches

        options = pattern_matches.Options(max_delay, time, idle, skip, max_runs, on_max_runs)
        return pattern_matches.match_unkeyed(self, pattern, options, order_by, materialized)

    def group_by_key(
        self, name: str | None = None, *, key: Serde | None = None, value: Serde | None = None
    ) -> KGroupedStream:
        """By the key they have. `name` is that of the repartition topic, if there has to be one.

        In Kafka Streams: `groupByKey` with `Grouped`.
        """
        flowing = self._flowing
        return KGroupedStream(replace(flowing, key=key or flowing.key, value=value or flowing.value), name)

    def group_by(
        self, selector: Fn, name: str | None = None, *, key: Serde | None = None, value: Serde | None = None
    ) -> KGroupedStream:
        """By what `selector(key, value)` returns: `select_key(selector).group_by_key()`.

        In Kafka Streams: `groupBy` with `Grouped`.
        """
        selected = self._next(
            "select_key", {"key": key, "rekeyed": True}, mapper=self._fn(selector, "selector", "group_by")
        )
        return KGroupedStream(replace(selected._flowing, value=value or self._flowing.value), name)

    def to_table(self, materialized: Materialized | str | None = None, *, name: str | None = None) -> KTable:
        """The newest value of each key; None deletes. In Kafka Streams: `toTable`."""
        from adstream.dsl.ktable import table_of

        how = flow.materialized(materialized, "to_table")
        flowing = self._keyed("to_table", name or how.name, key=how.key)
        return table_of(flowing, how, "to_table")


def same_app(one: KStream | KTable | KGroupedStream, other: object, operation: str) -> None:
    if getattr(other, "_graph", None) is not one._graph:
        raise fault(
            "bad_argument",
            f"not a stream of this application: {other!r}",
            operation=operation,
            hint="use what comes from the same `app`",
        )


def _serde(value: object, what: str, operation: str) -> Serde:
    return serdes.check(value, what, operation)


class ProcessedStream(KStream):
    """What a processor forwards; its named outputs (`ads.output`) are attributes."""

    def __init__(self, flowing: Flowing) -> None:
        super().__init__(flowing)
        self._outputs: dict[str, KStream] = {}

    def add_output(self, name: str, stream: KStream, operation: str) -> None:
        if hasattr(KStream, name):
            raise fault(
                "bad_name",
                f"an output cannot be called `{name}`: it is an operation of streams",
                operation=operation,
                hint="choose another name",
            )
        self._outputs[name] = stream

    def __getattr__(self, name: str) -> KStream:
        outputs: dict[str, KStream] = self.__dict__.get("_outputs", {})
        if name in outputs:
            return outputs[name]
        known = f"; its outputs are {', '.join(outputs)}" if outputs else ""
        raise AttributeError(f"a stream has no `{name}`{known}")


class BranchedKStream:
    """Branches of a stream. In Kafka Streams: `BranchedKStream`.

        big, rest = stream.split().branch(lambda k, v: v > 100).default_branch()

    The first predicate that holds takes the record; without a default branch the rest is dropped.
    """

    def __init__(self, stream: KStream, name: str | None = None) -> None:
        self._stream = stream
        self._node = flow.add(stream._graph, "branch", [stream._flowing.port], predicates=[])
        if name is not None:
            stream._graph.rename(self._node, name)
        self._branches = Branches()

    def branch(
        self, predicate: Fn, chain: Callable[[KStream], object] | None = None, *, name: str | None = None
    ) -> BranchedKStream:
        """One more branch.

        Args:
            chain: called with the branch, to go on in place. A stream that it returns stands for the branch in the result.
            name: of the branch, behind the name of `split`; by default its number, from 1 on.

        In Kafka Streams: `branch` with `Branched.as`, `withFunction`, `withConsumer`.
        """
        fn = flow.condition(self._stream._graph, predicate, "predicate", "branch")
        predicates = self._node.parameters["predicates"]
        predicates.append(fn)
        self._add(chain, str(len(predicates)) if name is None else name)
        return self

    def _add(self, chain: Callable[[KStream], object] | None, name: str) -> None:
        port = len(self._branches)
        stream = KStream(self._stream._flowing.at(self._node, port))
        whole = f"{self._node.name}{name}"
        if whole in self._branches.named:
            raise fault(
                "duplicate_name",
                f"two branches are called `{whole}`",
                operation="branch",
                hint="give one of them another `name`",
            )
        made = None if chain is None else chain(stream)
        self._branches.append(made if isinstance(made, KStream) else stream)
        if chain is None or isinstance(made, KStream):
            self._branches.named[whole] = self._branches[port]

    def default_branch(self, chain: Callable[[KStream], object] | None = None, *, name: str | None = None) -> Branches:
        """The branches, the last of them for what no predicate held for; its name is by default "0"."""
        self._add(chain, "0" if name is None else name)
        return self._branches

    def no_default_branch(self) -> Branches:
        """The branches; what no predicate holds for is dropped."""
        return self._branches


class Branches(list["KStream"]):
    """The branches of a split, in order; `branches["split-name"]` is the one of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.named: dict[str, KStream] = {}
        """The same by name, the split's and the branch's, without those whose `chain` returned nothing; as the map that
        Kafka Streams returns."""

    @overload
    def __getitem__(self, index: SupportsIndex | str) -> KStream: ...
    @overload
    def __getitem__(self, index: slice) -> list[KStream]: ...
    def __getitem__(self, index: Any) -> Any:
        return self.named[index] if isinstance(index, str) else super().__getitem__(index)


class KGroupedStream:
    """Records by key. In Kafka Streams: `KGroupedStream`.

    Records whose key or value is None are dropped and counted (`dropped:null_key`, `dropped:null_value`).
    """

    def __init__(self, flowing: Flowing, name: str | None) -> None:
        if name is not None:
            check_name(name, "group_by")
        self._flowing = flowing
        self._name = name
        self._moved: Flowing | None = None

    @property
    def _graph(self) -> Graph:
        return self._flowing.graph

    def keyed(self, operation: str, how: Materialized, fallback: str | None = None) -> Flowing:
        """Where equal keys meet. A grouping with a name moves its records once, one without for each aggregation."""
        if not self._flowing.rekeyed:
            return self._flowing
        if self._moved is not None and self._name is not None:
            return self._moved
        self._moved = repartition(self._flowing, self._name or fallback or how.name, operation)
        return self._moved

    @overload
    def windowed_by(self, window: Session) -> SessionWindowedKStream: ...
    @overload
    def windowed_by(self, window: Tumbling | Hopping | Sliding | Unlimited | Windows) -> TimeWindowedKStream: ...
    def windowed_by(self, window: Any) -> Any:
        """By window, too: `ads.tumbling`, `ads.hopping`, `ads.sliding`, `ads.session`, `ads.unlimited`, or `ads.Windows` of
        one's own.

        In Kafka Streams: `windowedBy`.
        """
        from adstream.dsl import kwindows
        from adstream.dsl.windows import Session

        kwindows.check(window, "windowed_by")
        if isinstance(window, Session):
            return kwindows.SessionWindowedKStream(self, window)
        return kwindows.TimeWindowedKStream(self, window)

    @overload
    def match(
        self,
        pattern: Pattern | Rules,
        *,
        max_delay: Duration | None = ...,
        time: Time = ...,
        idle: Duration | None = ...,
        skip: AfterMatchSkipStrategy | None = ...,
        order_by: Fn | None = ...,
        materialized: Materialized | str | None = ...,
        max_runs: int | None = ...,
        on_max_runs: OnMaxRuns = ...,
    ) -> Matches: ...
    @overload
    def match(
        self,
        pattern: Mapping[str, Pattern],
        *,
        max_delay: Duration | None = ...,
        time: Time = ...,
        idle: Duration | None = ...,
        skip: AfterMatchSkipStrategy | None = ...,
        order_by: Fn | None = ...,
        materialized: Materialized | str | None = ...,
        max_runs: int | None = ...,
        on_max_runs: OnMaxRuns = ...,
    ) -> dict[str, Matches]: ...
    def match(
        self,
        pattern: Pattern | Mapping[str, Pattern] | Rules,
        *,
        max_delay: Duration | None = None,
        time: Time = "event",
        idle: Duration | None = None,
        skip: AfterMatchSkipStrategy | None = None,
        order_by: Fn | None = None,
        materialized: Materialized | str | None = None,
        max_runs: int | None = None,
        on_max_runs: OnMaxRuns = "drop_oldest",
    ) -> Matches | dict[str, Matches]:
        """The pattern's matches among the events of each key, as Flink CEP finds them (docs/patterns.md).

        Args:
            pattern: one, or several by names: then each name's matches are returned. Several share the events that wait, and a
                condition that several of them have is asked once; each finds what it would find alone.
            max_delay: how far behind the largest time seen an event may come; later ones are `.late`. An event is looked at
                when the largest time lies more than that ahead of it. Behind a shuffle that is the time of its input
                partition, and an event is looked at when all of them are so far ahead.
            time: `"processing"`: events are read as they come, and their time is what the logged clock shows then, which ends
                windows, too. In Flink: `inProcessingTime`.
            idle: after so much time of the logged clock without a record of the task, event time goes on as the clock does: what
                is due is told without a further event. An event that comes later than that is late. Behind a shuffle an input
                partition from which nothing came for so long is not waited for.
            skip: which runs go when a match is found, instead of what the pattern says.
            order_by: of events with one time, what comes first (ascending); without it, what came first.
            max_runs: how many partial matches a key may have of a pattern; without it there is no bound. The counter `many_runs`
                warns at half of it, or at 1000.
            on_max_runs: of the event that would leave more: `drop_oldest` reads it, and the runs that began first go (counter
                `runs_dropped`); `dead_letter` sets it aside (`too_many_runs`), the runs are as before; `fail` stops the task.

        Raises:
            TopologyError: `malformed_pattern`, when the topology is built; `bad_argument`, `bad_duration`.
        """
        from adstream.dsl import pattern_matches

        options = pattern_matches.Options(max_delay, time, idle, skip, max_runs, on_max_runs)
        return pattern_matches.match(self, pattern, options, order_by, materialized)

    def cogroup(self, aggregator: Fn) -> CogroupedKStream:
        """Its records, by `aggregator(key, value, aggregate)`, into one aggregate with those of other groupings.

        In Kafka Streams: `cogroup`.
        """
        from adstream.dsl.kwindows import CogroupedKStream

        return CogroupedKStream([]).cogroup(self, aggregator)

    def count(self, materialized: Materialized | str | None = None) -> KTable:
        """How many records each key has had."""
        return self._aggregate("count", "count", materialized, serdes.int64)

    def reduce(self, reducer: Fn, materialized: Materialized | str | None = None) -> KTable:
        """`reducer(aggregate, value)` from the second value on; the first is the aggregate."""
        fold = {"reduce": {"adder": flow.call(self._graph, reducer, "reducer", "reduce", 2), "subtractor": None}}
        return self._aggregate("reduce", fold, materialized, self._flowing.value)

    def aggregate(
        self,
        initializer: Fn | None = None,
        adder: Fn | None = None,
        materialized: Materialized | str | None = None,
        **aggregates: Expr,
    ) -> KTable:
        """`adder(key, value, aggregate)` (or without the key), from `initializer()`; None deletes the key.

        Or aggregates of the values' fields, without Python: `aggregate(orders=ads.count(), total=ads.sum("price"))` keeps
        a dict of them. `first` and `last` go by arrival here.
        """
        fold = aggregate_fold(self._graph, initializer, adder, None, aggregates)
        return self._aggregate("aggregate", fold, materialized, None)

    def _aggregate(
        self, operation: str, fold: Any, materialized: Materialized | str | None, value: Serde | None
    ) -> KTable:
        from adstream.dsl.ktable import KTable

        how = flow.materialized(materialized, operation)
        flowing = self.keyed(operation, how)
        node = flow.add(self._graph, "aggregate", [flowing.port], folds=[fold], cached=how.cached, send_old=False)
        store = flow.table_store(self._graph, how, f"{node.name}-store", operation)
        node.parameters |= {"store": store, "stores": [store]}
        return KTable(flowing.at(node, value=how.value or value), store=store, versioned=how.history is not None)


def aggregate_fold(
    graph: Graph,
    initializer: Fn | None,
    adder: Fn | None,
    subtractor: Fn | None,
    aggregates: Mapping[str, Expr] | None = None,
    *,
    table: bool = False,
) -> dict[str, Any]:
    """The plan's form of an aggregation, by functions or by aggregates; `table`: values are taken back, too."""
    if aggregates:
        if initializer is not None or adder is not None or subtractor is not None:
            raise fault(
                "bad_argument",
                "functions and aggregates",
                operation="aggregate",
                hint="write either `aggregate(initializer, adder)` or `aggregate(name=ads.count())`",
            )
        initializer, adder = (
            natives.fold(aggregates, "initial", "aggregate"),
            natives.fold(aggregates, "add", "aggregate"),
        )
        subtractor = natives.fold(aggregates, "subtract", "aggregate") if table else None
    if initializer is None or adder is None or (table and subtractor is None):
        raise fault(
            "bad_argument",
            "how to aggregate?",
            operation="aggregate",
            hint="write `aggregate(initializer, adder)` or `aggregate(name=ads.count())`",
        )

    def fold(fn: Fn, what: str) -> dict[str, Any]:
        return flow.function(graph, fn, what, "aggregate", values=2)

    return {
        "aggregate": {
            "initializer": flow.call(graph, initializer, "initializer", "aggregate", 0),
            "adder": fold(adder, "adder"),
            "subtractor": None if subtractor is None else fold(subtractor, "subtractor"),
        }
    }
