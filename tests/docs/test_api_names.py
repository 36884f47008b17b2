"""What docs/kafka-streams-api.md says of adstream is there: names, their arguments, attributes."""

import inspect
import re
import typing
from pathlib import Path
from typing import Any

import pytest

import adstream as ads
import adstream.testing as testing

PAGE = (Path(__file__).parents[2] / "docs" / "kafka-streams-api.md").read_text()
ROWS = re.findall(r"^\| (`.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")
NAMES = sorted({name for _, cell in ROWS for name in CODE.findall(cell)})
"""Names, with arguments that there are, `KStream.to(key=, value=)`; calls, `tumbling("1m", grace="0s").size_ms`. Others are no
Python: commands, addresses, metrics."""
OTHER = re.compile(r"adstream(_\w+| \w+)|/\w+|GET /.*|\?.*|datetime\.fromtimestamp|name=|name|with|process\(Meter, .*")


@pytest.mark.parametrize("name", [name for name in NAMES if not OTHER.fullmatch(name)])
def test_it_is_there(name: str) -> None:
    known = {**{each: getattr(ads, each) for each in ads.__all__}, "testing": testing}
    arguments = re.fullmatch(r"([\w.]+)\(((?:\w+=(?:, )?)+)\)", name)
    if arguments is None:
        if re.fullmatch(r"[\w.]+", name):
            _found(known, name)
        else:
            eval(name, known)
        return
    taken = _arguments(_found(known, arguments[1]))
    for argument in re.findall(r"(\w+)=", arguments[2]):
        assert argument in taken, f"{arguments[1]} takes {sorted(taken)}"


def _found(known: dict[str, Any], name: str) -> Any:
    first, *parts = name.split(".")
    found = known[first]
    for part in parts:
        if part in getattr(found, "__annotations__", {}) and not hasattr(found, part):
            return None  # an attribute of its objects
        found = getattr(found, part)
    return found


def _arguments(made: Any) -> set[str]:
    taken: set[str] = set()
    for one in [made, *typing.get_overloads(made)] if inspect.isfunction(made) else [made]:
        taken |= set(inspect.signature(one).parameters)
    return taken


def test_the_page_was_read() -> None:
    assert len(ROWS) > 190
    assert len([name for name in NAMES if not OTHER.fullmatch(name)]) > 200
    with pytest.raises(AssertionError):
        test_it_is_there("KStream.to(colour=)")
    with pytest.raises(AttributeError):
        test_it_is_there("KStream.paint")
