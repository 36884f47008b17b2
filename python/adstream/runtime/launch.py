"""Puts a worker together: tasks and topics, sinks with their targets, metrics; and runs it until it stops.

Everything else in the runtime is given its parts. Here they are made.
"""

from __future__ import annotations

import json
import logging
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

from adstream._core import Plan, SinkBuffer
from adstream.dsl.topology import Built
from adstream.errors import ConfigError
from adstream.interfaces import Listeners, Log, Target
from adstream.logs.files import FilesLog
from adstream.runtime import discovery, partitioning
from adstream.runtime.assignment import Assignment, prepare
from adstream.runtime.daemon import DaemonExecutor
from adstream.runtime.metrics import MetricsServer, WorkerCollector
from adstream.runtime.ports import Hooks, Sink
from adstream.runtime.positions import check_target, check_topic
from adstream.runtime.settings import Settings
from adstream.runtime.worker import Worker
from adstream.targets import make_target, option_of
from adstream.targets.delivery import FlushPolicy, SinkRunner, open_target, patiently

log = logging.getLogger(__name__)

Targets = Callable[[str, dict[str, Any]], Target]
"""(kind, options) -> a target, not yet opened."""


def clock_ms() -> int:
    return time.time_ns() // 1_000_000


def run(
    plan: Plan,
    settings: Settings,
    log_: Log,
    *,
    targets: Targets | None = None,
    hooks: Hooks | None = None,
    stop_at_end: bool = False,
    on_start: Callable[[Worker], None] = lambda worker: None,
    listeners: Listeners = Listeners(),  # noqa: B008 (frozen)
    log_option: str = "--log",
) -> Worker:
    """Runs one worker until it stops, and returns it. SIGTERM and SIGINT drain it (in the main thread).

    Args:
        targets: makes the sinks' targets; None: by `settings.connections`.
        log_option: what said which log, for errors.
        listeners: who is told what the worker goes through, and asked what follows an error.
        on_start: is handed the worker before it begins, for a view or a test that wants to watch or stop it.

    Raises:
        ConfigError: before anything is processed: a topic, a connection, a setting.
        FatalError: the run cannot go on.
    """
    settings = _reachable(settings)
    with ExitStack() as parts:
        # What options say is looked at first, so that a wrong URL is told before any server is asked.
        made = make_targets(plan, targets or partial(_target, settings), parts)
        assignment = prepare(
            log_,
            plan,
            edge_partitions=settings.edge_partitions or None,
            create_topics=settings.create_topics,
            log_option=log_option,
        )
        check_partitioning(plan, settings, log_)
        sinks = open_sinks(plan, assignment, settings, log_, made, parts)
        files = isinstance(log_, FilesLog) and log_.covers(assignment.user_sources)
        places = (plan, assignment, settings, log_, clock_ms, sinks, hooks or Hooks())
        worker = Worker(*places, stop_at_end=stop_at_end, files=files, listeners=listeners)
        if settings.metrics_port:
            ends = partial(log_.end_offsets, committed=True)
            collector = WorkerCollector(assignment.app, lambda: worker.status, ends)
            try:
                server = MetricsServer(collector, lambda: worker.status, clock_ms, settings.metrics_port, worker=worker)
            except OSError as error:
                raise ConfigError(
                    f"port {settings.metrics_port} cannot be had: {error.strerror}",
                    option="--metrics-port",
                    hint="give another one; worker k of `--workers` takes that port + k",
                ) from error
            parts.callback(server.close)
        _stop_on_signals(worker, parts)
        on_start(worker)
        worker.run()
    return worker


def run_built(
    built: Built,
    settings: Settings,
    log_: Log,
    *,
    on_start: Callable[[Worker], None] = lambda worker: None,
    look: Callable[[float], bool] | None = None,
    **options: Any,
) -> Worker:
    """`run` of a topology whose sources may be patterns: it starts again when there are new topics that they match.

    Args:
        look: waits until topics are looked for again; see `discovery.Watch`.
        options: those of `run`.

    Raises:
        ConfigError, FatalError: see `run`.
    """
    before: Worker | None = None
    while True:
        seen = discovery.found(built, log_)
        places = (Plan(seen.json, seen.callables), settings, log_)
        if not built.patterns or options.get("stop_at_end"):
            return run(*places, on_start=on_start, listeners=built.listeners, **options)
        with ExitStack() as watching:

            def begin(worker: Worker, before: Worker | None = before) -> None:
                on_start(worker)
                if before is not None and not before.starts_over:  # a signal that came between the two
                    worker.stop()
                watching.enter_context(discovery.Watch(built, seen, log_, worker.start_over, look))  # noqa: B023 (called here)

            before = run(*places, on_start=begin, listeners=built.listeners, **options)
        if not before.starts_over:
            return before


def check_partitioning(plan: Plan, settings: Settings, log_: Log) -> None:
    """Looks where records of keyed inputs lie, and says what is wrong with it (see `partitioning.py`).

    Raises:
        ConfigError: something is, and `partition_check` is `error`.
    """
    if settings.partition_check == "off":
        return
    topics = partitioning.keyed(json.loads(plan.describe()))
    if isinstance(log_, FilesLog):  # lines have no keys
        topics = [topic for topic in topics if not log_.covers([topic])]
    wrong = [sample for sample in partitioning.sample(log_, topics) if not sample.good]
    if wrong and settings.partition_check == "error":
        raise ConfigError("; ".join(map(str, wrong)), option="topics", hint=partitioning.HINT)
    for sample in wrong:
        log.warning("%s\nhint: %s", sample, partitioning.HINT)


def make_targets(plan: Plan, make: Targets, parts: ExitStack) -> dict[str, Target]:
    """The target of each sink, not yet opened; `parts` closes them.

    Raises:
        ConfigError: a connection is missing, or is no URL.
    """
    made: dict[str, Target] = {}
    for sink in json.loads(plan.describe())["sinks"]:
        made[sink["name"]] = target = make(sink["kind"], dict(sink["options"]))
        parts.callback(target.close)
    return made


def open_sinks(
    plan: Plan, assignment: Assignment, settings: Settings, log_: Log, made: Mapping[str, Target], parts: ExitStack
) -> dict[str, Sink]:
    """A runner for each sink, with a reader and a thread of its own, its target open; `parts` closes them."""
    sinks: dict[str, Sink] = {}
    for sink in assignment.sinks:
        name = sink["name"]
        target = made[name]
        place, partitions = (assignment.app, name, sink["columns"], sink["key"]), assignment.partitions[sink["topic"]]
        stored = open_target(target, *place, partitions=partitions, sleep=time.sleep, random=random.random)
        check_target(log_, assignment.app, sink["topic"], stored, option_of(sink["kind"]))
        if topic_id := assignment.ids.get(sink["topic"]):
            noted = patiently(partial(target.of_topic, topic_id), name, sleep=time.sleep, random=random.random)
            check_topic(assignment.app, sink["topic"], topic_id, noted, option_of(sink["kind"]))
        reader = log_.reader()
        parts.callback(reader.close)
        executor = DaemonExecutor(f"adstream-sink-{name}")
        parts.callback(executor.shutdown, wait=False, cancel_futures=True)
        sinks[name] = SinkRunner(
            name,
            sink["topic"],
            target,
            reader,
            partial(SinkBuffer, plan, name),
            executor=executor,
            random=random.random,
            policy=FlushPolicy(every_ms=settings.flush_every_ms),
        )
    return sinks


def _reachable(settings: Settings) -> Settings:
    """With the address that others can ask; without HTTP there is none."""
    if not settings.metrics_port:
        return replace(settings, application_server="")
    host, _, port = (settings.application_server or socket.gethostname()).partition(":")
    return replace(settings, application_server=f"{host}:{port or settings.metrics_port}")


def _target(settings: Settings, kind: str, options: dict[str, Any]) -> Target:
    return make_target(kind, options, settings.connections)


def _stop_on_signals(worker: Worker, parts: ExitStack) -> None:
    if threading.current_thread() is not threading.main_thread():
        return

    def stop(number: int, frame: FrameType | None) -> None:
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        parts.callback(signal.signal, number, signal.signal(number, stop))
