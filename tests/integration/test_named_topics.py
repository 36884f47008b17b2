"""Topics that only a function names, on a real Kafka: what is missing is made as the worker meets it, or is a dead letter."""

from __future__ import annotations

import uuid

import pytest

import adstream as ads
from adstream._core import Plan, RawBatch
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.kafka import KafkaLog
from adstream.runtime import launch
from adstream.runtime.settings import Settings
from tests.logs.conformance import read_all, unique
from tests.servers import Kafka

pytestmark = pytest.mark.servers

S = ads.serdes.string


@pytest.mark.parametrize("create", [True, False])
def test_what_only_a_function_names_is_written(kafka: Kafka, create: bool) -> None:
    app, source, mark = unique("sorted"), unique("animals"), uuid.uuid4().hex[:6]

    @ads.topology(name=app)
    def topology(to: ads.App) -> None:
        to.stream(source, key=S, value=S).to(lambda key, value: f"{mark}-{value}", key=S, value=S)

    log = KafkaLog(kafka.bootstrap)
    try:
        log.create_topics([TopicSpec(source, 2), TopicSpec(f"{mark}-cats", 1)])
        writer = log.writer("test")
        records = [(i, 1_000 + i, b"k", value, []) for i, value in enumerate((b"cats", b"dogs", b"cats"))]
        assert writer.commit([(source, 0, RawBatch(records))], {}, "g", None) is Outcome.COMMITTED  # type: ignore[arg-type]
        writer.close()
        built = topology.build()
        settings = Settings(app=app, create_topics=create)
        launch.run(Plan(built.json, built.callables), settings, log, stop_at_end=True)

        def values(topic: str) -> list[bytes | None]:
            count = log.partitions([topic])[topic]
            return [record[3] for p in range(count) for record in read_all(log, topic, p)]

        assert values(f"{mark}-cats") == [b"cats", b"cats"]
        assert values(f"{mark}-dogs" if create else f"{source}-dlq") == [b"dogs"]
        assert (f"{mark}-dogs" in log.topics()) is create
    finally:
        log.close()
