"""A worker that stands still with an open transaction for longer than `transaction.timeout.ms`: the broker ends it.

It wakes with outputs of its own aborted under it, perhaps with its tasks elsewhere. What it says then is refused; it drops what
it had in memory, and everything is done once more, once."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adstream.jobs.ads.traffic import Traffic
from tests.chaos.scene import Scene, WorkerProcess
from tests.servers import Kafka, Postgres, Redis

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(240)]

TIMEOUT_MS = 2_000
CLEANUP_S = 1.0
"""The test broker looks that often for transactions that have timed out."""
START_S, END_S = 40.0, 90.0


@pytest.fixture
def scene(kafka: Kafka, postgres: Postgres, redis_server: Redis, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(kafka, postgres, redis_server, directory=tmp_path)
    yield made
    made.stop_all()


def stand_still(worker: WorkerProcess) -> None:
    """Until its transaction has timed out."""
    deadline = time.monotonic() + START_S
    while not worker.stopped:
        assert worker.running, worker.tail()
        assert time.monotonic() < deadline, worker.tail()
        time.sleep(0.05)
    time.sleep(TIMEOUT_MS / 1000 + 3 * CLEANUP_S)


@pytest.mark.parametrize(
    ("step", "session_ms"), [("offsets", "30000"), ("commit", "30000"), ("commit", "2000"), ("committed", "2000")]
)
def test_the_worker_that_wakes_does_it_again_once(scene: Scene, step: str, session_ms: str) -> None:
    """With the long session it is a member all the time: nothing but the producer's epoch fences it."""
    scene.send(Traffic(seed=11, events=6_000, rate=30))
    options = ("--transaction-timeout-ms", str(TIMEOUT_MS), "--session-ms", session_ms)
    worker = scene.start(0, *options, environ={"ADSTREAM_TEST_PAUSE": f"{step}:3"})
    stand_still(worker)
    scene.send(Traffic(seed=12, events=3_000, rate=30))
    worker.signal(signal.SIGCONT)
    deadline = time.monotonic() + END_S
    while wrong := scene.compare():
        assert worker.running, worker.tail()
        assert time.monotonic() < deadline, f"{wrong}\n{worker.tail()}"
        time.sleep(0.5)
    assert "Traceback" not in worker.text(), worker.tail()
    # What was not delivered when it fell still has timed out as well: that the client aborts by itself.
    outcomes = {"offsets": ("commit fatal", "commit aborted"), "commit": ("commit fatal",), "committed": ("",)}[step]
    assert any(outcome in worker.text() for outcome in outcomes), worker.tail()
    worker.signal(signal.SIGTERM)
    assert worker.wait(40) == 0, worker.tail()
    assert scene.compare() == []


def test_others_go_on_meanwhile(scene: Scene) -> None:
    """A second worker gets the tasks, and need not wait for the first to wake."""
    scene.send(Traffic(seed=13, events=6_000, rate=30))
    options = ("--transaction-timeout-ms", str(TIMEOUT_MS))
    first = scene.start(0, *options, environ={"ADSTREAM_TEST_PAUSE": "commit:3"})
    stand_still(first)
    second = scene.start(1, *options)
    deadline = time.monotonic() + END_S
    while wrong := scene.compare():
        assert second.running, second.tail()
        assert time.monotonic() < deadline, f"{wrong}\n{second.tail()}"
        time.sleep(0.5)
    first.signal(signal.SIGCONT)
    scene.send(Traffic(seed=14, events=3_000, rate=30))
    while wrong := scene.compare():
        assert first.running, first.tail()
        assert time.monotonic() < deadline + END_S, f"{wrong}\n{first.tail()}"
        time.sleep(0.5)
    for worker in (first, second):
        worker.signal(signal.SIGTERM)
        assert worker.wait(40) == 0, worker.tail()
    assert scene.compare() == []
