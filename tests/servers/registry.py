"""A real schema registry: Apicurio Registry, whose `/apis/ccompat` is Confluent's REST protocol (Confluent's own server is not
on Maven Central). One process, its schemas in memory: gone when it stops.

It comes from Maven Central, once per version, into `.cache/` at the root of the repository. 2.6 is the newest line that a Java
17 runs.
"""

import subprocess
import tempfile
from pathlib import Path

from .kafka import QUICK_JVM
from .server import HOST, Server, ServerError, find_program

VERSION = "2.6.13.Final"
ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack"
FOLDER = Path(__file__).parents[2] / ".cache" / f"apicurio-{VERSION}"
DOWNLOAD_TIMEOUT_S = 900.0


def install() -> Path:
    """Fetch it unless it is there; the folder it is in."""
    if FOLDER.exists():
        return FOLDER
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as scratch:
        command = [find_program("mvn"), "-q", "-B", PLUGIN, f"-Dartifact={ARTIFACT}", "-DoutputDirectory=app"]
        done = subprocess.run(
            command,
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise ServerError(f"Maven could not fetch Apicurio Registry {VERSION}\n{done.stdout}{done.stderr}")
        if not FOLDER.exists():  # another process may have been quicker
            Path(scratch, "app").rename(FOLDER)  # whole or not at all
    return FOLDER


class SchemaRegistry(Server):
    name = "schema-registry"
    ready_line = "Listening on"

    @property
    def url(self) -> str:
        """What clients of Confluent's registry take."""
        return f"http://{HOST}:{self.port}/apis/ccompat/v7"

    def command(self) -> list[str]:
        folder = install()
        return [
            find_program("java"),
            *QUICK_JVM,
            "-Xmx256m",
            f"-Dquarkus.http.host={HOST}",
            f"-Dquarkus.http.port={self.port}",
            "-jar",
            str(folder / f"apicurio-registry-app-{VERSION}-runner.jar"),
        ]
