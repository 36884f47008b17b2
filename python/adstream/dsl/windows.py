"""Windows of event time, as small frozen values.

    tumbling("5m", grace="10s")                 [start, start + 5m), aligned to the epoch; each record is in exactly one
    hopping("5m", advance="1m", grace="10s")    the same, one beginning every minute; each record is in five
    sliding("5m", grace="10s")                  [t - 5m, t] and [t + 1ms, t + 1ms + 5m] for every record's time t
    session("5m", grace="10s")                  [first, last] of records with no more than 5m between them
    unlimited()                                 [start, ...), one

A record is *late* for its window when `window end + grace <= time`, with the time of what came before, the record itself
included (in rows: the clock of its lane, and it goes to `.late`). Sliding windows and sessions hold their ends, so there it
is `<`; a session's end is its last record's time plus the gap. A window is kept for its `retention` after its start (a
session: after its last record).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adstream.dsl.durations import Duration, duration_ms, format_ms, timestamp_ms
from adstream.dsl.faults import fault


@dataclass(frozen=True, slots=True, repr=False)
class Tumbling:
    """Windows `[start, start + size)` side by side, aligned to the epoch."""

    size_ms: int
    grace_ms: int
    retention_ms: int

    def __repr__(self) -> str:
        size, grace, retention = map(format_ms, (self.size_ms, self.grace_ms, self.retention_ms))
        return f'tumbling("{size}", grace="{grace}", retention="{retention}")'

    def describe(self) -> str:
        """The interval with its ends, for `describe()`."""
        size, grace, retention = map(format_ms, (self.size_ms, self.grace_ms, self.retention_ms))
        return f"tumbling [start, start + {size}), grace {grace}, retention {retention}"

    def to_plan(self) -> dict[str, Any]:
        return {
            "kind": "tumbling",
            "size_ms": self.size_ms,
            "grace_ms": self.grace_ms,
            "retention_ms": self.retention_ms,
        }


def tumbling(size: Duration, *, grace: Duration | None = None, retention: Duration | None = None) -> Tumbling:
    """Windows `[start, start + size)`, aligned to the epoch.

    Args:
        size: the length of a window.
        grace: how long after a window's end its records still count. Must be said; `"0s"` is an answer.
        retention: how long a window's rows are kept, from its start; at least `size + grace`, which is the
            default.

    Raises:
        TopologyError: `grace_missing`, `bad_duration`, `retention_too_short`.

    In Kafka Streams: `TimeWindows.ofSizeAndGrace(size, grace)`, with `Materialized.withRetention`.
    """
    grace_ms = _grace_ms(grace, "tumbling")
    size_ms = duration_ms(size, "size", operation="tumbling", zero=False)
    needed_ms = size_ms + grace_ms
    retention_ms = needed_ms if retention is None else duration_ms(retention, "retention", operation="tumbling")
    if retention_ms < needed_ms:
        raise fault(
            "retention_too_short",
            f"retention {format_ms(retention_ms)} is shorter than size + grace, {format_ms(needed_ms)}",
            operation="tumbling",
            hint=f'write `retention="{format_ms(needed_ms)}"` or more',
        )
    return Tumbling(size_ms, grace_ms, retention_ms)


@dataclass(frozen=True, slots=True, repr=False)
class Hopping:
    """Windows `[start, start + size)`, one beginning at every multiple of `advance` from 0 on."""

    size_ms: int
    advance_ms: int
    grace_ms: int

    def __repr__(self) -> str:
        size, advance, grace = map(format_ms, (self.size_ms, self.advance_ms, self.grace_ms))
        return f'hopping("{size}", advance="{advance}", grace="{grace}")'


@dataclass(frozen=True, slots=True, repr=False)
class Sliding:
    """Windows `[t - difference, t]` and `[t + 1, t + 1 + difference]` for every record's time t."""

    difference_ms: int
    grace_ms: int

    def __repr__(self) -> str:
        return f'sliding("{format_ms(self.difference_ms)}", grace="{format_ms(self.grace_ms)}")'


@dataclass(frozen=True, slots=True, repr=False)
class Session:
    """Windows `[first, last]` of records with no more than `gap` between them."""

    gap_ms: int
    grace_ms: int

    def __repr__(self) -> str:
        return f'session("{format_ms(self.gap_ms)}", grace="{format_ms(self.grace_ms)}")'


@dataclass(frozen=True, slots=True, repr=False)
class Unlimited:
    """One window `[start, ...)`; records before it are in none."""

    start_ms: int

    def __repr__(self) -> str:
        return f'unlimited("{format_ms(self.start_ms)}")'


def hopping(size: Duration, *, advance: Duration, grace: Duration | None = None) -> Hopping:
    """Windows `[start, start + size)`, one beginning every `advance`, aligned to the epoch; a record is in all that hold it.

    Args:
        size: the length of a window.
        advance: between two starts; not longer than `size`.
        grace: how long after a window's end its records still count. Must be said; `"0s"` is an answer.

    Raises:
        TopologyError: `grace_missing`, `bad_duration`, `bad_window`.

    In Kafka Streams: `TimeWindows.ofSizeAndGrace(size, grace).advanceBy(advance)`.
    """
    size_ms = duration_ms(size, "size", operation="hopping", zero=False)
    advance_ms = duration_ms(advance, "advance", operation="hopping", zero=False)
    if advance_ms > size_ms:
        raise fault(
            "bad_window",
            f"advance {format_ms(advance_ms)} is longer than size {format_ms(size_ms)}: records between would be in none",
            operation="hopping",
            hint=f'write `advance="{format_ms(size_ms)}"` or less',
        )
    return Hopping(size_ms, advance_ms, _grace_ms(grace, "hopping"))


def sliding(difference: Duration, *, grace: Duration | None = None) -> Sliding:
    """Windows that end with a record, or begin behind one: what lies at most `difference` apart is in one together.

    Args:
        difference: the longest time between two records of one window.
        grace: how long after a window's end its records still count. Must be said; `"0s"` is an answer.

    Raises:
        TopologyError: `grace_missing`, `bad_duration`.

    In Kafka Streams: `SlidingWindows.ofTimeDifferenceAndGrace(difference, grace)`.
    """
    return Sliding(duration_ms(difference, "difference", operation="sliding"), _grace_ms(grace, "sliding"))


def session(gap: Duration, *, grace: Duration | None = None) -> Session:
    """Windows `[first, last]` of records of which each lies at most `gap` behind the one before.

    Args:
        gap: of inactivity, which ends a session.
        grace: how long after that records still count. Must be said; `"0s"` is an answer.

    Raises:
        TopologyError: `grace_missing`, `bad_duration`.

    In Kafka Streams: `SessionWindows.ofInactivityGapAndGrace(gap, grace)`.
    """
    return Session(duration_ms(gap, "gap", operation="session"), _grace_ms(grace, "session"))


def unlimited(start: datetime | Duration = "0s") -> Unlimited:
    """One window of all records from `start` on: a time, or a duration after the epoch. It never closes.

    Raises:
        TopologyError: `bad_duration`, `naive_datetime`, `bad_window` (before the epoch).

    In Kafka Streams: `UnlimitedWindows.of().startOn(start)`.
    """
    if not isinstance(start, datetime):
        return Unlimited(duration_ms(start, "start", operation="unlimited"))
    start_ms = timestamp_ms(start, "start")
    if start_ms < 0:
        raise fault(
            "bad_window",
            f"start {start} lies before the epoch",
            operation="unlimited",
            hint="records do not: leave it out",
        )
    return Unlimited(start_ms)


def _grace_ms(grace: Duration | None, operation: str) -> int:
    if grace is None:
        raise fault(
            "grace_missing",
            "how long to wait for late records must be said",
            operation=operation,
            hint='write `grace="10s"`, or `grace="0s"` if nothing may come late',
        )
    return duration_ms(grace, "grace", operation=operation)
