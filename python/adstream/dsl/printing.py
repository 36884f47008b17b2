"""What `KStream.print` does with a record: a line `[label]: key, value`, to a file or to standard output."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

log = logging.getLogger(__name__)


class Printer:
    """Called by all tasks of a process, one after the other.

    The file is opened, and emptied, by the first record: who only describes a topology writes nothing. Where no line can be
    written (a disk that is full, a reader of our output that left), that is said once, and records go on without:
    looking at them must not make them dead letters. A mapper that raises is its record's failure.
    """

    def __init__(
        self, label: str, file: str | os.PathLike[str] | None, mapper: Callable[[Any, Any], str] | None
    ) -> None:
        self._label, self._path, self._mapper = label, file, mapper
        self._file: TextIO | None = None
        self._given_up = False

    def __call__(self, key: Any, value: Any) -> None:
        text = f"{key}, {value}" if self._mapper is None else self._mapper(key, value)
        if self._given_up:
            return
        try:
            out = sys.stdout if self._path is None else self._opened(self._path)
            print(f"[{self._label}]: {text}", file=out, flush=True)
        except OSError as error:
            self._given_up = True
            self._close()
            log.warning("records of [%s] are not printed any more: %s", self._label, error)

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what was not written before is not now
                self._file.close()

    def _opened(self, path: str | os.PathLike[str]) -> TextIO:
        if self._file is None:
            self._file = open(path, "w", encoding="utf-8", newline="\n")  # noqa: SIM115 (as long as the process)
        return self._file
