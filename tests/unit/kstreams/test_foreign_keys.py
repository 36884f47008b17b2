"""Joins by foreign key: what is told, record by record; and over several partitions the same table as a plain join."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS
from tests.unit.kstreams.support import I, S, dropped, newest, steps

J = ads.serdes.json_


def by_product(how: str = "inner", store: str | None = None, name: str | None = None) -> Any:
    """Orders `{"product": …, "n": …}` with names of products."""

    def build(app: ads.App) -> None:
        orders, products = app.table("orders", key=S, value=J), app.table("products", key=S, value=S)
        join = orders.join if how == "inner" else orders.left_join
        joined = join(
            products,
            lambda order, product: f"{order['n']} {product}",
            store,
            foreign_key=lambda order: order["product"],
            name=name,
        )
        joined.to_stream().to("out", value=S)

    return build


def order(product: str | None, n: int = 1) -> dict[str, Any]:
    return {"product": product, "n": n}


CHANGES = [
    ("orders", "o", order("p"), 10),  # no such product
    ("products", "p", "pen", 5),
    ("orders", "o", order("p", 2), 7),  # the same product
    ("products", "p", "pencil", 20),
    ("orders", "o", order("q", 2), 21),  # another, which there is not
    ("products", "p", "quill", 22),  # nobody's any more
    ("products", "q", "ink", 23),
    ("orders", "o", order(None, 2), 24),
    ("orders", "o", order("q", 3), 25),
    ("products", "q", None, 26),
    ("orders", "o", None, 27),
    ("orders", "o", None, 28),
]


def test_inner_as_kafka_streams() -> None:
    assert steps(by_product(), CHANGES, caching=False) == [
        [],
        [("o", "1 pen", 5)],  # the time of the right row's change
        [("o", "2 pen", 7)],
        [("o", "2 pencil", 20)],
        [("o", None, 21)],
        [],
        [("o", "2 ink", 23)],
        [("o", None, 24)],
        [("o", "3 ink", 25)],
        [("o", None, 26)],
        [("o", None, 27)],
        [],
    ]


def test_left_as_kafka_streams() -> None:
    assert steps(by_product("left"), CHANGES, caching=False) == [
        [("o", "1 None", 10)],
        [("o", "1 pen", 5)],
        [("o", "2 pen", 7)],
        [("o", "2 pencil", 20)],
        [("o", "2 None", 21)],
        [],
        [("o", "2 ink", 23)],
        [("o", "2 None", 24)],
        [("o", "3 ink", 25)],
        [("o", "3 None", 26)],
        [("o", None, 27)],
        [],
    ]


def test_a_null_foreign_key_is_counted_by_the_inner_join_only() -> None:
    for how, count in (("inner", 1), ("left", 0)):
        topology = ads.topology(name="app")(by_product(how))
        with TopologyTestDriver(topology, partitions=1) as driver:
            driver.input("orders").pipe(order(None), key="o", at=1)
            assert dropped(driver, "null_foreign_key") == count
            assert newest(driver) == ({} if how == "inner" else {"o": "1 None"})


def test_the_foreign_key_may_come_from_key_and_value_and_the_joiner_may_take_the_key() -> None:
    def build(app: ads.App) -> None:
        left, right = app.table("left", key=S, value=I), app.table("right", key=S, value=I)
        joined = left.join(right, lambda k, a, b: f"{k}{a}{b}", foreign_key=lambda key, value: f"{key[0]}{value}")
        joined.to_stream().to("out", value=S)

    assert steps(build, [("right", "k7", 1, 1), ("left", "key", 7, 2)]) == [[], [("key", "key71", 2)]]


def test_a_table_joined_with_itself_by_foreign_key() -> None:
    def build(app: ads.App) -> None:
        people = app.table("people", key=S, value=J)
        with_boss = people.left_join(people, lambda one, boss: boss and boss["name"], foreign_key=lambda v: v["boss"])
        with_boss.to_stream().to("out", value=J)

    found = steps(
        build,
        [
            ("people", "a", {"name": "ann", "boss": "b"}, 1),
            ("people", "b", {"name": "bob", "boss": None}, 2),
            ("people", "b", {"name": "rob", "boss": "b"}, 3),
        ],
        caching=False,
    )
    assert [{key: value for key, value, _ in step} for step in found] == [
        {"a": None},
        {"a": "bob", "b": None},
        {"a": "rob", "b": "rob"},
    ]


def test_results_are_a_table_that_goes_on() -> None:
    def build(app: ads.App) -> None:
        orders, products = app.table("orders", key=S, value=J), app.table("products", key=S, value=S)
        named = orders.join(products, lambda o, p: {**o, "name": p}, foreign_key=lambda o: o["product"])
        per_name = named.group_by(lambda k, v: (v["name"], v["n"]))
        per_name.reduce(lambda a, v: a + v, lambda a, v: a - v).to_stream().to("out", value=I)

    topology = ads.topology(name="app")(build)
    with TopologyTestDriver(topology, partitions={"orders": 3, "products": 2}) as driver:
        for product in "pq":
            driver.input("products").pipe(f"name of {product}", key=product, at=0)
        for i in range(20):
            driver.input("orders").pipe(order("pq"[i % 2], i), key=f"o{i % 7}", at=i)
        driver.run()
        driver.input("products").pipe("new name", key="p", at=99)
        last = {f"o{i % 7}": i for i in range(20)}
        expected = {"new name": sum(i for i in last.values() if i % 2 == 0), "name of p": 0}
        expected["name of q"] = sum(i for i in last.values() if i % 2)
        assert newest(driver) == expected


def test_its_topics_bear_its_name_and_fit_the_tables() -> None:
    topology = ads.topology(name="app")(by_product(name="named"))
    with TopologyTestDriver(topology, partitions={"orders": 3, "products": 5}) as driver:
        counts = driver.partitions
        assert counts["app-named-subscription-registration-topic"] == 5
        assert counts["app-named-subscription-response-topic"] == 3


def test_partitioners_of_the_tables_topics() -> None:
    """Right rows lie where their producer's partitioner put them: subscriptions must follow, and are told no value."""
    seen: list[Any] = []

    def last_letter(topic: str, key: str, value: Any, partitions: int) -> int:
        seen.append(value)
        return ord(key[-1]) % partitions

    def build(app: ads.App) -> None:
        left, right = app.table("left", key=S, value=S), app.table("right", key=S, value=I)
        joined = left.join(right, lambda a, b: b, foreign_key=lambda v: v, other_partitioner=last_letter)
        joined.to_stream().to("out", value=I)

    topology = ads.topology(name="app")(build)
    with TopologyTestDriver(topology, partitions=4) as driver:
        for i, letter in enumerate("abcdefgh"):
            driver.input("right").pipe(i, key=letter, partition=ord(letter) % 4, at=i)
            driver.input("left").pipe(letter, key=f"row {letter}", at=i)
        assert newest(driver) == {f"row {letter}": i for i, letter in enumerate("abcdefgh")}
        assert seen == [None] * 8


def test_stale_responses_are_dropped() -> None:
    """Two changes of a row in one commit: the answer to the first is of no row any more."""
    topology = ads.topology(name="app")(by_product())
    with TopologyTestDriver(topology, partitions=1, caching=False) as driver:
        for product in "pq":
            driver.input("products").pipe(product, key=product, at=0)
        driver.run()
        driver.input("orders").pipe(order("p"), key="o", at=1)
        driver.input("orders").pipe(order("q"), key="o", at=2)
        assert [(r.value, r.timestamp) for r in driver.output("out").read()] == [("1 q", 2)]
        assert dropped(driver, "stale_response") == 1


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[str, str, Any]]:
    left = st.tuples(
        st.just("orders"),
        st.sampled_from([f"o{i}" for i in range(6)]),
        st.none() | st.builds(order, st.none() | st.sampled_from("pqr"), st.integers(0, 3)),
    )
    right = st.tuples(st.just("products"), st.sampled_from("pqr"), st.none() | st.sampled_from(["pen", "ink", "nib"]))
    return draw(st.lists(left | right, max_size=40))


def plain_join(records: list[tuple[str, str, Any]], how: str) -> dict[str, str]:
    tables: dict[str, dict[str, Any]] = {"orders": {}, "products": {}}
    for topic, key, value in records:
        tables[topic].pop(key, None)
        if value is not None:
            tables[topic][key] = value
    joined = {}
    for key, row in tables["orders"].items():
        product = tables["products"].get(row["product"])
        if product is not None or how == "left":
            joined[key] = f"{row['n']} {product}"
    return joined


@example(  # a product that came and went within a commit, asked for in between
    records=[("products", "p", "pen"), ("orders", "o0", order("p", 0)), ("products", "p", None)],
    how="inner",
    left=1,
    right=1,
    commit_every=None,
    caching=True,
    looks=set(),
    crash=None,
    seed=1,
)
@settings(max_examples=60, deadline=None)
@given(
    records=changes(),
    how=st.sampled_from(["inner", "left"]),
    left=st.integers(1, 4),
    right=st.integers(1, 4),
    commit_every=st.none() | st.integers(1, 5),
    caching=st.booleans(),
    looks=st.sets(st.integers(0, 40)),
    crash=st.none() | st.tuples(st.sampled_from(STEPS), st.integers(0, 6)),
    seed=st.integers(0, 9),
)
def test_over_partitions_commits_and_crashes_it_ends_as_a_plain_join(
    records: list[tuple[str, str, Any]],
    how: str,
    left: int,
    right: int,
    commit_every: int | None,
    caching: bool,
    looks: set[int],
    crash: tuple[Any, int] | None,
    seed: int,
) -> None:
    topology = ads.topology(name="app")(by_product(how, "joined"))
    with TopologyTestDriver(
        topology,
        partitions={"orders": left, "products": right},
        commit_every=commit_every,
        caching=caching,
        seed=seed,
    ) as driver:
        if crash is not None:
            driver.crash_at(crash[0], commits=crash[1])
        table: dict[str, str] = {}
        for at, (topic, key, value) in enumerate(records):
            driver.input(topic).pipe(value, key=key, at=at)
            if at in looks:
                _apply(table, driver)
        driver.restart()
        _apply(table, driver)
        assert table == plain_join(records, how)


def _apply(table: dict[str, str], driver: TopologyTestDriver) -> None:
    for record in driver.output("out").read():
        table.pop(record.key, None)
        if record.value is not None:
            table[record.key] = record.value


@pytest.mark.parametrize("commits", range(4))
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_anywhere_on_the_way_of_a_question_and_its_answer(step: Any, commits: int) -> None:
    topology = ads.topology(name="app")(by_product("left"))
    with TopologyTestDriver(topology, partitions={"orders": 3, "products": 2}) as driver:
        for i in range(12):
            driver.input("orders").pipe(order("pqr"[i % 3], i), key=f"o{i}", at=i)
        driver.run()
        driver.crash_at(step, commits=commits)
        for product in "pqr":
            driver.input("products").pipe(f"name of {product}", key=product, at=50)
        assert newest(driver) == {f"o{i}": f"{i} name of {'pqr'[i % 3]}" for i in range(12)}
        assert driver.crashed


def test_what_belongs_to_foreign_keys() -> None:
    def build(app: ads.App) -> None:
        left, right = app.table("left", key=S, value=I), app.table("right", key=S, value=I)
        left.join(right, lambda a, b: a, name="named")

    with pytest.raises(ads.TopologyError, match="belong to a join by foreign key"):
        ads.topology(name="app")(build).build()
