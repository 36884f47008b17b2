"""`adstream query`: what workers have of a store, as committed, by their HTTP (`runtime/routing.py`)."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import typer

from adstream.errors import ConfigError

PAGE = 1000
TIMEOUT_S = 10
MOVING, ATTEMPTS, PAUSE_S = 503, 10, 0.5
"""While tasks move there is no whole answer."""


def show(store: str, workers: list[str], asked: Mapping[str, str | None], limit: int) -> None:
    """Each entry as a line of JSON. One worker is asked for all that the application has; several, each for its own
    part."""
    given = {name: value for name, value in asked.items() if value is not None}
    if len(workers) > 1:
        given["local"] = "1"
    told = 0
    for worker in workers:
        for entry in _entries(worker, store, given):
            if told == limit:
                return
            typer.echo(json.dumps(entry, ensure_ascii=False))
            told += 1


def _entries(worker: str, store: str, given: Mapping[str, str]) -> Iterator[Any]:
    mark: str | None = None
    while True:
        more = {} if mark is None else {"after": mark}
        page = _get(worker, f"/stores/{urllib.parse.quote(store, safe='')}", {**given, "limit": str(PAGE), **more})
        yield from page["entries"]
        mark = page.get("next")
        if mark is None:
            return


def _get(worker: str, path: str, given: Mapping[str, str]) -> Any:
    base = worker if "://" in worker else f"http://{worker}"
    url = f"{base.rstrip('/')}{path}?{urllib.parse.urlencode(given)}"
    try:
        for left in reversed(range(ATTEMPTS)):
            try:
                with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                if error.code != MOVING or not left:
                    raise
                error.close()
                time.sleep(PAUSE_S)
    except urllib.error.HTTPError as error:
        with error:
            body = error.read().decode(errors="replace")
        try:
            text = json.loads(body)["error"]
        except (ValueError, KeyError, TypeError):
            text = f"{base} answers {error.code}: no worker with stores"
        raise ConfigError(text, option="query", hint="`/stores` of a worker lists its stores") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            f"{base} does not answer: {reason}",
            option="--at",
            hint="workers started with `--metrics-port 9100` answer at `--at localhost:9100`",
        ) from None
