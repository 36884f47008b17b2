"""A stand-in for `adstream._core`'s Plan and Task, shaped exactly like them: it counts records per key and passes
them on.

Two sub-topologies in a row, `in -> count -> edge -> count -> out`, both with state, the second one feeding a sink
as well. A lost record makes a gap in a key's numbers, a repeated one makes a number come twice, and forgotten state
makes them begin again: so one look at `out` judges everything. The contract of the real Task is asserted, not
trusted.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adstream._core import CoreError, RawBatch, murmur2

APP = "echo"
EDGE, CHANGELOG_0, CHANGELOG_1, SINK = "echo-edge", "echo-0-changelog", "echo-1-changelog", "echo-rows-sink"


def batch(*records: tuple[bytes | None, bytes | None]) -> RawBatch:
    return RawBatch([(i, i, key, value, []) for i, (key, value) in enumerate(records)])


def partition_of(key: bytes, partitions: int) -> int:
    return (murmur2(key) & 0x7FFFFFFF) % partitions


class EchoPlan:
    """`poison`: a task that meets this value raises, as often as `poison_times` says."""

    def __init__(self, *, sink: bool = False, poison: bytes | None = None, poison_times: int = 1 << 30) -> None:
        self.sink, self.poison, self.poison_times = sink, poison, poison_times
        self.on_process: Callable[[], None] = lambda: None

    def describe(self) -> str:
        def sub(number: int, source: str, kind: str, outputs: Sequence[tuple[str, str]]) -> dict[str, Any]:
            return {
                "id": number,
                "sources": [{"topic": source, "kind": kind}],
                "nodes": [],
                "outputs": [{"topic": topic, "kind": k} for topic, k in outputs],
                "stateful": True,
            }

        to_sink = [(SINK, "sink")] if self.sink else []
        return json.dumps(
            {
                "app": APP,
                "subtopologies": [
                    sub(0, "in", "user", [(EDGE, "edge"), (CHANGELOG_0, "changelog")]),
                    sub(1, EDGE, "edge", [("out", "user"), (CHANGELOG_1, "changelog"), *to_sink]),
                ],
                "sinks": [{"name": "rows", "kind": "fake", "topic": SINK, "key": [], "columns": [], "options": {}}]
                if self.sink
                else [],
            }
        )

    def task(
        self,
        subtopology: int,
        partition: int,
        partitions: Mapping[str, int],
        options: str = "{}",
        globals: object = None,
        find_topic: object = None,
    ) -> "EchoTask":
        source, *targets = [("in", EDGE), (EDGE, "out", *([SINK] if self.sink else []))][subtopology]
        changelog = (CHANGELOG_0, CHANGELOG_1)[subtopology]
        return EchoTask(self, (source, partition), targets, (changelog, partition), partitions)


class EchoGeneration:
    def __init__(
        self, outputs: list[tuple[str, int, RawBatch]], positions: dict[tuple[str, int], int], rows: int
    ) -> None:
        self.outputs, self.positions, self.empty = outputs, positions, not rows


class EchoTask:
    def __init__(
        self,
        plan: EchoPlan,
        source: tuple[str, int],
        targets: Sequence[str],
        changelog: tuple[str, int],
        partitions: Mapping[str, int],
    ) -> None:
        self.plan, self.source, self.targets, self.changelog, self.partitions = (
            plan,
            source,
            targets,
            changelog,
            partitions,
        )
        self.counts: dict[bytes, int] = {}
        self.buffer: list[tuple[int, bytes, bytes | None]] = []
        self.fed: int | None = None
        self.position: int | None = None
        self.open: list[tuple[bytes, bytes | None, int]] = []
        self.undo: list[tuple[dict[bytes, int], int | None]] = []
        """State before each generation that is not committed, the newest last; the current one included."""
        self.read_all = False
        self._begin()

    def _begin(self) -> None:
        self.undo.append((dict(self.counts), self.position))
        assert len(self.undo) <= 2, "more than two generations"
        self.open = []

    def feed(self, topic: str, partition: int, batch: RawBatch) -> None:
        assert (topic, partition) == self.source
        if self.fed is None:
            self.fed = self.position = batch.first_offset
            self.undo[-1] = (self.undo[-1][0], self.position)
        assert batch.first_offset >= self.fed, "records that were fed before"
        for offset, _, key, value, _ in batch.records():
            assert offset == self.fed, "a gap, in a log that has none"
            self.buffer.append((offset, key or b"", value))
            self.fed = offset + 1
        self.fed = batch.next_offset

    def buffered(self, topic: str, partition: int) -> int:
        return len(self.buffer)

    def caught_up(self, topic: str, partition: int, value: bool) -> None:
        assert (topic, partition) == self.source
        self.read_all = value

    def begin(self, now_ms: int) -> None: ...

    @property
    def commit_asked(self) -> bool:
        return False

    @property
    def ticks(self) -> bool:
        return False

    def tick(self, now_ms: int) -> None: ...

    def process(self, max_rows: int) -> int:
        self.plan.on_process()
        rows = self.buffer[:max_rows]
        for offset, key, value in rows:
            if value == self.plan.poison and self.plan.poison_times > 0 and value is not None:
                self.plan.poison_times -= 1
                raise CoreError("fatal", "poison", "a poisoned record", None, None)
            self.counts[key] = self.counts.get(key, 0) + 1
            self.open.append((key, value, self.counts[key]))
            self.position = offset + 1
        del self.buffer[: len(rows)]
        return len(rows)

    def close_generation(self) -> EchoGeneration:
        outputs: list[tuple[str, int, RawBatch]] = []
        for target in self.targets:
            parts: dict[int, list[tuple[bytes | None, bytes | None]]] = {}
            for key, value, count in self.open:
                text = json.dumps([key.decode(), count]).encode() if target != EDGE else value
                parts.setdefault(partition_of(key, self.partitions[target]), []).append((key, text))
            outputs += [(target, p, batch(*records)) for p, records in parts.items()]
        if self.open:
            delta = {key: count for key, _, count in self.open}
            outputs.append((*self.changelog, batch(*((k, str(n).encode()) for k, n in delta.items()))))
        assert self.position is not None
        positions = {self.source: self.position if self.buffer else self.fed or 0}
        self.position = positions[self.source]
        generation = EchoGeneration(outputs, positions, len(self.open))
        self._begin()
        return generation

    def committed(self) -> None:
        assert len(self.undo) == 2, "nothing was closed"
        del self.undo[0]

    def rollback(self) -> dict[tuple[str, int], int]:
        self.counts, self.position = self.undo[0]
        self.undo, self.buffer, self.fed = [], [], self.position
        self._begin()
        return self.positions()

    def new_inputs(self) -> list[str]:
        return []

    def restore(self, batch: RawBatch) -> None:
        assert self.fed is None, "restored after the first feed"
        for _, _, key, value, _ in batch.records():
            assert key is not None
            assert value is not None
            self.counts[key] = int(value)
        self.undo[-1] = (dict(self.counts), self.position)

    def positions(self) -> dict[tuple[str, int], int]:
        assert self.position is not None
        return {self.source: self.position}

    @property
    def generation(self) -> int:
        return 0

    @property
    def needed_from(self) -> int | None:
        return None

    def stats(self) -> dict[str, Any]:
        return {"state_keys": len(self.counts), "dropped": {"late": 0}}
