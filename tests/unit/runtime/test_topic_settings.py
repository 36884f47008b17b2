"""What is said about the settings of topics, and what is refused at start."""

import pytest

import adstream as ads
from adstream._core import Plan
from adstream.errors import ConfigError
from adstream.interfaces import TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime.assignment import prepare
from adstream.runtime.topic_settings import remarks


class Event(ads.Record):
    user: str
    at: int


@ads.topology(name="counts")
def counts(app: ads.App) -> None:
    stream = app.stream("events", Event, key="user")
    stream.group_by("user").windowed_by(ads.tumbling("5m", grace="1m")).aggregate(n=ads.count()).to_stream().to(
        "out", key="user"
    )


PLAN = counts.build().plan


@pytest.mark.parametrize(
    ("kind", "setting", "good", "bad", "wrong"),
    [
        ("changelog", "cleanup.policy", "delete", "compact", True),
        ("edge", "cleanup.policy", "delete", "compact,delete", True),
        ("sink", "retention.ms", "-1", "604800000", True),
        ("changelog", "retention.bytes", "-1", "1000000", True),
        ("edge", "max.message.bytes", "1048588", "100000", True),
        ("topology", "cleanup.policy", "compact", "delete", True),
        ("input", "cleanup.policy", "delete", "compact", False),
        ("input", "retention.ms", "360000", "359999", False),
        ("input", "message.timestamp.type", "CreateTime", "LogAppendTime", False),
        ("user", "message.timestamp.type", "CreateTime", "LogAppendTime", False),
        ("user", "cleanup.policy", "delete", "compact", True),
        ("dead_letters", "cleanup.policy", "delete", "compact", True),
        ("changelog", "min.insync.replicas", "2", "4", True),
        ("changelog", "min.insync.replicas", "2", "3", False),
        ("changelog", "min.insync.replicas", "2", "1", False),
    ],
)
def test_each_setting(kind: str, setting: str, good: str, bad: str, wrong: bool) -> None:
    topic = "events" if kind == "input" else "t"
    base = {"replication.factor": "3", "min.insync.replicas": "2", "cleanup.policy": "delete"}
    base |= {"cleanup.policy": "compact"} if kind == "topology" else {}
    assert remarks({topic: kind}, PLAN, {topic: {**base, setting: good}}) == []
    [remark] = remarks({topic: kind}, PLAN, {topic: {**base, setting: bad}})
    assert (remark.setting, remark.value, remark.wrong) == (setting, bad, wrong)
    assert f"`{topic}` has {setting}={bad}: " in str(remark)
    assert f"; set {setting}=" in str(remark)


def test_an_output_with_a_key_may_be_compacted() -> None:
    assert remarks({"out": "user"}, PLAN, {"out": {"cleanup.policy": "compact"}}) == []


def test_what_a_log_does_not_tell_is_not_judged() -> None:
    assert remarks({"t": "changelog"}, PLAN, {}) == []
    assert remarks({"t": "changelog"}, PLAN, {"t": {}}) == []


def test_state_that_would_be_deleted_is_refused_at_start() -> None:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("events", 1), TopicSpec("counts-0-changelog", 1, {"retention.ms": "3600000"})])
    built = counts.build()
    with pytest.raises(ConfigError, match=r"`counts-0-changelog` has retention.ms=3600000: .* set retention.ms=-1"):
        prepare(log, Plan(built.json, built.callables), create_topics=True)


def test_a_table_may_be_of_a_compacted_topic() -> None:
    def build(app: ads.App) -> None:
        app.table("prices").to_stream().to("changes")
        app.stream("events").to("copies")

    plan = ads.topology(name="app")(build).build().plan
    kinds = {"prices": "input", "events": "input", "changes": "user"}
    said = remarks(kinds, plan, {topic: {"cleanup.policy": "compact"} for topic in kinds})
    assert [(r.topic, r.setting) for r in said] == [("events", "cleanup.policy")]
