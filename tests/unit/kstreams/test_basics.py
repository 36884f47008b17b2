"""Streams and tables of keys and values, on the test driver: one record, one commit, as Kafka Streams' own driver."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

import adstream as ads
from adstream._core import murmur2
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS

S, I = ads.serdes.string, ads.serdes.int64  # noqa: E741


def run(build: Callable[[ads.App], None], records: Iterable[tuple[Any, ...]], **options: Any) -> list[tuple[Any, ...]]:
    """What comes out of `out` for (topic, key, value, ts): (key, value, ts)."""
    topology = ads.topology(name="app")(build)
    with TopologyTestDriver(topology, partitions=1, commit_every=1, **options) as driver:
        for topic, key, value, ts in records:
            driver.input(topic).pipe(value, key=key, at=ts)
            driver.run()
        return [(r.key, r.value, r.timestamp) for r in driver.output("out").read()]


def test_flat_mappers_may_yield() -> None:
    def build(app: ads.App) -> None:
        def words(line: str) -> Iterable[str]:
            yield from line.split()

        lines = app.stream("in", key=S, value=S).flat_map_values(words)
        lines.flat_map(lambda k, word: {(k + c, word) for c in word[:1]}).to("out", key=S, value=S)

    assert run(build, [("in", "k", "ab cd", 1)]) == [("ka", "ab", 1), ("kc", "cd", 1)]


def test_a_topic_read_twice_in_the_same_way_is_one_source() -> None:
    def build(app: ads.App) -> None:
        app.stream("in", key=S, value=I).filter(lambda v: v > 1).to("out", key=S, value=I)
        app.stream("in", key=S, value=I).map_values(lambda v: -v).to("out", key=S, value=I)

    assert run(build, [("in", "k", 1, 1), ("in", "k", 2, 2)]) == [("k", -1, 1), ("k", 2, 2), ("k", -2, 2)]
    app = ads.App("x")
    app.stream(["a", "b"], key=S)
    app.stream(["b", "a"], key=S)
    for again in (lambda: app.stream(["a", "b"], key=I), lambda: app.stream("a", key=S), lambda: app.table("a", key=S)):
        with pytest.raises(ads.TopologyError) as refused:
            again()
        assert refused.value.code == "duplicate_source"


def test_stateless_operations() -> None:
    def build(app: ads.App) -> None:
        (
            app.stream("in", key=S, value=I)
            .filter(lambda k, v: v is not None and v > 0)
            .map_values(lambda v: v * 2)
            .flat_map(lambda k, v: [(k, v), (k + "!", v + 1)])
            .select_key(lambda k, v: f"{k}{v}")
            .to("out", value=I)
        )

    assert run(build, [("in", "a", 1, 5), ("in", "b", -1, 6), ("in", "c", None, 7)]) == [("a2", 2, 5), ("a!3", 3, 5)]


def test_branches_merge_depth_first() -> None:
    def build(app: ads.App) -> None:
        numbers = app.stream("in", key=S, value=I).flat_map_values(lambda v: [v, v + 1])
        even, odd = numbers.split().branch(lambda k, v: v % 2 == 0).default_branch()
        even.map_values(lambda v: -v).merge(odd).to("out", value=I)

    assert run(build, [("in", "a", 1, 5), ("in", "a", 2, 6)]) == [
        ("a", 1, 5),
        ("a", -2, 5),
        ("a", -2, 6),
        ("a", 3, 6),
    ]


def test_count_reduce_aggregate_keep_the_largest_time() -> None:
    def build(app: ads.App) -> None:
        grouped = app.stream("in", key=S, value=I).group_by_key()
        grouped.count("counts").to_stream().to("out")
        grouped.reduce(lambda a, v: a + v).to_stream().to("out", value=I)
        grouped.aggregate(lambda: "", lambda k, v, a: f"{a}{k}{v}").to_stream().to("out", value=ads.serdes.string)

    rows = [("in", "a", 1, 9), ("in", None, 1, 9), ("in", "a", None, 9), ("in", "a", 2, 5)]
    topology = ads.topology(name="app")(build)
    with TopologyTestDriver(topology, partitions=1, commit_every=1) as driver:
        for topic, key, value, ts in rows:
            driver.input(topic).pipe(value, key=key, at=ts)
        raw = driver.output("out").read_raw()
        assert [(r.value, r.timestamp) for r in raw] == [
            ((1).to_bytes(8), 9),
            ((1).to_bytes(8), 9),
            (b"a1", 9),
            ((2).to_bytes(8), 9),
            ((3).to_bytes(8), 9),
            (b"a1a2", 9),
        ]
        dropped = [reasons for reasons in driver.counters().values() if "dropped:null_key" in reasons]
        assert [(d["dropped:null_key"], d["dropped:null_value"]) for d in dropped] == [(1, 1)] * 3


def test_a_new_key_moves_the_records() -> None:
    def build(app: ads.App) -> None:
        app.stream("in", key=S, value=I).group_by(lambda k, v: v % 3).count().to_stream().to("out", key=I)

    topology = ads.topology(name="app")(build)
    with TopologyTestDriver(topology, partitions=3) as driver:
        for i in range(30):
            driver.input("in").pipe(i, key=str(i), at=i)
        newest = {r.key: r.value for r in driver.output("out").read()}
        assert newest == {0: 10, 1: 10, 2: 10}
        driver.restart()
        driver.input("in").pipe(3, key="x", at=100)
        assert [(r.key, r.value, r.timestamp) for r in driver.output("out").read()] == [(0, 11, 100)]


def test_tables_filter_map_and_regroup() -> None:
    def build(app: ads.App) -> None:
        table = app.table("in", key=S, value=I)
        small = table.filter(lambda k, v: v < 10).map_values(lambda v: v + 100)
        small.to_stream().to("out", value=I)
        small.group_by(lambda k, v: ("all", v)).reduce(lambda a, v: a + v, lambda a, v: a - v).to_stream().to(
            "out", value=I
        )

    assert run(build, [("in", "a", 1, 1), ("in", "b", 2, 2), ("in", "a", 20, 3), ("in", "b", None, 4)]) == [
        ("a", 101, 1),
        ("all", 101, 1),
        ("b", 102, 2),
        ("all", 203, 2),
        ("a", None, 3),
        ("all", 102, 3),
        ("b", None, 4),
        ("all", 0, 4),
    ]


def test_a_function_that_raises_is_a_dead_letter_of_its_record() -> None:
    def build(app: ads.App) -> None:
        stream = app.stream("in", key=S, value=I)
        stream.map_values(lambda v: 10 // v).named("divide").to("out", value=I)

    topology = ads.topology(name="app")(build)
    with TopologyTestDriver(topology, partitions=1) as driver:
        for value in (5, 0, 2):
            driver.input("in").pipe(value, key="k", at=1)
        driver.input("in").pipe_raw(b"k", b"123")
        assert [r.value for r in driver.output("out").read()] == [2, 5]
        letters = driver.dead_letters("in")
        assert [(d.reason, d.operator, d.offset) for d in letters] == [
            ("callable_raised", "divide", 1),
            ("malformed_value", "source-1", 3),
        ]
        assert letters[0].value == bytes(8)


@pytest.mark.parametrize(
    ("step", "restart"),
    [(step, restart) for step in STEPS for restart in (True, False) if restart or step != "after-commit"],
)
def test_a_crash_changes_nothing(step: Any, restart: bool) -> None:
    def build(app: ads.App) -> None:
        (
            app.stream("in", key=S, value=I)
            .group_by(lambda k, v: v % 2)
            .aggregate(lambda: {"seen": []}, lambda k, v, a: {"seen": [*a["seen"], v]})
            .to_stream()
            .to("out", key=I)
        )

    topology = ads.topology(name="app")(build)

    def play(crash: bool) -> list[Any]:
        with TopologyTestDriver(topology, partitions=1, commit_every=2) as driver:
            for i in range(10):
                driver.input("in").pipe(i, key="k", at=i)
            if crash:
                driver.crash_at(step, commits=2, restart=restart)
            return [(r.key, r.value, r.timestamp) for r in driver.output("out").read()]

    assert play(True) == play(False)


def test_the_clock_may_be_the_event_time() -> None:
    """As the worker logs it: it stands still between commits."""

    @ads.topology(name="app")
    def build(app: ads.App) -> None:
        app.stream("in", value=S, timestamp=ads.TimestampExtractor.WALLCLOCK).to("out", value=S)

    with TopologyTestDriver(build, partitions=1, wall_clock=5_000) as driver:
        driver.input("in").pipe("x", key="a", at=7)
        assert [r.timestamp for r in driver.output("out").read()] == [5_000]
        driver.advance_wall_clock("250ms")
        driver.run()
        driver.input("in").pipe("y", key="a", at=7)
        driver.input("in").pipe("z", key="a", at=8)
        assert [r.timestamp for r in driver.output("out").read()] == [5_250, 5_250]


def test_sources_that_do_not_say_it_find_times_as_the_application_says() -> None:
    def minus(by: int) -> Callable[..., int]:
        return lambda key, value, ts, partition: ts - by

    @ads.topology(name="app")
    def build(app: ads.App) -> None:
        for topic, own in (("in", None), ("own", minus(1)), ("clock", ads.TimestampExtractor.WALLCLOCK)):
            app.stream(topic, key=S, value=S, timestamp=own).to("out", value=S)
        app.table("table", key=S, value=S).to_stream().to("out", value=S)
        app.default_timestamp_extractor(minus(5))

    with TopologyTestDriver(build, partitions=1, wall_clock=7) as driver:
        for topic in ("in", "own", "clock", "table"):
            driver.input(topic).pipe(topic, key="k", at=100)
        assert {r.value: r.timestamp for r in driver.output("out").read()} == {
            "in": 95,
            "own": 99,
            "clock": 7,
            "table": 95,
        }


def test_the_clock_may_be_the_event_time_of_all() -> None:
    @ads.topology(name="app")
    def build(app: ads.App) -> None:
        app.default_timestamp_extractor(ads.TimestampExtractor.WALLCLOCK)
        app.stream("in", value=S).to("out", value=S)

    with TopologyTestDriver(build, partitions=1, wall_clock=5_000) as driver:
        driver.input("in").pipe("x", key="a", at=7)
        assert [r.timestamp for r in driver.output("out").read()] == [5_000]


def _timed(extractor: Any) -> ads.Topology:
    @ads.topology(name="app")
    def build(app: ads.App) -> None:
        app.on_error(deserialization="continue")  # extractors are asked behind it
        app.stream("in", value=S, timestamp=extractor).to("out", value=S)

    return build


@pytest.mark.parametrize(
    ("extractor", "piped", "found", "dropped"),
    [
        ("LOG_AND_SKIP_ON_INVALID_TIMESTAMP", [("a", -1), ("b", 20), ("c", -1)], [("b", 20)], [2]),
        ("USE_PARTITION_TIME_ON_INVALID_TIMESTAMP", [("b", 20), ("c", -1)], [("b", 20), ("c", 20)], []),
    ],
)
def test_records_without_a_time(
    extractor: str, piped: list[tuple[str, int]], found: list[tuple[str, int]], dropped: list[int]
) -> None:
    """Messages of the oldest format have none: −1."""
    counted = "dropped:negative_timestamp"
    with TopologyTestDriver(_timed(ads.TimestampExtractor[extractor]), partitions=1) as driver:
        for value, at in piped:
            driver.input("in").pipe(value, key="k", at=at)
        assert [(r.value, r.timestamp) for r in driver.output("out").read()] == found
        assert [reasons[counted] for reasons in driver.counters().values() if counted in reasons] == dropped


@pytest.mark.parametrize(
    ("extractor", "why"),
    [
        (None, "its time is -1"),
        (ads.TimestampExtractor.FAIL_ON_INVALID_TIMESTAMP, "its time is -1"),
        (ads.TimestampExtractor.USE_PARTITION_TIME_ON_INVALID_TIMESTAMP, "its partition has none yet"),
        (lambda key, value, ts, partition: 1 // 0, "ZeroDivisionError"),
        (lambda key, value, ts, partition: "noon", "an int of ms"),
    ],
)
def test_an_extractor_without_a_time_fails_the_task(extractor: Any, why: str) -> None:
    """`RecordQueue.updateHead` asks extractors behind the deserialization handler: what they throw is fatal."""
    error = f"timestamp_failed: .*{why}.*record 0 of `in`, partition 0.*record_failed"
    with TopologyTestDriver(_timed(extractor), partitions=1) as driver:
        driver.input("in").pipe("a", key="k", at=-1)
        with pytest.raises(ads.FatalError, match=error):
            driver.run()


def test_branches_have_names() -> None:
    """As the map that Kafka Streams returns: what `chain` returns stands for the branch, and nothing where it returns nothing."""
    found: dict[str, Any] = {}

    @ads.topology(name="app")
    def build(app: ads.App) -> None:
        split = app.stream("in", key=S, value=I).split("by-")
        split.branch(lambda k, v: v < 0, name="less").branch(lambda k, v: v > 100)
        split.branch(lambda k, v: v > 50, lambda s: s.map_values(lambda v: v * 2), name="doubled")
        split.branch(lambda k, v: v > 40, lambda s: s.to("consumed", value=I))
        branches = split.default_branch()
        found.update(branches.named)
        assert len(branches) == 5
        assert branches["by-less"] is branches[0]
        for name, stream in branches.named.items():
            stream.map_values(lambda v, name=name: f"{name} {v}").to("out", value=S)

    with TopologyTestDriver(build, partitions=1) as driver:
        for value in (-1, 101, 60, 45, 7):
            driver.input("in").pipe(value, key="k", at=value + 1)
        assert list(found) == ["by-less", "by-2", "by-doubled", "by-0"]
        assert [r.value for r in driver.output("out").read()] == ["by-less -1", "by-2 101", "by-doubled 120", "by-0 7"]
        assert [r.value for r in driver.output("consumed").read()] == [45]

    def twice(app: ads.App) -> None:
        app.stream("in").split().branch(lambda k, v: True, name="a").branch(lambda k, v: True, name="a")

    with pytest.raises(ads.TopologyError, match="two branches are called"):
        ads.topology(name="app")(twice).build()


def test_a_topic_may_depend_on_where_a_record_comes_from() -> None:
    seen: list[ads.RecordContext] = []

    def topic(key: str, value: str, context: ads.RecordContext) -> str:
        seen.append(context)
        return "odd" if (context.offset or 0) % 2 else "even"

    @ads.topology(name="app")
    def build(app: ads.App) -> None:
        app.stream("in", key=S, value=S).to(topic, topics=["even", "odd"], value=S)

    with TopologyTestDriver(build, partitions=1) as driver:
        for i in range(3):
            driver.input("in").pipe(f"v{i}", key="k", at=10 + i, headers=[("h", b"1")])
        assert [r.value for r in driver.output("even").read()] == ["v0", "v2"]
        assert [r.value for r in driver.output("odd").read()] == ["v1"]
    assert seen == [ads.RecordContext("in", 0, i, 10 + i, [("h", b"1")]) for i in range(3)]


def test_a_function_may_name_any_topic() -> None:
    @ads.topology(name="app")
    def build(app: ads.App) -> None:
        app.stream("in", key=S, value=S).to(lambda key, value: f"of-{value}", key=S, value=S)

    with TopologyTestDriver(build, partitions={"in": 3}) as driver:
        assert driver.output("of-cats").read() == []
        for value in ("cats", "dogs", "cats"):
            driver.input("in").pipe(value, key=value)
        assert [r.value for r in driver.output("of-cats").read()] == ["cats", "cats"]
        assert [(r.value, r.partition) for r in driver.output("of-dogs").read()] == [
            ("dogs", (murmur2(b"dogs") & 0x7FFFFFFF) % 3),
        ]
        driver.restart()
        driver.input("in").pipe("birds", key="b")
        assert [r.value for r in driver.output("of-birds").read()] == ["birds"]


def test_a_topic_is_named_by_text() -> None:
    @ads.topology(name="app")
    def build(app: ads.App) -> None:
        app.stream("in", key=S, value=S).to(lambda key, value: None if value == "none" else "out", value=S)

    with TopologyTestDriver(build, partitions=1) as driver:
        driver.input("in").pipe("none", key="k")
        driver.input("in").pipe("some", key="k")
        assert [r.value for r in driver.output("out").read()] == ["some"]
        (dead,) = driver.dead_letters("in")
    assert dead.reason == "unknown_topic"


def test_a_serde_with_a_subject_a_topic_wants_topics_that_are_named() -> None:
    def build(app: ads.App) -> None:
        serde = ads.serdes.avro('{"type": "record", "name": "R", "fields": []}')
        app.stream("in").to(lambda key, value: "out", value=serde)

    with pytest.raises(ads.TopologyError, match="topics that only a function names, each with a subject of its own"):
        ads.topology(name="app")(build).build()


def test_a_supplier_of_one_processor_is_refused() -> None:
    class Passing(ads.Processor):
        def process(self, record: Any, ctx: ads.Context) -> None:
            ctx.forward(record)

    one = Passing()

    def build(app: ads.App) -> None:
        app.stream("in").process(lambda: one).to("out")

    with pytest.raises(ads.TopologyError, match="the same processor twice"):
        ads.topology(name="app")(build).build()


def test_a_driver_lets_time_advance_by_itself_and_tells_what_there_is() -> None:
    """Kafka Streams' `createInputTopic(topic, …, start, advance)`, `advanceTime`, `producedTopicNames`, `getAllStateStores`."""

    @ads.topology(name="app")
    def counting(app: ads.App) -> None:
        text = ads.serdes.string
        app.stream("in", key=text, value=text).group_by_key().count("counts").to_stream().to("out")

    with TopologyTestDriver(counting, partitions=1, commit_every=1) as driver:
        assert driver.produced_topics() == []
        records = driver.input("in", start=1_000, advance="10ms")
        for _ in range(2):
            records.pipe("x", key="a")
        records.advance_time("1s")
        records.pipe("x", key="a")
        driver.input("in").pipe("x", key="a", at=5)
        driver.input("in").pipe("x", key="a")
        assert [r.timestamp for r in driver.output("out").read()] == [1_000, 1_010, 2_020, 2_020, 2_020]
        assert driver.produced_topics() == ["app-0-changelog", "out"]
        assert list(driver.stores()) == ["counts"]
        assert driver.stores()["counts"].get("a").value == 5


def test_output_is_read_one_by_one_or_together_as_in_the_original_driver() -> None:
    """`readRecord`, `readValue`, `readKeyValue`, `readKeyValuesToMap` … of Kafka Streams' `TestOutputTopic`."""

    @ads.topology(name="app")
    def copy(app: ads.App) -> None:
        app.stream("in", key=ads.serdes.string, value=ads.serdes.int64).to("out")

    with TopologyTestDriver(copy, partitions=1, commit_every=1) as driver:
        records, out = driver.input("in"), driver.output("out")
        assert out.is_empty()
        with pytest.raises(LookupError, match="`out` is empty"):
            out.read_record()
        records.pipe_key_values([("a", 1), ("b", 2), ("a", 3)], at=10, every="5ms")
        assert out.queue_size() == 3
        first = out.read_record()
        assert (first.key, first.value, first.timestamp) == ("a", 1, 10)
        assert out.read_value() == 2
        records.pipe(4, key="c")
        assert out.read_key_value() == ("a", 3)
        assert [(r.key, r.timestamp) for r in out.read()] == [("c", 20)]
        assert out.is_empty()
        records.pipe_key_values([("a", 5), ("b", 6), ("a", 7)])
        assert out.read_latest() == {"a": 7, "b": 6}
        records.pipe(8)
        records.pipe(9, key="a")
        with pytest.raises(ValueError, match="has no key"):
            out.read_latest()
        assert out.read_values() == [8, 9]
        records.pipe(1, key="z")
        assert out.read_key_values() == [("z", 1)]
        with pytest.raises(ValueError, match="`every` needs `at`"):
            records.pipe_key_values([], every="1s")


def test_operations_at_the_end_of_a_stream_have_names_too() -> None:
    """`Produced.as`, `Printed.withName`, `foreach(action, Named)`."""

    def fails(value: object) -> None:
        raise ValueError(value)

    @ads.topology(name="app")
    def named(app: ads.App) -> None:
        stream = app.stream("in", key=ads.serdes.string, value=ads.serdes.string)
        stream.foreach(fails, name="look")
        stream.print(name="show")
        stream.to("out", value=ads.serdes.int64, name="write")

    with TopologyTestDriver(named, partitions=1) as driver:
        driver.input("in").pipe("x", key="k")
        assert {letter.operator for letter in driver.dead_letters("in")} == {"look", "write"}
        assert "show" in named.describe()


def test_a_time_may_be_in_the_headers() -> None:
    """A `TimestampExtractor` is given the whole record."""

    def sent(key: str, value: int, ts: int, partition: int, at: ads.RecordContext) -> int:
        said = dict(at.headers).get("sent")
        return ts if said is None else int(said)

    @ads.topology(name="app")
    def timed(app: ads.App) -> None:
        app.stream("in", key=ads.serdes.string, value=ads.serdes.int64, timestamp=sent).to("out")

    with TopologyTestDriver(timed, partitions=1) as driver:
        driver.input("in").pipe(1, key="k", at=5, headers=[("sent", b"70")])
        driver.input("in").pipe(2, key="k", at=6)
        assert [r.timestamp for r in driver.output("out").read()] == [70, 6]
