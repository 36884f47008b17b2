"""Who is in a group and which partitions of the lease topic each member has, asked from the coordinator now and then.

Only standbys want to know (`Leases.members`), so nothing here begins before somebody asks; then a thread of its own asks every
few seconds, and soon after each rebalance of this member. A group that is being rebalanced answers with members whose
assignments are half gone: only a stable one counts, and the last that did stays true until then.

An admin client whose coordinator has moved may leave a future open for ever: the wait is bounded, and the next question goes to
a new client.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient

from adstream.interfaces import Membership
from adstream.logs.kafka_client import logger, quiet

AT_REST = (ConsumerGroupState.STABLE, ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)
"""The last two: nobody is there, or never was."""
EVERY_S = 3.0
TIMEOUT_S = 5.0
CLOSE_S = 1.0
"""A question that nobody answers is left to itself."""


class KafkaMembers:
    """Asks until it is closed.

    Args:
        me: this member's id; empty while it has not joined.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        group: str,
        topic: str,
        me: Callable[[], str],
        *,
        make: Callable[[dict[str, Any]], Any] = lambda settings: AdminClient(quiet(settings)),
        every_s: float = EVERY_S,
    ) -> None:
        self._settings, self._group, self._topic, self._me = settings, group, topic, me
        self._make, self._every_s = make, every_s
        self._wake, self._closing = threading.Event(), False
        self.last: Membership | None = None
        """As last heard; replaced whole."""
        self._thread = threading.Thread(target=self._run, name="adstream-members", daemon=True)
        self._thread.start()

    def again(self) -> None:
        """Something has changed."""
        self._wake.set()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        admin = None
        while not self._closing:
            self._wake.clear()
            try:
                admin = admin or self._make(self._settings)
                self._hear(admin)
            except (KafkaException, FutureTimeoutError, RuntimeError) as problem:
                logger.debug("members of %s: %s", self._group, problem)
                admin = None
            self._wake.wait(self._every_s)

    def _hear(self, admin: Any) -> None:
        future = admin.describe_consumer_groups([self._group], request_timeout=TIMEOUT_S)[self._group]
        found = future.result(TIMEOUT_S)
        me = self._me()
        tasks = {member.member_id: self._tasks(member) for member in found.members}
        if found.state not in AT_REST or (me and me not in tasks):
            return
        heard = Membership(me, tasks)
        if heard != self.last:
            self.last = heard

    def _tasks(self, member: Any) -> tuple[int, ...]:
        parts = member.assignment.topic_partitions if member.assignment is not None else []
        return tuple(sorted(part.partition for part in parts if part.topic == self._topic))
