"""Spans and points of time as the user writes them, in integer milliseconds as the core wants them.

- A duration is text or a `timedelta`: `"5m"`, `"1h30m"`, `"250ms"`, `"-24h"`. Units: `d` (24 h), `h`, `m`,
  `s`, `ms`, in falling order, each at most once. A bare number has no unit and is refused; so are months and
  years, whose length varies.
- A point of time is an aware `datetime`. A naive one is refused: it names no instant.

Nothing finer than a millisecond exists inside; what cannot be said exactly in milliseconds is refused, not
rounded.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from adstream.dsl.faults import fault

_MS = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_TEXT = re.compile(r"(-?)(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m(?!s))?(?:([0-9]+)s)?(?:([0-9]+)ms)?", re.ASCII)
_CALENDAR = re.compile(r"-?[0-9]+\s*(mo|month|months|q|quarter|y|yr|year|years)", re.ASCII)
_MS_LIMIT = 2**63

Duration = str | timedelta


def duration_ms(
    value: object, what: str, *, operation: str | None = None, negative: bool = False, zero: bool = True
) -> int:
    """The milliseconds of a duration.

    Args:
        value: text such as `"1h30m"`, or a `timedelta`.
        what: the argument's name, for messages (`grace`).
        negative: whether it may lie below zero.
        zero: whether it may be zero.

    Raises:
        TopologyError: `bad_duration`.
    """
    if isinstance(value, timedelta):
        ms, rest = divmod(value, _MS)
        if rest:
            raise fault(
                "bad_duration",
                f"`{what}` is finer than a millisecond: {value!r}",
                operation=operation,
                hint="round it to whole milliseconds",
            )
    elif isinstance(value, str):
        ms = _parse(value, what, operation, negative)
    else:
        unitless = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
        raise fault(
            "bad_duration",
            f"`{what}` must be a duration: {value!r}" + ("" if unitless is None else " has no unit"),
            operation=operation,
            hint='write text such as "5m" or a timedelta' if unitless is None else _with_unit(unitless, negative),
        )
    if not -_MS_LIMIT <= ms < _MS_LIMIT:
        raise fault(
            "bad_duration",
            f"`{what}` is too long: {value!r}",
            operation=operation,
            hint="write a shorter one",
        )
    if ms < 0 and not negative:
        raise fault(
            "bad_duration",
            f"`{what}` is negative: {value!r}",
            operation=operation,
            hint="leave out the minus",
        )
    if ms == 0 and not zero:
        raise fault("bad_duration", f"`{what}` is zero: {value!r}", operation=operation, hint='write at least "1ms"')
    return ms


def _with_unit(number: int | float, negative: bool) -> str:
    """The durations that a bare number may have meant; each is one that is taken."""
    meant = number if negative else abs(number)
    if not 0.001 <= abs(meant) < _MS_LIMIT / 1000:  # nor is it a number at all, perhaps
        return 'write text such as "5m" or a timedelta'
    if meant == int(meant):
        return f'write "{int(meant)}s" or "{int(meant)}ms"'
    return f'write "{format_ms(round(meant * 1000))}"'


def _parse(text: str, what: str, operation: str | None, negative: bool) -> int:
    match = _TEXT.fullmatch(text)
    if match is not None and any(match.groups()[1:]):
        ms = sum(int(n) * unit for n, unit in zip(match.groups()[1:], _UNITS_MS.values(), strict=True) if n)
        return -ms if match.group(1) else ms
    if _CALENDAR.fullmatch(text):
        hint = 'months and years differ in length: write days, such as "30d"'
    elif re.fullmatch(r"-?[0-9.]+", text):
        hint = (
            _with_unit(float(text), negative) if text.count(".") < 2 and text.strip("-.") else 'write text such as "5m"'
        )
    else:
        hint = 'write numbers with d, h, m, s or ms, largest first: "1h30m", "250ms"'
    raise fault("bad_duration", f"`{what}` is not a duration: {text!r}", operation=operation, hint=hint)


def format_ms(ms: int) -> str:
    """The shortest text of a duration: `5m`, `1h30m`, `0s`."""
    if ms == 0:
        return "0s"
    rest, parts = abs(ms), ["-" if ms < 0 else ""]
    for unit, size in _UNITS_MS.items():
        if unit == "d" and rest % size:
            continue  # 25h reads better than 1d1h
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def timestamp_ms(value: datetime, what: str = "datetime") -> int:
    """The UTC milliseconds of an aware `datetime`; digits below a millisecond are cut, as on input.

    Raises:
        TopologyError: `naive_datetime`.
    """
    if value.utcoffset() is None:
        raise fault(
            "naive_datetime",
            f"`{what}` has no time zone: {value!r}",
            operation=what,
            hint="name the zone: `datetime(…, tzinfo=UTC)`",
        )
    return (value - _EPOCH) // _MS
