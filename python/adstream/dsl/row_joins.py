"""Joins of rows with rows and with tables of rows: columns and expressions in front, the joins of keys and values
(`joins.py`) underneath.

    left ──(columns of `on`)── from_rows ─▶ moved by key? ─┐
                                                           ├─ stream_join ─ to_rows ─▶ left's columns, right's ─▶ where
    right ─(columns of `on`)── from_rows ─▶ moved by key? ─┘    (no Python)

- *The key* is what `on` says, typed: a number meets its equal, and no text. Its partition is that of the text that rows
  are keyed by on topics, so a stream whose topic is keyed so already stays where it is (`_together`).
- *Names.* Of columns that `on` names alike on both sides there is one; with an outer join it holds the key of whichever
  side came. Other names that clash are refused: `into="click"` puts the right row's columns under `click.`.
- *`where`* is part of what a match is. Behind a plain inner join it is a filter of columns, which comes to the same; else the
  join asks it. *`pick`* is an operator of its own in place of `stream_join` (`rust/core/src/flow/pick_join.rs`).
- Nothing is decided here about time, lateness, order or null keys: that is Kafka Streams' join, record by record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from adstream.dsl import flow, joins, natives, serdes
from adstream.dsl.durations import Duration, duration_ms, format_ms
from adstream.dsl.expr import Expr, coalesce, col
from adstream.dsl.faults import fault, name_list, unknown_column, user_line
from adstream.dsl.flow import Materialized
from adstream.dsl.graph import Graph, Port
from adstream.dsl.kstream import Flowing, KStream
from adstream.dsl.schema import schema_of
from adstream.dsl.typing_ import widened

if TYPE_CHECKING:
    from adstream.dsl.ktable import KTable
    from adstream.dsl.stream import Stream

JoinHow = Literal["inner", "left", "outer"]
_HOW = {"inner": joins.INNER, "left": joins.LEFT, "outer": joins.OUTER}

Side = str | Expr
On = Side | Mapping[str, Side] | Sequence[Side | tuple[Side, Side]]
"""What must be equal: a column or expression of both sides, `{left: right}`, or a list of these and of (left, right)."""

_AS_TEXT = ("str", "int", "bool")
"""Types whose text on a topic is the text that partitions are chosen by (`rust/core/src/key.rs`)."""


@dataclass(frozen=True, slots=True)
class Between:
    """How much later than the left row the right one may be, both ends inclusive. Made by `ads.between`."""

    low_ms: int
    high_ms: int

    def __repr__(self) -> str:
        return f"between({_signed(self.low_ms)}, {_signed(self.high_ms)})"


def _signed(ms: int) -> str:
    return f'"{"-" if ms < 0 else ""}{format_ms(abs(ms))}"'


@dataclass(frozen=True, slots=True, eq=False)
class LatestBy:
    """What compares largest. Made by `ads.latest_by`."""

    by: tuple[Expr, ...]

    def __repr__(self) -> str:
        return f"latest_by({', '.join(map(repr, self.by))})"


Pick = Literal["first", "last"] | LatestBy


def latest_by(*by: Side) -> LatestBy:
    """For `pick=` of a join: the match that is largest in these columns or expressions, compared one after the other; null is
    least, of equals it is the later one.

        pick=ads.latest_by("click.timestamp", "click.event_id")

    Raises:
        TopologyError: `bad_argument`.
    """
    if not by or not all(isinstance(side, str | Expr) for side in by):
        raise fault(
            "bad_argument",
            f"by {by!r}" if by else "by what?",
            operation="latest_by",
            hint='write `ads.latest_by("click.at", "click.id")`',
        )
    return LatestBy(tuple(col(side) if isinstance(side, str) else side for side in by))


def between(low: Duration, high: Duration) -> Between:
    """For `within=` of a join: the time of the right row minus that of the left one, both ends inclusive.

        ads.between("-24h", "0s")      the right row lies up to a day before the left one

    Raises:
        TopologyError: `bad_duration`, `bad_window` (the first is larger than the second).
    """
    found = Between(
        duration_ms(low, "low", operation="between", negative=True),
        duration_ms(high, "high", operation="between", negative=True),
    )
    if found.low_ms > found.high_ms:
        raise fault(
            "bad_window",
            f"from {_signed(found.low_ms)} to {_signed(found.high_ms)} there is nothing",
            operation="between",
            hint="write the smaller one first",
        )
    return found


def join(
    left: Stream,
    other: object,
    on: On,
    how: JoinHow,
    within: Duration | Between | None,
    grace: Duration | None,
    where: Expr | None,
    into: str | type | None,
    pick: Pick | None,
    name: str | None,
) -> Stream:
    """`Stream.join`."""
    from adstream.dsl.stream import Stream

    line = user_line()
    if not isinstance(other, Stream | RowTable):
        raise fault(
            "bad_argument",
            f"rows are joined with a stream or a table of rows, not with {other!r}",
            operation="join",
            line=line,
            hint="write `.to_table(…)` on a stream of rows, or go over to records: `.records(…).join(…)`",
        )
    if other._graph is not left._graph:
        raise fault("other_app", "the streams are of two apps", operation="join", line=line, hint="build both from one")
    if how not in get_args(JoinHow):
        raise fault("bad_argument", f"`how` is {how!r}", operation="join", line=line, hint=f"use {_choice()}")
    _check_where(where, how, pick is not None, line)
    _check_into(into, line)
    _check_pick(pick, how, other, line)
    if isinstance(other, RowTable):
        stream = _with_table(left, other, on, how, within, grace, where, into, name, line)
        return _as_schema(stream, into, line) if isinstance(into, type) else stream
    windows = _windows(within, grace, line)
    pairs = _pairs(left, other, on, line)
    prefix = f"{into}." if isinstance(into, str) else ""
    kept, once = _right_columns(left, other, pairs, prefix, line)
    keys = [f"$on_{i}" for i in range(len(pairs))]
    # The right row takes its new names while it is still columns.
    named = {new: col(old) for old, new in kept.items()}
    mine = _projected(left, {n: e for n, (e, _) in zip(keys, pairs, strict=True)}, line, keep=True)
    theirs = _projected(other, named | {n: e for n, (_, e) in zip(keys, pairs, strict=True)}, line, keep=False)
    written = left._written()
    types = [widened(left._compile("join", e, line)[1]) for e, _ in pairs]
    outer = how == "outer"
    columns = {n: widened(left._columns[n]) if outer and n in once else left._columns[n] for n in written}
    columns |= {new: other._columns[old] for old, new in kept.items()}
    # Behind an inner join it is a filter of columns; else it says what a match is.
    both = {n: n for n in kept.values()}
    inside = None
    if where is not None and (how != "inner" or pick is not None):
        inside = _condition(left, columns, both, where, line)
    joined: Callable[..., KStream] = joins._with_stream
    if pick is not None:
        joined = partial(_picked, pick, _ordering(left, columns, both, pick, line))
    made = joined(
        _HOW[how],
        _records(left, mine, keys, types, written, _together(left, [e for e, _ in pairs], types)),
        _records(
            other,
            theirs,
            keys,
            types,
            [*kept.values(), *(keys if outer else [])],
            _together(other, [e for _, e in pairs], types),
        ),
        _whichever(written, kept, once) if outer else natives.joined(),
        windows,
        name=name,
        where=inside,
    )

    stream = _rows(left, made, pairs, columns, how)
    if where is not None and inside is None:
        stream = stream._filter("join", where, "where")
    if isinstance(into, type):
        stream = _as_schema(stream, into, line)
    return stream


class RowTable:
    """The newest row of each key, to be joined with. Made by `Stream.to_table`."""

    def __init__(self, rows: Stream, key: Sequence[str], kept: KTable, *, versioned: bool) -> None:
        self._stream = rows
        self._key = list(key)
        self._kept = kept
        self._versioned = versioned

    @property
    def _graph(self) -> Graph:
        return self._stream._graph

    @property
    def schema(self) -> dict[str, str]:
        """Column -> type, as text."""
        return self._stream.schema

    def __repr__(self) -> str:
        return f"<RowTable by {', '.join(self._key)}: {', '.join(self._stream._written())}>"


def to_table(
    stream: Stream,
    key: Sequence[str],
    latest_by: Side | None,
    history: Duration | None,
    deletes: object,
    name: str | None,
) -> RowTable:
    """`Stream.to_table`."""
    from adstream.dsl.ktable import table_of

    line = user_line()
    names = stream._names("to_table", key, line)
    if not names:
        raise fault(
            "bad_argument",
            "by what?",
            operation="to_table",
            line=line,
            hint='write `.to_table("id")`: one row for each id',
        )
    older = None
    if latest_by is not None:
        by = col(latest_by) if isinstance(latest_by, str) else latest_by
        if not isinstance(by, Expr):
            raise fault(
                "bad_argument",
                f"`latest_by` is {latest_by!r}",
                operation="to_table",
                line=line,
                hint='write `latest_by="updated"`, a column or an expression',
            )
        tree, _ = stream._compile("to_table", by, line)
        _no_python(by, "`latest_by` is asked inside the table", "to_table", line)
        less = {"op": "lt", "args": [tree, _of_pair(tree, {n: n for n in stream._written()}, line, "to_table")]}
        older = natives.Native({"expr": less}, f"{by!r} is less")
    types = [widened(stream._columns[n]) for n in names]
    records = _records(
        stream, stream._port, names, types, stream._written(), _together(stream, [*map(col, names)], types)
    )
    if deletes is not None:
        records = _without(stream, records, deletes, line)
    flowing = records._keyed("to_table", name)
    kept = table_of(flowing, Materialized(name, history=history), "to_table", older=older)
    return RowTable(stream, names, kept, versioned=history is not None)


def _without(stream: Stream, records: KStream, deletes: object, line: str | None) -> KStream:
    """The records, without a value where the condition is true."""
    if not isinstance(deletes, Expr):
        raise fault(
            "bad_argument",
            f"`deletes` is {deletes!r}",
            operation="to_table",
            line=line,
            hint='write a condition, `deletes=ads.col("status") == "closed"`',
        )
    tree, dtype = stream._compile("to_table", deletes, line)
    if dtype != "bool":
        raise fault(
            "type_mismatch",
            f"`deletes` is {dtype}, and must be a condition",
            operation="to_table",
            line=line,
            hint='compare it: `ads.col("status") == "closed"`',
        )
    _no_python(deletes, "`deletes` is asked inside the table", "to_table", line)
    none = {"op": "lit", "value": None, "dtype": "null"}
    said = {"op": "when", "args": [tree, none, {"op": "col", "name": "$value"}]}
    gone = natives.Native({"expr": said}, f"nothing where {deletes!r}")
    return records._next("map_values", mapper=flow.function(stream._graph, gone, "deletes", "to_table"))


def _with_table(
    left: Stream,
    table: RowTable,
    on: On,
    how: JoinHow,
    within: object,
    grace: Duration | None,
    where: Expr | None,
    into: object,
    name: str | None,
    line: str | None,
) -> Stream:
    right = table._stream
    if how == "outer":
        raise fault(
            "bad_argument",
            "an outer join with a table: only the stream's rows cause results, so none is there for a row of the table alone",
            operation="join",
            line=line,
            hint='write `how="left"`',
        )
    if within is not None:
        raise fault(
            "bad_argument",
            "`within` is for two streams; of a table a row sees what it says of its key",
            operation="join",
            line=line,
            hint="leave it out; for what held at the row's time write `.to_table(…, history=…)`",
        )
    if grace is not None and not table._versioned:
        raise fault(
            "grace_without_versions",
            f"rows can only wait for a table that keeps versions, and {table!r} keeps the newest one",
            operation="join",
            line=line,
            hint='write `.to_table(…, history="1h")`, or leave out `grace`',
        )
    pairs = _pairs(left, right, on, line)
    told = [e.name for _, e in pairs if e.op == "col"]
    if sorted(map(str, told)) != sorted(table._key) or len(told) != len(pairs):
        raise fault(
            "not_the_key",
            f"`on` is about {_text(pairs)}, and the table's key is {name_list(table._key)}",
            operation="join",
            line=line,
            hint=f"name its whole key, or make the table by what `on` says: `.to_table({', '.join(map(repr, told))})`",
        )
    pairs.sort(key=lambda pair: table._key.index(str(pair[1].name)))
    prefix = f"{into}." if isinstance(into, str) else ""
    kept, _ = _right_columns(left, right, pairs, prefix, line)
    columns = {n: left._columns[n] for n in left._written()} | {new: right._columns[old] for old, new in kept.items()}
    keys = [f"$on_{i}" for i in range(len(pairs))]
    mine = _projected(left, {n: e for n, (e, _) in zip(keys, pairs, strict=True)}, line, keep=True)
    types = [widened(left._compile("join", e, line)[1]) for e, _ in pairs]
    inside = (
        None
        if where is None or how == "inner"
        else _condition(left, columns, {new: old for old, new in kept.items()}, where, line)
    )
    made = joins._with_table(
        _HOW[how],
        _records(left, mine, keys, types, left._written(), _together(left, [e for e, _ in pairs], types)),
        table._kept,
        _beside(left._written(), kept, inside),
        name=name,
        grace=grace,
    )
    stream = _rows(left, made, pairs, columns, how)
    return stream if where is None or inside is not None else stream._filter("join", where, "where")


def _beside(written: Sequence[str], kept: Mapping[str, str], condition: natives.Native | None) -> natives.Native:
    """A joiner with a table's row, whose columns take their new names now: the table is everybody's. Where a condition is not
    true they are null."""
    found: list[Any] = [{"op": "col", "name": f"$other.{old}"} for old in kept]
    about = "the fields of both"
    if condition is not None:
        said = json.loads(condition.__adstream_native__)["expr"]
        found = [{"op": "when", "args": [said, it, {"op": "lit", "value": None, "dtype": "null"}]} for it in found]
        about += f" where {condition!r}"
    fields = [*({"op": "col", "name": n} for n in written), *found]
    return natives.Native({"expr": {"op": "struct", "args": fields, "value": [*written, *kept.values()]}}, about)


def _rows(
    left: Stream, made: KStream, pairs: Sequence[tuple[Expr, Expr]], columns: dict[str, str], how: JoinHow
) -> Stream:
    """What a join made, as rows."""
    from adstream.dsl.stream import KeyPart, Stream

    held = [e.name for e, _ in pairs if e.op == "col" and e.name is not None]
    # A key that is null in part is a group of rows but no key of a join: its rows may lie in several partitions.
    whole = len(held) == len(pairs) and (how == "inner" or len(pairs) == 1)
    node = flow.add(
        left._graph,
        "to_rows",
        [made._flowing.port],
        schema=[{"name": n, "type": dtype} for n, dtype in columns.items()],
        fill=[{"field": n} for n in columns],
        keys=held if whole else [],
        about=f"{how} join on {_text(pairs)}",
    )
    key = tuple(KeyPart(n, frozenset({n})) for n in held) if whole else ()
    return Stream(left._graph, (node.id, 0), columns, key)


def _check_pick(pick: object, how: str, other: object, line: str | None) -> None:
    if pick is None:
        return
    if not isinstance(pick, LatestBy) and pick not in ("first", "last"):
        raise fault(
            "bad_argument",
            f"`pick` is {pick!r}",
            operation="join",
            line=line,
            hint='write `pick="last"`, `"first"` or `ads.latest_by("click.at")`',
        )
    if isinstance(other, RowTable) or how == "outer":
        what = "a table says one row anyway" if isinstance(other, RowTable) else "an outer join has no side to pick for"
        raise fault(
            "bad_argument",
            f"`pick` is one match of each left row: {what}",
            operation="join",
            line=line,
            hint="leave it out" if isinstance(other, RowTable) else 'write `how="left"`',
        )


def _ordering(
    left: Stream, columns: dict[str, str], right: Mapping[str, str], pick: Pick, line: str | None
) -> natives.Native | None:
    from adstream.dsl.stream import Stream

    if not isinstance(pick, LatestBy):
        return None
    rows = Stream(left._graph, left._port, columns, ())
    trees = []
    for e in pick.by:
        _no_python(e, "`pick` is asked inside the join", "join", line)
        trees.append(_of_pair(rows._compile("join", e, line)[0], right, line))
    return natives.Native({"expr": {"op": "tuple", "args": trees}}, repr(pick))


def _picked(
    pick: Pick,
    by: natives.Native | None,
    how: joins.How,
    left: KStream,
    right: KStream,
    joiner: natives.Native,
    windows: joins.JoinWindows,
    *,
    name: str | None,
    where: natives.Native | None,
) -> KStream:
    graph, operation = left._graph, how.operation
    mine = joins._moved(left, None if name is None else f"{name}-left", operation, None)
    theirs = joins._moved(right, None if name is None else f"{name}-right", operation, None)

    def fn(native: natives.Native | None) -> dict[str, Any] | None:
        return None if native is None else flow.function(graph, native, "pick", operation, values=2)

    node = flow.add(
        graph,
        "pick_join",
        [mine.port, theirs.port],
        name=name,
        joiner=fn(joiner),
        before_ms=windows.before_ms,
        after_ms=windows.after_ms,
        grace_ms=windows.grace_ms,
        left_outer=how.left,
        where=fn(where),
        first=pick == "first",
        by=fn(by),
        about=f"{pick!r}, before {format_ms(windows.before_ms)}, after {format_ms(windows.after_ms)}"
        f", grace {format_ms(windows.grace_ms)}",
    )
    # Longer than a plain join's: who leaves now must still find all of its span, behind others that are as new as he is.
    kept = {
        "retention_ms": windows.before_ms + max(windows.after_ms, 0) + windows.grace_ms + 1,
        "window_size_ms": windows.size_ms,
        "duplicates": True,
    }
    stores = {
        "right": flow.store(graph, "buffer", Materialized(), f"{node.name}-other-join", operation, **kept),
        "waiting": flow.store(graph, "buffer", Materialized(), f"{node.name}-waiting", operation),
    }
    if how.left:
        joins._wants_null_keys(graph, node)
    node.parameters |= stores | {"stores": sorted(stores.values())}
    return KStream(mine.at(node, value=None))


def _choice() -> str:
    return ", ".join(f'"{how}"' for how in get_args(JoinHow))


def _windows(within: Duration | Between | None, grace: Duration | None, line: str | None) -> joins.JoinWindows:
    if within is None:
        raise fault(
            "within_missing",
            "streams meet within a span of time, and none is given",
            operation="join",
            line=line,
            hint='write `within="10m"`, or `within=ads.between("-24h", "0s")` for right minus left',
        )
    if grace is None:
        raise fault(
            "grace_missing",
            "how long are rows waited for that come out of order?",
            operation="join",
            line=line,
            hint='write `grace="10s"`, or `grace="0s"` to wait for nothing',
        )
    grace_ms = duration_ms(grace, "grace", operation="join")
    if isinstance(within, Between):
        found = joins.JoinWindows(-within.low_ms, within.high_ms, grace_ms)
    else:
        ms = duration_ms(within, "within", operation="join")
        found = joins.JoinWindows(ms, ms, grace_ms)
    if found.size_ms + grace_ms == 0:
        # Kafka Streams takes it, keeps records for no time at all, and joins nothing.
        raise fault(
            "bad_window",
            "rows that meet at one instant only, and for which nobody waits, are forgotten before anything meets them",
            operation="join",
            line=line,
            hint='write `grace="1ms"` or more',
        )
    return found


def _pairs(left: Stream, right: Stream, on: On, line: str | None) -> list[tuple[Expr, Expr]]:
    """What must be equal, left and right, checked."""
    given: list[Any]
    if isinstance(on, Mapping):
        given = list(on.items())
    else:
        given = [on] if isinstance(on, str | Expr) or not isinstance(on, Sequence) else list(on)
    sides = [part if isinstance(part, tuple) and len(part) == 2 else (part, part) for part in given]
    if not sides or not all(isinstance(side, str | Expr) for pair in sides for side in pair):
        raise fault(
            "bad_argument",
            f"`on` is {on!r}",
            operation="join",
            line=line,
            hint='write `on="user_id"`, `on=["a", "b"]`, `on={"left": "right"}` or `on=col("x").str.to_lowercase()`',
        )
    pairs = []
    for mine, theirs in sides:
        pair = tuple(col(side) if isinstance(side, str) else side for side in (mine, theirs))
        (_, one), (_, two) = left._compile("join", pair[0], line), right._compile("join", pair[1], line)
        if widened(one) != widened(two):
            raise fault(
                "type_mismatch",
                f"`{pair[0]!r}` is {one} on the left, `{pair[1]!r}` is {two} on the right: they are never equal",
                operation="join",
                line=line,
                hint="cast one of them: `.cast(…)`",
            )
        pairs.append((pair[0], pair[1]))
    return pairs


def _check_where(where: object, how: str, picks: bool, line: str | None) -> None:
    if where is not None and not isinstance(where, Expr):
        raise fault(
            "bad_argument",
            f"`where` is {where!r}",
            operation="join",
            line=line,
            hint='write an expression: `where=col("x") > 0`',
        )
    if isinstance(where, Expr) and (how != "inner" or picks):
        what = "a join that picks" if picks else f"a {how} join"
        _no_python(where, f"`where` of {what} is asked inside the join", "join", line)


def _no_python(e: Expr, why: str, operation: str, line: str | None) -> None:
    for node in e.walk():
        if node.op == "call":
            raise fault(
                "not_native",
                f"`{node!r}` calls Python, and {why}",
                operation=operation,
                line=line,
                hint="write it as an expression, or compute a column before",
            )


def _condition(
    left: Stream, columns: dict[str, str], right: Mapping[str, str], where: Expr, line: str | None
) -> natives.Native:
    """A condition over the columns of a pair as one over its two records; `right` as in `_of_pair`."""
    from adstream.dsl.stream import Stream

    tree, _ = Stream(left._graph, left._port, columns, ())._compile("join", where, line, boolean="where")
    return natives.Native({"expr": _of_pair(tree, right, line)}, repr(where))


def _of_pair(tree: Any, right: Mapping[str, str], line: str | None, operation: str = "join") -> Any:
    """`right`: a column of the pair -> its name in the second record."""
    if isinstance(tree, list):
        return [_of_pair(part, right, line, operation) for part in tree]
    if not isinstance(tree, dict):
        return tree
    name = tree.get("name")
    if tree.get("op") == "col" and isinstance(name, str):
        if name.startswith("$"):
            raise fault(
                "unknown_column",
                f"`{name[1:]}()` of which side? A pair has two",
                operation=operation,
                line=line,
                hint="keep it as a column before: `.with_columns(…)`",
            )
        return {**tree, "name": f"$other.{right[name]}"} if name in right else tree
    return {part: _of_pair(of, right, line, operation) for part, of in tree.items()}


def _check_into(into: object, line: str | None) -> None:
    if isinstance(into, str) and into.startswith("$"):
        raise fault(
            "reserved_name",
            f"`{into}`: names that begin with `$` are the engine's",
            operation="join",
            line=line,
            hint="choose another name",
        )
    if into is not None and (not into or not isinstance(into, str | type)):
        raise fault(
            "bad_argument",
            f"`into` is {into!r}",
            operation="join",
            line=line,
            hint='write `into="click"`, or a schema class',
        )


def _right_columns(
    left: Stream, right: Stream, pairs: Sequence[tuple[Expr, Expr]], prefix: str, line: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """The right row's columns with their names in the result; and the columns of the left side, with that of the key,
    that both sides have under one name."""
    once = {
        e.name: f"$on_{i}"
        for i, (e, other) in enumerate(pairs)
        if e.op == other.op == "col" and e.name == other.name and e.name is not None
    }
    kept = {n: f"{prefix}{n}" for n in right._written() if prefix or n not in once}
    clashes = [new for new in kept.values() if new in left._columns]
    if clashes:
        free = next(n for n in ("right", "other", "joined") if not any(c.startswith(f"{n}.") for c in left._columns))
        raise fault(
            "duplicate_column",
            f"both sides have {name_list(clashes)}",
            operation="join",
            line=line,
            hint=f'write `into="{free}"`: the right row\'s columns become `{free}.{clashes[0].rpartition(".")[2]}` …',
        )
    return kept, once


def _projected(stream: Stream, named: Mapping[str, Expr], line: str | None, *, keep: bool) -> Port:
    exprs = [[n, stream._compile("join", e, line)[0]] for n, e in named.items()]
    calls = any(node.op == "call" for e in named.values() for node in e.walk())
    return stream._node_for(
        "with_columns" if keep else "select",
        (stream._port,),
        line,
        {"exprs": exprs},
        ", ".join(f"{n}={e!r}" for n, e in named.items()),
        "callable" if calls else "expression",
    )


def _records(
    stream: Stream,
    port: Port,
    keys: list[str],
    types: list[str],
    columns: list[str],
    together: bool,
    *,
    typed: bool = False,
) -> KStream:
    """`typed`: values keep their types where they are moved by key, for whoever computes with them there."""
    node = flow.add(stream._graph, "from_rows", [port], keys=keys, columns=columns, about=f"key {', '.join(keys)}")
    # JSON is what rows' keys are as text, but for text itself, which stands there without quotes.
    serde = serdes.string if types == ["str"] else serdes.json_
    value = serdes.internal if typed else serdes.json_
    return KStream(Flowing(stream._app, stream._graph, (node.id, 0), serde, value, rekeyed=not together))


def _together(stream: Stream, keys: Sequence[Expr], types: Sequence[str]) -> bool:
    """Whether rows of one key are in one partition, and in that of the key's text."""
    if len(keys) != 1 or len(stream._key) != 1 or types[0] not in _AS_TEXT:
        return False
    return keys[0].op == "col" and keys[0].name in stream._key[0].columns


def _whichever(written: Sequence[str], kept: Mapping[str, str], once: Mapping[str, str]) -> Expr:
    """A joiner of sides that may be missing: what both have is told by the one that is there."""
    mine = {n: coalesce(col(n), natives.other(once[n])) if n in once else col(n) for n in written}
    return natives.struct(**mine, **{n: natives.other(n) for n in kept.values()})


def _as_schema(stream: Stream, into: type, line: str | None) -> Stream:
    declared = schema_of(into, operation="join")
    for field, dtype in declared.types.items():
        if field not in stream._columns:
            raise unknown_column(field, stream._columns, operation="join", line=line)
        if widened(stream._columns[field]) != widened(dtype):
            raise fault(
                "schema_mismatch",
                f"`{field}` is {stream._columns[field]} and {dtype} in {declared.name}",
                operation="join",
                line=line,
                hint="change the schema, or cast the column before the join",
            )
    return stream.select(*declared.types)


def _text(pairs: Sequence[tuple[Expr, Expr]]) -> str:
    return ", ".join(f"{e!r}" if repr(e) == repr(o) else f"{e!r} = {o!r}" for e, o in pairs)
