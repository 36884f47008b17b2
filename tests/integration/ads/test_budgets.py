"""`ads.budget` with a real Redis, `Budgets` reading it, and what C6 says of in-flight spend and pacing."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from adstream.jobs.ads import Budgets, Standing
from adstream.jobs.ads.budgets import LEAST
from adstream.logs.kafka import KafkaLog
from tests.integration.ads.test_golden import send
from tests.servers import Kafka, Redis
from tests.unit.cli.support import call

TODAY = date(2024, 1, 15)


def standing(spend: object, budget: object = 100_000) -> Standing:
    return Standing(TODAY, Decimal(str(spend)), None if budget is None else Decimal(str(budget)))


@pytest.mark.servers
def test_how_a_budget_stands_is_read_from_redis(tmp_path: Path, redis_server: Redis) -> None:
    def charge(number: int, campaign: str, day: date, amount: str, budget: str | None) -> dict[str, Any]:
        told = {"posting_id": f"click:{number}", "kind": "CHARGE", "status": "POSTED", "campaign_id": campaign}
        return told | {"timestamp": f"{day}T03:00:00Z", "day": str(day), "amount": amount, "budget": budget}

    yesterday, tomorrow = date(2024, 1, 14), date(2024, 1, 16)
    ledger = [
        charge(1, "c", yesterday, "100000", "100000"),
        charge(2, "c", TODAY, "97200", "100000"),
        charge(3, "rests", yesterday, "100000", "100000"),
        charge(4, "50%:off", TODAY, "1200.5", None),
    ]
    refund = {"refund_id": "r", "timestamp": f"{TODAY}T03:00:00Z", "status": "APPLIED", "campaign_id": "c"}
    refund |= {"day": str(TODAY), "amount": "2400"}
    options = []
    for topic, records in {"ad-ledger": ledger, "refund-applied": [refund]}.items():
        (tmp_path / topic).write_text("".join(json.dumps(record) + "\n" for record in records))
        options += ["--input", f"{topic}={tmp_path / topic}"]
    url = redis_server.url(5)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        code, _, err = call("run", "ads.budget", *options, "--redis", url, "--stop-at-end", cwd=tmp_path)
        assert code == 0, err
        budgets = Budgets(client)
        assert budgets.of("c", TODAY) == standing("94800")
        assert budgets.of("c", TODAY).remaining == 5200
        assert budgets.of("rests", TODAY) == standing(0)  # what is shown is of the day before
        assert budgets.of("50%:off", TODAY) == standing("1200.5", None)
        assert budgets.of("unknown", TODAY) == standing(0, None)
        assert budgets.of("c", tomorrow) == Standing(tomorrow, Decimal(0), Decimal(100_000))
        assert budgets.of("c", yesterday).day == TODAY
    with redis.Redis.from_url(url, decode_responses=True) as client:
        assert Budgets(client).of("c", TODAY) == standing("94800")


def test_40_per_cent_spent_of_30_forecast_lets_a_tenth_less_through() -> None:
    assert standing(40_000).paced(0.5, 0.3) == pytest.approx(0.45, abs=1e-12)


def test_20_per_cent_spent_of_30_forecast_lets_a_tenth_more_through() -> None:
    assert standing(20_000).paced(0.5, 0.3) == pytest.approx(0.55, abs=1e-12)


def test_as_much_spent_as_forecast_is_not_too_much() -> None:
    assert standing(30_000).paced(0.5, 0.3) > 0.5
    assert standing("30000.01").paced(0.5, 0.3) < 0.5


def test_a_budget_of_nothing_and_no_budget() -> None:
    assert standing(0, 0).stops()
    assert standing(1, 0).paced(0.5, 0.3) < 0.5
    assert not standing(10**12, None).stops(10**12)
    assert standing(10**12, None).remaining is None
    assert standing(10**12, None).paced(0.5, 0.3) == 1


def test_it_stops_when_what_is_spent_and_in_flight_come_to_the_budget() -> None:
    assert not standing(99_600).stops()
    assert not standing(99_600).stops(Decimal("399.99"))
    assert standing(99_600).stops(Decimal(400))
    assert standing(100_001).stops()


@given(
    spend=st.decimals(-1000, 10**12, places=2),
    budget=st.none() | st.decimals(0, 10**12, places=2),
    share=st.floats(0, 1),
    forecast=st.floats(0, 1),
)
def test_a_share_is_always_a_share(spend: Decimal, budget: Decimal | None, share: float, forecast: float) -> None:
    found = Standing(TODAY, spend, budget).paced(share, forecast)
    assert LEAST <= found <= 1


@pytest.mark.parametrize(("share", "forecast"), [(50, 0.3), (0.5, 30), (-0.1, 0.3), (0.5, float("nan"))])
def test_per_cent_are_refused(share: float, forecast: float) -> None:
    with pytest.raises(ValueError, match=r"hand in a fraction, 0 to 1"):
        standing(1).paced(share, forecast)


def test_what_is_in_flight_is_not_negative() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        standing(1).stops(-1)
    with pytest.raises(ValueError, match="at least 0"):
        standing(1).stops(Decimal("-0.01"))


@pytest.mark.servers
@pytest.mark.timeout(300)
def test_what_redis_has_lost_is_built_anew_from_the_topics(
    log: KafkaLog, kafka: Kafka, redis_server: Redis, tmp_path: Path
) -> None:
    url = redis_server.url(6)
    where = ["--bootstrap", kafka.bootstrap, "--redis", url]
    assert call("topics", "create", "ads", "--bootstrap", kafka.bootstrap, cwd=tmp_path)[0] == 0
    charges = [
        {
            "posting_id": f"click:{n}",
            "kind": "CHARGE",
            "status": "POSTED",
            "advertiser_id": f"A{n % 2}",
            "campaign_id": f"c{n % 2}",
            "timestamp": f"{TODAY}T03:00:00Z",
            "day": str(TODAY),
            "amount": "1200",
            "budget": "100000",
        }
        for n in range(20)
    ]
    send(log, "ad-ledger", "advertiser_id", *charges)
    refund = {"refund_id": "r", "timestamp": f"{TODAY}T03:00:00Z", "status": "APPLIED", "advertiser_id": "A1"}
    send(log, "refund-applied", "advertiser_id", refund | {"campaign_id": "c1", "day": str(TODAY), "amount": "2400"})
    run = ("run", "ads.budget", *where, "--create-topics", "--stop-at-end")
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        for _ in range(2):
            code, _, err = call(*run, cwd=tmp_path)
            assert code == 0, err
            assert [Budgets(client).of(c, TODAY) for c in ("c0", "c1")] == [standing(12_000), standing(9_600)]
            client.flushdb()
            code, _, err = call("reset", "ads.budget", *where, "--to-earliest", "--yes", cwd=tmp_path)
            assert code == 0, err
