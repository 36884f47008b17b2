"""The ads platform: what the ledger books, how fast lists are made and read, and all jobs together.

ledger      charges of 50 advertisers into the migrated schema, by `ads_ledger.post`, a batch a transaction; beside it the least
            that Postgres can do with such batches: rows into a table with a primary key
ranking     10,000 campaigns scored, ordered and priced anew; beside it numpy, where it is installed, which scores and orders
            floats
auction     `Auction.who` of a list of 100, beside a bare HMGET of the same three fields
platform    a market worked through by all jobs in one process, on the embedded log (`adstream demo ads`), and found right
"""

from __future__ import annotations

import importlib
import json
import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import redis

import adstream as ads
from adstream.cli import demo_ads
from adstream.cli.market_rows import differences
from adstream.interfaces import TopicSpec
from adstream.jobs.ads import Auction, market_truth
from adstream.jobs.ads.ledger import MIGRATIONS, ROLE
from adstream.jobs.ads.market import Market, closing, day, opening
from adstream.jobs.ads.topics import TOPICS
from adstream.logs.embedded import EmbeddedLog
from adstream.targets.sql_function import SqlFunction, migrate
from benches.harness import MEASURED, SERVERS, Bench, Wrong, core, pin
from tests.servers import Postgres, Redis

POSTINGS, BATCH = 40_000, 2_000
CAMPAIGNS, SHOWN = 10_000, 100
ASKED = 5_000
EVENTS = 20_000
ASKS = {
    "id": "str", "type": "str", "account": "str", "campaign": "str", "at": "timestamp", "sum": "decimal(15,2)", "state": "str",
}  # fmt: skip
ANSWERS = ("posting_id", "status", "balance", "spend", "effects")


def measure(bench: Bench) -> None:
    pin(os.getpid(), MEASURED)
    with Postgres() as postgres, Redis() as store:
        for server in (postgres, store):
            pin(server.pid, SERVERS)
        ledger(bench, postgres)
        ranking(bench)
        auction(bench, store)
        os.sched_setaffinity(0, core(MEASURED) | core(SERVERS))
        platform(bench, postgres, store)


def ledger(bench: Bench, postgres: Postgres) -> None:
    url = postgres.create_database("bench_ledger")
    migrate(url, "ads_ledger", MIGRATIONS)
    post = SqlFunction(url, "ads_ledger.post", ASKS, ANSWERS, ROLE)
    at = datetime(2024, 1, 15, 1, tzinfo=UTC)
    names = [f"A{n:02d}" for n in range(50)]
    post(_columns([(f"payment:{a}", "DEPOSIT", a, None, at, Decimal(10**9), None) for a in names]))
    count = POSTINGS // 10 if bench.quick else POSTINGS
    best = {"ads_ledger.post": float("inf"), "rows into a table": float("inf")}
    with psycopg.connect(url, autocommit=True) as link:
        link.execute(
            "CREATE TABLE plain (id text PRIMARY KEY, kind text, account text, campaign text, at timestamptz, sum numeric)"
        )
        kinds = ["text", "text", "text", "text", "timestamptz", "numeric"]
        insert = f"INSERT INTO plain SELECT * FROM unnest({', '.join(f'%s::{kind}[]' for kind in kinds)})"
        for turn in range(bench.rounds):
            batches = [
                _columns(
                    [
                        (
                            f"click:{turn}-{n}",
                            "CHARGE",
                            names[n % 50],
                            f"c{n % 200}",
                            at + timedelta(milliseconds=n),
                            Decimal(n % 900),
                            None,
                        )
                        for n in range(first, first + BATCH)
                    ]
                )
                for first in range(0, count, BATCH)
            ]
            for name, do in (
                ("ads_ledger.post", post),
                ("rows into a table", lambda batch: link.execute(insert, list(batch.values())[:6])),
            ):
                began = time.perf_counter()
                for batch in batches:
                    do(batch)
                best[name] = min(best[name], time.perf_counter() - began)
        charged = link.execute(
            "SELECT count(*) FROM ads_ledger.posting WHERE kind = 'CHARGE' AND status = 'POSTED'"
        ).fetchone()
    post.close()
    if charged != (count * bench.rounds,):
        raise Wrong(f"ledger: {charged} of {count * bench.rounds} charges")
    bench.note("ledger, postings", count / best["ads_ledger.post"] / 1e3, "k/s", target=20)
    bench.note(
        "the same rows into a table", count / best["rows into a table"] / 1e3, "k/s", note="one index, nothing decided"
    )


def _columns(rows: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return {name: [row[n] for row in rows] for n, name in enumerate(ASKS)}


def ranking(bench: Bench) -> None:
    chance = random.Random(1)
    ids = [f"campaign_{n:05d}" for n in range(CAMPAIGNS)]
    bids = [chance.randrange(10_000, 500_000) for _ in ids]
    ctrs = [chance.randrange(1_000_000, 50_000_000) for _ in ids]
    cvrs = [chance.randrange(1_000_000, 50_000_000) for _ in ids]
    values = [chance.randrange(100_000, 10_000_000) for _ in ids]
    since = list(range(CAMPAIGNS))
    found = ads.rank.Ranking(reserve=100)

    def again() -> None:
        found.put_many(ids, bids=bids, ctrs=ctrs, cvrs=cvrs, values=values, since=since)
        found.top(SHOWN)

    again()
    took = _best(again, bench.rounds * 5)
    bench.note("ranking, 10,000 campaigns anew and the first 100", took * 1e3, "ms", target=5, better="less")
    scores = {}
    for id, bid, ctr, cvr, value in zip(ids, bids, ctrs, cvrs, values, strict=True):
        scores[id] = bid / 100 * ctr / 1e9 + 0.1 * ctr / 1e9 * cvr / 1e9 * value / 100
    best = sorted(ids, key=lambda id: -scores[id])[:SHOWN]
    wrong = [
        line.id for line, id in zip(found.top(SHOWN), best, strict=True) if abs(scores[line.id] - scores[id]) > 1e-6
    ]
    if wrong:
        raise Wrong(f"ranking: {wrong[:3]} are not where plain Python has them")
    try:
        numpy: Any = importlib.import_module("numpy")
    except ModuleNotFoundError:
        bench.say("numpy is not installed: nothing beside it")
        return
    arrays = [numpy.array(column, dtype=float) for column in (bids, ctrs, cvrs, values)]

    def plainly() -> None:
        bid, ctr, cvr, value = arrays
        score = bid / 100 * (ctr / 1e9) + 0.1 * (ctr / 1e9) * (cvr / 1e9) * (value / 100)
        numpy.lexsort((since, -bid, -score))[:SHOWN]

    bench.note(
        "numpy: floats scored and ordered", _best(plainly, bench.rounds * 5) * 1e3, "ms", note="no prices, no ids"
    )


def auction(bench: Bench, store: Redis) -> None:
    common = {"bid_price": "1500", "actual_price": "1005"}
    offers = [
        common | {"product_id": f"p{n}", "score": f"{100 - n}.5", "campaign_id": f"c{n}", "advertiser_id": f"a{n}"}
        for n in range(SHOWN)
    ]
    fields = ["version", "total_campaigns", "ranking_list"]
    with redis.Redis.from_url(store.url(3)) as client:
        client.hset(
            "rtb:HOME:electronics", mapping=dict(zip(fields, ["1", str(SHOWN), json.dumps(offers)], strict=True))
        )
        asks = Auction(client)
        [best] = asks.who("HOME", "electronics")
        if best.campaign_id != "c0":
            raise Wrong(f"auction: {best}")
        count = ASKED // 10 if bench.quick else ASKED
        for name, ask, target in (
            ("auction, who is shown", lambda: asks.who("HOME", "electronics"), 1.0),
            ("a bare HMGET", lambda: client.hmget("rtb:HOME:electronics", fields), None),
        ):
            times = sorted(_timed(ask) for _ in range(count))
            p50, p99 = times[count // 2], times[count * 99 // 100]
            bench.note(f"{name}, p99", p99 * 1e3, "ms", target=target, better="less", note=f"median {p50 * 1e3:.3f}")


def platform(bench: Bench, postgres: Postgres, store: Redis) -> None:
    count = EVENTS // 10 if bench.quick else EVENTS
    market = Market(seed=1, events=count)
    sql, shown = postgres.create_database("bench_platform"), store.url(4)
    log = EmbeddedLog(None, sync=False)
    log.create_topics([TopicSpec(topic.name, topic.partitions) for topic in TOPICS])
    jobs = demo_ads.Platform(log, {"sql": sql, "redis": shown, "ledger": sql})
    sender = demo_ads.Sender(log, count)
    try:
        jobs.start()
        sender.send(opening(market), jobs)
        jobs.settle()
        began, used = time.perf_counter(), time.process_time()
        sender.send(day(market), jobs)
        jobs.settle()
        took, cpu = time.perf_counter() - began, time.process_time() - used
        sender.send(closing(market), jobs)
        jobs.settle()
        with redis.Redis.from_url(shown) as client:
            if wrong := differences(market_truth.compute(sender.logs), sql, client):
                raise Wrong(f"platform: {wrong}")
    finally:
        jobs.stop()
        log.close()
    note = (
        f"{cpu / count * 1e6:.0f} us of CPU an event here, the servers' beside it; {market.share_clicks:.0%} are clicks"
    )
    bench.note("platform, ad events", count / took / 1e3, "k/s", target=100, note=note)


def _best(do: Callable[[], object], times: int) -> float:
    return min(_timed(do) for _ in range(times))


def _timed(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began
