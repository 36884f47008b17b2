"""One worker slot's transactional producer, and the four ways out of a commit.

    begin -> produce -> offsets -> commit -> COMMITTED
              |          |          |
              +----------+----------+-- abortable: flush, abort -> ABORTED
                                    +-- retriable: the same call again, never abort (the commit may have
                                    happened) +-- fatal, fenced, unknown -> FATAL

Traps, all tried on a broker:
* **Flush before abort.** With 2,000 records queued, aborting without a flush made 5 of 12 producers fatal
  within 40 aborts.
* **Retriable means again.** A broker killed in mid-commit gives `_TIMED_OUT` five times and then success;
  aborting instead may undo what the broker has committed already.
* An aborted commit is normal: a healthy member meets ILLEGAL_GENERATION at nearly every rebalance.
* `retry.backoff.ms` is 100 by default, which is what sending offsets then takes: 5 here.
* librdkafka 2.16 asks for the group's coordinator three times, `retry.backoff.ms` apart. If there is none by
  then (a new cluster is still making its offsets topic, a broker has just died, or this producer is not
  connected again yet), `send_offsets_to_transaction` never returns, whatever its time-out. So before a
  producer's first commit, and after every trouble it reports, coordinator and connection are waited for; and
  no call is made but on a thread that can be given up: FATAL.
* `Producer.close()` aborts the open transaction, and waits as long as the broker is away (38 s in a test with
  25 s of it): it gets a bound, too.
* librdkafka takes timestamp 0 for "now": a record of 1970-01-01T00:00:00.000 is written as one millisecond
  later.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from adstream.errors import ConfigError
from adstream.interfaces import Outcome, Writer
from adstream.interfaces import TopicPartition as Where
from adstream.logs import LogUnavailableError, RecordTooLargeError
from adstream.logs.kafka_client import Meaning, bounded, error_of, logger, meaning, of_consumer, quiet
from adstream.logs.kafka_leases import Fence
from adstream.logs.kafka_producer import Kind, NativeProducer

if TYPE_CHECKING:
    from adstream._core import Output

warnings.filterwarnings("ignore", "Producer abort_transaction failed during close", RuntimeWarning)

TRANSACTION_TIMEOUT_MS = 15_000
CALL_TIMEOUT_S = 5.0
OPEN_TIMEOUT_S = 15.0
"""Then a new producer is tried."""
RETRY_PAUSE_S = 0.01
HANG_S = 2 * CALL_TIMEOUT_S
"""A call that was to be back after `CALL_TIMEOUT_S`, and is not by then, never returns."""
CLOSE_TIMEOUT_S = 2.0
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
NOT_A_MEMBER = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.STALE_MEMBER_EPOCH,
    }
)
_MARK = "adstream"

PRODUCER: Mapping[str, Any] = {
    "acks": "all",
    "enable.idempotence": True,
    "compression.type": "lz4",
    "linger.ms": 5,
    "retry.backoff.ms": 5,
    "retry.backoff.max.ms": 100,
    "delivery.report.only.error": True,
}


def note(slot: str, member: str) -> str:
    """What is kept with a committed offset: who to fence if a transaction holds the offset back, and whether
    it lives."""
    return f"{_MARK}\t{slot}\t{member}"


def noted(text: str | None) -> tuple[str, str] | None:
    """(slot, member) of a `note`, or None."""
    parts = (text or "").split("\t")
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == _MARK else None


def holder(client: str, slot: str) -> str:
    """The client id of a group's member whose process holds `slot`. It took it before it joined."""
    return f"{client}/{slot}"


def holds(client: str, slot: str) -> bool:
    """Whether a member with this client id holds `slot`."""
    return client.endswith(f"/{slot}")


def fence_slot(settings: Mapping[str, str], slot: str, clock: Callable[[], float] = time.monotonic) -> None:
    """Opens `slot` for a moment: whoever held it is fenced, its open transaction is aborted. Raises
    LogUnavailableError."""
    config = {**PRODUCER, "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS, **settings}
    _end(_open(Producer, quiet(config), slot, clock), slot)


def _open(
    make: Callable[[dict[str, Any]], Any], config: Mapping[str, Any], slot: str, clock: Callable[[], float]
) -> Any:
    producer = make({**config, "transactional.id": slot})
    deadline = clock() + OPEN_TIMEOUT_S
    problem: Exception
    while True:
        try:
            bounded(lambda: producer.init_transactions(CALL_TIMEOUT_S), HANG_S)
            return producer
        except KafkaException as error:
            if meaning(error) is Meaning.RETRY and clock() < deadline:
                continue
            _end(producer, slot)
            if error_of(error).code() == KafkaError.INVALID_TRANSACTION_TIMEOUT:
                raise ConfigError(
                    f"{config['transaction.timeout.ms']} ms are larger than the maximum value allowed by the broker",
                    option="transaction_timeout",
                    hint="at most `transaction.max.timeout.ms` of the brokers, which is 15 minutes by default",
                ) from error
            problem = error
        except TimeoutError as error:
            problem = error
        raise LogUnavailableError(f"cannot open the transactional id {slot}: {problem}") from problem


def _end(producer: Producer | NativeProducer, slot: str) -> None:
    """What it has open is left, if need be, to whoever opens the slot next."""

    def end() -> None:
        producer.purge()
        producer.close()

    try:
        bounded(end, CLOSE_TIMEOUT_S, "adstream-close")
    except (KafkaException, SystemError) as problem:
        # Of a fenced one: it says so once more, as a warning, which is a SystemError where warnings are errors.
        logger.info("close of %s: %s", slot, problem)
    except TimeoutError:
        logger.info("close of %s takes longer than %.0f s: not waited for", slot, CLOSE_TIMEOUT_S)


class KafkaWriter(Writer):
    """Blocks its caller; commits of one writer come one after the other."""

    def __init__(
        self,
        settings: Mapping[str, str],
        slot: str,
        *,
        exactly_once: bool,
        kind: Kind = "native",
        unfenced: Callable[[str, list[TopicPartition]], None],
        coordinated: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`unfenced` commits offsets of a group without members (at-least-once only); `coordinated` returns
        when the group has a coordinator, and raises LogUnavailableError when it has none for some seconds."""
        self._settings = settings
        self.refused = False
        self.slot = slot
        self.exactly_once = exactly_once
        self._unfenced = unfenced
        self._coordinated = coordinated
        self._known: str | None = None
        """The group whose coordinator has answered."""
        self._clock = clock
        self._sleep = sleep
        self._groups: dict[str, Any] = {}
        self._failed = 0
        self._too_large: RecordTooLargeError | None = None
        self._dead = False
        self._hangs = False
        self.closed = False
        self._troubled = True
        """It may have no connection, or the group no coordinator."""
        self._kind = kind
        config = {**PRODUCER, **settings}
        self._producer: Producer | NativeProducer
        if exactly_once:
            config = {"transaction.timeout.ms": TRANSACTION_TIMEOUT_MS, **config}
            self._producer = _open(self._make, config, slot, clock)
        else:
            config.pop("transaction.timeout.ms", None)
            self._producer = self._make(config)

    def _make(self, config: Mapping[str, Any]) -> Producer | NativeProducer:
        if self._kind == "native":
            return NativeProducer(config, self._not_delivered, self._heard_of_trouble)
        return Producer(quiet({**config, "on_delivery": self._delivered}, self._heard_of_trouble))

    def commit(
        self,
        outputs: Sequence[Output],
        offsets: Mapping[Where, int],
        group: str,
        fence: object,
        step: Callable[[str], None] = lambda name: None,
    ) -> Outcome:
        if self._dead:
            return Outcome.FATAL
        if fence is not None and not isinstance(fence, Fence):
            raise TypeError(f"not a fence of Kafka's leases: {fence!r}")
        member = fence.member if fence is not None else ""
        text = note(self.slot, member)
        parts = [TopicPartition(t, p, offset, text) for (t, p), offset in offsets.items()]
        self._failed, self._too_large, self.refused = 0, None, False
        # An exception from `step` is a crash under test: whatever was begun stays open, and this writer is
        # dead.
        self._dead = True
        try:
            if self.exactly_once:
                outcome = self._transaction(outputs, parts, group, fence, step)
            else:
                outcome = self._at_least_once(outputs, parts, group, fence, step)
        except RecordTooLargeError:
            self._dead = False
            raise
        self._dead = outcome is Outcome.FATAL
        return outcome

    def close(self) -> None:
        """Within a bound: an open transaction is left to whoever opens the slot next."""
        self._dead = self.closed = True
        if not self._hangs:
            _end(self._producer, self.slot)

    # Exactly once.

    def _transaction(
        self,
        outputs: Sequence[Output],
        parts: list[TopicPartition],
        group: str,
        fence: Fence | None,
        step: Callable[[str], None],
    ) -> Outcome:
        producer = self._producer
        if parts and not self._ready(group):
            return Outcome.FATAL
        if (bad := self._call(producer.begin_transaction, "begin", step)) is not None:
            return self._leave(bad)
        step("produce")
        if not self._produce(outputs):
            return self._leave(Meaning.ABORT)
        if parts:
            metadata = fence.metadata if fence is not None else self._no_member(group)
            send = lambda: producer.send_offsets_to_transaction(parts, metadata, CALL_TIMEOUT_S)  # noqa: E731
            if (bad := self._call(send, "offsets", step, lambda: self._ready(group))) is not None:
                return self._leave(bad)
        if (bad := self._call(lambda: producer.commit_transaction(CALL_TIMEOUT_S), "commit", step)) is not None:
            return self._leave(bad)
        step("committed")
        return Outcome.COMMITTED

    def _ready(self, group: str) -> bool:
        """Waits, while there is trouble, until this producer is connected and the group has a coordinator. Before a
        transaction begins that may take as long as the broker is away: nothing is lost by waiting, while a transaction
        would time out. False: closed meanwhile."""
        self._producer.poll(0)  # which tells of trouble
        while self._troubled or self._known != group:
            self._troubled = False
            try:
                bounded(lambda: self._producer.list_topics(timeout=CALL_TIMEOUT_S), HANG_S)
                self._coordinated(group)
                self._known = group
            except (KafkaException, LogUnavailableError, TimeoutError) as problem:
                logger.info("%s waits for the broker: %s", self.slot, problem)
                self._troubled = True
                self._sleep(RETRY_PAUSE_S)
            if self.closed:
                return False
        return True

    def _heard_of_trouble(self, text: str) -> None:
        self._troubled = True

    def _call(
        self,
        call: Callable[[], None],
        name: str,
        step: Callable[[str], None] | None,
        ready: Callable[[], bool] = lambda: True,
    ) -> Meaning | None:
        """None when it succeeded; asks again as long as that is what is asked for."""
        while True:
            if step is not None:
                step(name)
            if not ready():
                return Meaning.FATAL
            try:
                bounded(call, HANG_S)
                return None
            except KafkaException as problem:
                what = meaning(problem)
                logger.info("%s of %s: %s (%s)", name, self.slot, problem, what.name)
                if what is not Meaning.RETRY:
                    self.refused = error_of(problem).code() in NOT_A_MEMBER
                    return what
                self._troubled = True
                self._sleep(RETRY_PAUSE_S)
            except TimeoutError:
                logger.warning("%s of %s does not return: its producer is given up", name, self.slot)
                self._hangs = True
                return Meaning.FATAL

    def _leave(self, bad: Meaning) -> Outcome:
        if bad is Meaning.FATAL:
            return Outcome.FATAL
        # Every message fails at the latest when its time-out, the transaction's, has passed.
        deadline = self._clock() + 2 * TRANSACTION_TIMEOUT_MS / 1000
        while self._producer.flush(1.0) > 0 and self._clock() < deadline:
            pass
        if self._call(lambda: self._producer.abort_transaction(CALL_TIMEOUT_S), "abort", None) is not None:
            return Outcome.FATAL
        if self._too_large is not None:
            raise self._too_large
        return Outcome.ABORTED

    # At least once.

    def _at_least_once(
        self,
        outputs: Sequence[Output],
        parts: list[TopicPartition],
        group: str,
        fence: Fence | None,
        step: Callable[[str], None],
    ) -> Outcome:
        step("begin")
        step("produce")
        sent = self._produce(outputs)
        while self._producer.flush(1.0) > 0:  # ends: each is delivered, or fails at its time-out
            pass
        if self._too_large is not None:
            raise self._too_large
        if not sent or self._failed:
            return Outcome.ABORTED
        while parts:
            step("offsets")
            try:
                if fence is not None:
                    fence.commit(parts)
                else:
                    self._unfenced(group, parts)
                break
            except KafkaException as problem:
                error = error_of(problem)
                logger.info("offsets of %s: %s", self.slot, problem)
                if error.code() in NOT_A_MEMBER:
                    self.refused = True
                    return Outcome.ABORTED
                if not error.retriable() and error.code() != KafkaError._TIMED_OUT:
                    return Outcome.FATAL
                self._sleep(RETRY_PAUSE_S)
        step("commit")
        step("committed")
        return Outcome.COMMITTED

    # Both.

    def _produce(self, outputs: Sequence[Output]) -> bool:
        if self._kind == "native":
            return self._write(outputs)
        produce = self._producer.produce  # type: ignore[union-attr]
        for topic, partition, batch in outputs:
            for _, timestamp, key, value, headers in batch.records():
                # An empty list costs a header object a message.
                extra: dict[str, Any] = {"headers": headers} if headers else {}
                while True:
                    try:
                        produce(topic, value, key, partition, timestamp=max(timestamp, 1), **extra)
                        break
                    except BufferError:
                        self._producer.poll(0.05)
                    except KafkaException as problem:
                        self._refused(problem, topic, partition, len(key or b"") + len(value or b""))
                        return False  # abort says whether it was worse
            self._producer.poll(0)
        return True

    def _write(self, outputs: Sequence[Output]) -> bool:
        for topic, partition, batch in outputs:
            try:
                self._producer.write(topic, partition, batch)  # type: ignore[union-attr]
            except KafkaException as problem:
                # Which record it was is not said: the largest, if it was for its size.
                large = error_of(problem).code() in TOO_LARGE
                sizes = (len(r[2] or b"") + len(r[3] or b"") for r in batch.records()) if large else ()
                self._refused(problem, topic, partition, max(sizes, default=0))
                return False
        return True

    def _refused(self, problem: KafkaException, topic: str, partition: int, size: int) -> None:
        if error_of(problem).code() in TOO_LARGE:
            self._too_large = RecordTooLargeError(topic, partition, size)
        else:
            logger.info("produce of %s: %s", self.slot, problem)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        """Called for failures only."""
        if error is not None:
            size = len(message.key() or b"") + len(message.value() or b"")
            self._not_delivered(error, message.topic() or "", message.partition() or 0, size)

    def _not_delivered(self, error: KafkaError, topic: str, partition: int, size: int) -> None:
        self._failed += 1
        if error.code() in TOO_LARGE and self._too_large is None:
            self._too_large = RecordTooLargeError(topic, partition, size)
        elif self._failed == 1:
            logger.info("a record for %s was not delivered: %s", topic, error)

    def _no_member(self, group: str) -> Any:
        """Metadata of a consumer that joined nothing: accepted by the broker without any fencing. Only where
        the caller asked for none."""
        if group not in self._groups:
            consumer = Consumer(quiet({**of_consumer(self._settings), "group.id": group}))
            self._groups[group] = consumer.consumer_group_metadata()
            consumer.close()
        return self._groups[group]
