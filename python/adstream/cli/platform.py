"""`adstream run ads`: all jobs of a platform under one supervisor, each as worker processes of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import typer

from adstream.cli import messages
from adstream.cli.options import Chosen, RunOptions, choose
from adstream.errors import ConfigError
from adstream.runtime.settings import PREFIX, Settings
from adstream.runtime.supervisor import Program, Supervisor

STOPPING_S = 5.0
"""What a worker may need beyond its drain timeout to close what it has."""


def start(
    name: str, jobs: Sequence[Any], stand_ins: Mapping[str, str], options: RunOptions, *, bars: bool = False
) -> None:
    """Until all have stopped. Raises ConfigError.

    Args:
        jobs: each with `name`, `workers` and `settings`, in the data's way.
        stand_ins: a connection that nobody named -> the one that serves for it.
    """
    chosen = choose(options)
    messages.configure(chosen.verbose, chosen.log_format)
    _check(name, chosen, bool(getattr(options, "from_", None)))
    programs = _programs(jobs, stand_ins, chosen, options, "replay" if bars else "run")
    patience = chosen.settings.drain_timeout_ms / 1000 + STOPPING_S
    raise typer.Exit(supervise(programs, patience, in_turn=chosen.stop_at_end))


def supervise(programs: Sequence[Program], drain_timeout_s: float, *, in_turn: bool) -> int:
    """Until all have ended; returns the exit code. `in_turn`: to the end one after the other, as what one writes the next ones
    read; who stops one stops them all."""
    for together in [[program] for program in programs] if in_turn else [programs]:
        supervisor = Supervisor(together, drain_timeout_s=drain_timeout_s)
        code = supervisor.run()
        if code or supervisor.stopped:
            return code
    return 0


def _check(name: str, chosen: Chosen, from_files: bool) -> None:
    settings = chosen.settings
    of_one = (("--app", settings.app), ("--set", chosen.job), ("--input", chosen.inputs), ("--from", from_files))
    for option, given in of_one:
        if given:
            raise ConfigError(
                f"`{name}` is several jobs, and this is of one",
                option=option,
                hint=f"run that one: `adstream run {name}.JOB`",
            )
    if not chosen.log_named:
        raise ConfigError("which log?", option="--log", hint="give --bootstrap HOST:PORT")
    if not settings.bootstrap and not (settings.data and chosen.stop_at_end):
        raise ConfigError("only Kafka can be shared by several processes", option=chosen.log_option)


def _programs(
    jobs: Sequence[Any], stand_ins: Mapping[str, str], chosen: Chosen, options: RunOptions, verb: str
) -> list[Program]:
    settings = chosen.settings
    stand_in = {
        f"{PREFIX}CONNECTION_{missing.upper()}": settings.connections[other]
        for missing, other in stand_ins.items()
        if missing not in settings.connections and other in settings.connections
    }
    programs, port = [], settings.metrics_port
    for job in jobs:
        # One, where nobody says how many: then the job's own number is better.
        workers = settings.workers if settings.workers > 1 else job.workers
        command = [sys.executable, "-m", "adstream.cli", verb, job.name, *arguments(options)]
        if port:
            command += ["--metrics-port", str(port)]
            ports = str(port) if workers == 1 else f"{port} to {port + workers - 1}"
            typer.echo(f"{job.name}: metrics on port {ports}", err=True)
            port += workers
        # To the end of what there is, nobody waits for what is under way.
        environ = stand_in | ({} if chosen.stop_at_end else defaults(job.settings, settings))
        programs.append(Program(command, workers, job.name, environ, chosen.stop_at_end))
    return programs


def defaults(wanted: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Variables for a job's own settings, but those that somebody has set to something else than it is by default."""
    fields_ = {f.name.removesuffix("_ms"): f.name for f in fields(Settings)}
    usual = Settings()
    return {
        f"{PREFIX}{key.upper()}": value
        for key, value in wanted.items()
        if getattr(settings, fields_[key]) == getattr(usual, fields_[key])
    }


def arguments(options: RunOptions) -> list[str]:
    """The options as they are written on a command line, but those that each worker of several has for itself."""
    hints = get_type_hints(type(options), include_extras=True)
    written: list[str] = []
    for f in fields(options):
        value = getattr(options, f.name)
        if f.name in ("workers", "metrics_port") or value is None or value is False or value == 0:
            continue
        flag = get_args(hints[f.name])[1].names[0]
        if value is True:
            written.append(flag)
        elif isinstance(value, list):
            written += [part for one in value for part in (flag, str(one))]
        elif f.name == "verbose":
            written += [flag] * value
        else:
            written += [flag, str(value)]
    return written
