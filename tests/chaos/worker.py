"""A worker of `ads.performance` that can be made to die, or to stand still, at a named place.

    ADSTREAM_TEST_CRASH=produce:7    SIGKILL to itself when it takes this step of a commit for the 7th time
    ADSTREAM_TEST_PAUSE=flush:3      SIGSTOP to itself there; somebody else wakes it

Steps are those of `adstream.runtime.commit`; `flush` is the moment before an SQL transaction commits, with everything
written and locks held.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from sqlalchemy import Engine, event

from adstream._core import Plan
from adstream.errors import AdstreamError, ConfigError
from adstream.jobs.ads.performance import performance
from adstream.logs.kafka import KafkaLog
from adstream.runtime.launch import run
from adstream.runtime.ports import Hooks
from adstream.runtime.settings import load
from adstream.runtime.worker import Worker

DELIVERED_S = 0.05
"""What was produced has reached the broker by then, so that the transaction is open there, too."""
HOOKS = (("ADSTREAM_TEST_CRASH", signal.SIGKILL), ("ADSTREAM_TEST_PAUSE", signal.SIGSTOP))


class Doom:
    """Counts the steps, and knows at which one something happens."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._planned: dict[tuple[str, int], signal.Signals] = {}
        for name, number in HOOKS:
            step, _, nth = os.environ.get(name, "").partition(":")
            if step:
                self._planned[step, int(nth)] = number

    def __call__(self, step: str) -> None:
        self._counts[step] += 1
        number = self._planned.pop((step, self._counts[step]), None)
        if number is not None:
            if step in ("offsets", "commit"):
                time.sleep(DELIVERED_S)
            logging.warning("doom: %s at %s:%d", number.name, step, self._counts[step])
            os.kill(os.getpid(), number)


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("--bootstrap", "--sql", "--redis", "--slot", "--guarantee", "--commit-interval", "--state-dir"):
        parser.add_argument(name)
    parser.add_argument("--flush-every", default="200ms")
    parser.add_argument("--drain-timeout")
    parser.add_argument("--purge-every")
    parser.add_argument("--standbys")
    parser.add_argument("--session-ms", type=int, default=2_000)
    parser.add_argument("--transaction-timeout-ms", default="10000")
    parser.add_argument("--stop-at-end", action="store_true")
    arguments = vars(parser.parse_args())
    stop_at_end, session_ms = arguments.pop("stop_at_end"), arguments.pop("session_ms")
    kafka = {"transaction.timeout.ms": arguments.pop("transaction_timeout_ms")}
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s: %(message)s")

    faulthandler.register(signal.SIGUSR1)  # where does it stand? Asked when a round does not end

    doom = Doom()
    event.listen(Engine, "commit", lambda connection: doom("flush"))
    settings = load({**arguments, "kafka": kafka})
    state = Path(settings.state_dir) / "here"
    state.touch()

    built = performance.build()
    worker: list[Worker] = []
    log: KafkaLog | None = None
    try:
        log = KafkaLog(settings.bootstrap, settings.kafka, session_ms=session_ms)
        plan = Plan(built.json, built.callables)
        run(plan, settings, log, hooks=Hooks(step=doom), stop_at_end=stop_at_end, on_start=worker.append)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except AdstreamError:
        logging.exception("failed")
        return 1
    finally:
        for one in worker:
            logging.info("commits %s, rows %d", dict(one.status.commits), one.status.rows)
        if log is not None:
            log.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
