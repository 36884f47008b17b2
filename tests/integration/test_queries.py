"""A store of two worker processes on a real Kafka: either answers for both, and the one that is left for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from adstream._core import RawBatch
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.kafka import KafkaLog
from tests.integration.test_control import until
from tests.logs.conformance import KEPT, unique
from tests.servers import Kafka
from tests.servers.server import free_port
from tests.truth.murmur import javas_partition

pytestmark = pytest.mark.servers

JOB = """
import adstream as ads


@ads.topology
def counts(app: ads.App, source: str) -> None:
    text = ads.serdes.string
    app.stream(source, key=text, value=text).group_by_key().count("counts")
"""
PARTITIONS = 4
KEYS = [f"key-{i}" for i in range(30)]


def test_either_worker_answers_for_both(log: KafkaLog, kafka: Kafka, tmp_path: Path) -> None:
    app = unique("counts")
    (tmp_path / "counting.py").write_text(JOB)
    log.create_topics([TopicSpec(f"{app}-in", PARTITIONS, KEPT)])
    rows: dict[int, list[tuple[int, int, bytes, bytes, list[tuple[str, bytes | None]]]]] = {}
    for i, key in enumerate(KEYS * 2):
        rows.setdefault(javas_partition(key.encode(), PARTITIONS), []).append((0, 1_000 + i, key.encode(), b"v", []))
    outputs = [(f"{app}-in", p, RawBatch([(i, *row[1:]) for i, row in enumerate(some)])) for p, some in rows.items()]
    assert log.writer(unique("send")).commit(outputs, {}, app, None) is Outcome.COMMITTED  # type: ignore[arg-type]
    command = [sys.executable, "-m", "adstream.cli"]
    given = ["counting:counts", "--bootstrap", kafka.bootstrap, "--app", app, "--set", f"source={app}-in"]
    ports = [free_port(), free_port()]

    def query(port: int, **asked: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        mark: dict[str, str] = {}
        while True:
            url = f"http://127.0.0.1:{port}/stores/counts?{urllib.parse.urlencode({**asked, **mark})}"
            try:
                with urllib.request.urlopen(url, timeout=10) as response:
                    page = json.load(response)
            except OSError:  # it does not listen yet, or tasks are being moved
                return []
            found += page["entries"]
            if "next" not in page:
                return found
            mark = {"after": page["next"]}

    processes = []
    for slot, port in enumerate(ports):
        own = {"ADSTREAM_SLOT": str(slot), "ADSTREAM_WORKERS": "1", "ADSTREAM_APPLICATION_SERVER": "127.0.0.1"}
        started = [*command, "run", *given, "--metrics-port", str(port - slot), "--commit-interval", "50ms"]
        with (tmp_path / f"{slot}.log").open("ab") as file:
            processes.append(
                subprocess.Popen(started, cwd=tmp_path, env=os.environ | own, stdout=file, stderr=subprocess.STDOUT)
            )
    want = dict.fromkeys(KEYS, 2)
    try:
        until(lambda: all(query(port, local="1") for port in ports), "both have something")
        for port in ports:
            until(lambda port=port: {e["key"]: e["value"] for e in query(port)} == want, "each knows all")  # type: ignore[misc]
            for key in KEYS[:4]:
                [entry] = query(port, key=key)
                assert entry["value"] == 2
        asked = [*command, "query", "counts", "--at", f"127.0.0.1:{ports[1]}"]
        done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
        assert len(done.stdout.splitlines()) == len(KEYS)
        processes[0].terminate()
        assert processes[0].wait(30) == 0
        until(lambda: {e["key"]: e["value"] for e in query(ports[1])} == want, "the heir answers alone")
    finally:
        for process in processes:
            process.kill()
            process.wait()
        print("\n".join((tmp_path / f"{slot}.log").read_text()[-3_000:] for slot in range(2)))
