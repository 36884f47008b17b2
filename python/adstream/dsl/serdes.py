"""Serdes: how keys and values of a topic are bytes, as Java's serialisers write them.

    ads.serdes.string      str, UTF-8                       ads.serdes.json     None, bool, int, float, str, list, dict
    ads.serdes.bytes       bytes                            ads.serdes.uuid     str of 36 characters
    ads.serdes.int64       int, big-endian (also 16, 32)    ads.serdes.boolean  bool
    ads.serdes.float64     float, big-endian (also 32)      ads.serdes.void     always None
    ads.serdes.decimal(2)  Decimal with two digits after the point
    ads.serdes.time_windowed(inner, size), ads.serdes.session_windowed(inner)       ads.Windowed
    ads.serdes.list(inner)                                  list, whose items may be None
    ads.serdes.of(serialize=…, deserialize=…)               whatever two functions make of it
    ads.serdes.avro(schema), ads.serdes.protobuf(Message), ads.serdes.json_schema(schema)       with a schema registry
    ads.serdes.arrow()                                      pyarrow.Table

No bytes is None and None is no bytes, with every serde. Bytes that cannot be read are a dead letter
(`malformed_key`, `malformed_value`); a value that cannot be written is one, too (`unwritable_key`,
`unwritable_value`). In Kafka Streams: `Serdes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adstream.dsl.durations import Duration, duration_ms
from adstream.dsl.expr import refuse_async
from adstream.dsl.faults import fault

if TYPE_CHECKING:
    from adstream.formats.codec import Strategy

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

    def to_plan(self, register: Callable[[Callable[..., Any]], int], *, writes: bool = False) -> Plan:
        """With functions by their number in the plan's table.

        Args:
            writes: the topology writes a user's topic with it: a codec settles its schema before the start.
        """
        found: Plan = _resolved(self.spec, register, writes)
        return found

    def at(self, topics: str | Sequence[str], field: Literal["key", "value"], operation: str) -> Serde:
        """The same for the keys or values of these topics, which name its schema's subject."""
        named = (topics,) if isinstance(topics, str) else tuple(topics)

        def place(part: Any) -> Any:
            if isinstance(part, dict):
                return {name: place(inner) for name, inner in part.items()}
            if not hasattr(part, "__adstream_codec__"):
                return part
            codec = part.bound(named, field)
            if len(named) != 1 and not getattr(codec, "one_subject", lambda: True)():
                many = f"{len(named)} topics" if named else "topics that only a function names"
                raise fault(
                    "bad_argument",
                    f"{self!r} writes to {many}, each with a subject of its own",
                    operation=operation,
                    hint='write `subject="…"` or `strategy="record"` in the serde',
                )
            return codec

        return Serde(self.name, place(self.spec))


def _resolved(spec: Any, register: Callable[[Callable[..., Any]], int], writes: bool) -> Any:
    if isinstance(spec, dict):
        return {name: _resolved(part, register, writes) for name, part in spec.items()}
    if writes and hasattr(spec, "__adstream_codec__"):
        spec = spec.eagerly()
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


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return _NAMES[name]
    if name == "list":
        return list_
    raise AttributeError(f"there is no serde `{name}`")


def decimal(scale: int) -> Serde:
    """Exact decimals with so many digits after the point: the unscaled number, big-endian two's complement, as short as it
    can be. The bytes of `BigDecimal.unscaledValue().toByteArray()`: Kafka Connect's and Avro's decimals. Values with more
    digits after the point, or more than 38 in all, are a dead letter (`unwritable_value`); whole numbers are taken, floats
    are not.

    Raises:
        TopologyError: `bad_decimal`.
    """
    if isinstance(scale, bool) or not isinstance(scale, int) or not 0 <= scale <= 38:
        raise fault(
            "bad_decimal", f"decimal({scale!r}) does not exist", operation="decimal", hint="the scale is 0 to 38"
        )
    return Serde(f"decimal({scale})", {"decimal": {"scale": scale}})


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


def list_(inner: Serde) -> Serde:
    """Lists of what the inner serde writes; an item may be None. Also called `serdes.list`.

    In Kafka Streams: `Serdes.ListSerde`.
    """
    inner = check(inner, "inner", "list")
    return Serde(f"list({inner.name})", {"list": {"item": inner.spec}})


def of(
    *, serialize: Callable[[Any], bytes | None] | None = None, deserialize: Callable[[bytes], Any] | None = None
) -> Serde:
    """A serde of two functions; one that is missing is an error where it is needed.

    In Kafka Streams: `Serdes.serdeFrom`.

    Raises:
        TopologyError: `bad_argument`, an async function.
    """
    for fn in (serialize, deserialize):
        refuse_async(fn, "of", hint="write a plain function")
    return Serde("of", {"python": {"serialize": serialize, "deserialize": deserialize}})


def avro(
    schema: str | Mapping[str, Any] | Sequence[Any] | Path | None = None,
    *,
    registry: str | None = None,
    subject: str | None = None,
    strategy: Strategy = "topic",
    auto_register: bool = True,
    use_latest: bool = False,
    reader: str | Mapping[str, Any] | Sequence[Any] | Path | None = None,
) -> Serde:
    """Avro with a schema registry, in Confluent's wire format. Needs `pip install 'adstream[avro]'`.

    Records are dicts; logical types are exact: `decimal` is `Decimal`, `timestamp-millis` an aware `datetime`. Read is by
    the schema that wrote, and then, if one is given, into the reader's by Avro's rules of evolution. A record must have the
    schema's fields and no others.

    A record whose schema the registry does not know is a dead letter (`malformed_value`, with the id in its message). A
    registry that does not answer at the start is an error that names the option; later, the task waits
    (`registry_unavailable`).

    Args:
        schema: as JSON, a dict, or a file; what is written, and what is read unless `reader` says otherwise. None: read as
            written; to write then needs `use_latest`.
        registry: its URL; by default the setting `--schema-registry`.
        subject: where the schema is registered; by default what `strategy` says.
        strategy: `topic` (`orders-value`), `record` (the record's full name), `topic_record` (`orders-shop.Order`), or a
            function `(topic, "key" or "value", record's name)`.
        auto_register: False: a schema that is not registered is an error at the start.
        use_latest: write by the subject's newest version.
        reader: the schema that records are read into.

    In Kafka Streams: Confluent's `GenericAvroSerde`; `TopicNameStrategy` and its kin.

    Raises:
        TopologyError: `bad_schema`, `not_installed`, `bad_argument`.
    """
    _need("fastavro", "avro", "avro")
    from adstream.formats import avro as codecs

    def read(what: Any) -> tuple[str, Any]:
        try:
            return codecs.parsed(_loaded(what))
        except (ValueError, OSError) as error:
            raise fault(
                "bad_schema", f"not an Avro schema: {error}", operation="avro", hint="write it as avro.apache.org says"
            ) from None

    text, parsed = read(schema) if schema is not None else (None, None)
    wanted = read(reader)[1] if reader is not None else parsed
    options = _options("avro", subject, strategy, auto_register, use_latest)
    writer = codecs.AvroWriter(registry, text, parsed, **options) if text is not None or use_latest else None
    if strategy in ("record", "topic_record") and writer is not None and writer.record_name() is None:
        raise _nameless("avro", strategy)
    return _of("avro", writer, codecs.AvroReader(registry, wanted))


def protobuf(
    message: type[Any],
    *,
    registry: str | None = None,
    subject: str | None = None,
    strategy: Strategy = "topic",
    auto_register: bool = True,
    use_latest: bool = False,
) -> Serde:
    """Protobuf with a schema registry, in Confluent's wire format (with the message's place in its file). Values are messages
    of the generated class. Needs `pip install 'adstream[protobuf]'`.

    Args:
        message: the generated class.
        registry, subject, strategy, auto_register, use_latest: as `avro`. Files that the message's file imports are
            registered under their own names.

    In Kafka Streams: Confluent's `KafkaProtobufSerde`.

    Raises:
        TopologyError: `bad_argument`, `not_installed`.
    """
    _need("google.protobuf", "protobuf", "protobuf")
    from adstream.formats import protobuf as codecs

    if not (isinstance(message, type) and hasattr(message, "DESCRIPTOR")):
        raise fault(
            "bad_argument",
            f"not a class of messages: {message!r}",
            operation="protobuf",
            hint="give the class that `protoc` made",
        )
    options = _options("protobuf", subject, strategy, auto_register, use_latest)
    name = message.DESCRIPTOR.full_name
    return _of(
        f"protobuf({name})",
        codecs.ProtobufWriter(registry, message, **options),
        codecs.ProtobufReader(registry, message),
    )


def json_schema(
    schema: str | Mapping[str, Any] | Path | None = None,
    *,
    registry: str | None = None,
    subject: str | None = None,
    strategy: Strategy = "topic",
    auto_register: bool = True,
    use_latest: bool = False,
    validate: bool = True,
) -> Serde:
    """JSON with a schema registry, in Confluent's wire format. Needs `pip install 'adstream[json-schema]'`.

    Args:
        schema: JSON Schema, as JSON, a dict, or a file. None: read as written; to write then needs `use_latest`.
        registry, subject, strategy, auto_register, use_latest: as `avro`; a record's name is the schema's `title`.
        validate: whether values are checked by the schema, when written and when read.

    In Kafka Streams: Confluent's `KafkaJsonSchemaSerde`.

    Raises:
        TopologyError: `bad_schema`, `not_installed`, `bad_argument`.
    """
    _need("jsonschema", "json_schema", "json-schema")
    from adstream.formats import json_schema as codecs

    found = None
    if schema is not None:
        try:
            found = _loaded(schema)
            found = loads(found) if isinstance(found, str) else found
            codecs.validator(found)
        except (ValueError, OSError) as error:
            raise fault(
                "bad_schema", f"not a JSON Schema: {error}", operation="json_schema", hint="see json-schema.org"
            ) from None
    options = _options("json_schema", subject, strategy, auto_register, use_latest)
    writer = None
    if found is not None or use_latest:
        writer = codecs.JsonSchemaWriter(registry, found, validate=validate, **options)
        if strategy in ("record", "topic_record") and writer.record_name() is None:
            raise _nameless("json_schema", strategy)
    return _of("json_schema", writer, codecs.JsonSchemaReader(registry, found, validate=validate))


def arrow(schema: Any = None) -> Serde:
    """Arrow IPC: a message is one stream (schema, then record batches), a value a `pyarrow.Table` of any number of rows.

    Writes a table, a `RecordBatch`, a dict or a list of dicts. In a store a table is pickled.

    Args:
        schema: a `pyarrow.Schema` that everything written has.
    """
    from adstream.formats.arrow import ArrowReader, ArrowWriter

    return _of("arrow", ArrowWriter(schema), ArrowReader())


def _of(name: str, writer: Any, reader: Any) -> Serde:
    return Serde(name, {"python": {"serialize": writer, "deserialize": reader}})


def _loaded(schema: Any) -> Any:
    return schema.read_text() if isinstance(schema, Path) else schema


def _options(
    operation: str, subject: str | None, strategy: object, auto_register: bool, use_latest: bool
) -> dict[str, Any]:
    from adstream.formats.codec import STRATEGIES

    if not callable(strategy) and strategy not in STRATEGIES:
        raise fault(
            "bad_argument",
            f"no strategy is called {strategy!r}",
            operation=operation,
            hint=f"one of {', '.join(STRATEGIES)}, or a function (topic, field, record's name)",
        )
    return {"subject": subject, "strategy": strategy, "auto_register": auto_register, "use_latest": use_latest}


def _nameless(operation: str, strategy: object) -> Exception:
    return fault(
        "bad_argument",
        f"`strategy={strategy!r}`, and the schema has no name",
        operation=operation,
        hint='write `subject="…"`',
    )


def _need(module: str, operation: str, extra: str) -> None:
    from importlib.util import find_spec

    try:
        missing = find_spec(module) is None
    except ModuleNotFoundError:
        missing = True
    if missing:
        raise fault(
            "not_installed",
            f"`{module}` is not installed",
            operation=operation,
            hint=f"pip install 'adstream[{extra}]'",
        )


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
