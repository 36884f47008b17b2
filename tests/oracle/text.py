"""Payloads, keys and written values."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIME_MIN, TIME_END = 946_684_800_000, 4_102_444_800_000
RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
)
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


class Refused(Exception):
    """The record is dead, for this reason."""


class WrongType(Exception):
    pass


def refuse_constant(name: str) -> None:
    raise ValueError(name)


DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=refuse_constant)


def scale_of(dtype: str) -> int:
    return int(dtype.removeprefix("decimal(").removesuffix(")").split(",")[1])


def precision_of(dtype: str) -> int:
    return int(dtype.removeprefix("decimal(").removesuffix(")").split(",")[0])


def parse_payload(value: bytes | None, fields: list[dict[str, Any]]) -> dict[str, Any]:
    """The fields' values. Raises Refused."""
    if value is None:
        raise Refused("null_payload")
    try:
        document = DECODER.decode(value.decode())
    except (ValueError, InvalidOperation, RecursionError):
        raise Refused("malformed_json") from None
    if not isinstance(document, dict):
        raise Refused("malformed_json")
    return {f["name"]: parse_field(document, f, value) for f in fields}


def parse_field(document: Any, f: dict[str, Any], payload: bytes) -> Any:
    raw = document
    for name in f.get("path") or [f["name"]]:
        if raw is None:
            break
        if not isinstance(raw, dict):
            raise Refused(f"bad_field:{f['name']}")
        raw = raw.get(name)
    if raw is None:
        if f.get("default") == "content_id":
            return "content:" + hashlib.sha256(payload).hexdigest()
        if f["nullable"]:
            return None
        raise Refused(f"missing_field:{f['name']}")
    try:
        return parse_value(raw, f)
    except WrongType:
        raise Refused(f"bad_field:{f['name']}") from None


def parse_value(raw: Any, f: dict[str, Any]) -> Any:
    dtype = f["type"]
    whole = isinstance(raw, int) and not isinstance(raw, bool)
    if dtype == "bool" and isinstance(raw, bool):
        return raw
    if dtype in ("int", "duration") and whole and -(2**63) <= raw < 2**63:
        return raw
    if dtype == "float" and (whole or isinstance(raw, Decimal)):
        x = float(raw)
        if math.isfinite(x):
            return x
    if dtype == "str" and isinstance(raw, str):
        return raw
    if dtype.startswith("enum") and raw in json.loads(dtype.removeprefix("enum")):
        return raw
    if dtype.startswith("decimal"):
        return parse_decimal(raw, dtype)
    if dtype == "timestamp":
        ms = parse_time(raw, f.get("unit") or "rfc3339")
        if TIME_MIN <= ms < TIME_END:
            return ms
    raise WrongType


def parse_decimal(raw: Any, dtype: str) -> Decimal:
    if isinstance(raw, str):
        if not NUMBER.fullmatch(raw):
            raise WrongType
        raw = Decimal(raw)
    if isinstance(raw, bool) or not isinstance(raw, int | Decimal):
        raise WrongType
    scaled = Decimal(raw).scaleb(scale_of(dtype))
    if scaled != scaled.to_integral_value() or abs(scaled) >= 10 ** precision_of(dtype):
        raise WrongType
    return Decimal(int(scaled)).scaleb(-scale_of(dtype))


def parse_time(raw: Any, unit: str) -> int:
    if unit == "rfc3339":
        match = RFC3339.fullmatch(raw) if isinstance(raw, str) else None
        if match is None:
            raise WrongType
        day, clock, fraction, zone = match.groups()
        try:
            moment = datetime.fromisoformat(f"{day}T{clock}{zone.upper()}")
        except ValueError:
            raise WrongType from None
        return (moment - EPOCH) // timedelta(milliseconds=1) + int(((fraction or "") + "000")[:3])
    if not isinstance(raw, int) or isinstance(raw, bool):
        raise WrongType
    return {"s": raw * 1000, "ms": raw, "us": raw // 1000}[unit]


def as_json(value: Any, dtype: str) -> Any:
    """What a written value is once it is read as JSON again."""
    if value is None:
        return None
    if dtype == "timestamp":
        when = EPOCH + timedelta(milliseconds=value)
        return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if dtype.startswith("decimal"):
        return f"{value:.{scale_of(dtype)}f}"
    return value


def key_bytes(values: list[Any], types: list[str]) -> bytes | None:
    """As on user topics; None is a null key."""
    if len(values) > 1:
        inner = [
            f"{v:.{scale_of(t)}f}" if t.startswith("decimal") and v is not None else v
            for v, t in zip(values, types, strict=True)
        ]
        return json.dumps(inner, ensure_ascii=False, separators=(",", ":")).encode()
    (value,), (dtype,) = values, types
    if value is None:
        return None
    if dtype in ("int", "timestamp", "duration"):
        return struct.pack(">q", value)
    if dtype == "float":
        return struct.pack(">d", value)
    if dtype == "bool":
        return bytes([value])
    if dtype.startswith("decimal"):
        return f'"{value:.{scale_of(dtype)}f}"'.encode()
    return str(value).encode()


def murmur2(data: bytes) -> int:
    """Kafka's, from its description: 32 bits, seed 0x9747b28c, little-endian words."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k ^= k >> 24
        h = (h * m & mask) ^ (k * m & mask)
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)


def partition_of(key: bytes, partitions: int) -> int:
    return (murmur2(key) & 0x7FFFFFFF) % partitions
