"""The producer in Rust, as `KafkaWriter` uses it: the calls of confluent-kafka's `Producer` that it makes, and `write`.

It is a client of its own over the same librdkafka (`rust/kafka/src/producer.rs`). A batch goes in whole and without Python's
lock: no object is made per record. What it refuses is raised as confluent-kafka's own exceptions, so that an error means the
same with either producer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from adstream._core import NativeProducer as Core
from adstream.errors import ConfigError
from adstream.logs.kafka_client import library, logger, wrong_setting

if TYPE_CHECKING:
    from adstream._core import RawBatch

Kind = Literal["native", "portable"]
KIND = "adstream.writer"
"""The name under which the client settings may say which."""

CLOSE_TIMEOUT_S = 1.0


def choose(wanted: str | None) -> Kind:
    """The kind of producer. Raises ConfigError for one that there is not."""
    if wanted is None:
        return "native"
    if wanted not in get_args(Kind):
        raise ConfigError(
            f"there is no writer `{wanted}`", option=f"kafka.{KIND}", hint=f"one of {', '.join(get_args(Kind))}"
        )
    return wanted  # type: ignore[return-value]


class NativeProducer:
    """Any thread may call. Raises KafkaException."""

    def __init__(
        self,
        config: Mapping[str, Any],
        failed: Callable[[KafkaError, str, int, int], None],
        told: Callable[[str], None],
    ) -> None:
        """`config`: librdkafka's settings. `failed` hears of deliveries that failed: error, topic, partition, bytes of key and
        value; `told` of trouble that passes. Both are called from inside the calls below. Raises ConfigError."""
        self._failed = failed
        self._told = told
        try:
            self._core = Core(library(), [(name, _text(value)) for name, value in config.items()])
        except ValueError as error:
            raise wrong_setting(str(error)) from error

    def write(self, topic: str, partition: int, batch: RawBatch) -> None:
        """Queues a batch's records, in order; waits while the queue is full."""
        self._done(self._core.produce(topic, partition, batch))

    def poll(self, timeout: float) -> None:
        self._done(self._core.poll(timeout))

    def flush(self, timeout: float) -> int:
        left = self._core.flush(timeout)
        self._look()
        return left

    def list_topics(self, timeout: float) -> None:
        """Asks a broker something, to see whether it is there."""
        self._done(self._core.reach(timeout))

    def init_transactions(self, timeout: float) -> None:
        self._done(self._core.init_transactions(timeout))

    def begin_transaction(self) -> None:
        self._done(self._core.begin_transaction())

    def send_offsets_to_transaction(self, offsets: Sequence[TopicPartition], metadata: bytes, timeout: float) -> None:
        parts = [(p.topic, p.partition, p.offset, p.metadata or "") for p in offsets]
        self._done(self._core.send_offsets(parts, metadata, timeout))

    def commit_transaction(self, timeout: float) -> None:
        self._done(self._core.commit_transaction(timeout))

    def abort_transaction(self, timeout: float) -> None:
        self._done(self._core.abort_transaction(timeout))

    def purge(self) -> None:
        """`close` does."""

    def close(self) -> None:
        """What is queued is dropped, an open transaction aborted if that takes no longer than a second."""
        self._core.close(CLOSE_TIMEOUT_S)

    def _done(self, refused: tuple[int, str, bool, bool, bool] | None) -> None:
        self._look()
        if refused is not None:
            raise KafkaException(KafkaError(*refused))

    def _look(self) -> None:
        count, first = self._core.failures()
        for i in range(count):
            code, text, topic, partition, size = first[min(i, len(first) - 1)]
            self._failed(KafkaError(code, text), topic, partition, size)
        for text in self._core.errors():
            logger.info("%s", text)
            self._told(text)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
