"""Windows that overlap and days of a time zone: rows are in the windows of Kafka Streams and of the calendar.

Hopping windows of rows are held against those of keys and values, which are another piece of code and held against Kafka
Streams record by record (`tests/differential/kstreams`); days against Python's `zoneinfo`.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adstream as ads
from adstream.testing import TopologyTestDriver

profile = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True)


class Hit(ads.Record):
    key: str
    n: int


Sent = list[tuple[str, int, int]]
"""key, number, ms"""

sent = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 60)), max_size=25)


@settings(profile, max_examples=40)
@given(sent, st.integers(1, 20), st.integers(1, 20), st.integers(0, 10), st.integers(0, 10))
def test_hopping_windows_of_rows_are_those_of_records(
    hits: Sent, size: int, advance: int, grace: int, more: int
) -> None:
    def ms(n: int) -> timedelta:
        return timedelta(milliseconds=n)

    window = ads.hopping(ms(size), advance=ms(min(advance, size)), grace=ms(grace), retention=ms(size + grace + more))

    def build(app: ads.App) -> None:
        rows = app.stream("rows", Hit, key="key").group_by("key").windowed_by(window)
        table = rows.aggregate(n=ads.count(), total=ads.sum("n")).named("table")
        table.with_columns(start=ads.window_start().dt.epoch_ms()).to("of-rows")
        table.final().select("key", "n", start=ads.window_start().dt.epoch_ms()).to("final-of-rows")
        records = app.stream("records").group_by_key().windowed_by(window)
        records.aggregate(n=ads.count(), total=ads.sum("n")).to_stream().to("of-records", value=ads.serdes.json_)
        told = records.emit_strategy("close").aggregate(n=ads.count()).to_stream()
        told.to("final-of-records", value=ads.serdes.json_)

    topology = ads.topology(name="both")(build)
    with TopologyTestDriver(topology, partitions=1, commit_every=1, caching=False) as driver:
        for key, n, at in hits:
            driver.input("rows").pipe({"key": key, "n": n}, at=at)
            driver.input("records").pipe({"key": key, "n": n}, key=key, at=at)

        def rows(topic: str, *names: str) -> list[Any]:
            found = [(r.value or {}, r.timestamp) for r in driver.output(topic).read()]
            return [(v["key"], v["start"], *(v[name] for name in names), at) for v, at in found]

        def records(topic: str, *names: str) -> list[Any]:
            found = driver.output(topic).read()
            return [(r.key.key, r.key.start, *(r.value[name] for name in names), r.timestamp) for r in found]

        assert rows("of-rows", "n", "total") == records("of-records", "n", "total")
        assert sorted(rows("final-of-rows", "n")) == sorted(records("final-of-records", "n"))
        late = driver.counters().get("table", {}).get("late", 0)
        dropped = [reasons.get("dropped:late", 0) for reasons in driver.counters().values()]
        assert late == max(dropped, default=0)


ZONES = [
    "Asia/Seoul",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",  # midnight is skipped
    "America/Havana",  # midnight comes twice
    "America/St_Johns",  # clocks changed a minute past midnight, into the day before
    "Australia/Lord_Howe",  # by half an hour
    "Pacific/Apia",  # without a 30th of December 2011
    "Africa/Casablanca",
    "Asia/Kathmandu",
]


def changes(zone: str) -> list[int]:
    """Hours at which the clocks of a zone change, 2010 to 2013, in seconds."""
    info = ZoneInfo(zone)

    def offset(s: int) -> timedelta | None:
        return datetime.fromtimestamp(s, info).utcoffset()

    hours = range(1_262_304_000, 1_388_534_400, 3600)
    return [s for s in hours if offset(s) != offset(s + 3600)]


CHANGES = {zone: changes(zone) for zone in ZONES}


def boundaries(zone: str, around: int, week: bool) -> list[int]:
    """First instants of days (Mondays) of some weeks around a time, in ms, each once."""
    info = ZoneInfo(zone)
    day = datetime.fromtimestamp(around, info).date()

    def midnight(day: date) -> int:
        return int(datetime(day.year, day.month, day.day, tzinfo=info).astimezone(UTC).timestamp()) * 1000

    days = [day + timedelta(days=n) for n in range(-20, 21)]
    return sorted({midnight(d) for d in days if not week or d.weekday() == 0})


@settings(profile, max_examples=100)
@given(st.data())
def test_days_are_those_of_the_calendar(data: st.DataObject) -> None:
    zone, week = data.draw(st.sampled_from(ZONES)), data.draw(st.booleans())
    near = data.draw(st.sampled_from([*CHANGES[zone], 1_400_000_000]))
    times = data.draw(st.lists(st.integers(-3 * 86_400_000, 3 * 86_400_000), min_size=1, max_size=6))
    borders = boundaries(zone, near, week)
    close = [b for b in borders if abs(b - near * 1000) < 10 * 86_400_000]
    at = sorted({near * 1000 + t for t in times} | {b + d for b in close for d in (-1, 0)})

    @ads.topology(name="days")
    def days(app: ads.App) -> None:
        window = ads.tumbling("7d" if week else "1d", tz=zone, grace="0s")
        table = app.stream("hits", Hit, key="key").group_by("key").windowed_by(window).aggregate(n=ads.count())
        start, end = ads.window_start().dt.epoch_ms(), ads.window_end().dt.epoch_ms()
        table.with_columns(start=start, end=end).to("days")
        table.final().select("n", "key", start=start).to("closed")

    with TopologyTestDriver(days, partitions=1, commit_every=1) as driver:
        for ms in at:
            driver.input("hits").pipe({"key": "k", "n": 1}, at=ms)
        found = [(r.value["start"], r.value["end"]) for r in driver.output("days").read() if r.value]
        closed = {r.value["start"]: r.value["n"] for r in driver.output("closed").read() if r.value}

    def of(ms: int) -> tuple[int, int]:
        return max(b for b in borders if b <= ms), min(b for b in borders if b > ms)

    assert found == [of(ms) for ms in at], json.dumps([zone, at])
    inside = [ms for ms in at if of(ms)[1] <= at[-1]]
    assert closed == {start: [of(ms)[0] for ms in inside].count(start) for start in {of(ms)[0] for ms in inside}}
