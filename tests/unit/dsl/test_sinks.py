import pytest

import adstream as ads
from tests.unit.dsl.support import refused


def test_sql():
    sink = ads.sinks.Sql("ledger", key=["id", "account"], connection="ledger_db")
    assert repr(sink) == 'Sql("ledger", key=["id", "account"], connection="ledger_db")'
    assert (sink.kind, sink.key) == ("sql", ("id", "account"))
    assert sink.options == {"table": "ledger", "connection": "ledger_db"}
    assert ads.sinks.Sql("t", key="id") == ads.sinks.Sql("t", key=["id"], connection="sql")


def test_sql_needs_a_key():
    with refused("sink_key_missing", "the table `ledger` needs a key", 'Sql("ledger", key=[…])', operation="Sql"):
        ads.sinks.Sql("ledger")


@pytest.mark.parametrize("table", ["", ".t", "s.", None])
def test_sql_needs_a_table(table):
    """Nothing was said before the database was asked."""
    with refused("bad_argument", "not a table", operation="Sql"):
        ads.sinks.Sql(table, key=["id"])


def test_redis_hash_takes_its_key_from_the_template():
    sink = ads.sinks.RedisHash("rtb:{placement}:{category}:{placement}")
    assert (sink.kind, sink.key) == ("redis_hash", ("placement", "category"))
    assert sink.options == {"template": "rtb:{placement}:{category}:{placement}", "connection": "redis"}
    assert repr(sink) == 'RedisHash("rtb:{placement}:{category}:{placement}", connection="redis")'


def test_redis_templates_that_say_nothing():
    with refused("sink_key_missing", "names no column"):
        ads.sinks.RedisHash("metrics")
    with refused("bad_template", "not a template"):
        ads.sinks.RedisHash("metrics:{id")
    with refused("bad_template", "nothing else"):
        ads.sinks.RedisHash("metrics:{id:>10}")
    with refused("bad_template", "nothing else"):
        ads.sinks.RedisHash("metrics:{}")
