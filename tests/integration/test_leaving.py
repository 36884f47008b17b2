"""A worker leaves within its bound, whatever its targets do."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from tests.servers import Postgres
from tests.servers.postgres import _children
from tests.unit.cli.support import project, start

pytestmark = pytest.mark.servers


@pytest.mark.skipif(sys.platform != "linux", reason="looks for children in /proc")
def test_a_database_that_hangs_does_not_hold_a_stopped_worker(tmp_path: Path) -> None:
    """It takes what it is sent and never answers: the flush under way has a thread of its own, and the end of the process
    would wait for it."""
    project(tmp_path)
    with Postgres() as postgres:
        run = ("run", "shop:orders", "--input", "orders=orders.jsonl", "--log", "memory:", "--sql", postgres.url())
        with start(*run, cwd=tmp_path, ADSTREAM_FLUSH_EVERY="4s", ADSTREAM_DRAIN_TIMEOUT="2s") as worker:
            while not opened(postgres):
                assert worker.poll() is None
                time.sleep(0.1)
            frozen = [postgres.pid, *_children(postgres.pid)]
            tell(frozen, signal.SIGSTOP)
            try:
                time.sleep(8)
                worker.send_signal(signal.SIGTERM)
                _, said = worker.communicate(timeout=40)
            finally:
                worker.kill()
                tell(frozen, signal.SIGCONT)
            assert (worker.returncode, "drain timed out" in said) == (5, True), said


def tell(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # a backend whose client has gone
            os.kill(pid, number)


def opened(postgres: Postgres) -> bool:
    with psycopg.connect(postgres.url()) as db:
        return db.execute("select to_regclass('orders')").fetchone() != (None,)
