"""What the tests of the language share: a record, an app, and the check that an error says what it must."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import PurePath
from typing import Annotated, Any, Literal

import pytest

import adstream as ads

Money = Annotated[Decimal, ads.decimal(10, 2)]


class Event(ads.Record):
    event_id: str = ads.content_id()
    kind: Literal["CLICK", "VIEW"]
    at: datetime
    user: str | None
    price: Money | None
    count: int | None
    weight: float | None


def events(**options: Any) -> ads.Stream:
    return ads.App("test").stream("events", Event, **({"timestamp": "at"} | options))


def nodes(flow: Any) -> list[dict[str, Any]]:
    """The plan's nodes so far."""
    return [node.to_plan() for node in flow._graph.nodes]


@contextmanager
def refused(code: str, message: str = "", hint: str = "", operation: str | None = None) -> Iterator[None]:
    """The body raises a TopologyError of this code, with these pieces of text, at a line of the test itself.

    It names an operation, but where a test calls something inside (`DIRECT`)."""
    frame = sys._getframe(2)
    with pytest.raises(ads.TopologyError) as raised:
        yield
    error, text = raised.value, str(raised.value)
    assert error.code == code, text
    assert message in text.split("\nhint: ")[0], text
    assert error.hint, text
    assert hint in error.hint, text
    assert error.operation or frame.f_globals.get("DIRECT"), text
    assert operation in (None, error.operation), text
    assert error.line is not None, text
    where = re.fullmatch(r"(.+):(\d+)", error.line)
    assert where is not None, text
    assert where[1] == PurePath(frame.f_code.co_filename).name, text
    lines = [line for _, _, line in frame.f_code.co_lines() if line]
    assert frame.f_code.co_firstlineno <= int(where[2]) <= max(lines), text
