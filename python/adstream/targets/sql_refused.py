"""Rows that Postgres cannot store are set aside, so that one of them does not hold up all that come behind it.

    a text in the key that no index takes (2,704 bytes after compression)      54000
    a character that the database's encoding does not have                     22P05
    …

Only what lies in the row itself: SQLSTATE class 22 (data exception) and 54 (a limit of the server), while the table
still fits the sink. Constraints of the table's owner (class 23), rights and changed columns are somebody's to settle,
and the sink waits for it.

Set aside means: a line in `_adstream_refused` with the row as JSON and the server's reason, written in the transaction
that moves the position, so exactly once as everything else; and the sink goes on. A topic of dead letters would know a
line twice whenever a worker dies in between: a sink is no part of the log's transactions. Of each key the newest refused
row is kept. A later row of the key that the server takes is stored as ever, and the line stays until somebody deletes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from adstream.targets.values import timestamp_text

TABLE = "_adstream_refused"
_IN_THE_ROW = ("22", "54")

Row = tuple[Any, ...]


class Refused(NamedTuple):
    row: Row
    reason: str


def lies_in_a_row(sqlstate: str | None) -> bool:
    """Whether the server refused what some row holds, and would take the others."""
    return sqlstate is not None and sqlstate[:2] in _IN_THE_ROW


def apart(rows: Sequence[Row], put: Callable[[Sequence[Row]], str | None]) -> list[Refused]:
    """Puts all rows that can be put, by halves, and returns the others.

    Args:
        put: puts all of them and returns None, or changes nothing and returns why.
    """
    refused: list[Refused] = []
    pending = [rows]
    while pending:
        some = pending.pop()
        reason = put(some)
        if reason is None:
            continue
        if len(some) == 1:
            refused.append(Refused(some[0], reason))
        else:
            middle = len(some) // 2
            pending += [some[middle:], some[:middle]]
    return refused


def table(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        TABLE, metadata,
        sa.Column("app", sa.Text, primary_key=True),
        sa.Column("sink", sa.Text, primary_key=True),
        sa.Column("key_sha256", sa.Text, primary_key=True),  # of the key as JSON: the key itself may be too long
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("row", sa.Text, nullable=False),
    )  # fmt: skip


def set_aside(
    connection: sa.Connection,
    into: sa.Table,
    place: Mapping[str, Any],
    names: Sequence[str],
    key: Sequence[str],
    refused: Sequence[Refused],
) -> None:
    """Writes them down.

    Args:
        place: `app`, `sink`, `partition`, and `position`: the sink's after these rows.
        names: the columns of a row, in order; `key` are some of them.
    """
    lines = []
    for row, reason in refused:
        named = dict(zip(names, row, strict=True))
        digest = hashlib.sha256(_json([named[name] for name in key]).encode()).hexdigest()
        lines.append({**place, "key_sha256": digest, "reason": reason, "row": _json(named)})
    insert = postgresql.insert(into)
    newest = {name: insert.excluded[name] for name in ("partition", "position", "reason", "row")}
    connection.execute(insert.on_conflict_do_update(index_elements=list(into.primary_key), set_=newest), lines)


def _json(value: Any) -> str:
    return json.dumps(value, default=_text)  # ASCII, so that any database stores it


def _text(value: Any) -> str:
    return timestamp_text(value) if isinstance(value, datetime) else str(value)  # else a decimal: its digits
