"""The load tool sees what the platform makes of a day. How long it takes is told, not judged: `make load-platform`."""

import pytest

from tests.chaos.ads_load import Phase, run

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.mark.timeout(900)
def test_everything_that_is_sent_is_seen_and_right() -> None:
    phases = [Phase("steady", 10.0, 1.0), Phase("burst", 2.0, 5.0), Phase("after", 3.0, 1.0)]
    report = run(3, 100, phases)
    assert not report.problems, report
    assert report.steady.keys() >= {"clicks", "ledger", "attribution", "net_performance"}
    assert all(lag > 0 for lags in report.steady.values() for lag in lags)
    assert report.burst_max_s.keys() >= {"clicks", "ledger"}
    assert sum(report.cores.values()) > 0
    assert "equal to the truth, audit clean" in str(report)
