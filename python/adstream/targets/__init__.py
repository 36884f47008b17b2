"""Writers of committed rows into outside systems. Which kind a sink is, its target says; how rows get there,
`delivery`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adstream.errors import ConfigError
from adstream.interfaces import Target

# kind: (the default connection, the option that names it, an example, what a missing driver is installed
# with)
_KINDS = {
    "sql": ("sql", "--sql", "postgresql://user@host/database", 'pip install sqlalchemy "psycopg[binary]"'),
    "redis_hash": ("redis", "--redis", "redis://host:6379/0", 'pip install "redis[hiredis]"'),
}


def option_of(kind: str) -> str:
    """What names the connection of a sink: `--sql`."""
    return _KINDS[kind][1] if kind in _KINDS else "sink"


def make_target(kind: str, options: Mapping[str, Any], connections: Mapping[str, str]) -> Target:
    """The target of a sink, not yet opened.

    Args:
        kind: `sql` (options: `table`) or `redis_hash` (options: `template`).
        options: the sink's; `connection` picks one by name, the default is `sql` or `redis`.
        connections: name -> URL.

    Raises:
        ConfigError: no such kind or connection, an option is missing, a driver is not installed, the URL is
        malformed.
    """
    if kind not in _KINDS:
        raise ConfigError(f"there is no sink of kind `{kind}`", option="sink", hint=f"known: {', '.join(_KINDS)}")
    default, option, example, install = _KINDS[kind]
    name = options.get("connection") or default
    url = connections.get(name)
    if not url:
        given = ", ".join(f"`{known}`" for known in sorted(connections)) or "none"
        raise ConfigError(
            f"a sink of kind `{kind}` needs the connection `{name}`; given: {given}",
            option=option,
            hint=f"{option} {'' if name == default else f'{name}='}{example}",
        )
    try:
        if kind == "sql":
            from adstream.targets.sql import SqlTarget

            return SqlTarget(url, _required(kind, options, "table"), option=option)
        from adstream.targets.redis import RedisHashTarget

        return RedisHashTarget(url, _required(kind, options, "template"), option=option)
    except ModuleNotFoundError as error:
        raise ConfigError(f"the driver `{error.name}` is not installed", option=option, hint=install) from error


def _required(kind: str, options: Mapping[str, Any], name: str) -> str:
    value = options.get(name)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"a sink of kind `{kind}` needs a text `{name}`", option="sink")
    return value
