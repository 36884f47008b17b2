"""Every name in the right column of the table "Kafka Streams → adstream" is there."""

import importlib
import re
from pathlib import Path

import pytest

import adstream as ads

PAGE = (Path(__file__).parents[2] / "docs" / "kafka-streams.md").read_text()
TABLE = PAGE.partition("## Kafka Streams → adstream")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| (.+?) \| (.+?) \|$", TABLE, re.MULTILINE)[1:]
NAMES = [name for _, cell in ROWS for name in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_there(name: str) -> None:
    path, _, options = name.partition("(")
    found: object = ads
    for part in path.split("."):
        found = importlib.import_module("adstream.testing") if part == "testing" else getattr(found, part)
    for option in re.findall(r"(\w+)=", options):
        names = getattr(found, "__dataclass_fields__", None) or getattr(ads.App.records, "__annotations__", {})
        assert option in names, f"{path} has no {option}"


def test_the_table_was_found() -> None:
    assert len(ROWS) > 25
    assert len(NAMES) > 60
    assert all("`" in left for left, _ in ROWS)
