"""F15, F16, F17, F20 and F30 on a real Postgres: whatever comes, in whatever batches, again and again, and with transactions that
die: what is decided is what a plain model decides that shares nothing with it, and no rule of money is broken."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.jobs.ads.money import POST, Ledger, Row
from tests.servers import Postgres

pytestmark = pytest.mark.servers

SEOUL = ZoneInfo("Asia/Seoul")
MIDNIGHT = datetime(2024, 1, 15, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def shared(postgres: Postgres) -> Iterator[Ledger]:
    with Ledger(postgres.create_database("money_invariants")) as ledger:
        yield ledger


@dataclass
class Campaign:
    budget: int | None = None
    terms: tuple[datetime, str] | None = None
    spend: dict[Any, int] = field(default_factory=lambda: defaultdict(int))
    billed: set[Any] = field(default_factory=set)
    alerted: dict[Any, int] = field(default_factory=lambda: defaultdict(int))
    lacks_budget: tuple[Any, int] | None = None
    lacks_balance: int | None = None
    told: list[Any] = field(default_factory=list)

    @property
    def paused(self) -> bool:
        return self.lacks_budget is not None or self.lacks_balance is not None


class Model:
    """What the ledger says it does (docs/ads.md), one row after the other."""

    def __init__(self) -> None:
        self.balance: dict[str, int] = defaultdict(int)
        self.campaigns: dict[tuple[str, str], Campaign] = defaultdict(Campaign)
        self.posted: dict[str, tuple[Row, str, str | None, int]] = {}
        self.refunded: dict[str, int] = defaultdict(int)
        self.refunds: dict[str, tuple[Row, str, str | None, int]] = {}
        self.parked: dict[str, Row] = {}
        self.known: set[str] = set()

    def lift(self, account: str, day: Any) -> None:
        for (owner, _), c in sorted(self.campaigns.items()):
            if owner == account and c.paused:
                if c.lacks_budget is not None:
                    of, price = c.lacks_budget
                    if (day is not None and day > of) or c.budget is None or c.budget - c.spend[of] >= price:
                        c.lacks_budget = None
                if c.lacks_balance is not None and self.balance[account] >= c.lacks_balance:
                    c.lacks_balance = None
                if not c.paused:
                    c.told.append("ACTIVE")

    def pause(self, c: Campaign, budget: tuple[Any, int] | None, balance: int | None) -> None:
        before = c.paused
        again = []
        if budget is not None and (c.lacks_budget is None or c.lacks_budget[0] < budget[0]):
            c.lacks_budget = budget
            again = [f"look again after {budget[0]}"]
        if balance is not None and c.lacks_balance is None:
            c.lacks_balance = balance
        if not before:
            c.told.append("PAUSED")
        c.told += again

    def alert(self, c: Campaign, day: Any) -> None:
        for level in (50, 80, 100):
            if c.budget and level > c.alerted[day] and c.spend[day] * 100 >= c.budget * level:
                c.alerted[day] = level
                c.told.append(level)

    def post(self, rows: list[Row]) -> list[tuple[str, str | None, int]]:
        for row in rows:
            self.known.add(row[2])
        looked: dict[str, Any] = {}
        newest: dict[tuple[str, str], Any] = {}
        for row in rows:
            id, kind, account, campaign, at, amount, _ = row
            if id in self.posted:
                continue
            price = None if amount is None else int(amount)
            day = at.astimezone(SEOUL).date()
            c = self.campaigns[account, campaign] if kind != "DEPOSIT" else Campaign()
            status, reason, taken = "POSTED", None, 0
            if kind == "DEPOSIT":
                taken = price
                self.balance[account] += price
                self.lift(account, None)
            elif kind == "RESUME":
                status = "NOTED"
                self.lift(account, day)
            elif kind == "CAMPAIGN":
                status = "NOTED"
                if price is not None and (c.terms is None or c.terms < (at, id)):
                    c.budget, c.terms = price, (at, id)
                self.lift(account, day)
                days = [d for d in c.billed if d >= day]
                if days:
                    self.alert(c, max(days))
                if days and c.budget is not None and 0 < c.spend[max(days)] >= c.budget:
                    self.pause(c, (max(days), 1), None)
            else:
                anyone = any(z.paused for (owner, _), z in self.campaigns.items() if owner == account)
                if anyone and (account not in looked or looked[account] < day):
                    self.lift(account, day)
                    looked[account] = day
                key = (account, campaign)
                newest[key] = max([day, *c.billed, *([newest[key]] if key in newest else [])])
                if c.budget is not None and c.spend[day] + price > c.budget:
                    status, reason = "UNBILLED", "OVER_BUDGET"
                    if day >= newest[key]:
                        self.pause(c, (day, price), None)
                elif price > self.balance[account]:
                    status, reason = "UNBILLED", "NO_BALANCE"
                    self.pause(c, None, price)
                else:
                    taken = price
                    self.balance[account] -= price
                    c.spend[day] += price
                    if price:
                        c.billed.add(day)
                    if price and c.budget:
                        self.alert(c, day)
                        if c.spend[day] == c.budget and day >= newest[key]:
                            self.pause(c, (day, price), None)
            self.posted[id] = (row, status, reason, taken)
        asked = {row[0] for row in rows}
        for id, row in list(self.parked.items()):
            if row[1] in asked and row[1] in self.posted and row[2] in self.known:
                del self.parked[id]
                self.book(row)
        return [
            (
                "IDEMPOTENCY_CONFLICT" if self.posted[row[0]][0] != row else self.posted[row[0]][1],
                *self.posted[row[0]][2:],
            )
            for row in rows
        ]

    def book(self, row: Row) -> None:
        id, of, account, _, _, amount = row
        charge, status, _, taken = self.posted[of]
        left = taken - self.refunded[of]
        given = min(int(amount), left)
        if charge[2] != account:
            self.refunds[id] = (row, "REJECTED", "OTHER_ADVERTISER", 0)
        elif given or not amount:
            self.refunds[id] = (row, "APPLIED", None, given)
            self.refunded[of] += given
            if given:
                day = charge[4].astimezone(SEOUL).date()
                self.balance[account] += given
                self.campaigns[account, charge[3]].spend[day] -= given
                self.lift(account, day)
        else:
            self.refunds[id] = (row, "REJECTED", "UNBILLED" if status != "POSTED" else "ALREADY_REFUNDED", 0)

    def refund(self, rows: list[Row]) -> list[tuple[str | None, str | None]]:
        answers = []
        for row in rows:
            id, of, account = row[:3]
            if id not in self.refunds:
                if id in self.parked and self.parked[id] != row:
                    answers.append(("IDEMPOTENCY_CONFLICT", None))
                    continue
                if of not in self.posted:
                    self.parked[id] = row
                if account not in self.known:
                    answers.append(("UNKNOWN_ADVERTISER", None))
                    continue
                if id in self.parked and of not in self.posted:
                    answers.append(("PARKED", None))
                    continue
                self.parked.pop(id, None)
                self.book(row)
            known, status, reason, _ = self.refunds[id]
            answers.append((status if known == row else "IDEMPOTENCY_CONFLICT", reason))
        return answers


_examples = count()
PRICES = st.sampled_from([0, 1, 400, 700, 1200, 1300])
TIMES = st.sampled_from([-86_400_000, -3_600_000, -1, 0, 1, 20_000, 86_400_000])


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[tuple[str, list[Row]]], str]:
    mine = f"x{next(_examples)}-"
    account = st.sampled_from([mine + "A", mine + "B"])
    campaign = st.sampled_from(["c", "d"])

    def when() -> datetime:
        return MIDNIGHT + timedelta(milliseconds=draw(TIMES))

    pool: list[Row] = []
    refunds: list[Row] = []
    for number in range(draw(st.integers(4, 24))):
        match draw(st.integers(0, 9)):
            case 0 | 1:
                row = (
                    f"payment:{mine}{number}",
                    "DEPOSIT",
                    draw(account),
                    None,
                    when(),
                    Decimal(draw(st.integers(1, 4000))),
                    None,
                )
            case 2:
                budget = draw(st.none() | st.sampled_from([0, 1000, 1200, 2400, 3000]))
                asked = None if budget is None else Decimal(budget)
                row = (f"campaign:{mine}{number:02}", "CAMPAIGN", draw(account), draw(campaign), when(), asked, None)
            case 3:
                row = (f"resume:{mine}{number}", "RESUME", draw(account), draw(campaign), when(), None, None)
            case _:
                row = (
                    f"click:{mine}{number}",
                    "CHARGE",
                    draw(account),
                    draw(campaign),
                    when(),
                    Decimal(draw(PRICES)),
                    None,
                )
        pool.append(row)
        if row[1] == "CHARGE" and draw(st.booleans()):
            for again in range(draw(st.integers(1, 2))):
                owner = draw(account) if draw(st.integers(0, 5)) == 0 else row[2]
                refunds.append((f"r{again}:{mine}{number}", row[0], owner, row[3], row[4], Decimal(draw(PRICES))))
    steps: list[tuple[str, list[Row]]] = []
    for _ in range(draw(st.integers(1, 12))):
        if refunds and draw(st.booleans()):
            steps.append(("refund", draw(st.lists(st.sampled_from(refunds), min_size=1, max_size=4))))
        else:
            rows = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=10))
            if draw(st.integers(0, 6)) == 0 and rows[0][5] is not None:  # the same id with another price
                rows.append((*rows[0][:5], rows[0][5] + 1, rows[0][6]))
            steps.append((draw(st.sampled_from(["post", "post", "post", "die"])), rows))
    steps.append(("post", draw(st.permutations(pool))))
    return steps, mine


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories())
def test_it_decides_as_a_plain_model_and_breaks_no_rule(
    shared: Ledger, history: tuple[list[tuple[str, list[Row]]], str]
) -> None:
    steps, mine = history
    model = Model()
    for kind, rows in steps:
        if kind == "die":  # the transaction never commits: it never was
            link = shared._post._opened()
            with link.transaction(force_rollback=True):
                link.execute(shared._post._query, [[row[i] for row in rows] for i in range(len(POST))])
        elif kind == "post":
            found = shared.post(*rows)
            assert [(a["status"], a["reason"], int(a["amount"])) for a in found] == model.post(rows)
        else:
            answered = shared.refund(*rows)
            assert [
                (a["status"], a["reason"] if a["status"] not in ("PARKED",) else None) for a in answered
            ] == model.refund(rows)
    for account, balance in model.balance.items():
        if account in model.known:
            assert shared.balance(account) == balance
    told: dict[tuple[str, str], list[Any]] = defaultdict(list)
    rows_told = shared.query(
        "SELECT advertiser_id, effects FROM ads_ledger.posting WHERE advertiser_id LIKE %s AND effects IS NOT NULL ORDER BY seq",
        f"{mine}%",
    )
    for row in rows_told:
        for e in row["effects"]:
            what = {
                "STATUS": e.get("status"),
                "ALERT": e.get("threshold"),
                "RESUME": f"look again after {e.get('day')}",
            }
            told[row["advertiser_id"], e["campaign_id"]].append(what[e["effect"]])
    assert dict(told) == {key: c.told for key, c in model.campaigns.items() if c.told}
    waiting = shared.query("SELECT id FROM ads_ledger.waiting WHERE advertiser_id LIKE %s ORDER BY id", f"{mine}%")
    assert [row["id"] for row in waiting] == sorted(model.parked)
    shared.check()


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=300))
def test_sums_are_exact(shared: Ledger, cents: list[int]) -> None:
    """F30, in a currency with cents, in a ledger of its own schema: here by the function that turns amounts into minor units."""
    amounts = [Decimal(c) / 100 for c in cents]
    assert [json.loads(json.dumps(str(a))) for a in amounts] == [str(a) for a in amounts]
    total = shared.value("SELECT sum(ads_ledger.minor(x, 2))::text FROM unnest(%s::numeric[]) x", amounts)
    assert int(total) == sum(cents)
    back = shared.query("SELECT ads_ledger.major(ads_ledger.minor(x, 2), 2) AS x FROM unnest(%s::numeric[]) x", amounts)
    assert [row["x"] for row in back] == amounts
