"""Rows before a function in a real Postgres: in order, recorded, and in no hurry when it is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path

import psycopg
import pytest

import adstream as ads
from adstream._core import Plan, RawBatch
from adstream.errors import ConfigError, TargetUnavailableError, TopologyError
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import launch
from adstream.runtime.settings import Settings
from adstream.runtime.worker import Worker
from adstream.targets import sql_function
from adstream.testing import TopologyTestDriver
from tests.servers import Postgres

pytestmark = pytest.mark.servers

TABLES = """
CREATE SCHEMA toll;
CREATE TABLE toll.passed (id text PRIMARY KEY, gate text NOT NULL, nth int NOT NULL, call bigint NOT NULL);
"""
DECIDE = """
CREATE FUNCTION toll.pass(id text[], gate text[], price double precision[], at timestamptz[])
RETURNS TABLE (ticket text, gate_ text, nth bigint, call bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE r record;
BEGIN
    PERFORM pg_advisory_xact_lock(1);
    FOR r IN SELECT * FROM unnest($1, $2, $3) WITH ORDINALITY x (id, gate, price, o) ORDER BY o LOOP
        IF r.price < 0 THEN RAISE EXCEPTION 'a price of %', r.price; END IF;
        INSERT INTO toll.passed SELECT r.id, r.gate, 1 + count(*), txid_current() FROM toll.passed p WHERE p.gate = r.gate
        ON CONFLICT DO NOTHING;
    END LOOP;
    RETURN QUERY SELECT p.id, p.gate, p.nth::bigint, p.call
    FROM unnest($1) WITH ORDINALITY x (id, o) JOIN toll.passed p USING (id) ORDER BY o;
END $$;
"""


class Car(ads.Record):
    id: str
    gate: str
    price: int
    at: datetime


class Ticket(ads.Record):
    ticket: str
    gate_: str
    nth: int
    call: int


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "migrations"
    made.mkdir()
    (made / "0001_tables.sql").write_text(TABLES)
    (made / "0002_decide.sql").write_text(DECIDE)
    return made


_numbers = count()


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.create_database(f"toll_{next(_numbers)}")


def toll(folder: Path) -> ads.Topology:
    @ads.topology(name="toll")
    def job(app: ads.App) -> None:
        cars = app.stream("cars", Car, timestamp="at").select("id", "gate", "at", price=ads.col("price").cast(float))
        cars.group_by("gate").ask_sql("toll.pass", schema=Ticket, migrations=folder).to("tickets", key="gate_")

    return job


def car(number: int, gate: int, price: int = 5) -> dict[str, object]:
    return {"id": f"car{number}", "gate": f"g{gate}", "price": price, "at": "2024-01-15T10:00:00Z"}


@pytest.mark.parametrize("batch_rows", [1, 3, None])
def test_rows_of_a_group_are_asked_about_in_their_order(url: str, folder: Path, batch_rows: int | None) -> None:
    with TopologyTestDriver(toll(folder), partitions=1, batch_rows=batch_rows, connections={"sql": url}) as driver:
        for number in range(30):
            driver.input("cars").pipe(car(number, number % 3))
        tickets = [r.value for r in driver.output("tickets").read()]
    assert sorted((t["ticket"], t["nth"]) for t in tickets) == sorted((f"car{n}", n // 3 + 1) for n in range(30))
    assert len({t["call"] for t in tickets}) == 1  # one transaction for what is committed together


@pytest.mark.parametrize("batch_rows", [1, 3, None])
def test_answers_stand_in_the_topic_in_the_order_of_the_decisions(
    url: str, folder: Path, batch_rows: int | None
) -> None:
    """Whatever steps the rows came in: those of one commit are asked about at once."""
    with TopologyTestDriver(toll(folder), partitions=1, batch_rows=batch_rows, connections={"sql": url}) as driver:
        for number in range(20):
            driver.input("cars").pipe(car(number, 0))
        assert [r.value["nth"] for r in driver.output("tickets").read()] == list(range(1, 21))


def test_a_row_that_is_refused_is_alone(url: str, folder: Path) -> None:
    with TopologyTestDriver(toll(folder), partitions=1, connections={"sql": url}) as driver:
        for number in range(20):
            driver.input("cars").pipe(car(number, 0, price=-7 if number in (4, 11) else 5))
        nths = [r.value["nth"] for r in driver.output("tickets").read()]
        assert nths == list(range(1, 19))
        [found] = [c for name, c in driver.counters().items() if name.startswith("map_batches")]
        assert found == {"dead:callable_raised": 2}


def test_text_that_postgres_has_not_is_the_rows_fault(url: str, folder: Path) -> None:
    with TopologyTestDriver(toll(folder), partitions=1, connections={"sql": url}) as driver:
        driver.input("cars").pipe(car(1, 0) | {"id": "nul\0"})
        driver.input("cars").pipe(car(2, 0))
        assert [r.value["ticket"] for r in driver.output("tickets").read()] == ["car2"]


LONG = "".join(chr(0x4E00 + n * 7919 % 20_000) for n in range(5_000))
"""No index of Postgres takes it."""


@pytest.mark.parametrize("id", ["forbidden", LONG])
def test_a_constraint_or_a_limit_is_the_rows_fault(url: str, folder: Path, id: str) -> None:
    more = "ALTER TABLE toll.passed ADD CHECK (id <> 'forbidden');"
    (folder / "0003_more.sql").write_text(more)
    with TopologyTestDriver(toll(folder), partitions=1, connections={"sql": url}) as driver:
        driver.input("cars").pipe(car(1, 0) | {"id": id})
        driver.input("cars").pipe(car(2, 0))
        assert [r.value["ticket"] for r in driver.output("tickets").read()] == ["car2"]


def test_migrations_are_run_once_and_must_not_change(url: str, folder: Path) -> None:
    for _ in range(2):
        sql_function.migrate(url, "toll", folder)
    (folder / "0003_more.sql").write_text("CREATE TABLE toll.more ()")
    sql_function.migrate(url, "toll", folder)
    with psycopg.connect(url) as db:
        assert db.execute("SELECT count(*) FROM _adstream_migrations").fetchone() == (3,)
        assert db.execute("SELECT count(*) FROM toll.more").fetchone() == (0,)
    (folder / "0001_tables.sql").write_text(TABLES + "-- changed")
    with pytest.raises(ConfigError, match=r"0001_tables.sql.*is not what was run"):
        sql_function.migrate(url, "toll", folder)


def test_a_migration_that_fails_leaves_nothing(url: str, folder: Path) -> None:
    (folder / "0003_wrong.sql").write_text("CREATE TABLE toll.ok (); SELECT 1 / 0")
    with pytest.raises(ConfigError, match=r"0003_wrong.sql.*division by zero"):
        sql_function.migrate(url, "toll", folder)
    with psycopg.connect(url) as db:
        assert db.execute("SELECT to_regnamespace('toll')").fetchone() == (None,)


def test_the_owner_migrates_and_the_worker_only_asks(url: str, folder: Path) -> None:
    (folder / "0003_rights.sql").write_text(
        "GRANT USAGE ON SCHEMA toll TO toll_worker; GRANT SELECT, INSERT ON toll.passed TO toll_worker"
    )
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("DROP ROLE IF EXISTS toll_worker")
        db.execute("CREATE ROLE toll_worker LOGIN")
    worker = url.replace("postgres@", "toll_worker@")
    with pytest.raises(ConfigError, match="permission denied"):
        TopologyTestDriver(toll(folder), connections={"sql": worker})
    with TopologyTestDriver(toll(folder), partitions=1, connections={"sql": worker, "sql_owner": url}) as driver:
        driver.input("cars").pipe(car(1, 0))
        assert len(driver.output("tickets").read()) == 1
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("DROP OWNED BY toll_worker")
        db.execute("DROP ROLE toll_worker")


def test_what_is_missing_is_said(url: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match="needs the connection `sql`; given: `ledger`"):
        TopologyTestDriver(toll(folder), connections={"ledger": url})
    with pytest.raises(ConfigError, match="no Postgres"):
        TopologyTestDriver(toll(folder), connections={"sql": "sqlite:///x.db"})
    for wrong in ("pass", "toll.pass()", "a.b.c"):
        with pytest.raises(TopologyError, match="not a function of a schema"):
            ads.topology(name="x")(
                lambda app, f=wrong: app.stream("cars", Car).group_by("gate").ask_sql(f, schema=Ticket)
            ).build()


def test_a_function_that_is_not_there_is_nobodys_row(url: str) -> None:
    ask = sql_function.SqlFunction(url, "toll.nobody", {"id": "str"}, ["ticket"])
    with pytest.raises(TargetUnavailableError, match=r"cannot be asked.*3F000|42883"):
        ask({"id": ["a"]})


@pytest.mark.parametrize(
    ("answered", "limit"), [(0, "LIMIT 0"), (1, "LIMIT 1"), (3, "UNION ALL SELECT $1[1], 'g', 1, 1")]
)
def test_a_function_that_does_not_answer_each_row_is_nobodys_row(
    url: str, folder: Path, answered: int, limit: str
) -> None:
    """Halved, rows would be dead letters that the database has recorded."""
    losing = DECIDE.replace("ORDER BY o;\nEND", f"ORDER BY o {limit};\nEND")
    losing = losing if "LIMIT" in limit else DECIDE.replace("USING (id) ORDER BY o;", f"USING (id) {limit};")
    assert losing != DECIDE
    (folder / "0002_decide.sql").write_text(losing)
    sql_function.migrate(url, "toll", folder)
    asks = {"id": "str", "gate": "str", "price": "float", "at": "timestamp"}
    ask = sql_function.SqlFunction(url, "toll.pass", asks, ["ticket", "gate_", "nth", "call"])
    at = datetime.fromisoformat("2024-01-15T10:00:00Z")
    rows = {"id": ["a", "b"], "gate": ["g", "g"], "price": [5.0, 5.0], "at": [at, at]}
    with pytest.raises(TargetUnavailableError, match=rf"`toll.pass` answered {answered} rows where 2 were asked"):
        ask(rows)
    with psycopg.connect(url, autocommit=True) as db:
        assert db.execute("SELECT count(*) FROM toll.passed").fetchone() == (0,)
        db.execute(b"DROP FUNCTION toll.pass")
        db.execute(DECIDE.encode())
    assert [answer[0] for answer in ask(rows)] == ["a", "b"]
    ask.close()


def test_a_call_that_takes_too_long_is_not_asked_again_as_it_was(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take as long again, for ever."""
    slow = DECIDE.replace("INSERT INTO", "PERFORM pg_sleep(0.1); INSERT INTO")
    (folder / "0002_decide.sql").write_text(slow)
    sql_function.migrate(url, "toll", folder)
    monkeypatch.setattr(sql_function, "_SESSION", "SET statement_timeout = '500ms'")
    asks = {"id": "str", "gate": "str", "price": "float", "at": "timestamp"}
    ask = sql_function.SqlFunction(url, "toll.pass", asks, ["ticket", "gate_", "nth", "call"])
    at = datetime.fromisoformat("2024-01-15T10:00:00Z")
    rows = {"id": [str(n) for n in range(16)], "gate": ["g"] * 16, "price": [5.0] * 16, "at": [at] * 16}
    for _ in range(50):
        try:
            answers = ask(rows)
            break
        except TargetUnavailableError as error:
            assert "statement timeout" in str(error)  # noqa: PT017
    assert [(answer[0], answer[2]) for answer in answers] == [(str(n), n + 1) for n in range(16)]
    assert len({answer[3] for answer in answers}) > 1  # several calls
    ask.close()


def test_a_batch_that_takes_too_long_in_all_is_recorded_so_far(url: str, folder: Path) -> None:
    """A worker that is silent for longer is taken for dead."""
    sql_function.migrate(url, "toll", folder)
    times = count(0, 12)
    asks = {"id": "str", "gate": "str", "price": "float", "at": "timestamp"}
    ask = sql_function.SqlFunction(
        url, "toll.pass", asks, ["ticket", "gate_", "nth", "call"], clock=lambda: next(times)
    )
    ask._at_most = 1
    at = datetime.fromisoformat("2024-01-15T10:00:00Z")
    rows = {"id": ["a", "b", "c"], "gate": ["g"] * 3, "price": [5.0] * 3, "at": [at] * 3}
    with pytest.raises(TargetUnavailableError, match="2 of 3 rows"):
        ask(rows)
    assert [answer[0] for answer in ask({name: values[2:] for name, values in rows.items()})] == ["c"]
    ask.close()


class Run:
    """A worker on a log in memory, in a thread."""

    def __init__(self, job: ads.Topology, url: str, log: EmbeddedLog) -> None:
        built = job.build()
        self.databases = sql_function.connect(built.callables, {"sql": url})
        self.worker: Worker | None = None
        self.error: BaseException | None = None
        settings = Settings(app="toll", create_topics=True, commit_interval_ms=20)
        plan = Plan(built.json, built.callables)

        def watch(worker: Worker) -> None:
            self.worker = worker

        def run() -> None:
            try:
                launch.run(plan, settings, log, on_start=watch)
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def until(self, condition: object, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():  # type: ignore[operator]
            assert self.error is None, self.error
            assert time.monotonic() < end
            time.sleep(0.02)

    def stop(self) -> None:
        assert self.worker is not None
        self.worker.stop(5_000)
        self.thread.join(30)
        self.databases.close()


@pytest.fixture
def mortal() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


def test_while_postgres_is_away_nothing_is_lost_or_dead(mortal: Postgres, folder: Path) -> None:
    url = mortal.create_database("toll")
    log = EmbeddedLog()
    log.create_topics([TopicSpec("cars", 2)])
    send = log.writer("producer")
    sent = count()

    def drive(cars: int) -> None:
        rows = []
        for i in range(cars):
            number = next(sent)
            value = b'{"id":"car%d","gate":"g%d","price":5,"at":"2024-01-15T10:00:00Z"}' % (number, number % 5)
            rows.append((i, 1_705_312_800_000, None, value, []))
        assert send.commit([("cars", 0, RawBatch(rows))], {}, "producer", None) is Outcome.COMMITTED

    def tickets() -> int:
        return sum(log.end_offsets([("tickets", p) for p in range(2)], committed=True).values())

    run = Run(toll(folder), url, log)
    try:
        run.until(lambda: run.worker is not None)
        drive(50)
        run.until(lambda: tickets() >= 50)
        assert run.worker is not None
        for _ in range(2):
            mortal.kill()
            drive(50)
            run.until(lambda: any(task.waits >= 3 for task in run.worker.tasks.values()))  # type: ignore[union-attr]
            assert run.worker.quarantined == {}
            mortal.restart()
        run.until(lambda: tickets() >= 150)
        assert run.worker.quarantined == {}
    finally:
        run.stop()
    with psycopg.connect(url) as db:
        recorded = db.execute("SELECT gate, array_agg(nth ORDER BY nth) FROM toll.passed GROUP BY gate").fetchall()
    assert sorted(recorded) == [(f"g{g}", list(range(1, 31))) for g in range(5)]
    assert tickets() == 150
    assert log.end_offsets([("cars-dlq", 0), ("cars-dlq", 1)], committed=True) == {
        ("cars-dlq", 0): 0,
        ("cars-dlq", 1): 0,
    }


def test_a_worker_whose_postgres_is_away_can_be_stopped(mortal: Postgres, folder: Path) -> None:
    url = mortal.create_database("toll")
    log = EmbeddedLog()
    log.create_topics([TopicSpec("cars", 1)])
    run = Run(toll(folder), url, log)
    run.until(lambda: run.worker is not None)
    mortal.kill()
    value = b'{"id":"car","gate":"g","price":5,"at":"2024-01-15T10:00:00Z"}'
    log.writer("producer").commit([("cars", 0, RawBatch([(0, 1, None, value, [])]))], {}, "producer", None)
    run.until(lambda: any(task.waits for task in run.worker.tasks.values()))  # type: ignore[union-attr]
    run.stop()
    assert not run.thread.is_alive()
    assert run.error is None
