"""`SqlTarget` on SQLite files in trouble. (What it shares with Postgres is in `tests/integration/sinks`.)"""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from adstream.errors import ConfigError
from adstream.targets.delivery import TransientError, Verdict, classify
from adstream.targets.sql import SqlTarget

SCHEMA = {"id": "str", "amount": "decimal(38,2)"}


def opened(path: Path) -> SqlTarget:
    target = SqlTarget(f"sqlite:///{path}", "t")
    target.open("app", "sink", SCHEMA, ["id"])
    return target


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unable to open") as caught:
        opened(tmp_path / "nosuch" / "rows.db")
    assert caught.value.option == "--sql"


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("shopping list\n" * 100)
    with pytest.raises(ConfigError, match="not a database"):
        opened(path)


def test_somebody_elses_long_transaction_is_waited_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    target = opened(path)
    with target._engine.connect() as connection:  # the next write waits 0.01 s instead of 10
        connection.exec_driver_sql("PRAGMA busy_timeout = 10")
        connection.rollback()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TransientError, match="locked"):
        target.write(0, 0, 1, {"id": ["a"], "amount": [None]})
    other.execute("ROLLBACK")
    other.close()
    assert target.write(0, 0, 1, {"id": ["a"], "amount": [None]})
    target.close()


def test_readers_are_not_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    target = opened(path)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (0,)
    assert target.write(0, 0, 1, {"id": ["a"], "amount": [None]})
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (0,)
    reader.close()
    target.close()


def test_a_table_dropped_under_way_waits_for_somebody(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    target = opened(path)
    other = sqlite3.connect(path)
    other.execute("DROP TABLE t")
    other.close()
    with pytest.raises(ConfigError, match="no such table") as caught:
        target.write(0, 0, 1, {"id": ["a"], "amount": [None]})
    assert classify(caught.value) is Verdict.CONFIG
    assert target.positions([0]) == {}
    target.close()


def test_a_table_dropped_between_runs_is_not_made_anew_behind_its_positions(tmp_path: Path) -> None:
    """It was, and stayed without all rows that had been stored: their position said that they were there."""
    path = tmp_path / "rows.db"
    target = opened(path)
    assert target.write(0, 0, 1, {"id": ["a"], "amount": [None]})
    target.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE t")
    with pytest.raises(
        ConfigError, match=r"there is no table `t`, and rows .* were stored in it\nhint: .*`adstream reset"
    ) as caught:
        opened(path)
    assert classify(caught.value) is Verdict.CONFIG
    again = SqlTarget(f"sqlite:///{path}", "t")
    again.forget("app", "sink")  # as `adstream reset` does
    again.close()
    target = opened(path)
    assert target.positions([0]) == {}
    target.close()


def test_a_table_emptied_between_runs_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The next run ended with exit code 0 and not a word, and the table stayed without what had been stored."""
    path = tmp_path / "rows.db"
    target = opened(path)
    assert target.write(0, 0, 1, {"id": ["a"], "amount": [None]})
    target.close()
    opened(path).close()
    assert not caplog.records
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("DELETE FROM t")
    opened(path).close()
    [told] = [record.getMessage() for record in caplog.records]
    assert "table `t` is empty, and rows were stored in it" in told
    assert "`adstream reset`" in told


@pytest.mark.parametrize(
    ("schema", "key", "message"),
    [(SCHEMA, [], "no key"), (SCHEMA, ["nosuch"], "no column `nosuch`"), ({"id": "map"}, ["id"], "unknown type `map`")],
)
def test_schemas_that_make_no_table(tmp_path: Path, schema: dict[str, str], key: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SqlTarget(f"sqlite:///{tmp_path}/rows.db", "t").open("app", "sink", schema, key)
