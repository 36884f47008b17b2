"""`map_batches` of a row-wise function is `map` of it: whatever the batches, the commits and the crashes."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Annotated, Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream import col
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS

profile = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True)


class Sale(ads.Record):
    shop: str | None
    n: int | None
    price: Annotated[Decimal, ads.decimal(10, 2)] | None


class Made(ads.Record):
    shop: str | None
    total: Annotated[Decimal, ads.decimal(20, 2)] | None
    each: float | None


def row(shop: str | None, n: int | None, price: Decimal | None) -> dict[str, Any]:
    if shop == "c":
        raise ValueError("no such shop")
    total = None if n is None or price is None else n * price
    return {"shop": shop and shop * 2, "total": total, "each": None if n is None else 1 / n}


def batch(given: pa.RecordBatch) -> pa.Table:
    sizes.append(given.num_rows)
    made = [row(**r) for r in given.to_pylist()]
    schema = pa.schema({"shop": pa.string(), "total": pa.decimal128(20, 2), "each": pa.float64()})
    return pa.Table.from_pylist(made, schema=schema)


sizes: list[int] = []


@ads.topology(name="batches")
def topology(app: ads.App) -> None:
    sales = app.stream("in", Sale)
    kept = sales.filter(col("n").fill_null(1) >= 0)  # some rows of a batch are not live
    for name, made in (
        ("rows", kept.map(lambda r: row(**r), schema=Made)),
        ("batches", kept.map_batches(batch, schema=Made)),
    ):
        made.named(name).to(name)
        made.group_by("shop").aggregate(n=ads.count(), total=ads.sum("total")).named(f"{name}-totals").to(
            f"{name}-table"
        )


sales = st.lists(
    st.fixed_dictionaries(
        {
            "shop": st.none() | st.sampled_from("aabbc"),
            "n": st.none() | st.sampled_from([-1, 0, 1, 2, 3]),
            "price": st.none() | st.integers(-300, 300).map(lambda cents: f"{Decimal(cents).scaleb(-2):.2f}"),
        }
    ),
    max_size=30,
)


@settings(profile, max_examples=120)
@given(
    sales,
    st.sampled_from([1, 2, 7, None]),
    st.sampled_from([1, 3, None]),
    st.none() | st.tuples(st.integers(0, 4), st.sampled_from(STEPS), st.booleans()),
)
def test_it_is_map(
    sent: list[dict[str, Any]], batch_rows: int | None, commit_every: int | None, disturb: tuple[int, Any, bool] | None
) -> None:
    sizes.clear()
    with TopologyTestDriver(topology, partitions=1, batch_rows=batch_rows, commit_every=commit_every) as driver:
        for i, sale in enumerate(sent):
            if disturb is not None and i == len(sent) // 2:
                commits, step, restart = disturb
                driver.crash_at(step, commits=commits, restart=restart or step == "after-commit")
            driver.input("in").pipe(sale, at=i)
        if disturb is not None:
            driver.restart()
        found = {
            name: [(r.timestamp, json.loads(r.value or b"")) for r in driver.output(name).read_raw()]
            for name in ("rows", "batches", "rows-table", "batches-table")
        }
        assert found["batches"] == found["rows"]
        assert found["batches-table"] == found["rows-table"]
        good = [s for s in sent if s["shop"] != "c" and (s["n"] is None or s["n"] > 0)]
        assert [v["shop"] for _, v in found["batches"]] == [s["shop"] and s["shop"] * 2 for s in good]
        dead = sorted((d.operator, d.offset, d.reason, d.message) for d in driver.dead_letters("in"))
        assert [d[1:] for d in dead if d[0] == "batches"] == [d[1:] for d in dead if d[0] == "rows"]
        assert len(dead) == 2 * sum(s["n"] in (None, 0, 1, 2, 3) and (s["shop"] == "c" or s["n"] == 0) for s in sent)
    if batch_rows is None and commit_every is None and disturb is None and good == sent and len(sent) > 1:
        assert sizes == [len(sent)]
