"""The simulated log does what any log must do, by the very checks that the real broker passes."""

import inspect
import time
from collections.abc import Callable
from random import Random

import pytest

from adstream.testing.simulation.broker import NO_FAULTS, Broker, Faults, SimLog
from tests.logs.conformance import CHECKS

LATE = Faults(marker_ms=40, join_ms=(2, 40), learn_ms=30, short_read=0.5)
"""What a healthy broker does, too: markers and generations that come late."""


class Clock:
    """Goes on a millisecond at each look, so that nobody waits for ever."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.ticking: list[Callable[[], None]] = []

    def __call__(self) -> int:
        return self.now

    def wait(self, ms: int) -> None:
        for _ in range(max(1, ms)):
            self.now += 1
            for tick in self.ticking:
                tick()


@pytest.mark.parametrize("faults", [NO_FAULTS, LATE], ids=["quick", "late"])
@pytest.mark.parametrize("check", CHECKS.values(), ids=[name.removeprefix("check_") for name in CHECKS])
def test_simulated(check: Callable[..., None], faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    broker = Broker(clock, Random(1), faults)
    log = SimLog(broker, "test", clock.wait)
    clock.ticking += [broker.tick, log.turn]

    def pause(seconds: float) -> None:
        clock.wait(round(seconds * 1000))

    monkeypatch.setattr(time, "sleep", pause)
    if "pause" in inspect.signature(check).parameters:
        check(log, pause)
    else:
        check(log)


def test_there_is_something_to_check() -> None:
    assert len(CHECKS) >= 18
