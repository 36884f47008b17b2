"""Compensation: clicks that should not have been charged are paid back, each once and never more than it cost.

    compensation-events ───┐
    compensation-released ─┴─ per advertiser ─ ads_ledger.refund ─ once ─┬─ refund-applied     what was decided of each
                                                  (Postgres)             ├─ campaign-events    ACTIVE again
                                                                         └─ ad-ledger-alerts

- A refund is a posting under its `refund_id`. Its amount is what is left of its charge, at most what was asked: `APPLIED`; or
  `REJECTED` with a reason: `UNBILLED`, `ALREADY_REFUNDED`, `OTHER_ADVERTISER`.
- The two topics do not wait for each other, so a refund may come before its charge. It is parked then, in Postgres, and
  booked with the charge, by `ads.ledger` in the same transaction; the topic `compensation-released` says so, and the answer
  is told here. After 24 hours it is a matter for people: `adstream ads parked list`, `adstream ads parked release`.
- A negative amount is a dead letter (`bad_refund`). So is a refund of an advertiser whom the ledger does not know
  (`unknown_advertiser`), but it is parked as well: if the advertiser's first click is still to come, it is booked with that. An
  event without a `refund_id` could be paid twice and is dropped and counted (`no_refund_id`). A `refund_id` that begins as the
  id of a posting of another kind does, or has more than 300 bytes, is a dead letter (`bad_refund_id`).
"""

from __future__ import annotations

from datetime import datetime
from functools import reduce

import adstream as ads
from adstream import col
from adstream.jobs.ads.events import id_or_null, named, short
from adstream.jobs.ads.ledger import MIGRATIONS, ROLE, Money, conflicts, effects, publish

OWN_ID = reduce(
    lambda a, b: a & b,
    [~col("refund_id").str.starts_with(kind) for kind in ("click:", "payment:", "campaign:", "resume:")],
    col("refund_id").str.len_bytes() <= 300,
)
"""A refund that waits under the id of another posting, or under one that no posting can have, would stop its charge."""


class Compensation(ads.Record):
    """What of the topic `compensation-events` a refund needs. `event_id`: of the click."""

    refund_id: str | None
    event_id: str | None
    timestamp: datetime
    advertiser_id: str
    campaign_id: str | None
    refund_amount: Money | None


class Refunded(ads.Record):
    """What `ads_ledger.refund` answers."""

    refund_id: str
    charge_id: str
    advertiser_id: str
    campaign_id: str | None
    timestamp: datetime
    click_time: datetime | None
    day: str | None
    status: str
    reason: str | None
    requested: Money
    amount: Money | None
    balance: Money | None
    spend: Money | None
    effects: str | None


@ads.topology
def compensation(app: ads.App, within: str = "7d") -> None:
    """Refunds. `within`: for how long an answer that is given again is not told again."""
    asked = (
        app.stream("compensation-events", Compensation, timestamp="timestamp")
        .merge(app.stream("compensation-released", Compensation, timestamp="timestamp"))
        .with_columns(refund_id=id_or_null("refund_id"), event_id=id_or_null("event_id"))
        .filter(col("refund_id").is_not_null(), reason="no_refund_id")
        .require(
            bad_refund=(col("refund_amount") >= 0).fill_null(False),
            no_click=col("event_id").is_not_null(),
            bad_refund_id=OWN_ID,
            id_too_long=short("event_id", "advertiser_id", "campaign_id"),
            unknown_advertiser=named("advertiser_id"),
        )
        .select(
            id=col("refund_id"),
            charge=ads.concat_str(ads.lit("click:"), col("event_id")),
            account=col("advertiser_id"),
            campaign=col("campaign_id"),
            at=col("timestamp"),
            sum=col("refund_amount"),
        )
    )
    decided = (
        asked.group_by("account")
        .ask_sql(
            "ads_ledger.refund", schema=Refunded, connection="ledger", migrations=MIGRATIONS, role=ROLE, name="refunds"
        )
        .named("refund")
        .require(unknown_advertiser=col("status") != "UNKNOWN_ADVERTISER")
    )
    conflicts(decided, "refund_id")
    booked = (
        decided.filter(col("status") != "IDEMPOTENCY_CONFLICT")
        .filter(~col("status").is_in(["PARKED", "MANUAL"]), reason="parked")
        .deduplicate("refund_id", within=within)
    )
    booked.select(
        "refund_id",
        "advertiser_id",
        "campaign_id",
        "timestamp",
        "click_time",
        "day",
        "status",
        "reason",
        "requested",
        "amount",
        "balance",
        "spend",
        event_id=col("charge_id").str.slice(6),
    ).to("refund-applied", key="advertiser_id")
    publish(effects(booked, "refund_id"))
