"""A worker in a process of its own, as `kafka` starts it: `python -m benches.worker '{"bootstrap": …}'`.

Runs the job once to the end of its input by the real `launch.run`, with targets that keep positions and drop rows, and
prints one line of JSON. Time runs from the moment the first task reads its input to the last commit that wrote anything;
CPU is this process', all its threads, user and system, between the same two moments.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adstream._core import Plan
from adstream.logs.kafka import KafkaLog
from adstream.runtime import launch
from adstream.runtime.ports import Hooks
from adstream.runtime.settings import Settings
from adstream.runtime.task import StreamTask
from adstream.runtime.worker import Worker
from benches.data import built
from benches.stages import Stages


class NullTarget:
    """Positions, and how many rows it would have written."""

    def __init__(self) -> None:
        self.stored: dict[int, int] = {}
        self.rows = self.refused = 0

    def open(self, app: str, sink: str, schema: Mapping[str, str], key: Sequence[str]) -> None: ...

    def positions(self, partitions: Sequence[int]) -> dict[int, int]:
        return {p: self.stored[p] for p in partitions if p in self.stored}

    def of_topic(self, topic_id: str) -> str:
        return topic_id

    def write(self, partition: int, expected: int, position: int, rows: Mapping[str, list[Any]]) -> bool:
        if self.stored.get(partition, 0) != expected:
            return False
        self.stored[partition] = position
        self.rows += len(next(iter(rows.values()), []))
        return True

    def forget(self, app: str, sink: str) -> None:
        self.stored.clear()

    def close(self) -> None: ...


def used() -> tuple[float, float]:
    """Now: wall and CPU seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), usage.ru_utime + usage.ru_stime


def peak_mb() -> float:
    """The most memory that this process ever had. (`ru_maxrss` would count what its parent had when it forked.)"""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def main() -> None:
    given = json.loads(sys.argv[1])
    stages = Stages()
    if given.get("stages"):
        stages.watch()
    threads: dict[str, float] = {}
    began: list[tuple[float, float]] = []
    commits: list[tuple[float, float]] = []
    run = StreamTask.run

    def noting(self: StreamTask, *args: Any) -> None:
        if not began:
            began.append(used())
        run(self, *args)

    StreamTask.run = noting  # type: ignore[method-assign]

    def step(name: str) -> None:
        if name == "committed":
            commits.append(used())
            if given.get("stages"):
                threads.update(stages.threads())

    target: list[NullTarget] = []

    def make(kind: str, options: dict[str, Any]) -> NullTarget:
        target.append(NullTarget())
        return target[-1]

    job = built(given["app"])
    settings = Settings(app=given["app"], bootstrap=given["bootstrap"], create_topics=True, **given.get("settings", {}))
    log = KafkaLog(given["bootstrap"], given.get("kafka", {}), **given.get("log", {}))
    worker: list[Worker] = []
    launch.run(
        Plan(job.json, job.callables),
        settings,
        log,
        targets=make,
        hooks=Hooks(step=step),
        stop_at_end=True,
        on_start=worker.append,
    )
    log.close()
    delivered = time.perf_counter()
    (first, cpu_before), (last, cpu_after) = began[0], commits[-1]
    status = worker[0].status
    print(
        json.dumps(
            {
                "seconds": last - first,
                "cpu": cpu_after - cpu_before,
                "delivered": delivered - first,
                "commits": len(commits),
                "outcomes": status.commits,
                "sink_rows": [t.rows for t in target],
                "stages": stages.spent,
                "threads": threads,
                "rss_mb": peak_mb(),
            }
        )
    )


if __name__ == "__main__":
    main()
