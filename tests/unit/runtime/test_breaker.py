"""Too many dead letters stop the job: the real worker on the embedded log."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import pytest

import adstream as ads
from adstream._core import Plan, RawBatch
from adstream.errors import ConfigError, TooManyDeadLettersError
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import launch
from adstream.runtime.breaker import Breaker, limit_of
from adstream.runtime.dead_letters import list_dead
from adstream.runtime.settings import Settings

BEGAN_MS = 1_760_000_000_000
MINUTE_MS = 60_000


class Order(ads.Record):
    id: int
    price: int
    at: Annotated[datetime, ads.epoch("ms")]


@ads.topology(name="prices")
def prices(app: ads.App) -> None:
    stream = app.stream("orders", Order, timestamp="at")
    stream.require(bad_price=ads.col("price") >= 0).to("good")


@pytest.fixture
def log() -> EmbeddedLog:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("orders", 2)])
    return log


def send(log: EmbeddedLog, orders: Iterable[tuple[int, object]], partition: int = 0) -> None:
    """(Minutes since the beginning, price) each."""
    rows = [
        (i, 1, None, json.dumps({"id": i, "price": price, "at": BEGAN_MS + minute * MINUTE_MS}).encode(), [])
        for i, (minute, price) in enumerate(orders)
    ]
    assert log.writer("test").commit([("orders", partition, RawBatch(rows))], {}, "g", None) is Outcome.COMMITTED  # type: ignore[arg-type]


def run(log: EmbeddedLog, dead_letters_max: str = "1% in 5m", **settings: int) -> None:
    built = prices.build()
    chosen = Settings(dead_letters_max=dead_letters_max, create_topics=True, **settings)  # type: ignore[arg-type]
    launch.run(Plan(built.json, built.callables), chosen, log, stop_at_end=True)


def good(log: EmbeddedLog) -> int:
    return sum(log.end_offsets([("good", p) for p in range(2)], committed=True).values())


def test_a_changed_schema_stops_the_job_and_nothing_of_it_is_committed(log: EmbeddedLog) -> None:
    send(log, ((0, 1) for _ in range(3_000)))
    run(log)
    assert good(log) == 3_000
    send(log, [*((1, "1.00") for _ in range(500)), *((1, -1) for _ in range(20))])
    for _ in range(2):  # again and again, until somebody does something
        with pytest.raises(TooManyDeadLettersError) as stopped:
            run(log)
        text = str(stopped.value)
        assert "task 0_0: of the last 520 records 520 became dead letters, more than 1% in 5m" in text
        assert "bad_field:price (orders) 500, bad_price (require-1) 20" in text
        assert "hint: " in text
        assert list_dead(log, "orders") == []
        assert log.committed("prices", [("orders", 0)]) == {("orders", 0): 3_000}
    run(log, "")
    assert Counter(x.reason for x in list_dead(log, "orders", 1_000)) == {"bad_field:price": 500, "bad_price": 20}


def test_few_are_let_through(log: EmbeddedLog) -> None:
    send(log, [(0, "x"), *((0, 1) for _ in range(5)), *((0, -1) for _ in range(9))])
    run(log)
    assert len(list_dead(log, "orders")) == 10, "ten of a thousand, were there a thousand"
    send(log, [(n // 100, "x" if n % 100 == 0 else 1) for n in range(5_000)], 1)
    run(log, batch_rows_max=100)
    assert good(log) == 5 + 4_950


def test_the_time_is_event_time(log: EmbeddedLog) -> None:
    """Twenty in half an hour are few, in half a minute many, however fast they are read."""
    spread = [(n // 500, "x" if n % 500 == 0 else 1) for n in range(1_000, 11_000)]
    send(log, spread)
    run(log, generation_rows_max=100, batch_rows_max=100)
    assert len(list_dead(log, "orders")) == 20
    send(log, [(30, "x") for _ in range(20)], 1)
    with pytest.raises(TooManyDeadLettersError, match="task 0_1"):
        run(log)


def look(minute: int, read: int, dead: int) -> dict[str, object]:
    return {"counters": {"in": {"read": read, "dead:x": dead}}, "clocks": {"in": minute * MINUTE_MS}}


def test_what_is_older_than_the_time_does_not_count() -> None:
    limit = limit_of("1% in 5m", "--x")
    assert limit is not None
    breaker = Breaker(limit)
    breaker.begin(look(0, 100_000, 90_000))
    breaker.check("t", look(1, 101_000, 90_009))
    breaker.check("t", look(2, 101_500, 90_010))
    breaker.check("t", look(6, 102_000, 90_018))
    with pytest.raises(TooManyDeadLettersError, match="of the last 550 records 12 "):
        breaker.check("t", look(7, 102_050, 90_022))


@pytest.mark.parametrize("text", ["1%", "1% in 5", "1 in 5m", "0% in 5m", "100% in 5m", "x% in 5m", "1% 5m"])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(ConfigError, match="--dead-letters-max"):
        Settings(dead_letters_max=text)
