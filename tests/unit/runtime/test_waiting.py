"""Timers and questions in a real worker: real clock, real event loop, no further record."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import adstream as ads
from adstream import col
from adstream._core import Plan, RawBatch
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import launch
from adstream.runtime.settings import Settings
from adstream.runtime.worker import Worker

ROWS = 400
ANSWER_S = 0.05


class Event(ads.Record):
    n: int
    since: datetime


class Answer(Event):
    half: float


async def ask(row: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(ANSWER_S)
    return row | {"half": row["n"] / 2}


@ads.topology(name="waiting")
def topology(app: ads.App) -> None:
    answers = app.stream("in", Event).map_async(ask, schema=Answer, timeout="5s", capacity=100)
    answers.filter(ads.now() >= col("since")).named("held").to("out")


@pytest.mark.timeout(60)
def test_rows_are_asked_about_together_and_leave_by_the_clock() -> None:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("in", 1), TopicSpec("out", 1)])
    began = time.time()
    moment = datetime.fromtimestamp(began, UTC) + timedelta(seconds=4)
    past = datetime(2020, 1, 1, tzinfo=UTC)
    values = [json.dumps({"n": n, "since": (past if n % 2 else moment).isoformat()}).encode() for n in range(ROWS)]
    batch = RawBatch([(n, n, None, value, []) for n, value in enumerate(values)])
    assert log.writer("test").commit([("in", 0, batch)], {}, "g", None) is Outcome.COMMITTED  # type: ignore[arg-type]
    built = topology.build()
    workers: list[Worker] = []
    settings = Settings(app="waiting", create_topics=True)
    plan = Plan(built.json, built.callables)
    thread = threading.Thread(target=lambda: launch.run(plan, settings, log, on_start=workers.append), daemon=True)
    thread.start()
    reader, found = log.reader(), []
    reader.add("out", 0, 0)
    while len(found) < ROWS and time.time() < began + 40:
        while (read := reader.read("out", 0, 1000)) is not None:
            found += [(json.loads(record[3] or b"")["n"], time.time()) for record in read.records()]
        time.sleep(0.01)
    workers[0].stop()
    thread.join(30)
    assert not thread.is_alive()
    assert sorted(n for n, _ in found) == list(range(ROWS))
    at_once = [(n, at) for n, at in found if n % 2]
    held = [(n, at) for n, at in found if n % 2 == 0]
    assert [n for n, _ in at_once] == list(range(1, ROWS, 2))
    assert [n for n, _ in held] == list(range(0, ROWS, 2))
    assert max(at for _, at in at_once) - began < ROWS * ANSWER_S / 2  # one after the other they would take 20 s
    assert min(at for _, at in held) >= moment.timestamp()
