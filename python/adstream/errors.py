"""The exception tree.

AdstreamError
├── TopologyError         the topology is wrong: code, the operation, the user's line, one remedy
├── ConfigError           a setting or an outside system is wrong: names the option
├── FatalError            this worker must stop: its state cannot be trusted or its shuffle is corrupt
│   ├── TooManyDeadLettersError   the job stops itself: its input is not what it was (`dead_letters_max`)
│   └── UncaughtError             a task failed, and `on_uncaught` stops the worker or the application
├── RegistryUnavailableError   the schema registry does not answer: the task must wait
├── LogUnavailableError   the log does not answer: try again later
│   └── OffsetGoneError   the log does not have the position that is asked for, and never will again
└── RecordTooLargeError   a record is larger than the log takes
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """With what a process ends that cannot go on, for those who start it again or not."""

    FAILED = 1
    """The run cannot go on."""
    WRONG = 2
    """Something was asked or set wrongly: the same again will fail again."""
    TRIPPED = 3
    """The job stopped itself (`dead_letters_max`): so will it."""
    UNCAUGHT = 4
    """A task failed for good, and `on_uncaught` stops the worker or the application."""
    UNDRAINED = 5
    """It was stopped, and its drain timed out: what was not committed is done again by the next start."""


class AdstreamError(Exception):
    """Base of everything adstream raises on purpose."""


class TopologyError(AdstreamError):
    """The topology cannot be built.

    Attributes:
        code: stable, snake_case (`unknown_column`).
        operation: what was being built (`filter`), or None.
        line: the user's line (`job.py:12`), or None.
        hint: one remedy, or None.
        page: where the code is explained, with an example.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        operation: str | None = None,
        line: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.code = code
        self.page = f"docs/error-examples.md#{code}"
        self.operation = operation
        self.line = line
        self.hint = hint
        where = " ".join(part for part in (operation, f"at {line}" if line else None) if part)
        text = f"{where}: {message} [{code}]" if where else f"{message} [{code}]"
        super().__init__(f"{text}\nhint: {hint}" if hint else text)


class ConfigError(AdstreamError):
    """A setting is wrong or what it names cannot be reached.

    Attributes:
        option: the option's name as the user gives it (`--sql`).
        message: what is wrong, without the option.
        hint: what to do, if there is anything to say.
    """

    def __init__(self, message: str, *, option: str, hint: str | None = None) -> None:
        self.option = option
        self.message = message
        self.hint = hint
        text = f"{option}: {message}"
        super().__init__(f"{text}\nhint: {hint}" if hint else text)


class FatalError(AdstreamError):
    """This worker must not go on."""


class TooManyDeadLettersError(FatalError):
    """More of the input became dead letters than `dead_letters_max` allows. None of what tripped it was committed."""

    def __init__(self, message: str) -> None:
        super().__init__(
            f"{message}\nnothing of that was committed: it is still to be read, and not in the dead-letter topic\n"
            "hint: has the input changed its schema? Fix the topology and start again; or raise --dead-letters-max, or"
            " leave it out, and they become dead letters"
        )


class UncaughtError(FatalError):
    """A task failed again and again, and `on_uncaught` stops this worker, or the whole application. Nothing of what failed
    is committed."""


class RegistryUnavailableError(AdstreamError):
    """The schema registry did not answer, or refused to. No record is to blame."""

    __adstream_unavailable__ = True

    def __init__(self, url: str, said: str) -> None:
        self.url = url
        super().__init__(f"the schema registry {url} does not answer: {said}")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.url, str(self).partition(" does not answer: ")[2])


class TargetUnavailableError(AdstreamError):
    """A database that rows are put before did not answer, or refused us. No row is to blame: its task waits and asks again."""

    __adstream_unavailable__ = True


class LogUnavailableError(AdstreamError):
    """The log did not answer, or not as it should, for longer than is bearable. Nothing is known to be lost."""


class OffsetGoneError(LogUnavailableError):
    """A position that the log does not have: its records were deleted before they were read, or it lies behind the end
    (a topic deleted and made again). Never answered by a jump to another position."""


class RecordTooLargeError(AdstreamError):
    """A record is larger than the log takes. Nothing of its commit is visible, and it will fail again.

    Attributes:
        topic: where it was to go.
        partition: where it was to go.
        size: bytes of its key and value.
    """

    def __init__(self, topic: str, partition: int, size: int) -> None:
        self.topic = topic
        self.partition = partition
        self.size = size
        super().__init__(
            f"a record of {size} bytes is too large for {topic}-{partition}\n"
            "hint: raise `max.message.bytes` of the topic and the client's `message.max.bytes`"
        )
