"""The acceptance values of the compensation (C7), each a test, on a real Postgres."""

import json
import threading
from datetime import timedelta
from itertools import permutations

import psycopg
import pytest

from adstream.jobs.ads.compensation import compensation
from adstream.jobs.ads.ledger import ledger as ledger_job
from adstream.testing import TopologyTestDriver
from tests.jobs.ads.money import AT, Ledger, click, deposit, names, refund

pytestmark = pytest.mark.servers


def test_two_duplicates_delivered_three_times_are_paid_back_once(ledger: Ledger) -> None:
    ledger.post(deposit(1, 5000), click("e1", 1200), click("e2", 1200), click("e3", 1200))
    for _ in range(3):
        answers = ledger.refund(refund("dup:e2", "e2", 1200), refund("dup:e3", "e3", 1200))
        assert names(answers, "status", "amount") == [("APPLIED", 1200), ("APPLIED", 1200)]
    assert ledger.balance() == 5000 - 3600 + 2400
    ledger.check()


@pytest.mark.parametrize("batches", [True, False])
def test_a_refund_before_its_charge_ends_as_in_the_other_order(ledger: Ledger, batches: bool) -> None:
    ledger.post(deposit(1, 5000), deposit(2, 5000, "B"))
    [answer] = ledger.refund(refund("r", "e1", 1200))
    assert (answer["status"], answer["amount"], ledger.balance()) == ("PARKED", None, 5000)
    [again] = ledger.refund(refund("r", "e1", 1200))
    assert again["status"] == "PARKED"
    [charged] = ledger.post(click("e1", 1200))
    [released] = json.loads(charged["effects"])
    assert (released["effect"], released["refund_id"], released["event_id"]) == ("REFUND", "r", "e1")
    [told] = ledger.refund(refund("r", "e1", 1200))
    assert (told["status"], told["amount"]) == ("APPLIED", 1200)
    ledger.post(click("e2", 1200, "B"))
    ledger.refund(refund("s", "e2", 1200, "B"))
    assert ledger.balance("A") == ledger.balance("B") == 5000
    ledger.check()


def test_a_refund_that_comes_before_all_of_its_advertiser_is_booked_with_its_charge(ledger: Ledger) -> None:
    """It is told as a dead letter, since the advertiser may be a wrong one; it may also be a matter of order."""
    clicked = {"event_id": "e2", "timestamp": "2024-01-15T10:30:15Z", "advertiser_id": "A", "campaign_id": "c"}
    at = {"connections": {"ledger": ledger.url}, "partitions": 1}
    with TopologyTestDriver(ledger_job, **at) as booking, TopologyTestDriver(compensation, **at) as refunding:  # type: ignore[arg-type]
        for _ in range(2):
            refunding.input("compensation-events").pipe(compensated(2, 1200))
        assert [d.reason for d in refunding.dead_letters("compensation-events")] == ["unknown_advertiser"] * 2
        assert ledger.value("SELECT ads_ledger.release('dup:e2', 'ann')") == "PARKED"
        ledger.post(deposit(1, 5000))
        booking.input("ad-clicks").pipe(clicked | {"actual_price": 1200})
        [released] = booking.output("compensation-released").read()
        refunding.input("compensation-released").pipe(released.value)
        [told] = refunding.output("refund-applied").read()
    assert (told.value["refund_id"], told.value["status"], told.value["amount"]) == ("dup:e2", "APPLIED", "1200.00")
    assert ledger.balance() == 5000
    ledger.check()


@pytest.mark.parametrize("first", ["refund", "post", "release"])
def test_a_refund_and_the_first_posting_of_its_advertiser_at_once(ledger: Ledger, first: str) -> None:
    """There is no row to lock yet: neither must miss the other."""
    rows = [deposit(1, 5000), click("e1", 1200)]
    asked = {
        "refund": (ledger._refund._query, list(zip(*[refund("r", "e1", 1200)], strict=True))),
        "post": (ledger._post._query, list(zip(*rows, strict=True))),
        "release": ("SELECT ads_ledger.release('r', 'ann')", []),
    }
    if first == "release":
        ledger.refund(refund("r", "e1", 1200))
    with psycopg.connect(ledger.url) as link:
        link.execute(asked[first][0], [list(column) for column in asked[first][1]])
        other = threading.Thread(
            target=lambda: ledger.refund(refund("r", "e1", 1200)) if first == "post" else ledger.post(*rows)
        )
        other.start()
        other.join(0.3)  # it waits, or it is done
        link.commit()
        other.join()
    assert ledger.query("SELECT * FROM ads_ledger.waiting") == []
    assert ledger.balance() == 5000
    ledger.check()


@pytest.mark.parametrize("paused", [False, True])
def test_a_batch_of_refunds_is_decided_as_one_by_one(ledger: Ledger, paused: bool) -> None:
    """Copies, two of a charge, one that conflicts, one of nothing, one that waits, one of somebody else, all at once."""
    ledger.post(deposit(1, 10_000), deposit(2, 10_000, "B"), click("b", 700, "B"))
    ledger.post(*(click(n, 100 * n) for n in range(7)), click("none", 9_000), *([click("p", 9_000)] if paused else []))
    if not paused:
        ledger.post(deposit(3, 10_000))  # the pause for the click that was not charged is over
    rows = [
        refund("a", 1, 100), refund("a", 1, 100), refund("a", 1, 90), refund("c", 2, 150), refund("d", 2, 150), refund("e", 0, 5),
        refund("f", 3, 999), refund("g", "later", 5), refund("h", "b", 5), refund("i", 4, 0), refund("j", "none", 9),
        refund("k", 6, 600),
    ]  # fmt: skip
    for _ in range(2):
        answers = ledger.refund(*rows)
        assert names(answers, "status", "reason", "amount") == [
            ("APPLIED", None, 100), ("APPLIED", None, 100), ("IDEMPOTENCY_CONFLICT", None, 100), ("APPLIED", None, 150),
            ("APPLIED", None, 50), ("REJECTED", "ALREADY_REFUNDED", 0), ("APPLIED", None, 300), ("PARKED", None, None),
            ("REJECTED", "OTHER_ADVERTISER", 0), ("APPLIED", None, 0), ("REJECTED", "UNBILLED", 0), ("APPLIED", None, 600),
        ]  # fmt: skip
    assert ledger.balance() == 10_000 + (0 if paused else 10_000) - 2100 + 1200
    ledger.check()


def test_a_click_that_comes_twice_in_a_batch_releases_its_refund_once(ledger: Ledger) -> None:
    ledger.post(deposit(1, 5000))
    ledger.refund(refund("r", "e1", 1200))
    ledger.post(click("e1", 1200), click("e1", 1200), click("e1", 1300))
    assert ledger.balance() == 5000
    ledger.check()


def test_of_two_refunds_of_a_click_the_second_is_rejected(ledger: Ledger) -> None:
    ledger.post(deposit(1, 5000), click("e1", 1200))
    answers = ledger.refund(refund("r1", "e1", 1200), refund("r2", "e1", 1200))
    assert names(answers, "status", "reason", "amount") == [
        ("APPLIED", None, 1200),
        ("REJECTED", "ALREADY_REFUNDED", 0),
    ]
    assert ledger.balance() == 5000
    ledger.check()


def test_a_refund_is_at_most_what_is_left(ledger: Ledger) -> None:
    ledger.post(deposit(1, 5000), click("e1", 1200))
    answers = ledger.refund(refund("r1", "e1", 500), refund("r2", "e1", 1200))
    assert names(answers, "status", "amount") == [("APPLIED", 500), ("APPLIED", 700)]
    ledger.check()


def test_a_click_that_was_not_billed_is_not_paid_back(ledger: Ledger) -> None:
    ledger.post(deposit(1, 100), click("e1", 1200))
    [answer] = ledger.refund(refund("r", "e1", 1200))
    assert (answer["status"], answer["reason"], answer["amount"]) == ("REJECTED", "UNBILLED", 0)
    ledger.refund(refund("s", "e2", 1200))
    ledger.post(click("e2", 1200))  # unbilled, too: what was parked for it is worth nothing
    assert ledger.value("SELECT status || ' ' || reason FROM ads_ledger.posting WHERE id = 's'") == "REJECTED UNBILLED"
    assert ledger.balance() == 100
    ledger.check()


def test_somebody_elses_charge_is_not_paid_back(ledger: Ledger) -> None:
    ledger.post(deposit(1, 5000), deposit(2, 5000, "B"), click("e1", 1200))
    [answer] = ledger.refund(refund("r", "e1", 1200, "B"))
    assert (answer["status"], answer["reason"]) == ("REJECTED", "OTHER_ADVERTISER")
    assert (ledger.balance("A"), ledger.balance("B")) == (3800, 5000)
    ledger.check()


def test_another_amount_under_the_same_id_is_a_conflict(ledger: Ledger) -> None:
    ledger.post(deposit(1, 5000), click("e1", 1200))
    for _ in range(2):
        answers = ledger.refund(
            refund("r", "e1", 1000), refund("r", "e1", 1200), refund("p", "e9", 1), refund("p", "e9", 2)
        )
        assert names(answers, "status") == [
            ("APPLIED",), ("IDEMPOTENCY_CONFLICT",), ("PARKED",), ("IDEMPOTENCY_CONFLICT",),
        ]  # fmt: skip
    assert ledger.balance() == 4800
    assert ledger.value("SELECT count(*) FROM ads_ledger.conflict") == 2


def test_after_all_the_balance_is_deposits_less_charges_and_refunds(ledger: Ledger) -> None:
    ledger.post(deposit(1, 3000), click(1, 1200), click(2, 1200), click(3, 1200), deposit(2, 700), click(4, 500))
    ledger.refund(refund("a", 1, 1200), refund("b", 2, 300), refund("c", 3, 1200), refund("d", 9, 40))
    total = ledger.query("SELECT kind, sum(amount)::int AS sum FROM ads_ledger.posting GROUP BY kind")
    by = {row["kind"]: row["sum"] for row in total}
    assert ledger.balance() == by["DEPOSIT"] - by["CHARGE"] + by["REFUND"] == 3700 - 2900 + 1500
    assert by["REFUND"] <= by["CHARGE"]
    ledger.check()


def test_after_24_hours_a_parked_refund_is_left_to_people(ledger: Ledger) -> None:
    ledger.post(deposit(1, 5000))
    clock = "SELECT set_config('ads_ledger.now', %s, false)"
    now = AT
    for link in (ledger.link, ledger._post._opened(), ledger._refund._opened()):
        link.execute(clock, [now.isoformat()])
    ledger.refund(refund("r", "e1", 1200), refund("s", "e2", 1200))
    for hours, state in ((23.99, "WAITING"), (24, "MANUAL")):
        for link in (ledger.link, ledger._post._opened(), ledger._refund._opened()):
            link.execute(clock, [(now + timedelta(hours=hours)).isoformat()])
        assert [row["state"] for row in ledger.query("SELECT state FROM ads_ledger.waiting ORDER BY id")] == [state] * 2
    ledger.post(click("e1", 1200))
    assert ledger.balance() == 3800  # it came too late to be booked by itself
    [answer] = ledger.refund(refund("r", "e1", 1200))
    assert answer["status"] == "MANUAL"
    assert ledger.value("SELECT ads_ledger.release('r', 'ann')") == "BOOKED"
    assert ledger.balance() == 5000
    assert ledger.value("SELECT ads_ledger.release('s', 'ann')") == "PARKED"
    assert ledger.query("SELECT id, state FROM ads_ledger.waiting") == [{"id": "s", "state": "WAITING"}]
    ledger.post(click("e2", 1200))
    assert ledger.balance() == 5000
    assert ledger.value("SELECT ads_ledger.release('s', 'ann')") == "NOT_PARKED"
    ledger.check()


def compensated(number: object, amount: object, **more: object) -> dict[str, object]:
    return {
        "refund_id": f"dup:e{number}",
        "event_id": f"e{number}",
        "timestamp": "2024-01-15T10:30:15Z",
        "advertiser_id": "A",
        "campaign_id": "c",
        "refund_amount": amount,
        **more,
    }


def test_what_cannot_be_booked_is_a_dead_letter(ledger: Ledger) -> None:
    ledger.post(deposit(1, 5000), click("e1", 1200))
    with TopologyTestDriver(compensation, partitions=2, connections={"ledger": ledger.url}) as driver:
        events = driver.input("compensation-events")
        events.pipe(compensated(1, -1))
        events.pipe(compensated(2, None))
        events.pipe(compensated(3, 10, refund_id=None))
        events.pipe(compensated(4, 10, event_id=None))
        events.pipe(compensated(5, 10, advertiser_id="nobody"))
        events.pipe(compensated(6, 10, refund_id=""))
        events.pipe(compensated(7, 10, event_id="e" * 400))
        dead = [d.reason for d in driver.dead_letters("compensation-events")]
        assert sorted(dead) == ["bad_refund", "bad_refund", "id_too_long", "no_click", "unknown_advertiser"]
        counters = driver.counters()
        assert {"filtered:no_refund_id": 2} in counters.values()
        assert {"dead:unknown_advertiser": 1} in counters.values()
        assert driver.output("refund-applied").read() == []
    assert [row["id"] for row in ledger.query("SELECT id FROM ads_ledger.parked")] == ["dup:e5"]


@pytest.mark.parametrize("id", ["r" * 400, "click:e2", "payment:p2", "campaign:1"])
def test_a_refund_under_an_id_that_is_not_its_own_stops_no_charge(ledger: Ledger, id: str) -> None:
    """It would wait for its charge, and be booked in the charge's transaction: neither could be."""
    ledger.post(deposit(1, 5000))
    at = {"connections": {"ledger": ledger.url}, "partitions": 1}
    with TopologyTestDriver(compensation, **at) as driver:  # type: ignore[arg-type]
        driver.input("compensation-events").pipe(compensated(2, 1200, refund_id=id))
        assert [d.reason for d in driver.dead_letters("compensation-events")] == ["bad_refund_id"]
    [answer] = ledger.post(click("e2", 1200))
    assert (answer["status"], ledger.balance()) == ("POSTED", 3800)


@pytest.mark.parametrize("order", [*permutations(["click", "refund"]), ("refund", "refund", "click", "refund")])
def test_each_refund_is_told_once_in_every_order(ledger: Ledger, order: tuple[str, ...]) -> None:
    ledger.post(deposit(1, 5000))
    clicked = {
        "event_id": "e2",
        "timestamp": "2024-01-15T10:30:15Z",
        "advertiser_id": "A",
        "campaign_id": "c",
        "actual_price": 1200,
    }
    at = {"connections": {"ledger": ledger.url}, "partitions": 1}
    with TopologyTestDriver(ledger_job, **at) as booking, TopologyTestDriver(compensation, **at) as refunding:  # type: ignore[arg-type]
        for step in order:
            if step == "click":
                booking.input("ad-clicks").pipe(clicked)
                for record in booking.output("compensation-released").read():
                    refunding.input("compensation-released").pipe(record.value)
            else:
                refunding.input("compensation-events").pipe(compensated(2, 1200))
                refunding.run()
        [told] = refunding.output("refund-applied").read()
    assert (told.key, told.value["refund_id"], told.value["event_id"]) == ("A", "dup:e2", "e2")
    assert (told.value["status"], told.value["amount"], told.value["click_time"]) == (
        "APPLIED", "1200.00", "2024-01-15T10:30:15.000Z",
    )  # fmt: skip
    assert ledger.balance() == 5000
    ledger.check()


def test_a_release_cannot_be_written_by_hand(ledger: Ledger, app: psycopg.Connection) -> None:
    ledger.post(deposit(1, 5000))
    ledger.refund(refund("r", "e1", 1200))
    for table in ("parked", "parked_release"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(f"INSERT INTO {table} SELECT * FROM {table}")
    assert app.execute("SELECT release('r', 'app')").fetchone() == ("PARKED",)
