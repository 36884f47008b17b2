"""A Confluent-compatible schema registry, by Confluent's own client (authentication, TLS, retries, cache).

Three things can go wrong, and each has one exception here. The registry does not know an id: `ValueError`, the record's
fault. It does not answer, or not us: `RegistryUnavailableError`, nobody's record is to blame and the task must wait. It
refuses a schema: `ConfigError`, at the start where that can be known.

`mock://NAME` is a registry in this process, one for each name, as in Java; `mock://` one that nobody else has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from adstream.errors import ConfigError, RegistryUnavailableError

OPTION = "--schema-registry"
TIMEOUT_S = 10.0

Connect = Callable[[str | None], "Registry"]
"""A URL, or None for the one of the settings."""

_numbers = {"timeout", "cache.latest.ttl.sec"}
_wholes = {"cache.capacity", "max.retries", "retries.wait.ms", "retries.max.wait.ms"}
_mocks: dict[str, Registry] = {}
_lock = threading.Lock()


class Registry:
    """One registry.

    Args:
        url: `http://HOST:PORT`, several with commas between them, or `mock://NAME`.
        settings: of Confluent's client: `basic.auth.user.info`, `ssl.ca.location`, …

    Raises:
        ConfigError: the client does not take the settings, or is not installed.
    """

    def __init__(self, url: str, settings: Mapping[str, str], option: str) -> None:
        self.url, self.option = url, option
        try:
            from confluent_kafka.schema_registry import SchemaRegistryClient
        except ImportError as error:
            raise ConfigError(
                f"`{error.name}` is not installed", option=option, hint="pip install 'adstream[avro]'"
            ) from error
        conf: dict[str, Any] = {"timeout": TIMEOUT_S} | {name: _typed(name, text) for name, text in settings.items()}
        try:
            self.client = SchemaRegistryClient.new_client({"url": url} | conf)
        except (ValueError, TypeError, OSError) as error:
            raise ConfigError(f"`{_masked(url)}`: {error}", option=option) from error

    def check(self) -> None:
        """Raises ConfigError when it does not answer."""
        from confluent_kafka.schema_registry import SchemaRegistryError

        try:
            self._ask(lambda: self.client.get_config())
        except RegistryUnavailableError as error:
            raise ConfigError(
                str(error), option=self.option, hint="is it running, and is this its address (and its password)?"
            ) from error
        except SchemaRegistryError:
            pass  # it answers

    def schema(self, number: int) -> Any:
        """The schema with an id. Raises ValueError: there is none."""
        from confluent_kafka.schema_registry import SchemaRegistryError

        try:
            return self._ask(lambda: self.client.get_schema(number))
        except SchemaRegistryError as error:
            raise ValueError(
                f"the registry {_masked(self.url)} has no schema with the id {number}: {error.error_message}"
            ) from None

    def number(self, subject: str, schema: Any, *, register: bool) -> int:
        """The id of a schema under a subject, registered if it may be. Raises ConfigError: it is refused."""
        from confluent_kafka.schema_registry import SchemaRegistryError

        try:
            if register:
                return int(self._ask(lambda: self.client.register_schema(subject, schema)))
            return int(self._ask(lambda: self.client.lookup_schema(subject, schema)).schema_id)
        except SchemaRegistryError as error:
            if register:
                text = f"the schema for `{subject}` is refused: {error.error_message}"
                hint = "change it so that it is compatible with the versions before, or write to another subject"
            else:
                text = f"the schema for `{subject}` is not registered: {error.error_message}"
                hint = "register it, or leave out `auto_register=False`"
            raise ConfigError(text, option=self.option, hint=hint) from error

    def latest(self, subject: str) -> tuple[int, Any]:
        """(id, schema) of a subject's newest version. Raises ConfigError: there is none."""
        from confluent_kafka.schema_registry import SchemaRegistryError

        try:
            found = self._ask(lambda: self.client.get_latest_version(subject))
        except SchemaRegistryError as error:
            raise ConfigError(
                f"the subject `{subject}` has no version: {error.error_message}",
                option=self.option,
                hint="register a schema, or give one (`schema=`)",
            ) from error
        return int(found.schema_id), found.schema

    def version(self, subject: str, version: int) -> Any:
        """The schema of one version of a subject, which another schema refers to."""
        return self._ask(lambda: self.client.get_version(subject, version)).schema

    def _ask(self, call: Callable[[], Any]) -> Any:
        from confluent_kafka.schema_registry import SchemaRegistryError

        try:
            return call()
        except SchemaRegistryError as error:
            if error.http_status_code in (401, 403, 407, 429) or error.http_status_code >= 500:
                raise RegistryUnavailableError(_masked(self.url), str(error.error_message)) from error
            raise
        except _transport_errors() as error:
            raise RegistryUnavailableError(_masked(self.url), str(error) or type(error).__name__) from error

    def __del__(self) -> None:
        if (client := getattr(self, "client", None)) is not None:
            client.close()  # its connections are sockets that nobody else closes

    def __repr__(self) -> str:
        return f"<Registry {_masked(self.url)}>"


def connect(functions: Iterable[object], settings: Mapping[str, str], *, default: str | None = None) -> None:
    """Hands registries to a plan's functions that want one, and asks each registry whether it is there.

    Args:
        settings: `url`, and what Confluent's client knows.
        default: the URL when the settings have none.

    Raises:
        ConfigError: no registry is named, it does not answer, or it refuses a schema.
    """
    opened: dict[str, Registry] = {}
    own = settings.get("url") or default

    def registry(url: str | None) -> Registry:
        chosen = url or own
        if chosen is None:
            raise ConfigError("which schema registry?", option=OPTION, hint=f"write `{OPTION} http://HOST:8081`")
        if chosen not in opened:
            rest = {name: text for name, text in settings.items() if name != "url"}
            opened[chosen] = open_registry(chosen, rest, OPTION if url is None else f"registry={_masked(url)}")
            opened[chosen].check()
        return opened[chosen]

    for function in functions:
        if (wants := getattr(function, "connect", None)) is not None and hasattr(function, "__adstream_codec__"):
            wants(registry)


def open_registry(url: str, settings: Mapping[str, str], option: str) -> Registry:
    if not url.startswith("mock://") or url == "mock://":
        return Registry(url, settings, option)
    with _lock:
        if url not in _mocks:
            _mocks[url] = Registry(url, {}, option)
        return _mocks[url]


def _typed(name: str, text: str) -> Any:
    if name in _wholes:
        return int(text)
    if name in _numbers:
        return float(text)
    return False if name == "ssl.ca.location" and text.lower() == "false" else text


def _masked(url: str) -> str:
    head, sign, rest = url.partition("://")
    _, at, host = rest.rpartition("@")
    return f"{head}{sign}***@{host}" if at else url


def _transport_errors() -> tuple[type[Exception], ...]:
    """Of the client's HTTP library, whose name depends on the version of Python."""
    from confluent_kafka.schema_registry.error import OAuthTokenError

    found: list[type[Exception]] = [OSError, OAuthTokenError]
    for name in ("httpx2", "httpx"):
        try:
            found.append(__import__(name).HTTPError)
        except ImportError:
            continue
    return tuple(found)
