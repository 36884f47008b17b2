"""`adstream demo ads`: the whole platform in one process."""

from __future__ import annotations

import signal
from pathlib import Path

import psycopg
import pytest

from tests.integration.waiting import until
from tests.logs.conformance import unique
from tests.servers import Postgres, Redis
from tests.unit.cli.support import call, start

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


def database(postgres: Postgres) -> str:
    return postgres.create_database(unique("demo").replace("-", "_"))


def test_it_comes_to_the_truth_and_starts_from_nothing(postgres: Postgres, redis_server: Redis, tmp_path: Path) -> None:
    sql, shown = database(postgres), redis_server.url(6)
    given = ("demo", "ads", "--sql", sql, "--redis", shown, "--events", "5000", "--seed", "5")
    code, out, err = call(*given, cwd=tmp_path)
    assert code == 0, err + out
    assert "check: everything equals a truth computed apart" in out
    for said in ("ads.ranking", "CHARGE OVER_BUDGET", "net spend", "session", "HOME / 전자제품"):
        assert said in out
    code, _, err = call(*given, cwd=tmp_path)
    assert (code, "there is a ledger already" in err, "--sql" in err) == (2, True, True)
    code, _, err = call("demo", "ads", "--sql", database(postgres), "--redis", shown, cwd=tmp_path)
    assert (code, "keys already" in err, "--redis" in err) == (2, True, True)


def test_ctrl_c_ends_it_and_shows_what_there_is(postgres: Postgres, redis_server: Redis, tmp_path: Path) -> None:
    sql = database(postgres)

    def begun() -> bool:
        with psycopg.connect(sql) as link:
            try:
                return link.execute("SELECT count(*) > 0 FROM ads_ledger.posting").fetchone() == (True,)
            except psycopg.errors.UndefinedTable:
                return False

    given = ("demo", "ads", "--sql", sql, "--redis", redis_server.url(7), "--seconds", "200")
    with start(*given, cwd=tmp_path) as process:
        until(begun, "the ledger has booked something")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "interrupted: nothing is compared" in out


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["ads"], "the platform's ledger is in Postgres"),
        (
            ["ads", "--sql", "postgresql://127.0.0.1:1/x", "--redis", "redis://127.0.0.1:1/0"],
            "Postgres does not answer",
        ),
        (["bds"], "there is no demo `bds`"),
        (["--sql", "postgresql://x/y"], "ads.performance writes to SQLite here"),
        (["ads", "--dir", "here"], "the platform's log is in memory"),
    ],
)
def test_what_cannot_be_is_said(given: list[str], says: str, tmp_path: Path) -> None:
    code, _, err = call("demo", *given, cwd=tmp_path)
    assert (code, says in err) == (2, True), err
