"""`map_async`: many at once, in order, within a time, and each answer counts once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import pytest

import adstream as ads
from adstream import col
from adstream.dsl import waiting
from adstream.dsl.waiting import Asking, longest_ms
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS
from tests.unit.dsl.support import events, refused

pytestmark = pytest.mark.timeout(60)


class Event(ads.Record):
    n: int


class Out(ads.Record):
    n: int
    v: int | None


def build(function: Callable[[Any], Any], schema: Any = Out, **options: Any) -> ads.Topology:
    @ads.topology(name="asking")
    def topology(app: ads.App) -> None:
        answers = app.stream("in", Event).map_async(function, schema=schema, **options)
        answers.named("ask").to("out")

    return topology


def run(function: Callable[[Any], Any], numbers: range, **options: Any) -> tuple[list[Any], dict[int, tuple[str, str]]]:
    """The values that come out; of each dead letter `n`, reason and message."""
    options = {"timeout": "5s", **options}
    with TopologyTestDriver(build(function, **options), partitions=1) as driver:
        for n in numbers:
            driver.input("in").pipe({"n": n})
        out = [r.value for r in driver.output("out").read()]
        return out, {json.loads(d.value or b"")["n"]: (d.reason, d.message or "") for d in driver.dead_letters("in")}


class Service:
    """Answers, and knows how many wait for it."""

    def __init__(self, answer: Callable[[int], Any] = lambda n: n * 10, *, together: int = 1) -> None:
        self.answer, self.together = answer, together
        self.waiting = self.most = 0
        self.asked: Counter[int] = Counter()
        self.come = asyncio.Event()

    async def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self.asked[row["n"]] += 1
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            # Nobody is answered before so many wait: if they came one by one this would hang.
            if self.waiting >= self.together:
                self.come.set()
            await self.come.wait()
            return {"n": row["n"], "v": self.answer(row["n"])}
        finally:
            self.waiting -= 1


def test_many_are_asked_at_once_and_no_more_than_that() -> None:
    service = Service(together=7)
    out, dead = run(service, range(40), capacity=7)
    assert [row["v"] for row in out] == [n * 10 for n in range(40)]
    assert (service.most, dead) == (7, {})


def test_rows_keep_their_order_whoever_answers_first() -> None:
    answered: list[int] = []

    async def slowest_first(row: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep((5 - row["n"]) * 0.02)
        answered.append(row["n"])
        return row | {"v": None}

    out, _ = run(slowest_first, range(5))
    assert [row["n"] for row in out] == [0, 1, 2, 3, 4]
    assert answered == [4, 3, 2, 1, 0]


def test_who_does_not_answer_in_time_is_a_dead_letter_and_holds_nobody_up() -> None:
    cancelled: list[int] = []

    async def ask(row: dict[str, Any]) -> dict[str, Any]:
        if row["n"] == 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(row["n"])
                raise
        return row | {"v": 1}

    out, dead = run(ask, range(4), timeout="50ms", retries=1)
    assert [row["n"] for row in out] == [0, 1, 3]
    assert dead == {2: ("callable_raised", "TimeoutError: no answer within 50ms (asked 2 times)")}
    assert cancelled == [2, 2]


def test_it_is_asked_again_as_often_as_was_said() -> None:
    asked: Counter[int] = Counter()

    async def flaky(row: dict[str, Any]) -> dict[str, Any]:
        asked[row["n"]] += 1
        if asked[row["n"]] <= row["n"]:
            raise ConnectionError(f"attempt {asked[row['n']]}")
        row["v"] = asked[row["n"]]
        return row

    out, dead = run(flaky, range(5), retries=2)
    assert [(row["n"], row["v"]) for row in out] == [(0, 1), (1, 2), (2, 3)]
    assert asked == {0: 1, 1: 2, 2: 3, 3: 3, 4: 3}
    assert set(dead) == {3, 4}
    assert dead[3] == ("callable_raised", "ConnectionError: attempt 3 (asked 3 times)")


def test_an_answer_of_another_kind_is_its_rows_affair() -> None:
    async def ask(row: dict[str, Any]) -> Any:
        return [row | {"v": 1}, row | {"v": "one"}, None, row | {"v": 2**70}][row["n"]]

    out, dead = run(ask, range(4))
    assert [row["n"] for row in out] == [0]
    assert dead[1] == ("callable_raised", "TypeError: a value of type str where `int` was promised")
    assert "'NoneType' object has no attribute 'n'" in dead[2][1]
    assert dead[3][1].startswith("OverflowError")


def test_values_cross_as_they_do_for_map() -> None:
    class Everything(ads.Record):
        at: datetime
        gap: timedelta | None
        price: Annotated[Decimal, ads.decimal(38, 9)] | None
        text: str | None
        yes: bool | None

    seen: list[dict[str, Any]] = []

    async def same(row: dict[str, Any]) -> dict[str, Any]:
        return row

    def noted(row: dict[str, Any]) -> dict[str, Any]:
        seen.append(row)
        return row

    @ads.topology(name="asking")
    def topology(app: ads.App) -> None:
        rows = app.stream("in", Everything, timestamp="at").with_columns(gap=ads.lit(timedelta(milliseconds=-1)))
        rows.map(noted, schema=Everything).to("mapped")
        rows.map_async(same, schema=Everything, timeout="10s").to("asked")

    with TopologyTestDriver(topology, partitions=1) as driver:
        price = "-12345678901234567890123456789.123456789"
        driver.input("in").pipe({"at": "2026-01-15T10:00:00.001Z", "price": price, "text": "é", "yes": False})
        driver.input("in").pipe({"at": "2026-01-15T10:00:00.002Z"})
        mapped, asked = (driver.output(topic).read_raw() for topic in ("mapped", "asked"))
    assert len(asked) == len(seen) == 2
    assert [(r.value, r.timestamp) for r in asked] == [(r.value, r.timestamp) for r in mapped]


def test_so_many_rows_are_handed_over_that_they_are_answered_in_time() -> None:
    """Even if nobody answers: a worker that waits for minutes would lose its tasks."""
    sizes: list[int] = []
    built = build(Service(), capacity=4, timeout="2s").build()
    [asking] = built.callables

    def counting(rows: list[Any]) -> Any:
        sizes.append(len(rows))
        return asking(rows)

    built = dataclasses.replace(built, callables=(counting,))
    with TopologyTestDriver(built, partitions=1) as driver:
        for n in range(19):
            driver.input("in").pipe({"n": n})
        assert len(driver.output("out").read()) == 19
    assert sizes == [8, 8, 3]  # two times four are given up within 5 s


@pytest.mark.parametrize("batch_rows", [1, 2, 7, None])
@pytest.mark.parametrize("step", STEPS)
def test_an_answer_counts_once_though_it_may_be_asked_for_again(step: Any, batch_rows: int | None) -> None:
    """No two answers are alike, so whatever used one that was not logged would show."""
    given: list[int] = []

    async def ask(row: dict[str, Any]) -> dict[str, Any]:
        given.append(row["n"])
        return {"n": row["n"], "v": len(given)}

    @ads.topology(name="asking")
    def topology(app: ads.App) -> None:
        answers = app.stream("in", Event).map_async(ask, schema=Out, timeout="10s", capacity=3)
        answers.to("out")
        answers.filter(col("v") > 0).to("again")
        summed = answers.with_columns(one=ads.lit(1)).group_by("one").aggregate(total=ads.sum("v"), rows=ads.count())
        summed.named("sums").to("sums")

    with TopologyTestDriver(topology, partitions=1, batch_rows=batch_rows, commit_every=5) as driver:
        driver.crash_at(step, restart=True)
        for n in range(20):
            driver.input("in").pipe({"n": n})
        out = [r.value for r in driver.output("out").read()]
        assert driver.crashed
        assert [row["n"] for row in out] == list(range(20))
        assert [r.value for r in driver.output("again").read()] == out
        sums = driver.output("sums").read()[-1].value
        assert (sums["total"], sums["rows"]) == (sum(row["v"] for row in out), 20)
        driver.restart()
        driver.output("out").read()
    asked = Counter(given)
    again = {n for n, times in asked.items() if times > 1}
    # What was committed is asked about no more; of the rest every row that was answered is.
    assert again <= set(range(5))
    assert set(asked.values()) <= {1, 2}
    assert bool(again) == (step != "after-commit")


def test_a_batch_without_rows_asks_nobody() -> None:
    service = Service()

    @ads.topology(name="asking")
    def topology(app: ads.App) -> None:
        app.stream("in", Event).filter(col("n") < 0).map_async(service, schema=Out, timeout="1s").to("out")

    with TopologyTestDriver(topology, partitions=1) as driver:
        driver.input("in").pipe({"n": 1})
        assert driver.output("out").read() == []
    assert not service.asked


def test_it_is_checked_when_the_topology_is_built() -> None:
    async def ask(row: dict[str, Any]) -> dict[str, Any]:
        return row

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        return row

    with refused("bad_argument", "not an async function: `plain`", "write `async def …`", "map_async"):
        events().map_async(plain, schema=Out, timeout="1s")
    with refused("timeout_missing", "how long is an answer waited for?", 'write `timeout="1s"`', "map_async"):
        events().map_async(ask, schema=Out)
    with refused("bad_argument", "`capacity` is 0", "from 1", "map_async"):
        events().map_async(ask, schema=Out, timeout="1s", capacity=0)
    with refused("bad_argument", "`retries` is -1", "from 0", "map_async"):
        events().map_async(ask, schema=Out, timeout="1s", retries=-1)
    with refused("bad_argument", "one row could take 30s50ms", "at most 20s", "map_async"):
        events().map_async(ask, schema=Out, timeout="15s", retries=1)
    with refused("bad_duration", "`timeout`", "", "map_async"):
        events().map_async(ask, schema=Out, timeout="0s")
    for function in (ask, Service(), functools.partial(ask)):
        made = events().map_async(function, schema=Out, timeout="1s")
        assert made.schema == {"n": "int", "v": "int"}


def test_how_long_a_row_may_take() -> None:
    assert longest_ms(200, 0) == 200
    assert longest_ms(200, 3) == 4 * 200 + 50 + 100 + 200


class Panic(BaseException):
    """As those that extensions raise when they panic."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


async def cancelled_inside() -> None:
    inner = asyncio.ensure_future(asyncio.sleep(60))
    inner.cancel()
    await inner


async def exits() -> None:
    sys.exit("no configuration")


async def exits_in_a_task_of_its_own() -> None:
    await asyncio.create_task(exits())


def raises(error: BaseException) -> Callable[[], Any]:
    async def raising() -> None:
        raise error

    return raising


async def stops_the_loop() -> None:
    asyncio.get_running_loop().stop()
    raise ValueError("stopped")


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        (cancelled_inside, "CancelledError: "),
        (cancels_itself, "CancelledError: "),
        (stops_the_loop, "ValueError: stopped"),
        (exits, "SystemExit: no configuration"),
        (exits_in_a_task_of_its_own, "SystemExit: no configuration"),
        (raises(GeneratorExit()), "GeneratorExit: "),
        (raises(Panic("index out of bounds")), "Panic: index out of bounds"),
        (raises(Unspeakable()), "Unspeakable: (its text raises ValueError)"),
        (raises(ValueError("\udc80")), "ValueError: \\udc80"),
    ],
)
def test_whatever_one_rows_function_raises_is_that_rows_affair(fail: Callable[[], Any], said: str) -> None:
    asked: Counter[int] = Counter()

    async def ask(row: dict[str, Any]) -> dict[str, Any]:
        asked[row["n"]] += 1
        await asyncio.sleep(0.01)
        if row["n"] == 2:
            await fail()
        return row | {"v": 1}

    for _ in range(2):  # and it can be asked afterwards
        asked.clear()
        out, dead = run(ask, range(8), capacity=3)
        assert dead == {2: ("callable_raised", said)}
        assert [row["n"] for row in out] == [0, 1, 3, 4, 5, 6, 7]
        assert asked == Counter(range(8))


def test_who_does_not_let_itself_be_cancelled_holds_nobody_up_and_is_not_heard() -> None:
    released, ended = threading.Event(), threading.Event()

    async def stubborn(row: dict[str, Any]) -> dict[str, Any]:
        if row["n"] == 2:
            while not released.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)
            ended.set()
        return row | {"v": 1}

    guard = threading.Timer(20, released.set)  # so that a call which waits for it fails, and does not hang
    guard.start()
    out, dead = run(stubborn, range(8), capacity=3, timeout="100ms")
    assert not released.is_set()
    guard.cancel()
    assert [row["n"] for row in out] == [0, 1, 3, 4, 5, 6, 7]
    assert dead == {2: ("callable_raised", "TimeoutError: no answer within 100ms")}
    released.set()
    assert ended.wait(10)  # it was there all the time


def test_an_answer_after_its_time_does_not_count() -> None:
    async def ask(row: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60 if row["n"] == 2 else 0)
        return row | {"v": 1}

    out, dead = run(ask, range(4), timeout="100ms")
    assert [row["n"] for row in out] == [0, 1, 3]
    assert dead == {2: ("callable_raised", "TimeoutError: no answer within 100ms")}


def test_nothing_goes_on_when_the_call_was_interrupted() -> None:
    """Ctrl-C in the thread that waits for answers."""
    open_now: set[int] = set()
    asking = Asking(_holding(open_now), ("n", "v"), 3, 10_000, 0, 3)
    interrupt = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        asking([{"n": n, "v": None} for n in range(8)])
    assert open_now == set()


def _holding(open_now: set[int]) -> Callable[[Any], Any]:
    async def hold(row: dict[str, Any]) -> dict[str, Any]:
        open_now.add(row["n"])
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.02)  # giving back a connection
            open_now.discard(row["n"])
        return row

    return hold


def test_rows_that_closing_windows_tell_at_once_are_asked_in_pieces() -> None:
    """A hundred rows in one call: nobody of the second piece is asked while one of the first is open."""
    answered: list[int] = []
    begun: list[tuple[int, int]] = []  # the row, and how many were answered

    async def ask(row: dict[str, Any]) -> dict[str, Any]:
        begun.append((row["n"], len(answered)))
        await asyncio.sleep(0.001 * (row["n"] % 3))
        answered.append(row["n"])
        return {"n": row["n"], "v": 1}

    class At(ads.Record):
        n: int
        at: datetime

    @ads.topology(name="asking")
    def topology(app: ads.App) -> None:
        per_minute = app.stream("in", At, timestamp="at").group_by("n").windowed_by(ads.tumbling("1m", grace="0s"))
        closed = per_minute.aggregate(rows=ads.count()).final()
        # Two at once, each within 2 s, so four in 5 s.
        closed.map_async(ask, schema=Out, capacity=2, timeout="2s").to("out")

    with TopologyTestDriver(topology, partitions=1) as driver:
        for n in range(100):
            driver.input("in").pipe({"n": n, "at": "2026-01-15T10:00:00Z"})
        driver.input("in").pipe({"n": 1000, "at": "2026-01-15T11:00:00Z"})
        assert sorted(r.value["n"] for r in driver.output("out").read()) == list(range(100))
    assert len(begun) == 100
    assert [count - count % 4 for _, count in begun] == [place - place % 4 for place in range(100)]


def test_a_loop_that_has_ended_is_told_and_the_next_call_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ends_it() -> list[tuple[bool, Any]]:
        asyncio.get_running_loop().stop()
        return await asyncio.get_running_loop().create_future()

    async def answers() -> list[tuple[bool, Any]]:
        return [(True, 1)]

    def serve(loop: asyncio.AbstractEventLoop) -> None:
        loop.run_forever()
        loop.close()

    monkeypatch.setattr(waiting, "_serve", serve)
    loop = waiting._Loop()
    with pytest.raises(RuntimeError, match="has ended"):
        loop.run(ends_it())
    assert loop.run(answers()) == [(True, 1)]
    assert loop._loop is not None
    loop._loop.call_soon_threadsafe(loop._loop.stop)
