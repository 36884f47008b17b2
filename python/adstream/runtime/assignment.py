"""What there is to do: the tasks of a plan, the topics they need, and the checks before anything starts.

    task = sub-topology × partition, or sink × partition; numbered by partition, then sub-topology, then sink.
    The lease topic `<app>-tasks` has one partition per task: who owns partition k runs task k.

Group members share leases evenly, but by runs of numbers, and know nothing of what a task costs: a worker that joins gets
the lower half. Numbered by sub-topology first, it would get all sinks, and the old one all decoding. By partition, each
has a share of everything, as Kafka Streams' own assignor sees to.

So a task's number is what the whole application agrees on. It follows from the plan and the partition counts alone;
when either changes, the lease topic no longer fits and the start is refused, with the way out.

    topic             partitions                                settings
    user sources      theirs (must exist)
    global tables     theirs (must exist, unless the application writes them)
    user outputs      theirs, or the edges' count if created      kept for ever, if created
    edges             to fit (`copartition.py`), else the most  delete, unlimited: forgotten once processed
                      that a user source has
    sinks             the most that a user source has           the same
    changelogs        the tasks of their sub-topology           delete, unlimited: they are the state
    <source>-dlq      the source's
    <app>-topology    one                                       compact: what all that rests on (`manifest.py`)
    <app>-tasks       the number of tasks
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from adstream.errors import ConfigError
from adstream.interfaces import Log, TopicPartition, TopicSpec
from adstream.runtime import copartition, manifest, remade
from adstream.runtime.topic_settings import INTERNAL, MESSAGE_BYTES, TopicConfigs, remarks

KEYED = ("aggregate", "deduplicate")
"""Operations whose inputs must be cut into partitions in the same way."""

TOPIC_NAME_MAX = 249
_APP = re.compile(r"[A-Za-z0-9._-]*", re.ASCII)
"""What Kafka takes as part of a topic's name."""

_KEEP = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_FOREVER = {"retention.ms": "-1"}
"""Brokers forget by the records' own time: replayed history would be gone before anybody read it."""
_CONFIGS = {"edge": _KEEP, "sink": _KEEP, "changelog": _KEEP, "dead_letters": _FOREVER, "user": _FOREVER}


class Describes(Protocol):
    """What is asked of `adstream._core.Plan` here."""

    def describe(self) -> str: ...


@dataclass(frozen=True, slots=True)
class TaskSpec:
    index: int
    kind: Literal["stream", "sink"]
    subtopology: int
    """Of a stream task; -1 for a sink."""
    sink: str
    """Of a sink task; empty for a stream."""
    partition: int
    inputs: tuple[TopicPartition, ...]
    changelog: TopicPartition | None = None
    starts: Mapping[str, str | int] = field(default_factory=dict, hash=False)
    """Input topic -> where it begins without a committed position, if it is not its earliest record (`positions.py`)."""
    sources: tuple[str, ...] = ()
    """The operations that read topics of users, as `Task.stats` calls them."""
    shuffles: frozenset[str] = frozenset()
    """Edges through which records go one by one: whoever reads them takes the newest time for everybody's."""

    @property
    def name(self) -> str:
        """As logs and metrics show it: `0_3` as in Kafka Streams, `rows_3` for a sink."""
        return f"{self.sink or self.subtopology}_{self.partition}"


@dataclass(frozen=True, slots=True)
class Assignment:
    """Everything that workers of an application agree on."""

    app: str
    tasks: tuple[TaskSpec, ...]
    partitions: Mapping[str, int]
    """Of every topic of the plan."""
    user_sources: tuple[str, ...]
    edges: frozenset[str]
    """Internal topics whose records may be forgotten once processed; sink topics included."""
    levels: tuple[tuple[TopicPartition, ...], ...]
    """The inputs of stream tasks, upstream first: a level is final once the one before it is processed. What feeds itself,
    directly or through others, is one level."""
    topics: tuple[TopicSpec, ...]
    """To be created unless they exist; the lease topic is the last."""
    sinks: tuple[Mapping[str, Any], ...] = field(default=())
    globals: tuple[TopicPartition, ...] = ()
    """What every worker reads whole, for its global tables."""
    rules: tuple[str, ...] = ()
    """The global topics of rules: how far a task has heard of them is part of its state."""
    stores: tuple[dict[str, Any], ...] = ()
    """State stores of record flows: `name`, `kind`, `flavour`."""
    store_tasks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Store -> its tasks; global ones are not among them."""
    ids: Mapping[str, str] = field(default_factory=dict)
    """Topic -> its id, of those that are read, as far as the log tells."""
    dead_letter_bytes: Mapping[str, int] = field(default_factory=dict)
    """Dead-letter topic -> the largest record it takes."""

    @property
    def positioned(self) -> list[str]:
        """The topics in which it has positions that outlive a worker."""
        changelogs = {task.changelog[0] for task in self.tasks if task.changelog is not None}
        return sorted({*self.user_sources, *self.edges, *changelogs, *self.rules})

    @property
    def lease_topic(self) -> str:
        return f"{self.app}-tasks"


def prepare(
    log: Log,
    plan: Describes,
    *,
    edge_partitions: int | None = None,
    create_topics: bool = False,
    log_option: str = "--log",
    sleep: Callable[[float], None] = time.sleep,
) -> Assignment:
    """Enumerates the tasks and makes the topics they need.

    Args:
        edge_partitions: of new edges and sink topics; None: the most that a user source has.
        create_topics: whether missing output topics are created (inputs never are).
        log_option: what said which log, for errors.

    Raises:
        ConfigError: a topic is missing or has another partition count than the application was started with, or the
            plan does not fit what the application has stored (`manifest.py`).
        FatalError: a newer version of adstream has stored it.
        LogUnavailableError: the log stopped answering.
    """
    description = json.loads(plan.describe())
    app: str = description["app"]
    signature = manifest.topology_topic(app).name
    found = log.partitions([*_kinds(description), f"{app}-tasks", signature])
    now = manifest.signature(description, found)
    before = manifest.stored(log, app) if signature in found else None
    if before is not None:
        manifest.check(app, before, now)
        manifest.check_members(log, app, before, sleep)
    assignment = enumerate_tasks(
        description, found, edge_partitions=edge_partitions, create_topics=create_topics, log_option=log_option
    )
    remade.check_topics(log, app, before, assignment.positioned, found)
    log.create_topics(assignment.topics)
    ids: Mapping[str, str] = before.get("ids", {}) if before is not None else {}
    of_positions = log.topic_ids(assignment.positioned)
    remade.check_ids(app, {topic: ids[topic] for topic in of_positions if topic in ids}, of_positions)
    of_others = log.topic_ids(sorted({assignment.lease_topic, *(topic for topic, _ in assignment.globals)}))
    now = {**now, "ids": {**ids, **of_positions}}
    found_settings = log.topic_settings([spec.name for spec in assignment.topics])
    _check_settings(description, found_settings)
    manifest.agree(log, app, now, sleep=sleep)
    dead = {topic for topic, kind in _kinds(description).items() if kind == "dead_letters"}
    sizes = {topic: int(found_settings.get(topic, {}).get("max.message.bytes", MESSAGE_BYTES)) for topic in dead}
    return replace(
        assignment,
        ids={**of_others, **of_positions},
        dead_letter_bytes={topic: min(n, MESSAGE_BYTES) for topic, n in sizes.items()},
    )


def _check_settings(description: Mapping[str, Any], configs: TopicConfigs) -> None:
    """Refuses internal topics that would lose what is kept in them. (What a log does not tell is not judged.)"""
    kinds = topic_kinds(description)
    internal = {topic: kind for topic, kind in kinds.items() if kind in (*INTERNAL, "topology")}
    wrong = [r for r in remarks(internal, None, configs) if r.wrong]
    if wrong:
        raise ConfigError(
            "; ".join(map(str, wrong)),
            option="topics",
            hint="`kafka-configs.sh --alter --entity-type topics --entity-name TOPIC --add-config SETTING=VALUE`",
        )


def topic_kinds(description: Mapping[str, Any]) -> dict[str, str]:
    """Every topic of an application, its own ones included; a topic that is both an output and an input is an input."""
    sources = {s["topic"] for sub in description["subtopologies"] for s in sub["sources"] if s["kind"] == "user"}
    sources |= {found["topic"] for found in description.get("globals", ())}
    found = {topic: "input" if topic in sources else kind for topic, kind in _kinds(description).items()}
    app = description["app"]
    return {**found, manifest.topology_topic(app).name: "topology", f"{app}-tasks": "tasks"}


def enumerate_tasks(
    description: Mapping[str, Any],
    found: Mapping[str, int],
    *,
    edge_partitions: int | None = None,
    create_topics: bool = False,
    log_option: str = "--log",
) -> Assignment:
    """The pure part of `prepare`: `description` is `Plan.describe()`'s, `found` the partition counts of what
    exists."""
    app: str = description["app"]
    subtopologies: Sequence[Mapping[str, Any]] = description["subtopologies"]
    kinds = _kinds(description)
    sources = [s["topic"] for sub in subtopologies for s in sub["sources"]]
    user_sources = tuple(topic for topic in sources if kinds[topic] == "user")

    for topic in sources:
        if sources.count(topic) > 1:
            raise ConfigError(
                f"topic `{topic}` is read by two sub-topologies: its positions would be committed twice",
                option="topology",
                hint="read it once and use that stream twice",
            )
    global_topics = list(dict.fromkeys(found["topic"] for found in description.get("globals", ())))
    only_read = [*user_sources, *(topic for topic in global_topics if kinds[topic] == "global")]
    missing = [topic for topic in only_read if topic not in found]
    ruling = [found["topic"] for found in description.get("globals", ()) if found.get("rules")]
    if missing:
        made = "`adstream topics create JOB` and `adstream rules put` make one of rules"
        raise ConfigError(
            f"there is no topic {_names(missing)}",
            option="topics",
            hint=f"check the name and which log it is ({log_option}); "
            + (made if missing[0] in ruling else "input topics are never created"),
        )

    for rules in ruling:
        if found[rules] != 1:
            raise ConfigError(
                f"topic `{rules}` has {found[rules]} partitions: rules have one order",
                option="topics",
                hint="make a topic with one partition for them",
            )
    dead_from: dict[str, str] = {
        o["topic"]: o["source"] for sub in subtopologies for o in sub["outputs"] if o["kind"] == "dead_letters"
    }
    widest = edge_partitions or max((found[topic] for topic in user_sources), default=1)
    known = {topic: found[topic] for topic in user_sources}
    edges = copartition.edge_partitions(
        subtopologies, known, (topic for topic, kind in kinds.items() if kind == "edge"), widest
    )
    partitions: dict[str, int] = {}
    absent_outputs: list[str] = []
    for topic, kind in kinds.items():
        if kind == "user":
            partitions[topic] = found.get(topic, widest)
            if topic not in found:
                absent_outputs.append(topic)
        elif kind == "global":
            partitions[topic] = found[topic]
        elif kind in ("edge", "sink"):
            partitions[topic] = edges.get(topic, widest)
        elif kind == "dead_letters":
            partitions[topic] = found.get(topic) or found[dead_from[topic]]
    if absent_outputs and not create_topics:
        raise ConfigError(
            f"there is no output topic {_names(absent_outputs)}",
            option="--create-topics",
            hint=f"create it, or start with --create-topics ({widest} partitions each)",
        )

    tasks: list[TaskSpec] = []
    for sub in subtopologies:
        topics = [s["topic"] for s in sub["sources"]]
        counts = {topic: partitions[topic] for topic in topics}
        reach = copartition.reach_of(sub)
        for node in sub["nodes"]:
            meeting = {topic: counts[topic] for topic in topics if topic in reach[node["id"]]}
            if node["op"] in KEYED and len(set(meeting.values())) > 1:
                raise ConfigError(
                    f"inputs that meet in one state have different partition counts: {meeting}",
                    option="topics",
                    hint="give them the same count, or re-key one of them (`group_by`), which shuffles it",
                )
        changelog = next((o["topic"] for o in sub["outputs"] if o["kind"] == "changelog"), None)
        count = max(counts.values(), default=0)  # of a pattern that matches nothing yet, in a test driver
        if changelog is not None:
            partitions[changelog] = count
        nodes = tuple(s["node"] for s in sub["sources"] if s["kind"] == "user" and "node" in s)
        flows = {node["name"] for node in sub["nodes"] if node["op"] == "flow"}
        shuffles = frozenset(o["topic"] for o in sub["outputs"] if o["kind"] == "edge" and o.get("node") in flows)
        for p in range(count):
            inputs = tuple((topic, p) for topic in topics if p < counts[topic])
            store = None if changelog is None else (changelog, p)
            starts = {topic: given for topic, given in description.get("starts", {}).items() if topic in counts}
            tasks.append(TaskSpec(len(tasks), "stream", sub["id"], "", p, inputs, store, starts, nodes, shuffles))
    for sink in description["sinks"]:
        for p in range(partitions[sink["topic"]]):
            tasks.append(TaskSpec(len(tasks), "sink", -1, sink["name"], p, ((sink["topic"], p),)))
    tasks = [replace(task, index=i) for i, task in enumerate(sorted(tasks, key=lambda task: task.partition))]

    specs = [
        TopicSpec(topic, count, _CONFIGS.get(kinds[topic], {}))
        for topic, count in partitions.items()
        if topic not in only_read
    ]
    specs.append(manifest.topology_topic(app))
    specs.append(TopicSpec(f"{app}-tasks", len(tasks), {"cleanup.policy": "delete"}))
    long = [spec.name for spec in specs if len(spec.name) > TOPIC_NAME_MAX]
    if not _APP.fullmatch(app):
        raise ConfigError(
            f"no topic can be called `{app}-tasks`, as one of this application would be",
            option="--app",
            hint="write letters, digits, `.`, `_` and `-` (of ASCII)",
        )
    if long:
        raise ConfigError(
            f"a topic of this application would be called `{long[0]}`, which has {len(long[0])} characters",
            option="--app",
            hint=f"a topic's name has {TOPIC_NAME_MAX} at most: shorten the application's name, or an operation's or store's",
        )
    _check_unchanged(app, specs, found)
    return Assignment(
        app=app,
        tasks=tuple(tasks),
        partitions=partitions,
        user_sources=user_sources,
        edges=frozenset(t for t, kind in kinds.items() if kind in ("edge", "sink")),
        levels=_levels(subtopologies, tasks),
        topics=tuple(specs),
        sinks=tuple(description["sinks"]),
        globals=tuple((topic, p) for topic in global_topics for p in range(partitions[topic])),
        rules=tuple(ruling),
        stores=tuple(description.get("stores", ())),
        store_tasks=_store_tasks(subtopologies, tasks),
    )


def _store_tasks(subtopologies: Sequence[Mapping[str, Any]], tasks: Sequence[TaskSpec]) -> dict[str, tuple[int, ...]]:
    of = {store: sub["id"] for sub in subtopologies for node in sub["nodes"] for store in node.get("stores", ())}
    return {
        store: tuple(task.index for task in tasks if task.kind == "stream" and task.subtopology == number)
        for store, number in of.items()
    }


def _kinds(description: Mapping[str, Any]) -> dict[str, str]:
    """Every topic of the plan and what it is; a topic that is both an output and a source is a user topic."""
    kinds: dict[str, str] = {}
    for sub in description["subtopologies"]:
        for place in (*sub["sources"], *sub["outputs"]):
            kinds.setdefault(place["topic"], place["kind"])
    for sink in description["sinks"]:
        kinds.setdefault(sink["topic"], "sink")
    for found in description.get("globals", ()):
        kinds.setdefault(found["topic"], "global")
    return kinds


def _check_unchanged(app: str, specs: Sequence[TopicSpec], found: Mapping[str, int]) -> None:
    for spec in specs:
        have = found.get(spec.name, spec.partitions)
        if have != spec.partitions:
            raise ConfigError(
                f"topic `{spec.name}` has {have} partitions, {spec.partitions} are needed now:"
                " the topology or the partitions of an input changed since this application first ran",
                option="topics",
                hint=f"start beside the old one under another application id (`--app {app}-2`)",
            )


def _levels(
    subtopologies: Sequence[Mapping[str, Any]], tasks: Sequence[TaskSpec]
) -> tuple[tuple[TopicPartition, ...], ...]:
    writers: dict[str, set[int]] = {}
    for sub in subtopologies:
        for output in sub["outputs"]:
            if output["kind"] == "edge":
                writers.setdefault(output["topic"], set()).add(sub["id"])
    upstream = {
        sub["id"]: {w for s in sub["sources"] if s["kind"] == "edge" for w in writers.get(s["topic"], ())}
        for sub in subtopologies
    }
    # Sub-topologies that feed one another (a foreign-key join asks and is answered) are one level.
    reach = {sub: _reach(sub, upstream) for sub in upstream}
    circle = {sub: {other for other in reach[sub] if sub in reach[other]} | {sub} for sub in upstream}
    levels: list[tuple[TopicPartition, ...]] = []
    done: set[int] = set()
    while len(done) < len(upstream):
        ready = {sub for sub in upstream if sub not in done and reach[sub] <= done | circle[sub]}
        levels.append(tuple(tp for task in tasks if task.subtopology in ready for tp in task.inputs))
        done |= ready
    return tuple(levels)


def _reach(sub: int, upstream: Mapping[int, set[int]]) -> set[int]:
    """All that lies upstream, near and far; itself, if its own records come back to it."""
    found: set[int] = set()
    waiting = list(upstream[sub])
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting += upstream[other]
    return found


def _names(topics: Sequence[str]) -> str:
    return ", ".join(f"`{topic}`" for topic in topics)
