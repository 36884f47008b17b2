import functools
import inspect
import json
import operator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

import adstream as ads
from adstream import col, lit, when
from adstream.dsl.expr import CallRow, to_plan
from tests.unit.dsl.support import events, refused


def tree(e: ads.Expr) -> Any:
    return to_plan(e, ["a", "b", "$window_start"], lambda fn: 0)


@pytest.mark.parametrize(
    "text",
    [
        'col("price") * 2 > 10',
        '(col("a") == "x") & (col("b") != 1) | ~col("c")',
        '~(col("a") | col("b"))',
        '(col("a") + 1) * 2 - col("b") / 3 // 4 % 5',
        '1 - (col("a") - 1)',
        '-(col("a") + 1)',
        '-col("a")',
        '(-col("a")).abs()',
        'col("a").is_null() & col("b").is_not_null()',
        'col("a").is_in(["x", "y"])',
        'col("a").fill_null(0)',
        '(col("a") / col("b")).fill_null(0) * 100',
        'col("a").cast("decimal(10,2)")',
        'col("a").round(2).floor().ceil()',
        'col("a").str.to_lowercase().str.to_uppercase().str.strip_chars().str.len_chars()',
        'col("a").str.starts_with("x") | col("a").str.ends_with(col("b")) | col("a").str.contains("y")',
        'col("a").str.slice(1, 2)',
        'col("a").str.slice(-3)',
        'col("a").str.replace_all("x", "y")',
        'col("t").dt.truncate("5m").dt.epoch_ms()',
        'col("t").dt.year() + col("t").dt.month() + col("t").dt.day() + col("t").dt.weekday()',
        'col("t").dt.hour() + col("t").dt.minute() + col("t").dt.second() + col("t").dt.millisecond()',
        'when(col("a") > 1).then(lit("x")).when(col("b")).then(col("c")).otherwise(lit(None))',
        'coalesce(col("a"), col("b"), 0)',
        'concat_str(col("a"), lit("-"), col("b"))',
        'min_horizontal(col("a"), 1)',
        'max_horizontal(col("a"), 1)',
        "timestamp() - window_start()",
        "window_end()",
        "offset() + partition()",
        'lit(None, type="int")',
        'col("a").alias("b")',
        '(col("a") + 1).alias("b")',
    ],
)
def test_repr_is_what_one_would_write(text):
    e = eval(text, {name: getattr(ads, name) for name in ads.__all__})
    assert repr(e) == text
    json.dumps(tree(e))


def test_between_says_which_ends_belong():
    c = col("a")
    assert repr(c.between(1, 2)) == '(col("a") >= 1) & (col("a") <= 2)'
    assert repr(c.between(1, 2, closed="left")) == '(col("a") >= 1) & (col("a") < 2)'
    assert repr(c.between(1, 2, closed="right")) == '(col("a") > 1) & (col("a") <= 2)'
    assert repr(c.between(1, 2, closed="none")) == '(col("a") > 1) & (col("a") < 2)'
    with refused("bad_argument", "`closed` is 'open'"):
        c.between(1, 2, closed="open")


@pytest.mark.parametrize(
    ("value", "dtype", "json_value"),
    [
        (True, "bool", True),
        (7, "int", 7),
        (0.5, "float", 0.5),
        ("x", "str", "x"),
        (Decimal("12.50"), "decimal(38,2)", "12.50"),
        (Decimal("1E+3"), "decimal(38,0)", "1000"),
        (Decimal("-1E-3"), "decimal(38,3)", "-0.001"),
        (datetime(2024, 1, 15, 10, tzinfo=UTC), "timestamp", 1_705_312_800_000),
        (timedelta(hours=-1), "duration", -3_600_000),
    ],
)
def test_literals_have_types(value, dtype, json_value):
    assert tree(lit(value)) == {"op": "lit", "type": dtype, "value": json_value}


def test_null_may_have_a_type():
    assert tree(lit(None)) == {"op": "lit"}
    assert tree(lit(None, type=int)) == {"op": "lit", "type": "int"}
    assert tree(lit("1.5", type="decimal(10,2)"))["op"] == "cast"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2**63, "does not fit 64 bits"),
        (float("nan"), "no number"),
        (float("inf"), "no number"),
        (Decimal("NaN"), "no number"),
        (Decimal(10) ** 38, "more than 38 digits"),
        (b"x", "cannot be a constant"),
        ([1], "cannot be a constant"),
    ],
)
def test_what_cannot_be_a_constant(value, message):
    with refused("bad_literal", message):
        col("a") + value


def test_naive_datetimes_are_refused():
    with refused("naive_datetime", "has no time zone", "tzinfo=UTC"):
        _ = col("at") > datetime(2024, 1, 15)


def test_text_is_a_column_in_functions_and_itself_beside_operators():
    assert tree(ads.coalesce("a", "b"))["args"] == [{"op": "col", "name": "a"}, {"op": "col", "name": "b"}]
    assert tree(when(col("a")).then("b").otherwise("a"))["args"][1] == {"op": "col", "name": "b"}
    assert tree(col("a") == "b")["args"][1] == {"op": "lit", "type": "str", "value": "b"}


def test_plus_joins_texts():
    assert tree(col("a") + "-" + col("b"))["op"] == "add"
    assert tree(col("a") + "-")["op"] == "str_concat"
    assert repr("<" + col("a") + ">") == 'concat_str(lit("<"), col("a"), lit(">"))'
    assert repr(ads.concat_str("a", "b", separator=", ")) == 'concat_str(col("a"), lit(", "), col("b"))'


def test_durations_of_columns():
    assert tree(ads.duration(hours=1, minutes=30)) == {"op": "lit", "type": "duration", "value": 5_400_000}
    assert repr(ads.duration(hours=col("w"))) == 'col("w") * datetime.timedelta(seconds=3600)'
    with refused("bad_argument", "how long?"):
        ads.duration()


def test_metadata_are_columns():
    assert [tree(e)["name"] for e in (ads.timestamp(), ads.offset(), ads.partition(), ads.window_start())] == [
        "$timestamp",
        "$offset",
        "$partition",
        "$window_start",
    ]


# --- what Python would evaluate at once ---------------------------------------------------------


def test_and():
    with refused("expression_as_bool", "has no truth value", "write `(col('a') > 1) & (col('b') > 2)`"):
        _ = col("a") > 1 and col("b") > 2


def test_or():
    with refused("expression_as_bool", hint="write `col('a') | (col('b') > 2)`"):
        _ = col("a") or col("b") > 2


def test_not():
    with refused("expression_as_bool", hint="write `~(col('a') > 1)`"):
        _ = not col("a") > 1


def test_chained_comparison():
    with refused("expression_as_bool", hint="write `(0 < col('a')) & (col('a') <= 10)`"):
        _ = 0 < col("a") <= 10


def test_in():
    with refused("expression_as_bool", hint="write `col('a').is_in(['x', 'y'])`"):
        _ = col("a") in ["x", "y"]
    with refused("expression_as_bool", "`in` cannot look into", ".str.contains"):
        _ = "x" in col("a")


def test_conditional_expression():
    with refused("expression_as_bool", hint="write `when(col('a')).then(1).otherwise(2)`"):
        _ = 1 if col("a") else 2


def test_if():
    with refused("expression_as_bool", hint="when(…)"):
        if col("a") > 1:
            pass


def test_bool_without_source():
    with pytest.raises(ads.TopologyError) as raised:
        exec("bool(c)", {"c": col("a")})
    assert "`&`, `|`, `~`" in (raised.value.hint or "")


def test_null_comparisons():
    with refused("null_comparison", '`col("a") == None` is never true', 'write `col("a").is_null()`'):
        _ = col("a") == None  # noqa: E711
    with refused("null_comparison", '`(col("a") + 1) != None`', 'write `(col("a") + 1).is_not_null()`'):
        _ = col("a") + 1 != None  # noqa: E711
    with refused("null_comparison", "never matches", ".is_null()"):
        col("a").is_in([1, None])


def test_the_line_is_the_users():
    line = inspect.currentframe().f_lineno + 2  # type: ignore[union-attr]
    with pytest.raises(ads.TopologyError) as raised:
        bool(col("a"))
    assert raised.value.line == f"test_expr.py:{line}"


def test_trees_cannot_be_looked_up_or_iterated():
    with pytest.raises(TypeError, match="unhashable"):
        {col("a")}
    with refused("expression_as_bool", "cannot be iterated"):
        list(col("a"))


def test_arguments_of_methods():
    with refused("bad_argument", "needs a list"):
        col("a").is_in("xyz")
    with refused("bad_argument", "not expressions"):
        col("a").is_in([col("b")])
    with refused("unknown_type", "unknown type `money`"):
        col("a").cast("money")
    with refused("bad_duration", "`every` is zero"):
        col("a").dt.truncate("0s")
    with refused("bad_argument", "a column's name is text"):
        col(3)


def test_when_is_finished():
    with refused("incomplete_when", '`when(col("a")).then(1)` is not finished', "`.otherwise(None)` leaves null"):
        _ = ads.coalesce(when(col("a")).then(1))
    with refused("incomplete_when", '`when(col("a"))` is not finished', "add `.then(…)`"):
        _ = col("a") + when(col("a"))


# --- callables ----------------------------------------------------------------------------------


def half(row: dict[str, Any]) -> float:
    return row["a"] / 2


def test_a_udf_takes_its_type_from_the_annotation():
    e = ads.udf(half)
    assert repr(e) == 'udf(half, type="float")'
    taken = []
    node = to_plan(e, ["a", "b", "$window_start"], lambda fn: taken.append(fn) or 4)
    assert node == {
        "op": "call",
        "args": [{"op": "col", "name": "a"}, {"op": "col", "name": "b"}],
        "function": 4,
        "type": "float",
    }
    assert isinstance(taken[0], CallRow)
    assert taken[0](3, None) == 1.5


def test_a_udf_of_columns_takes_values():
    e = ads.udf(lambda a: a + 1, type=int, columns=["a"])
    taken = []
    node = to_plan(e, ["a", "b"], lambda fn: taken.append(fn) or 0)
    assert node["args"] == [{"op": "col", "name": "a"}]
    assert taken[0](1) == 2


def test_an_untyped_udf_is_refused():
    with refused("untyped_callable", "what does `<lambda>` return?", "ads.udf(fn, type=…)"):
        ads.udf(lambda row: 1)


@pytest.mark.parametrize("op", ["and", "or"])
@pytest.mark.parametrize("count", [2, 3, 4, 7, 64, 1000])
def test_any_number_of_conditions_may_be_joined(op: str, count: int) -> None:
    """They stay in their order, and the tree no deeper than it must be: the core reads a plan to a certain depth."""
    join = operator.and_ if op == "and" else operator.or_
    parts = [col("a") == n for n in range(count)]
    left, right = functools.reduce(join, parts), functools.reduce(lambda a, b: join(b, a), reversed(parts))
    for e in (left, right, join(functools.reduce(join, parts[:1]), functools.reduce(join, parts[1:]))):

        def operands(node: Any) -> list[Any]:
            return [o for arg in node["args"] for o in operands(arg)] if node["op"] == op else [node]

        def depth(node: Any) -> int:
            return 1 + max(map(depth, node["args"])) if node["op"] == op else 0

        assert operands(tree(e)) == [tree(part) for part in parts]
        assert depth(tree(e)) <= 2 * count.bit_length()
        assert repr(e) == f" {'&' if op == 'and' else '|'} ".join(f"({part!r})" for part in parts)
    named = join(join(parts[0], parts[1]).alias("both"), parts[0])
    assert named.args[0].output == "both"


def test_what_is_nested_too_deeply_is_refused_with_a_way_out() -> None:
    deep = functools.reduce(operator.add, [col("count")] * 49)
    stream = events()
    stream.filter(deep > 0)
    for more in (deep + 1 + col("count"), functools.reduce(operator.sub, [col("count")] * 5_000)):
        with refused("bad_argument", "nested more than 50 levels", operation="filter"):
            stream.filter(more > 0)
