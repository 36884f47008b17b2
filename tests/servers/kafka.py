"""A real Apache Kafka: one process, broker and controller at once (KRaft), tuned to start and rebalance
quickly.

The jars come from Maven Central, once per version, into `.cache/` at the root of the repository. Settings
differ from a production cluster's in sizes and delays only; transactions, fencing and group protocols are the
real thing. Topics are not created by being mentioned: a test that misspells one should fail.
"""

import base64
import shutil
import subprocess
import tempfile
import time
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from .server import HOST, START_TIMEOUT_S, Server, ServerError, find_program, free_port

PACKAGES = {"java": "default-jdk-headless", "mvn": "maven"}  # program: Debian package

POM = Path(__file__).with_name("kafka-pom.xml")
VERSION = ElementTree.parse(POM).findtext(".//{*}kafka.version")
JARS = Path(__file__).parents[2] / ".cache" / f"kafka-{VERSION}" / "lib"
DOWNLOAD_TIMEOUT_S = 900.0
SESSION_MS = 3_000
QUICK_JVM = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]


def install() -> Path:
    """Fetch the jars unless they are there; the folder they are in."""
    if JARS.exists():
        return JARS
    JARS.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=JARS.parent) as scratch:
        shutil.copy(POM, Path(scratch, "pom.xml"))
        command = [find_program("mvn"), "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"]
        done = subprocess.run(
            command,
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise ServerError(f"Maven could not fetch Kafka {VERSION}\n{done.stdout}{done.stderr}")
        if not JARS.exists():  # another process may have been quicker
            Path(scratch, "lib").rename(JARS)  # whole or not at all
    return JARS


def new_cluster_id() -> str:
    return "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]  # "-…" would be an option


class Kafka(Server):
    name = "kafka"
    ready_line = "Kafka Server started"

    def __init__(
        self,
        directory: Path | None = None,
        *,
        heap: str = "512m",
        quick: bool = True,
        settings: dict[str, str] | None = None,
        joins: "Kafka | None" = None,
        cluster_id: str | None = None,
    ) -> None:
        """`quick` starts in half the time by leaving out the JVM's second compiler: not for benchmarks.

        `settings` are broker properties on top of those below. With `joins`, which must be running, it is that one's
        second broker: node 2, without a controller; or the broker of a `KafkaController`. `cluster_id`: for nodes that
        belong together from the start.
        """
        super().__init__(directory)
        self._killed: int | None = None
        """Where the controller's log ended then."""
        self.heap = heap
        self.quick = quick
        self.joins = joins
        self.controller_port = free_port() if joins is None else joins.controller_port
        self.settings = settings or {}
        self.cluster_id: str = joins.cluster_id if joins is not None else cluster_id or new_cluster_id()

    def start(self) -> Self:
        if self.joins is not None and self._killed is not None:
            self._wait_until_fenced(self.joins, self._killed)
        self._killed = None
        return super().start()

    def kill(self) -> None:
        if self.joins is not None and self.running:
            self._killed = self.joins.log.stat().st_size
        super().kill()

    def _wait_until_fenced(self, controller: "Kafka", since: int) -> None:
        """Until the controller knows that it was away (see `KafkaController`): a session after its last heartbeat, and on
        a busy machine some time more."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while controller.running and time.monotonic() < deadline:
            with controller.log.open("rb") as log:
                log.seek(since)
                if b"Fencing broker 2 " in log.read():
                    return
            time.sleep(0.05)

    @property
    def bootstrap(self) -> str:
        """The `bootstrap.servers` of clients."""
        return f"{HOST}:{self.port}"

    def prepare(self) -> None:
        jars = install()
        config = self.directory / "server.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
        if not (self.directory / "data" / "meta.properties").exists():
            tool = ["kafka.tools.StorageTool", "format", "-t", self.cluster_id, "-c", str(config)]
            self.run([find_program("java"), *QUICK_JVM, "-cp", f"{jars}/*", *tool])

    def command(self) -> list[str]:
        return [
            find_program("java"),
            f"-Xms{self.heap}",
            f"-Xmx{self.heap}",
            *(QUICK_JVM if self.quick else []),
            "-Dorg.apache.logging.log4j.level=INFO",
            "-cp",
            f"{install()}/*",
            "kafka.Kafka",
            str(self.directory / "server.properties"),
        ]

    def _properties(self) -> dict[str, str]:
        joining = {
            "process.roles": "broker",
            "node.id": "2",
            "listeners": f"PLAINTEXT://{HOST}:{self.port}",
        }
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.directory / "data"),
            "auto.create.topics.enable": "false",
            # One node.
            "default.replication.factor": "1",
            "min.insync.replicas": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # A killed broker is let in again only when its last session has run out.
            "broker.session.timeout.ms": str(SESSION_MS),
            "broker.heartbeat.interval.ms": "500",
            # Quick to start, to rebalance and to give a dead transaction up.
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
            "num.network.threads": "2",
            "num.io.threads": "2",
            "log.cleaner.threads": "1",
            "log.cleaner.dedupe.buffer.size": str(16 << 20),
            "offsets.topic.segment.bytes": str(4 << 20),
            "transaction.state.log.segment.bytes": str(4 << 20),
            **(joining if self.joins else {}),
            **self.settings,
        }


@contextmanager
def killable() -> Iterator[Kafka]:
    """A broker that may be killed while transactions are open; see `KafkaController`."""
    with KafkaController(heap="128m") as controller, Kafka(joins=controller) as kafka:
        yield kafka


class KafkaController(Kafka):
    """A controller alone, for a broker of its own: `Kafka(joins=controller)`.

    A broker that is its own controller, killed and at once started again, is not noticed to have been away: it takes
    itself for the leader still and begins to write the markers of transactions that were prepared. Then its old session
    ends, nobody is leader for a moment, and Kafka 4.x takes partitions without a leader for deleted ones (KAFKA-20734,
    open): it notes the transaction as complete, and its markers are never written. Partitions that it touched cannot be
    read to their end any more, by anybody. In a cluster it takes the loss of all replicas at once to come to that.
    """

    def _properties(self) -> dict[str, str]:
        listener = f"CONTROLLER://{HOST}:{self.controller_port}"
        theirs = super()._properties()
        del theirs["advertised.listeners"]
        return theirs | {"process.roles": "controller", "listeners": listener}
