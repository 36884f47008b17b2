"""Stores on disk in whole workers on a log of their own: what a restart reads, and what becomes of directories that are
damaged, old, somebody else's, or in use."""

import fcntl
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import adstream as ads
from adstream._core import Plan
from adstream.errors import ConfigError
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime.assignment import prepare
from adstream.runtime.beside import InlineBeside
from adstream.runtime.ports import Hooks
from adstream.runtime.settings import Settings
from adstream.runtime.worker import Worker, WorkerState
from tests.unit.runtime.cluster import batch

S, I = ads.serdes.string, ads.serdes.int64  # noqa: E741
COMMITS, KEYS = 60, 300
"""Of a machine's past: commits, and keys that they counted."""


@ads.topology
def counting(app: ads.App) -> None:
    """A count on disk; what `suppress` keeps stays in memory, and is on disk as well."""
    stream = app.stream("in", key=S, value=S)
    stream.group_by_key().count(ads.Materialized("counts", store_type="disk")).to_stream().to("out", key=S, value=I)


class Machine:
    """One worker after the other on one log and one state directory."""

    def __init__(self, folder: Path, topology: ads.Topology = counting, **settings: Any) -> None:
        built = topology.build()
        self.plan = Plan(built.json, built.callables)
        self.log = EmbeddedLog()
        self.log.create_topics([TopicSpec("in", 1), TopicSpec("out", 1)])
        self.producer = self.log.writer("producer")
        self.folder = folder
        self.settings = {"state_dir": str(folder), "snapshot_every_ms": 1, **settings}
        self.now = 1_000_000
        self.sent: list[str] = []
        self.app = built.app
        self.workers: list[Worker] = []

    @property
    def stores(self) -> Path:
        return self.folder / self.app / "0_0" / "stores"

    @property
    def changelog(self) -> tuple[str, int]:
        return f"{self.app}-0-changelog", 0

    def send(self, *keys: str) -> None:
        self.sent += keys
        records = batch(*((key.encode(), b"x") for key in keys))
        assert self.producer.commit([("in", 0, records)], {}, "producer", None) is Outcome.COMMITTED

    def worker(self, **settings: Any) -> Worker:
        chosen = Settings(app=self.app, **(self.settings | settings))
        hooks = Hooks(beside=lambda name: InlineBeside(1))
        worker = Worker(self.plan, prepare(self.log, self.plan), chosen, self.log, lambda: self.now, {}, hooks)
        self.workers.append(worker)
        return worker

    def until(self, worker: Worker, done: Callable[[], bool]) -> None:
        for _ in range(3_000):
            worker.step()
            self.now += 10
            if done():
                return
        raise AssertionError(f"not in time: {worker.status} {worker.quarantined}")

    def work(self, worker: Worker, *keys: str, at_once: int = 1) -> None:
        """Sends keys, until they are counted; so many by a commit."""
        for first in range(0, len(keys), at_once):
            self.send(*keys[first : first + at_once])
            self.until(worker, lambda: self.log.end_offsets([("out", 0)], committed=True)["out", 0] >= len(self.sent))

    def told(self) -> list[tuple[str, int]]:
        end = self.log.end_offsets([("out", 0)], committed=True)["out", 0]
        reader = self.log.reader()
        reader.add("out", 0, 0)
        found: list[tuple[str, int]] = []
        position = 0
        while position < end and (read := reader.read("out", 0, 10_000)) is not None:
            position = read.next_offset
            found += [(r[2].decode(), int.from_bytes(r[3], "big")) for r in read.records() if r[2] and r[3]]
        return found

    def stop(self, worker: Worker) -> None:
        worker.stop()
        self.until(worker, lambda: worker.state is WorkerState.NOT_RUNNING)

    def die(self, worker: Worker) -> None:
        """Without a word: nothing is written, the log notices that it is gone, its locks are free."""
        for task in worker.tasks.values():
            if task.disk is not None:
                task.disk.close(write=False)
                task.disk = None
        assert worker._leases is not None
        worker._leases.close()

    def close(self) -> None:
        for worker in self.workers:
            if worker.state is not WorkerState.NOT_RUNNING:
                self.die(worker)

    def restored(self, worker: Worker) -> int:
        """Records of the changelog that its start has read."""
        self.until(worker, lambda: any(t.state.value == "running" for t in worker.tasks.values()))
        return worker._counters.restored["changelog"]

    def right(self) -> bool:
        """Each key was counted on, from 1."""
        counts: dict[str, int] = {}
        expected = []
        for key in self.sent:
            counts[key] = counts.get(key, 0) + 1
            expected.append((key, counts[key]))
        return self.told() == expected


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    made: list[Machine] = []

    def make(name: str = "here", *rest: Any, **settings: Any) -> Machine:
        made.append(Machine(tmp_path / name, *rest, **settings))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


@pytest.fixture
def machine(machines: Callable[..., Machine]) -> Machine:
    """It has counted, and was stopped."""
    machine = machines()
    worker = machine.worker()
    machine.work(worker, *(f"k{i}" for i in range(KEYS)), at_once=KEYS // COMMITS)
    assert machine.log.end_offsets([machine.changelog], committed=True)[machine.changelog] > COMMITS
    machine.stop(worker)
    return machine


def test_a_restart_reads_the_tail_alone(machine: Machine) -> None:
    worker = machine.worker()
    assert machine.restored(worker) <= 3
    assert worker._counters.resumed == 1
    machine.work(worker, "k1", "new", "k299")
    assert machine.right()


def test_after_a_death_it_reads_what_was_not_written(machine: Machine) -> None:
    worker = machine.worker()
    machine.work(worker, *(f"k{i}" for i in range(20)))
    machine.die(worker)
    worker = machine.worker()
    assert 20 <= machine.restored(worker) <= 3 * 20 + 3  # rows, rows again, and what is small, of each commit
    machine.work(worker, "k1", "k19", "k20")
    assert machine.right()


@pytest.mark.parametrize("what", ["list", "table", "gone", "identity"])
def test_what_is_damaged_is_set_aside_and_restored(machine: Machine, what: str) -> None:
    tables = [path for path in machine.stores.rglob("*") if path.is_file() and path.parent != machine.stores]
    match what:
        case "list":
            for path in machine.stores.glob("v*"):
                path.write_bytes(path.read_bytes()[:-9])
        case "table":  # found when a row is read
            for path in tables:
                data = bytearray(path.read_bytes())
                data[: len(data) // 2] = bytes(len(data) // 2)
                path.write_bytes(data)
        case "gone":
            tables[0].unlink()
        case _:
            name = machine.stores.with_suffix(".json")
            name.write_text(name.read_text().replace("changelog", "other"))
    worker = machine.worker()
    machine.work(worker, *(f"k{i}" for i in range(KEYS)), at_once=50)
    assert machine.right()
    assert worker.status.set_aside or worker._counters.set_aside == 1
    assert worker._counters.restored["changelog"] > COMMITS
    assert machine.stores.with_suffix(".bad").is_dir()
    machine.stop(worker)
    worker = machine.worker()
    assert machine.restored(worker) <= 3


def test_stores_of_another_log_are_set_aside(machine: Machine, machines: Callable[..., Machine]) -> None:
    """The same application on another cluster: the changelog reaches as far, and says something else."""
    other = machines("other")
    worker = other.worker()
    other.work(worker, *(f"other{i}" for i in range(KEYS + 20)), at_once=5)
    other.stop(worker)
    shutil.rmtree(other.stores)
    shutil.copytree(machine.stores, other.stores)
    worker = other.worker()
    other.work(worker, "k1", "other1")
    assert worker._counters.set_aside == 1
    assert other.right()


def test_a_changelog_that_lost_its_end_sets_them_aside(machine: Machine) -> None:
    worker = machine.worker()
    machine.work(worker, "a")
    machine.stop(worker)
    kept = machine.log
    machine.log = EmbeddedLog()
    machine.log.create_topics([TopicSpec("in", 1), TopicSpec("out", 1)])
    machine.producer = machine.log.writer("producer")
    machine.sent.clear()
    worker = machine.worker()
    machine.work(worker, "a", "k1")
    assert worker._counters.set_aside == 1
    assert machine.right()
    kept.close()
    worker.stop()


def test_who_finds_a_directory_in_use_begins_another(machine: Machine) -> None:
    with machine.stores.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        worker = machine.worker()
        machine.work(worker, "k1")
        assert worker._counters.restored["changelog"] > COMMITS
        machine.stop(worker)
    assert machine.stores.with_name("stores-1").is_dir()
    worker = machine.worker()  # the first is behind, and not wrong
    assert machine.restored(worker) <= 8
    machine.work(worker, "k1")
    assert machine.right()


def test_the_changelog_forgets_nothing_that_a_death_would_need(machine: Machine) -> None:
    worker = machine.worker(purge_every_ms=100)
    for _ in range(6):
        machine.work(worker, *(f"k{i}" for i in range(0, KEYS, 10)), at_once=3)
    first = machine.log.start_offsets([machine.changelog])[machine.changelog]
    assert first > 0
    machine.die(worker)
    worker = machine.worker()
    machine.work(worker, "k1", "k2")
    assert worker._counters.set_aside == 0
    assert machine.right()


def test_without_a_directory_it_does_not_start(machines: Callable[..., Machine]) -> None:
    machine = machines()
    with pytest.raises(ConfigError, match="`counts` should be on disk"):
        machine.worker(state_dir="")


def test_all_stores_may_be_on_disk_by_a_setting(machines: Callable[..., Machine]) -> None:
    @ads.topology(name="several")
    def several(app: ads.App) -> None:
        stream = app.stream("in", key=S, value=S)
        counts = stream.group_by_key().count("counts")
        held = counts.suppress(ads.Suppressed.until_time_limit("1d"))
        held.to_stream().to("held", key=S, value=I)
        counts.to_stream().to("out", key=S, value=I)

    machine = machines("here", several, store_type="disk")
    machine.log.create_topics([TopicSpec("held", 1)])
    worker = machine.worker()
    machine.work(worker, *(f"k{i % 70}" for i in range(100)))
    assert worker.tasks[0].disk is not None
    waiting = worker.tasks[0].core.stats()["nodes"]["flow"]["state_keys"]  # type: ignore[union-attr]
    machine.stop(worker)
    worker = machine.worker()
    assert machine.restored(worker) <= 8
    assert worker.tasks[0].core.stats()["nodes"]["flow"]["state_keys"] == waiting  # type: ignore[union-attr]
    machine.work(worker, "k1", "k1")
    assert machine.right()
