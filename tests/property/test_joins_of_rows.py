"""Joins of rows are those of a plain definition (`tests/oracle/joins.py`); batches, commits, restarts, crashes do not show."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS
from tests.oracle import joins as oracle
from tests.oracle.joins import Pair, Row

profile = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True)
How = Literal["inner", "left", "outer"]


class Event(ads.Record):
    side: str
    key: str | None
    n: int


TIMES = st.integers(100, 160) | st.integers(10, 13).map(lambda n: 10 * n)  # with many at one time
"""No span reaches back before 1970: there Kafka Streams' joins, and ours of streams, take the instant 0 for its end."""
rows = st.lists(st.tuples(st.sampled_from("lr"), st.sampled_from(["a", "b", None]), TIMES), max_size=30)
ends = st.integers(-20, 20) | st.integers(-2, 2).map(lambda n: 10 * n)  # with many rows right at them
spans = st.tuples(ends, ends).map(lambda s: (min(s), max(s)))


def ms(n: int) -> timedelta:
    return timedelta(milliseconds=n)


def play(
    events: list[Row],
    span: tuple[int, int],
    grace: int,
    how: How,
    where: bool = False,
    pick: Any = None,
    **options: Any,
) -> Any:
    def build(app: ads.App) -> None:
        # Keyed, so nothing is moved: the order between two topics of their own would be that of times and commits.
        source = app.stream("events", Event, key="key")
        left, right = source.filter(ads.col("side") == "l"), source.filter(ads.col("side") == "r")
        found = left.join(
            right,
            on="key",
            how=how,
            within=ads.between(ms(span[0]), ms(span[1])),
            grace=ms(grace),
            where=(ads.col("n") + ads.col("right.n")) % 3 > 0 if where else None,
            into="right",
            pick=ads.latest_by(ads.col("right.n") % 3) if pick == "by" else pick,
        )
        found.to("out", columns=["n", "right.n"])

    crash = options.pop("crash", None)
    options = {"partitions": 1, "commit_every": 1} | options
    with TopologyTestDriver(ads.topology(name="app")(build), **options) as driver:
        for side, key, n, at in events:
            driver.input("events").pipe({"side": side, "key": key, "n": n}, key=key, at=at)
        if crash is not None:
            driver.crash_at(crash, commits=2)
        found = [(r.value["n"], r.value["right.n"], r.timestamp) for r in driver.output("out").read()]
        assert crash is None or driver.crashed or len(events) < 12
        return found


PASSES = {False: lambda left, right: True, True: lambda left, right: (left + right) % 3 > 0}


def numbered(events: list[tuple[str, str | None, int]]) -> list[Row]:
    return [(side, key, n, at) for n, (side, key, at) in enumerate(events)]


@settings(profile, max_examples=80)
@given(rows, spans, st.integers(1, 10), st.booleans())
def test_an_inner_join_is_every_pair(
    events: list[tuple[str, str | None, int]], span: tuple[int, int], grace: int, where: bool
) -> None:
    sent = numbered(events)
    expected = oracle.inner(sent, *span, grace, PASSES[where])
    event(f"pairs: {min(len(expected), 3)}")
    assert play(sent, span, grace, "inner", where) == expected


@settings(profile, max_examples=60)
@given(rows, spans, st.integers(1, 10), st.sampled_from(["left", "outer"]), st.booleans())
def test_left_and_outer_joins_also_give_those_alone(
    events: list[tuple[str, str | None, int]], span: tuple[int, int], grace: int, how: How, where: bool
) -> None:
    sent = sorted(numbered(events), key=lambda row: row[3])
    # Who waits is looked at when time goes on.
    ends: list[Row] = [(side, f"end{i}", 1000 + i, 1000 * (i + 1)) for i in range(4) for side in "lr"]
    found: list[Pair] = play([*sent, *ends], span, grace, how, where)
    told = [pair for pair in found if max(n for n in pair[:2] if n is not None) < 1000]

    def order(pair: Pair) -> tuple[Any, ...]:
        return (pair[2], str(pair))

    expected = oracle.with_those_alone(sent, *span, grace, how, PASSES[where])
    assert sorted(told, key=order) == sorted(expected, key=order)


@settings(profile, max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from("lr"), st.sampled_from(["a", "b", None]), TIMES), min_size=12),
    spans,
    st.sampled_from(["inner", "left", "outer"]),
    st.sampled_from([1, 2, 7]),
    st.sampled_from([1, 3]),
    st.sampled_from(STEPS),
    st.booleans(),
)
def test_batches_commits_and_crashes_do_not_show(
    events: list[tuple[str, str | None, int]],
    span: tuple[int, int],
    how: How,
    batch: int,
    commit: int,
    step: Any,
    where: bool,
) -> None:
    sent = numbered(events)
    plain = play(sent, span, 3, how, where)
    assert play(sent, span, 3, how, where, batch_rows=batch, commit_every=commit) == plain
    assert play(sent, span, 3, how, where, commit_every=commit, crash=step) == plain


@settings(profile, max_examples=30)
@given(rows, spans, st.sampled_from([1, 3]), st.sampled_from([1, 2, None]), st.sampled_from(["whole", "text", "pair"]))
def test_moved_by_an_expression_it_is_every_pair(
    events: list[tuple[str, str | None, int]], span: tuple[int, int], partitions: int, batch: int | None, by: str
) -> None:
    """Of topics keyed by something else, in any number of partitions; a grace that covers all disorder."""

    class Sent(ads.Record):
        n: int
        word: str | None
        other: int

    key = ads.col("word").str.to_lowercase()
    on: Any = {"whole": ads.col("other"), "text": key, "pair": [ads.col("other"), (key, key)]}[by]

    def build(app: ads.App) -> None:
        left, right = app.stream("l", Sent, key="n"), app.stream("r", Sent)
        within = ads.between(ms(span[0]), ms(span[1]))
        left.join(right, on=on, within=within, grace="1s", into="right").to("out")

    sent = numbered(events)
    with TopologyTestDriver(ads.topology(name="app")(build), partitions=partitions, batch_rows=batch) as driver:
        for side, key_, n, at in sent:
            word = None if key_ is None else key_.upper() if n % 2 else key_
            value = {"n": n, "word": word, "other": "ab".index(key_ or "a") - 1}
            driver.input(side).pipe(value, at=at)
        found = [(r.value["n"], r.value["right.n"], r.timestamp) for r in driver.output("out").read()]
    if by == "whole":
        sent = [(side, key_ or "a", n, at) for side, key_, n, at in sent]
    assert sorted(found) == sorted(oracle.inner(sent, *span, 1000))


@settings(profile, max_examples=60)
@given(
    rows,
    st.sampled_from(["inner", "left"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 2, 7]),
    st.sampled_from([1, 3]),
    st.sampled_from([None, *STEPS]),
)
def test_a_table_says_what_it_held_then(
    events: list[tuple[str, str | None, int]], how: How, latest: bool, where: bool, batch: int, commit: int, crash: Any
) -> None:
    class Timed(ads.Record):
        side: str
        key: str | None
        n: int
        at: int

    def build(app: ads.App) -> None:
        source = app.stream("events", Timed, key="key")
        left, right = source.filter(ads.col("side") == "l"), source.filter(ads.col("side") == "r")
        table = right.to_table("key", latest_by="at" if latest else None)
        condition = (ads.col("n") + ads.col("right.n")) % 3 > 0 if where else None
        left.join(table, on="key", how=how, where=condition, into="right").to("out", columns=["n", "right.n"])

    sent = numbered(events)
    topology = ads.topology(name="app")(build)
    with TopologyTestDriver(topology, partitions=1, batch_rows=batch, commit_every=commit) as driver:
        for side, key, n, at in sent:
            driver.input("events").pipe({"side": side, "key": key, "n": n, "at": at}, key=key, at=at)
        if crash is not None:
            driver.crash_at(crash, commits=1)
        found = [(r.value["n"], r.value["right.n"], r.timestamp) for r in driver.output("out").read()]
    assert found == oracle.with_table(sent, how, latest, PASSES[where])


ENDS: list[Row] = [(side, f"end{i}", 1000 + i, 1000 * (i + 1)) for i in range(4) for side in "lr"]
"""Who waits is looked at when time goes on."""


@settings(profile, max_examples=60)
@given(
    rows,
    spans,
    st.integers(0, 10),
    st.sampled_from(["inner", "left"]),
    st.booleans(),
    st.sampled_from(["first", "last", "by"]),
)
def test_one_match_is_picked(
    events: list[tuple[str, str | None, int]], span: tuple[int, int], grace: int, how: How, where: bool, pick: str
) -> None:
    """Of rows in order of time, and of any order that the grace covers."""
    sent = sorted(numbered(events), key=lambda row: row[3])
    grace = max(grace, 1)
    found = play([*sent, *ENDS], span, grace, how, where, pick)
    told = [pair for pair in found if pair[0] < 1000]
    expected = oracle.picked(sent, *span, grace, how, pick, PASSES[where])
    assert sorted(told, key=str) == sorted(expected, key=str)

    anyhow = numbered(events)  # ties go by arrival, which is theirs
    told = [pair for pair in play([*anyhow, *ENDS], span, 100, how, where, pick) if pair[0] < 1000]
    expected = oracle.picked(anyhow, *span, 100, how, pick, PASSES[where])
    assert sorted(told, key=str) == sorted(expected, key=str)


@settings(profile, max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from("lr"), st.sampled_from(["a", "b", None]), TIMES), min_size=12),
    spans,
    st.sampled_from(["first", "last", "by"]),
    st.sampled_from([1, 2, 7]),
    st.sampled_from([1, 3]),
    st.sampled_from(STEPS),
)
def test_batches_commits_and_crashes_do_not_show_in_what_is_picked(
    events: list[tuple[str, str | None, int]], span: tuple[int, int], pick: str, batch: int, commit: int, step: Any
) -> None:
    """With rows that come too late, too."""
    sent = [*numbered(events), *ENDS]
    plain = play(sent, span, 3, "left", True, pick)
    assert play(sent, span, 3, "left", True, pick, batch_rows=batch, commit_every=commit) == plain
    assert play(sent, span, 3, "left", True, pick, commit_every=commit, crash=step) == plain
