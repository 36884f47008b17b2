"""Several patterns in one operator: each finds what it finds alone, whatever is done to the tasks."""

from __future__ import annotations

from typing import Any

import pytest

import adstream as ads
from adstream import TopologyError
from adstream.testing import TopologyTestDriver
from tests.differential.cep import adstream_side, generate

TEXT = ads.serdes.string
TOPICS = ("found", "gone", "trace")
Told = dict[str, list[tuple[Any, int, Any]]]


def told(cases: list[dict[str, Any]], together: bool, rows: bool, **options: Any) -> Told:
    """What is said of each case's pattern over the events of the first one, each by itself or all in one operator."""
    first = cases[0]
    patterns = {
        f"p{i}": adstream_side.pattern(case["calls"], adstream_side.expression, adstream_side.skip_of(case["skip"]))
        for i, case in enumerate(cases)
    }

    def build(app: ads.App) -> None:
        delay = f"{first['bound']}ms"
        stream = app.stream("in", schema=adstream_side.Event, key="key").group_by("key") if rows else None
        grouped = stream if stream is not None else app.stream("in", key=TEXT).group_by_key()
        found: dict[str, Any] = (
            grouped.match(patterns, max_delay=delay)
            if together
            else {name: grouped.match(pattern, max_delay=delay) for name, pattern in patterns.items()}
        )
        for (name, matches), case in zip(found.items(), cases, strict=True):
            if rows:
                chosen = {n: ads.matched(n).values("id") for n in adstream_side.names(case["calls"])}
                matches.select(key=ads.key(), **chosen).to(f"{name}-found")
                matches.timed_out.select(key=ads.key(), **chosen).to(f"{name}-gone")
                matches.records.trace.to(f"{name}-trace", key=TEXT)
            else:
                matches.matches.to(f"{name}-found", key=TEXT)
                matches.timed_out.to(f"{name}-gone", key=TEXT)
                matches.trace.to(f"{name}-trace", key=TEXT)
        next(iter(found.values())).late.to("late", **({} if rows else {"key": TEXT}))

    with TopologyTestDriver(ads.topology(name="cep")(build), partitions=1, **options) as driver:
        for i, (key, ts, letter, v) in enumerate(first["events"]):
            value = {"id": i, "t": letter, "v": v} | ({"key": key} if rows else {})
            driver.input("in").pipe(value, **({} if rows else {"key": key}), at=ts)
        topics = ["late", *(f"{name}-{topic}" for name in patterns for topic in TOPICS)]
        lines = {t: [(r.key, r.timestamp, r.value) for r in driver.output(t).read()] for t in topics}
        # Across keys there is no order.
        return {t: sorted(found, key=lambda one: str(one[0] or one[2].get("key"))) for t, found in lines.items()}


def good(seed: int) -> dict[str, Any] | None:
    case = generate.case(seed)
    made = adstream_side.pattern
    try:
        pattern = made(case["calls"], adstream_side.expression, adstream_side.skip_of(case["skip"]))
        pattern.explain()
    except TopologyError:
        return None
    return case


@pytest.mark.parametrize("seed", range(40))
def test_each_finds_what_it_finds_alone(seed: int) -> None:
    cases: list[dict[str, Any]] = []
    at = seed * 1000
    while len(cases) < 3:
        case = good(at)
        cases += [case] if case is not None else []
        at += 1
    rows = seed % 2 == 0
    alone = told(cases, together=False, rows=rows, commit_every=1)
    assert told(cases, together=True, rows=rows, commit_every=1) == alone
    assert told(cases, together=True, rows=rows, commit_every=3, pipelined=True) == alone


def test_something_was_found() -> None:
    found = [told([case], True, False) for seed in range(60) if (case := good(seed)) is not None]
    assert sum(bool(one["p0-found"]) for one in found) > 10
    assert sum(bool(one["p0-gone"]) for one in found) > 3
