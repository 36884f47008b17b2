"""Types: from Python's to the core's text form, and the type of an expression as the core sees it.

    bool int float str datetime timedelta Literal["A", "B"]      bool int float str timestamp duration
    enum["A","B"] Annotated[Decimal, decimal(10, 2)]                           decimal(10,2)
    X | None                                                     X, nullable

This is the one place that asks the core anything (`infer`), and it asks late, so that importing adstream does
not load it.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from zoneinfo import ZoneInfo

from adstream.dsl.faults import fault
from adstream.errors import TopologyError

PRECISION_MAX = 38

_PLAIN: dict[object, str] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    datetime: "timestamp",
    timedelta: "duration",
}
_TEXT = re.compile(r"bool|int|float|str|timestamp|duration|decimal\(([0-9]+),\s*([0-9]+)\)|enum\[.*\]")
_KNOWN = "bool, int, float, str, datetime, timedelta, Literal[…] or Annotated[Decimal, ads.decimal(10, 2)]"


@dataclass(frozen=True, slots=True)
class DecimalType:
    """Digits in all and digits after the point; use with `Annotated`."""

    precision: int
    scale: int

    def __repr__(self) -> str:
        return f"decimal({self.precision}, {self.scale})"


@dataclass(frozen=True, slots=True)
class TimeFormat:
    """How a time stands in JSON; use with `Annotated`."""

    unit: str
    zone: str | None = None

    def __repr__(self) -> str:
        if self.unit == "rfc3339":
            return f'rfc3339(zone="{self.zone}")' if self.zone else "rfc3339()"
        return f'epoch("{self.unit}")'


def decimal(precision: int, scale: int) -> DecimalType:
    """Exact decimals: `Annotated[Decimal, ads.decimal(10, 2)]` has 10 digits, 2 of them after the point.

    Raises:
        TopologyError: `bad_decimal`.
    """
    if not 1 <= precision <= PRECISION_MAX or not 0 <= scale <= precision:
        raise fault(
            "bad_decimal",
            f"decimal({precision}, {scale}) does not exist",
            operation="decimal",
            hint=f"precision is 1 to {PRECISION_MAX}, scale 0 to precision",
        )
    return DecimalType(precision, scale)


def epoch(unit: str) -> TimeFormat:
    """Times that are numbers since 1970 UTC: `Annotated[datetime, ads.epoch("ms")]`; units `s`, `ms`, `us`.

    Raises:
        TopologyError: `bad_unit`.
    """
    if unit not in ("s", "ms", "us"):
        raise fault("bad_unit", f"unknown unit `{unit}`", operation="epoch", hint='write "s", "ms" or "us"')
    return TimeFormat(unit)


def rfc3339(*, zone: str | None = None) -> TimeFormat:
    """Times that are text such as `2024-01-15T10:00:00Z`; the default for `datetime`.

    Args:
        zone: where texts without an offset are at home (`Asia/Seoul`); without it they are dead letters.

    Raises:
        TopologyError: `bad_zone`.
    """
    if zone is not None:
        check_zone(zone, "rfc3339")
    return TimeFormat("rfc3339", zone)


def check_zone(zone: str, operation: str) -> None:
    """That there is such a time zone. Raises TopologyError `bad_zone`."""
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError, TypeError):  # ZoneInfoNotFoundError is a KeyError
        raise fault(
            "bad_zone",
            f"unknown time zone `{zone}`",
            operation=operation,
            hint='write one like "Asia/Seoul"',
        ) from None


def enum_text(values: tuple[object, ...]) -> str:
    return "enum" + json.dumps(list(values), ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Resolved:
    """An annotation, understood."""

    type: str
    nullable: bool = False
    time: TimeFormat | None = None
    metadata: tuple[object, ...] = ()


def resolve(annotation: object, what: str, *, operation: str | None = None) -> Resolved:
    """What an annotation says. `what` names it in messages (`AdEvent.price`).

    Raises:
        TopologyError: `unknown_type`, `decimal_without_scale`.
    """
    metadata: list[object] = []
    nullable = False
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata += more
        elif get_origin(annotation) in (Union, types.UnionType):
            options = [a for a in get_args(annotation) if a is not type(None)]
            if len(options) != 1:
                break
            annotation, nullable = options[0], True
        else:
            break

    text: str | None = None
    time: TimeFormat | None = None
    if isinstance(annotation, str):
        text = check_text(annotation, what, operation=operation)
    elif isinstance(annotation, DecimalType):
        text = f"decimal({annotation.precision},{annotation.scale})"
    elif get_origin(annotation) is Literal and all(isinstance(v, str) for v in get_args(annotation)):
        text = enum_text(get_args(annotation))
    elif annotation is Decimal:
        scales = [m for m in metadata if isinstance(m, DecimalType)]
        if not scales:
            raise fault(
                "decimal_without_scale",
                f"`{what}`: how many digits has the decimal?",
                operation=operation,
                hint="write `Annotated[Decimal, ads.decimal(10, 2)]`",
            )
        text = f"decimal({scales[-1].precision},{scales[-1].scale})"
    elif isinstance(annotation, type):
        text = _PLAIN.get(annotation)
    if text is None:
        shown = annotation.__name__ if isinstance(annotation, type) else str(annotation)
        raise fault(
            "unknown_type",
            f"`{what}` has a type that adstream does not know: {shown}",
            operation=operation,
            hint=f"write {_KNOWN}",
        )
    if text == "timestamp":
        time = next((m for m in reversed(metadata) if isinstance(m, TimeFormat)), TimeFormat("rfc3339"))
    return Resolved(text, nullable, time, tuple(metadata))


def check_text(text: str, what: str, *, operation: str | None = None) -> str:
    """A type in its text form, normalised. Raises TopologyError `unknown_type`."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise fault("unknown_type", f"`{what}`: unknown type `{text}`", operation=operation, hint=f"write {_KNOWN}")
    if match.group(1):
        made = decimal(int(match.group(1)), int(match.group(2)))
        return f"decimal({made.precision},{made.scale})"
    return text


def widened(text: str) -> str:
    """`str` for enums: what is left of them after a group or a merge of different ones."""
    return "str" if text.startswith("enum") else text


def scale_of(text: str) -> int | None:
    """The scale of a decimal type, None for all others."""
    match = _TEXT.fullmatch(text)
    return int(match.group(2)) if match and match.group(2) else None


def infer(schema: Mapping[str, str], expr: Mapping[str, Any], *, operation: str, line: str | None = None) -> str:
    """The type of an expression over columns (name -> type), as the core sees it.

    Raises:
        TopologyError: with the core's code and hint, the operation and the user's line.
    """
    from adstream import _core

    fields = [{"name": name, "type": dtype} for name, dtype in schema.items()]
    try:
        return _core.infer(json.dumps(fields), json.dumps(expr))
    except _core.CoreError as error:
        _, code, message, hint, _ = error.args
        raise TopologyError(message, code=code, operation=operation, line=line, hint=hint) from None
