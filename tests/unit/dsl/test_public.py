"""What `import adstream` offers."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import adstream as ads


def test_all_is_sorted_and_exact():
    assert ads.__all__ == sorted(ads.__all__)
    assert len(ads.__all__) > 40
    assert all(hasattr(ads, name) for name in ads.__all__)


def test_what_type_checkers_see_is_what_is_loaded():
    tree = ast.parse(Path(ads.__file__).read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    seen = {(f"{node.module}", alias.name) for node in found for alias in node.names}
    loaded = {(home, name) for home, names in ads._HOMES.items() for name in names.split()}
    loaded |= {tuple(home.rsplit(".", 1)) for home in ads._MODULES.values()}
    assert seen == loaded
    assert {name for _, name in seen} == set(ads.__all__)


def test_the_version():
    written = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert ads.__version__ == written["project"]["version"]


def test_importing_loads_neither_the_language_nor_the_core_nor_other_libraries():
    def loaded(code: str) -> set[str]:
        code = f"import adstream as ads, sys, json; {code}; print(json.dumps(sorted(sys.modules)))"
        return set(json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout))

    heavy = {"adstream._core", "pyarrow", "pydantic", "msgspec", "sqlalchemy", "redis", "confluent_kafka"}
    assert not loaded("pass").intersection(heavy | {"adstream.dsl"})
    used = loaded("ads.Stream")
    assert "adstream.dsl.stream" in used
    assert not used.intersection(heavy)


def test_an_errors_line_is_the_users():
    with pytest.raises(ads.TopologyError) as raised:
        ads.tumbling("5m")
    assert str(raised.value.line).startswith("test_public.py:")
    assert str(raised.value).endswith('hint: write `grace="10s"`, or `grace="0s"` if nothing may come late')
