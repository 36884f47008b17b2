"""Flags, environment and TOML, in that order."""

from pathlib import Path

import pytest

from adstream import ConfigError
from adstream.cli.options import LogOptions, RunOptions, choose, log_place


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


def test_an_unknown_key_names_the_nearest(tmp_path: Path):
    file = tmp_path / "a.toml"
    file.write_text("comit_interval = '1s'\n")
    with pytest.raises(ConfigError, match="did you mean `commit_interval`"):
        choose(LogOptions(config=file), {})


def test_a_file_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigError, match="--config"):
        choose(LogOptions(config=tmp_path / "none.toml"), {})
