"""What the whole platform must have come to when everything of a `market` is worked through.

Written from `docs/ads.md`, slowly and plainly; it shares nothing with the jobs or with their order. Each record is
given with its partition and offset. A click has its place on its partition of `ad-events`; `ad-clicks` keeps it.

1.  **clicks** A CLICK that is acceptable (as `truth.read` says, and with an advertiser) and whose id was not let through on its
    partition within the last hour. Others are dead, or repeated.
2.  **duplicates** On each partition the clock is the largest time of a click with device and ad. A click more than 30 s behind it
    is late. The others are put in order by (time, id), per device and ad: the first is kept, and so is each that comes 300 s or
    more after the last kept one; those between are duplicates. A late one is a duplicate if a kept one is less than 300 s
    away, before or after.
3.  **ledger** Order decides which clicks are charged where money is short; *how many* are only depends on it if prices differ or
    refunds come in between. Then there is no truth, and `compute` raises. A campaign's day begins at midnight of `ZONE`.
4.  **attribution** Per order and product the earliest conversion by (time, id). Of the clicks on the product that are no
    duplicates and at most its window before it: those of its device, else of its session, else of its user; the last by
    (time, id).
5.  **net** Per campaign, product, placement and five minutes, as counted in the window of each event: impressions, conversions,
    clicks, clicks less duplicates. Spend is what was charged less what was given back: exact per row where all is charged, else
    per campaign.

The gross table, of `ads.performance`, is that of `truth.compute`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from adstream.jobs.ads import truth
from adstream.jobs.ads.truth import EPOCH, JSON, MINUTE_MS, Key, Record, Refused, Truth

ZONE = ZoneInfo("Asia/Seoul")
HOUR_MS = 60 * MINUTE_MS
REMEMBER_MS, ORDER_GRACE_MS, DUPLICATE_MS, WINDOW_MS = HOUR_MS, 30_000, 5 * MINUTE_MS, 5 * MINUTE_MS
CONVERSION_WINDOW_MS = 24 * HOUR_MS


class Click(NamedTuple):
    at: int  #: epoch ms
    event_id: str
    device_id: str | None
    session_id: str | None
    user_id: str | None
    ad_id: str | None
    campaign_id: str | None
    advertiser_id: str
    product_id: str | None
    placement: str | None
    price: Decimal

    @property
    def day(self) -> str:
        return day_of(self.at)


class Balance(NamedTuple):
    """What became of an advertiser's money."""

    deposits: Decimal
    charges: Decimal
    refunds: Decimal
    charged: int  #: clicks
    unbilled: int  #: clicks

    @property
    def available(self) -> Decimal:
        return self.deposits - self.charges + self.refunds


class Budget(NamedTuple):
    """What is told of a campaign's newest day."""

    day: str
    spend: Decimal
    budget: Decimal | None


class Credit(NamedTuple):
    """Which click an order is owed to."""

    at: int  #: epoch ms
    conversion_type: str
    revenue: Decimal
    click_event_id: str | None
    matched_by: str | None
    campaign_id: str | None


@dataclass
class Net:
    impressions: int = 0
    conversions: int = 0
    clicks: int = 0
    clicks_net: int = 0
    spend: Decimal = Decimal("0.00")
    spend_net: Decimal | None = Decimal("0.00")  #: None: it depends on the order
    revenue: Decimal = Decimal("0.00")


@dataclass
class MarketTruth:
    gross: Truth
    clicks: dict[str, Click] = field(default_factory=dict)
    dead_clicks: int = 0
    repeated_clicks: int = 0
    late_clicks: int = 0  #: that came too late to be put in order
    duplicates: set[str] = field(default_factory=set)  #: event ids
    balances: dict[str, Balance] = field(default_factory=dict)
    budgets: dict[str, Budget] = field(default_factory=dict)  #: by campaign, where clicks have one fate
    credits: dict[tuple[str, str], Credit] = field(default_factory=dict)  #: by order and product
    net: dict[Key, Net] = field(default_factory=dict)
    net_spend: dict[str, Decimal] = field(default_factory=dict)  #: by campaign, where it does not depend on the order


def compute(logs: Mapping[str, Sequence[Record]]) -> MarketTruth:
    """The truth about the records of each topic, given in any order.

    Raises:
        ValueError: it depends on the order in which the ledger is told.
    """
    lanes: dict[int, list[Record]] = defaultdict(list)
    for record in sorted(logs["ad-events"], key=lambda record: record[:2]):
        lanes[record[0]].append(record)
    found = MarketTruth(truth.compute(logs["ad-events"], 1 + max(lanes, default=0)))
    for lane in lanes.values():
        clicks = once(found, lane)
        found.clicks |= {click.event_id: click for click in clicks}
        judge(found, clicks)
        count_shown(found, lane)
    book(found, logs["ad-payments"], logs["campaign-events"])
    attribute(found, logs["conversion-events"])
    return found


def day_of(at: int) -> str:
    """The date in Seoul."""
    return (EPOCH + timedelta(milliseconds=at)).astimezone(ZONE).date().isoformat()


def document(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = JSON.decode((record[3] or b"").decode())
    return found


# --- 1: clicks ----------------------------------------------------------------------------------------------


def once(found: MarketTruth, lane: Sequence[Record]) -> list[Click]:
    """The clicks of a partition, in the order of their coming."""
    seen: dict[str, int] = {}
    clock = -(2**63)
    clicks = []
    for record in lane:
        try:
            event = truth.read(record[3])
            if event["event_type"] != "CLICK":
                continue
            more = document(record)
            if not more.get("advertiser_id"):
                raise Refused("no_advertiser")
        except Refused as refused:
            found.dead_clicks += str(refused) != "bad_revenue"
            continue
        at, id = event["timestamp"], event["event_id"]
        clock = max(clock, at)
        if id in seen and clock <= seen[id] + REMEMBER_MS:
            found.repeated_clicks += 1
            continue
        seen[id] = at
        event |= {name: more.get(name) for name in ("session_id", "user_id", "ad_id", "advertiser_id")}
        event |= {"at": at, "price": event["actual_price"]}
        clicks.append(Click(**{name: event[name] for name in Click._fields}))
    return clicks


# --- 2: duplicates ------------------------------------------------------------------------------------------


def judge(found: MarketTruth, clicks: Iterable[Click]) -> None:
    """Finds the duplicates of a partition, whose clicks are given in the order of their coming."""
    clock = -(2**63)
    in_time: dict[tuple[str, str], list[Click]] = defaultdict(list)
    late: dict[tuple[str, str], list[Click]] = defaultdict(list)
    for click in clicks:
        if click.device_id is None or click.ad_id is None:
            continue
        clock = max(clock, click.at)
        behind = click.at + ORDER_GRACE_MS < clock
        (late if behind else in_time)[click.device_id, click.ad_id].append(click)
    kept: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, some in in_time.items():
        for click in sorted(some):
            if kept[place] and click.at - kept[place][-1] < DUPLICATE_MS:
                found.duplicates.add(click.event_id)
            else:
                kept[place].append(click.at)
    for place, some in late.items():
        found.late_clicks += len(some)
        for click in some:
            if any(abs(click.at - at) < DUPLICATE_MS for at in kept[place]):
                found.duplicates.add(click.event_id)


# --- 3: the ledger ------------------------------------------------------------------------------------------


def book(found: MarketTruth, payments: Iterable[Record], terms: Iterable[Record]) -> None:
    deposits: dict[str, Decimal] = defaultdict(Decimal)
    for payment in {paid["payment_id"]: paid for paid in map(document, payments)}.values():
        deposits[payment["advertiser_id"]] += Decimal(payment["amount"])
    budgets: dict[str, Decimal | None] = {}
    days: dict[str, set[str]] = defaultdict(set)  # of a campaign: those that the ledger tells of
    for told in map(document, terms):
        budget = told["daily_budget"]
        budgets[told["campaign_id"]] = None if budget is None else Decimal(budget)
        days[told["campaign_id"]].add(day_of(truth.timestamp(told["timestamp"])))

    by_advertiser: dict[str, list[Click]] = defaultdict(list)
    for click in found.clicks.values():
        by_advertiser[click.advertiser_id].append(click)
    for advertiser in deposits.keys() | by_advertiser.keys():
        clicks = by_advertiser[advertiser]
        of_day: dict[tuple[str | None, str], list[Click]] = defaultdict(list)
        for click in clicks:
            of_day[click.campaign_id, click.day].append(click)
        charged: dict[tuple[str | None, str], list[Click]] = {}
        for (campaign, day), some in of_day.items():
            budget = budgets.get(campaign or "")
            fit = charged[campaign, day] = some if budget is None else as_many(some, budget, found)
            if campaign is not None:
                days[campaign].add(day)
                if budget is not None and (len(fit) < len(some) or cost(fit) == budget):
                    days[campaign].add((date.fromisoformat(day) + timedelta(days=1)).isoformat())
        posted = [click for fit in charged.values() for click in fit]
        all_fit = cost(posted) <= deposits[advertiser]
        if not all_fit:
            if len(posted) < len(clicks):
                raise ValueError(
                    f"{advertiser} is short of both budget and balance: what is charged depends on the order"
                )
            posted = as_many(clicks, deposits[advertiser], found)
        refunded = [click for click in posted if click.event_id in found.duplicates]
        found.balances[advertiser] = Balance(
            deposits[advertiser], cost(posted), cost(refunded), len(posted), len(clicks) - len(posted)
        )
        paid_for = {click.event_id for click in posted} - found.duplicates
        for campaign in {c.campaign_id for c in clicks if c.campaign_id is not None} if all_fit else set[str]():
            own = [click for click in clicks if click.campaign_id == campaign]
            newest = max(days[campaign])
            left = [click for click in own if click.event_id in paid_for]
            found.net_spend[campaign] = cost(left)
            found.budgets[campaign] = Budget(newest, cost([c for c in left if c.day == newest]), budgets.get(campaign))
        count_clicks(found, clicks, paid_for, exact=len(posted) == len(clicks))


def cost(clicks: Iterable[Click]) -> Decimal:
    return sum((click.price for click in clicks), Decimal(0))


def as_many(clicks: list[Click], money: Decimal, found: MarketTruth) -> list[Click]:
    """So many of them as the money suffices for; which, is not said. Raises ValueError: it depends on the order how many."""
    if cost(clicks) <= money:
        return clicks
    if len({click.price for click in clicks}) > 1 or any(click.event_id in found.duplicates for click in clicks):
        raise ValueError(f"how many of {clicks[0].advertiser_id}'s clicks are charged depends on the order")
    return clicks[: int(money // clicks[0].price)]


# --- 4: attribution -----------------------------------------------------------------------------------------


def attribute(found: MarketTruth, conversions: Iterable[Record]) -> None:
    orders: dict[tuple[str, str], tuple[int, str, dict[str, Any]]] = {}
    for told in map(document, conversions):
        place = (told["order_id"], told["product_id"])
        this = (truth.timestamp(told["timestamp"]), told["event_id"], told)
        if place not in orders or this[:2] < orders[place][:2]:
            orders[place] = this
    of_product: dict[str, list[Click]] = defaultdict(list)
    for click in found.clicks.values():
        if click.product_id is not None and click.event_id not in found.duplicates:
            of_product[click.product_id].append(click)
    for (order, product), (at, _, told) in orders.items():
        window = min(CONVERSION_WINDOW_MS, int(told["attribution_window"] or 24) * HOUR_MS)
        candidates = [click for click in of_product[product] if at - window <= click.at <= at]
        best: Click | None = None
        tier: str | None = None
        for tier in ("device", "session", "user"):
            name = f"{tier}_id"
            own = [c for c in candidates if told[name] is not None and getattr(c, name) == told[name]]
            if own:
                best = max(own, key=lambda click: (click.at, click.event_id))
                break
        revenue = truth.money(told["revenue_amount"]) if told["conversion_type"] == "PURCHASE" else Decimal(0)
        found.credits[order, product] = Credit(
            at,
            told["conversion_type"],
            revenue,
            best and best.event_id,
            tier if best else None,
            best and best.campaign_id,
        )


# --- 5: net numbers -----------------------------------------------------------------------------------------


def row_of(found: MarketTruth, campaign: str, product: str | None, placement: str | None, at: int) -> Net:
    return found.net.setdefault(Key(campaign, product, placement, at // WINDOW_MS * WINDOW_MS), Net())


def count_shown(found: MarketTruth, lane: Iterable[Record]) -> None:
    """Impressions and conversions of a partition."""
    seen: dict[str, int] = {}
    clock = -(2**63)
    for record in lane:
        try:
            event = truth.read(record[3])
        except Refused:
            continue
        if event["event_type"] == "CLICK":
            continue
        at, id = event["timestamp"], event["event_id"]
        clock = max(clock, at)
        if id in seen and clock <= seen[id] + REMEMBER_MS:
            continue
        seen[id] = at
        if event["campaign_id"] is None:
            continue
        row = row_of(found, event["campaign_id"], event["product_id"], event["placement"], at)
        if event["event_type"] == "IMPRESSION":
            row.impressions += 1
        else:
            row.conversions += 1
            row.revenue += event["revenue_amount"]


def count_clicks(found: MarketTruth, clicks: Iterable[Click], paid_for: set[str], *, exact: bool) -> None:
    for click in clicks:
        if click.campaign_id is None:
            continue
        row = row_of(found, click.campaign_id, click.product_id, click.placement, click.at)
        row.clicks += 1
        row.clicks_net += click.event_id not in found.duplicates
        row.spend += click.price
        if not exact:
            row.spend_net = None
        elif row.spend_net is not None and click.event_id in paid_for:
            row.spend_net += click.price
