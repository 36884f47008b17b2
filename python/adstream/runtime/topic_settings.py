"""How topics must be set so that nothing is lost: judged by name, with what each setting would do.

wrong      what the application keeps there would be lost or refused: a start is refused
doubtful   it works, and may surprise: `adstream topics check` says so

topic                      setting                   wrong                        doubtful
internal (shuffle, sink,   cleanup.policy            has `compact`: frames of one key are no versions of one thing
changelog)                 retention.ms, .bytes      any limit: unread rows, state would be deleted
                           max.message.bytes         below 1 MB: frames are up to that
<app>-topology             cleanup.policy            not `compact`: the signature would be deleted
dead letters, outputs      cleanup.policy            compacts records without a key
                           message.timestamp.type                                 LogAppendTime
inputs                     cleanup.policy                                         has `compact`
                           retention.ms                                           below window + grace
                           message.timestamp.type                                 LogAppendTime, where it is the event time
all                        min.insync.replicas       more than there are replicas none to spare; 1 of several
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MESSAGE_BYTES = 1_000_000
"""Frames are cut below that."""
INTERNAL = ("edge", "sink", "changelog")

TopicConfigs = Mapping[str, Mapping[str, str]]
"""Topic -> setting -> value. `replication.factor` is among them; what a log does not know is absent."""


@dataclass(frozen=True, slots=True)
class Remark:
    topic: str
    setting: str
    value: str
    why: str
    remedy: str
    wrong: bool

    def __str__(self) -> str:
        return f"`{self.topic}` has {self.setting}={self.value}: {self.why}; set {self.setting}={self.remedy}"


def remarks(kinds: Mapping[str, str], plan: Mapping[str, Any] | None, configs: TopicConfigs) -> list[Remark]:
    """What there is to say, topic by topic.

    Args:
        kinds: topic -> `edge`, `sink`, `changelog`, `dead_letters`, `user` (an output), `input`, `topology`, `tasks`.
        plan: the plan document (`Built.plan`), for what windows need of the inputs; None: internal topics only.
    """
    found: list[Remark] = []
    for topic, kind in kinds.items():
        config = configs.get(topic)
        if config is None:
            continue
        if kind in INTERNAL:
            found += _internal(topic, config)
        elif kind == "topology":
            if "compact" not in _policy(config):
                found.append(_remark(topic, config, "cleanup.policy", "the signature would be deleted", "compact"))
        elif kind == "input" and plan is not None:
            found += _input(topic, config, plan)
        elif kind in ("user", "dead_letters") and plan is not None:
            found += _output(topic, config, kind, plan)
        if plan is not None:
            found += _replicas(topic, config)
    return found


def _internal(topic: str, config: Mapping[str, str]) -> Iterator[Remark]:
    if "compact" in _policy(config):
        yield _remark(topic, config, "cleanup.policy", "rows of the same key would be thrown away", "delete")
    for setting in ("retention.ms", "retention.bytes"):
        if config.get(setting, "-1") != "-1":
            yield _remark(topic, config, setting, "rows that nobody has read, or state, would be deleted", "-1")
    if int(config.get("max.message.bytes", MESSAGE_BYTES)) < MESSAGE_BYTES:
        yield _remark(topic, config, "max.message.bytes", "frames are up to 1 MB", "1048588")


def _input(topic: str, config: Mapping[str, str], plan: Mapping[str, Any]) -> Iterator[Remark]:
    if "compact" in _policy(config) and not _is_table(topic, plan):
        why = "older records of a key are thrown away, and a stream is all of them"
        yield _remark(topic, config, "cleanup.policy", why, "delete", wrong=False)
    windows = [node["window"] for node in plan["nodes"] if node["op"] == "aggregate" and node["window"]]
    needed = max((w["size_ms"] + w["grace_ms"] for w in windows), default=0)
    if 0 <= int(config.get("retention.ms", -1)) < needed:
        why = f"records are deleted before their windows close ({needed} ms with grace); a replay would miss them"
        yield _remark(topic, config, "retention.ms", why, f"{needed} or more", wrong=False)
    timed = any(node["op"] == "source" and node["topic"] == topic and node["timestamp"] for node in plan["nodes"])
    if config.get("message.timestamp.type") == "LogAppendTime" and not timed:
        why = "the event time is when the broker got a record, not when it was made"
        yield _remark(topic, config, "message.timestamp.type", why, "CreateTime", wrong=False)


def _is_table(topic: str, plan: Mapping[str, Any]) -> bool:
    """Whether nothing but a table is made of the topic: the newest record of a key is all it needs."""
    sources = [n["id"] for n in plan["nodes"] if n["op"] == "flow" and n["kind"] == "source" and topic in n["topics"]]
    readers = [n for n in plan["nodes"] if any(i[0] in sources for i in n["inputs"])]
    return bool(readers) and all(n["op"] == "flow" and n["kind"] == "table_source" for n in readers)


def _output(topic: str, config: Mapping[str, str], kind: str, plan: Mapping[str, Any]) -> Iterator[Remark]:
    keyed = kind != "dead_letters" and any(
        (node["op"] == "to_topic" and node["topic"] == topic and node.get("key"))
        or (node["op"] == "flow" and topic in node.get("topics", ()))  # keys are the user's there
        for node in plan["nodes"]
    )
    if "compact" in _policy(config) and not keyed:
        yield _remark(topic, config, "cleanup.policy", "records without a key would be refused", "delete")
    if config.get("message.timestamp.type") == "LogAppendTime":
        why = "readers see when a record was written, not its event time"
        yield _remark(topic, config, "message.timestamp.type", why, "CreateTime", wrong=False)


def _replicas(topic: str, config: Mapping[str, str]) -> Iterator[Remark]:
    replicas = int(config.get("replication.factor", 1))
    insync = int(config.get("min.insync.replicas", 1))
    if insync > replicas:
        yield _remark(
            topic, config, "min.insync.replicas", f"there are {replicas}: nothing can be written", str(replicas)
        )
    elif replicas > 1 and insync == replicas:
        why = f"there are {replicas}: without any one of them nothing can be written"
        yield _remark(topic, config, "min.insync.replicas", why, str(replicas - 1), wrong=False)
    elif replicas > 2 and insync == 1:
        why = "a commit that one broker alone has is lost with it"
        yield _remark(topic, config, "min.insync.replicas", why, "2", wrong=False)


def _policy(config: Mapping[str, str]) -> Sequence[str]:
    return config.get("cleanup.policy", "delete").split(",")


def _remark(
    topic: str, config: Mapping[str, str], setting: str, why: str, remedy: str, *, wrong: bool = True
) -> Remark:
    return Remark(topic, setting, config.get(setting, "?"), why, remedy, wrong)
