"""Sliding windows (KIP-450): both ends inclusive, left and right windows, early records, lateness."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adstream as ads
from tests.unit.kstreams.playing import I, Row, S, dropped, flat, ms, play, uncached


def sums(difference: int, grace: int, *, how: Any = None) -> Callable[[ads.App], None]:
    def build(app: ads.App) -> None:
        windowed = app.stream("in", key=S, value=I).group_by_key()
        window = ads.sliding(ms(difference), grace=ms(grace))
        windowed.windowed_by(window).reduce(lambda a, v: a + v, how or uncached()).to_stream().to("out", value=I)

    return build


def test_a_window_to_the_left_and_one_to_the_right() -> None:
    assert play(sums(10, 50), [("a", 1, 20), ("a", 2, 26), ("a", 4, 30), ("a", 8, 31)]) == [
        [(("a", 10, 20), 1, 20)],
        [(("a", 21, 31), 2, 26), (("a", 16, 26), 3, 26)],
        [(("a", 21, 31), 6, 30), (("a", 27, 37), 4, 30), (("a", 20, 30), 7, 30)],
        [(("a", 27, 37), 12, 31), (("a", 21, 31), 14, 31), (("a", 31, 41), 8, 31)],
    ]


def test_a_record_between_others_makes_windows_of_what_is_there() -> None:
    told = play(sums(10, 50), [("a", 1, 20), ("a", 2, 30), ("a", 4, 25)])
    # The right window of 25 has what [21, 31] had before: the record at 30.
    assert sorted(told[2]) == [
        (("a", 15, 25), 5, 25),
        (("a", 20, 30), 7, 30),
        (("a", 21, 31), 6, 30),
        (("a", 26, 36), 2, 30),
    ]


def test_the_same_time_again_changes_windows_and_makes_none() -> None:
    assert play(sums(10, 0), [("a", 1, 20), ("a", 2, 20)])[1] == [(("a", 10, 20), 3, 20)]


def test_early_records_are_in_one_window() -> None:
    assert play(sums(10, 50), [("a", 1, 3), ("a", 2, 7), ("a", 4, 5)]) == [
        [(("a", 0, 10), 1, 3)],
        [(("a", 4, 14), 2, 7), (("a", 0, 10), 3, 7)],
        [(("a", 4, 14), 6, 7), (("a", 6, 16), 2, 7), (("a", 0, 10), 7, 7)],
    ]


def test_late_is_a_moment_later_than_for_windows_without_their_end() -> None:
    seen: dict[str, int] = {}
    told = play(
        sums(10, 5),
        [("b", 1, 50), ("a", 1, 35), ("a", 1, 34), ("a", 1, 45), ("a", 1, 44)],
        after=lambda driver: seen.update(dropped(driver)),
    )
    assert told == [
        [(("b", 40, 50), 1, 50)],
        [],  # [25, 35] closed at 45; its right window would be empty
        [],  # 34 + 10 < 45: dropped whole
        [(("a", 35, 45), 1, 45)],  # 45 is in time
        # [34, 44] has closed. The right window of 44 holds what [35, 45] held before; that one takes the record.
        [(("a", 35, 45), 2, 45), (("a", 45, 55), 1, 45)],
    ]
    assert seen == {"late": 3}


def test_null_keys_and_values_are_dropped() -> None:
    seen: dict[str, int] = {}
    told = play(sums(10, 0), [(None, 1, 90), ("a", None, 90), ("a", 1, 20)], after=lambda d: seen.update(dropped(d)))
    assert told == [[], [], [(("a", 10, 20), 1, 20)]]
    assert seen == {"null_key": 1, "null_value": 1}


def test_without_a_difference_each_time_is_a_window() -> None:
    """Kafka Streams throws on the first record."""
    assert play(sums(0, 50), [("a", 1, 20), ("a", 2, 20), ("a", 4, 21), ("a", 8, 20)]) == [
        [(("a", 20, 20), 1, 20)],
        [(("a", 20, 20), 3, 20)],
        [(("a", 21, 21), 4, 21)],
        [(("a", 20, 20), 11, 20)],
    ]


def model(difference: int, records: list[Row]) -> dict[Any, int]:
    """All windows of all records, by the definition."""
    found: dict[Any, int] = {}
    for key in {r[0] for r in records}:
        mine = [(value, ts) for k, value, ts in records if k == key]
        starts = {max(ts - difference, 0) for _, ts in mine} | {ts + 1 for _, ts in mine}
        for start in starts:
            inside = [value for value, ts in mine if start <= ts <= start + difference]
            if inside:
                found[key, start, start + difference] = sum(inside)
    return found


@settings(max_examples=150, deadline=None)
@given(
    difference=st.integers(1, 12),
    times=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 45)), max_size=25),
    cached=st.booleans(),
)
def test_every_window_holds_its_records_whatever_their_order(
    difference: int, times: list[tuple[str, int]], cached: bool
) -> None:
    records: list[Row] = [(key, 1 << place, ts) for place, (key, ts) in enumerate(times)]
    last: dict[Any, Any] = {}
    how = ads.Materialized(caching=cached)
    for key, value, _ in flat(play(sums(difference, 1000, how=how), records)):
        last[key] = value
    assert last == model(difference, records)


@pytest.mark.parametrize("commit_every", [1, 3, 100])
def test_what_a_commit_holds_back_changes_no_last_result(commit_every: int) -> None:
    records: list[Row] = [("a", 1 << n, ts) for n, ts in enumerate([20, 40, 25, 33, 21, 60, 47, 47, 58, 12])]
    last = {}
    told = flat(play(sums(10, 1000, how=ads.Materialized()), records, commit_every=commit_every))
    for key, value, _ in told:
        last[key] = value
    assert last == model(10, records)
