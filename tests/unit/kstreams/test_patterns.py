"""Patterns: how they are said, what is refused, what failures do. What they find: `tests/differential/cep`."""

import json
from collections.abc import Callable
from typing import Any

import pytest

import adstream as ads
from adstream import AfterMatchSkipStrategy, Pattern, TopologyError, col, element, matched
from adstream.testing import TopologyTestDriver

TEXT = ads.serdes.string
A = Pattern.begin("a").where(col("t") == "a")


def play(pattern: Pattern, events: list[tuple[str, int, int]], **options: Any) -> list[dict[str, list[int]]]:
    """(letter, number, time) of one key; the numbers of each match's events by stage."""

    def build(app: ads.App) -> None:
        found = app.stream("in", key=TEXT).group_by_key().match(pattern, max_delay="0s", **options)
        found.select(lambda match: {name: [e["n"] for e in events] for name, events in match.items()}).to(
            "out", key=TEXT
        )

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        for letter, n, at in events:
            driver.input("in").pipe({"t": letter, "n": n}, key="k", at=at)
        driver.input("in").pipe({"t": "-", "n": 0}, key="k", at=10**6)
        return [r.value for r in driver.output("out").read()]


def test_an_expression_looks_back() -> None:
    rising = A.followed_by("b").where((col("t") == "b") & (col("n") > matched("a").first("n"))).within("1m")
    assert play(rising, [("a", 5, 1), ("b", 4, 2), ("b", 6, 3)]) == [{"a": [5], "b": [6]}]
    same = Pattern.begin("w").where(matched("w").all(element("t") == col("t"))).times(3).consecutive()
    assert play(same, [("a", 1, 1), ("b", 2, 2), ("b", 3, 3), ("b", 4, 4)])[0] == {"w": [2, 3, 4]}


@pytest.mark.parametrize(
    ("look", "holds"),
    [
        (matched("a").count() == 2, True),
        (matched("a").count("n") == 2, True),
        (matched("a").sum("n") == 5, True),
        (matched("a").mean("n") == 2.5, True),
        (matched("a").min("n") == 2, True),
        (matched("a").max("n") == 3, True),
        (matched("a").last("n") == 3, True),
        (matched("a").sum(element("n") * col("n")) == 50, True),
        (matched("a").any(element("n") == col("n") - 7), True),
        (matched("a").any(element("n") > col("n")), False),
        (matched("nobody").count() == 0, True),
        (matched("nobody").sum("n") == 0, True),
        (matched("nobody").mean("n").is_null(), True),
        (matched("nobody").all(element("n") > 0), True),
        (matched("nobody").any(element("n") > 0), False),
    ],
)
def test_what_an_expression_may_ask(look: ads.Expr, holds: bool) -> None:
    pattern = A.times(2).next("b").where(look)
    assert bool(play(pattern, [("a", 2, 1), ("a", 3, 2), ("b", 10, 3)])) is holds


def test_a_function_gets_the_event_and_what_was_taken() -> None:
    pattern = A.one_or_more().next("b").where(lambda event, taken: event["n"] == sum(e["n"] for e in taken["a"]))
    found = play(pattern, [("a", 2, 1), ("a", 3, 2), ("b", 5, 3)])
    assert found == [{"a": [2, 3], "b": [5]}]


def test_events_of_one_time_in_an_order_of_their_own() -> None:
    pattern = A.next("b").where(col("t") == "b")
    events = [("b", 2, 5), ("a", 1, 5)]
    assert play(pattern, events) == []
    assert play(pattern, events, order_by=col("n")) == [{"a": [1], "b": [2]}]


def test_an_event_on_which_a_condition_fails_is_a_dead_letter_and_nothing_else_happens() -> None:
    def build(app: ads.App) -> None:
        pattern = A.next("b").where(col("n") > 1)
        app.stream("in", key=TEXT).group_by_key().match(pattern, max_delay="0s").matches.to("out", key=TEXT)

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        for i, event in enumerate(
            [{"t": "a", "n": 0}, {"t": "b", "n": "many"}, {"t": "b", "n": 3}, {"t": "c", "n": 0}]
        ):
            driver.input("in").pipe(event, key="k", at=i + 1)
        assert [r.value["b"][0]["n"] for r in driver.output("out").read()] == [3]
        [letter] = driver.dead_letters("in")
        # The event itself, which had waited: not the record that moved time on.
        assert (letter.reason, letter.key, letter.timestamp) == ("bad_type", b"k", 2)
        assert json.loads(letter.value or b"") == {"t": "b", "n": "many"}


def test_a_strategy_that_throws() -> None:
    skip = AfterMatchSkipStrategy.skip_to_first("b").throw_exception_on_miss()

    def build(app: ads.App) -> None:
        pattern = A.next("b").where(col("t") == "b").optional().next("c").where(col("t") == "c")
        app.stream("in", key=TEXT).group_by_key().match(pattern, max_delay="0s", skip=skip).matches.to("out", key=TEXT)

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        for i, letter in enumerate("acabc-"):
            driver.input("in").pipe({"t": letter}, key="k", at=i + 1)
        assert len(driver.output("out").read()) == 1
        [letter] = driver.dead_letters("in")
        assert (letter.reason, letter.timestamp, letter.value) == ("nothing_to_skip_to", 2, b'{"t":"c"}')


def test_a_strategy_that_throws_may_stop_the_task() -> None:
    skip = AfterMatchSkipStrategy.skip_to_first("a").throw_exception_on_miss()

    def build(app: ads.App) -> None:
        app.on_error(processing="fail")
        app.stream("in", key=TEXT).group_by_key().match(A, max_delay="0s", skip=skip).matches.to("out", key=TEXT)

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        driver.input("in").pipe({"t": "a"}, key="k", at=1)
        driver.input("in").pipe({"t": "a"}, key="k", at=2)
        with pytest.raises(ads.FatalError, match="skips_to_its_start"):
            driver.run()


def test_a_strategy_that_throws_when_time_passes_takes_the_match_and_nothing_else() -> None:
    """No event completes it; it must neither vanish nor stand in the way of what comes later."""
    skip = AfterMatchSkipStrategy.skip_to_first("b").throw_exception_on_miss()
    pattern = A.followed_by("b").where(col("t") == "b").optional().followed_by("c").where(col("t") == "c")
    pattern = pattern.not_followed_by("n").where(col("t") == "n").within("5ms")

    def build(app: ads.App) -> None:
        found = app.stream("in", key=TEXT).group_by_key().match(pattern, max_delay="0s", skip=skip, materialized="runs")
        found.select(lambda match: list(match)).to("out", key=TEXT)

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        for at, letter in [(10, "a"), (11, "c"), (20, "-"), (30, "a"), (31, "b"), (32, "c"), (50, "-"), (60, "-")]:
            driver.input("in").pipe({"t": letter}, key="k", at=at)
        assert [r.value for r in driver.output("out").read()] == [["a", "b", "c"]]
        [letter] = driver.dead_letters("in")
        assert (letter.reason, letter.timestamp, letter.value) == ("nothing_to_skip_to", 11, b'{"t":"c"}')
        assert "k" not in driver.patterns("runs")  # it has no run, and its last event begins none


def test_keys_and_values_that_are_not_there_are_counted() -> None:
    def build(app: ads.App) -> None:
        found = app.stream("in", key=TEXT).group_by_key().match(A, max_delay="0s")
        found.matches.to("out", key=TEXT)
        found.late.to("late", key=TEXT)

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        driver.input("in").pipe({"t": "a"}, key=None, at=1)
        driver.input("in").pipe(None, key="k", at=2)
        driver.input("in").pipe({"t": "a"}, key="k", at=9)
        driver.input("in").pipe({"t": "a"}, key="k", at=8)
        assert [r.timestamp for r in driver.output("late").read()] == [8]


def two(how: Callable[[Pattern], Pattern]) -> Callable[[], Pattern]:
    return lambda: how(A.followed_by("b"))


@pytest.mark.parametrize(
    "said",
    [
        two(lambda p: p.one_or_more().times(2)),
        two(lambda p: p.optional().optional()),
        two(lambda p: p.greedy()),
        two(lambda p: p.consecutive()),
        two(lambda p: p.times(2).consecutive().allow_combinations()),
        two(lambda p: p.times(2).allow_combinations().greedy()),
        two(lambda p: p.times(0)),
        two(lambda p: p.times(3, 2)),
        two(lambda p: p.times(0, 0)),
        two(lambda p: p.times_or_more(0)),
        two(lambda p: p.until(col("n") > 1)),
        two(lambda p: p.one_or_more().until(col("n") > 1).until(col("n") > 1)),
        two(lambda p: p.times(2).greedy().next("c").optional()),
        two(lambda p: p.optional().not_next("c")),
        two(lambda p: p.times(0, 2).not_followed_by("c")),
        two(lambda p: p.not_next("c").optional()),
        two(lambda p: p.not_next("c").one_or_more()),
        two(lambda p: p.next(A).where(col("n") > 1)),
        two(lambda p: p.next(A).one_or_more().greedy()),
        two(lambda p: p.where("n > 1")),  # type: ignore[arg-type]
        two(lambda p: p.next("c:d")),
        two(lambda p: p.times("3")),  # type: ignore[arg-type]
        two(lambda p: p.times(2.5)),  # type: ignore[arg-type]
        two(lambda p: p.times(True)),
        two(lambda p: p.times(1, "3")),  # type: ignore[arg-type]
        two(lambda p: p.times_or_more(None)),  # type: ignore[arg-type]
        lambda: Pattern.begin("a", "skip_to_next"),  # type: ignore[arg-type]
        lambda: Pattern.begin("a", AfterMatchSkipStrategy.skip_to_first(None)),  # type: ignore[arg-type]
        lambda: Pattern.begin("a", AfterMatchSkipStrategy.skip_to_next().throw_exception_on_miss()),
    ],
)
def test_what_is_refused_at_once(said: Callable[[], Pattern]) -> None:
    with pytest.raises(ads.TopologyError) as refused:
        said()
    assert refused.value.code == "malformed_pattern"
    assert refused.value.hint
    assert "test_patterns.py" in str(refused.value.line)


@pytest.mark.parametrize(
    ("said", "stage"),
    [
        (two(lambda p: p.one_or_more().times(2)), "b"),
        (two(lambda p: p.optional().optional()), "b"),
        (two(lambda p: p.greedy()), "b"),
        (two(lambda p: p.consecutive()), "b"),
        (two(lambda p: p.times(0)), "b"),
        (two(lambda p: p.until(col("n") > 1)), "b"),
        (two(lambda p: p.where(5)), "b"),  # type: ignore[arg-type]
        (two(lambda p: p.next(Pattern.begin("x").next("y")).one_or_more().greedy()), "(x y)"),
        (two(lambda p: p.times(2).greedy().next("c").optional()), "c"),
    ],
)
def test_what_is_refused_names_its_stage(said: Callable[[], Pattern], stage: str) -> None:
    with pytest.raises(ads.TopologyError) as refused:
        said()
    assert f"`{stage}`: " in str(refused.value)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (A.next("a"), "the name `a` is taken"),
        (A.next(A), "the name `a` is taken"),
        (A.not_followed_by("b"), "`b` ends the pattern"),
        (A.next("b").within_previous("2s").within("1s"), "longer than the whole"),
        (Pattern.begin(Pattern.begin("x").optional()).one_or_more().next("b"), "can match nothing at all"),
        (
            Pattern.begin(Pattern.begin("x").optional()).not_followed_by("b").within("1s"),
            "nothing need have come before `b`",
        ),
    ],
)
def test_what_is_refused_when_the_stream_is_built(pattern: Pattern, said: str) -> None:
    def build(app: ads.App) -> None:
        app.stream("in", key=TEXT).group_by_key().match(pattern, max_delay="0s")

    with pytest.raises(ads.TopologyError, match=said) as refused:
        ads.topology(name="app")(build).build()
    assert refused.value.code == "malformed_pattern"


def test_runs_of_another_pattern_are_not_taken_over() -> None:
    """Conditions and windows may change; stages may not."""
    import json

    from adstream._core import Plan

    def task(pattern: Pattern) -> Any:
        def build(app: ads.App) -> None:
            app.stream("in", key=TEXT).group_by_key().match(pattern, max_delay="0s", materialized="runs").matches.to(
                "out"
            )

        built = ads.topology(name="app")(build).build()
        made = Plan(built.json, built.callables).task(0, 0, {"in": 1, "out": 1})
        made.feed("in", 0, ads._core.RawBatch([], 0))
        return made

    first = task(A.next("b"))
    rows = [(i, i + 1, b"k", json.dumps({"t": "a"}).encode(), []) for i in range(3)]
    first.feed("in", 0, ads._core.RawBatch(rows))
    while first.process(10):
        pass
    changelog = [batch for topic, _, batch in first.close_generation().outputs if topic.endswith("changelog")]
    assert changelog
    for pattern, fits in ((A.next("b").where(col("t") == "b").within("9s"), True), (A.next("c").next("b"), False)):
        other = task(pattern)
        for batch in changelog:
            other.restore(batch)
        other.begin(0)
        other.feed("in", 0, ads._core.RawBatch([(3, 9, b"k", b'{"t": "b"}', [])]).with_offsets(3))
        if fits:
            other.process(10)
        else:
            with pytest.raises(ads._core.CoreError, match="runs of another pattern"):
                other.process(10)


@pytest.mark.parametrize("rows", [False, True])
def test_a_misspelt_stage_is_refused_where_something_is_selected(rows: bool) -> None:
    pattern = Pattern.begin(Pattern.begin("small").next("large")).times(2).followed_by("end")

    class Event(ads.Record):
        k: str
        n: int

    def build(app: ads.App) -> None:
        if rows:
            found = app.stream("in", schema=Event).group_by("k").match(pattern, max_delay="0s")
            found.select(a=ads.matched("small").count(), n=ads.matched("lrge").first("n")).to("out")
        else:
            records = app.stream("in").group_by_key().match(pattern, max_delay="0s")
            records.select(ads.struct(a=ads.matched("small").count(), n=ads.matched("lrge").first("n"))).to("out")

    with pytest.raises(TopologyError, match=r"no stage `lrge`.*\n.*did you mean `large`"):
        ads.topology(name="app")(build).build()
