"""Stops a job whose input has changed its schema, before it has turned all of it into dead letters.

    dead_letters_max = "1% in 5m"

A task counts, from what the core counts (`Task.stats`): records read, and rows refused. When, over the last five
minutes *of event time*, more than one in a hundred became a dead letter, the worker stops with the reasons. No wall
clock: a replay, or a job that catches up, stops where the live run did, and nowhere else. Fewer than `LEAST` records
count as `LEAST`, so that two bad records at night do not stop anything, and a topic of which every record is bad stops
after eleven.

Looked at when a generation ends, *before* it is committed: what tripped the breaker is not in the dead-letter topic and
the positions stand before it. Once the topology reads the new schema, a new start processes these records as any other.
Started again unchanged, it reads them again and stops again.

Counting begins with the task's life: rows of before a restart or a rollback are not counted.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adstream.errors import ConfigError, TooManyDeadLettersError
from adstream.runtime.durations import duration_ms

LEAST = 1_000
REASONS_SHOWN = 5

_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s+in\s+(\S+)\s*")


@dataclass(frozen=True, slots=True)
class Limit:
    share: float
    """0 to 1."""
    within_ms: int
    text: str


def limit_of(text: str, option: str) -> Limit | None:
    """`"1% in 5m"`; empty: none. Raises ConfigError."""
    if not text:
        return None
    match = _TEXT.fullmatch(text)
    if match is None or not 0 < float(match[1]) < 100:
        raise ConfigError(f"`{text}` is not a share in a time", option=option, hint='write "1% in 5m", or leave it out')
    return Limit(float(match[1]) / 100, duration_ms(match[2], option), text)


@dataclass(slots=True)
class Breaker:
    """Of one life of one task."""

    limit: Limit
    _looks: deque[tuple[int, int, Counter[str]]] = field(default_factory=deque)
    """(event time, records read, dead letters by reason) at each look, the oldest still within the time first."""

    def begin(self, stats: Mapping[str, Any]) -> None:
        """From here on it counts."""
        self._looks.clear()
        self._looks.append(_look(stats, 0))

    def check(self, task: str, stats: Mapping[str, Any]) -> None:
        """Raises TooManyDeadLettersError."""
        time, read, dead = look = _look(stats, self._looks[-1][0])
        while len(self._looks) > 1 and self._looks[1][0] <= time - self.limit.within_ms:
            self._looks.popleft()
        self._looks.append(look)
        _, read_before, dead_before = self._looks[0]
        read, dead = read - read_before, dead - dead_before
        count = dead.total()
        if count <= self.limit.share * max(read, LEAST):
            return
        top = ", ".join(f"{reason} {n:,}" for reason, n in dead.most_common(REASONS_SHOWN))
        raise TooManyDeadLettersError(
            f"task {task}: of the last {read:,} records {count:,} became dead letters, more than {self.limit.text}: {top}"
        )


def _look(stats: Mapping[str, Any], time: int) -> tuple[int, int, Counter[str]]:
    """Event time stands still as long as no record can be read."""
    read, dead = 0, Counter[str]()
    for node, counters in stats.get("counters", {}).items():
        for reason, n in counters.items():
            if reason == "read":
                read += n
            elif reason.startswith("dead:"):
                dead[f"{reason.removeprefix('dead:')} ({node})"] += n
    return max([time, *stats.get("clocks", {}).values()]), read, dead
