"""Two rounds of chaos, and the proof that its check is not blind. More: `make chaos ROUNDS=20`."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.run import STEPS, run_rounds

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SEED = int(os.environ.get("SEED", "1"))


@pytest.mark.timeout(900)
def test_exactly_once_under_fire(tmp_path: Path):
    reports = run_rounds(2, SEED, directory=tmp_path)
    assert all(report.faults["broker"] == report.faults["postgres"] == 1 for report in reports)
    for more in range(4):  # a busy machine commits, and so crashes, less often
        left = [step for step in STEPS if not any(report.faults[f"at {step}"] for report in reports)]
        if not left:
            break
        options: dict[str, Any] = {"seconds": 20.0, "outside": False, "steps": tuple(left), "crash_after": (2, 4)}
        reports += run_rounds(1, SEED + 2 + more, directory=tmp_path, **options)
    for report in reports:
        assert not report.problems, report
        assert not report.differences, report
    happened = sum((report.faults for report in reports), Counter())
    assert not {"kill", "stop", "pause", "lost", *(f"at {step}" for step in STEPS)} - happened.keys(), happened
    assert sum(report.aborted_records for report in reports) > 0, "no kill met an open transaction: nothing was proven"
    assert sum(report.replayed_records for report in reports) > 0, "nothing had to be done again: nothing was proven"


@pytest.mark.timeout(300)
def test_at_least_once_does_not_pass_the_same_check(tmp_path: Path):
    """Workers crash when outputs are written and offsets are not: with transactions that changes nothing."""
    options: dict[str, Any] = {"seconds": 15.0, "outside": False, "steps": ("offsets",), "crash_after": (3, 6)}
    options["directory"] = tmp_path
    (right,) = run_rounds(1, SEED, **options)
    assert right.faults["at offsets"] > 0
    assert not right.problems, right
    assert not right.differences, right
    (doubled,) = run_rounds(1, SEED, guarantee="at_least_once", **options)
    assert doubled.faults["at offsets"] > 0
    assert not doubled.problems, doubled
    assert doubled.differences, "at least once looks like exactly once: the check is blind"
