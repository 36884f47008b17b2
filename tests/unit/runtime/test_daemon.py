"""The thread that nobody waits for."""

import subprocess
import sys
from concurrent.futures import CancelledError

import pytest

from adstream.runtime.daemon import DaemonExecutor


def test_calls_run_in_order_and_tell_what_came() -> None:
    executor, seen = DaemonExecutor("test"), []
    first = executor.submit(seen.append, 1)
    second = executor.submit(lambda: 1 // 0)
    third = executor.submit(lambda: [*seen, 2])
    assert first.result(10) is None
    with pytest.raises(ZeroDivisionError):
        second.result(10)
    assert third.result(10) == [1, 2]
    executor.shutdown()


def test_what_waits_is_cancelled() -> None:
    import threading

    executor, go, began = DaemonExecutor("test"), threading.Event(), threading.Event()
    under_way = executor.submit(lambda: (began.set(), go.wait(10)))
    waiting = executor.submit(lambda: 1)
    assert began.wait(10)
    executor.shutdown(wait=False, cancel_futures=True)
    go.set()
    assert under_way.result(10) == (None, True)
    with pytest.raises(CancelledError):
        waiting.result(10)


def test_a_process_does_not_wait_for_a_call_that_never_ends() -> None:
    program = "import time; from adstream.runtime.daemon import DaemonExecutor as E; E('x').submit(time.sleep, 1000)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
