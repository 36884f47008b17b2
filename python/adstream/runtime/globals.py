"""Global tables in a worker: whole topics, read by a reader of their own into memory that all tasks share.

    start     the ends of all partitions are asked for; no task begins before they are reached
    then      each step of the worker takes what has come, a slice of it

There is no changelog, no snapshot and no committed position: the topic is the table, and each start reads it again. What
was deleted from it before it was read is no part of the table.

A global table stands outside of transactions and of time: a task sees what has arrived. After a crash, records that are
worked through again may see more than the first time (as in Kafka Streams).
"""

from __future__ import annotations

import logging
from typing import Protocol

from adstream._core import RawBatch
from adstream.errors import FatalError, OffsetGoneError
from adstream.interfaces import Log, Reader, TopicPartition

log = logging.getLogger(__name__)


class Applies(Protocol):
    """What is asked of `adstream._core.Globals`."""

    def apply(self, topic: str, partition: int, batch: RawBatch) -> None: ...


class GlobalTables:
    """The reading side of a worker's global tables."""

    def __init__(self, log: Log, partitions: tuple[TopicPartition, ...], tables: Applies) -> None:
        """Asks the log where the topics begin and end, and begins to read."""
        self._log, self._tables = log, tables
        self._positions: dict[TopicPartition, int] = dict(log.start_offsets(partitions))
        self._ends = log.end_offsets(partitions, committed=True)
        """As they were at the start."""
        self._reader: Reader = log.reader()
        for tp, position in self._positions.items():
            self._reader.add(*tp, position)
        self._ready = False
        self.applied = 0
        """Records so far."""

    @property
    def ready(self) -> bool:
        """Whether all that was there at the start has been applied."""
        if not self._ready and all(self._positions[tp] >= end for tp, end in self._ends.items()):
            self._ready = True
            log.info("global tables are complete: %d records", self.applied)
        return self._ready

    @property
    def lag(self) -> int:
        """Records that the start waits for, about (offsets include gaps)."""
        return sum(max(0, end - self._positions[tp]) for tp, end in self._ends.items())

    def step(self, max_rows: int) -> bool:
        """Applies what is at hand, about `max_rows` records of each partition; whether there was anything."""
        did = False
        for tp, position in self._positions.items():
            try:
                batch = self._reader.read(*tp, max_rows)
            except OffsetGoneError:
                self._begin_again(tp, position)
                did = True
                continue
            if batch is None:
                continue
            did = True
            if len(batch):
                self._tables.apply(*tp, batch)
                self.applied += len(batch)
            self._positions[tp] = max(position, batch.next_offset)
        return did

    def _begin_again(self, tp: TopicPartition, position: int) -> None:
        """Records were deleted before they were read: goes on with what is left."""
        start = self._log.start_offsets([tp])[tp]
        if start <= position:
            raise FatalError(
                f"topic `{tp[0]}` [{tp[1]}] no longer reaches offset {position}: it was deleted and made again, and the"
                " global table in memory is of the former one\nhint: start the worker again"
            )
        log.warning("global table's topic %s: records %d to %d are gone, going on behind them", tp, position, start)
        self._reader.remove(*tp)
        self._reader.add(*tp, start)
        self._positions[tp] = start

    def close(self) -> None:
        self._reader.close()
