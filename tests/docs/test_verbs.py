"""What `make test` promises: everything, on real servers."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_make_test_leaves_nothing_out() -> None:
    makefile = (ROOT / "Makefile").read_text()
    found = re.search(r"^test:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert found is not None
    runs = [line for line in found[1].splitlines() if "pytest" in line]
    assert runs == ["\t$(BIN)/python -m pytest"], "no option that leaves tests out, such as the rounds of chaos"
