"""The traps of leases, each by its name: members that leave, die and freeze, as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adstream.interfaces import LeaseChange, Outcome
from adstream.logs import LogUnavailableError
from adstream.logs.kafka import KafkaLeases, KafkaLog
from tests.integration.kafka.conftest import SESSION_MS
from tests.logs.conformance import Member, expected, make_topic, output, read_all, unique, until, values
from tests.servers import Kafka

pytestmark = pytest.mark.servers
SESSION_S = SESSION_MS / 1000

Spawn = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def spawn(kafka: Kafka) -> Iterator[Spawn]:
    """Starts `worker.py`; it is killed at the end."""
    children: list[subprocess.Popen[str]] = []

    def start(*args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.integration.kafka.worker", kafka.bootstrap, *args]
        root = Path(__file__).parents[3]
        child = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_a_killed_workers_tasks_are_inherited_and_its_open_transaction_is_settled(
    one_log: KafkaLog, spawn: Spawn
) -> None:
    topic, sink, group, slot = make_topic(one_log, 2), make_topic(one_log, 2), unique("group"), unique("slot")
    child = spawn(group, topic, sink, slot, "hang")
    assert line(child) == "COMMITTED"
    assert line(child) == "hanging"
    heir = Member(one_log.leases(group, topic))
    child.send_signal(signal.SIGKILL)
    until(lambda: heir.tasks == {0, 1}, [heir], "the session ends")
    began = time.monotonic()
    where = [(sink, 0), (sink, 1)]
    assert one_log.committed(group, where) == {(sink, 0): 1, (sink, 1): 1}
    assert time.monotonic() - began < 4, "not the transaction's own 15 s"
    for task in (0, 1):
        assert values(read_all(one_log, sink, task)) == expected([0])
    writer = one_log.writer(unique("slot"))
    done = writer.commit([output(sink, [1], 1)], {(sink, 1): 2}, group, heir.leases.fence())
    assert done is Outcome.COMMITTED
    heir.leave()


def test_a_frozen_worker_is_fenced_when_it_thaws(one_log: KafkaLog, spawn: Spawn) -> None:
    topic, sink, group = make_topic(one_log, 1), make_topic(one_log, 1), unique("group")
    child = spawn(group, topic, sink, unique("slot"))
    for _ in range(3):
        assert line(child) == "COMMITTED"
    os.kill(child.pid, signal.SIGSTOP)
    heir = Member(one_log.leases(group, topic))
    until(lambda: heir.tasks == {0}, [heir], "the session ends")
    position = one_log.committed(group, [(sink, 0)])[sink, 0]
    writer = one_log.writer(unique("slot"))
    done = writer.commit([output(sink, [1000])], {(sink, 0): 1000}, group, heir.leases.fence())
    assert done is Outcome.COMMITTED
    os.kill(child.pid, signal.SIGCONT)
    time.sleep(2 * SESSION_S)
    heir.turn()
    assert heir.tasks == {0}
    assert one_log.committed(group, [(sink, 0)]) == {(sink, 0): 1000}
    seen = values(read_all(one_log, sink))
    assert position is not None
    assert seen == [*expected(range(position)), b"v1000"], "what it had open is not to be seen"
    heir.leave()


def test_leaving_is_quick_and_joining_too(one_log: KafkaLog) -> None:
    topic, group = make_topic(one_log, 4), unique("group")
    first = Member(one_log.leases(group, topic))
    until(lambda: len(first.tasks) == 4, [first], "all")
    began = time.monotonic()
    second = Member(one_log.leases(group, topic))
    until(lambda: len(second.tasks) == 2, [first, second], "half")
    assert time.monotonic() - began < 4
    began = time.monotonic()
    second.leave()
    until(lambda: len(first.tasks) == 4, [first], "all again")
    assert time.monotonic() - began < 3
    first.leave()


def test_who_joins_gets_a_share_of_every_kind_of_work(one_log: KafkaLog) -> None:
    """Tasks are numbered by partition, as runs of numbers are what moves (`runtime/assignment.py`): five kinds of tasks
    on six partitions each."""
    kinds, count = 5, 30
    topic, group = make_topic(one_log, count), unique("group")
    members = [Member(one_log.leases(group, topic))]
    until(lambda: len(members[0].tasks) == count, members, "all")
    for size in (2, 3):
        members.append(Member(one_log.leases(group, topic)))
        until(lambda each=count // size: {len(m.tasks) for m in members} == {each}, members, "equal shares")
        shares = [Counter(task % kinds for task in m.tasks) for m in members]
        assert all(abs(n - count // size // kinds) <= 1 for share in shares for n in share.values()), shares
        assert all(len(share) == kinds for share in shares), shares
    for member in members:
        member.leave()


def test_a_revocation_waits_for_the_release(one_log: KafkaLog) -> None:
    topic, group = make_topic(one_log, 2), unique("group")
    first = Member(one_log.leases(group, topic))
    until(lambda: len(first.tasks) == 2, [first], "all")
    leases = one_log.leases(group, topic)
    second = Member(leases)
    change = None
    for _ in range(500):
        second.turn()
        change = change or first.leases.poll()
        time.sleep(0.01)
        if change is not None and change.revoked:
            break
    assert change is not None
    assert change.revoked
    time.sleep(0.5)
    second.turn()
    assert second.tasks == set(), "still the first one's"
    writer = one_log.writer(unique("slot"))
    sink = make_topic(one_log, 1)
    done = writer.commit([output(sink, [0])], {(sink, 0): 1}, group, first.leases.fence())
    assert done is Outcome.COMMITTED, "the last commit before the release"
    first.leases.released(change.revoked)
    until(lambda: second.tasks == set(change.revoked), [second], "released")
    second.leave()
    first.leave()


def test_who_does_not_release_in_time_loses_and_cannot_commit(kafka: Kafka, one_log: KafkaLog) -> None:
    log = KafkaLog(kafka.bootstrap, session_ms=SESSION_MS, release_timeout_s=0.5)
    topic, sink, group = make_topic(one_log, 2), make_topic(one_log, 2), unique("group")
    first = Member(log.leases(group, topic))
    until(lambda: len(first.tasks) == 2, [first], "all")
    second = Member(log.leases(group, topic))
    until(lambda: len(second.tasks) == 1, [second], "half, although the first says nothing")
    (task,) = second.tasks
    writer = one_log.writer(unique("slot"))
    # The member is alive and well in the new generation; the fence is of the one before, until the loss is
    # known.
    outcome = writer.commit([], {(sink, task): 7}, group, first.leases.fence())
    assert outcome is Outcome.ABORTED
    first.turn()
    assert any(task in change.lost for change in first.seen)
    other = 1 - task
    for _ in range(20):
        outcome = writer.commit([], {(sink, other): 7}, group, first.leases.fence())
        if outcome is Outcome.COMMITTED:
            break
    assert outcome is Outcome.COMMITTED
    assert one_log.committed(group, [(sink, 0), (sink, 1)]) == {(sink, task): None, (sink, other): 7}
    second.leave()
    first.leave()


def test_there_is_no_fence_before_the_first_grant(one_log: KafkaLog) -> None:
    """Metadata of an unsubscribed consumer is accepted without any fencing."""
    leases = one_log.leases(unique("group"), make_topic(one_log))
    with pytest.raises(LogUnavailableError):
        leases.fence()
    leases.start()
    leases.close()


def test_a_member_that_was_thrown_out_still_has_its_old_fence(one_log: KafkaLog) -> None:
    """librdkafka forgets generation and member then; a commit with nothing would be accepted."""
    topic, sink, group = make_topic(one_log), make_topic(one_log), unique("group")
    member = Member(one_log.leases(group, topic))
    until(lambda: member.tasks == {0}, [member], "granted")
    leases = member.leases
    assert isinstance(leases, KafkaLeases)
    member.leave()
    writer = one_log.writer(unique("slot"))
    outcome = writer.commit([], {(sink, 0): 7}, group, leases.fence())
    assert outcome in (Outcome.ABORTED, Outcome.FATAL)
    assert one_log.committed(group, [(sink, 0)]) == {(sink, 0): None}


def test_a_worker_that_makes_no_progress_gives_its_tasks_up_and_gets_them_back(kafka: Kafka) -> None:
    log = KafkaLog(kafka.bootstrap, session_ms=SESSION_MS, watchdog_s=0.5)
    topic, group = make_topic(log, 1), unique("group")
    leases = log.leases(group, topic)
    assert isinstance(leases, KafkaLeases)
    stuck = Member(leases)
    until(lambda: stuck.tasks == {0}, [stuck], "granted")
    leases.beat()
    other = Member(log.leases(group, topic))
    until(lambda: other.tasks == {0}, [other], "given up")
    stuck.turn()
    assert LeaseChange(lost=(0,)) in stuck.seen
    other.leave()
    for _ in range(500):
        leases.beat()
        stuck.turn()
        if stuck.tasks == {0}:
            break
        time.sleep(0.01)
    assert stuck.tasks == {0}
    stuck.leave()


def test_offsets_at_least_once_are_committed_as_the_member(one_log: KafkaLog) -> None:
    topic, sink, group = make_topic(one_log), make_topic(one_log), unique("group")
    member = Member(one_log.leases(group, topic))
    until(lambda: member.tasks == {0}, [member], "granted")
    writer = one_log.writer(unique("slot"), exactly_once=False)
    fence = member.leases.fence()
    assert writer.commit([output(sink, [1])], {(sink, 0): 5}, group, fence) is Outcome.COMMITTED
    assert one_log.committed(group, [(sink, 0)]) == {(sink, 0): 5}
    member.leave()
    assert writer.commit([output(sink, [2])], {(sink, 0): 6}, group, fence) is Outcome.ABORTED
    assert one_log.committed(group, [(sink, 0)]) == {(sink, 0): 5}
