"""JSON with a schema's id before it, checked by the schema (`jsonschema`), as Confluent's `KafkaJsonSchemaSerializer`."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import orjson

from adstream.formats import codec


def validator(schema: Any) -> Any:
    """Raises ValueError: it is no JSON Schema."""
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(error.message) from error
    return kind(schema)


def _checked(check: Any, value: Any) -> None:
    for error in check.iter_errors(value):
        raise ValueError(f"`{error.json_path}`: {error.message}")


class JsonSchemaReader(codec.Reader):
    kind = "JSON Schema"

    def __init__(self, url: str | None, schema: Any, *, validate: bool) -> None:
        super().__init__(url)
        self.schema, self.validate = schema, validate

    def learn(self, number: int, schema: Any) -> Callable[[bytes], Any]:
        if schema.schema_type != "JSON":
            raise ValueError(f"the schema {number} is {schema.schema_type or 'AVRO'}, not JSON Schema")
        check = validator(self.schema or json.loads(schema.schema_str)) if self.validate else None

        def read(data: bytes) -> Any:
            value = orjson.loads(data)
            if check is not None:
                _checked(check, value)
            return value

        return read


class JsonSchemaWriter(codec.Writer):
    kind = "JSON Schema"

    def __init__(self, url: str | None, schema: Any, *, validate: bool, **options: Any) -> None:
        super().__init__(url, **options)
        self.schema, self.validate = schema, validate
        self._check: Any = None

    def record_name(self) -> str | None:
        return self.schema.get("title") if isinstance(self.schema, dict) else None

    def settle(self, subject: str) -> int:
        from confluent_kafka.schema_registry import Schema

        if self.use_latest:
            number, found = self.registry.latest(subject)
            self.schema = json.loads(found.schema_str)
        else:
            text = json.dumps(self.schema, separators=(",", ":"))
            number = self.registry.number(subject, Schema(text, "JSON"), register=self.auto_register)
        self._check = validator(self.schema) if self.validate else None
        return number

    def __call__(self, value: Any) -> bytes:
        head = self.head()
        if self._check is not None:
            _checked(self._check, value)
        return head + orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z)


def _plain(value: Any) -> str:
    """What JSON has no form for, as everywhere here: decimals as text."""
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"JSON has no form for a {type(value).__name__}")
