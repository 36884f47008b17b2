"""A changelog forgets, and what is left restores."""

import json
from pathlib import Path

import adstream as ads
from adstream._core import Plan, RawBatch
from adstream.interfaces import TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import launch
from adstream.runtime.settings import Settings
from adstream.runtime.trim import ChangelogTrim, SinkTrim


def test_what_a_needed_generation_wrote_is_never_forgotten() -> None:
    trim = ChangelogTrim()
    for generation, end in ((3, 30), (5, 50), (6, 60)):
        trim.mark(generation, end)
    assert trim.forgettable(None) is None  # all is needed
    assert trim.forgettable(2) is None  # it may have written before 30
    assert trim.forgettable(4) == 30  # it wrote behind 30, and perhaps before 50
    assert trim.forgettable(5) == 50
    assert trim.forgettable(5) is None  # no more than before
    assert trim.forgettable(9) == 60


class Event(ads.Record):
    id: str
    user: str
    value: int


@ads.topology(name="trimmed")
def trimmed(app: ads.App) -> None:
    totals = (
        app.stream("events", Event, key="user")
        .deduplicate("id", within="10s")
        .group_by("user")
        .aggregate(total=ads.sum("value"))
    )
    totals.to_stream().to("totals", key="user")


def records(first: int, count: int, users: int = 40) -> RawBatch:
    def value(i: int) -> bytes:
        return json.dumps({"id": f"e{i}", "user": f"u{i % users}", "value": 1}).encode()

    numbers = range(first, first + count)
    return RawBatch([(i, 1_000_000_000_000 + i * 100, f"u{i % users}".encode(), value(i), []) for i in numbers])


COLD = 60
"""Users that come once, at the beginning: only what is written again keeps them."""


def once(first: int) -> RawBatch:
    value = [json.dumps({"id": f"c{first + i}", "user": f"cold{i}", "value": 1}).encode() for i in range(COLD)]
    return RawBatch([(i, 1_000_000_000_000, None, v, []) for i, v in enumerate(value)])


def test_the_changelog_forgets_and_what_is_left_restores(tmp_path: Path) -> None:
    built = trimmed.build()
    plan = Plan(json.dumps(built.plan), list(built.callables))
    settings = Settings(
        app=built.app,
        commit_interval_ms=1,
        purge_every_ms=1,
        create_topics=True,
        batch_rows_max=50,
        generation_rows_max=100,
    )
    changelog = ("trimmed-0-changelog", 0)
    rounds, per_round = 6, 8000
    starts = []
    with_log = EmbeddedLog(tmp_path)
    with_log.create_topics([TopicSpec("events", 1)])
    writer = with_log.writer("test-producer")
    writer.commit([("events", 0, once(0))], {}, "none", None)
    for r in range(rounds):
        writer.commit([("events", 0, records(r * per_round, per_round))], {}, "none", None)
        launch.run(plan, settings, with_log, stop_at_end=True)  # each run restores from what is left
        starts.append(with_log.start_offsets([changelog])[changelog])
    writer.commit([("events", 0, once(COLD))], {}, "none", None)
    launch.run(plan, settings, with_log, stop_at_end=True)
    end = with_log.end_offsets([changelog], committed=True)[changelog]
    assert starts[-1] > 0, "nothing was forgotten"
    assert end - starts[-1] < end / 2, (starts, end)
    reader = with_log.reader()
    reader.add("totals", 0, 0)
    newest: dict[str, int] = {}
    while (batch := reader.read("totals", 0, 1000)) is not None:
        for _, _, _, value, _ in batch.records():
            row = json.loads(value or b"")
            newest[row["user"]] = row["total"]
    hot, cold = {f"u{u}": rounds * per_round // 40 for u in range(40)}, {f"cold{u}": 2 for u in range(COLD)}
    assert newest == hot | cold


def test_rows_that_a_sink_stored_are_kept_for_a_while() -> None:
    where = ("rows", 0)
    trim = SinkTrim(100)
    assert trim.forgettable({where: 10}, 1_000) == {}
    assert trim.forgettable({where: 20}, 1_060) == {}
    assert trim.forgettable({where: 30}, 1_100) == {where: 10}
    assert trim.forgettable({where: 30}, 1_160) == {where: 20}


def test_a_target_that_was_set_back_keeps_what_it_asks_for_again() -> None:
    where = ("rows", 0)
    trim = SinkTrim(100)
    assert trim.forgettable({where: 10}, 1_000) == {}
    assert trim.forgettable({where: 90}, 1_050) == {}
    assert trim.forgettable({where: 40}, 1_090) == {}
    assert trim.forgettable({where: 45}, 1_160) == {where: 10}
    assert trim.forgettable({where: 45}, 1_195) == {where: 40}
    assert trim.forgettable({}, 2_000) == {}
    assert trim.forgettable({where: 99}, 3_000) == {}, "a new lease counts anew"


def test_nothing_is_kept_when_that_is_asked_for() -> None:
    assert SinkTrim(0).forgettable({("rows", 0): 10}, 1_000) == {("rows", 0): 10}
