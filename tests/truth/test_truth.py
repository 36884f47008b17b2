"""The truth is checked itself: by cases made by hand, and by balances that hold for any traffic."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from adstream.jobs.ads.traffic import DAMAGES, FAULTS, Traffic, as_log, records
from adstream.jobs.ads.truth import Counts, Key, Product, Record, Row, Truth, compute

ids = iter(range(10**9))


def ms(clock: str) -> int:
    """`10:04:59.999` on the day of all examples, as epoch ms."""
    day = datetime.fromisoformat(f"2024-01-15T{clock}").replace(tzinfo=UTC)
    return round(day.timestamp() * 1000)


def event(kind: str, clock: str, **fields: Any) -> bytes:
    """An acceptable event, but for what `fields` say; `...` leaves a field out."""
    values = {
        "event_id": f"e{next(ids)}",
        "event_type": kind,
        "timestamp": f"2024-01-15T{clock}Z",
        "device_id": "device_12345",
        "campaign_id": "campaign_100",
        "product_id": "product_200",
        "placement": "HOME",
    }
    if kind == "CLICK":
        values["actual_price"] = "1200"
    if kind == "CONVERSION":
        values["revenue_amount"] = "50000"
    return json.dumps({k: v for k, v in (values | fields).items() if v is not ...}).encode()


def impression(clock: str, **fields: Any) -> bytes:
    return event("IMPRESSION", clock, **fields)


def click(clock: str, **fields: Any) -> bytes:
    return event("CLICK", clock, **fields)


def conversion(clock: str, **fields: Any) -> bytes:
    return event("CONVERSION", clock, **fields)


def on(partition: int, *values: bytes | None) -> list[Record]:
    return [(partition, offset, b"key", value, 0) for offset, value in enumerate(values)]


def truth_of(*values: bytes | None) -> Truth:
    """Of these values on a single partition."""
    return compute(on(0, *values), partitions=1)


def key(clock: str, campaign: str = "campaign_100", product: str | None = "product_200") -> Key:
    return Key(campaign, product, "HOME", ms(clock))


# --- The acceptance values of C2 ----------------------------------------------------------------------------


def test_the_golden_window() -> None:
    clicks = [click("10:02:00.000") for _ in range(4)]
    truth = truth_of(*(impression("10:01:00.000") for _ in range(200)), *clicks, conversion("10:03:00.000"))
    assert list(truth.table) == [key("10:00")]
    row = truth.table[key("10:00")]
    assert row == Row(200, 4, 1, Decimal(4800), Decimal(50000), ms("10:03"))
    assert (row.ctr, row.cvr, row.roas, row.ctr_undefined) == (2.0, 25.0, Decimal("10.416667"), False)
    assert truth.products == {"product_200": Product(200, 4, 1)}
    assert (truth.products["product_200"].ctr, truth.products["product_200"].cvr) == (0.02, 0.25)


def test_a_window_ends_before_its_end() -> None:
    truth = truth_of(click("10:04:59.999"), click("10:05:00.000"), click("10:05:00.001"))
    clicks = {row_key: row.click_count for row_key, row in truth.table.items()}
    assert clicks == {key("10:00"): 1, key("10:05"): 2}


def test_a_click_without_impressions_has_no_rate() -> None:
    row = truth_of(click("10:00:00.000")).table[key("10:00")]
    assert (row.ctr, row.cvr, row.click_count, row.ctr_undefined) == (0.0, 0.0, 1, True)


def test_a_row_without_spend_has_no_return() -> None:
    row = truth_of(conversion("10:00:00.000"), click("10:00:00.000", actual_price=0)).table[key("10:00")]
    assert (row.roas, row.total_spend, row.click_count) == (0, 0, 1)


@pytest.mark.parametrize(
    ("revenue", "spend", "roas"),
    [
        ("1", "3", "0.333333"),
        ("2", "3", "0.666667"),
        ("0.01", "20000", "0.000000"),  # 0.0000005, half: to the even 0
        ("0.03", "20000", "0.000002"),  # 0.0000015, half: to the even 2
        ("99999999.99", "0.01", "9999999999.000000"),
    ],
)
def test_roas_is_rounded_once_half_to_even(revenue: str, spend: str, roas: str) -> None:
    bought = conversion("10:01:00.000", revenue_amount=revenue)
    truth = truth_of(click("10:00:00.000", actual_price=spend), bought)
    assert str(truth.table[key("10:00")].roas) == roas


def test_a_repeated_id_changes_nothing() -> None:
    once, other = click("10:01:00.000", event_id="a"), impression("10:02:00.000")
    changed = click("10:02:00.000", event_id="a", actual_price="9")
    truth = truth_of(once, once, other, changed)
    assert truth.table == truth_of(once, other).table
    assert truth.counts[0] == Counts(read=4, repeated=2, passed=2, counted=2)


def test_an_id_is_remembered_for_an_hour_of_the_partitions_clock() -> None:
    a = impression("10:00:00.000", event_id="a")
    assert truth_of(a, impression("11:00:00.000"), a).total.repeated == 1
    forgotten = truth_of(a, impression("11:00:00.001"), a).total
    assert (forgotten.repeated, forgotten.late) == (0, 1)


def test_a_repeated_row_moves_the_clock_of_the_dedup_before_it_is_judged() -> None:
    first, again = impression("10:00:00.000", event_id="a"), impression("11:00:00.001", event_id="a")
    assert truth_of(first, again).total == Counts(read=2, passed=2, counted=2)


def test_a_repeated_row_does_not_move_the_clock_of_the_windows() -> None:
    a, again = impression("10:00:00.000", event_id="a"), impression("10:30:00.000", event_id="a")
    assert truth_of(a, again, impression("10:00:01.000")).total.late == 0


def test_partitions_do_not_know_each_others_ids() -> None:
    a = impression("10:00:00.000", event_id="a")
    assert compute(on(0, a) + on(1, a), partitions=2).table[key("10:00")].impression_count == 2


def test_grace_is_ten_seconds_and_ends_before_its_end() -> None:
    nine = truth_of(click("10:05:09.000"), click("10:04:59.000"))
    assert nine.table[key("10:00")].click_count == 1
    brink = truth_of(click("10:05:09.999"), click("10:04:59.999"))
    assert brink.total.late == 0
    over = truth_of(click("10:05:10.000"), click("10:04:59.999", event_id="late"))
    assert over.total == Counts(read=2, passed=2, counted=1, late=1)
    assert over.late == [(0, 1, "late", key("10:00"), ms("10:04:59.999"), ms("10:05:10"))]
    eleven = truth_of(click("10:05:11.000"), click("10:04:59.000"))
    assert list(eleven.table) == [key("10:05")]


def test_lateness_is_the_partitions_own() -> None:
    ahead, behind = on(0, click("10:30:00.000")), on(1, click("10:00:00.000"))
    assert compute(ahead + behind, partitions=2).total.late == 0


def test_a_window_is_final_when_all_partitions_have_passed_its_grace() -> None:
    first = on(0, click("10:01:00.000"), impression("10:05:10.000"))
    assert list(compute(first, partitions=1).final) == [key("10:00")]
    assert compute(first, partitions=2).final == {}  # partition 1 never had a row
    assert compute(first + on(1, click("10:05:09.999")), partitions=2).final == {}
    truth = compute(first + on(1, click("10:05:10.000")), partitions=2)
    assert list(truth.final) == [key("10:00")]
    assert truth.clocks == {0: ms("10:05:10"), 1: ms("10:05:10")}


def test_rows_without_campaign_are_filtered_and_do_not_move_the_clock_of_the_windows() -> None:
    null, absent = impression("11:00:00.000", campaign_id=None), click("11:00:00.000", campaign_id=...)
    truth = truth_of(null, absent, impression("11:00:00.000", campaign_id=""), impression("10:00:00.000"))
    assert truth.total == Counts(read=4, filtered=3, passed=1, counted=1)
    assert truth.clocks == {0: ms("10:00")}


def test_rows_without_product_are_a_group() -> None:
    truth = truth_of(impression("10:00:00.000", product_id=None), impression("10:00:00.000", product_id=...))
    assert truth.table[key("10:00", product=None)].impression_count == 2
    assert truth.products == {None: Product(impressions=2)}


# --- Dead letters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "null_payload"),
        (b"", "malformed_json"),
        (b"{", "malformed_json"),
        (b"[]", "malformed_json"),
        (b"null", "malformed_json"),
        (rb'{"event_type":"IMPRESSION","timestamp":"2024-01-15T10:00:00Z","placement":"\ud800"}', "malformed_json"),
        (b'{"actual_price":NaN}', "malformed_json"),
        (b'{"placement":"\xff"}', "malformed_json"),
        (impression("10:00:00.000").decode().encode("utf-16"), "malformed_json"),
        (b"[" * 100_000, "malformed_json"),
        (b"{}", "missing_field:event_type"),
        (impression("10:00:00.000", event_id=5), "bad_field:event_id"),
        (click("10:00:00.000", event_id="", actual_price=-1), "no_event_id"),
        (impression("10:00:00.000", event_type=...), "missing_field:event_type"),
        (event("VIEW", "10:00:00.000"), "bad_field:event_type"),
        (impression("10:00:00.000", event_type=["CLICK"]), "bad_field:event_type"),
        (impression("10:00:00.000", timestamp=...), "missing_field:timestamp"),
        (impression("10:00:00.000", timestamp=1705312800000), "bad_field:timestamp"),
        (impression("10:00:00.000", timestamp="2024-01-15T10:00:00"), "bad_field:timestamp"),
        (impression("10:00:00.000", timestamp="2024-01-15 10:00:00Z"), "bad_field:timestamp"),
        (impression("10:00:00.000", timestamp="2024-02-30T10:00:00Z"), "bad_field:timestamp"),
        (impression("10:00:00.000", timestamp="2024-01-15T10:00:00+0900"), "bad_field:timestamp"),
        (impression("10:00:00.000", device_id=1), "bad_field:device_id"),
        (impression("10:00:00.000", campaign_id=100), "bad_field:campaign_id"),
        (impression("10:00:00.000", product_id=True), "bad_field:product_id"),
        (impression("10:00:00.000", placement={}), "bad_field:placement"),
        (
            impression("10:00:00.000", actual_price="12.505"),
            "bad_field:actual_price",
        ),  # though it would not be counted
        (click("10:00:00.000", actual_price=12.345), "bad_field:actual_price"),
        (click("10:00:00.000", actual_price="100000000"), "bad_field:actual_price"),
        (click("10:00:00.000", actual_price="NaN"), "bad_field:actual_price"),
        (click("10:00:00.000", actual_price=" 1"), "bad_field:actual_price"),
        (click("10:00:00.000", actual_price="١"), "bad_field:actual_price"),
        (click("10:00:00.000", actual_price=True), "bad_field:actual_price"),
        (click("10:00:00.000").replace(b'"1200"', b"1e9999999"), "bad_field:actual_price"),
        (click("10:00:00.000").replace(b'"1200"', b"1e-9999999"), "bad_field:actual_price"),
        (click("10:00:00.000", actual_price=-1), "bad_price"),
        (click("10:00:00.000", actual_price="-0.01"), "bad_price"),
        (click("10:00:00.000", actual_price=None), "bad_price"),
        (click("10:00:00.000", actual_price=...), "bad_price"),
        (conversion("10:00:00.000", revenue_amount="x"), "bad_field:revenue_amount"),
        (conversion("10:00:00.000", revenue_amount=-1), "bad_revenue"),
        (conversion("10:00:00.000", revenue_amount=None), "bad_revenue"),
        # the first reason wins
        (click("10:00:00.000", placement=1, actual_price="x"), "bad_field:placement"),
        (click("10:00:00.000", event_type=None, device_id=1), "missing_field:event_type"),
        (click("10:00:00.000", actual_price=-1, revenue_amount="x"), "bad_field:revenue_amount"),
    ],
)
def test_what_cannot_be_accepted_is_dead(value: bytes | None, reason: str) -> None:
    truth = truth_of(value)
    assert truth.dead == [(0, 0, reason)]
    assert truth.total == Counts(read=1, dead=1)
    assert truth.clocks == {0: None}


@pytest.mark.parametrize(
    ("price", "exact"),
    [
        (b"1200", "1200"),
        (b"12.5", "12.5"),
        (b"0.1", "0.1"),
        (b"1.2e3", "1200"),
        (b"-0.0", "0"),
        (b"12.500", "12.5"),
        (b'"12.50"', "12.5"),
        (b'"99999999.99"', "99999999.99"),
    ],
)
def test_money_is_exact(price: bytes, exact: str) -> None:
    truth = truth_of(click("10:00:00.000").replace(b'"1200"', price))
    assert truth.table[key("10:00")].total_spend == Decimal(exact)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2024-01-15T10:00:00Z", "10:00:00.000"),
        ("2024-01-15T19:00:00.5+09:00", "10:00:00.500"),
        ("2024-01-15T10:00:00.123999999Z", "10:00:00.123"),
        ("2024-01-15t10:00:00z", "10:00:00.000"),
        ("2024-01-15T10:00:00-00:00", "10:00:00.000"),
    ],
)
def test_time_is_cut_to_milliseconds(written: str, meant: str) -> None:
    assert truth_of(impression("10:00:00.000", timestamp=written)).clocks == {0: ms(meant)}


def test_time_before_the_epoch_has_windows_too() -> None:
    (row_key,) = truth_of(impression("10:00:00.000", timestamp="1969-12-31T23:59:59.9999Z")).table
    assert row_key.window_start == -300_000


# --- Generated traffic --------------------------------------------------------------------------------------


CALM = Traffic(share_disorder=0, share_copies=0, share_late=0, share_bad=0, share_no_campaign=0, share_no_device=0)


def log(traffic: Traffic) -> list[Record]:
    return [tuple(record) for record in as_log(records(traffic))]  # type: ignore[misc]


def test_counts_balance() -> None:
    traffic = Traffic(seed=5, events=60_000, rate=50, share_late=0.02, share_bad=0.02, share_copies=0.05)
    truth = compute(log(traffic), traffic.partitions)
    assert sum(lane.read for lane in truth.counts.values()) == traffic.events
    for lane in truth.counts.values():
        assert lane.read == lane.dead + lane.repeated + lane.filtered + lane.passed
        assert lane.passed == lane.counted + lane.late
        assert min(vars(lane).values()) > 0
    rows, products = truth.table.values(), truth.products.values()
    counted = sum(row.impression_count + row.click_count + row.conversion_count for row in rows)
    assert counted == truth.total.counted
    assert (len(truth.late), len(truth.dead)) == (truth.total.late, truth.total.dead)
    assert sum(product.clicks for product in products) == sum(row.click_count for row in rows)
    assert 0 < len(truth.final) < len(truth.table)
    assert all(truth.table[row_key] is row for row_key, row in truth.final.items())


def test_undisturbed_traffic_is_counted_but_for_one_late_visit_a_window() -> None:
    total = compute(log(replace(CALM, events=40_000, rate=50)), CALM.partitions).total
    windows_closed = 40_000 // 50 // 300
    assert total == Counts(read=40_000, passed=40_000, counted=40_000 - windows_closed, late=windows_closed)


def test_copies_are_repeated() -> None:
    """All of them: no copy of an event in time comes after its hour."""
    traffic = Traffic(events=40_000, rate=10, share_bad=0, share_late=0, share_copies=0.1)
    again = Counter(value for _, _, _, value, _ in log(traffic))
    assert compute(log(traffic), traffic.partitions).total.repeated == again.total() - len(again)


def test_the_share_of_dead_rows_is_that_of_bad_ones() -> None:
    traffic = Traffic(seed=6, events=100_000)
    truth = compute(log(traffic), traffic.partitions)
    assert truth.total.dead / traffic.events == pytest.approx(traffic.share_bad, rel=0.3)
    assert truth.total.late / traffic.events == pytest.approx(traffic.share_late, rel=0.3)


def test_every_fault_and_damage_is_fatal() -> None:
    traffic = replace(CALM, events=20_000, share_bad=1)
    truth = compute(log(traffic), traffic.partitions)
    assert truth.total.dead == truth.total.read
    expected = {"malformed_json", "bad_price", "bad_revenue"}
    expected |= {f"bad_field:{fault.field}" for fault in FAULTS}
    expected |= {f"missing_field:{name}" for name in ("event_type", "timestamp")}
    assert set(truth.reasons) == expected
    each = traffic.events / (len(FAULTS) + len(DAMAGES))
    assert truth.reasons["malformed_json"] == pytest.approx(each * len(DAMAGES), rel=0.1)


def test_the_order_between_partitions_does_not_matter() -> None:
    traffic = Traffic(seed=9, events=5_000, rate=5)
    records_ = log(traffic)
    assert content(compute(records_, 4)) == content(compute(reversed(records_), 4))


def content(truth: Truth) -> Iterable[object]:
    return truth.table, truth.final, truth.late, truth.dead, truth.counts, truth.clocks, truth.products


def test_the_future_does_not_change_what_is_final() -> None:
    traffic = Traffic(seed=4, events=40_000, rate=50)
    records_ = log(traffic)
    before = compute(records_[:30_000], traffic.partitions).final
    after = compute(records_, traffic.partitions).final
    assert all(after[row_key] == row for row_key, row in before.items())
    assert len(after) > len(before) > 0
