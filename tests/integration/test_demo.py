"""The demo without a terminal: what it prints is what a truth computed apart says."""

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path

from adstream.jobs.ads.traffic import Traffic, as_log, records
from adstream.jobs.ads.truth import Truth, compute

EVENTS = 20_000


def demo(*arguments: str) -> str:
    command = [sys.executable, "-m", "adstream.cli", "demo", "--events", str(EVENTS), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def truth_of(seed: int) -> Truth:
    traffic = Traffic(seed=seed, events=EVENTS, rate=EVENTS // 2_400)
    sent = [(r.partition, r.offset, r.key, r.value, r.timestamp_ms) for r in as_log(records(traffic))]
    return compute(sent, traffic.partitions, traffic.grace_ms)


def number(output: str, name: str) -> Decimal:
    match = re.search(rf"^ *{re.escape(name)} +([\d,.]+)$", output, re.MULTILINE)
    assert match is not None, (name, output)
    return Decimal(match[1].replace(",", ""))


def test_what_is_printed_is_true():
    output, truth = demo("--seed", "7"), truth_of(7)
    total = truth.total
    expected = {
        "events in": EVENTS,
        "counted": total.counted,
        "rows": len(truth.table),
        "windows closed": len({key.window_start for key in truth.final}),
        "windows open": len({key.window_start for key in truth.table.keys() - truth.final.keys()}),
        "final rows": len(truth.final),
        "spend": sum(row.total_spend for row in truth.table.values()),
        "revenue": sum(row.total_revenue for row in truth.table.values()),
        "late": total.late,
        "dead": total.dead,
        "repeated or without campaign": total.repeated + total.filtered,
    }
    assert {name: number(output, name) for name in expected} == expected
    for reason, count in truth.reasons.items():
        assert re.search(rf"\b{count}  {re.escape(reason)}\b", output), reason
    assert f"all {len(truth.table):,} rows equal a computation apart" in output

    spend: dict[str, Decimal] = {}
    for key, row in truth.table.items():
        spend[key.campaign_id] = spend.get(key.campaign_id, Decimal()) + row.total_spend
    best = max(spend, key=lambda campaign: spend[campaign])
    assert re.search(rf"^ {best} .* {spend[best]:,.2f} ", output, re.MULTILINE)

    database = re.search(r"^SQLite: +(.+)$", output, re.MULTILINE)
    assert database is not None
    with closing(sqlite3.connect(database[1])) as connection:
        products = dict(connection.execute("select product_id, impressions from product_metrics"))
    assert products == {product: sums.impressions for product, sums in truth.products.items()}


def test_another_seed_shows_something_else(tmp_path: Path):
    outputs = [demo("--seed", seed, "--no-check", "--dir", str(tmp_path / seed)) for seed in ("1", "2")]
    names = ("counted", "rows", "spend", "revenue")
    assert [number(outputs[0], name) for name in names] != [number(outputs[1], name) for name in names]
    assert (tmp_path / "1" / "demo.db").exists()
    assert list((tmp_path / "1" / "log").glob("*.log"))
