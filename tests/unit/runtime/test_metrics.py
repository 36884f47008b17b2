"""Every number that operations are promised is there, under its name, in the format that Prometheus reads."""

import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from adstream._core import Plan, RawBatch
from adstream.interfaces import Outcome, Target, TopicPartition, TopicSpec
from adstream.jobs.ads.performance import performance
from adstream.jobs.ads.traffic import Traffic, records
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import launch
from adstream.runtime.metrics import WorkerCollector
from adstream.runtime.settings import Settings
from adstream.runtime.standby import StandbyStatus
from adstream.runtime.status import Status, TaskStatus
from adstream.runtime.worker import Worker
from adstream.targets import make_target

Samples = dict[str, list[tuple[dict[str, str], float]]]

PARTITIONS = 2
PROMISED = {
    # in and out; dead, late and dropped by reason
    "adstream_rows_total": (),
    "adstream_records_total": ("task", "node", "reason"),
    "adstream_lag": ("topic", "partition"),
    "adstream_commits_total": ("outcome",),
    "adstream_commit_seconds_bucket": ("le",),
    "adstream_commit_seconds_sum": (),
    "adstream_commit_seconds_count": (),
    "adstream_state_keys": ("task", "node"),
    "adstream_state_bytes": ("task", "node"),
    "adstream_task_restored": ("task",),
    "adstream_task_state": ("task", "state"),
    "adstream_task_buffered": ("task",),
    "adstream_worker_state": ("state",),
    "adstream_trouble": (),
    "adstream_clock": ("task", "topic"),
    "adstream_slowest_clock": ("task", "node"),
    "adstream_held_by_lane": ("task", "node"),
    "adstream_held_windows": ("task", "node"),
    "adstream_held_seconds": ("task", "node", "topic", "partition"),
    "adstream_restored_records_total": ("from",),
    "adstream_sink_healthy": ("sink",),
    "adstream_sink_rows_read_total": ("sink",),
    "adstream_sink_rows_total": ("sink",),
    "adstream_sink_flushes_total": ("sink",),
    "adstream_sink_retries_total": ("sink",),
    "adstream_sink_replays_refused_total": ("sink",),
    "adstream_sink_rows_refused_total": ("sink",),
    "adstream_sink_rewinds_total": ("sink",),
}
"""Name -> labels besides `app`."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def scrape(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type != "unknown"
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Samples]:
    """Of `ads.performance`, when it has worked through its traffic; its second partition stands still."""
    log = EmbeddedLog()
    log.create_topics([TopicSpec("ad-events", PARTITIONS)])
    traffic = Traffic(seed=1, events=6_000, partitions=PARTITIONS, rate=10, share_bad=0.02, share_late=0.02)
    for partition in range(PARTITIONS):
        sent = [(x.timestamp_ms, x.key, x.value, []) for x in records(traffic) if x.partition == partition]
        cut = sent[: len(sent) // 2] if partition else sent
        batch = RawBatch([(offset, *record) for offset, record in enumerate(cut)])
        assert log.writer("t").commit([("ad-events", partition, batch)], {}, "g", None) is Outcome.COMMITTED
    built = performance.build()
    database = tmp_path_factory.mktemp("metrics") / "m.db"
    settings = Settings(
        create_topics=True,
        flush_every_ms=100,
        metrics_port=free_port(),
    )

    def target(kind: str, options: dict[str, Any]) -> Target:
        options = options if kind == "sql" else {"table": "products"}
        return make_target("sql", options, {"sql": f"sqlite:///{database}"})

    started: list[Worker] = []
    plan = Plan(built.json, built.callables)
    run = threading.Thread(
        target=launch.run, args=(plan, settings, log), kwargs={"targets": target, "on_start": started.append}
    )
    run.start()
    try:
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline
            time.sleep(0.5)
            if not started:
                continue
            found = scrape(settings.metrics_port)
            lags = [value for _, value in found.get("adstream_lag", [])]
            if lags and not any(lags) and found.get("adstream_sink_flushes_total", [({}, 0)])[0][1]:
                break
        yield found
    finally:
        started[0].stop()
        run.join(60)


@pytest.mark.parametrize("name", PROMISED)
def test_each_is_there(samples: Samples, name: str) -> None:
    assert name in samples, sorted(samples)
    for labels, _ in samples[name]:
        assert set(labels) == {"app", *PROMISED[name]}
        assert labels["app"] == "ads-performance"


def test_the_process_says_its_memory(samples: Samples) -> None:
    [(_, resident)] = samples["process_resident_memory_bytes"]
    assert 10e6 < resident < 4e9


def test_the_numbers_add_up(samples: Samples) -> None:
    by_reason: dict[str, float] = {}
    for labels, value in samples["adstream_records_total"]:
        by_reason[labels["reason"]] = by_reason.get(labels["reason"], 0) + value
    assert by_reason["read"] > 4_000
    for reason in ("filtered:no_campaign", "repeated", "late", "counted", "out"):
        assert by_reason[reason] > 0, by_reason
    assert any(reason.startswith("dead:") for reason in by_reason)
    assert sum(value for _, value in samples["adstream_state_keys"]) > 100


def test_who_holds_windows_open_is_named(samples: Samples) -> None:
    held = [(labels, value) for labels, value in samples["adstream_held_seconds"] if labels["node"] == "gross"]
    assert len(held) == PARTITIONS, "one a task"
    for labels, value in held:
        assert (labels["topic"], labels["partition"]) == ("ad-events", "1")
        assert value >= 0


def test_the_table_of_the_manual_is_complete() -> None:
    from pathlib import Path

    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    for name in PROMISED:
        base = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        short = base.removeprefix("adstream_sink")
        assert f"`{base}`" in page or f"`{short}`" in page, name


def test_standbys_say_how_far_they_are() -> None:
    """One that has read everything, one that has not begun, one of a changelog whose end is not known."""
    known = {("c", 0): 50, ("c", 1): 7}
    standbys = tuple(StandbyStatus(f"0_{p}", ("c", p), position, True) for p, position in enumerate((48, None, 3)))
    status = Status("running", 0, standbys=standbys, standby_records=51, restored={"standby": 4})
    asked: list[Sequence[TopicPartition]] = []

    def ends(wanted: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        asked.append(list(wanted))
        return known

    collected = WorkerCollector("app", lambda: status, ends).collect()
    found: Samples = {}
    for family in collected:
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    assert asked[0] == [("c", 0), ("c", 1), ("c", 2)]
    lags = [({"app": "app", "task": "0_0"}, 2.0), ({"app": "app", "task": "0_1"}, 7.0)]
    assert found["adstream_standby_lag"] == lags
    assert found["adstream_standby_records_total"] == [({"app": "app"}, 51.0)]
    assert found["adstream_restored_records_total"] == [({"app": "app", "from": "standby"}, 4.0)]
    assert found.get("adstream_lag", []) == []


def test_a_scrape_does_not_wait_for_a_log_that_says_nothing() -> None:
    """A frozen broker took 25 s to be given up, and Prometheus gave the scrape up: nothing was to be seen just then."""
    answer = threading.Event()

    def ends(wanted: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        answer.wait()
        return dict.fromkeys(wanted, 7)

    task = TaskStatus("0_0", "running", {("in", 0): 3})
    collector = WorkerCollector("app", lambda: Status("running", 0, (task,)), ends)
    found = {family.name: family.samples for family in collector.collect()}  # hung
    assert found["adstream_lag"] == []
    assert found["adstream_task_state"][0].value == 1
    answer.set()
    [lag] = {family.name: family.samples for family in collector.collect()}["adstream_lag"]
    assert lag.value == 4
