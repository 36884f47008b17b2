"""The automaton of a pattern, for people: `pattern.explain()`.

States stand in the order in which they are reached, and of each its edges in the order in which they are asked: *take* keeps
the event, *ignore* lets it pass, *proceed* goes on to a state that is asked about the same event. Where an edge has a condition
it stands behind `if`. A run is in one state; several true edges make several runs of it, none ends it.

In the picture every state is a box in one row; edges forward are arcs above it, edges back and to the state itself below. All
text is escaped, cut where it would not fit, and whole in the tooltip.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from adstream.dsl.durations import format_ms
from adstream.dsl.faults import user_line
from adstream.dsl.pattern_text import condition_text
from adstream.errors import TopologyError

if TYPE_CHECKING:
    from adstream.dsl.pattern import Pattern, _Stage

_WIDTH, _HEIGHT, _GAP, _MARGIN, _LIFT = 120, 44, 90, 20, 34
_CHARACTERS = {"state": 15, "edge": 34}
_COLOURS = {"start": "#dbeafe", "normal": "#f3f4f6", "pending": "#fef3c7", "stop": "#fee2e2", "final": "#dcfce7"}
_END = "$endState$"
_CONTROL = dict.fromkeys([*range(32), 65534, 65535, *range(55296, 57344)], 65533)
_ABOUT = {
    "start": "waits for a first event",
    "pending": "a match when its window is over",
    "stop": "ends the run",
    "final": "a match",
}


@dataclass(frozen=True, slots=True)
class Edge:
    """What a run may do with an event."""

    action: str
    """take, ignore or proceed."""
    target: int
    condition: str
    """Empty: always."""


@dataclass(frozen=True, slots=True)
class State:
    """Where a run waits."""

    name: str
    stage: str
    kind: str
    """start, normal, pending, stop or final."""
    window_ms: int
    """From the last taken event on; 0: none."""
    edges: tuple[Edge, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """An automaton: as text by `str()`, as a picture by `svg()`. The first state is the start."""

    states: tuple[State, ...]
    window_ms: int
    """From the first event to the last; 0: none."""

    def __str__(self) -> str:
        lines = []
        if self.window_ms:
            lines.append(f"within {format_ms(self.window_ms)} from the first event on")
        for state in self.states:
            about = [_ABOUT[state.kind]] if state.kind in _ABOUT else []
            if state.window_ms:
                about.append(f"within {format_ms(state.window_ms)} from the event before")
            lines.append(_shown(state.name) + (f": {', '.join(about)}" if about else ""))
            lines += [f"    {self._said(edge)}" for edge in state.edges if state.kind not in ("stop", "final")]
        return "\n".join(lines)

    def _said(self, edge: Edge) -> str:
        target = _shown(self.states[edge.target].name)
        return f"{edge.action:<7} -> {target}" + (f"  if {edge.condition}" if edge.condition else "")

    def svg(self) -> str:
        """The same as a picture."""
        return _drawn(self)


def _shown(name: str) -> str:
    return "(end)" if name == _END else name


def explain(pattern: Pattern) -> Explanation:
    """See `Pattern.explain`."""
    from adstream._core import CoreError, pattern_automaton

    numbered = Numbered()
    try:
        made = json.loads(pattern_automaton(json.dumps(pattern._document(numbered))))
    except CoreError as error:
        _, code, message, hint, _ = error.args
        raise TopologyError(
            _placed(message, pattern), code=code, operation="Pattern", line=user_line(), hint=hint
        ) from None
    order = _reached(made["states"], made["start"])
    place = {state: i for i, state in enumerate(order)}
    states = []
    for at in order:
        state = made["states"][at]
        edges = tuple(Edge(e["action"], place[e["target"]], numbered.text(e["guard"])) for e in state["edges"])
        states.append(State(state["name"], state["stage"], state["kind"], state["window"], edges))
    return Explanation(tuple(states), made["window"])


def pattern_stages(pattern: Pattern) -> list[_Stage]:
    """All of them, those in groups, too."""
    return [
        one for stage in pattern._stages for one in ([stage] if stage.group is None else pattern_stages(stage.group))
    ]


def _placed(message: str, pattern: Pattern) -> str:
    """With the place of the stage that it names, if the pattern was read from a text."""
    for stage in pattern_stages(pattern):
        if stage.at is not None and f"`{stage.name}`" in message:
            return f"line {stage.at[0]}, column {stage.at[1]}: {message}"
    return message


class Numbered:
    """Conditions by the numbers that the core knows them by, and their texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def guard(self, condition: Any) -> dict[str, Any]:
        """As the plan has it."""
        if isinstance(condition, tuple):
            how, one, other = condition
            return {how: [self.guard(one), self.guard(other)]}
        self.texts.append(condition_text(condition))
        return {"is": len(self.texts) - 1}

    def text(self, guard: Any) -> str:
        """A condition as the core describes it, in words; empty: always."""
        return "" if guard is True else _guard_text(guard, self.texts)


def _guard_text(guard: Any, texts: Sequence[str], inner: bool = False) -> str:
    match guard:
        case True:
            return "true"
        case int():
            return f"({texts[guard]})" if inner else texts[guard]
        case ["within", int(ms)]:
            return f"less than {format_ms(ms)} after the event before"
        case ["not", one]:
            return f"not {_guard_text(one, texts, True)}"
        case [str(how), one, other]:
            text = f"{_guard_text(one, texts, True)} {how} {_guard_text(other, texts, True)}"
            return f"({text})" if inner else text
    raise AssertionError(guard)


def _reached(states: Sequence[dict[str, Any]], start: int) -> list[int]:
    """Those that a run can come to, the nearest first; the end last."""
    found, at = [start], 0
    while at < len(found):
        for edge in states[found[at]]["edges"]:
            if edge["target"] not in found:
                found.append(edge["target"])
        at += 1
    return sorted(found, key=lambda i: states[i]["kind"] == "final")


# --- The picture ----------------------------------------------------------------------------------------------------------


def _drawn(explained: Explanation) -> str:
    states = explained.states
    spans = [(i, e.target) for i, s in enumerate(states) for e in s.edges if s.kind not in ("stop", "final")]
    above = max([b - a for a, b in spans if b > a], default=0) * _LIFT + 2 * _LIFT
    below = max([a - b for a, b in spans if b <= a], default=0) * _LIFT + 4 * _LIFT
    width = 2 * _MARGIN + len(states) * _WIDTH + (len(states) - 1) * _GAP
    height = 2 * _MARGIN + above + _HEIGHT + below
    top = _MARGIN + above
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<defs><marker id="tip" markerWidth="9" markerHeight="9" refX="8" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#6b7280"/></marker></defs>',
    ]
    for i, state in enumerate(states):
        if state.kind not in ("stop", "final"):
            parts += _arcs(i, state, top)
    for i, state in enumerate(states):
        x = _MARGIN + i * (_WIDTH + _GAP)
        about = _ABOUT.get(state.kind, "")
        window = f"within {format_ms(state.window_ms)}" if state.window_ms else ""
        parts.append(
            f"<g><title>{_safe('; '.join(p for p in (_shown(state.name), about, window) if p))}</title>"
            f'<rect x="{x}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{_COLOURS[state.kind]}" '
            f'stroke="#6b7280"/><text x="{x + _WIDTH / 2}" y="{top + _HEIGHT / 2 + 4}" text-anchor="middle">'
            f"{_safe(_cut(_shown(state.name), 'state'))}</text></g>"
        )
    return "\n".join([*parts, "</svg>"])


def _arcs(at: int, state: State, top: int) -> list[str]:
    parts: list[str] = []
    slots: dict[tuple[int, bool], int] = {}
    for edge in state.edges:
        forward = edge.target > at
        slot = slots[(edge.target, forward)] = slots.get((edge.target, forward), -1) + 1
        steps = abs(edge.target - at)
        start = _MARGIN + at * (_WIDTH + _GAP) + _WIDTH / 2
        end = _MARGIN + edge.target * (_WIDTH + _GAP) + _WIDTH / 2
        y = top if forward else top + _HEIGHT
        lift = (steps * _LIFT + 16 + slot * 14) * (-1 if forward else 1)
        if steps == 0:
            start, end, lift = start - 24, end + 24, 40 + slot * 14
        label = edge.action + (f" if {edge.condition}" if edge.condition else "")
        parts.append(
            f"<g><title>{_safe(label)}</title>"
            f'<path d="M{start},{y} C{start},{y + lift} {end},{y + lift} {end},{y}" fill="none" stroke="#6b7280" '
            f'marker-end="url(#tip)"/><text x="{(start + end) / 2}" y="{y + lift * 0.75 + (-4 if forward else 12)}" '
            f'text-anchor="middle" font-size="10">{_safe(_cut(label, "edge"))}</text></g>'
        )
    return parts


def _cut(text: str, what: str) -> str:
    room = _CHARACTERS[what]
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _safe(text: str) -> str:
    return escape(text.translate(_CONTROL))
