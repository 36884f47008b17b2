"""Several Kafka brokers that are one cluster: what replicates, elects leaders and survives the loss of one."""

from concurrent.futures import ThreadPoolExecutor
from typing import Self

from .kafka import Kafka, new_cluster_id
from .server import HOST

REPLICATED = (
    "default.replication.factor",
    "offsets.topic.replication.factor",
    "transaction.state.log.replication.factor",
    "share.coordinator.state.topic.replication.factor",
)
SPARE_ONE = (
    "min.insync.replicas",
    "transaction.state.log.min.isr",
    "share.coordinator.state.topic.min.isr",
)


class KafkaCluster:
    """Three nodes, each broker and controller; every topic on all of them, two of which must have a write."""

    def __init__(self, nodes: int = 3) -> None:
        cluster = new_cluster_id()
        self.nodes = [Kafka(heap="256m", cluster_id=cluster) for _ in range(nodes)]
        voters = ",".join(f"{i}@{HOST}:{node.controller_port}" for i, node in enumerate(self.nodes, 1))
        for i, node in enumerate(self.nodes, 1):
            node.settings = {
                "node.id": str(i),
                "controller.quorum.voters": voters,
                **dict.fromkeys(REPLICATED, str(nodes)),
                **dict.fromkeys(SPARE_ONE, str(nodes - 1)),
            }

    @property
    def bootstrap(self) -> str:
        return ",".join(node.bootstrap for node in self.nodes)

    def __enter__(self) -> Self:
        with ThreadPoolExecutor(len(self.nodes)) as pool:  # none is ready before most are
            list(pool.map(Kafka.start, self.nodes))
        return self

    def __exit__(self, *error: object) -> None:
        for node in self.nodes:
            node.__exit__(*error)
