"""How far a run that stops at the end is: bars in a terminal, else a line every few seconds."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from adstream import Built
from adstream.errors import LogUnavailableError
from adstream.interfaces import Log, TopicPartition
from adstream.logs.files import FilesLog

if TYPE_CHECKING:
    from adstream.runtime.status import Status
    from adstream.runtime.worker import Worker

log = logging.getLogger(__name__)

LOOK_EVERY_S, LINE_EVERY_S = 0.1, 5.0
ASKED_MAX = 10
"""Each time takes the log some seconds; the transaction of a worker that was killed times out after 15 s."""


def positions(place: Log, app: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
    """Where an application stands, as soon as the log can say."""
    for _ in range(ASKED_MAX - 1):
        try:
            return place.committed(app, partitions)
        except LogUnavailableError as error:
            log.info("where %s stands cannot be said now, asked again: %s", app, error)
    return place.committed(app, partitions)


class Progress:
    """Watches a worker's status from a thread of its own."""

    def __init__(self, place: Log, built: Built, *, bars: bool) -> None:
        topics = built.inputs
        found = place.partitions(topics)
        self._partitions: list[TopicPartition] = [(t, p) for t in topics for p in range(found.get(t, 0))]
        self._ends = place.end_offsets(self._partitions, committed=True)
        committed = positions(place, built.app, self._partitions)
        starts = place.start_offsets(self._partitions)
        self.gone = {t: sum(starts[tp] for tp in starts if tp[0] == t and committed.get(tp) is None) for t in topics}
        """Offsets of each input that were deleted before the application first read it."""
        self._from = {tp: max(starts[tp], committed.get(tp) or 0) for tp in self._partitions}
        self._at = dict(self._from)
        self._place, self._app = place, built.app
        self.unit = place.unit(topics) if isinstance(place, FilesLog) else "offsets"
        console = Console(stderr=True)
        self._live = bars and console.is_terminal
        self._bars = Bars(
            TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"), console=console, transient=True,
        )  # fmt: skip
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._line_s = time.monotonic()

    @property
    def passed(self) -> int:
        """Of the inputs worked off since this run began, as far as seen, in `unit`s; of offsets more than there are
        records, where there are transactions."""
        return sum(self._at[tp] - self._from[tp] for tp in self._partitions)

    def watch(self, worker: Worker) -> None:
        self._thread = threading.Thread(target=self._run, args=(worker,), name="adstream-progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            try:
                last = self._place.committed(self._app, self._partitions)
                self._at |= {tp: at for tp, at in last.items() if at is not None}
            except Exception as error:
                log.debug("no last positions: %s", error)

    def _run(self, worker: Worker) -> None:
        if self._live:
            self._bars.start()
        restoring = self._bars.add_task("restoring", total=None, visible=False, note="")
        topics = sorted({topic for topic, _ in self._partitions})
        bars = {topic: self._bars.add_task(topic, total=self._total(topic), note="") for topic in topics}
        began = time.monotonic()
        while not self._done.wait(LOOK_EVERY_S):
            status = worker.status
            for task in status.tasks:
                self._at |= {tp: at for tp, at in task.positions.items() if tp in self._at}
            states = [task.restored for task in status.tasks if task.state == "restoring"]
            done = len(status.tasks) - len(states)
            self._bars.update(restoring, total=len(status.tasks), completed=done, visible=bool(states))
            speed = f"{self.passed / max(1e-9, time.monotonic() - began):,.0f}/s"
            for topic, bar in bars.items():
                self._bars.update(bar, completed=self._done_of(topic), note=speed)
            if not self._live and time.monotonic() - self._line_s >= LINE_EVERY_S:
                self._line(status, states, speed)
        if self._live:
            self._bars.stop()

    def _line(self, status: Status, restoring: list[float], speed: str) -> None:
        self._line_s = time.monotonic()
        total = sum(self._total(topic) for topic in {topic for topic, _ in self._partitions})
        log.info("%s: %d of %d %s, %s", status.state, self.passed, total, self.unit, speed)
        if restoring:
            log.info("restoring %d tasks, %.0f %% done", len(restoring), 100 * sum(restoring) / len(restoring))

    def _total(self, topic: str) -> int:
        return sum(self._ends[tp] - self._from[tp] for tp in self._partitions if tp[0] == topic)

    def _done_of(self, topic: str) -> int:
        return sum(self._at[tp] - self._from[tp] for tp in self._partitions if tp[0] == topic)
