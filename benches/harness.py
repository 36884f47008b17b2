"""What scenarios share: cores, child processes, paired rounds, figures.

The machine is not ours alone, so no figure stands by itself: what is compared runs in turns, in one run, pinned alike
(what is measured to one core, servers to the others), and of each the best round counts. CPU seconds are given beside
wall time because they hardly change when somebody else takes the core.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CORES = sorted(os.sched_getaffinity(0))
MEASURED, SERVERS = 0, 1
"""Numbers among the cores that we may use."""


class Wrong(Exception):
    """A result is not what it must be: its figure does not count."""


@dataclass(frozen=True)
class Figure:
    """`target`: what it should reach; `better` says in which direction."""

    name: str
    value: float
    unit: str
    target: float | None = None
    better: str = "more"
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        if self.value >= self.target if self.better == "more" else self.value <= self.target:
            return "met"
        by = self.target / self.value if self.better == "more" else self.value / self.target
        return f"missed by a factor of {by:.1f}"


@dataclass
class Bench:
    """One run. `profile`: a folder for perf's recordings, where a scenario knows how."""

    quick: bool = False
    rounds: int = 3
    profile: Path | None = None
    figures: list[tuple[str, Figure]] = field(default_factory=list)
    scenario: str = ""

    def note(self, name: str, value: float, unit: str, **more: Any) -> None:
        figure = Figure(name, value, unit, **more)
        self.figures.append((self.scenario, figure))
        target = "" if figure.target is None else f"target {figure.target:g} {unit}: {figure.verdict}"
        print(f"  {name:52} {shown(value):>10} {unit:10} {target} {figure.note}".rstrip(), flush=True)

    def say(self, text: str) -> None:
        print(f"  {text}", flush=True)


def shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def core(which: int) -> set[int]:
    return {CORES[min(which, len(CORES) - 1)]}


def pin(pid: int, which: int) -> None:
    """A process with all its threads."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), core(which))


def spare() -> None:
    """This process itself gets out of the way: to the servers' core."""
    pin(os.getpid(), SERVERS)


@contextlib.contextmanager
def child(module: str, given: dict[str, Any], which: int = MEASURED, **env: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m module '<json>'`, pinned; it prints one JSON object, for `answer`."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, json.dumps(given)],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            **env,
        },
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, core(which)),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def answer(process: subprocess.Popen[str], timeout_s: float = 600) -> dict[str, Any]:
    text, _ = process.communicate(timeout=timeout_s)
    if process.returncode != 0:
        raise Wrong(f"the child ended with status {process.returncode}")
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found


def run_child(module: str, given: dict[str, Any], which: int = MEASURED, **env: str) -> dict[str, Any]:
    with child(module, given, which, **env) as process:
        return answer(process)


def rounds(count: int, *runs: Callable[[], Any]) -> list[list[Any]]:
    """Each in turn, `count` times; the answers of each."""
    found: list[list[Any]] = [[] for _ in runs]
    for _ in range(count):
        for answers, run in zip(found, runs, strict=True):
            answers.append(run())
    return found


def median_ms(command: Sequence[str], times: int = 10) -> float:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def rss() -> int:
    """Bytes of this process in memory, as the kernel counts them."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
