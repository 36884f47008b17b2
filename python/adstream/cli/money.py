"""`adstream audit ads` and `adstream ads parked list|release`: the ledger of advertisers, looked at."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from adstream._core import murmur2
from adstream.cli.logs import existing_log
from adstream.cli.options import LogOptions, choose
from adstream.errors import ConfigError, ExitCode
from adstream.interfaces import Log
from adstream.jobs.ads import audit as rules
from adstream.runtime import control
from adstream.runtime.launch import clock_ms

TOPIC, RELEASED = "ad-ledger", "compensation-released"


def audit(platform: str, sql: str, options: LogOptions, *, as_json: bool) -> None:
    """Says of each rule whether it holds. Exit code 1: one does not."""
    if platform != "ads":
        raise ConfigError(f"there is nothing to audit in `{platform}`", option="PLATFORM", hint="write `ads`")
    with _said():
        found = list(rules.audit(_url(sql)))
        chosen = choose(options)
        if chosen.log_named:
            found += rules.compare(_url(sql), _told(chosen))
    broken = [f for f in found if f.broken]
    for finding in found:
        if as_json:
            typer.echo(json.dumps(finding._asdict(), ensure_ascii=False))
        else:
            typer.echo(
                f"holds   {finding.rule}"
                if not finding.broken
                else f"BROKEN  {finding.rule}: {finding.broken:,} times, as in {finding.example}"
            )
    if not as_json:
        typer.echo(f"{len(broken)} of {len(found)} rules are broken" if broken else f"clean: {len(found)} rules hold")
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


def _told(chosen: Any) -> Iterator[dict[str, Any]]:
    log = existing_log(chosen)
    try:
        count = log.partitions([TOPIC]).get(TOPIC, 0)
        if not count:
            raise ConfigError(
                f"there is no topic `{TOPIC}`", option=chosen.log_option, hint="has `ads.ledger` run there?"
            )
        places = [(TOPIC, p) for p in range(count)]
        ends, starts = log.end_offsets(places, committed=True), log.start_offsets(places)
        reader = log.reader()
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
                        yield json.loads(record[3])
            reader.remove(*place)
        reader.close()
    finally:
        log.close()
