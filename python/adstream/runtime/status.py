"""What a worker says about itself: plain values, made by its own thread about once a second and replaced whole, so
that any other thread may read the latest one without a lock."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adstream.interfaces import TopicPartition
from adstream.runtime.ports import Sink
from adstream.runtime.standby import StandbyStatus
from adstream.runtime.task import State, StreamTask

log = logging.getLogger(__name__)

COMMIT_BOUNDS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class TaskStatus:
    name: str
    state: str
    positions: Mapping[TopicPartition, int] = field(default_factory=dict)
    """Of the last commit."""
    buffered: int = 0
    restored: float = 1.0
    """0 to 1."""
    error: str | None = None
    stats: Mapping[str, Any] = field(default_factory=dict)
    """`Task.stats()`."""


@dataclass(frozen=True, slots=True)
class SinkStatus:
    name: str
    healthy: bool
    error: str | None
    positions: Mapping[TopicPartition, int]
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Held:
    """Windows that are open only because one partition has not come as far as the others."""

    task: str
    node: str
    topic: str
    partition: int
    windows: int
    seconds: float
    """For which its clock has not moved."""


@dataclass(frozen=True, slots=True)
class Status:
    """One look at a worker."""

    state: str
    at_ms: int
    """When it was taken; an old one means that the worker's thread stands still."""
    tasks: tuple[TaskStatus, ...] = ()
    sinks: tuple[SinkStatus, ...] = ()
    held: tuple[Held, ...] = ()
    commits: Mapping[str, int] = field(default_factory=dict)
    """By outcome."""
    commit_seconds: tuple[int, ...] = (0,) * (len(COMMIT_BOUNDS_S) + 1)
    """Commits whose time lies within each of `COMMIT_BOUNDS_S`, and beyond; not cumulative."""
    commit_seconds_sum: float = 0.0
    rows: int = 0
    """Processed and committed: records of inputs, rows behind shuffles, rows of closed windows that were told in turns."""
    read: int | None = None
    """Records of topics of users, processed and committed; None: not a run to the end."""
    dead: int = 0
    """Dead letters, written and committed."""
    restored: Mapping[str, int] = field(default_factory=dict)
    """Records of changelogs that restores applied, by where they came from: `snapshot`, `changelog`, and before, as a
    `standby`."""
    set_aside: int = 0
    """Directories of stores on disk that could not be used."""
    standbys: tuple[StandbyStatus, ...] = ()
    standby_records: int = 0
    """Records of changelogs that standbys applied."""
    globals: Mapping[str, tuple[int, Mapping[str, int]]] = field(default_factory=dict)
    """By global table: how many keys it has, and what became of records."""
    globals_lag: int = 0
    """Records of global tables that the start still waits for, about."""
    paused: bool = False
    trouble: str | None = None
    """What the worker is waiting out (a broker that is away)."""

    @property
    def ready(self) -> bool:
        """Running, nothing is being restored or set aside, and nothing is waited out."""
        return self.state == "running" and self.trouble is None and all(task.state == "running" for task in self.tasks)


@dataclass(slots=True)
class Counters:
    """What the worker counts while it goes."""

    commits: dict[str, int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(COMMIT_BOUNDS_S) + 1))
    seconds: float = 0.0
    rows: int = 0
    read: int = 0
    dead: int = 0
    restored: dict[str, int] = field(default_factory=lambda: {"snapshot": 0, "changelog": 0, "standby": 0})
    set_aside: int = 0
    """Directories of stores on disk that could not be used."""
    resumed: int = 0
    """Restores that began with stores on disk."""

    def commit(self, outcome: str, rows: int, took_ms: int) -> None:
        self.commits[outcome] = self.commits.get(outcome, 0) + 1
        self.buckets[bisect.bisect_left(COMMIT_BOUNDS_S, took_ms / 1000)] += 1
        self.seconds += took_ms / 1000
        self.rows += rows


HELD_TOLD_S = 60
"""Windows held open for so long are told to the log, once until it is over."""


class Holding:
    """Who holds windows open, and since when."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], tuple[tuple[int, int | None], int]] = {}
        """(task, node) -> (lane and its clock, when they were first seen so)."""
        self._told: set[tuple[str, str]] = set()

    def look(self, tasks: Sequence[TaskStatus], now_ms: int) -> tuple[Held, ...]:
        found, since = [], {}
        for task in tasks:
            for node, topics in task.stats.get("held", {}).items():
                stats, place = task.stats["nodes"][node], (task.name, node)
                mark = (stats["held_by_lane"], stats.get("slowest_clock"))
                before = self._since.get(place)
                since[place] = before if before is not None and before[0] == mark else (mark, now_ms)
                seconds = (now_ms - since[place][1]) / 1000
                found += [Held(task.name, node, topic, mark[0], stats["held_windows"], seconds) for topic in topics]
                if seconds >= HELD_TOLD_S and place not in self._told:
                    self._told.add(place)
                    who = " and ".join(f"{topic}-{mark[0]}" for topic in topics)
                    log.warning(
                        "%d windows of `%s` are held open by %s for %d s: nothing reached them from there; if that is "
                        "in order, give the source `idle=`",
                        stats["held_windows"], node, who, seconds,
                    )  # fmt: skip
        self._told &= {place for place in since if place in self._told and now_ms > since[place][1]}
        self._since = since
        return tuple(found)


def task_status(task: StreamTask, error: str | None) -> TaskStatus:
    return TaskStatus(
        name=task.spec.name,
        state=task.state.value,
        positions=dict(task.settled),
        buffered=task.buffered,
        restored=task.restore.fraction if task.restore else float(task.state is not State.RESTORING),
        error=error,
        stats={} if task.core is None else task.core.stats(),
    )


def sink_status(name: str, topic: str, sink: Sink) -> SinkStatus:
    counters = getattr(sink, "counters", None)
    return SinkStatus(
        name=name,
        healthy=sink.last_error is None,
        error=sink.last_error,
        positions={(topic, p): position for p, position in sink.stored.items()},
        counters={counter: getattr(counters, counter) for counter in getattr(counters, "__slots__", ())},
    )
