"""Several groupings into one aggregate, plain and by every kind of window."""

from collections.abc import Callable
from typing import Any

import adstream as ads
from adstream.testing import TopologyTestDriver
from tests.unit.dsl.support import refused
from tests.unit.kstreams.playing import S, dropped, play, uncached

Rows = list[tuple[Any, ...]]


def both(then: Callable[[ads.CogroupedKStream], ads.KTable], *, rekeyed: bool = False) -> Callable[[ads.App], None]:
    def build(app: ads.App) -> None:
        left, right = (app.stream(topic, key=S, value=S) for topic in ("l", "r"))
        groups = [s.group_by(lambda k, v: k + "!") if rekeyed else s.group_by_key() for s in (left, right)]
        cogrouped = groups[0].cogroup(lambda k, v, a: f"{a}<{v}").cogroup(groups[1], lambda k, v, a: f"{a}>{v}")
        then(cogrouped).to_stream().to("out", value=S)

    return build


def test_each_grouping_has_its_aggregator() -> None:
    told = play(
        both(lambda c: c.aggregate(lambda: "i", uncached())),
        [("l", "a", "1", 9), ("r", "a", "2", 5), ("r", "b", "3", 6), ("l", "a", None, 7), ("l", None, "4", 7)],
    )
    assert told == [[("a", "i<1", 9)], [("a", "i<1>2", 9)], [("b", "i>3", 6)], [], []]


def test_groupings_with_new_keys_meet_in_topics_of_their_own() -> None:
    """Kafka Streams does not build this."""
    build = both(lambda c: c.aggregate(lambda: "", ads.Materialized("all", caching=False)), rekeyed=True)
    assert play(build, [("l", "a", "1", 9), ("r", "a", "2", 5)]) == [[("a!", "<1", 9)], [("a!", "<1>2", 9)]]
    with TopologyTestDriver(ads.topology(name="app")(build), partitions=4) as driver:
        for n in range(8):
            driver.input("lr"[n % 2]).pipe(str(n), key=str(n // 2), at=n)
        found = {r.key: r.value for r in driver.output("out").read()}
        assert set(found) == {f"{n}!" for n in range(4)}
        assert all(sorted(value) == sorted(f"<{2 * int(k[0])}>{2 * int(k[0]) + 1}") for k, value in found.items())
        assert {"app-all-repartition", "app-all-2-repartition"} <= set(driver.partitions)


def test_by_tumbling_windows_lateness_is_each_streams_own() -> None:
    """As in Kafka Streams, where each stream has its own operator before the shared store."""
    seen: dict[str, int] = {}
    build = both(lambda c: c.windowed_by(ads.tumbling("10ms", grace="0s")).aggregate(lambda: "", uncached()))
    told = play(
        build,
        [("l", "a", "1", 25), ("r", "a", "2", 15), ("l", "a", "3", 15), ("r", "a", "4", 3)],
        after=lambda driver: seen.update(dropped(driver)),
    )
    assert told == [[(("a", 20, 30), "<1", 25)], [(("a", 10, 20), ">2", 15)], [], []]
    assert seen == {"late": 2, "expired": 1}  # the shared store had let go of [10, 20): it is told, and not kept


def test_by_sliding_windows() -> None:
    build = both(lambda c: c.windowed_by(ads.sliding("10ms", grace="50ms")).aggregate(lambda: "", uncached()))
    assert play(build, [("l", "a", "1", 20), ("r", "a", "2", 25)]) == [
        [(("a", 10, 20), "<1", 20)],
        [(("a", 21, 31), ">2", 25), (("a", 15, 25), "<1>2", 25)],
    ]


def test_by_sessions() -> None:
    def then(cogrouped: ads.CogroupedKStream) -> ads.KTable:
        windowed = cogrouped.windowed_by(ads.session("5ms", grace="50ms"))
        return windowed.aggregate(lambda: "", lambda k, a, b: a + b, uncached())

    assert play(both(then), [("l", "a", "1", 20), ("r", "a", "2", 25)]) == [
        [(("a", 20, 20), "<1", 20)],
        [(("a", 20, 20), None, 20), (("a", 20, 25), "<1>2", 25)],
    ]


def test_one_table_for_two_streams_survives_a_restart() -> None:
    build = both(lambda c: c.aggregate(lambda: "", uncached()))
    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1, commit_every=1) as driver:
        driver.input("l").pipe("1", key="a", at=1)
        driver.restart()
        driver.input("r").pipe("2", key="a", at=2)
        assert [r.value for r in driver.output("out").read()] == ["<1", "<1>2"]


def test_what_cannot_be_grouped_together() -> None:
    def build(app: ads.App) -> None:
        stream: Any = app.stream("l")
        stream.group_by_key().cogroup(lambda v, a: a).cogroup(stream, lambda v, a: a)

    with refused("bad_argument", "not a grouping"):
        ads.topology(name="app")(build).build()

    def arity(app: ads.App) -> None:
        app.stream("l").group_by_key().cogroup(lambda a: a)

    with refused("bad_arity", "`aggregator`"):
        ads.topology(name="app")(arity).build()
