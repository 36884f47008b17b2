"""Named outputs, and state that belongs to the key at hand."""

from decimal import Decimal
from functools import partial
from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver

S, I, J = ads.serdes.string, ads.serdes.int64, ads.serdes.json  # noqa: E741


class Book(ads.Processor[Any]):
    entries, pauses = ads.output(J, key=S), ads.output(S, key=S)
    balance = ads.keyed.value(default=Decimal(0))
    posted = ads.keyed.map(ttl="10s")
    notes = ads.keyed.map()

    def __init__(self, floor: int = -10) -> None:
        self.floor = floor

    def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
        name, amount = record.value
        if name in self.posted:
            ctx.forward(record.with_value("again"))
            return
        self.posted[name] = True
        self.notes[name] = self.notes.get(name, 0) + 1
        self.balance += Decimal(amount)
        ctx.forward(record.with_value([name, str(self.balance), self.notes[name]]), self.entries)
        if self.balance < self.floor:
            ctx.forward(record.with_value("pause"), "pauses")


def build(app: ads.App, processor: Any = Book) -> None:
    book = app.stream("in", key=S).process(processor, name="book")
    book.entries.to("entries")
    book.pauses.to("pauses")
    book.to("rest", key=S, value=S)


def play(d: TopologyTestDriver, *records: tuple[str, str, int, int]) -> list[Any]:
    for key, name, amount, at in records:
        d.input("in").pipe([name, amount], key=key, at=at)
    return [(r.key, *r.value) for r in d.output("entries").read()]


def test_a_book() -> None:
    with TopologyTestDriver(ads.topology(name="app")(lambda app: build(app)), partitions=2) as d:
        assert sorted(play(d, ("a", "x", 5, 0), ("b", "x", -3, 0), ("a", "y", -7, 1_000), ("a", "x", 5, 9_000))) == [
            ("a", "x", "5", 1),
            ("a", "y", "-2", 1),
            ("b", "x", "-3", 1),
        ]
        assert [(r.key, r.value) for r in d.output("rest").read()] == [("a", "again")]
        d.restart()
        assert play(d, ("a", "x", -9, 10_000)) == [("a", "x", "-11", 2)]  # ten seconds later it is forgotten
        assert [(r.key, r.value) for r in d.output("pauses").read()] == [("a", "pause")]
        assert list(d.store("book-posted").all()) != []
        play(d, ("a", "z", 1, 99_000))
        left = [key.key[1] for key, _ in d.store("book-posted").all() if key.key[0] == "a"]
        assert left == ["z"]  # and nothing is left of what was


def test_a_class_with_arguments() -> None:
    made = ads.topology(name="app")(lambda app: build(app, partial(Book, floor=100)))
    with TopologyTestDriver(made, partitions=1) as d:
        play(d, ("a", "x", 5, 0))
        assert len(d.output("pauses").read()) == 1


def test_there_is_no_key_where_there_is_no_record() -> None:
    class Bad(ads.Processor):
        count = ads.keyed.value(default=0)

        def init(self, ctx: ads.Context) -> None:
            ctx.schedule("1s", "stream_time", lambda time: self.count)

        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None:
            self.count += 1

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.stream("in", key=S, value=I).process(Bad)

    with TopologyTestDriver(topology, partitions=1, commit_every=1) as d:
        d.input("in").pipe(1, key="a", at=1)
        d.input("in").pipe(1, at=2)
        messages = [str(x.message) for x in d.dead_letters("in")]
        assert "there is no record here: use a store" in messages[0]
        assert "and the record has none" in messages[1]


def test_names_of_outputs() -> None:
    class Bad(ads.Processor):
        filter = ads.output()

        def process(self, record: ads.ProcessorRecord, ctx: ads.Context) -> None: ...

    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        app.stream("in", key=S, value=I).process(Bad)

    with pytest.raises(ads.TopologyError) as refused:
        topology.build()
    assert refused.value.code == "bad_name"
    with pytest.raises(AttributeError, match="its outputs are entries, pauses"):
        ads.topology(name="app")(lambda app: app.stream("in", key=S).process(Book).other).build()
