"""Whether records lie where their keys say: a sample, since whoever writes an input decides, and not every client does as
Java's.

    partition of a key = (murmur2(key bytes) & 0x7fffffff) mod partitions         Kafka Streams, adstream, Java's producer
    a key with a window, as Kafka Streams' DSL and adstream write it, lies by the key inside: without the last 8 bytes, the start,
    or 16, a session's end and start
    librdkafka's default (`consistent_random`) takes a crc32 instead; `partitioner=murmur2_random` is Java's

What follows from records that lie elsewhere: a join or a table with another topic does not find them, a query asks the
wrong worker. If equal keys lie in *several* partitions, or if records of an input with a declared key have none, what
belongs to one key is counted in several places: sums are wrong.

Judged are inputs whose keys are relied on (`keyed`). The newest records of each partition are looked at, so that a start
takes no longer for a long topic; what is right there may be wrong elsewhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adstream._core import murmur2
from adstream.errors import LogUnavailableError
from adstream.interfaces import Log, TopicPartition

RECORDS = 50
"""Of each partition."""
PARTITIONS = 32
"""Of each topic."""
WINDOWS = (8, 16)
"""Bytes behind the key inside, of keys with a window."""
TURNS = 200
PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen of one topic."""

    topic: str
    partitions: int
    seen: int
    keyless: int
    """Records without a key."""
    astray: int
    """Records that murmur2 would have put elsewhere."""
    first: tuple[int, int, int] | None
    """The first of those: its partition and offset, and where it belongs."""
    scattered: bool
    """Equal keys lie in several partitions."""
    crc32: bool
    """They lie where crc32 says, all of them."""

    @property
    def good(self) -> bool:
        return not self.astray and not self.keyless

    def __str__(self) -> str:
        said = []
        if self.keyless:
            said.append(
                f"{self.keyless} of {self.seen} sampled records have no key, so nothing keeps what belongs together in"
                " one partition"
            )
        if self.astray and self.first is not None:
            partition, offset, home = self.first
            text = (
                f"{self.astray} of {self.seen} sampled records are not where murmur2 of their key says (the one at"
                f" {offset} of partition {partition} belongs to {home})"
            )
            if self.crc32:
                text += ", but where crc32 does, librdkafka's default: set `partitioner=murmur2_random` in the client"
            elif self.scattered:
                text += ", and equal keys are in several partitions"
            said.append(text)
        return f"`{self.topic}`: {'; '.join(said)}"


HINT = (
    "let its writers use Java's partitioner (librdkafka: `partitioner=murmur2_random`), or move the records through a"
    ' shuffle: declare no `key=`, or `.repartition()`; if you partition by a rule of your own, `partition_check = "off"`'
)


def keyed(description: Mapping[str, Any]) -> list[str]:
    """Inputs whose records are expected to lie by their keys: those with a declared key, and those of keys and values,
    that reach what is kept by key (an aggregate, a store) without a shuffle. (Deduplication is by source partition.)"""
    found: list[str] = []
    for sub in description["subtopologies"]:
        stores = any(node["op"] == "flow" and node["stores"] for node in sub["nodes"])
        by_key = stores or any(node["op"] == "aggregate" for node in sub["nodes"])
        declared = (
            {node["name"] for node in sub["nodes"] if node["op"] == "source" and node.get("key")} if by_key else set()
        )
        flows = {node["name"] for node in sub["nodes"] if node["op"] == "flow"} if stores else set()
        found += [s["topic"] for s in sub["sources"] if s["kind"] == "user" and s["node"] in declared | flows]
    return list(dict.fromkeys(found))


def sample(
    log: Log, topics: Sequence[str], *, records: int = RECORDS, wait: Callable[[], None] | None = None
) -> list[Sample]:
    """Looks at the newest records of each topic; those that do not exist, or are empty, are left out.

    Args:
        wait: what is done while nothing is at hand; None: waits for the reader.

    Raises:
        LogUnavailableError: the log did not give what it has.
    """
    counts = log.partitions(topics)
    found = []
    for topic in topics:
        if counts.get(topic, 0) > 1:  # in one partition everything lies right
            where = [(topic, p) for p in range(min(counts[topic], PARTITIONS))]
            keys = _newest(log, where, records, wait)
            if keys:
                found.append(_judged(topic, counts[topic], keys))
    return found


def _judged(topic: str, partitions: int, keys: Sequence[tuple[int, int, bytes | None]]) -> Sample:
    if any(_by_the_key_inside(tail, partitions, keys) for tail in WINDOWS):
        return Sample(topic, partitions, len(keys), 0, 0, None, False, False)
    places: dict[bytes, set[int]] = {}
    astray, first, crc32 = 0, None, True
    for partition, offset, key in keys:
        if key is None:
            continue
        places.setdefault(key, set()).add(partition)
        crc32 &= zlib.crc32(key) % partitions == partition
        home = (murmur2(key) & 0x7FFFFFFF) % partitions
        if home != partition:
            astray += 1
            first = first or (partition, offset, home)
    return Sample(
        topic,
        partitions,
        len(keys),
        sum(key is None for _, _, key in keys),
        astray,
        first,
        any(len(there) > 1 for there in places.values()),
        crc32,
    )


def _by_the_key_inside(tail: int, partitions: int, keys: Sequence[tuple[int, int, bytes | None]]) -> bool:
    """Whether all of them lie as keys of windows do."""
    return all(
        key is not None and len(key) >= tail and (murmur2(key[:-tail]) & 0x7FFFFFFF) % partitions == partition
        for partition, _, key in keys
    )


def _newest(
    log: Log, where: Sequence[TopicPartition], records: int, wait: Callable[[], None] | None
) -> list[tuple[int, int, bytes | None]]:
    """(partition, offset, key)"""
    starts, ends = log.start_offsets(where), log.end_offsets(where, committed=True)
    at = {tp: max(starts[tp], ends[tp] - records) for tp in where if ends[tp] > starts[tp]}
    found: list[tuple[int, int, bytes | None]] = []
    reader = log.reader()
    try:
        for tp, position in at.items():
            reader.add(*tp, position)
        for _ in range(TURNS):
            got = False
            for tp in list(at):
                batch = reader.read(*tp, records)
                if batch is None:
                    continue
                got = True
                found += [(tp[1], record[0], record[2]) for record in batch.records() if record[0] < ends[tp]]
                if batch.next_offset >= ends[tp]:
                    del at[tp]
                    reader.remove(*tp)
            if not at:
                return found
            if not got:
                (wait or (lambda: reader.wait(PAUSE_S)))()
    finally:
        reader.close()
    raise LogUnavailableError(f"a sample of `{where[0][0]}` could not be read")
