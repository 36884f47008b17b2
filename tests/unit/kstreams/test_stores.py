"""Stores of processors: their methods, what they forget, what survives."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver

S, I = ads.serdes.string, ads.serdes.int64  # noqa: E741


class Does(ads.Processor):
    """Runs what it is given and keeps what that returns."""

    def __init__(self, said: list[Any]) -> None:
        self.said = said

    def init(self, ctx: ads.Context) -> None:
        self.store = ctx.get_state_store("store")

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        do = self.said.pop()
        self.said.append(do(self.store))


@contextmanager
def doing(builder: Any, **options: Any) -> Iterator[Callable[[Callable[[Any], Any]], Any]]:
    """A function that runs a function of the store inside a processor."""
    said: list[Any] = []

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.stream("in", key=S, value=I).process(lambda: Does(said), builder, name="does")

    given: dict[str, Any] = {"partitions": 1, "commit_every": 1, **options}
    with TopologyTestDriver(topology, **given) as d:

        def do(action: Callable[[Any], Any]) -> Any:
            said.append(action)
            d.input("in").pipe(1, key="k", at=0)
            d.run()
            failed = d.dead_letters("in")
            assert not failed, failed[-1].message
            return said.pop()

        do.driver = d  # type: ignore[attr-defined]
        yield do


def test_key_value() -> None:
    with doing(ads.store.key_value("store")) as do:
        assert do(lambda s: s.get("a")) is None
        do(lambda s: s.put_all([("b", 2), ("a", 1), ("ab", 3), ("c", 4)]))
        assert do(lambda s: list(s.all())) == [("a", 1), ("ab", 3), ("b", 2), ("c", 4)]
        assert do(lambda s: list(s.reverse_all())) == [("c", 4), ("b", 2), ("ab", 3), ("a", 1)]
        assert do(lambda s: list(s.range("a", "b"))) == [("a", 1), ("ab", 3), ("b", 2)]
        assert do(lambda s: list(s.range(None, "a"))) == [("a", 1)]
        assert do(lambda s: list(s.reverse_range("ab", None))) == [("c", 4), ("b", 2), ("ab", 3)]
        assert do(lambda s: list(s.range("c", "a"))) == []
        assert do(lambda s: list(s.prefix_scan("a"))) == [("a", 1), ("ab", 3)]
        assert do(lambda s: s.put_if_absent("a", 9)) == 1
        assert do(lambda s: s.put_if_absent("d", 5)) is None
        assert do(lambda s: s.approximate_num_entries()) == 5
        assert do(lambda s: s.delete("a")) == 1
        assert do(lambda s: s.delete("a")) is None
        do(lambda s: s.put("b", None))
        assert do(lambda s: [key for key, _ in s.all()]) == ["ab", "c", "d"]
        do.driver.restart()  # type: ignore[attr-defined]
        assert do(lambda s: [key for key, _ in s.all()]) == ["ab", "c", "d"]


def test_a_long_range_comes_in_pages_and_may_be_left() -> None:
    def pages(s: Any) -> Any:
        for i in range(1000):
            s.put(i, i)
        with s.all() as entries:
            assert entries.peek_next_key() == 0
            first = next(entries)
        with pytest.raises(StopIteration):
            next(entries)
        return first, sum(value for _, value in s.all()), [key for key, _ in s.reverse_all()][:3]

    with doing(ads.store.key_value("store")) as do:
        assert do(pages) == ((0, 0), sum(range(1000)), [999, 998, 997])


def test_an_entry_may_be_deleted_while_they_are_walked() -> None:
    def walk(s: Any) -> int:
        for i in range(600):
            s.put(i, i)
        for key, _ in s.all():
            s.delete(key)
        return int(s.approximate_num_entries())

    with doing(ads.store.key_value("store")) as do:
        assert do(walk) == 0


def test_values_are_copies() -> None:
    class Mine:
        def __init__(self) -> None:
            self.list = [1]

    def put(s: Any) -> Any:
        mine, plain = Mine(), {"a": [1]}
        s.put("mine", mine)
        s.put("plain", plain)
        mine.list.append(2)
        plain["a"].append(2)
        return s.get("plain")

    globals()["Mine"] = Mine  # pickle finds a class by its name
    Mine.__qualname__ = "Mine"
    with doing(ads.store.key_value("store")) as do:
        assert do(put) == {"a": [1]}
        assert do(lambda s: s.get("mine").list) == [1]


def test_timestamped_key_value() -> None:
    with doing(ads.store.timestamped_key_value("store")) as do:
        do(lambda s: s.put("a", ads.ValueAndTimestamp(1, 50)))
        assert do(lambda s: s.get("a")) == ads.ValueAndTimestamp(1, 50)
        assert do(lambda s: list(s.all())) == [("a", (1, 50))]
        assert do(lambda s: s.put_if_absent("a", ads.ValueAndTimestamp(2, 60))) == (1, 50)
        assert do(lambda s: s.delete("a")) == (1, 50)
        assert do(lambda s: s.get("a")) is None


def windows(s: Any) -> None:
    for key, start in [("b", 0), ("a", 0), ("a", 10), ("b", 20), ("a", 20)]:
        s.put(key, f"{key}{start}", start)


def test_windows() -> None:
    with doing(ads.store.window("store", "30ms", "10ms")) as do:
        do(windows)
        assert do(lambda s: s.fetch("a", 10)) == "a10"
        assert do(lambda s: s.fetch("a", 5)) is None
        assert do(lambda s: list(s.fetch("a", 0, 10))) == [(0, "a0"), (10, "a10")]
        assert do(lambda s: list(s.backward_fetch("a", 1, 99))) == [(20, "a20"), (10, "a10")]
        everything = [ads.Windowed(k, t, t + 10) for k, t in [("a", 0), ("b", 0), ("a", 10), ("a", 20), ("b", 20)]]
        assert do(lambda s: [key for key, _ in s.all()]) == everything
        assert do(lambda s: [key for key, _ in s.backward_all()]) == everything[::-1]
        assert do(lambda s: [key for key, _ in s.fetch_all(10, 20)]) == everything[2:]
        assert do(lambda s: [key for key, _ in s.backward_fetch_all(0, 0)]) == everything[1::-1]
        assert do(lambda s: [key.key for key, _ in s.fetch("b", None, 0, 99)]) == ["b", "b"]
        do(lambda s: s.put("a", None, 10))
        do(lambda s: s.put("c", "c30", 30))
        assert do(lambda s: [value for _, value in s.all()]) == ["a20", "b20", "c30"]  # 0 is 30 behind
        do(lambda s: s.put("late", "late", 0))
        assert do(lambda s: s.fetch("late", 0)) is None
        assert do.driver.counters()["does"]["dropped:expired"] == 1  # type: ignore[attr-defined]
        do.driver.restart()  # type: ignore[attr-defined]
        assert do(lambda s: [value for _, value in s.all()]) == ["a20", "b20", "c30"]


def test_windows_with_duplicates_keep_all_and_delete_none() -> None:
    def put(s: Any) -> Any:
        for value in (1, 2, None, 3):
            s.put("a", value, 0)
        return list(s.fetch("a", 0, 0))

    with doing(ads.store.window("store", "30ms", "10ms", duplicates=True)) as do:
        assert do(put) == [(0, 1), (0, 2), (0, 3)]


def test_the_order_of_many_keys_may_be_that_of_persistent_stores() -> None:
    with doing(ads.store.window("store", "1h", "10ms", order="key")) as do:
        do(windows)
        do(lambda s: s.put("a", "later", 40 * 60_000))  # another piece of time
        assert do(lambda s: [v for _, v in s.all()]) == ["a0", "a10", "a20", "b0", "b20", "later"]
        assert do(lambda s: [v for _, v in s.backward_fetch_all(0, 20)]) == ["b20", "b0", "a20", "a10", "a0"]
        assert do(lambda s: [v for _, v in s.fetch("a", 0, 20)]) == ["a0", "a10", "a20"]

    def put(s: Any) -> None:
        for key, start, end in [("b", 0, 5), ("a", 2, 9), ("a", 0, 5), ("a", 1, 5)]:
            s.put(ads.Windowed(key, start, end), f"{key}{start}")

    with doing(ads.store.session("store", "1h", order="key")) as do:
        do(put)
        assert do(lambda s: [v for _, v in s.fetch(None, None)]) == ["a0", "a1", "a2", "b0"]
        assert do(lambda s: [v for _, v in s.fetch("a")]) == ["a0", "a1", "a2"]


def test_what_is_too_old_is_counted_by_whole_pieces_of_time_in_that_order() -> None:
    with doing(ads.store.window("store", "30ms", "10ms", order="key")) as do:
        do(lambda s: s.put("a", 1, 100))
        do(lambda s: s.put("a", 1, 50))
        assert do(lambda s: s.fetch("a", 50)) is None
        assert "dropped:expired" not in do.driver.counters().get("does", {})  # type: ignore[attr-defined]
        do(lambda s: s.put("a", 1, 200_000))
        do(lambda s: s.put("a", 1, 50))
        assert do.driver.counters()["does"]["dropped:expired"] == 1  # type: ignore[attr-defined]


def test_lru() -> None:
    with doing(ads.store.lru_map("store", 2)) as do:
        do(lambda s: s.put_all([("a", 1), ("b", 2)]))
        assert do(lambda s: s.get("a")) == 1  # a use
        do(lambda s: s.put("c", 3))
        assert do(lambda s: list(s.all())) == [("a", 1), ("c", 3)]
        do.driver.restart()  # type: ignore[attr-defined]
        do(lambda s: s.put("d", 4))
        assert do(lambda s: list(s.all())) == [("c", 3), ("d", 4)]
        assert do(lambda s: s.approximate_num_entries()) == 2


def test_versions() -> None:
    with doing(ads.store.versioned_key_value("store", "100ms")) as do:
        assert do(lambda s: s.put("a", 1, 10)) == -1
        assert do(lambda s: s.put("a", 3, 30)) == -1
        assert do(lambda s: s.put("a", 2, 20)) == 30
        assert do(lambda s: s.get("a")) == (3, 30, None)
        assert do(lambda s: s.get("a", 25)) == (2, 20, None)
        assert do(lambda s: s.get("a", 5)) is None
        assert do(lambda s: s.delete("a", 40)) == (3, 30, None)
        assert do(lambda s: s.get("a")) is None
        assert do(lambda s: s.put("b", 1, 500)) == -1
        assert do(lambda s: s.put("a", 1, 399)) == s_not_put()
        assert do(lambda s: s.delete("a", 399)) is None
        assert do.driver.counters()["does"]["dropped:expired"] == 2  # type: ignore[attr-defined]
        store = do.driver.store("store")  # type: ignore[attr-defined]
        assert store.get("b") == (1, 500, None)


def s_not_put() -> int:
    from adstream.dsl.store import VersionedKeyValueStore

    return VersionedKeyValueStore.NOT_PUT


def test_timestamped_windows() -> None:
    with doing(ads.store.timestamped_window("store", "30ms", "10ms")) as do:
        do(lambda s: s.put("a", ads.ValueAndTimestamp(1, 5), 0))
        assert do(lambda s: s.fetch("a", 0)) == (1, 5)
        assert do(lambda s: list(s.fetch("a", 0, 9))) == [(0, (1, 5))]


def test_sessions() -> None:
    def put(s: Any) -> None:
        for key, start, end in [("a", 0, 5), ("a", 2, 5), ("b", 1, 9), ("a", 20, 30)]:
            s.put(ads.Windowed(key, start, end), f"{key}{start}")

    with doing(ads.store.session("store", "100ms")) as do:
        do(put)
        assert do(lambda s: s.fetch_session("a", 2, 5)) == "a2"
        assert do(lambda s: [v for _, v in s.fetch("a")]) == ["a2", "a0", "a20"]
        assert do(lambda s: [v for _, v in s.backward_fetch("a")]) == ["a20", "a0", "a2"]
        assert do(lambda s: [v for _, v in s.fetch(None, None)]) == ["a2", "a0", "b1", "a20"]
        assert do(lambda s: [v for _, v in s.find_sessions("a", 5, 1)]) == ["a0"]
        assert do(lambda s: [v for _, v in s.find_sessions("a", "b", 6, 50)]) == ["b1", "a20"]
        assert do(lambda s: [v for _, v in s.find_sessions(5, 9)]) == ["a2", "a0", "b1"]
        assert do(lambda s: next(s.fetch("a"))[0]) == ads.Windowed("a", 2, 5)
        do(lambda s: s.remove(ads.Windowed("a", 2, 5)))
        do(lambda s: s.put(ads.Windowed("b", 1, 9), None))
        assert do(lambda s: [v for _, v in s.fetch(None, None)]) == ["a0", "a20"]
        do(lambda s: s.put(ads.Windowed("c", 100, 105), "c"))
        assert do(lambda s: [v for _, v in s.fetch(None, None)]) == ["a20", "c"]


def test_a_store_without_a_changelog_is_empty_after_a_restart() -> None:
    with doing(ads.store.key_value("store").with_logging_disabled()) as do:
        do(lambda s: s.put("a", 1))
        assert do(lambda s: s.get("a")) == 1
        do.driver.restart()  # type: ignore[attr-defined]
        assert do(lambda s: s.get("a")) is None


def test_a_tables_store_is_read_with_times() -> None:
    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.table("table", "prices", key=S, value=I)

        class Looks(ads.Processor):
            def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
                ctx.forward(record.with_value(list(ctx.get_state_store("prices").get(record.key))))

        app.stream("in", key=S, value=I).process(Looks, "prices").to("out", key=S)

    with TopologyTestDriver(topology, partitions=1, commit_every=1) as d:
        d.input("table").pipe(7, key="a", at=3)
        d.input("in").pipe(1, key="a", at=5)
        assert [r.value for r in d.output("out").read()] == [[7, 3]]


@pytest.mark.parametrize(
    ("error", "action"),
    [
        ("the key is None", lambda s: s.put(None, 1)),
        ("the key is None", lambda s: s.get(None)),
    ],
)
def test_a_key_is_needed(error: str, action: Callable[[Any], Any]) -> None:
    def attempt(s: Any) -> str:
        with pytest.raises(ValueError, match=error) as failed:
            action(s)
        return str(failed.value)

    with doing(ads.store.key_value("store")) as do:
        assert do(attempt)


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("bad_argument", lambda: ads.store.key_value("")),
        ("retention_too_short", lambda: ads.store.window("s", "5ms", "10ms")),
        ("bad_duration", lambda: ads.store.session("s", 5)),
    ],
)
def test_what_cannot_be_declared(code: str, make: Callable[[], Any]) -> None:
    with pytest.raises(ads.TopologyError) as refused:
        make()
    assert refused.value.code == code


def test_names_are_taken_once() -> None:
    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.add_state_store(ads.store.key_value("a"))
        app.add_state_store(ads.store.key_value("a"))

    with pytest.raises(ads.TopologyError) as refused:
        topology.build()
    assert refused.value.code == "duplicate_name"


HEADED = {
    "key_value": ads.store.timestamped_key_value_with_headers("store"),
    "disk": ads.store.timestamped_key_value_with_headers("store", store_type="disk"),
}


@pytest.mark.parametrize("builder", HEADED.values(), ids=HEADED)
def test_headers_are_kept_beside_values(builder: Any) -> None:
    headers = [("h", b"1"), ("empty", None), ("h", b"2")]
    with doing(builder) as do:
        assert do(lambda s: s.put_if_absent("a", ads.ValueTimestampHeaders({"n": 1}, 5, headers))) is None
        do(lambda s: s.put("b", ads.ValueTimestampHeaders(2, 6)))
        kept = ads.ValueTimestampHeaders({"n": 1}, 5, tuple(headers))
        do.driver.restart()  # type: ignore[attr-defined]
        assert do(lambda s: s.get("a")) == kept
        assert do(lambda s: list(s.all())) == [("a", kept), ("b", ads.ValueTimestampHeaders(2, 6, ()))]
        do(lambda s: s.put("b", ads.ValueTimestampHeaders(None, 7, headers)))
        assert do(lambda s: s.delete("a")) == kept
        assert do(lambda s: list(s.all())) == []


def test_headers_of_windows_and_sessions() -> None:
    with doing(ads.store.timestamped_window_with_headers("store", "1h", "10ms")) as do:
        do(lambda s: s.put("a", ads.ValueTimestampHeaders(1, 5, [("h", b"1")]), 0))
        kept = ads.ValueTimestampHeaders(1, 5, (("h", b"1"),))
        assert do(lambda s: s.fetch("a", 0)) == kept
        assert do(lambda s: list(s.fetch("a", 0, 10))) == [(0, kept)]
        assert list(do.driver.store("store").all()) == [(ads.Windowed("a", 0, 10), kept)]  # type: ignore[attr-defined]
    with doing(ads.store.session_with_headers("store", "1h")) as do:
        do(lambda s: s.put(ads.Windowed("a", 0, 5), ads.AggregationWithHeaders(1, [("h", None)])))
        assert do(lambda s: s.fetch_session("a", 0, 5)) == ads.AggregationWithHeaders(1, (("h", None),))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (1, "takes `ads.ValueTimestampHeaders"),
        (ads.ValueAndTimestamp(1, 2), "takes `ads.ValueTimestampHeaders"),
        (ads.ValueTimestampHeaders(1, 2, [("h", "text")]), "a header is a name and bytes or None"),  # type: ignore[list-item]
    ],
)
def test_what_is_no_value_with_headers_is_refused(given: Any, said: str) -> None:
    def put(store: Any) -> str:
        with pytest.raises(TypeError) as error:
            store.put("a", given)
        return str(error.value)

    with doing(HEADED["key_value"]) as do:
        assert said in do(put)


# --- Kinds of one's own -----------------------------------------------------------------------------------------------


class Ranks:
    """Of each key the largest values, at most three: a kind of store on top of a key-value store."""

    def __init__(self, rows: ads.store.KeyValueStore) -> None:
        self.rows = rows

    def add(self, key: str, value: int) -> list[int]:
        best = sorted([*(self.rows.get(key) or []), value], reverse=True)[:3]
        self.rows.put(key, best)
        return best


class Ranked(ads.Processor[int]):
    def init(self, ctx: ads.Context) -> None:
        self.ranks: Ranks = ctx.get_state_store("ranks")

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        ctx.forward(record.with_value(self.ranks.add(record.key, record.value)))


def ranked(app: ads.App) -> None:
    ranks = ads.store.key_value("ranks").of_kind(Ranks)
    app.stream("in", key=ads.serdes.string, value=ads.serdes.int64).process(Ranked, ranks).to("out")


def test_a_kind_of_store_of_ones_own_is_restored_like_any_other() -> None:
    with TopologyTestDriver(ads.topology(name="app")(ranked), partitions=1, commit_every=1) as driver:
        for value in (5, 9, 1, 7):
            driver.input("in").pipe(value, key="k", at=1)
        driver.run()
        driver.restart()
        driver.input("in").pipe(8, key="k", at=1)
        assert [r.value for r in driver.output("out").read()][-2:] == [[9, 7, 5], [9, 8, 7]]
        assert driver.store("ranks").get("k") == [9, 8, 7]


def test_kinds_that_are_none_are_refused() -> None:
    async def later(rows: object) -> None:
        pass

    rows = ads.store.key_value("ranks")
    for wrong in (
        lambda: rows.of_kind("ranks"),
        lambda: rows.of_kind(later),
        lambda: rows.of_kind(Ranks).of_kind(Ranks),
    ):  # type: ignore[arg-type]
        with pytest.raises(ads.TopologyError):
            wrong()
