"""Rules: patterns that come, change and go while a job runs (docs/rules.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

import pytest

import adstream as ads
from adstream import Pattern, TopologyError, col, matched
from adstream.testing import TopologyTestDriver

TEXT = ads.serdes.string
PAIR = "a (t = 'a') -> b (t = 'b') within 10s"
TRIPLE = "a (t = 'a') -> c (t = 'c') within 10s"


class Event(ads.Record):
    k: str
    t: str


def rows(app: ads.App) -> None:
    found = app.stream("in", schema=Event).group_by("k").match(app.rules("rules"), max_delay="0s", name="runs")
    rule = {"rule": ads.rule("id"), "version": ads.rule("version")}
    found.select(**rule, k=col("k"), n=matched("a").count()).to("out")
    found.timed_out.select(**rule, k=col("k")).to("gone")


def records(app: ads.App) -> None:
    found = (
        app.stream("in", key=TEXT).group_by_key().match(app.rules("rules"), max_delay="0s", materialized="runs-store")
    )
    for port, topic in ((found.matches, "out"), (found.timed_out, "gone")):
        port.map_values(named).to(topic, key=TEXT)


def named(match: dict[str, Any]) -> dict[str, Any]:
    (rule,) = match["$rule"]
    return {"rule": rule["id"], "version": rule["version"], "k": match["a"][0]["k"], "n": len(match["a"])}


class Job:
    def __init__(self, build: Callable[[ads.App], None] = rows, partitions: int = 1) -> None:
        self.driver = TopologyTestDriver(ads.topology(name="app")(build), partitions=partitions)
        self.rows, self.partitions = build is rows, partitions

    def __enter__(self) -> Job:
        self.driver.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.driver.__exit__(*error)  # type: ignore[arg-type]

    def say(self, rule: str, pattern: str | None = None, **more: Any) -> None:
        said = {"version": 1, **({} if pattern is None else {"pattern": pattern}), **more}
        self.driver.input("rules").pipe(said, key=rule)

    def send(self, letters: str, start: int, step: int = 1_000, k: str = "k") -> None:
        for place, letter in enumerate(letters):
            # Rows are moved by `k`; here they lie anywhere, so that each partition has some.
            given = {"partition": crc32(k.encode()) % self.partitions} if self.rows else {"key": k}
            self.driver.input("in").pipe({"k": k, "t": letter}, at=start + place * step, **given)

    def send_all(self, letters: str, start: int, keys: int) -> None:
        for place, letter in enumerate(letters):
            for n in range(keys):
                self.send(letter, start + 1_000 * place, k=f"k{n}")

    def read(self, topic: str = "out") -> list[str]:
        found = [r.value for r in self.driver.output(topic).read()]
        return [f"{v['rule']} {v['version']}" for v in found]

    def changes(self) -> int:
        return sum(reasons.get("rule_changes", 0) for reasons in self.driver.counters().values())

    def refused(self) -> list[str]:
        return [dict(r.headers)["adstream.reason"].decode() for r in self.driver.output("rules-dlq").read_raw()]


both = pytest.mark.parametrize("build", [rows, records])


@both
def test_a_rule_is_looked_for_from_where_the_task_stands(build: Callable[[ads.App], None]) -> None:
    with Job(build) as job:
        job.send("ab.", 0)
        job.say("pair", PAIR)
        job.send("ab.", 10_000)
        assert job.read() == ["pair 1"]
        job.say("triple", TRIPLE)
        job.send("abc..", 20_000)
        assert sorted(job.read()) == ["pair 1", "triple 1"]


@both
def test_a_new_version_begins_where_the_older_one_ends_and_that_finishes(build: Callable[[ads.App], None]) -> None:
    with Job(build) as job:
        job.say("r", PAIR)
        job.send("a..", 0)
        job.say("r", TRIPLE, version=2)
        job.send("abc..", 3_000)
        # The old one's run goes on, its new a's begin none.
        assert sorted(job.read()) == ["r 1", "r 2"]
        job.send("ab.", 40_000)
        assert job.read() == []
        assert job.changes() == 2


@both
def test_what_had_begun_goes_where_that_is_said(build: Callable[[ads.App], None]) -> None:
    with Job(build) as job:
        job.say("r", PAIR)
        job.send("a..", 0)
        job.say("r", TRIPLE, version=2, running="drop")
        job.send("bc..", 3_000)
        job.send(".", 60_000)
        assert job.read() == []
        assert job.read("gone") == []
        assert not job.driver.patterns("runs-store") or all(
            counts.live_runs == counts.buffered == 0 for counts in job.driver.patterns("runs-store").values()
        )


def test_what_a_dropped_rule_had_leaves_no_state_without_another_event_of_its_key() -> None:
    with Job() as job:
        job.say("r", "a (t = 'a') -> b (t = 'b')")  # without a window it would wait for ever
        for n in range(20):
            job.send("a", 1_000 * n, k=f"k{n}")
        job.send(".", 30_000, k="last")
        assert sum(c.live_runs for c in job.driver.patterns("runs-store").values()) == 20
        job.say("r", enabled=False, running="drop")
        job.send("..", 40_000, k="last")
        assert sum(c.live_runs for c in job.driver.patterns("runs-store").values()) == 0
        assert len(job.driver.patterns("runs-store")) <= 1


def test_from_is_an_event_time() -> None:
    with Job() as job:
        job.say("r", PAIR, **{"from": 5_000})
        job.send("ab" * 5, 0)
        job.send(".", 20_000)
        assert job.read() == ["r 1"] * 2  # the a's of 6 and 8 s
        job.say("r", PAIR, version=2, **{"from": "1970-01-01T00:00:01Z"})  # long past: from where the task stands
        job.send("ab.", 30_000)
        assert job.read() == ["r 2"]


def test_a_from_ahead_is_the_same_place_for_all_tasks() -> None:
    with Job(partitions=4) as job:
        job.say("r", PAIR, **{"from": 10_000})
        job.send_all("abab.", 8_000, keys=20)
        assert job.read() == ["r 1"] * 20


@both
def test_disabled_enabled_removed(build: Callable[[ads.App], None]) -> None:
    with Job(build) as job:
        job.say("r", PAIR)
        job.say("r", enabled=False)
        job.send("ab.", 0)
        assert job.read() == []
        job.say("r", PAIR, enabled=True)
        job.send("ab.", 10_000)
        assert job.read() == ["r 1"]
        job.say("r", removed=True)
        job.send("ab.", 20_000)
        assert job.read() == []
        job.say("r", TRIPLE)  # any version: the old one is forgotten
        job.send("ac.", 30_000)
        assert job.read() == ["r 1"]
        job.driver.input("rules").pipe_raw(b"r", None)
        job.send("ac.", 40_000)
        assert job.read() == []
        assert job.refused() == []


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", "bad_rule"),
        (b"[]", "bad_rule"),
        (b'{"version": 0.5, "pattern": "a"}', "bad_rule"),
        (b'{"version": 1, "pattern": "a ("}', "bad_rule"),
        (b'{"version": 1, "pattern": "a (nothing = 1)"}', "bad_rule"),
        (b'{"version": 1, "pattern": "(a?)+"}', "bad_rule"),
        (b'{"version": 1, "patern": "a"}', "bad_rule"),
        (b'{"version": 1, "pattern": "a", "from": "2024-01-15T10:00:00"}', "bad_rule"),
        (b'{"version": 1, "pattern": "a", "running": "stop"}', "bad_rule"),
        (b'{"version": 1, "pattern": "a", "from": 1768471200000000}', "bad_rule"),
        (b'{"version": 1}', "bad_rule"),
        (b'{"version": 1, "pattern": "b (t = \'b\')"}', "stale_rule"),
        (b'{"version": 2, "pattern": "b (t = \'b\')"}', "rule_conflict"),
    ],
)
def test_what_is_no_rule_is_a_dead_letter_and_changes_nothing(value: bytes, reason: str) -> None:
    with Job(partitions=3) as job:
        job.say("r", PAIR, version=2)
        rule = "r" if reason != "bad_rule" else "other"
        job.driver.input("rules").pipe_raw(rule.encode(), value)
        job.send_all("ab.", 0, keys=12)
        assert job.read() == ["r 2"] * 12
        (letter,) = job.driver.output("rules-dlq").read_raw()  # once, not by every task
        headers = dict(letter.headers)
        assert headers["adstream.reason"].decode() == reason
        assert headers["adstream.offset"] == b"1"


def test_the_same_said_again_changes_nothing() -> None:
    with Job() as job:
        job.say("r", PAIR)
        job.send("a.", 0)
        job.say("r", PAIR)
        job.send("b.", 2_000)
        assert job.read() == ["r 1"]
        assert job.refused() == []
        assert job.changes() == 1


@both
@pytest.mark.parametrize("how", ["restart", "before-commit", "after-commit"])
def test_a_crash_forgets_no_rule_and_takes_none_up_twice(build: Callable[[ads.App], None], how: str) -> None:
    with Job(build) as job:
        job.say("r", PAIR)
        job.send("a..", 0)
        job.say("r", TRIPLE, version=2)
        job.driver.input("rules").pipe_raw(b"x", b"{")
        if how != "restart":
            job.driver.crash_at(how)
        job.send("a.", 3_000)
        job.driver.run()
        if how == "restart":
            job.driver.restart()
        job.send("bc..", 5_000)
        job.driver.restart()
        job.send("ab.", 30_000)
        assert sorted(job.read()) == ["r 1", "r 2"]
        assert job.refused() == ["bad_rule"]


def test_time_outs_are_told_after_a_restart_before_the_first_rule() -> None:
    with Job() as job:
        job.send("..", 0)
        job.driver.restart()
        job.say("r", PAIR)
        job.send("a", 2_000)
        job.send("..", 60_000)
        assert job.read("gone") == ["r 1"]


def test_in_processing_time() -> None:
    def build(app: ads.App) -> None:
        found = app.stream("in", key=TEXT).group_by_key().match(app.rules("rules"), time="processing")
        found.select(lambda match: match["$rule"][0]["id"]).to("out", key=TEXT)

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        driver.input("rules").pipe({"version": 1, "pattern": PAIR}, key="r")
        for letter in "ab":
            driver.input("in").pipe({"t": letter}, key="k", at=0)
        assert [r.value for r in driver.output("out").read()] == ["r"]


def test_in_processing_time_what_was_due_before_a_task_begins_again_is_told() -> None:
    """It begins with a clock that is further on, and the version of the run is over for certain then."""

    def build(app: ads.App) -> None:
        found = app.stream("in", key=TEXT).group_by_key().match(app.rules("rules"), time="processing")
        found.timed_out.to("gone", key=TEXT)

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        driver.advance_wall_clock("100s")
        driver.input("rules").pipe({"version": 1, "pattern": PAIR}, key="r")
        driver.input("in").pipe({"t": "a"}, key="k", at=0)
        driver.advance_wall_clock("1s")
        driver.input("rules").pipe({"version": 1, "pattern": PAIR, "enabled": False}, key="r")
        driver.input("in").pipe({"t": "."}, key="other", at=0)
        driver.run()
        for task in driver._tasks:
            task.core.begin(130_000)  # as a worker does after a restore
        driver.input("in").pipe({"t": "."}, key="other", at=0)
        assert len(list(driver.output("gone").read())) == 1


def test_without_a_key() -> None:
    def build(app: ads.App) -> None:
        app.stream("in", schema=Event).match(app.rules("rules"), max_delay="0s").select(rule=ads.rule("id")).to("out")

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        driver.input("rules").pipe({"version": 1, "pattern": PAIR}, key="r")
        for place, (letter, k) in enumerate(("ax", "by", ".z")):
            driver.input("in").pipe({"t": letter, "k": k}, at=place)
        assert [r.value for r in driver.output("out").read()] == [{"rule": "r"}]


def test_a_pattern_may_be_what_to_json_wrote() -> None:
    with Job() as job:
        pattern = Pattern.begin("a").where(col("t") == "a").one_or_more().greedy().next("b").where(col("t") == "b")
        import json

        job.say("r", json.loads(pattern.to_json()))  # type: ignore[arg-type]
        job.send("aab.", 0)
        assert job.read() == ["r 1", "r 1"]


def test_rules_of_which_none_is_there_yet() -> None:
    with Job() as job:
        job.send("ab.", 0)
        assert job.read() == []


def refused_at_build(build: Callable[[ads.App], None]) -> str:
    with pytest.raises(TopologyError) as error:
        ads.topology(name="app")(build).build()
    return str(error.value)


def test_misuse_is_refused_when_the_topology_is_built() -> None:
    def twice(app: ads.App) -> None:
        events, rules = app.stream("in", schema=Event), app.rules("rules")
        for _ in range(2):
            events.group_by("k").match(rules, max_delay="0s").select(n=matched("a").count()).to("out")

    def asked_of_a_pattern(app: ads.App) -> None:
        found = app.stream("in", schema=Event).group_by("k").match(Pattern.begin("a"), max_delay="0s")
        found.select(rule=ads.rule("id")).to("out")

    def traced(app: ads.App) -> None:
        app.stream("in").group_by_key().match(app.rules("rules"), max_delay="0s").trace.to("out")  # type: ignore[union-attr]

    def as_a_stream_too(app: ads.App) -> None:
        app.stream("rules")
        app.rules("rules")

    assert "looked for already" in refused_at_build(twice)
    assert "no rule's" in refused_at_build(asked_of_a_pattern)
    assert "not traced" in refused_at_build(traced)
    assert "duplicate_source" in refused_at_build(as_a_stream_too)
    with pytest.raises(TopologyError, match="a rule has no 'name'"):
        ads.rule("name")  # type: ignore[arg-type]
