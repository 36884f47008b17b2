"""Duplicate clicks: what is refunded, and the clicks that do not count.

    ad-clicks ─ device and ad? ─ in order ─ per (device, ad): less than 300 s after the last kept click?
                                    │                   │
                                late clicks          duplicates ─┬─ compensation-events   a refund each
                                    │                   │        ├─ invalid-clicks        the click itself
                                    └─ near a kept one? ┘        └─ duplicate-clicks      how many of each kept click

- A click is a *duplicate* if a kept click of its device and ad lies less than 300 s before it; else it is kept. The window is
  anchored at the kept click and slides with nothing: of clicks at 0, 299 and 598 s the first and the last are kept.
- Clicks are put in order by (time, `event_id`) within `grace`, so the order in which they came changes nothing.
- A click that is later than that is a duplicate if it is less than 300 s from any kept click of the last `memory`; else
  nothing is said of it: it counts.
- The same event again is no duplicate click: it would be refunded for itself. `ads.clicks` knows an event for an hour, and per
  partition of `ad-events`; here it is known for `memory`, wherever its copies lay.
- Each duplicate has one refund, `dup:<event_id>`, of its own price. The ledger caps it by what was charged.
- A click without a device or an ad is like no other (`no_device`, `no_ad`): it counts.
- `duplicate-clicks` counts the original, too, as the field says; it is told again whenever a duplicate is added, and booked by
  nobody. Its `timestamp` is the end of the five minutes in which the kept click lies.
"""

from __future__ import annotations

from datetime import datetime

import adstream as ads
from adstream import col, concat_str, lit
from adstream.jobs.ads.events import CLICK, Click

WINDOW = ads.duration(minutes=5)


class Kept(ads.State):
    """The last click of a device on an ad that counts."""

    at: datetime | None = None
    event_id: str | None = None


@ads.topology
def duplicates(app: ads.App, grace: str = "30s", memory: str = "6h") -> None:
    """Duplicate clicks.

    Args:
        grace: how long clicks are waited for that come out of order.
        memory: how long kept clicks are remembered for those that come later.
    """
    kept = ads.state(Kept)
    ordered = (
        app.stream("ad-clicks", Click, timestamp="timestamp", key="device_id")
        .filter(col("device_id").is_not_null(), reason="no_device")
        .filter(col("ad_id").is_not_null(), reason="no_ad")
        .deduplicate("event_id", within=memory)
        .in_order("event_id", grace=grace, late="route", name="ordered")
    )
    repeated = (col("timestamp") - kept.at < WINDOW).fill_null(False)
    judged = ordered.group_by("device_id", "ad_id").scan(
        Kept,
        emit={
            "duplicate": repeated,
            "kept_at": ads.when(repeated).then(kept.at).otherwise(col("timestamp")),
            "kept_event_id": ads.when(repeated).then(kept.event_id).otherwise(col("event_id")),
        },
        update={
            "at": ads.when(repeated).then(kept.at).otherwise(col("timestamp")),
            "event_id": ads.when(repeated).then(kept.event_id).otherwise(col("event_id")),
        },
        ttl=memory,
        name="judged",
    )
    originals = judged.filter_not(col("duplicate"), reason="duplicate")
    late = (
        ordered.late.join(
            originals.select("device_id", "ad_id", kept_at="kept_at", kept_event_id="kept_event_id"),
            on=["device_id", "ad_id"],
            within="299s999ms",
            grace=memory,
            name="late",
        )
        .deduplicate("event_id", within=memory)
        .with_columns(duplicate=lit(True))
    )
    names = (*CLICK, "duplicate", "kept_at", "kept_event_id")
    found = judged.filter(col("duplicate"), reason="kept").select(*names).merge(late.select(*names))

    found.select(
        "timestamp",
        "event_id",
        "advertiser_id",
        "campaign_id",
        "ad_id",
        "device_id",
        "kept_event_id",
        refund_id=concat_str(lit("dup:"), col("event_id")),
        refund_amount="actual_price",
        reason=lit("DUPLICATE_CLICK_DETECTED"),
        compensation_type=lit("BALANCE_REFUND"),
    ).to("compensation-events", key="advertiser_id")
    found.drop_columns("duplicate", "kept_at").to("invalid-clicks", key="device_id")

    counted = originals.select(*names).merge(found)
    (
        counted.group_by("kept_event_id", "advertiser_id", "campaign_id", "ad_id", "device_id", "kept_at")
        .aggregate(
            duplicate_click_count=ads.count(),
            refund_amount=ads.sum("actual_price", where=col("duplicate")),
            original_click_timestamps=ads.collect_list("timestamp"),
            ttl=memory,
        )
        .named("counted")
        .to_stream()
        .filter(col("duplicate_click_count") > 1, reason="single")
        .select(
            "advertiser_id",
            "campaign_id",
            "ad_id",
            "device_id",
            "kept_event_id",
            "duplicate_click_count",
            "refund_amount",
            "original_click_timestamps",
            timestamp=col("kept_at").dt.truncate("5m") + WINDOW,
            detection_window=lit("5_MINUTES"),
            reason=lit("DUPLICATE_CLICK_DETECTED"),
            compensation_type=lit("BALANCE_REFUND"),
        )
        .to("duplicate-clicks", key="advertiser_id")
    )
