"""The three readers side by side: the same topic, the same records, whatever it is made of and whatever happens to its
brokers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, get_args

import pytest
from confluent_kafka import ElectionType, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from adstream._core import FetchReader as Core
from adstream.interfaces import Reader, TopicSpec
from adstream.logs import LogUnavailableError, OffsetGoneError
from adstream.logs.kafka import KafkaLog
from adstream.logs.kafka_reader import FetchReader, Kind
from tests.logs.conformance import KEPT, append, expected, make_topic, unique, values, wait_until_settled
from tests.servers import Kafka

if TYPE_CHECKING:
    from adstream._core import Record

pytestmark = pytest.mark.servers

KINDS: tuple[Kind, ...] = get_args(Kind)
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


@contextmanager
def readers(bootstrap: str, settings: Mapping[str, str] | None = None) -> Iterator[dict[Kind, Reader]]:
    logs = {kind: KafkaLog(bootstrap, settings, reader=kind) for kind in KINDS}
    opened = {kind: log.reader() for kind, log in logs.items()}
    try:
        yield opened
    finally:
        for reader in opened.values():
            reader.close()
        for log in logs.values():
            log.close()


def read_to(reader: Reader, topic: str, end: int, *, partition: int = 0, rows: int = 1000) -> list[Record]:
    """Reads until the position is `end`, however long it takes (within reason)."""
    out: list[Record] = []
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        batch = reader.read(topic, partition, rows)
        if batch is None:
            reader.wait(0.2)
            continue
        assert len(batch) <= rows
        out += batch.records()
        if batch.next_offset >= end:
            assert batch.next_offset == end
            return out
    raise AssertionError(f"{type(reader).__name__} stands after {len(out)} records, and not at {end}")


def fill(bootstrap: str, topic: str, codec: str) -> None:
    """Records of all shapes in transactions that were committed, aborted and left open, and in none."""
    base = {"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 20}

    def send(producer: Producer, numbers: range) -> None:
        for n in numbers:
            headers: list[tuple[str, str | bytes | None]] = (
                [("n", b"%d" % n), ("é", None), ("", b"")] if n % 5 == 0 else []
            )
            key = None if n % 7 == 0 else b"key-%d" % (n % 10)
            value = None if n % 11 == 0 else b"" if n % 13 == 0 else b"value %d " % n * (n % 50)
            producer.produce(topic, value, key, 0, timestamp=1_700_000_000_000 + n * 37 % 1000, headers=headers)
        producer.flush()

    plain = Producer(base)
    first, second = (Producer({**base, "transactional.id": unique("slot")}) for _ in range(2))
    for producer in (first, second):
        producer.init_transactions()
    for start in range(0, 4000, 1000):
        first.begin_transaction()
        second.begin_transaction()
        send(first, range(start, start + 200))
        send(second, range(start + 200, start + 400))
        send(plain, range(start + 400, start + 600))
        send(first, range(start + 600, start + 700))
        first.abort_transaction() if start % 2000 else first.commit_transaction()
        send(second, range(start + 700, start + 1000))
        second.commit_transaction() if start % 2000 else second.abort_transaction()
    first.begin_transaction()
    send(first, range(5000, 5100))
    send(plain, range(6000, 6010))
    first.abort_transaction()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("packed_by", ["client", "broker"])
def test_every_codec_and_transaction(kafka: Kafka, packed_by: str, codec: str) -> None:
    """A broker packs as Java does: snappy in another frame, lz4 with other flags."""
    topic = unique("agree")
    with readers(kafka.bootstrap) as opened:
        log = KafkaLog(kafka.bootstrap)
        by_broker = {"compression.type": "uncompressed" if codec == "none" else codec} if packed_by == "broker" else {}
        times = {"message.timestamp.type": "LogAppendTime"} if packed_by == "broker" and codec == "lz4" else {}
        log.create_topics([TopicSpec(topic, 1, {**KEPT, **by_broker, **times})])
        fill(kafka.bootstrap, topic, codec if packed_by == "client" else "none")
        end = wait_until_settled(log, topic)
        for start, rows in ((0, 1000), (0, 7), (1234, 100)):
            found = {}
            for kind, reader in opened.items():
                reader.add(topic, 0, start)
                found[kind] = read_to(reader, topic, end, rows=rows)
                assert reader.at_end(topic, 0)
            assert found["fetch"] == found["native"] == found["portable"]
        assert 1000 < len(found["fetch"]) < 4110
        log.close()


def test_records_larger_than_a_fetch(kafka: Kafka) -> None:
    """Whole records come however small the share of a partition is, and none starves behind another."""
    topic = unique("agree")
    log = KafkaLog(kafka.bootstrap)
    log.create_topics([TopicSpec(topic, 2, {**KEPT, "max.message.bytes": "8000000"})])
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "message.max.bytes": 8_000_000})
    for n in range(6):
        for partition in (0, 1):
            producer.produce(topic, b"%d" % n * 2_000_000, partition=partition)
            producer.produce(topic, b"small", partition=partition)
        producer.flush()
    small = {"max.partition.fetch.bytes": "10000", "fetch.max.bytes": "20000", "message.max.bytes": "10000"}
    with readers(kafka.bootstrap, small) as opened:
        for reader in opened.values():
            reader.add(topic, 0, 0)
            reader.add(topic, 1, 0)
            for partition in (0, 1):
                sizes = [len(row[3] or b"") for row in read_to(reader, topic, 12, partition=partition)]
                assert sizes == [2_000_000, 5] * 6
    log.close()


def test_a_broker_that_is_killed_and_comes_back() -> None:
    with Kafka() as own:
        log = KafkaLog(own.bootstrap)
        topic = make_topic(log)
        append(log, topic, range(3000))
        wait_until_settled(log, topic)
        with readers(own.bootstrap) as opened:
            found: dict[Kind, list[Record]] = {kind: [] for kind in KINDS}
            for kind, reader in opened.items():
                reader.add(topic, 0, 0)
                while not found[kind]:
                    batch = reader.read(topic, 0, 100)
                    found[kind] += batch.records() if batch is not None else []
                    reader.wait(0.1)
            own.kill()
            away = time.monotonic() + 4
            while time.monotonic() < away:
                for kind, reader in opened.items():
                    batch = reader.read(topic, 0, 100)
                    found[kind] += batch.records() if batch is not None else []
                    reader.wait(0.05)
            own.start()
            append(log, topic, range(3000, 6000))
            end = wait_until_settled(log, topic)
            for kind, reader in opened.items():
                found[kind] += read_to(reader, topic, end)
                assert values(found[kind]) == expected(range(6000)), kind
        log.close()


def test_a_leader_that_moves_away_and_back() -> None:
    with Kafka() as first, Kafka(joins=first) as second:
        topic = unique("agree")
        new = NewTopic(topic, 2, replica_assignment=[[2, 1], [1, 2]], config=KEPT)
        admin = _admin(first)
        admin.create_topics([new])[topic].result()
        _until_led(first, topic, {0: 2, 1: 1})
        producer = Producer({"bootstrap.servers": first.bootstrap, "acks": "all", "enable.idempotence": True})

        def send(numbers: range) -> None:
            for n in numbers:
                for partition in (0, 1):
                    producer.produce(topic, b"v%d" % n, partition=partition)
            producer.flush()

        with readers(f"{first.bootstrap},{second.bootstrap}") as opened:
            found: dict[tuple[Kind, int], list[Record]] = {(kind, p): [] for kind in KINDS for p in (0, 1)}

            def catch_up(end: int) -> None:
                for kind, reader in opened.items():
                    for p in (0, 1):
                        found[kind, p] += read_to(reader, topic, end, partition=p)
                        assert values(found[kind, p]) == expected(range(end)), (kind, p)

            for reader in opened.values():
                reader.add(topic, 0, 0)
                reader.add(topic, 1, 0)
            send(range(500))
            catch_up(500)
            second.kill()
            _until_led(first, topic, {0: 1, 1: 1})
            send(range(500, 1000))
            catch_up(1000)
            second.start()
            _until_led(first, topic, {0: 1, 1: 1}, in_sync=2)
            admin = _admin(first)
            admin.elect_leaders(ElectionType.PREFERRED, None).result()
            _until_led(first, topic, {0: 2, 1: 1})
            send(range(1000, 1500))
            catch_up(1500)


def _admin(broker: Kafka) -> AdminClient:
    """A new one each time: it remembers who took administrative requests, and this may be the one that was killed."""
    return AdminClient({"bootstrap.servers": broker.bootstrap})


def _until_led(broker: Kafka, topic: str, leaders: dict[int, int], in_sync: int = 1) -> None:
    for _ in range(300):
        told = _admin(broker).list_topics(topic, timeout=15).topics[topic].partitions
        led = {number: partition.leader for number, partition in told.items()}
        if led == leaders and all(len(partition.isrs) >= in_sync for partition in told.values()):
            return
        time.sleep(0.2)
    raise AssertionError(f"led by {led}, not {leaders}")


def test_a_topic_that_is_made_later_and_one_that_is_made_anew(kafka: Kafka) -> None:
    log = KafkaLog(kafka.bootstrap, reader="fetch")
    topic = unique("agree")
    reader = log.reader()
    reader.add(topic, 0, 0)
    for _ in range(5):
        assert reader.read(topic, 0, 10) is None
        reader.wait(0.05)
    log.create_topics([TopicSpec(topic, 1, KEPT)])
    append(log, topic, range(20))
    assert values(read_to(reader, topic, wait_until_settled(log, topic))) == expected(range(20))
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.delete_topics([topic])[topic].result()
    deadline = time.monotonic() + 20
    while log.partitions([topic]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    log.create_topics([TopicSpec(topic, 1, KEPT)])
    append(log, topic, range(100))
    with pytest.raises(OffsetGoneError, match="made under its name"):
        read_to(reader, topic, 101)
    reader.add(topic, 0, 0)
    assert values(read_to(reader, topic, wait_until_settled(log, topic))) == expected(range(100))
    reader.add(topic, 7, 0)
    with pytest.raises(LogUnavailableError, match="no such partition"):
        read_to(reader, topic, 1, partition=7)
    reader.close()
    log.close()


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\x08" + b"\xff" * 8, b"\0\0\0\0"])
def test_who_does_not_speak_the_protocol_holds_nobody_up(kafka: Kafka, says: bytes) -> None:
    """The first address belongs to something that takes connections and says nothing, or nonsense."""
    log = KafkaLog(kafka.bootstrap)
    topic = make_topic(log)
    append(log, topic, range(10))
    end = wait_until_settled(log, topic)
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def answer() -> None:
            while True:
                try:
                    taken.append(silent.accept()[0])
                except OSError:
                    return
                taken[-1].sendall(says)

        taken: list[socket.socket] = []
        threading.Thread(target=answer, daemon=True).start()
        port = silent.getsockname()[1]
        settings = {"bootstrap.servers": f"127.0.0.1:{port},{kafka.bootstrap}", "socket.timeout.ms": "300"}
        reader = FetchReader(Core(list(settings.items()), True))
        reader.add(topic, 0, 0)
        began = time.monotonic()
        assert values(read_to(reader, topic, end)) == expected(range(10))
        assert time.monotonic() - began < 10
        assert taken, "it was asked first"
        reader.close()
        silent.shutdown(socket.SHUT_RDWR)
        for link in taken:
            link.close()
    log.close()
