"""Asks Polars, and writes down what it said: `python -m tests.differential.polars.record` where Polars is installed.

It is no dependency of this project; its answers (`goldens.json`, with its version) are.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.differential.polars.cases import CASES, ROWS

GOLDENS = Path(__file__).with_name("goldens.json")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def plain(value: Any) -> Any:
    """As JSON, with what a text would hide: decimals and times are tagged."""
    match value:
        case Decimal():
            return {"decimal": str(value)}
        case datetime():
            return {"ms": (value - EPOCH) // timedelta(milliseconds=1)}
        case timedelta():
            return {"ms": value // timedelta(milliseconds=1)}
        case float() if value != value or value in (float("inf"), float("-inf")):
            return {"float": str(value)}
    return value


def answers() -> dict[str, Any]:
    import polars as pl  # type: ignore[import-not-found, unused-ignore]

    time = pl.Datetime("ms", "UTC")
    schema = {"n": pl.Int64, "m": pl.Int64, "x": pl.Float64, "y": pl.Float64, "d": pl.Decimal(10, 2)}
    schema |= {"e": pl.Decimal(10, 3), "s": pl.String, "t": pl.String, "p": pl.Boolean, "q": pl.Boolean, "when": time}
    rows = []
    for row in ROWS:
        row = dict(row)
        row |= {k: None if row[k] is None else Decimal(row[k]) for k in ("d", "e")}
        row["when"] = None if row["when"] is None else datetime.fromisoformat(row["when"])
        rows.append(row)
    frame = pl.DataFrame(rows, schema=schema)

    # Regular expressions and other units are not ours: literal text, milliseconds.
    text = type(pl.col("s").str)
    contains, replace_all = text.contains, text.replace_all
    text.contains = lambda self, part: contains(self, part, literal=True)
    text.replace_all = lambda self, part, by: replace_all(self, part, by, literal=True)
    times = type(pl.col("when").dt)
    times.epoch_ms = lambda self: self.timestamp("ms")
    names = {name: getattr(pl, name) for name in dir(pl) if not name.startswith("_")}
    polars = SimpleNamespace(**names)
    polars.between = lambda e, lo, hi, closed: e.is_between(lo, hi, closed=closed)
    polars.duration = lambda **units: pl.duration(**units, time_unit="ms")
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        try:
            found[name] = [plain(v) for v in frame.select(v=case(polars))["v"].to_list()]
            if len(found[name]) == 1:
                found[name] *= len(ROWS)
        except Exception as error:
            found[name] = {"error": type(error).__name__}
    return found


def main() -> None:
    import polars as pl  # type: ignore[import-not-found, unused-ignore]

    told = {"polars": pl.__version__, "cases": answers()}
    GOLDENS.write_text(json.dumps(told, ensure_ascii=False, indent=None).replace('], "', '],\n"') + "\n")


if __name__ == "__main__":
    main()
