"""Which topics must be cut into partitions alike, and how many partitions internal topics get from that.

Records of one key can only meet in one task, so whatever meets in a state must come from topics with equal partition counts:

    join, cogroup, aggregation of merged streams      all topics that reach it
    a table's store that others read (joins)          the topics of the table and of its readers

A `process` with stores asks for nothing: what it keeps may be by something else than the key. Global tables are in every
task as a whole.

A group gets its count from the user's topics in it, which must agree; else from an explicit `repartition(partitions=…)`; else
the application's default. In Kafka Streams: `CopartitionedTopicsEnforcer`, `RepartitionTopics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adstream.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Group:
    """Topics that must have equal partition counts, and an operation because of which."""

    topics: tuple[str, ...]
    node: str


def groups(subtopology: Mapping[str, Any]) -> list[Group]:
    """Of the record flow of a sub-topology (`Plan.describe()`), disjoint, each with more than one topic."""
    if all(node["op"] != "flow" for node in subtopology["nodes"]):
        return []
    reach = reach_of(subtopology)
    linked: list[tuple[set[str], str]] = []
    users: dict[str, set[str]] = {}
    for node in subtopology["nodes"]:
        if node["op"] != "flow" or not node["stores"] or node["kind"].startswith("process"):
            continue
        linked.append((set(reach[node["id"]]), node["name"]))
        for store in node["stores"]:
            users.setdefault(store, set()).update(reach[node["id"]])
    linked += [(topics, f"state `{store}`") for store, topics in users.items()]
    merged: list[tuple[set[str], str]] = []
    for topics, node in linked:
        if not topics:
            continue
        meeting = [other for other in merged if other[0] & topics]
        merged = [other for other in merged if not other[0] & topics]
        # The operation that is told is the first one in which more than one topic meets.
        names = [name for found, name in [*meeting, (topics, node)] if len(found) > 1]
        merged.append((topics.union(*(other[0] for other in meeting)), names[0] if names else node))
    return [Group(tuple(sorted(topics)), node) for topics, node in merged if len(topics) > 1]


def reach_of(subtopology: Mapping[str, Any]) -> dict[int, frozenset[str]]:
    """Node -> the topics whose records reach it without leaving the sub-topology."""
    own: dict[str, set[str]] = {}
    for source in subtopology["sources"]:
        if source["kind"] in ("user", "edge") and "node" in source:
            own.setdefault(source["node"], set()).add(source["topic"])
    reach: dict[int, frozenset[str]] = {}
    for node in subtopology["nodes"]:
        above = [] if node.get("shuffled") else [reach.get(origin, frozenset[str]()) for origin, _ in node["inputs"]]
        reach[node["id"]] = frozenset(own.get(node["name"], ())).union(*above)
    return reach


def edge_partitions(
    subtopologies: Sequence[Mapping[str, Any]], known: Mapping[str, int], edges: Iterable[str], default: int
) -> dict[str, int]:
    """The partition count of every internal topic. `known`: of the user's topics that are read.

    Raises:
        ConfigError: topics that must agree do not.
    """
    asked = {
        output["topic"]: int(output["partitions"])
        for sub in subtopologies
        for output in sub["outputs"]
        if output["kind"] == "edge" and output.get("partitions") is not None
    }
    counts = {topic: asked.get(topic, default) for topic in edges}
    for sub in subtopologies:
        for group in groups(sub):
            fixed = {topic: known[topic] for topic in group.topics if topic in known}
            _agree(group, fixed, fixed, asked)
            explicit = {topic: asked[topic] for topic in group.topics if topic in asked}
            _agree(group, {**fixed, **explicit}, fixed, asked)
            count = next(iter({**fixed, **explicit}.values()), default)
            counts |= {topic: count for topic in group.topics if topic in counts}
    return counts


def _agree(group: Group, counts: Mapping[str, int], fixed: Mapping[str, int], asked: Mapping[str, int]) -> None:
    if len(set(counts.values())) <= 1:
        return
    said = ", ".join(
        f"`{topic}` has {n}" if topic in fixed else f"`{topic}` asks for {n}" for topic, n in counts.items()
    )
    wanted = next(iter(fixed.values()), None)
    if any(topic in asked for topic in counts) and wanted is not None:
        hint = f"write `partitions={wanted}`, or leave it out: then the topic is made to fit"
    elif any(topic in asked for topic in counts):
        hint = "ask for the same `partitions` everywhere, or leave it out"
    else:
        hint = (
            "give them the same count, or move one of them through a topic of its own (`.repartition()`,"
            " of a table `.to_stream().repartition().to_table()`), which is made to fit"
        )
    raise ConfigError(
        f"partition counts must be equal of topics that meet in {_named(group.node)}, and differ: {said}",
        option="topics",
        hint=hint,
    )


def _named(node: str) -> str:
    return node if node.startswith("state ") else f"`{node}`"
