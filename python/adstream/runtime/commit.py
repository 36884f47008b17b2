"""The commit: what a worker writes at once, and in which order.

    step         what is done before the next                       a crash here leaves
    ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    close        every running task ends its generation n           nothing; n is read and computed again
    begin        a transaction is opened                            nothing
    produce      outputs, frames, dead letters, changelog, meta     an open transaction, which the next owner settles
    offsets      input positions, fenced by the lease               the same
    commit       the log decides                                    all or nothing
    committed    the worker has not heard of it yet                 all; the next owner goes on behind it
    settled      tasks drop their undo logs                         all

The worker thread does `close` and `settled`; what lies between runs beside it (`beside.py`), so that generation n + 1 is
processed while n commits. One commit is under way at a time: no task ever has more than two open generations.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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
