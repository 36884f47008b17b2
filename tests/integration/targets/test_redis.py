"""`RedisHashTarget` against a real Redis."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adstream.errors import AdstreamError, ConfigError
from adstream.targets.delivery import TransientError, Verdict, classify
from adstream.targets.redis import RedisHashTarget
from tests.servers import Redis

pytestmark = pytest.mark.servers

NAMES = itertools.count()
SCHEMA = {
    "product_id": "str", "impressions": "int", "ctr": "float", "spend": "decimal(38,2)", "ok": "bool",
    "seen": "timestamp", "took": "duration",
}  # fmt: skip
NOON = datetime(2024, 1, 15, 12, 0, 0, 123_000, tzinfo=UTC)

Opened = Callable[..., RedisHashTarget]


@pytest.fixture
def client(redis_server: Redis) -> Iterator[Any]:
    with redis.Redis.from_url(redis_server.url(3), decode_responses=True) as client:
        client.flushdb()
        yield client


@pytest.fixture
def opened(redis_server: Redis, client: Any) -> Iterator[Opened]:
    targets: list[RedisHashTarget] = []

    def make(
        template: str = "m:{product_id}", schema: Mapping[str, str] = SCHEMA, key: tuple[str, ...] = ("product_id",),
        app: str = "app", **options: int,
    ) -> RedisHashTarget:  # fmt: skip
        target = RedisHashTarget(redis_server.url(3), template, **options)
        targets.append(target)
        target.open(app, "sink", schema, key)
        return target

    yield make
    for target in targets:
        target.close()


def row(product_id: str | None = "p", impressions: int | None = 1, **other: Any) -> dict[str, Any]:
    return {
        "product_id": product_id, "impressions": impressions, "ctr": 0.1, "spend": Decimal("-0.50"), "ok": True,
        "seen": NOON, "took": timedelta(seconds=1),
    } | other  # fmt: skip


def columns(*rows: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: [each[name] for each in rows] for name in rows[0]} if rows else {}


def test_a_row_is_a_hash_of_exact_texts(client: Any, opened: Opened) -> None:
    target = opened()
    assert target.write(0, 0, 1, columns(row("상품", spend=Decimal("-" + "9" * 36 + ".99"), ok=False)))
    assert client.hgetall("m:상품") == {
        "product_id": "상품", "impressions": "1", "ctr": "0.1", "spend": "-" + "9" * 36 + ".99", "ok": "0",
        "seen": "2024-01-15T12:00:00.123Z", "took": "1000",
    }  # fmt: skip
    assert client.hgetall("_adstream:positions:app:sink") == {"0": "1"}


def test_null_removes_the_field(client: Any, opened: Opened) -> None:
    target = opened()
    assert target.write(0, 0, 1, columns(row(), row("q")))
    assert target.write(0, 1, 2, columns(row(impressions=None, spend=None)))
    assert "impressions" not in client.hgetall("m:p")
    assert client.hget("m:p", "ctr") == "0.1"
    assert client.hget("m:q", "impressions") == "1"


@pytest.mark.parametrize("values", [7, 10_000])
def test_replays_and_zombies_change_nothing(client: Any, opened: Opened, values: int) -> None:
    owner, zombie = opened(values_per_script=values), opened(values_per_script=values)
    assert owner.write(0, 0, 5, columns(row("a", 1), row("b", 1)))
    assert not owner.write(0, 0, 5, columns(row("a", 2), row("b", 2)))
    assert not zombie.write(0, 3, 9, columns(row("a", 3), row("c", 3)))
    assert (client.hget("m:a", "impressions"), client.hget("m:b", "impressions")) == ("1", "1")
    assert not client.exists("m:c")
    assert owner.positions([0, 1]) == {0: 5}


def test_it_notes_which_topic_its_positions_are_of(client: Any, opened: Opened) -> None:
    target = opened()
    assert target.write(0, 0, 5, columns(row("a", 1)))
    assert [target.of_topic(topic) for topic in ("one", "another", "one")] == ["one", "one", "one"]
    assert target.positions([0, 1]) == {0: 5}
    target.forget("other", "sink")
    assert target.of_topic("another") == "one"
    target.forget("app", "sink")
    assert (target.positions([0]), target.of_topic("another")) == ({}, "another")


def during(target: RedisHashTarget, chunk: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Has `act` done before the target sends its chunk of this number."""
    script, sent = target._script, itertools.count()

    def send(**arguments: Any) -> Any:
        if next(sent) == chunk:
            act()
        return script(**arguments)

    monkeypatch.setattr(target, "_script", send)


def test_a_zombie_between_two_chunks_cannot_leave_older_rows(
    client: Any, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The zombie knows rows 0 and 1, the owner also the newer 2 and 3; both expect position 0."""
    owner, zombie = opened(values_per_script=7), opened(values_per_script=7)
    newer, older = columns(row("a", 20), row("b", 30)), columns(row("a", 0), row("b", 1))
    outcome = []
    during(zombie, 1, lambda: None, monkeypatch)
    during(owner, 1, lambda: outcome.append(zombie.write(0, 0, 2, older)), monkeypatch)
    outcome.append(owner.write(0, 0, 4, newer))
    assert outcome == [True, False]  # the zombie came through whole, and the owner's flush is refused whole
    assert (client.hget("m:a", "impressions"), client.hget("m:b", "impressions")) == ("0", "1")
    assert owner.positions([0]) == {0: 2}


def test_a_zombie_that_only_began_makes_the_owner_start_over(
    client: Any, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, zombie = opened(values_per_script=7), opened(values_per_script=7)

    class Died(Exception):
        pass

    def die() -> None:
        raise Died

    def begin() -> None:
        with pytest.raises(Died):
            zombie.write(0, 0, 2, columns(row("a", 0), row("b", 1)))

    during(zombie, 1, die, monkeypatch)
    with monkeypatch.context() as patch:
        during(owner, 1, begin, patch)
        assert not owner.write(0, 0, 4, columns(row("a", 20), row("b", 30)))
    assert owner.positions([0]) == {}
    assert owner.write(0, 0, 4, columns(row("a", 20), row("b", 30)))
    assert (client.hget("m:a", "impressions"), client.hget("m:b", "impressions")) == ("20", "30")
    assert client.hgetall("_adstream:positions:app:sink") == {"0": "4"}


def test_a_lost_answer_counts_as_written(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    target = opened()
    script = target._script

    def lose(**arguments: Any) -> Any:
        script(**arguments)
        raise redis.ConnectionError("connection closed by server")

    monkeypatch.setattr(target, "_script", lose)
    assert target.write(0, 0, 1, columns(row()))


def test_different_keys_never_share_a_hash(client: Any, opened: Opened) -> None:
    schema = {"a": "str", "b": "str", "n": "int"}
    target = opened("m:{a}:{b}:end", schema, ("a", "b"))
    keys: list[tuple[str | None, str | None]] = [
        ("x:y", "z"), ("x", "y:z"), (None, "z"), ("null", "z"), ("%null", "z"), ("", "z"), ("x%3Ay", "z"), ("가", None),
    ]  # fmt: skip
    rows = columns(*({"a": a, "b": b, "n": n} for n, (a, b) in enumerate(keys)))
    assert target.write(0, 0, 1, rows)
    found = client.keys("m:*")
    assert len(found) == len(keys)
    assert "m:x%3Ay:z:end" in found
    assert "m:%null:z:end" in found


def test_a_time_in_a_key_stays_readable(client: Any, opened: Opened) -> None:
    target = opened("m:{c}:{at}", {"c": "int", "at": "timestamp"}, ("c", "at"))
    assert target.write(0, 0, 1, {"c": [-7], "at": [NOON]})
    assert client.exists("m:-7:2024-01-15T12:00:00.123Z")


def test_a_large_flush(client: Any, opened: Opened) -> None:
    target = opened()
    assert target.write(0, 0, 1, columns(*(row(f"k{i}", i) for i in range(5_000))))
    assert len(client.keys("m:*")) == 5_000
    assert client.hget("m:k4999", "impressions") == "4999"


@pytest.mark.parametrize("key", [("product_id", "impressions"), ("impressions",)])
def test_the_template_must_name_the_key(opened: Opened, key: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="must name the sink's key"):
        opened(key=key)


def test_a_key_of_another_type_is_named(client: Any, opened: Opened) -> None:
    client.set("m:p", "mine")
    target = opened()
    with pytest.raises(ConfigError, match="not a hash") as caught:
        target.write(0, 0, 1, columns(row()))
    assert classify(caught.value) is Verdict.CONFIG
    assert target.positions([0]) == {}


def test_addresses_that_lead_nowhere(redis_server: Redis) -> None:
    protected = redis.Redis.from_url(redis_server.url())
    protected.acl_setuser("sinktest", enabled=True, passwords=["+right"], categories=["+@all"], keys=["*"])
    at = f"127.0.0.1:{redis_server.port}"
    for url, message, verdict in [
        ("redis://:s3cret@127.0.0.1:1/0", "cannot reach redis://", Verdict.RETRY),
        (f"redis://sinktest:s3cret@{at}/0", "refuses", Verdict.CONFIG),
    ]:
        target = RedisHashTarget(url, "m:{product_id}")
        with pytest.raises(ConfigError, match=message) as caught:
            target.open("app", "sink", SCHEMA, ["product_id"])
        assert "s3cret" not in str(caught.value)
        assert caught.value.option == "--redis"
        assert classify(caught.value) is verdict
        target.close()
    protected.acl_deluser("sinktest")
    protected.close()


def test_a_server_that_is_full_or_a_replica_for_a_while_is_tried_again() -> None:
    """They were taken for wrong settings: a start during a failover ended with exit code 2, and stopped all workers."""
    states = {
        "full": ({"maxmemory": "1"}, {"maxmemory": "0"}),
        "a replica": ({"replicaof": "127.0.0.1 1"}, {"replicaof": "no one"}),
        "a replica without its master": (
            {"replica-serve-stale-data": "no", "replicaof": "127.0.0.1 1"},
            {"replicaof": "no one", "replica-serve-stale-data": "yes"},
        ),
    }

    def make(client: Any, state: Mapping[str, str]) -> None:
        for name, value in state.items():
            client.slaveof(*value.split()) if name == "replicaof" else client.config_set(name, value)

    with Redis() as server, redis.Redis.from_url(server.url()) as client:
        target = RedisHashTarget(server.url(), "m:{product_id}")
        target.open("app", "sink", SCHEMA, ("product_id",))
        for position, (name, (begin, end)) in enumerate(states.items()):
            make(client, begin)
            for call in (
                lambda at=position: target.write(0, at, at + 1, columns(row())),
                lambda: target.of_topic("x"),
            ):
                with pytest.raises(AdstreamError) as caught:
                    call()
                assert classify(caught.value) is Verdict.RETRY, f"{name}: {caught.value}"
            make(client, end)
            assert target.write(0, position, position + 1, columns(row())), name
        target.close()


@pytest.mark.slow
def test_a_server_killed_in_mid_flush_gets_every_row_once() -> None:
    with Redis() as server:
        with redis.Redis.from_url(server.url()) as setup:
            setup.config_set("appendfsync", "always")
        target = RedisHashTarget(server.url(), "m:{product_id}", values_per_script=700)
        target.open("app", "sink", SCHEMA, ["product_id"])
        failures = 0
        with ThreadPoolExecutor(1) as pool:
            for number in range(9):
                rows = columns(*(row(f"k{i}", number) for i in range(3_000)))
                done = pool.submit(target.write, 0, number, number + 1, rows)
                if number % 3 == 1:
                    time.sleep(0.01 * number)
                    server.kill()
                    server.restart()
                while True:
                    try:
                        done.result()
                        break
                    except (TransientError, ConfigError) as error:
                        if classify(error) is not Verdict.RETRY:
                            raise
                        failures += 1
                        time.sleep(0.05)
                        done = pool.submit(target.write, 0, number, number + 1, rows)
        with redis.Redis.from_url(server.url(), decode_responses=True) as check:
            assert {check.hget(f"m:k{i}", "impressions") for i in range(3_000)} == {"8"}
            assert check.hgetall("_adstream:positions:app:sink") == {"0": "9"}
        target.close()
        assert failures > 0


LOG = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(-5, 5)), min_size=1, max_size=30)
STEPS = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.integers(0, 8), st.sampled_from(["", "stale", "replay"]), st.integers(0, 9)),
    max_size=25,
)


class Cut(Exception):
    """The writer died before a chunk."""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=LOG, steps=STEPS, values=st.sampled_from([2, 4, 100]))
def test_a_whole_flush_leaves_the_last_row_per_key_of_its_prefix(
    client: Any, opened: Opened, log: list[tuple[str | None, int]], steps: Any, values: int
) -> None:
    """Two writers replay, overtake one another, and die between chunks. What a torn flush wrote is ahead of
    the position; once the log has been read to its end, nothing of that is left to see."""
    app = f"app{next(NAMES)}"
    schema, key = {"product_id": "str", "impressions": "int"}, ("product_id",)
    writers = [opened(app + ":{product_id}", schema, key, app, values_per_script=values) for _ in range(2)]
    scripts = [writer._script for writer in writers]
    believed, applied, torn = [0, 0], 0, False

    def send(number: int, start: int, stop: int) -> bool:
        newest = dict(log[start:stop])
        rows = columns(*({"product_id": k, "impressions": n} for k, n in newest.items()))
        return writers[number].write(0, start, stop, rows)

    def check() -> None:
        expected = {f"{app}:{'%null' if k is None else k}": str(n) for k, n in dict(log[:applied]).items()}
        assert {name: client.hget(name, "impressions") for name in client.keys(f"{app}:*")} == expected

    for number, length, kind, cut in steps:
        if kind == "":
            believed[number] = writers[number].positions([0]).get(0, 0)
        start = max(0, believed[number] - (length if kind == "replay" else 0))
        stop = min(start + length, len(log))
        sent = itertools.count()

        def script(number: int = number, cut: int = cut, sent: Any = sent, **arguments: Any) -> Any:
            if next(sent) == cut:
                raise Cut
            return scripts[number](**arguments)

        writers[number]._script = script  # type: ignore[assignment]
        try:
            accepted = send(number, start, stop)
        except Cut:
            torn = torn or cut > 0
            continue
        assert accepted == (start == applied)
        if accepted:
            applied = believed[number] = stop
        if not torn:
            check()
    writers[0]._script = scripts[0]
    assert send(0, applied, len(log))
    applied = len(log)
    check()


def test_lists_are_json(client: Any, opened: Opened) -> None:
    target = opened("l:{key}", {"key": "str", "names": "json"}, ("key",))
    assert target.write(0, 0, 1, {"key": ["a"], "names": [["전", "12.50", 3, None]]})
    assert client.hget("l:a", "names") == '["전","12.50",3,null]'
