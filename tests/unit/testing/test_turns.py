"""The order of Java's priority queue: the values are what java.util.PriorityQueue gives for these calls."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import adstream as ads
from adstream.testing import TopologyTestDriver
from adstream.testing.turns import Turns


def drained(turns: Turns) -> str:
    found = ""
    while turns:
        found += turns.poll()[0]
    return found


def offered(*heads: tuple[int, str]) -> Turns:
    turns = Turns()
    for time, name in heads:
        turns.offer(time, (name, 0))
    return turns


def test_equal_times_come_as_the_heap_has_them() -> None:
    assert drained(offered((1, "a"), (1, "b"), (1, "c"))) == "acb"
    assert drained(offered((1, "a"), (1, "b"), (1, "c"), (1, "d"))) == "adcb"
    assert drained(offered((2, "a"), (1, "b"), (1, "c"), (2, "d"))) == "bcda"
    assert drained(offered((1, "a"), (1, "b"), (1, "c"), (1, "d"), (0, "e"), (1, "f"))) == "efbdca"


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_the_earliest_comes_first(steps: list[tuple[int, Any]]) -> None:
    turns, waiting = Turns(), list[tuple[int, str]]()
    for number, (time, poll) in enumerate(steps):
        if poll and waiting:
            taken = turns.poll()[0]
            [head] = [head for head in waiting if head[1] == taken]
            assert head[0] == min(waiting)[0]
            waiting.remove(head)
        else:
            turns.offer(time, (str(number), 0))
            waiting.append((time, str(number)))
        assert bool(turns) == bool(waiting)


def test_what_a_timer_writes_waits_until_all_timers_are_through() -> None:
    """Two tasks are due; what the first writes for the second is a record of its own."""

    class Told(ads.Processor):
        def init(self, ctx: ads.Context) -> None:
            self.ctx = ctx
            ctx.schedule("10s", "wall_clock_time", self.tell)

        def tell(self, now: int) -> None:
            for key in ("a", "b"):
                self.ctx.forward(ads.ProcessorRecord(key, "told", now))

        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None: ...

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        told = app.stream("in").process(Told, name="told")
        told.group_by_key("moved").count().to_stream().to("out", key=ads.serdes.string, value=ads.serdes.int64)

    with TopologyTestDriver(topology, partitions=1, commit_every=1) as driver:
        driver.input("in").pipe("x", key="k", at=1)
        driver.run()
        driver.advance_wall_clock("20s")
        assert [(r.key, r.value) for r in driver.output("out").read()] == [("a", 1), ("b", 1)]
