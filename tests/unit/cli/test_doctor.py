"""`adstream doctor`: each thing that can hold a job up is named, and nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adstream._core import Plan, RawBatch
from adstream.cli.jobs import find
from adstream.interfaces import TopicPartition, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import control
from adstream.runtime.doctor import Finding, Measured, examine, examine_worker
from tests.truth.murmur import javas_partition
from tests.unit.cli.support import invoke

JOB = """
import adstream as ads


class Order(ads.Record):
    shop: str


@ads.topology(name="shops")
def shops(app: ads.App) -> None:
    windows = app.stream("orders", Order).group_by("shop").windowed_by(ads.tumbling("5m", grace="1s"))
    windows.aggregate(n=ads.count()).named("counts").final().to("counts")
    app.stream("pay", key=ads.serdes.string).group_by_key().count("pays")
"""
RUN = ("replay", "shops:shops", "--log", "dir:log")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shops.py").write_text(JOB)
    sys.modules.pop("shops", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with opened() as log:
        log.create_topics([TopicSpec("orders", 2), TopicSpec("pay", 2)])


@contextmanager
def opened() -> Iterator[EmbeddedLog]:
    log = EmbeddedLog("log", sync=False)
    try:
        yield log
    finally:
        log.close()


def send(log: EmbeddedLog, topic: str, partition: int, key: bytes | None = None, count: int = 3) -> None:
    rows = RawBatch([(i, 1_000 + i, key, b'{"shop":"oak"}', []) for i in range(count)])
    log.writer("send").commit([(topic, partition, rows)], {}, "none", None)


def look(log: EmbeddedLog, wait: object = None) -> list[Finding]:
    built = find("shops:shops").build()
    description = json.loads(Plan(built.json, built.callables).describe())
    return examine(log, description, built.plan, wait or (lambda: None))  # type: ignore[arg-type]


def texts(found: list[Finding]) -> str:
    return "\n".join(f"{finding.level}: {finding.text}" for finding in found)


def test_a_job_that_never_ran_and_has_nothing_to_read() -> None:
    with opened() as log:
        said = texts(look(log))
        assert "wrong: `shops` has never run here" in said
        assert "wrong: no worker of `shops` runs" in said
        assert "note: `orders` has no records that could be read" in said
        log.delete_topics(["pay"])
        assert "wrong: input topic `pay` does not exist" in texts(look(log))
    told = invoke("doctor", "shops:shops", "--log", "dir:log", "--json")
    assert told.exit_code == 2
    assert {json.loads(line)["level"] for line in told.stdout.splitlines()} == {"wrong", "note"}


def test_what_is_in_order_is_not_told() -> None:
    with opened() as log:
        for p in (0, 1):
            send(log, "orders", p)
        send(log, "pay", javas_partition(b"k", 2), b"k")
    assert invoke(*RUN).exit_code == 0
    with opened() as log:
        leases = log.leases("shops", "shops-tasks")
        leases.start()
        assert look(log) == []
        leases.close()
        assert texts(look(log)) == "wrong: no worker of `shops` runs: nobody is in its group"


def test_what_holds_it_up_is_named() -> None:
    with opened() as log:
        send(log, "orders", 0)
        send(log, "pay", 1 - javas_partition(b"k", 2), b"k")
    assert invoke(*RUN).exit_code == 0
    with opened() as log:
        leases = log.leases("shops", "shops-tasks")
        leases.start()
        said = texts(look(log))
        assert "note: partition 1 of `orders` never had a record" in said
        assert "note: `pay`: 3 of 3 sampled records are not where murmur2" in said
        assert "wrong" not in said

        send(log, "orders", 0)
        assert "note: positions do not move, and there is something to read: `orders` [0] 3 records" in texts(look(log))

        def goes_on() -> None:
            log.writer("w").commit([], {("orders", 0): 5}, "shops", None)

        assert "note: it is behind, and catching up: `orders` [0] 1 records" in texts(look(log, goes_on))

        control.say(log, "shops", control.PAUSE, {"paused": True, "at_ms": 1})
        assert "wrong: `shops` is paused" in texts(look(log))
        control.say(log, "shops", control.PAUSE, {"paused": False, "at_ms": 2})
        assert "paused" not in texts(look(log))

        send(log, "orders", 0)
        log.delete_records({("orders", 0): 8})
        assert "wrong: positions that the log does not have any more: `orders` [0] 5" in texts(look(log))


class Transactional(EmbeddedLog):
    """As if a transaction held back what is behind offset 2."""

    ending = False

    def end_offsets(self, partitions: list[TopicPartition], *, committed: bool) -> dict[TopicPartition, int]:  # type: ignore[override]
        found = super().end_offsets(partitions, committed=committed)
        return {
            tp: min(end, 2) if committed and tp == ("orders", 0) and not self.ending else end
            for tp, end in found.items()
        }


def test_an_open_transaction_is_told_if_it_does_not_end() -> None:
    log = Transactional()
    log.create_topics([TopicSpec("orders", 2), TopicSpec("pay", 2)])
    send(log, "orders", 0, count=5)
    assert "wrong: a transaction is open and holds back what is behind it: `orders` [0] 3 records" in texts(look(log))

    def ends() -> None:
        log.ending = True

    assert "transaction" not in texts(look(log, ends))


def test_a_topology_that_would_be_refused() -> None:
    with opened() as log:
        send(log, "orders", 0)
    assert invoke(*RUN).exit_code == 0
    Path("shops.py").write_text(Path("shops.py").read_text().replace('named("counts")', 'named("sums")'))
    sys.modules.pop("shops", None)
    told = invoke("doctor", "shops:shops", "--log", "dir:log", "--seconds", "0")
    assert told.exit_code == 2
    assert "no worker starts with this topology" in told.stdout
    assert 'write `.named("counts")`' in told.stdout


def test_a_worker_that_its_broker_does_not_answer():
    away = [Measured("adstream_worker_state", {"state": "running"}, 1), Measured("adstream_trouble", {}, 1)]
    [found] = examine_worker("w", away, "running\nthe log has not answered for 30 s\ntask 0_0: restoring\n")
    assert (found.level, found.text) == ("wrong", "w waits: the log has not answered for 30 s")


def test_what_a_worker_tells() -> None:
    def one(name: str, value: float, **labels: str) -> Measured:
        return Measured(f"adstream_{name}", labels, value)

    fine = [
        one("worker_state", 1, state="running"),
        one("paused", 0),
        one("task_state", 1, task="0_0", state="running"),
        one("sink_healthy", 1, sink="rows"),
        one("standby_lag", 10_000, task="1_0"),
        one("commits_total", 9, outcome="committed"),
        one("commits_total", 2, outcome="aborted"),
        one("records_total", 9, task="0_0", node="orders", reason="read"),
        one("records_total", 3, task="0_0", node="out", reason="out"),
    ]
    assert examine_worker("w", fine, "running\n") == []
    bad = [
        one("worker_state", 1, state="rebalancing"),
        one("paused", 1),
        one("task_state", 1, task="0_0", state="quarantined"),
        one("task_state", 1, task="0_1", state="restoring"),
        one("task_restored", 0.25, task="0_1"),
        one("standby_lag", 10_001, task="1_0"),
        one("held_windows", 7, task="1_0", node="n"),
        one("held_seconds", 80, task="1_0", node="n", topic="orders", partition="3"),
        one("sink_healthy", 0, sink="rows"),
        one("commits_total", 5, outcome="aborted"),
        one("records_total", 10, task="0_0", node="orders", reason="read"),
        one("records_total", 8, task="0_0", node="f", reason="filtered:small"),
        one("records_total", 2, task="0_0", node="f", reason="late"),
    ]
    said = texts(examine_worker("w", bad, "rebalancing\ntask 0_0: ValueError: no\ntask 0_1: restoring\n"))
    assert said.splitlines() == [
        "note: w is rebalancing",
        "wrong: w is paused",
        "wrong: w: task 0_0 is set aside: ValueError: no",
        "note: w: task 0_1 is being restored, 25% done",
        "note: w: its standby of task 1_0 is 10001 records behind",
        "note: w: 7 windows of `n` are held open by partition 3 of `orders`, whose clock has not moved for 80 s",
        "wrong: w: the target of sink `rows` does not work",
        "wrong: w: 5 commits did not succeed and 0 did",
        "note: w: of 10 records that were read none went out: filtered:small 8, late 2",
    ]


def test_a_worker_that_does_not_answer() -> None:
    told = invoke("doctor", "shops:shops", "--metrics", "127.0.0.1:1")
    assert told.exit_code == 2
    assert "wrong: worker 127.0.0.1:1 does not answer" in told.stdout
    assert "which log?" in invoke("doctor", "shops:shops").stderr
