"""What tests of money share: a ledger in a real Postgres, asked directly, and what must hold of it whatever was asked."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from adstream.jobs.ads.ledger import MIGRATIONS, ROLE
from adstream.targets.sql_function import SqlFunction, migrate

POST = {
    "id": "str",
    "type": "str",
    "account": "str",
    "campaign": "str",
    "at": "timestamp",
    "sum": "decimal(15,2)",
    "state": "str",
}
REFUND = {"id": "str", "charge": "str", "account": "str", "campaign": "str", "at": "timestamp", "sum": "decimal(15,2)"}
POSTED = ("posting_id", "kind", "status", "reason", "amount", "balance", "spend", "effects")
REFUNDED = ("refund_id", "status", "reason", "amount", "balance", "spend", "effects")
AT = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)

Row = tuple[Any, ...]


def at(text: str, day: int = 15) -> datetime:
    """`10:30:15`, of 15 January 2024, UTC."""
    return datetime.fromisoformat(f"2024-01-{day:02}T{text}+00:00")


def deposit(number: object, amount: object, account: str = "A", when: datetime = AT) -> Row:
    return (f"payment:{number}", "DEPOSIT", account, None, when, Decimal(str(amount)), None)


def click(number: object, price: object, account: str = "A", campaign: str | None = "c", when: datetime = AT) -> Row:
    return (f"click:{number}", "CHARGE", account, campaign, when, Decimal(str(price)), None)


def terms(
    number: object,
    budget: object,
    account: str = "A",
    campaign: str = "c",
    when: datetime = AT - timedelta(hours=1),
    status: str | None = None,
) -> Row:
    asked = None if budget is None else Decimal(str(budget))
    return (f"campaign:{number}", "CAMPAIGN", account, campaign, when, asked, status)


def resume(number: object, when: datetime, account: str = "A", campaign: str = "c", day: str | None = None) -> Row:
    """`day`: the one that is over by then."""
    return (f"resume:{number}", "RESUME", account, campaign, when, None, day)


def refund(number: object, of: object, amount: object, account: str = "A", when: datetime = AT) -> Row:
    return (f"{number}", f"click:{of}", account, "c", when, Decimal(str(amount)))


class Ledger:
    def __init__(self, url: str) -> None:
        self.url = url
        migrate(url, "ads_ledger", MIGRATIONS)
        self._post = SqlFunction(url, "ads_ledger.post", POST, POSTED, ROLE)
        self._refund = SqlFunction(url, "ads_ledger.refund", REFUND, REFUNDED, ROLE)
        self.link = psycopg.connect(url, autocommit=True, row_factory=dict_row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.link.close()

    def close(self) -> None:
        """Ends the sessions of what decides; the next batch begins others."""
        self._post.close()
        self._refund.close()

    def post(self, *rows: Row) -> list[dict[str, Any]]:
        """One batch."""
        answers = self._post({name: [row[i] for row in rows] for i, name in enumerate(POST)})
        return [dict(zip(POSTED, answer, strict=True)) for answer in answers]

    def refund(self, *rows: Row) -> list[dict[str, Any]]:
        """One batch."""
        answers = self._refund({name: [row[i] for row in rows] for i, name in enumerate(REFUND)})
        return [dict(zip(REFUNDED, answer, strict=True)) for answer in answers]

    def query(self, text: str, *values: object) -> list[dict[str, Any]]:
        return self.link.execute(text, values or None).fetchall()

    def value(self, text: str, *values: object) -> Any:
        [row] = self.query(text, *values)
        return next(iter(row.values()))

    def balance(self, advertiser: str = "A") -> int:
        return self.value("SELECT available FROM ads_ledger.advertiser WHERE advertiser_id = %s", advertiser)

    def effects(self, kind: str) -> list[dict[str, Any]]:
        """All that were recorded, in the order of the decisions."""
        rows = self.query("SELECT effects FROM ads_ledger.posting WHERE effects IS NOT NULL ORDER BY seq")
        return [effect for row in rows for effect in row["effects"] if effect["effect"] == kind]

    def check(self) -> None:
        """F15-F17, by SQL that shares nothing with the functions that decide."""
        for name, text in INVARIANTS.items():
            assert self.query(text) == [], name
        told: dict[tuple[str, str], list[str]] = {}
        for row in self.query("SELECT advertiser_id, effects FROM ads_ledger.posting ORDER BY seq"):
            for effect in row["effects"] or []:
                if effect["effect"] == "STATUS":
                    told.setdefault((row["advertiser_id"], effect["campaign_id"]), []).append(effect["status"])
        for campaign, states in told.items():
            expected = ["PAUSED" if i % 2 == 0 else "ACTIVE" for i in range(len(states))]
            assert states == expected, campaign


INVARIANTS = {
    "debits are credits, posting by posting": """
        SELECT posting_seq FROM ads_ledger.entry GROUP BY 1 HAVING sum(debit) <> sum(credit)""",
    "available is the sum of the entries": """
        SELECT a.advertiser_id FROM ads_ledger.advertiser a
        WHERE a.available <> coalesce((SELECT sum(credit) - sum(debit) FROM ads_ledger.entry
            WHERE account = 'adv:' || a.advertiser_id || ':available'), 0) OR a.available < 0""",
    "no balance was ever negative": """
        SELECT * FROM (
            SELECT account, sum(credit - debit) OVER (PARTITION BY account ORDER BY posting_seq, line) AS balance
            FROM ads_ledger.entry WHERE account LIKE 'adv:%:available') b WHERE balance < 0""",
    "the recorded balance is that of the entries": """
        SELECT id FROM (
            SELECT p.id, p.balance, sum(coalesce(e.credit - e.debit, 0))
                OVER (PARTITION BY p.advertiser_id ORDER BY p.seq) AS summed
            FROM ads_ledger.posting p LEFT JOIN ads_ledger.entry e
                ON e.posting_seq = p.seq AND e.account = 'adv:' || p.advertiser_id || ':available') b
        WHERE balance <> summed""",
    "refunds are within their charge": """
        SELECT r.ref FROM ads_ledger.posting r LEFT JOIN ads_ledger.posting c ON c.id = r.ref
        WHERE r.kind = 'REFUND' GROUP BY r.ref, c.amount HAVING sum(r.amount) > coalesce(c.amount, 0)""",
    "the spend of a day is its charges without their refunds": """
        SELECT * FROM ads_ledger.campaign_day d WHERE d.spend <> coalesce((
            SELECT sum(CASE kind WHEN 'CHARGE' THEN amount ELSE -amount END) FROM ads_ledger.posting p
            WHERE (p.advertiser_id, coalesce(p.campaign_id, ''), p.day) = (d.advertiser_id, d.campaign_id, d.day)
                AND p.kind IN ('CHARGE', 'REFUND')), 0)""",
    "each charge kept within the budget in force": """
        SELECT id FROM (
            SELECT p.*, sum(CASE kind WHEN 'CHARGE' THEN amount ELSE -amount END)
                OVER (PARTITION BY advertiser_id, campaign_id, day ORDER BY seq) AS summed
            FROM ads_ledger.posting p WHERE kind IN ('CHARGE', 'REFUND')) p
        WHERE kind = 'CHARGE' AND amount > 0 AND summed > budget""",
}


def names(rows: Iterable[dict[str, Any]], *columns: str) -> Sequence[tuple[Any, ...]]:
    return [tuple(row[column] for column in columns) for row in rows]
