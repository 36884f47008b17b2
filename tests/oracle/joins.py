"""Joins of two streams of rows, by their definition: every pair that is equal and close enough, looked for one by one.

A row is (side, key, number, time); a null key meets nothing. The other side is kept for less than before + after + grace
behind its own newest row; what was too old when it came is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Row = tuple[str, str | None, int, int]
Pair = tuple[int | None, int | None, int]
"""Number on the left, number on the right, time."""


def inner(
    rows: Sequence[Row], low: int, high: int, grace: int, where: Callable[[int, int], bool] = lambda left, right: True
) -> list[Pair]:
    """Pairs in the order in which they come out. `low` and `high`: right minus left; `where`: of the numbers of a pair."""
    found: list[Pair] = []
    kept: dict[str, list[Row]] = {"l": [], "r": []}
    newest = {"l": -(10**18), "r": -(10**18)}
    for row in rows:
        side, key, number, at = row
        if key is None:
            continue
        other = "r" if side == "l" else "l"
        gone = newest[other] - (high - low + grace)
        matches = [
            (then, n)
            for _, k, n, then in kept[other]
            if k == key and then > gone and low <= (then - at if side == "l" else at - then) <= high
        ]
        matches.sort(key=lambda match: match[0])  # of one time they stay as they came
        matches = [m for m in matches if (where(number, m[1]) if side == "l" else where(m[1], number))]
        found += [(number, n, max(at, then)) if side == "l" else (n, number, max(at, then)) for then, n in matches]
        newest[side] = max(newest[side], at)
        if at > newest[side] - (high - low + grace):
            kept[side].append(row)
    return found


def with_those_alone(
    rows: Sequence[Row],
    low: int,
    high: int,
    grace: int,
    how: str,
    where: Callable[[int, int], bool] = lambda left, right: True,
) -> list[Pair]:
    """A left or outer join of rows that come in order of time, when all is over; in no order."""
    pairs = inner(rows, low, high, grace, where)
    matched = {("l", one) for one, _, _ in pairs} | {("r", two) for _, two, _ in pairs}
    alone = [(side, n, at) for side, _, n, at in rows if (side, n) not in matched]
    return [
        *pairs,
        *((n, None, at) if side == "l" else (None, n, at) for side, n, at in alone if side == "l" or how == "outer"),
    ]


def with_table(
    rows: Sequence[Row], how: str, latest: bool, where: Callable[[int, int], bool] = lambda left, right: True
) -> list[Pair]:
    """Each left row with the right one that its key had then: the last that came, or of `latest` that of the largest time."""
    held: dict[str, tuple[int, int]] = {}
    found: list[Pair] = []
    for side, key, number, at in rows:
        if side == "r":
            if key is not None and not (latest and key in held and at < held[key][1]):
                held[key] = (number, at)
            continue
        match = held.get(key) if key is not None else None
        if match is not None and where(number, match[0]):
            found.append((number, match[0], at))
        elif how == "left":
            found.append((number, None, at))
    return found


def picked(
    rows: Sequence[Row],
    low: int,
    high: int,
    grace: int,
    how: str,
    pick: str,
    where: Callable[[int, int], bool] = lambda left, right: True,
) -> list[Pair]:
    """One pair of each left row, when no other can come; of rows that come in order of time, in no order. `pick`: `first`, `last`
    by time and arrival, or `by`: the largest number modulo 3, then the later."""
    found: list[Pair] = []
    for side, key, number, at in rows:
        if side == "r":
            continue
        matches = [
            (then, n)
            for s, k, n, then in rows
            if s == "r" and key is not None and k == key and low <= then - at <= high and where(number, n)
        ]
        matches.sort(key=lambda match: match[0])
        if pick == "by":
            matches.sort(key=lambda match: match[1] % 3)
        if matches:
            then, n = matches[0 if pick == "first" else -1]
            found.append((number, n, max(at, then)))
        elif how == "left":
            found.append((number, None, at))
    return found
