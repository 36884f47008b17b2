"""The ports of the engine: what a log, its readers, its writers and its leases promise.

The worker talks to these and to nothing else, so Kafka, the embedded log, the test driver's log and the simulator's are
siblings. Whatever here can block says for how long; whatever can fail says what the failure means.

A *position* is the offset of the next record to read. Readers see committed records only.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from adstream._core import Output, RawBatch

TopicPartition = tuple[str, int]


class Uncaught(enum.Enum):
    """What follows when a task failed and, rolled back and tried again, failed once more. Kafka Streams'
    `StreamThreadExceptionResponse`, and `QUARANTINE`."""

    QUARANTINE = "quarantine"
    """The task is set aside, the others go on (the default)."""
    REPLACE_TASK = "replace_task"
    """It is restored from the log and tried again, after 1, 2, 4 … 60 s. There: `REPLACE_THREAD`."""
    STOP_WORKER = "stop_worker"
    """This worker ends in the state ERROR; others take its tasks. There: `SHUTDOWN_CLIENT`, the default."""
    STOP_APPLICATION = "stop_application"
    """All workers of the application do."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told what a worker goes through (`App.on_state_change` and its neighbours)."""

    state: tuple[Callable[[str, str], None], ...] = ()
    """(new, old)"""
    assigned: tuple[Callable[[list[TopicPartition]], None], ...] = ()
    """Inputs of tasks; the same below."""
    revoked: tuple[Callable[[list[TopicPartition]], None], ...] = ()
    lost: tuple[Callable[[list[TopicPartition]], None], ...] = ()
    uncaught: Callable[[Exception, str], Uncaught | str] | None = None
    """(error, task); None: the setting `on_uncaught` says."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic the application needs. `config` are Kafka topic settings (`cleanup.policy` …)."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


class Outcome(enum.Enum):
    """How a commit ended; anything uncertain has been settled before it is returned."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    """Nothing of it is visible: undo, read again from the committed positions."""
    FATAL = "fatal"
    """Fenced or unknown: throw memory away, open a new writer, restore from the log."""


class Reader(Protocol):
    """Committed records of some partitions, one bounded queue each: what is not read costs no memory."""

    def add(self, topic: str, partition: int, position: int) -> None:
        """Starts reading a partition at `position` (absolute)."""

    def remove(self, topic: str, partition: int) -> None: ...

    def read(self, topic: str, partition: int, max_rows: int) -> RawBatch | None:
        """Up to `max_rows` records, without waiting; None when none are at hand. A batch may be empty and only move the
        position (transaction markers). Raises OffsetGoneError, each time, when the position is not there: its records
        were deleted, or it lies behind the end."""

    def at_end(self, topic: str, partition: int) -> bool:
        """Whether the last read had reached the end of the committed records as far as this client knows."""

    def unread(self) -> Set[TopicPartition] | None:
        """The partitions at which `read` or `at_end` may say something else than the last time; those of the others need not be
        asked. None: this client does not know."""

    def wait(self, timeout_s: float) -> None:
        """Returns when something may be readable, at the latest after `timeout_s`."""

    def close(self) -> None: ...


@runtime_checkable
class Wakeable(Protocol):
    """A reader whose `wait` other threads can end."""

    def wake(self) -> None:
        """Ends a `wait`, this one or the next."""


class Writer(Protocol):
    """The transactional producer of one worker slot."""

    refused: bool
    """Whether the last commit was aborted because its fence is of no member any more: whatever was to be written, it would
    have been."""

    def commit(
        self,
        outputs: Sequence[Output],
        offsets: Mapping[TopicPartition, int],
        group: str,
        fence: object,
        step: Callable[[str], None] = ...,
    ) -> Outcome:
        """Writes all or nothing. `offsets` are committed under `group`, fenced by `fence` (from `Leases.fence`; None: no
        fencing). `step` is called before each named step (`begin`, `produce`, `offsets`, `commit`, `committed`), for crash
        tests. Blocks until settled. With at-least-once: produce, flush, then offsets."""

    def close(self) -> None: ...


class Leases(Protocol):
    """Which tasks this worker owns. Partition k of the lease topic = task k."""

    def start(self) -> None: ...

    def poll(self) -> LeaseChange | None:
        """The next change, without waiting. Raises ConfigError: with its settings it will never be let in."""

    def released(self, tasks: Sequence[int]) -> None:
        """Answers a revocation: the tasks' last generation is committed or given up."""

    def beat(self) -> None:
        """The worker is alive: without it for long, the member gives its tasks up (a hung worker must not keep them)."""

    def joined(self) -> bool:
        """Whether the group has said what this member has, be it nothing."""

    def members(self) -> Membership | None:
        """Who is in the group, as was last heard, without waiting; None: not known. Before `start`, too. A log that has to ask
        begins with the first call, and goes on asking."""

    def fence(self) -> object:
        """What `Writer.commit` needs so that a worker which lost its lease cannot commit."""

    def close(self) -> None:
        """Leaves the group; owned tasks must have been released."""


@dataclass(frozen=True, slots=True)
class Membership:
    """A group, while it was at rest."""

    me: str
    """Empty: it has not joined."""
    tasks: Mapping[str, tuple[int, ...]]
    """Member -> its tasks, those without any included. Names are in the order in which the log prefers members
    that are equal."""


@dataclass(frozen=True, slots=True)
class LeaseChange:
    """`granted`: now ours. `revoked`: finish, then call `released` (the rebalance waits for it, bounded). `lost`: already
    somebody else's; throw memory away, do not commit."""

    granted: tuple[int, ...] = ()
    revoked: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()


class Log(Protocol):
    """A partitioned, transactional log with consumer groups."""

    def create_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Creates those that are missing (waits until usable); returns their names. Raises ConfigError naming the topic when
        one exists with another partition count."""

    def topics(self) -> list[str]:
        """The names of all topics that may be seen. In any thread."""

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        """Partition counts; a topic that does not exist is absent."""

    def topic_settings(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """Kafka topic settings (`retention.ms` …, and `replication.factor`) of topics that exist, defaults included, as far
        as the log has and tells them."""

    def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        """What tells a topic from another one that had its name before. Absent: topics that do not exist, and where the log has
        no ids, or tells none."""

    def committed(self, group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
        """Stable committed positions: waits out (bounded) or settles transactions that hold offsets back."""

    def start_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]: ...

    def end_offsets(self, partitions: Sequence[TopicPartition], *, committed: bool) -> dict[TopicPartition, int]:
        """`committed=False`: the very end (high watermark, open transactions included): what a restore must reach."""

    def offsets_at(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The first offset whose record is of that time (ms) or later; the end, if there is none."""

    def reader(self) -> Reader: ...

    def writer(self, slot: str, *, exactly_once: bool = True) -> Writer:
        """Opening a slot fences whoever holds it."""

    def leases(self, group: str, topic: str) -> Leases: ...

    def members(self, group: str) -> list[str]:
        """Who is in the group now, for people to read. Somebody who was killed shows until its session ends."""

    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """Lets the log forget records before these offsets."""

    def close(self) -> None: ...


class Administered(Log, Protocol):
    """A log whose topics and groups can be looked into and put back, for applications that do not run (`adstream reset`,
    `doctor`)."""

    def delete_topics(self, topics: Sequence[str]) -> None:
        """Deletes those that exist, and returns when they are gone. Raises ConfigError when it may not."""

    def reset_group(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """The group has these positions and no others. Raises ConfigError while it has members."""


class Target(Protocol):
    """Where a sink's rows go, with the position they came from, in one atomic step."""

    refused: int
    """Rows that could not be stored for what is in them, and were set aside, so far."""

    def open(self, app: str, sink: str, schema: Mapping[str, str], key: Sequence[str]) -> None:
        """Connects, creates or migrates what the rows need. `schema`: column -> core type text (`decimal(10,2)`).
        Raises ConfigError naming the connection."""

    def positions(self, partitions: Sequence[int]) -> dict[int, int]:
        """The stored position of each partition (absent: 0)."""

    def of_topic(self, topic_id: str) -> str:
        """Which topic its positions are of, by the id that it was told first (`Log.topic_ids`). Open."""

    def write(self, partition: int, expected: int, position: int, rows: Mapping[str, list[Any]]) -> bool:
        """Applies the rows (column -> values) and moves the position from `expected` to `position`, or changes nothing and
        returns False when the stored position is not `expected` (a replay, or a zombie). A row that can never be stored does not
        hold up the others: it is set aside with its reason, in the same step, and counted in `refused`."""

    def forget(self, app: str, sink: str) -> None:
        """Removes the sink's positions, which then count as 0; rows stay. Need not be open."""

    def close(self) -> None: ...
