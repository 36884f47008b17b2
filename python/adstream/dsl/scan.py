"""`scan`: rows with what their key has come to before them. A fold that speaks with every row.

    class Visits(ads.State):
        last: datetime | None = None
        n: int = 0

    s = ads.state(Visits)
    events.group_by("user").scan(
        Visits,
        emit=dict(gap=col("at") - s.last, nth=s.n + 1),
        update=dict(last=col("at"), n=s.n + 1),
    )

`emit` and `update` are expressions over the row's columns and the state *before* the row; updates are simultaneous. They
are run by the core, row by row: `rust/core/src/flow/scan.rs`. Behind the scenes a row is a record whose key is the
group's and whose value holds the columns; it is moved by key where that is needed, as in joins (`row_joins.py`).

`edges` is a scan: one bool is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, localcontext
from typing import Any, get_type_hints

from adstream.dsl import flow, joins, natives
from adstream.dsl.durations import Duration, duration_ms, format_ms
from adstream.dsl.expr import Expr, col, lit, named_or_expr, when
from adstream.dsl.faults import fault, name_list, user_line
from adstream.dsl.flow import Materialized
from adstream.dsl.graph import Graph, Node
from adstream.dsl.kstream import Flowing
from adstream.dsl.row_joins import _records, _together
from adstream.dsl.stream import Columns, KeyPart, Stream
from adstream.dsl.typing_ import PRECISION_MAX, resolve, widened

_STATE = "$state."
_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")


class State:
    """What is kept of a key, as a class of fields with types and initial values; see `ads.state` and
    `GroupedStream.scan`. Types are those of a schema; what may be null says `| None`."""


class StateFields:
    """The fields of a state as expressions: `s.n`. Made by `ads.state`."""

    def __init__(self, of: type[State]) -> None:
        self._of = of
        self._types = _types(of)

    def __getattr__(self, name: str) -> Expr:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._types:
            raise fault(
                "unknown_column",
                f"`{self._of.__name__}` has no field `{name}`",
                operation="state",
                hint=f"there are: {name_list(self._types)}",
            )
        return col(f"{_STATE}{name}")

    def __repr__(self) -> str:
        return f"<state {self._of.__name__}: {', '.join(f'{n}: {t}' for n, t in self._types.items())}>"


def state(of: type[State]) -> Any:
    """The fields of a state, as it is before a row, as expressions of `scan`.

    Raises:
        TopologyError: `bad_argument` (no state), `unknown_type`; `unknown_column`, for a field that is not there.
    """
    return StateFields(of)


def _types(of: object) -> dict[str, str]:
    if not (isinstance(of, type) and issubclass(of, State)) or of is State:
        raise fault(
            "bad_argument",
            f"not a state: {of!r}",
            operation="state",
            hint="write `class Visits(ads.State): n: int = 0`",
        )
    found = {}
    for name, annotation in get_type_hints(of, include_extras=True).items():
        if not hasattr(of, name):
            raise fault(
                "bad_argument",
                f"`{of.__name__}.{name}` begins with what?",
                operation="state",
                hint=f"write `{name}: … = 0`, or `… | None = None`",
            )
        found[name] = widened(resolve(annotation, f"{of.__name__}.{name}", operation="state").type)
    if not found:
        raise fault("bad_argument", f"`{of.__name__}` has no fields", operation="state", hint="write `n: int = 0`")
    return found


def scan(
    stream: Stream,
    keys: tuple[str, ...],
    of: type[State],
    emit: Mapping[str, Expr | str],
    update: Mapping[str, Expr | str],
    ttl: Duration | None,
    name: str | None,
    operation: str = "scan",
) -> Stream:
    """`GroupedStream.scan`."""
    line = user_line()
    types = _types(of)
    ttl_ms = None if ttl is None else duration_ms(ttl, "ttl", operation=operation, zero=False)
    written = stream._written()
    inside = Stream(stream._graph, stream._port, {**stream._columns, **{_STATE + n: t for n, t in types.items()}}, ())
    for what, given in (("emit", emit), ("update", update)):
        if not isinstance(given, Mapping) or not given or not all(isinstance(e, str | Expr) for e in given.values()):
            raise fault(
                "bad_argument",
                f"`{what}` is {given!r}",
                operation=operation,
                line=line,
                hint=f"write `{what}=dict(n=s.n + 1)`, an expression for each name",
            )
    unknown = [n for n in update if n not in types]
    if unknown:
        raise fault(
            "unknown_column",
            f"`{of.__name__}` has no field {name_list(unknown)}",
            operation=operation,
            line=line,
            hint=f"there are: {name_list(types)}",
        )

    def compiled(e: Expr | str) -> tuple[Any, str]:
        e = named_or_expr(e)
        for node in e.walk():
            if node.op == "call":
                raise fault(
                    "not_native",
                    f"`{node!r}` calls Python, and a scan is run by the core",
                    operation=operation,
                    line=line,
                    hint="write it as an expression, or compute a column before",
                )
        tree, dtype = inside._compile(operation, e, line)
        return of_row(tree, operation, line), dtype

    columns: Columns = {n: stream._columns[n] for n in written}
    fields = {n: {"op": "col", "name": n} for n in written}
    for n, e in emit.items():
        if n.startswith("$"):
            raise fault(
                "reserved_name",
                f"`{n}`: names that begin with `$` are the engine's",
                operation=operation,
                line=line,
                hint="choose another name",
            )
        fields[n], dtype = compiled(e)
        columns[n] = widened("str" if dtype == "null" else dtype)
    following = {n: {"op": "col", "name": f"$other.{n}"} for n in types}
    for n, e in update.items():
        following[n], dtype = compiled(e)
        if dtype != "null" and widened(dtype) != types[n]:
            raise fault(
                "type_mismatch",
                f"`{n}` of `{of.__name__}` is {types[n]}, and `{named_or_expr(e)!r}` is {dtype}",
                operation=operation,
                line=line,
                hint="cast it: `.cast(…)`, or change the field's type",
            )
    initial = {n: _initial(of, n, t, operation, line) for n, t in types.items()}

    parts = [widened(stream._columns[n]) for n in keys]
    records = _records(
        stream, stream._port, list(keys), parts, written, _together(stream, [col(n) for n in keys], parts), typed=True
    )
    moved = joins._moved(records, name, operation, None)

    def function(made: Mapping[str, Any], about: str) -> dict[str, Any]:
        native = natives.Native({"expr": {"op": "struct", "args": list(made.values()), "value": list(made)}}, about)
        return flow.function(stream._graph, native, about, operation, values=2)

    node = flow.add(
        stream._graph,
        "scan",
        [moved.port],
        name=name,
        emit=function(fields, "emit"),
        update=function(following, "update"),
        initial=function(initial, "initial"),
        ttl_ms=ttl_ms,
        about=f"by {', '.join(keys)}: {', '.join(emit)}"
        + (", kept for ever" if ttl_ms is None else f", forgotten {format_ms(ttl_ms)} after its last row"),
    )
    kept: dict[str, Any] = {} if ttl_ms is None else {"retention_ms": ttl_ms, "window_size_ms": 0}
    kind = "key_value" if ttl_ms is None else "series"
    said = [", ".join(f"{n}: {t}" for n, t in of) for of in (zip(keys, parts, strict=True), types.items())]
    kept["holds"] = f"by {said[0]}; {said[1]}"
    store = flow.store(stream._graph, kind, Materialized(), f"{node.name}-state", operation, **kept)
    node.parameters |= {"store": store, "stores": [store]}
    return as_rows(stream, keys, node, moved, columns, operation)


def as_rows(
    stream: Stream, keys: tuple[str, ...], node: Node, moved: Flowing, columns: Columns, operation: str
) -> Stream:
    """What a node made of the rows of groups, as rows again: also of those that are null in a column of the key."""
    joins._wants_null_keys(stream._graph, node)
    # A key that is null in part is a group of rows, but no key here: its rows may lie in several partitions.
    held = list(keys) if len(keys) == 1 else []
    rows = flow.add(
        stream._graph,
        "to_rows",
        [moved.at(node, value=None).port],
        schema=[{"name": n, "type": dtype} for n, dtype in columns.items()],
        fill=[{"field": n} for n in columns],
        keys=held,
        about=f"{operation} by {', '.join(keys)}",
    )
    return Stream(stream._graph, (rows.id, 0), columns, tuple(KeyPart(n, frozenset({n})) for n in held))


def of_row(tree: Any, operation: str, line: str | None) -> Any:
    """An expression over a row and a state as one over two values."""
    if isinstance(tree, list):
        return [of_row(part, operation, line) for part in tree]
    if not isinstance(tree, dict):
        return tree
    name = tree.get("name")
    if tree.get("op") == "col" and isinstance(name, str) and name.startswith("$"):
        if name.startswith(_STATE):
            return {**tree, "name": f"$other.{name.removeprefix(_STATE)}"}
        raise fault(
            "unknown_column",
            f"`{name[1:]}()` cannot be asked inside: a row may have moved",
            operation=operation,
            line=line,
            hint="keep it as a column before: `.with_columns(…)`",
        )
    return {part: of_row(of, operation, line) for part, of in tree.items()}


def _initial(of: type[State], name: str, dtype: str, operation: str, line: str | None) -> Any:
    value = getattr(of, name)
    if value is None:
        return {"op": "lit", "value": None, "dtype": "null"}
    wrong = fault(
        "type_mismatch",
        f"`{of.__name__}.{name}` is {dtype} and begins with {value!r}",
        operation=operation,
        line=line,
        hint="write a value of its type",
    )
    if dtype == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    digits = _DECIMAL.fullmatch(dtype)
    if digits is not None and isinstance(value, int | Decimal) and not isinstance(value, bool):
        precision, scale = int(digits[1]), int(digits[2])
        with localcontext(prec=2 * PRECISION_MAX):
            exact = Decimal(value) if Decimal(value).is_finite() else None
            if exact is None or abs(exact) >= 10 ** (precision - scale) or exact != round(exact, scale):
                raise wrong
            value = round(exact, scale)
    bare = Stream(Graph(), (0, 0), {}, ())
    tree, found = bare._compile(operation, lit(value), line)
    if widened(found).split("(")[0] != dtype.split("(")[0]:
        raise wrong
    return tree


class _Inside(State):
    inside: bool = False


def edges(
    stream: Stream, keys: tuple[str, ...], enter: Expr, leave: Expr, ttl: Duration | None, into: str, name: str | None
) -> Stream:
    """`GroupedStream.edges`."""
    line = user_line()
    for what, e in (("enter", enter), ("leave", leave)):
        if not isinstance(e, Expr):
            raise fault(
                "bad_argument",
                f"`{what}` is {e!r}",
                operation="edges",
                line=line,
                hint=f'write a condition: `{what}=col("n") > 5`',
            )
        stream._compile("edges", e, line, boolean=f"`{what}`")
    inside = col(f"{_STATE}inside")
    leaves, enters = inside & leave.fill_null(False), ~inside & enter.fill_null(False)
    edge = (
        when(enters).then(lit("ENTER")).when(leaves).then(lit("LEAVE")).when(inside).then(lit("UPDATE")).otherwise(None)
    )
    after = when(enters).then(lit(True)).when(leaves).then(lit(False)).otherwise(inside)
    found = scan(stream, keys, _Inside, {into: edge}, {"inside": after}, ttl, name, "edges")
    return found._filter("edges", col(into).is_not_null(), "outside")
