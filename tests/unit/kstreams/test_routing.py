"""A store of three workers, read by asking any one of them; while tasks move there is the whole answer or none."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from typer.testing import CliRunner

from adstream._core import Plan, RawBatch
from adstream.cli.commands import app as cli
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime.assignment import prepare
from adstream.runtime.launch import clock_ms
from adstream.runtime.lifecycle import WorkerState
from adstream.runtime.metrics import MetricsServer, WorkerCollector
from adstream.runtime.routing import answer
from adstream.runtime.settings import Settings
from adstream.runtime.worker import Worker
from tests.servers.server import free_port
from tests.truth.murmur import javas_partition
from tests.unit.kstreams.test_asking import get, shop

PARTITIONS = 7
KEYS = [f"k{i}" for i in range(60)]
RECORDS = [(key, n, 10 * n) for n in range(3) for key in KEYS]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Members:
    """Workers of one application, each in a thread, each with HTTP."""

    def __init__(self, parts: ExitStack) -> None:
        self._parts = parts
        built = shop.build()
        self.plan, self.log = Plan(built.json, built.callables), EmbeddedLog()
        self.log.create_topics([TopicSpec("in", PARTITIONS)])
        by_partition: dict[int, list[Any]] = {p: [] for p in range(PARTITIONS)}
        for key, value, ts in RECORDS:
            rows = by_partition[javas_partition(key.encode(), PARTITIONS)]
            rows.append((len(rows), ts, key.encode(), value.to_bytes(8), []))
        assert all(by_partition.values())
        outputs = [("in", p, RawBatch(rows)) for p, rows in by_partition.items()]
        assert self.log.writer("send").commit(outputs, {}, "send", None) is Outcome.COMMITTED
        self.assignment = prepare(self.log, self.plan, create_topics=True)
        self.workers: list[Worker] = []
        self.at: list[str] = []

    def start(self, *, http: bool = True) -> Worker:
        at = f"127.0.0.1:{free_port()}"
        settings = Settings(app="shop", slot=len(self.workers), application_server=at if http else "")
        worker = Worker(self.plan, self.assignment, settings, self.log, clock_ms, {})
        if http:
            collector = WorkerCollector("shop", lambda: worker.status)
            port = int(at.split(":")[1])
            server = MetricsServer(collector, lambda: worker.status, clock_ms, port, "127.0.0.1", worker=worker)
            self._parts.callback(server.close)
        thread = threading.Thread(target=worker.run)
        thread.start()
        self._parts.callback(thread.join)
        self._parts.callback(worker.stop)
        self.workers.append(worker)
        self.at.append(at)
        return worker

    def settled(self) -> bool:
        """Every task runs somewhere, and every worker knows where."""
        alive = [worker for worker in self.workers if not worker.state.over]
        owned = Counter(index for worker in alive for index in worker.running())
        done = sum(worker.status.rows for worker in self.workers) >= len(RECORDS)
        known = {index: at for at, worker in zip(self.at, self.workers, strict=True) for index in worker.running()}
        return done and owned == dict.fromkeys(range(PARTITIONS), 1) and all(w.owners() == known for w in alive)


@contextmanager
def members(count: int) -> Iterator[Members]:
    with ExitStack() as parts:
        made = Members(parts)
        for _ in range(count):
            made.start()
        until(made.settled)
        yield made


def every(at: str, query: str) -> list[Any]:
    found, mark = [], ""
    while True:
        code, page = get(at, f"/stores/counts?limit=4{query}{mark}")
        assert code == 200, page
        found += page["entries"]
        if "next" not in page:
            return found
        mark = f"&after={page['next']}"


def test_any_worker_answers_for_all() -> None:
    with members(3) as made:
        assert all(worker.running() for worker in made.workers)
        for at in made.at:
            for key in KEYS[:12]:
                _, told = get(at, f"/stores/counts?key={key}")
                assert told["entries"] == [{"key": key, "value": 3, "timestamp": 20}], told
            assert get(at, "/stores/counts?key=none") == (
                200,
                {"store": "counts", "kind": "timestamped_key_value", "entries": []},
            )
            assert sorted(entry["key"] for entry in every(at, "")) == sorted(KEYS)
            assert sorted(e["key"] for e in every(at, "&prefix=k1")) == sorted(k for k in KEYS if k.startswith("k1"))
            assert len(get(at, "/stores/windows?key=k3")[1]["entries"]) == 3
            assert get(at, "/stores/rates?key=k3&at=15")[1]["entries"][0]["value"] == 1
            assert get(at, "/stores/counts?type=no&key=3")[0] == 400
            assert get(at, "/stores/none")[0] == 404
        own = [{entry["key"] for entry in every(at, "&local=1")} for at in made.at]
        assert sum(map(len, own)) == len(set.union(*own)) == len(KEYS)
        assert all(own)
        _, told = get(made.at[0], "/owners")
        mine = {str(index): "here" for index in made.workers[0].running()}
        assert told["tasks"] == {str(k): v for k, v in made.workers[0].owners().items()} | mine

        def asked(*options: str) -> list[str]:
            done = CliRunner().invoke(cli, ["query", "counts", *options])
            assert done.exit_code == 0, done.output
            return sorted(done.stdout.splitlines())

        whole = asked("--at", made.at[1])
        assert len(whole) == len(KEYS)
        assert asked(*(part for at in made.at for part in ("--at", at))) == whole


def test_while_tasks_move_there_is_all_or_nothing() -> None:
    with members(2) as made:
        stop, wrong, seen = threading.Event(), list[Any](), Counter[int]()

        def ask() -> None:
            turn = 0
            while not stop.is_set():
                turn += 1
                key = KEYS[turn % len(KEYS)]
                code, told = get(made.at[turn % 2], f"/stores/counts?key={key}")
                seen[code] += 1
                if code not in (200, 503) or (code == 200 and not told["entries"]):
                    wrong.append((code, told))

        asker = threading.Thread(target=ask)
        asker.start()
        third = made.start()
        until(made.settled)
        third.stop()
        until(lambda: third.state is WorkerState.NOT_RUNNING)
        until(made.settled)
        stop.set()
        asker.join()
        assert wrong == []
        assert seen[200] > 10
        assert sorted(entry["key"] for entry in every(made.at[0], "")) == sorted(KEYS)


def test_an_owner_that_does_not_answer_is_told() -> None:
    with members(2) as made:
        first, second = made.workers
        theirs = sorted(second.running())

        def away(url: str) -> tuple[int, Any]:
            raise OSError("nobody there")

        code, told = answer(first, "/stores/counts", "key=none", away)
        assert code == 503
        assert f"worker {made.at[1]}, which has tasks {theirs}, does not answer: nobody there" in told["error"]
        code, told = answer(first, "/stores/counts", "key=none", lambda url: (409, {"error": "gone"}))
        assert (code, told) == (503, {"error": f"tasks {theirs} are being moved: ask again"})
        assert answer(second, "/stores/counts", f"tasks={sorted(first.running())[0]}")[0] == 409
