"""Windows that one record closes may be told over several commits: what is told, and in what order, does not know it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import adstream as ads
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS, Step
from tests.property.test_batching import built, commits, inputs, outcome, partitions, plans, profile
from tests.property.topologies import Advance, Recipe, Sent


@profile
@given(plans, inputs, partitions, st.sampled_from([1, 2, 3]), st.sampled_from([None, 1, 2, 7]))
def test_how_many_at_once_does_not_show(
    recipe: Recipe, sent: list[Sent | Advance], count: int, closing_rows: int, batch_rows: int | None
) -> None:
    plan = built(recipe)
    one = outcome(plan, sent, partitions=count)
    assert outcome(plan, sent, partitions=count, batch_rows=batch_rows, closing_rows=closing_rows) == one


@profile
@given(
    plans,
    inputs,
    partitions,
    commits,
    st.sampled_from([1, 2, 3]),
    st.booleans(),
    st.sampled_from(STEPS),
    st.integers(0, 8),
    st.booleans(),
)
def test_neither_do_commits_and_crashes_in_between(
    recipe: Recipe,
    sent: list[Sent | Advance],
    count: int,
    commit_every: int | None,
    closing_rows: int,
    pipelined: bool,
    step: str,
    after: int,
    restart: bool,
) -> None:
    plan = built(recipe)
    if recipe.aggregation is None or recipe.aggregation.window is None:
        return
    # Final rows count as rows, so commits lie elsewhere, which tables' changes show, and so do lanes that are idle.
    sent = [item for item in sent if not isinstance(item, int)]
    topics, _, counters = outcome(plan, sent, partitions=count, commit_every=commit_every)
    options: dict[str, Any] = {"partitions": count, "commit_every": commit_every, "closing_rows": closing_rows}
    found = outcome(plan, sent, **options, pipelined=pipelined, crash=(step, after, restart))
    assert found[0].get("final") == topics.get("final")
    assert found[2].get("table") == counters.get("table")


class Row(ads.Record):
    key: str


@ads.topology(name="closing")
def closing(app: ads.App) -> None:
    windows = ads.tumbling("1m", grace="5m")
    app.stream("in", Row, key="key").group_by("key").windowed_by(windows).count().named("counts").final().to("out")


START = datetime(2026, 1, 15, tzinfo=UTC)


@pytest.mark.parametrize("batch_rows", [1, None])
@pytest.mark.parametrize("crash", [None, *STEPS])
def test_a_thousand_rows_close_over_many_commits(
    batch_rows: int | None, crash: Step | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"k{i:03}" for i in range(200)]
    carried: list[int] = []
    with TopologyTestDriver(closing, partitions=1, batch_rows=batch_rows, commit_every=100, closing_rows=10) as driver:
        commit = driver._log.commit

        def spied(outputs: Any) -> None:
            carried.extend(len(batch) for topic, _, batch in outputs if topic == "out")
            commit(outputs)

        monkeypatch.setattr(driver._log, "commit", spied)
        for minute in range(5):
            for key in names:
                driver.input("in").pipe({"key": key}, key=key, at=START + timedelta(minutes=minute))
        driver.run()
        assert not carried
        driver.restart()
        if crash is not None:
            driver.crash_at(crash, commits=4, restart=True)
        driver.input("in").pipe({"key": "z"}, key="z", at=START + timedelta(hours=1))
        driver.input("in").pipe({"key": "z"}, key="z", at=START)  # late: it waits its turn
        told = [(record.key, record.value["count"]) for record in driver.output("out").read()]
        assert driver.late == 1
    assert told == [(key, 1) for _ in range(5) for key in names]
    assert len(carried) >= 10
    assert max(carried) <= 110


MINUTE = timedelta(minutes=1)


def finals(rows: ads.Stream, name: str) -> ads.Stream:
    return rows.group_by("key").windowed_by(ads.tumbling("1m", grace="5m")).count().named(name).final()


def beside_a_merge(app: ads.App) -> None:
    """What is merged here is not what is told."""
    rows = app.stream("in", Row, key="key")
    rows.filter(ads.col("key") > "k1").merge(rows.filter(ads.col("key") <= "k1")).to("all")
    finals(rows, "counts").to("out")


def beside_records(app: ads.App) -> None:
    app.records("in").to("all")
    finals(app.stream("rows", Row, key="key"), "counts").to("out")


def behind_a_shuffle(app: ads.App) -> None:
    """Where they lead, they meet the others; to it they come alone."""
    rows = app.stream("in", Row, key="key")
    told = finals(rows, "counts")
    told.group_by("count").aggregate(n=ads.count()).named("of-counts").to_stream().to("counts")
    told.to("out")


def into_a_merge(app: ads.App) -> None:
    rows = app.stream("in", Row, key="key")
    finals(rows, "one").merge(finals(rows, "two")).to("out")


def into_one_topic(app: ads.App) -> None:
    rows = app.stream("in", Row, key="key")
    finals(rows, "one").to("out")
    finals(rows, "two").with_columns(count=ads.col("count") * 1).to("out")


def into_records(app: ads.App) -> None:
    finals(app.stream("in", Row, key="key"), "counts").records("key").to("out")


def into_a_topic_that_records_may_name(app: ads.App) -> None:
    app.records("others").to(lambda key, value, context: "elsewhere")
    finals(app.stream("in", Row, key="key"), "counts").to("out")


BOUNDED = [beside_a_merge, beside_records, behind_a_shuffle]
AT_ONCE = [into_a_merge, into_one_topic, into_records, into_a_topic_that_records_may_name]


@pytest.mark.parametrize("define", [*BOUNDED, *AT_ONCE], ids=lambda define: define.__name__)
def test_it_is_told_at_once_where_its_place_among_others_would_show(
    define: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And over many commits everywhere else, whatever else the topology holds."""
    topology = ads.topology(name="closing-beside")(define)
    source = "rows" if define is beside_records else "in"

    def told(closing_rows: int | None) -> tuple[list[Any], int]:
        most = 0
        with TopologyTestDriver(topology, partitions=1, commit_every=100, closing_rows=closing_rows) as driver:
            commit = driver._log.commit

            def spied(outputs: Any) -> None:
                nonlocal most
                most = max(most, sum(len(batch) for topic, _, batch in outputs if topic == "out"))
                commit(outputs)

            monkeypatch.setattr(driver._log, "commit", spied)
            for minute in range(5):
                for n in range(200):
                    driver.input(source).pipe({"key": f"k{n:03}"}, key=f"k{n:03}", at=START + minute * MINUTE)
            for last in (timedelta(hours=1), timedelta(0)):
                driver.input(source).pipe({"key": "z"}, key="z", at=START + last)
            return [(record.key, record.value) for record in driver.output("out").read()], most

    all_of_them, at_once = told(None)
    in_turns, most = told(10)
    assert len(all_of_them) >= 1000
    assert in_turns == all_of_them
    assert at_once >= 1000
    assert (most <= 110) == (define in BOUNDED)
