import dataclasses
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, ClassVar, Literal

import pytest

import adstream as ads
from adstream.dsl.schema import Field, row_of, schema_of
from tests.unit.dsl.support import refused

Money = Annotated[Decimal, ads.decimal(10, 2)]
RFC3339 = ads.rfc3339()


class AdEvent(ads.Record):
    event_id: str = ads.content_id()
    event_type: Literal["IMPRESSION", "CLICK"]
    timestamp: datetime
    created: Annotated[datetime, ads.epoch("ms")] | None
    local: Annotated[datetime, ads.rfc3339(zone="Asia/Seoul")]
    price: Money | None
    genre: str | None = ads.field(path="data.genre")
    took: timedelta
    version: ClassVar[int] = 3


def test_a_record_says_its_fields():
    schema = schema_of(AdEvent, operation="stream")
    assert schema.fields == (
        Field("event_id", "str", False, ("event_id",), default="content_id"),
        Field("event_type", 'enum["IMPRESSION","CLICK"]', False, ("event_type",)),
        Field("timestamp", "timestamp", False, ("timestamp",), RFC3339),
        Field("created", "timestamp", True, ("created",), ads.epoch("ms")),
        Field("local", "timestamp", False, ("local",), ads.rfc3339(zone="Asia/Seoul")),
        Field("price", "decimal(10,2)", True, ("price",)),
        Field("genre", "str", True, ("data", "genre")),
        Field("took", "duration", False, ("took",)),
    )


def test_a_field_in_the_plan():
    plans = {f.name: f.to_plan() for f in schema_of(AdEvent, operation="stream").fields}
    assert plans["event_id"] == {
        "name": "event_id",
        "type": "str",
        "nullable": False,
        "path": ["event_id"],
        "default": "content_id",
    }
    assert plans["created"]["unit"] == "ms"
    assert (plans["local"]["unit"], plans["local"]["zone"]) == ("rfc3339", "Asia/Seoul")
    assert plans["genre"]["path"] == ["data", "genre"]


def test_camel_case():
    class Event(ads.Record, rename="camel"):
        event_type: str
        id: int
        deep: str = ads.field(path="a.b_c")

    assert [f.path for f in schema_of(Event, operation="s").fields] == [("eventType",), ("id",), ("a", "b_c")]


def test_records_inherit():
    class Base(ads.Record):
        id: str

    class Event(Base):
        n: int

    schema = schema_of(Event, operation="s")
    assert [f.name for f in schema.fields] == ["id", "n"]


def test_records_are_values():
    class Out(ads.Record):
        id: str
        n: int | None

    assert repr(Out(id="a")) == "Out(id='a', n=None)"
    assert Out(id="a", n=1) == Out(id="a", n=1)
    assert Out(id="a", n=1) != Out(id="a", n=2)
    with pytest.raises(TypeError, match=r"missing \['id'\]"):
        Out(n=1)
    with pytest.raises(TypeError, match=r"unexpected \['m'\]"):
        Out(id="a", m=1)
    assert row_of(Out(id="a"), ("id", "n")) == {"id": "a", "n": None}
    assert row_of({"id": "a", "more": 1}, ("id", "n")) == {"id": "a", "n": None}


def test_what_is_wrong_with_a_record_is_said_at_the_class():
    with refused("decimal_without_scale", "`Event.price`", "Annotated[Decimal, ads.decimal(10, 2)]", "Event"):

        class Event(ads.Record):
            price: Decimal

    with refused("bad_option", "rename='kebab'"):

        class Renames(ads.Record, rename="kebab"):
            id: str

    with refused("bad_default", "`Defaults.n` = 3", "`.fill_null(…)`"):

        class Defaults(ads.Record):
            n: int = 3

    with refused("bad_default", "a content id is text, not int"):

        class Ids(ads.Record):
            id: int = ads.content_id()

    with refused("unknown_type", "names nothing", "import it"):

        class Misses(ads.Record):
            id: "NoSuchType"  # type: ignore[name-defined]  # noqa: F821

    with refused("empty_schema", "`Empty` has no fields"):

        class Empty(ads.Record):
            pass

    with refused("bad_path", "not a path: 'a..b'"):
        ads.field(path="a..b")


def test_a_dataclass():
    @dataclasses.dataclass
    class Event:
        id: str
        price: Money | None = None

    assert schema_of(Event, operation="s").types == {"id": "str", "price": "decimal(10,2)"}
    assert [f.nullable for f in schema_of(Event, operation="s").fields] == [False, True]


def test_a_pydantic_model():
    pydantic = pytest.importorskip("pydantic")

    class Event(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        event_type: str = pydantic.Field(alias="eventType")
        n: int | None = None

    schema = schema_of(Event, operation="s")
    assert schema.types == {"event_type": "str", "n": "int"}
    assert [f.path for f in schema.fields] == [("eventType",), ("n",)]


def test_a_msgspec_struct():
    msgspec = pytest.importorskip("msgspec")

    class Event(msgspec.Struct, rename="camel"):  # type: ignore[name-defined, misc]
        event_type: str
        n: int | None = None

    schema = schema_of(Event, operation="s")
    assert schema.types == {"event_type": "str", "n": "int"}
    assert [f.path for f in schema.fields] == [("eventType",), ("n",)]


def test_an_arrow_schema():
    pa = pytest.importorskip("pyarrow")
    schema = schema_of(
        pa.schema(
            [
                pa.field("id", pa.string(), nullable=False),
                pa.field("n", pa.int32()),
                pa.field("x", pa.float64()),
                pa.field("ok", pa.bool_()),
                pa.field("price", pa.decimal128(10, 2)),
                pa.field("at", pa.timestamp("us", tz="UTC")),
                pa.field("kind", pa.dictionary(pa.int32(), pa.string())),
            ]
        ),
        operation="stream",
    )
    assert schema.types == {
        "id": "str",
        "n": "int",
        "x": "float",
        "ok": "bool",
        "price": "decimal(10,2)",
        "at": "timestamp",
        "kind": "str",
    }
    assert [f.nullable for f in schema.fields][:2] == [False, True]
    with refused("naive_datetime", "`at` has no time zone", 'tz="UTC"'):
        schema_of(pa.schema([("at", pa.timestamp("ms"))]), operation="stream")
    with refused("unknown_type", "`tags`"):
        schema_of(pa.schema([("tags", pa.list_(pa.string()))]), operation="stream")


@pytest.mark.parametrize("source", [int, {"id": "str"}, None, "Event"])
def test_what_is_no_schema(source):
    with refused("not_a_schema", "does not describe a record", "ads.Record", "stream"):
        schema_of(source, operation="stream")
