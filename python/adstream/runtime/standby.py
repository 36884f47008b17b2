"""Standbys: the changelogs of tasks that others own, followed here, so that a take-over reads only the tail.

    membership heard     the tasks that this worker is to follow (`followers.py`); others are let go
    each step            one that is new begins: its local snapshot or stores on disk, as with any restore; then a slice of
                         what has come, in turns
    before it joins      a worker that starts follows what it will be given (`Worker`), and joins when it has that
    granted              the task is handed over with its memory and its place: `Restore.adopt`
    owner                never: who follows writes nothing, commits nothing, has no say

A follower reads what is committed: an open transaction of the owner holds it back as it holds back any reader, an aborted
one passes it by. It reads with a reader of its own, so that a changelog that is caught up with does not share the fetches of the
inputs, and a worker that waits for input is not woken by it.

**What goes wrong here is nobody's trouble.** A changelog that was trimmed below a follower's place, damaged files, a log that
does not answer, state of another topology (a rolling upgrade): the follower begins again, at once or later; tasks go on.

**Own tasks come first.** While they have work, followers together get `BUSY_BYTES` of changelog a step; else more.
Memory: a follower holds what the owner holds, and what the reader has fetched ahead.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adstream._core import CoreError
from adstream.errors import FatalError, LogUnavailableError, OffsetGoneError
from adstream.interfaces import Log, Membership, Reader, TopicPartition
from adstream.runtime.assignment import TaskSpec
from adstream.runtime.disk import LocalStateError, told
from adstream.runtime.followers import followed
from adstream.runtime.restore import Restore
from adstream.runtime.snapshot import Snapshots
from adstream.runtime.task import Core, StreamTask

log = logging.getLogger(__name__)

READ_ROWS = 16
"""Records at a time: one may be a frame of half a megabyte."""
BUSY_ROWS, IDLE_ROWS = 500, 20_000
BUSY_BYTES, IDLE_BYTES = 256 << 10, 8 << 20
AGAIN_MS = 1_000
"""After the log did not answer."""
REFUSED_MS = 60_000
"""After a changelog could not be applied."""


@dataclass(frozen=True, slots=True)
class StandbyStatus:
    name: str
    changelog: TopicPartition
    position: int | None
    """The next record that it reads; None: it has not begun."""
    caught_up: bool
    """Whether it had read all that is committed, when it last looked."""


class Standbys:
    """The followers of one worker.

    Args:
        count: how many other workers follow each task.
        make: the core of a task, with its stores on disk if it has some.
        set_aside: stores on disk cannot be used: closes the task, and puts them away.
    """

    def __init__(
        self,
        count: int,
        specs: Sequence[TaskSpec],
        log: Log,
        group: str,
        make: Callable[[StreamTask], Core],
        set_aside: Callable[[StreamTask, object], None],
        *,
        exactly_once: bool,
        snapshots: Snapshots | None,
        trim_every_ms: int,
    ) -> None:
        self._count, self._specs, self._log, self._group = count, specs, log, group
        self._make, self._set_aside = make, set_aside
        self._exactly_once, self._snapshots, self._trim_every_ms = exactly_once, snapshots, trim_every_ms
        self.tasks: dict[int, StreamTask] = {}
        """Followed tasks by number; those without a restore have not begun."""
        self.rows = 0
        """Records that were applied so far, by all of them."""
        self._reader: Reader | None = None
        self._turns: deque[int] = deque()
        self._chosen: tuple[Membership, frozenset[int]] | None = None
        self._resume_ms = 0
        self._trimmed_ms: int | None = None

    # Which

    def choose(self, membership: Membership | None, owned: frozenset[int]) -> None:
        """Follows what is to be followed now, and lets go of the rest."""
        if membership is None or self._chosen == (membership, owned):
            return
        self._chosen = (membership, owned)
        wanted = {
            index
            for index in followed(membership.tasks, membership.me, self._count) - owned
            if index < len(self._specs) and self._specs[index].changelog is not None
        }
        # A task that nobody has, or that is said to be this worker's, is on its way: perhaps to here.
        elsewhere = {task for who, theirs in membership.tasks.items() if who != membership.me for task in theirs}
        for index in sorted((self.tasks.keys() & elsewhere) - wanted):
            self._let_go(index)
        for index in sorted(wanted - self.tasks.keys()):
            self.tasks[index] = StreamTask(self._specs[index])
            self._turns.append(index)

    def take(self, index: int) -> StreamTask | None:
        """The task is granted: whoever owns it goes on with what was read here."""
        task = self.tasks.pop(index, None)
        if task is not None:
            self._turns.remove(index)
            task.begin_ms = 0
            if task.restore is not None:
                task.restore.close()
        return task

    def _let_go(self, index: int) -> None:
        task = self.tasks.pop(index)
        self._turns.remove(index)
        if task.restore is not None:
            task.restore.park()
        self._drop(task)
        log.info("task %s: no standby here any more", task.spec.name)

    def _drop(self, task: StreamTask) -> None:
        if self._reader is not None:
            task.drop(self._reader)

    def warm(self, now_ms: int) -> bool:
        """Whether nothing is left to be read, as far as it can be."""
        followed = [task.restore for task in self.tasks.values() if task.begin_ms <= now_ms]
        return all(restore is not None and restore.caught_up for restore in followed)

    # What they read

    def step(self, now_ms: int, *, busy: bool) -> bool:
        """A slice of what has come; returns whether there was anything."""
        if not self._turns or now_ms < self._resume_ms:
            return False
        rows, size = (BUSY_ROWS, BUSY_BYTES) if busy else (IDLE_ROWS, IDLE_BYTES)
        did = False
        try:
            if self._reader is None:
                self._reader = self._log.reader()
            self._trim(now_ms)
            for _ in range(len(self._turns)):
                task = self.tasks[self._turns[0]]
                self._turns.rotate(-1)
                if now_ms < task.begin_ms:
                    continue
                restore = task.restore
                before = (0, 0) if restore is None else (restore.rows, restore.bytes)
                try:
                    if restore is None:
                        self._begin(task)
                        return True  # one at a time: the log is asked, and may take its time
                    self._advance(restore, rows, size)
                except (LocalStateError, OffsetGoneError, CoreError, FatalError) as error:
                    self._failed(task, error, now_ms)
                    return True
                finally:
                    if restore is not None:
                        read = restore.rows - before[0]
                        self.rows += read
                        rows, size = rows - read, size - (restore.bytes - before[1])
                        did |= read > 0
                if rows <= 0 or size <= 0:
                    break
        except LogUnavailableError as error:
            log.debug("standbys wait: %s", error)
            self._resume_ms = now_ms + AGAIN_MS
        return did

    def _begin(self, task: StreamTask) -> None:
        assert self._reader is not None
        core = self._make(task)
        places = (self._log, self._reader, self._group)
        task.follow(core, *places, exactly_once=self._exactly_once, snapshots=self._snapshots)
        log.info("task %s: followed as a standby", task.spec.name)

    def _advance(self, restore: Restore, rows: int, size: int) -> None:
        enough = (restore.rows + rows, restore.bytes + size)
        while restore.rows < enough[0] and restore.bytes < enough[1]:
            if not restore.advance(READ_ROWS):
                break

    def _failed(self, task: StreamTask, error: Exception, now_ms: int) -> None:
        """Whatever it is, it begins again."""
        why = told(error) if isinstance(error, CoreError) and task.disk is not None else error
        if isinstance(why, LocalStateError):
            self._set_aside(task, why)
        elif isinstance(error, OffsetGoneError):
            log.info("task %s: the standby begins again: %s", task.spec.name, error)
            self._drop(task)
        else:
            log.warning("task %s cannot be followed, tried again later: %s", task.spec.name, error)
            self._drop(task)
            task.begin_ms = now_ms + REFUSED_MS

    def _trim(self, now_ms: int) -> None:
        """Copies on disk forget what their changelogs have forgotten."""
        if self._trimmed_ms is None:
            self._trimmed_ms = now_ms
        if not self._trim_every_ms or now_ms - self._trimmed_ms < self._trim_every_ms:
            return
        self._trimmed_ms = now_ms
        copies = {t.spec.changelog: t.snapshot for t in self.tasks.values() if t.snapshot is not None}
        logs = [changelog for changelog in copies if changelog is not None]
        for changelog, start in (self._log.start_offsets(logs) if logs else {}).items():
            copies[changelog].forget(start)

    # The end, and what they say

    def status(self) -> tuple[StandbyStatus, ...]:
        return tuple(self._said(task) for _, task in sorted(self.tasks.items()))

    def _said(self, task: StreamTask) -> StandbyStatus:
        assert task.spec.changelog is not None
        position = None if task.restore is None else task.restore.position
        return StandbyStatus(
            task.spec.name, task.spec.changelog, position, task.restore is not None and task.restore.caught_up
        )

    def drop(self) -> None:
        """Lets all of them go; who has left the group is to follow nothing."""
        for index in list(self.tasks):
            self._let_go(index)
        self._chosen = None

    def close(self) -> None:
        self.drop()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
