"""What is computed over a group: `count sum min max mean first last`, and folds of your own.

An aggregate is an expression, so aggregates compose: `ads.count(where=clicked) / ads.count()`. Such a sum of
parts is split where it meets a group (`split`): the parts become hidden aggregates `$a0`, `$a1`, …, and a
`select` after them puts them together. Equal parts are kept once.

| | nothing to go by | null values | can take values back (over a table) |
|---|---|---|---|
| `count` | 0 | counted (it counts rows) | yes |
| `sum` | 0 | left out | yes, unless of floats |
| `mean` | null | left out | yes, unless of floats |
| `min max first last` | null | left out | not yet |
| `udaf` | what `init` gives | handed over | no |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from adstream.dsl.expr import Expr, callable_name, col, named_or_expr, to_plan
from adstream.dsl.faults import fault
from adstream.dsl.typing_ import PRECISION_MAX, resolve, scale_of, widened

Register = Callable[[Callable[..., Any]], int]

RETRACTABLE = frozenset({"count", "sum", "mean"})
_MEAN_SCALE_MIN = 6


@dataclass(frozen=True, slots=True)
class Fold:
    """The functions of a `udaf`, as the plan's table of callables holds them.

    `init()` makes an accumulator; `add(acc, row)` and `merge(acc, acc)` return one; `result(acc)` is the
    value.
    """

    init: Callable[[], Any]
    add: Callable[[Any, Any], Any]
    merge: Callable[[Any, Any], Any] | None = None
    result: Callable[[Any], Any] | None = None

    def __call__(self, *_: Any) -> Any:
        raise TypeError("a fold is used by its parts: init, add, merge, result")


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Aggregate(Expr):
    """One of the functions of this module over its argument. `args` is the argument, if any."""

    fn: str = "count"
    where: Expr | None = None
    fold: Fold | None = None

    def __repr__(self) -> str:
        if self.fold is not None:
            text = f"udaf({callable_name(self.fold.init)}, {callable_name(self.fold.add)}"
        else:
            column = self.args[0].name if self.args and self.args[0].op == "col" else None
            text = f'{self.fn}("{column}"' if column else f"{self.fn}({', '.join(map(repr, self.args))}"
        if self.where is not None:
            text += f"{', ' if self.args or self.fold else ''}where={self.where!r}"
        return text + ")"

    def lower(self, columns: Iterable[str], register: Register) -> dict[str, Any]:
        """`fn`, `arg`, `where`, `function` of the plan."""
        names = list(columns)
        return {
            "fn": self.fn,
            "arg": to_plan(self.args[0], names, register) if self.args else None,
            "where": to_plan(self.where, names, register) if self.where is not None else None,
            "function": register(self.fold) if self.fold is not None else None,
        }

    def result_type(self, argument: str | None) -> str | None:
        """The type of the result, from that of the argument; None where the function does not take it."""
        if self.fold is not None:
            return self.dtype
        if self.fn == "count":
            return "int"
        if argument is None:
            return None
        scale = scale_of(argument)
        match self.fn:
            case "sum":
                if scale is not None:
                    return f"decimal({PRECISION_MAX},{scale})"
                return argument if argument in ("int", "float", "duration") else None
            case "mean":
                if scale is not None:
                    return f"decimal({PRECISION_MAX},{scale if scale > _MEAN_SCALE_MIN else _MEAN_SCALE_MIN})"
                return "duration" if argument == "duration" else "float" if argument in ("int", "float") else None
        return widened(argument)


def _make(fn: str, value: str | Expr | None, where: object) -> Aggregate:
    condition = None
    if where is not None:
        if isinstance(where, Expr):
            condition = where
        elif callable(where):
            condition = Expr("call", dtype="bool", function=where)
        else:
            raise fault(
                "bad_argument",
                f"`where` is {where!r}",
                operation=fn,
                hint='write a condition: `where=col("x") == 1`',
            )
    args: tuple[Expr, ...] = ()
    if value is not None:
        if not isinstance(value, str | Expr):
            raise fault(
                "bad_argument",
                f"what to aggregate is a column or an expression: {value!r}",
                operation=fn,
                hint=f'write `ads.{fn}("price")`',
            )
        args = (named_or_expr(value),)
    inner = [*args, *([condition] if condition is not None else [])]
    if any(isinstance(node, Aggregate) for e in inner for node in e.walk()):
        raise fault(
            "nested_aggregate",
            "an aggregate cannot contain another one",
            operation=fn,
            hint="aggregate twice: `.group_by(…).aggregate(…)` over the resulting table",
        )
    return Aggregate("aggregate", args, fn=fn, where=condition)


def count(where: Expr | Callable[[Any], bool] | None = None) -> Aggregate:
    """How many rows, of those where `where` is true. Of nothing: 0. In Kafka Streams: `count()`."""
    return _make("count", None, where)


def sum(value: str | Expr, where: Expr | Callable[[Any], bool] | None = None) -> Aggregate:
    """The sum of a column or expression; nulls are left out; of nothing: 0.

    Decimals are added exactly, with 38 digits. An overflow sends the row to the dead letters.
    """
    return _make("sum", value, where)


def min(value: str | Expr, where: Expr | Callable[[Any], bool] | None = None) -> Aggregate:
    """The smallest value; nulls are left out; of nothing: null."""
    return _make("min", value, where)


def max(value: str | Expr, where: Expr | Callable[[Any], bool] | None = None) -> Aggregate:
    """The largest value; nulls are left out; of nothing: null."""
    return _make("max", value, where)


def mean(value: str | Expr, where: Expr | Callable[[Any], bool] | None = None) -> Aggregate:
    """The mean; nulls are left out; of nothing: null.

    Of decimals: at least six digits after the point, half to even; of durations: whole milliseconds, half to even.
    """
    return _make("mean", value, where)


def first(value: str | Expr, where: Expr | Callable[[Any], bool] | None = None) -> Aggregate:
    """The value of the row with the smallest event time (of several: the first to come); nulls left out."""
    return _make("first", value, where)


def last(value: str | Expr, where: Expr | Callable[[Any], bool] | None = None) -> Aggregate:
    """The value of the row with the largest event time (of several: the last to come); nulls left out."""
    return _make("last", value, where)


def udaf(
    init: Callable[[], Any],
    add: Callable[[Any, Any], Any],
    merge: Callable[[Any, Any], Any] | None = None,
    result: Callable[[Any], Any] | None = None,
    *,
    type: object,
    where: Expr | Callable[[Any], bool] | None = None,
) -> Aggregate:
    """A fold of your own, in Python.

    Args:
        init: makes an accumulator: `init()`.
        add: takes a row in and returns the accumulator: `add(acc, row)`, the row as a dict.
        merge: joins two accumulators; not used yet (rows of such aggregates travel one by one).
        result: the value of an accumulator; by default the accumulator itself.
        type: what `result` returns.

    In Kafka Streams: `aggregate(initializer, aggregator, merger)`.
    """
    for name, fn in (("init", init), ("add", add), ("merge", merge), ("result", result)):
        if not callable(fn) and not (fn is None and name in ("merge", "result")):
            raise fault("bad_argument", f"`{name}` is {fn!r}", operation="udaf", hint="hand over a function")
    made = _make("udaf", None, where)
    dtype = resolve(type, "udaf", operation="udaf").type
    return replace(made, fn="python", dtype=dtype, fold=Fold(init, add, merge, result))


def split(named: dict[str, Expr]) -> tuple[list[tuple[str, Aggregate]], list[tuple[str, Expr]] | None]:
    """Aggregates to keep, by name, and what to select from them; None where nothing is to be put together."""
    if all(isinstance(e, Aggregate) for e in named.values()):
        return [(name, e) for name, e in named.items() if isinstance(e, Aggregate)], None
    kept: list[tuple[str, Aggregate]] = [(n, e) for n, e in named.items() if isinstance(e, Aggregate)]
    known = {_identity(e): name for name, e in kept}

    def put(e: Expr) -> Expr:
        if not isinstance(e, Aggregate):
            return replace(e, args=tuple(put(arg) for arg in e.args))
        identity = _identity(e)
        if identity not in known:
            known[identity] = f"$a{len([n for n, _ in kept if n.startswith('$')])}"
            kept.append((known[identity], e))
        return col(known[identity])

    return kept, [(name, put(e)) for name, e in named.items()]


def _identity(e: Aggregate) -> str:
    inner = [*e.args, *([e.where] if e.where is not None else [])]
    calls = [id(node.function) for part in inner for node in part.walk()]
    fold = (id(e.fold.init), id(e.fold.add), id(e.fold.merge), id(e.fold.result)) if e.fold else ()
    return f"{e!r} {e.dtype} {calls} {fold}"
