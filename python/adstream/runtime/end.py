"""When a run that stops at the end of its inputs is over.

The *end* is what stood in the user's topics at the start; nothing behind it is read. The run is over when all that
follows from those records has reached its last place. Said by the log alone, so that it holds for several workers:

    level 0     committed position >= the end that stood at the start, of every user source
    level 1     committed position >= the very end, of every edge that level 0 writes
    …           asked one level after the other: outputs and positions are one commit, so once a level is processed, the
                ends of the next can no longer move
    sinks       position in the target >= the very end of their topics, whoever has their tasks: a worker that has none
                of them (yet) knows nothing of the rows that a crash left between a commit and its flush

Tasks that feed one another (a foreign-key join asks and is answered) are one level, whose ends can move as long as any of
them works. So positions are asked for first and ends after: outputs are written no later than positions are committed, so
if all positions then were at the ends now, every record there is had been worked off by then, and nothing is on its way.

and by this worker for itself, before it asks the log: no commit is under way, nothing is being restored, nothing is
buffered, and the last generation of each of its tasks was empty (a million windows may close over several commits
after the last input).

A worker that is finished leaves; should it own leases of what others still have to do, they move to those.
"""

from __future__ import annotations

from collections.abc import Mapping

from adstream.interfaces import Log, TopicPartition
from adstream.runtime.assignment import Assignment


class EndOfInput:
    def __init__(self, log: Log, assignment: Assignment) -> None:
        self._log, self._assignment = log, assignment
        sources = [(topic, p) for topic in assignment.user_sources for p in range(assignment.partitions[topic])]
        self.limits: Mapping[TopicPartition, int] = log.end_offsets(sources, committed=True)
        """Where reading stops."""

    def streams_reached(self, group: str) -> bool:
        return all(self._level_reached(group, level) for level in self._assignment.levels)

    def _level_reached(self, group: str, level: tuple[TopicPartition, ...]) -> bool:
        edges = [tp for tp in level if tp not in self.limits]
        committed = self._log.committed(group, level)  # before the ends: see the head of this module
        unread = [tp for tp in level if committed.get(tp) is None]
        starts = self._log.start_offsets(unread) if unread else {}
        ends = {**self.limits, **(self._log.end_offsets(edges, committed=False) if edges else {})}
        return all((committed.get(tp) or starts.get(tp, 0)) >= ends[tp] for tp in level)

    def sink_reached(self, topic: str, stored: Mapping[int, int]) -> bool:
        """Whether a sink has stored all there is in these partitions."""
        ends = self._log.end_offsets([(topic, p) for p in stored], committed=False)
        return all(stored[p] >= end for (_, p), end in ends.items())
