"""adstream next to the real Kafka Streams on cases from a seed; what differs is made small and told by family.

    make differential N=2000 SEED=7
    python -m tests.differential.kstreams.run --seed 7 --count 2000 [--family NAME] [--shrink 40]

Exits with 1 if anything differs. `--case FILE` runs one case (as --shrink printed it) and shows both sides.
"""

import argparse
import copy
import json
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.differential.kstreams import adstream_side
from tests.differential.kstreams.families import FAMILIES
from tests.differential.kstreams.generate import Case, generate
from tests.differential.kstreams.original import Original, Result, written
from tests.differential.kstreams.topologies import DELIBERATE

Json = Any


def ours(case: Case, disturb: str | None = None) -> Result:
    """adstream's result; what is no error of its own is told with its traceback."""
    try:
        return adstream_side.run(case, disturb)
    except Exception as error:
        where = "".join(traceback.format_exception(error)[-3:])
        return {"name": case["name"], "error": {"at": "crash", "class": type(error).__name__, "message": where}}


def difference(case: Case, mine: Result, theirs: Result, *, once: bool = True) -> str | None:
    """What kind of difference there is first, in a few words; None if there is none.

    `once`: no record was processed twice, so that what functions saw is compared, too.
    """
    my_error, their_error = mine.get("error"), theirs.get("error")
    if my_error is not None and my_error["at"] == "crash":
        return f"crash: {my_error['class']}: {my_error['message'].strip().splitlines()[-1][:100]}"
    if their_error is not None and their_error["at"] in ("build", "start"):
        return None if my_error is not None and my_error["at"] == "build" else "not refused"
    if my_error is not None and my_error["at"] == "build":
        return f"refused: {my_error['cause']}: {my_error['message'].splitlines()[0][:80]}"
    for number, their_step in enumerate(theirs["steps"]):
        if number >= len(mine["steps"]):
            return "fails earlier"
        my_step = mine["steps"][number]
        if their_error is not None and their_error["at"] == str(number):
            return None if my_error is not None and my_error["at"] == str(number) else "does not fail"
        if my_error is not None and my_error["at"] == str(number):
            if "[suppress_full]" in my_error["message"]:
                return "stops when full"
            return f"fails: {my_error['message'].splitlines()[0][:80]}"
        kind = _step_difference(my_step, their_step, once)
        if kind is not None:
            return kind
    if their_error is None and not _dropped_varies(case):
        for number, their_step in enumerate(theirs["steps"]):
            if mine["steps"][number].get("dropped", 0) != their_step.get("dropped", 0):
                return "dropped"
    return _store_difference(case, mine, theirs) if their_error is None else None


def _store_difference(case: Case, mine: Result, theirs: Result) -> str | None:
    """What stores hold in the end, in whatever order: it is another on disk. Windows behind a cache are still in the
    original's cache when its store has let go of them."""
    cached = case.get("options", {}).get("cache", False)
    for name, entries in theirs.get("stores", {}).items():
        windows = any(isinstance(entry[0], list) and len(entry[0]) == 3 for entry in entries)
        if cached and windows:
            continue
        if sorted(map(_text, mine.get("stores", {}).get(name, ()))) != sorted(map(_text, entries)):
            return "stores"
    return None


def _dropped_varies(case: Case) -> bool:
    """Foreign-key joins: by release. Windows on disk (but those of joins, which do the same here): entries that are expired
    are refused, and counted, by segments of a minute and more, but not found from the very time on at which they expire;
    here, as in memory, that is one time. And behind a cache a session store is not asked to delete what it does not have."""
    disk = case.get("options", {}).get("store") == "rocksdb"
    stores = [node.get("store") or {} for node in case["nodes"]] + case.get("stores", [])
    disk = disk or any(store.get("backend") == "rocksdb" for store in stores)
    windows = any(node["op"] in ("windowed_by", "process") for node in case["nodes"])
    caches = case.get("options", {}).get("cache", False) or any(store.get("cache") for store in stores)
    return "dropped_of_fk_join" in case.get("tags", ()) or ((disk or caches) and windows)


def _step_difference(mine: Json, theirs: Json, once: bool) -> str | None:
    my_out, their_out = mine.get("out", {}), theirs.get("out", {})
    for topic in sorted(my_out.keys() | their_out.keys()):
        my_records, their_records = my_out.get(topic, []), their_out.get(topic, [])
        if my_records == their_records:
            continue
        if sorted(map(_text, my_records)) == sorted(map(_text, their_records)):
            return "order"
        if len(my_records) != len(their_records):
            return "fewer" if len(my_records) < len(their_records) else "more"
        for place, name in ((0, "key"), (1, "value"), (2, "timestamp")):
            if [record[place] for record in my_records] != [record[place] for record in their_records]:
                return name
        return "headers"
    if once and mine.get("seen") != theirs.get("seen"):
        return "seen"
    return None


def _text(record: Json) -> str:
    return json.dumps(record)


# --- Making it small ------------------------------------------------------------------------------------------------


def shrink(original: Original, case: Case, kind: str, disturb: str | None = None, tries: int = 400) -> Case:
    """The smallest case found that differs in the same way."""
    best = case
    moved = True
    while moved and tries > 0:
        moved = False
        for smaller in _smaller(best):
            tries -= 1
            if tries <= 0:
                break
            theirs = original.run(smaller)
            their_error = theirs.get("error")
            if their_error is not None and their_error["at"] in ("build", "start") and kind != "not refused":
                continue
            if _alike(difference(smaller, ours(smaller, disturb), theirs, once=disturb is None), kind):
                best = smaller
                moved = True
                break
    return best


def _alike(found: str | None, kind: str) -> bool:
    return found is not None and found.split(":")[0] == kind.split(":")[0]


def _smaller(case: Case) -> Iterator[Case]:
    inputs = case["inputs"]
    size = len(inputs) // 2
    while size >= 1:
        for start in range(0, len(inputs), size):
            yield case | {"inputs": inputs[:start] + inputs[start + size :]}
        size //= 2
    nodes = case["nodes"]
    for node in reversed(nodes):
        yield from _without(case, node)
    for node in nodes:
        if len(node.get("in", ())) == 1 and node["op"] not in ("to", "split", "foreach"):
            yield from _bypassed(case, node)
    for number, node in enumerate(nodes):
        for name in ("store", "name", "with_key", "timestamps", "partitioner", "grace"):
            if name in node and node["op"] != "group_by_key":
                changed = {key: value for key, value in node.items() if key != name}
                yield case | {"nodes": [*nodes[:number], changed, *nodes[number + 1 :]]}
    if case.get("options"):
        yield {key: value for key, value in case.items() if key != "options"}
    for number, record in enumerate(inputs):
        if "headers" in record:
            changed = {key: value for key, value in record.items() if key != "headers"}
            yield case | {"inputs": [*inputs[:number], changed, *inputs[number + 1 :]]}


def _readers(case: Case, node: Json) -> list[Json]:
    return [
        other
        for other in case["nodes"]
        if any(name == node["id"] or name.startswith(f"{node['id']}.") for name in other.get("in", ()))
    ]


def _without(case: Case, node: Json) -> Iterator[Case]:
    """An end, and all that only it needs."""
    if _readers(case, node):
        return
    nodes = [other for other in case["nodes"] if other is not node]
    while True:
        ends = [
            other
            for other in nodes
            if other["op"] not in ("to", "foreach", "add_sink", "peek")
            and not other["op"].startswith("add_")
            and not _readers({"nodes": nodes}, other)
        ]
        if not ends:
            break
        nodes = [other for other in nodes if other not in ends]
    if nodes:
        yield _cleaned(case | {"nodes": nodes})


def _bypassed(case: Case, node: Json) -> Iterator[Case]:
    """Its readers read what it read; the types may not fit, then the original says so."""
    before = node["in"][0]
    nodes = []
    for other in case["nodes"]:
        if other is node:
            continue
        other = copy.deepcopy(other)
        other["in"] = [before if name == node["id"] else name for name in other.get("in", ())]
        nodes.append(other)
    source = next((other for other in case["nodes"] if other["id"] == before), None)
    if source is not None and source.get("types") == node.get("types"):
        yield _cleaned(case | {"nodes": nodes})


def _cleaned(case: Case) -> Case:
    """Without inputs of topics that nobody reads."""
    read = {topic for node in case["nodes"] for topic in node.get("topics", [node.get("topic")])}
    inputs = [record for record in case["inputs"] if "topic" not in record or record["topic"] in read]
    topics = {name: topic for name, topic in case["topics"].items() if topic.get("out") or name in read}
    return case | {"inputs": inputs, "topics": topics}


# --- Telling --------------------------------------------------------------------------------------------------------


def tell(case: Case, mine: Result, theirs: Result) -> str:
    """A case and both results up to where they part."""
    lines = []
    if case.get("options"):
        lines.append(f"options {json.dumps(case['options'])}")
    if case.get("stores"):
        lines.append(f"stores {json.dumps(case['stores'])}")
    for node in case["nodes"]:
        said = {name: value for name, value in node.items() if name not in ("id", "op", "in")}
        lines.append(f"{node['id']} = {node['op']}({', '.join(node.get('in', ()))}) {json.dumps(said)}")
    my_steps, their_steps = mine.get("steps", []), theirs.get("steps", [])
    for number, record in enumerate(case["inputs"]):
        mine_here = my_steps[number] if number < len(my_steps) else None
        theirs_here = their_steps[number] if number < len(their_steps) else None
        lines.append(f"  {_text(record)}")
        if mine_here == theirs_here:
            lines.append(f"    both     {_text(mine_here)}")
        else:
            lines.append(f"    expected {_text(theirs_here)}")
            lines.append(f"    found    {_text(mine_here)}")
    for name, result in (("expected", theirs), ("found", mine)):
        if "error" in result:
            lines.append(f"  {name} error {_text(result['error'])}")
    return "\n".join(lines)


class Found:
    """What a run found."""

    def __init__(self) -> None:
        self.cases = 0
        self.records = 0
        self.words: Counter[str] = Counter()
        """What adstream's language does not have, and how many cases wanted it."""
        self.deliberate: Counter[str] = Counter()
        """Cases that differ on purpose, by topologies.TAGS."""
        self.differ: list[tuple[Case, str]] = []

    def heads(self) -> list[str]:
        buckets = Counter((kind, case["family"]) for case, kind in self.differ)
        lines = [f"{self.cases} cases, {self.records} records compared, {len(self.differ)} cases differ"]
        if self.words:
            lines.append(f"not run, for want of a word: {dict(self.words.most_common())}")
        if self.deliberate:
            lines.append(f"differ on purpose: {dict(self.deliberate)}")
        return [*lines, *(f"{count:5d}  {family}: {kind}" for (kind, family), count in buckets.most_common())]


def compare(original: Original, cases: list[Case], disturb: str | None = None) -> Found:
    found = Found()
    if disturb in ("restart", "crash"):
        cases = [logged(case) for case in cases]
    for case, theirs in zip(cases, original.run_all(cases), strict=True):
        found.cases += 1
        mine = ours(case, disturb)
        if mine.get("error", {}).get("class") == "NoWord":
            found.words[mine["error"]["message"].strip().rpartition(": ")[2]] += 1
            continue
        found.records += written(theirs)
        kind = difference(case, mine, theirs, once=disturb is None)
        excuses = {tag for tag in case.get("tags", ()) if kind in DELIBERATE.get(tag, ())}
        if excuses:
            found.deliberate.update(excuses)
        elif kind is not None:
            found.differ.append((case, kind))
    return found


def logged(case: Case) -> Case:
    """With all stores' changelogs: without them a restart may forget."""
    nodes = [
        node | {"store": {name: value for name, value in node["store"].items() if name != "logging"}}
        if node.get("store") and not node["op"].startswith("add_")
        else node
        for node in case["nodes"]
    ]
    return case | {"nodes": nodes}


def smallest(original: Original, found: Found, most: int, disturb: str | None = None) -> list[str]:
    """One small case for each way of differing: kind and operators. At most `most` cases are made small."""
    best: dict[str, tuple[int, str]] = {}
    tried: Counter[tuple[str, str]] = Counter()
    for case, kind in found.differ:
        tried[case["family"], kind] += 1
        if tried[case["family"], kind] > 2 or tried.total() > most:
            continue
        small = shrink(original, case, kind, disturb)
        operators = sorted({node["op"] for node in small["nodes"]} - {"stream", "to", "to_stream"})
        text = tell(small, ours(small, disturb), original.run(small))
        bucket = f"{kind.split(':')[0]} {' '.join(operators)}"
        if bucket not in best or len(text) < best[bucket][0]:
            tags = f" tags {case['tags']}" if case.get("tags") else ""
            whole = f"## {kind}: {', '.join(operators)} ({case['name']}){tags}\n{text}\n"
            best[bucket] = len(text), whole
    return [text for _, text in sorted(best.values())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=330)
    parser.add_argument("--family", action="append", choices=FAMILIES)
    parser.add_argument("--shrink", type=int, default=20, help="differences to make small")
    parser.add_argument("--store", choices=["rocksdb"], help="of the original's tables and windows, instead of memory")
    parser.add_argument("--store-type", choices=["memory", "disk"], default="memory", help="of adstream's stores")
    parser.add_argument("--disturb", choices=adstream_side.DISTURBANCES, help="what must not change anything")
    parser.add_argument("--case", type=Path)
    arguments = parser.parse_args()
    adstream_side.store_type = arguments.store_type
    if arguments.case is not None:
        case = json.loads(arguments.case.read_text())
        with Original() as original:
            theirs = original.run(case)
        mine = ours(case, arguments.disturb)
        print(tell(case, mine, theirs), difference(case, mine, theirs), sep="\n")
        return
    with Original() as original:
        cases = generate(arguments.seed, arguments.count, arguments.family)
        if arguments.store is not None:
            cases = [case | {"options": case.get("options", {}) | {"store": arguments.store}} for case in cases]
        found = compare(original, cases, arguments.disturb)
        assert found.cases == arguments.count
        print(*smallest(original, found, arguments.shrink, arguments.disturb), *found.heads(), sep="\n")
    sys.exit(bool(found.differ))


if __name__ == "__main__":
    main()
