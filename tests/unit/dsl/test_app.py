import adstream as ads
from tests.unit.dsl.support import Event, events, nodes, refused


def test_a_source_in_the_plan():
    (source,) = nodes(events(key="user", max_ahead="10m"))
    assert (source["op"], source["name"], source["topic"], source["inputs"]) == ("source", "events", "events", [])
    assert (source["format"], source["timestamp"], source["key"]) == ("json", "at", ["user"])
    assert source["max_ahead_ms"] == 600_000
    assert [f["name"] for f in source["fields"]] == ["event_id", "kind", "at", "user", "price", "count", "weight"]
    assert source["line"].startswith("support.py:")


def test_a_source_may_say_nothing():
    (source,) = nodes(ads.App("x").stream("events", Event))
    assert (source["timestamp"], source["key"]) == (None, None)
    assert "max_ahead_ms" not in source


def test_what_is_wrong_with_a_source():
    app = ads.App("x")
    app.stream("events", Event)
    with refused("duplicate_source", "`events` is read already, at test_app.py:", "it forks", "stream"):
        app.stream("events", Event)
    with refused("unknown_column", "no column `usr`", "did you mean `user`?", "stream"):
        app.stream("more", Event, key="usr")
    with refused("unknown_column", "no column `timestamp`", "there are: `event_id`"):
        app.stream("more", Event, timestamp="timestamp")
    with refused("type_mismatch", "`user` is str, and event time must be a timestamp", "ads.epoch"):
        app.stream("more", Event, timestamp="user")
    with refused("bad_duration", "`max_ahead` must be a duration: 30 has no unit", '"30s"'):
        app.stream("more", Event, max_ahead=30)  # type: ignore[arg-type]
    with refused("not_a_schema", "does not describe a record"):
        app.stream("more", {"id": str})


def test_a_source_leaves_room_for_the_name_of_its_dead_letters():
    app = ads.App("test")
    app.stream("t" * 245)
    with refused("bad_topic", "would have a topic of 250 characters", "249 at most", "stream"):
        app.stream("t" * 246)
