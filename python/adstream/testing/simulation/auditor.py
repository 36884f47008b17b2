"""Who judges: recomputes what must have come out from the records that the broker holds of the source, and compares.

It looks at the broker and the targets when all is quiet, and at nothing that the scenario said. Judged are

    tables      every row of every target, value by value
    topics      final, late and passed rows as multisets; with no shuffle between, their order per source partition, too
    dead        each with its coordinates and reason
    ledger      read = passed + filtered + repeated + dead, from the topics; and the tasks' own counters, which are a
                part of their state, agree with it
    owners      each task runs in exactly one worker, and none was set aside (a corrupt shuffle is)

With at-least-once, outputs may come more than once, and none may be missing.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from adstream.runtime.task import State
from adstream.testing.simulation.scenario import SMALL, versions

if TYPE_CHECKING:
    from adstream._core import Record
    from adstream.testing.simulation.broker import Broker
    from adstream.testing.simulation.cluster import Cluster

Row = tuple[Any, ...]


def converged(cluster: Cluster) -> bool:
    """Whether everything that was sent has gone all its way, and every task runs."""
    return not unfinished(cluster)


def unfinished(cluster: Cluster) -> list[str]:
    broker = cluster.broker
    found = _owners(cluster)
    plan = json.loads(cluster.plan.describe())
    offsets = broker.offsets.get(plan["app"], {})
    sources = {source["topic"] for sub in plan["subtopologies"] for source in sub["sources"]}
    for topic, partitions in broker.topics.items():
        for number, partition in enumerate(partitions):
            if partition.open:
                found.append(f"{topic} [{number}] has an open transaction")
            records = partition.committed_records() if topic in sources else ()
            if records and offsets.get((topic, number), 0) <= records[-1][0]:
                found.append(f"{topic} [{number}] is read to {offsets.get((topic, number), 0)} of {records[-1][0] + 1}")
    for sink in plan["sinks"]:
        for number, partition in enumerate(broker.topics.get(sink["topic"], [])):
            records = partition.committed_records()
            stored = cluster.stores[sink["name"]].positions.get(number, 0)
            if records and stored <= records[-1][0]:
                found.append(f"sink {sink['name']} [{number}] is at {stored} of {records[-1][0] + 1}")
    return found


def judge(cluster: Cluster) -> list[str]:
    """What is wrong, in words; nothing: []."""
    name = cluster.scenario.job.name
    found = JUDGES[name](cluster)
    if not cluster.scenario.exactly_once:
        return [text for text in found if "missing" in text and " 0 missing" not in text]
    return [*found, *_owners(cluster)]


def _owners(cluster: Cluster) -> list[str]:
    """Every task runs, once; no stray transaction, no stray writer."""
    owned: Counter[int] = Counter()
    wanted = 0
    for process in cluster.processes:
        assert process.worker is not None
        wanted = sum(task.kind == "stream" for task in process.worker._assignment.tasks)
        owned.update(index for index, task in process.worker.tasks.items() if task.state is State.RUNNING)
    if len(owned) != wanted or any(count != 1 for count in owned.values()):
        return [f"owners: of {wanted} tasks {len(owned)} run, some twice: {[i for i, n in owned.items() if n > 1]}"]
    return []


# ads.performance


def _performance(cluster: Cluster) -> list[str]:
    truth_of = importlib.import_module("adstream.jobs.ads.truth").compute
    broker = cluster.broker
    source = list(_records(broker, "ad-events"))
    partitions = len(broker.topics["ad-events"])
    truth = truth_of([(p, offset, key, value, ts) for p, (offset, ts, key, value, _) in source], partitions)
    total = truth.total

    def row(r: Any) -> Row:
        sums = (r.impression_count, r.click_count, r.conversion_count, r.total_spend, r.total_revenue)
        return (*sums, _close(r.ctr), _close(r.cvr), r.roas, r.ctr_undefined, r.max_timestamp)

    def stored(r: Mapping[str, Any]) -> tuple[Row, Row]:
        key = (r["campaign_id"], r["product_id"], r["placement"], _ms(r["metric_time"]))
        sums = tuple(r[n] for n in ("impression_count", "click_count", "conversion_count"))
        money = (Decimal(r["total_spend"]), Decimal(r["total_revenue"]))
        ratios = (_close(float(r["ctr"])), _close(float(r["cvr"])), Decimal(r["roas"]))
        return key, (*sums, *money, *ratios, r["ctr_undefined"], _ms(r["updated_at"]))

    table = _store(cluster, "ad_performance_metrics_realtime")
    products = _store(cluster, "product-metrics")
    final = [json.loads(r[3] or b"") for _, r in _records(broker, "ad-performance")]
    late = [json.loads(r[3] or b"") for _, r in _records(broker, "ad-performance-late")]
    dead = list(_dead(broker, "ad-events-dlq"))
    found = [
        *_maps("table", dict(map(stored, table)), {tuple(key): row(r) for key, r in truth.table.items()}),
        *_maps(
            "products",
            {
                r["product_id"]: (
                    *(r["impressions"], r["clicks"], r["conversions"]),
                    *(_close(r["ctr"]), _close(r["cvr"])),
                )
                for r in products
            },
            {
                name: (p.impressions, p.clicks, p.conversions, _close(p.ctr), _close(p.cvr))
                for name, p in truth.products.items()
            },
        ),
        *_bags("final", map(stored, final), ((tuple(key), row(r)) for key, r in truth.final.items())),
        *_bags(
            "late",
            ((r["event_id"], _ms(r["timestamp"])) for r in late),
            ((r.event_id, r.timestamp) for r in truth.late),
        ),
        *_bags("dead", dead, ((d.partition, d.offset, d.reason) for d in truth.dead)),
    ]
    counted = sum(r["impression_count"] + r["click_count"] + r["conversion_count"] for r in table)
    found += _ledger(
        cluster,
        read=len(source),
        ends={
            "passed": counted + len(late),
            "filtered:no_campaign": total.filtered,
            "repeated": total.repeated,
            "dead": len(dead),
        },
    )
    return found


# sim.passing


def _passing(cluster: Cluster) -> list[str]:
    broker = cluster.broker
    source = list(_records(broker, "events"))
    want: dict[tuple[int, int], list[str]] = {}
    dead: list[tuple[int, int, str]] = []
    small = 0
    partition_of: dict[str, int] = {}
    for p, (offset, _, _, value, _) in source:
        event, reason = _event(value)
        if event is None:
            dead.append((p, offset, reason))
        elif event["n"] < 20:
            small += 1
        else:
            want.setdefault((p, p), []).append(event["id"])
            partition_of[event["user"]] = p
    got: dict[tuple[int, int], list[str]] = {}
    for p, (_, _, key, value, _) in _records(broker, "passed"):
        row = json.loads(value or b"")
        if key != row["user"].encode():
            return [f"passed: the key of {row} is {key!r}"]
        got.setdefault((p, partition_of.get(row["user"], -1)), []).append(row["id"])
    rows = [row for rows in got.values() for row in rows]
    found = [
        *_bags("passed", ((row,) for row in rows), ((row,) for rows in want.values() for row in rows)),
        *_bags("dead", _dead(broker, "events-dlq"), dead),
    ]
    if cluster.scenario.exactly_once:
        found += [f"order: partition {tp} differs" for tp in want if got.get(tp) != want[tp]]
        if len(rows) + small + len(dead) != len(source):  # without state, the tasks' counters begin anew each time
            found.append(f"ledger: {len(source)} read, {len(rows)} passed, {small} filtered, {len(dead)} dead")
    return found


# sim.counts


def _counts(cluster: Cluster) -> list[str]:
    broker = cluster.broker
    source = list(_records(broker, "events"))
    groups: dict[tuple[str, int], list[tuple[int, int, int, dict[str, Any]]]] = {}
    dead: list[tuple[int, int, str]] = []
    late: list[tuple[str, int]] = []
    clocks: dict[int, int] = {}
    repeated = 0
    for partition in range(len(broker.topics["events"])):
        seen: dict[str, int] = {}
        clock = -1
        for p, (offset, _, _, value, _) in source:
            if p != partition:
                continue
            event, reason = _event(value)
            if event is None:
                dead.append((p, offset, reason))
                continue
            at = event["at"]
            clock = max(clock, at)
            if event["id"] in seen and clock <= seen[event["id"]] + 600_000:
                repeated += 1
                continue
            seen[event["id"]] = at
            clocks[p] = max(clocks.get(p, -1), at)
            start = at // 60_000 * 60_000
            if start + 65_000 <= clocks[p]:
                late.append((event["id"], at))
            else:
                groups.setdefault((event["kind"], start), []).append((at, p, offset, event))

    def row(events: list[tuple[int, int, int, dict[str, Any]]]) -> Row:
        numbers = [event["n"] for *_, event in events]
        in_order = sorted(events, key=lambda e: e[:3])
        return (
            *(len(events), sum(numbers), min(numbers), max(numbers)),
            *(in_order[0][3]["id"], in_order[-1][3]["id"]),
        )

    def stored(r: Mapping[str, Any]) -> tuple[Row, Row]:
        return (r["kind"], _ms(r["start"])), tuple(r[n] for n in ("rows", "total", "low", "high", "oldest", "newest"))

    rows = {key: row(events) for key, events in groups.items()}
    closed = min(clocks.values()) if len(clocks) == len(broker.topics["events"]) else -1
    table = _store(cluster, "counts")
    final = [json.loads(r[3] or b"") for _, r in _records(broker, "counts-final")]
    got_late = [json.loads(r[3] or b"") for _, r in _records(broker, "counts-late")]
    found = [
        *_maps("table", dict(map(stored, table)), rows),
        *_bags("final", map(stored, final), ((k, r) for k, r in rows.items() if k[1] + 65_000 <= closed)),
        *_bags("late", ((r["id"], _ms(r["at"])) for r in got_late), late),
        *_bags("dead", _dead(broker, "events-dlq"), dead),
    ]
    passed = sum(r["rows"] for r in table) + len(got_late)
    ends = {"passed": passed, "repeated": repeated, "dead": len(dead)}
    return [*found, *_ledger(cluster, read=len(source), ends=ends)]


# sim.records


def _recorded(cluster: Cluster) -> list[str]:
    broker = cluster.broker
    source = list(_records(broker, "events"))
    dead: list[tuple[int, int, str]] = []
    kinds: Counter[str] = Counter()
    last: dict[bytes | None, str] = {}
    small = 0
    for p, (offset, _, key, value, _) in source:
        try:
            event = json.loads(value or b"")
        except ValueError:
            dead.append((p, offset, "malformed_value"))
            continue
        if not isinstance(event["n"], int):  # the filter raises
            dead.append((p, offset, "callable_raised"))
        elif event["n"] < 20:
            small += 1
        else:
            kinds[event["kind"]] += 1
            last[key] = event["kind"]
    counts = ((key, int.from_bytes(value or b"")) for _, (_, _, key, value, _) in _records(broker, "kinds-counts"))
    newest = {key: int.from_bytes(value or b"") for _, (_, _, key, value, _) in _records(broker, "users-last")}
    users = Counter(last.values())
    return [
        *_bags("counts", counts, ((kind.encode(), i + 1) for kind, n in kinds.items() for i in range(n))),
        *_maps(
            "users",
            {key: (n,) for key, n in newest.items()},
            {key: (users.get((key or b"").decode(), 0),) for key in newest}
            | {kind.encode(): (n,) for kind, n in users.items()},
        ),
        *_bags("dead", _dead(broker, "events-dlq"), dead),
        *_ledger(cluster, read=len(source), ends={"passed": kinds.total() + small, "dead": len(dead)}),
    ]


# sim.joins


def _joined(cluster: Cluster) -> list[str]:
    broker = cluster.broker
    source = list(_records(broker, "events"))
    dead: list[tuple[int, int, str]] = []
    large: list[tuple[int, dict[str, Any]]] = []
    small: list[tuple[int, dict[str, Any]]] = []
    for p, (offset, ts, _, value, _) in source:
        try:
            event = json.loads(value or b"")
        except ValueError:
            dead.append((p, offset, "malformed_value"))
            continue
        if not isinstance(event["n"], int):  # the predicate raises
            dead.append((p, offset, "callable_raised"))
        else:
            (large if event["n"] >= 20 else small).append((ts, event))
    pairs = [
        (a["kind"], max(ts, other), a["id"], b["id"])
        for ts, a in large
        for other, b in small
        if a["kind"] == b["kind"] and -20_000 <= other - ts <= 10_000
    ]
    found = (((key or b"").decode(), ts, *json.loads(v or b"")) for _, (_, ts, key, v, _) in _records(broker, "pairs"))
    beside = (((key or b"").decode(), *json.loads(v or b"")) for _, (_, _, key, v, _) in _records(broker, "beside"))
    return [
        *_bags("pairs", found, pairs),
        *_bags("beside", beside, ((event["user"], event["id"], event["id"]) for _, event in large)),
        *_bags("dead", _dead(broker, "events-dlq"), dead),
        *([] if pairs or len(large) * len(small) < 400 else ["pairs: there is none, the check is blind"]),
    ]


# sim.foreign


def _foreign(cluster: Cluster) -> list[str]:
    broker = cluster.broker
    dead: list[tuple[int, int, str]] = []
    kinds: Counter[str] = Counter()
    users: dict[bytes, Any] = {}
    for p, (offset, _, key, value, _) in _records(broker, "events"):
        try:
            event = json.loads(value or b"")
        except ValueError:
            dead.append((p, offset, "malformed_value"))
            continue
        if not isinstance(event["n"], int):  # the predicate raises
            dead.append((p, offset, "callable_raised"))
        elif event["n"] < 20:
            kinds[event["kind"]] += 1
        elif key is not None:
            users[key] = event if event["n"] % 5 else None
    told = {key: value for _, (_, _, key, value, _) in _records(broker, "joined")}
    found = {key: tuple(json.loads(value)) for key, value in told.items() if value is not None}
    rows = {key: (event["id"], kinds.get(event["kind"])) for key, event in users.items() if event is not None}
    return [*_maps("joined", found, rows), *_bags("dead", _dead(broker, "events-dlq"), dead)]


# sim.patterns


def _patterned(cluster: Cluster) -> list[str]:
    """Whatever the order of arrival within the delay: events go by time; what is behind the watermark is late."""
    return _matched(cluster, lambda large: (0, 50, None))


def _ruled(cluster: Cluster) -> list[str]:
    """As `_patterned`; which version it is goes by the time of the large event."""
    first, second = (value for _, value in versions(cluster.scenario.seed))
    begins = second["from"]
    gone = begins if second["running"] == "drop" else None

    def version(large: dict[str, Any]) -> tuple[int, int, int | None]:
        number = first["version"] if large["at"] < begins else second["version"]
        return number, SMALL[number], gone if number == first["version"] else None

    return _matched(cluster, version)


def _laned(cluster: Cluster) -> list[str]:
    """Groups have events of all partitions: each is late by its own partition's time, and time is where the slowest is."""
    return _matched(cluster, lambda large: (0, 50, None), laned=True)


def _matched(
    cluster: Cluster, version: Callable[[dict[str, Any]], tuple[int, int, int | None]], laned: bool = False
) -> list[str]:
    """`version`: of a large event, which one finds it, below what the other has to be, when nothing is left of that version.
    `laned`: by kind instead of by user, behind a shuffle."""
    broker = cluster.broker
    dead: list[tuple[int, int, str]] = []
    late: list[Row] = []
    answered: list[Row] = []
    unanswered: list[Row] = []
    waiting = 0
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    watermarks: list[int] = []
    for partition in range(len(broker.topics["events"])):
        largest = None
        for p, (offset, _, _, value, _) in _records(broker, "events"):
            if p != partition:
                continue
            event, reason = _event(value)
            if event is None:
                dead.append((p, offset, reason))
                continue
            if largest is not None and event["at"] <= largest - 5_001:
                late.append((event["id"], event["at"]))
            else:
                groups.setdefault((0, event["kind"]) if laned else (p, event["user"]), []).append(event)
            largest = max(largest or 0, event["at"])
        watermarks.append((largest or 0) - 5_001)
    for (partition, group), events in groups.items():
        watermark = min(watermarks) if laned else watermarks[partition]
        due = sorted((e for e in events if e["at"] <= watermark), key=lambda e: e["at"])  # stable: ties by partition
        waiting += len(events) - len(due)
        for place, large in enumerate(due):
            if large["n"] < 50:
                continue
            number, below, gone = version(large)
            following = (e for e in due[place + 1 :] if e["n"] < below and e["kind"] == large["kind"])
            small = next(following, None)
            if small is not None and small["at"] - large["at"] < 300_000:
                if gone is None or small["at"] < gone:
                    answered.append((group, number, large["id"], small["id"]))
            elif large["at"] + 300_000 <= watermark and (gone is None or large["at"] + 300_000 < gone):
                unanswered.append((group, number, large["id"]))
    told = [json.loads(r[3] or b"") for _, r in _records(broker, "answered")]
    quiet = [json.loads(r[3] or b"") for _, r in _records(broker, "unanswered")]
    behind = [json.loads(r[3] or b"") for _, r in _records(broker, "patterns-late")]
    # Of a kind another small event soon follows: there, none may be left alone.
    blind = waiting + len(answered) + len(unanswered) > 200 and not (answered and (unanswered or laned))
    return [
        *_bags("answered", ((r["group"], r.get("version", 0), r["large"], r["small"]) for r in told), answered),
        *_bags("unanswered", ((r["group"], r.get("version", 0), r["large"]) for r in quiet), unanswered),
        *_bags("late", ((r["id"], _ms(r["at"])) for r in behind), late),
        *_bags("dead", _dead(broker, "events-dlq"), dead),
        *(["patterns: none was found, the check is blind"] if blind else []),
    ]


JUDGES: Mapping[str, Callable[[Cluster], list[str]]] = {
    "ads.performance": _performance,
    "sim.passing": _passing,
    "sim.counts": _counts,
    "sim.records": _recorded,
    "sim.joins": _joined,
    "sim.foreign": _foreign,
    "sim.patterns": _patterned,
    "sim.rules": _ruled,
    "sim.lanes": _laned,
}


# What all share


def _ledger(cluster: Cluster, *, read: int, ends: Mapping[str, int]) -> list[str]:
    """`ends`: what became of the rows, from topics and tables. The tasks' counters are state: restored, rolled back
    and moved with it, they must say the same."""
    found = []
    if sum(ends.values()) != read:
        found.append(f"ledger: {read} read, but {dict(ends)}")
    counted: Counter[str] = Counter()
    for process in cluster.processes:
        assert process.worker is not None
        for task in process.worker.tasks.values():
            if task.core is not None and task.state is State.RUNNING:
                for reasons in task.core.stats()["counters"].values():
                    for reason, n in reasons.items():
                        counted["dead" if reason.startswith("dead") else reason] += n
    said = {reason: counted[reason] for reason in ends if reason != "passed"}
    want = {reason: n for reason, n in ends.items() if reason != "passed"}
    if said != want:
        found.append(f"ledger: tasks count {said} where {want} is right")
    return found


def _event(value: bytes | None) -> tuple[dict[str, Any] | None, str]:
    try:
        event = json.loads(value or b"")
    except ValueError:
        return None, "malformed_json"
    if "at" not in event:
        return None, "missing_field:at"
    return (event, "") if isinstance(event["n"], int) else (None, "bad_field:n")


def _records(broker: Broker, topic: str) -> Iterator[tuple[int, Record]]:
    for number, partition in enumerate(broker.topics.get(topic, [])):
        for record in partition.committed_records():
            yield number, record


def _dead(broker: Broker, topic: str) -> Iterator[tuple[int, int, str]]:
    for _, (_, _, _, _, headers) in _records(broker, topic):
        said = {name: (text or b"").decode() for name, text in headers}
        yield int(said["adstream.partition"]), int(said["adstream.offset"]), said["adstream.reason"]


def _store(cluster: Cluster, part: str) -> list[dict[str, Any]]:
    """The rows of the one target whose name contains this."""
    (name,) = [name for name in cluster.stores if part in name]
    return list(cluster.stores[name].rows.values())


def _ms(moment: datetime | str) -> int:
    at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def _close(ratio: float) -> str:
    """Which division is done first is nobody's promise, so the last digits are not compared."""
    return f"{ratio:.11e}"


def _maps(what: str, got: Mapping[Any, Row], want: Mapping[Any, Row]) -> list[str]:
    wrong = [key for key in want if key in got and got[key] != want[key]]
    missing, extra = [key for key in want if key not in got], [key for key in got if key not in want]
    if not (wrong or missing or extra):
        return []
    some = [f"{key}: {got.get(key)} where {want.get(key)} is right" for key in [*wrong, *missing, *extra][:3]]
    return [f"{what}: {len(wrong)} wrong, {len(missing)} missing, {len(extra)} too many of {len(want)}: {some}"]


def _bags(what: str, got: Iterable[Row], want: Iterable[Row]) -> list[str]:
    got_bag, want_bag = Counter(got), Counter(want)
    missing, extra = want_bag - got_bag, got_bag - want_bag
    if not (missing or extra):
        return []
    return [
        f"{what}: {missing.total()} missing {list(missing)[:2]}, {extra.total()} too many {list(extra)[:2]}"
        f" of {want_bag.total()}"
    ]
