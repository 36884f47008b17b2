"""How this package says no: a `TopologyError` with the user's line and, for a misspelt name, the nearest."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import PurePath
from types import FrameType

from adstream.errors import TopologyError

_NAMES_SHOWN_MAX = 12
_SHOWN_MAX = 60
TOPIC_MAX = 249
"""Characters of a topic's name, at most."""
DEAD_LETTERS = "-dlq"
"""Follows a source's name in that of its dead letters."""
_TOPIC = re.compile(rf"[A-Za-z0-9._-]{{1,{TOPIC_MAX}}}", re.ASCII)
"""What Kafka takes; besides, `.` and `..` are none."""


def _ours(frame: FrameType) -> bool:
    # By module: code that dataclasses generate has no file. Ready-made jobs are users like all others.
    module = str(frame.f_globals.get("__name__", ""))
    if module == "adstream.jobs" or module.startswith("adstream.jobs."):
        return False
    return module == "adstream" or module.startswith("adstream.")


def user_frame() -> FrameType | None:
    """The innermost frame that is not adstream's own."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _ours(frame):
        frame = frame.f_back
    return frame


def user_line() -> str | None:
    """Where the user is, as `job.py:12`."""
    frame = user_frame()
    return f"{PurePath(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame is not None else None


def function_line(fn: object) -> str | None:
    """Where a function begins, for what only the whole of it shows; None: it does not say (a callable object)."""
    code = getattr(inspect.unwrap(fn) if callable(fn) else fn, "__code__", None)
    return f"{PurePath(code.co_filename).name}:{code.co_firstlineno}" if code is not None else None


def fault(
    code: str, message: str, *, hint: str, operation: str | None = None, line: str | None = None
) -> TopologyError:
    """A `TopologyError` at the user's line."""
    return TopologyError(message, code=code, operation=operation, line=line or user_line(), hint=hint)


def topic_name(topic: object, operation: str, line: str | None = None) -> str:
    """A topic's name. Raises TopologyError: `bad_topic`, for one that Kafka would not take."""
    if not isinstance(topic, str):
        raise fault("bad_topic", f"not a topic: {topic!r}", operation=operation, line=line, hint="write its name")
    if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        shown = topic if len(topic) <= _SHOWN_MAX else f"{topic[:_SHOWN_MAX]}… ({len(topic)} characters)"
        raise fault(
            "bad_topic",
            f"no topic can be called `{shown}`",
            operation=operation,
            line=line,
            hint="write 1 to 249 letters, digits, `.`, `_` and `-` (of ASCII), and not `.` or `..` alone",
        )
    return topic


def name_list(names: Iterable[str]) -> str:
    """Names in backticks; a long list is cut."""
    listed = list(names)
    text = ", ".join(f"`{name}`" for name in listed[:_NAMES_SHOWN_MAX])
    return f"{text}, … ({len(listed)} in all)" if len(listed) > _NAMES_SHOWN_MAX else text or "none"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return found[0] if found else None


def unknown_column(
    name: str, names: Iterable[str], *, operation: str | None, line: str | None = None, remark: str = ""
) -> TopologyError:
    """No column of that name; the hint is the nearest one, or all of them."""
    listed = [n for n in names if not n.startswith("$")]
    near = nearest(name, listed)
    hint = f"did you mean `{near}`?" if near else f"there are: {name_list(listed)}{remark}"
    return fault("unknown_column", f"no column `{name}`", operation=operation, line=line, hint=hint)
