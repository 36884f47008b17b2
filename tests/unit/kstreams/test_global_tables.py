"""Global tables: what joins with them find, and how a worker reads them."""

from collections.abc import Callable
from typing import Any

import pytest

import adstream as ads
from adstream._core import Plan, RawBatch
from adstream.errors import ConfigError, FatalError
from adstream.interfaces import Outcome, TopicPartition, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime.assignment import prepare
from adstream.runtime.beside import InlineBeside
from adstream.runtime.globals import GlobalTables
from adstream.runtime.lifecycle import WorkerState
from adstream.runtime.metrics import WorkerCollector
from adstream.runtime.ports import Hooks
from adstream.runtime.settings import Settings
from adstream.runtime.task import State
from adstream.runtime.worker import Worker
from adstream.testing import TopologyTestDriver

S = ads.serdes.string


def shops(how: str = "join") -> ads.Topology:
    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        names = app.global_table("names", "names-by-id", key=S, value=S)
        orders = app.stream("orders", key=S, value=S)
        join = getattr(orders, how)
        join(names, lambda key, order: order[:1] or None, lambda key, order, name: f"{key}/{order}/{name}").to(
            "out", value=S
        )

    return topology


def read(driver: TopologyTestDriver) -> list[tuple[Any, ...]]:
    return [(r.key, r.value, r.timestamp) for r in driver.output("out").read()]


def driver_of(how: str = "join", **options: Any) -> TopologyTestDriver:
    return TopologyTestDriver(shops(how), **({"partitions": 1, "commit_every": 1} | options))


def test_a_record_sees_what_has_arrived() -> None:
    """Whatever its time is; and changes of the table cause nothing."""
    with driver_of() as driver:
        names, orders = driver.input("names"), driver.input("orders")
        orders.pipe("a1", key="x", at=10)
        names.pipe("Anna", key="a", at=9_000)
        orders.pipe("a2", key="x", at=11)
        names.pipe("Arne", key="a", at=5)
        orders.pipe("a3", key="x", at=12)
        names.pipe(None, key="a", at=6)
        orders.pipe("a4", key="x", at=13)
        assert read(driver) == [("x", "x/a2/Anna", 11), ("x", "x/a3/Arne", 12)]


def test_a_left_join_misses_nothing_but_values() -> None:
    with driver_of("left_join") as driver:
        orders = driver.input("orders")
        for key, value in (("x", "a1"), (None, "a2"), ("x", ""), ("x", None)):
            if value is not None:
                orders.pipe(value, key=key, at=1)
        assert [value for _, value, _ in read(driver)] == ["x/a1/None", "None/a2/None", "x//None"]


def test_what_has_no_key_to_look_up_is_dropped() -> None:
    with driver_of() as driver:
        driver.input("names").pipe("Anna", key="a", at=1)
        driver.input("orders").pipe("", key="x", at=1)
        driver.input("orders").pipe("a", key=None, at=1)
        assert read(driver) == [(None, "None/a/Anna", 1)]
        [reasons] = [r for r in driver.counters().values() if "dropped:null_key" in r]
        assert reasons["dropped:null_key"] == 1


def test_every_partition_finds_every_row() -> None:
    with driver_of(partitions=3, commit_every=None) as driver:
        for letter in "abcdefgh":
            driver.input("names").pipe(letter.upper(), key=letter, at=1)
        for n, letter in enumerate("abcdefgh" * 3):
            driver.input("orders").pipe(letter, key=str(n), at=n)
        found = read(driver)
        assert len(found) == 24
        assert all(value.endswith(f"/{value.split('/')[1].upper()}") for _, value, _ in found)


def test_what_cannot_be_read_is_counted_and_passed_over() -> None:
    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        table = app.global_table("g", "table", key=S, value=ads.serdes.int64)
        app.stream("in", key=S, value=S).join(table, lambda k, v: k, lambda v, n: v + str(n)).to("out", value=S)

    with TopologyTestDriver(topology, partitions=1) as driver:
        driver.input("g").pipe_raw(b"k", b"short", at=1)
        driver.input("g").pipe_raw(None, bytes(8), at=1)
        driver.input("g").pipe(7, key="k", at=1)
        driver.input("in").pipe("v", key="k", at=1)
        assert [r.value for r in driver.output("out").read()] == ["v7"]
        assert driver.counters()["table"] == {"read": 3, "dropped:malformed_value": 1, "dropped:null_key": 1}


def test_the_application_may_write_the_topic_itself() -> None:
    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        table = app.global_table("seen", key=S, value=S)
        stream = app.stream("in", key=S, value=S)
        stream.left_join(table, lambda k, v: k, lambda v, before: f"{before} {v}").to("out", value=S)
        stream.to("seen")

    with TopologyTestDriver(topology, partitions=1, commit_every=1) as driver:
        for value in "abc":
            driver.input("in").pipe(value, key="k", at=1)
        assert [r.value for r in driver.output("out").read()] == ["None a", "a b", "b c"]
        driver.restart()
        driver.input("in").pipe("d", key="k", at=1)
        assert [r.value for r in driver.output("out").read()] == ["c d"]


def test_it_can_be_asked() -> None:
    with driver_of(partitions=2, commit_every=None) as driver:
        for key, value in (("b", "Bert"), ("a", "Anna"), ("c", "Cid"), ("b", None)):
            driver.input("names").pipe(value, key=key, at=5)
        names = driver.store("names-by-id")
        assert names.get("a") == ("Anna", 5)
        assert names.get("b") is None
        assert list(names.all()) == [("a", ("Anna", 5)), ("c", ("Cid", 5))]
        assert list(names.range("b", "z")) == [("c", ("Cid", 5))]
        assert names.approximate_num_entries() == 2
        with pytest.raises(KeyError, match="names-by-id"):
            driver.store("nothing")


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (lambda app: (app.stream("t"), app.global_table("t")), "duplicate_source"),
        (lambda app: (app.global_table("t", "s"), app.global_table("u", "s")), "duplicate_name"),
        (lambda app: app.global_table("t", ads.Materialized(history="1h")), "bad_argument"),
        (lambda app: app.global_table(""), "bad_argument"),
        (lambda app: app.stream("s").outer_join(app.global_table("t"), lambda k, v: k, lambda v, o: v), "bad_argument"),
    ],
)
def test_what_is_refused(build: Callable[[ads.App], object], code: str) -> None:
    def topology(app: ads.App) -> None:
        build(app)

    with pytest.raises(ads.TopologyError) as caught:
        ads.topology(name="app")(topology).build()
    assert caught.value.code == code


# --- In a worker ------------------------------------------------------------------------------------------------------


class Running:
    """One worker on a log in memory, stepped by hand."""

    def __init__(self, log: EmbeddedLog, *, stop_at_end: bool = False, **settings: int) -> None:
        self.log = log
        self.now = 1_000_000
        built = shops().build()
        plan = Plan(built.json, built.callables)
        assignment = prepare(log, plan, create_topics=True)
        hooks = Hooks(beside=lambda name: InlineBeside(1))
        chosen = Settings(app="app", **settings)  # type: ignore[arg-type]

        def clock() -> int:
            return self.now

        self.worker = Worker(plan, assignment, chosen, log, clock, {}, hooks, stop_at_end=stop_at_end)

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.worker.step()
            self.now += 10

    def values(self) -> list[str]:
        reader = self.log.reader()
        reader.add("out", 0, 0)
        found = []
        while (batch := reader.read("out", 0, 1000)) is not None:
            found += [(value or b"").decode() for _, _, _, value, _ in batch.records()]
        reader.close()
        return found


def log_of(partitions: int = 2) -> EmbeddedLog:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("names", partitions), TopicSpec("orders", 1), TopicSpec("out", 1)])
    return log


def send(log: EmbeddedLog, topic: str, *records: tuple[str, str | None], partition: int = 0) -> None:
    rows: Any = [(n, 5, key.encode(), None if v is None else v.encode(), []) for n, (key, v) in enumerate(records)]
    writer = log.writer("producer")
    assert writer.commit([(topic, partition, RawBatch(rows))], {}, "producer", None) is Outcome.COMMITTED


def test_no_task_begins_before_the_table_is_whole() -> None:
    log = log_of()
    for letter in "ac":
        send(log, "names", (letter, "old"))
    send(log, "names", ("a", "Anna"), ("c", None))
    send(log, "names", ("b", "old"), partition=1)
    send(log, "names", ("b", "Bert"), partition=1)
    send(log, "orders", ("x", "a"), ("x", "b"), ("x", "c"))
    running = Running(log, restore_rows_max=1)
    seen = set()
    for _ in range(60):
        running.turns(1)
        globals_ = running.worker._globals
        states = {task.state for task in running.worker.tasks.values()}
        seen.add((globals_ is not None and globals_.ready, frozenset(states)))
    assert all(ready or State.RUNNING not in states for ready, states in seen)
    assert {ready for ready, _ in seen} == {True, False}
    assert running.values() == ["x/a/Anna", "x/b/Bert"]


def test_metrics_tell_of_the_table() -> None:
    log = log_of()
    send(log, "names", ("a", "Anna"), ("b", "Bert"), ("b", None))
    running = Running(log)
    running.turns(150)
    collector = WorkerCollector("app", lambda: running.worker.status)
    found = {sample.name: (sample.labels, sample.value) for metric in collector.collect() for sample in metric.samples}
    assert found["adstream_global_keys"] == ({"app": "app", "table": "names-by-id"}, 1)
    assert found["adstream_global_records_total"] == ({"app": "app", "table": "names-by-id", "reason": "read"}, 3)
    assert found["adstream_global_lag"] == ({"app": "app"}, 0)


def test_what_comes_later_is_applied_as_it_comes() -> None:
    log = log_of()
    running = Running(log)
    running.turns(20)
    send(log, "names", ("a", "Anna"), partition=1)
    running.turns(5)
    send(log, "orders", ("x", "a1"))
    running.turns(20)
    send(log, "names", ("a", "Arne"), partition=1)
    running.turns(5)
    send(log, "orders", ("x", "a2"))
    running.turns(20)
    assert running.values() == ["x/a1/Anna", "x/a2/Arne"]


def test_a_restart_reads_the_topic_again() -> None:
    log = log_of()
    send(log, "names", ("a", "Anna"))
    send(log, "orders", ("x", "a1"))
    first = Running(log)
    first.turns(30)
    first.worker.drain(1000)
    send(log, "orders", ("x", "a2"))
    second = Running(log)
    second.turns(30)
    assert second.values() == ["x/a1/Anna", "x/a2/Anna"]
    assert not [topic for topic in log._topics if "changelog" in topic]


def test_a_run_to_the_end_of_the_inputs_has_the_whole_table() -> None:
    log = log_of()
    for n in range(200):
        send(log, "names", (chr(97 + n % 26), f"name{n}"), partition=n % 2)
    send(log, "orders", *(("x", chr(97 + n)) for n in range(26)))
    running = Running(log, stop_at_end=True, restore_rows_max=1)
    for _ in range(2000):
        running.turns(1)
        if running.worker.state is WorkerState.NOT_RUNNING:
            break
    assert running.worker.state is WorkerState.NOT_RUNNING
    newest = {chr(97 + n % 26): f"name{n}" for n in range(200)}
    assert running.values() == [f"x/{letter}/{newest[letter]}" for letter in map(chr, range(97, 123))]


def test_a_topic_that_is_not_there_is_an_error() -> None:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("orders", 1), TopicSpec("out", 1)])
    with pytest.raises(ConfigError, match="names"):
        Running(log)


class Tables:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def apply(self, topic: str, partition: int, batch: RawBatch) -> None:
        self.seen.append((topic, partition, len(batch)))


def test_records_that_were_deleted_meanwhile_are_passed_over() -> None:
    log, tables = log_of(1), Tables()
    tp: TopicPartition = ("names", 0)
    for n in range(10):
        send(log, "names", ("a", str(n)))
    reading = GlobalTables(log, (tp,), tables)
    assert reading.step(2)
    log.delete_records({tp: 7})
    while not reading.ready:
        assert reading.step(2)
    assert sum(n for _, _, n in tables.seen) == 4
    assert reading.lag == 0


def test_a_topic_that_was_made_again_is_not_taken_for_the_former_one() -> None:
    log, tables = log_of(1), Tables()
    send(log, "names", *(("a", str(n)) for n in range(10)))
    reading = GlobalTables(log, (("names", 0),), tables)
    reading.step(100)
    other = log_of(1)
    reading._log = other
    reading._reader = other.reader()
    reading._reader.add("names", 0, 10)
    with pytest.raises(FatalError, match="made again"):
        reading.step(100)
