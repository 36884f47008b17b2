"""Rolling aggregates: what a row meets is computed again in plain Python from all rows before it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream import col
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS

profile = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True)

WITHIN_MS, ROWS = 40, 3
GRACES = (0, 25)


class Payment(ads.Record):
    user: str | None
    shop: str
    at: datetime
    price: Annotated[Decimal, ads.decimal(10, 2)] | None
    units: int | None


class Row(NamedTuple):
    user: str | None
    shop: str
    at: int
    price: Decimal | None
    units: int | None


rows = st.lists(
    st.builds(
        Row,
        st.none() | st.sampled_from("abc"),
        st.sampled_from("xy"),
        st.integers(0, 120),
        st.none() | st.integers(-300, 300).map(lambda cents: Decimal(cents).scaleb(-2)),
        st.none() | st.integers(-3, 3),
    ),
    max_size=25,
)


def rolled(stream: ads.Stream, key: str, within: int | None, grace: int) -> ads.Stream:
    aggregates: dict[str, ads.Expr] = {
        "n": ads.count(),
        "many": ads.count(where=col("units") > 0),
        "total": ads.sum("price"),
        "low": ads.min("units", where=col("shop") == "x"),
        "early": ads.first("units"),
        "late": ads.last("shop"),
        "spread": ads.var("units"),
        "middle": ads.median("units"),
        "kinds": ads.count_distinct("units"),
        "listed": ads.collect_list("price"),
        "best": ads.top_k("shop", 2, by="units"),
        "dearest": ads.arg_max("shop", by=["units", "price"], where=col("units") < 3),
        "above": col("units") - ads.min("units"),
        "like": ads.count(where=col("units") < 3).over("shop", col("units") > 0),
        "share": ads.count().over("price") / ads.count(),
        "last_like": ads.last("shop", order_by="units").over("units"),
    }
    grouped = stream.group_by(key)
    if within is None:
        return grouped.rolling(rows=ROWS, name=f"{key}-rows", **aggregates)
    return grouped.rolling(f"{within}ms", grace=f"{grace}ms", name=f"{key}-{grace}", **aggregates)


WAYS = [(key, *way) for key in ("user", "shop") for way in ((None, 0), *((WITHIN_MS, grace) for grace in GRACES))]


@ads.topology(name="rolling")
def topology(app: ads.App) -> None:
    stream = app.stream("in", Payment, timestamp="at")
    for key, within, grace in WAYS:
        rolled(stream, key, within, grace).to(f"{key}-{within}-{grace}")


def met(sent: list[Row], key: str, within: int | None, grace: int) -> Iterator[list[Row]]:
    """Of each row, the rows that it meets, itself the last of those that came."""
    kept: list[Row] = []
    newest = -1
    for row in sent:
        mine = getattr(row, key)
        before = [] if mine is None else [other for other in kept if getattr(other, key) == mine]
        if within is None:
            yield [*before[len(before) - min(len(before), ROWS - 1) :], row]
        else:
            seen = [other for other in before if row.at - within < other.at <= row.at]
            yield [*(other for other in seen if other.at > newest - within - grace), row]
        if mine is not None:
            newest = max(newest, row.at)
            if within is None or row.at > newest - within - grace:
                kept.append(row)


def price(of: Decimal | None) -> str | None:
    return None if of is None else f"{of:.2f}"


def variance(values: list[int]) -> float | None:
    n = len(values)
    return float(Fraction(n * sum(v * v for v in values) - sum(values) ** 2, n * (n - 1))) if n > 1 else None


def expected(own: Row, of: list[Row]) -> dict[str, Any]:
    of = sorted(of, key=lambda row: row.at)  # of one time, in the order in which they came
    units = [row.units for row in of if row.units is not None]
    ranked = sorted((row for row in of if row.units is not None), key=lambda row: -(row.units or 0))
    priced = [row for row in ranked if row.price is not None and row.units != 3]
    dearest = max(priced, key=lambda row: (row.units, row.price), default=None)
    positive = [None if row.units is None else row.units > 0 for row in (own, *of)]
    alike = [row for row, p in zip(of, positive[1:], strict=True) if (row.shop, p) == (own.shop, positive[0])]
    # Of equals the first in time, which a stable sort by units has kept in its place.
    return {
        "n": len(of),
        "many": len([n for n in units if n > 0]),
        "total": price(sum((row.price for row in of if row.price is not None), Decimal(0))),
        "low": min((row.units for row in of if row.units is not None and row.shop == "x"), default=None),
        "early": units[0] if units else None,
        "late": of[-1].shop,
        "spread": variance(units),
        "middle": float(statistics.median(units)) if units else None,
        "kinds": len(set(units)),
        "listed": [price(row.price) for row in of if row.price is not None],
        "best": [row.shop for row in ranked[:2]],
        "dearest": None if dearest is None else dearest.shop,
        "above": None if own.units is None else own.units - min(units),
        "like": len([row for row in alike if row.units is not None and row.units < 3]),
        "share": len([row for row in of if row.price == own.price]) / len(of),
        "last_like": None if own.units is None else [row.shop for row in of if row.units == own.units][-1],
    }


def moment(ms: int) -> str:
    when = datetime(2026, 1, 15, tzinfo=UTC) + timedelta(milliseconds=ms)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def told(driver: TopologyTestDriver, topic: str) -> list[dict[str, Any]]:
    return [json.loads(r.value or b"") for r in driver.output(topic).read_raw()]


@settings(profile, max_examples=100)
@given(
    rows,
    st.sampled_from([1, 2, 7, None]),
    st.sampled_from([1, 3, None]),
    st.none() | st.tuples(st.integers(0, 4), st.sampled_from(STEPS), st.booleans()),
)
def test_what_a_row_meets_is_computed_again(
    sent: list[Row], batch_rows: int | None, commit_every: int | None, disturb: tuple[int, Any, bool] | None
) -> None:
    with TopologyTestDriver(topology, partitions=1, batch_rows=batch_rows, commit_every=commit_every) as driver:
        for i, row in enumerate(sent):
            if disturb is not None and i == len(sent) // 2:
                commits, step, restart = disturb
                driver.crash_at(step, commits=commits, restart=restart or step == "after-commit")
            driver.input("in").pipe({**row._asdict(), "at": moment(row.at), "price": price(row.price)})
        if disturb is not None:
            driver.restart()
        assert not driver.dead_letters("in")
        for way in WAYS:
            found = told(driver, "-".join(map(str, way)))
            assert len(found) == len(sent)
            for value, own, of in zip(found, sent, met(sent, *way), strict=True):
                want = expected(own, of)
                assert {name: value[name] for name in want} == want, (way, own)
                assert (value["user"], value["price"], value["units"]) == (own.user, price(own.price), own.units)


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_shuffle_brings_the_rows_of_a_group_together(partitions: int) -> None:
    with TopologyTestDriver(topology, partitions=partitions) as driver:
        for n in range(30):
            event = {"user": f"u{n}", "shop": "xy"[n % 2], "at": moment(0), "price": None, "units": n}
            driver.input("in").pipe(event, partition=n % partitions)
        found = told(driver, f"shop-{WITHIN_MS}-0")
        assert sorted((v["shop"], v["n"]) for v in found) == [(s, n) for s in "xy" for n in range(1, 16)]
        assert {v["user"] for v in found} == {f"u{n}" for n in range(30)}


class Event(ads.Record):
    key: str
    n: int
    weight: float


def test_a_row_that_fails_is_not_kept() -> None:
    @ads.topology(name="totals")
    def totals(app: ads.App) -> None:
        stream = app.stream("in", Event, key="key").group_by("key")
        stream.rolling("1h", total=ads.sum(col("n") * 4_000_000_000_000_000_000), rows_=ads.count()).to("out")

    with TopologyTestDriver(totals, partitions=1) as driver:
        for n in (1, 3, 1, 1, 0):
            driver.input("in").pipe({"key": "k", "n": n, "weight": 0.5})
        # Three times four is too much for an argument, and for a sum.
        assert [r.value["rows_"] for r in driver.output("out").read()] == [1, 2, 3]
        assert [(d.reason, d.offset) for d in driver.dead_letters("in")] == [("overflow", 1), ("overflow", 3)]


def test_what_has_left_the_window_leaves_no_trace() -> None:
    """A sum of floats is the same as if the rows before it had never been."""

    @ads.topology(name="floats")
    def floats(app: ads.App) -> None:
        stream = app.stream("in", Event, key="key").group_by("key")
        stream.rolling("10ms", total=ads.sum("weight"), spread=ads.std("weight")).to("out")

    with TopologyTestDriver(floats, partitions=1, commit_every=1) as driver:
        for at, weight in ((0, 1e17), (5, 0.1), (10, 0.2), (15, 0.7)):
            driver.input("in").pipe({"key": "k", "n": 0, "weight": weight}, at=at)
        found = [r.value for r in driver.output("out").read()]
        assert [v["total"] for v in found] == [1e17, 1e17, 0.1 + 0.2, 0.2 + 0.7]
        assert found[0]["spread"] is None
        assert math.isclose(found[-1]["spread"], statistics.stdev([0.2, 0.7]))


def test_what_is_kept_is_bounded() -> None:
    @ads.topology(name="bounded")
    def bounded(app: ads.App) -> None:
        grouped = app.stream("in", Event, key="key").group_by("key")
        grouped.rolling("20ms", grace="10ms", nth=ads.count(), name="times").to("times-told")
        grouped.rolling(rows=20, nth=ads.count(), name="rows").to("rows-told")

    with TopologyTestDriver(bounded, partitions=1, commit_every=50) as driver:
        for at in range(500):
            driver.input("in").pipe({"key": f"k{at // 400}", "n": at, "weight": 0.0}, at=at)
        wanted = [min(at % 400 + 1, 20) for at in range(500)]
        for way in ("times", "rows"):
            assert [r.value["nth"] for r in driver.output(f"{way}-told").read()] == wanted
        (task,) = driver._tasks
        assert task.core.query_len("times-rows") == 30
        assert task.core.query_len("rows-rows") == 2


def test_arrays_go_through() -> None:
    """Columns of many values, which aggregates make, are themselves behind an operation of records."""

    @ads.topology(name="arrays")
    def arrays(app: ads.App) -> None:
        table = app.stream("in", Event, key="key").group_by("key").aggregate(seen=ads.collect_list("n"))
        changes = table.to_stream().group_by("key")
        changes.rolling(rows=2, nth=ads.count(), any=ads.count(where=col("seen").is_not_null())).to("out")

    with TopologyTestDriver(arrays, partitions=1, commit_every=1) as driver:
        for n in (3, 5):
            driver.input("in").pipe({"key": "k", "n": n, "weight": 0.5})
        assert [r.value for r in driver.output("out").read()] == [
            {"key": "k", "seen": [3], "nth": 1, "any": 1},
            {"key": "k", "seen": [3, 5], "nth": 2, "any": 2},
        ]
        assert not driver.dead_letters("in")
