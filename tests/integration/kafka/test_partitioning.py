"""What other clients' partitioners do, by a real client on a real broker."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from adstream.interfaces import TopicSpec
from adstream.logs.kafka import KafkaLog
from adstream.runtime.partitioning import sample
from tests.logs.conformance import KEPT, unique
from tests.servers import Kafka

pytestmark = pytest.mark.servers


@pytest.mark.parametrize(("partitioner", "good"), [(None, False), ("murmur2_random", True), ("fnv1a", False)])
def test_librdkafkas_default_is_told(kafka: Kafka, one_log: KafkaLog, partitioner: str | None, good: bool) -> None:
    topic = unique("orders")
    one_log.create_topics([TopicSpec(topic, 5, KEPT)])
    producer = Producer({"bootstrap.servers": kafka.bootstrap} | ({"partitioner": partitioner} if partitioner else {}))
    for i in range(200):
        producer.produce(topic, b"{}", b"user-%d" % i)
    assert producer.flush(30) == 0
    [found] = sample(one_log, [topic])
    assert found.seen > 100
    assert found.good is good
    assert found.crc32 is (partitioner is None)
    assert ("librdkafka's default" in str(found)) is (partitioner is None)
