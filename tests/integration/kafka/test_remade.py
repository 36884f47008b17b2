"""Topics of a real broker that are deleted and made again, under workers and between them."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import NewPartitions

from adstream.interfaces import TopicSpec
from adstream.jobs.ads.traffic import Traffic
from adstream.logs import LogUnavailableError
from adstream.logs.kafka import KafkaLog
from tests.chaos.scene import APP, FINAL, SOURCE, Scene
from tests.logs.conformance import append, make_topic, unique
from tests.servers import Kafka, Postgres, Redis, killable

pytestmark = pytest.mark.servers

SINK = f"{APP}-sql-ad_performance_metrics_realtime-sink"
EXIT_CONFIG = 2
START_S, NOTICED_S = 40.0, 30.0


@pytest.fixture
def scene(kafka: Kafka, postgres: Postgres, redis_server: Redis, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(kafka, postgres, redis_server, directory=tmp_path)
    yield made
    made.stop_all()


def test_a_topic_made_again_has_another_id(one_log: KafkaLog) -> None:
    kept, other, nobody = make_topic(one_log), make_topic(one_log), unique("nobody")
    before = one_log.topic_ids([kept, other, nobody])
    assert before.keys() == {kept, other}
    assert len(set(before.values())) == 2
    one_log.delete_topics([other])
    assert one_log.topic_ids([other]) == {}
    remake(one_log, other)
    append(one_log, kept, range(3))
    after = one_log.topic_ids([kept, other])
    assert after[kept] == before[kept]
    assert after[other] not in before.values()
    assert one_log.partitions([nobody]) == {}, "asking made it"


def remake(log: KafkaLog, topic: str, partitions: int = 1) -> None:
    log.create_topics([TopicSpec(topic, partitions)])


def test_asking_goes_on_behind_an_outage() -> None:
    """Other calls of the admin client, asked while nobody is there, never end or end the process (`KafkaLog._asker`)."""
    with killable() as kafka:
        log = KafkaLog(kafka.bootstrap)
        topic = make_topic(log)
        before = log.topic_ids([topic])
        kafka.kill()
        for _ in range(2):
            with pytest.raises(LogUnavailableError):
                log.topic_ids([topic])
        kafka.start()
        assert log.topic_ids([topic]) == before


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("topic", [SOURCE, SINK])
def test_a_worker_that_slept_through_it_notices(scene: Scene, topic: str) -> None:
    """The new topic is longer than the worker's position in the old one: to a reader nothing is wrong with it. The rows
    before that position were left out, and the run ended with exit code 0."""
    scene.send(Traffic(seed=3, events=3_000, rate=30))
    worker = scene.start(0)
    worker.until("-> running", START_S)
    deadline = time.monotonic() + START_S
    while scene.compare():
        assert time.monotonic() < deadline, worker.tail()
        time.sleep(0.5)
    long = sum(scene.end_offsets(topic, committed=False).values())
    worker.signal(signal.SIGSTOP)
    log = KafkaLog(scene.kafka.bootstrap)
    log.delete_topics([topic])
    remake(log, topic, scene.partitions)
    if topic == SOURCE:
        scene.send(Traffic(seed=4, events=9_000, rate=30))
    else:
        for partition in range(scene.partitions):
            append(log, topic, range(long + 10), partition)
    worker.signal(signal.SIGCONT)
    assert worker.wait(NOTICED_S) == EXIT_CONFIG, worker.tail()
    assert f"topics: since `{APP}` began, `{topic}` was deleted and made again" in worker.text(), worker.tail()
    again = scene.start(0, "--stop-at-end")
    assert again.wait(NOTICED_S) == EXIT_CONFIG, again.tail()
    assert f"`{topic}` was deleted and made again" in again.text(), again.tail()
    log.close()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("topic", [SOURCE, FINAL])
def test_who_waits_for_a_topic_that_is_deleted_ends(scene: Scene, topic: str) -> None:
    """Without the input it waited in good health, without the output it tried to commit for ever; neither said a word."""
    scene.send(Traffic(seed=3, events=3_000, rate=30))
    worker = scene.start(0)
    worker.until("-> running", START_S)
    log = KafkaLog(scene.kafka.bootstrap)
    log.delete_topics([topic])
    log.close()
    if topic != SOURCE:
        scene.send(Traffic(seed=4, events=3_000, rate=30))
    assert worker.wait(2 * NOTICED_S) == EXIT_CONFIG, worker.tail()
    assert f"`{topic}` was deleted" in worker.text(), worker.tail()
    assert "Traceback" not in worker.text(), worker.tail()
    if topic != SOURCE:  # as the hint says
        scene.create_topic(topic, scene.partitions)
        again = scene.start(0, "--stop-at-end")
        assert again.wait(NOTICED_S + START_S) == 0, again.tail()
        assert [wrong for wrong in scene.compare() if not wrong.startswith("final: ")] == []


@pytest.mark.slow
def test_an_input_that_gets_partitions_under_a_running_worker(scene: Scene) -> None:
    """Its records in the new partitions were read by nobody, without a word."""
    worker = scene.start(0)
    worker.until("-> running", START_S)
    wider = NewPartitions(SOURCE, scene.partitions + 2)
    scene.admin.create_partitions([wider])[SOURCE].result()
    assert worker.wait(NOTICED_S) == EXIT_CONFIG, worker.tail()
    assert f"topics: input `{SOURCE}` had 4 partitions and has 6: nobody reads the new ones" in worker.text()
    again = scene.start(0)
    assert again.wait(NOTICED_S) == EXIT_CONFIG, again.tail()
    assert f"input `{SOURCE}` had 4 partitions and has 6" in again.text()


@pytest.mark.slow
def test_without_its_topic_of_leases_a_worker_ends_and_a_start_makes_it_anew(scene: Scene) -> None:
    """The group gave it nothing any more, and it stood still in good health."""
    worker = scene.start(0)
    worker.until("-> running", START_S)
    scene.send(Traffic(seed=3, events=3_000, rate=30))
    log = KafkaLog(scene.kafka.bootstrap)
    log.delete_topics([f"{APP}-tasks"])
    log.close()
    assert worker.wait(NOTICED_S) == EXIT_CONFIG, worker.tail()
    assert f"`{APP}-tasks`, by which workers share tasks, was deleted" in worker.text(), worker.tail()
    again = scene.start(0, "--stop-at-end")
    assert again.wait(NOTICED_S + START_S) == 0, again.tail()
    assert scene.compare() == []
