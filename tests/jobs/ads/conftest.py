from collections.abc import Iterator
from itertools import count

import psycopg
import pytest

from tests.jobs.ads.money import Ledger
from tests.servers import Postgres

_numbers = count()


@pytest.fixture
def ledger(postgres: Postgres) -> Iterator[Ledger]:
    """A ledger in a database of its own, migrated."""
    with Ledger(postgres.create_database(f"ledger_{next(_numbers)}")) as found:
        yield found


@pytest.fixture
def app(ledger: Ledger) -> Iterator[psycopg.Connection]:
    """A session as the application's own role."""
    with psycopg.connect(ledger.url, autocommit=True) as link:
        link.execute("SET ROLE ads_ledger_app")
        link.execute("SET search_path = ads_ledger")
        yield link
