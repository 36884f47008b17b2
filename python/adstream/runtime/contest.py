"""Two living processes with one slot: each opens the transactional id anew, which fences the other, for ever.

    fatal commit     first, second    third     fourth    ...
    steps aside      not at all       1 s       2 s       ... 60 s

Who steps aside gives its tasks up, too; while one is away the other commits, and longer each time, so the application
goes on, at half its strength, until somebody gives one of them a slot of its own. Fatal commits alone do not say that
there is a rival: an outage of the broker makes some. So the first ones change nothing, and after some minutes without
one all are forgotten. (That time must be longer than two pauses: both sides take turns.)
"""

from __future__ import annotations

FREE = 2
PAUSE_FIRST_MS, PAUSE_MAX_MS = 1_000, 60_000
FORGET_MS = 300_000


class Contest:
    """Counts the fatal commits of one worker."""

    def __init__(self) -> None:
        self.fatal = 0
        """Since they were last forgotten."""
        self._last_ms = 0

    def pause_ms(self, now_ms: int) -> int:
        """A commit was fatal: for how long the worker steps aside."""
        if now_ms - self._last_ms > FORGET_MS:
            self.fatal = 0
        self.fatal, self._last_ms = self.fatal + 1, now_ms
        return min(PAUSE_FIRST_MS << min(self.fatal - FREE - 1, 20), PAUSE_MAX_MS) if self.fatal > FREE else 0
