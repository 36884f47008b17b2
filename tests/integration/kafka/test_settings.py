"""Client settings that cannot be: told at the start, not tried for ever."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import Consumer

from adstream.errors import ConfigError
from adstream.logs.kafka import KafkaLog
from tests.integration.kafka.conftest import SESSION_MS
from tests.logs.conformance import Member, make_topic, unique, until
from tests.servers import Kafka

pytestmark = pytest.mark.servers


def test_a_consumers_setting_that_is_no_value(kafka: Kafka) -> None:
    """Met at the first question about offsets, it was taken for a log in trouble: exit code 1 after 30 s."""
    with pytest.raises(ConfigError, match=r'Invalid value for configuration property "session\.timeout\.ms"') as error:
        KafkaLog(kafka.bootstrap, {"kafka.session.timeout.ms": "abc"})
    assert error.value.option == "kafka.session.timeout.ms"


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


def test_a_session_that_no_broker_takes(kafka: Kafka) -> None:
    """The worker waited for its tasks for ever, without a word."""
    log = KafkaLog(kafka.bootstrap, {"session.timeout.ms": "1900000", "max.poll.interval.ms": "2000000"})
    leases = log.leases(unique("group"), make_topic(log))
    leases.start()

    def ask() -> None:
        for _ in range(200):
            leases.poll()
            time.sleep(0.05)

    with pytest.raises(ConfigError, match="Invalid session timeout") as error:
        ask()
    assert error.value.option == "kafka.session.timeout.ms"
    leases.close()
    log.close()


def test_a_group_that_others_use_in_another_way(kafka: Kafka, caplog: pytest.LogCaptureFixture) -> None:
    """A consumer that has the application's id for its group: nobody of the application joins, and it is said why."""
    log = KafkaLog(kafka.bootstrap, session_ms=SESSION_MS)
    topic, group = make_topic(log), unique("group")
    stranger = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group, "session.timeout.ms": 6_000})
    assigned: list[object] = []
    stranger.subscribe([topic], on_assign=lambda *_: assigned.append(1))
    while not assigned:
        stranger.poll(0.1)
    member = Member(log.leases(group, topic))
    for _ in range(200):
        if "does not let this worker in" in caplog.text:
            break
        stranger.poll(0)
        member.turn()
        time.sleep(0.05)
    said = [r.levelname for r in caplog.records if "does not let this worker in" in r.getMessage()]
    assert said == ["WARNING"], "once"
    stranger.close()
    until(lambda: member.tasks == {0}, [member], "granted")
    member.leave()
    log.close()
