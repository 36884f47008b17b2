"""What is said of rules on their topic, by whoever runs `adstream rules`; what tasks make of it is the core's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from adstream.dsl import pattern_rules
from adstream.dsl.pattern_rules import Reader
from adstream.errors import AdstreamError, ConfigError
from adstream.interfaces import Log, TopicSpec
from adstream.runtime.control import write_one

READ_ROWS = 10_000
SETTINGS = {"cleanup.policy": "compact"}


@dataclass(frozen=True, slots=True)
class SaidRule:
    """A rule as tasks know it that have heard its whole topic.

    Attributes:
        value: what was said of it; None: nothing that can be read.
        wrong: why this job cannot look for it.
        offset: of its record.
        timestamp: when it was said, epoch ms.
        refused: why a later record of it changed nothing.
    """

    id: str
    value: Mapping[str, Any] | None
    wrong: str | None
    offset: int
    timestamp: int
    refused: str | None = None

    @property
    def version(self) -> int:
        return int((self.value or {}).get("version", 0))

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
    """What tasks make of the topic, by id: each rule that is not removed."""
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
                text = None if value is None else value.decode(errors="replace")
                said = _after(found.pop(rule, None), SaidRule(rule, None, None, offset, timestamp), text, reader)
                found |= {} if said is None else {rule: said}
            at = batch.next_offset
    finally:
        records.close()
    return found


def _after(known: SaidRule | None, new: SaidRule, text: str | None, reader: Reader) -> SaidRule | None:
    """What a record makes of a rule, as `Rules::change` does in the core (`rust/core/src/flow/rules.rs`)."""
    if text is None:
        return None
    try:
        said = pattern_rules.read(text)
    except ValueError as error:
        return _refused(known, new, str(error))
    if said.get("removed"):
        return None
    before = known.value if known is not None and known.wrong is None else None
    if before is not None:
        if said["version"] < before["version"]:
            return _refused(known, new, f"version {said['version']} is older than {before['version']}")
        said = {**({"pattern": before["pattern"]} if "pattern" in before else {}), **said}
    try:
        reader(new.id, text)
        if before is not None and said["version"] == before["version"] and not _same(said, before):
            return _refused(known, new, f"version {said['version']} is known with another pattern")
    except (AdstreamError, ValueError, RecursionError) as error:
        return _refused(known, replace(new, value=said), str(error))
    return replace(new, value=said)


def _refused(known: SaidRule | None, new: SaidRule, why: str) -> SaidRule:
    if known is not None and known.wrong is None:
        return replace(known, refused=why)
    return replace(new, wrong=why)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether they look for one pattern, however it is written."""
    said = [one.get("pattern"), other.get("pattern")]
    return said[0] == said[1] or None in said or len({str(pattern_rules.pattern_of(pattern)) for pattern in said}) == 1


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
    except (AdstreamError, ValueError, RecursionError) as error:
        raise ConfigError(f"rule `{rule}`: {error}", option="rules") from error
    write_one(log, app, topic, (0, now_ms, rule.encode(), text.encode(), []), sleep=sleep)
