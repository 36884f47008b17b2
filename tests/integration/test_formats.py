"""Avro, Protobuf and JSON Schema on a real schema registry and a real Kafka: Confluent's own serialisers write what a job reads
and read what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient, topic_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

import adstream as ads
from adstream._core import RawBatch
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.kafka import KafkaLog
from adstream.testing import TopologyTestDriver
from tests.logs.conformance import read_all, unique
from tests.servers import Kafka, SchemaRegistry
from tests.unit.formats import messages

pytestmark = pytest.mark.servers

S = ads.serdes
BY_TOPIC = {"subject.name.strategy": topic_subject_name_strategy}
AT = datetime(2024, 1, 15, 10, tzinfo=UTC)
ORDER: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}


@pytest.fixture
def client(schema_registry: SchemaRegistry) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient({"url": schema_registry.url}) as made:
        yield made


def context(topic: str) -> SerializationContext:
    return SerializationContext(topic, MessageField.VALUE)


def filled(log: KafkaLog, topic: str, values: list[bytes]) -> None:
    log.create_topics([TopicSpec(topic, 1, {"retention.ms": "-1"})])
    writer = log.writer(unique("slot"))
    batch = RawBatch([(i, 1_705_312_800_000 + i, b"k", value, []) for i, value in enumerate(values)])
    assert writer.commit([(topic, 0, batch)], {}, unique("group"), None) is Outcome.COMMITTED
    writer.close()


def run(job: str, kafka: Kafka, registry: str, prefix: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "adstream.cli", "run", f"tests.integration.formats_job:{job}"]
    command += ["--bootstrap", kafka.bootstrap, "--schema-registry", registry, "--app", f"{prefix}-app"]
    command += ["--set", f"prefix={prefix}", "--stop-at-end", "--create-topics", "-X", "registry.max.retries=0"]
    environ = {"PYTHONPATH": ".", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=environ, check=False)


def test_rows_in_avro(
    kafka: Kafka, log: KafkaLog, schema_registry: SchemaRegistry, client: SchemaRegistryClient
) -> None:
    prefix = unique("avro")
    orders, twice = f"{prefix}-orders", f"{prefix}-twice"
    write = AvroSerializer(client, json.dumps(ORDER), conf=BY_TOPIC)
    rows = [{"id": f"o{i}", "price": Decimal(i) / 4, "at": AT + timedelta(milliseconds=i)} for i in range(500)]
    filled(log, orders, [*(write(row, context(orders)) for row in rows), b"\0\0\x0f\xff\xffx"])
    done = run("rows", kafka, schema_registry.url, prefix)
    assert done.returncode == 0, done.stdout + done.stderr
    read = AvroDeserializer(client, conf=BY_TOPIC)
    found = [read(value, context(twice)) for _, _, _, value, _ in read_all(log, twice)]
    assert found == [row | {"twice": row["price"] * 2} for row in rows]
    [(_, _, _, value, headers)] = read_all(log, f"{orders}-dlq")
    assert value == b"\0\0\x0f\xff\xffx"
    assert dict(headers)["adstream.reason"] == b"malformed_value"
    assert b"has no schema with the id 1048575" in (dict(headers)["adstream.message"] or b"")


def test_records_in_protobuf(
    kafka: Kafka, log: KafkaLog, schema_registry: SchemaRegistry, client: SchemaRegistryClient
) -> None:
    prefix = unique("protobuf")
    clicks, more = f"{prefix}-clicks", f"{prefix}-more"
    write = ProtobufSerializer(messages.CLICK, client, BY_TOPIC)
    filled(log, clicks, [write(messages.CLICK(id=f"c{i}", n=i), context(clicks)) for i in range(200)])
    done = run("records", kafka, schema_registry.url, prefix)
    assert done.returncode == 0, done.stdout + done.stderr
    values = [value for _, _, _, value, _ in read_all(log, more)]
    # Confluent's own deserialiser asks for schemas in binary form, which this registry does not have.
    assert [v[:7] for v in values] == [values[0][:5] + b"\x02\x02"] * 200
    found = [messages.CLICK.FromString(v[7:]) for v in values]
    assert [(m.id, m.n) for m in found] == [(f"C{i}", i + 1) for i in range(200)]


def test_a_registry_that_is_down_is_told_before_anything_is_read(kafka: Kafka, log: KafkaLog) -> None:
    prefix = unique("down")
    filled(log, f"{prefix}-orders", [b"x"])
    done = run("rows", kafka, "http://127.0.0.1:1", prefix)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "--schema-registry: the schema registry http://127.0.0.1:1 does not answer" in done.stderr


def test_ids_are_those_of_confluents_client_and_schemas_evolve(
    schema_registry: SchemaRegistry, client: SchemaRegistryClient
) -> None:
    topic = unique("evolves")
    serde = S.avro(ORDER, registry=schema_registry.url).at(topic, "value", "test")
    row = {"id": "a", "price": Decimal("1.25"), "at": AT}
    theirs = AvroSerializer(client, json.dumps(ORDER), conf=BY_TOPIC)(row, context(topic))
    assert serde.serialize(row) == theirs
    _set_compatibility(schema_registry, f"{topic}-value", "BACKWARD")
    wider = {**ORDER, "fields": [*ORDER["fields"], {"name": "region", "type": "string", "default": "EU"}]}
    new = S.avro(wider, registry=schema_registry.url).at(topic, "value", "test")
    assert new.deserialize(theirs) == row | {"region": "EU"}
    assert serde.deserialize(new.serialize(row | {"region": "US"})) == row
    assert client.get_versions(f"{topic}-value") == [1, 2]


def test_an_incompatible_schema_is_refused_at_the_start(schema_registry: SchemaRegistry) -> None:
    topic = unique("refused")
    S.avro(ORDER, registry=schema_registry.url).at(topic, "value", "test").serialize(
        {"id": "a", "price": Decimal("1.25"), "at": AT}
    )
    _set_compatibility(schema_registry, f"{topic}-value", "BACKWARD")

    @ads.topology(name="refused")
    def refused(app: ads.App) -> None:
        other = {"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}]}
        app.stream("in", value=S.json).to(topic, value=S.avro(other))

    with pytest.raises(ads.ConfigError, match=f"the schema for `{topic}-value` is refused"):
        TopologyTestDriver(refused, registry={"url": schema_registry.url})


@pytest.mark.parametrize("strategy", ["topic", "record", "topic_record"])
def test_subjects_are_confluents(strategy: Any, schema_registry: SchemaRegistry, client: SchemaRegistryClient) -> None:
    topic, record = unique("subjects"), unique("Order").replace("-", "_")
    schema = {**ORDER, "name": record, "namespace": "shop"}
    S.avro(schema, registry=schema_registry.url, strategy=strategy).at(topic, "value", "test").serialize(
        {"id": "a", "price": Decimal("1.25"), "at": AT}
    )
    name = {"topic": f"{topic}-value", "record": f"shop.{record}", "topic_record": f"{topic}-shop.{record}"}[strategy]
    assert [s for s in client.get_subjects() if record in s or topic in s] == [name]


def test_json_schema_and_imported_messages(schema_registry: SchemaRegistry, client: SchemaRegistryClient) -> None:
    topic = unique("other")
    schema = {"type": "object", "title": "T", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    serde = S.json_schema(schema, registry=schema_registry.url).at(topic, "value", "test")
    assert serde.deserialize(serde.serialize({"a": 1})) == {"a": 1}
    bills = S.protobuf(messages.BILL, registry=schema_registry.url).at(f"{topic}-bills", "value", "test")
    assert bills.deserialize(bills.serialize({"total": {"units": 5}})).total.units == 5
    [reference] = client.get_latest_version(f"{topic}-bills-value").schema.references
    assert (reference.name, reference.subject) == ("money.proto", "money.proto")


def _set_compatibility(registry: SchemaRegistry, subject: str, level: str) -> None:
    body = json.dumps({"compatibility": level}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{registry.url}/config/{subject}", method="PUT", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200
