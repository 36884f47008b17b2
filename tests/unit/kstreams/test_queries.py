"""Stores read from outside: only what is committed, over all partitions."""

from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver

S, I = ads.serdes.string, ads.serdes.int64  # noqa: E741


@ads.topology(name="app")
def counts(app: ads.App) -> None:
    app.stream("in", key=S, value=I).group_by_key().count("counts")


def test_a_tables_store_over_partitions() -> None:
    with TopologyTestDriver(counts, partitions=4) as d:
        for i in range(600):
            d.input("in").pipe(1, key=f"k{i % 300:03}", at=i)
        store = d.store("counts")
        assert store.get("k007") == ads.ValueAndTimestamp(2, 307)
        assert store.get("none") is None
        assert sorted(store.all()) == [(f"k{i:03}", (2, 300 + i)) for i in range(300)]
        assert sorted(store.reverse_all()) == sorted(store.all())
        assert sorted(key for key, _ in store.range("k010", "k012")) == ["k010", "k011", "k012"]
        assert len(list(store.prefix_scan("k1"))) == 100
        assert store.approximate_num_entries() == 300
        assert not hasattr(store, "put")


def test_only_what_is_committed_is_seen() -> None:
    """A generation that is in commit is not seen, whatever its task has done meanwhile."""
    with TopologyTestDriver(counts, partitions=1, commit_every=1) as d:
        d.input("in").pipe(1, key="a", at=1)
        store = d.store("counts")
        assert store.get("a").value == 1
        [task] = d._tasks
        d.input("in").pipe(1, key="a", at=2)
        d.input("in").pipe(1, key="b", at=3)
        d._feed(task, {})
        task.core.process(10)
        assert (store.get("a").value, store.get("b"), len(list(store.all()))) == (1, None, 1)
        task.core.close_generation()
        assert (store.get("a").value, store.get("b"), len(list(store.all()))) == (1, None, 1)
        task.core.committed()
        assert (store.get("a").value, store.get("b").value) == (2, 1)


def test_stores_of_processors_by_their_kind() -> None:
    class Puts(ads.Processor):
        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            t = record.timestamp
            ctx.get_state_store("kv").put(record.key, record.value)
            ctx.get_state_store("windows").put(record.key, record.value, t - t % 10)
            ctx.get_state_store("sessions").put(ads.Windowed(record.key, t, t + 1), record.value)

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        stores: list[Any] = [
            ads.store.key_value("kv"),
            ads.store.window("windows", "1h", "10ms"),
            ads.store.session("sessions", "1h"),
        ]
        app.stream("in", key=S, value=I).process(Puts, *stores)

    with TopologyTestDriver(topology, partitions=2) as d:
        for i, key in enumerate("abab"):
            d.input("in").pipe(i, key=key, at=i * 7)
        assert d.store("kv").get("b") == 3
        assert d.store("windows").fetch("a", 10) == 2
        assert list(d.store("windows").fetch("b", 0, 100)) == [(0, 1), (20, 3)]
        assert len(list(d.store("windows").all())) == 4
        assert [value for _, value in d.store("sessions").fetch("a")] == [0, 2]
        d.restart()
        assert d.store("kv").get("b") == 3
        with pytest.raises(KeyError, match="there is no store `other`; there are kv, windows, sessions"):
            d.store("other")


def test_a_store_of_one_partition() -> None:
    with TopologyTestDriver(counts, partitions=4) as d:
        for i in range(40):
            d.input("in").pipe(1, key=f"k{i}", at=i)
        parts = [dict(d.store("counts", partition).all()) for partition in range(4)]
        assert all(parts)
        assert sum(map(len, parts)) == 40
        assert {key for part in parts for key in part} == {f"k{i}" for i in range(40)}
        [at] = [partition for partition in range(4) if "k7" in parts[partition]]
        assert [d.store("counts", p).get("k7") is not None for p in range(4)] == [p == at for p in range(4)]
        assert list(d.store("counts", 9).all()) == []
