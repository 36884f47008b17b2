"""The test driver's log: topics in memory, written by transactions. Positions and offsets behave as Kafka's.

A transaction leaves a marker behind in every partition that it wrote, and an aborted one leaves its offsets unused, so
that readers meet the gaps they meet in Kafka.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING

from adstream._core import RawBatch
from adstream.interfaces import TopicPartition

if TYPE_CHECKING:
    from adstream._core import Output, Record

_OFFSET = itemgetter(0)


@dataclass(slots=True)
class _Partition:
    records: list[Record] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    """Where each record stands among all that were written to the log."""
    end: int = 0


class MemoryLog:
    """Committed records, and nothing else, can be read."""

    def __init__(self) -> None:
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._written = 0

    def append(self, tp: TopicPartition, records: Iterable[Record]) -> None:
        """Writes outside any transaction. The records' own offsets do not count."""
        partition = self._partition(tp)
        for _, timestamp, key, value, headers in records:
            partition.records.append((partition.end, timestamp, key, value, headers))
            partition.written.append(self._written)
            partition.end += 1
            self._written += 1

    def commit(self, outputs: Sequence[Output]) -> None:
        """Writes as one transaction."""
        for topic, p, batch in outputs:
            self.append((topic, p), batch.records())
        self._mark(outputs)

    def abort(self, outputs: Sequence[Output]) -> None:
        """A transaction that wrote these, in vain."""
        for topic, p, batch in outputs:
            self._partition((topic, p)).end += len(batch)
        self._mark(outputs)

    def end(self, tp: TopicPartition) -> int:
        return self._partition(tp).end

    def read(self, tp: TopicPartition, start: int, stop: int | None = None) -> RawBatch:
        """The records from offset `start` to before `stop`; the position after them is `stop`."""
        partition = self._partition(tp)
        stop = partition.end if stop is None else stop
        first = bisect_left(partition.records, start, key=_OFFSET)
        last = bisect_left(partition.records, stop, key=_OFFSET)
        return RawBatch(partition.records[first:last], stop)

    def first(self, tp: TopicPartition, start: int) -> Record | None:
        """The first record from offset `start` on."""
        records = self._partition(tp).records
        at = bisect_left(records, start, key=_OFFSET)
        return records[at] if at < len(records) else None

    def written(self, tp: TopicPartition, start: int) -> list[tuple[int, Record]]:
        """The records from offset `start` on, each with its place among all that were written."""
        partition = self._partition(tp)
        first = bisect_left(partition.records, start, key=_OFFSET)
        return list(zip(partition.written[first:], partition.records[first:], strict=True))

    def _partition(self, tp: TopicPartition) -> _Partition:
        return self._partitions.setdefault(tp, _Partition())

    def _mark(self, outputs: Sequence[Output]) -> None:
        for tp in {(topic, p) for topic, p, _ in outputs}:
            self._partition(tp).end += 1
