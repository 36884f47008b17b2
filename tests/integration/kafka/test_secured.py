"""A broker that lets nobody in without a password or a certificate: the core of the log's promises through TLS and SASL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from adstream.errors import ConfigError
from adstream.interfaces import Log
from adstream.logs.kafka import KafkaLog
from tests.logs import conformance
from tests.servers import Kafka
from tests.servers.server import HOST, find_program, free_port

pytestmark = pytest.mark.servers

USER, PASSWORD, STORE_PASSWORD = "ads", "s3cret", "changeit"
SASL = "org.apache.kafka.common.security"
CORE = (
    conformance.check_records_come_back_as_they_were_written,
    conformance.check_offsets_are_committed_with_the_outputs,
    conformance.check_what_a_crashed_commit_wrote_is_invisible,
    conformance.check_opening_a_slot_fences_its_holder,
    conformance.check_ends,
    conformance.check_leases_are_granted_shared_and_inherited,
    conformance.check_a_fence_lets_its_owner_commit_and_nobody_who_left,
)


class SecuredKafka(Kafka):
    """The plain listener is the broker's own; besides it one for each kind of security."""

    def __init__(self) -> None:
        super().__init__()
        self.ports = {name: free_port() for name in ("SCRAM", "PLAINTLS", "MUTUAL")}

    def at(self, listener: str) -> str:
        return f"{HOST}:{self.ports[listener]}"

    def prepare(self) -> None:
        for name in ("broker", "client"):
            self._keytool(
                *("-genkeypair", "-alias", name, "-keyalg", "RSA", "-validity", "2", "-keystore", f"{name}.p12"),
                *("-dname", f"CN={name}", "-ext", f"SAN=IP:{HOST},DNS:localhost"),
            )
            self._keytool("-exportcert", "-rfc", "-alias", name, "-keystore", f"{name}.p12", "-file", f"{name}.pem")
        self._keytool(
            *("-importcert", "-noprompt", "-alias", "client", "-file", "client.pem", "-keystore", "trusted.p12")
        )
        super().prepare()

    def _keytool(self, *arguments: str) -> None:
        self.run([find_program("keytool"), *arguments, "-storetype", "PKCS12", "-storepass", STORE_PASSWORD])

    def _properties(self) -> dict[str, str]:
        mine = super()._properties()
        extra = "".join(f",{name}://{HOST}:{port}" for name, port in self.ports.items())
        protocols = "SCRAM:SASL_PLAINTEXT,PLAINTLS:SASL_SSL,MUTUAL:SSL"
        plain = f'{SASL}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        return {
            **mine,
            "listeners": mine["listeners"] + extra,
            "advertised.listeners": mine["advertised.listeners"] + extra,
            "listener.security.protocol.map": f"{mine['listener.security.protocol.map']},{protocols}",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.scram.scram-sha-512.sasl.jaas.config": f"{SASL}.scram.ScramLoginModule required;",
            "listener.name.plaintls.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.plaintls.plain.sasl.jaas.config": plain,
            "listener.name.mutual.ssl.client.auth": "required",
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.location": str(self.directory / "broker.p12"),
            "ssl.keystore.password": STORE_PASSWORD,
            "ssl.truststore.type": "PKCS12",
            "ssl.truststore.location": str(self.directory / "trusted.p12"),
            "ssl.truststore.password": STORE_PASSWORD,
        }


@pytest.fixture(scope="module")
def secured() -> Iterator[SecuredKafka]:
    with SecuredKafka() as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        wanted = UserScramCredentialUpsertion(USER, how, PASSWORD.encode())
        admin.alter_user_scram_credentials([wanted])[USER].result(30)
        yield kafka


def scram(directory: Path) -> dict[str, str]:
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": USER,
        "sasl.password": PASSWORD,
    }


def plain_over_tls(directory: Path) -> dict[str, str]:
    return {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(directory / "broker.pem"),
        "sasl.mechanism": "PLAIN",
        "sasl.username": USER,
        "sasl.password": PASSWORD,
    }


def mutual_tls(directory: Path) -> dict[str, str]:
    return {
        "security.protocol": "SSL",
        "ssl.ca.location": str(directory / "broker.pem"),
        "ssl.keystore.location": str(directory / "client.p12"),
        "ssl.keystore.password": STORE_PASSWORD,
    }


KINDS: dict[str, Callable[[Path], dict[str, str]]] = {
    "SCRAM": scram,
    "PLAINTLS": plain_over_tls,
    "MUTUAL": mutual_tls,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", CORE, ids=[check.__name__.removeprefix("check_") for check in CORE])
def test_secured(secured: SecuredKafka, kind: str, check: Callable[[Log], None]) -> None:
    log = KafkaLog(secured.at(kind), KINDS[kind](secured.directory), session_ms=1500)
    check(log)
    log.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_portable_reader(secured: SecuredKafka, kind: str) -> None:
    log = KafkaLog(secured.at(kind), KINDS[kind](secured.directory), reader="portable")
    CORE[0](log)
    log.close()


@pytest.mark.parametrize(
    ("kind", "wrong", "said"),
    [
        ("SCRAM", {"sasl.password": "guessed"}, "Authentication failed"),
        ("SCRAM", {"security.protocol": "PLAINTEXT"}, "kafka.security.protocol"),
        ("PLAINTLS", {"ssl.ca.location": ""}, "certificate"),
        ("PLAINTLS", {"sasl.password": "guessed"}, "Authentication failed"),
        ("MUTUAL", {"ssl.keystore.location": "", "ssl.keystore.password": ""}, "certificate"),
    ],
)
def test_who_is_not_let_in_is_told_why(secured: SecuredKafka, kind: str, wrong: dict[str, str], said: str) -> None:
    settings = {**KINDS[kind](secured.directory), **wrong}
    with pytest.raises(ConfigError) as refused:
        KafkaLog(secured.at(kind), {k: v for k, v in settings.items() if v}, connect_timeout_s=4)
    assert said in str(refused.value)
    assert PASSWORD not in str(refused.value)
