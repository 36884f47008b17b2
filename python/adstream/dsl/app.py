"""An app: what a topology function is given, and where its streams begin."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

from adstream.dsl import flow, lowlevel, row_formats, serdes
from adstream.dsl import processors as made
from adstream.dsl.durations import Duration, duration_ms, format_ms
from adstream.dsl.faults import DEAD_LETTERS, TOPIC_MAX, fault, topic_name, unknown_column, user_line
from adstream.dsl.flow import Materialized
from adstream.dsl.graph import Graph
from adstream.dsl.joins import GlobalKTable
from adstream.dsl.kstream import Flowing, Fn, KStream
from adstream.dsl.ktable import KTable, table_of
from adstream.dsl.schema import schema_of
from adstream.dsl.serdes import Serde
from adstream.dsl.store import StoreBuilder
from adstream.dsl.stream import KeyPart, Stream
from adstream.errors import TopologyError
from adstream.interfaces import TopicPartition, Uncaught

if TYPE_CHECKING:
    from adstream.dsl.pattern_rules import Rules


class TimestampExtractor(enum.Enum):
    """What the event time of a record is, ms. In Kafka Streams: the classes of these names."""

    FAIL_ON_INVALID_TIMESTAMP = "fail_on_invalid_timestamp"
    """The record's own (the default). A negative one fails the task, whatever `on_error` says (`timestamp_failed`)."""
    LOG_AND_SKIP_ON_INVALID_TIMESTAMP = "log_and_skip_on_invalid_timestamp"
    """The record's own; what has a negative one is dropped and counted (`dropped:negative_timestamp`)."""
    USE_PARTITION_TIME_ON_INVALID_TIMESTAMP = "use_partition_time_on_invalid_timestamp"
    """The record's own, or, if it is negative, the largest one of its partition so far; the first record of a partition
    fails the task then."""
    WALLCLOCK = flow.WALLCLOCK
    """What the worker's clock showed at the last commit: it is logged with each one and stands still between two of them,
    so that what is processed again after a crash has the same time. Of a global table or store: the record's own time."""


Timestamps = TimestampExtractor | Callable[..., int]


def timestamps(graph: Graph, timestamp: Timestamps | None, operation: str) -> Any:
    """As the plan has it."""
    if timestamp is None:
        return None
    if isinstance(timestamp, TimestampExtractor):
        return timestamp.value
    return flow.extractor(graph, timestamp, operation)


OffsetReset = Literal["earliest", "latest", "none"] | Duration
"""Where a topic is read from that the application has no committed position of: a word, or how far back from now."""


def _start(offset_reset: OffsetReset, operation: str) -> str | int:
    """As the plan has it."""
    if offset_reset in ("earliest", "latest", "none"):
        return str(offset_reset)
    return duration_ms(offset_reset, "offset_reset", operation=operation)


class App:
    """The start of a topology. Its name is the consumer group and begins every internal topic's name."""

    def __init__(self, name: str, settings: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self._graph = Graph(name, settings=dict(settings or {}))
        self._sources: dict[str, str | None] = {}
        self._patterns: dict[re.Pattern[str], str | None] = {}
        self._read: dict[
            frozenset[str] | re.Pattern[str], tuple[Serde, Serde, Timestamps | None, OffsetReset | None, Flowing]
        ] = {}
        """What `records` reads, so that the same topics in the same way are one source, as in Kafka Streams."""

    @overload
    def stream(
        self,
        topic: str | Sequence[str] | re.Pattern[str],
        *,
        key: Serde = ...,
        value: Serde = ...,
        timestamp: Timestamps | None = ...,
        offset_reset: OffsetReset | None = ...,
    ) -> KStream: ...
    @overload
    def stream(
        self,
        topic: str,
        schema: object,
        *,
        timestamp: str | None = ...,
        key: str | Sequence[str] | None = ...,
        max_ahead: Duration | None = ...,
        idle: Duration | None = ...,
        format: str | Serde = ...,
        offset_reset: OffsetReset | None = ...,
    ) -> Stream: ...
    def stream(self, topic: Any, schema: object = None, **options: Any) -> Stream | KStream:
        """The records of a topic: with a schema as rows (`rows`), without one as keys and values (`records`)."""
        if schema is None:
            return self.records(topic, **options)
        if isinstance(topic, re.Pattern):
            raise fault(
                "bad_argument",
                "a pattern names topics of keys and values only",
                operation="stream",
                hint="make rows of them: `app.stream(re.compile(…)).rows(Schema)`",
            )
        return self.rows(topic, schema, **options)

    def records(
        self,
        topic: str | Sequence[str] | re.Pattern[str],
        *,
        key: Serde = serdes.string,
        value: Serde = serdes.json_,
        timestamp: Timestamps | None = None,
        offset_reset: OffsetReset | None = None,
    ) -> KStream:
        """The records of one or several topics, as keys and values. The same topics read again in the same way are the same
        source.

        Args:
            topic: the topic, or several; or all whose whole name a pattern matches, `re.compile("orders-.*")`: those that there
                are at the start and those that appear later (docs/operations.md), without the dead letters and internal topics
                of the application itself.
            key, value: serdes. What they cannot read is a dead letter.
            timestamp: an `ads.TimestampExtractor`, or `(key, value, record's ms, partition's ms so far)` that returns the
                event time, ms; a negative one drops the record. By default the record's own time. One that raises fails
                the task. A function of five is given an `ads.RecordContext`, too: topic, partition, offset, headers.
            offset_reset: where it begins without a committed position, when the application is new or its offsets
                expired: at the `"earliest"` record (the default), at the end (`"latest"`), at the first record that is at
                most so old (`"1h"`), or nowhere: with `"none"` the task fails. Where there is a position, it counts.

        In Kafka Streams: `StreamsBuilder.stream` with `Consumed`; `AutoOffsetReset`.
        """
        names: frozenset[str] | re.Pattern[str]
        if isinstance(topic, re.Pattern):
            names = topic
        else:
            names = frozenset([topic] if isinstance(topic, str) else (t for t in topic if isinstance(t, str)))
        again = self._read.get(names)
        if again is not None and again[:4] == (key, value, timestamp, offset_reset):
            return KStream(again[4])
        found = self._records("stream", topic, key, value, timestamp, offset_reset)
        self._read[names] = (key, value, timestamp, offset_reset, found)
        return KStream(found)

    def _records(
        self,
        operation: str,
        topic: str | Sequence[str] | re.Pattern[str],
        key: Serde,
        value: Serde,
        timestamp: Timestamps | None,
        offset_reset: OffsetReset | None = None,
    ) -> Flowing:
        if isinstance(topic, re.Pattern):
            self._claim_pattern(topic, operation)
            matched: dict[str, Any] = {"pattern": topic.pattern, "flags": topic.flags}
            if offset_reset is not None:
                matched["start"] = _start(offset_reset, operation)
            return self._source(operation, [], key, value, timestamp, f"topics that match {topic.pattern}", **matched)
        topics = [topic] if isinstance(topic, str) else list(topic)
        if not topics or not all(isinstance(t, str) and t for t in topics):
            raise fault("bad_argument", f"not a topic: {topic!r}", operation=operation, hint="write its name")
        graph = self._graph
        for name in topics:
            self._claim(name, operation)
            if offset_reset is not None:
                graph.starts[name] = _start(offset_reset, operation)
        return self._source(operation, topics, key, value, timestamp, f"topic {', '.join(topics)}")

    def _source(
        self,
        operation: str,
        topics: list[str],
        key: Serde,
        value: Serde,
        timestamp: Timestamps | None,
        about: str,
        **matched: Any,
    ) -> Flowing:
        graph = self._graph
        key = serdes.check(key, "key", operation).at(topics[:1], "key", operation)
        value = serdes.check(value, "value", operation).at(topics[:1], "value", operation)
        node = flow.add(
            graph,
            "source",
            [],
            topics=topics,
            key=key.to_plan(graph.register),
            value=value.to_plan(graph.register),
            timestamp=timestamps(graph, timestamp, operation),
            about=about,
            **matched,
        )
        return Flowing(self.name, graph, (node.id, 0), key, value)

    def table(
        self,
        topic: str,
        materialized: Materialized | str | None = None,
        *,
        key: Serde = serdes.string,
        value: Serde = serdes.json_,
        timestamp: Timestamps | None = None,
        latest_by: Callable[[Any], Any] | None = None,
        offset_reset: OffsetReset | None = None,
    ) -> KTable:
        """The newest value of each key of a topic; a record without a value deletes its key.

        Args:
            topic: one topic.
            materialized: its store's name, or how it is kept.
            key, value, timestamp, offset_reset: as `records`.
            latest_by: `latest_by(value)` says how new a value is (a version number, a time in it): one that is older than
                the present one is ignored and counted (`dropped:older`). A deletion always counts, and forgets how new
                the value was. By default the last to arrive is the newest, whatever its time.

        In Kafka Streams: `StreamsBuilder.table`; it has no `latest_by`.
        """
        how = flow.materialized(materialized, "table")
        source = self._records("table", topic, how.key or key, how.value or value, timestamp, offset_reset)
        return table_of(source, how, "table", latest_by=latest_by)

    def global_table(
        self,
        topic: str,
        materialized: Materialized | str | None = None,
        *,
        key: Serde = serdes.string,
        value: Serde = serdes.json_,
        timestamp: Timestamps | None = None,
    ) -> GlobalKTable:
        """The newest value of each key of a topic, whole in every worker, for look-ups under any key.

        It has no changelog: each start reads the topic again, and no task begins before that is done. Then it shows what
        has arrived, in no order with other streams. What it cannot read is counted and passed over.

        Args:
            timestamp: as in Kafka Streams it may be given and changes nothing: entries have the times of their records.

        In Kafka Streams: `StreamsBuilder.globalTable`.
        """
        how = flow.materialized(materialized, "global_table")
        graph = self._graph
        if how.history is not None:
            raise fault(
                "bad_argument",
                "a global table keeps no versions",
                operation="global_table",
                hint="leave out `history`, or use `app.table`",
            )
        if not isinstance(topic, str) or not topic:
            raise fault("bad_argument", f"not a topic: {topic!r}", operation="global_table", hint="write its name")
        self._claim(topic, "global_table")
        name = how.name or f"{topic}-global-table"
        if any(known["name"] == name for known in [*graph.stores, *graph.globals]):
            raise fault(
                "duplicate_name",
                f"two stores are called `{name}`",
                operation="global_table",
                hint="give one of them another name",
            )
        key = serdes.check(how.key or key, "key", "global_table").at(topic, "key", "global_table")
        value = serdes.check(how.value or value, "value", "global_table").at(topic, "value", "global_table")
        graph.globals.append(
            {
                "name": name,
                "topic": topic,
                "key": key.to_plan(graph.register),
                "value": value.to_plan(graph.register),
                "timestamp": None,
            }
        )
        return GlobalKTable(graph, name, key, value, named=how.name is not None)

    def rules(self, topic: str) -> Rules:
        """Patterns that are said on a topic, and come, change and go while the job runs; for one `match` (docs/rules.md).

        The topic has one partition, and every task hears all of it. In Flink: by hand, with broadcast state.

        Raises:
            TopologyError: `bad_topic`, `duplicate_source`.
        """
        from adstream.dsl.pattern_rules import Rules

        self._claim(topic, "rules")
        return Rules(self._graph, topic)

    def on_error(
        self,
        *,
        deserialization: flow.OnError | None = None,
        processing: flow.OnError | None = None,
        production: flow.OnError | None = None,
    ) -> None:
        """What becomes of records of keys and values that fail, where an operation does not say so itself (`.on_error(…)`).

        `"dead_letter"` (the default): the record goes to `<topic>-dlq`, with the reason. `"continue"`: it is dropped and
        counted (`dropped:<reason>`). `"fail"`: the task fails; it is tried once more, then set aside. Or a function of an
        `ads.ErrorHandlerContext` that returns one of these words: it is asked of each record that fails, again where a record
        is done again; one that raises fails the task.

        Args:
            deserialization: what a source cannot read.
            processing: functions and processors that raise, values that cannot be stored.
            production: what cannot be written to a topic.

        In Kafka Streams: `DeserializationExceptionHandler`, `ProcessingExceptionHandler`,
        `ProductionExceptionHandler`; their default is to fail.
        """
        said = {"deserialization": deserialization, "processing": processing, "production": production}
        self._graph.on_error |= {
            stage: flow.on_error(self._graph, what) for stage, what in said.items() if what is not None
        }

    def default_timestamp_extractor(self, timestamp: Timestamps) -> None:
        """How sources of keys and values find event times, where they do not say so themselves (`timestamp=`); entries of
        global tables have their records' own, whatever is said.

        In Kafka Streams: the setting `default.timestamp.extractor`.
        """
        self._graph.timestamp = timestamps(self._graph, timestamp, "default_timestamp_extractor")

    # --- What a worker goes through ---------------------------------------------------------------------------------

    def on_state_change(self, listener: Callable[[str, str], None]) -> None:
        """`listener(new, old)` is called by each worker, in its thread, when its state changes: `created`, `rebalancing`,
        `running`, `pending_shutdown`, `not_running`, `pending_error`, `error`. What it raises is logged.

        In Kafka Streams: `KafkaStreams.setStateListener`.
        """
        said = self._graph.listeners
        self._graph.listeners = replace(said, state=(*said.state, listener))

    def on_partitions_assigned(self, listener: Callable[[list[TopicPartition]], None]) -> None:
        """`listener([(topic, partition), …])` is called when a worker gets tasks, with their inputs, before their state is
        restored.

        In Kafka's consumer: `ConsumerRebalanceListener.onPartitionsAssigned`; the two below likewise.
        """
        said = self._graph.listeners
        self._graph.listeners = replace(said, assigned=(*said.assigned, listener))

    def on_partitions_revoked(self, listener: Callable[[list[TopicPartition]], None]) -> None:
        """Called when a worker is to give tasks back, before their last commit."""
        said = self._graph.listeners
        self._graph.listeners = replace(said, revoked=(*said.revoked, listener))

    def on_partitions_lost(self, listener: Callable[[list[TopicPartition]], None]) -> None:
        """Called when tasks are somebody else's already; what was not committed, that one does again."""
        said = self._graph.listeners
        self._graph.listeners = replace(said, lost=(*said.lost, listener))

    def on_uncaught(self, handler: Callable[[Exception, str], Uncaught | str] | Uncaught | str) -> None:
        """What follows when a task failed, was rolled back and tried again, and failed once more.

        Args:
            handler: `"quarantine"` (the default: it is set aside, the others go on), `"replace_task"` (restored and tried
                again, after 1, 2, 4 … 60 s), `"stop_worker"`, `"stop_application"` (every worker of it); or a function
                `(error, task's name)` that returns one of them. One that raises, or returns something else, stops the worker.

        Raises:
            TopologyError: it is neither (`bad_argument`).

        In Kafka Streams: `KafkaStreams.setUncaughtExceptionHandler`; there the default is to stop the client.
        """
        if not callable(handler):
            try:
                chosen = Uncaught(handler)
            except ValueError:
                raise fault(
                    "bad_argument",
                    f"`{handler}` is not one of {', '.join(it.value for it in Uncaught)}",
                    operation="on_uncaught",
                    hint='write `app.on_uncaught("stop_worker")`, or give a function',
                ) from None
            self._graph.listeners = replace(self._graph.listeners, uncaught=lambda error, task: chosen)
        else:
            self._graph.listeners = replace(self._graph.listeners, uncaught=handler)

    # --- Processors and their stores --------------------------------------------------------------------------------

    def add_state_store(self, store: StoreBuilder, *processors: str) -> None:
        """Declares a store for processors, which connect to it by its name: `stream.process(MyProcessor, "totals")`.

        Args:
            store: made by `ads.store`, for example `ads.store.key_value("totals")`.
            processors: names of processors to connect it to, added before.

        In Kafka Streams: `addStateStore`.
        """
        lowlevel.add_state_store(self._graph, store, processors)

    def wrap_processors(self, wrapper: Callable[[str, Any], Any]) -> None:
        """Puts something around every processor of the application, those that were added before included: to measure, to log,
        to forgive.

        Args:
            wrapper: `(name of the operation, processor)` returns a processor in its place, with `init`, `process` and `close`
                that call those of the one it was given. It is called whenever a task makes a processor. Several wrappers
                lie around one another, the last one outside.

        Raises:
            TopologyError: `bad_argument`, no function.

        In Kafka Streams: `ProcessorWrapper` (KIP-1112), which wraps the operations of the language, too.
        """
        flow.call(self._graph, wrapper, "wrapper", "wrap_processors", 2)
        self._graph.wrappers.append(wrapper)

    def add_source(
        self,
        name: str,
        *topics: str | re.Pattern[str],
        key: Serde = serdes.string,
        value: Serde = serdes.json_,
        timestamp: Timestamps | None = None,
        offset_reset: OffsetReset | None = None,
    ) -> None:
        """A node that reads topics, or all that a pattern matches. In Kafka Streams: `Topology.addSource`."""
        [*patterns] = (topic for topic in topics if isinstance(topic, re.Pattern))
        if patterns and len(topics) > 1:
            raise fault(
                "bad_argument",
                "a pattern and other topics",
                operation="add_source",
                hint="write one pattern for all of them, or a source for each",
            )
        named = [topic for topic in topics if not isinstance(topic, re.Pattern)]
        flowing = self._records("add_source", patterns[0] if patterns else named, key, value, timestamp, offset_reset)
        self._graph.rename(self._graph.nodes[flowing.port[0]], name)

    def add_processor(self, name: str, processor: Callable[[], object], *parents: str) -> None:
        """A processor behind other nodes. In Kafka Streams: `Topology.addProcessor`.

        Args:
            processor: a class, or a function without arguments that makes one; called once for each task.
            parents: the nodes whose records it gets.
        """
        inputs = lowlevel.parents(self._graph, parents, "add_processor")
        made.node(self._graph, self.name, processor, inputs, (), name, "add_processor")

    def add_sink(
        self,
        name: str,
        topic: str | Fn,
        *parents: str,
        key: Serde = serdes.string,
        value: Serde = serdes.json_,
        topics: Sequence[str] = (),
        partitioner: Fn | None = None,
    ) -> None:
        """A node that writes a topic; the arguments are those of `KStream.to`. In Kafka Streams: `Topology.addSink`."""
        lowlevel.add_sink(self._graph, name, topic, parents, key, value, topics, partitioner)

    def connect_processor_and_state_stores(self, processor: str, *stores: str) -> None:
        """Lets a processor reach stores. In Kafka Streams: `Topology.connectProcessorAndStateStores`."""
        lowlevel.connect(self._graph, processor, stores, "connect_processor_and_state_stores")

    def add_read_only_state_store(
        self,
        store: StoreBuilder,
        topic: str,
        processor: Callable[[], object],
        *,
        key: Serde | None = None,
        value: Serde | None = None,
        timestamp: Timestamps | None = None,
        name: str | None = None,
    ) -> None:
        """A store that one processor keeps from a topic, and that others may read.

        Args:
            store: declared by `ads.store`.
            topic: it is read like any other, partition by partition.
            processor: is given its records and puts them into the store; forwards nothing.
            name: of the processor.

        In Kafka Streams: `addReadOnlyStateStore` (KIP-813).
        """
        operation = "add_read_only_state_store"
        key, value = key or store.key or serdes.string, value or store.value or serdes.json_
        source = self._records(operation, topic, key, value, timestamp)
        if name is not None:
            self._graph.rename(self._graph.nodes[source.port[0]], f"{name}-source")
        made.declare(self._graph, store, operation)
        made.node(self._graph, self.name, processor, [source.port], (store.name,), name, operation)

    def add_global_store(
        self,
        store: StoreBuilder,
        topic: str,
        processor: Callable[[], object],
        *,
        key: Serde | None = None,
        value: Serde | None = None,
        timestamp: Timestamps | None = None,
        name: str | None = None,
    ) -> None:
        """A store that every worker has whole, kept by a processor from a topic; all processors may read it, without being
        connected.

        It has no changelog: each start reads the topic again, through the processor, and no task begins before that is
        done. Then it shows what has arrived, in no order with other streams. The processor forwards to nobody.

        Args:
            store: declared by `ads.store`.
            processor: is given the topic's records and puts them into the store.
            timestamp: as in Kafka Streams it may be given and changes nothing: records have their own times.
            name: of the processor.

        In Kafka Streams: `addGlobalStore`.
        """
        operation, graph = "add_global_store", self._graph
        if not isinstance(topic, str) or not topic:
            raise fault("bad_argument", f"not a topic: {topic!r}", operation=operation, hint="write its name")
        self._claim(topic, operation)
        key = serdes.check(key or store.key or serdes.string, "key", operation).at(topic, "key", operation)
        value = serdes.check(value or store.value or serdes.json_, "value", operation).at(topic, "value", operation)
        made.declare_global(
            graph,
            self.name,
            store,
            processor,
            {
                "topic": topic,
                "key": key.to_plan(graph.register),
                "value": value.to_plan(graph.register),
                "timestamp": None,
            },
            name,
            operation,
        )

    def _claim(self, topic: str, operation: str) -> None:
        """Each topic is read once."""
        line = user_line()
        topic_name(topic, operation, line)
        if len(topic) + len(DEAD_LETTERS) > TOPIC_MAX:
            raise fault(
                "bad_topic",
                f"the dead letters of `{topic[:40]}…` would have a topic of {len(topic) + len(DEAD_LETTERS)} characters",
                operation=operation,
                line=line,
                hint=f"a name has {TOPIC_MAX} at most: read a topic with a shorter one",
            )
        if topic in self._sources:
            raise fault(
                "duplicate_source",
                f"`{topic}` is read already, at {self._sources[topic]}",
                operation=operation,
                line=line,
                hint="use that stream twice: it forks",
            )
        for pattern, where in self._patterns.items():
            if pattern.fullmatch(topic):
                raise self._matched(topic, pattern, operation, line, where)
        self._sources[topic] = line

    def _claim_pattern(self, pattern: re.Pattern[str], operation: str) -> None:
        line = user_line()
        if not isinstance(pattern.pattern, str) or not pattern.pattern:
            raise fault(
                "bad_argument",
                f"not a pattern of topics: {pattern!r}",
                operation=operation,
                line=line,
                hint='write `re.compile("orders-.*")`',
            )
        if pattern in self._patterns:
            raise fault(
                "duplicate_source",
                f"`{pattern.pattern}` is read already, at {self._patterns[pattern]}",
                operation=operation,
                line=line,
                hint="use that stream twice: it forks",
            )
        for topic, where in self._sources.items():
            if pattern.fullmatch(topic):
                raise self._matched(topic, pattern, operation, line, where)
        self._patterns[pattern] = line

    @staticmethod
    def _matched(
        topic: str, pattern: re.Pattern[str], operation: str, line: str | None, where: str | None
    ) -> TopologyError:
        return fault(
            "duplicate_source",
            f"`{topic}` is matched by `{pattern.pattern}`, and each topic is read once (the other is at {where})",
            operation=operation,
            line=line,
            hint="write a pattern that does not match it",
        )

    def rows(
        self,
        topic: str,
        schema: object,
        *,
        timestamp: str | None = None,
        key: str | Sequence[str] | None = None,
        max_ahead: Duration | None = None,
        idle: Duration | None = None,
        format: str | Serde = "json",
        offset_reset: OffsetReset | None = None,
    ) -> Stream:
        """The records of a topic, as rows.

        What cannot be read or lacks what the schema demands goes to the dead letters.

        Args:
            topic: the topic.
            schema: what its records hold: a `Record`, a `pyarrow.Schema`, a dataclass, a pydantic model, a
                msgspec Struct.
            timestamp: the field that is the event time; by default the Kafka record's own.
            key: the fields that the topic is keyed by; grouping by them moves no rows.
            max_ahead: how far the event time may run ahead of the Kafka record's; what does is a dead letter.
            idle: for how long a partition may send no row into a shuffle until windows behind it stop waiting for
                it, on the worker's clock, once all its records are read. By default they wait for ever. When it
                speaks again, rows whose window closed meanwhile go to `.late` as `closed_while_idle`. Rows then
                travel through the shuffle one by one (`combine` has no effect).
            format: what the records are: `"json"`, `"avro"`, `"json_schema"`, `"arrow"`, or a serde, such as
                `ads.serdes.protobuf(Message)`. JSON is read in Rust; all others by their Python library, record by
                record, under Python's lock.
            offset_reset: where it begins without a committed position, as `records`.

        In Kafka Streams: `StreamsBuilder.stream` with `Consumed`.

        Raises:
            TopologyError: `duplicate_source`, `unknown_column`, `type_mismatch`, `bad_duration`, or what is wrong
                with the schema. When the topology is built: `idle_without_lanes`, `idle_of_some`.
        """
        line = user_line()
        if not isinstance(topic, str) or not topic:
            raise fault("bad_argument", f"not a topic: {topic!r}", operation="stream", hint="write its name")
        declared = schema_of(schema, operation="stream")
        types = declared.types
        keys = [key] if isinstance(key, str) else list(key) if key is not None else None
        for name in [*(keys or ()), *([timestamp] if timestamp is not None else [])]:
            if name not in types:
                raise unknown_column(name, types, operation="stream", line=line)
        if timestamp is not None and types[timestamp] != "timestamp":
            raise fault(
                "type_mismatch",
                f"`{timestamp}` is {types[timestamp]}, and event time must be a timestamp",
                operation="stream",
                line=line,
                hint='annotate it: `datetime`, or `Annotated[datetime, ads.epoch("ms")]` for numbers',
            )
        parameters: dict[str, Any] = {
            "topic": topic,
            "format": "json",
            "fields": [field.to_plan() for field in declared.fields],
            "timestamp": timestamp,
            "key": keys,
        }
        about = f"topic {topic}, {declared.name}, time from {timestamp or 'the record'}"
        about += f", key {', '.join(keys)}" if keys else ""
        if max_ahead is not None:
            ms = duration_ms(max_ahead, "max_ahead", operation="stream", zero=False)
            parameters["max_ahead_ms"] = ms
            about += f", max_ahead {format_ms(ms)}"
        if idle is not None:
            ms = duration_ms(idle, "idle", operation="stream", zero=False)
            parameters["idle_ms"] = ms
            about += f", idle {format_ms(ms)}"
        if format != "json":
            parameters |= row_formats.read(self._graph, format, topic, declared.fields, "stream")
            about += f", {parameters['format']}"
        self._claim(topic, "stream")
        if offset_reset is not None:
            self._graph.starts[topic] = _start(offset_reset, "stream")
        node = self._graph.add("source", (), line, parameters, about=about, name=topic)
        parts = tuple(KeyPart(name, frozenset({name})) for name in keys or ())
        return Stream(self._graph, (node.id, 0), types, parts)

    def __repr__(self) -> str:
        return f'App("{self.name}")'
