"""A processor's context for unit tests of one processor, without a topology: what it is told is set by the test, what the
processor does is kept for the test to look at.

    ctx = MockProcessorContext(ads.store.key_value("sums"))
    meter = Meter()
    meter.init(ctx)
    meter.process(ads.ProcessorRecord("a", 5, 1_000), ctx)
    assert ctx.get_state_store("sums").get("a") == 5
    [punctuator] = ctx.scheduled_punctuators()
    punctuator.punctuate(10_000)
    assert [captured.record.value for captured in ctx.forwarded()] == [5]

Its stores are the real ones, in memory, without a changelog. Nothing happens by itself: no clock goes on, nothing is punctuated,
nothing is forwarded to anybody. For processors with what is around them there is the `TopologyTestDriver`.

In Kafka Streams: `MockProcessorContext` (`org.apache.kafka.streams.processor.api`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from adstream._core import ProcessorHandle, ProcessorRecord
from adstream.dsl import keyed, processors
from adstream.dsl.durations import Duration
from adstream.dsl.graph import Graph
from adstream.dsl.processors import Cancellable, Clock, Context, Output, RecordMetadata
from adstream.dsl.store import StoreBuilder, Time, moment, opened


class CapturedForward(NamedTuple):
    """A record that was forwarded. In Kafka Streams: `CapturedForward`."""

    record: ProcessorRecord
    child_name: str | None
    """None: to all."""


@dataclass(slots=True)
class CapturedPunctuator:
    """What was scheduled. In Kafka Streams: `CapturedPunctuator`."""

    interval_ms: int
    type: Clock
    punctuate: Callable[[int], object]
    """To be called by the test, with a time in ms."""
    start_time: int | None = None
    """ms; None: none was said."""
    cancelled: bool = False


class _Captured(Cancellable):
    def __init__(self, captured: CapturedPunctuator) -> None:
        self._captured = captured

    def cancel(self) -> None:
        self._captured.cancelled = True


class MockProcessorContext(Context):
    """See the module.

    Args:
        stores: what the processor is connected to.
        node: the processor's name, which begins the names of its keyed state.
        application_id, task_id, app_configs: what it is told.

    Raises:
        TopologyError: two stores have one name.
    """

    def __init__(
        self,
        *stores: StoreBuilder,
        node: str = "processor",
        application_id: str = "mock",
        task_id: str = "0_0",
        app_configs: Mapping[str, Any] | None = None,
    ) -> None:
        graph = Graph(application_id, settings=dict(app_configs or {}))
        for builder in stores:
            processors.declare(graph, builder, "MockProcessorContext")
        handle = ProcessorHandle.detached(node, json.dumps(graph.stores))
        super().__init__(handle, graph, application_id)
        self._handles = dict.fromkeys((builder.name for builder in stores), handle)
        self._task_id = task_id
        self._metadata: RecordMetadata | None = None
        self._times: dict[str, int] = {}
        self._forwarded: list[CapturedForward] = []
        self._punctuators: list[CapturedPunctuator] = []
        self._committed = False
        self._counted: dict[str, int] = {}

    # --- What the processor is told -----------------------------------------------------------------------------------

    def set_record_metadata(self, topic: str, partition: int, offset: int) -> None:
        """Where the next records come from; by default from nowhere (None), as in a punctuator."""
        self._metadata = RecordMetadata(topic, partition, offset)

    def set_current_stream_time_ms(self, time: int) -> None:
        self._times["stream"] = time

    def set_current_system_time_ms(self, time: int) -> None:
        self._times["system"] = time

    def record_metadata(self) -> RecordMetadata | None:
        return self._metadata

    @property
    def task_id(self) -> str:
        return self._task_id

    @property
    def current_stream_time_ms(self) -> int:
        return self._time("stream")

    @property
    def current_system_time_ms(self) -> int:
        return self._time("system")

    def _time(self, clock: str) -> int:
        if clock not in self._times:
            raise RuntimeError(f"there is no {clock} time: the test says it, `set_current_{clock}_time_ms(…)`")
        return self._times[clock]

    def _open(self, name: str) -> Any:
        if name not in self._handles:
            known = ", ".join(self._handles) or "none"
            raise KeyError(f"the processor is not connected to a store `{name}`: there are {known}")
        spec = next(spec for spec in self._graph.stores if spec["name"] == name)
        return opened(spec, processors.Connected(self._handles[name], name))

    # --- What it does -------------------------------------------------------------------------------------------------

    def forward(self, record: ProcessorRecord, child: str | Output | None = None) -> None:
        if not isinstance(record, ProcessorRecord):
            raise TypeError(f"`forward` takes a ProcessorRecord, not a {type(record).__name__}")
        self._forwarded.append(CapturedForward(record, child.name if isinstance(child, Output) else child))

    def forwarded(self, child: str | None = None) -> list[CapturedForward]:
        """What was forwarded so far; with `child`, what that one got: what was forwarded to it, and to all."""
        return [one for one in self._forwarded if child is None or one.child_name in (None, child)]

    def reset_forwards(self) -> None:
        """Forgets what was forwarded."""
        self._forwarded.clear()

    def schedule(
        self, interval: Duration, type: Clock, callback: Callable[[int], object], *, start_time: Time | None = None
    ) -> Cancellable:
        ms = processors.checked_schedule(interval, type, callback)
        captured = CapturedPunctuator(ms, type, callback, None if start_time is None else moment(start_time))
        self._punctuators.append(captured)
        return _Captured(captured)

    def scheduled_punctuators(self) -> list[CapturedPunctuator]:
        """What was scheduled so far, what was cancelled included."""
        return list(self._punctuators)

    def commit(self) -> None:
        self._committed = True

    def committed(self) -> bool:
        """Whether a commit was asked for."""
        return self._committed

    def reset_commit(self) -> None:
        """Forgets that a commit was asked for."""
        self._committed = False

    def count(self, name: str, by: int = 1) -> None:
        self._counted[name] = self._counted.get(name, 0) + processors.checked_count(name, by)

    def counted(self) -> dict[str, int]:
        """What was counted so far, by name."""
        return dict(self._counted)

    # --- Convenience --------------------------------------------------------------------------------------------------

    def begin(self, processor: Callable[[], Any]) -> Any:
        """An instance, begun with this context; its state by key (`ads.keyed`) works as in a task, in stores made for it.

        Args:
            processor: a class, or a function without arguments, as `KStream.process` takes it.
        """
        instance = processor()
        found = list(keyed.attributes(type(instance)))
        for one in found:
            builder = one.store(self._handle.node)
            processors.declare(self._graph, builder, "MockProcessorContext")
            plan = json.dumps([builder.to_plan()])
            self._handles[builder.name] = ProcessorHandle.detached(self._handle.node, plan)
        begun = keyed.Scoped(instance, found, self._handle.node) if found else instance
        begun.init(self)
        return begun
