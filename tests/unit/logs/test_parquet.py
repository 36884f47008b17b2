"""A Parquet file gives what the same rows as JSON lines give: from any position, in any reads, through a whole job."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import adstream as ads
from adstream.cli.commands import app
from adstream.errors import ConfigError, FatalError
from adstream.logs.embedded import EmbeddedLog
from adstream.logs.files import FilesLog
from adstream.testing import TopologyTestDriver

AT = datetime(2024, 1, 15, 10, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("n", pa.int64()),
        pa.field("price", pa.decimal128(10, 2)),
        pa.field("at", pa.timestamp("ns", tz="Asia/Seoul")),
        pa.field("score", pa.float64()),
        pa.field("kind", pa.dictionary(pa.int32(), pa.string())),
        pa.field("took", pa.duration("ms")),
    ]
)


class Sale(ads.Record):
    id: str
    n: int | None
    price: Annotated[Decimal, ads.decimal(10, 2)] | None
    at: datetime
    score: float | None
    kind: str
    took: timedelta | None


@ads.topology(name="sales")
def sales(app: ads.App) -> None:
    rows = app.stream("in", Sale, timestamp="at")
    rows.group_by("kind").windowed_by(ads.tumbling("1m", grace="10s")).aggregate(
        n=ads.count(),
        total=ads.sum("price"),
        last=ads.last("id"),
        best=ads.max("score"),
        took=ads.max("took"),
        m=ads.sum("n"),
    ).named("totals").final().to("out")


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": None if i % 97 == 5 else f"s{i}",
            "n": None if i % 7 == 0 else i,
            "price": Decimal(i) / 4,
            "at": AT + timedelta(seconds=i - 20 * (i % 13 == 0)),
            "score": float("nan") if i % 50 == 49 else i / 8,
            "kind": "ab"[i % 2],
            "took": timedelta(milliseconds=i),
        }
        for i in range(count)
    ]


def written(path: Path, count: int, group: int = 100) -> Path:
    pq.write_table(pa.Table.from_pylist(rows(count), schema=SCHEMA), path, row_group_size=group)
    return path


def twin(path: Path, count: int) -> Path:
    """The same as JSON lines."""
    lines = []
    for row in rows(count):
        plain = row | {
            "price": str(row["price"].quantize(Decimal("0.01"))),
            "took": row["took"] // timedelta(milliseconds=1),
        }
        plain |= {"at": row["at"].isoformat(), "score": row["score"] if row["score"] == row["score"] else "nan"}
        lines.append(json.dumps(plain))
    path.write_text("\n".join(lines) + "\n")
    return path


def results(path: Path) -> tuple[list[Any], list[Any]]:
    """What the job makes of a file's records, and its dead letters."""
    log = FilesLog(EmbeddedLog(), {"in": [path]}, timestamp_ms=0)
    reader = log.reader()
    reader.add("in", 0, 0)
    with TopologyTestDriver(sales, partitions=1) as driver:
        while (batch := reader.read("in", 0, 64)) is not None:
            for _, _, _, value, _ in batch.records():
                driver.input("in").pipe(value, at=0)
        reader.close()
        found = [(r.key, r.value, r.timestamp) for r in driver.output("out").read()]
        return found, [(d.reason, d.offset) for d in driver.dead_letters("in")]


def test_a_job_makes_the_same_of_it_as_of_json_lines(tmp_path: Path) -> None:
    found, dead = results(written(tmp_path / "a.parquet", 1000))
    assert (found, dead) == results(twin(tmp_path / "a.jsonl", 1000))
    assert len(found) > 20
    assert {reason for reason, _ in dead} == {"missing_field:id", "bad_field:score"}


@pytest.mark.parametrize(("start", "take"), [(0, 7), (1, 1000), (99, 50), (100, 3), (205, 100), (249, 1), (250, 1)])
def test_each_row_once_from_any_position(start: int, take: int, tmp_path: Path) -> None:
    log = FilesLog(EmbeddedLog(), {"in": [written(tmp_path / "a.parquet", 250)]})
    assert log.end_offsets([("in", 0)], committed=True) == {("in", 0): 250}
    assert log.unit(["in"]) == "rows"
    log.writer("w").commit([], {("in", 0): start}, "g", None)
    assert log.committed("g", [("in", 0)]) == {("in", 0): start}
    reader = log.reader()
    reader.add("in", 0, start)
    found: list[tuple[int, Any]] = []
    while (batch := reader.read("in", 0, take)) is not None:
        assert len(batch) <= take
        found += [(offset, json.loads(value or b"")["took"]) for offset, _, _, value, _ in batch.records()]
    assert found == [(i, i) for i in range(start, 250)]
    assert reader.at_end("in", 0)
    reader.close()


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", 10)
    log = FilesLog(EmbeddedLog(), {"in": [path]})
    log.writer("w").commit([], {("in", 0): 11}, "g", None)
    with pytest.raises(ConfigError, match="up to row 11: it has 10"):
        log.committed("g", [("in", 0)])
    written(path, 20)
    reader = log.reader()
    with pytest.raises(FatalError, match="was replaced or changed"):
        reader.add("in", 0, 0)
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:200])
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        FilesLog(EmbeddedLog(), {"in": [tmp_path / "cut.parquet"]})
    pq.write_table(pa.table({"raw": [b"x"]}), tmp_path / "bytes.parquet")
    with pytest.raises(ConfigError, match="the column `raw` is bytes"):
        FilesLog(EmbeddedLog(), {"in": [tmp_path / "bytes.parquet"]})


def test_replay_from_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.parquet", 300)
    twin(tmp_path / "a.jsonl", 300)
    outputs = []
    for kind in ("parquet", "jsonl"):
        log = f"dir:{tmp_path / kind}"
        arguments = ["replay", "tests.unit.logs.test_parquet:sales", "--from", f"{kind}:a.{kind}", "--log", log]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        made = EmbeddedLog(tmp_path / kind)
        reader = made.reader()
        reader.add("out", 0, 0)
        batch = reader.read("out", 0, 1000)
        assert batch is not None
        outputs.append([value for _, _, _, value, _ in batch.records()])
        reader.close()
        made.close()
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 5
    for wrong, text in (("csv:a.csv", "no kind of files"), ("parquet:", "no kind of files")):
        done = CliRunner().invoke(app, ["replay", "tests.unit.logs.test_parquet:sales", "--from", wrong])
        assert done.exit_code == 2
        assert text in done.output
