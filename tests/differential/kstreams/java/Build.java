import com.fasterxml.jackson.databind.JsonNode;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.stream.StreamSupport;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Branched;
import org.apache.kafka.streams.kstream.BranchedKStream;
import org.apache.kafka.streams.kstream.CogroupedKStream;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.EmitStrategy;
import org.apache.kafka.streams.kstream.GlobalKTable;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.Joined;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.KGroupedTable;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Named;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Repartitioned;
import org.apache.kafka.streams.kstream.SessionWindowedCogroupedKStream;
import org.apache.kafka.streams.kstream.SessionWindowedKStream;
import org.apache.kafka.streams.kstream.SessionWindows;
import org.apache.kafka.streams.kstream.SlidingWindows;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.kstream.Suppressed;
import org.apache.kafka.streams.kstream.TimeWindowedCogroupedKStream;
import org.apache.kafka.streams.kstream.TimeWindowedKStream;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.UnlimitedWindows;
import org.apache.kafka.streams.kstream.ValueTransformerWithKey;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.FailOnInvalidTimestamp;
import org.apache.kafka.streams.processor.LogAndSkipOnInvalidTimestamp;
import org.apache.kafka.streams.processor.StateStore;
import org.apache.kafka.streams.processor.StreamPartitioner;
import org.apache.kafka.streams.processor.TimestampExtractor;
import org.apache.kafka.streams.processor.UsePartitionTimeOnInvalidTimestamp;
import org.apache.kafka.streams.processor.WallclockTimestampExtractor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorSupplier;
import org.apache.kafka.streams.processor.api.ProcessorSupplier;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.SessionStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.VersionedBytesStoreSupplier;
import org.apache.kafka.streams.state.WindowBytesStoreSupplier;
import org.apache.kafka.streams.state.WindowStore;

/** Makes a topology of a case's nodes, in their order. README.md lists the operations and their fields. */
@SuppressWarnings({"unchecked", "rawtypes"})
final class Build {
    private final JsonNode asked;
    private final List<Object[]> seen;
    private final StreamsBuilder builder = new StreamsBuilder();
    private final Map<String, Object> made = new HashMap<>();
    private final Map<String, Serde<Object>[]> serdes = new HashMap<>();
    private Topology topology;

    Build(JsonNode asked, List<Object[]> seen) {
        this.asked = asked;
        this.seen = seen;
    }

    Topology build() {
        boolean plain = StreamSupport.stream(asked.get("nodes").spliterator(), false)
                .allMatch(node -> node.get("op").asText().startsWith("add_"));
        if (!plain) {
            for (JsonNode store : asked.path("stores")) {
                builder.addStateStore(storeBuilder(store));
            }
        }
        for (JsonNode node : asked.get("nodes")) {
            String op = node.get("op").asText();
            if (op.startsWith("add_")) {
                if (topology == null) {
                    topology = builder.build();
                }
                add(op, node);
                continue;
            }
            if (node.has("types")) {
                serdes.put(id(node), new Serde[] {type(node, 0), type(node, 1)});
            }
            Object result = make(op, node);
            if (result != null) {
                made.put(id(node), result);
            }
        }
        return topology == null ? builder.build() : topology;
    }

    // --- Reading a node

    private static String id(JsonNode node) {
        return node.get("id").asText();
    }

    private static Serde<Object> type(JsonNode node, int at) {
        return Values.serde(node.get("types").get(at).asText());
    }

    private <T> T in(JsonNode node, int at) {
        String id = node.get("in").get(at).asText();
        if (!made.containsKey(id)) {
            throw new IllegalArgumentException("no node " + id);
        }
        return (T) made.get(id);
    }

    private Serde<Object> keyOf(JsonNode node, int at) {
        return serdes.get(node.get("in").get(at).asText())[0];
    }

    private Serde<Object> valueOf(JsonNode node, int at) {
        return serdes.get(node.get("in").get(at).asText())[1];
    }

    private static Functions.Fn fn(JsonNode node, String field) {
        return Functions.fn(node.get(field));
    }

    private static boolean withKey(JsonNode node) {
        return node.path("with_key").asBoolean();
    }

    private static Duration ms(JsonNode node, String field) {
        return Duration.ofMillis(node.get(field).asLong());
    }

    private static boolean has(JsonNode node, String field) {
        return node.hasNonNull(field);
    }

    private static String[] strings(JsonNode list) {
        return StreamSupport.stream(list.spliterator(), false).map(JsonNode::asText).toArray(String[]::new);
    }

    private void saw(JsonNode node, Object key, Object value) {
        seen.add(new Object[] {id(node), key, value});
    }

    // --- The DSL

    private Object make(String op, JsonNode node) {
        return switch (op) {
            case "stream" -> has(node, "pattern")
                    ? builder.stream(java.util.regex.Pattern.compile(node.get("pattern").asText()), consumed(node))
                    : builder.stream(List.of(strings(node.get("topics"))), consumed(node));
            case "table" -> has(node, "store")
                    ? builder.table(node.get("topic").asText(), consumed(node), keyValue(node, type(node, 0)))
                    : builder.table(node.get("topic").asText(), consumed(node));
            case "global_table" -> has(node, "store")
                    ? builder.globalTable(node.get("topic").asText(), consumed(node), keyValue(node, type(node, 0)))
                    : builder.globalTable(node.get("topic").asText(), consumed(node));
            case "filter", "filter_not" -> filter(op.equals("filter_not"), node);
            case "map_values" -> mapValues(node);
            case "map" -> {
                Functions.Fn f = fn(node, "fn");
                yield this.<KStream<Object, Object>>in(node, 0).map(f::pair);
            }
            case "select_key" -> this.<KStream<Object, Object>>in(node, 0).selectKey(fn(node, "fn")::of);
            case "flat_map" -> {
                Functions.Fn f = fn(node, "fn");
                yield this.<KStream<Object, Object>>in(node, 0).flatMap((k, v) -> Functions.pairsOf(f.of(k, v)));
            }
            case "flat_map_values" -> {
                Functions.Fn f = fn(node, "fn");
                KStream<Object, Object> stream = in(node, 0);
                yield withKey(node)
                        ? stream.flatMapValues((k, v) -> (Iterable<Object>) f.of(k, v))
                        : stream.flatMapValues(v -> (Iterable<Object>) f.of(null, v));
            }
            case "peek" -> this.<KStream<Object, Object>>in(node, 0).peek((k, v) -> saw(node, k, v));
            case "foreach" -> {
                this.<KStream<Object, Object>>in(node, 0).foreach((k, v) -> saw(node, k, v));
                yield null;
            }
            case "merge" -> this.<KStream<Object, Object>>in(node, 0).merge(in(node, 1));
            case "split" -> split(node);
            case "repartition" -> {
                Repartitioned<Object, Object> how = Repartitioned.with(type(node, 0), type(node, 1));
                if (has(node, "name")) {
                    how = how.withName(node.get("name").asText());
                }
                if (has(node, "partitions")) {
                    how = how.withNumberOfPartitions(node.get("partitions").asInt());
                }
                yield this.<KStream<Object, Object>>in(node, 0).repartition(how);
            }
            case "to" -> to(node);
            case "to_table" -> this.<KStream<Object, Object>>in(node, 0).toTable(keyValue(node, type(node, 0)));
            case "to_stream" -> has(node, "fn")
                    ? this.<KTable<Object, Object>>in(node, 0).toStream(fn(node, "fn")::of)
                    : this.<KTable<Object, Object>>in(node, 0).toStream();
            case "process" -> {
                ProcessorSupplier<Object, Object, Object, Object> supplier =
                        () -> Scripts.processor(node.get("script"), (k, v) -> saw(node, k, v));
                KStream<Object, Object> stream = in(node, 0);
                yield has(node, "name")
                        ? stream.process(supplier, Named.as(node.get("name").asText()), strings(node.path("stores")))
                        : stream.process(supplier, strings(node.path("stores")));
            }
            case "process_values" -> {
                FixedKeyProcessorSupplier<Object, Object, Object> supplier =
                        () -> Scripts.fixed(node.get("script"), (k, v) -> saw(node, k, v));
                yield this.<KStream<Object, Object>>in(node, 0).processValues(supplier, strings(node.path("stores")));
            }
            case "transform_values" -> this.<KTable<Object, Object>>in(node, 0)
                    .transformValues(
                            () -> new CountingTransformer(node.get("counts").asText()),
                            keyValue(node, keyOf(node, 0)),
                            node.get("counts").asText());
            case "group_by_key" -> this.<KStream<Object, Object>>in(node, 0).groupByKey(grouped(node));
            case "group_by" -> {
                Functions.Fn f = fn(node, "fn");
                yield in(node, 0) instanceof KTable table
                        ? table.groupBy((k, v) -> f.pair(k, v), grouped(node))
                        : this.<KStream<Object, Object>>in(node, 0).groupBy(f::of, grouped(node));
            }
            case "cogroup" -> cogroup(node);
            case "windowed_by" -> windowedBy(node);
            case "count" -> count(node);
            case "reduce" -> reduce(node);
            case "aggregate" -> aggregate(node);
            case "suppress" -> this.<KTable<Object, Object>>in(node, 0).suppress(suppressed(node));
            case "stream_join" -> streamJoin(node);
            case "stream_table_join" -> streamTableJoin(node);
            case "stream_global_join" -> streamGlobalJoin(node);
            case "table_join" -> tableJoin(node);
            case "fk_join" -> foreignKeyJoin(node);
            default -> throw new IllegalArgumentException("no operation: " + op);
        };
    }

    private Consumed<Object, Object> consumed(JsonNode node) {
        Consumed<Object, Object> how = Consumed.with(type(node, 0), type(node, 1));
        return has(node, "timestamps") ? how.withTimestampExtractor(extractor(node.get("timestamps"))) : how;
    }

    private static TimestampExtractor extractor(JsonNode json) {
        return switch (json.get(0).asText()) {
            case "fail_on_invalid" -> new FailOnInvalidTimestamp();
            case "log_and_skip" -> new LogAndSkipOnInvalidTimestamp();
            case "use_partition_time" -> new UsePartitionTimeOnInvalidTimestamp();
            case "wall_clock" -> new WallclockTimestampExtractor();
            case "value" -> (record, partitionTime) -> record.value() instanceof Long time ? time : -1;
            case "plus" -> (record, partitionTime) -> record.timestamp() + json.get(1).asLong();
            case "partition_time" -> (record, partitionTime) -> partitionTime;
            case "placed" -> (record, partitionTime) -> record.timestamp()
                    + 10 * (record.offset() % 3)
                    + record.topic().length()
                    + record.partition()
                    + record.headers().toArray().length;
            default -> throw new IllegalArgumentException("no extractor: " + json);
        };
    }

    private Object filter(boolean not, JsonNode node) {
        Functions.Fn f = fn(node, "fn");
        if (in(node, 0) instanceof KStream stream) {
            return not
                    ? stream.filterNot((k, v) -> f.holds(k, v))
                    : stream.filter((k, v) -> f.holds(k, v));
        }
        KTable<Object, Object> table = in(node, 0);
        // Without a name this makes no store, but says how to make one if another operator needs it.
        Materialized<Object, Object, KeyValueStore<Bytes, byte[]>> store = keyValue(node, keyOf(node, 0));
        return not ? table.filterNot(f::holds, store) : table.filter(f::holds, store);
    }

    private Object mapValues(JsonNode node) {
        Functions.Fn f = fn(node, "fn");
        if (in(node, 0) instanceof KStream) {
            KStream<Object, Object> stream = in(node, 0);
            return withKey(node) ? stream.mapValues(f::of) : stream.mapValues(v -> f.of(null, v));
        }
        KTable<Object, Object> table = in(node, 0);
        Materialized<Object, Object, KeyValueStore<Bytes, byte[]>> store = keyValue(node, keyOf(node, 0));
        return withKey(node) ? table.mapValues(f::of, store) : table.mapValues(v -> f.of(null, v), store);
    }

    private Object split(JsonNode node) {
        BranchedKStream<Object, Object> split =
                this.<KStream<Object, Object>>in(node, 0).split(Named.as(id(node) + "."));
        for (JsonNode branch : node.get("branches")) {
            split = split.branch(fn(branch, "fn")::holds, Branched.as(branch.get("name").asText()));
        }
        Map<String, KStream<Object, Object>> branches = has(node, "default")
                ? split.defaultBranch(Branched.as(node.get("default").asText()))
                : split.noDefaultBranch();
        made.putAll(branches);
        branches.keySet().forEach(name -> serdes.put(name, serdes.get(id(node))));
        return null;
    }

    private Object to(JsonNode node) {
        Produced<Object, Object> how = Produced.with(keyOf(node, 0), valueOf(node, 0));
        if (has(node, "partitioner")) {
            how = how.withStreamPartitioner(partitioner(node.get("partitioner")));
        }
        KStream<Object, Object> stream = in(node, 0);
        if (has(node, "topic")) {
            stream.to(node.get("topic").asText(), how);
        } else {
            Functions.Fn f = fn(node, "topic_fn");
            stream.to((key, value, context) -> (String) f.of(key, value), how);
        }
        return null;
    }

    /** ["drop_if", predicate]: to no partition. ["all"]: to every one. ["default"]: as if there were none. */
    private static StreamPartitioner<Object, Object> partitioner(JsonNode json) {
        return switch (json.get(0).asText()) {
            case "drop_if" -> {
                Functions.Fn f = Functions.fn(json.get(1));
                yield (topic, key, value, count) -> f.holds(key, value) ? Optional.of(Set.of()) : Optional.empty();
            }
            case "all" -> (topic, key, value, count) -> {
                Set<Integer> all = new HashSet<>();
                for (int i = 0; i < count; i++) {
                    all.add(i);
                }
                return Optional.of(all);
            };
            case "default" -> (topic, key, value, count) -> Optional.empty();
            default -> throw new IllegalArgumentException("no partitioner: " + json);
        };
    }

    private Grouped<Object, Object> grouped(JsonNode node) {
        Grouped<Object, Object> how = Grouped.with(type(node, 0), type(node, 1));
        return has(node, "name") ? how.withName(node.get("name").asText()) : how;
    }

    private Object cogroup(JsonNode node) {
        CogroupedKStream<Object, Object> all = null;
        for (int i = 0; i < node.get("in").size(); i++) {
            KGroupedStream<Object, Object> one = in(node, i);
            Functions.Fn2 f = Functions.fn2(node.get("fns").get(i));
            all = all == null ? one.cogroup(f::of) : all.cogroup(one, f::of);
        }
        return all;
    }

    // --- Windows

    private Object windowedBy(JsonNode node) {
        JsonNode w = node.get("window");
        Object grouped = in(node, 0);
        Object windowed = switch (w.get("type").asText()) {
            case "tumbling", "hopping" -> {
                TimeWindows windows = has(w, "grace")
                        ? TimeWindows.ofSizeAndGrace(ms(w, "size"), ms(w, "grace"))
                        : TimeWindows.ofSizeWithNoGrace(ms(w, "size"));
                if (has(w, "advance")) {
                    windows = windows.advanceBy(ms(w, "advance"));
                }
                yield grouped instanceof KGroupedStream one
                        ? one.windowedBy(windows)
                        : ((CogroupedKStream) grouped).windowedBy(windows);
            }
            case "unlimited" -> {
                UnlimitedWindows windows = UnlimitedWindows.of();
                if (has(w, "start")) {
                    windows = windows.startOn(java.time.Instant.ofEpochMilli(w.get("start").asLong()));
                }
                yield grouped instanceof KGroupedStream one
                        ? one.windowedBy(windows)
                        : ((CogroupedKStream) grouped).windowedBy(windows);
            }
            case "own" -> {
                OwnWindows windows = new OwnWindows(w);
                yield grouped instanceof KGroupedStream one
                        ? one.windowedBy(windows)
                        : ((CogroupedKStream) grouped).windowedBy(windows);
            }
            case "sliding" -> {
                SlidingWindows windows = has(w, "grace")
                        ? SlidingWindows.ofTimeDifferenceAndGrace(ms(w, "difference"), ms(w, "grace"))
                        : SlidingWindows.ofTimeDifferenceWithNoGrace(ms(w, "difference"));
                yield grouped instanceof KGroupedStream one
                        ? one.windowedBy(windows)
                        : ((CogroupedKStream) grouped).windowedBy(windows);
            }
            case "session" -> {
                SessionWindows windows = has(w, "grace")
                        ? SessionWindows.ofInactivityGapAndGrace(ms(w, "gap"), ms(w, "grace"))
                        : SessionWindows.ofInactivityGapWithNoGrace(ms(w, "gap"));
                yield grouped instanceof KGroupedStream one
                        ? one.windowedBy(windows)
                        : ((CogroupedKStream) grouped).windowedBy(windows);
            }
            default -> throw new IllegalArgumentException("no window: " + w);
        };
        if (has(node, "emit")) {
            EmitStrategy strategy =
                    node.get("emit").asText().equals("close") ? EmitStrategy.onWindowClose() : EmitStrategy.onWindowUpdate();
            windowed = windowed instanceof TimeWindowedKStream time
                    ? time.emitStrategy(strategy)
                    : ((SessionWindowedKStream) windowed).emitStrategy(strategy);
        }
        return windowed;
    }

    private Object count(JsonNode node) {
        Object grouped = in(node, 0);
        if (grouped instanceof KGroupedStream stream) {
            return stream.count(keyValue(node, keyOf(node, 0)));
        }
        if (grouped instanceof KGroupedTable table) {
            return table.count(keyValue(node, keyOf(node, 0)));
        }
        if (grouped instanceof TimeWindowedKStream time) {
            return time.count(materialized(node, keyOf(node, 0)));
        }
        return ((SessionWindowedKStream) grouped).count(materialized(node, keyOf(node, 0)));
    }

    private Object reduce(JsonNode node) {
        Object grouped = in(node, 0);
        Functions.Fn2 f = Functions.fn2(node.get("fn"));
        // Reducers are told (aggregate, value); the library's functions (value, aggregate).
        org.apache.kafka.streams.kstream.Reducer<Object> add = (old, value) -> f.of(null, value, old);
        if (grouped instanceof KGroupedStream stream) {
            return stream.reduce(add, keyValue(node, keyOf(node, 0)));
        }
        if (grouped instanceof KGroupedTable table) {
            Functions.Fn2 g = Functions.fn2(node.get("sub"));
            org.apache.kafka.streams.kstream.Reducer<Object> sub = (old, value) -> g.of(null, value, old);
            return table.reduce(add, sub, keyValue(node, keyOf(node, 0)));
        }
        if (grouped instanceof TimeWindowedKStream time) {
            return time.reduce(add, materialized(node, keyOf(node, 0)));
        }
        return ((SessionWindowedKStream) grouped).reduce(add, materialized(node, keyOf(node, 0)));
    }

    private Object aggregate(JsonNode node) {
        Object grouped = in(node, 0);
        Serde<Object> key = keyOf(node, 0);
        Object first = Values.of(node.get("init"));
        org.apache.kafka.streams.kstream.Initializer<Object> init = () -> first;
        Functions.Fn2 f = node.has("fn") ? Functions.fn2(node.get("fn")) : null;
        org.apache.kafka.streams.kstream.Aggregator<Object, Object, Object> add =
                f == null ? null : (k, v, aggregate) -> f.of(k, v, aggregate);
        Functions.Fn2 m = node.has("merger") ? Functions.fn2(node.get("merger")) : null;
        org.apache.kafka.streams.kstream.Merger<Object, Object> merge = m == null ? null : m::of;
        if (grouped instanceof KGroupedStream stream) {
            return stream.aggregate(init, add, keyValue(node, key));
        }
        if (grouped instanceof KGroupedTable table) {
            Functions.Fn2 s = Functions.fn2(node.get("sub"));
            org.apache.kafka.streams.kstream.Aggregator<Object, Object, Object> sub =
                    (k, v, aggregate) -> s.of(k, v, aggregate);
            return table.aggregate(init, add, sub, keyValue(node, key));
        }
        if (grouped instanceof TimeWindowedKStream time) {
            return time.aggregate(init, add, materialized(node, key));
        }
        if (grouped instanceof SessionWindowedKStream session) {
            return session.aggregate(init, add, merge, materialized(node, key));
        }
        if (grouped instanceof CogroupedKStream cogrouped) {
            return cogrouped.aggregate(init, keyValue(node, key));
        }
        if (grouped instanceof TimeWindowedCogroupedKStream time) {
            return time.aggregate(init, materialized(node, key));
        }
        return ((SessionWindowedCogroupedKStream) grouped).aggregate(init, merge, materialized(node, key));
    }

    private static Suppressed<Object> suppressed(JsonNode node) {
        JsonNode buffer = node.get("buffer");
        boolean early = buffer.path("full").asText().equals("emit");
        Suppressed.BufferConfig bounds;
        if (has(buffer, "records")) {
            bounds = Suppressed.BufferConfig.maxRecords(buffer.get("records").asLong());
            if (has(buffer, "bytes")) {
                bounds = bounds.withMaxBytes(buffer.get("bytes").asLong());
            }
        } else if (has(buffer, "bytes")) {
            bounds = Suppressed.BufferConfig.maxBytes(buffer.get("bytes").asLong());
        } else {
            bounds = Suppressed.BufferConfig.unbounded();
        }
        if (has(buffer, "full")) {
            bounds = early ? bounds.emitEarlyWhenFull() : bounds.shutDownWhenFull();
        }
        Suppressed how = node.get("until").asText().equals("closes")
                ? Suppressed.untilWindowCloses((Suppressed.StrictBufferConfig) bounds)
                : Suppressed.untilTimeLimit(ms(node, "limit"), bounds);
        return has(node, "name") ? how.withName(node.get("name").asText()) : how;
    }

    // --- Joins

    private Object streamJoin(JsonNode node) {
        KStream<Object, Object> left = in(node, 0);
        KStream<Object, Object> right = in(node, 1);
        Functions.Fn2 f = Functions.fn2(node.get("fn"));
        Duration before = ms(node, "before");
        Duration after = ms(node, "after");
        JoinWindows windows = has(node, "grace")
                ? JoinWindows.ofTimeDifferenceAndGrace(Duration.ZERO, ms(node, "grace"))
                : JoinWindows.ofTimeDifferenceWithNoGrace(Duration.ZERO);
        // The greater first: at no time may the sum be negative.
        windows = before.compareTo(after) > 0
                ? windows.before(before).after(after)
                : windows.after(after).before(before);
        StreamJoined<Object, Object, Object> how =
                StreamJoined.with(keyOf(node, 0), valueOf(node, 0), valueOf(node, 1));
        if (has(node, "name")) {
            how = how.withName(node.get("name").asText()).withStoreName(node.get("name").asText());
        }
        if (has(node, "stores")) {
            boolean memory = node.get("stores").asText().equals("memory");
            Duration kept = Duration.ofMillis(windows.size() + windows.gracePeriodMs());
            Duration size = Duration.ofMillis(windows.size());
            String[] names = {id(node) + "-this", id(node) + "-other"};
            WindowBytesStoreSupplier[] stores = new WindowBytesStoreSupplier[2];
            for (int i = 0; i < 2; i++) {
                stores[i] = memory
                        ? Stores.inMemoryWindowStore(names[i], kept, size, true)
                        : Stores.persistentWindowStore(names[i], kept, size, true);
            }
            how = how.withThisStoreSupplier(stores[0]).withOtherStoreSupplier(stores[1]);
        }
        return switch (node.get("how").asText()) {
            case "inner" -> withKey(node)
                    ? left.join(right, f::of, windows, how)
                    : left.join(right, (l, r) -> f.of(null, l, r), windows, how);
            case "left" -> withKey(node)
                    ? left.leftJoin(right, f::of, windows, how)
                    : left.leftJoin(right, (l, r) -> f.of(null, l, r), windows, how);
            case "outer" -> withKey(node)
                    ? left.outerJoin(right, f::of, windows, how)
                    : left.outerJoin(right, (l, r) -> f.of(null, l, r), windows, how);
            default -> throw new IllegalArgumentException("no join: " + node);
        };
    }

    private Object streamTableJoin(JsonNode node) {
        KStream<Object, Object> stream = in(node, 0);
        KTable<Object, Object> table = in(node, 1);
        Functions.Fn2 f = Functions.fn2(node.get("fn"));
        Joined<Object, Object, Object> how = Joined.with(keyOf(node, 0), valueOf(node, 0), valueOf(node, 1));
        if (has(node, "name")) {
            how = how.withName(node.get("name").asText());
        }
        if (has(node, "grace")) {
            how = how.withGracePeriod(ms(node, "grace"));
        }
        if (node.get("how").asText().equals("inner")) {
            return withKey(node)
                    ? stream.join(table, f::of, how)
                    : stream.join(table, (l, r) -> f.of(null, l, r), how);
        }
        return withKey(node)
                ? stream.leftJoin(table, f::of, how)
                : stream.leftJoin(table, (l, r) -> f.of(null, l, r), how);
    }

    private Object streamGlobalJoin(JsonNode node) {
        KStream<Object, Object> stream = in(node, 0);
        GlobalKTable<Object, Object> table = in(node, 1);
        Functions.Fn2 f = Functions.fn2(node.get("fn"));
        Functions.Fn key = fn(node, "key");
        if (node.get("how").asText().equals("inner")) {
            return withKey(node)
                    ? stream.join(table, key::of, f::of)
                    : stream.join(table, key::of, (l, r) -> f.of(null, l, r));
        }
        return withKey(node)
                ? stream.leftJoin(table, key::of, f::of)
                : stream.leftJoin(table, key::of, (l, r) -> f.of(null, l, r));
    }

    private Object tableJoin(JsonNode node) {
        KTable<Object, Object> left = in(node, 0);
        KTable<Object, Object> right = in(node, 1);
        Functions.Fn2 f = Functions.fn2(node.get("fn"));
        org.apache.kafka.streams.kstream.ValueJoiner<Object, Object, Object> joiner = (l, r) -> f.of(null, l, r);
        String how = node.get("how").asText();
        Materialized<Object, Object, KeyValueStore<Bytes, byte[]>> store = keyValue(node, keyOf(node, 0));
        return switch (how) {
            case "inner" -> left.join(right, joiner, store);
            case "left" -> left.leftJoin(right, joiner, store);
            default -> left.outerJoin(right, joiner, store);
        };
    }

    private Object foreignKeyJoin(JsonNode node) {
        KTable<Object, Object> left = in(node, 0);
        KTable<Object, Object> right = in(node, 1);
        Functions.Fn2 f = Functions.fn2(node.get("fn"));
        Functions.Fn key = fn(node, "key");
        org.apache.kafka.streams.kstream.ValueJoiner<Object, Object, Object> joiner = (l, r) -> f.of(null, l, r);
        // Always with serdes for the result: the original makes a store of it, whether named or not.
        Materialized<Object, Object, KeyValueStore<Bytes, byte[]>> store = keyValue(node, keyOf(node, 0));
        boolean inner = node.get("how").asText().equals("inner");
        if (withKey(node)) {
            java.util.function.BiFunction<Object, Object, Object> of = key::of;
            return inner ? left.join(right, of, joiner, store) : left.leftJoin(right, of, joiner, store);
        }
        java.util.function.Function<Object, Object> of = v -> key.of(null, v);
        return inner ? left.join(right, of, joiner, store) : left.leftJoin(right, of, joiner, store);
    }

    // --- Stores

    /** How often it was asked for a key; null for a deletion, which counts as well. */
    private static final class CountingTransformer implements ValueTransformerWithKey<Object, Object, Object> {
        private final String name;
        private KeyValueStore<Object, Long> counts;

        private CountingTransformer(String name) {
            this.name = name;
        }

        @Override
        public void init(org.apache.kafka.streams.processor.ProcessorContext context) {
            counts = context.getStateStore(name);
        }

        @Override
        public Object transform(Object key, Object value) {
            Long before = counts.get(key);
            long now = before == null ? 1 : before + 1;
            counts.put(key, now);
            return value == null ? null : now;
        }

        @Override
        public void close() {}
    }

    private static Materialized<Object, Object, KeyValueStore<Bytes, byte[]>> keyValue(
            JsonNode node, Serde<Object> key) {
        return materialized(node, key);
    }

    private static Materialized materialized(JsonNode node, Serde<Object> key) {
        JsonNode store = node.path("store");
        Serde<Object> value = type(node, 1);
        Materialized how;
        if (has(store, "history")) {
            how = Materialized.as(Stores.persistentVersionedKeyValueStore(store.get("name").asText(), ms(store, "history")))
                    .withKeySerde((Serde) key)
                    .withValueSerde((Serde) value);
        } else if (has(store, "lru")) {
            how = Materialized.as(Stores.lruMap(store.get("name").asText(), store.get("lru").asInt()))
                    .withKeySerde((Serde) key)
                    .withValueSerde((Serde) value);
        } else if (has(store, "name")) {
            how = Materialized.as(store.get("name").asText()).withKeySerde((Serde) key).withValueSerde((Serde) value);
        } else {
            how = Materialized.with(key, value);
        }
        if (has(store, "retention")) {
            how = how.withRetention(ms(store, "retention"));
        }
        if (has(store, "backend")) {
            how = how.withStoreType(
                    store.get("backend").asText().equals("memory")
                            ? Materialized.StoreType.IN_MEMORY
                            : Materialized.StoreType.ROCKS_DB);
        }
        if (has(store, "cache")) {
            how = store.get("cache").asBoolean() ? how.withCachingEnabled() : how.withCachingDisabled();
        }
        if (store.path("logging").isBoolean() && !store.get("logging").asBoolean()) {
            how = how.withLoggingDisabled();
        }
        return how;
    }

    private static StoreBuilder<? extends StateStore> storeBuilder(JsonNode store) {
        String name = store.get("name").asText();
        Serde<Object> key = Values.serde(store.get("key").asText());
        Serde<Object> value = Values.serde(store.get("value").asText());
        boolean memory = !store.path("backend").asText().equals("rocksdb");
        boolean duplicates = store.path("duplicates").asBoolean();
        StoreBuilder<? extends StateStore> built = switch (store.get("type").asText()) {
            case "kv" -> Stores.keyValueStoreBuilder(
                    memory ? Stores.inMemoryKeyValueStore(name) : Stores.persistentKeyValueStore(name), key, value);
            case "lru" -> Stores.keyValueStoreBuilder(Stores.lruMap(name, store.get("lru").asInt()), key, value);
            case "timestamped" -> Stores.timestampedKeyValueStoreBuilder(
                    memory ? Stores.inMemoryKeyValueStore(name) : Stores.persistentTimestampedKeyValueStore(name),
                    key,
                    value);
            case "headed" -> Stores.timestampedKeyValueStoreWithHeadersBuilder(
                    memory ? Stores.inMemoryKeyValueStore(name) : Stores.persistentTimestampedKeyValueStoreWithHeaders(name),
                    key,
                    value);
            case "headed_window" -> Stores.timestampedWindowStoreWithHeadersBuilder(
                    Stores.inMemoryWindowStore(name, ms(store, "retention"), ms(store, "size"), duplicates), key, value);
            case "headed_session" -> Stores.sessionStoreWithHeadersBuilder(
                    Stores.inMemorySessionStore(name, ms(store, "retention")), key, value);
            case "versioned" -> {
                VersionedBytesStoreSupplier supplier = Stores.persistentVersionedKeyValueStore(name, ms(store, "history"));
                yield Stores.versionedKeyValueStoreBuilder(supplier, key, value);
            }
            case "window" -> Stores.windowStoreBuilder(
                    memory
                            ? Stores.inMemoryWindowStore(name, ms(store, "retention"), ms(store, "size"), duplicates)
                            : Stores.persistentWindowStore(name, ms(store, "retention"), ms(store, "size"), duplicates),
                    key,
                    value);
            case "session" -> Stores.sessionStoreBuilder(
                    memory
                            ? Stores.inMemorySessionStore(name, ms(store, "retention"))
                            : Stores.persistentSessionStore(name, ms(store, "retention")),
                    key,
                    value);
            default -> throw new IllegalArgumentException("no store: " + store);
        };
        if (has(store, "cache")) {
            built = store.get("cache").asBoolean() ? built.withCachingEnabled() : built.withCachingDisabled();
        }
        if (store.path("logging").isBoolean() && !store.get("logging").asBoolean()) {
            built = built.withLoggingDisabled();
        }
        return built;
    }

    // --- The Processor API's Topology

    private void add(String op, JsonNode node) {
        String name = id(node);
        switch (op) {
            case "add_source" -> {
                TimestampExtractor extractor = has(node, "timestamps") ? extractor(node.get("timestamps")) : null;
                topology.addSource(
                        (org.apache.kafka.streams.AutoOffsetReset) null,
                        name,
                        extractor,
                        type(node, 0).deserializer(),
                        type(node, 1).deserializer(),
                        strings(node.get("topics")));
            }
            case "add_processor" -> {
                ProcessorSupplier<Object, Object, Object, Object> supplier =
                        () -> Scripts.processor(node.get("script"), (k, v) -> saw(node, k, v));
                topology.addProcessor(name, supplier, strings(node.get("in")));
            }
            case "add_sink" -> {
                if (has(node, "topic")) {
                    topology.addSink(
                            name,
                            node.get("topic").asText(),
                            type(node, 0).serializer(),
                            type(node, 1).serializer(),
                            has(node, "partitioner") ? partitioner(node.get("partitioner")) : null,
                            strings(node.get("in")));
                } else {
                    Functions.Fn f = fn(node, "topic_fn");
                    topology.addSink(
                            name,
                            (key, value, context) -> (String) f.of(key, value),
                            type(node, 0).serializer(),
                            type(node, 1).serializer(),
                            strings(node.get("in")));
                }
            }
            case "add_store" -> topology.addStateStore(storeBuilder(node.get("store")), strings(node.get("in")));
            case "add_connection" ->
                topology.connectProcessorAndStateStores(node.get("in").get(0).asText(), strings(node.get("stores")));
            case "add_global_store" -> topology.addGlobalStore(
                    ((StoreBuilder) storeBuilder(node.get("store"))).withLoggingDisabled(),
                    name + "-source",
                    type(node, 0).deserializer(),
                    type(node, 1).deserializer(),
                    node.get("topic").asText(),
                    name,
                    (ProcessorSupplier)
                            (ProcessorSupplier<Object, Object, Object, Object>)
                                    () -> Scripts.processor(node.get("script"), (k, v) -> saw(node, k, v)));
            case "add_read_only_store" -> topology.addReadOnlyStateStore(
                    (StoreBuilder) storeBuilder(node.get("store")),
                    name + "-source",
                    type(node, 0).deserializer(),
                    type(node, 1).deserializer(),
                    node.get("topic").asText(),
                    name,
                    (ProcessorSupplier)
                            (ProcessorSupplier<Object, Object, Object, Object>)
                                    () -> Scripts.processor(node.get("script"), (k, v) -> saw(node, k, v)));
            default -> throw new IllegalArgumentException("no operation: " + op);
        }
    }
}
