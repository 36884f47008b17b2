"""`adstream topics create|check ads`: the topics of a group of jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from adstream.interfaces import TopicSpec
from adstream.jobs.ads.topics import TOPICS
from adstream.logs.embedded import EmbeddedLog
from tests.unit.cli.support import invoke


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_they_are_created_with_their_partitions_and_retention():
    created = invoke("topics", "create", "ads", "--log", "dir:log")
    assert created.exit_code == 0, created.output
    assert created.stdout.count("created") == len(TOPICS)
    log = EmbeddedLog(Path("log"))
    try:
        counts = log.partitions([topic.name for topic in TOPICS])
        settings = log.topic_settings(["conversion-events", "ad-events"])
    finally:
        log.close()
    assert (counts["ad-events"], counts["conversion-events"], counts["compensation-events"]) == (8, 8, 4)
    assert settings["conversion-events"]["retention.ms"] == str(3 * 24 * 3600 * 1000)
    assert settings["ad-events"]["retention.ms"] == str(7 * 24 * 3600 * 1000)


def test_for_events_of_long_ago_nothing_is_deleted():
    """A broker deletes by the time of records, which is that of the events."""
    assert invoke("topics", "create", "ads", "--keep-all", "--log", "dir:log").exit_code == 0
    log = EmbeddedLog(Path("log"))
    try:
        settings = log.topic_settings([topic.name for topic in TOPICS])
    finally:
        log.close()
    assert {found["retention.ms"] for found in settings.values()} == {"-1"}
    refused = invoke("topics", "create", "ads.clicks", "--keep-all", "--log", "dir:log")
    assert (refused.exit_code, "--keep-all" in refused.stderr) == (2, True)


def test_what_is_there_stays():
    invoke("topics", "create", "ads", "--log", "dir:log")
    again = invoke("topics", "create", "ads", "--log", "dir:log")
    assert (again.exit_code, again.stdout.count("there")) == (0, len(TOPICS))
    assert invoke("topics", "check", "ads", "--log", "dir:log").exit_code == 0


def test_other_partition_counts_are_wrong():
    log = EmbeddedLog(Path("log"))
    log.create_topics([TopicSpec("conversion-events", 4)])
    log.close()
    checked = invoke("topics", "check", "ads", "--log", "dir:log")
    assert checked.exit_code == 2
    assert "wrong: `conversion-events` has 4 partitions, not 8" in checked.stderr
    assert "`adstream topics create ads` makes them" in checked.stderr


def test_what_is_joined_by_device_has_as_many_partitions():
    assert {topic.partitions for topic in TOPICS if topic.key == "device_id"} == {8}
