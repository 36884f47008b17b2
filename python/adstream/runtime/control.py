"""What is said to all workers of an application at once: records in `APP-topology`, beside the signature (`manifest.py`).

    key `pause`    {"paused": bool, "at_ms": …}               holds until the next one, and for workers that start later
    key `stop`     {"by": …, "error": …, "at_ms": …}          for those that run when it is written
    key `plan`     the signature                              whether those who start now share their work as those here do
    key `at-SLOT`  {"server": "HOST:PORT", "tasks": [0, …]}   which tasks that worker has, and where it answers (`routing.py`);
                                                              written in its commits, each time that changes

Kafka Streams tells its group to stop by a rebalance that carries an error; a record says it without one, and a pause, which
there is each instance's own, is the application's here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adstream._core import RawBatch
from adstream.errors import LogUnavailableError, OffsetGoneError
from adstream.interfaces import Log, Outcome, Reader
from adstream.runtime.commit import Commit, write
from adstream.runtime.manifest import KEY, PROTOCOL, protocol, topology_topic

if TYPE_CHECKING:
    from adstream._core import Output, Record

PAUSE, STOP, AT = b"pause", b"stop", b"at-"
ATTEMPTS = 10
PAUSE_S = 0.05
ROWS = 1_000


class Control:
    """What is said, as far as it was read."""

    def __init__(self, log: Log, reader: Reader, app: str) -> None:
        """Raises LogUnavailableError."""
        self._log, self._reader = log, reader
        self._where = (topology_topic(app).name, 0)
        self._new_from = log.end_offsets([self._where], committed=False)[self._where]
        self.position = 0
        self._begin()
        self.paused = False
        self.stop: Mapping[str, Any] | None = None
        self.owners: Mapping[int, str] = {}
        """Task -> the address of the worker that has it. Replaced whole, so that any thread may read it."""
        self._claims: dict[int, tuple[bytes, str]] = {}
        self._protocol = PROTOCOL

    @property
    def protocol(self) -> int:
        """Of the worker that started last. At its start each has seen to it that it is its own."""
        return self._protocol if self.position >= self._new_from else PROTOCOL

    def _begin(self) -> None:
        self.position = self._log.start_offsets([self._where])[self._where]
        self._reader.add(*self._where, self.position)

    def read(self) -> bool:
        """Takes what is there; returns whether something new was said."""
        try:
            batch = self._reader.read(*self._where, ROWS)
        except OffsetGoneError:
            self._reader.remove(*self._where)
            self._begin()
            return False
        before = (self.paused, self.stop)
        if batch is not None:
            self.position = batch.next_offset
        for offset, _, key, value, _ in batch.records() if batch is not None else ():
            if value is None:
                continue
            if key == KEY:
                self._protocol = protocol(json.loads(value))
            elif key == PAUSE:
                self.paused = bool(json.loads(value)["paused"])
            elif key == STOP and offset >= self._new_from:
                self.stop = json.loads(value)
            elif key is not None and key.startswith(AT):
                self._claim(key, json.loads(value))
        return (self.paused, self.stop) != before

    def _claim(self, who: bytes, said: Mapping[str, Any]) -> None:
        """Who claims a task last has it."""
        kept = {task: claim for task, claim in self._claims.items() if claim[0] != who}
        self._claims = kept | dict.fromkeys(said["tasks"], (who, said["server"]))
        self.owners = {task: server for task, (_, server) in self._claims.items()}


def claim(app: str, slot: int, server: str, tasks: Sequence[int]) -> Output:
    """What a worker adds to its commit when its tasks have changed."""
    said = {"server": server, "tasks": list(tasks)}
    record: Record = (0, 0, AT + str(slot).encode(), json.dumps(said).encode(), [])
    return (topology_topic(app).name, 0, RawBatch([record]))


def say(
    log: Log, app: str, key: bytes, what: Mapping[str, Any], *, sleep: Callable[[float], None] = time.sleep
) -> None:
    """To all workers, and whoever starts later; the application has run, so its topic exists.

    Raises:
        LogUnavailableError: it could not be written.
    """
    record: Record = (0, 0, key, json.dumps(what, ensure_ascii=False).encode(), [])
    write_one(log, app, topology_topic(app).name, record, sleep=sleep)


def write_one(
    log: Log,
    app: str,
    topic: str,
    record: Record,
    *,
    partition: int = 0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """One record, committed, to a topic that exists.

    Raises:
        LogUnavailableError: it could not be written.
    """
    trouble: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            writer = log.writer(topic)
        except LogUnavailableError as error:  # fenced while it was opened
            trouble = error
            sleep(PAUSE_S)
            continue
        try:
            commit = Commit([(topic, partition, RawBatch([record]))], {}, app, None)
            if write(writer, commit, lambda name: None).outcome is Outcome.COMMITTED:
                return
        finally:
            writer.close()
        sleep(PAUSE_S)
    raise LogUnavailableError(f"`{topic}` could not be written: others keep writing it") from trouble
