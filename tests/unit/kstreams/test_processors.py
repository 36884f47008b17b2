"""Processors: what they get, whom they forward to, what they may not."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS

S, I = ads.serdes.string, ads.serdes.int64  # noqa: E741


def driver(build: Callable[[ads.App], None], **options: Any) -> TopologyTestDriver:
    given: dict[str, Any] = {"partitions": 1, "commit_every": 1, **options}
    return TopologyTestDriver(ads.topology(name="app")(build), **given)


def out(driver: TopologyTestDriver, topic: str = "out") -> list[tuple[Any, ...]]:
    return [(r.key, r.value, r.timestamp) for r in driver.output(topic).read()]


class Total(ads.Processor[int]):
    """A running total by key."""

    def init(self, ctx: ads.Context) -> None:
        self.totals = ctx.get_state_store("totals")

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        total = (self.totals.get(record.key) or 0) + record.value
        self.totals.put(record.key, total)
        ctx.forward(record.with_value(total))


def total(app: ads.App) -> None:
    app.add_state_store(ads.store.key_value("totals"))
    app.stream("in", key=S, value=I).process(Total, "totals", name="total").to("out", key=S, value=I)


def test_a_processor_with_a_store() -> None:
    with driver(total) as d:
        for i, key in enumerate("aab"):
            d.input("in").pipe(i + 1, key=key, at=i)
        assert out(d) == [("a", 1, 0), ("a", 3, 1), ("b", 3, 2)]
        d.restart()
        d.input("in").pipe(4, key="a", at=9)
        assert out(d) == [("a", 7, 9)]


@pytest.mark.parametrize(
    ("step", "restart"),
    [(step, restart) for step in STEPS for restart in (True, False) if restart or step != "after-commit"],
)
@pytest.mark.parametrize("pipelined", [False, True])
def test_a_crash_changes_nothing(step: Any, restart: bool, pipelined: bool) -> None:
    def play(crash: bool) -> list[Any]:
        with driver(total, commit_every=2, pipelined=pipelined) as d:
            for i in range(12):
                d.input("in").pipe(i, key="ab"[i % 2], at=i)
            if crash:
                d.crash_at(step, commits=2, restart=restart)
            found = [*out(d), *d.store("totals").all()]
            assert d.crashed
            return found

    assert play(True) == play(False)


def test_children_are_called_depth_first_and_by_name() -> None:
    class Both(ads.Processor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            ctx.forward(record)
            ctx.forward(record.with_value(10 * record.value), "second")

    def build(app: ads.App) -> None:
        both = app.stream("in", key=S, value=I).process(Both)
        both.map_values(lambda v: v + 1).named("first").to("out", value=I)
        both.map_values(lambda v: v + 2).named("second").to("out", value=I)

    with driver(build) as d:
        d.input("in").pipe(1, key="k", at=5)
        assert out(d) == [("k", 2, 5), ("k", 3, 5), ("k", 12, 5)]


def test_an_unknown_child_and_an_unknown_store_are_the_records_fault() -> None:
    class Lost(ads.Processor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            ctx.forward(record)
            if record.value == 1:
                ctx.forward(record, "nowhere")
            ctx.get_state_store("other")

    def build(app: ads.App) -> None:
        app.add_state_store(ads.store.key_value("mine"))
        app.add_state_store(ads.store.key_value("other"))
        stream = app.stream("in", key=S, value=I)
        stream.process(Lost, "mine", name="lost").to("out", value=I)
        stream.process(Total, ads.store.key_value("totals"), "other")

    with driver(build) as d:
        for value in (1, 2):
            d.input("in").pipe(value, key="k", at=5)
        assert len(out(d)) == 2  # what was forwarded before stays
        letters = [(x.reason, x.operator, x.offset, x.message) for x in d.dead_letters("in")]
        assert [x[:3] for x in letters] == [("callable_raised", "lost", 0), ("callable_raised", "lost", 1)]
        assert "`lost` has no child `nowhere`" in str(letters[0][3])
        assert "`lost` is not connected to a store `other`: it has mine" in str(letters[1][3])


def test_records_are_immutable_and_headers_are_copied_on_write() -> None:
    class Marks(ads.Processor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            ctx.forward(record.with_header("a", b"1").with_header("n", None))
            ctx.forward(record.with_key("other").with_timestamp(record.timestamp + 1))
            ctx.forward(record.with_headers([("b", b"2")]).without_header("b"))

    def build(app: ads.App) -> None:
        app.stream("in", key=S, value=I).process(Marks).to("out", key=S, value=I)

    with driver(build) as d:
        d.input("in").pipe(1, key="k", at=5, headers=[("h", b"0")])
        assert [(r.key, r.timestamp, r.headers) for r in d.output("out").read()] == [
            ("k", 5, (("h", b"0"), ("a", b"1"), ("n", None))),
            ("other", 6, (("h", b"0"),)),
            ("k", 5, ()),
        ]
    record = ads.ProcessorRecord("k", [1], 5, [("h", b"0")])
    assert record.with_value(2) == ads.ProcessorRecord("k", 2, 5, [("h", b"0")]) != record
    assert repr(record) == "ProcessorRecord('k', [1], 5, headers=(('h', b'0'),))"
    with pytest.raises(AttributeError):
        record.key = "other"  # type: ignore[misc]
    for negative in (lambda: ads.ProcessorRecord("k", 1, -1), lambda: record.with_timestamp(-1)):
        with pytest.raises(ValueError, match="a timestamp is 0 or more"):
            negative()


def test_what_was_changed_in_place_is_what_is_forwarded() -> None:
    class Appends(ads.Processor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            record.value.append(2)
            ctx.forward(record)

    def build(app: ads.App) -> None:
        app.stream("in", key=S).process(Appends).to("out", key=S)

    with driver(build) as d:
        d.input("in").pipe([1], key="k", at=5)
        assert out(d) == [("k", [1, 2], 5)]


def test_the_context_tells_where_the_record_came_from() -> None:
    class Tells(ads.Processor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            times = [ctx.current_stream_time_ms, ctx.current_system_time_ms]
            about = [*(ctx.record_metadata() or ()), ctx.task_id, ctx.application_id, *times]
            ctx.forward(record.with_value([*about, ctx.app_configs["size"]]))

    @ads.topology(name="app")
    def topology(app: ads.App, size: int = 3) -> None:
        app.stream("in", key=S, value=I).process(Tells).to("out", key=S)

    with TopologyTestDriver(topology, partitions=2, size=7, wall_clock=1000) as d:
        d.input("in").pipe(1, key="k", at=5, partition=1)
        d.input("in").pipe(1, key="k", at=3, partition=1)
        assert [r.value for r in d.output("out").read()] == [
            ["in", 1, 0, "0_1", "app", 5, 1000, 7],
            ["in", 1, 1, "0_1", "app", 5, 1000, 7],
        ]


def test_fixed_keys_stay() -> None:
    class Changes(ads.FixedKeyProcessor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            ctx.forward(record.with_value(record.value + 1).with_timestamp(7))
            if record.value == 1:
                record.with_key("other")
            ctx.forward(ads.ProcessorRecord(record.key, 5, 5))

    def build(app: ads.App) -> None:
        stream = app.stream("in", key=S, value=I).process_values(Changes, name="changes")
        stream.group_by_key(value=I).count().to_stream().to("out")

    with driver(build) as d:
        assert "app-changes-repartition" not in d.partitions  # and no other one
        assert not [topic for topic in d.partitions if topic.endswith("-repartition")]
        for value in (1, 2):
            d.input("in").pipe(value, key="k", at=1)
        assert [r.timestamp for r in d.output("out").read()] == [7, 7]
        messages = [str(x.message) for x in d.dead_letters("in")]
        assert "may not change keys" in messages[0]
        assert "forwards the record it was given" in messages[1]


def test_a_processor_may_change_keys() -> None:
    def build(app: ads.App) -> None:
        moved = app.stream("in", key=S, value=I).process(Total, ads.store.key_value("totals"))
        moved.group_by_key(key=S, value=I).count().to_stream().to("out")

    with driver(build) as d:
        assert [topic for topic in d.partitions if topic.endswith("-repartition")]


def test_every_task_has_an_instance_that_is_closed_with_it() -> None:
    lives: list[str] = []

    class Lives(ads.Processor):
        def init(self, ctx: ads.Context) -> None:
            self.name = ctx.task_id
            lives.append(f"begin {self.name}")

        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None: ...

        def close(self) -> None:
            lives.append(f"end {self.name}")

    def build(app: ads.App) -> None:
        app.stream("in", key=S, value=I).process(Lives)

    with driver(build, partitions=2) as d:
        assert sorted(lives) == ["begin 0_0", "begin 0_1"]
        d.restart()
        assert lives.count("begin 0_0") == 2
        assert lives.count("end 0_0") == 1
    assert lives.count("begin 0_1") == lives.count("end 0_1") == 2


def test_after_an_abort_the_instance_is_a_new_one() -> None:
    made: list[object] = []

    class Counts(ads.Processor):
        def __init__(self) -> None:
            made.append(self)
            self.seen = 0

        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            self.seen += 1
            ctx.forward(record.with_value(self.seen))

    def build(app: ads.App) -> None:
        app.stream("in", key=S, value=I).process(Counts).to("out", value=I, key=S)

    with driver(build) as d:
        d.crash_at("before-commit", commits=1, restart=False)
        for _ in range(3):
            d.input("in").pipe(1, key="k", at=1)
        assert [v for _, v, _ in out(d)] == [1, 1, 2]  # not 1, 3, 4: what was undone was never counted
        assert len(made) == 2


def test_a_context_is_of_no_use_outside_its_call() -> None:
    kept: list[ads.Context] = []
    errors: list[BaseException] = []

    class Keeps(ads.Processor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            kept.append(ctx)

            def elsewhere() -> None:
                try:
                    ctx.forward(record)
                except RuntimeError as error:
                    errors.append(error)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()

    def build(app: ads.App) -> None:
        app.stream("in", key=S, value=I).process(Keeps, ads.store.key_value("kept"), name="keeps").to("out")

    with driver(build) as d:
        d.input("in").pipe(1, key="k", at=1)
        assert out(d) == []
    assert len(errors) == 1
    [ctx] = kept
    for use in (ctx.commit, lambda: ctx.task_id, lambda: ctx.get_state_store("kept").get("a")):
        with pytest.raises(RuntimeError, match="only inside its `init`, `process` and punctuators"):
            use()


def test_a_commit_that_is_asked_for_comes_behind_the_record() -> None:
    class Asks(ads.Processor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            if record.value % 3 == 0:
                ctx.commit()
            ctx.forward(record)

    def build(app: ads.App) -> None:
        stream = app.stream("in", key=S, value=I).process_values(Asks)
        stream.group_by_key(value=I).count("counts").to_stream().to("out", key=S)

    with driver(build, commit_every=None) as d:
        for i in range(1, 8):
            d.input("in").pipe(i, key="k", at=i)
        assert [v for _, v, _ in out(d)] == [3, 6, 7]  # a table tells once per commit


def test_init_that_raises_stops_the_task() -> None:
    class Bad(ads.Processor):
        def init(self, ctx: ads.Context) -> None:
            raise ValueError("no licence")

    def build(app: ads.App) -> None:
        app.stream("in", key=S, value=I).process(Bad, name="bad")

    with pytest.raises(ads.FatalError, match=r"`bad`: init: ValueError: no licence.*processor_failed"):
        driver(build)


@pytest.mark.parametrize(
    ("code", "build"),
    [
        ("bad_argument", lambda stream: stream.process(Total())),
        ("bad_argument", lambda stream: stream.process(3)),
        ("bad_argument", lambda stream: stream.process(Total, 3)),
        ("unknown_store", lambda stream: stream.process(Total, "nowhere")),
        ("duplicate_name", lambda stream: [stream.process(Total, name="one") for _ in "ab"]),
    ],
)
def test_what_cannot_be_is_refused(code: str, build: Callable[[Any], object]) -> None:
    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        build(app.stream("in", key=S, value=I))

    with pytest.raises(ads.TopologyError) as refused:
        topology.build()
    assert refused.value.code == code
    assert refused.value.hint
