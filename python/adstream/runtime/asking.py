"""Stores over HTTP: what a worker has of them, as committed, beside its metrics.

    /stores                             the names
    /stores/NAME?key=K                  one key: its value; of windows and sessions all that it has
    /stores/NAME                        all entries, a page at a time

    type=text|int|float|json            what `key`, `from_key` and `to_key` are (text)
    from_key=A, to_key=B, prefix=P      a range of keys, both bounds included; keys that begin with a text
    from=MS, to=MS                      of windows: bounds of their starts; of sessions: the earliest end, the latest start
    at=MS                               of versioned stores: as of then
    versions=1                          of versioned stores: all that a key had, of times `from` to `to`
    reverse=1, limit=N, after=MARK      backwards; up to 1000 entries (100); where the last page ended (`next`)

The answer is `{"store", "kind", "entries": [{"key", "value", "timestamp", "start", "end"}], "next"}`; `start` and `end` for
windows, sessions and versions, `next` if there may be more. Values that JSON does not have are told as text.

This is one worker's part; `routing.py` puts the parts together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

from adstream.dsl.store import Entry, Span, flavour_of
from adstream.runtime.queries import Asked, Merged

LIMIT, LIMIT_MAX = 100, 1000
_FOREVER = 2**63 - 1
_KEYS: dict[str, Callable[[str], Any]] = {"text": str, "int": int, "float": float, "json": json.loads}
_HEADED = ("timestamped_key_value_with_headers", "timestamped_window_with_headers", "session_with_headers")
_TIMED = ("window", "timestamped_window", "session", "versioned_key_value", *_HEADED[1:])


class Asks(Protocol):
    """Who has stores: a worker."""

    stores: Mapping[str, dict[str, Any]]

    def asked(self) -> Sequence[Asked]: ...


class _Bad(Exception):
    pass


def answer(worker: Asks, path: str, query: str) -> tuple[int, Any]:
    """An HTTP status, and what is sent as JSON."""
    name = unquote(path.removeprefix("/stores").strip("/"))
    if not name:
        return 200, {"stores": sorted(worker.stores)}
    spec = worker.stores.get(name)
    if spec is None:
        names = ", ".join(sorted(worker.stores)) or "none"
        return 404, {"error": f"there is no store `{name}`; there are {names}"}
    try:
        return 200, _read(spec, Merged(name, worker.asked), _Asked(query))
    except _Bad as error:
        return 400, {"error": str(error)}


class _Asked:
    """The parameters of a question."""

    def __init__(self, query: str) -> None:
        self._given = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
        kind = self._given.get("type", "text")
        if kind not in _KEYS:
            raise _Bad(f"`type` is one of {', '.join(_KEYS)}, not `{kind}`")
        self._key = _KEYS[kind]

    def text(self, name: str) -> str | None:
        return self._given.get(name)

    def key(self, name: str) -> Any:
        return self._read(name, self._key)

    def number(self, name: str) -> int | None:
        found: int | None = self._read(name, int)
        return found

    def _read(self, name: str, read: Callable[[str], Any]) -> Any:
        text = self._given.get(name)
        try:
            return None if text is None else read(text)
        except ValueError:
            raise _Bad(f"`{name}` cannot be read: {text!r}") from None

    def mark(self) -> bytes | None:
        mark: bytes | None = self._read("after", bytes.fromhex)
        return mark


def _read(spec: dict[str, Any], reads: Merged, asked: _Asked) -> dict[str, Any]:
    flavour = flavour_of(spec)
    key = asked.key("key")
    told: dict[str, Any] = {"store": spec["name"], "kind": flavour}
    if key is not None and flavour == "versioned_key_value" and asked.text("versions") not in ("1", "true"):
        version = reads.get_version(key, asked.number("at"))
        found = [] if version is None else [{**_pair(key, version[0], version[1]), "end": version[2]}]
        return {**told, "entries": found}
    if key is not None and flavour not in _TIMED:
        value = reads.get(key)
        return {**told, "entries": [] if value is None else [_told(key, *value, flavour)]}
    prefix = asked.text("prefix")
    limit = max(1, min(asked.number("limit") or LIMIT, LIMIT_MAX))
    span: Span = (
        key if key is not None else asked.key("from_key"),
        key if key is not None else asked.key("to_key"),
        None if prefix is None else prefix.encode(),
        asked.number("from"),
        asked.number("to"),
        asked.text("reverse") in ("1", "true"),
        asked.mark(),
        limit,
    )
    entries, after = reads.scan(span)
    told["entries"] = [_entry(entry, flavour) for entry in entries]
    return told if after is None else {**told, "next": after.hex()}


def _pair(key: Any, value: Any, timestamp: int) -> dict[str, Any]:
    return {"key": key, "value": value, "timestamp": timestamp}


def _told(key: Any, kept: Any, timestamp: int, flavour: str) -> dict[str, Any]:
    if flavour not in _HEADED:
        return _pair(key, kept, timestamp)
    value, headers = kept
    shown = [[name, None if content is None else content.decode(errors="replace")] for name, content in headers]
    return {**_pair(key, value, timestamp), "headers": shown}


def _entry(entry: Entry, flavour: str) -> dict[str, Any]:
    key, start, end, value, timestamp = entry
    told = _told(key, value, timestamp, flavour)
    if flavour == "versioned_key_value" and end == _FOREVER:
        return {**told, "start": start, "end": None}
    return {**told, "start": start, "end": end} if flavour in _TIMED else told


def encoded(told: Any) -> bytes:
    return json.dumps(told, ensure_ascii=False, default=str).encode()
