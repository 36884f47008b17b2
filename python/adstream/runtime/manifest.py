"""The signature of an application: what its stored state, its shuffles and its tasks rest on, kept in the log.

    topic    <app>-topology, one partition, compacted; the newest record counts
    record   key `plan`, value JSON:

        version      1
        formats      {"frame": 1, "protocol": 2}                   what the newest writer of internal topics writes; how
                                                                   workers share their work
        inputs       {topic: partitions}                           keys are spread by them, lanes are counted by them
        operations   {name: {"kind", "changelog", "meaning"}}      with state, or stores; meaning: [[part, text], …]
        shuffles     [name, …]
        sinks        [name, …]
        ids          {topic: id}                                   of all that it has positions in (`remade.py`)
        resetting    true                                          only while a reset is under way, or broke off (`reset.py`)

At every start the plan is held against it, *before* anything is created or processed: an operation with state that was
renamed, removed or made to mean something else, another number of partitions of an input, another shuffle or sink are
refused, with name, old, new and the remedy. Without it, a rename is noticed only by the restore that finds state of
nobody, and a removed sink not at all. What may change (grace, retention, operations without state, new operations with
state in a sub-topology that is there) is written down as a new record.

*Workers of two protocols are never in one group.* They would not mean the same by "task 3": two would do one task, and
nobody another. So whoever finds another protocol here than its own starts only if the group has no members; and a worker
that runs leaves when another protocol is written (`control.py`), by one that looked before it had joined. Versions from
before there was a protocol count as 1, and refuse to start beside this one: an unknown format is a newer one to them.

*Two workers that start at once agree*: a record is written through a transactional writer of one name, opened before
the last look. Whoever opens it later fences the earlier one, whose commit is then refused, and who looks again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from adstream._core import RawBatch
from adstream.errors import ConfigError, FatalError, LogUnavailableError
from adstream.interfaces import Log, Outcome, TopicSpec, Writer
from adstream.runtime.commit import Commit, write
from adstream.runtime.upgrade import compare

if TYPE_CHECKING:
    from adstream._core import Record

VERSION = 1
PROTOCOL = 2
"""How the workers of a group share their work: what number a task has, what a lease means, what is said in `APP-topology`.
Another one for each change of these. 2: tasks are numbered by partition."""
KEY = b"plan"
MEMBERS_TRIES, MEMBERS_PAUSE_S = 16, 0.5
"""Longer than a session: a worker that was killed is a member until then."""
ATTEMPTS = 30
PAUSE_S = 0.05
TURNS = 600

Signature = Mapping[str, Any]


def topology_topic(app: str) -> TopicSpec:
    return TopicSpec(f"{app}-topology", 1, {"cleanup.policy": "compact"})


def signature(description: Mapping[str, Any], found: Mapping[str, int]) -> Signature:
    """Of a plan (`Plan.describe()`) on topics with these partition counts."""
    subtopologies = description["subtopologies"]
    return {
        "version": VERSION,
        "formats": {**description.get("formats", {}), "protocol": PROTOCOL},
        "inputs": {
            s["topic"]: found[s["topic"]]
            for sub in subtopologies
            for s in sub["sources"]
            if s["kind"] == "user" and s["topic"] in found
        },
        "operations": {
            name: {"kind": kind, "changelog": sub["changelog"], "meaning": meaning}
            for sub in subtopologies
            for node in sub["nodes"]
            for name, kind, meaning in _with_state(node)
        },
        "shuffles": sorted(
            s["topic"].removeprefix(f"{description['app']}-").removesuffix("-repartition")
            for sub in subtopologies
            for s in sub["sources"]
            if s["kind"] == "edge"
        ),
        "sinks": sorted(sink["name"] for sink in description["sinks"]),
    }


def _with_state(node: Mapping[str, Any]) -> list[tuple[str, str, list[list[str]]]]:
    """What of a node has state: name, kind, meaning. Operations on records keep theirs in stores, which are found by their
    own names, as in Kafka Streams: the operation may be renamed, or numbered anew by one before it."""
    meaning = node.get("meaning", [])
    if node["op"] != "flow":
        return [(node["name"], node["op"], meaning)] if meaning else []
    return [(store, "store", [["layout", layout]]) for store, layout in meaning if store in node["stores"]]


def check(app: str, old: Signature, new: Signature) -> None:
    """Whether an application that was `old` may go on as `new`.

    Raises:
        ConfigError: naming what differs, how it was and how it is, and what to do.
        FatalError: `old` was written by a newer version of adstream.
    """
    check_readable(app, old, new)
    wrong = [found for found in compare(old, new) if found.verdict == "refused"]
    if wrong:
        what = wrong[0].text if len(wrong) == 1 else "".join(f"\n  - {found.text}" for found in wrong)
        first = f"{wrong[0].remedy}; or " if wrong[0].remedy else ""
        raise ConfigError(
            f"this is not the topology that `{app}` has state of: {what}",
            option="topology",
            hint=f"{first}start beside the old one under another application id (`--app {app}-2`)",
        )


def check_readable(app: str, old: Signature, new: Signature) -> None:
    """The part of `check` that does not depend on the topology.

    Raises:
        ConfigError: a reset broke off.
        FatalError: `old` was written by a newer version of adstream.
    """
    kept = {name: n for name, n in old["formats"].items() if name != "protocol"} | {"manifest": old["version"]}
    ahead = {name: n for name, n in kept.items() if n > _known(name, new)}
    if ahead:
        raise FatalError(
            f"`{app}` was run by a newer version of adstream, whose stored formats this one does not know ({ahead})\n"
            "hint: use that version, or a newer one"
        )
    if old.get("resetting"):
        raise ConfigError(
            f"a reset of `{app}` was begun and did not come to its end: part of its state is gone",
            option="topology",
            hint="stop all workers and run `adstream reset JOB` again",
        )


def protocol(signature: Signature) -> int:
    """Of the workers that wrote it."""
    return int(signature["formats"].get("protocol", 1))


def other_protocol(app: str, theirs: int, who: str) -> ConfigError:
    """What is told of workers that cannot be in one group."""
    return ConfigError(
        f"`{app}` is run by another version of adstream, whose workers share their work in another way (protocol"
        f" {theirs}, and this one has {PROTOCOL}): {who}",
        option="app",
        hint="stop all its workers first, then start those of one version; one that was killed is gone after its session, 6 s",
    )


def check_members(log: Log, app: str, old: Signature, sleep: Callable[[float], None]) -> None:
    """Whether a worker may start where workers of `old` may run.

    Raises:
        ConfigError: they do run, and have another protocol.
    """
    if protocol(old) == PROTOCOL:
        return
    for _ in range(MEMBERS_TRIES):
        members = log.members(app)
        if not members:
            return
        sleep(MEMBERS_PAUSE_S)
    raise other_protocol(
        app, protocol(old), f"in its group {'is' if len(members) == 1 else 'are'} {', '.join(members)}"
    )


def agree(log: Log, app: str, new: Signature, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Sees to it that the log says `new`, whoever else is starting; its topic exists.

    Raises:
        ConfigError, FatalError: see `check`.
        LogUnavailableError: it did not come to that in some seconds.
    """
    topic = topology_topic(app).name
    trouble: LogUnavailableError | None = None
    for _ in range(ATTEMPTS):
        if stored(log, app) == new:
            return
        try:
            writer = log.writer(topic)
        except LogUnavailableError as error:  # fenced while it was opened
            trouble = error
            sleep(PAUSE_S)
            continue
        try:
            old = stored(log, app)
            if old is not None:
                check(app, old, new)
            if old == new:
                return
            if _write(writer, app, new):
                return
        finally:
            writer.close()
        sleep(PAUSE_S)  # somebody else is writing, or the outcome is not known: look again
    raise LogUnavailableError(f"the signature in `{topic}` could not be written: others keep writing it") from trouble


def mark_reset(log: Log, app: str, old: Signature) -> None:
    """From now on no start is let through, until the topic is deleted. It exists.

    Raises:
        LogUnavailableError: it could not be written.
    """
    writer = log.writer(topology_topic(app).name)
    try:
        if not _write(writer, app, {**old, "resetting": True}):
            raise LogUnavailableError(f"`{topology_topic(app).name}` could not be written: others are writing it")
    finally:
        writer.close()


def internal_topics(app: str, old: Signature) -> list[str]:
    """The topics that an application with this signature made for itself (some of them may never have been there)."""
    shuffles = [f"{app}-{name}{end}" for name in old["shuffles"] for end in ("-repartition", "")]
    changelogs = [it["changelog"] for it in old["operations"].values() if it["changelog"]]
    return [*shuffles, *changelogs, *sink_topics(app, old)]


def sink_topics(app: str, old: Signature) -> list[str]:
    return [f"{app}-{name}-sink" for name in old["sinks"]]


def _write(writer: Writer, app: str, new: Signature) -> bool:
    record: Record = (0, 0, KEY, json.dumps(new, ensure_ascii=False, sort_keys=True).encode(), [])
    commit = Commit([(topology_topic(app).name, 0, RawBatch([record]))], {}, app, None)
    return write(writer, commit, lambda name: None).outcome is Outcome.COMMITTED


def stored(log: Log, app: str) -> Signature | None:
    """The newest signature in the log; None: there is none yet."""
    where = (topology_topic(app).name, 0)
    position, end = log.start_offsets([where])[where], log.end_offsets([where], committed=True)[where]
    found: Signature | None = None
    if position >= end:
        return found
    reader = log.reader()
    try:
        reader.add(*where, position)
        for _ in range(TURNS):
            batch = reader.read(*where, 100)
            if batch is None:
                reader.wait(PAUSE_S)
                continue
            for _, _, key, value, _ in batch.records():
                if key == KEY and value is not None:
                    found = json.loads(value)
            if batch.next_offset >= end:
                return found
    finally:
        reader.close()
    raise LogUnavailableError(f"`{where[0]}` could not be read to its end")


def _known(name: str, new: Signature) -> int:
    return VERSION if name == "manifest" else int(new["formats"].get(name, 0))
