"""The original's side of the differential harness: the goldens are what the real Kafka Streams does, and reach the rules."""

import json
import random
from collections import Counter
from typing import Any

import pytest

from tests.differential.kstreams import functions
from tests.differential.kstreams.families import FAMILIES
from tests.differential.kstreams.generate import generate, one
from tests.differential.kstreams.original import Original, read_goldens, record, written
from tests.differential.kstreams.topologies import Gen

GOLDENS = read_goldens()
AGAIN = 70  # goldens that are recorded anew, of every family


@pytest.mark.timeout(600)
def test_what_was_recorded_is_recorded_again() -> None:
    some = [golden for family in FAMILIES for golden in _of(family)[:: -(-len(_of(family)) * len(FAMILIES) // AGAIN)]]
    assert len(some) >= AGAIN
    assert {case["family"] for case, _ in some} == set(FAMILIES)
    found = record([case for case, _ in some])
    assert len(found) == len(some)
    for (case, expected), result in zip(some, found, strict=True):
        assert result == expected, json.dumps(case)


def _of(family: str) -> list[Any]:
    """But for what has the times at which it was recorded."""
    nodes = [(golden, node) for golden in GOLDENS for node in golden[0]["nodes"]]
    timed = {golden[0]["name"] for golden, node in nodes if node.get("timestamps") == ["wall_clock"]}
    return [golden for golden in GOLDENS if golden[0]["family"] == family and golden[0]["name"] not in timed]


def test_the_goldens_reach_every_family() -> None:
    assert len(GOLDENS) >= 400
    came: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for case, result in GOLDENS:
        came[case["family"]] += written(result)
        dropped[case["family"]] += sum(step.get("dropped", 0) for step in result.get("steps", ()))
    assert set(came) == set(FAMILIES)
    assert min(count for family, count in came.items() if family != "misuse") > 20
    assert dropped.total() > 300
    # All the words of the language of cases that are made at all are in the goldens.
    assert {node["op"] for case, _ in GOLDENS for node in case["nodes"]} >= OPERATIONS


OPERATIONS = set(
    """
    stream table global_table filter filter_not map map_values flat_map flat_map_values select_key peek foreach merge split
    repartition to to_table to_stream process process_values group_by_key group_by cogroup windowed_by count reduce
    aggregate suppress stream_join stream_table_join stream_global_join table_join fk_join transform_values
    add_source add_processor add_sink add_store add_global_store add_read_only_store add_connection
    """.split()  # noqa: SIM905
)


def test_only_what_should_fail_fails() -> None:
    """Types are tracked: but for functions told to fail, bytes that are none, and buffers that are full, all goes well."""
    told: Counter[str] = Counter()
    for case, result in GOLDENS:
        error = result.get("error")
        if error is None:
            continue
        told[error["at"] if error["at"] in ("build", "start") else "run"] += 1
        if case["family"] == "misuse":
            assert error["at"] in ("build", "start"), case["name"]
        elif case["family"] not in ("errors", "errors_handled", "errors_in_two", "errors_punctuated"):
            assert "exceeded its max capacity" in error["message"], (case["name"], error)
    assert told["build"] > 5
    assert told["run"] > 3


def test_a_case_depends_on_its_seed_family_and_number_alone() -> None:
    cases = generate(3, 2 * len(FAMILIES))
    assert cases == generate(3, 2 * len(FAMILIES))
    assert cases[5] == one(3, list(FAMILIES)[5], 5)
    assert cases[: len(FAMILIES)] != generate(4, len(FAMILIES))


def test_python_and_java_have_the_same_functions() -> None:
    rng = random.Random(5)
    values = [None, 0, 3, -7, 2**62, "", "a", "x,y", "äb", 2.5, [1, "a"]]
    asked: list[Any] = [
        ["fn", f, key, value] for f in _functions() for key in ("a", None, 5) for value in rng.sample(values, 5)
    ]
    texts: list[Any] = [None, "", "ab", "x,y"]
    numbers: list[Any] = [None, 0, -3, 2**62]
    for f in _joiners():
        some = numbers if f[0] in ("sum", "minus", "plus", "max") else texts + numbers
        asked += [["fn2", f, "k", a, b] for a in some for b in some]
    with Original(functions=True) as java:
        told = list(java.run_all(asked))
    assert len(told) == len(asked) > 800
    for question, expected in zip(asked, told, strict=True):
        assert _evaluate(question) == expected, question


def _evaluate(asked: Any) -> Any:
    kind, f, *arguments = asked
    try:
        return functions.plain((functions.fn(f) if kind == "fn" else functions.fn2(f))(*arguments))
    except (functions.AskedToFail, TypeError):
        return {"fails": True}


def _functions() -> list[Any]:
    """All that the generator makes, and some more."""
    some = Gen(random.Random(1), "", "")
    made = [some.predicate(value) for value in ("int64", "string") for _ in range(40)]
    made += [some.value_fn(value, key=True)[0] for value in ("int64", "string", "double") for _ in range(60)]
    made += [["split", ","], ["none"], ["repeat", 2, ["append", "x"]], ["both", ["value"], ["key"]], ["item", 1]]
    made += [["each", ["split", ","], ["kv", ["first", 1], ["value"]]], ["fail_if", ["value_even"], ["add", 2**62]]]
    made += [["then", ["text"], ["first", 1]], ["of_key", ["append", "z"]], ["window_key"], ["window_start"]]
    made += [["if", ["key_is_null"], ["const", "k"], ["const", None]], ["always"], ["never"], ["mul", -3]]
    return list({json.dumps(f): f for f in made}.values())


def _joiners() -> list[Any]:
    return [
        *(
            ["left"],
            ["right"],
            ["join", "+"],
            ["join_key"],
            ["back", ","],
            ["back_key"],
            ["sum"],
            ["minus"],
            ["plus", 1],
        ),
        *(["max"], ["lists"], ["null_when", ["value_even"], ["join", "+"]], ["shorten", 3, ["join", "-"]]),
        ["fail_when", ["value_is_null"], ["left"]],
    ]
