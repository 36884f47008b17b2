"""The shared broker as a log. A test that needs short sessions has a `log` of its own."""

from collections.abc import Iterator

import pytest

from adstream.logs.kafka import KafkaLog
from tests.servers import Kafka


@pytest.fixture
def log(kafka: Kafka) -> Iterator[KafkaLog]:
    made = KafkaLog(kafka.bootstrap)
    yield made
    made.close()
