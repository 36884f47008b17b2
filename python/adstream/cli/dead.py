"""`adstream dlq list|replay`: the dead letters of a job's input topics. A replay first shows what would become of them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from adstream import Built
from adstream.cli.jobs import prepare
from adstream.cli.logs import existing_log
from adstream.cli.options import JobOptions
from adstream.errors import ConfigError
from adstream.interfaces import Log
from adstream.runtime import dead_letters, discovery
from adstream.runtime.dead_letters import DeadLetter, dead_letter_topic, list_dead
from adstream.runtime.manifest import topology_topic
from adstream.testing import TopologyTestDriver

if TYPE_CHECKING:
    from adstream._core import Record

ALL = 1 << 40
NEWEST = 5_000
"""Records of a partition that say what time it is there."""
SHOWN = 100
"""Characters of a value."""


def show(job: str, options: JobOptions, limit: int, *, as_json: bool) -> None:
    chosen, built = prepare(job, options)
    log = existing_log(chosen)
    try:
        built = discovery.found(built, log)
        letters = {topic: list_dead(log, topic, limit, app=built.app) for topic in _topics(log, built)}
    finally:
        log.close()
    for topic, found in letters.items():
        if not as_json:
            typer.echo(f"{dead_letter_topic(topic)}: {len(found)} shown" if found else f"{topic}: no dead letters")
        for letter in found:
            typer.echo(json.dumps(_plain(letter), ensure_ascii=False) if as_json else _line(letter))


def replay(job: str, options: JobOptions, limit: int | None, *, yes: bool, dry_run: bool) -> None:
    chosen, built = prepare(job, options)
    log = existing_log(chosen)
    try:
        built = discovery.found(built, log)
        topics = _topics(log, built)
        _has_run(log, built.app)
        for topic in topics:
            waiting = _waiting(log, topic, built.app)
            if not waiting:
                typer.echo(f"{topic}: nothing to replay")
                continue
            going = waiting[: limit or ALL]
            typer.echo(f"{topic}: {len(going)} of {len(waiting)} dead letters go back")
            for reason, n in Counter(x.reason for x in going).most_common():
                typer.echo(f"  {n:>8}  {reason}")
            _foretell(log, built, topic, going)
            if dry_run:
                continue
            if not yes and not (sys.stdin.isatty() and typer.confirm("send them?")):
                typer.echo("nothing was sent (`--yes` does not ask)")
                continue
            done = dead_letters.replay(log, topic, app=built.app, limit=limit)
            kept = f", {done.kept} have no origin or were cut, and stay" if done.kept else ""
            typer.echo(f"{topic}: {done.sent} sent{kept}")
    finally:
        log.close()


def _foretell(log: Log, built: Built, topic: str, letters: list[DeadLetter]) -> None:
    """What would become of them now: the job itself runs, in memory, on the newest records of their partitions, which
    tell it what time it is there, and then on them."""
    with TopologyTestDriver(built, partitions=log.partitions(built.inputs)) as driver:
        source = driver.input(topic)
        at_home = [x for x in letters if x.origin is not None and x.origin[0] == topic]
        for partition in sorted({x.origin[1] for x in at_home if x.origin is not None}):
            for _, timestamp, key, value, headers in _newest(log, topic, partition):
                source.pipe(value, key=key, partition=partition, at=timestamp, headers=headers)
        before = driver.counters()
        for x in at_home:
            assert x.origin is not None
            source.pipe(x.value, key=x.key, partition=x.origin[1], at=x.timestamp, headers=x.headers)
        after = driver.counters()
    typer.echo(f"as things stand (judged by the newest {NEWEST:,} records of each partition):")
    told = 0
    for node, counters in after.items():
        for reason, n in counters.items():
            more = n - before.get(node, {}).get(reason, 0)
            if more and (reason == "late" or reason.startswith(("dead:", "filtered:", "repeated"))):
                typer.echo(f"  {more:>8}  {'too late' if reason == 'late' else reason} ({node})")
                told += more
    if stay := len(letters) - len(at_home):
        typer.echo(f"  {stay:>8}  cannot go back: no origin, or only coordinates were kept")
    if not told:
        typer.echo(f"  {len(at_home):>8}  in time, and read")


def _newest(log: Log, topic: str, partition: int) -> list[Record]:
    where = (topic, partition)
    end = log.end_offsets([where], committed=True)[where]
    position = max(log.start_offsets([where])[where], end - NEWEST)
    found: list[Record] = []
    reader = log.reader()
    try:
        reader.add(topic, partition, position)
        while position < end:
            batch = reader.read(topic, partition, NEWEST)
            if batch is None:
                reader.wait(0.2)
                continue
            found += [record for record in batch.records() if record[0] < end]
            position = batch.next_offset
    finally:
        reader.close()
    return found


def _topics(log: Log, built: Built) -> list[str]:
    """The job's inputs that have dead letters' topics.

    Raises:
        ConfigError: none has, so the job has never run there.
    """
    sources = built.inputs
    found = log.partitions([dead_letter_topic(topic) for topic in sources])
    there = [topic for topic in sources if dead_letter_topic(topic) in found]
    if not there:
        names = ", ".join(f"`{dead_letter_topic(topic)}`" for topic in sources)
        raise ConfigError(
            f"there is no topic {names}: `{built.app}` has never run here",
            option="JOB",
            hint="check the job's settings (`--set`) and the log",
        )
    return there


def _has_run(log: Log, app: str) -> None:
    """What was replayed is known by the application's name: under another one all of it would go back once more.

    Raises:
        ConfigError: no application of that name has run there.
    """
    own = topology_topic(app).name
    if not log.partitions([own]):
        raise ConfigError(
            f"there is no topic `{own}`: `{app}` has never run here",
            option="JOB",
            hint="check the job's name and settings (`--app`, `--set`) and the log",
        )


def _waiting(log: Log, topic: str, app: str) -> list[DeadLetter]:
    """Dead letters that were not replayed yet, in the order of their replay."""
    name = dead_letter_topic(topic)
    partitions = [(name, p) for p in range(log.partitions([name])[name])]
    done = log.committed(f"{app}-replay", partitions)
    letters = [x for x in list_dead(log, topic, ALL, app=app) if x.offset >= (done.get((name, x.partition)) or 0)]
    return sorted(letters, key=lambda x: (x.partition, x.offset))


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
