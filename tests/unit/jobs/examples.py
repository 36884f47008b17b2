"""The example JSON of each topic of the ads platform, as its producers document it."""

from __future__ import annotations

from typing import Any

AD_EVENT: dict[str, Any] = {
    "event_type": "CLICK",
    "timestamp": "2024-01-15T10:30:15Z",
    "device_id": "device_12345",
    "session_id": "session_67890",
    "ad_id": "ad_001",
    "campaign_id": "campaign_100",
    "advertiser_id": "advertiser_50",
    "product_id": "product_200",
    "placement": "HOME",
    "bid_price": 1500,
    "actual_price": 1200,
    "search_term": "노트북",
    "category": "전자제품/컴퓨터",
    "revenue_amount": None,
    "order_id": None,
}
CAMPAIGN_EVENT: dict[str, Any] = {
    "event_type": "CAMPAIGN_CREATED",
    "timestamp": "2024-01-15T10:00:00Z",
    "campaign_id": "campaign_100",
    "advertiser_id": "advertiser_50",
    "product_id": "product_200",
    "placement": "HOME",
    "category": "electronics",
    "bid_price": 1500,
    "daily_budget": 100000,
    "status": "ACTIVE",
    "approval_status": "APPROVED",
    "targeting": {"device_types": ["MOBILE"], "age_groups": ["20-29"]},
    "effective_from": "2024-01-15T00:00:00Z",
    "rtb_impact": "HIGH",
}
CONVERSION_EVENT: dict[str, Any] = {
    "timestamp": "2024-01-15T12:00:00Z",
    "device_id": "device_12345",
    "session_id": "session_67890",
    "order_id": "order_789",
    "product_id": "product_200",
    "revenue_amount": 50000,
    "conversion_type": "PURCHASE",
    "attribution_window": 24,
    "referrer_url": "https://shop.example/product_200",
}
