"""A benchmark that is stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_bench_leaves_no_data(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "adstream.cli", "bench", "--only", "kafka", "--quick", "--rounds", "1"]
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("adstream-kafka-*/data/meta.properties")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number, said.decode()
    assert not list(tmp_path.glob("adstream-kafka-*"))
