"""State of a processor that belongs to the key of the record at hand.

    class Book(ads.Processor):
        balance = ads.keyed.value(default=Decimal(0))
        posted = ads.keyed.map(ttl="35d")

        def process(self, record, ctx):
            if record.value["id"] not in self.posted:
                self.posted[record.value["id"]] = True
                self.balance += record.value["amount"]

Attributes of the class, read and written as attributes of the instance inside `process`; behind them are stores of the
operation's own, committed and undone as all stores. Setting None deletes. An entry with a `ttl` is forgotten as soon as
stream time is so far ahead of its last setting.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from adstream._core import ProcessorRecord
from adstream.dsl import store
from adstream.dsl.durations import Duration, duration_ms
from adstream.dsl.store import StoreBuilder

_SCOPE = "_adstream_scope"


class _Entries(Protocol):
    def get(self, key: Any) -> Any: ...
    def put(self, key: Any, value: Any) -> None: ...


class _Forgetful:
    """A window store as a map whose entries live for its retention from their last setting."""

    def __init__(self, windows: store.WindowStore, ttl_ms: int, now: Callable[[], int]) -> None:
        self._windows, self._ttl_ms, self._now = windows, ttl_ms, now

    def _last(self, key: Any) -> tuple[int, Any] | None:
        now = self._now()
        with self._windows.backward_fetch(key, max(0, now - self._ttl_ms + 1), now) as found:
            return next(found, None)

    def get(self, key: Any) -> Any:
        found = self._last(key)
        return None if found is None else found[1]

    def put(self, key: Any, value: Any) -> None:
        before, now = self._last(key), self._now()
        if before is not None and before[0] != now:
            self._windows.put(key, None, before[0])
        self._windows.put(key, value, now)


class Scope:
    """What an instance's keyed attributes reach while a record is at hand."""

    def __init__(self, entries: dict[str, _Entries]) -> None:
        self._entries = entries
        self.key: Any = None
        self.at_hand = False

    def of(self, name: str) -> tuple[_Entries, Any]:
        if not self.at_hand:
            raise RuntimeError(f"`{name}` belongs to a record's key, and there is no record here: use a store")
        if self.key is None:
            raise ValueError(f"`{name}` belongs to a record's key, and the record has none")
        return self._entries[name], self.key


def _scope(instance: object, name: str) -> Scope:
    scope: Scope | None = instance.__dict__.get(_SCOPE)
    if scope is None:
        raise RuntimeError(f"`{name}` can be used only while the processor runs")
    return scope


class Keyed:
    """What `value` and `map` have in common."""

    def __init__(self, ttl: Duration | None) -> None:
        self.ttl_ms = None if ttl is None else duration_ms(ttl, "ttl", operation="keyed", zero=False)
        self.ttl = ttl
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def store(self, node: str) -> StoreBuilder:
        name = f"{node}-{self.name}"
        return store.key_value(name) if self.ttl is None else store.window(name, self.ttl, "0ms")


class Value(Keyed):
    def __init__(self, default: Any, ttl: Duration | None) -> None:
        super().__init__(ttl)
        self.default = default

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        entries, key = _scope(instance, self.name).of(self.name)
        found = entries.get(key)
        return copy.deepcopy(self.default) if found is None else found

    def __set__(self, instance: object, value: Any) -> None:
        entries, key = _scope(instance, self.name).of(self.name)
        entries.put(key, value)


class Map(Keyed):
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return Entries(*_scope(instance, self.name).of(self.name))

    def __set__(self, instance: object, value: Any) -> None:
        raise AttributeError(f"`{self.name}` is a map: set its entries")


class Entries:
    """A map of the key at hand."""

    def __init__(self, entries: _Entries, key: Any) -> None:
        self._entries, self._key = entries, key

    def get(self, name: Any, default: Any = None) -> Any:
        found = self._entries.get((self._key, name))
        return default if found is None else found

    def __getitem__(self, name: Any) -> Any:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __setitem__(self, name: Any, value: Any) -> None:
        self._entries.put((self._key, name), value)

    def __delitem__(self, name: Any) -> None:
        self._entries.put((self._key, name), None)

    def __contains__(self, name: object) -> bool:
        return self.get(name) is not None

    def pop(self, name: Any, default: Any = None) -> Any:
        found = self.get(name, default)
        del self[name]
        return found


def value(*, default: Any = None, ttl: Duration | None = None) -> Any:
    """One value for each key. `default` is what it is where nothing is set; `ttl`: for how long, of stream time."""
    return Value(default, ttl)


def map(*, ttl: Duration | None = None) -> Any:
    """A map for each key: `self.seen[x] = y`, `x in self.seen`, `self.seen.get(x)`, `del self.seen[x]`. Its entries cannot be
    listed."""
    return Map(ttl)


def attributes(kind: object) -> Iterator[Keyed]:
    """The keyed attributes of a class."""
    for owner in reversed(getattr(kind, "__mro__", ())):
        yield from (found for found in vars(owner).values() if isinstance(found, Keyed))


class Scoped:
    """A processor whose keyed attributes are told whose record is at hand."""

    def __init__(self, instance: Any, keyed: list[Keyed], node: str) -> None:
        self._instance, self._keyed, self._node = instance, keyed, node

    def init(self, ctx: Any) -> None:
        entries: dict[str, _Entries] = {}
        for one in self._keyed:
            found = ctx.get_state_store(f"{self._node}-{one.name}")
            if one.ttl_ms is not None:
                found = _Forgetful(found, one.ttl_ms, lambda: int(ctx.current_stream_time_ms))
            entries[one.name] = found
        self._scope = self._instance.__dict__[_SCOPE] = Scope(entries)
        self._instance.init(ctx)

    def process(self, record: ProcessorRecord, ctx: Any) -> None:
        self._scope.key, self._scope.at_hand = record.key, True
        try:
            self._instance.process(record, ctx)
        finally:
            self._scope.at_hand = False

    def close(self) -> None:
        self._instance.close()
