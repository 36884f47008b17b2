"""The worker with the echo task: exactly once, whatever happens between two steps."""

import itertools
from collections import deque

import pytest

from adstream._core import CoreError
from adstream.errors import FatalError, LogUnavailableError, RecordTooLargeError
from adstream.interfaces import LeaseChange, Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLeases, EmbeddedLog
from adstream.runtime.assignment import prepare
from adstream.runtime.contest import FREE
from adstream.runtime.end import EndOfInput
from adstream.runtime.lifecycle import WorkerState
from adstream.runtime.task import FAILURES_MAX, State
from adstream.runtime.worker import Worker
from tests.unit.runtime.cluster import PARTITIONS, Cluster, Crash
from tests.unit.runtime.echo_task import APP, CHANGELOG_0, EDGE, EchoPlan, batch, partition_of

STEPS = ("close", "begin", "produce", "offsets", "commit", "committed", "settled")


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("rows", [1, 2, 7, 10_000])
def test_counts_once_whatever_the_batch(lag: int, rows: int) -> None:
    cluster = Cluster(EchoPlan(sink=True), lag=lag)
    cluster.worker(batch_rows_max=rows, buffer_rows_max=2 * rows)
    for part in range(5):
        cluster.send_random(60, part)
        cluster.turns(7)
    cluster.settle()
    cluster.check()


class CrashAt:
    def __init__(self, name: str, number: int) -> None:
        self.name, self.left = name, number

    def __call__(self, name: str) -> None:
        if name == self.name:
            self.left -= 1
            if self.left == 0:
                raise Crash


@pytest.mark.parametrize("number", [1, 2, 3, 5])
@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("name", STEPS)
def test_crash_at_each_step(name: str, lag: int, number: int) -> None:
    cluster = Cluster(EchoPlan(sink=True), lag=lag)
    crashing = cluster.worker(slot=0, step=CrashAt(name, number), batch_rows_max=20)

    def go_on() -> None:
        for part in range(20):
            cluster.send_random(40, part)
            cluster.turns(9)

    with pytest.raises(Crash):
        go_on()
    cluster.workers.remove(crashing)
    expel(cluster, crashing)
    cluster.worker(slot=0)
    cluster.send_random(40, 99)
    cluster.settle()
    cluster.check()


def expel(cluster: Cluster, worker: Worker) -> None:
    """The session of a dead worker ends."""
    assert isinstance(cluster.log, EmbeddedLog)
    cluster.log.expel(worker._leases)  # type: ignore[arg-type]


def test_an_abort_is_an_ordinary_thing() -> None:
    cluster = Cluster()
    worker = cluster.worker(batch_rows_max=5)
    for part in range(30):
        cluster.send_random(20, part)
        cluster.turns(30)
        if part % 3 == 0:
            abort_next(worker, 1 + part % 2)
    cluster.settle()
    cluster.check()
    assert worker._counters.commits["aborted"] == 15
    assert not worker.quarantined


def abort_next(worker: Worker, times: int = 1) -> None:
    """The next commits of this worker's writer are aborted."""
    writer = worker._writer
    assert writer is not None
    real, left = writer.commit, [times]

    def commit(*args, **kwargs):  # type: ignore[no-untyped-def]
        left[0] -= 1
        if left[0] == 0:
            writer.commit = real  # type: ignore[method-assign]
        return Outcome.ABORTED

    writer.commit = commit  # type: ignore[method-assign]


def test_fatal_restores_from_the_log() -> None:
    cluster = Cluster(EchoPlan(sink=True))
    worker = cluster.worker()
    cluster.send_random(100)
    cluster.settle()
    cluster.log.writer(f"{APP}-0")  # somebody opens the slot: the worker's writer is fenced
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()
    assert worker._counters.commits["fatal"] == 1


def test_two_workers_with_one_slot_do_not_stop_each_other(caplog: pytest.LogCaptureFixture) -> None:
    """Each opens the slot when it is fenced, and so fences the other: without a pause, for ever."""
    cluster = Cluster(EchoPlan(sink=True))
    workers = [cluster.worker(slot=0), cluster.worker(slot=0)]
    for part in range(40):  # there is always something to commit
        cluster.send_random(20, part)
        cluster.turns(50)
    fatal = sum(worker._counters.commits.get("fatal", 0) for worker in workers)
    committed = sum(worker._counters.commits["committed"] for worker in workers)
    assert 2 < fatal < 20
    assert committed > 5 * fatal
    assert "ADSTREAM_SLOT of its own" in caplog.text
    cluster.settle()
    cluster.check()


def test_a_worker_that_has_stepped_aside_stops_at_once() -> None:
    cluster = Cluster()
    worker = cluster.worker()
    for part in range(FREE + 1):
        cluster.turns(20)
        cluster.log.writer(f"{APP}-0")
        cluster.send_random(20, part)
        cluster.until(lambda part=part: worker._counters.commits.get("fatal", 0) == part + 1)  # type: ignore[misc]
    assert worker._leases is None
    assert "ADSTREAM_SLOT=0" in (worker.status.trouble or "") + (worker._trouble or "")
    worker.stop()
    cluster.turns(1)
    assert worker.state is WorkerState.NOT_RUNNING


def test_positions_that_are_held_back_hold_back_their_task_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that a dead worker left open: its offsets are not stable for as long as it is."""
    cluster = Cluster()
    held = ("in", 1)
    real, asked = cluster.log.committed, 0

    def committed(group, partitions):  # type: ignore[no-untyped-def]
        nonlocal asked
        if held in partitions:
            asked += 1
            raise LogUnavailableError("a transaction has held back offsets")
        return real(group, partitions)

    monkeypatch.setattr(cluster.log, "committed", committed)
    worker = cluster.worker()
    cluster.send_random(100)
    cluster.turns(300)
    states = {task.spec.inputs[0]: task.state for task in worker.tasks.values()}
    assert states.pop(held) is State.RESTORING
    assert set(states.values()) == {State.RUNNING}
    assert worker._counters.commits["committed"] > 0
    assert 3 < asked < 10, "it is asked again, less and less often"
    monkeypatch.undo()
    cluster.settle()
    cluster.check()


def test_leases_move_and_nothing_is_lost() -> None:
    cluster = Cluster(EchoPlan(sink=True))
    first = cluster.worker(batch_rows_max=10)
    cluster.send_random(200)
    cluster.turns(5)
    second = cluster.worker(batch_rows_max=10)
    cluster.send_random(200, 1)
    cluster.turns(60)
    assert len(first.tasks) > 0
    assert len(second.tasks) > 0
    assert not first.tasks.keys() & second.tasks.keys()
    cluster.send_random(50, 2)
    first.stop()
    cluster.settle()
    cluster.check()
    assert first.state is WorkerState.NOT_RUNNING
    assert len(second.tasks) == 2 * PARTITIONS


def test_a_zombie_cannot_commit() -> None:
    cluster = Cluster()
    zombie = cluster.worker()
    cluster.send_random(100)
    cluster.turns(4)  # it has processed, and not committed
    expel(cluster, zombie)
    cluster.workers.remove(zombie)
    cluster.worker(slot=9)
    cluster.settle()
    cluster.workers.append(zombie)  # and wakes up
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()
    assert len(cluster.workers[0].tasks) == len(zombie.tasks) == PARTITIONS


def test_a_zombie_cannot_finish_its_commit() -> None:
    cluster = Cluster(lag=4)
    zombie = cluster.worker()
    cluster.send_random(100)
    cluster.until(lambda: zombie._underway is not None)
    expel(cluster, zombie)  # between closing and committing
    cluster.workers.remove(zombie)
    cluster.worker(slot=9)
    cluster.settle()
    assert zombie._underway is not None
    cluster.workers.append(zombie)
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()
    assert zombie._counters.commits["aborted"] == 1


def test_a_new_membership_does_not_bless_what_was_done_in_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka's client joins again on a thread of its own: it may have lost everything and be a member again when the
    worker asks for its fencing token. Another worker owned the tasks in between, and committed."""
    cluster = Cluster()
    worker = cluster.worker()
    cluster.send_random(100)
    cluster.turns(4)  # it has processed, and not committed
    leases = worker._leases
    assert isinstance(leases, EmbeddedLeases)
    told: deque[LeaseChange] = deque()
    poll, fence, other = leases.poll, leases.fence, []

    def rejoined() -> object:
        if not other:
            expel(cluster, worker)
            other.append(cluster.worker(slot=9))
            cluster.workers.remove(worker)
            cluster.settle()
            other[0].stop()
            cluster.until(cluster.stopped)
            cluster.workers = [worker]
            while (change := poll()) is not None:
                told.append(change)
        return fence()

    monkeypatch.setattr(leases, "poll", lambda: told.popleft() if told else poll())
    monkeypatch.setattr(leases, "fence", rejoined)
    cluster.until(lambda: bool(other))
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()


@pytest.mark.parametrize("seed", range(25))
def test_storm(seed: int) -> None:
    """Workers come, go, die, freeze and are fenced at random; then peace, and everything has been counted once."""
    import random

    rng = random.Random(seed)
    cluster = Cluster(EchoPlan(sink=True), lag=rng.randrange(4))
    frozen: list[Worker] = []
    slot = 0
    for turn in range(60):
        cluster.send_random(rng.randrange(30), turn)
        event = rng.randrange(12)
        if not cluster.workers or (event == 0 and len(cluster.workers) < 4):
            cluster.worker(slot := slot + 1, batch_rows_max=rng.choice([1, 3, 50]), generation_rows_max=40)
        worker = rng.choice(cluster.workers)
        if event == 1:
            cluster.workers.remove(worker)
            expel(cluster, worker) if worker._leases else None
        elif event == 2:
            worker.stop()
        elif event == 3:
            cluster.log.writer(f"{APP}-{worker._settings.slot}")
        elif event == 4:
            cluster.workers.remove(worker)
            frozen.append(worker)
            expel(cluster, worker) if worker._leases else None
        elif event == 5 and frozen:
            cluster.workers.append(frozen.pop())
        elif event == 6 and worker._writer is not None:
            abort_next(worker, rng.randrange(1, 3))
        cluster.turns(rng.randrange(1, 12))
    cluster.workers += frozen
    cluster.worker(slot + 1)
    cluster.settle()
    cluster.check()


def test_a_failure_is_tried_again() -> None:
    cluster = Cluster(EchoPlan(poison=b"poison", poison_times=1))
    worker = cluster.worker()
    cluster.send_random(50)
    cluster.send(["k1"], b"poison")
    cluster.send_random(50, 1)
    cluster.settle()
    cluster.check()
    assert not worker.quarantined


@pytest.mark.parametrize("lag", [0, 3, 8])
def test_a_failure_waits_for_the_commit_under_way(lag: int) -> None:
    cluster = Cluster(EchoPlan(poison=b"poison"), lag=lag)
    worker = cluster.worker(batch_rows_max=5)
    for part in range(30):
        cluster.send_random(40, part)
        cluster.plan.poison_times = 1
        cluster.send(["k1", "k2"], b"poison")
        cluster.turns(60 + part % 11)
    cluster.settle()
    cluster.check()
    assert not worker.quarantined


def test_defects_are_not_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    worker = cluster.worker()
    cluster.turns(3)
    monkeypatch.setattr(worker, "_settle", None)
    with pytest.raises(TypeError):
        cluster.turns(1)
    assert worker.state is WorkerState.ERROR


def test_failed_twice_is_quarantined_and_the_others_go_on() -> None:
    cluster = Cluster(EchoPlan(poison=b"poison"))
    worker = cluster.worker()
    cluster.send(["k1"], b"poison")
    cluster.turns(40)
    (name,) = worker.quarantined
    assert "a poisoned record" in worker.quarantined[name]
    cluster.send(f"k{i}" for i in range(20))
    cluster.turns(80)
    assert len(cluster.counted()) > 10
    assert [t.state for t in worker.tasks.values()].count(State.QUARANTINED) == 1
    assert not worker.status.ready


def test_output_that_cannot_be_committed_is_found_out() -> None:
    cluster = Cluster()
    worker = cluster.worker()
    cluster.turns(2)
    writer = worker._writer
    assert writer is not None
    real = writer.commit

    def commit(outputs, *rest):  # type: ignore[no-untyped-def]
        unwanted = any(key == b"k1" for topic, _, b in outputs if topic == EDGE for _, _, key, _, _ in b.records())
        return Outcome.ABORTED if unwanted else real(outputs, *rest)

    writer.commit = commit  # type: ignore[method-assign]
    for part in range(100):
        cluster.send_random(20, part)
        cluster.turns(12)
    assert len(worker.quarantined) == 1
    assert "cannot be committed" in next(iter(worker.quarantined.values()))
    assert worker._counters.commits["committed"] > 30


def test_a_commit_refused_for_a_lost_lease_speaks_against_no_task() -> None:
    """However often, and although other commits get through meanwhile."""
    cluster = Cluster()
    worker = cluster.worker()
    cluster.turns(2)
    writer = worker._writer
    assert writer is not None
    real = writer.commit

    def commit(outputs, *rest):  # type: ignore[no-untyped-def]
        unwanted = any(key == b"k1" for topic, _, b in outputs if topic == EDGE for _, _, key, _, _ in b.records())
        writer.refused = unwanted
        return Outcome.ABORTED if unwanted else real(outputs, *rest)

    writer.commit = commit  # type: ignore[method-assign]
    for part in range(100):
        cluster.send_random(20, part)
        cluster.turns(12)
    assert not worker.quarantined
    assert worker._counters.commits["aborted"] > 30
    writer.commit = real  # type: ignore[method-assign]
    cluster.turns(400)
    cluster.check()


def test_the_task_of_a_record_that_is_too_large_is_set_aside_even_when_it_is_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster()
    worker = cluster.worker()
    cluster.turns(2)
    writer = worker._writer
    assert writer is not None
    real = writer.commit

    def commit(outputs, *rest):  # type: ignore[no-untyped-def]
        if any(topic == EDGE for topic, _, _ in outputs):
            raise RecordTooLargeError(EDGE, 0, 7)
        return real(outputs, *rest)

    writer.commit = commit  # type: ignore[method-assign]
    cluster.send(["k1"])
    cluster.until(lambda: bool(worker.quarantined), turns=300)
    [(name, error)] = worker.quarantined.items()
    assert name == f"0_{partition_of(b'k1', PARTITIONS)}"
    assert f"too large for {EDGE}-0" in error
    [told] = [record for record in caplog.records if "is set aside" in record.getMessage()]
    assert told.exc_info is None  # the message says it: a traceback is for what nobody expected


def test_the_log_may_be_away_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    worker = cluster.worker()
    cluster.send_random(100)
    cluster.turns(20)
    away = True

    def commit(*args: object) -> Outcome:
        if away:
            raise OSError("nobody there")
        return real(*args)  # type: ignore[arg-type]

    def writer(*args: object, **kwargs: object) -> object:
        if away:
            raise OSError("nobody there")
        return open_writer(*args, **kwargs)  # type: ignore[arg-type]

    real, open_writer = cluster.log._commit, cluster.log.writer  # type: ignore[attr-defined]
    monkeypatch.setattr(cluster.log, "_commit", commit)
    monkeypatch.setattr(cluster.log, "writer", writer)
    parts = batch((b"k1", b"x"))
    real("producer", 1, [("in", 0, parts)], {}, "producer", None)
    key = b"k1"
    cluster.sent[key] += 1
    cluster.turns(20_000)
    assert worker.state is WorkerState.RUNNING
    assert worker._trouble is not None
    away = False
    cluster.settle()
    cluster.turns(100)
    assert worker.status.trouble is None
    assert sum(map(len, cluster.counted().values())) == sum(cluster.sent.values())


@pytest.mark.parametrize(
    ("files", "given", "least", "most"), [(False, 0, 100, 130), (True, 0, 5_000, 5_030), (True, 300, 300, 330)]
)
def test_generations_end_seldom_while_files_are_read(files: bool, given: int, least: int, most: int) -> None:
    cluster = Cluster(lag=0)
    times: list[int] = []
    cluster.worker(
        step=lambda name: times.append(cluster.now) if name == "close" else None,
        files=files,
        commit_interval_ms=given,
        batch_rows_max=1,
    )
    cluster.send_random(most)  # one row of each of three partitions a turn of 10 ms: more than enough to do
    cluster.turns(2 * most // 10 + 10)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert least <= gaps[-1] <= most


def test_when_the_files_are_read_nobody_waits_for_a_generation_to_end() -> None:
    cluster = Cluster(EchoPlan(sink=True))
    cluster.worker(files=True, stop_at_end=True)
    cluster.send_random(200)
    began = cluster.now
    cluster.until(cluster.stopped)
    assert cluster.now - began < 2_000
    cluster.check()


def test_drain_commits_what_was_processed() -> None:
    cluster = Cluster()
    worker = cluster.worker(commit_interval_ms=1_000_000)
    cluster.send_random(100)
    cluster.turns(5)
    assert cluster.counted() == {}
    worker.stop(5_000)
    cluster.until(cluster.stopped)
    assert len(cluster.records(EDGE)) == 100
    assert not worker.drain_timed_out


def test_drain_is_bounded() -> None:
    cluster = Cluster(lag=1 << 30)  # the commit never ends
    worker = cluster.worker()
    cluster.send_random(100)
    cluster.turns(20)
    worker.stop(5_000)
    cluster.turns(499)
    assert worker.state is WorkerState.PENDING_SHUTDOWN
    cluster.turns(2)
    assert worker.state is WorkerState.NOT_RUNNING
    assert worker.drain_timed_out


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_stop_at_end(workers: int) -> None:
    cluster = Cluster(EchoPlan(sink=True))
    cluster.send_random(500)
    for _ in range(workers):
        cluster.worker(stop_at_end=True, batch_rows_max=10, buffer_rows_max=10)
    cluster.turns(2)
    at_start = dict(cluster.sent)
    cluster.send_random(500, 1)  # behind the end: not read
    cluster.until(cluster.stopped)
    cluster.sent = at_start
    cluster.check()


def test_the_end_is_not_reached_while_a_sink_is_behind_whoever_has_its_tasks() -> None:
    """Who has no tasks of it, or none yet, knows nothing of it. After a crash between a commit and the flush that follows,
    a run to the end would leave those rows where they are, and say that all is done."""
    cluster = Cluster(EchoPlan(sink=True))
    cluster.send_random(100)
    first = cluster.worker()
    [sink] = first._sinks.values()
    sink.step = lambda now_ms: 0  # type: ignore[method-assign]
    cluster.settle()
    second = cluster.worker(stop_at_end=True)
    cluster.turns(300)
    assert {task.spec.sink for task in second.tasks.values()} == {""}, "it has its share"
    assert second.state is WorkerState.RUNNING
    first.stop()
    cluster.until(cluster.stopped)
    cluster.check()


def test_the_end_is_said_by_the_log_level_by_level() -> None:
    cluster = Cluster()
    cluster.send(["k1"])
    end = EndOfInput(cluster.log, prepare(cluster.log, cluster.plan))
    place = partition_of(b"k1", PARTITIONS)
    assert not end.streams_reached(APP)
    cluster.producer.commit([(EDGE, place, batch((b"k1", b"x")))], {("in", place): 1}, APP, None)
    assert not end.streams_reached(APP)
    cluster.producer.commit([], {(EDGE, place): 1}, APP, None)
    assert end.streams_reached(APP)
    cluster.send(["k1"])  # behind the end
    assert end.streams_reached(APP)


def test_stop_at_end_waits_for_a_log_that_cannot_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """As while a transaction of a worker that was killed holds offsets back."""
    cluster = Cluster()
    cluster.send_random(100)
    cluster.worker(stop_at_end=True)
    times = iter(range(3))
    real = EndOfInput.streams_reached

    def reached(end: EndOfInput, group: str) -> bool:
        if next(times, None) is not None:
            raise LogUnavailableError("a transaction has held back offsets in app for 5 s")
        return real(end, group)

    monkeypatch.setattr(EndOfInput, "streams_reached", reached)
    cluster.until(cluster.stopped)
    assert next(times, None) is None
    cluster.check()


@pytest.mark.parametrize("files", [False, True])
def test_stop_at_end_does_not_wait_for_commits_that_are_far_apart(files: bool) -> None:
    """With nothing left to read there is nothing to gather: each level behind a shuffle took an interval more."""
    cluster = Cluster(EchoPlan(sink=True))
    cluster.send_random(100)
    cluster.worker(stop_at_end=True, files=files, commit_interval_ms=3_600_000)
    cluster.until(cluster.stopped)
    cluster.check()


def test_stop_at_end_of_nothing() -> None:
    cluster = Cluster()
    cluster.worker(stop_at_end=True)
    cluster.until(cluster.stopped)


def test_stop_at_end_fails_when_only_a_sink_is_left_that_waits_for_somebody() -> None:
    cluster = Cluster(EchoPlan(sink=True))
    cluster.send(["k1"] * 3)
    worker = cluster.worker(stop_at_end=True)
    [sink] = worker._sinks.values()
    sink.last_error, sink.blocked = "permission denied for table rows", True
    with pytest.raises(FatalError, match=r"the end cannot be reached: sink rows: permission denied"):
        cluster.until(cluster.stopped)
    assert cluster.counted() == {"k1": [1, 2, 3]}, "the job itself is through"


def test_stop_at_end_fails_when_it_cannot_be_reached() -> None:
    cluster = Cluster(EchoPlan(poison=b"poison"))
    worker = cluster.worker(stop_at_end=True)
    cluster.send(["k1"], b"poison")
    with pytest.raises(FatalError, match="a poisoned record"):
        cluster.until(cluster.stopped)
    assert worker.state is WorkerState.ERROR


def test_what_was_deleted_before_the_first_start_is_told_and_the_rest_is_read(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    cluster.send(["k1"] * 10)
    where = ("in", partition_of(b"k1", PARTITIONS))
    cluster.log.delete_records({where: 6})
    with caplog.at_level("WARNING", "adstream"):
        cluster.worker(stop_at_end=True)
        cluster.until(cluster.stopped)
    assert cluster.counted() == {"k1": [1, 2, 3, 4]}
    assert f"`in` [{where[1]}] begins at 6" in caplog.text


def processed_then_deleted(cluster: Cluster, before: int) -> int:
    """Ten records are processed; of ten more, which nobody has read, those before offset `before` are deleted."""
    worker = cluster.worker()
    cluster.send(["k1"] * 10)
    cluster.settle()
    cluster.leave(worker)
    cluster.send(["k1"] * 10 + ["k2"])
    partition = partition_of(b"k1", PARTITIONS)
    cluster.log.delete_records({("in", partition): before})
    return partition


def test_input_that_was_deleted_before_it_was_read_is_an_error_and_never_a_jump() -> None:
    cluster = Cluster()
    partition = processed_then_deleted(cluster, 15)
    worker = cluster.worker()
    cluster.until(lambda: bool(worker.quarantined))
    [(name, error)] = worker.quarantined.items()
    assert name == f"0_{partition}"
    assert f"records 10 to 14 of `in` [{partition}] were deleted before they were read" in error
    assert "hint: " in error
    cluster.turns(50)
    assert cluster.counted()["k1"] == list(range(1, 11))
    assert partition_of(b"k2", PARTITIONS) != partition
    assert cluster.counted()["k2"] == [1], "the others go on"


def test_a_run_to_the_end_fails_where_input_was_deleted() -> None:
    cluster = Cluster()
    processed_then_deleted(cluster, 15)
    cluster.worker(stop_at_end=True)
    with pytest.raises(FatalError, match=r"the end cannot be reached.*were deleted before they were read"):
        cluster.until(cluster.stopped)


def test_input_that_is_deleted_while_it_waits_to_be_read() -> None:
    cluster = Cluster()
    worker = cluster.worker(buffer_rows_max=5, batch_rows_max=1)
    for _ in range(20):
        cluster.send(["k1"] * 5)
    where = ("in", partition_of(b"k1", PARTITIONS))
    cluster.until(lambda: sum(map(len, cluster.counted().values())) > 10)
    cluster.log.delete_records({where: 100})
    cluster.send(["k1"])
    cluster.until(lambda: bool(worker.quarantined))
    assert "were deleted before they were read" in next(iter(worker.quarantined.values()))


def test_a_position_behind_the_end_is_an_error() -> None:
    """A topic that was deleted and made again."""
    cluster = Cluster()
    where = ("in", 0)
    assert cluster.log.writer("w").commit([], {where: 7}, APP, None) is Outcome.COMMITTED
    worker = cluster.worker()
    cluster.until(lambda: bool(worker.quarantined))
    assert "position 7 of `in` [0] lies behind its end, 0" in worker.quarantined["0_0"]


def test_a_restore_begins_again_when_the_changelog_was_trimmed_meanwhile() -> None:
    """A former owner's last trim may come while the new one restores."""
    cluster = Cluster()
    worker = cluster.worker()
    for _ in range(20):
        cluster.send(["k1"] * 3)
        cluster.turns(20)
    cluster.settle()
    cluster.leave(worker)
    changelog = (CHANGELOG_0, partition_of(b"k1", PARTITIONS))
    end = cluster.log.end_offsets([changelog], committed=False)[changelog]
    assert end > 10
    heir = cluster.worker(restore_rows_max=1)
    cluster.until(lambda: any(t.restore is not None and t.restore.rows for t in heir.tasks.values()))
    cluster.log.delete_records({changelog: end - 1})
    cluster.send(["k1"])
    cluster.settle()
    cluster.check()


def test_a_restore_that_waits_says_for_what(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As behind a transaction in the changelog whose markers the broker still owes."""
    cluster = Cluster()
    worker = cluster.worker()
    cluster.send(["k1"] * 3)
    cluster.settle()
    cluster.leave(worker)
    changelog = (CHANGELOG_0, partition_of(b"k1", PARTITIONS))
    [(_, end)] = cluster.log.end_offsets([changelog], committed=False).items()
    ends = cluster.log.end_offsets

    def open_from_the_beginning(partitions, *, committed):  # type: ignore[no-untyped-def]
        return ends(partitions, committed=committed) | ({changelog: 0} if committed and changelog in partitions else {})

    heir = cluster.worker()
    reader = type(cluster.log.reader())
    read = reader.read
    monkeypatch.setattr(reader, "read", lambda self, *at: None if at[:2] == changelog else read(self, *at))
    monkeypatch.setattr(cluster.log, "end_offsets", open_from_the_beginning)
    said = lambda: [r.getMessage() for r in caplog.records if "its restore stands at" in r.getMessage()]  # noqa: E731
    cluster.turns(5)
    assert said() == []
    for _ in range(3):
        cluster.now += 10_001
        cluster.turns(1)
    [text] = said()
    assert f"stands at 0 of {end} of `{changelog[0]}` [{changelog[1]}]; a transaction is open there since 0" in text
    assert "find-hanging" in text
    cluster.now += 60_000
    cluster.turns(1)
    assert len(said()) == 2
    monkeypatch.undo()
    cluster.settle()
    cluster.check()
    assert not heir.quarantined


def test_state_without_position_is_an_error() -> None:
    cluster = Cluster()
    cluster.log.create_topics([TopicSpec(CHANGELOG_0, PARTITIONS)])
    cluster.producer.commit([(CHANGELOG_0, 1, batch((b"k", b"5")))], {}, APP, None)
    worker = cluster.worker()
    cluster.turns(20)
    assert list(worker.quarantined) == ["0_1"]
    assert "no committed position of `in` [1]" in worker.quarantined["0_1"]


def test_positions_are_committed_again_in_time() -> None:
    cluster = Cluster()
    worker = cluster.worker(recommit_every_ms=10_000, commit_interval_ms=1_000)
    cluster.send_random(100)
    cluster.settle()
    cluster.turns(200)
    before = worker._counters.commits["committed"]
    cluster.turns(1_300)
    assert before < worker._counters.commits["committed"] <= before + 3


def test_processed_records_of_edges_are_forgotten() -> None:
    cluster = Cluster(EchoPlan(sink=True))
    cluster.worker(purge_every_ms=100)
    for part in range(10):
        cluster.send_random(50, part)
        cluster.turns(30)
    cluster.settle()
    starts = cluster.log.start_offsets([(EDGE, p) for p in range(PARTITIONS)])
    assert sum(starts.values()) > 300
    cluster.check()


def test_processing_waits_while_a_commit_takes_long() -> None:
    cluster = Cluster(lag=1_000)
    worker = cluster.worker(generation_rows_max=30, batch_rows_max=10, buffer_rows_max=20)
    cluster.send_random(2_000)
    cluster.turns(300)
    assert sum(task.rows for task in worker.tasks.values()) <= 40


def test_a_changed_partition_count_is_refused() -> None:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("in", 2), TopicSpec("out", 1), TopicSpec("echo-tasks", 7)])
    with pytest.raises(Exception, match="`echo-tasks` has 7 partitions, 4 are needed now"):
        prepare(log, EchoPlan())


@pytest.mark.parametrize("lag", [0, 2])
def test_while_a_database_is_away_its_task_waits_and_is_not_set_aside(lag: int) -> None:
    cluster = Cluster(lag=lag)
    worker = cluster.worker()
    cluster.turns(20)
    asked: list[int] = []

    def ask() -> None:
        asked.append(cluster.now)
        if len(asked) <= 60:
            raise CoreError("fatal", "target_unavailable", "nobody there", None, None)

    cluster.plan.on_process = ask
    cluster.send_random(50)
    cluster.until(lambda: len(asked) >= 60, turns=60_000)
    assert max(task.waits for task in worker.tasks.values()) > FAILURES_MAX
    cluster.until(lambda: sum(map(len, cluster.counted().values())) >= 50, turns=60_000)
    assert worker.quarantined == {}
    cluster.check()
    cluster.until(lambda: not any(task.waits for task in worker.tasks.values()))
