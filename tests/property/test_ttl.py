"""Groups that are forgotten after a while: what a group holds depends on the order within each partition alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS
from tests.oracle import Oracle
from tests.property.test_batching import outcome, pipe, profile, same_as, unordered
from tests.property.topologies import KEYS, TOPIC, Advance, Aggregation, Recipe, Sent, inputs, topology_of

NAMES = ["rows", "as", "total", "money", "least", "most", "mean_n", "first_kind", "last_shop", "product"]


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    keys = draw(st.sampled_from(KEYS))
    names = ("rows", *draw(st.lists(st.sampled_from(NAMES[1:]), max_size=2, unique=True)))
    regroup = draw(st.none() | st.just(keys[:1]) | st.just(keys[-1:]))
    ttl = draw(st.sampled_from(["1ms", "500ms", "1s", "2500ms", "7s"]))
    how = Aggregation(keys, None, names, draw(st.booleans()), regroup, draw(st.booleans()), ttl=ttl)
    steps = draw(st.sampled_from([(), (), (("filter", "positive", "why"),), (("deduplicate", "1s", "id"),)]))
    shuffled = keys != ("user",) and not steps
    return Recipe(steps, False, how, "1s" if shuffled and draw(st.booleans()) else None)


partitions = st.integers(1, 4)
commits = st.sampled_from([None, 1, 3, 10])


@profile
@given(recipes(), inputs, partitions, commits)
def test_it_is_what_one_record_at_a_time_gives(
    recipe: Recipe, sent: list[Sent | Advance], count: int, commit_every: int | None
) -> None:
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
@given(recipes(), inputs, partitions, commits, st.sampled_from([1, 2, 7]), st.integers(0, 2**32))
def test_batches_and_the_order_of_tasks_do_not_show(
    recipe: Recipe, sent: list[Sent | Advance], count: int, commit_every: int | None, rows: int, seed: int
) -> None:
    plan = topology_of(recipe).build()
    one = outcome(plan, sent, partitions=count, commit_every=commit_every)
    assert outcome(plan, sent, partitions=count, commit_every=commit_every, batch_rows=rows) == one
    calm = [item for item in sent if not isinstance(item, int)]
    one = outcome(plan, calm, partitions=count, commit_every=commit_every)
    assert unordered(outcome(plan, calm, partitions=count, commit_every=commit_every, seed=seed)) == unordered(one)


@profile
@given(recipes(), inputs, partitions, commits, st.booleans(), st.sampled_from(STEPS), st.integers(0, 8), st.booleans())
def test_crashes_do_not_show(
    recipe: Recipe,
    sent: list[Sent | Advance],
    count: int,
    commit_every: int | None,
    pipelined: bool,
    step: str,
    after: int,
    restart: bool,
) -> None:
    plan = topology_of(recipe).build()
    calm = outcome(plan, sent, partitions=count, commit_every=commit_every)
    options = {"partitions": count, "commit_every": commit_every, "pipelined": pipelined}
    assert outcome(plan, sent, **options, crash=(step, after, restart)) == calm
