"""Settings: numbers and texts, nothing else; clocks, logs and targets are handed in as objects.

Where a value comes from, first found: a flag, the environment (`ADSTREAM_COMMIT_INTERVAL=200ms`), a TOML file, the
default.

    app = "ads-performance"          | durations are texts ("100ms", "30s", "1h30m")
    guarantee = "exactly_once"       | an unknown key is an error that names the nearest one
    commit_interval = "200ms"        | `kafka` passes through to the Kafka client
    [connections]                    |
    sql = "postgresql://…"           | secrets: better by environment, ADSTREAM_SQL; never printed
    [kafka]
    "security.protocol" = "SSL"
    [registry]                       | of the schema registry's client; schema_registry = "URL" is its url
    "basic.auth.user.info" = "…"     | ADSTREAM_REGISTRY_BASIC_AUTH_USER_INFO
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from adstream.errors import ConfigError
from adstream.interfaces import Uncaught
from adstream.runtime.breaker import limit_of
from adstream.runtime.durations import duration_ms

PREFIX = "ADSTREAM_"
PORT_MAX = 65_535
GUARANTEES = ("exactly_once", "at_least_once")
PARTITION_CHECKS = ("warn", "error", "off")
STORE_TYPES = ("memory", "disk")
CONNECTIONS = ("sql", "redis")
"""Connections with an option of their own (`--sql`, `ADSTREAM_SQL`); others live in `[connections]`."""
REGISTRY = "schema_registry"
"""Short for the `url` of `[registry]`."""

_SECRET = re.compile(r"password|secret|token|key|jaas|credential|sasl\.username|user\.info", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=:)[^:/@]*(?=@)")


@dataclass(frozen=True)
class Settings:
    """How an application runs. Times are milliseconds here, texts where a user writes them (without `_ms`)."""

    app: str = ""
    """Application id: prefix of its topics, its consumer group; overrides the topology's own."""
    bootstrap: str = ""
    """Kafka's servers; empty: the embedded log."""
    data: str = ""
    """Directory of the embedded log; empty: memory."""
    guarantee: str = "exactly_once"
    """`exactly_once` or `at_least_once`."""
    commit_interval_ms: int = 0
    """How often generations end; 0: every 100 ms, and while there is work every 5 s where all inputs are files (there
    nobody waits for the first rows)."""
    cache: bool = True
    """Whether tables of keys and values hold back what changes again before the next commit (Kafka Streams:
    `statestore.cache.max.bytes`, where 0 is off); without it every change is told at once."""
    transaction_timeout_ms: int = 15_000
    """How long a dead worker's open transaction may hold back others."""
    batch_rows_max: int = 10_000
    """Rows that one task processes before the next gets its turn."""
    buffer_rows_max: int = 50_000
    """Rows handed to a task and not processed, per input partition; above, the partition is not read."""
    generation_rows_max: int = 500_000
    """Rows between two commits; reached, the commit is due at once, and while another is under way processing
    waits."""
    generation_bytes_max: int = 64 << 20
    """The same for bytes of output."""
    restore_rows_max: int = 20_000
    """Changelog records applied before running tasks get their turn again."""
    flush_every_ms: int = 1_000
    """How long after a write a sink coalesces the next rows; after a pause they are written at once."""
    purge_every_ms: int = 60_000
    """How often processed records of internal topics are forgotten; 0: never."""
    recommit_every_ms: int = 12 * 3_600_000
    """How often unchanged positions are committed again: brokers forget offsets after seven days without a commit."""
    state_dir: str = ""
    """Where local snapshots of state and stores on disk are kept; empty: none, every restore is from the changelog."""
    store_type: str = "memory"
    """Where stores of keys and values are that do not say it themselves: `memory`, or `disk`, below `state_dir` (Kafka
    Streams: `dsl.store.suppliers.class`)."""
    store_cache_bytes: int = 256 << 20
    """How much of all stores on disk a worker keeps in memory."""
    standbys: int = 0
    """How many other workers follow the changelog of each task, so that whoever takes it over has its state already (Kafka
    Streams: `num.standby.replicas`)."""
    warm_up_max_ms: int = 60_000
    """How long a worker that starts, with `standbys`, follows the tasks that it will be given before it joins the group, at
    most; 0: it joins at once."""
    snapshot_every_ms: int = 1_000
    """How often committed state is appended to the snapshots."""
    drain_timeout_ms: int = 30_000
    """How long a stopping worker may take to commit what it has."""
    workers: int = 1
    slot: int = 0
    """Which of them this is: part of the transactional id, so that a restart fences its former self."""
    edge_partitions: int = 0
    """Partitions of new internal topics; 0: the most that an input has."""
    create_topics: bool = False
    """Whether missing output topics are created."""
    dead_letters_max: str = ""
    """`"1% in 5m"`: more dead letters than that, in event time, stop the job (`breaker.py`); empty: never."""
    on_uncaught: str = "quarantine"
    """What follows when a task failed twice in a row: `quarantine`, `replace_task`, `stop_worker`, `stop_application`
    (`interfaces.Uncaught`), unless the topology says it (`App.on_uncaught`)."""
    partition_check: str = "warn"
    """What a start does when sampled records of inputs do not lie where murmur2 of their keys says (`partitioning.py`):
    `warn`, `error` refuses, `off` does not look."""
    sink_retain_ms: int = 600_000
    """How long rows for a sink are kept after they were stored: a target that loses its last writes (a Redis that
    fails over) gets them again."""
    metrics_port: int = 0
    """Port of /metrics, /healthz, /readyz; 0: none."""
    application_server: str = ""
    """`HOST:PORT` at which other workers reach this one's `metrics_port`, for questions to stores that it is asked
    (Kafka Streams: `application.server`); empty: this machine's name, and that port."""
    connections: Mapping[str, str] = field(default_factory=dict)
    """What sinks name: `sql`, `redis`, … -> URL."""
    kafka: Mapping[str, str] = field(default_factory=dict)
    """Passed through to the Kafka client."""
    registry: Mapping[str, str] = field(default_factory=dict)
    """The schema registry: its `url`, the rest passed through to Confluent's client (`basic.auth.user.info`, …)."""

    def __post_init__(self) -> None:
        limit_of(self.dead_letters_max, option_name("dead_letters_max"))
        if self.guarantee not in GUARANTEES:
            raise ConfigError(f"`{self.guarantee}` is not one of {', '.join(GUARANTEES)}", option="--guarantee")
        for name, known in (
            ("partition_check", PARTITION_CHECKS),
            ("store_type", STORE_TYPES),
            ("on_uncaught", [it.value for it in Uncaught]),
        ):
            if getattr(self, name) not in known:
                said = f"`{getattr(self, name)}` is not one of {', '.join(known)}"
                raise ConfigError(said, option=option_name(name))
        for f in fields(self):
            value = getattr(self, f.name)
            least = 0 if f.name in _MAY_BE_ZERO else 1
            if f.type == "int" and value < least:
                raise ConfigError(f"{value} is less than {least}", option=option_name(f.name))
        if self.metrics_port + self.workers - 1 > PORT_MAX:
            of = f", the port of worker {self.workers - 1}," if self.workers > 1 else ""
            raise ConfigError(
                f"{self.metrics_port + self.workers - 1}{of} is no port",
                option="--metrics-port",
                hint=f"give at most {PORT_MAX}, less the number of workers above one",
            )

    @property
    def exactly_once(self) -> bool:
        return self.guarantee == "exactly_once"

    def __repr__(self) -> str:
        shown = ", ".join(f"{f.name}={_masked(f.name, getattr(self, f.name))!r}" for f in fields(self))
        return f"Settings({shown})"


_MAY_BE_ZERO = (
    "commit_interval_ms",
    "slot",
    "edge_partitions",
    "metrics_port",
    "purge_every_ms",
    "sink_retain_ms",
    "standbys",
    "warm_up_max_ms",
)


def load(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
    toml: Path | None = None,
    *,
    beside: Collection[str] = (),
) -> Settings:
    """Settings from flags (None values are absent), the environment and a TOML file, in that order.

    Args:
        beside: keys of the file, and of the environment, that are not settings but the caller's.

    Raises:
        ConfigError: an unknown key (with the nearest one), a variable that looks like a misspelt one, or a value that its setting
            cannot have.
    """
    given: dict[str, Any] = {"connections": {}, "kafka": {}, "registry": {}}
    if toml is not None:
        found = {key: value for key, value in _read_toml(toml).items() if key not in beside}
        _merge(given, found, lambda key: f"`{key}` in {toml}", beside)
    _merge(given, _from_environ(environ, beside), lambda key: PREFIX + key.upper(), ())
    present = {key: value for key, value in (flags or {}).items() if value is not None}
    _merge(given, present, option_name, ())
    return Settings(**given)


def option_name(key: str) -> str:
    """`commit_interval_ms` -> `--commit-interval`."""
    return "--" + key.removesuffix("_ms").replace("_", "-")


def _merge(given: dict[str, Any], found: Mapping[str, object], where: Any, beside: Collection[str]) -> None:
    """Adds what was found in one place over what less important places said; `beside` could have been meant, too."""
    known = {f.name.removesuffix("_ms"): f for f in fields(Settings)}
    for key, value in found.items():
        if key in CONNECTIONS:
            given["connections"] = {**given["connections"], key: str(value)}
            continue
        if key == REGISTRY:
            given["registry"] = {**given["registry"], "url": str(value)}
            continue
        f = known.get(key.removesuffix("_ms"))
        if f is None:
            near = difflib.get_close_matches(key, [*known, *CONNECTIONS, REGISTRY, *beside], n=1)
            raise ConfigError(
                "there is no such setting",
                option=where(key),
                hint=f"did you mean `{near[0]}`?"
                if near
                else f"known: {', '.join(sorted([*known, *CONNECTIONS, REGISTRY, *beside]))}",
            )
        if f.name in ("connections", "kafka", "registry"):
            if not isinstance(value, Mapping):
                raise ConfigError("a table of texts is expected", option=where(key))
            given[f.name] = {**given[f.name], **{name: _text(v) for name, v in value.items()}}
        else:
            given[f.name] = value_of(f.name, str(f.type), value, where(key))


def value_of(name: str, kind: str, value: object, option: str) -> object:
    """A text (or a TOML value) as a setting of this kind: `bool`, `int`, `str`; names that end in `_ms` are durations.

    Raises:
        ConfigError: naming `option`.
    """
    if name.endswith("_ms"):
        return duration_ms(value, option)
    if kind == "bool":
        text = str(value).lower()
        if text not in ("true", "false", "1", "0"):
            raise ConfigError(f"`{value}` is not true or false", option=option)
        return text in ("true", "1")
    if kind == "int":
        try:
            return int(str(value))
        except ValueError:
            raise ConfigError(f"`{value}` is not a whole number", option=option) from None
    return str(value)


_OTHERS = ("config", "bootstrap", "supervisor", "job")
"""Variables that are neither settings nor keys of a file."""


def _from_environ(environ: Mapping[str, str], beside: Collection[str]) -> dict[str, object]:
    """`ADSTREAM_KAFKA_SASL_PASSWORD` is `kafka."sasl.password"`; `ADSTREAM_CONNECTION_LEDGER` a connection;
    `ADSTREAM_REGISTRY_BASIC_AUTH_USER_INFO` is the registry's, `ADSTREAM_SCHEMA_REGISTRY` its URL. Other
    names with the prefix must be settings. The environment is shared with things that we do not know (Kubernetes tells of a
    service `adstream` by `ADSTREAM_PORT`), so what is like no setting is passed over; what is nearly one is taken for a
    misspelt one. One that is empty is not set, as deployments write it; but a client's setting may be empty."""
    known = {f.name.removesuffix("_ms") for f in fields(Settings)} | set(CONNECTIONS) | {REGISTRY}
    kafka: dict[str, str] = {}
    connections: dict[str, str] = {}
    registry: dict[str, str] = {}
    found: dict[str, object] = {}
    for name, value in environ.items():
        key = name.removeprefix(PREFIX).lower()
        if not name.startswith(PREFIX) or (not value and not key.startswith(("kafka_", "registry_"))):
            continue
        if key.startswith("kafka_"):
            kafka[key.removeprefix("kafka_").replace("_", ".")] = value
        elif key.startswith("connection_"):
            connections[key.removeprefix("connection_")] = value
        elif key.startswith("registry_"):
            registry[key.removeprefix("registry_").replace("_", ".")] = value
        elif key.removesuffix("_ms") in known:
            found[key] = value
        elif key not in (own := [*beside, *_OTHERS]) and not key.startswith(("set_", "test_")):
            near = difflib.get_close_matches(key, [*known, *own], n=1, cutoff=0.85)
            if near:
                raise ConfigError(
                    "there is no such setting", option=name, hint=f"did you mean `{PREFIX}{near[0].upper()}`?"
                )
    return found | {"kafka": kafka, "connections": connections, "registry": registry}


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", option="--config") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}", option="--config") from error


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _masked(name: str, value: object) -> object:
    if isinstance(value, Mapping):
        return {k: "***" if _SECRET.search(k) else _masked(k, v) for k, v in value.items()}
    return _URL_PASSWORD.sub("***", value) if isinstance(value, str) else value
