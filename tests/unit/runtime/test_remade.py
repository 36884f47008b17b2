"""A topic that was deleted and made again is noticed, whatever its length is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from adstream.errors import ConfigError, LogUnavailableError
from adstream.interfaces import TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import manifest
from adstream.runtime.assignment import prepare
from adstream.runtime.lifecycle import WorkerState
from adstream.runtime.remade import MISSED_MAX, SILENT_MS
from tests.unit.runtime.cluster import PARTITIONS, Cluster
from tests.unit.runtime.echo_task import APP, CHANGELOG_0, EDGE, SINK, EchoPlan

READ = ("in", EDGE, CHANGELOG_0, SINK)


def remake(cluster: Cluster, topic: str, *, rows: int = 500) -> None:
    """It is longer than before: no position in it looks wrong."""
    log = cluster.log
    assert isinstance(log, EmbeddedLog)
    log.delete_topics([topic])
    log.create_topics([TopicSpec(topic, PARTITIONS)])
    if topic == "in":
        cluster.send_random(rows, 7)


def hide(cluster: Cluster, topic: str, when: Callable[[], bool] = lambda: True) -> None:
    """Questions do not find it. (Kafka's readers wait for a topic that is gone; this log's would say so.)"""
    ids, partitions = cluster.log.topic_ids, cluster.log.partitions
    cluster.log.topic_ids = lambda topics: without(topic, ids(topics), when)  # type: ignore[method-assign]
    cluster.log.partitions = lambda topics: without(topic, partitions(topics), when)  # type: ignore[method-assign]


def without(topic: str, found: dict[str, Any], when: Callable[[], bool]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != topic or not when()}


@pytest.mark.parametrize("topic", READ)
def test_under_a_running_worker(topic: str) -> None:
    cluster = Cluster(EchoPlan(sink=True))
    worker = cluster.worker()
    cluster.send_random(50)
    cluster.settle()
    remake(cluster, topic)
    with pytest.raises(ConfigError, match=f"since `{APP}` began, `{topic}` was deleted and made again") as error:
        cluster.turns(1_000)
    assert "`adstream reset JOB`" in str(error.value)
    assert worker.state is WorkerState.ERROR
    with pytest.raises(ConfigError, match="deleted and made again"):  # until somebody decides
        cluster.worker()


@pytest.mark.parametrize("topic", READ)
def test_one_that_goes_under_a_running_worker_is_told(topic: str) -> None:
    """It waited for more of it for ever, in good health, or aborted one commit after the other."""
    cluster = Cluster(EchoPlan(sink=True))
    worker = cluster.worker()
    cluster.send_random(50)
    cluster.settle()
    hide(cluster, topic)
    with pytest.raises(ConfigError, match=f"since `{APP}` began, `{topic}` was deleted: "):
        cluster.turns(2_000)
    assert worker.state is WorkerState.ERROR


def test_an_output_that_goes_under_a_running_worker_is_told() -> None:
    cluster = Cluster()
    cluster.worker()
    cluster.send_random(50)
    cluster.settle()
    hide(cluster, "out")
    with pytest.raises(
        ConfigError, match=r"^topics: `out` was deleted, and nothing that is written there can be committed"
    ):
        cluster.turns(2_000)


@pytest.mark.parametrize("topic", READ)
def test_while_nobody_ran(topic: str) -> None:
    cluster = Cluster(EchoPlan(sink=True))
    cluster.worker()
    cluster.send_random(50)
    cluster.settle()
    cluster.leave(cluster.workers[0])
    remake(cluster, topic)
    with pytest.raises(ConfigError, match=f"`{topic}` was deleted and made again"):
        cluster.worker()


def test_one_that_is_gone_is_not_made_anew_without_a_word() -> None:
    """It was: an empty changelog under positions that go on, or rows on their way to a sink that nobody will ever see."""
    cluster = Cluster(EchoPlan(sink=True))
    cluster.worker()
    cluster.send_random(50)
    cluster.settle()
    cluster.leave(cluster.workers[0])
    assert isinstance(cluster.log, EmbeddedLog)
    cluster.log.delete_topics([SINK, CHANGELOG_0])
    with pytest.raises(ConfigError, match=f"`{CHANGELOG_0}`, `{SINK}` were deleted: "):
        cluster.worker()
    assert cluster.log.partitions([SINK, CHANGELOG_0]) == {}


def test_an_output_may_be_made_again() -> None:
    """Nobody has a position in it."""
    cluster = Cluster()
    worker = cluster.worker()
    cluster.send_random(50)
    cluster.settle()
    cluster.leave(worker)
    remake(cluster, "out")
    cluster.worker()
    cluster.turns(50)


def test_an_application_from_before_ids_gets_them() -> None:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("in", PARTITIONS), TopicSpec("out", PARTITIONS)])
    log.topic_ids = lambda topics: {}  # type: ignore[method-assign]
    prepare(log, EchoPlan())
    assert (manifest.stored(log, APP) or {})["ids"] == {}
    del log.topic_ids
    prepare(log, EchoPlan())
    assert sorted((manifest.stored(log, APP) or {})["ids"]) == sorted({"in", EDGE, CHANGELOG_0, "echo-1-changelog"})


def test_an_input_that_gets_partitions_under_a_running_worker() -> None:
    """Nobody reads the new ones: a start is refused, and who runs already would go on without them, without a word."""
    cluster = Cluster()
    worker = cluster.worker()
    cluster.send_random(50)
    cluster.settle()
    real = cluster.log.partitions
    cluster.log.partitions = lambda topics: {  # type: ignore[method-assign]
        topic: count + 1 if topic == "in" else count for topic, count in real(topics).items()
    }
    with pytest.raises(ConfigError, match=f"input `in` had {PARTITIONS} partitions and has {PARTITIONS + 1}") as error:
        cluster.turns(1_000)
    assert f"--app {APP}-2" in str(error.value)
    assert worker.state is WorkerState.ERROR


@pytest.mark.parametrize("again", [True, False])
def test_without_its_topic_of_leases_a_group_gives_nobody_anything(again: bool) -> None:
    cluster = Cluster()
    worker = cluster.worker()
    cluster.send_random(50)
    cluster.settle()
    log, topic = cluster.log, f"{APP}-tasks"
    assert isinstance(log, EmbeddedLog)
    count = log.partitions([topic])[topic]
    log.delete_topics([topic])
    if again:
        log.create_topics([TopicSpec(topic, count)])
    what = "deleted and made again: nobody" if again else "deleted: nobody"
    with pytest.raises(ConfigError, match=f"`{topic}`, by which workers share tasks, was {what}"):
        cluster.turns(2_000)
    assert worker.state is WorkerState.ERROR
    cluster.workers.clear()
    cluster.worker()  # a start makes it anew
    cluster.send_random(50, 3)
    cluster.settle()
    cluster.check()


@pytest.mark.parametrize("unknown", [f"{APP}-tasks", "in", EDGE, "out"])
def test_a_broker_that_does_not_know_a_topic_for_a_moment_is_no_reason_to_end(unknown: str) -> None:
    cluster = Cluster()
    cluster.worker()
    real, looks = cluster.log.topic_ids, 0

    def topic_ids(topics: Sequence[str]) -> dict[str, str]:
        nonlocal looks
        looks += 1
        return real(topics)

    cluster.log.topic_ids = topic_ids  # type: ignore[method-assign]
    hide(cluster, unknown, lambda: looks % MISSED_MAX != 0)
    cluster.send_random(50)
    cluster.turns(2_000)
    assert looks > 2 * MISSED_MAX
    cluster.check()


def test_a_log_that_says_nothing_is_told_by_a_worker_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It met no error, since it had nothing to commit, and was `running` and ready while the broker was away."""
    cluster = Cluster()
    worker = cluster.worker()
    cluster.send_random(50)
    cluster.settle()
    cluster.turns(300)
    assert worker.status.ready

    def nobody(topics: Sequence[str]) -> dict[str, str]:
        raise LogUnavailableError("nobody answers")

    with monkeypatch.context() as away:
        away.setattr(cluster.log, "topic_ids", nobody)
        cluster.turns(SILENT_MS // 10 + 500)
        assert worker.state is WorkerState.RUNNING
        assert (worker.status.trouble or "").startswith("the log has not answered for ")
        assert not worker.status.ready
    cluster.turns(500)
    assert worker.status.trouble is None
    assert worker.status.ready
