"""`adstream rules`: what is said of rules while a job runs, on a log in a directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adstream._core import RawBatch
from adstream.interfaces import Outcome
from adstream.logs.embedded import EmbeddedLog
from tests.unit.cli.support import call

JOB = """
import adstream as ads


class Event(ads.Record):
    k: str
    t: str


@ads.topology
def fraud(app: ads.App) -> None:
    found = app.stream("in", schema=Event).group_by("k").match(app.rules("fraud-rules"), max_delay="0s")
    found.select(rule=ads.rule("id"), version=ads.rule("version"), k=ads.col("k")).to("out", key="k")


@ads.topology
def none(app: ads.App) -> None:
    app.stream("in", schema=Event).to("out")
"""
PAIR = "a (t = 'a') -> b (t = 'b') within 10s"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(JOB)
    return tmp_path


def rules(folder: Path, *arguments: str, job: str = "shop:fraud") -> tuple[int, str, str]:
    verb, *rest = arguments
    return call("rules", verb, job, *rest, "--log", f"dir:{folder / 'log'}", cwd=folder)


def listed(folder: Path) -> list[dict[str, object]]:
    code, out, err = rules(folder, "list", "--json")
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_put_list_disable_enable_remove(folder: Path) -> None:
    (folder / "log").mkdir()
    assert "version 1" in rules(folder, "put", "pair", "--pattern", PAIR)[1]
    (folder / "pair.txt").write_text(PAIR + "\n")
    assert "version 2" in rules(folder, "put", "pair", "--file", "pair.txt", "--from", "2026-01-15T10:00:00Z")[1]
    (rule,) = listed(folder)
    assert (rule["id"], rule["version"], rule["pattern"], rule["wrong"]) == ("pair", 2, PAIR, None)
    assert rule["from"] == 1768471200000
    assert "from 2026-01-15T10:00:00Z" in rules(folder, "list")[1]
    assert "disabled" in rules(folder, "disable", "pair", "--drop")[1]
    (rule,) = listed(folder)
    assert (rule["enabled"], rule["running"], rule["version"], "from" in rule) == (False, "drop", 2, False)
    assert "disabled" in rules(folder, "list")[1]
    rules(folder, "enable", "pair")
    assert listed(folder)[0]["enabled"] is True
    assert "removed" in rules(folder, "remove", "pair")[1]
    assert listed(folder) == []
    assert "no rules" in rules(folder, "list")[1]


@pytest.mark.parametrize(
    ("arguments", "job", "said"),
    [
        (("put", "r", "--pattern", "a (nothing = 1)"), "shop:fraud", "nothing"),
        (("put", "r", "--pattern", "a ("), "shop:fraud", "malformed_pattern"),
        (("put", "r"), "shop:fraud", "--pattern"),
        (("put", "r", "--file", "missing.txt"), "shop:fraud", "missing.txt"),
        (("put", "r", "--pattern", PAIR, "--from", "noon"), "shop:fraud", "--from"),
        (("put", "r", "--pattern", PAIR, "--topic", "other"), "shop:fraud", "--topic"),
        (("put", "r", "--pattern", PAIR), "shop:none", "looks for no rules"),
        (("list",), "shop:fraud", "there is no topic `fraud-rules`"),
    ],
)
def test_misuse_is_told_with_its_option_and_nothing_is_written(
    folder: Path, arguments: tuple[str, ...], job: str, said: str
) -> None:
    (folder / "log").mkdir()
    code, out, err = rules(folder, *arguments, job=job)
    assert code != 0
    assert said in err
    assert "Traceback" not in err
    assert "version" not in out


def test_who_is_not_there_cannot_be_disabled_and_versions_grow(folder: Path) -> None:
    (folder / "log").mkdir()
    rules(folder, "put", "pair", "--pattern", PAIR, "--version", "7")
    code, _, err = rules(folder, "disable", "other")
    assert code != 0
    assert "`pair`" in err
    code, _, err = rules(folder, "put", "pair", "--pattern", PAIR, "--version", "7")
    assert code != 0
    assert "--version" in err


def test_topics_create_makes_a_topic_of_one_partition(folder: Path) -> None:
    (folder / "log").mkdir()
    log = f"dir:{folder / 'log'}"
    code, _, err = call("topics", "create", "shop:fraud", "--inputs", "3", "--log", log, cwd=folder)
    assert code == 0, err
    assert "version 1" in rules(folder, "put", "pair", "--pattern", PAIR)[1]
    made = EmbeddedLog(folder / "log")
    assert made.partitions(["in", "fraud-rules"]) == {"in": 3, "fraud-rules": 1}
    made.close()


def test_a_topic_that_was_made_again_while_nobody_ran_is_told(folder: Path) -> None:
    """How far a task has heard is part of its state: it would go on with rules that are no more, deaf to new ones."""
    (folder / "log").mkdir()
    log = f"dir:{folder / 'log'}"
    assert call("topics", "create", "shop:fraud", "--inputs", "1", "--log", log, cwd=folder)[0] == 0
    for rule in ("r0", "r1"):
        rules(folder, "put", rule, "--pattern", PAIR)
    assert call("run", "shop:fraud", "--stop-at-end", "--log", log, cwd=folder)[0] == 0
    made = EmbeddedLog(folder / "log")
    made.delete_topics(["fraud-rules"])
    made.close()
    rules(folder, "put", "other", "--pattern", PAIR)
    code, _, err = call("run", "shop:fraud", "--stop-at-end", "--log", log, cwd=folder)
    assert code == 2, err
    assert "`fraud-rules` was deleted and made again" in err


def foreign(folder: Path, value: bytes | None) -> None:
    """Said by somebody else."""
    log = EmbeddedLog(folder / "log")
    outputs = [("fraud-rules", 0, RawBatch([(0, 1, b"pair", value, [])]))]
    assert log.writer("foreign").commit(outputs, {}, "foreign", None) is Outcome.COMMITTED
    log.close()


@pytest.mark.parametrize(
    "value",
    [
        b"{",
        b'{"version": "x"}',
        b'{"version": 1e400}',
        b'{"version": 2, "pattern": "a (t = \'a\')"}',
        b'{"version": 3, "pattern": "a (t = \'a\')"}',
        b'{"version": 4, "pattern": "a (gone = 1)"}',
        b'{"version": 4, "pattern": "a (t = \'\\ud800\')"}',
        b'{"removed": true, "why": "not"}',
        b"[" * 100_000,
    ],
    ids=range(9),
)
def test_what_tasks_refuse_is_not_taken_for_what_they_know(folder: Path, value: bytes) -> None:
    (folder / "log").mkdir()
    rules(folder, "put", "pair", "--pattern", PAIR, "--version", "3")
    foreign(folder, value)
    (rule,) = listed(folder)
    assert (rule["version"], rule["pattern"], rule["wrong"]) == (3, PAIR, None)
    assert rule["refused"]
    assert "a later record is refused" in rules(folder, "list")[1]
    assert "disabled" in rules(folder, "disable", "pair")[1]
    (rule,) = listed(folder)
    assert (rule["version"], rule["enabled"], rule["pattern"]) == (3, False, PAIR)
    assert "version 4" in rules(folder, "put", "pair", "--pattern", PAIR)[1]
    assert "removed" in rules(folder, "remove", "pair")[1]
    assert listed(folder) == []


def test_a_rule_that_the_job_cannot_look_for_any_more_is_disabled_and_removed(folder: Path) -> None:
    (folder / "log").mkdir()
    rules(folder, "put", "pair", "--pattern", PAIR)
    (folder / "shop.py").write_text(JOB.replace("t: str", "u: str"))
    assert "not looked for" in rules(folder, "list")[1]
    assert "disabled" in rules(folder, "disable", "pair")[1]
    code, _, err = rules(folder, "enable", "pair")
    assert (code != 0, "Traceback" in err) == (True, False)
    assert "removed" in rules(folder, "remove", "pair")[1]
    assert listed(folder) == []
