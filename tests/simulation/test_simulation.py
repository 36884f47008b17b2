"""Schedules of whole clusters: fresh ones each time, those that found something once, and workers broken on purpose.

A failure names its seed: `make sim SEED=…` runs it again, the same to the last byte. `SIM_SEED` and `SIM_COUNT` choose
what is run here.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from adstream.testing.simulation import Verdict, make, simulate
from adstream.testing.simulation.__main__ import main
from adstream.testing.simulation.scenario import JOBS, MORE_JOBS, STEPS
from tests.simulation.sabotage import SABOTAGES

SEED = int(os.environ.get("SIM_SEED") or time.time_ns() // 1_000_000 % 1_000_000_000)
COUNT = int(os.environ.get("SIM_COUNT") or 150)
CHUNK = 15
CANARY_SEEDS_MAX = 60
CANARY_FIRST = {"positions_before_they_are_stable": 12, "sinks_that_trust_themselves": 147, "without_fencing": 4}
"""Where to begin looking; only to save time."""
HAPPEN = (
    "aborts",
    "broker away",
    "calls failed",
    "commit aborted",
    "commit fatal",
    "commits of former members refused",
    "commits retried",
    "crashes",
    "cut off",
    "disks damaged",
    "disks lost",
    "disks old",
    "drained",
    "frozen",
    "late markers",
    "rebalances",
    "records followed by standbys",
    "records restored from the snapshot",
    "records restored from the standby",
    "records deleted",
    "revocations",
    "sessions expired",
    "slow writes",
    "target errors after",
    "target errors before",
    "tasks lost",
    "transactions fenced",
    "unknown outcomes",
    "unstable offsets",
    "writes refused",
)
"""Faults that no run of many schedules is without."""
OPEN: dict[str, str] = {}
"""Bugs that are known and not repaired yet: a fresh seed that meets one is reported, and does not fail the run."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What workers log about their troubles is not news here."""
    logger = logging.getLogger("adstream")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


@pytest.fixture(scope="module")
def totals() -> Counter[str]:
    return Counter()


def new(verdict: Verdict) -> list[str]:
    """Its errors without those that are known."""
    return [error for error in verdict.errors if not any(re.search(known, error) for known in OPEN)]


def run(seeds: range, totals: Counter[str]) -> None:
    for seed in seeds:
        verdict = simulate(seed)
        totals.update(verdict.counts)
        totals["schedules"] += 1
        totals[verdict.scenario.job.name] += 1
        if verdict.errors and not new(verdict):
            print(f"seed {seed} met a known bug: {verdict.errors}")
        assert not new(verdict), "\n".join([f"make sim SEED={seed}", *verdict.errors, verdict.scenario.describe()])


@pytest.mark.parametrize("first", range(SEED, SEED + COUNT, CHUNK), ids=lambda first: f"from_seed_{first}")
def test_fresh_schedules(first: int, totals: Counter[str]) -> None:
    run(range(first, min(first + CHUNK, SEED + COUNT)), totals)


@pytest.mark.parametrize("job", MORE_JOBS)
@pytest.mark.parametrize("first", range(SEED, SEED + COUNT // 3, CHUNK), ids=lambda first: f"from_seed_{first}")
def test_fresh_schedules_of_other_jobs(first: int, job: str, totals: Counter[str]) -> None:
    for seed in range(first, min(first + CHUNK, SEED + COUNT // 3)):
        verdict = simulate(seed, job=job)
        totals.update({name: n for name, n in verdict.counts.items() if name.startswith("stores ")})
        assert not new(verdict), "\n".join(
            [f"make sim SEED={seed} JOB={job}", *verdict.errors, verdict.scenario.describe()]
        )


def test_the_faults_really_happened(totals: Counter[str]) -> None:
    if totals["schedules"] < 60:  # this test alone, or a small count
        run(range(SEED, SEED + 60), totals)
    assert not [name for name in HAPPEN if not totals[name]], totals
    assert not [name for name in JOBS if not totals[name]], totals
    assert sum(totals[f"crashes at {step}"] > 0 for step in STEPS) >= len(STEPS) - 1, totals
    assert totals["commit committed"] > 10 * totals["schedules"]


def test_stores_on_disk_are_found_again_and_given_up(totals: Counter[str]) -> None:
    for seed in range(SEED, SEED + 60):
        if totals["stores opened with a place"] and totals["stores set aside"]:
            return
        totals.update(simulate(seed, job="sim.records").counts)
    raise AssertionError(f"no disk mattered: {totals}")


def found_seeds() -> list[tuple[int, str | None, str, str]]:
    lines = (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    fields = [line.split(maxsplit=2) for line in lines if line and not line.startswith("#")]
    split = [(*seed.partition("/"), state, why) for seed, state, why in fields]
    return [(int(seed), job or None, state, why) for seed, _, job, state, why in split]


@pytest.mark.parametrize(("seed", "job", "state", "why"), found_seeds(), ids=lambda value: str(value)[:12])
def test_seeds_that_found_something(seed: int, job: str | None, state: str, why: str) -> None:
    verdict = simulate(seed, job=job)
    if state == "open":
        assert verdict.errors, f"seed {seed} passes now: mark it `passes` in seeds.txt ({why})"
        assert not new(verdict), verdict.errors
        pytest.xfail(why)
    assert state == "passes"
    assert not new(verdict), verdict.errors


def test_a_seed_runs_the_same_way_twice() -> None:
    for seed in (1, 2, 5):
        first, second = simulate(seed), simulate(seed)
        assert first.fingerprint == second.fingerprint
        assert (first.counts, first.errors, first.virtual_ms) == (second.counts, second.errors, second.virtual_ms)
    assert simulate(1).fingerprint != simulate(2).fingerprint


@pytest.mark.parametrize("name", SABOTAGES)
def test_the_auditor_finds_a_broken_worker(name: str) -> None:
    first = CANARY_FIRST.get(name, 1)
    for seed in range(first, first + CANARY_SEEDS_MAX):
        if errors := new(simulate(seed, broken=SABOTAGES[name])):
            print(f"found with seed {seed}: {errors[0][:200]}")
            return
    raise AssertionError(f"{CANARY_SEEDS_MAX} seeds without an error: the auditor is blind for {name}")


def test_a_plan_can_be_printed() -> None:
    text = make(3).describe()
    assert text.startswith("seed 3: ")
    assert "no more trouble" in text


def test_the_command_names_the_seed_that_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["simulation", "--seed", "1", "--count", "2"])
    assert main() == 0
    assert "2 schedules" in capsys.readouterr().out
    sabotaged = simulate(1, broken=SABOTAGES["state_without_restore"])
    monkeypatch.setattr("adstream.testing.simulation.__main__.simulate", lambda seed, job=None: sabotaged)
    monkeypatch.setattr("sys.argv", ["simulation", "--seed", "7"])
    assert main() == 1
    assert "FAILED with --seed 7" in capsys.readouterr().out
