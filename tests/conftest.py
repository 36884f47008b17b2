"""The real servers, one of each per test run, started when the first test asks.

They are shared: take topics, databases and key prefixes of your own. A test that kills a server starts one
for itself (`with Kafka() as kafka:`).
"""

from collections.abc import Iterator

import pytest

from tests.servers import Kafka, Postgres, Redis, SchemaRegistry


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    with Kafka() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    with Redis() as server:
        yield server


@pytest.fixture(scope="session")
def schema_registry() -> Iterator[SchemaRegistry]:
    with SchemaRegistry() as server:
        yield server
