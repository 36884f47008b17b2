"""Sources that read all topics that a pattern matches, those that appear later included."""

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

import adstream as ads
from adstream._core import RawBatch
from adstream.errors import ConfigError
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import launch
from adstream.runtime.settings import Settings
from adstream.runtime.worker import Worker
from adstream.testing import TopologyTestDriver
from tests.unit.dsl.support import refused

S, N = ads.serdes.string, ads.serdes.int64


@ads.topology(name="app")
def counting(app: ads.App) -> None:
    orders = app.stream(re.compile(r"orders-[a-z]+"), key=S, value=S)
    orders.group_by_key().count("counts").to_stream().to("counted", key=S, value=N)


def told(driver: TopologyTestDriver) -> list[tuple[Any, Any]]:
    return [(record.key, record.value) for record in driver.output("counted").read()]


def test_topics_are_there_as_soon_as_they_are_asked_for_and_state_stays() -> None:
    with TopologyTestDriver(counting, partitions=1, commit_every=1) as driver:
        assert driver.output("counted").read() == []
        driver.input("orders-eu").pipe("x", key="a", at=1)
        assert told(driver) == [("a", 1)]
        driver.input("orders-us").pipe("x", key="a", at=2)
        driver.input("orders-eu").pipe("y", key="a", at=3)
        assert told(driver) == [("a", 2), ("a", 3)]
        assert driver.store("counts").get("a").value == 3
        with pytest.raises(KeyError, match="does not read `orders-1`"):
            driver.input("orders-1")  # the whole name
        driver.restart()
        driver.input("orders-eu").pipe("y", key="b", at=4)
        assert told(driver) == [("b", 1)]


def test_all_that_is_named_at_the_start_is_read() -> None:
    counts = {"orders-eu": 2, "orders-us": 2, "others": 7}
    with TopologyTestDriver(counting, partitions=counts, commit_every=1) as driver:
        for topic in ("orders-eu", "orders-us"):
            for partition in (0, 1):
                driver.input(topic).pipe("x", key=f"k{partition}", partition=partition)
        assert sorted(told(driver)) == [("k0", 1), ("k0", 2), ("k1", 1), ("k1", 2)]


def test_what_meets_in_a_state_is_cut_alike() -> None:
    with pytest.raises(ConfigError, match=r"partition counts must be equal.*`orders-eu` has 2, `orders-us` has 3"):
        TopologyTestDriver(counting, partitions={"orders-eu": 2, "orders-us": 3})


def test_its_own_topics_and_dead_letters_are_not_read() -> None:
    @ads.topology(name="app")
    def everything(app: ads.App) -> None:
        app.stream(re.compile(".*"), key=S, value=S).to("out")

    names = ["a", "a-dlq", "a-dlq-dlq", "b-dlq", "__consumer_offsets", "app-tasks", "app-topology", "app-0-changelog"]
    assert everything.build().matching(names).inputs == ["a", "b-dlq"]
    assert everything.build().matching(["app-orders"]).inputs == ["app-orders"]


def test_where_they_begin_is_said_of_each() -> None:
    @ads.topology(name="app")
    def late(app: ads.App) -> None:
        app.stream(re.compile("in-.*"), key=S, value=S, offset_reset="latest").to("out")

    assert late.build().matching(["in-a", "in-b", "x"]).plan["starts"] == {"in-a": "latest", "in-b": "latest"}


def test_the_same_pattern_again_is_the_same_source() -> None:
    app = ads.App("app")
    one, two = (app.stream(re.compile("in-.*"), key=S) for _ in range(2))
    assert one._flowing.port == two._flowing.port
    with refused("duplicate_source", "`in-.*` is read already", "it forks", "stream"):
        app.stream(re.compile("in-.*"), key=N)


class Row(ads.Record):
    x: int


@pytest.mark.parametrize(
    ("code", "build"),
    [
        ("duplicate_source", lambda app: (app.stream("in-a"), app.stream(re.compile("in-.*")))),
        ("duplicate_source", lambda app: (app.stream(re.compile("in-.*")), app.table("in-a"))),
        ("duplicate_source", lambda app: (app.stream(re.compile("in-.*")), app.add_source("s", re.compile("in-.*")))),
        ("bad_argument", lambda app: app.stream(re.compile(b"in-.*"))),
        ("bad_argument", lambda app: app.stream(re.compile("in-.*"), Row)),
        ("bad_argument", lambda app: app.add_source("s", "a", re.compile("in-.*"))),
    ],
)
def test_misuse(code: str, build: Callable[[ads.App], object]) -> None:
    with refused(code):
        build(ads.App("app"))


def test_two_patterns_for_one_topic() -> None:
    @ads.topology(name="app")
    def overlapping(app: ads.App) -> None:
        app.stream(re.compile("in-.*"), key=S).merge(app.stream(re.compile(".*-a"), key=S)).to("out")

    assert overlapping.build().matching(["in-b", "out-a"]).inputs == ["in-b", "out-a"]
    with pytest.raises(ads.TopologyError, match="`in-a` is matched by two patterns"):
        overlapping.build().matching(["in-a"])


def test_a_source_of_the_processor_api() -> None:
    class Same(ads.Processor[Any]):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            ctx.forward(record)

    @ads.topology(name="app")
    def low(app: ads.App) -> None:
        app.add_source("read", re.compile("in-.*"), key=S, value=S)
        app.add_processor("same", Same, "read")
        app.add_sink("write", "counted", "same", key=S, value=S)

    with TopologyTestDriver(low, partitions=1, commit_every=1) as driver:
        driver.input("in-a").pipe("x", key="k")
        driver.input("in-b").pipe("y", key="k")
        assert told(driver) == [("k", "x"), ("k", "y")]


# --- A worker -----------------------------------------------------------------------------------------------------------


def written(log: EmbeddedLog, topic: str, *values: bytes) -> None:
    writer = log.writer("writer")
    batch = RawBatch([(i, 1, b"k", value, []) for i, value in enumerate(values)])
    assert writer.commit([(topic, 0, batch)], {}, "writer", None) is Outcome.COMMITTED
    writer.close()


def outputs(log: EmbeddedLog) -> list[int]:
    reader, found = log.reader(), []
    reader.add("counted", 0, 0)
    while (batch := reader.read("counted", 0, 100)) is not None:
        found += [int.from_bytes(value or b"") for _, _, _, value, _ in batch.records()]
        if batch.next_offset >= log.end_offsets([("counted", 0)], committed=True)[("counted", 0)]:
            break
    reader.close()
    return found


def test_a_worker_goes_on_with_topics_that_appear_later() -> None:
    log = EmbeddedLog()
    with pytest.raises(ConfigError, match=re.escape("no topic matches `orders-[a-z]+` yet")):
        launch.run_built(counting.build(), Settings(), log)
    log.create_topics([TopicSpec("orders-eu", 1), TopicSpec("counted", 1)])
    written(log, "orders-eu", b"x", b"y")
    read: list[set[str]] = []

    def started(worker: Worker) -> None:
        read.append({topic for task in worker._assignment.tasks for topic, _ in task.inputs})

    def look(_: float) -> bool:
        """Between two looks: what the test does."""
        if len(read) == 1 and "orders-us" not in log.topics() and len(outputs(log)) == 2:
            log.create_topics([TopicSpec("orders-us", 1)])
            written(log, "orders-us", b"z")
        if len(read) == 2 and len(outputs(log)) == 3:
            workers[-1].stop()
            return True
        pause.wait(0.01)
        return False

    pause = threading.Event()
    workers: list[Worker] = []

    def begin(worker: Worker) -> None:
        workers.append(worker)
        started(worker)

    launch.run_built(counting.build(), Settings(cache=False), log, on_start=begin, look=look)
    assert read == [{"orders-eu"}, {"orders-eu", "orders-us"}]
    assert outputs(log) == [1, 2, 3]
    assert len(workers) == 2


def test_what_was_read_before_is_not_lost_sight_of() -> None:
    """Who starts with an older list of topics goes on with what the application has written down."""
    log = EmbeddedLog()
    log.create_topics([TopicSpec(name, 1) for name in ("orders-eu", "orders-us", "counted")])
    launch.run_built(counting.build(), Settings(), log, stop_at_end=True)
    log.topics = lambda: ["orders-eu"]  # type: ignore[method-assign]
    worker = launch.run_built(counting.build(), Settings(), log, stop_at_end=True)
    assert {topic for task in worker._assignment.tasks for topic, _ in task.inputs} == {"orders-eu", "orders-us"}
