"""What the topics of the ads platform hold, as its jobs read them.

Ids are opaque text; empty text is no id. Times are RFC 3339 text, so that a number, seconds or milliseconds, is refused
(`bad_field:timestamp`). Money is exact, with two digits, as a number or as text.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from functools import reduce
from typing import Annotated, Literal

import adstream as ads
from adstream import col, lit, when

Money = Annotated[Decimal, ads.decimal(15, 2)]
Placement = Literal["HOME", "CATEGORY", "PRODUCT_DETAIL", "SEARCH"]
ID_BYTES = 256
"""A longer id is a dead letter: `id_too_long`."""


class AdEvent(ads.Record):
    """`ad-events`, keyed by device."""

    event_id: str = ads.content_id()
    event_type: Literal["IMPRESSION", "CLICK", "CONVERSION"]
    timestamp: datetime
    device_id: str | None
    session_id: str | None
    user_id: str | None
    ad_id: str | None
    campaign_id: str | None
    advertiser_id: str | None
    product_id: str | None
    placement: str | None
    category: str | None
    actual_price: Money | None


class Click(ads.Record):
    """`ad-clicks`, keyed by device: each click once."""

    event_id: str
    timestamp: datetime
    device_id: str | None
    session_id: str | None
    user_id: str | None
    ad_id: str | None
    campaign_id: str | None
    advertiser_id: str
    product_id: str | None
    placement: str | None
    category: str | None
    actual_price: Money


CLICK = tuple(Click.__annotations__)
"""The columns of `ad-clicks`."""


class Conversion(ads.Record):
    """`conversion-events`, keyed by device."""

    event_id: str = ads.content_id()
    timestamp: datetime
    device_id: str | None
    session_id: str | None
    user_id: str | None
    order_id: str | None
    product_id: str | None
    revenue_amount: Money | None
    conversion_type: Literal["PURCHASE", "ADD_TO_CART", "SIGNUP"]
    attribution_window: int | None


def id_or_null(name: str) -> ads.Expr:
    """The column; null where it is empty text."""
    return when(col(name) != "").then(col(name)).otherwise(lit(None, type=str))


def short(*names: str) -> ads.Expr:
    """Whether each of these ids is null or at most `ID_BYTES` long."""
    rules = [(col(name).str.len_bytes() <= ID_BYTES).fill_null(True) for name in names]
    return reduce(lambda a, b: a & b, rules)


def named(*names: str) -> ads.Expr:
    """Whether none of these ids is empty text."""
    return reduce(lambda a, b: a & b, [col(name) != "" for name in names])


class CampaignEvent(ads.Record):
    """`campaign-events`. All but CAMPAIGN_STATUS_CHANGED name everything; that one only what changes."""

    event_id: str = ads.content_id()
    event_type: Literal["CAMPAIGN_CREATED", "CAMPAIGN_UPDATED", "CAMPAIGN_APPROVED", "CAMPAIGN_STATUS_CHANGED"]
    timestamp: datetime
    campaign_id: str | None
    advertiser_id: str | None
    product_id: str | None
    placement: Placement | None
    category: str | None
    bid_price: Money | None
    status: Literal["PENDING", "ACTIVE", "PAUSED", "DELETED"] | None
    approval_status: Literal["PENDING", "APPROVED", "REJECTED"] | None
    effective_from: datetime | None
    reason: str | None


class ProductMetrics(ads.Record):
    """`product-metrics`: what `ads.performance` has counted of a product. Rates are fractions."""

    product_id: str
    impressions: int | None
    clicks: int | None
    conversions: int | None
    ctr: float | None
    cvr: float | None


class Product(ads.Record):
    """`product-meta-data`."""

    product_id: str
    product_price: Money | None
