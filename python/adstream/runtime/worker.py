"""The worker: owns some tasks, moves records through them, commits.

It is a *step machine*: `step()` does what can be done now and says whether that was anything; there are no threads
in here, time is handed in, and a whole cluster of workers can be stepped by one test. Beside it run only the
committer (`commit.py`) and what the log and the sinks start for themselves.

Its states are in `lifecycle.py`. Told to stop, it *drains*: what was processed is committed, or it takes too long.

    one step:   leases     granted: restore. revoked: close, commit, then `released`. lost: drop, never commit
                settle     the commit under way ended. COMMITTED: tasks drop their undo logs. ABORTED: they roll back
                           and read again. FATAL: everything is dropped, a new writer opened, every task restored;
                           again and again FATAL: somebody has the same slot, step aside (`contest.py`)
                heed       what was said to the whole application: pause, go on, stop (`control.py`); topics that were
                           made again (`remade.py`)
                repair     tasks that failed are rolled back; failed twice in a row: quarantined, the others go on,
                           or what `on_uncaught` says; whose database is away (`ask_sql`): rolled back, and waits
                globals    a slice of the topics that are read whole (`globals.py`)
                restore    a slice for each task that is being restored
                process    read where a buffer has room, process in turns
                sinks      a slice for each; they read committed records and are no part of the transaction
                commit     due by time or by size: every running task ends its generation, all go into one transaction
                standbys   a slice of the changelogs that are followed for others (`standby.py`)

While generation n commits, n + 1 is processed; n + 1 is closed only when n has settled, and processing waits when
it grows too large. The fencing token is taken *before* the last look at lease changes and the generations are
closed after it: a token of a later membership could bless the commit of a task that somebody else owned in between.

Whose fault an error is: `CoreError` and `FatalError` while working on a task are the task's. A commit that raised
is FATAL. `DEFECTS` are ours, and end the worker. Anything else is the log's (a broker that is away): the worker
backs off, keeps what it has and tries again, for ever.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adstream._core import CoreError, RawBatch
from adstream.errors import (
    AdstreamError,
    ConfigError,
    FatalError,
    LogUnavailableError,
    OffsetGoneError,
    RecordTooLargeError,
    UncaughtError,
)
from adstream.interfaces import Leases, Listeners, Log, Outcome, Reader, TopicPartition, Uncaught, Wakeable, Writer
from adstream.runtime import control, manifest, queries
from adstream.runtime.assignment import Assignment
from adstream.runtime.breaker import limit_of
from adstream.runtime.commit import Commit, Result, write
from adstream.runtime.contest import Contest
from adstream.runtime.control import Control
from adstream.runtime.dead_letters import fitting
from adstream.runtime.disk import Disks, LocalStateError, TaskDisk, told
from adstream.runtime.end import EndOfInput
from adstream.runtime.found_topics import FoundTopics
from adstream.runtime.globals import GlobalTables
from adstream.runtime.lifecycle import Lifecycle, WorkerState
from adstream.runtime.ports import Hooks, Sink, Tasks
from adstream.runtime.remade import Remade
from adstream.runtime.restore import ShorterError
from adstream.runtime.settings import Settings
from adstream.runtime.snapshot import Snapshot, Snapshots
from adstream.runtime.standby import Standbys
from adstream.runtime.status import Counters, Holding, Status, sink_status, task_status
from adstream.runtime.task import FAILURES_MAX, Core, State, StreamTask
from adstream.runtime.trim import SinkTrim

if TYPE_CHECKING:
    from adstream._core import Output

log = logging.getLogger(__name__)

IDLE_MS = 50
SINKS_READ_MS = 30
"""So long after a commit sinks are looked after more often: what they are to write is read by readers of their own."""
COMMIT_MS, COMMIT_FILES_MS = 100, 5_000
"""How often generations end when nobody says; the second while files are read. Each end costs: what is told once per
commit (table rows, deltas of state) is told more often. From files to a table, 5 s need 1.8 us of CPU a record less
than 100 ms."""
BACKOFF_FIRST_MS, BACKOFF_MAX_MS = 100, 2_000
AWAY_MAX_MS = 30_000
"""So long a task waits at most until a database that its rows are put before is asked again."""
REPLACE_FIRST_MS, REPLACE_MAX_MS = 1_000, 60_000
ABORTS_MAX = 3
"""In a row; then tasks commit one by one until it shows whose output it is that cannot be written."""
SUSPICIONS_MAX = 3
UNKNOWN_MS = 5_000
"""How long a worker with standbys waits to hear who is in the group, before it joins all the same."""
CLOSING_ROWS_MAX = 16_384
"""Final rows that one input record makes at once; the others come turn by turn."""
STATUS_EVERY_MS = 1_000
END_CHECK_EVERY_MS = 200
DEFECTS = (AssertionError, AttributeError, LookupError, NameError, TypeError)


def unavailable(error: BaseException) -> bool:
    """Whether it says that a database that rows are put before does not answer (`ask_sql`)."""
    return isinstance(error, CoreError) and error.args[1:2] == ("target_unavailable",)


@dataclass(frozen=True, slots=True)
class Closed:
    """A generation that is being committed, and of which life of its task."""

    task: StreamTask
    core: Core
    positions: Mapping[TopicPartition, int]
    rows: int
    read: int
    """Records of topics of users, in a run to the end."""
    dead: int
    """Dead letters among what it writes."""
    draining: bool


@dataclass(frozen=True, slots=True)
class Copy:
    """What a commit adds to a task's snapshot."""

    changelog: TopicPartition
    snapshot: Snapshot
    changes: list[RawBatch]


@dataclass(slots=True)
class Underway:
    """The commit that has not settled."""

    closed: list[Closed] = field(default_factory=list)
    since_ms: int = 0
    ends: Mapping[TopicPartition, int] = field(default_factory=dict)
    """Of changelogs, before anything of it was written; of those that are to know their place."""


@dataclass(frozen=True, slots=True)
class Files:
    """What a commit means for stores on disk."""

    disks: Mapping[TopicPartition | None, TaskDisk]
    """By changelog."""
    asking: list[TopicPartition]
    """Changelogs whose ends are to be asked for."""
    underway: Underway


class Worker:
    """One worker of an application.

    Args:
        plan: makes the tasks.
        assignment: from `assignment.prepare`.
        log: where everything is read and written.
        clock: UTC milliseconds.
        sinks: a runner for each sink of the plan, its target open.
        stop_at_end: whether it stops when the inputs, as they stand at the start, are worked through (`end.py`).
        files: whether all inputs are files.
        listeners: who is told what it goes through.
    """

    def __init__(
        self,
        plan: Tasks,
        assignment: Assignment,
        settings: Settings,
        log: Log,
        clock: Callable[[], int],
        sinks: Mapping[str, Sink],
        hooks: Hooks = Hooks(),  # noqa: B008 (frozen)
        *,
        stop_at_end: bool = False,
        files: bool = False,
        listeners: Listeners = Listeners(),  # noqa: B008 (frozen)
    ) -> None:
        self._life = Lifecycle(listeners)
        self.status = Status(self._life.state.value, clock())
        self.tasks: dict[int, StreamTask] = {}
        """Owned stream tasks by number."""
        self.stores: Mapping[str, dict[str, Any]] = {spec["name"]: spec for spec in assignment.stores}
        """By name, as declared."""
        self.quarantined: dict[str, str] = {}
        """Task name -> its error."""
        self._plan, self._assignment, self._settings = plan, assignment, settings
        self._log, self._clock, self._sinks, self._hooks = log, clock, sinks, hooks
        self._group = assignment.app
        self._snapshots = Snapshots(settings.state_dir, assignment.app) if settings.state_dir else None
        self._disks = self._open_disks()
        self._topics = {sink["name"]: sink["topic"] for sink in assignment.sinks}
        for runner in sinks.values():
            runner.wake = self._wake
        self._tables = plan.globals() if assignment.globals else None
        self._globals: GlobalTables | None = None
        widest = max((assignment.partitions[topic] for topic in assignment.user_sources), default=1)
        create = (settings.edge_partitions or widest) if settings.create_topics else None
        self._found_topics = FoundTopics(log, clock, create)
        self._reader: Reader | None = None
        self._writer: Writer | None = None
        self._leases: Leases | None = None
        self._joining: Leases | None = None
        """Before the worker joins."""
        self._warm_up_from: int | None = None
        self._warmed_up = False
        self._committer = hooks.beside("adstream-commit")
        inputs = {topic: assignment.partitions[topic] for topic in assignment.user_sources}
        tables = {topic: assignment.partitions[topic] for topic, _ in assignment.globals}
        written = {spec.name for spec in assignment.topics}.difference(assignment.positioned, [assignment.lease_topic])
        places = (log, assignment.app, assignment.ids, inputs, tables, written, assignment.lease_topic)
        self._remade = Remade(*places, hooks.beside("adstream-topics")) if assignment.ids else None
        self._underway: Underway | None = None
        self._end: EndOfInput | None = None
        self._stop_at_end = stop_at_end
        self._turns: deque[int] = deque()
        self.standbys = self._open_standbys()
        self._revoked: set[int] = set()
        self._control: Control | None = None
        self._paused_here = False
        self._on_uncaught = listeners.uncaught or (lambda error, task: settings.on_uncaught)
        self._uncaught: UncaughtError | None = None
        """Why it stops."""
        self._replaced: dict[int, int] = {}
        """Task -> how often it was replaced since it last got something done."""
        self._draining = False
        self.drain_timed_out = False
        """It left although something was not committed, or not stored by a sink."""
        self._claimed: tuple[int, ...] | None = None
        """The tasks that it was last said to have."""
        self.store_tasks: Mapping[str, Sequence[int]] = assignment.store_tasks
        """Store -> its tasks."""
        self._stop_wanted = False
        self._stop_asked = False
        self._topics_changed = False
        self._drain_timeout_ms = settings.drain_timeout_ms
        self._drain_until_ms = 0
        self._idle_commit_ms = settings.commit_interval_ms or COMMIT_MS
        if stop_at_end:  # nothing is gathered when nothing comes, and the end is said by what is committed
            self._idle_commit_ms = min(self._idle_commit_ms, COMMIT_MS)
        self._busy_commit_ms = settings.commit_interval_ms or (COMMIT_FILES_MS if files else COMMIT_MS)
        self._closed_ms = clock()
        self._settled_ms = 0
        self._purged_ms = clock()
        self._resume_ms = 0
        self._failures = 0
        self._aborts = 0
        self._contest = Contest()
        self._solo = 0
        self._trouble: str | None = None
        self._end_checked_ms = 0
        self._sinks_reached: set[str] = set()
        """Those that have stored all that a run to the end is to see, while no task here writes more."""
        self._counters = Counters()
        self._holding = Holding()
        self._sink_trim = SinkTrim(settings.sink_retain_ms)
        self._dead_letters_max = limit_of(settings.dead_letters_max, "dead_letters_max")
        client = settings.kafka.get("message.max.bytes", "")
        self._dead_letter_bytes = {
            topic: min(limit, int(client) if client.isdecimal() else limit)
            for topic, limit in assignment.dead_letter_bytes.items()
        }

    # The outside

    @property
    def state(self) -> WorkerState:
        return self._life.state

    def pause(self) -> None:
        """Stops processing, punctuations and sinks at the next step, and keeps everything else: membership, tasks, state,
        restores, commits of what was processed, queries. From any thread. For this worker; `adstream pause` is for all.

        In Kafka Streams: `KafkaStreams.pause` (KIP-834).
        """
        self._paused_here = True

    def resume(self) -> None:
        """Takes back `pause`; what was said to the whole application stays."""
        self._paused_here = False

    @property
    def paused(self) -> bool:
        """Here, or with the whole application."""
        return self._paused_here or (self._control is not None and self._control.paused)

    # Queries

    def asked(self, partition: int | None = None) -> list[Any]:
        """Whoever has state here (`queries.Asked`): the tasks that run, or those of one partition, and the global tables. From
        any thread."""
        tasks = [task for task in list(self.tasks.values()) if partition in (None, task.spec.partition)]
        running = [task.core for task in tasks if task.state in (State.RUNNING, State.DRAINING)]
        return [part for part in (*running, self._tables) if part is not None]

    def running(self) -> dict[int, Any]:
        """Own tasks whose state can be read, by number. From any thread."""
        return {
            index: task.core
            for index, task in list(self.tasks.items())
            if task.state in (State.RUNNING, State.DRAINING) and task.core is not None
        }

    def owners(self) -> Mapping[int, str]:
        """Task -> the address of the worker that has it, as far as workers have one (`application_server`). From any
        thread. In Kafka Streams: `KafkaStreams.metadataForAllStreamsClients`."""
        return {} if self._control is None else self._control.owners

    def store(self, name: str, partition: int | None = None) -> Any:
        """A store to be read (`ads.store`): what this worker's tasks have of it, as committed, or its task of one partition. From
        any thread.

        In Kafka Streams: `KafkaStreams.store`, `StoreQueryParameters.withPartition`.

        Raises:
            KeyError: there is no such store.
        """
        return queries.opened(self.stores, name, lambda: self.asked(partition))

    def run(self) -> None:
        """Steps until it has stopped. Raises what made it fail."""
        fruitless = 0
        while not self.state.over:
            fruitless = 0 if self.step() else fruitless + 1
            if fruitless:
                self._pause(fruitless)
        if self._uncaught is not None:
            raise self._uncaught

    def _pause(self, fruitless: int) -> None:
        """After so many steps in a row that did nothing."""
        if self.state.over:  # it has closed what it would wait for
            return
        if self._reader is not None and self._clock() >= self._resume_ms:
            self._reader.wait(self._idle_s())
        if fruitless > 1:  # records are there and nobody may take them yet, or the log is away
            self._hooks.sleep(0.002)

    def stop(self, timeout_ms: int | None = None) -> None:
        """Asks it to drain at its next step; safe in a signal handler."""
        if timeout_ms is not None:
            self._drain_timeout_ms = timeout_ms
        self._stop_wanted = self._stop_asked = True

    def start_over(self) -> None:
        """Asks it to drain, so that another worker can go on with other topics; safe in any thread."""
        self._stop_wanted = self._topics_changed = True

    @property
    def starts_over(self) -> bool:
        """It stopped for another one to go on, and for nothing else."""
        return self._topics_changed and not self._stop_asked

    def drain(self, timeout_ms: int) -> None:
        """Stops it: what was processed is committed, the leases are given back; at most `timeout_ms`."""
        self.stop(timeout_ms)
        self.run()

    def step(self) -> bool:
        """Does what can be done now; returns whether that was anything. Raises ConfigError, FatalError and defects."""
        now = self._clock()
        if self._draining and now >= self._drain_until_ms and not self.state.over:
            log.warning("drain timed out; what was not committed will be done again")
            self.drain_timed_out = True
            self._close()
            return True
        if self._stop_wanted and self.state is WorkerState.CREATED:
            self._close()
        if self._stop_wanted and not self._draining and not self.state.over:
            if self._leases is None:  # it has stepped aside: there is nothing to drain
                self._close()
            else:
                self._begin_drain(now)
        if self.state.over:
            return False
        if self._leases is not None:
            self._leases.beat()
        changed = (self.state.value, self.paused) != (self.status.state, self.status.paused)
        if changed or now - self.status.at_ms >= STATUS_EVERY_MS:
            self._publish(now)  # also while the log is away: a worker that waits is healthy
        if now < self._resume_ms:
            return False
        try:
            did = self._turn(now)
        except (ConfigError, FatalError, *DEFECTS):
            self._close(failed=True)
            raise
        except Exception as error:
            self._back_off(error, now)
            return False
        if now < self._resume_ms:
            return did  # it has stepped aside
        if self._trouble is not None:
            log.info("the log answers again")
        self._failures, self._trouble = 0, None
        return did

    def _turn(self, now: int) -> bool:
        if self._writer is None or self._leases is None:
            self._open()
        self._heed()
        if self._remade is not None:
            self._remade.look(now)
        if self._leases is None and self.standbys is not None:
            return self.standbys.step(now, busy=False)  # it has not joined yet
        did = self._follow_leases()
        did |= self._settle(now)
        if self._leases is None:
            return did
        did |= self._repair()
        if self._globals is not None:
            did |= self._globals.step(self._settings.restore_rows_max)
        did |= self._restore(now)
        if not self.paused:
            did |= self._process()
        if not self.paused or self._draining:
            did |= sum(sink.step(now) for sink in self._sinks.values()) > 0
        did |= self._commit(now, self._busy_commit_ms if did else self._idle_commit_ms)
        self._look_where_it_is()
        if self._draining:
            did |= self._finish_drain()
        elif self._end is not None and not did:
            self._stop_if_at_end(self._end, now)
        return self._follow(now, did) or did

    # Start and trouble

    def _open(self) -> None:
        """Opens what is not open; what of it succeeded is kept when the rest has to be tried again."""
        if self._reader is None:
            self._reader = self._log.reader()
        if self._control is None:
            self._control = Control(self._log, self._reader, self._group)
        if self._tables is not None and self._globals is None:
            self._globals = GlobalTables(self._log, self._assignment.globals, self._tables)
        if self._stop_at_end and self._end is None:
            self._end = EndOfInput(self._log, self._assignment)
        if self._writer is None:
            self._writer = self._open_writer()
        if self._leases is None:
            if self._joining is None:
                self._joining = self._log.leases(self._group, self._assignment.lease_topic)
            if self._may_join(self._joining):
                if self.standbys is not None:
                    # While it was no member, an heir may have taken it for the former life of its slot, and fenced it.
                    writer, self._writer = self._writer, None
                    writer.close()
                    self._writer = self._open_writer()
                self._joining.start()
                self._leases, self._joining = self._joining, None
        if self.state is WorkerState.CREATED:
            self._life.move(WorkerState.REBALANCING)

    def _open_writer(self) -> Writer:
        slot = f"{self._group}-{self._settings.slot}"
        return self._log.writer(slot, exactly_once=self._settings.exactly_once)

    def _may_join(self, leases: Leases) -> bool:
        """With standbys a worker follows what it will be given before it joins: until then others have it, and go on. Once in its
        life, and not for ever; a group without members is joined at once."""
        if self.standbys is None or self._warmed_up:
            return True
        now = self._clock()
        if self._warm_up_from is None:
            self._warm_up_from = now
        waited, members = now - self._warm_up_from, leases.members()
        if members is not None and members.tasks:
            self.standbys.choose(members, frozenset(), now)
            self._warmed_up = self.standbys.warm(now) or waited >= self._settings.warm_up_max_ms
        else:
            self._warmed_up = members is not None or waited >= min(UNKNOWN_MS, self._settings.warm_up_max_ms)
        if self._warmed_up:
            log.info(
                "joins the group, after following %d tasks of it for %.1f s", len(self.standbys.tasks), waited / 1000
            )
        return self._warmed_up

    def _heed(self) -> None:
        """What was said to all workers."""
        assert self._control is not None
        before = self.paused
        if self._control.read() and before != self.paused:
            log.info("the application is %s", "paused: `adstream resume` lets it go on" if self.paused else "resumed")
        if self._control.protocol != manifest.PROTOCOL:
            raise manifest.other_protocol(self._group, self._control.protocol, "one of them has started just now")
        said = self._control.stop
        if said is not None and self._uncaught is None:
            self._stop_for(UncaughtError(f"the application was stopped by worker {said['by']}: {said['error']}"))

    def _stop_for(self, error: UncaughtError) -> None:
        """Ends in ERROR; what other tasks have processed is committed first."""
        self._uncaught = error
        self._stop_wanted = True
        self._life.move(WorkerState.PENDING_ERROR)

    def _look_where_it_is(self) -> None:
        if self.state not in (WorkerState.REBALANCING, WorkerState.RUNNING) or self._draining:
            return
        calm = (
            self._leases is not None
            and self._leases.joined()
            and not self._revoked
            and not any(task.state is State.RESTORING for task in self.tasks.values())
            and (self._globals is None or self._globals.ready)
        )
        self._life.move(WorkerState.RUNNING if calm else WorkerState.REBALANCING)

    def _back_off(self, error: Exception, now: int) -> None:
        self._failures += 1
        wait_ms = min(BACKOFF_FIRST_MS << min(self._failures - 1, 20), BACKOFF_MAX_MS)
        self._resume_ms = now + wait_ms
        text = f"{type(error).__name__}: {error}"
        if text != self._trouble:
            trace = None if isinstance(error, LogUnavailableError) else error
            log.warning("the log is in trouble, trying again: %s", text, exc_info=trace)
        self._trouble = text

    # Leases

    def _follow_leases(self) -> bool:
        assert self._leases is not None
        did = False
        while (change := self._leases.poll()) is not None:
            did = True
            for listener, indices in (
                (self._life.lost, change.lost),
                (self._life.revoked, change.revoked),
                (self._life.assigned, change.granted),
            ):
                if indices:
                    listener([tp for index in indices for tp in self._assignment.tasks[index].inputs])
            for owned in self.tasks.values():
                owned.suspicions = 0  # commits around a rebalance are refused whatever is in them
            for index in change.lost:
                self._revoked.discard(index)
                self._let_go(index)
            for index in change.revoked:
                self._revoked.add(index)
                task = self.tasks.get(index)
                if task is not None and task.state is State.RUNNING:
                    task.state = State.DRAINING
                elif task is None or task.state is not State.DRAINING:
                    self._let_go(index)
            for index in change.granted:
                self._take(index)
        return did

    def _take(self, index: int) -> None:
        if self._draining or self.state.over:
            return  # draining: given back with the rest
        spec = self._assignment.tasks[index]
        log.info("task %s: granted", spec.name)
        if spec.kind == "sink":
            self._sinks[spec.sink].assign([spec.partition])
        else:
            assert index not in self.tasks
            standby = self.standbys.take(index) if self.standbys is not None else None
            self.tasks[index] = standby or StreamTask(spec)
            self._turns.append(index)

    def _let_go(self, index: int) -> None:
        """Drops a task with its memory, and answers the revocation if there was one."""
        assert self._leases is not None
        assert self._reader is not None
        spec = self._assignment.tasks[index]
        if spec.kind == "sink":
            self._sinks[spec.sink].release([spec.partition])
        elif (task := self.tasks.pop(index, None)) is not None:
            task.drop(self._reader)
            self._turns.remove(index)
            self.quarantined.pop(spec.name, None)
        log.info("task %s: let go", spec.name)
        if index in self._revoked:
            self._revoked.discard(index)
            self._leases.released([index])

    # Settle and repair

    def _settle(self, now: int) -> bool:
        result = self._committer.take()
        if result is None:
            return False
        assert self._underway is not None
        underway, self._underway = self._underway, None
        self._hooks.step("settled")
        mine = [c for c in underway.closed if c.task.core is c.core]  # else dropped since, perhaps granted anew
        rows = sum(c.rows for c in mine) if result.outcome is Outcome.COMMITTED else 0
        self._counters.read += sum(c.read for c in underway.closed) if result.outcome is Outcome.COMMITTED else 0
        self._counters.dead += sum(c.dead for c in underway.closed) if result.outcome is Outcome.COMMITTED else 0
        self._counters.commit(result.outcome.value, rows, now - underway.since_ms)
        self._settled_ms = self._clock()
        if result.outcome is Outcome.COMMITTED:
            self._aborts = 0 if len(underway.closed) > 1 else max(0, self._aborts - 1)
            for c in mine:
                if c.rows:
                    self._replaced.pop(c.task.spec.index, None)
                try:
                    end = underway.ends.get(c.task.spec.changelog) if c.task.spec.changelog else None
                    c.task.committed(c.positions, c.rows, now, end)
                except CoreError as error:
                    self._quarantine(c.task, error)
        elif result.outcome is Outcome.ABORTED:
            self._aborts += not result.refused
            why = " (the lease is gone, or a new one not known yet)" if result.refused else ""
            log.info("commit aborted%s; %d tasks go back to their last commit", why, len(mine))
            for c in mine:
                self._roll_back(c.task)
            if isinstance(result.error, RecordTooLargeError):  # it will be, each time: find out whose record it is
                self._aborts = max(self._aborts, ABORTS_MAX)
                if len(underway.closed) == 1 and mine:
                    mine[0].task.failure, mine[0].task.failures = result.error, FAILURES_MAX
            elif self._aborts > ABORTS_MAX and len(mine) == 1 and not result.refused:
                self._suspect(mine[0].task)
        else:
            self._start_over(result, now)
        if result.outcome is not Outcome.COMMITTED:
            self._claimed = None
        for c in mine:
            if c.draining and c.task.state is State.DRAINING:
                self._let_go(c.task.spec.index)
        return True

    def _suspect(self, task: StreamTask) -> None:
        """A commit of this task alone was aborted. That speaks against it only where others got through meanwhile."""
        committed = self._counters.commits.get("committed", 0)
        if committed > task.suspected_at:
            task.suspicions, task.suspected_at = task.suspicions + 1, committed
        if task.suspicions >= SUSPICIONS_MAX:
            task.failure = FatalError("its output cannot be committed, while that of other tasks can")
            task.failures = FAILURES_MAX

    def _start_over(self, result: Result, now: int) -> None:
        """The writer is fenced or the outcome unknown: only the log knows what is true."""
        assert self._reader is not None
        assert self._writer is not None
        log.warning("commit fatal (%s): restoring every task from the log", result.error or "fenced")
        writer, self._writer = self._writer, None
        for index, task in list(self.tasks.items()):
            if task.state is State.DRAINING:
                self._let_go(index)
            elif task.state is not State.QUARANTINED:
                task.drop(self._reader)
        try:
            writer.close()
        except Exception as error:
            log.debug("closing a dead writer: %s", error)
        pause_ms = self._contest.pause_ms(now)
        if pause_ms:
            self._step_aside(pause_ms, now)
        else:
            self._open()

    def _step_aside(self, pause_ms: int, now: int) -> None:
        """Gives all tasks up for a while, for whoever has the same slot to get something done."""
        assert self._leases is not None
        self._trouble = (
            f"{self._contest.fatal} commits were fatal: another process seems to run with ADSTREAM_SLOT="
            f"{self._settings.slot}, and each fences the other"
        )
        log.error(
            "%s; stepping aside for %.0f s\nhint: give each process of %s an ADSTREAM_SLOT of its own",
            self._trouble,
            pause_ms / 1000,
            self._group,
        )
        for index in list(self.tasks):
            self._let_go(index)
        self._release_sinks()
        if self.standbys is not None:
            self.standbys.drop()
        self._revoked.clear()
        leases, self._leases = self._leases, None
        self._resume_ms = now + pause_ms
        leases.close()

    def _release_sinks(self) -> None:
        for name, sink in self._sinks.items():
            sink.release(range(self._assignment.partitions[self._topics[name]]))

    def _repair(self) -> bool:
        failed = [task for task in self.tasks.values() if task.failure is not None]
        if not failed or self._underway is not None:
            return False
        for task in failed:
            error = task.failure
            assert error is not None
            away = unavailable(error)
            task.failures += not away
            if task.state is State.DRAINING:
                self._let_go(task.spec.index)
            elif away:
                self._roll_back(task)
                wait_ms = task.wait(self._clock(), BACKOFF_FIRST_MS, AWAY_MAX_MS)
                level = logging.WARNING if task.waits == 1 or wait_ms == AWAY_MAX_MS else logging.DEBUG
                text = f"{error.args[2]}; asked again in {wait_ms / 1000:.1f} s"
                log.log(level, "task %s waits, and nothing is lost: %s", task.spec.name, text)
            elif task.failures >= FAILURES_MAX:
                self._quarantine(task, error)
            else:
                log.warning("task %s failed, once more from its last commit: %s", task.spec.name, error)
                self._roll_back(task)
        return True

    def _roll_back(self, task: StreamTask) -> None:
        assert self._reader is not None
        try:
            task.rollback(self._reader, self._clock())
        except CoreError as error:
            self._quarantine(task, error)

    def _quarantine(self, task: StreamTask, error: Exception) -> None:
        """Or what the application wants to follow when a task fails for good."""
        assert self._reader is not None
        name = task.spec.name
        answer = self._ask(error, name)
        trace = None if isinstance(error, AdstreamError) else error  # what is raised on purpose says all
        task.drop(self._reader)
        if answer is Uncaught.REPLACE_TASK:
            times = self._replaced.get(task.spec.index, 0)
            wait_ms = min(REPLACE_FIRST_MS << min(times, 20), REPLACE_MAX_MS)
            log.error(
                "task %s failed, restored and tried again in %.0f s: %s", name, wait_ms / 1000, error, exc_info=trace
            )
            self._replaced[task.spec.index] = times + 1
            task.failures, task.begin_ms = 0, self._clock() + wait_ms
            return
        if answer is not Uncaught.QUARANTINE:
            what = "this worker stops" if answer is Uncaught.STOP_WORKER else "the application stops"
            log.error("task %s failed, and %s: %s", name, what, error, exc_info=trace)
            text = f"{type(error).__name__}: {error}"
            if answer is Uncaught.STOP_APPLICATION:
                try:
                    said = {"by": self._settings.slot, "error": f"task {name}: {text}", "at_ms": self._clock()}
                    control.say(self._log, self._group, control.STOP, said, sleep=self._hooks.sleep)
                except LogUnavailableError as trouble:
                    log.error("the others could not be told to stop: %s", trouble)
            self._stop_for(UncaughtError(f"task {name} failed, and {what} (`on_uncaught`): {text}"))
        else:
            log.error("task %s is set aside, the others go on: %s", name, error, exc_info=trace)
        task.state = State.QUARANTINED
        self.quarantined[task.spec.name] = f"{type(error).__name__}: {error}"

    def _ask(self, error: Exception, task: str) -> Uncaught:
        try:
            return Uncaught(self._on_uncaught(error, task))
        except Exception:
            log.exception("`on_uncaught` failed for the error of task %s", task)
            return Uncaught.STOP_WORKER

    # Restore and process

    def _restore(self, now: int) -> bool:
        assert self._reader is not None
        did = False
        for task in [task for task in self.tasks.values() if task.state is State.RESTORING]:
            if self._underway is not None and any(c.task.spec == task.spec for c in self._underway.closed):
                continue  # a commit of its former life is under way: what is stable is not known yet
            try:
                if task.restore is None or task.restore.follows:
                    if self._clock() < task.begin_ms:
                        continue
                    once = self._settings.exactly_once
                    core = task.core if task.restore is not None else self._make(task)
                    assert core is not None
                    places = (self._log, self._reader, self._group)
                    try:
                        kept, now = self._snapshots, self._clock()
                        task.begin(core, *places, exactly_once=once, snapshots=kept, now_ms=now)
                    except LogUnavailableError as error:
                        # A transaction that somebody left open may hold its positions back: the others go on meanwhile.
                        # One at a time: a question may take seconds, and there are leases to be looked after.
                        self._postpone(task, error)
                        break
                    did = True
                assert task.restore is not None
                moved = task.restore.advance(self._settings.restore_rows_max)
                did |= moved
                if (waits := task.restore.waits(self._clock(), moved)) is not None:
                    log.warning("task %s: %s", task.spec.name, waits)
                if task.restore.done and (self._globals is None or self._globals.ready):
                    found, rows = task.restore.sources, task.restore.rows
                    for where, records in found.items():
                        self._counters.restored[where] += records
                    self._counters.resumed += task.restore.resumed
                    task.run(self._reader, now, self._end.limits if self._end else {}, self._dead_letters_max)
                    shown = ", ".join(f"{n} from its {where}" for where, n in found.items())
                    log.info("task %s: running (state: %d records: %s)", task.spec.name, rows, shown)
                    did = True
            except LocalStateError as why:
                self._set_aside(task, why)
                did = True
            except (OffsetGoneError, ShorterError) as error:  # trimmed while it was read: what is left suffices
                log.info("task %s: begins its restore again: %s", task.spec.name, error)
                task.drop(self._reader)
                did = True
            except FatalError as error:
                self._quarantine(task, error)
            except CoreError as error:
                if task.disk is not None and (fault := told(error)) is not None:
                    self._set_aside(task, fault)
                    continue
                task.drop(self._reader)
                task.failures += 1
                if task.failures >= FAILURES_MAX:
                    self._quarantine(task, error)
        return did

    def _postpone(self, task: StreamTask, error: LogUnavailableError) -> None:
        wait_ms = task.postpone(self._clock(), BACKOFF_FIRST_MS, BACKOFF_MAX_MS)
        level = logging.WARNING if task.postponed == 1 else logging.DEBUG
        log.log(level, "task %s: not yet; asked again in %.1f s: %s", task.spec.name, wait_ms / 1000, error)

    def _open_disks(self) -> Disks | None:
        """Where stores on disk are. Raises ConfigError: there are such stores, and nowhere to put them."""
        settings = self._settings
        asking = [spec["name"] for spec in self._assignment.stores if spec.get("store_type") == "disk"]
        if settings.store_type != "disk" and not asking:
            return None
        if not settings.state_dir:
            what = f"store `{asking[0]}`" if asking else "stores"
            raise ConfigError(
                f"{what} should be on disk, and there is no directory for it",
                option="--state-dir",
                hint="say where: `--state-dir PATH`",
            )
        return Disks(settings.state_dir, self._group, settings.store_cache_bytes)

    def _open_standbys(self) -> Standbys | None:
        settings = self._settings
        if not settings.standbys:
            return None
        return Standbys(
            settings.standbys,
            self._assignment.tasks,
            self._log,
            self._group,
            self._make,
            self._set_aside,
            self._hooks.beside("adstream-standbys"),
            self._hooks.beside("adstream-standby-stores") if self._disks is not None else None,
            exactly_once=settings.exactly_once,
            snapshots=self._snapshots,
            trim_every_ms=settings.purge_every_ms,
        )

    def _follow(self, now: int, busy: bool) -> bool:
        if self.standbys is None or self._leases is None or self._draining:
            return False
        self.standbys.choose(self._leases.members(), frozenset(self.tasks), now)
        return self.standbys.step(now, busy=busy)

    def _set_aside(self, task: StreamTask, why: object) -> None:
        """Its stores on disk cannot be used: it is restored from its changelog."""
        assert self._reader is not None
        assert self._disks is not None
        assert task.disk is not None
        self._disks.reject(task.disk, why)
        self._counters.set_aside = self._disks.set_aside
        task.drop(self._reader)

    def _make(self, task: StreamTask) -> Core:
        settings = self._settings
        asked = {"exactly_once": settings.exactly_once, "cache": settings.cache, "clock_ms": None}
        # What closes is bounded as what is read is: by the size of a generation, looked at after each turn.
        options = json.dumps({**asked, "closing_rows": min(CLOSING_ROWS_MAX, settings.generation_rows_max)})
        place = (task.spec.subtopology, task.spec.partition, self._assignment.partitions, options)
        core = self._plan.task(*place, self._tables, self._found_topics)
        if self._disks is not None and core.on_disk(settings.store_type):
            if task.disk is None:
                try:
                    task.disk = self._disks.open(task.spec)
                except OSError as error:
                    raise FatalError(f"stores of task {task.spec.name} cannot be kept on disk: {error}") from error
                self._counters.set_aside = self._disks.set_aside
            core.attach(task.disk.disk, settings.store_type)
        return core

    def _process(self) -> bool:
        assert self._reader is not None
        did = False
        unread = self._reader.unread()
        for _ in range(len(self._turns)):
            if self._underway is not None and self._full:
                break
            task = self.tasks[self._turns[0]]
            self._turns.rotate(-1)
            if task.state is not State.RUNNING or task.failure is not None or task.rests(unread):
                continue
            if self._clock() < task.resume_ms:
                continue
            try:
                settings = self._settings
                did |= task.fill(self._reader, settings.buffer_rows_max, settings.batch_rows_max, unread)
                did |= task.process(settings.batch_rows_max) > 0
            except OffsetGoneError as error:
                # Read from where it is committed now: another owner may have gone on. If not, `begin` says what is wrong.
                log.warning("task %s: %s", task.spec.name, error)
                task.drop(self._reader)
                did = True
            except (CoreError, FatalError) as error:
                task.failure = error
                if unavailable(error):
                    break  # it may have taken a while to find out, and there are leases to be looked after
            if self._underway is None and self._due(self._clock(), self._busy_commit_ms):
                break
        return did

    @property
    def _full(self) -> bool:
        tasks, settings = self.tasks.values(), self._settings
        return (
            sum(task.rows for task in tasks) >= settings.generation_rows_max
            or sum(task.output_bytes for task in tasks) >= settings.generation_bytes_max
        )

    # Commit

    def _due(self, now: int, every_ms: int) -> bool:
        return (
            now - self._closed_ms >= every_ms
            or self._full
            or any(task.commit_asked for task in self.tasks.values())
            or any(task.state is State.DRAINING for task in self.tasks.values())
        )

    def _commit(self, now: int, every_ms: int) -> bool:
        if self._underway is not None or self._writer is None or not self._due(now, every_ms):
            return False
        if not self.tasks:  # before the first lease there is no fence to be had
            self._closed_ms = now
            return False
        assert self._leases is not None
        fence = self._leases.fence()
        if self._follow_leases():
            return True  # who owns what has changed: look again before anything is closed
        self._hooks.step("close")
        closed: list[Closed] = []
        outputs: list[Output] = []
        shuffled: dict[TopicPartition, list[RawBatch]] = {}
        copies: list[Copy] = []
        for task in self._to_close():
            rows, core, draining = task.rows, task.core, task.state is State.DRAINING
            assert core is not None
            forget_due = now - task.settled_ms >= self._settings.recommit_every_ms
            if task.unchanged and not forget_due and not draining:
                continue
            try:
                generation = task.close(now, tick=not self.paused)
                if task.breaker is not None:
                    task.breaker.check(task.spec.name, core.stats())
                positions = generation.positions
                if generation.empty and positions == task.settled and not forget_due:
                    core.committed()
                    if draining:
                        self._let_go(task.spec.index)
                    continue
                dead = 0
                for output in fitting(generation.outputs, self._dead_letter_bytes):
                    dead += len(output[2]) if output[0] in self._dead_letter_bytes else 0
                    if output[0] in task.spec.shuffles:
                        shuffled.setdefault(output[:2], []).append(output[2])
                    else:
                        outputs.append(output)
                changelog = task.spec.changelog
                if task.snapshot is not None and changelog is not None:
                    changes = [batch for topic, p, batch in generation.outputs if (topic, p) == changelog]
                    copies.append(Copy(changelog, task.snapshot, changes))
            except CoreError as error:
                if task.disk is not None and (why := told(error)) is not None:
                    self._set_aside(task, why)
                else:
                    task.failure = error
                if unavailable(error):
                    break
                continue
            closed.append(Closed(task, core, positions, rows, task.read_since(), dead, draining))
            if self._one_by_one:
                break
        # Not one task's whole generation before the other's: at full speed that is more time than many a grace.
        for (topic, partition), batches in shuffled.items():
            outputs.append((topic, partition, batches[0] if len(batches) == 1 else RawBatch.merge(batches)))
        self._closed_ms = now
        server = self._settings.application_server
        have = tuple(sorted(self.running()))
        if server and have != self._claimed:
            outputs.append(control.claim(self._group, self._settings.slot, server, have))
            self._claimed = have
        elif not closed:
            return False
        offsets = {tp: position for c in closed for tp, position in c.positions.items()}
        commit = Commit(outputs, offsets, self._group, fence)
        self._underway = Underway(closed, now)
        writer, step = self._writer, self._hooks.step
        forget, marks = self._forgettable(offsets, [c.task for c in closed], now)
        every = self._settings.snapshot_every_ms
        due = [c.snapshot for c in copies if marks or c.snapshot.due(now, every)]
        disks = {c.task.spec.changelog: c.task.disk for c in closed if c.task.disk is not None}
        asking = {log for log, disk in disks.items() if marks or disk.due(now, every)}
        asking |= {c.task.spec.changelog for c in closed if c.draining and c.task.disk is not None}
        files = Files(disks, [log for log in asking if log is not None], self._underway)
        self._committer.submit(
            lambda: self._write(writer, commit, step, forget, marks, copies, due, now, files), self._wake
        )
        return True

    def _to_close(self) -> list[StreamTask]:
        """Whose generation may end now; when commits go one by one, beginning behind the last one's turn."""
        fit = [
            task
            for task in self.tasks.values()
            if task.state in (State.RUNNING, State.DRAINING) and task.failure is None
        ]
        if self._one_by_one and fit:
            self._solo += 1
            cut = self._solo % len(fit)
            fit = fit[cut:] + fit[:cut]
        return fit

    @property
    def _one_by_one(self) -> bool:
        return self._aborts >= ABORTS_MAX

    def _forgettable(
        self, offsets: Mapping[TopicPartition, int], tasks: list[StreamTask], now: int
    ) -> tuple[dict[TopicPartition, int], list[tuple[StreamTask, int]]]:
        """What internal topics need not keep once this commit is through, and the tasks whose changelogs get a mark
        (see `trim.py`), with their open generations."""
        every = self._settings.purge_every_ms
        if not every or now - self._purged_ms < every:
            return {}, []
        self._purged_ms = now
        edges = self._assignment.edges
        done = {tp: position for tp, position in offsets.items() if tp[0] in edges}
        stored = {
            (self._topics[name], p): position
            for name, sink in self._sinks.items()
            if self._topics[name] in edges
            for p, position in sink.stored.items()
        }
        done |= self._sink_trim.forgettable(stored, now)
        marks: list[tuple[StreamTask, int]] = []
        for task in tasks:
            if task.core is not None and task.spec.changelog is not None:
                before = task.trim.forgettable(task.core.needed_from)
                if before is not None:
                    done[task.spec.changelog] = before
                marks.append((task, task.core.generation))
        return done, marks

    def _write(
        self,
        writer: Writer,
        commit: Commit,
        step: Callable[[str], None],
        forget: dict[TopicPartition, int],
        marks: list[tuple[StreamTask, int]],
        copies: list[Copy],
        due: list[Snapshot],
        now: int,
        files: Files,
    ) -> Result:
        """Runs on the committer."""
        ends: Mapping[TopicPartition, int] = {}
        try:
            asking = [task.spec.changelog for task, _ in marks] + [c.changelog for c in copies if c.snapshot in due]
            logs = sorted({tp for tp in asking if tp is not None} | set(files.asking))
            ends = self._log.end_offsets(logs, committed=False) if logs else {}
            files.underway.ends = {tp: ends[tp] for tp in files.asking if tp in ends}
            for task, generation in marks:
                if task.spec.changelog in ends:
                    task.trim.mark(generation, ends[task.spec.changelog])
        except Exception as error:
            log.warning("changelogs could not be marked, later then: %s", error)
        result = write(writer, commit, step)
        if result.outcome is not Outcome.COMMITTED:
            return result
        for copy in copies:
            if copy.snapshot in due and copy.changelog in ends:
                copy.snapshot.append(ends[copy.changelog], now)
            for batch in copy.changes:
                copy.snapshot.hold(batch)
        for disk in files.disks.values():
            disk.tidy()
        if forget:
            try:
                for changelog, disk in files.disks.items():
                    if changelog in forget:  # not what a crash would have to read
                        disk.tidy(write=True)
                        forget[changelog] = min(forget[changelog], disk.position or 0)
                self._log.delete_records(forget)
                for copy in copies:
                    if copy.changelog in forget:
                        copy.snapshot.forget(forget[copy.changelog])
            except Exception as error:
                log.warning("processed records could not be deleted, later then: %s", error)
        return result

    # Stop

    def _stop_if_at_end(self, end: EndOfInput, now: int) -> None:
        if self.quarantined or any(sink.stopped for sink in self._sinks.values()):
            errors = [*self.quarantined.values(), *(s.last_error for s in self._sinks.values() if s.stopped)]
            raise FatalError(f"the end cannot be reached: {'; '.join(map(str, errors))}")
        quiet = all(task.quiet and not task.buffered for task in self.tasks.values())
        if not quiet:  # a task that came from elsewhere may have windows to close
            self._sinks_reached.clear()
        if not quiet or self._underway is not None or now - self._end_checked_ms < END_CHECK_EVERY_MS:
            return
        self._end_checked_ms = now
        try:
            if not end.streams_reached(self._group):
                return
            for name, sink in self._sinks.items():
                if name in self._sinks_reached:
                    continue
                sink.flush()
                if sink.blocked and not sink.idle:  # a partition that moved is its new owner's to bring home
                    raise FatalError(f"the end cannot be reached: sink {name}: {sink.last_error}")
                topic = self._topics[name]
                stored = sink.stored_by_all(self._assignment.partitions[topic]) if sink.idle else None
                if stored is not None and end.sink_reached(topic, stored):
                    self._sinks_reached.add(name)
            if len(self._sinks_reached) < len(self._sinks):
                return
        except LogUnavailableError as error:
            # A worker that was killed holds its offsets back until its transaction times out, or its heir settles it.
            log.info("whether the end is reached cannot be said now, asked again: %s", error)
            return
        log.info("the end of the inputs is reached")
        self._begin_drain(now)

    def _begin_drain(self, now: int) -> None:
        self._life.move(WorkerState.PENDING_ERROR if self._uncaught is not None else WorkerState.PENDING_SHUTDOWN)
        self._draining = True
        self._drain_until_ms = now + self._drain_timeout_ms
        if self.standbys is not None:
            self.standbys.drop()
        for index, task in list(self.tasks.items()):
            if task.state is State.RUNNING:
                task.state = State.DRAINING
            elif task.state is not State.DRAINING:
                self._let_go(index)

    def _finish_drain(self) -> bool:
        if self.tasks or self._underway is not None:
            return False
        for sink in self._sinks.values():
            sink.flush()
        if not all(sink.idle or sink.stopped or sink.last_error for sink in self._sinks.values()):
            return False
        self._close()
        return True

    def _close(self, *, failed: bool = False) -> None:
        """Gives everything back, at once. A commit under way ends by itself, fenced by the leases that are gone."""
        failed |= self._uncaught is not None
        end = WorkerState.ERROR if failed else WorkerState.NOT_RUNNING
        self._life.move(WorkerState.PENDING_ERROR if failed else WorkerState.PENDING_SHUTDOWN)
        self._publish(self._clock(), end)
        for task in self.tasks.values():
            if self._reader is not None:
                task.drop(self._reader)
        self.tasks.clear()
        self._turns.clear()
        self._release_sinks()
        writer = self._writer if self._underway is None else None
        for part in (
            self.standbys,
            self._committer,
            self._remade,
            writer,
            self._joining,
            self._leases,
            self._reader,
            self._globals,
        ):
            try:
                if part is not None:
                    part.close()
            except Exception as error:
                log.warning("closing %s: %s", type(part).__name__, error)
        self._life.move(end)

    # What it says about itself

    def _wake(self) -> None:
        """From any thread."""
        reader: object = self._reader
        if isinstance(reader, Wakeable):
            reader.wake()

    def _idle_s(self) -> float:
        if self._sinks and self._clock() - self._settled_ms < SINKS_READ_MS:
            return 0.01
        if self._underway is not None:
            reader: object = self._reader
            return IDLE_MS / 1000 if isinstance(reader, Wakeable) else 0.005
        return max(1, min(IDLE_MS, self._closed_ms + self._idle_commit_ms - self._clock())) / 1000

    def _publish(self, now: int, state: WorkerState | None = None) -> None:
        counters = self._counters
        tasks = tuple(task_status(t, self.quarantined.get(t.spec.name)) for t in self.tasks.values())
        self.status = Status(
            state=(state or self.state).value,
            paused=self.paused,
            at_ms=now,
            tasks=tasks,
            held=self._holding.look(tasks, now),
            sinks=tuple(sink_status(name, self._topics[name], s) for name, s in self._sinks.items()),
            commits=dict(counters.commits),
            commit_seconds=tuple(counters.buckets),
            commit_seconds_sum=counters.seconds,
            rows=counters.rows,
            read=counters.read if self._stop_at_end else None,
            dead=counters.dead,
            restored=dict(counters.restored),
            set_aside=counters.set_aside,
            standbys=self.standbys.status() if self.standbys is not None else (),
            standby_records=self.standbys.rows if self.standbys is not None else 0,
            globals=self._tables.stats() if self._tables is not None else {},
            globals_lag=self._globals.lag if self._globals is not None else 0,
            trouble=self._trouble or self._silence(),
        )

    def _silence(self) -> str | None:
        """A worker that waits for records meets no error when the log goes away: without this, it would look its best."""
        silent_s = None if self._remade is None or self._draining else self._remade.silent_s
        return None if silent_s is None else f"the log has not answered for {silent_s} s"
