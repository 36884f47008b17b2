import json
from decimal import Decimal

import pytest

import adstream as ads
from adstream import col
from tests.unit.dsl.support import Event, refused


@ads.topology(name="shop-orders")
def orders(
    app: ads.App,
    grace: str = "10s",
    size: int = 5,
    share: float = 0.5,
    strict: bool = False,
    least: Decimal | None = None,
) -> None:
    """Orders."""
    stream = app.stream("events", Event, timestamp="at", key="user")
    table = stream.group_by("user").windowed_by(ads.tumbling(f"{size}m", grace=grace)).count().named("counts")
    table.late.filter(lambda row: row["price"] is not None).to("late")


@ads.topology
def needs(app: ads.App, topic: str) -> None:
    app.stream(topic, Event).filter(col("count") > 0)


def test_building_has_no_memory():
    first, second = orders.build(grace="30s"), orders.build()
    assert first.plan["nodes"][1]["window"]["grace_ms"] == 30_000
    assert second.plan["nodes"][1]["window"]["grace_ms"] == 10_000
    assert json.loads(second.json) == second.plan
    assert second.plan["app"] == second.app == "shop-orders"
    assert [node["id"] for node in second.plan["nodes"]] == [0, 1, 2, 3]
    assert len(second.callables) == 1
    assert second.settings == {"grace": "10s", "size": 5, "share": 0.5, "strict": False, "least": None}


def test_the_id_is_made_of_the_module_and_the_function():
    assert needs.name == "tests-unit-dsl-test-topology-needs"
    from adstream.jobs.ads.performance import performance

    assert performance.name == "ads-performance"
    assert repr(performance) == "<Topology ads-performance: grace='10s'>"
    with refused("bad_name", "`a b` cannot be an application's id"):
        ads.topology(name="a b")


def test_settings_can_be_chosen_ahead():
    chosen = orders(grace="1m")
    assert chosen.build().plan["nodes"][1]["window"]["grace_ms"] == 60_000
    assert chosen.build(grace="2m").plan["nodes"][1]["window"]["grace_ms"] == 120_000
    assert orders.build().plan["nodes"][1]["window"]["grace_ms"] == 10_000
    assert chosen.__doc__ == "Orders."


def test_settings_are_parsed_by_annotation():
    assert orders.parse(["grace=30s", "size=3", "share=0.25", "strict=true", "least=12.50"]) == {
        "grace": "30s",
        "size": 3,
        "share": 0.25,
        "strict": True,
        "least": Decimal("12.50"),
    }
    assert orders.parse(["least=none", "grace=a=b"]) == {"least": None, "grace": "a=b"}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("size=many", "--set size: not a valid int: 'many'\nhint: write `--set size=3`"),
        ("strict=maybe", "--set strict: not a valid bool: 'maybe'"),
        ("least=x", "--set least: not a valid Decimal"),
        ("graze=1s", "--set graze: `shop-orders` has no such setting\nhint: did you mean `grace`?"),
        ("grace", "--set: not a setting: 'grace'"),
    ],
)
def test_settings_that_do_not_fit(pair, message):
    with pytest.raises(ads.ConfigError) as raised:
        orders.parse([pair])
    assert message in str(raised.value)


def test_missing_and_unknown_settings():
    with pytest.raises(ads.ConfigError, match="--set topic: `tests-unit-dsl-test-topology-needs` needs it"):
        needs.build()
    with pytest.raises(ads.ConfigError, match="no such setting"):
        needs.build(topik="x")
    assert needs.build(topic="x").plan["nodes"][0]["topic"] == "x"


def test_settings_must_fit_a_command_line():
    with refused("bad_setting", "`wrong`: the setting `sizes: list[int]`", "str, int, float, bool or Decimal"):

        @ads.topology
        def wrong(app: ads.App, sizes: list[int]) -> None: ...

    with refused("bad_topology", "`nothing` takes no app"):

        @ads.topology
        def nothing() -> None: ...


def test_describe_says_what_each_node_does():
    lines = orders.describe().splitlines()
    assert lines[0] == "app shop-orders"
    assert [line.split()[:3] for line in lines[1:]] == [
        ["0", "events", "source"],
        ["1", "counts", "aggregate"],
        ["2", "filter-1", "filter"],
        ["3", "to-late", "to_topic"],
    ]
    assert "by user in tumbling [start, start + 5m), grace 10s, retention 5m10s: count=count()" in lines[2]
    assert "[expression]  test_topology.py:" in lines[2]
    assert "<- counts.late" in lines[3]
    assert "[callable]" in lines[3]


def test_a_topology_that_reads_nothing_is_refused_at_its_function():
    @ads.topology(name="x")
    def job(app: ads.App) -> None:
        app.global_table("rates", "rates")

    with pytest.raises(ads.TopologyError) as caught:
        job.build()
    assert (caught.value.code, caught.value.operation) == ("no_source", "topology")
    assert caught.value.line == f"test_topology.py:{job.fn.__code__.co_firstlineno}"


@pytest.mark.parametrize("name", ["in put!", "a" * 250, ".", "..", "bücher", "a\n"])
@pytest.mark.parametrize(
    ("operation", "use"),
    [
        ("stream", lambda app, name: app.stream(name)),
        ("stream", lambda app, name: app.stream(name, Event)),
        ("table", lambda app, name: app.table(name)),
        ("global_table", lambda app, name: app.global_table(name)),
        ("to", lambda app, name: app.stream("in").to(name)),
        ("to", lambda app, name: app.stream("in", Event).to(name)),
    ],
)
def test_a_name_that_no_topic_can_have_is_refused(operation, use, name):
    @ads.topology(name="x")
    def job(app: ads.App) -> None:
        use(app, name)

    with pytest.raises(ads.TopologyError) as caught:
        job.build()
    assert (caught.value.code, caught.value.operation) == ("bad_topic", operation)
    assert caught.value.line is not None
    assert caught.value.line.startswith("test_topology.py:")
