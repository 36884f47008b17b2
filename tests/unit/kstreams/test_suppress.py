"""Suppression: final results of windows, rate limits, bounded buffers, what is seen behind it."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS
from tests.unit.dsl.support import refused
from tests.unit.kstreams.playing import I, Row, S, flat, ms, play, uncached

Closes = ads.Suppressed.until_window_closes


def windowed(window: Any, terms: ads.Suppressed, how: Any = None) -> Callable[[ads.App], None]:
    def build(app: ads.App) -> None:
        grouped = app.stream("in", key=S, value=I).group_by_key()
        grouped.windowed_by(window).count(how or uncached()).suppress(terms).to_stream().to("out")

    return build


def table(terms: ads.Suppressed) -> Callable[[ads.App], None]:
    def build(app: ads.App) -> None:
        app.table("in", uncached("rows"), key=S, value=I).suppress(terms).to_stream().to("out", value=I)

    return build


def test_a_window_is_told_once_when_it_has_closed() -> None:
    told = play(
        windowed(ads.tumbling("10ms", grace="5ms"), Closes()),
        [("b", 1, 3), ("a", 1, 5), ("a", 1, 11), ("b", 1, 14), ("a", 1, 4), ("c", 1, 15), ("a", 1, 6), ("c", 1, 40)],
    )
    assert told == [
        [],
        [],
        [],
        [],
        [],
        [(("a", 0, 10), 2, 5), (("b", 0, 10), 1, 3)],  # by end, then key
        [],
        [(("a", 10, 20), 1, 11), (("b", 10, 20), 1, 14), (("c", 10, 20), 1, 15)],
    ]


def test_time_is_that_of_the_changes_and_not_of_the_input() -> None:
    def build(app: ads.App) -> None:
        stream = app.stream("in", key=S, value=I)
        counted = stream.group_by_key().windowed_by(ads.tumbling("10ms", grace="0s")).count(uncached())
        counted.filter(lambda k, v: v > 1).suppress(Closes()).to_stream().to("out")

    assert play(build, [("a", 1, 3), ("a", 1, 4), ("b", 1, 500), ("b", 1, 500)]) == [
        [],
        [],
        [],
        [(("a", 0, 10), 2, 4)],
    ]


@pytest.mark.parametrize(
    ("window", "rows", "final"),
    [
        (ads.sliding("10ms", grace="0s"), [("a", 1, 20), ("a", 1, 20), ("b", 1, 21)], (("a", 10, 20), 2, 20)),
        (
            ads.session("10ms", grace="0s"),
            [("a", 1, 20), ("b", 1, 30), ("a", 1, 20), ("b", 1, 31)],
            (("a", 20, 20), 2, 20),
        ),
    ],
)
def test_where_ends_are_inclusive_it_waits_until_no_more_can_come(window: Any, rows: list[Row], final: Row) -> None:
    """Kafka Streams lets it go at the very time at which a record is still accepted, and tells it twice."""
    how = ads.Materialized(caching=False, retention="1h")
    assert play(windowed(window, Closes(), how), rows) == [*([] for _ in rows[1:]), [final]]


def test_sessions_that_were_merged_away_are_not_told() -> None:
    told = play(windowed(ads.session("5ms", grace="0s"), Closes()), [("a", 1, 10), ("a", 1, 14), ("b", 1, 40)])
    assert told == [[], [], [(("a", 10, 14), 2, 14)]]


@settings(max_examples=100, deadline=None)
@given(times=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 80)), max_size=30), grace=st.integers(0, 9))
@pytest.mark.parametrize("kind", ["tumbling", "sliding", "session"])
def test_what_is_told_is_final(kind: str, times: list[tuple[str, int]], grace: int) -> None:
    made: dict[str, Any] = {
        "tumbling": ads.tumbling("10ms", grace=ms(grace)),
        "sliding": ads.sliding("10ms", grace=ms(grace)),
        "session": ads.session("6ms", grace=ms(grace)),
    }
    records: list[Row] = [*((key, 1, ts) for key, ts in times), ("z", 1, 10_000)]

    def plain(app: ads.App) -> None:
        grouped = app.stream("in", key=S, value=I).group_by_key()
        grouped.windowed_by(made[kind]).count(uncached()).to_stream().to("out")

    last: dict[Any, Any] = {}
    for key, value, _ in flat(play(plain, records)):
        last[key] = value
    final = {key: value for key, value in last.items() if value is not None and key[0] != "z"}

    def suppressed(app: ads.App) -> None:
        grouped = app.stream("in", key=S, value=I).group_by_key()
        grouped.windowed_by(made[kind]).count(uncached()).suppress(Closes()).to_stream().to("out")

    told = flat(play(suppressed, records))
    assert len(told) == len({key for key, _, _ in told})
    assert {key: value for key, value, _ in told} == final


# --- Time limits --------------------------------------------------------------------------------------------------------


def test_later_changes_do_not_defer_and_the_newest_is_told() -> None:
    told = play(
        table(ads.Suppressed.until_time_limit("10ms")),
        [("a", 1, 10), ("a", 2, 15), ("b", 3, 19), ("b", 4, 20), ("a", 5, 21), ("b", None, 29), ("c", 1, 31)],
    )
    assert told == [[], [], [], [("a", 2, 15)], [], [("b", None, 29)], [("a", 5, 21)]]


def test_no_limit_holds_nothing_back() -> None:
    told = play(table(ads.Suppressed.until_time_limit("0s")), [("a", 1, 10), ("a", 2, 5), ("a", None, 10)])
    assert told == [[("a", 1, 10)], [("a", 2, 5)], [("a", None, 10)]]


def test_a_full_buffer_lets_the_oldest_go() -> None:
    terms = ads.Suppressed.until_time_limit("1h", ads.Suppressed.max_records(2).emit_early_when_full())
    assert play(table(terms), [("b", 1, 10), ("a", 1, 5), ("c", 1, 20), ("b", 2, 21), ("a", 2, 4)]) == [
        [],
        [],
        [("a", 1, 5)],
        [],
        [("a", 2, 4)],
    ]


def test_bytes_are_counted_as_kafka_streams_counts_them() -> None:
    # 8 for the time, 1 of key, 8 of value, 20 of coordinates, 2 of the topic's name: 39 each.
    buffer = ads.Suppressed.max_bytes(78).emit_early_when_full()
    assert play(table(ads.Suppressed.until_time_limit("1h", buffer)), [("a", 1, 1), ("b", 1, 2), ("c", 1, 3)]) == [
        [],
        [],
        [("a", 1, 1)],
    ]


@pytest.mark.parametrize("terms", [Closes(ads.Suppressed.max_records(1)), None])
def test_a_full_buffer_stops_the_task(terms: ads.Suppressed | None) -> None:
    if terms is None:
        build = table(ads.Suppressed.until_time_limit("1h", ads.Suppressed.max_records(1).shut_down_when_full()))
    else:
        build = windowed(ads.tumbling("10ms", grace="5ms"), terms)
    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1, commit_every=1) as driver:
        driver.input("in").pipe(1, key="a", at=1)
        driver.run()
        driver.input("in").pipe(1, key="b", at=2)
        with pytest.raises(ads.FatalError, match=r"more than it may have \[suppress_full\]"):
            driver.run()


# --- Behind it ----------------------------------------------------------------------------------------------------------


def test_a_regrouping_behind_takes_back_what_it_was_told() -> None:
    """Kafka Streams sends 2 as the old value of 5, though only 1 was told; the sum would be 4."""

    def build(app: ads.App) -> None:
        rows = app.table("in", uncached("rows"), key=S, value=I)
        held = rows.suppress(ads.Suppressed.until_time_limit("10ms"))
        held.group_by(lambda k, v: ("all", v), key=S, value=I).reduce(
            lambda a, v: a + v, lambda a, v: a - v, uncached()
        ).to_stream().to("out", value=I)

    records = [("a", 1, 0), ("b", 0, 10), ("a", 2, 20), ("a", 5, 21), ("b", 0, 40)]
    assert [rows[-1][1] if rows else None for rows in play(build, records)] == [None, 1, 1, None, 5]


def test_a_final_result_has_nothing_before_it() -> None:
    """Of its earlier counts nobody behind has heard: there is nothing to take back."""

    def build(app: ads.App) -> None:
        counted = app.stream("in", key=S, value=I).group_by_key().windowed_by(ads.tumbling("10ms", grace="0s"))
        final = counted.count(uncached()).suppress(Closes()).map_values(lambda v: v * 10)
        final.group_by(lambda w, v: (w.key, v), key=S, value=I).reduce(
            lambda a, v: a + v, lambda a, v: a - v, uncached()
        ).to_stream().to("out")

    assert play(build, [("a", 1, 1), ("a", 1, 2), ("b", 1, 12)]) == [[], [], [("a", 20, 2)]]


@pytest.mark.parametrize(("regrouped", "told"), [(False, [("a", None, 21)]), (True, [])])
def test_a_filter_behind_deletes_what_kafka_streams_deletes_unless_a_grouping_wants_the_truth(
    regrouped: bool, told: list[Row]
) -> None:
    """1, 3 and 4 of `a`: 3 passes the filter and is never told."""

    def build(app: ads.App) -> None:
        rows = app.table("in", uncached("rows"), key=S, value=I)
        held = rows.suppress(ads.Suppressed.until_time_limit("10ms"))
        held.filter(lambda k, v: v == 3).to_stream().to("out", value=I)
        if regrouped:
            held.group_by(lambda k, v: ("all", v), key=S, value=I).count().to_stream().to("counts")

    assert flat(play(build, [("a", 1, 0), ("b", 1, 10), ("a", 3, 20), ("a", 4, 21), ("b", 1, 40)])) == told


def test_headers_and_time_are_those_of_the_change() -> None:
    build = table(ads.Suppressed.until_time_limit("10ms"))
    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1, commit_every=1) as driver:
        driver.input("in").pipe_raw(b"a", (1).to_bytes(8), at=10, headers=[("h", b"1"), ("n", None)])
        driver.input("in").pipe_raw(b"b", (1).to_bytes(8), at=20, headers=[("h", b"2")])
        [record] = driver.output("out").read_raw()
        assert (record.timestamp, record.headers) == (10, (("h", b"1"), ("n", None)))


@pytest.mark.parametrize("crash", ["restart", *STEPS])
def test_what_waits_survives(crash: Any) -> None:
    terms = ads.Suppressed.until_time_limit("9ms", ads.Suppressed.max_records(3).emit_early_when_full())

    def run(disturbed: bool) -> list[Any]:
        with TopologyTestDriver(ads.topology(name="app")(table(terms)), partitions=1, commit_every=2) as driver:
            for n in range(40):
                driver.input("in").pipe(n, key="abcd"[n * n % 4], at=n * 2)
                if disturbed and n % 7 == 3:
                    if crash == "restart":
                        driver.restart()
                    else:
                        driver.crash_at(crash, restart=True)
            return [(r.key, r.value, r.timestamp) for r in driver.output("out").read()]

    assert run(True) == run(False) != []


def naive(limit: int, most: int | None, records: Iterable[Row]) -> list[list[Row]]:
    """A buffer as a list, by the definition."""
    waiting: dict[str, tuple[int, Row]] = {}
    time = -1
    told = []
    for key, value, ts in records:
        time = max(time, ts)
        waiting[key] = (waiting[key][0] if key in waiting else ts, (key, value, ts))
        out = []
        while waiting:
            since, first = min((since, k) for k, (since, _) in waiting.items())
            if since > time - limit and (most is None or len(waiting) <= most):
                break
            out.append(waiting.pop(first)[1])
        told.append(out)
    return told


@settings(max_examples=100, deadline=None)
@given(
    limit=st.integers(0, 20),
    most=st.none() | st.integers(0, 3),
    records=st.lists(
        st.tuples(st.sampled_from("abcde"), st.none() | st.integers(0, 9), st.integers(0, 60)), max_size=30
    ),
)
def test_it_is_the_buffer_by_definition(limit: int, most: int | None, records: list[Row]) -> None:
    buffer = ads.Suppressed.unbounded() if most is None else ads.Suppressed.max_records(most).emit_early_when_full()
    assert play(table(ads.Suppressed.until_time_limit(ms(limit), buffer)), records) == naive(limit, most, records)


# --- What is refused ----------------------------------------------------------------------------------------------------


def test_final_results_need_a_window() -> None:
    def build(app: ads.App) -> None:
        app.table("in").suppress(Closes())

    with refused("no_window", "must be an aggregation by window", "until_time_limit", operation="suppress"):
        ads.topology(name="app")(build).build()


def test_final_results_are_not_told_early() -> None:
    with refused("bad_argument", "what is told early is not final", operation="until_window_closes"):
        Closes(ads.Suppressed.max_records(3).emit_early_when_full())


def test_terms_and_sizes_are_checked() -> None:
    def build(app: ads.App) -> None:
        wrong: Any = "10s"
        app.table("in").suppress(wrong)

    with refused("bad_argument", "not terms of suppression: '10s'"):
        ads.topology(name="app")(build).build()
    with refused("bad_argument", "not a size: -1"):
        ads.Suppressed.max_records(-1)
    with refused("bad_duration", "`limit` is negative"):
        ads.Suppressed.until_time_limit("-1ms")


def test_a_window_is_found_behind_views() -> None:
    def build(app: ads.App) -> None:
        counted = app.stream("in", key=S, value=I).group_by_key().windowed_by(ads.session("3ms", grace="4ms"))
        views = counted.count(uncached()).map_values(lambda v: v + 1).filter(lambda k, v: v > 0)
        views.suppress(Closes(name="final")).to_stream().to("out")

    built = ads.topology(name="app")(build).build()
    [node] = [n for n in built.plan["nodes"] if n.get("kind") == "suppress"]
    assert node["until"] == {"window_closes": {"wait_ms": 7, "inclusive": True}}
    assert node["name"] == "final"
    assert [s["name"] for s in built.plan["stores"] if s["kind"] == "suppress"] == ["final-store"]
