"""Functions in Postgres that rows are put before (`ask_sql`): the connection, what a failure means, and migrations.

A call is one transaction. How long it may take is bounded, all in all to less than a worker may be silent: who does not answer
is away. Who is slow is asked about half as many rows at once.

**Migrations** are numbered SQL files of a folder (`0001_tables.sql`). What has been run is kept in `_adstream_migrations`
under the schema of the function, with the file's hash: a file that was run must not change. They are run at the start, all in
one transaction, by one worker at a time, over the connection `NAME_owner` where there is one; the worker itself needs no
right to alter anything then.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from adstream.errors import ConfigError, TargetUnavailableError
from adstream.targets.sql_refused import lies_in_a_row

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger(__name__)

_LINK = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
    "client_encoding": "utf8",
    "application_name": "adstream",
}
_SESSION = "SET lock_timeout = '10s'; SET statement_timeout = '20s'; SET idle_in_transaction_session_timeout = '60s'"
PATIENCE_S = 20.0
"""What of a batch is not asked by then, is asked the next time: a worker may be silent for twice as long."""
_LOCK = 0x6164_7374_6D69  # "adstmi": one migrates at a time
_NUMBERED = re.compile(r"(\d{4})_[A-Za-z0-9_]+\.sql", re.ASCII)
_OWNER = "may this user alter the database? Where there is a connection `NAME_owner`, migrations are run over it"
_SQL_TYPES = {
    "bool": "boolean",
    "int": "bigint",
    "float": "double precision",
    "timestamp": "timestamptz",
    "duration": "interval",
}


class Question(Protocol):
    """What is asked of `adstream.dsl.asked.SqlQuestion`."""

    name: str
    asks: Mapping[str, str]
    columns: Mapping[str, str]
    connection: str
    migrations: Path | None
    role: str | None

    def connect(self, ask: Callable[[dict[str, list[Any]]], list[tuple[Any, ...]]]) -> None: ...


def connect(functions: Iterable[object], connections: Mapping[str, str]) -> ExitStack:
    """Gives each function of a plan that asks a database its connection, and runs its migrations. What is returned closes them.

    Raises:
        ConfigError: no such connection, it does not answer, or a migration does not fit.
    """
    opened = ExitStack()
    for function in functions:
        if hasattr(function, "__adstream_sql__"):
            question: Question = function  # type: ignore[assignment]
            url = _url(question.connection, connections)
            if question.migrations is not None:
                owner = connections.get(f"{question.connection}_owner", url)
                migrate(owner, question.name.partition(".")[0], question.migrations)
            asked = SqlFunction(url, question.name, question.asks, list(question.columns), question.role)
            question.connect(asked)
            opened.callback(asked.close)
    return opened


def _url(name: str, connections: Mapping[str, str]) -> str:
    option = "--sql"
    url = connections.get(name)
    example = f"{option} {'' if name == 'sql' else f'{name}='}postgresql://user@host/database"
    if not url:
        given = ", ".join(f"`{known}`" for known in sorted(connections)) or "none"
        raise ConfigError(
            f"a function that is asked needs the connection `{name}`; given: {given}", option=option, hint=example
        )
    if not url.startswith(("postgresql://", "postgres://")):
        raise ConfigError(f"`{name}` is no Postgres, and functions are asked there only", option=option, hint=example)
    return url


class SqlFunction:
    """Asks: columns of rows in, answers out. Reconnects by itself."""

    def __init__(
        self,
        url: str,
        name: str,
        asks: Mapping[str, str],
        answers: Sequence[str],
        role: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._name, self._role, self._clock = url, name, role, clock
        self._link: psycopg.Connection[Any] | None = None
        arguments = ", ".join(f"{_quoted(n)} => %s::{_sql_type(dtype)}[]" for n, dtype in asks.items())
        names = ", ".join(_quoted(n) for n in answers)
        schema, _, function = name.partition(".")
        self._query = f"SELECT {names} FROM {_quoted(schema)}.{_quoted(function)}({arguments})"
        self._asks = list(asks)
        self._at_most = sys.maxsize
        """Rows of a call. Half as many as of one that took too long, and a few more again with each batch that does not."""

    def __call__(self, columns: dict[str, list[Any]]) -> list[tuple[Any, ...]]:
        """Raises TargetUnavailableError, also if the function does not answer each row; what a row holds and the server refuses,
        as the driver says it."""
        rows, answers, began = len(columns[self._asks[0]]), list[tuple[Any, ...]](), self._clock()
        while len(answers) < rows:
            if answers and self._clock() - began > PATIENCE_S:
                raise TargetUnavailableError(f"`{self._name}` is slow: {len(answers)} of {rows} rows were answered")
            until = min(rows, len(answers) + self._at_most)
            answers += self._call([columns[n][len(answers) : until] for n in self._asks], until - len(answers))
        self._at_most += self._at_most // 16 + 1  # not before all are through: the last ones would be too many again
        return answers

    def _call(self, columns: list[list[Any]], asked: int) -> list[tuple[Any, ...]]:
        """One transaction."""
        import psycopg

        try:
            link = self._opened()
            with link.transaction():
                found = link.execute(self._query, columns).fetchall()
                if len(found) != asked:  # whose answers these are cannot be told: what was recorded is undone
                    raise TargetUnavailableError(
                        f"`{self._name}` answered {len(found)} rows where {asked} were asked: each has one, in their order"
                    )
        except psycopg.Error as error:
            state = error.sqlstate
            if state is None and isinstance(error, psycopg.DataError):
                raise  # the driver has no way to write it: a NUL in a text
            if state is not None and (state == "P0001" or state.startswith("23") or lies_in_a_row(state)):
                raise
            if isinstance(error, psycopg.errors.QueryCanceled):
                self._at_most = max(1, asked // 2)  # the same again would take as long again
            self.close()
            said = (error.diag.message_primary or str(error)).strip().splitlines()
            raise TargetUnavailableError(
                f"`{self._name}` cannot be asked: {said[0] if said else type(error).__name__}"
                + (f" ({state})" if state else "")
            ) from error
        return found

    def _opened(self) -> psycopg.Connection[Any]:
        import psycopg

        if self._link is None or self._link.closed:
            link = psycopg.connect(self._url, autocommit=True, **_LINK)  # type: ignore[arg-type]
            try:
                link.execute(_SESSION)
                if self._role is not None:
                    link.execute(f"SET ROLE {_quoted(self._role)}")
            except BaseException:
                link.close()
                raise
            self._link = link
        return self._link

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def migrate(
    url: str, schema: str, folder: Path, *, attempts: int = 5, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Runs what has not been run of a folder's files. A server that is still starting gets a few chances.

    Raises:
        ConfigError: the server does not answer, a file fails, or one that was run has changed.
    """
    import psycopg

    for left in reversed(range(attempts)):
        try:
            with psycopg.connect(url, **_LINK) as link:  # type: ignore[arg-type]
                _migrate(link, schema, folder)
            return
        except psycopg.OperationalError as error:
            if not left:
                raise ConfigError(
                    f"cannot migrate `{schema}`: {str(error).splitlines()[0]}", option="--sql", hint="is it running?"
                ) from error
            sleep(1.0)
        except psycopg.Error as error:
            said = (error.diag.message_primary or str(error)).strip()
            raise ConfigError(f"cannot migrate `{schema}`: {said}", option="--sql", hint=_OWNER) from error


def _migrate(link: psycopg.Connection[Any], schema: str, folder: Path) -> None:
    import psycopg

    link.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
    if link.execute("SELECT to_regclass('public._adstream_migrations')").fetchone() == (None,):
        link.execute(
            "CREATE TABLE public._adstream_migrations (schema text, number int, name text NOT NULL, hash text NOT NULL,"
            " at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (schema, number))"
        )
    query = "SELECT number, hash FROM public._adstream_migrations WHERE schema = %s"
    run = dict(link.execute(query, [schema]).fetchall())
    for path in sorted(folder.glob("*.sql")):
        found = _NUMBERED.fullmatch(path.name)
        if found is None:
            raise ConfigError(f"`{path.name}` has no number", option="migrations", hint="as in `0001_tables.sql`")
        number, text = int(found[1]), path.read_text(encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        if number in run:
            if run[number] != digest:
                raise ConfigError(
                    f"migration `{path.name}` of `{schema}` is not what was run in this database",
                    option="migrations",
                    hint="a file that was run stays as it is: write a new one",
                )
            continue
        try:
            link.execute(text.encode())
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            said = (error.diag.message_primary or str(error)).strip()
            raise ConfigError(
                f"migration `{path.name}` of `{schema}` fails: {said}",
                option="--sql",
                hint=_OWNER,
            ) from error
        link.execute(
            "INSERT INTO public._adstream_migrations (schema, number, name, hash) VALUES (%s, %s, %s, %s)",
            [schema, number, path.name, digest],
        )
        log.info("schema %s: ran migration %s", schema, path.name)


def _sql_type(dtype: str) -> str:
    return "numeric" if dtype.startswith("decimal(") else _SQL_TYPES.get(dtype, "text")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
