"""Rows kept current in a table of Postgres or SQLite, exactly once.

Rows and position move in one SQL transaction:

    UPDATE _adstream_positions SET position = :next WHERE app, sink, partition and position = :expected
    0 rows: somebody else was here, nothing is changed          1 row: upsert the rows, COMMIT

The first statement locks the position's row, so a zombie waits for the owner's commit, then finds its
expectation wrong. When the link breaks and nobody knows whether the commit arrived, the position tells.

**Key.** The natural key is a unique index in which nulls are equal (a primary key refuses them, and a plain
unique index takes two nulls for different): `NULLS NOT DISTINCT` on Postgres, from version 15 on; on SQLite
an index on `coalesce(column, x'')`, where the empty blob equals no value that a sink writes. A table that you
made yourself keeps its primary key; if that is the sink's key, Postgres needs no further index.

| core type    | Postgres         | SQLite                                            |
|--------------|------------------|---------------------------------------------------|
| bool         | BOOLEAN          | BOOLEAN (0, 1)                                    |
| int          | BIGINT           | BIGINT                                            |
| float        | DOUBLE PRECISION | DOUBLE                                            |
| decimal(p,s) | NUMERIC(p,s)     | DECIMAL_TEXT(p,s): the digits as text, `4800.00`  |
| str, enum    | TEXT             | TEXT                                              |
| timestamp    | TIMESTAMPTZ      | TIMESTAMP_TEXT: `2024-01-15T10:00:00.000Z`        |
| duration     | BIGINT, ms       | BIGINT, ms                                        |

SQLite has no exact decimals: its own NUMERIC silently turns into floats. Of the exact forms, text shows the
same digits as Postgres and the JSON output, holds 38 of them, and SUM, AVG and `+` read it as a (floating)
number; only ordering and comparing need `CAST(spend AS REAL)`. Scaled integers would order, but show a
hundred times the amount, make `WHERE spend > 1000` wrong by that factor, and overflow at 18 digits. Times are
text because SQLite's date functions and people read it; of fixed width and in UTC, it sorts as time does.

Postgres stores no NUL character; in a text it becomes `␀` (U+2400). What else it cannot store is set aside, row by row
(`sql_refused.py`); SQLite takes everything.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IdentifierError, SQLAlchemyError
from sqlalchemy.sql.compiler import SQLCompiler

from adstream.errors import AdstreamError, ConfigError
from adstream.targets import sql_refused
from adstream.targets.delivery import TransientError, UnreachableError
from adstream.targets.values import CoreType, decimal_text, json_text, milliseconds, present, timestamp_text

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger(__name__)

COPY_ROWS_MIN = 5_000
"""From here on, Postgres gets rows by COPY into a staging table."""

_POSITIONS = "_adstream_positions"
_TOPICS = "_adstream_topics"
_OPEN_LOCK = 0x6164_7374_7265  # "adstre": one worker at a time creates and migrates
# A dead link is noticed by the kernel within about half a minute, even if no packet ever comes back.
_POSTGRES_LINK = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "client_encoding": "utf8",  # whatever the database's is: the server says which row it cannot store
}
# Transaction-local, so that connection poolers do not leak it: wait for a zombie's lock, but not for ever;
# and when we are the zombie, do not hold one for ever.
_POSTGRES_TRANSACTION = (
    "SELECT set_config('lock_timeout', '10s', true), set_config('idle_in_transaction_session_timeout', '60s', true)"
)
_REFUSALS = ("authentication failed", "does not exist", "no pg_hba.conf", "no password", "permission denied")

Rows = Mapping[str, list[Any]]
Convert = Callable[[list[Any]], list[Any]]


class SqlTarget:
    """A `Target`. `table` may name a schema on Postgres (`reports.performance`)."""

    def __init__(self, url: str, table: str, *, option: str = "--sql", copy_rows_min: int = COPY_ROWS_MIN) -> None:
        """`option` is what errors blame."""
        self._option = option
        self._copy_rows_min = copy_rows_min
        self._url = _parse(url, option)
        self._postgres = self._url.get_backend_name() == "postgresql"
        self._server = sa.URL.create(
            self._url.get_backend_name(),
            username=self._url.username,
            password="***" if self._url.password else None,
            host=self._url.host,
            port=self._url.port,
            database=self._url.database,
        ).render_as_string(hide_password=True)  # no query: it may hold a password, too
        schema, _, name = table.rpartition(".")
        self._schema: str | None = schema or None
        self._name = name
        self._engine = _postgres_engine(self._url) if self._postgres else _sqlite_engine(self._url)
        self._may_copy = False
        self.refused = 0

    def open(self, app: str, sink: str, schema: Mapping[str, str], key: Sequence[str]) -> None:
        if not key:
            raise self._refusal(f"sink `{sink}` has no key", "name the columns that identify a row")
        if unknown := [name for name in key if name not in schema]:
            raise self._refusal(f"sink `{sink}` has no column `{unknown[0]}`, which is in its key", None)
        try:
            types = {name: CoreType.parse(text) for name, text in schema.items()}
        except ValueError as error:
            raise self._refusal(f"sink `{sink}`: {error}", None) from error
        self._app, self._sink, self._key, self._types = app, sink, tuple(key), types
        self._convert = {name: self._converter(core) for name, core in types.items()}
        metadata = sa.MetaData()
        self._table = sa.Table(
            self._name, metadata,
            *(sa.Column(name, self._sql_type(core)) for name, core in types.items()),
            schema=self._schema,
        )  # fmt: skip
        self._positions = _positions_table(metadata)
        self._topics = _topics_table(metadata)
        self._refused = sql_refused.table(metadata)
        self._upsert = self._upsert_statement()
        with self._transaction() as connection:
            if self._postgres:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _OPEN_LOCK})
                self._may_copy = connection.scalar(sa.text("SELECT has_database_privilege(current_database(), 'TEMP')"))
            self._positions.create(connection, checkfirst=True)
            self._topics.create(connection, checkfirst=True)
            if self._postgres:
                self._refused.create(connection, checkfirst=True)
            if sa.inspect(connection).has_table(self._name, schema=self._schema):
                self._migrate(connection)
                self._say_if_emptied(connection)
            else:
                self._check_never_stored(connection)
                self._table.create(connection)
                self._create_key_index(connection)

    def _check_never_stored(self, connection: sa.Connection) -> None:
        """A table that was dropped, made anew behind its positions, would stay without what they say is there."""
        if self._has_stored(connection):
            raise self._refusal(
                f"there is no table `{self._name}`, and rows of sink `{self._sink}` were stored in it",
                "bring it back, or let `adstream reset` forget that: the job starts over, and makes it",
            )

    def _say_if_emptied(self, connection: sa.Connection) -> None:
        """No error: whoever deletes old rows may mean it."""
        if self._has_stored(connection) and not connection.scalar(sa.select(sa.exists(sa.select(self._table)))):
            log.warning(
                "sink %s: table `%s` is empty, and rows were stored in it: they come again only as far as they change\n"
                "hint: to have them all, let `adstream reset` start the job over",
                self._sink, self._name,
            )  # fmt: skip

    def _has_stored(self, connection: sa.Connection) -> bool:
        at = self._positions.c
        mine = sa.and_(at.app == self._app, at.sink == self._sink)
        return bool(connection.scalar(sa.select(sa.func.max(at.position)).where(mine)))

    def positions(self, partitions: Sequence[int]) -> dict[int, int]:
        at = self._positions.c
        query = sa.select(at.partition, at.position).where(
            at.app == self._app, at.sink == self._sink, at.partition.in_(partitions)
        )
        with self._transaction() as connection:
            return {row.partition: row.position for row in connection.execute(query)}

    def of_topic(self, topic_id: str) -> str:
        at = self._topics.c
        told = self._insert(self._topics).values(app=self._app, sink=self._sink, topic_id=topic_id)
        asked = sa.select(at.topic_id).where(at.app == self._app, at.sink == self._sink)
        with self._transaction() as connection:
            connection.execute(told.on_conflict_do_nothing())
            return str(connection.scalar(asked))

    def write(self, partition: int, expected: int, position: int, rows: Rows) -> bool:
        values = self._newest_per_key(rows)
        refused: list[sql_refused.Refused] = []
        try:
            with self._transaction() as connection:
                if not self._move(connection, partition, expected, position):
                    connection.rollback()
                    return False
                if values:
                    refused = self._put(connection, values)
                if refused:
                    place = {"app": self._app, "sink": self._sink, "partition": partition, "position": position}
                    sql_refused.set_aside(connection, self._refused, place, list(self._convert), self._key, refused)
            if refused:
                self.refused += len(refused)
                log.error(
                    "sink %s: %d rows that %s cannot store are set aside in `%s`: %s",
                    self._sink, len(refused), self._server, sql_refused.TABLE, refused[0].reason,
                )  # fmt: skip
            return True
        except _LinkLostError as error:
            # Perhaps after the commit had reached the server.
            stored = self.positions([partition]).get(partition, 0)
            if stored == position:
                return True
            if stored != expected:
                return False
            raise TransientError(str(error)) from error

    def forget(self, app: str, sink: str) -> None:
        with self._transaction() as connection:
            for name, table in ((_POSITIONS, _positions_table), (_TOPICS, _topics_table)):
                if sa.inspect(connection).has_table(name):
                    kept = table(sa.MetaData())
                    connection.execute(sa.delete(kept).where(kept.c.app == app, kept.c.sink == sink))
            if sa.inspect(connection).has_table(sql_refused.TABLE):
                refused = sql_refused.table(sa.MetaData())
                connection.execute(sa.delete(refused).where(refused.c.app == app, refused.c.sink == sink))

    def close(self) -> None:
        self._engine.dispose()

    # Writing.

    def _move(self, connection: sa.Connection, partition: int, expected: int, position: int) -> bool:
        at = self._positions.c
        moved = connection.execute(
            sa.update(self._positions)
            .where(at.app == self._app, at.sink == self._sink, at.partition == partition, at.position == expected)
            .values(position=position)
        )
        if moved.rowcount == 1:
            return True
        if expected != 0:
            return False
        first = connection.execute(
            self._insert(self._positions)
            .values(app=self._app, sink=self._sink, partition=partition, position=position)
            .on_conflict_do_nothing()
            .returning(at.position)  # SQLAlchemy knows no row count of an insert
        )
        return first.first() is not None

    def _put(self, connection: sa.Connection, values: Sequence[tuple[Any, ...]]) -> list[sql_refused.Refused]:
        """Applies what the server takes, and returns what it refuses for what is in it."""
        checked = False

        def put(some: Sequence[tuple[Any, ...]]) -> str | None:
            nonlocal checked
            try:
                with connection.begin_nested():
                    self._apply(connection, some)
            except Exception as error:
                original = _original(error)
                if not (_is_postgres_error(original) and sql_refused.lies_in_a_row(original.sqlstate)):
                    raise
                if not checked:
                    self._migrate(connection)  # raises if it is the table that does not fit, and no row is to blame
                    checked = True
                return f"{_message(original)} ({original.sqlstate})"
            return None

        if not self._postgres:
            self._apply(connection, values)
            return []
        return sql_refused.apart(values, put)

    def _apply(self, connection: sa.Connection, values: Sequence[tuple[Any, ...]]) -> None:
        if self._may_copy and len(values) >= self._copy_rows_min:
            self._copy(connection, values)
        else:
            # Past SQLAlchemy's handling of parameters, which takes as long as the database does.
            connection.exec_driver_sql(self._upsert, list(values))

    def _copy(self, connection: sa.Connection, values: Sequence[tuple[Any, ...]]) -> None:
        columns = ", ".join(_quoted(name) for name in self._convert)
        target = self._quoted_table()
        key = ", ".join(_quoted(name) for name in self._key)
        updates = ", ".join(f"{_quoted(name)} = EXCLUDED.{_quoted(name)}" for name in self._plain_columns())
        stage = "pg_temp._adstream_stage"
        driver = connection.connection.driver_connection
        assert driver is not None
        with driver.cursor() as cursor:
            cursor.execute(
                f"CREATE TEMP TABLE _adstream_stage ON COMMIT DROP AS SELECT {columns} FROM {target} WITH NO DATA"
            )
            with cursor.copy(f"COPY {stage} ({columns}) FROM STDIN") as copy:
                for row in values:
                    copy.write_row(row)
            cursor.execute(
                f"INSERT INTO {target} ({columns}) SELECT {columns} FROM {stage} ON CONFLICT ({key}) "
                + (f"DO UPDATE SET {updates}" if updates else "DO NOTHING")
            )
            cursor.execute(f"DROP TABLE {stage}")  # there may be another half of the rows

    def _newest_per_key(self, rows: Rows) -> list[tuple[Any, ...]]:
        """Row tuples in the table's column order. Buffers coalesce already, but by the bytes of a key; here
        it counts what the target takes for equal (a statement must not meet a key twice)."""
        if not rows:
            return []
        columns = {name: convert(rows[name]) for name, convert in self._convert.items()}
        newest: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for key, row in zip(
            zip(*(columns[name] for name in self._key), strict=True),
            zip(*columns.values(), strict=True),
            strict=True,
        ):
            newest[key] = row
        return list(newest.values())

    def _quoted_table(self) -> str:
        return (f"{_quoted(self._schema)}." if self._schema else "") + _quoted(self._name)

    def _plain_columns(self) -> list[str]:
        return [name for name in self._convert if name not in self._key]

    def _insert(self, table: sa.Table) -> Any:
        return postgresql.insert(table) if self._postgres else sqlite.insert(table)

    def _upsert_statement(self) -> str:
        """Its parameters are a row's values, in the table's column order."""
        insert = self._insert(self._table)
        conflict = self._key_elements()
        plain = self._plain_columns()
        statement: sa.Insert = (
            insert.on_conflict_do_update(index_elements=conflict, set_={name: insert.excluded[name] for name in plain})
            if plain
            else insert.on_conflict_do_nothing(index_elements=conflict)
        )
        compiled = statement.compile(dialect=self._engine.dialect)
        assert isinstance(compiled, SQLCompiler)
        assert len(compiled.positiontup or ()) == len(self._convert)
        return str(compiled)

    # The table.

    def _key_elements(self) -> list[Any]:
        if self._postgres:
            return [self._table.c[name] for name in self._key]
        # Escaped, as `text` takes `:name` for a parameter.
        return [sa.text(f"coalesce({_quoted(name)}, x'')".replace(":", r"\:")) for name in self._key]

    @property
    def _key_index_name(self) -> str:
        name = f"{self._name}_key"
        if len(name.encode()) <= 63:  # Postgres would cut it
            return name
        return f"adstream_{hashlib.sha256(name.encode()).hexdigest()[:16]}_key"

    def _create_key_index(self, connection: sa.Connection) -> None:
        index = sa.Index(
            self._key_index_name, *self._key_elements(), unique=True, postgresql_nulls_not_distinct=True,
            _table=self._table,
        )  # fmt: skip
        version = connection.dialect.server_version_info or (0,)
        if self._postgres and version < (15,):
            raise self._refusal(
                f"Postgres {version[0]} at {self._server} cannot keep keys with nulls unique",
                f"use Postgres 15 or newer, or make the table yourself with PRIMARY KEY ({', '.join(self._key)})",
            )
        index.create(connection)

    def _migrate(self, connection: sa.Connection) -> None:
        """Adds what is missing, refuses what does not fit."""
        inspector = sa.inspect(connection)
        where = self._quoted_table()
        existing: dict[str, Any] = {
            column["name"]: dict(column) for column in inspector.get_columns(self._name, schema=self._schema)
        }
        if not self._postgres:  # SQLAlchemy guesses at types it does not know; the declared text is what counts
            declared = connection.execute(
                sa.text("SELECT name, type FROM pragma_table_info(:table)"), {"table": self._name}
            )
            for name, text in declared:
                existing[name]["type"] = text
        for name, core in self._types.items():
            column = self._table.c[name]
            wanted = column.type.compile(connection.dialect)
            if name in existing:
                found = existing[name]["type"]
                if not self._fits(core, found):
                    raise self._refusal(
                        f"column `{name}` of table `{self._name}` is {found}, the sink writes {wanted}",
                        f"ALTER TABLE {where} ALTER COLUMN {_quoted(name)} TYPE {wanted} "
                        f"USING {_quoted(name)}::{wanted}; or write to another table"
                        if self._postgres
                        else f"write to another table, or move this one away: ALTER TABLE {where} RENAME TO …",
                    )
            elif name in self._key:
                raise self._refusal(
                    f"table `{self._name}` has no column `{name}`, which is in the sink's key",
                    "a table keeps the key it was made for: write to another table",
                )
            else:
                add = f"ALTER TABLE {where} ADD COLUMN {_quoted(name)} {wanted}"
                connection.exec_driver_sql(add.replace("%", "%%") if self._postgres else add)
                log.info("table %s: added column %s %s", self._name, name, wanted)
        for name, other in existing.items():
            generated = other.get("identity") or other.get("computed") or other.get("autoincrement") is True
            if name not in self._types and not other["nullable"] and other["default"] is None and not generated:
                if not self._postgres and other.get("primary_key") and "INT" in str(other["type"]).upper():
                    continue  # SQLite's row id
                raise self._refusal(
                    f"column `{name}` of table `{self._name}` is NOT NULL without a default, "
                    "and the sink does not write it",
                    f"give `{name}` a default, or let it be null",
                )
        self._check_key(connection, inspector)

    def _check_key(self, connection: sa.Connection, inspector: sa.Inspector) -> None:
        primary = inspector.get_pk_constraint(self._name, schema=self._schema)["constrained_columns"]
        key = set(self._key)
        if primary and set(primary) <= set(self._convert) and not key <= set(primary):
            raise self._refusal(
                f"table `{self._name}` has the primary key ({', '.join(primary)}), "
                f"the sink's key is ({', '.join(self._key)})",
                "give the sink that key, or write to another table",
            )
        found = self._key_of_index(connection)
        if found is None:
            if not (self._postgres and set(primary) == key):
                self._create_key_index(connection)
        elif found != list(self._key) and (not self._postgres or set(found) != key):
            raise self._refusal(
                f"table `{self._name}` was made for the key ({', '.join(found)}), "
                f"the sink's key is ({', '.join(self._key)})",
                f"write to another table, or drop the index `{self._key_index_name}` and have no duplicates",
            )

    def _key_of_index(self, connection: sa.Connection) -> list[str] | None:
        """The columns of the index that we made, in order."""
        if self._postgres:
            query = sa.text(
                "SELECT a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
                " CROSS JOIN unnest(i.indkey) WITH ORDINALITY k(attnum, place)"
                " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
                " WHERE i.indrelid = to_regclass(:table) AND c.relname = :index ORDER BY k.place"
            )
            names = connection.scalars(query, {"table": self._quoted_table(), "index": self._key_index_name}).all()
            return list(names) or None
        made = connection.scalar(
            sa.text("SELECT sql FROM sqlite_master WHERE type = 'index' AND name = :index AND tbl_name = :table"),
            {"index": self._key_index_name, "table": self._name},
        )
        if made is None:
            return None
        names = re.findall(r'coalesce\("((?:[^"]|"")*)", x\'\'\)', made)
        return [name.replace('""', '"') for name in names]

    def _sql_type(self, core: CoreType) -> sa.types.TypeEngine[Any]:
        match core.kind:
            case "bool":
                return sa.Boolean()
            case "int" | "duration":
                return sa.BigInteger()
            case "float":
                return sa.Double()
            case "decimal":
                if self._postgres:
                    return sa.Numeric(core.precision, core.scale)
                return _SqliteText(f"DECIMAL_TEXT({core.precision},{core.scale})")
            case "timestamp":
                return sa.TIMESTAMP(timezone=True) if self._postgres else _SqliteText("TIMESTAMP_TEXT")
            case _:
                return sa.Text()

    def _converter(self, core: CoreType) -> Convert:
        """From the buffer's values to what the driver stores exactly."""
        match core.kind:
            case "duration":
                return present(milliseconds)
            case "decimal" if not self._postgres:
                return present(decimal_text(core.scale))
            case "timestamp" if not self._postgres:
                return present(timestamp_text)
            case "str" if self._postgres:
                return _without_nul
            case "json":
                return present(json_text)
            case _:
                return lambda column: column

    def _fits(self, core: CoreType, found: Any) -> bool:
        """Whether every value of `core` is kept as it is by a column of the type `found`."""
        if not self._postgres:
            return _affinity(found) == _affinity(self._sql_type(core).compile(sqlite.dialect()))
        match core.kind:
            case "bool":
                return isinstance(found, sa.Boolean)
            case "int" | "duration":
                return isinstance(found, sa.BigInteger) or _holds(found, 19, 0)
            case "float":
                return isinstance(found, sa.Double) or (isinstance(found, sa.Float) and (found.precision or 0) > 24)
            case "decimal":
                return _holds(found, core.precision, core.scale)
            case "timestamp":
                precision = getattr(found, "precision", None)
                return isinstance(found, sa.TIMESTAMP) and found.timezone and (precision is None or precision >= 3)
            case _:
                return isinstance(found, sa.String) and found.length is None and not isinstance(found, sa.Enum)

    # Errors.

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """One transaction; what the driver raises becomes what `delivery` understands."""
        connecting = True
        try:
            with self._engine.connect() as connection:
                connecting = False
                try:
                    with connection.begin():
                        if self._postgres:
                            connection.exec_driver_sql(_POSTGRES_TRANSACTION)
                        yield connection
                except Exception as error:
                    if self._postgres and _postgres_link_lost(_original(error)):
                        connection.invalidate()
                    raise
        except AdstreamError:
            raise
        except Exception as error:
            raise self._translated(error, connecting) from error

    def _translated(self, error: Exception, connecting: bool) -> Exception:
        original = _original(error)
        if isinstance(original, sqlite3.Error):
            return self._translated_sqlite(original, connecting)
        if self._postgres and _is_postgres_error(original):
            return self._translated_postgres(original, connecting)
        if isinstance(error, IdentifierError):
            return self._refusal(str(error), "Postgres names have at most 63 bytes")
        if isinstance(error, SQLAlchemyError) and not isinstance(error, DBAPIError):
            return TransientError(f"{self._server}: {error}") if isinstance(error, sa.exc.TimeoutError) else error
        return error

    def _translated_sqlite(self, error: sqlite3.Error, connecting: bool) -> Exception:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_FULL")):
            return TransientError(f"{self._server}: {error}")
        hint = "does its directory exist, and may you write there?" if connecting or "CANTOPEN" in name else None
        return self._refusal(f"{self._server}: {error}", hint)

    def _translated_postgres(self, error: Any, connecting: bool) -> Exception:
        text = _message(error)
        state = error.sqlstate
        if connecting and state is None:
            text = text.splitlines()[0]  # what follows repeats it, or guesses
            if any(word in str(error) for word in _REFUSALS):
                return self._refusal(f"{self._server} refuses: {text}", "check user, password and database")
            return UnreachableError(
                f"cannot reach {self._server}: {text}",
                option=self._option,
                hint="is it running, and is the port right?",
            )
        if _postgres_link_lost(error):
            return _LinkLostError(f"lost {self._server}: {text}")
        # Serialisation, deadlock, lock timeout; resources; shutdown; a primary that became a standby;
        # internal I/O.
        if state is None or state[:2] in ("40", "53", "55", "57", "58") or state == "25006":
            return TransientError(f"{self._server}: {text}")
        if state.startswith("28"):
            return self._refusal(f"{self._server} refuses: {text}", "check user and password")
        column = f", column `{error.diag.column_name}`" if error.diag.column_name else ""
        return self._refusal(f"{self._server}, table `{self._name}`{column}: {text} ({state})", None)

    def _refusal(self, message: str, hint: str | None) -> ConfigError:
        return ConfigError(message, option=self._option, hint=hint)


def _positions_table(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        _POSITIONS, metadata,
        sa.Column("app", sa.Text, primary_key=True),
        sa.Column("sink", sa.Text, primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
    )  # fmt: skip


def _topics_table(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        _TOPICS, metadata,
        sa.Column("app", sa.Text, primary_key=True),
        sa.Column("sink", sa.Text, primary_key=True),
        sa.Column("topic_id", sa.Text, nullable=False),
    )  # fmt: skip


class _LinkLostError(TransientError):
    """The connection broke; what was sent last may have been done or not."""


class _SqliteText(sa.types.UserDefinedType[str]):
    """Text under a name of its own, so that the table's schema says what it means; the word TEXT gives it
    text affinity."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


def _parse(text: str, option: str) -> sa.URL:
    examples = "postgresql://user:password@host:5432/database or sqlite:///file.db"
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError):
        # Not quoted: it may hold a password.
        raise ConfigError("this is not a database URL", option=option, hint=examples) from None
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        if not url.database:
            raise ConfigError("the URL names no database", option=option, hint=examples)
        return url.set(drivername="postgresql+psycopg")
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if url.database in (None, "", ":memory:"):
            raise ConfigError(
                "SQLite needs a file, else the rows are gone with the process", option=option, hint=examples
            )
        return url
    raise ConfigError(f"`{url.drivername}` is not supported", option=option, hint=examples)


def _postgres_engine(url: sa.URL) -> sa.Engine:
    defaults = {name: value for name, value in _POSTGRES_LINK.items() if name not in url.query}
    return sa.create_engine(
        url, connect_args=defaults, pool_size=1, max_overflow=0, pool_timeout=10, paramstyle="format"
    )


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": 10}, pool_size=1, max_overflow=0, pool_timeout=10)

    @sa.event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins too late, and commits before DDL; we begin ourselves
        connection.execute("PRAGMA journal_mode = WAL")  # people may read while we write
        connection.execute("PRAGMA synchronous = FULL")  # a stored position must outlive a power cut: the log forgets

    @sa.event.listens_for(engine, "begin")
    def _(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _original(error: BaseException) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _is_postgres_error(error: BaseException) -> TypeGuard[psycopg.Error]:
    import psycopg

    return isinstance(error, psycopg.Error)


def _message(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error)).strip()  # not the detail: it quotes rows


def _postgres_link_lost(error: BaseException) -> bool:
    import psycopg

    if not isinstance(error, psycopg.OperationalError):
        return False
    state = error.sqlstate
    return state is None or state.startswith(("08", "57P")) or state == "25P03"


def _holds(found: sa.types.TypeEngine[Any], precision: int, scale: int) -> bool:
    if not isinstance(found, sa.Numeric) or isinstance(found, sa.Float):
        return False
    if found.precision is None:
        return True
    held = found.scale or 0
    return held >= scale and found.precision - held >= precision - scale


def _affinity(declared: str) -> str:
    """SQLite's rule, in its order."""
    declared = declared.upper()
    if "INT" in declared:
        return "INTEGER"
    if any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in declared or not declared:
        return "BLOB"
    if any(word in declared for word in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def _without_nul(column: list[Any]) -> list[Any]:
    return [value.replace("\0", "␀") if value is not None and "\0" in value else value for value in column]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
