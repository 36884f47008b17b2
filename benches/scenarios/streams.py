"""Kafka Streams and adstream, the same topologies on the same topics of one broker, in turns: one thread, exactly once, stores in
memory, commits every 100 ms.

Kafka Streams' clock starts when its JVM is warm (a quarter of the input), adstream's with its first record. What both wrote is
compared: the newest value of each key (of the stream join, which has no keys, the records as a set). Behind a shuffle Kafka
Streams drops what the fastest partition's time has closed, when it catches up; what is right there is computed here.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from confluent_kafka import Producer

from adstream.interfaces import TopicSpec
from adstream.logs.kafka import KafkaLog
from benches.harness import SERVERS, Bench, Wrong, core, pin, rounds, run_child, spare
from tests.differential import jvm
from tests.servers import Kafka
from tests.servers.kafka import QUICK_JVM

SOURCE = Path(__file__).parents[1] / "java" / "StreamsBench.java"
EVENTS, EVENTS_QUICK = 1_000_000, 100_000
KEYS, SHOPS, PARTITIONS = 20_000, 500, 4
START_MS, MINUTE_MS = 1_705_312_800_000, 60_000
CASES = {
    "windows": 5.0,
    "shuffled": 7.0,
    "sessions": 5.0,
    "stream_table": 5.0,
    "stream_stream": 5.0,
    "table_groups": 7.0,
}
"""The target: times the records per CPU second of Kafka Streams."""
TWO_INPUTS = ("stream_table", "stream_stream")

Newest = dict[bytes, Any]


def measure(bench: Bench) -> None:
    spare()
    events = EVENTS_QUICK if bench.quick else EVENTS
    with Kafka(quick=False, heap="1g") as server, TemporaryDirectory() as folder:
        pin(server.pid, SERVERS)
        log = KafkaLog(server.bootstrap)
        truth = fill(log, server.bootstrap, events)
        for case, target in CASES.items():
            _measure(bench, case, target, events, log, server.bootstrap, folder, truth if case == "shuffled" else {})
        log.close()


def _measure(
    bench: Bench, case: str, target: float, events: int, log: KafkaLog, bootstrap: str, folder: str, truth: Newest
) -> None:
    total = events + (events // 4 if case in TWO_INPUTS else 0)
    found: dict[str, Newest] = {}

    def theirs() -> dict[str, Any]:
        app = _app(log, case, "jvm")
        arguments = [bootstrap, app, case, str(total), str(total // 4), str(Path(folder, app))]
        with jvm.command("StreamsBench", [SOURCE], *arguments, log="OFF") as command:
            warm = [part for part in command if part not in QUICK_JVM]  # the whole compiler, and a heap as it likes
            done = subprocess.run(warm, capture_output=True, text=True, timeout=900, preexec_fn=_pinned, check=False)
        if done.returncode:
            raise Wrong(done.stderr[-2000:])
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        found["jvm"] = newest(log, f"{app}-out", case)
        return {**answer, "per": answer["records"]}

    def ours() -> dict[str, Any]:
        app = _app(log, case, "ads")
        answer = run_child("benches.streams_worker", {"bootstrap": bootstrap, "app": app, "case": case})
        found["adstream"] = newest(log, f"{app}-out", case)
        return {**answer, "per": total}

    jvms, mine = rounds(bench.rounds, theirs, ours)
    hashes = {who: digest(of) for who, of in found.items()}
    if found["adstream"] != (truth or found["jvm"]):
        raise Wrong(f"{case}: the results differ: {hashes}, {digest(truth) if truth else 'no truth of our own'}")
    if truth:
        lost = 1 - sum(row["n"] for row in found["jvm"].values()) / events
        bench.note(f"{case}: dropped as late by Kafka Streams", 100 * lost, "%", note="by adstream none")
    us = [min(r["cpu"] / r["per"] for r in runs) * 1e6 for runs in (jvms, mine)]
    wall = [min(r["seconds"] / r["per"] for r in runs) * 1e6 for runs in (jvms, mine)]
    bench.note(f"{case}: Kafka Streams", us[0], "us CPU", note=f"{1e3 / wall[0]:,.0f} k/s by wall")
    note = f"{1e3 / wall[1]:,.0f} k/s by wall, hash {hashes['adstream']}"
    bench.note(f"{case}: adstream", us[1], "us CPU", note=note)
    bench.note(f"{case}: adstream / Kafka Streams by CPU", us[0] / us[1], "x", target=target)
    bench.note(f"{case}: adstream / Kafka Streams by wall", wall[0] / wall[1], "x")


def _pinned() -> None:
    os.sched_setaffinity(0, core(0))


def _app(log: KafkaLog, case: str, who: str) -> str:
    app = f"bench-{case.replace('_', '-')}-{who}-{uuid.uuid4().hex[:6]}"
    log.create_topics([TopicSpec(f"{app}-out", PARTITIONS, {"retention.ms": "-1"})])
    return app


def fill(log: KafkaLog, bootstrap: str, events: int) -> Newest:
    """Returns what `shuffled` is to say in the end."""
    keep = {"retention.ms": "-1"}
    log.create_topics([TopicSpec(topic, PARTITIONS, keep) for topic in ("events", "users")])
    settings = {"compression.type": "lz4", "linger.ms": 50, "enable.idempotence": True, "partitioner": "murmur2_random"}
    producer = Producer({"bootstrap.servers": bootstrap, "queue.buffering.max.messages": 500_000, **settings})
    chance = random.Random(1)
    truth: Newest = {}

    def send(topic: str, key: str, value: dict[str, Any], at: int) -> None:
        data = json.dumps(value, separators=(",", ":"))
        while True:
            try:
                producer.produce(topic, data, key, timestamp=at)
                return
            except BufferError:
                producer.poll(0.1)

    for i in range(events):
        at = START_MS + i // 10
        key = f"user-{chance.randrange(KEYS)}"
        event = {"shop": f"shop-{chance.randrange(SHOPS)}", "amount": chance.randrange(1000), "note": "x" * 200}
        send("events", key, event, at)
        window = str(event["shop"]).encode() + (at // MINUTE_MS * MINUTE_MS).to_bytes(8, "big")
        row = truth.setdefault(window, {"n": 0, "total": 0})
        row["n"], row["total"] = row["n"] + 1, row["total"] + event["amount"]
        if i % 4 == 0:
            send("users", f"user-{chance.randrange(KEYS)}", {"name": f"name-{i}", "level": i % 7}, at)
        if i % 1000 == 0:
            producer.poll(0)
    producer.flush()
    return truth


def newest(log: KafkaLog, topic: str, case: str) -> Newest:
    """What a topic says in the end. A join with a table depends on which was first, which is nobody's promise: its
    records are counted by key."""
    newest: Newest = {}
    for key, value in _records(log, topic):
        if case == "stream_stream":
            newest[key + b" " + json.dumps(json.loads(value or b"null"), sort_keys=True).encode()] = 1
        elif case == "stream_table":
            newest[key] = 1
        elif value is None:
            newest.pop(key, None)
        else:
            newest[key] = json.loads(value)
    return newest


def digest(table: Newest) -> str:
    lines = sorted(f"{key!r} {json.dumps(value, sort_keys=True)}" for key, value in table.items())
    return f"{len(lines)}:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:12]}"


def _records(log: KafkaLog, topic: str) -> Iterator[tuple[bytes, bytes | None]]:
    reader = log.reader()
    for partition in range(PARTITIONS):
        end = log.end_offsets([(topic, partition)], committed=True)[topic, partition]
        reader.add(topic, partition, 0)
        position = 0
        while position < end:
            batch = reader.read(topic, partition, 10_000)
            if batch is None:
                reader.wait(0.1)
                continue
            for _, _, key, value, _ in batch.records():
                yield key or b"", value
            position = batch.next_offset
        reader.remove(topic, partition)
    reader.close()
