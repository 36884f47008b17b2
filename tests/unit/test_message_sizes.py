"""However much one commit holds, no message is larger than brokers take by default (1 MB)."""

import json

import adstream as ads
from adstream._core import Plan, RawBatch

LIMIT = 1_000_000
ROWS = 60_000


class Event(ads.Record):
    id: str
    user: str
    text: str


@ads.topology(name="big")
def big(app: ads.App, combine: bool = True) -> None:
    stream = app.stream("events", Event).deduplicate("id", within="1h")
    table = stream.group_by("user").aggregate(combine=combine, n=ads.count(), last=ads.last("text"))
    table.sink(ads.sinks.Sql("table", key=["user"]))


def largest(combine: bool) -> dict[str, int]:
    built = big.build(combine=combine)
    plan = Plan(json.dumps(built.plan), list(built.callables))
    topics = dict.fromkeys(json.loads(plan.describe())["topics"], 1)
    first, second = plan.task(0, 0, topics), plan.task(1, 0, topics)
    rows = ((f"id{i}", f"user{i}", "x" * 40) for i in range(ROWS))
    records = [
        (i, 1_700_000_000_000 + i, None, b'{"id":"%s","user":"%s","text":"%s"}' % tuple(v.encode() for v in row), [])
        for i, row in enumerate(rows)
    ]
    first.feed("events", 0, RawBatch(records))
    assert first.process(ROWS) == ROWS
    sizes: dict[str, int] = {}
    for turn in range(3):  # the later ones write clean state again
        outputs = first.close_generation().outputs
        first.committed()
        edge = [batch for topic, _, batch in outputs if topic.endswith("-repartition")]
        if edge:
            second.feed(_edge(topics), 0, edge[0])
            second.process(10 * ROWS)
        outputs += second.close_generation().outputs
        second.committed()
        for topic, _, batch in outputs:
            biggest = max((len(value or b"") for _, _, _, value, _ in batch.records()), default=0)
            sizes[topic] = max(sizes.get(topic, 0), biggest)
        assert turn or edge
    return sizes


def _edge(topics: dict[str, int]) -> str:
    return next(topic for topic in topics if topic.endswith("-repartition"))


def test_frames_stay_below_a_brokers_limit() -> None:
    for combine in (True, False):
        sizes = largest(combine)
        assert len(sizes) >= 4, sizes
        assert max(sizes.values()) > LIMIT / 3, "too little to be a test"
        assert max(sizes.values()) < LIMIT, sizes
