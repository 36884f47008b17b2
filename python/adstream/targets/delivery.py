"""What all sinks share: when to flush, what to do on failure, and how trouble stays with the sink that has it.

A `SinkRunner` carries the rows of one sink from a topic's committed records to a `Target`. Per partition:

    assign ──> asking ──positions()──> reading ──flush due──> writing ──True──> reading
                 ^                                              │ │
                 └──────────── False: who moved it? ────────────┘ └──error──> back-off, then the same flush again

The answer to "who moved it":

    stored = next        it was us, the answer got lost: go on
    stored = expected    another writer is at it: try again, later
    anything else        somebody else went on, or the target was set back: forget rows, read from there

Records that the log has forgotten may have been delivered by a newer owner, who let it forget them: the target is asked
once more, and says so. If it is where it was, it has lost them, and no position that it could go on from would be right:
that partition waits for somebody, the others go on.

A flush, once taken from its partition, never changes: every attempt has the same rows, the same expected
position and the same next one, and the target applies it once. Reading goes on while a write runs or waits,
until the buffers are full.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt

from adstream._core import RawBatch
from adstream.errors import AdstreamError, ConfigError, LogUnavailableError, OffsetGoneError
from adstream.interfaces import Reader, Target

log = logging.getLogger(__name__)

T = TypeVar("T")


def _nothing() -> None: ...


class TransientError(AdstreamError):
    """It may pass by itself: the connection broke, the server restarts, a lock was not to be had in time."""


class UnreachableError(ConfigError):
    """Nobody answers there: a wrong address, or a server that is not up yet."""


class Verdict(enum.Enum):
    RETRY = "retry"
    """Soon, then ever more rarely."""
    CONFIG = "config"
    """Somebody has to act (grant a right, alter a table); it is tried again now and then, so that no restart
    is needed."""
    GIVE_UP = "give up"
    """A defect. The sink stands still until a restart; its position did not move, so no row is lost."""


def classify(error: BaseException) -> Verdict:
    if isinstance(error, TransientError | UnreachableError | OSError):  # TimeoutError is an OSError
        return Verdict.RETRY
    if isinstance(error, ConfigError):
        return Verdict.CONFIG
    return Verdict.GIVE_UP


@dataclass(frozen=True, slots=True)
class Backoff:
    """Doubling delays with jitter: the n-th lies in (half, whole] of `min(max_s, first_s * 2^(n-1))`."""

    first_s: float = 0.2
    max_s: float = 30.0

    def delay_s(self, attempt: int, random: Callable[[], float]) -> float:
        whole = min(self.max_s, self.first_s * 2.0 ** min(attempt - 1, 60))
        return whole * (1.0 - random() / 2)


def open_target(
    target: Target,
    app: str,
    sink: str,
    schema: Mapping[str, str],
    key: Sequence[str],
    *,
    partitions: int = 0,
    sleep: Callable[[float], None],
    random: Callable[[], float],
    attempts: int = 5,
    backoff: Backoff = Backoff(first_s=0.5, max_s=5.0),
) -> Mapping[int, int]:
    """Opens the target, and asks it for the positions of so many partitions, `patiently`."""

    def begin() -> Mapping[int, int]:
        target.open(app, sink, schema, key)
        return target.positions(range(partitions)) if partitions else {}

    return patiently(begin, sink, sleep=sleep, random=random, attempts=attempts, backoff=backoff)


def patiently(
    begin: Callable[[], T],
    sink: str,
    *,
    sleep: Callable[[float], None],
    random: Callable[[], float],
    attempts: int = 5,
    backoff: Backoff = Backoff(first_s=0.5, max_s=5.0),
) -> T:
    """Asks a target at the start: a server that is still starting gets a few more chances, a wrong setting none."""

    def announce(state: Any) -> None:
        log.warning("sink %s: %s; next try in %.1f s", sink, state.outcome.exception(), state.next_action.sleep)

    return Retrying(
        sleep=sleep,
        stop=stop_after_attempt(attempts),
        wait=lambda state: backoff.delay_s(state.attempt_number, random),
        retry=retry_if_exception(lambda error: classify(error) is Verdict.RETRY),
        before_sleep=announce,
        reraise=True,
    )(begin)


class Buffer(Protocol):
    """What the runner needs of `adstream._core.SinkBuffer`."""

    def add(self, batch: RawBatch) -> int: ...
    def __len__(self) -> int: ...
    def drain(self) -> dict[str, list[Any]]: ...


@dataclass(frozen=True, slots=True)
class FlushPolicy:
    every_ms: int = 1_000
    """How long after a write the next rows are coalesced before they are written; the first ones are written at once."""
    position_every_ms: int = 60_000
    """How often a position is moved that no row came with (transaction markers), so that it does not fall off
    the log."""
    rows_max: int = 100_000
    """Rows held in memory, those being written included. At this bound, flushes are due at once and reading
    stops. Overshot by one read at most."""
    rows_per_step: int = 20_000
    """Rows read by one `step`."""
    records_per_read: int = 16
    """Records (frames of many rows) asked of the reader at a time."""
    stalled_ms: int = 60_000
    """A write that takes longer makes the sink unhealthy."""


@dataclass(slots=True)
class SinkCounters:
    rows_read: int = 0
    rows: int = 0
    """Written: what coalescing left of those read."""
    flushes: int = 0
    retries: int = 0
    replays_refused: int = 0
    """The target had another position than we thought."""
    rewinds: int = 0
    """Of these: our rows were dropped and we went on from the target's position."""
    rows_refused: int = 0
    """Of those written: the target could not store them, and they were set aside."""


@dataclass(slots=True)
class _Flush:
    expected: int
    position: int
    count: int
    buffer: Buffer | None
    """Not drained yet: that takes a while, and is done by the first attempt, beside the worker."""
    drained: dict[str, list[Any]] = field(default_factory=dict)

    def rows(self) -> dict[str, list[Any]]:
        if self.buffer is not None:
            self.drained, self.buffer = self.buffer.drain(), None
        return self.drained


@dataclass(slots=True)
class _Part:
    """One partition. `stored is None`: the target's position is not known and is to be asked for."""

    buffer: Buffer
    stored: int | None = None
    read: int | None = None
    """The position after the buffer's last record; None: not reading."""
    since_ms: int | None = None
    """When the position first ran ahead of the last flush."""
    wrote_ms: int | None = None
    """When rows were last written."""
    flush: _Flush | None = None
    gone: int | None = None
    """A position that the log did not have."""
    lost: str | None = None
    """The target has not moved from it: what is said about that."""
    ask_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class _Job:
    future: Future[Any]
    parts: tuple[int, ...]
    started_ms: int
    flush: _Flush | None
    """None: it asks for positions."""


class SinkRunner:
    """One sink. Not thread-safe: `step` and the rest belong to the worker's thread; only the target is called
    on `executor`.

    Args:
        target: opened.
        reader: of this runner alone; it adds, seeks and removes its partitions of `topic`.
        buffer: makes an empty buffer, one per partition.
        executor: where the target's calls run, one at a time; a thread of its own, so that a target that hangs
            holds up no one else. (Tests and simulations pass one that runs at once.)
        random: uniform in [0, 1).
    """

    def __init__(
        self,
        name: str,
        topic: str,
        target: Target,
        reader: Reader,
        buffer: Callable[[], Buffer],
        *,
        executor: Executor,
        random: Callable[[], float],
        policy: FlushPolicy = FlushPolicy(),
        backoff: Backoff = Backoff(),
    ) -> None:
        self.name = name
        self.counters = SinkCounters()
        self.wake: Callable[[], None] = _nothing
        """Called, from the target's thread, when a call to it is done."""
        self.last_error: str | None = None
        self.stopped = False
        """Given up until a restart (`Verdict.GIVE_UP`)."""
        self.blocked = False
        """Stands still until somebody acts (`Verdict.CONFIG`)."""
        self._topic = topic
        self._target = target
        self._reader = reader
        self._buffer = buffer
        self._executor = executor
        self._random = random
        self._policy = policy
        self._backoff = backoff
        self._parts: dict[int, _Part] = {}
        self._job: _Job | None = None
        self._whole: Future[Mapping[int, int]] | None = None
        """`stored_by_all` has been asked for."""
        self._attempt = 0
        self._resume_ms: int | None = None
        self._flush_now = False

    # What the worker asks and says.

    @property
    def healthy(self) -> bool:
        return self.last_error is None

    @property
    def rows_held(self) -> int:
        return sum(len(part.buffer) + (part.flush.count if part.flush else 0) for part in self._parts.values())

    @property
    def stored(self) -> dict[int, int]:
        """The target's positions as far as known: what lies before them is delivered."""
        return {number: part.stored for number, part in self._parts.items() if part.stored is not None}

    @property
    def idle(self) -> bool:
        """Everything read is stored, and nothing is under way."""
        return self._job is None and all(
            part.flush is None and part.stored is not None and part.read == part.stored for part in self._parts.values()
        )

    def assign(self, partitions: Iterable[int]) -> None:
        """Takes partitions; each is read from where the target says."""
        for number in partitions:
            if number not in self._parts:
                self._parts[number] = _Part(self._buffer())

    def release(self, partitions: Iterable[int]) -> None:
        """Gives partitions up. Rows not yet written are forgotten: the next owner reads them again. A write
        under way may still be applied or not; both are right."""
        for number in partitions:
            part = self._parts.pop(number, None)
            if part is not None and part.read is not None:
                self._reader.remove(self._topic, number)

    def flush(self) -> None:
        """Makes everything due now; `idle` says when it is done."""
        self._flush_now = True

    def stored_by_all(self, partitions: int) -> Mapping[int, int] | None:
        """The target's positions of all partitions, whoever has them; None: asked for, or not to be had now. Each answer
        is asked for anew."""
        asked, self._whole = self._whole, None
        if asked is None:
            asked = self._executor.submit(lambda: self._target.positions(range(partitions)))
        if not asked.done():
            self._whole = asked
            return None
        if asked.exception() is not None:  # what is wrong there, a flush will say
            return None
        found: Mapping[int, int] = asked.result()
        return {number: found.get(number, 0) for number in range(partitions)}

    def step(self, now_ms: int) -> int:
        """Does what can be done without waiting; returns the rows that were read."""
        if self.stopped:
            return 0
        try:
            self._collect(now_ms)
            taken = self._read(now_ms)
        except LogUnavailableError as error:
            self._failed(TransientError(str(error)), now_ms)
            return 0
        except Exception as error:
            self._failed(error, now_ms)
            return 0
        if self._job is None and not self.stopped and (self._resume_ms is None or now_ms >= self._resume_ms):
            self._start(now_ms)
        return taken

    # Within.

    def _read(self, now_ms: int) -> int:
        policy = self._policy
        held = self.rows_held
        taken = 0
        # The shortest buffer first: one partition's backlog does not starve the others.
        for number, part in sorted(self._parts.items(), key=lambda item: len(item[1].buffer)):
            while part.read is not None and held < policy.rows_max and taken < policy.rows_per_step:
                try:
                    batch = self._reader.read(self._topic, number, policy.records_per_read)
                except OffsetGoneError as error:
                    if part.flush is None:  # else that one first
                        self._gone(number, part, str(error), now_ms)
                    break
                if batch is None:
                    break
                part.gone = part.lost = None
                before = len(part.buffer)
                taken += part.buffer.add(batch)
                held += len(part.buffer) - before
                if batch.next_offset == part.read:
                    break
                part.read = batch.next_offset
                if part.since_ms is None:
                    part.since_ms = now_ms
        self.counters.rows_read += taken
        return taken

    def _gone(self, number: int, part: _Part, said: str, now_ms: int) -> None:
        assert part.read is not None
        self._reader.remove(self._topic, number)
        if part.gone == part.read:
            part.lost = (
                f"{said}: the target has lost what it had, and the log has forgotten it (`sink_retain`)"
                "\nhint: `adstream reset` starts the job over"
            )
            part.ask_at_ms = now_ms + round(self._backoff.max_s * 1000)
            if part.lost != self.last_error:
                log.error("sink %s: %s", self.name, part.lost)
            self.last_error, self.blocked = part.lost, True
        part.gone, part.read, part.stored, part.since_ms = part.read, None, None, None
        part.buffer = self._buffer()

    def _start(self, now_ms: int) -> None:
        asking = tuple(n for n, part in self._parts.items() if part.stored is None and now_ms >= part.ask_at_ms)
        if asking:
            self._submit(lambda: self._target.positions(asking), asking, None, now_ms)
            return
        number = self._next_due(now_ms)
        if number is None:
            return
        part = self._parts[number]
        if part.flush is None:
            assert part.stored is not None
            assert part.read is not None
            count = len(part.buffer)
            part.flush = _Flush(part.stored, part.read, count, part.buffer if count else None)
            if count:
                part.buffer, part.wrote_ms = self._buffer(), now_ms
            part.since_ms = None
        flush = part.flush
        self._submit(
            lambda: self._target.write(number, flush.expected, flush.position, flush.rows()),
            (number,),
            flush,
            now_ms,
        )

    def _next_due(self, now_ms: int) -> int | None:
        policy = self._policy
        full = self.rows_held >= policy.rows_max
        best: tuple[int, int] | None = None
        for number, part in self._parts.items():
            if part.flush is not None:
                return number  # failed before: first in, first out
            if part.since_ms is None:
                continue
            if not len(part.buffer):
                due = now_ms - part.since_ms >= policy.position_every_ms
            else:
                due = full or part.wrote_ms is None or now_ms - part.wrote_ms >= policy.every_ms
            if self._flush_now or due:
                # When full, the largest buffer frees most; else the oldest rows go first.
                best = min(best or (1 << 62, number), (-len(part.buffer) if full else part.since_ms, number))
        if best is None:
            self._flush_now = False
            return None
        return best[1]

    def _submit(self, call: Callable[[], Any], parts: tuple[int, ...], flush: _Flush | None, now_ms: int) -> None:
        self._resume_ms = None
        self._job = _Job(self._executor.submit(call), parts, now_ms, flush)
        self._job.future.add_done_callback(lambda _: self.wake())

    def _collect(self, now_ms: int) -> None:
        job = self._job
        if job is None:
            return
        if not job.future.done():
            if now_ms - job.started_ms >= self._policy.stalled_ms:
                self.last_error = f"the target has not answered for {(now_ms - job.started_ms) // 1000} s"
            return
        self._job = None
        error = job.future.exception()
        if error is not None:
            self._failed(error, now_ms)
        elif job.flush is None:
            contended = self._position_known(job.parts, job.future.result())
            if contended:
                self._failed(TransientError(f"another writer is at partition {contended[0]}"), now_ms)
            else:
                self._succeeded()
        else:
            self._written(job.parts[0], job.flush, job.future.result())

    def _written(self, number: int, flush: _Flush, applied: bool) -> None:
        part = self._parts.get(number)
        current = part is not None and part.flush is flush  # else released meanwhile
        if applied:
            self.counters.rows_refused = self._target.refused
            self.counters.flushes += 1
            self.counters.rows += flush.count
            if part is not None and current:
                part.stored, part.flush = flush.position, None
            self._succeeded()
        else:
            self.counters.replays_refused += 1
            if part is not None and current:
                part.stored = None

    def _position_known(self, asked: Iterable[int], positions: Mapping[int, int]) -> list[int]:
        """Goes on from the stored positions; returns the partitions where a flush must simply be tried
        again."""
        contended = []
        for number in asked:
            part = self._parts.get(number)
            if part is None or part.stored is not None:
                continue
            stored = positions.get(number, 0)
            flush = part.flush
            if stored != part.gone:
                part.gone = part.lost = None
            part.stored = stored
            if flush is not None and stored == flush.position:
                self.counters.flushes += 1
                self.counters.rows += flush.count
                part.flush = None
            elif flush is not None and stored == flush.expected:
                contended.append(number)
            else:
                self._rewind(number, part, stored)
        return contended

    def _rewind(self, number: int, part: _Part, stored: int) -> None:
        if part.read is not None:
            self.counters.rewinds += 1
            log.warning(
                "sink %s, partition %d: read to %d, but the target is at %d; going on from there",
                self.name, number, part.read, stored,
            )  # fmt: skip
            self._reader.remove(self._topic, number)
            part.read = None
        part.buffer = self._buffer()
        part.flush = part.since_ms = None
        self._reader.add(self._topic, number, stored)
        part.read = stored

    def _succeeded(self) -> None:
        lost = next((part.lost for part in self._parts.values() if part.lost is not None), None)
        if self.last_error is not None and lost is None:
            log.info("sink %s: works again", self.name)
        self._attempt, self._resume_ms, self.last_error, self.blocked = 0, None, lost, lost is not None

    def _failed(self, error: BaseException, now_ms: int) -> None:
        text = str(error) or type(error).__name__
        verdict = classify(error)
        if verdict is Verdict.GIVE_UP:
            self.stopped = True
            self.last_error = f"{type(error).__name__}: {text}"
            log.error("sink %s: given up until a restart", self.name, exc_info=error)
            return
        self._attempt += 1
        self.counters.retries += 1
        backoff = self._backoff
        delay_s = backoff.delay_s(self._attempt, self._random) if verdict is Verdict.RETRY else backoff.max_s
        self._resume_ms = now_ms + round(delay_s * 1000)
        self.blocked = verdict is Verdict.CONFIG
        if text != self.last_error:
            level = logging.ERROR if self.blocked else logging.WARNING
            log.log(level, "sink %s: %s; next try in %.1f s (%s)", self.name, text, delay_s, verdict.value)
        self.last_error = text
