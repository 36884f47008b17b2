"""A file of JSON lines to a table: adstream on one core against DuckDB on one thread, the same query, equal results.

    distinct event_id (the first line of each) -> campaign not null -> 5-minute windows -> counts and sums per campaign,
    product and placement

The events are the traffic's without what needs an order of arrival (bad, late and disordered ones): SQL has neither
dead letters nor a clock. adstream runs the whole job by `launch.run`, exactly once, over `FilesLog` and the embedded log
in memory, one file as one partition; DuckDB reads the file with `read_ndjson`, columns declared. DuckDB is optional
(`pip install duckdb`, in this Python or one named by BENCH_DUCKDB_PYTHON); without it the scenario says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adstream.jobs.ads.traffic import Traffic, records
from benches.data import built, digest_of
from benches.harness import MEASURED, Bench, Wrong, core, rounds, run_child, spare

EVENTS, EVENTS_QUICK = 1_000_000, 100_000
SINK = "sql-ad_performance_metrics_realtime"

DUCKDB = """
import duckdb, json, resource, sys, time
path, threads = sys.argv[1], 1
db = duckdb.connect()
db.execute("SET threads = 1; SET TimeZone = 'UTC'; SET enable_progress_bar = false")
began = time.perf_counter(), sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
rows = db.execute('''
    WITH e AS (
        SELECT * FROM read_ndjson(?, columns = {event_id: 'VARCHAR', event_type: 'VARCHAR', timestamp: 'TIMESTAMP',
            device_id: 'VARCHAR', campaign_id: 'VARCHAR', product_id: 'VARCHAR', placement: 'VARCHAR',
            actual_price: 'DECIMAL(10,2)', revenue_amount: 'DECIMAL(10,2)'})
    ), once AS (SELECT DISTINCT ON (event_id) * FROM e)
    SELECT campaign_id, product_id, placement, epoch_ms(time_bucket(INTERVAL 5 MINUTE, timestamp)) AS start,
        count(*) FILTER (event_type = 'IMPRESSION'), count(*) FILTER (event_type = 'CLICK'),
        count(*) FILTER (event_type = 'CONVERSION'),
        coalesce(sum(actual_price) FILTER (event_type = 'CLICK'), 0)::DECIMAL(38,2),
        coalesce(sum(revenue_amount) FILTER (event_type = 'CONVERSION'), 0)::DECIMAL(38,2),
        epoch_ms(max(timestamp))
    FROM once WHERE campaign_id IS NOT NULL GROUP BY ALL
''', [path]).fetchall()
ended = time.perf_counter(), sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
print(json.dumps({"seconds": ended[0] - began[0], "cpu": ended[1] - began[1], "version": duckdb.__version__,
                  "rows": [list(map(str, row)) for row in rows]}))
"""


def measure(bench: Bench) -> None:
    spare()
    events = EVENTS_QUICK if bench.quick else EVENTS
    duckdb = _duckdb()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "events.jsonl"))
        write(path, events)
        if duckdb is None:
            bench.say("DuckDB is not installed (pip install duckdb): only adstream is measured")
        runs = [lambda: run_child("benches.scenarios.jsonl", {"path": path}, MEASURED)]
        if duckdb is not None:
            runs.append(lambda: _run(duckdb, path))
        found = rounds(bench.rounds, *runs)
        mine = min(found[0], key=lambda r: float(r["seconds"]))
        note = f"{mine['cpu'] / events * 1e6:.2f} us CPU, hash {digest_of(mine['rows'])}"
        bench.note("adstream, file to committed output", events / mine["seconds"] / 1e3, "k/s", note=note)
        if duckdb is None:
            return
        other = min(found[1], key=lambda r: float(r["seconds"]))
        if len({digest_of(r["rows"]) for runs in found for r in runs}) != 1:
            raise Wrong("adstream and DuckDB differ")
        note = f"{other['cpu'] / events * 1e6:.2f} us CPU, version {other['version']}"
        bench.note("DuckDB, one thread", events / other["seconds"] / 1e3, "k/s", note=note)
        bench.note("adstream / DuckDB", other["seconds"] / mine["seconds"], "x", target=1.0)
        cpu, my_cpu = (min(float(r["cpu"]) for r in runs) for runs in (found[1], found[0]))
        bench.note("adstream / DuckDB by CPU", cpu / my_cpu, "x")


def write(path: str, events: int) -> None:
    calm = {"share_disorder": 0.0, "share_late": 0.0, "share_bad": 0.0}
    traffic = Traffic(seed=7, events=events, ads=20_480, rate=max(1, events // 1500), partitions=1, **calm)
    newest, met, dropped = 0, set[bytes](), set[bytes]()
    with Path(path).open("wb") as file:
        for sent in records(traffic):
            event_id, at = sent.value[13:37], sent.value.index(b'"timestamp":"') + 13
            moment = datetime.fromisoformat(sent.value[at : at + 23].decode()).replace(tzinfo=UTC)
            stamp = round(moment.timestamp() * 1000)
            end = stamp // traffic.window_ms * traffic.window_ms + traffic.window_ms
            if event_id not in met and end + traffic.grace_ms <= newest:
                dropped.add(event_id)  # a visit of the window's edge that is late on purpose
            met.add(event_id)
            newest = max(newest, stamp)
            if event_id not in dropped:
                file.write(sent.value + b"\n")


def _duckdb() -> str | None:
    for python in filter(None, (os.environ.get("BENCH_DUCKDB_PYTHON"), sys.executable)):
        if subprocess.run([python, "-c", "import duckdb"], capture_output=True, check=False).returncode == 0:
            return python
    return None


def _run(python: str, path: str) -> dict[str, Any]:
    done = subprocess.run(
        [python, "-c", DUCKDB, path],
        check=True,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, core(MEASURED)),
    )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main(given: dict[str, Any]) -> dict[str, Any]:
    from adstream._core import Plan, SinkBuffer
    from adstream.logs.embedded import EmbeddedLog
    from adstream.logs.files import FilesLog
    from adstream.runtime import launch
    from adstream.runtime.ports import Hooks
    from adstream.runtime.settings import Settings
    from benches.worker import NullTarget, used

    job = built("bench-jsonl")
    plan = Plan(job.json, job.callables)
    began, commits = used(), []
    inner = EmbeddedLog(None)
    log = FilesLog(inner, {"ad-events": [given["path"]]})

    def step(name: str) -> None:
        if name == "committed":
            commits.append(used())

    launch.run(
        plan,
        Settings(app="bench-jsonl", create_topics=True, purge_every_ms=0),
        log,
        targets=lambda kind, options: NullTarget(),
        hooks=Hooks(step=step),
        stop_at_end=True,
    )
    ended = commits[-1]
    topic, rows = f"bench-jsonl-{SINK}-sink", []
    reader, buffer = log.reader(), SinkBuffer(plan, SINK)
    reader.add(topic, 0, 0)
    while (batch := reader.read(topic, 0, 1_000)) is not None:
        buffer.add(batch)
    names = ("campaign_id", "product_id", "placement", "metric_time", "impression_count", "click_count")
    names += ("conversion_count", "total_spend", "total_revenue", "updated_at")
    columns = buffer.drain()
    for name in ("metric_time", "updated_at"):
        columns[name] = [round(moment.timestamp() * 1000) for moment in columns[name]]
    rows = [list(map(str, row)) for row in zip(*(columns[name] for name in names), strict=True)]
    return {"seconds": ended[0] - began[0], "cpu": ended[1] - began[1], "rows": rows}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
