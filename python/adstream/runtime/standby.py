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
does not answer, state of another topology (a rolling upgrade): the follower begins again, at once or later; tasks and the other
followers go on. What is asked of the log is asked beside the worker (`beside.py`): a leader that is away may be silent for long.

**A forecast may be wrong for a moment.** In the middle of a rebalance tasks seem to be where they will not stay. What has not
been to be followed for `LINGER_MS` is let go of, and not before: reading it all again costs more than keeping it.

**Own tasks come first.** While they have work, followers together get `BUSY_BYTES` of changelog a step; else more.
Memory: a follower holds what the owner holds, and what the reader has fetched ahead.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from adstream._core import CoreError
from adstream.errors import FatalError, LogUnavailableError, OffsetGoneError
from adstream.interfaces import Log, Membership, Reader, TopicPartition
from adstream.runtime.assignment import TaskSpec
from adstream.runtime.beside import Beside
from adstream.runtime.disk import LocalStateError, TaskDisk, told
from adstream.runtime.followers import followed
from adstream.runtime.restore import Restore
from adstream.runtime.snapshot import Snapshot, Snapshots
from adstream.runtime.task import Core, StreamTask

log = logging.getLogger(__name__)

READ_ROWS = 16
"""Records at a time: one may be a frame of half a megabyte."""
BUSY_ROWS, IDLE_ROWS = 500, 20_000
BUSY_BYTES, IDLE_BYTES = 256 << 10, 8 << 20
AGAIN_MS = 1_000
"""After the log did not answer."""
LINGER_MS = 10_000
"""How long a task is followed that need not be any more."""
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


Bounds = tuple[Mapping[TopicPartition, int], Mapping[TopicPartition, int]]
"""First offsets and ends, of some changelogs."""


def tidied(disk: TaskDisk) -> bool:
    disk.tidy()
    return True


class Standbys:
    """The followers of one worker.

    Args:
        count: how many other workers follow each task.
        make: the core of a task, with its stores on disk if it has some.
        set_aside: stores on disk cannot be used: closes the task, and puts them away.
        beside: where the log is asked.
        tidier: where stores on disk are written.
    """

    def __init__(
        self,
        count: int,
        specs: Sequence[TaskSpec],
        log: Log,
        group: str,
        make: Callable[[StreamTask], Core],
        set_aside: Callable[[StreamTask, object], None],
        beside: Beside[Bounds],
        tidier: Beside[bool] | None,
        *,
        exactly_once: bool,
        snapshots: Snapshots | None,
        trim_every_ms: int,
    ) -> None:
        self._count, self._specs, self._log, self._group = count, specs, log, group
        self._make, self._set_aside, self._beside, self._tidier = make, set_aside, beside, tidier
        self._exactly_once, self._snapshots, self._trim_every_ms = exactly_once, snapshots, trim_every_ms
        self.tasks: dict[int, StreamTask] = {}
        """Followed tasks by number; those without a restore have not begun."""
        self.rows = 0
        """Records that were applied so far, by all of them."""
        self._reader: Reader | None = None
        self._turns: deque[int] = deque()
        self._asked: tuple[Callable[..., None], StreamTask | None] | None = None
        """Of the log, beside the worker, and about which task."""
        self._unwanted: dict[int, int] = {}
        """Followed all the same, and since when."""
        self._untidy: deque[TaskDisk] = deque()
        """They have grown, and read on when they were tidied; the first is at it, if any is."""
        self._reached: set[int] = set()
        """Those that have been at the end once."""
        self._chosen: tuple[Membership, frozenset[int]] | None = None
        self._resume_ms = 0
        self._trimmed_ms: int | None = None

    # Which

    def choose(self, membership: Membership | None, owned: frozenset[int], now_ms: int) -> None:
        """Follows what is to be followed now; the rest not for much longer."""
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
        unwanted = (self.tasks.keys() & elsewhere) - wanted
        self._unwanted = {index: self._unwanted.get(index, now_ms) for index in sorted(unwanted)}
        for index in sorted(wanted - self.tasks.keys()):
            self.tasks[index] = StreamTask(self._specs[index])
            self._turns.append(index)

    def take(self, index: int) -> StreamTask | None:
        """The task is granted: whoever owns it goes on with what was read here."""
        task = self._forget(index)
        if task is not None:
            task.begin_ms = 0
            if task.restore is not None:
                task.restore.close()
        return task

    def _forget(self, index: int) -> StreamTask | None:
        task = self.tasks.pop(index, None)
        if task is not None:
            self._turns.remove(index)
            self._unwanted.pop(index, None)
            self._reached.discard(index)
        return task

    def _let_go(self, index: int) -> None:
        task = self._forget(index)
        assert task is not None
        if task.restore is not None:
            task.restore.park()
        self._drop(task)
        log.info("task %s: no standby here any more", task.spec.name)

    def _drop(self, task: StreamTask) -> None:
        if self._reader is not None:
            task.drop(self._reader)

    def warm(self, now_ms: int) -> bool:
        """Whether all have been at the end of their changelogs, as far as they can be. Not all at once: where much is written,
        that may never be."""
        return all(index in self._reached or task.begin_ms > now_ms for index, task in self.tasks.items())

    # What they read

    def step(self, now_ms: int, *, busy: bool) -> bool:
        """A slice of what has come; returns whether there was anything."""
        for index in [index for index, since in self._unwanted.items() if now_ms - since >= LINGER_MS]:
            self._let_go(index)
        if not self._turns or now_ms < self._resume_ms:
            return False
        try:
            if self._reader is None:
                self._reader = self._log.reader()
        except LogUnavailableError as error:
            log.debug("standbys wait: %s", error)
            self._resume_ms = now_ms + AGAIN_MS
            return False
        did = self._hear(now_ms)
        self._ask(now_ms)
        self._tidy()
        rows, size = (BUSY_ROWS, BUSY_BYTES) if busy else (IDLE_ROWS, IDLE_BYTES)
        for _ in range(len(self._turns)):
            index = self._turns[0]
            self._turns.rotate(-1)
            task = self.tasks[index]
            if (restore := task.restore) is None or now_ms < task.begin_ms or task.disk in self._untidy:
                continue
            before = (restore.rows, restore.bytes)
            with self._whatever(task, now_ms):
                self._advance(restore, rows, size)
                if restore.caught_up:
                    self._reached.add(index)
            read = restore.rows - before[0]
            self.rows += read
            rows, size = rows - read, size - (restore.bytes - before[1])
            did |= read > 0
            if read and task.disk is not None:
                self._untidy.append(task.disk)
            if rows <= 0 or size <= 0:
                break
        return did

    def _tidy(self) -> None:
        """Stores on disk write what has grown large beside the worker, one after the other."""
        if self._tidier is None:
            return
        if self._tidier.busy and self._tidier.take() is not None:
            self._untidy.popleft()
        if self._untidy and not self._tidier.busy:
            self._tidier.submit(partial(tidied, self._untidy[0]))

    @contextmanager
    def _whatever(self, task: StreamTask, now_ms: int) -> Iterator[None]:
        """What goes wrong with this one."""
        try:
            yield
        except (LocalStateError, OffsetGoneError, CoreError, FatalError) as error:
            self._failed(task, error, now_ms)
        except LogUnavailableError as error:
            log.debug("the standby of task %s waits: %s", task.spec.name, error)
            task.begin_ms = now_ms + AGAIN_MS

    # What is asked of the log, one question at a time

    def _ask(self, now_ms: int) -> None:
        if self._asked is not None:
            return
        followed = (self.tasks[index] for index in self._turns)
        new = next((task for task in followed if task.restore is None and now_ms >= task.begin_ms), None)
        if new is not None:
            assert new.spec.changelog is not None
            logs = [new.spec.changelog]
            self._asked = (partial(self._begin, new), new)
        elif copies := self._to_trim(now_ms):
            logs = list(copies)
            self._asked = (partial(self._trim, copies), None)
        else:
            return
        self._beside.submit(partial(self._bounds, logs))

    def _bounds(self, logs: list[TopicPartition]) -> Bounds:
        """Runs beside."""
        return self._log.start_offsets(logs), self._log.end_offsets(logs, committed=False)

    def _hear(self, now_ms: int) -> bool:
        if self._asked is None:
            return False
        then, task = self._asked
        try:
            bounds = self._beside.take()
        except LogUnavailableError as error:
            log.debug("standbys wait: %s", error)
            self._asked = None
            if task is not None:
                task.begin_ms = now_ms + AGAIN_MS
            return False
        if bounds is None:
            return False
        self._asked = None
        if task is None:
            then(*bounds)
        elif any(followed is task for followed in self.tasks.values()):  # still
            with self._whatever(task, now_ms):
                then(*bounds)
        return True

    def _begin(
        self, task: StreamTask, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> None:
        assert self._reader is not None
        assert task.spec.changelog is not None
        bounds = (starts[task.spec.changelog], ends[task.spec.changelog])
        core = self._make(task)
        places = (self._log, self._reader, self._group)
        task.follow(core, *places, bounds, exactly_once=self._exactly_once, snapshots=self._snapshots)
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

    def _to_trim(self, now_ms: int) -> dict[TopicPartition, Snapshot]:
        """Copies on disk that are to forget what their changelogs have forgotten; now and then."""
        if self._trimmed_ms is None:
            self._trimmed_ms = now_ms
        if not self._trim_every_ms or now_ms - self._trimmed_ms < self._trim_every_ms:
            return {}
        self._trimmed_ms = now_ms
        followed = ((task.spec.changelog, task.snapshot) for task in self.tasks.values())
        return {changelog: copy for changelog, copy in followed if changelog is not None and copy is not None}

    def _trim(
        self,
        copies: Mapping[TopicPartition, Snapshot],
        starts: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
    ) -> None:
        for changelog, copy in copies.items():
            if any(task.snapshot is copy for task in self.tasks.values()):  # still followed
                copy.forget(starts[changelog])

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
        self._beside.close()
        if self._tidier is not None:
            self._tidier.close()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
