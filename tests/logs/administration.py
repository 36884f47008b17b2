"""What any `Administered` log must do, as functions that take one, beside `conformance`."""

from __future__ import annotations

import pytest

from adstream._core import RawBatch
from adstream.errors import ConfigError
from adstream.interfaces import Administered, Outcome, TopicSpec
from tests.logs.conformance import Member, append, expected, make_topic, read_all, unique, until, values


def check_a_deleted_topic_is_gone_and_can_be_made_again(log: Administered) -> None:
    topic, group = make_topic(log, 2), unique("group")
    append(log, topic, [1, 2, 3])
    assert topic in log.topics()
    log.delete_topics([topic, unique("never-was")])
    assert topic not in log.topics()
    assert log.partitions([topic]) == {}
    log.create_topics([TopicSpec(topic, 1, {"retention.ms": "-1"})])
    assert log.end_offsets([(topic, 0)], committed=False) == {(topic, 0): 0}
    assert log.committed(group, [(topic, 0)]) == {(topic, 0): None}
    append(log, topic, [4])
    assert values(read_all(log, topic)) == expected([4])


def check_offsets_of_a_time(log: Administered) -> None:
    """The first record that is not older, in the order of the log; what comes later may be older again."""
    topic = make_topic(log, 2)
    writer = log.writer(unique("append"))
    times = [5_000, 7_000, 6_000, 9_000]
    batch = RawBatch([(i, at, b"k", b"v", []) for i, at in enumerate(times)])
    assert writer.commit([(topic, 0, batch)], {}, unique("group"), None) is Outcome.COMMITTED
    writer.close()
    there, empty = (topic, 0), (topic, 1)
    for at, offset in ((0, 0), (5_000, 0), (5_001, 1), (6_000, 1), (7_000, 1), (7_001, 3), (9_000, 3)):
        assert log.offsets_at({there: at}) == {there: offset}, at
    end = log.end_offsets([there], committed=True)[there]
    found = log.offsets_at({there: 9_001, empty: 5})
    assert len(times) <= found[there] <= end  # the transaction's marker is not a record, and has a time
    assert found[empty] == 0
    assert log.offsets_at({}) == {}


def check_a_group_is_reset_when_nobody_is_in_it(log: Administered) -> None:
    lease, source, other, group = make_topic(log, 2), make_topic(log), make_topic(log), unique("group")
    append(log, source, range(10))
    append(log, other, range(10))
    writer = log.writer(unique("slot"))
    owner = Member(log.leases(group, lease))
    until(lambda: owner.tasks == {0, 1}, [owner], "granted")
    assert len(log.members(group)) == 1
    fence = owner.leases.fence()
    assert writer.commit([], {(source, 0): 7, (other, 0): 5}, group, fence) is Outcome.COMMITTED
    with pytest.raises(ConfigError, match=f"`{group}` has members"):
        log.reset_group(group, {(source, 0): 2})
    assert log.committed(group, [(source, 0), (other, 0)]) == {(source, 0): 7, (other, 0): 5}
    owner.leave()
    until(lambda: not log.members(group), [], "left")
    log.reset_group(group, {(source, 0): 2})
    assert log.committed(group, [(source, 0), (other, 0)]) == {(source, 0): 2, (other, 0): None}
    log.reset_group(group, {})
    assert log.committed(group, [(source, 0)]) == {(source, 0): None}
    log.reset_group(unique("never-was"), {(source, 0): 3})
    writer.close()


CHECKS = {name: check for name, check in sorted(globals().items()) if name.startswith("check_")}
"""For `pytest.mark.parametrize`."""
