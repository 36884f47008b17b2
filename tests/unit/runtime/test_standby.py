"""Standbys: who follows what, and that a take-over reads the tail and nothing else; counted in records, never in time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from adstream._core import CoreError, RawBatch
from adstream.errors import LogUnavailableError
from adstream.interfaces import Membership
from adstream.logs.embedded import EmbeddedLeases, EmbeddedLog, EmbeddedWriter
from adstream.runtime.beside import InlineBeside
from adstream.runtime.followers import followed, heirs, share
from adstream.runtime.restore import Restore
from adstream.runtime.standby import LINGER_MS
from adstream.runtime.worker import Worker
from tests.unit.runtime.cluster import PARTITIONS, Cluster
from tests.unit.runtime.echo_task import CHANGELOG_0, CHANGELOG_1, EchoPlan, EchoTask


def changelog_records(cluster: Cluster) -> int:
    return len(cluster.records(CHANGELOG_0)) + len(cluster.records(CHANGELOG_1))


def restored(worker: Worker) -> dict[str, int]:
    return worker._counters.restored


def kill(cluster: Cluster, worker: Worker) -> None:
    """As kill -9: nothing of it runs any more, and after a while the group notices."""
    assert isinstance(cluster.log, EmbeddedLog)
    assert isinstance(worker._leases, EmbeddedLeases)
    cluster.workers.remove(worker)
    cluster.log.expel(worker._leases)


def gone(worker: Worker) -> None:
    """What an operating system does for a process that is no more: its files are closed, its locks are free."""
    for task in [*worker.tasks.values(), *(worker.standbys.tasks.values() if worker.standbys else ())]:
        if task.snapshot is not None:
            task.snapshot.close()


def two(plan: EchoPlan | None = None, **settings: int | str) -> tuple[Cluster, Worker, Worker]:
    """Two workers at rest, half of the tasks each, some state in every changelog."""
    cluster = Cluster(plan)
    workers = [cluster.worker(standbys=1, **settings) for _ in range(2)]
    cluster.turns(20)
    cluster.send_random(300)
    cluster.settle()
    return cluster, *workers


# Who follows what


def test_heirs_are_whoever_has_fewest_then_the_first_by_name() -> None:
    tasks = {"a": (0, 1), "b": (2, 3), "c": (4, 5)}
    assert heirs(tasks, "b") == {3: ["a", "c"], 2: ["c", "a"]}
    assert [sorted(followed(tasks, me, 1)) for me in "abc"] == [[3, 5], [1, 4], [0, 2]]
    idle = {"a": (0, 1), "b": (2, 3), "z": ()}
    assert heirs(idle, "a") == {0: ["z", "b"], 1: ["z", "b"]}
    assert heirs({"a": (0,)}, "a") == {0: []}


@pytest.mark.parametrize("seed", range(20))
def test_each_task_has_as_many_followers_as_there_are_to_be(seed: int) -> None:
    rng = random.Random(seed)
    members = rng.randint(1, 6)
    standbys, free = rng.randint(1, 6), list(range(rng.randint(0, 40)))
    tasks = {f"m{k}": tuple(free[k::members]) for k in range(members)}
    following = {me: followed(tasks, me, standbys) for me in tasks}
    for owner, owned in tasks.items():
        for task in owned:
            who = [me for me, mine in following.items() if task in mine]
            assert len(who) == min(standbys, members - 1)
            assert owner not in who


def test_who_joins_is_given_the_lowest_of_whoever_has_most() -> None:
    assert share({}) == set()
    assert share({"a": (0, 1, 2, 3, 4, 5)}) == {0, 1, 2}
    assert share({"a": (0, 1, 2, 3), "b": (4, 5, 6, 7)}) == {4, 0}
    assert share({"a": (0,), "b": (1,)}) == set()
    assert share({"a": (0, 1, 2), "b": ()}) == {0}
    assert followed({"a": (0, 1, 2, 3)}, "", 1) == {0, 1}


# Taking over


def test_who_takes_over_reads_only_the_tail() -> None:
    cluster, victim, heir = two()
    assert heir.standbys is not None
    mine = set(heir.tasks)
    assert set(heir.standbys.tasks) == set(victim.tasks)
    assert heir.standbys.rows > 0
    read = heir.standbys.rows
    assert restored(heir) == {"snapshot": 0, "changelog": 0, "standby": 0}
    kill(cluster, victim)
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()
    assert set(heir.tasks) == set(range(2 * PARTITIONS)) > mine
    assert restored(heir) == {"snapshot": 0, "changelog": 0, "standby": read}
    assert not heir.standbys.tasks


def test_what_was_committed_after_its_last_look_is_read_on() -> None:
    cluster, victim, heir = two()
    cluster.workers.remove(heir)  # it sleeps, the other goes on
    before = changelog_records(cluster)
    cluster.send_random(50, 1)
    cluster.turns(60)
    tail = changelog_records(cluster) - before
    assert tail > 0
    kill(cluster, victim)
    cluster.workers.append(heir)
    cluster.send_random(50, 2)
    cluster.settle()
    cluster.check()
    assert 0 < restored(heir)["changelog"] <= tail
    assert restored(heir)["standby"] > 0


def test_without_standbys_everything_is_read_again() -> None:
    cluster = Cluster()
    victim, heir = (cluster.worker() for _ in range(2))
    cluster.turns(20)
    cluster.send_random(300)
    cluster.settle()
    kill(cluster, victim)
    cluster.settle()
    cluster.turns(20)
    assert heir.standbys is None
    assert restored(heir)["standby"] == 0
    assert restored(heir)["changelog"] > 0


def test_three_workers_and_one_standby_of_each_task() -> None:
    """Nobody follows everything, and yet whoever takes over has followed it: heirs are known beforehand."""
    cluster = Cluster()
    workers = [cluster.worker(standbys=1) for _ in range(3)]
    cluster.turns(20)
    cluster.send_random(300)
    cluster.settle()
    cluster.now += LINGER_MS  # who was a follower while the others joined
    cluster.turns(2)
    followed_by = [set(w.standbys.tasks) for w in workers if w.standbys is not None]
    assert sum(map(len, followed_by)) == 2 * PARTITIONS
    assert set().union(*followed_by) == set(range(2 * PARTITIONS))
    kill(cluster, workers[1])
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()
    assert sum(restored(w)["changelog"] for w in (workers[0], workers[2])) == 0
    assert sum(restored(w)["standby"] for w in (workers[0], workers[2])) > 0


def test_a_task_that_is_on_its_way_is_not_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group says sooner that a member is gone, or that its task is this worker's, than the task is granted here."""
    cluster, victim, heir = two()
    assert heir.standbys is not None
    following = set(heir.standbys.tasks)
    assert heir._leases is not None
    found = heir._leases.members()
    assert found is not None
    nobodys = Membership(found.me, {found.me: found.tasks[found.me]})
    mine = Membership(found.me, {found.me: tuple(range(2 * PARTITIONS))})
    for heard in (nobodys, mine):
        monkeypatch.setattr(heir._leases, "members", lambda heard=heard: heard)
        cluster.turns(3)
        assert set(heir.standbys.tasks) == following
    kill(cluster, victim)
    cluster.settle()
    assert restored(heir)["standby"] > 0
    assert restored(heir)["changelog"] == 0


def test_a_task_that_is_given_back_is_followed_again() -> None:
    cluster, first, second = two()
    kill(cluster, second)
    cluster.settle()
    cluster.turns(20)
    third = cluster.worker(slot=5, standbys=1)
    cluster.send_random(100, 1)
    cluster.settle()
    assert first.standbys is not None
    assert third.standbys is not None
    assert set(first.standbys.tasks) == set(third.tasks) > set()
    assert set(third.standbys.tasks) == set(first.tasks) > set()
    kill(cluster, third)
    cluster.send_random(100, 2)
    cluster.settle()
    cluster.check()


def test_who_joins_has_followed_what_it_is_given() -> None:
    """Until then the others have it."""
    cluster = Cluster()
    first = cluster.worker(standbys=1)
    cluster.send_random(300)
    cluster.settle()
    second = cluster.worker(standbys=1)
    second.step()
    assert second.standbys is not None
    assert second._leases is None
    assert set(second.standbys.tasks) == {0, 1, 2}
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()
    assert set(second.tasks) == {0, 1, 2}
    assert set(first.tasks) == {3, 4, 5}
    assert restored(second)["standby"] > 0
    assert restored(second)["changelog"] <= 3 * 2  # what was committed while the tasks moved


def test_what_is_no_longer_to_be_followed_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a rebalance tasks seem to be where they will not stay."""
    cluster, _, heir = two()
    assert heir.standbys is not None
    assert heir._leases is not None
    following = dict(heir.standbys.tasks)
    found = heir._leases.members()
    assert found is not None
    others = tuple(task for who, tasks in found.tasks.items() if who != found.me for task in tasks)
    # As if somebody else were to be the heir of everything.
    heard = Membership(found.me, {found.me: (*found.tasks[found.me], 90, 91, 92, 93, 94), "x": others, "y": ()})
    with monkeypatch.context() as patch:
        patch.setattr(heir._leases, "members", lambda: heard)
        cluster.turns(3)
        assert heir.standbys.tasks == following
    cluster.turns(3)
    cluster.now += LINGER_MS
    cluster.turns(3)
    assert heir.standbys.tasks == following
    assert all(task.restore is following[index].restore for index, task in heir.standbys.tasks.items())
    monkeypatch.setattr(heir._leases, "members", lambda: heard)
    cluster.turns(1)
    cluster.now += LINGER_MS
    cluster.turns(1)
    assert not heir.standbys.tasks


def test_a_changelog_that_cannot_be_read_holds_up_no_other_follower(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, _, heir = two()
    assert heir.standbys is not None
    reader = heir.standbys._reader
    assert reader is not None
    broken, read = heir.standbys.tasks[3].spec.changelog, reader.read

    def away(topic: str, partition: int, rows: int) -> RawBatch | None:
        if (topic, partition) == broken:
            raise LogUnavailableError("no leader")
        return read(topic, partition, rows)

    monkeypatch.setattr(reader, "read", away)
    before = {index: status.position for index, status in enumerate(heir.standbys.status(), 3)}
    cluster.send([f"k{n}" for n in range(20)])
    cluster.settle()
    after = {index: status.position for index, status in enumerate(heir.standbys.status(), 3)}
    assert [index for index in before if after[index] == before[index]] == [3]


def test_it_joins_when_each_has_been_at_its_end_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where much is written, they are never there all at once."""
    cluster = Cluster()
    cluster.worker(standbys=1)
    cluster.send_random(300)
    cluster.settle()
    second = cluster.worker(standbys=1)
    second.step()
    assert second.standbys is not None
    turn = property(lambda restore: cluster.now // 10 % 3 == restore._spec.partition)
    monkeypatch.setattr(Restore, "caught_up", turn)
    cluster.turns(40)
    assert second._leases is not None


def test_who_was_fenced_while_it_warmed_up_commits_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """An heir fences whoever left a transaction open and is no member: the former life of this slot, or so it seems."""
    cluster = Cluster()
    cluster.worker(standbys=1)
    cluster.send_random(300)
    cluster.settle()
    second = cluster.worker(standbys=1)
    second.step()
    assert isinstance(second._writer, EmbeddedWriter)
    cluster.log.writer(second._writer._slot)
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()
    assert second.tasks
    assert "commit fatal" not in caplog.text


def test_a_question_that_is_not_answered_holds_up_nothing() -> None:
    """The log is asked beside the worker: with a leader that is away it may take its time."""
    cluster, _, heir = two()
    assert heir.standbys is not None
    heir.standbys._beside = never = InlineBeside(1 << 30)
    heir.standbys._let_go(3)
    heir.standbys._chosen = None
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()
    assert never.busy
    positions = [status.position for status in heir.standbys.status()]
    assert positions[0] is None
    assert None not in positions[1:]


def test_who_does_not_get_it_all_joins_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    first = cluster.worker(standbys=1)
    cluster.send_random(300)
    cluster.settle()
    second = cluster.worker(standbys=1, warm_up_max_ms=500)
    assert second.standbys is not None
    monkeypatch.setattr(second.standbys, "step", lambda now, *, busy: False)
    cluster.turns(40)
    assert second._leases is None
    assert len(first.tasks) == 2 * PARTITIONS
    cluster.turns(40)
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()
    assert len(second.tasks) == PARTITIONS


def test_a_worker_that_has_not_joined_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    first = cluster.worker(standbys=1)
    cluster.send_random(300)
    cluster.settle()
    second = cluster.worker(standbys=1)
    second.step()
    assert second.standbys is not None
    assert second.standbys.tasks
    second.stop()
    # What it closes it does not wait for: the reader of a real log says so.
    monkeypatch.setattr(second._reader, "wait", lambda timeout_s: pytest.fail("waits"))
    second.run()
    assert second.state.over
    assert not second.standbys.tasks
    assert len(first.tasks) == 2 * PARTITIONS


def test_a_worker_that_stops_lets_go_of_what_it_follows() -> None:
    cluster, first, second = two()
    second.stop()
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()
    assert second.standbys is not None
    assert not second.standbys.tasks
    assert len(first.tasks) == 2 * PARTITIONS
    assert restored(first)["changelog"] == 0  # what the other committed last was read before it was gone


# What may go wrong


def test_a_changelog_that_was_cut_below_its_place_is_read_anew() -> None:
    cluster, victim, heir = two()
    assert heir.standbys is not None
    cluster.workers.remove(heir)
    cluster.send([f"k{n}" for n in range(7)])
    cluster.turns(60)
    cluster.send([f"k{n}" for n in range(7)])
    cluster.turns(60)
    places = [(topic, p) for topic in (CHANGELOG_0, CHANGELOG_1) for p in range(PARTITIONS)]
    for index in heir.standbys.tasks:
        restore, spec = heir.standbys.tasks[index].restore, heir.standbys.tasks[index].spec
        assert restore is not None
        assert spec.changelog in places
        end = cluster.log.end_offsets([spec.changelog], committed=True)[spec.changelog]
        if end > restore.position:
            # What the echo task writes is whole values; each of its keys was written since.
            cluster.log.delete_records({spec.changelog: restore.position + 1})
    begun = {index: task.restore for index, task in heir.standbys.tasks.items()}
    cluster.workers.append(heir)
    cluster.turns(40)
    again = [index for index, task in heir.standbys.tasks.items() if task.restore is not begun[index]]
    assert again
    assert not victim.quarantined
    assert not heir.quarantined
    assert all(task.restore is not None and task.restore.caught_up for task in heir.standbys.tasks.values())


def test_state_that_cannot_be_applied_is_the_followers_own_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, victim, heir = two()
    assert heir.standbys is not None

    def refuse(self: EchoTask, batch: RawBatch) -> None:
        raise CoreError("fatal", "unknown_state", "of another topology", None, None)

    monkeypatch.setattr(EchoTask, "restore", refuse)
    cluster.send_random(100, 1)
    cluster.settle()
    assert not heir.quarantined
    assert all(task.restore is None for task in heir.standbys.tasks.values())
    monkeypatch.undo()
    kill(cluster, victim)  # who is granted a task does not wait for what a standby waits for
    cluster.send_random(100, 2)
    cluster.settle()
    cluster.check()


def test_a_log_that_does_not_answer_a_follower_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    workers = [cluster.worker(standbys=1) for _ in range(2)]
    ends = cluster.log.end_offsets

    def away(partitions: object, *, committed: bool) -> object:
        raise LogUnavailableError("nobody answers")

    cluster.turns(1)
    for worker in workers:
        assert worker.standbys is not None
        log = worker.standbys._log
        assert log is cluster.log
        kept = {"reader": log.reader, "start_offsets": log.start_offsets}
        worker.standbys._log = type("Away", (), {**kept, "end_offsets": staticmethod(away)})()
    cluster.send_random(300)
    cluster.settle()
    cluster.check()
    assert all(worker.status.trouble is None for worker in workers)
    assert cluster.log.end_offsets == ends


def test_a_changelog_that_has_become_shorter_is_read_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, victim, heir = two()
    kill(cluster, victim)
    real = cluster.log.end_offsets
    asked: list[int] = []

    def shorter(partitions: list[tuple[str, int]], *, committed: bool) -> dict[tuple[str, int], int]:
        found = real(partitions, committed=committed)
        if len(asked) < 1 and partitions[0][0].endswith("changelog"):
            asked.append(1)
            return dict.fromkeys(found, 0)
        return found

    monkeypatch.setattr(cluster.log, "end_offsets", shorter)
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()
    assert asked
    assert restored(heir)["changelog"] > 0


def test_positions_are_asked_for_when_reading_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever had the task commits once more, while its heir asks: that commit is not behind the positions and must
    not be in the state."""
    cluster, victim, heir = two()
    assert heir.standbys is not None
    kill(cluster, victim)
    seen: list[bool] = []
    real = cluster.log.committed

    def committed(group: str, partitions: list[tuple[str, int]]) -> dict[tuple[str, int], int | None]:
        adopted = [task for task in heir.tasks.values() if task.restore is not None and task.restore.follows]
        seen.extend(not task.restore._reading for task in adopted if task.restore is not None)
        return real(group, partitions)

    monkeypatch.setattr(cluster.log, "committed", committed)
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()
    assert seen
    assert all(seen)


def test_a_log_that_cannot_say_where_a_task_stood_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, victim, heir = two()
    kill(cluster, victim)
    real, failures = cluster.log.committed, iter(range(4))

    def committed(group: str, partitions: list[tuple[str, int]]) -> dict[tuple[str, int], int | None]:
        if next(failures, None) is not None:
            raise LogUnavailableError("a transaction is open")
        return real(group, partitions)

    monkeypatch.setattr(cluster.log, "committed", committed)
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()
    assert restored(heir)["changelog"] == 0
    assert restored(heir)["standby"] > 0


# On disk


def test_a_standby_keeps_a_snapshot_and_begins_with_it(tmp_path: Path) -> None:
    cluster = Cluster()
    first = cluster.worker(standbys=1, state_dir=str(tmp_path / "a"))
    second = cluster.worker(standbys=1, state_dir=str(tmp_path / "b"))
    cluster.turns(20)
    cluster.send_random(300)
    cluster.settle()
    assert second.standbys is not None
    followed_before = second.standbys.rows
    assert followed_before > 0
    second.stop()
    cluster.until(lambda: second.state.over)
    cluster.workers.remove(second)
    cluster.settle()
    cluster.workers.remove(first)  # asleep: nothing is added
    again = cluster.worker(slot=1, standbys=1, state_dir=str(tmp_path / "b"))
    cluster.workers.append(first)
    cluster.turns(60)
    assert again.standbys is not None
    begun = [task.restore for task in again.standbys.tasks.values()]
    assert begun
    assert sum(restore.loaded for restore in begun if restore is not None) > 0
    kill(cluster, first)
    cluster.send_random(100, 1)
    cluster.settle()
    cluster.check()
    gone(first)
    gone(again)


@pytest.mark.parametrize("seed", range(25))
def test_storm(seed: int, tmp_path: Path) -> None:
    """Workers with standbys come, go, die and are fenced at random; then peace, and everything has been counted once."""
    rng = random.Random(seed)
    cluster = Cluster(EchoPlan(sink=True), lag=rng.choice((0, 1, 3)))

    def start(slot: int) -> None:
        folder = str(tmp_path / str(slot)) if rng.random() < 0.5 else ""
        cluster.worker(
            slot=slot, standbys=rng.choice((0, 1, 2)), batch_rows_max=rng.choice((1, 10, 1000)), state_dir=folder
        )

    for slot in range(3):
        start(slot)
    for turn in range(400):
        cluster.turns(1)
        if rng.random() < 0.15:
            cluster.send_random(rng.randint(1, 30), turn)
        if rng.random() < 0.02 and len(cluster.workers) > 1:
            victim = rng.choice(cluster.workers)
            slot = victim._settings.slot
            if victim._leases is not None and rng.random() < 0.7:
                kill(cluster, victim)
                gone(victim)
                start(slot)
            else:
                victim.stop()
                cluster.until(lambda victim=victim: victim.state.over)  # type: ignore[misc]
                cluster.workers.remove(victim)
                start(slot)
    cluster.settle()
    cluster.check()
    assert not cluster.workers[0].quarantined
    for worker in cluster.workers:
        gone(worker)
