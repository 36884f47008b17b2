"""Stores over HTTP, of the whole application by asking any worker of it: what lies in tasks of others is asked from them.

    who owns a task    each worker says it in `APP-topology`, in the transaction of its own commits (`control.py`), with the
                       address at which it answers (`application_server`; Kafka Streams: `application.server`)
    one key            own tasks first, then each other worker with tasks of that store, until somebody has it
    many entries       task by task, in their order; the mark of a page is the task and the mark within it, so that a page
                       goes on where the last one ended though tasks have moved meanwhile

*Never half of it*: when a task of the store is being moved or restored, or its owner does not answer, the answer is 503
and says so: ask again. A worker that is asked for tasks (`tasks=`) which it does not have any more answers 409, so what has
moved in the very moment shows, too. Global tables are whole everywhere; their own worker answers.

    /stores/NAME?…             the whole store (parameters in `asking.py`)
    /stores/NAME?…&local=1     what lies in this worker
    /owners                    task -> address, as this worker knows it
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qs, quote, unquote, urlencode

from adstream.runtime import asking
from adstream.runtime.queries import Asked

TIMEOUT_S = 5
MOVING, GONE = 503, 409


class Routes(asking.Asks, Protocol):
    """A worker that knows of others."""

    store_tasks: Mapping[str, Sequence[int]]
    """Store -> its tasks; a store that is not here lies whole in each worker."""

    def running(self) -> Mapping[int, Asked]:
        """Its own tasks that can be read, by number."""

    def owners(self) -> Mapping[int, str]:
        """Task -> the address of who has it; empty: it has none."""


Get = Callable[[str], tuple[int, Any]]
"""A URL -> status and JSON. Raises OSError when nobody answers."""


class _Moving(Exception):
    pass


def answer(worker: Routes, path: str, query: str, get: Get | None = None) -> tuple[int, Any]:
    """An HTTP status, and what is sent as JSON."""
    given = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    name = unquote(path.removeprefix("/stores").strip("/"))
    only = given.pop("tasks", None)
    if path == "/owners":
        mine = {str(index): "here" for index in worker.running()}
        return 200, {"tasks": {**{str(index): server for index, server in sorted(worker.owners().items())}, **mine}}
    tasks = worker.store_tasks.get(name)
    if tasks is None or given.pop("local", None) in ("1", "true"):
        return asking.answer(worker, path, query)
    try:
        if only is not None:
            return _asked(worker, path, given, _numbers(only))
        return _whole(worker, path, given, tasks, get or _get)
    except _Moving as error:
        return MOVING, {"error": str(error)}
    except ValueError as error:
        return 400, {"error": str(error)}


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"`tasks` cannot be read: {text!r}") from None


class _Part:
    """Some tasks of a worker, as `asking` wants them."""

    def __init__(self, worker: Routes, tasks: Sequence[Asked]) -> None:
        self.stores, self._tasks = worker.stores, tasks

    def asked(self) -> Sequence[Asked]:
        return self._tasks


def _asked(worker: Routes, path: str, given: Mapping[str, str], tasks: Sequence[int]) -> tuple[int, Any]:
    here = worker.running()
    gone = [index for index in tasks if index not in here]
    if gone:
        return GONE, {"error": f"tasks {gone} are not here any more"}
    return asking.answer(_Part(worker, [here[index] for index in tasks]), path, urlencode(given))


def _whole(worker: Routes, path: str, given: dict[str, str], tasks: Sequence[int], get: Get) -> tuple[int, Any]:
    here, owners = worker.running(), worker.owners()
    lost = [index for index in tasks if index not in here and index not in owners]
    silent = [index for index in tasks if index not in here and owners.get(index) == ""]
    if silent:
        raise _Moving(f"tasks {silent} are in a worker without --metrics-port, which nobody can ask")

    def ask(indices: Sequence[int], given: Mapping[str, str]) -> dict[str, Any]:
        """Of tasks that one worker has."""
        if indices[0] in here:
            status, told = _asked(worker, path, given, indices)
        else:
            server = owners[indices[0]]
            more = urlencode({**given, "tasks": ",".join(map(str, indices))})
            try:
                status, told = get(f"http://{server}{quote(unquote(path))}?{more}")
            except (OSError, ValueError) as error:
                reason = getattr(error, "reason", error)
                raise _Moving(f"worker {server}, which has tasks {list(indices)}, does not answer: {reason}") from error
        if status == GONE:
            raise _Moving(f"tasks {list(indices)} are being moved: ask again")
        if status != 200:
            raise ValueError(told["error"])
        found: dict[str, Any] = told
        return found

    if "key" in given:
        by_owner: dict[str, list[int]] = {}
        for index in tasks:
            if index not in lost:
                by_owner.setdefault("" if index in here else owners[index], []).append(index)
        told: dict[str, Any] = {}
        for owner in sorted(by_owner):
            told = ask(by_owner[owner], given)
            if told["entries"]:
                return 200, told
        if lost:
            raise _Moving(f"tasks {lost} are being moved or restored: ask again")
        return 200, told
    if lost:
        raise _Moving(f"tasks {lost} are being moved or restored: ask again")
    return 200, _page(given, sorted(tasks), ask)


def _page(
    given: dict[str, str], tasks: Sequence[int], ask: Callable[[Sequence[int], Mapping[str, str]], dict[str, Any]]
) -> dict[str, Any]:
    """A page, from the task where the last one ended."""
    text = given.pop("after", "")
    try:
        mark = bytes.fromhex(text)
    except ValueError:
        raise ValueError(f"`after` cannot be read: {text!r}") from None
    at, inner = int.from_bytes(mark[:4], "big") if mark else tasks[0], mark[4:].hex()
    for number, index in enumerate(tasks):
        if index < at:
            continue
        told = ask([index], {**given, "after": inner} if inner and index == at else given)
        last = told.pop("next", None)
        following = tasks[number + 1 :]
        if last is not None:
            return {**told, "next": index.to_bytes(4, "big").hex() + last}
        if not following:
            return told
        if told["entries"]:
            return {**told, "next": following[0].to_bytes(4, "big").hex()}
    raise ValueError("`after` lies behind the last task")


def _get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
