"""Ranking: who is shown in a placement for a category, and what a click costs.

    campaign-events ─ valid? ─┬─────────────────────────┬─ a campaign as it stands ─ eligible? ─┐
                              └─ now() >= effective_from ┘                                      ├─ list ─┬─ rtb:HOME:electronics
    product-metrics ─ fractions? ─┬─ a product's rates and price ───────────────────────────────┘        └─ rtb-ranking
    product-meta-data ────────────┘

- *A campaign as it stands*: of its events the latest by (timestamp, `event_id`), whatever the order of their coming.
  CAMPAIGN_STATUS_CHANGED changes the status alone. With the reason BUDGET or BALANCE, as the ledger writes it, it holds
  the campaign back, or lets it go again, beside its status: who has deleted a campaign does not get it back at midnight. The
  ledger says PAUSED for the first reason and ACTIVE when none is left, so the newest holds, whatever its reason.
- *Eligible*: ACTIVE, APPROVED, not held back, from `effective_from` on (a timer, no event is needed), with a bid of at least
  the reserve.
- *Rates* are smoothed (`ads.rank.smoothed`): 1 click of 1 impression is not 100 %. Without counts they are taken as they
  are; per cent are dead letters (`bad_rate`). A product that nobody knows has the rates of the prior, and no value.
- *Score and price*: `ads.rank.Ranking`.
- *The list* in Redis is a hash that changes as a whole: `version` (one more with each change), `total_campaigns`,
  `updated_at`, `ranking_list` (the first `top`, as JSON). A campaign that moves leaves its old list. Who reads it:
  `adstream.jobs.ads.Auction`.
- An event of a type or with a status that nobody knows is refused, so are a bid that is not above 0 (`bad_bid`) and an event
  without campaign, placement or category; what was known stays.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import adstream as ads
from adstream import col, lit
from adstream.jobs.ads.events import CampaignEvent, Product, ProductMetrics, short

HOLDS = ("BUDGET", "BALANCE")
CTR, CVR = Decimal("0.01"), Decimal("0.005")
"""Of a product of which nothing is known."""
NEVER = [-1, ""]
CHANGES = col("event_type") == "CAMPAIGN_STATUS_CHANGED"


class Line(ads.Record):
    """A list, as it is written."""

    placement: str
    category: str
    version: int
    total_campaigns: int
    updated_at: str
    ranking_list: str


class Campaigns(ads.Processor[dict[str, Any]]):
    """Campaigns as they stand; tells those that are eligible, and None of those that are not any more."""

    campaign = ads.keyed.value(default=None)

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        event = record.value
        known: dict[str, Any] = self.campaign or {
            "order": NEVER,
            "status_order": NEVER,
            "begun": 0,
            "hold": [NEVER, False],
        }
        before = _listed(known)
        order = [event["timestamp"], event["event_id"]]
        known = dict(known)
        if event["due"]:
            known["begun"] = max(known["begun"], event["effective_from"])
        elif event["event_type"] == "CAMPAIGN_STATUS_CHANGED":
            if event["reason"] in HOLDS:
                if order > known["hold"][0]:
                    known["hold"] = [order, event["status"] == "PAUSED"]
            elif order > known["status_order"] and event["status"] is not None:
                known |= {"status_order": order, "status": event["status"]}
        else:
            if order > known["order"]:
                names = ("advertiser_id", "product_id", "placement", "category", "bid_price", "approval_status")
                known |= {name: event[name] for name in (*names, "effective_from")} | {"order": order}
            if order > known["status_order"]:
                known |= {"status_order": order, "status": event["status"]}
        self.campaign = known
        if (now := _listed(known)) != before:
            ctx.forward(record.with_value(now))


def _listed(campaign: dict[str, Any]) -> dict[str, Any] | None:
    """What a list needs to know of a campaign; None if it is not eligible."""
    since = campaign.get("effective_from") or 0
    if (
        campaign.get("status") != "ACTIVE"
        or campaign.get("approval_status") != "APPROVED"
        or campaign["hold"][1]
        or since > campaign["begun"]
    ):
        return None
    names = ("advertiser_id", "product_id", "placement", "category", "bid_price")
    return {name: campaign[name] for name in names} | {"since": since}


class Places(ads.Processor[dict[str, Any]]):
    """Says each list what has become of a campaign: the one that it has left, too."""

    place = ads.keyed.value(default=None)

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        now = None if record.value is None else [record.value["placement"], record.value["category"]]
        if self.place is not None and self.place != now:
            ctx.forward(ads.ProcessorRecord(json.dumps(self.place), {"campaign_id": record.key}, record.timestamp))
        self.place = now
        if now is not None:
            value = {**record.value, "campaign_id": record.key}
            ctx.forward(ads.ProcessorRecord(json.dumps(now), value, record.timestamp))


class Lists(ads.Processor[dict[str, Any]]):
    """The lists. Entries and versions are in the store; their order is kept beside it, and made anew from it."""

    def __init__(self, reserve: str, tick: str, top: int) -> None:
        self.reserve, self.tick, self.top = Decimal(reserve), Decimal(tick), top
        self.lists: dict[str, ads.rank.Ranking] = {}

    def init(self, ctx: ads.Context) -> None:
        self.entries, self.versions = ctx.get_state_store("entries"), ctx.get_state_store("versions")

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        group, change = record.key, record.value
        ranking = self.lists.get(group)
        if ranking is None:
            ranking = self.lists[group] = ads.rank.Ranking(reserve=self.reserve, tick=self.tick)
            for key, entry in self.entries.prefix_scan(f"{group}\n"):
                self._put(ranking, key[len(group) + 1 :], entry)
        campaign = change["campaign_id"]
        if "bid_price" in change:
            self.entries.put(f"{group}\n{campaign}", change)
            self._put(ranking, campaign, change)
        else:
            self.entries.delete(f"{group}\n{campaign}")
            ranking.remove(campaign)
        version = (self.versions.get(group) or 0) + 1
        self.versions.put(group, version)
        placement, category = json.loads(group)
        told = {
            "placement": placement,
            "category": category,
            "version": version,
            "total_campaigns": len(ranking),
            "updated_at": _rfc3339(record.timestamp),
            "ranking_list": json.dumps([self._line(group, line) for line in ranking.top(self.top)], ensure_ascii=False),
        }
        ctx.forward(record.with_value(told))

    def _put(self, ranking: ads.rank.Ranking, campaign: str, entry: dict[str, Any]) -> None:
        ranking.put(
            campaign,
            bid=entry["bid_price"],
            ctr=entry["ctr"],
            cvr=entry["cvr"],
            value=entry["product_price"],
            since=entry["since"],
        )

    def _line(self, group: str, line: ads.rank.Ranked) -> dict[str, Any]:
        entry = self.entries.get(f"{group}\n{line.id}")
        return {
            "product_id": entry["product_id"],
            "score": str(line.score),
            "bid_price": str(line.bid),
            "campaign_id": line.id,
            "advertiser_id": entry["advertiser_id"],
            "actual_price": str(line.price),
        }


def _rfc3339(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rated(metrics: dict[str, Any] | None, product: dict[str, Any] | None) -> dict[str, Any]:
    """A product's rates and value. Either is None where nothing is known."""
    metrics = metrics or {}
    return {
        "ctr": _rate(metrics, "clicks", "impressions", "ctr", CTR),
        "cvr": _rate(metrics, "conversions", "clicks", "cvr", CVR),
        "product_price": (product or {}).get("product_price") or "0",
    }


def _rate(metrics: dict[str, Any], part: str, whole: str, rate: str, prior: Decimal) -> str:
    if metrics.get(part) is not None and metrics.get(whole) is not None:
        return str(ads.rank.smoothed(metrics[part], metrics[whole], prior=prior))
    if metrics.get(rate) is not None:
        return str(round(Decimal(str(metrics[rate])), 9))
    return str(prior)


def _with_product(campaign: dict[str, Any], product: dict[str, Any] | None) -> dict[str, Any]:
    return campaign | (product or rated(None, None))


@ads.topology
def ranking(app: ads.App, reserve: str = "100", tick: str = "1", top: int = 100) -> None:
    """Ranking.

    Args:
        reserve: the least that a click costs.
        tick: the unit of prices.
        top: how many campaigns a list in Redis names.
    """
    events = (
        app.stream("campaign-events", CampaignEvent, timestamp="timestamp", max_ahead="1d")
        .require(
            no_campaign=(col("campaign_id") != ""),
            id_too_long=short("event_id", "campaign_id", "advertiser_id", "product_id"),
            no_placement=CHANGES | col("placement").is_not_null(),
            no_category=CHANGES | (col("category") != "").fill_null(False),
            bad_bid=(col("bid_price") > 0).fill_null(CHANGES),
        )
        .select(
            "campaign_id",
            "event_type",
            "event_id",
            "advertiser_id",
            "product_id",
            "placement",
            "category",
            "status",
            "approval_status",
            "reason",
            "effective_from",
            timestamp=col("timestamp").dt.epoch_ms(),
            bid_price=col("bid_price").cast(str),
            due=lit(False),
        )
    )
    begun = (
        events.filter(~CHANGES & (ads.now() >= col("effective_from")), reason="begins_at_once")
        .named("effective")
        .with_columns(due=lit(True))
    )
    changes = events.merge(begun).with_columns(effective_from=col("effective_from").dt.epoch_ms())
    by_campaign = changes.records("campaign_id").repartition(
        name="by-campaign"
    )  # a processor alone would not move them
    campaigns = by_campaign.process(Campaigns, name="campaign").to_table("campaigns")

    counts = ("impressions", "clicks", "conversions")
    metrics = app.stream("product-metrics", ProductMetrics).require(
        bad_count=_all(col(name) >= 0 for name in counts),
        bad_rate=_all(col(name).between(0, 1) for name in ("ctr", "cvr")),
    )
    prices = app.stream("product-meta-data", Product).require(bad_price=(col("product_price") >= 0).fill_null(True))
    products = (
        metrics.records("product_id")
        .to_table("metrics")
        .outer_join(
            prices.with_columns(product_price=col("product_price").cast(str)).records("product_id").to_table("prices"),
            rated,
            "products",
        )
    )

    app.add_state_store(ads.store.key_value("entries", key=ads.serdes.string))
    app.add_state_store(ads.store.key_value("versions", key=ads.serdes.string))
    lists = (
        campaigns.left_join(products, _with_product, foreign_key=lambda c: c["product_id"] or "", name="rated")
        .to_stream()
        .process(Places, name="place")
        .repartition(name="by-place")
        .process(lambda: Lists(reserve, tick, top), "entries", "versions", name="lists")
        .rows(Line)
    )
    lists.sink(ads.sinks.RedisHash("rtb:{placement}:{category}"))
    lists.to("rtb-ranking", key=("placement", "category"))


def _all(conditions: Any) -> ads.Expr:
    found = lit(True)
    for condition in conditions:
        found = found & condition.fill_null(True)
    return found
