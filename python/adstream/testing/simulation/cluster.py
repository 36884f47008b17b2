"""A whole cluster in one thread: real workers, real tasks, real sink runners; simulated are broker, targets and time.

    turn     the clock goes on, the broker does what is due, trouble happens, each process takes a step, in an order
             drawn from the seed
    waiting  whoever waits in a call (`SimLog.wait`) passes turns in which *the others* run. So a worker may stand in
             the middle of a commit while a second one takes its tasks over and a third is fenced
    crash    `Crash` comes out of a call or a named step; nothing of the process runs after it, nothing is closed.
             Its transaction stays open, its session ends by itself, a write to a target that was sent may arrive
    zombie   a process that is not stepped and sends no heartbeats for longer than its session; then it goes on
    restart  a new process in the same slot, with nothing of the old one's memory; its state directory may be lost,
             damaged or an old one (`disks.py`)

Who makes trouble, and when, says `scenario.py`; whether all came right, `auditor.py`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from adstream._core import Plan, SinkBuffer
from adstream.logs import LogUnavailableError
from adstream.runtime.assignment import prepare
from adstream.runtime.beside import InlineBeside
from adstream.runtime.ports import Hooks, Sink
from adstream.runtime.worker import Worker
from adstream.targets.delivery import SinkRunner, TransientError, open_target
from adstream.testing.simulation.broker import NO_FAULTS, Broker, Partition, SimLog
from adstream.testing.simulation.disks import Disks
from adstream.testing.simulation.scenario import Scenario, Send, Trouble

START_MS = 1_700_000_000_000
CONVERGE_MS = 150_000
"""Virtual time in which a cluster without faults must be through; sinks alone back off for 30 s."""
QUIET_MS = 3_000
"""So long after the last record, nothing more is to come."""
DEPTH_MAX = 6


class Crash(BaseException):
    """The process is gone."""


@dataclass(slots=True)
class Store:
    """What a target keeps."""

    key: tuple[str, ...] = ()
    positions: dict[int, int] = field(default_factory=dict)
    rows: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    writes: int = 0


class SimTarget:
    """Rows and positions move together or not at all; the connection to it may fail before and after."""

    def __init__(self, cluster: Cluster, store: Store) -> None:
        self._cluster, self._store = cluster, store
        self.refused = 0

    def open(self, app: str, sink: str, schema: Mapping[str, str], key: Sequence[str]) -> None:
        self._store.key = tuple(key)

    def positions(self, partitions: Sequence[int]) -> dict[int, int]:
        self._trouble("asked")
        return {p: self._store.positions[p] for p in partitions if p in self._store.positions}

    def of_topic(self, topic_id: str) -> str:
        return topic_id

    def write(self, partition: int, expected: int, position: int, rows: Mapping[str, list[Any]]) -> bool:
        self._trouble("before")
        store = self._store
        if store.positions.get(partition, 0) != expected:
            self._cluster.counts["writes refused"] += 1
            return False
        store.positions[partition] = position
        store.writes += 1
        for values in zip(*rows.values(), strict=True):
            row = dict(zip(rows, values, strict=True))
            store.rows[tuple(row[name] for name in store.key)] = row
        self._cluster.broker.trace("write", partition, position, repr(sorted(rows.items())))
        self._trouble("after")
        return True

    def forget(self, app: str, sink: str) -> None:
        self._store.positions.clear()

    def close(self) -> None: ...

    def _trouble(self, when: str) -> None:
        cluster = self._cluster
        if cluster.now < cluster.targets_down_until or (
            cluster.faulty and cluster.rng.random() < cluster.scenario.target_error
        ):
            cluster.counts[f"target errors {when}"] += 1
            raise TransientError(f"the connection broke ({when})")


class SimExecutor(Executor):
    """The sink's thread: a call is done at once, or at a later moment, whatever has become of its process."""

    def __init__(self, cluster: Cluster, process: Process) -> None:
        self._cluster, self._process = cluster, process

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        cluster = self._cluster

        def run() -> None:
            if self._process.dead and cluster.rng.random() < 0.5:
                return  # it had not left the machine
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)

        if cluster.faulty and cluster.rng.random() < cluster.scenario.target_slow:
            cluster.counts["slow writes"] += 1
            cluster.at(cluster.now + cluster.rng.randint(1, 3_000), run)
        else:
            run()
        return future


class Process:
    """One worker's process, from its start to its end."""

    def __init__(self, cluster: Cluster, slot: int, number: int) -> None:
        self.cluster, self.slot, self.number = cluster, slot, number
        self.name = f"{slot}.{number}"
        self.log = SimLog(cluster.broker, self.name, self._wait, self._called)
        self.worker: Worker | None = None
        self.dead = False
        self.busy = False
        self.doomed = False
        self.frozen_until = 0
        self.crash_at: tuple[str, int] | None = None
        """A named step, and at which time it comes."""

    def start(self) -> None:
        cluster, settings = self.cluster, self.cluster.scenario.settings(self.slot)
        settings = replace(
            settings,
            state_dir=cluster.disks.state_dir(self.slot),
            snapshot_every_ms=cluster.disks.every_ms,
            store_type="disk" if cluster.disks.stores else "memory",
            store_cache_bytes=4096,
        )
        plan = cluster.plan
        assignment = prepare(self.log, plan, sleep=lambda seconds: self._wait(round(seconds * 1000)))
        sinks: dict[str, Sink] = {}
        executor = SimExecutor(cluster, self)
        for sink in assignment.sinks:
            name = sink["name"]
            target = SimTarget(cluster, cluster.stores.setdefault(name, Store()))
            open_target(
                target, assignment.app, name, sink["columns"], sink["key"], sleep=_no_sleep, random=cluster.rng.random
            )
            sinks[name] = SinkRunner(
                name,
                sink["topic"],
                target,
                self.log.reader(),
                partial(SinkBuffer, plan, name),
                executor=executor,
                random=cluster.rng.random,
                policy=cluster.scenario.flush,
            )
        lag = cluster.rng.choice((0, 0, 1, 2, 5))
        hooks = Hooks(step=self._step, beside=lambda name: InlineBeside(lag), sleep=_no_sleep)
        self.worker = Worker(plan, assignment, settings, self.log, lambda: cluster.now, sinks, hooks)

    def _wait(self, ms: int) -> None:
        self.cluster.pass_time(self, ms)
        if self.doomed:
            raise Crash

    def _called(self, call: str) -> None:
        cluster = self.cluster
        if self.busy and cluster.faulty and cluster.rng.random() < cluster.scenario.crash_in_call:
            cluster.counts["crashes in a call"] += 1
            raise Crash

    def _step(self, name: str) -> None:
        cluster = self.cluster
        cluster.broker.trace("step", self.name, name)
        if not cluster.faulty:
            return
        if self.crash_at is not None and self.crash_at[0] == name:
            self.crash_at = (name, self.crash_at[1] - 1)
            if self.crash_at[1] <= 0:
                cluster.counts[f"crashes at {name}"] += 1
                raise Crash
        if cluster.rng.random() < cluster.scenario.pause_at_step:
            self._wait(cluster.rng.randint(1, 80))

    @property
    def frozen(self) -> bool:
        return self.cluster.now < self.frozen_until


class Cluster:
    """Runs one scenario. `broken` puts a sabotage into every worker that is started (tests of the auditor)."""

    def __init__(self, scenario: Scenario, broken: Callable[[Process], None] = lambda process: None) -> None:
        self.scenario, self._broken = scenario, broken
        self.rng = Random(f"{scenario.seed} cluster")
        self.now = START_MS
        self.faulty = True
        self.broker = Broker(lambda: self.now, Random(f"{scenario.seed} broker"), scenario.faults)
        self.plan = Plan(scenario.job.plan, scenario.job.callables)
        self.stores: dict[str, Store] = {}
        self.disks = Disks(scenario.seed)
        self.processes: list[Process] = []
        self._starting: list[int] = []
        self.failures: list[str] = []
        """What a worker raised or set aside, in words."""
        self.targets_down_until = 0
        self.counts: Counter[str] = Counter()
        self.turns = 0
        self._depth = 0
        self._numbers = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._inputs = 0
        self._unsent = len(scenario.sends)
        for topic, partitions in scenario.topics.items():
            self.broker.topics[topic] = [Partition() for _ in range(partitions)]
        for slot in range(scenario.workers):
            self.at(START_MS + scenario.joins_ms[slot], partial(self._start, slot))
        for send in scenario.sends:
            self.at(START_MS + send.at_ms, partial(self._send, send))
        for trouble in scenario.troubles:
            self.at(START_MS + trouble.at_ms, partial(self._make_trouble, trouble))

    # The run

    def run(self, converged: Callable[[Cluster], bool]) -> bool:
        """Safety, then liveness; returns whether it came to rest in time."""
        while self.now < START_MS + self.scenario.trouble_ms and not self.failures:
            self.turn(self.rng.choice((1, 5, 10, 20, 40)))
        self._heal()
        until = self.now + CONVERGE_MS
        quiet = 0
        while self.now < until and not self.failures:
            did = self.turn(10 if quiet < 3 else 50 if quiet < 50 else 500)
            quiet = 0 if did else quiet + 1
            if not self._unsent and self.now - self.broker.appended_ms > QUIET_MS and converged(self):
                return True
        return False

    def _heal(self) -> None:
        """From here on nothing goes wrong any more: everyone lives, everything answers."""
        self.faulty = False
        self.broker.faults = NO_FAULTS
        self.broker.away_until = self.targets_down_until = 0
        for process in self.processes:
            process.frozen_until = process.log.cut_until = 0
            process.log.frozen = False
        for slot in range(self.scenario.workers):
            if not any(p.slot == slot and not p.dead for p in self.processes):
                self._start(slot)

    def turn(self, ms: int) -> bool:
        """Returns whether anybody did anything."""
        self._advance(ms)
        did = False
        order = list(self.processes)
        self.rng.shuffle(order)
        for process in order:
            if process.busy or process.dead or process.frozen:
                continue
            process.log.frozen = False
            process.log.turn()
            if self.faulty and self.rng.random() < self.scenario.idle:
                continue
            did |= self._step(process)
        self.turns += 1
        return did

    def pass_time(self, process: Process, ms: int) -> None:
        """`process` waits, and for as long as it is frozen, too; the others run."""
        until = self.now + ms
        self._depth += 1
        try:
            while self.now < max(until, process.frozen_until) and not process.doomed:
                ahead = max(until, process.frozen_until) - self.now
                if self._depth > DEPTH_MAX:
                    self._advance(ahead)
                else:
                    self.turn(min(ahead, self.rng.choice((1, 5, 20, 50))))
                process.log.frozen = process.frozen
        finally:
            self._depth -= 1

    def at(self, ms: int, event: Callable[[], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (ms, self._numbers, event))

    def _advance(self, ms: int) -> None:
        self.now += ms
        self.broker.tick()
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()

    def _step(self, process: Process) -> bool:
        assert process.worker is not None
        process.busy = True
        did = False
        try:
            did = process.worker.step()
        except Crash:
            process.doomed = True
        except Exception as error:
            process.doomed = True
            self.failures.append(f"worker {process.name} ended: {type(error).__name__}: {error}")
        finally:
            process.busy = False
        if process.doomed:
            self._bury(process)
        elif process.worker.state.over:
            self.counts["drained"] += 1
            self._bury(process)
        else:
            for name, why in process.worker.quarantined.items():
                self.failures.append(f"worker {process.name} set task {name} aside: {why}")
            for sink in process.worker._sinks.values():
                if sink.stopped:
                    self.failures.append(f"worker {process.name} gave a sink up: {sink.last_error}")
        return did

    # Processes

    def _start(self, slot: int) -> None:
        self._numbers += 1
        process = Process(self, slot, self._numbers)
        if self.faulty:
            self.disks.restart(slot, self.counts)
        self._starting.append(slot)
        try:
            process.start()
        except LogUnavailableError:
            self.at(self.now + 200, partial(self._start_unless_there, slot))
            return
        finally:
            self._starting.remove(slot)
        self._broken(process)
        self.processes.append(process)
        self.counts["starts"] += 1

    def _start_unless_there(self, slot: int) -> None:
        """Nor on its way: starting takes time, and what is due meanwhile happens."""
        if slot not in self._starting and not any(p.slot == slot and not p.dead for p in self.processes):
            self._start(slot)

    def _bury(self, process: Process) -> None:
        process.dead = process.log.gone = True
        self._release(process)
        self.processes.remove(process)
        self.counts["ends"] += 1
        self.broker.trace("end", process.name)
        self.at(self.now + self.rng.randint(10, 1_500), partial(self._start_unless_there, process.slot))

    def _release(self, process: Process) -> None:
        """What an operating system does for a process that is gone: its files are closed, its locks are free."""
        if process.worker is not None:
            for where, records in process.worker._counters.restored.items():
                self.counts[f"records restored from the {where}"] += records
            standbys = process.worker.standbys
            self.counts["records followed by standbys"] += standbys.rows if standbys is not None else 0
            followed = standbys.tasks.values() if standbys is not None else ()
            for task in [*process.worker.tasks.values(), *followed]:
                if task.snapshot is not None:
                    task.snapshot.close()
                if task.disk is not None:
                    task.disk.close(write=False)
            self.counts["stores set aside"] += process.worker._counters.set_aside
            self.counts["stores opened with a place"] += process.worker._counters.resumed

    def close(self) -> None:
        for process in self.processes:
            self._release(process)
        self.disks.close()

    def _kill(self, process: Process) -> None:
        self.counts["crashes"] += 1
        process.doomed = True
        if not process.busy:
            self._bury(process)

    def _make_trouble(self, trouble: Trouble) -> None:
        """Some of it may find nobody to hit."""
        if not self.faulty:
            return
        alive = [p for p in self.processes if p.slot == trouble.slot and not p.dead and not p.doomed]
        self.broker.trace(trouble)
        match trouble.kind:
            case "broker away":
                self.broker.away_until = self.now + trouble.for_ms
                self.counts["broker away"] += 1
            case "targets down":
                self.targets_down_until = self.now + trouble.for_ms
        for process in alive:
            match trouble.kind:
                case "crash":
                    self._kill(process)
                case "crash at":
                    process.crash_at = (trouble.step, trouble.number)
                case "freeze" | "freeze and replace":
                    process.frozen_until = self.now + trouble.for_ms
                    process.log.frozen = True
                    self.counts["frozen"] += 1
                    if trouble.kind == "freeze and replace":
                        self._start(trouble.slot)
                case "cut off":
                    process.log.cut_until = self.now + trouble.for_ms
                    self.counts["cut off"] += 1
                case "drain":
                    if process.worker is not None:
                        process.worker.stop()

    # Inputs

    def _send(self, send: Send) -> None:
        """Records reach a topic plainly, in a transaction, or in one that is aborted and sent again."""
        self._unsent -= 1
        for tp, batch in send.batches:
            if send.aborted_before:
                self._in_transaction(tp, batch, False)
            if send.transactional:
                self._in_transaction(tp, batch, True)
            else:
                self.broker.append(tp, batch)

    def _in_transaction(self, tp: tuple[str, int], batch: Any, committed: bool) -> None:
        self._inputs += 1
        slot = f"input-{self._inputs}"
        self.broker.open_slot(slot)
        transaction = self.broker.begin(slot)
        self.broker.append(tp, batch, transaction)
        self.broker.decide(transaction, committed)


def _no_sleep(seconds: float) -> None:
    pass
