"""What becomes of each part of an application when its topology changes: two signatures (`manifest.py`) held against one
another.

    same        goes on with its state
    extended    is new, and misses nothing: it has no state, or its inputs were never read before
    partial     goes on, or begins, with less than all there was: new state sees only records from now on; an input of a
                topology without state is not read any more
    refused     cannot go on: no worker starts with it

An operation with state is the same if its name, its changelog and its meaning are. Shuffles and sinks must stay: they are
what cuts the state, and who has rows that wait. Operations without state are not in signatures; they may come and go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["same", "extended", "partial", "refused"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of the topology, and what becomes of it."""

    kind: str
    """`input`, `shuffle`, `sink`, `topic`, or the operation's (`aggregate`, `store` …)."""
    name: str
    verdict: Verdict
    text: str = ""
    """How it was and how it is."""
    remedy: str = ""
    """The first thing to do about it, if there is one."""


def compare(old: Mapping[str, Any], new: Mapping[str, Any], read: Collection[str] = ()) -> list[Finding]:
    """All parts of both, inputs first.

    Args:
        read: inputs that have been read already (have committed positions); those of `old` are among them.
    """
    found = [*_inputs(old, new), *_operations(old, new, {*read, *old["inputs"]})]
    return [*found, *_places(old, new, any(f.verdict == "refused" for f in found))]


def _inputs(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Finding]:
    for topic, count in old["inputs"].items():
        now = new["inputs"].get(topic)
        if now is None and old["operations"]:
            text = f"input `{topic}` was read, and is not any more"
            yield Finding("input", topic, "refused", text, f"read `{topic}` again")
        elif now is None:
            yield Finding("input", topic, "partial", f"input `{topic}` was read, and is not any more")
        elif now != count:
            text = f"input `{topic}` had {count} partitions and has {now}: its keys are spread anew, the state is not"
            yield Finding("input", topic, "refused", text)
        else:
            yield Finding("input", topic, "same")
    for topic in new["inputs"]:
        if topic not in old["inputs"]:
            yield Finding("input", topic, "extended", f"input `{topic}` is new: read from its first record")


def _operations(old: Mapping[str, Any], new: Mapping[str, Any], read: Collection[str]) -> Iterator[Finding]:
    fresh = {name: it for name, it in new["operations"].items() if name not in old["operations"]}
    heirs_found: set[str] = set()
    for name, was in old["operations"].items():
        now = new["operations"].get(name)
        kind = was["kind"]
        if now is None:
            heirs = [other for other, it in fresh.items() if it == was]
            if heirs:
                heirs_found.add(heirs[0])
                hint = f"name it `{name}`" if kind == "store" else f'write `.named("{name}")`'
                yield Finding(kind, name, "refused", f"the {kind} `{name}` is called `{heirs[0]}` now", hint)
            else:
                text = f"the {kind} `{name}` is gone; its state is in `{was['changelog']}`"
                yield Finding(kind, name, "refused", text, f"put `{name}` back")
            continue
        parts = _differing(was, now)
        if parts:
            text = f"the {kind} `{name}` means something else now: {'; '.join(parts)}"
            other = f"`{name}-2`" if kind == "store" else f'`.named("{name}-2")`'
            yield Finding(kind, name, "refused", text, f"put it back, and give the new one another name ({other})")
        else:
            yield Finding(kind, name, "same")
    for name, it in fresh.items():
        if name in heirs_found:
            continue
        kind = it["kind"]
        if set(new["inputs"]) & set(read):
            text = f"the {kind} `{name}` is new: it sees only records from now on"
            remedy = "to have it see all, start over (`adstream reset JOB`), or beside the old one under another application id"
            yield Finding(kind, name, "partial", text, remedy)
        else:
            yield Finding(kind, name, "extended", f"the {kind} `{name}` is new")


def _differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    parts = [f"{part} was {was[part]}, is {now[part]}" for part in ("kind", "changelog") if was[part] != now[part]]
    before, after = dict(was["meaning"]), dict(now["meaning"])
    for part in dict.fromkeys([*before, *after]):
        if before.get(part) != after.get(part):
            parts.append(f"{part} was {before.get(part, 'not there')}, is {after.get(part, 'not there')}")
    if not parts and was != now:
        parts.append(f"the order of its parts was {', '.join(before)}, is {', '.join(after)}")
    return parts


def _places(old: Mapping[str, Any], new: Mapping[str, Any], refused: bool) -> Iterator[Finding]:
    for what, key in (("shuffle", "shuffles"), ("sink", "sinks")):
        for name in sorted({*old[key]} & {*new[key]}):
            yield Finding(what, name, "same")
        for name in sorted({*old[key]} - {*new[key]}):
            if what == "shuffle" and name not in new["operations"] and name in old["operations"]:
                continue  # said with the operation
            rows = "rows that it has not written yet would be lost" if what == "sink" else "the state is cut by it"
            refused = True
            yield Finding(what, name, "refused", f"the {what} `{name}` is gone: {rows}", f"put `{name}` back")
        for name in sorted({*new[key]} - {*old[key]}):
            if what == "shuffle" and name not in old["operations"] and name in new["operations"] and refused:
                continue
            refused = True
            text = f"the {what} `{name}` is new: it brings more tasks, and their number is fixed"
            yield Finding(what, name, "refused", text)
