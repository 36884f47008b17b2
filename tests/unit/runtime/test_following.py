"""Whoever follows a changelog for long holds what its owner holds, and no more: what ages without an entry that says so ages
there, too. Of real tasks, without a log: what a task writes is what another restores."""

from __future__ import annotations

import json
import random
from datetime import datetime
from typing import Annotated, Any

import pytest

import adstream as ads
from adstream._core import Plan, RawBatch

HOUR = 3_600_000
START = 1_700_000_000_000 // HOUR * HOUR


def windows(stream: Any) -> None:
    stream.group_by("user").windowed_by(ads.tumbling("1h", grace="1m")).count().named("counts").to("out")


def mortal(stream: Any) -> None:
    stream.group_by("user").count(ttl="2h").named("counts").to("out")


def once(stream: Any) -> None:
    stream.deduplicate("id", within="1h").named("once").to("out")


class Event(ads.Record):
    user: str
    id: int
    at: Annotated[datetime, ads.epoch("ms")]


def plan_of(shape: Any) -> Plan:
    @ads.topology
    def job(app: ads.App) -> None:
        shape(app.stream("in", Event, timestamp="at", key="user"))

    built = job.build()
    return Plan(built.json, built.callables)


def keys_of(task: Any) -> int:
    return sum(stats.get("state_keys", 0) for stats in task.stats()["nodes"].values())


def made(plan: Plan) -> Any:
    return plan.task(0, 0, {"in": 1, "out": 1}, json.dumps({"exactly_once": True}))


@pytest.mark.parametrize("shape", [windows, mortal, once])
def test_a_follower_holds_what_its_owner_holds(shape: Any) -> None:
    plan, rng = plan_of(shape), random.Random(4)
    owner, follower = made(plan), made(plan)
    owner.begin(0)
    offset, most, held = 0, 0, []
    for hour in range(60):
        rows = []
        for _ in range(200):
            value = {
                "user": f"u{rng.randrange(100)}",
                "id": rng.randrange(10**9),
                "at": START + hour * HOUR + rng.randrange(HOUR),
            }
            rows.append((offset, value["at"], value["user"].encode(), json.dumps(value).encode(), []))
            offset += 1
        owner.feed("in", 0, RawBatch(rows))
        while owner.process(1_000):
            pass
        generation = owner.close_generation()
        owner.committed()
        for topic, _, batch in generation.outputs:
            if topic.endswith("-changelog"):
                follower.restore(batch)
        most = max(most, keys_of(owner))
        held.append(keys_of(follower))
        if shape is not once:  # ids are forgotten when their index is full
            assert held[-1] == keys_of(owner)
    assert 50 < most < 10_000
    assert max(held) <= 2 * most + 5_000  # of 12 000 that came
    follower.feed("in", 0, RawBatch([], offset))  # the restore is over
    assert keys_of(follower) <= max(held)
