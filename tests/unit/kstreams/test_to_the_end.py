"""`--stop-at-end` where sub-topologies feed one another: real workers on the embedded log end when everything has been
asked and answered, and not before."""

import json
import random
import threading
import time
from typing import Any

import pytest

import adstream as ads
from adstream._core import Plan, RawBatch, murmur2
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import launch
from adstream.runtime.assignment import prepare
from adstream.runtime.settings import Settings
from adstream.runtime.worker import Worker

S, J = ads.serdes.string, ads.serdes.json_
PARTITIONS = {"orders": 3, "products": 2}


@ads.topology(name="named")
def topology(app: ads.App) -> None:
    orders, products = app.table("orders", key=S, value=J), app.table("products", key=S, value=S)
    named = orders.left_join(products, lambda o, p: [o["n"], p], foreign_key=lambda o: o["product"], name="named")
    named.to_stream().to("out")


def send(log: EmbeddedLog, records: list[tuple[str, str, bytes | None]]) -> None:
    writer = log.writer("test")
    for at, (topic, key, value) in enumerate(records):
        partition = (murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS[topic]
        batch = RawBatch([(0, at, key.encode(), value, [])])
        assert writer.commit([(topic, partition, batch)], {}, "g", None) is Outcome.COMMITTED  # type: ignore[arg-type]


def table(log: EmbeddedLog) -> dict[str, Any]:
    found: dict[str, Any] = {}
    reader = log.reader()
    for p in range(log.partitions(["out"])["out"]):
        reader.add("out", p, 0)
        while (batch := reader.read("out", p, 1_000)) is not None:
            for _, _, key, value, _ in batch.records():
                assert key is not None
                found[key.decode()] = json.loads(value or b"null")
    reader.close()
    return {key: value for key, value in found.items() if value is not None}


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_asked_last_is_answered_before_the_end(workers: int) -> None:
    rng = random.Random(workers)
    log = EmbeddedLog()
    log.create_topics([TopicSpec(topic, count) for topic, count in PARTITIONS.items()])
    built = topology.build()
    plan = Plan(built.json, built.callables)
    orders: dict[str, Any] = {}
    products: dict[str, str] = {}
    for round_ in range(4):
        records: list[tuple[str, str, bytes | None]] = []
        for _ in range(60):
            product = rng.choice("pqrs")
            if rng.random() < 0.3:
                products[product] = f"{product}{round_}{rng.random():.3f}"
                records.append(("products", product, products[product].encode()))
            else:
                key = f"o{rng.randrange(9)}"
                orders[key] = {"product": product, "n": rng.randrange(5)}
                records.append(("orders", key, json.dumps(orders[key]).encode()))
        send(log, records)
        settings = {"batch_rows_max": rng.choice((1, 7, 100)), "commit_interval_ms": rng.choice((1, 20))}
        crew = [
            Worker(
                plan,
                prepare(log, plan, create_topics=True),
                Settings(app="named", slot=slot, create_topics=True, **settings),
                log,
                lambda: time.monotonic_ns() // 1_000_000,
                {},
                stop_at_end=True,
            )
            for slot in range(workers)
        ]
        threads = [threading.Thread(target=worker.run) for worker in crew]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert table(log) == {key: [o["n"], products.get(o["product"])] for key, o in orders.items()}
    log.close()


@pytest.mark.parametrize("cache", [True, False])
def test_the_setting_cache_says_whether_tables_hold_back_what_changes_again(cache: bool) -> None:
    @ads.topology(name="counted")
    def counted(app: ads.App) -> None:
        app.stream("in", key=S, value=S).group_by_key().count().to_stream().to("out")

    log = EmbeddedLog()
    log.create_topics([TopicSpec("in", 1)])
    rows = [(at, at, b"k", b"v", []) for at in range(50)]
    assert log.writer("test").commit([("in", 0, RawBatch(rows))], {}, "g", None) is Outcome.COMMITTED  # type: ignore[arg-type]
    built = counted.build()
    settings = Settings(create_topics=True, cache=cache)
    launch.run(Plan(built.json, built.callables), settings, log, stop_at_end=True)
    reader = log.reader()
    reader.add("out", 0, 0)
    batch = reader.read("out", 0, 1_000)
    assert batch is not None
    told = [int.from_bytes(r[3] or b"") for r in batch.records()]
    assert told[-1] == 50
    assert len(told) < 50 if cache else told == list(range(1, 51))
    log.close()
