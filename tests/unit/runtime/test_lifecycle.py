"""A worker's states and who is told; pause; what follows an error that a task does not survive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import adstream as ads
from adstream.errors import ConfigError, TopologyError, UncaughtError
from adstream.interfaces import Listeners, Uncaught
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import control
from adstream.runtime.lifecycle import WorkerState
from adstream.runtime.settings import Settings
from adstream.runtime.worker import Worker
from tests.unit.runtime.cluster import Cluster
from tests.unit.runtime.echo_task import APP, EchoPlan


class Told:
    def __init__(self) -> None:
        self.states: list[str] = []
        self.partitions: list[tuple[str, int]] = []

    def listeners(self, **more: Any) -> Listeners:
        def state(new: str, old: str) -> None:
            assert old == (self.states[-1] if self.states else "created")
            self.states.append(new)
            raise RuntimeError("what listeners raise changes nothing")

        def count(kind: str) -> Callable[[list[tuple[str, int]]], None]:
            return lambda partitions: self.partitions.append((kind, len(partitions)))

        each = {kind: (count(kind),) for kind in ("assigned", "revoked", "lost")}
        return Listeners(state=(state,), **each, **more)


def test_the_states_of_a_life_and_its_rebalances() -> None:
    cluster, one, two = Cluster(), Told(), Told()
    first = cluster.worker(listeners=one.listeners())
    assert first.state is WorkerState.CREATED
    cluster.send_random(60)
    cluster.settle()
    assert one.states == ["rebalancing", "running"]
    every = sum(n for kind, n in one.partitions if kind == "assigned")
    second = cluster.worker(listeners=two.listeners())
    cluster.turns(60)
    assert first.state is second.state is WorkerState.RUNNING
    revoked = sum(n for kind, n in one.partitions if kind == "revoked")
    assert 0 < revoked == sum(n for kind, n in two.partitions if kind == "assigned") < every
    assert isinstance(cluster.log, EmbeddedLog)
    cluster.log.expel(second._leases)  # type: ignore[arg-type]
    cluster.turns(60)
    assert ("lost", revoked) in two.partitions
    second.stop()
    cluster.turns(60)
    assert two.states[-2:] == ["pending_shutdown", "not_running"]
    assert second.status.state == "not_running"
    first.stop()
    cluster.turns(60)
    assert one.states[-2:] == ["pending_shutdown", "not_running"]
    cluster.check()


def test_a_worker_without_tasks_is_running_too() -> None:
    cluster = Cluster()
    for _ in range(9):
        cluster.worker()
    cluster.turns(80)
    assert {worker.state for worker in cluster.workers} == {WorkerState.RUNNING}
    assert any(not worker.tasks for worker in cluster.workers)


def test_a_defect_is_an_error_state(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, told = Cluster(), Told()
    worker = cluster.worker(listeners=told.listeners())
    cluster.turns(5)
    monkeypatch.setattr(worker, "_repair", lambda: [][1])
    with pytest.raises(IndexError):
        cluster.turns(1)
    assert told.states[-2:] == ["pending_error", "error"]
    assert worker.status.state == "error"


@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_pause_keeps_tasks_and_processes_nothing(all_of_them: bool) -> None:
    cluster = Cluster(EchoPlan(sink=True))
    first, second = cluster.worker(), cluster.worker()
    cluster.send_random(60, 1)
    cluster.settle()
    cluster.turns(200)
    before, owned = cluster.counted(), set(first.tasks)
    assert owned

    def say(paused: bool) -> None:
        if all_of_them:
            control.say(cluster.log, APP, control.PAUSE, {"paused": paused, "at_ms": cluster.now})
        else:
            for worker in cluster.workers:
                worker.pause() if paused else worker.resume()

    say(True)
    cluster.turns(3)
    cluster.send_random(60, 2)
    cluster.turns(300)
    assert first.paused
    assert second.paused
    assert cluster.counted() == before
    assert set(first.tasks) == owned
    assert first.state is WorkerState.RUNNING
    assert first.status.paused
    third = cluster.worker()  # rebalances go on; who starts later is paused, too, if the application is
    cluster.turns(200)
    assert third.tasks
    assert third.paused is all_of_them
    third.pause()
    say(False)
    third.resume()
    cluster.settle()
    cluster.check()


def test_a_paused_worker_can_be_stopped() -> None:
    cluster = Cluster(EchoPlan(sink=True))
    worker = cluster.worker()
    cluster.send_random(40)
    cluster.turns(4)
    worker.pause()
    cluster.turns(10)
    worker.stop()
    cluster.until(lambda: worker.state is WorkerState.NOT_RUNNING)
    cluster.worker()
    cluster.settle()
    cluster.check()


def test_a_stop_of_before_is_not_for_who_starts_now() -> None:
    cluster = Cluster()
    cluster.worker().stop()
    cluster.turns(3)
    control.say(cluster.log, APP, control.STOP, {"by": 0, "error": "x", "at_ms": 1})
    cluster.workers.clear()
    worker = cluster.worker()
    cluster.send_random(20)
    cluster.settle()
    assert worker.state is WorkerState.RUNNING


def poisoned(answer: Any, times: int = 1 << 30) -> tuple[Cluster, Worker, Worker, list[tuple[str, str]]]:
    """Two workers; a record that fails its task, `times` times."""
    cluster = Cluster(EchoPlan(poison=b"poison", poison_times=times))
    asked: list[tuple[str, str]] = []

    def handler(error: Exception, task: str) -> Uncaught | str:
        asked.append((str(error.args[2]), task))
        found: Uncaught | str = answer(error, task) if callable(answer) else answer
        return found

    first, second = (cluster.worker(listeners=Listeners(uncaught=handler)) for _ in range(2))
    cluster.send_random(40)
    cluster.settle()
    cluster.send(["k1"], b"poison")
    return cluster, first, second, asked


def test_quarantine_is_what_it_was() -> None:
    cluster, first, second, asked = poisoned(Uncaught.QUARANTINE)
    cluster.turns(100)
    assert len({**first.quarantined, **second.quarantined}) == 1
    [(said, name)] = asked
    assert said == "a poisoned record"
    assert name in {**first.quarantined, **second.quarantined}
    assert first.state is second.state is WorkerState.RUNNING


def test_a_replaced_task_tries_again_and_again_and_then_gets_through() -> None:
    """Twice at once, then after 1, 2, 4 s twice each: the seventh time it gets through."""
    cluster, first, second, asked = poisoned("replace_task", times=6)
    began = cluster.now
    cluster.settle()
    assert len(asked) == 3
    assert 7_000 <= cluster.now - began < 12_000
    assert not first.quarantined
    assert not second.quarantined
    cluster.check()


@pytest.mark.parametrize("answer", ["stop_worker", Uncaught.STOP_WORKER, lambda e, t: 1 / 0, "no such thing"])
def test_a_worker_that_stops_leaves_the_others(answer: Any) -> None:
    cluster, first, second, asked = poisoned(answer, times=2)
    broken: list[Worker] = []
    for _ in range(400):
        for worker in cluster.workers:
            worker.step()
            if worker.state is WorkerState.ERROR and worker not in broken:
                broken.append(worker)
        cluster.now += 10
    [worker] = broken
    assert len(asked) == 1
    with pytest.raises(UncaughtError, match=r"this worker stops .*a poisoned record"):
        worker.run()
    other = second if worker is first else first
    assert other.state is WorkerState.RUNNING
    cluster.workers.remove(worker)
    cluster.settle()  # it has the record now, which does no harm any more
    cluster.check()


def test_an_application_that_stops_stops_everywhere_and_commits_what_it_had() -> None:
    cluster, first, second, asked = poisoned("stop_application", times=2)
    cluster.send([key for key in ("k0", "k2", "k3", "k4", "k5", "k6") for _ in range(5)])
    cluster.until(lambda: all(worker.state is WorkerState.ERROR for worker in (first, second)))
    assert len(asked) == 1
    errors = []
    for worker in (first, second):
        with pytest.raises(UncaughtError) as raised:
            worker.run()
        errors.append(str(raised.value))
    assert sum("and the application stops (`on_uncaught`)" in error for error in errors) == 1
    assert sum("the application was stopped by worker" in error for error in errors) == 1
    assert all("a poisoned record" in error for error in errors)
    cluster.workers.clear()
    cluster.worker()
    cluster.settle()
    cluster.check()


def test_the_setting_holds_where_the_topology_says_nothing() -> None:
    cluster = Cluster(EchoPlan(poison=b"poison"))
    worker = cluster.worker(on_uncaught="stop_worker")
    cluster.send(["k1"], b"poison")
    cluster.until(lambda: worker.state is WorkerState.ERROR)
    with pytest.raises(ConfigError, match="`panic` is not one of quarantine, replace_task"):
        Settings(on_uncaught="panic")


def test_the_topology_says_who_is_told() -> None:
    calls: list[str] = []

    @ads.topology
    def shop(app: ads.App, what: str = "stop_worker") -> None:
        app.stream("in").to("out")
        app.on_state_change(lambda new, old: calls.append(new))
        app.on_partitions_assigned(lambda partitions: calls.append("assigned"))
        app.on_partitions_revoked(lambda partitions: calls.append("revoked"))
        app.on_partitions_lost(lambda partitions: calls.append("lost"))
        app.on_uncaught(what)

    listeners = shop.build().listeners
    assert listeners.uncaught is not None
    assert listeners.uncaught(ValueError(), "0_0") is Uncaught.STOP_WORKER
    listeners.state[0]("running", "created")
    for told in (listeners.assigned, listeners.revoked, listeners.lost):
        told[0]([])
    assert calls == ["running", "assigned", "revoked", "lost"]
    with pytest.raises(TopologyError, match=r"on_uncaught at test_lifecycle.py:\d+: `panic` is not one of"):
        shop.build(what="panic")
