"""Where a worker's CPU goes: calls of its parts, timed from outside by the CPU clock of the thread they run in.

CPU time, not wall: it says the same on a machine that others use, too. What a timed call spends in another timed call
counts for the inner one only. What threads of librdkafka spend is read from the kernel, by the thread's name.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adstream.logs.kafka_reader import FetchReader, NativeReader
from adstream.logs.kafka_writer import KafkaWriter
from adstream.runtime.task import StreamTask
from adstream.runtime.worker import Worker
from adstream.targets.delivery import SinkRunner

_TICK = os.sysconf("SC_CLK_TCK")


class Stages:
    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}
        """Name -> [CPU seconds, calls]."""
        self._inner = threading.local()

    def time(self, owner: Any, method: str, name: str | Callable[..., str]) -> None:
        whole = getattr(owner, method)

        @functools.wraps(whole)
        def timed(*args: Any, **named: Any) -> Any:
            began = time.thread_time()
            outer = getattr(self._inner, "spent", 0.0)
            self._inner.spent = 0.0
            try:
                return whole(*args, **named)
            finally:
                took = time.thread_time() - began
                key = name if isinstance(name, str) else name(*args)
                entry = self.spent.setdefault(key, [0.0, 0])
                entry[0] += took - self._inner.spent
                entry[1] += 1
                self._inner.spent = outer + took

        setattr(owner, method, timed)

    def watch(self) -> None:
        """Everything that a worker on Kafka does."""

        def read(reader: Any, topic: str, *rest: Any) -> str:
            kind = topic.rpartition("-")[2]
            return f"read {kind if kind in ('repartition', 'sink', 'changelog') else 'input'}"

        def sub(task: StreamTask, *rest: Any) -> str:
            return f"sub-topology {task.spec.subtopology}"

        self.time(FetchReader, "read", read)
        self.time(FetchReader, "wait", "read: waiting")
        self.time(NativeReader, "read", read)
        self.time(StreamTask, "fill", "fill: the loop around reading")
        self.time(StreamTask, "process", lambda *a: f"process {sub(*a)}")
        self.time(StreamTask, "close", lambda *a: f"close {sub(*a)}")
        self.time(StreamTask, "committed", lambda *a: f"committed {sub(*a)}")
        self.time(SinkRunner, "step", "sinks: step (add rows, drain to Python)")
        self.time(KafkaWriter, "_produce", "produce")
        self.time(KafkaWriter, "commit", "transaction calls")
        for part in ("_settle", "_process", "_commit", "_turn"):
            self.time(Worker, part, f"worker loop: {part}")

    def threads(self) -> dict[str, float]:
        """CPU seconds of every living thread so far, by name."""
        found: dict[str, float] = {}
        for task in Path("/proc/self/task").iterdir():
            try:
                text = (task / "stat").read_text()
            except OSError:
                continue  # it has ended meanwhile
            name = text[text.index("(") + 1 : text.rindex(")")]
            fields = text[text.rindex(")") + 2 :].split()
            found[name] = found.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / _TICK
        return found
