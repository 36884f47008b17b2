"""From a sink's kind and options to a target, and what is refused on the way."""

from typing import Any

import pytest

from adstream.errors import ConfigError
from adstream.targets import make_target
from adstream.targets.redis import RedisHashTarget
from adstream.targets.sql import SqlTarget

CONNECTIONS = {
    "sql": "postgresql://me:s3cret@nowhere/db",
    "ledger": "sqlite:///ledger.db",
    "redis": "redis://:s3cret@nowhere:6379/0",
}


def test_each_kind_has_its_target() -> None:
    assert isinstance(make_target("sql", {"table": "t"}, CONNECTIONS), SqlTarget)
    assert isinstance(make_target("sql", {"table": "t", "connection": "ledger"}, CONNECTIONS), SqlTarget)
    assert isinstance(make_target("redis_hash", {"template": "m:{id}"}, CONNECTIONS), RedisHashTarget)


@pytest.mark.parametrize(
    ("kind", "options", "connections", "option", "message"),
    [
        ("http", {}, CONNECTIONS, "sink", "no sink of kind `http`"),
        ("sql", {"table": "t"}, {}, "--sql", "needs the connection `sql`"),
        ("sql", {"table": "t", "connection": "x"}, CONNECTIONS, "--sql", "`ledger`, `redis`, `sql`"),
        ("redis_hash", {"template": "m:{id}"}, {"sql": "sqlite:///x"}, "--redis", "needs the connection `redis`"),
        ("sql", {}, CONNECTIONS, "sink", "needs a text `table`"),
        ("redis_hash", {"template": ""}, CONNECTIONS, "sink", "needs a text `template`"),
    ],
)
def test_what_is_missing_is_named(
    kind: str, options: dict[str, Any], connections: dict[str, str], option: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_target(kind, options, connections)
    assert caught.value.option == option


@pytest.mark.parametrize(
    "url", ["s3cret", "postgresql://me:s3cret@host:port/db", "postgresql://me:s3cret@host", "mysql://me:s3cret@h/d",
            "postgresql+psycopg2://me:s3cret@h/d", "sqlite://", "sqlite:///:memory:", ""],
)  # fmt: skip
def test_a_bad_database_url_does_not_show_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SqlTarget(url, "t")
    assert caught.value.option == "--sql"
    assert caught.value.hint
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["s3cret", "http://:s3cret@host", "redis://:s3cret@host:port/0", "redis://:s3cret@host/x", ""]
)
def test_a_bad_redis_url_does_not_show_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisHashTarget(url, "m:{id}")
    assert caught.value.option == "--redis"
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("template", ["m", "m:{}", "m:{id", "m:{id!r}", "m:{id:>4}", "{a}{b}", "{a}x{b}", "{a}%{b}"])
def test_templates_that_could_mistake_one_row_for_another(template: str) -> None:
    with pytest.raises(ConfigError, match="template"):
        RedisHashTarget("redis://nowhere", template)
