"""Rows per second through the targets' `write`, position included: the job's table into SQLite and Postgres (COPY into a
staging table, and `executemany`), its products into Redis. Each flush updates rows that are there; the first round,
which inserts, is not counted. Read back and counted.
"""

from __future__ import annotations

import tempfile
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import redis
import sqlalchemy as sa

from adstream._core import Plan
from adstream.targets.redis import RedisHashTarget
from adstream.targets.sql import SqlTarget
from benches.data import built
from benches.harness import MEASURED, SERVERS, Bench, Wrong, pin
from tests.servers import Postgres, Redis

ROWS, ROWS_QUICK = 20_000, 6_000


def measure(bench: Bench) -> None:
    import json
    import os

    job = built("bench")
    sinks = {s["kind"]: s for s in json.loads(Plan(job.json, job.callables).describe())["sinks"]}
    count = ROWS_QUICK if bench.quick else ROWS
    pin(os.getpid(), MEASURED)
    table = "ad_performance_metrics_realtime"
    with tempfile.TemporaryDirectory() as folder, Postgres() as postgres, Redis() as store:
        for server in (postgres, store):
            pin(server.pid, SERVERS)
        sqlite = f"sqlite:///{Path(folder, 'rows.sqlite')}"
        for name, url, copy_from in (
            ("SQLite", sqlite, 1),
            ("Postgres, COPY", postgres.url(), 1),
            ("Postgres, executemany", postgres.url(), 1 << 60),
        ):
            target = SqlTarget(url, table, copy_rows_min=copy_from)
            _rate(bench, name, target, sinks["sql"], rows(count), count)
            target.close()
            with sa.create_engine(sqlite if name == "SQLite" else _psycopg(postgres.url())).connect() as connection:
                there = connection.scalar(sa.text(f"SELECT count(*) FROM {table}"))
            if there != count:
                raise Wrong(f"{name}: {there} rows instead of {count}")
        products = {
            "product_id": [f"product_{n:05d}" for n in range(count)],
            **{name: list(range(count)) for name in ("impressions", "clicks", "conversions")},
            **{name: [n / 7 for n in range(count)] for name in ("ctr", "cvr")},
        }
        hashes = RedisHashTarget(store.url(), "product-metrics:{product_id}")
        _rate(bench, "Redis", hashes, sinks["redis_hash"], products, count)
        hashes.close()
        there = sum(1 for _ in redis.Redis.from_url(store.url()).scan_iter("product-metrics:*", count=10_000))
        if there != count:
            raise Wrong(f"Redis: {there} hashes instead of {count}")


def _psycopg(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


def _rate(bench: Bench, name: str, target: Any, sink: dict[str, Any], values: dict[str, list[Any]], count: int) -> None:
    target.open(f"bench-{name.lower().replace(' ', '-')}", sink["name"], sink["columns"], sink["key"])
    best, cpu = float("inf"), 0.0
    for turn in range(bench.rounds + 1):
        began, used = time.perf_counter(), time.process_time()
        if not target.write(0, turn, turn + 1, values):
            raise Wrong(f"{name}: the position had moved")
        took = time.perf_counter() - began
        if turn and took < best:
            best, cpu = took, time.process_time() - used
    bench.note(
        name, count / best / 1e3, "k rows/s", note=f"{cpu / count * 1e6:.1f} us CPU a row here, flushes of {count:,}"
    )


def rows(count: int) -> dict[str, list[Any]]:
    start = datetime(2024, 1, 15, 10, tzinfo=UTC)
    return {
        "campaign_id": [f"campaign_{n % 200:03d}" for n in range(count)],
        "product_id": [f"product_{n:07d}" for n in range(count)],
        "placement": ["SEARCH"] * count,
        "metric_time": [start] * count,
        "impression_count": list(range(count)),
        "click_count": [n // 10 for n in range(count)],
        "conversion_count": [n // 100 for n in range(count)],
        "total_spend": [Decimal(n).scaleb(-2) for n in range(count)],
        "total_revenue": [Decimal(n * 17).scaleb(-2) for n in range(count)],
        "ctr": [n / 7 for n in range(count)],
        "cvr": [n / 9 for n in range(count)],
        "roas": [Decimal(n * 13).scaleb(-6) for n in range(count)],
        "ctr_undefined": [False] * count,
        "updated_at": [start + timedelta(milliseconds=n) for n in range(count)],
    }
