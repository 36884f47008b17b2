"""Clicks: each one once, with all that must be known of it. The other jobs read these, not `ad-events`.

    ad-events ─ a click? ─ valid? ─ seen within 1 h? ─ ad-clicks    keyed by device, as `ad-events` is
                              │
                        dead letters

- An event is known by its `event_id`, or, where it has none, by its bytes: the same bytes sent again are the same event.
  Ids are remembered for `within` of event time, per partition; a copy lies on the partition of its original, since both
  have one key. Two real clicks without an id whose bytes are equal count as one: give events an id. Empty text is none, and
  refused (`no_event_id`): all events that have it would be copies of the first.
- A click must have a price of at least 0 (`bad_price`) and an advertiser (`no_advertiser`). Ids of more than 256 bytes are
  refused (`id_too_long`), as are events of an unknown type (`bad_field:event_type`) and times that are no RFC 3339
  text (`bad_field:timestamp`).
- Memory: 128 bits and a time for each click of the last `within`.
"""

from __future__ import annotations

import adstream as ads
from adstream import col
from adstream.jobs.ads.events import AdEvent, id_or_null, short

IDS = ("device_id", "session_id", "user_id", "ad_id", "campaign_id", "advertiser_id", "product_id")


@ads.topology
def clicks(app: ads.App, within: str = "1h") -> None:
    """Clicks, each once. `within`: for how long an id is remembered."""
    (
        app.stream("ad-events", AdEvent, timestamp="timestamp", key="device_id", max_ahead="1d")
        .filter(col("event_type") == "CLICK", reason="no_click")
        .with_columns(**{name: id_or_null(name) for name in IDS})
        .require(
            id_too_long=short("event_id", *IDS),
            no_event_id=col("event_id") != "",
            no_advertiser=col("advertiser_id").is_not_null(),
            bad_price=col("actual_price") >= 0,
        )
        .deduplicate("event_id", within=within)
        .named("once")
        .select("event_id", "timestamp", *IDS, "placement", "category", "actual_price")
        .to("ad-clicks", key="device_id")
    )
