"""Tables: one value per key, as in Kafka Streams.

A table may have a store or be a *view*, which computes its values from another table whenever somebody asks: then
functions run more than once for one record, and must be pure. It gets a store when it is given a name, or when an
operation behind needs one. Old values travel only if an operation behind needs them (`send_old`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from adstream.dsl import flow, natives, serdes
from adstream.dsl.expr import Expr
from adstream.dsl.faults import fault
from adstream.dsl.flow import Materialized
from adstream.dsl.graph import Graph, Node, Port, check_name
from adstream.dsl.kstream import Flowing, Fn, KStream, across, aggregate_fold, repartition
from adstream.dsl.store import StoreBuilder

if TYPE_CHECKING:
    from adstream.dsl.suppressed import Suppressed

Getter = dict[str, Any]


class KTable:
    """The newest value of each key. In Kafka Streams: `KTable`."""

    def __init__(
        self,
        flowing: Flowing,
        *,
        store: str | None = None,
        parents: tuple[KTable, ...] = (),
        getter: Callable[[], Getter] | None = None,
        materialize: Callable[[], str] | None = None,
        versioned: bool = False,
    ) -> None:
        self._flowing = flowing
        self._store = store
        self._parents = parents
        self._getter = getter
        self._materialize = materialize
        self._versioned = versioned
        """Changes may tell older versions (`latest` is false then)."""

    @property
    def _graph(self) -> Graph:
        return self._flowing.graph

    @property
    def _node(self) -> Node:
        return self._graph.nodes[self._flowing.port[0]]

    @property
    def queryable_store_name(self) -> str | None:
        """The name that its store was given; None for a view, and for a store that was given none."""
        named = any(store["name"] == self._store and store["queryable"] for store in self._graph.stores)
        return self._store if named else None

    def named(self, name: str) -> Self:
        """Names the operation just made. In Kafka Streams: `Named.as`."""
        self._graph.rename(self._node, name)
        return self

    def on_error(self, what: flow.OnError) -> Self:
        """What becomes of records that fail at the operation just made, in place of what `App.on_error` says."""
        self._node.parameters["on_error"] = flow.on_error(self._graph, what)
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._node.name}>"

    # --- What operations behind need ------------------------------------------------------------------------------

    def _lookup(self) -> Getter:
        """How its present value is found."""
        if self._store is None and self._materialize is not None:
            self._store = self._materialize()
        if self._store is not None:
            return {"store": self._store}
        assert self._getter is not None
        return self._getter()

    def _lookup_stores(self) -> list[str]:
        """The stores that a lookup reads."""
        return _stores_in(self._lookup())

    def _send_old(self, force: bool = True) -> bool:
        """Makes changes carry old values; whether they do. `force`: a topic's table gets a store for it."""
        node = self._node
        if node.parameters.get("send_old"):
            return True
        if self._store is None and self._materialize is not None:
            if not force:
                return False
            self._store = self._materialize()
        elif self._store is None or node.parameters["kind"] == "table_join":
            # What a join tells as the old value it computes from its tables' old ones, even if it has a store.
            force = force or node.parameters["kind"] == "table_join"
            sent = [parent._send_old(force) for parent in self._parents]  # asked of all, whatever the first says
            if not all(sent):
                return False
        node.parameters["send_old"] = True
        return True

    def _tell_truly(self) -> None:
        """Of tables before it that are suppressed, changes carry the value that was told last; see `suppressed.py`."""
        if self._node.parameters.get("kind") == "suppress":
            self._node.parameters["told"] = True
        for parent in self._parents:
            parent._tell_truly()

    # --- Derived tables -------------------------------------------------------------------------------------------

    def filter(self, predicate: Fn, materialized: Materialized | str | None = None) -> KTable:
        """Only keys for whose value `predicate(key, value)` is true; others are deleted downstream."""
        return self._filter("filter", predicate, materialized, negate=False)

    def filter_not(self, predicate: Fn, materialized: Materialized | str | None = None) -> KTable:
        """Only keys for whose value `predicate(key, value)` is not true."""
        return self._filter("filter_not", predicate, materialized, negate=True)

    def _filter(
        self, operation: str, predicate: Fn, materialized: Materialized | str | None, *, negate: bool
    ) -> KTable:
        fn = flow.condition(self._graph, predicate, "predicate", operation)

        def getter() -> Getter:
            return {"filter": {"of": self._lookup(), "predicate": fn, "negate": negate}}

        # Old values that the parent can tell without a store made for it keep deletions of what never passed from being told.
        old = self._send_old(force=False)
        parameters = {"predicate": fn, "negate": negate, "send_old": old, "versioned": self._versioned}
        return self._derived("table_filter", operation, parameters, materialized, getter, self._flowing.value)

    def map_values(self, mapper: Fn, materialized: Materialized | str | None = None) -> KTable:
        """`mapper(value)` or `mapper(key, value)` returns the new value. It never sees None: a deletion is one here."""
        fn = flow.function(self._graph, mapper, "mapper", "map_values")

        def getter() -> Getter:
            return {"map_values": {"of": self._lookup(), "mapper": fn}}

        return self._derived("table_map_values", "map_values", {"mapper": fn}, materialized, getter, None)

    def transform_values(
        self,
        transformer: Callable[[], object],
        *stores: str | StoreBuilder,
        materialized: Materialized | str | None = None,
    ) -> KTable:
        """Each value becomes what a transformer with stores of its own makes of key and value: an
        `ads.ValueTransformerWithKey`.

        It is called with deletions, too (value None), and again by whoever looks at a row of a table without a store: a join,
        old values for a grouping. Then it should say the same again; with a store of its own the table remembers.

        Args:
            transformer: its class, or a function without arguments that makes one; called once for each task, and once for
                each operation that looks into a table without a store.
            stores: that it reaches.
            materialized: makes a store for the result.

        In Kafka Streams: `KTable.transformValues`.
        """
        from adstream.dsl import processors

        made = processors.transformer(self._graph, self._flowing.app, transformer, stores, "transform_values")

        def getter() -> Getter:
            return {"transform": {"of": self._lookup(), **made}}

        parameters = {"factory": made["factory"], "reached": made["stores"], "stores": made["stores"], "timed": True}
        return self._derived("table_transform_values", "transform_values", parameters, materialized, getter, None)

    def _derived(
        self,
        kind: str,
        operation: str,
        parameters: dict[str, Any],
        materialized: Materialized | str | None,
        getter: Callable[[], Getter],
        value: serdes.Serde | None,
    ) -> KTable:
        how = flow.materialized(materialized, operation)
        node = flow.add(
            self._graph, kind, [self._flowing.port], **{"cached": how.cached, "send_old": False, **parameters}
        )
        store = None
        if how.name is not None or how.history is not None:
            store = flow.table_store(self._graph, how, f"{node.name}-store", operation)
            node.parameters |= {"store": store, "stores": [store, *parameters.get("stores", ())]}
        flowing = self._flowing.at(node, key=how.key or self._flowing.key, value=how.value or value)
        versioned = self._versioned if materialized is None else how.history is not None
        return KTable(flowing, store=store, parents=(self,), getter=getter, versioned=versioned)

    # --- Joins ----------------------------------------------------------------------------------------------------

    def join(
        self,
        other: KTable,
        joiner: Fn,
        materialized: Materialized | str | None = None,
        *,
        foreign_key: Fn | None = None,
        name: str | None = None,
        partitioner: Fn | None = None,
        other_partitioner: Fn | None = None,
    ) -> KTable:
        """Rows that both tables have: `joiner(mine, theirs)`, or `joiner(key, mine, theirs)`.

        A change of either table changes the result; its time is the later of the two rows'. Both tables get stores, and
        without `foreign_key` their topics must have equal partition counts.

        Args:
            other: a table of the same application.
            joiner: returns the result's value; None deletes.
            materialized: makes a store for the result.
            foreign_key: `(value)` or `(key, value)` returns the key that the row has in the *other* table; the result has
                this table's keys. None: it has no counterpart. The tables need not be partitioned alike. As in Kafka
                Streams, a value of the other table that is no bytes (an empty text) counts as none.
            name: of a join by foreign key; its topics and store are named by it.
            partitioner, other_partitioner: by which the topics of this and of the other table were written, if not by the
                default (murmur2 of the key's bytes): `(topic, key, None, partitions)` returns a partition. With
                `foreign_key` only.

        In Kafka Streams: `KTable.join`, with `TableJoined` for `name` and the partitioners.
        """
        if foreign_key is None:
            _only_foreign("join", name, partitioner, other_partitioner)
            return self._join("join", other, joiner, materialized, left=False, right=False)
        partitioners = (partitioner, other_partitioner)
        return foreign_join("join", self, other, joiner, materialized, foreign_key, name, partitioners, left=False)

    def left_join(
        self,
        other: KTable,
        joiner: Fn,
        materialized: Materialized | str | None = None,
        *,
        foreign_key: Fn | None = None,
        name: str | None = None,
        partitioner: Fn | None = None,
        other_partitioner: Fn | None = None,
    ) -> KTable:
        """As `join`, with rows that only this table has: theirs is None. In Kafka Streams: `KTable.leftJoin`."""
        if foreign_key is None:
            _only_foreign("left_join", name, partitioner, other_partitioner)
            return self._join("left_join", other, joiner, materialized, left=True, right=False)
        partitioners = (partitioner, other_partitioner)
        return foreign_join("left_join", self, other, joiner, materialized, foreign_key, name, partitioners, left=True)

    def outer_join(self, other: KTable, joiner: Fn, materialized: Materialized | str | None = None) -> KTable:
        """As `join`, with rows that only one table has: the other's is None. In Kafka Streams: `KTable.outerJoin`."""
        return self._join("outer_join", other, joiner, materialized, left=True, right=True)

    def _join(
        self,
        operation: str,
        other: KTable,
        joiner: Fn,
        materialized: Materialized | str | None,
        *,
        left: bool,
        right: bool,
    ) -> KTable:
        check_table(self, other, operation)
        graph = self._graph
        fn = flow.function(graph, joiner, "joiner", operation, values=2)
        how = flow.materialized(materialized, operation)
        if left:
            self._send_old()
        if right:
            other._send_old()
        sides: dict[str, Any] = {"joiner": fn, "left_outer": left, "right_outer": right}
        node = flow.add(
            graph,
            "table_join",
            [self._flowing.port, other._flowing.port],
            stores=[*self._lookup_stores(), *other._lookup_stores()],
            left=self._lookup(),
            right=other._lookup(),
            versioned=[self._versioned, other._versioned],
            cached=how.cached,
            send_old=False,
            **sides,
        )
        store = None
        if materialized is not None:
            store = flow.table_store(graph, how, f"{node.name}-store", operation)
            node.parameters |= {"store": store, "stores": sorted({*node.parameters["stores"], store})}

        def getter() -> Getter:
            return {"join": {"left": self._lookup(), "right": other._lookup(), **sides}}

        return KTable(
            self._flowing.at(node, key=how.key or self._flowing.key, value=how.value, rekeyed=False),
            store=store,
            parents=(self, other),
            getter=getter,
            versioned=how.history is not None,
        )

    # --- As streams, by other keys --------------------------------------------------------------------------------

    def to_stream(self, mapper: Fn | None = None) -> KStream:
        """Its changes as records: the new values, deletions included. `mapper(key, value)` chooses another key."""
        node = flow.add(self._graph, "to_stream", [self._flowing.port])
        stream = KStream(self._flowing.at(node, rekeyed=False))
        return stream if mapper is None else stream.select_key(mapper)

    def suppress(self, terms: Suppressed) -> KTable:
        """Its changes later, and of each key only the newest: `ads.Suppressed`. In Kafka Streams: `suppress`."""
        from adstream.dsl.suppressed import suppress

        return suppress(self, terms)

    def group_by(
        self,
        selector: Fn,
        name: str | None = None,
        *,
        key: serdes.Serde | None = None,
        value: serdes.Serde | None = None,
    ) -> KGroupedTable:
        """By what `selector(key, value)` returns: a new (key, value). When a row changes, its old value leaves its old
        group and the new one enters. In Kafka Streams: `KTable.groupBy` with `Grouped`."""
        self._send_old()
        self._tell_truly()
        fn = flow.function(self._graph, selector, "selector", "group_by")
        node = flow.add(self._graph, "regroup", [self._flowing.port], mapper=fn, versioned=self._versioned)
        return KGroupedTable(self._flowing.at(node, key=key, value=value), name)


def check_table(table: KTable, other: object, operation: str) -> None:
    """The other table of a join is one, and of the same application."""
    if not isinstance(other, KTable) or other._graph is not table._graph:
        raise fault(
            "bad_argument",
            f"not a table of this application: {other!r}",
            operation=operation,
            hint="join it with a table that comes from the same `app`",
        )


def _stores_in(getter: Getter) -> list[str]:
    if "store" in getter:
        return [getter["store"]]
    [parts] = getter.values()
    tables = [part for part in parts.values() if isinstance(part, dict) and "call" not in part]
    own = [parts["store"]] if isinstance(parts.get("store"), str) else []
    own += parts.get("stores", [])  # those of a transformer
    return own + [name for table in tables for name in _stores_in(table)]


def _only_foreign(operation: str, *given: object) -> None:
    if any(value is not None for value in given):
        raise fault(
            "bad_argument",
            "`name`, `partitioner` and `other_partitioner` belong to a join by foreign key",
            operation=operation,
            hint="give it a `foreign_key`, or name the join with `.named()`",
        )


class WithoutValue:
    """A partitioner that is told no value: those that travel between the sides of a join are not the user's."""

    __slots__ = ("fn",)

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, topic: str, key: Any, value: Any, partitions: int) -> Any:
        return self.fn(topic, key, None, partitions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WithoutValue) and self.fn is other.fn

    def __hash__(self) -> int:
        return hash(self.fn)


def foreign_join(
    operation: str,
    left_table: KTable,
    right_table: KTable,
    joiner: Fn,
    materialized: Materialized | str | None,
    foreign_key: Fn,
    name: str | None,
    partitioners: tuple[Fn | None, Fn | None],
    *,
    left: bool,
) -> KTable:
    """A join by foreign key: two tasks that ask and answer by topics (`rust/core/src/flow/foreign.rs`)."""
    check_table(left_table, right_table, operation)
    graph = left_table._graph
    mine, theirs = left_table._flowing, right_table._flowing
    extractor = flow.function(graph, foreign_key, "foreign_key", operation)
    fn = flow.function(graph, joiner, "joiner", operation, values=2)
    how = flow.materialized(materialized, operation)
    for table in (right_table, left_table):
        table._send_old()
        table._tell_truly()

    def partitioner(given: Fn | None, what: str) -> dict[str, Any] | None:
        if given is None:
            return None
        flow.call(graph, given, what, operation, 4)
        assert callable(given)
        return {"call": graph.register(WithoutValue(given)), "with_key": False}

    def send(inputs: list[Port], topic: str, **options: Any) -> Node:
        to = flow.add(graph, "to", inputs, topics=[], key="internal_key", value="internal", internal=True, **options)
        return across(graph, to, topic, operation)

    subscribe = flow.add(
        graph, "fk_subscribe", [mine.port], foreign_key=extractor, left=left, versioned=left_table._versioned
    )
    if name is not None:
        graph.rename(subscribe, name)
    topic = f"{mine.app}-{subscribe.name}-subscription"
    asked = send(
        [(subscribe.id, 0)],
        f"{topic}-registration-topic",
        partition_by=theirs.key.to_plan(graph.register) if theirs.key is not None else None,
        partitioner=partitioner(partitioners[1], "other_partitioner"),
    )
    subscriptions = flow.store(graph, "key_value", Materialized(), f"{subscribe.name}-subscription-store", operation)
    empty_is_none = theirs.value in (serdes.string, serdes.bytes_)
    answer = flow.add(
        graph,
        "fk_answer",
        [(asked.id, 0)],
        stores=[subscriptions, *right_table._lookup_stores()],
        store=subscriptions,
        right=right_table._lookup(),
        empty_is_none=empty_is_none,
    )
    propagate = flow.add(
        graph,
        "fk_propagate",
        [theirs.port],
        stores=[subscriptions],
        store=subscriptions,
        versioned=right_table._versioned,
        empty_is_none=empty_is_none,
    )
    answered = send(
        [(answer.id, 0), (propagate.id, 0)],
        f"{topic}-response-topic",
        partition_in=2,
        partitioner=partitioner(partitioners[0], "partitioner"),
    )
    resolve = flow.add(
        graph,
        "fk_resolve",
        [(answered.id, 0)],
        stores=left_table._lookup_stores(),
        left=left_table._lookup(),
        joiner=fn,
        outer=left,
    )
    return table_of(replace(mine.at(resolve), value=None, rekeyed=False), how, operation)


class KGroupedTable:
    """A table's rows by another key. In Kafka Streams: `KGroupedTable`."""

    def __init__(self, flowing: Flowing, name: str | None) -> None:
        if name is not None:
            check_name(name, "group_by")
        self._flowing = flowing
        self._name = name
        self._moved: Flowing | None = None

    @property
    def _graph(self) -> Graph:
        return self._flowing.graph

    def count(self, materialized: Materialized | str | None = None) -> KTable:
        """How many rows each group has; 0 stays 0."""
        return self._aggregate("count", "count", materialized, serdes.int64)

    def reduce(self, adder: Fn, subtractor: Fn, materialized: Materialized | str | None = None) -> KTable:
        """`adder(aggregate, value)` for values that enter, `subtractor(aggregate, value)` for those that leave."""
        graph = self._graph
        fold = {
            "reduce": {
                "adder": flow.call(graph, adder, "adder", "reduce", 2),
                "subtractor": flow.call(graph, subtractor, "subtractor", "reduce", 2),
            }
        }
        return self._aggregate("reduce", fold, materialized, self._flowing.value)

    def aggregate(
        self,
        initializer: Fn | None = None,
        adder: Fn | None = None,
        subtractor: Fn | None = None,
        materialized: Materialized | str | None = None,
        **aggregates: Expr,
    ) -> KTable:
        """`adder(key, value, aggregate)` for values that enter, `subtractor` alike for those that leave, from
        `initializer()`; or `count` and `sum` of the values' fields, without Python: `aggregate(total=ads.sum("price"))`.
        """
        fold = aggregate_fold(self._graph, initializer, adder, subtractor, aggregates, table=True)
        return self._aggregate("aggregate", fold, materialized, None)

    def _aggregate(
        self, operation: str, fold: Any, materialized: Materialized | str | None, value: serdes.Serde | None
    ) -> KTable:
        how = flow.materialized(materialized, operation)
        if self._moved is None or self._name is None:
            self._moved = repartition(self._flowing, self._name or how.name, operation, changes=True)
        flowing = self._moved
        node = flow.add(self._graph, "table_aggregate", [flowing.port], fold=fold, cached=how.cached, send_old=False)
        store = flow.table_store(self._graph, how, f"{node.name}-store", operation)
        node.parameters |= {"store": store, "stores": [store]}
        return KTable(flowing.at(node, value=how.value or value), store=store, versioned=how.history is not None)


class Older:
    """Whether a new value is older than the present one, by a function of each."""

    __slots__ = ("fn",)

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self.fn = fn

    def __call__(self, new: Any, present: Any) -> bool:
        return bool(self.fn(new) < self.fn(present))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Older) and self.fn is other.fn

    def __hash__(self) -> int:
        return hash(self.fn)


def table_of(
    flowing: Flowing,
    how: Materialized,
    operation: str,
    *,
    latest_by: Callable[[Any], Any] | None = None,
    older: natives.Native | None = None,
) -> KTable:
    """A table of the records at a port. `older`: `latest_by` as a condition of (key, new, present)."""
    graph = flowing.graph
    node = flow.add(graph, "table_source", [flowing.port], cached=how.cached, send_old=False)

    def materialize() -> str:
        name = flow.table_store(graph, how, f"{node.name}-store", operation)
        node.parameters |= {"store": name, "stores": [name]}
        return name

    flowing = replace(flowing.at(node), key=how.key or flowing.key, value=how.value or flowing.value)
    versioned = how.history is not None
    if latest_by is not None or older is not None:
        if versioned:
            raise fault(
                "bad_argument",
                "versions are ordered by their records' times, not by `latest_by`",
                operation=operation,
                hint="leave out `history`, or `latest_by` and let `timestamp=` say the time",
            )
        if older is not None:
            node.parameters["older"] = flow.function(graph, older, "latest_by", operation, values=2)
    if latest_by is not None:
        flow.call(graph, latest_by, "latest_by", operation, 1)
        node.parameters["older"] = {"call": graph.register(Older(latest_by)), "with_key": False}
    if how.name is not None or versioned or "older" in node.parameters:
        return KTable(flowing, store=materialize(), versioned=versioned)
    return KTable(flowing, materialize=materialize)
