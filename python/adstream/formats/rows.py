"""Formats of rows: payloads as JSON objects of the declared fields, which the core decodes, and back.

The core knows one format. For others a callable here turns a batch of payloads into JSON with exactly the declared fields,
so that types, nullability, times and dead letters are the core's own, and turns the JSON of rows into payloads. Values keep
what they are: decimals cross as digits, times as RFC 3339 or as numbers of the declared unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from decimal import Decimal
from math import isfinite
from typing import Any

import orjson

from adstream.errors import RegistryUnavailableError
from adstream.formats.registry import Connect

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"s": timedelta(seconds=1), "ms": timedelta(milliseconds=1), "us": timedelta(microseconds=1)}
_ABSENT = object()


class _Rows:
    """A callable over a batch that hands its registry on to the codec inside.

    Args:
        inverse: the codec of the other direction, or None: with it a test writes what a topology reads.
    """

    __adstream_codec__ = True

    def __init__(self, codec: Any, inverse: Any) -> None:
        self.codec, self.inverse = codec, inverse

    def connect(self, registry: Connect) -> None:
        for codec in (self.codec, self.inverse):
            if hasattr(codec, "__adstream_codec__"):
                codec.connect(registry)


class ReadRows(_Rows):
    """Payloads to JSON.

    Args:
        codec: bytes to a value: a dict, a message, a table of one row, an object with attributes.
        fields: (name, path, type, unit) of each declared field.
    """

    def __init__(
        self,
        codec: Callable[[bytes], Any],
        inverse: Callable[[Any], bytes] | None,
        fields: Sequence[tuple[str, tuple[str, ...], str, str | None]],
    ) -> None:
        super().__init__(codec, inverse)
        self.fields = list(fields)

    def __call__(self, payloads: list[bytes | None]) -> list[bytes | str | None]:
        return [None if payload is None else self._one(payload) for payload in payloads]

    def _one(self, payload: bytes) -> bytes | str | None:
        try:
            value = self.codec(payload)
            if value is None:
                return None
            value = _row(value)
            found = {}
            for name, path, kind, unit in self.fields:
                inner = value
                for step in path:
                    inner = _part(inner, step)
                    if inner is _ABSENT:
                        break
                else:
                    found[name] = _plain(inner, kind, unit)
            return orjson.dumps(found, default=_refuse)
        except RegistryUnavailableError:
            raise
        except Exception as error:  # a payload that cannot be read is data
            return f"{type(error).__name__}: {error}"


class WriteRows(_Rows):
    """JSON of rows to payloads.

    Args:
        codec: a dict to bytes.
        columns: name -> type.
    """

    def __init__(
        self, codec: Callable[[Any], bytes], inverse: Callable[[bytes], Any] | None, columns: Mapping[str, str]
    ) -> None:
        super().__init__(codec, inverse)
        kind = getattr(codec, "kind", "")
        makers = {name: _maker(type_, kind) for name, type_ in columns.items()}
        self.convert = {name: make for name, make in makers.items() if make is not None}

    def __call__(self, payloads: list[bytes]) -> list[bytes | str]:
        return [self._one(payload) for payload in payloads]

    def _one(self, payload: bytes) -> bytes | str:
        row = orjson.loads(payload)
        for name, make in self.convert.items():
            if row[name] is not None:
                row[name] = make(row[name])
        try:
            made: bytes = self.codec(row)
            return made
        except RegistryUnavailableError:
            raise
        except Exception as error:  # a row that has no form in the format is data
            return f"{type(error).__name__}: {error}"


def avro_schema(name: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """The schema of rows: each column may be null, and is by default."""
    fields = [{"name": c, "type": ["null", _avro_type(kind)], "default": None} for c, kind in columns.items()]
    return {"type": "record", "name": name, "fields": fields}


def arrow_schema(columns: Mapping[str, str]) -> Any:
    import pyarrow as pa

    plain = {
        "bool": pa.bool_(),
        "int": pa.int64(),
        "float": pa.float64(),
        "timestamp": pa.timestamp("ms", tz="UTC"),
        "duration": pa.duration("ms"),
    }

    def kind_of(kind: str) -> Any:
        return pa.decimal128(*_digits(kind)) if kind.startswith("decimal") else plain.get(kind, pa.string())

    return pa.schema([pa.field(name, kind_of(kind)) for name, kind in columns.items()])


def _avro_type(kind: str) -> Any:
    if kind.startswith("decimal"):
        precision, scale = _digits(kind)
        return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}
    if kind == "timestamp":
        return {"type": "long", "logicalType": "timestamp-millis"}
    return {"bool": "boolean", "int": "long", "float": "double", "duration": "long"}.get(kind, "string")


def _digits(kind: str) -> tuple[int, int]:
    precision, scale = kind.removeprefix("decimal(").removesuffix(")").split(",")
    return int(precision), int(scale)


def _maker(kind: str, codec: str) -> Callable[[Any], Any] | None:
    """How a column's JSON becomes a value of a codec; None: as it is. Avro has no duration: a number of milliseconds."""
    makers: dict[str, Callable[[Any], Any]] = {
        "decimal": Decimal,
        "timestamp": datetime.fromisoformat,
        "float": float,
        "duration": _UNITS["ms"].__mul__,
    }
    if codec == "JSON Schema" or (codec == "Avro" and kind == "duration"):
        return None
    return makers.get(kind.partition("(")[0])


def _row(value: Any) -> Any:
    """A table has one row, or it is none."""
    if hasattr(value, "to_pylist") and hasattr(value, "num_rows"):
        if value.num_rows != 1:
            raise ValueError(
                f"a message with {value.num_rows} rows: rows are read one from each record"
                " (read it as records, `value=ads.serdes.arrow()`, and `flat_map_values`)"
            )
        return value.to_pylist()[0]
    return value


def _part(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(name, _ABSENT)
    if value is None:
        return _ABSENT
    descriptor = getattr(type(value), "DESCRIPTOR", None)
    if descriptor is not None:
        return _of_message(value, descriptor, name)
    return getattr(value, name, _ABSENT)


def _of_message(message: Any, descriptor: Any, name: str) -> Any:
    """A field of a Protobuf message: one that knows absence and is absent is null, an enum is its name."""
    field = descriptor.fields_by_name.get(name)
    if field is None:
        return _ABSENT
    if field.has_presence and not message.HasField(name):
        return None
    value = getattr(message, name)
    if field.enum_type is not None and isinstance(value, int):
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    kind = field.message_type.full_name if field.message_type is not None else ""
    if kind == "google.protobuf.Timestamp":
        return value.ToDatetime(UTC)
    if kind == "google.protobuf.Duration":
        return value.ToTimedelta()
    if kind == "google.type.Decimal":
        return Decimal(value.value)
    if kind.startswith("google.protobuf.") and kind.endswith("Value") and hasattr(value, "value"):
        return value.value
    return value


def _plain(value: Any, kind: str, unit: str | None) -> Any:
    """A value as the JSON that the core reads for a declared type. What does not fit is left for the core to refuse."""
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else str(value)
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        if kind == "timestamp" and unit in _UNITS:
            return (value - _EPOCH) // _UNITS[unit]
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    if isinstance(value, timedelta):
        return value // _UNITS["ms"]
    if isinstance(value, clock_time):
        return ((value.hour * 60 + value.minute) * 60 + value.second) * 1000 + value.microsecond // 1000
    if isinstance(value, date):
        return value.isoformat()
    return value


def _refuse(value: Any) -> Any:
    """Of a kind that no column has: its text, which is a value of text columns alone (a UUID's)."""
    if isinstance(value, bytes):
        raise ValueError("bytes have no column type: decode them first, or read the topic as records")
    return str(value)
