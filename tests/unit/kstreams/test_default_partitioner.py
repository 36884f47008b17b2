"""A partitioner that leaves it to the default: records lie where they would without it; windowed keys as producers have it."""

from typing import Any

import pytest

import adstream as ads
from adstream._core import murmur2
from adstream.testing import TopologyTestDriver

S = ads.serdes.string
PARTITIONS, KEYS = 4, 20


def none(topic: str, key: Any, value: Any, partitions: int) -> None:
    return None


def test_a_repartition_still_meets_its_table() -> None:
    @ads.topology(name="meets")
    def meets(app: ads.App) -> None:
        table = app.table("table", key=S, value=S)
        stream = app.records("in", key=S, value=S).repartition(partitioner=none)
        stream.join(table, lambda a, b: f"{a}-{b}").to("out", key=S, value=S)

    with TopologyTestDriver(meets, partitions=PARTITIONS) as driver:
        for i in range(KEYS):
            driver.input("table").pipe(f"v{i}", key=f"k{i}", at=1_000)
        driver.run()
        for i in range(KEYS):
            driver.input("in").pipe(f"x{i}", key=f"k{i}", at=2_000)
        assert len(driver.output("out").read()) == KEYS


@pytest.mark.parametrize("asked", [("partitioner",), ("other_partitioner",), ("partitioner", "other_partitioner")])
def test_a_join_by_foreign_key_still_finds_its_answers(asked: tuple[str, ...]) -> None:
    @ads.topology(name="foreign")
    def foreign(app: ads.App) -> None:
        left, right = app.table("left", key=S, value=S), app.table("right", key=S, value=S)
        how: dict[str, Any] = dict.fromkeys(asked, none)
        joined = left.join(right, lambda a, b: f"{a}-{b}", foreign_key=lambda value: value, **how)
        joined.to_stream().to("out", key=S, value=S)

    with TopologyTestDriver(foreign, partitions=PARTITIONS) as driver:
        for i in range(KEYS):
            driver.input("right").pipe(f"v{i}", key=f"k{i}")
        for i in range(KEYS):
            driver.input("left").pipe(f"k{i}", key=f"x{i}")
        assert len(driver.output("out").read()) == KEYS


def test_a_key_with_a_window_goes_by_all_its_bytes() -> None:
    """In Kafka Streams the partitioner of windowed keys, which goes by the key inside, is only there if no other is given."""

    @ads.topology(name="windowed")
    def windowed(app: ads.App) -> None:
        windows = app.records("in", key=S, value=S).group_by_key().windowed_by(ads.tumbling("1s", grace="0s"))
        counted = windows.count().to_stream()
        key = ads.serdes.time_windowed(S, "1s")
        counted.to("asked", key=key, value=ads.serdes.int64, partitioner=none)
        counted.to("not-asked", key=key, value=ads.serdes.int64)

    def partition(key: bytes) -> int:
        return (murmur2(key) & 0x7FFFFFFF) % PARTITIONS

    with TopologyTestDriver(windowed, partitions=PARTITIONS) as driver:
        for i in range(KEYS):
            driver.input("in").pipe("x", key=f"k{i}", at=i * 1_000)
        asked, plain = driver.output("asked").read_raw(), driver.output("not-asked").read_raw()
        assert [r.partition for r in asked] == [partition(r.key or b"") for r in asked]
        assert [r.partition for r in plain] == [partition((r.key or b"")[:-8]) for r in plain]
        assert len(asked) == len(plain) == KEYS
