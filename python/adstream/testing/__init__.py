"""Testing topologies: the real engine on a log in memory, no broker."""

from adstream.testing.driver import DeadLetter, Input, Output, RawRecord, Record, TopologyTestDriver
from adstream.testing.mock import CapturedForward, CapturedPunctuator, MockProcessorContext
from adstream.testing.tracing import TracedEvent

__all__ = [
    "CapturedForward",
    "CapturedPunctuator",
    "DeadLetter",
    "Input",
    "MockProcessorContext",
    "Output",
    "RawRecord",
    "Record",
    "TopologyTestDriver",
    "TracedEvent",
]
