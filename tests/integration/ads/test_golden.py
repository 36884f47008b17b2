"""The golden trace of the ads platform (E4), end to end: real Kafka, real Postgres, the jobs as a user starts them."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from adstream._core import RawBatch, murmur2
from adstream.interfaces import Outcome
from adstream.logs.kafka import KafkaLog
from tests.logs.conformance import unique
from tests.servers import Kafka, Postgres
from tests.unit.cli.support import call

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

DAY = "2024-01-15T"
CLICKS = [
    # id, time, device, ad, campaign, price
    ("e1", "10:30:15", "d1", "ad1", "c100", "1200"),
    ("e2", "10:30:18", "d1", "ad1", "c100", "1200"),
    ("e3", "10:30:22", "d1", "ad1", "c100", "1300"),
    ("e4", "10:34:59", "d2", "ad1", "c100", "1200"),
    ("e5", "10:35:01", "d2", "ad1", "c100", "1200"),
    ("e6", "10:35:15", "d1", "ad1", "c100", "1200"),
    ("e7", "11:00:00", "d1", "ad2", "c200", "900"),
    ("e8", "11:00:00", None, "ad2", "c200", "900"),
    ("e9", "12:30:00", "d1", "ad3", "c300", "700"),
]


def click(
    id: str, at: str, device: str | None, ad: str, campaign: str, price: str, owner: str = "A50"
) -> dict[str, Any]:
    return {
        "event_id": id,
        "event_type": "CLICK",
        "timestamp": f"{DAY}{at}Z",
        "device_id": device,
        "session_id": "s",
        "ad_id": ad,
        "campaign_id": campaign,
        "advertiser_id": owner,
        "product_id": "p",
        "placement": "HOME",
        "actual_price": price,
    }


def send(log: KafkaLog, topic: str, key: str, *rows: dict[str, Any]) -> None:
    """To where Java's producer would write them, at this moment."""
    count, by_partition = log.partitions([topic])[topic], dict[int, list[Any]]()
    for row in rows:
        name = row[key].encode() if row[key] is not None else None
        p = (murmur2(name) & 0x7FFFFFFF) % count if name is not None else 0
        records = by_partition.setdefault(p, [])
        records.append((len(records), time.time_ns() // 1_000_000, name, json.dumps(row).encode(), []))
    outputs = [(topic, p, RawBatch(records)) for p, records in by_partition.items()]
    assert log.writer(unique("send")).commit(outputs, {}, "send", None) is Outcome.COMMITTED


def test_to_the_last_digit(log: KafkaLog, kafka: Kafka, postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.create_database(unique("golden").replace("-", "_"))

    def adstream(*arguments: str) -> str:
        code, out, err = call(*arguments, "--bootstrap", kafka.bootstrap, cwd=tmp_path)
        assert code == 0, f"{arguments}: {err}\n{out}"
        return out

    def work(*jobs: str) -> None:
        for job in jobs:
            sql = ("--sql", f"ledger={url}") if job in ("ads.ledger", "ads.compensation") else ()
            adstream("run", job, *sql, "--create-topics", "--stop-at-end")

    def balance() -> Decimal:
        with psycopg.connect(url) as link:
            [[found]] = link.execute(
                "SELECT available FROM ads_ledger.advertiser WHERE advertiser_id = 'A50'"
            ).fetchall()
        return Decimal(found)

    adstream("topics", "create", "ads", "--keep-all")
    paid = {"payment_id": "p1", "timestamp": f"{DAY}10:00:00Z", "advertiser_id": "A50", "amount": "8000"}
    send(log, "ad-payments", "advertiser_id", paid)
    # Somebody else's clicks move time on, for each device.
    movers = [click(f"m-{d}", "10:37:00", d, "other", "c9", "0", "A99") for d in ("d1", "d2")]
    send(log, "ad-events", "device_id", *(click(*one) for one in CLICKS[:6]), *movers)
    work("ads.clicks", "ads.ledger")
    assert balance() == 700
    work("ads.duplicates", "ads.compensation")
    assert balance() == 4400
    # Redelivered, with what comes later.
    send(log, "ad-events", "device_id", *(click(*one) for one in CLICKS))
    work("ads.clicks", "ads.duplicates", "ads.ledger", "ads.compensation")
    assert balance() == 1900
    with psycopg.connect(url) as link:
        told = link.execute(
            "SELECT kind, id, amount FROM ads_ledger.posting WHERE advertiser_id = 'A50' ORDER BY id"
        ).fetchall()
    refunds = {id: amount for kind, id, amount in told if kind == "REFUND"}
    charges = {id: amount for kind, id, amount in told if kind == "CHARGE"}
    assert refunds == {"dup:e2": 1200, "dup:e3": 1300, "dup:e5": 1200}
    assert sum(charges.values()) - sum(refunds.values()) == 6100
    assert len(charges) == 9
    assert "clean" in adstream("audit", "ads", "--sql", url).splitlines()[-1]
