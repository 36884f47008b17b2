"""Several workers on one machine, of one job or of several: a process each, started again when one dies.

    exit code of a worker      what is done
    0  it is finished          not started again; when all are, so is the supervisor (0)
    2  a setting is wrong      starting again would not help: the others are stopped, 2. Unless one has run for a minute:
                               then the settings were right, and a server is away (which says 2 at a start, too)
    1  it cannot go on         in a run to the end, which ends so with one worker, too: the others are stopped, 1
    3  too many dead letters   starting again would not help: the others of its job are stopped, those of other jobs go on; at the
                               end 3
    4  `on_uncaught` stops it  not started again; the others go on (those that are told to stop, end with 4, too); at the end 4
    5  its drain timed out     it was stopped, so it is not started again; at the end 5
    anything else              started again after 1, 2, 4 … 60 s; a minute of good health sets that back to 1 s

SIGTERM and SIGINT are passed on; workers have `drain_timeout_s` to commit what they have, then they are killed
(nothing is lost: what was not committed is done again). Each worker knows itself by ADSTREAM_SLOT: the slot is part
of its transactional id, so a worker that is started again fences its former self and settles what that left open.

A supervisor that is killed takes its workers along (`end_with`): without it they would go on in slots that the next
supervisor gives to others, and both would fence each other for ever.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from adstream.errors import ExitCode

log = logging.getLogger(__name__)

HOPELESS: Mapping[int, str] = {ExitCode.WRONG: "a setting is wrong", ExitCode.TRIPPED: "too many dead letters"}
BACKOFF_FIRST_S, BACKOFF_MAX_S, HEALTHY_S = 1.0, 60.0, 60.0
POLL_S = 0.05
PARENT = "ADSTREAM_SUPERVISOR"
"""Tells a worker the supervisor's process id."""
JOB = "ADSTREAM_JOB"
"""Tells it its job's name, where there are several: for its log."""
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def end_with(supervisor: int) -> None:
    """Asks the kernel for a SIGTERM to this process when the supervisor, its parent, is gone, however it went. (Linux
    only; elsewhere workers of a supervisor that was killed have to be stopped by hand.)"""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:  # it was gone before
        os.kill(os.getpid(), signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Program:
    """A job's workers: `command` is run `workers` times.

    Each gets `ADSTREAM_SLOT`, `ADSTREAM_WORKERS=1` and `PARENT` in its environment, besides `environ`.
    """

    command: Sequence[str]
    workers: int = 1
    name: str = ""
    """For the logs, where there are several."""
    environ: Mapping[str, str] = field(default_factory=dict)
    to_the_end: bool = False
    """They stop at the end of the inputs: one that says that it cannot be reached would say so again."""


@dataclass(slots=True)
class _Child:
    program: Program
    slot: int
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    start_at_s: float = 0.0
    backoff_s: float = BACKOFF_FIRST_S
    finished: bool = False

    def __str__(self) -> str:
        return f"{self.program.name} worker {self.slot}".strip()


class Supervisor:
    """Runs the workers of some programs until all have ended."""

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        drain_timeout_s: float,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._environ = dict(environ)
        self._drain_timeout_s, self._clock, self._sleep = drain_timeout_s, clock, sleep
        self._children = [_Child(program, slot) for program in programs for slot in range(program.workers)]
        self._signal: int | None = None
        self._code = 0
        self._proven = False
        """Some worker was in good health: what is wrong later is not a setting."""

    @property
    def stopped(self) -> bool:
        """Somebody stopped it, or a wrong setting did: workers did not end by themselves."""
        return self._signal is not None

    def run(self) -> int:
        """Until all workers have ended; returns the exit code."""
        before = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            while self._signal is None and not all(child.finished for child in self._children):
                for child in self._children:
                    self._look_after(child)
                self._sleep(POLL_S)
            self._stop()
        finally:
            self._kill()
            for number, handler in before.items():
                signal.signal(number, handler)
        return self._code

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def _look_after(self, child: _Child) -> None:
        now = self._clock()
        if child.finished:
            return
        if child.process is None:
            if now >= child.start_at_s:
                told = {"ADSTREAM_SLOT": str(child.slot), "ADSTREAM_WORKERS": "1", PARENT: str(os.getpid())}
                told |= {JOB: child.program.name} if child.program.name else {}
                environ = {**self._environ, **child.program.environ, **told}
                child.process = subprocess.Popen(child.program.command, env=environ)
                child.started_s = now
            return
        code = child.process.poll()
        self._proven |= now - child.started_s >= HEALTHY_S
        if code is None:
            return
        child.process = None
        if code in (0, ExitCode.UNCAUGHT, ExitCode.UNDRAINED):
            child.finished = True
            self._code = self._code or code
        elif code == ExitCode.WRONG and not self._proven:
            log.error("%s: %s; stopping", child, HOPELESS[code])
            child.finished = True
            self._signal, self._code = signal.SIGTERM, code
        elif code == ExitCode.FAILED and child.program.to_the_end:
            log.error("%s cannot go on to the end; stopping", child)
            child.finished = True
            self._signal, self._code = signal.SIGTERM, code
        elif code == ExitCode.TRIPPED:
            log.error("%s: %s; stopping all of its job", child, HOPELESS[code])
            self._code = code
            for other in self._children:
                if other.program is child.program:
                    other.finished = True
                    if other.process is not None:
                        other.process.terminate()
        else:
            if now - child.started_s >= HEALTHY_S:
                child.backoff_s = BACKOFF_FIRST_S
            log.error("%s ended with %d; starting it again in %.0f s", child, code, child.backoff_s)
            child.start_at_s = now + child.backoff_s
            child.backoff_s = min(child.backoff_s * 2, BACKOFF_MAX_S)

    def _stop(self) -> None:
        alive = [child.process for child in self._children if child.process is not None]
        for process in alive:
            process.terminate()
        until = self._clock() + self._drain_timeout_s
        while self._clock() < until and any(process.poll() is None for process in alive):
            self._sleep(POLL_S)
        for process in alive:
            code = process.poll()
            if code is None:
                log.error("worker %d did not stop in %.0f s; killed", process.pid, self._drain_timeout_s)
            if code not in (0, -signal.SIGTERM):
                self._code = self._code or (code if code == ExitCode.UNDRAINED else ExitCode.FAILED)

    def _kill(self) -> None:
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                child.process.kill()
                child.process.wait()
