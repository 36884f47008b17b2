"""State written by older versions is opened by this one (a newer one is refused: frame.rs, test_snapshot.py).

`state_formats/N` was written by the version whose formats had number N and is never written again: a change that cannot
read it breaks running jobs. For a new format, bump its version, keep reading the old one, and add a folder:
`python -m tests.unit.test_older_state N`.
"""

from __future__ import annotations

import json
import shutil
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pytest

import adstream as ads
from adstream._core import Plan, RawBatch, Task
from adstream.runtime.assignment import TaskSpec
from adstream.runtime.snapshot import Snapshot, Snapshots

FORMATS = Path(__file__).parent / "state_formats"
NUMBERS = sorted(int(path.name) for path in FORMATS.iterdir())


class Sale(ads.Record):
    id: str
    shop: str
    at: Annotated[datetime, ads.epoch("ms")]
    price: Annotated[Decimal, ads.decimal(10, 2)]
    n: int


@ads.topology(name="older")
def older(app: ads.App) -> None:
    """Every kind of keyed state and of accumulator that a changelog can hold."""
    sales = app.stream("sales", Sale, timestamp="at", key="shop").deduplicate("id", within="1h")
    shops = sales.group_by("shop")
    every = {
        "rows": ads.count(),
        "total": ads.sum("price"),
        "low": ads.min("n"),
        "high": ads.max("price"),
        "mean": ads.mean("n"),
        "oldest": ads.first("id"),
        "newest": ads.last("id"),
    }
    windows = shops.windowed_by(ads.tumbling("1m", grace="10s", retention="10m")).aggregate(**every).named("minutes")
    windows.final().to("minutes", key="shop")
    shops.aggregate(**every).named("ever").to_stream().to("ever", key="shop")


def task() -> Task:
    built = older.build()
    plan = Plan(built.json, built.callables)
    return plan.task(0, 0, dict.fromkeys(json.loads(plan.describe())["topics"], 1))


def sales(first: int, rows: int) -> RawBatch:
    records = []
    for i in range(first, first + rows):
        sale = {"id": f"s{i}", "shop": f"shop {i % 7}", "at": 1_700_000_000_000 + 900 * i, "price": f"{i}.5", "n": i}
        records.append((i, sale["at"], str(sale["shop"]).encode(), json.dumps(sale).encode(), []))
    return RawBatch(records)


def go_on(core: Task, first: int, rows: int) -> tuple[list[RawBatch], list[tuple[str, Any]]]:
    """The changelog of one more generation, and what it said."""
    core.feed("sales", 0, sales(first, rows))
    core.process(10_000)
    generation = core.close_generation()
    core.committed()
    changelog = [batch for topic, _, batch in generation.outputs if topic.endswith("-changelog")]
    said = [
        (topic, json.loads(record[3] or b""))
        for topic, _, batch in generation.outputs
        if topic in ("minutes", "ever")
        for record in batch.records()
    ]
    return changelog, said


def written(folder: Path) -> list[RawBatch]:
    return [RawBatch.from_bytes(path.read_bytes()) for path in sorted(folder.glob("changelog-*"))]


@pytest.mark.parametrize("number", NUMBERS)
def test_an_older_state_format_is_opened(number: int) -> None:
    core = task()
    for batch in written(FORMATS / str(number)):
        core.restore(batch)
    _, said = go_on(core, 250, 100)
    assert said == [tuple(line) for line in json.loads((FORMATS / str(number) / "then.json").read_text())]
    assert core.stats()["counters"]["deduplicate-1"]["repeated"] == 50


@pytest.mark.parametrize("number", NUMBERS)
def test_an_older_snapshot_format_is_opened(number: int, tmp_path: Path) -> None:
    shutil.copytree(FORMATS / str(number) / "snapshot", tmp_path / "older" / "0_0")
    snapshot = open_snapshot(tmp_path)
    assert [(block.begin, block.end) for block in snapshot.blocks] == [(0, 11), (11, 17)]
    core = task()
    for block in snapshot.blocks:
        for batch in snapshot.load(block):
            core.restore(batch)
    snapshot.close()
    _, said = go_on(core, 250, 100)
    assert said == [tuple(line) for line in json.loads((FORMATS / str(number) / "then.json").read_text())]


def open_snapshot(state_dir: Path) -> Snapshot:
    spec = TaskSpec(0, "stream", 0, "", 0, (("sales", 0),), ("older-0-changelog", 0))
    snapshot = Snapshots(str(state_dir), "older").open(spec)
    assert snapshot is not None
    return snapshot


def write_snapshot(folder: Path, temporary: Path) -> None:
    """In two blocks, of two entries and of one."""
    snapshot = open_snapshot(temporary)
    snapshot.start_over(0)
    first, second, third = written(folder)
    for batch in (first, second):
        snapshot.hold(batch)
    snapshot.append(second.next_offset + 1)
    snapshot.hold(third)
    snapshot.append(third.next_offset + 1)
    snapshot.close()
    (folder / "snapshot").mkdir()
    for path in (temporary / "older" / "0_0").glob("*.snapshot"):
        shutil.copy(path, folder / "snapshot")


def write(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    core, offset = task(), 0
    for n in range(3):
        [batch], _ = go_on(core, n * 100, 100)
        batch = batch.with_offsets(offset)
        offset = batch.next_offset + 1
        (folder / f"changelog-{n}").write_bytes(batch.to_bytes())
    with TemporaryDirectory() as temporary:
        write_snapshot(folder, Path(temporary))
    core = task()
    for batch in written(folder):
        core.restore(batch)
    _, said = go_on(core, 250, 100)  # 50 of them again
    (folder / "then.json").write_text(json.dumps(said, indent=0) + "\n")


if __name__ == "__main__":
    write(FORMATS / sys.argv[1])
