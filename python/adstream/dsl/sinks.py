"""Where rows go outside Kafka, as frozen declarations. No driver is imported here.

    Sql("ad_metrics", key=["campaign_id", "metric_time"])     a table, one row per key, kept current
    RedisHash("product-metrics:{product_id}")                 a hash per key, kept current

A sink names a *connection* (`connection="ledger"`; the defaults are what `--sql` and `--redis` give), never a
URL.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from adstream.dsl.faults import fault


class Sink(Protocol):
    """What `.sink()` takes."""

    @property
    def kind(self) -> str:
        """The runtime's name of it."""

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that name a row in the target."""

    @property
    def target(self) -> str:
        """What it writes to, for the node's name."""

    @property
    def options(self) -> dict[str, Any]:
        """What the runtime needs, as JSON."""


@dataclass(frozen=True, slots=True, repr=False)
class Sql:
    """A SQL table, one row per key: inserted, then kept current.

    Args:
        table: its name, `schema.table` if need be; it is created when missing.
        key: the columns of its primary key; they must contain the stream's key.
        connection: the name of the connection.

    Raises:
        TopologyError: `bad_argument`, `sink_key_missing`.
    """

    table: str
    key: tuple[str, ...]
    connection: str = "sql"
    kind: str = field(default="sql", init=False)

    def __init__(self, table: str, *, key: str | Sequence[str] = (), connection: str = "sql") -> None:
        names = (key,) if isinstance(key, str) else tuple(key)
        if not isinstance(table, str) or not all(table.split(".")):
            raise fault(
                "bad_argument",
                f"not a table: {table!r}",
                operation="Sql",
                hint='write its name, or `"schema.table"`',
            )
        if not names:
            raise fault(
                "sink_key_missing",
                f"the table `{table}` needs a key: the columns that name a row",
                operation="Sql",
                hint=f'write `Sql("{table}", key=[…])` with the columns of the aggregate\'s group_by',
            )
        for name, value in (("table", table), ("key", names), ("connection", connection), ("kind", "sql")):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        key = ", ".join(f'"{name}"' for name in self.key)
        return f'Sql("{self.table}", key=[{key}], connection="{self.connection}")'

    @property
    def target(self) -> str:
        return self.table

    @property
    def options(self) -> dict[str, Any]:
        return {"table": self.table, "connection": self.connection}


@dataclass(frozen=True, slots=True, repr=False)
class RedisHash:
    """A Redis hash per row, its fields are the row's columns.

    Args:
        template: the hash's name with columns in braces; these columns are the sink's key.
        connection: the name of the connection.

    Raises:
        TopologyError: `bad_template`, `sink_key_missing`.
    """

    template: str
    connection: str = "redis"
    kind: str = field(default="redis_hash", init=False)

    def __post_init__(self) -> None:
        try:
            parts = list(string.Formatter().parse(self.template))
        except ValueError as error:
            raise fault(
                "bad_template",
                f"`{self.template}` is not a template: {error}",
                operation="RedisHash",
                hint="write columns in braces: `product-metrics:{product_id}`",
            ) from None
        names = [name for _, name, _, _ in parts if name is not None]
        if any(spec or conversion for _, _, spec, conversion in parts) or not all(n.isidentifier() for n in names):
            raise fault(
                "bad_template",
                f"`{self.template}`: braces hold a column's name and nothing else",
                operation="RedisHash",
                hint="write columns in braces: `product-metrics:{product_id}`",
            )
        if not names:
            raise fault(
                "sink_key_missing",
                f"`{self.template}` names no column, so all rows would share one hash",
                operation="RedisHash",
                hint="write the key's columns in braces: `product-metrics:{product_id}`",
            )

    def __repr__(self) -> str:
        return f'RedisHash("{self.template}", connection="{self.connection}")'

    @property
    def key(self) -> tuple[str, ...]:
        names = (name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None)
        return tuple(dict.fromkeys(names))

    @property
    def target(self) -> str:
        return self.template.split("{", 1)[0].strip(":-_. ") or "hash"

    @property
    def options(self) -> dict[str, Any]:
        return {"template": self.template, "connection": self.connection}
