"""Topics that only a function names, on the embedded log."""

import json
from typing import Any

import pytest

import adstream as ads
from adstream._core import Plan, RawBatch
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import launch
from adstream.runtime.found_topics import ABSENT_MS, FoundTopics
from adstream.runtime.settings import Settings

S = ads.serdes.string


@ads.topology(name="sorted")
def topology(app: ads.App) -> None:
    app.stream("in", key=S, value=S).to(lambda key, value: f"of-{value}", value=S)


class Clock:
    now = 0

    def __call__(self) -> int:
        return self.now


def test_what_is_there_is_found_and_what_is_not_is_asked_for_again_later() -> None:
    log, clock = EmbeddedLog(), Clock()
    asked: list[Any] = []
    log_partitions = log.partitions
    log.partitions = lambda topics: asked.append(topics) or log_partitions(topics)  # type: ignore[method-assign,func-returns-value,assignment]
    log.create_topics([TopicSpec("there", 3)])
    find = FoundTopics(log, clock, None)
    assert find("there") == 3
    assert find("later") is None
    log.create_topics([TopicSpec("later", 2)])
    clock.now += ABSENT_MS - 1
    assert find("later") is None
    clock.now += 1
    assert find("later") == 2
    assert asked == [["there"], ["later"], ["later"]]


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "ä", "x" * 250])
def test_names_that_no_topic_can_have_are_not_made(name: str) -> None:
    log = EmbeddedLog()
    assert FoundTopics(log, Clock(), 4)(name) is None
    assert log.topics() == []


def test_missing_ones_are_made_where_that_is_asked_for() -> None:
    log = EmbeddedLog()
    assert FoundTopics(log, Clock(), 4)("new") == 4
    assert log.partitions(["new"]) == {"new": 4}


@pytest.mark.parametrize("create", [True, False])
def test_a_worker_writes_to_topics_that_only_a_function_names(create: bool) -> None:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("in", 2), TopicSpec("of-cats", 1)])
    batch = RawBatch([(i, i, b"k", value, []) for i, value in enumerate((b"cats", b"dogs", b"cats"))])
    assert log.writer("test").commit([("in", 0, batch)], {}, "g", None) is Outcome.COMMITTED  # type: ignore[arg-type]
    built = topology.build()
    plan = Plan(built.json, built.callables)
    launch.run(plan, Settings(app="sorted", create_topics=create), log, stop_at_end=True)
    found = {topic: log.partitions([topic]).get(topic) for topic in ("of-cats", "of-dogs")}
    assert found == {"of-cats": 1, "of-dogs": 2 if create else None}

    def values(topic: str) -> list[bytes | None]:
        reader, values = log.reader(), []
        for p in range(log.partitions([topic])[topic]):
            reader.add(topic, p, 0)
            while (batch := reader.read(topic, p, 100)) is not None:
                values += [record[3] for record in batch.records()]
        return values

    assert values("of-cats") == [b"cats", b"cats"]
    assert values("of-dogs" if create else "in-dlq") == [b"dogs"]
    assert json.loads(plan.describe())["topics"].count("of-cats") == 0
