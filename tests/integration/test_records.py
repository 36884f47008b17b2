"""Record flows on a real Kafka: workers die by `kill -9` in the middle of things, become three and one again, the broker
dies, and nothing is lost or done twice."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adstream._core import RawBatch, murmur2
from adstream.interfaces import Outcome, TopicSpec, Writer
from adstream.logs.kafka import KafkaLog
from tests.logs.conformance import read_all, unique
from tests.servers import Kafka, killable

pytestmark = [pytest.mark.servers, pytest.mark.slow]

PARTITIONS = 3
RECORDS = 6_000
USERS, SHOPS = 100, 12
START_MS = 1_705_312_800_000
KILLS = 6


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


def truth(rows: dict[str, list[tuple[bytes, bytes, int]]]) -> dict[str, Counter[tuple[bytes, int]]]:
    """By output topic: each key's bytes with each count, once."""
    pairs: dict[str, Counter[bytes]] = {"counts": Counter(), "windows": Counter()}
    payments: dict[bytes, list[int]] = {}
    for key, _, at in rows["payments"]:
        payments.setdefault(key, []).append(at)
    for key, value, at in rows["orders"]:
        shop = json.loads(value)["shop"].encode()
        for other in payments.get(key, ()):
            if abs(at - other) <= 1_000:
                pairs["counts"][shop] += 1
                # As the JVM writes a windowed key: the key, and when its window begins.
                pairs["windows"][shop + (max(at, other) // 10_000 * 10_000).to_bytes(8)] += 1
    return {name: Counter({(k, i + 1): 1 for k, n in of.items() for i in range(n)}) for name, of in pairs.items()}


@contextmanager
def with_its_log(kafka: Kafka, folder: Path) -> Iterator[None]:
    """What the broker said stays beside what the workers said."""
    try:
        yield
    finally:
        shutil.copy(kafka.log, folder / "broker.log")


def compare(log: KafkaLog, prefix: str, rows: dict[str, list[tuple[bytes, bytes, int]]], seed: int) -> None:
    for name, want in truth(rows).items():
        got: Counter[tuple[bytes, int]] = Counter()
        where: dict[tuple[bytes, int], list[tuple[int, int]]] = {}
        for p in range(PARTITIONS):
            for offset, _, key, value, _ in read_all(log, f"{prefix}-{name}", p):
                told = key or b"", int.from_bytes(value or b"")
                got[told] += 1
                where.setdefault(told, []).append((p, offset))
        assert want.total() > 500, "nothing was put to the test"
        many = {told: where[told] for told in got - want}
        assert not want - got, f"{name}, seed {seed}: {(want - got).total()} missing of {want.total()}: {want - got}"
        assert not many, f"{name}, seed {seed}: {len(many)} too many of {want.total()}, at (partition, offset): {many}"


def create(log: KafkaLog, prefix: str) -> None:
    config = {"retention.ms": "-1"}
    log.create_topics(
        [TopicSpec(f"{prefix}-{name}", PARTITIONS, config) for name in ("orders", "payments", "counts", "windows")]
    )


def write(writer: Writer, prefix: str, rows: dict[str, list[tuple[bytes, bytes, int]]]) -> None:
    outputs = []
    for name, some in rows.items():
        by_partition: dict[int, list[tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]] = {}
        for key, value, at in some:
            partition = (murmur2(key) & 0x7FFFFFFF) % PARTITIONS
            some_there = by_partition.setdefault(partition, [])
            some_there.append((len(some_there), at, key, value, []))
        outputs += [(f"{prefix}-{name}", p, RawBatch(records)) for p, records in by_partition.items()]
    assert writer.commit(outputs, {}, prefix, None) is Outcome.COMMITTED


class Workers:
    """Processes of the job, by slot."""

    def __init__(self, bootstrap: str, prefix: str, directory: Path) -> None:
        self._bootstrap, self._prefix, self._directory = bootstrap, prefix, directory
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, slot: int, *options: str) -> None:
        command = [sys.executable, "-m", "adstream.cli", "run", "tests.integration.records_job:job"]
        command += ["--bootstrap", self._bootstrap, "--app", self._prefix, "--set", f"prefix={self._prefix}", *options]
        command += ["--commit-interval", "50ms", "--state-dir", str(self._directory / f"state-{slot}")]
        with (self._directory / f"{slot}.log").open("ab") as file:
            environ = {"ADSTREAM_SLOT": str(slot), "PYTHONPATH": ".", "PATH": "/usr/bin:/bin"}
            self.processes[slot] = subprocess.Popen(command, stdout=file, stderr=file, env=environ)

    def running(self, slot: int) -> bool:
        return self.processes[slot].poll() is None

    def kill(self, slot: int) -> None:
        self.processes[slot].kill()
        self.processes[slot].wait()

    def drain(self, slot: int) -> None:
        self.processes[slot].send_signal(signal.SIGTERM)
        assert self.processes[slot].wait(60) == 0, self.said(slot)

    def said(self, slot: int) -> str:
        return (self._directory / f"{slot}.log").read_text()[-3000:]

    def granted(self, slot: int) -> int:
        """How many times a task began to run in it."""
        return (self._directory / f"{slot}.log").read_text().count(": running")

    def until_running(self, slot: int, deadline: float) -> None:
        while not self.granted(slot):
            assert time.monotonic() < deadline, self.said(slot)
            assert self.running(slot), self.said(slot)
            time.sleep(0.1)


@pytest.fixture
def made_workers() -> Iterator[list[Workers]]:
    made: list[Workers] = []
    yield made
    for workers in made:
        for process in workers.processes.values():
            process.kill()
            process.wait()


class Input:
    """The traffic, written in pieces, each later than the last, so that there is something to do when it matters."""

    def __init__(self, log: KafkaLog, prefix: str, rows: dict[str, list[tuple[bytes, bytes, int]]]) -> None:
        self._log, self._prefix, self._rows = log, prefix, rows
        self.written = 0

    def write_on(self, share: float) -> None:
        """Writes so much of both topics, as those that stand there: a transaction for every hundred."""
        writer = self._log.writer(unique("slot"))
        end = min(self.written + round(RECORDS * share), RECORDS)
        for low in range(self.written, end, 100):
            piece = {
                name: [row for row in some if low <= json.loads(row[1])["id"] < min(low + 100, end)]
                for name, some in self._rows.items()
            }
            write(writer, self._prefix, piece)
        self.written = end
        writer.close()


@pytest.mark.timeout(400)
def test_killed_workers_change_nothing(
    kafka: Kafka, log: KafkaLog, tmp_path: Path, made_workers: list[Workers]
) -> None:
    """Before each kill a piece of the input comes: how long a worker lives does not depend on how fast it is."""
    seed = int(time.time())
    prefix, rows, chance = unique("records"), traffic(seed), random.Random(seed)
    create(log, prefix)
    traffic_in = Input(log, prefix, rows)
    workers = Workers(kafka.bootstrap, prefix, tmp_path)
    made_workers.append(workers)
    deadline = time.monotonic() + 300
    for slot in (0, 1):
        workers.start(slot)
    for slot in (0, 1):
        workers.until_running(slot, deadline)
    for _ in range(KILLS):
        traffic_in.write_on(1 / KILLS)
        time.sleep(chance.uniform(0, 0.5))
        slot = chance.choice((0, 1))
        assert workers.running(slot), workers.said(slot)
        workers.kill(slot)
        workers.start(slot)
        # Half of them die again before they have begun, or while they restore.
        if chance.random() < 0.5:
            time.sleep(chance.uniform(0.5, 3))
    assert traffic_in.written == RECORDS
    for slot in (0, 1):
        workers.kill(slot)
        workers.start(slot, "--stop-at-end")
    for slot in (0, 1):
        assert workers.processes[slot].wait(max(1, deadline - time.monotonic())) == 0, workers.said(slot)
    compare(log, prefix, rows, seed)


@pytest.mark.timeout(400)
def test_one_worker_becomes_three_and_one_again_and_the_broker_dies(
    tmp_path: Path, made_workers: list[Workers]
) -> None:
    """All the time there is something to do: input comes in pieces, between the changes and during them."""
    seed = int(time.time())
    prefix, rows = unique("scaled"), traffic(seed)
    deadline = time.monotonic() + 300
    with killable() as kafka, with_its_log(kafka, tmp_path):
        log = KafkaLog(kafka.bootstrap)
        create(log, prefix)
        workers = Workers(kafka.bootstrap, prefix, tmp_path)
        made_workers.append(workers)
        traffic_in = Input(log, prefix, rows)
        workers.start(0)
        workers.until_running(0, deadline)
        traffic_in.write_on(0.2)
        for slot in (1, 2):
            workers.start(slot)
        traffic_in.write_on(0.2)
        for slot in (1, 2):
            workers.until_running(slot, deadline)
        traffic_in.write_on(0.1)
        kafka.kill()
        kafka.start()
        traffic_in.write_on(0.2)
        workers.drain(1)
        traffic_in.write_on(0.1)
        workers.kill(2)
        traffic_in.write_on(0.2)
        assert traffic_in.written == RECORDS
        workers.drain(0)
        workers.start(0, "--stop-at-end")
        assert workers.processes[0].wait(120) == 0, workers.said(0)
        compare(log, prefix, rows, seed)
        log.close()


@pytest.mark.timeout(400)
def test_editions_replace_one_another_while_they_run_or_are_refused(
    kafka: Kafka, log: KafkaLog, tmp_path: Path, made_workers: list[Workers]
) -> None:
    """Two editions of the job in one group: one that renames a store is refused and harms nobody; one that adds a store
    shares the tasks and takes them over; then the first one is refused, which would leave that store out."""
    seed = int(time.time())
    prefix, rows = unique("rolling"), traffic(seed)
    deadline = time.monotonic() + 300
    create(log, prefix)
    workers = Workers(kafka.bootstrap, prefix, tmp_path)
    made_workers.append(workers)
    traffic_in = Input(log, prefix, rows)
    workers.start(0)
    workers.until_running(0, deadline)
    traffic_in.write_on(0.3)
    workers.start(1, "--set", "edition=renamed")
    assert workers.processes[1].wait(60) == 2, workers.said(1)
    assert "`per-window`" in workers.said(1)
    assert workers.running(0), workers.said(0)
    workers.start(2, "--set", "edition=extended")
    workers.until_running(2, deadline)
    traffic_in.write_on(0.3)
    workers.drain(0)
    traffic_in.write_on(0.4)
    workers.drain(2)
    workers.start(2, "--set", "edition=extended", "--stop-at-end")
    assert workers.processes[2].wait(120) == 0, workers.said(2)
    workers.start(0)
    assert workers.processes[0].wait(60) == 2, workers.said(0)
    assert "`per-minute`" in workers.said(0)
    compare(log, prefix, rows, seed)
