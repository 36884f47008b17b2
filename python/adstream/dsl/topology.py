"""Topologies: functions of settings that build a plan.

    @ads.topology
    def performance(app: ads.App, grace: str = "10s") -> None: ...

    performance.build(grace="30s")          the plan, its JSON, the callables
    performance(grace="30s").describe()     one line per node
    performance.parse(["grace=30s"])        settings from the command line, by annotation

Building has no side effects: the function is run anew, with a fresh `App`, each time.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import PurePath
from typing import Any, Union, get_args, get_origin, get_type_hints, overload

from adstream.dsl import drawing, flow
from adstream.dsl.app import App
from adstream.dsl.faults import DEAD_LETTERS, fault, function_line, name_list, nearest
from adstream.dsl.graph import Node
from adstream.errors import ConfigError, TopologyError
from adstream.interfaces import Listeners

_APP = re.compile(r"[A-Za-z0-9._-]{1,80}", re.ASCII)
_UNFIT = re.compile(r"[^A-Za-z0-9.-]+", re.ASCII)
_JOBS = "adstream.jobs."
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter of a topology function."""

    name: str
    type: Any
    default: Any = _REQUIRED

    @property
    def required(self) -> bool:
        return self.default is _REQUIRED

    def parse(self, text: str) -> Any:
        """The value that a text stands for, by the annotation. Raises ConfigError."""
        target, optional = _optional(self.type)
        if optional and text.lower() in ("", "none", "null"):
            return None
        try:
            if target is bool:
                return _TRUTH[text.lower()]
            if target in (int, float, Decimal):
                return target(text)
        except (KeyError, ValueError, InvalidOperation):
            raise ConfigError(
                f"not a valid {target.__name__}: {text!r}",
                option=f"--set {self.name}",
                hint=f"write `--set {self.name}={_EXAMPLES[target]}`",
            ) from None
        return text


_EXAMPLES = {bool: "true", int: "3", float: "0.5", Decimal: "12.50"}


def _optional(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, type(int | None)):
        options = [a for a in get_args(annotation) if a is not type(None)]
        if len(options) == 1:
            return options[0], True
    return annotation, False


_INTERNAL = ("-repartition", "-changelog", "-sink", "-tasks", "-topology")
"""How the names of topics end that an application makes for itself."""


def _is_pattern(node: Mapping[str, Any]) -> bool:
    return node["op"] == "flow" and node["kind"] == "source" and "pattern" in node


def _pattern(node: Mapping[str, Any]) -> re.Pattern[str]:
    return re.compile(node["pattern"], node["flags"])


@dataclass(frozen=True, slots=True)
class Built:
    """A topology as data: what `adstream._core.Plan` takes.

    Attributes:
        app: the application's id.
        plan: the document of `docs/plan.md`.
        callables: the Python functions it refers to, by index.
        settings: what it was built with.
        listeners: functions that a worker tells what it goes through.
    """

    app: str
    plan: dict[str, Any]
    callables: tuple[Callable[..., Any], ...]
    settings: Mapping[str, Any]
    nodes: tuple[Node, ...] = field(repr=False)
    listeners: Listeners = field(default_factory=Listeners, repr=False)

    @property
    def json(self) -> str:
        """The plan as one line of JSON."""
        return json.dumps(self.plan, ensure_ascii=False, separators=(",", ":"))

    @property
    def inputs(self) -> list[str]:
        """The topics that it reads and does not write for itself; global tables' are not among them."""
        topics: list[str] = []
        for node in self.plan["nodes"]:
            if node["op"] == "source":
                topics.append(node["topic"])
            elif node["op"] == "flow" and node["kind"] == "source" and not node.get("internal"):
                topics += node["topics"]
        return topics

    @property
    def patterns(self) -> list[re.Pattern[str]]:
        """Of the sources that read all topics that match one."""
        return [_pattern(node) for node in self.plan["nodes"] if _is_pattern(node)]

    def matching(self, topics: Iterable[str]) -> Built:
        """The same, whose sources of patterns read those of these topics that they match. What the application makes for itself
        is not among them, and neither are the dead letters of what is matched.

        Raises:
            TopologyError: `duplicate_source`, two patterns match one topic.
        """
        names = sorted({*topics})
        nodes, starts = [], dict(self.plan.get("starts", {}))
        readers: dict[str, str] = {}
        for node in self.plan["nodes"]:
            if _is_pattern(node):
                pattern = _pattern(node)
                found = [name for name in names if pattern.fullmatch(name) and not self._own(name)]
                # What fails is written to `<topic>-dlq`: read again, it would fail again.
                found = [name for name in found if name not in {f"{other}{DEAD_LETTERS}" for other in found}]
                for name in found:
                    if name in readers:
                        raise fault(
                            "duplicate_source",
                            f"`{name}` is matched by two patterns, `{readers[name]}` and `{pattern.pattern}`",
                            operation="stream",
                            line=node["line"],
                            hint="write patterns that do not overlap: each topic is read once",
                        )
                    readers[name] = pattern.pattern
                starts |= {name: node["start"] for name in found if "start" in node}
                node = {**node, "topics": found}
            nodes.append(node)
        return replace(self, plan={**self.plan, "nodes": nodes, **({"starts": starts} if starts else {})})

    def _own(self, topic: str) -> bool:
        """Whether it is Kafka's, or one that the application makes for itself."""
        return topic.startswith("__") or (topic.startswith(f"{self.app}-") and topic.endswith(_INTERNAL))

    def describe(self) -> str:
        """One line per node: number, name, inputs, what it does, its rung, the user's line.

        Sub-topologies are the core's to cut and are not shown.
        """
        rows = []
        for node in self.nodes:
            inputs = ", ".join(self._input(i, port) for i, port in node.inputs)
            kind = str(node.parameters["kind"]) if node.op == "flow" else node.op
            rows.append((f"{node.id}", node.name, kind, f"<- {inputs}" if inputs else "", node))
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]  # type: ignore[arg-type]
        lines = [f"app {self.app}"]
        for number, name, op, inputs, node in rows:
            cells = (
                number.rjust(widths[0]),
                name.ljust(widths[1]),
                op.ljust(widths[2]),
                inputs.ljust(widths[3]),
            )
            about = f"{node.about}  " if node.about else ""
            lines.append(f"{'  '.join(cells)}  {about}[{node.rung}]  {node.line or ''}".rstrip())
        return "\n".join(lines)

    def preview(self, rows: Any, *, output: str | None = None, limit: int | None = None) -> Any:
        """See `Topology.preview`."""
        return _previews().preview(self, rows, output, limit)

    def svg(self) -> str:
        """The topology as a picture: sources, operations, what keeps state, outputs."""
        return drawing.svg(self.nodes, self._input)

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x:auto">{self.svg()}</div>'

    def _input(self, number: int, port: int) -> str:
        node = self.nodes[number]
        if node.op == "aggregate":
            return f"{node.name}.{('changes', 'final', 'late')[port]}"
        forks = node.op == "branch" or (node.op == "flow" and node.parameters["kind"] == "branch")
        return f"{node.name}.{port}" if forks else node.name


class Topology:
    """A function of settings that builds an application; made by `topology`."""

    def __init__(self, fn: Callable[..., Any], name: str, chosen: Mapping[str, Any] | None = None) -> None:
        self.fn = fn
        self.name = name
        self.settings = _settings(fn)
        self.chosen = dict(chosen or {})
        self.__doc__ = fn.__doc__
        self.__name__ = fn.__name__
        self.__module__ = fn.__module__

    def __call__(self, **settings: Any) -> Topology:
        """The same topology with these settings as its defaults."""
        self._known(settings)
        return Topology(self.fn, self.name, self.chosen | settings)

    def build(self, **settings: Any) -> Built:
        """Runs the function and returns what it said.

        Raises:
            TopologyError: the topology is wrong.
            ConfigError: a setting is unknown or missing.
        """
        self._known(settings)
        values = {s.name: s.default for s in self.settings.values() if not s.required}
        values |= self.chosen | settings
        for setting in self.settings.values():
            if setting.name not in values:
                raise ConfigError(
                    f"`{self.name}` needs it",
                    option=f"--set {setting.name}",
                    hint=f"write `--set {setting.name}=…`",
                )
        app = App(self.name, values)
        self.fn(app, **values)
        flow.settle_errors(app._graph)
        flow.settle_timestamps(app._graph)
        nodes = tuple(app._graph.nodes)
        plan: dict[str, Any] = {"app": self.name, "nodes": [node.to_plan() for node in nodes]}
        if app._graph.stores:
            plan["stores"] = app._graph.stores
        if app._graph.globals:
            plan["globals"] = app._graph.globals
        if app._graph.starts:
            plan["starts"] = app._graph.starts
        if not any(
            node.op == "source" or (node.op == "flow" and node.parameters["kind"] == "source") for node in nodes
        ):
            raise fault(
                "no_source",
                f"`{self.name}` reads no topic",
                operation="topology",
                line=function_line(self.fn),
                hint='read one: `app.stream("orders", Order)`; a global table alone gives no work',
            )
        return _checked(Built(self.name, plan, tuple(app._graph.callables), values, nodes, app._graph.listeners))

    def describe(self, **settings: Any) -> str:
        """One line per node; see `Built.describe`."""
        return self.build(**settings).describe()

    def preview(self, rows: Any, *, output: str | None = None, limit: int | None = None, **settings: Any) -> Any:
        """Runs the topology here and now on a few rows, on one partition, and returns what comes out.

        Args:
            rows: of the only input: a list of dicts, or a table of Arrow, Polars or pandas; of several inputs a dict of
                them by topic.
            output: a topic, a sink or a table; by default the first topic that is written, else the first sink or table.
            limit: the most rows.

        Returns:
            A `pyarrow.Table` (`polars.from_arrow`, `.to_pandas()`) with the columns of the rows and `$timestamp`, the
            records' time; of keys and values `key` and the value's fields, or `value`.

        Raises:
            ValueError: it cannot be told which input or output is meant.
            TopologyError: the topology is wrong.
        """
        return self.build(**settings).preview(rows, output=output, limit=limit)

    def svg(self, **settings: Any) -> str:
        """The topology as a picture, in SVG; in a notebook it shows itself."""
        return self.build(**settings).svg()

    def _repr_svg_(self) -> str | None:
        return None if self._lacks() else self.svg()

    def _repr_html_(self) -> str | None:
        return None if self._lacks() else self.build()._repr_html_()

    def _lacks(self) -> bool:
        """Whether it cannot be built as it is: a setting is missing."""
        return any(s.required and s.name not in self.chosen for s in self.settings.values())

    def parse(self, pairs: Iterable[str]) -> dict[str, Any]:
        """Settings from `name=value` texts, converted by annotation (str, int, float, bool, Decimal).

        Raises:
            ConfigError: an unknown setting, or a value that its annotation does not take.
        """
        values: dict[str, Any] = {}
        for pair in pairs:
            name, sign, text = pair.partition("=")
            if not sign:
                raise ConfigError(f"not a setting: {pair!r}", option="--set", hint="write `--set name=value`")
            self._known({name: text})
            values[name] = self.settings[name].parse(text)
        return values

    def _known(self, settings: Mapping[str, Any]) -> None:
        for name in settings:
            if name not in self.settings:
                near = nearest(name, self.settings)
                raise ConfigError(
                    f"`{self.name}` has no such setting",
                    option=f"--set {name}",
                    hint=f"did you mean `{near}`?" if near else f"there are: {name_list(self.settings)}",
                )

    def __repr__(self) -> str:
        values = {s.name: s.default for s in self.settings.values() if not s.required} | self.chosen
        return f"<Topology {self.name}: {', '.join(f'{k}={v!r}' for k, v in values.items()) or 'no settings'}>"


def _previews() -> Any:
    """By its name: the test driver stands above the language, which does not see it."""
    return importlib.import_module("adstream.testing.preview")


def _checked(built: Built) -> Built:
    """What only the whole shows: the core reads it once, and its complaint is told at the node's line."""
    from adstream._core import CoreError, Plan

    try:
        Plan(built.json, built.callables)
    except CoreError as error:
        _, code, message, hint, number = error.args
        node = built.nodes[number] if number is not None else None
        operation = None if node is None else "stream" if node.op == "source" else node.op
        line = None if node is None else node.line
        raise TopologyError(message, code=code, operation=operation, line=line, hint=hint) from None
    return built


def _settings(fn: Callable[..., Any]) -> dict[str, Setting]:
    parameters = list(inspect.signature(fn).parameters.values())
    if not parameters:
        raise fault(
            "bad_topology",
            f"`{fn.__name__}` takes no app",
            operation="topology",
            hint=f"write `def {fn.__name__}(app: ads.App) -> None`",
        )
    hints = get_type_hints(fn)
    settings = {}
    for p in parameters[1:]:
        target, _ = _optional(hints.get(p.name, str))
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL, p.POSITIONAL_ONLY) or target not in (str, *_EXAMPLES):
            raise fault(
                "bad_setting",
                f"`{fn.__name__}`: the setting `{p}` cannot be given on a command line",
                operation="topology",
                hint="annotate it with str, int, float, bool or Decimal",
            )
        settings[p.name] = Setting(p.name, hints.get(p.name, str), p.default)
    return settings


def _app_id(fn: Callable[..., Any]) -> str:
    """`adstream.jobs.ads.performance:performance` is `ads-performance`; `shop:orders` is `shop-orders`."""
    module = fn.__module__
    if module == "__main__":
        file = getattr(sys.modules["__main__"], "__file__", None)
        module = PurePath(file).stem if file else ""
    parts = module.removeprefix(_JOBS).split(".") if module else []
    if not parts or parts[-1] != fn.__name__:
        parts.append(fn.__name__)
    return "-".join(_UNFIT.sub("-", part).strip("-") for part in parts if part.strip("_"))


@overload
def topology(fn: Callable[..., Any], /) -> Topology: ...
@overload
def topology(*, name: str) -> Callable[[Callable[..., Any]], Topology]: ...
def topology(
    fn: Callable[..., Any] | None = None, /, *, name: str | None = None
) -> Topology | Callable[[Callable[..., Any]], Topology]:
    """Makes a topology of a function `(app, **settings)`.

    Args:
        name: the application's id; by default made of the module and the function, `ads-performance`. It is
            the consumer group and begins every internal topic's name, so changing it starts from nothing.
    """
    if name is not None and not _APP.fullmatch(name):
        raise fault(
            "bad_name",
            f"`{name}` cannot be an application's id: it becomes part of topic names",
            operation="topology",
            hint="use letters, digits, `.`, `_` and `-`, at most 80",
        )
    if fn is not None:
        return Topology(fn, _app_id(fn))
    return lambda decorated: Topology(decorated, name or _app_id(decorated))
