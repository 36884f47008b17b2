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


def play(
    case: dict[str, Any], *, native: bool = True, form: str = "api", restart: bool = False, **options: Any
) -> dict[str, Any]:
    """As `original.play` says it; `left` by key: live runs and withheld matches. `restart`: anew after every event; `form`:
    what a pattern of expressions goes through before it is used, `text` or `json`."""

    def build(app: ads.App) -> None:
        wanted = pattern(case["calls"], expression if native else function, skip_of(case["skip"]))
        if form == "text":
            wanted = Pattern.parse(str(wanted))
        elif form == "json":
            wanted = Pattern.from_json(wanted.to_json())
        grouped = app.stream("in", key=TEXT).group_by_key()
        found = grouped.match(wanted, max_delay=f"{case['bound']}ms", materialized="runs")
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
    with TopologyTestDriver(topology, **given) as driver:
        for i, (key, ts, letter, v) in enumerate(case["events"]):
            driver.input("in").pipe({"id": i, "t": letter, "v": v}, key=key, at=ts)
            if restart:
                driver.restart()
        answer: dict[str, Any] = {}
        for topic in ("found", "gone"):
            lines: dict[str, list[str]] = defaultdict(list)
            for r in driver.output(topic).read():
                stages = {name: [event["id"] for event in events] for name, events in r.value.items()}
                lines[r.key].append(f"{r.timestamp} {spelled(stages)}")
            answer[topic] = dict(lines)
        answer["late"] = [r.value["id"] for r in driver.output("late").read()]
        counts = driver.patterns("runs")
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
