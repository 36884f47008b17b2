"""A topology as a picture: layers from left to right, one box a node, one line an input. SVG, made here: no program is needed.

1. *Layers.* A node stands one layer behind the last of its inputs.
2. *Order.* Within a layer nodes go by the mean place of what they are connected with before, then behind, a few rounds of
   both: that leaves few crossings in graphs of this size.
3. *Lines* leave a box on its right side and enter on the left, as curves; an output that has a name (`final`, `late`) says so.

All text is escaped; what is longer than its box is cut, and whole in the box's tooltip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from adstream.dsl.graph import Node

_WIDTH, _HEIGHT, _GAP, _BETWEEN, _MARGIN = 190, 54, 70, 22, 14
_CHARACTERS = {"name": 19, "about": 30}
_ROUNDS = 4
_CONTROL = dict.fromkeys([*range(32), 65534, 65535, *range(55296, 57344)], 65533)

_COLOURS = {"in": "#dbeafe", "state": "#fef3c7", "out": "#dcfce7", "plain": "#f3f4f6"}
_OUT = {"to", "to_topic", "sink"}
_PLAIN = {
    "filter",
    "require",
    "with_columns",
    "select",
    "map",
    "map_batches",
    "map_async",
    "branch",
    "merge",
    "to_stream",
}


def svg(nodes: Sequence[Node], input_name: Callable[[int, int], str]) -> str:
    """The nodes as SVG. `input_name(node, port)` is what `describe()` calls an output."""
    layers = _layers(nodes)
    place = {node: (layer, row) for layer, found in enumerate(layers) for row, node in enumerate(found)}
    tallest = max((len(found) for found in layers), default=1)
    width = 2 * _MARGIN + len(layers) * _WIDTH + max(len(layers) - 1, 0) * _GAP
    height = 2 * _MARGIN + tallest * _HEIGHT + (tallest - 1) * _BETWEEN

    def corner(node: int) -> tuple[float, float]:
        layer, row = place[node]
        free = (tallest - len(layers[layer])) * (_HEIGHT + _BETWEEN) / 2
        return _MARGIN + layer * (_WIDTH + _GAP), _MARGIN + free + row * (_HEIGHT + _BETWEEN)

    lines, boxes = [], []
    for node in nodes:
        x, y = corner(node.id)
        for i, (before, port) in enumerate(node.inputs, 1):
            left, top = corner(before)
            start, end = (left + _WIDTH, top + _HEIGHT / 2), (x, y + _HEIGHT * i / (len(node.inputs) + 1))
            middle = (start[0] + end[0]) / 2
            lines.append(
                f'<path d="M{start[0]:g},{start[1]:g} C{middle:g},{start[1]:g} {middle:g},{end[1]:g} {end[0]:g},{end[1]:g}"'
                ' fill="none" stroke="#6b7280" marker-end="url(#to)"/>'
            )
            label = input_name(before, port).removeprefix(nodes[before].name).removeprefix(".")
            if label:
                lines.append(
                    f'<text x="{end[0] - 8:g}" y="{end[1] - 5:g}" font-size="10" text-anchor="end" fill="#6b7280"'
                    ' stroke="white" stroke-width="3" paint-order="stroke">'
                    f"{_text(label)}</text>"
                )
        boxes.append(_box(node, x, y))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' font-family="sans-serif">',
            '<defs><marker id="to" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0,0 L8,4 L0,8 z" fill="#6b7280"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *lines,
            *boxes,
            "</svg>",
        ]
    )


def _box(node: Node, x: float, y: float) -> str:
    kind = str(node.parameters["kind"]) if node.op == "flow" else node.op
    role = "in" if kind == "source" else "out" if kind in _OUT else "plain" if _stateless(node, kind) else "state"
    whole = f"{node.name}: {kind}\n{node.about}\n{node.line or ''}".strip()
    return "".join(
        [
            f'<g class="node {role}"><title>{_text(whole)}</title>',
            f'<rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{_COLOURS[role]}"'
            ' stroke="#9ca3af"/>',
            f'<text x="{x + 10:g}" y="{y + 19:g}" font-size="13" font-weight="bold">{_cut(node.name, "name")}</text>',
            f'<text x="{x + 10:g}" y="{y + 33:g}" font-size="10" fill="#4b5563">{_text(kind)}</text>',
            f'<text x="{x + 10:g}" y="{y + 46:g}" font-size="10" fill="#4b5563">{_cut(node.about, "about")}</text></g>',
        ]
    )


def _stateless(node: Node, kind: str) -> bool:
    if node.op == "flow":
        return not (node.parameters.get("store") or node.parameters.get("stores"))
    return kind in _PLAIN


def _layers(nodes: Sequence[Node]) -> list[list[int]]:
    depth: dict[int, int] = {}
    for node in nodes:
        depth[node.id] = 1 + max((depth[before] for before, _ in node.inputs), default=-1)
    layers: list[list[int]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for node in nodes:
        layers[depth[node.id]].append(node.id)
    before = {node.id: [i for i, _ in node.inputs] for node in nodes}
    behind: dict[int, list[int]] = {node.id: [] for node in nodes}
    for node in nodes:
        for i, _ in node.inputs:
            behind[i].append(node.id)
    for turn in range(_ROUNDS):
        neighbours = before if turn % 2 == 0 else behind
        for layer in layers if turn % 2 == 0 else reversed(layers):
            row = {node: i / max(len(found), 1) for found in layers for i, node in enumerate(found)}
            means = {
                node: sum(row[other] for other in neighbours[node]) / len(neighbours[node])
                if neighbours[node]
                else row[node]
                for node in layer
            }
            layer.sort(key=means.__getitem__)
    return layers


def _cut(text: str, kind: str) -> str:
    most = _CHARACTERS[kind]
    return _text(text if len(text) <= most else text[: most - 1] + "…")


def _text(text: str) -> str:
    """Escaped; what XML cannot hold is replaced."""
    return escape(text.replace("\n", " · ").translate(_CONTROL))
