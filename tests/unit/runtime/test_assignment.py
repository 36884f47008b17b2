"""Tasks and topics of a plan."""

import json
from typing import Any

import pytest

from adstream.errors import ConfigError
from adstream.runtime.assignment import TaskSpec, enumerate_tasks
from tests.unit.runtime.echo_task import EchoPlan

DESCRIPTION: dict[str, Any] = json.loads(EchoPlan(sink=True).describe())


def test_tasks_are_numbered_by_partition() -> None:
    assignment = enumerate_tasks(DESCRIPTION, {"in": 2, "out": 5})
    assert [task.name for task in assignment.tasks] == ["0_0", "1_0", "rows_0", "0_1", "1_1", "rows_1"]
    assert assignment.tasks[4] == TaskSpec(4, "stream", 1, "", 1, (("echo-edge", 1),), ("echo-1-changelog", 1))
    assert assignment.tasks[2].inputs == (("echo-rows-sink", 0),)
    assert assignment.partitions == {
        "in": 2,
        "out": 5,
        "echo-edge": 2,
        "echo-0-changelog": 2,
        "echo-1-changelog": 2,
        "echo-rows-sink": 2,
    }
    assert assignment.levels == ((("in", 0), ("in", 1)), (("echo-edge", 0), ("echo-edge", 1)))
    specs = {spec.name: spec for spec in assignment.topics}
    assert specs["echo-tasks"].partitions == 6
    assert specs["echo-1-changelog"].config["retention.ms"] == "-1"
    assert "in" not in specs


def test_edges_may_have_a_count_of_their_own() -> None:
    assignment = enumerate_tasks(DESCRIPTION, {"in": 2, "out": 5}, edge_partitions=4)
    assert len(assignment.tasks) == 2 + 4 + 4


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"out": 1}, "there is no topic `in`"),
        ({"in": 1}, "no output topic `out`\nhint: create it, or start with --create-topics"),
        ({"in": 3, "out": 1, "echo-edge": 2}, "`echo-edge` has 2 partitions, 3 are needed now"),
    ],
)
def test_what_is_wrong_is_said_with_a_way_out(found: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        enumerate_tasks(DESCRIPTION, found)


def test_inputs_that_meet_in_one_state_need_the_same_count() -> None:
    description = json.loads(EchoPlan().describe())
    first = description["subtopologies"][0]
    first["sources"] = [
        {"topic": "in", "kind": "user", "node": "in"},
        {"topic": "more", "kind": "user", "node": "more"},
    ]
    found = {"in": 2, "more": 3, "out": 1}
    assert len(enumerate_tasks(description, found).tasks) == 3 + 3
    sources = [
        {"id": 0, "op": "source", "name": "in", "inputs": []},
        {"id": 1, "op": "source", "name": "more", "inputs": []},
    ]
    first["nodes"] = [*sources, {"id": 2, "op": "deduplicate", "name": "each", "inputs": [[0, 0]]}]
    assert len(enumerate_tasks(description, found).tasks) == 3 + 3, "what does not reach it may be cut in another way"
    first["nodes"][2]["inputs"].append([1, 0])
    with pytest.raises(ConfigError, match="different partition counts"):
        enumerate_tasks(description, found)


def test_dead_letters_lie_as_their_source() -> None:
    description = json.loads(EchoPlan().describe())
    dead = {"topic": "in-dlq", "kind": "dead_letters", "source": "in"}
    description["subtopologies"][0]["outputs"].append(dead)
    assert enumerate_tasks(description, {"in": 4, "out": 1}).partitions["in-dlq"] == 4
    assert enumerate_tasks(description, {"in": 4, "out": 1, "in-dlq": 2}).partitions["in-dlq"] == 2


def test_a_topic_is_read_once() -> None:
    description = json.loads(EchoPlan().describe())
    description["subtopologies"][1]["sources"].append({"topic": "in", "kind": "user"})
    with pytest.raises(ConfigError, match="`in` is read by two sub-topologies"):
        enumerate_tasks(description, {"in": 1, "out": 1})


def test_a_topic_whose_name_would_be_too_long_is_told_at_the_start() -> None:
    description = DESCRIPTION | {"app": "a" * 245}
    with pytest.raises(ConfigError, match=r"-topology`, which has 254 characters\nhint: .* 249 at most"):
        enumerate_tasks(description, {"in": 1}, create_topics=True)


@pytest.mark.parametrize("app", ["a b", "é", "a/b"])
def test_an_application_whose_topics_could_not_be_made_is_told_at_the_start(app: str) -> None:
    with pytest.raises(ConfigError, match=f"^--app: no topic can be called `{app}-tasks`"):
        enumerate_tasks(DESCRIPTION | {"app": app}, {"in": 1}, create_topics=True)
