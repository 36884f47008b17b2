"""Readers of committed records, three of them:

    fetch     speaks Kafka's protocol itself, in Rust; neither TLS nor SASL
    native    librdkafka's partition queues, in Rust
    portable  the Python client: what the others are compared with

All promise the same: per partition its own bounded buffer, records in offset order, an end that is known, a
position that moves past the markers of transactions, and an error, never a jump, where an offset is gone.
`choose` takes the cheapest that can honour the settings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from adstream._core import FetchReader as CoreFetchReader
from adstream._core import NativeReader as CoreNativeReader
from adstream._core import RawBatch
from adstream.errors import ConfigError
from adstream.interfaces import Reader
from adstream.logs import LogUnavailableError, OffsetGoneError
from adstream.logs.kafka_client import READER, library, logger, quiet, wrong_setting

if TYPE_CHECKING:
    from adstream._core import Record

Kind = Literal["fetch", "native", "portable"]
KIND = "adstream.reader"
"""The name under which the client settings may say which."""

GROUP = "adstream-readers"  # never joined and never committed to: the client insists on a name
TWIN_ROWS = 10_000
TWIN_BYTES = 4 << 20
TRANSIENT = frozenset({-185, -187, -193, -195, 3, 5, 6, 7, 8, 9, 13, 14, 56, 74})
"""As in rust/kafka/src/reader.rs."""

GONE = (
    "No offset to automatically reset to",  # librdkafka, and the next
    "Offset out of range",
    "OFFSET_OUT_OF_RANGE",  # rust/kafka/src/fetch, and the next
    "another was made under its name",
)
"""How a position that is not there is told."""


def choose(settings: Mapping[str, str], wanted: str | None) -> Kind:
    """The kind of reader for these client settings. Raises ConfigError when the one that is wanted cannot honour
    them."""
    if wanted is not None and wanted not in get_args(Kind):
        raise ConfigError(
            f"there is no reader `{wanted}`", option=f"kafka.{KIND}", hint=f"one of {', '.join(get_args(Kind))}"
        )
    if wanted in ("native", "portable"):
        return wanted  # type: ignore[return-value]
    why = CoreFetchReader.unsupported(list(settings.items()))
    if why is None:
        return "fetch"
    if wanted == "fetch":
        raise ConfigError(
            f"the reader `fetch` cannot be used: {why}", option=f"kafka.{KIND}", hint="leave it out, or `native`"
        )
    logger.info("records are read through librdkafka, not by the faster `fetch`: %s", why)
    return "native"


def open_reader(kind: Kind, settings: Mapping[str, str], *, headers: bool) -> Reader:
    config = {"group.id": GROUP, **READER, **settings}
    if kind == "portable":
        return PortableReader(config, headers=headers)
    core: CoreFetchReader | CoreNativeReader
    try:
        if kind == "fetch":
            core = CoreFetchReader(list(config.items()), headers)
        else:
            core = CoreNativeReader(library(), list(config.items()), headers)
    except ValueError as error:
        raise wrong_setting(str(error)) from error
    return FetchReader(core) if kind == "fetch" else NativeReader(core)


class _InRust(Reader):
    def __init__(self, core: CoreFetchReader | CoreNativeReader) -> None:
        self._reader = core

    def add(self, topic: str, partition: int, position: int) -> None:
        try:
            self._reader.add(topic, partition, position)
        except RuntimeError as error:
            raise LogUnavailableError(str(error)) from error

    def remove(self, topic: str, partition: int) -> None:
        self._reader.remove(topic, partition)

    def read(self, topic: str, partition: int, max_rows: int) -> RawBatch | None:
        try:
            return self._reader.read(topic, partition, max_rows)
        except RuntimeError as error:
            gone = any(text in str(error) for text in GONE)
            raise (OffsetGoneError if gone else LogUnavailableError)(str(error)) from error

    def at_end(self, topic: str, partition: int) -> bool:
        return self._reader.at_end(topic, partition)

    def unread(self) -> None:
        """Its queues fill beside it."""

    def wait(self, timeout_s: float) -> None:
        self._reader.wait(timeout_s)
        for error in self._reader.errors():
            logger.info("%s", error)

    def wake(self) -> None:
        self._reader.wake()

    def close(self) -> None:
        self._reader.close()


class FetchReader(_InRust):
    """Kafka's fetch protocol, spoken in Rust."""


class NativeReader(_InRust):
    """librdkafka's partition queues, read in Rust."""


@dataclass(slots=True)
class _Partition:
    position: int
    """After what was read."""
    fetched: int
    """After what lies in `records`."""
    records: deque[Record] = field(default_factory=deque)
    size: int = 0
    at_end: bool = False
    paused: bool = False
    error: str | None = None


class PortableReader(Reader):
    """A consumer's one queue, dealt out to a deque per partition; a partition whose deque is full is
    paused."""

    def __init__(self, settings: Mapping[str, str], *, headers: bool, rows: int = TWIN_ROWS) -> None:
        """`settings`: those of a consumer, whole."""
        self._consumer = Consumer(quiet(settings))
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._headers = headers
        self._rows = rows
        self._news = False

    def add(self, topic: str, partition: int, position: int) -> None:
        if position < 0:
            raise LogUnavailableError(f"{topic}-{partition}: {position} is not a position")
        self.remove(topic, partition)
        self._consumer.incremental_assign([TopicPartition(topic, partition, position)])
        self._partitions[topic, partition] = _Partition(position, position)

    def remove(self, topic: str, partition: int) -> None:
        entry = self._partitions.pop((topic, partition), None)
        if entry is None:
            return
        where = [TopicPartition(topic, partition)]
        if entry.paused:
            self._consumer.resume(where)  # or the pause would outlive the assignment
        self._consumer.incremental_unassign(where)

    def read(self, topic: str, partition: int, max_rows: int) -> RawBatch | None:
        entry = self._partitions.get((topic, partition))
        if entry is None:
            raise LogUnavailableError(f"{topic}-{partition} is not being read")
        if len(entry.records) < max_rows:
            self._fetch(0.0)
        rows = [entry.records.popleft() for _ in range(min(max_rows, len(entry.records)))]
        entry.size -= sum(_size(row) for row in rows)
        if entry.records:
            self._news = True
        if entry.paused and len(entry.records) <= self._rows // 2 and entry.size <= TWIN_BYTES // 2:
            entry.paused = False
            self._consumer.resume([TopicPartition(topic, partition)])
        after = rows[-1][0] + 1 if entry.records else entry.fetched
        if after == entry.position:
            if entry.error is not None:
                gone = any(text in entry.error for text in GONE)
                raise (OffsetGoneError if gone else LogUnavailableError)(entry.error)
            return None
        entry.position = after
        return RawBatch(rows, after)

    def at_end(self, topic: str, partition: int) -> bool:
        entry = self._partitions.get((topic, partition))
        return entry is not None and entry.at_end and not entry.records

    def unread(self) -> None:
        """A read may fetch."""

    def wait(self, timeout_s: float) -> None:
        if not self._news:
            self._fetch(timeout_s, wanted=1)
        self._news = False

    def close(self) -> None:
        self._partitions.clear()
        self._consumer.close()

    def _fetch(self, timeout_s: float, wanted: int = 1000) -> None:
        for message in self._consumer.consume(wanted, timeout_s):
            self._take(message)

    def _take(self, message: Message) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        error = message.error()
        entry = None
        if topic is not None and partition is not None:
            entry = self._partitions.get((topic, partition))
        if entry is None or offset is None:
            if error is not None:
                logger.info("%s", error)
            return
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                entry.fetched = max(entry.fetched, offset)
                entry.at_end = True
                self._news = True
            elif error.code() in TRANSIENT:
                logger.info("%s-%s: %s", topic, partition, error)
            else:
                entry.error = f"{topic}-{partition} at {entry.fetched}: {error.name()}: {error.str()}"
                self._news = True
            return
        if offset < entry.fetched:
            return
        headers = [(name, _bytes(value)) for name, value in _pairs(message)] if self._headers else []
        row: Record = (offset, message.timestamp()[1], message.key(), message.value(), headers)
        entry.records.append(row)
        entry.size += _size(row)
        entry.fetched = offset + 1
        entry.at_end = False
        self._news = True
        if not entry.paused and (len(entry.records) >= self._rows or entry.size >= TWIN_BYTES):
            entry.paused = True
            try:
                self._consumer.pause([TopicPartition(topic or "", partition or 0)])
            except KafkaException as problem:
                logger.info("%s-%s: %s", topic, partition, problem)


def _size(row: Record) -> int:
    return 64 + len(row[2] or b"") + len(row[3] or b"")


def _pairs(message: Message) -> list[tuple[str, str | bytes | None]]:
    headers = message.headers()
    if headers is None:
        return []
    return list(headers.items()) if isinstance(headers, dict) else list(headers)


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
