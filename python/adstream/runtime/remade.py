"""A topic that was deleted and made again is another topic, although it has the same name.

A position in the one means nothing in the other, and nothing in Kafka says so: reading goes on where it was as soon as the
new topic is as long, and leaves out all that lies before. A position that is behind the end shows (`positions.py`), one that
is not does not. Brokers give each topic an id (KIP-516), which tells them apart. So what an application has positions in is
kept with its ids in the manifest, of its first start on, and looked at

    at each start      before anything is made, read or written (`check_ids`)
    while it runs      every some seconds, beside the worker (`Remade`): what was skipped meanwhile may be committed, and the
                       worker ends with the same error that every later start has, until somebody decides

A topic that is deleted and not made again is told in the same look: who reads it would wait for records for ever, in good
health, and who writes it would abort one commit after the other. An input that gets more partitions, too: a start is refused
then (`manifest.py`), and who runs would never read the new ones. So is a global table's topic that does. And the topic by which
workers share tasks (`<app>-tasks`): without it the group gives nobody anything, and workers would stand still in good health.
It holds nothing, so a start makes it anew.

These looks also tell a log that is away from one that has nothing new: a worker that waits for records meets no error
(`silent_s`).

Which topics: inputs, shuffles, changelogs, topics of rules (how far a task has heard is part of its state), and what sinks
are written from, whose positions lie in targets that outlive any topic. Global tables are read whole at each start: of their
topics it is enough that a worker looks while it runs. A log without ids (Kafka before 2.8, a broker that may not be asked) is
not judged.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from adstream.errors import ConfigError, LogUnavailableError
from adstream.interfaces import Log
from adstream.runtime.beside import Beside

log = logging.getLogger(__name__)

EVERY_MS = 2_000
MISSED_MAX = 3
SILENT_MS = 10_000
"""For so long a log may be busy before it counts as one that does not answer."""


def check_ids(
    app: str, before: Mapping[str, str], now: Mapping[str, str], there: Collection[str] | None = None
) -> None:
    """Raises ConfigError for topics that are not those that the application had.

    Args:
        before: topic -> id, as it was.
        now: topic -> id; those that are absent are not judged.
        there: the topics that exist; one that `before` has, and they have not, was deleted. None: not judged.
    """
    gone = sorted(topic for topic in before if there is not None and topic not in there)
    other = sorted(topic for topic, was in before.items() if now.get(topic, was) != was)
    if not gone and not other:
        return
    parts = [f"{_names(gone)} deleted"] if gone else []
    parts += [f"{_names(other)} deleted and made again"] if other else []
    raise ConfigError(
        f"since `{app}` began, {', '.join(parts)}: its positions and its state are of the former topic, and going on would"
        " leave records out, or count them twice",
        option="topics",
        hint=f"`adstream reset JOB` starts over with what there is now; or start under another application id (`--app {app}-2`)",
    )


def check_topics(
    log_: Log, app: str, signature: Mapping[str, Any] | None, topics: Collection[str], there: Collection[str]
) -> None:
    """Raises ConfigError, see `check_ids`.

    Args:
        signature: as stored (`manifest.py`); None: it has not run.
        topics: of the plan at hand; what became of others does not matter.
        there: the topics that exist.
    """
    known: Mapping[str, str] = {} if signature is None else signature.get("ids", {})
    before = {topic: id_ for topic, id_ in known.items() if topic in topics}
    check_ids(app, before, log_.topic_ids(sorted(before)), there)


def _names(topics: list[str]) -> str:
    return f"{', '.join(f'`{topic}`' for topic in topics)} {'was' if len(topics) == 1 else 'were'}"


class Remade:
    """Looks while a worker runs.

    Args:
        ids: topic -> id, of when it started.
        inputs: topic -> partitions; the same.
        tables: of global tables; the same.
        written: topics in which it has no positions, and which its commits need.
        leases: the topic by which workers share tasks.
        beside: where the log is asked: it may take seconds, and the worker has leases to look after.
    """

    def __init__(
        self,
        log_: Log,
        app: str,
        ids: Mapping[str, str],
        inputs: Mapping[str, int],
        tables: Mapping[str, int],
        written: Collection[str],
        leases: str,
        beside: Beside[Any],
    ) -> None:
        self._log, self._app, self._inputs, self._tables, self._beside = log_, app, inputs, tables, beside
        self._written = written
        self._leases, self._lease_id = leases, ids.get(leases)
        self._ids = {topic: id_ for topic, id_ in ids.items() if topic != leases}
        self._asked_ms: int | None = None
        self._unanswered_ms: int | None = None
        """When it was asked first of what has no answer yet."""
        self.silent_s: int | None = None
        """For how many seconds the log has not answered; None: it answers, or may still."""
        self._missed: dict[str, int] = {}
        """Topic that was there -> looks in a row that did not find it: a broker that is just starting may not know it."""

    def look(self, now_ms: int) -> None:
        """Without waiting. Raises ConfigError, see `check_ids`; or a topic has another number of partitions, or is gone."""
        try:
            found: tuple[Mapping[str, str], Mapping[str, int]] | None = self._beside.take()
        except LogUnavailableError as error:
            log.debug("topics could not be looked at, later then: %s", error)
            found = None
        if found is not None:
            if self.silent_s is not None:
                log.info("the log answers again")
            self._unanswered_ms = self.silent_s = None
            gone = self._gone({*found[0], *found[1]})
            check_ids(self._app, self._ids, found[0], self._ids.keys() - gone)
            if lost := sorted(gone.intersection(self._written)):
                raise ConfigError(
                    f"{_names(lost)} deleted, and nothing that is written there can be committed",
                    option="topics",
                    hint="`adstream topics create JOB` makes what is missing; then start the workers again: nothing is lost",
                )
            for topic, count in self._inputs.items():
                if (now := found[1].get(topic, count)) != count:
                    raise ConfigError(
                        f"input `{topic}` had {count} partitions and has {now}: nobody reads the new ones, and its keys are"
                        " spread anew, the state is not",
                        option="topics",
                        hint=f"start under another application id (`--app {self._app}-2`), or over (`adstream reset JOB`)",
                    )
            for topic, count in self._tables.items():
                if (now := found[1].get(topic, count)) != count:
                    raise ConfigError(
                        f"`{topic}` had {count} partitions and has {now}: the global table has nothing of the new ones",
                        option="topics",
                        hint="start the workers again: they read all there is",
                    )
            self._check_leases(found[0].get(self._leases), self._leases in gone)
        if not self._beside.busy and (self._asked_ms is None or now_ms - self._asked_ms >= EVERY_MS):
            self._asked_ms = now_ms
            if self._unanswered_ms is None:
                self._unanswered_ms = now_ms
            self._beside.submit(self._ask)
        if self._unanswered_ms is not None and now_ms - self._unanswered_ms >= SILENT_MS:
            before, self.silent_s = self.silent_s, (now_ms - self._unanswered_ms) // 1000
            if before is None:
                log.warning("the log has not answered for %d s", self.silent_s)

    def _gone(self, there: Collection[str]) -> set[str]:
        for topic in [*self._ids, *self._written, self._leases]:
            if topic in there:
                self._missed[topic] = 0
            elif topic in self._missed or topic in self._ids:
                self._missed[topic] = self._missed.get(topic, 0) + 1
        return {topic for topic, looks in self._missed.items() if looks >= MISSED_MAX}

    def _check_leases(self, now: str | None, gone: bool) -> None:
        if self._lease_id is None:
            return
        if gone or now not in (None, self._lease_id):
            what = "deleted" if now is None else "deleted and made again"
            raise ConfigError(
                f"`{self._leases}`, by which workers share tasks, was {what}: nobody would be given any",
                option="topics",
                hint="start the workers again, all of them: it is made anew, and nothing is lost",
            )

    def _ask(self) -> tuple[Mapping[str, str], Mapping[str, int]]:
        ids = self._log.topic_ids([*self._ids, self._leases])
        return ids, self._log.partitions([*{*self._ids, *self._inputs, *self._tables, *self._written}])

    def close(self) -> None:
        self._beside.close()
