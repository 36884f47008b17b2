"""Waiting for what other processes do."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], what: str, within_s: float = 90) -> None:
    """Asks until it holds; fails, and says what did not come, after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.1)
