"""A pattern as JSON, to be kept: `Pattern.to_json`, `Pattern.from_json`.

    {"adstream_pattern": 1, "skip": "no", "stages": [
        {"name": "small", "contiguity": "strict", "where": {"expr": {"op": "lt", …}}},
        {"name": "large", "contiguity": "skip_till_next", "times": {"from": 1, "to": 1}, "looping": true, "within": 600000}]}

A stage has what it was given and nothing else. Conditions are data: the tree of an expression as the core reads it
(`to_plan`), or `and` and `or` of two conditions. A function is no data and is refused. The version is raised by what
an older reader would misread; another one is refused.

What is read is made again by the calls of `Pattern` (`rebuilt`, which the text form uses, too): what they refuse is
refused, whoever wrote the text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from adstream.dsl import natives
from adstream.dsl.expr import Expr, callable_name, to_plan
from adstream.dsl.faults import fault, nearest
from adstream.errors import TopologyError

if TYPE_CHECKING:
    from adstream.dsl.pattern import AfterMatchSkipStrategy, Pattern, _Stage

VERSION = 1
_VERSION = "adstream_pattern"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STARTS = {"skip_till_next": "followed_by", "skip_till_any": "followed_by_any", "not_next": "not_next"}
_STARTS |= {"not_follow": "not_followed_by", "strict": "next"}
_FLAGS = ("looping", "optional", "greedy")
_FIELDS = ("name", "contiguity", "group", "where", "until", "times", *_FLAGS, "inner", "within", "within_previous")
LOOKS = ("count", "first", "last", "sum", "mean", "min", "max", "any", "all", "values")
"""What `matched` can ask."""
_PARTS = ("digits", "every_ms", "offset", "length", "name")


def malformed(message: str, hint: str) -> TopologyError:
    """What is no pattern."""
    return fault("malformed_pattern", message, operation="Pattern", hint=hint)


# --- Expressions ----------------------------------------------------------------------------------------------------------


def expr_of(said: Any) -> Expr:
    """The expression whose `to_plan` this is. Raises TopologyError: `malformed_pattern`."""
    hint = "write what `to_json` wrote"
    if not isinstance(said, Mapping) or not isinstance(said.get("op"), str):
        raise malformed(f"not an expression: {said!r}", hint)
    if said["op"] == "call":
        raise malformed("a function of Python is not in the JSON", "write the condition as an expression")
    args = said.get("args", [])
    unknown = sorted(set(said) - {"op", "args", "type", "value", *_PARTS})
    if not isinstance(args, list) or unknown:
        raise malformed(f"not an expression: {unknown or args!r} in `{said['op']}`", hint)
    value, dtype = said.get("value"), said.get("type")
    for part, kind in (("name", str), ("type", str), *((part, int) for part in _PARTS if part != "name")):
        if said.get(part) is not None and type(said[part]) is not kind:
            raise malformed(f"not an expression: `{part}` of `{said['op']}` is {said[part]!r}", hint)
    if said["op"] == "col" and not _column(said.get("name")):
        raise malformed(f"not a column: {said.get('name')!r}", hint)
    if said["op"] == "lit" and isinstance(value, list | dict):
        raise malformed(f"not a constant: {value!r}", hint)
    try:
        if said["op"] == "lit" and value is not None:
            value = _literal(value, str(dtype))
    except (ArithmeticError, ValueError, TypeError):
        raise malformed(f"not a constant of type {dtype}: {value!r}", hint) from None
    parts = {part: said[part] for part in _PARTS if part in said}
    return Expr(said["op"], tuple(map(expr_of, args)), dtype=dtype, value=value, **parts)


def _column(name: str | None) -> bool:
    if not name or not name.startswith("$other.{"):
        return bool(name)
    try:
        asked = json.loads(name.removeprefix("$other."))
    except ValueError:
        return False
    if not isinstance(asked, dict) or set(asked) != {"stage", "look", "of"} or not isinstance(asked["stage"], str):
        return False
    if asked["of"] is not None:
        expr_of(asked["of"])
    return asked["look"] in LOOKS


def _literal(value: Any, dtype: str) -> Any:
    if dtype.startswith("decimal"):
        return Decimal(value)
    if dtype == "timestamp":
        return _EPOCH + timedelta(milliseconds=value)
    return timedelta(milliseconds=value) if dtype == "duration" else value


# --- Out ------------------------------------------------------------------------------------------------------------------


def write(pattern: Pattern) -> str:
    """See `Pattern.to_json`."""
    said = {_VERSION: VERSION, "skip": pattern._skip._plan(), "stages": _stages(pattern), **pattern._flags()}
    return json.dumps(said, ensure_ascii=False)


def _stages(pattern: Pattern) -> list[dict[str, Any]]:
    made = []
    for stage in pattern._stages:
        said: dict[str, Any] = {"contiguity": stage.contiguity}
        if stage.group is None:
            said["name"] = stage.name
        else:
            said["group"] = _stages(stage.group)
        if stage.condition is not None:
            said["where"] = _condition(stage.condition, stage.name)
        if stage.until is not None:
            said["until"] = _condition(stage.until, stage.name)
        if stage.times is not None:
            low, high, window = stage.times
            said["times"] = {"from": low, "to": high} | ({} if window is None else {"window": window})
        said |= {flag: True for flag in _FLAGS if getattr(stage, flag)}
        if stage.inner != "skip_till_next":
            said["inner"] = stage.inner
        said |= {w: ms for w in ("within", "within_previous") if (ms := getattr(stage, w)) is not None}
        made.append(said)
    return made


def _condition(condition: Any, stage: str) -> dict[str, Any]:
    if isinstance(condition, tuple):
        how, one, other = condition
        return {how: [_condition(one, stage), _condition(other, stage)]}
    function = condition if not isinstance(condition, Expr) else None
    for node in condition.walk() if isinstance(condition, Expr) else ():
        function = node.function if node.op == "call" else function
    if function is not None:
        raise malformed(
            f"a condition of `{stage or '(…)'}` is the function `{callable_name(function)}`: JSON cannot keep it",
            'write it as an expression: `col("x") > 1`, `matched("stage").sum("x") < 9`',
        )
    return {"expr": to_plan(condition, (), natives._no_function)}


# --- In -------------------------------------------------------------------------------------------------------------------


def read(text: str | bytes) -> Pattern:
    """See `Pattern.from_json`."""
    try:
        return _read(text)
    except RecursionError:
        raise malformed("groups or conditions are nested too deeply", "hand over what `to_json` wrote") from None


def _read(text: str | bytes) -> Pattern:
    try:
        said = json.loads(text)
    except ValueError as error:
        raise malformed(f"not JSON: {error}", "hand over what `to_json` wrote") from None
    if not isinstance(said, dict) or _VERSION not in said:
        raise malformed(f"not a pattern: no `{_VERSION}` in it", "hand over what `to_json` wrote")
    if said[_VERSION] != VERSION:
        raise malformed(
            f"a pattern in version {said[_VERSION]!r} of the JSON; this adstream reads {VERSION}",
            "read it with the adstream that wrote it, or a newer one",
        )
    _known(said, (_VERSION, "skip", "stages", "mended", "longest"), "a pattern")
    made = _chain(said.get("stages"), _skip(said.get("skip", "no")))
    for flag in ("mended", "longest"):
        if type(said.get(flag, False)) is not bool:
            raise malformed(f"`{flag}` of a pattern is {said[flag]!r}", "write a bool")
        made = getattr(made, flag)() if said.get(flag) else made
    return made


def _known(said: Mapping[str, Any], names: tuple[str, ...], what: str) -> None:
    for name in said:
        if name not in names:
            near = nearest(name, names)
            raise malformed(f"{what} has no `{name}`", f"did you mean `{near}`?" if near else "leave it out")


def _skip(said: Any) -> AfterMatchSkipStrategy:
    from adstream.dsl.pattern import AfterMatchSkipStrategy

    match said:
        case "no" | "to_next" | "past_last":
            return AfterMatchSkipStrategy(said)
        case {"to_first": {"stage": str(stage), "throws": bool(throws)}}:
            return AfterMatchSkipStrategy("to_first", stage, throws)
        case {"to_last": {"stage": str(stage), "throws": bool(throws)}}:
            return AfterMatchSkipStrategy("to_last", stage, throws)
    raise malformed(f"not a skip strategy: {said!r}", "write no, to_next, past_last, to_first or to_last")


def _chain(stages: Any, skip: AfterMatchSkipStrategy | None) -> Pattern:
    if not isinstance(stages, list) or not stages:
        raise malformed(f"not a list of stages: {stages!r}", "write at least one")
    made: Pattern | None = None
    for said in stages:
        if not isinstance(said, dict):
            raise malformed(f"not a stage: {said!r}", "hand over what `to_json` wrote")
        _known(said, _FIELDS, "a stage")
        for name, kind in (
            ("name", str),
            *((flag, bool) for flag in _FLAGS),
            ("within", int),
            ("within_previous", int),
        ):
            if name in said and type(said[name]) is not kind:
                raise malformed(f"`{name}` of a stage is {said[name]!r}", f"write a {kind.__name__}")
        stage = dict(said)
        if "group" in said:
            stage["group"] = _chain(said["group"], None)
        for part in ("where", "until"):
            if part in said:
                stage[part] = _test(said[part])
        if "times" in said:
            stage["times"] = _times(said["times"])
        made = rebuilt(made, stage, skip)
    assert made is not None
    return made


def _times(said: Any) -> tuple[int, int, int | None]:
    match said:
        case {"from": int(low), "to": int(high)} if type(low) is type(high) is int:
            window = said.get("window")
            if window is None or type(window) is int:
                return low, high, window
    raise malformed(f"not a quantifier: {said!r}", 'write `{"from": 1, "to": 2}`')


def _test(said: Any) -> Any:
    match said:
        case {"expr": tree, **rest} if not rest:
            return expr_of(tree)
        case {"and": [one, other], **rest} if not rest:
            return ("and", _test(one), _test(other))
        case {"or": [one, other], **rest} if not rest:
            return ("or", _test(one), _test(other))
    raise malformed(f"not a condition: {said!r}", 'write `{"expr": …}`, `{"and": [a, b]}` or `{"or": [a, b]}`')


def rebuilt(before: Pattern | None, said: Mapping[str, Any], skip: AfterMatchSkipStrategy | None = None) -> Pattern:
    """A pattern and one stage more, by the calls that a user would make; `said` has the parts of a `_Stage`."""
    from adstream.dsl.pattern import Pattern

    stage = said.get("group") or said.get("name")
    contiguity = said.get("contiguity", "strict")
    if contiguity not in _STARTS:
        raise malformed(f"not a contiguity: {contiguity!r}", f"write one of {', '.join(_STARTS)}")
    if before is None:
        if contiguity != "strict":
            raise malformed("a first stage has nothing to follow", "begin with a stage")
        made = Pattern.begin(stage, skip)  # type: ignore[arg-type]  # it says so itself
    else:
        made = getattr(before, _STARTS[contiguity])(stage)
    times, looping, optional = said.get("times"), said.get("looping", False), said.get("optional", False)
    if looping and times is None:
        raise malformed("`looping` without a quantifier", "write `times`, too")
    if times is not None:
        low, high, window = times
        within = None if window is None else f"{window}ms"
        if looping:
            made = made.times_or_more(low, within)
        else:
            # What may be absent was said by the quantifier: behind a greedy stage Flink takes that, and no `optional()`.
            none = optional and low == 1
            made, optional = made.times(0 if none else low, high, within), optional and not none
    if said.get("greedy"):
        made = made.greedy()
    match said.get("inner", "skip_till_next"):
        case "strict":
            made = made.consecutive()
        case "skip_till_any":
            made = made.allow_combinations()
        case "skip_till_next":
            pass
        case other:
            raise malformed(f"not a contiguity between repetitions: {other!r}", "write strict or skip_till_any")
    made = _with_conditions(made, said.get("where"))
    if said.get("until") is not None:
        made = made.until(said["until"])
    if optional:
        made = made.optional()
    for name in ("within", "within_previous"):
        if said.get(name) is not None:
            set_window: Callable[..., Pattern] = getattr(made, name)
            made = set_window(f"{said[name]}ms")
    return made._with(at=said["at"]) if "at" in said else made


def _with_conditions(made: Pattern, condition: Any) -> Pattern:
    if condition is None:
        return made
    if isinstance(condition, tuple):
        how, one, other = condition
        if isinstance(other, tuple):
            raise malformed("conditions are joined from left to right", "write the nested ones as one expression")
        made = _with_conditions(made, one)
        return made.where(other) if how == "and" else made.or_where(other)
    return made.where(condition)


def stage_names(stages: tuple[_Stage, ...]) -> list[str]:
    """Of all stages, those in groups, too."""
    return [name for s in stages for name in ([s.name] if s.group is None else stage_names(s.group._stages))]
