"""The logs a worker can run on, behind the ports of `adstream.interfaces`, and what they raise."""

from __future__ import annotations

from adstream.errors import AdstreamError


class LogUnavailableError(AdstreamError):
    """The log did not answer, or not as it should, for longer than is bearable. Nothing is known to be
    lost."""


class RecordTooLargeError(AdstreamError):
    """A record is larger than the log takes. Nothing of its commit is visible, and it will fail again.

    Attributes:
        topic: where it was to go.
        partition: where it was to go.
        size: bytes of its key and value.
    """

    def __init__(self, topic: str, partition: int, size: int) -> None:
        self.topic = topic
        self.partition = partition
        self.size = size
        super().__init__(
            f"a record of {size} bytes is too large for {topic}-{partition}\n"
            "hint: raise `max.message.bytes` of the topic and the client's `message.max.bytes`"
        )


__all__ = ["LogUnavailableError", "RecordTooLargeError"]
