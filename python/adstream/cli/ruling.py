"""`adstream rules put|list|enable|disable|remove`: what is said on a job's topic of rules (docs/rules.md)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from adstream.cli.jobs import prepare
from adstream.cli.logs import existing_log
from adstream.cli.options import JobOptions
from adstream.dsl.pattern_rules import Reader, event_time
from adstream.errors import ConfigError
from adstream.interfaces import Log
from adstream.runtime import rules
from adstream.runtime.launch import clock_ms


@dataclass(frozen=True, slots=True)
class Place:
    log: Log
    app: str
    topic: str
    reader: Reader

    def say(self, rule: str, value: dict[str, Any]) -> None:
        rules.say(self.log, self.app, self.topic, self.reader, rule, value, clock_ms(), sleep=time.sleep)

    def current(self, rule: str) -> rules.SaidRule:
        """As tasks know it. Raises ConfigError."""
        known = rules.current(self.log, self.topic, self.reader)
        if rule not in known:
            names = ", ".join(f"`{name}`" for name in sorted(known)) or "none"
            raise ConfigError(f"`{self.topic}` has no rule `{rule}`", option="ID", hint=f"there are: {names}")
        return known[rule]


@contextmanager
def place(job: str, options: JobOptions, topic: str | None, *, create: bool = False) -> Iterator[Place]:
    chosen, built = prepare(job, options)
    topics = {
        found["topic"]: built.callables[found["rules"]] for found in built.plan.get("globals", ()) if "rules" in found
    }
    if not topics:
        raise ConfigError(f"`{built.app}` looks for no rules", option="JOB", hint="`match(app.rules(topic), …)` does")
    if topic is None and len(topics) > 1:
        raise ConfigError(
            f"`{built.app}` has several topics of rules", option="--topic", hint=f"one of {', '.join(topics)}"
        )
    if topic is not None and topic not in topics:
        raise ConfigError(
            f"`{built.app}` reads no rules from `{topic}`", option="--topic", hint=f"from {', '.join(topics)}"
        )
    name = topic or next(iter(topics))
    reader = topics[name]
    assert isinstance(reader, Reader)
    log = existing_log(chosen)
    try:
        rules.prepared(log, name, create=create)
        yield Place(log, built.app, name, reader)
    finally:
        log.close()


def put(
    job: str,
    options: JobOptions,
    rule: str,
    pattern: str | None,
    file: Path | None,
    *,
    version: int | None,
    from_: str | None,
    drop: bool,
    topic: str | None,
) -> None:
    """Raises ConfigError, LogUnavailableError."""
    said = _pattern(pattern, file)
    with place(job, options, topic, create=True) as at:
        known = rules.current(at.log, at.topic, at.reader).get(rule)
        newest = known.version if known is not None else 0
        version = newest + 1 if version is None else version
        if known is not None and version <= newest:
            raise ConfigError(
                f"version {version} of `{rule}` does not follow {newest}", option="--version", hint="leave it out"
            )
        at.say(rule, {"version": version, "pattern": said, **_when(from_, drop)})
        typer.echo(f"{at.topic}: `{rule}`, version {version}")


def change(
    job: str, options: JobOptions, rule: str, what: dict[str, Any], *, from_: str | None, drop: bool, topic: str | None
) -> None:
    """Says a known rule again, with `what` in place of what it was. Raises ConfigError, LogUnavailableError."""
    with place(job, options, topic) as at:
        known, ends = at.current(rule), bool(what.get("removed"))
        said: dict[str, Any] = {} if ends else {"version": known.version}
        # With its pattern, which a compacted topic has nowhere else. What this job cannot look for need not be said to end it.
        if known.value and not ends and (known.wrong is None or what["enabled"]) and "pattern" in known.value:
            said["pattern"] = known.value["pattern"]
        elif what.get("enabled"):
            text = f"nothing is known of `{rule}` that could be looked for"
            raise ConfigError(text, option="ID", hint="`adstream rules put` says its pattern again")
        at.say(rule, {**said, **what, **_when(from_, drop)})
        word = "removed" if what.get("removed") else "enabled" if what["enabled"] else "disabled"
        typer.echo(f"{at.topic}: `{rule}`, {word}")


def show(job: str, options: JobOptions, topic: str | None, *, as_json: bool) -> None:
    """Raises ConfigError, LogUnavailableError."""
    with place(job, options, topic) as at:
        known = rules.current(at.log, at.topic, at.reader)
        for rule in known.values():
            if as_json:
                plain = {"id": rule.id, **(rule.value or {}), "wrong": rule.wrong, "refused": rule.refused}
                plain |= {"at": rule.timestamp}
                typer.echo(json.dumps(plain, ensure_ascii=False))
                continue
            typer.echo(_line(rule))
        if not known and not as_json:
            typer.echo(f"{at.topic}: no rules")


def _line(rule: rules.SaidRule) -> str:
    if rule.wrong is not None:
        return f"{rule.id}  not looked for: {rule.wrong.splitlines()[0]}"
    value = rule.value or {}
    pattern = value.get("pattern", "")
    begins = f"  from {_time(value['from'])}" if "from" in value else ""
    state = "" if rule.enabled else "  disabled"
    text = pattern if isinstance(pattern, str) else json.dumps(pattern, ensure_ascii=False)
    later = "" if rule.refused is None else f"  (a later record is refused: {rule.refused.splitlines()[0]})"
    return f"{rule.id}  version {rule.version}{state}{begins}  {text}{later}"


def _time(at: object) -> str:
    return datetime.fromtimestamp(event_time(at) / 1000, UTC).isoformat().replace("+00:00", "Z")


def _pattern(text: str | None, file: Path | None) -> Any:
    if (text is None) == (file is None):
        raise ConfigError("which pattern?", option="--pattern", hint="give `--pattern TEXT` or `--file FILE`")
    if file is None:
        return text
    try:
        found = file.read_text()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}", option="--file") from error
    try:
        said = json.loads(found)
    except ValueError:
        return found.strip()
    return said if isinstance(said, dict) else found.strip()


def _when(from_: str | None, drop: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"running": "drop"} if drop else {}
    if from_ is None:
        return said
    try:
        return {**said, "from": event_time(int(from_) if from_.isdecimal() else from_)}
    except ValueError as error:
        raise ConfigError(str(error), option="--from", hint="2026-01-15T10:00:00Z") from error
