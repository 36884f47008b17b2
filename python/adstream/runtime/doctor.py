"""Why does nothing come out? What the log alone can tell, and what running workers tell of themselves.

    from the log, looked at twice, some seconds apart        from workers (`/metrics`, `/readyz`)
    ───────────────────────────────────────────────         ──────────────────────────────────────────────
    topics that are missing, empty, or set wrongly           its state, whether it is paused
    a reset that broke off, a topology that is refused       tasks set aside, and why; tasks being restored
    a pause of the whole application                         which partition holds windows open, for how long
    nobody in the group                                      sinks whose targets do not work
    positions that the log does not have any more            commits that were no commits
    lag, and whether positions move                          rows by what became of them, when none went out
    ends behind an open transaction that does not end
    partitions that never had a record, where windows wait
    records that do not lie where their keys say

A finding is `wrong` when it alone explains that nothing comes out, `note` when it may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from adstream.errors import AdstreamError
from adstream.interfaces import Administered, TopicPartition
from adstream.runtime import manifest, partitioning
from adstream.runtime.assignment import topic_kinds
from adstream.runtime.control import Control
from adstream.runtime.remade import check_topics
from adstream.runtime.topic_settings import remarks

SHOWN = 5
"""Partitions named one by one."""
STANDBY_LAG = 10_000
"""Records that a standby may be behind without being named (Kafka Streams: `acceptable.recovery.lag`)."""
OUT, LOSSES = ("out",), ("filtered", "dead", "late", "dropped", "closed_while_idle", "repeated")


@dataclass(frozen=True, slots=True)
class Finding:
    level: Literal["wrong", "note"]
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """One sample of a worker's metrics."""

    name: str
    labels: Mapping[str, str]
    value: float


# From the log


def examine(
    log: Administered,
    description: Mapping[str, Any],
    plan: Mapping[str, Any],
    wait: Callable[[], None],
    *,
    log_option: str = "--log",
) -> list[Finding]:
    """What the log tells. Touches nothing.

    Args:
        description: `Plan.describe()`; `plan`: the plan document.
        wait: lets some seconds pass between the two looks.
        log_option: what said which log, for remedies.

    Raises:
        LogUnavailableError: the log does not answer.
    """
    app: str = description["app"]
    kinds = topic_kinds(description)
    counts = log.partitions(list(kinds))
    inputs = [topic for topic, kind in kinds.items() if kind == "input"]
    found = [
        Finding("wrong", f"input topic `{topic}` does not exist", f"check its name and {log_option}")
        for topic in inputs
        if topic not in counts
    ]
    ran = manifest.topology_topic(app).name in counts
    if not ran:
        found.append(Finding("wrong", f"`{app}` has never run here", f"check --app and {log_option}, or start it"))
    else:
        found += _said(log, app, description, counts)
    members = log.members(app)
    if not members:
        found.append(
            Finding("wrong", f"no worker of `{app}` runs: nobody is in its group", "start it: `adstream run JOB`")
        )
    settings = log.topic_settings([topic for topic in kinds if topic in counts])
    found += [Finding("wrong", str(remark)) for remark in remarks(kinds, plan, settings) if remark.wrong]
    there = [topic for topic in inputs if topic in counts]
    found += _positions(log, app, description, counts, wait, bool(members))
    found += _silent(log, plan, {topic: counts[topic] for topic in there})
    for sample in partitioning.sample(log, [t for t in partitioning.keyed(description) if t in counts]):
        if not sample.good:
            found.append(Finding("note", str(sample), partitioning.HINT))
    return found


def _said(log: Administered, app: str, description: Mapping[str, Any], counts: Mapping[str, int]) -> Iterator[Finding]:
    before = manifest.stored(log, app)
    if before is not None:
        try:
            manifest.check(app, before, manifest.signature(description, counts))
            check_topics(log, app, before, topic_kinds(description), counts)
        except AdstreamError as error:
            text, _, hint = str(error).partition("\nhint: ")
            yield Finding("wrong", f"no worker starts with this topology: {text}", hint)
    reader = log.reader()
    try:
        said = Control(log, reader, app)
        where = (manifest.topology_topic(app).name, 0)
        for _ in range(manifest.TURNS):
            said.read()
            if said.position >= log.end_offsets([where], committed=True)[where]:
                break
            reader.wait(manifest.PAUSE_S)
    finally:
        reader.close()
    if said.paused:
        yield Finding("wrong", f"`{app}` is paused", "`adstream resume JOB`")


def _positions(
    log: Administered,
    app: str,
    description: Mapping[str, Any],
    counts: Mapping[str, int],
    wait: Callable[[], None],
    runs: bool,
) -> list[Finding]:
    topics = list(dict.fromkeys(s["topic"] for sub in description["subtopologies"] for s in sub["sources"]))
    where = [(topic, p) for topic in topics if topic in counts for p in range(counts[topic])]
    if not where:
        return []
    before, open_before = _look(log, app, where)
    if runs or any(open_before.values()):
        wait()
    now, open_now = _look(log, app, where)
    starts, ends = log.start_offsets(where), log.end_offsets(where, committed=True)
    found: list[Finding] = []
    users = {s["topic"] for sub in description["subtopologies"] for s in sub["sources"] if s["kind"] == "user"}
    empty = [
        t for t in topics if t in users and t in counts and all(ends[t, p] <= starts[t, p] for p in range(counts[t]))
    ]
    found += [
        Finding("note", f"`{topic}` has no records that could be read", "does its writer write, and commit?")
        for topic in empty
    ]
    stuck = {tp: n for tp, n in open_now.items() if n and open_before.get(tp) and ends[tp] == _end(before, tp)}
    if stuck:
        text = f"a transaction is open and holds back what is behind it: {_named(stuck, 'records')}"
        hint = "find it with `kafka-transactions.sh find-hanging`; its time-out ends it, after 15 min at the latest"
        found.append(Finding("wrong", text, hint))
    gone = {tp: at for tp, (at, _) in now.items() if at is not None and not starts[tp] <= at <= ends[tp] + open_now[tp]}
    if gone:
        text = f"positions that the log does not have any more: {_named(gone, '')}"
        found.append(
            Finding("wrong", text, "`adstream reset JOB`, or set the group's offsets; what is missing stays missing")
        )
    lag = {tp: ends[tp] - (starts[tp] if at is None else at) for tp, (at, _) in now.items()}
    behind = {tp: n for tp, n in lag.items() if n > 0 and tp not in gone}
    still = {tp: n for tp, n in behind.items() if before[tp][0] == now[tp][0]}
    if behind and runs:
        if still:
            text = f"positions do not move, and there is something to read: {_named(still, 'records')}"
            found.append(
                Finding("note", text, "are tasks being restored or set aside? `--metrics HOST:PORT` asks the workers")
            )
        else:
            found.append(Finding("note", f"it is behind, and catching up: {_named(behind, 'records')}"))
    elif behind:
        found.append(Finding("note", f"there is something to read: {_named(behind, 'records')}"))
    return found


def _look(
    log: Administered, app: str, where: list[TopicPartition]
) -> tuple[dict[TopicPartition, tuple[int | None, int]], dict[TopicPartition, int]]:
    """Position and committed end; records behind the committed end."""
    ends = log.end_offsets(where, committed=True)
    very = log.end_offsets(where, committed=False)
    at = log.committed(app, where)
    return {tp: (at.get(tp), ends[tp]) for tp in where}, {tp: max(0, very[tp] - ends[tp]) for tp in where}


def _end(look: Mapping[TopicPartition, tuple[int | None, int]], tp: TopicPartition) -> int:
    return look[tp][1]


def _silent(log: Administered, plan: Mapping[str, Any], counts: Mapping[str, int]) -> Iterator[Finding]:
    """Partitions that never had a record, of inputs that windows or patterns wait for."""
    windows = any(node["op"] == "aggregate" and node.get("window") for node in plan["nodes"])
    patterns = any(
        node.get("kind") == "match" and node.get("lanes") and not node.get("idle_ms") for node in plan["nodes"]
    )
    who, whom = ("windows", "the source") if windows else ("patterns", "`match`")
    if not windows and not patterns:
        return
    for node in plan["nodes"]:
        topic = node.get("topic")
        if node["op"] != "source" or topic not in counts or (windows and node.get("idle_ms")):
            continue
        where = [(topic, p) for p in range(counts[topic])]
        ends = log.end_offsets(where, committed=True)
        silent = [p for (_, p), end in ends.items() if end == 0]
        if silent and len(silent) < len(where):
            which = ", ".join(map(str, silent[:SHOWN])) + (" …" if len(silent) > SHOWN else "")
            yield Finding(
                "note",
                f"partition {which} of `{topic}` never had a record: {who} behind a shuffle wait until it has",
                f'if that is in order, give {whom} `idle="30s"`',
            )


def _named(places: Mapping[TopicPartition, int], unit: str) -> str:
    shown = sorted(places.items(), key=lambda place: -place[1])[:SHOWN]
    said = ", ".join(f"`{topic}` [{p}] {n}{' ' + unit if unit else ''}" for (topic, p), n in shown)
    return said + (f" and {len(places) - SHOWN} more" if len(places) > SHOWN else "")


# From a worker


def examine_worker(name: str, samples: Iterable[Measured], readiness: str) -> list[Finding]:
    """What a worker tells.

    Args:
        name: how it is called in findings.
        samples: of its `/metrics`.
        readiness: the text of its `/readyz`.
    """
    by_name: dict[str, list[Measured]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    found: list[Finding] = []
    state = next((s.labels["state"] for s in by_name.get("adstream_worker_state", ()) if s.value), "unknown")
    if state != "running":
        level: Literal["wrong", "note"] = "note" if state == "rebalancing" else "wrong"
        found.append(Finding(level, f"{name} is {state}"))
    if any(s.value for s in by_name.get("adstream_paused", ())):
        hint = "`adstream resume JOB`, or `POST /resume` if only this one was paused"
        found.append(Finding("wrong", f"{name} is paused", hint))
    if any(s.value for s in by_name.get("adstream_trouble", ())):
        why = next(
            (line for line in readiness.splitlines()[1:] if not line.startswith("task ")), "its log says for what"
        )
        found.append(Finding("wrong", f"{name} waits: {why}", "it goes on by itself when that is over"))
    errors = dict(
        line.removeprefix("task ").split(": ", 1) for line in readiness.splitlines() if line.startswith("task ")
    )
    for sample in by_name.get("adstream_task_state", ()):
        task, its = sample.labels["task"], sample.labels["state"]
        if its == "quarantined":
            why = errors.get(task, "it failed twice in a row")
            found.append(
                Finding("wrong", f"{name}: task {task} is set aside: {why}", "mend the cause, and restart the worker")
            )
        elif its == "restoring":
            share = next((s.value for s in by_name.get("adstream_task_restored", ()) if s.labels["task"] == task), 0.0)
            found.append(Finding("note", f"{name}: task {task} is being restored, {share:.0%} done"))
    for sample in by_name.get("adstream_standby_lag", ()):
        if sample.value > STANDBY_LAG:
            text = f"{name}: its standby of task {sample.labels['task']} is {sample.value:.0f} records behind"
            found.append(Finding("note", text, "if it stays, the worker has more to do than it can"))
    for sample in by_name.get("adstream_held_seconds", ()):
        of = sample.labels
        windows = next(
            (
                int(s.value)
                for s in by_name.get("adstream_held_windows", ())
                if (s.labels["task"], s.labels["node"]) == (of["task"], of["node"])
            ),
            0,
        )
        found.append(
            Finding(
                "note",
                f"{name}: {windows} windows of `{of['node']}` are held open by partition {of['partition']} of"
                f" `{of['topic']}`, whose clock has not moved for {sample.value:.0f} s",
                'if its silence is in order, give the source `idle="30s"`',
            )
        )
    for sample in by_name.get("adstream_sink_healthy", ()):
        if not sample.value:
            text = f"{name}: the target of sink `{sample.labels['sink']}` does not work"
            found.append(Finding("wrong", text, "its log says why; rows wait meanwhile"))
    found += _commits(name, by_name.get("adstream_commits_total", ()))
    found += _rows(name, by_name.get("adstream_records_total", ()))
    return found


def _commits(name: str, samples: Iterable[Measured]) -> Iterator[Finding]:
    of = {sample.labels["outcome"]: sample.value for sample in samples}
    failed = of.get("aborted", 0) + of.get("fatal", 0)
    if failed > of.get("committed", 0):
        yield Finding(
            "wrong",
            f"{name}: {failed:.0f} commits did not succeed and {of.get('committed', 0):.0f} did",
            "its log says why",
        )


def _rows(name: str, samples: Iterable[Measured]) -> Iterator[Finding]:
    """Rows were read, and none went out: where they went."""
    sums: dict[str, float] = {}
    for sample in samples:
        sums[sample.labels["reason"]] = sums.get(sample.labels["reason"], 0) + sample.value
    read = sums.get("read", 0)
    if read and not any(sums.get(reason) for reason in OUT):
        lost = {reason: n for reason, n in sums.items() if n and reason.split(":")[0] in LOSSES}
        if lost:
            said = ", ".join(
                f"{reason} {n:.0f}" for reason, n in sorted(lost.items(), key=lambda pair: -pair[1])[:SHOWN]
            )
            yield Finding("note", f"{name}: of {read:.0f} records that were read none went out: {said}")
