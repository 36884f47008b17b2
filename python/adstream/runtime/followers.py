"""Who follows which changelogs: `standbys` other members for each task, chosen by everyone for himself, and alike by all.

Who gets the tasks of a member that is gone, the group's assignor decides: librdkafka's, which takes no hints. But it is
sticky: what lives keeps what it has, and each free task, the highest first, goes to whoever has fewest; among equals, to the
first by name. So the heirs are known beforehand, as long as one member goes at a time:

    members a: 0 1    b: 2 3    c: 4 5          b goes: task 3 to a (2 of a, 2 of c), then task 2 to c (3 of a, 2 of c)
                                                so a follows 3, c follows 2; the second standbys are the other way round

What a member gets that joins is known as well: until nobody has two tasks more than it, whoever has most (the last by name)
gives the lowest of its own. So a worker may follow them before it joins (`Worker`), and has them when they are granted.

It is a forecast and never a promise: two that go at once, a member that joins, another assignor (`group.protocol=consumer`)
do differently. Who is granted a task that he has not followed restores it, as without standbys. When there are as many
standbys as there are other members, everybody follows everything, and no forecast is needed.
"""

from __future__ import annotations

from collections.abc import Mapping


def heirs(tasks: Mapping[str, tuple[int, ...]], owner: str) -> dict[int, list[str]]:
    """Who would have each task of `owner` if it went: the first is expected to get it, the others would be next."""
    load = {member: len(owned) for member, owned in tasks.items() if member != owner}
    found: dict[int, list[str]] = {}
    for task in sorted(tasks[owner], reverse=True):
        found[task] = sorted(load, key=lambda member: (load[member], member))
        if found[task]:
            load[found[task][0]] += 1
    return found


def followed(tasks: Mapping[str, tuple[int, ...]], me: str, standbys: int) -> set[int]:
    """The tasks of others that `me` follows; who is no member yet: those that it would be given."""
    if me not in tasks:
        return share(tasks)
    others = (owner for owner in tasks if owner != me)
    return {task for owner in others for task, next_ in heirs(tasks, owner).items() if me in next_[:standbys]}


def share(tasks: Mapping[str, tuple[int, ...]]) -> set[int]:
    """What one more member would be given."""
    left = {member: sorted(owned) for member, owned in tasks.items()}
    given: set[int] = set()
    while left:
        richest = max(left, key=lambda member: (len(left[member]), member))
        if len(left[richest]) <= len(given) + 1:
            break
        given.add(left[richest].pop(0))
    return given
