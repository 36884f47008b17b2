"""Durations in settings: texts with a unit."""

from __future__ import annotations

import re

from adstream.errors import ConfigError

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"(\d+)(ms|s|m|h|d)")


def duration_ms(text: object, option: str) -> int:
    """`"1h30m"` -> 5400000; numbers without a unit are refused.

    Raises:
        ConfigError: naming `option`.
    """
    parts = _PART.findall(text) if isinstance(text, str) else []
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigError(f"`{text}` is not a duration", option=option, hint='write "100ms", "30s" or "1h30m"')
    return sum(int(number) * _UNITS_MS[unit] for number, unit in parts)
