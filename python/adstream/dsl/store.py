"""State stores of processors: declared here, reached through `ctx.get_state_store(name)`, read from outside by queries.

    ads.store.key_value("totals")                         get, put, range, prefix_scan …
    ads.store.timestamped_key_value("totals")             the same; values are `ads.ValueAndTimestamp`
    ads.store.lru_map("recent", 1000)                     the same; forgets what was not used for longest
    ads.store.versioned_key_value("rates", "1d")          put(key, value, time), get(key), get(key, as_of)
    ads.store.window("clicks", "1h", "5m")                put(key, value, start), fetch(key, from, to) …
    ads.store.timestamped_window("clicks", "1h", "5m")    the same; values are `ads.ValueAndTimestamp`
    ads.store.session("visits", "1h")                     put(window, value), find_sessions(key, from, to) …

and, with the headers of records beside their values (`ads.ValueTimestampHeaders`, `ads.AggregationWithHeaders`),
`timestamped_key_value_with_headers`, `timestamped_window_with_headers`, `session_with_headers`.

Methods are Kafka Streams', in snake_case. Keys are whatever a record's key may be and sort as Kafka Streams' bytes do
(texts by UTF-8, numbers as eight bytes big-endian, so that negative ones come last); values are what a value may be: a
value is copied when it is put (what adstream has no kind for, by pickle), so that later changes to the object do not
change the store. A None value deletes. Times are integer ms or aware datetimes.

*Iterators* fetch a page at a time and see what has been written by then; they end with the call in which they were made.

In Kafka Streams: `Stores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, Self, TypeVar, overload

from adstream.dsl.durations import Duration, duration_ms, timestamp_ms
from adstream.dsl.expr import refuse_async
from adstream.dsl.faults import fault
from adstream.dsl.serdes import Serde

if TYPE_CHECKING:
    from adstream._core import Windowed

Time = int | datetime
"""ms since the epoch, or an aware datetime."""

Entry = tuple[Any, int, int, Any, int]
"""key, start, end, value, its own time."""
Span = tuple[Any, Any, bytes | None, int | None, int | None, bool, bytes | None, int]
"""from key, to key, prefix, from time, to time, backwards, after, limit: what the core's `scan` takes."""

PAGE = 256
_FOREVER = 2**63 - 1
"""Where the present version ends."""

Order = Literal["time", "key"]
StoreType = Literal["memory", "disk"]
"""Where a store's rows are kept. In Kafka Streams: `Materialized.StoreType`, `IN_MEMORY` and `ROCKS_DB`."""


class ValueAndTimestamp(NamedTuple):
    """A value of a timestamped store. `timestamp` is in ms. In Kafka Streams: `ValueAndTimestamp`."""

    value: Any
    timestamp: int


Headers = Sequence[tuple[str, bytes | None]]
"""As a record's: names and values, in order; a name may come again."""


class ValueTimestampHeaders(NamedTuple):
    """A value of a timestamped store with headers. `timestamp` is in ms. In Kafka Streams: `ValueTimestampHeaders` (KIP-1271)."""

    value: Any
    timestamp: int
    headers: Headers = ()


class AggregationWithHeaders(NamedTuple):
    """A value of a session store with headers. In Kafka Streams: `AggregationWithHeaders` (KIP-1285)."""

    aggregation: Any
    headers: Headers = ()


class VersionedRecord(NamedTuple):
    """A version in a versioned store, from `timestamp` until before `valid_to`, ms. A processor is not told `valid_to`, as in
    Kafka Streams; a query is (None: until now).

    In Kafka Streams: `VersionedRecord`.
    """

    value: Any
    timestamp: int
    valid_to: int | None = None


# --- Declarations -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoreBuilder:
    """A store that `app.add_state_store` takes. Made by the functions of this module. In Kafka Streams: `StoreBuilder`."""

    name: str
    flavour: str
    key: Serde | None = None
    value: Serde | None = None
    logging: bool = True
    caching: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)
    store_type: StoreType | None = None
    kind: Callable[[Any], object] | None = None

    def of_kind(self, kind: Callable[[Any], object]) -> StoreBuilder:
        """A kind of store of one's own: what processors are given is `kind(store)`, made for each of them from the store declared
        here, in which it keeps all that it knows. So it is committed, undone and restored like any other. Who reads it from
        outside reads the store declared here.

        Args:
            kind: a class, or a function of the store.

        Raises:
            TopologyError: `bad_argument`, it cannot be called; it has a kind already.

        In Kafka Streams: a `StoreBuilder` that builds a `StateStore` of one's own.
        """
        if self.kind is not None or not callable(kind):
            raise fault(
                "bad_argument",
                f"not a kind of store: {kind!r}" if self.kind is None else "it has a kind of its own already",
                operation="of_kind",
                hint="give a class that is made of a store, once",
            )
        refuse_async(kind, "of_kind", hint="write a plain function")
        return replace(self, kind=kind)

    def with_logging_disabled(self) -> StoreBuilder:
        """Without a changelog: empty after a restart."""
        return replace(self, logging=False)

    def with_logging_enabled(self) -> StoreBuilder:
        return replace(self, logging=True)

    def with_caching_enabled(self) -> StoreBuilder:
        """Has no effect that can be seen: every store is in memory until the commit."""
        return replace(self, caching=True)

    def with_caching_disabled(self) -> StoreBuilder:
        return replace(self, caching=False)

    def with_store_type(self, store_type: StoreType) -> StoreBuilder:
        """In memory or on disk, whatever the application's setting says; not of an `lru_map`, which is in memory."""
        return replace(self, store_type=_store_type(store_type, self.flavour))

    def to_plan(self) -> dict[str, Any]:
        kind = _KINDS[self.flavour]
        return {
            "name": self.name,
            "kind": kind,
            "flavour": self.flavour,
            "logging": self.logging,
            "queryable": True,
            **({} if self.store_type is None else {"store_type": self.store_type}),
            **self.parameters,
        }


_KINDS = {
    "key_value": "key_value",
    "timestamped_key_value": "key_value",
    "timestamped_key_value_with_headers": "key_value",
    "window": "series",
    "timestamped_window": "series",
    "timestamped_window_with_headers": "series",
    "session": "session",
    "session_with_headers": "session",
    "versioned_key_value": "versioned",
    "lru_map": "lru",
}


def _made(
    flavour: str,
    name: str,
    key: Serde | None,
    value: Serde | None,
    logging: bool,
    caching: bool,
    store_type: StoreType | None = None,
    **parameters: Any,
) -> StoreBuilder:
    if not isinstance(name, str) or not name:
        raise fault("bad_argument", f"not a store's name: {name!r}", operation=flavour, hint='write `"totals"`')
    where = None if store_type is None else _store_type(store_type, flavour)
    return StoreBuilder(name, flavour, key, value, logging, caching, parameters, where)


def _store_type(given: StoreType, operation: str) -> StoreType:
    if operation == "lru_map":
        raise fault("bad_argument", "an `lru_map` is in memory", operation=operation, hint="leave out the store type")
    return store_type_of(given, operation)


def store_type_of(given: StoreType, operation: str) -> StoreType:
    if given not in ("memory", "disk"):
        raise fault("bad_argument", f"`store_type` is {given!r}", operation=operation, hint='write "memory" or "disk"')
    return given


def key_value(
    name: str,
    *,
    key: Serde | None = None,
    value: Serde | None = None,
    logging: bool = True,
    caching: bool = False,
    store_type: StoreType | None = None,
) -> StoreBuilder:
    """Values by key.

    Args:
        key, value: serdes, where a store is filled from a topic or its keys are asked for by text (queries over HTTP).
        logging: whether it has a changelog; without one it is empty after a restart.
        caching: no effect that can be seen.
        store_type: `"disk"`, where it may be larger than memory, or `"memory"`; by default what the application's setting
            `store_type` says. All stores but the LRU have this argument.

    In Kafka Streams: `Stores.keyValueStoreBuilder`; `persistentKeyValueStore`, `inMemoryKeyValueStore`.
    """
    return _made("key_value", name, key, value, logging, caching, store_type)


def timestamped_key_value(
    name: str,
    *,
    key: Serde | None = None,
    value: Serde | None = None,
    logging: bool = True,
    caching: bool = False,
    store_type: StoreType | None = None,
) -> StoreBuilder:
    """Values by key, each with a time. In Kafka Streams: `Stores.timestampedKeyValueStoreBuilder`."""
    return _made("timestamped_key_value", name, key, value, logging, caching, store_type)


def timestamped_key_value_with_headers(
    name: str,
    *,
    key: Serde | None = None,
    value: Serde | None = None,
    logging: bool = True,
    caching: bool = False,
    store_type: StoreType | None = None,
) -> StoreBuilder:
    """Values by key, each with a time and headers. In Kafka Streams: `Stores.timestampedKeyValueStoreWithHeadersBuilder`."""
    flavour = "timestamped_key_value_with_headers"
    return _made(flavour, name, key, value, logging, caching, store_type, headers=True)


def lru_map(
    name: str,
    max_entries: int,
    *,
    key: Serde | None = None,
    value: Serde | None = None,
    logging: bool = True,
    caching: bool = False,
) -> StoreBuilder:
    """Values by key, of at most `max_entries` keys: one too many, and the one that was not used for longest goes. Reading is a
    use. In Kafka Streams: `Stores.lruMap`."""
    entries_max(max_entries, "lru_map")
    return _made("lru_map", name, key, value, logging, caching, max_entries=max_entries)


def entries_max(value: object, operation: str) -> None:
    """Raises TopologyError: `bad_argument`, it is no number of keys."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise fault(
            "bad_argument",
            f"`max_entries` is {value!r}",
            operation=operation,
            hint="write a whole number from 1 on",
        )


def versioned_key_value(
    name: str,
    history_retention: Duration,
    *,
    key: Serde | None = None,
    value: Serde | None = None,
    logging: bool = True,
    caching: bool = False,
    store_type: StoreType | None = None,
) -> StoreBuilder:
    """What the value of each key was when.

    Args:
        history_retention: how far back from the largest time put it is known; older times are refused and counted
            (`dropped:expired`). The newest version of a key stays.

    In Kafka Streams: `Stores.versionedKeyValueStoreBuilder`.
    """
    kept = duration_ms(history_retention, "history_retention", operation="versioned_key_value")
    return _made("versioned_key_value", name, key, value, logging, caching, store_type, retention_ms=kept)


def window(
    name: str,
    retention: Duration,
    window_size: Duration,
    *,
    duplicates: bool = False,
    order: Order = "time",
    key: Serde | None = None,
    value: Serde | None = None,
    logging: bool = True,
    caching: bool = False,
    store_type: StoreType | None = None,
) -> StoreBuilder:
    """Values by key and the start of a window.

    Args:
        retention: a window is forgotten as soon as another start lies so far ahead of its own; what is put later is
            dropped and counted (`dropped:expired`).
        window_size: how long windows are.
        duplicates: several values of one key and start are kept side by side; nothing is deleted.
        order: how entries of several keys come: `"time"`, by start, then key, as from Kafka Streams' stores in memory; or
            `"key"`, by key, then start (within pieces of time of half the retention, at least a minute), as from its
            persistent stores. Those count what is too old only if its whole piece of time is.

    In Kafka Streams: `Stores.windowStoreBuilder`.
    """
    times = _window_times("window", retention, window_size)
    return _made(
        "window",
        name,
        key,
        value,
        logging,
        caching,
        store_type,
        duplicates=duplicates,
        **times,
        **_by_key(order, "window"),
    )


def timestamped_window(
    name: str,
    retention: Duration,
    window_size: Duration,
    *,
    duplicates: bool = False,
    order: Order = "time",
    key: Serde | None = None,
    value: Serde | None = None,
    logging: bool = True,
    caching: bool = False,
    store_type: StoreType | None = None,
) -> StoreBuilder:
    """As `window`, each value with a time. In Kafka Streams: `Stores.timestampedWindowStoreBuilder`."""
    times = _window_times("timestamped_window", retention, window_size)
    times |= _by_key(order, "timestamped_window")
    return _made("timestamped_window", name, key, value, logging, caching, store_type, duplicates=duplicates, **times)


def timestamped_window_with_headers(
    name: str,
    retention: Duration,
    window_size: Duration,
    *,
    duplicates: bool = False,
    order: Order = "time",
    key: Serde | None = None,
    value: Serde | None = None,
    logging: bool = True,
    caching: bool = False,
    store_type: StoreType | None = None,
) -> StoreBuilder:
    """As `window`, each value with a time and headers. In Kafka Streams: `Stores.timestampedWindowStoreWithHeadersBuilder`."""
    flavour = "timestamped_window_with_headers"
    times = _window_times(flavour, retention, window_size) | _by_key(order, flavour) | {"headers": True}
    return _made(flavour, name, key, value, logging, caching, store_type, duplicates=duplicates, **times)


def _by_key(order: Order, operation: str) -> dict[str, bool]:
    if order not in ("time", "key"):
        raise fault("bad_argument", f"`order` is {order!r}", operation=operation, hint='write "time" or "key"')
    return {"by_key": True} if order == "key" else {}


def _window_times(operation: str, retention: Duration, window_size: Duration) -> dict[str, Any]:
    kept = duration_ms(retention, "retention", operation=operation)
    size = duration_ms(window_size, "window_size", operation=operation)
    if size > kept:
        raise fault(
            "retention_too_short",
            f"the retention of {kept} ms is shorter than a window, {size} ms",
            operation=operation,
            hint=f'write `retention="{size}ms"` or more',
        )
    return {"retention_ms": kept, "window_size_ms": size}


def session(
    name: str,
    retention: Duration,
    *,
    order: Order = "time",
    key: Serde | None = None,
    value: Serde | None = None,
    logging: bool = True,
    caching: bool = False,
    store_type: StoreType | None = None,
) -> StoreBuilder:
    """Values by key and the bounds of a session, both inclusive.

    Args:
        retention: a session is forgotten as soon as another one's end lies so far ahead of its own.
        order: as of `window`; by end, then key, then start from the latest on, or by key, then end and start.

    In Kafka Streams: `Stores.sessionStoreBuilder`.
    """
    kept = duration_ms(retention, "retention", operation="session")
    return _made(
        "session", name, key, value, logging, caching, store_type, retention_ms=kept, **_by_key(order, "session")
    )


def session_with_headers(
    name: str,
    retention: Duration,
    *,
    order: Order = "time",
    key: Serde | None = None,
    value: Serde | None = None,
    logging: bool = True,
    caching: bool = False,
    store_type: StoreType | None = None,
) -> StoreBuilder:
    """As `session`, each value with headers. In Kafka Streams: `Stores.sessionStoreWithHeadersBuilder`."""
    flavour = "session_with_headers"
    kept = duration_ms(retention, "retention", operation=flavour)
    options: dict[str, Any] = {"retention_ms": kept, "headers": True, **_by_key(order, flavour)}
    return _made(flavour, name, key, value, logging, caching, store_type, **options)


# --- What stores are reached through ----------------------------------------------------------------------------------


class Reads(Protocol):
    """A store as it is read: by its processor, or by queries."""

    def get(self, key: Any) -> tuple[Any, int] | None: ...
    def get_window(self, key: Any, start: int, end: int) -> tuple[Any, int] | None: ...
    def get_version(self, key: Any, at: int | None) -> tuple[Any, int, int | None] | None: ...
    def scan(self, span: Span) -> tuple[list[Entry], bytes | None]: ...
    def len(self) -> int: ...


class Access(Reads, Protocol):
    """A store as its processor has it."""

    def put(self, key: Any, value: Any, ts: int) -> None: ...
    def put_window(self, key: Any, start: int, end: int, ts: int, value: Any) -> None: ...
    def remove_session(self, key: Any, start: int, end: int) -> None: ...
    def put_version(self, key: Any, value: Any, ts: int) -> int: ...


T = TypeVar("T")


class StoreIterator(Generic[T]):
    """Entries of a store, in order. Ends by itself, or with `close()`; also a context manager.

    In Kafka Streams: `KeyValueIterator`.
    """

    def __init__(
        self, reads: Reads, span: Span, shape: Callable[[Entry], T], keep: Callable[[Entry], bool] | None = None
    ) -> None:
        self._reads = reads
        self._span: Span | None = span
        self._shape = shape
        self._keep = keep
        self._page: list[Entry] = []
        self._at = 0

    def _has_next(self) -> bool:
        while self._at == len(self._page) and self._span is not None:
            page, after = self._reads.scan(self._span)
            self._page = page if self._keep is None else list(filter(self._keep, page))
            self._at = 0
            self._span = None if after is None else (*self._span[:6], after, self._span[7])
        return self._at < len(self._page)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if not self._has_next():
            raise StopIteration
        self._at += 1
        return self._shape(self._page[self._at - 1])

    def peek_next_key(self) -> Any:
        """The key of the entry that is next, without taking it. Raises StopIteration."""
        if not self._has_next():
            raise StopIteration
        entry: Any = self._shape(self._page[self._at])
        return entry[0]

    def close(self) -> None:
        self._span, self._page, self._at = None, [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def moment(value: Time) -> int:
    return timestamp_ms(value) if isinstance(value, datetime) else value


class Values:
    """How a store shows its values, and takes them; the core keeps a value and a time."""

    def shown(self, kept: Any, ts: int) -> Any:
        return kept

    def kept(self, given: Any, ts: int) -> tuple[Any, int]:
        """`ts`: the entry's time, where the value has none of its own. A None value deletes."""
        return given, ts


class _Stamped(Values):
    def shown(self, kept: Any, ts: int) -> Any:
        return ValueAndTimestamp(kept, ts)

    def kept(self, given: Any, ts: int) -> tuple[Any, int]:
        if given is None:
            return None, ts
        if not isinstance(given, ValueAndTimestamp):
            raise TypeError(f"a timestamped store takes `ads.ValueAndTimestamp(value, timestamp)`, not {given!r}")
        return given.value, given.timestamp


class _StampedWithHeaders(Values):
    """The core keeps (value, headers)."""

    def shown(self, kept: Any, ts: int) -> Any:
        value, headers = kept
        return ValueTimestampHeaders(value, ts, headers)

    def kept(self, given: Any, ts: int) -> tuple[Any, int]:
        if given is None:
            return None, ts
        if not isinstance(given, ValueTimestampHeaders):
            raise TypeError(
                "a timestamped store with headers takes `ads.ValueTimestampHeaders(value, timestamp, headers)`,"
                f" not {given!r}"
            )
        return _with_headers(given.value, given.headers), given.timestamp


class _WithHeaders(Values):
    """The core keeps (aggregation, headers)."""

    def shown(self, kept: Any, ts: int) -> Any:
        return AggregationWithHeaders(*kept)

    def kept(self, given: Any, ts: int) -> tuple[Any, int]:
        if given is None:
            return None, ts
        if not isinstance(given, AggregationWithHeaders):
            raise TypeError(
                f"a session store with headers takes `ads.AggregationWithHeaders(aggregation, headers)`, not {given!r}"
            )
        return _with_headers(given.aggregation, given.headers), ts


def _with_headers(value: Any, headers: Headers) -> Any:
    if value is None:
        return None
    made = []
    for header in headers:
        match header:
            case (str() as name, None | bytes() as content):
                made.append((name, content))
            case _:
                raise TypeError(f"a header is a name and bytes or None, not {header!r}")
    return value, tuple(made)


class _Store:
    values: Values = Values()

    def __init__(self, name: str, reads: Reads) -> None:
        self.name = name
        self._reads = reads

    def _value(self, kept: Any, ts: int) -> Any:
        return self.values.shown(kept, ts)

    def _found(self, found: tuple[Any, int] | None) -> Any:
        return None if found is None else self._value(*found)

    def _scan(
        self,
        shape: Callable[[Entry], T],
        keys: tuple[Any, Any] = (None, None),
        times: tuple[int | None, int | None] = (None, None),
        *,
        prefix: bytes | None = None,
        reverse: bool = False,
        keep: Callable[[Entry], bool] | None = None,
    ) -> StoreIterator[T]:
        return StoreIterator(self._reads, (*keys, prefix, *times, reverse, None, PAGE), shape, keep)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def _windowed(entry: Entry) -> Windowed:
    from adstream._core import Windowed  # the language loads without the core

    return Windowed(entry[0], entry[1], entry[2])


# --- Key-value --------------------------------------------------------------------------------------------------------


class ReadOnlyKeyValueStore(_Store):
    """In Kafka Streams: `ReadOnlyKeyValueStore`."""

    def _pair(self, entry: Entry) -> tuple[Any, Any]:
        return entry[0], self._value(entry[3], entry[4])

    def get(self, key: Any) -> Any:
        """The value of a key; None: there is none."""
        return self._found(self._reads.get(key))

    def range(self, from_key: Any = None, to_key: Any = None) -> StoreIterator[tuple[Any, Any]]:
        """(key, value) of keys from `from_key` to `to_key`, both included, ascending; None is no bound."""
        return self._scan(self._pair, (from_key, to_key))

    def reverse_range(self, from_key: Any = None, to_key: Any = None) -> StoreIterator[tuple[Any, Any]]:
        """As `range`, descending."""
        return self._scan(self._pair, (from_key, to_key), reverse=True)

    def all(self) -> StoreIterator[tuple[Any, Any]]:
        return self._scan(self._pair)

    def reverse_all(self) -> StoreIterator[tuple[Any, Any]]:
        return self._scan(self._pair, reverse=True)

    def prefix_scan(self, prefix: str | bytes) -> StoreIterator[tuple[Any, Any]]:
        """(key, value) of keys whose bytes begin with the prefix (of a text: its UTF-8)."""
        return self._scan(self._pair, prefix=prefix.encode() if isinstance(prefix, str) else prefix)

    def approximate_num_entries(self) -> int:
        """How many entries there are; exact here."""
        return self._reads.len()


class KeyValueStore(ReadOnlyKeyValueStore):
    """In Kafka Streams: `KeyValueStore`."""

    _reads: Access

    def put(self, key: Any, value: Any) -> None:
        """Sets the value of a key; None deletes it."""
        self._reads.put(key, *self.values.kept(value, 0))

    def put_if_absent(self, key: Any, value: Any) -> Any:
        """Sets the value of a key that has none. Returns the value that it had; None: it had none."""
        found = self.get(key)
        if found is None:
            self.put(key, value)
        return found

    def put_all(self, entries: Iterable[tuple[Any, Any]]) -> None:
        for key, value in entries:
            self.put(key, value)

    def delete(self, key: Any) -> Any:
        """Deletes a key. Returns the value that it had; None: it had none."""
        found = self.get(key)
        self.put(key, None)
        return found


class ReadOnlyTimestampedKeyValueStore(ReadOnlyKeyValueStore):
    """As `ReadOnlyKeyValueStore`; values are `ValueAndTimestamp`."""

    values = _Stamped()


class TimestampedKeyValueStore(KeyValueStore):
    """As `KeyValueStore`; values are `ValueAndTimestamp`. In Kafka Streams: `TimestampedKeyValueStore`."""

    values = _Stamped()


class ReadOnlyTimestampedKeyValueStoreWithHeaders(ReadOnlyKeyValueStore):
    """As `ReadOnlyKeyValueStore`; values are `ValueTimestampHeaders`."""

    values = _StampedWithHeaders()


class TimestampedKeyValueStoreWithHeaders(KeyValueStore):
    """As `KeyValueStore`; values are `ValueTimestampHeaders`. In Kafka Streams: `TimestampedKeyValueStoreWithHeaders`."""

    values = _StampedWithHeaders()


# --- Versions ---------------------------------------------------------------------------------------------------------


class ReadOnlyVersionedKeyValueStore(_Store):
    """The reading half of `VersionedKeyValueStore`."""

    def get(self, key: Any, as_of: Time | None = None) -> VersionedRecord | None:
        """The present version of a key, or the one that was valid at a time; None: there is none."""
        found = self._reads.get_version(key, None if as_of is None else moment(as_of))
        return None if found is None else VersionedRecord(*found)

    def versions(
        self, key: Any, from_time: Time | None = None, to_time: Time | None = None, *, reverse: bool = False
    ) -> StoreIterator[VersionedRecord]:
        """All versions of a key that were valid at some time from `from_time` to `to_time`, both included, the oldest first;
        deletions are gaps between them. Of times that history does not reach, the present version alone is sure to be known.

        In Kafka Streams: `MultiVersionedKeyQuery`, which tells the newest first unless it is asked otherwise.
        """
        times = tuple(None if time is None else moment(time) for time in (from_time, to_time))
        return self._scan(self._version, (key, key), (times[0], times[1]), reverse=reverse)

    def _version(self, entry: Entry) -> VersionedRecord:
        return VersionedRecord(self._value(entry[3], entry[4]), entry[1], None if entry[2] == _FOREVER else entry[2])


class VersionedKeyValueStore(ReadOnlyVersionedKeyValueStore):
    """In Kafka Streams: `VersionedKeyValueStore`."""

    _reads: Access

    VALID_TO_UNDEFINED = -1
    """`put`: it is the newest version."""
    NOT_PUT = -(2**63)
    """`put`: it was too old."""

    def put(self, key: Any, value: Any, timestamp: Time) -> int:
        """The value from a time on; None: there is none from then on. Returns where the next version begins (ms),
        `VALID_TO_UNDEFINED` or `NOT_PUT`."""
        return self._reads.put_version(key, value, moment(timestamp))

    def delete(self, key: Any, timestamp: Time) -> VersionedRecord | None:
        """Puts None. Returns the version that was valid at that time; None: there was none, or the time is too old."""
        found = self.get(key, timestamp)
        return None if self.put(key, None, timestamp) == self.NOT_PUT else found


# --- Windows ----------------------------------------------------------------------------------------------------------


class ReadOnlyWindowStore(_Store):
    """In Kafka Streams: `ReadOnlyWindowStore`. All bounds are inclusive; times are those of windows' starts."""

    def _pair(self, entry: Entry) -> tuple[Windowed, Any]:
        return _windowed(entry), self._value(entry[3], entry[4])

    def _timed_pair(self, entry: Entry) -> tuple[int, Any]:
        return entry[1], self._value(entry[3], entry[4])

    @overload
    def fetch(self, key: Any, time: Time, /) -> Any: ...
    @overload
    def fetch(self, key: Any, from_time: Time, to_time: Time, /) -> StoreIterator[tuple[int, Any]]: ...
    @overload
    def fetch(
        self, from_key: Any, to_key: Any, from_time: Time, to_time: Time, /
    ) -> StoreIterator[tuple[Windowed, Any]]: ...
    def fetch(self, *asked: Any) -> Any:
        """`fetch(key, start)`: the value of one window, or None.
        `fetch(key, from, to)`: (start, value) of a key's windows, by start.
        `fetch(from_key, to_key, from, to)`: (windowed key, value), by start, then key; a key that is None is no bound.
        """
        return self._fetch(asked, reverse=False)

    @overload
    def backward_fetch(self, key: Any, from_time: Time, to_time: Time, /) -> StoreIterator[tuple[int, Any]]: ...
    @overload
    def backward_fetch(
        self, from_key: Any, to_key: Any, from_time: Time, to_time: Time, /
    ) -> StoreIterator[tuple[Windowed, Any]]: ...
    def backward_fetch(self, *asked: Any) -> Any:
        """As `fetch` of several, from the latest on."""
        if len(asked) == 2:
            raise TypeError("`backward_fetch` takes a key, from and to, or two keys, from and to")
        return self._fetch(asked, reverse=True)

    def _fetch(self, asked: tuple[Any, ...], *, reverse: bool) -> Any:
        match asked:
            case (key, time):
                start = moment(time)
                return self._found(self._reads.get_window(key, start, start))
            case (key, first, last):
                if key is None:
                    raise ValueError("a store has no entry without a key: the key is None")
                return self._scan(self._timed_pair, (key, key), (moment(first), moment(last)), reverse=reverse)
            case (low, high, first, last):
                return self._scan(self._pair, (low, high), (moment(first), moment(last)), reverse=reverse)
        raise TypeError(f"`fetch` takes 2 to 4 arguments, not {len(asked)}")

    def fetch_all(self, from_time: Time, to_time: Time) -> StoreIterator[tuple[Windowed, Any]]:
        """(windowed key, value) of all keys, by start, then key."""
        return self._scan(self._pair, (None, None), (moment(from_time), moment(to_time)))

    def backward_fetch_all(self, from_time: Time, to_time: Time) -> StoreIterator[tuple[Windowed, Any]]:
        return self._scan(self._pair, (None, None), (moment(from_time), moment(to_time)), reverse=True)

    def all(self) -> StoreIterator[tuple[Windowed, Any]]:
        return self._scan(self._pair)

    def backward_all(self) -> StoreIterator[tuple[Windowed, Any]]:
        return self._scan(self._pair, reverse=True)


class WindowStore(ReadOnlyWindowStore):
    """In Kafka Streams: `WindowStore`."""

    _reads: Access

    def put(self, key: Any, value: Any, window_start: Time) -> None:
        """Sets the value of a window; None deletes it (of a store with duplicates: does nothing)."""
        start = moment(window_start)
        kept, ts = self.values.kept(value, start)
        self._reads.put_window(key, start, start, ts, kept)


class ReadOnlyTimestampedWindowStore(ReadOnlyWindowStore):
    """As `ReadOnlyWindowStore`; values are `ValueAndTimestamp`."""

    values = _Stamped()


class TimestampedWindowStore(WindowStore):
    """As `WindowStore`; values are `ValueAndTimestamp`. In Kafka Streams: `TimestampedWindowStore`."""

    values = _Stamped()


class ReadOnlyTimestampedWindowStoreWithHeaders(ReadOnlyWindowStore):
    """As `ReadOnlyWindowStore`; values are `ValueTimestampHeaders`."""

    values = _StampedWithHeaders()


class TimestampedWindowStoreWithHeaders(WindowStore):
    """As `WindowStore`; values are `ValueTimestampHeaders`. In Kafka Streams: `TimestampedWindowStoreWithHeaders`."""

    values = _StampedWithHeaders()


# --- Sessions ---------------------------------------------------------------------------------------------------------


class ReadOnlySessionStore(_Store):
    """In Kafka Streams: `ReadOnlySessionStore`. Sessions come by their end, then key, then start from the latest on."""

    def _pair(self, entry: Entry) -> tuple[Windowed, Any]:
        return _windowed(entry), self._value(entry[3], entry[4])

    def fetch_session(self, key: Any, start: Time, end: Time) -> Any:
        """The value of one session; None: there is none."""
        return self._found(self._reads.get_window(key, moment(start), moment(end)))

    def fetch(self, from_key: Any, to_key: Any = ...) -> StoreIterator[tuple[Windowed, Any]]:
        """`fetch(key)`: a key's sessions. `fetch(from_key, to_key)`: those of several; None is no bound."""
        return self._scan(self._pair, _keys(from_key, to_key))

    def backward_fetch(self, from_key: Any, to_key: Any = ...) -> StoreIterator[tuple[Windowed, Any]]:
        return self._scan(self._pair, _keys(from_key, to_key), reverse=True)

    @overload
    def find_sessions(self, earliest_end: Time, latest_end: Time, /) -> StoreIterator[tuple[Windowed, Any]]: ...
    @overload
    def find_sessions(
        self, key: Any, earliest_end: Time, latest_start: Time, /
    ) -> StoreIterator[tuple[Windowed, Any]]: ...
    @overload
    def find_sessions(
        self, from_key: Any, to_key: Any, earliest_end: Time, latest_start: Time, /
    ) -> StoreIterator[tuple[Windowed, Any]]: ...
    def find_sessions(self, *asked: Any) -> Any:
        """`find_sessions(key, earliest_end, latest_start)`: sessions that end then or later and start then or earlier.
        `find_sessions(from_key, to_key, earliest_end, latest_start)`: those of several keys; None is no bound.
        `find_sessions(earliest_end, latest_end)`: all that end in between.
        """
        return self._find(asked, reverse=False)

    def backward_find_sessions(self, *asked: Any) -> StoreIterator[tuple[Windowed, Any]]:
        """As `find_sessions`, from the latest on."""
        return self._find(asked, reverse=True)

    def _find(self, asked: tuple[Any, ...], *, reverse: bool) -> StoreIterator[tuple[Windowed, Any]]:
        match asked:
            case (earliest, latest):
                until = moment(latest)
                times = (moment(earliest), None)
                return self._scan(self._pair, times=times, reverse=reverse, keep=lambda entry: entry[2] <= until)
            case (key, earliest, latest):
                return self._scan(self._pair, _keys(key, ...), (moment(earliest), moment(latest)), reverse=reverse)
            case (low, high, earliest, latest):
                return self._scan(self._pair, (low, high), (moment(earliest), moment(latest)), reverse=reverse)
        raise TypeError(f"`find_sessions` takes 2 to 4 arguments, not {len(asked)}")


def _keys(from_key: Any, to_key: Any) -> tuple[Any, Any]:
    if to_key is not ...:
        return from_key, to_key
    if from_key is None:
        raise ValueError("a store has no entry without a key: the key is None")
    return from_key, from_key


class SessionStore(ReadOnlySessionStore):
    """In Kafka Streams: `SessionStore`."""

    _reads: Access

    def put(self, session: Windowed, value: Any) -> None:
        """Sets the value of a session `ads.Windowed(key, start, end)`; None deletes it."""
        kept, ts = self.values.kept(value, session.end)
        self._reads.put_window(session.key, session.start, session.end, ts, kept)

    def remove(self, session: Windowed) -> None:
        self._reads.remove_session(session.key, session.start, session.end)


class ReadOnlySessionStoreWithHeaders(ReadOnlySessionStore):
    """As `ReadOnlySessionStore`; values are `AggregationWithHeaders`."""

    values = _WithHeaders()


class SessionStoreWithHeaders(SessionStore):
    """As `SessionStore`; values are `AggregationWithHeaders`. In Kafka Streams: `SessionStoreWithHeaders`."""

    values = _WithHeaders()


# --- Which is which ---------------------------------------------------------------------------------------------------

_CLASSES: dict[str, tuple[type[_Store], type[_Store]]] = {
    "key_value": (KeyValueStore, ReadOnlyKeyValueStore),
    "timestamped_key_value": (TimestampedKeyValueStore, ReadOnlyTimestampedKeyValueStore),
    "timestamped_key_value_with_headers": (
        TimestampedKeyValueStoreWithHeaders,
        ReadOnlyTimestampedKeyValueStoreWithHeaders,
    ),
    "window": (WindowStore, ReadOnlyWindowStore),
    "timestamped_window": (TimestampedWindowStore, ReadOnlyTimestampedWindowStore),
    "timestamped_window_with_headers": (TimestampedWindowStoreWithHeaders, ReadOnlyTimestampedWindowStoreWithHeaders),
    "session": (SessionStore, ReadOnlySessionStore),
    "session_with_headers": (SessionStoreWithHeaders, ReadOnlySessionStoreWithHeaders),
    "versioned_key_value": (VersionedKeyValueStore, ReadOnlyVersionedKeyValueStore),
    "lru_map": (KeyValueStore, ReadOnlyKeyValueStore),
}

_OF_TABLES = {
    "key_value": "timestamped_key_value",
    "lru": "timestamped_key_value",
    "window": "timestamped_window",
    "series": "timestamped_window",
    "session": "session",
    "versioned": "versioned_key_value",
}
"""Kafka Streams keeps times in the stores of its tables."""


def flavour_of(spec: dict[str, Any]) -> str:
    """How a store of the plan is seen: as it was declared, or as a table's."""
    return str(spec.get("flavour") or _OF_TABLES[spec["kind"]])


def opened(spec: dict[str, Any], access: Access) -> Any:
    """A store for its processor."""
    return _CLASSES[flavour_of(spec)][0](spec["name"], access)


def opened_read_only(spec: dict[str, Any], reads: Reads) -> Any:
    """A store for queries."""
    return _CLASSES[flavour_of(spec)][1](spec["name"], reads)


def entries_of(spec: dict[str, Any], reads: Reads) -> Iterator[Entry]:
    """All entries, as the core has them."""
    return StoreIterator(reads, (None, None, None, None, None, False, None, PAGE), lambda entry: entry)
