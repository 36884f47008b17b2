"""The yardstick: a bare `consume(10000)` loop that touches key, value and timestamp, in a process of its own."""

from __future__ import annotations

import json
import sys

from confluent_kafka import Consumer, KafkaError, TopicPartition

from benches.worker import used


def main() -> None:
    given = json.loads(sys.argv[1])
    consumer = Consumer(
        {
            "bootstrap.servers": given["bootstrap"],
            "group.id": "bare",
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            "fetch.queue.backoff.ms": "1",
            **given.get("kafka", {}),
        }
    )
    partitions = given["partitions"]
    consumer.list_topics(given["topic"], timeout=10)
    began, cpu_before = used()
    consumer.assign([TopicPartition(given["topic"], p, 0) for p in range(partitions)])
    count = ended = size = 0
    while ended < partitions:
        for message in consumer.consume(10_000, 0.1):
            if (error := message.error()) is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                ended += 1
                continue
            key, value, stamp = message.key(), message.value(), message.timestamp()
            size += len(key or b"") + len(value or b"") + (stamp is None)
            count += 1
    last, cpu_after = used()
    consumer.close()
    print(json.dumps({"seconds": last - began, "cpu": cpu_after - cpu_before, "count": count, "bytes": size}))


if __name__ == "__main__":
    main()
