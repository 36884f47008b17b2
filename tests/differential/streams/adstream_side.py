"""The same scenarios on adstream: its public language, its core, one partition, a commit after every record."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import adstream as ads
from adstream._core import Plan, RawBatch, Task
from tests.differential.streams.scenarios import Result, Scenario, Step

Record = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)


class Event(ads.Record):
    k: str | None
    g: str | None
    v: int | None


class Driver:
    """Every task of a topology in this process, one partition each; a commit goes on until nothing moves."""

    def __init__(self, built: ads.Built) -> None:
        plan = Plan(built.json, built.callables)
        described = json.loads(plan.describe())
        self._tasks: list[Task] = []
        self._readers: dict[str, list[Task]] = {}
        self._edges: set[str] = set()
        partitions = dict.fromkeys(described["topics"], 1)
        for part in described["subtopologies"]:
            task = plan.task(part["id"], 0, partitions)
            self._tasks.append(task)
            for source in part["sources"]:
                self._readers.setdefault(source["topic"], []).append(task)
                task.caught_up(source["topic"], 0, True)
                if source["kind"] == "edge":
                    self._edges.add(source["topic"])
        self._written: Counter[str] = Counter()

    def send(self, topic: str, time: int, key: bytes | None, value: bytes) -> None:
        """One record, processed by all that read its topic."""
        self._append(topic, RawBatch([(0, time, key, value, [])]))

    def commit(self) -> dict[str, list[Record]]:
        """The records written to user topics since the last commit, by topic."""
        came: dict[str, list[Record]] = {}
        moved = True
        while moved:
            moved = False
            for task in self._tasks:  # upstream before downstream
                generation = task.close_generation()
                for topic, _, batch in generation.outputs:
                    if topic in self._edges:
                        moved = True
                        self._append(topic, batch)
                    else:
                        came.setdefault(topic, []).extend(batch.records())
                task.committed()
        return came

    def count(self, node: str, reason: str) -> int:
        """What a node has counted so far."""
        return sum(task.stats()["counters"].get(node, {}).get(reason, 0) for task in self._tasks)

    def _append(self, topic: str, batch: RawBatch) -> None:
        batch = batch.with_offsets(self._written[topic])
        self._written[topic] += len(batch)
        for task in self._readers.get(topic, []):
            task.feed(topic, 0, batch)
            while task.buffered(topic, 0):
                assert task.process(len(batch)) > 0


def run(scenario: Scenario, *, combine: bool = True, records_per_commit: int = 1) -> list[Step]:
    """What each commit did. With `records_per_commit` of 1 there is a step per record."""
    driver = Driver(topology_of(scenario, combine=combine))
    steps: list[Step] = []
    late_told = 0
    for first in range(0, len(scenario.records), records_per_commit):
        for topic, k, g, v, time in scenario.records[first : first + records_per_commit]:
            value = json.dumps({"k": k, "g": g, "v": v}, ensure_ascii=False).encode()
            driver.send(f"in{topic}", time, None if k is None else k.encode(), value)
        came = driver.commit()
        late = driver.count("table", "late")
        late_told += len(came.get("late", ()))
        assert late_told == late, "`.late` and the counter tell different numbers"
        # The original counts what has no key where it aggregates, and does not where it repartitions.
        keyless = driver.count("table", "dropped:null_key") if scenario.by == "k" else 0
        late += driver.count("second", "late")
        results = [_result(scenario, time, value) for _, time, _, value, _ in came.get("out", ()) if value is not None]
        steps.append(Step(late + keyless, results))
    assert not [topic for topic in came if topic.endswith("-dlq")]
    return steps


def topology_of(scenario: Scenario, *, combine: bool) -> ads.Built:
    @ads.topology
    def differential(app: ads.App) -> None:
        stream, *others = (app.stream(f"in{i}", Event, key="k") for i in range(scenario.topics))
        if others:
            stream = stream.merge(*others)
        if scenario.at_least is not None:
            stream = stream.filter(ads.col("v") >= scenario.at_least)
        keys = {"k": ["k"], "g": ["g"], "kg": ["k", "g"]}[scenario.by]
        grouped: ads.GroupedStream | ads.WindowedStream = stream.group_by(*keys)
        if scenario.size is not None:
            window = ads.tumbling(_ms(scenario.size), grace=_ms(scenario.grace), retention=_ms(scenario.retention))
            grouped = grouped.windowed_by(window)
        table = grouped.aggregate(combine=combine, **_aggregates(scenario.fn)).named("table")
        if scenario.size is not None:
            table.late.to("late", key="k", columns=["k"])
            table = table.with_columns(start=ads.window_start())
        columns = [*keys, *(["start"] if scenario.size is not None else []), "r"]
        if scenario.regroup is not None:
            keys = ["g" if scenario.regroup == "group" else "start"]
            regrouped = table.group_by(*keys).aggregate(combine=combine, n=ads.count(), total=ads.sum("r"))
            regrouped.to("out", key=keys, columns=[*keys, "n", "total"])
        else:
            told = table.to_stream() if scenario.emit == "update" else table.final()
            if scenario.then is not None:
                second = ads.tumbling(_ms(scenario.then), grace=_ms(scenario.grace))
                sums = told.select(*keys, "r").group_by(*keys).windowed_by(second)
                table = sums.aggregate(combine=combine, r=ads.sum("r")).named("second")
                told = table.with_columns(start=ads.window_start()).to_stream()
            told.to("out", key=keys, columns=columns)

    return differential.build()


def _ms(ms: int | None) -> timedelta | None:
    return None if ms is None else timedelta(milliseconds=ms)


def _aggregates(fn: str) -> dict[str, ads.Expr]:
    match fn:
        case "newest":
            return {"g": ads.last("g"), "r": ads.last("v")}
        case "arrived":
            return {"g": _arrived("g", str | None), "r": _arrived("v", int | None)}
        case "reduce":
            return {"r": _arrived("v", int | None)}
        case "count":
            return {"r": ads.count()}
    return {"r": getattr(ads, fn)("v")}


def _arrived(column: str, dtype: Any) -> ads.Expr:
    """The value of the last row to come: `reduce((old, new) -> new)`."""
    return ads.udaf(lambda: None, lambda _, row: row[column], type=dtype)


# --- results as Kafka Streams tells them ----------------------------------------------------------------------------


def _result(scenario: Scenario, time: int, value: bytes) -> Result:
    row = json.loads(value)
    if scenario.regroup == "group":
        return row["g"], None, [row["n"], row["total"]], time
    start = None if scenario.size is None else _from_text(row["start"])
    if scenario.regroup == "window":
        return str(start), None, [row["n"], row["total"]], time
    key = row[scenario.by] if scenario.by != "kg" else _compact([row["k"], row["g"]])
    return key, start, row["r"], time


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _from_text(time: str) -> int:
    return (datetime.fromisoformat(time) - EPOCH) // MS
