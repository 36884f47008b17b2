"""`ads.clicks`: the canonical stream of clicks (C0)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from adstream.jobs.ads.clicks import clicks
from adstream.testing import TopologyTestDriver
from tests.unit.jobs.examples import AD_EVENT


@pytest.fixture
def driver() -> Iterator[TopologyTestDriver]:
    with TopologyTestDriver(clicks, partitions=1) as driver:
        yield driver


def send(driver: TopologyTestDriver, **fields: Any) -> None:
    event = AD_EVENT | fields
    driver.input("ad-events").pipe(event, at=event["timestamp"])


def out(driver: TopologyTestDriver) -> list[dict[str, Any]]:
    return [record.value for record in driver.output("ad-clicks").read()]


def reasons(driver: TopologyTestDriver) -> list[str]:
    return [letter.reason for letter in driver.dead_letters("ad-events")]


def test_the_example_is_accepted(driver: TopologyTestDriver):
    send(driver)
    [record] = driver.output("ad-clicks").read()
    assert record.key == "device_12345"
    assert record.value.pop("event_id")
    assert record.value == {
        "timestamp": "2024-01-15T10:30:15.000Z",
        "device_id": "device_12345",
        "session_id": "session_67890",
        "user_id": None,
        "ad_id": "ad_001",
        "campaign_id": "campaign_100",
        "advertiser_id": "advertiser_50",
        "product_id": "product_200",
        "placement": "HOME",
        "category": "전자제품/컴퓨터",
        "actual_price": "1200.00",
    }


def test_the_same_bytes_are_the_same_event(driver: TopologyTestDriver):
    for _ in range(3):
        send(driver)
    assert len(out(driver)) == 1
    assert driver.counters()["once"] == {"repeated": 2}


def test_an_event_id_is_kept_and_counts_once(driver: TopologyTestDriver):
    for price in (1200, 1300):
        send(driver, event_id="e1", actual_price=price)
    assert [(row["event_id"], row["actual_price"]) for row in out(driver)] == [("e1", "1200.00")]


def test_only_clicks(driver: TopologyTestDriver):
    send(driver, event_type="IMPRESSION", actual_price=None)
    send(driver, event_type="CONVERSION", actual_price=None)
    assert (out(driver), reasons(driver)) == ([], [])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"event_type": "CLICKED"}, "bad_field:event_type"),
        ({"actual_price": -1}, "bad_price"),
        ({"actual_price": None}, "bad_price"),
        ({"actual_price": 10**13}, "bad_field:actual_price"),
        ({"actual_price": "1.005"}, "bad_field:actual_price"),
        ({"actual_price": "NaN"}, "bad_field:actual_price"),
        ({"advertiser_id": ""}, "no_advertiser"),
        ({"advertiser_id": None}, "no_advertiser"),
        ({"campaign_id": "c" * 257}, "id_too_long"),
        ({"campaign_id": "가" * 86}, "id_too_long"),
        ({"event_id": "e" * 257}, "id_too_long"),
        ({"event_id": ""}, "no_event_id"),
    ],
)
def test_refused(driver: TopologyTestDriver, fields: dict[str, Any], reason: str):
    send(driver, **fields)
    assert (out(driver), reasons(driver)) == ([], [reason])


@pytest.mark.parametrize("wrong", [1705314615, 1705314615000, "2024-01-15 10:30:15", "2024-01-15T10:30:15"])
def test_a_time_that_is_no_rfc_3339_text_is_refused(driver: TopologyTestDriver, wrong: object):
    driver.input("ad-events").pipe(AD_EVENT | {"timestamp": wrong}, at="2024-01-15T10:30:15Z")
    assert reasons(driver) == ["bad_field:timestamp"]


def test_a_time_that_is_a_day_ahead_is_refused(driver: TopologyTestDriver):
    driver.input("ad-events").pipe(AD_EVENT | {"timestamp": "2024-01-17T00:00:00Z"}, at="2024-01-15T10:30:15Z")
    assert reasons(driver) == ["ahead_of_clock"]


def test_empty_ids_are_none(driver: TopologyTestDriver):
    send(driver, device_id="", session_id="", ad_id="")
    [row] = out(driver)
    assert (row["device_id"], row["session_id"], row["ad_id"]) == (None, None, None)


def test_an_id_of_256_bytes_is_accepted(driver: TopologyTestDriver):
    send(driver, campaign_id="c" * 256)
    assert len(out(driver)) == 1


def test_a_price_of_nothing_is_a_price(driver: TopologyTestDriver):
    send(driver, actual_price=0)
    assert [row["actual_price"] for row in out(driver)] == ["0.00"]


def test_the_memory_of_ids_ends(driver: TopologyTestDriver):
    send(driver, event_id="e1")
    send(driver, event_id="e2", timestamp="2024-01-15T11:30:15Z")
    send(driver, event_id="e1", timestamp="2024-01-15T11:30:15Z")  # an hour later: remembered still
    send(driver, event_id="e3", timestamp="2024-01-15T11:30:15.001Z")
    send(driver, event_id="e1", timestamp="2024-01-15T11:30:15.001Z")
    assert [row["event_id"] for row in out(driver)] == ["e1", "e2", "e3", "e1"]
