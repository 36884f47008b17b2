"""The test driver itself: what goes in, what comes out, and when."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import pytest

import adstream as ads
from adstream import col
from adstream.testing import Record, TopologyTestDriver
from adstream.testing.driver import STEPS


class Order(ads.Record):
    at: Annotated[datetime, ads.epoch("ms")]
    user: str | None
    price: Annotated[Decimal, ads.decimal(10, 2)] | None


@ads.topology(name="shop")
def shop(app: ads.App, least: int = 0) -> None:
    orders = app.stream("orders", Order, timestamp="at", key="user").require(bad_price=col("price") >= least)
    orders.to("checked")
    orders.group_by("price").aggregate(n=ads.count()).named("by-price").to("by-price")
    windowed = orders.group_by("user").windowed_by(ads.tumbling("1m", grace="0s"))
    table = windowed.aggregate(total=ads.sum("price")).named("spent")
    table.final().to("spent")
    table.with_columns(minute=ads.window_start()).sink(ads.sinks.Sql("spent", key=["user", "minute"]))


NOON = datetime(2024, 1, 15, 12, tzinfo=UTC)
NOON_MS = 1_705_320_000_000


def one(**options: Any) -> TopologyTestDriver:
    return TopologyTestDriver(shop, partitions=1, **options)


# --- In ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["2024-01-15T12:00:00Z", "2024-01-15T21:00:00+09:00", NOON, NOON_MS])
def test_a_moment_is_written_into_the_record_and_its_field(at: Any) -> None:
    with one() as driver:
        driver.input("orders").pipe({"user": "u1", "price": 1}, at=at)
        (raw,) = driver.output("orders").read_raw()
        assert raw.timestamp == NOON_MS
        assert json.loads(raw.value or b"") == {"user": "u1", "price": 1, "at": NOON_MS}


def test_a_time_that_is_there_stays() -> None:
    with one() as driver:
        driver.input("orders").pipe({"at": 1_705_000_000_000, "user": None, "price": 1}, at=NOON)
        (raw,) = driver.output("orders").read_raw()
        assert (raw.timestamp, json.loads(raw.value or b"")["at"]) == (NOON_MS, 1_705_000_000_000)


def test_without_a_moment_the_events_time_is_the_records() -> None:
    with one() as driver:
        driver.input("orders").pipe({"at": NOON_MS, "user": "u1", "price": 1})
        driver.input("orders").pipe(b"no json")
        assert [raw.timestamp for raw in driver.output("orders").read_raw()] == [NOON_MS, NOON_MS]


def test_a_naive_time_is_refused() -> None:
    with one() as driver, pytest.raises(ValueError, match="no time zone"):
        driver.input("orders").pipe({}, at="2024-01-15T12:00:00")


def test_the_key_comes_from_the_topics_key_and_chooses_javas_partition() -> None:
    with TopologyTestDriver(shop, partitions=4) as driver:
        for user in ("21", "abc", "foobar"):
            driver.input("orders").pipe({"user": user, "price": 1}, at=NOON)
        driver.input("orders").pipe({"user": "abc", "price": 1}, at=NOON, partition=3, key="else")
        found = {(raw.key, raw.partition) for raw in driver.output("orders").read_raw()}
        # (murmur2 & 0x7fffffff) % 4, by the vectors of Kafka's own test.
        expected = {(b"21", (-973932308 & 0x7FFFFFFF) % 4), (b"abc", 479470107 % 4)}
        expected |= {(b"foobar", (-790332482 & 0x7FFFFFFF) % 4), (b"else", 3)}
        assert found == expected


def test_values_take_the_forms_of_json() -> None:
    with one() as driver:
        driver.input("orders").pipe({"at": NOON_MS, "user": "ü", "price": Decimal("1.50"), "more": NOON})
        driver.input("orders").pipe('{"x": 1}')
        driver.input("orders").pipe(None)
        values = [raw.value for raw in driver.output("orders").read_raw()]
        text = f'{{"at":{NOON_MS},"user":"ü","price":"1.50","more":"2024-01-15T12:00:00.000Z"}}'
        assert values == [text.encode(), b'{"x": 1}', None]


def test_many_go_on_in_time() -> None:
    with one() as driver:
        orders = [{"user": "u1", "price": n} for n in range(3)]
        driver.input("orders").pipe_many(orders, at=NOON, every=timedelta(seconds=2))
        assert [r.timestamp - NOON_MS for r in driver.output("checked").read()] == [0, 2000, 4000]


def test_unknown_topics_and_partitions() -> None:
    with one() as driver:
        with pytest.raises(KeyError, match="orders"):
            driver.input("oders")
        with pytest.raises(KeyError, match="checked"):
            driver.output("cheked")
        with pytest.raises(ValueError, match="1 partitions"):
            driver.input("orders").pipe({}, partition=1)
        with pytest.raises(KeyError, match="by-price"):
            driver.table("by-prise")


# --- Out --------------------------------------------------------------------------------------------------------------


def test_records_are_decoded_and_read_once() -> None:
    with one() as driver:
        driver.input("orders").pipe({"user": "u1", "price": "2.50"}, at=NOON)
        value = {"at": "2024-01-15T12:00:00.000Z", "user": "u1", "price": "2.50"}
        assert driver.output("checked").read() == [Record("u1", value, NOON_MS)]
        assert driver.output("checked").read() == []
        assert driver.output("by-price").read() == [Record(Decimal("2.50"), {"price": "2.50", "n": 1}, NOON_MS)]


def test_tables_by_sink_and_by_name() -> None:
    with TopologyTestDriver(shop, partitions=3) as driver:
        for user, price in (("u1", "2.50"), ("u2", "2.50"), ("u1", "1.00")):
            driver.input("orders").pipe({"user": user, "price": price}, at=NOON)
        assert {key: row["total"] for key, row in driver.table("sql-spent").items()} == {
            ("u1", NOON): Decimal("3.50"),
            ("u2", NOON): Decimal("2.50"),
        }
        assert {k: row["n"] for k, row in driver.table("by-price").items()} == {Decimal("2.50"): 2, Decimal("1.00"): 1}
        assert driver.table("spent")["u1", NOON]["total"] == Decimal("3.50")
        # Looking changes nothing.
        assert len(driver.output("by-price").read()) == 2


def test_dead_letters_and_counters() -> None:
    with one(least=2) as driver:
        driver.input("orders").pipe({"user": "u1", "price": 1}, at=NOON)
        driver.input("orders").pipe("{")
        first, second = driver.dead_letters("orders")
        assert (first.reason, first.operator, first.key) == ("bad_price", "require-1", b"u1")
        assert (second.reason, second.operator, second.offset) == ("malformed_json", "orders", 1)
        assert driver.dead_letters("orders") == [first, second]
        assert driver.counters()["orders"]["read"] == 2


def test_late() -> None:
    with one() as driver:
        for minute in (0, 5, 1):
            driver.input("orders").pipe({"user": "u1", "price": 1}, at=NOON + timedelta(minutes=minute))
        assert driver.late == 1


# --- Running ----------------------------------------------------------------------------------------------------------


def prices(driver: TopologyTestDriver, n: int = 6) -> None:
    for i in range(n):
        driver.input("orders").pipe({"user": f"u{i % 4}", "price": 1}, at=NOON + timedelta(seconds=i))


def test_what_is_piped_between_two_looks_is_one_commit() -> None:
    with one() as driver:
        prices(driver)
        assert [(r.value or {})["n"] for r in driver.output("by-price").read()] == [6]


def test_a_commit_point_of_its_own() -> None:
    with one() as driver:
        prices(driver, 2)
        driver.commit()
        prices(driver, 3)
        assert [(r.value or {})["n"] for r in driver.output("by-price").read()] == [2, 5]


@pytest.mark.parametrize(("every", "told"), [(1, [1, 2, 3, 4, 5, 6]), (4, [4, 6]), (100, [6])])
def test_commit_every(every: int, told: list[int]) -> None:
    for batch_rows in (None, 1, 3):
        with one(commit_every=every, batch_rows=batch_rows) as driver:
            prices(driver)
            assert [(r.value or {})["n"] for r in driver.output("by-price").read()] == told


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("commits", range(6))
@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_crashes_change_nothing(step: Any, commits: int, pipelined: bool, restart: bool) -> None:
    def answer(crash: bool) -> Any:
        with TopologyTestDriver(shop, partitions=2, commit_every=2, pipelined=pipelined) as driver:
            if crash:
                driver.crash_at(step, commits=commits, restart=restart or step == "after-commit")
            prices(driver, 9)
            found = [driver.output(topic).read() for topic in ("checked", "by-price", "spent")]
            assert driver.crashed
            return found, driver.table("sql-spent"), driver.counters()

    assert answer(crash=True) == answer(crash=False)


def test_a_crash_leaves_unused_offsets() -> None:
    with one() as driver:
        driver.crash_at("before-commit")
        prices(driver, 1)
        (raw,) = driver.output("checked").read_raw()
        assert raw.offset == 2, "the aborted record and its marker"


def test_what_a_crash_cannot_be() -> None:
    with one() as driver:
        with pytest.raises(ValueError, match="before-commit"):
            driver.crash_at("later")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="cannot be undone"):
            driver.crash_at("after-commit", restart=False)


def test_a_restart_keeps_state_counters_and_readers() -> None:
    with TopologyTestDriver(shop, partitions=2) as driver:
        prices(driver)
        driver.output("by-price").read()
        before = driver.counters(), driver.table("sql-spent"), driver.table("by-price")
        driver.restart()
        assert (driver.counters(), driver.table("sql-spent"), driver.table("by-price")) == before
        prices(driver, 1)
        assert [(r.value or {})["n"] for r in driver.output("by-price").read()] == [7]


def test_counters_of_tasks_without_state_survive_too() -> None:
    @ads.topology(name="plain")
    def plain(app: ads.App) -> None:
        app.stream("orders", Order, timestamp="at").filter(col("price") > 1, reason="cheap").to("dear")

    with TopologyTestDriver(plain, partitions=2) as driver:
        prices(driver)
        driver.restart()
        prices(driver, 1)
        driver.restart()
        assert driver.counters() == {"orders": {"read": 7}, "filter-1": {"filtered:cheap": 7}}


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_tasks(seed: int) -> None:
    def answer(seed: int | None) -> Any:
        with TopologyTestDriver(shop, partitions=4, commit_every=1, seed=seed) as driver:
            prices(driver, 12)
            return driver.table("sql-spent"), driver.table("by-price"), driver.counters()

    assert answer(seed) == answer(None)


def test_settings_and_built_topologies() -> None:
    built = shop.build(least=5)
    with TopologyTestDriver(built, partitions={"orders": 3}) as driver:
        prices(driver)
        assert driver.partitions["orders"] == 3
        assert len(driver.dead_letters("orders")) == 6
    with pytest.raises(TypeError):
        TopologyTestDriver(built, least=1)
    with pytest.raises(ads.ConfigError):
        TopologyTestDriver(shop, leas=1)
    with pytest.raises(ValueError, match="batch_rows"):
        TopologyTestDriver(shop, batch_rows=0)
    with pytest.raises(RuntimeError):
        driver.run()


def test_a_topic_that_is_written_and_read() -> None:
    class Spent(ads.Record):
        user: str | None
        total: Annotated[Decimal, ads.decimal(38, 2)] | None

    @ads.topology(name="loop")
    def loop(app: ads.App) -> None:
        app.stream("orders", Order, timestamp="at", key="user").group_by("user").aggregate(total=ads.sum("price")).to(
            "totals"
        )
        app.stream("totals", Spent, key="user").filter(col("total") > 2).to("big")

    with TopologyTestDriver(loop, partitions=2, commit_every=1) as driver:
        prices(driver, 12)
        assert sorted(r.key for r in driver.output("big").read()) == ["u0", "u1", "u2", "u3"]
