"""What `KStream.print` does with a record: a line of text, to a file or to standard output.

[label]: key, value
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TextIO


class Printer:
    """Called by all tasks of a process, one after the other.

    The file is opened, and emptied, by the first record: who only describes a topology writes nothing. A file that
    cannot be opened is that record's failure (`App.on_error`).
    """

    def __init__(
        self, label: str, file: str | os.PathLike[str] | None, mapper: Callable[[Any, Any], str] | None
    ) -> None:
        self._label, self._path, self._mapper = label, file, mapper
        self._file: TextIO | None = None

    def __call__(self, key: Any, value: Any) -> None:
        text = f"{key}, {value}" if self._mapper is None else self._mapper(key, value)
        out = sys.stdout if self._path is None else self._opened(self._path)
        print(f"[{self._label}]: {text}", file=out, flush=True)

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def _opened(self, path: str | os.PathLike[str]) -> TextIO:
        if self._file is None:
            self._file = open(path, "w", encoding="utf-8", newline="\n")  # noqa: SIM115 (as long as the process)
        return self._file
