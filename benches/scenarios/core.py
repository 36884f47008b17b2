"""The same records through the core's tasks in one process, without a broker: where the job's own CPU goes.

A guide for optimising, so there is no target. Every 100,000 records (a commit of 100 ms at 1 M/s) all generations are
closed, and what they wrote is fed to the tasks behind. CPU time of this thread, best of the rounds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from adstream._core import Plan, RawBatch, SinkBuffer, bench_decode
from benches.data import Made, built, digest_of, made, shape, table_of
from benches.harness import MEASURED, Bench, Wrong, run_child

COMMIT_ROWS = 100_000
EVENTS, EVENTS_QUICK = 2_000_000, 200_000


def measure(bench: Bench) -> None:
    events = EVENTS_QUICK if bench.quick else EVENTS
    for name in ("wide", "deep"):
        made(shape(name, events))  # not in the child, which is timed out
        given = {"shape": name, "events": events}
        runs = [run_child("benches.scenarios.core", given, MEASURED) for _ in range(bench.rounds)]
        for found in runs:
            if found["hash"] != found["true_hash"]:
                raise Wrong(f"the table's hash is {found['hash']}, it must be {found['true_hash']}")
        best = min(runs, key=lambda found: float(found["total"]))
        for stage, micros in best["stages"].items():
            bench.note(f"{name}: {stage}", micros, "us/record")
        bench.note(f"{name}: whole job", best["total"], "us/record", note=f"hash {best['hash']}, {best['notes']}")


class Clock:
    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def __call__(self, stage: str, call: Callable[..., Any], *args: Any) -> Any:
        began = time.thread_time()
        found = call(*args)
        self.spent[stage] = self.spent.get(stage, 0.0) + time.thread_time() - began
        return found


class Job:
    """All tasks of the job and what lies between them."""

    def __init__(self, data: Made) -> None:
        job = built("bench")
        self.plan = Plan(job.json, job.callables)
        self.description: dict[str, Any] = json.loads(self.plan.describe())
        self.partitions = data.traffic.partitions
        topics = {p["topic"] for s in self.description["subtopologies"] for p in (*s["sources"], *s["outputs"])}
        counts = dict.fromkeys(topics, self.partitions)
        self.tasks = {
            sub["id"]: [self.plan.task(sub["id"], p, counts) for p in range(self.partitions)]
            for sub in self.description["subtopologies"]
        }
        self.source = {s["topic"]: sub["id"] for sub in self.description["subtopologies"] for s in sub["sources"]}
        self.ends: dict[tuple[str, int], int] = {}
        self.buffers = {
            sink["topic"]: [SinkBuffer(self.plan, sink["name"]) for _ in range(self.partitions)]
            for sink in self.description["sinks"]
        }
        self.written: dict[str, list[int]] = {}
        """Topic -> records and bytes."""
        self.changelogs: dict[tuple[str, int], list[RawBatch]] = {}
        self.keep = False
        for tasks in self.tasks.values():
            for p, task in enumerate(tasks):
                for topic, sub in self.source.items():
                    if tasks is self.tasks[sub]:
                        task.feed(topic, p, RawBatch([], 0))
                        task.caught_up(topic, p, False)

    def commit(self, clock: Clock) -> None:
        for sub, tasks in sorted(self.tasks.items()):
            closed = [clock(f"close {sub}", task.close_generation) for task in tasks]
            for task, generation in zip(tasks, closed, strict=True):
                for topic, partition, batch in generation.outputs:
                    self._deliver(clock, topic, partition, batch)
                clock(f"close {sub}", task.committed)
            for downstream in self.tasks:
                if downstream > sub:
                    for task in self.tasks[downstream]:
                        while clock(f"process {downstream}", task.process, 10_000):
                            pass

    def _deliver(self, clock: Clock, topic: str, partition: int, batch: RawBatch) -> None:
        entry = self.written.setdefault(topic, [0, 0])
        entry[0] += len(batch)
        entry[1] += batch.byte_size
        if topic in self.source:
            at = self.ends.get((topic, partition), 0)
            self.ends[topic, partition] = at + len(batch)
            task = self.tasks[self.source[topic]][partition]
            clock("feed", task.feed, topic, partition, batch.with_offsets(at))
        elif topic in self.buffers:
            clock("sinks: add", self.buffers[topic][partition].add, batch)
        elif self.keep and topic.endswith("-changelog"):
            self.changelogs.setdefault((topic, partition), []).append(batch)

    def feed(self, clock: Clock, partition: int, batch: RawBatch) -> None:
        task = self.tasks[0][partition]
        clock("feed", task.feed, "ad-events", partition, batch)
        while clock("process 0", task.process, 10_000):
            pass

    def run(self, data: Made, clock: Clock) -> None:
        rows = 0
        for n in range(max(map(len, data.partitions))):
            for p, batches in enumerate(data.partitions):
                if n < len(batches):
                    self.feed(clock, p, batches[n])
                    rows += len(batches[n])
            if rows >= COMMIT_ROWS:
                self.commit(clock)
                rows = 0
        for _ in range(3):
            self.commit(clock)

    def stats(self) -> dict[str, int]:
        keys = size = 0
        for tasks in self.tasks.values():
            for task in tasks:
                for node in task.stats()["nodes"].values():
                    keys += node.get("state_keys", 0)
                    size += node.get("state_bytes", 0)
        return {"keys": keys, "bytes": size}


def main(given: dict[str, Any]) -> dict[str, Any]:
    data = made(shape(given["shape"], given["events"]))
    events = data.traffic.events
    decoding = Clock()
    job = Job(data)
    for batches in data.partitions:
        for batch in batches:
            decoding("decode", bench_decode, job.plan, batch)
    clock = Clock()
    began = time.thread_time()
    job.run(data, clock)
    took = time.thread_time() - began
    rows = []
    table = next(s["topic"] for s in job.description["sinks"] if s["kind"] == "sql")
    drain = Clock()
    for buffer in job.buffers[table]:
        rows += table_of(drain("drain", buffer.drain))
    micros = {stage: spent / events * 1e6 for stage, spent in clock.spent.items()}
    written = ", ".join(
        f"{topic.removeprefix('bench-')} {n:,} records {size / 1e6:.0f} MB"
        for topic, (n, size) in job.written.items()
        if size > 10 * events
    )
    return {
        "stages": {"decode (a part of process 0)": decoding.spent["decode"] / events * 1e6, **micros},
        "total": took / events * 1e6,
        "drain": drain.spent["drain"] / len(rows) * 1e6,
        "hash": digest_of(rows),
        "true_hash": data.hash,
        "notes": written,
        "state": job.stats(),
    }


if __name__ == "__main__":
    import sys

    print(json.dumps(main(json.loads(sys.argv[1]))))
