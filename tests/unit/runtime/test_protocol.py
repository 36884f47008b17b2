"""Workers of two versions that do not agree on who does what are not in one group."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adstream._core import RawBatch
from adstream.errors import ConfigError
from adstream.interfaces import Log, Outcome
from adstream.runtime import manifest
from adstream.runtime.assignment import prepare
from adstream.runtime.lifecycle import WorkerState
from tests.unit.runtime.cluster import Cluster
from tests.unit.runtime.echo_task import APP, EchoPlan

TOPOLOGY = manifest.topology_topic(APP).name


def rewrite(log: Log, protocol: int | None) -> None:
    """As a worker of another version says it; None: of one from before there was a protocol."""
    signature = dict(manifest.stored(log, APP) or {})
    formats = {name: n for name, n in signature["formats"].items() if name != "protocol"}
    signature["formats"] = formats if protocol is None else {**formats, "protocol": protocol}
    record: Any = (0, 0, manifest.KEY, json.dumps(signature).encode(), [])
    outputs = [(TOPOLOGY, 0, RawBatch([record]))]
    assert log.writer("another").commit(outputs, {}, APP, None) is Outcome.COMMITTED


@pytest.mark.parametrize("other", [None, manifest.PROTOCOL + 1])
def test_who_starts_beside_workers_of_another_protocol_is_refused(other: int | None) -> None:
    cluster = Cluster()
    cluster.worker()
    cluster.turns(5)
    rewrite(cluster.log, other)
    slept: list[float] = []
    with pytest.raises(ConfigError, match="another version of adstream") as refused:
        prepare(cluster.log, EchoPlan(), sleep=slept.append)
    assert f"protocol {other or 1}, and this one has {manifest.PROTOCOL}" in str(refused.value)
    assert "stop all its workers first" in str(refused.value)
    assert sum(slept) > 6, "somebody who was killed is a member until his session ends"


@pytest.mark.parametrize("other", [None, manifest.PROTOCOL + 1])
def test_when_nobody_of_another_protocol_runs_any_more_it_starts(other: int | None) -> None:
    cluster = Cluster()
    cluster.send_random(20)
    cluster.leave(cluster.worker())
    rewrite(cluster.log, other)
    cluster.worker()
    cluster.send_random(20, 1)
    cluster.settle()
    cluster.check()
    signature = manifest.stored(cluster.log, APP)
    assert signature is not None
    assert manifest.protocol(signature) == manifest.PROTOCOL


@pytest.mark.parametrize("other", [None, manifest.PROTOCOL + 1])
def test_who_runs_leaves_when_one_of_another_protocol_starts(other: int | None) -> None:
    """One that does not look, or looked before this one had joined."""
    cluster = Cluster()
    worker = cluster.worker()
    cluster.turns(5)
    rewrite(cluster.log, other)
    with pytest.raises(ConfigError, match="another version of adstream"):
        cluster.turns(5)
    assert worker.state is WorkerState.ERROR


def test_what_was_said_before_it_started_is_of_no_account() -> None:
    cluster = Cluster()
    cluster.leave(cluster.worker())
    rewrite(cluster.log, None)
    rewrite(cluster.log, manifest.PROTOCOL + 1)
    cluster.worker()
    cluster.send_random(20, 1)
    cluster.settle()
    cluster.check()
