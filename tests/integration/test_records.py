"""Record flows on a real Kafka: workers die by `kill -9` in the middle of things, and nothing is lost or done twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from adstream._core import RawBatch, murmur2
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.kafka import KafkaLog
from tests.logs.conformance import read_all, unique
from tests.servers import Kafka

pytestmark = [pytest.mark.servers, pytest.mark.slow]

PARTITIONS = 3
RECORDS = 6_000
USERS, SHOPS = 300, 12
START_MS = 1_705_312_800_000
KILLS = 6


@pytest.fixture
def log(kafka: Kafka) -> Iterator[KafkaLog]:
    made = KafkaLog(kafka.bootstrap)
    yield made
    made.close()


def traffic(seed: int) -> dict[str, list[tuple[bytes, bytes, int]]]:
    """(key, value, ts) of both topics, in order of time with some disorder."""
    chance = random.Random(seed)
    rows: dict[str, list[tuple[bytes, bytes, int]]] = {"orders": [], "payments": []}
    for i in range(RECORDS):
        side = chance.choice(("orders", "payments"))
        at = START_MS + i * 20 - chance.choice((0, 0, 0, chance.randrange(3_000)))
        value = {"id": i, "shop": f"shop{chance.randrange(SHOPS)}"}
        rows[side].append((f"u{chance.randrange(USERS)}".encode(), json.dumps(value).encode(), at))
    return rows


def truth(rows: dict[str, list[tuple[bytes, bytes, int]]]) -> Counter[tuple[str, int]]:
    pairs: Counter[str] = Counter()
    payments: dict[bytes, list[int]] = {}
    for key, _, at in rows["payments"]:
        payments.setdefault(key, []).append(at)
    for key, value, at in rows["orders"]:
        pairs[json.loads(value)["shop"]] += sum(abs(at - other) <= 1_000 for other in payments.get(key, ()))
    return Counter({(shop, i + 1): 1 for shop, n in pairs.items() for i in range(n)})


def write(log: KafkaLog, prefix: str, rows: dict[str, list[tuple[bytes, bytes, int]]]) -> None:
    config = {"retention.ms": "-1"}
    log.create_topics([TopicSpec(f"{prefix}-{name}", PARTITIONS, config) for name in (*rows, "counts")])
    writer = log.writer(unique("slot"))
    for name, some in rows.items():
        by_partition: dict[int, list[tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]] = {}
        for key, value, at in some:
            partition = (murmur2(key) & 0x7FFFFFFF) % PARTITIONS
            some_there = by_partition.setdefault(partition, [])
            some_there.append((len(some_there), at, key, value, []))
        outputs = [(f"{prefix}-{name}", p, RawBatch(records)) for p, records in by_partition.items()]
        assert writer.commit(outputs, {}, prefix, None) is Outcome.COMMITTED
    writer.close()


@pytest.mark.timeout(400)
def test_killed_workers_change_nothing(kafka: Kafka, log: KafkaLog, tmp_path: Path) -> None:
    seed = int(time.time())
    prefix, rows, chance = unique("records"), traffic(seed), random.Random(seed)
    write(log, prefix, rows)

    def start(slot: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "adstream.cli", "run", "tests.integration.records_job:job"]
        command += ["--bootstrap", kafka.bootstrap, "--app", prefix, "--set", f"prefix={prefix}", "--stop-at-end"]
        command += ["--commit-interval", "50ms", "--state-dir", str(tmp_path / f"state-{slot}")]
        with (tmp_path / f"{slot}.log").open("ab") as file:
            environ = {"ADSTREAM_SLOT": str(slot), "PYTHONPATH": ".", "PATH": "/usr/bin:/bin"}
            return subprocess.Popen(command, stdout=file, stderr=file, env=environ)

    workers = {slot: start(slot) for slot in (0, 1)}
    killed = 0
    try:
        deadline = time.monotonic() + 300
        while any(worker.poll() is None for worker in workers.values()):
            assert time.monotonic() < deadline, (tmp_path / "0.log").read_text()[-3000:]
            time.sleep(chance.uniform(0.3, 1.5))
            slot = chance.choice((0, 1))
            if killed < KILLS and workers[slot].poll() is None:
                workers[slot].kill()
                workers[slot].wait()
                workers[slot] = start(slot)
                killed += 1
        for slot, worker in workers.items():
            assert worker.returncode == 0, (tmp_path / f"{slot}.log").read_text()[-3000:]
    finally:
        for worker in workers.values():
            worker.kill()

    got: Counter[tuple[str, int]] = Counter()
    for p in range(PARTITIONS):
        for _, _, key, value, _ in read_all(log, f"{prefix}-counts", p):
            got[(key or b"").decode(), int.from_bytes(value or b"")] += 1
    want = truth(rows)
    assert want.total() > 500, "nothing was put to the test"
    assert killed > 0
    assert got == want, (
        f"seed {seed}: {(want - got).total()} missing, {(got - want).total()} too many of {want.total()}"
    )
