"""Topologies of named nodes."""

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver

S, I = ads.serdes.string, ads.serdes.int64  # noqa: E741


class Counts(ads.Processor):
    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        store = ctx.get_state_store("counts")
        count = (store.get(record.key) or 0) + 1
        store.put(record.key, count)
        ctx.forward(record.with_value(count), "out" if count > 1 else None)


class Looks(ads.Processor):
    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        ctx.forward(record.with_value(ctx.get_state_store("counts").get(record.key)))


def build(app: ads.App) -> None:
    app.add_source("lines", "in", "more", key=S, value=S)
    app.add_processor("count", Counts, "lines")
    app.add_sink("out", "counts", "count", key=S, value=I)
    app.add_sink("first", "firsts", "count", key=S, value=I)
    app.add_source("questions", "asked", key=S, value=S)
    app.add_processor("look", Looks, "questions")
    app.add_sink("answer", lambda key, value: "none" if value is None else "some", "look", topics=["none", "some"])
    app.add_state_store(ads.store.key_value("counts"), "count")
    app.connect_processor_and_state_stores("look", "counts")


def test_a_topology_of_nodes() -> None:
    topology = ads.topology(name="app")(build)
    with TopologyTestDriver(topology, partitions=1, commit_every=1) as d:
        for i, topic in enumerate(["in", "more", "in"]):
            d.input(topic).pipe("", key="a", at=i)
        d.input("asked").pipe("", key="a", at=9)
        d.input("asked").pipe("", key="b", at=9)
        assert [r.value for r in d.output("counts").read()] == [1, 2, 3]
        assert [r.value for r in d.output("firsts").read()] == [1]
        assert [(r.key, r.value) for r in d.output("some").read()] == [("a", 3)]
        assert [r.key for r in d.output("none").read()] == ["b"]
        assert list(d.store("counts").all()) == [("a", 3)]


def test_nodes_that_share_a_store_share_a_task() -> None:
    built = ads.topology(name="app")(build).build()
    with TopologyTestDriver(built, partitions=2) as d:
        assert len(d._specs) == 2


def test_a_store_that_is_kept_from_a_topic() -> None:
    class Keeps(ads.Processor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            ctx.get_state_store("prices").put(record.key, record.value)

    class Adds(ads.Processor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            ctx.forward(record.with_value(record.value + (ctx.get_state_store("prices").get(record.key) or 0)))

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.add_read_only_state_store(ads.store.key_value("prices", key=S, value=I), "prices-topic", Keeps)
        app.stream("in", key=S, value=I).process(Adds, "prices").to("out", key=S, value=I)

    with TopologyTestDriver(topology, partitions=2) as d:
        d.input("prices-topic").pipe(10, key="a", at=1)
        d.input("prices-topic").pipe(20, key="b", at=1)
        d.input("in").pipe(1, key="a", at=2)
        d.input("in").pipe(2, key="b", at=2)
        assert sorted(r.value for r in d.output("out").read()) == [11, 22]
        d.restart()
        d.input("in").pipe(3, key="b", at=2)
        assert [r.value for r in d.output("out").read()] == [23]


def test_a_global_store_is_whole_everywhere_and_read_only() -> None:
    class Keeps(ads.Processor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            if record.value == 0:
                raise ValueError("no")
            store = ctx.get_state_store("prices")
            store.put(record.key, record.value + (store.get(record.key) or 0))

    class Adds(ads.Processor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            prices = ctx.get_state_store("prices")
            assert not hasattr(prices, "put")
            ctx.forward(record.with_value([prices.get("a"), len(list(prices.all())), prices.approximate_num_entries()]))

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.add_global_store(ads.store.key_value("prices", key=S, value=I), "prices-topic", Keeps)
        app.stream("in", key=S, value=I).process(Adds).to("out", key=S)

    with TopologyTestDriver(topology, partitions={"in": 2, "prices-topic": 3}) as d:
        for key, value in [("a", 1), ("a", 2), ("b", 5), ("c", 0)]:
            d.input("prices-topic").pipe(value, key=key, at=1)
        for disturb in (lambda: None, d.restart):
            disturb()
            for partition in (0, 1):
                d.input("in").pipe(1, key="k", at=2, partition=partition)
            assert [r.value for r in d.output("out").read()] == [[3, 2, 2]] * 2
        assert dict(d.store("prices").all()) == {"a": 3, "b": 5}
        assert d.store("prices").get("b") == 5


def test_names_that_are_unknown_or_taken() -> None:
    def refused(what: object) -> str:
        @ads.topology(name="app")
        def topology(app: ads.App) -> None:
            app.add_source("lines", "in", key=S, value=S)
            what(app)  # type: ignore[operator]

        with pytest.raises(ads.TopologyError) as error:
            topology.build()
        return f"{error.value.code} {error.value.hint}"

    assert refused(lambda app: app.add_processor("count", Counts, "line")) == "unknown_node did you mean `lines`?"
    assert refused(lambda app: app.add_processor("count", Counts)).startswith("bad_argument")
    assert refused(lambda app: app.add_source("lines", "other")).startswith("duplicate_name")
    assert refused(lambda app: app.connect_processor_and_state_stores("lines", "s")).startswith("bad_argument")
    assert refused(lambda app: app.add_state_store(ads.store.key_value("s"), "count")).startswith("unknown_node")
