"""`make bench`: all scenarios, or some.

    PYTHONPATH=. .venv/bin/python benches/run.py [--only NAME …] [--quick] [--rounds N] [--profile FOLDER]

Exits 1 when a result is wrong; a missed target is a figure, not an error.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from pathlib import Path
from types import FrameType

from benches.harness import Bench, Wrong

SCENARIOS = ("kafka", "core", "jsonl", "state", "startup", "sinks", "streams", "cep", "flat", "ads")


def stop(number: int, frame: FrameType | None) -> None:
    """Ends it in order, once: servers are stopped and their data removed on the way out."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    parser = argparse.ArgumentParser(description="Measures adstream next to a bare client in the same run.")
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="a scenario; may be given several times")
    parser.add_argument("--quick", action="store_true", help="a tenth of the data: does it run, not how fast")
    parser.add_argument("--rounds", type=int, default=3, help="paired rounds; the best counts")
    parser.add_argument("--profile", type=Path, help="a folder for recordings of `perf`")
    args = parser.parse_args()
    bench = Bench(quick=args.quick, rounds=args.rounds, profile=args.profile)
    wrong = 0
    for name in args.only or SCENARIOS:
        bench.scenario = name
        print(name, flush=True)
        try:
            importlib.import_module(f"benches.scenarios.{name}").measure(bench)
        except Wrong as problem:
            wrong += 1
            print(f"  WRONG: {problem}", flush=True)
    print()
    for scenario, figure in bench.figures:
        if figure.target is not None:
            print(f"{scenario:8} {figure.name:52} {figure.value:8.3g} {figure.unit:6} {figure.verdict}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
