"""What commands print, and what is wrong becomes one message and an exit code."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from adstream._core import RawBatch
from adstream.interfaces import TopicSpec
from adstream.jobs.ads.truth import compute
from adstream.logs.embedded import EmbeddedLog
from adstream.targets.delivery import TransientError
from adstream.targets.sql import SqlTarget
from tests.unit.cli.support import invoke, project


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "ads.perfomance", "--log", "memory:"], "did you mean `ads.performance`?"),
        (["run", "zzz", "--log", "memory:"], "`ads.performance`"),
        (["run", "no_such_module:x", "--log", "memory:"], "there is no module `no_such_module`"),
        (["run", "shop:orders"], "--log: which log?"),
        (["run", "shop:order", "--log", "memory:"], "did you mean `orders`?"),
        (["run", "shop:nothing", "--log", "memory:"], "something else than a topology"),
        (["run", "shop:orders", "--log", "nowhere:"], "--log: `nowhere:` is not a log"),
        (["run", "shop:orders", "--log", "memory:", "--sql", "sqlite:///o.db"], "there is no topic `orders`"),
        (["run", "shop:orders", "--log", "memory:"], "--sql: a sink of kind `sql` needs the connection"),
        (["run", "shop:orders", "--log", "memory:", "--sql", "mysql://x"], "--sql: `mysql` is not supported"),
        (["run", "shop:orders", "--log", "memory:", "--metrics-port", "70000"], "--metrics-port: 70000 is no port"),
        (
            ["run", "shop:orders", "--bootstrap", "b:1", "--metrics-port", "65534", "--workers", "3"],
            "--metrics-port: 65536, the port of worker 2, is no port",
        ),
        (
            ["run", "ads.performance", "--log", "memory:", "--sql", "sqlite:///o.db", "--redis", "http://x"],
            "--redis: this is not a Redis URL",
        ),
        (["run", "shop:orders", "--input", "orders=none.jsonl"], "--input: no file `none.jsonl`"),
        (["replay", "shop:orders", "--from", "jsonl:none.jsonl"], "--from: no file `none.jsonl`"),
        (["replay", "shop:orders", "--from", "jsonl:."], "--from: `.` is not a regular file"),
        (["topics", "create", "shop:orders", "--log", "memory:"], "create JOB --inputs PARTITIONS"),
        (["generate", "ads", "--out", "jsonl:orders.jsonl"], "--out: `orders.jsonl` cannot be used"),
        (["generate", "ads", "--out", "jsonl:out", "--truth", "none/t.json"], "--truth: there is no directory `none`"),
        (["run", "shop:orders", "--input", "orders=orders.jsonl"], "--sql: a sink of kind `sql` needs the connection"),
        (["run", "shop:orders", "--input", "orders=orders.jsonl", "--sql", "mysql://x"], "--sql"),
        (
            ["run", "shop:orders", "--bootstrap", "b:1", "--input", "orders=orders.jsonl"],
            "--input: files cannot stand in",
        ),
        (["run", "shop:orders", "--log", "memory:", "--workers", "2"], "--workers: only Kafka"),
        (["run", "shop:orders", "--log", "memory:", "--workers", "0"], "--workers: 0 is less than 1"),
        (["run", "shop:orders", "--log", "memory:", "--guarantee", "maybe"], "--guarantee: `maybe`"),
        (
            ["run", "shop:orders", "--log", "memory:", "--commit-interval", "5"],
            "--commit-interval: `5` is not a duration",
        ),
        (["run", "shop:orders", "--log", "memory:", "--set", "leest=3"], "did you mean `least`?"),
        (["run", "shop:orders", "--log", "memory:", "--set", "least=x"], "not a valid int"),
        (["run", "shop:orders", "--log", "memory:", "--log-format", "xml"], "--log-format: `xml`"),
        (["describe", "ads.performance", "--set", "grace=soon"], "soon"),
        (["generate", "ads", "--rate", "0"], "rate must be at least 1"),
        (["generate", "ads", "--out", "memory:"], "--out: memory would forget them"),
        (["generate", "ads", "--out", "nowhere"], "--out: `nowhere` is no place for records"),
        (["demo", "--dir", "."], "--dir: `.` is not empty"),
    ],
)
def test_what_is_wrong_is_one_message(arguments, said):
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()) <= 3


def test_describe():
    result = invoke("describe", "ads.performance", "--set", "grace=30s")
    assert result.exit_code == 0
    for part in (
        "app ads-performance",
        "grace 30s",
        "sub-topology 2",
        "sink redis-hash-product-metrics",
        "[expression]",
    ):
        assert part in result.stdout


def test_describe_as_json():
    told = json.loads(invoke("describe", "ads.performance", "--json", "--app", "other").stdout)
    assert told["app"] == "other"
    assert told["settings"] == {"grace": "10s"}
    assert [sub["id"] for sub in told["subtopologies"]] == [0, 1, 2]
    assert told["subtopologies"][0]["nodes"][0]["rung"] == "expression"


def test_replay_from_a_file():
    once = ("replay", "shop:orders", "--log", "dir:log", "--input", "orders=orders.jsonl", "--sql", "sqlite:///o.db")
    result = invoke(*once, "--set", "least=10")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[-1].startswith("50 records read")
    assert rows("o.db") == 40
    again = invoke(*once)
    assert again.exit_code == 0
    assert again.stderr.splitlines()[-1].startswith("0 records read")
    with Path("orders.jsonl").open("a") as file:
        file.write('{"order_id":"one-more","amount":11}\n')
    assert invoke(*once).stderr.splitlines()[-1].startswith("1 record read")
    assert rows("o.db") == 41
    Path("orders.jsonl").write_text("{}\n")
    assert "is not the file that was read before" in invoke(*once).stderr


def test_a_table_that_was_written_from_another_log_is_refused():
    """A log in memory is new each time: the positions in the table are of the one before, and rows up to them would be
    left out."""
    run = ("replay", "shop:orders", "--sql", "sqlite:///o.db", "--from")
    assert invoke(*run, "jsonl:orders.jsonl").exit_code == 0
    Path("more.jsonl").write_text('{"order_id":"more","amount":1}\n')
    refused = invoke(*run, "jsonl:more.jsonl")
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[-2:] == [
        "error: --sql: written from another log: it has rows up to 1 of `shop-orders-sql-orders-sink` [0], which ends at 0",
        "hint: `adstream reset` forgets where it was, rows stay; or take another database or id (`--app shop-orders-2`)",
    ]
    assert rows("o.db") == 50
    assert invoke(*run, "jsonl:more.jsonl", "--app", "shop-orders-2").exit_code == 0
    assert rows("o.db") == 51
    forget = ("reset", "shop:orders", "--sql", "sqlite:///o.db", "--log", "memory:", "--yes")
    assert invoke(*forget).exit_code == 0
    assert invoke(*run, "jsonl:more.jsonl").exit_code == 0


def test_a_link_to_a_database_that_breaks_at_the_start_is_tried_again(monkeypatch: pytest.MonkeyPatch):
    """Right after the target was opened it ended the run: exit code 1."""
    real, broken = SqlTarget.of_topic, [TransientError("the link broke")]

    def of_topic(self: SqlTarget, topic_id: str) -> str:
        if broken:
            raise broken.pop()
        return real(self, topic_id)

    monkeypatch.setattr(SqlTarget, "of_topic", of_topic)
    result = invoke("replay", "shop:orders", "--sql", "sqlite:///o.db", "--from", "jsonl:orders.jsonl")
    assert result.exit_code == 0, result.output
    assert (rows("o.db"), broken) == (50, [])


def test_a_table_of_another_log_that_is_as_long_is_refused_too():
    """Nothing of its positions looks wrong."""
    other = EmbeddedLog("other", sync=False)
    other.create_topics([TopicSpec("was-here", 1)])
    other.delete_topics(["was-here"])  # so its topics have other ids
    other.close()
    run = ("replay", "shop:orders", "--input", "orders=orders.jsonl")
    assert invoke(*run, "--log", "dir:log", "--sql", "sqlite:///o.db").exit_code == 0
    assert invoke(*run, "--log", "dir:other", "--sql", "sqlite:///p.db").exit_code == 0
    Path("orders.jsonl").write_text(Path("orders.jsonl").read_text() + '{"order_id":"more","amount":1}\n')
    refused = invoke(*run, "--log", "dir:other", "--sql", "sqlite:///o.db")
    assert refused.exit_code == 2
    assert "--sql: written from another log: its rows are of a former `shop-orders-sql-orders-sink`" in refused.stderr
    assert rows("o.db") == 50
    forget = ("reset", "shop:orders", "--sql", "sqlite:///o.db", "--log", "dir:other", "--yes")
    assert invoke(*forget).exit_code == 0
    assert invoke(*run, "--log", "dir:other", "--sql", "sqlite:///o.db").exit_code == 0
    assert rows("o.db") == 51


def test_topics(tmp_path: Path):
    (tmp_path / "log").mkdir()
    assert "there is no input topic `orders`" in invoke("topics", "check", "shop:orders", "--log", "dir:log").stderr
    created = invoke("topics", "create", "shop:orders", "--log", "dir:log", "--inputs", "3")
    assert created.exit_code == 0, created.output
    assert created.stdout.count("created") == len(created.stdout.splitlines())
    checked = invoke("topics", "check", "shop:orders", "--log", "dir:log")
    assert checked.exit_code == 0
    assert "3 partitions  there" in checked.stdout


def test_topics_that_are_missing():
    invoke("generate", "ads", "--events", "10", "--out", "dir:log")
    checked = invoke("topics", "check", "ads.performance", "--log", "dir:log")
    assert checked.exit_code == 2
    assert "12 topics are missing" in checked.stderr


def test_dead_letters_are_shown_and_sent_again():
    with Path("orders.jsonl").open("a") as file:
        file.write('{"order_id":"bad"}\n')
    run = ("replay", "shop:orders", "--sql", "sqlite:///o.db", "--log", "dir:log")
    # Dead letters of files cannot go back; so the records come from a topic.
    invoke("topics", "create", "shop:orders", "--log", "dir:log", "--inputs", "1")
    write("log", "orders", Path("orders.jsonl").read_bytes().splitlines())
    assert invoke(*run).exit_code == 0
    listed = invoke("dlq", "list", "shop:orders", "--log", "dir:log")
    assert "missing_field:amount" in listed.stdout
    told = json.loads(invoke("dlq", "list", "shop:orders", "--log", "dir:log", "--json").stdout)
    assert (told["topic"], told["partition"], told["offset"]) == ("orders", "0", "50")
    assert told["application"] == "shop-orders"
    asked = invoke("dlq", "replay", "shop:orders", "--log", "dir:log")
    assert "nothing was sent" in asked.stdout
    sent = invoke("dlq", "replay", "shop:orders", "--log", "dir:log", "--yes")
    assert "orders: 1 sent" in sent.stdout
    assert "nothing to replay" in invoke("dlq", "replay", "shop:orders", "--log", "dir:log", "-y").stdout
    assert "1 record read" in invoke(*run).stderr


CLICKS = """
from datetime import datetime

import adstream as ads


class Click(ads.Record):
    user: str
    price: int
    at: datetime


@ads.topology
def clicks(app: ads.App, least: int = 0) -> None:
    stream = app.stream("clicks", Click, timestamp="at").require(cheap=ads.col("price") >= least)
    table = stream.group_by("user").windowed_by(ads.tumbling("1m", grace="10s")).aggregate(n=ads.count())
    table.named("per-minute").to_stream().to("counts", key="user")
"""


def test_a_replay_first_says_what_would_be_late():
    Path("web.py").write_text(CLICKS)

    def click(minute: int, price: int) -> bytes:
        return f'{{"user":"u","price":{price},"at":"2026-01-15T10:{minute:02}:00Z"}}'.encode()

    invoke("topics", "create", "web:clicks", "--log", "dir:log", "--inputs", "1")
    write("log", "clicks", [click(1, 9), click(2, 5), click(3, 5), click(20, 9), click(20, 5), b"{bad", click(20, 1)])
    run = ("replay", "web:clicks", "--log", "dir:log", "--set", "least=6")
    assert invoke(*run).exit_code == 0
    dlq = ("dlq", "replay", "web:clicks", "--log", "dir:log", "--set", "least=3")
    told = invoke(*dlq, "--dry-run")
    assert told.exit_code == 0, told.output
    assert "clicks: 5 of 5 dead letters go back" in told.stdout
    for n, what in (
        (4, "cheap"),
        (1, "malformed_json"),
        (2, "too late (per-minute)"),
        (1, "dead:malformed_json (clicks)"),
        (1, "dead:cheap (require-1)"),
    ):
        assert f"{n:>8}  {what}\n" in told.stdout
    assert invoke(*dlq, "--dry-run").stdout == told.stdout, "nothing was sent"
    assert "2  too late" not in invoke(*dlq, "--dry-run", "--limit", "1").stdout
    assert "clicks: 5 sent" in invoke(*dlq, "--yes").stdout
    web = invoke("replay", "web:clicks", "--log", "dir:log", "--set", "least=3")
    assert "5 records read" in web.stderr
    left = invoke("dlq", "list", "web:clicks", "--log", "dir:log", "--json").stdout.splitlines()
    assert len(left) == 5 + 2, "those two are dead again, as it said"


def test_generate_says_what_a_broker_would_delete():
    log = EmbeddedLog(Path("log"))
    log.create_topics([TopicSpec("ad-events", 4, {"retention.ms": "604800000"})])
    log.close()
    told = invoke("generate", "ads", "--events", "10", "--out", "dir:log").stderr
    assert told == (
        "note: `ad-events` keeps records for 7 days, and these are of 2024: the broker will delete them; set its retention.ms"
        " to -1\n"
    )
    assert not invoke("generate", "ads", "--events", "10", "--out", "dir:other").stderr


def test_generate_is_deterministic_and_writes_its_truth():
    first, again, other = (
        invoke(
            "generate",
            "ads",
            "--events",
            "3000",
            "--seed",
            seed,
            "--out",
            f"dir:{name}",
            "--rate",
            "10",
            "--share-bad",
            "0.1",
        )
        for seed, name in (("5", "a"), ("5", "b"), ("6", "c"))
    )
    assert first.exit_code == 0, first.output
    truths = [json.loads(Path(name, "truth.json").read_text()) for name in "abc"]
    assert truths[0] == truths[1] != truths[2]
    assert truths[0]["sha256"] in first.stdout
    counts = truths[0]["counts"]
    assert counts["read"] == 3000
    assert 200 < counts["dead"] < 400
    assert counts["read"] == sum(counts[end] for end in ("dead", "repeated", "filtered", "counted", "late"))
    assert {row["final"] for row in truths[0]["rows"]} == {True, False}
    assert truths[0]["traffic"]["share_bad"] == 0.1
    assert again.stdout.splitlines()[1] == first.stdout.splitlines()[1] != other.stdout.splitlines()[1]
    assert "has records already" in invoke("generate", "ads", "--events", "1", "--out", "dir:a").stderr


def test_files_hold_what_their_truth_says():
    made = invoke(
        "generate", "ads", "--events", "3000", "--out", "jsonl:in", "--share-bad", "0.05", "--partitions", "2"
    )
    assert made.exit_code == 0, made.output
    lines = [(p, Path(f"in/ad-events-00{p}.jsonl").read_bytes().splitlines()) for p in range(2)]
    records = [(p, i, None, line, 0) for p, values in lines for i, line in enumerate(values)]
    found, told = compute(records, 2), json.loads(Path("in/truth.json").read_text())
    assert told["counts"] == vars(found.total)
    assert told["counts"]["read"] == len(records) < 3000  # an empty record is no line
    assert [(x["partition"], x["nth"]) for x in told["dead"]] == [(x.partition, x.offset) for x in found.dead]
    assert len(told["rows"]) == len(found.table)


# --- Help ---------------------------------------------------------------------------------------------------


def rows(database: str) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("select count(*) from orders").fetchone()[0]


def write(directory: str, topic: str, values: list[bytes]) -> None:
    log = EmbeddedLog(directory)
    batch = RawBatch([(i, 1_000 + i, None, value, []) for i, value in enumerate(values)])
    log.writer("test").commit([(topic, 0, batch)], {}, "test", None)
    log.close()


LOOKING = [
    ("dlq", "list", "shop:orders"),
    ("dlq", "replay", "shop:orders", "--yes"),
    ("topics", "check", "shop:orders"),
    ("upgrade", "check", "shop:orders"),
    ("doctor", "shop:orders"),
    ("pause", "shop:orders"),
    ("reset", "shop:orders", "--to-earliest", "--dry-run"),
]


@pytest.mark.parametrize("command", [*LOOKING, ("topics", "create", "shop:orders")])
def test_who_does_not_say_which_log_is_asked(command: tuple[str, ...]) -> None:
    result = invoke(*command)
    assert result.exit_code == 2
    assert "--log: which log?" in result.stderr


@pytest.mark.parametrize("command", LOOKING)
def test_looking_at_a_log_that_is_not_there_makes_none(command: tuple[str, ...], tmp_path: Path) -> None:
    result = invoke(*command, "--log", "dir:typo")
    assert result.exit_code == 2
    assert "--log: there is no log in `typo`" in result.stderr
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("command", ["list", "replay"])
def test_where_a_job_has_never_run_there_are_not_no_dead_letters(command: str, tmp_path: Path) -> None:
    with closing(EmbeddedLog(tmp_path / "log")) as log:
        log.create_topics([TopicSpec("orders", 1)])
    result = invoke("dlq", command, "shop:orders", "--log", "dir:log")
    assert result.exit_code == 2
    assert "there is no topic `orders-dlq`: `shop-orders` has never run here" in result.stderr
    with closing(EmbeddedLog(tmp_path / "log")) as log:
        log.create_topics([TopicSpec("orders-dlq", 1)])
    result = invoke("dlq", command, "shop:orders", "--log", "dir:log")
    if command == "list":  # they may be another application's
        assert (result.exit_code, result.stdout) == (0, "orders: no dead letters\n")
        return
    # Under a wrong name all that was replayed under the right one would be replayed again.
    assert result.exit_code == 2
    assert "there is no topic `shop-orders-topology`: `shop-orders` has never run here" in result.stderr
    with closing(EmbeddedLog(tmp_path / "log")) as log:
        log.create_topics([TopicSpec("shop-orders-topology", 1)])
    result = invoke("dlq", command, "shop:orders", "--log", "dir:log")
    assert (result.exit_code, result.stdout) == (0, "orders: nothing to replay\n")


@pytest.mark.parametrize(
    "command", [("run", "--stop-at-end", "--sql", "sqlite:///o.db"), ("doctor",)], ids=lambda c: c[0]
)
@pytest.mark.parametrize("option", ["--log", "ADSTREAM_LOG", "`data` in adstream.toml"])
def test_a_missing_topic_is_told_with_the_option_that_named_the_log(
    command: tuple[str, ...], option: str, monkeypatch: pytest.MonkeyPatch
):
    Path("log").mkdir()
    how: tuple[str, ...] = ()
    if option == "--log":
        how = ("--log", "dir:log")
    elif option == "ADSTREAM_LOG":
        monkeypatch.setenv(option, "dir:log")
    else:
        Path("adstream.toml").write_text('data = "log"\n')
        how = ("--config", "adstream.toml")
    result = invoke(command[0], "shop:orders", *command[1:], *how)
    assert result.exit_code != 0
    text = result.output + result.stderr
    assert option in text, text
    assert not [other for other in ("--bootstrap", "--log", "ADSTREAM_LOG") if other in text and other != option], text


def test_a_missing_topic_beside_files_is_told_with_their_option():
    result = invoke("run", "shop:orders", "--input", "others=orders.jsonl", "--stop-at-end", "--sql", "sqlite:///o.db")
    assert (result.exit_code, "which log it is (--input)" in result.stderr) == (2, True), result.stderr
