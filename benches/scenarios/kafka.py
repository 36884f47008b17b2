"""Kafka to committed output, exactly once, against what a bare consumer drains of the same topic in the same run.

The worker runs the whole job: decode, deduplication, shuffle, windows, the table's rows, the final topic, changelogs,
transactions every 100 ms, and its sinks read what was committed; only the database behind them is missing. Its table is
then read from the sink's topic and compared with the truth: a round with another hash does not count.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from adstream._core import Plan, SinkBuffer
from adstream.interfaces import TopicSpec
from adstream.logs.kafka import KafkaLog
from benches.data import Made, built, digest_of, made, shape, table_of
from benches.harness import SERVERS, Bench, Wrong, answer, child, pin, rounds, run_child, spare
from tests.servers import Kafka

TABLE, TOPIC = "sql-ad_performance_metrics_realtime", "ad-events"
EVENTS, EVENTS_QUICK = 2_000_000, 200_000
WARM = 6
"""Rounds of the worker that do not count: the broker's own cost of a record falls from 2.3 to 0.7 us of CPU while its JVM
compiles what produces and commits, and until then the worker waits for it. What the bare consumer needs is warm at once."""
LARGEST = "16000000"
"""The deduplication's delta is one record a generation, 24 bytes an id: above 43,000 rows between two commits of a task it
is more than the megabyte that clients and brokers allow, and the commit is fatal. To go once deltas are cut."""


def measure(bench: Bench) -> None:
    spare()
    for name in ("wide", "deep"):
        data = made(shape(name, EVENTS_QUICK if bench.quick else EVENTS))
        with Kafka(quick=False, heap="1g", settings={"message.max.bytes": LARGEST}) as server:
            pin(server.pid, SERVERS)
            log = KafkaLog(server.bootstrap)
            fill(log, server.bootstrap, data)
            pin(server.pid, SERVERS)
            _measure(bench, name, data, log, server.bootstrap)
            log.close()


def _measure(bench: Bench, name: str, data: Made, log: KafkaLog, bootstrap: str) -> None:
    events = data.traffic.events
    bare_given = {"bootstrap": bootstrap, "topic": TOPIC, "partitions": data.traffic.partitions}

    def bare() -> dict[str, Any]:
        found = run_child("benches.bare", bare_given)
        if (found["count"], found["bytes"]) != (events, data.bytes):
            raise Wrong(f"the bare consumer read {found}")
        return found

    def worker() -> dict[str, Any]:
        app = f"bench-{uuid.uuid4().hex[:8]}"
        given = {"app": app, "bootstrap": bootstrap, "kafka": {"message.max.bytes": LARGEST}}
        with child("benches.worker", given) as process:
            recording = perf(bench, process.pid, name)
            found = answer(process)
            if recording is not None:
                recording.wait()
        found["hash"] = digest_of(table(log, app))
        if found["hash"] != data.hash:
            raise Wrong(f"the table's hash is {found['hash']}, it must be {data.hash}")
        bench.say(
            f"{name}: worker {events / found['seconds'] / 1e3:,.0f} k/s, {found['cpu'] / events * 1e6:.2f} us CPU a record,"
            f" {found['commits']} commits, {sum(found['sink_rows']):,} rows to targets, hash {found['hash']}"
        )
        return found

    for _ in range(0 if bench.quick else WARM):
        worker()
    bares, workers = rounds(bench.rounds, bare, worker)
    _stages(bench, name, bootstrap, events)
    best, mine = min(bares, key=_seconds), min(workers, key=_seconds)
    cpu, my_cpu = (min(r["cpu"] for r in runs) for runs in (bares, workers))
    bench.note(f"{name}: bare consumer", events / best["seconds"] / 1e3, "k/s", note=f"{cpu / events * 1e6:.2f} us CPU")
    note = f"{my_cpu / events * 1e6:.2f} us CPU, {mine['rss_mb']:.0f} MB, {data.rows:,} rows, hash {mine['hash']}"
    bench.note(f"{name}: worker, exactly once", events / mine["seconds"] / 1e3, "k/s", note=note)
    bench.note(f"{name}: worker / bare", best["seconds"] / mine["seconds"], "x", target=1.0)
    bench.note(f"{name}: worker / bare by CPU", cpu / my_cpu, "x")
    bench.note(f"{name}: resident memory of the worker", mine["rss_mb"], "MB")


def _stages(bench: Bench, name: str, bootstrap: str, events: int) -> None:
    """One more run, timed from inside (which costs it a little): where the CPU goes."""
    given = {"app": f"bench-{uuid.uuid4().hex[:8]}", "bootstrap": bootstrap, "kafka": {"message.max.bytes": LARGEST}}
    found = run_child("benches.worker", {**given, "stages": True})
    spent = {stage: seconds for stage, (seconds, _) in found["stages"].items()}
    spent |= {f"thread {thread}": s for thread, s in found["threads"].items() if thread.startswith("rdk:")}
    for stage, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        if seconds >= 0.002 * found["cpu"]:
            share = f"{seconds / found['cpu']:5.1%}  {seconds / events * 1e6:.3f} us/record  {stage}"
            bench.say(f"{name}: {share}")


def _seconds(found: dict[str, Any]) -> float:
    return float(found["seconds"])


def fill(log: KafkaLog, bootstrap: str, data: Made) -> None:
    # The traffic is of years ago: the broker would delete it at once.
    log.create_topics([TopicSpec(TOPIC, data.traffic.partitions, {"retention.ms": "-1"})])
    # Idempotent: else a retried batch changes the order, and with it what is late.
    settings = {"compression.type": "lz4", "linger.ms": 50, "enable.idempotence": True, "batch.size": 250_000}
    producer = Producer({"bootstrap.servers": bootstrap, "queue.buffering.max.messages": 500_000, **settings})
    # All partitions grow together, as under load; else the first would be read alone.
    for n in range(max(map(len, data.partitions))):
        for partition, batches in enumerate(data.partitions):
            for _, timestamp, key, value, _ in batches[n].records() if n < len(batches) else ():
                while True:
                    try:
                        producer.produce(TOPIC, value, key, partition, timestamp=timestamp)
                        break
                    except BufferError:
                        producer.poll(0.1)
            producer.poll(0)
    producer.flush()


def table(log: KafkaLog, app: str) -> Iterator[tuple[Any, ...]]:
    """The table that the sink's topic makes."""
    job = built(app)
    plan = Plan(job.json, job.callables)
    topic = f"{app}-{TABLE}-sink"
    reader, count = log.reader(), log.partitions([topic])[topic]
    for partition in range(count):  # a key has one partition
        buffer, end = SinkBuffer(plan, TABLE), log.end_offsets([(topic, partition)], committed=True)[topic, partition]
        reader.add(topic, partition, 0)
        position = 0
        while position < end:
            batch = reader.read(topic, partition, 1_000)
            if batch is None:
                reader.wait(0.1)
                continue
            buffer.add(batch)
            position = batch.next_offset
        reader.remove(topic, partition)
        if len(buffer):
            yield from table_of(buffer.drain())
    reader.close()


def perf(bench: Bench, pid: int, name: str) -> subprocess.Popen[bytes] | None:
    if bench.profile is None:
        return None
    file = Path(bench.profile, f"{name}.perf")
    command = ["perf", "record", "-q", "-F", "499", "--call-graph", "fp", "-o", str(file), "-p", str(pid)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)
