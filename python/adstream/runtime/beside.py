"""What runs beside the worker's thread, one piece of work at a time: the commit; what is asked of the log for standbys.

The worker never waits for it: it submits, goes on, and takes the result when it is there.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


def nothing() -> None: ...


class Beside(Protocol[T]):
    @property
    def busy(self) -> bool:
        """Something was submitted and its result not taken."""

    def submit(self, work: Callable[[], T], then: Callable[[], None] = ...) -> None:
        """`then` is called, in whatever thread, when the result is there."""

    def take(self, wait_s: float = 0.0) -> T | None:
        """The result, once, when it is there; waits for it at most `wait_s`. Raises what the work raised."""

    def close(self) -> None: ...


class ThreadBeside(Generic[T]):
    """One background thread."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], T], Callable[[], None]] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._busy = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self._busy

    def submit(self, work: Callable[[], T], then: Callable[[], None] = nothing) -> None:
        assert not self._busy, "one at a time"
        self._busy = True
        self._work.put((work, then))

    def take(self, wait_s: float = 0.0) -> T | None:
        if not self._busy:
            return None
        try:
            result, error = self._results.get(wait_s > 0, wait_s or None)
        except queue.Empty:
            return None
        self._busy = False
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Lets work under way end, unheard."""
        self._work.put(None)

    def _run(self) -> None:
        while (asked := self._work.get()) is not None:
            work, then = asked
            try:
                self._results.put((work(), None))
            except BaseException as error:
                self._results.put((None, error))
            then()


class InlineBeside(Generic[T]):
    """For the simulator and the test driver: the work runs in the worker's thread, after `lag` fruitless `take`s.
    With a lag the worker goes on meanwhile, as with a thread, and always in the same order."""

    def __init__(self, lag: int = 0) -> None:
        self._lag = lag
        self._left = 0
        self._work: Callable[[], T] | None = None

    @property
    def busy(self) -> bool:
        return self._work is not None

    def submit(self, work: Callable[[], T], then: Callable[[], None] = nothing) -> None:
        assert self._work is None, "one at a time"
        self._work, self._left = work, self._lag

    def take(self, wait_s: float = 0.0) -> T | None:
        if self._work is None:
            return None
        if self._left > 0 and wait_s == 0:
            self._left -= 1
            return None
        work, self._work = self._work, None
        return work()

    def close(self) -> None:
        self._work = None
