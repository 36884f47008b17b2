"""Aggregates that have to know single values: what they give is computed again from all rows, in plain Python.

Streams and tables, grouped by the key and by another column (behind a shuffle, where parts are combined), in windows and
without, in batches of any size, with crashes and restarts at any step.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
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

VAST = 1_500_000_000_000_000_000
"""Nine squares of it overflow 128 bits, as those of sixty times in nanoseconds do."""
ONCE = {"variance", "vast", "center"}
"""Rounded once: nothing is borne."""

profile = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True)


class Sale(ads.Record):
    user: str
    shop: str
    n: int | None
    price: Annotated[Decimal, ads.decimal(10, 2)] | None
    note: str | None


class Row(NamedTuple):
    user: str
    shop: str
    n: int | None
    price: Decimal | None
    note: str | None
    at: int


@st.composite
def sales(draw: st.DrawFn) -> list[Row]:
    """With times of their own, so that no two rows of a group are equal in time; in some disorder."""
    count = draw(st.integers(0, 25))
    times = draw(st.permutations(range(count)))
    price = st.none() | st.integers(-500, 500).map(lambda cents: Decimal(cents).scaleb(-2))
    return [
        Row(
            draw(st.sampled_from("abc")),
            draw(st.sampled_from("xy")),
            draw(st.none() | st.integers(-3, 3)),
            draw(price),
            draw(st.none() | st.sampled_from(["", "p", "q\0", "전", 'r"'])),
            at * 10,
        )
        for at in times
    ]


def aggregates() -> dict[str, ads.Expr]:
    """Of streams and of tables."""
    return {
        "smallest": ads.min("price"),
        "largest": ads.max("note"),
        "kinds": ads.count_distinct("note"),
        "notes": ads.collect_set("note"),
        "prices": ads.collect_list("price", order_by=[col("price").desc()]),
        "best": ads.top_k("price", 2),
        "half": ads.quantile("price", 0.5),
        "middle": ads.median("price"),
        "center": ads.median("n"),
        "near": ads.quantile("price", 0.8, error=0.02),
        "spread": ads.std("price"),
        "variance": ads.var("n", ddof=0),
        "vast": ads.var(col("n") * VAST),
        "big": ads.count_distinct("n", where=col("n") > 0),
        "dearest": ads.arg_max("price", by=["n", "price"]),
        "cheap": ads.first("price", order_by=["n", col("price").desc()]),
        "dear": ads.last("price", order_by=["n", col("price").desc()]),
    }


def of_streams() -> dict[str, ads.Expr]:
    """What comes first among equals is the earliest."""
    return aggregates() | {
        "about": ads.approx_count_distinct("n"),
        "listed": ads.collect_list("note"),
        "early": ads.first("note", order_by="n"),
        "late": ads.last("note", order_by="n"),
        "top": ads.top_k("note", 2, by=["n"]),
        "most": ads.arg_max("note", by="n"),
        "least": ads.arg_min("note", by="n"),
    }


def text(price: Decimal) -> str:
    return f"{price:.2f}"


def quantile(values: list[Any], q: float) -> Any:
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1] if values else None


def variance(values: list[int], ddof: int) -> float | None:
    """Rounded once."""
    n = len(values)
    if n <= ddof:
        return None
    return float(Fraction(n * sum(v * v for v in values) - sum(values) ** 2, n * (n - ddof)))


def expected(rows: list[Row]) -> dict[str, Any]:
    rows = sorted(rows, key=lambda row: row.at)
    prices = [row.price for row in rows if row.price is not None]
    notes = [row.note for row in rows if row.note is not None]
    numbers = [row.n for row in rows if row.n is not None]
    noted = [(row.n, row.note) for row in rows if row.n is not None and row.note is not None]
    priced = [(row.n, row.price) for row in rows if row.n is not None and row.price is not None]

    def first(of: list[Any], key: Callable[[Any], Any], pick: Callable[..., Any] = min) -> Any:
        return pick(of, key=key)[1] if of else None

    return {
        "smallest": min(prices, default=None),
        "largest": max(notes, default=None, key=str.encode),
        "kinds": len(set(notes)),
        "notes": sorted(set(notes), key=str.encode),
        "prices": [text(price) for price in sorted(prices, reverse=True)],
        "best": [text(price) for price in sorted(prices, reverse=True)[:2]],
        "half": quantile(prices, 0.5),
        "middle": statistics.median(prices) if prices else None,
        "center": float(statistics.median(numbers)) if numbers else None,
        "near": quantile(prices, 0.8),
        "spread": statistics.stdev(prices) if len(prices) > 1 else None,
        "variance": variance(numbers, 0),
        "vast": variance([n * VAST for n in numbers], 1),
        "big": len({n for n in numbers if n > 0}),
        "dearest": first(priced, lambda row: row, max),
        "cheap": first(priced, lambda row: (row[0], -row[1])),
        "dear": first(priced, lambda row: (row[0], -row[1]), max),
        "about": len(set(numbers)),
        "listed": notes,
        "early": first(noted, lambda row: row[0]),
        "late": first(noted[::-1], lambda row: row[0], max),
        "top": [note for _, note in sorted(noted, key=lambda row: -row[0])[:2]],
        "most": first(noted, lambda row: row[0], max),
        "least": first(noted, lambda row: row[0]),
    }


def same(found: Mapping[str, Any], rows: list[Row]) -> None:
    for name, value in expected(rows).items():
        if name not in found:
            continue
        if isinstance(value, float | Decimal) and isinstance(found[name], float):
            share = 0.0201 if name == "near" else 0 if name in ONCE else 1e-12
            assert math.isclose(found[name], value, rel_tol=share, abs_tol=share and 1e-12), (name, found[name], value)
        else:
            assert found[name] == value, (name, found[name], value)


def build(app: ads.App) -> None:
    rows = app.stream("sales", Sale, key="user")
    for column in ("user", "shop"):
        grouped = rows.group_by(column)
        grouped.aggregate(**of_streams()).named(f"by-{column}").to_stream().to(f"{column}-told", key=column)
        windows = grouped.windowed_by(ads.hopping("60ms", advance="20ms", grace="10m"))
        windows.aggregate(**of_streams()).named(f"windows-{column}").to_stream().to(
            f"windows-{column}-told", key=column
        )
    newest = rows.group_by("user").aggregate(
        shop=ads.last("shop"), n=ads.last("n"), price=ads.last("price"), note=ads.last("note")
    )
    newest.group_by("shop").aggregate(**aggregates(), rows=ads.count()).named("shops").to_stream().to("shops-told")


topology = ads.topology(name="sales")(build)
Disturb = tuple[int, str, bool] | None


@settings(profile, max_examples=60)
@given(
    sales(),
    st.sampled_from([1, 2, 7, None]),
    st.sampled_from([1, 3, None]),
    st.sampled_from([1, 3]),
    st.none() | st.tuples(st.integers(0, 4), st.sampled_from(STEPS), st.booleans()),
)
def test_what_is_told_is_computed_again_from_all_rows(
    sent: list[Row], batch_rows: int | None, commit_every: int | None, partitions: int, disturb: Disturb
) -> None:
    start = datetime(1970, 1, 1, tzinfo=UTC)
    with TopologyTestDriver(
        topology, partitions=partitions, batch_rows=batch_rows, commit_every=commit_every
    ) as driver:
        for i, row in enumerate(sent):
            if disturb is not None and i == len(sent) // 2:
                step = disturb[1]
                driver.crash_at(step, commits=disturb[0], restart=disturb[2] or step == "after-commit")  # type: ignore[arg-type]
            event = {name: value for name, value in row._asdict().items() if name != "at"}
            driver.input("sales").pipe(event | {"price": None if row.price is None else text(row.price)}, at=row.at)
        if disturb is not None:
            driver.restart()
        by: dict[tuple[str, str], list[Row]] = defaultdict(list)
        windows: dict[tuple[str, str, datetime], list[Row]] = defaultdict(list)
        for row in sent:
            for column, key in (("user", row.user), ("shop", row.shop)):
                by[column, key].append(row)
                for begin in range(row.at // 20 * 20, row.at - 60, -20):
                    if begin >= 0:
                        windows[column, key, start + timedelta(milliseconds=begin)].append(row)
        found = {(c, key): row for c in ("user", "shop") for key, row in driver.table(f"by-{c}").items()}
        assert found.keys() == by.keys()
        for key, row in found.items():
            same(row, by[key])
        seen = {(c, *key): row for c in ("user", "shop") for key, row in driver.table(f"windows-{c}").items()}
        assert seen.keys() == windows.keys()
        for window, row in seen.items():
            same(row, windows[window])

        def last(user: str, name: str) -> Any:
            mine = [row for row in sorted(sent, key=lambda row: row.at) if row.user == user]
            return next((getattr(row, name) for row in reversed(mine) if getattr(row, name) is not None), None)

        users = {row.user for row in sent}
        names = ("shop", "n", "price", "note")
        newest = [Row(user, *(last(user, name) for name in names), 0) for user in users]
        for shop, row in driver.table("shops").items():
            mine = [one for one in newest if one.shop == shop]
            assert row["rows"] == len(mine)
            same(row, mine)
        assert {row.shop for row in newest} <= driver.table("shops").keys()


def test_what_is_kept_of_a_large_group_is_bounded() -> None:
    class Hit(ads.Record):
        key: str
        n: int

    @ads.topology(name="hits")
    def hits(app: ads.App) -> None:
        rows = app.stream("in", Hit, key="key")
        rows.group_by("key").aggregate(
            about=ads.approx_count_distinct("n"), top=ads.top_k("n", 3), p95=ads.quantile("n", 0.95, error=0.01)
        ).named("hits").to_stream().to("out")

    with TopologyTestDriver(hits, partitions=1, commit_every=1_000) as driver:
        for n in range(20_000):
            driver.input("in").pipe({"key": "k", "n": n * 7919 % 20_000 + 1})
        row = driver.table("hits")["k"]
        assert row["top"] == [20_000, 19_999, 19_998]
        assert abs(row["about"] - 20_000) < 0.065 * 20_000
        assert row["p95"] == pytest.approx(19_000, rel=0.0101)
