"""`adstream pause|resume`: said to all workers of a job, through its topology topic (`runtime/control.py`)."""

from __future__ import annotations

import typer

from adstream.cli.jobs import prepare
from adstream.cli.logs import existing_log
from adstream.cli.options import JobOptions
from adstream.errors import ConfigError
from adstream.runtime import control
from adstream.runtime.launch import clock_ms
from adstream.runtime.manifest import topology_topic


def say(job: str, options: JobOptions, *, paused: bool) -> None:
    """Raises ConfigError, LogUnavailableError."""
    chosen, built = prepare(job, options)
    log = existing_log(chosen)
    try:
        topic = topology_topic(built.app).name
        if topic not in log.partitions([topic]):
            raise ConfigError(f"`{built.app}` has never run here", option="JOB", hint="check --app and the log")
        control.say(log, built.app, control.PAUSE, {"paused": paused, "at_ms": clock_ms()})
    finally:
        log.close()
    typer.echo(f"`{built.app}` is {'paused' if paused else 'resumed'}")
