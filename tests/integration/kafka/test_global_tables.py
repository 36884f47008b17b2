"""A global table on a real broker: two workers, each with the whole of a topic of several partitions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

import adstream as ads
from adstream._core import Plan, RawBatch
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.kafka import KafkaLog
from adstream.runtime.assignment import prepare
from adstream.runtime.settings import Settings
from adstream.runtime.worker import Worker
from tests.logs.conformance import KEPT, read_all, unique

if TYPE_CHECKING:
    from adstream._core import Record

pytestmark = pytest.mark.servers

S = ads.serdes.string
PARTITIONS = 3
WAIT_S = 60.0


def built(app_id: str) -> ads.Built:
    @ads.topology(name=app_id)
    def shops(app: ads.App) -> None:
        names = app.global_table(f"{app_id}-names", key=S, value=S)
        orders = app.stream(f"{app_id}-orders", key=S, value=S)
        orders.left_join(names, lambda key, order: order[0], lambda order, name: f"{order} {name}").to(
            f"{app_id}-out", value=S
        )

    return shops.build()


def send(log: KafkaLog, topic: str, partition: int, *records: tuple[str, str | None]) -> None:
    rows: list[Record] = [
        (n, 1_000, key.encode(), None if value is None else value.encode(), [])
        for n, (key, value) in enumerate(records)
    ]
    writer = log.writer(unique("test"))
    assert writer.commit([(topic, partition, RawBatch(rows))], {}, "g", None) is Outcome.COMMITTED
    writer.close()


def step_until(workers: list[Worker], condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        moved = [worker.step() for worker in workers]
        if not any(moved):
            time.sleep(0.01)


def test_every_worker_has_the_whole_table(log: KafkaLog) -> None:
    app = unique("globals")
    names, orders, out = f"{app}-names", f"{app}-orders", f"{app}-out"
    log.create_topics([TopicSpec(t, PARTITIONS, KEPT) for t in (names, orders, out)])
    for p, letter in enumerate("abc"):
        send(log, names, p, (letter, "old"), (letter, letter.upper()), ("x", None))
        send(log, orders, p, *((f"k{p}", f"{other}{p}") for other in "abc"))
    plan = Plan(built(app).json, built(app).callables)

    def clock() -> int:
        return time.time_ns() // 1_000_000

    def worker(slot: int) -> Worker:
        assignment = prepare(log, plan, create_topics=True)
        return Worker(plan, assignment, Settings(app=app, slot=slot, commit_interval_ms=50), log, clock, {})

    def found() -> list[str]:
        return sorted((row[3] or b"").decode() for p in range(PARTITIONS) for row in read_all(log, out, p))

    workers = [worker(0), worker(1)]
    expected = [f"{letter}{p} {letter.upper()}" for letter in "abc" for p in range(PARTITIONS)]
    step_until(workers, lambda: found() == sorted(expected))
    step_until(workers, lambda: all(worker.tasks for worker in workers))

    send(log, names, 2, ("a", "Anna"))
    seen = [worker._globals for worker in workers]
    step_until(workers, lambda: all(g is not None and g.applied == 10 for g in seen))
    for p in range(PARTITIONS):
        send(log, orders, p, ("k", f"a-later-{p}"))
    expected += [f"a-later-{p} Anna" for p in range(PARTITIONS)]
    step_until(workers, lambda: found() == sorted(expected))
    for one in workers:
        one.stop()
    step_until(workers, lambda: all(one.state.value == "not_running" for one in workers))

    again = worker(0)  # reads it all once more, and answers as before
    send(log, orders, 0, ("k", "a-last"))
    expected.append("a-last Anna")
    step_until([again], lambda: found() == sorted(expected))
    again.drain(10_000)
