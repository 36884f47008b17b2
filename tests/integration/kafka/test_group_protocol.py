"""Leases under the newer group protocol (KIP-848, `kafka.group.protocol=consumer`), where the broker assigns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from adstream.interfaces import Log
from adstream.logs.kafka import KafkaLog
from tests.logs import conformance
from tests.servers import Kafka

pytestmark = pytest.mark.servers

CHECKS = (
    conformance.check_offsets_are_committed_with_the_outputs,
    conformance.check_what_a_crashed_commit_wrote_is_invisible,
    conformance.check_leases_are_granted_shared_and_inherited,
    conformance.check_a_fence_lets_its_owner_commit_and_nobody_who_left,
)


@pytest.fixture(scope="module")
def newer(kafka: Kafka) -> Iterator[KafkaLog]:
    log = KafkaLog(kafka.bootstrap, {"group.protocol": "consumer"})
    yield log
    log.close()


@pytest.mark.parametrize("check", CHECKS, ids=[check.__name__.removeprefix("check_") for check in CHECKS])
def test_newer(newer: KafkaLog, check: Callable[[Log], None]) -> None:
    check(newer)
