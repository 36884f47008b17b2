"""Where a task's inputs go on, held against what the log still has.

    committed position           the log has [start, end)        what follows
    none                         start = 0                       a new application begins at the first record, or where
                                                                 `offset_reset` of the source says (`first_positions`)
    none                         start > 0                       the same, and a warning: older records were deleted
    start <= position <= end                                     goes on
    position < start             deleted before it was read      an error: the task is set aside
    position > end               made again, or truncated        the same

Never a jump from a position, as `auto.offset.reset` would: what is missing would be missing in every sum from then on, and nobody
would know. (Internal topics are deleted up to committed positions, so the rule is the same for them.)

Sinks keep their positions in their targets, which may outlive the log: files replayed in memory, a broker set up anew. Such a
position means nothing in the new log, and going on from it would leave out all that lies before. It shows at the start, before
anything is written: no target is ahead of the log that it is written from (`check_target`), and where the log has ids of
topics, the target has noted which one its positions are of (`check_topic`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from adstream.errors import ConfigError, FatalError
from adstream.interfaces import Log, TopicPartition

log = logging.getLogger(__name__)

HINT = (
    "hint: stop all workers and set the group's offsets to where reading may go on"
    " (`kafka-consumer-groups.sh --reset-offsets`), or start under a new application id; what was deleted is missing"
    " in the results either way"
)
_OTHER_LOG = "`adstream reset` forgets where it was, rows stay; or take another database or id (`--app {app}-2`)"


def first_positions(
    log_: Log,
    starts: Mapping[str, str | int],
    unread: Sequence[TopicPartition],
    now_ms: int,
    chosen: dict[TopicPartition, int],
) -> dict[TopicPartition, int]:
    """Where inputs begin that have no committed position. As `StreamThread.resetOffsets`: what is to begin at a time begins at
    its end if no record is that new. Raises FatalError for one that is to begin nowhere.

    Args:
        starts: topic -> `earliest` (the default), `latest`, `none`, or how far back from `now_ms`.
        chosen: what was found before, for the same life of a task; added to.
    """
    new = [tp for tp in unread if tp not in chosen]
    of = {tp: starts.get(tp[0], "earliest") for tp in new}
    if nowhere := sorted({topic for topic, _ in new if starts.get(topic) == "none"}):
        raise FatalError(
            f"there is no committed position of {', '.join(f'`{topic}`' for topic in nowhere)}, and it has"
            ' `offset_reset="none"`\nhint: set the group\'s offsets to where reading is to begin'
            " (`kafka-consumer-groups.sh --reset-offsets`), or choose another `offset_reset`"
        )
    if first := [tp for tp in new if of[tp] == "earliest"]:
        chosen |= log_.start_offsets(first)
    if last := [tp for tp in new if of[tp] == "latest"]:
        chosen |= log_.end_offsets(last, committed=True)
    if aged := {tp: now_ms - back for tp, back in of.items() if isinstance(back, int)}:
        chosen |= log_.offsets_at(aged)
    return {tp: chosen[tp] for tp in unread}


def check_positions(
    log_: Log, group: str, positions: Mapping[TopicPartition, int], unread: Collection[TopicPartition]
) -> None:
    """Raises FatalError for a committed position that the log does not have.

    Args:
        positions: where the inputs are to go on.
        unread: those of them that never had a committed position.
    """
    inputs = list(positions)
    starts = log_.start_offsets(inputs)
    ends = log_.end_offsets(inputs, committed=False)
    for tp in unread:
        if starts[tp] > 0:
            log.warning(
                "`%s` [%d] begins at %d: what lay before was deleted before this application first read it",
                *tp,
                starts[tp],
            )
    # A former owner may have gone on, and let the log forget, between the two looks: then it has committed that, too.
    off = [tp for tp in inputs if tp not in unread and not starts[tp] <= positions[tp] <= ends[tp]]
    now = log_.committed(group, off) if off else {}
    for (topic, partition), position in now.items():
        start, end = starts[topic, partition], ends[topic, partition]
        if position is not None and position < start:
            raise FatalError(
                f"records {position} to {start - 1} of `{topic}` [{partition}] were deleted before they were read\n{HINT}"
            )
        if position is not None and position > end:
            end = log_.end_offsets([(topic, partition)], committed=False)[topic, partition]
            if position > end:
                raise FatalError(
                    f"position {position} of `{topic}` [{partition}] lies behind its end, {end}:"
                    f" was the topic deleted and made again?\n{HINT}"
                )


def check_target(log_: Log, app: str, topic: str, stored: Mapping[int, int], option: str) -> None:
    """Raises ConfigError, naming `option`, for a target that was written from another log.

    Args:
        topic: the sink's.
        stored: the target's positions, asked for before: other workers go on, and the log's end with them.
    """
    ends = log_.end_offsets([(topic, partition) for partition in stored], committed=False)
    for partition, position in stored.items():
        if position > (end := ends[topic, partition]):
            raise ConfigError(
                f"written from another log: it has rows up to {position} of `{topic}` [{partition}], which ends at {end}",
                option=option,
                hint=_OTHER_LOG.format(app=app),
            )


def check_topic(app: str, topic: str, topic_id: str, noted: str, option: str) -> None:
    """The same for one whose positions do not show it.

    Args:
        topic_id: of the sink's topic, in this log.
        noted: of the one that the target was written from.
    """
    if noted != topic_id:
        raise ConfigError(
            f"written from another log: its rows are of a former `{topic}`, or one elsewhere (id {noted}, and here {topic_id})",
            option=option,
            hint=_OTHER_LOG.format(app=app),
        )
