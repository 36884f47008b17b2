"""`rolling`: rows with aggregates of their group's rows up to them. Decides now, and not at a window's end.

    events.group_by("card").rolling("5m", n=ads.count(), total=ads.sum("amount"))
    events.group_by("card").rolling(rows=10, usual=ads.median("amount"), share=col("amount") / ads.sum("amount"))

        (ts - 5m, ts]      ──────(═══════════════]──▶     the row itself is in
                              o   o  o        ●

The aggregates are those of `.aggregate(…)`, and so are their results; a column outside of one is the row's own. They are
filled by the core, anew for each row (`rust/core/src/flow/rolling.rs`). Behind the scenes a row is a record, as in `scan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adstream.dsl import aggregates as aggregates_
from adstream.dsl import flow, joins, natives
from adstream.dsl.aggregates import Aggregate
from adstream.dsl.durations import Duration, duration_ms, format_ms
from adstream.dsl.expr import Expr, col, lit, when
from adstream.dsl.faults import fault, user_line
from adstream.dsl.flow import Materialized
from adstream.dsl.row_joins import _records, _together
from adstream.dsl.scan import as_rows, of_row
from adstream.dsl.stream import Columns, Stream
from adstream.dsl.typing_ import widened


def rolling(
    stream: Stream,
    keys: tuple[str, ...],
    within: Duration | None,
    rows: int | None,
    grace: Duration,
    name: str | None,
    named: Mapping[str, Expr],
) -> Stream:
    """`GroupedStream.rolling`."""
    from adstream.dsl.grouped import _aggregate_type

    operation, line = "rolling", user_line()
    within_ms = None if within is None else duration_ms(within, "within", operation=operation, zero=False)
    grace_ms = duration_ms(grace, "grace", operation=operation)
    if (within is None) == (rows is None):
        raise fault(
            "bad_argument",
            "over how much?",
            operation=operation,
            line=line,
            hint='write `rolling("5m", n=ads.count())`, or `rolling(rows=10, …)`',
        )
    if rows is not None and (not isinstance(rows, int) or isinstance(rows, bool) or rows < 1 or grace_ms):
        raise fault(
            "bad_argument",
            f"`rows` is {rows!r}" if not grace_ms else "`grace` goes with a time, not with `rows`",
            operation=operation,
            line=line,
            hint="write a whole number from 1 on, and no grace",
        )
    written = stream._written()
    _check(named, written, operation, line)
    kept, together = aggregates_.split(dict(named))

    columns: Columns = {n: stream._columns[n] for n in written}
    read: list[Any] = []
    parts: list[dict[str, Any]] = []
    holds: list[str] = []

    def reads(e: Expr, where: Expr | None) -> str:
        whole = e if where is None else when(where).then(e).otherwise(None)
        tree, dtype = stream._compile(operation, whole, line)
        read.append(of_row(tree, operation, line))
        holds.append(f"{whole!r}: {widened(dtype)}")
        return widened(dtype)

    for n, aggregate in kept:
        columns[n] = _aggregate_type(stream, aggregate, line, operation)
        part: dict[str, Any] = {"name": n, "fn": aggregate.fn}
        # A bare count counts where its condition is true.
        argument = aggregate.args[0] if aggregate.args else lit(True)
        part["input"] = reads(argument, aggregate.where)
        part["by"] = [{"type": reads(e, aggregate.where), "descending": down} for e, down in aggregate.order]
        for e in aggregate.partition:
            reads(e, None)
        part["over"] = len(aggregate.partition)
        parts.append(part | {"parameter": aggregate.parameter, "error": aggregate.error})

    types = [widened(stream._columns[n]) for n in keys]
    records = _records(
        stream, stream._port, list(keys), types, written, _together(stream, [col(n) for n in keys], types), typed=True
    )
    moved = joins._moved(records, name, operation, None)
    native = natives.Native({"expr": {"op": "tuple", "args": read}}, "arguments")
    over = f"{rows} rows" if within_ms is None else format_ms(within_ms)
    node = flow.add(
        stream._graph,
        operation,
        [moved.port],
        name=name,
        read=flow.function(stream._graph, native, "arguments", operation, values=1),
        parts=parts,
        within_ms=within_ms,
        rows=rows,
        about=f"by {', '.join(keys)} over {over}: " + ", ".join(f"{n}={e!r}" for n, e in kept),
    )
    held: dict[str, Any] = {}
    if within_ms is not None:
        held = {"retention_ms": within_ms + grace_ms, "window_size_ms": within_ms, "duplicates": True}
    kind = "key_value" if within_ms is None else "series"
    # Aggregates are made anew of what is kept, which is read by its place: another `fn` may read it, another argument not.
    held["holds"] = f"by {', '.join(f'{n}: {t}' for n, t in zip(keys, types, strict=True))}; {', '.join(holds)}"
    store = flow.store(stream._graph, kind, Materialized(), f"{node.name}-rows", operation, **held)
    node.parameters |= {"store": store, "stores": [store]}
    found = as_rows(stream, keys, node, moved, columns, operation)
    if together is None:
        return found
    chosen = {n: col(n) for n in written} | dict(together)
    parameters, schema, parted, about, rung = found._project("select", chosen, line, keep=False)
    return found._next("select", line, parameters, columns=schema, key=parted, about=about, rung=rung)


def _check(named: Mapping[str, Expr], written: list[str], operation: str, line: str | None) -> None:
    if not named:
        raise fault("bad_argument", "names no aggregate", operation=operation, line=line, hint="write `n=ads.count()`")
    for n, e in named.items():
        if n.startswith("$"):
            raise fault(
                "reserved_name",
                f"`{n}`: names that begin with `$` are the engine's",
                operation=operation,
                line=line,
                hint="choose another name",
            )
        if n in written:
            raise fault(
                "duplicate_column",
                f"`{n}` is a column already",
                operation=operation,
                line=line,
                hint="choose another name",
            )
        found = [part for part in e.walk() if isinstance(part, Aggregate)] if isinstance(e, Expr) else []
        if not found:
            raise fault(
                "not_an_aggregate",
                f"`{n}` is {e!r}, not an aggregate",
                operation=operation,
                line=line,
                hint=f'write `{n}=ads.sum("…")`',
            )
        for aggregate in found:
            if aggregate.fold is not None or any(x.op == "call" for part in aggregate.parts() for x in part.walk()):
                raise fault(
                    "not_native",
                    f"`{aggregate!r}` calls Python, and rolling aggregates are run by the core",
                    operation=operation,
                    line=line,
                    hint="write it as an expression, or compute a column before",
                )
