"""How `ads.performance` starts, stops, and waits out what is away, on real servers."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adstream.jobs.ads.traffic import Traffic
from tests.chaos.scene import APP, Scene
from tests.servers import Kafka, Postgres, Redis, killable

pytestmark = pytest.mark.servers

EXIT_CONFIG = 2
NOBODY = "127.0.0.1:1"
START_S = 40.0
AWAY_S = 15.0


@pytest.fixture
def scene(kafka: Kafka, postgres: Postgres, redis_server: Redis, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(kafka, postgres, redis_server, directory=tmp_path)
    yield made
    made.stop_all()


def test_sigterm_drains_and_leaves_within_a_bound(scene: Scene):
    """What was processed is committed and delivered; the next worker goes on from there, at once."""
    scene.send(Traffic(seed=3, events=20_000, rate=30))
    worker = scene.start(0, "--drain-timeout", "20s")
    worker.until("task 2_3: running", START_S)
    time.sleep(1)
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait(25) == 0, worker.tail()
    assert time.monotonic() - began < 21
    assert "drain timed out" not in worker.text()
    assert sum(scene.committed().values()) > 0

    after = scene.start(0, "--stop-at-end")
    assert after.wait(60) == 0, after.tail()
    assert scene.compare() == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_broker_that_is_away_is_waited_for(postgres: Postgres, redis_server: Redis, tmp_path: Path):
    """Longer than a session and a transaction last. The same process goes on when it is back."""
    with killable() as kafka:
        scene = Scene(kafka, postgres, redis_server, directory=tmp_path)
        try:
            scene.send(Traffic(seed=4, events=10_000, rate=30))
            worker = scene.start(0, "--transaction-timeout-ms", "5000")
            worker.until("task 2_3: running", START_S)
            kafka.kill()
            time.sleep(AWAY_S)
            assert worker.running, worker.tail()
            kafka.start()
            scene.send(Traffic(seed=5, events=10_000, rate=30))
            deadline = time.monotonic() + 100
            while scene.compare():
                assert worker.running, worker.tail()
                assert time.monotonic() < deadline, worker.tail()
                time.sleep(1)
            worker.signal(signal.SIGTERM)
            assert worker.wait(40) == 0, worker.tail()
        finally:
            scene.stop_all()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--bootstrap", NOBODY), "--bootstrap"),
        (("--sql", f"postgresql://postgres@{NOBODY}/none"), "--sql"),
        (("--redis", f"redis://{NOBODY}/0"), "--redis"),
        (("--sql", "postgresql://"), "--sql"),
        (("--sql", "no url"), "--sql"),
        (("--redis", "no url"), "--redis"),
    ],
)
def test_what_cannot_be_reached_is_named(scene: Scene, arguments: tuple[str, str], named: str):
    worker = scene.start(0, *arguments)
    assert worker.wait(50) == EXIT_CONFIG, worker.tail()
    last = [line for line in worker.text().splitlines() if line.startswith("--")]
    assert last, worker.tail()
    assert last[-1].startswith(f"{named}: "), last
    assert "Traceback" not in worker.text()


@pytest.mark.parametrize("topic", [f"{APP}-gross-repartition", f"{APP}-1-changelog", f"{APP}-tasks"])
def test_an_internal_topic_of_the_wrong_width_is_refused(scene: Scene, topic: str):
    scene.create_topic(topic, 3)
    worker = scene.start(0)
    assert worker.wait(30) == EXIT_CONFIG, worker.tail()
    assert f"`{topic}` has 3 partitions" in worker.text()
    assert worker.text().startswith("topics: "), worker.tail()
    assert "hint: " in worker.text()
    assert set(scene.topics()) == {"ad-events", "ad-performance", "ad-performance-late", topic}, "others were made"


def test_a_missing_source_is_refused_and_not_made(scene: Scene):
    scene.admin.delete_topics(["ad-events"])["ad-events"].result()
    worker = scene.start(0)
    assert worker.wait(30) == EXIT_CONFIG, worker.tail()
    assert "there is no topic `ad-events`" in worker.text()
    assert "ad-events" not in scene.topics()
