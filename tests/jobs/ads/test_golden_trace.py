"""The golden trace of the ads platform (E4), as far as money goes, to the last digit."""

from typing import Any

import pytest

from tests.jobs.ads.money import Ledger, Row, at, click, deposit, refund

pytestmark = pytest.mark.servers

CLICKS: dict[str, Row] = {
    name: click(name, price, "A50", campaign, at(when))
    for name, when, price, campaign in [
        ("e1", "10:30:15", 1200, "c100"),
        ("e2", "10:30:18", 1200, "c100"),
        ("e3", "10:30:22", 1300, "c100"),
        ("e4", "10:34:59", 1200, "c100"),
        ("e5", "10:35:01", 1200, "c100"),
        ("e6", "10:35:15", 1200, "c100"),
        ("e7", "11:00:00", 900, "c200"),
        ("e8", "11:00:00", 900, "c200"),
        ("e9", "12:30:00", 700, "c300"),
    ]
}
REFUNDS = [refund(f"dup:{of}", of, amount, "A50") for of, amount in (("e2", 1200), ("e3", 1300), ("e5", 1200))]


def booked(ledger: Ledger) -> dict[str, Any]:
    rows = ledger.query("SELECT id, amount FROM ads_ledger.posting WHERE kind IN ('CHARGE', 'REFUND')")
    return {row["id"]: row["amount"] for row in rows}


def test_refunds_before_eleven(ledger: Ledger) -> None:
    ledger.post(deposit("p", 8000, "A50", at("10:00:00")))
    ledger.post(*(CLICKS[f"e{n}"] for n in range(1, 7)))
    assert ledger.balance("A50") == 700
    ledger.refund(*REFUNDS)
    assert ledger.balance("A50") == 4400
    ledger.post(*(CLICKS[f"e{n}"] for n in range(7, 10)))
    assert ledger.balance("A50") == 1900
    money = booked(ledger)
    assert sum(amount for id, amount in money.items() if id.startswith("dup:")) == 3700
    assert sum(amount for id, amount in money.items() if id.startswith("click:")) - 3700 == 6100
    ledger.check()


def test_refunds_after_half_past_twelve(ledger: Ledger) -> None:
    ledger.post(deposit("p", 8000, "A50", at("10:00:00")))
    answers = ledger.post(*CLICKS.values())
    assert [a["status"] for a in answers[6:]] == ["UNBILLED", "UNBILLED", "POSTED"]
    assert ledger.balance("A50") == 0
    ledger.refund(*REFUNDS)
    assert ledger.balance("A50") == 3700
    ledger.check()
