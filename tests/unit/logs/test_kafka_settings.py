"""Two traps of librdkafka's defaults: what a reader's client says of its own configuration, not what we meant to give it.
(The native reader's client is given the same settings, but its log goes elsewhere.)"""

import pytest

from adstream.logs.kafka_reader import open_reader


def configuration(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """A client prints what is not its default when it is made."""
    open_reader("portable", {"bootstrap.servers": "127.0.0.1:1", "debug": "conf"}, headers=False).close()
    return [line.rpartition("]:")[2].strip() for line in capfd.readouterr().err.splitlines()]


def test_a_full_queue_does_not_stop_fetching_for_a_second(capfd: pytest.CaptureFixture[str]) -> None:
    assert "fetch.queue.backoff.ms = 2" in configuration(capfd)


def test_caught_up_partitions_do_not_hold_the_fetch_in_flight(capfd: pytest.CaptureFixture[str]) -> None:
    assert "fetch.wait.max.ms = 20" in configuration(capfd)
