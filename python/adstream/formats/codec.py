"""What codecs with a registry share: the wire format, subjects, and which id a schema has.

    0x00 | schema id, 4 bytes, big-endian | payload                  Protobuf: the message's place in its file before it

A writer asks for its id once, when it is connected: a registry that is down or refuses the schema is known before the first
record. A reader asks once for each id that it meets.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

from adstream.formats.registry import Connect, Registry, open_registry

Field = Literal["key", "value"]
Strategy = Literal["topic", "record", "topic_record"] | Callable[[str, str, str | None], str]
STRATEGIES = ("topic", "record", "topic_record")

_HEAD = struct.Struct(">bI")
MAGIC = 0


class Codec:
    """Common to readers and writers.

    Args:
        url: of the registry; None: the settings'.
    """

    __adstream_codec__ = True
    kind = ""

    def __init__(self, url: str | None) -> None:
        self.url = url
        self.topics: tuple[str, ...] = ()
        self.field: Field = "value"
        self._registry: Registry | None = None

    def bound(self, topics: Sequence[str], field: Field) -> Self:
        """The same for these topics' keys or values."""
        other = copy.copy(self)
        other.topics, other.field, other._registry = tuple(topics), field, None
        return other

    def eagerly(self) -> Self:
        """The same, for a topic that the topology writes: what it needs is settled before the start."""
        return self

    def connect(self, registry: Connect) -> None:
        """Before a run."""
        self._registry = registry(self.url)

    @property
    def registry(self) -> Registry:
        """Without a run, in a test or a shell, the one that its URL says."""
        if self._registry is None:
            if self.url is None:
                raise ValueError('no schema registry: give one here, `registry="http://HOST:8081"`')
            self._registry = open_registry(self.url, {}, "registry")
        return self._registry

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = object.__hash__


class Reader(Codec):
    """Bytes to values. A subclass says how a payload under one schema is read."""

    def __init__(self, url: str | None) -> None:
        super().__init__(url)
        self._known: dict[int, Callable[[bytes], Any]] = {}

    def bound(self, topics: Sequence[str], field: Field) -> Self:
        other = super().bound(topics, field)
        other._known = {}
        return other

    def __call__(self, data: bytes) -> Any:
        if len(data) < _HEAD.size or data[0] != MAGIC:
            raise ValueError(
                f"this is not {self.kind} with a schema's id: it would begin with a zero byte and four of the id"
                f" (it begins with {bytes(data[:5]).hex() or 'nothing'})"
            )
        _, number = _HEAD.unpack_from(data)
        read = self._known.get(number)
        if read is None:
            read = self._known[number] = self.learn(number, self.registry.schema(number))
        return read(data[_HEAD.size :])

    def learn(self, number: int, schema: Any) -> Callable[[bytes], Any]:
        raise NotImplementedError


class Writer(Codec):
    """Values to bytes. A subclass says which schema, and how a payload is written.

    Args:
        strategy: how a topic's subject is called: `topic` (`orders-value`), `record`, `topic_record`, or a function
            `(topic, "key" or "value", record's name)`.
        subject: its name, for all topics.
        auto_register: whether a schema that the registry does not have is registered.
        use_latest: write by the newest version of the subject.
    """

    def __init__(
        self, url: str | None, strategy: Strategy, subject: str | None, *, auto_register: bool, use_latest: bool
    ) -> None:
        super().__init__(url)
        self.strategy, self.subject = strategy, subject
        self.auto_register, self.use_latest = auto_register, use_latest
        self._eager = False
        self._head: bytes | None = None

    def eagerly(self) -> Self:
        other = copy.copy(self)
        other._eager = True
        return other

    def bound(self, topics: Sequence[str], field: Field) -> Self:
        other = super().bound(topics, field)
        other._head = None
        return other

    def connect(self, registry: Connect) -> None:
        super().connect(registry)
        self._head = None
        if self._eager:
            self.head()

    def one_subject(self) -> bool:
        """Whether all its topics have one."""
        return self.subject is not None or self.strategy == "record" or len(self.topics) == 1

    def subject_name(self) -> str:
        """Where its schema is registered."""
        if self.subject is not None:
            return self.subject
        name = self.record_name()
        if self.strategy == "record" and name is not None:
            return name
        if not self.topics:
            raise ValueError("a schema needs a topic or a `subject`, and this serde stands by itself")
        topic = self.topics[0]
        if callable(self.strategy):
            return self.strategy(topic, self.field, name)
        return f"{topic}-{name}" if self.strategy == "topic_record" else f"{topic}-{self.field}"

    def head(self) -> bytes:
        """What stands before each payload."""
        if self._head is None:
            self._head = _HEAD.pack(MAGIC, self.settle(self.subject_name()))
        return self._head

    def record_name(self) -> str | None:
        """The schema's own name."""
        raise NotImplementedError

    def settle(self, subject: str) -> int:
        """Decides by which schema it writes; its id."""
        raise NotImplementedError
