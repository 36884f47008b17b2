"""A topology on a few rows, and what comes out as an Arrow table: for notebooks.

It is the test driver with one partition: state, windows and commits are the real ones, nothing is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from adstream._core import Plan
from adstream.dsl.graph import Graph, Port
from adstream.dsl.topology import Built
from adstream.formats.rows import arrow_schema
from adstream.testing.driver import Record, TopologyTestDriver

_PREVIEW = "adstream-preview"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def preview(built: Built, rows: Any, output: str | None, limit: int | None) -> Any:
    """See `Topology.preview`."""
    with TopologyTestDriver(built, partitions=1) as driver:
        for topic, some in _by_topic(built, rows).items():
            for row in some:
                driver.input(topic).pipe(row)
        found = output or _first(built)
        if found in driver.partitions:
            made = _of_topic(built, found, driver.output(found).read())
        else:
            made = _table([dict(row) for row in driver.table(found).values()], None)
    return made if limit is None else made.slice(0, limit)


def head(graph: Graph, port: Port, columns: Mapping[str, str], rows: Any, limit: int) -> Any:
    """See `Stream.head`."""
    nodes = tuple(graph.nodes)
    last = {
        "id": len(nodes),
        "op": "to_topic",
        "name": _PREVIEW,
        "inputs": [list(port)],
        "line": None,
        "topic": _PREVIEW,
        "key": None,
        "columns": [name for name in columns if not name.startswith("$")],
        "format": "json",
    }
    plan: dict[str, Any] = {"app": graph.app, "nodes": [*(node.to_plan() for node in nodes), last]}
    plan |= {name: found for name, found in (("stores", graph.stores), ("globals", graph.globals)) if found}
    built = Built(graph.app, plan, tuple(graph.callables), dict(graph.settings), nodes)
    return preview(built, rows, _PREVIEW, limit)


def _by_topic(built: Built, rows: Any) -> dict[str, Iterable[Any]]:
    """Rows of each input. Raises ValueError: it cannot be told whose they are."""
    inputs = built.inputs
    if isinstance(rows, Mapping) and rows and set(rows) <= set(inputs):
        return {topic: _rows(some) for topic, some in rows.items()}
    if len(inputs) != 1:
        raise ValueError(f"rows of which topic? Give a dict: {{{inputs[0]!r}: […], …}} of {', '.join(inputs)}")
    return {inputs[0]: _rows(rows)}


def _rows(rows: Any) -> Iterable[Any]:
    """A list of dicts, or a frame of Arrow, Polars or pandas."""
    if isinstance(rows, Sequence):
        return rows
    if hasattr(rows, "__arrow_c_stream__"):
        import pyarrow as pa

        found: list[Any] = pa.table(rows).to_pylist()
        return found
    return list(rows)


def _first(built: Built) -> str:
    for node in built.plan["nodes"]:
        if node["op"] == "to_topic":
            return str(node["topic"])
        if node["op"] == "flow" and node["kind"] == "to" and not node.get("internal"):
            return str(node["topics"][0])
    for op in ("sink", "aggregate"):
        for node in built.plan["nodes"]:
            if node["op"] == op:
                return str(node["name"])
    raise ValueError("nothing comes out of this topology: it has no `to`, no sink, no table")


def _of_topic(built: Built, topic: str, records: Sequence[Record]) -> Any:
    times = [_EPOCH + record.timestamp * _MS for record in records]
    types = _types(built, topic)
    rows: list[dict[str, Any]] = []
    for record, at in zip(records, times, strict=True):
        value = record.value if isinstance(record.value, Mapping) else {"value": record.value}
        keyed = {} if types is not None else {"key": _plain_key(record.key)}
        rows.append({**keyed, **value, "$timestamp": at})
    if types is None:
        return _table(rows, None)
    if _format(built, topic) == "json":
        for row in rows:
            for name, kind in types.items():
                row[name] = _typed(row[name], kind)
    return _table(rows, arrow_schema({**types, "$timestamp": "timestamp"}))


def _format(built: Built, topic: str) -> str:
    nodes = built.plan["nodes"]
    return next((n["format"] for n in nodes if n["op"] == "to_topic" and n["topic"] == topic), "json")


def _types(built: Built, topic: str) -> dict[str, str] | None:
    """The columns of a topic of rows, if all that write it agree; else None."""
    description = json.loads(Plan(built.json, built.callables).describe())
    columns = {node["id"]: node["columns"] for sub in description["subtopologies"] for node in sub["nodes"]}
    found = []
    for node in built.plan["nodes"]:
        if node["op"] == "to_topic" and node["topic"] == topic:
            source, port = node["inputs"][0]
            types = dict(text.split(": ", 1) for text in columns[source][port])
            found.append({name: types[name] for name in node["columns"]})
    return found[0] if found and all(types == found[0] for types in found) else None


def _typed(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind.startswith("decimal"):
        return Decimal(value)
    return datetime.fromisoformat(value) if kind == "timestamp" else value


def _plain_key(key: Any) -> Any:
    if hasattr(key, "start") and hasattr(key, "key"):
        return {"key": key.key, "start": _EPOCH + key.start * _MS, "end": _EPOCH + key.end * _MS}
    return key


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow as pa

    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows], schema=schema)
