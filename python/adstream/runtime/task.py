"""A task's life in a worker, and the verbs that move it along.

                     grant              positions known           revoke
        (nobody's) ────────> RESTORING ────────────────> RUNNING ────────> DRAINING ──commit──> released
                                 ^  │                     │  ^
                                 │  │ its own fault,      │  │ failed once: rolled back
                     fatal       │  │ twice               └──┘
                     commit ─────┘  └──────────────────> QUARANTINED <──── failed twice in a row

    A task that is followed as a standby (`standby.py`) is nobody's here: it waits in front, its restore under way.

    from           to                                    because
    RESTORING      RUNNING, QUARANTINED, gone            state complete; state unusable; lease moved
    RUNNING        RUNNING, DRAINING, RESTORING,         rolled back; revoked; writer fenced;
                   QUARANTINED, gone                     failed twice; lease lost
    DRAINING       gone                                  its last generation is committed, or given up
    QUARANTINED    RESTORING, gone                       `retry`, a restart; lease moved

A task that is gone is dropped with its memory: what it had not committed, its next owner reads again.

A *rollback happens only while no commit is under way*: the commit may hold a generation of this task, and undoing
what is about to become true would split the task from its log. So a failure is noted at once (`failure`), the task
stands still, and the worker rolls it back when the commit has settled.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from adstream._core import RawBatch
from adstream.interfaces import Log, Reader, TopicPartition
from adstream.runtime.assignment import TaskSpec
from adstream.runtime.breaker import Breaker, Limit
from adstream.runtime.disk import TaskDisk
from adstream.runtime.positions import check_positions, first_positions
from adstream.runtime.restore import Restore, before
from adstream.runtime.snapshot import Snapshot, Snapshots
from adstream.runtime.trim import ChangelogTrim

if TYPE_CHECKING:
    from adstream._core import Disk, Generation

FAILURES_MAX = 2
"""In a row, without a committed row between; then the task is quarantined, so that it cannot stop the others."""


class Kept(TypedDict):
    """What of a `Restore` is the same for owners and standbys."""

    exactly_once: bool
    snapshot: Snapshot | None
    disk: TaskDisk | None


class State(enum.Enum):
    RESTORING = "restoring"
    RUNNING = "running"
    DRAINING = "draining"
    QUARANTINED = "quarantined"


class Core(Protocol):
    """`adstream._core.Task`."""

    def feed(self, topic: str, partition: int, batch: RawBatch) -> None: ...
    def buffered(self, topic: str, partition: int) -> int: ...
    def caught_up(self, topic: str, partition: int, value: bool) -> None: ...
    def begin(self, now_ms: int) -> None: ...
    def tick(self, now_ms: int) -> None: ...
    def process(self, max_rows: int) -> int: ...
    def close_generation(self) -> Generation: ...
    def committed(self, end: int | None = None) -> None: ...
    def rollback(self) -> dict[TopicPartition, int]: ...
    def restore(self, batch: RawBatch, known: bool = False) -> None: ...
    def new_inputs(self) -> list[str]: ...
    @property
    def in_memory(self) -> bool: ...
    def on_disk(self, default: str) -> bool: ...
    def attach(self, disk: Disk, default: str) -> None: ...
    def positions(self) -> dict[TopicPartition, int]: ...
    def stats(self) -> dict[str, Any]: ...
    @property
    def commit_asked(self) -> bool: ...
    @property
    def ticks(self) -> bool: ...
    @property
    def generation(self) -> int: ...
    @property
    def needed_from(self) -> int | None: ...


class StreamTask:
    """One owned task. `core` exists from the beginning of its restore until it is quarantined."""

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.state = State.RESTORING
        self.core: Core | None = None
        self.restore: Restore | None = None
        self.snapshot: Snapshot | None = None
        self.disk: TaskDisk | None = None
        """Its stores, if they are on disk; open as long as the core."""
        self.trim = ChangelogTrim()
        self.breaker: Breaker | None = None
        self.failure: Exception | None = None
        """Set: stands still until it can be rolled back."""
        self.failures = 0
        """In a row."""
        self.suspicions = 0
        """Commits of this task alone that were aborted, while those of others got through."""
        self.suspected_at = 0
        """How many commits of the worker had succeeded at the last one."""
        self.settled: Mapping[TopicPartition, int] = {}
        """Positions last committed."""
        self.settled_ms = 0
        self.postponed = 0
        """How often, in a row, the log could not say where it stood."""
        self.begin_ms = 0
        """Not asked again before."""
        self.waits = 0
        """How often, in a row, a database that its rows are put before did not answer."""
        self.resume_ms = 0
        """Nothing is processed before."""
        self.rows = 0
        """Processed since the generation began."""
        self.commit_asked = False
        """A processor wants a commit."""
        self.output_bytes = 0
        """Waiting to be written when the generation closes."""
        self._resting = self._stirred = False
        self._ticks = True
        self.quiet = False
        """The generation closed last was empty: nothing is pending inside, not even output of time that has
        passed."""
        self._read = 0
        """What `records_read` was when the last generation closed."""
        self._chosen: dict[TopicPartition, int] = {}
        """Where inputs without a committed position begin: what was read before a first commit that failed comes again."""
        self._limits: Mapping[TopicPartition, int] = {}
        self._reading: set[TopicPartition] = set()

    # Restore

    def begin(
        self,
        core: Core,
        log: Log,
        reader: Reader,
        group: str,
        *,
        exactly_once: bool = True,
        snapshots: Snapshots | None = None,
        now_ms: int = 0,
    ) -> None:
        """Asks the log where the task stood. Safe to repeat after an error. What it has read as a standby it keeps. Raises
        FatalError when the log no longer has what comes next."""

        def first(unread: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
            return first_positions(log, self.spec.starts, unread, now_ms, self._chosen)

        def check(restore: Restore) -> None:
            check_positions(log, group, restore.positions, restore.missing)

        if self.restore is not None:
            self.restore.adopt(reader, first, check)
        else:
            self._open_snapshot(snapshots, exactly_once)
            kept: Kept = {"exactly_once": exactly_once, "snapshot": self.snapshot, "disk": self.disk}
            restore = Restore(log, reader, self.spec, core, group, first=first, **kept)
            try:
                check(restore)
            except BaseException:
                restore.close()
                raise
            self.restore = restore
        self.core = core
        self.trim = ChangelogTrim()
        self.postponed = 0

    def follow(
        self,
        core: Core,
        log: Log,
        reader: Reader,
        group: str,
        bounds: tuple[int, int],
        *,
        exactly_once: bool = True,
        snapshots: Snapshots | None = None,
    ) -> None:
        """Begins as a standby: reads the changelog, which has `bounds`, and nothing else, until `begin`."""
        self._open_snapshot(snapshots, exactly_once)
        kept: Kept = {"exactly_once": exactly_once, "snapshot": self.snapshot, "disk": self.disk}
        self.restore = Restore(log, reader, self.spec, core, group, follows=bounds, **kept)
        self.core = core

    def _open_snapshot(self, snapshots: Snapshots | None, exactly_once: bool) -> None:
        if self.snapshot is None and snapshots is not None and self.disk is None:
            self.snapshot = snapshots.open(self.spec, exactly_once=exactly_once)

    def postpone(self, now_ms: int, first_ms: int, max_ms: int) -> int:
        """The log could not say where it stood; returns for how long it is not asked again."""
        wait_ms = min(first_ms << min(self.postponed, 20), max_ms)
        self.postponed, self.begin_ms = self.postponed + 1, now_ms + wait_ms
        return wait_ms

    def wait(self, now_ms: int, first_ms: int, max_ms: int) -> int:
        """What its rows are put before does not answer; returns for how long nothing is processed."""
        wait_ms = min(first_ms << min(self.waits, 20), max_ms)
        self.waits, self.resume_ms = self.waits + 1, now_ms + wait_ms
        return wait_ms

    def run(
        self, reader: Reader, now_ms: int, limits: Mapping[TopicPartition, int], dead_letters_max: Limit | None = None
    ) -> None:
        """The restore is done: reads the inputs on from the committed positions, up to `limits` where there is
        one."""
        assert self.restore is not None
        assert self.core is not None
        positions = self.restore.finish()
        self.restore = None
        self._limits = limits
        for (topic, partition), position in positions.items():
            self.core.feed(topic, partition, RawBatch([], position))  # where it stands; no records
        self.core.begin(now_ms)
        self._ticks = self.core.ticks
        self._read_from(reader, positions)
        self._read = self._records_read()
        self.breaker = None if dead_letters_max is None else Breaker(dead_letters_max)
        if self.breaker is not None:
            self.breaker.begin(self.core.stats())
        self.settled, self.settled_ms = positions, now_ms
        self.state = State.RUNNING

    # Processing

    def rests(self, unread: Set[TopicPartition] | None) -> bool:
        """Whether a turn would be in vain: the last one was, and since then nothing has come and no generation was closed.

        Args:
            unread: `Reader.unread`.
        """
        return self._resting and unread is not None and unread.isdisjoint(self._reading)

    def fill(
        self, reader: Reader, buffer_rows_max: int, read_rows_max: int, unread: Set[TopicPartition] | None = None
    ) -> bool:
        """Reads once from every input of `unread` whose buffer is below the bound; returns whether anything moved.

        Not more at a time than a turn takes: what was read is then decoded while it lies in the cache, in memory that
        the last turn used. (Reading ahead is the reader's work: there it is compressed.)"""
        assert self.core is not None
        moved = False
        for tp in sorted(self._reading if unread is None else self._reading & unread):
            room = buffer_rows_max - self.core.buffered(*tp)
            if room > 0:
                batch = reader.read(*tp, min(room, read_rows_max))
                if batch is not None:
                    moved = True
                    self._feed(reader, tp, batch)
                if tp in self._reading:
                    self.core.caught_up(*tp, reader.at_end(*tp))
        self._resting = not moved
        self._stirred |= moved
        return moved

    def _feed(self, reader: Reader, tp: TopicPartition, batch: RawBatch) -> None:
        assert self.core is not None
        limit = self._limits.get(tp)
        if limit is not None and batch.next_offset >= limit:
            if batch.next_offset > limit:
                batch = before(batch, limit)
            self._stop_reading(reader, tp)
        self.core.feed(*tp, batch)

    def process(self, max_rows: int) -> int:
        assert self.core is not None
        rows = self.core.process(max_rows)
        if rows:
            self._resting, self._stirred = False, True
            self.rows += rows
            self.commit_asked = self.core.commit_asked
            self.output_bytes = int(getattr(self.core, "output_bytes", 0))
        return rows

    def _records_read(self) -> int:
        """Of topics of users, since the application began. Positions do not tell: the markers of transactions and what
        compaction took lie between records. A look costs something with each commit, so only where there is an end."""
        if self.core is None or not self._limits:
            return 0
        counters = self.core.stats().get("counters", {})
        return sum(counters.get(node, {}).get("read", 0) for node in self.spec.sources)

    def read_since(self) -> int:
        """Records of topics of users in the generation that was just closed; 0 where the run has no end."""
        before, self._read = self._read, self._records_read()
        return self._read - before

    @property
    def buffered(self) -> int:
        return 0 if self.core is None else sum(self.core.buffered(*tp) for tp in self.spec.inputs)

    # Commit

    @property
    def unchanged(self) -> bool:
        """A generation closed now would be empty: the last one was, and nothing has come or happens by time alone."""
        return self.quiet and not self._stirred and not self._ticks

    def close(self, now_ms: int, *, tick: bool = True) -> Generation:
        """`now_ms` is logged: what the passing of time causes is stored with the generation. Without `tick` none passes."""
        assert self.core is not None
        if tick:
            self.core.tick(now_ms)
        generation = self.core.close_generation()
        self.quiet = generation.empty
        self._begin_generation()
        return generation

    def _begin_generation(self) -> None:
        self.rows = self.output_bytes = 0
        self.commit_asked = self._resting = self._stirred = False

    def committed(
        self, positions: Mapping[TopicPartition, int], rows: int, now_ms: int, end: int | None = None
    ) -> None:
        """`end`: the end of its changelog before the generation was written, if somebody asked."""
        assert self.core is not None
        if self.disk is None:
            self.core.committed()
        else:
            self.core.committed(end)
        self.settled, self.settled_ms = dict(positions), now_ms
        self.suspicions = 0
        if rows and self.failure is None:
            self.failures = self.waits = 0

    def rollback(self, reader: Reader, now_ms: int) -> None:
        """Back to the last commit; the inputs are read again from there."""
        assert self.core is not None
        positions = self.core.rollback()
        if self.breaker is not None:
            self.breaker.begin(self.core.stats())
        self._read = self._records_read()
        self.failure = None
        self._begin_generation()
        self.quiet = False
        self._stop_all(reader)
        self._read_from(reader, positions)
        self.core.begin(now_ms)

    def drop(self, reader: Reader) -> None:
        """Forgets the memory of it; what was not committed never happened."""
        if self.restore is not None:
            self.restore.close()
        if self.snapshot is not None:
            self.snapshot.close()
        if self.disk is not None:
            self.disk.close()
        self._stop_all(reader)
        self.core = self.restore = self.snapshot = self.disk = self.failure = None
        self._begin_generation()
        self.quiet = False
        self.state = State.RESTORING

    def _read_from(self, reader: Reader, positions: Mapping[TopicPartition, int]) -> None:
        for tp, position in positions.items():
            if position < self._limits.get(tp, position + 1):
                reader.add(*tp, position)
                self._reading.add(tp)
            elif self.core is not None:
                self.core.caught_up(*tp, True)

    def _stop_reading(self, reader: Reader, tp: TopicPartition) -> None:
        reader.remove(*tp)
        self._reading.discard(tp)
        if self.core is not None:
            self.core.caught_up(*tp, True)

    def _stop_all(self, reader: Reader) -> None:
        for tp in self._reading:
            reader.remove(*tp)
        self._reading.clear()
