"""What a notebook shows: rows as Arrow, topologies as SVG."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import pyarrow as pa
import pytest

import adstream as ads
from adstream import col
from adstream.jobs.ads.performance import performance

SVG = "{http://www.w3.org/2000/svg}"
AT = "2024-01-15T10:00:00Z"


class Sale(ads.Record):
    id: str
    price: Annotated[Decimal, ads.decimal(10, 2)]
    at: datetime


@ads.topology(name="sales")
def sales(app: ads.App, least: int = 0) -> None:
    rows = app.stream("sales", Sale, timestamp="at").filter(col("price") >= least)
    rows.to("dear", key="id")
    windows = rows.group_by("id").windowed_by(ads.tumbling("1h", grace="0s"))
    windows.aggregate(n=ads.count(), total=ads.sum("price")).named("totals")


ROWS = [
    {"id": "a", "price": "1.50", "at": AT},
    {"id": "b", "price": "7.25", "at": AT},
    {"id": "a", "price": "9.00", "at": AT},
]


def test_a_preview_is_an_arrow_table_with_exact_types() -> None:
    made = sales.preview(ROWS, least=2)
    assert made.schema == pa.schema(
        [
            ("id", pa.string()),
            ("price", pa.decimal128(10, 2)),
            ("at", pa.timestamp("ms", tz="UTC")),
            ("$timestamp", pa.timestamp("ms", tz="UTC")),
        ]
    )
    at = datetime(2024, 1, 15, 10, tzinfo=UTC)
    assert made.to_pylist() == [
        {"id": "b", "price": Decimal("7.25"), "at": at, "$timestamp": at},
        {"id": "a", "price": Decimal("9.00"), "at": at, "$timestamp": at},
    ]
    assert sales.preview(ROWS, limit=1).num_rows == 1
    assert sales.preview([]).num_rows == 0
    assert sales.preview(pa.table({"id": ["x"], "price": ["3.00"], "at": [AT]})).column("id").to_pylist() == ["x"]


def test_a_table_and_records_can_be_seen() -> None:
    totals = sales.preview(ROWS, output="totals").to_pylist()
    assert {(row["id"], row["n"], row["total"]) for row in totals} == {
        ("a", 2, Decimal("10.50")),
        ("b", 1, Decimal("7.25")),
    }

    @ads.topology(name="records")
    def records(app: ads.App) -> None:
        words = app.stream("words", key=ads.serdes.string, value=ads.serdes.string)
        words.map(lambda k, v: (v, len(v))).to("lengths", value=ads.serdes.int64)

    made = records.preview({"words": ["one", "three"]})
    assert made.select(["key", "value"]).to_pylist() == [{"key": "one", "value": 3}, {"key": "three", "value": 5}]


def test_the_head_of_a_stream_while_it_is_written() -> None:
    seen: list[Any] = []

    @ads.topology(name="head")
    def topology(app: ads.App) -> None:
        rows = app.stream("sales", Sale, timestamp="at").with_columns(twice=col("price") * 2)
        seen.append(rows.head(ROWS, 2))
        rows.filter(col("twice") > 10).to("out")

    topology.build()
    assert seen[0].select(["id", "twice"]).to_pylist() == [
        {"id": "a", "twice": Decimal("3.00")},
        {"id": "b", "twice": Decimal("14.50")},
    ]
    assert len(topology.build().nodes) == 4


def test_which_input_is_asked() -> None:
    @ads.topology(name="two")
    def two(app: ads.App) -> None:
        app.stream("a", Sale).to("out")
        app.stream("b", Sale).to("other")

    with pytest.raises(ValueError, match="rows of which topic"):
        two.preview(ROWS)
    assert two.preview({"b": ROWS}, output="other").num_rows == 3


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def boxes(root: ElementTree.Element) -> list[tuple[str, float, float]]:
    found = []
    for group in root.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        assert rect is not None
        title = group.findtext(f"{SVG}title") or ""
        found.append((title, float(rect.get("x", "")), float(rect.get("y", ""))))
    return found


def test_the_picture_has_each_node_and_each_input_and_nothing_overlaps() -> None:
    built = performance.build()
    root = parsed(built.svg())
    found = boxes(root)
    assert [title.split(":")[0] for title, _, _ in found] == [node.name for node in built.nodes]
    assert len(root.findall(f"{SVG}path")) == sum(len(node.inputs) for node in built.nodes)
    places = [(x, y) for _, x, y in found]
    assert len(set(places)) == len(places)
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for i, (x, y) in enumerate(places):
        assert 0 <= x <= width - 190
        assert 0 <= y <= height - 54
        assert all(abs(x - a) >= 190 or abs(y - b) >= 54 for a, b in places[:i])
    for node in built.nodes:
        assert all(places[before][0] < places[node.id][0] for before, _ in node.inputs), "from left to right"
    assert "final" in {text.text for text in root.iter(f"{SVG}text")}
    assert performance._repr_svg_() == built.svg()
    html = performance._repr_html_()
    assert html is not None
    assert html.startswith("<div")


def test_text_is_escaped() -> None:
    @ads.topology(name="escaped")
    def escaped(app: ads.App) -> None:
        rows = app.stream("in", Sale)
        rows.filter(col("id") == "<script>alert('\"&')</script>\x07\n]]>").to("out")

    text = escaped.svg()
    assert "<script" not in text
    assert any("<script>alert(" in title for title, _, _ in boxes(parsed(text)))


def test_any_topology_is_a_picture() -> None:
    chance = random.Random(7)
    for _ in range(50):

        @ads.topology(name="any")
        def any_(app: ads.App) -> None:
            streams = [app.stream("in", Sale)]
            for i in range(chance.randrange(1, 20)):
                made = chance.choice(streams).filter(col("price") > i)
                if len(streams) > 1 and chance.random() < 0.3:
                    made = made.merge(chance.choice(streams))
                streams.append(made)
            streams[-1].to("out")

        built = any_.build()
        assert len(boxes(parsed(built.svg()))) == len(built.nodes)


def test_a_topology_that_lacks_a_setting_shows_no_picture() -> None:
    @ads.topology(name="lacks")
    def lacks(app: ads.App, topic: str) -> None:
        app.stream(topic, Sale).to("out")

    assert lacks._repr_svg_() is None
    assert lacks._repr_html_() is None
    assert "<svg" in lacks.svg(topic="a")
