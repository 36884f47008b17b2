"""Snapshots: a local copy of a task's changelog, so that a restart on the same machine need not read it from the broker.

The core writes clean state again with every commit, so the end of a changelog is all a restore needs (`trim.py`). A
snapshot is that end in files: *committed* changelog records as they were written, never live state. There is nothing to
compact; segments that lie wholly before what the changelog itself may forget are deleted.

    <state dir>/<app>/<task>/lock
                             00000000000000012345.snapshot      begins at changelog offset 12345
                             00000000000000067890.snapshot      begins where the one before ends

    segment   "ADSS" | version u16 | length u32 | crc32 u32 | identity: JSON of app, changelog, partition | blocks
    block     one entry or more; all committed records in [begin, end) of the changelog
    entry     begin i64 | end i64 | length u32 | entries of this block that follow u32 | crc32 u32 | RawBatch.to_bytes()

**Which offset it is complete up to.** Before a commit is written the log's end is asked for (the same question that
`trim.py` asks). When that commit succeeds, nobody else can have committed to this changelog since the task's restore, or
the commit would have been fenced; so every committed record before that end is one that this worker holds: the
generations before. Only then are they appended. A paused worker that asked late, a commit whose outcome is unknown, an
aborted one: no commit succeeds after them in that life of the task, nothing is appended. *At least once* there is no such
fence, but then offsets have no gaps: as many records as the worker holds, or the copy ends there.

**Where it begins.** At the changelog's beginning as it was once. What is deleted here has been deleted there before, so
a copy that begins after the changelog has lost its first segment and does not count.

**Whether it is of this log.** The last block is compared with what the changelog holds at that place before anything is
believed. A block ends with a `meta` record, and that carries a hash of everything written before: a topic that was
deleted and made again, another cluster, another plan, another number of partitions do not agree with it.

**What may go wrong, and then.** Whatever it is, the changelog has everything: a snapshot only saves time, and no error in
here reaches a task. Torn or damaged: what lies before the damage counts, the changelog is read from there. Older than
what the changelog holds, or of another log: deleted. Unknown version or no segment at all: renamed `*.bad`. Locked by
another process (a worker that hangs, two applications of one name), disk full, not readable: a warning, and this life of
the task does without. Nothing is synced: a machine that crashes loses its last blocks or leaves holes in them, checksums
tell, and the changelog has them.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from adstream._core import RawBatch
from adstream.errors import ConfigError
from adstream.runtime.assignment import TaskSpec

log = logging.getLogger(__name__)

MAGIC, VERSION = b"ADSS", 1
HEAD = struct.Struct("<4sHII")
ENTRY = struct.Struct("<qqIII")
SEGMENT_BYTES = 16 << 20
"""A new segment is begun above: so much, at most, is kept of what the changelog has forgotten."""
BLOCK_BYTES = 8 << 20
"""Held in memory, at most, before it is written; more would be read from the changelog after a crash."""


class Snapshots:
    """The snapshots of one application below a state directory.

    Raises:
        ConfigError: the directory cannot be made or written.
    """

    def __init__(self, state_dir: str, app: str) -> None:
        self._app, self._folder = app, Path(state_dir) / app
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self._folder, os.W_OK | os.X_OK):
                raise PermissionError(f"{self._folder} is not writable")
        except OSError as error:
            raise ConfigError(
                f"no snapshots can be kept in {self._folder}: {error.strerror or error}",
                option="--state-dir",
                hint="name a directory that this user may write, or leave the option out",
            ) from error

    def open(self, spec: TaskSpec, *, exactly_once: bool = True) -> Snapshot | None:
        """None: the task has no state, or its directory cannot be used now."""
        if spec.changelog is None:
            return None
        topic, partition = spec.changelog
        identity = {"app": self._app, "changelog": topic, "partition": partition}
        try:
            return Snapshot(self._folder / spec.name, identity, gaps=exactly_once)
        except OSError as error:
            why = "another process uses it" if isinstance(error, BlockingIOError) else error
            log.warning("task %s goes without a snapshot until its next restore: %s", spec.name, why)
            return None


class DamagedError(Exception):
    """A block that cannot be read."""


@dataclass(frozen=True, slots=True)
class Block:
    """All committed records in [begin, end), and where in its segment they lie."""

    begin: int
    end: int
    segment: _Segment
    at: int
    entries: tuple[tuple[int, int], ...]
    """Place and length of each batch."""

    @property
    def size(self) -> int:
        return sum(length for _, length in self.entries)


@dataclass(eq=False, slots=True)
class _Segment:
    path: Path
    begin: int
    end: int
    size: int


@dataclass(eq=False)
class Snapshot:
    """One task's, open for one life of the task. Whatever fails is logged and ends it; no method raises for that.

    `append`, `hold` and `forget` may run beside `close`; everything else belongs to the restore.
    """

    folder: Path
    identity: dict[str, object]
    gaps: bool = True
    """Offsets may be missing between records (markers, aborted records): exactly once."""
    end: int | None = None
    """Up to here it is complete; None: there is nothing."""
    blocks: list[Block] = field(default_factory=list)
    """For the restore: in order, each beginning where the one before ends."""
    _segments: list[_Segment] = field(default_factory=list)
    _held: list[RawBatch] = field(default_factory=list)
    _held_bytes: int = 0
    _written_ms: int = 0
    _file: BinaryIO | None = None
    _lock_file: BinaryIO | None = None
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = (self.folder / "lock").open("ab")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._scan()
        except BaseException:
            self._lock_file.close()
            raise

    # For the restore

    def load(self, block: Block) -> list[RawBatch]:
        """Raises DamagedError."""
        try:
            with block.segment.path.open("rb") as file:
                found = []
                for at, length in block.entries:
                    file.seek(at)
                    found.append(RawBatch.from_bytes(file.read(length)))
                return found
        except (OSError, ValueError) as error:
            raise DamagedError(f"{block.segment.path}, byte {block.at}: {error}") from error

    def cut(self, block: Block, why: object) -> None:
        """This block and what follows it is lost."""
        log.warning("snapshot damaged, its end is read from the changelog instead: %s", why)
        with self._giving_up():
            index = self.blocks.index(block)
            del self.blocks[index:]
            self._drop(self._segments.index(block.segment) + 1)
            os.truncate(block.segment.path, block.at)
            block.segment.size, block.segment.end, self.end = block.at, block.begin, block.begin

    def start_over(self, at: int, why: str = "") -> None:
        """Nothing of it counts; what will be appended begins at changelog offset `at`."""
        if why:
            log.warning("snapshot in %s is not used, everything is read from the changelog: %s", self.folder, why)
        with self._giving_up():
            self._close_file()
            self._drop(0)
            self.blocks.clear()
            self._clear_held()
            self.end = at

    # As the task goes on

    def hold(self, batch: RawBatch) -> None:
        """These records of the changelog are committed, and come after all others held so far."""
        with self._guard:
            if self._lock_file is not None and len(batch):
                self._held.append(batch)
                self._held_bytes += batch.byte_size

    def due(self, now_ms: int, every_ms: int) -> bool:
        """Whether what is held should be written with the next commit."""
        return bool(self._held) and (self._held_bytes >= BLOCK_BYTES or now_ms - self._written_ms >= every_ms)

    @property
    def full(self) -> bool:
        return self._held_bytes >= BLOCK_BYTES

    def append(self, end: int, now_ms: int = 0, *, read: bool = False) -> None:
        """Writes what is held: all committed records between the last `end` and this one. `read`: as a reader says,
        who leaves nothing out."""
        with self._guard, self._giving_up():
            if self._lock_file is None or not self._held:
                return
            rows = sum(map(len, self._held))
            begin = self.end
            gaps = self.gaps or read
            if begin is None or end - begin < rows or (end - begin > rows and not gaps):
                raise OSError(f"{rows} records between {begin} and {end} of the changelog: somebody else wrote there")
            self._written_ms = now_ms
            self._write(begin, end)

    def forget(self, before: int) -> None:
        """Nothing before this offset is needed any more."""
        with self._guard, self._giving_up():
            if self._lock_file is not None:
                count = 0
                while count < len(self._segments) - 1 and self._segments[count].end <= before:
                    count += 1
                for segment in self._segments[:count]:
                    segment.path.unlink()
                del self._segments[:count]

    def close(self) -> None:
        """What is held and not written is forgotten: the changelog has it."""
        with self._guard:
            self._end()

    # Files

    def _write(self, begin: int, end: int) -> None:
        if self._file is None or self._segments[-1].size >= SEGMENT_BYTES:
            self._roll(begin)
        assert self._file is not None
        segment, left = self._segments[-1], len(self._held)
        for batch in self._held:
            left -= 1
            data = batch.to_bytes()
            head = struct.pack("<qqII", begin, end, len(data), left)
            self._file.write(head + zlib.crc32(head).to_bytes(4, "little"))
            self._file.write(data)
            segment.size += ENTRY.size + len(data)
        self._file.flush()
        segment.end = self.end = end
        self._clear_held()

    def _roll(self, begin: int) -> None:
        self._close_file()
        # A segment that holds nothing yet begins at the same offset.
        if self._segments and self._segments[-1].begin == begin:
            self._drop(len(self._segments) - 1)
        path = self.folder / f"{begin:020d}.snapshot"
        self._file = path.open("wb")
        name = json.dumps(self.identity, sort_keys=True).encode()
        head = HEAD.pack(MAGIC, VERSION, len(name), zlib.crc32(name))
        self._file.write(head + name)
        self._segments.append(_Segment(path, begin, begin, len(head) + len(name)))

    def _scan(self) -> None:
        """What the files hold, as far as heads tell; payloads are checked when they are loaded."""
        paths = sorted(self.folder.glob("*.snapshot"))
        for number, path in enumerate(paths):
            whole = self._scan_segment(path)
            if not whole:
                for later in paths[number + 1 :]:
                    later.unlink()
                break

    def _scan_segment(self, path: Path) -> bool:
        """False: nothing behind it counts."""
        size = path.stat().st_size
        with path.open("rb") as file:
            at = self._read_head(file)
            if at is None or not path.stem.isdigit() or (self.end is not None and int(path.stem) != self.end):
                log.warning("%s is not a segment of this snapshot; set aside", path)
                for older in self.folder.glob("*.bad"):
                    older.unlink()
                path.rename(path.with_suffix(".bad"))
                return False
            segment = _Segment(path, int(path.stem), int(path.stem), at)
            self._segments.append(segment)
            self.end = segment.end
            for block in self._blocks(file, segment, size):
                self.blocks.append(block)
                segment.end = self.end = block.end
                segment.size = file.tell()
        if segment.size < size:
            log.info("%s ends in a torn block, as after a crash: the changelog has it", path)
            os.truncate(path, segment.size)
            return False
        return True

    def _read_head(self, file: BinaryIO) -> int | None:
        head = file.read(HEAD.size)
        if len(head) < HEAD.size:
            return None
        magic, version, length, crc = HEAD.unpack(head)
        if magic != MAGIC or version != VERSION:
            return None
        name = file.read(length)
        if zlib.crc32(name) != crc or name != json.dumps(self.identity, sort_keys=True).encode():
            return None
        return file.tell()

    @staticmethod
    def _blocks(file: BinaryIO, segment: _Segment, size: int) -> Iterator[Block]:
        """The whole blocks; the file stands behind the last one."""
        at, end = file.tell(), segment.begin
        entries: list[tuple[int, int]] = []
        first, wanted = at, None
        while len(head := file.read(ENTRY.size)) == ENTRY.size:
            begin, until, length, left, crc = ENTRY.unpack(head)
            at += ENTRY.size
            fits = begin == end and until > begin and wanted in (None, left) and at + length <= size
            if zlib.crc32(head[:-4]) != crc or not fits:
                break
            entries.append((at, length))
            at += length
            file.seek(at)
            wanted = left - 1
            if left == 0:
                yield Block(begin, until, segment, first, tuple(entries))
                entries, first, wanted, end = [], at, None, until
        file.seek(first)

    def _drop(self, index: int) -> None:
        """Deletes this segment and those behind it."""
        for segment in self._segments[index:]:
            segment.path.unlink(missing_ok=True)
        del self._segments[index:]

    def _clear_held(self) -> None:
        self._held, self._held_bytes = [], 0

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _end(self) -> None:
        lock_file, self._lock_file = self._lock_file, None
        self._clear_held()
        try:
            self._close_file()
        except OSError as error:
            log.debug("closing a snapshot: %s", error)
        if lock_file is not None:
            lock_file.close()  # and thereby the lock

    def _giving_up(self) -> _GivingUp:
        return _GivingUp(self)


class _GivingUp:
    """An error of the file system ends the snapshot, not the task."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        if not isinstance(error, OSError):
            return False
        log.warning("snapshot in %s ends here until the next restore: %s", self._snapshot.folder, error)
        self._snapshot._end()
        return True
