"""An application's signature on a real broker: workers of two versions that start at once agree on one."""

from __future__ import annotations

import json
import threading

import pytest

import adstream as ads
from adstream._core import Plan, RawBatch
from adstream.errors import ConfigError
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.kafka import KafkaLog
from adstream.runtime.assignment import prepare
from adstream.runtime.manifest import protocol, signature, stored, topology_topic
from tests.integration.kafka.conftest import SESSION_MS
from tests.logs.conformance import KEPT, Member, unique, until
from tests.servers import Kafka

pytestmark = pytest.mark.servers


class Order(ads.Record):
    user: str
    a: int
    b: int


@ads.topology
def shop(app: ads.App, source: str, column: str) -> None:
    app.stream(source, Order, key="user").group_by("user").aggregate(total=ads.sum(column)).named("totals")


def plan(app: str, source: str, column: str) -> Plan:
    built = shop.build(source=source, column=column)
    return Plan(json.dumps({**built.plan, "app": app}), built.callables)


def test_those_who_start_at_once_agree(kafka: Kafka) -> None:
    app, source = unique("shop"), unique("orders")
    logs = [KafkaLog(kafka.bootstrap) for _ in range(4)]
    logs[0].create_topics([TopicSpec(source, 2, KEPT)])
    outcomes: list[tuple[str, str]] = []
    ready = threading.Barrier(4)

    def worker(log: KafkaLog, column: str) -> None:
        made = plan(app, source, column)
        ready.wait()
        try:
            prepare(log, made)
        except ConfigError as error:
            outcomes.append((column, str(error)))
        else:
            outcomes.append((column, ""))

    threads = [threading.Thread(target=worker, args=pair) for pair in zip(logs, "abab", strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    [winner] = {column for column, refused in outcomes if not refused}
    assert len(outcomes) == 4
    assert [bool(refused) for column, refused in sorted(outcomes) if column == winner] == [False, False]
    for column, refused in outcomes:
        assert column == winner or "the aggregate `totals` means something else now: total was sum(int)" in refused
    signature = stored(logs[0], app)
    assert signature is not None
    assert f'"name":"{winner}"' in json.dumps(signature, separators=(",", ":")).replace("\\", "")
    prepare(logs[1], plan(app, source, winner))
    for log in logs:
        log.close()


def test_an_internal_topic_that_would_forget_is_refused(one_log: KafkaLog) -> None:
    app, source = unique("shop"), unique("orders")
    one_log.create_topics(
        [TopicSpec(source, 2, KEPT), TopicSpec(f"{app}-0-changelog", 2, {"cleanup.policy": "compact"})]
    )
    with pytest.raises(ConfigError, match=r"cleanup\.policy=compact") as refused:
        prepare(one_log, plan(app, source, "a"))
    assert "retention.ms=604800000" in str(refused.value)
    assert "kafka-configs.sh" in str(refused.value)


def test_workers_from_before_tasks_were_numbered_by_partition_are_not_mixed_with(kafka: Kafka) -> None:
    """Both ways: beside one that runs, nobody of now starts; and one of then takes what is written now for newer than
    itself."""
    app, source = unique("shop"), unique("orders")
    log, theirs = KafkaLog(kafka.bootstrap), KafkaLog(kafka.bootstrap, session_ms=SESSION_MS)
    log.create_topics([TopicSpec(source, 2, KEPT), topology_topic(app), TopicSpec(f"{app}-tasks", 2)])
    made = plan(app, source, "a")
    old = dict(signature(json.loads(made.describe()), {source: 2}))
    old["formats"] = {"frame": old["formats"]["frame"]}
    outputs = [(topology_topic(app).name, 0, RawBatch([(0, 0, b"plan", json.dumps(old).encode(), [])]))]
    assert log.writer(unique("slot")).commit(outputs, {}, app, None) is Outcome.COMMITTED
    member = Member(theirs.leases(app, f"{app}-tasks"))
    until(lambda: bool(member.tasks), [member], "granted")

    with pytest.raises(ConfigError, match=r"another version of adstream.*protocol 1, and this one has 2"):
        prepare(log, made)
    assert log.partitions([f"{app}-0-changelog"]) == {}, "nothing was made"
    member.leave()
    prepare(log, made)
    now = stored(log, app)
    assert now is not None
    assert protocol(now) == 2
    then = {"frame": 1}  # what `check_readable` knew then
    assert {name for name, number in now["formats"].items() if number > then.get(name, 0)} == {"protocol"}
    log.close()
    theirs.close()
