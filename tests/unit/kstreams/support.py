"""A topology on the test driver, as Kafka Streams' own: one partition, a commit after every record."""

from collections.abc import Callable, Iterable
from typing import Any

import adstream as ads
from adstream.testing import TopologyTestDriver

S, I = ads.serdes.string, ads.serdes.int64  # noqa: E741

Records = Iterable[tuple[Any, ...]]


def run(build: Callable[[ads.App], None], records: Records, **options: Any) -> list[tuple[Any, ...]]:
    """What comes out of `out` for (topic, key, value, ts): (key, value, ts)."""
    return [record for step in steps(build, records, **options) for record in step]


def steps(build: Callable[[ads.App], None], records: Records, **options: Any) -> list[list[tuple[Any, ...]]]:
    """The same, record by record."""
    topology = ads.topology(name="app")(build)
    with TopologyTestDriver(topology, **{"partitions": 1, "commit_every": 1, **options}) as driver:
        found = []
        for topic, key, value, ts in records:
            driver.input(topic).pipe(value, key=key, at=ts)
            found.append([(r.key, r.value, r.timestamp) for r in driver.output("out").read()])
        return found


def newest(driver: TopologyTestDriver, topic: str = "out") -> dict[Any, Any]:
    """The table that the records of a topic make."""
    table: dict[Any, Any] = {}
    for record in driver.output(topic).read():
        if record.value is None:
            table.pop(record.key, None)
        else:
            table[record.key] = record.value
    return table


def dropped(driver: TopologyTestDriver, reason: str) -> int:
    return sum(reasons.get(f"dropped:{reason}", 0) for reasons in driver.counters().values())
