"""Protobuf, by Google's library and Confluent's serialiser.

Values are messages of the generated class; a dict is taken, too, when writing. Before the message stands its place in its
file: a list of zigzag numbers, a single zero for the first message. Reading needs no schema but checks that the registry has
it; where the registry can give it in binary form, the message must have the name of the class, wherever in its file it stands.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from adstream.errors import ConfigError, RegistryUnavailableError
from adstream.formats import codec


def message_index(data: bytes) -> tuple[tuple[int, ...], int]:
    """(where the message stands in its file, where its payload begins). Raises ValueError."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise ValueError("the message's place in its file is cut off")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)

    count = number()
    if count == 0:
        return (0,), at
    if not 0 < count <= 64:
        raise ValueError(f"the message's place in its file has {count} numbers")
    return tuple(number() for _ in range(count)), at


def name_at(file: Any, place: tuple[int, ...]) -> str:
    """The full name of the message at a place of a file's descriptor. Raises ValueError."""
    found, names = file.message_type, [file.package] if file.package else []
    for index in place:
        if not 0 <= index < len(found):
            raise ValueError(f"its schema has no message at {list(place)}")
        names.append(found[index].name)
        found = found[index].nested_type
    return ".".join(names)


class ProtobufReader(codec.Reader):
    kind = "Protobuf"

    def __init__(self, url: str | None, message: Any) -> None:
        super().__init__(url)
        self.message = message

    def learn(self, number: int, schema: Any) -> Callable[[bytes], Any]:
        if schema.schema_type != "PROTOBUF":
            raise ValueError(f"the schema {number} is {schema.schema_type or 'AVRO'}, not Protobuf")
        file, wanted = self._file(number, schema), self.message.DESCRIPTOR.full_name

        def read(data: bytes) -> Any:
            from google.protobuf.message import DecodeError

            place, begin = message_index(data)
            if file is not None and (name := name_at(file, place)) != wanted:
                raise ValueError(f"this is a `{name}`, not a `{wanted}`")
            message = self.message()
            try:
                message.ParseFromString(data[begin:])
            except DecodeError as error:
                raise ValueError(f"not a `{wanted}`: {error}") from None
            return message

        return read

    def _file(self, number: int, schema: Any) -> Any:
        """The writer's file; None: the registry only has its text."""
        from confluent_kafka.schema_registry import SchemaRegistryError
        from google.protobuf.descriptor_pb2 import FileDescriptorProto
        from google.protobuf.message import DecodeError

        texts = [schema.schema_str]
        with suppress(SchemaRegistryError):
            texts.append(self.registry.client.get_schema(number, fmt="serialized").schema_str)
        for text in texts:
            try:
                return FileDescriptorProto.FromString(base64.b64decode(text or "-", validate=True))
            except (binascii.Error, ValueError, DecodeError):
                continue
        return None


class ProtobufWriter(codec.Writer):
    kind = "Protobuf"

    def __init__(self, url: str | None, message: Any, **options: Any) -> None:
        super().__init__(url, **options)
        self.message = message
        self._serialize: Any = None

    def record_name(self) -> str | None:
        return str(self.message.DESCRIPTOR.full_name)

    def head(self) -> bytes:
        if self._head is None:
            from confluent_kafka.schema_registry import SchemaRegistryError
            from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
            from google.protobuf.message import EncodeError

            subject = self.subject_name()
            settings = {
                "auto.register.schemas": self.auto_register and not self.use_latest,
                "use.latest.version": self.use_latest,
                "subject.name.strategy": lambda context, name: subject,
            }
            self._serialize = ProtobufSerializer(self.message, self.registry.client, settings)
            try:
                self.registry._ask(lambda: self._bytes(self.message()))
            except EncodeError:
                pass  # it lacks what a message must have: the schema is registered
            except SchemaRegistryError as error:
                raise ConfigError(
                    f"the schema for `{subject}` is refused: {error.error_message}",
                    option=self.registry.option,
                    hint="make it compatible with the versions before, or write to another subject",
                ) from error
            self._head = b""
        return self._head

    def _bytes(self, message: Any) -> bytes:
        from confluent_kafka.serialization import MessageField, SerializationContext

        field = MessageField.KEY if self.field == "key" else MessageField.VALUE
        made: bytes = self._serialize(message, SerializationContext(self.topics[0] if self.topics else "", field))
        return made

    def __call__(self, value: Any) -> bytes:
        self.head()
        if isinstance(value, dict):
            value = _filled(self.message(), value)
        if not isinstance(value, self.message):
            raise ValueError(f"a `{self.record_name()}` is expected, not a {type(value).__name__}")
        return self._bytes(value)


def _filled(message: Any, fields: Mapping[str, Any]) -> Any:
    """A message of a dict; None leaves a field unset. Raises ValueError, TypeError."""
    known = message.DESCRIPTOR.fields_by_name
    for name, value in fields.items():
        if name not in known:
            raise ValueError(f"a `{message.DESCRIPTOR.full_name}` has no field `{name}`")
        if value is None:
            continue
        field = known[name]
        kind = field.message_type.full_name if field.message_type is not None else ""
        if isinstance(value, datetime) and kind == "google.protobuf.Timestamp":
            getattr(message, name).FromDatetime(value)
        elif isinstance(value, timedelta) and kind == "google.protobuf.Duration":
            getattr(message, name).FromTimedelta(value)
        elif isinstance(value, Decimal) and kind == "google.type.Decimal":
            getattr(message, name).value = format(value, "f")
        elif kind.startswith("google.protobuf.") and kind.endswith("Value") and not isinstance(value, dict):
            getattr(message, name).value = value
        elif isinstance(value, dict) and kind and not field.message_type.GetOptions().map_entry:
            _filled(getattr(message, name), value).SetInParent()
        elif isinstance(value, list) and kind:
            for inner in value:
                _filled(getattr(message, name).add(), inner)
        elif isinstance(value, list | tuple):
            getattr(message, name).extend(value)
        elif isinstance(value, dict):
            getattr(message, name).update(value)
        elif kind:
            raise TypeError(f"`{name}` is a `{kind}`, not a {type(value).__name__}")
        elif field.enum_type is not None and isinstance(value, str):
            setattr(message, name, field.enum_type.values_by_name[value].number)
        elif isinstance(value, Decimal) and field.type == field.TYPE_STRING:
            setattr(message, name, format(value, "f"))
        else:
            setattr(message, name, value)
    return message


__all__ = ["ProtobufReader", "ProtobufWriter", "RegistryUnavailableError", "message_index", "name_at"]
