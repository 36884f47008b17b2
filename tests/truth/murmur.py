"""Java's murmur2 and the partition it gives, by the words of its source, in plain Python."""

from __future__ import annotations

M = 0x5BD1E995
WORD = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    h = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * M & WORD
        k = (k ^ k >> 24) * M & WORD
        h = h * M & WORD ^ k
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * M & WORD
    h = (h ^ h >> 13) * M & WORD
    return h ^ h >> 15


def javas_partition(key: bytes, partitions: int) -> int:
    return (murmur2(key) & 0x7FFFFFFF) % partitions
