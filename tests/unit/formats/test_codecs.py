"""Avro, Protobuf and JSON Schema as serdes, on a registry in the process: the wire format, subjects, evolution, errors."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import adstream as ads
from adstream.formats.protobuf import message_index
from adstream.formats.registry import open_registry
from adstream.testing import TopologyTestDriver
from tests.unit.formats import messages

S = ads.serdes
ORDER: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["WEB", "APP"]}},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}
AT = datetime(2024, 1, 15, 10, 0, 0, 123_000, tzinfo=UTC)
VALUE = {"id": "o1", "price": Decimal("12.50"), "at": AT, "kind": "APP", "note": None}


@pytest.fixture
def url() -> str:
    return f"mock://{uuid.uuid4()}"


def subjects(url: str) -> list[str]:
    return sorted(open_registry(url, {}, "test").client.get_subjects())


def copied(build: Callable[[ads.App], None], value: Any, url: str, topic: str = "in", key: Any = "k") -> Any:
    """What comes out of `out` for one record."""
    with TopologyTestDriver(ads.topology(name="formats")(build), partitions=1, registry={"url": url}) as driver:
        driver.input(topic).pipe(value, key=key, at=0)
        [record] = driver.output("out").read()
        return record.value


# --- The wire format ----------------------------------------------------------------------------------------------------


def test_avro_in_and_out_is_the_same_value_behind_a_zero_and_the_id(url: str) -> None:
    serde = S.avro(ORDER, registry=url).at("orders", "value", "test")
    made = serde.serialize(VALUE)
    assert made is not None
    assert made[0] == 0
    [number] = struct.unpack(">I", made[1:5])
    assert open_registry(url, {}, "test").client.get_schema(number).schema_type in (None, "AVRO")
    assert made[5:] == b"\x04o1" + b"\x04\x04\xe2" + _zigzag(1705312800123) + b"\x02" + b"\x00"
    assert serde.deserialize(made) == VALUE
    assert serde.deserialize(None) is None


def _zigzag(n: int) -> bytes:
    out, n = b"", n << 1
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def test_the_place_of_a_message_stands_before_it(url: str) -> None:
    def written(message: Any) -> bytes:
        made = S.protobuf(type(message), registry=url).at(type(message).__name__, "value", "test").serialize(message)
        assert made is not None
        return made[5:]

    assert written(messages.OTHER(id="a")) == b"\x00" + b"\x0a\x01a"
    assert written(messages.CLICK(id="a")) == b"\x02\x02" + b"\x0a\x01a"
    assert written(messages.INNER(x=1)) == b"\x04\x02\x00" + b"\x08\x01"


@given(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=6), st.binary(max_size=4))
def test_any_place_is_read_and_its_end_found(place: list[int], rest: bytes) -> None:
    head = b"\x00" if place == [0] else b"".join(_zigzag(n) if n else b"\x00" for n in [len(place), *place])
    assert message_index(head + rest) == (tuple(place), len(head))


@given(st.binary(max_size=12))
def test_no_bytes_harm(data: bytes) -> None:
    for serde in (S.avro(ORDER, registry="mock://x"), S.protobuf(messages.CLICK, registry="mock://x")):
        with pytest.raises(ValueError, match=r"ValueError|EOFError"):
            serde.deserialize(data)


# --- Subjects -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "orders-value"),
        ({"strategy": "record"}, "shop.Order"),
        ({"strategy": "topic_record"}, "orders-shop.Order"),
        ({"subject": "mine"}, "mine"),
        ({"strategy": lambda topic, field, name: f"{name}/{field}/{topic}"}, "shop.Order/value/orders"),
    ],
)
def test_where_a_schema_is_registered(options: dict[str, Any], expected: str, url: str) -> None:
    S.avro(ORDER, registry=url, **options).at("orders", "value", "test").serialize(VALUE)
    assert subjects(url) == [expected]


def test_a_key_has_a_subject_of_its_own(url: str) -> None:
    def build(app: ads.App) -> None:
        key = S.avro({"type": "record", "name": "Id", "fields": [{"name": "n", "type": "long"}]})
        app.stream("in", key=S.int64, value=S.string).map(lambda k, v: ({"n": k}, v)).to("out", key=key)

    assert copied(build, "x", url, key=7) == "x"
    assert subjects(url) == ["out-key"]


def test_what_a_topology_only_reads_registers_nothing(url: str) -> None:
    @ads.topology(name="reads")
    def reads(app: ads.App) -> None:
        app.stream("in", value=S.avro(ORDER)).map_values(lambda v: v["id"]).to("out", value=S.string)

    with TopologyTestDriver(reads, partitions=1, registry={"url": url}):
        assert subjects(url) == []


def test_one_subject_for_several_topics_must_be_said() -> None:
    @ads.topology(name="several")
    def several(app: ads.App, strategy: str = "topic") -> None:
        serde = S.avro(ORDER, strategy=strategy)  # type: ignore[arg-type]
        app.stream("in", value=serde).to(lambda k, v: k, topics=["a", "b"], key=S.string, value=serde)

    with pytest.raises(ads.TopologyError, match="2 topics, each with a subject of its own") as raised:
        several.build()
    assert raised.value.hint == 'write `subject="…"` or `strategy="record"` in the serde'
    several.build(strategy="record")


# --- Evolution ----------------------------------------------------------------------------------------------------------


def test_a_readers_schema_fills_in_and_leaves_out(url: str) -> None:
    old = S.avro(ORDER, registry=url).at("orders", "value", "test")
    fields = [f for f in ORDER["fields"] if f["name"] != "kind"]
    newer = {**ORDER, "fields": [*fields, {"name": "region", "type": "string", "default": "EU"}]}
    read = S.avro(reader=newer, registry=url)
    assert read.deserialize(old.serialize(VALUE)) == {
        "id": "o1", "price": Decimal("12.50"), "at": AT, "note": None, "region": "EU"
    }  # fmt: skip
    lacking = {**ORDER, "fields": [*ORDER["fields"], {"name": "must", "type": "string"}]}
    with pytest.raises(ValueError, match="must"):
        S.avro(reader=lacking, registry=url).deserialize(old.serialize(VALUE))


def test_versions_of_a_topic_are_each_read_by_their_own_schema(url: str) -> None:
    one = {"type": "record", "name": "E", "fields": [{"name": "a", "type": "int"}]}
    two = {"type": "record", "name": "E", "fields": [{"name": "b", "type": "string"}, {"name": "a", "type": "long"}]}
    read = S.avro(registry=url)
    records = [
        S.avro(schema, registry=url).at("t", "value", "test").serialize(value)
        for schema, value in [(one, {"a": 1}), (two, {"b": "x", "a": 2}), (one, {"a": 3})]
    ]
    assert [read.deserialize(r) for r in records] == [{"a": 1}, {"b": "x", "a": 2}, {"a": 3}]


def test_a_message_that_moved_in_its_file_is_read_and_another_is_not(url: str) -> None:
    new = S.protobuf(messages.CLICK_V2, registry=url).at("clicks", "value", "test")
    read = S.protobuf(messages.CLICK, registry=url)
    message = read.deserialize(new.serialize(messages.CLICK_V2(id="a", region="EU")))
    assert (type(message), message.id) == (messages.CLICK, "a")
    other = S.protobuf(messages.OTHER, registry=url).at("others", "value", "test")
    with pytest.raises(ValueError, match=r"this is a `shop\.Other`, not a `shop\.Click`"):
        read.deserialize(other.serialize(messages.OTHER(id="a")))


def test_the_newest_version_is_written_if_asked(url: str) -> None:
    def plain(**options: Any) -> ads.serdes.Serde:
        return S.avro(registry=url, **options).at("orders", "value", "test")

    plain(schema={"type": "record", "name": "E", "fields": [{"name": "a", "type": "int"}]}).serialize({"a": 1})
    wider = {"type": "record", "name": "E", "fields": [{"name": "a", "type": "long"}]}
    plain(schema=wider).serialize({"a": 1})
    assert plain(use_latest=True).serialize({"a": 1 << 40}) == plain(schema=wider).serialize({"a": 1 << 40})


# --- What goes wrong ----------------------------------------------------------------------------------------------------


def test_an_unknown_id_is_a_dead_letter_that_names_it(url: str) -> None:
    @ads.topology(name="dead")
    def dead(app: ads.App) -> None:
        app.stream("in", value=S.avro()).to("out", value=S.json)

    with TopologyTestDriver(dead, partitions=1, registry={"url": url}) as driver:
        for value in (b"\x00\x00\x00\x00\x63rest", b'{"a": 1}', b"\x00\x01"):
            driver.input("in").pipe_raw(b"k", value)  # type: ignore[attr-defined]
        assert driver.output("out").read() == []
        found = driver.dead_letters("in")
        assert [d.reason for d in found] == ["malformed_value"] * 3
        assert "no schema with the id 99" in str(found[0].message)
        assert "this is not Avro with a schema's id" in str(found[1].message)


def test_what_does_not_fit_the_schema_is_a_dead_letter(url: str) -> None:
    @ads.topology(name="dead")
    def dead(app: ads.App) -> None:
        app.stream("in", value=S.json).to("out", value=S.avro(ORDER))

    with TopologyTestDriver(dead, partitions=1, registry={"url": url}) as driver:
        driver.input("in").pipe({"id": "o1"}, key="k")
        driver.input("in").pipe({"id": "o1", "price": 1.5, "at": 0, "kind": "WEB", "note": None}, key="k")
        driver.input("in").pipe({"id": "o1", "price": 1.5, "at": 0, "kind": "WEB", "more": 1}, key="k")
        assert driver.output("out").read() == []
        assert {d.reason for d in driver.dead_letters("in")} == {"unwritable_value"}
        assert "price is specified in the schema but missing" in str(driver.dead_letters("in")[0].message)


def test_a_registry_that_is_down_is_an_error_at_the_start_that_names_the_option() -> None:
    @ads.topology(name="down")
    def down(app: ads.App) -> None:
        app.stream("in", value=S.avro(ORDER)).to("out")

    settings = {"url": "http://me:hidden@127.0.0.1:1", "max.retries": "0"}
    with pytest.raises(ads.ConfigError) as raised:
        TopologyTestDriver(down, registry=settings)
    assert str(raised.value).startswith("--schema-registry: the schema registry http://***@127.0.0.1:1 does not answer")
    assert "hidden" not in str(raised.value)


def test_an_unregistered_schema_is_an_error_at_the_start(url: str) -> None:
    @ads.topology(name="strict")
    def strict(app: ads.App) -> None:
        app.stream("in", value=S.json).to("out", value=S.avro(ORDER, auto_register=False))

    with pytest.raises(ads.ConfigError, match="the schema for `out-value` is not registered"):
        TopologyTestDriver(strict, registry={"url": url})
    S.avro(ORDER, registry=url).at("out", "value", "test").serialize(VALUE)
    TopologyTestDriver(strict, registry={"url": url}).close()


def test_a_registry_that_dies_stops_the_task_and_makes_no_dead_letter(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @ads.topology(name="dies")
    def dies(app: ads.App) -> None:
        app.stream("in", value=S.avro()).map_values(lambda v: v["id"]).to("out", value=S.string)

    value = S.avro(ORDER, registry=url).at("in", "value", "test").serialize(VALUE)
    with TopologyTestDriver(dies, partitions=1, registry={"url": url}) as driver:
        client = open_registry(url, {}, "test").client

        def refused(*_: object, **__: object) -> None:
            raise ConnectionRefusedError("refused")

        monkeypatch.setattr(client, "get_schema", refused)
        driver.input("in").pipe_raw(b"k", value)  # type: ignore[attr-defined]
        with pytest.raises(ads.FatalError, match=r"does not answer.*\[registry_unavailable\]"):
            driver.run()
        monkeypatch.undo()
        driver.restart()
        assert [r.value for r in driver.output("out").read()] == ["o1"]
        assert driver.dead_letters("in") == []


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: S.avro({"type": "recrod", "name": "X"}), "bad_schema"),
        (lambda: S.avro("{"), "bad_schema"),
        (lambda: S.json_schema({"type": 3}), "bad_schema"),
        (lambda: S.avro(ORDER, strategy="topics"), "bad_argument"),  # type: ignore[arg-type]
        (lambda: S.avro("long", strategy="record"), "bad_argument"),
        (lambda: S.protobuf(dict), "bad_argument"),
    ],
)
def test_misuse(make: Callable[[], Any], code: str) -> None:
    with pytest.raises(ads.TopologyError) as raised:
        make()
    assert raised.value.code == code


def test_json_schema_checks_both_ways(url: str) -> None:
    schema = {"type": "object", "title": "T", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    serde = S.json_schema(schema, registry=url).at("t", "value", "test")
    made = serde.serialize({"a": 1})
    assert made is not None
    assert made[5:] == b'{"a":1}'
    assert serde.deserialize(made) == {"a": 1}
    for call in (lambda: serde.serialize({"a": "x"}), lambda: serde.deserialize(made[:5] + b'{"b":1}')):
        with pytest.raises(ValueError, match=r"is not of type 'integer'|'a' is a required property"):
            call()


def test_a_dict_is_a_message_when_written(url: str) -> None:
    serde = S.protobuf(messages.CLICK, registry=url).at("clicks", "value", "test")
    row = {"id": "a", "n": 3, "price": Decimal("1.50"), "at": AT, "took": timedelta(seconds=2), "kind": "APP"}
    message = serde.deserialize(serde.serialize(row | {"inner": {"x": 4}, "score": None}))
    assert (message.id, message.n, message.price, message.kind, message.inner.x) == ("a", 3, "1.50", 1, 4)
    assert message.at.ToDatetime(UTC) == AT
    assert message.took.ToTimedelta() == timedelta(seconds=2)
    with pytest.raises(ValueError, match="no field `idd`"):
        serde.serialize({"idd": "a"})


def test_imported_files_are_registered_and_referred_to(url: str) -> None:
    serde = S.protobuf(messages.BILL, registry=url).at("bills", "value", "test")
    assert serde.deserialize(serde.serialize({"total": {"units": 5}})).total.units == 5
    assert subjects(url) == ["bills-value", "money.proto"]
