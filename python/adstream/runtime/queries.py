"""Stores as they are asked from outside: of several tasks, and only what is committed.

A key of a partitioned store is in one task; a range is asked of one task after the other, so that entries are in order
within a partition only, as in Kafka Streams' interactive queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from adstream.dsl import store
from adstream.dsl.processors import global_spec
from adstream.dsl.store import Entry, Span


class Asked(Protocol):
    """`adstream._core.Task`, as far as queries go."""

    def query_get(self, store: str, key: Any, window: tuple[int, int] | None) -> tuple[Any, int] | None: ...
    def query_version(self, store: str, key: Any, at: int | None) -> tuple[Any, int, int | None] | None: ...
    def query_scan(self, store: str, span: Span) -> tuple[list[Entry], bytes | None] | None: ...
    def query_len(self, store: str) -> int | None: ...


class Merged:
    """One store in several tasks (`store.Reads`). `tasks` is asked anew for each read: tasks come and go."""

    def __init__(self, name: str, tasks: Callable[[], Sequence[Asked]]) -> None:
        self._name, self._tasks = name, tasks

    def get(self, key: Any) -> tuple[Any, int] | None:
        return self._first(key, None)

    def get_window(self, key: Any, start: int, end: int) -> tuple[Any, int] | None:
        return self._first(key, (start, end))

    def get_version(self, key: Any, at: int | None) -> tuple[Any, int, int | None] | None:
        found = (task.query_version(self._name, key, at) for task in self._tasks())
        return next((version for version in found if version is not None), None)

    def _first(self, key: Any, window: tuple[int, int] | None) -> tuple[Any, int] | None:
        for task in self._tasks():
            found = task.query_get(self._name, key, window)
            if found is not None:
                return found
        return None

    def scan(self, span: Span) -> tuple[list[Entry], bytes | None]:
        """The mark of a page is the task's number before the task's own mark."""
        tasks = self._tasks()
        mark = span[6]
        number, after = (0, None) if mark is None else (int.from_bytes(mark[:4], "big"), mark[4:] or None)
        while number < len(tasks):
            entries, last = tasks[number].query_scan(self._name, (*span[:6], after, span[7])) or ([], None)
            if last is not None:
                return entries, number.to_bytes(4, "big") + last
            number, after = number + 1, None
            if entries:
                return entries, number.to_bytes(4, "big") if number < len(tasks) else None
        return [], None

    def len(self) -> int:
        return sum(task.query_len(self._name) or 0 for task in self._tasks())


def specs_of(plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The stores of a plan, by name."""
    stores: list[dict[str, Any]] = [*plan.get("stores", ()), *map(global_spec, plan.get("globals", ()))]
    return {spec["name"]: spec for spec in stores}


def opened(specs: Mapping[str, dict[str, Any]], name: str, tasks: Callable[[], Sequence[Asked]]) -> Any:
    """A store to be read: `get`, `range`, `fetch` … by its kind. Raises KeyError."""
    if name not in specs:
        raise KeyError(f"there is no store `{name}`; there are {', '.join(specs) or 'none'}")
    return store.opened_read_only(specs[name], Merged(name, tasks))
