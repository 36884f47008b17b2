"""What functions of users meet, and what their exceptions do."""

from __future__ import annotations

from typing import Any

import pytest

import adstream as ads
from adstream import col
from adstream.testing import TopologyTestDriver


class Row(ads.Record):
    key: str
    n: int


def test_an_aggregate_of_ones_own_never_meets_an_error_as_none() -> None:
    seen: list[Any] = []

    def add(total: int, row: Any) -> int:
        seen.append(row["big"])
        return total + 1

    @ads.topology(name="folds")
    def folds(app: ads.App) -> None:
        rows = app.stream("in", Row, key="key").with_columns(big=col("n") * 2**62)
        rows.group_by("key").aggregate(n=ads.udaf(int, add, type=int)).named("folded").to("out")

    with TopologyTestDriver(folds, partitions=1) as driver:
        for n in (0, 3, 1):
            driver.input("in").pipe({"key": "k", "n": n})
        driver.run()
        assert seen == [0, 2**62]
        (letter,) = driver.dead_letters("in")
        assert letter.offset == 1
        assert "`big`: overflow" in (letter.message or "")


def test_ctrl_c_is_no_dead_letter() -> None:
    def interrupted(row: Any) -> Any:
        raise KeyboardInterrupt

    @ads.topology(name="interrupted")
    def topology(app: ads.App) -> None:
        app.stream("in", Row, key="key").map(interrupted, schema=Row).to("out")

    with TopologyTestDriver(topology, partitions=1) as driver:
        driver.input("in").pipe({"key": "k", "n": 1})
        with pytest.raises(KeyboardInterrupt):
            driver.run()
