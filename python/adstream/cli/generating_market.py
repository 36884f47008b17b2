"""`adstream generate market`: traffic for all topics that the ads platform reads from outside, and the truth about it.

Each stage is to be worked through before the next is written (`adstream.jobs.ads.market`); what a stage holds depends on the
settings alone, so three calls with the same settings are one market. With the last one, `closing`, comes the truth, a JSON file:

    balances    by advertiser: deposits, charges, refunds, available, clicks charged and unbilled
    budgets     by campaign: the newest day's spend and budget
    credits     by order and product: the click, by what it was found, the campaign
    duplicates  event ids                      net    rows of ad_performance_metrics_net
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing as closing_
from dataclasses import asdict
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import typer

from adstream.cli.appending import Appender
from adstream.cli.logs import open_log
from adstream.cli.options import LogOptions, choose, log_place
from adstream.cli.truth_rows import rfc3339
from adstream.errors import ConfigError
from adstream.interfaces import Log, TopicSpec
from adstream.jobs.ads.market import Market, Sent, closing, day, opening
from adstream.jobs.ads.market_truth import MarketTruth, compute
from adstream.jobs.ads.topics import TOPICS
from adstream.jobs.ads.truth import Record

STAGES: Mapping[str, Callable[[Market], Iterable[Sent]]] = {"opening": opening, "day": day, "closing": closing}
KEEP = {"retention.ms": "-1"}
"""The records are of 2024: by default a broker would delete them at once."""
CHUNK = 5_000


def market(given: Mapping[str, Any], stage: str, out: str, truth: Path, extra: list[str]) -> None:
    """Raises ConfigError: settings that cannot be, a place that cannot be written, an opening where there was one."""
    if stage not in STAGES:
        raise ConfigError(
            f"there is no stage `{stage}`", option="--stage", hint=f"one of {', '.join(STAGES)}, in this order"
        )
    try:
        wanted = Market(**given)
    except ValueError as error:
        raise ConfigError(str(error), option="generate market") from error
    bootstrap, directory = log_place(out, "--out")
    if not bootstrap and not directory:
        raise ConfigError("memory would forget them", option="--out", hint="write kafka://HOST:PORT or dir:PATH")
    log = open_log(choose(LogOptions(log=out, extra=extra), environ={}).settings)
    try:
        log.create_topics([TopicSpec(topic.name, topic.partitions, KEEP) for topic in TOPICS])
        if stage == "opening" and any(
            log.end_offsets([("ad-payments", p) for p in range(4)], committed=False).values()
        ):
            raise ConfigError(
                "`ad-payments` has records already", option="--out", hint="a market begins where nothing is"
            )
        counts = _write(log, STAGES[stage](wanted))
    finally:
        log.close()
    for topic, count in counts.items():
        typer.echo(f"{count:>10,} records of {topic}")
    if stage == "closing":
        found = compute(logs(wanted))
        truth.write_text(json.dumps(as_json(found), ensure_ascii=False, indent=1) + "\n")
        typer.echo(
            f"truth  {truth}: {len(found.balances)} advertisers, {len(found.credits):,} orders, {len(found.net):,} rows"
        )


def _write(log: Log, records: Iterable[Sent]) -> Counter[str]:
    counts: Counter[str] = Counter()
    source = iter(records)
    with closing_(Appender(log, "adstream-market")) as appender:
        while chunk := list(islice(source, CHUNK)):
            appender.append(chunk)
            counts.update(record.topic for record in chunk)
    return counts


def logs(wanted: Market) -> dict[str, list[Record]]:
    """The records of all stages, by topic, as a log holds them."""
    found: dict[str, list[Record]] = {topic.name: [] for topic in TOPICS}
    for stage in STAGES.values():
        for topic, partition, key, value, at in stage(wanted):
            found[topic].append((partition, len(found[topic]), key, value, at))
    return found


def as_json(found: MarketTruth) -> dict[str, Any]:
    """Money as text, times as RFC 3339."""
    document = {
        "clicks": {"valid": len(found.clicks), "dead": found.dead_clicks, "repeated": found.repeated_clicks},
        "duplicates": sorted(found.duplicates),
        "balances": {id: b._asdict() | {"available": b.available} for id, b in sorted(found.balances.items())},
        "budgets": {id: budget._asdict() for id, budget in sorted(found.budgets.items())},
        "credits": [
            {"order_id": order, "product_id": product, **credit._asdict(), "at": rfc3339(credit.at)}
            for (order, product), credit in sorted(found.credits.items())
        ],
        "net": [
            key._asdict() | {"window_start": rfc3339(key.window_start)} | asdict(row)
            for key, row in sorted(found.net.items(), key=str)
        ],
    }
    texts: dict[str, Any] = json.loads(json.dumps(document, default=_text))
    return texts


def _text(value: object) -> str:
    if not isinstance(value, Decimal):
        raise TypeError(f"{type(value)} is not told")
    return str(value)
