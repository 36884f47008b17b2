"""Worker processes with standbys on a real Kafka, one of them killed: its heirs read only the tail of its changelogs.

Counted in records, from what the workers say of themselves (/metrics) and from what lies in the changelogs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from adstream._core import RawBatch
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.kafka import KafkaLog
from tests.integration.test_control import until
from tests.logs.conformance import KEPT, unique
from tests.servers import Kafka
from tests.servers.server import free_port
from tests.truth.murmur import javas_partition

pytestmark = pytest.mark.servers

JOB = """
import adstream as ads


@ads.topology
def counts(app: ads.App, source: str, out: str) -> None:
    text = ads.serdes.string
    counted = app.stream(source, key=text, value=text).group_by_key().count("counts")
    counted.to_stream().to(out, value=ads.serdes.int64)
"""
PARTITIONS = 6
KEYS = [f"key-{i}" for i in range(60)]


class Application:
    """Worker processes of one application, and what was sent to it."""

    def __init__(self, log: KafkaLog, kafka: Kafka, folder: Path, workers: int, *options: str) -> None:
        self.app, self.log, self.folder = unique("standby"), log, folder
        (folder / "counting.py").write_text(JOB)
        for topic in (f"{self.app}-in", f"{self.app}-out"):
            log.create_topics([TopicSpec(topic, PARTITIONS, KEPT)])
        self.writer = log.writer(unique("send"))
        self.sent = dict.fromkeys(KEYS, 0)
        self.command = [sys.executable, "-m", "adstream.cli", "run", "counting:counts", "--bootstrap", kafka.bootstrap]
        self.command += ["--app", self.app, "--set", f"source={self.app}-in", "--set", f"out={self.app}-out"]
        self.command += ["--commit-interval", "50ms", *options]
        self.ports = [free_port() for _ in range(workers)]
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        for slot in range(workers):
            self.start(slot)

    def start(self, slot: int) -> None:
        own = {"ADSTREAM_SLOT": str(slot), "ADSTREAM_WORKERS": "1", "ADSTREAM_APPLICATION_SERVER": "127.0.0.1"}
        with (self.folder / f"{slot}.log").open("ab") as file:
            self.processes[slot] = subprocess.Popen(
                [*self.command, "--metrics-port", str(self.ports[slot] - slot)],
                cwd=self.folder,
                env=os.environ | own,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def kill(self, slot: int) -> None:
        self.processes[slot].kill()
        self.processes[slot].wait()

    def send(self, times: int) -> None:
        rows: dict[int, list[tuple[bytes, bytes]]] = {}
        for key in KEYS * times:
            self.sent[key] += 1
            rows.setdefault(javas_partition(key.encode(), PARTITIONS), []).append((key.encode(), b"v"))
        outputs = [
            (f"{self.app}-in", p, RawBatch([(i, 1_000 + i, *row, []) for i, row in enumerate(some)]))
            for p, some in rows.items()
        ]
        assert self.writer.commit(outputs, {}, self.app, None) is Outcome.COMMITTED

    def counted(self) -> dict[str, int]:
        """The newest count of each key; they were told without gaps or repetitions, or it fails."""
        reader, found = self.log.reader(), dict.fromkeys(KEYS, 0)
        places = [(f"{self.app}-out", p) for p in range(PARTITIONS)]
        starts, ends = self.log.start_offsets(places), self.log.end_offsets(places, committed=True)
        for place in places:
            reader.add(*place, starts[place])
            at = starts[place]
            while at < ends[place]:
                reader.wait(1.0)
                batch = reader.read(*place, 10_000)
                for _, _, key, value, _ in batch.records() if batch is not None else ():
                    count, name = int.from_bytes(value or b"", "big"), (key or b"").decode()
                    assert count > found[name], f"{name} was counted {count} after {found[name]}"
                    found[name] = count
                at = batch.next_offset if batch is not None else at
        reader.close()
        return found

    def metrics(self, slot: int) -> dict[str, float]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[slot]}/metrics", timeout=10) as response:
                text = response.read().decode()
        except OSError:
            return {}
        lines = (line for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def named(self, slot: int, name: str, **labels: str) -> dict[str, float]:
        """Samples of a metric by task."""
        found = {}
        for sample, value in self.metrics(slot).items():
            fits = all(f'{label}="{wanted}"' in sample for label, wanted in labels.items())
            if sample.partition("{")[0] == name and fits:
                task = re.search(r'task="([^"]*)"', sample)
                found[task[1] if task else sample] = value
        return found

    def running(self, slot: int) -> set[str]:
        return set(self.named(slot, "adstream_task_state", state="running"))

    def caught_up(self, slots: list[int]) -> bool:
        """Each task runs in one worker and is followed in another, who has nothing left to read."""
        lags = [self.named(slot, "adstream_standby_lag") for slot in slots]
        followed = [task for lag in lags for task in lag]
        owned = [task for slot in slots for task in self.running(slot)]
        read = sum(sum(self.named(slot, "adstream_standby_records_total").values()) for slot in slots)
        return (
            sorted(followed) == sorted(owned)
            and len(set(owned)) == PARTITIONS
            and all(value == 0 for lag in lags for value in lag.values())
            and read > 0
        )

    def restored(self, slots: list[int]) -> dict[str, float]:
        names = ("standby", "changelog", "snapshot")
        by = {n: [self.named(slot, "adstream_restored_records_total", **{"from": n}) for slot in slots] for n in names}
        return {name: sum(sum(found.values()) for found in parts) for name, parts in by.items()}

    def close(self) -> None:
        for slot, process in self.processes.items():
            process.kill()
            process.wait()
            print(slot, (self.folder / f"{slot}.log").read_text()[-3_000:])
        self.writer.close()


@pytest.mark.parametrize(("workers", "options"), [(2, ()), (3, ()), (2, ("--store-type", "disk"))])
def test_killed_while_all_is_quiet(
    log: KafkaLog, kafka: Kafka, tmp_path: Path, workers: int, options: tuple[str, ...]
) -> None:
    """Standbys have read everything: nothing at all is left for the take-over. With three workers nobody follows everything:
    the right ones do."""
    if options:
        options += ("--state-dir", "state")
    application = Application(log, kafka, tmp_path, workers, "--standbys", "1", *options)
    slots = list(range(workers))
    try:
        until(lambda: sum(len(application.running(slot)) > 0 for slot in slots) == workers, "all have tasks")
        for _ in range(5):
            application.send(3)
        until(lambda: application.counted() == application.sent, "all is counted")
        until(lambda: application.caught_up(slots), "the standbys have read everything")
        left = slots[1:]
        theirs = application.running(0)
        before = application.restored(left)
        application.kill(0)
        until(lambda: sum(len(application.running(slot)) for slot in left) == PARTITIONS, "the heirs have them all")
        after = application.restored(left)
        assert theirs
        assert after["changelog"] == before["changelog"]
        assert after["standby"] > before["standby"]
        application.send(1)
        until(lambda: application.counted() == application.sent, "it goes on where it was")
    finally:
        application.close()


def test_killed_in_the_middle_of_traffic(log: KafkaLog, kafka: Kafka, tmp_path: Path) -> None:
    """Again and again, each time started anew: nothing is counted twice, and what heirs read is a small part of what there is."""
    application = Application(log, kafka, tmp_path, 2, "--standbys", "1")
    slots = [0, 1]
    read = 0.0
    try:
        until(lambda: all(application.running(slot) for slot in slots), "both have tasks")
        for _ in range(40):
            application.send(5)
        until(lambda: application.counted() == application.sent, "all is counted")
        for victim in (0, 1, 0):
            until(lambda: application.caught_up(slots), "the standbys have read everything")
            application.send(2)
            heir = 1 - victim
            before = application.restored([heir])
            application.kill(victim)
            application.send(2)
            until(lambda heir=heir: len(application.running(heir)) == PARTITIONS, "the heir has them all")  # type: ignore[misc]
            after = application.restored([heir])
            assert after["standby"] > before["standby"]
            read += after["changelog"] - before["changelog"]
            application.start(victim)
            until(lambda: all(application.running(slot) for slot in slots), "both have tasks again")
            back = application.restored([victim])
            assert back["standby"] > 0  # it had followed them before it joined
            assert back["changelog"] < back["standby"] / 4
        until(lambda: application.counted() == application.sent, "all is counted")
        found = [topic for topic in log.topics() if topic.startswith(application.app) and topic.endswith("changelog")]
        assert len(found) == 1
        ends = log.end_offsets([(found[0], p) for p in range(PARTITIONS)], committed=True)
        print(f"read by take-overs: {read:.0f} of {sum(ends.values())} records")
        assert read < sum(ends.values()) / 4
    finally:
        application.close()
