"""`adstream demo`: ads.performance on generated traffic, in one process, without a server.

    producer (a thread) ──ad-events──> the real worker (this thread) ──> SQLite: ad_performance_metrics_realtime
       paced, 40 minutes of              on the embedded log                      product_metrics
       event time, whatever              │
       the number of events              └─> ad-performance, ad-performance-late, ad-events-dlq
                                                            view (rich's thread) reads all of them: `look.py`

The job's second sink is a Redis hash; without `--redis` its rows go to the table `product_metrics` instead. When all
events have arrived, the worker is stopped and a second one, started on the same log, restores its state and works
through the rest to the end: what it prints is final, and compared with a truth computed apart.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from adstream._core import Plan
from adstream.cli import jobs, messages
from adstream.cli.appending import Appender
from adstream.cli.generating import TOPIC, chunks, placed
from adstream.cli.look import Look, final_report, live_view
from adstream.cli.running import stop_on_signals
from adstream.cli.truth_rows import Apart
from adstream.errors import ConfigError
from adstream.interfaces import Log, Target, TopicSpec
from adstream.jobs.ads.traffic import Traffic, as_log, records
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import launch
from adstream.runtime.settings import Settings
from adstream.runtime.worker import Worker
from adstream.targets import make_target

JOB = "ads.performance"
EVENT_TIME_S = 2_400
PACED_S = 15.0
TICKS_PER_S = 10
CHUNK_MAX = 10_000
PLAIN_WIDTH = 110
"""Columns of the report where there is no terminal."""


@dataclass
class Demo:
    """What the threads share."""

    traffic: Traffic
    log: Log
    seconds: float
    worker: Worker | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    """The user wants an end."""
    produced: threading.Event = field(default_factory=threading.Event)
    failure: BaseException | None = None

    def stop(self) -> None:
        self.stopping.set()
        if self.worker is not None:
            self.worker.stop()

    def produce(self) -> None:
        """Sends the traffic at its pace, then stops the worker once it has caught up."""
        appender = Appender(self.log, "adstream-demo")
        size = CHUNK_MAX
        if self.seconds:
            size = max(1, min(CHUNK_MAX, int(self.traffic.events / (self.seconds * TICKS_PER_S))))
        began, sent = time.monotonic(), 0
        try:
            for chunk in chunks(as_log(records(self.traffic)), size):
                sent += len(chunk)
                due = began + self.seconds * sent / self.traffic.events
                if self.stopping.wait(max(0.0, due - time.monotonic())):
                    return
                appender.append(placed(chunk))
            self._await_caught_up()
        except BaseException as error:
            self.failure = error
        finally:
            self.produced.set()
            appender.close()
            if self.worker is not None:
                self.worker.stop()

    def _await_caught_up(self) -> None:
        """Until the worker has committed everything that was sent, at most for as long as its second life has time
        to do the rest."""
        partitions = [(TOPIC, p) for p in range(self.traffic.partitions)]
        ends = self.log.end_offsets(partitions, committed=True)
        deadline = time.monotonic() + max(2.0, self.seconds / 4)
        while time.monotonic() < deadline and not self.stopping.wait(0.1):
            positions = self.log.committed("ads-performance", partitions)
            if all((positions[tp] or 0) >= end for tp, end in ends.items()):
                return


def demo(
    seed: int, events: int, directory: Path | None, redis: str | None, seconds: float | None, *, check: bool
) -> None:
    console = Console()
    live = console.is_terminal
    if not live:
        console = Console(width=PLAIN_WIDTH)
    messages.configure(quiet=True)
    home = _home(directory)
    traffic = Traffic(seed=seed, events=events, rate=max(1, events // EVENT_TIME_S))
    log = EmbeddedLog(home / "log" if directory is not None else None, sync=False)
    log.create_topics([TopicSpec(TOPIC, traffic.partitions)])
    state = Demo(traffic, log, (PACED_S if live else 0.0) if seconds is None else seconds)
    database = home / "demo.db"
    began = time.monotonic()
    with ExitStack() as parts:
        look = parts.enter_context(Look(log, database))
        apart = parts.enter_context(closing(Apart(traffic))) if check else None
        with _view(console, look, state) if live else nullcontext():
            _run(state, database, redis)
        took = time.monotonic() - began
        seen = look.now()
        interrupted = state.stopping.is_set()
        expected = None
        if apart is not None and not interrupted:
            with console.status("computing the truth apart, in plain Python …") if live else nullcontext():
                expected = apart.get()
        differences = None if expected is None else look.differences(expected)
        console.print(final_report(seen, traffic, database, took, expected, differences, redis, interrupted))
    log.close()
    if differences:
        raise AssertionError("the demo computed something else than the truth: this is a defect of adstream")


def _run(state: Demo, database: Path, redis: str | None) -> None:
    """The worker's two lives."""
    built = jobs.find(JOB).build()
    plan = Plan(built.json, built.callables)
    connections = {"sql": f"sqlite:///{database}", **({"redis": redis} if redis else {})}
    settings = Settings(create_topics=True, connections=connections, flush_every_ms=250, drain_timeout_ms=10_000)

    def target(kind: str, options: dict[str, Any]) -> Target:
        if kind == "redis_hash" and not redis:
            kind, options = "sql", {"table": "product_metrics"}
        return make_target(kind, options, connections)

    producer = threading.Thread(target=state.produce, name="adstream-demo-producer", daemon=True)

    def watch(worker: Worker) -> None:
        state.worker = worker
        stop_on_signals(state.stop)
        if not state.produced.is_set():
            producer.start()

    try:
        launch.run(plan, settings, state.log, targets=target, on_start=watch)
    except BaseException:
        state.stopping.set()
        raise
    finally:
        if producer.is_alive():
            producer.join()
    if state.failure is not None:
        raise state.failure
    if not state.stopping.is_set():
        launch.run(plan, settings, state.log, targets=target, stop_at_end=True, on_start=watch)


@contextmanager
def _view(console: Console, look: Look, state: Demo) -> Iterator[None]:
    began = time.monotonic()

    def render() -> Any:
        status = state.worker.status if state.worker is not None else None
        return live_view(look.now(), state.traffic, status, time.monotonic() - began, done=state.produced.is_set())

    with Live(get_renderable=render, console=console, refresh_per_second=4, transient=True):
        yield


def _home(directory: Path | None) -> Path:
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="adstream-demo-"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ConfigError(f"`{directory}` is not empty", option="--dir", hint="the demo starts from nothing")
    except OSError as error:
        raise ConfigError(f"`{directory}` cannot be used: {error.strerror}", option="--dir") from error
    return directory.resolve()
