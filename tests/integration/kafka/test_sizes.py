"""Topics that take only small messages, on a real broker."""

from __future__ import annotations

import hashlib
import json
import random
from typing import TYPE_CHECKING

import pytest

import adstream as ads
from adstream._core import Plan, RawBatch
from adstream.errors import FatalError
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.kafka import KafkaLog
from adstream.runtime import launch
from adstream.runtime.dead_letters import list_dead
from adstream.runtime.settings import Settings
from tests.logs.conformance import KEPT, read_all, unique

if TYPE_CHECKING:
    from adstream._core import Record

pytestmark = pytest.mark.servers

SMALL = {**KEPT, "max.message.bytes": "2000"}


class Note(ads.Record):
    id: int
    text: str


@ads.topology
def notes(app: ads.App, source: str, target: str) -> None:
    app.stream(source, Note).require(negative=ads.col("id") >= 0).to(target)


def run(log: KafkaLog, source: str, target: str) -> None:
    built = notes.build(source=source, target=target)
    plan = {**built.plan, "app": source + "-app"}
    settings = Settings(app=source + "-app", bootstrap="kafka")
    launch.run(Plan(json.dumps(plan), built.callables), settings, log, stop_at_end=True)


def send(log: KafkaLog, topic: str, notes: list[tuple[int, str]]) -> None:
    rows: list[Record] = [
        (i, 1_000 + i, b"k", json.dumps({"id": n, "text": text}).encode(), []) for i, (n, text) in enumerate(notes)
    ]
    writer = log.writer(unique("test"))
    assert writer.commit([(topic, 0, RawBatch(rows))], {}, "g", None) is Outcome.COMMITTED
    writer.close()


@pytest.fixture
def topics(one_log: KafkaLog) -> tuple[str, str]:
    source, target = unique("notes"), unique("target")
    one_log.create_topics(
        [TopicSpec(source, 1, KEPT), TopicSpec(f"{source}-dlq", 1, SMALL), TopicSpec(target, 1, SMALL)]
    )
    return source, target


def test_a_dead_letter_that_is_too_large_keeps_its_coordinates(one_log: KafkaLog, topics: tuple[str, str]) -> None:
    source, target = topics
    large = "x" * 50_000
    send(one_log, source, [(1, "good"), (-2, large), (-3, "small"), (4, "good")])
    run(one_log, source, target)
    assert [row[3] for row in read_all(one_log, target)] == [b'{"id":1,"text":"good"}', b'{"id":4,"text":"good"}']
    cut, whole = list_dead(one_log, source)
    payload = json.dumps({"id": -2, "text": large}).encode()
    assert (cut.value, cut.reason, cut.envelope["offset"]) == (None, "negative", "1")
    assert cut.envelope["value_size"] == str(len(payload))
    assert cut.envelope["sha256"] == hashlib.sha256(payload).hexdigest()
    assert whole.value == b'{"id": -3, "text": "small"}'
    original = read_all(one_log, cut.envelope["topic"], int(cut.envelope["partition"]), int(cut.envelope["offset"]))
    assert original[0][3] == payload, "who needs it finds it where the letter says"


def test_many_small_records_fit_a_topic_of_small_messages(one_log: KafkaLog, topics: tuple[str, str]) -> None:
    """The limit is one of batches: a client that fills them up to its own limit is refused for good."""
    source, target = topics
    texts = [hashlib.sha256(b"%d" % n).hexdigest() * 2 for n in range(2_000)]  # does not compress away
    send(one_log, source, [(n if n % 2 else -n - 1, text) for n, text in enumerate(texts)])
    run(one_log, source, target)
    assert len(read_all(one_log, target)) == 1_000
    assert len(list_dead(one_log, source, 2_000)) == 1_000


def test_an_output_that_is_too_large_stops_its_task(one_log: KafkaLog, topics: tuple[str, str]) -> None:
    """An output is a promise: nothing is left out of it. The limit can be raised."""
    source, target = topics
    send(one_log, source, [(1, "good"), (2, random.Random(0).randbytes(4_000).hex())])
    with pytest.raises(FatalError, match=target):
        run(one_log, source, target)
    assert read_all(one_log, target) == []
