"""Topics that no topology names: a function of `to` does, for each record.

They are looked for when a record is written to them first, on the worker's thread, and kept by its task: that a topic has
more partitions now shows after a restart, as with every other topic. What leads nowhere is a dead letter, and asked for
again, but not with every record (`ABSENT_MS`).

In Kafka Streams the producer asks the broker, which makes the topic if it is set to do so; here `--create-topics` says it,
as for topics that the topology names.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from adstream.interfaces import Log, TopicSpec

ABSENT_MS = 1_000
_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}", re.ASCII)
"""What Kafka takes as a topic's name."""


class FoundTopics:
    """Called with a topic's name: its partitions; None: there is no such topic.

    Args:
        create: how many partitions a topic gets that is missing; None: none is made.
    """

    def __init__(self, log: Log, clock_ms: Callable[[], int], create: int | None) -> None:
        self._log, self._clock_ms, self._create = log, clock_ms, create
        self._absent: dict[str, int] = {}

    def __call__(self, topic: str) -> int | None:
        """Raises LogUnavailableError."""
        if not _NAME.fullmatch(topic):
            return None
        now = self._clock_ms()
        self._absent = {name: since for name, since in self._absent.items() if now - since < ABSENT_MS}
        if topic in self._absent:
            return None
        found = self._log.partitions([topic]).get(topic)
        if found is None and self._create is not None:
            self._log.create_topics([TopicSpec(topic, self._create)])
            found = self._create
        if found is None:
            self._absent[topic] = now
        return found
