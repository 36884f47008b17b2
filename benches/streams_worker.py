"""The topologies of `java/StreamsBench.java` on adstream, in a process of its own: `python -m benches.streams_worker '{…}'`.

Prints one JSON object: wall and CPU seconds from the first record read to the last commit that wrote something.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import adstream as ads
from adstream import col
from adstream._core import Plan
from adstream.logs.kafka import KafkaLog
from adstream.runtime import launch
from adstream.runtime.ports import Hooks
from adstream.runtime.settings import Settings
from adstream.runtime.task import StreamTask
from benches.worker import peak_mb, used

TEXT = ads.serdes.string


def topology(which: str, app_id: str) -> ads.Topology:
    folds: dict[str, Any] = {"n": ads.count(), "total": ads.sum("amount")}

    def build(app: ads.App) -> None:
        events = app.stream("events", key=TEXT)
        out = f"{app_id}-out"
        minute = ads.tumbling("1m", grace="10s")
        if which in ("windows", "shuffled"):
            grouped = events.group_by_key() if which == "windows" else events.group_by(col("shop"), "by-shop")
            grouped.windowed_by(minute).aggregate(**folds).to_stream().to(out)
        elif which == "sessions":
            gap = ads.session("5s", grace="10s")
            events.group_by_key().windowed_by(gap).aggregate(**folds).to_stream().to(out)
        elif which == "stream_table":
            events.join(app.table("users", key=TEXT), ads.joined(prefix="r_")).to(out, key=TEXT)
        elif which == "stream_stream":
            others = app.stream("users", key=TEXT)
            windows = ads.JoinWindows.of_time_difference_and_grace("10s", "10s")
            events.join(others, ads.joined(prefix="r_"), windows).to(out, key=TEXT)
        else:
            table = events.to_table().group_by(ads.pair(col("shop"), ads.value()), "by-shop")
            table.aggregate(**folds).to_stream().to(out, key=TEXT)

    return ads.topology(name=app_id)(build)


def main() -> None:
    given = json.loads(sys.argv[1])
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

    built = topology(given["case"], given["app"]).build()
    settings = Settings(app=given["app"], bootstrap=given["bootstrap"], create_topics=True)
    log = KafkaLog(given["bootstrap"])
    plan = Plan(built.json, built.callables)
    launch.run(plan, settings, log, hooks=Hooks(step=step), stop_at_end=True)
    log.close()
    (first, cpu_before), (last, cpu_after) = began[0], commits[-1]
    print(json.dumps({"seconds": last - first, "cpu": cpu_after - cpu_before, "rss_mb": peak_mb()}))


if __name__ == "__main__":
    main()
