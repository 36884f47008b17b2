"""Expressions: what is to be computed, as an immutable tree. `col("price") * 2 > 10` computes nothing.

A tree is checked against a stream's columns when it meets them (`typing_.infer`) and compiled once, by the
core. Logic is SQL's: null in, null out, except for `is_null`, `fill_null`, `coalesce` and the two that can
decide with one side (`&`, `|`); only *true* passes a filter. `int / int` is float, `x / 0` is null.

In place of names, Polars' rule holds: text given to a *function* (`coalesce("a", "b")`, `.then("a")`) names a
column, text on either side of an *operator* (`col("a") == "x"`) and in `fill_null`, `is_in`, `between`,
`.str.…` is the text itself.

Python evaluates `and`, `or`, `not`, `in`, `if` and `0 < x < 9` at once, by asking a tree whether it is true.
It cannot know, so it raises and says what to write instead (`_rewrite`).
"""

from __future__ import annotations

import ast
import inspect
import linecache
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, get_type_hints

from adstream.dsl.durations import Duration, duration_ms, format_ms, timestamp_ms
from adstream.dsl.faults import fault, user_frame
from adstream.dsl.typing_ import PRECISION_MAX, resolve
from adstream.errors import TopologyError

Scalar = bool | int | float | str | Decimal | datetime | timedelta | None
Row = dict[str, Any]

str_ = str  # inside Expr, `str` is the namespace

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1

# How tightly things bind, as in Python: comparisons least.
_COMPARE, _OR, _AND, _ADD, _MUL, _UNARY, _ATOM = range(1, 8)
_INFIX = {
    "eq": ("==", _COMPARE),
    "ne": ("!=", _COMPARE),
    "lt": ("<", _COMPARE),
    "le": ("<=", _COMPARE),
    "gt": (">", _COMPARE),
    "ge": (">=", _COMPARE),
    "or": ("|", _OR),
    "and": ("&", _AND),
    "add": ("+", _ADD),
    "sub": ("-", _ADD),
    "mul": ("*", _MUL),
    "div": ("/", _MUL),
    "floordiv": ("//", _MUL),
    "mod": ("%", _MUL),
}
_META = {
    "$timestamp": "timestamp()",
    "$offset": "offset()",
    "$partition": "partition()",
    "$window_start": "window_start()",
    "$window_end": "window_end()",
}
_METHODS = {
    "is_null": "is_null",
    "is_not_null": "is_not_null",
    "floor": "floor",
    "ceil": "ceil",
    "str_lower": "str.to_lowercase",
    "str_upper": "str.to_uppercase",
    "str_len": "str.len_chars",
    "str_bytes": "str.len_bytes",
    "str_strip": "str.strip_chars",
    "str_starts_with": "str.starts_with",
    "str_ends_with": "str.ends_with",
    "str_contains": "str.contains",
    "str_replace": "str.replace_all",
    "dt_year": "dt.year",
    "dt_month": "dt.month",
    "dt_day": "dt.day",
    "dt_hour": "dt.hour",
    "dt_minute": "dt.minute",
    "dt_second": "dt.second",
    "dt_millisecond": "dt.millisecond",
    "dt_weekday": "dt.weekday",
    "dt_epoch_ms": "dt.epoch_ms",
    "fill_null": "fill_null",
}
_FUNCTIONS = {
    "coalesce": "coalesce",
    "min_horizontal": "min_horizontal",
    "max_horizontal": "max_horizontal",
    "str_concat": "concat_str",
}


@dataclass(frozen=True, slots=True)
class Descending:
    """An expression as something is ordered by it, the largest first. Made by `Expr.desc`."""

    expr: Expr


class CallRow:
    """A callable that takes a row as a dict, made to take the values of its columns.

    Every callable of a plan is called with positional values, one per argument of its `call` node.
    """

    __slots__ = ("columns", "fn")

    def __init__(self, fn: Callable[[Row], Any], columns: tuple[str, ...]) -> None:
        self.fn = fn
        self.columns = columns

    def __call__(self, *values: Any) -> Any:
        return self.fn(dict(zip(self.columns, values, strict=True)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CallRow) and self.fn is other.fn and self.columns == other.columns

    def __hash__(self) -> int:
        return hash((id(self.fn), self.columns))

    def __repr__(self) -> str:
        return f"CallRow({callable_name(self.fn)})"


def callable_name(fn: object) -> str:
    """A callable's name, for messages and `describe()`."""
    return str(getattr(fn, "__qualname__", None) or type(fn).__name__).rsplit("<locals>.", 1)[-1]


def is_async(function: object) -> bool:
    """Whether what it returns is to be awaited."""
    if not callable(function):
        return False
    called = (function, type(function).__call__)
    return any(inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in called)


WAITING = 'write `.map_async(function, schema=…, timeout="1s")`: rows as dicts, many at once'
"""What to do with a function that waits, on rows."""


def refuse_async(function: object, operation: str, line: str | None = None, hint: str = WAITING) -> None:
    """For what awaits nothing: a coroutine is no answer, and is true. Raises TopologyError: `bad_argument`."""
    if is_async(function):
        raise fault(
            "bad_argument",
            f"an async function: `{callable_name(function)}`, and nothing awaits it here",
            operation=operation,
            line=line,
            hint=hint,
        )


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Expr:
    """One node of a tree; see `col`, `lit`, `when`. Operators and methods make larger trees of it."""

    op: str
    args: tuple[Expr, ...] = ()
    name: str_ | None = None
    dtype: str_ | None = None
    value: Any = None
    digits: int | None = None
    every_ms: int | None = None
    offset: int | None = None
    length: int | None = None
    function: Callable[..., Any] | None = None
    """Of a `call`: the callable. Without `args` it takes the whole row as a dict."""
    output: str_ | None = None
    """The name given by `alias`."""

    # --- operators --------------------------------------------------------------------------------

    def __add__(self, other: Expr | Scalar) -> Expr:
        return _add(self, other)

    def __radd__(self, other: Expr | Scalar) -> Expr:
        return _add(other, self)

    def __sub__(self, other: Expr | Scalar) -> Expr:
        return _binary("sub", self, other)

    def __rsub__(self, other: Expr | Scalar) -> Expr:
        return _binary("sub", other, self)

    def __mul__(self, other: Expr | Scalar) -> Expr:
        return _binary("mul", self, other)

    def __rmul__(self, other: Expr | Scalar) -> Expr:
        return _binary("mul", other, self)

    def __truediv__(self, other: Expr | Scalar) -> Expr:
        return _binary("div", self, other)

    def __rtruediv__(self, other: Expr | Scalar) -> Expr:
        return _binary("div", other, self)

    def __floordiv__(self, other: Expr | Scalar) -> Expr:
        return _binary("floordiv", self, other)

    def __rfloordiv__(self, other: Expr | Scalar) -> Expr:
        return _binary("floordiv", other, self)

    def __mod__(self, other: Expr | Scalar) -> Expr:
        return _binary("mod", self, other)

    def __rmod__(self, other: Expr | Scalar) -> Expr:
        return _binary("mod", other, self)

    def __neg__(self) -> Expr:
        return Expr("neg", (self,))

    def __abs__(self) -> Expr:
        return Expr("abs", (self,))

    def abs(self) -> Expr:
        """Without its sign; null stays null."""
        return Expr("abs", (self,))

    def __eq__(self, other: Expr | Scalar) -> Expr:  # type: ignore[override]
        if other is None:
            raise _null_comparison(self, "==", "is_null")
        return _binary("eq", self, other)

    def __ne__(self, other: Expr | Scalar) -> Expr:  # type: ignore[override]
        if other is None:
            raise _null_comparison(self, "!=", "is_not_null")
        return _binary("ne", self, other)

    __hash__ = None  # type: ignore[assignment]  # `==` builds a tree, so a tree can be in no set

    def __lt__(self, other: Expr | Scalar) -> Expr:
        return _binary("lt", self, other)

    def __le__(self, other: Expr | Scalar) -> Expr:
        return _binary("le", self, other)

    def __gt__(self, other: Expr | Scalar) -> Expr:
        return _binary("gt", self, other)

    def __ge__(self, other: Expr | Scalar) -> Expr:
        return _binary("ge", self, other)

    def __and__(self, other: Expr | Scalar) -> Expr:
        return joined("and", self, other)

    def __rand__(self, other: Expr | Scalar) -> Expr:
        return joined("and", other, self)

    def __or__(self, other: Expr | Scalar) -> Expr:
        return joined("or", self, other)

    def __ror__(self, other: Expr | Scalar) -> Expr:
        return joined("or", other, self)

    def __invert__(self) -> Expr:
        return Expr("not", (self,))

    # --- what Python would evaluate at once -------------------------------------------------------

    def __bool__(self) -> bool:
        raise fault(
            "expression_as_bool",
            f"an expression has no truth value before it meets rows: `{self!r}`",
            operation="bool",
            hint=_rewrite() or "write `&`, `|`, `~`, `.is_in([…])`, `.between(lo, hi)` or `when(…)`",
        )

    def __contains__(self, item: object) -> bool:
        raise fault(
            "expression_as_bool",
            f"`in` cannot look into an expression: `{self!r}`",
            operation="in",
            hint="write `.str.contains(…)` for a part of a text, `.is_in([…])` for one of several values",
        )

    def __iter__(self) -> Iterator[Any]:
        raise fault(
            "expression_as_bool",
            f"an expression cannot be iterated: `{self!r}`",
            operation="iter",
            hint="write one expression per value",
        )

    # --- methods ----------------------------------------------------------------------------------

    def desc(self) -> Descending:
        """Downwards, where something is ordered by it: `ads.first("name", order_by=col("price").desc())`."""
        return Descending(self)

    def is_null(self) -> Expr:
        """True where there is no value; never null itself."""
        return Expr("is_null", (self,))

    def is_not_null(self) -> Expr:
        """True where there is a value; never null itself."""
        return Expr("is_not_null", (self,))

    def is_in(self, values: Iterable[Scalar]) -> Expr:
        """True where the value is one of `values`; null stays null."""
        if isinstance(values, str | Expr):
            raise fault(
                "bad_argument",
                f"`is_in` needs a list of values: {values!r}",
                operation="is_in",
                hint="write `.is_in([…])`",
            )
        items = list(values)
        if any(v is None for v in items):
            raise fault(
                "null_comparison",
                "nothing equals null, so null in `is_in` never matches",
                operation="is_in",
                hint="add `| ….is_null()`",
            )
        if any(isinstance(v, Expr) for v in items):
            raise fault(
                "bad_argument",
                "`is_in` takes values, not expressions",
                operation="is_in",
                hint="write `(a == b) | (a == c)` instead",
            )
        return Expr("is_in", (self, *(lit(v) for v in items)))

    def fill_null(self, value: Expr | Scalar) -> Expr:
        """`value` where there is none."""
        return Expr("fill_null", (self, _operand(value)))

    def between(self, lo: Expr | Scalar, hi: Expr | Scalar, closed: str_ = "both") -> Expr:
        """True from `lo` to `hi`; `closed` says which ends belong: `both`, `left`, `right`, `none`."""
        if closed not in ("both", "left", "right", "none"):
            raise fault(
                "bad_argument",
                f"`closed` is {closed!r}",
                operation="between",
                hint="write both, left, right or none",
            )
        low = _binary("ge" if closed in ("both", "left") else "gt", self, lo)
        high = _binary("le" if closed in ("both", "right") else "lt", self, hi)
        return joined("and", low, high)

    def cast(self, dtype: object) -> Expr:
        """As another type (`int`, `Annotated[Decimal, ads.decimal(10, 2)]`, `"decimal(10,2)"`).

        What cannot be said in that type sends the row to the dead letters, reason `bad_cast`; null stays
        null.
        """
        return Expr("cast", (self,), dtype=resolve(dtype, "cast", operation="cast").type)

    def round(self, decimals: int = 0) -> Expr:
        """To `decimals` digits after the point, half to even (floats by their shortest text)."""
        return Expr("round", (self,), digits=decimals)

    def floor(self) -> Expr:
        """The largest whole number that is not larger."""
        return Expr("floor", (self,))

    def ceil(self) -> Expr:
        """The smallest whole number that is not smaller."""
        return Expr("ceil", (self,))

    def alias(self, name: str_) -> Expr:
        """The same under a name, for `select`."""
        return replace(self, output=name)

    @property
    def str(self) -> StrNamespace:
        """What can be done with text."""
        return StrNamespace(self)

    @property
    def dt(self) -> DtNamespace:
        """What can be done with times, in UTC."""
        return DtNamespace(self)

    # --- looking at it ----------------------------------------------------------------------------

    def walk(self) -> Iterator[Expr]:
        """Every node, this one first."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.args)

    def output_name(self) -> str_ | None:
        """The name it has without being given one: its alias, or its column's."""
        return self.output or (self.name if self.op == "col" else None)

    def __repr__(self) -> str_:
        text = _show(self)[0]
        return f'{_wrap(self, _ATOM)}.alias("{self.output}")' if self.output else text


def _show(e: Expr) -> tuple[str, int]:
    """An expression's text, and how tightly it binds."""
    if type(e) is not Expr:
        return repr(e), _ATOM  # an aggregate
    a = e.args
    if e.op in _INFIX and len(a) == 2:
        sign, level = _INFIX[e.op]
        left = _wrap(a[0], level + 1 if level == _COMPARE else level)
        return f"{left} {sign} {_wrap(a[1], level if _is(e.op, a[1]) and level in (_OR, _AND) else level + 1)}", level
    match e.op:
        case "col":
            return _META.get(e.name or "") or f'col("{e.name}")', _ATOM
        case "now":
            return "now()", _ATOM
        case "lit":
            return _show_literal(e)
        case "neg":
            return f"-{_wrap(a[0], _UNARY)}", _UNARY
        case "not":
            return f"~{_wrap(a[0], _UNARY)}", _UNARY
        case "abs":
            return f"{_wrap(a[0], _ATOM)}.abs()", _ATOM
        case "round":
            return f"{_wrap(a[0], _ATOM)}.round({e.digits})", _ATOM
        case "is_in":
            return f"{_wrap(a[0], _ATOM)}.is_in([{', '.join(_bare(v) for v in a[1:])}])", _ATOM
        case "cast":
            return f'{_wrap(a[0], _ATOM)}.cast("{e.dtype}")', _ATOM
        case "str_slice":
            length = "" if e.length is None else f", {e.length}"
            return f"{_wrap(a[0], _ATOM)}.str.slice({e.offset}{length})", _ATOM
        case "dt_truncate":
            return f'{_wrap(a[0], _ATOM)}.dt.truncate("{format_ms(e.every_ms or 0)}")', _ATOM
        case "when":
            pairs = zip(a[:-1:2], a[1:-1:2], strict=True)
            text = ".".join(f"when({_bare(c)}).then({_named(v)})" for c, v in pairs)
            return f"{text}.otherwise({_named(a[-1])})", _ATOM
        case "call":
            assert e.function is not None
            columns = f", columns=[{', '.join(_literal_text(c.name) for c in a)}]" if a else ""
            return f'udf({callable_name(e.function)}, type="{e.dtype}"{columns})', _ATOM
        case op if op in _METHODS:
            return f"{_wrap(a[0], _ATOM)}.{_METHODS[op]}({', '.join(_bare(v) for v in a[1:])})", _ATOM
        case op if op in _FUNCTIONS:
            return f"{_FUNCTIONS[op]}({', '.join(_named(v) for v in a)})", _ATOM
    return f"{e.op}({', '.join(map(repr, a))})", _ATOM


def _wrap(e: Expr, level: int) -> str:
    if e.op == "lit" and level < _ATOM:
        return _bare(e)
    text, binds = _show(e)
    return text if binds >= level else f"({text})"


def _bare(e: Expr) -> str:
    """As an operand of an operator, where a literal needs no `lit`."""
    return _literal_text(e.value) if e.op == "lit" and e.value is not None else repr(e)


def _literal_text(value: object) -> str:
    plain = isinstance(value, str) and value.isprintable() and not {'"', "\\"} & set(value)
    return f'"{value}"' if plain else repr(value)


def _named(e: Expr) -> str:
    """As an argument of a function, where text would name a column."""
    return repr(e) if e.op == "lit" and isinstance(e.value, str) else _bare(e)


def _show_literal(e: Expr) -> tuple[str, int]:
    if e.value is None:
        return (f'lit(None, type="{e.dtype}")' if e.dtype else "lit(None)"), _ATOM
    return f"lit({_literal_text(e.value)})", _ATOM


# --- building -------------------------------------------------------------------------------------


def _operand(value: Expr | Scalar) -> Expr:
    return value if isinstance(value, Expr) else lit(value)


def _binary(op: str, left: Expr | Scalar, right: Expr | Scalar) -> Expr:
    return Expr(op, (_operand(left), _operand(right)))


def joined(op: Literal["and", "or"], left: Expr | Scalar, right: Expr | Scalar) -> Expr:
    """Both, or either. However many are joined one by one, the tree is as deep as the logarithm of their number: they are asked
    from left to right until one decides, so it does not matter where the brackets are."""
    made, waiting = _operand(left), [_operand(right)]
    while waiting:
        one = waiting.pop()
        if _is(op, one):
            waiting += reversed(one.args)
        else:
            made = _append(op, made, one)
    return made


def _is(op: str, e: Expr) -> bool:
    return e.op == op and len(e.args) == 2 and not e.output


def _append(op: str, e: Expr, last: Expr) -> Expr:
    """As digits of a binary number are carried: whole trees at the left, what is not full yet at the right."""
    if _is(op, e) and _depth(op, e.args[1]) < _depth(op, e.args[0]):
        return Expr(op, (e.args[0], _append(op, e.args[1], last)))
    return Expr(op, (e, last))


def _depth(op: str, e: Expr) -> int:
    depth = 0
    while _is(op, e):
        depth, e = depth + 1, e.args[0]
    return depth


def _add(left: Expr | Scalar, right: Expr | Scalar) -> Expr:
    """`+`; with a text literal on one side it joins texts."""
    if isinstance(left, str) or isinstance(right, str):
        flat: list[Expr] = []
        for part in (_operand(left), _operand(right)):
            flat += part.args if part.op == "str_concat" and not part.output else (part,)
        return Expr("str_concat", tuple(flat))
    return _binary("add", left, right)


def _null_comparison(e: Expr, sign: str, method: str) -> TopologyError:
    return fault(
        "null_comparison",
        f"`{_wrap(e, _ATOM)} {sign} None` is never true: nothing equals null",
        operation=sign,
        hint=f"write `{_wrap(e, _ATOM)}.{method}()`",
    )


def named_or_expr(value: Expr | Scalar) -> Expr:
    """Where text names a column."""
    return col(value) if isinstance(value, str) else _operand(value)


def col(name: str) -> Expr:
    """The value of a column."""
    if not isinstance(name, str) or not name:
        raise fault("bad_argument", f"a column's name is text: {name!r}", operation="col", hint='write `col("price")`')
    return Expr("col", name=name)


def lit(value: Scalar, type: object = None) -> Expr:
    """A constant.

    Args:
        value: a bool, int, float, str, Decimal, aware datetime, timedelta, or None.
        type: for None, the type that the null is to have.

    Raises:
        TopologyError: `bad_literal`, `naive_datetime`.
    """
    if value is None:
        return Expr("lit", dtype=None if type is None else resolve(type, "lit", operation="lit").type)
    dtype = _literal_type(value)
    made = Expr("lit", value=value, dtype=dtype)
    return made if type is None else made.cast(type)


def _bad_literal(value: object, why: str, hint: str) -> TopologyError:
    return fault("bad_literal", f"{value!r} {why}", operation="lit", hint=hint)


def _literal_type(value: object) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            if not _INT_MIN <= value <= _INT_MAX:
                raise _bad_literal(value, "does not fit 64 bits", "write it as a Decimal")
            return "int"
        case float():
            if not math.isfinite(value):
                raise _bad_literal(value, "is no number that a column can hold", "use null: `lit(None, type=float)`")
            return "float"
        case str():
            return "str"
        case Decimal():
            if not value.is_finite():
                raise _bad_literal(value, "is no number that a column can hold", "use null")
            _, digits, exponent = value.as_tuple()
            assert isinstance(exponent, int)
            scale = max(0, -exponent)
            if max(len(digits) + max(0, exponent), scale) > PRECISION_MAX:
                raise _bad_literal(value, f"has more than {PRECISION_MAX} digits", "round it")
            return f"decimal({PRECISION_MAX},{scale})"
        case datetime():
            timestamp_ms(value)
            return "timestamp"
        case timedelta():
            duration_ms(value, "literal", operation="lit", negative=True)
            return "duration"
    if isinstance(value, When | Then):
        missing = "then" if isinstance(value, When) else "otherwise"
        raise fault(
            "incomplete_when",
            f"`{value!r}` is not finished",
            operation="when",
            hint=f"add `.{missing}(…)`; `.otherwise(None)` leaves null",
        )
    raise _bad_literal(
        value,
        f"({value.__class__.__name__}) cannot be a constant",
        "write a bool, int, float, str, Decimal, datetime …",
    )


class Then:
    """After `when(…).then(…)`: one more `when`, or `otherwise`."""

    __slots__ = ("_args",)

    def __init__(self, args: tuple[Expr, ...]) -> None:
        self._args = args

    def when(self, condition: Expr) -> When:
        """The next condition, asked where no earlier one was true."""
        return When(condition, self._args)

    def otherwise(self, value: Expr | Scalar) -> Expr:
        """The value where no condition was true. Text names a column."""
        return Expr("when", (*self._args, named_or_expr(value)))

    def __repr__(self) -> str:
        pairs = zip(self._args[::2], self._args[1::2], strict=True)
        return ".".join(f"when({_bare(c)}).then({_named(v)})" for c, v in pairs)


class When:
    """After `when(…)`: `then`."""

    __slots__ = ("_args",)

    def __init__(self, condition: Expr, before: tuple[Expr, ...] = ()) -> None:
        self._args = (*before, _operand(condition))

    def then(self, value: Expr | Scalar) -> Then:
        """The value where the condition is true. Text names a column."""
        return Then((*self._args, named_or_expr(value)))

    def __repr__(self) -> str:
        return f"when({_bare(self._args[-1])})"


def when(condition: Expr) -> When:
    """`when(c).then(a).when(d).then(b).otherwise(z)`: the value of the first true condition."""
    return When(condition)


def coalesce(*values: Expr | Scalar) -> Expr:
    """The first that is not null. Text names a column."""
    return Expr("coalesce", _several(values, "coalesce"))


def min_horizontal(*values: Expr | Scalar) -> Expr:
    """The smallest of a row's values; nulls are left out. Text names a column."""
    return Expr("min_horizontal", _several(values, "min_horizontal"))


def max_horizontal(*values: Expr | Scalar) -> Expr:
    """The largest of a row's values; nulls are left out. Text names a column."""
    return Expr("max_horizontal", _several(values, "max_horizontal"))


def concat_str(*values: Expr | Scalar, separator: str = "") -> Expr:
    """Texts joined; null if one of them is. Text names a column, `separator` is text."""
    parts = _several(values, "concat_str")
    if separator:
        parts = tuple(p for part in parts for p in (lit(separator), part))[1:]
    return Expr("str_concat", parts)


def _several(values: tuple[Expr | Scalar, ...], operation: str) -> tuple[Expr, ...]:
    if not values:
        raise fault("bad_argument", "needs at least one value", operation=operation, hint="name a column")
    return tuple(named_or_expr(v) for v in values)


def timestamp() -> Expr:
    """The row's event time; of a table's row: the newest in it. In Kafka Streams: `record.timestamp()`."""
    return Expr("col", name="$timestamp")


def now() -> Expr:
    """The time by the application's clock. Only `.filter` knows it, and only as a timer: `ads.now() >= col("from")`, alone or
    with other conditions behind `&`, lets each row through from that moment on, and keeps it until then.

    The clock is the logged one: a commit's time is stored with it, so that a replay decides as before. It is looked at when
    a task commits. Kafka Streams has wall-clock punctuators for this.
    """
    return Expr("now")


def offset() -> Expr:
    """The offset of the record that the row came from; null after a shuffle or an aggregate."""
    return Expr("col", name="$offset")


def partition() -> Expr:
    """The partition of the record that the row came from; null after a shuffle or an aggregate."""
    return Expr("col", name="$partition")


def window_start() -> Expr:
    """The start of the row's window, inclusive. In Kafka Streams: `windowedKey.window().startTime()`."""
    return Expr("col", name="$window_start")


def window_end() -> Expr:
    """The end of the row's window, exclusive. In Kafka Streams: `windowedKey.window().endTime()`."""
    return Expr("col", name="$window_end")


def duration(
    *,
    days: Expr | int | None = None,
    hours: Expr | int | None = None,
    minutes: Expr | int | None = None,
    seconds: Expr | int | None = None,
    milliseconds: Expr | int | None = None,
) -> Expr:
    """A span of time, of numbers or columns: `ads.duration(hours=col("w"))`. A day has 24 h."""
    units = (
        (days, timedelta(days=1)),
        (hours, timedelta(hours=1)),
        (minutes, timedelta(minutes=1)),
        (seconds, timedelta(seconds=1)),
        (milliseconds, timedelta(milliseconds=1)),
    )
    fixed = timedelta()
    parts: list[Expr] = []
    for amount, unit in units:
        if isinstance(amount, Expr):
            parts.append(amount * unit)
        elif amount is not None:
            fixed += amount * unit
    if all(amount is None for amount, _ in units):
        raise fault("bad_argument", "how long?", operation="duration", hint="write `duration(hours=…)`")
    if fixed or not parts:
        parts.append(lit(fixed))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def udf(fn: Callable[..., Any], *, type: object = None, columns: Sequence[str] | None = None) -> Expr:
    """A Python function as an expression: correct, and slower than one.

    Args:
        fn: gets the values of `columns` in that order; without `columns`, the row as a dict.
        type: what it returns; by default its return annotation. It may return None.
        columns: what it reads, so that only these are decoded.

    An exception sends its row to the dead letters, reason `callable_raised`.

    Raises:
        TopologyError: `untyped_callable`.
    """
    if not callable(fn):
        raise fault("bad_argument", f"not callable: {fn!r}", operation="udf", hint="hand over a function")
    refuse_async(fn, "udf")
    if isinstance(columns, str):
        columns = (columns,)
    dtype = return_type(fn, type)
    if dtype is None:
        raise fault(
            "untyped_callable",
            f"what does `{callable_name(fn)}` return?",
            operation="udf",
            hint="annotate its return type, or write `ads.udf(fn, type=…)`",
        )
    return Expr("call", tuple(col(c) for c in columns or ()), dtype=dtype, function=fn)


def return_type(fn: Callable[..., Any], given: object = None) -> str | None:
    """What a callable says it returns, as a type's text; None if it does not say."""
    what = callable_name(fn)
    if given is not None:
        return resolve(given, what, operation="udf").type
    target = fn if inspect.isroutine(fn) or isinstance(fn, type) else type(fn).__call__
    try:
        hints = get_type_hints(target, include_extras=True)
    except (NameError, TypeError):
        return None
    return resolve(hints["return"], what, operation="udf").type if hints.get("return") not in (None, Any) else None


# --- namespaces -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StrNamespace:
    """`col("x").str`: text. Positions and lengths count characters; null stays null."""

    expr: Expr

    def to_lowercase(self) -> Expr:
        """In lower case."""
        return Expr("str_lower", (self.expr,))

    def to_uppercase(self) -> Expr:
        """In upper case."""
        return Expr("str_upper", (self.expr,))

    def len_chars(self) -> Expr:
        """How many characters."""
        return Expr("str_len", (self.expr,))

    def len_bytes(self) -> Expr:
        """How many bytes, as UTF-8."""
        return Expr("str_bytes", (self.expr,))

    def strip_chars(self) -> Expr:
        """Without white space at both ends."""
        return Expr("str_strip", (self.expr,))

    def starts_with(self, prefix: Expr | str) -> Expr:
        """Whether it begins with `prefix`."""
        return Expr("str_starts_with", (self.expr, _operand(prefix)))

    def ends_with(self, suffix: Expr | str) -> Expr:
        """Whether it ends with `suffix`."""
        return Expr("str_ends_with", (self.expr, _operand(suffix)))

    def contains(self, part: Expr | str) -> Expr:
        """Whether `part` occurs in it, taken literally (no regular expression)."""
        return Expr("str_contains", (self.expr, _operand(part)))

    def slice(self, offset: int, length: int | None = None) -> Expr:
        """`length` characters from `offset` on (all, if not said); a negative offset counts from the end."""
        return Expr("str_slice", (self.expr,), offset=offset, length=length)

    def replace_all(self, part: Expr | str, by: Expr | str) -> Expr:
        """Every occurrence of `part`, taken literally, replaced."""
        return Expr("str_replace", (self.expr, _operand(part), _operand(by)))


@dataclass(frozen=True, slots=True)
class DtNamespace:
    """`col("x").dt`: times, in UTC; null stays null."""

    expr: Expr

    def truncate(self, every: Duration) -> Expr:
        """The start of its interval `[k * every, (k + 1) * every)`, aligned to the epoch."""
        every_ms = duration_ms(every, "every", operation="truncate", zero=False)
        return Expr("dt_truncate", (self.expr,), every_ms=every_ms)

    def year(self) -> Expr:
        """The year."""
        return Expr("dt_year", (self.expr,))

    def month(self) -> Expr:
        """1 to 12."""
        return Expr("dt_month", (self.expr,))

    def day(self) -> Expr:
        """1 to 31."""
        return Expr("dt_day", (self.expr,))

    def hour(self) -> Expr:
        """0 to 23."""
        return Expr("dt_hour", (self.expr,))

    def minute(self) -> Expr:
        """0 to 59."""
        return Expr("dt_minute", (self.expr,))

    def second(self) -> Expr:
        """0 to 59."""
        return Expr("dt_second", (self.expr,))

    def millisecond(self) -> Expr:
        """0 to 999."""
        return Expr("dt_millisecond", (self.expr,))

    def weekday(self) -> Expr:
        """1 (Monday) to 7 (Sunday)."""
        return Expr("dt_weekday", (self.expr,))

    def epoch_ms(self) -> Expr:
        """Milliseconds since 1970-01-01T00:00:00Z."""
        return Expr("dt_epoch_ms", (self.expr,))


# --- to the plan ----------------------------------------------------------------------------------


DEPTH_MAX = 50
"""How deeply an expression may be nested: the core reads JSON to 128 levels, and each of these takes two."""


def to_plan(
    e: Expr, columns: Iterable[str], register: Callable[[Callable[..., Any]], int], operation: str = "expression"
) -> dict[str, Any]:
    """The tree as the core reads it (`rust/core/src/expr/mod.rs`).

    Args:
        columns: the stream's columns, all of which go to a callable that takes the row.
        register: puts a callable into the plan's table and returns its index.

    Raises:
        TopologyError: `bad_argument`: it is nested too deeply.
    """
    levels, level = 0, [e]
    while level:
        levels, level = levels + 1, [arg for one in level for arg in one.args]
        if levels > DEPTH_MAX:
            raise fault(
                "bad_argument",
                f"an expression is nested more than {DEPTH_MAX} levels deep",
                operation=operation,
                hint="compute parts of it as columns before: `.with_columns(part=…)`",
            )
    return _plan_of(e, columns, register)


def _plan_of(e: Expr, columns: Iterable[str], register: Callable[[Callable[..., Any]], int]) -> dict[str, Any]:
    node: dict[str, Any] = {"op": e.op}
    if e.op == "call":
        assert e.function is not None
        if e.args:
            function: Callable[..., Any] = e.function
            names = [str(arg.name) for arg in e.args]
        else:
            names = [c for c in columns if not c.startswith("$")]
            function = CallRow(e.function, tuple(names))
        return {
            "op": "call",
            "args": [{"op": "col", "name": name} for name in names],
            "function": register(function),
            "type": e.dtype,
        }
    if e.args:
        node["args"] = [_plan_of(arg, columns, register) for arg in e.args]
    for key, value in (
        ("name", e.name),
        ("type", e.dtype),
        ("digits", e.digits),
        ("every_ms", e.every_ms),
        ("offset", e.offset),
        ("length", e.length),
    ):
        if value is not None:
            node[key] = value
    if e.op == "lit" and e.value is not None:
        node["value"] = _literal_json(e.value)
    elif e.op == "struct":
        node["value"] = e.value
    return node


def _literal_json(value: object) -> bool | int | float | str:
    match value:
        case Decimal():
            return f"{value:f}"
        case datetime():
            return timestamp_ms(value)
        case timedelta():
            return duration_ms(value, "literal", operation="lit", negative=True)
        case bool() | int() | float() | str():
            return value
    raise AssertionError(value)


# --- the rewrite ----------------------------------------------------------------------------------


def _rewrite() -> str | None:
    """What to write instead of the user's line that asked a tree for its truth, if its source is at hand."""
    frame = user_frame()
    if frame is None:
        return None
    found = _offender(frame.f_code.co_filename, frame.f_lineno)
    match found:
        case ast.BoolOp(op=op, values=values):
            sign = "&" if isinstance(op, ast.And) else "|"
            return f"write `{f' {sign} '.join(_part(v) for v in values)}`"
        case ast.UnaryOp(operand=operand):
            return f"write `~{_part(operand)}`"
        case ast.Compare(left=left, ops=[ast.In()], comparators=[right]):
            return f"write `{ast.unparse(left)}.is_in({ast.unparse(right)})`"
        case ast.Compare(left=left, ops=[ast.NotIn()], comparators=[right]):
            return f"write `~{ast.unparse(left)}.is_in({ast.unparse(right)})`"
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            terms = [left, *comparators]
            pairs = [ast.Compare(a, [o], [b]) for a, o, b in zip(terms, ops, terms[1:], strict=False)]
            return f"write `{' & '.join(_part(p) for p in pairs)}`"
        case ast.IfExp(test=test, body=body, orelse=orelse):
            condition, yes, no = map(ast.unparse, (test, body, orelse))
            return f"write `when({condition}).then({yes}).otherwise({no})`"
        case ast.If() | ast.While():
            return "write `when(…).then(…).otherwise(…)`: rows decide, not the program that builds"
    return None


def _part(node: ast.expr) -> str:
    text = ast.unparse(node)
    plain = isinstance(node, ast.Call | ast.Name | ast.Attribute | ast.Subscript | ast.Constant)
    return text if plain else f"({text})"


def _offender(filename: str, line: int) -> ast.AST | None:
    """The smallest construct around `line` that asks for a truth value."""
    source = "".join(linecache.getlines(filename))
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    best: ast.AST | None = None
    best_size = 0
    for node in ast.walk(tree):
        asks = (
            isinstance(node, ast.BoolOp | ast.IfExp | ast.If | ast.While)
            or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))
            or (isinstance(node, ast.Compare) and (len(node.ops) > 1 or isinstance(node.ops[0], ast.In | ast.NotIn)))
        )
        if not asks or not isinstance(node, ast.expr | ast.stmt):
            continue
        span = node.test if isinstance(node, ast.If | ast.While) else node
        if not span.lineno <= line <= (span.end_lineno or span.lineno):
            continue
        size = len(ast.unparse(span))
        if best is None or size < best_size:
            best, best_size = node, size
    return best
