"""`ads.ranking` with a real Redis, and `Auction` reading it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis

from adstream.jobs.ads import Auction
from tests.servers import Redis
from tests.unit.cli.support import call
from tests.unit.jobs.examples import CAMPAIGN_EVENT

pytestmark = pytest.mark.servers


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


def test_who_is_shown_and_at_what_price(tmp_path: Path, redis_server: Redis):
    url = redis_server.url(4)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        common = CAMPAIGN_EVENT | {"effective_from": None}
        campaigns = [
            common | {"campaign_id": id, "product_id": f"p{id}", "bid_price": bid}
            for id, bid in (("A", 1500), ("B", 1200), ("C", 3000))
        ]
        campaigns.append(common | {"campaign_id": "D", "category": "전자제품/컴퓨터"})
        campaigns.append(common | {"campaign_id": "E", "category": "audio: 50% off"})
        rates = [("pA", 0.01, 0.005), ("pB", 0.02, 0.01), ("pC", 0.005, 0.002)]
        prices = [("pA", 1_000_000), ("pB", 300_000), ("pC", 50_000)]
        inputs = {
            "campaign-events": campaigns,
            "product-metrics": [{"product_id": p, "ctr": ctr, "cvr": cvr} for p, ctr, cvr in rates],
            "product-meta-data": [{"product_id": p, "product_price": price} for p, price in prices],
        }
        options = []
        for topic, records in inputs.items():
            options += ["--input", f"{topic}={lines(tmp_path / f'{topic}.jsonl', records)}"]
        code, _, err = call("run", "ads.ranking", *options, "--redis", url, "--stop-at-end", cwd=tmp_path)
        assert code == 0, err

        auction = Auction(client)
        found = auction.ranked("HOME", "electronics")
        assert (found.total_campaigns, found.version) == (3, 3)
        assert [(o.campaign_id, o.actual_price, o.score) for o in found.offers] == [
            ("B", Decimal("700.00"), Decimal("30.000000")),
            ("A", Decimal("1005.00"), Decimal("20.000000")),
            ("C", Decimal("100.00"), Decimal("15.050000")),
        ]
        [best] = auction.who("HOME", "electronics")
        assert (best.campaign_id, best.advertiser_id, best.product_id) == ("B", "advertiser_50", "pB")
        assert [offer.campaign_id for offer in auction.who("HOME", "전자제품/컴퓨터")] == ["D"]
        assert [offer.campaign_id for offer in auction.who("HOME", "audio: 50% off")] == ["E"]
        assert auction.who("SEARCH", "electronics") == []
        assert auction.ranked("SEARCH", "electronics").version == 0
