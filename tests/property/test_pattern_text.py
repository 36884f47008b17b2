"""Patterns survive being written: as text and as JSON, whatever stages, quantifiers and expressions are in them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest

import adstream as ads
from adstream import Pattern, TopologyError, col, element, lit, matched
from adstream.dsl.expr import to_plan
from adstream.dsl.pattern_json import expr_of
from adstream.dsl.pattern_text import expression_text
from tests.differential.cep import adstream_side, generate

NAMES = (
    "a",
    "b",
    "within",
    "is",
    "no word",
    "it's",
    "back`tick",
    "a.b",
    "größe",
    "$timestamp",
    "$key",
    "1st",
    "OR",
    "value",
)
STAGES = ("s", "in", "two words")


def random_expr(chance: Random, depth: int, within: str | None = None) -> ads.Expr:
    """Any expression that can be said; `within`: what is asked of a taken event."""
    if depth == 0 or chance.random() < 0.15:
        return leaf(chance, within)
    one, other, third = (random_expr(chance, depth - 1, within) for _ in range(3))
    made = (
        lambda: one + other,
        lambda: one - other,
        lambda: one * other,
        lambda: one / other,
        lambda: one // other,
        lambda: one % other,
        lambda: -one,
        lambda: ~one,
        lambda: one == other,
        lambda: one != other,
        lambda: one < other,
        lambda: one >= other,
        lambda: one & other,
        lambda: one | other,
        lambda: one.between(other, third, chance.choice(("both", "left", "right", "none"))),
        lambda: one.is_in([1, "x", -2.5]),
        lambda: one.is_in([]),
        lambda: one.is_null(),
        lambda: one.is_not_null(),
        lambda: one.fill_null(other),
        lambda: one.round(2),
        lambda: one.abs().floor(),
        lambda: one.cast("decimal(10,2)"),
        lambda: one.str.slice(-3, 2).str.contains("a'b"),
        lambda: one.str.slice(1).str.replace_all("x", other),
        lambda: one.dt.truncate("1h30m").dt.hour(),
        lambda: "x" + one + "y",
        lambda: ads.when(one).then(other).when(other).then(third).otherwise(None),
        lambda: ads.coalesce(one, other, third),
        lambda: ads.max_horizontal(one, other),
        lambda: ads.Expr("add", (one, lit("x"))),
        lambda: look(chance, depth) if within is None else -one,
    )
    return chance.choice(made)()


def leaf(chance: Random, within: str | None) -> ads.Expr:
    if within is not None and chance.random() < 0.5:
        return element(chance.choice([n for n in NAMES if not n.startswith("$")]))
    constants: tuple[Any, ...] = (0, -1, -(2**63), 1.5, -1e300, 5e-324, "", "it's\n`", True, False, None)
    constants += (Decimal("1.20"), Decimal("-3"), timedelta(hours=25, milliseconds=1), timedelta(0), -timedelta(days=3))
    constants += (datetime(2030, 1, 2, 3, 4, 5, 6000, tzinfo=UTC),)
    if chance.random() < 0.5:
        return lit(chance.choice(constants))
    return chance.choice((col(chance.choice(NAMES)), ads.timestamp(), lit(None, type=int)))


def look(chance: Random, depth: int) -> ads.Expr:
    seen = matched(chance.choice(STAGES))
    if chance.random() < 0.2:
        return seen.count()
    of = chance.choice(("x", "no word", random_expr(chance, depth - 1, seen.stage)))
    return getattr(seen, chance.choice(("count", "first", "last", "sum", "mean", "min", "max", "any", "all")))(of)


def plan(e: ads.Expr) -> dict[str, Any]:
    return to_plan(e, (), lambda _: 0)


@pytest.mark.parametrize("block", range(10))
def test_expressions_survive_text_and_json(block: int) -> None:
    chance = Random(block)
    stages = Pattern.begin("s").next("in").next("two words").next("z")
    for _ in range(100):
        e = random_expr(chance, chance.randint(0, 4))
        assert plan(expr_of(json.loads(json.dumps(plan(e))))) == plan(e)
        said = stages.where(e)
        again = Pattern.parse(str(said))
        assert plan(again._last.condition) == plan(e), expression_text(e)
        assert str(again) == str(said)


def drawn(seeds: range) -> list[Pattern]:
    made = []
    for seed in seeds:
        case = generate.case(seed)
        try:
            skip = adstream_side.skip_of(case["skip"])
            made.append(adstream_side.pattern(case["calls"], adstream_side.expression, skip))
        except TopologyError:
            continue
    return made


def test_patterns_survive_text_and_json() -> None:
    patterns = drawn(range(3000))
    assert len(patterns) > 2000
    for pattern in patterns:
        assert Pattern.from_json(pattern.to_json()).to_json() == pattern.to_json()
        again = Pattern.parse(str(pattern))
        assert again.to_json() == pattern.to_json(), str(pattern)
        assert str(again) == str(pattern)
        shouted = str(pattern).replace("within", "WITHIN").replace(" or ", " OR ").replace(" in ", " IN ")
        assert Pattern.parse(shouted).to_json() == pattern.to_json()


def test_any_damage_to_the_text_is_a_pattern_or_an_error_with_its_place() -> None:
    chance = Random(5)
    refused = 0
    for pattern in drawn(range(400)):
        text = str(pattern)
        at = chance.randrange(len(text))
        for damaged in (
            text[:at],
            text[:at] + chance.choice("?+(){}[]'`!->=%,5a ~\"") + text[at + chance.randint(0, 1) :],
        ):
            refused += refusal(damaged)
    assert refused > 300


def refusal(text: str) -> bool:
    try:
        Pattern.parse(text)
    except TopologyError as found:
        error = found
    else:
        return False
    assert error.code == "malformed_pattern", text
    assert "line 1, column " in str(error), text
    assert error.hint, text
    return True
