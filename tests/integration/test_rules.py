"""Rules on a real broker: `adstream rules put` while two workers run, of which one is killed, and comes again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from adstream._core import RawBatch
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.kafka import KafkaLog
from tests.integration.waiting import until
from tests.logs.conformance import KEPT, unique
from tests.servers import Kafka

pytestmark = pytest.mark.servers

JOB = """
import adstream as ads


class Event(ads.Record):
    k: str
    t: str
    at: int


@ads.topology
def ruled(app: ads.App, prefix: str) -> None:
    events = app.stream(f"{prefix}-in", schema=Event, key="k")
    found = events.group_by("k").match(app.rules(f"{prefix}-rules"), max_delay="0s")
    found.select(rule=ads.rule("id"), version=ads.rule("version"), k=ads.col("k")).to(f"{prefix}-out", key="k")
"""
PARTITIONS = 3
KEYS = [f"k{n}" for n in range(12)]


@pytest.fixture
def log(kafka: Kafka) -> Iterator[KafkaLog]:
    made = KafkaLog(kafka.bootstrap, session_ms=6000)
    yield made
    made.close()


def test_rules_are_put_while_workers_run_and_one_is_killed(log: KafkaLog, kafka: Kafka, tmp_path: Path) -> None:
    app = unique("ruled")
    (tmp_path / "jobs.py").write_text(JOB)
    log.create_topics([TopicSpec(f"{app}-{end}", PARTITIONS, KEPT) for end in ("in", "out")])
    given = ["jobs:ruled", "--bootstrap", kafka.bootstrap, "--app", app, "--set", f"prefix={app}"]
    command = [sys.executable, "-m", "adstream.cli"]

    def rules(verb: str, *more: str) -> None:
        subprocess.run([*command, "rules", verb, *given, *more], cwd=tmp_path, check=True, timeout=60)

    def start(slot: int) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "ADSTREAM_SLOT": str(slot), "ADSTREAM_WORKERS": "1"}
        options = ["--commit-interval", "50ms", "-X", "kafka.session.timeout.ms=6000"]
        run = [*command, "run", *given, *options]
        with (tmp_path / f"{slot}.log").open("ab") as out:
            return subprocess.Popen(run, cwd=tmp_path, env=environ, stdout=out, stderr=out)

    sent = 0

    def send(letter: str, at: int) -> None:
        """One event of each key, to where Java's producer would write it."""
        nonlocal sent
        from adstream._core import murmur2

        parts: dict[int, list[tuple[int, int, bytes, bytes, list[tuple[str, bytes | None]]]]] = {}
        for key in KEYS:
            p = (murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS
            value = json.dumps({"k": key, "t": letter, "at": at}).encode()
            parts.setdefault(p, []).append((len(parts.get(p, ())), at, key.encode(), value, []))
        outputs = [(f"{app}-in", p, RawBatch(records)) for p, records in parts.items()]
        assert log.writer(unique("send")).commit(outputs, {}, app, None) is Outcome.COMMITTED
        sent += len(KEYS)

    def told() -> Counter[tuple[str, int, str]]:
        reader, found = log.reader(), Counter[tuple[str, int, str]]()
        where = [(f"{app}-out", p) for p in range(PARTITIONS)]
        ends = log.end_offsets(where, committed=True)
        for tp in where:
            at = log.start_offsets([tp])[tp]
            reader.add(*tp, at)
            while at < ends[tp]:
                batch = reader.read(*tp, 1000)
                if batch is None:
                    reader.wait(0.1)
                    continue
                for _, _, _, value, _ in batch.records():
                    row = json.loads(value or b"")
                    found[row["rule"], row["version"], row["k"]] += 1
                at = batch.next_offset
        reader.close()
        return found

    def of(rule: str, version: int) -> Counter[tuple[str, int, str]]:
        return Counter({(rule, version, key): 1 for key in KEYS})

    rules("put", "pair", "--pattern", "a (t = 'a') -> b (t = 'b') within 1h", "--from", "1000")
    workers = [start(0), start(1)]
    try:
        send("a", 2_000)
        send("b", 3_000)
        send(".", 4_000)
        want = of("pair", 1)
        until(lambda: told() == want, "the first rule's matches")
        # A run is under way when the next version comes, said for later, and a worker dies.
        send("a", 10_000)
        rules("put", "pair", "--pattern", "a (t = 'a') -> c (t = 'c') within 1h", "--from", "20000")
        rules("put", "single", "--pattern", "s (t = 'c')", "--from", "20000")
        workers[1].kill()
        workers[1].wait()
        send("a", 21_000)
        send("c", 22_000)
        send("b", 23_000)
        workers[1] = start(1)
        send(".", 24_000)
        want += of("pair", 1) + of("pair", 2) + of("single", 1)
        until(lambda: told() == want, "the matches of both versions")
        rules("disable", "single", "--from", "30000")
        rules("remove", "pair", "--drop", "--from", "30000")
        for at, letter in ((31_000, "a"), (32_000, "c"), (33_000, "b"), (34_000, ".")):
            send(letter, at)
        until(
            lambda: (
                sum(v or 0 for v in log.committed(app, [(f"{app}-in", p) for p in range(PARTITIONS)]).values()) >= sent
            ),
            "all is read",
        )
        time.sleep(1)
        assert told() == want
    finally:
        for process in workers:
            process.kill()
            process.wait()
