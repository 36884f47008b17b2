"""`adstream doctor` on a real Kafka with a running worker: an open transaction and a task that is set aside are named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer

from adstream.interfaces import TopicSpec
from adstream.logs.kafka import KafkaLog
from tests.integration.test_control import JOB, until
from tests.logs.conformance import KEPT, unique
from tests.servers import Kafka
from tests.servers.server import free_port

pytestmark = pytest.mark.servers


def test_what_holds_a_job_up_is_named(log: KafkaLog, kafka: Kafka, tmp_path: Path) -> None:
    app = unique("echo")
    (tmp_path / "echoes.py").write_text(JOB.replace('    app.on_uncaught("stop_application")\n', ""))
    log.create_topics([TopicSpec(f"{app}-{end}", 2, KEPT) for end in ("in", "out")])
    given = ["echoes:echo", "--bootstrap", kafka.bootstrap, "--app", app, "--set", f"prefix={app}"]
    command, port = [sys.executable, "-m", "adstream.cli"], free_port()

    def doctor(*options: str) -> tuple[int, str]:
        asked = [*command, "doctor", *given, "--seconds", "0.5", *options]
        done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert not done.stderr, done.stderr
        return done.returncode, done.stdout

    code, said = doctor()
    assert code == 2
    assert f"`{app}` has never run here" in said
    assert f"no worker of `{app}` runs" in said

    hanging = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": unique("hanging")})
    hanging.init_transactions(30)
    with (tmp_path / "worker.log").open("ab") as file:
        started = [*command, "run", *given, "--metrics-port", str(port)]
        worker = subprocess.Popen(started, cwd=tmp_path, env=os.environ, stdout=file, stderr=subprocess.STDOUT)
    try:
        asking = ("--metrics", f"127.0.0.1:{port}")
        until(
            lambda: "has no records" in doctor(*asking)[1] and doctor(*asking)[0] == 0, "it runs, and nothing is there"
        )

        hanging.begin_transaction()
        hanging.produce(f"{app}-in", b"waits", b"k", partition=1)
        hanging.flush(30)
        code, said = doctor(*asking)
        assert code == 2, said
        assert f"a transaction is open and holds back what is behind it: `{app}-in` [1] 1 records" in said
        hanging.commit_transaction(30)
        until(lambda: doctor(*asking)[0] == 0, "it has ended")

        hanging.begin_transaction()
        hanging.produce(f"{app}-in", b"poison", b"k", partition=0)
        hanging.commit_transaction(30)
        until(lambda: "is set aside" in doctor(*asking)[1], "the task is set aside")
        code, said = doctor(*asking)
        assert code == 2
        assert "task 0_0 is set aside" in said
        assert "a poisoned record" in said
        assert f"positions do not move, and there is something to read: `{app}-in` [0]" in said
    finally:
        worker.kill()
        worker.wait()
        print((tmp_path / "worker.log").read_text()[-3_000:])
