"""`adstream reset` on the embedded log: what it does, what it leaves, and what happens when it breaks off."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from adstream._core import RawBatch
from adstream.interfaces import TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import reset
from tests.unit.cli.support import invoke

JOB = """
import adstream as ads


class Order(ads.Record):
    shop: str
    item: str
    amount: int


@ads.topology(name="shops")
def shops(app: ads.App) -> None:
    orders = app.stream("orders", Order)
    totals = orders.group_by("shop").aggregate(total=ads.sum("amount"), n=ads.count()).named("totals")
    totals.to_stream().to("totals")
    totals.sink(ads.sinks.Sql("totals", key=["shop"]))
"""
RUN = ("replay", "shops:shops", "--log", "dir:log", "--sql", "sqlite:///t.db", "--state-dir", "state")
RESET = ("reset", "shops:shops", "--log", "dir:log", "--sql", "sqlite:///t.db", "--state-dir", "state")
HOUR = 3_600_000


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shops.py").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADSTREAM_FLUSH_EVERY", "20ms")
    monkeypatch.syspath_prepend(str(tmp_path))
    with opened() as log:
        log.create_topics([TopicSpec("orders", 2), TopicSpec("shops-notes", 1), TopicSpec("shops-2-0-changelog", 1)])
        send(log, [(f"s{i % 3}", i, i * HOUR) for i in range(12)])
    monkeypatch.delitem(__import__("sys").modules, "shops", raising=False)


@contextmanager
def opened() -> Iterator[EmbeddedLog]:
    log = EmbeddedLog("log", sync=False)
    try:
        yield log
    finally:
        log.close()


def send(log: EmbeddedLog, orders: list[tuple[str, int, int]]) -> None:
    """(shop, amount, ms), each shop in a partition of its own."""
    parts: dict[int, list[tuple[int, int, None, bytes, list[tuple[str, bytes | None]]]]] = {0: [], 1: []}
    for shop, amount, at in orders:
        rows = parts[int(shop[1:]) % 2]
        value = f'{{"shop":"{shop}","item":"i","amount":{amount}}}'.encode()
        rows.append((len(rows), at, None, value, []))
    log.writer("send").commit([("orders", p, RawBatch(rows)) for p, rows in parts.items()], {}, "none", None)


def table() -> dict[str, tuple[int, int]]:
    with closing(sqlite3.connect("t.db")) as db:
        return {shop: (total, n) for shop, total, n in db.execute("select shop, total, n from totals")}


def positions() -> dict[int, int]:
    with closing(sqlite3.connect("t.db")) as db:
        return dict(db.execute("select partition, position from _adstream_positions where app = 'shops'"))


def told() -> int:
    """Records in the output topic."""
    with opened() as log:
        ends = log.end_offsets([("totals", p) for p in range(log.partitions(["totals"])["totals"])], committed=True)
        return sum(ends.values())


def test_it_starts_over_and_outputs_stay():
    assert invoke(*RUN).exit_code == 0
    want = {"s0": (18, 4), "s1": (22, 4), "s2": (26, 4)}
    assert table() == want
    before = told()
    assert before > 0
    assert Path("state/shops").exists()

    done = invoke(*RESET, "--yes")
    assert done.exit_code == 0, done.output
    assert not Path("state/shops").exists()
    assert positions() == {}
    assert table() == want, "rows stay"
    assert told() == before
    with opened() as log:
        # `shops-2-0-changelog` is that of an application called `shops-2`, for all that one can know.
        assert log.topics() == ["orders", "orders-dlq", "shops-2-0-changelog", "shops-notes", "totals"]
        assert log.committed("shops", [("orders", 0), ("orders", 1)]) == {("orders", 0): 0, ("orders", 1): 0}
    assert "note: `shops-2-0-changelog` is left alone" in done.stderr
    assert "shops-notes" not in done.output

    assert invoke(*RUN).exit_code == 0
    assert table() == want
    assert told() == 2 * before


@pytest.mark.parametrize(
    ("options", "want"),
    [
        (["--to-earliest"], {"s0": 4, "s1": 4, "s2": 4}),
        ([], {"s0": 4, "s1": 4, "s2": 4}),
        (["--to-latest"], {}),
        (["--to-datetime", "1970-01-01T09:00:00Z"], {"s0": 1, "s1": 1, "s2": 1}),
        (["--to-datetime", "1970-01-01T10:30:00+01:00"], {"s1": 1, "s2": 1}),
        (["--shift-by", "-3"], {"s0": 1, "s1": 3, "s2": 2}),
        (["--shift-by", "-99"], {"s0": 4, "s1": 4, "s2": 4}),
        (["--shift-by", "5"], {}),
        (["--to-latest", "--topic", "orders=-1"], {"s1": 1, "s2": 1}),
        (["--topic", "orders=1970-01-01T09:00:00Z"], {"s0": 1, "s1": 1, "s2": 1}),
        (["--topic", "orders=keep"], {}),
    ],
)
def test_where_inputs_begin(options: list[str], want: dict[str, int]):
    """What is aggregated after the reset, over records 0, 3, 6, 9 of shop 0 and so on, hourly; shops 0 and 2 share a
    partition."""
    assert invoke(*RUN).exit_code == 0
    done = invoke(*RESET, "--yes", *options)
    assert done.exit_code == 0, done.output
    Path("t.db").unlink()
    assert invoke(*RUN).exit_code == 0
    assert {shop: n for shop, (_, n) in table().items()} == want


def test_it_can_be_looked_at_first():
    assert invoke(*RUN).exit_code == 0
    with opened() as log:
        topics = log.topics()
        at = log.committed("shops", [("orders", 0)])
    looked = invoke(*RESET, "--dry-run", "--to-latest", "--topic", "orders=earliest")
    assert looked.exit_code == 0, looked.output
    said = looked.stdout
    assert "orders [0]: 8 -> 0" in said
    assert "shops-totals-repartition" in said
    assert "positions in the target are forgotten. Rows stay" in said
    asked = invoke(*RESET)
    assert asked.exit_code == 2
    assert "nothing was done" in asked.stderr
    with opened() as log:
        assert log.topics() == topics
        assert log.committed("shops", [("orders", 0)]) == at
    assert positions()
    assert Path("state/shops").exists()
    assert invoke(*RUN).exit_code == 0, "it goes on as if nothing had been"


def test_sinks_may_be_kept():
    assert invoke(*RUN).exit_code == 0
    before = positions()
    no_sql = [part for part in RESET if not part.startswith(("--sql", "sqlite"))]
    refused = invoke(*no_sql, "--yes")
    assert refused.exit_code == 2
    assert "give --keep-sinks" in refused.stderr
    done = invoke(*no_sql, "--yes", "--keep-sinks")
    assert done.exit_code == 0, done.output
    assert positions() == before
    with opened() as log:
        assert any(topic.endswith("-sink") for topic in log.topics())
        send(log, [("s0", 100, 0)])
    assert invoke(*RUN).exit_code == 0
    assert table()["s0"] == (118, 5)
    assert sum(positions().values()) > sum(before.values())


@pytest.mark.parametrize("step", ["reset_group", "delete_topics", "delete_topics again"])
def test_a_reset_that_broke_off_lets_nobody_start(step: str, monkeypatch: pytest.MonkeyPatch):
    assert invoke(*RUN).exit_code == 0
    name, _, again = step.partition(" ")
    whole = getattr(EmbeddedLog, name)
    calls = 0

    def broken(self: EmbeddedLog, *given: object) -> None:
        nonlocal calls
        calls += 1
        if calls > bool(again):
            raise KeyboardInterrupt
        whole(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedLog, name, broken)
        assert invoke(*RESET, "--yes").exit_code != 0
    for command in (RUN, ("topics", "check", "shops:shops", "--log", "dir:log")):
        refused = invoke(*command)
        assert refused.exit_code == 2, refused.output
        assert "a reset of `shops` was begun and did not come to its end" in refused.stderr
    assert invoke(*RESET, "--yes").exit_code == 0
    with opened() as log:
        assert not [topic for topic in log.topics() if topic.startswith("shops-") and topic not in LEFT]
    Path("t.db").unlink()
    assert invoke(*RUN).exit_code == 0
    assert table() == {"s0": (18, 4), "s1": (22, 4), "s2": (26, 4)}


LEFT = ("shops-notes", "shops-2-0-changelog")


def test_what_the_topology_does_not_name_any_more_is_deleted_too():
    """The names are those of the topology that ran; `APP-topology` has them."""
    assert invoke(*RUN).exit_code == 0
    Path("shops.py").write_text(JOB.replace('named("totals")', 'named("sums")'))
    __import__("sys").modules.pop("shops", None)
    assert "is called" in invoke(*RUN).stderr
    done = invoke(*RESET, "--yes")
    assert done.exit_code == 0, done.output
    assert "shops-totals-repartition" in done.stdout
    assert invoke(*RUN).exit_code == 0


def test_it_is_refused_while_a_worker_runs():
    assert invoke(*RUN).exit_code == 0
    from adstream._core import Plan
    from adstream.cli.jobs import find

    built = find("shops:shops").build()
    description = __import__("json").loads(Plan(built.json, built.callables).describe())
    with opened() as log:
        leases = log.leases("shops", "shops-tasks")
        leases.start()
        with pytest.raises(ads_error(), match="`shops` runs: a worker of this process"):
            reset.plan(log, description, reset.Place("earliest"), {})
        leases.close()
        reset.plan(log, description, reset.Place("earliest"), {})


def ads_error() -> type[Exception]:
    from adstream.errors import ConfigError

    return ConfigError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to-earliest", "--to-latest"], "give one of"),
        (["--to-datetime", "yesterday"], "`yesterday` is not a time"),
        (["--to-datetime", "2026-01-15T10:00:00"], "has no time zone"),
        (["--topic", "orders"], "is not NAME=WHERE"),
        (["--topic", "ordres=latest"], "`ordres` is no input of `shops`"),
        (["--topic", "orders=soon"], "write earliest, latest, keep, +N or -N records, or a time"),
        (["--internal-topic", "orders"], "`orders` is no internal topic"),
    ],
)
def test_what_is_wrong_is_said(options: list[str], said: str):
    refused = invoke(*RESET, "--yes", *options)
    assert refused.exit_code == 2, refused.output
    assert said in refused.stderr
