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
    with Postgres() as postgres, psycopg.connect(postgres.url()) as db:
        db.execute("create table orders (order_id text primary key, amount bigint)")
        db.commit()
        db.execute("lock table orders")  # a flush cannot be over before the server is frozen
        run = ("run", "shop:orders", "--input", "orders=orders.jsonl", "--log", "memory:", "--sql", postgres.url())
        with start(*run, cwd=tmp_path, ADSTREAM_DRAIN_TIMEOUT="2s") as worker:
            while not waits(postgres):
                assert worker.poll() is None
                time.sleep(0.1)
            frozen = [postgres.pid, *_children(postgres.pid)]
            tell(frozen, signal.SIGSTOP)
            try:
                worker.send_signal(signal.SIGTERM)
                _, said = worker.communicate(timeout=80)
            finally:
                worker.kill()
                tell(frozen, signal.SIGCONT)
            assert (worker.returncode, "drain timed out" in said) == (5, True), said


def tell(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # a backend whose client has gone
            os.kill(pid, number)


def waits(postgres: Postgres) -> bool:
    """Whether a flush is under way: it waits for the table."""
    with psycopg.connect(postgres.url()) as db:
        waiting = db.execute("select query from pg_stat_activity where wait_event_type = 'Lock'").fetchall()
    return any("orders" in query for (query,) in waiting)
