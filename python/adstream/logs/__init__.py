"""The logs a worker can run on, behind the ports of `adstream.interfaces`."""

from __future__ import annotations

from adstream.errors import LogUnavailableError, OffsetGoneError, RecordTooLargeError

__all__ = ["LogUnavailableError", "OffsetGoneError", "RecordTooLargeError"]
