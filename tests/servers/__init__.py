"""Real servers for tests: Apache Kafka, Postgres, Redis and a schema registry, each one process on a loopback port of its own.

No stand-in proves exactly-once, so nothing here is a fake, and a server that is missing or does not start is
an error, never a skip. Every server can be killed in the middle of anything and started again on the same
port and data. Standard library only: the clients under test have no part in their own proof.
"""

from .kafka import Kafka, killable
from .postgres import Postgres
from .redis import Redis
from .registry import SchemaRegistry

__all__ = ["Kafka", "Postgres", "Redis", "SchemaRegistry", "killable"]
