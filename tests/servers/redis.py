"""A real Redis whose append-only file makes every answered write outlive a kill of the process."""

from .server import HOST, Server, find_program

PACKAGES = {"redis-server": "redis-server"}  # program: Debian package


class Redis(Server):
    name = "redis"
    ready_line = "Ready to accept connections"

    def url(self, db: int = 0) -> str:
        return f"redis://{HOST}:{self.port}/{db}"

    def command(self) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": HOST,
            "dir": str(self.directory),
            "save": "",
            "appendonly": "yes",
        }
        return [
            find_program("redis-server"),
            *(word for key, value in options.items() for word in (f"--{key}", value)),
        ]
