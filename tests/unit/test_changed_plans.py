"""State under a name that means something else now is refused, not taken over."""

import json
from typing import Any

import pytest

import adstream as ads
from adstream._core import CoreError, Plan, RawBatch, Task
from adstream.runtime.manifest import signature


class Event(ads.Record):
    user: str
    a: int
    b: int


@ads.topology(name="changed")
def changed(
    app: ads.App, column: str = "a", size: str = "5m", grace: str = "10s", within: str = "1h", filtered: bool = True
) -> None:
    stream = app.stream("events", Event, key="user").deduplicate("a", "b", within=within)
    if filtered:
        stream = stream.filter(ads.col("b") > 0, reason="b").named("positive")
    windows = stream.group_by("user").windowed_by(ads.tumbling(size, grace=grace, retention="1h"))
    windows.aggregate(total=ads.sum(column)).named("totals").to_stream().to("out", key="user")


def task(**settings: Any) -> Task:
    built = changed.build(**settings)
    plan = Plan(json.dumps(built.plan), list(built.callables))
    return plan.task(0, 0, dict.fromkeys(json.loads(plan.describe())["topics"], 1))


@pytest.fixture(scope="module")
def changelog() -> RawBatch:
    first = task()
    value = json.dumps({"user": "u", "a": 1, "b": 100}).encode()
    first.feed("events", 0, RawBatch([(0, 1_700_000_000_000, b"u", value, [])]))
    assert first.process(10) == 1
    [log] = [batch for topic, _, batch in first.close_generation().outputs if topic.endswith("-changelog")]
    return log


@pytest.mark.parametrize("settings", [{"column": "b"}, {"size": "1m"}])
def test_another_meaning_is_refused(changelog: RawBatch, settings: dict[str, str]) -> None:
    with pytest.raises(CoreError) as refused:
        task(**settings).restore(changelog)
    assert refused.value.args[:2] == ("fatal", "unknown_state")


@pytest.mark.parametrize("settings", [{}, {"grace": "30s"}, {"within": "10m"}, {"filtered": False}])
def test_how_long_state_matters_and_what_has_none_may_change(changelog: RawBatch, settings: dict[str, str]) -> None:
    later = task(**settings)
    later.restore(changelog)
    value = json.dumps({"user": "u", "a": 2, "b": 100}).encode()
    later.feed("events", 0, RawBatch([(1, 1_700_000_000_001, b"u", value, [])]))
    later.process(10)
    [out] = [batch for topic, _, batch in later.close_generation().outputs if topic == "out"]
    assert json.loads(out.records()[0][3] or b"")["total"] == 3


class Keeps(ads.Processor):
    def __init__(self, kept: Any) -> None:
        self.kept = kept

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        ctx.get_state_store("store").put(record.key, self.kept)


@ads.topology(name="kept")
def keeping(app: ads.App, headers: bool = False) -> None:
    if headers:
        store, kept = ads.store.timestamped_key_value_with_headers("store"), ads.ValueTimestampHeaders(1, 2)
    else:
        store, kept = ads.store.timestamped_key_value("store"), ads.ValueAndTimestamp(1, 2)
    app.stream("in", key=ads.serdes.string).process(lambda: Keeps(kept), store, name="keeps")


def test_a_store_with_headers_does_not_read_one_without() -> None:
    def made(headers: bool) -> Task:
        built = keeping.build(headers=headers)
        return Plan(built.json, built.callables).task(0, 0, {"in": 1, "in-dlq": 1})

    first = made(False)
    first.feed("in", 0, RawBatch([(0, 0, b"k", b"1", [])]))
    first.process(10)
    [log] = [batch for topic, _, batch in first.close_generation().outputs if topic.endswith("-changelog")]
    made(False).restore(log)
    with pytest.raises(CoreError) as refused:
        made(True).restore(log)
    assert refused.value.args[:2] == ("fatal", "unknown_state")


class Paid(ads.State):
    n: int = 0


class PaidTwice(ads.State):
    n: int = 0
    total: int = 0


@ads.topology(name="rolls")
def rolls(
    app: ads.App,
    summed: str = "a",
    fn: str = "sum",
    more: bool = False,
    by: str = "user",
    over: bool = False,
    rows: int = 0,
    grace: str = "10s",
) -> None:
    events = app.stream("events", Event, key="user").with_columns(other=ads.col("user"))
    value: ads.Aggregate = getattr(ads, fn)(summed)
    aggregates = {"total": value.over("user") if over else value}
    if more:
        aggregates = {"n": ads.count(), **aggregates}
    grouped = events.group_by(by)
    made = grouped.rolling(rows=rows, **aggregates) if rows else grouped.rolling("5m", grace=grace, **aggregates)
    made.to("out", key="user")


@ads.topology(name="scans")
def scans(app: ads.App, more: bool = False, step: int = 1) -> None:
    state: Any = ads.state(PaidTwice if more else Paid)
    events = app.stream("events", Event, key="user").group_by("user")
    emit, update = {"nth": state.n + 1}, {"n": state.n + step}
    events.scan(PaidTwice if more else Paid, emit=emit, update=update).to("out", key="user")


def made(topology: ads.Topology, settings: dict[str, Any]) -> Task:
    built = topology.build(**settings)
    plan = Plan(built.json, built.callables)
    return plan.task(0, 0, dict.fromkeys(json.loads(plan.describe())["topics"], 1))


def kept_by(topology: ads.Topology, settings: dict[str, Any]) -> RawBatch:
    first = made(topology, settings)
    value = json.dumps({"user": "u", "a": 1, "b": 100}).encode()
    first.feed("events", 0, RawBatch([(0, 1_700_000_000_000, b"u", value, [])]))
    assert first.process(10) == 1
    [log] = [batch for topic, _, batch in first.close_generation().outputs if topic.endswith("-changelog")]
    return log


@pytest.mark.parametrize(
    ("topology", "before", "after"),
    [
        (rolls, {}, {"summed": "b"}),
        (rolls, {}, {"more": True}),
        (rolls, {"more": True}, {}),
        (rolls, {}, {"over": True}),
        (rolls, {}, {"rows": 3}),
        (rolls, {"rows": 3}, {"rows": 3, "summed": "b"}),
        (rolls, {"by": "other"}, {"by": "a"}),
        (scans, {}, {"more": True}),
    ],
)
def test_rows_that_are_kept_of_something_else_are_refused(
    topology: ads.Topology, before: dict[str, Any], after: dict[str, Any]
) -> None:
    if before.get("by"):  # behind a shuffle nothing is kept yet: only what is told of it can be compared
        assert meanings(topology, before) != meanings(topology, after)
        return
    log = kept_by(topology, before)
    with pytest.raises(CoreError) as refused:
        made(topology, after).restore(log)
    assert refused.value.args[:2] == ("fatal", "unknown_state")
    assert meanings(topology, before) != meanings(topology, after)


@pytest.mark.parametrize(
    ("topology", "before", "after"),
    [
        (rolls, {}, {"fn": "max"}),  # the same arguments, folded anew for each row
        (rolls, {}, {"grace": "30s"}),
        (rolls, {"rows": 3}, {"rows": 5}),
        (scans, {}, {"step": 2}),
    ],
)
def test_rows_that_are_kept_are_read_by_other_aggregates_of_the_same(
    topology: ads.Topology, before: dict[str, Any], after: dict[str, Any]
) -> None:
    later = made(topology, after)
    later.restore(kept_by(topology, before))
    assert meanings(topology, before) == meanings(topology, after)


def meanings(topology: ads.Topology, settings: dict[str, Any]) -> Any:
    built = topology.build(**settings)
    return signature(json.loads(Plan(built.json, built.callables).describe()), {"events": 1})["operations"]
