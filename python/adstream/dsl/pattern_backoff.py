"""`Matches.at_most`: alerts that do not ring all day.

The times of what was told lie in a window store, which forgets them by itself; a match passes if fewer than so many lie in the
stretch that ends with it. What is held back leaves no trace in the store, so it does not prolong the silence.
"""

from __future__ import annotations

from typing import Any

from adstream._core import ProcessorRecord
from adstream.dsl.processors import Context, FixedKeyProcessor, output


class AtMost(FixedKeyProcessor[Any]):
    """Lets so many records of a key pass in any `per_ms` of event time; the others go to `held_back`."""

    held_back = output()

    def __init__(self, store: str, records: int, per_ms: int) -> None:
        self._store, self._records, self._per_ms = store, records, per_ms

    def process(self, record: ProcessorRecord, ctx: Context) -> None:
        """Passes it on, or holds it back."""
        told = ctx.get_state_store(self._store)
        at = record.timestamp
        if sum(1 for _ in told.fetch(record.key, max(0, at - self._per_ms + 1), at)) >= self._records:
            ctx.forward(record, self.held_back)
        else:
            told.put(record.key, 1, at)
            ctx.forward(record)
