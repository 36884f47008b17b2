"""What any `Log` must do, as functions that take one: Kafka, the embedded log and the simulator's run the
same.

Each takes topics and groups of its own, so one log serves all. Waiting goes through `pause`, which a
simulated log replaces by its own clock; loops are bounded by their number of turns, not by a wall clock.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from adstream._core import RawBatch
from adstream.errors import ConfigError, OffsetGoneError
from adstream.interfaces import LeaseChange, Leases, Log, Outcome, Reader, TopicSpec

if TYPE_CHECKING:
    from adstream._core import Output, Record

Pause = Callable[[float], None]
# The records here are of 1970, and a broker deletes by the records' own time: half a minute after its start,
# it would.
KEPT = {"retention.ms": "-1"}
TURNS = 2_000
TURN_S = 0.01


class Crash(Exception):
    """What a step raises to leave a commit where it is."""


def crash_at(name: str, pause: Pause = time.sleep) -> Callable[[str], None]:
    """A step that dies, after giving what was produced so far the time to be sent."""

    def step(current: str) -> None:
        if current == name:
            pause(0.2)
            raise Crash(name)

    return step


def unique(what: str) -> str:
    return f"{what}-{uuid.uuid4().hex[:8]}"


def make_topic(log: Log, partitions: int = 1) -> str:
    name = unique("conformance")
    log.create_topics([TopicSpec(name, partitions, KEPT)])
    return name


def record(n: int) -> Record:
    return (0, 1_000 + n, b"k%d" % n, b"v%d" % n, [])


def output(topic: str, numbers: Sequence[int], partition: int = 0) -> Output:
    rows = [(i, *record(n)[1:]) for i, n in enumerate(numbers)]
    return (topic, partition, RawBatch(rows))


def append(log: Log, topic: str, numbers: Sequence[int], partition: int = 0) -> None:
    writer = log.writer(unique("append"))
    assert writer.commit([output(topic, numbers, partition)], {}, unique("group"), None) is Outcome.COMMITTED
    writer.close()


def read_on(reader: Reader, topic: str, partition: int = 0, *, rows: int = 1000) -> list[Record]:
    """Everything up to the end of what is committed."""
    out: list[Record] = []
    position = -1
    for _ in range(TURNS):
        batch = reader.read(topic, partition, rows)
        if batch is None:
            if reader.at_end(topic, partition):
                return out
            reader.wait(TURN_S)
            continue
        got = batch.records()
        assert len(got) <= rows
        assert batch.next_offset >= position, "positions go forward"
        assert all(row[0] >= position for row in got)
        position = batch.next_offset
        assert all(a[0] < b[0] for a, b in itertools.pairwise(got)), "offsets ascend"
        assert not got or got[-1][0] < position
        out += got
    raise AssertionError(f"no end of {topic}-{partition} after {len(out)} records")


def wait_until_settled(log: Log, topic: str, partition: int = 0) -> int:
    """A commit is final when its call returns, but a log may show it some milliseconds later (Kafka's
    coordinator writes the markers into the partitions afterwards). Returns the end."""
    where = (topic, partition)
    for _ in range(TURNS):
        end = log.end_offsets([where], committed=False)[where]
        if log.end_offsets([where], committed=True)[where] == end:
            return end
        time.sleep(TURN_S)
    raise AssertionError(f"a transaction stays open on {topic}-{partition}")


def read_all(log: Log, topic: str, partition: int = 0, position: int = 0, *, settled: bool = True) -> list[Record]:
    if settled:
        wait_until_settled(log, topic, partition)
    reader = log.reader()
    try:
        reader.add(topic, partition, position)
        return read_on(reader, topic, partition)
    finally:
        reader.close()


def values(rows: Sequence[Record]) -> list[bytes | None]:
    return [row[3] for row in rows]


def expected(numbers: Sequence[int]) -> list[bytes | None]:
    return [b"v%d" % n for n in numbers]


# Topics.


def check_topics_are_created_once_and_never_with_another_partition_count(log: Log) -> None:
    name = unique("conformance")
    assert log.create_topics([TopicSpec(name, 3)]) == [name]
    assert log.create_topics([TopicSpec(name, 3)]) == []
    assert log.partitions([name, unique("absent")]) == {name: 3}
    with pytest.raises(ConfigError, match=name):
        log.create_topics([TopicSpec(name, 4)])


def check_settings_of_topics_are_told(log: Log) -> None:
    name = unique("conformance")
    log.create_topics([TopicSpec(name, 1, {"cleanup.policy": "compact", "retention.ms": "1234000"})])
    found = log.topic_settings([name, unique("absent")])
    assert list(found) == [name]
    assert (found[name]["cleanup.policy"], found[name]["retention.ms"]) == ("compact", "1234000")


# Records.


def check_records_come_back_as_they_were_written(log: Log) -> None:
    topic = make_topic(log)
    rows: list[Record] = [
        (0, 1_700_000_000_000, b"key", b"value", [("h", b"1"), ("h", None), ("empty", b"")]),
        (1, 1_600_000_000_000, None, b"no key", []),
        (2, 1, b"tombstone", None, []),
        (3, 5, b"", b"", []),
    ]
    writer = log.writer(unique("slot"))
    assert writer.commit([(topic, 0, RawBatch(rows))], {}, "g", None) is Outcome.COMMITTED
    writer.close()
    assert [row[1:] for row in read_all(log, topic)] == [row[1:] for row in rows]


def check_order_is_that_of_the_commits_per_partition(log: Log) -> None:
    topic = make_topic(log, 2)
    writer = log.writer(unique("slot"))
    for start in range(0, 300, 100):
        parts = [
            output(topic, range(start, start + 100)),
            output(topic, range(start + 1000, start + 1010), 1),
        ]
        assert writer.commit(parts, {}, "g", None) is Outcome.COMMITTED
    writer.close()
    assert values(read_all(log, topic)) == expected(range(300))
    second = [n + k for n in (1000, 1100, 1200) for k in range(10)]
    assert values(read_all(log, topic, 1)) == expected(second)


def check_small_reads_see_the_same(log: Log) -> None:
    topic = make_topic(log)
    append(log, topic, range(50))
    wait_until_settled(log, topic)
    reader = log.reader()
    reader.add(topic, 0, 0)
    assert values(read_on(reader, topic, rows=7)) == expected(range(50))
    reader.close()


def check_reading_starts_at_the_position(log: Log) -> None:
    topic = make_topic(log)
    append(log, topic, range(20))
    rows = read_all(log, topic)
    assert values(read_all(log, topic, position=rows[12][0])) == expected(range(12, 20))
    assert read_all(log, topic, position=wait_until_settled(log, topic)) == []


def check_reading_again_from_an_earlier_position(log: Log) -> None:
    """What a rollback does."""
    topic = make_topic(log)
    append(log, topic, range(5000))
    wait_until_settled(log, topic)
    reader = log.reader()
    reader.add(topic, 0, 0)
    for _ in range(5):
        for _ in range(TURNS):
            if reader.read(topic, 0, 300) is not None:
                break
            reader.wait(TURN_S)
        reader.remove(topic, 0)
        reader.add(topic, 0, 10)
    assert values(read_on(reader, topic)) == expected(range(10, 5000))
    reader.close()


def check_new_records_reach_a_reader_that_waits_at_the_end(log: Log) -> None:
    topic = make_topic(log)
    append(log, topic, range(3))
    wait_until_settled(log, topic)
    reader = log.reader()
    reader.add(topic, 0, 0)
    seen = values(read_on(reader, topic))
    for start in (3, 6, 9):
        assert reader.read(topic, 0, 10) is None
        append(log, topic, range(start, start + 3))
        for _ in range(TURNS):
            batch = reader.read(topic, 0, 10)
            if batch is not None:
                seen += values(batch.records())
            if len(seen) == start + 3:
                break
            reader.wait(TURN_S)
    assert seen == expected(range(12))
    reader.close()


def check_a_removed_partition_is_not_read(log: Log) -> None:
    topic = make_topic(log, 2)
    append(log, topic, range(5))
    append(log, topic, range(5), 1)
    wait_until_settled(log, topic, 1)
    reader = log.reader()
    reader.add(topic, 0, 0)
    reader.add(topic, 1, 0)
    reader.remove(topic, 0)
    assert values(read_on(reader, topic, 1)) == expected(range(5))
    reader.close()


# Commits.


def check_offsets_are_committed_with_the_outputs(log: Log) -> None:
    source, sink, group = make_topic(log), make_topic(log), unique("group")
    append(log, source, range(10))
    assert log.committed(group, [(source, 0)]) == {(source, 0): None}
    writer = log.writer(unique("slot"))
    steps: list[str] = []
    done = writer.commit([output(sink, range(4))], {(source, 0): 4}, group, None, steps.append)
    assert done is Outcome.COMMITTED
    assert steps == ["begin", "produce", "offsets", "commit", "committed"]
    assert log.committed(group, [(source, 0)]) == {(source, 0): 4}
    assert values(read_all(log, sink)) == expected(range(4))
    assert writer.commit([], {(source, 0): 9}, group, None) is Outcome.COMMITTED, "positions alone"
    assert log.committed(group, [(source, 0)]) == {(source, 0): 9}
    writer.close()


def check_what_a_crashed_commit_wrote_is_invisible(log: Log, pause: Pause = time.sleep) -> None:
    source, sink, group, slot = make_topic(log), make_topic(log), unique("group"), unique("slot")
    append(log, source, range(10))
    writer = log.writer(slot)
    assert writer.commit([output(sink, range(2))], {(source, 0): 2}, group, None) is Outcome.COMMITTED
    for name in ("begin", "produce", "offsets", "commit"):
        try:
            writer.commit([output(sink, range(100, 105))], {(source, 0): 7}, group, None, crash_at(name, pause))
        except Crash:
            pass
        else:
            raise AssertionError(f"no step {name}")
        writer = log.writer(slot)
        assert log.committed(group, [(source, 0)]) == {(source, 0): 2}
        assert values(read_all(log, sink)) == expected(range(2))
    assert writer.commit([output(sink, range(2, 4))], {(source, 0): 4}, group, None) is Outcome.COMMITTED
    assert values(read_all(log, sink)) == expected(range(4))
    writer.close()


def check_a_crash_after_the_commit_keeps_it(log: Log, pause: Pause = time.sleep) -> None:
    sink, group, slot = make_topic(log), unique("group"), unique("slot")
    writer = log.writer(slot)
    with contextlib.suppress(Crash):
        writer.commit([output(sink, range(2))], {(sink, 0): 0}, group, None, crash_at("committed", pause))
    log.writer(slot).close()
    assert values(read_all(log, sink)) == expected(range(2))
    assert log.committed(group, [(sink, 0)]) == {(sink, 0): 0}


def check_opening_a_slot_fences_its_holder(log: Log) -> None:
    sink, group, slot = make_topic(log), unique("group"), unique("slot")
    zombie = log.writer(slot)
    assert zombie.commit([output(sink, [0])], {(sink, 0): 1}, group, None) is Outcome.COMMITTED
    heir = log.writer(slot)
    assert zombie.commit([output(sink, [100])], {(sink, 0): 100}, group, None) is Outcome.FATAL
    assert zombie.commit([output(sink, [100])], {(sink, 0): 100}, group, None) is Outcome.FATAL
    assert heir.commit([output(sink, [1])], {(sink, 0): 2}, group, None) is Outcome.COMMITTED
    assert values(read_all(log, sink)) == expected([0, 1])
    assert log.committed(group, [(sink, 0)]) == {(sink, 0): 2}
    heir.close()
    zombie.close()


def check_two_slots_do_not_disturb_each_other(log: Log) -> None:
    sink = make_topic(log)
    first, second = log.writer(unique("slot")), log.writer(unique("slot"))
    for n in range(3):
        assert first.commit([output(sink, [n])], {}, "g", None) is Outcome.COMMITTED
        assert second.commit([output(sink, [n + 10])], {}, "g", None) is Outcome.COMMITTED
    first.close()
    second.close()
    assert values(read_all(log, sink)) == expected([0, 10, 1, 11, 2, 12])


def check_at_least_once_commits_outputs_and_then_offsets(log: Log) -> None:
    source, sink, group = make_topic(log), make_topic(log), unique("group")
    writer = log.writer(unique("slot"), exactly_once=False)
    done = writer.commit([output(sink, range(4))], {(source, 0): 4}, group, None)
    assert done is Outcome.COMMITTED
    writer.close()
    assert values(read_all(log, sink)) == expected(range(4))
    assert log.committed(group, [(source, 0)]) == {(source, 0): 4}


# Ends.


def check_ends(log: Log, pause: Pause = time.sleep) -> None:
    topic, slot = make_topic(log), unique("slot")
    where = [(topic, 0)]
    assert log.start_offsets(where) == {(topic, 0): 0}
    assert log.end_offsets(where, committed=True) == {(topic, 0): 0}
    append(log, topic, range(10))
    closed = wait_until_settled(log, topic)
    assert closed >= 10
    with contextlib.suppress(Crash):
        log.writer(slot).commit([output(topic, range(5))], {}, "g", None, crash_at("commit", pause))
    assert log.end_offsets(where, committed=True)[topic, 0] == closed
    assert log.end_offsets(where, committed=False)[topic, 0] >= closed
    assert values(read_all(log, topic, settled=False)) == expected(range(10))
    log.writer(slot).close()
    assert wait_until_settled(log, topic) >= closed
    assert values(read_all(log, topic)) == expected(range(10))


def check_deleted_records_are_gone(log: Log) -> None:
    topic = make_topic(log)
    append(log, topic, range(20))
    cut = read_all(log, topic)[15][0]
    log.delete_records({(topic, 0): cut})
    assert log.start_offsets([(topic, 0)]) == {(topic, 0): cut}
    assert values(read_all(log, topic, position=cut)) == expected(range(15, 20))


def _refused(log: Log, topic: str, position: int) -> None:
    """Reading from there is an error each time, and the reader can be set elsewhere."""
    reader = log.reader()
    reader.add(topic, 0, position)
    for _ in range(2):
        with pytest.raises(OffsetGoneError, match=topic):
            read_on(reader, topic)
    reader.remove(topic, 0)
    start = log.start_offsets([(topic, 0)])[topic, 0]
    reader.add(topic, 0, start)
    assert len(read_on(reader, topic)) == len(read_all(log, topic, position=start)) > 0
    reader.close()


def check_a_position_that_was_deleted_is_an_error_and_never_a_jump(log: Log) -> None:
    topic = make_topic(log)
    append(log, topic, range(20))
    log.delete_records({(topic, 0): read_all(log, topic)[15][0]})
    _refused(log, topic, 3)


def check_a_position_behind_the_end_is_an_error_and_never_a_jump(log: Log) -> None:
    topic = make_topic(log)
    append(log, topic, range(5))
    _refused(log, topic, wait_until_settled(log, topic) + 3)


# Leases.


class Member:
    """A worker as far as leases go: takes what it is granted, releases what it is asked for."""

    def __init__(self, leases: Leases) -> None:
        self.leases = leases
        self.tasks: set[int] = set()
        self.seen: list[LeaseChange] = []
        leases.start()

    def turn(self) -> None:
        while (change := self.leases.poll()) is not None:
            self.seen.append(change)
            self.tasks |= set(change.granted)
            self.tasks -= {*change.revoked, *change.lost}
            if change.revoked:
                self.leases.released(change.revoked)

    def leave(self) -> None:
        self.tasks = set()
        self.leases.close()


def until(done: Callable[[], bool], members: Sequence[Member], what: str, pause: Pause = time.sleep) -> None:
    for _ in range(TURNS):
        for member in members:
            member.turn()
        if done():
            return
        pause(TURN_S)
    raise AssertionError(f"not within {TURNS * TURN_S:.0f} s: {what}; {[m.seen for m in members]}")


def check_leases_are_granted_shared_and_inherited(log: Log, pause: Pause = time.sleep) -> None:
    topic, group = make_topic(log, 4), unique("group")
    first = Member(log.leases(group, topic))
    until(lambda: first.tasks == {0, 1, 2, 3}, [first], "the only member owns all", pause)
    second = Member(log.leases(group, topic))
    both = [first, second]
    until(lambda: len(first.tasks) == 2 == len(second.tasks), both, "two members share", pause)
    assert first.tasks | second.tasks == {0, 1, 2, 3}
    assert not any(change.lost for member in both for change in member.seen)
    kept = set(first.tasks)
    assert not any(kept & set(change.revoked) for change in first.seen), "what stays is not touched"
    second.leave()
    until(lambda: first.tasks == {0, 1, 2, 3}, [first], "the one who stays inherits", pause)
    first.leave()


def check_a_fence_lets_its_owner_commit_and_nobody_who_left(log: Log, pause: Pause = time.sleep) -> None:
    topic, source, sink, group = make_topic(log, 2), make_topic(log), make_topic(log), unique("group")
    owner = Member(log.leases(group, topic))
    until(lambda: owner.tasks == {0, 1}, [owner], "granted", pause)
    writer = log.writer(unique("slot"))
    fence = owner.leases.fence()
    assert writer.commit([output(sink, [0])], {(source, 0): 1}, group, fence) is Outcome.COMMITTED
    assert log.committed(group, [(source, 0)]) == {(source, 0): 1}, "of a topic that nobody subscribes to"
    old = owner.leases.fence()
    owner.leave()
    heir = Member(log.leases(group, topic))
    until(lambda: heir.tasks == {0, 1}, [heir], "inherited", pause)
    outcome = writer.commit([output(sink, [1])], {(source, 0): 2}, group, old)
    assert outcome in (Outcome.ABORTED, Outcome.FATAL)
    assert values(read_all(log, sink)) == expected([0])
    assert log.committed(group, [(source, 0)]) == {(source, 0): 1}
    heir.leave()
    writer.close()


CHECKS = {name: check for name, check in sorted(globals().items()) if name.startswith("check_")}
"""For `pytest.mark.parametrize`."""
