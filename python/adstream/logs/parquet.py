"""Parquet files as partitions of a topic: a row is a record whose value is a JSON object, its offset the row's number.

The object is what the same row in a file of JSON lines would be: decimals as text, times as RFC 3339 (without a zone if the
column has none), durations and times of day in milliseconds, a null is null. A float that is no number is its name as text,
which no column of numbers takes: a dead letter, not a null. Columns of bytes have no form in JSON and are refused.

Rows come in the file's order, a row group at a time. What a file is taken for, when, and what is refused later is said in
`files.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import time, timedelta
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

import orjson

from adstream._core import RawBatch
from adstream.errors import ConfigError, FatalError

MAGIC = b"PAR1"
ROWS = 8192
_MS = timedelta(milliseconds=1)


class ParquetFile:
    """One file, as it was when the log was opened.

    Raises:
        ConfigError: it is not whole, or has columns of bytes.
    """

    unit = "rows"

    def __init__(self, path: Path, timestamp_ms: int | None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        found = path.stat()
        try:
            with pq.ParquetFile(path) as file:
                schema, self._groups = (
                    file.schema_arrow,
                    [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)],
                )
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"`{path}` cannot be read as Parquet: {error}", option="--input") from error
        for field in schema:
            if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
                raise ConfigError(
                    f"`{path}`: the column `{field.name}` is bytes, which have no form in JSON",
                    option="--input",
                    hint="write the file without it, or as text",
                )
        self._identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        self.end = sum(self._groups)
        self.timestamp_ms = int(found.st_mtime * 1000) if timestamp_ms is None else timestamp_ms

    def check(self, position: int) -> None:
        """Raises ConfigError when the file has no such row."""
        if not 0 <= position <= self.end:
            raise ConfigError(
                f"`{self.path}` is not the file that was read before, up to row {position}: it has {self.end}",
                option="--input",
                hint="for other contents begin anew: another --app, or another log",
            )

    def lines(self, position: int) -> ParquetReader:
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise FatalError(f"`{self.path}` cannot be read on: {error.strerror}") from error
        if (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns) != self._identity:
            raise FatalError(f"`{self.path}` was replaced or changed since it was opened")
        return ParquetReader(self.path, self._groups, position, self.end, self.timestamp_ms)


class ParquetReader:
    """Rows of one file from a position on."""

    def __init__(self, path: Path, groups: list[int], position: int, end: int, timestamp_ms: int) -> None:
        self._position, self._end, self._timestamp_ms = position, end, timestamp_ms
        self._batches = _batches(path, groups, position)
        self._rows: list[bytes] = []

    @property
    def at_end(self) -> bool:
        return self._position >= self._end

    def read(self, max_rows: int) -> RawBatch | None:
        """Raises OSError, ValueError: the file is damaged."""
        if self.at_end:
            return None
        if not self._rows:
            self._rows = _json(next(self._batches))
        taken, self._rows = self._rows[:max_rows], self._rows[max_rows:]
        first = self._position
        self._position += len(taken)
        return RawBatch([(first + i, self._timestamp_ms, None, row, []) for i, row in enumerate(taken)])


def _batches(path: Path, groups: list[int], position: int) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        first = 0
        for group, rows in enumerate(groups):
            skip = position - first
            first += rows
            if skip >= rows:
                continue
            for batch in file.iter_batches(batch_size=ROWS, row_groups=[group]):
                if skip >= len(batch):
                    skip -= len(batch)
                    continue
                yield batch.slice(max(skip, 0))
                skip = 0


def _json(batch: Any) -> list[bytes]:
    """Each row as a JSON object."""
    import pyarrow as pa

    columns = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            column = column.cast(pa.timestamp("us", field.type.tz), safe=False)  # Python's times are no finer
        values = column.to_pylist()
        if pa.types.is_floating(field.type):
            values = [v if v is None or isfinite(v) else str(v) for v in values]
        columns[field.name] = values
    names = list(columns)
    option = orjson.OPT_UTC_Z
    return [
        orjson.dumps(dict(zip(names, row, strict=True)), default=_plain, option=option)
        for row in zip(*columns.values(), strict=True)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, timedelta):
        return value // _MS
    if isinstance(value, time):
        return ((value.hour * 60 + value.minute) * 60 + value.second) * 1000 + value.microsecond // 1000
    raise ValueError(f"JSON has no form for a {type(value).__name__}")
