"""Traps of librdkafka: one that is not there, or is something else; and two of its defaults: what a reader's client says of
its own configuration, not what we meant to give it. (The native reader's client is given the same settings, but its log
goes elsewhere.)"""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from adstream.errors import ConfigError
from adstream.logs import kafka_client, kafka_reader
from adstream.logs.kafka import KafkaLog
from adstream.logs.kafka_reader import open_reader


def configuration(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """A client prints what is not its default when it is made."""
    open_reader("portable", {"bootstrap.servers": "127.0.0.1:1", "debug": "conf"}, headers=False).close()
    return [line.rpartition("]:")[2].strip() for line in capfd.readouterr().err.splitlines()]


def test_a_full_queue_does_not_stop_fetching_for_a_second(capfd: pytest.CaptureFixture[str]) -> None:
    assert "fetch.queue.backoff.ms = 2" in configuration(capfd)


def test_caught_up_partitions_do_not_hold_the_fetch_in_flight(capfd: pytest.CaptureFixture[str]) -> None:
    assert "fetch.wait.max.ms = 20" in configuration(capfd)


def test_a_client_without_the_library_is_told_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's package, or a build from source: it has none beside it."""
    there = ModuleSpec("confluent_kafka", None, origin=str(tmp_path / "confluent_kafka" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there)
    with pytest.raises(ConfigError, match=r"no librdkafka of its own\nhint: install its wheel"):
        kafka_client.library()


def test_what_is_no_such_library_is_told_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "librdkafka.so.1"
    other.write_bytes(b"something else")
    monkeypatch.setattr(kafka_reader, "library", lambda: str(other))
    with pytest.raises(ConfigError, match=rf"cannot use {other} as librdkafka: .*force-reinstall confluent-kafka"):
        open_reader("native", {"bootstrap.servers": "127.0.0.1:1"}, headers=False)


@pytest.mark.parametrize(("name", "value"), [("securty.protocol", "ssl"), ("session.timeout.ms", "-1")])
def test_a_setting_that_the_client_does_not_take_is_named_as_it_was_given(name: str, value: str) -> None:
    """It was said to be `kafka`, and nothing more."""
    with pytest.raises(ConfigError) as error:
        KafkaLog("127.0.0.1:1", {f"kafka.{name}": value}, connect_timeout_s=0.01)
    assert error.value.option == f"kafka.{name}"
    assert error.value.hint is not None
