"""Starting over under the same application id: positions of the inputs elsewhere, and nothing left of what was.

    what                             becomes of it
    committed positions              of inputs: where they were asked to be; all others are forgotten
    internal topics                  deleted: shuffles, changelogs, `-topology`, `-tasks`
    rows on their way to sinks       deleted with the positions in the targets, which then count as 0; or kept with them
    local snapshots                  deleted
    outputs, dead letters, rows      stay: results are written once more, behind (topics) or over (targets) the old ones

Which topics are internal follows from the topology at hand and from the one that is stored (`APP-topology`), never from
their names alone: `ads-2-0-changelog` may belong to `ads` or to `ads-2`.

*It can break off anywhere.* Positions without state, or state without positions, would give wrong sums. So the first
thing written is a mark in `APP-topology`, with which no worker starts, and the last thing done is to delete that topic;
whoever resets again begins from the mark, which names what there was.

An input that the application writes itself (a topic in the middle) goes to its end: what is in it will be written again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from adstream.errors import ConfigError
from adstream.interfaces import Administered, TopicPartition
from adstream.runtime import manifest
from adstream.runtime.assignment import topic_kinds

INTERNAL_ENDS = ("-repartition", "-changelog", "-sink", "-registration-topic", "-response-topic")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an input is to be read from. `number`: of `time` UTC ms, of `shift` records (of files: bytes)."""

    kind: Literal["earliest", "latest", "time", "shift", "keep"]
    number: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """`before`, `after`: None is no position, which means the earliest record."""

    where: TopicPartition
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class Reset:
    """What is going to happen."""

    app: str
    moves: tuple[Move, ...]
    absent: tuple[str, ...]
    """Inputs that are not topics of this log: files, read from their beginning."""
    deleted: tuple[str, ...]
    """Internal topics; `APP-topology` is the last."""
    kept: tuple[str, ...]
    """Topics of sinks that keep their rows and positions."""
    sinks: tuple[str, ...]
    """Whose positions in their targets are forgotten."""
    doubtful: tuple[str, ...]
    """Topics that look like internal ones, and are none of this topology's or of the stored one's: left alone."""
    state: Path | None = None
    signature: Mapping[str, Any] = field(default_factory=dict)


def plan(
    log: Administered,
    description: Mapping[str, Any],
    place: Place,
    topics: Mapping[str, Place],
    *,
    keep_sinks: bool = False,
    also: Sequence[str] = (),
    state_dir: str = "",
) -> Reset:
    """Looks, and touches nothing.

    Args:
        description: `Plan.describe()`.
        place: for all inputs that `topics` does not name.
        also: more internal topics to be deleted.

    Raises:
        ConfigError: workers run; a topic that is none of the inputs; a place that does not fit.
    """
    app: str = description["app"]
    refuse_while_it_runs(log, app)
    kinds = topic_kinds(description)
    written = {o["topic"] for sub in description["subtopologies"] for o in sub["outputs"] if o["kind"] == "user"}
    inputs = list(
        dict.fromkeys(s["topic"] for sub in description["subtopologies"] for s in sub["sources"] if s["kind"] == "user")
    )
    for topic in topics:
        if topic not in inputs:
            raise ConfigError(
                f"`{topic}` is no input of `{app}`",
                option="--topic",
                hint=f"its inputs are {', '.join(f'`{name}`' for name in inputs)}",
            )
    there = log.topics()
    for topic in also:
        if topic in inputs or not topic.startswith(f"{app}-"):
            raise ConfigError(f"`{topic}` is no internal topic of `{app}`", option="--internal-topic")
    has_signature = manifest.topology_topic(app).name in there
    old = manifest.stored(log, app) if has_signature else None
    now = manifest.signature(description, log.partitions(list(kinds)))
    signatures = [s for s in (old, now) if s is not None]

    sinks = sorted({name for s in signatures for name in s["sinks"]})
    of_sinks = [topic for s in signatures for topic in manifest.sink_topics(app, s)]
    ours = {topic for topic, kind in kinds.items() if kind in ("edge", "sink", "changelog")}
    ours |= {topic for s in signatures for topic in manifest.internal_topics(app, s)}
    ours |= {f"{app}-tasks", *also}
    kept = sorted((set(of_sinks) - set(also)) & set(there)) if keep_sinks else []
    first = sorted((ours & set(there)) - set(kept) - set(inputs))
    doubtful = [
        t for t in there if t.startswith(f"{app}-") and t.endswith(INTERNAL_ENDS) and t not in ours and t not in inputs
    ]
    state = Path(state_dir) / app if state_dir else None

    places = {topic: topics.get(topic, Place("latest") if topic in written else place) for topic in inputs}
    absent = [topic for topic in inputs if topic not in there]
    for topic in absent:
        if places[topic].kind not in ("earliest", "keep"):
            raise ConfigError(
                f"there is no topic `{topic}`: what is not in the log can only be read from its beginning",
                option="--topic",
                hint=f"--topic {topic}=earliest",
            )
    return Reset(
        app=app,
        moves=tuple(_moves(log, app, {t: p for t, p in places.items() if t not in absent})),
        absent=tuple(absent),
        deleted=(*first, *([manifest.topology_topic(app).name] if has_signature else [])),
        kept=tuple(kept),
        sinks=() if keep_sinks else tuple(sinks),
        doubtful=tuple(doubtful),
        state=state if state is not None and state.exists() else None,
        signature=old if old is not None else now,
    )


def carry_out(log: Administered, reset: Reset, forget: Callable[[str], None], tell: Callable[[str], None]) -> None:
    """Does it. May be repeated, from `plan`, when it broke off.

    Args:
        forget: removes the positions of a sink from its target.
        tell: what was done, line by line.

    Raises:
        ConfigError: workers run; a topic may not be deleted; a target cannot be reached.
        LogUnavailableError: the log does not answer.
    """
    app = reset.app
    topology = manifest.topology_topic(app)
    log.create_topics([topology])
    manifest.mark_reset(log, app, reset.signature)
    refuse_while_it_runs(log, app)  # who started before the mark shows by now
    for sink in reset.sinks:
        forget(sink)
        tell(f"forgotten: the positions of sink `{sink}`")
    log.reset_group(app, {move.where: move.after for move in reset.moves if move.after is not None})
    tell(f"set: {len(reset.moves)} positions of the group `{app}`")
    first = [topic for topic in reset.deleted if topic != topology.name]
    log.delete_topics(first)
    for topic in first:
        tell(f"deleted: topic `{topic}`")
    if reset.state is not None:
        shutil.rmtree(reset.state, ignore_errors=True)
        tell(f"deleted: `{reset.state}`")
    log.delete_topics([topology.name])
    tell(f"deleted: topic `{topology.name}`")


def refuse_while_it_runs(log: Administered, app: str) -> None:
    members = log.members(app)
    if members:
        raise ConfigError(
            f"`{app}` runs: {', '.join(members)}",
            option="reset",
            hint="stop all its workers first; one that was killed is gone after its session, 6 s",
        )


def _moves(log: Administered, app: str, places: Mapping[str, Place]) -> list[Move]:
    counts = log.partitions(list(places))
    where = [(topic, p) for topic in places for p in range(counts[topic])]
    before = log.committed(app, where)
    starts, ends = log.start_offsets(where), log.end_offsets(where, committed=True)
    timed = {tp: places[tp[0]].number for tp in where if places[tp[0]].kind == "time"}
    at = log.offsets_at(timed)
    moves: list[Move] = []
    for tp in where:
        place, was = places[tp[0]], before.get(tp)
        after: int | None
        match place.kind:
            case "earliest":
                after = starts[tp]
            case "latest":
                after = ends[tp]
            case "time":
                after = at[tp]
            case "shift":
                after = (starts[tp] if was is None else was) + place.number
            case "keep":
                after = was
        if after is not None and place.kind != "keep":
            after = max(starts[tp], min(after, ends[tp]))
        moves.append(Move(tp, was, after))
    return moves
