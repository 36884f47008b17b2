"""The truth about the job `ads.performance` (C2): counts and ratios of campaigns in windows.

Every partition of `ad-events` is a lane of its own. Its records are read in offset order and take these
steps; at the first one that says no, a record's way ends, and it is counted there.

1.  **read** A UTF-8 text with one JSON object, else the record is dead: `malformed_json`; without a value `null_payload`.
    The declared fields, in the order of `FIELDS`: a required one is there and not null, else
    `missing_field:<name>`; one that is there and not null has its type, else `bad_field:<name>`.
    Its event_id is no empty text, else `no_event_id`.
    A CLICK has actual_price >= 0 (null is not), else `bad_price`.
    A CONVERSION has revenue_amount >= 0 (null is not), else `bad_revenue`.
2.  **dedup** The clock of this step is the largest event time that came here, this row's included. An
    event_id is remembered with the time ts of the row that was let through, while clock <= ts + 1 h; a row
    whose id is remembered is repeated.
3.  **filter** A row whose campaign_id is null or an empty text is filtered: `no_campaign`.
4.  **window** [start, start + 5 min), aligned to the epoch. The lane's clock is the largest event time that
    came here, this row's included. The row is late if window end + grace <= clock, else it is counted into
    its group.

Counted rows make the **table**. A window is closed when all lanes' clocks (of step 4) have reached its end +
grace; a lane that never had a row holds everything open. The table's rows in closed windows are **final**: a
row that still came for them would be late in every lane.

How fields are read, where JSON leaves a choice:

-   Time is RFC 3339 with a zone, cut to milliseconds. A leap second and a blank instead of `T` are refused.
-   Money is DECIMAL(10,2): a JSON number in any notation, or a string such as "-12.50", by its exact value
    and never as a float. What needs a third decimal (12.505, not 12.500) or a ninth digit before the point is
    refused.
-   Of a key given twice the last counts. Undeclared fields are ignored. An empty string is not null.
-   NaN and Infinity are not JSON. A lone surrogate, which JSON can write and UTF-8 cannot, is `malformed_json`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, NamedTuple

Record = tuple[int, int, bytes | None, bytes | None, int]  # partition, offset, key, value, Kafka's timestamp in ms
Event = dict[str, Any]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE_MS = 60_000


# --- Answers ------------------------------------------------------------------------------------------------


class Key(NamedTuple):
    campaign_id: str
    product_id: str | None
    placement: str | None
    window_start: int  #: epoch ms


@dataclass
class Row:
    """One row of the table: five sums, and what follows from them."""

    impression_count: int = 0
    click_count: int = 0
    conversion_count: int = 0
    total_spend: Decimal = Decimal("0.00")
    total_revenue: Decimal = Decimal("0.00")
    max_timestamp: int = -(2**63)  #: largest event time in it, epoch ms

    @property
    def ctr(self) -> float:
        """Percent."""
        return self.click_count / self.impression_count * 100 if self.impression_count else 0.0

    @property
    def cvr(self) -> float:
        """Percent."""
        return self.conversion_count / self.click_count * 100 if self.click_count else 0.0

    @property
    def roas(self) -> Decimal:
        """To 6 decimals, half to even, from the exact quotient."""
        if not self.total_spend:
            return Decimal("0.000000")
        millionths = round(Fraction(self.total_revenue) / Fraction(self.total_spend) * 1_000_000)
        return Decimal(millionths).scaleb(-6)

    @property
    def ctr_undefined(self) -> bool:
        return self.impression_count == 0 and self.click_count > 0


@dataclass
class Product:
    """Running sums of one product over all rows of the table."""

    impressions: int = 0
    clicks: int = 0
    conversions: int = 0

    @property
    def ctr(self) -> float:
        """A fraction, not percent."""
        return self.clicks / self.impressions if self.impressions else 0.0

    @property
    def cvr(self) -> float:
        """A fraction, not percent."""
        return self.conversions / self.clicks if self.clicks else 0.0


class Late(NamedTuple):
    partition: int
    offset: int
    event_id: str
    key: Key
    timestamp: int  #: event time, epoch ms
    clock: int  #: the lane's, epoch ms


class Dead(NamedTuple):
    partition: int
    offset: int
    reason: str


@dataclass
class Counts:
    """How far the rows of a partition came.

    read = dead + repeated + filtered + passed, and passed = counted + late.
    """

    read: int = 0
    dead: int = 0
    repeated: int = 0
    filtered: int = 0  #: no_campaign
    passed: int = 0
    counted: int = 0
    late: int = 0


@dataclass
class Truth:
    table: dict[Key, Row] = field(default_factory=dict)
    final: dict[Key, Row] = field(default_factory=dict)
    late: list[Late] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)
    counts: dict[int, Counts] = field(default_factory=dict)  #: by partition
    clocks: dict[int, int | None] = field(default_factory=dict)  #: of step 4, by partition, epoch ms
    products: dict[str | None, Product] = field(default_factory=dict)

    @property
    def total(self) -> Counts:
        """The counts of all partitions together."""
        names = vars(Counts())
        return Counts(**{name: sum(getattr(lane, name) for lane in self.counts.values()) for name in names})

    @property
    def reasons(self) -> Counter[str]:
        return Counter(dead.reason for dead in self.dead)


# --- Step 1: reading ----------------------------------------------------------------------------------------


class Refused(Exception):
    """The row is dead, for this reason."""


class WrongType(Exception):
    """The value of a field is not what was declared."""


RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
    re.IGNORECASE,
)
DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")
DECIMAL_LIMIT = 10**8  # ten digits, two of them decimals


def text(value: object) -> str:
    if not isinstance(value, str):
        raise WrongType
    return value


def event_type(value: object) -> str:
    if value not in ("IMPRESSION", "CLICK", "CONVERSION"):
        raise WrongType
    return text(value)


def timestamp(value: object) -> int:
    """Epoch milliseconds."""
    written = text(value)
    if not RFC3339.fullmatch(written):
        raise WrongType
    try:
        moment = datetime.fromisoformat(written.upper())
    except ValueError:  # a 13th month, a 25th hour
        raise WrongType from None
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def money(value: object) -> Decimal:
    if isinstance(value, str):
        if not DECIMAL.fullmatch(value):
            raise WrongType
        value = Decimal(value)
    if not isinstance(value, Decimal):
        raise WrongType
    if not -DECIMAL_LIMIT < value < DECIMAL_LIMIT or value != round(value, 2):
        raise WrongType
    return value


FIELDS = {
    "event_id": text,
    "event_type": event_type,
    "timestamp": timestamp,
    "device_id": text,
    "campaign_id": text,
    "product_id": text,
    "placement": text,
    "actual_price": money,
    "revenue_amount": money,
}
REQUIRED = {"event_type", "timestamp"}


def not_json(constant: str) -> None:
    raise ValueError(constant)


JSON = json.JSONDecoder(
    parse_float=Decimal, parse_int=Decimal, parse_constant=not_json
)  # every JSON number is a Decimal


def read(value: bytes | None) -> Event:
    """The declared fields of an acceptable event, absent ones as None. Raises Refused."""
    if value is None:
        raise Refused("null_payload")
    try:
        document = JSON.decode(value.decode())
        if b"\\u" in value:
            json.dumps(document, default=str, ensure_ascii=False).encode()  # raises for a lone surrogate
    except (ValueError, InvalidOperation, RecursionError):
        raise Refused("malformed_json") from None
    if not isinstance(document, dict):
        raise Refused("malformed_json")

    event: Event = {}
    for name, parse in FIELDS.items():
        raw = document.get(name)
        if raw is None:
            if name == "event_id":  # an event without an id is identified by its bytes
                event[name] = "sha256:" + hashlib.sha256(value).hexdigest()
                continue
            if name in REQUIRED:
                raise Refused(f"missing_field:{name}")
            event[name] = None
            continue
        try:
            event[name] = parse(raw)
        except WrongType:
            raise Refused(f"bad_field:{name}") from None

    if event["event_id"] == "":
        raise Refused("no_event_id")
    if event["event_type"] == "CLICK" and not at_least_zero(event["actual_price"]):
        raise Refused("bad_price")
    if event["event_type"] == "CONVERSION" and not at_least_zero(event["revenue_amount"]):
        raise Refused("bad_revenue")
    return event


def at_least_zero(amount: Decimal | None) -> bool:
    return amount is not None and amount >= 0


# --- All steps ----------------------------------------------------------------------------------------------


def compute(
    records: Iterable[Record],
    partitions: int,
    grace_ms: int = 10_000,
    *,
    window_ms: int = 5 * MINUTE_MS,
    remember_ms: int = 60 * MINUTE_MS,
) -> Truth:
    """The truth about these records of partitions 0 .. partitions-1, given in any order."""
    truth = Truth()
    lanes: dict[int, list[Record]] = {partition: [] for partition in range(partitions)}
    for record in records:
        lanes[record[0]].append(record)
    for partition, lane in lanes.items():
        lane.sort(key=lambda record: record[1])
        run_lane(truth, partition, lane, grace_ms, window_ms, remember_ms)

    reached = [clock for clock in truth.clocks.values() if clock is not None]
    if len(reached) == partitions:
        closed = min(reached)
        truth.final = {
            key: row for key, row in truth.table.items() if key.window_start + window_ms + grace_ms <= closed
        }

    for key, row in truth.table.items():
        product = truth.products.setdefault(key.product_id, Product())
        product.impressions += row.impression_count
        product.clicks += row.click_count
        product.conversions += row.conversion_count
    return truth


def run_lane(truth: Truth, partition: int, lane: list[Record], grace_ms: int, window_ms: int, remember_ms: int) -> None:
    counts = truth.counts[partition] = Counts()
    seen: dict[str, int] = {}  # event_id -> time of the row that was let through
    dedup_clock = window_clock = None

    for _, offset, _, value, _ in lane:
        counts.read += 1
        try:
            event = read(value)
        except Refused as refused:
            counts.dead += 1
            truth.dead.append(Dead(partition, offset, str(refused)))
            continue
        event_id, ts = event["event_id"], event["timestamp"]

        dedup_clock = ts if dedup_clock is None else max(dedup_clock, ts)
        if event_id in seen and dedup_clock <= seen[event_id] + remember_ms:
            counts.repeated += 1
            continue
        seen[event_id] = ts

        if not event["campaign_id"]:
            counts.filtered += 1
            continue

        counts.passed += 1
        window_clock = ts if window_clock is None else max(window_clock, ts)
        window_start = ts // window_ms * window_ms
        key = Key(event["campaign_id"], event["product_id"], event["placement"], window_start)
        if window_start + window_ms + grace_ms <= window_clock:
            counts.late += 1
            truth.late.append(Late(partition, offset, event_id, key, ts, window_clock))
            continue
        counts.counted += 1
        row = truth.table.get(key)
        if row is None:
            row = truth.table[key] = Row()
        count(row, event)

    truth.clocks[partition] = window_clock


def count(row: Row, event: Event) -> None:
    match event["event_type"]:
        case "IMPRESSION":
            row.impression_count += 1
        case "CLICK":
            row.click_count += 1
            row.total_spend += event["actual_price"]
        case "CONVERSION":
            row.conversion_count += 1
            row.total_revenue += event["revenue_amount"]
    row.max_timestamp = max(row.max_timestamp, event["timestamp"])
