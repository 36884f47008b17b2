"""Rows by group and by window, and what an aggregate of them is: one row per group, a `Table`.

Aggregates are taken apart (`rate=ads.count(where=clicked) / ads.count()` keeps two counts), checked against the columns at
hand, and lowered to one node; what is composed of them is a view of its table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, overload

from adstream.dsl import aggregates as aggregates_
from adstream.dsl import rolling as rolling_
from adstream.dsl import scan as scan_
from adstream.dsl.aggregates import EXACT, Aggregate
from adstream.dsl.durations import Duration, duration_ms, format_ms
from adstream.dsl.expr import Expr, col
from adstream.dsl.faults import fault, user_line
from adstream.dsl.scan import State
from adstream.dsl.stream import WINDOW_COLUMNS, Columns, KeyPart, Stream, Table, rung_of
from adstream.dsl.typing_ import widened
from adstream.dsl.windows import Hopping, Session, Sliding, Tumbling, Unlimited

if TYPE_CHECKING:
    from adstream.dsl.pattern import AfterMatchSkipStrategy, Pattern
    from adstream.dsl.pattern_matches import OnMaxRuns, Time
    from adstream.dsl.pattern_rows import RowMatches
    from adstream.dsl.pattern_rules import Rules

_OF_RECORDS: tuple[type, ...] = (Session, Sliding, Unlimited)
"""Windows that keys and values have, and rows do not."""


class GroupedStream:
    """A stream's rows by group. In Kafka Streams: `KGroupedStream`."""

    def __init__(self, stream: Stream, keys: tuple[str, ...]) -> None:
        self._stream = stream
        self._keys = keys

    def windowed_by(self, window: Tumbling | Hopping) -> WindowedStream:
        """Groups by window, too: `ads.tumbling` or `ads.hopping`. In Kafka Streams: `windowedBy`."""
        if isinstance(window, _OF_RECORDS):
            raise fault(
                "bad_argument",
                f"rows have tumbling and hopping windows, not {window!r}",
                operation="windowed_by",
                hint="go on with keys and values: `.records(…)`",
            )
        if not isinstance(window, Tumbling | Hopping):
            raise fault(
                "bad_argument",
                f"not a window: {window!r}",
                operation="windowed_by",
                hint='write `ads.tumbling("5m", grace="10s")`',
            )
        return WindowedStream(self._stream, self._keys, window)

    def aggregate(self, *, combine: bool = True, ttl: Duration | None = None, **aggregates: Expr) -> Table:
        """One row per group, kept current.

        Args:
            combine: whether rows may be combined before they are shuffled, where all aggregates can be.
            ttl: after how much event time without a row a group begins anew and its state may go (`"35d"`). None: groups
                are kept for ever, for keys whose number has a bound.
            aggregates: `total=ads.sum("price")`, or composed: `rate=ads.count(where=clicked) / ads.count()`.

        Raises:
            TopologyError: `bad_duration`; `not_an_aggregate`, `type_mismatch` and others of an aggregate.

        In Kafka Streams: `aggregate`, which has no ttl.
        """
        return _aggregate(self._stream, self._keys, None, aggregates, combine, ttl)

    def scan(
        self,
        state: type[State],
        *,
        emit: Mapping[str, Expr | str],
        update: Mapping[str, Expr | str],
        ttl: Duration | None = None,
        name: str | None = None,
    ) -> Stream:
        """Every row, with what its group has come to before it.

        Args:
            state: a class of fields with types and initial values (`ads.State`).
            emit: columns that are added (or replaced): expressions over the row and the state before it (`ads.state`).
            update: fields of the state, after the row; all are computed from the state before it. Others stay.
            ttl: after how much event time without a row of the group its state is forgotten (`"90d"`). None: it is kept
                for ever, for groups whose number has a bound.
            name: of the operation, for its state and its topic.

        Rows of a group are taken in the order in which they come. A row that is null in one of the key's columns meets the
        initial state, and leaves none (counted: `null_key`). A row whose expressions fail is a dead letter and changes nothing.

        Raises:
            TopologyError: `bad_argument`, `unknown_column`, `type_mismatch` (an update is not of its field's type),
                `not_native`, `bad_duration`, `reserved_name`.

        Kafka Streams has no such operation; it would be a processor with a store.
        """
        return scan_.scan(self._stream, self._keys, state, emit, update, ttl, name)

    def rolling(
        self,
        within: Duration | None = None,
        *,
        rows: int | None = None,
        grace: Duration = "0s",
        name: str | None = None,
        **aggregates: Expr,
    ) -> Stream:
        """Every row, with aggregates of its group's rows up to it.

        Args:
            within: how much event time up to the row's own: `"5m"` is `(ts - 5m, ts]`. The row itself is in it.
            rows: instead of a time: of the last so many rows in the order in which they come, the row itself being one.
                What is kept of a group is kept for ever, for groups whose number has a bound.
            grace: how late a row may be and still see all rows of its time that came before it. Rows are kept for `within`
                and `grace` behind the newest one of the partition; one that is older sees itself (counted: `expired`).
            name: of the operation, for its state and its topic.
            aggregates: as of `aggregate`, with `where=`, or composed, also with the row's own columns:
                `share=col("price") / ads.sum("price")`; `ads.count().over("kind")` is of rows of the row's own kind.

        No row is told again because of one that comes late. A row that is null in one of the key's columns is alone in its
        window (counted: `null_key`). Each row costs as many steps as its window has rows.

        Raises:
            TopologyError: `bad_argument`, `bad_duration`, `duplicate_column`, `not_an_aggregate`, `not_native`,
                `reserved_name`, `type_mismatch`, `unknown_column`.

        In Polars: `rolling`. Kafka Streams has no such operation; its sliding windows tell windows, not rows.
        """
        return rolling_.rolling(self._stream, self._keys, within, rows, grace, name, aggregates)

    def ask_sql(
        self,
        function: str,
        *,
        schema: object,
        connection: str = "sql",
        migrations: str | Path | None = None,
        role: str | None = None,
        name: str | None = None,
    ) -> Stream:
        """For every row what a function in Postgres answers, that decides about rows of a group in their order.

        Args:
            function: its schema and name. It takes an array for each column of this stream, by name, and returns a set of
                rows, one for each in their order, with the columns of `schema`. It must record what it decides under an id of
                the row, and answer what is recorded when it is asked again: after a crash it will be.
            schema: a class as for `app.stream`: what is answered.
            connection: the name of the connection (`--sql`, `--sql NAME=…`).
            migrations: a folder of numbered SQL files (`0001_tables.sql`) that are run when a worker starts, each once; over the
                connection `NAME_owner`, if there is one.
            role: whom sessions act as (`SET ROLE`).
            name: of the operation, for its topic.

        Rows that are committed together are one call and one transaction. While the database is away the task waits, and
        nothing is lost or dead. A row that the function refuses (SQLSTATE 22, 23, P0001) is a dead letter, `callable_raised`;
        its neighbours go on.

        Raises:
            TopologyError: `bad_argument`, `not_a_schema`.

        Kafka Streams has no such operation.
        """
        from adstream.dsl import asked

        return asked.ask_sql(self._stream, self._keys, function, schema, connection, migrations, role, name)

    def edges(
        self,
        *,
        enter: Expr,
        leave: Expr,
        ttl: Duration | None = None,
        into: str = "edge",
        name: str | None = None,
    ) -> Stream:
        """The rows with which a group enters a condition, those while it is inside, and the one with which it leaves: for
        alerts that are raised once and lifted once.

        Args:
            enter, leave: conditions over a row; null is not true. Apart from one another they make a hysteresis
                (`enter=col("n") >= 5, leave=col("n") < 3`).
            ttl, name: as of `scan`; a group whose state is forgotten is outside.
            into: the column with `ENTER`, `UPDATE` or `LEAVE`.

        Rows outside are left out (counted: `filtered:outside`).

        Raises:
            TopologyError: `bad_argument`, `not_a_condition`, and those of `scan`.
        """
        return scan_.edges(self._stream, self._keys, enter, leave, ttl, into, name)

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
        """The pattern's matches among the rows of each group, as Flink CEP finds them (docs/patterns.md).

        Args:
            pattern, max_delay, time, idle, skip, order_by, max_runs, on_max_runs: as of `KGroupedStream.match`; `order_by` may
                name a column.
            name: of the operation, for its state and its topic.

        Conditions are expressions over the row's columns, checked when the topology is built; functions get a dict of them. A row
        that is null in one of the group's columns is left out (counted: `filtered:null_key` where rows are moved, else
        `dropped:null_key`).

        Raises:
            TopologyError: `malformed_pattern`, `unknown_column`, `not_a_condition`, `type_mismatch`, `bad_duration`,
                `bad_argument`.

        In Flink: `CEP.pattern`.
        """
        from adstream.dsl import pattern_matches, pattern_rows

        options = pattern_matches.Options(max_delay, time, idle, skip, max_runs, on_max_runs)
        return pattern_rows.match(self._stream, self._keys, pattern, options, order_by, name)

    def count(self, *, ttl: Duration | None = None) -> Table:
        """How many rows each group has, as `count`; `ttl` as in `aggregate`. In Kafka Streams: `count`."""
        return _aggregate(self._stream, self._keys, None, {"count": aggregates_.count()}, True, ttl)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} by {', '.join(self._keys)}>"


class WindowedStream:
    """A stream's rows by group and window. In Kafka Streams: `TimeWindowedKStream`."""

    def __init__(self, stream: Stream, keys: tuple[str, ...], window: Tumbling | Hopping) -> None:
        self._stream = stream
        self._keys = keys
        self._window = window

    def aggregate(self, *, combine: bool = True, **aggregates: Expr) -> Table:
        """One row per group and window, kept current; see `GroupedStream.aggregate`."""
        return _aggregate(self._stream, self._keys, self._window, aggregates, combine)

    def count(self) -> Table:
        """How many rows each group has in each window, as `count`."""
        return _aggregate(self._stream, self._keys, self._window, {"count": aggregates_.count()}, True)

    def __repr__(self) -> str:
        return f"<WindowedStream by {', '.join(self._keys)}, {self._window!r}>"


class GroupedTable:
    """A table's rows by group. In Kafka Streams: `KGroupedTable`."""

    def __init__(self, table: Table, keys: tuple[str, ...]) -> None:
        self._table = table
        self._keys = keys

    def aggregate(self, *, combine: bool = True, **aggregates: Expr) -> Table:
        """One row per group, kept current; aggregates that can take values back (see `adstream.dsl.aggregates`).

        In Kafka Streams: `KGroupedTable.aggregate` with a subtractor.

        Raises:
            TopologyError: `not_retractable`.
        """
        return _aggregate(self._table, self._keys, None, aggregates, combine)

    def count(self) -> Table:
        """How many of the table's rows each group has, as `count`."""
        return _aggregate(self._table, self._keys, None, {"count": aggregates_.count()}, True)

    def windowed_by(self, window: Tumbling | Hopping) -> NoReturn:
        """Not over a table: its rows are states, not events."""
        self._table.windowed_by(window)

    def __repr__(self) -> str:
        return f"<GroupedTable by {', '.join(self._keys)}>"


def _aggregate(
    source: Stream | Table,
    keys: tuple[str, ...],
    window: Tumbling | Hopping | None,
    named: Mapping[str, Expr],
    combine: bool,
    ttl: Duration | None = None,
) -> Table:
    line = user_line()
    ttl_ms = None if ttl is None else duration_ms(ttl, "ttl", operation="aggregate", zero=False)
    if not named:
        raise fault(
            "bad_argument",
            "names no aggregate",
            operation="aggregate",
            line=line,
            hint="write `n=ads.count()`",
        )
    for name, e in named.items():
        _check_aggregate(source, keys, name, e, line)
    kept, together = aggregates_.split(dict(named))

    columns: Columns = {name: widened(source._columns[name]) for name in keys}
    if window is not None:
        columns |= dict.fromkeys(WINDOW_COLUMNS, "timestamp")
    lowered = []
    for name, aggregate in kept:
        dtype = _aggregate_type(source, aggregate, line)
        node = aggregate.lower(source._columns, source._graph.register)
        lowered.append({"name": name, **node, "type": dtype})
        columns[name] = dtype

    parameters: dict[str, Any] = {
        "keys": list(keys),
        "window": window.to_plan() if window is not None else None,
        "aggregates": lowered,
        "combine": combine,
    }
    about = f"by {', '.join(keys)}"
    if window is not None:
        about += f" in {window.describe()}"
    elif ttl_ms is not None:
        parameters["ttl_ms"] = ttl_ms
        about += f", forgotten {format_ms(ttl_ms)} after its last row"
    elif isinstance(source, Stream):
        about += ", kept for ever"
    about += ": " + ", ".join(f"{name}={e!r}" for name, e in kept)
    calls = any(a.fold is not None for _, a in kept)
    inner = [e for _, a in kept for e in a.parts()]
    rung = "callable" if calls else rung_of(inner)
    node_ = source._graph.add("aggregate", (source._port,), line, parameters, about=about, rung=rung)

    key = tuple(KeyPart(name, frozenset({name})) for name in keys)
    if window is not None:
        key = (*key, KeyPart("$window_start", frozenset(WINDOW_COLUMNS)))
    table = Table(
        source._graph,
        (node_.id, 0),
        columns,
        key,
        aggregate=node_,
        window=window,
        origin=source if isinstance(source, Stream) else None,
    )
    if together is None:
        return table
    chosen = {name: col(name) for name in keys} | dict(together)
    return table._view("select", chosen, line, keep=False, label=node_)


def _check_aggregate(source: Stream | Table, keys: tuple[str, ...], name: str, e: object, line: str | None) -> None:
    def wrong(code: str, message: str, hint: str) -> NoReturn:
        raise fault(code, message, operation="aggregate", line=line, hint=hint)

    if name.startswith("$"):
        wrong("reserved_name", f"`{name}`: names that begin with `$` are the engine's", "choose another name")
    if name in keys:
        wrong("duplicate_column", f"`{name}` is a key already", "choose another name")
    parts = list(e.walk()) if isinstance(e, Expr) else []
    found = [part for part in parts if isinstance(part, Aggregate)]
    if not found:
        wrong("not_an_aggregate", f"`{name}` is {e!r}, not an aggregate", f'write `{name}=ads.sum("…")`')
    assert isinstance(e, Expr)
    for aggregate in found:
        if aggregate.partition:
            wrong(
                "bad_argument",
                f"`{name}` is {aggregate!r}: `over` says which rows of a group a row meets, and here there is none",
                "group by these columns, too, or write `.rolling(…)`",
            )
    for part in _outside(e):
        if part.op == "col" and part.name not in keys and part.name not in WINDOW_COLUMNS:
            wrong(
                "column_outside_aggregate",
                f"`{name}`: a group has many values of `{part.name}`",
                f'say which one: `ads.last("{part.name}")`',
            )
    if isinstance(source, Table):
        for part in found:
            if not part.takes_back():
                label = "udaf" if part.fn == "python" else part.fn
                ordered = part.fn in ("first", "last")
                wrong(
                    "not_retractable",
                    f"`{name}`: `{label}` over a table cannot take back the old value of a row that changes",
                    f'say what comes first: `ads.{label}("…", order_by="…")`'
                    if ordered
                    else "use another aggregate, or over its changes: `.to_stream().group_by(…)…`",
                )


def _outside(e: Expr) -> list[Expr]:
    """The nodes of a composed aggregate that are not inside one of its parts."""
    if isinstance(e, Aggregate):
        return []
    return [e, *(node for arg in e.args for node in _outside(arg))]


def _aggregate_type(
    source: Stream | Table, aggregate: Aggregate, line: str | None, operation: str = "aggregate"
) -> str:
    argument = source._compile(operation, aggregate.args[0], line)[1] if aggregate.args else None
    if aggregate.where is not None:
        source._compile(operation, aggregate.where, line, boolean="`where`")
    for by in [*(e for e, _ in aggregate.order), *aggregate.partition]:
        source._compile(operation, by, line)
    if isinstance(source, Table) and aggregate.fn in EXACT and argument == "float":
        raise fault(
            "not_retractable",
            f"`{aggregate!r}` over a table cannot take floats back exactly",
            operation=operation,
            line=line,
            hint="cast to a decimal first: `.cast(ads.decimal(38, 6))`",
        )
    dtype = aggregate.result_type(argument)
    if dtype is None:
        raise fault(
            "type_mismatch",
            f"`{aggregate!r}`: there is no {aggregate.fn} of {argument}",
            operation=operation,
            line=line,
            hint=f'cast it: `ads.{aggregate.fn}(col("…").cast(int))`' if argument in ("str", "bool") else "use `first`",
        )
    return dtype
