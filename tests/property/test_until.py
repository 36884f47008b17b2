"""`filter(now() >= …)`: which rows have left when is computed again in plain Python."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream import col
from adstream._core import Plan
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS
from tests.unit.dsl.support import events, refused

profile = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True)

BEGIN = datetime(2026, 1, 15, tzinfo=UTC)


class Change(ads.Record):
    key: str
    number: int
    since: datetime | None


@ads.topology(name="until")
def topology(app: ads.App) -> None:
    changes = app.stream("in", Change, key="key")
    changes.filter(ads.now() >= col("since")).named("waiting").to("from")
    changes.filter((col("key") != "b") & (ads.now() > col("since")), reason="odd").to("behind")
    lasting = changes.filter(col("since") + timedelta(milliseconds=10) <= ads.now())
    lasting.group_by("key").aggregate(n=ads.count()).named("counts").to("counts")


class Sent(NamedTuple):
    key: str
    since: int | None


class Later(NamedTuple):
    ms: int


def moment(ms: int) -> str:
    return (BEGIN + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


happenings = st.lists(
    st.one_of(
        st.builds(Sent, st.sampled_from("ab"), st.none() | st.integers(0, 60)),
        st.builds(Later, st.integers(1, 25)),
    ),
    max_size=25,
)


def numbers(driver: TopologyTestDriver, topic: str) -> list[tuple[int, int]]:
    return [(json.loads(r.value or b"")["number"], r.timestamp) for r in driver.output(topic).read_raw()]


@settings(profile, max_examples=150)
@given(
    happenings,
    st.sampled_from([1, 2, 7, None]),
    st.sampled_from([1, 3, None]),
    st.none() | st.tuples(st.integers(0, 4), st.sampled_from(STEPS), st.booleans()),
    st.sampled_from([1, 2, None]),
)
def test_a_row_leaves_when_its_time_has_come(
    happens: list[Sent | Later],
    batch_rows: int | None,
    commit_every: int | None,
    disturb: tuple[int, Any, bool] | None,
    closing_rows: int | None,
) -> None:
    sent: list[Sent] = []
    now = 0
    options: dict[str, Any] = {"batch_rows": batch_rows, "commit_every": commit_every, "closing_rows": closing_rows}
    out: dict[str, list[int]] = {"from": [], "behind": []}
    with TopologyTestDriver(topology, partitions=1, wall_clock=BEGIN, **options) as driver:

        def look() -> None:
            """What has left now is what is due, no more and no less."""
            for topic, early in (("from", 0), ("behind", 1)):
                new = numbers(driver, topic)
                assert all(at == 1_000 + number for number, at in new)  # its own time stays
                out[topic] += [number for number, _ in new]
                due = {
                    number
                    for number, s in enumerate(sent)
                    if s.since is not None and s.since + early <= now and (topic == "from" or s.key != "b")
                }
                assert sorted(out[topic]) == sorted(due), (topic, now)

        for i, happening in enumerate(happens):
            if disturb is not None and i == len(happens) // 2:
                commits, step, restart = disturb
                driver.crash_at(step, commits=commits, restart=restart or step == "after-commit")
            if isinstance(happening, Later):
                look()
                driver.advance_wall_clock(timedelta(milliseconds=happening.ms))
                now += happening.ms
                look()
            else:
                since = None if happening.since is None else moment(happening.since)
                row = {"key": happening.key, "number": len(sent), "since": since}
                driver.input("in").pipe(row, at=1_000 + len(sent))
                sent.append(happening)
        if disturb is not None:
            driver.restart()
        look()
        counts = {key: row["n"] for key, row in driver.table("counts").items()}
        due = [s.key for s in sent if s.since is not None and s.since + 10 <= now]
        assert counts == {key: due.count(key) for key in set(due)}
        nothing = sum(s.since is None for s in sent)
        assert driver.counters().get("waiting", {}).get("filtered:waiting", 0) == nothing
        assert not driver.dead_letters("in")


def test_rows_leave_by_their_time_and_then_as_they_came() -> None:
    with TopologyTestDriver(topology, partitions=1, wall_clock=BEGIN) as driver:
        for number, since in enumerate([30, 10, 20, 10, 30]):
            driver.input("in").pipe({"key": "a", "number": number, "since": moment(since)}, at=1)
        assert numbers(driver, "from") == []
        driver.advance_wall_clock("30ms")
        assert [number for number, _ in numbers(driver, "from")] == [1, 3, 2, 0, 4]


@pytest.mark.parametrize("batch_rows", [1, None])
@pytest.mark.parametrize("crash", [None, *STEPS])
def test_what_falls_due_at_once_leaves_over_many_commits(
    batch_rows: int | None, crash: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried: list[int] = []
    options: dict[str, Any] = {"batch_rows": batch_rows, "commit_every": 100, "closing_rows": 10}
    with TopologyTestDriver(topology, partitions=1, wall_clock=BEGIN, **options) as driver:
        commit = driver._log.commit

        def spied(outputs: Any) -> None:
            carried.extend(len(batch) for to, _, batch in outputs if to == "from")
            commit(outputs)

        monkeypatch.setattr(driver._log, "commit", spied)
        for number in range(1_000):
            driver.input("in").pipe({"key": "a", "number": number, "since": moment(50)}, at=1)
        driver.run()
        assert not carried
        if crash is not None:
            driver.crash_at(crash, commits=4, restart=True)
        driver.advance_wall_clock("60ms")
        driver.input("in").pipe({"key": "a", "number": 1_000, "since": moment(55)}, at=1)
        driver.input("in").pipe({"key": "a", "number": 1_001, "since": moment(0)}, at=1)
        left = [number for number, _ in numbers(driver, "from")]
    assert left == list(range(1_002))
    assert len(carried) >= 10
    assert max(carried) <= 120


def test_its_state_has_its_name() -> None:
    built = topology.build()
    waiting = {n["name"]: n for n in built.plan["nodes"] if n.get("kind") == "wait_until"}
    assert [waiting["waiting"][what] for what in ("store", "stores", "reason")] == [
        "waiting-waiting",
        ["waiting-waiting"],
        "waiting",
    ]
    assert {s["name"] for s in built.plan["stores"]} == {n["store"] for n in waiting.values()}
    assert [n["reason"] for n in waiting.values() if n["behind"]] == ["odd"]
    assert len(waiting) == 3


def test_it_stays_keyed() -> None:
    """No row moves, so a group by the key needs no shuffle."""
    described = json.loads(Plan(topology.build().json, list(topology.build().callables)).describe())
    nodes = [node for sub in described["subtopologies"] for node in sub["nodes"]]
    assert [node["shuffled"] for node in nodes if node["op"] == "aggregate"] == [False]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ads.now() < col("at"),
        lambda: ads.now() == col("at"),
        lambda: (ads.now() >= col("at")) | (col("price") > 0),
        lambda: ~(ads.now() >= col("at")),
        lambda: ads.now() - col("at") > timedelta(hours=1),
    ],
)
def test_now_is_a_timer_and_nothing_else(wrong: Any) -> None:
    with refused(
        "not_a_timer", "`now()` can only say from when on a row passes", ".filter(ads.now() >= col(…))", "filter"
    ):
        events().filter(wrong())


def test_what_cannot_be_waited_for() -> None:
    with refused("not_a_timer", "`now()`", "", "with_columns"):
        events().with_columns(x=ads.now())
    with refused("type_mismatch", '`now()` is a time, and `col("count")` is int', "", "filter"):
        events().filter(ads.now() >= col("count"))
    with refused("unknown_column", "no column `nothing`", "", "filter"):
        events().filter(ads.now() >= col("nothing"))


def test_what_fell_due_while_nobody_was_there_is_not_overtaken() -> None:
    """A worker begins with a clock that has gone on: a row that is read then does not pass those that wait."""

    @ads.topology(name="prices")
    def prices(app: ads.App) -> None:
        app.stream("in", Change, key="key").filter(ads.now() >= col("since")).named("held").to("out")

    with TopologyTestDriver(prices, partitions=1, wall_clock=BEGIN) as driver:
        driver.input("in").pipe({"key": "k", "number": 1, "since": moment(1_000)}, at=1)
        driver.run()
        driver._now = driver._began = driver._now + 5_000
        driver.restart()
        driver.input("in").pipe({"key": "k", "number": 2, "since": moment(2_000)}, at=2)
        driver.advance_wall_clock("1ms")
        assert [r.value["number"] for r in driver.output("out").read()] == [1, 2]


def failing(row: Any) -> Any:
    raise ValueError("no")


@pytest.mark.parametrize("behind", ["map", "rolling"])
@pytest.mark.parametrize("waits", ["until", "in_order"])
def test_a_row_that_waited_and_fails_is_told_with_itself_and_its_place(waits: str, behind: str) -> None:
    """Not with the record at hand when it left, nor among another topic's dead letters."""

    @ads.topology(name="fails")
    def fails(app: ads.App) -> None:
        app.stream("another", Change, key="key").to("others")
        stream = app.stream("in", Change, key="key")
        stream = stream.filter(ads.now() >= col("since")) if waits == "until" else stream.in_order(grace="1s")
        if behind == "map":
            stream.filter(col("number") == 1).map(failing, schema=Change).to("out")
        else:
            far = 9_223_372_036_854_775_800
            stream.group_by("key").rolling("1h", n=ads.sum(col("number") * 0 + far)).to("out")

    with TopologyTestDriver(fails, partitions=1, wall_clock=BEGIN) as driver:
        for number in (0, 1):
            driver.input("in").pipe({"key": "k", "number": number, "since": moment(1_000)}, at=1_000 + number)
        driver.input("in").pipe({"key": "z", "number": 2, "since": moment(60_000_000)}, at=3_000)
        driver.advance_wall_clock("2s")
        assert not driver.dead_letters("another")
        (letter,) = driver.dead_letters("in")
        assert letter.offset == 1
        assert json.loads(letter.value or b"")["number"] == 1
