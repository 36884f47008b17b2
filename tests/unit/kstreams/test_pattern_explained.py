"""Seeing what a pattern is and does: the automaton as text and picture, the trace of each run, the cap on runs."""

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

import adstream as ads
from adstream import Pattern, TopologyError, col, matched
from adstream.testing import TopologyTestDriver
from tests.differential.cep import adstream_side, generate
from tests.unit.kstreams.test_patterns import play

TEXT = ads.serdes.string


def test_the_automaton_as_text() -> None:
    pattern = Pattern.parse("a (t = 'a') -> b (t = 'b') within 10m")
    assert str(pattern.explain()).splitlines() == [
        "within 10m from the first event on",
        "a: waits for a first event",
        "    take    -> b  if t = 'a'",
        "b",
        "    take    -> (end)  if t = 'b'",
        "    ignore  -> b  if not (t = 'b')",
        "(end): a match",
    ]


def test_loops_and_what_must_not_come() -> None:
    text = str(Pattern.parse("a (t = 'a') !-> n (t = 'n') -> b+ (t = 'b') -> c (t = 'c')").explain())
    assert "proceed -> n  if t = 'n'" in text
    assert "n: ends the run" in text
    assert "proceed -> c" in text
    assert "take    -> b" in text
    assert "(python('" in str(Pattern.begin("a").next("b").where(len).or_where(len).explain())


def test_pictures_are_whole_whatever_the_pattern() -> None:
    drawn = 0
    for seed in range(300):
        try:
            calls = generate.case(seed)["calls"]
            explained = adstream_side.pattern(calls, adstream_side.expression).explain()
        except TopologyError:
            continue
        picture = ElementTree.fromstring(explained.svg())
        boxes = picture.findall(".//{*}rect")
        assert len(boxes) == len(explained.states)
        arcs = sum(len(s.edges) for s in explained.states if s.kind not in ("stop", "final"))
        assert len(picture.findall("{*}g/{*}path")) == arcs
        drawn += 1
    assert drawn > 150
    hostile = Pattern.begin("<b>&\x00").where(col("x") == "</svg>").next("z")
    assert ElementTree.fromstring(hostile.explain().svg()) is not None


def test_what_shows_only_in_the_whole_is_refused() -> None:
    with pytest.raises(TopologyError, match="the name `a` is taken"):
        Pattern.begin("a").next("a").explain()


def traced(pattern: Pattern, events: list[tuple[str, int]]) -> list[dict[str, Any]]:
    def build(app: ads.App) -> None:
        found = app.stream("in", key=TEXT).group_by_key().match(pattern, max_delay="0s")
        found.trace.to("trace", key=TEXT)

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        for letter, at in events:
            driver.input("in").pipe({"t": letter, "at": at}, key="k", at=at)
        driver.input("in").pipe({"t": "-", "at": 0}, key="k", at=10**6)
        return [r.value for r in driver.output("trace").read()]


def test_a_trace_says_which_run_did_what_and_why() -> None:
    pattern = Pattern.parse("a (t = 'a') !-> n (t = 'n') -> b (t = 'b' and at > a.at + 1)")
    said = traced(pattern, [("x", 1), ("a", 2), ("b", 3), ("n", 4)])
    did = [(s["event"]["t"], [(run["state"], run["since"], run["did"]) for run in s["runs"]]) for s in said]
    assert did == [
        ("x", [("a", None, "waits")]),
        ("a", [("a", None, "took")]),
        ("b", [("b", 2, "skipped"), ("a", None, "waits")]),
        ("n", [("b", 2, "stopped"), ("a", None, "waits")]),
    ]
    of_b = said[2]["runs"][0]["edges"]
    assert {
        "from": "b",
        "action": "take",
        "to": "$endState$",
        "if": "t = 'b' and at > a.at + 1",
        "holds": False,
    } in of_b
    stopping = [e for e in said[3]["runs"][0]["edges"] if e["to"] == "n" != e["from"]]
    assert [(e["action"], e["if"], e["holds"]) for e in stopping] == [("proceed", "t = 'n'", True)]


def test_a_trace_says_where_a_run_was_dropped() -> None:
    said = traced(Pattern.parse("a (t = 'a') b (t = 'b')"), [("a", 1), ("x", 2), ("b", 3)])
    assert [[run["did"] for run in s["runs"]] for s in said] == [["took"], ["dropped", "waits"], ["waits"]]


HOSTILE = Pattern.parse("a (t = 'a') ->> b+ (t = 'b') combinations -> c (t = 'c')")


def capped(policy: Any, *, cap: int | None = 50, n: int = 40) -> tuple[list[Any], dict[str, int], int, list[str]]:
    """Matches, counters, the most live runs seen, dead letters: n events that each double the runs."""

    def build(app: ads.App) -> None:
        found = app.stream("in", key=TEXT).group_by_key()
        found.match(HOSTILE, max_delay="0s", materialized="runs", max_runs=cap, on_max_runs=policy).matches.to(
            "out", key=TEXT
        )

    most = 0
    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1, commit_every=1) as driver:
        for i, letter in enumerate("a" + "b" * n + "c-", start=1):
            driver.input("in").pipe({"t": letter, "i": i}, key="k", at=i)
            counts = driver.patterns("runs").get("k")
            most = max(most, counts.live_runs if counts else 0)
        found: dict[str, int] = {}
        for reasons in driver.counters().values():
            found |= {name: n for name, n in reasons.items() if name in ("many_runs", "runs_dropped")}
        return driver.output("out").read(), found, most, [letter.reason for letter in driver.dead_letters("in")]


def test_the_oldest_runs_go_when_there_are_too_many() -> None:
    found, counters, most, dead = capped("drop_oldest")
    assert most == 50
    assert counters["runs_dropped"] > 500
    assert counters["many_runs"] >= 1
    assert found
    assert dead == []


def test_the_event_that_would_leave_too_many_is_a_dead_letter() -> None:
    found, counters, most, dead = capped("dead_letter")
    assert 25 <= most <= 50
    assert set(dead) == {"too_many_runs"}
    assert counters == {"many_runs": 1}
    assert 0 < len(found) <= 50


def test_without_a_cap_the_counter_warns_early() -> None:
    _, counters, most, dead = capped("drop_oldest", cap=None, n=11)
    assert counters == {"many_runs": 1}
    assert most > 1000
    assert dead == []


def test_a_cap_that_is_not_reached_does_not_show() -> None:
    events = [("a", 1, 1), ("b", 2, 2), ("b", 3, 3), ("c", 4, 4)]
    plain = play(HOSTILE, events)
    assert len(plain) == 3
    for policy in ("drop_oldest", "dead_letter", "fail"):
        assert play(HOSTILE, events, max_runs=50, on_max_runs=policy) == plain


def test_fail_stops_the_task() -> None:
    with pytest.raises(ads.FatalError, match="too_many_runs"):
        capped("fail")


@pytest.mark.parametrize("given", [{"max_runs": 0}, {"max_runs": True}, {"max_runs": 9, "on_max_runs": "newest"}])
def test_what_is_no_cap(given: dict[str, Any]) -> None:
    with pytest.raises(TopologyError, match="match") as caught:
        play(Pattern.begin("a").where(matched("a").count() == 0), [], **given)
    assert caught.value.code == "bad_argument"
