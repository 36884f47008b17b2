"""The rules of money, looked at from outside: queries that share nothing with what decides.

Each finds what breaks a rule; an empty answer is a rule that holds. All look at one moment of the database (one snapshot).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple


class Finding(NamedTuple):
    """What was found about a rule."""

    rule: str
    broken: int
    """How many places break it."""
    example: str | None
    unseen: str | None = None
    """Why it could not be looked at."""


RULES: Mapping[str, str] = {
    "debits are credits in every posting": """
        SELECT p.id FROM ads_ledger.entry e JOIN ads_ledger.posting p ON p.seq = e.posting_seq
        GROUP BY p.id HAVING sum(e.debit) <> sum(e.credit)""",
    "entries belong to postings, and postings that moved money have entries": """
        SELECT coalesce(p.id, e.posting_seq::text) AS id
        FROM ads_ledger.posting p FULL JOIN ads_ledger.entry e ON e.posting_seq = p.seq
        WHERE p.id IS NULL OR (e.posting_seq IS NULL AND p.status = 'POSTED') OR (e.line IS NOT NULL AND p.status <> 'POSTED')""",
    "a balance is the sum of its entries and not negative": """
        SELECT a.advertiser_id FROM ads_ledger.advertiser a LEFT JOIN (
            SELECT account, sum(credit) - sum(debit) AS balance FROM ads_ledger.entry GROUP BY account
        ) b ON b.account = 'adv:' || a.advertiser_id || ':available'
        WHERE a.available <> coalesce(b.balance, 0) OR a.available < 0""",
    "no balance was ever negative": """
        SELECT id FROM (
            SELECT p.id, sum(e.credit - e.debit) OVER (PARTITION BY e.account ORDER BY e.posting_seq, e.line) AS balance
            FROM ads_ledger.entry e JOIN ads_ledger.posting p ON p.seq = e.posting_seq
            WHERE e.account LIKE 'adv:%:available'
        ) b WHERE balance < 0""",
    "a balance is deposits less charges and refunds": """
        SELECT a.advertiser_id FROM ads_ledger.advertiser a WHERE a.available <> coalesce((
            SELECT sum(CASE kind WHEN 'CHARGE' THEN -amount ELSE amount END) FROM ads_ledger.posting p
            WHERE p.advertiser_id = a.advertiser_id), 0)""",
    "the revenue is charges less refunds": """
        SELECT 'platform:revenue' AS id FROM (
            SELECT coalesce((SELECT sum(credit) - sum(debit) FROM ads_ledger.entry
                    WHERE account = 'platform:revenue'), 0) AS booked,
                coalesce((SELECT sum(CASE kind WHEN 'CHARGE' THEN amount WHEN 'REFUND' THEN -amount ELSE 0 END)
                    FROM ads_ledger.posting), 0) AS posted
        ) r WHERE booked <> posted""",
    "refunds are within their charge": """
        SELECT r.ref FROM ads_ledger.posting r LEFT JOIN ads_ledger.posting c ON c.id = r.ref AND c.kind = 'CHARGE'
        WHERE r.kind = 'REFUND' AND r.amount > 0
        GROUP BY r.ref, c.amount HAVING sum(r.amount) > coalesce(c.amount, 0)""",
    "an advertiser's refunds are within the charges": """
        SELECT advertiser_id FROM ads_ledger.posting GROUP BY advertiser_id
        HAVING sum(CASE kind WHEN 'CHARGE' THEN amount WHEN 'REFUND' THEN -amount ELSE 0 END) < 0""",
    "a day's spend is its charges less their refunds": """
        SELECT d.campaign_id || ' ' || d.day AS id FROM ads_ledger.campaign_day d WHERE d.spend <> coalesce((
            SELECT sum(CASE kind WHEN 'CHARGE' THEN amount ELSE -amount END) FROM ads_ledger.posting p
            WHERE p.kind IN ('CHARGE', 'REFUND') AND p.advertiser_id = d.advertiser_id
                AND coalesce(p.campaign_id, '') = d.campaign_id AND p.day = d.day), 0)""",
    "each charge kept its day within the budget in force": """
        SELECT id FROM (
            SELECT p.*, sum(CASE kind WHEN 'CHARGE' THEN amount ELSE -amount END)
                OVER (PARTITION BY advertiser_id, campaign_id, day ORDER BY seq) AS spent
            FROM ads_ledger.posting p WHERE kind IN ('CHARGE', 'REFUND')
        ) p WHERE kind = 'CHARGE' AND amount > 0 AND spent > budget""",
    "PAUSED and ACTIVE alternate": """
        SELECT campaign_id FROM (
            SELECT e ->> 'campaign_id' AS campaign_id, e ->> 'status' AS status, lag(e ->> 'status') OVER (
                PARTITION BY p.advertiser_id, e ->> 'campaign_id' ORDER BY p.seq, n) AS before
            FROM ads_ledger.posting p CROSS JOIN LATERAL jsonb_array_elements(p.effects) WITH ORDINALITY x (e, n)
            WHERE e ->> 'effect' = 'STATUS'
        ) s WHERE status = coalesce(before, 'ACTIVE')""",
    "an alert is told once a day": """
        SELECT e ->> 'campaign_id' AS id
        FROM ads_ledger.posting p CROSS JOIN LATERAL jsonb_array_elements(p.effects) e WHERE e ->> 'effect' = 'ALERT'
        GROUP BY p.advertiser_id, e ->> 'campaign_id', e ->> 'day', e ->> 'threshold' HAVING count(*) > 1""",
    "no refund waits for a charge that is there": """
        SELECT w.id FROM ads_ledger.waiting w JOIN ads_ledger.posting c ON c.id = w.ref AND c.kind = 'CHARGE'
        WHERE w.state = 'WAITING' AND w.advertiser_id = c.advertiser_id""",
}


def audit(url: str) -> Iterator[Finding]:
    """Looks at each rule. Raises what the driver raises."""
    import psycopg

    with psycopg.connect(url) as link:
        link.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for rule, query in RULES.items():
            found = link.execute(f"SELECT count(*), min(x::text) FROM ({query}) x").fetchone()
            assert found is not None
            yield Finding(rule, found[0], found[1])


def compare(url: str, told: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    """Whether what the topic `ad-ledger` says is what is recorded. `told`: the values of its records."""
    import psycopg

    with psycopg.connect(url) as link:
        query = (
            "SELECT p.id, p.status, ads_ledger.major(p.amount, s.exponent), ads_ledger.major(p.balance, s.exponent)"
            " FROM ads_ledger.posting p, ads_ledger.setting s"
        )
        recorded = {row[0]: row[1:] for row in link.execute(query)}
    wrong = [
        value["posting_id"]
        for value in told
        if recorded.get(value["posting_id"]) != (value["status"], Decimal(value["amount"]), Decimal(value["balance"]))
    ]
    yield Finding("what `ad-ledger` tells is what is recorded", len(wrong), wrong[0] if wrong else None)


def parked(url: str) -> list[tuple[Any, ...]]:
    """Refunds that wait for their charge, the oldest first: id, state, advertiser, charge, amount, since."""
    import psycopg

    with psycopg.connect(url) as link:
        return link.execute(
            "SELECT w.id, w.state, w.advertiser_id, w.ref, ads_ledger.major(w.requested, s.exponent), w.since"
            " FROM ads_ledger.waiting w, ads_ledger.setting s ORDER BY w.since, w.id"
        ).fetchall()


def booked(url: str, refund_id: str) -> dict[str, Any] | None:
    """A refund that was parked and is booked now, as `compensation-released` tells it."""
    import psycopg

    with psycopg.connect(url) as link:
        found = link.execute(
            "SELECT w.id, w.advertiser_id, w.campaign_id, ads_ledger.major(w.requested, s.exponent)::text, substr(w.ref, 7),"
            " to_char(w.at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
            " FROM ads_ledger.parked w JOIN ads_ledger.posting p ON p.id = w.id, ads_ledger.setting s WHERE w.id = %s",
            [refund_id],
        ).fetchone()
    names = ("refund_id", "advertiser_id", "campaign_id", "refund_amount", "event_id", "timestamp")
    return None if found is None else dict(zip(names, found, strict=True))


def release(url: str, refund_id: str, by: str) -> str:
    """What became of it: `BOOKED`, `PARKED` (for another 24 hours), `NOT_PARKED`."""
    import psycopg

    with psycopg.connect(url) as link:
        found = link.execute("SELECT ads_ledger.release(%s, %s)", [refund_id, by]).fetchone()
    assert found is not None
    return str(found[0])
