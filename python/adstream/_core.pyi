"""The Rust core. Bindings only: arguments in, batches out. Used by `adstream.dsl`, `adstream.logs`, `adstream.runtime`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, final

__version__: str

class CoreError(Exception):
    """A topology that cannot be built, or a state that must not go on.

    `args` is `(kind, code, message, hint, node)`: kind `plan` or `fatal`, hint and node may be None.
    """

def pattern_automaton(pattern: str) -> str:
    """The automaton of a pattern as the plan has it (both JSON): states with their edges, the start, the window.

    Raises:
        CoreError: kind `plan`, `malformed_pattern`.
    """

def infer(schema: str, expr: str) -> str:
    """The type of an expression over a schema (both JSON, see docs/plan.md), as text: `decimal(10,2)`.

    Raises:
        CoreError: kind `plan`; unknown column, type mismatch …, with a hint.
    """

def murmur2(data: bytes) -> int:
    """Kafka's murmur2 as an unsigned 32-bit integer; partition = (murmur2 & 0x7fffffff) % partitions."""

def serde_write(spec: str, callables: Sequence[Callable[..., Any]], value: Any) -> bytes | None:
    """The bytes of a value, by a serde of `rust/core/src/flow/serde.rs` (JSON). Raises ValueError."""

def serde_read(spec: str, callables: Sequence[Callable[..., Any]], data: bytes | None) -> Any:
    """The value of some bytes. Raises ValueError."""

@final
class Windowed:
    """A key within a window.

    `end` is exclusive for tumbling and hopping windows, inclusive for sliding and session windows. In Kafka Streams:
    `Windowed`.
    """

    def __new__(cls, key: Any, start: int, end: int) -> Self: ...
    @property
    def key(self) -> Any: ...
    @property
    def start(self) -> int:
        """ms."""
    @property
    def end(self) -> int:
        """ms."""
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[Any, int, int]]: ...

@final
class ProcessorRecord:
    """A record of a processor. Immutable; `with_…` makes another one. In Kafka Streams: `api.Record`."""

    def __new__(
        cls, key: Any, value: Any, timestamp: int, headers: Sequence[tuple[str, bytes | None]] | None = ...
    ) -> Self:
        """`timestamp`: ms, 0 or more, else ValueError."""
    @property
    def key(self) -> Any: ...
    @property
    def value(self) -> Any: ...
    @property
    def timestamp(self) -> int:
        """ms."""
    @property
    def headers(self) -> tuple[tuple[str, bytes | None], ...]: ...
    def with_key(self, key: Any) -> ProcessorRecord:
        """Raises TypeError in a fixed-key processor."""
    def with_value(self, value: Any) -> ProcessorRecord: ...
    def with_timestamp(self, timestamp: int) -> ProcessorRecord:
        """Raises ValueError for a negative one."""
    def with_headers(self, headers: Sequence[tuple[str, bytes | None]]) -> ProcessorRecord:
        """With these instead of those it has."""
    def with_header(self, name: str, value: bytes | None) -> ProcessorRecord:
        """With one more."""
    def without_header(self, name: str) -> ProcessorRecord:
        """Without those of this name."""
    def __eq__(self, other: object, /) -> bool: ...

_Entry = tuple[Any, int, int, Any, int]
_Span = tuple[Any, Any, bytes | None, int | None, int | None, bool, bytes | None, int]

@final
class ProcessorHandle:
    """A processor's way back into the task. Works only inside a call of the processor, on its thread: RuntimeError."""

    @staticmethod
    def detached(node: str, stores: str) -> ProcessorHandle:
        """Stores (JSON, as in a plan) without a task, for unit tests. Raises ValueError."""
    @property
    def node(self) -> str: ...
    @property
    def stores(self) -> list[str]: ...
    @property
    def task_id(self) -> str: ...
    def forward(self, record: ProcessorRecord, child: str | None = ...) -> None:
        """Raises KeyError: there is no such child."""
    def commit(self) -> None: ...
    def schedule(
        self, interval_ms: int, wall: bool, callback: Callable[[int], object], start_ms: int | None = ...
    ) -> int: ...
    def cancel(self, schedule: int) -> None: ...
    def record_metadata(self) -> tuple[str, int, int] | None:
        """topic, partition, offset."""
    def stream_time(self) -> int: ...
    def system_time(self) -> int: ...
    def count(self, reason: str, by: int = ...) -> None: ...
    # Stores by name; KeyError: the processor is not connected to it.
    def get(self, store: str, key: Any) -> tuple[Any, int] | None: ...
    def put(self, store: str, key: Any, value: Any, ts: int) -> None: ...
    def scan(self, store: str, span: _Span) -> tuple[list[_Entry], bytes | None]: ...
    def len(self, store: str) -> int: ...
    def get_window(self, store: str, key: Any, start: int, end: int) -> tuple[Any, int] | None: ...
    def put_window(self, store: str, key: Any, times: tuple[int, int, int], value: Any) -> None:
        """`times`: start, end, the value's own."""
    def get_version(self, store: str, key: Any, at: int | None = ...) -> tuple[Any, int, int | None] | None:
        """value, from, to (None: until now)."""
    def put_version(self, store: str, key: Any, value: Any, ts: int) -> int: ...
    def remove_session(self, store: str, key: Any, start: int, end: int) -> None: ...

Record = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
"""offset, timestamp (ms), key, value, headers."""

@final
class RawBatch:
    """Records of one topic-partition in offset order, held in Rust."""

    def __new__(cls, records: Sequence[Record] = ..., next_offset: int | None = ...) -> Self:
        """`next_offset` (default: last offset + 1, or 0) is the position after the batch."""
    def __len__(self) -> int: ...
    @property
    def next_offset(self) -> int: ...
    @property
    def first_offset(self) -> int:
        """The first record's offset; `next_offset` when empty."""
    @property
    def byte_size(self) -> int: ...
    def records(self) -> list[Record]: ...
    def slice(self, start: int, stop: int) -> RawBatch: ...
    def with_offsets(self, first: int) -> RawBatch:
        """The same records numbered from `first` without gaps (what a log does on append)."""
    @staticmethod
    def merge(batches: Sequence[RawBatch]) -> RawBatch:
        """All their records, each batch's in its own order, beside each other by their times; numbered from 0."""
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes) -> RawBatch: ...

@final
class FetchReader:
    """Reads committed records by Kafka's fetch protocol, without a thread: work is done inside `read` and `wait`. One caller
    at a time; `wake` and `errors` from any thread.

    Raises RuntimeError as `NativeReader` does.
    """

    def __new__(cls, config: Sequence[tuple[str, str]], headers: bool = ...) -> Self:
        """`config`: client settings by librdkafka's names. Raises ValueError for one that is wrong or not supported."""
    @staticmethod
    def unsupported(config: Sequence[tuple[str, str]]) -> str | None:
        """Why these settings need another reader (TLS, SASL, a setting it does not know); None: they do not."""
    def add(self, topic: str, partition: int, position: int) -> None: ...
    def remove(self, topic: str, partition: int) -> None: ...
    def read(self, topic: str, partition: int, max_rows: int) -> RawBatch | None: ...
    def at_end(self, topic: str, partition: int) -> bool: ...
    def wait(self, timeout_s: float) -> None:
        """Until data has arrived (or was left behind by a read) since the last wait; at the latest after `timeout_s`."""
    def wake(self) -> None:
        """Ends a wait of another thread."""
    def errors(self) -> list[str]:
        """What went wrong and is being retried, oldest first; each is told once."""
    def close(self) -> None: ...

@final
class NativeReader:
    """Reads committed records through librdkafka. One caller at a time; `wait`, `wake` and `errors` from any thread.

    Raises RuntimeError for what cannot pass by itself: an offset that is gone, a topic one may not read, a forked process.
    """

    def __new__(cls, library: str, config: Sequence[tuple[str, str]], headers: bool = ...) -> Self:
        """`library`: the path of librdkafka. Raises ValueError for a library or a setting that cannot be used."""
    def add(self, topic: str, partition: int, position: int) -> None: ...
    def remove(self, topic: str, partition: int) -> None: ...
    def read(self, topic: str, partition: int, max_rows: int) -> RawBatch | None: ...
    def at_end(self, topic: str, partition: int) -> bool: ...
    def wait(self, timeout_s: float) -> None:
        """Until data has arrived (or was left behind by a read) since the last wait; at the latest after `timeout_s`."""
    def wake(self) -> None:
        """Ends a wait of another thread."""
    def errors(self) -> list[str]:
        """What went wrong and is being retried, oldest first; each is told once."""
    def close(self) -> None: ...

@final
class NativeProducer:
    """Writes records through librdkafka, with transactions. Any thread may call; records of one caller keep their order.

    Calls return None, or what librdkafka refused: its code, a text, and whether it is fatal, may be called again, or asks for
    the transaction to be aborted. Time-outs are seconds.
    """

    def __new__(cls, library: str, config: Sequence[tuple[str, str]]) -> Self:
        """`library`: the path of librdkafka. Raises ValueError for a library or a setting that cannot be used."""
    def produce(self, topic: str, partition: int, batch: RawBatch) -> tuple[int, str, bool, bool, bool] | None:
        """Queues a batch's records, in order; while the queue is full, deliveries are waited for."""
    def poll(self, timeout_s: float) -> tuple[int, str, bool, bool, bool] | None: ...
    def flush(self, timeout_s: float) -> int:
        """How many records are still neither delivered nor failed."""
    def reach(self, timeout_s: float) -> tuple[int, str, bool, bool, bool] | None:
        """Whether a broker answers."""
    def init_transactions(self, timeout_s: float) -> tuple[int, str, bool, bool, bool] | None: ...
    def begin_transaction(self) -> tuple[int, str, bool, bool, bool] | None: ...
    def commit_transaction(self, timeout_s: float) -> tuple[int, str, bool, bool, bool] | None: ...
    def abort_transaction(self, timeout_s: float) -> tuple[int, str, bool, bool, bool] | None: ...
    def send_offsets(
        self, offsets: Sequence[tuple[str, int, int, str]], group: bytes, timeout_s: float
    ) -> tuple[int, str, bool, bool, bool] | None:
        """`offsets`: topic, partition, position, and a text that is kept with it. `group`: what
        `Consumer.consumer_group_metadata` gives."""
    def failures(self) -> tuple[int, list[tuple[int, str, str, int, int]]]:
        """Deliveries that failed since the last look: how many, and the first few: code, text, topic, partition, bytes."""
    def errors(self) -> list[str]:
        """What went wrong and passes by itself, oldest first; each is told once."""
    def close(self, timeout_s: float) -> None:
        """Drops what is queued, and aborts an open transaction if that takes no longer."""

@final
class LineReader:
    """The lines of one file as records, in order; offsets are the bytes at which lines begin."""

    def __new__(cls, path: Path, position: int, size: int, end: int, timestamp: int) -> Self:
        """`position`: where a line begins. `size`: the file's, of which no more is read. `end`: the position behind the last
        line: `size`, or one more if that line has no newline. `timestamp`: every record's, ms. Raises OSError."""
    def read(self, max_rows: int) -> RawBatch | None:
        """Up to `max_rows` records and about a MiB; None at the end. Raises OSError, and ValueError for a file that changed
        meanwhile or has a line beyond 256 MiB."""
    @property
    def position(self) -> int: ...
    @property
    def at_end(self) -> bool: ...

@final
class Plan:
    """A checked topology, cut into sub-topologies."""

    def __new__(cls, plan: str, callables: Sequence[Callable[..., Any]] = ...) -> Self:
        """Raises CoreError (kind `plan`)."""
    def describe(self) -> str:
        """JSON: `{"app", "topics", "subtopologies", "sinks", "globals", "formats"}`; `formats`: versions of stored formats.

        A sub-topology is `{"id", "sources": [{"topic", "kind": "user"|"edge", "node"}], "nodes": [...], "outputs": [{"topic",
        "kind": "user"|"edge"|"sink"|"dead_letters"|"changelog", ...}], "stateful", "changelog"}`, a sink `{"name", "kind",
        "topic", "key", "columns", "options", "subtopology"}`. Names of internal topics are whole:
        `<app>-<node>-repartition`, `<app>-<node>-sink`, `<app>-<subtopology>-changelog`. A node with state has
        `"meaning": [[part, text], …]`: what its stored state means; with another one it cannot be used. `globals`: the global
        tables, `{"name", "topic"}` each; their topics are not among `topics`.
        """
    def globals(self) -> Globals:
        """Its global tables, empty: for one worker and all of its tasks."""
    def task(
        self,
        subtopology: int,
        partition: int,
        partitions: Mapping[str, int],
        options: str = ...,
        globals: Globals | None = ...,
        find_topic: Callable[[str], int | None] | None = ...,
    ) -> Task:
        """A task, empty. `partitions`: the partition count of every topic of the plan. `options` JSON: `{"exactly_once": true,
        "cache": true, "clock_ms": null, "closing_rows": 16384}`; without `cache` no table of a record flow has one;
        `closing_rows`: how many final rows one record makes at once, more of them are told by later calls of `process`,
        each a row. `globals`: from `globals()`;
        needed if the plan has global tables. `find_topic`: how many partitions a topic has that only a function names,
        None if there is no such topic; what it raises fails the task."""

@final
class Globals:
    """One worker's global tables, which its tasks look into. Any thread may use it."""

    def apply(self, topic: str, partition: int, batch: RawBatch) -> None:
        """The next records of a topic's partition. What cannot be read is counted and passed over. Raises CoreError: the
        processor of a global store cannot be made."""
    def query_get(self, store: str, key: Any, window: tuple[int, int] | None) -> tuple[Any, int] | None:
        """Queries are those of `Task`."""
    def query_version(self, store: str, key: Any, at: int | None) -> tuple[Any, int, int | None] | None: ...
    def query_scan(self, store: str, span: _Span) -> tuple[list[_Entry], bytes | None] | None: ...
    def query_len(self, store: str) -> int | None: ...
    def stats(self) -> dict[str, tuple[int, dict[str, int]]]:
        """By table: how many keys it has, and what became of records, by reason."""

Output = tuple[str, int, RawBatch]
"""topic, partition, records (offsets not yet meaningful)."""

@final
class Generation:
    """What one commit of one task consists of."""

    @property
    def outputs(self) -> list[Output]:
        """User topics, edges, sink topics, dead letters, changelog (delta and meta), in writing order."""
    @property
    def positions(self) -> dict[tuple[str, int], int]:
        """Next offset to read, of each input partition."""
    @property
    def empty(self) -> bool:
        """Nothing was read and nothing is to be written."""

@final
class DiskCache:
    """A worker's memory for its stores on disk."""

    def __new__(cls, bytes: int) -> DiskCache: ...

@final
class Disk:
    """The stores of one task below a directory. From any thread."""

    def __new__(cls, path: str, cache: DiskCache) -> Disk:
        """Raises CoreError (`local_state_damaged`)."""
    @property
    def position(self) -> int | None:
        """The changelog's offset from which a restore has to read; None: there is nothing yet."""
    def tidy(self, all: bool = False) -> bool:
        """Writes to files what has grown large, or all that is in memory; returns whether it wrote. Raises CoreError."""
    @property
    def file_bytes(self) -> int: ...

@final
class Task:
    """One sub-topology on one partition. Not thread-safe: one thread at a time."""

    def feed(self, topic: str, partition: int, batch: RawBatch) -> None:
        """Hands over records; they must continue where the last ones of that partition ended."""
    def buffered(self, topic: str, partition: int) -> int:
        """Records handed over and not yet processed."""
    def caught_up(self, topic: str, partition: int, value: bool) -> None:
        """Whether the partition is known to have no unread data (a partition that has some is waited for)."""
    def begin(self, now_ms: int) -> None:
        """Once before the first `process`, after a restore and after a rollback: processors begin, at this time."""
    @property
    def ticks(self) -> bool:
        """Whether time that passes is anything to it: `tick` may make something come out."""

    @property
    def commit_asked(self) -> bool:
        """Whether a processor asked for a commit since the last one."""
    def query_get(self, store: str, key: Any, window: tuple[int, int] | None) -> tuple[Any, int] | None:
        """A committed value and its time; of stores of windows by the window's bounds. From any thread."""
    def query_scan(self, store: str, span: _Span) -> tuple[list[_Entry], bytes | None] | None:
        """A page of committed entries; None: the task has no such store. From any thread."""
    def query_version(self, store: str, key: Any, at: int | None) -> tuple[Any, int, int | None] | None: ...
    def query_len(self, store: str) -> int | None: ...
    def pattern_counts(self, store: str) -> list[tuple[Any, list[int]]]:
        """By key that has any: live runs, withheld matches, buffered events, waiting events."""
    def tick(self, now_ms: int) -> None:
        """Moves the logged clock (ms; never backwards). What it causes leaves when the generation closes, with which it is
        stored."""
    def process(self, max_rows: int) -> int:
        """Processes up to `max_rows` buffered records, in the task's order; returns how many. Raises CoreError (fatal)."""
    def close_generation(self) -> Generation:
        """Ends the current generation; the next begins. At most two may be open (one committing, one being processed)."""
    def committed(self, end: int | None = None) -> None:
        """The oldest closed generation was committed. `end`: the end of its changelog, asked for when nothing of the generation
        was written yet."""
    def on_disk(self, default: str) -> bool:
        """Whether it has stores that are to be on disk, where those that do not say it are `default`: memory or disk."""
    def attach(self, disk: Disk, default: str) -> None:
        """Keeps its stores there; called before anything else."""
    def new_inputs(self) -> list[str]:
        """Inputs that whoever wrote what was restored did not read: they have no position. To be asked before anything is fed."""
    @property
    def in_memory(self) -> bool:
        """Whether a restore has to read the changelog from its beginning, whatever is on disk."""
    def rollback(self) -> dict[tuple[str, int], int]:
        """Undoes every generation not committed, drops all buffers; returns the positions to read from again."""
    def restore(self, batch: RawBatch, known: bool = False) -> None:
        """Applies records of the changelog, in order, before the first `feed`. `known`: they lie before the position of the
        `Disk`. Raises CoreError; `local_state_disagrees`, `local_state_damaged`: without the disk it would go."""
    def positions(self) -> dict[tuple[str, int], int]: ...
    @property
    def generation(self) -> int:
        """Number of the open generation: what it will write lies behind everything written so far."""
    @property
    def needed_from(self) -> int | None:
        """The oldest generation whose changelog records a restore would need; None: all there are."""
    def next_time(self) -> int | None:
        """The time (ms) of the record that is next; None: there is none to go on with."""
    @property
    def output_bytes(self) -> int:
        """Bytes of output that wait for the generation to be closed."""
    def stats(self) -> dict[str, Any]:
        """Counters by reason, state keys and bytes, lane clocks, `held_by`; plain numbers and strings."""

@final
class SinkBuffer:
    """Rows of a sink topic, coalesced to the newest per key."""

    def __new__(cls, plan: Plan, sink: str) -> Self: ...
    def add(self, batch: RawBatch) -> int:
        """Adds the frames of a sink topic; returns the rows they held."""
    def __len__(self) -> int: ...
    def drain(self) -> dict[str, list[Any]]:
        """Column name -> values (int, float, bool, str, Decimal, aware datetime, timedelta, None), newest row per key, in
        order of the key's latest update; the buffer is empty afterwards. A time before year 1 or after 9999 is its text,
        a duration of more than 999,999,999 days its ms."""

@final
class Ranking:
    """Bids in order of their score. Amounts in hundredths, rates in billionths, `since` in ms.

    Raises ValueError for amounts and rates out of bounds.
    """

    def __new__(cls, reserve: int, tick: int) -> Self: ...
    def __len__(self) -> int: ...
    def put(self, id: str, bid: int, ctr: int, cvr: int, value: int, since: int) -> bool:
        """Whether it is listed: a bid below the reserve is not."""

    def put_many(
        self,
        ids: Sequence[str],
        bids: Sequence[int],
        ctrs: Sequence[int],
        cvrs: Sequence[int],
        values: Sequence[int],
        since: Sequence[int],
    ) -> None: ...
    def remove(self, id: str) -> bool: ...
    def top(self, k: int) -> list[tuple[str, str, int, int]]:
        """(id, score, bid, price) of the first `k`."""

def bench_decode(plan: Plan, batch: RawBatch) -> int:
    """Decodes a batch as the plan's first source does; returns the good rows (benchmarks only)."""
