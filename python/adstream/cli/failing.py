"""Which error ends a command with which `ExitCode`, and how it is told. Anything else is a defect and keeps its traceback."""

from __future__ import annotations

import sys

from adstream.errors import (
    AdstreamError,
    ConfigError,
    ExitCode,
    TooManyDeadLettersError,
    TopologyError,
    UncaughtError,
)


def exit_code(error: Exception) -> ExitCode | None:
    """None: a defect."""
    if isinstance(error, AdstreamError):
        if isinstance(error, TooManyDeadLettersError):
            return ExitCode.TRIPPED
        if isinstance(error, UncaughtError):
            return ExitCode.UNCAUGHT
        return ExitCode.WRONG if isinstance(error, ConfigError | TopologyError) else ExitCode.FAILED
    if _of_core(error):
        return ExitCode.WRONG if error.args[0] == "plan" else ExitCode.FAILED
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
