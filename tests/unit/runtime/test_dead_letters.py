"""Dead letters: listed with their reasons, replayed once."""

import hashlib
from typing import TYPE_CHECKING

import pytest

from adstream._core import RawBatch
from adstream.errors import ConfigError
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime.dead_letters import Replayed, fitting, list_dead, replay

if TYPE_CHECKING:
    from adstream._core import Record


def letter(n: int, origin: int | None = 0, app: bytes | None = None) -> "Record":
    headers: list[tuple[str, bytes | None]] = [
        ("own", b"1"),
        ("adstream.reason", b"bad_price"),
        ("adstream.operator", b"x"),
    ]
    if origin is not None:
        headers += [("adstream.topic", b"in"), ("adstream.partition", b"%d" % origin), ("adstream.offset", b"7")]
    if app is not None:
        headers.append(("adstream.application", app))
    return (n, 1_000 + n, b"k", b"v%d" % n, headers)


@pytest.fixture
def log() -> EmbeddedLog:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("in", 2), TopicSpec("in-dlq", 1)])
    add(log, *(letter(n, n % 2) for n in range(5)), letter(5, None))
    return log


def add(log: EmbeddedLog, *records: "Record") -> None:
    outputs = [("in-dlq", 0, RawBatch(list(records)))]
    assert log.writer("w").commit(outputs, {}, "g", None) is Outcome.COMMITTED


def ends(log: EmbeddedLog) -> list[int]:
    return list(log.end_offsets([("in", 0), ("in", 1)], committed=True).values())


def test_the_newest_are_listed(log: EmbeddedLog) -> None:
    letters = list_dead(log, "in", 3)
    assert [x.value for x in letters] == [b"v3", b"v4", b"v5"]
    assert letters[0].reason == "bad_price"
    assert letters[0].origin == ("in", 1)
    assert letters[0].headers == (("own", b"1"),)
    assert letters[2].origin is None


def test_each_is_replayed_once_to_where_it_came_from(log: EmbeddedLog) -> None:
    assert replay(log, "in", app="a") == Replayed(sent=5, kept=1)
    assert ends(log) == [3, 2]
    reader = log.reader()
    reader.add("in", 1, 0)
    read = reader.read("in", 1, 10)
    assert read is not None
    assert read.records()[0] == (0, 1_001, b"k", b"v1", [("own", b"1")])
    assert replay(log, "in", app="a") == Replayed(sent=0, kept=0)
    add(log, letter(6))
    assert replay(log, "in", app="a") == Replayed(sent=1, kept=0)
    assert ends(log) == [4, 2]


def test_a_limit_leaves_the_rest_for_later(log: EmbeddedLog) -> None:
    assert replay(log, "in", app="a", limit=2) == Replayed(sent=2, kept=0)
    assert ends(log) == [1, 1]
    assert replay(log, "in", app="a", limit=10) == Replayed(sent=3, kept=1)


def test_letters_of_others_hide_none(log: EmbeddedLog) -> None:
    add(log, letter(6, app=b"a"), *(letter(n, app=b"b") for n in range(7, 30)))
    assert [x.value for x in list_dead(log, "in", 2, app="a")] == [b"v5", b"v6"]
    assert [x.value for x in list_dead(log, "in", 2)] == [b"v28", b"v29"]


def test_each_application_replays_its_own(log: EmbeddedLog) -> None:
    add(log, letter(6, app=b"a"), letter(7, app=b"b"), letter(8, app=b"b"))
    assert replay(log, "in", app="a") == Replayed(sent=6, kept=1)
    assert replay(log, "in", app="a") == Replayed(sent=0, kept=0)
    add(log, letter(9, app=b"b"), letter(10, app=b"a"))
    assert replay(log, "in", app="a", limit=1) == Replayed(sent=1, kept=0)
    assert replay(log, "in", app="b") == Replayed(sent=8, kept=1), "its own, and those of nobody"


def test_no_such_topic() -> None:
    with pytest.raises(ConfigError, match="no dead-letter topic `x-dlq`"):
        list_dead(EmbeddedLog(), "x")


def big(size: int, headers: int = 0, offset: int = 0) -> "Record":
    own: list[tuple[str, bytes | None]] = [("own", b"x" * headers)] if headers else []
    *_, about = letter(0)
    return (offset, 1_000, b"k", b"v" * size, [*own, *about])


def test_a_letter_that_is_too_large_keeps_its_coordinates_and_a_hash() -> None:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("in", 1), TopicSpec("in-dlq", 1)])
    [(_, _, batch)] = fitting(
        [("in-dlq", 0, RawBatch([big(10), big(5_000, offset=1), big(20, 5_000, offset=2)]))], {"in-dlq": 2_000}
    )
    add(log, *batch.records())
    small, large, wordy = list_dead(log, "in")
    assert (small.value, small.cut, small.origin) == (b"v" * 10, False, ("in", 0))
    assert (large.value, large.cut, large.origin, large.headers) == (None, True, None, (("own", b"1"),))
    assert large.envelope["offset"] == "7"
    assert large.envelope["value_size"] == "5000"
    assert large.envelope["sha256"] == hashlib.sha256(b"v" * 5_000).hexdigest()
    assert (wordy.value, wordy.headers, wordy.reason) == (None, (), "bad_price")
    assert replay(log, "in", app="a") == Replayed(sent=1, kept=2)


def test_other_outputs_are_left_as_they_are() -> None:
    outputs = [("out", 0, RawBatch([big(5_000)]))]
    assert fitting(outputs, {"in-dlq": 2_000}) == outputs
