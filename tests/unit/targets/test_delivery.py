"""The state machine of a sink, step by step: a fake target, a fake reader, a clock and a thread that the test
holds."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from adstream.errors import ConfigError, OffsetGoneError
from adstream.targets.delivery import (
    Backoff,
    FlushPolicy,
    SinkRunner,
    TransientError,
    UnreachableError,
    Verdict,
    classify,
    open_target,
)


class Batch:
    def __init__(self, rows: Sequence[tuple[str, int]], next_offset: int) -> None:
        self.rows = rows
        self.next_offset = next_offset


class Topic:
    """A reader over rows in memory: row i of a partition has offset i."""

    def __init__(self, partitions: Mapping[int, Sequence[tuple[str, int]]]) -> None:
        self.partitions = {number: list(rows) for number, rows in partitions.items()}
        self.at: dict[int, int] = {}

    def add(self, topic: str, partition: int, position: int) -> None:
        assert partition not in self.at
        self.at[partition] = position

    def remove(self, topic: str, partition: int) -> None:
        del self.at[partition]

    def read(self, topic: str, partition: int, max_rows: int) -> Any:
        start = self.at[partition]
        rows = self.partitions[partition][start : start + max_rows]
        if not rows:
            return None
        self.at[partition] = start + len(rows)
        return Batch(rows, start + len(rows))

    def at_end(self, topic: str, partition: int) -> bool: ...
    def unread(self) -> None: ...
    def wait(self, timeout_s: float) -> None: ...
    def close(self) -> None: ...


class Newest:
    def __init__(self) -> None:
        self.rows: dict[str, int] = {}

    def add(self, batch: Any) -> int:
        for key, value in batch.rows:
            self.rows.pop(key, None)
            self.rows[key] = value
        return len(batch.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def drain(self) -> dict[str, list[Any]]:
        rows, self.rows = self.rows, {}
        return {"key": list(rows), "value": list(rows.values())}


class Table:
    """A target that does what `trouble` says on its next calls: an error before or after it was applied."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.at: dict[int, int] = {}
        self.writes: list[tuple[int, int, int]] = []
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self.opened = 0
        self.refused = 0

    def open(self, app: str, sink: str, schema: Mapping[str, str], key: Sequence[str]) -> None:
        self.opened += 1
        if self.before:
            raise self.before.pop(0)

    def positions(self, partitions: Sequence[int]) -> dict[int, int]:
        return {number: self.at[number] for number in partitions if number in self.at}

    def of_topic(self, topic_id: str) -> str:
        return topic_id

    def write(self, partition: int, expected: int, position: int, rows: Mapping[str, list[Any]]) -> bool:
        self.writes.append((partition, expected, position))
        if self.before:
            raise self.before.pop(0)
        if self.at.get(partition, 0) != expected:
            return False
        self.at[partition] = position
        if rows:
            self.rows.update(zip(rows["key"], rows["value"], strict=True))
        if self.after:
            raise self.after.pop(0)
        return True

    def close(self) -> None: ...


class AtOnce(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Held(Executor):
    """Runs nothing until told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, fn))
        return future

    def go(self) -> None:
        future, call = self.waiting.pop(0)
        future.set_result(call())


def runner(topic: Topic, target: Table, executor: Executor | None = None, **policy: int) -> SinkRunner:
    made = SinkRunner(
        "s", "rows", target, topic, Newest,
        executor=executor or AtOnce(), random=lambda: 0.0, policy=FlushPolicy(**policy), backoff=Backoff(1.0, 8.0),
    )  # fmt: skip
    made.assign(topic.partitions)
    return made


def run(sink: SinkRunner, start_ms: int, stop_ms: int, every_ms: int = 100) -> None:
    for now_ms in range(start_ms, stop_ms + 1, every_ms):
        sink.step(now_ms)


def test_the_rows_are_made_beside_the_worker() -> None:
    """Turning rows into Python's values takes a while, and belongs where the target is waited for."""
    topic, table, executor = Topic({0: [("a", 1), ("b", 2)]}), Table(), Held()
    drained: list[int] = []

    class Slow(Newest):
        def drain(self) -> dict[str, list[Any]]:
            drained.append(len(self))
            return super().drain()

    sink = SinkRunner("s", "rows", table, topic, Slow, executor=executor, random=lambda: 0.0, policy=FlushPolicy(1000))
    sink.assign([0])
    sink.step(0)
    executor.go()  # the positions
    table.before = [OSError("away")]
    run(sink, 100, 1500)
    assert (len(executor.waiting), drained, sink.rows_held) == (1, [], 2)
    with pytest.raises(OSError, match="away"):
        executor.go()
    assert drained == [2]


def test_the_first_rows_are_written_at_once_and_the_next_ones_together_when_the_flush_is_due() -> None:
    topic, table = Topic({0: [("a", 1), ("b", 2), ("a", 3)]}), Table()
    sink = runner(topic, table)
    run(sink, 0, 200)
    assert (table.rows, table.at) == ({"b": 2, "a": 3}, {0: 3})
    assert (sink.counters.rows_read, sink.counters.rows, sink.counters.flushes) == (3, 2, 1)
    assert sink.idle
    assert sink.stored == {0: 3}
    topic.partitions[0] += [("c", 4)]
    run(sink, 300, 600)
    topic.partitions[0] += [("c", 5), ("d", 6)]
    run(sink, 700, 1_000)
    assert len(table.writes) == 1, "nine tenths of a second after the last one"
    run(sink, 1_100, 1_300)
    assert (table.rows, table.at) == ({"b": 2, "a": 3, "c": 5, "d": 6}, {0: 6})
    assert len(table.writes) == 2
    run(sink, 1_400, 5_000)
    topic.partitions[0] += [("e", 7)]
    run(sink, 5_100, 5_200)
    assert table.rows["e"] == 7, "nothing was written for a while"


def test_it_continues_where_the_target_is() -> None:
    topic, table = Topic({0: [("a", 1), ("b", 2)], 1: [("c", 3)]}), Table()
    table.at = {0: 1}
    sink = runner(topic, table)
    run(sink, 0, 3_000)
    assert (table.rows, table.at) == ({"b": 2, "c": 3}, {0: 2, 1: 1})


def test_what_all_have_stored_is_asked_of_the_target_beside_the_worker() -> None:
    topic, table, executor = Topic({}), Table(), Held()
    sink = runner(topic, table, executor)
    assert sink.stored_by_all(2) is None
    assert sink.stored_by_all(2) is None
    assert len(executor.waiting) == 1, "once"
    table.at = {1: 7}
    executor.go()
    assert sink.stored_by_all(2) == {0: 0, 1: 7}
    table.at = {1: 8}
    assert sink.stored_by_all(2) is None, "anew"
    executor.go()
    assert sink.stored_by_all(2) == {0: 0, 1: 8}
    sink.stored_by_all(2)
    executor.waiting.pop(0)[0].set_exception(TransientError("away"))
    assert sink.stored_by_all(2) is None


def test_flush_on_request() -> None:
    topic, table = Topic({0: [("a", 1)]}), Table()
    sink = runner(topic, table, every_ms=60_000)
    run(sink, 0, 300)
    topic.partitions[0].append(("b", 2))
    run(sink, 400, 700)
    assert not sink.idle
    sink.flush()
    run(sink, 800, 1_000)
    assert sink.idle
    assert table.rows == {"a": 1, "b": 2}


def test_backs_off_and_writes_the_same_flush_again() -> None:
    topic, table = Topic({0: [("a", 1)]}), Table()
    table.before = [TransientError("gone"), TransientError("gone"), TransientError("gone")]
    sink = runner(topic, table, every_ms=0)
    run(sink, 0, 300)
    assert not sink.healthy
    assert sink.last_error == "gone"
    topic.partitions[0].append(("a", 2))  # read meanwhile, but not part of the flush that is tried again
    run(sink, 400, 20_000)
    assert table.writes == [(0, 0, 1)] * 4 + [(0, 1, 2)]
    assert sink.counters.retries == 3
    assert sink.healthy
    assert table.rows == {"a": 2}


def test_an_answer_that_was_lost_is_found_by_the_position() -> None:
    topic, table = Topic({0: [("a", 1)]}), Table()
    table.after = [TransientError("link lost after the commit")]
    sink = runner(topic, table, every_ms=0)
    run(sink, 0, 5_000)
    assert table.writes == [(0, 0, 1), (0, 0, 1)]
    assert (sink.counters.flushes, sink.counters.replays_refused, sink.counters.rewinds) == (1, 1, 0)
    assert sink.idle


def test_a_zombie_drops_its_rows_and_follows() -> None:
    topic, table = Topic({0: [("a", 1)]}), Table()
    sink = runner(topic, table)
    run(sink, 0, 200)
    topic.partitions[0] += [("b", 2), ("c", 3)]
    run(sink, 300, 500)
    table.at[0], table.rows = 2, {"a": 1, "b": 2}  # the other one was here
    run(sink, 600, 5_000)
    assert table.rows == {"a": 1, "b": 2, "c": 3}
    assert table.writes == [(0, 0, 1), (0, 1, 3), (0, 2, 3)]
    assert sink.counters.rewinds == 1


def test_a_target_that_was_set_back_is_filled_again() -> None:
    topic, table = Topic({0: [("a", 1), ("b", 2)]}), Table()
    sink = runner(topic, table)
    run(sink, 0, 2_000)
    table.at, table.rows = {}, {}
    topic.partitions[0].append(("c", 3))
    run(sink, 2_100, 6_000)
    assert (table.rows, table.at) == ({"a": 1, "b": 2, "c": 3}, {0: 3})


class Forgetful(Topic):
    """Has forgotten what lies before `first`, and says so each time, as readers do."""

    first = 0

    def read(self, topic: str, partition: int, max_rows: int) -> Any:
        if self.at[partition] < self.first:
            raise OffsetGoneError(f"{topic}-{partition} at {self.at[partition]}: the log does not have this offset")
        return super().read(topic, partition, max_rows)


def test_what_a_newer_owner_has_delivered_and_let_the_log_forget_is_passed_over() -> None:
    topic, table = Forgetful({0: [("a", 1), ("b", 2), ("c", 3)]}), Table()
    sink = runner(topic, table)
    sink.step(0)  # asks where the target is
    table.at, table.rows, topic.first = {0: 2}, {"a": 1, "b": 2}, 2
    run(sink, 100, 5_000)
    assert (table.rows, sink.stored, sink.healthy, sink.blocked) == ({"a": 1, "b": 2, "c": 3}, {0: 3}, True, False)


def test_what_the_target_has_lost_and_the_log_forgotten_is_said_and_not_jumped_over() -> None:
    topic, table = Forgetful({0: [("a", 1), ("b", 2), ("c", 3)], 1: [("d", 4)]}), Table()
    sink = runner(topic, table)
    table.at, topic.first = {0: 0, 1: 1}, 1
    run(sink, 0, 3_000)
    topic.partitions[1].append(("e", 5))
    run(sink, 3_100, 70_000)
    assert sink.blocked
    assert sink.last_error is not None
    assert "adstream reset" in sink.last_error
    assert (table.at, table.rows) == ({0: 0, 1: 2}, {"e": 5}), "the other partition goes on"


def test_a_contended_partition_is_tried_again() -> None:
    topic, table = Topic({0: [("a", 1)]}), Table()
    write, refusals = table.write, [False, False]

    def contended(*args: Any) -> bool:
        return refusals.pop() if refusals else write(*args)

    table.write = contended  # type: ignore[method-assign]
    sink = runner(topic, table, every_ms=0)
    run(sink, 0, 10_000)
    assert table.rows == {"a": 1}
    assert (sink.counters.replays_refused, sink.counters.rewinds) == (2, 0)


def test_the_buffer_is_bounded_while_the_target_is_dead() -> None:
    topic, table = Topic({0: [(f"k{i}", i) for i in range(1_000)]}), Table()
    table.before = [TransientError("dead")] * 1_000
    sink = runner(topic, table, rows_max=100, records_per_read=10)
    run(sink, 0, 20_000)
    assert 100 <= sink.rows_held < 110
    table.before = []
    run(sink, 20_100, 60_000)
    assert table.rows == {f"k{i}": i for i in range(1_000)}


def test_a_hanging_target_holds_up_nobody_and_is_unhealthy() -> None:
    topic, table, thread = Topic({0: [("a", 1)]}), Table(), Held()
    sink = runner(topic, table, thread, every_ms=0, stalled_ms=5_000)
    sink.step(0)
    thread.go()
    run(sink, 100, 4_000)
    assert sink.healthy
    run(sink, 4_100, 10_000)
    assert not sink.healthy
    assert len(thread.waiting) == 1
    thread.go()
    run(sink, 10_100, 10_200)
    assert sink.healthy
    assert table.rows == {"a": 1}


def test_released_in_mid_write_and_assigned_again() -> None:
    topic, table, thread = Topic({0: [("a", 1), ("b", 2)]}), Table(), Held()
    sink = runner(topic, table, thread, every_ms=0)
    sink.step(0)
    thread.go()
    run(sink, 100, 200)
    sink.release([0])
    assert topic.at == {}
    sink.assign([0])
    for now_ms in range(300, 2_000, 100):
        if thread.waiting:
            thread.go()
        sink.step(now_ms)
    assert (table.rows, table.at) == ({"a": 1, "b": 2}, {0: 2})
    assert sink.idle


def test_a_configuration_error_waits_for_somebody() -> None:
    topic, table = Topic({0: [("a", 1)]}), Table()
    table.before = [ConfigError("no right to write", option="--sql")]
    sink = runner(topic, table, every_ms=0)
    run(sink, 0, 7_900)
    assert sink.last_error == "--sql: no right to write"
    assert len(table.writes) == 1
    run(sink, 8_000, 10_000)
    assert table.rows == {"a": 1}
    assert sink.healthy


def test_a_defect_stops_the_sink_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    topic, table = Topic({0: [("a", 1)]}), Table()
    table.before = [KeyError("column")]
    sink = runner(topic, table, every_ms=0)
    run(sink, 0, 100_000)
    assert sink.stopped
    assert not sink.healthy
    assert sink.last_error == "KeyError: 'column'"
    assert table.at == {}
    assert "given up" in caplog.text


def test_a_position_without_rows_moves_seldom() -> None:
    topic, table = Topic({0: []}), Table()
    markers = [Batch([], 5)]
    topic.read = lambda *_: markers.pop() if markers else None  # type: ignore[method-assign]
    sink = runner(topic, table)
    run(sink, 0, 59_000)
    assert table.writes == []
    run(sink, 59_100, 61_000)
    assert (table.at, table.rows) == ({0: 5}, {})


def test_backoff_doubles_up_to_its_bound() -> None:
    backoff = Backoff(first_s=0.5, max_s=5.0)
    assert [backoff.delay_s(n, lambda: 0.0) for n in (1, 2, 3, 4, 5, 5_000)] == [0.5, 1, 2, 4, 5, 5]
    assert backoff.delay_s(3, lambda: 0.999) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (TransientError("x"), Verdict.RETRY),
        (UnreachableError("x", option="--sql"), Verdict.RETRY),
        (TimeoutError(), Verdict.RETRY),
        (ConfigError("x", option="--sql"), Verdict.CONFIG),
        (AssertionError(), Verdict.GIVE_UP),
    ],
)
def test_verdicts(error: Exception, verdict: Verdict) -> None:
    assert classify(error) is verdict


def test_opening_waits_for_a_server_that_starts() -> None:
    table, slept = Table(), list[float]()
    table.before = [UnreachableError("not yet", option="--sql")] * 2
    open_target(table, "app", "s", {}, [], sleep=slept.append, random=lambda: 0.0)
    assert (table.opened, slept) == (3, [0.5, 1.0])


def test_opening_gives_up_on_a_dead_server() -> None:
    table, slept = Table(), list[float]()
    table.before = [UnreachableError("not yet", option="--sql")] * 9
    with pytest.raises(ConfigError, match="not yet"):
        open_target(table, "app", "s", {}, [], sleep=slept.append, random=lambda: 0.0)
    assert (table.opened, len(slept)) == (5, 4)


def test_opening_does_not_repeat_a_mistake() -> None:
    table = Table()
    table.before = [ConfigError("wrong password", option="--sql")]
    with pytest.raises(ConfigError, match="wrong password"):
        open_target(table, "app", "s", {}, [], sleep=lambda _: pytest.fail("slept"), random=lambda: 0.0)
