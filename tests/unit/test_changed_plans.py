"""State under a name that means something else now is refused, not taken over."""

import json
from typing import Any

import pytest

import adstream as ads
from adstream._core import CoreError, Plan, RawBatch, Task


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
