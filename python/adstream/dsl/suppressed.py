"""Changes of a table that wait, one per key: `KTable.suppress`.

    table.suppress(ads.Suppressed.until_window_closes())                     final results of windows
    table.suppress(ads.Suppressed.until_time_limit("10s"))                   at most one change per key in ten seconds
    table.suppress(ads.Suppressed.until_time_limit("10s", ads.Suppressed.max_records(1000).emit_early_when_full()))

*The old value of a change* is the one that was told last, wherever somebody behind takes it back (`group_by`, foreign-key
joins): what is taken back is what was added. Elsewhere it is what Kafka Streams says, the value before the newest change:
then a filter or a join behind deletes the same keys as there, some of which nobody has heard of.

Time is that of the changes that come, not of the input: without new changes nothing leaves. In Kafka Streams: `Suppressed`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adstream.dsl import flow
from adstream.dsl.durations import Duration, duration_ms, format_ms
from adstream.dsl.faults import fault
from adstream.dsl.graph import Graph, Node

if TYPE_CHECKING:
    from adstream.dsl.ktable import KTable


@dataclass(frozen=True, slots=True)
class BufferConfig:
    """How much may wait, and what happens when it is more. In Kafka Streams: `Suppressed.BufferConfig`.

    Attributes:
        records: at most so many keys; None: any number.
        bytes: at most so many bytes, as Kafka Streams counts them; None: any number.
        emit_early: the oldest leave early; else the task fails (`suppress_full`).
        logging: whether the buffer has a changelog; without one it is empty after a restart.
    """

    records: int | None = None
    bytes: int | None = None
    emit_early: bool = False
    logging: bool = True

    def with_max_records(self, records: int) -> BufferConfig:
        return replace(self, records=_size(records, "with_max_records"))

    def with_max_bytes(self, bytes: int) -> BufferConfig:
        return replace(self, bytes=_size(bytes, "with_max_bytes"))

    def with_no_bound(self) -> BufferConfig:
        return replace(self, records=None, bytes=None, emit_early=False)

    def emit_early_when_full(self) -> BufferConfig:
        return replace(self, emit_early=True)

    def shut_down_when_full(self) -> BufferConfig:
        return replace(self, emit_early=False)

    def with_logging_enabled(self) -> BufferConfig:
        return replace(self, logging=True)

    def with_logging_disabled(self) -> BufferConfig:
        return replace(self, logging=False)


def _size(value: object, operation: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise fault("bad_argument", f"not a size: {value!r}", operation=operation, hint="write a whole number")


@dataclass(frozen=True, slots=True)
class Suppressed:
    """Until when changes wait. Made by `until_window_closes` and `until_time_limit`. In Kafka Streams: `Suppressed`."""

    limit_ms: int | None
    """None: until the window closes."""
    buffer: BufferConfig
    name: str | None = None

    @staticmethod
    def until_window_closes(buffer: BufferConfig | None = None, *, name: str | None = None) -> Suppressed:
        """A window's last value, once it can take no more records. Deletions are not told.

        Raises:
            TopologyError: `bad_argument`, if the buffer lets windows go early.

        In Kafka Streams: `Suppressed.untilWindowCloses`.
        """
        buffer = _buffer(buffer, "until_window_closes")
        if buffer.emit_early:
            raise fault(
                "bad_argument",
                "what is told early is not final",
                operation="until_window_closes",
                hint="use `.shut_down_when_full()` or no bound",
            )
        return Suppressed(None, buffer, name)

    @staticmethod
    def until_time_limit(limit: Duration, buffer: BufferConfig | None = None, *, name: str | None = None) -> Suppressed:
        """The newest change of a key, `limit` after the first one that waits. In Kafka Streams: `untilTimeLimit`."""
        limit_ms = duration_ms(limit, "limit", operation="until_time_limit")
        return Suppressed(limit_ms, _buffer(buffer, "until_time_limit"), name)

    @staticmethod
    def unbounded() -> BufferConfig:
        """A buffer without a bound."""
        return BufferConfig()

    @staticmethod
    def max_records(records: int) -> BufferConfig:
        """A buffer of so many keys. It fails when it is full, unless it may `.emit_early_when_full()`."""
        return BufferConfig(records=_size(records, "max_records"))

    @staticmethod
    def max_bytes(bytes: int) -> BufferConfig:
        """A buffer of so many bytes. It fails when it is full, unless it may `.emit_early_when_full()`."""
        return BufferConfig(bytes=_size(bytes, "max_bytes"))

    def with_name(self, name: str) -> Suppressed:
        """Names the operation and its buffer (`<name>-store`)."""
        return replace(self, name=name)


def _buffer(value: object, operation: str) -> BufferConfig:
    if value is None:
        return BufferConfig()
    if isinstance(value, BufferConfig):
        return value
    raise fault(
        "bad_argument", f"not a buffer: {value!r}", operation=operation, hint="write `ads.Suppressed.unbounded()`"
    )


def suppress(table: KTable, terms: Suppressed) -> KTable:
    """See `KTable.suppress`."""
    from adstream.dsl.ktable import KTable

    if not isinstance(terms, Suppressed):
        raise fault(
            "bad_argument",
            f"not terms of suppression: {terms!r}",
            operation="suppress",
            hint="write `ads.Suppressed.until_window_closes()`",
        )
    graph, flowing = table._graph, table._flowing
    if table._versioned:
        raise fault(
            "bad_argument",
            "a versioned table cannot be suppressed: its changes come in any order",
            operation="suppress",
            hint="leave out `history`, or suppress before",
        )
    until: dict[str, Any]
    if terms.limit_ms is None:
        wait_ms, inclusive = _closing(graph, table._node)
        until = {"window_closes": {"wait_ms": wait_ms, "inclusive": inclusive}}
    else:
        until = {"time_limit": {"wait_ms": terms.limit_ms}}
    table._send_old()
    node = flow.add(
        graph,
        "suppress",
        [flowing.port],
        name=terms.name,
        about="until windows close" if terms.limit_ms is None else f"for {format_ms(terms.limit_ms)}",
        until=until,
        told=False,
        max_records=terms.buffer.records,
        max_bytes=terms.buffer.bytes,
        when_full="emit" if terms.buffer.emit_early else "shut_down",
        key=None if flowing.key is None else flowing.key.to_plan(graph.register),
        value=None if flowing.value is None else flowing.value.to_plan(graph.register),
    )
    how = flow.Materialized(logging=terms.buffer.logging)
    store = flow.store(graph, "suppress", how, f"{node.name}-store", "suppress")
    node.parameters |= {"store": store, "stores": [store]}

    def getter() -> dict[str, Any]:
        return {"suppressed": {"store": store, "of": table._lookup()}}

    return KTable(flowing.at(node), parents=(table,), getter=getter)


def _before(graph: Graph, node: Node) -> list[Node]:
    """The nodes that a node reads, through topics of the application's own."""
    if node.parameters.get("kind") == "source" and node.parameters.get("internal"):
        topics = set(node.parameters["topics"])
        return [n for n in graph.nodes if n.parameters.get("kind") == "to" and topics & set(n.parameters["topics"])]
    return [graph.nodes[port[0]] for port in node.inputs]


def _closing(graph: Graph, node: Node) -> tuple[int, bool]:
    """How long behind a window's end it closes, and whether windows hold their ends: of all aggregations by window before
    the node, the nearest on each way, the longest."""
    window = node.parameters.get("window") if node.parameters.get("kind") == "window_aggregate" else None
    if window is not None and window["kind"] != "unlimited":
        return window["grace_ms"] + window.get("gap_ms", 0), window["kind"] in ("sliding", "session")
    if window is not None:
        return 0, False
    before = _before(graph, node)
    if not before:
        raise fault(
            "no_window",
            "what is suppressed until its window closes must be an aggregation by window",
            operation="suppress",
            hint='write `.windowed_by(…)` before, or `ads.Suppressed.until_time_limit("10s")`',
        )
    return max(_closing(graph, other) for other in before)
