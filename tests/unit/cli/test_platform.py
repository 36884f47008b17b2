"""`adstream run ads`: several jobs with the options of one. That they run: `tests/integration/ads`."""

from __future__ import annotations

import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from adstream import Built
from adstream.cli.jobs import find
from adstream.cli.options import RunOptions, parse
from adstream.cli.platform import arguments, defaults, supervise
from adstream.jobs.ads.platform import CONNECTIONS, JOBS
from adstream.runtime.settings import Settings, load
from adstream.runtime.supervisor import Program
from tests.unit.cli.support import invoke


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_worker_is_given_what_was_said_but_what_is_its_own() -> None:
    where = ["--bootstrap", "h:1", "-X", "kafka.a.b=c=d", "--config", "c.toml"]
    targets = ["--sql", "sqlite:///a b.db", "--sql", "ledger=postgresql://x", "--state-dir", "s"]
    parsed = parse(RunOptions, [*where, *targets, "--commit-interval", "50ms"])
    assert parsed is not None
    options = replace(parsed[1], workers=3, metrics_port=9100, create_topics=True, stop_at_end=False, verbose=2)
    switches = ["--create-topics", "--verbose", "--verbose"]
    assert sorted(arguments(options)) == sorted([*where, *targets, "--commit-interval", "50ms", *switches])
    again = parse(RunOptions, [a for a in arguments(options) if a not in switches])
    assert again is not None
    assert again[1] == parsed[1]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--set", "grace=1s"], "--set"),
        (["--app", "mine"], "--app"),
        (["--input", "ad-events=x.jsonl"], "--input"),
        (["--from", "jsonl:ad-events=x.jsonl"], "--from"),
        (["--log", "dir:here"], "--log"),
        (["--log", "memory:"], "--log"),
    ],
)
def test_what_is_of_one_job_is_refused(given: list[str], named: str) -> None:
    where = [] if named == "--log" else ["--bootstrap", "127.0.0.1:1"]
    refused = invoke("replay" if named == "--from" else "run", "ads", *where, *given)
    assert refused.exit_code == 2
    assert named in refused.stderr


def test_which_log_has_to_be_said() -> None:
    refused = invoke("run", "ads")
    assert (refused.exit_code, "--log" in refused.stderr) == (2, True)


@pytest.mark.parametrize("command", [["describe"], ["doctor", "--bootstrap", "127.0.0.1:1"], ["upgrade", "check"]])
def test_what_is_asked_of_one_job_names_them(command: list[str]) -> None:
    verb, *more = command
    refused = invoke(verb, *more[:1], "ads") if verb == "upgrade" else invoke(verb, "ads", *more)
    assert refused.exit_code == 2
    assert "`ads` is several jobs" in refused.stderr
    assert "`ads.clicks`, `ads.duplicates`" in refused.stderr


def test_who_stops_one_of_them_in_turn_stops_them_all(tmp_path: Path) -> None:
    """The others began after Ctrl-C, one by one."""
    ready = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
pathlib.Path(sys.argv[1]).touch()
"""
    programs = [
        Program([sys.executable, "-c", ready + rest, str(tmp_path / name)], 1, name)
        for name, rest in (("first", ""), ("second", "time.sleep(60)"), ("third", ""))
    ]

    def interrupt() -> None:
        while not (tmp_path / "second").exists():
            time.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert supervise(programs, 30, in_turn=True) == 0
    thread.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_jobs_have_settings_of_their_own_where_nobody_says_another() -> None:
    for job in JOBS:
        told = defaults(job.settings, Settings())
        assert told == {f"ADSTREAM_{key.upper()}": value for key, value in job.settings.items()}
        assert load(environ=told) != Settings(), "a worker takes them"
        said = defaults(job.settings, Settings(commit_interval_ms=70, flush_every_ms=2_000))
        assert said == {}
    ranking = next(job for job in JOBS if job.name == "ads.ranking")
    assert defaults(ranking.settings, Settings(commit_interval_ms=70)) == {"ADSTREAM_FLUSH_EVERY": "20ms"}


def written_by(built: Built) -> set[str]:
    return {node["topic"] for node in built.plan["nodes"] if node["op"] == "to_topic"}


def test_jobs_are_there_and_each_is_behind_those_that_write_for_it() -> None:
    every = [find(job.name).build() for job in JOBS]
    outputs = set[str]().union(*map(written_by, every))
    assert {"ad-clicks", "compensation-events", "ad-ledger", "product-metrics"} <= outputs
    written: set[str] = set()
    for job, built in zip(JOBS, every, strict=True):
        # What the ledger says of a campaign it need not hear itself.
        missing = (set(built.inputs) & outputs) - written - written_by(built)
        assert not missing, job.name
        written |= written_by(built)
    assert set(CONNECTIONS.values()) == {"sql"}
