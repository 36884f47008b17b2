"""Scenarios: a topology of one of a few shapes, and the records it is given, one after the other.

A scenario says what is asked of Kafka Streams and of adstream alike. The records sit where rules change their mind:
at a window's start and end, at the end of its grace, at equal times, a millisecond to either side. The same
seed gives the same scenarios.
"""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Event = tuple[int, str | None, str | None, int | None, int]
"""Input topic, key, group, value, time (ms)."""

Result = tuple[str, int | None, Any, int]
"""Key (of several parts: as JSON), start of the window, value, time (ms)."""


@dataclass(frozen=True)
class Step:
    """What one record did."""

    dropped: int
    """How many records had been dropped until then, as Kafka Streams counts (`dropped-records-total`)."""
    results: list[Result]


@dataclass(frozen=True)
class Scenario:
    """`None` for `size`: no windows; for `at_least`: no filter; for `retention`: the default; for `then`: nothing."""

    id: str
    records: list[Event]
    fn: Literal["count", "sum", "min", "max", "first", "last", "reduce", "newest", "arrived"] = "count"
    """`first` and `last` go by time, `reduce` by arrival. `newest` and `arrived` are tables of whole events, by time
    and by arrival, to be regrouped."""
    by: Literal["k", "g", "kg"] = "k"
    size: int | None = None
    grace: int | None = None
    retention: int | None = None
    emit: Literal["update", "close", "suppress"] = "update"
    at_least: int | None = None
    topics: int = 1
    regroup: Literal["group", "window"] | None = None
    """The table is grouped anew, by the events' group or by its windows: how many rows, and the sum of their values."""
    then: int | None = None
    """What the table tells is summed, by key, in windows of this size and the same grace."""
    store: Literal["memory", "rocksdb"] = "memory"
    cache: bool = False
    """`store` and `cache` are Kafka Streams' own affair: nothing may depend on them."""

    @property
    def family(self) -> str:
        return self.id.partition("-")[0]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


KEYS = ("a", "a", "b", "b", "aa", "", "é", "한국")
GROUPS = ("x", "x", "y", "xy", "전자")
SIZES = (1, 2, 7, 100, 1000, 60_000, 300_000)
ORIGINS = (0, 0, 1, 999_999, 1_699_999_800_000, 1_700_000_000_123)


class _Maker:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    # --- records

    def window(self, *, retained: bool = False) -> dict[str, Any]:
        size = self.rng.choice(SIZES)
        grace = self.rng.choice((0, 0, 1, size // 2, size, 3 * size, size + 1))
        retention = size + grace + self.rng.choice((0, 1, 5 * size)) if retained and self.rng.random() < 0.5 else None
        return {"size": size, "grace": grace, "retention": retention}

    def times(self, count: int, size: int, grace: int) -> list[int]:
        """Around the edges of windows and of their grace, as seen by the clock so far; now and then a jump."""
        clock = self.rng.choice(ORIGINS)
        times = [clock]
        for _ in range(count - 1):
            start = clock // size * size
            closed = (clock - grace) // size * size  # the end of the last window that is closed
            off = self.rng.choice((-1, 0, 0, 1))
            near = (
                (3, clock),
                (5, clock + self.rng.randint(0, size // 2 + 1)),
                (4, start + size + off),
                (3, start + size + grace + off),
                (6, closed + off),
                (2, closed - size + off),
                (3, clock - self.rng.randint(0, size + grace + 1)),
                (2, self.rng.choice(times)),
                (1, clock + self.rng.randint(size, 10 * size)),
            )
            weights, candidates = zip(*near, strict=True)
            time = max(0, self.rng.choices(candidates, weights)[0])
            clock = max(clock, time)
            times.append(time)
        return times

    def records(
        self, size: int | None, grace: int | None, *, topics: int = 1, nulls: float = 0.06, values: float = 0.06
    ) -> list[Event]:
        times = self.times(self.rng.randint(6, 24), size or 1000, grace or 0)
        return [
            (
                self.rng.randrange(topics),
                None if self.rng.random() < nulls else self.rng.choice(KEYS),
                None if self.rng.random() < nulls else self.rng.choice(GROUPS),
                None if self.rng.random() < values else self.rng.randint(-9, 99),
                time,
            )
            for time in times
        ]

    def fn(self) -> dict[str, Any]:
        fn = self.rng.choice(("count", "count", "sum", "sum", "min", "max", "first", "last", "reduce"))
        return {"fn": fn} | self.store()

    def store(self) -> dict[str, Any]:
        return {"store": self.rng.choice(("memory", "rocksdb")), "cache": self.rng.random() < 0.3}

    def filled(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """With records that suit: those of `reduce` and of regrouped tables have values always."""
        whole = parameters["fn"] in ("reduce", "arrived", "newest")
        records = self.records(
            parameters.get("size"),
            parameters.get("grace"),
            topics=parameters.get("topics", 1),
            values=0 if whole else 0.06,
            nulls=0 if parameters["fn"] == "newest" else 0.06,
        )
        return parameters | {"records": records}

    # --- families

    def update(self) -> dict[str, Any]:
        return self.filled(self.fn() | self.window(retained=True))

    def close(self) -> dict[str, Any]:
        return self.filled(self.fn() | self.window() | {"emit": "close"})

    def suppress(self) -> dict[str, Any]:
        return self.filled(self.fn() | self.window(retained=True) | {"emit": "suppress"})

    def table(self) -> dict[str, Any]:
        return self.filled(self.fn() | {"by": self.rng.choice(("k", "k", "g", "kg"))})

    def filter(self) -> dict[str, Any]:
        emit = self.rng.choice(("update", "close", "suppress"))
        return self.filled(self.fn() | self.window() | {"emit": emit, "at_least": self.rng.choice((0, 40, 80))})

    def rekey(self) -> dict[str, Any]:
        emit = self.rng.choice(("update", "update", "close", "suppress"))
        return self.filled(self.fn() | self.window() | {"emit": emit, "by": self.rng.choice(("g", "g", "kg"))})

    def merge(self) -> dict[str, Any]:
        emit = self.rng.choice(("update", "update", "close", "suppress"))
        by = self.rng.choice(("k", "k", "g"))
        return self.filled(self.fn() | self.window() | {"emit": emit, "by": by, "topics": self.rng.choice((2, 2, 3))})

    def chain(self) -> dict[str, Any]:
        emit = self.rng.choice(("update", "update", "close", "suppress"))
        window = self.window()
        then = self.rng.choice((1, max(1, window["size"] // 2), window["size"], window["size"] + 1, 5 * window["size"]))
        return self.filled(self.fn() | window | {"emit": emit, "by": self.rng.choice("kkg"), "then": then})

    def regroup(self) -> dict[str, Any]:
        if self.rng.random() < 0.6:
            return self.filled(self.store() | {"fn": self.rng.choice(("newest", "arrived")), "regroup": "group"})
        fn = self.rng.choice(("newest", "arrived", "count"))
        # Without a cache the first change of an `aggregate` comes with the initializer's value as the old one, which is
        # then subtracted though it was never added.
        cache = {"cache": True} if fn == "count" else {}
        return self.filled(self.store() | self.window() | {"fn": fn, "regroup": "window"} | cache)


FAMILIES: dict[str, Callable[[_Maker], dict[str, Any]]] = {
    "update": _Maker.update,
    "close": _Maker.close,
    "suppress": _Maker.suppress,
    "table": _Maker.table,
    "filter": _Maker.filter,
    "rekey": _Maker.rekey,
    "merge": _Maker.merge,
    "chain": _Maker.chain,
    "regroup": _Maker.regroup,
}


def generate(seed: int, count: int) -> list[Scenario]:
    """The families in turn, so that a few scenarios are of every kind."""
    made = []
    for number in range(count):
        family = list(FAMILIES)[number % len(FAMILIES)]
        maker = _Maker(random.Random(f"{seed}/{number}"))
        made.append(Scenario(id=f"{family}-{seed}-{number}", **FAMILIES[family](maker)))
    return made
