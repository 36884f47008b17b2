"""Restore: a task's state from its snapshot and its changelog, in slices, while other tasks are running.

    1. committed positions of the inputs, *stable*: the log first settles transactions that hold offsets back.
    2. H = the very end of the changelog, open and aborted transactions included. After 1: whatever belongs to those
       positions lies before it.
    3. the last block of the snapshot, if there is one, is compared with the changelog (`snapshot.py` says why). It
       agrees: the snapshot is loaded, and the changelog is read on from its end. It does not: the snapshot is deleted,
       and the changelog is read from its beginning.
    4. read committed records until the position has reached H. Not "until the reader is at its end": that may lie
       before the last commit as long as an older transaction is open, and reading to it would lose state. And nothing
       behind H: what another process that has the task, too, commits meanwhile does not belong to those positions (one of
       the two is fenced). A transaction that stays open before H holds the restore up; `waits` says so.

A task whose stores are on disk (`disk.py`) begins at the place in the changelog that they tell instead; the core says whether
what comes there agrees with them. If not, or if the changelog does not reach there, `LocalStateError` is raised: the stores are
set aside, and the restore begins again without. What the task has in memory alone is read from the beginning all the same,
records that are on disk already are `known` then.

Records that are deleted under the reader (by a former owner of the task that has not heard of it) are none that is
needed: a log forgets what lies before a full round of rewriting. The reader says so, and the restore begins again, with a
task that has nothing: what was applied so far may have been undone in between. So, too, when a damaged block of the snapshot
is met after others, and the changelog does not reach back to it.

A standby (`standby.py`) *follows*: 3 and 4 without an end, and without the questions before them, which are of the task's
owner. When the task is granted here, it is *adopted*: it stops reading, 1 and 2 are asked, and what is missing before H is
read on. It has read nothing that does not belong to those positions: what it saw was committed before they were asked for.

State without a committed position is an error, never a reason to start over: the offsets expired or were deleted,
and a fresh start on old state would count twice. At least once, it is also what a crash in a task's first commit
leaves, so there it is none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from adstream._core import CoreError, RawBatch
from adstream.errors import FatalError, LogUnavailableError, OffsetGoneError
from adstream.interfaces import Log, Reader, TopicPartition
from adstream.runtime.assignment import TaskSpec
from adstream.runtime.disk import LocalStateError, TaskDisk, told
from adstream.runtime.snapshot import Block, DamagedError, Snapshot

WAITS_MS = 10_000
"""Without a record, until a restore says what it waits for; said again after six times as long."""


def before(batch: RawBatch, offset: int) -> RawBatch:
    """The records before `offset`, ending there."""
    stop = sum(1 for record in batch.records() if record[0] < offset)
    return RawBatch(batch.slice(0, stop).records(), offset)


Starts = Callable[[Sequence[TopicPartition]], Mapping[TopicPartition, int]]
"""Where inputs begin that have no committed position."""


class ShorterError(Exception):
    """A changelog ends before what a standby has read of it."""


class Restorable(Protocol):
    """What is asked of `adstream._core.Task` here."""

    def restore(self, batch: RawBatch, known: bool = False) -> None: ...
    def new_inputs(self) -> list[str]: ...
    @property
    def in_memory(self) -> bool: ...


class Restore:
    """One task's restore, from its beginning (which asks the log) to the positions where its inputs go on."""

    def __init__(
        self,
        log: Log,
        reader: Reader,
        spec: TaskSpec,
        task: Restorable,
        group: str,
        *,
        exactly_once: bool = True,
        snapshot: Snapshot | None = None,
        disk: TaskDisk | None = None,
        first: Starts | None = None,
        follows: tuple[int, int] | None = None,
    ) -> None:
        self._exactly_once = exactly_once
        self._log, self._reader, self._spec, self._task, self._group = log, reader, spec, task, group
        self._say_ms: int | None = None
        self.follows = follows is not None
        """Of a standby: it never ends. It was told where its changelog begins and ends: it asks nothing."""
        self.missing: list[TopicPartition] = []
        """Inputs that never had a committed position."""
        self.positions: dict[TopicPartition, int] = {}
        if follows is None:
            self._ask_positions(first)
        self.rows = self.bytes = 0
        self.loaded = 0
        """Records that came from the snapshot."""
        self._followed = (0, 0)
        """`rows` and `loaded` when it was adopted."""
        self.first = self.position = self.end = 0
        self._snapshot = snapshot
        self._disk = disk
        self._known = -1
        """Before this offset, records are on disk."""
        self._expected: deque[tuple[bytes | None, bytes | None]] = deque()
        """Of the snapshot's last block: not met in the changelog yet."""
        self._blocks: deque[Block] = deque()
        self._ahead: deque[RawBatch] = deque()
        """Read while the snapshot was compared."""
        self._reading = False
        if spec.changelog is not None:
            if follows is not None:
                self.first, self.end = follows
            else:
                self.end = log.end_offsets([spec.changelog], committed=False)[spec.changelog]
                self.first = log.start_offsets([spec.changelog])[spec.changelog]
            self.position = self.first
            if snapshot is not None:
                self._begin_with(snapshot)
            if disk is not None and (at := disk.position) is not None:
                if not self.first <= at <= self.end:
                    raise LocalStateError(f"the changelog has {self.first} to {self.end}, they end at {at}")
                self._known = at
                self.position = self.first if task.in_memory else at
                self.first = self.position
            self._read_from(self.position)

    def _ask_positions(self, first: Starts | None) -> None:
        committed = self._log.committed(self._group, self._spec.inputs)
        self.missing = [tp for tp in self._spec.inputs if committed.get(tp) is None]
        starts = (first or self._log.start_offsets)(self.missing) if self.missing else {}
        self.positions = {tp: position if position is not None else starts[tp] for tp, position in committed.items()}

    def adopt(self, reader: Reader, first: Starts, check: Callable[[Restore], None]) -> None:
        """A standby's task is granted here: from now on this is its restore, from where it stands. Safe to repeat after an
        error of the log.

        Args:
            check: of the positions, before anything is read on.

        Raises:
            ShorterError: what was read is no more; it has to begin again.
        """
        self.close()  # what is committed from here on does not belong to the positions that are asked for next
        self._ask_positions(first)
        check(self)
        if self._spec.changelog is not None:
            end = self._log.end_offsets([self._spec.changelog], committed=False)[self._spec.changelog]
            if end < self.position:
                topic, partition = self._spec.changelog
                raise ShorterError(f"`{topic}` [{partition}] ends at {end}; a standby has read it to {self.position}")
            self._reader, self.end = reader, end
            self.follows = False
            self._followed = (self.rows, self.loaded)
            self._read_from(self.position)

    @property
    def sources(self) -> dict[str, int]:
        """Where the records came from: read before, as a standby; the local snapshot; the changelog."""
        rows, loaded = self._followed
        snapshot = self.loaded - loaded
        return {"standby": rows, "snapshot": snapshot, "changelog": self.rows - rows - snapshot}

    @property
    def caught_up(self) -> bool:
        """Of a standby: whether it had read all that is committed, when it last looked."""
        waiting = self._expected or self._blocks or self._ahead
        return not waiting and self._reading and self._reader.at_end(*self._spec.changelog or ("", 0))

    @property
    def resumed(self) -> bool:
        """Whether stores on disk had the most of it."""
        return self._known >= 0

    @property
    def fraction(self) -> float:
        """How much has been read, 0 to 1."""
        applied = self._blocks[0].begin if self._blocks else self.position
        return 1.0 if self.end <= self.first or self.done else max(0.0, applied - self.first) / (self.end - self.first)

    def advance(self, max_rows: int, stop: Callable[[], bool] = lambda: False) -> bool:
        """Reads on, about `max_rows` records or a block of the snapshot; returns whether it made progress."""
        rows, progress = 0, False
        while not self.done and rows < max_rows and not stop():
            assert self._spec.changelog is not None
            if self._blocks and not self._expected:
                self._load(self._blocks[0])
                return True
            if self._ahead:
                batch = self._ahead.popleft()
            else:
                read = self._reader.read(*self._spec.changelog, max_rows)
                if read is None:
                    break
                if read.next_offset > self.end and not self.follows:
                    read = before(read, self.end)
                progress = True
                if self._expected:
                    self._compare(read)
                    continue
                batch = read
            self._apply(batch)
            rows += len(batch)
            progress = True
        if self.done and self._snapshot is not None:
            self._snapshot.append(self.position, read=True)
        return progress

    def waits(self, now_ms: int, moved: bool) -> str | None:
        """What it waits for, when it has not moved for long: now and then, else None. Asked after each `advance`."""
        if moved or self._say_ms is None:
            self._say_ms = now_ms + WAITS_MS
        changelog = self._spec.changelog
        if now_ms < self._say_ms or changelog is None or self.done:
            return None
        self._say_ms = now_ms + 6 * WAITS_MS
        text = f"its restore stands at {self.position} of {self.end} of `{changelog[0]}` [{changelog[1]}]"
        try:
            stable = self._log.end_offsets([changelog], committed=True)[changelog]
        except LogUnavailableError as error:
            return f"{text}: {error}"
        if stable < self.end:
            text += f"; a transaction is open there since {stable}"
        return f"{text}\nhint: if it stays, `kafka-transactions.sh find-hanging` says whose it is, and ends it"

    @property
    def done(self) -> bool:
        return not self.follows and self.position >= self.end and not (self._expected or self._blocks or self._ahead)

    def finish(self) -> dict[TopicPartition, int]:
        """Where the inputs go on. Raises FatalError when there is state, but no position that it belongs to. One that is new to
        the application has none, and is in no state."""
        self.close()
        new = self._task.new_inputs() if self.missing else []
        lost = [tp for tp in self.missing if tp[0] not in new]
        if self.rows and lost and self._exactly_once:
            names = ", ".join(f"`{topic}` [{partition}]" for topic, partition in lost)
            raise FatalError(
                f"task {self._spec.name} has state ({self.rows} changelog records), but no committed position of"
                f" {names}: its offsets expired or were deleted\nhint: set the group's offsets to where the state"
                " ends, or reset the application"
            )
        return self.positions

    def park(self) -> None:
        """A standby ends in order: what it holds for its snapshot is written."""
        if self._snapshot is not None and not (self._expected or self._blocks or self._ahead):
            self._snapshot.append(self.position, read=True)
        self.close()

    def close(self) -> None:
        if self._reading and self._spec.changelog is not None:
            self._reading = False
            self._reader.remove(*self._spec.changelog)

    # The snapshot

    def _begin_with(self, snapshot: Snapshot) -> None:
        """Prepares the comparison, or deletes what cannot be used."""
        while snapshot.blocks:
            last = snapshot.blocks[-1]
            if snapshot.blocks[0].begin > self.first:
                why = "its beginning is lost"
            elif last.begin < self.first:
                why = "the changelog begins after its end"
            elif last.end > self.end:
                why = "the changelog holds less"
            else:
                try:
                    batches = snapshot.load(last)
                except DamagedError as error:
                    snapshot.cut(last, error)
                    continue
                self._expected.extend((key, value) for b in batches for _, _, key, value, _ in b.records())
                self._blocks.extend(snapshot.blocks)
                self.position = last.begin
                return
            snapshot.start_over(self.first, why)
        snapshot.start_over(self.first)

    def _compare(self, batch: RawBatch) -> None:
        """What is read agrees with the snapshot, or the snapshot is none of this log."""
        assert self._snapshot is not None
        rows = 0
        if self._expected:
            for _, _, key, value, _ in batch.records():
                if not self._expected:
                    break
                if (key, value) != self._expected.popleft():
                    self._without_snapshot("it is of another log")
                    return
                rows += 1
        self.position = batch.next_offset
        if rows < len(batch):
            self._ahead.append(batch.slice(rows, len(batch)) if rows else batch)
        if self._expected and self.position >= self.end:
            self._without_snapshot("the changelog holds less")

    def _load(self, block: Block) -> None:
        assert self._snapshot is not None
        try:
            batches = self._snapshot.load(block)
            for batch in batches:
                self._task.restore(batch)
                self.rows += len(batch)
                self.bytes += batch.byte_size
                self.loaded += len(batch)
            self._blocks.popleft()
        except DamagedError as error:
            self._snapshot.cut(block, error)
            if block.begin < self.first:
                why = "it does not reach the changelog's beginning any more"
                if self.loaded:
                    # What was applied may have been undone where nothing can be read any more.
                    self._snapshot.start_over(self.first, why)
                    raise OffsetGoneError(f"the snapshot: {why}") from error
                self._without_snapshot(why)
                return
            self._blocks.clear()
            self._ahead.clear()
            self._read_from(block.begin)
        except CoreError:
            # The changelog may do without: it may have forgotten what cannot be read.
            self._snapshot.start_over(self.first, "its state is not of this topology")
            raise

    def _without_snapshot(self, why: str) -> None:
        assert self._snapshot is not None
        self._snapshot.start_over(self.first, why)
        for waiting in (self._expected, self._blocks, self._ahead):
            waiting.clear()
        self._read_from(self.first)

    # The changelog

    def _apply(self, batch: RawBatch) -> None:
        for part, known in self._parts(batch):
            if self._disk is None:
                self._task.restore(part)
                continue
            try:
                self._task.restore(part, known)
            except CoreError as error:
                raise told(error) or error from error
            if not self.follows:  # a standby's are tidied beside the worker
                self._disk.tidy()
        self.rows += len(batch)
        self.bytes += batch.byte_size
        self.position = max(self.position, batch.next_offset)
        if self._snapshot is not None:
            self._snapshot.hold(batch)
            if self._snapshot.full and not self._ahead:
                self._snapshot.append(self.position, read=True)

    def _parts(self, batch: RawBatch) -> Iterator[tuple[RawBatch, bool]]:
        if self.position >= self._known or batch.next_offset <= self._known:
            if len(batch):
                yield batch, self.position < self._known
            return
        cut = sum(1 for record in batch.records() if record[0] < self._known)
        for start, stop in ((0, cut), (cut, len(batch))):
            if stop > start:
                yield batch.slice(start, stop), stop == cut

    def _read_from(self, position: int) -> None:
        assert self._spec.changelog is not None
        self.close()
        self.position = position
        if position < self.end or self.follows:
            self._reader.add(*self._spec.changelog, position)
            self._reading = True
