"""What a function of the user raised, as the text of a dead letter.

It must be told of the one row that it befell, so nothing about it may raise again: not an exception whose `__str__` does, nor
text that UTF-8 cannot hold (a file's name that was not decoded, say).
"""

from __future__ import annotations


def raised_text(error: BaseException) -> str:
    """Its type and its text. Never raises."""
    kind = type(error).__name__
    try:
        said = f"{kind}: {error}"
    except BaseException as worse:
        said = f"{kind}: (its text raises {type(worse).__name__})"
    return said.encode("utf-8", "backslashreplace").decode("utf-8")
