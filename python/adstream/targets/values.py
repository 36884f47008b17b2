"""Core types as targets see them, and the exact texts of their values: the same ones as in JSON output."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)")
_KINDS = ("bool", "int", "float", "str", "timestamp", "duration", "json")
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class CoreType:
    """`kind` is the text form without parameters; an enum is a `str` to the outside."""

    kind: str
    precision: int = 0
    scale: int = 0

    @staticmethod
    def parse(text: str) -> CoreType:
        if text in _KINDS:
            return CoreType(text)
        if match := _DECIMAL.fullmatch(text):
            return CoreType("decimal", int(match[1]), int(match[2]))
        if text.startswith("enum["):
            return CoreType("str")
        raise ValueError(f"unknown type `{text}`")


def decimal_text(scale: int) -> Callable[[Decimal], str]:
    """Always `scale` digits behind the point, never an exponent: `4800.00`."""
    pattern = f".{scale}f"
    return lambda value: format(value, pattern)


def timestamp_text(value: datetime | str) -> str:
    """RFC 3339 in UTC with milliseconds: of fixed width, so texts sort as times do. (Years that Python has no `datetime`
    for come as their text, `+020000-01-01T00:00:00.000Z`.)"""
    if isinstance(value, str):
        return value
    return value.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def json_text(value: Any) -> str:
    """Compact; what comes as text in JSON (a decimal, a time) is text already."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def milliseconds(value: timedelta | int) -> int:
    """(More days than a `timedelta` holds come as their ms.)"""
    if isinstance(value, int):
        return value
    return value // _MILLISECOND


def present(convert: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    """`convert` over a column, nulls left alone."""
    return lambda column: [None if value is None else convert(value) for value in column]
