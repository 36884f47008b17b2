"""Rows in order: what leaves when is computed again in plain Python."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream import col
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS

profile = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True)

GRACE_MS = 20


class Hit(ads.Record):
    key: str
    n: int | None


class Row(NamedTuple):
    key: str
    n: int | None
    at: int
    number: int
    """The how-manieth."""


@st.composite
def sent(draw: st.DrawFn) -> list[Row]:
    row = st.tuples(st.sampled_from("ab"), st.none() | st.integers(-2, 2), st.integers(0, 80))
    return [Row(*given, number) for number, given in enumerate(draw(st.lists(row, max_size=30)))]


def build(app: ads.App) -> None:
    rows = app.stream("in", Hit, key="key").with_columns(offset=ads.offset())
    for grace in (0, GRACE_MS):
        ordered = rows.in_order("n", -col("offset"), grace=f"{grace}ms", late="route")
        ordered.to(f"ordered-{grace}")
        ordered.late.to(f"late-{grace}")
        rows.in_order(grace=f"{grace}ms", name=f"passing-{grace}").to(f"passing-{grace}")
    # A second one finds nothing to do.
    rows.in_order(grace="20ms").in_order(grace="0ms").to("twice")


topology = ads.topology(name="ordered")(build)


def expected(rows: list[Row], grace: int, *, by: bool, route: bool) -> tuple[list[int], list[int]]:
    """Which rows leave, by number, and which are late."""
    out: list[int] = []
    late: list[int] = []
    waiting: list[Row] = []
    newest = -1
    for row in rows:
        if row.at > newest:
            newest = row.at
            due = [one for one in waiting if one.at < newest - grace]
            waiting = [one for one in waiting if one.at >= newest - grace]
            # A null is less than any number; what comes later has the smaller negative offset.
            order = (lambda one: (one.at, one.n is not None, one.n or 0, -one.number)) if by else (lambda one: one.at)
            out += [one.number for one in sorted(due, key=order)]
        if row.at >= newest - grace:
            waiting.append(row)
        else:
            (late if route else out).append(row.number)
            if not route:
                late.append(row.number)
    return out, late


def told(driver: TopologyTestDriver, topic: str) -> list[tuple[int, int]]:
    return [(json.loads(r.value or b"")["offset"], r.timestamp) for r in driver.output(topic).read_raw()]


@settings(profile, max_examples=150)
@given(
    sent(),
    st.sampled_from([1, 2, 7, None]),
    st.sampled_from([1, 3, None]),
    st.none() | st.tuples(st.integers(0, 4), st.sampled_from(STEPS), st.booleans()),
)
def test_rows_leave_by_time(
    rows: list[Row], batch_rows: int | None, commit_every: int | None, disturb: tuple[int, Any, bool] | None
) -> None:
    with TopologyTestDriver(topology, partitions=1, batch_rows=batch_rows, commit_every=commit_every) as driver:
        for i, row in enumerate(rows):
            if disturb is not None and i == len(rows) // 2:
                commits, step, restart = disturb
                driver.crash_at(step, commits=commits, restart=restart or step == "after-commit")
            driver.input("in").pipe({"key": row.key, "n": row.n}, at=row.at)
        if disturb is not None:
            driver.restart()
        times = [row.at for row in rows]
        for grace in (0, GRACE_MS):
            out, late = expected(rows, grace, by=True, route=True)
            assert told(driver, f"ordered-{grace}") == [(n, times[n]) for n in out]
            assert told(driver, f"late-{grace}") == [(n, times[n]) for n in late]
            passing, late = expected(rows, grace, by=False, route=False)
            assert told(driver, f"passing-{grace}") == [(n, times[n]) for n in passing]
            assert driver.counters().get(f"passing-{grace}", {}).get("late", 0) == len(late)
        leaving = [times[n] for n in expected(rows, GRACE_MS, by=True, route=True)[0]]
        assert leaving == sorted(leaving)


def test_each_partition_has_a_time_of_its_own() -> None:
    with TopologyTestDriver(topology, partitions=2) as driver:
        driver.input("in").pipe({"key": "a", "n": 1}, at=1_000, partition=0)
        driver.input("in").pipe({"key": "a", "n": 2}, at=1_100, partition=0)
        driver.input("in").pipe({"key": "b", "n": 3}, at=10, partition=1)
        driver.input("in").pipe({"key": "b", "n": 4}, at=50, partition=1)
        assert sorted(at for _, at in told(driver, f"ordered-{GRACE_MS}")) == [10, 1_000]
        assert driver.output(f"late-{GRACE_MS}").read_raw() == []


@pytest.mark.parametrize("late", ["pass", "route"])
def test_the_key_stays(late: Any) -> None:
    app = ads.App("keys")
    rows = app.stream("in", Hit, key="key").in_order(grace="1s", late=late)
    assert rows.schema == {"key": "str", "n": "int"}
    assert [part.name for part in rows._key] == ["key"]
