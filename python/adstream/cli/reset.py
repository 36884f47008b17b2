"""`adstream reset`: says what would be done, asks, and does it (`runtime/reset.py`)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, cast

import typer

from adstream._core import Plan
from adstream.cli.jobs import prepare
from adstream.cli.logs import existing_log
from adstream.cli.options import Chosen, ResetOptions
from adstream.errors import ConfigError, ExitCode
from adstream.interfaces import Administered
from adstream.runtime import discovery, reset
from adstream.runtime.reset import Move, Place, Reset
from adstream.targets import make_target

_SHIFT = re.compile(r"[+-]\d+")


def run(
    job: str,
    options: ResetOptions,
    *,
    to_earliest: bool,
    to_latest: bool,
    to_datetime: str | None,
    shift_by: int | None,
    topics: Sequence[str],
    internal: Sequence[str],
    keep_sinks: bool,
    yes: bool,
    dry_run: bool,
) -> None:
    """Raises ConfigError, LogUnavailableError."""
    chosen, built = prepare(job, options)
    place = _one_place(to_earliest, to_latest, to_datetime, shift_by)
    named = dict(_named_place(text) for text in topics)
    log = cast(Administered, existing_log(chosen))
    try:
        built = discovery.found(built, log)
        description: Mapping[str, Any] = json.loads(Plan(built.json, built.callables).describe())
        found = reset.plan(
            log,
            description,
            place,
            named,
            keep_sinks=keep_sinks,
            also=internal,
            state_dir=chosen.settings.state_dir,
        )
        forget = _forgetters(found, description, chosen)
        _show(found)
        if dry_run:
            return
        if not yes and not (sys.stdin.isatty() and typer.confirm("do it?")):
            typer.echo("nothing was done (`--yes` does not ask)", err=True)
            raise typer.Exit(ExitCode.WRONG)
        reset.carry_out(log, found, forget, typer.echo)
    finally:
        log.close()


def _one_place(earliest: bool, latest: bool, at: str | None, shift: int | None) -> Place:
    given = [
        *([Place("earliest")] if earliest else []),
        *([Place("latest")] if latest else []),
        *([Place("time", _milliseconds(at, "--to-datetime"))] if at is not None else []),
        *([Place("shift", shift)] if shift is not None else []),
    ]
    if len(given) > 1:
        raise ConfigError(
            "give one of --to-earliest, --to-latest, --to-datetime and --shift-by",
            option="reset",
            hint="`--topic NAME=WHERE` says where one input begins",
        )
    return given[0] if given else Place("earliest")


def _named_place(text: str) -> tuple[str, Place]:
    topic, equals, where = text.partition("=")
    if not (topic and equals and where):
        raise ConfigError(f"`{text}` is not NAME=WHERE", option="--topic")
    if where in ("earliest", "latest", "keep"):
        return topic, Place(where)  # type: ignore[arg-type]
    if _SHIFT.fullmatch(where):
        return topic, Place("shift", int(where))
    return topic, Place("time", _milliseconds(where, "--topic"))


def _milliseconds(text: str, option: str) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        hint = "write a time as 2026-01-15T10:00:00Z"
        if option == "--topic":
            hint = f"write earliest, latest, keep, +N or -N records, or {hint.removeprefix('write ')}"
        raise ConfigError(f"`{text}` is not a time", option=option, hint=hint) from None
    if at.tzinfo is None:
        raise ConfigError(f"`{text}` has no time zone", option=option, hint=f"write {text}Z for UTC")
    return int(at.timestamp() * 1000)


def _forgetters(found: Reset, description: Mapping[str, Any], chosen: Chosen) -> Any:
    """Makes the targets now, so that a connection that is missing is told before anything is done."""
    declared = {sink["name"]: sink for sink in description["sinks"]}
    targets = {}
    for name in found.sinks:
        if name not in declared:
            raise ConfigError(
                f"the sink `{name}` was in the topology when it ran, and is not any more: where its positions are, is"
                " not known",
                option="reset",
                hint=f"delete the rows of app `{found.app}` and sink `{name}` in `_adstream_positions` and"
                f" `_adstream_topics` (in Redis: the hash `_adstream:positions:{found.app}:{name}`), then give --keep-sinks and"
                f" --internal-topic {found.app}-{name}-sink",
            )
        try:
            targets[name] = make_target(declared[name]["kind"], declared[name]["options"], chosen.settings.connections)
        except ConfigError as error:
            raise ConfigError(
                f"the positions of sink `{name}` are in its target: {error}",
                option="reset",
                hint="or give --keep-sinks: then rows that wait for it, and its positions, stay",
            ) from error

    def forget(name: str) -> None:
        target = targets[name]
        try:
            target.forget(found.app, name)
        finally:
            target.close()

    return partial(forget)


def _show(found: Reset) -> None:
    typer.echo(f"application `{found.app}`")
    for move in found.moves:
        typer.echo(f"  {move.where[0]} [{move.where[1]}]: {_moved(move)}")
    for topic in found.absent:
        typer.echo(f"  {topic}: no topic of this log; read from its beginning")
    typer.echo(f"  {len(found.deleted)} internal topics are deleted" + (":" if found.deleted else ""))
    for topic in found.deleted:
        typer.echo(f"    {topic}")
    for name in found.sinks:
        typer.echo(
            f"  sink {name}: its positions in the target are forgotten. Rows stay; those with a key that comes again are"
            " overwritten, others are left as they are"
        )
    for topic in found.kept:
        typer.echo(
            f"  {topic}: stays, and so do the positions in its target: rows that wait in it are still written, new ones"
            " behind them"
        )
    if found.state is not None:
        typer.echo(f"  {found.state} is deleted")
    typer.echo("  outputs, dead letters and rows in targets are not touched")
    for topic in found.doubtful:
        typer.echo(
            f"note: `{topic}` is left alone: is it another application's? Else: --internal-topic {topic}", err=True
        )


def _moved(move: Move) -> str:
    before = "the beginning" if move.before is None else str(move.before)
    after = "the beginning" if move.after is None else str(move.after)
    return f"{before} -> {after}" if before != after else f"stays at {after}"
