"""The command as a process: exit codes, signals, and what it costs to start."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from adstream._core import RawBatch
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from tests.servers.server import free_port
from tests.unit.cli.support import call, clean, project, start


def eventually(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def stored(database: Path) -> int:
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        try:
            return connection.execute("select count(*) from orders").fetchone()[0]
        except sqlite3.OperationalError:
            return 0


RUN = ("run", "shop:orders", "--input", "orders=orders.jsonl", "--sql", "sqlite:///o.db")


def test_version(tmp_path: Path):
    code, out, err = call("version", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["adstream", "core", "librdkafka", "python"]
    assert all(line.split()[1][0].isdigit() for line in out.splitlines())


def test_version_loads_next_to_nothing():
    code = "import sys; sys.argv = ['adstream', 'version']; import adstream.cli as c; c.main(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "adstream._core" in loaded
    assert not {"typer", "rich", "adstream.dsl", "confluent_kafka", "importlib.metadata", "pathlib"}.intersection(
        loaded
    )


def test_who_is_stopped_before_it_has_begun_is_no_defect():
    """As by Ctrl-C while modules are loaded, which takes a second on a busy machine."""
    code = """
import signal, sys

class Stopped:
    def find_spec(self, name, path=None, target=None):
        if name == "adstream.cli.commands":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Stopped())
sys.argv = ["adstream", "run", "ads.performance"]
import adstream.cli
adstream.cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_who_has_read_enough_is_no_defect(tmp_path: Path):
    with start("describe", "ads.performance", "--json", cwd=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "")


def test_describe_loads_no_drivers(tmp_path: Path):
    code = (
        "import sys; sys.argv = ['adstream', 'describe', 'ads.performance']; import adstream.cli as c\n"
        "try: c.main()\nexcept SystemExit as e: print(e.code, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stderr.split()
    assert done[0] == "0"
    heavy = {
        "typer",
        "pydantic",
        "rich",
        "sqlalchemy",
        "redis",
        "confluent_kafka",
        "pyarrow",
        "prometheus_client",
        "adstream.runtime.worker",
    }
    assert not heavy.intersection(done)


def deleted(folder: Path, before: int) -> None:
    """Fifty orders in an embedded log, the first of them deleted, as retention does."""
    rows = [(i, 1, b"o%d" % i, b'{"order_id":"o%d","amount":%d}' % (i, i), []) for i in range(50)]
    log = EmbeddedLog(folder / "log")
    log.create_topics([TopicSpec("orders", 1)])
    for row in rows:
        assert log.writer("w").commit([("orders", 0, RawBatch([(0, *row[1:])]))], {}, "g", None) is Outcome.COMMITTED
    log.delete_records({("orders", 0): before})
    log.close()


def test_a_run_to_the_end_says_what_was_deleted_before_it_came(tmp_path: Path):
    project(tmp_path)
    deleted(tmp_path, 30)
    run = ("run", "shop:orders", "--log", "dir:log", "--sql", "sqlite:///o.db", "--stop-at-end")
    code, _, err = call(*run, cwd=tmp_path)
    assert code == 0, err
    assert stored(tmp_path / "o.db") == 20
    assert "\n20 records read in " in f"\n{err}"
    assert "30 offsets of `orders` were deleted before this job first read them" in err
    code, _, err = call(*run, cwd=tmp_path)
    assert (code, "were deleted" in err) == (0, False), "told once"
    assert "\n0 records read in " in f"\n{err}"


def test_a_run_to_the_end_says_how_many_are_dead(tmp_path: Path):
    """Of files that are something else all became dead letters, which were in memory: exit code 0, and not a word."""
    project(tmp_path)
    (tmp_path / "orders.jsonl").write_text("no json\n{}\n")
    code, _, err = call(*RUN, "--stop-at-end", cwd=tmp_path)
    assert code == 0, err
    assert "2 dead letters: they were in memory, and are gone: `--log dir:PATH` keeps them" in err
    code, _, err = call(*RUN, "--stop-at-end", "--log", "dir:log", "--app", "other", cwd=tmp_path)
    assert code == 0, err
    assert "2 dead letters: `adstream dlq list` shows them" in err
    code, _, err = call(*RUN, "--stop-at-end", "--log", "dir:log", "--app", "other", cwd=tmp_path)
    assert (code, "dead letter" in err) == (0, False), "those of this run"


def test_a_run_to_the_end_fails_where_unread_input_was_deleted(tmp_path: Path):
    project(tmp_path)
    deleted(tmp_path, 30)
    log = EmbeddedLog(tmp_path / "log")
    assert log.writer("w").commit([], {("orders", 0): 10}, "shop-orders", None) is Outcome.COMMITTED
    log.close()
    run = ("run", "shop:orders", "--log", "dir:log", "--sql", "sqlite:///o.db", "--stop-at-end")
    code, _, err = call(*run, cwd=tmp_path)
    assert code == 1, err
    assert "records 10 to 29 of `orders` [0] were deleted before they were read" in err
    assert "hint: " in err
    assert stored(tmp_path / "o.db") == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(tmp_path: Path, number: signal.Signals):
    project(tmp_path)
    with start(*RUN, cwd=tmp_path) as process:
        eventually(lambda: stored(tmp_path / "o.db") == 50)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Traceback" not in err


def test_where_it_stands_is_said_on_request(tmp_path: Path):
    """SIGUSR1 ended it, as it does by itself."""
    project(tmp_path)
    with start(*RUN, cwd=tmp_path) as process:
        eventually(lambda: stored(tmp_path / "o.db") == 50)
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "(most recent call first)" in err


def test_a_second_interrupt_ends_at_once_but_a_supervisors_sigterm_does_not():
    code = (
        "import time; from adstream.cli.running import stop_on_signals\n"
        "stop_on_signals(lambda: print('stopping', flush=True)); print('ready', flush=True)\n"
        "for _ in range(600): time.sleep(0.1)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            process.send_signal(number)
            assert process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_what_is_wrong(tmp_path: Path):
    project(tmp_path)
    code, out, err = call(*RUN, "--sql", "mysql://x", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("error: --sql")
    assert "Traceback" not in err
    (tmp_path / "a.toml").write_text("comit_interval = '1s'")
    code, _, err = call(*RUN, "--config", "a.toml", cwd=tmp_path)
    assert (code, err) == (
        2,
        "error: `comit_interval` in a.toml: there is no such setting\nhint: did you mean `commit_interval`?\n",
    )
    code, _, err = call(*RUN, cwd=tmp_path, ADSTREAM_GUARANTEE="maybe")
    assert code == 2
    assert "maybe" in err


def test_a_port_that_somebody_has(tmp_path: Path):
    """It was a traceback, and exit code 1: several workers were started again and again."""
    project(tmp_path)
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        code, _, err = call(*RUN, "--metrics-port", str(port), cwd=tmp_path)
    assert code == 2
    assert f"error: --metrics-port: port {port} cannot be had: " in err
    assert "hint: " in err


def test_a_broker_that_is_not_there(tmp_path: Path):
    code, _, err = call("run", "ads.performance", "--bootstrap", "127.0.0.1:1", cwd=tmp_path)
    assert code == 2
    assert err.startswith("error: --bootstrap: no Kafka broker answered at 127.0.0.1:1")


def test_a_topology_that_cannot_be_built(tmp_path: Path):
    (tmp_path / "bad.py").write_text(
        "import adstream as ads\n"
        "class R(ads.Record):\n    a: int\n"
        "@ads.topology\n"
        "def job(app: ads.App) -> None:\n"
        "    app.stream('t', R).filter(ads.col('b') > 1)\n"
    )
    code, _, err = call("describe", "bad:job", cwd=tmp_path)
    assert code == 2
    assert err.startswith("error: filter at bad.py:6: ")
    assert "Traceback" not in err


def test_everything_by_environment_and_json_lines(tmp_path: Path):
    project(tmp_path)
    environ = {
        "ADSTREAM_INPUT": "orders=orders.jsonl",
        "ADSTREAM_SQL": "sqlite:///o.db",
        "ADSTREAM_SET_LEAST": "45",
        "ADSTREAM_STOP_AT_END": "true",
        "ADSTREAM_LOG_FORMAT": "json",
    }
    code, _, err = call("run", "shop:orders", cwd=tmp_path, **environ)
    assert code == 0, err
    assert stored(tmp_path / "o.db") == 5
    *lines, last = err.splitlines()
    assert last.startswith("50 records read")
    assert {json.loads(line)["level"] for line in lines} == {"info"}


def test_our_environment_is_clean():
    assert not any(name.startswith("ADSTREAM_") for name in clean())


def test_a_drain_that_timed_out_is_no_success(tmp_path: Path):
    """Somebody holds the table: what the sink has waits for longer than the drain may take."""
    project(tmp_path)
    port = free_port()
    settings = {"ADSTREAM_DRAIN_TIMEOUT": "500ms", "ADSTREAM_COMMIT_INTERVAL": "60s"}
    process = start(*RUN, "--metrics-port", str(port), cwd=tmp_path, **settings)
    with process:
        eventually(lambda: ready(port))
        with closing(sqlite3.connect(tmp_path / "o.db", timeout=30, isolation_level=None)) as other:
            other.execute("begin exclusive")
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
    assert process.returncode == 5, err
    assert "drain timed out" in err


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/readyz", timeout=5):
            return True
    except OSError:
        return False
