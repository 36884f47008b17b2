"""A coroutine is no answer, and as a condition it is always true: async functions are refused where nothing awaits them."""

import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver
from tests.unit.dsl.support import events, refused


async def waits(*args: Any) -> bool:
    return bool(args)


async def yields(value: Any) -> AsyncIterator[Any]:
    yield value


class Waits:
    async def __call__(self, value: Any) -> bool:
        return bool(value)


class Asks(ads.Processor[Any]):
    async def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:  # type: ignore[override]
        pass


class Turns(ads.ValueTransformerWithKey[Any]):
    async def transform(self, key: Any, value: Any) -> Any:
        return value


async def one(value: Any) -> bool:
    return bool(value)


def records() -> ads.KStream:
    return ads.App("app").stream("in")


@pytest.mark.parametrize(
    ("operation", "build"),
    [
        ("filter", lambda: events().filter(waits)),
        ("with_columns", lambda: events().with_columns(n=waits)),
        ("udf", lambda: ads.udf(waits, type=bool)),
        ("udf", lambda: ads.udf(functools.partial(waits, 1), type=bool)),
        ("udf", lambda: ads.udf(Waits(), type=bool)),
        ("count", lambda: ads.count(where=waits)),  # type: ignore[arg-type]
        ("udaf", lambda: ads.udaf(init=int, add=waits, merge=None, result=None, type=int)),
        ("filter", lambda: records().filter(one)),
        ("filter", lambda: records().filter(Waits())),
        ("map_values", lambda: records().map_values(one)),
        ("flat_map_values", lambda: records().flat_map_values(yields)),
        ("branch", lambda: records().split().branch(one)),
        ("to", lambda: records().to(one)),
        ("to", lambda: records().to("out", partitioner=waits)),
        ("stream", lambda: ads.App("app").stream("in", timestamp=waits)),
        ("aggregate", lambda: records().group_by_key().aggregate(waits, lambda v, a: a)),
        ("process", lambda: records().process(Asks)),
        ("process", lambda: records().process(waits)),
        ("transform_values", lambda: ads.App("app").table("in").transform_values(Turns)),
        ("of", lambda: ads.serdes.of(deserialize=waits)),
    ],
)
def test_they_are_refused(operation: str, build: Callable[[], object]) -> None:
    with refused("bad_argument", "an async function: `", "", operation):
        build()


def test_in_a_pattern_and_a_callable_topic_with_its_context() -> None:
    with refused("bad_argument", "an async function: `one`"):
        ads.Pattern.begin("a").where(one)

    async def topic(key: Any, value: Any, context: ads.RecordContext) -> str:
        return "out"

    with refused("bad_argument", "an async function: `topic`", "`.rows(…).map_async(…)`", "to"):
        records().to(topic)


def test_a_coroutine_that_shows_only_at_run_time_is_a_dead_letter_and_not_true() -> None:
    @ads.topology(name="app")
    def hidden(app: ads.App) -> None:
        app.stream("in", value=ads.serdes.string).filter(lambda v: one(v)).to("out")

    with TopologyTestDriver(hidden, partitions=1) as driver:
        driver.input("in").pipe("x", key="k")
        assert driver.output("out").read() == []
        [letter] = driver.dead_letters("in")
        assert "coroutine" in letter.message
