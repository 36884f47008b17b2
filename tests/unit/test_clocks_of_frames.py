"""How far a lane has come is told with its frames: to every partition, and not before what it closes has been told."""

from __future__ import annotations

from collections import Counter

import adstream as ads
from adstream.testing import TopologyTestDriver

MANY = 12_000


class Event(ads.Record):
    shop: str
    text: str


@ads.topology(name="clocks")
def clocks(app: ads.App) -> None:
    windowed = app.stream("events", Event).group_by("shop").windowed_by(ads.tumbling("1s", grace="0s"))
    table = windowed.aggregate(rows=ads.count(), last=ads.last("text"))
    table.final().to("final")
    table.late.to("late")


def test_a_partition_that_was_sent_a_late_row_is_told_that_its_windows_have_closed() -> None:
    shops = [f"s{i}" for i in range(4)]
    with TopologyTestDriver(clocks, partitions=2) as driver:
        source, final = driver.input("events"), driver.output("final")

        def send(shop: str, at: int) -> None:
            source.pipe({"shop": shop, "text": ""}, partition=0, at=at)

        source.pipe({"shop": shops[0], "text": ""}, partition=1, at=9_000)  # nothing is waited for but lane 0
        for shop in shops:
            send(shop, 100)
        assert final.read() == []
        send(shops[0], 5_000)
        for shop in shops:
            send(shop, 200)
        assert len(driver.output("late").read()) == len(shops)
        # Of two partitions one has been sent late rows alone.
        assert sorted(r.value["shop"] for r in final.read()) == shops


def test_what_takes_many_frames_is_told_before_its_window_closes() -> None:
    with TopologyTestDriver(clocks, partitions=1) as driver:
        source = driver.input("events")
        for i in range(MANY):
            source.pipe({"shop": f"s{i}", "text": "x" * 60}, at=i % 1000)
        source.pipe({"shop": "s0", "text": ""}, at=5_000)
        told = Counter(r.value["shop"] for r in driver.output("final").read())
        (edge,) = (topic for topic in driver.partitions if topic.endswith("-repartition"))
        assert len(driver.output(edge).read_raw()) > 2, "too little to be a test"
        assert told == Counter(f"s{i}" for i in range(MANY))
