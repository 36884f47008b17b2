"""Windows of event time, as small frozen values.

    tumbling("5m", grace="10s")     [start, start + 5m), aligned to the epoch; each record is in exactly one

A record is *late* for its window, and goes to `.late`, when `window end + grace <= clock` with the clock of
its lane, the record itself included. Rows of a window are kept for `retention` after its start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adstream.dsl.durations import Duration, duration_ms, format_ms
from adstream.dsl.faults import fault


@dataclass(frozen=True, slots=True, repr=False)
class Tumbling:
    """Windows `[start, start + size)` side by side, aligned to the epoch."""

    size_ms: int
    grace_ms: int
    retention_ms: int

    def __repr__(self) -> str:
        size, grace, retention = map(format_ms, (self.size_ms, self.grace_ms, self.retention_ms))
        return f'tumbling("{size}", grace="{grace}", retention="{retention}")'

    def describe(self) -> str:
        """The interval with its ends, for `describe()`."""
        size, grace, retention = map(format_ms, (self.size_ms, self.grace_ms, self.retention_ms))
        return f"tumbling [start, start + {size}), grace {grace}, retention {retention}"

    def to_plan(self) -> dict[str, Any]:
        return {
            "kind": "tumbling",
            "size_ms": self.size_ms,
            "grace_ms": self.grace_ms,
            "retention_ms": self.retention_ms,
        }


def tumbling(size: Duration, *, grace: Duration | None = None, retention: Duration | None = None) -> Tumbling:
    """Windows `[start, start + size)`, aligned to the epoch.

    Args:
        size: the length of a window.
        grace: how long after a window's end its records still count. Must be said; `"0s"` is an answer.
        retention: how long a window's rows are kept, from its start; at least `size + grace`, which is the
            default.

    Raises:
        TopologyError: `grace_missing`, `bad_duration`, `retention_too_short`.

    In Kafka Streams: `TimeWindows.ofSizeAndGrace(size, grace)`, with `Materialized.withRetention`.
    """
    if grace is None:
        raise fault(
            "grace_missing",
            "how long to wait for late records must be said",
            operation="tumbling",
            hint='write `grace="10s"`, or `grace="0s"` if nothing may come late',
        )
    size_ms = duration_ms(size, "size", operation="tumbling", zero=False)
    grace_ms = duration_ms(grace, "grace", operation="tumbling")
    needed_ms = size_ms + grace_ms
    retention_ms = needed_ms if retention is None else duration_ms(retention, "retention", operation="tumbling")
    if retention_ms < needed_ms:
        raise fault(
            "retention_too_short",
            f"retention {format_ms(retention_ms)} is shorter than size + grace, {format_ms(needed_ms)}",
            operation="tumbling",
            hint=f'write `retention="{format_ms(needed_ms)}"` or more',
        )
    return Tumbling(size_ms, grace_ms, retention_ms)
