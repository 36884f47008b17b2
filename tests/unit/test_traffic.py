"""The generator keeps the promises of its head comment."""

import ast
import hashlib
import inspect
import json
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import confluent_kafka
import pytest

from adstream.jobs.ads import traffic as module
from adstream.jobs.ads.traffic import Logged, Sent, Traffic, as_log, murmur2, partition_of, records

CALM = Traffic(
    seed=7,
    events=20_000,
    share_disorder=0,
    share_copies=0,
    share_late=0,
    share_bad=0,
    share_no_campaign=0,
    share_no_device=0,
)
FIELDS = {
    "IMPRESSION": "",
    "CLICK": "actual_price bid_price",
    "CONVERSION": "revenue_amount order_id",
}


def event_ms(event: dict[str, str]) -> int:
    return round(datetime.fromisoformat(event["timestamp"]).timestamp() * 1000)


def test_the_same_settings_give_the_same_bytes_everywhere() -> None:
    digest = hashlib.sha256()
    for sent in records(Traffic(seed=2024, events=50_000)):
        digest.update(repr(tuple(sent)).encode())
    assert digest.hexdigest() == "0f096b3a7e94c4e8bf664a506dd50ee4d2b1bb06d4f92119bd27ab9042bdce06"


def test_another_seed_gives_other_events() -> None:
    def ids(seed: int) -> set[str]:
        return {json.loads(sent.value)["event_id"] for sent in records(replace(CALM, seed=seed, events=1000))}

    assert ids(1).isdisjoint(ids(2))


def test_it_needs_nothing_but_the_standard_library() -> None:
    imported = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Import):
            imported.update(name.name.split(".")[0] for name in node.names)
    assert imported <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("key", "hashed"),
    [  # from Kafka's UtilsTest
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed


def test_partitions_are_those_of_the_client() -> None:
    keys = ["전자제품".encode(), *(b"x" * n for n in range(9)), *(b"device_%05d" % n for n in range(1000))]
    for key in keys:
        for partitions in (1, 4, 7):
            assert partition_of(key, partitions) == confluent_kafka.murmur2(key, partitions)


def test_records_lie_where_their_key_belongs_in_the_order_of_sending() -> None:
    sent = list(records(Traffic(seed=3, events=20_000)))
    assert len(sent) == 20_000
    assert {record.partition for record in sent} == {0, 1, 2, 3}
    assert all(a.timestamp_ms <= b.timestamp_ms for a, b in pairwise(sent))
    for record in sent:
        if record.key is not None:
            assert record.partition == confluent_kafka.murmur2(record.key, 4)


def test_as_log_numbers_every_partition_from_zero() -> None:
    sent = [Sent(1, None, b"a", 10), Sent(0, b"k", b"b", 11), Sent(1, None, b"c", 12)]
    assert list(as_log(sent)) == [
        Logged(1, 0, None, b"a", 10),
        Logged(0, 0, b"k", b"b", 11),
        Logged(1, 1, None, b"c", 12),
    ]


def test_good_events_have_the_fields_of_the_schema() -> None:
    head = "event_id event_type timestamp device_id session_id"
    head += " ad_id campaign_id advertiser_id product_id placement"
    tail = "search_term category"
    ids, types, sizes, numbers = set(), Counter[str](), [], 0
    for partition, key, value, timestamp_ms in records(CALM):
        event = json.loads(value)
        assert list(event) == f"{head} {FIELDS[event['event_type']]} {tail}".split()
        assert key == event["device_id"].encode()
        assert event["timestamp"].endswith("Z")
        assert timestamp_ms - event_ms(event) in (0, *range(9_990, 10_020))  # or a brink
        assert 0 <= partition < 4
        numbers += isinstance(event.get("actual_price", ""), float)
        ids.add(event["event_id"])
        types[event["event_type"]] += 1
        sizes.append(len(value))
    assert len(ids) == CALM.events
    assert types["CLICK"] / CALM.events == pytest.approx(0.08, rel=0.1)
    assert types["CONVERSION"] / CALM.events == pytest.approx(0.02, rel=0.2)
    assert min(sizes) > 280
    assert max(sizes) < 450
    assert 0 < numbers < types["CLICK"] / 20  # money as a JSON number: allowed, seen, rare


def test_undisturbed_traffic_is_in_order_until_a_window_closes() -> None:
    times = [event_ms(json.loads(sent.value)) for sent in records(CALM)]
    assert times == sorted(times)


def test_clocks_run_ahead_where_that_is_asked_for() -> None:
    traffic = replace(CALM, share_ahead=0.01)
    ahead = [event_ms(json.loads(sent.value)) - sent.timestamp_ms for sent in records(traffic)]
    fast = [ms for ms in ahead if ms > 0]
    assert len(fast) / traffic.events == pytest.approx(0.01, rel=0.2)
    assert traffic.ahead_ms * 0.9 < max(fast) <= traffic.ahead_ms


def test_disturbances_come_in_the_shares_that_were_asked_for() -> None:
    traffic = Traffic(seed=11, events=150_000, share_bad=0)
    seen = Counter[str]()
    earlier: dict[bytes, Sent] = {}
    for sent in records(traffic):
        if (original := earlier.setdefault(sent.value, sent)) is not sent:
            assert (original.partition, original.key) == (sent.partition, sent.key)
            assert 0 < sent.timestamp_ms - original.timestamp_ms <= traffic.copy_delay_max_ms
            seen["copies"] += 1
            continue
        event = json.loads(sent.value)
        behind = sent.timestamp_ms - event_ms(event)
        seen["no_campaign"] += event["campaign_id"] is None
        seen["no_device"] += sent.key is None
        seen["disorder"] += 0 < behind <= traffic.disorder_ms
        seen["late"] += behind >= traffic.window_ms + traffic.grace_ms + 60_000
        assert behind <= traffic.window_ms + traffic.grace_ms + 30 * 60_000
    shares = {name: count / traffic.events for name, count in seen.items()}
    assert shares["copies"] == pytest.approx(0.01, rel=0.1)
    assert shares["disorder"] == pytest.approx(0.05, rel=0.05)
    assert shares["no_campaign"] == pytest.approx(0.005, rel=0.15)
    assert shares["no_device"] == pytest.approx(0.002, rel=0.25)
    assert shares["late"] == pytest.approx(0.002, rel=0.25)


@pytest.mark.parametrize("rate", [3, 1000, 9000])
def test_every_window_has_its_edges_visited_by_one_device(rate: int) -> None:
    """The first window's end comes after 2 s, so that 20 s show all of it."""
    traffic = replace(CALM, start=datetime(2024, 1, 15, 10, 4, 58, tzinfo=UTC), rate=rate, events=rate * 20)
    end_ms = traffic.start_ms + 2000
    device = f"device_{(end_ms // traffic.window_ms - 1) % traffic.devices:05d}"
    values = [sent.value for sent in records(traffic) if sent.key == device.encode()]
    visits = [event_ms(json.loads(value)) - end_ms for value in values]
    for edges in ([-1, 0, 1], [9_999, -1, 10_000, -1]):
        assert contains(visits, edges)


def contains(row: list[int], part: list[int]) -> bool:
    """Is `part` in `row`, in this order, other things in between or not?"""
    rest = iter(row)
    return all(item in rest for item in part)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"start": datetime(2024, 1, 15)}, "time zone"),
        ({"rate": 0}, "rate must be at least 1: 0"),
        ({"devices": 1 << 21}, "devices must be at most"),
        ({"events": -1}, "events must not be negative: -1"),
        ({"grace_ms": 300_000}, "grace_ms must be in"),
        ({"share_copies": 0.6}, "share_copies must be in"),
        ({"share_late": 0.6, "share_bad": 0.6}, "share_bad"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Traffic(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("events", [0, 1, 2])
def test_short_traffic_is_traffic(events: int) -> None:
    assert len(list(records(Traffic(events=events, share_copies=0.5)))) == events
