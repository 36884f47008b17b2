"""Opens the log that was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from adstream.cli.options import Chosen
from adstream.errors import ConfigError
from adstream.interfaces import Log
from adstream.runtime.settings import Settings


def open_log(
    settings: Settings, inputs: Mapping[str, Sequence[str]] | None = None, *, option: str = "--bootstrap"
) -> Log:
    """Kafka when there is a `bootstrap`, else the embedded log in the directory `data`, else in memory.

    Args:
        inputs: topic -> JSONL files that stand in for it.
        option: what said which log.

    Raises:
        ConfigError: naming the option.
    """
    if inputs and settings.bootstrap:
        raise ConfigError(
            "files cannot stand in for a topic of Kafka: it would not keep the positions in them",
            option="--input",
            hint="use `--log dir:PATH`",
        )
    log: Log
    if settings.bootstrap:
        try:
            from adstream.logs.kafka import KafkaLog
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"`{error.name}` is not installed", option=option, hint="pip install confluent-kafka"
            ) from error
        timeout = {"transaction.timeout.ms": str(settings.transaction_timeout_ms)}
        log = KafkaLog(settings.bootstrap, timeout | dict(settings.kafka), option=option)
    else:
        from adstream.logs.embedded import EmbeddedLog

        log = EmbeddedLog(_directory(settings.data, option) if settings.data else None)
    if not inputs:
        return log
    from adstream.logs.files import FilesLog

    try:
        return FilesLog(log, inputs)
    except BaseException:
        log.close()
        raise


def existing_log(chosen: Chosen) -> Log:
    """The log of an application that has run, for commands that look at it or change it: nothing is made by asking.

    Raises:
        ConfigError: nobody said which, or there is none.
    """
    data = chosen.settings.data
    if chosen.log_named and not chosen.settings.bootstrap and data and not Path(data).expanduser().is_dir():
        raise ConfigError(f"there is no log in `{data}`", option=chosen.log_option, hint="check the path")
    return named_log(chosen)


def named_log(chosen: Chosen) -> Log:
    """Raises ConfigError: nobody said which."""
    if not chosen.log_named:
        raise ConfigError("which log?", option="--log", hint="give --bootstrap HOST:PORT or --log dir:PATH")
    return open_log(chosen.settings, option=chosen.log_option)


def _directory(path: str, option: str) -> Path:
    directory = Path(path).expanduser()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"`{directory}` cannot be used: {error.strerror}", option=option) from error
    return directory
