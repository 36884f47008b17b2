"""What the Kafka clients share: settings, the library, and what an error means.

Users' settings pass through to all clients (TLS, SASL, sizes …), except those on which the guarantees rest:
changing `isolation.level` or `enable.auto.commit` would break exactly-once in silence, so it is refused by
name.
"""

from __future__ import annotations

import enum
import importlib.util
import logging
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

from adstream.errors import ConfigError

logger = logging.getLogger("adstream.kafka")

T = TypeVar("T")

FIXED = frozenset(
    {
        "acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "group.instance.id",
        "isolation.level",
        "partition.assignment.strategy",
        "request.required.acks",
        "transactional.id",
    }
)
# Settings of one kind of client only: the others would print a warning for each.
CONSUMER_ONLY = frozenset(
    {
        "check.crcs",
        "group.protocol",
        "group.remote.assignor",
        "heartbeat.interval.ms",
        "max.poll.interval.ms",
        "session.timeout.ms",
    }
)
CONSUMER_PREFIXES = ("fetch.", "max.partition.fetch.", "queued.")
PRODUCER_ONLY = frozenset(
    {
        "delivery.timeout.ms",
        "linger.ms",
        "message.send.max.retries",
        "message.timeout.ms",
        "request.timeout.ms",
        "retries",
        "sticky.partitioning.linger.ms",
        "transaction.timeout.ms",
    }
)
PRODUCER_PREFIXES = ("batch.", "compression.", "queue.buffering.")

CLIENT = {
    "client.id": "adstream",
    # 10 s by default, and the time between two attempts doubles: after an outage of some seconds, each client of a worker
    # (it has half a dozen) learnt that the broker is back up to 10 s after the fact, one after the other.
    "reconnect.backoff.max.ms": "1000",
    # By default librdkafka (2.16) forgets the brokers it has learnt of when none of them answers, and begins again with the
    # bootstrap servers. What still refers to a forgotten one, like a producer's knowledge of a group's coordinator, then
    # waits for it for ever: `send_offsets_to_transaction` never returned after any outage of some seconds. Without, known
    # and bootstrap servers are tried, all of them, all the time.
    "metadata.recovery.strategy": "none",
}

READER = {
    # 1 s by default: a reader slower than the fetcher then falls to a sixth of its rate. 1 to 5 is flat, 0
    # spins.
    "fetch.queue.backoff.ms": "2",
    # 500 by default: the one fetch in flight per broker waits that long for caught-up partitions while busy
    # ones starve.
    "fetch.wait.max.ms": "20",
    # Per partition where each has its own queue; the default of 64 MiB reached 287 MB with four.
    "queued.max.messages.kbytes": "4096",
    "isolation.level": "read_committed",
    "enable.partition.eof": "true",
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    # An offset that is gone is an error, never a silent jump.
    "auto.offset.reset": "error",
}


def plain(settings: Mapping[str, str]) -> dict[str, str]:
    """The user's settings without the `kafka.` in front; raises ConfigError for one that may not be
    changed."""
    out: dict[str, str] = {}
    for name, value in settings.items():
        key = name.removeprefix("kafka.")
        if key in FIXED:
            raise ConfigError(
                "this setting is adstream's own: its guarantees rest on it",
                option=f"kafka.{key}",
                hint="remove it",
            )
        out[key] = value
    return out


def of_consumer(settings: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in settings.items() if k not in PRODUCER_ONLY and not k.startswith(PRODUCER_PREFIXES)}


def of_producer(settings: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in settings.items() if k not in CONSUMER_ONLY and not k.startswith(CONSUMER_PREFIXES)}


def of_admin(settings: Mapping[str, str]) -> dict[str, str]:
    return of_consumer(of_producer(settings))


def quiet(settings: Mapping[str, Any], told: Callable[[str], None] | None = None) -> dict[str, Any]:
    """For the Python clients: what librdkafka would print goes to the log; `told` hears of it, too."""

    def on_error(error: KafkaError) -> None:
        logger.info("%s", error)
        if told is not None:
            told(str(error.str()))

    return {"log_level": 2, "error_cb": on_error, **settings}


def bounded(call: Callable[[], T], timeout_s: float, name: str = "adstream-call") -> T:
    """Makes a call of librdkafka that may never return, whatever time-out it was given. Raises TimeoutError when it has
    not; it goes on then on a thread of its own, and its client must not be used again."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as problem:  # it is the caller's
            done.set_exception(problem)

    threading.Thread(target=run, name=name, daemon=True).start()
    return done.result(timeout_s)


def wrong_setting(said: str) -> ConfigError:
    """What librdkafka says of a setting that it does not know or take, under the name that the user gave it."""
    found = re.search(r'property:? "([^"]+)"', said)
    return ConfigError(
        said,
        option=f"kafka.{found[1]}" if found else "kafka",
        hint="names and values are those of librdkafka's CONFIGURATION.md; -X, ADSTREAM_KAFKA_… or [kafka] in TOML said it",
    )


def library() -> str:
    """The path of the librdkafka inside the confluent-kafka wheel."""
    spec = importlib.util.find_spec("confluent_kafka")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        folders = (package.parent / "confluent_kafka.libs", package / ".dylibs", package / ".libs")
        for folder in folders:
            for found in sorted(folder.glob("librdkafka*")):
                return str(found)
    raise ConfigError(
        "the installed confluent-kafka has no librdkafka of its own",
        option="kafka",
        hint="install its wheel: `pip install --only-binary=:all: confluent-kafka`",
    )


class Meaning(enum.Enum):
    """What an error of a transactional call asks for."""

    RETRY = "call the same call again, never abort"
    ABORT = "abort the transaction"
    FATAL = "throw the producer away"


def error_of(exception: KafkaException) -> KafkaError:
    error = exception.args[0]
    assert isinstance(error, KafkaError)
    return error


def meaning(exception: KafkaException) -> Meaning:
    """An error that claims nothing is fatal: guessing would risk what was committed."""
    error = error_of(exception)
    if error.fatal():
        return Meaning.FATAL
    if error.txn_requires_abort():
        return Meaning.ABORT
    if error.retriable():
        return Meaning.RETRY
    return Meaning.FATAL
