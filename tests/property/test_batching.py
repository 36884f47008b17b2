"""Batches, generations, partitions, crashes and the order of tasks are the engine's affair: results do not know them.

Random topologies on random records. `HYPOTHESIS_PROFILE=thorough` looks longer.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream.errors import TopologyError
from adstream.testing import RawRecord, TopologyTestDriver
from adstream.testing.driver import STEPS
from tests.oracle import Answer, Oracle
from tests.oracle.interpret import decoded
from tests.oracle.text import EPOCH
from tests.property.topologies import TOPIC, Advance, Recipe, Sent, inputs, recipes, topology_of

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
settings.register_profile("ci", max_examples=50, derandomize=True)
settings.register_profile("thorough", max_examples=3000)
profile = settings(
    settings.get_profile(PROFILE if PROFILE in ("ci", "thorough") else "ci"),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

COMBINED_IN_ORDER = True
"""Whether a combiner ships groups in the order of their latest updates; not while a test of `test_found.py` is expected
to fail. Until then the order of changes behind a shuffle is not looked at."""

Topics = dict[str, dict[int, list[tuple[Any, ...]]]]


def built(recipe: Recipe) -> ads.Built:
    try:
        return topology_of(recipe).build()
    except TopologyError as error:
        if error.code != "idle_without_lanes":
            raise
        return topology_of(replace(recipe, idle=None)).build()


def pipe(driver: TopologyTestDriver, sent: Sequence[Sent | Advance]) -> None:
    source = driver.input(TOPIC)
    for item in sent:
        if isinstance(item, int):
            driver.advance_wall_clock(timedelta(milliseconds=item))
            continue
        partition, at, key, value = item
        count = driver.partitions[TOPIC]
        source.pipe(value, key=key, at=at, partition=None if partition is None else partition % count)


def topics_of(driver: TopologyTestDriver) -> Topics:
    """Everything on the topics that users see, bytes as they are; by partition, in order. Dead letters come from tasks
    before and behind a shuffle, which wait for nobody: theirs is the order within each operation."""
    names = [n["topic"] for n in driver.built.plan["nodes"] if n["op"] == "to_topic"]
    found: Topics = {}
    for name in sorted({*names, f"{TOPIC}-dlq"}):
        lanes = found.setdefault(name, {})
        for raw in driver.output(name).read_raw():
            lanes.setdefault(raw.partition, []).append((raw.key, raw.value, raw.timestamp, raw.headers))
    for lane in found[f"{TOPIC}-dlq"].values():
        lane.sort(key=lambda letter: dict(letter[3])["adstream.operator"])
    return found


def tables_of(driver: TopologyTestDriver) -> dict[str, Any]:
    return {n["name"]: driver.table(n["name"]) for n in driver.built.plan["nodes"] if n["op"] == "sink"}


def outcome(plan: ads.Built, sent: Sequence[Sent | Advance], **options: Any) -> tuple[Any, ...]:
    crash = options.pop("crash", None)
    with TopologyTestDriver(plan, **options) as driver:
        if crash is not None:
            step, commits, restart = crash
            driver.crash_at(step, commits=commits, restart=restart or step == "after-commit")
        pipe(driver, sent)
        return topics_of(driver), tables_of(driver), driver.counters()


def unordered(result: tuple[Any, ...]) -> tuple[Any, ...]:
    topics, tables, counters = result
    # Final results have an order of their own: by window, then key.
    lanes = {
        (name, p): records if name == "final" else Counter(records)
        for name, lanes in topics.items()
        for p, records in lanes.items()
    }
    return lanes, tables, counters


plans = recipes
partitions = st.integers(1, 4)
commits = st.sampled_from([None, 1, 3, 10])


@profile
@given(plans, inputs, partitions, commits)
def test_batches_do_not_show(recipe: Recipe, sent: list[Sent | Advance], count: int, commit_every: int | None) -> None:
    plan = built(recipe)
    one = outcome(plan, sent, partitions=count, commit_every=commit_every)
    for rows in (1, 2, 7):
        assert outcome(plan, sent, partitions=count, commit_every=commit_every, batch_rows=rows) == one, rows


@profile
@given(plans, inputs, partitions, commits)
def test_it_is_what_one_record_at_a_time_gives(
    recipe: Recipe, sent: list[Sent | Advance], count: int, commit_every: int | None
) -> None:
    plan = built(recipe)
    with TopologyTestDriver(plan, partitions=count, commit_every=commit_every) as driver:
        oracle = Oracle(plan.plan, plan.callables, count, commit_every)
        for item in [*sent, 0]:
            if not isinstance(item, int):
                pipe(driver, [item])
                continue
            for raw in driver.output(TOPIC).read_raw():
                oracle.append(TOPIC, raw.partition, (raw.timestamp, raw.key, raw.value))
            if item:
                pipe(driver, [item])
                oracle.advance(item)
        oracle.run()
        same_as(driver, oracle.answer)


def same_as(driver: TopologyTestDriver, answer: Answer) -> None:
    topics = topics_of(driver)
    dead = [dead_of(raw) for lane in topics.pop(f"{TOPIC}-dlq").values() for raw in lane]
    found = {
        name: {p: [(key, decoded(value), ts) for key, value, ts, _ in lane] for p, lane in lanes.items()}
        for name, lanes in topics.items()
        if lanes
    }
    expected_topics = {
        t: {p: [tuple(w) for w in lane] for p, lane in lanes.items()} for t, lanes in answer.topics.items()
    }
    if not COMBINED_IN_ORDER:
        for topics_ in (found, expected_topics):
            for name in {"changes", "regrouped"} & set(topics_):
                topics_[name] = {p: sorted(lane, key=repr) for p, lane in topics_[name].items()}
    assert found == expected_topics
    assert Counter(dead) == Counter(
        (d.origin and (d.origin[1], d.origin[2]), d.operator, d.reason) for d in answer.dead
    )
    expected = {name: {unwrapped(k): row for k, row in rows.items()} for name, rows in answer.tables.items()}
    tables = {name: {ms(k): ms(row) for k, row in rows.items()} for name, rows in tables_of(driver).items() if rows}
    assert tables == expected
    assert driver.counters() == {name: dict(reasons) for name, reasons in answer.counters.items()}


def dead_of(raw: tuple[Any, ...]) -> tuple[Any, ...]:
    about = {name: value.decode() for name, value in raw[3]}
    origin = None
    if "adstream.offset" in about:
        origin = (int(about["adstream.partition"]), int(about["adstream.offset"]))
    return origin, about["adstream.operator"], about["adstream.reason"]


def ms(value: Any) -> Any:
    """Times as the oracle has them."""
    match value:
        case datetime():
            return (value - EPOCH) // timedelta(milliseconds=1)
        case timedelta():
            return value // timedelta(milliseconds=1)
        case tuple():
            return tuple(map(ms, value))
        case dict():
            return {k: ms(v) for k, v in value.items()}
    return value


def unwrapped(key: tuple[Any, ...]) -> Any:
    return key[0] if len(key) == 1 else key


@profile
@given(
    plans,
    inputs,
    partitions,
    commits,
    st.booleans(),
    st.sampled_from(STEPS),
    st.integers(0, 8),
    st.booleans(),
    st.sampled_from([None, 2]),
)
def test_crashes_do_not_show(
    recipe: Recipe,
    sent: list[Sent | Advance],
    count: int,
    commit_every: int | None,
    pipelined: bool,
    step: str,
    after: int,
    restart: bool,
    batch_rows: int | None,
) -> None:
    plan = built(recipe)
    calm = outcome(plan, sent, partitions=count, commit_every=commit_every)
    options: dict[str, Any] = {"partitions": count, "commit_every": commit_every, "batch_rows": batch_rows}
    shaken = outcome(plan, sent, **options, pipelined=pipelined, crash=(step, after, restart))
    assert shaken == calm


@profile
@given(plans, inputs, partitions, commits)
def test_committing_while_processing_does_not_show(
    recipe: Recipe, sent: list[Sent | Advance], count: int, commit_every: int | None
) -> None:
    plan = built(recipe)
    one = outcome(plan, sent, partitions=count, commit_every=commit_every)
    assert outcome(plan, sent, partitions=count, commit_every=commit_every, pipelined=True) == one


@profile
@given(plans, inputs, partitions, commits, st.integers(0, 2**32))
def test_the_order_of_tasks_does_not_show(
    recipe: Recipe, sent: list[Sent | Advance], count: int, commit_every: int | None, seed: int
) -> None:
    plan = built(recipe)
    # Who speaks first after a silence is a matter of order: lanes that are never idle.
    sent = [item for item in sent if not isinstance(item, int)]
    one = outcome(plan, sent, partitions=count, commit_every=commit_every)
    other = outcome(plan, sent, partitions=count, commit_every=commit_every, seed=seed)
    assert unordered(other) == unordered(one)


@profile
@given(plans, st.lists(inputs, min_size=1, max_size=3), partitions, commits)
def test_restarts_do_not_show(
    recipe: Recipe, parts: list[list[Sent | Advance]], count: int, commit_every: int | None
) -> None:
    plan = built(recipe)

    def run(restart: bool) -> tuple[list[RawRecord], dict[str, Any], Any]:
        with TopologyTestDriver(plan, partitions=count, commit_every=commit_every) as driver:
            found: list[Any] = []
            for part in parts:
                pipe(driver, part)
                driver.run()
                if restart:
                    driver.restart()
                found.append(topics_of(driver))
            return found, tables_of(driver), driver.counters()

    assert run(restart=True) == run(restart=False)
