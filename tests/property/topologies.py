"""Random topologies and random records, for hypothesis.

A topology is drawn as a `Recipe`, plain data that prints well, and made with the public language by `topology_of`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from hypothesis import strategies as st

import adstream as ads
from adstream import col, lit, when

TOPIC = "events"
UNCOMBINED = True
"""Whether rows may travel through a shuffle one by one; not while a test of `test_found.py` is expected to fail."""
FLOATS = ("weight", "mean_x")

START = datetime(2024, 1, 15, 10, tzinfo=UTC)
START_MS = int(START.timestamp()) * 1000
BIG = 2**62


class Event(ads.Record):
    id: str | None
    kind: Literal["A", "B", "C"] | None
    at: datetime
    user: str | None
    shop: str | None
    n: int | None
    m: int | None
    x: float | None
    price: Annotated[Decimal, ads.decimal(10, 2)] | None


CONDITIONS: dict[str, Callable[[], ads.Expr]] = {
    "positive": lambda: col("n") > 0,
    "is A": lambda: col("kind") == "A",
    "not A": lambda: col("kind") != "A",
    "has shop": lambda: col("shop").is_not_null(),
    "cheap": lambda: (col("price") < Decimal("5.00")) | col("price").is_null(),
    "x over n": lambda: (col("x") > col("n")).fill_null(False),
    "n and x": lambda: (col("n") >= 1) & (col("x") < 2.5),
    "listed": lambda: col("shop").is_in(["s1", "s2"]),
    "even": lambda: col("n") % 2 == 0,
    "quotient": lambda: col("n") / col("m") > 1,
    "may overflow": lambda: (col("kind") == "B") | (col("n") * BIG > 0),
    "all": lambda: lit(True),
}
VALUES: dict[str, tuple[str, Callable[[], ads.Expr]]] = {
    "n + 1": ("n", lambda: col("n") + 1),
    "n or 7": ("n", lambda: ads.coalesce(col("n"), col("m"), 7)),
    "n overflows": ("n", lambda: col("n") * BIG),
    "m of when": ("m", lambda: when(col("kind") == "A").then(col("n")).otherwise(col("m"))),
    "largest": ("m", lambda: ads.max_horizontal("n", "m")),
    "x by m": ("x", lambda: col("x") / col("m")),
    "price by n": ("price", lambda: (col("price") / col("n")).cast(ads.decimal(10, 2))),
    "upper user": ("user", lambda: col("user").str.to_uppercase()),
    "shop of kind": ("shop", lambda: ads.concat_str("shop", "kind", separator="-")),
    "same n": ("n", lambda: col("n")),
}
AGGREGATES: dict[str, Callable[[], ads.Expr]] = {
    "rows": lambda: ads.count(),
    "as": lambda: ads.count(where=col("kind") == "A"),
    "total": lambda: ads.sum("n"),
    "money": lambda: ads.sum("price", where=col("n") > 0),
    "weight": lambda: ads.sum("x"),
    "least": lambda: ads.min("shop"),
    "most": lambda: ads.max("price"),
    "mean_n": lambda: ads.mean("n"),
    "mean_span": lambda: ads.mean(col("at") - lit(START)),
    "mean_x": lambda: ads.mean("x", where=col("kind") != "C"),
    "mean_price": lambda: ads.mean("price"),
    "first_kind": lambda: ads.first("kind"),
    "last_n": lambda: ads.last("n"),
    "last_shop": lambda: ads.last("shop", where=col("n") > 0),
    "product": lambda: ads.sum(col("n") * col("m")),
    "ratio": lambda: ads.count(where=col("kind") == "A") / ads.count(),
}
KEYS = [("user",), ("shop",), ("kind",), ("n",), ("user", "shop"), ("shop", "m")]
STEPS = ["filter", "filter_not", "require", "with_columns", "select", "branch", "fork", "deduplicate"]


@dataclass(frozen=True)
class Window:
    size_ms: int
    grace_ms: int
    retention_ms: int | None = None
    advance_ms: int | None = None
    zone: str | None = None


@dataclass(frozen=True)
class Aggregation:
    keys: tuple[str, ...]
    window: Window | None
    aggregates: tuple[str, ...]
    combine: bool
    regroup: tuple[str, ...] | None
    regroup_combine: bool
    late: bool = True
    ttl: str | None = None


@dataclass(frozen=True)
class Recipe:
    steps: tuple[tuple[str, ...], ...]
    rows: bool
    """Whether the rows themselves are written, too."""
    aggregation: Aggregation | None
    idle: str | None = None
    """Of the source, where a shuffle makes it mean something."""


def topology_of(recipe: Recipe) -> ads.Topology:
    @ads.topology(name="random")
    def random(app: ads.App) -> None:
        how = recipe.aggregation
        idle = recipe.idle if how is not None and (how.window is not None or how.ttl is not None) else None
        stream = app.stream(TOPIC, Event, timestamp="at", key="user", idle=idle)
        for step in recipe.steps:
            stream = stepped(stream, step)
        if recipe.rows or recipe.aggregation is None:
            stream.to("rows")
        if recipe.aggregation is not None:
            aggregate(stream, recipe.aggregation)

    return random


def stepped(stream: ads.Stream, step: tuple[str, ...]) -> ads.Stream:
    name, *given = step
    match name:
        case "filter":
            return stream.filter(CONDITIONS[given[0]](), reason=given[1])
        case "filter_not":
            return stream.filter_not(CONDITIONS[given[0]]())
        case "require":
            return stream.require(**{f"rule_{i}": CONDITIONS[c]() for i, c in enumerate(given)})
        case "with_columns":
            return stream.with_columns(**{VALUES[v][0]: VALUES[v][1]() for v in given})
        case "select":
            return stream.select(*reversed(list(stream.schema)))
        case "branch":
            taken, rest = stream.branch(CONDITIONS[given[0]]())
            changed = taken.with_columns(**{VALUES[given[1]][0]: VALUES[given[1]][1]()}).select(*stream.schema)
            return rest.merge(changed) if given[2] == "rest first" else changed.merge(rest)
        case "fork":
            other = stream.filter(CONDITIONS[given[0]]()).with_columns(m=col("m") + 100)
            return stream.merge(other) if given[1] == "stream first" else other.merge(stream)
        case _:
            return stream.deduplicate(*given[1:], within=given[0])


def aggregate(stream: ads.Stream, how: Aggregation) -> None:
    grouped: Any = stream.group_by(*how.keys)
    if how.window is not None:
        ms = timedelta(milliseconds=1)
        retention = None if how.window.retention_ms is None else how.window.retention_ms * ms
        size, grace = how.window.size_ms * ms, how.window.grace_ms * ms
        if how.window.advance_ms is not None:
            window: Any = ads.hopping(size, advance=how.window.advance_ms * ms, grace=grace, retention=retention)
        else:
            window = ads.tumbling(size, tz=how.window.zone, grace=grace, retention=retention)
        grouped = grouped.windowed_by(window)
    more = {} if how.ttl is None else {"ttl": how.ttl}
    table = grouped.aggregate(combine=how.combine, **more, **{name: AGGREGATES[name]() for name in how.aggregates})
    table = table.named("table")
    if how.window is not None:
        table = table.with_columns(start=ads.window_start(), end=ads.window_end(), newest=ads.timestamp())
        table.final().to("final")
        if how.late:
            table.late.to("late", columns=["id", "n", "at"])
    table.to("changes")
    key = [*how.keys, "start"] if how.window is not None else list(how.keys)
    table.sink(ads.sinks.Sql("rows", key=key))
    if how.regroup is not None:
        counted = table.group_by(*how.regroup).aggregate(
            combine=how.regroup_combine,
            groups=ads.count(),
            first_total=ads.sum(how.aggregates[0]),
            mean_total=ads.mean(how.aggregates[0]),
            some=ads.count(where=col(how.aggregates[0]) > 1),
        )
        counted = counted.named("regrouped")
        counted.to("regrouped")
        counted.sink(ads.sinks.Sql("regrouped", key=list(how.regroup)))


# --- Strategies -------------------------------------------------------------------------------------------------------


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, ...]:
    name = draw(st.sampled_from(STEPS))
    condition = st.sampled_from(list(CONDITIONS))
    value = st.sampled_from(list(VALUES))
    match name:
        case "filter":
            return (name, draw(condition), draw(st.sampled_from(["why", "because"])))
        case "filter_not":
            return (name, draw(condition))
        case "require":
            return (name, *draw(st.lists(condition, min_size=1, max_size=2)))
        case "with_columns":
            return (name, *draw(st.lists(value, min_size=1, max_size=3, unique_by=lambda v: VALUES[v][0])))
        case "branch":
            return (name, draw(condition), draw(value), draw(st.sampled_from(["rest first", "rest last"])))
        case "fork":
            return (name, draw(condition), draw(st.sampled_from(["stream first", "stream last"])))
        case "deduplicate":
            columns = draw(st.sampled_from([("id",), ("id", "kind"), ("n",), ("user", "at")]))
            return (name, draw(st.sampled_from(["1ms", "1s", "3s", "1h"])), *columns)
    return (name,)


windows = st.builds(
    lambda size, grace, more, advance: Window(size, grace, None if more is None else size + grace + more, advance),
    st.sampled_from([1000, 2000, 5000]),
    st.sampled_from([0, 1, 500, 1000, 4000]),
    st.sampled_from([None, 1, 10_000]),
    # Overlapping by whole slices, by other ones, and by few.
    st.sampled_from([None, None, 500, 1000, 400, 999]),
)


@st.composite
def aggregations(draw: st.DrawFn) -> Aggregation:
    keys = draw(st.sampled_from(KEYS))
    names = draw(st.lists(st.sampled_from(list(AGGREGATES)), min_size=1, max_size=4, unique=True))
    window = draw(st.none() | windows | windows)
    combine, regroup_combine = draw(st.booleans()), draw(st.booleans())
    if not UNCOMBINED:
        combine = regroup_combine = True
        names = [name for name in names if name not in FLOATS or keys == ("user",)] or ["rows"]
    regroup = None
    if draw(st.booleans()):
        # Over a table only what can be taken back: exact numbers.
        names = [draw(st.sampled_from(["rows", "as", "total", "money", "product", "mean_price"])), *names]
        names = list(dict.fromkeys(names))
        regroup = draw(st.sampled_from([keys[:1], keys[-1:], *([("start",), (keys[0], "start")] if window else [])]))
    ttl = draw(st.sampled_from([None, "500ms", "1s", "2500ms", "7s"])) if window is None else None
    if ttl is not None and keys != ("user",):
        # Where lanes are apart two sums may be joined, which floats are not the same after.
        names = [name for name in names if name not in FLOATS] or ["rows"]
    return Aggregation(keys, window, tuple(names), combine, regroup, regroup_combine, draw(st.booleans()), ttl)


shuffled = st.builds(
    Aggregation,
    st.sampled_from([keys for keys in KEYS if keys != ("user",)]),
    st.sampled_from([Window(1000, 0), Window(1000, 500), Window(2000, 0), Window(2000, 0, advance_ms=1000)]),
    st.just(("rows", "last_n")),
    st.booleans(),
    st.none(),
    st.booleans(),
)

recipes = st.builds(Recipe, st.just(()), st.just(False), shuffled, st.just("1s")) | st.builds(
    Recipe,
    st.lists(steps(), max_size=4).map(tuple),
    st.booleans(),
    st.none() | aggregations() | aggregations(),
    st.sampled_from([None, "1s", "1s", "10s"]),
)

Sent = tuple[int | None, int, bytes | None, bytes | None]
"""partition (None: by key), timestamp, key, value"""

BAD = [b"{", b"[]", b"null", None, b'{"at":12}', b'{"user":"u1"}', b'{"at":"2024-01-15T10:00:00"}', b"\xff"]


def sent_at(place: int) -> st.SearchStrategy[int]:
    """Mostly on and on, half a second a record; out of order, and on the boundaries, to the millisecond."""
    boundary = st.builds(lambda k, d: (place // 2 + k) * 1000 + d, st.integers(-4, 2), st.sampled_from([-1, 0, 0, 1]))
    return st.one_of(boundary, st.integers(-2000, 1000).map(lambda d: place * 500 + d)).map(lambda ms: max(0, ms))


@st.composite
def records(draw: st.DrawFn, place: int) -> Sent:
    at = START_MS + draw(sent_at(place))
    if draw(st.integers(0, 11)) == 0:
        return (draw(st.integers(0, 3)), at, None, draw(st.sampled_from(BAD)))
    user = draw(st.sampled_from(["u1", "u2", "u3", "ü4", None]))
    event: dict[str, Any] = {
        "id": draw(st.sampled_from(["i1", "i2", "i3", "i4", "i5", None])),
        "kind": draw(st.sampled_from(["A", "B", "C", None])),
        "at": (START + timedelta(milliseconds=at - START_MS)).isoformat(timespec="milliseconds"),
        "user": user,
        "shop": draw(st.sampled_from(["s1", "s2", "s3", "", None])),
        "n": draw(st.sampled_from([0, 1, 2, 3, -4, None])),
        "m": draw(st.sampled_from([0, 1, 2, -3, None])),
        "x": draw(st.sampled_from([0.0, 0.5, 2.25, -1.75, 3, None])),
        "price": draw(st.sampled_from(["0.00", "4.99", 5, -1.5, "1e1", None])),
    }
    odd = draw(st.integers(0, 15))
    if odd == 0:
        event[draw(st.sampled_from(["n", "x", "price", "kind", "user"]))] = [1]
    elif odd == 1:
        event["price"] = "1.005"
    # The topic is keyed by user, as it says: a user's records lie in one partition.
    partition = None if user is not None else draw(st.integers(0, 3))
    key = None if user is None else user.encode()
    return (partition, at, key, json.dumps(event, ensure_ascii=False).encode())


Advance = int
"""Milliseconds of wall clock, between records."""


@st.composite
def with_clock(draw: st.DrawFn) -> list[Sent | Advance]:
    sent: list[Sent | Advance] = list(draw(several()))
    if draw(st.booleans()):
        # A user falls silent while the others go on, and says the rest when they have.
        since, user = draw(st.integers(0, len(sent))), draw(st.sampled_from([b"u1", b"u2", b"u3", None]))
        before, after = sent[:since], sent[since:]
        held = [item for item in after if not isinstance(item, int) and item[2] == user]
        others = [item for item in after if item not in held]
        return [*before, 1, 10_000, *others, *held]
    for _ in range(draw(st.integers(0, 4))):
        sent.insert(draw(st.integers(0, len(sent))), draw(st.sampled_from([1, 999, 1000, 10_000])))
    return sent


@st.composite
def several(draw: st.DrawFn) -> list[Sent]:
    sent = [draw(records(place)) for place in range(draw(st.sampled_from([4, 12, 30])))]
    if draw(st.booleans()):
        # Every lane moves on: windows close.
        late = START + timedelta(seconds=draw(st.sampled_from([16, 19, 40])))
        for p in range(4):
            event = {"id": f"e{p}", "kind": "C", "at": late.isoformat(), "user": f"v{p}", "shop": "s1", "n": 1, "m": 1}
            payload = json.dumps({**event, "x": 0.5, "price": 1}).encode()
            sent.append((p, int(late.timestamp()) * 1000, b"v", payload))
    return sent


inputs = with_clock()
