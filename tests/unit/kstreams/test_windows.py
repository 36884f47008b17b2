"""Tumbling, hopping and unlimited windows of keys and values: boundaries, lateness, telling on close, restarts."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS
from tests.unit.dsl.support import refused
from tests.unit.kstreams.playing import I, S, dropped, flat, ms, play, uncached


def counts(window: Any, *, close: bool = False, how: Any = None, old: bool = False) -> Callable[[ads.App], None]:
    def build(app: ads.App) -> None:
        windowed = app.stream("in", key=S, value=I).group_by_key().windowed_by(window)
        if close:
            windowed = windowed.emit_strategy("close")
        windowed.count(how or uncached()).to_stream().to("out")

    return build


def test_a_tumbling_window_holds_its_start_and_not_its_end() -> None:
    told = play(counts(ads.tumbling("10ms", grace="0s")), [("a", 1, 0), ("a", 1, 9), ("a", 1, 10), ("b", 1, 11)])
    assert told == [
        [(("a", 0, 10), 1, 0)],
        [(("a", 0, 10), 2, 9)],
        [(("a", 10, 20), 1, 10)],
        [(("b", 10, 20), 1, 11)],
    ]


def test_a_record_is_late_when_the_end_and_the_grace_are_over_its_own_time_included() -> None:
    seen: dict[str, int] = {}
    told = play(
        counts(ads.tumbling("10ms", grace="5ms")),
        [("a", 1, 3), ("a", 1, 14), ("a", 1, 4), ("b", 1, 15), ("a", 1, 5), ("a", 1, 10)],
        after=lambda driver: seen.update(dropped(driver)),
    )
    assert told == [
        [(("a", 0, 10), 1, 3)],
        [(("a", 10, 20), 1, 14)],
        [(("a", 0, 10), 2, 4)],
        [(("b", 10, 20), 1, 15)],
        [],  # [0, 10) closed at 15
        [(("a", 10, 20), 2, 14)],
    ]
    assert seen == {"late": 1}


def test_a_hopping_record_is_late_for_one_window_and_in_time_for_the_next() -> None:
    seen: dict[str, int] = {}
    told = play(
        counts(ads.hopping("10ms", advance="4ms", grace="0s")),
        [("a", 1, 9), ("a", 1, 16), ("a", 1, 11)],
        after=lambda driver: seen.update(dropped(driver)),
    )
    assert told == [
        [(("a", 0, 10), 1, 9), (("a", 4, 14), 1, 9), (("a", 8, 18), 1, 9)],
        [(("a", 8, 18), 2, 16), (("a", 12, 22), 1, 16), (("a", 16, 26), 1, 16)],
        [(("a", 8, 18), 3, 16)],
    ]
    assert seen == {"late": 1}  # [4, 14) once


def test_null_keys_are_dropped_and_null_values_counted() -> None:
    seen: dict[str, int] = {}
    told = play(
        counts(ads.tumbling("10ms", grace="0s")),
        [(None, 1, 50), ("a", None, 3)],
        after=lambda driver: seen.update(dropped(driver)),
    )
    assert told == [[], [(("a", 0, 10), 1, 3)]]  # a dropped record does not move time
    assert seen == {"null_key": 1}


def test_an_unlimited_window_takes_all_from_its_start_on() -> None:
    forever = 2**63 - 1
    told = play(counts(ads.unlimited("5ms")), [("a", 1, 4), ("a", 1, 5), ("a", 1, 10**12), ("a", 1, 6)])
    assert told == [
        [],
        [(("a", 5, forever), 1, 5)],
        [(("a", 5, forever), 2, 10**12)],
        [(("a", 5, forever), 3, 10**12)],
    ]


def test_reduce_and_aggregate() -> None:
    def build(app: ads.App) -> None:
        windowed = app.stream("in", key=S, value=I).group_by_key().windowed_by(ads.tumbling("10ms", grace="0s"))
        windowed.reduce(lambda a, v: max(a, v), uncached()).to_stream().to("out")
        windowed.aggregate(lambda: 100, lambda k, v, a: None if v == 0 else a + v, uncached()).to_stream().to(
            "out", value=I
        )

    assert play(build, [("a", 2, 1), ("a", 1, 3), ("a", 0, 2), ("a", 5, 4)]) == [
        [(("a", 0, 10), 2, 1), (("a", 0, 10), 102, 1)],
        [(("a", 0, 10), 2, 3), (("a", 0, 10), 103, 3)],
        [(("a", 0, 10), 2, 3), (("a", 0, 10), None, 3)],  # None deletes the window's value
        [(("a", 0, 10), 5, 4), (("a", 0, 10), 105, 4)],
    ]


def test_aggregates_of_fields_need_no_function() -> None:
    def build(app: ads.App) -> None:
        windowed = app.stream("in", key=S).group_by_key().windowed_by(ads.tumbling("10ms", grace="0s"))
        windowed.aggregate(n=ads.count(), total=ads.sum("price"), materialized=uncached()).to_stream().to("out")

    assert flat(play(build, [("a", {"price": 2}, 1), ("a", {"price": 3}, 2)])) == [
        (("a", 0, 10), {"n": 1, "total": 2}, 1),
        (("a", 0, 10), {"n": 2, "total": 5}, 2),
    ]


def test_from_a_cache_each_window_is_told_once_per_commit_in_the_order_of_its_latest_update() -> None:
    def build(app: ads.App) -> None:
        stream = app.stream("in", key=S, value=I).flat_map_values(lambda v: [v] * 2)
        stream.group_by_key().windowed_by(ads.hopping("10ms", advance="5ms", grace="0s")).count().to_stream().to("out")

    assert play(build, [("a", 1, 7)]) == [[(("a", 0, 10), 2, 7), (("a", 5, 15), 2, 7)]]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 40)), max_size=24),
    st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_a_cache_tells_of_a_commit_what_is_left_of_its_updates(data: list[tuple[str, int, int]], each: int) -> None:
    """Against a model: the updates as they are told without a cache, put together. A value of 0 deletes the window's."""

    def build(how: Any) -> Callable[[ads.App], None]:
        def made(app: ads.App) -> None:
            windowed = app.stream("in", key=S, value=I).group_by_key()
            windowed = windowed.windowed_by(ads.hopping("10ms", advance="5ms", grace="8ms"))
            table = windowed.aggregate(lambda: 100, lambda k, v, a: None if v == 0 else a + v, how)
            table.to_stream().to("out", value=I)

        return made

    updates = play(build(uncached()), data)
    stored: dict[Any, Any] = {}
    with TopologyTestDriver(ads.topology(name="app")(build(ads.Materialized(caching=True))), partitions=1) as driver:
        for n in range(0, len(data), each):
            for key, value, at in data[n : n + each]:
                driver.input("in").pipe(value, key=key, at=at)
            told = [((r.key.key, r.key.start, r.key.end), r.value) for r in driver.output("out").read()]
            latest: dict[Any, Any] = {}
            for window, total, _ in flat(updates[n : n + each]):
                latest.pop(window, None)
                latest[window] = total
            assert told == [(w, total) for w, total in latest.items() if (total, stored.get(w)) != (None, None)]
            stored |= latest


def test_windowed_keys_are_written_as_kafka_streams_writes_them_and_partitioned_by_the_key_inside() -> None:
    topology = ads.topology(name="app")(counts(ads.tumbling("10ms", grace="0s")))
    with TopologyTestDriver(topology, partitions=1, commit_every=1) as driver:
        driver.input("in").pipe(1, key="k", at=12)
        [record] = driver.output("out").read_raw()
        assert (record.key, record.value) == (b"k" + (10).to_bytes(8), (1).to_bytes(8))
    with TopologyTestDriver(topology, partitions=4, commit_every=1) as driver:
        for at in range(0, 100, 10):
            driver.input("in").pipe(1, key="k", at=at)
        driver.run()
        assert len({record.partition for record in driver.output("out").read_raw()}) == 1


def test_regrouped_windows_take_back_old_values() -> None:
    def build(app: ads.App) -> None:
        windowed = app.stream("in", key=S, value=I).group_by_key().windowed_by(ads.tumbling("10ms", grace="0s"))
        table = windowed.reduce(lambda a, v: a + v, uncached())
        table.group_by(lambda w, v: (w.start, v), key=I, value=I).reduce(
            lambda a, v: a + v, lambda a, v: a - v, uncached()
        ).to_stream().to("out")

    assert flat(play(build, [("a", 1, 1), ("b", 2, 2), ("a", 3, 3)])) == [(0, 1, 1), (0, 3, 2), (0, 6, 3)]


# --- Told on close ------------------------------------------------------------------------------------------------------


def test_on_close_windows_are_told_once_by_window_and_key() -> None:
    told = play(
        counts(ads.tumbling("10ms", grace="5ms"), close=True),
        [("b", 1, 3), ("a", 1, 5), ("a", 1, 11), ("c", 1, 14), ("b", 1, 1), ("a", 1, 15), ("b", 1, 2), ("c", 1, 40)],
    )
    assert told[:5] == [[]] * 5
    assert told[5:] == [
        [(("a", 0, 10), 1, 5), (("b", 0, 10), 2, 3)],
        [],
        [(("a", 10, 20), 2, 15), (("c", 10, 20), 1, 14)],
    ]


def test_on_close_nothing_is_lost_when_time_jumps() -> None:
    """Kafka Streams loses what its stores have let go of by then."""
    told = play(counts(ads.tumbling("10ms", grace="0s"), close=True), [("a", 1, 1), ("a", 1, 11), ("b", 1, 10**9)])
    assert told == [[], [(("a", 0, 10), 1, 1)], [(("a", 10, 20), 1, 11)]]


@pytest.mark.parametrize(
    "window",
    [
        ads.tumbling("10ms", grace="3ms"),
        ads.hopping("10ms", advance="3ms", grace="0s"),
        ads.sliding("10ms", grace="2ms"),
        ads.session("5ms", grace="2ms"),
    ],
)
@settings(max_examples=60, deadline=None)
@given(data=st.lists(st.tuples(st.sampled_from("abc"), st.integers(10, 90)), max_size=40))
def test_on_close_tells_what_updates_told_last(window: Any, data: list[tuple[str, int]]) -> None:
    records = [(key, 1, ts) for key, ts in data] + [("z", 1, 10_000)]
    updates = {}
    for key, value, _ in flat(play(counts(window), records)):
        updates[key] = value
    updates = {key: value for key, value in updates.items() if key[0] != "z" and value is not None}
    closed = flat(play(counts(window, close=True), records))
    assert len(closed) == len({key for key, _, _ in closed})
    assert {key: value for key, value, _ in closed} == updates


@pytest.mark.parametrize("window", [ads.tumbling("10ms", grace="3ms"), ads.sliding("9ms", grace="0s")])
@pytest.mark.parametrize("crash", ["restart", *STEPS])
def test_a_restart_neither_repeats_nor_skips_what_closes(window: Any, crash: Any) -> None:
    records = [(key, 1, ts) for ts in range(20, 120, 4) for key in "ab"]

    def run(disturbed: bool) -> list[Any]:
        topology = ads.topology(name="app")(counts(window, close=True))
        with TopologyTestDriver(topology, partitions=1, commit_every=2) as driver:
            for number, (key, value, ts) in enumerate(records):
                driver.input("in").pipe(value, key=key, at=ts)
                if disturbed and number % 9 == 4:
                    if crash == "restart":
                        driver.restart()
                    else:
                        driver.crash_at(crash, commits=1, restart=True)
            driver.run()
            return [(r.key, r.value, r.timestamp) for r in driver.output("out").read()]

    assert run(True) == run(False) != []


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize(
    "window",
    [
        ads.tumbling("10ms", grace="3ms"),
        ads.hopping("10ms", advance="3ms", grace="0s"),
        ads.sliding("10ms", grace="2ms"),
        ads.session("5ms", grace="2ms"),
    ],
)
def test_stores_drain_after_their_retention(window: Any, close: bool) -> None:
    topology = ads.topology(name="app")(counts(window, close=close))
    with TopologyTestDriver(topology, partitions=1, commit_every=1) as driver:
        most = 0
        for ts in range(100, 3000, 7):
            driver.input("in").pipe(1, key=str(ts % 5), at=ts)
            driver.run()
            most = max(most, _keys(driver))
        assert most < 120
        driver.input("in").pipe(1, key="last", at=10**6)
        driver.input("in").pipe(1, key="last", at=2 * 10**6)
        driver.run()
        assert _keys(driver) <= 4


def _keys(driver: TopologyTestDriver) -> int:
    return sum(int(task.core.stats()["nodes"]["flow"]["state_keys"]) for task in driver._tasks)


# --- What is refused ----------------------------------------------------------------------------------------------------


def test_windows_that_cannot_be() -> None:
    with refused("bad_window", "advance 11ms is longer than size 10ms", operation="hopping"):
        ads.hopping("10ms", advance="11ms", grace="0s")
    with refused("bad_duration", "`advance` is zero"):
        ads.hopping("10ms", advance="0s", grace="0s")
    with refused("bad_duration", "`difference` is negative"):
        ads.sliding("-1ms", grace="0s")
    with refused("bad_duration", "`gap` is negative"):
        ads.session("-1ms", grace="0s")
    with refused("bad_duration", "`grace` is negative"):
        ads.session("1ms", grace="-1ms")
    for make in (ads.sliding, ads.session, lambda size: ads.hopping(size, advance="1ms")):
        with refused("grace_missing", "how long to wait for late records"):
            make("5ms")


@pytest.mark.parametrize(
    "window",
    [
        ads.hopping("10m", advance="1m", grace="5s"),
        ads.sliding("1h30m", grace="0s"),
        ads.session("30m", grace="1d"),
        ads.unlimited("0s"),
    ],
)
def test_windows_have_an_honest_repr_and_rows_refuse_them(window: Any) -> None:
    assert eval(repr(window), {"hopping": ads.hopping, "sliding": ads.sliding, "session": ads.session} | vars(ads)) == (
        window
    )

    class Row(ads.Record):
        key: str

    def build(app: ads.App) -> None:
        app.stream("in", Row).group_by("key").windowed_by(window).count()

    if window == ads.hopping("10m", advance="1m", grace="5s"):
        ads.topology(name="app")(build).build()
        return
    with refused("bad_argument", f"rows have tumbling and hopping windows, not {window!r}", "`.records(…)`"):
        ads.topology(name="app")(build).build()


def test_describe_says_what_windows_there_are() -> None:
    text = ads.topology(name="app")(counts(ads.hopping("10m", advance="1m", grace="5s"), close=True)).describe()
    assert 'hopping("10m", advance="1m", grace="5s"), told on close' in text


def test_retention_must_hold_the_windows() -> None:
    def build(app: ads.App) -> None:
        windowed = app.stream("in").group_by_key().windowed_by(ads.session("10ms", grace="5ms"))
        windowed.count(ads.Materialized(retention="14ms"))

    with refused("retention_too_short", "retention 14 ms is shorter than what the windows need, 15 ms"):
        ads.topology(name="app")(build).build()


def test_an_unlimited_window_never_closes() -> None:
    def build(app: ads.App) -> None:
        app.stream("in").group_by_key().windowed_by(ads.unlimited()).emit_strategy("close")

    with refused("bad_window", "an unlimited window never closes"):
        ads.topology(name="app")(build).build()


def test_a_longer_retention_is_kept() -> None:
    def build(app: ads.App) -> None:
        windowed = app.stream("in", value=I).group_by_key().windowed_by(ads.tumbling("10ms", grace="0s"))
        windowed.count(ads.Materialized("kept", retention=ms(50)))

    built = ads.topology(name="app")(build).build()
    [store] = built.plan["stores"]
    assert (store["name"], store["kind"], store["retention_ms"]) == ("kept", "window", 50)


class Own(ads.Windows):
    def __init__(self, said: Any, size: Any = "10ms", grace: Any = "0s") -> None:
        self.said, self._size, self._grace = said, size, grace

    def windows_for(self, timestamp: int) -> Any:
        return self.said(timestamp)

    def size(self) -> Any:
        return self._size

    def grace_period(self) -> Any:
        return self._grace


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.just(1), st.integers(0, 60)), max_size=12),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 15),
)
@settings(deadline=None, max_examples=30)
def test_windows_of_ones_own_that_are_hopping_ones_are_those(
    records: list[Any], size: int, advance: int, grace: int
) -> None:
    advance = min(size, advance)
    hopping = ads.hopping(ms(size), advance=ms(advance), grace=ms(grace))

    def holding(t: int) -> Any:
        return ((s, s + size) for s in range(0, t + 1, advance) if t < s + size)

    own = Own(holding, ms(size), ms(grace))
    assert play(counts(own), records) == play(counts(hopping), records)
    cached = ads.Materialized()
    assert play(counts(own, how=cached), records) == play(counts(hopping, how=cached), records)


@pytest.mark.parametrize("said", [[(-1, 5)], [(5, 4)], [(1,)], [("a", "b")], 7, ZeroDivisionError])
def test_windows_that_are_none_are_their_records_failure(said: Any) -> None:
    def windows(t: int) -> Any:
        return 1 // 0 if said is ZeroDivisionError else said

    topology = ads.topology(name="app")(counts(Own(windows)))
    with TopologyTestDriver(topology, partitions=1) as driver:
        driver.input("in").pipe(1, key="a", at=3)
        assert [letter.reason for letter in driver.dead_letters("in")] == ["callable_raised"]
        assert driver.output("out").read() == []


def test_windows_of_ones_own_say_their_length_and_are_told_with_each_update() -> None:
    def nothing_long(app: ads.App) -> None:
        app.stream("in").group_by_key().windowed_by(Own(lambda t: [(0, 10)], size="0s")).count()

    def close(app: ads.App) -> None:
        app.stream("in").group_by_key().windowed_by(Own(lambda t: [(0, 10)])).emit_strategy("close")

    with refused("bad_duration", "`size` is zero"):
        ads.topology(name="app")(nothing_long).build()
    with refused("bad_window", "windows of one's own are told with each update"):
        ads.topology(name="app")(close).build()
