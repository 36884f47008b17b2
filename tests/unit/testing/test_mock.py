"""A processor by itself, with what Kafka Streams calls a mock context."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream.testing import CapturedForward, MockProcessorContext, TopologyTestDriver

S, I = ads.serdes.string, ads.serdes.int64  # noqa: E741


class Meter(ads.Processor[int]):
    def init(self, ctx: ads.Context) -> None:
        self.ctx = ctx
        self.sums = ctx.get_state_store("sums")
        self.timer = ctx.schedule("10s", "stream_time", self.tell)

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        self.sums.put(record.key, (self.sums.get(record.key) or 0) + record.value)
        ctx.count("seen")
        if record.value < 0:
            ctx.forward(record.with_value("negative"), "alarms")
            ctx.commit()

    def tell(self, time: int) -> None:
        for device, total in self.sums.all():
            self.ctx.forward(ads.ProcessorRecord(device, total, time))
            self.sums.delete(device)
        self.timer.cancel()


def test_what_a_processor_does_is_there_to_look_at() -> None:
    ctx = MockProcessorContext(ads.store.key_value("sums"))
    meter = Meter()
    meter.init(ctx)
    assert not ctx.committed()
    for value in (5, 2, -1):
        meter.process(ads.ProcessorRecord("a", value, 1_000), ctx)
    meter.process(ads.ProcessorRecord("b", 3, 2_000), ctx)
    assert ctx.get_state_store("sums").get("a") == 6
    assert ctx.committed()
    assert ctx.counted() == {"seen": 4}
    [(record, child)] = ctx.forwarded()
    assert (record.key, record.value, child) == ("a", "negative", "alarms")
    ctx.reset_forwards()
    ctx.reset_commit()
    assert not ctx.committed()

    [timer] = ctx.scheduled_punctuators()
    assert (timer.interval_ms, timer.type, timer.start_time, timer.cancelled) == (10_000, "stream_time", None, False)
    timer.punctuate(12_000)
    assert timer.cancelled
    assert [(r.key, r.value, r.timestamp) for r, _ in ctx.forwarded()] == [("a", 6, 12_000), ("b", 3, 12_000)]
    assert list(ctx.get_state_store("sums").all()) == []


def test_what_was_forwarded_to_a_child_is_what_was_to_it_or_to_all() -> None:
    ctx = MockProcessorContext()
    one = ads.ProcessorRecord("k", 1, 0)
    ctx.forward(one)
    ctx.forward(one.with_value(2), "left")
    ctx.forward(one.with_value(3), "right")
    assert [c.record.value for c in ctx.forwarded("left")] == [1, 2]
    assert [c.record.value for c in ctx.forwarded("nobody")] == [1]
    assert ctx.forwarded()[2] == CapturedForward(one.with_value(3), "right")


def test_what_it_is_told_the_test_says() -> None:
    ctx = MockProcessorContext(application_id="app", task_id="1_2", app_configs={"my.a": 1, "my.b": 2, "other": 3})
    assert (ctx.application_id, ctx.task_id) == ("app", "1_2")
    assert ctx.app_configs["other"] == 3
    assert ctx.app_configs_with_prefix("my.") == {"a": 1, "b": 2}
    assert ctx.record_metadata() is None
    ctx.set_record_metadata("in", 3, 7)
    assert ctx.record_metadata() == ads.RecordMetadata("in", 3, 7)
    for name in ("current_stream_time_ms", "current_system_time_ms"):
        with pytest.raises(RuntimeError, match=f"set_{name}"):
            getattr(ctx, name)
    ctx.set_current_stream_time_ms(5)
    ctx.set_current_system_time_ms(9)
    assert (ctx.current_stream_time_ms, ctx.current_system_time_ms) == (5, 9)


def test_mistakes_are_those_of_the_real_one() -> None:
    ctx = MockProcessorContext(ads.store.key_value("a"))
    with pytest.raises(KeyError, match="not connected to a store `b`"):
        ctx.get_state_store("b")
    with pytest.raises(ads.TopologyError):
        MockProcessorContext(ads.store.key_value("a"), ads.store.key_value("a"))
    with pytest.raises(ValueError, match="stream_time"):
        ctx.schedule("1s", "stream", print)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ProcessorRecord"):
        ctx.forward(("k", 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="whole numbers"):
        ctx.count("a", -1)


class Book(ads.Processor[int]):
    balance = ads.keyed.value(default=0)
    seen = ads.keyed.map(ttl="1s")

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        if record.timestamp not in self.seen:
            self.seen[record.timestamp] = True
            self.balance += record.value


def test_state_by_key_works_in_an_instance_that_the_context_begins() -> None:
    ctx = MockProcessorContext(node="book")
    ctx.set_current_stream_time_ms(0)
    book = ctx.begin(Book)
    for key, value, at in [("a", 10, 1), ("a", -3, 2), ("a", -3, 2), ("b", 1, 1)]:
        book.process(ads.ProcessorRecord(key, value, at), ctx)
    assert dict(ctx.get_state_store("book-balance").all()) == {"a": 7, "b": 1}


STORES = {
    "kv": ads.store.key_value("s"),
    "lru": ads.store.lru_map("s", 2),
    "window": ads.store.window("s", "20ms", "5ms"),
    "session": ads.store.session("s", "20ms"),
    "versioned": ads.store.versioned_key_value("s", "20ms"),
}


class Puts(ads.Processor[int]):
    """Puts what comes into its store, and says what is there."""

    def __init__(self, kind: str, told: list[Any]) -> None:
        self.kind, self.told = kind, told

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        kept = ctx.get_state_store("s")
        key, value, at = record.key, record.value, record.timestamp
        match self.kind:
            case "kv" | "lru":
                kept.put(key, value)
                self.told.append(list(kept.all()))
            case "window":
                kept.put(key, value, at)
                self.told.append([(w.key, w.start, v) for w, v in kept.all()])
            case "session":
                kept.put(ads.Windowed(key, at, at + 3), value)
                self.told.append([(w.start, w.end, v) for w, v in kept.fetch(key)])
            case _:
                kept.put(key, value, at)
                self.told.append([kept.get(key), kept.get(key, at - 1)])


@given(
    st.sampled_from(sorted(STORES)),
    st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 3), st.integers(1, 60)), max_size=10),
)
@settings(deadline=None, max_examples=40)
def test_its_stores_are_those_of_tasks(kind: str, records: list[Any]) -> None:
    mocked: list[Any] = []
    real: list[Any] = []
    ctx = MockProcessorContext(STORES[kind])
    puts = ctx.begin(lambda: Puts(kind, mocked))
    for key, value, at in records:
        puts.process(ads.ProcessorRecord(key, value, at), ctx)

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.stream("in", key=S, value=I).process(lambda: Puts(kind, real), STORES[kind])

    with TopologyTestDriver(topology, partitions=1, commit_every=1) as driver:
        for key, value, at in records:
            driver.input("in").pipe(value, key=key, at=at)
        driver.run()
    assert mocked == real
