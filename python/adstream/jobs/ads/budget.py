"""What is left of each campaign's budget today, in Redis. The ledger decides; this shows.

    ad-ledger ──────┬─ per campaign and day ─ spend, budget ─ per campaign: newest day, newest budget ─ budget:{campaign_id}
    refund-applied ─┘

- `spend` is the charges of the day less their refunds, whenever those come: the same sum that `ads.ledger` decides by, since both
  topics tell each of its postings, and what is told again counts once. A charge belongs to the day of its click in the
  advertiser's zone.
- `budget` is what the ledger told last, whatever day that was of; it is empty where a campaign has none. `remaining` may be
  negative: a budget can be lowered below what is spent.
- The hash is of the newest day that the campaign has postings of, `day`: who reads it after midnight compares that. What comes
  late for a day before changes that day alone, for `memory` after its last change. How a campaign stands is not forgotten: one
  that rests has its budget, still.
- Nothing is kept here that is not in the topics: `adstream reset ads.budget` and a start build it anew, from what they keep
  (7 days).
"""

from __future__ import annotations

from datetime import datetime

import adstream as ads
from adstream import col, lit, when
from adstream.jobs.ads.ledger import Money

SUM = "decimal(38,2)"
NOTHING = lit("0").cast("decimal(15,2)")


class Decision(ads.Record):
    """`ad-ledger`, of the ledger."""

    posting_id: str
    timestamp: datetime
    kind: str
    status: str
    campaign_id: str | None
    day: str
    amount: Money
    budget: Money | None


class RefundApplied(ads.Record):
    """`refund-applied`, of compensation."""

    refund_id: str
    timestamp: datetime
    status: str
    campaign_id: str | None
    day: str | None
    amount: Money | None


@ads.topology
def budget(app: ads.App, memory: str = "3d") -> None:
    """Budgets as they stand. `memory`: for how long after a day's last change it can be corrected.

    State: an entry per posting and day of the last `memory`, and one per campaign.
    """
    charge = col("kind") == "CHARGE"
    decided = (
        app.stream("ad-ledger", Decision, timestamp="timestamp")
        .filter(col("kind").is_in(["CHARGE", "CAMPAIGN", "RESUME"]), reason="no_campaign")
        .filter(col("campaign_id").is_not_null(), reason="no_campaign")
        .deduplicate("posting_id", within=memory)
        .select(
            "campaign_id",
            "day",
            "budget",
            spent=when(charge & (col("status") == "POSTED")).then(col("amount")).otherwise(NOTHING).cast(SUM),
            place=ads.offset(),
        )
    )
    refunded = (
        app.stream("refund-applied", RefundApplied, timestamp="timestamp")
        .filter((col("status") == "APPLIED") & col("day").is_not_null(), reason="rejected")
        .filter(col("campaign_id").is_not_null(), reason="no_campaign")
        .deduplicate("refund_id", within=memory)
        .select(
            "campaign_id",
            "day",
            budget=lit(None).cast("decimal(15,2)"),
            spent=(NOTHING - col("amount")).cast(SUM),
            place=ads.offset(),
        )
    )
    known = col("budget").is_not_null()
    days = (
        decided.merge(refunded)
        .group_by("campaign_id", "day")
        .aggregate(
            spend=ads.sum("spent"),
            budget=ads.last("budget", where=known, order_by="place"),
            place=ads.max("place", where=known),
            changes=ads.count(),
            ttl=memory,
        )
        .named("days")
    )
    # Of what is told of days, not of the table of them: that forgets.
    newest = (
        days.to_stream()
        .group_by("campaign_id")
        .aggregate(
            day=ads.max("day"),
            # What is late for a day has an older time: its changes are in order. One that was forgotten has few: not shown.
            spend=ads.last("spend", order_by=["day", "changes"]),
            budget=ads.last("budget", order_by="place"),
        )
        .named("newest")
        .with_columns(remaining=col("budget") - col("spend"))
    )
    newest.sink(ads.sinks.RedisHash("budget:{campaign_id}"))
