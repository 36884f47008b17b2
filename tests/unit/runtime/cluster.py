"""Workers, a log and a clock in one thread: what the runtime's tests step."""

import json
import random
from collections.abc import Callable, Iterable

from adstream._core import RawBatch
from adstream.interfaces import Listeners, Log, Outcome, Reader, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime.assignment import prepare
from adstream.runtime.beside import InlineBeside
from adstream.runtime.lifecycle import WorkerState
from adstream.runtime.ports import Hooks, Sink
from adstream.runtime.settings import Settings
from adstream.runtime.worker import Worker
from tests.unit.runtime.echo_task import APP, EDGE, SINK, EchoPlan, batch, partition_of

PARTITIONS = 3


class Crash(BaseException):
    """The process is gone: nothing of the worker runs any more."""


class Cluster:
    """Workers that share a log. Each turn gives every worker a step and moves the clock by 10 ms."""

    def __init__(self, plan: EchoPlan | None = None, log: Log | None = None, *, lag: int = 1) -> None:
        self.plan = plan or EchoPlan()
        self.log: Log = log or EmbeddedLog()
        self.lag = lag
        self.now = 1_000_000
        self.log.create_topics([TopicSpec("in", PARTITIONS), TopicSpec("out", PARTITIONS)])
        self.producer = self.log.writer("producer")
        self.workers: list[Worker] = []
        self.sent: dict[bytes, int] = {}
        self.targets: dict[int, tuple[int, list[bytes | None]]] = {}
        """The sink's outside system: position and rows of each partition."""

    def send(self, keys: Iterable[str], value: bytes = b"x") -> None:
        parts: dict[int, list[tuple[bytes | None, bytes | None]]] = {}
        for key in map(str.encode, keys):
            parts.setdefault(partition_of(key, PARTITIONS), []).append((key, value))
            self.sent[key] = self.sent.get(key, 0) + 1
        outputs = [("in", p, batch(*records)) for p, records in parts.items()]
        assert self.producer.commit(outputs, {}, "producer", None) is Outcome.COMMITTED

    def leave(self, worker: Worker) -> None:
        """It stops in order, as the last one."""
        worker.stop()
        self.until(self.stopped)
        self.workers.clear()

    def send_random(self, count: int, seed: int = 0) -> None:
        rng = random.Random(seed)
        self.send(f"k{rng.randrange(7)}" for _ in range(count))

    def worker(
        self,
        slot: int | None = None,
        step: Callable[[str], None] = lambda name: None,
        stop_at_end: bool = False,
        files: bool = False,
        listeners: Listeners = Listeners(),  # noqa: B008 (frozen)
        **settings: int | str,
    ) -> Worker:
        chosen = Settings(app=APP, slot=len(self.workers) if slot is None else slot, **settings)  # type: ignore[arg-type]
        assignment = prepare(self.log, self.plan)
        sinks: dict[str, Sink] = {"rows": FakeSink(self.log.reader(), self.targets)} if self.plan.sink else {}
        hooks = Hooks(step=step, beside=lambda name: InlineBeside(self.lag))
        worker = Worker(
            self.plan,
            assignment,
            chosen,
            self.log,
            lambda: self.now,
            sinks,
            hooks,
            stop_at_end=stop_at_end,
            files=files,
            listeners=listeners,
        )
        self.workers.append(worker)
        return worker

    def turns(self, count: int) -> None:
        for _ in range(count):
            for worker in list(self.workers):
                worker.step()
            self.now += 10

    def until(self, condition: Callable[[], bool], turns: int = 2_000) -> None:
        for _ in range(turns):
            if condition():
                return
            self.turns(1)
        raise AssertionError("it never came to that")

    def settle(self) -> None:
        """Until everything that was sent is counted in `out`."""
        self.until(lambda: sum(map(len, self.counted().values())) >= sum(self.sent.values()))
        self.turns(40)

    def stopped(self) -> bool:
        return all(w.state is WorkerState.NOT_RUNNING for w in self.workers)

    def records(self, topic: str) -> list[tuple[bytes | None, bytes | None]]:
        reader = self.log.reader()
        found = []
        for p in range(PARTITIONS):
            reader.add(topic, p, self.log.start_offsets([(topic, p)])[topic, p])
            while (read := reader.read(topic, p, 1_000)) is not None:
                found += [(key, value) for _, _, key, value, _ in read.records()]
        return found

    def counted(self) -> dict[str, list[int]]:
        return numbers(value for _, value in self.records("out"))

    def check(self) -> None:
        """Every key was counted 1, 2, 3 … once each: nothing lost, nothing twice, no state forgotten."""
        wanted = {key.decode(): list(range(1, count + 1)) for key, count in self.sent.items()}
        assert self.counted() == wanted
        if self.plan.sink:
            assert numbers(value for _, rows in self.targets.values() for value in rows) == wanted


def numbers(values: Iterable[bytes | None]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for value in values:
        key, number = json.loads(value or b"")
        found.setdefault(key, []).append(number)
    return found


class FakeSink:
    """What `SinkRunner` does, without waiting for anything: rows and position are stored in one step."""

    def __init__(self, reader: Reader, store: dict[int, tuple[int, list[bytes | None]]]) -> None:
        self.reader, self.store = reader, store
        self.mine: set[int] = set()
        self.wake: Callable[[], None] = lambda: None
        self.last_error: str | None = None
        self.stopped = self.blocked = False

    @property
    def idle(self) -> bool:
        return not self.blocked

    @property
    def stored(self) -> dict[int, int]:
        return {p: self.store.get(p, (0, []))[0] for p in self.mine}

    def assign(self, partitions: Iterable[int]) -> None:
        for p in partitions:
            self.mine.add(p)
            self.reader.add(SINK, p, self.store.get(p, (0, []))[0])

    def release(self, partitions: Iterable[int]) -> None:
        for p in self.mine.intersection(partitions):
            self.mine.discard(p)
            self.reader.remove(SINK, p)

    def flush(self) -> None: ...

    def stored_by_all(self, partitions: int) -> dict[int, int]:
        return {p: self.store.get(p, (0, []))[0] for p in range(partitions)}

    def step(self, now_ms: int) -> int:
        taken = 0
        for p in self.mine:
            read: RawBatch | None = self.reader.read(SINK, p, 10)
            if read is not None:
                position, rows = self.store.get(p, (0, []))
                if read.first_offset == position:  # else another worker was first: compare-and-swap
                    self.store[p] = (read.next_offset, [*rows, *(record[3] for record in read.records())])
                taken += len(read)
        return taken


__all__ = ["APP", "EDGE", "PARTITIONS", "Cluster", "Crash"]
