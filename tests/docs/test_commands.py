"""docs/operations.md lists every command there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from adstream.cli.commands import app

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def test_every_command_is_listed_and_no_other() -> None:
    text = PAGE.read_text()
    table = text[text.index("## Commands") : text.index("`JOB` is")]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `adstream")]
    words = [re.findall(r"`([^`]+)`", row) for row in rows]
    found = set()
    for row in words:
        before = row[0].split()[1:2]
        found.add(row[0].split()[1])
        found |= {part.split()[1] if part.startswith("adstream ") else before[0] for part in row[1:]}
    group = typer.main.get_group(app)
    assert len(rows) > 8
    assert found == set(group.commands)


def test_the_options_of_reset_that_it_shows_exist() -> None:
    text = PAGE.read_text()
    section = text[text.index("### Starting over") :]
    section = section[: section.index("\n## ")]
    shown = set(re.findall(r"`(--[a-z-]+)", section))
    command = typer.main.get_group(app).commands["reset"]
    known = {name for parameter in command.params for name in parameter.opts} | {"--input"}
    assert len(shown) > 8
    assert shown <= known
