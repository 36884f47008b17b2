"""The logs a worker can run on, behind the ports of `adstream.interfaces`."""

from __future__ import annotations

from adstream.errors import LogUnavailableError, RecordTooLargeError

__all__ = ["LogUnavailableError", "RecordTooLargeError"]
