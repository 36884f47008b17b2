"""The ledger: every click is charged once or not at all, and why is recorded.

    ad-clicks ───────┐
    ad-payments ─────┼─ per advertiser ─ ads_ledger.post ─ once ─┬─ ad-ledger             what was decided of each
    campaign-events ─┤                       (Postgres)          ├─ campaign-events       PAUSED, ACTIVE
    budget-resumes ──┘ when their day begins                     ├─ budget-resumes        when a paused campaign's next day begins
                                                                 ├─ budget-alerts         50, 80, 100 per cent
                                                                 ├─ compensation-released refunds that waited for this click
                                                                 └─ ad-ledger-alerts      an id that stands for something else

- What becomes of a posting is decided and recorded in Postgres, in one transaction per batch, under its id: `click:{event_id}`,
  `payment:{payment_id}`. Asked again after a crash, the recorded decision is the answer, and everything else follows from it:
  so topics and tables cannot disagree (`docs/ads.md`).
- A click is `POSTED`, or `UNBILLED` with a reason: `NO_BALANCE`; `OVER_BUDGET`, where it would take the campaign's day past its
  daily budget; `NOT_ACTIVE`, behind an event that paused or deleted the campaign. A day begins at midnight of the
  advertiser's zone, and a click belongs to the day in which it happened, whenever it comes.
- The same id with another price, time or owner is booked nowhere: `IDEMPOTENCY_CONFLICT`, an alert.
- An event whose id, advertiser or, of a campaign's event, campaign is empty or of more than 256 bytes is a dead letter (`no_id`,
  `id_too_long`), as is one of an unknown type or status. A click may have no campaign: then none is paused.
- A price that is missing, negative, of 10^13 or more, or has a fraction of the currency's smallest unit, is a dead letter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import adstream as ads
from adstream import col
from adstream.jobs.ads.events import named, short

Money = Annotated[Decimal, ads.decimal(15, 2)]
MIGRATIONS = Path(__file__).parent / "migrations"
HOLDS = ["BUDGET", "BALANCE"]
"""Why the ledger pauses a campaign."""
ROLE = "ads_ledger_app"
"""What it may do in the database: append, and ask."""


class Click(ads.Record):
    """A click of the topic `ad-clicks`, each of which is there once."""

    event_id: str
    timestamp: datetime
    advertiser_id: str
    campaign_id: str | None
    actual_price: Money | None


class Payment(ads.Record):
    """Money that an advertiser paid in, of the topic `ad-payments`."""

    payment_id: str
    timestamp: datetime
    advertiser_id: str
    amount: Money


class CampaignEvent(ads.Record):
    """What of the topic `campaign-events` concerns money. Those with a `reason` of `HOLDS` are the ledger's own."""

    event_id: str = ads.content_id()
    event_type: Literal["CAMPAIGN_CREATED", "CAMPAIGN_UPDATED", "CAMPAIGN_APPROVED", "CAMPAIGN_STATUS_CHANGED"]
    timestamp: datetime
    campaign_id: str
    advertiser_id: str
    daily_budget: Money | None
    status: Literal["PENDING", "ACTIVE", "PAUSED", "DELETED"] | None
    reason: str | None


class Resume(ads.Record):
    """A campaign that is paused for a day's budget, and when the next day begins."""

    event_id: str
    advertiser_id: str
    campaign_id: str
    day: str
    resumes_at: datetime


class Decision(ads.Record):
    """What `ads_ledger.post` answers."""

    posting_id: str
    kind: str
    advertiser_id: str
    campaign_id: str | None
    timestamp: datetime
    day: str
    status: str
    reason: str | None
    requested: Money | None
    amount: Money
    balance: Money
    spend: Money | None
    budget: Money | None
    effects: str | None


class Effect(ads.Record):
    """What follows from a decision for somebody else."""

    effect: str
    at: datetime
    event_id: str
    advertiser_id: str
    campaign_id: str | None
    status: str | None
    reason: str | None
    day: str | None
    threshold: int | None
    spend: Money | None
    budget: Money | None
    refund_id: str | None
    refund_amount: Money | None


def effects_of(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The effects of a decision, each with an id of its own that is the same in every replay."""
    for number, effect in enumerate(json.loads(row["effects"])):
        origin = f"{row['id']}/{number}"
        yield {"event_id": origin, "advertiser_id": row["advertiser_id"], **effect}


def effects(decided: ads.Stream, id: str) -> ads.Stream:
    """What follows from decisions, a row each. `id`: the column that names them."""
    told = decided.filter(col("effects").is_not_null()).select("advertiser_id", "effects", id=col(id))
    return told.records("advertiser_id").flat_map_values(effects_of).rows(Effect, timestamp=None)


def publish(following: ads.Stream) -> None:
    """Writes changes of status and alerts to their topics."""
    following.filter((col("effect") == "STATUS") & (col("campaign_id") != "")).select(
        "event_id",
        "campaign_id",
        "advertiser_id",
        "status",
        "reason",
        event_type=ads.lit("CAMPAIGN_STATUS_CHANGED"),
        timestamp=col("at"),
    ).to("campaign-events", key="campaign_id")
    following.filter(col("effect") == "ALERT").select(
        "event_id", "advertiser_id", "campaign_id", "day", "threshold", "spend", "budget", timestamp=col("at")
    ).to("budget-alerts", key="campaign_id")


def conflicts(decided: ads.Stream, id: str) -> None:
    """Writes an alert for each id under which something else was asked before."""
    decided.filter(col("status") == "IDEMPOTENCY_CONFLICT").select(
        "advertiser_id", "campaign_id", "timestamp", alert=col("status"), posting_id=col(id)
    ).to("ad-ledger-alerts", key="advertiser_id")


def asked(
    rows: ads.Stream,
    kind: str,
    id: str,
    *,
    campaign: bool = True,
    at: str = "timestamp",
    sum: str = "",
    state: str = "",
) -> ads.Stream:
    """Rows as `ads_ledger.post` takes them, each under its id. `id`, `at`, `sum`, `state`: columns; empty: null."""
    nothing = ads.lit(None)
    prefix = {"CHARGE": "click:", "DEPOSIT": "payment:", "CAMPAIGN": "campaign:", "RESUME": "resume:"}[kind]
    return rows.select(
        id=ads.concat_str(ads.lit(prefix), col(id)),
        type=ads.lit(kind),
        account=col("advertiser_id"),
        campaign=col("campaign_id") if campaign else nothing.cast(str),
        at=col(at),
        sum=col(sum) if sum else nothing.cast(Money),
        state=col(state) if state else nothing.cast(str),
    )


@ads.topology
def ledger(app: ads.App, within: str = "1d") -> None:
    """The ledger of advertisers. `within`: for how long an answer that is given again is not told again."""
    clicks = app.stream("ad-clicks", Click, timestamp="timestamp").require(
        no_id=named("event_id", "advertiser_id"),
        id_too_long=short("event_id", "advertiser_id", "campaign_id"),
        bad_price=(col("actual_price") >= 0).fill_null(False),
    )
    payments = app.stream("ad-payments", Payment, timestamp="timestamp", max_ahead="1d").require(
        no_id=named("payment_id", "advertiser_id"),
        id_too_long=short("payment_id", "advertiser_id"),
        bad_amount=col("amount") > 0,
    )
    terms = (
        app.stream("campaign-events", CampaignEvent, timestamp="timestamp", max_ahead="1d")
        .filter((~col("reason").is_in(HOLDS)).fill_null(True), reason="own")
        .require(
            unknown_type=col("event_type").is_not_null(),  # a column that nobody asks for is not looked at
            no_id=named("event_id", "campaign_id", "advertiser_id"),
            id_too_long=short("event_id", "campaign_id", "advertiser_id"),
            bad_budget=(col("daily_budget") >= 0).fill_null(True),
        )
    )
    days = (
        app.stream("budget-resumes", Resume)
        .require(no_id=named("event_id", "campaign_id", "advertiser_id"))
        .filter(ads.now() >= col("resumes_at"))
    )
    decided = (
        asked(clicks, "CHARGE", "event_id", sum="actual_price")
        .merge(
            asked(payments, "DEPOSIT", "payment_id", campaign=False, sum="amount"),
            asked(terms, "CAMPAIGN", "event_id", sum="daily_budget", state="status"),
            asked(days, "RESUME", "event_id", at="resumes_at", state="day"),
        )
        .group_by("account")
        .ask_sql(
            "ads_ledger.post", schema=Decision, connection="ledger", migrations=MIGRATIONS, role=ROLE, name="postings"
        )
        .named("post")
    )
    conflicts(decided, "posting_id")
    booked = decided.filter(col("status") != "IDEMPOTENCY_CONFLICT").deduplicate("posting_id", within=within)
    booked.drop_columns("effects").to("ad-ledger", key="advertiser_id")
    following = effects(booked, "posting_id")
    publish(following)
    following.filter((col("effect") == "RESUME") & (col("campaign_id") != "")).select(
        "event_id", "advertiser_id", "campaign_id", "day", resumes_at=col("at")
    ).to("budget-resumes", key="advertiser_id")
    following.filter(col("effect") == "REFUND").select(
        "refund_id", "advertiser_id", "campaign_id", "refund_amount", "event_id", timestamp=col("at")
    ).to("compensation-released", key="advertiser_id")
