"""The types that the language computes while a topology is written are those of the engine."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import adstream as ads
from adstream import col, lit, when
from adstream._core import Plan


class Wide(ads.Record):
    id: str = ads.content_id()
    kind: Literal["A", "B"]
    other: Literal["B", "C"] | None
    at: datetime
    name: str | None
    flag: bool | None
    n: int | None
    x: float | None
    price: Annotated[Decimal, ads.decimal(10, 2)] | None
    rate: Annotated[Decimal, ads.decimal(20, 7)] | None


VALUES: dict[str, ads.Expr] = {
    "int_by_int": col("n") / col("n"),
    "int_floordiv": col("n") // 2,
    "int_float": col("n") + col("x"),
    "price_times": col("price") * col("rate"),
    "price_by": col("price") / col("n"),
    "rate_by": col("rate") / col("price"),
    "price_floordiv": col("price") // 2,
    "price_mod": col("rate") % col("price"),
    "price_plus": col("price") + 1,
    "negative": -col("price"),
    "rounded": col("rate").round(3),
    "whole": col("rate").floor(),
    "span": col("at") - col("at"),
    "later": col("at") + ads.duration(hours=1),
    "chosen": when(col("flag")).then(col("n")).otherwise(col("price")),
    "kinds": ads.coalesce("kind", "other"),
    "kind_again": col("kind"),
    "least": ads.min_horizontal("kind", "name"),
    "text": ads.concat_str("kind", "name"),
    "upper": col("kind").str.to_uppercase(),
    "length": col("name").str.len_chars(),
    "cast": col("name").cast(ads.decimal(12, 4)),
    "year": col("at").dt.year(),
    "day": col("at").dt.truncate("1d"),
    "test": (col("n") > 1) & col("flag"),
    "constant": lit(Decimal("1.500")),
    "where": ads.offset(),
    "when_": ads.timestamp(),
}
AGGREGATES: dict[str, ads.Expr] = {
    **{f"first_{name}": ads.first(name) for name in Wide.__adstream_schema__.types},
    **{f"max_{name}": ads.max(name) for name in Wide.__adstream_schema__.types},
    **{f"sum_{name}": ads.sum(name) for name in ("n", "x", "price", "rate")},
    **{f"mean_{name}": ads.mean(name) for name in ("n", "x", "price", "rate")},
    "rows": ads.count(where=col("flag")),
    "spans": ads.sum(col("at") - col("at")),
    "mean_span": ads.mean(col("at") - col("at")),
    "share": ads.count(where=col("flag")) / ads.count(),
    "money_share": ads.sum("price") / ads.sum("rate"),
    "folded": ads.udaf(list, lambda acc, row: acc, type=str),
}


def columns(flow: Any) -> dict[str, str]:
    return {name: dtype for name, dtype in flow.schema.items() if not name.startswith("$")}


def test_every_type_of_a_broad_topology() -> None:
    """Each stream goes to a sink of all its columns, whose types the engine tells."""
    said: dict[str, dict[str, str]] = {}

    @ads.topology(name="broad")
    def broad(app: ads.App) -> None:
        def tell(name: str, flow: Any, key: list[str]) -> None:
            said[name] = columns(flow)
            flow.sink(ads.sinks.Sql(name, key=key)).named(name)

        stream = app.stream("wide", Wide, timestamp="at", key="name")
        tell("source", stream, ["id", "name"])
        for name, value in VALUES.items():
            tell(f"value-{name}", stream.with_columns(made=value), ["id", "name"])
        tell("select", stream.select("name", "kind", value=VALUES["price_by"]), ["name", "kind"])
        a, b = stream.branch(col("flag"))
        tell("merged", a.merge(b), ["id", "name"])
        tell("enums", a.merge(b.with_columns(kind=col("other")).select(*stream.schema)), ["id", "name"])
        tell("mapped", stream.map(lambda row: row, schema=Wide), ["id"])
        for windowed in (False, True):
            grouped: Any = stream.group_by("kind", "price", "at")
            if windowed:
                grouped = grouped.windowed_by(ads.tumbling("1m", grace="0s"))
            table = grouped.aggregate(**AGGREGATES)
            bounds = {"start": ads.window_start(), "end": ads.window_end()} if windowed else {}
            shown = table.with_columns(one=lit(1), **bounds)
            key = ["kind", "price", "at", *(["start"] if windowed else [])]
            tell(f"table-{windowed}", shown, key)
            again = table.group_by("kind").aggregate(n=ads.sum("rows"), mean=ads.mean("sum_rate"), k=ads.count())
            tell(f"regrouped-{windowed}", again, ["kind"])
            if windowed:
                tell("final", shown.final(), key)
                tell("late", table.late.with_columns(start=ads.window_start()), key)

    built = broad.build()
    description = json.loads(Plan(built.json, built.callables).describe())
    found = {sink["name"]: sink["columns"] for sink in description["sinks"]}
    assert len(found) > len(VALUES) + 8
    assert {name: sorted(types.items()) for name, types in found.items()} == {
        name: sorted(types.items()) for name, types in said.items()
    }
