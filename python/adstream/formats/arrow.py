"""Arrow: a message is one IPC stream, the schema first, then its record batches. A value is a `pyarrow.Table`."""

from __future__ import annotations

from typing import Any


class ArrowReader:
    """Raises ValueError for what is no IPC stream."""

    def __call__(self, data: bytes) -> Any:
        import pyarrow as pa

        try:
            with pa.ipc.open_stream(data) as stream:
                return stream.read_all()
        except pa.ArrowException as error:
            raise ValueError(f"not an Arrow IPC stream: {error}") from error

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    __hash__ = object.__hash__


class ArrowWriter:
    """Takes a table, a record batch, or rows: a dict or a list of dicts."""

    def __init__(self, schema: Any = None) -> None:
        self.schema = schema

    def __call__(self, value: Any) -> bytes:
        import pyarrow as pa

        if isinstance(value, dict):
            value = [value]
        if isinstance(value, list | tuple):
            table = pa.Table.from_pylist(list(value), schema=self.schema)
        elif isinstance(value, pa.RecordBatch):
            table = pa.Table.from_batches([value])
        elif isinstance(value, pa.Table):
            table = value
        else:
            raise ValueError(f"a pyarrow.Table is expected, not a {type(value).__name__}")
        if self.schema is not None and table.schema != self.schema:
            table = table.cast(self.schema)
        out = pa.BufferOutputStream()
        with pa.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table)
        made: bytes = out.getvalue().to_pybytes()
        return made

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = object.__hash__
