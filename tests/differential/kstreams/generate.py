"""Cases from a seed: random topologies of one to eight operators, and inputs on the edges of their rules.

What the original is known to do wrong is not made, or carries a tag that names it (`topologies.TAGS`).

    python -m tests.differential.kstreams.generate --seed 7 --count 3        cases, one a line
"""

import argparse
import json
import random
from typing import Any

from tests.differential.kstreams.families import FAMILIES
from tests.differential.kstreams.topologies import KEYS, VALUES, Gen, Json

Case = dict[str, Any]


def generate(seed: int, count: int, families: list[str] | None = None) -> list[Case]:
    """`count` cases, the families in turn. A case depends on nothing but the seed, its family and its number."""
    names = families or list(FAMILIES)
    return [one(seed, names[number % len(names)], number) for number in range(count)]


def one(seed: int, family: str, number: int) -> Case:
    rng = random.Random(f"{seed}/{family}/{number}")
    g = Gen(rng, f"{family}-{seed}-{number}", family, unit=rng.choice([1, 1, 1, 1000]))
    if rng.random() < 0.06:
        g.options["cache"] = True
    if rng.random() < 0.04:
        g.options["store"] = "rocksdb"
    FAMILIES[family](g)
    if any(node["op"] == "stream_join" for node in g.nodes):
        g.options["store"] = (
            "rocksdb"  # the original's default, whose join windows forget otherwise than those in memory
        )
    case = _case(g, seed)
    if family in ("errors", "errors_handled", "errors_told") and g.chance(0.5):
        for _ in range(2):
            topic, types = next(iter(case["topics"].items()))
            broken = {"topic": topic, "key": KEYS[types["key"]][0], "value": {"hex": "0102"}, "ts": 0}
            case["inputs"].insert(rng.randint(0, len(case["inputs"])), broken)
    return case


def inputs(g: Gen) -> list[Json]:
    """Records whose times lie on the edges of what the topology knows, and now and then a step of the clock."""
    rng = g.rng
    sources = [name for name, topic in g.topics.items() if not topic.get("out")]
    tables = {node["topic"] for node in g.nodes if node["op"] in ("table", "global_table")}
    distances = g.distances or [5]
    top = rng.choice([0, 0, 1, 7, 30, 100]) * g.unit
    time = top
    last: dict[tuple[str, Json], Json] = {}
    told: list[Json] = []
    for _ in range(rng.randint(5, 14) + 5 * len(sources)):
        if g.wall and rng.random() < 0.25:
            told.append({"advance_wall_clock": rng.choice(distances) + rng.choice([-1, 0, 0, 1, 10])})
            # A step of nothing shows the original's driver what begins now; here the clock has to move.
            least = 1 if g.family == "anchored" else 0
            told[-1]["advance_wall_clock"] = max(told[-1]["advance_wall_clock"], least)
            continue
        way = rng.random()
        distance = rng.choice(distances)
        nudge = rng.choice([-1, 0, 0, 1])
        if way < 0.3:
            time += rng.choice([0, 0, 1, 2])
        elif way < 0.6:
            time = top + distance + nudge
        elif way < 0.78:
            time = top - distance + nudge
        elif way < 0.9:
            time = top // distance * distance + rng.choice([0, distance]) + nudge
        else:
            time = top + rng.randint(0, 3 * max(distances))
        time = max(time, 0) // g.step * g.step
        top = max(top, time)
        topic = rng.choice(sources)
        types = g.topics[topic]
        key = rng.choice(KEYS[types["key"]])
        if g.null_keys and rng.random() < 0.07:
            key = None
        value = rng.choice(VALUES[types["value"]])
        if rng.random() < (0.2 if topic in tables else 0.1):
            value = None
        elif rng.random() < 0.15 and (topic, key) in last:
            value = last[topic, key]
        last[topic, key] = value
        record = {"topic": topic, "key": key, "value": value, "ts": time}
        if rng.random() < 0.12:
            record["headers"] = [["h", rng.choice(["1", "2", None])]]
            if rng.random() < 0.3:
                record["headers"].append(["h", "3"])
        told.append(record)
    return told


KEYED = {"group_by_key", "stream_join", "stream_table_join", "to_table"}


def _moves(g: Gen) -> bool:
    """There may be a repartition topic in between."""
    operators = {node["op"] for node in g.nodes}
    told_by_other_keys = any(node["op"] == "to_stream" and node.get("fn") for node in g.nodes)
    marked = operators & {"map", "flat_map", "select_key", "process"} or told_by_other_keys
    return bool((marked and operators & KEYED) or operators & {"group_by", "repartition", "fk_join"})


def _apart(g: Gen) -> bool:
    """Sources that never meet are sub-topologies of their own."""
    groups: list[set[str]] = []
    for node in g.nodes:
        mine = {node["id"], *node.get("in", ())}
        met = [group for group in groups if group & mine]
        groups = [group for group in groups if not group & mine] + [mine.union(*met)]
    return len(groups) > 1


def _asks_its_task(g: Gen) -> bool:
    scripts = [node["script"] for node in g.nodes if "script" in node]
    actions = [action for script in scripts for action in script["do"]]
    schedules = [every for script in scripts for every in script.get("every", ())]
    schedules += [action[1] for action in actions if action[0] == "schedule"]
    return any(action[0] in ("stream_time", "task") for action in actions) or any(
        s["type"] == "stream" for s in schedules
    )


def _case(g: Gen, seed: int) -> Case:
    made: Case = {"name": g.name, "family": g.family, "seed": seed}
    if g.options:
        made["options"] = g.options
    if _asks_its_task(g) and (_moves(g) or _apart(g)):
        g.tags.add("one_task")
    buffers = [node.get("buffer") or {} for node in g.nodes if node["op"] == "suppress"]
    if g.options.get("processing") in ("continue", "told") and any(
        buffer.get("full") == "shutdown" for buffer in buffers
    ):
        g.tags.add("full_goes_on")
    windows = [node["window"] for node in g.nodes if node.get("window", {}).get("type") == "session"]
    if g.options.get("cache") and any(window["gap"] == window.get("grace", 0) == 0 for window in windows):
        g.tags.add("session_of_nothing")
    if g.tags:
        made["tags"] = sorted(g.tags)
    made |= {"topics": g.topics}
    if g.stores:
        made["stores"] = g.stores
    return made | {"nodes": g.nodes, "inputs": inputs(g)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--family", action="append", choices=FAMILIES)
    arguments = parser.parse_args()
    for case in generate(arguments.seed, arguments.count, arguments.family):
        print(json.dumps(case, ensure_ascii=False))


if __name__ == "__main__":
    main()
