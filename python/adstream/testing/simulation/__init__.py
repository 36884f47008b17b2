"""Whole clusters from a seed: `python -m adstream.testing.simulation --seed 7 --count 100`.

    scenario.py   who makes trouble: job, traffic, settings, crashes, all drawn from the seed
    broker.py     a `Log` that transacts, fences, rebalances and is late, as a real broker
    cluster.py    real workers, tasks and sinks on it, on a virtual clock, in one thread
    disks.py      state directories that are lost, damaged, or old
    auditor.py    who judges: what came out against what the source's records say

First *safety*: everything may happen. Then *liveness*: nothing goes wrong any more, and all must come to rest in
bounded time with the right result. A seed runs the same way every time, as its fingerprint shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from adstream.testing.simulation.auditor import converged, judge, unfinished
from adstream.testing.simulation.cluster import Cluster, Process
from adstream.testing.simulation.scenario import Scenario, make


@dataclass(frozen=True)
class Verdict:
    scenario: Scenario
    errors: list[str]
    counts: Counter[str]
    """What really happened: commits, aborts, crashes, rebalances …"""
    fingerprint: str
    """Of everything that happened, in order."""
    virtual_ms: int


def simulate(seed: int, *, job: str | None = None, broken: Callable[[Process], None] = lambda process: None) -> Verdict:
    """Runs one schedule to its end.

    Args:
        job: instead of the one that the seed chooses.
        broken: is handed each process when it starts, to put a sabotage into it.
    """
    scenario = make(seed, job)
    cluster = Cluster(scenario, broken)
    began = cluster.now
    try:
        rested = cluster.run(converged)
        errors = list(cluster.failures)
        if not errors and not rested:
            errors.append(f"it never came to rest: {unfinished(cluster)[:5]}")
        if not errors:
            errors = judge(cluster)
    finally:
        cluster.close()
    counts = cluster.counts + cluster.broker.counts
    return Verdict(scenario, errors, counts, cluster.broker.fingerprint, cluster.now - began)


__all__ = ["Scenario", "Verdict", "make", "simulate"]
