"""The text form of patterns: what each sign does to a stream, and what is said of a text that is no pattern. That text and
pattern say the same: `tests/property/test_pattern_text.py`."""

import json
from typing import Any

import pytest

import adstream as ads
from adstream import Pattern, TopologyError, col
from tests.unit.kstreams.test_patterns import play

STREAM = [("a", 1, 1), ("c", 2, 2), ("b", 3, 3), ("b", 7, 4)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a (t = 'a') b (t = 'b')", []),
        ("a (t = 'a') => b (t = 'c')", [{"a": [1], "b": [2]}]),
        ("a (t = 'a') -> b (t = 'b')", [{"a": [1], "b": [3]}]),
        ("a (t = 'a') ->> b (t = 'b')", [{"a": [1], "b": [3]}, {"a": [1], "b": [7]}]),
        ("a (t = 'a') !c (t = 'c') -> b (t = 'b')", []),
        ("a (t = 'a') !x (t = 'x') -> b (t = 'b')", [{"a": [1], "b": [3]}]),
        ("a (t = 'a') !-> c (t = 'c') -> b (t = 'b')", []),
        ("a (t = 'a') -> b{2} (t = 'b')", [{"a": [1], "b": [3, 7]}]),
        ("a (t = 'a') -> b{2,+} (t = 'b')", [{"a": [1], "b": [3, 7]}]),
        ("a (t = 'a') -> b+ (t = 'b') [n > 5]", [{"a": [1], "b": [3]}]),
        ("a (t = 'a') => x* (t = 'x') => c (t = 'c')", [{"a": [1], "c": [2]}]),
        ("a (t = 'a') x? (t = 'x') c (t = 'c')", [{"a": [1], "c": [2]}]),
        ("a (t = 'a') -> (c (t = 'c') b (t = 'b'))", [{"a": [1], "c": [2], "b": [3]}]),
        ("a (t = 'a') -> b (n > a.n * 4 and t = 'b')", [{"a": [1], "b": [7]}]),
        ("a (t = 'a') -> b (n in [4:8) AND t IN ('b', 'c'))", [{"a": [1], "b": [7]}]),
        ("a (t = 'a') -> b (n in [4:7) and t = 'b')", []),
        ("a (t = 'a') -> b (n not in (2, 3))", [{"a": [1], "b": [7]}]),
        ("a (t = 'a') -> b (t = 'x') or (n = 7)", [{"a": [1], "b": [7]}]),
        ("a (t = 'a') -> b (t = 'b') (n = 7)", [{"a": [1], "b": [7]}]),
        ("a (t = 'a') -> b (t = 'b') within 2ms", []),
        ("a (t = 'a') -> b (t = 'b') within 3 ms", [{"a": [1], "b": [3]}]),
        ("a (t = 'a') -> b (t = 'b') within previous 2ms", []),
        ("%SKIP_PAST_LAST a (t != 'x') ->> b (t = 'b')", [{"a": [1], "b": [3]}]),
        ("a (t = 'a') -> b (t = 'b' and any(a: a.n + 2 = n))", [{"a": [1], "b": [3]}]),
        ("a (t = 'a') -> b (nothing > 1 or t + 'x' = 'bx')", [{"a": [1], "b": [3]}]),
    ],
)
def test_what_a_text_finds(text: str, found: list[dict[str, list[int]]]) -> None:
    assert play(Pattern.parse(text), STREAM) == found
    assert play(Pattern.from_json(Pattern.parse(text).to_json()), STREAM) == found


def test_a_type_is_a_field() -> None:
    pattern = Pattern.parse("one=a -> two=b", type_field="t")
    assert play(pattern, STREAM) == [{"one": [1], "two": [3]}]
    assert str(Pattern.parse("one=a")) == "one (type = 'a')"


@pytest.mark.parametrize(
    ("text", "column", "message", "hint"),
    [
        ("", 1, "the text ends where a stage", "write a word"),
        ("a ->", 5, "the text ends where a stage", "write a word"),
        ("a -> b (x > )", 13, "`)` where a value", "write a field's name"),
        ("a (x > 1) b (y >", 17, "the text ends where a value", ""),
        ("a (1 < x < 3)", 10, "`<` where the end of a comparison", "`a < b and b < c`"),
        ("a (x = null)", 8, "`null` where a value", "`x is null`"),
        ("a (x => 1)", 6, "`=>` where an operator", "`>=`"),
        ('a (x = "y")', 8, '`"` begins nothing', "'x'"),
        ("a (x = 'y)", 8, "`'` begins nothing", "close it"),
        ("a+ -> (b -> c)+ (x > 1)", 7, "`where` of a group", "at the stages"),
        ("a (b -> c)", 6, "`->` where `)`", "`=> (…)`"),
        ("a -> b within 5", 15, "is not a duration", 'write "5s"'),
        ("a{3,2}", 1, "between 3 and 2 times", "smaller number first"),
        ("a{2}{3}", 5, "a second quantifier of one stage", "leave one out"),
        ("a -> b (x > c.x)", 13, "there is no stage `c`", "name a stage"),
        ("start -> b (x > strat.x)", 17, "there is no stage `strat`", "did you mean `start`?"),
        ("a (flor(x) > 1)", 4, "there is no function `flor`", "did you mean `floor`?"),
        ("a -> b (any(a.n > 1))", 17, "`>` where `)`", "any(a: a.x * 2)"),
        ("%SKIP_TO_FRIST['a'] a", 1, "no skip strategy", "%SKIP_TO_FIRST"),
        ("%SKIP_TO_FIRST a", 16, "`a` where `[`", "%SKIP_TO_FIRST['s']"),
        ("a !-> (b c)", 7, "a group cannot be negated", "negate a stage"),
        ("a (python('f'))", 4, "the function f is Python", "as an expression"),
        ("a (x in (y, 1))", 9, "a list is of constants", "x = a or x = b"),
        ("a? !-> b", 8, "must not come after `a`", "two patterns"),
        ("a (round(x, y))", 4, "`round` of other values", "round(x, 2)"),
    ],
)
def test_what_is_said_of_a_text_that_is_none(text: str, column: int, message: str, hint: str) -> None:
    with pytest.raises(TopologyError) as caught:
        Pattern.parse(text)
    said = str(caught.value)
    assert f"line 1, column {column}: " in said
    assert message in said
    assert hint in (caught.value.hint or "")
    assert said.splitlines()[2].index("^") == 4 + column - 1


def test_a_place_in_a_text_of_several_lines() -> None:
    with pytest.raises(TopologyError, match="line 3, column 3: "):
        Pattern.parse("a (x > 1)\n-> b\n->->> c")


def test_functions_show_and_are_not_kept() -> None:
    def dear(event: Any) -> bool:
        return event["n"] > 1

    pattern = Pattern.begin("a").where(dear).or_where(col("x") > 1)
    assert str(pattern) == "a (python('dear')) or (x > 1)"
    with pytest.raises(TopologyError, match="a condition of `a` is the function `dear`"):
        pattern.to_json()
    with pytest.raises(TopologyError, match="JSON cannot keep it"):
        Pattern.begin("a").subtype(dict).to_json()


def _where(expr: str) -> str:
    return f'{{"adstream_pattern": 1, "stages": [{{"name": "a", "where": {{"expr": {expr}}}}}]}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "not JSON"),
        ("[]", "not a pattern"),
        ('{"adstream_pattern": 2, "stages": []}', "version 2 of the JSON; this adstream reads 1"),
        ('{"adstream_pattern": 1, "stages": []}', "not a list of stages"),
        ('{"adstream_pattern": 1, "stages": [{"name": "a", "grady": true}]}', "a stage has no `grady`"),
        ('{"adstream_pattern": 1, "stages": [{"name": "a", "greedy": 1}]}', "`greedy` of a stage is 1"),
        ('{"adstream_pattern": 1, "stages": [{"name": "a", "greedy": true}]}', "what comes once"),
        ('{"adstream_pattern": 1, "stages": [{"name": "a", "contiguity": "skip_till_any"}]}', "nothing to follow"),
        ('{"adstream_pattern": 1, "stages": [{"name": "a", "where": {"expr": {"op": "call"}}}]}', "a function of"),
        ('{"adstream_pattern": 1, "stages": [{"name": "a", "where": "x > 1"}]}', "not a condition"),
        ('{"adstream_pattern": 1, "skip": "all", "stages": [{"name": "a"}]}', "not a skip strategy"),
        (_where('{"op": "col", "name": 5}'), "`name` of `col` is 5"),
        (_where('{"op": "col"}'), "not a column: None"),
        (_where('{"op": "col", "name": "$other.{bad"}'), "not a column"),
        (_where('{"op": "col", "name": "$other.{}"}'), "not a column"),
        (_where('{"op": "lit", "type": "int", "value": [1]}'), "not a constant"),
        (_where('{"op": "round", "digits": "z", "args": [{"op": "col", "name": "x"}]}'), "`digits` of `round` is 'z'"),
        (_where('{"op": "not", "args": [' * 2000 + '{"op": "col", "name": "x"}' + "]}" * 2000), "nested too deeply"),
        ('{"adstream_pattern": 1, "stages": [{"name": "a", "times": {"from": "1", "to": 1}}]}', "not a quantifier"),
    ],
)
def test_json_that_is_no_pattern(text: str, message: str) -> None:
    with pytest.raises(TopologyError, match=message) as caught:
        Pattern.from_json(text)
    assert caught.value.code == "malformed_pattern"
    assert caught.value.hint


def test_json_has_what_was_said_and_its_version() -> None:
    said = json.loads(Pattern.begin("a").where(col("x") > 1).one_or_more().to_json())
    assert said["adstream_pattern"] == 1
    (stage,) = said["stages"]
    assert set(stage) == {"name", "contiguity", "where", "times", "looping"}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a{99999999999999999999}", "write at most 10000"),
        ("a{1,4294967296}", "write at most 10000"),
        ("a{10001,+}", "write at most 10000"),
        ("a{0}", "write a number of 1 or more"),
        ("a{3,1}", "write the smaller number first"),
    ],
)
def test_repetitions_that_make_no_sense(text: str, hint: str) -> None:
    with pytest.raises(TopologyError, match=hint) as raised:
        Pattern.parse(text)
    assert raised.value.code == "malformed_pattern"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a (x > )", "write a field's name, a number"),
        ("a+ consecutive combinations", "a second `consecutive` or `combinations` of one stage"),
        ("a{2}{3}", "a second quantifier of one stage"),
        ("a -> b\n  -> a", "line 2, column 6: the name `a` is taken"),
        ("a -> (b -> a)", "line 1, column 12: the name `a` is taken"),
    ],
)
def test_errors_say_it_in_the_words_of_the_text(text: str, told: str) -> None:
    with pytest.raises(TopologyError) as refused:
        Pattern.parse(text)
    assert told in str(refused.value)


def test_spans_are_written_as_they_are_read() -> None:
    assert str(Pattern.parse("a{2 within 5s}")) == "a{2 within 5s}"


def test_what_shows_only_in_the_whole_has_the_place_of_its_stage_and_the_line_of_the_user() -> None:
    def build(app: ads.App) -> None:
        grouped = app.stream("in", key=ads.serdes.string).group_by_key()
        grouped.match(Pattern.parse("a\n  !-> b (x > 1)"), max_delay="0s").matches.to("out", key=ads.serdes.string)

    with pytest.raises(TopologyError, match=r"line 2, column 7: `b` ends the pattern") as refused:
        ads.topology(name="app")(build).build()
    assert refused.value.code == "malformed_pattern"
    assert "test_pattern_text" in str(refused.value.line)


@pytest.mark.parametrize("text", ["a (" + "(" * 3000 + "x" + ")" * 3000 + ")", "(" * 2000 + "a" + ")" * 2000])
def test_what_is_nested_too_deeply_is_refused(text: str) -> None:
    with pytest.raises(TopologyError, match="nested too deeply") as refused:
        Pattern.parse(text)
    assert refused.value.code == "malformed_pattern"


def test_nested_conditions_are_written_once() -> None:
    """Doubled level by level, this would not end."""
    deep = col("x") > 1
    for _ in range(50):
        deep = ~deep
    assert str(Pattern.begin("a").where(deep)) == f"a ({'not ' * 50}x > 1)"
    negated = col("x")
    for _ in range(50):
        negated = -negated
    assert str(Pattern.begin("a").where(negated.is_null())) == f"a ({'-' * 50}x is null)"
