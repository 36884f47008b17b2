"""A silent partition, on real logs and with real time: held open and said so; with `idle`, closed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import CollectorRegistry

import adstream as ads
from adstream._core import Plan, RawBatch
from adstream.interfaces import Log, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.logs.kafka import KafkaLog
from adstream.runtime.assignment import prepare
from adstream.runtime.metrics import WorkerCollector
from adstream.runtime.ports import Hooks
from adstream.runtime.settings import Settings
from adstream.runtime.worker import Worker
from tests.servers import Kafka

NOON = datetime(2024, 1, 15, 12, tzinfo=UTC)
WAIT_S = 40.0


class Event(ads.Record):
    at: datetime
    shop: str


def topology(app_id: str, topic: str, idle: str | None) -> ads.Built:
    @ads.topology(name=app_id)
    def shops(app: ads.App) -> None:
        grouped = app.stream(topic, Event, timestamp="at", idle=idle).group_by("shop")
        grouped.windowed_by(ads.tumbling("1m", grace="0s")).count().named("table").final().to(f"{app_id}-closed")

    return shops.build()


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.servers)])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    if request.param == "embedded":
        yield EmbeddedLog()
        return
    kafka: Kafka = request.getfixturevalue("kafka")
    made = KafkaLog(kafka.bootstrap, session_ms=6000)
    yield made
    made.close()


class Running:
    """One worker, stepped by the test; its clock can be put forward."""

    def __init__(self, log: Log, built: ads.Built, step: Callable[[str], None] = lambda name: None) -> None:
        plan = Plan(built.json, built.callables)
        assignment = prepare(log, plan, create_topics=True)
        settings = Settings(app=built.app, commit_interval_ms=50)
        self.ahead_ms = 0
        self.worker = Worker(plan, assignment, settings, log, self.now, {}, Hooks(step=step))

    def now(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end, "it never came to that"
            if not self.worker.step():
                time.sleep(0.01)

    def steps(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end)


def event(second: int) -> Any:
    at = (NOON + timedelta(seconds=second)).isoformat()
    return RawBatch([(0, 1_705_320_000_000, None, f'{{"at":"{at}","shop":"oak"}}'.encode(), [])])


@pytest.mark.parametrize("idle", ["30s", None])
def test_an_empty_partition(log: Log, idle: str | None, caplog: pytest.LogCaptureFixture) -> None:
    name = f"idle-{uuid4().hex[:8]}"
    log.create_topics([TopicSpec(name, 2)])
    producer = log.writer(f"{name}-producer")
    built = topology(f"{name}-app", name, idle)
    running = Running(log, built)
    outputs = [(name, 0, event(1)), (name, 0, event(61))]
    for output in outputs:
        producer.commit([output], {}, f"{name}-producer", None)

    def closed() -> int:
        ends = log.end_offsets([(f"{name}-app-closed", p) for p in range(2)], committed=True)
        return sum(ends.values())

    running.until(lambda: bool(running.worker.status.held))
    with caplog.at_level(logging.WARNING, "adstream"):
        running.ahead_ms += 20_000
        running.steps(1.5)
        assert closed() == 0
        running.ahead_ms += 71_000
        running.steps(1.5)
    (registry := CollectorRegistry(auto_describe=False)).register(
        WorkerCollector(built.app, lambda: running.worker.status)
    )
    metrics = generate_latest(registry).decode()
    said = f"1 windows of `table` are held open by {name}-1"
    if idle is None:
        assert closed() == 0
        (held,) = running.worker.status.held
        assert (held.node, held.topic, held.partition, held.windows) == ("table", name, 1, 1)
        assert held.seconds >= 89
        assert f'adstream_held_seconds{{app="{built.app}",node="table",partition="1"' in metrics
        assert sum(said in record.getMessage() for record in caplog.records) == 1
    else:
        running.until(lambda: closed() > 0)
        assert running.worker.status.held == ()
        assert "adstream_held_seconds{" not in metrics
    running.worker.drain(10_000)
    producer.close()


def test_silence_outlives_the_worker(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path)
    log.create_topics([TopicSpec("events", 2)])
    producer = log.writer("producer")
    built = topology("silence", "events", "30s")
    for second in (1, 61):
        producer.commit([("events", 0, event(second))], {}, "producer", None)
    first = Running(log, built)
    first.until(lambda: bool(first.worker.status.held))
    first.worker.drain(10_000)
    second_life = Running(log, built)
    second_life.ahead_ms = 30_000
    places = [("silence-closed", p) for p in range(2)]
    second_life.until(lambda: sum(log.end_offsets(places, committed=True).values()) > 0)
    assert second_life.now() - int(time.time() * 1000) < 31_000
    second_life.worker.drain(10_000)
