"""Rows become records and records rows, in one task and in order."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver

col = ads.col


class Order(ads.Record):
    id: str
    user: str
    at: datetime
    price: Annotated[Decimal, ads.decimal(10, 2)]


class Newest(ads.Record):
    user: str
    price: Annotated[Decimal, ads.decimal(10, 2)]
    seen: int


def newest(app: ads.App) -> None:
    orders = app.stream("orders", Order, timestamp="at", key="user").filter(col("price") > 1)
    rows = (
        orders.records("user")
        .group_by_key()
        .aggregate(
            lambda: {"seen": 0},
            lambda k, v, a: {"price": v["price"], "seen": a["seen"] + 1},
            ads.Materialized(caching=False),
        )
        .to_stream()
        .rows(Newest, key="user")
    )
    rows.with_columns(double=col("price") * 2).to("newest", key="user")
    rows.sink(ads.sinks.Sql("newest", key="user"))


TOPOLOGY = ads.topology(name="app")(newest)


def order(i: int, user: str, price: Any) -> dict[str, Any]:
    return {"id": str(i), "user": user, "price": price}


def test_expressions_before_and_after() -> None:
    with TopologyTestDriver(TOPOLOGY, partitions=2, commit_every=1) as driver:
        orders = driver.input("orders")
        for i, (user, price) in enumerate([("a", "2.50"), ("b", "1.00"), ("a", "3.00")]):
            orders.pipe(order(i, user, price), at=1_700_000_000_000 + i)
        assert [(r.key, r.value) for r in driver.output("newest").read()] == [
            ("a", {"user": "a", "price": "2.50", "seen": 1, "double": "5.00"}),
            ("a", {"user": "a", "price": "3.00", "seen": 2, "double": "6.00"}),
        ]
        [sink] = driver._description["sinks"]
        assert driver.table(sink["name"]) == {"a": {"user": "a", "price": Decimal("3.00"), "seen": 2}}


@pytest.mark.parametrize("batch_rows", [1, 2, 7, None])
def test_batches_do_not_show(batch_rows: int | None) -> None:
    with TopologyTestDriver(TOPOLOGY, partitions=1, batch_rows=batch_rows) as driver:
        for i in range(20):
            driver.input("orders").pipe(order(i, "ab"[i % 2], f"{i}.00"), at=1_700_000_000_000 + i)
        found = [(r.key, r.value["seen"], r.value["price"]) for r in driver.output("newest").read()]
    assert found == [("ab"[i % 2], i // 2, f"{i}.00") for i in range(2, 20)]


@pytest.mark.parametrize("batch_rows", [1, 2, 3, None])
def test_a_stream_that_becomes_records_twice_keeps_its_order(batch_rows: int | None) -> None:
    """What one branch puts into a table is there for the rows of the other that come later, and not for those before."""

    class Event(ads.Record):
        k: str
        kind: str
        n: int

    def build(app: ads.App) -> None:
        events = app.stream("events", Event, key="k")
        asking = events.filter(ads.col("kind") == "a").records("k")
        told = events.filter(ads.col("kind") == "b").records("k").to_table()
        asking.left_join(told, ads.joined(prefix="r_")).to("out")

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1, batch_rows=batch_rows) as driver:
        for n, kind in enumerate("aababbaa"):
            driver.input("events").pipe({"k": "x", "kind": kind, "n": n}, key="x", at=1_000 * n)
        found = [(r.value["n"], r.value.get("r_n")) for r in driver.output("out").read()]
    assert found == [(0, None), (1, None), (3, 2), (6, 5), (7, 5)]


def test_a_value_of_another_type_is_a_dead_letter() -> None:
    def build(app: ads.App) -> None:
        orders = app.stream("orders", Order, timestamp="at", key="user")
        made = orders.records("user").map_values(lambda v: {"price": v["price"], "seen": "many"})
        made.rows(Newest, key="user").to("newest", key="user")

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1) as driver:
        driver.input("orders").pipe(order(1, "a", "2.00"), at=1_700_000_000_000)
        assert driver.output("newest").read() == []
        [letter] = driver.dead_letters("orders")
        assert (letter.reason, letter.offset, letter.message) == ("bad_field", 0, '`seen` is "many", not `int`')


def test_another_key_shuffles_and_rows_may_be_grouped_again() -> None:
    def build(app: ads.App) -> None:
        orders = app.stream("orders", Order, timestamp="at", key="user")
        counts = orders.records("id").group_by_key("by-id").count(ads.Materialized("ids", caching=False)).to_stream()

        class Count(ads.Record):
            id: str
            n: int

        rows = counts.rows(Count, key="id", value="n")
        rows.filter(col("n") == 1).group_by("n").aggregate(distinct=ads.count()).to("distinct", key="n")

    with TopologyTestDriver(ads.topology(name="app")(build), partitions=3) as driver:
        for i in range(10):
            driver.input("orders").pipe(order(i % 4, f"u{i}", "2.00"), at=1_700_000_000_000 + i)
        driver.restart()
        driver.input("orders").pipe(order(0, "u0", "2.00"), at=1_700_000_001_000)
        assert driver.output("distinct").read()[-1].value == {"n": 1, "distinct": 4}
