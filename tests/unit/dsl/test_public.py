"""What `import adstream` offers."""

import json
import subprocess
import sys
import types

import pytest

import adstream as ads


def test_all_is_sorted_and_exact():
    assert ads.__all__ == sorted(ads.__all__)
    assert len(ads.__all__) > 40
    assert all(hasattr(ads, name) for name in ads.__all__)


def test_importing_loads_neither_the_core_nor_other_libraries():
    code = "import adstream, sys, json; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    assert "adstream.dsl.stream" in loaded
    heavy = {"adstream._core", "pyarrow", "pydantic", "msgspec", "sqlalchemy", "redis", "confluent_kafka"}
    assert not heavy.intersection(loaded)


def test_an_errors_line_is_the_users():
    with pytest.raises(ads.TopologyError) as raised:
        ads.tumbling("5m")
    assert str(raised.value.line).startswith("test_public.py:")
    assert str(raised.value).endswith('hint: write `grace="10s"`, or `grace="0s"` if nothing may come late')


def test_the_declarations_of_sinks_stay_whoever_imports_the_writers():
    ads.sinks = types.ModuleType("adstream.sinks")  # what `import adstream.sinks` does when it is done
    assert ads.sinks.Sql("t", key="id").kind == "sql"
