import pytest

import adstream as ads
from adstream import col
from adstream.dsl.aggregates import Fold, split
from tests.unit.dsl.support import events, nodes, refused

clicked = col("kind") == "CLICK"


def test_reprs():
    assert repr(ads.count()) == "count()"
    assert repr(ads.count(where=clicked)) == 'count(where=col("kind") == "CLICK")'
    assert repr(ads.sum("price", where=clicked)) == 'sum("price", where=col("kind") == "CLICK")'
    assert repr(ads.mean(col("price") * 2)) == 'mean(col("price") * 2)'
    assert repr(ads.count(where=clicked) / ads.count()) == 'count(where=col("kind") == "CLICK") / count()'


@pytest.mark.parametrize(
    ("aggregate", "dtype"),
    [
        (ads.count(), "int"),
        (ads.sum("count"), "int"),
        (ads.sum("weight"), "float"),
        (ads.sum("price"), "decimal(38,2)"),
        (ads.mean("count"), "float"),
        (ads.mean("price"), "decimal(38,6)"),
        (ads.mean(col("at") - ads.timestamp()), "duration"),
        (ads.min("price"), "decimal(10,2)"),
        (ads.max("at"), "timestamp"),
        (ads.first("user"), "str"),
        (ads.last("kind"), "str"),
    ],
)
def test_types(aggregate, dtype):
    table = events().group_by("user").aggregate(x=aggregate)
    assert table.schema == {"user": "str", "x": dtype}
    assert nodes(table)[-1]["aggregates"][0]["type"] == dtype


def test_aggregates_in_the_plan():
    table = events().group_by("user").aggregate(n=ads.count(where=clicked), total=ads.sum("price"))
    assert nodes(table)[-1]["aggregates"] == [
        {
            "name": "n",
            "fn": "count",
            "arg": None,
            "where": {
                "op": "eq",
                "args": [{"op": "col", "name": "kind"}, {"op": "lit", "type": "str", "value": "CLICK"}],
            },
            "function": None,
            "type": "int",
        },
        {
            "name": "total",
            "fn": "sum",
            "arg": {"op": "col", "name": "price"},
            "where": None,
            "function": None,
            "type": "decimal(38,2)",
        },
    ]


def test_composed_aggregates_are_split_and_equal_parts_kept_once():
    kept, together = split(
        {"clicks": ads.count(where=clicked), "rate": ads.count(where=clicked) / ads.count() * 100, "n": ads.count()}
    )
    assert [(name, repr(a)) for name, a in kept] == [
        ("clicks", 'count(where=col("kind") == "CLICK")'),
        ("n", "count()"),
    ]
    assert together is not None
    assert {name: repr(e) for name, e in together} == {
        "clicks": 'col("clicks")',
        "rate": 'col("clicks") / col("n") * 100',
        "n": 'col("n")',
    }


def test_hidden_aggregates_do_not_show():
    table = events().group_by("user").aggregate(rate=(ads.sum("price") / ads.count()).fill_null(0)).named("rates")
    assert table.schema == {"user": "str", "rate": "decimal(38,6)"}
    _, aggregate, select = nodes(table)
    assert aggregate["name"] == "rates"
    assert [a["name"] for a in aggregate["aggregates"]] == ["$a0", "$a1"]
    assert (select["op"], [name for name, _ in select["exprs"]]) == ("select", ["user", "rate"])


def test_a_fold_of_ones_own():
    fold = ads.udaf(list, lambda acc, row: [*acc, row["user"]], result=len, type=int)
    table = events().group_by("user").aggregate(n=fold)
    aggregate = nodes(table)[-1]["aggregates"][0]
    assert (aggregate["fn"], aggregate["function"], aggregate["type"]) == ("python", 0, "int")
    (kept,) = table._graph.callables
    assert isinstance(kept, Fold)
    assert kept.init() == []
    assert kept.add([], {"user": "u"}) == ["u"]
    with refused("bad_argument", "`add` is None"):
        ads.udaf(list, None, type=int)  # type: ignore[arg-type]


def test_what_cannot_be_aggregated():
    grouped = events().group_by("user")
    with refused("type_mismatch", "there is no sum of str", "cast", "aggregate"):
        grouped.aggregate(x=ads.sum("user"))
    with refused("unknown_column", "no column `prise`", "did you mean `price`?", "aggregate"):
        grouped.aggregate(x=ads.sum("prise"))
    with refused("not_a_condition", "`where` is int, not bool", operation="aggregate"):
        grouped.aggregate(x=ads.count(where=col("count")))
    with refused("not_an_aggregate", '`x` is col("price")', 'x=ads.sum("…")'):
        grouped.aggregate(x=col("price"))
    with refused("column_outside_aggregate", "many values of `price`", 'ads.last("price")'):
        grouped.aggregate(x=ads.sum("price") + col("price"))
    with refused("duplicate_column", "`user` is a key already"):
        grouped.aggregate(user=ads.count())
    with refused("nested_aggregate", "cannot contain another"):
        ads.sum(ads.count() + 1)
    with refused("bad_argument", "a column or an expression: 3", 'ads.sum("price")'):
        ads.sum(3)  # type: ignore[arg-type]
    with refused("bad_argument", "names no aggregate"):
        grouped.aggregate()
    with refused("aggregate_without_group", "`count()` needs a group", ".group_by"):
        events().with_columns(n=ads.count())
