"""Windows of rows: what is refused, and how they are spelled."""

from __future__ import annotations

from typing import Any

import pytest

import adstream as ads
from adstream.dsl.windows import Hopping, Tumbling


class Row(ads.Record):
    key: str


def built(window: Any) -> ads.Built:
    def build(app: ads.App) -> None:
        app.stream("in", Row, key="key").group_by("key").windowed_by(window).count().named("counts").to("out")

    return ads.topology(name="app")(build).build()


@pytest.mark.parametrize(
    ("code", "said", "make"),
    [
        ("bad_window", "are days or weeks, not 12h", lambda: ads.tumbling("12h", tz="Asia/Seoul", grace="0s")),
        ("bad_window", "are days or weeks, not 2d", lambda: ads.tumbling("2d", tz="Asia/Seoul", grace="0s")),
        ("bad_zone", "`Asia/Soul`", lambda: ads.tumbling("1d", tz="Asia/Soul", grace="0s")),
        ("bad_duration", "'1mo'", lambda: ads.tumbling("1mo", tz="Asia/Seoul", grace="0s")),
        ("grace_missing", "how long to wait", lambda: ads.tumbling("1d", tz="Asia/Seoul")),
        ("retention_too_short", "25h", lambda: ads.tumbling("1d", tz="Asia/Seoul", grace="1h", retention="1d")),
        ("bad_window", "advance 2m is longer", lambda: ads.hopping("1m", advance="2m", grace="0s")),
        ("bad_duration", "`advance` is zero", lambda: ads.hopping("1m", advance="0s", grace="0s")),
        ("retention_too_short", "1m5s", lambda: ads.hopping("1m", advance="1s", grace="5s", retention="1m")),
    ],
)
def test_what_cannot_be_is_refused(code: str, said: str, make: Any) -> None:
    with pytest.raises(ads.TopologyError) as caught:
        make()
    assert caught.value.code == code
    assert said in str(caught.value)


def test_records_have_no_days_of_a_time_zone() -> None:
    def build(app: ads.App) -> None:
        app.stream("in").group_by_key().windowed_by(ads.tumbling("1d", tz="Asia/Seoul", grace="0s")).count()

    with pytest.raises(ads.TopologyError, match="one length for all") as caught:
        ads.topology(name="app")(build).build()
    assert caught.value.code == "bad_window"


@pytest.mark.parametrize(
    "window",
    [
        ads.tumbling("1d", tz="Asia/Seoul", grace="1h"),
        ads.tumbling("7d", tz="Asia/Seoul", grace="1h", retention="30d"),
        ads.hopping("10m", advance="1m", grace="0s"),
        ads.hopping("10m", advance="1m", grace="0s", retention="1h"),
    ],
)
def test_a_window_is_written_as_it_was_made(window: Tumbling | Hopping) -> None:
    assert eval(repr(window), {"tumbling": ads.tumbling, "hopping": ads.hopping}) == window
    assert built(window).plan["nodes"][1]["window"] == window.to_plan()


def test_describe_says_which_windows() -> None:
    def build(app: ads.App) -> None:
        rows = app.stream("in", Row, key="key").group_by("key")
        rows.windowed_by(ads.tumbling("7d", tz="Asia/Seoul", grace="1h")).count().to("weeks")
        rows.windowed_by(ads.hopping("10m", advance="1m", grace="0s")).count().to("minutes")

    text = ads.topology(name="app")(build).describe()
    assert "tumbling [start, end), a week from Monday on in Asia/Seoul, grace 1h" in text
    assert "hopping [start, start + 10m) every 1m, grace 0s" in text
