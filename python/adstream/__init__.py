"""Kafka Streams and Flink CEP semantics for Python: `import adstream as ads`.

Names are imported at first use, so that `adstream version` need not load the language. To add one: import it below
for the type checkers, and name it in `__all__` and in `_HOMES` or `_MODULES` (a test compares them).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adstream._core import ProcessorRecord, Windowed
    from adstream.dsl import keyed, rank, serdes, sinks, store
    from adstream.dsl.aggregates import (
        Aggregate,
        approx_count_distinct,
        arg_max,
        arg_min,
        collect_list,
        collect_set,
        count,
        count_distinct,
        first,
        last,
        max,
        mean,
        median,
        min,
        quantile,
        std,
        sum,
        top_k,
        udaf,
        var,
    )
    from adstream.dsl.app import App, TimestampExtractor
    from adstream.dsl.expr import (
        Expr,
        coalesce,
        col,
        concat_str,
        duration,
        lit,
        max_horizontal,
        min_horizontal,
        now,
        offset,
        partition,
        timestamp,
        udf,
        when,
        window_end,
        window_start,
    )
    from adstream.dsl.flow import ErrorHandlerContext, Materialized, RecordContext
    from adstream.dsl.grouped import GroupedStream, GroupedTable, WindowedStream
    from adstream.dsl.joins import GlobalKTable, JoinWindows
    from adstream.dsl.kstream import BranchedKStream, Branches, KGroupedStream, KStream
    from adstream.dsl.ktable import KGroupedTable, KTable
    from adstream.dsl.kwindows import (
        CogroupedKStream,
        EmitStrategy,
        SessionWindowedCogroupedKStream,
        SessionWindowedKStream,
        TimeWindowedCogroupedKStream,
        TimeWindowedKStream,
    )
    from adstream.dsl.natives import joined, key, other, pair, struct, value
    from adstream.dsl.pattern import AfterMatchSkipStrategy, Pattern, all_of, element, matched, rule
    from adstream.dsl.pattern_matches import Matches
    from adstream.dsl.pattern_rows import RowMatches
    from adstream.dsl.pattern_rules import Rules
    from adstream.dsl.processors import (
        Cancellable,
        Context,
        FixedKeyProcessor,
        Processor,
        RecordMetadata,
        ValueTransformerWithKey,
        output,
    )
    from adstream.dsl.row_joins import RowTable, between, latest_by
    from adstream.dsl.scan import State, state
    from adstream.dsl.schema import Record, content_id, field
    from adstream.dsl.store import AggregationWithHeaders, ValueAndTimestamp, ValueTimestampHeaders, VersionedRecord
    from adstream.dsl.stream import Stream, Table, Terminal
    from adstream.dsl.suppressed import BufferConfig, Suppressed
    from adstream.dsl.topology import Built, Topology, topology
    from adstream.dsl.typing_ import decimal, epoch, rfc3339
    from adstream.dsl.windows import Windows, hopping, session, sliding, tumbling, unlimited
    from adstream.errors import AdstreamError, ConfigError, FatalError, TopologyError
    from adstream.interfaces import Uncaught

__version__ = "0.1.0"
__all__ = [
    "AdstreamError",
    "AfterMatchSkipStrategy",
    "Aggregate",
    "AggregationWithHeaders",
    "App",
    "BranchedKStream",
    "Branches",
    "BufferConfig",
    "Built",
    "Cancellable",
    "CogroupedKStream",
    "ConfigError",
    "Context",
    "EmitStrategy",
    "ErrorHandlerContext",
    "Expr",
    "FatalError",
    "FixedKeyProcessor",
    "GlobalKTable",
    "GroupedStream",
    "GroupedTable",
    "JoinWindows",
    "KGroupedStream",
    "KGroupedTable",
    "KStream",
    "KTable",
    "Matches",
    "Materialized",
    "Pattern",
    "Processor",
    "ProcessorRecord",
    "Record",
    "RecordContext",
    "RecordMetadata",
    "RowMatches",
    "RowTable",
    "Rules",
    "SessionWindowedCogroupedKStream",
    "SessionWindowedKStream",
    "State",
    "Stream",
    "Suppressed",
    "Table",
    "Terminal",
    "TimeWindowedCogroupedKStream",
    "TimeWindowedKStream",
    "TimestampExtractor",
    "Topology",
    "TopologyError",
    "Uncaught",
    "ValueAndTimestamp",
    "ValueTimestampHeaders",
    "ValueTransformerWithKey",
    "VersionedRecord",
    "Windowed",
    "WindowedStream",
    "Windows",
    "all_of",
    "approx_count_distinct",
    "arg_max",
    "arg_min",
    "between",
    "coalesce",
    "col",
    "collect_list",
    "collect_set",
    "concat_str",
    "content_id",
    "count",
    "count_distinct",
    "decimal",
    "duration",
    "element",
    "epoch",
    "field",
    "first",
    "hopping",
    "joined",
    "key",
    "keyed",
    "last",
    "latest_by",
    "lit",
    "matched",
    "max",
    "max_horizontal",
    "mean",
    "median",
    "min",
    "min_horizontal",
    "now",
    "offset",
    "other",
    "output",
    "pair",
    "partition",
    "quantile",
    "rank",
    "rfc3339",
    "rule",
    "serdes",
    "session",
    "sinks",
    "sliding",
    "state",
    "std",
    "store",
    "struct",
    "sum",
    "timestamp",
    "top_k",
    "topology",
    "tumbling",
    "udaf",
    "udf",
    "unlimited",
    "value",
    "var",
    "when",
    "window_end",
    "window_start",
]

_MODULES = {
    "keyed": "adstream.dsl.keyed",
    "rank": "adstream.dsl.rank",
    "serdes": "adstream.dsl.serdes",
    "sinks": "adstream.dsl.sinks",
    "store": "adstream.dsl.store",
}
_HOMES = {
    "adstream._core": "ProcessorRecord Windowed",
    "adstream.dsl.aggregates": (
        "Aggregate approx_count_distinct arg_max arg_min collect_list collect_set count count_distinct first last max mean"
        " median min quantile std sum top_k udaf var"
    ),
    "adstream.dsl.app": "App TimestampExtractor",
    "adstream.dsl.expr": (
        "Expr coalesce col concat_str duration lit max_horizontal min_horizontal now offset partition timestamp udf when"
        " window_end window_start"
    ),
    "adstream.dsl.flow": "ErrorHandlerContext Materialized RecordContext",
    "adstream.dsl.joins": "GlobalKTable JoinWindows",
    "adstream.dsl.kstream": "BranchedKStream Branches KGroupedStream KStream",
    "adstream.dsl.ktable": "KGroupedTable KTable",
    "adstream.dsl.natives": "joined key other pair struct value",
    "adstream.dsl.kwindows": (
        "CogroupedKStream EmitStrategy SessionWindowedCogroupedKStream SessionWindowedKStream"
        " TimeWindowedCogroupedKStream TimeWindowedKStream"
    ),
    "adstream.dsl.processors": "Cancellable Context FixedKeyProcessor Processor RecordMetadata ValueTransformerWithKey output",
    "adstream.dsl.row_joins": "RowTable between latest_by",
    "adstream.dsl.schema": "Record content_id field",
    "adstream.dsl.scan": "State state",
    "adstream.dsl.store": "AggregationWithHeaders ValueAndTimestamp ValueTimestampHeaders VersionedRecord",
    "adstream.dsl.grouped": "GroupedStream GroupedTable WindowedStream",
    "adstream.dsl.stream": "Stream Table Terminal",
    "adstream.dsl.pattern": "AfterMatchSkipStrategy Pattern all_of element matched rule",
    "adstream.dsl.pattern_matches": "Matches",
    "adstream.dsl.pattern_rows": "RowMatches",
    "adstream.dsl.pattern_rules": "Rules",
    "adstream.dsl.suppressed": "BufferConfig Suppressed",
    "adstream.dsl.topology": "Built Topology topology",
    "adstream.dsl.typing_": "decimal epoch rfc3339",
    "adstream.dsl.windows": "Windows hopping session sliding tumbling unlimited",
    "adstream.errors": "AdstreamError ConfigError FatalError TopologyError",
    "adstream.interfaces": "Uncaught",
}

if not TYPE_CHECKING:  # a type checker would take it for a promise that every name exists

    def __getattr__(name):
        import importlib

        if name in _MODULES:
            value = importlib.import_module(_MODULES[name])
        else:
            home = next((home for home, names in _HOMES.items() if name in names.split()), None)
            if home is None:
                raise AttributeError(f"module 'adstream' has no attribute '{name}'")
            value = getattr(importlib.import_module(home), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
