"""Memory over many records whose live keys stay the same in number: it must not grow, and stores must drain.

Ten million records (1,000 new keys a minute of event time, each alive for a while) go through one task of each kind of
state, in a process of its own, with a commit every 20,000. Resident memory after a fifth of them, when everything that is
to be remembered has been, is held against memory at the end; then a record far in the future lets everything expire.
"""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

import adstream as ads
from adstream import col
from adstream._core import Plan, RawBatch
from benches.harness import MEASURED, Bench, Wrong, rss, run_child, spare

RECORDS, RECORDS_QUICK = 10_000_000, 300_000
COMMIT_ROWS = 20_000
START_MS, STEP_MS = 1_705_312_800_000, 6
Row = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
KINDS = ("windows", "rows", "sessions", "sliding", "suppressed", "joined", "store")
LEFT = 20
"""Entries that may be left when all has expired: those of the record that let it."""


class Sale(ads.Record):
    user: str
    amount: int


class Keep(ads.Processor[Any]):
    """How many records each key has in ten seconds, in a window store."""

    def init(self, ctx: ads.Context) -> None:
        self.counts = ctx.get_state_store("counts")

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        start = record.timestamp // 10_000 * 10_000
        self.counts.put(record.key, (self.counts.fetch(record.key, start) or 0) + 1, start)


def topology(kind: str) -> ads.Topology:
    def build(app: ads.App) -> None:
        if kind == "rows":
            rows = app.stream("in", Sale, key="user").group_by("user").windowed_by(ads.tumbling("10s", grace="5s"))
            rows.aggregate(n=ads.count(), total=ads.sum("amount")).final().to("out", key="user")
            return
        events = app.stream("in", key=ads.serdes.string)
        grouped = events.group_by_key()
        if kind in ("windows", "suppressed"):
            table = grouped.windowed_by(ads.tumbling("10s", grace="5s", retention="15s")).aggregate(n=ads.count())
            if kind == "suppressed":
                table = table.suppress(ads.Suppressed.until_window_closes())
            table.to_stream().to("out")
        elif kind == "sessions":
            grouped.windowed_by(ads.session("5s", grace="5s")).aggregate(n=ads.count()).to_stream().to("out")
        elif kind == "sliding":
            grouped.windowed_by(ads.sliding("5s", grace="5s")).aggregate(n=ads.count()).to_stream().to("out")
        elif kind == "joined":
            windows = ads.JoinWindows.of_time_difference_and_grace("5s", "5s")
            large, small = events.split().branch(col("amount") >= 50).default_branch()
            large.left_join(small, ads.joined(prefix="r_"), windows).to("out", key=ads.serdes.string)
        else:
            app.add_state_store(ads.store.window("counts", "15s", "10s"))
            events.process(Keep, "counts")

    return ads.topology(name=f"flat-{kind}")(build)


def measure(bench: Bench) -> None:
    spare()
    records = RECORDS_QUICK if bench.quick else RECORDS
    for kind in KINDS:
        found = run_child("benches.scenarios.flat", {"kind": kind, "records": records}, MEASURED)
        if found["left"] > LEFT:
            raise Wrong(f"{kind}: {found['left']} entries are left of {found['most']}")
        note = f"{found['early'] / 1e6:.0f} to {found['late'] / 1e6:.0f} MB; {found['most']:,} entries at most"
        bench.note(f"{kind}: growth", found["late"] / found["early"], "x", note=note, target=1.1, better="less")


def run(kind: str, records: int, commit_rows: int = COMMIT_ROWS) -> dict[str, Any]:
    built = topology(kind).build()
    plan = Plan(built.json, built.callables)
    task = plan.task(0, 0, {"in": 1, "out": 1})
    task.feed("in", 0, RawBatch([], 0))
    task.begin(START_MS)
    early = most = 0
    at = 0

    def entries() -> int:
        return sum(node.get("state_keys", 0) for node in task.stats()["nodes"].values())

    def feed(rows: list[Row]) -> None:
        task.feed("in", 0, RawBatch(rows))
        while task.process(10_000):
            pass
        task.close_generation()
        task.committed()

    for low in range(0, records, commit_rows):
        rows: list[Row] = []
        for i in range(low, min(low + commit_rows, records)):
            # A thousand keys at a time; each comes ten times or so, within six seconds, and never again.
            user = f"user{i // 10_000 * 1_000 + i % 1_000:09d}"
            rows.append(
                (
                    i,
                    START_MS + i * STEP_MS - i % 7 * 100,
                    user.encode(),
                    f'{{"user":"{user}","amount":{i % 100}}}'.encode(),
                    [],
                )
            )
        feed(rows)
        most = max(most, entries())
        at += len(rows)
        if not early and at >= records // 5:
            gc.collect()
            early = rss()
    gc.collect()
    late = rss()
    for n in range(4):  # to each side of the join
        value = b'{"user":"end","amount":%d}' % (n % 2 * 99)
        feed([(records + n, START_MS + records * STEP_MS + (n + 1) * 86_400_000, b"end", value, [])])
    return {"early": early, "late": late, "most": most, "left": entries()}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(run(given["kind"], given["records"])))
