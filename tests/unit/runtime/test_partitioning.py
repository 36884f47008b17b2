"""Where sampled records lie, and what is said of it; the checks at a start and in `topics check`."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable

import pytest

import adstream as ads
from adstream._core import Plan, RawBatch
from adstream.errors import ConfigError
from adstream.interfaces import TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime.launch import check_partitioning
from adstream.runtime.partitioning import keyed, sample
from adstream.runtime.settings import Settings
from tests.truth.murmur import javas_partition

KEYS = [b"key-%d" % i for i in range(40)]


class Order(ads.Record):
    shop: str


@ads.topology
def shops(app: ads.App, declared: bool = True) -> None:
    app.stream("orders", Order, key="shop" if declared else None).group_by("shop").count().named("n")
    users = app.table("users", key=ads.serdes.string)
    app.stream("pay", key=ads.serdes.string).left_join(users, ads.joined(prefix="u_")).to("out")
    app.stream("clicks", key=ads.serdes.string).filter(ads.col("a") > 1).to("out-2")


def plan(declared: bool = True) -> Plan:
    built = shops.build(declared=declared)
    return Plan(built.json, built.callables)


def written(place: Callable[[int, bytes], int], keys: list[bytes | None] = KEYS, partitions: int = 4) -> EmbeddedLog:  # type: ignore[assignment]
    log = EmbeddedLog()
    log.create_topics([TopicSpec("orders", partitions), TopicSpec("users", 2), TopicSpec("pay", 2)])
    log.create_topics([TopicSpec("clicks", 2)])
    for i, key in enumerate(keys):
        row = RawBatch([(0, i, key, b"{}", [])])
        log.writer("w").commit([("orders", place(i, key or b""), row)], {}, "g", None)
    return log


def test_inputs_whose_keys_are_relied_on() -> None:
    assert keyed(json.loads(plan().describe())) == ["orders", "users", "pay"]
    assert keyed(json.loads(plan(declared=False).describe())) == ["users", "pay"]


def test_a_declared_key_that_nothing_is_kept_by_is_not_relied_on() -> None:
    """Else `ads.performance` warned of its own traffic, whose key it shuffles away."""

    @ads.topology
    def passing(app: ads.App) -> None:
        orders = app.stream("orders", Order, key="shop").deduplicate("shop", within="1h")
        orders.filter(ads.col("shop") != "x").to("out")

    built = passing.build()
    assert keyed(json.loads(Plan(built.json, built.callables).describe())) == []


@pytest.mark.parametrize("partitions", [2, 3, 7])
def test_by_javas_partitioner_all_is_well(partitions: int) -> None:
    log = written(lambda i, key: javas_partition(key, partitions), partitions=partitions)
    [found] = sample(log, ["orders", "none", "users"])
    assert found.good
    assert found.seen == len(KEYS)


@pytest.mark.parametrize("tail", [8, 16])
def test_keys_of_windows_lie_by_the_key_inside(tail: int) -> None:
    """As Kafka Streams writes them; without one that lies elsewhere."""
    whole: list[bytes | None] = [key + i.to_bytes(tail) for i, key in enumerate(KEYS)]
    [found] = sample(written(lambda i, key: javas_partition(key[:-tail], 4), whole), ["orders"])
    assert found.good
    assert found.seen == len(KEYS)
    [found] = sample(written(lambda i, key: javas_partition(key[: -tail + (i == 7)], 4), whole), ["orders"])
    assert not found.good


def test_by_crc32_it_is_said_whose_that_is() -> None:
    log = written(lambda i, key: zlib.crc32(key) % 4)
    [found] = sample(log, ["orders"])
    astray = [key for key in KEYS if zlib.crc32(key) % 4 != javas_partition(key, 4)]
    assert found.astray == len(astray) > 0
    assert found.crc32
    assert not found.scattered
    assert "librdkafka's default: set `partitioner=murmur2_random`" in str(found)
    assert found.first is not None
    partition, _, home = found.first
    assert partition != home


def test_keys_that_are_scattered_and_records_without() -> None:
    log = written(lambda i, key: i % 4, [*KEYS, *KEYS[1:4], None, None])
    [found] = sample(log, ["orders"])
    assert found.scattered
    assert found.keyless == 2
    assert "equal keys are in several partitions" in str(found)
    assert "2 of 45 sampled records have no key" in str(found)


def test_the_newest_records_are_looked_at() -> None:
    log = written(lambda i, key: 0 if i < 20 else javas_partition(key, 4))
    assert not sample(log, ["orders"])[0].good
    [found] = sample(log, ["orders"], records=1)
    assert found.seen == 4
    assert found.good


def test_one_partition_has_nothing_to_say() -> None:
    assert sample(written(lambda i, key: 0, partitions=1), ["orders"]) == []


def test_a_start_warns_or_refuses_or_does_not_look(caplog: pytest.LogCaptureFixture) -> None:
    log = written(lambda i, key: i % 4)
    with caplog.at_level(logging.WARNING):
        check_partitioning(plan(), Settings(), log)
    [said] = [record.getMessage() for record in caplog.records]
    assert "are not where murmur2 of their key says" in said
    assert "murmur2_random" in said
    with pytest.raises(ConfigError, match="are not where murmur2"):
        check_partitioning(plan(), Settings(partition_check="error"), log)
    caplog.clear()
    check_partitioning(plan(), Settings(partition_check="off"), log)
    check_partitioning(plan(declared=False), Settings(partition_check="error"), log)
    assert not caplog.records
    with pytest.raises(ConfigError, match="`maybe` is not one of warn, error, off"):
        Settings(partition_check="maybe")
