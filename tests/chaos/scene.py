"""One run of `ads.performance` on real servers: its topics, its load, its workers, and what it left behind.

    scene = Scene(kafka, postgres, redis)     everything of an earlier run is removed first
    scene.send(traffic)                       at once, or paced
    scene.start(0, "--stop-at-end")           a worker process
    scene.compare()                           what is wrong, in words; nothing: []

What came out is read by plain clients, none of the product's. What should have come out is computed by the truth
from the records that the *broker* holds of `ad-events`, not from what was sent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
import redis as redis_client
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from adstream.jobs.ads.traffic import Sent, Traffic, records
from adstream.jobs.ads.truth import Key, Truth, compute
from tests.servers import Kafka, Postgres, Redis

APP = "ads-performance"
SOURCE, FINAL, LATE, DEAD = "ad-events", "ad-performance", "ad-performance-late", "ad-events-dlq"
TABLE = "ad_performance_metrics_realtime"
READ_TIMEOUT_S = 60.0
LEADER_MOVED = frozenset(
    {KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.FENCED_LEADER_EPOCH, KafkaError.NOT_LEADER_FOR_PARTITION}
)
FOR_EVER = {"retention.ms": "-1"}
"""The traffic is of 2024: with the default, the broker would delete it while it is tested with."""

Record = tuple[int, int, bytes | None, bytes | None, int, list[tuple[str, bytes]]]
"""partition, offset, key, value, timestamp in ms, headers"""


class Scene:
    """`directory` gets a log per worker process, `<slot>.log`, and their state folders."""

    def __init__(
        self, kafka: Kafka, postgres: Postgres, redis: Redis, *, partitions: int = 4, directory: Path | None = None
    ) -> None:
        self.kafka, self.postgres, self.redis = kafka, postgres, redis
        self.partitions = partitions
        self.directory = directory or Path(tempfile.mkdtemp(prefix="adstream-scene-"))
        self.workers: list[WorkerProcess] = []
        database = f"scene_{time.time_ns()}"
        self.sql = postgres.create_database(database)
        self.redis_url = redis.url(0)
        with closing(redis_client.Redis.from_url(self.redis_url)) as client:
            client.flushdb()
        self.admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 2, "error_cb": _silent})
        self._clean()
        for topic in (SOURCE, FINAL, LATE):
            self.create_topic(topic, partitions)
        # What the controller has made, the broker knows some moments later.
        _until(lambda: self.topics().keys() >= {SOURCE, FINAL, LATE}, 60, "the new topics are there")

    # Topics and load.

    def create_topic(self, name: str, partitions: int) -> None:
        for future in self.admin.create_topics([NewTopic(name, partitions, 1, config=FOR_EVER)]).values():
            future.result()

    def topics(self) -> dict[str, int]:
        """This application's topics and their partitions."""
        found = self.admin.list_topics(timeout=15).topics.items()
        return {name: len(topic.partitions) for name, topic in found if name.startswith(("ad-", APP))}

    def _clean(self) -> None:
        if names := list(self.topics()):
            for future in self.admin.delete_topics(names).values():
                future.result()
        _until(self._forget_group, 120, "the old group is gone")
        _until(lambda: not self.topics(), 60, "the old topics are gone")

    def _forget_group(self) -> bool:
        try:
            self.admin.delete_consumer_groups([APP])[APP].result()
        except KafkaException as error:
            # Others: it has members until their sessions end; or the coordinator of a new cluster is not up.
            return error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND
        return True

    def send(self, traffic: Traffic, *, seconds: float = 0.0, stop: Callable[[], bool] = lambda: False) -> int:
        """Sends the traffic, evenly over `seconds`; each partition keeps its order, whatever the broker goes
        through. Returns how many were sent."""
        return self.send_records(records(traffic), traffic.events, seconds=seconds, stop=stop)

    def send_records(
        self,
        sent: Iterable[Sent],
        count: int,
        *,
        seconds: float = 0.0,
        stop: Callable[[], bool] = lambda: False,
    ) -> int:
        failed: list[KafkaError] = []
        producer = Producer(
            {
                "bootstrap.servers": self.kafka.bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": "lz4",
                "message.timeout.ms": 300_000,
                "queue.buffering.max.messages": 1_000_000,
                "on_delivery": lambda error, message: failed.append(error) if error else None,
                "delivery.report.only.error": True,
                "log_level": 2,
                "error_cb": _silent,
            }
        )
        began, done, source = time.monotonic(), 0, iter(sent)
        slice_ = max(1, round(count * 0.02 / seconds)) if seconds else 5_000
        while (some := list(islice(source, slice_))) and not stop():
            for partition, key, value, timestamp_ms in some:
                while True:
                    try:
                        producer.produce(SOURCE, value, key, partition, timestamp=timestamp_ms)
                        break
                    except BufferError:
                        producer.poll(0.1)
            done += len(some)
            producer.poll(0)
            if seconds and (early := began + done / count * seconds - time.monotonic()) > 0:
                time.sleep(early)
        assert producer.flush(300) == 0
        assert not failed, failed[0]
        return done

    # Workers.

    def start(self, slot: int, *arguments: str, environ: Mapping[str, str] | None = None) -> WorkerProcess:
        state = self.directory / f"state-{slot}"
        state.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.chaos.worker", "--bootstrap", self.kafka.bootstrap]
        command += ["--sql", self.sql, "--redis", self.redis_url, "--slot", str(slot), "--state-dir", str(state)]
        worker = WorkerProcess([*command, *arguments], slot, self.directory / f"{slot}.log", environ or {})
        self.workers.append(worker)
        return worker

    def start_cli(self, *arguments: str) -> WorkerProcess:
        """As a user does."""
        command = [sys.executable, "-m", "adstream.cli", "run", "ads.performance", "--bootstrap", self.kafka.bootstrap]
        command += ["--sql", self.sql, "--redis", self.redis_url, *arguments]
        self.workers.append(WorkerProcess(command, -1, self.directory / "cli.log", {}))
        return self.workers[-1]

    def stop_all(self) -> None:
        for worker in self.workers:
            worker.kill()

    # What came out.

    def end_offsets(self, topic: str, *, committed: bool) -> dict[int, int]:
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        deadline = time.monotonic() + READ_TIMEOUT_S
        while True:
            asked = {TopicPartition(topic, p): OffsetSpec.latest() for p in range(self.topics()[topic])}
            found = self.admin.list_offsets(asked, isolation_level=level)
            try:
                return {part.partition: future.result().offset for part, future in found.items()}
            except KafkaException as error:
                # A broker that came back, or a topic that was made anew: what this client remembers is of before.
                if error.args[0].code() not in LEADER_MOVED or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def committed(self) -> dict[tuple[str, int], int]:
        """The group's offsets, of all topics."""
        asked = [ConsumerGroupTopicPartitions(APP)]
        futures = self.admin.list_consumer_group_offsets(asked)
        parts = futures[APP].result().topic_partitions
        return {(part.topic, part.partition): part.offset for part in parts}

    def read(self, topic: str, *, committed: bool = True) -> list[Record]:
        """The records of a topic, by partition and offset; uncommitted: the aborted ones, too."""
        if topic not in self.topics():
            return []
        ends = self.end_offsets(topic, committed=committed)
        return sorted(
            (
                message.partition(),
                message.offset(),
                message.key(),
                message.value(),
                message.timestamp()[1],
                message.headers() or [],
            )
            for message in _messages(self.kafka.bootstrap, topic, ends, committed=committed)
        )

    def truth(self) -> Truth:
        return compute([record[:5] for record in self.read(SOURCE)], self.partitions)

    def table(self) -> dict[Key, tuple[Any, ...]]:
        with psycopg.connect(self.sql) as connection:
            found = connection.execute(
                f"SELECT campaign_id, product_id, placement, metric_time, impression_count, click_count,"
                f" conversion_count, total_spend, total_revenue, ctr, cvr, roas, ctr_undefined, updated_at FROM {TABLE}"
            ).fetchall()
        rows = {Key(*row[:3], _ms(row[3])): (*row[4:13], _ms(row[13])) for row in found}
        assert len(rows) == len(found), "a key occurs twice in the table"
        return rows

    def products(self) -> dict[str, dict[str, str]]:
        with closing(redis_client.Redis.from_url(self.redis_url, decode_responses=True)) as client:
            names = list(client.scan_iter("product-metrics:*", 5_000))
            pipe = client.pipeline(transaction=False)
            for name in names:
                pipe.hgetall(name)
            return dict(zip((n.removeprefix("product-metrics:") for n in names), pipe.execute(), strict=True))

    def compare(self, truth: Truth | None = None) -> list[str]:
        """Table, hashes, final topic, late events and dead letters against the truth: the differences, in words."""
        truth = truth or self.truth()
        with ThreadPoolExecutor(5) as pool:
            table, products = pool.submit(self.table), pool.submit(self.products)
            final, late, dead = (pool.submit(self.read, topic) for topic in (FINAL, LATE, DEAD))
        return [
            *_differences("table", table.result(), expected_table(truth)),
            *_differences("redis", products.result(), expected_products(truth)),
            *_bag_differences("final", map(final_row, final.result()), expected_final(truth)),
            *_bag_differences("late", map(late_row, late.result()), expected_late(truth)),
            *_bag_differences("dead", map(dead_row, dead.result()), expected_dead(truth)),
        ]


class WorkerProcess:
    """A worker, its log and its death."""

    def __init__(self, command: list[str], slot: int, log: Path, environ: Mapping[str, str]) -> None:
        self.slot, self.log = slot, log
        self._from = log.stat().st_size if log.exists() else 0
        self.started = time.monotonic()
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environ},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Of its end; None while it runs."""
        return self._process.poll()

    @property
    def running(self) -> bool:
        return self.code is None

    @property
    def stopped(self) -> bool:
        """By SIGSTOP."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False

    def signal(self, number: signal.Signals) -> None:
        if self.running:
            self._process.send_signal(number)

    def kill(self) -> None:
        if self.running:
            self._process.kill()
        self._process.wait()

    def wait(self, timeout_s: float) -> int:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGUSR1)  # it writes down where its threads stand
            time.sleep(0.5)
            raise AssertionError(f"worker {self.slot} still runs after {timeout_s:.0f} s\n{self.tail()}") from None

    def text(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._from)
            return log.read().decode(errors="replace")

    def tail(self, size: int = 6_000) -> str:
        return f"--- the end of {self.log.name}\n{self.text()[-size:]}"

    def until(self, text: str, timeout_s: float) -> None:
        """Waits for a text in its log."""
        deadline = time.monotonic() + timeout_s
        while text not in self.text():
            assert self.running, f"worker {self.slot} ended with {self.code} before `{text}`\n{self.tail()}"
            assert time.monotonic() < deadline, f"no `{text}` within {timeout_s:.0f} s\n{self.tail()}"
            time.sleep(0.05)


# --- What the truth says, in the shape in which it is stored ------------------------------------------------


def expected_table(truth: Truth) -> dict[Key, tuple[Any, ...]]:
    return {key: _row(row) for key, row in truth.table.items()}


def _row(row: Any) -> tuple[Any, ...]:
    return (
        row.impression_count, row.click_count, row.conversion_count, row.total_spend, row.total_revenue,
        row.ctr, row.cvr, row.roas, row.ctr_undefined, row.max_timestamp,
    )  # fmt: skip


def expected_products(truth: Truth) -> dict[str, dict[str, str]]:
    return {
        "%null" if name is None else name: {
            **({} if name is None else {"product_id": name}),
            "impressions": str(p.impressions),
            "clicks": str(p.clicks),
            "conversions": str(p.conversions),
            "ctr": repr(p.ctr),
            "cvr": repr(p.cvr),
        }
        for name, p in truth.products.items()
    }


def expected_final(truth: Truth) -> Iterator[tuple[Any, ...]]:
    return ((key, *_row(row)) for key, row in truth.final.items())


def final_row(record: Record) -> tuple[Any, ...]:
    row = json.loads(record[3] or b"", parse_float=Decimal)
    key = Key(row["campaign_id"], row["product_id"], row["placement"], _ms_of(row["metric_time"]))
    return (
        key, row["impression_count"], row["click_count"], row["conversion_count"],
        Decimal(row["total_spend"]), Decimal(row["total_revenue"]), float(row["ctr"]), float(row["cvr"]),
        Decimal(row["roas"]), row["ctr_undefined"], _ms_of(row["updated_at"]),
    )  # fmt: skip


def expected_late(truth: Truth) -> Iterator[tuple[Any, ...]]:
    return ((late.event_id, late.timestamp, *late.key[:3]) for late in truth.late)


def late_row(record: Record) -> tuple[Any, ...]:
    row = json.loads(record[3] or b"")
    return (row["event_id"], _ms_of(row["timestamp"]), row["campaign_id"], row["product_id"], row["placement"])


def expected_dead(truth: Truth) -> Iterator[tuple[int, int, str]]:
    return ((dead.partition, dead.offset, dead.reason) for dead in truth.dead)


def dead_row(record: Record) -> tuple[int, int, str]:
    headers = {name: text.decode() for name, text in record[5] if text is not None}
    return int(headers["adstream.partition"]), int(headers["adstream.offset"]), headers["adstream.reason"]


# --- Help ---------------------------------------------------------------------------------------------------


def _differences(what: str, got: Mapping[Any, Any], want: Mapping[Any, Any]) -> list[str]:
    wrong = [key for key in want.keys() & got.keys() if not _equal(got[key], want[key])]
    missing, extra = want.keys() - got.keys(), got.keys() - want.keys()
    if not (wrong or missing or extra):
        return []
    some = [f"{key}: {got.get(key)} where {want.get(key)} is right" for key in [*wrong, *missing, *extra][:3]]
    return [f"{what}: {len(wrong)} wrong, {len(missing)} missing, {len(extra)} too many of {len(want)}: {some}"]


def _equal(got: Any, want: Any) -> bool:
    """Ratios of two floats may differ in the last digit: which division is done, percent or not, is nobody's promise."""
    if isinstance(want, dict):
        return got.keys() == want.keys() and all(_equal(got[name], want[name]) for name in want)
    if isinstance(want, tuple):
        return len(got) == len(want) and all(map(_equal, got, want))
    if isinstance(want, str):
        return got == want or _close(got, want)
    return _close(got, want) if isinstance(want, float) else bool(got == want)


def _close(got: Any, want: Any) -> bool:
    try:
        return abs(Fraction(got) - Fraction(want)) <= abs(Fraction(want)) / 10**12
    except ValueError:
        return False


def _bag_differences(what: str, got: Iterable[tuple[Any, ...]], want: Iterable[tuple[Any, ...]]) -> list[str]:
    got_bag, want_bag = (Counter(map(_rounded, rows)) for rows in (got, want))
    missing, extra = want_bag - got_bag, got_bag - want_bag
    if not (missing or extra):
        return []
    return [
        f"{what}: {missing.total()} missing ({list(missing)[:2]}), {extra.total()} too many ({list(extra)[:2]})"
        f" of {want_bag.total()}"
    ]


def _rounded(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(f"{value:.11e}" if isinstance(value, float) else value for value in row)


def _messages(bootstrap: str, topic: str, ends: Mapping[int, int], *, committed: bool) -> Iterator[Any]:
    """From where each partition begins today: a round that took long has forgotten the front of its changelogs."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "scene",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "fetch.queue.backoff.ms": 2,
            "log_level": 2,
            "error_cb": _silent,
        }
    )
    with closing(consumer):
        left = {partition for partition, end in ends.items() if end > 0}
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in left])
        deadline = time.monotonic() + READ_TIMEOUT_S
        while left:
            assert time.monotonic() < deadline, f"{topic} was not read to its end, {ends}"
            for message in consumer.consume(10_000, 0.2):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF and message.offset() >= ends[message.partition()]:
                    left.discard(message.partition())
                elif error.code() != KafkaError._PARTITION_EOF and not error.retriable():
                    raise AssertionError(f"{topic} [{message.partition()}] at {message.offset()}, ends {ends}: {error}")


def _ms(moment: datetime) -> int:
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000


def _ms_of(text: str) -> int:
    return _ms(datetime.fromisoformat(text))


def _until(done: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.05)


def _silent(error: KafkaError) -> None: ...
