"""A real Postgres with its usual durability (fsync on), reached by TCP without a password.

Postgres refuses to run as root, so root hands the process and its data to an unprivileged user. The data must
then lie where that user can reach it: a temporary folder does, pytest's `tmp_path` of root does not, and the
error says so.
"""

import os
import pwd
import shutil
import signal
from pathlib import Path

from .server import HOST, Server, ServerError, find_program

PACKAGES = {"postgres": "postgresql"}  # program: Debian package


def program_folders() -> list[Path]:
    """Where Debian keeps the server's programs, newest version first; they are on nobody's PATH."""
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    return sorted(versions, key=lambda folder: float(folder.parent.name), reverse=True)


class Postgres(Server):
    name = "postgres"
    ready_line = "database system is ready to accept connections"
    stop_signal = signal.SIGINT  # "fast shutdown": SIGTERM would wait for every client to leave

    def __init__(self, directory: Path | None = None) -> None:
        super().__init__(directory)
        self.data = self.directory / "data"
        if os.geteuid() == 0:
            self.user = _unprivileged_user()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@{HOST}:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Make an empty database; its URL."""
        self.run([_program("createdb"), "-h", HOST, "-p", str(self.port), "-U", "postgres", name])
        return self.url(name)

    def prepare(self) -> None:
        if self.user:
            shutil.chown(self.directory, self.user)
            self._check_reach(self.user)
        if not (self.data / "PG_VERSION").exists():
            # Only the making of the empty cluster goes unsynced; the running server syncs as it always does.
            options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"]
            self.run([_program("initdb"), *options, "-D", str(self.data)], user=self.user)

    def command(self) -> list[str]:
        settings = {"listen_addresses": HOST, "port": str(self.port), "unix_socket_directories": ""}
        return [
            _program("postgres"),
            "-D",
            str(self.data),
            *(word for key, value in settings.items() for word in ("-c", f"{key}={value}")),
        ]

    def kill(self) -> None:
        """SIGKILL for the postmaster and its children: an orphan would block the next start."""
        children = _children(self.pid) if self.running else []
        super().kill()
        for child in children:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _check_reach(self, user: str) -> None:
        try:
            self.run(["test", "-x", str(self.directory)], user=user)
        except (ServerError, PermissionError) as error:
            raise ServerError(
                f"user `{user}`, who runs Postgres in place of root, cannot reach {self.directory}\n"
                "hint: give no directory, or one whose parents are open to all"
            ) from error


def _program(name: str) -> str:
    return find_program(name, *program_folders())


def _unprivileged_user() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
