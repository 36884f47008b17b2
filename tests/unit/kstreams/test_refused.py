"""What Kafka Streams refuses before there is any input, and what it lets pass. (Windows, joins, tables: in their own files.)"""

from collections.abc import Callable
from typing import Any

import pytest

import adstream as ads

S, I = ads.serdes.string, ads.serdes.int64  # noqa: E741
LAST = lambda aggregate, value: value  # noqa: E731
OWN = lambda key, value: key  # noqa: E731


class Silent(ads.Processor[int]):
    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        pass


def stream(app: ads.App, topic: str = "in") -> Any:
    return app.stream(topic, key=S, value=I)


def built(make: Callable[[ads.App], object]) -> None:
    ads.topology(name="app")(lambda app: (stream(app, "other"), make(app))[0] and None).build()


def sink_as_parent(app: ads.App) -> None:
    app.add_source("words", "in", key=S, value=I)
    app.add_sink("out", "out", "words", key=S, value=I)
    app.add_processor("silent", Silent, "out")


def nothing_connected(app: ads.App) -> None:
    app.add_source("words", "in", key=S, value=I)
    app.add_processor("silent", Silent, "words")
    app.connect_processor_and_state_stores("silent")


def twice(app: ads.App, *stores: ads.store.StoreBuilder) -> None:
    for store in stores:
        app.add_state_store(store)


REFUSED: dict[str, tuple[str, Callable[[ads.App], object]]] = {
    "a name of one dot": ("bad_name", lambda app: stream(app).filter(OWN).named(".")),
    "a name of two": ("bad_name", lambda app: stream(app).filter(OWN).named("..")),
    "a store's name with a space": ("bad_name", lambda app: stream(app).group_by_key().count("a b")),
    "a store without a name": ("bad_name", lambda app: stream(app).group_by_key().count("")),
    "a group's name with a space": ("bad_name", lambda app: stream(app).group_by(OWN, "a b")),
    "one that is not used": ("bad_name", lambda app: stream(app).group_by_key("a b")),
    "a table's group": ("bad_name", lambda app: app.table("in").group_by(lambda k, v: (k, v), "a b")),
    "a negative retention": ("bad_duration", lambda app: ads.Materialized("s", retention="-1ms")),
    "a negative history": ("bad_duration", lambda app: ads.Materialized("s", history="-1ms")),
    "a sink as a parent": ("bad_argument", sink_as_parent),
    "no store to connect": ("bad_argument", nothing_connected),
    "a file without a name": ("bad_argument", lambda app: stream(app).print(file="")),
    "two stores of one name": (
        "duplicate_name",
        lambda app: twice(app, ads.store.key_value("s"), ads.store.key_value("s")),
    ),
}


@pytest.mark.parametrize(("code", "make"), REFUSED.values(), ids=REFUSED)
def test_is_refused(code: str, make: Callable[[ads.App], object]) -> None:
    with pytest.raises(ads.TopologyError) as refused:
        built(make)
    assert refused.value.code == code
    assert "hint: " in str(refused.value)


def test_the_line_is_the_users() -> None:
    with pytest.raises(ads.TopologyError, match=r"with_retention at test_refused\.py:"):
        ads.Materialized("s").with_retention("-1ms")


def test_the_same_store_may_be_declared_twice() -> None:
    once = ads.store.key_value("s")
    built(lambda app: twice(app, once, once))
