"""Processors as data on adstream: java/Scripts.java, action by action. README.md lists the actions."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import adstream as ads
from tests.differential.kstreams.functions import fn, holds, text

Json = Any
Seen = Callable[[Any, Any], None]


class ScriptFailure(Exception):
    """What `fail_if` raises."""


@dataclass
class State:
    """What the actions work on."""

    key: Any
    value: Any
    time: int
    headers: tuple[tuple[str, bytes | None], ...] = ()
    stopped: bool = False
    record: Any = None


class Script(ads.Processor):
    """One instance of a script."""

    def __init__(self, script: Json, seen: Seen, fixed: bool) -> None:
        self.script, self.seen, self.fixed = script, seen, fixed
        self.schedules: list[ads.Cancellable] = []

    def init(self, ctx: ads.Context) -> None:
        self.ctx = ctx
        for every in self.script.get("every", ()):
            self.schedule(every)

    def schedule(self, every: Json) -> None:
        kind: Any = "stream_time" if every["type"] == "stream" else "wall_clock_time"
        call = self.punctuator(len(self.schedules), every)
        self.schedules.append(self.ctx.schedule(f"{every['ms']}ms", kind, call, start_time=every.get("start")))

    def punctuator(self, number: int, every: Json) -> Callable[[int], None]:
        left = every.get("times", 1 << 31)

        def punctuate(time: int) -> None:
            nonlocal left
            self.run(every["do"], State(None, time, time))
            left -= 1
            if left == 0:
                self.schedules[number].cancel()

        return punctuate

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        state = State(record.key, record.value, record.timestamp, record.headers, record=record)
        self.run(self.script["do"], state)

    def run(self, actions: Json, state: State) -> None:
        for action in actions:
            self.act(action, state)
            if state.stopped:
                return

    def forward(self, s: State, child: str | None) -> None:
        if self.fixed:
            record = s.record.with_value(s.value).with_timestamp(s.time).with_headers(s.headers)
        else:
            record = ads.ProcessorRecord(s.key, s.value, s.time, s.headers)
        self.ctx.forward(record, child)

    def act(self, action: Json, s: State) -> None:
        name, *arguments = action
        a = arguments[0] if arguments else None
        match name:
            case "set":
                s.value = fn(a)(s.key, s.value)
            case "set_key":
                s.key = fn(a)(s.key, s.value)
            case "time":
                s.time += a
            case "header":
                s.headers = (*s.headers, (a, None if arguments[1] is None else arguments[1].encode()))
            case "no_header":
                s.headers = tuple(header for header in s.headers if header[0] != a)
            case "forward":
                self.forward(s, a)
            case "seen":
                self.seen(s.key, s.value)
            case "stop_if":
                s.stopped = holds(fn(a), s.key, s.value)
            case "fail_if":
                if holds(fn(a), s.key, s.value):
                    raise ScriptFailure("asked to fail")
            case "meta":
                meta = self.ctx.record_metadata()
                s.value = "none" if meta is None else _meta(meta)
            case "stream_time":
                s.value = self.ctx.current_stream_time_ms
            case "system_time":
                s.value = self.ctx.current_system_time_ms
            case "task":
                s.value = self.ctx.task_id
            case "commit":
                self.ctx.commit()
            case "schedule":
                self.schedule(a)
            case "cancel":
                self.schedules[a].cancel()
            case _:
                self.of_store(name, self.ctx.get_state_store(a), arguments[1:], s)

    def of_store(self, name: str, store: Any, arguments: list[Any], s: State) -> None:
        def at(distance: int) -> int:
            return max(0, s.time + distance)

        def session(length: int) -> ads.Windowed:
            return ads.Windowed(s.key, max(0, s.time - length), s.time)

        match name, arguments:
            case "get", _:
                s.value = store.get(s.key)
            case "put", _:
                store.put(s.key, s.value)
            case "put_if_absent", _:
                s.value = store.put_if_absent(s.key, s.value)
            case "delete", _:
                s.value = store.delete(s.key)
            case "count", _:
                s.value = (store.get(s.key) or 0) + 1
                store.put(s.key, s.value)
            case (("range" | "reverse_range"), [low, high]):
                s.value = pairs(getattr(store, name)(low, high))
            case (("all" | "reverse_all"), _):
                s.value = pairs(getattr(store, name)())
            case "prefix", [prefix]:
                s.value = pairs(store.prefix_scan(prefix))
            case "entries", _:
                s.value = store.approximate_num_entries()
            case "each", [actions]:
                for key, value in list(store.all()):
                    self.run(actions, replace(s, key=key, value=value, stopped=False))
            case "get_stamped", _:
                found = store.get(s.key)
                s.value = None if found is None else [found.value, found.timestamp]
            case "put_stamped", _:
                store.put(s.key, None if s.value is None else ads.ValueAndTimestamp(s.value, s.time))
            case "get_headed", _:
                s.value = headed(store.get(s.key))
            case "put_headed", _:
                store.put(s.key, ads.ValueTimestampHeaders(s.value, s.time, s.headers))
            case "put_headed_if_absent", _:
                given = None if s.value is None else ads.ValueTimestampHeaders(s.value, s.time, s.headers)
                s.value = headed(store.put_if_absent(s.key, given))
            case "delete_headed", _:
                s.value = headed(store.delete(s.key))
            case "put_headed_window", _:
                store.put(s.key, ads.ValueTimestampHeaders(s.value, s.time + 1, s.headers), s.time)
            case "put_headed_session", [length]:
                store.put(session(length), ads.AggregationWithHeaders(s.value, s.headers))
            case "with_headers", _:
                found = store.get(s.key)
                s.value, s.headers = (None, s.headers) if found is None else (found.value, found.headers)
            case "put_version", _:
                s.value = store.put(s.key, s.value, s.time)
            case "get_version", _:
                s.value = version(store.get(s.key))
            case "get_as_of", [distance]:
                s.value = version(store.get(s.key, s.time + distance))
            case "delete_version", _:
                s.value = version(store.delete(s.key, s.time))
            case "put_window", _:
                store.put(s.key, s.value, s.time)
            case "fetch_one", [distance]:
                s.value = store.fetch(s.key, s.time + distance)
            case "fetch", [low, high]:
                s.value = pairs(store.fetch(s.key, at(low), at(high)))
            case "backward_fetch", [low, high]:
                s.value = pairs(store.backward_fetch(s.key, at(low), at(high)))
            case "fetch_all", [low, high]:
                s.value = pairs(store.fetch_all(at(low), at(high)))
            case "all_windows", _:
                s.value = pairs(store.all())
            case "put_session", [length]:
                store.put(session(length), s.value)
            case "remove_session", [length]:
                store.remove(session(length))
            case "sessions", [low, high]:
                s.value = pairs(store.find_sessions(s.key, at(low), at(high)))
            case "all_sessions", _:
                s.value = pairs(store.fetch(s.key))
            case _:
                raise ValueError(f"no action: {name}")


def _meta(meta: Any) -> str:
    """Internal topics have names, and offsets, of each system's own."""
    return f"{meta.topic}/{meta.partition}/{meta.offset}" if meta.topic.startswith("in") else "internal"


def version(found: Any) -> Json:
    return None if found is None else [found.value, found.timestamp]


def headed(value: Any) -> Json:
    """A value with headers as a list; others as they are."""
    match value:
        case ads.ValueTimestampHeaders(inner, timestamp, headers):
            return [inner, timestamp, _headers(headers)]
        case ads.AggregationWithHeaders(inner, headers):
            return [inner, _headers(headers)]
    return value


def _headers(headers: Any) -> Json:
    return [[name, None if value is None else value.decode()] for name, value in headers]


def pairs(entries: Iterable[tuple[Any, Any]]) -> str:
    """Text, since keys may have windows."""
    said = []
    for key, value in entries:
        if isinstance(value, ads.ValueAndTimestamp):
            value = [value.value, value.timestamp]
        said.append(f"{text(key)}={text(headed(value))};")
    return "".join(said)


def store(spec: Json) -> Any:
    """A store as a case declares it."""
    name, options = spec["name"], {"logging": spec.get("logging", True), "caching": spec.get("cache", False)}
    order: Any = "key" if spec.get("backend") == "rocksdb" else "time"
    ms = {field: f"{spec[field]}ms" for field in ("history", "retention", "size") if field in spec}
    match spec["type"]:
        case "kv":
            return ads.store.key_value(name, **options)
        case "lru":
            return ads.store.lru_map(name, spec["lru"], **options)
        case "timestamped":
            return ads.store.timestamped_key_value(name, **options)
        case "headed":
            return ads.store.timestamped_key_value_with_headers(name, **options)
        case "headed_window":
            return ads.store.timestamped_window_with_headers(name, ms["retention"], ms["size"], **options)
        case "headed_session":
            return ads.store.session_with_headers(name, ms["retention"], **options)
        case "versioned":
            return ads.store.versioned_key_value(name, ms["history"], **options)
        case "window":
            duplicates = spec.get("duplicates", False)
            return ads.store.window(name, ms["retention"], ms["size"], duplicates=duplicates, order=order, **options)
        case "session":
            return ads.store.session(name, ms["retention"], order=order, **options)
    raise ValueError(f"no store: {spec}")
