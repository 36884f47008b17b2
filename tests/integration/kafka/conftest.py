"""One Kafka and one `KafkaLog` of each kind for these tests; topics and groups are their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

import pytest

from adstream.logs.kafka import KafkaLog
from adstream.logs.kafka_reader import Kind
from tests.servers import Kafka

SESSION_MS = 1500
MakeLog = Callable[..., KafkaLog]


@pytest.fixture(scope="session", params=get_args(Kind))
def log(request: pytest.FixtureRequest, kafka: Kafka) -> Iterator[KafkaLog]:
    """All readers, one after the other; and both writers."""
    writer = "portable" if request.param == "portable" else "native"
    made = KafkaLog(kafka.bootstrap, reader=request.param, writer=writer, session_ms=SESSION_MS)
    yield made
    made.close()


@pytest.fixture(scope="session")
def one_log(kafka: Kafka) -> Iterator[KafkaLog]:
    """For what does not depend on the reader."""
    made = KafkaLog(kafka.bootstrap, session_ms=SESSION_MS)
    yield made
    made.close()
