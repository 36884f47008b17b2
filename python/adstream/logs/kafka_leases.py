"""Leases: who owns which task, by a consumer group on a topic that carries no data.

    lease thread:  poll ... on_assign -> granted      worker thread:  poll() -> LeaseChange
                        ... on_revoke -> revoked  ---->               commits what is open, released(tasks)
                            (waits, bounded)      <----
                        ... on_lost   -> lost

Partition k of the topic is task k. The group is joined by this consumer alone, on a thread of its own,
cooperatively: tasks that do not move go on through a rebalance. Offsets of the input topics, to which nobody
subscribes, are committed with this consumer's metadata, so a worker whose session ended cannot commit
(UNKNOWN_MEMBER_ID).

Traps, all tried on a broker:
* A healthy member's generation is out of date for some milliseconds around a rebalance; reading the
  metadata, waiting 10 ms and reading it again cut ILLEGAL_GENERATION from 22 to 1-5 in 12 rebalances.
* The broker fences members, not partitions: a member that lost a task but stays in the group could still
  commit for it with fresh metadata. While a loss has not been picked up by `poll`, `fence` therefore keeps
  returning the metadata from before it.
* Metadata of a consumer that has joined nothing is accepted without any fencing, and a member that was
  thrown out has just that: `fence` raises before the first grant, and afterwards answers with the last
  membership there was, never with none.
* With confluent-kafka 2.16.1, `consumer_group_metadata()` hangs for ever while another thread is inside
  `poll()`: everything that touches the consumer happens on the lease thread; others get its last reading, or
  hand it a call.
* The thread that polls says nothing about the worker: `beat` does, and without it the member leaves the
  group.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from adstream.errors import ConfigError
from adstream.interfaces import LeaseChange, Leases, Membership
from adstream.logs import LogUnavailableError
from adstream.logs.kafka_client import logger, quiet
from adstream.logs.kafka_members import KafkaMembers

SESSION_MS = 6_000
HEARTBEAT_MS = 300
RELEASE_TIMEOUT_S = 5.0
WATCHDOG_S = 60.0
POLL_S = 0.02
SETTLE_S = 1.0
"""For so long after a rebalance a fence waits for a second, equal reading."""
CLOSE_TIMEOUT_S = 15.0
LOCKED_OUT = frozenset(
    {
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.GROUP_MAX_SIZE_REACHED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)
"""Until somebody acts; a worker that waits for its tasks says why."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A membership at one moment."""

    metadata: Any
    """What a transaction's offsets are fenced with."""
    member: str
    commit: Callable[[list[TopicPartition]], None] = field(repr=False, compare=False)
    """Commits offsets as that member, without a transaction."""


class KafkaLeases(Leases):
    def __init__(
        self,
        settings: Mapping[str, str],
        group: str,
        topic: str,
        *,
        session_ms: int = SESSION_MS,
        heartbeat_ms: int | None = None,
        release_timeout_s: float = RELEASE_TIMEOUT_S,
        watchdog_s: float = WATCHDOG_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        admin: Callable[[], Any] | None = None,
    ) -> None:
        self._topic, self._group = topic, group
        self._admin = admin
        self._members: KafkaMembers | None = None
        self._release_timeout_s = release_timeout_s
        self._watchdog_s = watchdog_s
        self._clock = clock
        self._sleep = sleep
        config: dict[str, Any] = {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "latest",
        }
        if settings.get("group.protocol") != "consumer":  # there the broker has these
            session_ms = int(settings.get("session.timeout.ms", session_ms))
            config |= {
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": session_ms,
                "heartbeat.interval.ms": heartbeat_ms or min(HEARTBEAT_MS, session_ms // 4),
                # Polling stops while a revocation waits for the worker.
                "max.poll.interval.ms": max(session_ms, int(release_timeout_s * 1000) * 4),
            }
        self._config = {**config, **settings}
        self._lock = threading.Condition()
        # Under the lock:
        self._changes: deque[LeaseChange] = deque()
        self._owned: set[int] = set()
        self._awaited: set[int] = set()
        self._before_loss: Fence | None = None
        self._last: Fence | None = None
        self._readings = 0
        self._calls: deque[Callable[[], None]] = deque()
        self._rebalanced = -SETTLE_S
        self._closing = False
        self._wrong: ConfigError | None = None
        """A setting with which no broker lets anybody in."""
        self._answered = False
        self._last_beat: float | None = None
        self._consumer: Consumer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._consumer = Consumer(quiet(self._config))
        self._subscribe(self._consumer)
        self._thread = threading.Thread(target=self._run, args=(self._consumer,), name="adstream-leases", daemon=True)
        self._thread.start()

    def poll(self) -> LeaseChange | None:
        with self._lock:
            if self._wrong is not None:
                raise self._wrong
            if not self._changes:
                return None
            change = self._changes.popleft()
            if not any(later.lost for later in self._changes):
                self._before_loss = None
            return change

    def released(self, tasks: Sequence[int]) -> None:
        with self._lock:
            self._awaited.difference_update(tasks)
            self._lock.notify_all()

    def beat(self) -> None:
        """The worker has made progress. Once it has said so, it must go on saying it."""
        with self._lock:
            self._last_beat = self._clock()

    def joined(self) -> bool:
        with self._lock:
            return self._answered

    def members(self) -> Membership | None:
        if self._members is None and self._admin is not None and not self._closing:
            self._members = KafkaMembers(self._admin, self._group, self._topic, self._membership)
        return None if self._members is None else self._members.last

    def _membership(self) -> tuple[str, object]:
        with self._lock:
            return ("", None) if self._last is None else (self._last.member, self._last)

    def fence(self) -> Fence:
        with self._lock:
            if self._clock() - self._rebalanced < SETTLE_S:
                self._wait_for_equal_readings()
            # A loss that came in between: what was read last may already be of the generation after it.
            fence = self._before_loss or self._last
            if fence is None:
                raise LogUnavailableError("no lease is held: there is nothing to be fenced with")
            return fence

    def _wait_for_equal_readings(self) -> None:
        while not self._closing and self._thread is not None and self._before_loss is None:
            before, at = self._last, self._readings
            if not self._lock.wait_for(lambda at=at: self._readings > at or self._closing, 10 * POLL_S):  # type: ignore[misc]
                return  # a rebalance is waiting for us
            if self._last == before:
                return

    def close(self) -> None:
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        if self._members is not None:
            self._members.close()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
            self._thread = None

    # The lease thread.

    def _run(self, consumer: Consumer) -> None:
        away, said = False, ""
        while not self._closing:
            with self._lock:
                beat = self._last_beat
            late = beat is not None and self._clock() - beat > self._watchdog_s
            try:
                if late and not away:
                    logger.warning(
                        "the worker has made no progress for %.0f s: its tasks are given up", self._watchdog_s
                    )
                    self._give_up()
                    # leaves the group now; waiting for its time-out would only take longer
                    consumer.unsubscribe()
                elif away and not late:
                    self._subscribe(consumer)
                away = late
                if away:
                    self._sleep(POLL_S)
                    consumer.poll(0)
                    continue
                message = consumer.poll(POLL_S)
                self._serve(consumer)
            except (KafkaException, RuntimeError) as problem:
                logger.warning("leases: %s", problem)
                self._sleep(POLL_S)
                continue
            if message is not None and (error := message.error()) is not None:
                said = self._not_let_in(error, said)
        try:
            consumer.close()
        except (KafkaException, RuntimeError) as problem:
            logger.info("leases: %s", problem)

    def _not_let_in(self, error: KafkaError, said: str) -> str:
        """What the group's coordinator answers somebody who wants to join. It is asked again, often: told once."""
        text = f"the group {self._group} does not let this worker in: {error.str()}"
        if error.code() == KafkaError.INVALID_SESSION_TIMEOUT:
            hint = "between `group.min.session.timeout.ms` and `group.max.session.timeout.ms` of the brokers"
            with self._lock:
                self._wrong = ConfigError(text, option="kafka.session.timeout.ms", hint=hint)
        elif error.code() in LOCKED_OUT and text != said:
            logger.warning("%s", text)
            return text
        logger.info("leases: %s", error)
        return said

    def _serve(self, consumer: Consumer) -> None:
        """Reads the membership and makes the calls that others have asked for."""
        metadata, member = consumer.consumer_group_metadata(), consumer.memberid() or ""
        with self._lock:
            # Thrown out: there is none now, and the one there was is what the broker will refuse.
            if self._before_loss is None and member and _generation(metadata) >= 0:
                self._last = Fence(metadata, member, self._commit)
            self._readings += 1
            self._lock.notify_all()
            calls, self._calls = self._calls, deque()
        for call in calls:
            call()

    def _commit(self, parts: list[TopicPartition]) -> None:
        """From any thread: offsets as this member, without a transaction."""
        done: Future[None] = Future()

        def call() -> None:
            try:
                assert self._consumer is not None
                if self._before_loss is not None:
                    raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
                self._consumer.commit(offsets=parts, asynchronous=False)
                done.set_result(None)
            except BaseException as problem:  # it is the asker's
                done.set_exception(problem)

        with self._lock:
            if self._thread is None or self._closing:
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
            self._calls.append(call)
            self._lock.notify_all()
        try:
            done.result(CLOSE_TIMEOUT_S)
        except TimeoutError as problem:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from problem

    def _subscribe(self, consumer: Consumer) -> None:
        consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # The position is given and the partition paused: nothing is looked up and nothing is fetched.
        parts = [TopicPartition(p.topic, p.partition, 0) for p in partitions]
        consumer.incremental_assign(parts)
        if parts:
            consumer.pause(parts)
        self._serve(consumer)
        with self._lock:
            self._rebalanced = self._clock()
            self._answered = True
            tasks = tuple(sorted(p.partition for p in parts))
            self._owned.update(tasks)
            if tasks:
                self._changes.append(LeaseChange(granted=tasks))
        if self._members is not None:
            self._members.again()

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        deadline = self._clock() + self._release_timeout_s
        with self._lock:
            tasks = {p.partition for p in partitions} & self._owned
            self._rebalanced = self._clock()
            if tasks and not self._closing:
                self._changes.append(LeaseChange(revoked=tuple(sorted(tasks))))
                self._awaited = set(tasks)
        while True:
            self._serve(consumer)  # the commit before the release may be among the calls
            with self._lock:
                if self._closing or not self._awaited:
                    break
                if self._clock() >= deadline:
                    logger.warning("tasks %s were not released in time and are lost", sorted(self._awaited))
                    self._lose(self._awaited)
                    break
                self._lock.wait_for(lambda: not self._awaited or self._calls or self._closing, POLL_S)
        with self._lock:
            self._awaited = set()
            self._owned -= tasks
            self._rebalanced = self._clock()
        consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        with self._lock:
            self._lose({p.partition for p in partitions} & self._owned)
            self._rebalanced = self._clock()
        consumer.incremental_unassign(partitions)

    def _give_up(self) -> None:
        with self._lock:
            self._lose(set(self._owned))

    def _lose(self, tasks: set[int]) -> None:
        if not tasks:
            return
        if self._before_loss is None:
            self._before_loss = self._last
        self._changes.append(LeaseChange(lost=tuple(sorted(tasks))))
        self._owned = self._owned - tasks


def _generation(metadata: object) -> int:
    """Out of librdkafka's own form (`CGMDv2:` and a 32-bit number); 0 if it is another one day."""
    if not isinstance(metadata, bytes) or not metadata.startswith(b"CGMDv"):
        return 0
    start = metadata.index(b":") + 1
    return int.from_bytes(metadata[start : start + 4], sys.byteorder, signed=True)
