"""Real applications on a real broker, side by side: Kafka Streams and adstream read the same topics of several partitions,
exactly once, and what they write must be the same, record for record and byte for byte.

    python -m tests.differential.kstreams.live --seed 7 --count 40 [--family NAME | --chains]

The test driver of the original has one partition, one task and no clients. What only a broker shows: which of several
inputs is next (the heads' times, and waiting for those that are behind), one stream time for each task, what lies in
which partition, internal topics, and the bytes that other applications read.

All input lies there before either starts, so the order in which a task reads its inputs is determined, but for heads of
one time (the original takes any, adstream the first topic): no two topics have one. It is not where two tasks write to one
shuffle: cases with a shuffle have one partition, and none whose second half reads anything besides. Where keys change
without a shuffle, several tasks write to one partition: there the records are compared without their order.
What depends on when commits are made (caches) or on a clock is left out.

`--chains`: two applications, the second of which reads what the first one writes, keys with windows included. Either may be
the original or adstream; what two originals write is what the three other chains must write, in between and at the end.
"""

import argparse
import json
import random
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import adstream as ads
from adstream._core import Plan, RawBatch, murmur2
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs.kafka import KafkaLog
from adstream.runtime import launch
from adstream.runtime.settings import Settings
from tests.differential.kstreams.adstream_side import Builder, serde
from tests.differential.kstreams.families import FAMILIES
from tests.differential.kstreams.generate import Case, generate
from tests.differential.kstreams.original import Original
from tests.differential.kstreams.topologies import Gen
from tests.logs.conformance import read_all, wait_until_settled
from tests.servers import Kafka

Json = Any

PARTITIONS = 3
LEFT_OUT = (
    "misuse",
    "caches",
    "anchored",
    "punctuators",
    "errors",
    "errors_in_two",
    "errors_punctuated",
    "errors_told",
    "timestamps",
)
CLOCKS = ("wall", "system_time")
KEPT = {"retention.ms": "-1", "message.timestamp.type": "CreateTime"}


def live_cases(seed: int, count: int, families: list[str] | None = None) -> Iterator[Case]:
    """As many of the generated cases as are asked for, of those that can be compared on a broker."""
    names = families or [name for name in FAMILIES if name not in LEFT_OUT]
    found = number = 0
    while found < count:
        [case] = generate(seed + number, 1, [names[number % len(names)]])
        number += 1
        if fits(case):
            found += 1
            yield _without_ties(case)
        assert number < 100 * count


def _without_ties(case: Case) -> Case:
    at: dict[int, str] = {}
    return case | {"inputs": [r for r in case["inputs"] if at.setdefault(r["ts"], r["topic"]) == r["topic"]]}


LINKS = (
    "tumbling",
    "hopping",
    "sliding",
    "session",
    "unlimited",
    "aggregates",
    "tables",
    "table_joins",
    "stateless",
    "cogroups",
)
"""Families of first applications."""


def chained(seed: int, count: int) -> Iterator[tuple[Case, Case]]:
    """Pairs of cases: the second reads an output topic of the first."""
    found = number = 0
    while found < count:
        [first] = generate(seed + number, 1, [LINKS[number % len(LINKS)]])
        number += 1
        links = [node["topic"] for node in first["nodes"] if node["op"] == "to" and "topic" in node]
        if fits(first) and links:
            second = _behind(first, links[0], random.Random(f"{seed}/{number}"))
            if fits(second):
                found += 1
                yield _without_ties(first), second
        assert number < 100 * count


def _behind(first: Case, link: str, rng: random.Random) -> Case:
    types = first["topics"][link]
    g = Gen(rng, f"{first['name']}-behind", "chain", unit=1)
    read = g.topic(types["key"], types["value"])
    ref = g.set(g.add("stream", [], "stream", types["key"], types["value"], topics=[read]), source=True)
    match g.pick(["stateless", "table", "aggregate", "aggregate", "windows"]):
        case "stateless":
            ref = g.stateless(ref)
        case "table":
            ref = g.to_table(ref)
        case "aggregate":
            ref = g.aggregated(g.group(ref))
        case _:
            ref = g.aggregated(g.windowed(g.group(ref)))
    g.finish(ref, 1)
    names = {name: link if name == read else f"last-{name}" for name in g.topics}  # no two topics have one name
    for node in g.nodes:
        node |= {"topics": [link]} if "topics" in node else {"topic": names[node["topic"]]} if "topic" in node else {}
    topics = {names[name]: about for name, about in g.topics.items()}
    case: Case = {"name": g.name, "family": g.family, "seed": first["seed"], "topics": topics, "nodes": g.nodes}
    return case | ({"stores": g.stores} if g.stores else {}) | {"inputs": []}


MOVES = {"map", "flat_map", "select_key", "process", "add_processor"}


def moves(case: Case) -> bool:
    """Whether a record may be written to a partition that another task writes to, as well. A window's key goes by the key
    inside, wherever that lies; of windows of windowed keys that is the windowed key, with its time."""
    keys = [about["key"] for about in case["topics"].values() if about.get("out")]
    nested = any(key.count("windowed:") + key.count("session:") > 1 for key in keys)
    return nested or any(
        node["op"] in MOVES or "partitioner" in node or (node["op"] == "to_stream" and "fn" in node)
        for node in case["nodes"]
    )


def fits(case: Case) -> bool:
    """Whether what a real application does with it does not depend on a clock, on commits, or on chance."""
    told = json.dumps(case["nodes"])
    if case.get("options", {}).get("cache") or "topic_fn" in told or any(f'"{word}"' in told for word in CLOCKS):
        return False
    if any("topic" not in record for record in case["inputs"]):
        return False
    try:
        parts = _subtopologies(case)
    except ads.AdstreamError:
        return False
    edges = [sub for sub in parts if any(source["kind"] == "edge" for source in sub["sources"])]
    return all(len(sub["sources"]) == 1 for sub in edges)


def _built(case: Case, app: str) -> Plan:
    built = Builder(case, [], app).build()
    return Plan(built.json, built.callables)


def _subtopologies(case: Case) -> list[Json]:
    found: list[Json] = json.loads(_built(case, "app").describe())["subtopologies"]
    return found


def _placed(case: Case, source: str, target: str) -> Case:
    """The case with its topics called as they are on the broker: inputs begin with `source`, outputs with `target`."""
    read_whole = {n["topic"] for n in case["nodes"] if n["op"] in ("global_table", "add_global_store")}
    names = {name: f"{target if about.get('out') else source}-{name}" for name, about in case["topics"].items()}
    nodes = []
    for node in case["nodes"]:
        node = dict(node)
        if "topic" in node:
            node["topic"] = names[node["topic"]]
        if "topics" in node:
            node["topics"] = [names[topic] for topic in node["topics"]]
        nodes.append(node)
    topics = {names[t]: about | ({"global": True} if t in read_whole else {}) for t, about in case["topics"].items()}
    return case | {"app": target, "nodes": nodes, "topics": topics}


def _write(log: KafkaLog, case: Case, source: str, partitions: int) -> None:
    by_place: dict[tuple[str, int], list[Any]] = {}
    for record in case["inputs"]:
        topic, types = record["topic"], case["topics"][record["topic"]]
        key, value = (_bytes(record[name], types[name]) for name in ("key", "value"))
        headers = [(name, None if text is None else text.encode()) for name, text in record.get("headers", ())]
        partition = 0 if key is None else (murmur2(key) & 0x7FFFFFFF) % partitions
        place = by_place.setdefault((f"{source}-{topic}", partition), [])
        place.append((len(place), record["ts"], key, value, headers))
    writer = log.writer(f"{source}-writer")
    outputs = [(topic, partition, RawBatch(records)) for (topic, partition), records in by_place.items()]
    assert writer.commit(outputs, {}, source, None) is Outcome.COMMITTED
    writer.close()
    # Until then a reader that asks where the topics end is told of an earlier place, and takes that for all.
    for topic, partition in by_place:
        wait_until_settled(log, topic, partition)


def _bytes(value: Json, kind: str) -> bytes | None:
    if value is None:
        return None
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else serde(kind).serialize(value)


class Live:
    """Runs cases on both sides and says what differs."""

    def __init__(self, kafka: Kafka, original: Original) -> None:
        self._kafka, self._original = kafka, original
        self.log = KafkaLog(kafka.bootstrap)
        self.runs = self.records = self.unsteady = 0
        self.failed: Counter[str] = Counter()
        """Cases in which the original fails, by its cause: there is nothing to compare."""
        self.partitions: Counter[int] = Counter()

    def difference(self, case: Case) -> str | None:
        """What differs, and differs again: when the original has come to its end is guessed from outside, and was guessed
        wrongly now and then. What differs once is told, and counted in `unsteady`."""
        told = self._once(case)
        if told is None:
            return None
        again = self._once(case)
        if again is None:
            self.unsteady += 1
            print(f"differed once, and then not:\n{told}")
        return again

    def _once(self, case: Case) -> str | None:
        mark = uuid.uuid4().hex[:8]
        source, theirs, mine = f"in-{mark}", f"theirs-{mark}", f"mine-{mark}"
        partitions = 1 if len(_subtopologies(case)) > 1 else PARTITIONS
        inputs = [name for name, about in case["topics"].items() if not about.get("out")]
        outputs = [name for name, about in case["topics"].items() if about.get("out")]
        names = [f"{source}-{t}" for t in inputs] + [f"{side}-{t}" for side in (theirs, mine) for t in outputs]
        self.log.create_topics([TopicSpec(name, partitions, KEPT) for name in names])
        _write(self.log, case, source, partitions)
        told = self._original.run(_placed(case, source, theirs))
        self.runs += 1
        if "error" in told:
            self.failed[f"{told['error']['cause']}: {told['error']['message'][:100]}"] += 1
            return None
        self.partitions[partitions] += 1
        launch.run(
            _built(_placed(case, source, mine), mine), Settings(app=mine, cache=False), self.log, stop_at_end=True
        )
        for topic in outputs:
            ordered = partitions == 1 or not moves(case)
            want, found = (self._read(f"{side}-{topic}", partitions, ordered) for side in (theirs, mine))
            self.records += sum(map(len, want.values()))
            for place in want:
                if want[place] != found[place]:
                    return _told(case, topic, want, found)
        return None

    def chain(self, first: Case, second: Case) -> str | None:
        """What differs of two applications in a row, whoever runs them, and differs again."""
        if self._chain_once(first, second) is None:
            return None
        told = self._chain_once(first, second)
        self.unsteady += told is None
        return told

    def _chain_once(self, first: Case, second: Case) -> str | None:
        mark = uuid.uuid4().hex[:8]
        cut = any(len(_subtopologies(case)) > 1 for case in (first, second)) or moves(first)
        partitions = 1 if cut else PARTITIONS
        source, sides = f"in-{mark}", ("theirs", "mine")
        outputs = [[name for name, about in case["topics"].items() if about.get("out")] for case in (first, second)]
        names = [f"{source}-{t}" for t, about in first["topics"].items() if not about.get("out")]
        # What the second reads beside the first's: nothing is ever written to it.
        between = dict.fromkeys([*outputs[0], *(t for t, about in second["topics"].items() if not about.get("out"))])
        names += [f"{one}-{mark}-{t}" for one in sides for t in between]
        names += [f"{one}-{two}-{mark}-{t}" for one in sides for two in sides for t in outputs[1]]
        self.log.create_topics([TopicSpec(name, partitions, KEPT) for name in names])
        _write(self.log, first, source, partitions)
        self.runs += 1
        for one in sides:
            if not self._ran(one, first, source, f"{one}-{mark}"):
                return None
            for two in sides:
                if not self._ran(two, second, f"{one}-{mark}", f"{one}-{two}-{mark}"):
                    return None
        self.partitions[partitions] += 1
        for stage, case, places in (
            (0, first, [f"{one}-{mark}" for one in sides]),
            (1, second, [f"{one}-{two}-{mark}" for one in sides for two in sides]),
        ):
            for topic in outputs[stage]:
                ordered = partitions == 1 or not moves(case)
                want, *others = (self._read(f"{place}-{topic}", partitions, ordered) for place in places)
                self.records += sum(map(len, want.values()))
                for place, found in zip(places[1:], others, strict=True):
                    if found != want:
                        return f"{place}: {json.dumps(first)}\n{_told(case, topic, want, found)}"
        return None

    def _ran(self, side: str, case: Case, source: str, target: str) -> bool:
        """Runs an application to the end of its input; False: the original fails with it."""
        placed = _placed(case, source, target)
        if side == "mine":
            launch.run(_built(placed, target), Settings(app=target, cache=False), self.log, stop_at_end=True)
            return True
        told = self._original.run(placed)
        if "error" in told:
            self.failed[f"{told['error']['cause']}: {told['error']['message'][:100]}"] += 1
        return "error" not in told

    def _read(self, topic: str, partitions: int, ordered: bool) -> dict[int | None, list[Json]]:
        """By partition, in order; and under None those without a key, which go to any partition."""
        told: dict[int | None, list[Json]] = {p: [] for p in range(partitions)} | {None: []}
        for p in range(partitions):
            for _, ts, key, value, headers in read_all(self.log, topic, p):
                # librdkafka takes time 0 for "now", and the writer writes 1.
                place = p if key is not None or partitions == 1 else None
                told[place].append((key, value, max(ts, 1), headers))
        for place in [None] if ordered else list(told):
            told[place].sort(key=repr)
        return told

    def close(self) -> None:
        self.log.close()


def _told(case: Case, topic: str, want: dict[int | None, list[Json]], found: dict[int | None, list[Json]]) -> str:
    lines = [f"{case['name']}: {topic}"]
    for place in want:
        lines.append(f"  partition {place}: {'as expected' if want[place] == found[place] else 'differs'}")
        if want[place] != found[place]:
            lines += [f"    expected {record}" for record in want[place]]
            lines += [f"    found    {record}" for record in found[place]]
    return "\n".join([*lines, json.dumps(case)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--family", action="append", choices=FAMILIES)
    parser.add_argument("--chains", action="store_true")
    arguments = parser.parse_args()
    wrong = []
    with Kafka() as kafka, Original(live=kafka.bootstrap) as original:
        live = Live(kafka, original)
        told = (
            (live.chain(*pair) for pair in chained(arguments.seed, arguments.count))
            if arguments.chains
            else (live.difference(case) for case in live_cases(arguments.seed, arguments.count, arguments.family))
        )
        for kind in told:
            if kind is not None:
                wrong.append(kind)
                print(kind)
        live.close()
    print(
        f"{live.runs} runs ({dict(live.partitions)} by partitions), {live.records} records compared,"
        f" {len(wrong)} cases differ, {live.unsteady} differed once; the original failed: {dict(live.failed)}"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
