"""Each server, spoken to by its real client; killed and started again, it has kept what it acknowledged."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
import pytest
import redis
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.servers import Kafka, Postgres, Redis
from tests.servers.server import HOST, ServerError

pytestmark = pytest.mark.servers


def create_topic(kafka: Kafka, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic(topic, num_partitions=1)])[topic].result(timeout=20)


def produce(kafka: Kafka, topic: str, value: bytes) -> None:
    """In a transaction: the coordinator has to be there, too."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, value)
    producer.commit_transaction(20)


def consume(kafka: Kafka, topic: str, count: int) -> list[bytes]:
    """By a group of its own: the group coordinator has to be there, too."""
    settings = {"bootstrap.servers": kafka.bootstrap, "group.id": topic, "auto.offset.reset": "earliest"}
    consumer = Consumer(settings | {"enable.auto.commit": False})
    consumer.subscribe([topic])
    values: list[bytes] = []
    deadline = time.monotonic() + 30
    while len(values) < count and time.monotonic() < deadline:
        for message in consumer.consume(count, timeout=0.1):
            if message.error():
                raise KafkaException(message.error())
            values.append(message.value())
    consumer.close()
    return values


def listens(port: int) -> bool:
    with socket.socket() as link:
        return link.connect_ex((HOST, port)) == 0


def test_kafka_answers(kafka: Kafka) -> None:
    create_topic(kafka, "smoke")
    produce(kafka, "smoke", b"hello")
    assert consume(kafka, "smoke", 1) == [b"hello"]


def test_kafka_keeps_its_port_and_data_when_killed() -> None:
    with Kafka() as kafka:
        create_topic(kafka, "kept")
        produce(kafka, "kept", b"before")
        bootstrap = kafka.bootstrap
        kafka.kill()
        assert not kafka.running
        kafka.restart()
        assert kafka.bootstrap == bootstrap
        produce(kafka, "kept", b"after")
        assert consume(kafka, "kept", 2) == [b"before", b"after"]


def test_postgres_answers(postgres: Postgres) -> None:
    with psycopg.connect(postgres.create_database("smoke")) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("smoke",)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)


def test_postgres_keeps_its_port_and_data_when_killed() -> None:
    with Postgres() as postgres:
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept (n int)")
            connection.execute("INSERT INTO kept VALUES (42)")
            postgres.kill()
        postgres.restart()
        with psycopg.connect(postgres.url()) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (42,)


def test_redis_answers(redis_server: Redis) -> None:
    with redis.Redis.from_url(redis_server.url()) as client:
        client.set("smoke", "hello")
        assert client.get("smoke") == b"hello"


def test_redis_keeps_its_port_and_data_when_killed() -> None:
    with Redis() as server:
        with redis.Redis.from_url(server.url()) as client:
            client.set("kept", "42")
        server.kill()
        server.restart()
        with redis.Redis.from_url(server.url()) as client:
            assert client.get("kept") == b"42"


@pytest.mark.parametrize("kind", [Postgres, Redis])
def test_a_given_directory_stays(kind: type[Postgres] | type[Redis]) -> None:
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        with kind(Path(parent, "mine")) as server:
            pass
        assert not server.running
        assert server.log.exists()
        with kind(Path(parent, "mine")) as again:
            assert again.running


def test_a_server_that_cannot_start_shows_its_log() -> None:
    with Redis() as taken:
        server = Redis()
        server.port = taken.port
        with pytest.raises(ServerError, match="Address already in use"):
            server.start()


def test_no_server_outlives_a_killed_interpreter() -> None:
    code = (
        "import os; from tests.servers import Redis; server = Redis().start(); "
        "print(server.directory, server.port, flush=True); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[2]
    died = subprocess.run([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
    assert died.returncode == -9
    directory, port = died.stdout.split()
    shutil.rmtree(directory)
    deadline = time.monotonic() + 10
    while listens(int(port)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not listens(int(port))
