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


@pytest.mark.timeout(300)
def test_a_bench_runs_and_its_result_is_right() -> None:
    """The quick form, one round: what it measures is not asked, but that it still measures."""
    command = [sys.executable, "-m", "adstream.cli", "bench", "--only", "kafka", "--quick", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert "WRONG" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert "worker, exactly once" in done.stdout, done.stdout + done.stderr
