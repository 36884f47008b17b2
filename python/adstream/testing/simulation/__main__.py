"""Runs schedules; stops at the first that fails, and prints its seed and plan."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter

from adstream.testing.simulation import simulate
from adstream.testing.simulation.scenario import JOBS, MORE_JOBS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m adstream.testing.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many, one after the other")
    parser.add_argument("--job", choices=(*JOBS, *MORE_JOBS), help="instead of the one that the seed chooses")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument("--verbose", action="store_true", help="print plans, and what the workers log")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO if given.verbose else logging.CRITICAL, format="%(name)s: %(message)s")
    began, failed = time.perf_counter(), 0
    counts: Counter[str] = Counter()
    for seed in range(given.seed, given.seed + given.count):
        verdict = simulate(seed, job=given.job)
        counts.update(verdict.counts)
        if given.verbose:
            print(f"{verdict.scenario.describe()}\n  fingerprint {verdict.fingerprint}")
        if verdict.errors:
            failed += 1
            print(f"FAILED with --seed {seed}", *verdict.errors, verdict.scenario.describe(), sep="\n  ")
            if not given.keep_going:
                break
    took = time.perf_counter() - began
    print(f"{given.count} schedules in {took:.1f} s, {failed} failed")
    print(", ".join(f"{name}: {n}" for name, n in sorted(counts.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
