"""`adstream run ads`: all jobs of the platform under one supervisor, on real Kafka, Postgres and Redis; one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from adstream.jobs.ads.platform import JOBS
from adstream.logs.kafka import KafkaLog
from tests.chaos.ads_platform import workers
from tests.integration.ads.test_golden import CLICKS, DAY, click, send
from tests.integration.waiting import until
from tests.logs.conformance import unique
from tests.servers import Kafka, Postgres, Redis
from tests.servers.server import free_port
from tests.unit.cli.support import call

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


def test_all_jobs_run_under_one_supervisor(
    log: KafkaLog, kafka: Kafka, postgres: Postgres, redis_server: Redis, tmp_path: Path
) -> None:
    url, port = postgres.create_database(unique("platform").replace("-", "_")), free_port(len(JOBS))
    where = ["--bootstrap", kafka.bootstrap]
    assert call("topics", "create", "ads", "--keep-all", *where, cwd=tmp_path)[0] == 0
    given = [*where, "--sql", url, "--redis", redis_server.url(), "--metrics-port", str(port), "--create-topics"]
    command = [sys.executable, "-m", "adstream.cli", "run", "ads", *given, "-X", "kafka.session.timeout.ms=6000"]

    def rows(query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(url) as link:
            try:
                return link.execute(query).fetchall()
            except psycopg.errors.UndefinedTable:
                return []

    def balance(of: str) -> Decimal | None:
        found = rows(f"SELECT available FROM ads_ledger.advertiser WHERE advertiser_id = '{of}'")
        return found[0][0] if found else None

    with (tmp_path / "all.log").open("wb") as out:
        supervisor = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out)
    try:
        until(lambda: len(workers(supervisor.pid)) == len(JOBS), "every job has a worker")
        paid = {"payment_id": "p1", "timestamp": f"{DAY}10:00:00Z", "advertiser_id": "A50", "amount": "8000"}
        send(log, "ad-payments", "advertiser_id", paid)
        until(lambda: balance("A50") == 8000, "the payment is booked")
        movers = [click(f"m-{d}", "10:37:00", d, "other", "c9", "0", "A99") for d in ("d1", "d2")]
        send(log, "ad-events", "device_id", *(click(*one) for one in CLICKS[:6]), *movers)
        until(lambda: balance("A50") == 4400, "six clicks are charged, and three refunded")
        killed = workers(supervisor.pid)["ads.ledger"]
        os.kill(killed, signal.SIGKILL)
        send(log, "ad-events", "device_id", *(click(*one) for one in CLICKS))
        until(lambda: balance("A50") == 1900, "the others are charged, by a ledger that was started again")
        assert workers(supervisor.pid)["ads.ledger"] != killed
        with redis.Redis.from_url(redis_server.url()) as shown:
            # Three of its six clicks were given back.
            until(
                lambda: shown.hget("budget:c100", "spend") == b"3600.00",
                "what is shown of the budget is what was charged",
            )
        net = (
            "SELECT sum(click_count_net) FROM ad_performance_metrics_net WHERE campaign_id IN ('c100', 'c200', 'c300')"
        )
        until(lambda: rows(net) == [(6,)], "the duplicates are taken out of what is told of campaigns")
        for place, job in enumerate(JOBS):
            with urllib.request.urlopen(f"http://127.0.0.1:{port + place}/metrics", timeout=10) as response:
                assert f'app="{job.name.replace(".", "-").replace("_", "-")}"' in response.read().decode()
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(60) == 0
    finally:
        supervisor.kill()
        print((tmp_path / "all.log").read_text()[-6000:])
    said = (tmp_path / "all.log").read_text()
    assert "ads.ledger worker 0 ended with -9; starting it again" in said
    assert "ads.clicks worker 0 INFO    adstream.runtime" in said
    code, told, _ = call("audit", "ads", "--sql", url, *where, cwd=tmp_path)
    assert (code, "clean" in told.splitlines()[-1]) == (0, True)
