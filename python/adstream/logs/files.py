"""JSON lines as topics: read-only input from files, laid over another log.

A topic is a list of files; file i is partition i, a line is a record, its offset the line's number (from 0), its
timestamp the file's time of change (or one given). Blank lines are no records: offsets have gaps there. The files
are taken as long as they are when the log is opened; positions in them are committed in the log beneath, so a run
can be taken up again.

Lines are found in blocks: opening counts the newlines of each block (a few GB/s), and that small index turns an
offset into a place to read from.
"""

from __future__ import annotations

import bisect
import glob
from collections.abc import Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from adstream._core import RawBatch
from adstream.errors import ConfigError
from adstream.interfaces import Leases, Log, Reader, TopicPartition, TopicSpec, Writer

if TYPE_CHECKING:
    from adstream._core import Record

BLOCK_BYTES = 1 << 20


class FilesLog:
    """`inner` with some topics read from files.

    Args:
        inner: everything else, and the positions in the files. It must accept offsets of topics it does not have,
        as the
            embedded log does; Kafka does not.
        topics: topic -> paths or glob patterns. Matches of a pattern are sorted: the order is part of what a
        partition is. timestamp_ms: the records' timestamp; None takes each file's time of change.

    Raises:
        ConfigError: a pattern matches nothing, or `inner` has a topic of that name.
    """

    def __init__(
        self, inner: Log, topics: Mapping[str, Sequence[Path | str]], *, timestamp_ms: int | None = None
    ) -> None:
        self._inner = inner
        self._files = {topic: [_Lines(p, timestamp_ms) for p in _expand(topic, ps)] for topic, ps in topics.items()}
        for topic in inner.partitions(list(topics)):
            raise ConfigError(f"topic `{topic}` exists in the log: it cannot come from files, too", option="--input")

    def create_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        for spec in specs:
            if spec.name in self._files and spec.partitions != len(self._files[spec.name]):
                raise ConfigError(
                    f"`{spec.name}` is {len(self._files[spec.name])} files, {spec.partitions} are needed",
                    option="--input",
                )
        return self._inner.create_topics([spec for spec in specs if spec.name not in self._files])

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        mine = {topic: len(self._files[topic]) for topic in topics if topic in self._files}
        return mine | self._inner.partitions([topic for topic in topics if topic not in mine])

    def committed(self, group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
        return self._inner.committed(group, partitions)

    def start_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        mine = {tp: 0 for tp in partitions if tp[0] in self._files}
        return mine | self._inner.start_offsets([tp for tp in partitions if tp not in mine])

    def end_offsets(self, partitions: Sequence[TopicPartition], *, committed: bool) -> dict[TopicPartition, int]:
        mine = {tp: self._files[tp[0]][tp[1]].count for tp in partitions if tp[0] in self._files}
        return mine | self._inner.end_offsets([tp for tp in partitions if tp not in mine], committed=committed)

    def reader(self) -> Reader:
        return _FilesReader(self._files, self._inner.reader())

    def writer(self, slot: str, *, exactly_once: bool = True) -> Writer:
        return self._inner.writer(slot, exactly_once=exactly_once)

    def leases(self, group: str, topic: str) -> Leases:
        return self._inner.leases(group, topic)

    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        self._inner.delete_records({tp: offset for tp, offset in before.items() if tp[0] not in self._files})

    def close(self) -> None:
        self._inner.close()


class _FilesReader:
    def __init__(self, files: Mapping[str, Sequence[_Lines]], inner: Reader) -> None:
        self._files, self._inner = files, inner
        self._cursors: dict[TopicPartition, _Cursor] = {}

    def add(self, topic: str, partition: int, position: int) -> None:
        if topic in self._files:
            self.remove(topic, partition)
            self._cursors[topic, partition] = _Cursor(self._files[topic][partition], position)
        else:
            self._inner.add(topic, partition, position)

    def remove(self, topic: str, partition: int) -> None:
        if topic in self._files:
            cursor = self._cursors.pop((topic, partition), None)
            if cursor is not None:
                cursor.close()
        else:
            self._inner.remove(topic, partition)

    def read(self, topic: str, partition: int, max_rows: int) -> RawBatch | None:
        if topic in self._files:
            return self._cursors[topic, partition].read(max_rows)
        return self._inner.read(topic, partition, max_rows)

    def at_end(self, topic: str, partition: int) -> bool:
        if topic in self._files:
            return self._cursors[topic, partition].at_end
        return self._inner.at_end(topic, partition)

    def wait(self, timeout_s: float) -> None:
        if all(cursor.at_end for cursor in self._cursors.values()):
            self._inner.wait(timeout_s)

    def close(self) -> None:
        for topic, partition in list(self._cursors):
            self.remove(topic, partition)
        self._inner.close()


class _Lines:
    """One file, and after which number of lines each of its blocks begins."""

    def __init__(self, path: Path, timestamp_ms: int | None) -> None:
        self.path = path
        self.timestamp_ms = int(path.stat().st_mtime * 1000) if timestamp_ms is None else timestamp_ms
        self.newlines_before = [0]
        last = b"\n"
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK_BYTES):
                self.newlines_before.append(self.newlines_before[-1] + block.count(b"\n"))
                last = block[-1:]
        self.count = self.newlines_before[-1] + (last != b"\n")


class _Cursor:
    """Reads one file's lines in order from a given one."""

    def __init__(self, lines: _Lines, position: int) -> None:
        self._lines, self._position = lines, position
        block = max(0, bisect.bisect_left(lines.newlines_before, position) - 1)
        self._file = lines.path.open("rb", buffering=0)
        self._file.seek(block * BLOCK_BYTES)
        self._ready: list[bytes] = []
        self._taken = 0
        self._tail = b""
        # A block begins in the middle of a line: what comes before its first newline is that line's end, line number
        # `newlines_before[block]`.
        self._skip = position - lines.newlines_before[block]

    @property
    def at_end(self) -> bool:
        return self._position >= self._lines.count

    def read(self, max_rows: int) -> RawBatch | None:
        if self.at_end:
            return None
        while self._taken == len(self._ready):
            self._fill()
        first = self._position
        lines = self._ready[self._taken : self._taken + min(max_rows, self._lines.count - first)]
        self._taken += len(lines)
        self._position += len(lines)
        numbers = range(first, self._position)
        timestamp, empty = self._lines.timestamp_ms, list[tuple[str, bytes | None]]()
        records: list[Record] = list(zip(numbers, repeat(timestamp), repeat(None), lines, repeat(empty), strict=False))
        if b"" in lines or b"\r" in lines:
            records = [record for record in records if record[3] not in (b"", b"\r")]
        return RawBatch(records, self._position)

    def _fill(self) -> None:
        block = self._file.read(BLOCK_BYTES)
        lines = (self._tail + block).split(b"\n")
        self._tail = lines.pop() if block else b""
        self._ready, self._taken = lines, min(self._skip, len(lines))
        self._skip -= self._taken

    def close(self) -> None:
        self._file.close()


def _expand(topic: str, patterns: Sequence[Path | str]) -> list[Path]:
    found: list[Path] = []
    for pattern in patterns:
        matches = sorted(glob.glob(str(pattern), recursive=True))
        if not matches:
            raise ConfigError(f"no file `{pattern}` for topic `{topic}`", option="--input")
        found += map(Path, matches)
    return found
