"""`adstream run` and `adstream replay`: one worker here, or a supervisor over several processes."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

import typer

from adstream import Built
from adstream.cli import messages
from adstream.cli import platform as platforms
from adstream.cli.jobs import platform_jobs, prepare
from adstream.cli.logs import open_log
from adstream.cli.options import Chosen, RunOptions, inputs_from
from adstream.cli.progress import Progress
from adstream.errors import ConfigError, ExitCode
from adstream.formats.registry import connect
from adstream.runtime.settings import PREFIX, Settings
from adstream.runtime.supervisor import PARENT, Program, Supervisor, end_with
from adstream.targets import sql_function

log = logging.getLogger(__name__)

EXIT_AT_ONCE = 130


def start(job: str, options: RunOptions, *, bars: bool = False) -> None:
    """Until it has stopped. Raises ConfigError, TopologyError, FatalError."""
    tell_where_on_request()
    if (platform := platform_jobs(job)) is not None:
        platforms.start(job, *platform, options, bars=bars)
        return
    if supervisor := os.environ.get(PARENT):
        end_with(int(supervisor))
    chosen, built = prepare(job, options)
    if texts := getattr(options, "from_", None):
        chosen = replace(chosen, inputs={**chosen.inputs, **inputs_from(texts, built.inputs)})
    messages.configure(chosen.verbose, chosen.log_format)
    if not chosen.log_named and not chosen.inputs:
        raise ConfigError(
            "which log?", option="--log", hint="give --bootstrap HOST:PORT, --log dir:PATH or --input TOPIC=FILE.jsonl"
        )
    settings, supervised = chosen.settings, PREFIX + "SLOT" in os.environ
    if settings.workers > 1 and not supervised:
        if not settings.bootstrap:
            raise ConfigError("only Kafka can be shared by several processes", option="--workers")
        command = [sys.executable, "-m", "adstream.cli", *sys.argv[1:]]
        patience = settings.drain_timeout_ms / 1000 + platforms.STOPPING_S
        program = Program(command, settings.workers, to_the_end=chosen.stop_at_end)
        raise typer.Exit(Supervisor([program], drain_timeout_s=patience).run())
    try:
        work(built, _fitted(settings), chosen, bars=bars)
    except ConfigError as error:
        if not texts or error.option != "--input" or getattr(options, "input", None):
            raise
        raise ConfigError(error.message, option="--from", hint=error.hint) from error


def work(built: Built, settings: Settings, chosen: Chosen, *, bars: bool) -> None:
    """One worker, in this process."""
    from adstream.runtime import launch
    from adstream.runtime.worker import Worker

    connect(built.callables, settings.registry)
    databases = sql_function.connect(built.callables, settings.connections)
    place = open_log(settings, chosen.inputs, option=chosen.log_option or "--input")
    progress = Progress(place, built, bars=bars) if chosen.stop_at_end else None
    began = time.monotonic()

    def watch(worker: Worker) -> None:
        stop_on_signals(worker.stop)
        if progress is not None:
            progress.watch(worker)

    try:
        worker = launch.run_built(
            built,
            settings,
            place,
            stop_at_end=chosen.stop_at_end,
            on_start=watch,
            log_option=chosen.log_option or "--input",
        )
    finally:
        with _ignoring_signals():
            if progress is not None:
                progress.close()
            databases.close()
            place.close()
    if progress is not None:
        took = time.monotonic() - began
        commits = worker.status.commits.get("committed", 0)
        read = worker.status.read or 0
        typer.echo(f"{read:,} record{'s' * (read != 1)} read in {took:.1f} s, {commits} commits", err=True)
        if dead := worker.status.dead:
            kept = f"`adstream dlq list` shows {'them' if dead != 1 else 'it'}"
            if not settings.bootstrap and not settings.data:
                kept = "they were in memory, and are gone: `--log dir:PATH` keeps them"
            typer.echo(f"{dead:,} dead letter{'s' * (dead != 1)}: {kept}", err=True)
        for topic, count in progress.gone.items():
            if count:
                typer.echo(f"{count:,} offsets of `{topic}` were deleted before this job first read them", err=True)
    if worker.drain_timed_out:
        # At once: a call to a target that never answers has a thread, and Python would wait for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ExitCode.UNDRAINED)


def tell_where_on_request() -> None:
    """SIGUSR1, which would end the process, makes it say where its threads stand (on stderr): for one that seems to hang."""
    if sys.__stderr__ is not None and hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, file=sys.__stderr__)


def stop_on_signals(stop: Callable[[], None]) -> None:
    """SIGTERM and the first SIGINT drain; a second SIGINT ends the process at once: what was not committed is done
    again by the next start. (A terminal's Ctrl-C reaches supervisor and workers, and the supervisor's SIGTERM
    follows it: that one must not count.)"""
    if threading.current_thread() is not threading.main_thread():
        return
    interrupts = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            os._exit(EXIT_AT_ONCE)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


@contextmanager
def _ignoring_signals() -> Iterator[None]:
    """It is over but for closing; an interrupt now would only spoil the exit code."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fitted(settings: Settings) -> Settings:
    """The embedded log makes output topics by itself; every worker has a metrics port of its own."""
    port = settings.metrics_port
    return replace(
        settings,
        create_topics=settings.create_topics or not settings.bootstrap,
        metrics_port=port + settings.slot if port else 0,
    )
