"""Net performance: what is left of clicks and spend when duplicates are out and refunds are given back.

    ad-events ─ impressions, conversions ──┐
    invalid-clicks ─ one click less ───────┤                             ┌─ ad_performance_metrics_net, ad-performance-net
    ad-clicks ────────┬────────────────────┼─ per campaign, product, ────┤
    ad-ledger ────────┼─ not charged ──────┤  placement and five minutes └─ product-metrics    per product, for `ads.ranking`
    refund-applied ───┴─ given back ───────┘

- The key is that of `ad_performance_metrics_realtime`, which has the gross numbers as they came: the two tables are joined by it.
- A duplicate leaves `click_count_net` when `ads.duplicates` has found it, its money leaves `total_spend_net` when the ledger has
  given it back (`refund-applied`, APPLIED), both in the window of the click. Each correction tells the row again.
- A click that the ledger did not charge (`ad-ledger`, UNBILLED) counts, and its price leaves `total_spend_net`: this is what was
  charged less what was refunded.
- Whatever is late counts: rows are kept for `memory` behind their last change.
- What `ads.performance` refuses, such as a conversion without revenue, it has as dead letters; here it is left out and counted.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

import adstream as ads
from adstream import col, lit, when
from adstream.jobs.ads.events import Click, Money, id_or_null
from adstream.jobs.ads.performance import AdEvent, conversion, impression, ratio

KEY = ("campaign_id", "product_id", "placement")
MONEY = ("spend", "spend_net", "revenue")
SUM = Annotated[Decimal, ads.decimal(38, 2)]
NOTHING = lit(Decimal("0.00"))


class RefundApplied(ads.Record):
    """`refund-applied`, of the ledger."""

    refund_id: str
    event_id: str
    click_time: datetime
    status: Literal["APPLIED", "REJECTED"]
    amount: Money | None


class Booked(ads.Record):
    """`ad-ledger`, of the ledger."""

    posting_id: str
    timestamp: datetime
    kind: str
    status: str
    requested: Money | None


def counted(stream: ads.Stream, **numbers: ads.Expr) -> ads.Stream:
    """Rows that add `numbers` to their window, and nothing to what is not named."""
    none: dict[str, ads.Expr] = dict.fromkeys(("impressions", "conversions", "clicks", "clicks_net"), lit(0))
    none |= dict.fromkeys(MONEY, NOTHING)
    named = {name: e.cast(SUM) if name in MONEY else e for name, e in (none | numbers).items()}
    return stream.select(*KEY, metric_time=col("timestamp").dt.truncate("5m"), **named)


@ads.topology
def net_performance(app: ads.App, memory: str = "26h") -> None:
    """Net performance. `memory`: how long a window can be corrected after its last change."""
    events = (
        app.stream("ad-events", AdEvent, timestamp="timestamp", key="device_id")
        .filter(impression | (conversion & (col("revenue_amount") >= 0)), reason="no_view")
        .filter(col("event_id") != "", reason="no_event_id")
        .deduplicate("event_id", within="1h")
        .with_columns(**{name: id_or_null(name) for name in ("campaign_id", "product_id")})
    )
    shown = counted(
        events,
        impressions=when(impression).then(1).otherwise(0),
        conversions=when(conversion).then(1).otherwise(0),
        revenue=when(conversion).then(col("revenue_amount")).otherwise(NOTHING),
    )
    clicks = app.stream("ad-clicks", Click, timestamp="timestamp", key="device_id")
    clicked = counted(
        clicks, clicks=lit(1), clicks_net=lit(1), spend=col("actual_price"), spend_net=col("actual_price")
    )
    invalid = app.stream("invalid-clicks", Click, timestamp="timestamp", key="device_id")
    refunds = (
        app.stream("refund-applied", RefundApplied, timestamp="click_time")
        .filter(col("status") == "APPLIED", reason="rejected")
        .deduplicate("refund_id", within=memory)
        .select("event_id", less="amount")
    )
    unbilled = (
        app.stream("ad-ledger", Booked, timestamp="timestamp")
        .filter((col("kind") == "CHARGE") & (col("status") == "UNBILLED"), reason="booked")
        .deduplicate("posting_id", within=memory)
        .select(event_id=col("posting_id").str.slice(len("click:")), less="requested")
    )
    # A decision and its click have one time: what a row of either waits for is the other topic, not a later event.
    corrected = clicks.select("event_id", "timestamp", *KEY).join(
        refunds.merge(unbilled), on="event_id", within="1m", grace=memory, name="corrected"
    )
    changes = shown.merge(
        clicked, counted(invalid, clicks_net=lit(-1)), counted(corrected, spend_net=NOTHING - col("less"))
    ).filter(col("campaign_id").is_not_null(), reason="no_campaign")

    rows = (
        changes.group_by(*KEY, "metric_time")
        .aggregate(
            impression_count=ads.sum("impressions"),
            conversion_count=ads.sum("conversions"),
            click_count=ads.sum("clicks"),
            click_count_net=ads.sum("clicks_net"),
            total_spend=ads.sum("spend"),
            total_spend_net=ads.sum("spend_net"),
            total_revenue=ads.sum("revenue"),
            ttl=memory,
        )
        .named("net")
        .with_columns(roas_net=ratio("total_revenue", "total_spend_net"))
    )
    rows.sink(ads.sinks.Sql("ad_performance_metrics_net", key=[*KEY, "metric_time"]))
    rows.to("ad-performance-net", key=[*KEY, "metric_time"])

    products = changes.group_by("product_id").aggregate(
        impressions=ads.sum("impressions"),
        clicks=ads.sum("clicks_net"),
        conversions=ads.sum("conversions"),
    )
    products.named("products").to("product-metrics", key="product_id")
