"""`ads.performance` on a real Kafka, Postgres and Redis, against the truth; no faults here, those are in `tests/chaos`."""

import os
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from adstream.jobs.ads.traffic import Sent, Traffic, records
from tests.chaos.scene import APP, DEAD, FINAL, LATE, SOURCE, Scene
from tests.servers import Kafka, Postgres, Redis

pytestmark = pytest.mark.servers

PARTITIONS = 4
EVENTS = 60_000
CATCHING_UP = int(os.environ.get("ADSTREAM_TEST_CATCHING_UP", "250000"))
INTERNAL = {
    f"{APP}-topology": 1,
    f"{APP}-tasks": 3 * PARTITIONS + 2 * PARTITIONS,  # three sub-topologies, two sinks
    f"{APP}-gross-repartition": PARTITIONS,
    f"{APP}-products-repartition": PARTITIONS,
    f"{APP}-sql-ad_performance_metrics_realtime-sink": PARTITIONS,
    f"{APP}-redis-hash-product-metrics-sink": PARTITIONS,
    f"{APP}-0-changelog": PARTITIONS,
    f"{APP}-1-changelog": PARTITIONS,
    f"{APP}-2-changelog": PARTITIONS,
}


@pytest.fixture
def scene(kafka: Kafka, postgres: Postgres, redis_server: Redis, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(kafka, postgres, redis_server, partitions=PARTITIONS, directory=tmp_path)
    yield made
    made.stop_all()


def run_to_the_end(scene: Scene, workers: int, timeout_s: float = 100) -> None:
    started = [scene.start(slot, "--stop-at-end") for slot in range(workers)]
    for worker in started:
        assert worker.wait(timeout_s) == 0, worker.tail()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("workers", [1, 2])
def test_everything_equals_the_truth(scene: Scene, workers: int):
    scene.send(Traffic(seed=workers, events=EVENTS, rate=30))
    run_to_the_end(scene, workers)

    truth = scene.truth()
    total = truth.total
    assert total.read == EVENTS
    assert min(total.dead, total.repeated, total.filtered, total.late, len(truth.final)) > 0, (
        "nothing was put to the test"
    )
    assert scene.compare(truth) == []

    assert scene.topics() == {SOURCE: PARTITIONS, FINAL: PARTITIONS, LATE: PARTITIONS, DEAD: PARTITIONS} | INTERNAL
    committed, ends = scene.committed(), scene.end_offsets(SOURCE, committed=True)
    assert {p: committed[SOURCE, p] for p in range(PARTITIONS)} == ends

    # Once more, by the command line: there is nothing to do, and nothing is done.
    outputs = (FINAL, LATE, DEAD, f"{APP}-0-changelog", f"{APP}-1-changelog", f"{APP}-2-changelog")
    before = {topic: scene.end_offsets(topic, committed=True) for topic in outputs}
    again = scene.start_cli("--stop-at-end")
    assert again.wait(100) == 0, again.tail()
    assert {topic: scene.end_offsets(topic, committed=True) for topic in outputs} == before
    assert scene.compare(truth) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [1, 3])
def test_catching_up_behind_a_shuffle_drops_nothing(scene: Scene, workers: int, capsys: pytest.CaptureFixture[str]):
    """No event is more than 5 s out of order in its partition and the grace is 10 s, so none is late. The partitions are
    full when the workers begin, and are read at speeds of their own. Kafka Streams drops 31 % of them then: behind
    a shuffle it knows one clock only, which the fastest partition drives."""
    traffic = Traffic(
        seed=workers,
        events=CATCHING_UP,
        rate=max(1, CATCHING_UP // 3_600),  # an hour, 12 windows
        partitions=PARTITIONS,
        share_disorder=0.05,
        disorder_ms=5_000,
        share_copies=0,
        share_late=0,
        share_bad=0,
        share_no_campaign=0,
        share_no_device=0,
    )
    scene.send_records((sent for sent in records(traffic) if behind_ms(sent) <= 5_000), CATCHING_UP)
    began = time.monotonic()
    run_to_the_end(scene, workers, 800)
    took = time.monotonic() - began
    with capsys.disabled():
        print(
            f"\n{CATCHING_UP} events, {workers} workers: {took:.1f} s, {CATCHING_UP / took:,.0f} a second, start included"
        )

    events = sum(scene.end_offsets(SOURCE, committed=True).values())
    assert events > CATCHING_UP * 0.99
    assert len(scene.read(LATE)) == 0
    assert sum(sum(row[:3]) for row in scene.table().values()) == events
    assert scene.compare() == []


def behind_ms(sent: Sent) -> int:
    """How much older an event is than the moment it was sent. The traffic visits the windows' edges, and with each also
    the moment just after the closing: those are late by intent."""
    found = re.search(rb'"timestamp":"([^"]+)"', sent.value)
    assert found is not None
    return sent.timestamp_ms - round(datetime.fromisoformat(found[1].decode()).timestamp() * 1_000)
