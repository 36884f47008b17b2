"""The same cases on adstream, through its public API."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import adstream as ads
from adstream import AfterMatchSkipStrategy, Pattern, TopologyError, col, element, matched
from adstream.testing import TopologyTestDriver

TEXT = ads.serdes.string


def expression(said: dict[str, Any]) -> ads.Expr:
    if "t" in said:
        return col("t").is_in(list(said["t"]))
    if "gt" in said:
        return col("v") > said["gt"]
    stage, limit = said["below"]
    return matched(stage).sum(element("v")) + col("v") < limit


def function(said: dict[str, Any]) -> Callable[..., bool]:
    if "t" in said:
        return lambda event: event["t"] in said["t"]
    if "gt" in said:
        return lambda event: event["v"] > said["gt"]
    stage, limit = said["below"]
    return lambda event, taken: sum(e["v"] for e in taken[stage]) + event["v"] < limit if stage in taken else False


def pattern(calls: list[Any], test: Callable[[Any], Any], skip: AfterMatchSkipStrategy | None = None) -> Pattern:
    made: Any = Pattern
    for name, *arguments in calls:
        one = arguments[0] if arguments else None
        window = f"{arguments[2]}ms" if len(arguments) > 2 and arguments[2] is not None else None
        if isinstance(one, list):
            one = pattern(one, test)
        if name == "begin":
            made = Pattern.begin(one, skip)
        elif name in ("where", "or_where", "until"):
            made = getattr(made, name)(test(one))
        elif name == "times":
            made = made.times(one, arguments[1], window)
        elif name == "times_or_more":
            made = made.times_or_more(one, window)
        elif name == "one_or_more":
            made = made.one_or_more(window)
        elif name in ("within", "within_previous"):
            made = getattr(made, name)(f"{one}ms")
        else:
            made = getattr(made, name)(*([] if one is None else [one]))
    assert isinstance(made, Pattern)
    return made


def skip_of(said: list[str]) -> AfterMatchSkipStrategy:
    match said:
        case ["no"]:
            return AfterMatchSkipStrategy.no_skip()
        case ["to_next"]:
            return AfterMatchSkipStrategy.skip_to_next()
        case ["past_last"]:
            return AfterMatchSkipStrategy.skip_past_last_event()
        case ["to_first", stage]:
            return AfterMatchSkipStrategy.skip_to_first(stage)
        case ["to_last", stage]:
            return AfterMatchSkipStrategy.skip_to_last(stage)
    raise ValueError(said)


class Event(ads.Record):
    key: str | None
    id: int
    t: str
    v: int


def names(calls: list[Any]) -> list[str]:
    """Of all stages that hold events."""
    found = []
    for name, *arguments in calls:
        if name in ("begin", "next", "followed_by", "followed_by_any"):
            found += names(arguments[0]) if isinstance(arguments[0], list) else arguments[:1]
    return found


def of_rows(rows: list[Any], times: list[tuple[int, ...]]) -> list[tuple[str, int, dict[str, list[int]]]]:
    """Key, time and stages of what was selected of rows; stages in order of their first event."""
    made = []
    for r in rows:
        stages = {n: r.value[n] for n in r.value if n != "key" and r.value[n]}
        order = sorted(stages, key=lambda n: (times[stages[n][0]], stages[n][0]))
        made.append((r.value["key"], r.timestamp, {n: stages[n] for n in order}))
    return made


def play(
    case: dict[str, Any],
    *,
    native: bool = True,
    form: str = "api",
    restart: bool = False,
    unkeyed: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """As `original.play` says it; `left` by key: live runs and withheld matches. `restart`: anew after every event; `form`:
    what a pattern of expressions goes through before it is used, `text` or `json`, or that it is one on `rows`;
    `unkeyed`: without a key, which all events have in common."""
    processing, clock = case.get("time") == "processing", 0
    times = []
    for _, ts, _, v in case["events"]:
        clock = max(clock, ts)
        times.append((clock if processing else ts, v if case.get("sorted") else 0))
    how: dict[str, Any] = {"time": "processing"} if processing else {"max_delay": f"{case['bound']}ms"}
    if case.get("sorted"):
        how["order_by"] = col("v")
    store = "runs-store" if form == "rows" else "runs"

    def build(app: ads.App) -> None:
        wanted = pattern(case["calls"], expression if native else function, skip_of(case["skip"]))
        if form == "text":
            wanted = Pattern.parse(str(wanted))
        elif form == "json":
            wanted = Pattern.from_json(wanted.to_json())
        if form == "rows":
            rows = app.stream("in", schema=Event, key="key")
            on_rows = (rows if unkeyed else rows.group_by("key")).match(wanted, **how, name="runs")
            chosen = {n: matched(n).values("id") for n in names(case["calls"])}
            chosen["key"] = ads.lit("k") if unkeyed else ads.key()
            on_rows.select(**chosen).to("found")
            on_rows.timed_out.select(**chosen).to("gone")
            on_rows.late.to("late")
            return
        stream = app.stream("in", key=TEXT)
        found = (stream if unkeyed else stream.group_by_key()).match(wanted, **how, materialized="runs")
        found.matches.to("found", key=TEXT)
        found.timed_out.to("gone", key=TEXT)
        found.late.to("late", key=TEXT)

    try:
        topology = ads.topology(name="cep")(build)
        topology.build()
    except TopologyError as error:
        if error.code != "malformed_pattern":
            raise
        return {"rejected": str(error)}
    given: dict[str, Any] = {"partitions": 1, "commit_every": 1, **options}
    clock = 0
    with TopologyTestDriver(topology, **given) as driver:
        for i, (key, ts, letter, v) in enumerate(case["events"]):
            if processing and times[i][0] > clock:
                driver.advance_wall_clock(f"{times[i][0] - clock}ms")
                clock = times[i][0]
            value = {"id": i, "t": letter, "v": v} | ({"key": key} if form == "rows" else {})
            driver.input("in").pipe(value, **({} if form == "rows" else {"key": key}), at=ts)
            if restart:
                driver.restart()
        if processing:
            driver.advance_wall_clock(f"{case['rest']}ms")
        answer: dict[str, Any] = {}
        for topic in ("found", "gone"):
            lines: dict[str, list[str]] = defaultdict(list)
            read = driver.output(topic).read()
            if form == "rows":
                told = of_rows(read, times)
            else:
                told = [(r.key, r.timestamp, {n: [e["id"] for e in es] for n, es in r.value.items()}) for r in read]
            for key, ts, stages in told:
                lines["k" if unkeyed else key].append(f"{ts} {spelled(stages)}")
            answer[topic] = dict(lines)
        answer["late"] = [r.value["id"] for r in driver.output("late").read()]
        counts = {"k" if unkeyed else key: c for key, c in driver.patterns(store).items()}
        keys = sorted({key for key, *_ in case["events"]})
        # Flink counts the run that waits for a first event.
        answer["left"] = {
            key: [c.live_runs + 1, c.withheld, c.buffered] if (c := counts.get(key)) else [1, 0, 0] for key in keys
        }
        answer["dead"] = [letter.reason for letter in driver.dead_letters("in")]
        return answer


def spelled(stages: dict[str, list[int]]) -> str:
    inside = ",".join(f'"{name}":[{",".join(map(str, ids))}]' for name, ids in stages.items())
    return "{" + inside + "}"
