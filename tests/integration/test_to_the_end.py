"""A run to the end on a real Kafka does what a crash has left to its sinks, too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from adstream._core import RawBatch
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.kafka import KafkaLog
from tests.logs.conformance import KEPT, unique
from tests.servers import Kafka, Postgres

pytestmark = pytest.mark.servers

JOB = """
import adstream as ads


class Order(ads.Record):
    shop: str
    amount: int


@ads.topology
def shops(app: ads.App, source: str) -> None:
    totals = app.stream(source, Order).group_by("shop").aggregate(total=ads.sum("amount")).named("totals")
    totals.sink(ads.sinks.Sql("totals", key=["shop"]))
"""


@pytest.fixture
def log(kafka: Kafka) -> Iterator[KafkaLog]:
    made = KafkaLog(kafka.bootstrap, session_ms=1_500)
    yield made
    made.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_that_were_committed_and_not_stored(
    log: KafkaLog, kafka: Kafka, postgres: Postgres, tmp_path: Path, workers: int
) -> None:
    """Which is how a worker that is killed between a commit and the flush leaves them: then nothing is to be read, and only
    the sinks' tasks know that there is something to do, once they are given to somebody."""
    app, source = unique("shops"), unique("orders")
    (tmp_path / "shops.py").write_text(JOB)
    log.create_topics([TopicSpec(source, 2, KEPT)])
    rows = [(i, 1_000 + i, None, b'{"shop":"s%d","amount":%d}' % (i % 9, i), []) for i in range(90)]
    assert log.writer(unique("w")).commit([(source, 0, RawBatch(rows))], {}, app, None) is Outcome.COMMITTED
    sql = postgres.create_database(unique("shops").replace("-", "_"))

    def run() -> list[tuple[str, int]]:
        given = ["--bootstrap", kafka.bootstrap, "--app", app, "--set", f"source={source}", "--sql", sql]
        given += ["--workers", str(workers), "--stop-at-end"]
        command = [sys.executable, "-m", "adstream.cli", "run", "shops:shops", *given]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        with psycopg.connect(sql) as db:
            return db.execute("select shop, total from totals order by shop").fetchall()

    want = run()
    assert len(want) == 9
    with psycopg.connect(sql) as db:
        db.execute("delete from totals")
        db.execute("delete from _adstream_positions")
    assert run() == want
