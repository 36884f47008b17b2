"""Avro, by fastavro. Logical types are Python's: `decimal` is `Decimal`, exact, `timestamp-millis` an aware `datetime`.

Reading goes by the writer's schema, found by its id, and if a reader's schema is given, from that to this one by Avro's rules
(defaults, promotions, aliases). Writing is strict: a record has the schema's fields, those without a default all, and no
others. A plain `bytes` schema stands for the bytes themselves, as in Confluent's serialisers.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from adstream.formats import codec
from adstream.formats.registry import Registry


def parsed(schema: str | Mapping[str, Any] | list[Any]) -> tuple[str, Any]:
    """(JSON text, as it was given; as fastavro wants it). Raises ValueError."""
    from fastavro import parse_schema
    from fastavro.schema import SchemaParseException, UnknownType

    try:
        raw = json.loads(schema) if isinstance(schema, str) and schema.lstrip()[:1] in ("{", "[", '"') else schema
        return schema if isinstance(schema, str) and raw is not schema else json.dumps(raw), parse_schema(
            cast(Any, raw)
        )
    except (SchemaParseException, UnknownType, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _with_references(registry: Registry, schema: Any) -> Any:
    """A registered schema, parsed, with those that it refers to."""
    from fastavro import parse_schema

    named: dict[str, Any] = {}

    def gather(found: Any) -> None:
        for reference in found.references or ():
            inner = registry.version(reference.subject, reference.version)
            gather(inner)
            parse_schema(json.loads(inner.schema_str), named)

    gather(schema)
    return parse_schema(json.loads(schema.schema_str), named)


def _is_bytes(schema: Any) -> bool:
    plain = schema == "bytes" or (isinstance(schema, dict) and schema.get("type") == "bytes")
    return plain and not (isinstance(schema, dict) and schema.get("logicalType"))


class AvroReader(codec.Reader):
    kind = "Avro"

    def __init__(self, url: str | None, schema: Any) -> None:
        super().__init__(url)
        self.schema = schema

    def learn(self, number: int, schema: Any) -> Callable[[bytes], Any]:
        from fastavro import schemaless_reader

        if (schema.schema_type or "AVRO") != "AVRO":
            raise ValueError(f"the schema {number} is {schema.schema_type}, not Avro")
        written, wanted = _with_references(self.registry, schema), self.schema
        if _is_bytes(written):
            return bytes
        return lambda data: schemaless_reader(io.BytesIO(data), written, wanted)


class AvroWriter(codec.Writer):
    kind = "Avro"

    def __init__(self, url: str | None, text: str | None, schema: Any, **options: Any) -> None:
        super().__init__(url, **options)
        self.text, self.schema = text, schema
        self._narrow: bool | None = None

    def record_name(self) -> str | None:
        return self.schema.get("name") if isinstance(self.schema, dict) else None

    def settle(self, subject: str) -> int:
        from confluent_kafka.schema_registry import Schema

        if self.use_latest:
            number, found = self.registry.latest(subject)
            self.schema, self._narrow = _with_references(self.registry, found), None
            return number
        return self.registry.number(subject, Schema(self.text, "AVRO"), register=self.auto_register)

    def __call__(self, value: Any) -> bytes:
        from fastavro import schemaless_writer
        from fastavro.validation import validate

        head = self.head()
        if _is_bytes(self.schema) and isinstance(value, bytes):
            return head + value
        if self._narrow is None:
            self._narrow = '"int"' in json.dumps(self.schema)
        if self._narrow:
            # fastavro writes an int of any size, and who reads 32 bits reads something else.
            validate(value, self.schema)
        out = io.BytesIO()
        out.write(head)
        schemaless_writer(out, self.schema, value, strict_allow_default=True)
        return out.getvalue()
