"""Small Java programs on the jars of the real Kafka (`tests/servers/kafka-pom.xml`): compiled once, run in a process."""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers.kafka import JARS, QUICK_JVM, install
from tests.servers.server import find_program

COMPILE_TIMEOUT_S = 120.0
# Where there is one, a file system in memory: Kafka Streams syncs its state's files after each record.
MEMORY = Path("/dev/shm")


@contextmanager
def command(main: str, sources: Sequence[Path], *arguments: str, log: str = "ERROR") -> Iterator[list[str]]:
    """How to start the program whose class is `main`; its temporary files go when the context ends. `log`: a level."""
    classes = _compile(main, sources)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        yield [
            find_program("java"),
            *QUICK_JVM,
            f"-Dorg.apache.logging.log4j.level={log}",
            f"-Djava.io.tmpdir={scratch}",
            "-cp",
            f"{classes}{os.pathsep}{JARS}/*",
            main,
            *arguments,
        ]


def _compile(main: str, sources: Sequence[Path]) -> Path:
    """The folder of the classes: one per text of the sources and version of Kafka."""
    jars = install()
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    classes = jars.parent / f"{main.lower()}-{digest}"
    if not classes.exists():
        with tempfile.TemporaryDirectory(dir=jars.parent) as scratch:
            built = Path(scratch, "classes")
            run([find_program("javac"), "-cp", f"{jars}/*", "-d", str(built), *map(str, sources)], COMPILE_TIMEOUT_S)
            if not classes.exists():  # another process may have been quicker
                built.rename(classes)
    return classes


def run(command: list[str], timeout_s: float) -> None:
    """Run to its end; raises with the end of what it said if it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed\n{(done.stdout + done.stderr)[-4000:]}")
