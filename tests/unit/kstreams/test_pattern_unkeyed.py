"""Patterns over all events of a partition: what Flink does without `keyBy`."""

from __future__ import annotations

from typing import Any

import pytest

import adstream as ads
from adstream import Pattern, col, matched
from adstream.testing import TopologyTestDriver
from tests.differential.cep import adstream_side, generate

TEXT = ads.serdes.string
PAIR = Pattern.begin("a").where(col("t") == "a").next("b").where(col("t") == "b")


class Event(ads.Record):
    t: str
    n: int


def play(events: list[tuple[str | None, str]], rows: bool, partitions: int, lane: bool = False) -> list[Any]:
    def build(app: ads.App) -> None:
        if rows:
            found = app.stream("in", schema=Event).match(PAIR, max_delay="0s")
            found.select(a=matched("a").first("n"), b=matched("b").first("n")).to("out")
            return
        stream = app.stream("in", key=TEXT)
        if lane:
            stream = stream.repartition("lane", partitions=1)
        found = stream.match(PAIR, max_delay="0s")
        found.select(ads.struct(a=matched("a").first("n"), b=matched("b").first("n"))).to("out", key=TEXT)

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=partitions) as driver:
        for i, (key, letter) in enumerate(events):
            driver.input("in").pipe({"t": letter, "n": i}, **({} if rows else {"key": key}), at=i)
            driver.run()
        found = driver.output("out").read()
        assert all(r.key is None for r in found)
        return [(r.value["a"], r.value["b"]) for r in found]


def test_events_of_all_keys_are_one_stream() -> None:
    events: list[tuple[str | None, str]] = [("k", "a"), ("l", "b"), (None, "a"), ("k", "b"), ("k", "-")]
    assert play(events, False, 1) == [(0, 1), (2, 3)]
    assert play(events, True, 1) == [(0, 1), (2, 3)]


def test_each_partition_is_matched_by_itself_or_all_of_them_on_one_lane() -> None:
    keys = [f"k{i}" for i in range(20)]
    events: list[tuple[str | None, str]] = [(key, "ab"[i % 2]) for i, key in enumerate(keys)]
    events += [(key, "-") for key in keys]
    everything = [(i, i + 1) for i in range(0, 20, 2)]
    assert play(events, False, 1) == everything
    assert play(events, False, 4, lane=True) == everything
    apart = play(events, False, 4)
    assert apart
    assert sorted(apart) != everything


@pytest.mark.parametrize("seed", range(30))
def test_it_is_what_one_key_has(seed: int) -> None:
    """Flink's operator without a key is the one with a key that all events have."""
    case = generate.case(seed)
    case["events"] = [["k", *rest] for _, *rest in case["events"]]
    keyed = adstream_side.play(case)
    for form in ("api", "rows"):
        for options in ({}, {"restart": True}):
            unkeyed = adstream_side.play(case, unkeyed=True, form=form, **options)
            assert unkeyed == keyed or ("rejected" in unkeyed and "rejected" in keyed)


def test_what_is_under_way_is_counted_over_all_partitions() -> None:
    def build(app: ads.App) -> None:
        app.stream("in", key=TEXT).match(PAIR, max_delay="0s", materialized="runs").matches.to("out", key=TEXT)

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=3) as driver:
        for i in range(12):
            driver.input("in").pipe({"t": "a", "n": i}, key=f"k{i}", at=i)
        counts = driver.patterns("runs")
        assert list(counts) == [None]
        assert counts[None].waiting == 3  # the latest of each partition
        assert counts[None].live_runs == 3
