"""docs/kafka-streams-api.md has a row for every public method of the original, and none for what it has not.

The methods are read from the jars, by `javap`: a new version of Kafka that brings some makes this fail until somebody has said
how they are expressed here.
"""

import re
import subprocess
import zipfile
from pathlib import Path

from tests.servers.kafka import install
from tests.servers.server import find_program

PAGE = Path(__file__).parents[3] / "docs" / "kafka-streams-api.md"
PACKAGE = "org.apache.kafka.streams."
JAVAS_OWN = {"equals", "hashCode", "toString", "get", "configure"}
HAS_GET = {"ReadOnlyKeyValueStore", "VersionedKeyValueStore"}
SUBPACKAGES = ["", "kstream.", "processor.api.", "processor.", "state.", "query.", "errors.", "test."]


def rows() -> dict[str, list[str]]:
    """The page's methods, by the class that heads them."""
    found: dict[str, list[str]] = {}
    for part in PAGE.read_text().split("\n### ")[1:]:
        title, _, text = part.partition("\n")
        table = text.partition("\n## ")[0]
        cells = re.findall(r"^\| (`.+?) \| .+? \|$", table, re.MULTILINE)
        found[title] = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    return found


def methods(names: list[str]) -> dict[str, set[str]]:
    """The original's public methods, of these classes."""
    jars = install()
    archives = [*jars.glob("kafka-streams-[0-9]*.jar"), *jars.glob("kafka-streams-test-utils-*.jar")]
    listed = [name for archive in archives for name in zipfile.ZipFile(archive).namelist()]
    classes = {name.removesuffix(".class") for name in listed}
    wanted = {}
    for name in names:
        inside = name.replace(".", "$")
        paths = [
            f"{package}{inside}"
            for package in SUBPACKAGES
            if f"{PACKAGE}{package}{inside}".replace(".", "/") in classes
        ]
        assert paths, f"the original has no {name}"
        wanted[name] = PACKAGE + paths[0]
    shown = subprocess.run(
        [find_program("javap"), "-public", "-cp", f"{jars}/*", *wanted.values()],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: dict[str, set[str]] = {}
    for block in re.split(r"^Compiled from .*$", shown, flags=re.MULTILINE)[1:]:
        head, _, body = block.strip().partition("{")
        kind = re.search(r"(?:class|interface) ([\w.$]+)", head)
        assert kind is not None
        called = set(re.findall(r"[ .](\w+)\([^)]*\)(?: throws [\w., ]+)?;", body))
        found[kind[1]] = {name for name in called if not name[0].isupper()}
    return {name: found[path] for name, path in wanted.items()}


def test_every_method_has_a_row() -> None:
    said = rows()
    there = methods(list(said))
    assert len(said) > 80
    assert sum(map(len, there.values())) > 500
    for name, listed in said.items():
        assert len(listed) == len(set(listed)), f"{name}: a method comes twice"
        wanted = there[name] - (JAVAS_OWN - ({"get"} if name in HAS_GET else set()))
        assert set(listed) == wanted, f"{name}: {sorted(wanted ^ set(listed))}"
