"""Rows as hashes in Redis, exactly once, by a script that moves the position together with the rows.

The hash `_adstream:positions:{app}:{sink}` has a field per partition. A flush that fits one script is atomic:
compare the position, write the rows, move the position. A larger one is cut, since a script stops the whole
server while it runs:

    chunk 1     position as expected?  claim the partition with a token of this flush, write rows
    chunk 2 …   position as expected, and the claim still ours?  write rows
    last        … write rows, move the position, drop the claim

Rows are absolute values, so a flush that broke off is simply done again. The claim is what stops a zombie:
without it, its older rows could land between the owner's chunks, while the position is still what both
expect. With it, a flush completes only if nobody wrote in between. What a broken flush left behind is newer
than the position says, until the owner has read as far. A reader of Redis can see such a large flush half
done.

Values: decimals as their digits (`4800.00`), floats as Python's shortest text, bools 1 or 0, times as RFC
3339, durations in ms; null removes the field. In a key, null is `%null`, `%` is `%25`, and what could be
mistaken for the text between two fields is percent-encoded: different rows never share a key.

No cluster support: a script's keys would have to be in one slot. A cluster is refused.
"""

from __future__ import annotations

import string
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from adstream.errors import ConfigError
from adstream.targets.delivery import TransientError, UnreachableError
from adstream.targets.values import CoreType, decimal_text, json_text, milliseconds, timestamp_text

VALUES_PER_SCRIPT = 10_000
"""A script of this size stops the server for a few milliseconds."""

_PASSING = (
    redis.exceptions.BusyLoadingError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.MasterDownError,
    redis.exceptions.TryAgainError,
)
"""What a server says while it starts, is full, or fails over. (For these the client cuts Redis' word off the text.)"""

_NULL = b"\xff"  # no UTF-8 text has this byte
_MORE = ""
_TOPIC = "topic"
"""Beside the partitions' fields: which topic their positions are of."""

# KEYS: the positions, then one per row. ARGV: partition, expected, next ('' while chunks follow), token,
# 'first' or '', null, the number of fields, their names, then the values row by row. Answers 1, or 0 when
# nothing was done.
_APPLY = """
local positions, partition = KEYS[1], ARGV[1]
local claim = partition .. ':claim'
if (redis.call('HGET', positions, partition) or '0') ~= ARGV[2] then return 0 end
if ARGV[5] == 'first' then
  if ARGV[3] == '' then redis.call('HSET', positions, claim, ARGV[4]) end
elseif redis.call('HGET', positions, claim) ~= ARGV[4] then
  return 0
end
local null, width = ARGV[6], tonumber(ARGV[7])
local at = 7 + width
for row = 2, #KEYS do
  local set, gone = {}, {}
  for field = 1, width do
    local value = ARGV[at + field]
    if value == null then
      gone[#gone + 1] = ARGV[7 + field]
    else
      set[#set + 1] = ARGV[7 + field]
      set[#set + 1] = value
    end
  end
  if #set > 0 then redis.call('HSET', KEYS[row], unpack(set)) end
  if #gone > 0 then redis.call('HDEL', KEYS[row], unpack(gone)) end
  at = at + width
end
if ARGV[3] ~= '' then
  redis.call('HSET', positions, partition, ARGV[3])
  redis.call('HDEL', positions, claim)
end
return 1
"""

Text = Callable[[Any], str]


class RedisHashTarget:
    """A `Target`. `template` makes the key of a row's hash: `product-metrics:{product_id}`."""

    def __init__(
        self, url: str, template: str, *, option: str = "--redis", values_per_script: int = VALUES_PER_SCRIPT
    ) -> None:
        """`option` is what errors blame."""
        self._option = option
        self._template = template
        self._parts = _parse(template)
        self._values_per_script = values_per_script
        self._server = _masked(url)
        try:
            database = urlsplit(url).path.strip("/") if not url.startswith("unix:") else ""
            if database and not database.isdecimal():  # the client would take it for 0
                raise ValueError
            self._client: Any = redis.Redis.from_url(
                url,
                socket_connect_timeout=5,
                socket_timeout=15,
                socket_keepalive=None if url.startswith("unix:") else True,
                retry=Retry(NoBackoff(), 0),  # `delivery` retries
            )
        except (ValueError, TypeError):
            # Not quoted: it may hold a password.
            raise ConfigError(
                "this is not a Redis URL",
                option=option,
                hint="redis://:password@host:6379/0, rediss://… or unix://…",
            ) from None
        self._script = self._client.register_script(_APPLY)
        self.refused = 0  # a hash takes any text

    def open(self, app: str, sink: str, schema: Mapping[str, str], key: Sequence[str]) -> None:
        fields = [name for _, name in self._parts if name is not None]
        if set(fields) != set(key):
            raise self._refusal(
                f"the template `{self._template}` must name the sink's key and nothing else: " + ", ".join(key),
                "else rows of different keys would share a hash, or one row would wander",
            )
        if len(schema) > 3_000:
            raise self._refusal(f"sink `{sink}` has {len(schema)} columns; 3000 fit a script", None)
        try:
            self._texts = {name: _text(CoreType.parse(text)) for name, text in schema.items()}
        except ValueError as error:
            raise self._refusal(f"sink `{sink}`: {error}", None) from error
        if unknown := [name for name in fields if name not in schema]:
            raise self._refusal(f"sink `{sink}` has no column `{unknown[0]}`, which is in its key", None)
        stops = {"%"} | {text[0] for (text, name), before in zip(self._parts[1:], self._parts, strict=False)
                         if name is not None and before[1] is not None}  # fmt: skip
        self._escapes = str.maketrans({char: f"%{ord(char):02X}" for char in stops})
        times = {name for name in fields if schema[name] == "timestamp"}  # of fixed width, so never mistaken
        self._escaped = frozenset(fields) - times
        self._at = _positions_key(app, sink)
        if str(self._call(lambda: self._client.info("cluster")).get("cluster_enabled", 0)) == "1":
            raise self._refusal(
                f"{self._server} is a Redis cluster, which is not supported: a flush could not be atomic",
                "use a single Redis, or one with replicas and Sentinel",
            )

    def positions(self, partitions: Sequence[int]) -> dict[int, int]:
        if not partitions:
            return {}
        found = self._call(lambda: self._client.hmget(self._at, [str(number) for number in partitions]))
        return {number: int(value) for number, value in zip(partitions, found, strict=True) if value is not None}

    def of_topic(self, topic_id: str) -> str:
        def told() -> Any:
            self._client.hsetnx(self._at, _TOPIC, topic_id)
            return self._client.hget(self._at, _TOPIC)

        found: bytes = self._call(told)
        return found.decode()

    def write(self, partition: int, expected: int, position: int, rows: Mapping[str, list[Any]]) -> bool:
        newest = self._newest_per_key(rows)
        size = max(1, self._values_per_script // max(1, len(self._texts)))
        chunks = [newest[start : start + size] for start in range(0, len(newest), size)] or [[]]
        token = uuid.uuid4().hex
        names = list(self._texts)
        for number, chunk in enumerate(chunks):
            arguments: list[Any] = [
                partition, expected, position if number == len(chunks) - 1 else _MORE, token,
                "first" if number == 0 else "", _NULL, len(names), *names,
            ]  # fmt: skip
            for _, values in chunk:
                arguments += values
            keys = [self._at, *(key for key, _ in chunk)]
            try:
                if self._call(partial(self._script, keys=keys, args=arguments)) != 1:
                    return False
            except (TransientError, UnreachableError):
                # Perhaps after the script had run.
                if self.positions([partition]).get(partition, 0) == position != expected:
                    return True
                raise
        return True

    def forget(self, app: str, sink: str) -> None:
        self._call(lambda: self._client.delete(_positions_key(app, sink)))

    def close(self) -> None:
        self._client.close()

    # Within.

    def _newest_per_key(self, rows: Mapping[str, list[Any]]) -> list[tuple[str, list[Any]]]:
        if not rows:
            return []
        columns = {
            name: [_NULL if value is None else text(value) for value in rows[name]]
            for name, text in self._texts.items()
        }
        newest = {}
        keys = self._keys(columns)
        for key, values in zip(keys, zip(*columns.values(), strict=True), strict=True):
            newest[key] = values
        return [(key, list(values)) for key, values in newest.items()]

    def _keys(self, columns: Mapping[str, list[Any]]) -> list[str]:
        pieces = []
        for before, name in self._parts:
            if name is None:
                continue
            escapes = self._escapes if name in self._escaped else None
            pieces.append(
                [
                    before + ("%null" if value is _NULL else value.translate(escapes) if escapes else value)
                    for value in columns[name]
                ]
            )
        tail = self._parts[-1][0] if self._parts[-1][1] is None else ""
        return ["".join(row) + tail for row in zip(*pieces, strict=True)]

    def _call(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
            raise self._refusal(f"{self._server} refuses: {error}", "check user, password and rights") from error
        except _PASSING as error:
            raise TransientError(f"{self._server}: {error}") from error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise UnreachableError(
                f"cannot reach {self._server}: {error}",
                option=self._option,
                hint="is it running, and is the port right?",
            ) from error
        except redis.ResponseError as error:
            text = str(error)
            if text.startswith(("NOREPLICAS", "MISCONF", "BUSY")):
                raise TransientError(f"{self._server}: {text}") from error
            if "WRONGTYPE" in text:
                text = f"a key made by `{self._template}` exists and is not a hash"
            raise self._refusal(f"{self._server}: {text}", None) from error

    def _refusal(self, message: str, hint: str | None) -> ConfigError:
        return ConfigError(message, option=self._option, hint=hint)


def _positions_key(app: str, sink: str) -> str:
    return f"_adstream:positions:{app}:{sink}"


def _parse(template: str) -> list[tuple[str, str | None]]:
    """(text before, field); the last field may be None: text at the end."""

    def wrong(why: str) -> ConfigError:
        return ConfigError(f"template `{template}`: {why}", option="sink", hint="as in `product-metrics:{product_id}`")

    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise wrong(str(error)) from None
    parts: list[tuple[str, str | None]] = []
    for text, name, spec, conversion in parsed:
        if name is not None and (not name or spec or conversion):
            raise wrong("fields are plain column names")
        if (
            name is not None
            and parts
            and parts[-1][1] is not None
            and (not text or text[0].isalnum() or text[0] == "%")
        ):
            raise wrong("fields need a sign between them, such as `:`")
        parts.append((text, name))
    if not any(name for _, name in parts):
        raise wrong("it names no column")
    return parts


def _masked(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "Redis"
    return f"{parts.scheme}://{'***@' if parts.password or parts.username else ''}{host}{port}{parts.path}"


def _text(core: CoreType) -> Text:
    match core.kind:
        case "bool":
            return lambda value: "1" if value else "0"
        case "float":
            return repr
        case "decimal":
            return decimal_text(core.scale)
        case "timestamp":
            return timestamp_text
        case "duration":
            return lambda value: str(milliseconds(value))
        case "json":
            return json_text
        case _:
            return str
