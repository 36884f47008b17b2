"""The real servers, one of each per test run, started when the first test asks.

They are shared: take topics, databases and key prefixes of your own. A test that kills a server starts one
for itself (`with Kafka() as kafka:`).

In CI a test of real processes that fails is run once more, and the report shows both: among some hundred of them, one in
a run meets a machine that stands still for seconds. What is compared (property tests, random cases beside the originals,
simulated clusters, what chaos finds different) is never asked twice: a difference is a find, however rare.
"""

import os
from collections.abc import Iterator
from pathlib import Path

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


HERE = Path(__file__).parent
PROCESSES = (
    HERE / "integration",
    HERE / "servers",
    HERE / "unit/runtime/test_running.py",
    HERE / "unit/cli/test_process.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("CI"):
        return
    for item in items:
        if any(item.path.is_relative_to(place) for place in PROCESSES):
            item.add_marker(pytest.mark.flaky(reruns=1))
        elif item.path.is_relative_to(HERE / "chaos"):  # a server that did not come back is no difference
            item.add_marker(pytest.mark.flaky(reruns=1, rerun_except="AssertionError"))
