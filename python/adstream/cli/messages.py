"""Log lines on stderr: text for people, JSON for machines."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime

from adstream.errors import ConfigError
from adstream.runtime.supervisor import JOB

_LEVELS = (logging.INFO, logging.DEBUG)


def configure(verbose: int = 0, form: str = "text", *, quiet: bool = False) -> None:
    """`quiet`: errors only, unless more is asked for."""
    handler = logging.StreamHandler(sys.stderr)
    job, slot = os.environ.get(JOB), os.environ.get("ADSTREAM_SLOT")
    if form == "json":
        handler.setFormatter(JsonFormatter(slot, job))
    elif form == "text":
        worker = (f" {job}" if job else "") + (f" worker {slot}" if slot else "")
        handler.setFormatter(logging.Formatter(f"%(asctime)s{worker} %(levelname)-7s %(name)s: %(message)s"))
    else:
        raise ConfigError(f"`{form}` is neither text nor json", option="--log-format")
    ours = logging.getLogger("adstream")
    ours.handlers[:] = [handler]
    ours.propagate = False
    ours.setLevel(logging.ERROR if quiet and not verbose else _LEVELS[min(verbose, len(_LEVELS) - 1)])
    # librdkafka says every failed attempt to connect, hundreds in a second; the worker itself says what that means.
    logging.getLogger("adstream.kafka").setLevel(logging.NOTSET if verbose else logging.WARNING)


class JsonFormatter(logging.Formatter):
    def __init__(self, slot: str | None = None, job: str | None = None) -> None:
        super().__init__()
        self._whose = {name: said for name, said in (("job", job), ("worker", slot)) if said is not None}

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._whose,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
