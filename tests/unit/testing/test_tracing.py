"""`driver.trace(key)`: why something is no match."""

from __future__ import annotations

import pytest

import adstream as ads
from adstream import Pattern, col, matched
from adstream.testing import TopologyTestDriver

TEXT = ads.serdes.string
PAIR = Pattern.parse("a (t = 'a') -> b (t = 'b' and n > a.n) within 10s")


class Event(ads.Record):
    k: str
    t: str
    n: int


@ads.topology(name="app")
def app(app: ads.App) -> None:
    found = (
        app.stream("in", key=TEXT).group_by_key().match({"pair": PAIR, "two": PAIR.followed_by("c")}, max_delay="0s")
    )
    found["pair"].matches.to("out", key=TEXT)


@ads.topology(name="rows")
def rows(app: ads.App) -> None:
    found = app.stream("in", schema=Event).group_by("k").match(PAIR, max_delay="0s", name="pairs")
    found.select(n=matched("a").count()).to("out")


def play(driver: TopologyTestDriver, of_rows: bool) -> None:
    events = [("k", "a", 5, 1), ("l", "a", 1, 2), ("k", "b", 4, 3), ("l", "b", 2, 5), ("k", "b", 6, 12)]
    for i, (key, letter, n, second) in enumerate([*events, ("k", "-", 0, 60), ("l", "-", 0, 60)]):
        value = {"t": letter, "n": n} | ({"k": key} if of_rows else {})
        driver.input("in").pipe(value, **({} if of_rows else {"key": key}), at=second * 1000)
        if i == 3:
            driver.restart()


def test_each_event_says_what_its_runs_did_and_why() -> None:
    with TopologyTestDriver(app, partitions=2) as driver:
        play(driver, False)
        told = [one for one in driver.trace("k") if one.pattern == "match-1.pair"]
        assert [str(one) for one in told] == [
            """\
1000 match-1.pair: t='a', n=5
    in a: took
        take    -> b if t = 'a': yes""",
            """\
3000 match-1.pair: t='b', n=4
    in b since 1000: skipped
        take    -> $endState$ if t = 'b' and n > a.n: no
        ignore  -> b if not (t = 'b' and n > a.n): yes
    in a: waits
        take    -> b if t = 'a': no""",
            "11000 match-1.pair: timed out a=[{'t': 'a', 'n': 5}]",
            """\
12000 match-1.pair: t='b', n=6
    in a: waits
        take    -> b if t = 'a': no""",
        ]
        assert {one.pattern for one in driver.trace("l")} == {"match-1.pair", "match-1.two"}
        assert driver.trace("nobody") == []
        assert len(driver.output("out").read()) == 1
        assert "k" not in driver.patterns("match-1-store")  # its run is over, and its last event begins none


def test_rows_are_traced_by_their_group() -> None:
    with TopologyTestDriver(rows, partitions=1) as driver:
        play(driver, True)
        told = driver.trace("l", "pairs")
        assert [(one.at, one.event["t"], [run["did"] for run in one.runs]) for one in told] == [
            (2000, "a", ["took"]),
            (5000, "b", ["took", "waits"]),
        ]
        with pytest.raises(KeyError, match="there are: pairs"):
            driver.trace("l", "nobody")


def test_no_pattern_has_no_trace() -> None:
    @ads.topology(name="none")
    def none(app: ads.App) -> None:
        app.stream("in", key=TEXT).filter(col("n") > 1).to("out", key=TEXT)

    with TopologyTestDriver(none) as driver, pytest.raises(KeyError, match="there are: none"):
        driver.trace("k")


def test_what_is_under_way_is_asked_by_operation_by_store_or_without_a_name() -> None:
    @ads.topology(name="two")
    def two(app: ads.App) -> None:
        stream = app.stream("in", key=ads.serdes.string)
        pair = ads.Pattern.begin("a").where(ads.col("t") == "a").followed_by("b").where(ads.col("t") == "b")
        for name in ("one-store", "other-store")[: 2 if several else 1]:
            stream.group_by_key().match(pair, max_delay="0s", materialized=name)

    for several in (False, True):
        with TopologyTestDriver(two, partitions=1) as driver:
            for second, letter in enumerate("a.."):
                driver.input("in").pipe({"t": letter}, key="k", at=1_000 * second)
            found = driver.patterns("one-store")
            assert found["k"].live_runs == 1
            assert driver.patterns("match-1") == found
            if several:
                with pytest.raises(KeyError, match=r"there are: match-1 \(one-store\), match-2 \(other-store\)"):
                    driver.patterns()
            else:
                assert driver.patterns() == found
            with pytest.raises(KeyError, match="no pattern is matched by `nope`"):
                driver.patterns("nope")
