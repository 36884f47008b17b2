"""The states of a worker, by the names of Kafka Streams, and who is told of them.

    CREATED ──log answers──> REBALANCING <──tasks come, go, are restored──> RUNNING
                                  │                                            │
                                  ├──stop(), or end of input──> PENDING_SHUTDOWN ──> NOT_RUNNING
                                  └──a setting is wrong, a task's error stops it──> PENDING_ERROR ──> ERROR

A worker that is paused keeps its state: it is a member as any other, and does not process. One whose log is away keeps it,
too. RUNNING says that every task that it has is at work or set aside.

Listeners are called in the worker's thread. What they raise is logged, and changes nothing.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence

from adstream.interfaces import Listeners, TopicPartition

log = logging.getLogger(__name__)


class WorkerState(enum.Enum):
    CREATED = "created"
    REBALANCING = "rebalancing"
    RUNNING = "running"
    PENDING_SHUTDOWN = "pending_shutdown"
    NOT_RUNNING = "not_running"
    PENDING_ERROR = "pending_error"
    ERROR = "error"

    @property
    def over(self) -> bool:
        return self in (WorkerState.NOT_RUNNING, WorkerState.ERROR)


class Lifecycle:
    """The state, and its listeners."""

    def __init__(self, listeners: Listeners) -> None:
        self.state = WorkerState.CREATED
        self._listeners = listeners

    def move(self, state: WorkerState) -> None:
        """To be in that state already is nothing."""
        if state is self.state:
            return
        old, self.state = self.state, state
        log.info("%s -> %s", old.value, state.value)
        self._tell(self._listeners.state, state.value, old.value)

    def assigned(self, partitions: Sequence[TopicPartition]) -> None:
        self._tell(self._listeners.assigned, list(partitions))

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self._tell(self._listeners.revoked, list(partitions))

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self._tell(self._listeners.lost, list(partitions))

    @staticmethod
    def _tell(listeners: Sequence[Callable[..., None]], *what: object) -> None:
        for listener in listeners:
            try:
                listener(*what)
            except Exception:
                log.exception("a listener failed")
