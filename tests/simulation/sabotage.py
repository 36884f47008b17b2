"""Workers broken on purpose, each in one way: what the auditor must find within a few seeds.

A sabotage is handed each process when it starts and bends that one worker; the product's code stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from adstream.interfaces import Outcome
from adstream.runtime.worker import Worker
from adstream.testing.simulation.cluster import Process


def worker_of(process: Process) -> Worker:
    assert process.worker is not None
    return process.worker


def without_fencing(process: Process) -> None:
    """Commits with no fence: who has lost its lease goes on committing."""
    log: Any = process.log
    real = log.writer

    def writer(slot: str, **options: Any) -> Any:
        made: Any = real(slot, **options)
        commit = made.commit
        made.commit = lambda outputs, offsets, group, fence, step: commit(outputs, offsets, group, None, step)
        return made

    log.writer = writer


def without_rollback(process: Process) -> None:
    """An aborted commit is taken for a committed one."""
    worker: Any = worker_of(process)
    take = worker._committer.take

    def lying(wait_s: float = 0.0) -> Any:
        result = take(wait_s)
        if result is not None and result.outcome is Outcome.ABORTED:
            return type(result)(Outcome.COMMITTED)
        return result

    worker._committer.take = lying


def outputs_without_positions(process: Process) -> None:
    """Outputs are committed, and the positions in a transaction of their own behind them."""
    log: Any = process.log
    real = log.writer

    def writer(slot: str, **options: Any) -> Any:
        made: Any = real(slot, **options)
        commit = made.commit

        def twice(outputs: Any, offsets: Any, group: str, fence: Any, step: Callable[[str], None]) -> Outcome:
            outcome: Outcome = commit(outputs, {}, group, fence, step)
            if outcome is Outcome.COMMITTED:
                outcome = commit([], offsets, group, fence, step)
            return outcome

        made.commit = twice
        return made

    log.writer = writer


def positions_before_they_are_stable(process: Process) -> None:
    """Committed positions are taken as they are, while a transaction with newer ones is still open, and restores end
    where read_committed ends."""
    log: Any = process.log

    def committed(group: str, partitions: Any) -> Any:
        log.call("committed")
        offsets = log.broker.offsets.get(group, {})
        return {tp: offsets.get(tp) for tp in partitions}

    real = log.end_offsets
    log.committed = committed
    log.end_offsets = lambda partitions, committed: real(partitions, committed=True)


def sinks_that_trust_themselves(process: Process) -> None:
    """A target that is not at the expected position is overwritten all the same."""
    sinks: Any = worker_of(process)._sinks
    for sink in sinks.values():
        target = sink._target
        write = target.write

        def forced(partition: int, expected: int, position: int, rows: Any, *, t: Any = target, w: Any = write) -> Any:
            return w(partition, t._store.positions.get(partition, 0), position, rows)

        target.write = forced


def state_without_restore(process: Process) -> None:
    """Tasks begin with nothing, at their committed positions."""
    worker: Any = worker_of(process)
    make = worker._make

    class Forgetful:
        def __init__(self, core: Any) -> None:
            self._core = core

        def restore(self, batch: Any) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            return getattr(self._core, name)

    worker._make = lambda task: Forgetful(make(task))


def snapshots_that_claim_too_much(process: Process) -> None:
    """The log's end is asked for when the commit is through, and what a snapshot says of itself is believed."""
    snapshots: Any = worker_of(process)._snapshots
    if snapshots is None:
        return
    real_open = snapshots.open

    def opened(spec: Any, **options: Any) -> Any:
        snapshot = real_open(spec, **options)
        if snapshot is None:
            return None
        append, load, compared = snapshot.append, snapshot.load, []

        def too_far(end: int, now_ms: int = 0, *, read: bool = False) -> None:
            append(end if read else process.log.broker.partition(spec.changelog).end, now_ms, read=read)

        def load_after_comparing(block: Any) -> Any:
            compared.append(block)
            return [] if len(compared) == 1 else load(block)

        snapshot.append, snapshot.load = too_far, load_after_comparing
        if snapshot.blocks:
            last = snapshot.blocks[-1]
            snapshot.blocks[-1] = replace(last, begin=last.end)
        return snapshot

    snapshots.open = opened


def standbys_that_miss_something(process: Process) -> None:
    """A standby passes over a record now and then, and says that it has it."""
    standbys: Any = worker_of(process).standbys
    if standbys is None:
        return
    make, calls = standbys._make, []

    class Careless:
        def __init__(self, core: Any) -> None:
            self._core = core

        def restore(self, batch: Any, known: bool = False) -> None:
            calls.append(batch)
            if len(calls) % 5:
                self._core.restore(batch, known)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._core, name)

    standbys._make = lambda task: Careless(make(task))


SABOTAGES: dict[str, Callable[[Process], None]] = {
    f.__name__: f
    for f in (
        without_fencing,
        without_rollback,
        outputs_without_positions,
        positions_before_they_are_stable,
        sinks_that_trust_themselves,
        state_without_restore,
        snapshots_that_claim_too_much,
        standbys_that_miss_something,
    )
}
