"""What is computed over a group: `count sum min max mean first last`, their neighbours, and folds of your own.

An aggregate is an expression, so aggregates compose: `ads.count(where=clicked) / ads.count()`. Such a sum of
parts is split where it meets a group (`split`): the parts become hidden aggregates `$a0`, `$a1`, …, and a
`select` after them puts them together. Equal parts are kept once.

| | nothing to go by | null values | can take values back (over a table) |
|---|---|---|---|
| `count` | 0 | counted (it counts rows) | yes |
| `sum` | 0 | left out | yes, unless of floats |
| `mean` | null | left out | yes, unless of floats |
| `var std` | null | left out | yes, unless of floats |
| `min max arg_min arg_max` | null | left out | yes |
| `first last` | null | left out | with `order_by=` |
| `median quantile` | null | left out | yes |
| `count_distinct` | 0 | left out | yes |
| `approx_count_distinct` | 0 | left out | no |
| `collect_list collect_set top_k` | `[]` | left out | yes |
| `udaf` | what `init` gives | handed over | no |

What has to know single values (`count_distinct`, `collect_*`, `median`, `quantile`, and over tables `min`, `max`, `first`,
`last`, `arg_*`, `top_k`) keeps each different one with its count, sorted, as one value of the group's state: right for hundreds
and thousands of values in a group, not for millions. `approx_count_distinct` takes 4 KB at most, `top_k` over a stream k values,
`quantile(…, error=0.01)` one number for each 2 % of a value's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adstream.dsl.expr import Descending, Expr, callable_name, col, named_or_expr, refuse_async, to_plan
from adstream.dsl.faults import fault
from adstream.dsl.typing_ import PRECISION_MAX, resolve, scale_of, widened

Register = Callable[[Callable[..., Any]], int]

_COLLECTING = {"count_distinct", "collect_list", "collect_set", "top_k", "median", "quantile"}
RETRACTABLE = frozenset({"count", "sum", "mean", "var", "std", "min", "max", "arg_min", "arg_max", *_COLLECTING})
"""And `first` and `last` of an order."""
EXACT = frozenset({"sum", "mean", "var", "std"})
"""Which of them take floats back only as near as floats are."""
_MEAN_SCALE_MIN = 6
_ERROR_MIN = 1e-6
"""Smaller, and the buckets of small numbers would have no room between those of large ones and of negative ones."""


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
    order: tuple[tuple[Expr, bool], ...] = ()
    """What it is ordered by, first things first, and whether downwards."""
    parameter: float | None = None
    """`k` of `top_k`, `q` of `quantile`, `ddof` of `var` and `std`."""
    error: float | None = None
    """Of `quantile`: relative."""
    partition: tuple[Expr, ...] = ()
    """Only rows that are like this one in them; of `rolling` alone."""

    def over(self, *columns: str | Expr) -> Aggregate:
        """The same among those rows of the group that have the row's own values in these columns, null being one:
        `n=ads.count().over("kind")` counts the rows of the row's kind.

        Args:
            columns: names or expressions.

        Raises:
            TopologyError: `bad_argument` where no column is named, or what is none; where it stands outside of `rolling`, when
                the group is aggregated.

        In Polars: `Expr.over`.
        """
        if not columns:
            raise fault("bad_argument", "over what?", operation=self.fn, hint=f'write `{self!r}.over("kind")`')
        for column in columns:
            if not isinstance(column, str | Expr):
                raise fault(
                    "bad_argument",
                    f"over {column!r}, which is neither a column's name nor an expression",
                    operation=self.fn,
                    hint=f'write `{self!r}.over("kind")`',
                )
        made = tuple(map(named_or_expr, columns))
        _not_nested(self.fn, made)
        return replace(self, partition=made)

    def parts(self) -> list[Expr]:
        """The expressions that it reads."""
        where = [self.where] if self.where is not None else []
        return [*self.args, *where, *(e for e, _ in self.order), *self.partition]

    def takes_back(self) -> bool:
        """Whether it may be over a table."""
        return self.fn in RETRACTABLE or (self.fn in ("first", "last") and bool(self.order))

    def __repr__(self) -> str:
        if self.fold is not None:
            text = f"udaf({callable_name(self.fold.init)}, {callable_name(self.fold.add)}"
        else:
            column = self.args[0].name if self.args and self.args[0].op == "col" else None
            text = f'{self.fn}("{column}"' if column else f"{self.fn}({', '.join(map(repr, self.args))}"
            if self.parameter is not None and not (self.fn in ("var", "std") and self.parameter == 1):
                text += f", {self.parameter:g}"
            if self.error is not None:
                text += f", error={self.error:g}"
            if self.order:
                said = [f"{e!r}.desc()" if down else repr(e) for e, down in self.order]
                text += f", order_by=[{', '.join(said)}]"
        if self.where is not None:
            text += f"{', ' if self.args or self.fold else ''}where={self.where!r}"
        over = [f'"{e.name}"' if e.op == "col" else repr(e) for e in self.partition]
        return f"{text}).over({', '.join(over)})" if over else f"{text})"

    def lower(self, columns: Iterable[str], register: Register) -> dict[str, Any]:
        """`fn`, `arg`, `where`, `function` of the plan."""
        names = list(columns)
        return {
            "fn": self.fn,
            "arg": to_plan(self.args[0], names, register) if self.args else None,
            "where": to_plan(self.where, names, register) if self.where is not None else None,
            "function": register(self.fold) if self.fold is not None else None,
            **(
                {"by": [{"expr": to_plan(e, names, register), "descending": down} for e, down in self.order]}
                if self.order
                else {}
            ),
            **({} if self.parameter is None else {"parameter": self.parameter}),
            **({} if self.error is None else {"error": self.error}),
        }

    def result_type(self, argument: str | None) -> str | None:
        """The type of the result, from that of the argument; None where the function does not take it."""
        if self.fold is not None:
            return self.dtype
        if self.fn in ("count", "count_distinct", "approx_count_distinct"):
            return "int"
        if self.fn in ("collect_list", "collect_set", "top_k"):
            return "json"
        if argument is None:
            return None
        scale = scale_of(argument)
        match self.fn:
            case "var" | "std":
                return "float" if scale is not None or argument in ("int", "float") else None
            case "quantile" if self.error is not None:
                return "float" if scale is not None or argument in ("int", "float", "duration") else None
            case "sum":
                if scale is not None:
                    return f"decimal({PRECISION_MAX},{scale})"
                return argument if argument in ("int", "float", "duration") else None
            case "mean" | "median":
                if scale is not None:
                    return f"decimal({PRECISION_MAX},{scale if scale > _MEAN_SCALE_MIN else _MEAN_SCALE_MIN})"
                return "duration" if argument == "duration" else "float" if argument in ("int", "float") else None
        return widened(argument)


Where = Expr | Callable[[Any], bool] | None
OrderBy = str | Expr | Descending
"""A column or an expression, upwards; `.desc()` of one, downwards."""


def _order(
    fn: str, order_by: OrderBy | Sequence[OrderBy] | None, *, needed: bool = False
) -> tuple[tuple[Expr, bool], ...]:
    given = [] if order_by is None else [order_by] if isinstance(order_by, str | Expr | Descending) else list(order_by)
    made = []
    for by in given:
        if not isinstance(by, str | Expr | Descending):
            raise fault(
                "bad_argument",
                f"`order_by` is {by!r}",
                operation=fn,
                hint='write a column, an expression or `col("x").desc()`',
            )
        down = isinstance(by, Descending)
        made.append((named_or_expr(by.expr if isinstance(by, Descending) else by), down))
    if needed and not made:
        raise fault("bad_argument", "by what?", operation=fn, hint=f'write `ads.{fn}("name", "price")`')
    _not_nested(fn, [e for e, _ in made])
    return tuple(made)


def _not_nested(fn: str, inner: Iterable[Expr]) -> None:
    if any(isinstance(node, Aggregate) for e in inner for node in e.walk()):
        raise fault(
            "nested_aggregate",
            "an aggregate cannot contain another one",
            operation=fn,
            hint="aggregate twice: `.group_by(…).aggregate(…)` over the resulting table",
        )


def _make(fn: str, value: str | Expr | None, where: object) -> Aggregate:
    condition = None
    if where is not None:
        if isinstance(where, Expr):
            condition = where
        elif callable(where):
            refuse_async(where, fn)
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
    _not_nested(fn, [*args, *([condition] if condition is not None else [])])
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


def first(value: str | Expr, where: Where = None, *, order_by: OrderBy | Sequence[OrderBy] | None = None) -> Aggregate:
    """The value of the row that comes first; nulls are left out; of nothing: null.

    Args:
        order_by: columns or expressions, downwards with `.desc()`; rows where one of them is null are left out. By default
            the event time. Of several rows that are first alike, the one with the smallest event time, then the first to
            come; over a table, the one with the smallest value. Over a table it has to be given.
    """
    return replace(_make("first", value, where), order=_order("first", order_by))


def last(value: str | Expr, where: Where = None, *, order_by: OrderBy | Sequence[OrderBy] | None = None) -> Aggregate:
    """As `first`, of the row that comes last."""
    return replace(_make("last", value, where), order=_order("last", order_by))


def arg_min(value: str | Expr, by: OrderBy | Sequence[OrderBy], where: Where = None) -> Aggregate:
    """The value of the row where `by` is smallest: `first` in that order. `arg_min("product", "price")` is the cheapest one."""
    return replace(_make("arg_min", value, where), order=_order("arg_min", by, needed=True))


def arg_max(value: str | Expr, by: OrderBy | Sequence[OrderBy], where: Where = None) -> Aggregate:
    """The value of the row where `by` is largest; of several, the one with the smallest event time, then the first to come."""
    return replace(_make("arg_max", value, where), order=_order("arg_max", by, needed=True))


def var(value: str | Expr, where: Where = None, *, ddof: int = 1) -> Aggregate:
    """The variance; nulls are left out; null of `ddof` values or fewer.

    Of ints and decimals it is computed from exact sums of any size and rounded once; of floats in the order of processing
    (Welford).

    Args:
        ddof: `n - ddof` is divided by, as in Polars.
    """
    return _of_spread("var", value, where, ddof)


def std(value: str | Expr, where: Where = None, *, ddof: int = 1) -> Aggregate:
    """The standard deviation: the root of `var`."""
    return _of_spread("std", value, where, ddof)


def _of_spread(fn: str, value: str | Expr, where: Where, ddof: int) -> Aggregate:
    if not isinstance(ddof, int) or isinstance(ddof, bool) or ddof < 0:
        raise fault("bad_argument", f"`ddof` is {ddof!r}", operation=fn, hint="write 0 or 1")
    return replace(_make(fn, value, where), parameter=ddof)


def count_distinct(value: str | Expr, where: Where = None) -> Aggregate:
    """How many different values there are, exactly; nulls are left out; of nothing: 0."""
    return _make("count_distinct", value, where)


def approx_count_distinct(value: str | Expr, where: Where = None) -> Aggregate:
    """About how many different values there are: HyperLogLog with 4,096 registers, standard error 1.6 %, 4 KB at most."""
    return _make("approx_count_distinct", value, where)


def collect_list(
    value: str | Expr, where: Where = None, *, order_by: OrderBy | Sequence[OrderBy] | None = None
) -> Aggregate:
    """All values, as a JSON array (`list` in Python); nulls are left out; of nothing: `[]`.

    Args:
        order_by: as of `first`; by default the order of event time, over a table that of the values.
    """
    return replace(_make("collect_list", value, where), order=_order("collect_list", order_by))


def collect_set(value: str | Expr, where: Where = None) -> Aggregate:
    """The different values, ascending, as a JSON array; nulls are left out; of nothing: `[]`."""
    return _make("collect_set", value, where)


def top_k(
    value: str | Expr, k: int, where: Where = None, *, by: OrderBy | Sequence[OrderBy] | None = None
) -> Aggregate:
    """The k largest values, or the values of the k rows where `by` is largest, as a JSON array, the largest first.

    Of several rows that are equal in `by`, the one with the smallest event time comes first, then the first to come; over a
    table the one with the smallest value.
    """
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise fault("bad_argument", f"`k` is {k!r}", operation="top_k", hint="write a whole number from 1 on")
    return replace(_make("top_k", value, where), order=_order("top_k", by), parameter=k)


def median(value: str | Expr, where: Where = None) -> Aggregate:
    """The value in the middle, or the mean of the two (rounded as `mean` rounds); nulls are left out; of nothing: null.

    As in Polars. `quantile("x", 0.5)` gives one of the values instead; with an `error=` it keeps less.
    """
    return _make("median", value, where)


def quantile(value: str | Expr, q: float, where: Where = None, *, error: float | None = None) -> Aggregate:
    """The smallest value that a share `q` of the values does not exceed; nulls are left out; of nothing: null.

    Args:
        q: from 0 (the smallest value) to 1 (the largest).
        error: the relative error that is borne, as 0.01: then the result is a float, and what is kept does not grow with the
            number of values (DDSketch, Masson and others 2019: buckets of `(1 + error) / (1 - error)`). By default the
            result is one of the values.
    """
    if isinstance(q, bool) or not isinstance(q, int | float) or not 0 <= q <= 1:
        raise fault("bad_argument", f"`q` is {q!r}", operation="quantile", hint="write a share from 0 to 1, as 0.95")
    if error is not None and (not isinstance(error, float) or not _ERROR_MIN <= error < 1):
        raise fault(
            "bad_argument",
            f"`error` is {error!r}",
            operation="quantile",
            hint=f"write a share from {_ERROR_MIN} on, as 0.01; without it the result is one of the values",
        )
    return replace(_make("quantile", value, where), parameter=q, error=error)


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
        refuse_async(fn, "udaf")
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
    calls = [id(node.function) for part in e.parts() for node in part.walk()]
    fold = (id(e.fold.init), id(e.fold.add), id(e.fold.merge), id(e.fold.result)) if e.fold else ()
    return f"{e!r} {e.dtype} {calls} {fold}"
