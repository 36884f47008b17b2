"""`ask_sql`: rows are put before a function in Postgres that decides, and go on with its answers.

    rows of a group, together ──▶ SELECT … FROM function(id => […], amount => […]) ──▶ one answer per row, in their order

One call per batch, and each call is one transaction. What a map over many rows cannot do is done there: the function sees the
rows of a group in their order, may look at what it decided before, and **records what it decides under an id of the row**.
Asked again, it must answer what is recorded. Everything else follows from that:

- *A crash, or an abort, between answer and commit*: the rows are read and asked about again, perhaps cut into other batches and
  in another order among groups. The answers are the recorded ones, so the log and the database cannot come to disagree.
- *No open transaction waits for a database*: rows are asked about while their generation is processed. Its transaction on the
  log is opened when the generation has ended (`python/adstream/runtime/commit.py`).
- *Two workers at once* (one has lost its lease and does not know it): the function locks what it decides about; the second
  finds the first one's decision.
- What is asked must follow from the row as it was read. Behind a window or a join in the same sub-topology, an attempt that
  was aborted could have asked something else under the same id.

**Failures.** The database is away, or refuses us: nobody's row is to blame. The task goes back to its last commit, waits, and
tries again, for ever (`target_unavailable` in the worker). What a row holds is refused (SQLSTATE 22, 23, P0001): the batch is
halved, as for `map_batches`, down to single rows, which are dead letters; each half is a transaction of its own.

The connection is made by `adstream.targets.sql_function`; no driver is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adstream.dsl import flow, joins
from adstream.dsl.batches import MapBatches
from adstream.dsl.expr import col
from adstream.dsl.faults import fault, user_line
from adstream.dsl.row_joins import _records, _together
from adstream.dsl.schema import schema_of
from adstream.dsl.stream import Stream
from adstream.dsl.typing_ import widened

if TYPE_CHECKING:
    import pyarrow as pa

OPERATION = "ask_sql"
_FUNCTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def ask_sql(
    stream: Stream,
    keys: tuple[str, ...],
    function: str,
    schema: object,
    connection: str,
    migrations: str | Path | None,
    role: str | None,
    name: str | None,
) -> Stream:
    """See `GroupedStream.ask_sql`."""
    line = user_line()
    if not isinstance(function, str) or not _FUNCTION.fullmatch(function):
        raise fault(
            "bad_argument",
            f"not a function of a schema: {function!r}",
            operation=OPERATION,
            line=line,
            hint='write its schema and its name: `"ledger.post"`',
        )
    if migrations is not None and not Path(migrations).is_dir():
        raise fault(
            "bad_argument",
            f"there is no folder `{migrations}`",
            operation=OPERATION,
            line=line,
            hint="`migrations` is a folder of numbered files: `0001_tables.sql`, `0002_functions.sql`",
        )
    written = stream._written()
    answered = schema_of(schema, operation=OPERATION).types
    parts = [widened(stream._columns[n]) for n in keys]
    together = _together(stream, [col(n) for n in keys], parts)
    records = _records(stream, stream._port, list(keys), parts, written, together, typed=True)
    moved = joins._moved(records, name, OPERATION, None)
    node = flow.add(
        stream._graph,
        "to_rows",
        [moved.port],
        schema=[{"name": n, "type": stream._columns[n]} for n in written],
        fill=[{"field": n} for n in written],
        keys=[],
        gathered=True,
        about=f"by {', '.join(keys)}",
    )
    joins._wants_null_keys(stream._graph, node)
    rows = Stream(stream._graph, (node.id, 0), {n: stream._columns[n] for n in written}, ())
    called = SqlQuestion(function, {n: stream._columns[n] for n in written}, answered, connection, migrations, role)
    return rows._next(
        "map_batches",
        line,
        {
            "function": stream._graph.register(called),
            "schema": [{"name": n, "type": dtype} for n, dtype in answered.items()],
        },
        columns=answered,
        key=(),
        about=f"{function} at {connection}, by {', '.join(keys)}",
        rung="batches",
    )


class SqlQuestion(MapBatches):
    """The callable of the node. `connect` gives it what asks.

    Attributes:
        asks: column -> type, of what is asked.
        connection: the name of the connection.
        migrations: a folder, or None.
        role: whom a session acts as, or None.
    """

    __slots__ = ("_ask_sql", "asks", "connection", "migrations", "name", "role")

    __adstream_sql__ = True

    def __init__(
        self,
        function: str,
        asks: dict[str, str],
        answered: dict[str, str],
        connection: str,
        migrations: str | Path | None,
        role: str | None,
    ) -> None:
        super().__init__(self._batch, answered)
        self.name, self.asks, self.connection = function, asks, connection
        self.migrations = None if migrations is None else Path(migrations)
        self.role = role
        self._ask_sql: Callable[[dict[str, list[Any]]], list[tuple[Any, ...]]] | None = None

    def __repr__(self) -> str:
        return f"SqlQuestion({self.name})"

    def connect(self, ask: Callable[[dict[str, list[Any]]], list[tuple[Any, ...]]]) -> None:
        self._ask_sql = ask

    def _batch(self, batch: pa.RecordBatch) -> pa.Table:
        import pyarrow as pa

        from adstream.dsl.batches import _arrow

        if self._ask_sql is None:
            raise RuntimeError(f"`{self.name}` has no connection")
        answers = self._ask_sql(batch.to_pydict())
        columns = list(zip(*answers, strict=True)) or [()] * len(self.columns)
        types = [_arrow(dtype) for dtype in self.columns.values()]
        return pa.table(
            {n: pa.array(values, type=t) for n, values, t in zip(self.columns, columns, types, strict=True)}
        )
