"""The traps of reading, each by its name, with all readers where it concerns all."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from pathlib import Path
from typing import get_args

import pytest

from adstream.errors import ConfigError
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs import LogUnavailableError
from adstream.logs.kafka import KafkaLog
from adstream.logs.kafka_client import library
from adstream.logs.kafka_reader import FetchReader, Kind, NativeReader, PortableReader, choose
from tests.logs.conformance import (
    Crash,
    append,
    crash_at,
    expected,
    make_topic,
    output,
    read_all,
    read_on,
    unique,
    values,
    wait_until_settled,
)
from tests.servers import Kafka

pytestmark = pytest.mark.servers


def leave_open(log: KafkaLog, topic: str, numbers: range, slot: str) -> None:
    with contextlib.suppress(Crash):
        log.writer(slot).commit([output(topic, numbers)], {}, "g", None, crash_at("commit"))


def test_committed_end_stops_before_an_open_transaction_and_the_very_end_does_not(log: KafkaLog) -> None:
    topic, slot = make_topic(log), unique("slot")
    where = (topic, 0)
    append(log, topic, range(10))  # 10 records, 1 marker
    closed = wait_until_settled(log, topic)
    assert closed == 11
    leave_open(log, topic, range(7), slot)
    assert log.end_offsets([where], committed=True) == {where: 11}
    assert log.end_offsets([where], committed=False) == {where: 18}
    reader = log.reader()
    reader.add(topic, 0, 0)
    assert values(read_on(reader, topic)) == expected(range(10))
    assert reader.at_end(topic, 0)
    assert reader.read(topic, 0, 10) is None
    log.writer(slot).close()  # aborts the seven
    assert wait_until_settled(log, topic) == 19
    for _ in range(500):
        batch = reader.read(topic, 0, 10)
        if batch is not None and batch.next_offset == 19:
            break
        reader.wait(0.01)
    else:
        raise AssertionError("the position did not move past the aborted records")
    assert len(batch) == 0
    assert reader.at_end(topic, 0)
    reader.close()


def test_the_end_moves_the_position_past_markers(log: KafkaLog) -> None:
    """A restore is done at an EOF with offset >= H; "last record = end - 1" never holds with transactions."""
    topic = make_topic(log)
    for start in range(3):
        append(log, topic, range(start, start + 1))  # record, marker, record, marker ...
    end = wait_until_settled(log, topic)
    assert end == 6
    reader = log.reader()
    reader.add(topic, 0, 0)
    position = 0
    for _ in range(500):
        batch = reader.read(topic, 0, 10)
        if batch is not None:
            position = batch.next_offset
        if reader.at_end(topic, 0):
            break
        reader.wait(0.01)
    assert position == end
    reader.close()


def test_closing_with_unread_messages_does_not_hang(log: KafkaLog) -> None:
    topic = make_topic(log, 2)
    for partition in (0, 1):
        append(log, topic, range(20_000), partition)
    reader = log.reader()
    reader.add(topic, 0, 0)
    reader.add(topic, 1, 0)
    while reader.read(topic, 0, 10) is None:
        reader.wait(0.01)
    began = time.monotonic()
    reader.close()
    assert time.monotonic() - began < 3


def test_partitions_do_not_mix_and_one_that_is_not_read_holds_nobody_up(log: KafkaLog) -> None:
    """Each partition's queue is taken from the common one before the partition is assigned, again at every
    add."""
    topic = make_topic(log, 3)
    for partition in range(3):
        append(log, topic, range(partition * 100_000, partition * 100_000 + 30_000), partition)
        wait_until_settled(log, topic, partition)
    reader = log.reader()
    for partition in (0, 1, 2):
        reader.add(topic, partition, 0)
    assert values(read_on(reader, topic, 1)) == expected(range(100_000, 130_000))
    reader.remove(topic, 1)
    reader.add(topic, 1, 5)  # while the others go on
    assert values(read_on(reader, topic, 2)) == expected(range(200_000, 230_000))
    assert values(read_on(reader, topic, 1)) == expected(range(100_005, 130_000))
    assert values(read_on(reader, topic, 0)) == expected(range(30_000))
    reader.close()


def test_an_offset_that_is_gone_is_an_error_and_never_a_jump(log: KafkaLog) -> None:
    topic = make_topic(log)
    append(log, topic, range(20))
    log.delete_records({(topic, 0): 10})
    reader = log.reader()
    reader.add(topic, 0, 3)
    with pytest.raises(LogUnavailableError, match=topic):
        read_on(reader, topic)
    with pytest.raises(LogUnavailableError, match=topic):
        reader.read(topic, 0, 10)
    reader.add(topic, 0, 10)
    assert values(read_on(reader, topic)) == expected(range(10, 20))
    reader.close()


def test_reading_what_was_not_added_is_an_error(log: KafkaLog) -> None:
    reader = log.reader()
    with pytest.raises(LogUnavailableError):
        reader.read("nothing", 0, 1)
    reader.close()


def test_waiting_ends_as_soon_as_there_is_something(log: KafkaLog) -> None:
    topic = make_topic(log)
    writer = log.writer(unique("slot"))
    reader = log.reader()
    reader.add(topic, 0, 0)
    lags = []
    for n in range(20):
        assert writer.commit([output(topic, [n])], {}, "g", None) is Outcome.COMMITTED
        began = time.monotonic()
        while (batch := reader.read(topic, 0, 10)) is None or len(batch) == 0:
            before = time.monotonic()
            reader.wait(5.0)
            assert time.monotonic() - before < 1, "a wake-up was lost"
        lags.append(time.monotonic() - began)
    assert sorted(lags)[10] < 0.1
    reader.close()
    writer.close()


def test_waiting_for_nothing_takes_its_time(log: KafkaLog) -> None:
    reader = log.reader()
    reader.wait(0.05)
    began = time.monotonic()
    reader.wait(0.3)
    assert 0.2 < time.monotonic() - began < 1.5
    reader.close()


@pytest.mark.parametrize("kind", ["fetch", "native"])
def test_what_is_not_read_costs_bounded_memory(kafka: Kafka, one_log: KafkaLog, kind: str) -> None:
    """64 MiB a partition by default; 4 here, plus a fetch in flight."""
    topic = make_topic(one_log, 4)
    value = os.urandom(50_000)
    from adstream._core import RawBatch

    for partition in range(4):
        batch = RawBatch([(i, 1, None, value, []) for i in range(1000)])  # 50 MB each
        writer = one_log.writer(unique("slot"))
        assert writer.commit([(topic, partition, batch)], {}, "g", None) is Outcome.COMMITTED
        writer.close()
    before = _resident()
    reader = KafkaLog(kafka.bootstrap, reader=kind).reader()
    for partition in range(4):
        reader.add(topic, partition, 0)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        reader.wait(0.1)
    assert _resident() - before < 60e6
    reader.close()


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * float(resource.getpagesize())


def test_headers_come_when_asked_for_and_cost_nothing_otherwise(kafka: Kafka, one_log: KafkaLog) -> None:
    topic = make_topic(one_log)
    from adstream._core import RawBatch

    writer = one_log.writer(unique("slot"))
    writer.commit([(topic, 0, RawBatch([(0, 1, b"k", b"v", [("h", b"1")])]))], {}, "g", None)
    writer.close()
    assert read_all(one_log, topic)[0][4] == [("h", b"1")]
    for kind in get_args(Kind):
        without = KafkaLog(kafka.bootstrap, reader=kind, headers=False)
        assert read_all(without, topic)[0][4] == []


@pytest.mark.parametrize("kind", ["fetch", "native"])
def test_a_forked_child_may_not_read_what_its_parent_fetched(kafka: Kafka, one_log: KafkaLog, kind: str) -> None:
    topic = make_topic(one_log)
    append(one_log, topic, range(10))
    reader = KafkaLog(kafka.bootstrap, reader=kind).reader()
    reader.add(topic, 0, 0)
    reader.wait(2)
    child = os.fork()
    if child == 0:
        try:
            reader.read(topic, 0, 10)
        except LogUnavailableError as error:
            os._exit(0 if "fork" in str(error) else 2)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    wait_until_settled(one_log, topic)
    assert values(read_on(reader, topic)) == expected(range(10))
    reader.close()


def test_native_and_python_clients_share_one_library(kafka: Kafka) -> None:
    KafkaLog(kafka.bootstrap, reader="native").reader().close()
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "librdkafka" in line}
    assert mapped == {str(Path(library()).resolve())}
    assert "confluent_kafka" in sys.modules


def test_an_unknown_setting_and_one_of_ours_are_refused_by_name(kafka: Kafka) -> None:
    with pytest.raises(ConfigError, match=r"isolation\.level"):
        KafkaLog(kafka.bootstrap, {"kafka.isolation.level": "read_uncommitted"})
    with pytest.raises(ConfigError, match=r"no\.such\.setting"):
        KafkaLog(kafka.bootstrap, {"kafka.no.such.setting": "1"})
    with pytest.raises(ConfigError, match=r"adstream\.reader") as caught:
        KafkaLog(kafka.bootstrap, {"kafka.adstream.reader": "raw"})
    assert "fetch, native, portable" in str(caught.value)


def test_settings_choose_the_reader(kafka: Kafka, caplog: pytest.LogCaptureFixture) -> None:
    """What the fetch protocol's reader cannot honour is read through librdkafka, and said; or refused, if it was asked
    for by name."""
    caplog.set_level("INFO", "adstream.kafka")
    assert isinstance(KafkaLog(kafka.bootstrap).reader(), FetchReader)
    assert not caplog.messages
    for name in ("client.rack", "socket.nagle.disable"):
        given = {name: "true"}
        assert isinstance(KafkaLog(kafka.bootstrap, given).reader(), NativeReader)
        assert f"`{name}`" in caplog.messages[-1]
        with pytest.raises(ConfigError, match=name):
            KafkaLog(kafka.bootstrap, given, reader="fetch")
    assert isinstance(KafkaLog(kafka.bootstrap, {"adstream.reader": "native"}).reader(), NativeReader)
    assert isinstance(KafkaLog(kafka.bootstrap, {"adstream.reader": "portable"}).reader(), PortableReader)
    assert choose({"security.protocol": "SASL_SSL"}, None) == "native"


def test_an_unreachable_broker_is_a_config_error_in_bounded_time() -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1") as caught:
        KafkaLog("127.0.0.1:1", connect_timeout_s=2)
    assert caught.value.option == "--bootstrap"
    assert time.monotonic() - began < 5


def test_a_new_topic_is_usable_at_once(one_log: KafkaLog) -> None:
    for _ in range(5):
        name = unique("fresh")
        one_log.create_topics([TopicSpec(name, 2, {"cleanup.policy": "compact"})])
        assert one_log.end_offsets([(name, 0), (name, 1)], committed=True) == {(name, 0): 0, (name, 1): 0}
        append(one_log, name, range(2), 1)
        assert values(read_all(one_log, name, 1)) == expected(range(2))
