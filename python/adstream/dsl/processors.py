"""Processors: operators written by hand, with their own state, punctuations and a say in who gets what.

    class Alerts(ads.Processor):
        def init(self, ctx):
            self.ctx, self.open = ctx, ctx.get_state_store("open")
            ctx.schedule("1m", "stream_time", self.remind)

        def process(self, record, ctx):
            self.open.put(record.key, record.value)
            ctx.forward(record.with_value("seen"))

        def remind(self, time):
            for key, value in self.open.all():
                self.ctx.forward(ads.ProcessorRecord(key, value, time))

    app.add_state_store(ads.store.key_value("open"))
    events.process(Alerts, "open").to("alerts")

*Lives.* Every task has an instance of its own, made by calling the class (or a function without arguments). It begins
before the task's first record and ends with the task. After an abort the task goes on with a new instance: what an
instance keeps in attributes of its own is not undone, what it keeps in stores is. Keep state in stores.

*Failures.* What `process` raises makes a dead letter of the record (`callable_raised`, with the processor's name); what
it had forwarded and stored before stays. What `init` raises stops the task.

*The context* works only inside a call of `init`, `process` or a punctuator, and on its thread.

In Kafka Streams: `Processor`, `FixedKeyProcessor`, `ProcessorContext`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple

from adstream._core import ProcessorHandle, ProcessorRecord
from adstream.dsl import flow, keyed, store
from adstream.dsl.durations import Duration, duration_ms
from adstream.dsl.expr import callable_name, refuse_async
from adstream.dsl.faults import fault
from adstream.dsl.graph import Graph, Node, Port
from adstream.dsl.serdes import Serde
from adstream.dsl.store import Entry, Span, StoreBuilder, Time

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    V = TypeVar("V", default=Any)
else:
    from typing import TypeVar

    V = TypeVar("V")

Clock = Literal["stream_time", "wall_clock_time"]


class Processor(Generic[V]):
    """To be derived from: `process`, and if needed `init` and `close`. May be given the type of its values."""

    def init(self, ctx: Context) -> None:
        """Called once, before the first record."""

    def process(self, record: ProcessorRecord, ctx: Context) -> None:
        """Called with each record."""
        raise NotImplementedError

    def close(self) -> None:
        """Called when the instance has had its last record. The context cannot be used any more."""


class FixedKeyProcessor(Processor[V]):
    """A processor that changes no keys, so that no records have to be moved behind it: it forwards what it was given, with
    other values, times, headers. In Kafka Streams: `FixedKeyProcessor`."""


class ValueTransformerWithKey(Generic[V]):
    """What `KTable.transform_values` is given: values from values, with stores and punctuations. It forwards nothing.
    In Kafka Streams: `ValueTransformerWithKey`."""

    def init(self, ctx: Context) -> None:
        """Called once, before the first value."""

    def transform(self, key: Any, value: V) -> Any:
        """The value in place of `value`; None deletes. A deletion is told as None, too."""
        raise NotImplementedError

    def close(self) -> None:
        """Called when the instance has had its last value."""


class Output:
    """A named output; made by `output`."""

    def __init__(self, value: Serde | None, key: Serde | None) -> None:
        self.value, self.key = value, key
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


def output(value: Serde | None = None, *, key: Serde | None = None) -> Output:
    """One more output of a processor, as an attribute of its class: `entries = ads.output()`.

    `ctx.forward(record, self.entries)` sends to it, `stream.process(Book).entries` is the stream of what was sent. A
    `forward` without an output goes to the operations behind `process` itself.

    Args:
        value, key: how they are written where nobody says it.
    """
    return Output(value, key)


def class_of(processor: object) -> type | None:
    """The class that a processor is made of, as far as one can see."""
    made = processor.func if isinstance(processor, functools.partial) else processor
    return made if isinstance(made, type) else None


def outputs_of(processor: object) -> list[Output]:
    """The outputs that a class declares, its bases' first."""
    owners = reversed(getattr(class_of(processor), "__mro__", ()))
    return [found for owner in owners for found in vars(owner).values() if isinstance(found, Output)]


class RecordMetadata(NamedTuple):
    """Where a record lies. In Kafka Streams: `RecordMetadata`."""

    topic: str
    partition: int
    offset: int


class Cancellable:
    """A schedule. In Kafka Streams: `Cancellable`."""

    def __init__(self, handle: ProcessorHandle, schedule: int) -> None:
        self._handle, self._schedule = handle, schedule

    def cancel(self) -> None:
        """It is called no more. Works where the context works."""
        self._handle.cancel(self._schedule)


class Context:
    """What a processor reaches. In Kafka Streams: `ProcessorContext`."""

    def __init__(self, handle: ProcessorHandle, graph: Graph, app: str) -> None:
        self._handle = handle
        self._graph, self._app = graph, app
        self._stores: dict[str, Any] = {}

    def forward(self, record: ProcessorRecord, child: str | Output | None = None) -> None:
        """Hands a record to all operations behind, or to one. They are done with it when this returns.

        Args:
            child: an output, or the name of one or of an operation behind (`.named(…)`, `add_processor(name, …)`).

        Raises:
            KeyError: there is no such child.
        """
        self._handle.forward(record, child.name if isinstance(child, Output) else child)

    def commit(self) -> None:
        """Asks for a commit, soon: in a test driver and in a worker right behind the record at hand."""
        self._handle.commit()

    def schedule(
        self, interval: Duration, type: Clock, callback: Callable[[int], object], *, start_time: Time | None = None
    ) -> Cancellable:
        """Has `callback(time in ms)` called when time goes on.

        Args:
            interval: how often, at least 1 ms.
            type: `stream_time`: first as soon as there is any, then whenever the stream time passes a multiple of
                the interval; looked at after each record. `wall_clock_time`: one interval from now and so on, by the
                task's logged clock; looked at when the task commits. Several missed periods are one call.
            start_time: when it is called first, ms or an aware datetime: then at this time and every interval behind it
                (at each full hour: `"1h"` and `start_time=0`). What has passed already is not called.

        What `init` schedules goes on where it was after a restart; what is scheduled later is gone then.
        """
        ms = checked_schedule(interval, type, callback)
        start = None if start_time is None else store.moment(start_time)
        if start is not None and start < 0:
            raise ValueError(f"`start_time` is {start} ms; it cannot lie before the epoch")
        return Cancellable(self._handle, self._handle.schedule(ms, type == "wall_clock_time", callback, start))

    def get_state_store(self, name: str) -> Any:
        """A store that the processor is connected to: an object of `adstream.dsl.store`, by the store's kind, or what the kind of
        one's own makes of it (`StoreBuilder.of_kind`). Global tables and
        stores need no connection, and can only be read.

        Raises:
            KeyError: it is not connected to such a store.
        """
        if name not in self._stores:
            found, kind = self._open(name), self._graph.kinds.get(name)
            self._stores[name] = found if kind is None else kind(found)
        return self._stores[name]

    def _open(self, name: str) -> Any:
        own = next((s for s in self._graph.stores if s["name"] == name), None)
        if own is None or name not in self._handle.stores:
            for entry in self._graph.globals:
                kept = entry.get("kept")
                if entry["name"] == name and not (kept and kept["node"] == self._handle.node):
                    return store.opened_read_only(global_spec(entry), Connected(self._handle, name))
                if entry["name"] == name:
                    own = global_spec(entry)
        if own is not None and name in self._handle.stores:
            return store.opened(own, Connected(self._handle, name))
        known = ", ".join(self._handle.stores)
        raise KeyError(
            f"`{self._handle.node}` is not connected to a store `{name}`: "
            + (f"it has {known}" if known else f'write `process(…, "{name}")`')
        )

    @property
    def task_id(self) -> str:
        """`<sub-topology>_<partition>`."""
        return self._handle.task_id

    @property
    def application_id(self) -> str:
        return self._app

    @property
    def app_configs(self) -> Mapping[str, Any]:
        """The settings that the topology was built with."""
        return self._graph.settings

    def record_metadata(self) -> RecordMetadata | None:
        """Where the record at hand came from; None in `init` and punctuators."""
        found = self._handle.record_metadata()
        return None if found is None else RecordMetadata(*found)

    def app_configs_with_prefix(self, prefix: str) -> dict[str, Any]:
        """Those settings whose names begin so, by the rest of their names."""
        configs = self.app_configs
        return {name.removeprefix(prefix): value for name, value in configs.items() if name.startswith(prefix)}

    def count(self, name: str, by: int = 1) -> None:
        """Adds to a counter of the operation's own: `adstream_records_total` with `reason="custom:<name>"` among the worker's
        metrics, `driver.counters()` in tests. What is rolled back is not counted.

        Raises:
            ValueError: `by` is no whole number from 0 on, or the name is empty.

        In Kafka Streams: `ProcessingContext.metrics`, `addRateTotalSensor`.
        """
        self._handle.count(f"custom:{name}", checked_count(name, by))

    @property
    def current_stream_time_ms(self) -> int:
        """The largest time that the task has seen; −1 before its first record."""
        return self._handle.stream_time()

    @property
    def current_system_time_ms(self) -> int:
        """The task's logged clock."""
        return self._handle.system_time()

    def __repr__(self) -> str:
        return f"<Context {self._handle.node}>"


def checked_schedule(interval: Duration, type: object, callback: object) -> int:
    """The interval, ms."""
    ms = duration_ms(interval, "interval", operation="schedule", zero=False)
    if type not in ("stream_time", "wall_clock_time"):
        raise ValueError(f'`type` is "stream_time" or "wall_clock_time", not {type!r}')
    if not callable(callback):
        raise TypeError(f"`callback` must be a function of the time (ms), not {callback!r}")
    return ms


def checked_count(name: object, by: object) -> int:
    """What is added to a counter."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"a counter has a name, and {name!r} is none")
    if not isinstance(by, int) or isinstance(by, bool) or by < 0:
        raise ValueError(f"a counter goes up by whole numbers, not by {by!r}")
    return by


class Connected:
    """A store through the handle (`store.Access`)."""

    __slots__ = ("_handle", "_name")

    def __init__(self, handle: ProcessorHandle, name: str) -> None:
        self._handle, self._name = handle, name

    def get(self, key: Any) -> tuple[Any, int] | None:
        return self._handle.get(self._name, key)

    def get_window(self, key: Any, start: int, end: int) -> tuple[Any, int] | None:
        return self._handle.get_window(self._name, key, start, end)

    def scan(self, span: Span) -> tuple[list[Entry], bytes | None]:
        return self._handle.scan(self._name, span)

    def len(self) -> int:
        return self._handle.len(self._name)

    def put(self, key: Any, value: Any, ts: int) -> None:
        self._handle.put(self._name, key, value, ts)

    def put_window(self, key: Any, start: int, end: int, ts: int, value: Any) -> None:
        self._handle.put_window(self._name, key, (start, end, ts), value)

    def get_version(self, key: Any, at: int | None) -> tuple[Any, int, int | None] | None:
        found = self._handle.get_version(self._name, key, at)
        return None if found is None else (*found[:2], None)  # Kafka Streams loses it on the way to the processor

    def put_version(self, key: Any, value: Any, ts: int) -> int:
        return self._handle.put_version(self._name, key, value, ts)

    def remove_session(self, key: Any, start: int, end: int) -> None:
        self._handle.remove_session(self._name, key, start, end)


class _Instances:
    """What the plan calls to make an instance for a task."""

    def __init__(
        self, graph: Graph, app: str, factory: Callable[[], Any], method: str = "process(record, ctx)"
    ) -> None:
        self._graph, self._app, self._factory, self._method = graph, app, factory, method
        self._last: object = None

    def __call__(self, handle: ProcessorHandle) -> tuple[Any, Context]:
        instance = self._factory()
        if not callable(getattr(instance, self._method.partition("(")[0], None)):
            raise TypeError(f"{instance!r} is no processor: it has no `{self._method}`")
        if instance is self._last:
            raise TypeError("the function gave the same processor twice: every task needs one of its own")
        self._last = instance
        _complete(instance)
        found = list(keyed.attributes(type(instance)))
        scoped = keyed.Scoped(instance, found, handle.node) if found else instance
        wrapped = self._wrapped(handle.node, scoped) if self._method.startswith("process") else scoped
        return wrapped, Context(handle, self._graph, self._app)

    def _wrapped(self, name: str, processor: Any) -> Any:
        for wrapper in self._graph.wrappers:
            processor = wrapper(name, processor)
            if not callable(getattr(processor, "process", None)):
                raise TypeError(f"`wrap_processors` made {processor!r} of `{name}`: it has no `process(record, ctx)`")
            _complete(processor)
        return processor


def _complete(instance: Any) -> None:
    """`init` and `close` may be left out."""
    for name in ("init", "close"):
        if not hasattr(instance, name):
            setattr(instance, name, lambda *_: None)


def _factory(processor: object, operation: str) -> Callable[[], Any]:
    if isinstance(processor, Processor) or not callable(processor):
        raise fault(
            "bad_argument",
            f"every task makes a processor of its own, and this is one already: {processor!r}"
            if isinstance(processor, Processor)
            else f"not a processor's class: {processor!r}",
            operation=operation,
            hint=f"write `{operation}(MyProcessor)`, or `{operation}(lambda: MyProcessor(…))`",
        )
    for method in ("init", "process", "transform", "close"):
        refuse_async(getattr(class_of(processor), method, None), operation, hint=flow.ASKED_ON_ROWS)
    refuse_async(processor, operation, hint=flow.ASKED_ON_ROWS)
    if not isinstance(processor, type) and _makes_one(processor):
        raise fault(
            "bad_argument",
            f"`{callable_name(processor)}` gave the same processor twice, and every task makes one of its own",
            operation=operation,
            hint="make it inside the function: `lambda: MyProcessor(…)`",
        )
    return processor


def _makes_one(supplier: Callable[[], Any]) -> bool:
    """Whether it gives the same one each time. In Kafka Streams: `ApiUtils.checkSupplier`, which asks twice, too."""
    try:
        first = supplier()
        return supplier() is first
    except Exception:
        return False  # a task will say why


def node(
    graph: Graph,
    app: str,
    processor: object,
    inputs: list[Port],
    stores: tuple[str | StoreBuilder, ...],
    name: str | None,
    operation: str,
    *,
    fixed_key: bool = False,
) -> Node:
    """The plan's node of a processor."""
    factory = _factory(processor, operation)
    names = [_connect(graph, asked, operation) for asked in stores]
    made = flow.add(
        graph,
        "process",
        inputs,
        name=name,
        stores=names,
        factory=graph.register(_Instances(graph, app, factory)),
        fixed_key=fixed_key,
        outputs=[one.name for one in outputs_of(processor)],
        timed=True,
    )
    for one in keyed.attributes(class_of(processor)):
        builder = one.store(made.name)
        declare(graph, builder, operation)
        made.parameters["stores"].append(builder.name)
    made.about = getattr(processor, "__name__", "")
    return made


def transformer(
    graph: Graph, app: str, supplier: object, stores: tuple[str | StoreBuilder, ...], operation: str
) -> dict[str, Any]:
    """How the plan makes a transformer, and the stores that it reaches."""
    instances = _Instances(graph, app, _factory(supplier, operation), "transform(key, value)")
    return {"factory": graph.register(instances), "stores": [_connect(graph, asked, operation) for asked in stores]}


def _connect(graph: Graph, asked: object, operation: str) -> str:
    if isinstance(asked, StoreBuilder):
        declare(graph, asked, operation, again=True)
        return asked.name
    if not isinstance(asked, str):
        raise fault(
            "bad_argument",
            f"not a store's name: {asked!r}",
            operation=operation,
            hint='write the names of stores, `process(MyProcessor, "totals")`',
        )
    return asked


def declare(graph: Graph, builder: StoreBuilder, operation: str, *, again: bool = False) -> None:
    """Adds a store to the plan. The same object may come twice, as in Kafka Streams; `again`: an equal one, too."""
    if not isinstance(builder, StoreBuilder):
        raise fault(
            "bad_argument",
            f"not a store: {builder!r}",
            operation=operation,
            hint='write `ads.store.key_value("totals")`',
        )
    spec = builder.to_plan()
    known = next((s for s in [*graph.stores, *graph.globals] if s["name"] == builder.name), None)
    if known is None:
        graph.stores.append(spec)
        graph.declared[builder.name] = builder
        if builder.kind is not None:
            graph.kinds[builder.name] = builder.kind
    elif (
        not (again and known == spec and graph.kinds.get(builder.name) is builder.kind)
        and graph.declared.get(builder.name) is not builder
    ):
        raise fault(
            "duplicate_name",
            f"two stores are called `{builder.name}`",
            operation=operation,
            hint="give one of them another name",
        )


def declare_global(
    graph: Graph,
    app: str,
    builder: StoreBuilder,
    processor: object,
    source: dict[str, Any],
    name: str | None,
    operation: str,
) -> None:
    """Adds a store that every worker has whole."""
    factory = _factory(processor, operation)
    declare(graph, builder, operation)
    spec = graph.stores.pop()
    del graph.declared[builder.name]
    kept = {
        "node": name or f"{builder.name}-keeper",
        "factory": graph.register(_Instances(graph, app, factory)),
        "store": spec,
    }
    graph.globals.append({**source, "name": builder.name, "queryable": True, "kept": kept})


def global_spec(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A global table or store, as stores are declared."""
    kept = entry.get("kept")
    return dict(kept["store"]) if kept else {"name": entry["name"], "kind": "key_value"}
