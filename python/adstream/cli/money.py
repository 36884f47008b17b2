"""`adstream audit ads` and `adstream ads parked list|release`: the ledger of advertisers, looked at."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import typer

from adstream._core import Plan, murmur2
from adstream.cli.jobs import find
from adstream.cli.logs import existing_log
from adstream.cli.options import Chosen, LogOptions, choose
from adstream.errors import ConfigError, ExitCode
from adstream.interfaces import Log, TopicPartition
from adstream.jobs.ads import audit as rules
from adstream.jobs.ads import audit_topics as topic_rules
from adstream.jobs.ads.topics import TOPICS
from adstream.runtime import control
from adstream.runtime.launch import clock_ms

TOPIC, RELEASED = "ad-ledger", "compensation-released"
DAY_MS = 86_400_000
RETAINED = {topic.name: topic.days for topic in TOPICS}


def audit(platform: str, sql: str, options: LogOptions, *, as_json: bool) -> None:
    """Says of each rule whether it holds. Exit code 1: one does not."""
    if platform != "ads":
        raise ConfigError(f"there is nothing to audit in `{platform}`", option="PLATFORM", hint="write `ads`")
    with _said():
        found = list(rules.audit(_url(sql)))
        chosen = choose(options)
        if chosen.log_named:
            found += _by_log(chosen, _url(sql))
    broken = [f for f in found if f.broken]
    for finding in found:
        if as_json:
            typer.echo(json.dumps(finding._asdict(), ensure_ascii=False))
        elif finding.unseen:
            typer.echo(f"unseen  {finding.rule}: {finding.unseen}")
        elif finding.broken:
            typer.echo(f"BROKEN  {finding.rule}: {finding.broken:,} times, as in {finding.example}")
        else:
            typer.echo(f"holds   {finding.rule}")
    if not as_json:
        seen = sum(1 for f in found if not f.unseen)
        typer.echo(f"{len(broken)} of {seen} rules are broken" if broken else f"clean: {seen} rules hold")
    if broken:
        raise typer.Exit(ExitCode.FAILED)


def parked(sql: str, *, as_json: bool) -> None:
    with _said():
        found = rules.parked(_url(sql))
    names = ("refund_id", "state", "advertiser_id", "charge_id", "amount", "since")
    for row in found:
        if as_json:
            typer.echo(json.dumps(dict(zip(names, row, strict=True)), default=str, ensure_ascii=False))
        else:
            typer.echo(f"{row[1]:<8} {row[5]:%Y-%m-%d %H:%M:%S%z}  {row[0]}: {row[4]} of {row[3]} for {row[2]}")
    if not as_json:
        typer.echo(f"{len(found)} parked" if found else "nothing is parked")


def release(refunds: list[str], sql: str, options: LogOptions) -> None:
    """What is booked is told on `compensation-released`, again if it was told before: `ads.compensation` tells others once."""
    url, chosen = _url(sql), choose(options)
    if not chosen.log_named:
        raise ConfigError(
            f"what is released has to be told on `{RELEASED}`",
            option="--bootstrap",
            hint="name the log of `ads.compensation`",
        )
    log = existing_log(chosen)
    try:
        partitions = log.partitions([RELEASED]).get(RELEASED)
        if partitions is None:
            raise ConfigError(
                f"there is no topic `{RELEASED}`", option=chosen.log_option, hint="has `ads.compensation` run there?"
            )
        with _said():
            for refund in refunds:
                became = rules.release(url, refund, getpass.getuser())
                told = {"BOOKED": "booked", "PARKED": "its charge is not there: it waits for another 24 hours"}
                row = rules.booked(url, refund)
                if row is not None:
                    _tell(log, row, partitions)
                typer.echo(
                    f"{refund}: {told.get(became, 'is not parked' if row is None else 'was booked, and is told again')}"
                )
    finally:
        log.close()


def _tell(log: Log, row: dict[str, Any], partitions: int) -> None:
    key, value = row["advertiser_id"].encode(), json.dumps(row, ensure_ascii=False).encode()
    partition = (murmur2(key) & 0x7FFFFFFF) % partitions
    control.write_one(log, "ads", RELEASED, (0, clock_ms(), key, value, []), partition=partition)


def _url(sql: str) -> str:
    url = sql.removeprefix("ledger=")
    if not url.startswith(("postgresql://", "postgres://")):
        raise ConfigError("this is no Postgres", option="--sql", hint="postgresql://USER@HOST/DATABASE")
    return url


@contextmanager
def _said() -> Iterator[None]:
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        said = (error.diag.message_primary or str(error)).strip().splitlines()[0]
        raise ConfigError(
            f"the ledger cannot be read: {said}", option="--sql", hint="has `ads.ledger` run there?"
        ) from error


def _by_log(chosen: Chosen, url: str) -> list[rules.Finding]:
    """What topics say: against the ledger, and among themselves where the jobs have read what there is."""
    log = existing_log(chosen)
    try:
        if not log.partitions([TOPIC]).get(TOPIC, 0):
            raise ConfigError(
                f"there is no topic `{TOPIC}`", option=chosen.log_option, hint="has `ads.ledger` run there?"
            )
        found = list(rules.compare(url, (value for _, value in _records(log, TOPIC))))
        looks: dict[str, Callable[..., Iterator[rules.Finding]]] = {
            "ads.ranking": partial(topic_rules.ranked, now_ms=clock_ms()),
            "ads.duplicates": topic_rules.apart,
            "ads.attribution": topic_rules.credited,
            "ads.net_performance": partial(topic_rules.netted, url=url),
        }
        for job, topics in topic_rules.TOPICS.items():
            why, ends = _stand(log, job, topics)
            seen = [] if why else list(looks[job](*(_topic(log, topic) for topic in topics)))
            if not why and _stand(log, job, topics) != (None, ends):
                why = "something came meanwhile"
            found += [rules.Finding(f"what `{job}` says", 0, None, why)] if why else seen
        return found
    finally:
        log.close()


def _stand(log: Log, job: str, topics: Sequence[str]) -> tuple[str | None, dict[TopicPartition, int]]:
    """Why nothing can be said of what a job says, if so (it, or one whose output it reads, has not read all); and the ends."""
    counts, ends = log.partitions(topics), dict[TopicPartition, int]()
    for topic in topics:
        if not counts.get(topic):
            return f"there is no topic `{topic}`", ends
    for name in (*topic_rules.BEHIND.get(job, ()), job):
        built = find(name).build()
        description = json.loads(Plan(built.json, built.callables).describe())
        reads = sorted({s["topic"] for sub in description["subtopologies"] for s in sub["sources"]})
        if name != job:
            reads = [topic for topic in reads if topic not in topic_rules.ASIDE]
        counts = log.partitions(reads)
        where = [(topic, p) for topic in reads for p in range(counts.get(topic, 0))]
        at, starts = log.committed(built.app, where), log.start_offsets(where)
        ends |= log.end_offsets(where, committed=True)
        behind = sum(ends[tp] - max(at[tp] or 0, starts[tp]) for tp in where)
        if behind:
            return f"`{name}` has {behind:,} records to read", ends
    return None, ends


def _topic(log: Log, name: str) -> topic_rules.Topic:
    places = [(name, p) for p in range(log.partitions([name])[name])]
    trimmed = any(log.start_offsets(places).values())
    since = clock_ms() - (RETAINED[name] - 1) * DAY_MS if trimmed else 0
    return topic_rules.Topic(lambda: _records(log, name), since)


def _records(log: Log, topic: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Partition and value of each record that is there now."""
    places = [(topic, p) for p in range(log.partitions([topic])[topic])]
    ends, starts = log.end_offsets(places, committed=True), log.start_offsets(places)
    reader = log.reader()
    try:
        for place in places:
            at = starts[place]
            reader.add(*place, at)
            while at < ends[place]:
                batch = reader.read(*place, 5_000)
                if batch is None:
                    reader.wait(0.1)
                    continue
                at = batch.next_offset
                for record in batch.records():
                    if record[3] is not None:
                        yield place[1], json.loads(record[3])
            reader.remove(*place)
    finally:
        reader.close()
