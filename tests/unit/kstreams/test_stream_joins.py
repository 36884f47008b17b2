"""Joins of streams with streams and tables: edges of windows, who waits for how long, what has no key."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS

S = ads.serdes.string
Row = tuple[str, str | None, str | None, int]


def driver_of(build: Callable[[ads.App], None], **options: Any) -> TopologyTestDriver:
    options = {"partitions": 1, "commit_every": 1} | options
    return TopologyTestDriver(ads.topology(name="app")(build), **options)


def steps(build: Callable[[ads.App], None], rows: Iterable[Row]) -> list[list[tuple[Any, ...]]]:
    """What each record of (topic, key, value, ts) makes come out of `out`: (key, value, ts)."""
    found = []
    with driver_of(build) as driver:
        for topic, key, value, ts in rows:
            driver.input(topic).pipe(value, key=key, at=ts)
            found.append([(r.key, r.value, r.timestamp) for r in driver.output("out").read()])
    return found


def joined(how: str, windows: ads.JoinWindows, **options: Any) -> Callable[[ads.App], None]:
    def build(app: ads.App) -> None:
        left, right = app.stream("l", key=S, value=S), app.stream("r", key=S, value=S)
        join = getattr(left, how)
        join(right, lambda a, b: f"{a}{b}", windows, **options).to("out", value=S)

    return build


SPAN = ads.JoinWindows.of_time_difference_and_grace("0ms", "5ms").before("10ms").after("20ms")


@pytest.mark.parametrize(
    ("windows", "first", "last"),
    [
        (SPAN, 90, 120),
        (SPAN.before("-3ms"), 103, 120),
        (SPAN.after("-10ms"), 90, 90),
        (ads.JoinWindows.of_time_difference_with_no_grace("7ms"), 93, 107),
    ],
)
def test_both_ends_of_the_span_belong_to_it(windows: ads.JoinWindows, first: int, last: int) -> None:
    """Whichever side comes first."""
    for ts in (first - 1, first, last, last + 1):
        inside = first <= ts <= last
        expected = [("k", "ab", max(100, ts))] if inside else []
        for rows in ([("l", "k", "a", 100), ("r", "k", "b", ts)], [("r", "k", "b", ts), ("l", "k", "a", 100)]):
            assert steps(joined("join", windows), rows) == [[], expected], ts


def test_matches_come_by_time_then_by_arrival() -> None:
    rows: list[Row] = [
        ("r", "k", "b", 105),
        ("r", "k", "a", 100),
        ("r", "k", "c", 105),
        ("r", "other", "x", 100),
        ("l", "k", "l", 102),
    ]
    assert steps(joined("join", SPAN), rows)[-1] == [("k", "la", 102), ("k", "lb", 105), ("k", "lc", 105)]


def test_the_key_comes_first_for_a_joiner_of_three() -> None:
    def build(app: ads.App) -> None:
        left, right = app.stream("l", key=S, value=S), app.stream("r", key=S, value=S)
        left.join(right, lambda key, a, b: key + a + b, SPAN).to("out", value=S)

    assert steps(build, [("r", "k", "b", 1), ("l", "k", "a", 1)])[-1] == [("k", "kab", 1)]


@pytest.mark.parametrize(
    ("topic", "ts", "closes"), [("l", 100, 125), ("r", 100, 115)], ids=["left waits after", "right waits before"]
)
def test_who_is_alone_leaves_when_its_span_and_grace_are_past(topic: str, ts: int, closes: int) -> None:
    """Not with the record that carries the last moment, but with the next one; with its own time."""
    build = joined("outer_join", SPAN)
    value = "aNone" if topic == "l" else "Noneb"
    rows: list[Row] = [(topic, "k", value[0] if topic == "l" else "b", ts)]
    assert steps(build, [*rows, (topic, "x", "x", closes)]) == [[], []]
    assert steps(build, [*rows, (topic, "x", "x", closes + 1)]) == [[], [("k", value, ts)]]


def test_in_a_left_join_the_right_side_never_comes_alone() -> None:
    rows: list[Row] = [("r", "k", "b", 100), ("l", "k", "a", 200), ("r", "x", "x", 300), ("l", "x", "y", 400)]
    assert steps(joined("left_join", SPAN), rows) == [[], [], [("k", "aNone", 200)], []]


def test_a_match_takes_away_all_that_wait_under_its_key_and_time() -> None:
    rows: list[Row] = [
        ("l", "k", "a", 100),
        ("l", "k", "A", 100),
        ("l", "k", "z", 101),
        ("r", "k", "b", 120),
        ("r", "x", "x", 500),
    ]
    found = steps(joined("left_join", SPAN.after("20ms").before("0ms")), rows)
    assert found[3] == [("k", "ab", 120), ("k", "Ab", 120), ("k", "zb", 120)]
    assert found[4] == []


def test_waiting_records_leave_by_time_right_before_left_then_by_key() -> None:
    rows: list[Row] = [
        ("l", "b", "2", 100),
        ("l", "a", "1", 100),
        ("l", "a", "3", 100),
        ("r", "c", "4", 100),
        ("l", "z", "0", 99),
        ("r", "x", "x", 500),
    ]
    assert steps(joined("outer_join", SPAN), rows)[-1] == [
        ("z", "0None", 99),
        ("c", "None4", 100),
        ("a", "1None", 100),
        ("a", "3None", 100),
        ("b", "2None", 100),
    ]


def test_one_that_comes_after_its_own_span_does_not_wait() -> None:
    """And may be joined later all the same, as in Kafka Streams: what comes within grace still meets it."""
    rows: list[Row] = [("l", "x", "x", 120), ("l", "k", "a", 99), ("r", "k", "b", 110)]
    assert steps(joined("left_join", SPAN), rows) == [[], [("k", "aNone", 99)], [("k", "ab", 110)]]
    on_the_edge: list[Row] = [("l", "x", "x", 119), ("l", "k", "a", 99)]
    assert steps(joined("left_join", SPAN), on_the_edge) == [[], []]


def test_windows_keep_what_their_own_side_has_not_left_behind() -> None:
    """Span and grace together are 35 ms behind the newest of the same side."""
    for newest, held in ((134, True), (135, False)):
        rows: list[Row] = [("l", "k", "a", 100), ("l", "x", "x", newest), ("r", "k", "b", 100)]
        assert steps(joined("join", SPAN), rows)[-1] == ([("k", "ab", 100)] if held else []), newest
    rows = [("l", "k", "a", 100), ("r", "x", "x", 900), ("r", "k", "b", 100)]
    assert steps(joined("join", SPAN), rows)[-1] == [("k", "ab", 100)]  # the other side's time does not count


@pytest.mark.parametrize(
    ("how", "topic", "comes"),
    [
        ("join", "l", False),
        ("join", "r", False),
        ("left_join", "l", True),
        ("left_join", "r", False),
        ("outer_join", "l", True),
        ("outer_join", "r", True),
    ],
)
def test_without_a_key(how: str, topic: str, comes: bool) -> None:
    with driver_of(joined(how, SPAN)) as driver:
        driver.input(topic).pipe("v", key=None, at=7)
        alone = "vNone" if topic == "l" else "Nonev"
        assert [(r.key, r.value, r.timestamp) for r in driver.output("out").read()] == [(None, alone, 7)] * comes
        driver.input(topic).pipe(None, key="k", at=8)
        assert driver.output("out").read() == []
        [reasons] = [found for found in driver.counters().values() if "dropped:null_value" in found]
        assert reasons.get("dropped:null_key", 0) == (not comes)


def test_a_stream_meets_itself_once() -> None:
    def build(app: ads.App) -> None:
        stream = app.stream("l", key=S, value=S)
        stream.join(stream, lambda a, b: a + b, ads.JoinWindows.of_time_difference_with_no_grace("5ms")).to(
            "out", value=S
        )

    rows: list[Row] = [("l", "k", "a", 10), ("l", "k", "b", 12), ("l", "k", "c", 20)]
    assert steps(build, rows) == [
        [("k", "aa", 10)],
        [("k", "ba", 12), ("k", "ab", 12), ("k", "bb", 12)],
        [("k", "cc", 20)],
    ]


def test_headers_are_those_of_the_record_that_comes() -> None:
    with driver_of(joined("join", SPAN)) as driver:
        driver.input("l").pipe("a", key="k", at=1, headers=[("h", b"left")])
        driver.input("r").pipe("b", key="k", at=1, headers=[("h", b"right")])
        [record] = driver.output("out").read()
        assert record.headers == (("h", b"right"),)


def test_what_has_changed_its_key_is_moved_first() -> None:
    def build(app: ads.App) -> None:
        left = app.stream("l", key=S, value=S).select_key(lambda k, v: None if v == "?" else v[0])
        right = app.stream("r", key=S, value=S).map(lambda k, v: (v[0], v))
        left.left_join(right, lambda a, b: f"{a}{b}", SPAN, name="pairs", key=S).to("out", value=S)

    with driver_of(build, partitions=3, commit_every=None) as driver:
        internal = {t for t in driver.partitions if t.endswith("-repartition")}
        assert internal == {"app-pairs-left-repartition", "app-pairs-right-repartition"}
        for n in range(20):
            driver.input("l").pipe(f"{n % 10}l", key=str(n), at=n)
            driver.input("r").pipe(f"{n % 10}r", key=str(7 * n), at=n)
        assert len(driver.output("out").read()) == 40
        driver.input("l").pipe("?", key="x", at=30)
        assert [(r.key, r.value) for r in driver.output("out").read()] == [(None, "?None")]


def test_joins_without_a_name_share_what_they_moved() -> None:
    def build(app: ads.App) -> None:
        left = app.stream("l", key=S, value=S).select_key(lambda k, v: v[0])
        right = app.stream("r", key=S, value=S)
        table = app.table("t", key=S, value=S)
        left.join(right, lambda a, b: a + b, SPAN).to("out", value=S)
        left.join(table, lambda a, b: a + b).to("out", value=S)
        left.join(table, lambda a, b: a + b, name="named").to("out", value=S)

    with driver_of(build) as driver:
        assert len([t for t in driver.partitions if t.endswith("-repartition")]) == 2


def test_stores_drain() -> None:
    build = joined("outer_join", SPAN)
    with driver_of(build) as driver:
        for n in range(100):
            driver.input("l").pipe("a", key=str(n % 7), at=n)
            driver.input("r").pipe("b", key=str(n % 5), at=n)
        for topic in "lr":
            driver.input(topic).pipe("a", key="k", at=100_000)
        driver.run()
        sizes = [task.core.stats()["nodes"] for task in driver._tasks]
        assert sum(node.get("state_keys", 0) for nodes in sizes for node in nodes.values()) <= 6


def test_stores_of_ones_own() -> None:
    """They can be read, and must keep just what the join keeps."""
    own = {
        "this_store": ads.store.window("mine", "35ms", "30ms", duplicates=True),
        "other_store": ads.store.window("theirs", "35ms", "30ms", duplicates=True),
    }
    with driver_of(joined("outer_join", SPAN, **own)) as driver:
        driver.input("l").pipe("a", key="k", at=1)
        driver.input("l").pipe("A", key="k", at=1)
        assert [value for _, value in driver.store("mine").fetch("k", 0, 10)] == ["a", "A"]
        assert list(driver.store("theirs").all()) == []
    for wrong in (
        ads.store.window("w", "35ms", "30ms"),
        ads.store.window("w", "36ms", "30ms", duplicates=True),
        ads.store.window("w", "35ms", "31ms", duplicates=True),
        ads.store.key_value("w"),
    ):
        with pytest.raises(ads.TopologyError, match=r'window.*"35ms", "30ms", duplicates=True'):
            driver_of(joined("join", SPAN, this_store=wrong))


@pytest.mark.parametrize(("order", "meets"), [("time", False), ("key", True), (None, True)])
def test_a_record_without_a_value_moves_the_time_of_stores_in_memory(order: Any, meets: bool) -> None:
    """As Kafka Streams' stores in memory do, and its default ones do not."""
    own = {
        f"{side}_store": ads.store.window(side, "35ms", "30ms", duplicates=True, order=order)
        for side in ("this", "other")
        if order is not None
    }
    rows: list[Row] = [("l", "k", "a", 0), ("l", "j", None, 36), ("r", "k", "b", 5)]
    assert steps(joined("join", SPAN, **own), rows)[-1] == ([("k", "ab", 5)] if meets else [])


# --- Tables -----------------------------------------------------------------------------------------------------------


def with_table(how: str) -> Callable[[ads.App], None]:
    def build(app: ads.App) -> None:
        table = app.table("t", key=S, value=S)
        getattr(app.stream("l", key=S, value=S), how)(table, lambda a, b: f"{a}{b}").to("out", value=S)

    return build


def test_a_table_is_read_as_it_is() -> None:
    rows: list[Row] = [
        ("l", "k", "a", 10),
        ("t", "k", "1", 50),
        ("l", "k", "b", 20),
        ("t", "k", "2", 5),
        ("l", "k", "c", 30),
        ("t", "k", None, 6),
        ("l", "k", "d", 40),
    ]
    assert steps(with_table("join"), rows) == [[], [], [("k", "b1", 20)], [], [("k", "c2", 30)], [], []]
    left = steps(with_table("left_join"), rows)
    assert (left[0], left[-1]) == ([("k", "aNone", 10)], [("k", "dNone", 40)])


def test_a_view_is_read_through() -> None:
    def build(app: ads.App) -> None:
        view = app.table("t", key=S, value=S).filter(lambda k, v: v != "no").map_values(lambda v: v + "!")
        app.stream("l", key=S, value=S).join(view, lambda k, a, b: k + a + b).to("out", value=S)

    rows: list[Row] = [("t", "k", "1", 1), ("l", "k", "a", 2), ("t", "k", "no", 3), ("l", "k", "b", 4)]
    assert steps(build, rows) == [[], [("k", "ka1!", 2)], [], []]


@pytest.mark.parametrize(("how", "comes"), [("join", False), ("left_join", True)])
def test_a_table_join_without_a_key(how: str, comes: bool) -> None:
    with driver_of(with_table(how)) as driver:
        driver.input("l").pipe("a", key=None, at=1)
        assert [(r.key, r.value) for r in driver.output("out").read()] == [(None, "aNone")] * comes
        driver.input("l").pipe(None, key="k", at=1)
        assert driver.output("out").read() == []
        [reasons] = [found for found in driver.counters().values() if "dropped:null_value" in found]
        assert reasons.get("dropped:null_key", 0) == (not comes)


def with_grace(how: str, grace: str = "10ms", history: str = "1m") -> Callable[[ads.App], None]:
    def build(app: ads.App) -> None:
        table = app.table("t", ads.Materialized("rates", history=history), key=S, value=S)
        stream = app.stream("l", key=S, value=S)
        getattr(stream, how)(table, lambda a, b: f"{a}{b}", grace=grace, name="rated").to("out", value=S)

    return build


def test_a_table_of_versions_is_read_as_of_the_record() -> None:
    def build(app: ads.App) -> None:
        table = app.table("t", ads.Materialized("rates", history="1m"), key=S, value=S)
        app.stream("l", key=S, value=S).left_join(table, lambda a, b: f"{a}{b}").to("out", value=S)

    rows: list[Row] = [
        ("t", "k", "1", 10),
        ("t", "k", "2", 20),
        ("t", "k", None, 30),
        *(("l", "k", "a", ts) for ts in (9, 10, 19, 20, 29, 30)),
    ]
    found = [value for made in steps(build, rows) for _, value, _ in made]
    assert found == ["aNone", "a1", "a1", "a2", "a2", "aNone"]


def test_grace_waits_for_changes_that_come_late() -> None:
    """Until the stream's own time is grace ahead; the table's time does not count."""
    rows: list[Row] = [
        ("l", "k", "a", 100),
        ("t", "k", "1", 500),
        ("t", "k", "2", 99),
        ("l", "x", "x", 109),
        ("t", "k", "3", 100),
        ("l", "x", "x", 110),
        ("l", "x", "x", 111),
    ]
    assert steps(with_grace("join"), rows) == [[], [], [], [], [], [("k", "a3", 100)], []]


def test_waiting_records_leave_by_time_and_arrival() -> None:
    rows: list[Row] = [
        ("l", "k", "b", 102),
        ("l", "k", "a", 101),
        ("l", "k", "c", 102),
        ("l", "j", "d", 102),
        ("l", "x", "x", 200),
    ]
    assert steps(with_grace("left_join"), rows)[-1] == [
        ("k", "aNone", 101),
        ("j", "dNone", 102),
        ("k", "bNone", 102),
        ("k", "cNone", 102),
    ]


def test_who_comes_after_its_grace_does_not_wait() -> None:
    late: list[Row] = [("t", "k", "1", 80), ("l", "x", "x", 100), ("l", "k", "a", 89)]
    assert steps(with_grace("join"), late) == [[], [], [("k", "a1", 89)]]
    due: list[Row] = [*late[:2], ("l", "k", "a", 90), ("l", "k", "b", 91)]
    assert steps(with_grace("join"), due) == [[], [], [("k", "a1", 90)], []]


def test_a_record_without_a_key_does_not_wait() -> None:
    """In Kafka Streams it throws."""
    with driver_of(with_grace("left_join")) as driver:
        driver.input("l").pipe("a", key=None, at=100)
        assert [(r.key, r.value) for r in driver.output("out").read()] == [(None, "aNone")]


def test_headers_wait_along() -> None:
    with driver_of(with_grace("left_join")) as driver:
        driver.input("l").pipe("a", key="k", at=1, headers=[("h", b"1"), ("none", None)])
        driver.input("l").pipe("b", key="k", at=100)
        [record] = driver.output("out").read()
        assert record.headers == (("h", b"1"), ("none", None))


@pytest.mark.parametrize(
    ("step", "restart"),
    [(step, restart) for step in STEPS for restart in (True, False) if restart or step != "after-commit"],
)
def test_a_crash_lets_nobody_wait_twice(step: Any, restart: bool) -> None:
    def play(crash: bool) -> list[Any]:
        with driver_of(with_grace("left_join"), commit_every=2) as driver:
            for n in range(24):
                driver.input("l").pipe(str(n), key=str(n % 3), at=n * 3 + 5)
                if n % 4 == 0:
                    driver.input("t").pipe(f"v{n}", key=str(n % 3), at=n * 3)
            if crash:
                driver.crash_at(step, commits=6, restart=restart)
            driver.run()
            assert driver.crashed
            driver.restart()
            driver.input("l").pipe("end", key="end", at=1000)
            return [(r.key, r.value, r.timestamp) for r in driver.output("out").read()]

    assert len(play(False)) == 24
    assert play(True) == play(False)


# --- Failures, misuse -------------------------------------------------------------------------------------------------


def test_a_joiner_that_raises_leaves_the_record_in_its_window() -> None:
    def build(app: ads.App) -> None:
        left, right = app.stream("l", key=S, value=S), app.stream("r", key=S, value=S)
        left.join(right, lambda a, b: a + b[1], SPAN).to("out", value=S)

    with driver_of(build) as driver:
        for topic, value in (("r", "b"), ("l", "a"), ("r", "xy")):
            driver.input(topic).pipe(value, key="k", at=1)
            driver.run()
        assert [r.value for r in driver.output("out").read()] == ["ay"]
        assert [(d.reason, d.offset) for d in driver.dead_letters("l")] == [("callable_raised", 0)]


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (lambda app: SPAN.before("-21ms"), "bad_window"),
        (lambda app: ads.JoinWindows.of_time_difference_with_no_grace("-1ms"), "bad_duration"),
        (lambda app: app.stream("l").join(app.stream("r"), lambda a, b: a), "bad_argument"),
        (lambda app: app.stream("l").join("r", lambda a, b: a), "bad_argument"),
        (lambda app: app.stream("l").outer_join(app.table("r"), lambda a, b: a, SPAN), "bad_argument"),
        (lambda app: app.stream("l").join(app.stream("r"), lambda a: a, SPAN), "bad_arity"),
        (lambda app: app.stream("l").join(app.table("r"), lambda a, b: a, grace="1s"), "grace_without_versions"),
        (lambda app: _short(app), "retention_too_short"),
        (lambda app: _twice(app), "duplicate_name"),
    ],
)
def test_what_is_refused(build: Callable[[ads.App], object], code: str) -> None:
    def topology(app: ads.App) -> None:
        build(app)

    with pytest.raises(ads.TopologyError) as caught:
        ads.topology(name="app")(topology).build()
    assert caught.value.code == code


def _short(app: ads.App) -> None:
    table = app.table("t", ads.Materialized("rates", history="1s"))
    app.stream("l").join(table, lambda a, b: a, grace="1001ms")


def _twice(app: ads.App) -> None:
    left, right = app.stream("l"), app.stream("r")
    left.join(right, lambda a, b: a, SPAN, store_name="s", name="one")
    left.join(right, lambda a, b: a, SPAN, store_name="s", name="two")


@pytest.mark.parametrize(
    ("step", "restart"),
    [(step, restart) for step in STEPS for restart in (True, False) if restart or step != "after-commit"],
)
def test_a_crash_changes_nothing(step: Any, restart: bool) -> None:
    def play(crash: bool) -> list[Any]:
        with driver_of(joined("outer_join", SPAN), commit_every=3) as driver:
            for n in range(30):
                topic = "lr"[n % 3 % 2]
                driver.input(topic).pipe(f"{topic}{n}", key=str(n % 4), at=n * 4 - 11 * (n % 5 == 4))
            if crash:
                driver.crash_at(step, commits=4, restart=restart)
            found = [(r.key, r.value, r.timestamp) for r in driver.output("out").read()]
            assert driver.crashed
            driver.restart()
            driver.input("l").pipe("end", key="end", at=1000)
            return found + [(r.key, r.value, r.timestamp) for r in driver.output("out").read()]

    straight = play(False)
    assert any("None" in value for _, value, _ in straight)
    assert any("None" not in value for _, value, _ in straight)
    assert play(True) == straight
