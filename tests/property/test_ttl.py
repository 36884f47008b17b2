"""Groups that are forgotten after a while: what a group holds depends on the order within each partition alone."""

from __future__ import annotations

import json
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS
from tests.oracle import Oracle
from tests.property.test_batching import outcome, pipe, profile, same_as, unordered
from tests.property.topologies import (
    KEYS,
    START,
    START_MS,
    TOPIC,
    Advance,
    Aggregation,
    Recipe,
    Sent,
    inputs,
    topology_of,
)

NAMES = ["rows", "as", "total", "money", "least", "most", "mean_n", "first_kind", "last_shop", "product"]


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    keys = draw(st.sampled_from(KEYS))
    names = ("rows", *draw(st.lists(st.sampled_from(NAMES[1:]), max_size=2, unique=True)))
    regroup = draw(st.none() | st.just(keys[:1]) | st.just(keys[-1:]))
    ttl = draw(st.sampled_from(list(TTL_MS)))
    how = Aggregation(keys, None, names, draw(st.booleans()), regroup, draw(st.booleans()), ttl=ttl)
    steps = draw(st.sampled_from([(), (), (("filter", "positive", "why"),), (("deduplicate", "1s", "id"),)]))
    shuffled = keys != ("user",) and not steps
    return Recipe(steps, False, how, "1s" if shuffled and draw(st.booleans()) else None)


TTL_MS = {"1ms": 1, "500ms": 500, "1s": 1000, "2500ms": 2500, "7s": 7000}


@st.composite
def beats(draw: st.DrawFn, ttl_ms: int) -> list[Sent | Advance]:
    """Few keys, and times a ttl apart or half of one, to the millisecond."""
    found: list[Sent | Advance] = []
    clock = 0
    for i in range(draw(st.sampled_from([6, 15, 30]))):
        clock += draw(st.sampled_from([0, ttl_ms // 2, ttl_ms, ttl_ms, 2 * ttl_ms])) + draw(
            st.sampled_from([-1, 0, 0, 1])
        )
        clock = max(clock, 0)
        user, shop = draw(st.sampled_from(["u1", "u2"])), draw(st.sampled_from(["s1", "s2", None]))
        at = (START + timedelta(milliseconds=clock)).isoformat(timespec="milliseconds")
        event = {
            "id": f"i{i}",
            "kind": "A",
            "at": at,
            "user": user,
            "shop": shop,
            "n": i % 4,
            "m": 1,
            "x": 0.5,
            "price": 1,
        }
        found.append((None, START_MS + clock, user.encode(), json.dumps(event).encode()))
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[Recipe, list[Sent | Advance]]:
    recipe = draw(recipes())
    assert recipe.aggregation is not None
    ttl = recipe.aggregation.ttl
    assert ttl is not None
    return recipe, draw(inputs | beats(TTL_MS[ttl]) | beats(TTL_MS[ttl]))


Case = tuple[Recipe, list[Sent | Advance]]
partitions = st.integers(1, 4)
commits = st.sampled_from([None, 1, 3, 10])


@profile
@given(cases(), partitions, commits)
def test_it_is_what_one_record_at_a_time_gives(case: Case, count: int, commit_every: int | None) -> None:
    recipe, sent = case
    plan = topology_of(recipe).build()
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


@profile
@given(cases(), partitions, commits, st.sampled_from([1, 2, 7]), st.integers(0, 2**32))
def test_batches_and_the_order_of_tasks_do_not_show(
    case: Case, count: int, commit_every: int | None, rows: int, seed: int
) -> None:
    recipe, sent = case
    plan = topology_of(recipe).build()
    one = outcome(plan, sent, partitions=count, commit_every=commit_every)
    assert outcome(plan, sent, partitions=count, commit_every=commit_every, batch_rows=rows) == one
    calm = [item for item in sent if not isinstance(item, int)]
    one = outcome(plan, calm, partitions=count, commit_every=commit_every)
    assert unordered(outcome(plan, calm, partitions=count, commit_every=commit_every, seed=seed)) == unordered(one)


@profile
@given(cases(), partitions, commits, st.booleans(), st.sampled_from(STEPS), st.integers(0, 8), st.booleans())
def test_crashes_do_not_show(
    case: Case,
    count: int,
    commit_every: int | None,
    pipelined: bool,
    step: str,
    after: int,
    restart: bool,
) -> None:
    recipe, sent = case
    plan = topology_of(recipe).build()
    calm = outcome(plan, sent, partitions=count, commit_every=commit_every)
    options = {"partitions": count, "commit_every": commit_every, "pipelined": pipelined}
    assert outcome(plan, sent, **options, crash=(step, after, restart)) == calm
