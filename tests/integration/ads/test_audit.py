"""`adstream run ads --stop-at-end` on an embedded log, Postgres and Redis: all jobs in turn, and what the audit makes of it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from adstream._core import RawBatch, murmur2
from adstream.interfaces import Outcome, TopicSpec
from adstream.jobs.ads.audit import RULES
from adstream.jobs.ads.topics import TOPICS
from adstream.logs.embedded import EmbeddedLog
from tests.jobs.ads.test_audit_topics import DAMAGE, campaigns, rfc3339
from tests.logs.conformance import unique
from tests.servers import Postgres, Redis
from tests.unit.cli.support import call

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

PARTITIONS = {topic.name: topic.partitions for topic in TOPICS}


def send(log: EmbeddedLog, topic: str, key: str, rows: list[dict[str, Any]]) -> None:
    by_partition: dict[int, list[Any]] = {}
    for row in rows:
        name = row[key].encode()
        records = by_partition.setdefault((murmur2(name) & 0x7FFFFFFF) % PARTITIONS[topic], [])
        records.append((len(records), 1_705_312_800_000, name, json.dumps(row).encode(), []))
    outputs = [(topic, p, RawBatch(records)) for p, records in by_partition.items()]
    assert log.writer(topic).commit(outputs, {}, topic, None) is Outcome.COMMITTED


def test_what_a_platform_says_that_has_read_all_is_clean(
    tmp_path: Path, postgres: Postgres, redis_server: Redis
) -> None:
    chance = random.Random(1)
    log = EmbeddedLog(tmp_path / "log")
    log.create_topics([TopicSpec(topic.name, topic.partitions) for topic in TOPICS])
    send(log, "campaign-events", "campaign_id", campaigns())
    paid = {"payment_id": "p1", "timestamp": rfc3339(-60), "advertiser_id": "A", "amount": "300000"}
    send(log, "ad-payments", "advertiser_id", [paid])
    common = {"placement": "HOME", "category": "x", "actual_price": 700}
    clicks = [
        {
            "event_id": f"e{n}",
            "event_type": "CLICK",
            "timestamp": rfc3339(n * 3 - chance.choice([0, 0, 5, 20, 100])),
            "device_id": f"d{chance.randrange(20)}",
            "ad_id": f"ad{n % 3}",
            "campaign_id": f"c{n % 3}",
            "advertiser_id": "AAB"[n % 3],
            "product_id": f"p{n % 3}",
            **common,
        }
        for n in range(1200)
    ]
    send(log, "ad-events", "device_id", clicks)
    conversions = [
        {
            "timestamp": rfc3339(600 + n * 30),
            "device_id": f"d{chance.randrange(20)}",
            "order_id": f"o{n % 80}",
            "product_id": f"p{chance.randrange(3)}",
            "revenue_amount": 5_000 + n,
            "conversion_type": "PURCHASE",
        }
        for n in range(100)
    ]
    send(log, "conversion-events", "device_id", conversions)
    log.close()
    where = ["--log", f"dir:{tmp_path / 'log'}", "--sql", postgres.create_database(unique("audit").replace("-", "_"))]
    code, _, err = call("run", "ads", *where, "--redis", redis_server.url(7), "--stop-at-end", cwd=tmp_path)
    assert code == 0, err
    code, told, err = call("audit", "ads", *where, cwd=tmp_path)
    lines = told.splitlines()
    assert (code, [line for line in lines if not line.startswith("holds ")]) == (0, lines[-1:]), err
    ranked, told_by_ledger = 5, 1
    assert lines[-1] == f"clean: {len(RULES) + len(DAMAGE) + ranked + told_by_ledger} rules hold"
