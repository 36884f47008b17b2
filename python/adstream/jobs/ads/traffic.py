"""Traffic for the topic `ad-events`: as much as wanted, from a seed, with all that goes wrong in real life.

What this file promises

- **The same settings give the same bytes**, on every machine, run and Python version. Randomness is only
  `random.Random(seed).getrandbits`, arithmetic is on integers, no set is iterated, nothing calls `hash()`.
- **Records come as a broker would hold them**: `timestamp_ms` (when it was sent) never decreases, and a
  record lies on the partition that Kafka's Java client would choose for its key (`murmur2`). Those without
  a key go round robin.
- **A good event has every field of the schema and is about 350 bytes** of compact JSON, with raw UTF-8 in
  it (`노트북`). Its `event_id` occurs once, except in copies. Money is a decimal string; now and then it is
  a JSON number, which is allowed too.
- **Disturbances come in the shares that the settings name**:

      copies         an earlier record of any kind once more, byte for byte, on its partition, up to some
                     `copy_delay_max_ms` later (less near the end: the share holds for short traffic too)
      bad            a record that the job must refuse: one of `FAULTS` and `DAMAGES`, each equally often
      late           an event older, by 1 to 30 minutes, than any that could be in time (window + grace ago)
      no_campaign    an event with `"campaign_id":null`
      no_device      an event with `"device_id":null`, hence a record without a key
      disorder       an event up to `disorder_ms` older than the moment it was sent
      ahead          an event of a device whose clock runs up to `ahead_ms` ahead; what follows on its partition may be
                     late for that, edges of windows included. None unless asked for

  An event has at most one of the last six.
- **Every window's edges are visited**, whatever the seed, by one device each, so on one partition. Around a
  window's end E, with grace g, its events carry the times E-1, E, E+1 (ms) and later, when the window closes,
  E+g-1, E-1 (the last that still counts), E+g, E-1 (the first that is late).

The truth about such traffic is computed elsewhere, by code that does not know this file (`truth.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_MINUTE_MS = 60_000
_LATE_MIN_MS, _LATE_MAX_MS = 1 * _MINUTE_MS, 30 * _MINUTE_MS
_DICE_BITS = 24  # a share is held to 1 in 16 million
_PICK_BITS = 20  # one choice from a pool, so no pool is larger than 2**20
_MONEY_BITS = 10  # there are 2**10 prices, and as many revenues
_SEARCH_BITS = 6  # there are 8 categories x 8 terms


@dataclass(frozen=True)
class Traffic:
    """What traffic to make. Shares are fractions of the records sent; times are event time."""

    seed: int = 0
    events: int = 100_000  #: records sent, copies included
    start: datetime = datetime(2024, 1, 15, 10, tzinfo=UTC)
    rate: int = 1000  #: records per second
    partitions: int = 4

    campaigns: int = 200
    products: int = 1000
    devices: int = 20_000
    ads: int = 4096  #: an ad is one (campaign, product, placement); the first campaigns have the most ads

    share_clicks: float = 0.08
    share_conversions: float = 0.02

    share_disorder: float = 0.05
    disorder_ms: int = 5000
    share_copies: float = 0.01
    copy_delay_max_ms: int = 50 * _MINUTE_MS
    share_late: float = 0.002
    share_bad: float = 0.001
    share_no_campaign: float = 0.005
    share_no_device: float = 0.002
    share_ahead: float = 0.0
    ahead_ms: int = 2 * _MINUTE_MS

    window_ms: int = 5 * _MINUTE_MS  #: the windows whose edges are visited, and behind which `late` is late
    grace_ms: int = 10_000

    def __post_init__(self) -> None:
        if self.start.tzinfo is None:
            raise ValueError(f"start needs a time zone: {self.start!r}")
        for name in ("rate", "partitions", "campaigns", "products", "devices", "ads", "window_ms"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {getattr(self, name)}")
        for name in ("devices", "ads"):
            if getattr(self, name) > 1 << _PICK_BITS:
                raise ValueError(f"{name} must be at most {1 << _PICK_BITS}: {getattr(self, name)}")
        for name in ("events", "disorder_ms", "copy_delay_max_ms", "ahead_ms"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")
        if not 0 <= self.grace_ms < self.window_ms:
            raise ValueError(f"grace_ms must be in [0, window_ms): {self.grace_ms}")
        if not 0 <= self.share_copies <= 0.5:  # nothing is copied twice
            raise ValueError(f"share_copies must be in [0, 0.5]: {self.share_copies}")
        for shares in (
            ("share_clicks", "share_conversions"),
            ("share_bad", "share_late", "share_no_campaign", "share_no_device", "share_disorder", "share_ahead"),
        ):
            values = [getattr(self, name) for name in shares]
            if min(values) < 0 or sum(values) > 1:
                raise ValueError(f"{' + '.join(shares)} must be in [0, 1]: {values}")

    @property
    def start_ms(self) -> int:
        return (self.start - _EPOCH) // _MS


class Sent(NamedTuple):
    """One record as the producer sent it."""

    partition: int
    key: bytes | None
    value: bytes
    timestamp_ms: int


class Logged(NamedTuple):
    """One record as the broker holds it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    timestamp_ms: int


def as_log(sent: Iterable[Sent]) -> Iterator[Logged]:
    """Gives every record the offset it gets on its partition, starting at 0."""
    ends: dict[int, int] = {}
    for partition, key, value, timestamp_ms in sent:
        offset = ends.get(partition, 0)
        ends[partition] = offset + 1
        yield Logged(partition, offset, key, value, timestamp_ms)


# --- Partitioning, as in org.apache.kafka.common.utils.Utils ------------------------------------------------


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2, as Java's signed int."""
    m, mask, length = 0x5BD1E995, 0xFFFFFFFF, len(data)
    h = 0x9747B28C ^ length
    body = length & ~3
    for at in range(0, body, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if length > body:
        h = (h ^ int.from_bytes(data[body:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    h ^= h >> 15
    return h - (1 << 32) if h >> 31 else h


def partition_of(key: bytes, partitions: int) -> int:
    """Where the default partitioner of the Java client sends this key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


# --- What can be wrong with a record ------------------------------------------------------------------------

_ABSENT = object()


class Fault(NamedTuple):
    """One field of a good event replaced, or left out, such that the event is not acceptable any more."""

    field: str
    value: Any  #: instead of the good one, or a function of the good one
    event_type: str | None = None  #: only wrong in events of this type

    def spoil(self, good: bytes) -> bytes:
        event = json.loads(good)
        if self.value is _ABSENT:
            del event[self.field]
        elif callable(self.value):
            event[self.field] = self.value(event[self.field])
        else:
            event[self.field] = self.value
        return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def _faults_of_money(field: str, event_type: str) -> list[Fault]:
    negative, too_fine, too_large = ("-1.00", -1), ("12.505", 12.345), ("123456789.00", 123456789)
    wrong = (None, _ABSENT, *negative, *too_fine, *too_large, "twelve", "", "NaN", True, [12])
    return [Fault(field, value, event_type) for value in wrong]


def _without_zone(rfc3339: str) -> str:
    return rfc3339.removesuffix("Z")


_NO_TEXT: tuple[Any, ...] = (7, True, [], {})
_NO_TIME = (1705312800, "yesterday", "2024-01-15", "2024-13-15T10:00:00Z", _without_zone)

FAULTS: tuple[Fault, ...] = (
    *(Fault("event_id", value) for value in _NO_TEXT),
    *(Fault("event_type", value) for value in (None, _ABSENT, *_NO_TEXT, "VIEW", "click", "")),
    *(Fault("timestamp", value) for value in (None, _ABSENT, *_NO_TIME)),
    *(Fault("device_id", value) for value in _NO_TEXT),
    *(Fault("campaign_id", value) for value in _NO_TEXT),
    *(Fault("product_id", value) for value in _NO_TEXT),
    *(Fault("placement", value) for value in _NO_TEXT),
    *_faults_of_money("actual_price", "CLICK"),
    *_faults_of_money("revenue_amount", "CONVERSION"),
)


class Damage(NamedTuple):
    """A change after which the value is not a JSON object at all."""

    spoil: Callable[[bytes], bytes]
    event_type: None = None


DAMAGES: tuple[Damage, ...] = (
    Damage(lambda good: b""),
    Damage(lambda good: good[: len(good) // 2]),
    Damage(lambda good: good + b"}"),
    Damage(lambda good: b"[" + good + b"]"),
    Damage(lambda good: b"null"),
    Damage(lambda good: good.replace(b'"placement":"', b'"placement":"\xff', 1)),
    Damage(lambda good: good.replace(b'"device_id":', b'"score":NaN,"device_id":', 1)),
    Damage(lambda good: good.replace(b'"', b"'")),
)


# --- What events are made of --------------------------------------------------------------------------------


class _Seconds(dict[int, str]):
    """Epoch second -> `2024-01-15T10:00:00`."""

    def __missing__(self, second: int) -> str:
        text = self[second] = (_EPOCH + timedelta(seconds=second)).isoformat()[:19]
        return text


_MILLIS = tuple(f".{ms:03d}Z" for ms in range(1000))
_PLACEMENTS = ("HOME", "CATEGORY", "PRODUCT_DETAIL", "SEARCH")
_CATEGORIES = (
    *("전자제품/컴퓨터", "전자제품/스마트폰", "식품/커피·차", "패션/여성의류"),
    *("도서/소설", "home/kitchen", "sports/outdoor", "beauty/skin"),
)
_TERMS = (
    *("노트북", "무선 이어폰", "원두 1kg", "여름 원피스"),
    *("gaming laptop 16gb", "usb-c 허브", "running shoes", "cast iron pan"),
)


class _Device(NamedTuple):
    text: str
    key: bytes
    partition: int


class _Ad(NamedTuple):
    text: str
    text_without_campaign: str


def _devices(traffic: Traffic) -> list[_Device]:
    devices = []
    for i in range(traffic.devices):
        name = f"device_{i:05d}"
        key = name.encode()
        text = f'"device_id":"{name}","session_id":"session_{i * 7919 % 1_000_003:06d}"'
        devices.append(_Device(text, key, partition_of(key, traffic.partitions)))
    return devices


def _ads(traffic: Traffic) -> list[_Ad]:
    ads = []
    for i in range(traffic.ads):
        campaign = traffic.campaigns * i * i // traffic.ads**2  # squared: the first ones have more ads
        product = i * 7919 % traffic.products
        before = f'"ad_id":"ad_{i:05d}","campaign_id":'
        after = (
            f',"advertiser_id":"advertiser_{campaign % 97:02d}"'
            f',"product_id":"product_{product:04d}","placement":"{_PLACEMENTS[i % len(_PLACEMENTS)]}"'
        )
        ads.append(_Ad(f'{before}"campaign_{campaign:03d}"{after}', f"{before}null{after}"))
    return ads


def _money(cents: int, i: int) -> str:
    """Cents as a JSON value: usually a string, for one `i` in 64 a number."""
    text = f"{cents // 100}.{cents % 100:02d}"
    return text if i % 64 == 63 else f'"{text}"'


def _prices() -> list[str]:
    """What a click says beyond its ad; some cost 0.00, which is a price as well."""
    prices = []
    for i in range(1 << _MONEY_BITS):
        actual = i * i * 2000 >> 2 * _MONEY_BITS  # up to 20.00, most of them small
        bid = actual + 1 + i % 250
        prices.append(f'"actual_price":{_money(actual, i)},"bid_price":{_money(bid, i)}')
    return prices


def _revenues() -> list[str]:
    return [_money(100 + i * 48_817 % 9_999_900, i) for i in range(1 << _MONEY_BITS)]


def _searches() -> list[bytes]:
    """How every event ends. The only part that is not ASCII, hence encoded once."""
    return [f'"search_term":"{term}","category":"{it}"}}'.encode() for it in _CATEGORIES for term in _TERMS]


def _edges(traffic: Traffic) -> Iterator[tuple[int, int, int]]:
    """(not before this moment, device, event time): the visits promised in the head comment, in its order."""
    window_ms, grace_ms = traffic.window_ms, traffic.grace_ms
    number = traffic.start_ms // window_ms
    while True:
        device = number % traffic.devices
        number += 1
        end = number * window_ms
        closes = end + grace_ms
        for moment, at in (
            (end - 1, end - 1),
            (end, end),
            (end + 1, end + 1),
            (closes - 1, closes - 1),
            (closes - 1, end - 1),
            (closes, closes),
            (closes, end - 1),
        ):
            yield moment, device, at


# --- The traffic --------------------------------------------------------------------------------------------


def records(traffic: Traffic) -> Iterator[Sent]:
    """Exactly `traffic.events` records, in the order in which they are sent."""
    events, start_ms, rate, partitions = traffic.events, traffic.start_ms, traffic.rate, traffic.partitions
    disorder_span, window_ms, grace_ms = traffic.disorder_ms + 1, traffic.window_ms, traffic.grace_ms
    n_devices, n_ads = traffic.devices, traffic.ads
    devices, ads = _devices(traffic), _ads(traffic)
    prices, revenues, searches = _prices(), _revenues(), _searches()
    wrongs: list[Fault | Damage] = [*FAULTS, *DAMAGES]
    seconds, millis = _Seconds(), _MILLIS

    def limit(share: float, bits: int) -> int:
        return int(share * (1 << bits) + 0.5)

    # A roll below a limit means that thing. The limits of what excludes each other are stacked.
    bad = limit(traffic.share_bad, _DICE_BITS)
    late = bad + limit(traffic.share_late, _DICE_BITS)
    no_campaign = late + limit(traffic.share_no_campaign, _DICE_BITS)
    no_device = no_campaign + limit(traffic.share_no_device, _DICE_BITS)
    disorder = no_device + limit(traffic.share_disorder, _DICE_BITS)
    ahead = disorder + limit(traffic.share_ahead, _DICE_BITS)
    copied = limit(traffic.share_copies / (1 - traffic.share_copies), _DICE_BITS)  # of the originals
    conversion = limit(traffic.share_conversions, _PICK_BITS)
    click = conversion + limit(traffic.share_clicks, _PICK_BITS)

    bits = Random(traffic.seed).getrandbits
    edges = _edges(traffic)
    edge_from, edge_device, edge_ts = next(edges)
    copies: dict[int, Sent] = {}  # slot -> what is sent again there
    copy_slots_max = traffic.copy_delay_max_ms * rate // 1000

    for slot in range(events):
        now = start_ms + slot * 1000 // rate
        if (copy := copies.pop(slot, None)) is not None:
            yield Sent(copy.partition, copy.key, copy.value, now)
            continue

        device_at = bits(_PICK_BITS) * n_devices >> _PICK_BITS
        ad_text, ad_text_without_campaign = ads[bits(_PICK_BITS) * n_ads >> _PICK_BITS]
        search = searches[bits(_SEARCH_BITS)]
        kind = bits(_PICK_BITS)
        event_type = "IMPRESSION" if kind >= click else "CLICK" if kind >= conversion else "CONVERSION"

        ts = now
        wrong: Fault | Damage | None = None
        with_device = True
        roll = bits(_DICE_BITS)
        if now >= edge_from:
            device_at, ts = edge_device, edge_ts
            edge_from, edge_device, edge_ts = next(edges)
        elif roll < ahead:
            if roll < bad:
                wrong = wrongs[bits(_PICK_BITS) * len(wrongs) >> _PICK_BITS]
                event_type = wrong.event_type or event_type
            elif roll < late:
                behind = _LATE_MIN_MS + (bits(_PICK_BITS) * (_LATE_MAX_MS - _LATE_MIN_MS) >> _PICK_BITS)
                ts = now - window_ms - grace_ms - behind
            elif roll < no_campaign:
                ad_text = ad_text_without_campaign
            elif roll < no_device:
                with_device = False
            elif roll < disorder:
                ts = now - (bits(_PICK_BITS) * disorder_span >> _PICK_BITS)
            else:
                ts = now + 1 + (bits(_PICK_BITS) * traffic.ahead_ms >> _PICK_BITS)

        device_text, key, partition = devices[device_at]
        sent_key: bytes | None = key
        if not with_device:
            _, session_text = device_text.split(",")
            device_text, sent_key, partition = f'"device_id":null,{session_text}', None, slot % partitions
        if event_type == "IMPRESSION":
            extra = ""
        elif event_type == "CLICK":
            extra = f"{prices[bits(_MONEY_BITS)]},"
        else:
            extra = f'"revenue_amount":{revenues[bits(_MONEY_BITS)]},"order_id":"order_{slot:09d}",'
        value = (
            f'{{"event_id":"{bits(64):016x}{slot:08x}","event_type":"{event_type}"'
            f',"timestamp":"{seconds[ts // 1000]}{millis[ts % 1000]}",{device_text}'
            f",{ad_text},{extra}"
        ).encode() + search
        if wrong is not None:
            value = wrong.spoil(value)

        sent = Sent(partition, sent_key, value, now)
        yield sent
        if bits(_DICE_BITS) < copied:
            again = slot + 1 + (bits(_PICK_BITS) * min(copy_slots_max, events - slot) >> _PICK_BITS)
            while again in copies:
                again += 1
            copies[again] = sent  # beyond the last slot: never sent
