"""`adstream upgrade check`: what is said of each part, and with which exit code; what it says is what a start does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from adstream.interfaces import TopicSpec
from adstream.logs.embedded import EmbeddedLog
from tests.unit.cli.support import invoke

JOB = """
import adstream as ads


class Order(ads.Record):
    shop: str
    amount: int


@ads.topology(name="shops")
def shops(app: ads.App) -> None:
    orders = app.stream("orders", Order)
    totals = orders.group_by("shop").aggregate(total=ads.sum("amount")).named("totals")
    totals.to_stream().to("totals")
    pay = app.stream("pay", key=ads.serdes.string)
    pay.group_by_key().count("counts").to_stream().to("counts", value=ads.serdes.int64)
"""
RUN = ("replay", "shops:shops", "--log", "dir:log")
CHECK = ("upgrade", "check", "shops:shops", "--log", "dir:log", "--json")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    job(JOB)
    log = EmbeddedLog("log", sync=False)
    log.create_topics([TopicSpec("orders", 2), TopicSpec("pay", 2), TopicSpec("more", 2)])
    log.close()


def job(text: str) -> None:
    Path("shops.py").write_text(text)
    sys.modules.pop("shops", None)


def told(*arguments: str) -> tuple[int, dict[tuple[str, str], str], list[dict[str, Any]]]:
    done = invoke(*(arguments or CHECK))
    found = json.loads(done.stdout)["findings"]
    return done.exit_code, {(f["kind"], f["name"]): f["verdict"] for f in found}, found


def test_what_has_not_run_has_nothing_to_say() -> None:
    assert told() == (0, {}, [])
    log = EmbeddedLog("log", sync=False)
    assert log.topics() == ["more", "orders", "pay"], "nothing is made"
    log.close()


SAME = {
    ("input", "orders"): "same",
    ("input", "pay"): "same",
    ("aggregate", "totals"): "same",
    ("store", "counts"): "same",
    ("shuffle", "totals"): "same",
}
PLAIN = '.to_stream().to("counts", value=ads.serdes.int64)'
AGAIN = '    pay.group_by_key().count("counts")'
TOTALS, COUNTS = ("aggregate", "totals"), ("store", "counts")
LAST = '    pay.group_by_key().reduce(lambda a, b: b, "last")\n'
MORE = '    app.stream("more", key=ads.serdes.string).to("counts")\n'
ROWS = '    totals.sink(ads.sinks.Sql("t", key=["shop"])).named("rows")\n'
CHANGES: list[tuple[str, str, str, dict[tuple[str, str], str], str]] = [
    ("nothing", "", "", {}, ""),
    ("no state", "totals.to_stream()", 'totals.to_stream().filter(ads.col("total") > 1)', {}, ""),
    ("renamed", 'named("totals")', 'named("sums")', {TOTALS: "refused"}, 'write `.named("totals")`'),
    ("changed", 'ads.sum("amount")', 'ads.max("amount")', {TOTALS: "refused"}, "put it back"),
    ("new state", AGAIN, LAST + AGAIN, {("store", "last"): "partial"}, "reset"),
    ("gone", AGAIN + PLAIN, '    pay.to("counts")', {COUNTS: "refused"}, "put `counts` back"),
    (
        "new input",
        AGAIN,
        MORE + AGAIN,
        {("topics", "topics"): "refused", ("input", "more"): "extended"},
        "--app shops-2",
    ),
    ("new sink", "    pay =", ROWS + "    pay =", {("sink", "rows"): "refused"}, ""),
]


@pytest.mark.parametrize(("what", "old", "new", "want", "hint"), CHANGES, ids=[change[0] for change in CHANGES])
def test_it_says_what_a_start_will_do(
    what: str, old: str, new: str, want: dict[tuple[str, str], str], hint: str
) -> None:
    assert invoke(*RUN).exit_code == 0
    assert JOB.count(old) == 1 or not old
    job(JOB.replace(old, new) if old else JOB)
    code, verdicts, findings = told()
    expected = {**SAME, **want}
    for kind, name in list(expected):
        if what in ("renamed", "gone") and (kind, name) not in want and name == next(iter(want))[1]:
            del expected[kind, name]  # its shuffle is said with it
    assert verdicts == expected
    refused = "refused" in want.values()
    assert code == (2 if refused else 0)
    changed = [f for f in findings if f["verdict"] in ("refused", "partial")]
    assert bool(changed) == bool(want)
    assert any(hint in f["remedy"] for f in changed) or not hint
    text = invoke(*CHECK[:-1])
    assert text.exit_code == code
    assert all(f["text"] in text.stdout for f in changed)
    start = invoke(*RUN, *(["--sql", "sqlite:///t.db"] if "sink" in what else []))
    assert start.exit_code == code, start.output


def test_a_topic_that_was_made_again_is_told() -> None:
    assert invoke(*RUN).exit_code == 0
    log = EmbeddedLog("log", sync=False)
    log.delete_topics(["orders"])
    log.create_topics([TopicSpec("orders", 2)])
    log.close()
    code, verdicts, findings = told()
    assert (code, verdicts) == (2, {**SAME, ("topics", "topics"): "refused"})
    [refused] = [f for f in findings if f["verdict"] == "refused"]
    assert "`orders` was deleted and made again" in refused["text"]
    assert "adstream reset" in refused["remedy"]
    assert invoke(*RUN).exit_code == code


def test_a_log_must_be_named() -> None:
    assert "which log?" in invoke("upgrade", "check", "shops:shops").stderr
