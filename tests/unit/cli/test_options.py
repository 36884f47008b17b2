"""Flags, environment and TOML, in that order."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adstream import ConfigError
from adstream.cli import describing
from adstream.cli.commands import app
from adstream.cli.options import Chosen, JobOptions, LogOptions, RunOptions, choose, log_place, parse
from adstream.runtime.settings import Settings


def chosen(environ: dict[str, str] | None = None, **flags):
    return choose(RunOptions(**flags), environ or {})


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("kafka://broker:9092", ("broker:9092", "")),
        ("kafka://a:1,b:2/", ("a:1,b:2", "")),
        ("dir:some/where", ("", "some/where")),
        ("dir:/abs", ("", "/abs")),
        ("memory:", ("", "")),
    ],
)
def test_a_logs_url(url, place):
    assert log_place(url) == place


@pytest.mark.parametrize(
    "url", ["", "broker:9092", "kafka:", "kafka://", "kafka:broker", "dir:", "memory:x", "http://x"]
)
def test_what_is_no_log(url):
    with pytest.raises(ConfigError, match="is not a log") as raised:
        log_place(url)
    assert raised.value.option == "--log"


def test_whoever_comes_first_says_where_the_log_is(tmp_path: Path):
    file = tmp_path / "a.toml"
    file.write_text('log = "dir:from-file"\ncommit_interval = "1s"\n')
    assert chosen(config=file).settings.data == "from-file"
    by_environ = chosen({"ADSTREAM_BOOTSTRAP": "b:1"}, config=file)
    assert (by_environ.settings.bootstrap, by_environ.settings.data) == ("b:1", "")
    by_flag = chosen({"ADSTREAM_LOG": "kafka://b:1", "ADSTREAM_COMMIT_INTERVAL": "2s"}, config=file, log="dir:flag")
    assert (by_flag.settings.bootstrap, by_flag.settings.data) == ("", "flag")
    assert by_flag.settings.commit_interval_ms == 2000
    assert by_flag.log_named
    assert not chosen().log_named
    assert chosen(log="memory:").log_named


def test_log_and_bootstrap_are_one_option():
    assert chosen(bootstrap="h:1").settings == chosen(log="kafka://h:1").settings
    with pytest.raises(ConfigError, match="one of --log and --bootstrap"):
        chosen(bootstrap="h:1", log="memory:")


def test_connections_have_names():
    urls = ["postgresql://u:p@h/db?options=-c%20x=y", "ledger=sqlite:///l.db"]
    settings = chosen({"ADSTREAM_CONNECTION_OTHER": "redis://o"}, sql=urls, redis=["redis://r:1/0"]).settings
    assert settings.connections == {
        "sql": urls[0],
        "ledger": "sqlite:///l.db",
        "redis": "redis://r:1/0",
        "other": "redis://o",
    }
    with pytest.raises(ConfigError, match="--sql: this is not a URL"):
        chosen(sql=["nonsense"])


def test_settings_of_the_client():
    settings = chosen(
        {"ADSTREAM_KAFKA_SASL_PASSWORD": "s"}, extra=["kafka.security.protocol=SSL", "kafka.a=b=c"]
    ).settings
    assert settings.kafka == {"security.protocol": "SSL", "a": "b=c", "sasl.password": "s"}
    environ = {"ADSTREAM_REGISTRY_BASIC_AUTH_USER_INFO": "me:hidden", "ADSTREAM_SCHEMA_REGISTRY": "http://a"}
    settings = chosen(environ, extra=["registry.ssl.ca.location=ca.pem"], schema_registry="http://b").settings
    assert settings.registry == {
        "url": "http://b", "basic.auth.user.info": "me:hidden", "ssl.ca.location": "ca.pem"
    }  # fmt: skip
    assert "hidden" not in repr(settings)
    for wrong in ("security.protocol=SSL", "kafka.x"):
        with pytest.raises(ConfigError, match="-X"):
            chosen(extra=[wrong])


def test_what_only_the_command_line_has(tmp_path: Path):
    file = tmp_path / "a.toml"
    file.write_text('stop_at_end = true\n[input]\nads = ["a", "b"]\nmore = "c"\n[set]\ngrace = "1s"\nleast = 3\n')
    by_file = chosen(config=file)
    assert by_file.stop_at_end
    assert by_file.inputs == {"ads": ["a", "b"], "more": ["c"]}
    assert by_file.job == {"grace": "1s", "least": "3"}
    environ = {"ADSTREAM_INPUT": "ads=x ads=y", "ADSTREAM_SET_GRACE": "2s", "ADSTREAM_STOP_AT_END": "false"}
    by_environ = chosen(environ, config=file)
    assert (by_environ.stop_at_end, by_environ.inputs) == (False, {"ads": ["x", "y"]})
    assert by_environ.job == {"grace": "2s", "least": "3"}
    by_flag = chosen(environ, config=file, input=["ads=z"], set=["grace=3s"], stop_at_end=True)
    assert (by_flag.stop_at_end, by_flag.inputs, by_flag.job["grace"]) == (True, {"ads": ["z"]}, "3s")


SAME: dict[str, tuple[object, dict[str, str], str, Callable[[Chosen], object]]] = {
    "log": ("dir:x", {"ADSTREAM_LOG": "dir:x"}, 'log = "dir:x"', lambda c: (c.settings.data, c.log_named)),
    "bootstrap": ("h:1", {"ADSTREAM_BOOTSTRAP": "h:1"}, 'bootstrap = "h:1"', lambda c: c.settings.bootstrap),
    "extra": (
        ["kafka.client.id=x"],
        {"ADSTREAM_KAFKA_CLIENT_ID": "x"},
        '[kafka]\n"client.id" = "x"',
        lambda c: c.settings.kafka,
    ),
    "set": (["grace=1s"], {"ADSTREAM_SET_GRACE": "1s"}, '[set]\ngrace = "1s"', lambda c: c.job),
    "app": ("a", {"ADSTREAM_APP": "a"}, 'app = "a"', lambda c: c.settings.app),
    "input": (["t=f"], {"ADSTREAM_INPUT": "t=f"}, '[input]\nt = "f"', lambda c: c.inputs),
    "sql": (
        ["l=sqlite:///l"],
        {"ADSTREAM_CONNECTION_L": "sqlite:///l"},
        '[connections]\nl = "sqlite:///l"',
        lambda c: c.settings.connections,
    ),
    "schema_registry": (
        "http://r:8081",
        {"ADSTREAM_SCHEMA_REGISTRY": "http://r:8081"},
        'schema_registry = "http://r:8081"',
        lambda c: c.settings.registry,
    ),
    "redis": (["redis://h"], {"ADSTREAM_REDIS": "redis://h"}, 'redis = "redis://h"', lambda c: c.settings.connections),
    "guarantee": (
        "at_least_once",
        {"ADSTREAM_GUARANTEE": "at_least_once"},
        'guarantee = "at_least_once"',
        lambda c: c.settings.guarantee,
    ),
    "commit_interval": (
        "1s",
        {"ADSTREAM_COMMIT_INTERVAL": "1s"},
        'commit_interval = "1s"',
        lambda c: c.settings.commit_interval_ms,
    ),
    "cache": ("false", {"ADSTREAM_CACHE": "0"}, "cache = false", lambda c: c.settings.cache),
    "dead_letters_max": (
        "1% in 5m",
        {"ADSTREAM_DEAD_LETTERS_MAX": "1% in 5m"},
        'dead_letters_max = "1% in 5m"',
        lambda c: c.settings.dead_letters_max,
    ),
    "workers": (3, {"ADSTREAM_WORKERS": "3"}, "workers = 3", lambda c: c.settings.workers),
    "store_type": ("disk", {"ADSTREAM_STORE_TYPE": "disk"}, 'store_type = "disk"', lambda c: c.settings.store_type),
    "standbys": (2, {"ADSTREAM_STANDBYS": "2"}, "standbys = 2", lambda c: c.settings.standbys),
    "state_dir": ("d", {"ADSTREAM_STATE_DIR": "d"}, 'state_dir = "d"', lambda c: c.settings.state_dir),
    "metrics_port": (9, {"ADSTREAM_METRICS_PORT": "9"}, "metrics_port = 9", lambda c: c.settings.metrics_port),
    "create_topics": (
        True,
        {"ADSTREAM_CREATE_TOPICS": "1"},
        "create_topics = true",
        lambda c: c.settings.create_topics,
    ),
    "stop_at_end": (True, {"ADSTREAM_STOP_AT_END": "true"}, "stop_at_end = true", lambda c: c.stop_at_end),
    "verbose": (2, {"ADSTREAM_VERBOSE": "2"}, "verbose = 2", lambda c: c.verbose),
    "log_format": ("json", {"ADSTREAM_LOG_FORMAT": "json"}, 'log_format = "json"', lambda c: c.log_format),
}
"""An option of `run` as a flag, in the environment, in a file, and where it ends up."""


@pytest.mark.parametrize("name", [f.name for f in fields(RunOptions) if f.name != "config"])
def test_every_option_of_run_by_flag_environment_and_file(tmp_path: Path, name: str):
    flag, environ, text, value = SAME[name]
    file = tmp_path / "a.toml"
    file.write_text(text + "\n")
    by_flag = value(chosen(**{name: flag}))
    assert by_flag != value(chosen()), "it has to show"
    assert by_flag == value(chosen(environ))
    assert by_flag == value(chosen(config=file))
    assert by_flag == value(chosen({"ADSTREAM_CONFIG": str(file)}))


@pytest.mark.parametrize("name", [f.name for f in fields(Settings)])
def test_every_setting_by_environment_and_file(tmp_path: Path, name: str):
    """Those without a flag, too. `kafka`, `registry`, `connections` and `data` are said as above."""
    if name in ("kafka", "registry", "connections", "data"):
        return
    kind = next(str(f.type) for f in fields(Settings) if f.name == name)
    texts = {
        "guarantee": "at_least_once",
        "dead_letters_max": "2% in 1m",
        "partition_check": "error",
        "on_uncaught": "stop_worker",
        "store_type": "disk",
    }
    text = texts.get(name, "1")
    other = "false" if getattr(Settings(), name) is True else "true"
    text = "7s" if name.endswith("_ms") else other if kind == "bool" else "7" if kind == "int" else text
    key = name.removesuffix("_ms")
    file = tmp_path / "a.toml"
    file.write_text(f'{key} = "{text}"\n')
    by_file = getattr(chosen(config=file).settings, name)
    assert by_file != getattr(Settings(), name)
    assert by_file == getattr(chosen({f"ADSTREAM_{key.upper()}": text}).settings, name)


@pytest.mark.parametrize("key", ["comit_interval", "stop_at_ende", "worker", "sqll", "inputs", "log_fromat"])
def test_an_unknown_key_of_a_file_is_refused_with_the_nearest(tmp_path: Path, key: str):
    file = tmp_path / "a.toml"
    file.write_text(f"{key} = 1\n")
    with pytest.raises(ConfigError, match=f"`{key}` in .*there is no such setting\n.*did you mean"):
        chosen(config=file)


@pytest.mark.parametrize("arguments", ["job --app a --set x=1 --set y=2 -X kafka.a=b --config=f", "job --log=dir:x"])
def test_options_are_parsed_as_typer_does(arguments: str, monkeypatch: pytest.MonkeyPatch):
    heard: list[tuple[str, JobOptions]] = []
    monkeypatch.setattr(describing, "describe", lambda job, options, as_json: heard.append((job, options)))
    assert CliRunner().invoke(app, ["describe", *arguments.split()]).exit_code == 0
    parsed = parse(JobOptions, arguments.split())
    assert parsed is not None
    assert (parsed[0], parsed[1]) == ([heard[0][0]], heard[0][1])


@pytest.mark.parametrize("arguments", ["job --help", "job --ap a", "job --app", "--app --set x=1 job", "job --json"])
def test_what_is_not_plain_is_left_to_typer(arguments: str):
    assert parse(JobOptions, arguments.split()) is None


def test_an_unknown_key_names_the_nearest(tmp_path: Path):
    file = tmp_path / "a.toml"
    file.write_text("comit_interval = '1s'\n")
    with pytest.raises(ConfigError, match="did you mean `commit_interval`"):
        choose(LogOptions(config=file), {})


def test_a_file_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigError, match="--config"):
        choose(LogOptions(config=tmp_path / "none.toml"), {})
