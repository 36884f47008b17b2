"""What a batch costs the ledger does not grow with what is booked, although plans are made while the tables are empty."""

import time

import pytest

from tests.jobs.ads.money import Ledger, click, deposit, refund, terms

pytestmark = pytest.mark.servers

BATCH, BATCHES = 20, 12
"""More batches than Postgres makes plans for before it keeps one."""
ACCOUNTS = ("A", "A", "A", "poor", "capped")


def test_no_batch_reads_all_postings(ledger: Ledger) -> None:
    asked = 4
    ledger.post(deposit(1, 1_000_000), deposit(2, 900, "poor"), deposit(3, 5_000, "capped"), terms(1, 2_000, "capped"))
    for batch in range(BATCHES):
        numbers = range(batch * BATCH, (batch + 1) * BATCH)
        ledger.refund(refund(f"early {batch}", numbers[0], 10))  # waits for its charge
        ledger.post(*(click(n, 100, ACCOUNTS[n % 5]) for n in numbers))
        ledger.refund(*(refund(f"r {n}", n, 10, ACCOUNTS[n % 5]) for n in numbers[1:]))
        asked += 2 * BATCH
    ledger.close()  # a session says what it has done when it ends
    until = time.monotonic() + 30
    while True:
        found = ledger.query("SELECT n_tup_ins, seq_tup_read FROM pg_stat_user_tables WHERE relname = 'posting'")
        if found[0]["n_tup_ins"] >= asked or time.monotonic() > until:
            break
        time.sleep(0.1)
    assert found == [{"n_tup_ins": asked, "seq_tup_read": 0}]
    ledger.check()
    assert ledger.value("SELECT count(*) FROM ads_ledger.posting WHERE status = 'UNBILLED'") > 0
