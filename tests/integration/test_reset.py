"""`adstream reset` on a real Kafka, with a table in Postgres and hashes in Redis: refused while a worker runs, then the
job starts over and comes to the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import redis as redis_client

from adstream._core import RawBatch
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.kafka import KafkaLog
from tests.logs.conformance import KEPT, unique, until
from tests.servers import Kafka, Postgres, Redis

pytestmark = pytest.mark.servers

JOB = """
import adstream as ads


class Order(ads.Record):
    shop: str
    amount: int


@ads.topology
def shops(app: ads.App, source: str) -> None:
    totals = app.stream(source, Order).group_by("shop").aggregate(total=ads.sum("amount")).named("totals")
    totals.to_stream().to(f"{source}-totals")
    totals.sink(ads.sinks.Sql("totals", key=["shop"]))
    totals.sink(ads.sinks.RedisHash("shop:{shop}"))
"""


@pytest.fixture
def log(kafka: Kafka) -> Iterator[KafkaLog]:
    made = KafkaLog(kafka.bootstrap, session_ms=1_500)
    yield made
    made.close()


def test_it_starts_over(log: KafkaLog, kafka: Kafka, postgres: Postgres, redis_server: Redis, tmp_path: Path) -> None:
    app, source = unique("shops"), unique("orders")
    (tmp_path / "shops.py").write_text(JOB)
    log.create_topics([TopicSpec(source, 2, KEPT), TopicSpec(f"{source}-totals", 2, KEPT)])
    for p in (0, 1):
        rows = [(i, 1_000 + i, None, b'{"shop":"s%d","amount":%d}' % (i % 3, i), []) for i in range(30)]
        assert log.writer(unique("w")).commit([(source, p, RawBatch(rows))], {}, app, None) is Outcome.COMMITTED
    sql, redis_url = postgres.create_database(unique("shops").replace("-", "_")), redis_server.url(3)

    def call(*command: str) -> tuple[int, str]:
        given = [*command, "--bootstrap", kafka.bootstrap, "--app", app, "--set", f"source={source}"]
        given += ["--sql", sql, "--redis", redis_url]
        done = subprocess.run(
            [sys.executable, "-m", "adstream.cli", *given], cwd=tmp_path, capture_output=True, text=True, timeout=100
        )
        return done.returncode, done.stdout + done.stderr

    def results() -> tuple[dict[str, int], dict[str, str], int]:
        with psycopg.connect(sql) as db:
            rows = dict(db.execute("select shop, total from totals").fetchall())
        with closing(redis_client.Redis.from_url(redis_url, decode_responses=True)) as redis:
            hashes = {shop: redis.hget(f"shop:{shop}", "total") or "" for shop in ("s0", "s1", "s2")}
        ends = log.end_offsets([(f"{source}-totals", p) for p in (0, 1)], committed=True)
        return {shop: int(total) for shop, total in rows.items()}, hashes, sum(ends.values())

    def stored() -> tuple[int, bool]:
        with psycopg.connect(sql) as db:
            [(n,)] = db.execute("select count(*) from _adstream_positions where app = %s", [app]).fetchall()
        with closing(redis_client.Redis.from_url(redis_url)) as redis:
            return n, bool(list(redis.scan_iter(f"_adstream:positions:{app}:*")))

    code, said = call("replay", "shops:shops")
    assert code == 0, said
    want = {f"s{s}": 2 * sum(range(s, 30, 3)) for s in range(3)}
    rows, hashes, told = results()
    assert rows == want
    assert hashes == {shop: str(total) for shop, total in want.items()}
    n, there = stored()
    assert n > 0
    assert there

    leases = log.leases(app, f"{app}-tasks")
    leases.start()
    until(lambda: bool(log.members(app)), [], "joined")
    code, said = call("reset", "shops:shops", "--yes")
    assert code == 2, said
    assert f"`{app}` runs" in said
    leases.close()
    until(lambda: not log.members(app), [], "left")

    code, said = call("reset", "shops:shops", "--yes")
    assert code == 0, said
    assert [topic for topic in log.topics() if topic.startswith(app)] == []
    assert stored() == (0, False)
    assert results() == (rows, hashes, told), "results are not touched"
    assert log.committed(app, [(source, 0), (source, 1)]) == {(source, 0): 0, (source, 1): 0}

    append_one = b'{"shop":"s0","amount":1000}'
    assert (
        log.writer(unique("w")).commit([(source, 0, RawBatch([(0, 2_000, None, append_one, [])]))], {}, app, None)
        is Outcome.COMMITTED
    )
    code, said = call("replay", "shops:shops")
    assert code == 0, said
    rows, hashes, more = results()
    assert rows == want | {"s0": want["s0"] + 1000}
    assert hashes["s0"] == str(rows["s0"])
    assert more > told

    code, said = call("reset", "shops:shops", "--yes", "--to-latest")
    assert code == 0, said
    code, said = call("replay", "shops:shops")
    assert code == 0, said
    assert results() == (rows, hashes, more), "nothing is read"
