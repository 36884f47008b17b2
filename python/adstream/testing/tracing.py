"""`driver.trace(key)`: what became of each event of a key, so that a match that is missing can be explained.

The plan's patterns are given readers of what their runs did; a twin of the driver goes through the same records with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from adstream.dsl.pattern_matches import TIMED_OUT, TRACE, Traced, port_of


@dataclass(frozen=True, slots=True)
class TracedEvent:
    """An event, and what each run of its key did with it; or a run that was given up, because its window was over."""

    pattern: str
    """The operation's name, and of several patterns in one operation its own."""
    at: int
    """Event time, ms."""
    event: Any
    """None: no event, but the end of a window."""
    runs: tuple[Mapping[str, Any], ...]
    """As in `Matches.trace`."""
    timed_out: Mapping[str, Any] | None = None
    """What there was of a run that was given up, by stage."""

    def __str__(self) -> str:
        if self.timed_out is not None:
            return f"{self.at} {self.pattern}: timed out {_shown(self.timed_out)}"
        lines = [f"{self.at} {self.pattern}: {_shown(self.event)}"]
        for run in self.runs:
            since = "" if run["since"] is None else f" since {run['since']}"
            lines.append(f"    in {run['state']}{since}: {run['did']}")
            for edge in run["edges"]:
                why = f" if {edge['if']}: {'yes' if edge['holds'] else 'no'}" if edge["if"] else ""
                lines.append(f"        {edge['action']:<7} -> {edge['to']}{why}")
        return "\n".join(lines)


def _shown(value: Any) -> str:
    return ", ".join(f"{name}={part!r}" for name, part in value.items()) if isinstance(value, Mapping) else repr(value)


@dataclass(frozen=True, slots=True)
class Reader:
    """A topic that a pattern's trace, or its time-outs, are written to."""

    topic: str
    pattern: str
    texts: tuple[str, ...]
    timed_out: bool

    def read(self, at: int, value: Any) -> TracedEvent:
        if self.timed_out:
            return TracedEvent(self.pattern, at, None, (), value)
        said = Traced(self.texts)(value)
        return TracedEvent(self.pattern, said["at"], said["event"], tuple(said["runs"]))


def with_readers(plan: Mapping[str, Any], operation: str | None) -> tuple[dict[str, Any], list[Reader]]:
    """The plan with readers of the patterns of one operation, or of all; nothing else of it changes."""
    made = deepcopy(dict(plan))
    nodes, readers = made["nodes"], []
    for node in list(nodes):
        if node["op"] != "flow" or node["kind"] != "match" or operation not in (None, node["name"]):
            continue
        for place, port, name in _ports(node):
            wanted = node["others"][place - 1] if place else node
            wanted["trace" if port == TRACE else "timed_out"] = True
            topic = f"{node['name']}-driver-{place}-{port}"
            to = {"topics": [topic], "key": "internal_key", "value": "internal", "extractor": None, "partitioner": None}
            inputs = [[node["id"], port_of(place, port)]]
            about = {"id": len(nodes), "op": "flow", "name": topic, "inputs": inputs, "line": None}
            nodes.append({**about, "kind": "to", "stores": [], "internal": True, **to})
            readers.append(Reader(topic, name, tuple(node["texts"]), port == TIMED_OUT))
    return made, readers


def _ports(node: Mapping[str, Any]) -> Iterator[tuple[int, int, str]]:
    for place, label in enumerate(node["names"]):
        for port in (TIMED_OUT, TRACE):
            yield place, port, f"{node['name']}.{label}" if label else node["name"]
