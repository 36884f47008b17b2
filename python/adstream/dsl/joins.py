"""Joins of a stream with another stream, a table, a global table.

    stream ─┐                        other stream: both within a span of time      `JoinWindows`
            ├─ join, left_join ─▶    table: what it says at that moment            co-partitioned, or with `grace=`
    other ──┘  outer_join            global table: the same, under any key         no partitioning

A stream whose keys have changed is moved by key first (`<app>-<name>-left-repartition`, `-right-`; of a table join
`<app>-<name>-repartition`). Without a name, joins of one stream share what they moved. Records without a key, which no
other operation wants behind such a topic, go along to left and outer joins (KIP-962).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adstream.dsl import flow, natives
from adstream.dsl.durations import Duration, duration_ms, format_ms
from adstream.dsl.faults import fault
from adstream.dsl.flow import Materialized
from adstream.dsl.graph import Graph, Node
from adstream.dsl.kstream import Flowing, Fn, KStream, repartition, same_app
from adstream.dsl.serdes import Serde
from adstream.dsl.store import StoreBuilder

if TYPE_CHECKING:
    from adstream.dsl.ktable import KTable


@dataclass(frozen=True, slots=True)
class JoinWindows:
    """How far apart in time two records may be to meet. In Kafka Streams: `JoinWindows`.

    Of a left record at t those of the right from t − before to t + after, both inclusive; one of the two may be negative.
    Records wait for their other side until `grace` behind that.

        ads.JoinWindows.of_time_difference_with_no_grace("10s")
        ads.JoinWindows.of_time_difference_and_grace("10s", "1m").before("0s")      right from t to t + 10 s
    """

    before_ms: int
    after_ms: int
    grace_ms: int

    @staticmethod
    def of_time_difference_with_no_grace(difference: Duration) -> JoinWindows:
        """At most so far apart, in both directions. Who has no match when that is over has none."""
        return JoinWindows.of_time_difference_and_grace(difference, "0s")

    @staticmethod
    def of_time_difference_and_grace(difference: Duration, grace: Duration) -> JoinWindows:
        """At most so far apart, in both directions; out-of-order records are waited for by `grace`."""
        ms = duration_ms(difference, "difference", operation="JoinWindows")
        return JoinWindows(ms, ms, duration_ms(grace, "grace", operation="JoinWindows"))

    def before(self, difference: Duration) -> JoinWindows:
        """How long before the left record the right one may be; negative: it must be so much later."""
        ms = duration_ms(difference, "before", operation="JoinWindows", negative=True)
        return replace(self, before_ms=ms)._checked()

    def after(self, difference: Duration) -> JoinWindows:
        """How long after the left record the right one may be; negative: it must be so much earlier."""
        ms = duration_ms(difference, "after", operation="JoinWindows", negative=True)
        return replace(self, after_ms=ms)._checked()

    def _checked(self) -> JoinWindows:
        if self.before_ms + self.after_ms < 0:
            raise fault(
                "bad_window",
                f"a span from {format_ms(self.before_ms)} before to {format_ms(self.after_ms)} after is empty",
                operation="JoinWindows",
                hint="before and after together are not negative; set the positive one first",
            )
        return self

    @property
    def size_ms(self) -> int:
        return self.before_ms + self.after_ms


class GlobalKTable:
    """A topic that every worker has whole, for look-ups under any key. Made by `App.global_table`.

    In Kafka Streams: `GlobalKTable`.
    """

    def __init__(self, graph: Graph, name: str, key: Serde, value: Serde, *, named: bool) -> None:
        self._graph = graph
        self._name = name
        self._key, self._value = key, value
        self._named = named

    @property
    def queryable_store_name(self) -> str | None:
        """The name it was given."""
        return self._name if self._named else None

    def __repr__(self) -> str:
        return f"<GlobalKTable {self._name}>"


@dataclass(frozen=True, slots=True)
class How:
    """Which operation, and whose records come out alone if they have no match."""

    operation: str
    left: bool = False
    right: bool = False


INNER, LEFT, OUTER = How("join"), How("left_join", left=True), How("outer_join", left=True, right=True)


def join(stream: KStream, other: object, how: How, args: tuple[Any, ...], options: dict[str, Any]) -> KStream:
    """By what the other side is."""
    from adstream.dsl.ktable import KTable

    makers: list[tuple[type, Callable[..., KStream]]] = [(KStream, _with_stream)]
    if not how.right:
        makers += [(KTable, _with_table), (GlobalKTable, _with_global_table)]
    for kind, make in makers:
        if isinstance(other, kind):
            same_app(stream, other, how.operation)
            return make(how, stream, other, *args, **options)
    raise fault(
        "bad_argument",
        f"a stream cannot be joined with {other!r} here",
        operation=how.operation,
        hint=f"use one of: {', '.join(kind.__name__ for kind, _ in makers)}",
    )


def _with_stream(
    how: How,
    left: KStream,
    right: KStream,
    joiner: Fn,
    windows: object = None,
    *,
    name: str | None = None,
    store_name: str | None = None,
    this_store: StoreBuilder | None = None,
    other_store: StoreBuilder | None = None,
    key: Serde | None = None,
    logging: bool = True,
    where: natives.Native | None = None,
) -> KStream:
    operation = how.operation
    graph = left._graph
    if not isinstance(windows, JoinWindows):
        raise fault(
            "bad_argument",
            f"streams meet within a span of time, and `windows` is {windows!r}",
            operation=operation,
            hint='write `ads.JoinWindows.of_time_difference_with_no_grace("10s")`',
        )
    fn = flow.function(graph, joiner, "joiner", operation, values=2)
    mine = _moved(left, None if name is None else f"{name}-left", operation, key)
    theirs = _moved(right, None if name is None else f"{name}-right", operation, key)
    node = flow.add(
        graph,
        "stream_join",
        [mine.port, theirs.port],
        name=name,
        joiner=fn,
        before_ms=windows.before_ms,
        after_ms=windows.after_ms,
        grace_ms=windows.grace_ms,
        left_outer=how.left,
        right_outer=how.right,
        about=f"before {format_ms(windows.before_ms)}, after {format_ms(windows.after_ms)}"
        f", grace {format_ms(windows.grace_ms)}",
    )
    if where is not None:
        node.parameters["where"] = flow.function(graph, where, "where", operation, values=2)
    base = store_name or node.name

    def store(kind: str, suffix: str, **more: Any) -> str:
        return flow.store(graph, kind, Materialized(logging=logging), f"{base}{suffix}", operation, **more)

    window = {"retention_ms": windows.size_ms + windows.grace_ms, "window_size_ms": windows.size_ms, "duplicates": True}

    def side(given: StoreBuilder | None, what: str, suffix: str) -> str:
        if given is None:
            return store("buffer", suffix, **window)
        _check_window_store(given, what, window, operation)
        how = Materialized(given.name, logging=given.logging)
        order = {name: given.parameters[name] for name in ("by_key",) if name in given.parameters}
        return flow.store(graph, "series", how, given.name, operation, flavour=given.flavour, **window, **order)

    stores = {
        "left": side(this_store, "this_store", "-outer-this-join" if how.right else "-this-join"),
        "right": side(other_store, "other_store", "-outer-other-join" if how.left else "-other-join"),
    }
    if how.left:
        stores["waiting"] = store("buffer", "-outer-shared-join" if how.right else "-left-shared-join")
        _wants_null_keys(graph, node)
    node.parameters |= stores | {"stores": sorted(stores.values())}
    return KStream(mine.at(node, key=key or (mine.key if mine.key == theirs.key else None), value=None))


def _check_window_store(given: object, what: str, window: dict[str, Any], operation: str) -> None:
    """A store of the user's own must keep just what the join keeps."""
    size, kept = format_ms(window["window_size_ms"]), format_ms(window["retention_ms"])
    if (
        not isinstance(given, StoreBuilder)
        or given.flavour not in ("window", "timestamped_window")
        or {name: given.parameters.get(name) for name in window} != window
    ):
        raise fault(
            "bad_argument",
            f"`{what}` must keep windows of {size}, duplicates included, for {kept}, and is {given!r}",
            operation=operation,
            hint=f'write `ads.store.window("…", "{kept}", "{size}", duplicates=True)`',
        )


def _with_table(
    how: How,
    stream: KStream,
    table: KTable,
    joiner: Fn,
    *,
    name: str | None = None,
    key: Serde | None = None,
    grace: Duration | None = None,
) -> KStream:
    operation = how.operation
    graph = stream._graph
    fn = flow.function(graph, joiner, "joiner", operation, values=2)
    grace_ms = None if grace is None else duration_ms(grace, "grace", operation=operation)
    getter = table._lookup()
    if grace_ms is not None:
        _check_history(graph, table, getter, grace_ms, operation)
    moved = _moved(stream, name, operation, key)
    node = flow.add(
        graph,
        "stream_table_join",
        [moved.port],
        name=name,
        stores=table._lookup_stores(),
        table=getter,
        joiner=fn,
        left=how.left,
        about="" if grace_ms is None else f"grace {format_ms(grace_ms)}",
    )
    if grace_ms is not None:
        buffer = flow.store(graph, "buffer", Materialized(), f"{node.name}-buffer", operation)
        node.parameters |= {"grace_ms": grace_ms, "buffer": buffer, "stores": [*node.parameters["stores"], buffer]}
    if how.left:
        _wants_null_keys(graph, node)
    return KStream(moved.at(node, value=None))


def _with_global_table(
    how: How, stream: KStream, table: GlobalKTable, key_selector: Fn, joiner: Fn, *, name: str | None = None
) -> KStream:
    graph = stream._graph
    node = flow.add(
        graph,
        "stream_table_join",
        [stream._flowing.port],
        name=name,
        table={"global": table._name},
        key=flow.function(graph, key_selector, "key_selector", how.operation),
        joiner=flow.function(graph, joiner, "joiner", how.operation, values=2),
        left=how.left,
        about=f"global table {table._name}",
    )
    if how.left:
        _wants_null_keys(graph, node)
    return KStream(stream._flowing.at(node, value=None))


def _moved(stream: KStream, name: str | None, operation: str, key: Serde | None) -> Flowing:
    """The records where equal keys meet. Joins without a name share what an earlier one moved."""
    flowing = replace(stream._flowing, key=key or stream._flowing.key)
    if not flowing.rekeyed:
        return flowing
    if name is not None or stream._moved_for_joins is None:
        stream._moved_for_joins = repartition(flowing, name, operation)
    return stream._moved_for_joins


def _wants_null_keys(graph: Graph, join: Node) -> None:
    """Topics that the application writes for itself, above this join, keep records without a key."""
    for node in _above(graph, join):
        if node.parameters.get("drop_null_keys"):
            node.parameters["drop_null_keys"] = False


def _above(graph: Graph, node: Node) -> Iterator[Node]:
    """All nodes from which records come to this one, through topics of the application's own."""
    waiting, seen = [node.id], {node.id}
    while waiting:
        here = graph.nodes[waiting.pop()]
        yield here
        above = [i for i, _ in here.inputs]
        if here.parameters.get("internal") and here.parameters["kind"] == "source":
            read = set(here.parameters["topics"])
            above += [
                n.id for n in graph.nodes if n.parameters.get("kind") == "to" and read & set(n.parameters["topics"])
            ]
        fresh = [i for i in above if i not in seen]
        seen.update(fresh)
        waiting += fresh


def _check_history(graph: Graph, table: KTable, getter: dict[str, Any], grace_ms: int, operation: str) -> None:
    kinds = {s["name"]: s for s in graph.stores}
    stores = [kinds[name] for name in table._lookup_stores()]
    if "join" in getter or not all(s["kind"] == "versioned" for s in stores):
        raise fault(
            "grace_without_versions",
            f"records can only wait for a table that keeps versions, and {table!r} keeps the newest one",
            operation=operation,
            hint='make it with `ads.Materialized("…", history="1h")`, or leave out `grace`',
        )
    history = min(s["retention_ms"] for s in stores)
    if history < grace_ms:
        raise fault(
            "retention_too_short",
            f"a grace of {format_ms(grace_ms)} needs versions for so long, and the table keeps them for"
            f" {format_ms(history)}",
            operation=operation,
            hint=f'write `history="{format_ms(grace_ms)}"` or more',
        )
