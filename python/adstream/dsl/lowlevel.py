"""Topologies of named nodes: sources, processors, sinks, stores, in place of streams that are chained.

    app.add_source("lines", "lines", key=ads.serdes.string, value=ads.serdes.string)
    app.add_processor("count", Counter, "lines")
    app.add_state_store(ads.store.key_value("counts"), "count")
    app.add_sink("out", "counts", "count", key=ads.serdes.string, value=ads.serdes.int64)

The same nodes as streams are made of, by their names. A node's children are those that name it as a parent, in the order
in which they were added. In Kafka Streams: `Topology`.
"""

from __future__ import annotations

from collections.abc import Sequence

from adstream.dsl import flow, processors, serdes
from adstream.dsl.faults import fault, name_list, nearest, topic_name
from adstream.dsl.graph import Graph, Node, Port
from adstream.dsl.kstream import Fn
from adstream.dsl.serdes import Serde
from adstream.dsl.store import StoreBuilder


def _named(graph: Graph, name: str, operation: str) -> Node:
    for node in graph.nodes:
        if node.name == name:
            return node
    names = [node.name for node in graph.nodes if node.named]
    near = nearest(name, names)
    raise fault(
        "unknown_node",
        f"there is no node `{name}`",
        operation=operation,
        hint=f"did you mean `{near}`?" if near else f"there are: {name_list(names)}",
    )


def parents(graph: Graph, names: Sequence[str], operation: str) -> list[Port]:
    if not names:
        raise fault("bad_argument", "it has no parent", operation=operation, hint="name the node that it reads from")
    found = [_named(graph, name, operation) for name in names]
    for node in found:
        if node.parameters.get("kind") == "to":
            raise fault(
                "bad_argument",
                f"`{node.name}` is a sink, and nothing comes out of it",
                operation=operation,
                hint="name the node that the sink reads from, or read its topic with another source",
            )
    return [(node.id, 0) for node in found]


def add_sink(
    graph: Graph,
    name: str,
    topic: str | Fn,
    names: Sequence[str],
    key: Serde,
    value: Serde,
    topics: Sequence[str],
    partitioner: Fn | None,
) -> None:
    written = [topic_name(name, "add_sink") for name in ([topic] if isinstance(topic, str) else topics)]
    flow.add(
        graph,
        "to",
        parents(graph, names, "add_sink"),
        name=name,
        about=flow.about_topics(written),
        topics=written,
        key=serdes.check(key, "key", "add_sink").at(written, "key", "add_sink").to_plan(graph.register, writes=True),
        value=serdes.check(value, "value", "add_sink")
        .at(written, "value", "add_sink")
        .to_plan(graph.register, writes=True),
        **flow.topic_extractor(graph, topic, "add_sink"),
        partitioner=flow.call(graph, partitioner, "partitioner", "add_sink", 4) if partitioner else None,
    )


def connect(graph: Graph, name: str, stores: Sequence[str], operation: str) -> None:
    node = _named(graph, name, operation)
    if not stores:
        raise fault("bad_argument", "no store is named", operation=operation, hint="name one or several stores")
    if node.parameters.get("kind") != "process":
        raise fault(
            "bad_argument",
            f"`{name}` is no processor",
            operation=operation,
            hint="only processors have stores",
        )
    node.parameters["stores"] = sorted({*node.parameters["stores"], *stores})


def add_state_store(graph: Graph, builder: StoreBuilder, names: Sequence[str]) -> None:
    processors.declare(graph, builder, "add_state_store")
    for name in names:
        connect(graph, name, [builder.name], "add_state_store")
