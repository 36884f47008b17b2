"""What comes back by itself, and how soon: brokers that were away, clients that hang, slots that live twice."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID

from adstream.interfaces import Outcome
from adstream.logs import LogUnavailableError
from adstream.logs.kafka import KafkaLog
from tests.integration.kafka.conftest import SESSION_MS
from tests.logs.conformance import (
    Crash,
    Member,
    append,
    crash_at,
    expected,
    make_topic,
    output,
    read_all,
    unique,
    until,
    values,
)
from tests.servers import Kafka, killable

pytestmark = pytest.mark.servers

AWAY_S = 12.0
"""By then librdkafka's own pauses between two attempts to connect have grown to 10 s."""
BACK_S = 6.0
"""Session, one pause between two attempts, one rebalance, one commit; with room for a slow machine."""


def test_after_an_outage_leases_and_commits_are_back_within_seconds() -> None:
    """With the client's default of 10 s between attempts it took 10 to 15 s, or 20 more when sending offsets hung."""
    with killable() as kafka:
        log = KafkaLog(kafka.bootstrap, session_ms=SESSION_MS)
        topic, sink, group = make_topic(log), make_topic(log), unique("group")
        writer = log.writer(unique("slot"))
        member = Member(log.leases(group, topic))
        until(lambda: member.tasks == {0}, [member], "granted")
        commit = lambda n: writer.commit([output(sink, [n])], {(sink, 0): n}, group, member.leases.fence())  # noqa: E731
        while (outcome := commit(1)) is Outcome.ABORTED:
            pass
        assert outcome is Outcome.COMMITTED
        kafka.kill()
        time.sleep(AWAY_S)
        kafka.start()
        began = time.monotonic()
        until(lambda: member.tasks == {0}, [member], "granted again")
        while (outcome := commit(2)) is Outcome.ABORTED:
            member.turn()
        assert outcome is Outcome.COMMITTED
        assert log.committed(group, [(sink, 0)]) == {(sink, 0): 2}
        assert values(read_all(log, sink)) == expected([1, 2])
        assert time.monotonic() - began < BACK_S
        member.leave()


def test_a_commit_begun_while_the_broker_is_away_waits_for_it() -> None:
    """Sending the offsets while the producer was not connected never returned; it was given up after 20 s, and with it
    all state in memory."""
    with killable() as kafka:
        log = KafkaLog(kafka.bootstrap)
        sink, group, writer = make_topic(log), unique("group"), log.writer(unique("slot"))
        assert writer.commit([output(sink, [1])], {(sink, 0): 1}, group, None) is Outcome.COMMITTED
        kafka.kill()
        time.sleep(1)
        start = threading.Timer(3, kafka.start)
        start.start()
        outcome = writer.commit([output(sink, [2])], {(sink, 0): 2}, group, None)
        start.join()
        assert outcome is Outcome.COMMITTED
        assert values(read_all(log, sink)) == expected([1, 2])


def test_a_writer_with_an_open_transaction_closes_while_the_broker_is_away() -> None:
    """The producer's own close aborts first, and waits for the broker: for ever, if need be."""
    with Kafka() as kafka:
        log = KafkaLog(kafka.bootstrap)
        sink, writer = make_topic(log), log.writer(unique("slot"))
        with contextlib.suppress(Crash):
            writer.commit([output(sink, [1])], {(sink, 0): 1}, unique("group"), None, crash_at("commit"))
        kafka.kill()
        began = time.monotonic()
        writer.close()
        assert time.monotonic() - began < 4


def test_while_the_broker_is_away_no_question_takes_long() -> None:
    """The worker that asks has running tasks and leases to look after."""
    with Kafka() as kafka:
        log = KafkaLog(kafka.bootstrap)
        sink, group = make_topic(log), unique("group")
        kafka.kill()
        began = time.monotonic()
        with pytest.raises(LogUnavailableError):
            log.committed(group, [(sink, 0)])
        assert time.monotonic() - began < 10


def test_a_future_that_is_never_done_is_not_waited_for(one_log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """An admin client that was asked at the wrong moment never answers, its time-out notwithstanding."""

    class Silent:
        def __getattr__(self, name: str) -> Any:
            return lambda groups, **_: {getattr(group, "group_id", group): Future() for group in groups}

    source, group, slot = make_topic(one_log), unique("group"), unique("slot")
    dead = one_log.writer(slot)
    assert dead.commit([], {(source, 0): 3}, group, None) is Outcome.COMMITTED
    with contextlib.suppress(Crash):
        dead.commit([], {(source, 0): 8}, group, None, crash_at("commit"))
    one_log._writers.clear()  # as if another process had been it
    monkeypatch.setattr(one_log, "_new_admin", Silent)
    answers: list[LogUnavailableError] = []

    def ask() -> None:
        try:
            one_log.committed(group, [(source, 0)])
        except LogUnavailableError as error:
            answers.append(error)

    asked = threading.Thread(target=ask, daemon=True)
    asked.start()
    asked.join(15)
    assert not asked.is_alive()
    assert len(answers) == 1
    one_log.writer(slot).close()


def test_an_answer_without_an_offset_is_none(one_log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dying broker's answer has no error and the offset -1001. Believed to be a changelog's end, it would mean an empty
    state."""
    topic, real, asked = make_topic(one_log), one_log._admin.list_offsets, 0
    append(one_log, topic, range(3))

    def list_offsets(wanted: dict[Any, Any], **options: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked > 1:
            return real(wanted, **options)
        answer: Future[Any] = Future()
        answer.set_result(SimpleNamespace(offset=OFFSET_INVALID))
        return dict.fromkeys(wanted, answer)

    monkeypatch.setattr(one_log._admin, "list_offsets", list_offsets)
    assert one_log.end_offsets([(topic, 0)], committed=False)[topic, 0] >= 3
    assert asked == 2


def test_who_was_started_again_is_not_fenced_for_what_its_former_self_noted(kafka: Kafka, one_log: KafkaLog) -> None:
    """The offsets still name the member that died; the slot is held by a new one, which has not committed yet."""
    topic, source, group, slot = make_topic(one_log, 2), make_topic(one_log), unique("group"), unique("slot")
    first = KafkaLog(kafka.bootstrap, session_ms=SESSION_MS)
    writer = first.writer(slot)
    former = Member(first.leases(group, topic))
    until(lambda: former.tasks == {0, 1}, [former], "granted")
    while writer.commit([], {(source, 0): 3}, group, former.leases.fence()) is Outcome.ABORTED:
        pass
    former.leave()

    again = KafkaLog(kafka.bootstrap, session_ms=SESSION_MS)
    reborn = again.writer(slot)
    member = Member(again.leases(group, topic))
    until(lambda: member.tasks == {0, 1}, [member], "granted again")

    other = KafkaLog(kafka.bootstrap, session_ms=SESSION_MS)
    holding = other.writer(unique("slot"))  # nobody knows it: its transaction cannot be settled
    with contextlib.suppress(Crash):
        holding.commit([], {(source, 0): 8}, group, None, crash_at("commit"))
    with pytest.raises(LogUnavailableError, match="held back"):
        one_log.committed(group, [(source, 0)])
    holding.close()
    while (outcome := reborn.commit([], {(source, 0): 4}, group, member.leases.fence())) is Outcome.ABORTED:
        pass
    assert outcome is Outcome.COMMITTED
    member.leave()
