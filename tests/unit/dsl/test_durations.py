import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

import adstream as ads
from adstream.dsl.durations import duration_ms, format_ms, timestamp_ms
from tests.unit.dsl.support import refused

DIRECT = True  # whoever calls these says in which operation


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("250ms", 250),
        ("1m250ms", 60_250),
        ("1d", 86_400_000),
        ("1d2h3m4s5ms", 93_784_005),
        ("0s", 0),
        (timedelta(minutes=5), 300_000),
        (timedelta(milliseconds=1), 1),
    ],
)
def test_durations_are_milliseconds(value, ms):
    assert duration_ms(value, "size") == ms


def test_negative_durations_only_where_they_make_sense():
    assert duration_ms("-24h", "lo", negative=True) == -86_400_000
    with refused("bad_duration", "`size` is negative"):
        duration_ms("-24h", "size")


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        (5, "`size` must be a duration: 5 has no unit", 'write "5s" or "5ms"'),
        (1.5, "has no unit", 'write "1s500ms"'),
        ("5", "`size` is not a duration: '5'", 'write "5s" or "5ms"'),
        ("1mo", "not a duration", "months and years differ in length"),
        ("2 years", "not a duration", "write days"),
        ("m", "not a duration", "largest first"),
        ("", "not a duration", "largest first"),
        ("30m1h", "not a duration", "largest first"),
        ("1 h", "not a duration", "largest first"),
        ("5m ", "not a duration", "largest first"),
        (None, "must be a duration: None", "timedelta"),
        (True, "must be a duration: True", "timedelta"),
        (timedelta(microseconds=1), "finer than a millisecond", "whole milliseconds"),
        ("99999999999999999999d", "too long", "shorter"),
    ],
)
def test_what_is_no_duration_says_why(value, message, hint):
    with refused("bad_duration", message, hint):
        duration_ms(value, "size")


@pytest.mark.parametrize(
    "value", [5, -3, 0, 0.5, 90.25, -0.0004, 1e300, float("nan"), float("inf"), "7", "0.5", "-2", ".", "1.2.3", "-"]
)
@pytest.mark.parametrize("negative", [False, True])
def test_what_a_hint_says_is_taken(value, negative):
    """It said `"0.5s"`, `"-3s"` or `"nans"`, which were refused with other words."""
    with pytest.raises(ads.TopologyError) as error:
        duration_ms(value, "size", negative=negative)
    said = re.findall(r'"([^"]+)"', error.value.hint or "")
    assert said
    for text in said:
        duration_ms(text, "size", negative=negative)


def test_zero_where_nothing_would_fit_in():
    with refused("bad_duration", "`size` is zero"):
        duration_ms("0s", "size", zero=False)


@pytest.mark.parametrize("text", ["5m", "1h30m", "250ms", "0s", "-24h", "25h", "1d", "1m1ms"])
def test_format_is_the_inverse(text):
    assert duration_ms(format_ms(duration_ms(text, "x", negative=True)), "x", negative=True) == duration_ms(
        text, "x", negative=True
    )


def test_format_is_short():
    assert [format_ms(ms) for ms in (0, 300_000, 90_000_000, 86_400_000, -1)] == ["0s", "5m", "25h", "1d", "-1ms"]


def test_timestamps_are_utc_milliseconds():
    assert timestamp_ms(datetime(2024, 1, 15, 10, tzinfo=UTC)) == 1_705_312_800_000
    assert timestamp_ms(datetime(2024, 1, 15, 19, tzinfo=timezone(timedelta(hours=9)))) == 1_705_312_800_000
    assert timestamp_ms(datetime(1969, 12, 31, 23, 59, 59, 999_500, tzinfo=UTC)) == -1


def test_a_naive_datetime_is_no_instant():
    with refused("naive_datetime", "`from` has no time zone", "tzinfo=UTC"):
        timestamp_ms(datetime(2024, 1, 15), "from")
