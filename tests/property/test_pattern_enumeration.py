"""Matches are what the words of the guide say they are: every way to give at most eight events to the stages is tried, and kept
if it breaks no rule. No automaton, no runs, no order of work: nothing here is shared with the matcher, or made like it.

The rules, of two events taken one after the other, the later one for a stage (or repetition) of some contiguity:

- strict: nothing lies between them; relaxed: nothing between them would have been taken; any: whatever lies between them;
- `not_followed_by`: none of what is forbidden lies between what came before it and what comes behind it;
- `not_next`: the event right behind what came before it is not forbidden;
- `until`: none that ends the loop is taken by it, or lies between two that are.

All events of a match lie in less than the window. Groups, greedy stages, negation at the end and skip strategies are not covered:
`tests/differential/cep` has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

import adstream as ads
from adstream import Pattern, col
from adstream.testing import TopologyTestDriver

TEXT = ads.serdes.string
CASES = 800
Event = tuple[str, int]
"""A letter and a time; none has an event's before it."""


@dataclass(frozen=True)
class Stage:
    letters: str
    contiguity: str
    """next, followed_by, followed_by_any, not_next, not_followed_by."""
    low: int = 1
    high: int | None = 1
    inner: str = "followed_by"
    optional: bool = False
    until: str = ""

    @property
    def negated(self) -> bool:
        return self.contiguity.startswith("not_")


@dataclass(frozen=True)
class Case:
    stages: tuple[Stage, ...]
    window: int | None
    events: tuple[Event, ...]


def drawn(seed: int) -> Case:
    chance = Random(seed)
    stages: list[Stage] = []
    n = chance.choice((1, 2, 2, 3, 3))
    for i in range(n):
        before = stages[-1] if stages else None
        if before is not None and not before.optional and chance.random() < 0.25:
            stages.append(Stage("x", chance.choice(("not_next", "not_followed_by"))))
        letters = "".join(chance.sample("abc", chance.choice((1, 1, 1, 2))))
        how = "next" if i == 0 else chance.choice(("next", "followed_by", "followed_by_any"))
        low, high = chance.choice(((1, 1), (1, 1), (2, 2), (3, 3), (1, 2), (1, 3), (1, None), (2, None)))
        inner = (
            chance.choice(("followed_by", "followed_by", "next", "followed_by_any"))
            if (low, high) != (1, 1)
            else "followed_by"
        )
        until = chance.choice(("", "", "c")) if high is None else ""
        stages.append(Stage(letters, how, low, high, inner, n > 1 and chance.random() < 0.2, until))
    now, events = 0, []
    for _ in range(chance.randint(2, 8)):
        now += chance.choice((1, 1, 2))
        events.append((chance.choice("aabbcx"), now))
    return Case(tuple(stages), chance.choice((None, None, 4, 7)), tuple(events))


# --- What the words say ---------------------------------------------------------------------------------------------------


def enumerated(case: Case) -> list[dict[str, list[int]]]:
    """Each match's events by stage."""
    found = []
    for labels in labelled(case, 0, 0):
        taken = [(i, label) for i, label in enumerate(labels) if label is not None]
        if taken and allowed(case, taken):
            match: dict[str, list[int]] = {}
            for i, label in taken:
                match.setdefault(f"s{label}", []).append(i)
            found.append(match)
    return found


def labelled(case: Case, at: int, first: int) -> Iterator[tuple[int | None, ...]]:
    """Every way to give each event to no stage, or to one that is not before the last one used and takes such letters."""
    if at == len(case.events):
        yield ()
        return
    for rest in labelled(case, at + 1, first):
        yield (None, *rest)
    for label in range(first, len(case.stages)):
        if not case.stages[label].negated and case.events[at][0] in case.stages[label].letters:
            for rest in labelled(case, at + 1, label):
                yield (label, *rest)


def allowed(case: Case, taken: list[tuple[int, int]]) -> bool:
    events, stages = case.events, case.stages
    if case.window is not None and events[taken[-1][0]][1] - events[taken[0][0]][1] >= case.window:
        return False
    for number, stage in enumerate(stages):
        n = sum(label == number for _, label in taken)
        wrong = n < stage.low or (stage.high is not None and n > stage.high)
        if wrong and not stage.negated and not (n == 0 and stage.optional):
            return False
        if stage.until and any(label == number and events[i][0] in stage.until for i, label in taken):
            return False
        if stage.negated and not absent(case, taken, number):
            return False
    for (one, before), (other, label) in pairwise(taken):
        stage = stages[label]
        between = [letter for letter, _ in events[one + 1 : other]]
        again = before == label
        how = stage.inner if again else stage.contiguity
        if how == "next" and between:
            return False
        would = [letter for letter in between if letter in stage.letters]
        if again and stage.until and any(letter in stage.until for letter in between):
            return False
        if how == "followed_by" and would:
            return False
    return True


def absent(case: Case, taken: list[tuple[int, int]], number: int) -> bool:
    """Whether what a negated stage forbids is not there."""
    before = [i for i, label in taken if label < number]
    behind = [i for i, label in taken if label > number]
    if not before:
        return True
    stage = case.stages[number]
    last = case.stages[number - 1]
    repeats = (last.low, last.high) != (1, 1)
    if stage.contiguity == "not_next":
        # A stage that repeats may come to its end with each repetition that is enough.
        ends = [i for i, label in taken if label == number - 1][last.low - 1 :]
        return all(case.events[i + 1][0] not in stage.letters for i in ends if i < taken[-1][0])
    # From the first repetition on what is forbidden behind the last one may not come.
    since = min(i for i, label in taken if label == number - 1) if repeats else before[-1]
    return not any(letter in stage.letters for letter, _ in case.events[since + 1 : (behind or before[-1:])[0]])


# --- What the matcher says ------------------------------------------------------------------------------------------------


def made(case: Case) -> Pattern:
    pattern: Any = Pattern
    for i, stage in enumerate(case.stages):
        pattern = getattr(pattern, "begin" if i == 0 else stage.contiguity)(f"s{i}")
        pattern = pattern.where(col("t").is_in(list(stage.letters)))
        if stage.high is None:
            pattern = pattern.times_or_more(stage.low)
        elif (stage.low, stage.high) != (1, 1):
            pattern = pattern.times(stage.low, stage.high)
        if stage.inner != "followed_by":
            pattern = pattern.consecutive() if stage.inner == "next" else pattern.allow_combinations()
        if stage.until:
            pattern = pattern.until(col("t").is_in(list(stage.until)))
        if stage.optional:
            pattern = pattern.optional()
    assert isinstance(pattern, Pattern)
    return pattern if case.window is None else pattern.within(f"{case.window}ms")


def matched(case: Case) -> list[dict[str, list[int]]]:
    def build(app: ads.App) -> None:
        found = app.stream("in", key=TEXT).group_by_key().match(made(case), max_delay="0s")
        found.matches.to("found", key=TEXT)

    with TopologyTestDriver(ads.topology(name="enumerated")(build), partitions=1) as driver:
        for i, (letter, at) in enumerate(case.events):
            driver.input("in").pipe({"t": letter, "i": i}, key="k", at=at)
        driver.input("in").pipe({"t": "-", "i": -1}, key="other", at=10_000)
        read = driver.output("found").read()
        return [{name: [e["i"] for e in events] for name, events in r.value.items()} for r in read]


def test_the_matcher_finds_what_the_words_say() -> None:
    total = several = 0
    for seed in range(CASES):
        case = drawn(seed)
        found, wanted = matched(case), enumerated(case)
        assert sorted(map(str, found)) == sorted(map(str, wanted)), f"seed {seed}: {made(case)} on {case.events}"
        total += bool(wanted)
        several += len(wanted) > 3
    assert total > CASES / 3
    assert several > CASES / 20
