"""What a worker is given: the makers of tasks, the runners of sinks, and the places where tests put their hands
on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from adstream._core import Globals
from adstream.runtime.beside import Beside, ThreadBeside
from adstream.runtime.task import Core


class Tasks(Protocol):
    """What is asked of `adstream._core.Plan`."""

    def globals(self) -> Globals: ...
    def task(
        self,
        subtopology: int,
        partition: int,
        partitions: Mapping[str, int],
        options: str = ...,
        globals: Globals | None = ...,
        find_topic: Callable[[str], int | None] | None = ...,
    ) -> Core: ...


class Sink(Protocol):
    """What is asked of `adstream.targets.delivery.SinkRunner`; nothing of it may wait."""

    wake: Callable[[], None]
    """Set by the worker; called from any thread when there is something to do again."""
    last_error: str | None
    stopped: bool
    blocked: bool

    @property
    def idle(self) -> bool: ...
    @property
    def stored(self) -> Mapping[int, int]: ...
    def assign(self, partitions: Iterable[int]) -> None: ...
    def release(self, partitions: Iterable[int]) -> None: ...
    def flush(self) -> None: ...
    def stored_by_all(self, partitions: int) -> Mapping[int, int] | None: ...
    def step(self, now_ms: int) -> int: ...


def no_step(name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Hooks:
    step: Callable[[str], None] = no_step
    """Called at each step of a commit (`commit.py` lists them), in whichever thread takes it."""
    beside: Callable[[str], Beside[Any]] = ThreadBeside
    """Makes what runs something beside the worker; is given a name for it."""
    sleep: Callable[[float], None] = time.sleep
    """Only `Worker.run` sleeps."""
