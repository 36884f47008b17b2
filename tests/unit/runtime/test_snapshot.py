"""Snapshots: whatever happens to the files, a restore gives exactly what the changelog says."""

from __future__ import annotations

import random
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adstream._core import RawBatch
from adstream.errors import ConfigError, FatalError, OffsetGoneError
from adstream.interfaces import Outcome, Reader, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime.assignment import TaskSpec
from adstream.runtime.lifecycle import WorkerState
from adstream.runtime.restore import Restore
from adstream.runtime.settings import load
from adstream.runtime.snapshot import ENTRY, Snapshot, Snapshots
from adstream.runtime.worker import Worker
from tests.unit.runtime.cluster import Cluster
from tests.unit.runtime.echo_task import CHANGELOG_0, EchoPlan, EchoTask

APP = "app"
CHANGELOG, INPUT = ("app-0-changelog", 0), ("in", 0)
SPEC = TaskSpec(0, "stream", 0, "", 0, (INPUT,), CHANGELOG)


class Place:
    """A changelog, a task that writes it, and a directory for its snapshots."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.log = EmbeddedLog()
        self.log.create_topics([TopicSpec(CHANGELOG[0], 1), TopicSpec("in", 1)])
        self.writer = self.log.writer("task")
        self.state: dict[bytes, int] = {}
        self.number = 0

    def open(self) -> Snapshot:
        snapshot = Snapshots(str(self.folder), APP).open(SPEC)
        assert snapshot is not None
        return snapshot

    def write(self, generations: int, snapshot: Snapshot | None = None) -> None:
        """Commits; the snapshot is told as a worker tells it: the end from before the commit, then the records."""
        for _ in range(generations):
            keys = self.random.sample(range(9), 3)
            self.number += 1
            records = [(i, 0, f"k{key}".encode(), str(self.number + i).encode(), []) for i, key in enumerate(keys)]
            self.state |= {key or b"": int(value or b"") for _, _, key, value, _ in records}
            batch = RawBatch(records)
            end = self.log.end_offsets([CHANGELOG], committed=False)[CHANGELOG]
            assert self.writer.commit([(*CHANGELOG, batch)], {INPUT: self.number}, APP, None) is Outcome.COMMITTED
            if snapshot is not None:
                snapshot.append(end)
                snapshot.hold(batch)

    def reader_of_much(self) -> Reader:
        """Reads all there is at once, as one of a broker may: what several commits wrote."""
        reader = self.log.reader()
        read = reader.read

        def much(topic: str, partition: int, max_rows: int) -> RawBatch | None:
            batches = list(iter(lambda: read(topic, partition, max_rows), None))
            records = [record for batch in batches for record in batch.records()]
            return RawBatch(records, batches[-1].next_offset) if batches else None

        reader.read = much  # type: ignore[method-assign]
        return reader

    def core(self) -> EchoTask:
        return EchoTask(EchoPlan(), INPUT, (), CHANGELOG, {})

    def restore(self, snapshot: Snapshot | None) -> tuple[dict[bytes, int], Restore]:
        core = self.core()
        restore = Restore(self.log, self.log.reader(), SPEC, core, APP, snapshot=snapshot)
        for _ in range(1_000):
            if restore.done:
                break
            try:
                restore.advance(self.random.choice([1, 2, 100]))
            except OffsetGoneError:  # as a worker does
                restore.close()
                core = self.core()
                restore = Restore(self.log, self.log.reader(), SPEC, core, APP, snapshot=snapshot)
        assert restore.finish() == {INPUT: self.number}
        return core.counts, restore

    def life(self, generations: int = 0) -> Restore:
        """Restores with the snapshot, goes on, and dies."""
        snapshot = self.open()
        state, restore = self.restore(snapshot)
        assert state == self.state
        self.write(generations, snapshot)
        snapshot.close()
        return restore

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / APP / SPEC.name).glob("*.snapshot"))


@pytest.fixture(autouse=True)
def no_files_left_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    opened = []
    real = Snapshots.open

    def remembered(*args: Any, **kwargs: Any) -> Snapshot | None:
        snapshot = real(*args, **kwargs)
        if snapshot is not None:
            opened.append(snapshot)
        return snapshot

    monkeypatch.setattr(Snapshots, "open", remembered)
    yield
    for snapshot in opened:
        snapshot.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_restart_reads_the_snapshot_and_only_its_last_block_from_the_changelog(place: Place) -> None:
    place.life(5)
    first = place.life(5)
    second = place.life()
    assert first.loaded == 3 * 4, "the last commit of a life is not proven by a next one"
    assert second.loaded == 3 * 9
    assert second.rows == 3 * 10
    assert place.life().loaded == 3 * 10, "what a restore reads is kept"


def test_the_changelog_may_be_cut_behind_it(place: Place) -> None:
    place.life(10)
    place.life(10)
    snapshot = place.open()
    place.restore(snapshot)
    place.log.delete_records({CHANGELOG: 15})
    snapshot.forget(15)
    snapshot.close()
    assert place.life().loaded == 3 * 20
    place.log.delete_records({CHANGELOG: 58})  # the last block is gone: nothing to compare with
    place.state = place.restore(None)[0]
    assert place.life().loaded == 0
    assert place.life().loaded == 2


def each_damage(files: list[Path]) -> Iterator[tuple[str, Callable[[], None]]]:
    for path in files:
        data = path.read_bytes()
        for at in range(len(data)):
            flipped = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
            yield f"{path.name} cut at {at}", lambda path=path, rest=data[:at]: path.write_bytes(rest)  # type: ignore[misc]
            yield f"{path.name} wrong at {at}", lambda path=path, all=flipped: path.write_bytes(all)  # type: ignore[misc]


def test_damage_at_any_byte_restores_what_was_committed(tmp_path: Path) -> None:
    place = Place(tmp_path / "state")
    place.life(3)
    place.life(3)
    place.write(1)
    saved = tmp_path / "saved"
    shutil.copytree(place.folder, saved)
    loaded = set()
    for what, damage in list(each_damage(place.files)):
        shutil.rmtree(place.folder)
        shutil.copytree(saved, place.folder)
        damage()
        for again in range(2):
            snapshot = place.open()
            found, restore = place.restore(snapshot)
            assert found == place.state, what
            if again:
                assert restore.loaded == 3 * 7, f"{what}: it did not heal"
            else:
                loaded.add(restore.loaded)
            snapshot.close()
    assert len(loaded) > 4, "whole blocks before the damage count"


@pytest.mark.parametrize("seed", range(60))
def test_any_life_of_the_files(tmp_path: Path, seed: int) -> None:
    """Lives, deletions, copies of older directories, holes, another log: the state is always the changelog's."""
    rng = random.Random(seed)
    place = Place(tmp_path / "state", seed)
    for n in range(12):
        place.life(rng.randrange(4))
        if rng.random() < 0.3:
            shutil.copytree(place.folder, tmp_path / f"old{n}")
        place.write(rng.randrange(3))  # on another machine
        match rng.randrange(7):
            case 0 if place.files:
                rng.choice(place.files).unlink()
            case 1 if place.files:
                path = rng.choice(place.files)
                at = rng.randrange(path.stat().st_size + 1)
                path.write_bytes(path.read_bytes()[:at] + bytes(rng.randrange(40)))
            case 2 if old := sorted(tmp_path.glob("old*")):
                shutil.rmtree(place.folder)
                shutil.copytree(rng.choice(old), place.folder)
            case 3 if place.files:
                path = rng.choice(place.files)
                data = bytearray(path.read_bytes())
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                path.write_bytes(bytes(data))
            case 4:
                shutil.rmtree(place.folder)
            case 5:
                # What the log forgets, it has written again.
                records = [(i, 0, k, str(v).encode(), []) for i, (k, v) in enumerate(sorted(place.state.items()))]
                start = place.log.start_offsets([CHANGELOG])[CHANGELOG]
                end = place.log.end_offsets([CHANGELOG], committed=False)[CHANGELOG]
                place.writer.commit([(*CHANGELOG, RawBatch(records))], {INPUT: place.number}, APP, None)
                place.log.delete_records({CHANGELOG: rng.randint(start, end)})
    place.life()


def test_a_snapshot_of_another_log_is_not_believed(tmp_path: Path) -> None:
    """Made anew, the same offsets hold other records."""
    Place(tmp_path, seed=1).life(5)
    other = Place(tmp_path, seed=2)
    assert other.life(5).loaded == 0
    assert other.life(1).loaded == 3 * 4
    longer = Place(tmp_path, seed=3)
    longer.write(50)
    assert longer.life(5).loaded == 0
    shorter = Place(tmp_path, seed=4)
    assert shorter.life().loaded == 0


def test_a_newer_format_is_set_aside(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.life(4)
    [path] = place.files
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\x02\x00" + data[6:])
    assert place.life(2).loaded == 0
    assert path.with_suffix(".bad").exists()
    assert "set aside" in caplog.text
    assert place.life().loaded > 0


def test_a_directory_of_another_application_is_not_read(place: Place) -> None:
    place.life(4)
    moved = place.folder / "b"
    shutil.copytree(place.folder / APP, moved)
    snapshot = Snapshots(str(place.folder), "b").open(SPEC)
    assert snapshot is not None
    assert not snapshot.blocks
    snapshot.close()


def test_of_two_processes_one_goes_without(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    first = place.open()
    assert Snapshots(str(place.folder), APP).open(SPEC) is None
    assert "another process" in caplog.text
    first.close()
    place.open().close()


def test_a_full_disk_ends_the_snapshot_and_nothing_else(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.life(4)
    snapshot = place.open()
    place.restore(snapshot)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (230, limits[1]))  # writing fails with EFBIG, as with ENOSPC
    try:
        place.write(6, snapshot)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "ends here until the next restore" in caplog.text
    assert place.life().loaded >= 3 * 4
    assert place.life().loaded == 3 * 10


def test_a_gap_at_least_once_ends_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else wrote to the changelog: nothing fences it there."""
    place = Place(tmp_path)
    snapshot = Snapshots(str(tmp_path), APP).open(SPEC, exactly_once=False)
    place.restore(snapshot)
    place.write(3, snapshot)
    place.write(1)
    place.write(3, snapshot)
    assert "somebody else wrote there" in caplog.text
    assert place.life().loaded == 3 * 2


def test_segments_that_nobody_needs_are_deleted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adstream.runtime.snapshot.SEGMENT_BYTES", 3 * ENTRY.size)
    snapshot = place.open()
    place.restore(snapshot)
    place.write(20, snapshot)
    assert len(place.files) == 19
    snapshot.forget(30)
    assert [int(path.stem) for path in place.files] == list(range(30, 57, 3))
    snapshot.close()
    place.log.delete_records({CHANGELOG: 30})
    place.state = place.restore(None)[0]
    assert place.life().loaded == 3 * 9


def test_what_the_log_forgets_under_a_restore_is_not_needed(place: Place) -> None:
    """A former owner trims late: the restore begins again, and so does the copy."""
    place.write(30)
    snapshot = place.open()
    restore = Restore(place.log, place.log.reader(), SPEC, place.core(), APP, snapshot=snapshot)
    restore.advance(5)
    place.log.delete_records({CHANGELOG: 60})
    with pytest.raises(OffsetGoneError):
        restore.advance(5)
    snapshot.close()
    assert place.life().loaded == 0
    assert place.life().loaded == 30, "the copy begins where the log begins"


def test_damage_behind_what_the_log_has_forgotten_leaves_nothing_of_the_snapshot(tmp_path: Path) -> None:
    """Blocks were applied before a damaged one is met, and what undid them is in none that can be read any more: a key that is
    gone would be there again."""
    place = Place(tmp_path / "state")
    place.life(5)
    place.life(5)
    place.life()
    saved = tmp_path / "saved"
    shutil.copytree(place.folder, saved)
    whole = place.state
    place.log.delete_records({CHANGELOG: 24})
    left = place.restore(None)[0]
    assert len(left) < len(whole)
    for what, damage in list(each_damage(place.files))[::13]:
        shutil.rmtree(place.folder)
        shutil.copytree(saved, place.folder)
        damage()
        snapshot = place.open()
        assert place.restore(snapshot)[0] in (whole, left), what
        snapshot.close()


@pytest.mark.parametrize("with_snapshot", [False, True])
def test_what_another_owner_commits_meanwhile_is_not_restored(place: Place, with_snapshot: bool) -> None:
    """It does not belong to the positions that were asked for before: two processes with one slot, one of them fenced."""
    place.write(3)
    state, number = dict(place.state), place.number
    snapshot = place.open() if with_snapshot else None
    core = place.core()
    restore = Restore(place.log, place.reader_of_much(), SPEC, core, APP, snapshot=snapshot)
    place.write(2)
    while not restore.done:
        restore.advance(100)
    assert restore.finish() == {INPUT: number}
    assert core.counts == state
    assert restore.rows == 3 * 3
    if snapshot is not None:
        assert snapshot.end == 9
        snapshot.close()
        place.life()


def test_state_without_a_position_is_an_error_with_a_snapshot_too(place: Place) -> None:
    place.life(5)
    place.life(5)
    snapshot = place.open()
    restore = Restore(place.log, place.log.reader(), SPEC, place.core(), "another group", snapshot=snapshot)
    while not restore.done:
        restore.advance(100)
    assert restore.loaded > 0
    with pytest.raises(FatalError, match="no committed position of `in`"):
        restore.finish()


# With a worker


def dies(cluster: Cluster, worker: Worker) -> None:
    cluster.workers.remove(worker)
    if worker._leases is not None:
        cluster.log.expel(worker._leases)  # type: ignore[attr-defined]
    for task in worker.tasks.values():
        if task.snapshot is not None:
            task.snapshot.close()


def test_a_worker_comes_back_with_its_snapshots(tmp_path: Path) -> None:
    cluster = Cluster(EchoPlan(sink=True))
    settings = {"state_dir": str(tmp_path), "snapshot_every_ms": 20, "purge_every_ms": 100}
    for life in range(6):
        worker = cluster.worker(0, **settings)  # type: ignore[arg-type]
        cluster.until(lambda worker=worker: bool(worker.status.ready))  # type: ignore[misc]
        for part in range(8):
            cluster.send_random(20, 10 * life + part)
            cluster.turns(6)
        if life % 2:
            worker.stop()
            cluster.until(cluster.stopped)
            cluster.workers.remove(worker)
        else:
            dies(cluster, worker)
    assert sorted(path.name for path in (tmp_path / "echo").iterdir()) == [f"{s}_{p}" for s in (0, 1) for p in range(3)]
    loaded: list[int] = []
    real = Restore.finish

    def finish(self: Restore) -> object:
        loaded.append(self.loaded)
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Restore, "finish", finish)
        cluster.worker(0, **settings)  # type: ignore[arg-type]
        cluster.settle()
    cluster.check()
    assert len(loaded) == 6
    assert min(loaded) > 10


@pytest.mark.parametrize("seed", range(25))
def test_storm_with_snapshots(tmp_path: Path, seed: int) -> None:
    """Two machines; workers come, go, die, freeze and are fenced at random, directories are lost, old or damaged."""
    rng = random.Random(seed)
    cluster = Cluster(EchoPlan(sink=True), lag=rng.randrange(4))
    frozen: list[Worker] = []
    slot = 0
    for turn in range(60):
        cluster.send_random(rng.randrange(30), turn)
        event = rng.randrange(12)
        if not cluster.workers or (event == 0 and len(cluster.workers) < 4):
            machine = tmp_path / rng.choice("ab")
            values = {"state_dir": str(machine), "snapshot_every_ms": rng.choice([1, 30])}
            cluster.worker(slot := slot + 1, batch_rows_max=rng.choice([1, 3, 50]), **values)  # type: ignore[arg-type]
        worker = rng.choice(cluster.workers)
        files = sorted(tmp_path.rglob("*.snapshot"))
        if event == 1:
            dies(cluster, worker)
        elif event == 2:
            worker.stop()
        elif event == 3:
            cluster.log.writer(f"echo-{worker._settings.slot}")
        elif event == 4:
            cluster.workers.remove(worker)
            frozen.append(worker)
            if worker._leases is not None:
                cluster.log.expel(worker._leases)  # type: ignore[attr-defined]
        elif event == 5 and frozen:
            cluster.workers.append(frozen.pop())
        elif event == 6 and files:
            path = rng.choice(files)
            path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])
        elif event == 7 and files:
            shutil.rmtree(rng.choice(files).parent)
        cluster.workers = [w for w in cluster.workers if w.state is not WorkerState.NOT_RUNNING]
        cluster.turns(rng.randrange(1, 12))
    cluster.workers += frozen
    cluster.worker(slot + 1, state_dir=str(tmp_path / "a"))  # type: ignore[arg-type]
    cluster.settle()
    cluster.check()


def test_a_worker_that_was_paused_claims_nothing(tmp_path: Path) -> None:
    """It asks for the log's end when a successor has committed already; its own commit then fails."""
    cluster = Cluster(lag=0)
    settings = {"snapshot_every_ms": 1}
    zombie = cluster.worker(0, state_dir=str(tmp_path / "a"), **settings)  # type: ignore[arg-type]
    for part in range(5):
        cluster.send_random(40, part)
        cluster.turns(20)
    cluster.send_random(40, 90)
    cluster.turns(1)  # processed, not committed
    cluster.workers.remove(zombie)
    cluster.log.expel(zombie._leases)  # type: ignore[attr-defined]
    other = cluster.worker(1, state_dir=str(tmp_path / "b"), **settings)  # type: ignore[arg-type]
    for part in range(5):
        cluster.send_random(40, 10 + part)
        cluster.turns(20)
    cluster.workers.append(zombie)
    cluster.turns(100)
    cluster.workers.remove(other)
    cluster.log.expel(other._leases)  # type: ignore[attr-defined]
    cluster.send_random(40, 20)
    cluster.settle()  # with the state of machine a
    dies(cluster, zombie)
    cluster.worker(2, state_dir=str(tmp_path / "a"))  # type: ignore[arg-type]
    cluster.send_random(40, 30)
    cluster.settle()
    cluster.check()
    ends = cluster.log.end_offsets([(CHANGELOG_0, 0)], committed=False)
    assert ends[CHANGELOG_0, 0] > 0


def test_a_directory_that_cannot_be_written_is_an_error_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--state-dir"):
        Cluster().worker(0, state_dir=str(tmp_path / "file"))  # type: ignore[arg-type]


def test_where_the_setting_comes_from(tmp_path: Path) -> None:
    toml = tmp_path / "a.toml"
    toml.write_text('state_dir = "/from/toml"\nsnapshot_every = "5s"\n')
    assert load(environ={}, toml=toml).state_dir == "/from/toml"
    assert load(environ={}, toml=toml).snapshot_every_ms == 5_000
    assert load(environ={"ADSTREAM_STATE_DIR": "/from/env"}, toml=toml).state_dir == "/from/env"
    assert load({"state_dir": "/from/flag"}, {"ADSTREAM_STATE_DIR": "/from/env"}).state_dir == "/from/flag"
