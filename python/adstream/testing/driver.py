"""The test driver: a whole application in one process, step by step, on a log in memory.

    with ads.testing.TopologyTestDriver(performance, partitions=4) as driver:
        driver.input("ad-events").pipe({...}, at="2024-01-15T10:00:00Z")
        assert driver.output("ad-performance").read() == [...]

What runs is the real engine: the tasks that a worker would run, with their state, shuffles, changelogs and commits.
Only the log is the driver's own. Nothing happens by itself and nothing depends on a clock:

- The logged clock (for `idle=`) stands still until `advance_wall_clock`.
- `pipe` writes records; whoever looks at a result (`read`, `table`, `counters` …) runs the application first.
- A *round* gives each task one turn, upstream tasks first. In its turn a task processes what there is to read and
  commits. So everything piped since the last look is one commit, unless `commit_every` says otherwise.
- A record of a global table's topic is applied when it is piped, after all that was piped before it is worked through.
- Commit points can be seen: a table tells its changes once per commit. Everything else, the final results above all,
  is the same with any commit points, any `batch_rows`, any `seed`, through restarts and crashes; `tests/property`
  holds the engine to that.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from adstream._core import CoreError, Disk, DiskCache, Plan, RawBatch, SinkBuffer, murmur2, serde_read, serde_write
from adstream.dsl.durations import Duration, duration_ms
from adstream.dsl.topology import Built, Topology
from adstream.errors import FatalError, TopologyError
from adstream.formats.registry import connect
from adstream.interfaces import TopicPartition
from adstream.runtime import queries
from adstream.runtime.assignment import TaskSpec, enumerate_tasks
from adstream.targets import sql_function
from adstream.testing.memory import MemoryLog
from adstream.testing.tracing import TracedEvent, with_readers
from adstream.testing.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adstream._core import Generation, Task

Step = Literal["process", "close", "produce", "before-commit", "after-commit"]
STEPS: tuple[Step, ...] = ("process", "close", "produce", "before-commit", "after-commit")

Headers = tuple[tuple[str, bytes | None], ...]
Moment = str | datetime | int

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_ROWS_MAX = 1 << 40
_DISK_CACHE_BYTES = 4096
"""So little that stores on disk are read from there."""
_SEEN_BY_DRIVER = "test-driver-table"


# --- Records ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """A record of an output topic, decoded.

    Attributes:
        key: text, number …, as the topology's `to(key=…)` says; a tuple for several columns; None for no key.
        value: the JSON object; of a stream of keys and values what its serde makes of it.
        timestamp: epoch milliseconds.
    """

    key: Any
    value: Any
    timestamp: int
    headers: Headers = ()
    partition: int = 0


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record as it lies in the log."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that was refused, as it came, and why.

    Attributes:
        reason: stable: `malformed_json`, `bad_field:price`, the name of a `require` rule.
        operator: the operation that refused it.
        offset: in the topic it came from, as `partition`; None for a row that existed only inside.
        message: more about it, if there is more.
    """

    reason: str
    operator: str
    value: bytes | None
    key: bytes | None
    timestamp: int
    partition: int | None
    offset: int | None
    message: str | None = None
    headers: Headers = ()


# --- Tasks ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Running:
    """A task, what it was handed, and the generation that is being committed."""

    spec: TaskSpec
    core: Task
    user: bool
    """Reads a user topic: its rows count for `commit_every`."""
    fed: dict[TopicPartition, int] = field(default_factory=dict)
    in_flight: Generation | None = None
    counted: dict[str, dict[str, int]] = field(default_factory=dict)
    """By earlier lives of a task without a changelog: nobody else remembers."""
    committed_counters: dict[str, dict[str, int]] = field(default_factory=dict)
    counters_in_flight: dict[str, dict[str, int]] = field(default_factory=dict)
    """When the generation in flight was closed: rows of the next one may have been counted since."""
    disk: Disk | None = None
    """Where its stores are, if they are on disk."""


@dataclass(slots=True)
class _Armed:
    step: Step
    commits: int
    restart: bool


class _Crash(Exception):
    def __init__(self, armed: _Armed) -> None:
        self.restart = armed.restart
        self.committed = armed.step == "after-commit"


@contextmanager
def _told() -> Iterator[None]:
    """What the core raises, as adstream's exceptions."""
    try:
        yield
    except CoreError as error:
        kind, code, message, hint, _ = error.args
        if kind == "plan":
            raise TopologyError(message, code=code, hint=hint) from None
        raise FatalError(f"{message} [{code}]") from None


class PatternCounts(NamedTuple):
    """How much one key has of a pattern."""

    live_runs: int
    """Partial matches under way; without the one that waits for a first event."""
    withheld: int
    """Matches that a skip strategy holds back while an older run lives."""
    buffered: int
    """Events that runs have taken, each once."""
    waiting: int
    """Events that the watermark has not passed."""


class TopologyTestDriver:
    """Runs a topology on records that a test hands it.

    Args:
        topology: a topology (with `settings`), or what its `build` returned.
        partitions: of every input topic, or of each by name.
        batch_rows: the most rows a task processes at once; results never depend on it.
        commit_every: a task that reads a user topic commits after so many of its rows; by default with what there is.
            Tasks behind a shuffle commit once in every round.
        pipelined: processes the rows of the next generation before the last one is committed, as a worker does.
        caching: whether tables of keys and values have caches (Kafka Streams: `statestore.cache.max.bytes`, where 0 is
            off); without, each change is told at once and none is left out.
        closing_rows: how many final rows a task tells for one record that closes windows; more of them count as rows of their
            own, so that they may come in several commits. Which ones and in what order never depends on it.
        seed: permutes the order in which tasks get their turns; by default they come in the order of their numbers.
        wall_clock: where the logged clock begins.
        registry: the schema registry: `{"url": "http://…"}` and settings of Confluent's client. By default one
            of the driver's own; `mock://NAME` is one of this process. Serdes that name a registry use theirs.
        store_type: where stores are that do not say it, `"memory"` or `"disk"`: then in a directory of the driver's own, with
            hardly any memory. Results never depend on it.
        connections: name -> URL of the databases that rows are put before (`ask_sql`). Sinks are not among them.
        settings: of the topology.

    In Kafka Streams: `TopologyTestDriver`, which has one partition and commits after every record: write
    `partitions=1, commit_every=1`.

    Raises:
        TopologyError: the topology is wrong.
        ConfigError: a setting is unknown or missing.
    """

    def __init__(
        self,
        topology: Topology | Built,
        *,
        partitions: int | Mapping[str, int] = 4,
        batch_rows: int | None = None,
        commit_every: int | None = None,
        pipelined: bool = False,
        caching: bool = True,
        closing_rows: int | None = None,
        seed: int | None = None,
        wall_clock: Moment = 0,
        registry: Mapping[str, str] | None = None,
        store_type: Literal["memory", "disk"] = "memory",
        connections: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(topology, Built) and settings:
            raise TypeError("a built topology takes no settings any more")
        built = topology if isinstance(topology, Built) else topology.build(**settings)
        # Of patterns: those that are named; what `input` is asked for later is there from then on.
        self._asked = partitions
        self.built = built.matching(partitions) if built.patterns and isinstance(partitions, Mapping) else built
        self._options = _Options(
            _positive("batch_rows", batch_rows),
            _positive("commit_every", commit_every),
            pipelined,
            caching,
            _positive("closing_rows", closing_rows),
            seed,
            store_type,
        )
        connect(self.built.callables, registry or {}, default="mock://")
        self._databases = sql_function.connect(self.built.callables, connections or {})
        self._inputs: dict[str, Input] = {}
        self.partitions: dict[str, int] = {}
        self._understand()
        self._outputs: dict[str, Output] = {}
        self._log = MemoryLog()
        self._globals = self._plan.globals()
        self._shown: dict[TopicPartition, int] = {}
        """How far topics of global tables were read."""
        self._global_topics = {found["topic"] for found in self._description["globals"]}
        self._positions: dict[TopicPartition, int] = {}
        self._armed: _Armed | None = None
        self._random = random.Random(seed)
        self._journal: list[tuple[TopicPartition, RawBatch] | int | None] = []
        """Records, advances of the clock (ms), commit points: what a twin does again."""
        self._now = self._began = _ms(wall_clock)
        self._due: set[int] = set()
        """Tasks that have not closed a generation since the clock moved."""
        self._touched = False
        self._closed = False
        only_records = all(node["op"] == "flow" for node in self.built.plan["nodes"])
        self._one_by_one = only_records and commit_every == 1 and not pipelined
        """As Kafka Streams' driver: a record, a commit, the next one."""
        self._turns = Turns()
        self._folder: str | None = None
        self._disk_cache = DiskCache(_DISK_CACHE_BYTES)
        self._deaths = 0
        self._tasks = [self._start(spec) for spec in self._specs]

    def _understand(self) -> None:
        """What the plan says, and the tasks that follow from it."""
        with _told():
            self._plan = Plan(self.built.json, self.built.callables)
        self._description: dict[str, Any] = json.loads(self._plan.describe())
        kept, self._inputs = self._inputs, {}
        for node in self.built.plan["nodes"]:
            if node["op"] == "source":
                self._inputs[node["topic"]] = Input(self, node)
            elif node["op"] == "flow" and node["kind"] == "source" and not node.get("internal"):
                self._inputs |= {topic: RecordInput(self, topic, node) for topic in node["topics"]}
        self._inputs |= {g["topic"]: RecordInput(self, g["topic"], g) for g in self.built.plan.get("globals", ())}
        self._records = any(node["op"] == "flow" for node in self.built.plan["nodes"])
        asked = self._asked
        counts = {topic: asked if isinstance(asked, int) else asked.get(topic, 1) for topic in self._inputs}
        counts |= {found["topic"]: 1 for found in self._description["globals"] if found["rules"]}
        assignment = enumerate_tasks(self._description, counts, create_topics=True)
        self.partitions = {**self.partitions, **assignment.partitions}  # what a function named stays
        self._widest = max(counts.values(), default=1)
        self._open = _open_sink(self.built.plan)
        self._specs = [spec for spec in assignment.tasks if spec.kind == "stream"]
        order = {tp: level for level, tps in enumerate(assignment.levels) for tp in tps}
        levels: dict[int, list[int]] = {}
        for i, spec in enumerate(self._specs):
            levels.setdefault(order[spec.inputs[0]], []).append(i)
        self._levels = [levels[level] for level in sorted(levels)]
        self._readers = {tp: i for i, spec in enumerate(self._specs) for tp in spec.inputs}
        self._inputs |= {topic: one for topic, one in kept.items() if topic in self._inputs}  # they know the time

    def _find(self, topic: str) -> None:
        """A topic that a pattern matches is there from now on: as when a worker starts again with it."""
        self.run()
        self.built = self.built.matching({*self.built.inputs, topic})
        counted = {task.spec.name: (task.counted, task.committed_counters) for task in self._tasks}
        self._understand()
        self._tasks = [self._start(spec) for spec in self._specs]
        for task in self._tasks:
            if task.spec.name in counted:
                task.counted, committed = counted[task.spec.name]
                if task.spec.changelog is None:
                    _add(task.counted, committed)

    # --- Topics ---------------------------------------------------------------------------------------------------

    def input(self, topic: str, *, start: Moment | None = None, advance: Duration | None = None) -> Input:
        """An input topic, to be written to. One that a source's pattern matches is there as soon as it is asked for.

        Args:
            start: the timestamp of the next record that does not say its own.
            advance: by how much each such record moves that of the next one on; by default not at all.

        In Kafka Streams: `createInputTopic(topic, …, startTimestamp, autoAdvance)`.
        """
        if topic not in self._inputs and self.built.patterns and topic in self.built.matching([topic]).inputs:
            self._find(topic)
        try:
            found = self._inputs[topic]
            found.begin(None if start is None else _ms(start), advance)
            return found
        except KeyError:
            raise KeyError(f"the topology does not read `{topic}`; it reads {', '.join(self._inputs)}") from None

    def output(self, topic: str) -> Output:
        """A topic, to be read from; the same reader each time."""
        if topic not in self.partitions and self._open is None:
            raise KeyError(f"the topology has no topic `{topic}`; it has {', '.join(sorted(self.partitions))}")
        if topic not in self._outputs:
            self._outputs[topic] = Output(self, topic)
        return self._outputs[topic]

    def produced_topics(self) -> list[str]:
        """The topics that the application has written so far, internal ones included. In Kafka Streams: `producedTopicNames`."""
        self.run()
        inputs = {*self._inputs}
        return sorted(t for t in self.partitions if t not in inputs and self._written(t, {}))

    def stores(self) -> dict[str, Any]:
        """All state stores of keys and values, by name; see `store`. In Kafka Streams: `getAllStateStores`."""
        return {name: self.store(name) for name in queries.specs_of(self.built.plan)}

    def dead_letters(self, topic: str) -> list[DeadLetter]:
        """What was refused so far of an input topic, in the order of refusal. Reading takes nothing away."""
        self.run()
        self.input(topic)
        found = self._written(f"{topic}-dlq", {}) if topic not in self._global_topics else []
        return [_dead_letter(record) for _, _, record in found]

    # --- Results --------------------------------------------------------------------------------------------------

    def table(self, name: str) -> dict[Any, dict[str, Any]]:
        """What a sink's target would hold, or what a table holds: its newest row by key.

        Keys are values, or tuples where there are several (for a windowed table the window's start is the last);
        times are aware datetimes, decimals `Decimal`. Rows come in order of their latest update.

        Args:
            name: of a sink, or of an aggregate: what `.named()` gave it, or `describe()` shows.
        """
        self.run()
        for sink in self._description["sinks"]:
            if sink["name"] == name:
                return self._sink_rows(sink)
        for node in self.built.plan["nodes"]:
            if node["op"] == "aggregate" and node["name"] == name:
                return self._observe(node)
        names = [s["name"] for s in self._description["sinks"]]
        names += [node["name"] for node in self.built.plan["nodes"] if node["op"] == "aggregate"]
        raise KeyError(f"there is no sink and no table `{name}`; there are {', '.join(names)}")

    def store(self, name: str, partition: int | None = None) -> Any:
        """A state store of keys and values, to be read: what is committed, of all partitions together, or of one.

        An object of `ads.store`: `get`, `range`, `all`, `prefix_scan` …; of windows `fetch`, `fetch_all`; of sessions
        `fetch`, `find_sessions`. Values of tables' stores are `ads.ValueAndTimestamp`. Entries are in order within a
        partition. What is piped later is seen by objects made later.

        In Kafka Streams: `getKeyValueStore` and its kin, and interactive queries (`KafkaStreams.store`).
        """
        self.run()
        specs = queries.specs_of(self.built.plan)

        def tasks() -> list[Any]:
            asked = (task for task in self._tasks if partition is None or task.spec.partition == partition)
            return [*(task.core for task in asked), self._globals]

        return queries.opened(specs, name, tasks)

    def patterns(self, name: str | None = None) -> dict[Any, PatternCounts]:
        """What is under way of a pattern, by key; keys with nothing are not there.

        Args:
            name: of its operation, or of its store (`materialized=`), if there are several.

        Raises:
            KeyError: there is no such pattern, or it is not said which one.
        """
        self.run()
        matched = {
            n["name"]: n["store"] for n in self.built.plan["nodes"] if n["op"] == "flow" and n["kind"] == "match"
        }
        if name is None and len(matched) == 1:
            (name,) = matched
        store = matched.get(name or "", name)
        if store is None or store not in matched.values():
            known = ", ".join(f"{node} ({kept})" for node, kept in matched.items())
            raise KeyError(f"no pattern is matched by `{name}`; there are: {known or 'none'}")
        total: dict[Any, list[int]] = {}
        for task in self._tasks:
            for key, counts in task.core.pattern_counts(store):
                # Without a key each partition has one entry.
                total[key] = [a + b for a, b in zip(total.get(key, [0] * len(counts)), counts, strict=True)]
        return {key: PatternCounts(*counts) for key, counts in total.items()}

    def trace(self, key: Any, operation: str | None = None) -> list[TracedEvent]:
        """What became of each event of a key: by event time, which of the key's runs took it, skipped it or ended with it and
        why, and which runs were given up because their window was over. `print(*driver.trace("c1"), sep="\\n")` reads well.

        Args:
            key: the key of the events; None where a pattern has none.
            operation: the name of the pattern's operation, if there are several.

        What was piped so far is done again for it, without the restarts and crashes.

        Raises:
            KeyError: there is no such operation, or no pattern at all.
        """
        self.run()
        plan, readers = with_readers(self.built.plan, operation)
        if not readers:
            known = [n["name"] for n in self.built.plan["nodes"] if n["op"] == "flow" and n["kind"] == "match"]
            raise KeyError(f"no pattern is matched by `{operation}`; there are: {', '.join(known) or 'none'}")
        found = []
        with self._twin(plan) as twin:
            for reader in readers:
                records = twin.output(reader.topic).read()
                found += [reader.read(r.timestamp, r.value) for r in records if r.key == key]
        return sorted(found, key=lambda one: (one.at, one.timed_out is None))

    def counters(self) -> dict[str, dict[str, int]]:
        """What became of rows, by operation and reason, over all tasks: `counters()["gross"]["late"]`."""
        self.run()
        total: dict[str, dict[str, int]] = {}
        for task in self._tasks:
            for found in (task.counted, _counters(task.core)):
                _add(total, found)
        _add(total, {name: reasons for name, (_, reasons) in self._globals.stats().items() if reasons})
        return total

    @property
    def late(self) -> int:
        """How many rows came too late, over all windowed tables; `closed_while_idle` included."""
        return sum(
            reasons.get(reason, 0) for reasons in self.counters().values() for reason in ("late", "closed_while_idle")
        )

    # --- Running --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Runs all tasks until nothing moves any more; then everything is committed."""
        if self._closed:
            raise RuntimeError("the driver is closed")
        if self._touched:
            self._journal.append(None)
            self._touched = False
        with _told():
            while self._round():
                pass

    def commit(self) -> None:
        """A commit point: what was piped before it is processed and committed, apart from what is piped after it."""
        self.run()

    def advance_wall_clock(self, by: Duration) -> None:
        """Lets the clock of the workers pass, by `"30s"` or a `timedelta`, with no record coming: what `idle=` counts.

        In Kafka Streams: `advanceWallClockTime`.
        """
        ms = duration_ms(by, "by", operation="advance_wall_clock")
        self.run()
        self._journal.append(ms)
        self._now += ms
        moved = True
        while moved:  # one silence may follow from another
            with _told():
                self._due = set(range(len(self._specs)))
                moved = self._round()
                while self._round():
                    pass

    def restart(self) -> None:
        """All tasks are dropped and restored from their changelogs. Results do not change."""
        self.run()
        with _told():
            self._recover(restart=True)

    def crash_at(self, step: Step, *, commits: int = 0, restart: bool = True) -> None:
        """The next commit, of whichever task, dies at this step, and all tasks go back to what is committed.

        Args:
            step: `process` (some rows processed), `close` (the generation closed), `produce` (half of it written),
                `before-commit` (all of it written); in all these nothing of it remains. `after-commit`: it is
                committed, but the task does not learn of it.
            commits: how many commits succeed before.
            restart: whether memory is lost, too; False: the commit is aborted, and tasks undo in memory what was in
                vain.
        """
        if step not in STEPS:
            raise ValueError(f"no step `{step}`; there are {', '.join(STEPS)}")
        if step == "after-commit" and not restart:
            raise ValueError("what is committed cannot be undone: leave out `restart=False`")
        self._armed = _Armed(step, commits, restart)

    @property
    def crashed(self) -> bool:
        """Whether the crash that was asked for has happened."""
        return self._armed is None

    def close(self) -> None:
        self._closed = True
        self._tasks = []
        self._databases.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TopologyTestDriver {self.built.app}: {len(self._specs)} tasks>"

    # --- Inside: turns --------------------------------------------------------------------------------------------

    def _round(self) -> bool:
        """One turn for each task, upstream first; whether anything moved. A crash does not take a task's turn away, so
        that commits hold the same rows as without it."""
        if self._turns:
            return self._next()
        if self._records and self._options.commit_every is not None:
            return self._earliest()
        moved = False
        for level in self._levels:
            waiting = list(level)
            while waiting:
                order = self._random.sample(waiting, len(waiting)) if self._options.seed is not None else waiting
                for i in list(order):
                    try:
                        moved |= self._turn(i)
                    except _Crash as crash:
                        self._recover(crash.restart)
                        moved = True
                        if self._options.pipelined or not crash.committed:
                            break
                    waiting.remove(i)
        return moved

    def _next(self) -> bool:
        """Takes the record that Kafka Streams' driver would take, and commits."""
        before = self._turns.copy()
        tp = self._turns.poll()
        i = self._readers[tp]
        task = self._tasks[i]
        head = self._log.first(tp, task.fed[tp])
        assert head is not None
        after = head[0] + 1
        self._offer(tp, after)
        try:
            self._feed(task, {**task.fed, tp: after})
            self._process(task, 1)
            self._close(task)
            self._due.discard(i)
            self._commit(task)
        except _Crash as crash:
            self._recover(crash.restart)
            if not crash.committed:
                self._turns = before
        return True

    def _offer(self, tp: TopicPartition, since: int | None = None) -> None:
        """A topic has something to be read, if it does."""
        if self._one_by_one and tp in self._readers and tp not in self._turns:
            head = self._log.first(tp, self._tasks[self._readers[tp]].fed[tp] if since is None else since)
            if head is not None:
                self._turns.offer(head[1], tp)

    def _earliest(self) -> bool:
        """A turn for the task whose next record is the earliest, as one task of Kafka Streams' test driver would choose
        among all topics; ties by number. Whether anything moved."""
        times = []
        for i, task in enumerate(self._tasks):
            self._feed(task, {})
            time = task.core.next_time()
            if time is not None:
                times.append((time, i))
        waiting = {i for i, task in enumerate(self._tasks) if task.in_flight is not None}
        turns = [min(times)[1]] if times else sorted(self._due | waiting)
        moved = False
        for i in turns:
            try:
                moved |= self._turn(i, every=True)
            except _Crash as crash:
                self._recover(crash.restart)
                return True
        return moved

    def _turn(self, i: int, every: bool = False) -> bool:
        task = self._tasks[i]
        # Where records are taken one by one, this turn is one of the clock's: what it makes others write waits for its own.
        self._feed(task, task.fed if self._one_by_one else {})
        rows = self._process(task, self._options.commit_every if task.user or every else None)
        if task.in_flight is not None:
            self._commit(task)
            if not rows:
                return True
        if not rows and i not in self._due:
            return False
        self._close(task)
        self._due.discard(i)
        if not rows and task.in_flight is not None and task.in_flight.empty:
            task.in_flight = None
            task.core.committed()
            return False
        if not self._options.pipelined:
            self._commit(task)
        return True

    def _feed(self, task: _Running, until: Mapping[TopicPartition, int]) -> None:
        for tp in task.spec.inputs:
            end = until.get(tp, self._log.end(tp))
            if task.fed[tp] < end:
                task.core.feed(*tp, self._log.read(tp, task.fed[tp], end))
                task.fed[tp] = end
            task.core.caught_up(*tp, True)

    def _process(self, task: _Running, budget: int | None) -> int:
        done = 0
        while budget is None or done < budget:
            step = self._options.batch_rows or _ROWS_MAX
            rows = task.core.process(step if budget is None else min(step, budget - done))
            if not rows:
                break
            done += rows
            self._pass("process")
            if task.core.commit_asked:
                break
        return done

    def _close(self, task: _Running) -> None:
        generation = self._generation(task)
        self._pass("close")
        task.in_flight = generation

    def _generation(self, task: _Running) -> Generation:
        if self._now:
            task.core.tick(self._now)
        task.counters_in_flight = _counters(task.core)
        return task.core.close_generation()

    def _commit(self, task: _Running) -> None:
        assert task.in_flight is not None
        outputs, positions = task.in_flight.outputs, task.in_flight.positions
        self._pass("produce", lambda: self._log.abort(outputs[: (len(outputs) + 1) // 2]))
        self._pass("before-commit", lambda: self._log.abort(outputs))
        end = None if task.disk is None or task.spec.changelog is None else self._log.end(task.spec.changelog)
        self._log.commit(outputs)
        for topic, p, _ in outputs:
            self._show_global((topic, p))
            self._offer((topic, p))
        self._positions |= positions
        task.in_flight = None
        if task.spec.changelog is None:
            task.committed_counters = task.counters_in_flight
        self._pass("after-commit")
        task.core.committed(end)
        if task.disk is not None:
            task.disk.tidy()
        if self._armed is not None:
            self._armed.commits -= 1

    def _pass(self, step: Step, before: Callable[[], None] = lambda: None) -> None:
        """Passes a step, or dies there."""
        armed = self._armed
        if armed is not None and armed.step == step and armed.commits <= 0:
            self._armed = None
            before()
            raise _Crash(armed)

    # --- Inside: lives --------------------------------------------------------------------------------------------

    def _start(self, spec: TaskSpec) -> _Running:
        """A task as its changelog and its committed positions say."""
        with _told():
            options = json.dumps({"cache": self._options.caching, "closing_rows": self._options.closing_rows})
            core = self._plan.task(
                spec.subtopology, spec.partition, self.partitions, options, self._globals, self._find_topic
            )
            disk = self._open_disk(spec) if core.on_disk(self._options.store_type) else None
            if disk is not None:
                core.attach(disk, self._options.store_type)
            if spec.changelog is not None and self._log.end(spec.changelog):
                position = None if disk is None else disk.position
                if position and core.in_memory:
                    core.restore(self._log.read(spec.changelog, 0, position), known=True)
                core.restore(self._log.read(spec.changelog, position or 0))
            task = _Running(spec, core, user=any(topic in self._inputs for topic, _ in spec.inputs), disk=disk)
            for tp in spec.inputs:
                task.fed[tp] = self._positions.get(tp, 0)
                core.feed(*tp, RawBatch([], task.fed[tp]))
            core.begin(self._began)
        return task

    def _find_topic(self, topic: str) -> int | None:
        """Whatever a function names is there."""
        return self.partitions.setdefault(topic, self._widest)

    def _open_disk(self, spec: TaskSpec) -> Disk:
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="adstream-")
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return Disk(os.path.join(self._folder, spec.name), self._disk_cache)

    def _recover(self, restart: bool) -> None:
        """All tasks go back to what is committed. What was in flight between two turns is made again, of the same
        rows. Global tables are read again whole."""
        if restart and self._global_topics:
            self._globals = self._plan.globals()
            self._shown.clear()
            for tp in ((topic, p) for topic in self._global_topics for p in range(self.partitions[topic])):
                self._show_global(tp)
        for i, task in enumerate(self._tasks):
            lost, task.in_flight = task.in_flight, None
            if restart:
                self._deaths += 1
                if task.disk is not None and self._deaths % 2:  # else what was not written yet is read again
                    task.disk.tidy(all=True)
                counted = task.counted
                if task.spec.changelog is None:
                    _add(counted, task.committed_counters)
                task = self._tasks[i] = self._start(task.spec)
                task.counted = counted
            else:
                positions = task.core.rollback()
                task.core.begin(self._began)
                task.fed = {tp: positions[tp] for tp in task.spec.inputs}
            if lost is not None and self._options.pipelined:
                self._feed(task, lost.positions)
                self._process(task, None)
                task.in_flight = self._generation(task)

    # --- Inside: looking ------------------------------------------------------------------------------------------

    def _pipe(self, tp: TopicPartition, batch: RawBatch) -> None:
        if self._closed:
            raise RuntimeError("the driver is closed")
        if tp[0] in self._global_topics:  # what was piped before does not see it
            self.run()
        self._log.append(tp, batch.records())
        self._show_global(tp)
        self._offer(tp)
        self._journal.append((tp, batch))
        self._touched = True

    def _show_global(self, tp: TopicPartition) -> None:
        if tp[0] in self._global_topics:
            self._globals.apply(*tp, self._log.read(tp, self._shown.get(tp, 0)))
            self._shown[tp] = self._log.end(tp)

    def _written(self, topic: str, since: dict[int, int]) -> list[tuple[int, int, Any]]:
        """(place in the log, partition, record) of a topic's records from these offsets on, as they were written."""
        found = [
            (place, p, record)
            for p in range(self.partitions.get(topic, 0))
            for place, record in self._log.written((topic, p), since.get(p, 0))
        ]
        return sorted(found, key=lambda item: item[0])

    def _sink_rows(self, sink: Mapping[str, Any]) -> dict[Any, dict[str, Any]]:
        rows: dict[Any, dict[str, Any]] = {}
        buffer = SinkBuffer(self._plan, sink["name"])
        for p in range(self.partitions[sink["topic"]]):
            buffer.add(self._log.read((sink["topic"], p), 0))
        columns = buffer.drain()
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            key = tuple(row[name] for name in sink["key"])
            rows[key[0] if len(key) == 1 else key] = row
        return rows

    def _observe(self, node: Mapping[str, Any]) -> dict[Any, dict[str, Any]]:
        """A table that no sink keeps: the same records, at the same commit points, through the same topology with a
        sink behind that table."""
        key = [*node["keys"], *(["$window_start"] if node["window"] else [])]
        bounds = ["$window_start", "$window_end"] if node["window"] else []
        columns = [*node["keys"], *bounds, *(a["name"] for a in node["aggregates"])]
        nodes = list(self.built.plan["nodes"])
        stream = {"op": "to_stream", "name": f"{_SEEN_BY_DRIVER}-changes", "inputs": [[node["id"], 0]]}
        sink = {
            "op": "sink",
            "name": _SEEN_BY_DRIVER,
            "inputs": [[len(nodes), 0]],
            "kind": "test",
            "key": key,
            "columns": columns,
            "options": {},
        }
        nodes += [{"id": len(nodes), "line": None, **stream}, {"id": len(nodes) + 1, "line": None, **sink}]
        with self._twin({**self.built.plan, "nodes": nodes}) as twin:
            return twin.table(_SEEN_BY_DRIVER)

    @contextmanager
    def _twin(self, plan: dict[str, Any]) -> Iterator[TopologyTestDriver]:
        """Another plan with the same functions, to which the same has come, at the same commit points."""
        built = Built(self.built.app, plan, self.built.callables, self.built.settings, self.built.nodes)
        options = self._options
        counts = {topic: self.partitions[topic] for topic in self._inputs}
        with TopologyTestDriver(
            built,
            partitions=counts,
            batch_rows=options.batch_rows,
            commit_every=options.commit_every,
            pipelined=options.pipelined,
            caching=options.caching,
            closing_rows=options.closing_rows,
            seed=options.seed,
            wall_clock=self._began,
        ) as twin:
            for item in self._journal:
                if item is None:
                    twin.run()
                elif isinstance(item, int):
                    twin.advance_wall_clock(item * _MS)
                else:
                    twin._pipe(*item)
            yield twin


@dataclass(frozen=True, slots=True)
class _Options:
    batch_rows: int | None
    commit_every: int | None
    pipelined: bool
    caching: bool
    closing_rows: int | None
    seed: int | None
    store_type: str


# --- Ends -------------------------------------------------------------------------------------------------------------


class Input:
    """An input topic as a producer sees it. Made by `TopologyTestDriver.input`."""

    def __init__(self, driver: TopologyTestDriver, source: Mapping[str, Any]) -> None:
        self._driver = driver
        self.topic: str = source["topic"]
        self._codec = None if source.get("decode") is None else driver.built.callables[source["decode"]]
        paths = source.get("paths", {})
        fields = {f["name"]: {**f, "path": paths.get(f["name"], f["path"])} for f in source["fields"]}
        self._time: Mapping[str, Any] | None = fields.get(source["timestamp"])
        self._key = [fields[name] for name in source["key"] or ()]
        self._timestamp = self._advance_ms = 0

    def begin(self, start: int | None, advance: Duration | None) -> None:
        """See `TopologyTestDriver.input`."""
        if start is not None:
            self._timestamp = start
        if advance is not None:
            self._advance_ms = duration_ms(advance, "advance", operation="input")

    def advance_time(self, by: Duration) -> None:
        """Moves the timestamp on that the next record has if it does not say its own. In Kafka Streams: `advanceTime`."""
        self._timestamp += duration_ms(by, "by", operation="advance_time")

    def _moment(self, given: int | None) -> int:
        """The next record's timestamp."""
        if given is not None:
            self._timestamp = given
            return given
        at, self._timestamp = self._timestamp, self._timestamp + self._advance_ms
        return at

    def pipe(
        self,
        value: Mapping[str, Any] | bytes | str | None,
        *,
        key: Any = None,
        partition: int | None = None,
        at: Moment | None = None,
        headers: Iterable[tuple[str, bytes | None]] = (),
    ) -> None:
        """Writes one record.

        Args:
            value: a mapping becomes JSON (decimals as text, aware datetimes as RFC 3339), or what the topic's format makes
                of it; text and bytes are written as they are; None is a tombstone.
            key: text, bytes, an int, or several values; by default made of the fields that the topic is keyed by.
            partition: by default what Java's producer would choose for the key; 0 without one.
            at: the record's timestamp, as RFC 3339 text, aware datetime or epoch milliseconds; also written into the
                event-time field of a mapping that lacks it. By default that field's time, or the last record's.
        """
        given = None if at is None else _ms(at)
        if isinstance(value, Mapping):
            event = dict(value)
            if given is not None and self._time is not None:
                _fill(event, self._time, given)
            if given is None and self._time is not None:
                given = _time_of(event, self._time)
            if key is None and self._key:
                key = _key_of(event, self._key)
            payload: bytes | None
            if self._codec is None:
                payload = json.dumps(
                    event, ensure_ascii=False, separators=(",", ":"), default=_plain, allow_nan=False
                ).encode()
            else:
                payload = self._encoded(event)
        else:
            payload = value.encode() if isinstance(value, str) else value
        encoded = None if key is None else _encode_key(key)
        self._write(encoded, payload, partition, headers, given)

    def _encoded(self, event: dict[str, Any]) -> bytes:
        """By the topic's format. Raises ValueError: it can only be read."""
        inverse = getattr(self._codec, "inverse", None)
        if inverse is None:
            raise ValueError(f"the format of `{self.topic}` can only be read here: pipe bytes, or give it a schema")
        if self._time is not None and (text := event.get(self._time["path"][0])) is not None and isinstance(text, str):
            event[self._time["path"][0]] = datetime.fromisoformat(text)
        made: bytes = inverse(event)
        return made

    def _write(
        self,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        headers: Iterable[tuple[str, bytes | None]],
        given: int | None,
    ) -> None:
        count = self._driver.partitions[self.topic]
        if partition is None:
            partition = 0 if key is None else (murmur2(key) & 0x7FFFFFFF) % count
        if not 0 <= partition < count:
            raise ValueError(f"`{self.topic}` has {count} partitions, there is no {partition}")
        record = (0, self._moment(given), key, value, list(headers))
        self._driver._pipe((self.topic, partition), RawBatch([record]))

    def pipe_many(
        self,
        values: Iterable[Mapping[str, Any] | bytes | str | None],
        *,
        key: Any = None,
        partition: int | None = None,
        at: Moment | None = None,
        every: timedelta | None = None,
    ) -> None:
        """Writes several records; `every` moves `at` on from one to the next."""
        moment = None if at is None else _ms(at)
        if every is not None and moment is None:
            raise ValueError("`every` needs `at`: from when on?")
        for value in values:
            self.pipe(value, key=key, partition=partition, at=moment)
            if every is not None and moment is not None:
                moment += every // _MS

    def pipe_key_values(
        self, pairs: Iterable[tuple[Any, Any]], *, at: Moment | None = None, every: Duration | None = None
    ) -> None:
        """Writes several records, (key, value). In Kafka Streams: `pipeKeyValueList`.

        Args:
            at: the first one's timestamp; by default theirs is as of any record that does not say its own.
            every: by how much each one's timestamp lies behind that of the one before.

        Raises:
            ValueError: `every` without `at`.
        """
        moment = None if at is None else _ms(at)
        step = 0 if every is None else duration_ms(every, "every", operation="pipe_key_values")
        if every is not None and moment is None:
            raise ValueError("`every` needs `at`: from when on?")
        for key, value in pairs:
            self.pipe(value, key=key, at=moment)
            moment = None if moment is None else moment + step

    def __repr__(self) -> str:
        return f"<Input {self.topic}>"


class RecordInput(Input):
    """An input topic of keys and values. Made by `TopologyTestDriver.input`."""

    def __init__(self, driver: TopologyTestDriver, topic: str, source: Mapping[str, Any]) -> None:
        self._driver = driver
        self.topic = topic
        self._timestamp = self._advance_ms = 0
        self._key_spec, self._value_spec = json.dumps(source["key"]), json.dumps(source["value"])

    def pipe(
        self,
        value: Any,
        *,
        key: Any = None,
        partition: int | None = None,
        at: Moment | None = None,
        headers: Iterable[tuple[str, bytes | None]] = (),
    ) -> None:
        """Writes one record, by the serdes with which the topology reads the topic.

        Args:
            value: what the serde takes; None for none.
            key: what the serde takes; None for none.
            partition: by default what Java's producer would choose for the key; 0 without one.
            at: the record's timestamp, as RFC 3339 text, aware datetime or epoch milliseconds; by default the last
                record's.
        """
        callables = self._driver.built.callables
        self.pipe_raw(
            serde_write(self._key_spec, callables, key),
            serde_write(self._value_spec, callables, value),
            partition=partition,
            at=at,
            headers=headers,
        )

    def pipe_raw(
        self,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        at: Moment | None = None,
        headers: Iterable[tuple[str, bytes | None]] = (),
    ) -> None:
        """Writes one record as it is."""
        self._write(key, value, partition, headers, None if at is None else _ms(at))


class Output:
    """A topic as a consumer sees it: each record is read once. Made by `TopologyTestDriver.output`."""

    def __init__(self, driver: TopologyTestDriver, topic: str) -> None:
        self._driver = driver
        self.topic = topic
        self._read: dict[int, int] = {}
        self._waiting: deque[RawRecord] = deque()
        self._types = _key_types(driver._description, driver.built.plan, topic)
        self._serdes = _serdes_of(driver.built.plan, topic)
        codec = _format_of(driver.built.plan, topic)
        self._value: Any = json.loads if codec is None else getattr(driver.built.callables[codec], "inverse", None)

    def read(self) -> list[Record]:
        """Runs the application, and returns what came since the last read, in the order it was written. In Kafka Streams:
        `readRecordsToList`."""
        return [self._decoded(raw) for raw in self.read_raw()]

    def read_record(self) -> Record:
        """The next record that was not read yet. In Kafka Streams: `readRecord`.

        Raises:
            LookupError: there is none.
        """
        if self.is_empty():
            raise LookupError(f"`{self.topic}` is empty: everything was read")
        return self._decoded(self._waiting.popleft())

    def read_value(self) -> Any:
        """The value of the next record; see `read_record`. In Kafka Streams: `readValue`."""
        return self.read_record().value

    def read_key_value(self) -> tuple[Any, Any]:
        """Key and value of the next record; see `read_record`. In Kafka Streams: `readKeyValue`."""
        found = self.read_record()
        return found.key, found.value

    def read_values(self) -> list[Any]:
        """The values of what `read` returns. In Kafka Streams: `readValuesToList`."""
        return [record.value for record in self.read()]

    def read_key_values(self) -> list[tuple[Any, Any]]:
        """Keys and values of what `read` returns. In Kafka Streams: `readKeyValuesToList`."""
        return [(record.key, record.value) for record in self.read()]

    def read_latest(self) -> dict[Any, Any]:
        """Of what `read` returns, the last value of each key. In Kafka Streams: `readKeyValuesToMap`.

        Raises:
            ValueError: a record has no key. Nothing was read then.
        """
        found = [self._decoded(raw) for raw in self._come()]
        if any(record.key is None for record in found):
            raise ValueError(f"a record of `{self.topic}` has no key: use `read_key_values`")
        self._waiting.clear()
        return {record.key: record.value for record in found}

    def queue_size(self) -> int:
        """How many records were not read yet. In Kafka Streams: `getQueueSize`."""
        return len(self._come())

    def is_empty(self) -> bool:
        """Whether all records were read. In Kafka Streams: `isEmpty`."""
        return not self._come()

    def read_raw(self) -> list[RawRecord]:
        """As `read`, the bytes as they are."""
        found = list(self._come())
        self._waiting.clear()
        return found

    def _come(self) -> deque[RawRecord]:
        """What was not read yet."""
        self._driver.run()
        for _, p, (offset, timestamp, key, value, headers) in self._driver._written(self.topic, self._read):
            self._read[p] = offset + 1
            self._waiting.append(RawRecord(p, offset, timestamp, key, value, tuple(headers)))
        return self._waiting

    def _decoded(self, raw: RawRecord) -> Record:
        if self._serdes is not None:
            spec, callables = self._serdes, self._driver.built.callables
            key, value = serde_read(spec[0], callables, raw.key), serde_read(spec[1], callables, raw.value)
        else:
            key = None if raw.key is None else _decode_key(raw.key, self._types)
            value = None if raw.value is None else self._value(raw.value)
        return Record(key, value, raw.timestamp, raw.headers, raw.partition)

    def __repr__(self) -> str:
        return f"<Output {self.topic}>"


# --- Encoding ---------------------------------------------------------------------------------------------------------


def _positive(name: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise ValueError(f"`{name}` is {value}; it must be at least 1")
    return value


def _ms(moment: Moment) -> int:
    if isinstance(moment, int):
        return moment
    when = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    if when.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone: write `2024-01-15T10:00:00Z`, or an aware datetime")
    return (when - _EPOCH) // _MS


def _rfc3339(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_PER_MS = {"s": (1, 1000), "ms": (1, 1), "us": (1000, 1)}


def _fill(event: dict[str, Any], time: Mapping[str, Any], ms: int) -> None:
    """Writes the event time where it is not."""
    *parents, name = time.get("path") or [time["name"]]
    place = event
    for parent in parents:
        inner = place.get(parent)
        if inner is not None and not isinstance(inner, Mapping):
            return
        place[parent] = dict(inner or {})
        place = place[parent]
    if place.get(name) is None:
        unit = time.get("unit")
        if unit in _PER_MS:
            times, per = _PER_MS[unit]
            place[name] = ms * times // per
        else:
            place[name] = _rfc3339(_EPOCH + ms * _MS)


def _time_of(event: Mapping[str, Any], time: Mapping[str, Any]) -> int | None:
    value: Any = event
    for name in time.get("path") or [time["name"]]:
        value = value.get(name) if isinstance(value, Mapping) else None
    unit = time.get("unit")
    try:
        if unit in _PER_MS and isinstance(value, int):
            times, per = _PER_MS[unit]
            return value * per // times
        return _ms(value) if isinstance(value, str | datetime) else None
    except ValueError:
        return None


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return _rfc3339(value)
    raise TypeError(f"{value!r} has no form in JSON")


def _key_of(event: Mapping[str, Any], fields: Sequence[Mapping[str, Any]]) -> Any:
    values = []
    for f in fields:
        value: Any = event
        for name in f.get("path") or [f["name"]]:
            value = value.get(name) if isinstance(value, Mapping) else None
        values.append(value)
    return values[0] if len(values) == 1 else tuple(values)


def _encode_key(key: Any) -> bytes:
    """As Java's serialisers, or a compact JSON array."""
    match key:
        case bytes():
            return key
        case str():
            return key.encode()
        case bool():
            return bytes([key])
        case int():
            return struct.pack(">q", key)
        case float():
            return struct.pack(">d", key)
        case tuple() | list():
            return json.dumps(key, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()
    return str(key).encode()


def _key_types(description: Mapping[str, Any], plan: Mapping[str, Any], topic: str) -> list[str] | None:
    """The types of a written topic's key columns; None: unknown, or nodes that write different ones."""
    columns = {node["id"]: node["columns"] for sub in description["subtopologies"] for node in sub["nodes"]}
    found = []
    for node in plan["nodes"]:
        if node["op"] == "to_topic" and node["topic"] == topic:
            (source, port), *_ = node["inputs"]
            types = dict(text.split(": ", 1) for text in columns[source][port])
            found.append([types[name] for name in node["key"] or ()])
    return found[0] if found and all(types == found[0] for types in found) else None


def _format_of(plan: Mapping[str, Any], topic: str) -> int | None:
    """The callable that makes another format than JSON of rows for a topic."""
    for node in plan["nodes"]:
        if node["op"] == "to_topic" and node["topic"] == topic:
            found: int | None = node.get("encode")
            return found
    return None


def _open_sink(plan: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A node whose topics are known only to a function."""
    sinks = (node for node in plan["nodes"] if node["op"] == "flow" and node["kind"] == "to" and not node["topics"])
    return next(sinks, None)


def _serdes_of(plan: Mapping[str, Any], topic: str) -> tuple[str, str] | None:
    """The serdes with which keys and values are written to a topic (or read, if nobody here writes it)."""
    flows = [node for node in plan["nodes"] if node["op"] == "flow" and topic in node.get("topics", ())]
    for kind in ("to", "source"):
        for node in flows:
            if node["kind"] == kind:
                return json.dumps(node["key"]), json.dumps(node["value"])
    anywhere = _open_sink(plan)
    return None if anywhere is None else (json.dumps(anywhere["key"]), json.dumps(anywhere["value"]))


def _decode_key(key: bytes, types: list[str] | None) -> Any:
    if not types:
        return key
    if len(types) > 1:
        return tuple(json.loads(key))
    match types[0]:
        case "int" | "timestamp" | "duration":
            return struct.unpack(">q", key)[0]
        case "float":
            return struct.unpack(">d", key)[0]
        case "bool":
            return key != b"\0"
        case text if text.startswith("decimal"):
            return Decimal(json.loads(key))
    return key.decode()


def _dead_letter(record: Any) -> DeadLetter:
    _, timestamp, key, value, headers = record
    about = {name.removeprefix("adstream."): (text or b"").decode() for name, text in headers if _ours(name)}
    partition, offset = about.get("partition"), about.get("offset")
    return DeadLetter(
        about["reason"],
        about["operator"],
        value,
        key,
        timestamp,
        None if partition is None else int(partition),
        None if offset is None else int(offset),
        about.get("message"),
        tuple(header for header in headers if not _ours(header[0])),
    )


def _ours(header: str) -> bool:
    return header.startswith("adstream.")


def _counters(core: Task) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = core.stats()["counters"]
    return found


def _add(total: dict[str, dict[str, int]], more: Mapping[str, Mapping[str, int]]) -> None:
    for node, reasons in more.items():
        into = total.setdefault(node, {})
        for reason, n in reasons.items():
            into[reason] = into.get(reason, 0) + n
