"""`adstream generate market`: traffic for the whole ads platform, in stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adstream.jobs.ads.market import Market
from adstream.jobs.ads.market_truth import compute
from adstream.logs.embedded import EmbeddedLog
from tests.unit.cli.support import invoke
from tests.unit.jobs.test_market import all_of, logs_of


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def generate(stage: str, *more: str) -> tuple[int, str, str]:
    found = invoke("generate", "market", "--stage", stage, "--events", "3000", "--seed", "3", "--out", "dir:log", *more)
    return found.exit_code, found.stdout, found.stderr


def test_three_stages_are_one_market_and_the_truth_is_beside_it() -> None:
    for stage in ("opening", "day", "closing"):
        code, out, err = generate(stage)
        assert code == 0, err
        assert "records of" in out
    market = Market(seed=3, events=3000)
    wanted = {topic: len(records) for topic, records in logs_of(all_of(market)).items() if records}
    log = EmbeddedLog(Path("log"))
    try:
        counts = log.partitions(list(wanted))
        ends = {topic: log.end_offsets([(topic, p) for p in range(counts[topic])], committed=True) for topic in wanted}
    finally:
        log.close()
    assert {topic: sum(found.values()) for topic, found in ends.items()} == wanted
    said, truth = json.loads(Path("market-truth.json").read_text()), compute(logs_of(all_of(market)))
    assert said["balances"]["advertiser_07"]["available"] == str(truth.balances["advertiser_07"].available)
    assert len(said["credits"]) == len(truth.credits)
    assert said["duplicates"] == sorted(truth.duplicates)
    assert {row["window_start"][-1] for row in said["net"]} == {"Z"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("noon",), "there is no stage `noon`"),
        (("day", "--advertisers", "3"), "advertisers must be at least 10"),
        (("day", "--out", "memory:"), "--out"),
    ],
)
def test_what_cannot_be_is_said(arguments: tuple[str, ...], says: str) -> None:
    code, _, err = generate(*arguments)
    assert (code, says in err) == (2, True), err


def test_a_market_begins_where_nothing_is() -> None:
    assert generate("opening")[0] == 0
    code, _, err = generate("opening")
    assert (code, "`ad-payments` has records already" in err) == (2, True)
