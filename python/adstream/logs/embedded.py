"""A log in one process: topics, transactions, consumer groups and leases, without a server.

In memory (`EmbeddedLog()`), or in a directory, where **one commit is one checksummed append to one commit file**:
the batches of all its topic-partitions and its group offsets lie in a single frame, so a commit is there or it is
not.

    00000001.log   00000002.log   …             segments, rolled at `segment_bytes`
    └ frame: | "ADL1" | header length u32 | body length u64 | crc32 u32 | header (JSON) | body: one blob per batch |

    header  {"batches": [[topic, partition, first, next, blob length, blob crc32], …],   offsets [first, next)
             "offsets": {group: [[topic, partition, position], …]},
             "topics":  [[name, partitions, config], …],                                 created by this frame
             "starts":  [[topic, partition, offset], …],                                 `delete_records`
             "ends":    [[topic, partition, offset], …],                                 only in a segment's first frame
             "gone":    [name, …],                                                       topics deleted by this frame
             "groups":  {group: [[topic, partition, position], …]},                      all that the group has
             "life":    number}                                                          of deletions, see `_apply`

The frame's crc32 covers the lengths and the header; every blob has its own. The first frame of a segment repeats
topics, groups, starts and ends, so that a segment whose records were all deleted can go; what it does not repeat, is no
more. At open, headers are read
and the index is rebuilt; in the last segment blobs are checked too, and a *torn tail* (the frame that a crash cut
short) is cut off. A bad frame with a whole one behind it is not a torn tail but damage, and refused.

What a broker does across a network is trivial here and kept honest all the same: a slot's epoch fences its former
holder (`FATAL`), a member that was expelled cannot commit (`ABORTED`), a revoked task is granted only after
`released`. Offsets are contiguous: there are no transaction markers, so `end_offsets` is the same with and without
open transactions.

Tested in tests/unit/logs (every byte of a torn write; a model of the log under random operations).
"""

from __future__ import annotations

import bisect
import fcntl
import json
import logging
import os
import struct
import threading
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adstream._core import RawBatch
from adstream.errors import ConfigError, FatalError, OffsetGoneError
from adstream.interfaces import LeaseChange, Membership, Outcome, TopicPartition, TopicSpec

if TYPE_CHECKING:
    from adstream._core import Output

log = logging.getLogger(__name__)

MAGIC = b"ADL1"
HEAD = struct.Struct("<4sIQI")
LENGTHS = struct.Struct("<IQ")
SEGMENT_BYTES = 64 << 20
READ_ROWS = 10_000


class EmbeddedLog:
    """A `Log` for everything that happens in one process.

    Args:
        path: a directory, made if absent and locked against a second process; None keeps everything in memory.
        segment_bytes: size at which a commit file is rolled. sync: whether a commit waits for the disk. Without, a
        crash of the machine (not of the process) may lose the last
            commits, each wholly.

    Raises:
        ConfigError: another process has the directory open.
        FatalError: the directory is damaged (more than a torn tail).
    """

    def __init__(
        self, path: Path | str | None = None, *, segment_bytes: int = SEGMENT_BYTES, sync: bool = True
    ) -> None:
        self._lock = threading.RLock()  # guards everything below
        self._committing = threading.Lock()  # one commit at a time; taken before `_lock`
        self._topics: dict[str, list[_Partition]] = {}
        self._readers: dict[TopicPartition, set[EmbeddedReader]] = defaultdict(set)
        """Who is told of what is new; a topic that is made again keeps its readers."""
        self._configs: dict[str, dict[str, str]] = {}
        self._offsets: dict[str, dict[TopicPartition, int]] = defaultdict(dict)
        self._lives: dict[str, int] = {}
        self._life = 0
        """Deletions so far: a topic made again after one is another than it was before."""
        self._epochs: dict[str, int] = defaultdict(int)
        self._groups: dict[tuple[str, str], _Group] = {}
        self._files: _Segments | None = None
        if path is not None:
            self._files = _Segments(Path(path), segment_bytes, sync)
            try:
                for header, place in self._files.scan():
                    self._apply(header, place, None)
                self._roll_if_due()
            except BaseException:
                self._files.close()
                raise

    # Topics and offsets

    def create_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        with self._committing:
            for spec in specs:
                have = len(self._topics.get(spec.name, ())) or spec.partitions
                if have != spec.partitions:
                    raise ConfigError(
                        f"topic `{spec.name}` has {have} partitions, {spec.partitions} are needed",
                        option="topics",
                    )
            missing = [spec for spec in specs if spec.name not in self._topics]
            if missing:
                made = [[s.name, s.partitions, dict(s.config), self._life] for s in missing]
                self._append({"topics": made}, [])
        return [spec.name for spec in missing]

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        with self._lock:
            return {topic: len(self._topics[topic]) for topic in topics if topic in self._topics}

    def topic_settings(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """As given to `create_topics`; nothing here acts on them."""
        with self._lock:
            return {topic: dict(self._configs[topic]) for topic in topics if topic in self._topics}

    def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        with self._lock:
            return {topic: str(self._lives[topic]) for topic in topics if topic in self._topics}

    def committed(self, group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
        with self._lock:
            offsets = self._offsets.get(group, {})
            return {tp: offsets.get(tp) for tp in partitions}

    def start_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        with self._lock:
            return {tp: self._partition(tp).start for tp in partitions}

    def end_offsets(self, partitions: Sequence[TopicPartition], *, committed: bool) -> dict[TopicPartition, int]:
        with self._lock:
            return {tp: self._partition(tp).end for tp in partitions}

    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        with self._committing:
            starts = []
            for tp, offset in before.items():
                partition = self._partition(tp)
                if min(offset, partition.end) > partition.start:
                    starts.append([*tp, min(offset, partition.end)])
            if starts:
                self._append({"starts": starts}, [])

    # For applications that do not run

    def topics(self) -> list[str]:
        with self._lock:
            return sorted(self._topics)

    def members(self, group: str) -> list[str]:
        """In this process: no other can have the log open."""
        with self._lock:
            found = [member for (name, _), it in self._groups.items() if name == group for member in it.members]
            return [f"a worker of this process with {len(member.owned)} tasks" for member in found]

    def delete_topics(self, topics: Sequence[str]) -> None:
        with self._committing:
            gone = [topic for topic in topics if topic in self._topics]
            if gone:
                self._append({"gone": gone}, [])
        with self._lock:
            for key in [key for key in self._groups if key[1] in gone and not self._groups[key].members]:
                del self._groups[key]

    def offsets_at(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        return {tp: self._offset_at(tp, at) for tp, at in times.items()}

    def _offset_at(self, tp: TopicPartition, at_ms: int) -> int:
        with self._lock:
            start, end = self._partition(tp).start, self._partition(tp).end
        with closing(self.reader()) as reader:
            reader.add(*tp, start)
            while start < end:
                batch = reader.read(*tp, READ_ROWS)
                if batch is None:
                    break
                for offset, timestamp, *_ in batch.records():
                    if timestamp >= at_ms:
                        return min(offset, end)
                start = batch.next_offset
        return end

    def reset_group(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        if self.members(group):
            raise ConfigError(f"the group `{group}` has members", option="group", hint="stop them first")
        with self._committing:
            self._append({"groups": {group: [[*tp, position] for tp, position in positions.items()]}}, [])

    # The parts

    def reader(self) -> EmbeddedReader:
        return EmbeddedReader(self)

    def writer(self, slot: str, *, exactly_once: bool = True) -> EmbeddedWriter:
        """With at-least-once a commit is atomic all the same: here that costs nothing."""
        with self._lock:
            self._epochs[slot] += 1
            return EmbeddedWriter(self, slot, self._epochs[slot])

    def leases(self, group: str, topic: str) -> EmbeddedLeases:
        return EmbeddedLeases(self, group, topic)

    def expel(self, leases: EmbeddedLeases) -> None:
        """What a broker does to a member whose session ended: its tasks go to others at once, and it learns of it
        only at its next `poll`, where it joins again."""
        with self._lock:
            leases._expel()

    def close(self) -> None:
        with self._committing:
            if self._files is not None:
                self._files.close()

    # Commit: assign offsets, append one frame, publish

    def _commit(
        self,
        slot: str,
        epoch: int,
        outputs: Sequence[Output],
        offsets: Mapping[TopicPartition, int],
        group: str,
        fence: object,
    ) -> Outcome:
        with self._committing:
            if self._epochs[slot] != epoch:
                return Outcome.FATAL
            if fence is not None and not (isinstance(fence, _Member) and fence.alive):
                return Outcome.ABORTED
            header: dict[str, Any] = {"batches": [], "offsets": {}}
            batches: list[RawBatch] = []
            ends: dict[TopicPartition, int] = {}
            for topic, partition, batch in outputs:
                if not len(batch):
                    continue
                tp = (topic, partition)
                first = ends.get(tp, self._partition(tp).end)
                batches.append(batch.with_offsets(first))
                ends[tp] = first + len(batch)
                header["batches"].append([topic, partition, first, ends[tp]])
            if offsets:
                header["offsets"] = {group: [[*tp, position] for tp, position in offsets.items()]}
            if batches or offsets:
                self._append(header, batches)
            return Outcome.COMMITTED

    def _append(self, header: dict[str, Any], batches: Sequence[RawBatch]) -> None:
        """Makes a frame durable, then visible. Caller holds `_committing`."""
        place = None
        if self._files is not None:
            blobs = [batch.to_bytes() for batch in batches]
            for entry, blob in zip(header.get("batches", ()), blobs, strict=True):
                entry += [len(blob), zlib.crc32(blob)]
            place = self._files.append(header, blobs)
        with self._lock:
            self._apply(header, place, batches)
        self._roll_if_due()

    def _apply(
        self, header: Mapping[str, Any], place: tuple[int, int] | None, batches: Sequence[RawBatch] | None
    ) -> None:
        """What a frame means; the same for a commit as it happens and for one found at open."""
        self._life = header.get("life", self._life)
        kept = {name for name, *_ in header["topics"]} if "ends" in header else set(self._topics)
        for name in [*header.get("gone", ()), *(name for name in self._topics if name not in kept)]:
            self._drop(name)
        self._life += "gone" in header
        for name, count, config, *life in header.get("topics", ()):
            if self._lives.get(name, 0) != (life[0] if life else 0):  # the frame in which it was deleted is no more
                self._drop(name)
            if name not in self._topics:
                self._configs[name], self._lives[name] = dict(config), life[0] if life else 0
                self._topics[name] = [_Partition() for _ in range(count)]
        segment, at = place or (0, 0)
        for i, (topic, number, first, end, *blob) in enumerate(header.get("batches", ())):
            partition = self._topics[topic][number]
            stored = _Stored(end, batches[i]) if place is None and batches else _Stored(end, None, segment, at, *blob)
            partition.firsts.append(first)
            partition.stored.append(stored)
            partition.end = end
            self._tell((topic, number))
            if self._files is not None:
                self._files.live[segment] += 1
                at += stored.length
        for group, positions in header.get("offsets", {}).items():
            self._offsets[group].update({(topic, number): position for topic, number, position in positions})
        for group, positions in header.get("groups", {}).items():
            self._offsets[group] = {(topic, number): position for topic, number, position in positions}
        for topic, number, start in header.get("starts", ()):
            self._forget(self._topics[topic][number], start)
            self._tell((topic, number))
        for topic, number, end in header.get("ends", ()):
            partition = self._topics[topic][number]
            partition.end = max(partition.end, end)

    def _tell(self, tp: TopicPartition) -> None:
        for reader in self._readers.get(tp, ()):
            reader._unread.add(tp)
            reader._news.notify_all()

    def _drop(self, topic: str) -> None:
        """A topic is deleted, with the positions of all groups in it."""
        for number, partition in enumerate(self._topics.pop(topic, ())):
            self._forget(partition, partition.end)
            self._tell((topic, number))
        self._configs.pop(topic, None)
        self._lives.pop(topic, None)
        for group, positions in self._offsets.items():
            self._offsets[group] = {tp: position for tp, position in positions.items() if tp[0] != topic}

    def _forget(self, partition: _Partition, start: int) -> None:
        partition.start = max(partition.start, start)
        dead = 0
        while dead < len(partition.stored) and partition.stored[dead].end <= partition.start:
            if self._files is not None:
                self._files.live[partition.stored[dead].segment] -= 1
            dead += 1
        del partition.firsts[:dead], partition.stored[:dead]

    def _roll_if_due(self) -> None:
        """Begins a segment with the frame that repeats what older ones said, and drops those that hold nothing
        alive."""
        if self._files is None:
            return
        if self._files.roll_due():
            every = [((t, n), p) for t, ps in self._topics.items() for n, p in enumerate(ps)]
            self._files.roll()
            self._files.append(
                {
                    "topics": [[t, len(ps), self._configs[t], self._lives[t]] for t, ps in self._topics.items()],
                    "life": self._life,
                    "groups": {g: [[*tp, at] for tp, at in o.items()] for g, o in self._offsets.items()},
                    "starts": [[*tp, p.start] for tp, p in every],
                    "ends": [[*tp, p.end] for tp, p in every],
                },
                [],
            )
        self._files.drop_dead()

    def _partition(self, tp: TopicPartition) -> _Partition:
        topic, number = tp
        try:
            return self._topics[topic][number]
        except (KeyError, IndexError):
            raise ConfigError(f"there is no partition {number} of topic `{topic}`", option="topics") from None

    def _load(self, stored: _Stored) -> RawBatch:
        if stored.batch is not None:
            return stored.batch
        assert self._files is not None
        return RawBatch.from_bytes(self._files.blob(stored))


@dataclass(slots=True)
class _Stored:
    """One batch of one commit: held, or where its blob lies."""

    end: int
    batch: RawBatch | None
    segment: int = 0
    at: int = 0
    length: int = 0
    crc: int = 0


@dataclass(slots=True)
class _Partition:
    start: int = 0
    end: int = 0
    firsts: list[int] = field(default_factory=list)
    """First offset of each stored batch, for bisection."""
    stored: list[_Stored] = field(default_factory=list)


class EmbeddedReader:
    """Told of what is new in its partitions, so that a worker with many of them need not look at each, and who waits is woken by
    its own records alone."""

    def __init__(self, owner: EmbeddedLog) -> None:
        self._log = owner
        self._positions: dict[TopicPartition, int] = {}
        self._decoded: dict[TopicPartition, tuple[int, int, RawBatch]] = {}  # [first, end) of the batch last touched
        self._unread: set[TopicPartition] = set()
        """Those of which something is to be read, or was said that no read has seen. Changed under the log's lock."""
        self._news = threading.Condition(owner._lock)

    def add(self, topic: str, partition: int, position: int) -> None:
        tp = (topic, partition)
        with self._log._lock:
            self._positions[tp] = position
            self._unread.add(tp)
            self._log._readers[tp].add(self)

    def remove(self, topic: str, partition: int) -> None:
        tp = (topic, partition)
        with self._log._lock:
            self._positions.pop(tp, None)
            self._decoded.pop(tp, None)
            self._unread.discard(tp)
            self._leave(tp)

    def _leave(self, tp: TopicPartition) -> None:
        readers = self._log._readers.get(tp, set())
        readers.discard(self)
        if not readers:
            self._log._readers.pop(tp, None)

    def read(self, topic: str, partition: int, max_rows: int) -> RawBatch | None:
        tp = (topic, partition)
        position = self._positions[tp]
        first, end, batch = self._decoded.get(tp, (0, 0, None))
        if batch is None or not first <= position < end:
            if tp not in self._unread:
                return None
            with self._log._lock:
                source = self._log._partition(tp)
                if position == source.end:
                    self._unread.discard(tp)
                    return None
                if position > source.end:
                    raise OffsetGoneError(
                        f"position {position} of `{topic}` [{partition}] lies behind its end, {source.end}"
                    )
                if position < source.start:
                    raise OffsetGoneError(
                        f"records {position} to {source.start - 1} of `{topic}` [{partition}]"
                        " were deleted before they were read"
                    )
                i = bisect.bisect_right(source.firsts, position) - 1
                first, stored = source.firsts[i], source.stored[i]
                end = stored.end
            batch = self._log._load(stored)
            self._decoded[tp] = (first, end, batch)
        stop = min(position + max_rows, end)
        self._positions[tp] = stop
        if stop == end:
            self._decoded.pop(tp)
            with self._log._lock:
                if stop == self._log._partition(tp).end:
                    self._unread.discard(tp)
        return batch if (position, stop) == (first, end) else batch.slice(position - first, stop - first)

    def at_end(self, topic: str, partition: int) -> bool:
        return self._positions[topic, partition] >= self._log._partition((topic, partition)).end

    def unread(self) -> set[TopicPartition]:
        with self._log._lock:
            return set(self._unread)

    def wait(self, timeout_s: float) -> None:
        with self._log._lock:
            self._news.wait_for(self._readable, timeout_s)

    def _readable(self) -> bool:
        return any(self._positions[tp] < self._log._partition(tp).end for tp in self._unread)

    def close(self) -> None:
        with self._log._lock:
            for tp in self._positions:
                self._leave(tp)
            self._positions.clear()
            self._decoded.clear()
            self._unread.clear()


def no_step(name: str) -> None:
    """The default of `Writer.commit`'s `step`."""


class EmbeddedWriter:
    def __init__(self, owner: EmbeddedLog, slot: str, epoch: int) -> None:
        self._log, self._slot, self._epoch = owner, slot, epoch
        self.refused = False

    def commit(
        self,
        outputs: Sequence[Output],
        offsets: Mapping[TopicPartition, int],
        group: str,
        fence: object,
        step: Callable[[str], None] = no_step,
    ) -> Outcome:
        for name in ("begin", "produce", "offsets", "commit"):
            step(name)
        outcome = self._log._commit(self._slot, self._epoch, outputs, offsets, group, fence)
        self.refused = outcome is Outcome.ABORTED  # for nothing else
        if outcome is Outcome.COMMITTED:
            step("committed")
        return outcome

    def close(self) -> None: ...


# Leases


@dataclass(eq=False, slots=True)
class _Member:
    """One membership, from joining to leaving; it is its own fencing token."""

    owned: set[int] = field(default_factory=set)
    leaving: set[int] = field(default_factory=set)
    """Revoked and not yet released; a part of `owned`."""
    changes: deque[LeaseChange] = field(default_factory=deque)
    alive: bool = True

    def kept(self) -> int:
        return len(self.owned) - len(self.leaving)


class _Group:
    """The coordinator: sticky, balanced, the same for the same history. Who has more than its share gives back its
    lowest tasks; free tasks, the highest first, go to whoever keeps fewest, the longest member first."""

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.members: list[_Member] = []

    def join(self) -> _Member:
        member = _Member()
        self.members.append(member)
        self.balance()
        return member

    def leave(self, member: _Member) -> None:
        member.alive = False
        self.members.remove(member)
        self.balance()

    def balance(self) -> None:
        if not self.members:
            return
        share, extra = divmod(self.tasks, len(self.members))
        for rank, member in enumerate(sorted(self.members, key=lambda m: -m.kept())):
            surplus = member.kept() - share - (rank < extra)
            if surplus > 0:
                revoked = tuple(sorted(member.owned - member.leaving)[:surplus])
                member.leaving.update(revoked)
                member.changes.append(LeaseChange(revoked=revoked))
        granted: dict[int, list[int]] = defaultdict(list)
        for task in sorted(set(range(self.tasks)).difference(*(m.owned for m in self.members)), reverse=True):
            rank = min(range(len(self.members)), key=lambda i: self.members[i].kept())
            self.members[rank].owned.add(task)
            granted[rank].append(task)
        for rank, tasks in granted.items():
            self.members[rank].changes.append(LeaseChange(granted=tuple(tasks)))


class EmbeddedLeases:
    def __init__(self, owner: EmbeddedLog, group: str, topic: str) -> None:
        self._log, self._key = owner, (group, topic)
        self._member: _Member | None = None
        self._lost: tuple[int, ...] = ()

    def start(self) -> None:
        with self._log._lock:
            if self._key not in self._log._groups:
                self._log._partition((self._key[1], 0))
                self._log._groups[self._key] = _Group(len(self._log._topics[self._key[1]]))
            self._member = self._group.join()

    def poll(self) -> LeaseChange | None:
        with self._log._lock:
            if self._member is None:
                return None
            if not self._member.alive:
                self._member = self._group.join()
                lost, self._lost = self._lost, ()
                return LeaseChange(lost=lost)
            return self._member.changes.popleft() if self._member.changes else None

    def released(self, tasks: Sequence[int]) -> None:
        with self._log._lock:
            if self._member is not None:
                given = self._member.leaving.intersection(tasks)
                self._member.owned -= given
                self._member.leaving -= given
                self._group.balance()

    def beat(self) -> None: ...

    def joined(self) -> bool:
        return self._member is not None

    def members(self) -> Membership | None:
        with self._log._lock:
            if self._member is not None and not self._member.alive:
                return None
            there = self._log._groups[self._key].members if self._key in self._log._groups else []
            names = {id(member): f"{number:06d}" for number, member in enumerate(there)}
            tasks = {names[id(member)]: tuple(sorted(member.owned)) for member in there}
            return Membership(names[id(self._member)] if self._member is not None else "", tasks)

    def fence(self) -> object:
        return self._member

    def close(self) -> None:
        with self._log._lock:
            if self._member is not None and self._member.alive:
                self._group.leave(self._member)
            self._member = None

    @property
    def _group(self) -> _Group:
        return self._log._groups[self._key]

    def _expel(self) -> None:
        if self._member is not None and self._member.alive:
            self._lost = tuple(sorted(self._member.owned))
            self._group.leave(self._member)


# The directory


class _Segments:
    """The commit files of a directory: append, scan, read; knows frames and nothing of topics."""

    def __init__(self, path: Path, segment_bytes: int, sync: bool) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path, self._segment_bytes, self._sync = path, segment_bytes, sync
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(
                f"another process has the log `{path}` open",
                option="--data",
                hint="the embedded log is single-process; use Kafka for several workers",
            ) from error
        self._broken: OSError | None = None
        self._fds = {int(f.stem): os.open(f, os.O_RDWR) for f in sorted(path.glob("*.log"))}
        self.live: dict[int, int] = defaultdict(int)
        """Stored batches of each segment that are not deleted."""
        self._current = max(self._fds, default=0)
        self._size = 0

    def scan(self) -> Iterator[tuple[dict[str, Any], tuple[int, int]]]:
        """Every frame's header, with (segment, position of its body); cuts off a torn tail."""
        for number, fd in self._fds.items():
            last = number == self._current
            position, size = 0, os.fstat(fd).st_size
            while position < size:
                header, body, end = self._frame(fd, position, size, check_body=last)
                if header is None:
                    self._cut(number, fd, position, size, last)
                    size = position
                    break
                yield header, (number, body)
                position = end
            self._size = size

    def _frame(self, fd: int, position: int, size: int, *, check_body: bool) -> tuple[dict[str, Any] | None, int, int]:
        head = os.pread(fd, HEAD.size, position)
        if len(head) < HEAD.size or head[:4] != MAGIC:
            return None, 0, 0
        _, header_length, body_length, crc = HEAD.unpack(head)
        body = position + HEAD.size + header_length
        if body + body_length > size:
            return None, 0, 0
        text = os.pread(fd, header_length, position + HEAD.size)
        if zlib.crc32(text, zlib.crc32(head[4:16])) != crc:
            return None, 0, 0
        header: dict[str, Any] = json.loads(text)
        if check_body:
            at = body
            for *_, length, blob_crc in header.get("batches", ()):
                if zlib.crc32(os.pread(fd, length, at)) != blob_crc:
                    return None, 0, 0
                at += length
        return header, body, body + body_length

    def _cut(self, number: int, fd: int, position: int, size: int, last: bool) -> None:
        name = self._path / f"{number:08}.log"
        rest = os.pread(fd, size - position, position)
        behind = rest.find(MAGIC, 1)
        while behind > 0 and self._frame(fd, position + behind, size, check_body=True)[0] is None:
            behind = rest.find(MAGIC, behind + 1)
        if not last or behind > 0:
            raise FatalError(f"`{name}` is damaged at byte {position}, and records follow: restore it from a backup")
        log.warning("cut a torn commit of %d bytes off `%s` at byte %d", size - position, name, position)
        os.ftruncate(fd, position)
        os.fsync(fd)

    def append(self, header: Mapping[str, Any], blobs: Sequence[bytes]) -> tuple[int, int]:
        """Writes one frame, whole or not at all; returns (segment, position of its body)."""
        if self._broken is not None:
            raise FatalError(f"`{self._path}` could not be written before: {self._broken}") from self._broken
        text = json.dumps(header, separators=(",", ":")).encode()
        lengths = LENGTHS.pack(len(text), sum(map(len, blobs)))
        head = MAGIC + lengths + struct.pack("<I", zlib.crc32(text, zlib.crc32(lengths)))
        frame = b"".join((head, text, *blobs))
        fd, at = self._fds[self._current], self._size
        try:
            written = 0
            while written < len(frame):
                written += os.pwrite(fd, memoryview(frame)[written:], at + written)
        except OSError:
            os.ftruncate(fd, at)  # a full disk: the commit did not happen, the next may
            raise
        if self._sync:
            try:
                os.fdatasync(fd)
            except OSError as error:
                self._broken = error  # what is on disk is unknown: only a fresh open may tell
                raise
        self._size += len(frame)
        return self._current, at + HEAD.size + len(text)

    def blob(self, stored: _Stored) -> bytes:
        data = os.pread(self._fds[stored.segment], stored.length, stored.at)
        if zlib.crc32(data) != stored.crc:
            raise FatalError(f"`{self._path / f'{stored.segment:08}.log'}` is damaged at byte {stored.at}")
        return data

    def roll_due(self) -> bool:
        return self._size >= self._segment_bytes or self._size == 0

    def roll(self) -> None:
        """Begins a segment, or the current one again if it is still empty."""
        if self._size or not self._fds:
            self._current += 1
            self._fds[self._current] = os.open(self._path / f"{self._current:08}.log", os.O_RDWR | os.O_CREAT, 0o644)
            self._size = 0
            if self._sync:
                directory = os.open(self._path, os.O_RDONLY)
                os.fsync(directory)
                os.close(directory)

    def drop_dead(self) -> None:
        for number in [n for n in self._fds if n != self._current and not self.live[n]]:
            os.close(self._fds.pop(number))
            os.unlink(self._path / f"{number:08}.log")

    def close(self) -> None:
        for fd in (*self._fds.values(), self._lock):
            os.close(fd)
        self._fds = {}
