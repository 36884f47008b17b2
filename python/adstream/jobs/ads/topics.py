"""The topics of the ads platform: partitions and retention. `adstream topics create ads` makes those that are missing.

What is joined by device has as many partitions: `ad-events`, `ad-clicks`, `invalid-clicks` and `conversion-events` 8.
What books or refunds money is kept for 7 days, longer than a weekend without the ledger.
"""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    name: str
    partitions: int
    days: int
    """How long records are kept."""
    key: str
    """The fields by which records lie on partitions."""

    @property
    def config(self) -> dict[str, str]:
        return {"retention.ms": str(self.days * 86_400_000)}


TOPICS = (
    Topic("campaign-events", 4, 7, "placement, category"),
    Topic("ad-events", 8, 7, "device_id"),
    Topic("conversion-events", 8, 3, "device_id"),
    Topic("product-meta-data", 4, 7, "product_id"),
    Topic("product-metrics", 4, 7, "product_id"),
    Topic("rtb-ranking", 4, 3, "placement, category"),
    Topic("ad-clicks", 8, 7, "device_id"),
    Topic("invalid-clicks", 8, 7, "device_id"),
    Topic("conversion-attributions", 8, 7, "order_id, product_id"),
    Topic("ad-performance-net", 8, 7, "campaign_id, product_id, placement, metric_time"),
    Topic("late-conversions", 8, 7, "product_id"),
    Topic("late-clicks", 8, 7, "product_id"),
    Topic("compensation-events", 4, 7, "advertiser_id"),
    Topic("duplicate-clicks", 4, 3, "advertiser_id"),
    Topic("compensation-released", 4, 7, "advertiser_id"),
    Topic("refund-applied", 4, 7, "advertiser_id"),
    Topic("ad-payments", 4, 7, "advertiser_id"),
    Topic("ad-ledger", 4, 7, "advertiser_id"),
    Topic("ad-ledger-alerts", 4, 7, "advertiser_id"),
    Topic("budget-alerts", 4, 7, "campaign_id"),
    Topic("budget-resumes", 4, 7, "advertiser_id"),
)
