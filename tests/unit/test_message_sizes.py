"""However much one commit holds, no message is larger than brokers take by default (1 MB)."""

import json
from collections.abc import Sequence

import pytest

import adstream as ads
from adstream._core import Plan, RawBatch

LIMIT = 1_000_000
ROWS = 60_000
SMALL = [f"user{i}" for i in range(ROWS)]
LARGE = [f"{i}" + "x" * (900_000 if i % 100 == 0 else 450_000 if i % 100 == 50 else 40) for i in range(2_000)]
"""Each fits a message by itself, some with nothing else."""


class Event(ads.Record):
    id: str
    user: str
    text: str


@ads.topology(name="big")
def big(app: ads.App, combine: bool = True) -> None:
    stream = app.stream("events", Event).deduplicate("id", within="1h")
    table = stream.group_by("user").aggregate(combine=combine, n=ads.count(), last=ads.last("text"))
    table.sink(ads.sinks.Sql("table", key=["user"]))


@ads.topology(name="big")
def big_records(app: ads.App) -> None:
    app.stream("events").group_by(ads.col("user"), "by-user").count("users").to_stream().to("out")


def largest(built: ads.Built, users: Sequence[str]) -> dict[str, int]:
    plan = Plan(json.dumps(built.plan), list(built.callables))
    topics = dict.fromkeys(json.loads(plan.describe())["topics"], 1)
    first, second = plan.task(0, 0, topics), plan.task(1, 0, topics)
    rows = ((f"id{i}", user, "x" * 40) for i, user in enumerate(users))
    records = [
        (i, 1_700_000_000_000 + i, None, b'{"id":"%s","user":"%s","text":"%s"}' % tuple(v.encode() for v in row), [])
        for i, row in enumerate(rows)
    ]
    first.feed("events", 0, RawBatch(records))
    assert first.process(len(users)) == len(users)
    sizes: dict[str, int] = {}
    for turn in range(3):  # the later ones write clean state again
        outputs = first.close_generation().outputs
        first.committed()
        edge = [batch for topic, _, batch in outputs if topic.endswith("-repartition")]
        if edge:
            second.feed(_edge(topics), 0, edge[0])
            second.process(10 * len(users))
        outputs += second.close_generation().outputs
        second.committed()
        for topic, _, batch in outputs:
            biggest = max((len(value or b"") for _, _, _, value, _ in batch.records()), default=0)
            sizes[topic] = max(sizes.get(topic, 0), biggest)
        assert turn or edge
    return sizes


def _edge(topics: dict[str, int]) -> str:
    return next(topic for topic in topics if topic.endswith("-repartition"))


@pytest.mark.parametrize("users", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("combine", [True, False])
def test_frames_stay_below_a_brokers_limit(combine: bool, users: list[str]) -> None:
    sizes = largest(big.build(combine=combine), users)
    assert len(sizes) >= 4, sizes
    assert max(sizes.values()) > LIMIT / 3, "too little to be a test"
    assert max(sizes.values()) < LIMIT, sizes


def test_the_changelog_of_a_store_does_too() -> None:
    sizes = largest(big_records.build(), LARGE)
    assert max(sizes.values()) > LIMIT / 3, "too little to be a test"
    assert max(sizes.values()) < LIMIT, sizes
