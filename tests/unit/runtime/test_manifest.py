"""An application is held, at its start, against what it was when it last ran."""

import json
import threading
from decimal import Decimal
from typing import Annotated, Any

import pytest

import adstream as ads
from adstream._core import Plan, RawBatch
from adstream.errors import ConfigError, FatalError
from adstream.interfaces import Log, Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime.assignment import prepare
from adstream.runtime.manifest import stored, topology_topic

APP = "shop"


class Order(ads.Record):
    user: str
    a: int
    b: int


class Priced(ads.Record):
    user: str
    a: Annotated[Decimal, ads.decimal(10, 2)]
    b: int


@ads.topology(name=APP)
def shop(
    app: ads.App,
    name: str = "totals",
    column: str = "a",
    size: str = "5m",
    grace: str = "10s",
    within: str = "1h",
    priced: bool = False,
    filtered: bool = False,
    second: bool = False,
    deduplicated: bool = True,
    sinks: str = "rows",
    more: bool = False,
) -> None:
    stream = app.stream("orders", Priced if priced else Order, key="user")
    if deduplicated:
        stream = stream.deduplicate("b", within=within).named("copies")
    if filtered:
        stream = stream.filter(ads.col("b") > 0, reason="b")
    windows = stream.group_by("user").windowed_by(ads.tumbling(size, grace=grace, retention="1h"))
    aggregates = {"total": ads.sum(column), **({"n": ads.count()} if more else {})}
    table = windows.aggregate(**aggregates).named(name).with_columns(start=ads.window_start())
    table.to_stream().to("out", key="user")
    if second:
        stream.group_by("user").aggregate(n=ads.count()).named("counts").to_stream().to("out-2", key="user")
    for sink in sinks.split():
        table.sink(ads.sinks.Sql(f"table_{sink}", key=["user", "start"])).named(sink)


def plan(**settings: Any) -> Plan:
    built = shop.build(**settings)
    return Plan(built.json, built.callables)


@pytest.fixture
def log() -> EmbeddedLog:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("orders", 2)])
    return log


def begin(log: Log, **settings: Any) -> None:
    prepare(log, plan(**settings), create_topics=True)


def records(log: Log) -> int:
    where = (topology_topic(APP).name, 0)
    return log.end_offsets([where], committed=True)[where]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"name": "sums"},
            ["the aggregate `totals` is called `sums` now", 'hint: write `.named("totals")`; or start', "--app shop-2"],
        ),
        ({"deduplicated": False}, ["the deduplicate `copies` is gone; its state is in `shop-0-changelog`"]),
        ({"column": "b"}, ["the aggregate `totals` means something else now", "total was sum", '"a"', '"b"']),
        ({"size": "1m"}, ["window was tumbling 300000 ms, is tumbling 60000 ms"]),
        ({"priced": True}, ["the aggregate `totals`", "sum(int)", "sum(decimal(10,2))"]),
        ({"more": True}, ["n was not there, is count"]),
        ({"sinks": ""}, ["the sink `rows` is gone: rows that it has not written yet would be lost"]),
        ({"sinks": "lines"}, ["the sink `rows` is gone", "the sink `lines` is new"]),
    ],
)
def test_what_is_refused_names_old_new_and_the_remedy(
    log: EmbeddedLog, settings: dict[str, Any], said: list[str]
) -> None:
    begin(log)
    with pytest.raises(ConfigError) as refused:
        begin(log, **settings)
    assert refused.value.option == "topology"
    for text in said:
        assert text in str(refused.value)
    assert records(log) == 1
    begin(log)


@pytest.mark.parametrize(
    "settings", [{}, {"grace": "30s"}, {"within": "10m"}, {"filtered": True}], ids=["same", "grace", "within", "filter"]
)
def test_what_may_change(log: EmbeddedLog, settings: dict[str, Any]) -> None:
    begin(log)
    begin(log, **settings)
    assert records(log) == 1
    begin(log)


def test_new_state_is_written_down_and_cannot_be_left_out_again(log: EmbeddedLog) -> None:
    begin(log)
    begin(log, second=True)
    assert records(log) == 2
    begin(log, second=True)
    assert records(log) == 2
    with pytest.raises(ConfigError, match="the aggregate `counts` is gone"):
        begin(log)


def test_another_number_of_partitions_of_an_input_is_refused() -> None:
    began = EmbeddedLog()
    began.create_topics([TopicSpec("orders", 2)])
    begin(began)
    signature = stored(began, APP)
    assert signature is not None
    wider = EmbeddedLog()
    wider.create_topics([TopicSpec("orders", 3), topology_topic(APP)])
    write(wider, signature)
    with pytest.raises(ConfigError, match="input `orders` had 2 partitions and has 3") as refused:
        begin(wider)
    assert "--app" in str(refused.value)
    assert wider.partitions(["shop-tasks", "shop-0-changelog"]) == {}, "nothing was made"


def write(log: Log, signature: Any) -> None:
    rows = [(0, 0, b"plan", json.dumps(signature).encode(), [])]
    batch = RawBatch(rows)  # type: ignore[arg-type]
    assert log.writer("test").commit([(f"{APP}-topology", 0, batch)], {}, "g", None) is Outcome.COMMITTED


def test_what_a_newer_version_wrote_is_left_alone(log: EmbeddedLog) -> None:
    begin(log)
    signature = stored(log, APP)
    assert signature is not None
    write(log, {**signature, "formats": {"frame": 99}})
    with pytest.raises(FatalError, match="newer version of adstream"):
        begin(log)


def test_an_application_from_before_there_was_a_signature_gets_one(log: EmbeddedLog) -> None:
    begin(log)
    older = EmbeddedLog()
    older.create_topics([TopicSpec(t, n) for t, n in log.partitions(json.loads(plan().describe())["topics"]).items()])
    begin(older)
    assert stored(older, APP) == stored(log, APP)


@pytest.mark.parametrize("turn", range(5))
def test_those_who_start_at_once_agree(log: EmbeddedLog, turn: int) -> None:
    """Two versions, four workers of each: one version runs, all workers of the other are refused."""
    outcomes: list[tuple[str, bool]] = []
    ready = threading.Barrier(8)

    def worker(column: str) -> None:
        made = plan(column=column)
        ready.wait()
        try:
            prepare(log, made, create_topics=True)
        except ConfigError:
            outcomes.append((column, False))
        else:
            outcomes.append((column, True))

    threads = [threading.Thread(target=worker, args=(column,)) for column in "abababab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(outcomes) == 8
    assert len({column for column, ran in outcomes if ran}) == 1
    assert sum(ran for _, ran in outcomes) == 4
    assert records(log) == 1


def test_between_the_look_and_the_commit_of_another(log: EmbeddedLog) -> None:
    """The other one opens its writer later: this one's commit is refused, and it looks again."""
    mine, theirs = plan(column="a"), plan(column="b")
    real, opened = log.writer, []

    def writer(slot: str, **options: Any) -> Any:
        made = real(slot, **options)
        if not opened:
            opened.append(slot)
            prepare(log, theirs, create_topics=True)
        return made

    log.writer = writer  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="the aggregate `totals` means something else now"):
        prepare(log, mine, create_topics=True)
    assert opened == ["shop-topology"]


@ads.topology(name="visits")
def visits(app: ads.App, store: str = "visits", size: str = "5m", before: bool = False, table: bool = False) -> None:
    grouped = app.stream("orders", key=ads.serdes.string).group_by_key()
    if before:  # takes the number, and so the name, of the next one
        grouped.windowed_by(ads.tumbling("1h", grace="10s")).count("per-hour")
    if table:
        grouped.count(store)
    else:
        grouped.windowed_by(ads.tumbling(size, grace="10s")).count(store)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"store": "calls"}, ["the store `visits` is called `calls` now", "hint: name it `visits`; or start"]),
        ({"size": "1m"}, ["the store `visits` means something else now", "300000", "60000", "(`visits-2`)"]),
        ({"table": True}, ["the store `visits` means something else now", "Window", "KeyValue"]),
    ],
)
def test_stores_are_known_by_their_own_names(log: EmbeddedLog, settings: dict[str, Any], said: list[str]) -> None:
    def begin(**settings: Any) -> None:
        built = visits.build(**settings)
        prepare(log, Plan(built.json, built.callables), create_topics=True)

    begin()
    begin(before=True)
    with pytest.raises(ConfigError) as refused:
        begin(before=True, **settings)
    for text in said:
        assert text in str(refused.value)
