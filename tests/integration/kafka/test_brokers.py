"""Three brokers: leaders and coordinators lie on different nodes, and one of them may go."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from adstream.interfaces import Log, Outcome, TopicSpec
from adstream.logs.kafka import KafkaLog
from tests.logs import conformance
from tests.logs.conformance import KEPT, Member, expected, output, read_all, unique, until, values
from tests.servers.kafka_cluster import KafkaCluster

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SESSION_MS = 3_000
CHECKS = (
    conformance.check_topics_are_created_once_and_never_with_another_partition_count,
    conformance.check_order_is_that_of_the_commits_per_partition,
    conformance.check_offsets_are_committed_with_the_outputs,
    conformance.check_what_a_crashed_commit_wrote_is_invisible,
    conformance.check_opening_a_slot_fences_its_holder,
    conformance.check_deleted_records_are_gone,
    conformance.check_leases_are_granted_shared_and_inherited,
    conformance.check_a_fence_lets_its_owner_commit_and_nobody_who_left,
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with KafkaCluster() as made:
        yield made


@pytest.fixture(params=["classic", "consumer"])
def log(cluster: KafkaCluster, request: pytest.FixtureRequest) -> Iterator[KafkaLog]:
    made = KafkaLog(cluster.bootstrap, {"group.protocol": request.param}, session_ms=SESSION_MS)
    yield made
    made.close()


@pytest.mark.parametrize("check", CHECKS, ids=[check.__name__.removeprefix("check_") for check in CHECKS])
def test_on_three(log: KafkaLog, check: Callable[[Log], None]) -> None:
    check(log)


@pytest.mark.timeout(180)
def test_a_broker_dies_and_commits_go_on(cluster: KafkaCluster) -> None:
    """Each node is killed and comes back in turn, so that every leader and coordinator moves; the same writer and the
    same lease go on, nothing is lost and nothing comes twice."""
    log = KafkaLog(cluster.bootstrap, session_ms=SESSION_MS)
    sink, leases, group = unique("sink"), unique("leases"), unique("group")
    log.create_topics([TopicSpec(sink, 3, KEPT), TopicSpec(leases, 3, KEPT)])
    member = Member(log.leases(group, leases))
    until(lambda: member.tasks == {0, 1, 2}, [member], "granted")
    slot = unique("slot")
    writer = log.writer(slot)
    committed = 0

    def go_on(commits: int) -> None:
        nonlocal committed, writer
        failures = 0
        while commits:
            member.turn()
            parts = [output(sink, [committed], p) for p in range(3)]
            outcome = writer.commit(parts, {(sink, p): committed + 1 for p in range(3)}, group, member.leases.fence())
            if outcome is Outcome.FATAL:  # what a worker does: a new writer; the log says what became of it
                writer.close()
                writer = log.writer(slot)
                at = log.committed(group, [(sink, 0)])[sink, 0]
                outcome = Outcome.COMMITTED if at == committed + 1 else Outcome.ABORTED
            if outcome is Outcome.COMMITTED:
                committed, commits, failures = committed + 1, commits - 1, 0
            else:
                failures += 1
                assert failures < 50

    go_on(20)
    for node in cluster.nodes:
        node.kill()
        go_on(20)
        node.start()
        go_on(20)
    for partition in range(3):
        assert values(read_all(log, sink, partition)) == expected(range(committed))
    assert log.committed(group, [(sink, p) for p in range(3)]) == {(sink, p): committed for p in range(3)}
    writer.close()
    member.leave()
    log.close()
