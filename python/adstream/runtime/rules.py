"""What is said of rules on their topic, by whoever runs `adstream rules`; what tasks make of it is the core's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adstream.dsl.pattern_rules import Reader
from adstream.errors import AdstreamError, ConfigError
from adstream.interfaces import Log, TopicSpec
from adstream.runtime.control import write_one

READ_ROWS = 10_000
SETTINGS = {"cleanup.policy": "compact"}


@dataclass(frozen=True, slots=True)
class SaidRule:
    """A rule as its topic says it last.

    Attributes:
        value: as it stands there; None: not an object.
        wrong: why it is none.
        offset: of its record.
        timestamp: when it was said, epoch ms.
    """

    id: str
    value: Mapping[str, Any] | None
    wrong: str | None
    offset: int
    timestamp: int

    @property
    def version(self) -> int:
        said = (self.value or {}).get("version")
        return said if type(said) is int else 0

    @property
    def enabled(self) -> bool:
        return bool((self.value or {}).get("enabled", True))


def prepared(log: Log, topic: str, *, create: bool) -> None:
    """Raises ConfigError: there is no such topic, or one that rules cannot be said on."""
    found = log.partitions([topic]).get(topic)
    if found is None and create:
        log.create_topics([TopicSpec(topic, 1, SETTINGS)])
    elif found is None:
        raise ConfigError(
            f"there is no topic `{topic}`", option="JOB", hint="`adstream rules put` makes it with the first rule"
        )
    elif found != 1:
        raise ConfigError(
            f"topic `{topic}` has {found} partitions: rules have one order",
            option="JOB",
            hint="make a topic with one partition for them",
        )


def current(log: Log, topic: str, reader: Reader) -> dict[str, SaidRule]:
    """What the topic says last of each rule that is not removed, by id."""
    found: dict[str, SaidRule] = {}
    where = (topic, 0)
    end = log.end_offsets([where], committed=True)[where]
    at = log.start_offsets([where])[where]
    records = log.reader()
    try:
        if at < end:
            records.add(*where, at)
        while at < end:
            batch = records.read(*where, READ_ROWS)
            if batch is None:
                records.wait(0.1)
                if records.at_end(*where):
                    break
                continue
            for offset, timestamp, key, value, _ in batch.records():
                rule = (key or b"").decode(errors="replace")
                if value is None or _removed(value):
                    found.pop(rule, None)
                else:
                    found[rule] = _said(rule, value, offset, timestamp, reader)
            at = batch.next_offset
    finally:
        records.close()
    return found


def _removed(value: bytes) -> bool:
    try:
        said = json.loads(value)
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("removed") is True


def _said(rule: str, value: bytes, offset: int, timestamp: int, reader: Reader) -> SaidRule:
    try:
        said = json.loads(value)
    except ValueError:
        said = None
    try:
        reader(rule, value.decode(errors="replace"))
        wrong = None
    except (AdstreamError, ValueError) as error:
        wrong = str(error)
    return SaidRule(rule, said if isinstance(said, dict) else None, wrong, offset, timestamp)


def say(
    log: Log,
    app: str,
    topic: str,
    reader: Reader,
    rule: str,
    value: Mapping[str, Any],
    now_ms: int,
    *,
    sleep: Callable[[float], None],
) -> None:
    """Writes what is to become of a rule, if it can be looked for.

    Raises:
        ConfigError: it is none.
        LogUnavailableError: it could not be written.
    """
    text = json.dumps(value, ensure_ascii=False)
    try:
        reader(rule, text)
    except (AdstreamError, ValueError) as error:
        raise ConfigError(f"rule `{rule}`: {error}", option="rules") from error
    write_one(log, app, topic, (0, now_ms, rule.encode(), text.encode(), []), sleep=sleep)
