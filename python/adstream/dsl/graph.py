"""The nodes of a topology being built, in topological order, and the callables they use.

A node can only take inputs that exist, so the list needs no sorting. Nothing is ever removed or changed, with
one exception: `rename` gives a node the name that the user chose for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adstream.dsl.faults import fault
from adstream.errors import TopologyError
from adstream.interfaces import Listeners

# Names become parts of topic names.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)

Port = tuple[int, int]
"""A node's id and the number of its output."""


@dataclass(slots=True)
class Node:
    """One node of the plan; `about` is what `describe()` says of it."""

    id: int
    op: str
    name: str
    inputs: tuple[Port, ...]
    line: str | None
    parameters: dict[str, Any]
    about: str
    rung: str
    named: bool = False

    def to_plan(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "op": self.op,
            "name": self.name,
            "inputs": [list(port) for port in self.inputs],
            "line": self.line,
            **self.parameters,
        }


def check_name(name: object, operation: str) -> None:
    """Raises TopologyError: `bad_name`, it can be no part of a topic's name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (".", ".."):
        raise fault(
            "bad_name",
            f"`{name}` cannot be a name: it becomes part of topic names",
            operation=operation,
            hint="use letters, digits, `.`, `_` and `-`, at most 100, and not `.` or `..` alone",
        )


@dataclass(slots=True)
class Graph:
    app: str = ""
    nodes: list[Node] = field(default_factory=list)
    callables: list[Callable[..., Any]] = field(default_factory=list)
    stores: list[dict[str, Any]] = field(default_factory=list)
    """Of record flows, as the plan has them."""
    globals: list[dict[str, Any]] = field(default_factory=list)
    """Global tables, as the plan has them."""
    starts: dict[str, str | int] = field(default_factory=dict)
    """Topic -> where it is read from without a committed position: `earliest`, `latest`, `none`, or how far back, ms."""
    on_error: dict[str, Any] = field(default_factory=dict)
    """What becomes of records that fail, by stage."""
    wrappers: list[Callable[[str, Any], Any]] = field(default_factory=list)
    declared: dict[str, object] = field(default_factory=dict)
    """Store -> the very object that declared it."""
    kinds: dict[str, Callable[[Any], object]] = field(default_factory=dict)
    """Store -> what makes of it what processors are given."""
    timestamp: Any = None
    """How sources of keys and values find event times that do not say so themselves, as the plan has it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the topology is built with."""
    listeners: Listeners = field(default_factory=Listeners)
    _names: dict[str, Node] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)

    def add(
        self,
        op: str,
        inputs: tuple[Port, ...],
        line: str | None,
        parameters: dict[str, Any],
        *,
        about: str = "",
        rung: str = "expression",
        name: str | None = None,
        label: str | None = None,
    ) -> Node:
        """A new node. `name` is a wish: a number is added to it when it is taken; `label` is what a node without a name is
        called, by default its `op`."""
        node = Node(len(self.nodes), op, self._free(label or op, name), inputs, line, parameters, about, rung)
        self.nodes.append(node)
        self._names[node.name] = node
        return node

    def _free(self, op: str, wish: str | None) -> str:
        base = _UNFIT.sub("-", wish).strip("-")[:90] if wish else op
        if wish and base not in self._names:
            return base
        while True:
            number = self._numbers.get(base, 1 if wish else 0) + 1
            self._numbers[base] = number
            if (name := f"{base}-{number}") not in self._names:
                return name

    def register(self, fn: Callable[..., Any]) -> int:
        """The index of a callable in the plan's table."""
        for index, known in enumerate(self.callables):
            if known is fn or (type(known) is type(fn) and known == fn):
                return index
        self.callables.append(fn)
        return len(self.callables) - 1

    def rename(self, node: Node, name: str) -> None:
        """Gives a node the user's name for it, once."""
        check_name(name, "named")
        if node.named:
            raise fault(
                "renamed",
                f"it is called `{node.name}` already",
                operation="named",
                hint="name an operation once",
            )
        if self._names.get(name, node) is not node:
            raise self._taken(name)
        del self._names[node.name]
        node.name, node.named = name, True
        self._names[name] = node

    def _taken(self, name: str) -> TopologyError:
        other = self._names[name]
        return fault(
            "duplicate_name",
            f"`{name}` is the name of a {other.op} at {other.line}",
            operation="named",
            hint="choose another name",
        )
