"""Where a source begins that has no committed position. Expected: `StreamThread.resetOffsets` of Kafka Streams 4.x."""

import json
from typing import Any

import pytest

import adstream as ads
from adstream.errors import FatalError, TopologyError
from adstream.interfaces import Outcome, TopicPartition, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime.positions import first_positions
from tests.unit.runtime.cluster import Cluster
from tests.unit.runtime.echo_task import APP, EchoPlan, batch

IN: TopicPartition = ("in", 0)
NOW = 1_000


class StartingPlan(EchoPlan):
    def __init__(self, start: str | int) -> None:
        super().__init__()
        self.start = start

    def describe(self) -> str:
        return json.dumps(json.loads(super().describe()) | {"starts": {"in": self.start}})


def log_of(records: int) -> EmbeddedLog:
    """Times are 0, 1, 2 …"""
    log = EmbeddedLog()
    log.create_topics([TopicSpec("in", 1)])
    if records:
        outputs = [("in", 0, batch(*[(b"k", b"v")] * records))]
        assert log.writer("producer").commit(outputs, {}, "producer", None) is Outcome.COMMITTED
    return log


@pytest.mark.parametrize(
    ("starts", "found"),
    [
        ({}, 0),
        ({"in": "earliest"}, 0),
        ({"in": "latest"}, 5),
        ({"in": NOW - 3}, 3),
        ({"in": NOW}, 0),
        ({"in": 0}, 5),  # nothing is that new: the end
        ({"other": "latest"}, 0),
    ],
)
def test_where_it_begins(starts: dict[str, str | int], found: int) -> None:
    assert first_positions(log_of(5), starts, [IN], NOW, {}) == {IN: found}


def test_none_begins_nowhere() -> None:
    with pytest.raises(FatalError, match="no committed position of `in`"):
        first_positions(log_of(5), {"in": "none"}, [IN], NOW, {})


def test_what_was_chosen_stays() -> None:
    """A first commit that failed is done again: what came meanwhile may not be jumped over."""
    chosen: dict[TopicPartition, int] = {}
    assert first_positions(log_of(2), {"in": "latest"}, [IN], NOW, chosen) == {IN: 2}
    assert first_positions(log_of(5), {"in": "latest"}, [IN], NOW, chosen) == {IN: 2}


def test_a_worker_begins_at_the_end_and_goes_on_from_its_commit() -> None:
    cluster = Cluster(StartingPlan("latest"))
    cluster.send(["before"])
    first = cluster.worker(slot=0)
    cluster.turns(30)
    assert cluster.counted() == {}
    every = [f"k{n}" for n in range(12)]
    cluster.send(every)
    cluster.until(lambda: len(cluster.counted()) == len(every))
    cluster.turns(40)
    cluster.leave(first)
    cluster.send(every)  # while nobody runs: there is a position, which counts
    cluster.worker(slot=0)
    cluster.until(lambda: all(numbers == [1, 2] for numbers in cluster.counted().values()))
    assert sorted(cluster.counted()) == sorted(every)


def test_a_worker_that_may_begin_nowhere_sets_its_tasks_aside() -> None:
    cluster = Cluster(StartingPlan("none"))
    worker = cluster.worker()
    cluster.until(lambda: bool(worker.quarantined))
    assert "no committed position of `in`" in worker.quarantined["0_0"]


def plan_of(offset_reset: Any) -> dict[str, Any]:
    @ads.topology(name=APP)
    def build(app: ads.App) -> None:
        app.stream("in", offset_reset=offset_reset).to("out")

    return dict(build.build().plan)


@pytest.mark.parametrize(("given", "planned"), [("latest", "latest"), ("none", "none"), ("1h", 3_600_000)])
def test_sources_say_it(given: str, planned: str | int) -> None:
    assert plan_of(given)["starts"] == {"in": planned}
    assert "starts" not in plan_of(None)


@pytest.mark.parametrize("given", ["-1h", "newest", 5])
def test_what_is_no_start_is_refused(given: Any) -> None:
    with pytest.raises(TopologyError, match="offset_reset"):
        plan_of(given)


def test_one_topic_begins_at_one_place() -> None:
    """`StreamSourceNode.merge`: "Can't configure different offset reset policies on the same input topic(s)"."""

    @ads.topology(name=APP)
    def build(app: ads.App) -> None:
        app.stream("in", offset_reset="latest").to("out")
        app.stream("in", offset_reset="earliest").to("out")

    with pytest.raises(TopologyError, match="is read already"):
        build.build()
