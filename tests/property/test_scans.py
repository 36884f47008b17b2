"""Scans and edges: what a row meets is computed again in plain Python, one row after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream import col
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS

profile = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True)

TTL_MS = 40


class Payment(ads.Record):
    user: str | None
    shop: str
    at: datetime
    price: Annotated[Decimal, ads.decimal(10, 2)] | None


class History(ads.State):
    last: datetime | None = None
    n: int = 0
    largest: Annotated[Decimal, ads.decimal(10, 2)] | None = None
    shop: str | None = None


seen = ads.state(History)


class Row(NamedTuple):
    user: str | None
    shop: str
    at: int
    price: Decimal | None


rows = st.lists(
    st.builds(
        Row,
        st.none() | st.sampled_from("abc"),
        st.sampled_from("xy"),
        st.integers(0, 120),
        st.none() | st.integers(-300, 300).map(lambda cents: Decimal(cents).scaleb(-2)),
    ),
    max_size=25,
)


def scanned(stream: ads.Stream, key: str, ttl: str | None) -> ads.Stream:
    return stream.group_by(key).scan(
        History,
        emit={
            "gap": col("at") - seen.last,
            "nth": seen.n + 1,
            "largest": seen.largest,
            "moved": (seen.shop != col("shop")).fill_null(False),
        },
        update={
            "last": col("at"),
            "n": seen.n + 1,
            "largest": ads.max_horizontal(seen.largest, col("price")),
            "shop": col("shop"),
        },
        ttl=ttl,
        name=f"{key}-{ttl}",
    )


@ads.topology(name="scans")
def topology(app: ads.App) -> None:
    stream = app.stream("in", Payment, timestamp="at")
    for key in ("user", "shop"):
        for ttl in (None, f"{TTL_MS}ms"):
            scanned(stream, key, ttl).to(f"{key}-{ttl}")
    steps = stream.group_by("user").edges(enter=col("price") >= 1, leave=col("price") < -1)
    steps.select("user", "price", "edge").to("edges")


def expected(sent: list[Row], key: str, ttl: int | None) -> Iterator[tuple[Any, ...]]:
    """(gap, nth, largest, moved) of each row."""
    states: dict[str, tuple[int, dict[str, Any]]] = {}
    newest = -1
    for row in sent:
        mine = getattr(row, key)
        touched, state = states.get(mine, (None, {})) if mine is not None else (None, {})
        if ttl is not None and touched is not None and touched + ttl <= max(newest, row.at):
            touched, state = None, {}
        shop = state.get("shop")
        largest = state.get("largest")
        yield (
            None if "last" not in state else row.at - state["last"],
            state.get("n", 0) + 1,
            largest,
            shop is not None and shop != row.shop,
        )
        if mine is None:
            continue
        prices = [price for price in (largest, row.price) if price is not None]
        after = {"last": row.at, "n": state.get("n", 0) + 1, "shop": row.shop, "largest": max(prices, default=None)}
        time = row.at if touched is None else max(touched, row.at)
        if ttl is None or time + ttl > newest:  # else it would be forgotten at once
            states[mine] = time, after
        newest = max(newest, time)


def steps(sent: list[Row]) -> Iterator[tuple[str | None, str | None, str]]:
    inside: dict[str, bool] = {}
    for row in sent:
        was = row.user is not None and inside.get(row.user, False)
        entered = row.price is not None and not was and row.price >= 1
        left = row.price is not None and was and row.price < -1
        now = entered or (was and not left)
        if was or now:
            price = None if row.price is None else f"{row.price:.2f}"
            yield row.user, price, "ENTER" if entered else "LEAVE" if left else "UPDATE"
        if row.user is not None:
            inside[row.user] = now


def moment(ms: int) -> str:
    when = datetime(2026, 1, 15, tzinfo=UTC) + timedelta(milliseconds=ms)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
            price = None if row.price is None else f"{row.price:.2f}"
            driver.input("in").pipe({**row._asdict(), "at": moment(row.at), "price": price})
        if disturb is not None:
            driver.restart()
        for key in ("user", "shop"):
            for ttl in (None, TTL_MS):
                found = [
                    (value["gap"], value["nth"], value["largest"], value["moved"])
                    for value in (
                        json.loads(r.value or b"") for r in driver.output(f"{key}-{ttl and f'{ttl}ms'}").read_raw()
                    )
                ]
                told = [
                    (gap, nth, None if largest is None else f"{largest:.2f}", moved)
                    for gap, nth, largest, moved in expected(sent, key, ttl)
                ]
                assert found == told, (key, ttl)
        values = [json.loads(r.value or b"") for r in driver.output("edges").read_raw()]
        assert [(v["user"], v["price"], v["edge"]) for v in values] == list(steps(sent))
        assert not driver.dead_letters("in")


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_shuffle_brings_the_rows_of_a_group_together(partitions: int) -> None:
    with TopologyTestDriver(topology, partitions=partitions) as driver:
        for n in range(30):
            event = {"user": f"u{n}", "shop": "xy"[n % 2], "at": moment(n), "price": None}
            driver.input("in").pipe(event, partition=n % partitions)
        nths = [json.loads(r.value or b"") for r in driver.output("shop-None").read_raw()]
        assert sorted((v["shop"], v["nth"]) for v in nths) == [(s, n) for s in "xy" for n in range(1, 16)]
        assert {v["user"] for v in nths} == {f"u{n}" for n in range(30)}


def test_a_row_that_fails_changes_nothing() -> None:
    class Total(ads.State):
        total: int = 0

    s = ads.state(Total)

    class Event(ads.Record):
        key: str
        n: int

    @ads.topology(name="totals")
    def totals(app: ads.App) -> None:
        stream = app.stream("in", Event, key="key").group_by("key")
        large = col("n") * 9_000_000_000_000_000_000
        stream.scan(Total, emit={"large": large, "before": s.total}, update={"total": s.total + col("n")}).to("out")

    with TopologyTestDriver(totals, partitions=1) as driver:
        for n in (1, 2, 0):
            driver.input("in").pipe({"key": "k", "n": n})
        assert [r.value["before"] for r in driver.output("out").read()] == [0, 1]
        (dead,) = driver.dead_letters("in")
        assert dead.reason == "overflow"
