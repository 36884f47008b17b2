"""Patterns on adstream and on Flink CEP, the same events from memory, one core each, in turns: `cep_patterns.json`.

Flink: its `CepOperator` in the harness of its own tests (`java/CepBench.java`), state on the heap, decoded objects, a watermark
each thousand events, no network and no checkpoint; the JVM is warm, its collector and compiler are on the same core and counted.
adstream: a task of the core. Its records come as JSON; what reading them costs is measured in a filter on the same records that
lets none pass, and taken off, as Flink's are read before. Commits are not taken off, though Flink makes no checkpoint.
Both must find the same matches and time-outs. Windows in the file are in events of a key.
"""

from __future__ import annotations

import json
import math
import os
import random
import struct
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benches.harness import MEASURED, ROOT, Bench, Wrong, core, rounds, run_child, spare
from tests.differential.cep import original
from tests.servers.server import find_program

PATTERNS: dict[str, Any] = json.loads((ROOT / "benches" / "cep_patterns.json").read_text())
SOURCES = (original.SOURCE, ROOT / "benches" / "java" / "CepBench.java")
START_MS = 1_705_312_800_000
SHAPES = {
    "1 key": (1, 200_000),
    "100 k keys": (100_000, 500_000),
    "1 M keys": (1_000_000, 1_000_000),
    "hot key": (1_000, 200_000),
}
"""Keys and events. Of the hot key is every second event."""
LETTERS = "aabbbbcc" + "x" * 12
FASTER, LEAST_FASTER, MEMORY, IDLE = 10.0, 3.0, 0.25, 1.1
RUNS, RUNS_OF_A_KEY = 100_000, 100
WARM = 100_000
"""Events that the JVM has seen, three times, before it is measured."""


def written(path: Path, keys: int, events: int, hot: bool = False, letters: str = LETTERS, seed: int = 7) -> str:
    chance = random.Random(seed)
    with path.open("wb") as file:
        for _ in range(events):
            key = 0 if hot and chance.random() < 0.5 else chance.randrange(keys)
            file.write(struct.pack(">iBB", key, ord(chance.choice(letters)), chance.randrange(100)))
    return str(path)


def scaled(said: dict[str, Any], ms: int) -> dict[str, Any]:
    """With windows of events that are `ms` apart."""
    calls = [
        [name, one * ms] if name == "within" else [name, one, *more] for name, one, *more in _padded(said["calls"])
    ]
    return {**said, "calls": calls}


def _padded(calls: list[Any]) -> list[Any]:
    return [call if len(call) > 1 else [*call, None] for call in calls]


def flink(said: dict[str, Any], events: str, warm: int) -> dict[str, Any]:
    where = f"{original.classes(*SOURCES)}{os.pathsep}{original.JARS}/*"
    options = ["-XX:+UseSerialGC", "-Xms3g", "-Xmx3g"]
    command = [
        find_program("java"),
        *options,
        "-cp",
        where,
        "CepBench",
        json.dumps(said),
        events,
        str(START_MS),
        str(warm),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, preexec_fn=lambda: os.sched_setaffinity(0, core(MEASURED))
    )
    if done.returncode != 0:
        raise Wrong(f"CepBench failed\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def mine(
    said: dict[str, Any] | None, events: str, *steps: int, commit_rows: int = 100_000, **env: str
) -> dict[str, Any]:
    given = {"pattern": said, "events": events, "start": START_MS, "steps": steps, "commit_rows": commit_rows}
    return run_child("benches.cep_worker", given, MEASURED, **env)


def measure(bench: Bench) -> None:
    spare()
    with TemporaryDirectory() as folder:
        _speed(bench, Path(folder))
        _memory(bench, Path(folder))
        _idle(bench, Path(folder))


def _speed(bench: Bench, folder: Path) -> None:
    ratios = []
    for shape, (keys, events) in SHAPES.items():
        if bench.quick and keys > 1:
            keys, events = keys // 10, events // 10
        path = written(folder / "events", keys, events, hot=shape == "hot key")
        for name, pattern in PATTERNS.items():
            said = scaled(pattern, 2 if shape == "hot key" else keys)
            ratios.append(_compare(bench, f"{shape}: {name}", said, path, events))
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    bench.note("geometric mean", mean, "x Flink", target=FASTER)


def _compare(bench: Bench, name: str, said: dict[str, Any], path: str, count: int) -> float:
    theirs, ours, bare = rounds(
        bench.rounds,
        lambda: flink(said, path, min(count, WARM)),
        lambda: mine(said, path, count),
        lambda: mine(None, path, count),
    )
    first = ours[0]["hash"], ours[0]["matches"]
    for one in (*theirs, *ours):
        if (one["hash"], one["matches"]) != first or not one["matches"]:
            raise Wrong(f"{name}: {one['matches']} matches, {one['hash']}; {first}")
    micros = 1e6 / count
    reading = min(one["cpu"][0][0] for one in bare) * micros
    process, commit = (min(one["cpu"][0][part] for one in ours) * micros for part in (0, 1))
    their = min(one["cpu"] for one in theirs) * micros
    us = max(process - reading, 0.01) + commit
    note = (
        f"{1e3 / us:,.0f} k/s against {1e3 / their:,.0f}: {us:.2f} us of CPU an event ({commit:.2f} to commit) against "
        f"{their:.2f}; with reading ({reading:.2f}) {their / (us + reading):.1f}x; "
        f"{theirs[0]['live']:.2f} runs at an event, {first[1]:,} matches, {first[0]}"
    )
    bench.note(name, their / us, "x Flink", target=LEAST_FASTER, note=note)
    return their / us


def _memory(bench: Bench, folder: Path) -> None:
    """Each event begins a run, and nothing ends one."""
    said = scaled(PATTERNS["sequence"], 10_000_000)
    said["calls"] = [["followed_by_any", *call[1:]] if call[0] == "next" else call for call in said["calls"]]
    count = RUNS // 10 if bench.quick else RUNS
    for shape, keys in (("a run a key", 100 * count), (f"{RUNS_OF_A_KEY} runs a key", count // RUNS_OF_A_KEY)):
        path = written(folder / "events", keys, count, letters="a")
        # Small commits: what is in memory of the input does not count much. What is free goes back to the kernel at once, as the
        # other side is asked after a collection.
        ours = mine(said, path, count, commit_rows=2_000, MIMALLOC_PURGE_DELAY="0")
        theirs = flink(said, path, 0)
        # The last event still waits for the watermark.
        us, their = ours["bytes"] / (count - 1), theirs["bytes"] / (count - 1)
        bench.note(
            f"memory, {shape}",
            us / their,
            "Flink's",
            target=MEMORY,
            better="less",
            note=f"{us:.0f} against {their:.0f} bytes",
        )


def _idle(bench: Bench, folder: Path) -> None:
    """No pattern starts: on new keys, and on keys whose runs have ended."""
    count = 20_000 if bench.quick else 400_000
    quiet = written(folder / "quiet", 1_000, count, letters="x")
    said = scaled(PATTERNS["sequence"], 1_000)
    ours, bare = rounds(bench.rounds, lambda: mine(said, quiet, count), lambda: mine(None, quiet, count))
    best = [min(one["cpu"][0][0] + one["cpu"][0][1] for one in runs) * 1e6 / count for runs in (ours, bare)]
    note = f"{best[0]:.2f} against {best[1]:.2f} us of CPU"
    bench.note("an event where nothing begins", best[0] / best[1], "filters", target=IDLE, better="less", note=note)
    dead = Path(written(folder / "dead", 100_000, count, letters="abc")).read_bytes()
    # Far more events than a window in between: the first of the quiet ones end what is left.
    both = folder / "both"
    both.write_bytes(dead + Path(quiet).read_bytes() * 2)
    said = scaled(PATTERNS["sequence"], 10)
    runs = [mine(said, str(both), count, 2 * count, 3 * count) for _ in range(bench.rounds)]
    after = min(sum(one["cpu"][2]) for one in runs) * 1e6 / count
    bench.note("the same, after 100,000 keys have had runs", after / best[0], "x", note=f"{after:.2f} us")
