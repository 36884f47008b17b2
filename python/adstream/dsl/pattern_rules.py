"""Rules: patterns that come, change and go while a job runs, said on a topic (docs/rules.md).

    key     the rule's id, text
    value   {"version": 3, "pattern": "small (amount < 1) -> large (amount > 500) within 10m"}    begins, or replaces an older one
            … "from": "2024-01-15T10:00:00Z"      not before this event time (text with a zone, or epoch ms)
            … "running": "drop"                   runs of older versions go at once; without it they go on to their end
            … "enabled": false                    nothing is looked for until a record says otherwise
            … "removed": true                     the rule is no more, and any version may come
            null                                  removed, and its runs go

A pattern is text in the language of `Pattern.parse`, or what `Pattern.to_json` wrote. Whoever reads the topic makes the form of
it that the core knows, here, once a record; the core does the rest (`rust/core/src/flow/rules.rs`). What is refused
here is a dead letter there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from adstream.dsl import serdes
from adstream.dsl.faults import fault
from adstream.dsl.graph import Graph
from adstream.dsl.natives import Native
from adstream.dsl.pattern import AfterMatchSkipStrategy, Pattern
from adstream.errors import TopologyError

if TYPE_CHECKING:
    from adstream.dsl.pattern_matches import Lowering

FIELDS = ("version", "pattern", "from", "running", "enabled", "removed")
VERSION_MAX = 2**63 - 1
TIME_MAX = 253_402_300_799_999
"""The end of the year 9999: what lies behind it is microseconds."""


class Rules:
    """Patterns that are said on a topic. Made by `App.rules`, for one `match`."""

    def __init__(self, graph: Graph, topic: str) -> None:
        self._graph, self.topic = graph, topic
        self._reader: Reader | None = None

    def check(self, text: str | Mapping[str, Any]) -> Pattern:
        """The pattern of a rule, if the `match` that reads this topic can look for it.

        Raises:
            TopologyError: as `Pattern.parse` and `match`.
        """
        if self._reader is None:
            raise fault(
                "bad_argument",
                f"nobody reads the rules of `{self.topic}`",
                operation="rules",
                hint="give them to `match`",
            )
        pattern = pattern_of(text)
        self._reader.lowered(pattern)
        return pattern

    def read_by(self, reader: Reader, node: str) -> dict[str, str]:
        """Declares that a node looks for them; returns what it is to know."""
        if self._reader is not None:
            raise fault(
                "bad_argument",
                f"the rules of `{self.topic}` are looked for already",
                operation="match",
                hint="use what that `match` returned twice",
            )
        self._reader = reader
        name = f"{node}-rules"
        self._graph.globals.append(
            {
                "name": name,
                "topic": self.topic,
                "key": serdes.string.to_plan(self._graph.register),
                "value": serdes.json_.to_plan(self._graph.register),
                "timestamp": None,
                "rules": self._graph.register(reader),
            }
        )
        return {"global": name, "store": f"{node}-rules-store"}


class _Natives(Graph):
    """Where the functions of one pattern are numbered."""

    def texts(self) -> list[Any]:
        for fn in self.callables:
            if not isinstance(fn, Native):
                raise fault(
                    "not_native", "a rule calls Python", operation="rules", hint="write its conditions as expressions"
                )
        return [json.loads(fn.__adstream_native__) for fn in self.callables if isinstance(fn, Native)]


class Reader:
    """Makes of a record what the core looks for. Called once a record, by whoever reads the topic.

    Args:
        lowering: of conditions, with functions numbered in this graph.
        skip: instead of what a pattern says.
    """

    def __init__(self, lowering: Callable[[Graph], Lowering], skip: AfterMatchSkipStrategy | None) -> None:
        self._lowering, self._skip = lowering, skip

    def lowered(self, pattern: Pattern) -> dict[str, Any]:
        """As the core reads it. Raises TopologyError."""
        pattern.explain()
        natives = _Natives()
        lowering = self._lowering(natives)
        document = pattern._document(lowering, self._skip)
        return {"pattern": document, "conditions": lowering.conditions, "natives": natives.texts()}

    def __call__(self, key: str | None, value: str | None) -> str:
        """Raises ValueError and TopologyError: why it is no rule."""
        if not key:
            raise ValueError("a rule's id is the record's key, and there is none")
        if value is None:
            return json.dumps({"id": key, "version": 0, "removed": True, "drop": True})
        change = read(value)
        said: dict[str, Any] = {"id": key, "version": change.get("version", 0), "drop": change.get("running") == "drop"}
        said |= {"enabled": change.get("enabled", True), "removed": change.get("removed", False)}
        if (at := change.get("from")) is not None:
            said["from"] = event_time(at)
        if (text := change.get("pattern")) is not None:
            pattern = pattern_of(text)
            said |= {"text": str(pattern), "rule": self.lowered(pattern)}
        return json.dumps(said, ensure_ascii=False)


def read(value: str) -> dict[str, Any]:
    """A record's value, checked but for the pattern. Raises ValueError."""
    try:
        said = json.loads(value)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(said, dict):
        raise ValueError(f"a rule is an object, not {said!r}")
    if unknown := sorted(set(said) - set(FIELDS)):
        raise ValueError(f"a rule has no {', '.join(map(repr, unknown))}; it has {', '.join(FIELDS)}")
    for name in ("enabled", "removed"):
        if not isinstance(said.get(name, False), bool):
            raise ValueError(f"`{name}` is true or false, not {said[name]!r}")
    if said.get("running", "finish") not in ("finish", "drop"):
        raise ValueError(f'`running` is "finish" or "drop", not {said["running"]!r}')
    json.dumps(said, ensure_ascii=False).encode()  # half a surrogate pair is no text
    if said.get("removed"):
        return said
    version = said.get("version")
    if type(version) is not int or not 0 <= version <= VERSION_MAX:
        raise ValueError(f"`version` is a whole number that grows, not {version!r}")
    return said


def event_time(at: object) -> int:
    """Of `from`, epoch ms. Raises ValueError."""
    if type(at) is int and 0 <= at <= TIME_MAX:
        return at
    if isinstance(at, str):
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is not None:
            return round(moment.timestamp() * 1000)
    raise ValueError(f"`from` is an event time with its zone, or epoch ms, not {at!r}")


def pattern_of(said: object) -> Pattern:
    """Raises TopologyError and ValueError."""
    if isinstance(said, str):
        return Pattern.parse(said)
    if isinstance(said, Mapping):
        return Pattern.from_json(json.dumps(said))
    raise ValueError(f"`pattern` is text or an object, not {said!r}")


__all__ = ["Reader", "Rules", "TopologyError", "event_time", "pattern_of", "read"]
