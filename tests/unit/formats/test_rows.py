"""Rows in other formats than JSON: what is declared is what comes, exactly, and goes out again; what does not fit is dead."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream import col
from adstream.testing import TopologyTestDriver
from tests.unit.formats import messages

S = ads.serdes
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
AT = datetime(2024, 1, 15, 10, 0, 0, 123_000, tzinfo=UTC)


class Click(ads.Record):
    id: str
    n: int | None
    score: float | None
    price: Annotated[Decimal, ads.decimal(10, 2)] | None
    at: datetime | None
    took: timedelta | None
    kind: Literal["WEB", "APP"] | None


ROW: dict[str, Any] = {
    "id": "a", "n": 3, "score": 0.5, "price": Decimal("1.50"), "at": AT, "took": timedelta(seconds=2), "kind": "APP"
}  # fmt: skip
JSON_ROW = {
    "id": "a", "n": 3, "score": 0.5, "price": "1.50", "at": "2024-01-15T10:00:00.123Z", "took": 2000, "kind": "APP"
}  # fmt: skip


def through(read: Any, write: Any = "json", schema: Any = Click) -> ads.Topology:
    @ads.topology(name="rows")
    def rows(app: ads.App) -> None:
        app.stream("in", schema, format=read).to("out", format=write)

    return rows


def avro_row(row: dict[str, Any]) -> dict[str, Any]:
    """A duration is a number of milliseconds in Avro."""
    return row | {"took": row["took"] // timedelta(milliseconds=1) if row["took"] is not None else None}


@pytest.mark.parametrize("format", ["avro", "arrow", S.protobuf(messages.CLICK)], ids=["avro", "arrow", "protobuf"])
def test_in_and_out(format: Any) -> None:
    row = avro_row(ROW) if format == "avro" else ROW
    with TopologyTestDriver(through(format), partitions=1) as driver:
        driver.input("in").pipe(row, at=0)
        assert [r.value for r in driver.output("out").read()] == [JSON_ROW]
    with TopologyTestDriver(through(format, format), partitions=1) as driver:
        driver.input("in").pipe(row, at=0)
        [value] = [r.value for r in driver.output("out").read()]
    if format == "avro":
        assert value == row
    elif format == "arrow":
        assert value.to_pylist() == [row]
        assert value.schema.field("price").type == pa.decimal128(10, 2)
    else:
        assert (value.id, value.n, value.price, value.kind) == ("a", 3, "1.50", 1)


def test_json_becomes_avro_with_a_schema_made_of_the_columns() -> None:
    url = f"mock://{uuid.uuid4()}"
    with TopologyTestDriver(through("json", "avro"), partitions=1, registry={"url": url}) as driver:
        driver.input("in").pipe({"id": "a", "price": "7.00", "at": "2024-01-15T10:00:00.123Z"}, at=0)
        [raw] = driver.output("out").read_raw()
    found = S.avro(registry=url).deserialize(raw.value)
    assert found == dict.fromkeys(ROW) | {"id": "a", "price": Decimal("7.00"), "at": AT}


values = st.fixed_dictionaries(
    {
        "id": st.text(max_size=8),
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "score": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "price": st.none()
        | st.integers(-(10**10) + 1, 10**10 - 1).map(lambda n: Decimal(n).scaleb(-2).quantize(Decimal("0.01"))),
        "at": st.none()
        | st.integers(946_684_800_000, 4_102_444_799_999).map(lambda ms: EPOCH + timedelta(milliseconds=ms)),
        "took": st.none() | st.integers(-(10**12), 10**12).map(lambda ms: timedelta(milliseconds=ms)),
        "kind": st.none() | st.sampled_from(["WEB", "APP"]),
    }
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(values, min_size=1, max_size=5))
def test_any_rows_come_back_as_they_went(rows: list[dict[str, Any]]) -> None:
    for format in ("avro", "arrow"):
        with TopologyTestDriver(through(format, format), partitions=1, batch_rows=3) as driver:
            given = [avro_row(row) for row in rows] if format == "avro" else rows
            driver.input("in").pipe_many(given, at=0)
            found = [r.value if format == "avro" else r.value.to_pylist()[0] for r in driver.output("out").read()]
            assert found == given
            assert driver.dead_letters("in") == []


def test_what_does_not_fit_is_dead_with_its_own_bytes() -> None:
    url = f"mock://{uuid.uuid4()}"
    wider = {
        "type": "record",
        "name": "W",
        "fields": [
            {"name": "id", "type": ["null", "string"]},
            {"name": "n", "type": ["null", "long", "double", "string"]},
            {
                "name": "price",
                "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 4}],
            },
        ],
    }
    write = S.avro(wider, registry=url).at("in", "value", "test")

    @ads.topology(name="dead")
    def dead(app: ads.App) -> None:
        fields = [
            pa.field("id", pa.string(), nullable=False),
            pa.field("n", pa.int64()),
            pa.field("price", pa.decimal128(10, 2)),
        ]
        app.stream("in", pa.schema(fields), format="avro").to("out")

    good = {"id": "a", "n": 1, "price": Decimal("1.5000")}
    rows = [good, good | {"id": None}, good | {"n": "x"}, good | {"n": 1.5}, good | {"price": Decimal("0.0001")}]
    payloads = [write.serialize(row) for row in rows]
    with TopologyTestDriver(dead, partitions=1, registry={"url": url}) as driver:
        for payload in [*payloads, b"junk", None, b"\x00\x00\x00\x00\x63x"]:
            driver.input("in").pipe(payload, at=5)
        assert [r.value for r in driver.output("out").read()] == [{"id": "a", "n": 1, "price": "1.50"}]
        found = driver.dead_letters("in")
        assert [(d.reason, d.value) for d in found] == [
            ("missing_field:id", payloads[1]),
            ("bad_field:n", payloads[2]),
            ("bad_field:n", payloads[3]),
            ("bad_field:price", payloads[4]),
            ("malformed_value", b"junk"),
            ("null_payload", None),
            ("malformed_value", b"\x00\x00\x00\x00\x63x"),
        ]
        assert "no schema with the id 99" in str(found[-1].message)
        assert [d.offset for d in found] == [1, 2, 3, 4, 5, 6, 7]


def test_a_row_that_has_no_form_in_the_format_is_dead() -> None:
    narrow = {"type": "record", "name": "N", "fields": [{"name": "id", "type": "string"}, {"name": "n", "type": "int"}]}

    @ads.topology(name="narrow")
    def narrowed(app: ads.App) -> None:
        app.stream("in", Click).to("out", columns=["id", "n"], format=S.avro(narrow))

    with TopologyTestDriver(narrowed, partitions=1) as driver:
        driver.input("in").pipe_many(
            [{"id": "a", "n": 1}, {"id": "b", "n": 1 << 40}, {"id": "c"}, {"id": "d", "n": 2}], at=0
        )
        assert [r.value for r in driver.output("out").read()] == [{"id": "a", "n": 1}, {"id": "d", "n": 2}]
        assert [d.reason for d in driver.dead_letters("in")] == ["unwritable_value"] * 2


def test_event_time_renamed_and_nested_fields_and_content_ids() -> None:
    class Event(ads.Record, rename="camel"):
        event_id: str = ads.content_id()
        event_time: Annotated[datetime, ads.epoch("ms")]
        genre: str = ads.field(path="data.genre")

    schema = {
        "type": "record",
        "name": "Event",
        "fields": [
            {"name": "eventTime", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {
                "name": "data",
                "type": {"type": "record", "name": "Data", "fields": [{"name": "genre", "type": "string"}]},
            },
        ],
    }

    @ads.topology(name="nested")
    def nested(app: ads.App) -> None:
        app.stream("in", Event, timestamp="event_time", format=S.avro(schema)).filter(col("genre") != "x").to("out")

    with TopologyTestDriver(nested, partitions=1) as driver:
        driver.input("in").pipe({"data": {"genre": "noir"}}, at=AT)
        driver.input("in").pipe({"eventTime": AT + timedelta(seconds=1), "data": {"genre": "noir"}})
        driver.input("in").pipe({"eventTime": AT + timedelta(seconds=1), "data": {"genre": "noir"}})
        one, two, three = driver.output("out").read()
        assert (one.timestamp, two.timestamp - one.timestamp) == (1705312800123, 1000)
        assert one.value["genre"] == "noir"
        ids = [r.value["event_id"] for r in (one, two, three)]
        assert len(ids[0]) == 32
        assert ids[0] != ids[1] == ids[2]


def test_a_table_of_several_rows_is_for_records() -> None:
    table = pa.table({"id": ["a", "b"], "n": [1, 2]})

    @ads.topology(name="tables")
    def tables(app: ads.App) -> None:
        app.stream("in", value=S.arrow()).flat_map_values(lambda t: t.to_pylist()).to("out", value=S.json)

    with TopologyTestDriver(tables, partitions=1) as driver:
        driver.input("in").pipe(table, key="k", at=0)
        assert [r.value for r in driver.output("out").read()] == [{"id": "a", "n": 1}, {"id": "b", "n": 2}]
    with TopologyTestDriver(through("arrow"), partitions=1) as driver:
        driver.input("in").pipe(S.arrow().serialize(table), at=0)
        [dead] = driver.dead_letters("in")
        assert dead.reason == "malformed_value"
        assert "a message with 2 rows" in str(dead.message)


def test_functions_are_a_format() -> None:
    lines = S.of(
        deserialize=lambda data: {"id": data.decode().partition(",")[0], "n": len(data)},
        serialize=lambda row: f"{row['id']}={row['n']}".encode(),
    )
    with TopologyTestDriver(through(lines, lines), partitions=1) as driver:
        driver.input("in").pipe(b"a,b", at=0)
        assert [r.value for r in driver.output("out").read_raw()] == [b"a=3"]


@pytest.mark.parametrize("format", ["avor", "protobuf", S.string, S.of(serialize=lambda v: b"")])
def test_misuse(format: Any) -> None:
    with pytest.raises(ads.TopologyError) as raised:
        through(format).build()
    assert (raised.value.code, raised.value.operation) == ("bad_argument", "stream")
    assert raised.value.hint


def test_through_a_window_and_a_crash() -> None:
    """Reading by Python changes nothing of what a crash leaves."""

    @ads.topology(name="counts")
    def counts(app: ads.App) -> None:
        clicks = app.stream("in", Click, timestamp="at", format="avro").require(late=col("at").is_not_null())
        table = (
            clicks.group_by("id")
            .windowed_by(ads.tumbling("1m", grace="1m"))
            .aggregate(n=ads.count(), sum=ads.sum("price"))
        )
        table.named("counts").final().to("out", format="avro")

    rows = [avro_row(ROW | {"id": "ab"[i % 2], "at": AT + timedelta(seconds=i)}) for i in range(600)]
    results = []
    for crash in (False, True):
        with TopologyTestDriver(counts, partitions=2, commit_every=50) as driver:
            for i, row in enumerate(rows):
                driver.input("in").pipe(row, partition=i % 2)
            if crash:
                driver.crash_at("before-commit", commits=3)
            found = [(r.key, r.value["n"], r.value["sum"]) for r in driver.output("out").read()]
            assert driver.crashed is True
            results.append(sorted(found, key=repr))
    assert results[0] == results[1]
    assert results[0]
