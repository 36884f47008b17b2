"""A job with rules finds what jobs with fixed patterns find, cut where one version takes over from the other."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream import Pattern
from adstream.testing import TopologyTestDriver

TEXT = ads.serdes.string
DELAY_MS = 2_000
PATTERNS = (
    "a (t = 'a') -> b (t = 'b') within 5s",
    "a (t = 'a')+ -> b (t = 'b') within 6s",
    "a (t = 'a') => b (t = 'b' or t = 'c') within 9s",
    "a (t = 'a') !-> b (t = 'b') within 4s",
    "a (t = 'a' or t = 'b') ->> c (n > a.n) within 7s",
    "a (t = 'c')",
)
events = st.lists(
    st.tuples(st.sampled_from("kl"), st.sampled_from("abc"), st.integers(0, 3_000), st.integers(0, DELAY_MS)),
    max_size=25,
)
Event = tuple[str, int, dict[str, Any]]


def timed(drawn: list[tuple[str, str, int, int]]) -> list[Event]:
    """Each so much later than the one before, and then up to the bound earlier."""
    found, now = [], 10_000
    for n, (key, letter, step, back) in enumerate(drawn):
        now += step
        found.append((key, now - back, {"t": letter, "n": n % 4, "i": n}))
    return found


def topology(patterns: Pattern | None) -> ads.Topology:
    @ads.topology(name="app")
    def build(app: ads.App) -> None:
        stream = app.stream("in", key=TEXT).group_by_key()
        found = stream.match(app.rules("rules") if patterns is None else patterns, max_delay=f"{DELAY_MS}ms")
        assert not isinstance(found, dict)
        found.matches.to("out", key=TEXT)
        found.timed_out.to("gone", key=TEXT)

    return build


def told(driver: TopologyTestDriver, topic: str) -> list[tuple[str, int, int, tuple[Any, ...], str]]:
    """Key, time, first event's time, the events by stage, which rule."""
    found = []
    for record in driver.output(topic).read():
        match = dict(record.value)
        rule = match.pop("$rule", [{"version": 0}])[0]["version"]
        taken = tuple((stage, tuple(e["i"] for e in of)) for stage, of in match.items())
        first = min(e["i"] for of in match.values() for e in of)
        found.append((record.key, record.timestamp, first, taken, str(rule)))
    return found


def run(pattern: Pattern, sent: list[Event]) -> dict[str, list[Any]]:
    with TopologyTestDriver(topology(pattern), partitions=1) as driver:
        for key, at, value in sent:
            driver.input("in").pipe(value, key=key, at=at)
        driver.input("in").pipe({"t": "", "n": 0, "i": -1}, key="end", at=10_000_000)
        return {topic: told(driver, topic) for topic in ("out", "gone")}


@settings(max_examples=60, deadline=None)
@given(
    drawn=events,
    patterns=st.tuples(st.sampled_from(PATTERNS), st.sampled_from(PATTERNS)),
    switch=st.integers(0, 60_000),
    drop=st.booleans(),
    partitions=st.integers(1, 3),
    said=st.integers(0, 25),
    crashes=st.sets(st.integers(0, 25)),
)
def test_a_version_takes_over_where_it_is_said(
    drawn: list[tuple[str, str, int, int]],
    patterns: tuple[str, str],
    switch: int,
    drop: bool,
    partitions: int,
    said: int,
    crashes: set[int],
) -> None:
    sent = timed(drawn)
    times = {value["i"]: at for _, at, value in sent}
    # Said before any task's time has come there.
    early = [n for n, (_, at, _) in enumerate(sent) if at - DELAY_MS > switch]
    said = min([said, len(sent), *early])
    texts = [str(Pattern.parse(text)) for text in patterns]
    second: dict[str, Any] = {"version": 2, "pattern": texts[1], "from": switch}
    second |= {"running": "drop"} if drop else {}
    with TopologyTestDriver(topology(None), partitions=partitions) as driver:
        driver.input("rules").pipe({"version": 1, "pattern": texts[0]}, key="r")
        for n, (key, at, value) in enumerate([*sent, *(("", 0, {}) for _ in range(said == len(sent)))]):
            if n == said:
                driver.input("rules").pipe(second, key="r")
            if n in crashes:
                driver.restart()
            if value:
                driver.input("in").pipe(value, key=key, at=at)
        for p in range(partitions):
            driver.input("in").pipe({"t": "", "n": 0, "i": -1}, key="end", at=10_000_000, partition=p)
        found = {topic: told(driver, topic) for topic in ("out", "gone")}
        assert [r.value for r in driver.output("rules-dlq").read()] == []
        assert sum(c.live_runs + c.buffered for c in driver.patterns("match-1-store").values()) == 0
    old = run(Pattern.parse(patterns[0]), sent)
    new = run(Pattern.parse(patterns[1]), [event for event in sent if event[1] >= switch])
    for topic in ("out", "gone"):
        want = [(*one[:4], "2") for one in new[topic]]
        for one in old[topic]:
            begins = min(times[i] for _, of in one[3] for i in of)
            # What must not come is certain when its window is over, and told when somebody looks.
            certain = begins + 4_000 if topic == "out" and "!->" in patterns[0] else one[1]
            if begins < switch and (not drop or certain < switch):
                want.append((*one[:4], "1"))
        untimed = topic == "out" and "!->" in patterns[0] + patterns[1]
        assert Counter(map(without_time, found[topic]) if untimed else found[topic]) == Counter(
            map(without_time, want) if untimed else want
        )


def without_time(one: tuple[Any, ...]) -> tuple[Any, ...]:
    return (one[0], *one[2:])
