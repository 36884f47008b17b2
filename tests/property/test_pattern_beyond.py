"""What is not Flink's: patterns without its known faults, and longest matches. Each is held to what it means in terms of plain
matches: a window between two events is a sieve of the matches without it, a longest match is no beginning of another one."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any

import pytest

import adstream as ads
from adstream import AfterMatchSkipStrategy, Pattern, TopologyError, col
from adstream.testing import TopologyTestDriver

TEXT = ads.serdes.string
FAR = 100_000
Match = tuple[tuple[str, int], ...]
"""Stage and time of each event, in order."""


def of(letters: str) -> ads.Expr:
    return col("t").is_in(list(letters))


def play(
    pattern: Pattern, events: list[tuple[str, int]], *, end: int = FAR, restart: bool = False, **options: Any
) -> tuple[list[Match], list[Match], list[int], Any]:
    """Matches, what was given up, the times of matches, what is left."""

    def build(app: ads.App) -> None:
        found = app.stream("in", key=TEXT).group_by_key().match(pattern, max_delay="0s", materialized="runs", **options)
        found.matches.to("out", key=TEXT)
        found.timed_out.to("gone", key=TEXT)

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        for letter, at in [*events, ("-", end), ("-", end + 1)]:
            driver.input("in").pipe({"t": letter, "n": at}, key="k", at=at)
            if restart:
                driver.restart()
        told = driver.output("out").read()

        def flat(value: dict[str, list[dict[str, int]]]) -> Match:
            return tuple(sorted(((s, e["n"]) for s, es in value.items() for e in es), key=lambda one: one[1]))

        gone = [flat(r.value) for r in driver.output("gone").read()]
        return [flat(r.value) for r in told], gone, [r.timestamp for r in told], driver.patterns("runs")


def stream(chance: Random) -> list[tuple[str, int]]:
    now, events = 0, []
    for _ in range(chance.randint(4, 9)):
        now += chance.choice((1, 1, 2, 3, 6))
        events.append((chance.choice("aabbcdx"), now))
    return events


def chain(chance: Random, *, windows: bool) -> tuple[Pattern, Pattern, dict[str, tuple[int | None, int | None]]]:
    """A pattern with windows between events, the same without, and for each stage the windows before it and inside."""
    with_windows = without = None
    gaps: dict[str, tuple[int | None, int | None]] = {}
    for i in range(chance.randint(1, 3)):
        name = f"s{i}"
        how = "begin" if i == 0 else chance.choice(("next", "followed_by", "followed_by", "followed_by_any"))
        letters = "".join(chance.sample("abcd", chance.choice((1, 1, 2))))
        quantifier = chance.choice(("", "", "times", "range", "loop", "loop"))
        before = chance.choice((None, 2, 4)) if windows and i > 0 else None
        inside = chance.choice((None, 2, 4)) if windows and quantifier else None
        optional, inner = chance.random() < 0.3, chance.choice(("", "", "consecutive", "allow_combinations"))
        gaps[name] = before, inside
        made = []
        for old, window, gap in ((with_windows, inside, before), (without, None, None)):
            ms = None if window is None else f"{window}ms"
            p = Pattern.begin(name) if old is None else getattr(old, how)(name)
            p = p.where(of(letters))
            if quantifier == "times":
                p = p.times(2, window=ms)
            elif quantifier == "range":
                p = p.times(1, 3, window=ms)
            elif quantifier == "loop":
                p = p.one_or_more(ms)
            if quantifier and inner:
                p = getattr(p, inner)()
            p = p.optional() if optional and i > 0 else p
            made.append(p.within_previous(f"{gap}ms") if gap is not None else p)
        with_windows, without = made
    assert with_windows is not None
    assert without is not None
    return with_windows, without, gaps


def kept(match: Match, gaps: dict[str, tuple[int | None, int | None]]) -> bool:
    for (stage, at), (next_stage, next_at) in itertools.pairwise(match):
        before, inside = gaps[next_stage]
        bounds = [w for w in (before, inside if stage == next_stage else None) if w is not None]
        if any(next_at - at >= w for w in bounds):
            return False
    return True


def test_windows_of_mended_patterns_are_a_sieve() -> None:
    sieved = passed = 0
    for seed in range(250):
        chance = Random(seed)
        pattern, without, gaps = chain(chance, windows=True)
        events = stream(chance)
        plain = play(without.mended(), events)[0]
        wanted = [m for m in plain if kept(m, gaps)]
        found, _, _, _left = play(pattern.mended(), events)
        assert sorted(found) == sorted(wanted), f"seed {seed}: {pattern} on {events}"
        sieved += len(plain) - len(wanted)
        passed += len(wanted)
    assert sieved > 200
    assert passed > 300


def test_longest_matches_are_no_beginnings_of_others() -> None:
    shortened = 0
    for seed in range(250):
        chance = Random(seed)
        pattern, _, _ = chain(chance, windows=False)
        pattern = pattern.within("1s")
        events = stream(chance)
        plain = play(pattern, events)[0]
        wanted = [m for m in plain if not any(m != other and other[: len(m)] == m for other in plain)]
        found, _, _, left = play(pattern.longest(), events, restart=seed % 3 == 0)
        assert sorted(found) == sorted(wanted), f"seed {seed}: {pattern} on {events}"
        assert all(c.live_runs == c.buffered == 0 for c in left.values()), "nothing is left of what has been told"
        shortened += len(plain) - len(wanted)
    assert shortened > 100


def test_longest_matches_of_groups() -> None:
    passes = Pattern.begin(Pattern.begin("a").where(of("a")).followed_by("b").where(of("b"))).one_or_more().within("1s")
    events = [("a", 1), ("b", 2), ("x", 3), ("a", 4), ("b", 5), ("a", 6)]
    first: Match = (("a", 1), ("b", 2), ("a", 4), ("b", 5))
    assert play(passes.longest(), events)[0] == [first, first[2:]]


def test_when_the_longest_is_told() -> None:
    run = Pattern.begin("a").where(of("a")).one_or_more().consecutive().longest()
    found, _, times, _ = play(run, [("a", 1), ("a", 2), ("x", 5), ("a", 7), ("x", 9)])
    assert found == [(("a", 1), ("a", 2)), (("a", 2),), (("a", 7),)]
    assert times == [5, 5, 9]
    past = AfterMatchSkipStrategy.skip_past_last_event()
    window = Pattern.begin("a", past).where(of("a")).one_or_more().within("5ms").longest()
    found, gone, times, _ = play(window, [("a", 1), ("x", 2), ("a", 4), ("b", 6), ("a", 8)])
    assert found == [(("a", 1), ("a", 4)), (("a", 8),)]
    assert gone == []
    assert times[0] == 6
    until = Pattern.begin("a", past).where(of("a")).one_or_more().until(of("b")).longest()
    assert play(until, [("a", 1), ("a", 2), ("b", 4), ("a", 5)])[0] == [(("a", 1), ("a", 2))]


def test_the_longest_of_what_never_ends_is_refused() -> None:
    with pytest.raises(TopologyError, match="when the longest match is the longest") as refused:
        Pattern.begin("a").where(of("a")).one_or_more().longest().explain()
    assert refused.value.code == "malformed_pattern"
    assert "within" in str(refused.value.hint)


def test_a_window_of_repetitions_lies_between_them() -> None:
    pair = Pattern.begin("a").where(of("a")).followed_by("m").where(of("m")).times(2, window="3ms")
    near, apart = [("a", 1), ("m", 10), ("m", 11)], [("a", 1), ("m", 2), ("m", 50)]
    assert [bool(play(pair, events)[0]) for events in (near, apart)] == [False, True]
    assert [bool(play(pair.mended(), events)[0]) for events in (near, apart)] == [True, False]


def test_optional_before_a_quantifier_is_kept() -> None:
    loop = Pattern.begin("s").where(of("s")).next("a").optional().where(of("a")).one_or_more()
    for pattern in (loop.next("b").where(of("b")).mended(), loop.mended().next("b").where(of("b"))):
        assert play(pattern, [("s", 1), ("b", 2)])[0] == [(("s", 1), ("b", 2))]
    assert play(loop.next("b").where(of("b")), [("s", 1), ("b", 2)])[0] == []
    with pytest.raises(TopologyError, match="must not come after `a`, which is optional"):
        loop.not_next("n").mended()


@pytest.mark.parametrize(("flaw", "events", "flink", "mended"), [
    # Of several stages that must not come at the end each counts.
    ("a (t = 'a') !-> n (t = 'n') !-> m (t = 'm') within 5ms", "a-n", True, False),
    ("a (t = 'a') !-> n (t = 'n') !-> m (t = 'm') within 5ms", "a-m", False, False),
    ("a (t = 'a') !-> n (t = 'n') !-> m (t = 'm') within 5ms", "a-x", True, True),
    # Before `not_next`, too.
    ("a (t = 'a') !-> n (t = 'n') !k (t = 'k') -> e (t = 'e')", "axne", True, False),
    ("a (t = 'a') !-> n (t = 'n') !k (t = 'k') -> e (t = 'e')", "ane", True, False),
    ("a (t = 'a') !-> n (t = 'n') !k (t = 'k') -> e (t = 'e')", "ake", False, False),
    ("a (t = 'a') !-> n (t = 'n') !k (t = 'k') -> e (t = 'e')", "axxe", True, True),
])  # fmt: skip
def test_negations(flaw: str, events: str, flink: bool, mended: bool) -> None:
    pattern = Pattern.parse(flaw)
    played = [(letter, at + 1) for at, letter in enumerate(events)]
    assert bool(play(pattern, played)[0]) is flink
    assert bool(play(pattern.mended(), played)[0]) is mended


def test_within_of_any_stage_is_for_what_must_not_come_at_the_end() -> None:
    early = Pattern.begin("a").where(of("a")).within("5ms").not_followed_by("n").where(of("n"))
    assert play(early.mended(), [("a", 1), ("n", 3)])[0] == []
    found, _, times, _ = play(early.mended(), [("a", 1), ("x", 9)])
    assert (found, times) == ([(("a", 1),)], [8])


def test_no_match_is_withheld() -> None:
    skip = AfterMatchSkipStrategy.skip_to_first("b")
    loop = Pattern.begin("b", skip).where(of("b")).one_or_more().followed_by("c").where(of("c"))
    events = [("b", 1), ("b", 2), ("b", 3), ("c", 4)]
    found, _, _, left = play(loop, events)
    assert len(found) == 3
    assert left["k"].withheld > 0
    found, _, _, left = play(loop.mended(), events)
    assert sorted({m[0][1] for m in found}) == [1, 2, 3]
    assert left["k"].withheld == 0


def test_time_outs_of_gaps_need_no_event_of_their_key() -> None:
    pair = Pattern.begin("a").where(of("a")).followed_by("b").where(of("b")).within_previous("5ms")

    def gone(pattern: Pattern) -> list[int]:
        def build(app: ads.App) -> None:
            found = app.stream("in", key=TEXT).group_by_key().match(pattern, max_delay="0s")
            found.timed_out.to("gone", key=TEXT)

        with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
            driver.input("in").pipe({"t": "a", "n": 0}, key="k", at=1)
            for at in (3, 50, 51):
                driver.input("in").pipe({"t": "-", "n": 0}, key="other", at=at)
            return [r.timestamp for r in driver.output("gone").read()]

    assert gone(pair) == []
    assert gone(pair.mended()) == [6]


def test_both_are_kept_as_text_and_as_json() -> None:
    pattern = Pattern.parse("%MENDED %LONGEST %SKIP_PAST_LAST a (t = 'a') -> b+ (t = 'b') within 5s")
    assert str(pattern) == "%MENDED %LONGEST %SKIP_PAST_LAST a (t = 'a') -> b+ (t = 'b') within 5s"
    for again in (Pattern.from_json(pattern.to_json()), Pattern.parse(str(pattern))):
        assert (str(again), again.to_json()) == (str(pattern), pattern.to_json())
    assert "less than" in str(Pattern.parse("%MENDED a -> b? within previous 5s -> c").explain())
    with pytest.raises(TopologyError, match="a second `%MENDED`"):
        Pattern.parse("%MENDED %MENDED a")
