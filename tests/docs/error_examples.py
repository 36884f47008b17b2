"""An example for each code of a topology error: `docs/error-examples.md` is made of them (`python -m tests.docs.error_examples`),
and each must raise what it says."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"

UNSHOWN = {
    "bad_plan": "only a plan that nobody's API makes",
    "bridge_loop": "rows of records that lead back into the same records",
    "content_id_type": "the language says `bad_default` before",
    "duplicate_field": "a class has each name once",
    "empty_path": "only a plan that nobody's API makes",
    "metadata_behind_shuffle": "an aggregate whose rows travel one by one",
    "no_key": "the language says `aggregate_without_group` or `sink_key_missing` before",
    "not_installed": "an environment without the extra",
    "too_many_forks": "more than 32 forks before a merge",
    "unknown_aggregate": "only a plan that nobody's API makes",
    "unknown_format": "only a plan that nobody's API makes",
    "unknown_function": "a function of rows in an expression over records",
    "unknown_window": "only a plan that nobody's API makes",
    "unknown_zone": "the language says `bad_zone` before",
    "window_on_table": "the language says `window_over_table` before",
}
"""Codes without an example, and why."""

PREAMBLE = """from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

import adstream as ads
from adstream import col


class Event(ads.Record):
    user: str
    kind: Literal["WEB", "APP"]
    n: int
    price: Annotated[Decimal, ads.decimal(10, 2)]
    at: datetime


class Upper(ads.Processor):
    def process(self, record: ads.ProcessorRecord) -> None:
        self.context.forward(record)


def events() -> ads.Stream:
    return ads.App("x").stream("events", Event, timestamp="at")


def words() -> ads.KStream:
    return ads.App("x").stream("words", key=ads.serdes.string, value=ads.serdes.string)


def per_minute(*keys: str) -> ads.Table:
    table = events().group_by(*keys).windowed_by(ads.tumbling("1m", grace="0s")).aggregate(n=ads.count())
    return table.with_columns(start=ads.window_start())


@contextmanager
def raises(code: str) -> Iterator[None]:
    try:
        yield
    except ads.TopologyError as error:
        assert (error.code, bool(error.hint), bool(error.line)) == (code, True, True), error
    else:
        raise AssertionError(f"{code}: nothing was raised")
"""

EXAMPLES = {
    "aggregate_without_group": "events().with_columns(n=ads.count())",
    "bad_argument": "events().group_by()",
    "bad_arity": "words().map_values(lambda a, b, c: a)",
    "bad_decimal": "ads.decimal(3, 5)",
    "bad_default": """class Sale(ads.Record):
    price: int = 0""",
    "bad_duration": 'ads.tumbling("5 minutes", grace="0s")',
    "bad_literal": "events().with_columns(x=ads.lit(object()))",
    "bad_name": 'events().filter(col("n") > 0).named("a/b")',
    "bad_option": """class Sale(ads.Record, rename="snake"):
    price: int""",
    "bad_parameter": 'events().with_columns(x=col("price").round(-1))',
    "bad_path": """class Sale(ads.Record):
    genre: str = ads.field(path="data..genre")


ads.App("x").stream("sales", Sale)""",
    "bad_schema": 'ads.serdes.avro({"type": "recrod"})',
    "bad_setting": "ads.topology(lambda app, *more: None)",
    "bad_template": 'ads.sinks.RedisHash("totals:{user!r}")',
    "bad_topic": 'events().to("in put!")',
    "bad_topology": "ads.topology(lambda: None)",
    "bad_unit": 'ads.epoch("minutes")',
    "bad_window": 'ads.hopping("5m", advance="10m", grace="0s")',
    "bad_zone": 'ads.rfc3339(zone="Mars/Olympus")',
    "column_outside_aggregate": 'events().group_by("user").aggregate(x=col("n") + ads.count())',
    "decimal_scale": """x = col("price")
for _ in range(6):
    x = x * x
events().with_columns(x=x)""",
    "decimal_without_scale": """class Sale(ads.Record):
    price: Decimal""",
    "duplicate_column": 'events().select("user", "user")',
    "duplicate_name": """app = ads.App("x")
a = app.stream("a", Event).filter(col("n") > 0).named("same")
a.filter(col("n") > 1).named("same")""",
    "duplicate_source": """app = ads.App("x")
app.stream("events", Event)
app.stream("events", Event)""",
    "empty_schema": """class Sale(ads.Record):
    pass


ads.App("x").stream("sales", Sale)""",
    "expression_as_bool": 'events().filter(col("n") > 0 and col("n") < 9)',
    "grace_missing": 'ads.tumbling("5m")',
    "grace_without_versions": """app = ads.App("x")
app.stream("a").join(app.table("b"), lambda a, b: a, grace="1m")""",
    "idle_of_some": """@ads.topology(name="x")
def job(app: ads.App) -> None:
    one, two = app.stream("a", Event, idle="30s"), app.stream("b", Event)
    one.merge(two).group_by("user").windowed_by(ads.tumbling("1m", grace="0s")).count().to("out")


job.build()""",
    "idle_without_lanes": """@ads.topology(name="x")
def job(app: ads.App) -> None:
    app.stream("events", Event, idle="30s").to("out")


job.build()""",
    "incomplete_when": 'events().with_columns(x=ads.when(col("n") > 0).then(1))',
    "key_dropped": """windows = events().group_by("user").windowed_by(ads.tumbling("1m", grace="0s"))
windows.count().select("count").final()""",
    "malformed_pattern": 'ads.Pattern.begin("a").times(0)',
    "naive_datetime": 'events().filter(col("at") > datetime(2026, 1, 15))',
    "nested_aggregate": 'events().group_by("user").aggregate(x=ads.sum(ads.count()))',
    "no_window": """counts = words().group_by_key().count()
counts.suppress(ads.Suppressed.until_window_closes(ads.Suppressed.unbounded()))""",
    "not_a_condition": 'events().filter(col("n") + 1)',
    "not_a_schema": 'ads.App("x").stream("sales", 42)',
    "not_an_aggregate": 'events().group_by("user").aggregate(x=1)',
    "not_native": "words().map_values(ads.udf(len, type=int))",
    "not_on_table": """windows = events().group_by("user").windowed_by(ads.tumbling("1m", grace="0s"))
windows.count().filter(col("n") > 0)""",
    "not_retractable": """windows = events().group_by("user").windowed_by(ads.tumbling("1m", grace="0s"))
windows.count().group_by("user").aggregate(x=ads.first("count"))""",
    "not_the_key": 'rows = events()\nrows.join(rows.to_table("user"), on="n", into="other")',
    "not_windowed": "events().with_columns(start=ads.window_start())",
    "null_comparison": 'events().filter(col("user") == None)',
    "other_app": "events().merge(events())",
    "renamed": 'events().filter(col("n") > 0).named("a").named("b")',
    "reserved_name": 'events().with_columns(**{"$x": col("n")})',
    "retention_too_short": 'ads.tumbling("5m", grace="1h", retention="10m")',
    "schema_mismatch": """rows = events()
rows.merge(rows.select("user"))""",
    "sink_key_incomplete": 'per_minute("user", "kind").sink(ads.sinks.Sql("t", key=["user", "start"]))',
    "sink_key_missing": 'events().sink(ads.sinks.Sql("t", key=[]))',
    "sink_key_without_window": 'per_minute("user").sink(ads.sinks.Sql("t", key=["user"]))',
    "type_mismatch": 'events().filter(col("user") > 5)',
    "unknown_column": 'events().filter(col("usr") == "a")',
    "unknown_node": 'ads.App("x").add_sink("out", "topic", "nobody")',
    "unknown_store": """@ads.topology(name="x")
def job(app: ads.App) -> None:
    app.stream("words").process(Upper, "totals").to("out")


job.build()""",
    "unknown_type": """class Sale(ads.Record):
    tags: set[str]""",
    "unknown_value": 'events().filter(col("kind") == "WEBB")',
    "unnamed_expression": 'events().select(col("n") + 1)',
    "untyped_callable": "events().with_columns(x=lambda row: 1)",
    "untyped_null": "events().with_columns(x=None)",
    "window_over_table": 'per_minute("user").windowed_by(ads.tumbling("1m", grace="0s"))',
    "window_without_key": 'events().windowed_by(ads.tumbling("1m", grace="0s"))',
    "no_source": """@ads.topology(name="x")
def job(app: ads.App) -> None:
    app.global_table("rates", "rates")

job.build()""",
    "not_a_timer": 'events().filter(ads.now() < col("at"))',
    "timeout_missing": """async def ask(row: dict) -> dict:
    return row


events().map_async(ask, schema=Event)""",
    "within_missing": 'rows = events()\nrows.join(rows, on="user", into="other", grace="0s")',
}


def rows() -> dict[str, tuple[str, str]]:
    """code -> what is wrong, remedy, as `errors.md` has them."""
    section = (DOCS / "errors.md").read_text().partition("## Topology errors")[2].partition("\n## ")[0]
    found = {}
    for codes, wrong, remedy in re.findall(r"^\| (`[^|]*`) \| (.*?) \| (.*) \|$", section, re.MULTILINE):
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", codes), (wrong, remedy))
    return found


def page() -> str:
    about = rows()
    parts = [
        "# Errors by example\n\nWhat raises each code of [`ads.TopologyError`](errors.md#topology-errors), and what helps. Made"
        " of\n`tests/docs/error_examples.py`, where each example is run; `raises` says which error must come.\n",
        f"```python\n{PREAMBLE}```\n",
    ]
    for code, source in sorted(EXAMPLES.items()):
        body = "".join(f"    {line}".rstrip() + "\n" for line in source.replace("\n\n\n", "\n\n").splitlines())
        body = f"\n{body}" if source.startswith(("class ", "@", "def ", "async def ")) else body  # as ruff formats it
        wrong, remedy = (text.replace("\\|", "|") for text in about[code])
        parts.append(
            f'## {code}\n\n{wrong[0].upper()}{wrong[1:]}.\n\n```python\nwith raises("{code}"):\n{body}```\n\nRemedy: {remedy}.\n'
        )
    listed = "".join(f"- `{code}`: {why}\n" for code, why in sorted(UNSHOWN.items()))
    return "\n".join(parts) + f"\n## Without an example\n\n{listed}"


if __name__ == "__main__":
    (DOCS / "error-examples.md").write_text(page())
