"""What all operators on keys and values are made of: nodes of the plan that work record by record, their functions,
their stores.

The plan says everything: which store a node has, whether it tells old values, how a table without a store is read.
`rust/core/src/flow/build.rs` has the kinds of nodes and infers nothing. Decisions are Kafka Streams', made here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

from adstream.dsl import natives
from adstream.dsl.durations import Duration, duration_ms
from adstream.dsl.expr import Expr, callable_name, refuse_async
from adstream.dsl.faults import fault, user_line
from adstream.dsl.graph import Graph, Node, Port, check_name
from adstream.dsl.serdes import Serde
from adstream.dsl.store import StoreType, entries_max, store_type_of

if TYPE_CHECKING:
    from adstream._core import ProcessorRecord


def add(
    graph: Graph,
    kind: str,
    inputs: Sequence[Port],
    *,
    name: str | None = None,
    about: str = "",
    stores: Iterable[str] = (),
    **parameters: Any,
) -> Node:
    """A node. `name` is the user's, or none; `stores`: those it reads and writes, which keep it in one task with others
    that do."""
    node = graph.add(
        "flow",
        tuple(inputs),
        user_line(),
        {"kind": kind, "stores": sorted(set(stores)), **parameters},
        about=about,
        rung=_rung(graph, parameters),
        label=kind.replace("_", "-"),
    )
    if name is not None:
        graph.rename(node, name)
    return node


def _rung(graph: Graph, parameters: Any) -> str:
    """Whether a node calls Python for each record; `record`: it calls nobody."""
    if isinstance(parameters, dict):
        if "call_with_context" in parameters:
            return "callable"
        if "call" in parameters:
            return "expression" if isinstance(graph.callables[parameters["call"]], natives.Native) else "callable"
        parameters = list(parameters.values())
    if not isinstance(parameters, list):
        return "record"
    found = {_rung(graph, part) for part in parameters}
    return next((rung for rung in ("callable", "expression") if rung in found), "record")


ASKED_ON_ROWS = "write a plain function; what waits for answers is asked on rows, `.rows(…).map_async(…)`"
"""What to do with an async function of keys and values."""


def function(
    graph: Graph, fn: object, what: str, operation: str, *, values: int = 1, key: bool = True
) -> dict[str, Any]:
    """A function as the plan has it. It takes `values` arguments, or the key before them if it takes one more (and `key`
    allows that)."""
    if isinstance(fn, Expr) and key:
        fn = natives.expression(fn, operation)
    if isinstance(fn, natives.Native):
        return {"call": graph.register(fn), "with_key": key}
    if not callable(fn):
        raise fault(
            "bad_argument",
            f"`{what}` must be a function, not {fn!r}",
            operation=operation,
            hint=f"write `lambda {'key, ' if key else ''}value: …`",
        )
    refuse_async(fn, operation, hint=ASKED_ON_ROWS)
    with_key = _wants_key(fn, values) if key else False
    low, high = _arity(fn) or (values, values)
    if not low <= values + with_key <= high:
        wants = f"{values} or {values + 1}" if key else f"{values}"
        raise fault(
            "bad_arity",
            f"`{what}` is called with {wants} arguments, and `{callable_name(fn)}` takes {low}",
            operation=operation,
            hint="the key comes first, then the values" if key else "see the docstring of the operation",
        )
    return {"call": graph.register(fn), "with_key": with_key}


_MANY = 1 << 16


def _arity(fn: Callable[..., Any]) -> tuple[int, int] | None:
    """The fewest and most positional arguments; None for builtins that do not say."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return None
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    low = sum(1 for p in places if p.default is p.empty)
    return low, _MANY if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(places)


def _wants_key(fn: Callable[..., Any], values: int) -> bool:
    """What has a default is no place for the key: it is how functions made in a loop hold their variable."""
    arity = _arity(fn)
    return arity is not None and (arity[0] == values + 1 or (arity[0] == 0 and arity[1] == _MANY))


class Condition:
    """A predicate: what its function returns, as true or false. A coroutine is neither: it is always true, and says nothing."""

    __slots__ = ("fn",)

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, *args: Any) -> bool:
        found = self.fn(*args)
        if inspect.iscoroutine(found):
            found.close()
            raise TypeError(f"`{callable_name(self.fn)}` returned a coroutine, and nothing awaits it here")
        return bool(found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and self.fn is other.fn

    def __hash__(self) -> int:
        return hash(self.fn)


def condition(graph: Graph, fn: object, what: str, operation: str) -> dict[str, Any]:
    """A predicate of (value) or (key, value)."""
    found = function(graph, fn, what, operation)
    if isinstance(fn, Expr | natives.Native):
        return found
    assert callable(fn)
    return {**found, "call": graph.register(Condition(fn))}


class Listing:
    """A function that returns many: whatever can be gone through, as a list; text and dicts stay what they are."""

    __slots__ = ("fn",)

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, *args: Any) -> Any:
        found = self.fn(*args)
        if isinstance(found, list | tuple | str | bytes | dict) or not hasattr(found, "__iter__"):
            return found
        return list(found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Listing) and self.fn is other.fn

    def __hash__(self) -> int:
        return hash(self.fn)


def listing(graph: Graph, fn: object, what: str, operation: str) -> dict[str, Any]:
    """A function of (value) or (key, value) that returns any iterable."""
    found = function(graph, fn, what, operation)
    if isinstance(fn, Expr | natives.Native):
        return found
    assert callable(fn)
    return {**found, "call": graph.register(Listing(fn))}


class RecordContext(NamedTuple):
    """A record's place and what travels with it. In Kafka Streams: `RecordContext`."""

    topic: str | None
    """None, like partition and offset: it comes from no record, but from a punctuation."""
    partition: int | None
    offset: int | None
    timestamp: int
    """Event time, ms."""
    headers: list[tuple[str, bytes | None]]


class _WithContext:
    """A function of key, value and context, called with the parts of the context."""

    __slots__ = ("fn",)

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, key: Any, value: Any, *parts: Any) -> Any:
        return self.fn(key, value, RecordContext(*parts))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.fn is other.fn

    def __hash__(self) -> int:
        return hash(self.fn)


class _TimeWithContext(_WithContext):
    """An extractor of event times."""

    def __call__(self, key: Any, value: Any, *parts: Any) -> Any:
        return self.fn(key, value, *parts[:2], RecordContext(*parts[2:]))


def topic_extractor(graph: Graph, topic: str | Callable[..., Any] | Expr, operation: str) -> dict[str, Any]:
    """The parameters of a `to` whose topic may be a function of the value, the key and the value, or these and the record's
    context."""
    if isinstance(topic, str):
        return {"extractor": None}
    arity = None if isinstance(topic, (Expr, natives.Native)) or not callable(topic) else _arity(topic)
    if callable(topic) and arity is not None and arity[0] == 3:
        refuse_async(topic, operation, hint=ASKED_ON_ROWS)
        return {"extractor": {"call": graph.register(_WithContext(topic)), "with_key": True}, "contextual": True}
    return {"extractor": function(graph, topic, "topic", operation)}


def extractor(graph: Graph, timestamp: object, operation: str) -> dict[str, Any]:
    """A function of (key, value, time, partition's time), or of these and the record's context, that finds an event time."""
    arity = _arity(timestamp) if callable(timestamp) else None
    if callable(timestamp) and arity is not None and arity[0] == 5:
        refuse_async(timestamp, operation, hint=ASKED_ON_ROWS)
        return {"call_with_context": graph.register(_TimeWithContext(timestamp))}
    return {"call": call(graph, timestamp, "timestamp", operation, 4)["call"]}


def about_topics(names: Sequence[str]) -> str:
    """What a `to` writes to, for people."""
    return f"topic {', '.join(names)}" if names else "the topic that a function names"


def call(graph: Graph, fn: object, what: str, operation: str, arguments: int) -> dict[str, Any]:
    """A function that is called with exactly so many arguments."""
    return function(graph, fn, what, operation, values=arguments, key=False)


# --- Failures ---------------------------------------------------------------------------------------------------------

OnErrorWord = Literal["dead_letter", "continue", "fail"]
WALLCLOCK = "wallclock_timestamp_extractor"
_STAGES = {"source": "deserialization", "to": "production"}


class ErrorHandlerContext(NamedTuple):
    """A record that failed, and where. In Kafka Streams: `ErrorHandlerContext`, with what handlers are given beside it.

    Where it comes from no record, but from a punctuation, topic, partition, offset and the raw bytes are None. The raw bytes are
    also where it had waited in a cache.
    """

    topic: str | None
    partition: int | None
    offset: int | None
    timestamp: int | None
    """ms: of the record that failed, as the operation was given it; of a punctuation, when it was called."""
    headers: list[tuple[str, bytes | None]]
    """Of the record that failed, as the operation was given it."""
    source_raw_key: bytes | None
    source_raw_value: bytes | None
    node: str
    """The operation that failed (`processorNodeId`)."""
    reason: str
    """As in a dead letter: `malformed_value`, `callable_raised`, `unwritable_value` … (docs/errors.md)."""
    message: str
    """What a function raised: its type, a colon, its text; or what cannot be read or written."""
    record: ProcessorRecord | None = None
    """What failed, as the operation was given it; None: it cannot be read, or a punctuation itself failed."""


OnErrorHandler = Callable[[ErrorHandlerContext], str]
OnError = OnErrorWord | OnErrorHandler
"""What becomes of a record that fails: a word, or a function that is asked of each."""


class _Handler:
    """A handler, called with the parts of the context."""

    __slots__ = ("fn",)

    def __init__(self, fn: OnErrorHandler) -> None:
        self.fn = fn

    def __call__(self, *parts: Any) -> str:
        *about, pair = parts
        context = ErrorHandlerContext(*about)
        if pair is not None:
            from adstream._core import ProcessorRecord  # topologies are built without it

            key, value = pair
            context = context._replace(record=ProcessorRecord(key, value, context.timestamp or 0, context.headers))
        said = self.fn(context)
        if said not in get_args(OnErrorWord):
            raise ValueError(f'it returned {said!r}, not "dead_letter", "continue" or "fail"')
        return said

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Handler) and self.fn is other.fn

    def __hash__(self) -> int:
        return hash(self.fn)


def on_error(graph: Graph, value: object, operation: str = "on_error") -> str | dict[str, Any]:
    """The argument as the plan has it."""
    if callable(value):
        call(graph, value, "on_error", operation, 1)
        return {"call": graph.register(_Handler(value))}
    if value not in get_args(OnErrorWord):
        raise fault(
            "bad_argument",
            f"not what can be done with a record that fails: {value!r}",
            operation=operation,
            hint='write "dead_letter", "continue" or "fail", or give a function that returns one of them',
        )
    return cast(str, value)


def settle_timestamps(graph: Graph) -> None:
    """Tells every source of keys and values how it finds event times, where it does not say so itself."""
    for node in graph.nodes:
        if node.op == "flow" and node.parameters["kind"] == "source" and not node.parameters.get("internal"):
            if node.parameters["timestamp"] is None:
                node.parameters["timestamp"] = graph.timestamp
            if node.parameters["timestamp"] == WALLCLOCK:
                node.parameters["timed"] = True


def settle_errors(graph: Graph) -> None:
    """Tells every node of a record flow what the application says, where it does not say so itself."""
    for node in graph.nodes:
        if node.op == "flow" and "on_error" not in node.parameters:
            said = graph.on_error.get(_STAGES.get(node.parameters["kind"], "processing"))
            if said is not None and not node.parameters.get("internal"):
                node.parameters["on_error"] = said


# --- Stores -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Materialized:
    """How a table is kept: its store's name, serdes, cache, changelog. In Kafka Streams: `Materialized`.

    Attributes:
        name: the store's; a store with a name can be read (`driver.store(name)`), and its state survives when
            operators before it are added or removed.
        key, value: serdes, for topics made from the table; by default those of the stream.
        caching: whether changes are told once per commit (the default), or each at once.
        logging: whether the store has a changelog; without one it is empty after a restart.
        retention: how long windows are kept, from their start.
        history: makes it a versioned store that keeps versions so long (`history_retention`).
        store_type: `"disk"`, where the store may be larger than memory, or `"memory"`; by default what the application's
            setting `store_type` says (Kafka Streams: `withStoreType`, `dsl.store.suppliers.class`).
        max_entries: so many keys at most, of a table without windows: one too many, and the key that was not used for longest is
            forgotten, and nobody behind is told (Kafka Streams: `Stores.lruMap`). In memory.
    """

    name: str | None = None
    key: Serde | None = None
    value: Serde | None = None
    caching: bool = True
    logging: bool = True
    retention: Duration | None = None
    history: Duration | None = None
    store_type: StoreType | None = None
    max_entries: int | None = None

    def __post_init__(self) -> None:
        if self.name is not None:
            check_name(self.name, "Materialized")
        for kept in ("retention", "history"):
            if getattr(self, kept) is not None:
                duration_ms(getattr(self, kept), kept, operation="Materialized")
        if self.store_type is not None:
            store_type_of(self.store_type, "Materialized")
        if self.max_entries is None:
            return
        entries_max(self.max_entries, "Materialized")
        other = next((n for n in ("history", "retention", "store_type") if getattr(self, n) is not None), None)
        if other is not None and not (other == "store_type" and self.store_type == "memory"):
            raise fault(
                "bad_argument",
                f"a store of `max_entries` keys has no `{other}`",
                operation="Materialized",
                hint="leave out one of them",
            )

    @property
    def cached(self) -> bool:
        """Versions are told one by one."""
        return self.caching and self.history is None

    def with_key_serde(self, key: Serde | None) -> Materialized:
        return replace(self, key=key)

    def with_value_serde(self, value: Serde | None) -> Materialized:
        return replace(self, value=value)

    def with_caching_enabled(self) -> Materialized:
        return replace(self, caching=True)

    def with_caching_disabled(self) -> Materialized:
        return replace(self, caching=False)

    def with_logging_enabled(self) -> Materialized:
        return replace(self, logging=True)

    def with_logging_disabled(self) -> Materialized:
        return replace(self, logging=False)

    def with_retention(self, retention: Duration) -> Materialized:
        duration_ms(retention, "retention", operation="with_retention")
        return replace(self, retention=retention)

    def with_store_type(self, store_type: StoreType) -> Materialized:
        return replace(self, store_type=store_type)


def materialized(value: Materialized | str | None, operation: str) -> Materialized:
    """The argument, where a text is the store's name."""
    if value is None:
        return Materialized()
    if isinstance(value, str):
        return Materialized(value)
    if isinstance(value, Materialized):
        return value
    raise fault(
        "bad_argument",
        f"`materialized` must be a store's name or `ads.Materialized(…)`, not {value!r}",
        operation=operation,
        hint='write `materialized="totals"`',
    )


def store(
    graph: Graph,
    kind: str,
    how: Materialized,
    fallback: str,
    operation: str,
    *,
    retention_ms: int | None = None,
    **more: Any,
) -> str:
    """Declares a store; returns its name. `fallback` is what it is called if the user gave it no name."""
    if how.retention is not None and retention_ms is not None:
        wanted = duration_ms(how.retention, "retention", operation=operation)
        if wanted < retention_ms:
            raise fault(
                "retention_too_short",
                f"retention {wanted} ms is shorter than what the windows need, {retention_ms} ms",
                operation=operation,
                hint=f'write `retention="{retention_ms}ms"` or more',
            )
        retention_ms = wanted
    if how.max_entries is not None and kind != "key_value":
        raise fault(
            "bad_argument",
            "a store of `max_entries` keys has neither windows nor versions",
            operation=operation,
            hint="leave out `max_entries`",
        )
    if how.max_entries is not None:
        kind, more = "lru", {**more, "max_entries": how.max_entries}
    name = how.name or fallback
    if any(known["name"] == name for known in graph.stores):
        raise fault(
            "duplicate_name",
            f"two stores are called `{name}`",
            operation=operation,
            hint="give one of them another name",
        )
    graph.stores.append(
        {
            "name": name,
            "kind": kind,
            "retention_ms": retention_ms,
            "logging": how.logging,
            "queryable": how.name is not None,
            **({} if how.store_type is None else {"store_type": how.store_type}),
            **more,
        }
    )
    return name


def table_store(graph: Graph, how: Materialized, fallback: str, operation: str) -> str:
    """Declares the store of a table, with versions if it is to have a history; returns its name."""
    if how.history is None:
        return store(graph, "key_value", how, fallback, operation)
    if how.retention is not None:
        raise fault(
            "bad_argument",
            "a store of versions has a `history`, windows have a `retention`",
            operation=operation,
            hint="leave out `retention`",
        )
    history_ms = duration_ms(how.history, "history", operation=operation)
    return store(graph, "versioned", how, fallback, operation, retention_ms=history_ms)
