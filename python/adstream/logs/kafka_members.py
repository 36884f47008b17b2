"""Who is in a group and which partitions of the lease topic each member has, asked from the group's coordinator.

Only standbys want to know (`Leases.members`), so nothing here begins before somebody asks. Who is there does not change without
a new generation, which this member is told of. So it asks until it has heard an answer once in each generation, and no more:
before this member has joined, every second. A group that is being rebalanced answers with members whose assignments are half
gone: only one at rest counts, and the last that did stays true until then.

Not with a client that stays: the admin client's calls to a coordinator, asked while the broker is away, time out for ever, or
abort the process (`KafkaLog._asker`; an earlier form of this, which asked every three seconds, did that in a round of chaos).
Each question goes to a new client that has reached the cluster just now.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from confluent_kafka import ConsumerGroupState, KafkaException

from adstream.interfaces import Membership
from adstream.logs.kafka_client import logger

AT_REST = (ConsumerGroupState.STABLE, ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)
"""The last two: nobody is there, or never was."""
EVERY_S = 1.0
TIMEOUT_S = 5.0
CLOSE_S = 1.0
"""A question that nobody answers is left to itself."""


class KafkaMembers:
    """Asks until it is closed.

    Args:
        admin: a new client, connected. Raises KafkaException.
        membership: this member's id, and what changes with each generation; an empty id while it has not joined.
    """

    def __init__(
        self, admin: Callable[[], Any], group: str, topic: str, membership: Callable[[], tuple[str, object]]
    ) -> None:
        self._admin, self._group, self._topic, self._membership = admin, group, topic, membership
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
        heard: tuple[str, object] | None = None
        while not self._closing:
            self._wake.clear()
            now = self._membership()
            if not now[0] or now != heard:
                try:
                    heard = now if self._hear(now[0]) else None
                except (KafkaException, FutureTimeoutError, RuntimeError) as problem:
                    logger.debug("members of %s: %s", self._group, problem)
            self._wake.wait(EVERY_S)

    def _hear(self, me: str) -> bool:
        admin = self._admin()  # whose end would leave the future open
        future = admin.describe_consumer_groups([self._group], request_timeout=TIMEOUT_S)[self._group]
        found = future.result(TIMEOUT_S)
        tasks = {member.member_id: self._tasks(member) for member in found.members}
        if found.state not in AT_REST or (me and me not in tasks):
            return False
        heard = Membership(me, tasks)
        if heard != self.last:
            self.last = heard
        return True

    def _tasks(self, member: Any) -> tuple[int, ...]:
        parts = member.assignment.topic_partitions if member.assignment is not None else []
        return tuple(sorted(part.partition for part in parts if part.topic == self._topic))
