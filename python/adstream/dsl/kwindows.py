"""Aggregation of keys and values by window, and of several streams into one aggregate.

    grouped.windowed_by(ads.tumbling("5m", grace="10s")).count()                        KTable by ads.Windowed
    grouped.windowed_by(ads.session("5m", grace="10s")).aggregate(init, adder, merger)
    grouped.windowed_by(…).emit_strategy("close").count()                               told once, when a window closes
    one.cogroup(add_one).cogroup(other, add_other).aggregate(init)                      and .windowed_by(…)

Keys of the tables are `ads.Windowed`; topics made from them are written as Kafka Streams writes them, unless another
serde is given. What may be late, how long windows are kept and when they are told: `docs/windows.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self, overload

from adstream.dsl import flow, natives, serdes
from adstream.dsl.durations import duration_ms
from adstream.dsl.expr import Expr
from adstream.dsl.faults import fault
from adstream.dsl.flow import Materialized
from adstream.dsl.graph import Graph
from adstream.dsl.kstream import Flowing, Fn, KGroupedStream, aggregate_fold, same_app
from adstream.dsl.ktable import KTable
from adstream.dsl.serdes import Serde
from adstream.dsl.windows import Hopping, Session, Sliding, Tumbling, Unlimited, Windows

Window = Tumbling | Hopping | Sliding | Session | Unlimited | Windows

_FOREVER_MS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class EmitStrategy:
    """When the results of windows are told. In Kafka Streams: `EmitStrategy`."""

    on_close: bool

    @staticmethod
    def on_window_update() -> EmitStrategy:
        """With every record (from a cache: once per commit)."""
        return EmitStrategy(False)

    @staticmethod
    def on_window_close() -> EmitStrategy:
        """Once, when a window can take no more records."""
        return EmitStrategy(True)


def _emits(value: object, operation: str) -> EmitStrategy:
    named = {"close": EmitStrategy.on_window_close(), "update": EmitStrategy.on_window_update()}
    if isinstance(value, EmitStrategy):
        return value
    if isinstance(value, str) and value in named:
        return named[value]
    raise fault(
        "bad_argument", f"no such strategy: {value!r}", operation=operation, hint='write `"close"` or `"update"`'
    )


def check(window: object, operation: str) -> None:
    """That it is a window."""
    if not isinstance(window, Window):
        raise fault(
            "bad_argument",
            f"not a window: {window!r}",
            operation=operation,
            hint='write `ads.tumbling("5m", grace="10s")`',
        )
    if isinstance(window, Tumbling) and window.zone is not None:
        raise fault(
            "bad_window",
            "keys of windows on topics have one length for all, and days of a time zone have not",
            operation=operation,
            hint="aggregate rows: `app.stream(topic, Schema).group_by(…).windowed_by(…)`",
        )


class _WindowsFor:
    """What the core calls of windows of one's own."""

    __slots__ = ("windows",)

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def __call__(self, timestamp: int) -> list[tuple[int, int]]:
        return [(start, end) for start, end in self.windows.windows_for(timestamp)]


def _plan(graph: Graph, window: Window) -> dict[str, Any]:
    match window:
        case Windows():
            size_ms, grace_ms = window.sizes_ms()
            called = graph.register(_WindowsFor(window))
            return {"kind": "own", "call": called, "size_ms": size_ms, "grace_ms": grace_ms}
        case Tumbling():
            size = window.size_ms
            return {"kind": "hopping", "size_ms": size, "advance_ms": size, "grace_ms": window.grace_ms}
        case Hopping():
            return {
                "kind": "hopping",
                "size_ms": window.size_ms,
                "advance_ms": window.advance_ms,
                "grace_ms": window.grace_ms,
            }
        case Sliding():
            return {"kind": "sliding", "difference_ms": window.difference_ms, "grace_ms": window.grace_ms}
        case Session():
            return {"kind": "session", "gap_ms": window.gap_ms, "grace_ms": window.grace_ms}
        case Unlimited():
            return {"kind": "unlimited", "start_ms": window.start_ms}


@dataclass(frozen=True, slots=True)
class _Kept:
    """How a window's results are kept: the store's layout, for how long at least and by default, and their length."""

    kind: str
    least_ms: int | None
    retention_ms: int | None
    size_ms: int | None
    linger_ms: int = 0
    """How much longer the operator can see them in Kafka Streams, where a cache is before the store."""


def _kept(window: Window) -> _Kept:
    match window:
        case Windows():
            size_ms, grace_ms = window.sizes_ms()
            # One that lies ahead of its record makes the store forget earlier; a cache has them still.
            return _Kept("window", size_ms + grace_ms, size_ms + grace_ms, size_ms, 2 * size_ms)
        case Tumbling():
            return _Kept("window", window.size_ms + window.grace_ms, window.retention_ms, window.size_ms)
        case Hopping():
            return _Kept("window", window.size_ms + window.grace_ms, window.retention_ms, window.size_ms)
        case Sliding():
            # At least a millisecond: without difference and grace the window of the record at hand would be gone.
            least = max(2 * window.difference_ms + window.grace_ms, 1)
            return _Kept("series", least, least, window.difference_ms, window.difference_ms + 1)
        case Session():
            least = window.gap_ms + window.grace_ms
            return _Kept("session", least, least, None, least + 2 * window.gap_ms)
        case Unlimited():
            return _Kept("window", None, None, _FOREVER_MS)


def _store(graph: Graph, window: Window, how: Materialized, fallback: str, operation: str) -> str:
    kept = _kept(window)
    if how.history is not None:
        raise fault(
            "bad_argument",
            "windows have no versions",
            operation=operation,
            hint='leave out `history`; how long windows are kept is their `retention="1d"`',
        )
    if how.retention is not None:
        asked = duration_ms(how.retention, "retention", operation=operation)
        if kept.least_ms is None or asked < kept.least_ms:
            raise fault(
                "retention_too_short",
                f"retention {asked} ms is shorter than what the windows need"
                + ("" if kept.least_ms is None else f", {kept.least_ms} ms"),
                operation=operation,
                hint="leave it out" if kept.least_ms is None else f'write `retention="{kept.least_ms}ms"` or more',
            )
        kept = replace(kept, retention_ms=asked)
    how = replace(how, retention=None)
    return flow.store(
        graph,
        kept.kind,
        how,
        fallback,
        operation,
        retention_ms=kept.retention_ms,
        window_size_ms=kept.size_ms,
        linger_ms=kept.linger_ms if how.caching else 0,
    )


def _key(window: Window, inner: Serde | None) -> Serde:
    inner = inner or serdes.string
    if isinstance(window, Session):
        return serdes.session_windowed(inner)
    return serdes.time_windowed_ms(inner, _kept(window).size_ms or 0)


def _aggregate(
    inputs: list[Flowing],
    window: Window,
    operation: str,
    folds: list[Any],
    how: Materialized,
    value: Serde | None,
    *,
    emit: EmitStrategy | None = None,
    merger: dict[str, Any] | None = None,
) -> KTable:
    first = inputs[0]
    on_close = emit is not None and emit.on_close
    how = replace(how, caching=how.caching and not on_close)
    node = flow.add(
        first.graph,
        "window_aggregate",
        [flowing.port for flowing in inputs],
        about=f"{window!r}{', told on close' if on_close else ''}",
        folds=folds,
        window=_plan(first.graph, window),
        merger=merger,
        on_close=on_close,
        cached=how.caching,
        send_old=False,
    )
    store = _store(first.graph, window, how, f"{node.name}-store", operation)
    node.parameters |= {"store": store, "stores": [store]}
    key = _key(window, how.key or first.key)
    return KTable(first.at(node, key=key, value=how.value or value, rekeyed=False), store=store)


class _Windowed:
    """A grouping by key and window."""

    def __init__(self, grouped: KGroupedStream, window: Any, emit: EmitStrategy | None = None) -> None:
        self._grouped = grouped
        self._window: Window = window
        self._emit = emit or EmitStrategy.on_window_update()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._window!r}>"

    @property
    def _graph(self) -> Graph:
        return self._grouped._graph

    def emit_strategy(self, strategy: EmitStrategy | str) -> Self:
        """When results are told: `"update"` (the default) or `"close"`. In Kafka Streams: `emitStrategy` (KIP-825)."""
        emit = _emits(strategy, "emit_strategy")
        if emit.on_close and isinstance(self._window, Unlimited):
            raise fault(
                "bad_window",
                "an unlimited window never closes",
                operation="emit_strategy",
                hint='leave it at `"update"`',
            )
        if emit.on_close and isinstance(self._window, Windows):
            raise fault(
                "bad_window",
                "windows of one's own are told with each update",
                operation="emit_strategy",
                hint="write `.suppress(ads.Suppressed.until_window_closes())` behind the aggregate",
            )
        return type(self)(self._grouped, self._window, emit)

    def count(self, materialized: Materialized | str | None = None) -> KTable:
        """How many records each key has had in each window."""
        return self._one("count", "count", materialized, serdes.int64)

    def reduce(self, reducer: Fn, materialized: Materialized | str | None = None) -> KTable:
        """`reducer(aggregate, value)` from the second value on; the first is the aggregate."""
        fold = {"reduce": {"adder": flow.call(self._graph, reducer, "reducer", "reduce", 2), "subtractor": None}}
        return self._one("reduce", fold, materialized, self._grouped._flowing.value)

    def _one(
        self,
        operation: str,
        fold: Any,
        materialized: Materialized | str | None,
        value: Serde | None,
        merger: dict[str, Any] | None = None,
    ) -> KTable:
        how = flow.materialized(materialized, operation)
        flowing = self._grouped.keyed(operation, how)
        return _aggregate([flowing], self._window, operation, [fold], how, value, emit=self._emit, merger=merger)


class TimeWindowedKStream(_Windowed):
    """Records by key and window: tumbling, hopping, sliding, unlimited. In Kafka Streams: `TimeWindowedKStream`."""

    def aggregate(
        self,
        initializer: Fn | None = None,
        adder: Fn | None = None,
        materialized: Materialized | str | None = None,
        **aggregates: Expr,
    ) -> KTable:
        """`adder(key, value, aggregate)` (or without the key), from `initializer()`; None deletes the window's value.

        Or aggregates of the values' fields, without Python: see `KGroupedStream.aggregate`.
        """
        fold = aggregate_fold(self._graph, initializer, adder, None, aggregates)
        return self._one("aggregate", fold, materialized, None)


class SessionWindowedKStream(_Windowed):
    """Records by key and session. In Kafka Streams: `SessionWindowedKStream`."""

    def aggregate(
        self,
        initializer: Fn | None = None,
        adder: Fn | None = None,
        merger: Fn | None = None,
        materialized: Materialized | str | None = None,
        **aggregates: Expr,
    ) -> KTable:
        """`adder(key, value, aggregate)` (or without the key), from `initializer()`.

        `merger(key, aggregate, other)` (or without the key) makes one aggregate of those of two sessions that a record
        joins. The initial one is merged with each, so it must be neutral: zero for sums, an empty list for lists.

        Or aggregates of the values' fields, without Python, which know how to merge: see `KGroupedStream.aggregate`.
        """
        fold = aggregate_fold(self._graph, initializer, adder, None, aggregates)
        if aggregates:
            if merger is not None:
                raise fault(
                    "bad_argument",
                    "a merger and aggregates",
                    operation="aggregate",
                    hint="leave the merger out: aggregates know how to merge",
                )
            merger = natives.fold(aggregates, "merge", "aggregate")
        elif merger is None:
            raise fault(
                "bad_argument",
                "how to merge two sessions?",
                operation="aggregate",
                hint="write `aggregate(initializer, adder, merger)` or `aggregate(name=ads.count())`",
            )
        return self._one("aggregate", fold, materialized, None, _merger(self._graph, merger))


def _merger(graph: Graph, merger: Fn) -> dict[str, Any]:
    return flow.function(graph, merger, "merger", "aggregate", values=2)


# --- Several streams into one aggregate -----------------------------------------------------------------------------------


class CogroupedKStream:
    """Groupings that share one aggregate, each with its own aggregator. In Kafka Streams: `CogroupedKStream`."""

    def __init__(self, groups: list[tuple[KGroupedStream, Fn]]) -> None:
        self._groups = groups

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._groups)}>"

    def cogroup(self, grouped: KGroupedStream, aggregator: Fn) -> CogroupedKStream:
        """One more grouping: `aggregator(key, value, aggregate)` (or without the key)."""
        if not isinstance(grouped, KGroupedStream):
            raise fault(
                "bad_argument",
                f"not a grouping: {grouped!r}",
                operation="cogroup",
                hint="write `.cogroup(stream.group_by_key(), aggregator)`",
            )
        if self._groups:
            same_app(self._groups[0][0], grouped, "cogroup")
        flow.function(grouped._graph, aggregator, "aggregator", "cogroup", values=2)
        others = [group for group in self._groups if group[0] is not grouped]
        return CogroupedKStream([*others, (grouped, aggregator)])

    @overload
    def windowed_by(self, window: Session) -> SessionWindowedCogroupedKStream: ...
    @overload
    def windowed_by(
        self, window: Tumbling | Hopping | Sliding | Unlimited | Windows
    ) -> TimeWindowedCogroupedKStream: ...
    def windowed_by(self, window: Any) -> Any:
        """By window, too. In Kafka Streams: `windowedBy`."""
        check(window, "windowed_by")
        if isinstance(window, Session):
            return SessionWindowedCogroupedKStream(self._groups, window)
        return TimeWindowedCogroupedKStream(self._groups, window)

    def aggregate(self, initializer: Fn, materialized: Materialized | str | None = None) -> KTable:
        """One aggregate per key of the records of all groupings, from `initializer()`."""
        how = flow.materialized(materialized, "aggregate")
        inputs, folds = _together(self._groups, initializer, how)
        first = inputs[0]
        node = flow.add(
            first.graph, "aggregate", [f.port for f in inputs], folds=folds, cached=how.cached, send_old=False
        )
        store = flow.table_store(first.graph, how, f"{node.name}-store", "aggregate")
        node.parameters |= {"store": store, "stores": [store]}
        found = first.at(node, key=how.key or first.key, value=how.value, rekeyed=False)
        return KTable(found, store=store, versioned=how.history is not None)


def _together(
    groups: list[tuple[KGroupedStream, Fn]], initializer: Fn, how: Materialized
) -> tuple[list[Flowing], list[Any]]:
    """Where the records of all groupings meet, and how each goes into the aggregate."""
    inputs = []
    folds = []
    for number, (grouped, aggregator) in enumerate(groups):
        fallback = f"{how.name}-{number + 1}" if how.name is not None and number else None
        inputs.append(grouped.keyed("aggregate", how, fallback))
        folds.append(aggregate_fold(grouped._graph, initializer, aggregator, None))
    return inputs, folds


class TimeWindowedCogroupedKStream:
    """Groupings that share one aggregate, by window. In Kafka Streams: `TimeWindowedCogroupedKStream`."""

    def __init__(self, groups: list[tuple[KGroupedStream, Fn]], window: Window) -> None:
        self._groups = groups
        self._window = window

    def aggregate(self, initializer: Fn, materialized: Materialized | str | None = None) -> KTable:
        """One aggregate per key and window of the records of all groupings, from `initializer()`."""
        how = flow.materialized(materialized, "aggregate")
        inputs, folds = _together(self._groups, initializer, how)
        return _aggregate(inputs, self._window, "aggregate", folds, how, None)


class SessionWindowedCogroupedKStream:
    """Groupings that share one aggregate, by session. In Kafka Streams: `SessionWindowedCogroupedKStream`."""

    def __init__(self, groups: list[tuple[KGroupedStream, Fn]], window: Session) -> None:
        self._groups = groups
        self._window = window

    def aggregate(self, initializer: Fn, merger: Fn, materialized: Materialized | str | None = None) -> KTable:
        """One aggregate per key and session of the records of all groupings; see `SessionWindowedKStream.aggregate`."""
        how = flow.materialized(materialized, "aggregate")
        inputs, folds = _together(self._groups, initializer, how)
        merge = _merger(inputs[0].graph, merger)
        return _aggregate(inputs, self._window, "aggregate", folds, how, None, merger=merge)
