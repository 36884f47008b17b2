"""Serdes: how keys and values of a topic are bytes, as Java's serialisers write them.

    ads.serdes.string      str, UTF-8                       ads.serdes.json     None, bool, int, float, str, list, dict
    ads.serdes.bytes       bytes                            ads.serdes.uuid     str of 36 characters
    ads.serdes.int64       int, big-endian (also 16, 32)    ads.serdes.boolean  bool
    ads.serdes.float64     float, big-endian (also 32)      ads.serdes.void     always None
    ads.serdes.time_windowed(inner, size), ads.serdes.session_windowed(inner)       ads.Windowed
    ads.serdes.of(serialize=…, deserialize=…)               whatever two functions make of it

No bytes is None and None is no bytes, with every serde. Bytes that cannot be read are a dead letter
(`malformed_key`, `malformed_value`); a value that cannot be written is one, too (`unwritable_key`,
`unwritable_value`). In Kafka Streams: `Serdes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from json import dumps
from typing import Any

from adstream.dsl.durations import Duration, duration_ms
from adstream.dsl.faults import fault

Plan = str | dict[str, Any]


@dataclass(frozen=True, slots=True)
class Serde:
    """A pair of a serializer and a deserializer. Made by the names of this module."""

    name: str
    spec: Plan
    """As the core has it; a function's place holds the function itself until the plan is made."""

    def __repr__(self) -> str:
        return f"serdes.{self.name}"

    def serialize(self, value: Any) -> bytes | None:
        """Raises ValueError for what it cannot write."""
        from adstream._core import serde_write  # topologies are built without it

        return serde_write(*self._whole(), value)

    def deserialize(self, data: bytes | None) -> Any:
        """Raises ValueError for what it cannot read."""
        from adstream._core import serde_read

        return serde_read(*self._whole(), data)

    def _whole(self) -> tuple[str, list[Callable[..., Any]]]:
        functions: list[Callable[..., Any]] = []

        def register(fn: Callable[..., Any]) -> int:
            functions.append(fn)
            return len(functions) - 1

        return dumps(self.to_plan(register)), functions

    def to_plan(self, register: Callable[[Callable[..., Any]], int]) -> Plan:
        """With functions by their number in the plan's table."""
        found: Plan = _resolved(self.spec, register)
        return found


def _resolved(spec: Any, register: Callable[[Callable[..., Any]], int]) -> Any:
    if isinstance(spec, dict):
        return {name: _resolved(part, register) for name, part in spec.items()}
    return register(spec) if callable(spec) else spec


string = Serde("string", "string")
bytes_ = Serde("bytes", "bytes")
int16 = Serde("int16", "int16")
int32 = Serde("int32", "int32")
int64 = Serde("int64", "int64")
float32 = Serde("float32", "float32")
float64 = Serde("float64", "float64")
boolean = Serde("boolean", "boolean")
uuid = Serde("uuid", "uuid")
json_ = Serde("json", "json")
void = Serde("void", "void")
internal = Serde("internal", "internal")
internal_key = Serde("internal_key", "internal_key")

_NAMES = {"bytes": bytes_, "json": json_, "double": float64, "float": float32, "long": int64, "integer": int32}


def __getattr__(name: str) -> Serde:
    if name in _NAMES:
        return _NAMES[name]
    raise AttributeError(f"there is no serde `{name}`")


def time_windowed(inner: Serde, size: Duration) -> Serde:
    """Keys of tumbling and hopping windows: the inner key's bytes, then the start. The reader must know the size.

    In Kafka Streams: `WindowedSerdes.timeWindowedSerdeFrom`.
    """
    ms = duration_ms(size, "size", operation="time_windowed", zero=False)
    return time_windowed_ms(inner, ms)


def time_windowed_ms(inner: Serde, size_ms: int) -> Serde:
    return Serde(f"time_windowed({inner.name})", {"time_windowed": {"key": inner.spec, "size_ms": size_ms}})


def session_windowed(inner: Serde) -> Serde:
    """Keys of session windows: the inner key's bytes, then end and start.

    In Kafka Streams: `WindowedSerdes.sessionWindowedSerdeFrom`.
    """
    return Serde(f"session_windowed({inner.name})", {"session_windowed": {"key": inner.spec}})


def of(
    *, serialize: Callable[[Any], bytes | None] | None = None, deserialize: Callable[[bytes], Any] | None = None
) -> Serde:
    """A serde of two functions; one that is missing is an error where it is needed.

    In Kafka Streams: `Serdes.serdeFrom`.
    """
    return Serde("of", {"python": {"serialize": serialize, "deserialize": deserialize}})


def check(value: object, what: str, operation: str) -> Serde:
    """The argument as a serde."""
    if isinstance(value, Serde):
        return value
    raise fault(
        "bad_argument",
        f"`{what}` must be a serde, not {value!r}",
        operation=operation,
        hint=f"write `{what}=ads.serdes.string`",
    )
