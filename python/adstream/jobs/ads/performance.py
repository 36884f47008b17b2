"""Campaign performance: what impressions, clicks and conversions cost and bring, per 5 minutes.

    ad-events ─ valid? ─ seen within 1 h? ─ has a campaign? ─ per campaign, product, placement and [start, start + 5 min)
                  │                                              ├─ ad_performance_metrics_realtime    kept current
              dead letters                                       ├─ ad-performance                     each window once,
                                                                 │                                     when it closed
                                                                 ├─ ad-performance-late                what came too late
                                                                 └─ product-metrics:{product_id}       sums over all windows

- A click must have a price and a conversion a revenue, of at least 0, else the event is a dead letter
  (`bad_price`, `bad_revenue`). An event without a campaign is dropped and counted (`no_campaign`);
  one whose `event_id` is empty text is a dead letter (`no_event_id`).
- `ctr` and `cvr` of a window are per cent, those of a product fractions; `roas` is revenue by spend. What
  would be divided by nothing is 0; clicks without any impression in their window, which happens at its edges,
  are marked `ctr_undefined`.
- An event is late when `window end + grace <= clock`, the clock being the newest event time of its lane.
- `updated_at` is the newest event time in the row, not a wall clock: a replay writes the same rows.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

import adstream as ads
from adstream import col

Money = Annotated[Decimal, ads.decimal(10, 2)]


class AdEvent(ads.Record):
    """An event of the topic `ad-events`, which is keyed by device."""

    event_id: str = ads.content_id()
    event_type: Literal["IMPRESSION", "CLICK", "CONVERSION"]
    timestamp: datetime
    device_id: str | None
    campaign_id: str | None
    product_id: str | None
    placement: str | None
    actual_price: Money | None
    revenue_amount: Money | None


impression, click, conversion = (col("event_type") == kind for kind in ("IMPRESSION", "CLICK", "CONVERSION"))


def ratio(part: str, whole: str) -> ads.Expr:
    """`part / whole`; 0 where there is no whole."""
    return (col(part) / col(whole)).fill_null(0)


@ads.topology
def performance(app: ads.App, grace: str = "10s") -> None:
    """Campaign performance. `grace`: how long after a window's end its events still count."""
    key = ("campaign_id", "product_id", "placement")
    gross = (
        app.stream("ad-events", AdEvent, timestamp="timestamp", key="device_id")
        .require(
            no_event_id=col("event_id") != "",
            bad_price=~click | (col("actual_price") >= 0),
            bad_revenue=~conversion | (col("revenue_amount") >= 0),
        )
        .deduplicate("event_id", within="1h")
        .filter((col("campaign_id") != "").fill_null(False), reason="no_campaign")
        .group_by(*key)
        .windowed_by(ads.tumbling("5m", grace=grace, retention="25h"))
        .aggregate(
            impression_count=ads.count(where=impression),
            click_count=ads.count(where=click),
            conversion_count=ads.count(where=conversion),
            total_spend=ads.sum("actual_price", where=click),
            total_revenue=ads.sum("revenue_amount", where=conversion),
        )
        .named("gross")
    )

    rows = gross.with_columns(
        metric_time=ads.window_start(),
        ctr=ratio("click_count", "impression_count") * 100,
        cvr=ratio("conversion_count", "click_count") * 100,
        roas=ratio("total_revenue", "total_spend"),
        ctr_undefined=(col("impression_count") == 0) & (col("click_count") > 0),
        updated_at=ads.timestamp(),
    )
    rows.sink(ads.sinks.Sql("ad_performance_metrics_realtime", key=[*key, "metric_time"]))
    rows.final().to("ad-performance", key=key)
    gross.late.to("ad-performance-late")

    products = gross.group_by("product_id").aggregate(
        impressions=ads.sum("impression_count"),
        clicks=ads.sum("click_count"),
        conversions=ads.sum("conversion_count"),
    )
    products.named("products").with_columns(
        ctr=ratio("clicks", "impressions"),
        cvr=ratio("conversions", "clicks"),
    ).sink(ads.sinks.RedisHash("product-metrics:{product_id}"))
