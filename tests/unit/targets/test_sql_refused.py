"""Finding the rows that cannot be stored, by halves."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from adstream.targets.sql_refused import Refused, Row, apart


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_all_others_are_put_once_and_in_order(good: list[bool]) -> None:
    stored: list[int] = []
    calls = 0

    def put(rows: Sequence[Row]) -> str | None:
        nonlocal calls
        calls += 1
        if not all(good[number] for (number,) in rows):
            return "no"
        stored.extend(number for (number,) in rows)
        return None

    found = apart([(number,) for number in range(len(good))], put)
    assert stored == [number for number, fine in enumerate(good) if fine]
    assert found == [Refused((number,), "no") for number, fine in enumerate(good) if not fine]
    assert calls <= 2 * len(good)
    if all(good):
        assert calls == 1, "the usual case costs nothing"
