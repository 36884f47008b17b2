"""`format=` of rows: a name or a serde becomes a callable of the plan and the parameters that say so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from adstream.dsl import serdes
from adstream.dsl.faults import fault, nearest
from adstream.dsl.graph import Graph
from adstream.dsl.schema import Field
from adstream.dsl.serdes import Serde

NAMES = ("json", "avro", "json_schema", "arrow")


def read(graph: Graph, format: object, topic: str, fields: Sequence[Field], operation: str) -> dict[str, Any]:
    """What a source of rows in another format than JSON has in the plan.

    Raises:
        TopologyError: `bad_argument`, `not_installed`.
    """
    from adstream.formats.rows import ReadRows

    if format == "avro" and all(len(field.path) == 1 for field in fields):
        # Read as written; a test that writes the topic does so by the declared types.
        serde = Serde(
            "avro",
            {"python": {**_codecs(serdes.avro(), operation), **_written({f.path[0]: f.type for f in fields}, topic)}},
        )
    else:
        serde = _serde(format, operation)
    codecs = _codecs(serde.at(topic, "value", operation), operation)
    if codecs["deserialize"] is None:
        raise _one_way(serde, "deserialize", operation)
    wanted = [(f.name, f.path, f.type, f.time.unit if f.time is not None else None) for f in fields]
    reader = ReadRows(codecs["deserialize"], codecs["serialize"], wanted)
    return {
        "format": serde.name,
        "decode": graph.register(reader),
        "fields": [{**field.to_plan(), "path": [field.name]} for field in fields],
        "paths": {field.name: list(field.path) for field in fields},
    }


def write(graph: Graph, format: object, topic: str, columns: Mapping[str, str], operation: str) -> dict[str, Any]:
    """What `to` has in the plan when it writes another format than JSON.

    Args:
        columns: name -> type.

    Raises:
        TopologyError: `bad_argument`, `not_installed`.
    """
    from adstream.formats.rows import WriteRows, arrow_schema

    if format == "avro":
        serde = Serde("avro", {"python": {**_codecs(serdes.avro(), operation), **_written(columns, topic)}})
    elif format == "arrow":
        serde = serdes.arrow(arrow_schema(columns))
    else:
        serde = _serde(format, operation)
    codecs = _codecs(serde.at(topic, "value", operation), operation)
    if codecs["serialize"] is None:
        raise _one_way(serde, "serialize", operation)
    writer = codecs["serialize"]
    if hasattr(writer, "__adstream_codec__"):
        writer = writer.eagerly()
    return {"format": serde.name, "encode": graph.register(WriteRows(writer, codecs["deserialize"], columns))}


def _written(columns: Mapping[str, str], topic: str) -> dict[str, Any]:
    """An Avro writer by a schema made of columns."""
    from adstream.formats.rows import avro_schema

    name = re.sub(r"[^A-Za-z0-9_]", "_", topic)
    made = serdes.avro(avro_schema(name if not name[:1].isdigit() else f"_{name}", columns))
    return {"serialize": _codecs(made, "to")["serialize"]}


def _serde(format: object, operation: str) -> Serde:
    if isinstance(format, Serde):
        return format
    if isinstance(format, str) and format in NAMES:
        return serdes.avro() if format == "avro" else serdes.arrow() if format == "arrow" else serdes.json_schema()
    if format == "protobuf":
        raise fault(
            "bad_argument",
            "which message?",
            operation=operation,
            hint="write `format=ads.serdes.protobuf(Message)`",
        )
    near = nearest(format, NAMES) if isinstance(format, str) else None
    raise fault(
        "bad_argument",
        f"no format: {format!r}",
        operation=operation,
        hint=f"did you mean `{near}`?" if near else f"one of {', '.join(NAMES)}, or a serde of `ads.serdes`",
    )


def _codecs(serde: Serde, operation: str) -> dict[str, Any]:
    found = serde.spec.get("python") if isinstance(serde.spec, dict) else None
    if found is None:
        raise fault(
            "bad_argument",
            f"{serde!r} has no columns",
            operation=operation,
            hint="read the topic as records, or give a format whose values are objects",
        )
    return dict(found)


def _one_way(serde: Serde, missing: str, operation: str) -> Exception:
    return fault(
        "bad_argument",
        f"{serde!r} cannot {missing}",
        operation=operation,
        hint="give it a schema, or `use_latest=True`" if serde.name in NAMES else f"give it `{missing}=`",
    )
