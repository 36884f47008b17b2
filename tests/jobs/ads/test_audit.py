"""`adstream audit ads` and `adstream ads parked`: on a real ledger, whole and damaged."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner, Result

from adstream._core import RawBatch
from adstream.cli.commands import app as commands
from adstream.interfaces import Outcome, TopicSpec
from adstream.jobs.ads.audit import RULES, audit
from adstream.jobs.ads.compensation import compensation
from adstream.logs.embedded import EmbeddedLog
from adstream.testing import TopologyTestDriver
from tests.jobs.ads.money import Ledger, click, deposit, refund, terms

pytestmark = pytest.mark.servers


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands, list(arguments))


@pytest.fixture
def lived(ledger: Ledger) -> Ledger:
    """With a life behind it."""
    ledger.post(deposit(1, 5000), terms(1, 3600), *(click(n, 1200) for n in range(1, 6)))
    ledger.refund(refund("dup:2", 2, 1200), refund("dup:9", 9, 1200))
    ledger.post(click(6, 1200))
    return ledger


def test_a_ledger_that_nobody_touched_is_clean(lived: Ledger) -> None:
    done = run("audit", "ads", "--sql", lived.url)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == f"clean: {len(RULES)} rules hold"


DAMAGE = {
    "debits are credits in every posting": "UPDATE entry SET debit = debit + 1 WHERE (posting_seq, line) = (1, 1)",
    "entries belong to postings, and postings that moved money have entries": "DELETE FROM entry WHERE posting_seq = 3",
    "a balance is the sum of its entries and not negative": "UPDATE advertiser SET available = available + 1",
    "no balance was ever negative": "UPDATE entry SET debit = 6000 WHERE account = 'adv:A:available' AND debit > 0",
    "a balance is deposits less charges and refunds": "UPDATE posting SET amount = amount - 1 WHERE kind = 'DEPOSIT'",
    "the revenue is charges less refunds": "UPDATE entry SET credit = 1 WHERE account = 'platform:revenue' AND credit > 0",
    "refunds are within their charge": "UPDATE posting SET amount = 1201, requested = 1201 WHERE kind = 'REFUND'",
    "an advertiser's refunds are within the charges": "UPDATE posting SET amount = 0 WHERE kind = 'CHARGE'",
    "a day's spend is its charges less their refunds": "UPDATE campaign_day SET spend = spend + 1",
    "each charge kept its day within the budget in force": "UPDATE posting SET budget = 1000 WHERE kind = 'CHARGE'",
    "PAUSED and ACTIVE alternate": "UPDATE posting SET effects = effects || effects WHERE effects::text LIKE '%STATUS%'",
    "an alert is told once a day": "UPDATE posting SET effects = effects || effects WHERE effects::text LIKE '%ALERT%'",
    "no refund waits for a charge that is there": "UPDATE posting SET id = 'click:9' WHERE id = 'click:5'",
}


@pytest.mark.parametrize("rule", RULES)
def test_damage_is_found(lived: Ledger, rule: str) -> None:
    with psycopg.connect(lived.url, autocommit=True) as link:  # as nobody can but who owns the server
        link.execute("SET session_replication_role = replica; SET search_path = ads_ledger")
        if "budget in force" in rule:
            link.execute("ALTER TABLE posting DROP CONSTRAINT within_budget")
        link.execute(DAMAGE[rule])
    found = {f.rule: f for f in audit(lived.url)}
    assert found[rule].broken > 0
    assert found[rule].example
    done = run("audit", "ads", "--sql", f"ledger={lived.url}", "--json")
    assert done.exit_code == 1
    assert any(json.loads(line)["rule"] == rule and json.loads(line)["broken"] for line in done.output.splitlines())


def test_a_topic_that_tells_something_else_is_found(lived: Ledger, tmp_path: Path) -> None:
    told = [
        {"posting_id": r["id"], "status": r["status"], "amount": f"{r['amount']}.00", "balance": f"{r['balance']}.00"}
        for r in lived.query("SELECT * FROM ads_ledger.posting WHERE kind = 'CHARGE'")
    ]
    log = EmbeddedLog(tmp_path / "log")
    log.create_topics([TopicSpec("ad-ledger", 2)])

    def tell(partition: int, *values: dict[str, object]) -> None:
        rows = [(i, i, b"A", json.dumps(value).encode(), []) for i, value in enumerate(values)]
        assert log.writer("w").commit([("ad-ledger", partition, RawBatch(rows))], {}, "w", None) is Outcome.COMMITTED

    tell(0, *told)
    log.close()
    place = ("audit", "ads", "--sql", lived.url, "--log", f"dir:{tmp_path / 'log'}")
    done = run(*place)
    assert done.exit_code == 0
    assert "unseen  what `ads.ranking` says: there is no topic `rtb-ranking`" in done.output
    log = EmbeddedLog(tmp_path / "log")
    tell(1, told[0] | {"amount": "1.00"})
    log.close()
    done = run(*place)
    assert done.exit_code == 1
    assert "what `ad-ledger` tells is what is recorded: 1 times, as in click:" in done.output


def test_parked_refunds_are_listed_and_released(lived: Ledger, tmp_path: Path) -> None:
    done = run("ads", "parked", "list", "--sql", lived.url)
    assert done.output.splitlines()[-1] == "1 parked"
    assert "dup:9: 1200 of click:9 for A" in done.output
    [row] = [
        json.loads(line) for line in run("ads", "parked", "list", "--sql", lived.url, "--json").output.splitlines()
    ]
    assert (row["refund_id"], row["state"]) == ("dup:9", "WAITING")
    assert "--bootstrap" in run("ads", "parked", "release", "dup:9", "--sql", lived.url).output
    log = EmbeddedLog(tmp_path / "log")
    log.create_topics([TopicSpec("compensation-released", 4)])
    log.close()
    release = ("ads", "parked", "release", "dup:9", "dup:2", "--sql", lived.url, "--log", f"dir:{tmp_path / 'log'}")
    done = run(*release)
    assert done.output.splitlines() == [
        "dup:9: its charge is not there: it waits for another 24 hours",
        "dup:2: is not parked",
    ]
    lived.post(click(9, 0))
    assert run("ads", "parked", "list", "--sql", lived.url).output == "nothing is parked\n"


def test_a_refund_that_people_release_is_told(ledger: Ledger, tmp_path: Path) -> None:
    """Its charge came when it had waited too long: it is booked by hand, and whoever nets refunds hears of it."""
    log = EmbeddedLog(tmp_path / "log")
    log.create_topics([TopicSpec("compensation-released", 4)])
    log.close()
    ledger.post(deposit(1, 5000))
    yesterday = (datetime.now(UTC) - timedelta(hours=25)).isoformat()
    ledger._refund._opened().execute("SELECT set_config('ads_ledger.now', %s, false)", [yesterday])
    ledger.refund(refund("dup:9", 9, 1200))
    ledger.post(click(9, 1200))
    release = ("ads", "parked", "release", "dup:9", "--sql", ledger.url, "--log", f"dir:{tmp_path / 'log'}")
    assert run(*release).output == "dup:9: booked\n"
    assert run(*release).output == "dup:9: was booked, and is told again\n"
    log = EmbeddedLog(tmp_path / "log")
    told = []
    for p in range(4):
        reader = log.reader()
        reader.add("compensation-released", p, 0)
        while (batch := reader.read("compensation-released", p, 100)) is not None:
            told += [json.loads(record[3] or b"") for record in batch.records()]
        reader.close()
    log.close()
    assert len(told) == 2
    assert told[0] == told[1]
    assert {name: told[0][name] for name in ("refund_id", "advertiser_id", "refund_amount", "event_id")} == {
        "refund_id": "dup:9",
        "advertiser_id": "A",
        "refund_amount": "1200",
        "event_id": "9",
    }
    with TopologyTestDriver(compensation, partitions=1, connections={"ledger": ledger.url}) as driver:
        for row in told:
            driver.input("compensation-released").pipe(row)
        [applied] = driver.output("refund-applied").read()
    assert (applied.value["refund_id"], applied.value["status"]) == ("dup:9", "APPLIED")


def test_where_there_is_no_ledger_it_says_so(ledger: Ledger) -> None:
    with psycopg.connect(ledger.url, autocommit=True) as link:
        link.execute("DROP SCHEMA ads_ledger CASCADE")
    for command in (("audit", "ads"), ("ads", "parked", "list")):
        done = run(*command, "--sql", ledger.url)
        assert (done.exit_code, "has `ads.ledger` run there?" in done.output) == (2, True), done.output
    assert run("audit", "shop", "--sql", ledger.url).exit_code == 2
    assert run("audit", "ads", "--sql", "sqlite:///x").exit_code == 2
