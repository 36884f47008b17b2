"""The traps of transactions, each by its name."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from adstream._core import RawBatch
from adstream.errors import ConfigError
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs import RecordTooLargeError
from adstream.logs.kafka import KafkaLog, KafkaWriter
from adstream.logs.kafka_producer import Kind, NativeProducer
from adstream.logs.kafka_writer import note
from tests.integration.kafka.conftest import SESSION_MS
from tests.logs.conformance import (
    KEPT,
    Crash,
    append,
    crash_at,
    expected,
    make_topic,
    output,
    read_all,
    unique,
    values,
)
from tests.servers import Kafka, killable

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module", params=get_args(Kind))
def one_log(request: pytest.FixtureRequest, kafka: Kafka) -> Iterator[KafkaLog]:
    """With each producer."""
    made = KafkaLog(kafka.bootstrap, writer=request.param, session_ms=SESSION_MS)
    yield made
    made.close()


def failing(producer: Any, name: str, errors: list[KafkaError]) -> Any:
    """A producer whose call fails with these errors before it works; what it was asked is in `.calls`."""

    class Failing:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def __getattr__(self, attribute: str) -> Any:
            real = getattr(producer, attribute)

            def call(*args: Any, **kwargs: Any) -> Any:
                self.calls.append(attribute)
                if attribute == name and errors:
                    raise KafkaException(errors.pop(0))
                return real(*args, **kwargs)

            return call

    return Failing()


def writer_of(log: KafkaLog) -> KafkaWriter:
    writer = log.writer(unique("slot"))
    assert isinstance(writer, KafkaWriter)
    return writer


@pytest.mark.parametrize("call", ["send_offsets_to_transaction", "commit_transaction"])
def test_retriable_means_the_same_call_again_and_never_abort(one_log: KafkaLog, call: str) -> None:
    topic, group, writer = make_topic(one_log), unique("group"), writer_of(one_log)
    errors = [KafkaError(KafkaError._TIMED_OUT, "later", False, True) for _ in range(5)]
    writer._producer = producer = failing(writer._producer, call, errors)
    steps: list[str] = []
    outcome = writer.commit([output(topic, range(3))], {(topic, 0): 3}, group, None, steps.append)
    assert outcome is Outcome.COMMITTED
    assert producer.calls.count(call) == 6
    assert "abort_transaction" not in producer.calls
    assert len(steps) == 10
    assert values(read_all(one_log, topic)) == expected(range(3))
    assert one_log.committed(group, [(topic, 0)]) == {(topic, 0): 3}


def test_abortable_means_flush_and_then_abort(one_log: KafkaLog) -> None:
    topic, group, writer = make_topic(one_log), unique("group"), writer_of(one_log)
    error = KafkaError(KafkaError.ILLEGAL_GENERATION, "rebalanced", False, False, True)
    writer._producer = producer = failing(writer._producer, "commit_transaction", [error])
    assert writer.commit([output(topic, range(3))], {(topic, 0): 3}, group, None) is Outcome.ABORTED
    assert producer.calls.index("flush") < producer.calls.index("abort_transaction")
    assert writer.commit([output(topic, range(5))], {(topic, 0): 5}, group, None) is Outcome.COMMITTED
    assert values(read_all(one_log, topic)) == expected(range(5))


@pytest.mark.parametrize(
    "error",
    [KafkaError(KafkaError._FENCED, "fenced", True), KafkaError(KafkaError._STATE, "who knows")],
    ids=["fatal", "unknown"],
)
def test_fatal_and_unknown_give_the_producer_up(one_log: KafkaLog, error: KafkaError) -> None:
    topic, writer = make_topic(one_log), writer_of(one_log)
    writer._producer = producer = failing(writer._producer, "commit_transaction", [error])
    assert writer.commit([output(topic, range(3))], {}, "g", None) is Outcome.FATAL
    assert "abort_transaction" not in producer.calls
    assert writer.commit([output(topic, range(3))], {}, "g", None) is Outcome.FATAL
    one_log.writer(writer.slot).close()
    assert read_all(one_log, topic) == []


def test_aborting_with_thousands_of_records_queued_does_not_kill_the_producer(one_log: KafkaLog) -> None:
    """Without the flush, 5 of 12 producers were fatal within 40 aborts."""
    topic, writer = make_topic(one_log), writer_of(one_log)
    rows = output(topic, range(2000))
    for _ in range(40):
        error = KafkaError(KafkaError.ILLEGAL_GENERATION, "rebalanced", False, False, True)
        real = writer._producer
        writer._producer = failing(real, "commit_transaction", [error])
        assert writer.commit([rows], {}, "g", None) is Outcome.ABORTED
        writer._producer = real
    assert writer.commit([output(topic, range(3))], {}, "g", None) is Outcome.COMMITTED
    assert values(read_all(one_log, topic)) == expected(range(3))


def test_more_records_than_the_client_buffers(kafka: Kafka) -> None:
    log = KafkaLog(kafka.bootstrap, {"kafka.queue.buffering.max.messages": "500"})
    topic = make_topic(log)
    append(log, topic, range(5000))
    assert values(read_all(log, topic)) == expected(range(5000))


@pytest.mark.parametrize("exactly_once", [True, False])
def test_a_record_the_client_finds_too_large_is_named_and_nothing_is_lost(
    one_log: KafkaLog, exactly_once: bool
) -> None:
    topic = make_topic(one_log)
    writer = one_log.writer(unique("slot"), exactly_once=exactly_once)
    large = RawBatch([(0, 1, b"k", b"x" * 2_000_000, [])])
    with pytest.raises(RecordTooLargeError, match=rf"2000001 bytes.*{topic}-0") as caught:
        writer.commit([(topic, 0, large)], {(topic, 0): 1}, "g", None)
    assert (caught.value.topic, caught.value.partition, caught.value.size) == (topic, 0, 2_000_001)
    assert writer.commit([output(topic, [1])], {}, "g", None) is Outcome.COMMITTED
    assert values(read_all(one_log, topic)) == expected([1])


def test_a_record_only_the_broker_finds_too_large_is_named_too(one_log: KafkaLog) -> None:
    topic = unique("small")
    one_log.create_topics(
        [TopicSpec(topic, 1, {**KEPT, "max.message.bytes": "1000", "compression.type": "uncompressed"})]
    )
    writer = one_log.writer(unique("slot"))
    large = RawBatch([(0, 1, None, bytes(range(256)) * 40, [])])
    with pytest.raises(RecordTooLargeError, match=rf"10240 bytes.*{topic}-0"):
        writer.commit([(topic, 0, large)], {}, "g", None)
    outcome = writer.commit([output(topic, [1])], {}, "g", None)
    if outcome is Outcome.ABORTED:  # after a delivery failure the next transaction may fail once more
        outcome = writer.commit([output(topic, [1])], {}, "g", None)
    assert outcome is Outcome.COMMITTED
    assert values(read_all(one_log, topic)) == expected([1])


def test_a_broker_killed_in_mid_commit_and_started_again_loses_and_doubles_nothing() -> None:
    with killable() as kafka:
        log = KafkaLog(kafka.bootstrap, session_ms=1500)
        topic, group, writer = make_topic(log), unique("group"), writer_of(log)
        assert writer.commit([output(topic, range(5))], {(topic, 0): 5}, group, None) is Outcome.COMMITTED
        restarter = threading.Timer(1.5, kafka.restart)
        killed = False

        def step(name: str) -> None:
            nonlocal killed
            if name == "commit" and not killed:
                killed = True
                kafka.kill()
                restarter.start()

        outcome = writer.commit([output(topic, range(5, 10))], {(topic, 0): 10}, group, None, step)
        restarter.join()
        done = 10 if outcome is Outcome.COMMITTED else 5
        if outcome is Outcome.FATAL:
            log.writer(writer.slot).close()
            writer = writer_of(log)
        assert log.committed(group, [(topic, 0)]) == {(topic, 0): done}
        if done == 5:
            again = writer.commit([output(topic, range(5, 10))], {(topic, 0): 10}, group, None)
            assert again is Outcome.COMMITTED
        assert values(read_all(log, topic)) == expected(range(10))


def test_the_first_commit_ever_on_a_new_cluster_returns() -> None:
    """librdkafka waits for ever when there is no group coordinator yet: its own retries last 10 ms with our
    backoff."""
    with Kafka() as kafka:
        log = KafkaLog(kafka.bootstrap)
        topic, writer = make_topic(log), writer_of(log)
        assert writer.commit([output(topic, [1])], {(topic, 0): 1}, "g", None) is Outcome.COMMITTED


def test_a_call_that_never_returns_is_given_up_as_fatal(one_log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    topic, writer = make_topic(one_log), writer_of(one_log)  # opened in its own time, before so little is enough
    monkeypatch.setattr("adstream.logs.kafka_writer.HANG_S", 0.2)
    ever = threading.Event()

    class Hanging:
        def __init__(self, real: Any) -> None:
            self.real = real

        def __getattr__(self, name: str) -> Any:
            return (lambda *_: ever.wait()) if name == "send_offsets_to_transaction" else getattr(self.real, name)

    writer._producer = Hanging(writer._producer)  # type: ignore[assignment]
    assert writer.commit([output(topic, [1])], {(topic, 0): 1}, "g", None) is Outcome.FATAL
    writer.close()
    ever.set()


def test_offsets_of_a_dead_workers_open_transaction_are_settled_by_its_heir(one_log: KafkaLog) -> None:
    """They are silently old under read_uncommitted, and time out under read_committed until the transaction
    does (15 s)."""
    source, group, slot = make_topic(one_log), unique("group"), unique("slot")
    dead = one_log.writer(slot)
    assert dead.commit([], {(source, 0): 3}, group, None) is Outcome.COMMITTED
    with contextlib.suppress(Crash):
        dead.commit([], {(source, 0): 8}, group, None, crash_at("commit"))
    one_log._writers.clear()  # as if another process had been it
    began = time.monotonic()
    assert one_log.committed(group, [(source, 0)]) == {(source, 0): 3}
    assert time.monotonic() - began < 4


def test_a_note_beside_an_offset_ends_where_it_ends(one_log: KafkaLog) -> None:
    """It is copied on its way: without a zero that counts, bytes behind the copy went along, now and then."""
    topic, group = make_topic(one_log, 40), unique("group")
    for length in range(12):
        slot = unique("slot") + "x" * length
        writer = one_log.writer(slot)
        offsets = {(topic, partition): length + 1 for partition in range(40)}
        while writer.commit([output(topic, [length])], offsets, group, None) is Outcome.ABORTED:
            pass
        found = {(part.offset, part.metadata) for part in one_log._all_offsets(group)}
        assert found == {(length + 1, note(slot, ""))}
        writer.close()


def test_commits_are_quick(one_log: KafkaLog) -> None:
    """With the default retry backoff, sending offsets alone takes 95 ms."""
    topic, group, writer = make_topic(one_log), unique("group"), writer_of(one_log)
    took = []
    for n in range(30):
        began = time.monotonic()
        assert writer.commit([output(topic, [n])], {(topic, 0): n}, group, None) is Outcome.COMMITTED
        took.append(time.monotonic() - began)
    assert sorted(took)[15] < 0.06


def test_both_producers_write_the_same_records(kafka: Kafka) -> None:
    records: list[Any] = [
        (0, 1_700_000_000_000, b"key", b"value", []),
        (1, 1_700_000_000_001, None, b"value", [("name", b"text"), ("name", b""), ("none", None), ("\xfc", b"\0\xff")]),
        (2, 1_600_000_000_000, b"", None, []),
        (3, 1, None, None, [("", b"of no name")]),
        (4, 0, b"\0", b"", []),
        *((i, 1_700_000_000_000 + i, b"%d" % i, bytes(i), []) for i in range(5, 3000)),
    ]
    found = []
    for kind in get_args(Kind):
        log = KafkaLog(kafka.bootstrap, writer=kind, session_ms=SESSION_MS)
        topic = make_topic(log, 2)
        for exactly_once in (True, False):
            writer = log.writer(unique("slot"), exactly_once=exactly_once)
            outputs = [(topic, p, RawBatch(records)) for p in (0, 1)]
            assert writer.commit(outputs, {}, unique("group"), None) is Outcome.COMMITTED
            writer.close()
        reader = log.reader()
        read: dict[int, list[Any]] = {}
        for p in (0, 1):
            reader.add(topic, p, 0)
            read[p] = []
            while len(read[p]) < 2 * len(records):
                batch = reader.read(topic, p, 10_000)
                if batch is None:
                    reader.wait(1.0)
                    continue
                read[p] += [record[1:] for record in batch.records()]
        found.append(read)
        reader.close()
        log.close()
    assert found[0] == found[1]
    stamps = [record[0] for record in found[0][0][:5]]
    assert stamps == [1_700_000_000_000, 1_700_000_000_001, 1_600_000_000_000, 1, 1]


@pytest.mark.parametrize("exactly_once", [True, False])
def test_what_is_not_delivered_is_noticed(kafka: Kafka, exactly_once: bool) -> None:
    for kind in get_args(Kind):
        log = KafkaLog(kafka.bootstrap, {"message.timeout.ms": "2000"}, writer=kind, session_ms=SESSION_MS)
        topic = make_topic(log)
        if exactly_once:
            log.close()
            log = KafkaLog(kafka.bootstrap, {"transaction.timeout.ms": "3000"}, writer=kind, session_ms=SESSION_MS)
        writer = log.writer(unique("slot"), exactly_once=exactly_once)
        assert writer.commit([output(topic, range(3))], {}, unique("group"), None) is Outcome.COMMITTED
        # A partition that is not there.
        bad = [(topic, 0, output(topic, range(3, 5))[2]), (topic, 7, output(topic, range(5, 9))[2])]
        assert writer.commit(bad, {}, unique("group"), None) is not Outcome.COMMITTED
        writer.close()
        committed = values(read_all(log, topic))
        assert committed[:3] == expected(range(3))
        if exactly_once:
            assert len(committed) == 3
        log.close()


def test_which_producer_is_a_setting(kafka: Kafka) -> None:
    with pytest.raises(ConfigError, match=r"kafka\.adstream\.writer") as caught:
        KafkaLog(kafka.bootstrap, {"kafka.adstream.writer": "raw"})
    assert "native, portable" in str(caught.value)
    kinds: list[tuple[dict[str, str], type]] = [({}, NativeProducer), ({"adstream.writer": "portable"}, Producer)]
    for settings, kind in kinds:
        log = KafkaLog(kafka.bootstrap, settings)
        assert isinstance(writer_of(log)._producer, kind)
        log.close()
