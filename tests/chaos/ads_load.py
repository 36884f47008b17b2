"""`make load-platform SECONDS=600`: how far the ads platform is behind what happens, at a rate that is held.

`adstream run ads` works on a `market` that is sent as it goes by the clock: so many ad events, conversions and changes of
campaigns a second, then a burst of several times as many, then the first rate again. An event's lag is the time from when it was
handed to the producer to when a reader of committed records was given what a job made of it. What follows from what:

    clicks        ad-clicks               the ad event
    ledger        ad-ledger               the ad event
    duplicates    invalid-clicks          the click that put its partition's clock `grace` behind the duplicate
    compensation  refund-applied          the same
    attribution   conversion-attributions the conversion or the click that is credited, whichever came later
    net           ad-performance-net      an impression of a campaign of its own (`PROBES` a second)

And, looked at every few milliseconds: the rows of such impressions in both tables of performance, rows of some orders, lists
in Redis after a campaign's bid changed, what Redis says of its budget.

Lag is of what came in the steady part; a burst is over when nothing comes later than `BOUND_S` any more. In the end all tables
must be as the truth says and the audit clean, as in `ads_platform.py`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import re
import signal
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing as closed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import psycopg
import redis as redis_client
from confluent_kafka import Consumer, TopicPartition

from adstream.cli.market_rows import differences
from adstream.jobs.ads import market_truth
from adstream.jobs.ads.market import PARTITIONS, Market, Sent, closing, day
from adstream.jobs.ads.market_truth import ORDER_GRACE_MS, MarketTruth
from adstream.jobs.ads.traffic import partition_of
from tests.chaos.ads_platform import CLOSINGS, SETTLE_S, STOP_S, Round, Sender, workers
from tests.servers import Kafka, Postgres, Redis

BOUND_S = 1.0
CONVERSIONS, CHANGES, PROBES = 100, 50, 10
"""A second."""
SAMPLED = 20
"""Of so many conversions, one is looked for in the table."""
GIVE_UP_S = 30.0
"""So long a row of the table of orders is looked for: some are UNATTRIBUTED for an hour."""
SINKS_S = 20.0
TABLES_EVERY_S, REDIS_EVERY_S, SEND_EVERY_S = 0.02, 0.005, 0.002
MIDNIGHT = datetime(2024, 1, 15, 15, tzinfo=UTC)
"""In Seoul."""
ID = re.compile(rb'"event_id":"([^"]*)"')
TICKS = os.sysconf("SC_CLK_TCK")

Seen = dict[Any, float]
"""What was seen, and when first."""


@dataclass(frozen=True)
class Phase:
    name: str
    seconds: float
    factor: float


@dataclass(frozen=True)
class Effect:
    what: str
    cause_s: float
    seen_s: float | None

    @property
    def lag_s(self) -> float:
        return float("inf") if self.seen_s is None else self.seen_s - self.cause_s


@dataclass
class LoadReport:
    rates: str
    steady: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Lags in seconds, by what was looked at."""
    lost: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    burst_max_s: dict[str, float] = field(default_factory=dict)
    drained_s: float = 0.0
    """After the burst, until the last one that came later than the bound."""
    cores: dict[str, float] = field(default_factory=dict)
    """Busy in the steady part, by process."""
    load: tuple[float, float] = (0.0, 0.0)
    """Runnable processes, averaged over a minute, at begin and end."""
    behind_s: float = 0.0
    """How late the tool itself was at most."""
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.rates}; runnable processes {self.load[0]:.1f} to {self.load[1]:.1f}"]
        lines += [f"{'lag in ms':28}{'p50':>8}{'p99':>8}{'max':>8}{'n':>9}{'never':>7}   max of the burst"]
        for what in [*self.steady, *(self.lost.keys() - self.steady.keys())]:
            if not (lags := sorted(self.steady[what])):
                lines.append(f"{what:28}{'':33}{self.lost[what]:7}")
                continue
            numbers = [statistics.median(lags), lags[len(lags) * 99 // 100], lags[-1]]
            row = "".join(f"{1000 * number:8.0f}" for number in numbers)
            burst = f"{1000 * self.burst_max_s[what]:8.0f}" if what in self.burst_max_s else ""
            lines.append(f"{what:28}{row}{len(lags):9,}{self.lost[what]:7}   {burst}")
        lines.append(
            f"back under {BOUND_S:.0f} s {self.drained_s:.1f} s after the burst; sent {self.behind_s:.2f} s late at most"
        )
        lines.append("cores: " + ", ".join(f"{name} {share:.2f}" for name, share in self.cores.items()))
        lines.append(f"cores in all: {sum(self.cores.values()):.2f}")
        return "\n".join([*lines, *self.problems, "WRONG" if self.problems else "equal to the truth, audit clean"])


class PacedSender(Sender):
    """Sends what is due, and knows when it did."""

    def __init__(self, kafka: Kafka) -> None:
        super().__init__(kafka)
        self.stamps: dict[str, list[float]] = defaultdict(list)
        """As `logs`, of what was sent by `pace`."""

    def pace(self, records: Sequence[tuple[float, Sent]], began: float, beside: Callable[[Sent, float], None]) -> float:
        """Each so many seconds after `began`. Returns by how much it was late at most."""
        late = 0.0
        for due, record in records:
            while (now := time.monotonic()) < began + due:
                self.poll()
                time.sleep(min(SEND_EVERY_S, began + due - now) if began + due > now else 0)
            late = max(late, now - began - due)
            self.put(record)
            self.stamps[record.topic].append(now)
            beside(record, now)
        self.flush()
        return late


class Topics(threading.Thread):
    """Reads what the jobs write, committed."""

    NAMES = (
        "ad-clicks",
        "ad-ledger",
        "invalid-clicks",
        "refund-applied",
        "conversion-attributions",
        "ad-performance-net",
    )

    def __init__(self, kafka: Kafka) -> None:
        super().__init__(daemon=True)
        self.seen: dict[str, Seen] = {name: {} for name in self.NAMES}
        self.credited: dict[Any, str | None] = {}
        """By order and product, the click of the first row."""
        self.over = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "group.id": "load",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 100,
                "fetch.queue.backoff.ms": 5,
                "log_level": 2,
            }
        )
        self._consumer.assign([TopicPartition(name, p, 0) for name in self.NAMES for p in range(PARTITIONS[name])])

    def run(self) -> None:
        while not self.over.is_set():
            messages = self._consumer.consume(5_000, 0.01)
            now = time.monotonic()
            for message in messages:
                if message.error() is None:
                    topic, value = message.topic(), message.value()
                    self._note(topic or "", value or b"{}", now)
        self._consumer.close()

    def _note(self, topic: str, value: bytes, now: float) -> None:
        seen = self.seen[topic]
        if topic in ("ad-clicks", "invalid-clicks", "refund-applied"):
            if found := ID.search(value):
                seen.setdefault(found[1].decode(), now)
            return
        row = json.loads(value)
        if topic == "ad-ledger":
            seen.setdefault(row["posting_id"], now)
        elif topic == "ad-performance-net":
            seen.setdefault(row["campaign_id"], now)
        else:
            place = (row["order_id"], row["product_id"])
            if place not in seen:
                seen[place], self.credited[place] = now, row["click_event_id"]


class Look(Protocol):
    def __call__(self, waiting: Sequence[Any]) -> Iterable[Any]: ...
    def close(self) -> None: ...


class Looker(threading.Thread):
    """Looks again and again whether what was sent has come; `look` says what has, of what is waited for."""

    def __init__(self, what: str, every_s: float, look: Look) -> None:
        super().__init__(daemon=True)
        self.what, self._every_s, self._look = what, every_s, look
        self.sent: Seen = {}
        self.seen: Seen = {}
        self.over = threading.Event()
        self.looks = 0
        self._waiting: dict[Any, float] = {}
        self._lock = threading.Lock()

    def expect(self, thing: Any, now: float) -> None:
        with self._lock:
            self.sent[thing] = self._waiting[thing] = now

    def run(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            with self._lock:
                waiting = [thing for thing, since in self._waiting.items() if began - since < GIVE_UP_S]
            if waiting:
                found = list(self._look(waiting))
                now = time.monotonic()
                self.looks += 1
                with self._lock:
                    for thing in found:
                        if self._waiting.pop(thing, None) is not None:
                            self.seen[thing] = now
            time.sleep(max(0.001, began + self._every_s - time.monotonic()))
        self._look.close()


class Rows:
    """Looks for rows by the first column of a table's key."""

    def __init__(self, sql: str, table: str, column: str) -> None:
        self._link = psycopg.connect(sql, autocommit=True)
        self._query = f"SELECT DISTINCT {column} FROM {table} WHERE {column} = ANY(%s)"

    def __call__(self, waiting: Sequence[Any]) -> Iterator[Any]:
        for (name,) in self._link.execute(self._query, [list(waiting)]):
            yield name

    def close(self) -> None:
        self._link.close()


class Lists:
    """Looks for bids in the lists of the ranking. What is waited for: list, campaign, bid, the number of the change. A bid is
    there, too, when a later one of its campaign is."""

    def __init__(self, url: str) -> None:
        self._redis = redis_client.Redis.from_url(url)
        self._versions: dict[str, Any] = {}
        self._bids: dict[str, dict[str, str]] = {}
        self.numbers: dict[tuple[str, str], int] = {}
        """Campaign and bid -> the change that set it."""

    def __call__(self, waiting: Sequence[Any]) -> Iterator[Any]:
        places = sorted({place for place, *_ in waiting})
        with self._redis.pipeline(transaction=False) as pipeline:
            for place in places:
                pipeline.hget(place, "version")
            versions = dict(zip(places, pipeline.execute(), strict=True))
        changed = [place for place in places if versions[place] != self._versions.get(place)]
        for place in changed:
            version, lines = self._redis.hmget(place, ["version", "ranking_list"])
            self._versions[place] = version
            self._bids[place] = {line["campaign_id"]: line["bid_price"] for line in json.loads(lines or b"[]")}
        for thing in waiting:
            place, campaign, _, number = thing
            bid = self._bids.get(place, {}).get(campaign)
            if bid is not None and self.numbers.get((campaign, bid), -1) >= number:
                yield thing

    def close(self) -> None:
        self._redis.close()


class Budgets:
    """Looks for budgets. What is waited for: campaign, budget; each is higher than the one before."""

    def __init__(self, url: str) -> None:
        self._redis = redis_client.Redis.from_url(url)

    def __call__(self, waiting: Sequence[Any]) -> Iterator[Any]:
        campaigns = sorted({campaign for campaign, _ in waiting})
        with self._redis.pipeline(transaction=False) as pipeline:
            for campaign in campaigns:
                pipeline.hget(f"budget:{campaign}", "budget")
            budgets = dict(zip(campaigns, pipeline.execute(), strict=True))
        for campaign, budget in waiting:
            if budgets[campaign] is not None and float(budgets[campaign]) >= float(budget):
                yield campaign, budget

    def close(self) -> None:
        self._redis.close()


class Cores:
    """CPU of processes, and of what they have forked."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = roots
        self._began, self._at = self._now(), time.monotonic()

    def _now(self) -> dict[str, float]:
        used: dict[str, float] = {}
        parents: dict[int, list[tuple[int, float]]] = defaultdict(list)
        own: dict[int, float] = {}
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = place.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            pid, seconds = int(place.parent.name), (int(fields[11]) + int(fields[12])) / TICKS
            own[pid] = seconds
            parents[int(fields[1])].append((pid, seconds))
        for name, pid in self._roots.items():
            used[name] = own.get(pid, 0.0) + (sum(s for _, s in parents[pid]) if name == "postgres" else 0.0)
        return used

    def busy(self) -> dict[str, float]:
        now, seconds = self._now(), time.monotonic() - self._at
        return {name: (now[name] - self._began[name]) / seconds for name in now}


class Load(Round):
    def __init__(
        self, market: Market, rate: int, phases: Sequence[Phase], kafka: Kafka, postgres: Postgres, redis: Redis
    ) -> None:
        super().__init__(market, 0.0, 0, False, kafka, postgres, redis)
        self._phases = phases
        burst = "".join(f", {p.factor:g}x for {p.seconds:.0f} s" for p in phases if p.factor > 1)
        beside = f"{CONVERSIONS * rate // 1000} conversions, {round(market.changes / _units(phases))} changes"
        self.report = LoadReport(
            f"seed {market.seed}: {rate} ad events, {beside} a second for {phases[0].seconds:.0f} s{burst}"
        )
        self._lookers: list[Looker] = []
        self._conversions = 0
        self._rate = rate

    def measure(self) -> LoadReport:
        report = self.report
        paced, rest = self._schedule()
        self._adstream("topics", "create", "ads", "--keep-all")
        sender = PacedSender(self._kafka)
        with self._platform() as supervisor:
            self._open(supervisor, sender)
            self._until(self._settled, SETTLE_S, "the opening is worked through")
            topics = Topics(self._kafka)
            with self._looking(topics):
                began = time.monotonic() + 0.5
                load, cores = os.getloadavg()[0], Cores(self._processes(supervisor.pid))
                steady = threading.Timer(0.5 + self._phases[0].seconds, lambda: report.cores.update(cores.busy()))
                steady.start()
                report.behind_s = sender.pace(paced, began, self._expect)
                report.load = (load, os.getloadavg()[0])
                time.sleep(2.0)
                sender.send(rest)
                self._until(self._settled, SETTLE_S, "the day is worked through")
            for again in range(CLOSINGS):
                sender.send(closing(self._market, again))
                self._until(self._settled, SETTLE_S, "everything is worked through")
                truth = market_truth.compute(sender.logs)
                if not (wrong := self._wrong(truth)):
                    break
            report.problems += [f"{what}: {how}" for what, how in wrong.items()]
            supervisor.send_signal(signal.SIGTERM)
            if (code := supervisor.wait(STOP_S)) != 0:
                report.problems.append(f"SIGTERM: exit code {code}")
        verdict = self._adstream("audit", "ads", "--sql", self._sql).splitlines()[-1]
        if "clean" not in verdict:
            report.problems.append(verdict)
        self._judge(effects(truth, sender, topics, self._lookers), began)
        return report

    def _wrong(self, truth: MarketTruth) -> dict[str, object]:
        """What is not as it must be, a while after nothing lags: sinks write later than what they read is committed."""
        deadline = time.monotonic() + SINKS_S
        with closed(redis_client.Redis.from_url(self._redis.url())) as shown:
            while (wrong := differences(truth, self._sql, shown)) and time.monotonic() < deadline:
                time.sleep(1.0)
        return wrong

    def _schedule(self) -> tuple[list[tuple[float, Sent]], list[Sent]]:
        """The day's records, each with the second at which it is due, and those of after the day."""
        market, units = self._market, _units(self._phases)
        places = [(0.0, 0.0)]  # seconds of the first rate's traffic -> seconds
        for phase in self._phases:
            unit, second = places[-1]
            places.append((unit + phase.seconds * phase.factor, second + phase.seconds))
        probes = _probes(market, round(units * PROBES))
        paced, rest = [], []
        steps = list(pairwise(places))
        for record in heapq.merge(day(market), probes, key=lambda record: record.timestamp_ms):
            if record.timestamp_ms >= market.end_ms:
                rest.append(record)
                continue
            unit = units * (record.timestamp_ms - market.start_ms) / (market.end_ms - market.start_ms)
            while len(steps) > 1 and unit >= steps[0][1][0]:
                del steps[0]
            (unit0, second0), (unit1, second1) = steps[0]
            paced.append((second0 + (unit - unit0) * (second1 - second0) / (unit1 - unit0), record))
        return paced, rest

    def _processes(self, supervisor: int) -> dict[str, int]:
        servers = {"broker": self._kafka.pid, "postgres": self._postgres.pid, "redis": self._redis.pid}
        jobs = {name.removeprefix("ads."): pid for name, pid in sorted(workers(supervisor).items())}
        return jobs | {"supervisor": supervisor} | servers | {"this tool": os.getpid()}

    @contextmanager
    def _looking(self, topics: Topics) -> Iterator[None]:
        url = self._redis.url()
        self._lists = Lists(url)
        self._lookers = [
            Looker(
                "performance, table", TABLES_EVERY_S, Rows(self._sql, "ad_performance_metrics_realtime", "campaign_id")
            ),
            Looker(
                "net_performance, table", TABLES_EVERY_S, Rows(self._sql, "ad_performance_metrics_net", "campaign_id")
            ),
            Looker("attribution, table", TABLES_EVERY_S, Rows(self._sql, "conversion_attribution_results", "order_id")),
            Looker("ranking, Redis", REDIS_EVERY_S, self._lists),
            Looker("budget, Redis", REDIS_EVERY_S, Budgets(url)),
        ]
        threads: list[Topics | Looker] = [topics, *self._lookers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for thread in threads:
                thread.over.set()
                thread.join()

    def _expect(self, record: Sent, now: float) -> None:
        gross, net, orders, lists, budgets = self._lookers
        if record.topic == "ad-events" and record.key == b"probe":
            campaign = json.loads(record.value)["campaign_id"]
            gross.expect(campaign, now)
            net.expect(campaign, now)
        elif record.topic == "conversion-events":
            self._conversions += 1
            if self._conversions % SAMPLED == 0:
                orders.expect(json.loads(record.value)["order_id"], now)
        elif record.topic == "campaign-events":
            event = json.loads(record.value)
            campaign, bid, number = event["campaign_id"], event["bid_price"], int(event["daily_budget"])
            self._lists.numbers[campaign, bid] = number
            lists.expect((f"rtb:{event['placement']}:{event['category']}", campaign, bid, number), now)
            budgets.expect((campaign, event["daily_budget"]), now)

    def _judge(self, found: Iterable[Effect], began: float) -> None:
        report = self.report
        steady_end = began + self._phases[0].seconds
        burst_end = steady_end + sum(p.seconds for p in self._phases[1:2])
        last = burst_end
        for effect in found:
            if effect.seen_s is None:
                report.lost[effect.what] += 1
            elif effect.cause_s < steady_end:
                report.steady[effect.what].append(effect.lag_s)
            else:
                report.burst_max_s[effect.what] = max(report.burst_max_s.get(effect.what, 0.0), effect.lag_s)
                if effect.lag_s > BOUND_S:
                    last = max(last, effect.seen_s)
        report.drained_s = last - burst_end
        lost = {what: n for what, n in report.lost.items() if n and what in ("clicks", "ledger", "duplicates")}
        if lost:
            report.problems.append(f"never seen: {lost}")


def effects(truth: MarketTruth, sender: PacedSender, topics: Topics, lookers: Sequence[Looker]) -> Iterator[Effect]:
    """What must have come of what was sent in time, and when it did."""
    sent: Seen = {}
    for record, at in zip(sender.logs["ad-events"], sender.stamps["ad-events"], strict=False):
        if found := ID.search(record[3] or b""):
            sent.setdefault(found[1].decode(), at)
    ends = _released(truth, sender)
    seen = topics.seen
    for id in truth.clicks:
        if id in sent:
            yield Effect("clicks", sent[id], seen["ad-clicks"].get(id))
            yield Effect("ledger", sent[id], seen["ad-ledger"].get(f"click:{id}"))
    for id in truth.duplicates:
        if id in ends:
            yield Effect("duplicates", ends[id], seen["invalid-clicks"].get(id))
            if truth.balances[truth.clicks[id].advertiser_id].refunds:
                yield Effect("compensation", ends[id], seen["refund-applied"].get(id))
    orders: Seen = {}
    for record, at in zip(sender.logs["conversion-events"], sender.stamps["conversion-events"], strict=False):
        told = json.loads(record[3] or b"{}")
        orders.setdefault((told["order_id"], told["product_id"]), at)
    known: dict[str, float] = {}
    for place, at in orders.items():
        credit = truth.credits[place]
        # One that a better click or a duplicate has moved has more than one cause.
        if credit.click_event_id in sent and topics.credited.get(place, credit.click_event_id) == credit.click_event_id:
            known[place[0]] = cause = max(at, sent[credit.click_event_id])
            yield Effect("attribution", cause, seen["conversion-attributions"].get(place))
    gross, net, table, lists, budgets = lookers
    for campaign, at in net.sent.items():
        yield Effect("net_performance", at, seen["ad-performance-net"].get(campaign))
    for order, at in table.sent.items():
        if order in known and order in table.seen:
            yield Effect(table.what, max(at, known[order]), table.seen[order])
    for looker in (gross, net, lists, budgets):
        for thing, at in looker.sent.items():
            yield Effect(looker.what, at, looker.seen.get(thing))


def _released(truth: MarketTruth, sender: PacedSender) -> Seen:
    """For each click of the truth that came in order, when the event was sent that put its partition's clock behind its grace."""
    ends: Seen = {}
    clocks: dict[int, int] = {}
    waiting: dict[int, list[tuple[int, str]]] = defaultdict(list)
    known: set[str] = set()
    for record, at in zip(sender.logs["ad-events"], sender.stamps["ad-events"], strict=False):
        lane, id = record[0], ID.search(record[3] or b"")
        click = truth.clicks.get(id[1].decode()) if id else None
        if click is None or click.event_id in known or click.device_id is None or click.ad_id is None:
            continue
        known.add(click.event_id)
        clock = clocks[lane] = max(clocks.get(lane, 0), click.at)
        if click.at + ORDER_GRACE_MS >= clock:
            heapq.heappush(waiting[lane], (click.at, click.event_id))
        while waiting[lane] and waiting[lane][0][0] + ORDER_GRACE_MS < clock:
            ends[heapq.heappop(waiting[lane])[1]] = at
    return ends


def _probes(market: Market, count: int) -> Iterator[Sent]:
    """Impressions, each of a campaign of its own."""
    for n in range(count):
        at = market.start_ms + n * (market.end_ms - market.start_ms) // count
        event = {
            "event_id": f"probe_{n:06d}",
            "event_type": "IMPRESSION",
            "timestamp": (datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=at))
            .isoformat()
            .replace("+00:00", "Z"),
            "device_id": "probe",
            "campaign_id": f"probe_{n:06d}",
            "product_id": f"product_{n % market.products:03d}",
            "placement": "HOME",
        }
        value = json.dumps(event).encode()
        yield Sent("ad-events", partition_of(b"probe", PARTITIONS["ad-events"]), b"probe", value, at)


def _units(phases: Sequence[Phase]) -> float:
    """Seconds of the first rate's traffic."""
    return sum(phase.seconds * phase.factor for phase in phases)


def made(seed: int, rate: int, phases: Sequence[Phase], changes: float = CHANGES) -> Market:
    """A market whose day has the rate's ad events, conversions and changes for each second of the first phase."""
    units = _units(phases)
    events, minutes = round(units * rate), max(1, round(units / 60))
    market = Market(
        seed=seed,
        events=events,
        start=MIDNIGHT - timedelta(seconds=minutes * 30),
        minutes=minutes,
        campaigns=max(20, min(400, events // 200)),
        devices=20_000,
        changes=round(units * changes * rate / 1000),
        convert_minutes=max(1, minutes // 10),
        share_converted=0.5,
    )
    # How many conversions fall into the day is seen in a smaller one.
    small = replace(market, events=max(1, min(events, 20_000)), changes=0)
    found = sum(r.topic == "conversion-events" and r.timestamp_ms < market.end_ms for r in day(small))
    wanted = small.events * CONVERSIONS / 1000
    return replace(market, share_converted=min(1.0, 0.5 * wanted / max(1, found)))


def run(
    seed: int, rate: int, phases: Sequence[Phase], options: Sequence[str] = (), changes: float = CHANGES
) -> LoadReport:
    """On servers of its own. `options`: more of them for `adstream run ads`. `changes`: a second, of a thousand ad events."""
    market = made(seed, rate, phases, changes)
    with Kafka(heap="1g", quick=False) as kafka, Postgres() as postgres, Redis() as redis:
        load = Load(market, rate, phases, kafka, postgres, redis)
        load.options = options
        return load.measure()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the steady part")
    parser.add_argument("--rate", type=int, default=1000, help="ad events a second; the others follow")
    parser.add_argument("--burst", type=float, default=10.0, help="seconds")
    parser.add_argument("--factor", type=float, default=5.0, help="of the burst")
    parser.add_argument("--after", type=float, default=30.0, help="seconds of the first rate after the burst")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("options", nargs="*", help="more of them for `adstream run ads`, behind `--`")
    given: Any = parser.parse_args(arguments)
    phases = [Phase("steady", given.seconds, 1.0)]
    if given.burst:
        phases += [Phase("burst", given.burst, given.factor), Phase("after", given.after, 1.0)]
    report = run(given.seed, given.rate, phases, given.options)
    print(report)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
