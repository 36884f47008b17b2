"""`map_async`: a row is asked about elsewhere (a service, a database, a model), many at a time.

    rows of a batch ──▶ questions, `capacity` at once ──▶ answers, in the order of the rows ──▶ the batch goes on

**Nothing is under way when a transaction is committed.** The rows that come together are asked about together, and go on
when all of them have answers. So an answer is logged by the very transaction in which its row's position moves, with all that
follows from it: outputs, state, and shuffled rows. There is no moment at which a result is known and its answer is not.

After a crash the rows behind the last commit are read again and asked about again; what was answered for them before has left
no trace. A log of answers of their own could not do better: between an answer and its place in *any* log lies the same crash.
So a question is asked at least once and its answer counts exactly once, and functions must stand being asked twice.

Why not as Flink, which leaves questions open over a checkpoint and keeps their rows in its state: Kafka's commits come tenfold as
often, each would write and delete what is open, and an answer would come out at a time that no input explains. Here the
answers of a batch are one step, as `map`. The price: a batch waits for its slowest row. For rows as they are read that is
bounded (`_TOGETHER_MS`): at most so many are handed over at a time that even if nobody answers, the worker is back before it
is taken for dead. Not bounded is what comes at once from one input row: several `map_async` of one sub-topology add up, and
the rows that closing windows or a flush tell are one call, however many. They are asked in pieces of that size, one after the
other, so what is open at a time stays small; how long all of them take is their number by the pace of the service.

*Order* is that of the rows, so that of each key, too. An answer that came early waits for its batch, whatever we did: the
commit would have waited for it.

*Failures.* An attempt ends with an answer, an exception, or after `timeout`; after `retries` more the row is a dead letter,
`callable_raised`. Others of its batch go on, whatever it was: a cancellation, `sys.exit()`, an extension's panic. What was
cancelled is waited for a moment (`_GRACE_MS`), so that it can give back what it holds; a function that does not let itself be
cancelled is left alone then, and what it says later is not heard.

One event loop on a thread of its own serves all tasks of the process; it begins with the first question. It must not be
blocked: a function that computes for long belongs in `map`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

from adstream.dsl.durations import Duration, duration_ms, format_ms
from adstream.dsl.expr import Row, callable_name, is_async
from adstream.dsl.faults import fault, user_line
from adstream.dsl.raised import raised_text
from adstream.dsl.schema import row_of, schema_of

if TYPE_CHECKING:
    from adstream.dsl.stream import Stream

OPERATION = "map_async"
_PAUSE_MS = 50
"""Before the second attempt; doubled before each further one."""
_TOGETHER_MS = 5_000
"""Rows handed over together are answered, or given up, within this time, or within that of a single one."""
_ALONE_MS_MAX = 20_000
"""A single row is answered, or given up, within this time: a worker that makes no step for a minute loses its tasks."""
_GRACE_MS = 100
"""So long what was cancelled is waited for, but not longer than `timeout`."""
_LOOK_S = 1.0
"""So often the waiting thread looks whether the loop still runs."""


def map_async(
    stream: Stream,
    function: Callable[[Row], Any],
    schema: object,
    capacity: int,
    timeout: Duration | None,
    retries: int,
) -> Stream:
    """See `Stream.map_async`."""
    line = user_line()

    def unfit(message: str, hint: str) -> Exception:
        return fault("bad_argument", message, operation=OPERATION, line=line, hint=hint)

    if not is_async(function):
        raise unfit(
            f"not an async function: `{callable_name(function)}`"
            if callable(function)
            else f"not a function: {function!r}",
            "write `async def …`; a function that answers at once goes into `.map(…)`",
        )
    for value, what, least in ((capacity, "capacity", 1), (retries, "retries", 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise unfit(f"`{what}` is {value!r}", f"write a whole number from {least}")
    if timeout is None:
        raise fault(
            "timeout_missing",
            "how long is an answer waited for?",
            operation=OPERATION,
            line=line,
            hint='write `timeout="1s"`: as long as it takes for nearly all of them',
        )
    timeout_ms = duration_ms(timeout, "timeout", operation=OPERATION, zero=False)
    longest = longest_ms(timeout_ms, retries)
    if longest > _ALONE_MS_MAX:
        raise unfit(
            f"one row could take {format_ms(longest)}: {retries + 1} times {format_ms(timeout_ms)} and the pauses between",
            f"a commit waits for it, so it is at most {format_ms(_ALONE_MS_MAX)}: a shorter `timeout`, or fewer `retries`",
        )
    columns = schema_of(schema, operation=OPERATION).types
    rows_max = capacity * max(1, _TOGETHER_MS // longest)
    asking = Asking(function, tuple(columns), capacity, timeout_ms, retries, rows_max)
    return stream._next(
        OPERATION,
        line,
        {
            "function": stream._graph.register(asking),
            "schema": [{"name": name, "type": dtype} for name, dtype in columns.items()],
            "rows_max": rows_max,
        },
        columns=columns,
        key=(),
        about=f"{callable_name(function)}, {capacity} at once, each within {format_ms(timeout_ms)}"
        + (f", {retries} more times" if retries else ""),
        rung="async",
    )


def longest_ms(timeout_ms: int, retries: int) -> int:
    """How long it takes until a row that nobody answers is given up."""
    return timeout_ms * (retries + 1) + sum(pause_ms(attempt) for attempt in range(retries))


def pause_ms(attempt: int) -> int:
    """Between an attempt (counted from 0) that failed and the next one."""
    return _PAUSE_MS << min(attempt, 20)


class Asking:
    """The function of a `map_async` node: takes rows as dicts, and returns for each whether there is an answer, and that, or
    why there is none."""

    __slots__ = ("capacity", "function", "names", "retries", "rows_max", "timeout_ms")

    def __init__(
        self,
        function: Callable[[Row], Any],
        names: tuple[str, ...],
        capacity: int,
        timeout_ms: int,
        retries: int,
        rows_max: int,
    ) -> None:
        self.function = function
        self.names = names
        self.capacity, self.timeout_ms, self.retries = capacity, timeout_ms, retries
        self.rows_max = rows_max

    def __repr__(self) -> str:
        return f"Asking({callable_name(self.function)})"

    def __call__(self, rows: list[Row]) -> list[tuple[bool, Any]]:
        answers: list[tuple[bool, Any]] = []
        for first in range(0, len(rows), self.rows_max):
            answers += _LOOP.run(self._all(rows[first : first + self.rows_max]))
        return answers

    async def _all(self, rows: list[Row]) -> list[tuple[bool, Any]]:
        answers: list[tuple[bool, Any]] = [(False, "not asked")] * len(rows)
        waiting: Iterator[tuple[int, Row]] = iter(enumerate(rows))
        attempts: set[asyncio.Task[tuple[bool, Any]]] = set()

        async def ask() -> None:
            for number, row in waiting:
                answers[number] = await self._one(row, attempts)

        asking = [asyncio.ensure_future(ask()) for _ in range(min(self.capacity, len(rows)))]
        try:
            await asyncio.gather(*asking)
        finally:
            going_on = {*asking, *attempts}
            for task in going_on:
                task.cancel()
            if going_on:
                await asyncio.wait(going_on, timeout=self._grace_s())
        return answers

    async def _one(self, row: Row, attempts: set[asyncio.Task[tuple[bool, Any]]]) -> tuple[bool, Any]:
        said = ""
        for number in range(self.retries + 1):
            if number:
                await asyncio.sleep(pause_ms(number - 1) / 1000)
            # A task of its own: what cancels it, or does not let itself be cancelled, concerns nobody else.
            attempt = asyncio.ensure_future(self._attempt(row))
            attempts.add(attempt)
            attempt.add_done_callback(attempts.discard)
            done, _ = await asyncio.wait({attempt}, timeout=self.timeout_ms / 1000)
            if not done:
                said = f"TimeoutError: no answer within {format_ms(self.timeout_ms)}"
                attempt.cancel()
                await asyncio.wait({attempt}, timeout=self._grace_s())  # what it says now comes too late
            elif attempt.cancelled():  # before it began
                said = raised_text(asyncio.CancelledError())
            else:
                answered, what = attempt.result()
                if answered:
                    return True, what
                said = what
        return False, said + (f" (asked {self.retries + 1} times)" if self.retries else "")

    async def _attempt(self, row: Row) -> tuple[bool, Any]:
        try:
            answer = await self.function(dict(row))
            return True, row_of(answer, self.names)
        except BaseException as error:  # a `sys.exit()` would end the loop, a cancellation the others of the batch
            return False, raised_text(error)

    def _grace_s(self) -> float:
        """So long what was cancelled has for giving back what it holds; then it is left alone. Not longer than `timeout`: all
        attempts together then take at most twice as long as without."""
        return min(self.timeout_ms, _GRACE_MS) / 1000


class _Loop:
    """An event loop on a thread of its own, for whoever comes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, coroutine: Coroutine[Any, Any, list[tuple[bool, Any]]]) -> list[tuple[bool, Any]]:
        loop, thread = self._running()
        over = threading.Event()

        async def whole() -> list[tuple[bool, Any]]:
            try:
                return await coroutine
            finally:
                over.set()

        future = asyncio.run_coroutine_threadsafe(whole(), loop)
        try:
            while not wait([future], _LOOK_S).done:
                if not thread.is_alive():
                    raise RuntimeError("the event loop of `map_async` has ended: somebody closed it")
            return future.result()
        except BaseException:
            future.cancel()  # this thread was interrupted: nobody waits for answers any more
            over.wait(_LOOK_S if thread.is_alive() else 0)
            raise

    def _running(self) -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
        with self._lock:
            if self._loop is None or self._thread is None or not self._thread.is_alive():
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name="adstream-async", daemon=True)
                self._thread.start()
            return self._loop, self._thread


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    # `sys.exit()` in a task that a function began leaves `run_forever`, and all others would wait for ever. It is
    # told to whoever awaits that task; here the loop goes on.
    while not loop.is_closed():
        with contextlib.suppress(BaseException):
            loop.run_forever()


_LOOP = _Loop()
