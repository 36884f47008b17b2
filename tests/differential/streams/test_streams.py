"""adstream equals the real Kafka Streams: windows, lateness, final results, changes, tables of tables.

What came of every single record is compared: keys, windows, values and times, in their order, and how many records had
been dropped. Where the two differ on purpose:

- *Several changes of a group by one record* (`then`): one record that closes several windows makes several rows for the
  next aggregate. adstream tells a group's changes once per commit, the original (without a repartition topic's cache)
  each one. Compared is the newest.
- *Order of keys of several columns* (`by="kg"`): adstream orders by columns, null first; the original's key is a text
  made by the user. Compared without the order within a window.
- *Keys that go on with a NUL byte* (never generated): `suppress` orders them by the window's bytes that follow;
  adstream and the original's own emit-on-close order by the key.
- *A record without a value* (never generated): a dead letter here, counted by a windowed `count` there. *A negative
  time* (never generated): a dead letter here, the end of the task there.
- *Faults of the original that are not copied*: emit-on-close with the default retention and without a cache loses
  windows when time jumps (the recorder keeps them longer); a table made by `aggregate` without a cache gives the
  initializer's value as the first old one, which a regrouping then subtracts (such tables are recorded with a cache).

"""

import random
from collections import Counter
from dataclasses import replace

import pytest

from tests.differential.streams import adstream_side
from tests.differential.streams.compare import comparable, difference
from tests.differential.streams.record import read_goldens, record
from tests.differential.streams.scenarios import FAMILIES, Scenario, Step, generate

FRESH = 45
GOLDENS = read_goldens()
EACH = pytest.mark.parametrize(("scenario", "theirs"), [pytest.param(s, steps, id=s.id) for s, steps in GOLDENS])
PLAIN = [(s, steps) for s, steps in GOLDENS if s.regroup is None]
REGROUPED = [(s, steps) for s, steps in GOLDENS if s.regroup is not None]


def check(scenario: Scenario, ours: list[Step], theirs: list[Step], *, times: bool = False) -> None:
    text = difference(scenario, ours, theirs, times=times)
    assert text is None, text


# --- What was recorded ----------------------------------------------------------------------------------------------


@EACH
def test_every_record_does_what_it_does_in_kafka_streams(scenario: Scenario, theirs: list[Step]) -> None:
    check(scenario, adstream_side.run(scenario), theirs)


@pytest.mark.parametrize(("scenario", "theirs"), [pytest.param(s, steps, id=s.id) for s, steps in PLAIN])
def test_the_same_without_combining(scenario: Scenario, theirs: list[Step]) -> None:
    check(scenario, adstream_side.run(scenario, combine=False), theirs)


def test_the_same_of_regrouped_tables_without_combining() -> None:
    for scenario, theirs in REGROUPED:
        check(scenario, adstream_side.run(scenario, combine=False), theirs)


def test_the_times_of_regrouped_tables() -> None:
    for scenario, theirs in REGROUPED:
        check(scenario, adstream_side.run(scenario), theirs, times=True)


@pytest.mark.parametrize("records_per_commit", [3, 1000])
def test_fewer_commits_tell_less_and_end_the_same(records_per_commit: int) -> None:
    told = 0
    for scenario, theirs in GOLDENS:
        if scenario.then is not None:
            continue  # its second aggregate sees fewer changes, so it sums up others
        ours = adstream_side.run(scenario, records_per_commit=records_per_commit)
        assert ours[-1].dropped == theirs[-1].dropped
        assert _newest(scenario, ours) == _newest(scenario, theirs), scenario
        assert len(_all(scenario, ours)) <= len(_all(scenario, theirs))
        if scenario.emit != "update":
            assert _all(scenario, ours) == _all(scenario, theirs), scenario
        told += len(_all(scenario, ours))
    assert told > 0


def _all(scenario: Scenario, steps: list[Step]) -> list[tuple]:
    whole = Step(steps[-1].dropped, [result for step in steps for result in step.results])
    return comparable(scenario, [whole])[0][1]


def _newest(scenario: Scenario, steps: list[Step]) -> dict[tuple, tuple]:
    """By key and window. A group that rows only passed through between two commits was never told: it is empty."""
    newest = {result[:2]: result for result in _all(scenario, steps)}
    return {key: result for key, result in newest.items() if result[2] != [0, 0]}


# --- What is recorded now -------------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_fresh_scenarios_do_what_they_do_in_kafka_streams() -> None:
    seed = random.SystemRandom().randrange(2**32)
    scenarios = generate(seed, FRESH)
    recorded = record(scenarios)
    found = [difference(s, adstream_side.run(s), recorded[s.id]) for s in scenarios]
    again = f"python -m tests.differential.streams.compare --seed {seed} --count {FRESH}"
    assert not any(found), "\n".join([again, *filter(None, found)])
    compared = sum(len(step.results) for steps in recorded.values() for step in steps)
    assert len(found) == len(recorded) == FRESH
    assert compared > 0


def test_what_was_recorded_is_recorded_again() -> None:
    """The goldens are those of this recorder and this version of Kafka."""
    some = GOLDENS[:: len(GOLDENS) // 20]
    assert record([scenario for scenario, _ in some]) == {scenario.id: steps for scenario, steps in some}


# --- Whether the comparison would notice ----------------------------------------------------------------------------


def test_the_recorded_scenarios_reach_the_rules() -> None:
    assert len(GOLDENS) >= 150
    results: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for scenario, steps in GOLDENS:
        results[scenario.family] += sum(len(step.results) for step in steps)
        dropped[scenario.family] += steps[-1].dropped
    assert set(results) == set(FAMILIES)
    assert min(results.values()) > 20
    assert min(dropped.values()) > 0


@pytest.mark.parametrize("change", ["grace", "size"])
def test_a_millisecond_more_is_noticed(change: str) -> None:
    for family in ("update", "close", "suppress", "rekey", "merge", "chain"):
        mine = [(s, steps) for s, steps in GOLDENS if s.family == family]
        changed = [(replace(s, **{change: getattr(s, change) + 1, "retention": None}), steps) for s, steps in mine]
        noticed = [s for s, steps in changed if difference(s, adstream_side.run(s), steps) is not None]
        assert len(noticed) > len(mine) / 4, family
