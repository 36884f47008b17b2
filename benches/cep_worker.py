"""The patterns of `cep_patterns.json` on adstream, in a process of its own: `python -m benches.cep_worker '{…}'`.

One task of the core, events from memory, a commit (state encoded, changelog made, matches given out) as often as asked. Prints
one JSON object: CPU seconds of processing and of committing, the matches and their hash, how resident memory grew.
"""

from __future__ import annotations

import gc
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import adstream as ads
from adstream import col
from adstream._core import Plan, RawBatch
from benches.harness import rss
from tests.differential.cep import adstream_side

TEXT = ads.serdes.string
END_MS = 100_000_000
"""By how much the last event is later: all windows end."""
Row = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]


def topology(said: dict[str, Any] | None) -> ads.Topology:
    """None: a filter with the condition of the patterns' first stage."""

    def build(app: ads.App) -> None:
        stream = app.stream("in", key=TEXT)
        if said is None:
            stream.filter(col("t").is_in(["a"]) & col("t").is_in(["b"])).to("found", key=TEXT)
            return
        skip = adstream_side.skip_of(said["skip"])
        wanted = adstream_side.pattern(said["calls"], adstream_side.expression, skip)
        found = stream.group_by_key().match(wanted, max_delay="0ms", materialized="runs")
        found.matches.to("found", key=TEXT)
        if said.get("timed_out"):
            found.timed_out.to("gone", key=TEXT)

    return ads.topology(name="cep")(build)


def rows(path: str, start: int, low: int, high: int) -> list[Row]:
    data = Path(path).read_bytes()
    made: list[Row] = []
    last = len(data) // 6 - 1
    for i in range(low, min(high, last + 1)):
        one = data[6 * i : 6 * i + 6]
        value = b'{"id":%d,"t":"%c","v":%d}' % (i, one[4], one[5])
        made.append((i, start + i + (END_MS if i == last else 0), b"k%d" % int.from_bytes(one[:4], "big"), value, []))
    return made


def run(said: dict[str, Any] | None, path: str, start: int, steps: list[int], commit_rows: int) -> dict[str, Any]:
    """`steps`: after how many events CPU is noted: by step of processing and of committing."""
    built = topology(said).build()
    task = Plan(built.json, built.callables).task(0, 0, {"in": 1, "found": 1, "gone": 1})
    task.feed("in", 0, RawBatch([], 0))
    task.begin(start)
    cpu: list[list[float]] = []
    outputs: list[tuple[str, RawBatch]] = []
    gc.collect()
    before, low = rss(), 0
    for step in steps:
        spent = [0.0, 0.0]
        while low < step:
            high = min(low + commit_rows, step)
            task.feed("in", 0, RawBatch(rows(path, start, low, high)))
            began = time.process_time()
            while task.process(10_000):
                pass
            between = time.process_time()
            generation = task.close_generation()
            task.committed()
            spent[0] += between - began
            spent[1] += time.process_time() - between
            outputs += [(topic, batch) for topic, _, batch in generation.outputs if topic in ("found", "gone")]
            low = high
        cpu.append(spent)
    del generation
    gc.collect()
    lines = sorted(line(topic, row) for topic, batch in outputs for row in batch.records())
    hashed = hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()[:12]
    return {"cpu": cpu, "bytes": rss() - before, "hash": hashed, "matches": len(lines)}


def line(topic: str, row: Any) -> str:
    stages = json.loads(row[3])
    told = "".join(f" {name}" + "".join(f",{e['id']}" for e in events) for name, events in stages.items())
    return ("gone " if topic == "gone" else "") + row[2].decode() + told


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(run(given["pattern"], given["events"], given["start"], given["steps"], given["commit_rows"])))
