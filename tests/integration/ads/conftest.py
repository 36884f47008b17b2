"""The platform's tests: a broker and a Redis for each file, because topics and keys have the names that the jobs give them."""

from collections.abc import Iterator

import pytest

from tests.servers import Kafka, Redis


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka]:
    with Kafka() as server:
        yield server


@pytest.fixture(scope="module")
def redis_server() -> Iterator[Redis]:
    """A job that is told of another broker's positions there refuses to write."""
    with Redis() as server:
        yield server
