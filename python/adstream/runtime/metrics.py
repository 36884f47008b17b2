"""What can be watched: Prometheus metrics, health and readiness over HTTP.

Everything comes from `Worker.status`, which the worker's own thread replaces about once a second: a scrape never
touches a task, and never waits for one.

    /metrics    counters of tasks and sinks, lag, commit times, restore progress, who holds time back
    /healthz    200 while the worker's thread moves (its status is younger than a minute) and it has not failed
    /readyz     200 when every task of this worker is running: none is being restored, none is set aside, and the log answers
    /stores     what the application has in state (`routing.py`), or this worker (`asking.py`)
    POST /pause, /resume    stops processing in this worker, and goes on (`Worker.pause`)

What the core counts is seen, so no drop has no counter:

    adstream_records{task, node, reason}       every end of a row: read, filtered:…, repeated, dead:…, counted, late, out
    adstream_state_keys, _bytes{task, node}    keyed state
    adstream_slowest_clock{task, node}         the event time (ms) up to which windows can close, and
    adstream_held_by_lane{task, node}          the upstream partition that holds it back
    adstream_held_windows{task, node}          windows that are open only for that, and
    adstream_held_seconds{task, node, topic, partition}   for how long that partition has not moved
    adstream_clock{task, topic}                the event time (ms) an input has come to
    adstream_global_keys, _records{table, …}   global tables: their keys, and what became of records by reason
    adstream_global_lag                        records of global tables that the start still waits for
    adstream_standby_lag{task}                 changelog records that a standby of this worker has not read

`process_resident_memory_bytes`, `process_cpu_seconds_total` and their kin are the Prometheus client's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from adstream.interfaces import TopicPartition
from adstream.runtime.asking import encoded
from adstream.runtime.daemon import DaemonExecutor
from adstream.runtime.routing import Routes, answer
from adstream.runtime.status import COMMIT_BOUNDS_S, Status, TaskStatus

log = logging.getLogger(__name__)

STALE_MS = 60_000
PAUSED = ", paused"
ENDS_EVERY_S = 5.0
ENDS_WAIT_S = 1.0
"""A scrape waits no longer: Prometheus would give it up, and everything else with it, when a broker says nothing."""

Ends = Callable[[Sequence[TopicPartition]], Mapping[TopicPartition, int]]


class Serves(Routes, Protocol):
    """What is asked of a worker beside its status."""

    @property
    def paused(self) -> bool: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class WorkerCollector(Collector):
    """Metrics of one worker.

    Args:
        status: the latest, from any thread.
        ends: committed ends of partitions, for lag; asked at most every five seconds on a thread of its own, left out when
            it fails or does not answer.
    """

    def __init__(self, app: str, status: Callable[[], Status], ends: Ends | None = None) -> None:
        self._app, self._status, self._ends = app, status, ends
        self._known_ends: Mapping[TopicPartition, int] = {}
        self._asked_s = float("-inf")
        self._asked: Future[Mapping[TopicPartition, int]] | None = None
        self._asker = DaemonExecutor("adstream-ends")
        self._asking = threading.Lock()
        """Two may scrape at once."""

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        self._ask_ends(status)
        yield self._family(
            GaugeMetricFamily, "adstream_worker_state", "1 for the state it is in", ["state"], [([status.state], 1)]
        )
        yield self._family(GaugeMetricFamily, "adstream_paused", "1 while it is paused", [], [([], int(status.paused))])
        troubled = int(status.trouble is not None)
        yield self._family(GaugeMetricFamily, "adstream_trouble", "1 while it waits for the log", [], [([], troubled)])
        yield self._family(
            CounterMetricFamily,
            "adstream_rows",
            "Records and rows processed and committed, those behind shuffles included",
            [],
            [([], status.rows)],
        )
        restored = [([where], n) for where, n in status.restored.items()]
        yield self._family(
            CounterMetricFamily,
            "adstream_restored_records",
            "Changelog records applied by restores",
            ["from"],
            restored,
        )
        yield self._family(
            CounterMetricFamily,
            "adstream_local_state_set_aside",
            "Stores on disk that could not be used and were restored from the changelog",
            [],
            [([], status.set_aside)],
        )
        commits = [([outcome], n) for outcome, n in status.commits.items()]
        yield self._family(CounterMetricFamily, "adstream_commits", "Commits by outcome", ["outcome"], commits)
        yield self._commit_times(status)
        yield from self._globals(status)
        yield from self._tasks(status.tasks)
        yield from self._standbys(status)
        held = [([h.task, h.node, h.topic, str(h.partition)], h.seconds) for h in status.held]
        labels = ["task", "node", "topic", "partition"]
        yield self._family(GaugeMetricFamily, "adstream_held_seconds", "Windows held open by", labels, held)
        yield self._lag(status)
        yield from self._sinks(status)

    def _globals(self, status: Status) -> Iterator[Metric]:
        if not status.globals:
            return
        keys = [([table], n) for table, (n, _) in status.globals.items()]
        yield self._family(GaugeMetricFamily, "adstream_global_keys", "Keys of global tables", ["table"], keys)
        counted = [
            ([table, reason], n) for table, (_, reasons) in status.globals.items() for reason, n in reasons.items()
        ]
        yield self._family(
            CounterMetricFamily,
            "adstream_global_records",
            "Records of global tables by what became of them",
            ["table", "reason"],
            counted,
        )
        yield self._family(
            GaugeMetricFamily,
            "adstream_global_lag",
            "Records that the start waits for",
            [],
            [([], status.globals_lag)],
        )

    def _tasks(self, tasks: Sequence[TaskStatus]) -> Iterator[Metric]:
        states = [([t.name, t.state], 1) for t in tasks]
        yield self._family(
            GaugeMetricFamily, "adstream_task_state", "1 for the state it is in", ["task", "state"], states
        )
        restored = [([t.name], t.restored) for t in tasks]
        yield self._family(
            GaugeMetricFamily, "adstream_task_restored", "Share of its state restored", ["task"], restored
        )
        buffered = [([t.name], t.buffered) for t in tasks]
        yield self._family(
            GaugeMetricFamily, "adstream_task_buffered", "Records read, not processed", ["task"], buffered
        )
        counted = [
            ([t.name, node, reason], n)
            for t in tasks
            for node, reasons in t.stats.get("counters", {}).items()
            for reason, n in reasons.items()
        ]
        yield self._family(
            CounterMetricFamily, "adstream_records", "Rows by what became of them", ["task", "node", "reason"], counted
        )
        clocks = [([t.name, topic], ms) for t in tasks for topic, ms in t.stats.get("clocks", {}).items()]
        yield self._family(GaugeMetricFamily, "adstream_clock", "Event time, ms", ["task", "topic"], clocks)
        nodes = [(t.name, node, stats) for t in tasks for node, stats in t.stats.get("nodes", {}).items()]
        for name in sorted({name for _, _, stats in nodes for name in stats}):
            values = [([task, node], stats[name]) for task, node, stats in nodes if name in stats]
            yield self._family(GaugeMetricFamily, f"adstream_{name}", name.replace("_", " "), ["task", "node"], values)

    def _standbys(self, status: Status) -> Iterator[Metric]:
        lags = [([s.name], self._behind(s.changelog, s.position)) for s in status.standbys]
        known = [(names, lag) for names, lag in lags if lag is not None]
        yield self._family(
            GaugeMetricFamily, "adstream_standby_lag", "Changelog records that a standby has not read", ["task"], known
        )
        read: list[tuple[list[str], int]] = [([], status.standby_records)]
        yield self._family(
            CounterMetricFamily, "adstream_standby_records", "Changelog records applied by standbys", [], read
        )

    def _behind(self, tp: TopicPartition, position: int | None) -> int | None:
        end = self._known_ends.get(tp)
        return None if end is None else max(0, end - (position or 0))

    def _ask_ends(self, status: Status) -> None:
        wanted = {tp for t in status.tasks for tp in t.positions} | {tp for s in status.sinks for tp in s.positions}
        wanted |= {s.changelog for s in status.standbys}
        if self._ends is None or not wanted:
            return
        with self._asking:
            if self._asked is None and time.monotonic() - self._asked_s >= ENDS_EVERY_S:
                self._asked_s = time.monotonic()
                self._asked = self._asker.submit(self._ends, sorted(wanted))
            if self._asked is None:
                return
            try:
                self._known_ends = self._asked.result(ENDS_WAIT_S)
            except Exception as error:
                self._known_ends = {}
                log.debug("no lag this time: %s", error or "nobody answers")
            if self._asked.done():
                self._asked = None

    def _lag(self, status: Status) -> Metric:
        at = {tp: position for t in status.tasks for tp, position in t.positions.items()}
        at |= {tp: position for s in status.sinks for tp, position in s.positions.items()}
        lags = [
            ([topic, str(p)], max(0, self._known_ends[topic, p] - position))
            for (topic, p), position in at.items()
            if (topic, p) in self._known_ends
        ]
        return self._family(GaugeMetricFamily, "adstream_lag", "Records behind the end", ["topic", "partition"], lags)

    def _sinks(self, status: Status) -> Iterator[Metric]:
        healthy = [([s.name], int(s.healthy)) for s in status.sinks]
        yield self._family(GaugeMetricFamily, "adstream_sink_healthy", "1 while its target works", ["sink"], healthy)
        for name in sorted({name for s in status.sinks for name in s.counters}):
            values = [([s.name], s.counters[name]) for s in status.sinks if name in s.counters]
            yield self._family(CounterMetricFamily, f"adstream_sink_{name}", name, ["sink"], values)

    def _commit_times(self, status: Status) -> Metric:
        buckets, total = [], 0
        for bound, count in zip((*map(str, COMMIT_BOUNDS_S), "+Inf"), status.commit_seconds, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family = HistogramMetricFamily("adstream_commit_seconds", "From closing to settled", labels=["app"])
        family.add_metric([self._app], buckets, status.commit_seconds_sum)
        return family

    def _family(
        self, kind: Any, name: str, text: str, labels: list[str], samples: Sequence[tuple[list[str], Any]]
    ) -> Metric:
        family: Metric = kind(name, text, labels=["app", *labels])
        for values, number in samples:
            family.add_metric([self._app, *values], float(number))  # type: ignore[attr-defined]
        return family


class MetricsServer:
    """A thread that answers /metrics, /healthz, /readyz and, of a worker, /stores. `port` 0 takes any free one;
    `self.port` says which."""

    def __init__(
        self,
        collector: Collector,
        status: Callable[[], Status],
        clock: Callable[[], int],
        port: int,
        host: str = "",
        worker: Serves | None = None,
    ) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        ProcessCollector(registry=registry)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                now = status()
                fresh = clock() - now.at_ms < STALE_MS
                path, _, query = self.path.partition("?")
                match path:
                    case _ if worker is not None and (path in ("/stores", "/owners") or path.startswith("/stores/")):
                        code, told = answer(worker, path, query)
                        self._answer(code, encoded(told), "application/json; charset=utf-8")
                    case "/metrics":
                        self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
                    case "/healthz":
                        good = fresh and now.state not in ("pending_error", "error")
                        self._answer(200 if good else 503, f"{now.state}{PAUSED if now.paused else ''}\n".encode())
                    case "/readyz":
                        self._answer(200 if fresh and now.ready else 503, _unready(now).encode())
                    case _:
                        self._answer(404, b"/metrics, /healthz, /readyz, /stores\n")

            def do_POST(self) -> None:
                if worker is None or self.path not in ("/pause", "/resume"):
                    self._answer(404, b"/pause, /resume\n")
                    return
                (worker.pause if self.path == "/pause" else worker.resume)()
                self._answer(200, b"paused\n" if worker.paused else b"resumed\n")

            def _answer(self, code: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                log.debug(format, *args)

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="adstream-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _unready(status: Status) -> str:
    waiting = [f"task {t.name}: {t.error or t.state}\n" for t in status.tasks if t.state != "running"]
    trouble = [] if status.trouble is None else [f"{status.trouble}\n"]
    return "".join([f"{status.state}\n", *trouble, *waiting])
