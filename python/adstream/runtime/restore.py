"""Restore: a task's state from its changelog, in slices, while other tasks are running.

    1. committed positions of the inputs, *stable*: the log first settles transactions that hold offsets back. 2. H
    = the very end of the changelog, open and aborted transactions included. After 1: whatever belongs to those
    positions
       lies before it.
    3. read committed records until the position has reached H. Not "until the reader is at its end": that may lie
    before the
       last commit as long as an older transaction is open, and reading to it would lose state.

State without a committed position is an error, never a reason to start over: the offsets expired or were deleted,
and a fresh start on old state would count twice. At least once, it is also what a crash in a task's first commit
leaves, so there it is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from adstream._core import RawBatch
from adstream.errors import FatalError
from adstream.interfaces import Log, Reader, TopicPartition
from adstream.runtime.assignment import TaskSpec


class Restorable(Protocol):
    """What is asked of `adstream._core.Task` here."""

    def restore(self, batch: RawBatch) -> None: ...


class Restore:
    """One task's restore, from its beginning (which asks the log) to the positions where its inputs go on."""

    def __init__(
        self, log: Log, reader: Reader, spec: TaskSpec, task: Restorable, group: str, *, exactly_once: bool = True
    ) -> None:
        self._exactly_once = exactly_once
        self._reader, self._spec, self._task = reader, spec, task
        committed = log.committed(group, spec.inputs)
        self.missing = [tp for tp in spec.inputs if committed.get(tp) is None]
        """Inputs that never had a committed position."""
        starts = log.start_offsets(self.missing) if self.missing else {}
        self.positions: dict[TopicPartition, int] = {
            tp: position if position is not None else starts[tp] for tp, position in committed.items()
        }
        self.rows = 0
        self.first = self.position = self.end = 0
        if spec.changelog is not None:
            self.end = log.end_offsets([spec.changelog], committed=False)[spec.changelog]
            self.first = self.position = log.start_offsets([spec.changelog])[spec.changelog]
            if self.position < self.end:
                reader.add(*spec.changelog, self.position)

    @property
    def fraction(self) -> float:
        """How much of the changelog has been read, 0 to 1."""
        return 1.0 if self.end <= self.first else (self.position - self.first) / (self.end - self.first)

    def advance(self, max_rows: int, stop: Callable[[], bool] = lambda: False) -> bool:
        """Reads on, at most `max_rows` records; returns whether it made progress."""
        rows_before, position_before = self.rows, self.position
        while not self.done and self.rows - rows_before < max_rows and not stop():
            assert self._spec.changelog is not None
            batch = self._reader.read(*self._spec.changelog, max_rows)
            if batch is None:
                break
            if len(batch):
                self._task.restore(batch)
            self.rows += len(batch)
            self.position = batch.next_offset
        return self.position > position_before

    @property
    def done(self) -> bool:
        return self.position >= self.end

    def finish(self) -> dict[TopicPartition, int]:
        """Where the inputs go on. Raises FatalError when there is state, but no position that it belongs to."""
        self.close()
        if self.rows and self.missing and self._exactly_once:
            names = ", ".join(f"`{topic}` [{partition}]" for topic, partition in self.missing)
            raise FatalError(
                f"task {self._spec.name} has state ({self.rows} changelog records), but no committed position of"
                f" {names}: its offsets expired or were deleted\nhint: set the group's offsets to where the state"
                " ends, or reset the application"
            )
        return self.positions

    def close(self) -> None:
        if self._spec.changelog is not None and self.first < self.end:
            self._reader.remove(*self._spec.changelog)
