"""`adstream generate ads`: traffic for `ad-events`, and the truth about it.

The truth, a JSON file beside the traffic, is computed by `adstream.jobs.ads.truth`, which knows neither the engine
nor the generator:

    traffic    the settings                  sha256    of all records, in the order sent (`Digest`)
    counts     read = dead + repeated + filtered + counted + late; dead by reason; the same by partition
    rows       of the job's table, each with `final`: whether its window is closed at the end
    products   running sums                  late, dead    one entry each; `nth` counts from 0 on the partition
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from adstream.cli.appending import Appender, Placed
from adstream.cli.logs import open_log
from adstream.cli.options import LogOptions, choose, log_place
from adstream.cli.truth_rows import as_dict
from adstream.errors import ConfigError
from adstream.interfaces import Log, TopicSpec
from adstream.jobs.ads import truth
from adstream.jobs.ads.traffic import Logged, Traffic, as_log, records

TOPIC = "ad-events"
KEEP = {"retention.ms": "-1"}
"""The records are of 2024: by default a broker would delete them at once."""
CHUNK = 20_000


class Digest:
    """SHA-256 over partition, time, key and value of each record."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, record: Logged) -> None:
        key = record.key
        head = struct.pack(
            ">iqii", record.partition, record.timestamp_ms, -1 if key is None else len(key), len(record.value)
        )
        self._hash.update(head + (key or b"") + record.value)

    def text(self) -> str:
        return self._hash.hexdigest()


def ads(given: Mapping[str, Any], out: str, path: Path | None, *, with_truth: bool, extra: list[str]) -> None:
    """Raises ConfigError: settings that cannot be, a place that cannot be written or has such records already."""
    try:
        traffic = Traffic(**given)
    except ValueError as error:
        raise ConfigError(str(error), option="generate ads") from error
    if with_truth and path is not None and not path.parent.is_dir():
        raise ConfigError(f"there is no directory `{path.parent}`", option="--truth")
    digest, kept = Digest(), list[truth.Record]()
    written = 0
    with _Out(out, traffic, extra) as place:
        for chunk in chunks(as_log(records(traffic)), CHUNK):
            taken = place.take(chunk)
            written += len(taken)
            for record in taken:
                digest.add(record)
            if with_truth:
                kept += [(r.partition, r.offset, r.key, r.value, r.timestamp_ms) for r in taken]
    typer.echo(f"{written:,} records on {traffic.partitions} partitions of {TOPIC} in {out}")
    typer.echo(f"sha256 {digest.text()}")
    if not with_truth:
        return
    found = truth.compute(kept, traffic.partitions, traffic.grace_ms, window_ms=traffic.window_ms)
    beside = path or place.beside / "truth.json"
    beside.write_text(json.dumps(as_json(traffic, digest.text(), found), ensure_ascii=False, indent=1) + "\n")
    total = found.total
    typer.echo(
        f"truth  {beside}: {total.counted:,} counted, {total.late:,} late, {total.repeated:,} repeated,"
        f" {total.filtered:,} without campaign, {total.dead:,} dead; {len(found.table):,} rows"
    )


def chunks(sent: Iterator[Logged], size: int) -> Iterator[list[Logged]]:
    chunk: list[Logged] = []
    for record in sent:
        chunk.append(record)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def placed(chunk: Iterable[Logged]) -> Iterator[Placed]:
    """As `Appender` takes them."""
    return ((TOPIC, r.partition, r.key, r.value, r.timestamp_ms) for r in chunk)


def as_json(traffic: Traffic, digest: str, found: truth.Truth) -> dict[str, Any]:
    return {
        "job": "ads.performance",
        "topic": TOPIC,
        "traffic": {**asdict(traffic), "start": traffic.start.isoformat()},
        "sha256": digest,
        "counts": asdict(found.total),
        "dead_by_reason": dict(sorted(found.reasons.items())),
        "partitions": {str(p): asdict(counts) for p, counts in found.counts.items()},
        "rows": [as_dict(key, row) | {"final": key in found.final} for key, row in found.table.items()],
        "products": [
            {"product_id": product, **asdict(sums), "ctr": sums.ctr, "cvr": sums.cvr}
            for product, sums in found.products.items()
        ],
        "late": [{"partition": x.partition, "nth": x.offset, "event_id": x.event_id} for x in found.late],
        "dead": [{"partition": x.partition, "nth": x.offset, "reason": x.reason} for x in found.dead],
    }


class _Out:
    """Where the traffic goes: a log, or a JSONL file for each partition."""

    def __init__(self, url: str, traffic: Traffic, extra: list[str]) -> None:
        self._log: Log | None = None
        self._files: list[Any] = []
        self.beside = Path()
        scheme, _, path = url.partition(":")
        if scheme == "jsonl" and path:
            self.beside = Path(path)
            try:
                self.beside.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"`{path}` cannot be used: {error.strerror}", option="--out") from error
            names = [self.beside / f"{TOPIC}-{p:03d}.jsonl" for p in range(traffic.partitions)]
            if there := [name for name in names if name.exists()]:
                raise ConfigError(f"{there[0]} exists", option="--out", hint="choose an empty directory")
            self._files, self._lines = [name.open("wb") for name in names], [0] * len(names)
            return
        try:
            bootstrap, directory = log_place(url, "--out")
        except ConfigError:
            raise ConfigError(
                f"`{url}` is no place for records",
                option="--out",
                hint="write dir:PATH, kafka://HOST:PORT or jsonl:PATH",
            ) from None
        if not bootstrap and not directory:
            raise ConfigError("memory would forget them", option="--out", hint="write dir:PATH")
        settings = choose(LogOptions(log=url, extra=extra), environ={}).settings
        self.beside = Path(directory).expanduser()
        self._log = open_log(settings)
        try:
            self._log.create_topics([TopicSpec(TOPIC, traffic.partitions, KEEP)])
            kept = self._log.topic_settings([TOPIC]).get(TOPIC, {}).get("retention.ms", "-1")
            if kept != KEEP["retention.ms"]:  # somebody else made it
                note = (
                    f"`{TOPIC}` keeps records for {int(kept) / 86_400_000:g} days, and these are of {traffic.start:%Y}"
                )
                typer.echo(f"note: {note}: the broker will delete them; set its retention.ms to -1", err=True)
            partitions = [(TOPIC, p) for p in range(traffic.partitions)]
            if any(self._log.end_offsets(partitions, committed=False).values()):
                raise ConfigError(f"`{TOPIC}` has records already", option="--out", hint="write to another place")
            self._appender = Appender(self._log, "adstream-generate")
        except BaseException:
            self._log.close()
            raise

    def __enter__(self) -> _Out:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()
        if self._log is not None:
            self._appender.close()
            self._log.close()

    def take(self, chunk: list[Logged]) -> list[Logged]:
        """Writes records, and returns those that could be: an empty line is no record of a JSONL file."""
        if self._log is not None:
            self._appender.append(placed(chunk))
            return chunk
        fit = []
        for record in chunk:
            if record.value and b"\n" not in record.value:
                p = record.partition
                self._files[p].write(record.value + b"\n")
                fit.append(record._replace(offset=self._lines[p]))
                self._lines[p] += 1
        return fit
