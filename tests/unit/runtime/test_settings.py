"""Settings: where a value comes from, and what is said about a wrong one."""

from pathlib import Path

import pytest

from adstream.errors import ConfigError
from adstream.runtime.durations import duration_ms
from adstream.runtime.settings import Settings, load


def test_flags_before_environment_before_toml(tmp_path: Path) -> None:
    toml = tmp_path / "adstream.toml"
    toml.write_text(
        'app = "a"\ncommit_interval = "1s"\nworkers = 4\nbatch_rows_max = 5\n[kafka]\n"sasl.username" = "u"\n'
    )
    environ = {
        "ADSTREAM_COMMIT_INTERVAL": "2s",
        "ADSTREAM_WORKERS": "3",
        "ADSTREAM_KAFKA_SASL_PASSWORD": "p",
        "ADSTREAM_SQL": "postgresql://u:pw@h/d",
        "ADSTREAM_SOMETHING_ELSE": "is not ours",
        "ADSTREAM_APP": "",  # as deployments write what they do not set
        "ADSTREAM_METRICS_PORT": "",
        "ADSTREAM_REDIS": "",
        "HOME": "/",
    }
    settings = load({"commit_interval": "3s", "workers": None, "create_topics": True}, environ, toml)
    assert settings.app == "a"
    assert settings.commit_interval_ms == 3_000
    assert settings.workers == 3
    assert settings.batch_rows_max == 5
    assert settings.create_topics is True
    assert settings.kafka == {"sasl.username": "u", "sasl.password": "p"}
    assert settings.connections == {"sql": "postgresql://u:pw@h/d"}


def test_defaults() -> None:
    assert load({}, {}) == Settings()
    assert Settings().exactly_once


def test_secrets_are_not_shown() -> None:
    settings = Settings(
        connections={"sql": "postgresql://user:secret@h:5432/d", "ledger": "redis://:secret@h"},
        kafka={"sasl.password": "secret", "client.id": "x", "ssl.key.password": "secret"},
    )
    assert "secret" not in repr(settings)
    assert "postgresql://user:***@h:5432/d" in repr(settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('commit_intervall = "1s"', "did you mean `commit_interval`"),
        ("commit_interval = 100", "`100` is not a duration"),
        ('commit_interval = "5 minutes"', "is not a duration"),
        ('guarantee = "maybe"', "--guarantee: `maybe` is not one of exactly_once"),
        ('workers = "many"', "is not a whole number"),
        ("batch_rows_max = 0", "--batch-rows-max: 0 is less than 1"),
        ("kafka = 3", "a table of texts is expected"),
        ("a = ", "is not TOML"),
    ],
)
def test_wrong_ones_are_named(tmp_path: Path, text: str, message: str) -> None:
    toml = tmp_path / "adstream.toml"
    toml.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load({}, {}, toml)


@pytest.mark.parametrize(("text", "ms"), [("100ms", 100), ("1h30m", 5_400_000), ("2d", 172_800_000), ("0s", 0)])
def test_durations(text: str, ms: int) -> None:
    assert duration_ms(text, "--x") == ms


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ADSTREAM_COMMIT_INTERVALL", "ADSTREAM_COMMIT_INTERVAL"),
        ("ADSTREAM_GUARANTE", "ADSTREAM_GUARANTEE"),
        ("ADSTREAM_METRIC_PORT", "ADSTREAM_METRICS_PORT"),
        ("ADSTREAM_BOOTSTRAPS", "ADSTREAM_BOOTSTRAP"),
        ("ADSTREAM_STOP_ATEND", "ADSTREAM_STOP_AT_END"),
    ],
)
def test_a_misspelt_variable_is_an_error_that_names_the_right_one(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match="there is no such setting") as raised:
        load(environ={name: "1"}, beside=("stop_at_end",))
    assert (raised.value.option, raised.value.hint) == (name, f"did you mean `{meant}`?")
    load(environ={name: ""})  # not set


@pytest.mark.parametrize("name", ["PORT", "PORT_8080_TCP_ADDR", "SERVICE_HOST", "SERVICE_PORT", "SET_GRACE", "HOME"])
def test_a_variable_that_is_like_no_setting_is_passed_over(name: str) -> None:
    assert load(environ={f"ADSTREAM_{name}": "1"}) == load(environ={})


def test_the_unit_may_be_said_in_a_variable_as_in_a_file() -> None:
    assert load(environ={"ADSTREAM_COMMIT_INTERVAL_MS": "200ms"}).commit_interval_ms == 200
