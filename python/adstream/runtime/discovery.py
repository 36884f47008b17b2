"""Sources of patterns: which topics they read, and when that has changed.

    app.stream(re.compile("orders-.*"))

A plan says which topics are read, and everything that workers agree on follows from it (`assignment.py`). So a pattern is made
topics of when a worker starts, and a worker that sees another topic that it matches stops, commits, and starts again with it:
what a rebalance does in Kafka Streams. Each worker looks for itself, so that for a moment two plans are at work in one group;
the one with fewer topics leaves the others alone, and a topic that was read once is not lost sight of by who sees it late: what
the application has written down (`manifest.py`) counts as seen.

The number of tasks is fixed (`assignment.py`): a topic that appears later may have as many partitions as the widest one so far.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from adstream.dsl.topology import Built
from adstream.errors import AdstreamError, ConfigError, LogUnavailableError
from adstream.interfaces import Log
from adstream.runtime import manifest

log = logging.getLogger(__name__)

LOOK_S = 10.0
"""How often topics are looked for. In Kafka Streams: `metadata.max.age.ms`, five minutes."""


def found(built: Built, log_: Log) -> Built:
    """With the topics that its patterns match now, and those that they matched when it ran before.

    Raises:
        ConfigError: a pattern matches none.
        LogUnavailableError: the log does not answer.
    """
    if not built.patterns:
        return built
    seen = built.matching({*log_.topics(), *_before(built, log_)})
    for node in seen.plan["nodes"]:
        if "pattern" in node and not node["topics"]:
            raise ConfigError(
                f"no topic matches `{node['pattern']}` yet",
                option="topics",
                hint="create one, and start again; further ones are found while it runs",
            )
    return seen


def _before(built: Built, log_: Log) -> list[str]:
    topic = manifest.topology_topic(built.app).name
    stored = manifest.stored(log_, built.app) if log_.partitions([topic]) else None
    return [] if stored is None else [name for name in stored["inputs"] if log_.partitions([name])]


class Watch:
    """Looks for topics on a thread of its own, and calls `on_change` there, once, when there are others than `seen` reads.

    Args:
        wait: waits so many seconds, or until it is closed; returns whether it is.
    """

    def __init__(
        self,
        built: Built,
        seen: Built,
        log_: Log,
        on_change: Callable[[], None],
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._built, self._read, self._log, self._on_change = built, {*seen.inputs}, log_, on_change
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait
        self._thread = threading.Thread(target=self._run, name="adstream-topics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join(LOOK_S)

    def _run(self) -> None:
        while not self._wait(LOOK_S):
            if self._look():
                self._on_change()
                return

    def _look(self) -> bool:
        try:
            now = self._built.matching({*self._log.topics(), *self._read})
        except LogUnavailableError as error:
            log.info("topics cannot be looked for now: %s", error)
            return False
        except AdstreamError as error:  # two patterns match a new topic: the start says so, where it can be read
            log.warning("%s", error)
            return True
        new = sorted({*now.inputs} - self._read)
        if new:
            log.info("there are new topics, %s: starting again with them", ", ".join(new))
        return bool(new)
