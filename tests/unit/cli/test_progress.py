"""What a run that stops at the end shows of itself."""

from collections.abc import Sequence

import pytest

import adstream as ads
from adstream.cli.progress import ASKED_MAX, Progress
from adstream.errors import LogUnavailableError
from adstream.interfaces import Outcome, TopicPartition, TopicSpec
from adstream.logs.embedded import EmbeddedLog


class Held(EmbeddedLog):
    """A transaction holds positions back for so many questions."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def committed(self, group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
        self.times -= 1
        if self.times >= 0:
            raise LogUnavailableError("a transaction has held back offsets in app for 5 s")
        return super().committed(group, partitions)


def held(times: int) -> tuple[Held, ads.Built]:
    log = Held(times)
    log.create_topics([TopicSpec("in", 1)])
    assert log.writer("w").commit([], {("in", 0): 0}, "app", None) is Outcome.COMMITTED
    built = ads.topology(name="app")(lambda app: app.stream("in").to("out")).build()
    return log, built


def test_a_killed_workers_transaction_is_waited_out() -> None:
    log, built = held(ASKED_MAX - 1)
    assert Progress(log, built, bars=False).passed == 0
    assert log.times == -1


def test_not_for_ever() -> None:
    log, built = held(ASKED_MAX)
    with pytest.raises(LogUnavailableError):
        Progress(log, built, bars=False)
