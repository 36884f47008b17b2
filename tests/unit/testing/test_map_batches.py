"""`map_batches`: every type there and back, and what becomes of rows whose function fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import adstream as ads
from adstream import col
from adstream.testing import TopologyTestDriver
from tests.unit.dsl.support import events, refused

AT = datetime(2024, 1, 15, 10, tzinfo=UTC)


class Everything(ads.Record):
    n: int | None
    x: float | None
    yes: bool | None
    text: str | None
    kind: Literal["A", "é"] | None
    small: Annotated[Decimal, ads.decimal(4, 2)] | None
    large: Annotated[Decimal, ads.decimal(38, 9)] | None
    at: datetime | None
    since: datetime | None


class Event(ads.Record):
    n: int


class Out(ads.Record):
    v: int | None


def build(make: Callable[[ads.Stream], ads.Stream], schema: Any = Event) -> ads.Topology:
    @ads.topology(name="batches")
    def topology(app: ads.App) -> None:
        make(app.stream("in", schema)).to("out")

    return topology


def run(
    make: Callable[[ads.Stream], ads.Stream], numbers: list[int], **options: Any
) -> tuple[list[Any], list[tuple[int, str, str]]]:
    """The values of `v`; n, reason and message of each dead letter."""
    with TopologyTestDriver(build(make), partitions=1, **options) as driver:
        for n in numbers:
            driver.input("in").pipe({"n": n})
        out = [r.value["v"] for r in driver.output("out").read()]
        return out, [(json.loads(d.value)["n"], d.reason, d.message or "") for d in driver.dead_letters("in")]


def same(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch


FULL: dict[str, Any] = {
    "n": -(2**63),
    "x": -0.1,
    "yes": True,
    "text": '한글 "quoted" \\ \n',
    "kind": "é",
    "small": "-99.99",
    "large": "-12345678901234567890123456789.123456789",
    "at": "2000-01-01T00:00:00Z",
    "since": "2099-12-31T23:59:59.999Z",
}
ROWS = [
    FULL,
    dict.fromkeys(FULL),
    {**FULL, "n": 2**63 - 1, "x": 1e308, "yes": False, "text": "", "kind": "A", "small": "0.01"},
    {
        **FULL,
        "large": "99999999999999999999999999999.999999999",
        "at": "2024-02-29T23:59:59.999Z",
        "since": "2000-01-01T00:00:00Z",
        "x": 5e-324,
    },
    *({**dict.fromkeys(FULL), "yes": i % 3 == 0, "n": i, "text": "x" * i} for i in range(20)),
]


@pytest.mark.parametrize("batch_rows", [1, 7, None])
def test_every_type_crosses_exactly(batch_rows: int | None) -> None:
    seen: list[pa.RecordBatch] = []

    def look(batch: pa.RecordBatch) -> pa.RecordBatch:
        seen.append(batch)
        batch.validate(full=True)
        return batch

    @ads.topology(name="batches")
    def topology(app: ads.App) -> None:
        gap = (col("since") - col("at")) * 1000
        rows = app.stream("in", Everything).with_columns(gap=gap, early=col("at") - gap, twice=col("large") * 2)
        rows.to("plain")
        mapped = rows.map_batches(look)
        assert mapped.schema == rows.schema
        mapped.to("mapped")

    with TopologyTestDriver(topology, partitions=1, batch_rows=batch_rows) as driver:
        for row in ROWS:
            driver.input("in").pipe(row)
        plain, mapped = (driver.output(topic).read_raw() for topic in ("plain", "mapped"))
        dead = [d.reason for d in driver.dead_letters("in")]
    # The fourth row's product has 39 digits: neither of them reads it as something else.
    assert dead == ["overflow", "overflow"]
    assert [r.value for r in mapped] == [r.value for r in plain]
    assert len(mapped) == len(ROWS) - 1
    assert {batch.num_rows for batch in seen} <= {1} if batch_rows == 1 else max(b.num_rows for b in seen) > 1
    assert seen[0].schema == pa.schema(
        {
            "n": pa.int64(),
            "x": pa.float64(),
            "yes": pa.bool_(),
            "text": pa.string(),
            "kind": pa.string(),
            "small": pa.decimal128(4, 2),
            "large": pa.decimal128(38, 9),
            "at": pa.timestamp("ms", tz="UTC"),
            "since": pa.timestamp("ms", tz="UTC"),
            "gap": pa.duration("ms"),
            "early": pa.timestamp("ms", tz="UTC"),
            "twice": pa.decimal128(38, 9),
        }
    )
    first = seen[0].slice(0, 1)
    assert first["large"].to_pylist() == [Decimal(FULL["large"])]
    assert first["since"].to_pylist() == [datetime(2099, 12, 31, 23, 59, 59, 999000, UTC)]
    # More than a `datetime` holds.
    assert first["early"].cast(pa.int64()).to_pylist() == [-3_154_813_315_199_000]
    assert first["gap"].cast(pa.int64()).to_pylist() == [3_155_759_999_999_000]


def test_json_and_sets_come_back_as_they_went() -> None:
    def respaced(batch: pa.RecordBatch) -> pa.RecordBatch:
        spaced = [None if t is None else t.replace(",", " , ") for t in batch["all"].to_pylist()]
        return batch.set_column(batch.schema.get_field_index("all"), "all", pa.array(spaced))

    @ads.topology(name="batches")
    def topology(app: ads.App) -> None:
        events = app.stream("in", Everything, timestamp="at", key="text")
        listed = events.group_by("text").aggregate(all=ads.collect_list("large")).to_stream()
        listed.to("plain")
        listed.map_batches(same).to("mapped")
        listed.map_batches(respaced).to("spaced")
        listed.map_batches(lambda b: pa.table({"text": b["text"], "all": pa.array(['{"a": 1'] * b.num_rows)})).to("no")

    with TopologyTestDriver(topology, partitions=1) as driver:
        for row in [
            {**FULL, "at": "2024-01-15T10:00:00Z"},
            {**FULL, "at": "2024-01-15T10:00:01Z", "large": "0.000000001"},
        ]:
            driver.input("in").pipe(row)
        plain = [r.value for r in driver.output("plain").read_raw()]
        assert plain
        assert b"123456789.123456789" in (plain[-1] or b"")
        assert [r.value for r in driver.output("mapped").read_raw()] == plain
        assert [r.value for r in driver.output("spaced").read_raw()] == plain
        assert driver.output("no").read_raw() == []
        assert {d.reason for d in driver.dead_letters("in")} == {"bad_cast"}


def inverse(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"v": [100 // n for n in batch["n"].to_pylist()]})


@pytest.mark.parametrize("batch_rows", [1, 2, 7, None])
def test_only_the_rows_that_raise_are_dead(batch_rows: int | None) -> None:
    numbers = [1, 0, 2, 3, 0, 0, 4, 5, 6, 7, 8, 9, 10]
    out, dead = run(lambda s: s.map_batches(inverse, schema=Out), numbers, batch_rows=batch_rows)
    assert out == [100 // n for n in numbers if n]
    message = "ZeroDivisionError: integer division or modulo by zero"
    assert dead == [(0, "callable_raised", message)] * 3


def test_a_bad_row_costs_few_calls() -> None:
    sizes: list[int] = []

    def counting(batch: pa.RecordBatch) -> pa.RecordBatch:
        sizes.append(batch.num_rows)
        return inverse(batch)

    out, dead = run(lambda s: s.map_batches(counting, schema=Out), [1] * 700 + [0] + [1] * 323)
    assert (len(out), len(dead)) == (1023, 1)
    assert sizes[0] == 1024
    assert len(sizes) == 2 * 10 + 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda b: None, "TypeError: a pyarrow.RecordBatch or Table is expected, and a NoneType came back"),
        (lambda b: b.to_pylist(), "TypeError: a pyarrow.RecordBatch or Table is expected, and a list came back"),
        (lambda b: b.slice(1), "ValueError: 0 rows came back for 1: there must be one for each, in their order"),
        (
            lambda b: pa.concat_tables([pa.Table.from_batches([b])] * 2),
            "ValueError: 2 rows came back for 1: there must be one for each, in their order",
        ),
        (lambda b: pa.table({"w": b["n"], "V": b["n"]}), "ValueError: no columns `v` came back; there are: `w`, `V`"),
        (lambda b: pa.table({"vv": b["n"]}), "ValueError: no columns `v` came back; is `vv` meant?"),
        (lambda b: pa.table([b["n"], b["n"]], ["v", "v"]), "ValueError: 2 columns `v` came back; there are: `v`, `v`"),
        (
            lambda b: pa.table({"v": b["n"].cast(pa.float64())}),
            "TypeError: column `v` came back as double where int64 is promised",
        ),
        (
            lambda b: pa.table({"v": pc.cast(b["n"], pa.string())}),
            "TypeError: column `v` came back as string where int64 is promised",
        ),
    ],
)
def test_what_is_not_as_promised_says_so(answer: Callable[[Any], Any], message: str) -> None:
    out, dead = run(lambda s: s.map_batches(answer, schema=Out), [5, 6, 7])
    assert out == []
    assert dead == [(n, "callable_raised", message) for n in (5, 6, 7)]


@pytest.mark.parametrize("batch_rows", [1, 2, 3, None])
def test_rows_that_are_left_out_are_told_from_the_others(batch_rows: int | None) -> None:
    """A filter is none of these functions; that it is one does not depend on how rows were cut."""

    def odd(batch: pa.RecordBatch) -> pa.Table:
        table = pa.table({"v": batch["n"]})
        return table.filter(pa.array([n % 2 == 1 for n in batch["n"].to_pylist()]))

    out, dead = run(lambda s: s.map_batches(odd, schema=Out), [1, 3, 2, 5, 7, 9, 4], batch_rows=batch_rows)
    assert out == [1, 3, 5, 7, 9]
    assert [(n, message) for n, _, message in dead] == [
        (n, "ValueError: 0 rows came back for 1: there must be one for each, in their order") for n in (2, 4)
    ]


class Wide(ads.Record):
    v: int | None
    x: float | None
    text: str | None
    kind: Literal["a", "b"] | None
    d: Annotated[Decimal, ads.decimal(10, 3)] | None
    at: datetime | None
    gap: timedelta | None
    none: bool | None


class Panic(BaseException):
    """As those of extensions, which are no `Exception`."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Panic("index out of bounds"), "Panic: index out of bounds"),
        (SystemExit(3), "SystemExit: 3"),
        (GeneratorExit(), "GeneratorExit: "),
        (Unspeakable(), "Unspeakable: (its text raises ValueError)"),
        (ValueError("\udc80"), "ValueError: \\udc80"),
    ],
)
def test_whatever_is_raised_only_the_rows_that_are_the_cause_are_dead(error: BaseException, said: str) -> None:
    def odd(batch: pa.RecordBatch) -> Any:
        if 2 in batch["n"].to_pylist():
            raise error
        return pa.table({"v": batch["n"]})

    out, dead = run(lambda s: s.map_batches(odd, schema=Out), list(range(8)))
    assert out == [0, 1, 3, 4, 5, 6, 7]
    assert dead == [(2, "callable_raised", said)]


def test_narrower_types_and_other_forms_are_taken() -> None:
    def narrow(batch: pa.RecordBatch) -> pa.Table:
        n = batch.num_rows
        parts = [
            pa.table(
                {
                    "none": pa.nulls(rows),
                    "gap": pa.array([2] * rows, pa.duration("s")),
                    "at": pa.array([AT] * rows, pa.timestamp("us", tz="Asia/Seoul")),
                    "d": pa.array([Decimal("1.5")] * rows, pa.decimal128(4, 1)),
                    "kind": pa.array(["b"] * rows).dictionary_encode(),
                    "text": pa.array(["ü"] * rows, pa.large_string()),
                    "x": pa.array([0.5] * rows, pa.float32()),
                    "v": pa.array([7] * rows, pa.uint8()),
                    "unknown": pa.array([1] * rows),
                }
            )
            for rows in (1, n - 1)
        ]
        return pa.concat_tables(parts)

    with TopologyTestDriver(build(lambda s: s.map_batches(narrow, schema=Wide)), partitions=1) as driver:
        for n in range(3):
            driver.input("in").pipe({"n": n})
        assert [r.value for r in driver.output("out").read()] == [
            {
                "v": 7,
                "x": 0.5,
                "text": "ü",
                "kind": "b",
                "d": "1.500",
                "at": "2024-01-15T10:00:00.000Z",
                "gap": 2000,
                "none": None,
            }
        ] * 3


@pytest.mark.parametrize(
    ("column", "values", "reason", "message"),
    [
        ("x", pa.array([0.5, float("nan"), float("inf")]), "not_a_number", ""),
        ("kind", pa.array(["a", "c", "d"]), "bad_cast", ""),
        ("v", pa.array([1, 2**63, 2**64 - 1], pa.uint64()), "callable_raised", "ArrowInvalid: Integer value"),
        ("d", pa.array([Decimal("1.5"), Decimal("1.5555"), Decimal("0.0001")]), "callable_raised", "ArrowInvalid"),
        ("gap", pa.array([1000, 1, 1001], pa.duration("us")), "callable_raised", "ArrowInvalid: Casting from"),
        ("at", pa.array([AT] * 3, pa.timestamp("ms")), "callable_raised", "a time needs its zone"),
        ("text", pa.array([b"ok", b"\xff", b"\xc3"]).view(pa.string()), "callable_raised", "UTF8"),
    ],
)
def test_what_has_no_equal_is_a_dead_letter(column: str, values: pa.Array, reason: str, message: str) -> None:
    def chosen(batch: pa.RecordBatch) -> pa.RecordBatch:
        n = batch["n"].to_pylist()
        arrays = {c: pa.nulls(len(n)) for c in Wide.__adstream_schema__.types}
        return pa.RecordBatch.from_pydict({**arrays, column: values.take(pa.array(n))})

    with TopologyTestDriver(build(lambda s: s.map_batches(chosen, schema=Wide)), partitions=1) as driver:
        for n in (1, 0, 2, 0):
            driver.input("in").pipe({"n": n})
        dead = driver.dead_letters("in")
        bad = [0, 1, 2, 0] if column == "at" else [1, 2]
        assert sorted(json.loads(d.value or b"")["n"] for d in dead) == sorted(bad)
        assert {d.reason for d in dead} == {reason}
        assert all(message in (d.message or "") for d in dead)
        assert len(driver.output("out").read()) == 4 - len(bad)


def test_slices_of_arrays_come_back_right() -> None:
    class Both(ads.Record):
        v: int | None
        text: str | None
        yes: bool | None

    def sliced(batch: pa.RecordBatch) -> pa.RecordBatch:
        n = batch["n"].to_pylist()
        values = [-1, -1, -1, *(None if i % 4 == 3 else i for i in n), -1]
        arrays = [
            pa.array(values),
            pa.array([None if v is None else str(v) * 3 for v in values]),
            pa.array([None if v is None else v % 2 == 0 for v in values]),
        ]
        return pa.RecordBatch.from_arrays(arrays, ["v", "text", "yes"]).slice(3, len(n))

    with TopologyTestDriver(build(lambda s: s.map_batches(sliced, schema=Both)), partitions=1) as driver:
        for n in range(19):
            driver.input("in").pipe({"n": n})
        for n, record in enumerate(driver.output("out").read()):
            some = n % 4 != 3
            assert record.value == {
                "v": n if some else None,
                "text": str(n) * 3 if some else None,
                "yes": n % 2 == 0 if some else None,
            }


def test_arrays_shorter_than_they_say_are_refused() -> None:
    def lying(batch: pa.RecordBatch) -> pa.RecordBatch:
        array = pa.Array.from_buffers(pa.int64(), batch.num_rows, [None, pa.py_buffer(b"\0" * 4)])
        return pa.RecordBatch.from_arrays([array], ["v"])

    out, dead = run(lambda s: s.map_batches(lying, schema=Out), [1, 2])
    assert out == []
    assert all("ArrowInvalid: Buffer #1 too small" in message for _, _, message in dead)
    assert len(dead) == 2


def test_errors_of_a_row_are_not_handed_over_as_nothing() -> None:
    """They surface where they are read, and a function reads the whole row: `map` and callables, too."""
    asked: list[Any] = []

    def noted(row: Any) -> dict[str, Any]:
        asked.append(row["n"])
        return {"v": row["n"]}

    for make in (
        lambda s: s.map(noted, schema=Out),
        lambda s: s.map_batches(lambda b: pa.table({"v": [noted(r)["v"] for r in b.to_pylist()]}), schema=Out),
        lambda s: s.select(v=ads.udf(lambda row: noted(row)["v"], type=int)),
    ):
        asked.clear()
        out, dead = run(lambda s, make=make: make(s.with_columns(big=col("n") * 2**62)), [1, 4, 0, 5])  # type: ignore[misc]
        assert (out, asked) == ([1, 0], [1, 0])
        assert [(n, reason) for n, reason, _ in dead] == [(4, "overflow"), (5, "overflow")]


def test_no_number_is_no_result_of_a_function() -> None:
    class Ratio(ads.Record):
        v: float | None

    out, dead = run(lambda s: s.map(lambda r: {"v": float("inf") if r["n"] else 0.0}, schema=Ratio), [0, 1])
    assert out == [0.0]
    assert [(n, reason) for n, reason, _ in dead] == [(1, "not_a_number")]


def test_metadata_of_rows_stays() -> None:
    with TopologyTestDriver(build(lambda s: s.map_batches(inverse, schema=Out)), partitions=1) as driver:
        for n in (5, 0, 2):
            driver.input("in").pipe({"n": n}, at=1_000 + n)
        assert [(r.timestamp, r.value["v"]) for r in driver.output("out").read()] == [(1_005, 20), (1_002, 50)]


def test_it_is_checked_when_the_topology_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused("bad_argument", "not a function", ".with_columns(", "map_batches"):
        events().map_batches(col("price"))  # type: ignore[arg-type]

    async def waits(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    with refused("bad_argument", "an async function: `waits`", ".map_async(", "map_batches"):
        events().map_batches(waits)
    with refused("not_a_schema", "does not describe a record", "", "map_batches"):
        events().map_batches(same, schema={"v": int})
    made = events().map_batches(same, schema=pa.schema({"v": pa.int64(), "t": pa.timestamp("us", tz="UTC")}))
    assert made.schema == {"v": "int", "t": "timestamp"}
    with refused("unknown_column", "no column `price`", "", "filter"):
        made.filter(col("price") > 0)
    monkeypatch.setattr("adstream.dsl.batches.find_spec", lambda name: None)
    with refused("not_installed", "`pyarrow` is not installed", "pip install pyarrow", "map_batches"):
        events().map_batches(same)
