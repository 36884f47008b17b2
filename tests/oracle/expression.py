"""Expressions over one row: `typed(expr, types)` gives the type of the result and a function of the row.

A row is a mapping from names to values: None is null, `Bad` an error that nobody has read yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from typing import Any

from tests.oracle.text import EPOCH, as_json, scale_of

Row = Mapping[str, Any]
Eval = Callable[[Row], Any]


@dataclass(frozen=True)
class Bad:
    reason: str


@dataclass(frozen=True)
class Typed:
    type: str | None  # None: a null that has not met a neighbour
    value: Eval


METADATA = {"$timestamp": "timestamp", "$offset": "int", "$partition": "int"}
OVERFLOW, NOT_A_NUMBER, BAD_CAST, RAISED = map(Bad, ("overflow", "not_a_number", "bad_cast", "callable_raised"))


def is_decimal(dtype: str | None) -> bool:
    return dtype is not None and dtype.startswith("decimal")


def widened(dtype: str) -> str:
    return "str" if dtype.startswith("enum") else dtype


def scale(dtype: str) -> int:
    return 0 if dtype == "int" else scale_of(dtype)


def decimal(unscaled: int, places: int, digits: int = 38) -> Any:
    return OVERFLOW if abs(unscaled) >= 10**digits else Decimal((unscaled < 0, digits_of(unscaled), -places))


def digits_of(n: int) -> tuple[int, ...]:
    return tuple(map(int, str(abs(n))))


def typed(e: Mapping[str, Any], types: Mapping[str, str], callables: Sequence[Callable[..., Any]] = ()) -> Typed:
    op = e["op"]
    if op == "col":
        name = e["name"]
        return Typed(types.get(name) or METADATA[name], lambda row: row[name])
    if op == "lit":
        return literal(e)
    args = [typed(a, types, callables) for a in e.get("args", [])]
    if op == "call":
        return call(callables[e["function"]], args, e["type"])
    if op in ("and", "or"):
        return junction(args, decisive=op == "or")
    if op == "when":
        return when(args)
    if op in ("fill_null", "coalesce"):
        return coalesce(args)
    if op in ("is_null", "is_not_null"):
        return strict(args, "bool", lambda v: (v is None) == (op == "is_null"), nulls=True)
    if op == "not":
        return strict(args, "bool", lambda v: not v)
    if op in ("add", "sub", "mul", "div", "floordiv", "mod"):
        return arithmetic(op, *args)
    if op in ("eq", "ne", "lt", "le", "gt", "ge"):
        return strict(args, "bool", COMPARE[op])
    if op in ("min_horizontal", "max_horizontal"):
        dtype = common(args)
        best = min if op.startswith("min") else max
        return strict([convert(a, dtype) for a in args], dtype, lambda *vs: least_or_most(best, vs), nulls=True)
    if op == "is_in":
        listed = [a.value({}) for a in args[1:]]
        found = [v for v in listed if v is not None]
        null = len(found) < len(listed)
        return strict(args[:1], "bool", lambda v: True if v in found else None if null else False)
    if op == "cast":
        return cast(args[0], e["type"])
    if op in ("neg", "abs", "floor", "ceil", "round"):
        return unary(op, args[0], e.get("digits") or 0)
    if op.startswith("str_"):
        return texts(op, args, e)
    raise NotImplementedError(op)


def least_or_most(best: Callable[..., Any], values: Sequence[Any]) -> Any:
    there = [v for v in values if v is not None]
    return best(there) if there else None


def literal(e: Mapping[str, Any]) -> Typed:
    value, dtype = e.get("value"), e.get("type")
    if dtype is None and value is not None:
        dtype = {bool: "bool", int: "int", float: "float", str: "str"}[type(value)]
    if value is not None and is_decimal(dtype):
        value = Decimal(str(value))
    if value is not None and dtype == "float":
        value = float(value)
    return Typed(dtype, lambda row: value)


def strict(args: Sequence[Typed], dtype: str, f: Callable[..., Any], nulls: bool = False) -> Typed:
    """The first error among the arguments, else null if there is one, else `f`."""

    def value(row: Row) -> Any:
        values = [a.value(row) for a in args]
        for v in values:
            if isinstance(v, Bad):
                return v
        if not nulls and any(v is None for v in values):
            return None
        return f(*values)

    return Typed(dtype, value)


COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


def junction(args: Sequence[Typed], decisive: bool) -> Typed:
    """From left to right, until one decides or fails."""

    def value(row: Row) -> Any:
        null = False
        for a in args:
            v = a.value(row)
            if isinstance(v, Bad) or v is decisive:
                return v
            null |= v is None
        return None if null else not decisive

    return Typed("bool", value)


def when(args: Sequence[Typed]) -> Typed:
    values = [*args[1:-1:2], args[-1]]
    dtype = common(values)
    branches = [convert(v, dtype) for v in values]

    def value(row: Row) -> Any:
        for condition, branch in zip(args[:-1:2], branches, strict=False):
            c = condition.value(row)
            if isinstance(c, Bad):
                return c
            if c is True:
                return branch.value(row)
        return branches[-1].value(row)

    return Typed(dtype, value)


def coalesce(args: Sequence[Typed]) -> Typed:
    dtype = common(args)
    parts = [convert(a, dtype) for a in args]

    def value(row: Row) -> Any:
        return next((v for v in (p.value(row) for p in parts) if v is not None), None)

    return Typed(dtype, value)


def common(args: Sequence[Typed]) -> str:
    found: str | None = None
    for t in (a.type for a in args if a.type is not None):
        if found is None or found == t:
            found = t
        elif {found, t} == {"int", "float"}:
            found = "float"
        elif is_decimal(found) or is_decimal(t):
            found = f"decimal(38,{max(scale(found), scale(t))})"
        else:
            found = "str"
    assert found is not None
    return found


def convert(a: Typed, dtype: str) -> Typed:
    """A step to the common type that loses nothing."""
    if a.type is None or a.type == dtype:
        return Typed(dtype, a.value)
    if dtype == "float":
        return strict([a], dtype, float)
    if is_decimal(dtype):
        return strict([a], dtype, lambda v: decimal(int(Decimal(v).scaleb(scale(dtype))), scale(dtype)))
    return Typed(dtype, a.value)


def integer(v: int) -> Any:
    return v if -(2**63) <= v < 2**63 else OVERFLOW


def floating(v: float) -> Any:
    return v if math.isfinite(v) else NOT_A_NUMBER


def guarded(f: Callable[[], float]) -> Any:
    try:
        return floating(f())
    except OverflowError:
        return NOT_A_NUMBER


FLOATS: dict[str, Callable[[float, float], float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
}
INTS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
}


def arithmetic(op: str, a: Typed, b: Typed) -> Typed:
    x, y = a.type or b.type or "int", b.type or a.type or "int"
    divides = op in ("div", "floordiv", "mod")
    if "float" in (x, y) or (op == "div" and x == y == "int"):

        def floats(v: Any, w: Any) -> Any:
            return None if divides and w == 0 else guarded(lambda: FLOATS[op](float(v), float(w)))

        return strict([a, b], "float", floats)
    if is_decimal(x) or is_decimal(y):
        s, t = scale(x), scale(y)
        places = {"mul": s + t, "div": max(s, t, 6), "floordiv": 0}.get(op, max(s, t))

        def decimals(v: Any, w: Any) -> Any:
            if divides and w == 0:
                return None
            p, q = Fraction(v), Fraction(w)
            match op:
                case "add" | "sub" | "mul":
                    exact = {"add": p + q, "sub": p - q, "mul": p * q}[op]
                case "div":
                    exact = p / q
                case "floordiv":
                    exact = Fraction(p // q)
                case _:
                    exact = p - q * (p // q)
            return decimal(round(exact * 10**places), places)

        return strict([a, b], f"decimal(38,{places})", decimals)
    kinds = {("timestamp", "timestamp"): "duration", ("duration", "timestamp"): "timestamp"}
    if x == y == "duration" and op == "div":
        return strict([a, b], "float", lambda v, w: None if w == 0 else v / w)
    dtype = kinds.get((x, y), "duration" if "duration" in (x, y) and op == "mul" else x)
    return strict([a, b], dtype, lambda v, w: None if divides and w == 0 else integer(INTS[op](v, w)))


def unary(op: str, a: Typed, digits: int) -> Typed:
    dtype = a.type or "int"
    if op in ("neg", "abs"):
        sign = (lambda v: -v) if op == "neg" else abs
        return strict([a], dtype, lambda v: integer(sign(v)) if isinstance(v, int) else sign(v))
    if dtype == "int":
        return a
    if dtype == "float":
        if op == "round":
            return strict([a], dtype, lambda v: round_text(v, digits))
        whole = math.floor if op == "floor" else math.ceil
        return strict([a], dtype, lambda v: float(whole(v)))
    places = scale(dtype)
    precision = dtype.removeprefix("decimal(").split(",")[0]
    if op == "round":
        if digits >= places:
            return a
        return strict([a], f"decimal({precision},{digits})", lambda v: decimal(round(Fraction(v) * 10**digits), digits))
    whole = math.floor if op == "floor" else math.ceil
    return strict([a], f"decimal({precision},0)", lambda v: decimal(whole(v), 0))


def round_text(v: float, digits: int) -> float:
    """Half to even, on the shortest text."""
    with localcontext() as context:
        context.prec = 400
        return math.copysign(float(Decimal(repr(v)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN)), v)


def cast(a: Typed, to: str) -> Typed:
    source = a.type or to
    if source == to or {source, to} <= {"int", "timestamp", "duration"}:
        return Typed(to, a.value)

    def value(v: Any) -> Any:
        if to == "str":
            if isinstance(v, bool):
                return "true" if v else "false"
            return str(as_json(v, source)) if source != "float" else repr(v)
        if to == "bool":
            return v != 0 if source == "int" else {"true": True, "false": False}.get(v, BAD_CAST)
        try:
            if to == "float":
                v = float(v)
                return v if math.isfinite(v) else BAD_CAST
            if to == "int":
                v = int(v)
                return v if -(2**63) <= v < 2**63 else BAD_CAST
            if is_decimal(to):
                places = scale(to)
                exact = Fraction(repr(v) if source == "float" else v)
                digits = int(to.removeprefix("decimal(").split(",")[0])
                made = decimal(round(exact * 10**places), places, digits)
                return BAD_CAST if isinstance(made, Bad) else made
        except (ValueError, OverflowError):
            return BAD_CAST
        raise NotImplementedError(f"cast {source} to {to}")

    return strict([a], to, value)


def texts(op: str, args: Sequence[Typed], e: Mapping[str, Any]) -> Typed:
    match op:
        case "str_lower":
            return strict(args, "str", str.lower)
        case "str_upper":
            return strict(args, "str", str.upper)
        case "str_len":
            return strict(args, "int", len)
        case "str_bytes":
            return strict(args, "int", lambda text: len(text.encode()))
        case "str_strip":
            return strict(args, "str", str.strip)
        case "str_starts_with":
            return strict(args, "bool", str.startswith)
        case "str_ends_with":
            return strict(args, "bool", str.endswith)
        case "str_contains":
            return strict(args, "bool", lambda a, b: b in a)
        case "str_replace":
            return strict(args, "str", lambda a, b, c: a.replace(b, c))
        case "str_concat":
            return strict(args, "str", lambda *vs: "".join(vs))
        case "str_slice":
            start, length = e.get("offset") or 0, e.get("length")
            return strict(args, "str", lambda v: v[start:][:length])
    raise NotImplementedError(op)


def call(f: Callable[..., Any], args: Sequence[Typed], dtype: str) -> Typed:
    def handed(v: Any, t: str | None) -> Any:
        if v is not None and t == "timestamp":
            return EPOCH + timedelta(milliseconds=v)
        return timedelta(milliseconds=v) if v is not None and t == "duration" else v

    def value(row: Row) -> Any:
        values = [a.value(row) for a in args]
        for found in values:
            if isinstance(found, Bad):
                return found
        try:
            return f(*(handed(v, a.type) for v, a in zip(values, args, strict=True)))
        except Exception:
            return RAISED

    return Typed(dtype, value)
