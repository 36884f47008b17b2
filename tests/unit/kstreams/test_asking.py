"""Stores of a running worker, from other threads: by `worker.store`, over HTTP, by `adstream query`."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

import adstream as ads
from adstream._core import Plan, RawBatch
from adstream.cli.commands import app as cli
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime.assignment import prepare
from adstream.runtime.launch import clock_ms
from adstream.runtime.metrics import MetricsServer, WorkerCollector
from adstream.runtime.settings import Settings
from adstream.runtime.worker import Worker

S, I = ads.serdes.string, ads.serdes.int64  # noqa: E741


class Visits(ads.Processor[int]):
    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        ctx.get_state_store("rates").put(record.key, record.value, record.timestamp)
        ctx.get_state_store("visits").put(
            ads.Windowed(record.key, record.timestamp, record.timestamp + 5), record.value
        )


@ads.topology(name="shop")
def shop(app: ads.App) -> None:
    stream = app.stream("in", key=S, value=I)
    grouped = stream.group_by_key()
    grouped.count("counts")
    grouped.windowed_by(ads.tumbling("10ms", grace="1h")).count("windows")
    stores: list[Any] = [ads.store.versioned_key_value("rates", "1h"), ads.store.session("visits", "1h")]
    stream.process_values(Visits, *stores)


class Beats(ads.Processor[int]):
    """Tells how many records it has had, every few ms of the wall clock; asks for a commit after each third."""

    def init(self, ctx: ads.Context) -> None:
        self.ctx = ctx
        self.counts = ctx.get_state_store("beats")
        assert ctx.current_system_time_ms > 0
        ctx.schedule("5ms", "wall_clock_time", self.beat)

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        count = (self.counts.get("n") or 0) + 1
        self.counts.put("n", count)
        if count % 3 == 0:
            ctx.commit()

    def beat(self, time: int) -> None:
        self.ctx.forward(ads.ProcessorRecord("beat", self.counts.get("n") or 0, time))


@ads.topology(name="shop")
def beats(app: ads.App) -> None:
    stream = app.stream("in", key=S, value=I).process(Beats, ads.store.key_value("beats"))
    stream.group_by_key(key=S, value=I).reduce(lambda a, v: max(a, v), "largest")


@contextmanager
def running(
    records: list[tuple[str, int, int]], topology: ads.Topology = shop, **settings: Any
) -> Iterator[tuple[Worker, str]]:
    """A worker in a thread of its own that has committed all records, and its address."""
    built = topology.build()
    plan, log = Plan(built.json, built.callables), EmbeddedLog()
    log.create_topics([TopicSpec("in", 2)])
    outputs = []
    for partition in (0, 1):
        mine = [r for r in records if hash_of(r[0]) == partition]
        batch = RawBatch([(i, ts, k.encode(), v.to_bytes(8), []) for i, (k, v, ts) in enumerate(mine)])
        outputs.append(("in", partition, batch))
    assert log.writer("producer").commit(outputs, {}, "producer", None) is Outcome.COMMITTED
    assignment = prepare(log, plan, create_topics=True)
    worker = Worker(plan, assignment, Settings(app="shop", **settings), log, clock_ms, {})
    server = MetricsServer(
        WorkerCollector("shop", lambda: worker.status), lambda: worker.status, clock_ms, 0, "127.0.0.1", worker=worker
    )
    with ExitStack() as parts:
        parts.callback(server.close)
        thread = threading.Thread(target=worker.run)
        thread.start()
        parts.callback(thread.join)
        parts.callback(worker.stop)
        deadline = time.monotonic() + 60
        while worker.status.rows < len(records):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield worker, f"127.0.0.1:{server.port}"


def hash_of(key: str) -> int:
    from adstream._core import murmur2

    return (murmur2(key.encode()) & 0x7FFFFFFF) % 2


def get(at: str, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://{at}{path}", timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


RECORDS = [(f"k{i % 5}", i, i) for i in range(50)]


def test_a_running_workers_stores() -> None:
    with running(RECORDS) as (worker, at):
        assert worker.store("counts").get("k3") == (10, 48)
        assert {k: v.value for k, v in worker.store("counts").all()} == dict.fromkeys(
            ["k0", "k1", "k2", "k3", "k4"], 10
        )
        with pytest.raises(KeyError, match="there is no store `other`"):
            worker.store("other")

        assert get(at, "/stores") == (200, {"stores": ["counts", "rates", "visits", "windows"]})
        one = {"key": "k3", "value": 10, "timestamp": 48}
        kind = "timestamped_key_value"
        assert get(at, "/stores/counts?key=k3") == (200, {"store": "counts", "kind": kind, "entries": [one]})
        assert get(at, "/stores/counts?key=none")[1]["entries"] == []
        code, found = get(at, "/stores/windows?key=k3&from=10&to=20")
        assert code == 200
        assert found["entries"] == [
            {"key": "k3", "value": 2, "timestamp": start + 8, "start": start, "end": start + 10} for start in (10, 20)
        ]
        assert get(at, "/stores/rates?key=k3&at=20")[1]["entries"] == [
            {"key": "k3", "value": 18, "timestamp": 18, "end": 23}
        ]
        assert [e["value"] for e in get(at, "/stores/visits?key=k3")[1]["entries"]] == list(range(3, 50, 5))

        seen, mark = [], ""
        while True:  # a page at a time
            page = get(at, f"/stores/counts?limit=2{mark}")[1]
            seen += [entry["key"] for entry in page["entries"]]
            if "next" not in page:
                break
            mark = f"&after={page['next']}"
        assert sorted(seen) == ["k0", "k1", "k2", "k3", "k4"]

        for path, code, text in [
            ("/stores/other", 404, "there is no store `other`; there are counts"),
            ("/stores/counts?key=x&type=int", 400, "`key` cannot be read: 'x'"),
            ("/stores/counts?type=date", 400, "`type` is one of"),
            ("/stores/counts?after=zz", 400, "`after` cannot be read"),
        ]:
            found_code, told = get(at, path)
            assert (found_code, told["error"][: len(text)]) == (code, text)

        told = CliRunner().invoke(cli, ["query", "counts", "--at", at, "--from-key", "k1", "--to-key", "k2"])
        assert told.exit_code == 0
        lines = [json.loads(line) for line in told.output.splitlines()]
        assert sorted(line["key"] for line in lines) == ["k1", "k2"]
        told = CliRunner().invoke(cli, ["query", "other", "--at", at])
        assert told.exit_code == 2
        assert "there is no store `other`" in told.output
    told = CliRunner().invoke(cli, ["query", "counts", "--at", at])
    assert told.exit_code == 2
    assert "does not answer" in told.output


class KeepsHeaders(ads.Processor):
    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        headers = [("from", b"caf\xc3\xa9"), ("none", None)]
        ctx.get_state_store("kept").put(record.key, ads.ValueTimestampHeaders(record.value, 7, headers))


@ads.topology(name="shop")
def keeping_headers(app: ads.App) -> None:
    kept = ads.store.timestamped_key_value_with_headers("kept", key=S)
    app.stream("in", key=S, value=I).process(KeepsHeaders, kept)


def test_headers_are_told_as_text() -> None:
    with running(RECORDS, keeping_headers) as (_, at):
        told = {"key": "k3", "value": 48, "timestamp": 7, "headers": [["from", "café"], ["none", None]]}
        assert get(at, "/stores/kept?key=k3")[1]["entries"] == [told]
        assert told in get(at, "/stores/kept")[1]["entries"]


def test_wall_clock_and_commit_requests_in_a_worker() -> None:
    def told(worker: Worker) -> int:
        found = worker.store("largest").get("beat")
        return 0 if found is None else int(found.value)

    mine = sum(hash_of(key) == hash_of("k0") for key, _, _ in RECORDS)
    with running(RECORDS, beats, commit_interval_ms=20) as (worker, _):
        deadline = time.monotonic() + 60
        while told(worker) < max(mine, len(RECORDS) - mine):  # beats go on without records
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert sum(v for _, v in worker.store("beats").all()) == len(RECORDS)
        assert not worker.quarantined
