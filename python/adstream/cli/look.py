"""What the demo shows: read from the SQLite file and from the topics, while they are being written, and laid out.

Nothing here asks the worker for a result; its status serves for commits and states only.
"""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich import box
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from adstream.cli.truth_rows import COLUMNS, as_dict
from adstream.interfaces import Log
from adstream.jobs.ads.traffic import Traffic
from adstream.jobs.ads.truth import Truth

if TYPE_CHECKING:
    from adstream.runtime.status import Status

EVENTS, DEAD, LATE, FINAL = "ad-events", "ad-events-dlq", "ad-performance-late", "ad-performance"
TABLE = "ad_performance_metrics_realtime"
CAMPAIGNS_WIDTH = 106
"""What all columns of the campaigns take."""
READ_ROWS = 10_000
EXAMPLES = 3
SPEED_OVER_S = 3.0

# Money is text with two decimals, so its digits are exact cents.
_CENTS = "sum(cast(replace({0}, '.', '') as integer))"
_TOTALS = f"""
select count(*), count(distinct metric_time), total(impression_count), total(click_count), total(conversion_count),
       coalesce({_CENTS.format("total_spend")}, 0), coalesce({_CENTS.format("total_revenue")}, 0)
from {TABLE}"""
_CAMPAIGNS = f"""
select campaign_id, sum(impression_count), sum(click_count), sum(conversion_count),
       {_CENTS.format("total_spend")} as spend, {_CENTS.format("total_revenue")}
from {TABLE} group by campaign_id order by spend desc, campaign_id limit 10"""


@dataclass(frozen=True)
class Campaign:
    name: str
    impressions: int
    clicks: int
    conversions: int
    spend_cents: int
    revenue_cents: int


@dataclass(frozen=True)
class Seen:
    """One look."""

    events: int = 0
    per_s: float = 0.0
    rows: int = 0
    windows: int = 0
    closed: int = 0
    """Windows of which `ad-performance` has rows."""
    final_rows: int = 0
    impressions: int = 0
    clicks: int = 0
    conversions: int = 0
    spend_cents: int = 0
    revenue_cents: int = 0
    campaigns: tuple[Campaign, ...] = ()
    dead: Counter[str] = field(default_factory=Counter)
    dead_examples: tuple[tuple[str, str], ...] = ()
    late: int = 0
    late_examples: tuple[str, ...] = ()

    @property
    def counted(self) -> int:
        """Events in the table."""
        return self.impressions + self.clicks + self.conversions

    @property
    def uncounted(self) -> int:
        """Neither counted nor late nor dead."""
        return self.events - self.counted - self.late - sum(self.dead.values())


class Look:
    """Follows the topics and queries the database; `now` from any thread."""

    def __init__(self, log: Log, database: Path) -> None:
        self._log, self._database = log, database
        self._lock = threading.Lock()
        self._topics = {topic: _Follower(log, topic) for topic in (DEAD, LATE, FINAL)}
        self._dead: Counter[str] = Counter()
        self._dead_examples: deque[tuple[str, str]] = deque(maxlen=EXAMPLES)
        self._late, self._late_examples = 0, deque[str](maxlen=EXAMPLES)
        self._closed: set[str] = set()
        self._final_rows = 0
        self._speeds: deque[tuple[float, int]] = deque()
        self._rows: tuple[tuple[Any, ...], tuple[Campaign, ...]] = ((0,) * 7, ())

    def __enter__(self) -> Look:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for follower in self._topics.values():
            follower.close()

    def now(self) -> Seen:
        with self._lock:
            self._follow()
            events = self._events()
            self._query()
            totals, campaigns = self._rows
            return Seen(
                events,
                self._speed(events),
                rows=int(totals[0]),
                windows=int(totals[1]),
                closed=len(self._closed),
                final_rows=self._final_rows,
                impressions=int(totals[2]),
                clicks=int(totals[3]),
                conversions=int(totals[4]),
                spend_cents=int(totals[5]),
                revenue_cents=int(totals[6]),
                campaigns=campaigns,
                dead=Counter(self._dead),
                dead_examples=tuple(self._dead_examples),
                late=self._late,
                late_examples=tuple(self._late_examples),
            )

    def differences(self, truth: Truth) -> int:
        """In how many rows of the table, and by how much in all other counts, we differ from the truth."""
        seen = self.now()
        with closing(self._connect()) as connection:
            found = Counter(connection.execute(f"select {', '.join(COLUMNS)} from {TABLE}").fetchall())
        wanted = Counter(tuple(as_dict(key, row).values()) for key, row in truth.table.items())
        rows = max((found - wanted).total(), (wanted - found).total())
        others = (
            seen.final_rows - len(truth.final),
            seen.late - len(truth.late),
            (seen.dead - truth.reasons).total(),
            (truth.reasons - seen.dead).total(),
        )
        total = truth.total
        return rows + sum(map(abs, (*others, seen.uncounted - total.repeated - total.filtered)))

    def _follow(self) -> None:
        for value, headers in self._topics[DEAD].new():
            reason = headers.get("adstream.reason", b"?").decode()
            self._dead[reason] += 1
            self._dead_examples.append((reason, value.decode(errors="backslashreplace")))
        for value, _ in self._topics[LATE].new():
            self._late += 1
            self._late_examples.append(value.decode(errors="backslashreplace"))
        for value, _ in self._topics[FINAL].new():
            self._final_rows += 1
            self._closed.add(json.loads(value)["metric_time"])

    def _events(self) -> int:
        partitions = [(EVENTS, p) for p in range(self._log.partitions([EVENTS])[EVENTS])]
        return sum(self._log.end_offsets(partitions, committed=True).values())

    def _speed(self, events: int) -> float:
        now = time.monotonic()
        self._speeds.append((now, events))
        while len(self._speeds) > 2 and now - self._speeds[0][0] > SPEED_OVER_S:
            self._speeds.popleft()
        since, before = self._speeds[0]
        return (events - before) / (now - since) if now > since else 0.0

    def _query(self) -> None:
        if not self._database.exists():
            return
        try:
            with closing(self._connect()) as connection:
                totals = connection.execute(_TOTALS).fetchone()
                campaigns = tuple(Campaign(*row) for row in connection.execute(_CAMPAIGNS))
        except sqlite3.OperationalError:  # the table is not there yet
            return
        self._rows = (totals, campaigns)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self._database.as_uri()}?mode=ro", uri=True, timeout=10)


class _Follower:
    """New records of a topic, once it exists."""

    def __init__(self, log: Log, topic: str) -> None:
        self._log, self._topic = log, topic
        self._reader = log.reader()
        self._partitions = 0

    def new(self) -> Iterator[tuple[bytes, dict[str, bytes]]]:
        if not self._partitions:
            self._partitions = self._log.partitions([self._topic]).get(self._topic, 0)
            for p in range(self._partitions):
                self._reader.add(self._topic, p, 0)
        for p in range(self._partitions):
            while (batch := self._reader.read(self._topic, p, READ_ROWS)) is not None:
                for _, _, _, value, headers in batch.records():
                    yield value or b"", {name: text or b"" for name, text in headers}

    def close(self) -> None:
        self._reader.close()


# --- Layout -------------------------------------------------------------------------------------------------


def live_view(seen: Seen, traffic: Traffic, status: Status | None, elapsed_s: float, *, done: bool) -> RenderableType:
    """The whole screen."""
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right")
    bar.add_row(ProgressBar(total=traffic.events, completed=seen.events), f"{elapsed_s:.0f} s")
    dead = Group(_reasons(seen, 6), *(_example(f"{reason}: {text}") for reason, text in seen.dead_examples))
    late = Group(_pairs([("late", f"{seen.late:,}")]), *(_example(text) for text in seen.late_examples))
    state = "finishing" if done else (status.state if status else "created")
    return Group(
        Panel(
            Group(_pairs([*_numbers(seen), *_machine(seen, status)], columns=3), bar), title=f"adstream demo: {state}"
        ),
        Panel(_Campaigns(seen.campaigns), title="campaigns by spend, from SQLite"),
        Panel(dead, title=f"dead letters, from {DEAD}"),
        Panel(late, title=f"events too late, from {LATE}"),
    )


def final_report(
    seen: Seen,
    traffic: Traffic,
    database: Path,
    took_s: float,
    truth: Truth | None,
    differences: int | None,
    redis: str | None,
    interrupted: bool,
) -> RenderableType:
    """What stays on the screen, and all that is printed without a terminal."""
    minutes = traffic.events / traffic.rate / 60
    title = f"ads.performance, seed {traffic.seed}: {minutes:.0f} minutes of ad traffic in {took_s:.1f} s"
    parts: list[RenderableType] = [
        Text(f"{title}{' (interrupted)' if interrupted else ''}", style="bold"),
        _pairs(_numbers(seen)),
        Text("\nCampaigns by spend", style="bold"),
        _Campaigns(seen.campaigns),
        Text(f"\nDead letters by reason ({DEAD})", style="bold"),
        _reasons(seen, 100),
        *(_example(f"{reason}: {text}") for reason, text in seen.dead_examples),
        Text(f"\nEvents too late ({LATE}): {seen.late:,}", style="bold"),
        *(_example(text) for text in seen.late_examples),
        Text(""),
    ]
    rest = [("repeated or without campaign", f"{seen.uncounted:,}")]
    if truth is not None:
        rest += [("  repeated", f"{truth.total.repeated:,}"), ("  without campaign", f"{truth.total.filtered:,}")]
        equal = f"checked: all {len(truth.table):,} rows equal a computation apart, in plain Python"
        verdict = f"{differences:,} differences from a computation apart, in plain Python" if differences else equal
        parts += [_pairs(rest), Text(f"\n{verdict}", style="bold red" if differences else "green")]
    else:
        parts.append(_pairs(rest))
    products = redis or "the table product_metrics (with --redis URL: product-metrics:{product_id})"
    parts.append(Text(f"products: {products}\nSQLite:   {database}", no_wrap=True, overflow="ignore"))
    return Group(*parts)


def _numbers(seen: Seen) -> list[tuple[str, str]]:
    return [
        ("events in", f"{seen.events:,}"),
        ("counted", f"{seen.counted:,}"),
        ("rows", f"{seen.rows:,}"),
        ("windows closed", f"{seen.closed:,}"),
        ("windows open", f"{max(0, seen.windows - seen.closed):,}"),
        ("final rows", f"{seen.final_rows:,}"),
        ("spend", _money(seen.spend_cents)),
        ("revenue", _money(seen.revenue_cents)),
        ("late", f"{seen.late:,}"),
        ("dead", f"{sum(seen.dead.values()):,}"),
    ]


def _machine(seen: Seen, status: Status | None) -> list[tuple[str, str]]:
    commits = status.commits.get("committed", 0) if status else 0
    return [("events/s", f"{seen.per_s:,.0f}"), ("commits", f"{commits:,}"), ("memory", f"{memory_bytes() >> 20:,} MB")]


def memory_bytes() -> int:
    """Resident now; where the system does not tell, the most it ever was."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


@dataclass(frozen=True)
class _Campaigns:
    """A table as wide as there is room: a terminal of 80 columns has none for all, and names and sums cut short say
    nothing."""

    campaigns: tuple[Campaign, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        narrow = options.max_width < CAMPAIGNS_WIDTH
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1) if narrow else (0, 1))
        table.add_column("campaign")
        names = ("impressions", "clicks", "conversions", "ctr %", "cvr %", "spend", "revenue", "roas")
        shown = [name for name in names if not narrow or name not in ("conversions", "cvr %")]
        for name in shown:
            table.add_column("impr." if narrow and name == "impressions" else name, justify="right")
        for campaign in self.campaigns:
            row = _campaign(campaign)
            table.add_row(campaign.name, *(row[name] for name in shown))
        yield table


def _campaign(c: Campaign) -> dict[str, str]:
    return {
        "impressions": f"{c.impressions:,}",
        "clicks": f"{c.clicks:,}",
        "conversions": f"{c.conversions:,}",
        "ctr %": f"{100 * c.clicks / c.impressions:.2f}" if c.impressions else "0.00",
        "cvr %": f"{100 * c.conversions / c.clicks:.2f}" if c.clicks else "0.00",
        "spend": _money(c.spend_cents),
        "revenue": _money(c.revenue_cents),
        "roas": f"{c.revenue_cents / c.spend_cents:.2f}" if c.spend_cents else "0.00",
    }


def _reasons(seen: Seen, limit: int) -> RenderableType:
    if not seen.dead:
        return Text("none")
    ranked = sorted(seen.dead.items(), key=lambda item: (-item[1], item[0]))
    shown = [Text(f"{n:>6,}  {reason}") for reason, n in ranked[:limit]]
    return Columns(shown, padding=(0, 3))


def _example(text: str) -> Text:
    return Text(f"  {text}", style="dim", no_wrap=True, overflow="ellipsis")


def _pairs(pairs: list[tuple[str, str]], columns: int = 1) -> Table:
    table = Table.grid(padding=(0, 3))
    for _ in range(columns):
        table.add_column(style="dim")
        table.add_column(justify="right")
    for at in range(0, len(pairs), columns):
        table.add_row(*(cell for pair in pairs[at : at + columns] for cell in pair))
    return table


def _money(cents: int) -> str:
    return f"{cents // 100:,}.{cents % 100:02d}"
