"""Expressions whose names are Polars': one text, evaluated by both.

A case is a function of `p`: the module `adstream`, or Polars with its few differences of spelling smoothed (see
`record.py`). `ROWS` are the records, `TYPES` what the columns are in Polars.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import adstream as ads

START = "2024-01-15T10:00:00Z"


class Row(ads.Record):
    at: datetime
    n: int | None
    m: int | None
    x: float | None
    y: float | None
    d: Annotated[Decimal, ads.decimal(10, 2)] | None
    e: Annotated[Decimal, ads.decimal(10, 3)] | None
    s: str | None
    t: str | None
    p: bool | None
    q: bool | None
    when: datetime | None


COLUMNS = ("n", "m", "x", "y", "d", "e", "s", "t", "p", "q", "when")
_ROWS: list[tuple[Any, ...]] = [
    (7, 2, 2.5, -2.0, "1.25", "0.335", "Ad-1", "d", True, True, "2000-12-31T23:59:59.999Z"),
    (-7, 2, -2.5, 2.0, "-1.25", "2.000", " padded\t", " ", True, False, "2024-02-29T12:34:56.789Z"),
    (7, -2, 0.5, 0.25, "2.50", "-0.125", "straße", "ss", False, True, "2023-12-31T00:00:00Z"),
    (-7, -2, -0.5, 3.0, "0.05", "3.000", "ÀÉÎ", "é", False, False, "2000-03-01T07:59:59.5Z"),
    (0, 5, 0.0, 7.5, "0.00", "0.001", "", "", None, True, "2001-09-09T01:46:40Z"),
    (3, 0, 1.5, 0.0, "9.99", "0.000", "aaa", "aa", True, None, "2038-01-19T03:14:08Z"),
    (None, 3, None, 1.0, None, "1.000", None, "x", None, False, None),
    (4, None, 3.5, None, "4.00", None, "y.z", None, False, None, "2024-01-01T00:00:00Z"),
    (None, None, None, None, None, None, None, None, None, None, None),
    (-1, 3, -1.5, 0.1, "-0.01", "0.007", "日本語", "本", True, True, "2024-12-30T23:00:00Z"),
]
ROWS: list[dict[str, Any]] = [dict(zip(COLUMNS, row, strict=True)) for row in _ROWS]

Case = Callable[[Any], Any]


def _c(name: str) -> Case:
    return lambda p: p.col(name)


CASES: dict[str, Case] = {}


def _binary(name: str, f: Callable[[Any, Any], Any]) -> None:
    pairs = [("n", "m"), ("x", "y"), ("n", "y"), ("d", "e"), ("d", "n")]
    for a, b in pairs:
        CASES[f"{a} {name} {b}"] = lambda p, a=a, b=b: f(p.col(a), p.col(b))
    CASES[f"n {name} 2"] = lambda p: f(p.col("n"), 2)


_binary("+", lambda a, b: a + b)
_binary("-", lambda a, b: a - b)
_binary("*", lambda a, b: a * b)
_binary("/", lambda a, b: a / b)
_binary("//", lambda a, b: a // b)
_binary("%", lambda a, b: a % b)
_binary("<", lambda a, b: a < b)
_binary("<=", lambda a, b: a <= b)
_binary("==", lambda a, b: a == b)
_binary("!=", lambda a, b: a != b)

CASES |= {
    "decimals /": lambda p: p.col("d") / (p.col("e") + 10),
    "decimals //": lambda p: p.col("d") // (p.col("e") + 10),
    "decimals %": lambda p: p.col("d") % (p.col("e") + 10),
    "-n": lambda p: -p.col("n"),
    "-d": lambda p: -p.col("d"),
    "abs n": lambda p: p.col("n").abs(),
    "abs x": lambda p: p.col("x").abs(),
    "abs d": lambda p: p.col("d").abs(),
    "round x": lambda p: p.col("x").round(),
    "round x 1": lambda p: (p.col("x") / 4).round(1),
    "round d 1": lambda p: p.col("d").round(1),
    "floor x": lambda p: p.col("x").floor(),
    "ceil x": lambda p: p.col("x").ceil(),
    "floor d": lambda p: p.col("d").floor(),
    "ceil d": lambda p: p.col("d").ceil(),
    # logic
    "p & q": lambda p: p.col("p") & p.col("q"),
    "p | q": lambda p: p.col("p") | p.col("q"),
    "~p": lambda p: ~p.col("p"),
    "is_null": lambda p: p.col("n").is_null(),
    "is_not_null": lambda p: p.col("n").is_not_null(),
    "is_in": lambda p: p.col("n").is_in([7, 0]),
    "is_in text": lambda p: p.col("s").is_in(["aaa", "straße"]),
    "is_in with null": lambda p: p.col("n").is_in([7, None]),
    "not is_in with null": lambda p: ~p.col("n").is_in([7, None]),
    "between": lambda p: p.between(p.col("n"), -1, 4, "both"),
    "between left": lambda p: p.between(p.col("n"), 0, 4, "left"),
    # choice
    "fill_null": lambda p: p.col("n").fill_null(p.col("m")),
    "fill_null literal": lambda p: p.col("s").fill_null("none"),
    "coalesce": lambda p: p.coalesce(p.col("n"), p.col("m"), p.lit(9)),
    "when": lambda p: p.when(p.col("n") > 0).then(p.col("m")).otherwise(p.col("n")),
    "when null": lambda p: p.when(p.col("p")).then(p.lit(1)).when(p.col("q")).then(p.lit(2)).otherwise(p.lit(3)),
    "min_horizontal": lambda p: p.min_horizontal("n", "m"),
    "max_horizontal": lambda p: p.max_horizontal("n", "m"),
    "max_horizontal mixed": lambda p: p.max_horizontal("n", "y"),
    "min_horizontal floats": lambda p: p.min_horizontal("x", "y"),
    "max_horizontal decimals": lambda p: p.max_horizontal("d", "e"),
    "min_horizontal texts": lambda p: p.min_horizontal("s", "t"),
    "max_horizontal bools": lambda p: p.max_horizontal("p", "q"),
    "max_horizontal literal": lambda p: p.max_horizontal(p.col("n"), p.lit(1)),
    # casts
    "n as float": lambda p: p.col("n").cast(p.Float64),
    "n as text": lambda p: p.col("n").cast(p.String),
    "x as int": lambda p: p.col("x").cast(p.Int64),
    "d as float": lambda p: p.col("d").cast(p.Float64),
    "d as int": lambda p: p.col("d").cast(p.Int64),
    "d as decimal 1": lambda p: p.col("d").cast(p.Decimal(10, 1)),
    "n as decimal": lambda p: p.col("n").cast(p.Decimal(12, 3)),
    "p as int": lambda p: p.col("p").cast(p.Int64),
    "n as bool": lambda p: p.col("n").cast(p.Boolean),
    "p as text": lambda p: p.col("p").cast(p.String),
    "d as text": lambda p: p.col("d").cast(p.String),
    "text as int": lambda p: p.lit("-12").cast(p.Int64),
    "text as float": lambda p: p.lit("2.50").cast(p.Float64),
    # text
    "lower": lambda p: p.col("s").str.to_lowercase(),
    "upper": lambda p: p.col("s").str.to_uppercase(),
    "len_chars": lambda p: p.col("s").str.len_chars(),
    "strip_chars": lambda p: p.col("s").str.strip_chars(),
    "starts_with": lambda p: p.col("s").str.starts_with("a"),
    "starts_with column": lambda p: p.col("s").str.starts_with(p.col("t")),
    "ends_with": lambda p: p.col("s").str.ends_with("z"),
    "ends_with column": lambda p: p.col("s").str.ends_with(p.col("t")),
    "contains": lambda p: p.col("s").str.contains("."),
    "contains column": lambda p: p.col("s").str.contains(p.col("t")),
    "slice": lambda p: p.col("s").str.slice(1, 2),
    "slice to the end": lambda p: p.col("s").str.slice(2),
    "slice from the end": lambda p: p.col("s").str.slice(-2, 1),
    "slice before the beginning": lambda p: p.col("s").str.slice(-5, 3),
    "replace_all": lambda p: p.col("s").str.replace_all("a", "<>"),
    "replace_all nothing": lambda p: p.col("s").str.replace_all("", "-"),
    "concat_str": lambda p: p.concat_str("s", "t", separator="/"),
    "s < t": lambda p: p.col("s") < p.col("t"),
    # time
    "truncate 5m": lambda p: p.col("when").dt.truncate("5m"),
    "truncate 1d": lambda p: p.col("when").dt.truncate("1d"),
    "truncate 7h": lambda p: p.col("when").dt.truncate("7h"),
    **{
        part: lambda p, part=part: getattr(p.col("when").dt, part)()
        for part in ("year", "month", "day", "hour", "minute", "second", "millisecond", "weekday")
    },
    "epoch_ms": lambda p: p.col("when").dt.epoch_ms(),
    "when - when": lambda p: p.col("when") - p.col("when").dt.truncate("1d"),
    "when + duration": lambda p: p.col("when") + p.duration(hours=p.col("n")),
}
