"""What becomes of records that fail: dead letters, counted, or the end of the task."""

from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver

S, I = ads.serdes.string, ads.serdes.int64  # noqa: E741


def build(app: ads.App, source: Any = None, step: Any = None, target: Any = None) -> None:
    stream = app.stream("in", key=S, value=I)
    if source is not None:
        stream.on_error(source)
    halved = stream.map_values(lambda v: 10 // v).named("halve")
    if step is not None:
        halved.on_error(step)
    halved.map_values(lambda v: "text" if v == 5 else v).to("out", key=S, value=I, on_error=target)


def driver(**options: Any) -> TopologyTestDriver:
    topology = ads.topology(name="app")(lambda app: build(app, **options))
    d = TopologyTestDriver(topology, partitions=1, commit_every=1)
    d.input("in").pipe_raw(b"k", b"short", at=1)
    for value in (0, 2, 1):
        d.input("in").pipe(value, key="k", at=1)
    return d


def reasons(d: TopologyTestDriver, kind: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for counted in d.counters().values():
        for reason, n in counted.items():
            if reason.startswith(f"{kind}:"):
                found[reason.removeprefix(f"{kind}:")] = n
    return found


WRONG = {"malformed_value": 1, "callable_raised": 1, "unwritable_value": 1}


def test_dead_letters_are_what_happens_by_itself() -> None:
    with driver() as d:
        assert [r.value for r in d.output("out").read()] == [10]
        assert {x.reason: 1 for x in d.dead_letters("in")} == WRONG == reasons(d, "dead")


def test_to_go_on_is_to_count() -> None:
    with driver(source="continue", step="continue", target="continue") as d:
        assert [r.value for r in d.output("out").read()] == [10]
        assert d.dead_letters("in") == []
        assert reasons(d, "dropped") == WRONG


def test_the_application_says_it_for_all_and_an_operation_for_itself() -> None:
    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        build(app, step="dead_letter")
        app.on_error(deserialization="continue", processing="continue", production="continue")

    with TopologyTestDriver(topology, partitions=1) as d:
        d.input("in").pipe_raw(b"k", b"short", at=1)
        d.input("in").pipe(0, key="k", at=1)
        assert [x.operator for x in d.dead_letters("in")] == ["halve"]
        assert reasons(d, "dropped") == {"malformed_value": 1}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"source": "fail"}, "`source-1`: malformed_value: .*record 0 of `in`, partition 0.*record_failed"),
        ({"step": "fail"}, "`halve`: callable_raised: ZeroDivisionError.*record 1 of `in`, partition 0.*record_failed"),
        ({"target": "fail"}, "`to-1`: unwritable_value: .*record 2 of `in`, partition 0.*record_failed"),
    ],
)
def test_to_fail_is_the_tasks_end(options: dict[str, Any], error: str) -> None:
    with driver(**options) as d, pytest.raises(ads.FatalError, match=error):
        d.run()


def test_what_is_no_such_word_is_refused() -> None:
    for wrong in (lambda app: app.on_error(processing="ignore"), lambda app: build(app, step="ignore")):
        with pytest.raises(ads.TopologyError) as refused:
            ads.topology(name="app")(lambda app, wrong=wrong: wrong(app)).build()
        assert refused.value.code == "bad_argument"


def test_a_function_decides_by_the_record_and_the_failure() -> None:
    asked: list[ads.ErrorHandlerContext] = []

    def decide(failed: ads.ErrorHandlerContext) -> Any:
        asked.append(failed)
        return "dead_letter" if failed.message.startswith("ZeroDivisionError") else "continue"

    with driver(source=decide, step=decide, target=decide) as d:
        assert [r.value for r in d.output("out").read()] == [10]
        assert [letter.reason for letter in d.dead_letters("in")] == ["callable_raised"]
        assert reasons(d, "dropped") == {"malformed_value": 1, "unwritable_value": 1}
    assert [(a.node, a.topic, a.partition, a.offset, a.reason) for a in asked] == [
        ("source-1", "in", 0, 0, "malformed_value"),
        ("halve", "in", 0, 1, "callable_raised"),
        ("to-1", "in", 0, 2, "unwritable_value"),
    ]
    assert (asked[0].source_raw_key, asked[0].source_raw_value, asked[0].timestamp) == (b"k", b"short", 1)
    assert (asked[1].source_raw_value, asked[1].headers) == (bytes(8), [])
    assert asked[1].message == "ZeroDivisionError: integer division or modulo by zero"


def test_a_function_is_told_headers() -> None:
    seen: list[Any] = []

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.stream("in", key=S, value=I).on_error(lambda failed: seen.append(failed.headers) or "continue")

    with TopologyTestDriver(topology, partitions=1) as d:
        d.input("in").pipe_raw(b"k", b"short", at=1, headers=[("h", b"1"), ("h", None)])
        d.run()
    assert seen == [[("h", b"1"), ("h", None)]]


@pytest.mark.parametrize("answer", ["ignore", None, 1])
def test_what_a_function_answers_is_one_of_the_words(answer: Any) -> None:
    with driver(step=lambda failed: answer) as d, pytest.raises(ads.FatalError, match=r"it returned .*record_failed"):
        d.run()


def test_a_function_that_raises_is_the_tasks_end() -> None:
    def decide(failed: ads.ErrorHandlerContext) -> Any:
        raise RuntimeError("no idea")

    with driver(step=decide) as d, pytest.raises(ads.FatalError, match=r"RuntimeError: no idea.*record_failed"):
        d.run()


def test_a_function_of_another_number_of_arguments_is_refused() -> None:
    with pytest.raises(ads.TopologyError) as refused:
        ads.topology(name="app")(lambda app: app.on_error(processing=lambda record, error: "fail")).build()
    assert refused.value.code == "bad_arity"


def test_punctuators_have_no_record() -> None:
    asked: list[ads.ErrorHandlerContext] = []

    class Late(ads.Processor[int]):
        def init(self, ctx: ads.Context) -> None:
            ctx.schedule("1s", "stream_time", self.tell)

        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None: ...

        def tell(self, time: int) -> None:
            raise ValueError("not now")

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.on_error(processing=lambda failed: asked.append(failed) or "continue")
        app.stream("in", key=S, value=I).process(Late, name="late")

    with TopologyTestDriver(topology, partitions=1) as d:
        d.input("in").pipe(1, key="k", at=1)
        assert d.counters()["late"]["dropped:callable_raised"] == 1
    [one] = asked
    assert (one.topic, one.offset, one.source_raw_key, one.node) == (None, None, None, "late")
    assert one.message == "ValueError: not now"


def test_a_function_is_told_the_record_as_the_operation_was_given_it() -> None:
    asked: list[ads.ErrorHandlerContext] = []

    class Later(ads.Processor[int]):
        def init(self, ctx: ads.Context) -> None:
            self.ctx = ctx
            ctx.schedule("10ms", "stream_time", self.late)

        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            ctx.forward(record.with_value(-record.value).with_timestamp(90).with_header("h", b"2"))

        def late(self, time: int) -> None:
            raise ValueError("late")

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.on_error(processing=lambda failed: asked.append(failed) or "continue")
        stream = app.stream("in", key=S, value=I).map(lambda k, v: (k + "!", v)).process(Later)
        stream.map_values(lambda v: 1 // (v + 5)).named("divide")

    with TopologyTestDriver(topology, partitions=1) as d:
        d.input("in").pipe(5, key="k", at=20, headers=[("h", b"1")])
        d.run()
    record, punctuation = asked
    assert (record.node, record.timestamp, record.headers) == ("divide", 90, [("h", b"1"), ("h", b"2")])
    assert record.record == ads.ProcessorRecord("k!", -5, 90, [("h", b"1"), ("h", b"2")])
    assert (record.topic, record.offset, record.source_raw_key) == ("in", 0, b"k")
    assert (punctuation.message, punctuation.timestamp, punctuation.headers) == ("ValueError: late", 20, [])
    assert (punctuation.topic, punctuation.offset, punctuation.record) == (None, None, None)
