"""The embedded log: one commit is there or it is not, whatever was torn; and a model of it under random
operations."""

import multiprocessing
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adstream._core import RawBatch
from adstream.errors import ConfigError, FatalError, OffsetGoneError
from adstream.interfaces import LeaseChange, Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLog


def batch(*values: bytes) -> RawBatch:
    return RawBatch([(i, 1_000 + i, b"k", value, [("h", b"v")]) for i, value in enumerate(values)])


def values(log: EmbeddedLog, topic: str, partition: int, position: int | None = None) -> list[bytes | None]:
    reader = log.reader()
    if position is None:
        position = log.start_offsets([(topic, partition)])[topic, partition]
    reader.add(topic, partition, position)
    found = []
    while (read := reader.read(topic, partition, 3)) is not None:
        for offset, _, _, value, _ in read.records():
            assert offset == position
            position += 1
            found.append(value)
        assert read.next_offset == position
    assert reader.at_end(topic, partition)
    return found


def write_commits(path: Path) -> list[tuple[list[bytes | None], int | None]]:
    """Three commits; returns what is visible (records of both partitions, the group's position) after each."""
    log = EmbeddedLog(path)
    log.create_topics([TopicSpec("t", 2, {"cleanup.policy": "delete"})])
    writer = log.writer("w")
    states: list[tuple[list[bytes | None], int | None]] = [([], None)]
    for n in range(3):
        outputs = [("t", 0, batch(b"a%d" % n, b"b%d" % n)), ("t", 1, batch(b"c%d" % n))]
        assert writer.commit(outputs, {("in", 0): n}, "g", None) is Outcome.COMMITTED
        states.append(state(log))
    log.close()
    return states


def state(log: EmbeddedLog) -> tuple[list[bytes | None], int | None]:
    return values(log, "t", 0) + values(log, "t", 1), log.committed("g", [("in", 0)])["in", 0]


def test_a_torn_write_at_any_byte_leaves_whole_commits(tmp_path: Path) -> None:
    states = write_commits(tmp_path / "whole")
    whole = (tmp_path / "whole" / "00000001.log").read_bytes()
    seen = set()
    for size in range(len(whole) + 1):
        directory = tmp_path / "torn"
        directory.mkdir(exist_ok=True)
        (directory / "00000001.log").write_bytes(whole[:size])
        log = EmbeddedLog(directory, sync=False)
        if log.partitions(["t"]):  # else torn before the topic was made
            found = state(log)
            assert found in states
            seen.add(states.index(found))
            assert log.writer("w").commit([("t", 0, batch(b"on"))], {}, "g", None) is Outcome.COMMITTED
            assert values(log, "t", 0)[-1] == b"on"
        log.close()
    assert seen == {0, 1, 2, 3}


def test_zeros_at_the_end_are_a_torn_write_too(tmp_path: Path) -> None:
    states = write_commits(tmp_path)
    with (tmp_path / "00000001.log").open("ab") as file:
        file.write(bytes(1_000))
    assert state(EmbeddedLog(tmp_path)) == states[-1]


def test_damage_before_whole_commits_is_refused(tmp_path: Path) -> None:
    write_commits(tmp_path)
    file = tmp_path / "00000001.log"
    data = bytearray(file.read_bytes())
    data[data.index(b"a1")] ^= 1
    file.write_bytes(data)
    with pytest.raises(FatalError, match="damaged at byte"):
        EmbeddedLog(tmp_path)
    EmbeddedLog(tmp_path / "other").close()
    assert bytes(data) == file.read_bytes()


def open_elsewhere(path: Path, answer: "multiprocessing.Queue[str]") -> None:
    try:
        EmbeddedLog(path)
        answer.put("opened")
    except ConfigError as error:
        answer.put(str(error))


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    log = EmbeddedLog(tmp_path)
    process = context.Process(target=open_elsewhere, args=(tmp_path, answer))
    process.start()
    assert "another process has the log" in answer.get(timeout=60)
    process.join()
    with pytest.raises(ConfigError):
        EmbeddedLog(tmp_path)
    log.close()
    EmbeddedLog(tmp_path).close()


def test_segments_roll_and_go_when_nothing_in_them_lives(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path, segment_bytes=2_000, sync=False)
    log.create_topics([TopicSpec("t", 1), TopicSpec("idle", 1)])
    writer = log.writer("w")
    for n in range(100):
        writer.commit([("t", 0, batch(b"%d" % n))], {("in", 0): n}, "g", None)
    files = len(list(tmp_path.glob("*.log")))
    assert files > 5
    log.delete_records({("t", 0): 95})
    assert len(list(tmp_path.glob("*.log"))) < files
    log.close()
    log = EmbeddedLog(tmp_path, segment_bytes=2_000, sync=False)
    assert values(log, "t", 0) == [b"95", b"96", b"97", b"98", b"99"]
    assert log.partitions(["t", "idle", "none"]) == {"t": 1, "idle": 1}
    assert log.committed("g", [("in", 0)]) == {("in", 0): 99}
    log.delete_records({("t", 0): 1_000})
    log.close()
    log = EmbeddedLog(tmp_path)
    assert log.start_offsets([("t", 0)]) == log.end_offsets([("t", 0)], committed=True) == {("t", 0): 100}
    reader = log.reader()
    reader.add("t", 0, 7)
    log.writer("w").commit([("t", 0, batch(b"x"))], {}, "g", None)
    with pytest.raises(OffsetGoneError, match="records 7 to 99 of `t`"):
        reader.read("t", 0, 1)


def test_opening_a_slot_fences_its_holder() -> None:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("t", 1)])
    old, new = log.writer("s"), log.writer("s")
    assert old.commit([("t", 0, batch(b"old"))], {}, "g", None) is Outcome.FATAL
    assert new.commit([("t", 0, batch(b"new"))], {}, "g", None) is Outcome.COMMITTED
    assert values(log, "t", 0) == [b"new"]


def test_an_unknown_topic_is_an_error_and_writes_nothing() -> None:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("t", 1)])
    with pytest.raises(ConfigError, match="partition 1 of topic `t`"):
        log.writer("w").commit([("t", 0, batch(b"x")), ("t", 1, batch(b"y"))], {("in", 0): 5}, "g", None)
    assert values(log, "t", 0) == []
    assert log.committed("g", [("in", 0)]) == {("in", 0): None}
    with pytest.raises(ConfigError, match="`t` has 1 partitions, 2 are needed"):
        log.create_topics([TopicSpec("new", 1), TopicSpec("t", 2)])
    assert log.partitions(["new"]) == {}


def test_a_waiting_reader_wakes_on_a_commit() -> None:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("t", 1)])
    reader, writer = log.reader(), log.writer("w")
    reader.add("t", 0, 0)
    began = time.monotonic()
    thread = threading.Timer(0.05, lambda: writer.commit([("t", 0, batch(b"x"))], {}, "g", None))
    thread.start()
    reader.wait(30)
    assert time.monotonic() - began < 10
    assert reader.read("t", 0, 10) is not None
    thread.join()


def test_a_reader_knows_where_something_is_to_be_read() -> None:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("t", 3)])
    reader, writer = log.reader(), log.writer("w")
    for partition in (0, 1):
        reader.add("t", partition, 0)
    assert reader.unread() == {("t", 0), ("t", 1)}, "nobody has looked yet"
    assert [reader.read("t", partition, 10) for partition in (0, 1)] == [None, None]
    assert reader.unread() == set()
    writer.commit([("t", 1, batch(b"a", b"b", b"c")), ("t", 2, batch(b"x"))], {}, "g", None)
    assert reader.unread() == {("t", 1)}
    for left in (True, False):
        assert reader.read("t", 1, 2) is not None
        assert (reader.unread() == {("t", 1)}, reader.at_end("t", 1)) == (left, not left)
    log.delete_records({("t", 1): 2})
    assert reader.read("t", 1, 10) is None, "it is behind what is gone"
    writer.commit([("t", 1, batch(b"d"))], {}, "g", None)
    log.delete_records({("t", 1): 4})
    for _ in range(2):
        with pytest.raises(OffsetGoneError):
            reader.read("t", 1, 10)
        assert reader.unread() == {("t", 1)}
    reader.remove("t", 1)
    assert reader.unread() == set()
    log.delete_topics(["t"])
    assert reader.unread() == {("t", 0)}, "it is told that the topic is gone, and hears of its successor"
    log.create_topics([TopicSpec("t", 1)])
    assert reader.read("t", 0, 10) is None
    writer.commit([("t", 0, batch(b"new"))], {}, "g", None)
    assert reader.unread() == {("t", 0)}
    reader.close()
    writer.commit([("t", 0, batch(b"unheard"))], {}, "g", None)
    assert reader.unread() == set()


def test_leases_are_handed_over_only_when_released() -> None:
    """In librdkafka's order: the highest is given first, the lowest taken first."""
    log = EmbeddedLog()
    log.create_topics([TopicSpec("tasks", 5)])
    first, second = log.leases("g", "tasks"), log.leases("g", "tasks")
    first.start()
    assert first.poll() == LeaseChange(granted=(4, 3, 2, 1, 0))
    second.start()
    assert second.poll() is None
    assert first.poll() == LeaseChange(revoked=(0, 1))
    first.released([1])
    assert second.poll() == LeaseChange(granted=(1,))
    first.released([0])
    assert second.poll() == LeaseChange(granted=(0,))
    log.expel(second)
    assert first.poll() == LeaseChange(granted=(1, 0))
    assert second.poll() == LeaseChange(lost=(0, 1))
    assert first.poll() == LeaseChange(revoked=(0, 1))
    first.close()
    assert second.poll() == LeaseChange(granted=(4, 3, 2, 1, 0))


def test_who_lost_its_membership_cannot_commit() -> None:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("tasks", 1), TopicSpec("t", 1)])
    leases, writer = log.leases("g", "tasks"), log.writer("w")
    leases.start()
    fence = leases.fence()
    assert writer.commit([("t", 0, batch(b"1"))], {}, "g", fence) is Outcome.COMMITTED
    log.expel(leases)
    assert writer.commit([("t", 0, batch(b"2"))], {}, "g", fence) is Outcome.ABORTED
    assert writer.commit([("t", 0, batch(b"2"))], {}, "g", leases.fence()) is Outcome.ABORTED
    leases.poll()
    assert writer.commit([("t", 0, batch(b"2"))], {}, "g", fence) is Outcome.ABORTED
    assert writer.commit([("t", 0, batch(b"3"))], {}, "g", leases.fence()) is Outcome.COMMITTED
    assert values(log, "t", 0) == [b"1", b"3"]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=4)),
        st.tuples(st.just("delete"), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), max_size=2)),
        st.tuples(st.just("reopen"), st.just([])),
        st.tuples(st.just("drop"), st.just([])),
        st.tuples(st.just("drop and make again"), st.just([])),
        st.tuples(st.just("reset"), st.just([])),
        st.tuples(st.just("fenced"), st.lists(st.tuples(st.integers(0, 2), st.integers(1, 2)), max_size=2)),
    ),
    max_size=25,
)


@given(operations=OPERATIONS)
@settings(max_examples=60, deadline=None)
def test_it_is_what_its_model_is(operations: list[tuple[str, list[tuple[int, int]]]], tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    """Memory and directory behave as lists with a start; reopening changes nothing."""
    path = tmp_path_factory.mktemp("log")
    logs = [EmbeddedLog(), EmbeddedLog(path, segment_bytes=600, sync=False)]
    model: list[list[bytes]] = [[], [], []]
    starts, position, theirs, number = [0, 0, 0], None, None, 0
    for log in logs:
        log.create_topics([TopicSpec("t", 3), TopicSpec("other", 1)])
    for name, arguments in operations:
        for log in logs:
            log.create_topics([TopicSpec("t", 3)])
        if name in ("commit", "fenced"):
            outputs = []
            for partition, count in arguments:
                rows = [b"%d" % (number := number + 1) for _ in range(count)]
                outputs.append(("t", partition, batch(*rows)))
                if name == "commit":
                    model[partition] += rows
            position = number if name == "commit" else position
            theirs = number if name == "commit" else theirs
            for log in logs:
                writer = log.writer("w")
                if name == "fenced":
                    log.writer("w")
                outcome = writer.commit(outputs, {("in", 0): number, ("t", 1): number}, "g", None)
                assert outcome is (Outcome.COMMITTED if name == "commit" else Outcome.FATAL)
        elif name == "delete":
            for partition, before in arguments:
                starts[partition] = max(starts[partition], min(before, len(model[partition])))
            for log in logs:
                for partition, before in arguments:
                    log.delete_records({("t", partition): before})
        elif name.startswith("drop"):
            model, starts, theirs = [[], [], []], [0, 0, 0], None
            for log in logs:
                log.delete_topics(["t", "none"])
                assert log.topics() == ["other"]
                if name != "drop":
                    log.create_topics([TopicSpec("t", 3)])
        elif name == "reset":
            position, theirs = 7, None
            for log in logs:
                log.reset_group("g", {("in", 0): 7})
        else:
            logs[1].close()
            logs[1] = EmbeddedLog(path, segment_bytes=600, sync=False)
        for log in logs:
            assert log.committed("g", [("in", 0), ("t", 1)]) == {("in", 0): position, ("t", 1): theirs}
            if name == "drop":
                assert log.partitions(["t"]) == {}
                continue
            for p in range(3):
                assert log.start_offsets([("t", p)]) == {("t", p): starts[p]}
                assert log.end_offsets([("t", p)], committed=False) == {("t", p): len(model[p])}
                assert values(log, "t", p) == model[p][starts[p] :]
    logs[1].close()
