"""What the platform has made of a market, in Postgres and Redis, held against the truth about it."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Any

import psycopg
import redis
from psycopg.rows import dict_row

from adstream.jobs.ads.market_truth import MarketTruth


def differences(truth: MarketTruth, sql: str, shown: redis.Redis) -> dict[str, object]:
    """What is in the database and in Redis and should not be so; by what it is about. Empty: all is as it must be."""
    found: dict[str, object] = {}

    def compare(what: str, is_: dict[Any, Any], must: dict[Any, Any]) -> None:
        wrong = {
            key: (is_.get(key), must.get(key)) for key in is_.keys() | must.keys() if is_.get(key) != must.get(key)
        }
        if wrong:
            found[what] = (len(wrong), dict(sorted(wrong.items(), key=str)[:5]))

    with psycopg.connect(sql, row_factory=dict_row) as link:

        def rows(query: str) -> list[dict[str, Any]]:
            return link.execute(query).fetchall()

        compare(
            "balances",
            {
                row["advertiser_id"]: (row["available"], row["charged"], row["unbilled"])
                for row in rows("""
                    SELECT a.advertiser_id, a.available,
                        count(*) FILTER (WHERE p.kind = 'CHARGE' AND p.status = 'POSTED') AS charged,
                        count(*) FILTER (WHERE p.kind = 'CHARGE' AND p.status = 'UNBILLED') AS unbilled
                    FROM ads_ledger.advertiser a LEFT JOIN ads_ledger.posting p USING (advertiser_id) GROUP BY 1""")
            },
            {id: (b.available, b.charged, b.unbilled) for id, b in truth.balances.items()},
        )
        refunded = truth.duplicates & {
            id for id, click in truth.clicks.items() if truth.balances[click.advertiser_id].refunds
        }
        compare(
            "refunds",
            {
                row["id"]: row["amount"]
                for row in rows("SELECT id, amount FROM ads_ledger.posting WHERE kind = 'REFUND'")
            },
            {f"dup:{id}": truth.clicks[id].price for id in refunded},
        )
        compare(
            "attribution",
            {
                (row["order_id"], row["product_id"]): (
                    row["status"],
                    row["attribution_model"],
                    row["conversion_type"],
                    row["revenue_amount"],
                    row["conversion_time"].timestamp() * 1000,
                    row["click_event_id"],
                    row["matched_by"],
                    row["campaign_id"],
                )
                for row in rows("SELECT * FROM conversion_attribution_results")
            },
            {
                place: (
                    "FINAL",
                    "UNATTRIBUTED" if credit.click_event_id is None else "LAST_CLICK",
                    credit.conversion_type,
                    credit.revenue,
                    credit.at,
                    credit.click_event_id,
                    credit.matched_by,
                    credit.campaign_id,
                )
                for place, credit in truth.credits.items()
            },
        )

        def key(row: dict[str, Any]) -> tuple[Any, ...]:
            return (
                row["campaign_id"],
                row["product_id"],
                row["placement"],
                round(row["metric_time"].timestamp() * 1000),
            )

        compare(
            "gross numbers",
            {
                key(row): (
                    row["impression_count"],
                    row["click_count"],
                    row["conversion_count"],
                    row["total_spend"],
                    row["total_revenue"],
                )
                for row in rows("SELECT * FROM ad_performance_metrics_realtime")
            },
            {
                tuple(key): (
                    row.impression_count,
                    row.click_count,
                    row.conversion_count,
                    row.total_spend,
                    row.total_revenue,
                )
                for key, row in truth.gross.table.items()
            },
        )
        net = rows("SELECT * FROM ad_performance_metrics_net")
        uncertain = {tuple(key) for key, row in truth.net.items() if row.spend_net is None}
        compare(
            "net numbers",
            {
                key(row): (
                    row["impression_count"],
                    row["conversion_count"],
                    row["click_count"],
                    row["click_count_net"],
                    row["total_spend"],
                    None if key(row) in uncertain else row["total_spend_net"],
                    row["total_revenue"],
                )
                for row in net
            },
            {
                tuple(key): (
                    row.impressions,
                    row.conversions,
                    row.clicks,
                    row.clicks_net,
                    row.spend,
                    row.spend_net,
                    row.revenue,
                )
                for key, row in truth.net.items()
            },
        )
        spend: dict[str, Decimal] = defaultdict(Decimal)
        for row in net:
            spend[row["campaign_id"]] += row["total_spend_net"]
        compare(
            "net spend of campaigns",
            {campaign: sum_ for campaign, sum_ in spend.items() if campaign in truth.net_spend},
            truth.net_spend,
        )
    hashes: dict[str, Any] = {}
    for campaign in truth.budgets:
        names = [b"day", b"spend", b"budget"]
        day, spent, budget = map(_text, shown.hmget(f"budget:{campaign}", names))
        hashes[campaign] = (day, spent and Decimal(spent), Decimal(budget) if budget else None)
    compare("budgets", hashes, {campaign: tuple(budget) for campaign, budget in truth.budgets.items()})
    return found


def _text(value: bytes | str | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
