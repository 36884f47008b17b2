"""Traffic for the whole platform: advertisers, what they pay and want shown, and what people and bots do with it.

`traffic.py` makes one topic fast; this makes all topics that the jobs of the platform read from outside, so that one
thing is about the same clicks everywhere. In three stages, each of which is worked through before the next begins:

    opening    campaigns, payments, products
    day        ad events and conversions
    closing    a click on each product, hours later, that costs nothing: it makes final what waits for time to pass

What this file promises

- **The same settings give the same records**, on every machine: chance is `random.Random(seed).getrandbits`, arithmetic is on
  integers, no set is iterated.
- `timestamp_ms`, when a record was sent, never decreases within a stage, and a record lies where Kafka's Java client would
  put it.
- **What becomes of it does not depend on which job is ahead of which**, so that there is a truth about all of it:

      rich     (of ten advertisers, seven) has paid more than all its clicks cost. Prices differ; there are duplicates
      poor     (one of ten) has paid for about half of its clicks, which all cost the same and are never repeated
      capped   (two of ten) has a daily budget for about half of a campaign's clicks; likewise. One in four spends its budget
               to the last unit. Midnight in Seoul lies in the middle of the day's events

  Which click of a poor advertiser is charged depends on the order of topics; how many are, does not.
- **What goes wrong in real life goes wrong here**, in the shares of `Market`: copies, disorder, clicks that come too late to
  be put in order, clicks without a device, a campaign or a product, and clicks that are refused.
- **Edges are visited**: repeated clicks 299,999, 300,000 and 300,001 ms after the first; conversions at the very end of their
  attribution window, one millisecond behind it, and half a second after the click.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple

from adstream.jobs.ads.topics import TOPICS
from adstream.jobs.ads.traffic import partition_of

HOUR_MS, MINUTE_MS = 3_600_000, 60_000
PARTITIONS = {topic.name: topic.partitions for topic in TOPICS}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLACEMENTS = ("HOME", "CATEGORY", "PRODUCT_DETAIL", "SEARCH")
_CATEGORIES = ("전자제품", "books", "식품/커피·차", "sports")
_REPEATS_MS = (1, 900, 15_000, 120_000, 299_999, 300_000, 300_001)
_LATE_MIN_MS, _LATE_MAX_MS = 2 * MINUTE_MS, 20 * MINUTE_MS
_COPY_MAX_MS = 20 * MINUTE_MS
_ADS_OF_CAMPAIGN = 3
_BOTS = 4
_TIGHT = {7: "poor", 8: "capped", 9: "capped"}

Event = dict[str, Any]


@dataclass(frozen=True)
class Market:
    """What traffic to make. Shares are fractions; times are event time."""

    seed: int = 0
    events: int = 20_000  #: ad events, copies included
    start: datetime = datetime(2024, 1, 15, 14, 30, tzinfo=UTC)  #: half an hour before midnight in Seoul
    minutes: int = 60  #: of event time, over which ad events come
    advertisers: int = 20
    campaigns: int = 60
    products: int = 40
    devices: int = 500

    share_clicks: float = 0.3
    share_repeated: float = 0.1  #: of the clicks on rich advertisers
    share_converted: float = 0.2  #: of the clicks
    share_disorder: float = 0.3
    disorder_ms: int = 20_000
    share_late: float = 0.01
    share_copies: float = 0.02
    share_bad: float = 0.01
    share_missing: float = 0.02  #: clicks without a device, campaign or product
    changes: int = 0  #: of campaigns and of prices of products, evenly over the day
    convert_minutes: int = 90  #: within which most of what is bought after a click is bought

    def __post_init__(self) -> None:
        if self.start.tzinfo is None:
            raise ValueError(f"start needs a time zone: {self.start!r}")
        for name in ("minutes", "products", "devices", "convert_minutes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {getattr(self, name)}")
        if self.advertisers < 10:
            raise ValueError(f"advertisers must be at least 10, so that there is one of each kind: {self.advertisers}")
        if self.campaigns < self.advertisers:
            raise ValueError(f"campaigns must be at least as many as advertisers: {self.campaigns}")
        if min(self.events, self.disorder_ms, self.changes) < 0:
            raise ValueError("events, disorder_ms and changes must not be negative")
        for name, value in vars(self).items():
            if name.startswith("share_") and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1]: {value}")

    @property
    def start_ms(self) -> int:
        return (self.start - _EPOCH) // timedelta(milliseconds=1)

    @property
    def end_ms(self) -> int:
        return self.start_ms + self.minutes * MINUTE_MS


class Sent(NamedTuple):
    """A record as its producer sent it."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    timestamp_ms: int


@dataclass(frozen=True)
class _Campaign:
    id: str
    advertiser: str
    kind: str  #: of the advertiser
    product: str
    placement: str
    category: str
    price: int  #: of each click; of a rich advertiser the least
    budget: int | None


def opening(market: Market) -> Iterator[Sent]:
    """Campaigns, payments, products: what has to be known before the first click."""
    at = market.start_ms - HOUR_MS
    for i in range(market.products):
        product = f"product_{i:03d}"
        yield _sent("product-meta-data", product, {"product_id": product, "product_price": 10_000 + 997 * i}, at)
    campaigns = _campaigns(market)
    expected = _clicks_of_a_campaign(market)
    for i in range(market.advertisers):
        id, kind = f"advertiser_{i:02d}", _kind(i)
        own = [c for c in campaigns if c.advertiser == id]
        if kind == "poor":
            price = own[0].price
            amounts = [price * (expected * len(own) // 4), price * (expected * len(own) // 4) + price // 2]
        else:
            amounts = [10**9, 5 * 10**8]
        for n, amount in enumerate(amounts):
            paid = {"payment_id": f"payment_{i:02d}_{n}", "timestamp": _rfc3339(at - n), "advertiser_id": id}
            yield _sent("ad-payments", id, paid | {"amount": str(amount)}, at)
    for campaign in campaigns:
        yield _sent("campaign-events", f"{campaign.placement}:{campaign.category}", _terms(campaign, at), at)


def day(market: Market) -> Iterator[Sent]:
    """Exactly `market.events` ad events, the conversions that follow from them, and `market.changes` beside them."""
    return heapq.merge(_Day(market).records(), _changes(market), key=lambda record: record.timestamp_ms)


def closing(market: Market, again: int = 0) -> Iterator[Sent]:
    """A click on each product and on each partition, hours behind everything else, that costs nothing.

    `again`: how often there was one before; each comes an hour behind the last."""
    at = market.end_ms + (4 + again) * HOUR_MS
    partitions = PARTITIONS["ad-events"]
    for i in range(max(market.products, partitions)):
        n = 0
        while partition_of((device := f"closing_{i}_{n}").encode(), partitions) != i % partitions:
            n += 1
        click = {
            "event_id": f"closing_{i}_{again}",
            "event_type": "CLICK",
            "timestamp": _rfc3339(at + i),
            "device_id": device,
            "ad_id": f"closing_{i}",
            "campaign_id": "closing",
            "advertiser_id": "closing",
            "product_id": f"product_{i % market.products:03d}",
            "placement": "HOME",
            "actual_price": "0",
        }
        yield _sent("ad-events", device, click, at + i)


def _changes(market: Market) -> Iterator[Sent]:
    """Of five, four change what a rich advertiser bids and may spend on a campaign, and some of these where it is shown; one
    changes a product's price. Budgets are far above what is spent: which clicks are charged must not depend on them."""
    bits = Random(market.seed + 1).getrandbits
    rich = [campaign for campaign in _campaigns(market) if campaign.kind == "rich"]
    changed: Counter[str] = Counter()
    for n in range(market.changes):
        at = market.start_ms + (2 * n + 1) * market.minutes * MINUTE_MS // (2 * market.changes)
        if n % 5 == 4:
            product = f"product_{bits(32) % market.products:03d}"
            yield _sent("product-meta-data", product, {"product_id": product, "product_price": 10_000 + bits(17)}, at)
            continue
        campaign = rich[bits(32) % len(rich)]
        place = bits(32) % (8 * len(_PLACEMENTS) * len(_CATEGORIES))
        moved = {}
        if place < len(_PLACEMENTS) * len(_CATEGORIES):
            moved = {
                "placement": _PLACEMENTS[place % len(_PLACEMENTS)],
                "category": _CATEGORIES[place // len(_PLACEMENTS)],
            }
        changed[campaign.id] += 1
        event = _terms(campaign, at) | moved
        event |= {
            "event_id": f"changed_{n:06d}",
            "event_type": "CAMPAIGN_UPDATED",
            "bid_price": f"{campaign.price + 100 + bits(7)}.{changed[campaign.id] % 100:02d}",
            "daily_budget": str(10**9 + n),
        }
        yield _sent("campaign-events", f"{event['placement']}:{event['category']}", event, at)


def _terms(campaign: _Campaign, at: int) -> Event:
    return {
        "event_id": f"created_{campaign.id}",
        "event_type": "CAMPAIGN_CREATED",
        "timestamp": _rfc3339(at),
        "campaign_id": campaign.id,
        "advertiser_id": campaign.advertiser,
        "product_id": campaign.product,
        "placement": campaign.placement,
        "category": campaign.category,
        "bid_price": str(campaign.price + 100),
        "daily_budget": None if campaign.budget is None else str(campaign.budget),
        "status": "ACTIVE",
        "approval_status": "APPROVED",
        "effective_from": _rfc3339(at),
    }


def _kind(advertiser: int) -> str:
    return _TIGHT.get(advertiser % 10, "rich")


def _clicks_of_a_campaign(market: Market) -> int:
    return int(market.events * market.share_clicks) // market.campaigns


def _campaigns(market: Market) -> list[_Campaign]:
    expected = _clicks_of_a_campaign(market)
    campaigns = []
    for i in range(market.campaigns):
        advertiser = i % market.advertisers
        kind = _kind(advertiser)
        price = 100 + 17 * advertiser
        # Half of a day's clicks, which are half of all.
        budget = price * max(1, expected // 4) + (0 if i % 4 == 0 else price // 3)
        campaigns.append(
            _Campaign(
                id=f"campaign_{i:03d}",
                advertiser=f"advertiser_{advertiser:02d}",
                kind=kind,
                product=f"product_{i * 7 % market.products:03d}",
                placement=_PLACEMENTS[i % len(_PLACEMENTS)],
                category=_CATEGORIES[i // len(_PLACEMENTS) % len(_CATEGORIES)],
                price=price,
                budget=budget if kind == "capped" else None,
            )
        )
    return campaigns


def _bad(field: str, value: object) -> Callable[[bytes], bytes]:
    def spoil(good: bytes) -> bytes:
        event = json.loads(good)
        if value is None:
            del event[field]
        else:
            event[field] = value
        return _json(event)

    return spoil


_SPOILS: tuple[Callable[[bytes], bytes], ...] = (
    lambda good: good[: len(good) // 2],
    lambda good: b"null",
    _bad("actual_price", None),
    _bad("actual_price", -1),
    _bad("actual_price", "twelve"),
    _bad("timestamp", 1_705_312_800),
    _bad("timestamp", "yesterday"),
    _bad("event_type", "click"),
    _bad("event_type", None),
)
"""A click that every job refuses."""


class _Day:
    """The events of the day. What follows from an event waits in `due` until its time has come."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self._bits = Random(market.seed).getrandbits
        self._campaigns = _campaigns(market)
        self._due: list[tuple[int, int, Event | Sent]] = []
        self._pushed = 0
        self._clicks = 0

    def records(self) -> Iterator[Sent]:
        market, length = self.market, self.market.minutes * MINUTE_MS
        sent = 0
        while sent < market.events:
            now = market.start_ms + sent * length // market.events
            while self._due and self._due[0][0] <= now and sent < market.events:
                _, _, what = heapq.heappop(self._due)
                if isinstance(what, Sent):  # a copy, or a conversion
                    yield what._replace(timestamp_ms=now)
                    sent += what.topic == "ad-events"
                else:
                    yield from self._send(what, now)
                    sent += 1
            if sent < market.events:
                yield from self._send(self._event(sent, now), now)
                sent += 1
        # What people bought is not lost because no ad was shown after it.
        now = market.end_ms
        while self._due:
            _, _, what = heapq.heappop(self._due)
            if isinstance(what, Sent) and what.topic == "conversion-events":
                now = max(now, what.timestamp_ms)
                yield what._replace(timestamp_ms=now)

    def _below(self, n: int) -> int:
        return self._bits(32) * n >> 32

    def _happens(self, share: float) -> bool:
        return self._bits(24) < share * (1 << 24)

    def _wait(self, until: int, what: Event | Sent) -> None:
        heapq.heappush(self._due, (until, self._pushed, what))
        self._pushed += 1

    def _event(self, number: int, now: int) -> Event:
        market = self.market
        campaign = self._campaigns[self._below(market.campaigns)]
        rich = campaign.kind == "rich"
        device = self._below(market.devices)
        event: Event = {
            "event_id": f"event_{number:07d}",
            "event_type": "IMPRESSION",
            "timestamp": self._when(now),
            **_person(device),
            "ad_id": f"ad_{campaign.id}_{self._below(_ADS_OF_CAMPAIGN)}",
            "campaign_id": campaign.id,
            "advertiser_id": campaign.advertiser,
            "product_id": campaign.product,
            "placement": campaign.placement,
            "category": campaign.category,
        }
        if not self._happens(market.share_clicks):
            if self._happens(0.05):
                event |= {"event_type": "CONVERSION", "revenue_amount": str(100 * self._below(1000))}
            return event
        event |= {"event_type": "CLICK", "actual_price": str(campaign.price + (self._below(400) if rich else 0))}
        if not rich:  # never repeated: a device of its own
            event |= {"device_id": f"once_{number:07d}", "session_id": f"once_{number:07d}", "user_id": None}
        elif self._happens(market.share_repeated):
            times = 8 + self._below(20) if device < _BOTS else 1 + self._below(2)
            for n in range(times):
                apart = 1000 + self._below(20_000) * (n + 1) if device < _BOTS else _REPEATS_MS[self._below(7)]
                again = event | {"event_id": f"{event['event_id']}_{n}", "timestamp": event["timestamp"] + apart}
                self._wait(again["timestamp"], again)
        if rich and self._happens(market.share_missing):
            event[("device_id", "campaign_id", "product_id")[self._below(3)]] = None
        if self._happens(market.share_converted) and event["product_id"] is not None:
            self._convert(event)
        return event

    def _when(self, now: int) -> int:
        if self._happens(self.market.share_late):
            return now - _LATE_MIN_MS - self._below(_LATE_MAX_MS - _LATE_MIN_MS)
        if self._happens(self.market.share_disorder):
            return now - self._below(self.market.disorder_ms + 1)
        return now

    def _send(self, event: Event, now: int) -> Iterator[Sent]:
        value = _json({**event, "timestamp": _rfc3339(event["timestamp"])})
        device = event["device_id"]
        if event["event_type"] == "CLICK" and self._happens(self.market.share_bad):
            value = _SPOILS[self._below(len(_SPOILS))](value)
        if device is not None:
            record = _sent("ad-events", device, value, now)
        else:
            record = Sent("ad-events", self._below(PARTITIONS["ad-events"]), None, value, now)
        yield record
        if self._happens(self.market.share_copies):
            self._wait(now + self._below(_COPY_MAX_MS), record)

    def _convert(self, click: Event) -> None:
        """Somebody buys, or not, some time after the click: on the same device, or on another one of the session or user."""
        number = self._clicks = self._clicks + 1
        hours: int | None = None
        match self._below(6):
            case 0:
                after = 500
            case 1:
                after, hours = HOUR_MS, 1
            case 2:
                after, hours = HOUR_MS + 1, 1
            case _:
                after = 1000 + self._below(self.market.convert_minutes * MINUTE_MS)
        device = f"other_{number:06d}"
        stranger: dict[str, str | None] = {"device_id": device, "session_id": device, "user_id": None}
        who = stranger
        match self._below(10):
            case 0:
                pass
            case 1:
                who = stranger | {"session_id": click["session_id"]}
            case 2:
                who = stranger | {"user_id": click["user_id"]}
            case _:
                who = {name: click[name] for name in stranger}
        device = who["device_id"] = who["device_id"] or device
        at = click["timestamp"] + after
        type = ("PURCHASE", "PURCHASE", "PURCHASE", "ADD_TO_CART", "SIGNUP")[self._below(5)]
        other = f"product_{self._below(self.market.products):03d}"
        conversion = {
            "event_id": f"conversion_{number:06d}",
            "timestamp": _rfc3339(at),
            **who,
            "order_id": f"order_{number:06d}",
            "product_id": other if self._below(12) == 0 else click["product_id"],
            "conversion_type": type,
            "revenue_amount": str(500 + 100 * self._below(5000)) if type == "PURCHASE" else None,
            "attribution_window": hours,
        }
        record = _sent("conversion-events", device, conversion, at)
        sent_at = at + (self._below(15 * MINUTE_MS) if self._below(4) == 0 else 0)
        self._wait(sent_at, record)
        again = self._below(20)
        if again == 0:  # the same bytes
            self._wait(sent_at + self._below(MINUTE_MS), record)
        elif again == 1:  # the same order, told by another event, a little later
            later = {"event_id": f"conversion_{number:06d}_again", "timestamp": _rfc3339(at + 2000)}
            self._wait(sent_at + 3000, _sent("conversion-events", device, conversion | later, at))


def _person(device: int) -> Event:
    """Two devices are one user's, of three in four; the fourth has none."""
    user = None if device % 4 == 3 else f"user_{device // 2:05d}"
    return {"device_id": f"device_{device:05d}", "session_id": f"session_{device // 3:05d}", "user_id": user}


def _sent(topic: str, key: str, value: Event | bytes, at: int) -> Sent:
    name = key.encode()
    partition = partition_of(name, PARTITIONS[topic])
    return Sent(topic, partition, name, value if isinstance(value, bytes) else _json(value), at)


def _json(value: Event) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _rfc3339(ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
