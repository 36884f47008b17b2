"""Punctuations: first calls, missed periods, cancelling, restarts."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver

S, I = ads.serdes.string, ads.serdes.int64  # noqa: E741


class Ticks(ads.Processor):
    """Forwards the times at which it is called, by kind of clock."""

    clocks: Any = ("stream_time",)
    interval = "10ms"
    times = 1 << 30

    def init(self, ctx: ads.Context) -> None:
        self.ctx = ctx
        self.schedules = {clock: ctx.schedule(self.interval, clock, self.tick(clock)) for clock in self.clocks}

    def tick(self, clock: str) -> Callable[[int], None]:
        calls = 0

        def call(time: int) -> None:
            nonlocal calls
            calls += 1
            assert self.ctx.record_metadata() is None
            self.ctx.forward(ads.ProcessorRecord(clock, time, time))
            if calls == self.times:
                self.schedules[clock].cancel()

        return call

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None: ...


def driver(processor: type[ads.Processor], **options: Any) -> TopologyTestDriver:
    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.stream("in", key=S, value=I).process(processor, name="ticks").to("out", key=S, value=I)

    given: dict[str, Any] = {"partitions": 1, "commit_every": 1, **options}
    return TopologyTestDriver(topology, **given)


def at(d: TopologyTestDriver, *times: int) -> list[int]:
    """The calls after records of these times."""
    for time in times:
        d.input("in").pipe(1, key="k", at=time)
    return [r.value for r in d.output("out").read()]


def test_stream_time_begins_with_the_first_record_and_keeps_its_grid() -> None:
    with driver(Ticks) as d:
        assert at(d) == []
        assert at(d, 3) == [3]
        assert at(d, 9, 5) == []
        assert at(d, 10) == [10]
        assert at(d, 47) == [47]  # four periods, one call
        assert at(d, 49) == []
        assert at(d, 50) == [50]


def test_the_wall_clock_begins_one_interval_later() -> None:
    class Wall(Ticks):
        clocks = ("wall_clock_time",)

    with driver(Wall, wall_clock=1000) as d:
        assert at(d, 0, 500) == []
        d.advance_wall_clock("9ms")
        assert at(d) == []
        d.advance_wall_clock("1ms")
        assert at(d) == [1010]
        d.advance_wall_clock("35ms")
        assert at(d) == [1045]
        d.advance_wall_clock("5ms")
        assert at(d) == [1050]


def test_a_cancelled_one_is_called_no_more() -> None:
    class Twice(Ticks):
        times = 2

    with driver(Twice) as d:
        assert at(d, 0, 10, 20, 30) == [0, 10]
        d.restart()
        assert at(d, 40, 50) == []  # it stays cancelled


@pytest.mark.parametrize("restart", [True, False])
def test_schedules_of_init_go_on_after_a_restart(restart: bool) -> None:
    class Both(Ticks):
        clocks = ("stream_time", "wall_clock_time")

    def play(disturb: bool) -> list[Any]:
        with driver(Both) as d:
            for i, time in enumerate([3, 8, 12, 31, 39, 40, 64]):
                if disturb and restart:
                    d.restart()
                elif disturb:
                    d.crash_at("before-commit", restart=False)
                d.input("in").pipe(1, key="k", at=time)
                d.run()
                d.advance_wall_clock(f"{4 + i}ms")
            return [(r.key, r.value) for r in d.output("out").read()]

    calm = play(False)
    assert len({key for key, _ in calm}) == 2
    assert play(True) == calm


def test_a_call_without_any_effect_is_not_repeated_after_a_restart() -> None:
    calls: list[int] = []

    class Silent(ads.Processor):
        def init(self, ctx: ads.Context) -> None:
            ctx.schedule("5ms", "wall_clock_time", calls.append)

        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None: ...

    with driver(Silent) as d:
        for _ in range(4):
            d.advance_wall_clock("5ms")
            d.restart()
            d.input("in").pipe(1, key="k", at=1)
            d.restart()
        assert calls == [5, 10, 15, 20]


def test_what_is_due_earlier_is_called_first_over_all_processors() -> None:
    class Slow(Ticks):
        interval = "20ms"

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        stream = app.stream("in", key=S, value=I)
        for name, processor in (("slow", Slow), ("fast", Ticks)):
            made = stream.process(processor, name=name)
            made.map(lambda k, v, name=name: (name, v)).to("out", key=S, value=I)

    with TopologyTestDriver(topology, partitions=1, commit_every=1) as d:
        for time in (0, 35):
            d.input("in").pipe(1, key="k", at=time)
        # Due at 10 and at 20: the fast one first, though it was made later.
        assert [r.key for r in d.output("out").read()] == ["slow", "fast", "fast", "slow"]


def test_a_punctuator_that_raises_is_a_dead_letter_and_is_called_again() -> None:
    class Raises(ads.Processor):
        def init(self, ctx: ads.Context) -> None:
            self.ctx = ctx
            ctx.schedule("10ms", "stream_time", self.tick)

        def tick(self, time: int) -> None:
            self.ctx.forward(ads.ProcessorRecord("k", time, time))
            raise ValueError("no")

        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None: ...

    with driver(Raises) as d:
        assert at(d, 5, 15) == [5, 15]
        letters = d.dead_letters("in")
        assert [(x.reason, x.operator, x.value, x.message) for x in letters] == [
            ("callable_raised", "ticks", None, "ValueError: no")
        ] * 2


def test_scheduling_may_happen_at_any_time() -> None:
    class Later(ads.Processor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            cancellable = ctx.schedule("10ms", "stream_time", lambda time: call(time))

            def call(time: int) -> None:
                ctx.forward(record.with_timestamp(time))
                cancellable.cancel()

    with driver(Later) as d:
        d.input("in").pipe(1, key="a", at=5)
        d.input("in").pipe(2, key="b", at=6)
        assert [(r.key, r.timestamp) for r in d.output("out").read()] == [("a", 5), ("b", 6)]


@pytest.mark.parametrize(
    ("error", "ask"),
    [
        ("`interval` is zero", lambda ctx: ctx.schedule("0s", "stream_time", print)),
        ("must be a duration", lambda ctx: ctx.schedule(5, "stream_time", print)),
        ("`type` is", lambda ctx: ctx.schedule("5s", "sun", print)),
        ("`callback` must be a function", lambda ctx: ctx.schedule("5s", "stream_time", 3)),
    ],
)
def test_what_cannot_be_scheduled(error: str, ask: Callable[[Any], object]) -> None:
    class Bad(ads.Processor):
        def init(self, ctx: ads.Context) -> None:
            ask(ctx)

    with pytest.raises(ads.FatalError, match=error):
        driver(Bad)


def test_what_a_clock_writes_behind_a_shuffle_is_read_in_its_turn() -> None:
    class Clock(Ticks):
        clocks = ("wall_clock_time",)

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        ticks = app.stream("in", key=S, value=I).process(Clock, name="ticks")
        ticks.group_by_key(key=S, value=I).count("counts").to_stream().to("out", key=S, value=I)

    with TopologyTestDriver(topology, partitions=1, commit_every=1) as d:
        d.input("in").pipe(1, key="k", at=5)
        d.advance_wall_clock("11ms")
        d.advance_wall_clock("11ms")
        assert [(r.key, r.value, r.timestamp) for r in d.output("out").read()] == [
            ("wall_clock_time", 1, 11),
            ("wall_clock_time", 2, 22),
        ]


def test_a_start_time_makes_the_grid() -> None:
    class Hourly(ads.Processor):
        def init(self, ctx: ads.Context) -> None:
            start = datetime(1970, 1, 1, 1, tzinfo=UTC)
            ctx.schedule("1h", "wall_clock_time", lambda time: ctx.forward(said("t", time)), start_time=start)

    def said(key: str, time: int) -> ads.ProcessorRecord:
        return ads.ProcessorRecord(key, time, time)

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.stream("in").process(Hourly).to("out")

    with TopologyTestDriver(topology, partitions=1, wall_clock="1970-01-01T03:20:00Z") as driver:
        driver.advance_wall_clock("39m")
        assert driver.output("out").read() == []
        driver.advance_wall_clock("1m")
        driver.restart()
        driver.advance_wall_clock("2h")
        hour = 3_600_000
        assert [r.value for r in driver.output("out").read()] == [4 * hour, 6 * hour]


@pytest.mark.parametrize("start", [-1, datetime(1960, 1, 1, tzinfo=UTC)])
def test_no_start_lies_before_the_epoch(start: Any) -> None:
    class Early(ads.Processor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            ctx.schedule("1s", "stream_time", print, start_time=start)

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.stream("in").process(Early)

    with TopologyTestDriver(topology, partitions=1) as driver:
        driver.input("in").pipe(1, key="a")
        (dead,) = driver.dead_letters("in")
    assert "cannot lie before the epoch" in (dead.message or "")
