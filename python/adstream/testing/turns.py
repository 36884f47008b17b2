"""Whose record is next, as in Kafka Streams' test driver, where one task reads all topics.

The topic with the earliest head comes first. Among equal times (all that one record causes tends to have its time) it is
decided by the queue that the original keeps: Java's binary heap, into which a topic comes when it gets its first record and
again when it was taken from and has more. So it is this heap, step by step.
"""

from __future__ import annotations

from adstream.interfaces import TopicPartition


class Turns:
    """Partitions with unread records, by the times of their heads."""

    def __init__(self, heap: list[tuple[int, TopicPartition]] | None = None) -> None:
        self._heap = list(heap or ())

    def __contains__(self, tp: TopicPartition) -> bool:
        return any(waiting == tp for _, waiting in self._heap)

    def __bool__(self) -> bool:
        return bool(self._heap)

    def copy(self) -> Turns:
        return Turns(self._heap)

    def offer(self, time: int, tp: TopicPartition) -> None:
        heap = self._heap
        heap.append((time, tp))
        at = len(heap) - 1
        while at > 0:
            parent = (at - 1) // 2
            if time >= heap[parent][0]:
                break
            heap[at], at = heap[parent], parent
        heap[at] = (time, tp)

    def poll(self) -> TopicPartition:
        heap = self._heap
        first = heap[0][1]
        last = heap.pop()
        if heap:
            at, half = 0, len(heap) // 2
            while at < half:
                child = 2 * at + 1
                if child + 1 < len(heap) and heap[child][0] > heap[child + 1][0]:
                    child += 1
                if last[0] <= heap[child][0]:
                    break
                heap[at], at = heap[child], child
            heap[at] = last
        return first
