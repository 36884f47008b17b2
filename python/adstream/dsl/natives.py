"""Functions that need no Python at run time: expressions, aggregates and joins of dicts, wherever records take a function.

    stream.filter(col("price") > 10)                            a condition over the value, a dict
    stream.map_values(ads.struct(user=ads.key(), cents=col("price") * 100))
    stream.group_by_key().aggregate(orders=ads.count(), total=ads.sum("price"))
    stream.join(table, ads.joined(prefix="user_"))
    table.group_by(ads.pair(col("shop"), ads.value())).aggregate(total=ads.sum("price"))

In an expression over records `col("x")` is a field of the value, `ads.key()` the key, `ads.value()` the whole value,
`ads.other("x")` a field of the second value (of a joiner: the right side). Types are known only when a value comes: what
an operator does not take is a dead letter (`bad_type`). `rust/core/src/flow/native.rs` runs them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from adstream.dsl.aggregates import Aggregate
from adstream.dsl.expr import Expr, to_plan
from adstream.dsl.faults import fault

FOLDED = ("count", "sum", "min", "max", "first", "last")
TAKEN_BACK = ("count", "sum")


class Native:
    """A function in the form in which the core runs it."""

    __slots__ = ("__adstream_native__", "about")

    def __init__(self, said: Mapping[str, Any], about: str) -> None:
        self.__adstream_native__ = json.dumps(said, ensure_ascii=False)
        self.about = about

    def __call__(self, *_: Any) -> Any:
        raise TypeError("this function is run by the core")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Native) and self.__adstream_native__ == other.__adstream_native__

    def __hash__(self) -> int:
        return hash(self.__adstream_native__)

    def __repr__(self) -> str:
        return self.about


def key() -> Expr:
    """The record's key."""
    return Expr("col", name="$key")


def value() -> Expr:
    """The record's value, whole: for values that are no dicts."""
    return Expr("col", name="$value")


def other(field: str | None = None) -> Expr:
    """The second value that a function is called with (of a joiner: the right side), or a field of it."""
    return Expr("col", name="$other" if field is None else f"$other.{field}")


def struct(**fields: Expr | str | int | float | bool | None) -> Expr:
    """A dict of these fields, each an expression, a constant, or text that names a column."""
    from adstream.dsl.expr import lit, named_or_expr

    made = tuple(named_or_expr(f) if isinstance(f, str | Expr) else lit(f) for f in fields.values())
    return Expr("struct", args=made, value=list(fields))


def pair(key: Expr | str, value: Expr | str) -> Expr:
    """A (key, value), for `map` and for `group_by` of a table; text names a column."""
    from adstream.dsl.expr import named_or_expr

    return Expr("tuple", args=(named_or_expr(key), named_or_expr(value)))


def joined(*, prefix: str = "") -> Native:
    """A joiner: the fields of the left side and, under a prefix, those of the right one. Of fields with one name the left
    one is found first."""
    return Native({"join": {"prefix": prefix}}, f'joined(prefix="{prefix}")')


def expression(e: Expr, operation: str) -> Native:
    """An expression as a function of (key, value) or (key, value, other).

    Raises:
        TopologyError: `aggregate_without_group`, `not_native`, `not_a_timer`.
    """
    _no_timer(e, operation)
    for node in e.walk():
        if isinstance(node, Aggregate):
            raise fault(
                "aggregate_without_group",
                f"`{node!r}` needs a group",
                operation=operation,
                hint="write `.group_by_key().aggregate(name=…)`",
            )
        if node.op == "call":
            raise fault(
                "not_native",
                f"`{node!r}` calls Python: an expression over records cannot",
                operation=operation,
                hint="write the whole as a function of (key, value)",
            )
    return Native({"expr": to_plan(e, (), _no_function)}, repr(e))


def fold(aggregates: Mapping[str, Expr], step: str, operation: str) -> Native:
    """One function of an aggregation: `initial()`, `add(key, value, aggregate)`, `subtract` alike, `merge(key, one,
    other)`.

    Raises:
        TopologyError: `not_an_aggregate`, `not_retractable`, `not_a_timer`.
    """
    said = []
    for name, e in aggregates.items():
        if not isinstance(e, Aggregate) or e.fn not in FOLDED or e.order:
            raise fault(
                "not_an_aggregate",
                f"`{name}` is {e!r}; records are folded by {', '.join(FOLDED)}",
                operation=operation,
                hint=f'write `{name}=ads.sum("…")`, and compute with the results afterwards',
            )
        if step == "subtract" and e.fn not in TAKEN_BACK:
            raise fault(
                "not_retractable",
                f"`{name}`: `{e.fn}` over a table cannot take back the old value of a row that changes",
                operation=operation,
                hint="use count or sum, or functions of your own",
            )
        for part in e.parts():
            _no_timer(part, operation)
        parts = e.lower((), partial(_no_function, operation=operation))
        said.append({"name": name, **{what: parts[what] for what in ("fn", "arg", "where")}})
    about = ", ".join(f"{name}={e!r}" for name, e in aggregates.items())
    return Native({"fold": step, "aggregates": said}, f"{step} {about}")


def _no_timer(e: Expr, operation: str) -> None:
    if any(node.op == "now" for node in e.walk()):
        raise fault(
            "not_a_timer",
            f"`{e!r}`: `now()` says from when on a row passes, and these are records of a key and a value",
            operation=operation,
            hint="write `.rows(…).filter(ads.now() >= col(…))`; or a processor with a punctuator by the wall clock",
        )


def _no_function(fn: Callable[..., Any], operation: str = "Pattern") -> int:
    raise fault(
        "not_native", f"`{fn!r}` is Python", operation=operation, hint="write the whole as a function of (key, value)"
    )
