"""One record, one commit, as Kafka Streams' own test driver; what comes out, as (key, value, ts)."""

from collections.abc import Callable, Iterable
from typing import Any

import adstream as ads
from adstream.testing import TopologyTestDriver

S, I = ads.serdes.string, ads.serdes.int64  # noqa: E741

Row = tuple[Any, ...]


def ms(n: int) -> str:
    return f"{n}ms"


def uncached(name: str | None = None) -> ads.Materialized:
    return ads.Materialized(name, caching=False)


def play(
    build: Callable[[ads.App], None],
    records: Iterable[Row],
    *,
    after: Callable[[TopologyTestDriver], None] | None = None,
    commit_every: int = 1,
) -> list[list[Row]]:
    """What each record (key, value, ts) of `in`, or (topic, key, value, ts), gives on `out`."""
    topology = ads.topology(name="app")(build)
    told = []
    with TopologyTestDriver(topology, partitions=1, commit_every=commit_every) as driver:
        for record in records:
            topic, key, value, ts = record if len(record) == 4 else ("in", *record)
            driver.input(topic).pipe(value, key=key, at=ts)
            driver.run()
            told.append([(_plain(r.key), r.value, r.timestamp) for r in driver.output("out").read()])
            if after is not None:
                after(driver)
    return told


def _plain(key: Any) -> Any:
    return (key.key, key.start, key.end) if isinstance(key, ads.Windowed) else key


def flat(told: list[list[Row]]) -> list[Row]:
    return [row for rows in told for row in rows]


def dropped(driver: TopologyTestDriver) -> dict[str, int]:
    """Why records were dropped, and how many."""
    found: dict[str, int] = {}
    for reasons in driver.counters().values():
        for reason, count in reasons.items():
            if reason.startswith("dropped:"):
                found[reason.removeprefix("dropped:")] = found.get(reason.removeprefix("dropped:"), 0) + count
    return found
