"""Writes made-up traffic to a log: records lie where their producer put them, a transaction a chunk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from adstream._core import RawBatch
from adstream.errors import FatalError
from adstream.interfaces import Log, Outcome

ATTEMPTS = 5
"""Aborted transactions are tried again so often."""

Placed = tuple[str, int, bytes | None, bytes, int]
"""Topic, partition, key, value, time in ms."""


class Appender:
    """Keeps the order of records on each partition."""

    def __init__(self, log: Log, slot: str) -> None:
        self._writer, self._slot = log.writer(slot), slot

    def append(self, records: Iterable[Placed]) -> None:
        """All or none of them. Raises FatalError."""
        batches: dict[tuple[str, int], list[Any]] = {}
        for topic, partition, key, value, at in records:
            batch = batches.setdefault((topic, partition), [])
            batch.append((len(batch), at, key, value, []))
        outputs = [(topic, partition, RawBatch(batch)) for (topic, partition), batch in sorted(batches.items())]
        outcome = Outcome.ABORTED
        for _ in range(ATTEMPTS):
            outcome = self._writer.commit(outputs, {}, self._slot, None)
            if outcome is not Outcome.ABORTED:
                break
        if outcome is not Outcome.COMMITTED:
            raise FatalError(f"the records could not be written ({outcome.value})")

    def close(self) -> None:
        self._writer.close()
