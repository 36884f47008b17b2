"""One child process that listens: start, stop, kill, restart; the part that Kafka, Postgres and Redis have in
common.

A server keeps its port and its data from the first `start()` to the last, so `kill()` and `restart()` are
what a crash is to its clients. `start()` returns when the server answers, or raises with the tail of its log.
No server outlives this interpreter, however it dies: the kernel is asked to kill the child together with its
parent.

    new --start()--> running --stop() or kill()--> down --start()--> running    restart() = stop(), start()
"""

import atexit
import ctypes
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Self

HOST = "127.0.0.1"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
LOG_TAIL_BYTES = 4000

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
# The kernel watches the *thread* that forked, not the process: one that lives as long as we do forks all.
_forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="servers")


class ServerError(RuntimeError):
    """A server could not be installed, did not start, or died while starting."""


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a link in TIME_WAIT is no obstacle to them.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(count: int = 1) -> int:
    """A free port below the ephemeral range, or the first of so many in a row.

    From within that range, a client that knocks at a killed server's port can be given this very port as
    its own source, connect to itself, and keep the server from ever coming back.
    """
    for port in random.SystemRandom().sample(range(15_000, 32_000), 100):
        if all(map(_free, range(port, port + count))):
            return port
    raise ServerError("no free port among 100 tried between 15000 and 32000")


def find_program(name: str, *folders: Path) -> str:
    """The program's path, looked for in `folders` first; raises with the remedy when there is none."""
    for candidate in [*(str(folder / name) for folder in folders), name]:
        if found := shutil.which(candidate):
            return found
    raise ServerError(f"`{name}` is not installed\nhint: run `make servers`")


class Server:
    """Subclasses say how to lay out the data, what to run, and which log line says that it answers."""

    name: ClassVar[str]
    # The word of the process itself: who answers at the port may be another, or not done with recovery.
    ready_line: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    user: str | None = None  # run as this user; None is ourselves

    def __init__(self, directory: Path | None = None) -> None:
        """All files go to `directory`, or to a temporary folder, gone after the `with` block or at exit."""
        self._owned = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix=f"adstream-{self.name}-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = self.directory / "server.log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._prepared = False
        if self._owned:
            atexit.register(self._discard)

    # What a subclass says.

    def prepare(self) -> None:
        """Lay out the data, once, before the first start."""

    def command(self) -> list[str]:
        raise NotImplementedError

    # What everybody else calls.

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> Self:
        if self.running:
            return self
        if not self._prepared:
            self.prepare()
            self._prepared = True
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._process = _forker.submit(self._spawn, self.command()).result()
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.ready_line not in self.log_since_start():
            if (status := self._process.poll()) is not None:
                raise ServerError(f"{self.name} ended with status {status} while starting\n{self.log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ServerError(f"{self.name} was not ready in {START_TIMEOUT_S:.0f} s\n{self.log_tail()}")
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """Ask it to end in order, and wait; kill it if it will not."""
        if self._process is not None and self.running:
            self._process.send_signal(self.stop_signal)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL: no last words, no flush."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def restart(self) -> Self:
        """Start again on the same port and data, whether it was killed or still runs."""
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._owned:
            self._discard()  # nobody will read the data again: no need to end in order
            atexit.unregister(self._discard)
        else:
            self.stop()

    # Within.

    def log_since_start(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def log_tail(self) -> str:
        return f"--- the end of {self.log}\n{self.log_since_start()[-LOG_TAIL_BYTES:]}"

    def run(self, command: list[str], *, user: str | None = None) -> str:
        """Run a helper program to its end; its output, or an error that shows it."""
        done = subprocess.run(
            command,
            cwd=self.directory,
            user=user,
            group=_group_of(user),
            extra_groups=[] if user else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
        )
        if done.returncode != 0:
            output = done.stdout + done.stderr
            raise ServerError(f"`{' '.join(command)}` ended with status {done.returncode}\n{output}")
        return done.stdout

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.directory,
                user=self.user,
                group=_group_of(self.user),
                extra_groups=[] if self.user else None,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests; they stop their servers
                preexec_fn=_die_with_parent,
            )

    def _discard(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _group_of(user: str | None) -> int | None:
    if user is None:
        return None
    import pwd

    return pwd.getpwnam(user).pw_gid
