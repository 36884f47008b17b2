"""A million live (key, window): bytes for each, and how fast they come back, from the changelog and from a snapshot.

Memory is measured from outside: what the process grows by in the kernel's count while the tasks are filled. Each child
fills one thing only, so that nothing else is in the difference: the windows' groups (sub-topology 1, restored from a
changelog that was made before, in another process), or the remembered event ids (sub-topology 0). Keys are of the job's
form (campaign, product, placement; about 30 bytes), 200,000 of them in 5 windows, in 4 partitions.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adstream._core import RawBatch
from adstream.jobs.ads.traffic import Traffic
from adstream.runtime.assignment import TaskSpec
from adstream.runtime.snapshot import Snapshot, Snapshots
from benches.data import Made
from benches.harness import MEASURED, Bench, Wrong, rss, run_child, spare
from benches.scenarios.core import Clock, Job

KEYS, KEYS_QUICK = 1_000_000, 100_000
WINDOWS, PARTITIONS = 5, 4
Source = Callable[[int, Path], Iterator[tuple[int, RawBatch, int, float, float]]]
WHAT = {0: "event id", 1: "(key, window)"}


def measure(bench: Bench) -> None:
    spare()
    keys = KEYS_QUICK if bench.quick else KEYS
    with tempfile.TemporaryDirectory() as folder:
        made = run_child("benches.scenarios.state", {"make": keys, "folder": folder}, MEASURED)
        for sub, what in WHAT.items():
            runs = [
                run_child("benches.scenarios.state", {"restore": sub, "folder": folder}, MEASURED)
                for _ in range(bench.rounds)
            ]
            best = min(runs, key=lambda found: float(found["seconds"]))
            if best["keys"] != keys:
                raise Wrong(f"{keys:,} of {what} were made, {best['keys']:,} came back")
            note = f"as the core says: {best['said'] / keys:.0f}"
            target = {"target": 200, "better": "less"} if sub == 1 else {}
            bench.note(f"a live {what}, from outside", best["grown"] / keys, "bytes", note=note, **target)
            note = f"{best['size'] / keys:.0f} bytes an entry, {best['cpu'] / keys * 1e6:.2f} us CPU"
            target = {"target": 400} if sub == 1 else {}
            bench.note(f"restore from the changelog, {what}", keys / best["seconds"] / 1e3, "k/s", note=note, **target)
            bench.note(f"  by CPU, {what}", keys / best["cpu"] / 1e3, "k/s")
            given = {"restore": sub, "folder": folder, "snapshot": True}
            runs = [run_child("benches.scenarios.state", given, MEASURED) for _ in range(bench.rounds)]
            best = min(runs, key=lambda found: float(found["seconds"]))
            if best["keys"] != keys:
                raise Wrong(f"{keys:,} of {what} were made, {best['keys']:,} came back from the snapshot")
            note = f"{best['size'] / 1e6:.0f} MB of files, in the page cache"
            target = {"target": 1_000} if sub == 1 else {}
            bench.note(f"restore from a snapshot, {what}", keys / best["seconds"] / 1e3, "k/s", note=note, **target)
            bench.note(f"  by CPU, {what}", keys / best["cpu"] / 1e3, "k/s")
    note = f"{made['size'] / 1e6:.0f} MB in blocks of about 8 MB, on the committer's thread"
    bench.note("appending to a snapshot, by CPU", made["size"] / made["cpu"] / 1e6, "MB/s", note=note)
    bench.note("  of an entry", made["cpu"] / (2 * keys) * 1e9, "ns")


def events(keys: int, partition: int) -> Iterator[RawBatch]:
    """One impression for each (key, window)."""
    rows = []
    offset = 0
    for window in range(WINDOWS):
        for key in range(partition, keys // WINDOWS, PARTITIONS):
            value = (
                f'{{"event_id":"{window:04x}{key:020x}","event_type":"IMPRESSION"'
                f',"timestamp":"2024-01-15T10:{window * 5:02d}:00.{key % 1000:03d}Z","device_id":"device_{key % 9973:05d}"'
                f',"campaign_id":"campaign_{key % 200:03d}","product_id":"product_{key:07d}","placement":"SEARCH"}}'
            )
            rows.append((offset, 1_705_312_800_000 + window, None, value.encode(), []))
            offset += 1
            if len(rows) == 5_000:
                yield RawBatch(rows)
                rows = []
    if rows:
        yield RawBatch(rows)


def make(keys: int, folder: Path) -> dict[str, Any]:
    """Runs the job on them and keeps the changelogs."""
    job, clock = Job(Made(Traffic(partitions=PARTITIONS), [], "", 0, {}, 0)), Clock()
    job.keep = True
    for batches in zip(*(events(keys, p) for p in range(PARTITIONS)), strict=True):
        for partition, batch in enumerate(batches):
            job.feed(clock, partition, batch)
        job.commit(clock)
    for _ in range(3):
        job.commit(clock)
    for (topic, partition), batches in job.changelogs.items():
        sub = topic.removesuffix("-changelog").rpartition("-")[2]
        for n, batch in enumerate(batches):
            (folder / f"{sub}.{partition}.{n:05d}").write_bytes(batch.to_bytes())
    cpu, size = 0.0, 0
    for (topic, partition), batches in job.changelogs.items():
        snapshot = open_snapshot(folder, int(topic.removesuffix("-changelog").rpartition("-")[2]), partition)
        snapshot.start_over(0)
        offset = 0
        for batch in batches:
            began = time.thread_time()
            snapshot.hold(batch)
            offset += len(batch)
            if snapshot.full:
                snapshot.append(offset)
            cpu += time.thread_time() - began
            size += batch.byte_size
        began = time.thread_time()
        snapshot.append(offset)
        cpu += time.thread_time() - began
        snapshot.close()
    return {"cpu": cpu, "size": size}


def open_snapshot(folder: Path, sub: int, partition: int) -> Snapshot:
    spec = TaskSpec(0, "stream", sub, "", partition, (), (f"{sub}-changelog", partition))
    snapshot = Snapshots(str(folder / "state"), "bench").open(spec)
    assert snapshot is not None
    return snapshot


def changelog(sub: int, folder: Path) -> Iterator[tuple[int, RawBatch, int, float, float]]:
    """Partition, batch, bytes, and the seconds that finding it took: none are counted, a broker hands them over."""
    offsets = [0] * PARTITIONS
    for path in sorted(folder.glob(f"{sub}.*")):
        partition, data = int(path.name.split(".")[1]), path.read_bytes()
        batch = RawBatch.from_bytes(data).with_offsets(offsets[partition])
        offsets[partition] += len(batch)
        yield partition, batch, len(data), 0.0, 0.0


def snapshots(sub: int, folder: Path) -> Iterator[tuple[int, RawBatch, int, float, float]]:
    """The same; opening, reading and checking is counted."""
    for partition in range(PARTITIONS):
        began, used = time.perf_counter(), time.thread_time()
        snapshot = open_snapshot(folder, sub, partition)
        for block in snapshot.blocks:
            size = block.size
            for batch in snapshot.load(block):
                yield partition, batch, size, time.perf_counter() - began, time.thread_time() - used
                began, used, size = time.perf_counter(), time.thread_time(), 0
        snapshot.close()


def restore(sub: int, folder: Path, source: Source) -> dict[str, Any]:
    job = Job(Made(Traffic(partitions=PARTITIONS), [], "", 0, {}, 0))
    counts = dict.fromkeys(
        (p["topic"] for s in job.description["subtopologies"] for p in (*s["sources"], *s["outputs"])), PARTITIONS
    )
    job.tasks.clear()
    tasks = [job.plan.task(sub, p, counts) for p in range(PARTITIONS)]
    gc.collect()
    before, size, seconds, cpu = rss(), 0, 0.0, 0.0
    for partition, batch, length, waited, computed in source(sub, folder):
        size, seconds, cpu = size + length, seconds + waited, cpu + computed
        began, used = time.perf_counter(), time.thread_time()
        tasks[partition].restore(batch)
        seconds, cpu = seconds + time.perf_counter() - began, cpu + time.thread_time() - used
        del batch
    gc.collect()
    grown = rss() - before
    nodes = [node for task in tasks for node in task.stats()["nodes"].values()]
    return {
        "keys": sum(node.get("state_keys", 0) for node in nodes),
        "said": sum(node.get("state_bytes", 0) for node in nodes),
        "grown": grown,
        "size": size,
        "seconds": seconds,
        "cpu": cpu,
    }


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    where = Path(given["folder"])
    source = snapshots if given.get("snapshot") else changelog
    print(json.dumps(make(given["make"], where) if "make" in given else restore(given["restore"], where, source)))
