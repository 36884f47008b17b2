"""`in_order`: rows of a partition by their event time, held back for a while. `rust/core/src/flow/in_order.rs` runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from adstream.dsl import flow, natives
from adstream.dsl.durations import Duration, duration_ms, format_ms
from adstream.dsl.expr import Expr, named_or_expr
from adstream.dsl.faults import fault, user_line
from adstream.dsl.flow import Materialized
from adstream.dsl.graph import Graph, Port
from adstream.dsl.scan import of_row
from adstream.dsl.stream import Columns, KeyPart, Stream
from adstream.dsl.until import rows_again

LateRows = Literal["pass", "route"]
OPERATION = "in_order"


class OrderedStream(Stream):
    """Rows by event time. Made by `Stream.in_order`."""

    def __init__(
        self, graph: Graph, port: Port, columns: Columns, key: tuple[KeyPart, ...], late: Stream | None = None
    ) -> None:
        super().__init__(graph, port, columns, key)
        self._late = late

    @property
    def late(self) -> Stream:
        """The rows that came when later ones had left already, as they came.

        Raises:
            TopologyError: `bad_argument`: they go on with the others.
        """
        if self._late is None:
            raise fault(
                "bad_argument",
                "late rows go on with the others here",
                operation="late",
                hint='write `.in_order(…, late="route")`',
            )
        return self._late


def in_order(
    stream: Stream, by: Sequence[str | Expr], grace: Duration | None, late: LateRows, name: str | None
) -> OrderedStream:
    """`Stream.in_order`."""
    line = user_line()
    if grace is None:
        raise fault(
            "grace_missing",
            "how long are rows waited for that come out of order?",
            operation=OPERATION,
            line=line,
            hint='write `grace="30s"`',
        )
    grace_ms = duration_ms(grace, "grace", operation=OPERATION)
    if late not in get_args(LateRows):
        raise fault(
            "bad_argument",
            f"`late` is {late!r}",
            operation=OPERATION,
            line=line,
            hint='write "pass" (they go on at once) or "route" (to `.late`)',
        )
    written, trees = stream._written(), []
    for e in by:
        if not isinstance(e, str | Expr):
            raise fault(
                "bad_argument",
                f"rows of one time are ordered by {e!r}",
                operation=OPERATION,
                line=line,
                hint="write a column or an expression",
            )
        made = named_or_expr(e)
        for node in made.walk():
            if node.op == "call":
                raise fault(
                    "not_native",
                    f"`{node!r}` calls Python, and rows are put in order by the core",
                    operation=OPERATION,
                    line=line,
                    hint="write it as an expression, or compute a column before",
                )
        trees.append(of_row(stream._compile(OPERATION, made, line)[0], OPERATION, line))
    graph = stream._graph
    rows = flow.add(graph, "from_rows", [stream._port], keys=[], columns=written, about="rows")
    ordering: dict[str, Any] | None = None
    if trees:
        native = natives.Native({"expr": {"op": "tuple", "args": trees}}, "order")
        ordering = flow.function(graph, native, "order", OPERATION)
    held = flow.add(
        graph,
        OPERATION,
        [(rows.id, 0)],
        name=name,
        grace_ms=grace_ms,
        by=ordering,
        route=late == "route",
        about=f"by time{''.join(f', {e!r}' if isinstance(e, Expr) else f', {e}' for e in by)}, grace {format_ms(grace_ms)}",
    )
    store = flow.store(graph, "buffer", Materialized(), f"{held.name}-waiting", OPERATION)
    held.parameters |= {"store": store, "stores": [store]}
    others = None
    if late == "route":
        others = Stream(graph, *rows_again(stream, (held.id, 1), "late rows"))
    return OrderedStream(graph, *rows_again(stream, (held.id, 0), "rows in order"), others)
