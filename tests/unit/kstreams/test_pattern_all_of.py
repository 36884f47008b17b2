"""`all_of`: one event for each condition, in any order."""

from itertools import permutations

import pytest

from adstream import Pattern, TopologyError, all_of, col, matched
from tests.unit.kstreams.test_patterns import play

ALL = all_of("all", col("t") == "a", col("t") == "b", col("t") == "c")


@pytest.mark.parametrize("order", list(permutations("abc")))
def test_any_order_will_do(order: tuple[str, ...]) -> None:
    events = [(letter, n, n) for n, letter in enumerate(order, start=1)]
    assert play(ALL, events) == [{"all": [1, 2, 3]}]
    assert play(Pattern.parse(str(ALL)), events) == [{"all": [1, 2, 3]}]


def test_what_comes_twice_or_between_is_left_out() -> None:
    events = [("a", 1, 1), ("x", 2, 2), ("b", 3, 3), ("b", 4, 4), ("c", 5, 5)]
    assert {"all": [1, 3, 5]} in play(ALL, events)
    assert play(ALL, [("a", 1, 1), ("a", 2, 2), ("b", 3, 3)]) == []
    assert all({1, 2} - set(match["all"]) for match in play(ALL, [("a", 1, 1), ("a", 2, 2), ("b", 3, 3), ("c", 4, 4)]))


def test_all_of_them_within_the_window() -> None:
    events = [("c", 1, 1), ("a", 2, 5), ("b", 3, 11)]
    assert play(ALL.within("11ms"), events) == [{"all": [1, 2, 3]}]
    assert play(ALL.within("10ms"), events) == []


def test_as_a_group_between_others() -> None:
    pattern = Pattern.begin("s").where(col("t") == "s").followed_by(ALL).next("e").where(col("t") == "e")
    events = [("s", 1, 1), ("c", 2, 2), ("x", 3, 3), ("b", 4, 4), ("a", 5, 5), ("e", 6, 6)]
    assert play(pattern, events) == [{"s": [1], "all": [2, 4, 5], "e": [6]}]
    assert play(pattern, events[:5]) == []


@pytest.mark.parametrize(
    "conditions",
    [(), (col("t") == "a",), (col("t") == "a", len), (col("t") == "a", matched("all").count() == 1)],
)
def test_what_it_does_not_take(conditions: tuple[object, ...]) -> None:
    with pytest.raises(TopologyError, match="all") as caught:
        all_of("all", *conditions)  # type: ignore[arg-type]
    assert caught.value.code == "malformed_pattern"
