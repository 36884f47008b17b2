"""Reading: the three readers against the yardstick, a bare `consume(10000)` loop that touches key, value and
timestamp.

    python -m benches.reader [--bootstrap HOST:PORT] [--records 1000000] [--rounds 3] [--codec lz4] [--only fetch]

One topic of 300-byte records in 4 partitions, read in turns in one run; without `--bootstrap` a broker of
its own. Printed is the best round of each, records per second, CPU µs per record of all threads of this
process, and the ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import get_args

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from adstream.interfaces import TopicSpec
from adstream.logs.kafka import KafkaLog
from adstream.logs.kafka_reader import Kind
from tests.servers import Kafka

PARTITIONS = 4
SIZE = 300


def fill(bootstrap: str, topic: str, records: int, codec: str) -> None:
    settings = {"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 50, "acks": "all"}
    producer = Producer({**settings, "batch.size": 250_000})
    pad = os.urandom(SIZE // 2).hex().encode()
    for n in range(records):
        key = b"k%07d" % (n % 10_000)
        value = (b'{"n":%d,"pad":"' % n + pad)[: SIZE - len(key)]
        while True:
            try:
                producer.produce(topic, value, key, n % PARTITIONS, timestamp=1_700_000_000_000 + n)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def drain(log: KafkaLog, topic: str, rows: int) -> int:
    reader = log.reader()
    for partition in range(PARTITIONS):
        reader.add(topic, partition, 0)
    count = 0
    open_ = set(range(PARTITIONS))
    while open_:
        idle = True
        for partition in sorted(open_):
            batch = reader.read(topic, partition, rows)
            if batch is not None:
                count += len(batch)
                idle = False
            elif reader.at_end(topic, partition):
                open_.discard(partition)
        if idle and open_:
            reader.wait(0.1)
    reader.close()
    return count


def bare(bootstrap: str, topic: str, extra: dict[str, str]) -> int:
    settings = {"bootstrap.servers": bootstrap, "group.id": "bare", "enable.partition.eof": "true"}
    consumer = Consumer({**settings, "isolation.level": "read_committed", "enable.auto.commit": "false", **extra})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    count = ended = 0
    while ended < PARTITIONS:
        for message in consumer.consume(10_000, 0.1):
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                ended += 1
                continue
            message.key()
            message.value()
            message.timestamp()
            count += 1
    consumer.close()
    return count


def measure(name: str, records: int, rounds: int, run: Callable[[], int]) -> None:
    best, cpu = 0.0, 0.0
    for _ in range(rounds):
        began, used = time.perf_counter(), time.process_time()
        count = run()
        took, used = time.perf_counter() - began, time.process_time() - used
        assert count == records, (name, count)
        if count / took > best:
            best, cpu = count / took, used / count * 1e6
    print(f"{name:52} {best / 1e6:6.2f} M/s   {cpu:5.2f} µs CPU a record", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bootstrap")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--codec", default="lz4", choices=["none", "lz4", "zstd", "snappy", "gzip"])
    parser.add_argument("--only", default="", help="what has this in its name")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        bootstrap = args.bootstrap or stack.enter_context(Kafka(quick=False)).bootstrap
        topic = f"bench-reader-{uuid.uuid4().hex[:8]}"
        logs = {kind: KafkaLog(bootstrap, reader=kind, headers=False) for kind in get_args(Kind)}
        # The records are of 2023: the broker would delete them at once.
        logs["fetch"].create_topics([TopicSpec(topic, PARTITIONS, {"retention.ms": "-1"})])
        fill(bootstrap, topic, args.records, args.codec)
        tuned = {"fetch.queue.backoff.ms": "2", "fetch.wait.max.ms": "20"}
        runs = {
            "bare consume(10000), default settings": lambda: bare(bootstrap, topic, {}),
            "bare consume(10000), our fetch settings": lambda: bare(bootstrap, topic, tuned),
        }
        for kind, log in logs.items():
            headers = KafkaLog(bootstrap, reader=kind, headers=True)
            runs[f"{kind} reader"] = partial(drain, log, topic, 10_000)
            runs[f"{kind} reader, batches of 1000"] = partial(drain, log, topic, 1_000)
            runs[f"{kind} reader, headers asked for"] = partial(drain, headers, topic, 10_000)
        for name, run in runs.items():
            if args.only in name:
                measure(name, args.records, args.rounds, run)


if __name__ == "__main__":
    main()
