"""Expressions carry Polars' names: what they mean is compared with what Polars answered (`goldens.json`).

Every difference stands in `DIFFERENT`, with its reason, and in docs/semantics.md; one that is gone fails, too.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver
from tests.differential.polars.cases import CASES, ROWS, START, Row

GOLDENS = json.loads(Path(__file__).with_name("goldens.json").read_text())["cases"]

BY_ZERO = "by zero is null, as in SQL; Polars says infinite or nan, and fails for decimals"
EXACT = "a product keeps all its digits; Polars cuts it to the larger scale"
QUOTIENT = "a quotient has at least six digits; Polars cuts it to the larger scale"
SCALE = "the result has the scale it was rounded to; Polars keeps the zeros"
IN_NULL = "an unknown value in the list is refused; Polars takes it for one that equals nothing"

DIFFERENT: dict[str, str] = {
    **dict.fromkeys(["n / m", "x / y", "n / y", "d / e", "d / n"], BY_ZERO),
    **dict.fromkeys(["x // y", "n // y", "d // e", "d // n"], BY_ZERO),
    **dict.fromkeys(["x % y", "n % y", "d % e", "d % n"], BY_ZERO),
    "d * e": EXACT,
    "decimals /": QUOTIENT,
    "decimals //": SCALE,
    **dict.fromkeys(["round d 1", "floor d", "ceil d"], SCALE),
    **dict.fromkeys(["is_in with null", "not is_in with null"], IN_NULL),
}


def smoothed() -> SimpleNamespace:
    """The module, with the spellings of Polars that are not ours."""
    ours: dict[str, Any] = {name: getattr(ads, name) for name in ads.__all__}
    ours |= {"Float64": float, "String": str, "Int64": int, "Boolean": bool, "Decimal": ads.decimal}
    ours["between"] = lambda e, lo, hi, closed: e.between(lo, hi, closed)
    return SimpleNamespace(**ours)


def answers() -> dict[str, Any]:
    """What adstream says to every case, as JSON has it; what it refuses, as the code."""
    p, found, columns = smoothed(), {}, {}

    @ads.topology(name="polars")
    def topology(app: ads.App) -> None:
        stream = app.stream("in", Row, timestamp="at")
        for i, (name, case) in enumerate(CASES.items()):
            try:
                stream.select(v=case(p)).to(f"out-{i}")
                columns[name] = f"out-{i}"
            except ads.TopologyError as error:
                found[name] = {"error": error.code}

    with TopologyTestDriver(topology, partitions=1) as driver:
        for row in ROWS:
            driver.input("in").pipe(row, at=START)
        for name, topic in columns.items():
            found[name] = [record.value["v"] for record in driver.output(topic).read() if record.value]
    return found


def golden(name: str) -> Any:
    """As JSON output has it: decimals and times as text, durations in milliseconds."""
    told = GOLDENS[name]
    if isinstance(told, dict):
        return told
    durations = name == "when - when"

    def plain(value: Any) -> Any:
        match value:
            case {"decimal": text}:
                return text
            case {"ms": ms}:
                return ms if durations else rfc3339(ms)
            case {"float": text}:
                return text
        return value

    return [plain(value) for value in told]


def rfc3339(ms: int) -> str:
    when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_every_expression_means_what_it_means_in_polars() -> None:
    assert set(GOLDENS) == set(CASES), "record again: python -m tests.differential.polars.record"
    found = answers()
    different = {name for name in CASES if not same(found[name], golden(name))}
    assert {name: (found[name], golden(name)) for name in different - set(DIFFERENT)} == {}
    assert set(DIFFERENT) - different == set(), "these agree now: take them out of DIFFERENT"


def same(ours: Any, theirs: Any) -> bool:
    """Numbers and bools apart: 1 is not True."""
    return repr(ours) == repr(theirs)


@pytest.mark.skipif(find_spec("polars") is None, reason="Polars is not installed; its answers are recorded")
def test_the_answers_are_polars() -> None:
    from tests.differential.polars import record

    assert record.answers() == GOLDENS
