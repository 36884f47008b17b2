"""Patterns over the events of a key, with Flink CEP's semantics.

    cheap = Pattern.begin("small").where(col("amount") < 1).next("large").where(col("amount") > 500).within("10m")
    payments.group_by_key().match(cheap, max_delay="5s").select(lambda key, match: match["large"][0]["id"])

A `Pattern` is a value: every method returns another one. Conditions are expressions over the event or functions: of the
event, or of the event and what the run has taken (`{stage: [events]}`); in an expression, `matched("small")` looks back.
What Flink's `Pattern` refuses is refused here, call by call; what shows only in the whole, when the stream is built
(`rust/core/src/cep/automaton.rs`).
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal, Protocol, Self

from adstream.dsl import natives, pattern_drawing, pattern_json, pattern_text
from adstream.dsl.durations import Duration, duration_ms
from adstream.dsl.expr import Expr, refuse_async, to_plan
from adstream.dsl.faults import fault
from adstream.dsl.pattern_drawing import Explanation

Test = Callable[..., Any] | Expr
"""A condition of the user."""
_TAKEN = "$element."
LOOK = "$other.{"
"""How the names of columns begin that are what `matched` asks, as JSON."""


# --- Looking back ---------------------------------------------------------------------------------------------------------


def element(field: str) -> Expr:
    """In what `matched(…)` asks of each taken event: a field of that event. `col(…)` is the event at hand."""
    return Expr("col", name=_TAKEN + field)


RULE = "$rule"
"""The stage of a match of a rule that says which one it was."""


def rule(field: Literal["id", "version"]) -> Expr:
    """In what is selected of the matches of rules (`app.rules`): which rule it was, and which version of it."""
    if field not in ("id", "version"):
        raise fault(
            "bad_argument",
            f"a rule has no {field!r}",
            operation="rule",
            hint='write `ads.rule("id")` or `ads.rule("version")`',
        )
    return matched(RULE).first(field)


@dataclass(frozen=True, slots=True)
class matched:
    """The events that the run has taken for a stage so far: of the stage that is being matched, those of the repetitions
    before. In Flink: `ctx.getEventsForPattern(stage)`.

    A field is named by text; an expression has `ads.element("x")` for a field of the taken event and `ads.col("x")` for the
    event at hand.
    """

    stage: str

    def count(self, of: str | Expr | None = None) -> Expr:
        """How many there are, or for how many of them it is not null."""
        return self._look("count", of)

    def first(self, of: str | Expr) -> Expr:
        """Of the oldest one; null if there is none."""
        return self._look("first", of)

    def last(self, of: str | Expr) -> Expr:
        """Of the latest one; null if there is none."""
        return self._look("last", of)

    def sum(self, of: str | Expr) -> Expr:
        """Nulls left out; 0 of nothing."""
        return self._look("sum", of)

    def mean(self, of: str | Expr) -> Expr:
        """Nulls left out; null of nothing."""
        return self._look("mean", of)

    def min(self, of: str | Expr) -> Expr:
        """Nulls left out; null of nothing."""
        return self._look("min", of)

    def max(self, of: str | Expr) -> Expr:
        """Nulls left out; null of nothing."""
        return self._look("max", of)

    def any(self, of: Expr) -> Expr:
        """Whether it is true of one; false of nothing."""
        return self._look("any", of)

    def all(self, of: Expr) -> Expr:
        """Whether it is true of each; true of nothing."""
        return self._look("all", of)

    def values(self, of: str | Expr) -> Expr:
        """Of each, the oldest first: a list."""
        return self._look("values", of)

    def _look(self, look: str, of: str | Expr | None) -> Expr:
        tree = (
            None
            if of is None
            else to_plan(_asked(element(of) if isinstance(of, str) else of), (), natives._no_function)
        )
        said = {"stage": self.stage, "look": look, "of": tree}
        return Expr("col", name="$other." + json.dumps(said, sort_keys=True))


def _asked(e: Expr) -> Expr:
    """As a function of (taken event, event at hand)."""
    if e.op == "col" and e.name is not None:
        if e.name.startswith(_TAKEN):
            return replace(e, name=e.name.removeprefix(_TAKEN))
        return e if e.name.startswith("$") else replace(e, name=f"$other.{e.name}")
    return replace(e, args=tuple(_asked(arg) for arg in e.args))


# --- Skip strategies ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AfterMatchSkipStrategy:
    """Which runs go when a match is found. In Flink: `AfterMatchSkipStrategy`."""

    kind: str
    stage: str | None = None
    throws: bool = False

    @staticmethod
    def no_skip() -> AfterMatchSkipStrategy:
        """Every possible match is told."""
        return AfterMatchSkipStrategy("no")

    @staticmethod
    def skip_to_next() -> AfterMatchSkipStrategy:
        """Those that began with the same event go."""
        return AfterMatchSkipStrategy("to_next")

    @staticmethod
    def skip_past_last_event() -> AfterMatchSkipStrategy:
        """Those that began before the match ended go."""
        return AfterMatchSkipStrategy("past_last")

    @staticmethod
    def skip_to_first(stage: str) -> AfterMatchSkipStrategy:
        """Those that began before the stage's first event go."""
        return AfterMatchSkipStrategy("to_first", _stage_name(stage))

    @staticmethod
    def skip_to_last(stage: str) -> AfterMatchSkipStrategy:
        """Those that began before the stage's last event go."""
        return AfterMatchSkipStrategy("to_last", _stage_name(stage))

    def throw_exception_on_miss(self) -> AfterMatchSkipStrategy:
        """The event is a dead letter (`nothing_to_skip_to`, `skips_to_its_start`) where the match has no event of the stage,
        or begins with it."""
        if self.stage is None:
            raise _malformed(f"`{self.kind}` skips to no stage", "write it behind `skip_to_first` or `skip_to_last`")
        return replace(self, throws=True)

    def _plan(self) -> Any:
        return self.kind if self.stage is None else {self.kind: {"stage": self.stage, "throws": self.throws}}


def check_skip(skip: object) -> None:
    """Whether it is one, or none is said. Raises TopologyError: `malformed_pattern`."""
    if skip is not None and not isinstance(skip, AfterMatchSkipStrategy):
        raise _malformed(f"not a skip strategy: {skip!r}", "write `AfterMatchSkipStrategy.skip_past_last_event()`")


def _stage_name(stage: object) -> str:
    if not isinstance(stage, str):
        raise _malformed(f"not a name of a stage: {stage!r}", "write the text that the stage is called by")
    return stage


# --- Patterns -------------------------------------------------------------------------------------------------------------


class Lowering(Protocol):
    """Gives conditions numbers."""

    def guard(self, condition: Any) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class _Stage:
    name: str
    contiguity: str
    group: Pattern | None = None
    condition: Any = None
    """A test, or ("and" | "or", condition, condition)."""
    until: Test | None = None
    times: tuple[int, int, int | None] | None = None
    """From, to, ms between them."""
    looping: bool = False
    optional: bool = False
    greedy: bool = False
    inner: str = "skip_till_next"
    within: int | None = None
    within_previous: int | None = None
    lost_optional: bool = field(default=False, compare=False)
    """`optional()` was said before the quantifier."""
    at: tuple[int, int] | None = field(default=None, compare=False)
    """Line and column in the text that it was read from."""


def _malformed(message: str, hint: str) -> Exception:
    return fault("malformed_pattern", message, operation="Pattern", hint=hint)


def _label(stage: _Stage) -> str:
    return stage.name if stage.group is None else f"({' '.join(map(_label, stage.group._stages))})"


_TIMES_MAX = 10_000
"""Each time is a state of the automaton."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A chain of stages; what follows a stage's name is about that stage. In Flink: `Pattern`."""

    _stages: tuple[_Stage, ...]
    _skip: AfterMatchSkipStrategy
    _mended: bool = False
    _longest: bool = False

    # Stages.

    @staticmethod
    def begin(stage: str | Pattern, skip: AfterMatchSkipStrategy | None = None) -> Pattern:
        """The first stage, by its name, or a group. `skip` is the whole pattern's."""
        check_skip(skip)
        return Pattern((_made(stage, "strict"),), skip or AfterMatchSkipStrategy.no_skip())

    def next(self, stage: str | Pattern) -> Pattern:
        """The very next event of the key must match."""
        return self._then(stage, "strict")

    def followed_by(self, stage: str | Pattern) -> Pattern:
        """Events that do not match may come before it."""
        return self._then(stage, "skip_till_next")

    def followed_by_any(self, stage: str | Pattern) -> Pattern:
        """Any event may come before it, also one that matches: each such one makes a match of its own."""
        return self._then(stage, "skip_till_any")

    def not_next(self, stage: str) -> Pattern:
        """The very next event must not match."""
        return self._not(stage, "not_next")

    def not_followed_by(self, stage: str) -> Pattern:
        """No event that matches may come before what follows; at the end of a pattern, before `within` is over."""
        return self._not(stage, "not_follow")

    def _then(self, stage: str | Pattern, contiguity: str) -> Pattern:
        if self._mended and isinstance(stage, Pattern):
            stage = stage.mended()
        return replace(self, _stages=(*self._stages, _made(stage, contiguity)))

    def _not(self, stage: str, contiguity: str) -> Pattern:
        if not isinstance(stage, str):
            raise _malformed("a group cannot be negated", "negate a stage")
        if self._last.optional:
            raise _malformed(
                f"`{stage}` must not come after `{self._last.name}`, which is optional",
                "write two patterns, with the optional stage and without it",
            )
        return self._then(stage, contiguity)

    @property
    def _last(self) -> _Stage:
        return self._stages[-1]

    def _refused(self, message: str, hint: str) -> Exception:
        """About the stage at hand."""
        return _malformed(f"`{_label(self._last)}`: {message}", hint)

    def _with(self, **changes: Any) -> Self:
        return replace(self, _stages=(*self._stages[:-1], replace(self._last, **changes)))

    # Conditions.

    def where(self, condition: Test) -> Pattern:
        """Together with the conditions before it."""
        return self._condition("and", condition, "where")

    def or_where(self, condition: Test) -> Pattern:
        """Or all conditions before it. In Flink: `or`."""
        return self._condition("or", condition, "or_where")

    def subtype(self, of: type) -> Pattern:
        """And the event is an instance of that class."""
        if not isinstance(of, type):
            raise self._refused(f"not a class: {of!r}", "write `.subtype(Class)`")
        return self._condition("and", lambda event: isinstance(event, of), "subtype")

    def until(self, condition: Test) -> Pattern:
        """Ends a loop: an event for which it holds is not taken, nor is any later one."""
        if self._last.until is not None:
            raise self._refused("a second `until`", "write the conditions as one")
        if not self._last.looping:
            raise self._refused("`until` of what does not repeat without a bound", "write it behind `one_or_more()`")
        return self._with(until=self._test(condition, "until"))

    def _condition(self, how: str, condition: Test, what: str) -> Pattern:
        if self._last.group is not None:
            raise self._refused(f"`{what}` of a group", "write it at the stages of the group")
        new = self._test(condition, what)
        old = self._last.condition
        return self._with(condition=new if old is None else (how, old, new))

    def _test(self, condition: object, what: str) -> Test:
        if not isinstance(condition, Expr) and not callable(condition):
            raise self._refused(
                f"not a condition: {condition!r}", f'write `.{what}(col("x") > 1)` or a function of the event'
            )
        refuse_async(condition, what, hint="ask before, on rows, `.map_async(…)`, and match on the answers")
        return condition

    # Quantifiers.

    def _whole(self, *numbers: object) -> None:
        for number in numbers:
            if type(number) is not int:
                raise self._refused(f"{number!r} times", "write a whole number")

    def times(self, low: int, high: int | None = None, window: Duration | None = None) -> Pattern:
        """So often, or between so often and so often. `window`: between repetitions, as in Flink between those before the
        last (docs/patterns.md)."""
        self._whole(low, low if high is None else high)
        if high is None:
            if low <= 0:
                raise self._refused(f"{low} times", "write a number of 1 or more")
            return self._repeated(low, low, window)
        if low < 0 or high < low or high == 0:
            wanted = (
                "write the smaller number first" if high > 0 else "write a number of 1 or more; `optional()` for none"
            )
            raise self._refused(f"between {low} and {high} times", wanted)
        pattern = self._repeated(max(low, 1), high, window)
        return pattern._with(optional=True) if low == 0 else pattern

    def times_or_more(self, times: int, window: Duration | None = None) -> Pattern:
        """At least so often."""
        self._whole(times)
        if times <= 0:
            raise self._refused(f"{times} times or more", "write a number of 1 or more")
        return self._repeated(times, times, window, looping=True)

    def one_or_more(self, window: Duration | None = None) -> Pattern:
        """At least once."""
        return self._repeated(1, 1, window, looping=True)

    def _repeated(self, low: int, high: int, window: Duration | None, *, looping: bool = False) -> Pattern:
        self._not_negated("a quantifier")
        if max(low, high) > _TIMES_MAX:
            raise self._refused(f"{max(low, high)} times", f"write at most {_TIMES_MAX}")
        if self._last.times is not None:
            raise self._refused("a second quantifier", "leave one out")
        ms = None if window is None else duration_ms(window, "window", operation="Pattern")
        said = self._last.optional
        repeated = self._with(
            times=(low, high, ms), looping=looping, optional=False, greedy=False, inner="skip_till_next"
        )
        # As in Flink, `optional()` before a quantifier is lost.
        return repeated._with(optional=said and self._mended, lost_optional=said)

    def optional(self) -> Pattern:
        """It may be absent."""
        if len(self._stages) > 1 and self._stages[-2].greedy:
            raise self._refused("an optional stage behind a greedy one", "leave `greedy()` out")
        if self._last.optional:
            raise self._refused("`optional()` twice", "leave one out")
        self._not_negated("`optional()`")
        return self._with(optional=True)

    def greedy(self) -> Pattern:
        """What follows leaves it the events that it would take."""
        self._not_negated("`greedy()`")
        if self._last.group is not None:
            raise self._refused("`greedy()` of a group", "write it at a stage")
        if self._last.inner == "skip_till_any":
            raise self._refused("`greedy()` and `allow_combinations()`", "leave one out")
        if self._last.times is None:
            raise self._refused("`greedy()` of what comes once", "write it behind a quantifier")
        return self._with(greedy=True)

    def consecutive(self) -> Pattern:
        """No other event may come between repetitions."""
        return self._between("strict", "consecutive")

    def allow_combinations(self) -> Pattern:
        """Any event may come between repetitions, also one that matches."""
        return self._between("skip_till_any", "allow_combinations")

    def _between(self, inner: str, what: str) -> Pattern:
        if self._last.times is None:
            raise self._refused(f"`{what}()` of what comes once", "write it behind a quantifier")
        if self._last.inner != "skip_till_next":
            raise self._refused(f"`{what}()` where repetitions are settled", "write one of them, once")
        return self._with(inner=inner)

    def _not_negated(self, what: str) -> None:
        if self._last.contiguity in ("not_next", "not_follow"):
            raise _malformed(f"{what} of `{self._last.name}`, which must not come", "leave it out")

    # Windows.

    def within(self, window: Duration) -> Pattern:
        """From the first event to the last, less than this; the smallest of all stages counts. In Flink: `FIRST_AND_LAST`."""
        return self._with(within=duration_ms(window, "window", operation="Pattern"))

    def within_previous(self, window: Duration) -> Pattern:
        """From the event before to this stage's, less than this. In Flink: `PREVIOUS_AND_CURRENT`, with its limits:
        docs/patterns.md."""
        return self._with(within_previous=duration_ms(window, "window", operation="Pattern"))

    # Beyond Flink.

    def mended(self) -> Pattern:
        """The same without Flink's known faults; what they are, and what is so instead: docs/patterns.md. Not in Flink."""
        stages: list[_Stage] = []
        for stage in self._stages:
            group = None if stage.group is None else stage.group.mended()
            stage = replace(stage, group=group, optional=stage.optional or stage.lost_optional)
            if stage.lost_optional and stages and stages[-1].greedy:
                raise _malformed("an optional stage behind a greedy one", "leave `greedy()` out")
            if stages and stages[-1].lost_optional and stage.contiguity in ("not_next", "not_follow"):
                raise _malformed(
                    f"`{stage.name}` must not come after `{stages[-1].name}`, which is optional",
                    "write two patterns, with the optional stage and without it",
                )
            stages.append(stage)
        return replace(self, _stages=tuple(stages), _mended=True)

    def longest(self) -> Pattern:
        """A match that may become longer, by a loop or an optional stage at the end, is told when it no longer can: when its
        window is over, or the loop. What is the beginning of a longer one is not told. Not in Flink."""
        return replace(self, _longest=True)

    def _flags(self) -> dict[str, bool]:
        return {name: True for name, said in (("mended", self._mended), ("longest", self._longest)) if said}

    # For the plan.

    def _document(self, lowering: Lowering, skip: AfterMatchSkipStrategy | None = None) -> dict[str, Any]:
        """As the core reads it."""
        return {"stages": self._plan(lowering), "skip": (skip or self._skip)._plan(), **self._flags()}

    def _plan(self, lowering: Lowering) -> list[dict[str, Any]]:
        return [
            {
                "name": stage.name,
                "contiguity": stage.contiguity,
                "inner": stage.inner,
                "where": None if stage.condition is None else lowering.guard(stage.condition),
                "until": None if stage.until is None else lowering.guard(stage.until),
                "times": None if stage.times is None else dict(zip(("from", "to", "window"), stage.times, strict=True)),
                "looping": stage.looping,
                "optional": stage.optional,
                "greedy": stage.greedy,
                "within": stage.within,
                "within_previous": stage.within_previous,
                "group": None if stage.group is None else stage.group._plan(lowering),
            }
            for stage in self._stages
        ]

    # As text.

    def __str__(self) -> str:
        """The pattern in the language of `parse`, so that `Pattern.parse(str(p))` is the same pattern. A function in it shows as
        `python('its name')`, which `parse` refuses."""
        return pattern_text.write(self)

    @staticmethod
    def parse(text: str, *, type_field: str = "type") -> Pattern:
        """The pattern that a text says, for example `small (amount < 1) -> large (amount > 500) within 10m`. The language is
        that of Flink's draft, made whole: docs/patterns.md has all of it.

        Args:
            text: keywords in any case; names of stages and fields as they are.
            type_field: the field that `name=Type` compares with `Type`.

        Raises:
            TopologyError: `malformed_pattern`, with line and column.
        """
        return pattern_text.read(text, type_field)

    def explain(self) -> Explanation:
        """The automaton that the pattern becomes: `print(pattern.explain())`, or a picture by `.svg()`.

        Raises:
            TopologyError: `malformed_pattern`, for what shows only in the whole.
        """
        return pattern_drawing.explain(self)

    def to_json(self) -> str:
        """To be kept: JSON with a version, conditions as data.

        Raises:
            TopologyError: `malformed_pattern`, for a condition that is a function.
        """
        return pattern_json.write(self)

    @staticmethod
    def from_json(text: str | bytes) -> Pattern:
        """What `to_json` wrote.

        Raises:
            TopologyError: `malformed_pattern`: no such JSON, another version, or a pattern that cannot be made.
        """
        return pattern_json.read(text)

    def __repr__(self) -> str:
        return f"<Pattern {' '.join(stage.name or '(…)' for stage in self._stages)}>"


def all_of(stage: str, *conditions: Expr) -> Pattern:
    """One event for each condition, in any order: a pattern of its own, or a group in another one. Not in Flink.

        all_of("both", col("type") == "order", col("type") == "payment").within("1h")

    It is one stage with as many events as there are conditions: each event fulfils a condition that none taken before it does.
    Other events may come between them, and further ones for a condition that is fulfilled. Events that fulfil several of the
    conditions count for all of these at once: write conditions that exclude each other.

    Raises:
        TopologyError: `malformed_pattern`, for fewer than two conditions, and for what is no expression or looks back itself.
    """
    if len(conditions) < 2:
        raise _malformed(
            f"`all_of` with {len(conditions)} conditions", "write two or more, or `Pattern.begin(…).where(…)`"
        )
    for condition in conditions:
        if not isinstance(condition, Expr):
            raise _malformed(f"`{stage}`: not an expression: {condition!r}", 'write `col("type") == "order"`')
        if any(node.op == "call" or (node.name or "").startswith(("$other", _TAKEN)) for node in condition.walk()):
            raise _malformed(f"`{stage}`: `{condition!r}` asks more than the event", "look back behind `all_of`")
    new = [condition & ~matched(stage).any(_of_taken(condition)) for condition in conditions]
    return Pattern.begin(stage).where(reduce(operator.or_, new)).times(len(new))


def _of_taken(e: Expr) -> Expr:
    """The same asked of a taken event."""
    if e.op == "col" and e.name is not None and not e.name.startswith("$"):
        return element(e.name)
    return replace(e, args=tuple(map(_of_taken, e.args)))


def _made(stage: str | Pattern, contiguity: str) -> _Stage:
    if isinstance(stage, Pattern):
        return _Stage("", contiguity, stage)
    if not isinstance(stage, str) or not stage or ":" in stage:
        raise _malformed(f"not a name of a stage: {stage!r}", "write a text without `:`")
    return _Stage(stage, contiguity)
