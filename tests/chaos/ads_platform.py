"""`make chaos-platform SECONDS=600`: the whole ads platform under load, while its workers and its servers are killed.

`adstream run ads` works on a `market` as it is sent, evenly over the time given. Meanwhile, by a seeded plan, workers of random
jobs are killed, and each of the servers is killed and started again, one thing at a time. In the end all must be as the truth
says that it is (`market_truth.py`), the audit must be clean, and the supervisor leaves on SIGTERM.

That all is worked through is known by the lag that the workers tell: none, three times in a row. What nothing was left behind
of, but waits for time to pass, gets another `closing`.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing as closed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import redis as redis_client
from confluent_kafka import KafkaError, Producer

from adstream.cli.market_rows import differences
from adstream.jobs.ads import market_truth
from adstream.jobs.ads.market import Market, Sent, closing, day, opening
from adstream.jobs.ads.platform import JOBS
from adstream.jobs.ads.truth import Record
from tests.servers import Kafka, Postgres, Redis, killable
from tests.servers.server import Server, free_port

START_S, SETTLE_S, STOP_S = 120.0, 240.0, 60.0
CLOSINGS = 4
"""So often time moves on before what is still missing is missing."""
TICK_S = 0.1
AWAY_S = 2.0
"""How long a server stays away, beyond what it needs to start."""


@dataclass
class Report:
    """What a round was like."""

    seed: int
    events: int
    faults: Counter[str] = field(default_factory=Counter)
    settled_s: float = 0.0
    """From the last event sent to no lag."""
    lag_max: int = 0
    truth: market_truth.MarketTruth | None = None
    differences: dict[str, object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        good = "equal" if not (self.problems or self.differences) else "WRONG"
        faults = ", ".join(f"{name} {n}" for name, n in sorted(self.faults.items()))
        line = (
            f"seed {self.seed}: {good}; {self.events} events; {faults}; lag at most {self.lag_max} records,"
            f" none {self.settled_s:.1f} s after the last one"
        )
        return "\n  ".join([line, *self.problems, *(f"{what}: {how}" for what, how in self.differences.items())])


class Sender:
    """Writes records where they belong, whatever the broker goes through, and remembers them for the truth."""

    def __init__(self, kafka: Kafka) -> None:
        self.logs: dict[str, list[Record]] = defaultdict(list)
        self._ends: Counter[tuple[str, int]] = Counter()
        self._failed: list[KafkaError] = []
        self._producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 300_000,
                "on_delivery": lambda error, message: self._failed.append(error) if error else None,
                "delivery.report.only.error": True,
                "log_level": 2,
                "error_cb": lambda error: None,
            }
        )

    def send(
        self, records: Iterable[Sent], seconds: float = 0.0, beside: Callable[[float], None] = lambda part: None
    ) -> None:
        """Evenly over `seconds`; `beside` is called now and then, with the part of the time that is over."""
        records = list(records)
        began, last = time.monotonic(), 0.0
        for n, record in enumerate(records):
            self.put(record)
            due = began + seconds * n / len(records)
            if time.monotonic() - last < TICK_S and time.monotonic() >= due:
                continue
            self.poll()
            asked = time.monotonic()
            beside((due - began) / seconds if seconds else 1.0)
            last = time.monotonic()
            began += last - asked  # the load waits while a server is brought back, else all of it would come at once
            time.sleep(max(0.0, due - asked))
        beside(1.0)
        self.flush()

    def put(self, record: Sent) -> None:
        topic, partition, key, value, at = record
        self._producer.produce(topic, value, key, partition, timestamp=at)
        self.logs[topic].append((partition, self._ends[topic, partition], key, value, at))
        self._ends[topic, partition] += 1

    def poll(self) -> None:
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(300) == 0
        assert not self._failed, self._failed[0]


class Round:
    def __init__(
        self, market: Market, seconds: float, kills: int, broker: bool, kafka: Kafka, postgres: Postgres, redis: Redis
    ) -> None:
        self._market, self._seconds = market, seconds
        self._random = Random(market.seed)
        self._kafka, self._postgres, self._redis = kafka, postgres, redis
        self._sql = postgres.create_database(f"market_{time.time_ns()}")
        self._port = free_port(len(JOBS))
        self.options: Sequence[str] = ()
        """More of them, for `adstream run ads`."""
        self._directory = Path(tempfile.mkdtemp(prefix="adstream-platform-"))
        self._report = Report(market.seed, market.events)
        # Servers and workers take turns: a worker that starts while a server is away in the first minute takes its settings for
        # wrong, and stops all (`supervisor.py`).
        servers: list[tuple[str, Server]] = [
            ("postgres", postgres),
            ("redis", redis),
            *([("broker", kafka)] if broker else []),
        ]
        self._random.shuffle(servers)
        faults: list[tuple[str, Server | None]] = [("worker", None)] * kills
        for n, server in enumerate(servers):
            faults.insert((n + 1) * len(faults) // 4, server)
        self._plan = [((n + 0.5) / len(faults), *fault) for n, fault in enumerate(faults)]

    def _open(self, supervisor: subprocess.Popen[bytes], sender: Sender) -> None:
        """Until the jobs run and advertisers have their money."""
        self._until(lambda: len(workers(supervisor.pid)) == len(JOBS), START_S, "every job has a worker")
        sender.send(opening(self._market))
        self._until(self._paid, START_S, "all payments are booked")

    @property
    def log(self) -> Path:
        return self._directory / "platform.log"

    def run(self) -> Report:
        report = self._report
        self._adstream("topics", "create", "ads", "--keep-all")
        sender = Sender(self._kafka)
        with self._platform() as supervisor:
            self._open(supervisor, sender)
            sender.send(day(self._market), self._seconds, lambda part: self._disturb(supervisor.pid, part))
            began = time.monotonic()
            self._until(self._settled, SETTLE_S, "the day is worked through")
            report.settled_s = time.monotonic() - began
            for again in range(CLOSINGS):
                sender.send(closing(self._market, again))
                self._until(self._settled, SETTLE_S, "everything is worked through")
                report.truth = market_truth.compute(sender.logs)
                with closed(redis_client.Redis.from_url(self._redis.url())) as shown:
                    report.differences = differences(report.truth, self._sql, shown)
                if not report.differences:
                    if not self._sees(sender.logs):
                        report.problems.append("with a click less all is equal, too: the check is blind")
                    break
            supervisor.send_signal(signal.SIGTERM)
            if (code := supervisor.wait(STOP_S)) != 0:
                report.problems.append(f"SIGTERM: exit code {code}")
        verdict = self._adstream("audit", "ads", "--sql", self._sql).splitlines()[-1]
        if "clean" not in verdict:
            report.problems.append(verdict)
        return report

    def _sees(self, logs: Mapping[str, Sequence[Record]]) -> bool:
        """Whether a click that costs something would be missed."""
        charged = next(n for n, record in enumerate(logs["ad-events"]) if b'"CLICK"' in (record[3] or b"")[:200])
        less = {**logs, "ad-events": [record for n, record in enumerate(logs["ad-events"]) if n != charged]}
        with closed(redis_client.Redis.from_url(self._redis.url())) as shown:
            found = differences(market_truth.compute(less), self._sql, shown)
        return {"balances", "net numbers", "gross numbers"} <= found.keys()

    def _adstream(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "adstream.cli", *arguments, "--bootstrap", self._kafka.bootstrap]
        return subprocess.run(
            command, cwd=self._directory, capture_output=True, text=True, check=True, timeout=120
        ).stdout

    @contextmanager
    def _platform(self) -> Iterator[subprocess.Popen[bytes]]:
        given = [
            "--bootstrap",
            self._kafka.bootstrap,
            "--sql",
            self._sql,
            "--redis",
            self._redis.url(),
            "--create-topics",
        ]
        given += ["--metrics-port", str(self._port), "-X", "kafka.session.timeout.ms=6000", *self.options]
        command = [sys.executable, "-m", "adstream.cli", "run", "ads", *given]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with self.log.open("ab") as out:
            process = subprocess.Popen(command, cwd=self._directory, stdout=out, stderr=out, env=environ)
        try:
            yield process
        finally:
            process.kill()  # its workers go with it
            process.wait()

    def _until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"not within {seconds:.0f} s: {what}; lags {self._lags()}\n{self.log.read_text()[-8000:]}"
                )
            time.sleep(0.2)

    def _paid(self) -> bool:
        with psycopg.connect(self._sql) as link:
            try:
                found = link.execute("SELECT count(*) FROM ads_ledger.posting WHERE kind = 'DEPOSIT'").fetchone()
            except psycopg.errors.UndefinedTable:
                return False
        return found == (2 * self._market.advertisers,)

    def _disturb(self, supervisor: int, part: float) -> None:
        while self._plan and part >= self._plan[0][0]:
            _, name, server = self._plan.pop(0)
            if server is not None:
                server.kill()
                time.sleep(AWAY_S)
                server.start()
            elif there := workers(supervisor):
                job = self._random.choice(sorted(there))
                os.kill(there[job], signal.SIGKILL)
                name = job
            self._report.faults[name] += 1

    def _lags(self) -> dict[str, float | None]:
        """Records that each job has not worked through; None: it does not say."""
        return {job.name: _lag(self._port + place) for place, job in enumerate(JOBS)}

    def _settled(self) -> bool:
        for _ in range(3):
            lags = self._lags().values()
            self._report.lag_max = max(self._report.lag_max, *(int(lag or 0) for lag in lags))
            if any(lag != 0 for lag in lags):
                return False
            time.sleep(0.3)
        return True


def _lag(port: int) -> float | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
    except OSError:
        return None
    lags = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("adstream_lag{")]
    return sum(lags) if lags else None


def workers(supervisor: int) -> dict[str, int]:
    """Process ids of a supervisor's workers, by job."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (place / "status").read_text(), (place / "cmdline").read_bytes().decode().split("\0")
        except OSError:  # it ended meanwhile
            continue
        if f"\nPPid:\t{supervisor}\n" in status and "run" in command:
            found[command[command.index("run") + 1]] = int(place.name)
    return found


def run(seed: int, seconds: float, rate: int, kills: int, *, broker: bool = True) -> Report:
    """One round, on servers of its own. `broker`: whether it is killed, too."""
    events = round(seconds * rate)
    market = Market(seed=seed, events=events, campaigns=max(20, min(400, events // 200)))
    with killable() as kafka, Postgres() as postgres, Redis() as redis:
        return Round(market, seconds, kills, broker, kafka, postgres, redis).run()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=int, default=1000, help="ad events per second")
    parser.add_argument("--kills", type=int, default=8, help="of workers; each server is killed once")
    parser.add_argument("--seed", type=int, default=1)
    given: Any = parser.parse_args(arguments)
    report = run(given.seed, given.seconds, given.rate, given.kills)
    print(report)
    return 1 if report.problems or report.differences else 0


if __name__ == "__main__":
    sys.exit(main())
