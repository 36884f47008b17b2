"""Attribution: which click a conversion is owed to.

    ad-clicks ─────────┐                                        ┌─ conversion_attribution_results   a row per order and product
    invalid-clicks ────┼─ by product ─ the last valid click ────┼─ conversion-attributions          its changes
    conversion-events ─┘               before the conversion    └─ late-conversions, late-clicks

- *Candidates* are the clicks on the product at most `attribution_window` hours (24 at most, and by default) before the
  conversion, both ends included, that no `invalid-clicks` names. Clicks of the same device come first, then those of the same
  session, then those of the same user; of these the last by (time, `event_id`). An id that is missing is equal to nothing.
- *One row* per order and product, however often it is sent: of several conversions the earliest by (time, `event_id`).
- A credit is told at once (PROVISIONAL) and may move while clicks come that are out of order; when the clock is `grace` past the
  conversion the row is FINAL, and UNATTRIBUTED if there is no click. A click that turns out to be invalid loses its credit
  even then: the row is told again.
- What comes more than `grace` behind the clock of its own partition goes to `late-conversions` and `late-clicks`. The clock that
  makes rows FINAL is the newest time of all. While a backlog is read, partitions are apart: a click that is not late by its own
  may come after that, and corrects the row.
- Only PURCHASE has revenue. `ctc_too_fast` marks credits of less than a second between click and conversion.
- Memory: clicks and conversions of the last `memory`, by device, session and user.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Literal

import adstream as ads
from adstream import col, lit, when
from adstream.jobs.ads.events import CLICK, Click, Conversion, Money, id_or_null, short

HOUR_MS = 3_600_000
WINDOW_HOURS = 24
STORES = ("clicks", "invalid", "conversions", "orders", "waiting", "clocks")
TIERS = ("device", "session", "user")
IDS = ("device_id", "session_id", "user_id", "order_id", "product_id")
KEPT = ("event_id", "at", "ad_id", "campaign_id", "advertiser_id")
"""What is remembered of a click."""
NEVER = 1 << 62
"""Later than all times, in ms."""


class Credit(ads.Record):
    """A row of `conversion_attribution_results`."""

    order_id: str
    product_id: str
    attribution_model: Literal["LAST_CLICK", "UNATTRIBUTED"]
    status: Literal["PROVISIONAL", "FINAL"]
    conversion_type: str
    revenue_amount: Money
    conversion_time: datetime
    click_event_id: str | None
    click_time: datetime | None
    time_to_conversion: int | None
    matched_by: str | None
    ad_id: str | None
    campaign_id: str | None
    advertiser_id: str | None
    ctc_too_fast: bool


class Match(ads.Processor[dict[str, Any]]):
    """Clicks and conversions of a product, and who is owed what."""

    late_clicks, late_conversions = ads.output(), ads.output()

    def __init__(self, grace_ms: int, memory_ms: int) -> None:
        self.grace_ms, self.memory_ms = grace_ms, memory_ms

    def init(self, ctx: ads.Context) -> None:
        self.clicks, self.invalid, self.conversions, self.orders, self.waiting, self.clocks = map(
            ctx.get_state_store, STORES
        )
        self.ctx = ctx
        # What can be said without a look at the stores, which most records then need not have. Nothing is known yet: 0, None.
        self.oldest = 0
        """No entry is of an earlier time."""
        self.first_due = 0
        """No conversion that waits is of an earlier time."""
        self.ordered: set[str] | None = None
        """All places where orders lie, and maybe others."""
        ctx.schedule("1h", "stream_time", self.forget)

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        now, event = ctx.current_stream_time_ms, record.value
        self._finish(now)
        before = (self.clocks.get(event["lane"]) or {"at": 0})["at"]
        clock = max(event["at"], before)
        if clock > before:
            self.clocks.put(event["lane"], {"at": clock})
        if event["kind"] == "invalid":
            self.oldest = min(self.oldest, event["at"])
            self.invalid.put(event["event_id"], {"at": max(now, event["at"])})
            self._judge_orders_of(event, list(_places(event)))
        elif event["at"] + self.grace_ms <= clock:
            ctx.forward(record, self.late_clicks if event["kind"] == "click" else self.late_conversions)
        elif event["kind"] == "click":
            self.oldest = min(self.oldest, event["at"])
            places, kept = list(_places(event)), {name: event[name] for name in KEPT}
            for _, prefix in places:
                self.clicks.put(f"{prefix}{event['at']:015}\n{event['event_id']}", kept)
            self._judge_orders_of(event, places)
        else:
            self._convert(event)

    def _convert(self, event: dict[str, Any]) -> None:
        key = json.dumps([event["product_id"], event["order_id"]])
        known = self.conversions.get(key)
        if known is not None:
            if [known["at"], known["event_id"]] <= [event["at"], event["event_id"]]:
                return
            for _, prefix in _places(known):
                self.orders.delete(f"{prefix}{known['at']:015}\n{key}")
            self.waiting.delete(f"{known['at']:015}\n{key}")
        told = None if known is None else known["told"]
        self.oldest, self.first_due = min(self.oldest, event["at"]), min(self.first_due, event["at"])
        self.conversions.put(key, event | {"final": False, "told": told})
        for _, prefix in _places(event):
            self.orders.put(f"{prefix}{event['at']:015}\n{key}", key)
            if self.ordered is not None:
                self.ordered.add(prefix)
        self.waiting.put(f"{event['at']:015}\n{key}", key)
        self._judge(key)

    def _judge_orders_of(self, click: dict[str, Any], places: list[tuple[str, str]]) -> None:
        """Orders that the click, which lies there, may be, or have been, credited with."""
        if self.ordered is None:
            self.ordered = {place[: place.index("\n") + 1] for place, _ in self.orders.all()}
        until = click["at"] + WINDOW_HOURS * HOUR_MS
        found: dict[str, None] = {}
        for _, prefix in places:
            if prefix not in self.ordered:
                continue
            for _, key in self.orders.range(f"{prefix}{click['at']:015}", f"{prefix}{until + 1:015}"):
                found[key] = None
        for key in found:
            self._judge(key)

    def _judge(self, key: str) -> None:
        """Tells an order's row if it is another one than before."""
        conversion = self.conversions.get(key)
        row = _row(conversion, *self._best(conversion))
        unknown = row["click_event_id"] is None and conversion["told"] is None
        if row != conversion["told"] and (conversion["final"] or not unknown):
            self.conversions.put(key, conversion | {"told": row})
            self.ctx.forward(ads.ProcessorRecord(key, row, conversion["at"]))

    def _best(self, conversion: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
        at = conversion["at"]
        for tier, prefix in _places(conversion):
            earliest, latest = f"{prefix}{at - conversion['window_ms']:015}", f"{prefix}{at + 1:015}"
            with self.clicks.reverse_range(earliest, latest) as candidates:
                for _, click in candidates:
                    if click["at"] <= at and self.invalid.get(click["event_id"]) is None:
                        return click, tier
        return None, None

    def _finish(self, now: int) -> None:
        if now - self.grace_ms < self.first_due:
            return
        due = list(self.waiting.range(None, f"{max(0, now - self.grace_ms + 1):015}"))
        for place, key in due:
            self.waiting.delete(place)
            self.conversions.put(key, self.conversions.get(key) | {"final": True})
            self._judge(key)
        with self.waiting.all() as left:
            place = next((place for place, _ in left), None)
        self.first_due = NEVER if place is None else int(place.split("\n")[0])

    def forget(self, now: int) -> None:
        """What nothing can be asked of any more."""
        self._finish(now)
        if self.oldest + self.memory_ms >= now:
            return
        oldest, ordered = now, set[str]()
        for store in (self.clicks, self.invalid, self.conversions):
            for key, value in list(store.all()):
                if value["at"] + self.memory_ms < now:
                    store.delete(key)
                else:
                    oldest = min(oldest, value["at"])
        for key, _ in list(self.orders.all()):
            prefix, at, _ = key.split("\n")
            if int(at) + self.memory_ms < now:
                self.orders.delete(key)
            else:
                oldest = min(oldest, int(at))
                ordered.add(prefix + "\n")
        self.oldest, self.ordered = oldest, ordered


def _places(event: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where the clicks and orders of its device, its session and its user lie."""
    for tier in TIERS:
        if (id := event[f"{tier}_id"]) is not None:
            yield tier, json.dumps([event["product_id"], tier, id]) + "\n"


def _row(conversion: dict[str, Any], click: dict[str, Any] | None, tier: str | None) -> dict[str, Any]:
    apart = None if click is None else conversion["at"] - click["at"]
    return {
        "order_id": conversion["order_id"],
        "product_id": conversion["product_id"],
        "attribution_model": "UNATTRIBUTED" if click is None else "LAST_CLICK",
        "status": "FINAL" if conversion["final"] else "PROVISIONAL",
        "conversion_type": conversion["conversion_type"],
        "revenue_amount": conversion["revenue_amount"],
        "conversion_time": conversion["at"],
        "click_event_id": None if click is None else click["event_id"],
        "click_time": None if click is None else click["at"],
        "time_to_conversion": None if apart is None else apart // 1000,
        "matched_by": tier,
        "ad_id": None if click is None else click["ad_id"],
        "campaign_id": None if click is None else click["campaign_id"],
        "advertiser_id": None if click is None else click["advertiser_id"],
        "ctc_too_fast": apart is not None and apart < 1000,
    }


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    times = {
        name: row[name] and datetime.fromtimestamp(row[name] / 1000, UTC) for name in ("conversion_time", "click_time")
    }
    return row | times | {"revenue_amount": Decimal(row["revenue_amount"])}


@ads.topology
def attribution(app: ads.App, grace_minutes: int = 60, memory_hours: int = 31) -> None:
    """Attribution.

    Args:
        grace_minutes: how long clicks and conversions are waited for that come out of order.
        memory_hours: how long clicks and conversions are kept.
    """
    none = lit(None, type=str)

    def clicked(stream: ads.Stream, kind: str) -> ads.Stream:
        return stream.filter(col("product_id").is_not_null(), reason="no_product").select(
            "event_id",
            *(name for name in CLICK if name.endswith("_id") and name != "event_id"),
            kind=lit(kind),
            lane=ads.concat_str(lit(kind), ads.partition().cast(str)),
            at=col("timestamp").dt.epoch_ms(),
            order_id=none,
            conversion_type=none,
            revenue_amount=none,
            window_ms=lit(0),
        )

    clicks = clicked(app.stream("ad-clicks", Click, timestamp="timestamp"), "click")
    invalid = clicked(app.stream("invalid-clicks", Click, timestamp="timestamp"), "invalid")
    purchase = col("conversion_type") == "PURCHASE"
    conversions = (
        app.stream("conversion-events", Conversion, timestamp="timestamp", max_ahead="1d")
        .with_columns(**{name: id_or_null(name) for name in IDS})
        .require(
            no_order=col("order_id").is_not_null(),
            no_product=col("product_id").is_not_null(),
            id_too_long=short("event_id", *IDS),
            bad_revenue=(col("revenue_amount") >= 0).fill_null(~purchase),
            bad_window=col("attribution_window").between(1, 24 * 90).fill_null(True),
        )
        .select(
            "event_id",
            "device_id",
            "session_id",
            "user_id",
            "product_id",
            "order_id",
            ad_id=none,
            campaign_id=none,
            advertiser_id=none,
            kind=lit("conversion"),
            lane=ads.concat_str(lit("conversion"), ads.partition().cast(str)),
            at=col("timestamp").dt.epoch_ms(),
            conversion_type=col("conversion_type").cast(str),
            revenue_amount=when(purchase).then(col("revenue_amount").cast(str)).otherwise(lit("0.00")),
            window_ms=ads.min_horizontal(col("attribution_window").fill_null(WINDOW_HOURS), WINDOW_HOURS) * HOUR_MS,
        )
    )
    taken = ("ad_id", "campaign_id", "advertiser_id", "conversion_type", "revenue_amount", "window_ms")
    names = ("kind", "lane", "event_id", "at", *IDS, *taken)
    for name in STORES:
        app.add_state_store(ads.store.key_value(name, key=ads.serdes.string))
    grace_ms, memory_ms = grace_minutes * HOUR_MS // 60, memory_hours * HOUR_MS
    matched = (
        clicks.select(*names)
        .merge(invalid.select(*names), conversions.select(*names))
        .records("product_id")
        .repartition(name="by-product")
        .process(partial(Match, grace_ms, memory_ms), *STORES, name="match")
    )
    matched.late_clicks.to("late-clicks")
    matched.late_conversions.to("late-conversions")
    rows = matched.map_values(_typed).rows(Credit)
    rows.sink(ads.sinks.Sql("conversion_attribution_results", key=["order_id", "product_id"]))
    rows.to("conversion-attributions", key=("order_id", "product_id"))
