"""Tables whose stores forget what was not used for longest. In Kafka Streams: `Materialized.as(Stores.lruMap(…))`."""

from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver
from tests.unit.dsl.support import refused

S = ads.serdes.string


@ads.topology(name="app")
def counting(app: ads.App) -> None:
    grouped = app.stream("in", key=S, value=S).group_by_key()
    grouped.count(ads.Materialized("counts", max_entries=2)).to_stream().to("out")


def test_a_key_that_was_forgotten_begins_anew_and_nobody_is_told() -> None:
    with TopologyTestDriver(counting, partitions=1, commit_every=1) as driver:
        for key in "abacb":
            driver.input("in").pipe("x", key=key)
        assert [(r.key, r.value) for r in driver.output("out").read()] == [
            ("a", 1),
            ("b", 1),
            ("a", 2),
            ("c", 1),  # b goes
            ("b", 1),  # a goes
        ]
        found = dict(driver.store("counts").all())
        assert {key: value.value for key, value in found.items()} == {"b": 1, "c": 1}
        driver.restart()
        driver.input("in").pipe("x", key="c")
        driver.input("in").pipe("x", key="a")  # b goes: it was used before c
        driver.input("in").pipe("x", key="c")
        assert [(r.key, r.value) for r in driver.output("out").read()] == [("c", 2), ("a", 1), ("c", 3)]


def test_a_join_is_a_use() -> None:
    @ads.topology(name="app")
    def joining(app: ads.App) -> None:
        table = app.table("table", ads.Materialized("kept", max_entries=2), key=S, value=S)
        app.stream("in", key=S, value=S).left_join(table, lambda left, right: [left, right]).to("out")

    with TopologyTestDriver(joining, partitions=1, commit_every=1) as driver:
        driver.input("table").pipe("1", key="a")
        driver.input("table").pipe("2", key="b")
        driver.input("in").pipe("x", key="a")
        driver.input("table").pipe("3", key="c")  # b goes
        for key in "abc":
            driver.input("in").pipe("y", key=key)
        assert [r.value for r in driver.output("out").read()] == [["x", "1"], ["y", "1"], ["y", None], ["y", "3"]]


@pytest.mark.parametrize(
    "how",
    [
        {"max_entries": 0},
        {"max_entries": True},
        {"max_entries": 1, "history": "1m"},
        {"max_entries": 1, "store_type": "disk"},
    ],
)
def test_misuse(how: dict[str, Any]) -> None:
    with refused("bad_argument"):
        ads.Materialized("s", **how)


def test_windows_end_by_themselves() -> None:
    windowed = ads.App("app").stream("in", key=S).group_by_key().windowed_by(ads.tumbling("1m", grace="0s"))
    with refused("bad_argument", "neither windows nor versions"):
        windowed.count(ads.Materialized("s", max_entries=1))


def test_a_materialized_is_put_together_by_the_originals_names() -> None:
    how = ads.Materialized("s").with_key_serde(S).with_value_serde(ads.serdes.int64).with_retention("1h")
    how = how.with_caching_disabled().with_caching_enabled().with_logging_disabled().with_logging_enabled()
    assert how == ads.Materialized("s", key=S, value=ads.serdes.int64, retention="1h")
