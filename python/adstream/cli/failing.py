"""Which error ends a command with which exit code, and how it is told. Anything else is a defect and keeps its
traceback.

    1  the run cannot go on
    2  something was asked or set wrongly: the same again will fail again
    3  the job stopped itself (`dead_letters_max`): so will it
    4  a task failed for good, and `on_uncaught` stops the worker or the application
    5  it was stopped, and its drain timed out: what was not committed is done again by the next start
"""

from __future__ import annotations

import sys

from adstream.errors import AdstreamError, ConfigError, TooManyDeadLettersError, TopologyError, UncaughtError

EXIT_FAILED, EXIT_WRONG, EXIT_TRIPPED, EXIT_UNCAUGHT, EXIT_UNDRAINED = 1, 2, 3, 4, 5


def exit_code(error: Exception) -> int | None:
    """None: a defect."""
    if isinstance(error, AdstreamError):
        if isinstance(error, TooManyDeadLettersError):
            return EXIT_TRIPPED
        if isinstance(error, UncaughtError):
            return EXIT_UNCAUGHT
        return EXIT_WRONG if isinstance(error, ConfigError | TopologyError) else EXIT_FAILED
    if _of_core(error):
        return EXIT_WRONG if error.args[0] == "plan" else EXIT_FAILED
    return None


def tell(error: Exception) -> None:
    """One message on stderr."""
    text = str(error)
    if isinstance(error, TopologyError):
        text = f"{text}\nsee: {error.page}"
    if _of_core(error):
        _, _, message, hint, _ = error.args
        text = f"{message}\nhint: {hint}" if hint else message
    print(f"error: {text}", file=sys.stderr)


def _of_core(error: Exception) -> bool:
    core = sys.modules.get("adstream._core")
    return core is not None and isinstance(error, core.CoreError)
