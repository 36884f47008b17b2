"""`adstream demo ads`: the whole ads platform in one process, on the embedded log, with a Postgres and a Redis that are given.

    market (this thread) ──▶ embedded log ◀──▶ a worker for each job (a thread each) ──▶ Postgres, Redis
      opening, day, closing                                                                    │
                                                    view, report ◀─────────────────────────────┘

Each stage of the market is worked through before the next begins: when no worker is behind, three times in a row. What has come
of it is compared with a truth computed apart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import psycopg
import redis as redis_client
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from adstream._core import Plan
from adstream.cli import jobs, messages
from adstream.cli.appending import Appender
from adstream.cli.market_rows import differences
from adstream.cli.running import stop_on_signals
from adstream.errors import ConfigError, FatalError
from adstream.interfaces import Log, TopicSpec
from adstream.jobs.ads import Auction, market_truth
from adstream.jobs.ads import market as markets
from adstream.jobs.ads.platform import CONNECTIONS, JOBS
from adstream.jobs.ads.topics import TOPICS
from adstream.jobs.ads.truth import Record
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import launch
from adstream.runtime.settings import Settings
from adstream.runtime.worker import Worker
from adstream.targets import sql_function

PACED_S = 20.0
CHUNK = 500
START_S = 60.0
CLOSINGS = 3
"""So often time moves on before what is still missing is missing."""
PLAIN_WIDTH = 110
DAY = "the day"


class Stopped(Exception):
    """The user wants an end."""


@dataclass
class Platform:
    """The jobs, each with its worker in a thread of its own."""

    log: Log
    connections: dict[str, str]
    workers: dict[str, Worker] = field(default_factory=dict)
    failure: BaseException | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _inputs: dict[str, Sequence[str]] = field(default_factory=dict)
    """By application."""

    def start(self) -> None:
        for job in JOBS:
            thread = threading.Thread(target=self._work, args=[job.name], name=job.name, daemon=True)
            self._threads.append(thread)
            thread.start()
        deadline = time.monotonic() + START_S
        while len(self.workers) < len(JOBS) or not all(worker.status.ready for worker in self.workers.values()):
            self.check()
            if time.monotonic() > deadline:
                raise FatalError(f"not all jobs run after {START_S:.0f} s")
            time.sleep(0.05)

    def _work(self, name: str) -> None:
        built = jobs.find(name).build()
        settings = Settings(
            create_topics=True, connections=self.connections, flush_every_ms=250, drain_timeout_ms=10_000
        )
        self._inputs[built.app] = built.inputs
        try:
            with sql_function.connect(built.callables, self.connections):
                launch.run(
                    Plan(built.json, built.callables),
                    settings,
                    self.log,
                    on_start=lambda worker: self.workers.update({name: worker}),
                )
        except BaseException as error:
            self.failure = self.failure or error
            self.stopping.set()

    def check(self) -> None:
        """Raises what a job failed with, or Stopped."""
        if self.failure is not None:
            raise self.failure
        if self.stopping.is_set():
            raise Stopped

    def behind(self) -> int:
        """Records that are there and not worked through."""
        at: list[tuple[tuple[str, int], int]] = []
        for app, topics in self._inputs.items():
            counts = self.log.partitions(topics)
            places = [(topic, p) for topic, count in counts.items() for p in range(count)]
            at += [(place, position or 0) for place, position in self.log.committed(app, places).items()]
        for worker in self.workers.values():
            status = worker.status
            for positions in (part.positions for parts in (status.tasks, status.sinks) for part in parts):
                at += positions.items()
        ends = self.log.end_offsets(sorted({place for place, _ in at}), committed=True)
        return sum(max(0, ends[place] - position) for place, position in at)

    def settle(self) -> None:
        quiet = 0
        while quiet < 3:
            self.check()
            quiet = quiet + 1 if self.behind() == 0 else 0
            time.sleep(0.15)

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.stop()
        for thread in self._threads:
            thread.join()


@dataclass
class Sender:
    """Writes the market's records, and remembers them for the truth."""

    log: Log
    total: int
    sent: int = 0
    logs: dict[str, list[Record]] = field(default_factory=lambda: {topic.name: [] for topic in TOPICS})
    stage: str = "starting"

    def send(self, records: Iterable[markets.Sent], platform: Platform, seconds: float = 0.0) -> None:
        """Evenly over `seconds`."""
        everything = list(records)
        began = time.monotonic()
        with closing(Appender(self.log, "adstream-demo")) as appender:
            size = CHUNK if not seconds else max(1, min(CHUNK, int(len(everything) / seconds / 10)))
            for first in range(0, len(everything), size):
                platform.check()
                chunk = everything[first : first + size]
                for topic, partition, key, value, at in chunk:
                    self.sent += topic == "ad-events" and self.stage == DAY
                    self.logs[topic].append((partition, len(self.logs[topic]), key, value, at))
                appender.append(chunk)
                due = began + seconds * (first + size) / len(everything)
                time.sleep(max(0.0, due - time.monotonic()) if seconds else 0.0)


def demo(seed: int, events: int, sql: str | None, redis: str | None, seconds: float | None, *, check: bool) -> None:
    """Raises ConfigError: a server is not given, or not empty."""
    if not sql or not redis:
        missing = "--redis" if sql else "--sql"
        hint = "give --sql postgresql://USER@HOST/DATABASE and --redis redis://HOST:PORT/DB, both empty"
        raise ConfigError(
            "the platform's ledger is in Postgres, and what it shows is in Redis", option=missing, hint=hint
        )
    _empty(sql, redis)
    console = Console()
    live = console.is_terminal
    if not live:
        console = Console(width=PLAIN_WIDTH)
    messages.configure(quiet=True)
    market = markets.Market(seed=seed, events=events)
    log = EmbeddedLog(None, sync=False)
    log.create_topics([TopicSpec(topic.name, topic.partitions) for topic in TOPICS])
    platform = Platform(log, {"sql": sql, "redis": redis, **dict.fromkeys(CONNECTIONS, sql)})
    sender = Sender(log, events)
    found: dict[str, object] | None = None
    interrupted = False
    with ExitStack() as parts:
        shown = parts.enter_context(closing(redis_client.Redis.from_url(redis)))
        link = parts.enter_context(psycopg.connect(sql, autocommit=True))
        stop_on_signals(platform.stopping.set)
        view = _view(console, platform, sender, link, shown) if live else nullcontext()
        began = time.monotonic()
        with view:
            try:
                platform.start()
                _stage(platform, sender, "campaigns and payments", markets.opening(market))
                paced = (PACED_S if live else 0.0) if seconds is None else seconds
                _stage(platform, sender, DAY, markets.day(market), paced)
                for again in range(CLOSINGS):
                    _stage(platform, sender, "what waits for time to pass", markets.closing(market, again))
                    if check:
                        found = differences(market_truth.compute(sender.logs), sql, shown)
                    if not found:
                        break
            except Stopped:
                interrupted = True
            finally:
                platform.stop()
        took = time.monotonic() - began
        console.print(_report(platform, sender, link, shown))
    log.close()
    rate = f"{sender.sent / took:,.0f} events a second of this process, start included" if took else ""
    console.print(f"{sender.sent:,} ad events in {took:.1f} s: {rate}; results stay in {sql} and {redis}")
    if interrupted:
        console.print("interrupted: nothing is compared")
    elif found is not None:
        console.print("check: " + ("everything equals a truth computed apart" if not found else f"WRONG: {found}"))
        if found:
            raise AssertionError("the platform came to something else than the truth: this is a defect of adstream")


def _stage(
    platform: Platform, sender: Sender, name: str, records: Iterable[markets.Sent], seconds: float = 0.0
) -> None:
    sender.stage = name
    sender.send(records, platform, seconds)
    platform.settle()


def _empty(sql: str, redis: str) -> None:
    try:
        with psycopg.connect(sql) as link:
            there = link.execute("SELECT to_regnamespace('ads_ledger') IS NOT NULL").fetchone() == (True,)
    except psycopg.Error as error:
        raise ConfigError(f"Postgres does not answer: {error}", option="--sql") from error
    if there:
        raise ConfigError("there is a ledger already", option="--sql", hint="give an empty database: `createdb demo`")
    try:
        with closing(redis_client.Redis.from_url(redis)) as client:
            keys = client.dbsize()
    except (redis_client.RedisError, ValueError) as error:
        raise ConfigError(f"Redis does not answer: {error}", option="--redis") from error
    if keys:
        hint = "give a database that is empty: the number at the end of the URL"
        raise ConfigError(f"there are {keys} keys already", option="--redis", hint=hint)


# --- What is shown ------------------------------------------------------------------------------------------


@contextmanager
def _view(
    console: Console, platform: Platform, sender: Sender, link: psycopg.Connection[Any], shown: Any
) -> Iterator[None]:
    with Live(
        get_renderable=lambda: _report(platform, sender, link, shown),
        console=console,
        refresh_per_second=2,
        transient=True,
    ):
        yield


def _report(platform: Platform, sender: Sender, link: psycopg.Connection[Any], shown: Any) -> RenderableType:
    """How everything stands. What is not there yet is left out."""
    title = f"adstream demo ads: {sender.stage}, {sender.sent:,} of {sender.total:,} ad events"
    parts: list[RenderableType] = [Panel(_jobs(platform), title=title)]
    for name, query in _QUERIES.items():
        try:
            cursor = link.execute(query)
        except psycopg.errors.UndefinedTable:
            continue
        parts.append(Panel(_table([column.name for column in cursor.description or ()], cursor.fetchall()), title=name))
    auction = Auction(shown)
    offers = [
        (f"{placement} / {category}", offer.campaign_id, offer.advertiser_id, f"{offer.actual_price:,}")
        for placement, category in (("HOME", "전자제품"), ("SEARCH", "books"))
        for offer in auction.who(placement, category, 2)
    ]
    if offers:
        heads = ["where", "campaign", "advertiser", "a click costs"]
        parts.append(Panel(_table(heads, offers), title="who is shown, from Redis"))
    return Group(*parts)


def _jobs(platform: Platform) -> Table:
    rows = []
    for job in JOBS:
        worker = platform.workers.get(job.name)
        if worker is None:
            rows.append((job.name, "created", "", ""))
            continue
        status = worker.status
        reasons = [found for task in status.tasks for found in task.stats.get("counters", {}).values()]
        dead = sum(n for found in reasons for reason, n in found.items() if reason.startswith("dead:"))
        rows.append((job.name, status.state, f"{status.rows:,}", f"{dead:,}"))
    return _table(["job", "state", "rows worked through", "dead letters"], rows)


def _table(heads: list[str], rows: Iterable[Iterable[object]]) -> Table:
    table = Table(box=None, expand=True)
    for n, head in enumerate(heads):
        table.add_column(head, justify="left" if n == 0 else "right")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    return table


_QUERIES = {
    "money, from the ledger": """
        SELECT kind || coalesce(' ' || reason, '') AS posting, count(*)::int AS "how many",
            ads_ledger.major(sum(amount)::bigint, min(s.exponent)) AS amount
        FROM ads_ledger.posting, ads_ledger.setting s GROUP BY 1 ORDER BY 1""",
    "what clicks brought, gross and net of duplicates and of what was not charged": """
        SELECT coalesce(placement, '-') AS placement, sum(impression_count)::int AS impressions, sum(click_count)::int AS clicks,
            sum(click_count_net)::int AS net, sum(total_spend) AS spend, sum(total_spend_net) AS "net spend",
            sum(total_revenue) AS revenue
        FROM ad_performance_metrics_net GROUP BY 1 ORDER BY 1""",
    "to which clicks orders are owed": """
        SELECT coalesce(matched_by, 'nobody') AS "found by", status, count(*)::int AS orders, sum(revenue_amount) AS revenue
        FROM conversion_attribution_results GROUP BY 1, 2 ORDER BY 3 DESC""",
}
