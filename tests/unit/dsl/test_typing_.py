from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal, Optional

import pytest

import adstream as ads
from adstream.dsl.typing_ import infer, resolve
from tests.unit.dsl.support import refused

DIRECT = True  # whoever calls these says in which operation


@pytest.mark.parametrize(
    ("annotation", "text", "nullable"),
    [
        (bool, "bool", False),
        (int, "int", False),
        (float | None, "float", True),
        (Optional[str], "str", True),  # noqa: UP045
        (datetime, "timestamp", False),
        (timedelta, "duration", False),
        (Literal["A", "é"], 'enum["A","é"]', False),
        (Literal["A"] | None, 'enum["A"]', True),
        (Annotated[Decimal, ads.decimal(10, 2)], "decimal(10,2)", False),
        (Annotated[Decimal, ads.decimal(10, 2)] | None, "decimal(10,2)", True),
        (Annotated[Decimal | None, ads.decimal(10, 2)], "decimal(10,2)", True),
        ("decimal(10, 2)", "decimal(10,2)", False),
        (ads.decimal(5, 0), "decimal(5,0)", False),
    ],
)
def test_types_have_one_text(annotation, text, nullable):
    resolved = resolve(annotation, "x")
    assert (resolved.type, resolved.nullable) == (text, nullable)


def test_times_say_how_they_are_written():
    assert resolve(datetime, "x").time == ads.rfc3339()
    assert resolve(Annotated[datetime, ads.epoch("ms")], "x").time == ads.epoch("ms")
    assert repr(ads.rfc3339(zone="Asia/Seoul")) == 'rfc3339(zone="Asia/Seoul")'
    assert repr(ads.epoch("us")) == 'epoch("us")'
    assert repr(ads.decimal(10, 2)) == "decimal(10, 2)"


@pytest.mark.parametrize("annotation", [bytes, list[int], int | str, dict, None, Literal[1], object()])
def test_unknown_types_list_the_known(annotation):
    with refused("unknown_type", "`Event.x` has a type that adstream does not know", "Literal[…]"):
        resolve(annotation, "Event.x")


def test_decimals_need_digits():
    with refused("decimal_without_scale", "`Event.x`", "Annotated[Decimal, ads.decimal(10, 2)]"):
        resolve(Decimal, "Event.x")
    with refused("bad_decimal", "decimal(39, 2) does not exist", "1 to 38"):
        ads.decimal(39, 2)
    with refused("bad_decimal", "decimal(2, 3)"):
        ads.decimal(2, 3)


def test_formats_that_do_not_exist():
    with refused("bad_unit", "unknown unit `ns`"):
        ads.epoch("ns")
    with refused("bad_zone", "unknown time zone `Asia/Soul`"):
        ads.rfc3339(zone="Asia/Soul")


def test_the_core_infers():
    schema = {"a": "int", "p": "decimal(10,2)", "k": 'enum["A","B"]'}
    price = {"op": "col", "name": "p"}
    assert infer(schema, price, operation="filter") == "decimal(10,2)"
    assert (
        infer(schema, {"op": "ge", "args": [price, {"op": "lit", "type": "int", "value": 0}]}, operation="f") == "bool"
    )


def test_the_cores_refusals_have_the_operation_and_the_line():
    text = {"op": "lit", "type": "str", "value": "x"}
    with pytest.raises(ads.TopologyError) as raised:
        infer(
            {"a": "int"}, {"op": "sub", "args": [{"op": "col", "name": "a"}, text]}, operation="filter", line="j.py:3"
        )
    assert (raised.value.operation, raised.value.line) == ("filter", "j.py:3")
    assert raised.value.code
    assert raised.value.hint
