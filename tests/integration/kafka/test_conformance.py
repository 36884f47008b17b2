"""What any log must do, on a real broker, with both readers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adstream.logs.kafka import KafkaLog
from tests.logs import administration
from tests.logs.conformance import CHECKS

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("check", CHECKS.values(), ids=[name.removeprefix("check_") for name in CHECKS])
def test_kafka(log: KafkaLog, check: Callable[[KafkaLog], None]) -> None:
    check(log)


@pytest.mark.parametrize("check", administration.CHECKS.values(), ids=administration.CHECKS)
def test_kafka_administration(one_log: KafkaLog, check: Callable[[KafkaLog], None]) -> None:
    check(one_log)
