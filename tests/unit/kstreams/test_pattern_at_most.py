"""`at_most`: alerts that do not ring all day."""

from typing import Any

import pytest

import adstream as ads
from adstream import Pattern, TopologyError, col
from adstream.testing import TopologyTestDriver

TEXT = ads.serdes.string
A = Pattern.begin("a").where(col("t") == "a")


def told(matches: int, times: list[tuple[str, int]], *, restart: bool = False) -> dict[str, list[tuple[str, int]]]:
    def build(app: ads.App) -> None:
        found = app.stream("in", key=TEXT).group_by_key().match(A, max_delay="0s")
        alerts = found.at_most(matches, per="10ms")
        alerts.to("told", key=TEXT)
        alerts.held_back.to("held", key=TEXT)

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1, commit_every=1) as driver:
        for key, at in times:
            driver.input("in").pipe({"t": "a"}, key=key, at=at)
            if restart:
                driver.restart()
        driver.input("in").pipe({"t": "-"}, key="k", at=10**6)
        return {topic: [(r.key, r.timestamp) for r in driver.output(topic).read()] for topic in ("told", "held")}


@pytest.mark.parametrize("restart", [False, True])
def test_one_per_stretch_of_time(restart: bool) -> None:
    times = [("k", 1), ("k", 1), ("k", 5), ("l", 6), ("k", 10), ("k", 11), ("l", 15), ("l", 16), ("k", 30)]
    said = told(1, times, restart=restart)
    assert said["told"] == [("k", 1), ("l", 6), ("k", 11), ("l", 16), ("k", 30)]
    assert said["held"] == [("k", 1), ("k", 5), ("k", 10), ("l", 15)]


def test_several_per_stretch_of_time() -> None:
    said = told(2, [("k", at) for at in (1, 4, 5, 11, 13, 14)])
    assert said == {"told": [("k", 1), ("k", 4), ("k", 11), ("k", 14)], "held": [("k", 5), ("k", 13)]}


@pytest.mark.parametrize(
    ("matches", "per", "code"), [(0, "1s", "bad_argument"), (1, "0s", "bad_duration"), (1, 5, "bad_duration")]
)
def test_what_is_no_bound(matches: int, per: Any, code: str) -> None:
    def build(app: ads.App) -> None:
        app.stream("in", key=TEXT).group_by_key().match(A, max_delay="0s").at_most(matches, per=per).to("out", key=TEXT)

    with pytest.raises(TopologyError) as caught:
        ads.topology(name="app")(build).build()
    assert caught.value.code == code
