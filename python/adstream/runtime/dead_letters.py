"""Dead letters: records that could not be processed, as they came, with the reason in their headers.

    topic    <source topic>-dlq, the source's partitions
    key, value, headers, timestamp    the original's
    adstream.topic, .partition, .offset, .timestamp    where it came from; absent for rows that only exist inside
    adstream.application, .operator, .reason, .message    who refused it, the stable reason, and more about it

A letter that is larger than its topic takes (the input's limit was higher, or headers made it so) keeps its coordinates
and loses its body: `adstream.value_size`, `.key_size`, `.sha256` (of the value) stand for it. Whoever has kept the
input topic finds the original at its offset. Any other output that is too large stops its task: an output is a promise,
and the limit can be raised.

*Replay* sends them to their original topic and partition once more, in one transaction with its own position (group
`<app>-replay`): a second replay does not send them again. One that fails again is a new dead letter, and can be
replayed again. Rows without coordinates, and letters that were cut, cannot go back; they are counted and left where
they are. Several applications may read one topic: its letters lie together, and each application lists and replays its
own. What goes back is in the input topic then, for whoever reads it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adstream._core import RawBatch
from adstream.errors import ConfigError
from adstream.interfaces import Log, Outcome, TopicPartition

if TYPE_CHECKING:
    from adstream._core import Output, Record

PREFIX = "adstream."
ENVELOPE_BYTES = 128
"""Of a batch with one record, besides the record."""
MESSAGE_SHOWN = 200
NO_LIMIT = 1 << 62
READ_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    partition: int
    offset: int
    """In the dead-letter topic."""
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    """The original's."""
    envelope: dict[str, str] = field(default_factory=dict)
    """`topic`, `partition`, `offset`, `timestamp`, `application`, `operator`, `reason`, `message`, as far as known."""

    @property
    def reason(self) -> str:
        return self.envelope.get("reason", "unknown")

    def is_of(self, app: str) -> bool:
        """Whether it is this application's, or nobody's that is known."""
        return self.envelope.get("application", app) == app

    @property
    def origin(self) -> TopicPartition | None:
        """Where it came from, and a replay sends it."""
        topic, partition = self.envelope.get("topic"), self.envelope.get("partition", "")
        return (topic, int(partition)) if topic and partition.isdecimal() and not self.cut else None

    @property
    def cut(self) -> bool:
        """It was too large: only its coordinates, sizes and hash are here."""
        return "sha256" in self.envelope


@dataclass(frozen=True, slots=True)
class Replayed:
    sent: int
    kept: int
    """Passed over: they have no origin."""


def fitting(outputs: Sequence[Output], limits: Mapping[str, int]) -> list[Output]:
    """The outputs, with dead letters that their topics would not take cut down to where they came from.

    Args:
        limits: dead-letter topic -> bytes of the largest record it takes.
    """
    return [
        (
            topic,
            partition,
            batch if batch.byte_size + ENVELOPE_BYTES <= limits.get(topic, NO_LIMIT) else _cut(batch, limits[topic]),
        )
        for topic, partition, batch in outputs
    ]


def _cut(batch: RawBatch, limit: int) -> RawBatch:
    return RawBatch([record if _size(record) <= limit else _coordinates(record, limit) for record in batch.records()])


def _coordinates(record: Record, limit: int) -> Record:
    offset, timestamp, key, value, headers = record
    sizes = {"key_size": len(key or b""), "value_size": len(value or b"")}
    about = [(name, text) for name, text in headers if name.startswith(PREFIX)]
    about = [(name, (text or b"")[:MESSAGE_SHOWN] if name == f"{PREFIX}message" else text) for name, text in about]
    about += [(f"{PREFIX}{name}", str(size).encode()) for name, size in sizes.items()]
    about.append((f"{PREFIX}sha256", hashlib.sha256(value or b"").hexdigest().encode()))
    own = [header for header in headers if not header[0].startswith(PREFIX)]
    for kept_key, kept_headers in ((key, own), (key, []), (None, [])):
        cut: Record = (offset, timestamp, kept_key, None, [*kept_headers, *about])
        if _size(cut) <= limit:
            break
    return cut


def _size(record: Record) -> int:
    """What a broker counts, and a little more."""
    _, _, key, value, headers = record
    body = len(key or b"") + len(value or b"")
    return body + sum(len(name.encode()) + len(text or b"") + 10 for name, text in headers) + ENVELOPE_BYTES


def dead_letter_topic(source: str) -> str:
    return f"{source}-dlq"


def list_dead(log: Log, source: str, limit: int = 100, *, app: str | None = None) -> list[DeadLetter]:
    """The newest dead letters of a source topic, `limit` of each partition at most, oldest first.

    Args:
        app: whose; None: of all applications. Letters of others may lie between them, so all that there are are read.
    """
    partitions = _partitions(log, source)
    starts = log.start_offsets(partitions)
    ends = log.end_offsets(partitions, committed=True)
    found: list[DeadLetter] = []
    for tp in partitions:
        # Markers have offsets, too: a page before the end may hold fewer records than `limit`, so take twice as much.
        first = max(starts[tp], ends[tp] - 2 * limit) if app is None else starts[tp]
        letters = (letter for batch in _read(log, tp, first, ends[tp]) for letter in _letters(tp[1], batch))
        found += deque((letter for letter in letters if app is None or letter.is_of(app)), maxlen=limit)
    return sorted(found, key=lambda letter: (letter.timestamp, letter.partition, letter.offset))[-limit:]


def replay(log: Log, source: str, *, app: str, limit: int | None = None) -> Replayed:
    """Sends the application's dead letters of a source topic that were not replayed yet to where they came from.

    Args:
        limit: after how many it stops; the rest stays for the next time.

    Raises:
        ConfigError: there is no dead-letter topic, or an original topic is gone.
    """
    partitions = _partitions(log, source)
    group = f"{app}-replay"
    writer = log.writer(f"{group}-{source}")  # fences another replay of the same source
    sent = kept = 0
    try:
        committed = log.committed(group, partitions)
        starts = log.start_offsets(partitions)
        ends = log.end_offsets(partitions, committed=True)
        for tp in partitions:
            first = committed[tp]
            for batch in _read(log, tp, starts[tp] if first is None else max(first, starts[tp]), ends[tp]):
                letters = [letter for letter in _letters(tp[1], batch) if letter.is_of(app)]
                stop = batch.next_offset
                if limit is not None and len(letters) > limit - sent:
                    letters = letters[: limit - sent]
                    stop = letters[-1].offset + 1 if letters else batch.first_offset
                outputs, passed = _outputs(letters)
                outcome = writer.commit(outputs, {tp: stop}, group, None)
                if outcome is not Outcome.COMMITTED:
                    raise ConfigError(
                        f"the replay was stopped after {sent} records ({outcome.value}); start it again",
                        option="dlq replay",
                    )
                sent += len(letters) - passed
                kept += passed
                if limit is not None and sent + kept >= limit:
                    return Replayed(sent, kept)
    finally:
        writer.close()
    return Replayed(sent, kept)


def _outputs(letters: list[DeadLetter]) -> tuple[list[tuple[str, int, RawBatch]], int]:
    """What goes where, in order, and how many stay."""
    going: dict[TopicPartition, list[DeadLetter]] = {}
    kept = 0
    for letter in letters:
        if letter.origin is None:
            kept += 1
        else:
            going.setdefault(letter.origin, []).append(letter)
    outputs = [
        (topic, p, RawBatch([(i, x.timestamp, x.key, x.value, list(x.headers)) for i, x in enumerate(out)]))
        for (topic, p), out in going.items()
    ]
    return outputs, kept


def _letters(partition: int, batch: RawBatch) -> list[DeadLetter]:
    letters = []
    for offset, timestamp, key, value, headers in batch.records():
        envelope = {
            name.removeprefix(PREFIX): (text or b"").decode(errors="replace")
            for name, text in headers
            if name.startswith(PREFIX)
        }
        own = tuple(header for header in headers if not header[0].startswith(PREFIX))
        letters.append(DeadLetter(partition, offset, timestamp, key, value, own, envelope))
    return letters


def _partitions(log: Log, source: str) -> list[TopicPartition]:
    topic = dead_letter_topic(source)
    count = log.partitions([topic]).get(topic)
    if count is None:
        raise ConfigError(f"there is no dead-letter topic `{topic}`", option="topic")
    return [(topic, p) for p in range(count)]


def _read(log: Log, tp: TopicPartition, first: int, end: int) -> Iterator[RawBatch]:
    """The committed records from `first` to before `end`."""
    if first >= end:
        return
    reader = log.reader()
    try:
        reader.add(*tp, first)
        position = first
        while position < end:
            batch = reader.read(*tp, READ_ROWS)
            if batch is None:
                reader.wait(0.2)
                continue
            position = batch.next_offset
            if len(batch):
                yield batch
    finally:
        reader.close()
