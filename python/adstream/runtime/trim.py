"""Lets a task's changelog forget what no restore needs.

The core writes clean state again, a little with each commit, and knows by generation what is still needed
(`Task.needed_from`); the log deletes by offset. Now and then a *mark* ties the two together: everything that generation
g and later ones write lies at or behind the log's end when g was still open. Once generation g and what follows
suffice for a restore, the log may forget all that lies before that mark.
"""

from __future__ import annotations

from collections import deque


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
