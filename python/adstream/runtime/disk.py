"""Stores on disk, as a worker keeps them: one directory for each task, below the state directory.

    <state dir>/<app>/<task>/stores/         an LSM tree of committed rows (`rust/disk`), with its place in the changelog
                             stores.json     whose it is: application, changelog, partition, format
                             stores.lock     held by the process that uses it
                             stores.bad/     what was set aside last, for whoever wants to know

A task begins with what is there and reads the changelog from that place on (`restore.py`). *Whatever is wrong with it, the
changelog has everything*: a directory that cannot be opened or read, is of another application, format or changelog, or does
not agree with the changelog at its place, is renamed to `stores.bad`, and the state restored from the changelog's beginning.

**Two processes, one directory** (two workers on a machine, one that hangs and its successor): the lock decides. Who does not
get it takes `stores-1`, or the next one that is free: a directory that is not the task's newest is behind, never wrong.

**When it is written.** `tidy` runs on the committer, after a commit: tables of rows in memory that have grown large are written
and merged there. Besides: when the task is given up in order, and before the changelog forgets its beginning, so that the place
in it never lies before what it still has.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from adstream._core import CoreError, Disk, DiskCache
from adstream.errors import ConfigError
from adstream.runtime.assignment import TaskSpec

log = logging.getLogger(__name__)

FORMAT = 1
COPIES_MAX = 16
"""Processes that may have a directory of one task at once."""


class LocalStateError(Exception):
    """What is on disk cannot be used; the changelog has it."""


FAULTS = ("local_state_damaged", "local_state_disagrees")


def told(error: CoreError) -> LocalStateError | None:
    """What is wrong with the stores on disk, if that is what the core says."""
    _, code, message, _, _ = error.args
    return LocalStateError(message) if code in FAULTS else None


class Disks:
    """The stores on disk of one application below a state directory.

    Args:
        cache_bytes: how much of them all may be in memory.

    Raises:
        ConfigError: the directory cannot be made or written.
    """

    def __init__(self, state_dir: str, app: str, cache_bytes: int) -> None:
        self._app, self._folder, self._cache = app, Path(state_dir) / app, DiskCache(cache_bytes)
        self.set_aside = 0
        """How many directories could not be used."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self._folder, os.W_OK | os.X_OK):
                raise PermissionError(f"{self._folder} is not writable")
        except OSError as error:
            raise ConfigError(
                f"no stores can be kept in {self._folder}: {error.strerror or error}",
                option="--state-dir",
                hint="name a directory that this user may write",
            ) from error

    def open(self, spec: TaskSpec) -> TaskDisk:
        """A task's stores, or an empty directory for them. Raises OSError."""
        assert spec.changelog is not None
        topic, partition = spec.changelog
        identity = {"app": self._app, "changelog": topic, "partition": partition, "format": FORMAT}
        folder = self._folder / spec.name
        folder.mkdir(parents=True, exist_ok=True)
        for copy in range(COPIES_MAX):
            path = folder / ("stores" if copy == 0 else f"stores-{copy}")
            lock = path.with_suffix(".lock").open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            except BaseException:
                lock.close()
                raise
            if copy:
                log.warning(
                    "task %s: another process uses its stores on disk; this one begins with %s", spec.name, path
                )
            try:
                return self._opened(path, identity, lock)
            except BaseException:
                lock.close()
                raise
        raise BlockingIOError(f"{COPIES_MAX} processes use stores of task {spec.name} in {folder}")

    def _opened(self, path: Path, identity: dict[str, object], lock: BinaryIO) -> TaskDisk:
        name = path.with_suffix(".json")
        if path.exists() and _read(name) != identity:
            self._aside(path, "it is of another application, changelog or format")
        if not path.exists():
            name.write_text(json.dumps(identity))
            path.mkdir()
        try:
            disk = Disk(str(path), self._cache)
        except CoreError as error:
            self._aside(path, error.args[2])
            path.mkdir()
            disk = Disk(str(path), self._cache)
        return TaskDisk(disk, path, lock)

    def reject(self, task: TaskDisk, why: object) -> None:
        """Sets a task's directory aside: it is closed, and the next life of the task begins without."""
        task.close(write=False, unlock=False)
        try:
            self._aside(task.path, why)
        finally:
            task.unlock()

    def _aside(self, path: Path, why: object) -> None:
        log.warning("stores in %s are set aside, everything is read from the changelog: %s", path, why)
        self.set_aside += 1
        bad = path.with_suffix(".bad")
        shutil.rmtree(bad, ignore_errors=True)
        with suppress(FileNotFoundError):  # it was removed while it was open
            path.rename(bad)


def _read(name: Path) -> object:
    try:
        return json.loads(name.read_text())
    except (OSError, ValueError):
        return None


class TaskDisk:
    """One task's stores, open for one life of the task."""

    def __init__(self, disk: Disk, path: Path, lock: BinaryIO) -> None:
        self.disk, self.path = disk, path
        self._lock = lock
        self._guard = threading.Lock()
        self._open = True
        self._asked_ms: int | None = None

    @property
    def position(self) -> int | None:
        """From where on the changelog has to be read; None: there is nothing yet."""
        return self.disk.position

    def due(self, now_ms: int, every_ms: int) -> bool:
        """Whether the next commit should find out its place in the changelog."""
        if self._asked_ms is not None and now_ms - self._asked_ms < every_ms:
            return False
        self._asked_ms = now_ms
        return True

    def tidy(self, *, write: bool = False) -> None:
        """Writes what has grown large, or (`write`) all there is. From any thread; what fails is the task's to notice."""
        with self._guard:
            if self._open:
                try:
                    self.disk.tidy(write)
                except CoreError as error:
                    log.warning("stores in %s cannot be written: %s", self.path, error.args[2])

    def close(self, *, write: bool = True, unlock: bool = True) -> None:
        """Nothing writes there any more when this returns."""
        if write:
            self.tidy(write=True)
        with self._guard:
            self._open = False
        if unlock:
            self.unlock()

    def unlock(self) -> None:
        self._lock.close()
