"""Lets internal topics forget what nobody needs any more: a task's changelog, and the rows of a sink.

A changelog forgets what no restore needs.

The core writes clean state again, a little with each commit, and knows by generation what is still needed
(`Task.needed_from`); the log deletes by offset. Now and then a *mark* ties the two together: everything that generation
g and later ones write lies at or behind the log's end when g was still open. Once generation g and what follows
suffice for a restore, the log may forget all that lies before that mark.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from adstream.interfaces import TopicPartition


class ChangelogTrim:
    """The marks of one task's changelog partition, for one life of its core: generations begin again with the next."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, int]] = deque()

    def mark(self, generation: int, end: int) -> None:
        """`end`: the end of the log while `generation` had written nothing."""
        self._marks.append((generation, end))

    def forgettable(self, needed_from: int | None) -> int | None:
        """The offset before which nothing is needed; None: no more than before."""
        before = None
        while needed_from is not None and self._marks and self._marks[0][0] <= needed_from:
            _, before = self._marks.popleft()
        return before


class SinkTrim:
    """Rows that a sink stored are kept for a while: a target may lose its last writes (a Redis that fails over to a
    replica, a database set back a little), and then asks for them again by its position.

    Args:
        retain_ms: how long. Counted from when they were seen to be stored, so a new owner counts anew.
    """

    def __init__(self, retain_ms: int) -> None:
        self._retain_ms = retain_ms
        self._seen: dict[TopicPartition, deque[tuple[int, int]]] = {}

    def forgettable(self, stored: Mapping[TopicPartition, int], now_ms: int) -> dict[TopicPartition, int]:
        """Positions before which rows may go; `stored`: what the targets have now. Partitions that are not in it any
        more are forgotten."""
        self._seen = {tp: self._seen.get(tp, deque()) for tp in stored}
        before: dict[TopicPartition, int] = {}
        for tp, position in stored.items():
            seen = self._seen[tp]
            while seen and seen[-1][1] > position:
                seen.pop()  # the target was set back
            seen.append((now_ms, position))
            while seen[0][0] <= now_ms - self._retain_ms:
                before[tp] = seen.popleft()[1]
                if not seen:
                    break
        return before
