import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedWriter;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.stream.Stream;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.TestInputTopic;
import org.apache.kafka.streams.TestOutputTopic;
import org.apache.kafka.streams.TopologyTestDriver;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.EmitStrategy;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.KGroupedTable;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Suppressed;
import org.apache.kafka.streams.kstream.TimeWindowedKStream;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.StateStore;
import org.apache.kafka.streams.state.WindowStore;
import org.apache.kafka.streams.test.TestRecord;

/**
 * Runs scenarios (see scenarios.py) on the real Kafka Streams: one JSON object a line in, one line out.
 *
 * <p>Everything is text: an event is {"k", "g", "v", "t"}, the state of an aggregate {"r": result, ...}, a result
 * {"k": key, "s": start of the window or null, "r": value}. The test driver commits after every record, so each change is
 * seen, with caches and without. After each record it is written what came out and how many records the tasks have
 * dropped so far.
 */
public final class Recorder {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Serde<String> TEXT = Serdes.String();

    public static void main(String[] args) throws Exception {
        Path scratch = Files.createTempDirectory("recorder");
        try (BufferedWriter out = Files.newBufferedWriter(Path.of(args[1]))) {
            for (String line : Files.readAllLines(Path.of(args[0]))) {
                JsonNode scenario = JSON.readTree(line);
                ObjectNode result = JSON.createObjectNode().put("id", scenario.get("id").asText());
                result.set("steps", run(scenario, scratch));
                out.write(JSON.writeValueAsString(result));
                out.newLine();
            }
        } finally {
            try (Stream<Path> files = Files.walk(scratch)) {
                files.sorted(Comparator.reverseOrder()).forEach(file -> file.toFile().delete());
            }
        }
    }

    private static ArrayNode run(JsonNode scenario, Path scratch) {
        StreamsBuilder builder = new StreamsBuilder();
        build(builder, scenario);
        Properties config = new Properties();
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, scenario.get("id").asText());
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, "none:1");
        config.put(StreamsConfig.STATE_DIR_CONFIG, scratch.toString());
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, scenario.get("cache").asBoolean() ? 1 << 20 : 0);
        // Else windows that emit on close look at most once a second.
        config.put(StreamsConfig.InternalConfig.EMIT_INTERVAL_MS_KSTREAMS_WINDOWED_AGGREGATION, 0L);
        ArrayNode steps = JSON.createArrayNode();
        try (TopologyTestDriver driver = new TopologyTestDriver(builder.build(), config)) {
            List<TestInputTopic<String, String>> inputs = new ArrayList<>();
            for (int i = 0; i < scenario.get("topics").asInt(); i++) {
                inputs.add(driver.createInputTopic("in" + i, new StringSerializer(), new StringSerializer()));
            }
            TestOutputTopic<String, String> output =
                    driver.createOutputTopic("out", new StringDeserializer(), new StringDeserializer());
            for (JsonNode record : scenario.get("records")) {
                ObjectNode event = JSON.createObjectNode();
                event.set("k", record.get(1));
                event.set("g", record.get(2));
                event.set("v", record.get(3));
                event.set("t", record.get(4));
                Instant time = Instant.ofEpochMilli(record.get(4).asLong());
                inputs.get(record.get(0).asInt())
                        .pipeInput(new TestRecord<>(text(record.get(1)), write(event), time));
                ArrayNode came = JSON.createArrayNode();
                for (TestRecord<String, String> result : output.readRecordsToList()) {
                    JsonNode value = read(result.value());
                    came.addArray().add(value.get("k")).add(value.get("s")).add(value.get("r")).add(result.timestamp());
                }
                steps.addArray().add(dropped(driver)).add(came);
            }
        }
        return steps;
    }

    private static long dropped(TopologyTestDriver driver) {
        return driver.metrics().entrySet().stream()
                .filter(metric -> metric.getKey().name().equals("dropped-records-total"))
                .mapToLong(metric -> ((Number) metric.getValue().metricValue()).longValue())
                .sum();
    }

    private static void build(StreamsBuilder builder, JsonNode scenario) {
        KStream<String, String> stream = builder.stream("in0", Consumed.with(TEXT, TEXT));
        for (int i = 1; i < scenario.get("topics").asInt(); i++) {
            stream = stream.merge(builder.stream("in" + i, Consumed.with(TEXT, TEXT)));
        }
        if (!scenario.get("at_least").isNull()) {
            long bound = scenario.get("at_least").asLong();
            stream = stream.filter((key, event) -> {
                JsonNode v = read(event).get("v");
                return !v.isNull() && v.asLong() >= bound;
            });
        }
        KGroupedStream<String, String> grouped;
        switch (scenario.get("by").asText()) {
            case "k" -> grouped = stream.groupByKey(Grouped.with(TEXT, TEXT));
            case "g" -> grouped = stream.groupBy((key, event) -> text(read(event).get("g")), Grouped.with(TEXT, TEXT));
            case "kg" -> grouped = stream.groupBy(Recorder::pair, Grouped.with(TEXT, TEXT));
            default -> throw new IllegalArgumentException(scenario.get("by").asText());
        }
        boolean memory = scenario.get("store").asText().equals("memory");
        Materialized.StoreType type = memory ? Materialized.StoreType.IN_MEMORY : Materialized.StoreType.ROCKS_DB;
        KStream<String, String> results;
        if (scenario.get("size").isNull()) {
            KTable<String, String> table = plain(grouped, scenario.get("fn").asText(), type);
            results = scenario.get("regroup").isNull()
                    ? table.toStream().map((key, state) -> result(key, null, state))
                    : regroup(table.groupBy((key, state) -> member(read(state).get("g"), state), grouping()), type);
        } else {
            KTable<Windowed<String>, String> table = windowed(grouped, scenario, type);
            if (!scenario.get("regroup").isNull()) {
                results = regroup(table.groupBy((key, state) -> started(key, state), grouping()), type);
            } else if (!scenario.get("then").isNull()) {
                table = then(table.toStream().map((key, state) -> KeyValue.pair(key.key(), state)), scenario, type);
                results = table.toStream().map((key, state) -> result(key.key(), key.window().start(), state));
            } else {
                results = table.toStream().map((key, state) -> result(key.key(), key.window().start(), state));
            }
        }
        results.to("out", Produced.with(TEXT, TEXT));
    }

    // --- Tables without windows, of windows, of tables

    private static KTable<String, String> plain(
            KGroupedStream<String, String> grouped, String fn, Materialized.StoreType type) {
        return switch (fn) {
            case "count" -> grouped.count(Materialized.as(type)).mapValues(Recorder::state);
            case "reduce" -> grouped.reduce((old, event) -> event, Materialized.as(type)).mapValues(Recorder::value);
            case "arrived" -> grouped.reduce((old, event) -> event, Materialized.as(type));
            case "newest" -> grouped.reduce(Recorder::newest, Materialized.as(type));
            default -> grouped.aggregate(
                    () -> "{\"r\":null}", (key, event, state) -> add(fn, event, state), with(type));
        };
    }

    private static KTable<Windowed<String>, String> windowed(
            KGroupedStream<String, String> grouped, JsonNode scenario, Materialized.StoreType type) {
        Duration size = Duration.ofMillis(scenario.get("size").asLong());
        Duration grace = Duration.ofMillis(scenario.get("grace").asLong());
        TimeWindowedKStream<String, String> windows = grouped.windowedBy(TimeWindows.ofSizeAndGrace(size, grace));
        String emit = scenario.get("emit").asText();
        if (emit.equals("close")) {
            windows = windows.emitStrategy(EmitStrategy.onWindowClose());
        }
        String fn = scenario.get("fn").asText();
        // Without caches and with the default retention the original loses windows that close when time jumps.
        Duration retention = !scenario.get("retention").isNull()
                ? Duration.ofMillis(scenario.get("retention").asLong())
                : emit.equals("close") ? Duration.ofDays(3650) : size.plus(grace);
        if (fn.equals("count")) {
            Materialized<String, Long, WindowStore<Bytes, byte[]>> counts = Materialized.as(type);
            return closed(windows.count(counts.withRetention(retention)), emit).mapValues(Recorder::state);
        }
        Materialized<String, String, WindowStore<Bytes, byte[]>> store = with(type);
        store = store.withRetention(retention);
        return switch (fn) {
            case "reduce" -> closed(windows.reduce((old, event) -> event, store), emit).mapValues(Recorder::value);
            case "arrived" -> closed(windows.reduce((old, event) -> event, store), emit);
            case "newest" -> closed(windows.reduce(Recorder::newest, store), emit);
            default -> closed(
                    windows.aggregate(() -> "{\"r\":null}", (key, event, state) -> add(fn, event, state), store),
                    emit);
        };
    }

    /** Sums what a table of windows has told, in windows of another size. */
    private static KTable<Windowed<String>, String> then(
            KStream<String, String> told, JsonNode scenario, Materialized.StoreType type) {
        Duration size = Duration.ofMillis(scenario.get("then").asLong());
        Duration grace = Duration.ofMillis(scenario.get("grace").asLong());
        Materialized<String, String, WindowStore<Bytes, byte[]>> store = with(type);
        return told.groupByKey(grouping())
                .windowedBy(TimeWindows.ofSizeAndGrace(size, grace))
                .aggregate(() -> "{\"r\":null}", (key, event, state) -> add("sum", event, state), store);
    }

    private static <V> KTable<Windowed<String>, V> closed(KTable<Windowed<String>, V> table, String emit) {
        return emit.equals("suppress")
                ? table.suppress(Suppressed.untilWindowCloses(Suppressed.BufferConfig.unbounded()))
                : table;
    }

    private static KStream<String, String> regroup(
            KGroupedTable<String, String> members, Materialized.StoreType type) {
        return members.aggregate(
                        () -> "{\"r\":[0,0]}",
                        (key, member, state) -> change(member, state, 1),
                        (key, member, state) -> change(member, state, -1),
                        with(type))
                .toStream()
                .map((key, state) -> result(key, null, state));
    }

    private static <S extends StateStore> Materialized<String, String, S> with(
            Materialized.StoreType type) {
        return Materialized.<String, String, S>as(type).withKeySerde(TEXT).withValueSerde(TEXT);
    }

    private static Grouped<String, String> grouping() {
        return Grouped.with(TEXT, TEXT);
    }

    // --- User functions

    private static String pair(String key, String event) {
        JsonNode read = read(event);
        return write(JSON.createArrayNode().add(read.get("k")).add(read.get("g")));
    }

    private static KeyValue<String, String> member(JsonNode group, String event) {
        return KeyValue.pair(text(group), event);
    }

    private static KeyValue<String, String> started(Windowed<String> key, String event) {
        return KeyValue.pair(Long.toString(key.window().start()), event);
    }

    /** Of two events the one with the later time; of equal times the one that came later. */
    private static String newest(String old, String event) {
        return read(event).get("t").asLong() >= read(old).get("t").asLong() ? event : old;
    }

    private static String add(String fn, String text, String stateText) {
        JsonNode event = read(text);
        ObjectNode state = (ObjectNode) read(stateText);
        if (fn.equals("sum") && state.get("r").isNull()) {
            state.put("r", 0);
        }
        if (event.get("v").isNull()) {
            state.set("v", state.get("r"));
            return write(state);
        }
        long value = event.get("v").asLong();
        long time = event.path("t").asLong();
        boolean none = state.get("r").isNull();
        long old = none ? 0 : state.get("r").asLong();
        boolean takes = switch (fn) {
            case "sum" -> true;
            case "min" -> none || value < old;
            case "max" -> none || value > old;
            case "first" -> none || time < state.get("t").asLong();
            case "last" -> none || time >= state.get("t").asLong();
            default -> throw new IllegalArgumentException(fn);
        };
        if (takes) {
            state.put("r", fn.equals("sum") ? old + value : value).put("t", time);
        }
        state.set("v", state.get("r")); // where this result is an event of the next aggregate
        return write(state);
    }

    private static String change(String member, String stateText, int sign) {
        JsonNode result = read(stateText).get("r");
        JsonNode value = read(member).get("v");
        long sum = result.get(1).asLong() + (value.isNull() ? 0 : sign * value.asLong());
        ObjectNode state = JSON.createObjectNode();
        state.putArray("r").add(result.get(0).asLong() + sign).add(sum);
        return write(state);
    }

    private static String state(Long count) {
        return write(JSON.createObjectNode().put("r", count).put("v", count));
    }

    private static String value(String event) {
        ObjectNode state = JSON.createObjectNode();
        state.set("r", read(event).get("v"));
        state.set("v", read(event).get("v"));
        return write(state);
    }

    private static KeyValue<String, String> result(String key, Long start, String state) {
        ObjectNode result = JSON.createObjectNode().put("k", key).put("s", start);
        result.set("r", read(state).get("r"));
        return KeyValue.pair(key, write(result));
    }

    // --- JSON

    private static String text(JsonNode node) {
        return node.isNull() ? null : node.asText();
    }

    private static JsonNode read(String text) {
        try {
            return JSON.readTree(text);
        } catch (JsonProcessingException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static String write(JsonNode node) {
        try {
            return JSON.writeValueAsString(node);
        } catch (JsonProcessingException e) {
            throw new UncheckedIOException(e);
        }
    }
}
