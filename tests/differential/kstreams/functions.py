"""The library of user functions, by name: `["append", "x"]`, `["then", f, g]`. The same as java/Functions.java.

Values are None, str, int (of 64 bits: they wrap as Java's), float, bytes, list, and keys with `key`, `start` and `end`
(of a window). A function of a case is made once and then called with (key, value), or with (key, left, right) for
joiners; aggregators are called with (key, value, aggregate), reducers with (None, value, aggregate).
"""

import json
from collections.abc import Callable
from typing import Any

Value = Any
Fn = Callable[[Value, Value], Value]
Fn2 = Callable[[Value, Value, Value], Value]
Json = Any


class AskedToFail(Exception):
    """What `fail_if` and `fail_when` raise."""


def is_windowed(value: Value) -> bool:
    return hasattr(value, "key") and hasattr(value, "start") and hasattr(value, "end")


def plain(value: Value) -> Json:
    """As results of cases have it."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, list):
        return [plain(element) for element in value]
    if is_windowed(value):
        return {"w": [plain(value.key), value.start, value.end]}
    return value


def text(value: Value) -> str:
    """A value as user functions see it as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if is_windowed(value):
        return f"{text(value.key)}@{value.start}/{value.end}"
    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))


def long(value: int) -> int:
    """To 64 bits, as Java's arithmetic wraps."""
    return (value + 2**63) % 2**64 - 2**63


def is_long(value: Value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: Value) -> int:
    return 0 if value is None else value


def holds(f: Fn, key: Value, value: Value) -> bool:
    return f(key, value) is True


def fn(asked: Json) -> Fn:
    match asked:
        # --- predicates
        case ["always"]:
            return lambda k, v: True
        case ["never"]:
            return lambda k, v: False
        case ["value_gt", bound]:
            return lambda k, v: is_long(v) and v > bound
        case ["value_even"]:
            return lambda k, v: is_long(v) and v % 2 == 0
        case ["value_contains", part]:
            return lambda k, v: v is not None and part in text(v)
        case ["longer", bound]:
            return lambda k, v: len(text(v)) > bound
        case ["key_in", keys]:
            return lambda k, v: k is not None and text(k) in keys
        case ["key_is_null"]:
            return lambda k, v: k is None
        case ["value_is_null"]:
            return lambda k, v: v is None
        case ["not", f]:
            return _not(fn(f))
        # --- mappers
        case ["value"]:
            return lambda k, v: v
        case ["key"]:
            return lambda k, v: k
        case ["const", value]:
            return lambda k, v: value
        case ["text"]:
            return lambda k, v: text(v)
        case ["append", more]:
            return lambda k, v: text(v) + more
        case ["prepend", more]:
            return lambda k, v: more + text(v)
        case ["append_key"]:
            return lambda k, v: text(v) + "/" + text(k)
        case ["first", count]:
            return lambda k, v: None if v is None else text(v)[:count]
        case ["part", separator, at]:
            return lambda k, v: None if v is None else _item(text(v).split(separator), at)
        case ["length"]:
            return lambda k, v: None if v is None else len(text(v))
        case ["add", more]:
            return lambda k, v: long(v + more) if is_long(v) else None
        case ["mul", factor]:
            return lambda k, v: long(v * factor) if is_long(v) else None
        case ["mod", modulus]:
            return lambda k, v: v % modulus if is_long(v) else None
        case ["pair"]:
            return lambda k, v: [_element(k), _element(v)]
        case ["item", at]:
            return lambda k, v: _item(v, at) if isinstance(v, list) else None
        case ["window_key"]:
            return lambda k, v: k.key if is_windowed(k) else None
        case ["window_start"]:
            return lambda k, v: k.start if is_windowed(k) else None
        # --- made of others
        case ["then", f, g]:
            return _then(fn(f), fn(g))
        case ["of_key", f]:
            return _of_key(fn(f))
        case ["if", condition, f, g]:
            return _if(fn(condition), fn(f), fn(g))
        case ["null_if", condition, f]:
            return _if(fn(condition), lambda k, v: None, fn(f))
        case ["fail_if", condition, f]:
            return _if(fn(condition), _fail, fn(f))
        # --- pairs and lists
        case ["kv", key, value]:
            return _both(fn(key), fn(value))
        case ["both", f, g]:
            return _both(fn(f), fn(g))
        case ["split", separator]:
            return lambda k, v: [] if v is None else text(v).split(separator)
        case ["repeat", times, f]:
            return _repeat(times, fn(f))
        case ["none"]:
            return lambda k, v: []
        case ["each", f, pair]:
            return _each(fn(f), fn(pair))
    raise ValueError(f"no function: {asked}")


def fn2(asked: Json) -> Fn2:
    match asked:
        case ["left"]:
            return lambda k, a, b: a
        case ["right"]:
            return lambda k, a, b: b
        case ["join", separator]:
            return lambda k, a, b: text(a) + separator + text(b)
        case ["join_key"]:
            return lambda k, a, b: f"{text(k)}:{text(a)}+{text(b)}"
        case ["back", separator]:  # the aggregate comes second: what was there, then what came
            return lambda k, a, b: text(b) + separator + text(a)
        case ["back_key"]:
            return lambda k, a, b: f"{text(b)},{text(k)}={text(a)}"
        case ["sum"]:
            return lambda k, a, b: long(number(a) + number(b))
        case ["minus"]:
            return lambda k, a, b: long(number(b) - number(a))
        case ["plus", more]:
            return lambda k, a, b: long(number(b) + more)
        case ["max"]:
            return lambda k, a, b: max(number(a), number(b))
        case ["lists"]:
            return lambda k, a, b: [_element(a), _element(b)]
        case ["null_when", condition, f]:
            return _when(fn(condition), lambda k, a, b: None, fn2(f))
        case ["fail_when", condition, f]:
            return _when(fn(condition), lambda k, a, b: _fail(k, a), fn2(f))
        case ["shorten", bound, f]:
            return _shorten(bound, fn2(f))
    raise ValueError(f"no function: {asked}")


def _element(value: Value) -> Value:
    """Of a list that becomes JSON: what has no form there is text."""
    return text(value) if is_windowed(value) or isinstance(value, bytes) else value


def _item(values: list[Value], at: int) -> Value:
    return values[at] if at < len(values) else None


def _fail(key: Value, value: Value) -> Value:
    raise AskedToFail("asked to fail")


def _not(f: Fn) -> Fn:
    return lambda k, v: not holds(f, k, v)


def _then(f: Fn, g: Fn) -> Fn:
    return lambda k, v: g(k, f(k, v))


def _of_key(f: Fn) -> Fn:
    return lambda k, v: f(k, k)


def _if(condition: Fn, f: Fn, g: Fn) -> Fn:
    return lambda k, v: f(k, v) if holds(condition, k, v) else g(k, v)


def _both(f: Fn, g: Fn) -> Fn:
    return lambda k, v: [f(k, v), g(k, v)]


def _repeat(times: int, f: Fn) -> Fn:
    return lambda k, v: [f(k, v) for _ in range(times)]


def _each(f: Fn, pair: Fn) -> Fn:
    return lambda k, v: [pair(k, one) for one in f(k, v)]


def _when(condition: Fn, f: Fn2, g: Fn2) -> Fn2:
    return lambda k, a, b: f(k, a, b) if holds(condition, k, a) else g(k, a, b)


def _shorten(bound: int, f: Fn2) -> Fn2:
    return lambda k, a, b: text(f(k, a, b))[-bound:]
