"""Behind a shuffle, what matches and what is late depends on the order within each input partition alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream import Pattern, col
from adstream.testing import TopologyTestDriver

DELAY_MS = 2_000
END_MS = 10_000_000
PATTERNS = (
    "a (t = 'a') -> b (t = 'b') within 5s",
    "a (t = 'a')+ -> b (t = 'b') within 6s",
    "a (t = 'a') !-> b (t = 'b') within 4s",
    "a (t = 'a' or t = 'b') ->> c (n > a.n) within 7s",
)
steps = st.tuples(
    st.sampled_from("kl"), st.sampled_from("abc"), st.integers(0, 3) | st.integers(0, 3_000), st.integers(0, 5_000)
)
lanes = st.lists(st.lists(steps, max_size=12), min_size=1, max_size=3)
Event = tuple[int, dict[str, Any]]


class Row(ads.Record):
    k: str
    t: str
    n: int
    i: int


def timed(drawn: list[list[tuple[str, str, int, int]]]) -> list[list[Event]]:
    """By lane: each so much later than the one before, and then some earlier, now and then by more than the bound."""
    found: list[list[Event]] = []
    number = 0
    for lane in drawn:
        now, events = 10_000, list[Event]()
        for key, letter, step, back in lane:
            now += step
            events.append((now - back, {"k": key, "t": letter, "n": number % 4, "i": number}))
            number += 1
        found.append(events)
    return found


def topology(text: str, *, moved: bool, order: bool = False) -> ads.Topology:
    """`moved`: rows are anywhere; if not, where their keys say."""

    @ads.topology(name="app")
    def build(app: ads.App) -> None:
        rows = app.stream("in", Row, key=None if moved else "k")
        delay = f"{DELAY_MS if moved else 0}ms"
        found = rows.group_by("k").match(
            Pattern.parse(text), max_delay=delay, **({"order_by": -col("n")} if order else {})
        )
        assert not isinstance(found, dict)
        a, rest = ads.matched("a"), ads.matched("c" if "c (" in text else "b")
        asked = (
            {"k": col("k"), "a": a.values("i"), "rest": rest.values("i")} if "!->" not in text else {"a": a.values("i")}
        )
        found.select(**asked).to("out")
        found.timed_out.select(a=a.values("i")).to("gone")
        found.late.to("late")

    return build


def read(driver: TopologyTestDriver, text: str) -> dict[str, Counter[str]]:
    found = {topic: Counter[str]() for topic in ("out", "gone", "late")}
    for topic, rows in found.items():
        for r in driver.output(topic).read():
            # An absence is certain when somebody looks, in Flink, too: its time is where time is then.
            at = None if topic == "out" and "!->" in text else r.timestamp
            rows[str((at, r.value))] += 1
    return found


def expected(text: str, sent: list[list[Event]], order: bool) -> dict[str, Counter[str]]:
    """By one clock: what is late by its lane's is left out, and the others are in order of time and of lanes."""
    taken, late = [], []
    for lane, events in enumerate(sent):
        clock = -DELAY_MS
        for at, row in events:
            (late if at <= clock - DELAY_MS - 1 else taken).append((at, lane, row))
            clock = max(clock, at)
    taken.sort(key=lambda one: one[:2])
    with TopologyTestDriver(topology(text, moved=False, order=order), partitions=1) as driver:
        for at, _, row in taken:
            driver.input("in").pipe(row, key=row["k"], at=at)
        driver.input("in").pipe({"k": "end", "t": "", "n": 0, "i": -1}, key="end", at=END_MS)
        return {**read(driver, text), "late": Counter(str((at, row)) for at, _, row in late)}


@settings(max_examples=100, deadline=None)
@given(
    drawn=lanes,
    text=st.sampled_from(PATTERNS),
    order=st.booleans(),
    turns=st.lists(st.integers(0, 2), max_size=40),
    crashes=st.sets(st.integers(0, 40), max_size=3),
    commit_every=st.sampled_from([1, 3, 100]),
)
def test_it_does_not_matter_which_partition_is_read_first(
    drawn: list[list[tuple[str, str, int, int]]],
    text: str,
    order: bool,
    turns: list[int],
    crashes: set[int],
    commit_every: int,
) -> None:
    sent = timed(drawn)
    waiting = [list(events) for events in sent]
    with TopologyTestDriver(
        topology(text, moved=True, order=order), partitions=len(sent), commit_every=commit_every
    ) as driver:
        for turn, which in enumerate([*turns, *range(3), *range(3)]):
            if turn in crashes:
                driver.restart()
            for _ in range(1 if turn < len(turns) else 100):
                if which < len(waiting) and waiting[which]:
                    at, row = waiting[which].pop(0)
                    driver.input("in").pipe(row, partition=which, at=at)
        for p in range(len(sent)):
            driver.input("in").pipe({"k": "end", "t": "", "n": 0, "i": -1}, partition=p, at=END_MS)
        driver.commit()
        found = read(driver, text)
        assert sum(c.live_runs + c.buffered for c in driver.patterns("match-1-store").values()) == 0
    assert found == expected(text, sent, order)
