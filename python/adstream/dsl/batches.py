"""`map_batches`: rows as Arrow, to a function and back.

    core's columns ──buffers──▶ RecordBatch ──function──▶ RecordBatch or Table ──buffers──▶ core's columns

The function is *row-wise*: what it makes of a row depends on that row alone. How many rows come together is an accident of
reading and committing, so a function that looks at its neighbours (a mean, a rank, a sort) would give another answer after
a crash. That cannot be checked here; what can be, is: as many rows as went in, the columns of the schema, each of a type
that becomes the promised one without loss.

Where the function raises, or what it returns is not that, the batch is halved and both halves are asked again, down to
single rows: those are dead letters, `callable_raised`, with what was raised, and the others go on. So a bad row costs
2·log2(n) calls and hurts nobody else, and what becomes of a row is the same in every batch.

Types have one Arrow type each (`_arrow`), the same for every batch, and their values cross exactly. Coming back, narrower
ones (`int32`, `float`, `timestamp("s")`, dictionaries of text) are widened; a cast that would lose something is an error.

`pyarrow` is imported when the first batch comes; that it is there at all is checked when the topology is built.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from adstream.dsl.expr import Expr, callable_name, refuse_async
from adstream.dsl.faults import fault, name_list, nearest, user_line
from adstream.dsl.raised import raised_text
from adstream.dsl.schema import schema_of

if TYPE_CHECKING:
    import pyarrow as pa

    from adstream.dsl.stream import Stream

_Sent = tuple[str, str, bytes | None, bytes, bytes | None]
"""Name, type, validity, values, offsets."""
_Made = tuple[int, bytes | None, bytes | None, bytes | None]
"""Offset, validity, values, offsets."""


def map_batches(stream: Stream, function: Callable[[Any], Any], schema: object) -> Stream:
    """See `Stream.map_batches`."""
    line = user_line()
    if not callable(function) or isinstance(function, Expr):
        raise fault(
            "bad_argument",
            f"not a function: {function!r}",
            operation="map_batches",
            line=line,
            hint="for expressions write `.with_columns(…)` or `.select(…)`",
        )
    refuse_async(function, "map_batches", line)
    if find_spec("pyarrow") is None:
        raise fault(
            "not_installed",
            "`pyarrow` is not installed, and batches are made of it",
            operation="map_batches",
            line=line,
            hint="`pip install pyarrow`; or write `.map(…)`, which takes rows one by one",
        )
    if schema is None:
        columns = {name: stream._columns[name] for name in stream._written()}
    else:
        columns = schema_of(schema, operation="map_batches").types
    called = stream._graph.register(MapBatches(function, columns))
    fields = [{"name": name, "type": dtype} for name, dtype in columns.items()]
    return stream._next(
        "map_batches",
        line,
        {"function": called, "schema": fields},
        columns=columns,
        key=(),
        about=callable_name(function),
        rung="batches",
    )


class MapBatches:
    """The function of a `map_batches` node: takes and returns buffers, as `rust/py/src/arrow.rs` has them."""

    __slots__ = ("columns", "function")

    def __init__(self, function: Callable[[Any], Any], columns: dict[str, str]) -> None:
        self.function = function
        self.columns = columns

    def __repr__(self) -> str:
        return f"MapBatches({callable_name(self.function)})"

    def __call__(self, rows: int, sent: list[_Sent]) -> tuple[list[_Made], list[tuple[int, str]]]:
        """The columns made, all of so many rows, and which rows are none, with what was raised for each."""
        import pyarrow as pa

        arrays = [
            pa.Array.from_buffers(
                _arrow(dtype),
                rows,
                [buffer if buffer is None else pa.py_buffer(buffer) for buffer in (validity, offsets, values)]
                if offsets is not None
                else [None if validity is None else pa.py_buffer(validity), pa.py_buffer(values)],
            )
            for _, dtype, validity, values, offsets in sent
        ]
        types = [_arrow(dtype) for dtype in self.columns.values()]
        pieces: list[list[pa.Array]] = []
        raised: list[tuple[int, str]] = []
        self._ask(pa.RecordBatch.from_arrays(arrays, [name for name, *_ in sent]), 0, types, pieces, raised)
        return [_buffers(pa.concat_arrays(parts)) for parts in zip(*pieces, strict=True)], raised

    def _ask(
        self,
        batch: pa.RecordBatch,
        first: int,
        types: list[pa.DataType],
        pieces: list[list[pa.Array]],
        raised: list[tuple[int, str]],
    ) -> None:
        """Appends what the function makes of these rows, the first of which has that number."""
        import pyarrow as pa

        try:
            pieces.append(self._checked(self.function(batch), batch.num_rows, types))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # extensions panic with one, and it would be all rows'
            if hasattr(error, "__adstream_unavailable__"):
                raise  # no row is to blame
            if batch.num_rows == 1:
                raised.append((first, raised_text(error)))
                pieces.append([pa.nulls(1, dtype) for dtype in types])
                return
            half = batch.num_rows // 2
            self._ask(batch.slice(0, half), first, types, pieces, raised)
            self._ask(batch.slice(half), first + half, types, pieces, raised)

    def _checked(self, made: Any, rows: int, types: list[pa.DataType]) -> list[pa.Array]:
        """The promised columns of what a function returned. Raises for everything that they are not."""
        import pyarrow as pa

        if not isinstance(made, pa.RecordBatch | pa.Table):
            if not hasattr(made, "__arrow_c_stream__"):
                raise TypeError(f"a pyarrow.RecordBatch or Table is expected, and a {type(made).__name__} came back")
            made = pa.table(made)
        if made.num_rows != rows:
            raise ValueError(f"{made.num_rows} rows came back for {rows}: there must be one for each, in their order")
        arrays = []
        for (name, dtype), wanted in zip(self.columns.items(), types, strict=True):
            found = made.schema.get_all_field_indices(name)
            if len(found) != 1:
                near = nearest(name, made.schema.names)
                remark = f"is `{near}` meant?" if near and not found else f"there are: {name_list(made.schema.names)}"
                raise ValueError(f"{len(found) or 'no'} columns `{name}` came back; {remark}")
            column = made.column(found[0])
            array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            array.validate(full=True)  # some are made of buffers by hand, and what reads them believes their lengths
            arrays.append(_widened(array, name, dtype, wanted))
        return arrays


def _arrow(dtype: str) -> pa.DataType:
    """The Arrow type of a column."""
    import pyarrow as pa

    match dtype:
        case "bool":
            return pa.bool_()
        case "int":
            return pa.int64()
        case "float":
            return pa.float64()
        case "timestamp":
            return pa.timestamp("ms", tz="UTC")
        case "duration":
            return pa.duration("ms")
    if dtype.startswith("decimal("):
        precision, scale = dtype[len("decimal(") : -1].split(",")
        return pa.decimal128(int(precision), int(scale))
    return pa.string()  # str, json, enum[…]


def _widened(array: Any, name: str, dtype: str, wanted: pa.DataType) -> pa.Array:
    """An array of the wanted type, with the same values. Raises TypeError, or ArrowInvalid for a value that has no equal."""
    from pyarrow import types

    given = array.type
    if given == wanted:
        return array
    inner = given.value_type if types.is_dictionary(given) else given
    text = (types.is_string, types.is_large_string, types.is_string_view)
    zoned = (lambda t: types.is_timestamp(t) and t.tz is not None,)
    kinds: tuple[Callable[[Any], bool], ...] = {
        "int": (types.is_integer,),
        "float": (types.is_floating, types.is_integer),
        "timestamp": zoned,
        "duration": (types.is_duration,),
        "bool": (),
    }.get(dtype, (types.is_decimal,) if dtype.startswith("decimal(") else text)
    if not types.is_null(given) and not any(kind(inner) for kind in kinds):
        hint = " (a time needs its zone)" if types.is_timestamp(given) and dtype == "timestamp" else ""
        raise TypeError(f"column `{name}` came back as {given} where {wanted} is promised{hint}")
    if inner is not given:
        array = array.cast(inner)
    return array.cast(wanted, safe=True)


def _buffers(array: pa.Array) -> _Made:
    validity, *others = [None if b is None else b.to_pybytes() for b in array.buffers()]
    offsets, values = others if len(others) == 2 else (None, *others)
    return array.offset, validity, values, offsets
