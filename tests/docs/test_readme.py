"""Every Python block of the README and of docs/ runs. Blocks of one page run in order and share their names."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANY_PYTHON = re.compile(r"^[ \t]*```[ \t]*(?:python|py|pycon)\b", re.MULTILINE)
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)\s]*)?\)")
TEST = re.compile(r"`(tests/[\w/.-]+|rust/[\w/.-]+|python/[\w/.-]+|docs/[\w/.-]+|tools/[\w/.-]+)(?:::(\w+))?`")
MUST_HAVE_BLOCKS = {"README.md", "semantics.md"}


def blocks(page: Path) -> list[tuple[int, str]]:
    """(line of the first statement, source)."""
    text = page.read_text()
    return [(text.count("\n", 0, m.start(1)) + 1, m[1]) for m in BLOCK.finditer(text)]


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """Where a page's blocks run: a real module, since annotations are looked up there."""
    made = ModuleType("page")
    sys.modules["page"] = made
    yield made
    del sys.modules["page"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_run(page: Path, module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for line, source in blocks(page):
        # Empty lines before it, so that a traceback shows the page's line.
        code = compile("\n" * (line - 1) + source, str(page), "exec")
        exec(code, vars(module))


def test_there_are_blocks_and_none_is_overlooked():
    found = {page.name: len(blocks(page)) for page in PAGES}
    assert all(found[name] > 0 for name in MUST_HAVE_BLOCKS), found
    assert sum(found.values()) > 8, found
    for page in PAGES:
        assert len(ANY_PYTHON.findall(page.read_text())) == found[page.name], f"{page.name}: a block that does not run"


def test_an_assertion_in_a_block_is_seen(tmp_path: Path):
    page = tmp_path / "canary.md"
    page.write_text("text\n\n```python\nassert 1 == 2\n```\n")
    [(line, source)] = blocks(page)
    assert line == 4
    with pytest.raises(AssertionError):
        exec(source, {})


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path):
    text = page.read_text()
    for target in LINK.findall(CODE.sub("", text)):
        assert (page.parent / target).exists(), f"{page.name}: no {target}"
    for path, name in TEST.findall(text):
        found = ROOT / path.rstrip("/.")
        assert found.exists(), f"{page.name}: no {path}"
        assert not name or re.search(rf"\b(?:def|fn) {name}\b", found.read_text()), f"{page.name}: no {name} in {path}"
