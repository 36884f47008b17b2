"""Two worker processes on a real Kafka: paused and resumed, one alone and all together, and stopped together by an error of
one task."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from adstream._core import RawBatch
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.kafka import KafkaLog
from tests.integration.waiting import until
from tests.logs.conformance import KEPT, unique
from tests.servers import Kafka
from tests.servers.server import free_port

pytestmark = pytest.mark.servers

JOB = """
import adstream as ads


def fragile(value):
    if value == "poison":
        raise ValueError("a poisoned record")
    return value


@ads.topology
def echo(app: ads.App, prefix: str) -> None:
    app.on_error(processing="fail")
    app.on_uncaught("stop_application")
    app.on_state_change(lambda new, old: print("state", new, flush=True))
    app.on_partitions_assigned(lambda partitions: print("assigned", len(partitions), flush=True))
    text = ads.serdes.string
    app.stream(f"{prefix}-in", key=text, value=text).map_values(fragile).to(f"{prefix}-out", key=text, value=text)
"""
PARTITIONS = 4
WAIT_S = 60.0


def test_two_workers_are_paused_resumed_and_stopped(log: KafkaLog, kafka: Kafka, tmp_path: Path) -> None:
    app = unique("echo")
    (tmp_path / "echoes.py").write_text(JOB)
    log.create_topics([TopicSpec(f"{app}-{end}", PARTITIONS, KEPT) for end in ("in", "out")])
    given = ["echoes:echo", "--bootstrap", kafka.bootstrap, "--app", app, "--set", f"prefix={app}"]
    command = [sys.executable, "-m", "adstream.cli"]
    ports = [free_port(), free_port()]
    processes, files = [], []
    for slot, port in enumerate(ports):
        files.append((tmp_path / f"{slot}.log").open("ab"))
        # A worker adds its slot to the port that it is given.
        options = ["--metrics-port", str(port - slot), "--commit-interval", "50ms"]
        environ = {**os.environ, "ADSTREAM_SLOT": str(slot), "ADSTREAM_WORKERS": "1"}
        started = [*command, "run", *given, *options]
        processes.append(
            subprocess.Popen(started, cwd=tmp_path, env=environ, stdout=files[-1], stderr=subprocess.STDOUT)
        )

    def send(*values: bytes) -> None:
        outputs = [
            (f"{app}-in", p, RawBatch([(i, 1_000 + i, b"k", value, []) for i, value in enumerate(values)]))
            for p in range(PARTITIONS)
        ]
        assert log.writer(unique("send")).commit(outputs, {}, app, None) is Outcome.COMMITTED

    def positions() -> list[int | None]:
        return list(log.committed(app, [(f"{app}-in", p) for p in range(PARTITIONS)]).values())

    def ends() -> list[int]:
        """Where the inputs' last records end; a transaction's marker lies behind them."""
        return [n - 1 for n in log.end_offsets([(f"{app}-in", p) for p in range(PARTITIONS)], committed=True).values()]

    def done() -> bool:
        return all(at is not None and at >= end for at, end in zip(positions(), ends(), strict=True))

    def health(port: int) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as response:
                return str(response.read().decode().strip())
        except OSError:
            return ""

    def post(port: int, what: str) -> None:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/{what}", data=b"", timeout=5).close()

    def say(what: str) -> None:
        subprocess.run([*command, what, *given], cwd=tmp_path, check=True, timeout=60, stdout=subprocess.DEVNULL)

    try:
        send(b"a", b"b")
        until(lambda: [health(port) for port in ports] == ["running", "running"], "both are running")
        until(done, "all is processed")

        say("pause")
        until(lambda: [health(port) for port in ports] == ["running, paused"] * 2, "both are paused")
        before = positions()
        send(b"c")
        time.sleep(1)
        assert positions() == before
        say("resume")
        until(done, "it went on")
        until(lambda: [health(port) for port in ports] == ["running", "running"], "both say so")

        post(ports[0], "pause")
        until(lambda: health(ports[0]) == "running, paused", "one is paused")
        assert health(ports[1]) == "running"
        before = positions()
        send(b"d")
        until(lambda: sum(a != b for a, b in zip(positions(), before, strict=True)) == PARTITIONS // 2, "half went on")
        post(ports[0], "resume")
        until(done, "all went on")

        outputs = [(f"{app}-in", 0, RawBatch([(0, 2_000, b"k", b"poison", [])]))]
        assert log.writer(unique("send")).commit(outputs, {}, app, None) is Outcome.COMMITTED
        assert [process.wait(WAIT_S) for process in processes] == [4, 4]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for file in files:
            file.close()
        texts = [(tmp_path / f"{slot}.log").read_text() for slot in range(2)]
        print("\n".join(text[-3_000:] for text in texts))
    for text in texts:
        assert "state running" in text
        assert text.index("state pending_error") < text.index("state error")
        assert "assigned 2" in text or "assigned 4" in text
    assert sum("the application was stopped by worker" in text for text in texts) == 1
