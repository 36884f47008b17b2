"""Session windows: merging, tombstones, lateness of the merged session, telling on close."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import adstream as ads
from tests.unit.kstreams.playing import I, Row, S, dropped, flat, ms, play, uncached


def counts(gap: int, grace: int, *, how: Any = None, close: bool = False) -> Callable[[ads.App], None]:
    def build(app: ads.App) -> None:
        windowed = app.stream("in", key=S, value=I).group_by_key().windowed_by(ads.session(ms(gap), grace=ms(grace)))
        if close:
            windowed = windowed.emit_strategy(ads.EmitStrategy.on_window_close())
        windowed.count(how or uncached()).to_stream().to("out")

    return build


def test_exactly_the_gap_apart_merges_and_absorbed_sessions_are_deleted_first() -> None:
    assert play(counts(5, 50), [("a", 1, 10), ("a", 1, 15), ("a", 1, 21), ("a", 1, 20)]) == [
        [(("a", 10, 10), 1, 10)],
        [(("a", 10, 10), None, 10), (("a", 10, 15), 2, 15)],
        [(("a", 21, 21), 1, 21)],
        [(("a", 10, 15), None, 15), (("a", 21, 21), None, 21), (("a", 10, 21), 4, 21)],
    ]


def test_the_same_time_again_is_a_plain_update_and_inside_a_session_it_is_written_anew() -> None:
    assert play(counts(5, 50), [("a", 1, 10), ("a", 1, 10), ("a", 1, 14), ("a", 1, 12)]) == [
        [(("a", 10, 10), 1, 10)],
        [(("a", 10, 10), 2, 10)],
        [(("a", 10, 10), None, 10), (("a", 10, 14), 3, 14)],
        [(("a", 10, 14), None, 14), (("a", 10, 14), 4, 14)],
    ]


def test_from_a_cache_a_session_that_grew_is_told_once() -> None:
    assert play(counts(5, 50, how=ads.Materialized()), [("a", 1, 10), ("a", 1, 15), ("a", 1, 12)]) == [
        [(("a", 10, 10), 1, 10)],
        [(("a", 10, 10), None, 10), (("a", 10, 15), 2, 15)],
        [(("a", 10, 15), 3, 15)],
    ]


def test_whether_a_record_is_late_is_asked_of_the_merged_session() -> None:
    seen: dict[str, int] = {}
    told = play(
        counts(5, 0),
        [("b", 1, 20), ("a", 1, 15), ("b", 1, 30), ("a", 1, 24), ("b", 1, 26)],
        after=lambda driver: seen.update(dropped(driver)),
    )
    assert told == [
        [(("b", 20, 20), 1, 20)],
        [(("a", 15, 15), 1, 15)],  # 15 < 20 - 5 is not so: in time; but the store has let go of it
        [(("b", 30, 30), 1, 30)],
        [],  # 24 < 30 - 5
        [(("b", 30, 30), None, 30), (("b", 26, 30), 2, 30)],  # late by itself, in time with what it touches
    ]
    assert seen == {"late": 1, "expired": 1}


def test_a_cache_still_sees_a_session_that_has_expired() -> None:
    """And does not tell that it is gone: the store behind the cache does not know it any more."""
    rows: list[Row] = [("b", 1, 110), ("c", 1, 120), ("b", 1, 115)]
    assert play(counts(5, 3, how=ads.Materialized()), rows)[2] == [(("b", 110, 115), 2, 115)]
    assert play(counts(5, 3), rows)[2] == [(("b", 115, 115), 1, 115)]


def test_null_keys_are_dropped_and_null_values_taken() -> None:
    told = play(counts(5, 0), [(None, 1, 90), ("a", None, 10)])
    assert told == [[], [(("a", 10, 10), 1, 10)]]


def test_the_initial_aggregate_enters_with_every_record() -> None:
    def build(app: ads.App) -> None:
        windowed = app.stream("in", key=S, value=S).group_by_key().windowed_by(ads.session("5ms", grace="50ms"))
        windowed.aggregate(
            lambda: "i", lambda k, v, a: f"{a}{v}", lambda k, a, b: f"({a}|{b})", uncached()
        ).to_stream().to("out", value=S)

    assert [rows[-1] for rows in play(build, [("a", "x", 10), ("a", "y", 18), ("a", "z", 14)])] == [
        (("a", 10, 10), "ix", 10),
        (("a", 18, 18), "iy", 18),
        (("a", 10, 18), "((i|ix)|iy)z", 18),
    ]


def test_reduce_merges_with_the_reducer() -> None:
    def build(app: ads.App) -> None:
        windowed = app.stream("in", key=S, value=S).group_by_key().windowed_by(ads.session("5ms", grace="50ms"))
        windowed.reduce(lambda a, v: f"{a}{v}", uncached()).to_stream().to("out", value=S)

    assert play(build, [("a", "x", 10), ("a", "y", 18), ("a", "z", 14)])[2][-1] == (("a", 10, 18), "xyz", 18)


def test_session_keys_are_written_with_end_and_start() -> None:
    from adstream.testing import TopologyTestDriver

    with TopologyTestDriver(ads.topology(name="app")(counts(5, 0)), partitions=1) as driver:
        driver.input("in").pipe(1, key="k", at=10)
        driver.input("in").pipe(1, key="k", at=12)
        records = driver.output("out").read_raw()
        assert records[-1].key == b"k" + (12).to_bytes(8) + (10).to_bytes(8)


def test_on_close_sessions_are_told_by_end() -> None:
    told = play(
        counts(5, 0, close=True), [("b", 1, 10), ("a", 1, 10), ("a", 1, 14), ("b", 1, 16), ("c", 1, 30), ("d", 1, 36)]
    )
    assert told == [
        [],
        [],
        [],
        [(("b", 10, 10), 1, 10)],
        [(("a", 10, 14), 2, 14), (("b", 16, 16), 1, 16)],
        [(("c", 30, 30), 1, 30)],
    ]


class Model:
    """Sessions of one key by the definition, record by record; nothing expires from it."""

    def __init__(self, gap: int, grace: int) -> None:
        self.gap, self.grace = gap, grace
        self.time = -(10**9)
        self.sessions: dict[str, list[tuple[int, int, int]]] = {}

    def take(self, key: str, ts: int) -> list[Row]:
        self.time = max(self.time, ts)
        mine = self.sessions.setdefault(key, [])
        merged = sorted((s for s in mine if s[1] >= ts - self.gap and s[0] <= ts + self.gap), key=lambda s: s[1])
        start = min([ts, *(s[0] for s in merged)])
        end = max([ts, *(s[1] for s in merged)])
        if end < self.time - self.grace - self.gap:
            return []
        told: list[Row] = []
        if (start, end) != (ts, ts):
            told += [((key, s[0], s[1]), None, s[1]) for s in merged]
        count = 1 + sum(s[2] for s in merged)
        self.sessions[key] = [s for s in mine if s not in merged] + [(start, end, count)]
        return [*told, ((key, start, end), count, end)]


@settings(max_examples=150, deadline=None)
@given(
    gap=st.integers(0, 8),
    grace=st.integers(0, 20),
    times=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60)), max_size=30),
)
def test_record_by_record_it_is_the_definition(gap: int, grace: int, times: list[tuple[str, int]]) -> None:
    how = ads.Materialized(caching=False, retention="1h")
    model = Model(gap, grace)
    expected = [model.take(key, ts) for key, ts in times]
    assert play(counts(gap, grace, how=how), [(key, 1, ts) for key, ts in times]) == expected


@settings(max_examples=60, deadline=None)
@given(times=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 90)), max_size=30))
def test_what_is_left_is_what_lies_together(times: list[tuple[str, int]]) -> None:
    last: dict[Any, Any] = {}
    for key, value, _ in flat(play(counts(4, 1000, how=ads.Materialized()), [(k, 1, ts) for k, ts in times])):
        last[key] = value
    expected: dict[Any, int] = {}
    for key in "ab":
        chain: list[int] = []
        for ts in [*sorted(ts for k, ts in times if k == key), 10**6]:
            if chain and ts - chain[-1] > 4:
                expected[key, chain[0], chain[-1]] = len(chain)
                chain = []
            chain.append(ts)
    assert {key: value for key, value in last.items() if value is not None} == expected
