"""The options that commands share, and how flags, environment and TOML become one `Chosen`.

A command takes a dataclass of options as its last parameter; `takes` shows typer its fields instead, and `parse` reads
them without typer, whose import takes longer than `describe` itself (`quick.py`). What is a setting goes through
`runtime.settings`; what only the command line has is handled here, in the same order (flag, environment, TOML):

    log            --log, --bootstrap    ADSTREAM_LOG, ADSTREAM_BOOTSTRAP      log = "dir:PATH"
    inputs         --input TOPIC=FILE    ADSTREAM_INPUT="TOPIC=FILE …"         [input]  TOPIC = "FILE" or ["FILE", …]
    job            --set KEY=VALUE       ADSTREAM_SET_KEY=VALUE                [set]  KEY = "VALUE"
    stop_at_end    --stop-at-end         ADSTREAM_STOP_AT_END=true             stop_at_end = true
    verbose        -v, -vv               ADSTREAM_VERBOSE=1                    verbose = 1
    log_format     --log-format json     ADSTREAM_LOG_FORMAT=json              log_format = "json"
    config         --config FILE.toml    ADSTREAM_CONFIG=FILE.toml
"""

from __future__ import annotations

import functools
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from adstream.errors import ConfigError
from adstream.runtime.settings import PREFIX, Settings, load, option_name, value_of

BESIDE = ("log", "input", "set", "stop_at_end", "verbose", "log_format")
"""Keys of a TOML file that are the command line's own."""

_NAMED_URL = re.compile(r"(?:(?P<name>[A-Za-z_][\w-]*)=)?(?P<url>.+)", re.DOTALL)
_WHERE, _HOW = "Where", "How"


@dataclass(frozen=True)
class Flag:
    """How an option is written and shown."""

    names: tuple[str, ...]
    help: str
    metavar: str | None = None
    panel: str = _HOW
    count: bool = False
    """`-vv` is 2."""


def _option(*names: str, metavar: str, help: str, panel: str = _HOW) -> Flag:
    return Flag(names, help, metavar, panel)


def _switch(*names: str, help: str, panel: str = _HOW, count: bool = False) -> Flag:
    return Flag(names, help, None, panel, count)


@dataclass(kw_only=True)
class LogOptions:
    """Which log, and how to talk to it."""

    log: Annotated[
        str | None,
        _option("--log", metavar="URL", panel=_WHERE, help="kafka://HOST:PORT, dir:PATH or memory:"),
    ] = None
    bootstrap: Annotated[
        str | None,
        _option("--bootstrap", metavar="HOST:PORT", panel=_WHERE, help="Short for --log kafka://HOST:PORT."),
    ] = None
    extra: Annotated[
        list[str] | None,
        _option(
            "-X", metavar="kafka.KEY=VALUE", help="A setting of the Kafka client; registry.KEY: of the registry's."
        ),
    ] = None
    config: Annotated[Path | None, _option("--config", metavar="FILE.toml", help="Settings; flags win.")] = None


@dataclass(kw_only=True)
class JobOptions(LogOptions):
    """A log and a job on it."""

    set: Annotated[
        list[str] | None, _option("--set", metavar="KEY=VALUE", help="A setting of the job, such as grace=30s.")
    ] = None
    app: Annotated[
        str | None, _option("--app", metavar="ID", help="Application id, when it is not to be the job's own.")
    ] = None


@dataclass(kw_only=True)
class ResetOptions(JobOptions):
    """A job with its targets and its state."""

    sql: Annotated[
        list[str] | None,
        _option("--sql", metavar="[NAME=]URL", panel=_WHERE, help="postgresql://USER@HOST/DB, sqlite:///FILE"),
    ] = None
    redis: Annotated[
        list[str] | None,
        _option("--redis", metavar="[NAME=]URL", panel=_WHERE, help="redis://HOST:PORT/DB"),
    ] = None
    state_dir: Annotated[
        str | None, _option("--state-dir", metavar="PATH", help="Keeps state on disk for a fast restart here.")
    ] = None


@dataclass(kw_only=True)
class RunOptions(ResetOptions):
    """What `run` and `replay` take."""

    input: Annotated[
        list[str] | None,
        _option("--input", metavar="TOPIC=FILE.jsonl", panel=_WHERE, help="Reads a topic from files (or a glob)."),
    ] = None
    schema_registry: Annotated[
        str | None,
        _option("--schema-registry", metavar="URL", panel=_WHERE, help="http://HOST:8081, for Avro and Protobuf."),
    ] = None
    guarantee: Annotated[
        str | None, _option("--guarantee", metavar="NAME", help="exactly_once (default) or at_least_once.")
    ] = None
    commit_interval: Annotated[
        str | None,
        _option("--commit-interval", metavar="TIME", help="Such as 100ms, the default (5s while files are read)."),
    ] = None
    cache: Annotated[
        str | None,
        _option("--cache", metavar="true|false", help="false: tables tell every change, not one per commit."),
    ] = None
    dead_letters_max: Annotated[
        str | None,
        _option("--dead-letters-max", metavar="SHARE", help='Such as "1% in 5m": more of them stop the job.'),
    ] = None
    workers: Annotated[int | None, _option("--workers", metavar="N", help="Processes on this machine.")] = None
    store_type: Annotated[
        str | None,
        _option(
            "--store-type", metavar="memory|disk", help="Where stores of keys and values are; disk: below --state-dir."
        ),
    ] = None
    standbys: Annotated[
        int | None,
        _option("--standbys", metavar="N", help="So many other workers keep each task's state ready to take over."),
    ] = None
    metrics_port: Annotated[
        int | None, _option("--metrics-port", metavar="PORT", help="/metrics, /healthz, /readyz; worker k: PORT + k.")
    ] = None
    create_topics: Annotated[
        bool | None, _switch("--create-topics", help="Creates output topics that are missing.")
    ] = None
    stop_at_end: Annotated[
        bool | None, _switch("--stop-at-end", help="Ends when all that stood in the inputs at the start is worked off.")
    ] = None
    verbose: Annotated[int, _switch("--verbose", "-v", help="Says more; -vv says all.", count=True)] = 0
    log_format: Annotated[
        str | None, _option("--log-format", metavar="text|json", help="Log lines for people (default) or machines.")
    ] = None


@dataclass(kw_only=True)
class ReplayOptions(RunOptions):
    """What `replay` takes besides."""

    from_: Annotated[
        list[str] | None,
        _option(
            "--from",
            metavar="parquet:PATH",
            panel=_WHERE,
            help="The job's input from files: jsonl:PATH, or TOPIC=PATH behind the colon.",
        ),
    ] = None


@dataclass(frozen=True)
class Chosen:
    """What all the options say."""

    settings: Settings
    log_option: str
    """What said which log (`--bootstrap`, `ADSTREAM_LOG`); empty: nobody did."""
    inputs: Mapping[str, list[str]] = field(default_factory=dict)
    job: Mapping[str, str] = field(default_factory=dict)
    stop_at_end: bool = False
    verbose: int = 0
    log_format: str = "text"

    @property
    def log_named(self) -> bool:
        """Whether anybody said which log."""
        return bool(self.log_option)


Options = TypeVar("Options", bound=LogOptions)


def takes(options: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Shows the last parameter of a command, a dataclass of options, as these options."""
    import inspect

    hints = _hints(options)
    shown = [
        inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=_for_typer(hints[f.name])
        )
        for f in fields(options)
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        *own, last = inspect.signature(command, eval_str=True).parameters.values()

        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            common = options(**{p.name: given.pop(p.name) for p in shown})
            command(**given, **{last.name: common})

        wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shown
        )
        wrapper.__annotations__ = {p.name: p.annotation for p in [*own, *shown]}
        return wrapper

    return decorate


def _for_typer(hint: Any) -> Any:
    import typer

    type_, flag = get_args(hint)
    more: dict[str, Any] = {"count": True} if flag.count else {"metavar": flag.metavar}
    shown = typer.Option(*flag.names, help=flag.help, rich_help_panel=flag.panel, show_default=False, **more)
    return Annotated[type_, shown]


def _hints(options: type[Any]) -> dict[str, Any]:
    return get_type_hints(options, include_extras=True)


def parse(options: type[Options], arguments: Sequence[str]) -> tuple[list[str], Options] | None:
    """What is no option, and the options; None: something is not plain, typer is to say what (or to help)."""
    flags: dict[str, tuple[str, Any]] = {}
    for name, hint in _hints(options).items():
        type_, flag = get_args(hint)
        flags |= dict.fromkeys(flag.names, (name, type_))
    rest: list[str] = []
    found: dict[str, Any] = {}
    left = iter(arguments)
    for argument in left:
        if not argument.startswith("-"):
            rest.append(argument)
            continue
        written, equals, value = argument.partition("=") if argument.startswith("--") else (argument, "", "")
        name, type_ = flags.get(written, ("", None))
        types = get_args(type_)
        if not equals:
            value = next(left, "")
        if not name or not value or value.startswith("-"):
            return None
        if list[str] in types:
            found.setdefault(name, []).append(value)
        elif str in types or Path in types:
            found[name] = Path(value) if Path in types else value
        else:
            return None
    return rest, options(**found)


def choose(options: LogOptions, environ: Mapping[str, str] = os.environ) -> Chosen:
    """Flags, environment and TOML as one. Raises ConfigError."""
    flags: dict[str, Any] = {
        name: value
        for name, value in vars(options).items()
        if name not in ("bootstrap", "extra", "config", "sql", "redis", "from_", *BESIDE)
    }
    config = options.config or (Path(environ[PREFIX + "CONFIG"]) if environ.get(PREFIX + "CONFIG") else None)
    file = _toml(config)
    flags["connections"] = _connections(options)
    said = [_client_setting(text) for text in options.extra or ()]
    flags["kafka"] = {name: value for client, name, value in said if client == "kafka"}
    flags["registry"] = {name: value for client, name, value in said if client == "registry"}
    place = _place(options, environ, file, config)
    log_option = ""
    if place is not None:
        flags["bootstrap"], flags["data"], log_option = place
    settings = load(flags, environ, config, beside=BESIDE)
    job = {key: str(value) for key, value in _table(file, "set").items()}
    job |= {
        name.removeprefix(PREFIX + "SET_").lower(): value
        for name, value in environ.items()
        if name.startswith(PREFIX + "SET_")
    }
    job |= dict(_pair(text, "--set", "KEY=VALUE") for text in getattr(options, "set", None) or ())
    return Chosen(
        settings,
        log_option,
        _inputs(options, environ, file),
        job,
        bool(_own("stop_at_end", "bool", options, environ, file) or False),
        int(str(_own("verbose", "int", options, environ, file) or 0)),
        str(_own("log_format", "str", options, environ, file) or "text"),
    )


def _own(name: str, kind: str, options: LogOptions, environ: Mapping[str, str], file: Mapping[str, Any]) -> object:
    """A value that is the command line's own, as `settings.load` would find it."""
    value = getattr(options, name, None)
    if value:
        return value
    for said, key, where in ((environ, PREFIX + name.upper(), PREFIX + name.upper()), (file, name, f"`{name}`")):
        if said.get(key) not in (None, ""):
            return value_of(name, kind, said[key], where)
    return None


def log_place(url: str, option: str = "--log") -> tuple[str, str]:
    """(bootstrap, directory) of a log's URL; both empty for memory. Raises ConfigError."""
    scheme, _, rest = url.partition(":")
    match scheme:
        case "kafka" if rest.startswith("//") and rest.strip("/"):
            return rest.removeprefix("//").rstrip("/"), ""
        case "dir" if rest:
            return "", rest
        case "memory" if not rest:
            return "", ""
    raise ConfigError(f"`{url}` is not a log", option=option, hint="write kafka://HOST:PORT, dir:PATH or memory:")


def _place(
    options: LogOptions, environ: Mapping[str, str], file: Mapping[str, Any], config: Path | None
) -> tuple[str, str, str] | None:
    """(bootstrap, directory, what said it): the first of flags, environment and file that says anything about the log
    says all."""
    if options.log and options.bootstrap:
        raise ConfigError("give one of --log and --bootstrap", option="--bootstrap")
    env = {
        key: environ[PREFIX + key.upper()] for key in ("log", "bootstrap", "data") if environ.get(PREFIX + key.upper())
    }
    flags = {key: value for key in ("log", "bootstrap") if (value := getattr(options, key))}
    names: tuple[tuple[Mapping[str, Any], Callable[[str], str]], ...] = (
        (flags, option_name),
        (env, lambda key: PREFIX + key.upper()),
        (file, lambda key: f"`{key}` in {config}"),
    )
    for said, name in names:
        if log := said.get("log"):
            return *log_place(str(log), name("log")), name("log")
        if said.get("bootstrap"):
            return str(said["bootstrap"]), "", name("bootstrap")
        if said.get("data"):
            return "", str(said["data"]), name("data")
    return None


def _connections(options: LogOptions) -> dict[str, str]:
    """`URL` is the connection `sql` or `redis`; `ledger=URL` is `ledger`."""
    found: dict[str, str] = {}
    for kind in ("sql", "redis"):
        for text in getattr(options, kind, None) or ():
            match = _NAMED_URL.fullmatch(text)
            if match is None or ":" not in match["url"]:
                raise ConfigError("this is not a URL", option=f"--{kind}", hint=f"write --{kind} {_EXAMPLES[kind]}")
            found[match["name"] or kind] = match["url"]
    return found


_EXAMPLES = {"sql": "postgresql://USER@HOST/DATABASE or sqlite:///FILE", "redis": "redis://HOST:6379/0"}


def _client_setting(text: str) -> tuple[str, str, str]:
    name, value = _pair(text, "-X", "kafka.KEY=VALUE")
    client, _, rest = name.partition(".")
    if client not in ("kafka", "registry") or not rest:
        raise ConfigError(
            f"`{name}` is not one of the Kafka client's settings",
            option="-X",
            hint="begin with `kafka.`, or with `registry.` for the schema registry's client",
        )
    return client, rest, value


def _inputs(options: LogOptions, environ: Mapping[str, str], file: Mapping[str, Any]) -> dict[str, list[str]]:
    texts: Iterable[str] = getattr(options, "input", None) or environ.get(PREFIX + "INPUT", "").split()
    found: dict[str, list[str]] = {}
    for text in texts:
        topic, path = _pair(text, "--input", "TOPIC=FILE.jsonl")
        found.setdefault(topic, []).append(path)
    if not found:
        for topic, paths in _table(file, "input").items():
            found[topic] = [paths] if isinstance(paths, str) else list(paths)
    return found


def inputs_from(texts: Sequence[str], topics: Sequence[str]) -> dict[str, list[str]]:
    """`parquet:PATH` stands in for the one topic of `topics`, `parquet:TOPIC=PATH` for one of several. Raises ConfigError."""
    found: dict[str, list[str]] = {}
    for text in texts:
        kind, _, rest = text.partition(":")
        if kind not in ("parquet", "jsonl") or not rest:
            raise ConfigError(f"`{text}` is no kind of files", option="--from", hint="write parquet:PATH or jsonl:PATH")
        topic, equals, path = rest.partition("=")
        if not (equals and topic in topics):
            topic, path = topics[0] if len(topics) == 1 else "", rest
        if not topic:
            raise ConfigError(
                f"which of {', '.join(topics)} is `{rest}`?", option="--from", hint=f"write {kind}:{topics[0]}={rest}"
            )
        found.setdefault(topic, []).append(path)
    return found


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigError(f"`{text}` is not {form}", option=option)
    return name, value


def _table(file: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = file.get(key, {})
    if not isinstance(table, Mapping):
        raise ConfigError("a table is expected", option=f"[{key}]")
    return table


def _toml(path: Path | None) -> Mapping[str, Any]:
    """The file's keys; what is wrong with it, `settings.load` says."""
    try:
        return tomllib.loads(path.read_text()) if path is not None else {}
    except (OSError, tomllib.TOMLDecodeError):
        return {}
