"""`adstream dlq list|replay`: the dead letters of a job's input topics."""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import UTC, datetime

import typer

from adstream import Built
from adstream.cli.jobs import prepare
from adstream.cli.logs import open_log
from adstream.cli.options import JobOptions
from adstream.interfaces import Log
from adstream.runtime import dead_letters
from adstream.runtime.dead_letters import DeadLetter, dead_letter_topic, list_dead

ALL = 1 << 40
SHOWN = 100
"""Characters of a value."""


def show(job: str, options: JobOptions, limit: int, *, as_json: bool) -> None:
    chosen, built = prepare(job, options)
    log = open_log(chosen.settings)
    try:
        letters = {topic: list_dead(log, topic, limit) for topic in _topics(log, built)}
    finally:
        log.close()
    for topic, found in letters.items():
        if not as_json:
            typer.echo(f"{dead_letter_topic(topic)}: {len(found)} shown" if found else f"{topic}: no dead letters")
        for letter in found:
            typer.echo(json.dumps(_plain(letter), ensure_ascii=False) if as_json else _line(letter))


def replay(job: str, options: JobOptions, limit: int | None, *, yes: bool) -> None:
    chosen, built = prepare(job, options)
    log = open_log(chosen.settings)
    try:
        for topic in _topics(log, built):
            waiting = _waiting(log, topic, built.app)
            if not waiting:
                typer.echo(f"{topic}: nothing to replay")
                continue
            count = min(sum(waiting.values()), limit or ALL)
            typer.echo(f"{topic}: {count} of {sum(waiting.values())} dead letters go back")
            for reason, n in waiting.most_common():
                typer.echo(f"  {n:>8}  {reason}")
            typer.echo("they come after everything that is in the topic now, so windows may be closed: see `.late`")
            if not yes and not (sys.stdin.isatty() and typer.confirm("send them?")):
                typer.echo("nothing was sent (`--yes` does not ask)")
                continue
            done = dead_letters.replay(log, topic, app=built.app, limit=limit)
            kept = f", {done.kept} have no origin and stay" if done.kept else ""
            typer.echo(f"{topic}: {done.sent} sent{kept}")
    finally:
        log.close()


def _topics(log: Log, built: Built) -> list[str]:
    """The job's inputs that have dead letters' topics."""
    sources = [node["topic"] for node in built.plan["nodes"] if node["op"] == "source"]
    found = log.partitions([dead_letter_topic(topic) for topic in sources])
    return [topic for topic in sources if dead_letter_topic(topic) in found]


def _waiting(log: Log, topic: str, app: str) -> Counter[str]:
    """Dead letters that were not replayed yet, by reason."""
    name = dead_letter_topic(topic)
    partitions = [(name, p) for p in range(log.partitions([name])[name])]
    done = log.committed(f"{app}-replay", partitions)
    letters = list_dead(log, topic, ALL)
    return Counter(x.reason for x in letters if x.offset >= (done.get((name, x.partition)) or 0))


def _line(letter: DeadLetter) -> str:
    where = f"{letter.envelope.get('topic', '?')}-{letter.envelope.get('partition', '?')}"
    at = datetime.fromtimestamp(letter.timestamp / 1000, UTC).isoformat(timespec="milliseconds")
    value = (letter.value or b"").decode(errors="backslashreplace")
    cut = value if len(value) <= SHOWN else value[: SHOWN - 1] + "…"
    message = letter.envelope.get("message", "")
    return f"  {at}  {where} @{letter.envelope.get('offset', '?')}  {letter.reason}  {message}\n      {cut}"


def _plain(letter: DeadLetter) -> dict[str, object]:
    return {
        **letter.envelope,
        "key": None if letter.key is None else letter.key.decode(errors="backslashreplace"),
        "value": None if letter.value is None else letter.value.decode(errors="backslashreplace"),
    }
