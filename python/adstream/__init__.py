"""Kafka Streams and Flink CEP semantics for Python: `import adstream as ads`."""

import sys
import types

from adstream.dsl import sinks
from adstream.dsl.aggregates import Aggregate, count, first, last, max, mean, min, sum, udaf
from adstream.dsl.app import App
from adstream.dsl.expr import (
    Expr,
    coalesce,
    col,
    concat_str,
    duration,
    lit,
    max_horizontal,
    min_horizontal,
    offset,
    partition,
    timestamp,
    udf,
    when,
    window_end,
    window_start,
)
from adstream.dsl.schema import Record, content_id, field
from adstream.dsl.stream import (
    GroupedStream,
    GroupedTable,
    Stream,
    Table,
    Terminal,
    WindowedStream,
)
from adstream.dsl.topology import Built, Topology, topology
from adstream.dsl.typing_ import decimal, epoch, rfc3339
from adstream.dsl.windows import tumbling
from adstream.errors import AdstreamError, ConfigError, FatalError, TopologyError


class _Facade(types.ModuleType):
    # Importing the writers, the package `adstream.sinks`, would rebind this name, which is the declarations'.
    sinks = property(lambda _: sinks, lambda _, __: None)


sys.modules[__name__].__class__ = _Facade

__all__ = [
    "AdstreamError",
    "Aggregate",
    "App",
    "Built",
    "ConfigError",
    "Expr",
    "FatalError",
    "GroupedStream",
    "GroupedTable",
    "Record",
    "Stream",
    "Table",
    "Terminal",
    "Topology",
    "TopologyError",
    "WindowedStream",
    "coalesce",
    "col",
    "concat_str",
    "content_id",
    "count",
    "decimal",
    "duration",
    "epoch",
    "field",
    "first",
    "last",
    "lit",
    "max",
    "max_horizontal",
    "mean",
    "min",
    "min_horizontal",
    "offset",
    "partition",
    "rfc3339",
    "sinks",
    "sum",
    "timestamp",
    "topology",
    "tumbling",
    "udaf",
    "udf",
    "when",
    "window_end",
    "window_start",
]
