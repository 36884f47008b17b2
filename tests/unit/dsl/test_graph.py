from adstream.dsl.graph import Graph
from tests.unit.dsl.support import refused


def names(*wishes: str | None) -> list[str]:
    graph = Graph()
    return [graph.add("filter", (), None, {}, name=wish).name for wish in wishes]


def test_names_are_unique_and_fit_topics():
    assert names(None, None) == ["filter-1", "filter-2"]
    assert names("a", "a", "a") == ["a", "a-2", "a-3"]
    assert names("product metrics:{id}") == ["product-metrics-id"]


def test_callables_are_registered_once():
    graph = Graph()
    assert [graph.register(fn) for fn in (len, max, len)] == [0, 1, 0]


def test_a_name_too_long():
    graph = Graph()
    node = graph.add("filter", (), "x.py:1", {})
    with refused("bad_name", "cannot be a name", "at most 100"):
        graph.rename(node, "x" * 101)
