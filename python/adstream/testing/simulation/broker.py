"""A broker in memory that is as awkward as a real one may be: a `Log` on a virtual clock.

    partition   0 1 2 │ 3 4 M │ 5 6 7 …                  M: a control marker takes an offset, too
                committed aborted └ LSO: the first offset of a transaction whose marker is not there yet; committed
                                    readers stop here, `end_offsets(committed=False)` does not
    commit      decided at once, shown later: each partition, and the group's offsets, get their marker after a delay
                of their own. Until then positions are unstable, and `committed` does not answer
    slot        opening it raises its epoch: its holder is fenced, its open transaction aborted. A transaction that
                outlives `TRANSACTION_MS` is aborted in the same way
    group       members, a generation, tasks. Whoever joins, leaves or is not heard of for `SESSION_MS` starts a
                rebalance; its new generation reaches each member after a delay, and until then a healthy member's
                commit is refused (`ABORTED`). A revocation waits for `released`, at most `RELEASE_MS`
    client      one per process. A frozen one (SIGSTOP) sends no heartbeats and notices nothing; one that is cut off
                gets `LogUnavailableError`; readers then just have nothing

What waits, waits in virtual time by `SimLog.wait`, during which *others run* (`cluster.py`): so transactions stay
open, time out, are fenced and overtaken in the middle of a commit, all in one thread. What goes wrong, and how
often, is said by `Faults`; with `NO_FAULTS` this is a well-behaved broker. tests/logs/conformance.py holds it to
what the real one does. A record is never delivered twice to a reader: a broker does not do that.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from adstream._core import RawBatch
from adstream.errors import ConfigError
from adstream.interfaces import LeaseChange, Membership, Outcome, TopicPartition, TopicSpec
from adstream.logs import LogUnavailableError, OffsetGoneError

if TYPE_CHECKING:
    from adstream._core import Output, Record

SESSION_MS = 2_000
RELEASE_MS = 1_500
TRANSACTION_MS = 4_000
DELIVERY_MS = 3_000
"""Records that cannot be delivered for so long abort their transaction."""
PATIENCE_MS = 700
"""After so long, whoever is in the way of a stable position and no longer a member is fenced."""
STABLE_WAIT_MS = 150
"""How long one call of `committed` waits before it gives up for the time being."""


@dataclass(frozen=True)
class Faults:
    """Probabilities, each at its own place; delays are uniform from 0 (or the first number)."""

    marker_ms: int = 0
    join_ms: tuple[int, int] = (2, 5)
    learn_ms: int = 0
    unavailable: float = 0.0
    """Any call of a client."""
    no_data: float = 0.0
    """A read has nothing at hand although there is something."""
    short_read: float = 0.0
    pause: float = 0.0
    """A commit waits between two of its steps, up to `pause_ms`."""
    pause_ms: int = 0
    commit_retried: float = 0.0
    """Decided, but the answer is lost; it comes when asked again."""
    commit_unknown: float = 0.0
    """FATAL or an exception; committed, or left open, or aborted."""
    commit_aborted: float = 0.0


NO_FAULTS = Faults()


@dataclass(slots=True, eq=False)
class Transaction:
    slot: str
    number: int
    began_ms: int
    decided: bool = False
    committed: bool = False
    partitions: set[TopicPartition] = field(default_factory=set)
    """Without their marker."""
    offsets: dict[str, dict[TopicPartition, int]] = field(default_factory=dict)
    """By group; not yet stable."""

    @property
    def over(self) -> bool:
        return self.decided and not self.partitions and not self.offsets


@dataclass(slots=True)
class Entry:
    first: int
    end: int
    batch: RawBatch | None
    """None: a marker."""
    transaction: Transaction | None


@dataclass(slots=True)
class Partition:
    start: int = 0
    end: int = 0
    entries: list[Entry] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    open: dict[Transaction, int] = field(default_factory=dict)
    """First offset of each transaction without a marker, ascending."""

    @property
    def stable(self) -> int:
        """LSO."""
        return next(iter(self.open.values()), self.end)

    def append(self, batch: RawBatch | None, transaction: Transaction | None) -> Entry:
        size = 1 if batch is None else len(batch)
        batch = None if batch is None else batch.with_offsets(self.end)
        entry = Entry(self.end, self.end + size, batch, transaction)
        if batch is not None and transaction is not None:
            self.open.setdefault(transaction, self.end)
        self.entries.append(entry)
        self.firsts.append(self.end)
        self.end = entry.end
        return entry

    def committed_records(self) -> list[Record]:
        return [
            record
            for entry in self.entries
            if entry.batch is not None and (entry.transaction is None or entry.transaction.committed)
            for record in entry.batch.records()
        ]


@dataclass(slots=True)
class Slot:
    epoch: int = 0
    transaction: Transaction | None = None


class Broker:
    """Everything on the far side of the network.

    Args:
        now: the virtual clock.
        rng: for faults and delays.
    """

    def __init__(self, now: Callable[[], int], rng: Random, faults: Faults = NO_FAULTS) -> None:
        self.now, self.rng, self.faults = now, rng, faults
        self.topics: dict[str, list[Partition]] = {}
        self.settings: dict[str, dict[str, str]] = {}
        self.offsets: dict[str, dict[TopicPartition, int]] = {}
        self.slots: dict[str, Slot] = {}
        self.groups: dict[tuple[str, str], Group] = {}
        self.away_until = 0
        self.counts: Counter[str] = Counter()
        """What really happened."""
        self.appended_ms = 0
        """When the last record came."""
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def trace(self, *what: object) -> None:
        """Everything that happens, in order: two runs of one seed must agree."""
        self._hash.update(repr((self.now(), *what)).encode())

    @property
    def fingerprint(self) -> str:
        return self._hash.hexdigest()

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def at(self, ms: int, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (ms, self._number, event))

    def tick(self) -> None:
        """Does what is due: markers, time-outs, sessions, rebalances."""
        now = self.now()
        while self._events and self._events[0][0] <= now:
            heapq.heappop(self._events)[2]()
        if now < self.away_until:
            return
        for name, slot in self.slots.items():
            transaction = slot.transaction
            if transaction is not None and not transaction.decided and now - transaction.began_ms > TRANSACTION_MS:
                self.counts["transactions timed out"] += 1
                self.trace("timed out", name)
                slot.epoch += 1
                self.decide(transaction, False)
        for group in self.groups.values():
            group.tick(now)

    # Topics

    def partition(self, tp: TopicPartition) -> Partition:
        try:
            return self.topics[tp[0]][tp[1]]
        except (KeyError, IndexError):
            raise ConfigError(f"there is no partition {tp[1]} of topic `{tp[0]}`", option="topics") from None

    def append(self, tp: TopicPartition, batch: RawBatch, transaction: Transaction | None = None) -> None:
        entry = self.partition(tp).append(batch, transaction)
        if transaction is not None:
            transaction.partitions.add(tp)
        assert entry.batch is not None
        self.appended_ms = self.now()
        self.trace("append", tp, entry.first, entry.batch.to_bytes())

    # Transactions

    def open_slot(self, name: str) -> int:
        slot = self.slots.setdefault(name, Slot())
        slot.epoch += 1
        if slot.transaction is not None and not slot.transaction.decided:
            self.counts["transactions fenced"] += 1
            self.decide(slot.transaction, False)
        self.trace("open", name, slot.epoch)
        return slot.epoch

    def begin(self, name: str) -> Transaction:
        slot = self.slots[name]
        assert slot.transaction is None or slot.transaction.over
        self._number += 1
        slot.transaction = Transaction(name, self._number, self.now())
        return slot.transaction

    def decide(self, transaction: Transaction, committed: bool) -> None:
        """Commits or aborts; the markers follow."""
        assert not transaction.decided
        transaction.decided, transaction.committed = True, committed
        self.trace("decide", transaction.slot, committed)
        self.counts["commits" if committed else "aborts"] += 1
        for tp in sorted(transaction.partitions):
            self._later(lambda tp=tp: self._mark(transaction, tp))  # type: ignore[misc]
        for group in sorted(transaction.offsets):
            self._later(lambda group=group: self._settle(transaction, group))  # type: ignore[misc]

    def complete(self, transaction: Transaction) -> None:
        """Writes the markers that are still missing now."""
        for tp in sorted(transaction.partitions):
            self._mark(transaction, tp)
        for group in sorted(transaction.offsets):
            self._settle(transaction, group)

    def _later(self, marker: Callable[[], None]) -> None:
        delay = 0
        if self.faults.marker_ms and self.chance(0.6):
            delay = int(self.faults.marker_ms * self.rng.random() ** 3)
        if delay:
            self.counts["late markers"] += delay > 50
            self.at(self.now() + delay, marker)
        else:
            marker()

    def _mark(self, transaction: Transaction, tp: TopicPartition) -> None:
        if tp in transaction.partitions:
            transaction.partitions.discard(tp)
            partition = self.partition(tp)
            partition.append(None, transaction)
            del partition.open[transaction]
            self.trace("marker", tp, partition.end)

    def _settle(self, transaction: Transaction, group: str) -> None:
        offsets = transaction.offsets.pop(group, None)
        if offsets is not None and transaction.committed:
            self.offsets.setdefault(group, {}).update(offsets)
            self.trace("offsets", group, sorted(offsets.items()))

    def unstable(self, group: str, partitions: Sequence[TopicPartition]) -> list[Transaction]:
        """The transactions that hold these positions back."""
        wanted = set(partitions)
        return [
            slot.transaction
            for slot in self.slots.values()
            if slot.transaction is not None and wanted & slot.transaction.offsets.get(group, {}).keys()
        ]


# The group's coordinator


@dataclass(slots=True, eq=False)
class Member:
    number: int
    client: SimLog
    leases: SimLeases
    seen_ms: int
    known: int = 0
    """The generation it believes in."""
    alive: bool = True
    owned: set[int] = field(default_factory=set)
    leaving: set[int] = field(default_factory=set)
    """Revoked, a part of `owned`: until they are released or time is up."""
    inbox: deque[tuple[int, int, LeaseChange]] = field(default_factory=deque)
    """(not before, generation, change): answers on their way to it."""

    @property
    def kept(self) -> int:
        return len(self.owned) - len(self.leaving)


@dataclass(frozen=True, slots=True)
class Fence:
    """A membership at one moment."""

    member: Member
    generation: int


class Group:
    def __init__(self, broker: Broker, tasks: int) -> None:
        self.broker, self.tasks = broker, tasks
        self.generation = 0
        self.members: list[Member] = []
        self._due_ms: int | None = None

    def join(self, leases: SimLeases) -> Member:
        self.broker._number += 1
        member = Member(self.broker._number, leases.client, leases, self.broker.now())
        self.members.append(member)
        self.broker.trace("join", member.client.name)
        self.rebalance()
        return member

    def leave(self, member: Member) -> None:
        if member.alive:
            member.alive = False
            self.members.remove(member)
            self.broker.trace("leave", member.client.name)
            self.rebalance()

    def rebalance(self) -> None:
        if self._due_ms is None:
            first, last = self.broker.faults.join_ms
            self._due_ms = self.broker.now() + self.broker.rng.randint(first, last)

    def accepts(self, fence: Fence) -> bool:
        return fence.member.alive and fence.generation == self.generation

    def tick(self, now: int) -> None:
        for member in list(self.members):
            if member.client.beats:
                member.seen_ms = now
            elif now - member.seen_ms > SESSION_MS:
                self.broker.counts["sessions expired"] += 1
                self.leave(member)
        for member in self.members:
            if member.client.beats:
                member.leases.deliver(now)
        waits = any(member.leaving for member in self.members)
        if self._due_ms is not None and now >= self._due_ms and not waits:
            self._due_ms = None
            self._assign(now)

    def _assign(self, now: int) -> None:
        if not self.members:
            return
        rng = self.broker.rng
        self.generation += 1
        self.broker.counts["rebalances"] += 1
        share, extra = divmod(self.tasks, len(self.members))
        granted: dict[Member, list[int]] = {}
        revoked: dict[Member, list[int]] = {}
        for rank, member in enumerate(sorted(self.members, key=lambda m: -m.kept)):
            surplus = member.kept - share - (rank < extra)
            if surplus > 0:
                revoked[member] = sorted(rng.sample(sorted(member.owned), surplus))
                member.leaving.update(revoked[member])
        for task in sorted(set(range(self.tasks)).difference(*(m.owned for m in self.members))):
            heir = min(self.members, key=lambda m: m.kept)
            heir.owned.add(task)
            granted.setdefault(heir, []).append(task)
        for member in self.members:
            change = LeaseChange(tuple(granted.get(member, ())), tuple(revoked.get(member, ())))
            learns = now + rng.randint(0, self.broker.faults.learn_ms)
            member.inbox.append((max(learns, member.inbox[-1][0] if member.inbox else 0), self.generation, change))
            self.broker.trace("assign", self.generation, member.client.name, change.granted, change.revoked)

    def given_back(self, member: Member) -> None:
        """Its revoked tasks are free, one way or the other."""
        if member.alive and member.leaving:
            member.owned -= member.leaving
            member.leaving.clear()
            self.rebalance()


class SimLeases:
    """The client's side of a membership. As in the Kafka client, its life goes on while the worker's thread stands in
    a commit, and stops when the process is frozen."""

    def __init__(self, client: SimLog, group: str, topic: str) -> None:
        self.client = client
        self._broker = client.broker
        self._broker.partition((topic, 0))
        self._group = self._broker.groups.setdefault(
            (group, topic), Group(self._broker, len(self._broker.topics[topic]))
        )
        self._member: Member | None = None
        self._owned: set[int] = set()
        self._changes: deque[LeaseChange] = deque()
        self._awaited: set[int] = set()
        self._release_by_ms = 0
        self._fence: Fence | None = None
        self._before_loss: Fence | None = None
        self._notice_ms = 0

    def start(self) -> None:
        self.client.call("join")
        self._member = self._group.join(self)
        self.client.memberships.append(self)

    def poll(self) -> LeaseChange | None:
        if not self._changes:
            return None
        change = self._changes.popleft()
        if not any(later.lost for later in self._changes):
            self._before_loss = None
        return change

    def released(self, tasks: Sequence[int]) -> None:
        self._awaited.difference_update(tasks)

    def beat(self) -> None: ...

    def joined(self) -> bool:
        return self._member is not None

    def members(self) -> Membership | None:
        if self.client.away or (self._member is not None and not self._member.alive):
            return None
        tasks = {f"{member.number:09d}": tuple(sorted(member.owned)) for member in self._group.members}
        return Membership("" if self._member is None else f"{self._member.number:09d}", tasks)

    def fence(self) -> object:
        fence = self._before_loss or self._fence
        if fence is None:
            raise LogUnavailableError("no lease is held: there is nothing to be fenced with")
        return fence

    def close(self) -> None:
        if self._member is not None:
            self._group.leave(self._member)
            self._member = None
        if self in self.client.memberships:
            self.client.memberships.remove(self)

    # The lease thread.

    def deliver(self, now: int) -> None:
        """A living member's turn: answers that have arrived, revocations that wait."""
        member = self._member
        assert member is not None
        if self._awaited and now >= self._release_by_ms:
            self._broker.counts["releases timed out"] += 1
            self._lose(self._awaited)
            self._awaited = set()
        if self._awaited:
            self._read_membership()
            return
        if member.leaving and not any(change.revoked for _, _, change in member.inbox):
            self._group.given_back(member)
        while member.inbox and member.inbox[0][0] <= now and not self._awaited:
            _, member.known, change = member.inbox.popleft()
            if change.revoked:
                self._broker.counts["revocations"] += 1
                self._owned.difference_update(change.revoked)
                self._awaited = set(change.revoked)
                self._release_by_ms = now + RELEASE_MS
                self._changes.append(LeaseChange(revoked=change.revoked))
            if change.granted:
                self._owned.update(change.granted)
                self._changes.append(LeaseChange(granted=change.granted))
        self._read_membership()

    def _read_membership(self) -> None:
        member = self._member
        if self._before_loss is not None or member is None or not member.known:
            return
        if self._fence is None or (self._fence.member, self._fence.generation) != (member, member.known):
            self._fence = Fence(member, member.known)

    def notice(self, now: int) -> None:
        """A member that was thrown out learns of it a little later, and joins again."""
        if self._member is None or self._member.alive:
            self._notice_ms = 0
        elif not self._notice_ms:
            self._notice_ms = now + 1 + self._broker.rng.randint(0, self._broker.faults.learn_ms)
        elif now >= self._notice_ms:
            self._lose(self._owned | self._awaited)
            self._owned, self._awaited = set(), set()
            self._member = self._group.join(self)

    def _lose(self, tasks: set[int]) -> None:
        if tasks:
            self._broker.counts["tasks lost"] += len(tasks)
            if self._before_loss is None:
                self._before_loss = self._fence
            self._changes.append(LeaseChange(lost=tuple(sorted(tasks))))


# A process's connection


class SimLog:
    """The `Log` of one process.

    Args:
        wait: passes so many virtual milliseconds, in which others run. May raise what ends this process.
        crash: called at each call of the broker; the same.
    """

    def __init__(
        self,
        broker: Broker,
        name: str,
        wait: Callable[[int], None],
        crash: Callable[[str], None] = lambda call: None,
    ) -> None:
        self.broker, self.name, self.wait, self.crash = broker, name, wait, crash
        self.frozen = False
        self.gone = False
        self.cut_until = 0
        self.slots: set[str] = set()
        """Writer slots it has opened."""
        self.memberships: list[SimLeases] = []
        self._asked: dict[tuple[str, tuple[TopicPartition, ...]], int] = {}

    @property
    def beats(self) -> bool:
        return not (self.frozen or self.gone or self.broker.now() < self.cut_until)

    @property
    def away(self) -> bool:
        return self.broker.now() < max(self.cut_until, self.broker.away_until)

    def call(self, what: str) -> None:
        self.crash(what)
        if self.away or self.broker.chance(self.broker.faults.unavailable):
            self.broker.counts["calls failed"] += 1
            raise LogUnavailableError(f"{what}: the broker does not answer")

    def turn(self) -> None:
        """What its background threads do."""
        if self.beats and not self.away:
            for leases in self.memberships:
                leases.notice(self.broker.now())

    # Topics

    def create_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        self.call("create topics")
        for spec in specs:
            have = len(self.broker.topics.get(spec.name, ())) or spec.partitions
            if have != spec.partitions:
                raise ConfigError(
                    f"topic `{spec.name}` has {have} partitions, {spec.partitions} are needed", option="topics"
                )
        made = [spec for spec in specs if spec.name not in self.broker.topics]
        for spec in made:
            self.broker.topics[spec.name] = [Partition() for _ in range(spec.partitions)]
            self.broker.settings[spec.name] = dict(spec.config)
        return [spec.name for spec in made]

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        self.call("partitions")
        return {topic: len(self.broker.topics[topic]) for topic in topics if topic in self.broker.topics}

    def topics(self) -> list[str]:
        self.call("topics")
        return sorted(self.broker.topics)

    def topic_settings(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        return {topic: dict(self.broker.settings.get(topic, {})) for topic in topics if topic in self.broker.topics}

    def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        """None: nobody deletes topics here."""
        return {}

    def start_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        self.call("start offsets")
        return {tp: self.broker.partition(tp).start for tp in partitions}

    def end_offsets(self, partitions: Sequence[TopicPartition], *, committed: bool) -> dict[TopicPartition, int]:
        self.call("end offsets")
        found = {tp: self.broker.partition(tp) for tp in partitions}
        return {tp: partition.stable if committed else partition.end for tp, partition in found.items()}

    def offsets_at(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        self.call("offsets at")
        found: dict[TopicPartition, int] = {}
        for tp, at in times.items():
            partition = self.broker.partition(tp)
            records = (r for r in partition.committed_records() if r[0] >= partition.start)
            found[tp] = next((r[0] for r in records if r[1] >= at), partition.stable)
        return found

    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        self.call("delete records")
        for tp, offset in sorted(before.items()):
            partition = self.broker.partition(tp)
            partition.start = max(partition.start, min(offset, partition.end))
            dead = 0
            while dead < len(partition.entries) and partition.entries[dead].end <= partition.start:
                dead += 1
            self.broker.counts["records deleted"] += dead
            del partition.entries[:dead], partition.firsts[:dead]
            self.broker.trace("delete", tp, partition.start)

    def committed(self, group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
        self.call("committed")
        asked = (group, tuple(partitions))
        began = self.broker.now()
        since = self._asked.setdefault(asked, began)
        while holding := self.broker.unstable(group, partitions):
            self.broker.counts["unstable offsets"] += 1
            now = self.broker.now()
            if now - since > PATIENCE_MS:
                self._fence_the_dead(group, holding)
            if now - began > STABLE_WAIT_MS:
                raise LogUnavailableError(f"positions of {group} are held back by {holding[0].slot}")
            self.wait(10)
            self.call("committed")
        del self._asked[asked]
        offsets = self.broker.offsets.get(group, {})
        return {tp: offsets.get(tp) for tp in partitions}

    def _fence_the_dead(self, group: str, holding: Sequence[Transaction]) -> None:
        living = {
            slot
            for (name, _), g in self.broker.groups.items()
            if name == group
            for member in g.members
            for slot in member.client.slots
        }
        for transaction in holding:
            if transaction.slot not in living:
                self.broker.open_slot(transaction.slot)
                self.broker.complete(transaction)

    def members(self, group: str) -> list[str]:
        self.call("members")
        groups = (it for (name, _), it in self.broker.groups.items() if name == group)
        return [member.client.name for it in groups for member in it.members]

    # The parts

    def reader(self) -> SimReader:
        return SimReader(self)

    def writer(self, slot: str, *, exactly_once: bool = True) -> SimWriter:
        self.call("open writer")
        self.slots.add(slot)
        if not exactly_once:
            return SimWriter(self, slot, None)
        epoch = self.broker.open_slot(slot)
        if self.broker.chance(self.broker.faults.pause):
            self.wait(self.broker.rng.randint(1, 50))
        transaction = self.broker.slots[slot].transaction
        if transaction is not None and transaction.decided:
            self.broker.complete(transaction)
        return SimWriter(self, slot, epoch)

    def leases(self, group: str, topic: str) -> SimLeases:
        self.call("leases")
        return SimLeases(self, group, topic)

    def close(self) -> None:
        pass


class SimReader:
    def __init__(self, client: SimLog) -> None:
        self._client, self._broker = client, client.broker
        self._positions: dict[TopicPartition, int] = {}
        self._at_end: dict[TopicPartition, bool] = {}
        self._records_ms: dict[TopicPartition, int] = {}

    def add(self, topic: str, partition: int, position: int) -> None:
        self._client.crash("add")
        self._positions[topic, partition] = position
        self._at_end[topic, partition] = False

    def remove(self, topic: str, partition: int) -> None:
        self._positions.pop((topic, partition), None)

    def read(self, topic: str, partition: int, max_rows: int) -> RawBatch | None:
        tp, broker = (topic, partition), self._broker
        position = self._positions[tp]
        if self._client.away or broker.chance(broker.faults.no_data):
            return None
        if broker.chance(broker.faults.short_read):
            max_rows = min(max_rows, broker.rng.randint(1, 5))
        source = broker.partition(tp)
        if position < source.start:
            raise OffsetGoneError(
                f"records {position} to {source.start - 1} of `{topic}` [{partition}]"
                " were deleted before they were read"
            )
        if position > source.end:
            raise OffsetGoneError(f"position {position} of `{topic}` [{partition}] lies behind its end, {source.end}")
        batch = self._gather(source, position, max_rows)
        if batch is not None and len(batch):
            self._records_ms[tp] = broker.now()
        elif self._records_ms.get(tp) == broker.now():
            return None  # that only markers follow, it hears a moment later
        after = position if batch is None else batch.next_offset
        self._positions[tp] = after
        self._at_end[tp] = after >= source.stable
        return batch

    def _gather(self, source: Partition, position: int, max_rows: int) -> RawBatch | None:
        """One entry as it lies, or the rows of several; what is not for a committed reader is passed over."""
        records: list[Record] = []
        at, stable = position, source.stable
        index = max(0, bisect.bisect_right(source.firsts, position) - 1)
        many = self._broker.faults.short_read > 0 and self._broker.rng.random() < 0.5
        while at < stable and len(records) < max_rows:
            entry = source.entries[index]
            index += 1
            if entry.batch is None or (entry.transaction is not None and not entry.transaction.committed):
                at = entry.end
                continue
            stop = min(entry.end, at + max_rows - len(records))
            piece = entry.batch.slice(at - entry.first, stop - entry.first)
            at = stop
            if not many:
                return piece
            records += piece.records()
        return RawBatch(records, at) if at > position else None

    def at_end(self, topic: str, partition: int) -> bool:
        return self._at_end[topic, partition]

    def unread(self) -> None:
        """As a client of Kafka, it does not know."""

    def wait(self, timeout_s: float) -> None:
        self._client.wait(max(1, round(timeout_s * 1000)))

    def close(self) -> None:
        self._positions.clear()


def no_step(name: str) -> None:
    """The default of `Writer.commit`'s `step`."""


class SimWriter:
    """`epoch` None: at least once."""

    def __init__(self, client: SimLog, slot: str, epoch: int | None) -> None:
        self._client, self._broker, self._slot, self._epoch = client, client.broker, slot, epoch
        self._dead = self.refused = False

    def commit(
        self,
        outputs: Sequence[Output],
        offsets: Mapping[TopicPartition, int],
        group: str,
        fence: object,
        step: Callable[[str], None] = no_step,
    ) -> Outcome:
        if self._dead:
            return Outcome.FATAL
        self._dead, self.refused = True, False  # a crash within leaves it so
        run = self._at_least_once if self._epoch is None else self._transaction
        outcome = run(outputs, offsets, group, fence, step)
        self._dead = outcome is Outcome.FATAL
        self._broker.trace("commit", self._slot, outcome.value)
        self._broker.counts[f"commit {outcome.value}"] += 1
        return outcome

    def close(self) -> None:
        self._dead = True

    def _transaction(
        self,
        outputs: Sequence[Output],
        offsets: Mapping[TopicPartition, int],
        group: str,
        fence: object,
        step: Callable[[str], None],
    ) -> Outcome:
        broker, faults, rng = self._broker, self._broker.faults, self._broker.rng
        step("begin")
        if self._fenced():
            return Outcome.FATAL
        before = broker.slots[self._slot].transaction
        if before is not None and not before.over:  # its markers are still being written
            self._client.wait(5)
            if self._fenced():
                return Outcome.FATAL
            if not before.decided:
                return Outcome.FATAL
            broker.complete(before)
        transaction = broker.begin(self._slot)
        step("produce")
        for topic, partition, batch in outputs:
            if not self._reach(DELIVERY_MS):
                return self._abort(transaction)
            if self._fenced():
                return Outcome.FATAL
            if len(batch):
                broker.append((topic, partition), batch, transaction)
            self._pause(faults.pause / 4)
        if offsets:
            step("offsets")
            self._pause(faults.pause)
            while not self._reach(DELIVERY_MS):
                step("offsets")
            if self._fenced():
                return Outcome.FATAL
            if not self._accepted(fence):
                broker.counts["commits of former members refused"] += 1
                self.refused = True
                return self._abort(transaction)
            transaction.offsets.setdefault(group, {}).update(offsets)
        step("commit")
        self._pause(faults.pause)
        while not self._reach(DELIVERY_MS):
            step("commit")
        if self._fenced():
            return Outcome.FATAL
        if broker.chance(faults.commit_aborted):
            return self._abort(transaction)
        if broker.chance(faults.commit_unknown):
            broker.counts["unknown outcomes"] += 1
            what = rng.randrange(3)
            if what < 2:
                broker.decide(transaction, what == 0)
            if rng.random() < 0.5:
                raise TimeoutError("the outcome of a commit is unknown")
            return Outcome.FATAL
        broker.decide(transaction, True)
        if broker.chance(faults.commit_retried):
            broker.counts["commits retried"] += 1
            self._client.wait(rng.randint(1, 300))
            step("commit")
        step("committed")
        return Outcome.COMMITTED

    def _at_least_once(
        self,
        outputs: Sequence[Output],
        offsets: Mapping[TopicPartition, int],
        group: str,
        fence: object,
        step: Callable[[str], None],
    ) -> Outcome:
        broker, faults = self._broker, self._broker.faults
        step("begin")
        step("produce")
        for topic, partition, batch in outputs:
            if not self._reach(DELIVERY_MS):
                return Outcome.ABORTED
            if len(batch):
                broker.append((topic, partition), batch)
            self._pause(faults.pause / 4)
        if offsets:
            step("offsets")
            self._pause(faults.pause)
            while not self._reach(DELIVERY_MS):
                step("offsets")
            self.refused = not self._accepted(fence)
            if self.refused or broker.chance(faults.commit_aborted):
                return Outcome.ABORTED
            broker.offsets.setdefault(group, {}).update(offsets)
        step("commit")
        step("committed")
        return Outcome.COMMITTED

    def _fenced(self) -> bool:
        return self._epoch != self._broker.slots[self._slot].epoch

    def _accepted(self, fence: object) -> bool:
        if fence is None:
            return True
        assert isinstance(fence, Fence)
        return any(fence.member in g.members and g.accepts(fence) for g in self._broker.groups.values())

    def _reach(self, patience_ms: int) -> bool:
        """Waits until the broker answers; False when it took too long."""
        until = self._broker.now() + patience_ms
        while self._client.away:
            if self._broker.now() >= until:
                return False
            self._client.wait(50)
        return True

    def _pause(self, probability: float) -> None:
        if self._broker.chance(probability):
            self._client.wait(1 + int(self._broker.faults.pause_ms * self._broker.rng.random() ** 3))

    def _abort(self, transaction: Transaction) -> Outcome:
        if self._fenced() or not self._reach(DELIVERY_MS) or self._fenced():
            return Outcome.FATAL
        self._broker.decide(transaction, False)
        return Outcome.ABORTED
