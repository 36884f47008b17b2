"""Bad input when a topology is built: the operation, the user's line (`refused` looks at it), and one remedy.

What is found at start (partition counts, brokers and databases that do not answer, URLs, keys of a TOML file) names the
option: `tests/unit/cli/test_commands.py`, `tests/unit/runtime/test_settings.py`, `tests/integration/test_start.py`.
"""

from __future__ import annotations

import ast
from datetime import datetime
from pathlib import Path

import adstream as ads
from adstream import col
from tests.unit.dsl.support import Event, events, refused


def test_an_unknown_column():
    with refused("unknown_column", "no column `prise`", "did you mean `price`?", "filter"):
        events().filter(col("prise") > 0)
    with refused("unknown_column", "no column `nothing_like_it`", "there are: `event_id`", "group_by"):
        events().group_by("nothing_like_it")


def test_types_that_do_not_fit():
    with refused("type_mismatch", "decimal(10,2)", "cast", "with_columns"):
        events().with_columns(x=col("price") * col("weight"))
    with refused("not_a_condition", "the condition is int, not bool", "compare it", "filter"):
        events().filter(col("count") + 1)
    with refused("type_mismatch", "there is no sum of str", "cast", "aggregate"):
        events().group_by("user").aggregate(x=ads.sum("user"))


def test_a_window_on_a_stream_without_keys():
    with refused("window_without_key", "a window needs groups", ".group_by(", "windowed_by"):
        events().windowed_by(ads.tumbling("5m", grace="10s"))


def test_a_time_without_a_zone():
    with refused("naive_datetime", "no time zone", "tzinfo=UTC"):
        events().filter(col("at") > datetime(2024, 1, 15))


def test_a_bad_duration():
    with refused("bad_duration", "`grace` must be a duration: 10 has no unit", 'write "10s"'):
        ads.tumbling("5m", grace=10)
    with refused("bad_duration", "`size` is not a duration", "months and years differ"):
        ads.tumbling("1mo", grace="10s")
    with refused("bad_duration", "`within`", "", "deduplicate"):
        events().deduplicate("event_id", within="soon")


def test_a_sink_that_would_mix_rows():
    windowed = events().group_by("user", "kind").windowed_by(ads.tumbling("5m", grace="10s"))
    table = windowed.count().with_columns(start=ads.window_start())
    with refused("sink_key_incomplete", "`kind`", "", "sink"):
        table.sink(ads.sinks.Sql("t", key=["user", "start"]))
    with refused("sink_key_without_window", "one row for all windows", "add `start` to the key", "sink"):
        table.sink(ads.sinks.Sql("t", key=["user", "kind"]))
    ends = windowed.count().with_columns(end=ads.window_end())
    ends.sink(ads.sinks.Sql("t", key=["user", "kind", "end"]))  # says the window as well


def test_what_only_the_whole_shows():
    @ads.topology(name="whole")
    def whole(app: ads.App) -> None:
        app.stream("events", Event, timestamp="at", idle="30s")

    with refused("idle_without_lanes", "`idle` on `events` has no effect", "leave it out", "stream"):
        whole.build()


def test_every_error_of_the_language_names_its_operation():
    """`**` may bring it."""
    found, bare = 0, []
    for path in sorted(Path(ads.__file__).parent.joinpath("dsl").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "fault":
                found += 1
                if not any(keyword.arg in ("operation", None) for keyword in call.keywords):
                    bare.append(f"{path.name}:{call.lineno}")
    assert found > 150
    assert not bare
