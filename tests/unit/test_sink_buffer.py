"""A sink's buffer holds the newest row of each key, in order of arrival, whatever was replaced meanwhile."""

import json
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import adstream as ads
from adstream._core import Plan, RawBatch, SinkBuffer, Task
from adstream.dsl.topology import Topology
from adstream.targets.values import milliseconds, timestamp_text


class Reading(ads.Record):
    sensor: str
    n: int
    at: datetime
    level: Annotated[Decimal, ads.decimal(10, 2)] | None
    state: Literal["OK", "BAD"] | None
    ratio: float


@ads.topology(name="readings")
def readings(app: ads.App) -> None:
    stream = app.stream("readings", Reading, timestamp="at")
    stream.sink(ads.sinks.Sql("newest", key=["sensor"]))


def opened(topology: Topology) -> tuple[Task, SinkBuffer, str]:
    """Its one task, the buffer of its one sink, and the sink's topic."""
    built = topology.build()
    plan = Plan(json.dumps(built.plan), list(built.callables))
    description = json.loads(plan.describe())
    [sink] = description["sinks"]
    return plan.task(0, 0, dict.fromkeys(description["topics"], 1)), SinkBuffer(plan, sink["name"]), sink["topic"]


START = datetime(2026, 1, 15, tzinfo=UTC)


def record(n: int, sensor: str) -> dict[str, Any]:
    return {
        "sensor": sensor,
        "n": n,
        "at": (START + timedelta(seconds=n // 7)).isoformat(),
        "level": None if n % 11 == 0 else f"{n % 500}.25",
        "state": (None, "OK", "BAD")[n % 3],
        "ratio": n / 8,
    }


def expected(row: dict[str, Any]) -> tuple[Any, ...]:
    level = None if row["level"] is None else Decimal(row["level"])
    return row["sensor"], row["n"], datetime.fromisoformat(row["at"]), level, row["state"], row["ratio"]


def test_it_holds_the_newest_row_of_each_key() -> None:
    task, buffer, topic = opened(readings)
    rng = random.Random(7)
    newest: dict[str, dict[str, Any]] = {}
    n = added = 0
    for turn in range(12):
        if turn == 8:  # drained in between: nothing of it comes again
            assert len(buffer.drain()["n"]) == len(newest)
            newest.clear()
        # Few keys over and over, so that much is replaced, and some that are seen once.
        rows = [record(n + i, f"s{rng.choice((rng.randrange(300), n + i))}") for i in range(10_000)]
        for row in rows:
            newest.pop(row["sensor"], None)
            newest[row["sensor"]] = row
        task.feed(
            "readings", 0, RawBatch([(n + i, 0, None, json.dumps(row).encode(), []) for i, row in enumerate(rows)])
        )
        n += len(rows)
        while task.process(10_000):
            pass
        for to, _, batch in task.close_generation().outputs:
            added += buffer.add(batch) if to == topic else 0
        task.committed()
        assert len(buffer) == len(newest)
    assert added == n
    drained = buffer.drain()
    columns = ("sensor", "n", "at", "level", "state", "ratio")
    assert list(zip(*(drained[c] for c in columns), strict=True)) == [expected(row) for row in newest.values()]
    assert len(buffer) == 0
    assert buffer.drain()["n"] == []


@ads.topology(name="far")
def far(app: ads.App) -> None:
    stream = app.stream("readings", Reading, timestamp="at").with_columns(
        later=ads.col("at") + ads.col("n") * timedelta(days=1), long=ads.col("n") * timedelta(days=1)
    )
    stream.sink(ads.sinks.Sql("newest", key=["sensor"]))


def test_times_that_python_has_no_value_for_stop_nobody() -> None:
    task, buffer, topic = opened(far)
    last, first = (datetime.max.replace(tzinfo=UTC) - START).days, (datetime.min.replace(tzinfo=UTC) - START).days
    days = [1, last, last + 1, first, first - 1, 999_999_999, 1_000_000_000, -999_999_999, -1_000_000_000]
    rows = [record(0, str(n)) | {"n": n} for n in days]
    task.feed("readings", 0, RawBatch([(i, 0, None, json.dumps(row).encode(), []) for i, row in enumerate(rows)]))
    while task.process(10_000):
        pass
    for to, _, batch in task.close_generation().outputs:
        if to == topic:
            buffer.add(batch)
    drained = buffer.drain()
    assert drained["n"] == days
    assert drained["later"][:5] == [
        START + timedelta(days=1),
        datetime(9999, 12, 31, tzinfo=UTC),
        "+010000-01-01T00:00:00.000Z",
        datetime(1, 1, 1, tzinfo=UTC),
        "0000-12-31T00:00:00.000Z",
    ]
    assert all(isinstance(value, str) for value in drained["later"][5:])
    within = [n if abs(n) > 999_999_999 else timedelta(days=n) for n in days]
    assert drained["long"] == [n * 86_400_000 if isinstance(n, int) else n for n in within]
    assert [timestamp_text(value) for value in drained["later"][1:4]] == [
        "9999-12-31T00:00:00.000Z", "+010000-01-01T00:00:00.000Z", "0001-01-01T00:00:00.000Z",
    ]  # fmt: skip
    assert milliseconds(drained["long"][6]) == 86_400_000_000_000_000
