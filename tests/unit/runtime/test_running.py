"""The parts that have threads, processes or sockets: small, real, and bounded in time."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from adstream.interfaces import Outcome, Reader
from adstream.runtime.assignment import prepare
from adstream.runtime.beside import ThreadBeside
from adstream.runtime.commit import Result
from adstream.runtime.metrics import MetricsServer, WorkerCollector
from adstream.runtime.ports import Hooks
from adstream.runtime.settings import Settings
from adstream.runtime.supervisor import Program, Supervisor
from adstream.runtime.worker import Worker
from tests.unit.runtime.cluster import Cluster
from tests.unit.runtime.echo_task import APP, EchoPlan


def test_two_workers_in_threads_of_their_own() -> None:
    cluster = Cluster()

    def clock() -> int:
        return time.monotonic_ns() // 1_000_000

    cluster.send_random(300)
    workers = [
        Worker(cluster.plan, prepare(cluster.log, cluster.plan), Settings(app=APP, slot=slot), cluster.log, clock, {})
        for slot in range(2)
    ]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    for part in range(20):
        cluster.send_random(100, part)
        time.sleep(0.01)
    until = time.monotonic() + 30
    while sum(map(len, cluster.counted().values())) < sum(cluster.sent.values()) and time.monotonic() < until:
        time.sleep(0.02)
    for worker in workers:
        worker.stop()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    cluster.check()


def test_a_thread_commits_beside() -> None:
    committer: ThreadBeside[Result] = ThreadBeside("test")
    go = threading.Event()

    def work() -> Result:
        go.wait(30)
        return Result(Outcome.COMMITTED)

    committer.submit(work)
    assert committer.busy
    assert committer.take() is None
    go.set()
    assert committer.take(30) == Result(Outcome.COMMITTED)
    assert not committer.busy

    def fail() -> Result:
        raise KeyError("x")

    committer.submit(fail)
    with pytest.raises(KeyError):
        committer.take(30)

    there: list[Result | None] = []
    told = threading.Event()

    def then() -> None:
        there.append(committer.take())
        told.set()

    committer.submit(lambda: Result(Outcome.COMMITTED), then)
    assert told.wait(30)
    assert there == [Result(Outcome.COMMITTED)], "the result is there when it is told"
    committer.close()


class Woken:
    """A reader that other threads can wake."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.timeouts: list[float] = []
        self.wakes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def wait(self, timeout_s: float) -> None:
        self.timeouts.append(timeout_s)
        self._reader.wait(0.001)

    def wake(self) -> None:
        self.wakes += 1


def test_a_commit_that_is_done_wakes_the_worker() -> None:
    """It had looked 200 times a second whether one was: much of what nine workers of 1,000 events a second used."""
    cluster = Cluster(EchoPlan(sink=False))
    reader = Woken(cluster.log.reader())
    cluster.log.reader = lambda: reader  # type: ignore[method-assign]
    begun = threading.Event()
    committing: list[float] = []

    def step(name: str) -> None:
        if name == "commit" and not begun.is_set():
            waits = len(reader.timeouts)
            while len(reader.timeouts) < waits + 3:  # the worker waits while it commits
                time.sleep(0.001)
            committing.extend(reader.timeouts[waits + 1 :])
            begun.set()

    cluster.send_random(10)
    worker = Worker(
        cluster.plan,
        prepare(cluster.log, cluster.plan),
        Settings(app=APP, slot=0),
        cluster.log,
        lambda: time.monotonic_ns() // 1_000_000,
        {},
        Hooks(step=step),
    )
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        assert begun.wait(30)
        while not worker.status.commits.get("committed"):
            time.sleep(0.001)
    finally:
        worker.stop()
        thread.join(30)
    assert reader.wakes >= worker.status.commits["committed"]
    assert min(committing) > 0.01, "it waits to be woken"


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_health_and_readiness() -> None:
    cluster = Cluster(EchoPlan(sink=True, poison=b"poison"))
    worker = cluster.worker()
    collector = WorkerCollector(APP, lambda: worker.status, lambda tps: cluster.log.end_offsets(tps, committed=True))
    server = MetricsServer(collector, lambda: worker.status, lambda: cluster.now, 0, "127.0.0.1")
    try:
        assert get(server.port, "/readyz")[0] == 503
        cluster.send_random(100)
        cluster.settle()
        cluster.turns(110)
        assert get(server.port, "/readyz") == (200, "running\n")
        text = get(server.port, "/metrics")[1]
        for line in (
            'adstream_rows_total{app="echo"} 200.0',
            'adstream_task_state{app="echo",state="running",task="0_1"} 1.0',
            'adstream_lag{app="echo",partition="0",topic="echo-rows-sink"} 0.0',
            'adstream_commit_seconds_bucket{app="echo",le="+Inf"}',
            'adstream_sink_healthy{app="echo",sink="rows"} 1.0',
        ):
            assert line in text
        cluster.send(["k1"], b"poison")
        cluster.turns(150)
        code, text = get(server.port, "/readyz")
        assert code == 503
        assert "a poisoned record" in text
        assert get(server.port, "/healthz")[0] == 200
        cluster.now += 100_000
        assert get(server.port, "/healthz")[0] == 503
        assert get(server.port, "/else")[0] == 404
    finally:
        server.close()


CHILD = """
import os, pathlib, signal, sys, time
place = pathlib.Path(sys.argv[1])
slot = os.environ["ADSTREAM_SLOT"]
starts = len(list(place.glob(slot + "-*")))
(place / f"{slot}-{starts}").touch()
"""


def supervise(
    tmp_path: Path, body: str, workers: int = 2, drain_timeout_s: float = 30, to_the_end: bool = False
) -> Supervisor:
    # Backing off is not waited for: a second passes in a hundredth.
    return Supervisor(
        [Program([sys.executable, "-c", CHILD + body, str(tmp_path)], workers, to_the_end=to_the_end)],
        drain_timeout_s=drain_timeout_s,
        sleep=lambda s: time.sleep(s / 5),
        clock=lambda: time.monotonic() * 20,
    )


def test_dead_workers_are_started_again_until_all_are_finished(tmp_path: Path) -> None:
    assert supervise(tmp_path, "sys.exit(0 if starts == 1 or slot == '1' else 9)").run() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-0", "0-1", "1-0"]


def test_an_end_that_cannot_be_reached_ends_the_run(tmp_path: Path) -> None:
    """With one worker it ended, with two it was begun again for ever."""
    body = "time.sleep(60) if slot == '1' else sys.exit((9, 1)[starts])"  # who dies is started again, as ever
    assert supervise(tmp_path, body, to_the_end=True).run() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-0", "0-1", "1-0"]


def test_a_wrong_setting_stops_all(tmp_path: Path) -> None:
    assert supervise(tmp_path, "time.sleep(60) if slot == '1' else sys.exit(2)").run() == 2


def test_too_many_dead_letters_stop_the_workers_of_one_job(tmp_path: Path) -> None:
    # The one that trips waits until the other of its job is there to be stopped.
    trips = "while not (place / '1-0').exists(): time.sleep(0.01)\nsys.exit(3)"
    bodies = {"tripped": f"if slot == '1': time.sleep(60)\n{trips}", "other": "time.sleep(1)"}
    programs = []
    for name, body in bodies.items():
        (tmp_path / name).mkdir()
        body = "(place / os.environ['ADSTREAM_JOB']).touch()\n" + body
        programs.append(Program([sys.executable, "-c", CHILD + body, str(tmp_path / name)], 2, name))
    assert Supervisor(programs, drain_timeout_s=30).run() == 3
    found = sorted("/".join(path.parts[-2:]) for path in tmp_path.glob("*/*"))
    assert found == [f"{name}/{file}" for name in ("other", "tripped") for file in ("0-0", "1-0", name)]


def test_what_was_right_for_a_minute_is_started_again_although_a_server_is_away(tmp_path: Path) -> None:
    """A worker that died together with the broker finds none when it is started again, and says 2."""
    body = "starts == 0 and time.sleep(4)\nsys.exit((9, 2, 0)[starts])"  # 4 s are 80 here
    assert supervise(tmp_path, body, workers=1).run() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-0", "0-1", "0-2"]


@pytest.mark.parametrize(("drains", "code"), [(True, 0), (True, 5), (False, 1)])
def test_sigterm_is_passed_on_and_the_drain_is_bounded(tmp_path: Path, drains: bool, code: int) -> None:
    handler = f"lambda *_: sys.exit({code})" if drains else "signal.SIG_IGN"
    body = f"signal.signal(signal.SIGTERM, {handler})\n(place / f'ready-{{slot}}').touch()\ntime.sleep(60)"
    supervisor = supervise(tmp_path, body, drain_timeout_s=30 if drains else 10)

    def interrupt() -> None:
        while len(list(tmp_path.glob("ready-*"))) < 2:
            time.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert supervisor.run() == code
    thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for a signal")
def test_who_kills_the_supervisor_does_not_leave_its_workers_behind(tmp_path: Path) -> None:
    """They would hold slots that the next one gives to others."""
    worker = """
import os, pathlib, sys, time
from adstream.runtime.supervisor import PARENT, end_with
end_with(int(os.environ[PARENT]))
(pathlib.Path(sys.argv[1]) / str(os.getpid())).touch()
time.sleep(60)
"""
    supervisor = """
import sys
from adstream.runtime.supervisor import Program, Supervisor
Supervisor([Program([sys.executable, *sys.argv[1:]], 2)], drain_timeout_s=5).run()
"""
    with subprocess.Popen([sys.executable, "-c", supervisor, "-c", worker, str(tmp_path)]) as process:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        process.kill()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    until = time.monotonic() + 10
    while (left := [pid for pid in workers if alive(pid)]) and time.monotonic() < until:
        time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody may be there to take its exit code
