"""The commit: what a worker writes at once, in order, and what runs it beside the worker.

    step         what is done before the next                       a crash here leaves
    ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    close        every running task ends its generation n           nothing; n is read and computed again
    begin        a transaction is opened                            nothing
    produce      outputs, frames, dead letters, changelog, meta     an open transaction, which the next owner settles
    offsets      input positions, fenced by the lease               the same
    commit       the log decides                                    all or nothing
    committed    the worker has not heard of it yet                 all; the next owner goes on behind it
    settled      tasks drop their undo logs                         all

The worker thread does `close` and `settled`; what lies between runs on a `Committer`, so that generation n + 1 is
processed while n commits. One commit is under way at a time: no task ever has more than two open generations.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from adstream.errors import RecordTooLargeError
from adstream.interfaces import Outcome, TopicPartition, Writer

if TYPE_CHECKING:
    from adstream._core import Output

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Commit:
    """One generation of every task in it."""

    outputs: Sequence[Output]
    offsets: Mapping[TopicPartition, int]
    group: str
    fence: object


@dataclass(frozen=True, slots=True)
class Result:
    outcome: Outcome
    error: BaseException | None = field(default=None, compare=False)
    refused: bool = False
    """Aborted, because the lease was gone: no word about what was to be written."""


def write(writer: Writer, commit: Commit, step: Callable[[str], None]) -> Result:
    """The steps `begin` to `committed`. Whatever is raised leaves the outcome unknown, which is as good as fatal:
    the writer must go, and the log will say what became of it."""
    try:
        outcome = writer.commit(commit.outputs, commit.offsets, commit.group, commit.fence, step)
        return Result(outcome, refused=outcome is Outcome.ABORTED and writer.refused)
    except RecordTooLargeError as error:
        # Aborted, and it will be again: the worker finds out whose record it is and sets that task aside.
        log.warning("commit aborted: %s", error)
        return Result(Outcome.ABORTED, error)
    except Exception as error:
        log.warning("commit failed with an unknown outcome: %s", error, exc_info=error)
        return Result(Outcome.FATAL, error)


class Committer(Protocol):
    """Runs one piece of work at a time beside the worker."""

    @property
    def busy(self) -> bool:
        """Something was submitted and its result not taken."""

    def submit(self, work: Callable[[], Result]) -> None: ...

    def take(self, wait_s: float = 0.0) -> Result | None:
        """The result, once, when it is there; waits for it at most `wait_s`. Raises what the work raised."""

    def close(self) -> None: ...


class ThreadCommitter:
    """One background thread."""

    def __init__(self, name: str = "adstream-commit") -> None:
        self._work: queue.SimpleQueue[Callable[[], Result] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
        self._busy = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self._busy

    def submit(self, work: Callable[[], Result]) -> None:
        assert not self._busy, "one commit at a time"
        self._busy = True
        self._work.put(work)

    def take(self, wait_s: float = 0.0) -> Result | None:
        if not self._busy:
            return None
        try:
            result = self._results.get(wait_s > 0, wait_s or None)
        except queue.Empty:
            return None
        self._busy = False
        if isinstance(result, BaseException):
            raise result
        return result

    def close(self) -> None:
        """Lets work under way end, unheard."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                self._results.put(work())
            except BaseException as error:
                self._results.put(error)


class InlineCommitter:
    """For the simulator and the test driver: the work runs in the worker's thread, after `lag` fruitless `take`s.
    With a lag the next generation is processed meanwhile, as with a thread, and always in the same order."""

    def __init__(self, lag: int = 0) -> None:
        self._lag = lag
        self._left = 0
        self._work: Callable[[], Result] | None = None

    @property
    def busy(self) -> bool:
        return self._work is not None

    def submit(self, work: Callable[[], Result]) -> None:
        assert self._work is None, "one commit at a time"
        self._work, self._left = work, self._lag

    def take(self, wait_s: float = 0.0) -> Result | None:
        if self._work is None:
            return None
        if self._left > 0 and wait_s == 0:
            self._left -= 1
            return None
        work, self._work = self._work, None
        return work()

    def close(self) -> None:
        self._work = None
