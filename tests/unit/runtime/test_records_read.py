"""A run to its end says how many records it has read: where there are transactions, fewer than offsets."""

import time
from random import Random

import pytest

import adstream as ads
from adstream._core import Plan, RawBatch
from adstream.interfaces import Outcome, TopicSpec
from adstream.runtime import launch
from adstream.runtime.settings import Settings
from adstream.runtime.status import Status
from adstream.testing.simulation.broker import NO_FAULTS, Broker, Faults, SimLog


class Event(ads.Record):
    id: str
    part: str


@ads.topology(name="test")
def job(app: ads.App) -> None:
    events = app.stream("in", Event, key="id").filter(ads.col("part") != "none")
    events.group_by("part").aggregate(n=ads.count()).to_stream().to("out", key="part")


@pytest.mark.parametrize("faults", [NO_FAULTS, Faults(commit_aborted=0.5)], ids=["quiet", "aborts"])
def test_markers_of_transactions_are_no_records(faults: Faults) -> None:
    broker = Broker(launch.clock_ms, Random(1))

    def wait(ms: int) -> None:
        time.sleep(ms / 1000)
        broker.tick()

    log = SimLog(broker, "test", wait)
    log.create_topics([TopicSpec("in", 1)])
    writer = log.writer("producer")
    for i in range(10):
        row = (0, 1_000 + i, b"k", b'{"id":"e%d","part":"%s"}' % (i, b"none" if i < 3 else b"some"), [])
        assert writer.commit([("in", 0, RawBatch([row]))], {}, "g", None) is Outcome.COMMITTED
    assert log.end_offsets([("in", 0)], committed=True) == {("in", 0): 20}
    broker.faults = faults
    built = job.build()
    settings = Settings(create_topics=True, commit_interval_ms=1, batch_rows_max=2, buffer_rows_max=2)

    def run() -> Status:
        return launch.run(Plan(built.json, built.callables), settings, log, stop_at_end=True).status

    first = run()
    assert first.read == 10
    assert (first.commits.get("aborted", 0) > 0) == (faults is not NO_FAULTS), "what is read again counts once"
    assert run().read == 0, "only what this run has read"
