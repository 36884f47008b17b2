"""`filter(ads.now() >= expr)`: a timer per row. `rust/core/src/flow/wait_until.rs` runs it.

A condition that asks for the time is false now and true later, so the row is kept until then; a filter that looked once
would drop it for good. `now()` therefore stands only where it says *from when on*: alone on one side of `>=` or `>`
(or `<=`, `<` the other way round), in a `filter`, alone or joined to other conditions by `&`. Those are asked at once,
before the row waits: its columns do not change meanwhile.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from adstream.dsl import flow, natives
from adstream.dsl.expr import Expr
from adstream.dsl.faults import fault
from adstream.dsl.flow import Materialized
from adstream.dsl.scan import of_row
from adstream.dsl.stream import Columns, KeyPart, Stream, rung_of

if TYPE_CHECKING:
    from adstream.dsl.graph import Graph, Node, Port

_FROM = {"ge": False, "gt": True}
"""`now() >= x` and `now() > x`: whether x itself is too early."""
_TURNED = {"le": "ge", "lt": "gt", "ge": "le", "gt": "lt"}


def split(condition: Expr) -> tuple[list[tuple[Expr, bool]], list[Expr]]:
    """From when on it can hold (and whether that moment is too early), and the other conditions."""
    if condition.op == "and":
        parts = [split(part) for part in condition.args]
        return [one for found, _ in parts for one in found], [one for _, rest in parts for one in rest]
    if condition.op in _TURNED:
        left, right = condition.args
        op = condition.op
        if right.op == "now":
            left, right, op = right, left, _TURNED[op]
        if left.op == "now" and op in _FROM:
            return [(right, _FROM[op])], []
    return [], [condition]


class WaitingStream(Stream):
    """Rows whose time has come. Made by `Stream.filter`."""

    def __init__(
        self,
        graph: Graph,
        port: Port,
        columns: Columns,
        key: tuple[KeyPart, ...],
        held: tuple[Node, ...],
        reason: str | None,
    ) -> None:
        super().__init__(graph, port, columns, key)
        self._held, self._reason = held, reason

    def _label(self) -> Node:
        return self._held[0]

    def named(self, name: str) -> Self:
        """Names the operation, and with it the state in which rows wait: for several moments `w`, `w-2` and so on."""
        for number, node in enumerate(self._held, 1):
            own = name if number == 1 else f"{name}-{number}"
            self._graph.rename(node, own)
            store = f"{own}-waiting"
            spec = next(s for s in self._graph.stores if s["name"] == node.parameters["store"])
            spec["name"] = store
            node.parameters |= {"store": store, "stores": [store], "reason": self._reason or name}
        return self


def wait(stream: Stream, moments: list[tuple[Expr, bool]], reason: str | None, line: str | None) -> Stream:
    """The stream with each row from the last of these moments on, or from the millisecond behind it."""
    held: tuple[Node, ...] = ()
    for moment, behind in moments:
        node = _holding(stream, moment, behind, reason, line)
        held = (*held, node)
        made = rows_again(stream, (node.id, 0), "rows whose time has come")
        stream = WaitingStream(stream._graph, *made, held, reason)
    return stream


def _holding(stream: Stream, moment: Expr, behind: bool, reason: str | None, line: str | None) -> Node:
    """The node that holds each row until `moment`, or the millisecond behind it."""
    tree, dtype = stream._compile("filter", moment, line)
    if dtype != "timestamp":
        raise fault(
            "type_mismatch",
            f"`now()` is a time, and `{moment!r}` is {dtype}",
            operation="filter",
            line=line,
            hint="compare it with a column of times, `ads.now() >= col(…)`",
        )
    if rung_of([moment]) != "expression":
        raise fault(
            "not_native",
            f"`{moment!r}` calls Python, and the core sets the timers",
            operation="filter",
            line=line,
            hint="write it as an expression, or compute a column before",
        )
    graph, written = stream._graph, stream._written()
    rows = flow.add(graph, "from_rows", [stream._port], keys=[], columns=written, about="rows")
    native = natives.Native({"expr": of_row(tree, "filter", line)}, "moment")
    sign = ">" if behind else ">="
    held = flow.add(
        graph,
        "wait_until",
        [(rows.id, 0)],
        at=flow.function(graph, native, "moment", "filter"),
        behind=behind,
        timed=True,
        about=f"now() {sign} {moment!r}",
    )
    store = flow.store(graph, "buffer", Materialized(), f"{held.name}-waiting", "filter")
    held.parameters |= {"store": store, "stores": [store], "reason": reason or held.name}
    return held


def rows_again(stream: Stream, port: Port, about: str) -> tuple[Port, Columns, tuple[KeyPart, ...]]:
    """Records of an operation that moves no row, as rows: what the stream's key was it is still. A part of it that no column
    holds any more, such as a window that nobody wrote into one, stays a part: a sink has to ask for it."""
    columns: Columns = {name: stream._columns[name] for name in stream._written()}
    held = [sorted(part.columns & columns.keys(), key=lambda n: (n != part.name, n)) for part in stream._key]
    names = [found[0] for found in held] if all(held) else []
    schema: list[dict[str, Any]] = [{"name": name, "type": dtype} for name, dtype in columns.items()]
    fill = [{"field": name} for name in columns]
    node = flow.add(stream._graph, "to_rows", [port], schema=schema, fill=fill, keys=names, about=about)
    return (node.id, 0), columns, tuple(replace(part, columns=part.columns & columns.keys()) for part in stream._key)
