"""Merged topics that have not as many partitions: a task reads what there is, and waits for nothing else."""

import json
from datetime import datetime
from typing import Annotated

import pytest

import adstream as ads
from adstream import col
from adstream._core import Plan, RawBatch
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import launch
from adstream.runtime.settings import Settings

BEGAN_MS = 1_760_000_000_000 - 1_760_000_000_000 % 60_000
COUNTS = {"wide": 4, "narrow": 1, "none": 2}
"""Partitions of topics; `none` stays empty."""


class Sale(ads.Record):
    shop: str
    at: Annotated[datetime, ads.epoch("ms")]


def merged(app: ads.App) -> ads.Stream:
    first, *others = (app.stream(topic, Sale, timestamp="at") for topic in COUNTS)
    return first.merge(*others)


@ads.topology(name="as-they-come")
def as_they_come(app: ads.App) -> None:
    merged(app).filter(col("shop") != "").to("out")


@ads.topology(name="by-minute")
def by_minute(app: ads.App) -> None:
    counted = merged(app).group_by("shop").windowed_by(ads.tumbling("1m", grace="0s")).count()
    counted.to_stream().to("out")


@ads.topology(name="as-records")
def as_records(app: ads.App) -> None:
    wide, narrow, none = (app.stream(topic, key=ads.serdes.string, value=ads.serdes.bytes) for topic in COUNTS)
    wide.merge(narrow).merge(none).to("out")


def read(log: EmbeddedLog, topic: str) -> list[bytes | None]:
    reader, values = log.reader(), list[bytes | None]()
    for p in range(log.partitions([topic])[topic]):
        reader.add(topic, p, 0)
        while (batch := reader.read(topic, p, 100)) is not None:
            values += [record[3] for record in batch.records()]
    return values


@pytest.mark.timeout(60)
@pytest.mark.parametrize("topology", [as_they_come, by_minute, as_records], ids=lambda it: it.name)
@pytest.mark.parametrize("rows", [1, 5])
def test_every_partition_is_read_to_its_end(topology: ads.Topology, rows: int) -> None:
    log = EmbeddedLog()
    log.create_topics([TopicSpec(topic, count) for topic, count in COUNTS.items()])
    sent = []
    for topic, count in COUNTS.items():
        for p in range(count if topic != "none" else 0):
            sales = [{"shop": f"{topic}-{p}", "at": BEGAN_MS + 60_000 * n} for n in range(rows)]
            batch = RawBatch([(n, sale["at"], b"k", json.dumps(sale).encode(), []) for n, sale in enumerate(sales)])  # type: ignore[misc]
            assert log.writer("test").commit([(topic, p, batch)], {}, "g", None) is Outcome.COMMITTED
            sent += sales
    built = topology.build()
    launch.run(Plan(built.json, built.callables), Settings(create_topics=True), log, stop_at_end=True)
    out = [json.loads(value) for value in read(log, "out") if value is not None]
    assert sorted(row["shop"] for row in out) == sorted(sale["shop"] for sale in sent)
