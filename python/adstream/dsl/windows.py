"""Windows of event time, as small frozen values.

    tumbling("5m", grace="10s")                 [start, start + 5m), aligned to the epoch; each record is in exactly one
    tumbling("1d", tz="Asia/Seoul", grace=…)    from midnight to midnight there: 23, 24 or 25 hours (rows only)
    hopping("5m", advance="1m", grace="10s")    the same, one beginning every minute; each record is in five
    sliding("5m", grace="10s")                  [t - 5m, t] and [t + 1ms, t + 1ms + 5m] for every record's time t
    session("5m", grace="10s")                  [first, last] of records with no more than 5m between them
    unlimited()                                 [start, ...), one
    a class of one's own                        derived from `Windows`, for keys and values

A record is *late* for its window when `window end + grace <= time`, with the time of what came before, the record itself
included (in rows: the clock of its lane, and it goes to `.late`). Sliding windows and sessions hold their ends, so there it
is `<`; a session's end is its last record's time plus the gap. A window is kept for its `retention` after its start (a
session: after its last record).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adstream.dsl.durations import Duration, duration_ms, format_ms, timestamp_ms
from adstream.dsl.faults import fault
from adstream.dsl.typing_ import check_zone

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, repr=False)
class Tumbling:
    """Windows `[start, start + size)` side by side, aligned to the epoch."""

    size_ms: int
    grace_ms: int
    retention_ms: int
    zone: str | None = None
    """Whose days or weeks they are; None: all are equally long."""

    def __repr__(self) -> str:
        size, grace, retention = map(format_ms, (self.size_ms, self.grace_ms, self.retention_ms))
        zone = f', tz="{self.zone}"' if self.zone else ""
        return f'tumbling("{size}"{zone}, grace="{grace}", retention="{retention}")'

    def describe(self) -> str:
        """The interval with its ends, for `describe()`."""
        size, grace, retention = map(format_ms, (self.size_ms, self.grace_ms, self.retention_ms))
        if self.zone:
            what = "a day" if self.size_ms == _DAY_MS else "a week from Monday on"
            return f"tumbling [start, end), {what} in {self.zone}, grace {grace}, retention {retention}"
        return f"tumbling [start, start + {size}), grace {grace}, retention {retention}"

    def to_plan(self) -> dict[str, Any]:
        return {
            "kind": "civil" if self.zone else "tumbling",
            "size_ms": self.size_ms,
            "grace_ms": self.grace_ms,
            "retention_ms": self.retention_ms,
            **({"zone": self.zone} if self.zone else {}),
        }


def tumbling(
    size: Duration, *, tz: str | None = None, grace: Duration | None = None, retention: Duration | None = None
) -> Tumbling:
    """Windows `[start, start + size)`, aligned to the epoch; with `tz`, the days or weeks of a time zone.

    Args:
        size: the length of a window. `"1d"` is 24 hours, unless `tz` is given.
        tz: a time zone such as `"Asia/Seoul"`, for rows. Then `"1d"` is from the first instant of a day there to that of
            the next, and `"7d"` from Monday to Monday: an hour shorter or longer where clocks change. Rules are those of
            the time zone database in the package.
        grace: how long after a window's end its records still count. Must be said; `"0s"` is an answer.
        retention: how long a window's rows are kept, from its start; at least `size + grace`, which is the
            default. Never shorter than until the window is closed.

    Raises:
        TopologyError: `grace_missing`, `bad_duration`, `retention_too_short`, `bad_zone`, `bad_window` (a time zone has
            days and weeks only).

    In Kafka Streams: `TimeWindows.ofSizeAndGrace(size, grace)`, with `Materialized.withRetention`; with `tz`, a
    subclass of `Windows` of one's own.
    """
    grace_ms = _grace_ms(grace, "tumbling")
    size_ms = duration_ms(size, "size", operation="tumbling", zero=False)
    if tz is not None:
        check_zone(tz, "tumbling")
        if size_ms not in (_DAY_MS, 7 * _DAY_MS):
            raise fault(
                "bad_window",
                f"with a time zone windows are days or weeks, not {format_ms(size_ms)}",
                operation="tumbling",
                hint='write "1d" or "7d", or leave out `tz`: shorter windows begin when they begin everywhere',
            )
    return Tumbling(size_ms, grace_ms, _retention_ms(retention, size_ms + grace_ms, "tumbling"), tz)


def _retention_ms(retention: Duration | None, needed_ms: int, operation: str) -> int:
    retention_ms = needed_ms if retention is None else duration_ms(retention, "retention", operation=operation)
    if retention_ms < needed_ms:
        raise fault(
            "retention_too_short",
            f"retention {format_ms(retention_ms)} is shorter than size + grace, {format_ms(needed_ms)}",
            operation=operation,
            hint=f'write `retention="{format_ms(needed_ms)}"` or more',
        )
    return retention_ms


@dataclass(frozen=True, slots=True, repr=False)
class Hopping:
    """Windows `[start, start + size)`, one beginning at every multiple of `advance` from 0 on."""

    size_ms: int
    advance_ms: int
    grace_ms: int
    retention_ms: int

    def __repr__(self) -> str:
        size, advance, grace = map(format_ms, (self.size_ms, self.advance_ms, self.grace_ms))
        longer = self.retention_ms > self.size_ms + self.grace_ms
        retention = f', retention="{format_ms(self.retention_ms)}"' if longer else ""
        return f'hopping("{size}", advance="{advance}", grace="{grace}"{retention})'

    def describe(self) -> str:
        """The interval with its ends, for `describe()`."""
        size, advance, grace, retention = map(
            format_ms, (self.size_ms, self.advance_ms, self.grace_ms, self.retention_ms)
        )
        return f"hopping [start, start + {size}) every {advance}, grace {grace}, retention {retention}"

    def to_plan(self) -> dict[str, Any]:
        return {
            "kind": "hopping",
            "size_ms": self.size_ms,
            "advance_ms": self.advance_ms,
            "grace_ms": self.grace_ms,
            "retention_ms": self.retention_ms,
        }


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


class Windows(ABC):
    """Windows of one's own, of keys and values: to be derived from.

        class Days(ads.Windows):
            def windows_for(self, timestamp):
                start = timestamp // DAY * DAY
                return [(start, start + DAY)]

            def size(self):
                return "1d"

            def grace_period(self):
                return "1h"

    Windows are kept and written by their starts. Who has the start alone takes `size` for their length: keys read from topics
    and stores, and those told from a cache. So where they are not equally long, let the end follow from the start. They are
    told with each update; `emit_strategy("close")` is for the others.

    In Kafka Streams: `Windows`, `windowsFor`.
    """

    @abstractmethod
    def windows_for(self, timestamp: int) -> Iterable[tuple[int, int]]:
        """The windows that hold a time: (start, end), ms, `0 <= start <= end`, the end exclusive. It is called with each record,
        and must say the same each time. One that raises makes a dead letter of its record."""

    @abstractmethod
    def size(self) -> Duration:
        """How long they are, at most."""

    @abstractmethod
    def grace_period(self) -> Duration:
        """How long after a window's end its records still count."""

    def sizes_ms(self) -> tuple[int, int]:
        """Size and grace, ms.

        Raises:
            TopologyError: `bad_duration`.
        """
        size = duration_ms(self.size(), "size", operation="windowed_by", zero=False)
        return size, duration_ms(self.grace_period(), "grace_period", operation="windowed_by")


def hopping(
    size: Duration, *, advance: Duration, grace: Duration | None = None, retention: Duration | None = None
) -> Hopping:
    """Windows `[start, start + size)`, one beginning every `advance`, aligned to the epoch; a record is in all that hold it.

    Args:
        size: the length of a window.
        advance: between two starts; not longer than `size`.
        grace: how long after a window's end its records still count. Must be said; `"0s"` is an answer.
        retention: how long a window's rows are kept, from its start; at least `size + grace`, which is the default.

    Raises:
        TopologyError: `grace_missing`, `bad_duration`, `bad_window`, `retention_too_short`.

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
    grace_ms = _grace_ms(grace, "hopping")
    return Hopping(size_ms, advance_ms, grace_ms, _retention_ms(retention, size_ms + grace_ms, "hopping"))


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
