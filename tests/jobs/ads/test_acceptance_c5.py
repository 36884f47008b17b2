"""The acceptance values of the ledger (C5), each a test, on a real Postgres."""

import random
from collections.abc import Callable
from decimal import Decimal

import psycopg
import pytest

from adstream.jobs.ads.ledger import ledger as job
from adstream.testing import TopologyTestDriver
from tests.jobs.ads.money import AT, Ledger, click, deposit, names
from tests.unit.jobs.examples import CAMPAIGN_EVENT

pytestmark = pytest.mark.servers

FIVE = [deposit(1, 5000), *(click(n, 1200) for n in range(1, 6))]


def test_four_clicks_are_charged_the_fifth_is_not(ledger: Ledger) -> None:
    answers = ledger.post(*FIVE)
    assert names(answers, "status", "reason", "amount", "balance") == [
        ("POSTED", None, 5000, 5000),
        ("POSTED", None, 1200, 3800),
        ("POSTED", None, 1200, 2600),
        ("POSTED", None, 1200, 1400),
        ("POSTED", None, 1200, 200),
        ("UNBILLED", "NO_BALANCE", 0, 200),
    ]
    assert ledger.balance() == 200
    [paused] = ledger.effects("STATUS")
    assert (paused["status"], paused["reason"], paused["campaign_id"]) == ("PAUSED", "BALANCE", "c")
    ledger.post(click(6, 1200))
    assert len(ledger.effects("STATUS")) == 1  # paused once
    ledger.check()


@pytest.mark.parametrize("seed", range(5))
def test_delivered_one_to_five_times_and_shuffled(ledger: Ledger, seed: int) -> None:
    chance = random.Random(seed)
    ledger.post(FIVE[0])
    rows = [row for row in FIVE[1:] for _ in range(chance.randint(1, 5))]
    chance.shuffle(rows)
    while rows:
        some, rows = rows[: chance.randint(2, 4)], rows[2:]  # batches overlap: what was asked is asked again
        ledger.post(*some)
    assert ledger.balance() == 200
    assert ledger.value("SELECT count(*) FROM ads_ledger.posting WHERE kind = 'CHARGE' AND amount = 1200") == 4
    assert ledger.value("SELECT count(*) FROM ads_ledger.posting WHERE status = 'UNBILLED'") == 1
    assert len(ledger.effects("STATUS")) == 1
    ledger.check()


def test_asked_again_the_recorded_decision_is_the_answer(ledger: Ledger) -> None:
    first = ledger.post(*FIVE)
    ledger.post(deposit(2, 10_000))
    assert ledger.post(*reversed(FIVE)) == first[::-1]


def test_another_price_under_the_same_id_is_a_conflict(ledger: Ledger) -> None:
    ledger.post(*FIVE)
    for again in (click(1, 1300), click(1, 1200, account="B"), click(1, 1200, campaign="d")):
        [answer] = ledger.post(again)
        assert answer["status"] == "IDEMPOTENCY_CONFLICT"
    one, other = ledger.post(click(9, 10), click(9, 20))  # both in one batch: the first one counts
    assert (one["status"], other["status"]) == ("POSTED", "IDEMPOTENCY_CONFLICT")
    assert ledger.balance() == 190
    assert ledger.value("SELECT count(*) FROM ads_ledger.conflict") == 4
    ledger.check()


def test_a_price_of_zero_is_a_zero_entry(ledger: Ledger) -> None:
    [answer] = ledger.post(click(1, 0))
    assert (answer["status"], answer["amount"]) == ("POSTED", 0)
    assert ledger.value("SELECT count(*) FROM ads_ledger.entry WHERE debit = 0 AND credit = 0") == 2
    ledger.check()


def event(number: int, price: object, **more: object) -> dict[str, object]:
    return {
        "event_id": f"e{number}",
        "timestamp": "2024-01-15T10:30:15Z",
        "advertiser_id": "A",
        "campaign_id": "c",
        "actual_price": price,
        **more,
    }


PAID = {"payment_id": "p1", "timestamp": "2024-01-15T10:00:00Z", "advertiser_id": "A", "amount": 5000}


def started(ledger: Ledger, **options: object) -> TopologyTestDriver:
    return TopologyTestDriver(job, connections={"ledger": ledger.url}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("price", [-1, None, 10**13, "NaN", "0.001", "0.5"])
def test_a_wrong_price_is_a_dead_letter(ledger: Ledger, price: object) -> None:
    with started(ledger, partitions=2) as driver:
        driver.input("ad-payments").pipe(PAID)
        driver.input("ad-clicks").pipe(event(1, price))
        driver.input("ad-clicks").pipe(event(2, "1200.00"))
        booked = {r.value["posting_id"]: r.value["status"] for r in driver.output("ad-ledger").read()}
        assert booked == {"payment:p1": "POSTED", "click:e2": "POSTED"}
        dead = driver.dead_letters("ad-clicks")
        if price == "0.5":  # a won has no fractions: Postgres refuses it, behind the shuffle
            assert driver.counters()["post"] == {"dead:callable_raised": 1}
        else:
            assert [d.reason for d in dead] == ["bad_price" if price in (-1, None) else "bad_field:actual_price"]
    ledger.check()


CHANGED = {
    "event_type": "CAMPAIGN_UPDATED",
    "timestamp": "2024-01-15T10:00:00Z",
    "campaign_id": "c",
    "advertiser_id": "A",
    "daily_budget": 1,
    "status": "ACTIVE",
}


@pytest.mark.parametrize(
    ("topic", "record", "reason"),
    [
        ("ad-clicks", event(1, 1200, event_id=""), "no_id"),
        ("ad-clicks", event(1, 1200, advertiser_id=""), "no_id"),
        ("ad-clicks", event(1, 1200, event_id="e" * 400), "id_too_long"),
        ("ad-clicks", event(1, 1200, event_id="e\0"), "callable_raised"),
        ("ad-payments", PAID | {"payment_id": ""}, "no_id"),
        ("ad-payments", PAID | {"payment_id": "p" * 400}, "id_too_long"),
        ("ad-payments", PAID | {"amount": 0}, "bad_amount"),
        ("ad-payments", PAID | {"timestamp": 1705314615}, "bad_field:timestamp"),
        ("ad-payments", PAID | {"timestamp": "2024-01-17T10:00:00Z"}, "ahead_of_clock"),
        ("campaign-events", CHANGED | {"event_type": "CAMPAIGN_CREATE"}, "bad_field:event_type"),
        ("campaign-events", CHANGED | {"status": "paused"}, "bad_field:status"),
        ("campaign-events", CHANGED | {"campaign_id": ""}, "no_id"),
        ("campaign-events", CHANGED | {"event_id": "e" * 400}, "id_too_long"),
        ("campaign-events", CHANGED | {"daily_budget": -1}, "bad_budget"),
        ("campaign-events", CHANGED | {"timestamp": "2024-01-17T10:00:00Z"}, "ahead_of_clock"),
    ],
)
def test_a_bad_record_holds_nobody_up(ledger: Ledger, topic: str, record: dict[str, object], reason: str) -> None:
    with started(ledger, partitions=1) as driver:
        driver.input("ad-payments").pipe(PAID | {"payment_id": "p0"})
        driver.input(topic).pipe(record, at="2024-01-15T10:30:15Z")
        for number in (2, 3):
            driver.input("ad-clicks").pipe(event(number, 1200, campaign_id="c" if number == 2 else None))
        booked = [(r.value["posting_id"], r.value["status"]) for r in driver.output("ad-ledger").read()]
        assert sorted(booked) == [("click:e2", "POSTED"), ("click:e3", "POSTED"), ("payment:p0", "POSTED")]
        assert [d.reason for d in driver.dead_letters(topic)] == [reason]
    ledger.check()


def test_the_examples_are_accepted(ledger: Ledger) -> None:
    with started(ledger, partitions=2) as driver:
        driver.input("campaign-events").pipe(CAMPAIGN_EVENT)
        driver.run()
        assert driver.dead_letters("campaign-events") == []
    [campaign] = ledger.query("SELECT campaign_id, daily_budget, status FROM ads_ledger.campaign")
    assert campaign == {"campaign_id": "campaign_100", "daily_budget": 100_000, "status": "ACTIVE"}


def test_a_pause_for_somebody_elses_reason_is_heeded(ledger: Ledger) -> None:
    with started(ledger, partitions=1) as driver:
        driver.input("ad-payments").pipe(PAID)
        driver.input("campaign-events").pipe(CHANGED | {"status": "PAUSED", "reason": "FRAUD", "daily_budget": None})
        driver.input("ad-clicks").pipe(event(1, 1200))
        told = {r.value["posting_id"]: r.value["reason"] for r in driver.output("ad-ledger").read()}
    assert told["click:e1"] == "NOT_ACTIVE"


def test_a_campaign_is_active_again_when_the_next_day_begins(ledger: Ledger) -> None:
    """C6: without a click, which nobody could make: it is not shown. A worker that was away at midnight makes up for it."""
    with started(ledger, partitions=2, wall_clock="2024-01-15T11:00:00Z") as driver:
        driver.input("ad-payments").pipe(PAID)
        driver.input("campaign-events").pipe(CHANGED | {"daily_budget": 1200})
        told = driver.output("campaign-events")
        assert len(told.read()) == 1  # that one
        driver.input("ad-clicks").pipe(event(1, 1200))
        assert [(r.value["status"], r.value["reason"]) for r in told.read()] == [("PAUSED", "BUDGET")]
        driver.advance_wall_clock("3h")
        driver.restart()
        driver.advance_wall_clock("59m")
        assert told.read() == []
        driver.restart()
        driver.advance_wall_clock("5m")  # past 15:00 UTC, midnight in Seoul
        [active] = told.read()
        assert (active.value["status"], active.value["reason"], active.value["timestamp"]) == (
            "ACTIVE",
            "BUDGET",
            "2024-01-15T15:00:00.000Z",
        )
        assert [r.value["posting_id"] for r in driver.output("ad-ledger").read()][-1].startswith("resume:click:e1/")
        driver.advance_wall_clock("2d")
        assert told.read() == []
    ledger.check()


def test_a_click_without_a_campaign_pauses_none(ledger: Ledger) -> None:
    with started(ledger, partitions=1) as driver:
        driver.input("ad-clicks").pipe(event(1, 1200, campaign_id=None))
        assert [r.value["reason"] for r in driver.output("ad-ledger").read()] == ["NO_BALANCE"]
        assert driver.output("campaign-events").read() == []


@pytest.mark.parametrize("step", ["process", "close", "produce", "before-commit", "after-commit"])
@pytest.mark.parametrize("commits", [0, 1, 2])
def test_a_crash_shows_nowhere(ledger: Ledger, step: str, commits: int) -> None:
    with started(ledger, partitions=3, batch_rows=2) as driver:
        driver.input("ad-payments").pipe(PAID)
        driver.run()
        driver.crash_at(step, commits=commits)  # type: ignore[arg-type]
        for number in (1, 2, 3, 2, 4, 5, 1, 5):
            driver.input("ad-clicks").pipe(event(number, 1200), key=str(number))
        told = [
            (r.value["posting_id"], r.value["status"], Decimal(r.value["amount"]))
            for r in driver.output("ad-ledger").read()
        ]
        assert len({id for id, *_ in told}) == len(told) == 6
        assert sorted(s for _, s, _ in told) == ["POSTED"] * 5 + ["UNBILLED"]
        paused = [
            (r.value["campaign_id"], r.value["status"], r.value["reason"])
            for r in driver.output("campaign-events").read()
        ]
        assert paused == [("c", "PAUSED", "BALANCE")]
    recorded = ledger.query("SELECT id, status, amount FROM ads_ledger.posting")
    assert {(r["id"], r["status"], Decimal(r["amount"])) for r in recorded} == set(told)
    assert ledger.balance() == 200
    ledger.check()


def test_a_conflict_is_an_alert_and_no_posting(ledger: Ledger) -> None:
    with started(ledger, partitions=1) as driver:
        driver.input("ad-payments").pipe(PAID)
        driver.input("ad-clicks").pipe(event(1, 1200))
        driver.input("ad-clicks").pipe(event(1, 1300))
        [alert] = driver.output("ad-ledger-alerts").read()
        assert (alert.value["alert"], alert.value["posting_id"]) == ("IDEMPOTENCY_CONFLICT", "click:e1")
        assert [r.value["posting_id"] for r in driver.output("ad-ledger").read()] == ["payment:p1", "click:e1"]
    assert ledger.balance() == 3800


def test_rebuilt_from_the_log_of_postings_it_is_what_lives(ledger: Ledger) -> None:
    ledger.post(*FIVE, deposit(7, 900, "B"), click(8, 300, "B"))
    rebuilt = ledger.query(
        "SELECT split_part(account, ':', 2) AS of, sum(credit) - sum(debit) AS sum FROM ads_ledger.entry"
        " WHERE account LIKE 'adv:%:available' GROUP BY 1 ORDER BY 1"
    )
    live = ledger.query("SELECT advertiser_id AS of, available AS sum FROM ads_ledger.advertiser ORDER BY 1")
    assert rebuilt == live
    total = ledger.query("SELECT sum(debit) AS d, sum(credit) AS c FROM ads_ledger.entry")[0]
    assert total["d"] == total["c"]


# What the database itself refuses the application's own role, whatever the code does.

DIRECT = """
    WITH p AS (
        INSERT INTO posting (id, hash, kind, advertiser_id, campaign_id, ref, at, day, status, requested, amount, balance)
        VALUES (%(id)s, gen_random_uuid(), %(kind)s, 'A', 'c', %(ref)s, now(), '2024-01-15', 'POSTED', %(amount)s, %(amount)s, 0)
        RETURNING seq)
    INSERT INTO entry SELECT p.seq, l.* FROM p, (VALUES {lines}) l
"""
REVENUE = "(1::smallint, 'adv:A:available', {0}::bigint, 0::bigint), (2::smallint, 'platform:revenue', 0, {1}::bigint)"


@pytest.mark.parametrize("table", ["posting", "entry", "parked", "conflict"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {} CASCADE", "UPDATE {} SET {column} = {column}"])
def test_nothing_is_updated_or_deleted(ledger: Ledger, app: psycopg.Connection, table: str, statement: str) -> None:
    ledger.post(*FIVE)
    column = "account" if table == "entry" else "id"
    text = statement.format(table, column=column)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute(text)
    ledger.link.execute("SET search_path = ads_ledger")
    with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):  # nor by the owner
        ledger.link.execute(text)


@pytest.mark.parametrize("table", ["advertiser", "campaign", "campaign_day", "setting"])
def test_sums_cannot_be_written(ledger: Ledger, app: psycopg.Connection, table: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute(f"INSERT INTO {table} DEFAULT VALUES")
    column = "zone" if table in ("advertiser", "setting") else "campaign_id"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute(f"UPDATE {table} SET {column} = 'x'")


def refused(app: psycopg.Connection, constraint: str, **values: object) -> None:
    lines = values.pop("lines")
    given = {"id": "x", "kind": "CHARGE", "ref": None, "amount": 100} | values
    with pytest.raises(psycopg.errors.IntegrityError) as error:
        app.execute(DIRECT.format(lines=lines), given)
    assert error.value.diag.constraint_name == constraint


def test_the_database_takes_a_posting_with_its_entries(ledger: Ledger, app: psycopg.Connection) -> None:
    ledger.post(*FIVE)
    app.execute(
        DIRECT.format(lines=REVENUE.format(100, 100)), {"id": "x", "kind": "CHARGE", "ref": None, "amount": 100}
    )
    assert ledger.balance() == 100


def test_the_database_refuses_what_is_unbalanced(ledger: Ledger, app: psycopg.Connection) -> None:
    ledger.post(*FIVE)
    refused(app, "balanced", lines=REVENUE.format(100, 99))
    refused(app, "entries_of_posting", lines=REVENUE.format(99, 99))
    refused(app, "entries_of_posting", lines=REVENUE.format(100, 100).replace("adv:A", "adv:B"))
    refused(app, "one_side", lines="(1::smallint, 'adv:A:available', 100::bigint, 100::bigint)")


def test_the_database_refuses_duplicates(ledger: Ledger, app: psycopg.Connection) -> None:
    ledger.post(*FIVE)
    refused(app, "posting_pkey", id="click:1", lines=REVENUE.format(100, 100))
    with pytest.raises(psycopg.errors.UniqueViolation):
        app.execute("INSERT INTO entry SELECT * FROM entry LIMIT 2")


def test_the_database_refuses_an_overdraft(ledger: Ledger, app: psycopg.Connection) -> None:
    ledger.post(*FIVE)
    refused(app, "no_overdraft", amount=201, lines=REVENUE.format(201, 201))
    assert ledger.balance() == 200


@pytest.mark.parametrize(
    "write",
    [
        lambda app: app.execute("INSERT INTO entry VALUES (999, 1, 'adv:A:available', 0, 5), (999, 2, 'platform:cash', 5, 0)"),
        lambda app: app.execute(
            "INSERT INTO posting (id, hash, kind, advertiser_id, at, day, status, requested, amount, balance)"
            " VALUES ('y', gen_random_uuid(), 'DEPOSIT', 'A', now(), '2024-01-15', 'POSTED', 5, 5, 0)"
        ),
    ],
)  # fmt: skip
def test_the_database_refuses_half_of_it(
    ledger: Ledger, app: psycopg.Connection, write: Callable[[psycopg.Connection], object]
) -> None:
    ledger.post(*FIVE)
    with pytest.raises(psycopg.errors.CheckViolation):
        write(app)
    ledger.check()


def test_the_database_refuses_a_refund_of_more_than_the_charge(ledger: Ledger, app: psycopg.Connection) -> None:
    ledger.post(*FIVE)
    lines = (
        "(1::smallint, 'platform:revenue', {0}::bigint, 0::bigint), (2::smallint, 'adv:A:refunded', 0, {0}),"
        "(3::smallint, 'adv:A:refunded', {0}, 0), (4::smallint, 'adv:A:available', 0, {0})"
    )
    refused(app, "refund_within_charge", kind="REFUND", ref="click:1", amount=1201, lines=lines.format(1201))
    refused(app, "refund_within_charge", kind="REFUND", ref="click:none", amount=1, lines=lines.format(1))
    app.execute(
        DIRECT.format(lines=lines.format(1200)), {"id": "r", "kind": "REFUND", "ref": "click:1", "amount": 1200}
    )
    refused(app, "refund_within_charge", kind="REFUND", ref="click:1", amount=1, lines=lines.format(1))
    assert ledger.balance() == 1400


def test_a_ledger_keeps_its_currency(ledger: Ledger) -> None:
    ledger.link.execute("UPDATE ads_ledger.setting SET currency = 'USD', exponent = 2, zone = 'America/New_York'")
    ledger.post(deposit(1, "10.00"), click(1, "0.07"))
    assert ledger.balance() == 993
    with pytest.raises(psycopg.errors.RestrictViolation, match="keeps its currency"):
        ledger.link.execute("UPDATE ads_ledger.setting SET exponent = 0")


def test_the_day_is_that_of_the_advertisers_zone(ledger: Ledger) -> None:
    ledger.post(click(1, 0, when=AT.replace(hour=14, minute=59)), click(2, 0, when=AT.replace(hour=15, minute=0)))
    days = ledger.query("SELECT day::text FROM ads_ledger.posting ORDER BY id")
    assert [r["day"] for r in days] == ["2024-01-15", "2024-01-16"]
