"""`SqlTarget` against SQLite files and a real Postgres: the same promises, so the same tests."""

import itertools
import json
import random
import string
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adstream.errors import ConfigError
from adstream.targets.delivery import TransientError, Verdict, classify
from adstream.targets.sql import SqlTarget
from tests.servers import Postgres

SCHEMA = {
    "campaign": "str",
    "product": "str",
    "at": "timestamp",
    "spend": "decimal(38,2)",
    "clicks": "int",
    "rate": "float",
    "flag": "bool",
    "took": "duration",
}
KEY = ("campaign", "product", "at")
NOON = datetime(2024, 1, 15, 12, 0, 0, 123_000, tzinfo=UTC)
DATABASES = itertools.count()

Rows = Mapping[str, list[Any]]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/rows.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.create_database(f"sink{next(DATABASES)}")


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    return postgres.create_database(f"sink{next(DATABASES)}")


@pytest.fixture
def opened() -> Iterator[Callable[..., SqlTarget]]:
    targets: list[SqlTarget] = []

    def make(
        url: str, schema: Mapping[str, str] = SCHEMA, key: tuple[str, ...] = KEY, table: str = "rows", **options: int
    ) -> SqlTarget:
        target = SqlTarget(url, table, **options)
        targets.append(target)
        target.open("app", "sink", schema, key)
        return target

    yield make
    for target in targets:
        target.close()


def row(campaign: str | None = "c", product: str | None = "p", clicks: int | None = 1, **other: Any) -> dict[str, Any]:
    return {
        "campaign": campaign, "product": product, "at": NOON, "spend": Decimal("12.50"), "clicks": clicks,
        "rate": 0.1, "flag": True, "took": timedelta(milliseconds=1_500),
    } | other  # fmt: skip


def columns(*rows: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: [each[name] for each in rows] for name in rows[0]}


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def read(url: str, query: str) -> list[tuple[Any, ...]]:
    with connected(url) as connection:
        return [tuple(found) for found in connection.exec_driver_sql(query)]


def execute(url: str, *statements: str) -> None:
    with connected(url) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


Opened = Callable[..., SqlTarget]


def test_rows_are_upserted_and_the_position_moves(url: str, opened: Opened) -> None:
    target = opened(url)
    assert target.positions([0, 1]) == {}
    assert target.write(0, 0, 2, columns(row("a"), row("b")))
    assert target.write(0, 2, 3, columns(row("a", clicks=7)))
    assert read(url, "SELECT campaign, clicks FROM rows ORDER BY campaign") == [("a", 7), ("b", 1)]
    assert target.positions([0, 1]) == {0: 3}


def test_replays_and_zombies_change_nothing(url: str, opened: Opened) -> None:
    owner, zombie = opened(url), opened(url)
    assert owner.write(0, 0, 5, columns(row(clicks=1)))
    assert not owner.write(0, 0, 5, columns(row(clicks=2)))
    assert not zombie.write(0, 0, 9, columns(row(clicks=3), row("other")))
    assert not zombie.write(0, 3, 9, columns(row(clicks=4)))
    assert read(url, "SELECT clicks FROM rows") == [(1,)]
    assert zombie.positions([0]) == {0: 5}


def test_sinks_apps_and_partitions_have_positions_of_their_own(url: str, opened: Opened) -> None:
    target, other = opened(url), SqlTarget(url, "rows")
    other.open("app", "other", SCHEMA, KEY)
    assert target.write(0, 0, 5, {})
    assert target.write(1, 0, 6, {})
    assert other.write(0, 0, 7, {})
    assert (target.positions([0, 1]), other.positions([0, 1])) == ({0: 5, 1: 6}, {0: 7})
    other.close()


def test_two_writers_at_once_apply_every_step_once(url: str, opened: Opened) -> None:
    targets = [opened(url), opened(url)]
    applied = [0, 0]

    def work(number: int) -> None:
        for position in range(40):
            applied[number] += targets[number].write(0, position, position + 1, columns(row(clicks=position)))

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert targets[0].positions([0]) == {0: sum(applied)}
    assert read(url, "SELECT clicks FROM rows") == [(sum(applied) - 1,)]


def test_nulls_in_keys_are_equal_to_each_other_and_to_nothing_else(url: str, opened: Opened) -> None:
    target = opened(url)
    assert target.write(0, 0, 1, columns(row("a", None), row("a", ""), row(None, None), row("a", "p")))
    assert target.write(0, 1, 2, columns(row("a", None, 2), row("a", "", 3), row(None, None, 4), row("a", "p", 5)))
    found = read(url, "SELECT campaign, product, clicks FROM rows ORDER BY clicks")
    assert found == [("a", None, 2), ("a", "", 3), (None, None, 4), ("a", "p", 5)]


@pytest.mark.parametrize("copy", [False, True])
def test_every_value_is_kept_exactly(url: str, opened: Opened, copy: bool) -> None:
    widest = Decimal("9" * 36 + ".99")
    texts = ["한국어 캠페인 🎯", "tab\t new\nline \\N \\. back\\slash", "'; DROP TABLE rows --", "", "%s %(x)s {y}"]
    rows = [
        row("max", spend=widest, clicks=2**63 - 1, rate=1.7976931348623157e308),
        row("min", spend=widest.copy_negate(), clicks=-(2**63), rate=-5e-324),
        row("cent", spend=Decimal("-0.01"), rate=0.1 + 0.2),
        row("zero", spend=Decimal("0.00"), clicks=0, rate=0.0, flag=False, took=timedelta(0)),
        row("null", spend=None, clicks=None, rate=None, flag=None, took=None),
        *(row(text) for text in texts),
    ]
    target = opened(url, copy_rows_min=0 if copy else 10**9)
    assert target.write(0, 0, 1, columns(*rows))
    assert target.write(0, 1, 2, columns(*rows))  # the update path, too
    found = {each[0]: each[1:] for each in read(url, "SELECT campaign, spend, clicks, rate, flag, took FROM rows")}
    assert found.keys() == {each["campaign"] for each in rows}
    for each in rows:
        spend, clicks, rate, flag, took = found[each["campaign"]]
        assert (spend if spend is None else str(spend)) == (each["spend"] if spend is None else str(each["spend"]))
        assert (clicks, rate, flag) == (each["clicks"], each["rate"], each["flag"])
        assert took == (None if each["took"] is None else each["took"] // timedelta(milliseconds=1))


def test_sqlite_shows_money_and_time_as_text(tmp_path: Path, opened: Opened) -> None:
    url = f"sqlite:///{tmp_path}/rows.db"
    target = opened(url)
    seoul = NOON.astimezone(datetime.strptime("+0900", "%z").tzinfo)
    assert target.write(0, 0, 1, columns(row(spend=Decimal("4800"), at=seoul)))
    assert read(url, "SELECT spend, typeof(spend), at, strftime('%H:%M', at), sum(spend) FROM rows") == [
        ("4800.00", "text", "2024-01-15T12:00:00.123Z", "12:00", 4800.0)
    ]


@pytest.mark.servers
def test_postgres_has_numeric_and_timestamptz(postgres_url: str, opened: Opened) -> None:
    target = opened(postgres_url)
    assert target.write(0, 0, 1, columns(row("with\0nul")))
    query = "SELECT pg_typeof(spend)::text, pg_typeof(at)::text, at = '2024-01-15T12:00:00.123Z', campaign FROM rows"
    assert read(postgres_url, query) == [("numeric", "timestamp with time zone", True, "with␀nul")]


@pytest.mark.servers
def test_copy_and_executemany_leave_the_same_table(postgres: Postgres, opened: Opened) -> None:
    tables = []
    for copy_rows_min in (0, 10**9):
        url = postgres.create_database(f"sink{next(DATABASES)}")
        target = opened(url, copy_rows_min=copy_rows_min)
        many = [row(f"c{i % 700}", None if i % 3 else "p", i, spend=Decimal(i - 500).scaleb(-2)) for i in range(1_500)]
        assert target.write(0, 0, 1, columns(*many[:1_000]))
        assert target.write(0, 1, 2, columns(*many[500:]))
        tables.append(read(url, "SELECT * FROM rows ORDER BY campaign, product"))
    assert tables[0] == tables[1]
    assert len(tables[0]) == len({(f"c{i % 700}", i % 3 == 0) for i in range(1_500)})


AWKWARD = {
    "select": "str", "Order": "int", "user": "str", "a b": "int", 'quo"te': "int", "100%": "int", "x:y": "int",
    "p(q)": "int", "$window_start": "timestamp", "한글": "str", "position": "int", "coalesce(": "int",
}  # fmt: skip


@pytest.mark.parametrize("copy", [False, True])
def test_any_column_name_will_do(url: str, opened: Opened, copy: bool) -> None:
    key = ("select", 'quo"te', "x:y", "100%", "coalesce(", "$window_start")
    for names in (list(AWKWARD)[:-1], list(AWKWARD)):  # the second time, a column is added
        schema = {name: AWKWARD[name] for name in [*names, "coalesce("]}
        target = opened(url, schema, key, table="group", copy_rows_min=0 if copy else 10**9)
    more = {**AWKWARD, "new %:\"'": "decimal(10,2)"}
    target = opened(url, more, key, table="group", copy_rows_min=0 if copy else 10**9)
    values = {"int": 1, "str": "값", "timestamp": NOON, "decimal(10,2)": Decimal("1.50")}
    rows = {name: [values[core]] for name, core in more.items()}
    assert target.write(0, 0, 1, rows)
    assert target.write(0, 1, 2, rows | {"Order": [2]})
    assert read(url, 'SELECT "select", "Order" FROM "group"') == [("값", 2)]


def test_a_key_that_is_all_columns(url: str, opened: Opened) -> None:
    for copy_rows_min in (0, 10**9):
        target = opened(
            url, {"a": "int", "b": "str"}, ("a", "b"), table=f"t{copy_rows_min}", copy_rows_min=copy_rows_min
        )
        at = target.positions([0]).get(0, 0)
        assert target.write(0, at, at + 1, {"a": [1, 1], "b": [None, None]})
        assert target.write(0, at + 1, at + 2, {"a": [1], "b": [None]})
        assert read(url, f"SELECT a, b FROM t{copy_rows_min}") == [(1, None)]
        target.forget("app", "sink")  # the other table begins anew


def test_missing_columns_are_added(url: str, opened: Opened) -> None:
    before = {name: SCHEMA[name] for name in (*KEY, "clicks")}
    old = opened(url, before)
    assert old.write(0, 0, 1, {name: [row()[name]] for name in before})
    new = opened(url)
    assert new.write(0, 1, 2, columns(row("b")))
    assert read(url, "SELECT campaign, clicks, flag FROM rows ORDER BY campaign") == [("b", 1, True), ("c", 1, None)]
    assert old.write(0, 2, 3, {name: [row(clicks=9)[name]] for name in before})  # the old job still runs


@pytest.mark.parametrize(
    ("create", "named"),
    [
        (
            "CREATE TABLE rows (campaign TEXT, product TEXT, at {time}, spend REAL)",
            "column `spend` of table `rows` is REAL",
        ),
        ("CREATE TABLE rows (campaign TEXT, at {time})", "no column `product`"),
        ("CREATE TABLE rows (campaign TEXT PRIMARY KEY, product TEXT, at {time})", r"primary key \(campaign\)"),
        (
            "CREATE TABLE rows (campaign TEXT, product TEXT, at {time}, tax INT NOT NULL)",
            "column `tax` of table `rows` is NOT NULL",
        ),
        ("CREATE TABLE rows (campaign TEXT, product TEXT, at FLOAT)", "column `at` of table `rows`"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(url: str, opened: Opened, create: str, named: str) -> None:
    execute(url, create.format(time="TEXT" if url.startswith("sqlite") else "TIMESTAMPTZ"))
    with pytest.raises(ConfigError, match=named) as caught:
        opened(url)
    assert caught.value.option == "--sql"
    assert caught.value.hint


@pytest.mark.servers
@pytest.mark.parametrize(
    ("declared", "remedy"),
    [
        ("spend NUMERIC(38,1)", 'ALTER TABLE "rows" ALTER COLUMN "spend" TYPE NUMERIC(38, 2)'),
        ("spend NUMERIC(10,2)", "TYPE NUMERIC(38, 2)"),
        ("clicks INTEGER", 'ALTER COLUMN "clicks" TYPE BIGINT'),
        ("rate REAL", "TYPE DOUBLE PRECISION"),
        ("at TIMESTAMP", "TYPE TIMESTAMP WITH TIME ZONE"),
        ("product VARCHAR(20)", "TYPE TEXT"),
        ("flag INTEGER", "TYPE BOOLEAN"),
    ],
)
def test_postgres_types_that_would_lose_something(
    postgres_url: str, opened: Opened, declared: str, remedy: str
) -> None:
    kept = {"campaign": "TEXT", "product": "VARCHAR", "at": "TIMESTAMPTZ(3)", "spend": "NUMERIC"}
    kept |= dict([declared.split(" ", 1)])
    execute(postgres_url, f"CREATE TABLE rows ({', '.join(f'{name} {kind}' for name, kind in kept.items())})")
    with pytest.raises(ConfigError) as caught:
        opened(postgres_url)
    assert remedy in (caught.value.hint or "")
    execute(postgres_url, (caught.value.hint or "").split("; or")[0])  # the remedy works
    assert opened(postgres_url).write(0, 0, 1, columns(row()))


def test_another_key_than_the_table_was_made_for(url: str, opened: Opened) -> None:
    opened(url, key=("campaign",))
    with pytest.raises(ConfigError, match=r"made for the key \(campaign\)"):
        opened(url)


def test_a_table_of_the_users_own(url: str, opened: Opened) -> None:
    """With a row number, its own primary key and defaults."""
    postgres = not url.startswith("sqlite")
    execute(
        url,
        f"CREATE TABLE rows (id {'BIGSERIAL' if postgres else 'INTEGER'} PRIMARY KEY, campaign TEXT, product TEXT, "
        f"at {'TIMESTAMPTZ' if postgres else 'TEXT'}, note TEXT NOT NULL DEFAULT 'x')",
    )
    target = opened(url)
    assert target.write(0, 0, 1, columns(row(), row("d")))
    assert target.write(0, 1, 2, columns(row(clicks=3)))
    assert read(url, "SELECT campaign, clicks, note FROM rows ORDER BY campaign") == [("c", 3, "x"), ("d", 1, "x")]


def test_a_primary_key_that_is_the_sinks_key(url: str, opened: Opened) -> None:
    execute(url, "CREATE TABLE rows (campaign TEXT NOT NULL, clicks BIGINT, PRIMARY KEY (campaign))")
    target = opened(url, {"campaign": "str", "clicks": "int"}, ("campaign",))
    assert target.write(0, 0, 1, {"campaign": ["a"], "clicks": [1]})
    assert target.write(0, 1, 2, {"campaign": ["a"], "clicks": [2]})
    assert read(url, "SELECT campaign, clicks FROM rows") == [("a", 2)]
    with pytest.raises(ConfigError) as caught:
        target.write(0, 2, 3, {"campaign": ["b", None], "clicks": [1, 1]})
    assert classify(caught.value) is Verdict.CONFIG
    assert read(url, "SELECT campaign, clicks FROM rows") == [("a", 2)]
    assert target.positions([0]) == {0: 2}


@pytest.mark.servers
def test_a_schema_of_its_own(postgres_url: str, opened: Opened) -> None:
    execute(postgres_url, "CREATE SCHEMA reports")
    opened(postgres_url, table="reports.rows")
    target = opened(postgres_url, table="reports.rows", copy_rows_min=0)
    assert target.write(0, 0, 1, columns(row()))
    assert read(postgres_url, "SELECT count(*) FROM reports.rows") == [(1,)]


@pytest.mark.servers
def test_many_workers_open_at_once(postgres_url: str, opened: Opened) -> None:
    with ThreadPoolExecutor(8) as pool:
        targets = list(pool.map(lambda _: opened(postgres_url), range(8)))
    assert sum(target.write(0, 0, 1, columns(row())) for target in targets) == 1


# Trouble.


def test_a_failure_after_the_first_rows_leaves_nothing(
    url: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = opened(url)
    apply = SqlTarget._apply

    def break_off(self: SqlTarget, connection: Any, values: Any) -> None:
        apply(self, connection, values)
        raise RuntimeError("the process dies here")

    with monkeypatch.context() as patch:
        patch.setattr(SqlTarget, "_apply", break_off)
        with pytest.raises(RuntimeError):
            target.write(0, 0, 1, columns(row()))
    assert (read(url, "SELECT count(*) FROM rows"), target.positions([0])) == ([(0,)], {})
    assert target.write(0, 0, 1, columns(row()))


def kill_backends(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.mark.servers
@pytest.mark.parametrize("copy_rows_min", [0, 10**9])
def test_a_connection_killed_between_rows_and_position(
    postgres_url: str, opened: Opened, monkeypatch: pytest.MonkeyPatch, copy_rows_min: int
) -> None:
    target = opened(postgres_url, copy_rows_min=copy_rows_min)
    apply = SqlTarget._apply
    for after in (False, True):

        def break_off(self: SqlTarget, connection: Any, values: Any, after: bool = after) -> None:
            if after:
                apply(self, connection, values)
            kill_backends(postgres_url)
            if not after:
                apply(self, connection, values)

        with monkeypatch.context() as patch:
            patch.setattr(SqlTarget, "_apply", break_off)
            with pytest.raises(TransientError):
                target.write(0, 0, 1, columns(row()))
        assert (read(postgres_url, "SELECT count(*) FROM rows"), target.positions([0])) == ([(0,)], {})
    assert target.write(0, 0, 1, columns(row()))


@pytest.mark.servers
def test_an_idle_connection_that_was_cut_costs_nothing_but_a_retry(postgres_url: str, opened: Opened) -> None:
    target = opened(postgres_url)
    kill_backends(postgres_url)
    with pytest.raises(TransientError):
        target.write(0, 0, 1, columns(row()))
    assert target.write(0, 0, 1, columns(row()))


@pytest.mark.servers
def test_a_commit_whose_answer_was_lost_counts_as_written(
    postgres_url: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = opened(postgres_url)
    commit = psycopg.Connection.commit
    cut = [True]

    def commit_and_lose(self: Any) -> None:
        commit(self)
        if cut:
            cut.pop()
            self.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(psycopg.Connection, "commit", commit_and_lose)
    assert target.write(0, 0, 1, columns(row()))
    assert cut == []
    assert target.positions([0]) == {0: 1}


@pytest.mark.servers
def test_a_zombie_waits_for_the_owner_and_then_loses(
    postgres_url: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, zombie = opened(postgres_url), opened(postgres_url)
    apply, arrived = SqlTarget._apply, threading.Event()

    def slowly(self: SqlTarget, connection: Any, values: Any) -> None:
        arrived.set()
        time.sleep(0.5)
        apply(self, connection, values)

    monkeypatch.setattr(SqlTarget, "_apply", slowly)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(owner.write, 0, 0, 1, columns(row(clicks=1)))
        assert arrived.wait(10)
        assert not zombie.write(0, 0, 1, columns(row(clicks=2)))
        assert first.result()
    assert read(postgres_url, "SELECT clicks FROM rows") == [(1,)]


@pytest.mark.servers
@pytest.mark.slow
def test_a_server_killed_in_mid_flush_gets_every_row_once(opened: Opened) -> None:
    with Postgres() as server:
        url = server.create_database("killed")
        target = opened(url)
        flushes, failures = 12, 0
        with ThreadPoolExecutor(1) as pool:
            for number in range(flushes):
                rows = columns(*(row(f"c{i}", clicks=number) for i in range(6_000)))
                done = pool.submit(target.write, 0, number, number + 1, rows)
                if number % 3 == 1:
                    time.sleep(0.02 * number)
                    server.kill()
                    server.restart()
                while True:
                    try:
                        done.result()  # False: it had been applied
                        break
                    except (TransientError, ConfigError) as error:
                        if classify(error) is not Verdict.RETRY:
                            raise
                        failures += 1
                        time.sleep(0.1)
                        done = pool.submit(target.write, 0, number, number + 1, rows)
                assert read(url, 'SELECT "position" FROM _adstream_positions') == [(number + 1,)]
                assert read(url, "SELECT count(*), min(clicks), max(clicks) FROM rows") == [(6_000, number, number)]
        assert failures > 0


# Addresses.


@pytest.mark.servers
def test_addresses_that_lead_nowhere(postgres: Postgres) -> None:
    good = postgres.url("postgres")
    bad = {
        good.replace(f":{postgres.port}", ":1").replace("postgres@", "postgres:s3cret@"): (
            "cannot reach",
            Verdict.RETRY,
        ),
        postgres.url("nosuch").replace("postgres@", "postgres:s3cret@"): ("does not exist", Verdict.CONFIG),
        good.replace("postgres@", "nobody:s3cret@"): ('role "nobody" does not exist', Verdict.CONFIG),
    }
    for url, (message, verdict) in bad.items():
        target = SqlTarget(url, "rows")
        with pytest.raises(ConfigError, match=message) as caught:
            target.open("app", "sink", SCHEMA, KEY)
        assert "s3cret" not in str(caught.value)
        assert caught.value.option == "--sql"
        assert classify(caught.value) is verdict


# Rows that Postgres cannot store.

NO_INDEX_TAKES_IT = "".join(random.Random(1).choices(string.printable, k=6_000))


def refused(url: str) -> list[tuple[Any, ...]]:
    return read(url, 'SELECT partition, position, reason, "row" FROM _adstream_refused ORDER BY position, reason')


@pytest.mark.servers
@pytest.mark.parametrize("copy_rows_min", [0, 10**9])
@pytest.mark.parametrize("bad", [[0], [3], [9], [2, 3, 7], list(range(10))])
def test_a_row_that_cannot_be_stored_is_set_aside_and_holds_up_no_other(
    postgres_url: str, opened: Opened, copy_rows_min: int, bad: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    target = opened(postgres_url, copy_rows_min=copy_rows_min)
    rows = [row(campaign=f"{i}{NO_INDEX_TAKES_IT}" if i in bad else f"{i}", clicks=i) for i in range(10)]
    assert target.write(2, 0, 15, columns(*rows))
    assert target.positions([2]) == {2: 15}
    assert target.refused == len(bad)
    found = read(postgres_url, "SELECT campaign, clicks FROM rows ORDER BY campaign")
    assert found == [(f"{i}", i) for i in range(10) if i not in bad]
    aside = refused(postgres_url)
    assert [(p, position) for p, position, _, _ in aside] == [(2, 15)] * len(bad)
    assert sorted(json.loads(text)["clicks"] for *_, text in aside) == bad
    assert json.loads(aside[0][3]) == {
        "campaign": rows[json.loads(aside[0][3])["clicks"]]["campaign"], "product": "p",
        "at": "2024-01-15T12:00:00.123Z", "spend": "12.50", "clicks": json.loads(aside[0][3])["clicks"], "rate": 0.1,
        "flag": True, "took": 1_500,
    }  # fmt: skip
    assert "index row" in aside[0][2]
    assert "54000" in aside[0][2]
    [said] = [entry for entry in caplog.records if "_adstream_refused" in entry.getMessage()]
    assert said.levelname == "ERROR"
    assert NO_INDEX_TAKES_IT[:20] not in said.getMessage()


@pytest.mark.servers
def test_of_a_key_the_newest_refused_row_is_kept_until_its_sink_is_forgotten(postgres_url: str, opened: Opened) -> None:
    target = opened(postgres_url)
    for position in (1, 2, 3):
        rows = columns(row(campaign=NO_INDEX_TAKES_IT, clicks=position), row(clicks=position))
        assert target.write(0, position - 1, position, rows)
        assert not target.write(0, position - 1, position, rows), "a replay changes nothing"
    assert [(position, json.loads(text)["clicks"]) for _, position, _, text in refused(postgres_url)] == [(3, 3)]
    assert read(postgres_url, "SELECT clicks FROM rows") == [(3,)]
    target.forget("other", "sink")
    assert len(refused(postgres_url)) == 1
    target.forget("app", "sink")
    assert refused(postgres_url) == []


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
@pytest.mark.servers
def test_it_notes_which_topic_its_positions_are_of(
    kind: str, postgres_url: str, opened: Opened, tmp_path: Path
) -> None:
    target = opened(postgres_url if kind == "postgres" else f"sqlite:///{tmp_path}/rows.db")
    assert [target.of_topic(topic) for topic in ("one", "another", "one")] == ["one", "one", "one"]
    target.forget("other", "sink")
    assert target.of_topic("another") == "one"
    target.forget("app", "sink")
    assert target.of_topic("another") == "another"


@pytest.mark.servers
def test_a_character_that_the_database_does_not_have(postgres: Postgres, opened: Opened) -> None:
    name = f"latin{next(DATABASES)}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    url = postgres.url(name)
    target = opened(url)
    assert target.write(0, 0, 1, columns(row(campaign="münchen"), row(campaign="東京")))
    assert read(url, "SELECT campaign FROM rows") == [("münchen",)]
    [(_, _, reason, text)] = refused(url)
    assert "22P05" in reason
    assert json.loads(text)["campaign"] == "東京"


@pytest.mark.servers
@pytest.mark.parametrize("copy_rows_min", [0, 10**9])
def test_a_time_after_the_year_9999_comes_as_its_text_and_is_set_aside(
    postgres_url: str, opened: Opened, copy_rows_min: int
) -> None:
    target = opened(postgres_url, copy_rows_min=copy_rows_min)
    far = row(campaign="far", at="+020000-01-01T00:00:00.000Z", took=86_400_000_000_000_000)
    assert target.write(0, 0, 1, columns(row(campaign="a"), far, row(campaign="b", took=86_400_000_000_000_000)))
    assert read(postgres_url, "SELECT campaign, took FROM rows ORDER BY campaign") == [
        ("a", 1_500),
        ("b", 86_400_000_000_000_000),
    ]
    [(_, _, reason, text)] = refused(postgres_url)
    assert "2200" in reason
    assert json.loads(text)["at"] == "+020000-01-01T00:00:00.000Z"


@pytest.mark.servers
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE rows ALTER COLUMN clicks TYPE smallint", "clicks"),
        ("ALTER TABLE rows ALTER COLUMN product TYPE varchar(3)", "product"),
        ("ALTER TABLE rows ADD CHECK (clicks < 1000)", "check constraint"),
    ],
)
def test_a_table_that_was_changed_is_to_blame_and_not_its_rows(
    postgres_url: str, opened: Opened, change: str, named: str
) -> None:
    target = opened(postgres_url)
    execute(postgres_url, change)
    rows = columns(row(clicks=1), row(product="product", clicks=100_000))
    with pytest.raises(ConfigError, match=named) as caught:
        target.write(0, 0, 1, rows)
    assert classify(caught.value) is Verdict.CONFIG
    assert (target.positions([0]), refused(postgres_url), target.refused) == ({}, [], 0)
    assert read(postgres_url, "SELECT count(*) FROM rows") == [(0,)]


# What it all amounts to.

KEYS = [(campaign, product) for campaign in ("a", None) for product in ("p", None)]
LOG = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(-5, 5)), min_size=1, max_size=30)
STEPS = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.integers(0, 8), st.sampled_from(["", "stale", "replay"])), max_size=25
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=LOG, steps=STEPS, copy=st.booleans())
def test_the_table_is_the_last_row_per_key_of_the_applied_prefix(
    url: str, opened: Opened, log: list[tuple[tuple[str | None, str | None], int]], steps: Any, copy: bool
) -> None:
    """Two writers, each of which believes what it last heard of the position, replay and overtake one
    another."""
    schema = {"campaign": "str", "product": "str", "clicks": "int"}
    table = f"t{next(DATABASES)}"
    writers = [SqlTarget(url, table, copy_rows_min=0 if copy else 10**9) for _ in range(2)]
    for writer in writers:
        writer.open(table, "sink", schema, ("campaign", "product"))
    believed, applied = [0, 0], 0
    for number, length, kind in steps:
        if kind == "":
            believed[number] = writers[number].positions([0]).get(0, 0)
        start = max(0, believed[number] - (length if kind == "replay" else 0))
        stop = min(start + length, len(log))
        newest = dict(log[start:stop])
        rows = columns(
            *({"campaign": c, "product": p, "clicks": n} for (c, p), n in newest.items())
        ) if newest else {}  # fmt: skip
        accepted = writers[number].write(0, start, stop, rows)
        assert accepted == (start == applied)
        if accepted:
            applied = believed[number] = stop
    found = read(url, f"SELECT campaign, product, clicks FROM {table}")
    assert {(c, p): n for c, p, n in found} == dict(log[:applied])
    assert len(found) == len(dict(log[:applied]))
    for writer in writers:
        writer.close()


@pytest.mark.parametrize("rows", [1, 3_000])
def test_lists_are_json(url: str, opened: Opened, rows: int) -> None:
    target = opened(url, {"key": "str", "names": "json"}, ("key",))
    names = {f"k{n}": ["전'", "a\0\t\\", "12.50", None, n, 0.5] for n in range(rows)}
    assert target.write(0, 0, rows, {"key": [*names, "none"], "names": [*names.values(), None]})
    found = dict(read(url, "SELECT key, names FROM rows"))
    assert found.pop("none") is None
    assert {key: json.loads(text) for key, text in found.items()} == names
    again = opened(url, {"key": "str", "names": "json"}, ("key",))  # the table fits
    assert again.write(0, rows, rows + 1, {"key": ["none"], "names": [[]]})
    assert read(url, "SELECT names FROM rows WHERE key = 'none'") == [("[]",)]
