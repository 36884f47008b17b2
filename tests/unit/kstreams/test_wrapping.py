"""Something around every processor of an application; counters and settings of processors."""

from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver

S, I = ads.serdes.string, ads.serdes.int64  # noqa: E741


class Doubles(ads.Processor[int]):
    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        ctx.forward(record.with_value(2 * record.value))


class Adds(ads.FixedKeyProcessor[int]):
    sum = ads.keyed.value(default=0)

    def init(self, ctx: ads.Context) -> None:
        self.begun = True

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        assert self.begun
        self.sum += record.value
        ctx.forward(record.with_value(self.sum))


def logged(log: list[Any], who: str) -> Any:
    class Around:
        def __init__(self, name: str, inner: Any) -> None:
            self.name, self.inner = name, inner

        def init(self, ctx: ads.Context) -> None:
            log.append((who, self.name, "init"))
            self.inner.init(ctx)

        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            log.append((who, self.name, record.value))
            self.inner.process(record, ctx)

    return Around


def test_wrappers_are_around_every_processor_the_last_one_outside() -> None:
    log: list[Any] = []

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        stream = app.stream("in", key=S, value=I)
        stream.process(Doubles, name="double").process_values(Adds, name="add").to("out", key=S, value=I)
        app.wrap_processors(logged(log, "first"))
        app.wrap_processors(logged(log, "second"))

    with TopologyTestDriver(topology, partitions=1, commit_every=1) as driver:
        driver.input("in").pipe_key_values([("a", 1), ("a", 2)])
        assert driver.output("out").read_values() == [2, 6]
        assert driver.store("add-sum").get("a") == 6
    begun = [(who, name) for who, name, what in log if what == "init"]
    assert sorted(begun) == [(who, name) for who in ("first", "second") for name in ("add", "double")]
    assert [entry for entry in log if entry[2] != "init"][:4] == [
        ("second", "double", 1),
        ("first", "double", 1),
        ("second", "add", 2),
        ("first", "add", 2),
    ]


def test_processors_of_nodes_and_of_stores_are_wrapped_too() -> None:
    log: list[Any] = []

    class Keeps(ads.Processor[int]):
        def init(self, ctx: ads.Context) -> None:
            self.kept = ctx.get_state_store("kept")

        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            self.kept.put(record.key, record.value)

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.add_global_store(ads.store.key_value("kept"), "facts", Keeps, key=S, value=I, name="keep")
        app.add_source("source", "in", key=S, value=I)
        app.add_processor("double", Doubles, "source")
        app.wrap_processors(logged(log, "it"))

    with TopologyTestDriver(topology, partitions=1) as driver:
        driver.input("facts").pipe(7, key="k")
        driver.input("in").pipe(1, key="a")
        driver.run()
        assert driver.store("kept").get("k") == 7
    assert {entry[1] for entry in log} == {"keep", "double"}


def test_a_wrapper_makes_processors() -> None:
    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.stream("in", key=S, value=I).process(Doubles)
        app.wrap_processors(lambda name, processor: None)

    with pytest.raises(ads.FatalError, match="`wrap_processors` made None of `process-1`"):
        TopologyTestDriver(topology, partitions=1)
    with pytest.raises(ads.TopologyError) as refused:
        ads.topology(name="app")(lambda app: app.wrap_processors(7)).build()
    assert refused.value.code == "bad_argument"


def test_processors_count_and_are_told_settings() -> None:
    class Counts(ads.Processor[int]):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            ctx.count("bytes", record.value)
            ctx.count("records")
            assert ctx.app_configs_with_prefix("lim") == {"it": 5}

    @ads.topology(name="app")
    def topology(app: ads.App, limit: int = 5) -> None:
        app.stream("in", key=S, value=I).process(Counts, name="count")

    with TopologyTestDriver(topology, partitions=1, commit_every=1) as driver:
        driver.input("in").pipe_key_values([("a", 3), ("b", 4), ("c", -1)])
        counted = driver.counters()["count"]
        assert (counted["custom:bytes"], counted["custom:records"]) == (7, 2)
        assert counted["dead:callable_raised"] == 1
        driver.restart()
        assert driver.counters()["count"]["custom:bytes"] == 7
