"""Client settings that cannot be: told at the start, not tried for ever."""

from __future__ import annotations

import pytest

from adstream.errors import ConfigError
from adstream.logs.kafka import KafkaLog
from tests.logs.conformance import Member, make_topic, unique, until
from tests.servers import Kafka

pytestmark = pytest.mark.servers


def test_a_consumers_setting_that_is_no_value(kafka: Kafka) -> None:
    """Met at the first question about offsets, it was taken for a log in trouble: exit code 1 after 30 s."""
    with pytest.raises(ConfigError, match=r'Invalid value for configuration property "session\.timeout\.ms"') as error:
        KafkaLog(kafka.bootstrap, {"kafka.session.timeout.ms": "abc"})
    assert error.value.option == "kafka"


@pytest.mark.parametrize("kind", ["native", "portable"])
def test_a_transaction_time_out_that_no_broker_takes(kafka: Kafka, kind: str) -> None:
    """The worker tried again for ever."""
    log = KafkaLog(kafka.bootstrap, {"kafka.transaction.timeout.ms": "1200000"}, writer=kind)
    with pytest.raises(ConfigError, match="larger than the maximum value allowed by the broker") as error:
        log.writer(unique("slot"))
    assert error.value.option == "transaction_timeout"
    assert "transaction.max.timeout.ms" in str(error.value)
    log.close()


def test_a_session_that_somebody_asks_for(kafka: Kafka) -> None:
    """It was overridden without a word; there are clusters that take no session as short as the default."""
    given = {"kafka.session.timeout.ms": "45000", "kafka.heartbeat.interval.ms": "3000"}
    log = KafkaLog(kafka.bootstrap, given)
    topic = make_topic(log)
    config = log.leases(unique("group"), topic)._config
    assert {name: int(config[name]) for name in ("session.timeout.ms", "heartbeat.interval.ms")} == {
        "session.timeout.ms": 45_000,
        "heartbeat.interval.ms": 3_000,
    }
    assert int(config["max.poll.interval.ms"]) >= 45_000, "the client takes no less"
    member = Member(log.leases(unique("group"), topic))
    until(lambda: member.tasks == {0}, [member], "granted")
    member.leave()
    log.close()
