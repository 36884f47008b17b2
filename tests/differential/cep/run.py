"""`make differential-cep N=300 SEED=1`: random patterns and streams on the real Flink CEP and on adstream.

What differs is printed with its seed, which makes the case again (`generate.case`). Exits 1 then.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.differential.cep import adstream_side, generate, original

ON_PURPOSE = ("can match nothing at all", "nothing need have come before", "has nowhere to go")
"""Refused by us: Flink takes these patterns, and hangs or fails at the first event."""


@dataclass
class Result:
    counts: Counter[str] = field(default_factory=Counter)
    through_text: int = 0
    on_rows: int = 0
    in_processing_time: int = 0
    differences: list[str] = field(default_factory=list)


def compare(seeds: range) -> Result:
    """Every case: both refuse it, or the same comes out, by key and in the same order, of matches, time-outs, late
    events, and what is left: live runs, withheld matches, buffered events."""
    result = Result()
    cases = {seed: generate.case(seed) for seed in seeds}
    mine = {seed: adstream_side.play(case, **_form(seed)) for seed, case in cases.items()}
    result.through_text = sum(_form(seed).get("form") == "text" for seed in seeds)
    result.on_rows = sum(_form(seed).get("form") == "rows" for seed in seeds)
    result.in_processing_time = sum(case.get("time") == "processing" for case in cases.values())
    refused = {s for s in seeds if any(text in mine[s].get("rejected", "") for text in ON_PURPOSE)}
    result.counts["refused on purpose"] = len(refused)
    asked = [seed for seed in seeds if seed not in refused]  # Flink would not come back
    for seed, theirs in zip(asked, original.play([cases[s] for s in asked]), strict=True):
        kind, same = _judged(mine[seed], theirs)
        result.counts[kind] += 1
        if not same:
            result.differences.append(f"seed {seed}: {json.dumps(cases[seed])}\n  {theirs}\n  {mine[seed]}")
    return result


def _form(seed: int) -> dict[str, Any]:
    """Conditions as functions, as expressions, patterns of these read again from their text and their JSON, and on rows."""
    rows = {"form": "rows"}
    return ({"native": False}, {}, {"form": "text"}, rows, {"form": "text"}, {"form": "json"}, {"form": "text"}, rows)[
        seed % 8
    ]


def _judged(mine: dict[str, Any], theirs: dict[str, Any]) -> tuple[str, bool]:
    if "rejected" in mine or "rejected" in theirs:
        return "refused", "rejected" in mine and "rejected" in theirs
    kind = "with matches" if theirs.get("found") else "without a match"
    return kind, not mine["dead"] and all(mine[part] == theirs.get(part) for part in ("found", "gone", "late", "left"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=300)
    arguments = parser.parse_args()
    result = compare(range(arguments.seed * 1_000_000, arguments.seed * 1_000_000 + arguments.count))
    for text in result.differences:
        print(text)
    print(
        f"{result.counts.total()} cases ({dict(result.counts)}), {result.through_text} through text, {result.on_rows} on rows, "
        f"{result.in_processing_time} in processing time, "
        f"{len(result.differences)} differ"
    )
    return 1 if result.differences else 0


if __name__ == "__main__":
    sys.exit(main())
