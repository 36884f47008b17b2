"""A short round of the whole platform under fire. More, with the broker killed, too: `make chaos-platform SECONDS=600`."""

import os

import pytest

from adstream.jobs.ads.platform import JOBS
from tests.chaos.ads_platform import run

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.mark.timeout(900)
def test_the_platform_comes_to_the_truth_under_fire() -> None:
    report = run(int(os.environ.get("SEED", "1")), seconds=20.0, rate=300, kills=4, broker=False)
    assert not report.problems, report
    assert not report.differences, report
    assert report.faults["postgres"] == report.faults["redis"] == 1
    assert sum(report.faults[job.name] for job in JOBS) > 0
    # The traffic has everything in it.
    truth = report.truth
    assert truth is not None
    assert {credit.matched_by for credit in truth.credits.values()} == {"device", "session", "user", None}
    assert min(truth.late_clicks, truth.dead_clicks, truth.repeated_clicks, truth.gross.total.late) > 0
    assert len(truth.duplicates) > 50
    assert any(balance.unbilled and balance.available < 500 for balance in truth.balances.values())
    assert any(budget.budget is not None for budget in truth.budgets.values())
