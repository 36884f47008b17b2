"""Who makes the trouble: from a seed, a job, its traffic, a cluster's settings, and what will go wrong when.

Everything here is drawn before the run and can be printed (`Scenario.describe`). It knows nothing of what the right
result is; that is the auditor's, which in turn looks at the broker and never in here.

    ads.performance     combine before shuffle, two shuffles, two sinks, late and final topic, dead letters
    sim.passing         no state, no shuffle: filter and write
    sim.counts          deduplicate, shuffle row by row (no combine), windows; first and last
    sim.records         keys and values: a count behind a repartition topic, told at once; a table regrouped
    sim.joins           keys and values: two streams behind repartition topics, each pair once; a stream with its own table
    sim.foreign         keys and values: a table with counts by foreign key, which asks and is answered by topics
    sim.patterns        a pattern on rows: what looks back, time-outs, late events
    sim.lanes           the same behind a shuffle
    sim.rules           the same said on a topic, in two versions, of which one takes over from the other in the middle
"""

from __future__ import annotations

import builtins
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from random import Random
from typing import Annotated, Any

from adstream._core import RawBatch, murmur2
from adstream.dsl import serdes
from adstream.dsl.aggregates import count, first, last, max, min, sum
from adstream.dsl.app import App
from adstream.dsl.expr import col, window_start
from adstream.dsl.flow import Materialized
from adstream.dsl.joins import JoinWindows
from adstream.dsl.pattern import Pattern, matched, rule
from adstream.dsl.schema import Record
from adstream.dsl.sinks import Sql
from adstream.dsl.stream import Stream
from adstream.dsl.topology import Topology, topology
from adstream.dsl.typing_ import epoch
from adstream.dsl.windows import tumbling
from adstream.interfaces import TopicPartition
from adstream.runtime.settings import Settings
from adstream.targets.delivery import FlushPolicy
from adstream.testing.simulation.broker import Faults

STEPS = ("close", "begin", "produce", "offsets", "commit", "committed", "settled")
"""runtime/commit.py says what each leaves behind."""
EVENT_START_MS = 1_705_312_800_000
JOBS = ("ads.performance", "sim.passing", "sim.counts")
"""What seeds choose from. A longer list would make other scenarios of seeds that found something."""
MORE_JOBS = ("sim.records", "sim.joins", "sim.foreign", "sim.patterns", "sim.rules", "sim.lanes")
"""Run when they are asked for."""


# Two small jobs


class Event(Record):
    id: str
    user: str
    kind: str
    at: Annotated[datetime, epoch("ms")]
    n: int


@topology(name="sim-passing")
def passing(app: App) -> None:
    """Rows with a small n are dropped, the others are written."""
    events = app.stream("events", Event, timestamp="at", key="user")
    events.filter(col("n") >= 20, reason="small").to("passed", key="user")


@topology(name="sim-counts")
def counts(app: App) -> None:
    """Per kind and minute, row by row over the shuffle."""
    table = (
        app.stream("events", Event, timestamp="at", key="user")
        .deduplicate("id", within="10m")
        .group_by("kind")
        .windowed_by(tumbling("1m", grace="5s"))
        .aggregate(
            combine=False,
            rows=count(),
            total=sum("n"),
            low=min("n"),
            high=max("n"),
            oldest=first("id"),
            newest=last("id"),
        )
        .named("counts")
    )
    rows = table.with_columns(start=window_start())
    rows.sink(Sql("counts", key=["kind", "start"]))
    rows.final().to("counts-final", key="kind")
    table.late.to("counts-late")


@topology(name="sim-records")
def records(app: App) -> None:
    """Events per kind, each count told once; and how many users were last seen with each kind."""
    events = app.stream("events", key=serdes.string, value=serdes.json_).filter(lambda k, v: v["n"] >= 20)
    kinds = events.select_key(lambda k, v: v["kind"]).group_by_key("by-kind")
    kinds.count(Materialized("kinds", caching=False)).to_stream().to("kinds-counts", value=serdes.int64)
    users = events.map_values(lambda v: v["kind"]).to_table("users")
    users.group_by(lambda k, kind: (kind, k), "by-last").count("last").to_stream().to("users-last", value=serdes.int64)


@topology(name="sim-joins")
def joins(app: App) -> None:
    """Pairs of a large and a small event of one kind that lie close together; and each user's event beside what the table
    of users says. A grace longer than the run: no order of arrival makes another result."""
    events = app.stream("events", key=serdes.string, value=serdes.json_)
    large, small = events.split().branch(lambda k, v: v["n"] >= 20).default_branch()
    within = JoinWindows(20_000, 10_000, 10**12)
    by_kind = [side.select_key(lambda k, v: v["kind"]) for side in (large, small)]
    by_kind[0].join(by_kind[1], lambda a, b: [a["id"], b["id"]], within, name="pairs").to("pairs")
    users = large.to_table("users")
    large.join(users, lambda event, newest: [event["id"], newest["id"]]).to("beside")


@topology(name="sim-foreign")
def foreign(app: App) -> None:
    """Each user's newest large event beside how many small ones of its kind there are."""
    events = app.stream("events", key=serdes.string, value=serdes.json_)
    large, small = events.split().branch(lambda k, v: v["n"] >= 20).default_branch()
    users = large.map_values(lambda v: v if v["n"] % 5 else None).to_table("users")
    kinds = small.select_key(lambda k, v: v["kind"]).group_by_key("by-kind").count("kinds")
    joined = users.left_join(kinds, lambda e, n: [e["id"], n], foreign_key=lambda e: e["kind"], name="of-kind")
    joined.to_stream().to("joined")


@topology(name="sim-patterns")
def patterns(app: App) -> None:
    """Each user's large event and the next small one of its kind, within 5 min; and those that none follows."""
    _answered(app.stream("events", Event, timestamp="at", key="user"), "user")


@topology(name="sim-lanes")
def lanes(app: App) -> None:
    """The same by kind: events of a group are of all partitions."""
    _answered(app.stream("events", Event, timestamp="at", key="user"), "kind")


def _answered(events: Stream, by: str) -> None:
    small = (col("n") < 50) & (col("kind") == matched("large").last("kind"))
    answered = Pattern.begin("large").where(col("n") >= 50).followed_by("small").where(small).within("5m")
    found = events.group_by(by).match(answered, max_delay="5s")
    large = matched("large").first("id")
    found.select(group=col(by), large=large, small=matched("small").first("id")).to("answered", key="group")
    found.timed_out.select(group=col(by), large=large).to("unanswered", key="group")
    found.late.to("patterns-late")


@topology(name="sim-rules")
def rules(app: App) -> None:
    """As `patterns`, by rules: each match with the version that found it."""
    events = app.stream("events", Event, timestamp="at", key="user")
    found = events.group_by("user").match(app.rules(RULES), max_delay="5s")
    said = {"group": col("user"), "version": rule("version"), "large": matched("large").first("id")}
    found.select(**said, small=matched("small").first("id")).to("answered", key="group")
    found.timed_out.select(**said).to("unanswered", key="group")
    found.late.to("patterns-late")


RULES = "events-rules"
SMALL = {1: 50, 2: 20}
"""Version -> below what an event is small."""


def versions(seed: int) -> list[tuple[int, dict[str, Any]]]:
    """Two of one rule, said before the first event; the second one from some time on."""
    rng = Random(f"{seed} rules")
    text = "large (n >= 50) -> small (n < {} and kind = last(large.kind)) within 5m"
    said = [{"version": version, "pattern": text.format(below)} for version, below in SMALL.items()]
    said[1] |= {"from": EVENT_START_MS + rng.randrange(1_000_000), "running": rng.choice(("finish", "drop"))}
    return list(enumerate(said))


@dataclass(frozen=True)
class Job:
    """A built topology and the topics that must exist before it starts."""

    name: str
    app: str
    plan: str
    callables: tuple[Callable[..., Any], ...]
    source: str
    outputs: tuple[str, ...]


@cache
def job_of(name: str) -> Job:
    made: Topology
    outputs: tuple[str, ...]
    if name == "ads.performance":
        # By name, as the command line finds it: jobs are above this package.
        made = importlib.import_module("adstream.jobs.ads.performance").performance
        source, outputs = "ad-events", ("ad-performance", "ad-performance-late")
    elif name == "sim.passing":
        made, source, outputs = passing, "events", ("passed",)
    elif name == "sim.records":
        made, source, outputs = records, "events", ("kinds-counts", "users-last")
    elif name == "sim.joins":
        made, source, outputs = joins, "events", ("pairs", "beside")
    elif name == "sim.foreign":
        made, source, outputs = foreign, "events", ("joined",)
    elif name == "sim.rules":
        made, source, outputs = rules, "events", ("answered", "unanswered", "patterns-late")
    elif name in ("sim.patterns", "sim.lanes"):
        made, source = patterns if name == "sim.patterns" else lanes, "events"
        outputs = ("answered", "unanswered", "patterns-late")
    else:
        made, source, outputs = counts, "events", ("counts-final", "counts-late")
    built = made.build()
    return Job(name, built.app, built.json, built.callables, source, outputs)


# What happens


@dataclass(frozen=True)
class Send:
    """Records of the source topic. `aborted_before`: the same in a transaction that is aborted, first."""

    at_ms: int
    batches: Sequence[tuple[TopicPartition, RawBatch]]
    transactional: bool
    aborted_before: bool


@dataclass(frozen=True)
class Trouble:
    at_ms: int
    kind: str
    slot: int = -1
    for_ms: int = 0
    step: str = ""
    number: int = 0

    def __str__(self) -> str:
        who = f" of worker {self.slot}" if self.slot >= 0 else ""
        how = f" {self.step}, time {self.number}" if self.step else f" for {self.for_ms} ms" if self.for_ms else ""
        return f"{self.at_ms:>6} ms  {self.kind}{how}{who}"


@dataclass(frozen=True)
class Scenario:
    seed: int
    job: Job
    topics: Mapping[str, int]
    workers: int
    joins_ms: tuple[int, ...]
    values: Mapping[str, Any]
    """Of `Settings`."""
    flush: FlushPolicy
    faults: Faults
    target_error: float
    target_slow: float
    crash_in_call: float
    pause_at_step: float
    idle: float
    """How often a process misses its turn."""
    trouble_ms: int
    sends: Sequence[Send]
    troubles: Sequence[Trouble]

    @property
    def exactly_once(self) -> bool:
        return bool(self.values["guarantee"] == "exactly_once")

    def settings(self, slot: int) -> Settings:
        return Settings(app=self.job.app, slot=slot, **self.values)

    def describe(self) -> str:
        records = builtins.sum(len(batch) for send in self.sends for _, batch in send.batches)
        lines = [
            f"seed {self.seed}: {self.job.name}, {records} records in {self.topics[self.job.source]} partitions,"
            f" {self.workers} workers joining at {', '.join(map(str, self.joins_ms))} ms",
            f"  settings {', '.join(f'{k}={v}' for k, v in self.values.items())}",
            f"  {self.flush}",
            f"  {self.faults}",
            f"  target_error={self.target_error} target_slow={self.target_slow} crash_in_call={self.crash_in_call}"
            f" pause_at_step={self.pause_at_step} idle={self.idle}",
            *(f"  {trouble}" for trouble in self.troubles),
            f"  {self.trouble_ms:>6} ms  no more trouble",
        ]
        return "\n".join(lines)


def make(seed: int, job: str | None = None) -> Scenario:
    """The scenario of a seed; `job` only changes which job it is."""
    rng = Random(f"{seed} scenario")
    name = rng.choice(("ads.performance", "ads.performance", "sim.passing", "sim.counts", "sim.counts"))
    chosen = job_of(job or name)
    partitions = rng.randint(1, 4)
    workers = rng.randint(1, 3)
    trouble_ms = rng.randint(3_000, 12_000)
    wild = rng.choice((0.3, 1.0, 2.0))
    """How much goes wrong by chance."""
    topics = {chosen.source: partitions, **dict.fromkeys(chosen.outputs, partitions)}
    topics |= {RULES: 1} if chosen.name == "sim.rules" else {}
    lossy = chosen.name == "sim.passing" and rng.random() < 0.25
    return Scenario(
        seed=seed,
        job=chosen,
        topics=topics,
        workers=workers,
        joins_ms=tuple(0 if slot == 0 else rng.choice((0, rng.randrange(trouble_ms))) for slot in range(workers)),
        values={
            "guarantee": "at_least_once" if lossy else "exactly_once",
            "commit_interval_ms": rng.choice((20, 50, 100, 300)),
            "batch_rows_max": rng.choice((1, 2, 7, 100, 10_000)),
            "buffer_rows_max": rng.choice((5, 100, 50_000)),
            "generation_rows_max": rng.choice((20, 500_000)),
            "restore_rows_max": rng.choice((1, 5, 20_000)),
            "purge_every_ms": rng.choice((0, 100, 1_000)),
            "recommit_every_ms": rng.choice((500, 3_600_000)),
            "drain_timeout_ms": rng.choice((50, 3_000)),
            "standbys": Random(f"{seed} standbys").choice((0, 0, 1, 2)),
            "warm_up_max_ms": Random(f"{seed} warm-up").choice((0, 300, 5_000)),
        },
        flush=FlushPolicy(
            every_ms=rng.choice((20, 300, 1_000)),
            position_every_ms=rng.choice((200, 5_000)),
            rows_max=rng.choice((10, 100_000)),
            rows_per_step=rng.choice((5, 20_000)),
            records_per_read=rng.choice((1, 16)),
        ),
        faults=Faults(
            marker_ms=rng.choice((0, 30, 1_000)),
            join_ms=rng.choice(((2, 20), (20, 500))),
            learn_ms=rng.choice((0, 20, 200)),
            unavailable=0.002 * wild,
            no_data=rng.choice((0.0, 0.2, 0.6)),
            short_read=rng.choice((0.0, 0.3)),
            pause=0.03 * wild,
            pause_ms=rng.choice((20, 500, 3_000)),
            commit_retried=0.03 * wild,
            commit_unknown=0.01 * wild,
            commit_aborted=0.02 * wild,
        ),
        target_error=rng.choice((0.0, 0.1, 0.3)),
        target_slow=rng.choice((0.0, 0.2)),
        crash_in_call=rng.choice((0.0, 0.001)),
        pause_at_step=rng.choice((0.0, 0.02)),
        idle=rng.choice((0.0, 0.2)),
        trouble_ms=trouble_ms,
        sends=_sends(rng, chosen, seed, partitions, trouble_ms),
        troubles=_troubles(rng, workers, trouble_ms),
    )


def _troubles(rng: Random, workers: int, trouble_ms: int) -> list[Trouble]:
    found = []
    for _ in range(rng.choice((1, 3, 6, 10))):
        at, slot = rng.randrange(200, trouble_ms), rng.randrange(workers)
        trouble = Trouble(at, rng.choice(("crash", "crash at", "crash at", "freeze", "cut off", "drain")), slot)
        match rng.randrange(12):
            case 0:
                trouble = Trouble(at, "broker away", for_ms=rng.choice((100, 1_000, 6_000)))
            case 1:
                trouble = Trouble(at, "targets down", for_ms=rng.choice((500, 3_000)))
            case 2:
                trouble = Trouble(at, "freeze and replace", slot, rng.choice((500, 3_000, 7_000)))
        if trouble.kind == "crash at":
            trouble = replace(trouble, step=rng.choice(STEPS), number=rng.randint(1, 4))
        elif trouble.kind in ("freeze", "cut off"):
            trouble = replace(trouble, for_ms=rng.choice((300, 3_000, 7_000)))
        found.append(trouble)
    return sorted(found, key=lambda trouble: trouble.at_ms)


# Traffic

RawRecord = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
Row = tuple[int, bytes | None, bytes, int]
"""partition, key, value, timestamp"""


def _sends(rng: Random, job: Job, seed: int, partitions: int, trouble_ms: int) -> list[Send]:
    size = rng.choice((100, 300, 600, 1_000))
    rows = _ads(seed, size, partitions) if job.name == "ads.performance" else _events(rng, size, partitions)
    transactional = rng.choice((0.0, 0.3))
    sends: list[Send] = []
    ready, at = rng.choice((0.0, 0.5)), 0  # so much is there before anybody starts
    if job.name == "sim.rules":
        both: list[RawRecord] = [(i, EVENT_START_MS, b"pair", json.dumps(v).encode(), []) for i, v in versions(seed)]
        sends.append(Send(0, [((RULES, 0), RawBatch(both))], False, False))
    position = 0
    while position < len(rows):
        step = rng.randint(1, 60)
        part = rows[position : position + step]
        position += step
        if position > ready * len(rows):
            at = int(trouble_ms * 1.05 * position / len(rows))
        by_partition: dict[int, list[Row]] = {}
        for row in part:
            by_partition.setdefault(row[0], []).append(row)
        for p, some in by_partition.items():
            batch = RawBatch([(i, timestamp, key, value, []) for i, (_, key, value, timestamp) in enumerate(some)])
            chance = rng.random()
            sends.append(Send(at, [((job.source, p), batch)], chance < transactional, chance < transactional / 4))
    return sends


def _ads(seed: int, size: int, partitions: int) -> list[Row]:
    traffic = importlib.import_module("adstream.jobs.ads.traffic")
    settings = traffic.Traffic(
        seed=seed,
        events=size,
        rate=1,
        partitions=partitions,
        campaigns=3,
        products=5,
        devices=40,
        ads=16,
        share_clicks=0.3,
        share_conversions=0.2,
        share_copies=0.05,
        copy_delay_max_ms=10 * 60_000,
        share_late=0.02,
        share_bad=0.02,
        share_no_campaign=0.03,
        share_no_device=0.02,
    )
    return [tuple(sent) for sent in traffic.records(settings)]


def _events(rng: Random, size: int, partitions: int) -> list[Row]:
    rows: list[Row] = []
    at = EVENT_START_MS
    for i in range(size):
        at += rng.randrange(2_000)
        if rows and rng.random() < 0.05:
            again = rng.choice(rows[-200:])
            rows.append((*again[:3], at))
            continue
        late = rng.choice((0, 0, 0, rng.randrange(3_000), rng.randrange(20_000), rng.randrange(200_000)))
        user = f"u{rng.randrange(30)}"
        event: dict[str, Any] = {
            "id": f"e{i}",
            "user": user,
            "kind": f"k{rng.randrange(6)}",
            "at": at - late,
            "n": rng.randrange(100),
        }
        wrong = rng.randrange(100)
        if wrong == 0:
            del event["at"]
        elif wrong == 1:
            event["n"] = "many"
        value = b"{" if wrong == 2 else json.dumps(event, separators=(",", ":")).encode()
        rows.append(((murmur2(user.encode()) & 0x7FFFFFFF) % partitions, user.encode(), value, at))
    return rows
