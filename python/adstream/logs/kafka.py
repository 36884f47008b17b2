"""Kafka as a `Log`: topics and offsets here, the rest in `kafka_reader`, `kafka_writer` and `kafka_leases`.

Three things that are not obvious:
* The end that a restore must reach is the high watermark (`read_uncommitted`): the committed end (last
  stable offset) may lie before the last commit while some transaction is open, and reading to it loses state.
* A dead worker's open transaction blocks its successor. Committed offsets are then unstable under
  `read_committed`, and silently *old* under `read_uncommitted`. So each commit notes its transactional id
  and member id in the offset's metadata, and `committed` opens the ids of members that are gone, which
  fences them and aborts what they left (0.6 s instead of 15). A worker that was started again in the same
  place has a new member id: so members also show, in their `client.id`, which transactional id they hold.
* Everything here that a worker calls returns or raises within some seconds, whatever the broker does: the
  worker has other tasks and leases to look after, and asks again. librdkafka's own time-outs do not ensure
  that, futures of the admin client may never be done: each has a bound of ours.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar
from weakref import WeakSet

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from adstream.errors import ConfigError
from adstream.interfaces import Leases, Log, Reader, TopicSpec, Writer
from adstream.interfaces import TopicPartition as Where
from adstream.logs import LogUnavailableError, kafka_producer
from adstream.logs.kafka_client import (
    CLIENT,
    error_of,
    logger,
    of_admin,
    of_consumer,
    of_producer,
    plain,
    quiet,
    wrong_setting,
)
from adstream.logs.kafka_leases import Fence, KafkaLeases
from adstream.logs.kafka_reader import KIND, choose, open_reader
from adstream.logs.kafka_writer import KafkaWriter, fence_slot, holder, holds, noted

CONNECT_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 15.0
GROUP_TIMEOUT_S = 3.0
USABLE_TIMEOUT_S = 30.0
"""For new topics to be led by somebody."""
ANSWER_TIMEOUT_S = 10.0
STABLE_TIMEOUT_S = 4.0
PATIENCE_S = 1.0
"""A living worker's commit is over by then."""
GRACE_S = 1.0
"""For a future, after the time-out that its call was given."""
HANGING_S = 60.0
"""More than a transaction's time-out and the broker's interval for looking at it."""
PAUSE_S = 0.02
BATCH_BYTES = 1_000_000
"""librdkafka's default."""

T = TypeVar("T")

# What passes when a broker or a coordinator has just moved or started.
PASSING = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._WAIT_COORD,
        KafkaError._NOENT,  # "no leaders found": the broker has just come back
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
ABSENT = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART})
UNTOLD = ABSENT | {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._UNSUPPORTED_FEATURE}
NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"
"""All zero bits: the broker is older than ids are."""
OCCUPIED = frozenset({KafkaError.NON_EMPTY_GROUP, KafkaError.UNKNOWN_MEMBER_ID})
UNSTABLE = PASSING | {KafkaError.UNSTABLE_OFFSET_COMMIT}
LEADER_MOVED = frozenset(
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
    }
)


def metadata_of(part: TopicPartition) -> str | None:
    """The text beside an offset; None where it cannot be read: somebody else's may have no end that this client finds."""
    try:
        return part.metadata
    except UnicodeDecodeError:
        return None


class KafkaLog(Log):
    """Raises ConfigError for a broker that cannot be reached, LogUnavailableError when one stops answering
    later."""

    def __init__(
        self,
        bootstrap: str,
        settings: Mapping[str, str] | None = None,
        *,
        reader: str | None = None,
        writer: str | None = None,
        headers: bool = True,
        session_ms: int | None = None,
        release_timeout_s: float | None = None,
        watchdog_s: float | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        option: str = "--bootstrap",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`settings`: client settings of librdkafka, with or without `kafka.` in front. `headers`: whether
        readers deliver them. `reader`: `fetch`, `native` or `portable` (see `kafka_reader`); None: the setting
        `adstream.reader`, or else the cheapest that can honour the settings. `writer`: `native` or `portable` (see
        `kafka_producer`); None: the setting `adstream.writer`, or else `native`. `option`: what said `bootstrap`."""
        self._settings = {"bootstrap.servers": bootstrap, **CLIENT, **plain(settings or {})}
        wanted = self._settings.pop(KIND, None)
        self._writer = kafka_producer.choose(writer or self._settings.pop(kafka_producer.KIND, None))
        self._reader = choose(of_consumer(self._settings), reader or wanted)
        self._headers = headers
        self._clock = clock
        self._sleep = sleep
        given = {"session_ms": session_ms, "release_timeout_s": release_timeout_s, "watchdog_s": watchdog_s}
        self._lease_options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        self._writers: WeakSet[KafkaWriter] = WeakSet()
        self._held_since: dict[str, float] = {}
        """Groups whose offsets a transaction holds back."""
        self._batch_bytes = BATCH_BYTES
        """The smallest limit of the topics whose settings were asked for."""
        self._lock = threading.Lock()
        self._askers: dict[tuple[str, bool], Consumer] = {}
        problems: list[str] = []
        try:
            if of_consumer(self._settings) != of_admin(self._settings):  # the admin client would not find them wrong
                Consumer(quiet({**of_consumer(self._settings), "group.id": "adstream"})).close()
            self._admin = AdminClient(quiet(of_admin(self._settings), problems.append))
        except KafkaException as problem:
            raise wrong_setting(str(error_of(problem).str())) from problem
        try:
            self._admin.list_topics(timeout=connect_timeout_s)
        except KafkaException as problem:
            self._admin.poll(0)
            why = next((p for p in problems if "brokers are down" not in p), str(error_of(problem).str()))
            raise ConfigError(
                f"no Kafka broker answered at {bootstrap} within {connect_timeout_s:.0f} s ({why})",
                option=option,
                hint="check that the broker runs and that the address is the one it advertises; one that wants TLS or SASL"
                " may just hang up: `-X kafka.security.protocol=SASL_SSL`",
            ) from problem

    # Topics.

    def create_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        there = self.partitions([spec.name for spec in specs])
        missing = [spec for spec in specs if spec.name not in there]
        made: list[str] = []
        if missing:
            new = [NewTopic(s.name, s.partitions, replication_factor=-1, config=dict(s.config)) for s in missing]
            for name, future in self._admin.create_topics(new, request_timeout=CALL_TIMEOUT_S).items():
                try:
                    future.result(CALL_TIMEOUT_S + GRACE_S)
                    made.append(name)
                except KafkaException as problem:
                    error = error_of(problem)
                    if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another worker was quicker
                        raise ConfigError(
                            f"cannot create the topic: {error.str()}", option=f"topic {name}"
                        ) from problem
                except TimeoutError as problem:
                    raise LogUnavailableError(f"cannot create the topic {name}: nobody answers") from problem
        deadline = self._clock() + USABLE_TIMEOUT_S
        while True:
            usable = self._usable()
            if all(spec.name in usable for spec in specs):
                break
            if self._clock() > deadline:
                late = [spec.name for spec in specs if spec.name not in usable]
                raise LogUnavailableError(f"these topics have no leader after {USABLE_TIMEOUT_S:.0f} s: {late}")
            self._sleep(PAUSE_S)
        for spec in specs:
            if usable[spec.name] != spec.partitions:
                raise ConfigError(
                    f"the topic has {usable[spec.name]} partitions where {spec.partitions} are needed",
                    option=f"topic {spec.name}",
                    hint="its records are spread by the old number: start under another name, or delete it",
                )
        return made

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        def ask() -> dict[str, int]:
            there = self._topics()
            for topic in (there[name] for name in topics if name in there):
                # It exists: a topic that is just being made, or whose leader has just come back, is not a missing one.
                if topic.error is not None and topic.error.code() in PASSING - ABSENT:
                    raise KafkaException(topic.error)
            return {name: len(there[name].partitions) for name in topics if name in there and not there[name].error}

        return self._patiently(ask, "count partitions")

    def _topics(self) -> dict[str, Any]:
        # All are listed: asking for one by name could make a broker create it.
        return self._patiently(lambda: self._admin.list_topics(timeout=CALL_TIMEOUT_S).topics, "list the topics")

    def _usable(self) -> dict[str, int]:
        ready = {
            name: topic
            for name, topic in self._topics().items()
            if not topic.error
            and topic.partitions
            and all(p.error is None and p.leader >= 0 for p in topic.partitions.values())
        }
        return {name: len(topic.partitions) for name, topic in ready.items()}

    def delete_records(self, before: Mapping[Where, int]) -> None:
        if not before:
            return
        parts = [TopicPartition(topic, partition, offset) for (topic, partition), offset in before.items()]

        def ask() -> None:
            _results(self._admin.delete_records(parts, request_timeout=CALL_TIMEOUT_S))

        self._patiently(ask, "delete records")

    def topic_settings(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """A topic whose settings may not be read (an ACL) is left out."""
        there = self._topics()
        asked = {ConfigResource(ConfigResource.Type.TOPIC, t): t for t in topics if t in there}
        found: dict[str, dict[str, str]] = {}
        for resource, future in self._admin.describe_configs(list(asked), request_timeout=CALL_TIMEOUT_S).items():
            topic = asked[resource]
            try:
                found[topic] = {name: str(entry.value) for name, entry in future.result().items()}
            except KafkaException as problem:
                logger.info("settings of %s cannot be read: %s", topic, problem)
                continue
            if replicas := [len(p.replicas) for p in there[topic].partitions.values()]:
                found[topic]["replication.factor"] = str(min(replicas))
            self._batch_bytes = min(self._batch_bytes, int(found[topic].get("max.message.bytes", BATCH_BYTES)))
        return found

    def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        def ask() -> dict[str, str]:
            if not topics:
                return {}
            found: dict[str, str] = {}
            asked = self._admin.describe_topics(TopicCollection(list(topics)), request_timeout=CALL_TIMEOUT_S)
            for topic, future in asked.items():
                try:
                    found[topic] = str(future.result(CALL_TIMEOUT_S + GRACE_S).topic_id)
                except KafkaException as problem:
                    if error_of(problem).code() not in UNTOLD:
                        raise
            return {topic: id_ for topic, id_ in found.items() if id_ != NO_ID}

        return self._patiently(ask, "look at the topics' ids")

    # Offsets.

    def start_offsets(self, partitions: Sequence[Where]) -> dict[Where, int]:
        return self._list_offsets(partitions, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)  # type: ignore[no-untyped-call]

    def end_offsets(self, partitions: Sequence[Where], *, committed: bool) -> dict[Where, int]:
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        return self._list_offsets(partitions, OffsetSpec.latest(), level)  # type: ignore[no-untyped-call]

    def _list_offsets(self, partitions: Sequence[Where], spec: OffsetSpec, level: IsolationLevel) -> dict[Where, int]:
        if not partitions:
            return {}

        def ask() -> dict[Where, int]:
            wanted = {TopicPartition(*where): spec for where in partitions}
            got = self._admin.list_offsets(wanted, isolation_level=level, request_timeout=CALL_TIMEOUT_S)
            found = {(where.topic, where.partition): result.offset for where, result in _results(got)}
            for (topic, partition), offset in found.items():
                # No error, and no offset either: the broker died while it answered. As the end of a changelog it would
                # mean that there is nothing to restore.
                if offset < 0:
                    raise KafkaException(KafkaError(KafkaError._TRANSPORT, f"{topic}-{partition} has no offset"))
            return found

        return self._patiently(ask, "list offsets")

    def committed(self, group: str, partitions: Sequence[Where]) -> dict[Where, int | None]:
        """Waits, or settles, for some seconds; raises LogUnavailableError then, and may be asked again."""
        began = self._clock()
        tried: set[str] = set()
        while partitions:
            found = self._stable(group, partitions)
            if found is not None:
                self._held_since.pop(group, None)
                return found
            self._coordinated(group)  # is somebody there at all? Else it is no transaction that holds them back
            now = self._clock()
            held_s = now - self._held_since.setdefault(group, began)
            if now - began > STABLE_TIMEOUT_S:
                hint = "it ends at the latest with its time-out, 15 s by default"
                if held_s > HANGING_S:
                    hint = "find its transactional id with `kafka-transactions.sh find-hanging`"
                raise LogUnavailableError(
                    f"a transaction has held back offsets in {group} for {held_s:.0f} s\nhint: {hint}"
                )
            if now - began > PATIENCE_S:
                self._settle(group, tried)
            self._sleep(PAUSE_S)
        return {}

    def _stable(self, group: str, partitions: Sequence[Where]) -> dict[Where, int | None] | None:
        """None: a transaction holds some of them back, or nobody answers."""
        try:
            parts = self._asker(group, stable=True).committed([TopicPartition(*w) for w in partitions], PATIENCE_S)
        except KafkaException as problem:
            error = error_of(problem)
            if error.code() in UNSTABLE or error.retriable():
                return None
            raise LogUnavailableError(f"offsets in {group}: {error.name()}: {error.str()}") from problem
        failed = [part for part in parts if part.error is not None]
        for part in failed:
            if part.error is not None and part.error.code() not in UNSTABLE:
                raise LogUnavailableError(f"offset of {part.topic}-{part.partition} in {group}: {part.error}")
        return None if failed else {(p.topic, p.partition): p.offset if p.offset >= 0 else None for p in parts}

    def _asker(self, group: str, *, stable: bool) -> Consumer:
        """Joins nothing. Not the admin client: with librdkafka 2.16 its calls to a group's coordinator, once asked
        while the broker is away, time out for ever, or abort the process (`eonce->refcnt > 0`, librdkafka 5397)."""
        with self._lock:
            if (group, stable) not in self._askers:
                level = "read_committed" if stable else "read_uncommitted"
                config = {**of_consumer(self._settings), "group.id": group, "enable.auto.commit": "false"}
                self._askers[group, stable] = Consumer({"log_level": "2", **config, "isolation.level": level})
            return self._askers[group, stable]

    def _coordinated(self, group: str) -> None:
        """Returns when the group has a coordinator that answers; raises LogUnavailableError when it has none for some
        seconds."""
        asker = self._asker(group, stable=False)
        self._patiently(
            lambda: asker.committed([TopicPartition("adstream", 0)], GROUP_TIMEOUT_S),
            f"reach the coordinator of {group}",
            GROUP_TIMEOUT_S,
        )

    def _settle(self, group: str, tried: set[str]) -> None:
        """Fences whoever committed in this group and is no longer its member; ourselves and the living
        never."""
        notes = {noted(metadata_of(part)) for part in self._all_offsets(group)}
        own = {writer.slot for writer in self._writers if not writer.closed}
        found = {note for note in notes if note is not None and note[0] not in own and note[0] not in tried}
        if not found:
            return
        living = self._members(group)
        # A slot may have been taken over: it is dead only if none of its members lives.
        slots = {slot for slot, _ in found} - {slot for slot, member in found if member in living}
        for slot in sorted(slots):
            tried.add(slot)
            if any(holds(client, slot) for client in living.values()):
                continue  # somebody started again: whatever its former self left open, it has settled itself
            logger.info("%s left a transaction open and is fenced", slot)
            fence_slot(of_producer(self._settings), slot, self._clock)

    # For applications that do not run.

    def topics(self) -> list[str]:
        return sorted(self._topics())

    def members(self, group: str) -> list[str]:
        return sorted(f"{client} ({member})" for member, client in self._members(group).items())

    def delete_topics(self, topics: Sequence[str]) -> None:
        there = self._topics()
        going = [topic for topic in topics if topic in there]
        if not going:
            return
        for topic, future in self._admin.delete_topics(going, request_timeout=CALL_TIMEOUT_S).items():
            try:
                future.result(CALL_TIMEOUT_S + GRACE_S)
            except KafkaException as problem:
                error = error_of(problem)
                if error.code() not in ABSENT:
                    raise ConfigError(f"cannot delete the topic: {error.str()}", option=f"topic {topic}") from problem
            except TimeoutError as problem:
                raise LogUnavailableError(f"cannot delete the topic {topic}: nobody answers") from problem
        deadline = self._clock() + USABLE_TIMEOUT_S
        while left := sorted(set(going) & set(self._topics())):
            if self._clock() > deadline:
                raise LogUnavailableError(f"these topics are not gone after {USABLE_TIMEOUT_S:.0f} s: {left}")
            self._sleep(PAUSE_S)

    def offsets_at(self, times: Mapping[Where, int]) -> dict[Where, int]:
        if not times:
            return {}

        def ask() -> dict[Where, int]:
            wanted = {TopicPartition(*where): OffsetSpec.for_timestamp(at) for where, at in times.items()}
            level = IsolationLevel.READ_UNCOMMITTED
            got = self._admin.list_offsets(wanted, isolation_level=level, request_timeout=CALL_TIMEOUT_S)
            return {(where.topic, where.partition): result.offset for where, result in _results(got)}

        found = self._patiently(ask, "list offsets")
        later = [where for where, offset in found.items() if offset < 0]  # there is no record of that time, or later
        return found | self.end_offsets(later, committed=True)

    def reset_group(self, group: str, positions: Mapping[Where, int]) -> None:
        def forget() -> None:
            admin = self._new_admin()  # whose end would leave the future open
            futures = admin.delete_consumer_groups([group], request_timeout=GROUP_TIMEOUT_S)
            futures[group].result(GROUP_TIMEOUT_S + GRACE_S)

        try:
            self._patiently(lambda: _unless_absent(forget), f"reset the group {group}")
            if positions:
                parts = [TopicPartition(*where, offset) for where, offset in positions.items()]
                self._patiently(lambda: self._commit_unfenced(group, parts), f"reset the group {group}")
        except LogUnavailableError as problem:
            cause = problem.__cause__
            if isinstance(cause, KafkaException) and error_of(cause).code() in OCCUPIED:
                raise ConfigError(
                    f"the group `{group}` has members", option="group", hint="stop them first"
                ) from problem
            raise

    def _members(self, group: str) -> dict[str, str]:
        """Member id -> client id."""

        def ask() -> dict[str, str]:
            admin = self._new_admin()  # whose end would leave the future open
            futures = admin.describe_consumer_groups([group], request_timeout=GROUP_TIMEOUT_S)
            members = futures[group].result(GROUP_TIMEOUT_S + GRACE_S).members
            return {member.member_id: member.client_id for member in members}

        return self._patiently(ask, f"describe the group {group}", GROUP_TIMEOUT_S)

    def _all_offsets(self, group: str) -> list[TopicPartition]:
        """As they are without the transactions that are open."""

        def ask() -> list[TopicPartition]:
            wanted = [ConsumerGroupTopicPartitions(group)]
            admin = self._new_admin()
            futures = admin.list_consumer_group_offsets(wanted, request_timeout=GROUP_TIMEOUT_S)
            return list(futures[group].result(GROUP_TIMEOUT_S + GRACE_S).topic_partitions)

        return self._patiently(ask, f"read the offsets of {group}", GROUP_TIMEOUT_S)

    def _new_admin(self) -> AdminClient:
        """For one call to a coordinator, see `_asker`; connected, so that it is not asked while nobody is there."""
        admin = AdminClient(quiet(of_admin(self._settings)))
        admin.list_topics(timeout=GROUP_TIMEOUT_S)
        return admin

    def _commit_unfenced(self, group: str, parts: list[TopicPartition]) -> None:
        wanted = [ConsumerGroupTopicPartitions(group, parts)]
        futures = self._admin.alter_consumer_group_offsets(wanted, request_timeout=CALL_TIMEOUT_S)
        for part in futures[group].result(CALL_TIMEOUT_S + GRACE_S).topic_partitions:
            if part.error is not None:
                raise KafkaException(part.error)

    def _patiently(self, ask: Callable[[], T], what: str, timeout_s: float = ANSWER_TIMEOUT_S) -> T:
        """Asks again while the cluster is settling; the last question begins before `timeout_s`."""
        deadline = self._clock() + timeout_s
        while True:
            try:
                return ask()
            except TimeoutError as problem:
                if self._clock() > deadline:
                    raise LogUnavailableError(f"cannot {what}: nobody answers") from problem
            except KafkaException as problem:
                error = error_of(problem)
                if (error.code() not in PASSING and not error.retriable()) or self._clock() > deadline:
                    raise LogUnavailableError(f"cannot {what}: {error.name()}: {error.str()}") from problem
                self._sleep(PAUSE_S)
                if error.code() in LEADER_MOVED:
                    with contextlib.suppress(KafkaException):
                        self._admin.list_topics(timeout=CALL_TIMEOUT_S)  # what it remembers is of before

    # The rest.

    def reader(self) -> Reader:
        return open_reader(self._reader, of_consumer(self._settings), headers=self._headers)

    def writer(self, slot: str, *, exactly_once: bool = True) -> Writer:
        # A topic's limit is one of batches. librdkafka fills them up to its own, and what a broker refuses for its size it
        # does not split (as Java's client does): it would be refused for ever.
        batch = {"batch.size": str(self._batch_bytes)} if self._batch_bytes < BATCH_BYTES else {}
        writer = KafkaWriter(
            batch | of_producer(self._settings),
            slot,
            exactly_once=exactly_once,
            kind=self._writer,
            unfenced=self._commit_unfenced,
            coordinated=self._coordinated,
            clock=self._clock,
            sleep=self._sleep,
        )
        self._writers.add(writer)
        return writer

    def leases(self, group: str, topic: str) -> Leases:
        settings = of_consumer(self._settings)
        slots = [writer.slot for writer in self._writers if writer.exactly_once and not writer.closed]
        if len(slots) == 1:
            settings["client.id"] = holder(settings["client.id"], slots[0])
        options = {"clock": self._clock, "sleep": self._sleep, **self._lease_options}
        return KafkaLeases(settings, group, topic, admin=self._new_admin, **options)

    def close(self) -> None:
        self._admin.poll(0)
        with self._lock:
            askers, self._askers = self._askers, {}
        for asker in askers.values():
            asker.close()


def _unless_absent(forget: Callable[[], None]) -> None:
    try:
        forget()
    except KafkaException as problem:
        if error_of(problem).code() != KafkaError.GROUP_ID_NOT_FOUND:
            raise


def _results(futures: Mapping[TopicPartition, Future[Any]]) -> list[tuple[TopicPartition, Any]]:
    return [(where, future.result(CALL_TIMEOUT_S + GRACE_S)) for where, future in futures.items()]


__all__ = ["Fence", "KafkaLeases", "KafkaLog", "KafkaWriter"]
