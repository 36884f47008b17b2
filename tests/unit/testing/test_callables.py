"""A Python callable is asked for the rows that a program reading from left to right would ask it for, and no others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

import adstream as ads
from adstream import col, lit, when
from adstream.testing import TopologyTestDriver


class Event(ads.Record):
    at: datetime
    n: int | None


N = [1, -1, 0, None, 2]


class Asked:
    """Answers, and remembers for which rows."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.rows: list[Any] = []
        self.answer = answer

    def __call__(self, row: Any) -> Any:
        self.rows.append(row["n"])
        return self.answer(row["n"])


def answers(make: Callable[[ads.Stream], ads.Stream]) -> tuple[list[Any], list[str]]:
    """What comes out under `v`, and the reasons of dead letters."""

    @ads.topology(name="callables")
    def topology(app: ads.App) -> None:
        make(app.stream("in", Event, timestamp="at")).to("out")

    with TopologyTestDriver(topology, partitions=1) as driver:
        for n in N:
            driver.input("in").pipe({"n": n}, at="2024-01-15T10:00:00Z")
        out = [r.value["v"] if r.value and "v" in r.value else r.value for r in driver.output("out").read()]
        return out, [letter.reason for letter in driver.dead_letters("in")]


def column(make: Callable[[ads.Expr], ads.Expr], asked: Asked, dtype: Any = bool) -> tuple[list[Any], list[str]]:
    return answers(lambda stream: stream.select(v=make(ads.udf(asked, type=dtype))))


def positive(n: int | None) -> bool:
    assert n is not None
    return n > 0


@pytest.mark.parametrize(
    ("make", "rows", "out"),
    [
        (lambda f: col("n").is_not_null() & f, [1, -1, 0, 2], [True, False, False, False, True]),
        (lambda f: col("n").is_null() | f, [1, -1, 0, 2], [True, False, False, True, True]),
        (lambda f: (col("n") > 1) | (col("n").is_not_null() & f), [1, -1, 0], [True, False, False, None, True]),
        (lambda f: when(col("n").is_null()).then(lit(False)).otherwise(f), [1, -1, 0, 2], [True, False, False, False, True]),
        (lambda f: when(col("n") > 0).then(f).otherwise(lit(False)), [1, 2], [True, False, False, False, True]),
        (
            lambda f: (
                when(col("n") < 0)
                .then(lit(None, bool))
                .when(col("n").is_not_null() & f)
                .then(lit(True))
                .otherwise(col("n") == 0)
            ),
            [1, 0, 2],
            [True, None, True, None, True],
        ),
    ],
)  # fmt: skip
def test_conditions(make: Callable[[ads.Expr], ads.Expr], rows: list[Any], out: list[Any]) -> None:
    asked = Asked(positive)
    assert column(make, asked) == (out, [])
    assert asked.rows == rows


def test_coalesce_and_fill_null() -> None:
    asked = Asked(lambda n: 7)
    assert column(lambda f: ads.coalesce(col("n"), f), asked, int) == ([1, -1, 0, 7, 2], [])
    assert asked.rows == [None]
    asked = Asked(lambda n: 7)
    assert column(lambda f: col("n").fill_null(f + 1), asked, int) == ([1, -1, 0, 8, 2], [])
    assert asked.rows == [None]


def test_an_error_before_it_is_the_answer() -> None:
    asked = Asked(positive)
    out, dead = column(lambda f: col("n").is_not_null() & (col("n") * 2**62 > 0) & f, asked)
    assert dead == ["overflow"]  # 2 * 2**62
    assert out == [True, False, False, False]
    assert asked.rows == [1]


def test_null_decides_nothing() -> None:
    asked = Asked(lambda n: n == 2)
    assert column(lambda f: (col("n") > 0) & f, asked) == ([False, False, False, False, True], [])
    assert asked.rows == [1, None, 2]


def test_what_it_raises_is_its_rows_affair() -> None:
    asked = Asked(lambda n: 1 // n == 1)
    out, dead = column(lambda f: when(col("n") == 0).then(lit(True)).otherwise(f), asked)
    assert out == [True, False, True, False]
    assert dead == ["callable_raised"]
    assert asked.rows == [1, -1, None, 2]


def test_rules_and_branches_are_asked_in_turn() -> None:
    asked = Asked(positive)
    out, dead = answers(lambda s: s.require(there=col("n").is_not_null(), positive=ads.udf(asked, type=bool)))
    assert len(out) == 2
    assert dead == ["positive", "positive", "there"]
    assert asked.rows == [1, -1, 0, 2]

    asked = Asked(positive)

    def split(stream: ads.Stream) -> ads.Stream:
        nothing, good, rest = stream.branch(col("n").is_null(), ads.udf(asked, type=bool))
        rest.to("rest")
        nothing.to("nothing")
        return good

    assert len(answers(split)[0]) == 2
    assert asked.rows == [1, -1, 0, 2]
