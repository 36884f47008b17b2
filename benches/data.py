"""The traffic that is measured, with its truth, made once and kept in `.cache/bench/`.

    python -m benches.data [SHAPE …]      makes them beforehand

A shape says how 100,000 live (key, window) pairs come about, which matters: a commit of 100 ms holds about 100,000
records at full speed, and combining before the shuffle leaves one row per key and window of them.

    wide     20,480 keys x  5 windows     hardly anything to combine: the harder one, and the headline
    deep      4,096 keys x 25 windows     some twenty records of a lane meet in one row

Both: 4 partitions, 5 % out of order by up to 5 s, 1 % copies spread over up to 50 minutes, 0.2 % late, 0.1 % bad. A
record has 12 fields and, with its key, about 370 bytes.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adstream import Built, Topology
from adstream._core import RawBatch
from adstream.jobs.ads.performance import performance
from adstream.jobs.ads.traffic import Traffic, records
from adstream.jobs.ads.truth import compute

CACHE = Path(__file__).parents[1] / ".cache" / "bench"
BATCH = 10_000
COLUMNS = (
    *("campaign_id", "product_id", "placement", "metric_time"),
    *("impression_count", "click_count", "conversion_count", "total_spend", "total_revenue"),
    *("ctr", "cvr", "roas", "ctr_undefined", "updated_at"),
)


def built(app: str) -> Built:
    """The job that is measured, under an application id of its own."""
    return Topology(performance.fn, app, performance.chosen).build()


def shape(name: str, events: int) -> Traffic:
    match name:
        case "wide":
            return Traffic(seed=7, events=events, ads=20_480, rate=max(1, events // (5 * 300)))
        case "deep":
            return Traffic(seed=7, events=events, ads=4_096, rate=max(1, events // (25 * 300)))
    raise ValueError(name)


@dataclass(frozen=True)
class Made:
    """`partitions[p]`: batches of up to 10,000 records with their offsets. `hash`: of the true table."""

    traffic: Traffic
    partitions: list[list[RawBatch]]
    hash: str
    rows: int
    counts: dict[str, int]
    bytes: int


def made(traffic: Traffic) -> Made:
    """From the cache, or made now (about 0.1 ms a record)."""
    digest = hashlib.sha256(json.dumps(asdict(traffic), default=str, sort_keys=True).encode()).hexdigest()[:16]
    folder = CACHE / digest
    if not (folder / "truth.json").exists():
        _make(traffic, folder)
    truth: dict[str, Any] = json.loads((folder / "truth.json").read_text())
    partitions = [_load(folder / f"{p}.raw") for p in range(traffic.partitions)]
    return Made(traffic, partitions, **truth)


def _make(traffic: Traffic, folder: Path) -> None:
    print(f"making {traffic.events:,} records and their truth, once …", file=sys.stderr, flush=True)
    lanes: list[list[Any]] = [[] for _ in range(traffic.partitions)]
    for sent in records(traffic):
        lane = lanes[sent.partition]
        lane.append((len(lane), sent.timestamp_ms, sent.key, sent.value, []))
    folder.mkdir(parents=True, exist_ok=True)
    for p, lane in enumerate(lanes):
        with (folder / f"{p}.raw").open("wb") as file:
            for at in range(0, len(lane), BATCH):
                data = RawBatch(lane[at : at + BATCH]).to_bytes()
                file.write(len(data).to_bytes(8, "little") + data)
    truth = compute(
        ((p, offset, key, value, ts) for p, lane in enumerate(lanes) for offset, ts, key, value, _ in lane),
        traffic.partitions,
        traffic.grace_ms,
        window_ms=traffic.window_ms,
    )
    rows = (
        (
            *key[:3],
            key.window_start,
            *(row.impression_count, row.click_count, row.conversion_count, row.total_spend, row.total_revenue),
            *(row.ctr, row.cvr, row.roas, row.ctr_undefined, row.max_timestamp),
        )
        for key, row in truth.table.items()
    )
    counts: dict[str, int] = {}
    for lane_counts in truth.counts.values():
        for name, n in vars(lane_counts).items():
            counts[name] = counts.get(name, 0) + n
    size = sum(len(key or b"") + len(value) for lane in lanes for _, _, key, value, _ in lane)
    found = {"hash": digest_of(rows), "rows": len(truth.table), "counts": counts, "bytes": size}
    (folder / "truth.json").write_text(json.dumps(found))


def _load(path: Path) -> list[RawBatch]:
    batches, data, at = [], path.read_bytes(), 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        batches.append(RawBatch.from_bytes(data[at + 8 : at + 8 + size]))
        at += 8 + size
    return batches


def digest_of(rows: Iterable[Sequence[Any]]) -> str:
    """Of a table, whatever the order of its rows. Times are epoch ms."""
    lines = sorted("\x1f".join(map(str, row)) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def table_of(drained: dict[str, list[Any]]) -> list[tuple[Any, ...]]:
    """Rows of the job's table, as a `SinkBuffer` hands them out, in the form of `digest_of`."""

    def ms(moments: list[Any]) -> list[int]:
        return [round(moment.timestamp() * 1000) for moment in moments]

    times = {name: ms(drained[name]) for name in ("metric_time", "updated_at")}
    return list(zip(*((times.get(name) or drained[name]) for name in COLUMNS), strict=True))


if __name__ == "__main__":
    for given in sys.argv[1:] or ["wide", "deep"]:
        name, _, events = given.partition(":")
        began = time.time()
        it = made(shape(name, int(events or 2_000_000)))
        print(
            name, it.hash, it.rows, it.counts, f"{it.bytes / it.traffic.events:.0f} B", f"{time.time() - began:.0f} s"
        )
