"""The fluent API: streams of rows and tables; groups and windows are in `grouped.py`. One method, one node of the plan.

    Stream ──group_by──▶ GroupedStream ──windowed_by──▶ WindowedStream
       ▲                      │ aggregate                    │ aggregate
       │                      ▼                              ▼
       ├──to_stream()──────  Table  (one row per key, or per key and window)
       ├──final()──────────    │    each window once, when it closed
       └──late─────────────    └──group_by──▶ GroupedTable ──aggregate──▶ Table

- Nothing runs. Every method checks what it is given against the columns at hand, adds a node and returns a
  new object; the old one stays usable, so a stream forks by being used twice.
- A *view* of a table (`with_columns`, `select`) is not a second table: it is remembered, and `final()` puts
  the same steps on the other port of the one aggregate.
- *Key parts.* A stream that comes from a keyed topic or a table knows which columns hold its key; copies
  count (`metric_time=ads.window_start()` holds the window part). A sink's key must contain all parts, else
  two keys of the stream, perhaps on two partitions, would write one row.
- Columns whose names begin with `$` belong to the engine; they are written nowhere unless copied under
  another name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, overload

from adstream.dsl import flow, row_formats, row_joins, serdes
from adstream.dsl.aggregates import Aggregate
from adstream.dsl.durations import Duration, duration_ms, format_ms
from adstream.dsl.expr import (
    Expr,
    Row,
    Scalar,
    callable_name,
    col,
    lit,
    named_or_expr,
    refuse_async,
    return_type,
    to_plan,
)
from adstream.dsl.faults import fault, name_list, nearest, topic_name, unknown_column, user_line
from adstream.dsl.graph import Graph, Node, Port
from adstream.dsl.kstream import Flowing, KStream
from adstream.dsl.row_joins import Between, JoinHow, On, Pick, RowTable
from adstream.dsl.schema import row_of, schema_of
from adstream.dsl.sinks import Sink
from adstream.dsl.typing_ import infer, widened
from adstream.dsl.windows import Hopping, Tumbling

if TYPE_CHECKING:
    from adstream.dsl.grouped import GroupedStream, GroupedTable
    from adstream.dsl.ordered import OrderedStream
    from adstream.dsl.pattern import AfterMatchSkipStrategy, Pattern
    from adstream.dsl.pattern_matches import OnMaxRuns, Time
    from adstream.dsl.pattern_rows import RowMatches
    from adstream.dsl.pattern_rules import Rules

_SERDES = {"str": serdes.string, "int": serdes.int64, "float": serdes.float64, "bool": serdes.boolean}

Condition = Expr | Callable[[Any], bool]
Value = Expr | Scalar | Callable[[Any], Any]
Columns = dict[str, str]

WINDOW_COLUMNS = ("$window_start", "$window_end")
_METADATA = frozenset({"$timestamp", "$offset", "$partition"})


@dataclass(frozen=True, slots=True)
class KeyPart:
    """One part of a stream's key: its first name, and the columns that hold it now (none: it was dropped)."""

    name: str
    columns: frozenset[str]


class MapRow:
    """The function of a `map` node: takes a row as a dict, returns one of exactly its schema."""

    __slots__ = ("fn", "names")

    def __init__(self, fn: Callable[[Row], Any], names: tuple[str, ...]) -> None:
        self.fn = fn
        self.names = names

    def __call__(self, row: Row) -> Row:
        return row_of(self.fn(row), self.names)

    def __repr__(self) -> str:
        return f"MapRow({callable_name(self.fn)})"


class _Flow:
    """What streams and tables share: a port of a node, its columns, its key."""

    def __init__(self, graph: Graph, port: Port, columns: Columns, key: tuple[KeyPart, ...]) -> None:
        self._graph = graph
        self._port = port
        self._columns = columns
        self._key = key

    @property
    def schema(self) -> dict[str, str]:
        """Column -> type, as text (`decimal(10,2)`)."""
        return dict(self._columns)

    @property
    def _app(self) -> str:
        return self._graph.app

    @property
    def _node(self) -> Node:
        return self._graph.nodes[self._port[0]]

    def _label(self) -> Node:
        """The node that `named` names."""
        return self._node

    def named(self, name: str) -> Self:
        """Names the operation just made: for state, internal topics, metrics. In Kafka Streams: `Named.as`."""
        self._graph.rename(self._label(), name)
        return self

    def __repr__(self) -> str:
        columns = ", ".join(f"{name}: {dtype}" for name, dtype in self._columns.items())
        return f"<{type(self).__name__} {self._label().name}: {columns}>"

    # --- expressions ------------------------------------------------------------------------------

    def _compile(
        self, operation: str, e: Expr, line: str | None, *, boolean: str | None = None
    ) -> tuple[dict[str, Any], str]:
        """The plan's tree and the type of an expression over this stream. `boolean` names a condition."""
        for node in e.walk():
            if isinstance(node, Aggregate):
                raise fault(
                    "aggregate_without_group",
                    f"`{node!r}` needs a group",
                    operation=operation,
                    line=line,
                    hint="write `.group_by(…).aggregate(…)`",
                )
            if node.op == "now":
                raise fault(
                    "not_a_timer",
                    f"`{e!r}`: `now()` can only say from when on a row passes",
                    operation=operation,
                    line=line,
                    hint="write `.filter(ads.now() >= col(…))`, with other conditions behind `&`",
                )
            if node.op == "col" and node.name is not None:
                self._check_column(operation, node.name, line, text_hint=True)
        tree = to_plan(e, self._columns, self._graph.register, operation)
        dtype = infer(self._columns, tree, operation=operation, line=line)
        if boolean is not None and dtype != "bool":
            raise fault(
                "not_a_condition",
                f"{boolean} is {dtype}, not bool: `{e!r}`",
                operation=operation,
                line=line,
                hint=f"compare it: `{e!r} == …`" if dtype != "null" else "write a condition",
            )
        return tree, dtype

    def _check_column(self, operation: str, name: str, line: str | None, *, text_hint: bool = False) -> None:
        if name in self._columns or name in _METADATA:
            return
        if name in WINDOW_COLUMNS:
            raise fault(
                "not_windowed",
                f"`{name[1:]}()` needs a window, and these rows have none",
                operation=operation,
                line=line,
                hint="write `.windowed_by(ads.tumbling(…))` before `.aggregate(…)`",
            )
        remark = f'; for the text itself write `lit("{name}")`' if text_hint else ""
        raise unknown_column(name, self._columns, operation=operation, line=line, remark=remark)

    def _names(self, operation: str, names: Sequence[str], line: str | None) -> list[str]:
        for name in names:
            if not isinstance(name, str):
                raise fault(
                    "bad_argument",
                    f"not a column's name: {name!r}",
                    operation=operation,
                    line=line,
                    hint='write "name"',
                )
            self._check_column(operation, name, line)
        if len(set(names)) < len(names):
            twice = next(name for name in names if list(names).count(name) > 1)
            raise fault(
                "duplicate_column",
                f"`{twice}` is there twice",
                operation=operation,
                line=line,
                hint="name it once",
            )
        return list(names)

    def _written(self) -> list[str]:
        return [name for name in self._columns if not name.startswith("$")]

    # --- projections ------------------------------------------------------------------------------

    def _project(
        self, operation: str, named: Mapping[str, Expr], line: str | None, *, keep: bool
    ) -> tuple[dict[str, Any], Columns, tuple[KeyPart, ...], str, str]:
        """Parameters, columns, key, text and rung of a `with_columns` (`keep`) or `select`."""
        if not named:
            raise fault(
                "bad_argument",
                "names no column",
                operation=operation,
                line=line,
                hint='write `name=col("…")`',
            )
        columns: Columns = dict(self._columns) if keep else {}
        exprs: list[list[Any]] = []
        for name, e in named.items():
            if name.startswith("$") and not (e.op == "col" and e.name == name):
                raise fault(
                    "reserved_name",
                    f"`{name}`: names that begin with `$` are the engine's",
                    operation=operation,
                    line=line,
                    hint="choose another name",
                )
            tree, dtype = self._compile(operation, e, line)
            columns[name] = dtype
            exprs.append([name, tree])
        copies = {name: e.name for name, e in named.items() if e.op == "col"}
        parts = []
        for part in self._key:
            held = {name for name in part.columns if name not in named} if keep else set()
            held |= {name for name, of in copies.items() if of in part.columns}
            parts.append(replace(part, columns=frozenset(held)))
        about = ", ".join(f"{name}={e!r}" for name, e in named.items() if not name.startswith("$"))
        return {"exprs": exprs}, columns, tuple(parts), about, rung_of(named.values())

    def _selected(
        self, operation: str, given: Sequence[str | Expr], named: Mapping[str, Value], line: str | None
    ) -> dict[str, Expr]:
        chosen: dict[str, Expr] = {}
        for e in (named_or_expr(g) for g in given):
            name = e.output_name()
            if name is None:
                raise fault(
                    "unnamed_expression",
                    f"`{e!r}` has no name",
                    operation=operation,
                    line=line,
                    hint=f"write `name={e!r}`",
                )
            if name in chosen:
                raise fault(
                    "duplicate_column",
                    f"`{name}` is there twice",
                    operation=operation,
                    line=line,
                    hint="rename one",
                )
            chosen[name] = e
        for name, value in named.items():
            if name in chosen:
                raise fault(
                    "duplicate_column",
                    f"`{name}` is there twice",
                    operation=operation,
                    line=line,
                    hint="rename one",
                )
            chosen[name] = _value(value, operation, line, name)
        return chosen

    def _node_for(
        self,
        op: str,
        inputs: tuple[Port, ...],
        line: str | None,
        parameters: dict[str, Any],
        about: str = "",
        rung: str = "expression",
        name: str | None = None,
    ) -> Port:
        return (self._graph.add(op, inputs, line, parameters, about=about, rung=rung, name=name).id, 0)


class Stream(_Flow):
    """Rows, one after the other. In Kafka Streams: `KStream`."""

    def _next(
        self,
        op: str,
        line: str | None,
        parameters: dict[str, Any],
        *,
        columns: Columns | None = None,
        key: tuple[KeyPart, ...] | None = None,
        about: str = "",
        rung: str = "expression",
    ) -> Stream:
        port = self._node_for(op, (self._port,), line, parameters, about, rung)
        return Stream(
            self._graph,
            port,
            self._columns if columns is None else columns,
            self._key if key is None else key,
        )

    def records(self, *key: str) -> KStream:
        """The rows as records of a key and a value, for joins, tables, processors and the other windows of
        `docs/kafka-streams.md`. `KStream.rows` leads back.

        Args:
            key: the columns that are the key, a tuple if there are several; none: records without a key. A record's value
                is a dict of the row.

        Raises:
            TopologyError: `unknown_column`, `duplicate_column`.
        """
        line = user_line()
        names = self._names("records", key, line)
        node = flow.add(
            self._graph, "from_rows", [self._port], keys=names, columns=self._written(), about=f"key {', '.join(names)}"
        )
        parts = [part for part in self._key if part.name != "$window_start"]
        together = len(names) == len(parts) == 1 and names[0] in parts[0].columns
        serde = _SERDES.get(widened(self._columns[names[0]]), serdes.json_) if len(names) == 1 else serdes.json_
        return KStream(
            Flowing(self._app, self._graph, (node.id, 0), serde, serdes.json_, rekeyed=not together and bool(names))
        )

    def head(self, rows: Any, n: int = 5) -> Any:
        """The first `n` rows of this stream for a few rows of the input: for a look in a notebook, while a topology is being
        written. Adds nothing to it.

        Args:
            rows: as those of `Topology.preview`.

        Returns:
            A `pyarrow.Table` of its columns and `$timestamp`.
        """
        import importlib

        preview = importlib.import_module("adstream.testing.preview")  # stands above the language
        return preview.head(self._graph, self._port, self._columns, rows, n)

    # --- rows -------------------------------------------------------------------------------------

    def filter(self, condition: Condition, *, reason: str | None = None) -> Stream:
        """Keeps rows for which `condition` is true; null is not.

        Args:
            condition: an expression, or a function of the row (a dict).
            reason: the name under which dropped rows are counted; by default the operation's name.

        With `ads.now() >= col("from")` a row waits until then: see `ads.now`. In Kafka Streams: `filter`.
        """
        return self._filter("filter", _condition(condition, "filter"), reason)

    def filter_not(self, condition: Condition, *, reason: str | None = None) -> Stream:
        """Drops rows for which `condition` is true; false and null stay. In Kafka Streams: `filterNot`."""
        return self._filter("filter_not", _condition(condition, "filter_not"), reason)

    def _filter(self, operation: str, condition: Expr, reason: str | None) -> Stream:
        line = user_line()
        if operation == "filter" and any(e.op == "now" for e in condition.walk()):
            return self._until(condition, reason, line)
        self._compile(operation, condition, line, boolean="the condition")
        kept = ~condition.fill_null(False) if operation == "filter_not" else condition
        tree, _ = self._compile(operation, kept, line)
        about = f"{kept!r}" + (f", reason {reason}" if reason else "")
        return self._next("filter", line, {"expr": tree, "reason": reason}, about=about, rung=rung_of([kept]))

    def _until(self, condition: Expr, reason: str | None, line: str | None) -> Stream:
        from adstream.dsl import until

        moments, rest = until.split(condition)
        if not moments:
            self._compile("filter", condition, line)  # which says what is wrong
        stream = self
        for e in rest:
            stream = stream._filter("filter", e, reason)
        return until.wait(stream, moments, reason, line)

    def require(self, **rules: Condition) -> Stream:
        """Sends rows for which a rule is not true (null included) to the dead letters, reason = the rule's
        name.

        The rules are asked in order; the first that fails gives the reason:
        `.require(bad_price=col("price") >= 0)`.
        """
        line = user_line()
        if not rules:
            raise fault(
                "bad_argument",
                "names no rule",
                operation="require",
                line=line,
                hint='write `bad_x=col("x") >= 0`',
            )
        exprs = {reason: _condition(rule, "require") for reason, rule in rules.items()}
        compiled = [
            [reason, self._compile("require", e, line, boolean=f"the rule `{reason}`")[0]]
            for reason, e in exprs.items()
        ]
        about = ", ".join(f"{reason}: {e!r}" for reason, e in exprs.items())
        return self._next("require", line, {"rules": compiled}, about=about, rung=rung_of(exprs.values()))

    def with_columns(self, **exprs: Value) -> Stream:
        """Adds columns, or replaces those of the same name; all are computed from the row as it was.

        Text names a column; for a constant text write `lit("…")`. In Kafka Streams: `mapValues`.
        """
        line = user_line()
        named = {name: _value(value, "with_columns", line, name) for name, value in exprs.items()}
        parameters, columns, key, about, rung = self._project("with_columns", named, line, keep=True)
        return self._next("with_columns", line, parameters, columns=columns, key=key, about=about, rung=rung)

    def select(self, *columns: str | Expr, **exprs: Value) -> Stream:
        """Keeps these columns only, in this order. In Kafka Streams: `mapValues`."""
        line = user_line()
        named = self._selected("select", columns, exprs, line)
        parameters, schema, key, about, rung = self._project("select", named, line, keep=False)
        return self._next("select", line, parameters, columns=schema, key=key, about=about, rung=rung)

    def drop_columns(self, *columns: str) -> Stream:
        """All columns but these."""
        line = user_line()
        dropped = self._names("drop_columns", columns, line)
        named = {name: col(name) for name in self._columns if name not in dropped}
        parameters, schema, key, _, rung = self._project("drop_columns", named, line, keep=False)
        about = f"without {', '.join(dropped)}"
        return self._next("select", line, parameters, columns=schema, key=key, about=about, rung=rung)

    def map(self, fn: Callable[[Row], Any], *, schema: object) -> Stream:
        """One new row per row, made by a Python function.

        Args:
            fn: gets the row as a dict; returns a dict or an object with the schema's names. An exception
                sends the row to the dead letters, reason `callable_raised`.
            schema: a class as for `app.stream`.

        The key is not known to survive. In Kafka Streams: `map`.
        """
        line = user_line()
        if not callable(fn) or isinstance(fn, Expr):
            raise fault(
                "bad_argument",
                f"not a function: {fn!r}",
                operation="map",
                line=line,
                hint="for expressions write `.with_columns(…)` or `.select(…)`",
            )
        refuse_async(fn, "map", line)
        columns = schema_of(schema, operation="map").types
        function = self._graph.register(MapRow(fn, tuple(columns)))
        fields = [{"name": name, "type": dtype} for name, dtype in columns.items()]
        return self._next(
            "map",
            line,
            {"function": function, "schema": fields},
            columns=columns,
            key=(),
            about=callable_name(fn),
            rung="callable",
        )

    def map_batches(self, function: Callable[[Any], Any], *, schema: object = None) -> Stream:
        """New rows for rows, made by a Python function of many at once, as Arrow.

        Args:
            function: gets a `pyarrow.RecordBatch` of the rows that happen to come together; returns a `RecordBatch`, a `Table`
                or what Arrow can read (a Polars frame) with as many rows in the same order. It must be row-wise: a row's
                result depends on this row alone, for how rows are cut into batches is chance. Where it raises, or what comes
                back is not as promised, only the rows that are the cause go to the dead letters, reason `callable_raised`.
            schema: a class as for `app.stream`; none: the columns are those of this stream.

        The key is not known to survive. In Kafka Streams: none; in Polars: `map_batches`.

        Raises:
            TopologyError: `bad_argument`, `not_a_schema`, `not_installed`.
        """
        from adstream.dsl import batches

        return batches.map_batches(self, function, schema)

    def map_async(
        self,
        function: Callable[[Row], Any],
        *,
        schema: object,
        capacity: int = 100,
        timeout: Duration | None = None,
        retries: int = 0,
    ) -> Stream:
        """One new row per row, made of what somebody else answers: an `async` function, asked about many rows at a time.

        Args:
            function: gets the row as a dict; returns a dict or an object with the schema's names. It is asked at least once
                for each row, and again after a crash; its answer counts once, with the row's position.
            schema: a class as for `app.stream`.
            capacity: so many rows are asked about at once.
            timeout: how long an answer is waited for. It is cancelled then.
            retries: how often it is asked again after an exception or a `timeout`, after 50 ms, 100 ms and so on. A row
                without an answer goes to the dead letters, reason `callable_raised`.

        Rows keep their order. The key is not known to survive. In Flink: `AsyncDataStream.orderedWait`; Kafka Streams has none.

        Raises:
            TopologyError: `bad_argument`, `timeout_missing`, `bad_duration`, `not_a_schema`.
        """
        from adstream.dsl import waiting

        return waiting.map_async(self, function, schema, capacity, timeout, retries)

    def deduplicate(self, *columns: str, within: Duration | None = None) -> Stream:
        """Drops a row if one with equal values in `columns` was let through at most `within` of event time
        ago.

        A value is remembered with the event time ts of the row that was let through, while
        `clock <= ts + within`; nulls are equal to each other. Dropped rows are counted.

        Raises:
            TopologyError: `within_missing`, `bad_duration`, `bad_argument`, `unknown_column`.
        """
        line = user_line()
        if within is None:
            raise fault(
                "within_missing",
                "for how long is a value remembered?",
                operation="deduplicate",
                line=line,
                hint='write `within="1h"`: the longest time between a row and its copy',
            )
        within_ms = duration_ms(within, "within", operation="deduplicate", zero=False)
        if not columns:
            raise fault(
                "bad_argument",
                "by which columns?",
                operation="deduplicate",
                line=line,
                hint='write `.deduplicate("event_id", within="1h")`',
            )
        names = self._names("deduplicate", columns, line)
        about = f"by {', '.join(names)} while clock <= ts + {format_ms(within_ms)}"
        return self._next("deduplicate", line, {"columns": names, "within_ms": within_ms}, about=about)

    def in_order(
        self,
        *by: str | Expr,
        grace: Duration | None = None,
        late: Literal["pass", "route"] = "pass",
        name: str | None = None,
    ) -> OrderedStream:
        """Gives rows on by event time: each is held back until the largest time so far, in its partition, is more than `grace`
        ahead of it.

        Args:
            by: columns or expressions that order rows of one time; what is equal stays as it came.
            grace: how long rows are waited for that come out of order.
            late: what becomes of a row that is more than `grace` behind when it comes: `"pass"`, it goes on at once, or
                `"route"`, it goes to `.late` instead. Both are counted (`late`).
            name: of the operation, for its state.

        Held rows leave when a later row comes: the last ones of a partition that falls silent stay. Behind it time moves as
        rows leave.

        Raises:
            TopologyError: `grace_missing`, `bad_duration`, `bad_argument`, `unknown_column`, `not_native`.

        Kafka Streams has no such operation.
        """
        from adstream.dsl import ordered

        return ordered.in_order(self, by, grace, late, name)

    # --- forks and joints -------------------------------------------------------------------------

    @overload
    def branch(self, first: Condition, /, *conditions: Condition) -> tuple[Stream, ...]: ...
    @overload
    def branch(self, **conditions: Condition) -> dict[str, Stream]: ...
    def branch(self, *conditions: Condition, **named: Condition) -> tuple[Stream, ...] | dict[str, Stream]:
        """Sends each row to the first branch whose condition is true, else to the rest.

        Returns:
            The branches and, last, the rest: a tuple for positional conditions, a dict with `rest` for named
            ones.

        In Kafka Streams: `split().branch(…).defaultBranch()`.
        """
        line = user_line()
        if bool(conditions) == bool(named) or "rest" in named:
            raise fault(
                "bad_argument",
                "`rest` is the name of what no condition takes"
                if "rest" in named
                else "give conditions, all named or none",
                operation="branch",
                line=line,
                hint='write `.branch(col("x") > 0, …)` or `.branch(positive=col("x") > 0, …)`',
            )
        exprs = [_condition(c, "branch") for c in conditions or named.values()]
        trees = [self._compile("branch", e, line, boolean="a condition")[0] for e in exprs]
        labels = [*named, "rest"] if named else [str(i) for i in range(len(exprs) + 1)]
        about = ", ".join(f"{label}: {e!r}" for label, e in zip(labels, exprs, strict=False)) + ", else rest"
        node, _ = self._node_for("branch", (self._port,), line, {"exprs": trees}, about, rung_of(exprs))
        streams = tuple(Stream(self._graph, (node, p), self._columns, self._key) for p in range(len(exprs) + 1))
        return dict(zip(labels, streams, strict=True)) if named else streams

    split = branch

    def merge(self, *others: Stream) -> Stream:
        """The rows of all, which must have the same columns. In Kafka Streams: `merge`."""
        line = user_line()
        if not others:
            raise fault("bad_argument", "with what?", operation="merge", line=line, hint="write `.merge(other)`")
        for other in others:
            if other._graph is not self._graph:
                raise fault(
                    "other_app",
                    "the streams are of two apps",
                    operation="merge",
                    line=line,
                    hint="build both from one",
                )
            if _widened(other._columns) != _widened(self._columns):
                raise fault(
                    "schema_mismatch",
                    _difference(self._columns, other._columns),
                    operation="merge",
                    line=line,
                    hint="write `.select(…)` with the same columns on both sides first",
                )
        inputs = tuple(s._port for s in (self, *others))
        key = self._key if all(other._key == self._key for other in others) else ()
        port = self._node_for("merge", inputs, line, {})
        columns = {
            name: dtype if all(other._columns[name] == dtype for other in others) else widened(dtype)
            for name, dtype in self._columns.items()
        }
        return Stream(self._graph, port, columns, key)

    def join(
        self,
        other: Stream | RowTable,
        *,
        on: On,
        how: JoinHow = "inner",
        within: Duration | Between | None = None,
        grace: Duration | None = None,
        where: Expr | None = None,
        into: str | type | None = None,
        pick: Pick | None = None,
        name: str | None = None,
    ) -> Stream:
        """Each row with every row of another stream that is equal in `on` and lies within a span of time; or with what a
        table says of its key.

        Args:
            other: rows of the same app. With a table, `on` names its whole key, `how` is `"inner"` or `"left"`, there is
                no `within`, and `grace` is for tables with a history.
            on: a column or an expression of both sides, `{left: right}`, or a list of these and of `(left, right)`. Rows
                are moved by it where their topic is not keyed so. A null is equal to nothing.
            how: `"inner"`; `"left"`: left rows without a match come out alone, the right columns null, when nothing can
                come any more; `"outer"`: those of both sides.
            within: how far apart in time: `"10m"` in both directions, or `ads.between("-24h", "0s")`, right minus left;
                both ends inclusive.
            grace: how long behind that rows are waited for that come out of order.
            where: what else must be true of a pair, of the columns of both sides. In a left or outer join a pair that
                fails is no match, and this is an expression without callables.
            into: `"click"`: the right row's columns are `click.price` and so on, all of them; a schema: the result has its
                fields only. By default the right columns come under their names, which must not clash.
            pick: one match of each left row instead of all: `"last"` or `"first"` by time and arrival, or the largest by
                `ads.latest_by("click.timestamp", "click.event_id")`. It is told once, when no other can come any more.
            name: of the operation, for its state and its topics, as of `KStream.join`.

        The result's time is the later one of the two. In Kafka Streams: `KStream.join`, `leftJoin`, `outerJoin`.

        Raises:
            TopologyError: `unknown_column`, `type_mismatch`, `within_missing`, `grace_missing`, `duplicate_column`,
                `schema_mismatch`, `not_a_condition`, `not_native`, `other_app`.
        """
        return row_joins.join(self, other, on, how, within, grace, where, into, pick, name)

    def to_table(
        self,
        *key: str,
        latest_by: str | Expr | None = None,
        history: Duration | None = None,
        deletes: Expr | None = None,
        name: str | None = None,
    ) -> RowTable:
        """The newest row of each key, to be joined with. A key stays until a row `deletes` it.

        Args:
            key: the columns of the key; rows are moved by it where their topic is not keyed so.
            latest_by: how new a row is: one for which this is less than for the present one is ignored and counted
                (`dropped:older`). By default the last to arrive is the newest, whatever its time.
            history: versions are kept so long, and a join sees what held at the time of its row.
            deletes: a condition: a row for which it is true takes its key out of the table, whatever `latest_by` says.
            name: of its store, with which it can be read.

        In Kafka Streams: `toTable`.

        Raises:
            TopologyError: `unknown_column`, `bad_argument`, `type_mismatch`, `not_native`.
        """
        return row_joins.to_table(self, key, latest_by, history, deletes, name)

    # --- keys -------------------------------------------------------------------------------------

    def group_by(self, *columns: str, **exprs: Value) -> GroupedStream:
        """Groups rows by columns, or by expressions under a name. A null among several key columns is a value like
        others; a single null key is no key, and its row is dropped and counted (`dropped:null_key`).

        Rows move to the partition of their group unless the topic is keyed so. In Kafka Streams: `groupBy`,
        `groupByKey`.
        """
        line = user_line()
        stream = self
        if exprs:
            stream = self.with_columns(**exprs)
        names = stream._names("group_by", [*columns, *exprs], line)
        if not names:
            raise fault("bad_argument", "by what?", operation="group_by", line=line, hint='write `.group_by("id")`')
        from adstream.dsl.grouped import GroupedStream

        return GroupedStream(stream, tuple(names))

    @overload
    def match(
        self,
        pattern: Pattern | Rules,
        *,
        max_delay: Duration | None = ...,
        time: Time = ...,
        idle: Duration | None = ...,
        skip: AfterMatchSkipStrategy | None = ...,
        order_by: str | Expr | Callable[..., Any] | None = ...,
        max_runs: int | None = ...,
        on_max_runs: OnMaxRuns = ...,
        name: str | None = ...,
    ) -> RowMatches: ...
    @overload
    def match(
        self,
        pattern: Mapping[str, Pattern],
        *,
        max_delay: Duration | None = ...,
        time: Time = ...,
        idle: Duration | None = ...,
        skip: AfterMatchSkipStrategy | None = ...,
        order_by: str | Expr | Callable[..., Any] | None = ...,
        max_runs: int | None = ...,
        on_max_runs: OnMaxRuns = ...,
        name: str | None = ...,
    ) -> dict[str, RowMatches]: ...
    def match(
        self,
        pattern: Pattern | Mapping[str, Pattern] | Rules,
        *,
        max_delay: Duration | None = None,
        time: Time = "event",
        idle: Duration | None = None,
        skip: AfterMatchSkipStrategy | None = None,
        order_by: str | Expr | Callable[..., Any] | None = None,
        max_runs: int | None = None,
        on_max_runs: OnMaxRuns = "drop_oldest",
        name: str | None = None,
    ) -> RowMatches | dict[str, RowMatches]:
        """The pattern's matches among all rows of a partition (docs/patterns.md), as `GroupedStream.match` finds them in a group.

        It is what Flink does without `keyBy`, where that has one lane: each partition is matched by itself. For one lane read a
        topic of one partition.
        """
        from adstream.dsl import pattern_matches, pattern_rows

        options = pattern_matches.Options(max_delay, time, idle, skip, max_runs, on_max_runs)
        return pattern_rows.match(self, (), pattern, options, order_by, name)

    def windowed_by(self, window: Tumbling | Hopping) -> NoReturn:
        """Not on a stream: windows belong to groups."""
        raise fault(
            "window_without_key",
            "a window needs groups",
            operation="windowed_by",
            hint="write `.group_by(…)` before `.windowed_by(…)`",
        )

    def aggregate(self, **_: object) -> NoReturn:
        """Not on a stream: aggregates belong to groups."""
        raise fault(
            "aggregate_without_group",
            "an aggregate needs groups",
            operation="aggregate",
            hint="write `.group_by(…)` before `.aggregate(…)`",
        )

    # --- ends -------------------------------------------------------------------------------------

    def to(
        self,
        topic: str,
        *,
        key: str | Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        format: str | serdes.Serde = "json",
    ) -> Terminal:
        """Writes the rows to a topic, as JSON if no other format is named.

        Args:
            topic: the topic.
            key: the columns of the records' key (one: its text; several: a compact JSON array). By default
                the stream's key without its window, where the rows still have it; else none.
            columns: what is written, in that order; by default all but those beginning with `$`.
            format: `"json"`, `"avro"`, `"arrow"`, or a serde, such as `ads.serdes.avro(schema)`, which is given the row as
                a dict. `"avro"` writes by a schema made of the columns: each may be null, decimals and times are logical
                types. A row that has no form in it is a dead letter (`unwritable_value`).

        In Kafka Streams: `to`.
        """
        line = user_line()
        topic_name(topic, "to", line)
        if key is not None:
            keys: list[str] | None = self._names("to", [key] if isinstance(key, str) else list(key), line)
            if not keys:
                raise fault("bad_argument", "`key` is empty", operation="to", line=line, hint="leave it out")
        else:
            keys = self._default_key()
        written = self._written() if columns is None else self._names("to", list(columns), line)
        parameters: dict[str, Any] = {"topic": topic, "key": keys, "columns": written, "format": "json"}
        about = f"topic {topic}, key {', '.join(keys) if keys else 'none'}"
        if format != "json":
            types = {name: self._columns[name] for name in written}
            parameters |= row_formats.write(self._graph, format, topic, types, "to")
            about += f", {parameters['format']}"
        port = self._node_for("to_topic", (self._port,), line, parameters, about, name=f"to-{topic}")
        return Terminal(self._graph, self._graph.nodes[port[0]])

    def _default_key(self) -> list[str] | None:
        names = []
        for part in self._key:
            if part.name in WINDOW_COLUMNS:
                continue
            if not part.columns:
                return None
            names.append(part.name if part.name in part.columns else min(part.columns))
        return names or None

    def sink(self, sink: Sink) -> Terminal:
        """Keeps rows of an outside system current: one row per key of the sink, the newest wins.

        Raises:
            TopologyError: `sink_key_incomplete`: the sink's key must contain the stream's key;
                `sink_key_without_window`; `unknown_column`.
        """
        line = user_line()
        if not all(hasattr(sink, name) for name in ("kind", "key", "options", "target")):
            raise fault(
                "bad_argument",
                f"not a sink: {sink!r}",
                operation="sink",
                line=line,
                hint='write `ads.sinks.Sql("table", key=[…])`',
            )
        key = self._names("sink", sink.key, line)
        self._check_sink_key(sink, key, line)
        columns = [*key, *(name for name in self._written() if name not in key)]
        parameters = {"kind": sink.kind, "key": key, "columns": columns, "options": sink.options}
        name = f"{sink.kind}-{sink.target}".replace("_", "-") if sink.kind != "sql" else f"sql-{sink.target}"
        port = self._node_for("sink", (self._port,), line, parameters, repr(sink), name=name)
        return Terminal(self._graph, self._graph.nodes[port[0]])

    def _check_sink_key(self, sink: Sink, key: Sequence[str], line: str | None) -> None:
        for part in self._key:
            if part.columns.intersection(key):
                continue
            copies = sorted(name for name in part.columns if not name.startswith("$"))
            if part.name == "$window_start":
                raise fault(
                    "sink_key_without_window",
                    f"rows are per key and window; the key of {sink!r} has no window: one row for all windows",
                    operation="sink",
                    line=line,
                    hint=f"add `{copies[0]}` to the key"
                    if copies
                    else "write `.with_columns(metric_time=ads.window_start())`"
                    + ("" if "$window_start" in self._columns else " where the rows still have their window")
                    + ", add `metric_time` to the key",
                )
            gone = "" if part.columns else ", which was dropped or replaced on the way"
            raise fault(
                "sink_key_incomplete",
                f"the key of {sink!r} must contain the stream's key: `{part.name}` is missing{gone}",
                operation="sink",
                line=line,
                hint=f"add `{copies[0]}` to the key" if copies else f"keep the column `{part.name}`",
            )


class Terminal:
    """A written topic or a sink: the end of a stream."""

    __slots__ = ("_graph", "_node")

    def __init__(self, graph: Graph, node: Node) -> None:
        self._graph = graph
        self._node = node

    def named(self, name: str) -> Self:
        """Gives it a name: for internal topics, positions in the target, metrics."""
        self._graph.rename(self._node, name)
        return self

    def __repr__(self) -> str:
        return f"<{self._node.op} {self._node.name}>"


class Table(_Flow):
    """One row per key, or per key and window. In Kafka Streams: `KTable`.

    `.to_stream()` are its changes, `.final()` its windows once each, `.late` what came too late; all from one
    state.
    """

    def __init__(
        self,
        graph: Graph,
        port: Port,
        columns: Columns,
        key: tuple[KeyPart, ...],
        *,
        aggregate: Node,
        window: Tumbling | Hopping | None,
        origin: Stream | None,
        views: tuple[int, ...] = (),
        label: Node | None = None,
        schemas: tuple[tuple[Columns, tuple[KeyPart, ...]], ...] = (),
    ) -> None:
        super().__init__(graph, port, columns, key)
        self._aggregate = aggregate
        self._window = window
        self._origin = origin
        self._views = views
        self._label_node = label
        self._schemas = schemas or ((columns, key),)
        self._final: Stream | None = None
        self._changes: Stream | None = None

    def _label(self) -> Node:
        return self._label_node or self._node

    # --- views ------------------------------------------------------------------------------------

    def with_columns(self, **exprs: Value) -> Table:
        """A view with more columns; see `Stream.with_columns`. The key stays as it is."""
        line = user_line()
        named = {name: _value(value, "with_columns", line, name) for name, value in exprs.items()}
        return self._view("with_columns", named, line, keep=True)

    def select(self, *columns: str | Expr, **exprs: Value) -> Table:
        """A view with these columns only. The key must be among them, under any name; the window stays."""
        line = user_line()
        return self._view("select", self._selected("select", columns, exprs, line), line, keep=False)

    def _view(
        self, op: str, named: dict[str, Expr], line: str | None, *, keep: bool, label: Node | None = None
    ) -> Table:
        if not keep:
            named = {**{name: col(name) for name in WINDOW_COLUMNS if name in self._columns}, **named}
        parameters, columns, key, about, rung = self._project(op, named, line, keep=keep)
        lost = [part.name for part in key if not part.columns]
        if lost:
            raise fault(
                "key_dropped",
                f"a table keeps its key, and nothing holds `{lost[0]}` any more",
                operation=op,
                line=line,
                hint=f'add `"{lost[0]}"`, or leave the table first: `.to_stream().{op}(…)`',
            )
        port = self._node_for(op, (self._port,), line, parameters, about, rung)
        return Table(
            self._graph,
            port,
            columns,
            key,
            aggregate=self._aggregate,
            window=self._window,
            origin=self._origin,
            views=(*self._views, port[0]),
            label=label,
            schemas=(*self._schemas, (columns, key)),
        )

    # --- as streams -------------------------------------------------------------------------------

    def to_stream(self) -> Stream:
        """Its changes: the new row, each time one changes. In Kafka Streams: `toStream`."""
        if self._changes is None:
            port = self._node_for("to_stream", (self._port,), user_line(), {}, "changes")
            self._changes = Stream(self._graph, port, self._columns, self._key)
        return self._changes

    def final(self) -> Stream:
        """Each window's rows once, when it closed: when every lane's clock has reached `window end + grace`.

        In Kafka Streams: `suppress(untilWindowCloses(unbounded()))`.

        Raises:
            TopologyError: `not_windowed`.
        """
        self._need_window("final", "a table without windows is never final", "write `.to_stream()` for its changes")
        if self._final is None:
            columns, key = self._schemas[0]
            stream = Stream(self._graph, (self._aggregate.id, 1), columns, key)
            for view, (columns, key) in zip(self._views, self._schemas[1:], strict=True):
                node = self._graph.nodes[view]
                port = self._node_for(
                    node.op,
                    (stream._port,),
                    node.line,
                    node.parameters,
                    node.about,
                    node.rung,
                    f"{node.name}-final",
                )
                stream = Stream(self._graph, port, columns, key)
            self._final = stream
        return self._final

    @property
    def late(self) -> Stream:
        """The records that came too late for their window: the aggregate's input, with `$window_start`,
        `$window_end` and `$reason`. They have changed nothing.

        Raises:
            TopologyError: `not_windowed`.
        """
        self._need_window("late", "nothing is late without windows", "write `.windowed_by(ads.tumbling(…))`")
        assert self._origin is not None
        columns = {
            **self._origin._columns,
            "$window_start": "timestamp",
            "$window_end": "timestamp",
            "$reason": "str",
        }
        keys = self._aggregate.parameters["keys"]
        key = tuple(KeyPart(name, frozenset({name})) for name in keys)
        return Stream(self._graph, (self._aggregate.id, 2), columns, key)

    def _need_window(self, operation: str, message: str, hint: str) -> None:
        if self._window is None:
            raise fault("not_windowed", message, operation=operation, hint=hint)

    def to(
        self,
        topic: str,
        *,
        key: str | Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        format: str | serdes.Serde = "json",
    ) -> Terminal:
        """Writes its changes to a topic: `to_stream().to(…)`."""
        return self.to_stream().to(topic, key=key, columns=columns, format=format)

    def sink(self, sink: Sink) -> Terminal:
        """Keeps rows of an outside system current: `to_stream().sink(…)`."""
        return self.to_stream().sink(sink)

    # --- tables of tables -------------------------------------------------------------------------

    def group_by(self, *columns: str, **exprs: Value) -> GroupedTable:
        """Groups the table's rows. When one changes, its old values leave its old group and the new ones
        enter.

        In Kafka Streams: `KTable.groupBy`.
        """
        line = user_line()
        table = self.with_columns(**exprs) if exprs else self
        names = table._names("group_by", [*columns, *exprs], line)
        if not names:
            raise fault("bad_argument", "by what?", operation="group_by", line=line, hint='write `.group_by("id")`')
        from adstream.dsl.grouped import GroupedTable

        return GroupedTable(table, tuple(names))

    def windowed_by(self, window: Tumbling | Hopping) -> NoReturn:
        """Not on a table: its rows are states, not events."""
        raise fault(
            "window_over_table",
            "a table's rows are states, not events in time",
            operation="windowed_by",
            hint="write `.to_stream().group_by(…).windowed_by(…)`",
        )

    def filter(self, *_: object, **__: object) -> NoReturn:
        """Not yet on a table."""
        raise fault(
            "not_on_table",
            "a table cannot be filtered yet: rows that leave would have to be deleted downstream",
            operation="filter",
            hint="write `.to_stream().filter(…)`, or count with `where=…`",
        )


def _condition(value: Condition | bool, operation: str) -> Expr:
    if isinstance(value, Expr):
        return value
    if isinstance(value, bool):
        return lit(value)
    if callable(value):
        refuse_async(value, operation)
        return Expr("call", dtype=return_type(value) or "bool", function=value)
    raise fault(
        "bad_argument",
        f"not a condition: {value!r}",
        operation=operation,
        hint='write `col("x") > 0` or a function',
    )


def _value(value: Value, operation: str, line: str | None, name: str) -> Expr:
    if isinstance(value, str | Expr):
        return named_or_expr(value)
    if callable(value):
        refuse_async(value, operation, line)
        dtype = return_type(value)
        if dtype is None:
            raise fault(
                "untyped_callable",
                f"`{name}`: what does `{callable_name(value)}` return?",
                operation=operation,
                line=line,
                hint=f"annotate its return type, or write `{name}=ads.udf({callable_name(value)}, type=…)`",
            )
        return Expr("call", dtype=dtype, function=value)
    return lit(value)


def rung_of(exprs: object) -> Literal["expression", "callable"]:
    assert hasattr(exprs, "__iter__")
    called = any(node.op == "call" for e in exprs for node in e.walk())
    return "callable" if called else "expression"


def _widened(columns: Columns) -> list[tuple[str, str]]:
    return [(name, widened(dtype)) for name, dtype in columns.items()]


def _difference(left: Columns, right: Columns) -> str:
    missing = [name for name in left if name not in right]
    extra = [name for name in right if name not in left]
    if missing or extra:
        parts = [f"the other has no {name_list(missing)}"] if missing else []
        parts += [f"only the other has {name_list(extra)}"] if extra else []
        near = nearest(missing[0], extra) if missing and extra else None
        return " and ".join(parts) + (f" (is `{near}` meant as `{missing[0]}`?)" if near else "")
    for name, dtype in left.items():
        if widened(right[name]) != widened(dtype):
            return f"`{name}` is {dtype} here and {right[name]} in the other"
    return f"the columns are in another order: {name_list(left)} and {name_list(right)}"
