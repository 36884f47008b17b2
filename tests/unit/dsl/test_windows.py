import dataclasses

import pytest

import adstream as ads
from tests.unit.dsl.support import refused


def test_a_window_is_a_frozen_value_with_an_honest_repr():
    window = ads.tumbling("5m", grace="10s", retention="25h")
    assert repr(window) == 'tumbling("5m", grace="10s", retention="25h")'
    assert eval(repr(window), {"tumbling": ads.tumbling}) == window
    assert window.describe() == "tumbling [start, start + 5m), grace 10s, retention 25h"
    with pytest.raises(dataclasses.FrozenInstanceError):
        window.size_ms = 1
    assert window.to_plan() == {
        "kind": "tumbling",
        "size_ms": 300_000,
        "grace_ms": 10_000,
        "retention_ms": 90_000_000,
    }


def test_retention_is_size_and_grace_unless_said():
    assert ads.tumbling("5m", grace="10s").retention_ms == 310_000
    assert ads.tumbling("5m", grace="10s", retention="5m10s").retention_ms == 310_000
    with refused("retention_too_short", "retention 5m is shorter than size + grace, 5m10s", '"5m10s"` or more'):
        ads.tumbling("5m", grace="10s", retention="5m")


def test_grace_must_be_said():
    with refused("grace_missing", "how long to wait for late records", 'grace="10s"', operation="tumbling"):
        ads.tumbling("5m")
    assert ads.tumbling("5m", grace="0s").grace_ms == 0


def test_a_window_has_a_size():
    with refused("bad_duration", "`size` is zero"):
        ads.tumbling("0s", grace="0s")
