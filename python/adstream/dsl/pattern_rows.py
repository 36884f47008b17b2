"""Patterns on rows: `stream.group_by("card").match(pattern, max_delay="5s").select(…)`, rows again.

    w = ads.matched("w")
    binge = Pattern.begin("w").where((col("kind") == "watched") & w.all(ads.element("series") == col("series"))).times(3)
    found = events.group_by("user").match(binge.consecutive().within("2h"), max_delay="5s")
    found.select(user=col("user"), series=w.first("series"), episodes=w.count())

Behind the scenes a row is a record whose key is the group's and whose value holds the columns; it is moved by key where that
is needed, as in `scan`. Types are known here: conditions, what they ask of the events taken before, and what is selected are
checked when the topology is built, and run by the core. The group's columns are those of any event of a match, so they can be
selected as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from adstream.dsl import flow, joins, natives, pattern_matches
from adstream.dsl.expr import Expr, named_or_expr
from adstream.dsl.faults import fault, name_list, user_line
from adstream.dsl.flow import Materialized
from adstream.dsl.graph import Graph
from adstream.dsl.kstream import KStream
from adstream.dsl.pattern import LOOK, RULE, Pattern
from adstream.dsl.pattern_json import expr_of
from adstream.dsl.pattern_matches import (
    LATE,
    MATCHES,
    TIMED_OUT,
    Lowering,
    Matches,
    Options,
    Patterns,
    looks,
    use,
)
from adstream.dsl.pattern_rules import Reader, Rules
from adstream.dsl.row_joins import _records, _together
from adstream.dsl.stream import Columns, KeyPart, Stream
from adstream.dsl.typing_ import PRECISION_MAX, scale_of, widened

OPERATION = "match"
_OTHER = "$other."


class _RowLowering(Lowering):
    """Conditions over columns, whose types are known."""

    def __init__(self, stream: Stream, line: str | None) -> None:
        super().__init__(stream._graph)
        self._stream, self._line = stream, line

    def expression(self, e: Expr) -> dict[str, Any]:
        asked = {_OTHER + a["name"]: _asked(self._stream, a, self._line, at_hand=True) for a in looks(e)}
        tree = _inside(self._stream, {name: dtype for name, (dtype, _) in asked.items()}, e, self._line, "`where`")[0]
        native = natives.Native({"expr": tree}, repr(e))
        said = flow.function(self._graph, native, "condition", "where")
        return {**said, "uses": [use(self._graph, a, asked[_OTHER + a["name"]][1]) for a in looks(e)]}


class _Columns:
    """Makes what lowers conditions over these columns, for one pattern at a time."""

    def __init__(self, columns: Mapping[str, str], line: str | None) -> None:
        self._columns, self._line = dict(columns), line

    def __call__(self, graph: Graph) -> Lowering:
        return _RowLowering(Stream(graph, (0, 0), self._columns, ()), self._line)


def _inside(
    stream: Stream, more: Mapping[str, str], e: Expr, line: str | None, boolean: str | None = None
) -> tuple[dict[str, Any], str]:
    """The tree and the type of an expression over a row's columns and others."""
    for node in e.walk():
        if node.op == "call":
            raise fault(
                "not_native",
                f"`{node!r}` calls Python inside an expression",
                operation=OPERATION,
                line=line,
                hint="write the whole condition as a function of the event, or compute a column before",
            )
        if node.op == "col" and node.name is not None and node.name.startswith("$") and node.name not in more:
            raise fault(
                "unknown_column",
                f"`{node.name[1:]}()` cannot be asked inside: a row may have moved",
                operation=OPERATION,
                line=line,
                hint="keep it as a column before: `.with_columns(…)`",
            )
    columns = {name: stream._columns[name] for name in stream._written()}
    inside = Stream(stream._graph, stream._port, {**columns, **more}, ())
    return inside._compile(OPERATION, e, line, boolean=boolean)


def _asked(stream: Stream, asked: Mapping[str, Any], line: str | None, *, at_hand: bool) -> tuple[str, Any]:
    """The type of what `matched` asks, and the tree that is computed of each taken event (none: it is counted)."""
    look, stage = asked["look"], asked["stage"]
    if stage == RULE and not at_hand:
        return ("int" if asked["of"]["name"] == "version" else "str"), asked["of"]
    if asked["of"] is None:
        return "int", None
    more = {_OTHER + name: stream._columns[name] for name in stream._written()} if at_hand else {}
    e = expr_of(asked["of"])
    if not at_hand and any((node.name or "").startswith(_OTHER) for node in e.walk()):
        raise fault(
            "unknown_column",
            f'`matched("{stage}").{look}(…)` asks for the event at hand, and a match is over',
            operation=OPERATION,
            line=line,
            hint='write `ads.element("…")` for a field of the taken event',
        )
    boolean = f'what `matched("{stage}").{look}` asks' if look in ("any", "all") else None
    tree, dtype = _inside(stream, more, e, line, boolean)
    dtype = widened(dtype)
    if look in ("any", "all"):
        return "bool", tree
    if look == "count":
        return "int", tree
    if look == "values":
        return "json", tree
    if look not in ("sum", "mean"):
        return dtype, tree
    scale = scale_of(dtype)
    if scale is None and dtype not in ("int", "float"):
        raise fault(
            "type_mismatch",
            f'`matched("{stage}").{look}(…)`: there is no {look} of {dtype}',
            operation=OPERATION,
            line=line,
            hint="cast it to a number, or use `first`, `last`, `min` or `max`",
        )
    if scale is not None:
        return f"decimal({PRECISION_MAX},{scale if look == 'sum' else max(scale, 6)})", tree
    return ("float" if look == "mean" else dtype), tree


class Found:
    """Matches of rows, or what there was of runs whose window ended; `select` makes rows of them."""

    def __init__(self, of: RowMatches, port: int) -> None:
        self._of, self._port = of, port

    def select(self, **named: str | Expr) -> Stream:
        """One row for each: `matched("stage")` asks its events, `col("…")` is a column of the group. The row's time is the
        match's, or that at which the run was given up. In Flink: `select`.

        Raises:
            TopologyError: `bad_argument`, `unknown_column`, `type_mismatch`, `not_native`, `reserved_name`.
        """
        return self._of._selected(self._port, named)


class RowMatches(Found):
    """What was found of a pattern among rows, and beside it what timed out and what came too late."""

    def __init__(self, stream: Stream, keys: tuple[str, ...], found: Matches) -> None:
        super().__init__(self, MATCHES)
        self._stream, self._keys, self._found = stream, keys, found

    @property
    def timed_out(self) -> Found:
        """What was there of each run whose window ended, and when it did."""
        self._found._wants("timed_out")
        return Found(self, TIMED_OUT)

    @property
    def late(self) -> Stream:
        """Rows behind the watermark, as they came."""
        columns: Columns = {n: self._stream._columns[n] for n in self._stream._written()}
        return self._rows(LATE, columns, self._keys, "late rows")

    @property
    def records(self) -> Matches:
        """The same as keys and values, for what rows have not: `.trace`, `.at_most(…)`, `.flat_select(…)`."""
        return self._found

    def _rows(self, port: int | KStream, columns: Columns, keys: tuple[str, ...], about: str) -> Stream:
        found = self._found._port(port) if isinstance(port, int) else port
        # A row without a key is not matched, and one that is null in part of it is no key here: its rows lie anywhere.
        held = list(keys) if len(keys) == 1 == len(self._keys) else []
        rows = flow.add(
            self._stream._graph,
            "to_rows",
            [found._flowing.port],
            schema=[{"name": n, "type": dtype} for n, dtype in columns.items()],
            fill=[{"field": n} for n in columns],
            keys=held,
            about=about,
        )
        return Stream(self._stream._graph, (rows.id, 0), columns, tuple(KeyPart(n, frozenset({n})) for n in held))

    def _selected(self, port: int, named: Mapping[str, str | Expr]) -> Stream:
        line, stream, graph = user_line(), self._stream, self._stream._graph
        if not named:
            raise fault(
                "bad_argument",
                "names no column",
                operation="select",
                line=line,
                hint='write `n=ads.matched("stage").count()`',
            )
        asked: dict[str, tuple[str, Any, Mapping[str, Any]]] = {}
        columns: Columns = {}
        fields: dict[str, Any] = {}
        copies: list[str] = []
        for name, given in named.items():
            if name.startswith("$"):
                raise fault(
                    "reserved_name",
                    f"`{name}`: names that begin with `$` are the engine's",
                    operation="select",
                    line=line,
                    hint="choose another name",
                )
            if not isinstance(given, str | Expr):
                raise fault(
                    "bad_argument",
                    f"`{name}` is {given!r}",
                    operation="select",
                    line=line,
                    hint=f'write `{name}=ads.matched("stage").first("…")`, or `{name}=ads.lit(…)`',
                )
            e = self._of_group(named_or_expr(given), name, line)
            if e.op == "col" and e.name == _group(self._keys[0] if self._keys else ""):
                copies.append(name)
            self._found._check(looks(e), line)
            for one in looks(e):
                if _OTHER + one["name"] not in asked:
                    dtype, tree = _asked(stream, one, line, at_hand=False)
                    asked[_OTHER + one["name"]] = dtype, tree, one
            bare = Stream(graph, stream._port, {n: a[0] for n, a in asked.items()}, ())
            fields[name], dtype = bare._compile("select", e, line)
            columns[name] = widened("str" if dtype == "null" else dtype)
        native = natives.Native(
            {"expr": {"op": "struct", "args": list(fields.values()), "value": list(fields)}}, ", ".join(fields)
        )
        about = ", ".join(f"{n}={e!r}" if isinstance(e, Expr) else f"{n}={e}" for n, e in named.items())
        node = flow.add(
            graph,
            "select_match",
            [self._found._port(port)._flowing.port],
            make=flow.function(graph, native, "select", OPERATION, values=2),
            uses=[use(graph, one, tree) for _, tree, one in asked.values()],
            about=about,
            **pattern_matches.sums(graph),
        )
        selected = KStream(self._found._flowing.at(node, value=None))
        return self._rows(selected, columns, (copies[0],) if copies else (), about)

    def _of_group(self, e: Expr, name: str, line: str | None) -> Expr:
        """With the group's columns as those of the match's first event."""
        if e.op == "call":
            raise fault(
                "not_native",
                f"`{e!r}` calls Python, and a match of rows is told by the core",
                operation="select",
                line=line,
                hint="select what it needs, and `.map(…)` behind",
            )
        if e.op != "col" or e.name is None or e.name.startswith(LOOK):
            return replace(e, args=tuple(self._of_group(arg, name, line) for arg in e.args)) if e.args else e
        if e.name == "$key" and len(self._keys) == 1:
            return Expr("col", name=_group(self._keys[0]))
        if e.name in self._keys:
            return Expr("col", name=_group(e.name))
        if e.name.startswith("$"):
            raise fault(
                "unknown_column",
                f"`{name}`: a match has no `{e.name.removeprefix('$')}()`",
                operation="select",
                line=line,
                hint=f"the group is by {name_list(self._keys)}"
                if self._keys
                else "ask its events, or compute it behind",
            )
        self._stream._check_column("select", e.name, line)
        raise fault(
            "bad_argument",
            f"`{name}`: a match has many values of `{e.name}`",
            operation="select",
            line=line,
            hint=f'say which one: `ads.matched("stage").first("{e.name}")`',
        )


def _group(key: str) -> str:
    """What a column of the group is asked as: of the first event, whatever its stage."""
    said = {"stage": None, "look": "first", "of": {"op": "col", "name": key}}
    return _OTHER + json.dumps(said, sort_keys=True)


def match(
    stream: Stream,
    keys: tuple[str, ...],
    patterns: Patterns | Rules,
    options: Options,
    order_by: str | Expr | Callable[..., Any] | None,
    name: str | None,
) -> RowMatches | dict[str, RowMatches]:
    """`GroupedStream.match`, and `Stream.match` where there are no keys."""
    line = user_line()
    if not isinstance(patterns, Rules):
        pattern_matches.check(patterns, options.skip)
    graph = stream._graph
    order: dict[str, Any] | None = None
    if isinstance(order_by, str | Expr):
        e = named_or_expr(order_by)
        native = natives.Native({"expr": _inside(stream, {}, e, line)[0]}, repr(e))
        order = flow.function(graph, native, "order_by", OPERATION)
    elif order_by is not None:
        order = flow.function(graph, order_by, "order_by", OPERATION)
    types = [widened(stream._columns[n]) for n in keys]
    together = not keys or _together(stream, [Expr("col", name=n) for n in keys], types)
    records = _records(stream, stream._port, list(keys), types, stream._written(), together, typed=True)
    moved = joins._moved(records, name, OPERATION, None)
    by = f"by {', '.join(keys)}: " if keys else ""
    if isinstance(patterns, Rules):
        reader = Reader(_Columns({n: stream._columns[n] for n in stream._written()}, line), options.skip)
        some = pattern_matches.add_rules(moved, patterns, reader, options, order, Materialized(), name, not keys)
        some._node.about = f"{by}rules of {patterns.topic}"
        return RowMatches(stream, keys, some)
    lowering = _RowLowering(stream, line)
    found = pattern_matches.add(moved, patterns, lowering, options, order, Materialized(), name, unkeyed=not keys)
    named = {"": patterns} if isinstance(patterns, Pattern) else patterns
    found[0]._node.about = by + "; ".join(f"{label}{label and ': '}{pattern}" for label, pattern in named.items())
    rows = [RowMatches(stream, keys, one) for one in found]
    return rows[0] if isinstance(patterns, Pattern) else dict(zip(named, rows, strict=True))
