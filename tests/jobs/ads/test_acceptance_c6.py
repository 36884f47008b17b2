"""The acceptance values of the budget (C6) that the ledger decides, each a test, on a real Postgres."""

from datetime import datetime, timedelta
from itertools import chain
from typing import Any

import pytest

from tests.jobs.ads.money import AT, Ledger, at, click, deposit, names, refund, resume, terms

pytestmark = pytest.mark.servers


@pytest.fixture
def funded(ledger: Ledger) -> Ledger:
    ledger.post(deposit(1, 10_000_000), terms(1, 100_000))
    return ledger


def statuses(ledger: Ledger) -> list[tuple[Any, ...]]:
    return [(e["status"], e["reason"]) for e in ledger.effects("STATUS")]


def spend(ledger: Ledger, day: str = "2024-01-15") -> int:
    return ledger.value("SELECT spend FROM ads_ledger.campaign_day WHERE day = %s", day)


@pytest.mark.parametrize("batch", [1, 10, 200])
def test_83_clicks_are_charged_the_84th_is_not(funded: Ledger, batch: int) -> None:
    clicks = [click(n, 1200) for n in range(1, 91)]
    answers = [a for i in range(0, 90, batch) for a in funded.post(*clicks[i : i + batch])]
    assert [a["status"] for a in answers] == ["POSTED"] * 83 + ["UNBILLED"] * 7
    assert answers[83]["reason"] == "OVER_BUDGET"
    assert spend(funded) == 99_600
    assert statuses(funded) == [("PAUSED", "BUDGET")]
    alerts = funded.query("SELECT id, effects FROM ads_ledger.posting WHERE effects IS NOT NULL ORDER BY seq")
    told = [(r["id"], e["threshold"], e["spend"]) for r in alerts for e in r["effects"] if e["effect"] == "ALERT"]
    assert told == [("click:42", 50, 50_400), ("click:67", 80, 80_400)]
    funded.check()


def test_a_refund_makes_it_active_once_and_two_more_clicks_are_billed(funded: Ledger) -> None:
    funded.post(*(click(n, 1200) for n in range(1, 85)))
    funded.refund(refund("r1", 1, 1200), refund("r2", 2, 1200))
    assert spend(funded) == 97_200
    assert statuses(funded) == [("PAUSED", "BUDGET"), ("ACTIVE", "BUDGET")]
    answers = funded.post(*(click(n, 1200) for n in range(101, 104)))
    assert [a["status"] for a in answers] == ["POSTED", "POSTED", "UNBILLED"]
    assert spend(funded) == 99_600
    assert statuses(funded) == [("PAUSED", "BUDGET"), ("ACTIVE", "BUDGET"), ("PAUSED", "BUDGET")]
    assert len(funded.effects("ALERT")) == 2  # each once a day, whatever comes back
    funded.check()


def test_a_late_click_is_of_the_day_in_which_it_happened(funded: Ledger) -> None:
    late = at("14:59:59.999")  # 23:59:59.999 in Seoul
    funded.post(click(1, 1200, when=at("15:00:20")), click(2, 1200, when=late))
    assert (spend(funded, "2024-01-15"), spend(funded, "2024-01-16")) == (1200, 1200)


def test_a_click_that_is_dated_tomorrow_neither_ends_a_pause_nor_hides_one(funded: Ledger) -> None:
    """A device's clock may be wrong by up to a day. By the ledger's own clock it is 15 January, 10:30 UTC."""
    funded._post._opened().execute("SELECT set_config('ads_ledger.now', %s, false)", [AT.isoformat()])
    tomorrow = AT + timedelta(hours=20)
    funded.post(click("ahead", 1200, when=tomorrow))
    funded.post(*(click(n, 1200) for n in range(1, 85)))
    assert statuses(funded) == [("PAUSED", "BUDGET")]
    funded.post(click("ahead2", 1200, when=tomorrow), terms(2, 99_000, when=tomorrow))
    funded.post(click("ahead3", 99_000, when=tomorrow))
    assert statuses(funded) == [("PAUSED", "BUDGET")]
    assert (spend(funded), spend(funded, "2024-01-16")) == (99_600, 2400)
    funded._post._opened().execute("SELECT set_config('ads_ledger.now', %s, false)", [tomorrow.isoformat()])
    [answer] = funded.post(click(85, 1200, when=tomorrow))
    assert answer["status"] == "POSTED"
    assert statuses(funded) == [("PAUSED", "BUDGET"), ("ACTIVE", "BUDGET")]
    funded.check()


def test_a_refund_of_a_click_that_is_dated_tomorrow_ends_no_pause_of_today(funded: Ledger) -> None:
    for asked in (funded._post, funded._refund):
        asked._opened().execute("SELECT set_config('ads_ledger.now', %s, false)", [AT.isoformat()])
    funded.post(click(1, 100_000), click(2, 500, campaign="d", when=AT + timedelta(hours=20)))
    funded.refund(refund("r", 2, 500))
    assert statuses(funded) == [("PAUSED", "BUDGET")]
    funded.check()


def test_a_late_click_over_yesterdays_budget_pauses_nobody(funded: Ledger) -> None:
    answers = funded.post(click(1, 1200, when=at("15:00:20")), click(2, 100_001, when=at("14:59:59")))
    assert names(answers, "status", "reason") == [("POSTED", None), ("UNBILLED", "OVER_BUDGET")]
    assert statuses(funded) == []


def test_delivered_again_nothing_changes(funded: Ledger) -> None:
    clicks = [click(n, 1200) for n in range(1, 86)]
    first = funded.post(*clicks)
    assert funded.post(*clicks) == first
    assert spend(funded) == 99_600
    assert statuses(funded) == [("PAUSED", "BUDGET")]
    funded.check()


def test_a_budget_below_the_spend_pauses_at_once(funded: Ledger) -> None:
    funded.post(*(click(n, 1200) for n in range(1, 11)))
    funded.post(terms(2, 11_000, when=AT + timedelta(minutes=1)))
    assert statuses(funded) == [("PAUSED", "BUDGET")]
    [answer] = funded.post(click(11, 1))
    assert answer["reason"] == "OVER_BUDGET"
    funded.post(terms(3, 20_000, when=AT + timedelta(minutes=2)))
    assert statuses(funded) == [("PAUSED", "BUDGET"), ("ACTIVE", "BUDGET")]
    funded.check()


@pytest.mark.parametrize("together", [False, True])
def test_a_lowered_budget_of_which_so_much_is_spent_is_told(funded: Ledger, together: bool) -> None:
    """Of one that is below the spend no click tells: it is paused."""
    steps = [[*(click(n, 1200) for n in range(1, 51))], [terms(2, 70_000, when=AT + timedelta(minutes=1))]]
    steps += [[click(51, 100)], [terms(3, 60_000, when=AT + timedelta(minutes=2)), click(52, 100)]]
    for batch in [list(chain(*steps))] if together else steps:
        funded.post(*batch)
    told = [(e["threshold"], e["spend"], e["budget"]) for e in funded.effects("ALERT")]
    assert told == [(50, 50_400, 100_000), (80, 60_000, 70_000), (100, 60_100, 60_000)]
    assert statuses(funded) == [("PAUSED", "BUDGET")]
    funded.check()


def test_a_raised_budget_that_is_too_small_for_the_price_leaves_it_paused(funded: Ledger) -> None:
    funded.post(*(click(n, 1200) for n in range(1, 85)))
    funded.post(terms(2, 100_799, when=AT + timedelta(minutes=1)))
    assert statuses(funded) == [("PAUSED", "BUDGET")]
    funded.post(terms(3, 100_800, when=AT + timedelta(minutes=2)))
    assert statuses(funded) == [("PAUSED", "BUDGET"), ("ACTIVE", "BUDGET")]
    [answer] = funded.post(click(85, 1200))
    assert answer["status"] == "POSTED"
    assert statuses(funded)[-1] == ("PAUSED", "BUDGET")  # spend is budget
    assert [e["threshold"] for e in funded.effects("ALERT")] == [50, 80, 100]
    funded.check()


def test_older_terms_that_come_later_do_not_count(funded: Ledger) -> None:
    funded.post(terms(2, 5_000, when=AT - timedelta(hours=2)))
    assert funded.value("SELECT daily_budget FROM ads_ledger.campaign") == 100_000
    funded.post(terms("0", 7_000, when=AT - timedelta(hours=1)))  # as new as the newest: the id decides
    assert funded.value("SELECT daily_budget FROM ads_ledger.campaign") == 100_000
    funded.post(terms("2b", 7_000, when=AT - timedelta(hours=1)))
    assert funded.value("SELECT daily_budget FROM ads_ledger.campaign") == 7_000


def test_the_next_day_it_is_active_again(funded: Ledger) -> None:
    funded.post(*(click(n, 1200) for n in range(1, 85)))
    [answer] = funded.post(click(85, 1200, when=at("15:00:00")))
    assert answer["status"] == "POSTED"
    assert statuses(funded) == [("PAUSED", "BUDGET"), ("ACTIVE", "BUDGET")]
    assert spend(funded, "2024-01-16") == 1200
    funded.check()


def test_a_deposit_makes_it_active_again(ledger: Ledger) -> None:
    ledger.post(deposit(1, 1000), click(1, 1200), deposit(2, 100), deposit(3, 100), click(2, 1200))
    assert statuses(ledger) == [("PAUSED", "BALANCE"), ("ACTIVE", "BALANCE")]
    assert ledger.balance() == 0
    ledger.check()


def test_paused_for_two_reasons_it_is_active_when_both_are_gone(ledger: Ledger) -> None:
    ledger.post(deposit(1, 1000), terms(1, 1000), click(1, 1000), click(2, 10), click(3, 1))
    assert statuses(ledger) == [("PAUSED", "BUDGET")]
    ledger.post(terms(2, 2000, when=AT))
    assert statuses(ledger) == [("PAUSED", "BUDGET"), ("ACTIVE", "BUDGET")]
    ledger.post(click(4, 10))
    ledger.post(deposit(2, 10))
    assert statuses(ledger)[2:] == [("PAUSED", "BALANCE"), ("ACTIVE", "BALANCE")]
    ledger.check()


def test_clicks_behind_a_pause_of_its_own_are_not_charged(funded: Ledger) -> None:
    funded.post(terms(2, None, when=AT + timedelta(minutes=1), status="PAUSED"))
    answers = funded.post(click(1, 1200, when=AT), click(2, 1200, when=AT + timedelta(minutes=2)))
    assert names(answers, "status", "reason") == [("POSTED", None), ("UNBILLED", "NOT_ACTIVE")]
    funded.post(terms(3, None, when=AT + timedelta(minutes=3), status="ACTIVE"))
    [answer] = funded.post(click(3, 1200, when=AT + timedelta(minutes=4)))
    assert answer["status"] == "POSTED"
    funded.check()


def test_a_paused_campaign_is_looked_at_again_when_its_day_begins(funded: Ledger) -> None:
    """No click comes for it: nobody is shown it. Midnight is the advertiser's."""
    funded.query("UPDATE ads_ledger.advertiser SET zone = 'America/New_York' RETURNING 1")
    funded.post(*(click(n, 50_000) for n in range(1, 4)))
    [again] = funded.effects("RESUME")
    assert again == {"effect": "RESUME", "campaign_id": "c", "day": "2024-01-15", "at": "2024-01-16T05:00:00.000Z"}
    [answer] = funded.post(resume(1, at("05:00:00", 16)))
    assert (answer["kind"], answer["status"], answer["amount"], answer["balance"]) == ("RESUME", "NOTED", 0, 9_900_000)
    assert statuses(funded) == [("PAUSED", "BUDGET"), ("ACTIVE", "BUDGET")]
    funded.post(
        resume(1, at("05:00:00", 16)), resume(2, at("05:00:00", 16))
    )  # redelivered; and one that finds nothing to do
    assert statuses(funded) == [("PAUSED", "BUDGET"), ("ACTIVE", "BUDGET")]
    funded.check()


def test_a_campaign_that_is_paused_for_yesterday_and_has_spent_today_is_paused_until_tomorrow(funded: Ledger) -> None:
    """Another campaign's click began the day; then this one's late click was over yesterday's budget. All in one batch."""
    funded.post(terms(2, 1000, campaign="x"), terms(3, 1000, campaign="y"), click(1, 1000, campaign="x"))
    late, today = at("14:59:59"), at("15:00:10")
    answers = funded.post(
        click(2, 1, when=today), click(3, 1001, campaign="y", when=late), click(4, 1000, campaign="y", when=today)
    )
    assert [a["status"] for a in answers] == ["POSTED", "UNBILLED", "POSTED"]
    assert [(e["day"], e["at"]) for e in funded.effects("RESUME") if e["campaign_id"] == "y"] == [
        ("2024-01-15", "2024-01-15T15:00:00.000Z"), ("2024-01-16", "2024-01-16T15:00:00.000Z"),
    ]  # fmt: skip
    told = [e["status"] for e in funded.effects("STATUS") if e["campaign_id"] == "y"]
    funded.post(resume(1, at("15:00:00"), campaign="y"))
    assert told == [e["status"] for e in funded.effects("STATUS") if e["campaign_id"] == "y"] == ["PAUSED"]
    funded.post(resume(2, at("15:00:00", 16), campaign="y"))
    assert [e["status"] for e in funded.effects("STATUS") if e["campaign_id"] == "y"] == ["PAUSED", "ACTIVE"]
    funded.check()


@pytest.mark.parametrize(
    ("zone", "noon", "begins"),
    [
        ("America/Havana", "2023-11-04T16:00Z", "2023-11-05T04:00:00.000Z"),  # clocks go back to midnight at 1 o'clock
        ("Atlantic/Azores", "2023-10-28T12:00Z", "2023-10-29T00:00:00.000Z"),
        ("Africa/Cairo", "2024-04-25T10:00Z", "2024-04-25T22:00:00.000Z"),  # and forward at midnight: there is none
        ("America/Santiago", "2024-09-07T16:00Z", "2024-09-08T04:00:00.000Z"),
        ("Asia/Kathmandu", "2024-09-07T06:00Z", "2024-09-07T18:15:00.000Z"),
    ],
)
def test_a_day_begins_with_its_first_moment_when_clocks_change(
    funded: Ledger, zone: str, noon: str, begins: str
) -> None:
    funded.query("UPDATE ads_ledger.advertiser SET zone = %s RETURNING 1", zone)
    funded.post(click(1, 100_001, when=datetime.fromisoformat(noon)))
    [again] = funded.effects("RESUME")
    assert again["at"] == begins
    funded.post(resume(1, datetime.fromisoformat(begins)))
    assert statuses(funded) == [("PAUSED", "BUDGET"), ("ACTIVE", "BUDGET")]


def test_a_zone_that_was_changed_meanwhile_keeps_no_campaign_paused(funded: Ledger) -> None:
    """The day that it waited for has not begun in the new zone. Nobody would look at it again, and nobody clicks on it."""
    funded.post(click(1, 100_001))
    funded.query("UPDATE ads_ledger.advertiser SET zone = 'America/New_York' RETURNING 1")
    [again] = funded.effects("RESUME")
    funded.post(resume(1, datetime.fromisoformat(again["at"]), day=again["day"]))
    assert statuses(funded) == [("PAUSED", "BUDGET"), ("ACTIVE", "BUDGET")]
    funded.check()


def test_a_pause_that_was_not_told_is_looked_at_again_too(funded: Ledger) -> None:
    """It was paused for its balance when its budget was spent as well; a deposit is not enough before the day ends."""
    funded.post(click(1, 90_000), click(2, 9_909_000, campaign="other"))
    answers = funded.post(click(3, 5_000), click(4, 20_000))
    assert [a["reason"] for a in answers] == ["NO_BALANCE", "OVER_BUDGET"]
    assert statuses(funded) == [("PAUSED", "BALANCE")]
    assert [e["campaign_id"] for e in funded.effects("RESUME")] == ["c"]
    funded.post(deposit(2, 100_000))
    assert statuses(funded) == [("PAUSED", "BALANCE")]
    funded.post(resume(1, at("15:00:00")))
    assert statuses(funded) == [("PAUSED", "BALANCE"), ("ACTIVE", "BUDGET")]
    funded.check()
