"""JSON lines and Parquet as topics: read-only input from files, laid over another log.

A topic is a list of files; file i is partition i, a line is a record, its offset the byte at which it begins, its
timestamp the file's time of change (or one given). What a line is stands in `rust/core/src/lines.rs`, which reads them. In a
Parquet file, known by its first bytes, a row is a record and its offset the row's number (`parquet.py`).

A file is taken as long as it is when the log is opened; positions in it are committed in the log beneath, so a run can
be taken up again, also after more lines were appended. A file that is not the one whose position was committed, or that
is cut or replaced under the reader, is refused, as far as that shows: a position is always one behind a newline.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from adstream._core import LineReader
from adstream.errors import ConfigError, FatalError
from adstream.interfaces import Leases, Log, Reader, TopicPartition, TopicSpec, Writer
from adstream.logs.parquet import MAGIC, ParquetFile, ParquetReader

if TYPE_CHECKING:
    from adstream._core import RawBatch

_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


class FilesLog:
    """`inner` with some topics read from files.

    Args:
        inner: everything else, and the positions in the files. It must accept offsets of topics it does not have,
        as the
            embedded log does; Kafka does not.
        topics: topic -> paths or glob patterns. Matches of a pattern are sorted: the order is part of what a
        partition is. timestamp_ms: the records' timestamp; None takes each file's time of change.

    Raises:
        ConfigError: a pattern matches nothing, something it matches is no file of lines, or `inner` has a topic of that
            name.
    """

    def __init__(
        self, inner: Log, topics: Mapping[str, Sequence[Path | str]], *, timestamp_ms: int | None = None
    ) -> None:
        self._inner = inner
        self._files = {topic: [_opened(p, timestamp_ms) for p in _expand(topic, ps)] for topic, ps in topics.items()}
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

    def topics(self) -> list[str]:
        return sorted({*self._files, *self._inner.topics()})

    def topic_settings(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        return self._inner.topic_settings([topic for topic in topics if topic not in self._files])

    def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        return self._inner.topic_ids([topic for topic in topics if topic not in self._files])

    def committed(self, group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
        """Raises ConfigError where a position does not fit its file."""
        found = self._inner.committed(group, partitions)
        for (topic, partition), position in found.items():
            if topic in self._files and position is not None:
                self._files[topic][partition].check(position)
        return found

    def start_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        mine = {tp: 0 for tp in partitions if tp[0] in self._files}
        return mine | self._inner.start_offsets([tp for tp in partitions if tp not in mine])

    def end_offsets(self, partitions: Sequence[TopicPartition], *, committed: bool) -> dict[TopicPartition, int]:
        mine = {tp: self._files[tp[0]][tp[1]].end for tp in partitions if tp[0] in self._files}
        return mine | self._inner.end_offsets([tp for tp in partitions if tp not in mine], committed=committed)

    def offsets_at(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Raises ConfigError for a file: its records have no times of their own."""
        for topic in sorted({topic for topic, _ in times if topic in self._files}):
            raise ConfigError(
                f"`{topic}` comes from files, which cannot be searched by time",
                option="offset_reset",
                hint='write "earliest" or "latest"',
            )
        return self._inner.offsets_at(times)

    def members(self, group: str) -> list[str]:
        return self._inner.members(group)

    def covers(self, topics: Sequence[str]) -> bool:
        """Whether all of these come from files."""
        return all(topic in self._files for topic in topics)

    def unit(self, topics: Sequence[str]) -> str:
        """What offsets of these topics count: `bytes`, `rows`, or of several kinds `offsets`."""
        units = {file.unit for topic in topics for file in self._files.get(topic, ())}
        return units.pop() if len(units) == 1 and self.covers(topics) else "offsets"

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
    def __init__(self, files: Mapping[str, Sequence[_File | ParquetFile]], inner: Reader) -> None:
        self._files, self._inner = files, inner
        self._lines: dict[TopicPartition, LineReader | ParquetReader] = {}

    def add(self, topic: str, partition: int, position: int) -> None:
        if topic in self._files:
            self._lines[topic, partition] = self._files[topic][partition].lines(position)
        else:
            self._inner.add(topic, partition, position)

    def remove(self, topic: str, partition: int) -> None:
        if topic in self._files:
            self._lines.pop((topic, partition), None)
        else:
            self._inner.remove(topic, partition)

    def read(self, topic: str, partition: int, max_rows: int) -> RawBatch | None:
        if topic not in self._files:
            return self._inner.read(topic, partition, max_rows)
        try:
            return self._lines[topic, partition].read(max_rows)
        except (ValueError, OSError) as error:
            raise FatalError(f"`{self._files[topic][partition].path}` cannot be read on: {error}") from error

    def at_end(self, topic: str, partition: int) -> bool:
        if topic in self._files:
            return self._lines[topic, partition].at_end
        return self._inner.at_end(topic, partition)

    def unread(self) -> Set[TopicPartition] | None:
        inner = self._inner.unread()
        return None if inner is None else {*inner, *self._lines}

    def wait(self, timeout_s: float) -> None:
        if all(lines.at_end for lines in self._lines.values()):
            self._inner.wait(timeout_s)

    def close(self) -> None:
        self._lines.clear()
        self._inner.close()


class _File:
    """One file, as it was when the log was opened."""

    unit = "bytes"

    def __init__(self, path: Path, timestamp_ms: int | None) -> None:
        self.path = path
        try:
            if not path.is_file():  # opening a pipe would wait for its other end
                raise ConfigError(f"`{path}` is not a regular file", option="--input")
            with path.open("rb", buffering=0) as file:
                found = os.fstat(file.fileno())
                head = file.read(8)
                file.seek(max(0, found.st_size - 1))
                last = file.read(1)
        except OSError as error:
            raise ConfigError(f"`{path}` cannot be read: {error.strerror}", option="--input") from error
        for magic, kind in _COMPRESSED.items():
            if head.startswith(magic):
                raise ConfigError(
                    f"`{path}` is compressed ({kind})", option="--input", hint="unpack it, and read what comes out"
                )
        self._identity = (found.st_dev, found.st_ino)
        self._size = found.st_size
        self.end = self._size + (last not in (b"", b"\n"))
        """The position behind the last line; a newline that it lacks counts, so that it may still be written."""
        self.timestamp_ms = int(found.st_mtime * 1000) if timestamp_ms is None else timestamp_ms

    def check(self, position: int) -> None:
        """Raises ConfigError when no line can have ended at `position`."""
        if position in (0, self.end):
            return
        if 0 < position <= self._size:
            with self.path.open("rb", buffering=0) as file:
                file.seek(position - 1)
                if file.read(1) == b"\n":
                    return
        raise ConfigError(
            f"`{self.path}` is not the file that was read before, up to byte {position}: no line ends there",
            option="--input",
            hint="lines may only be appended, whole; for other contents begin anew: another --app, or another log",
        )

    def lines(self, position: int) -> LineReader:
        try:
            found = self.path.stat()
            if (found.st_dev, found.st_ino) == self._identity and found.st_size >= self._size:
                return LineReader(self.path, position, self._size, self.end, self.timestamp_ms)
        except OSError as error:
            raise FatalError(f"`{self.path}` cannot be read on: {error.strerror}") from error
        raise FatalError(f"`{self.path}` was replaced or cut since it was opened")


def _opened(path: Path, timestamp_ms: int | None) -> _File | ParquetFile:
    try:
        with path.open("rb") if path.is_file() else open(os.devnull, "rb") as file:
            parquet = file.read(len(MAGIC)) == MAGIC
    except OSError:
        parquet = False  # `_File` says what is wrong
    return ParquetFile(path, timestamp_ms) if parquet else _File(path, timestamp_ms)


def _expand(topic: str, patterns: Sequence[Path | str]) -> list[Path]:
    found: list[Path] = []
    for pattern in patterns:
        matches = sorted(glob.glob(str(pattern), recursive=True))
        if not matches:
            raise ConfigError(f"no file `{pattern}` for topic `{topic}`", option="--input")
        found += map(Path, matches)
    return found
