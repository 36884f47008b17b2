import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.Stream;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.TestInputTopic;
import org.apache.kafka.streams.TestOutputTopic;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.TopologyTestDriver;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.StateStore;
import org.apache.kafka.streams.state.BuiltInDslStoreSuppliers;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.SessionStore;
import org.apache.kafka.streams.state.ValueAndTimestamp;
import org.apache.kafka.streams.state.VersionedKeyValueStore;
import org.apache.kafka.streams.state.VersionedRecord;
import org.apache.kafka.streams.state.WindowStore;
import org.apache.kafka.streams.test.TestRecord;

/**
 * Runs cases (README.md) on Kafka Streams' TopologyTestDriver: one JSON object a line in, one line out, until the input
 * ends. With the word "functions" as its argument it evaluates user functions instead: [kind, function, arguments…].
 */
public final class Recorder {
    /** How long the driver's clock says it is when a case starts, unless the case says. */
    private static final long START_MS = 0;

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), false, StandardCharsets.UTF_8);
        System.setOut(System.err); // a library that prints must not garble the answers
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        boolean functions = args.length > 0 && args[0].equals("functions");
        Path scratch = Files.createTempDirectory("recorder");
        try {
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                JsonNode asked = Values.JSON.readTree(line);
                out.println(Values.write(functions ? evaluate(asked) : run(asked, scratch)));
                out.flush();
            }
        } finally {
            delete(scratch);
        }
    }

    private static void delete(Path folder) throws IOException {
        try (Stream<Path> files = Files.walk(folder)) {
            files.sorted(Comparator.reverseOrder()).forEach(file -> file.toFile().delete());
        }
    }

    private static JsonNode evaluate(JsonNode asked) {
        try {
            Object[] arguments = new Object[asked.size() - 2];
            for (int i = 0; i < arguments.length; i++) {
                arguments[i] = Values.of(asked.get(i + 2));
            }
            Object result = asked.get(0).asText().equals("fn")
                    ? Functions.fn(asked.get(1)).of(arguments[0], arguments[1])
                    : Functions.fn2(asked.get(1)).of(arguments[0], arguments[1], arguments[2]);
            return result instanceof Boolean holds
                    ? Values.NODES.booleanNode(holds)
                    : Values.json(result);
        } catch (RuntimeException e) {
            return Values.NODES.objectNode().put("fails", true);
        }
    }

    private static ObjectNode run(JsonNode asked, Path scratch) {
        ObjectNode result = Values.NODES.objectNode();
        result.put("name", asked.get("name").asText());
        List<Object[]> seen = new ArrayList<>();
        Handlers.seen = seen;
        Handlers.cached = asked.path("options").path("cache").asBoolean();
        Topology topology;
        try {
            topology = new Build(asked, seen).build();
        } catch (RuntimeException e) {
            result.set("error", error("build", e));
            return result;
        }
        TopologyTestDriver driver;
        try {
            long start = asked.path("options").path("wall_clock").asLong(START_MS);
            driver = new TopologyTestDriver(topology, config(asked, scratch), Instant.ofEpochMilli(start));
        } catch (RuntimeException e) {
            result.set("error", error("start", e));
            return result;
        }
        try {
            new Run(asked, driver, seen, result).all();
        } finally {
            try {
                driver.close();
            } catch (RuntimeException e) {
                // What broke the case can break its end, too; the case has told.
                if (!result.has("error")) {
                    result.set("error", error("close", e));
                }
            }
        }
        return result;
    }

    static ObjectNode error(String at, Throwable e) {
        Throwable root = e;
        while (root.getCause() != null && root.getCause() != root) {
            root = root.getCause();
        }
        String message = String.valueOf(root.getMessage());
        return Values.NODES.objectNode()
                .put("at", at)
                .put("class", e.getClass().getSimpleName())
                .put("cause", root.getClass().getSimpleName())
                .put("message", message.substring(0, Math.min(message.length(), 200)));
    }

    static Properties config(JsonNode asked, Path scratch) {
        JsonNode options = asked.path("options");
        Properties config = new Properties();
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, "app");
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, "none:1");
        config.put(StreamsConfig.STATE_DIR_CONFIG, scratch.toString());
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, options.path("cache").asBoolean() ? 1 << 20 : 0);
        config.put(
                StreamsConfig.DSL_STORE_SUPPLIERS_CLASS_CONFIG,
                options.path("store").asText().equals("rocksdb")
                        ? BuiltInDslStoreSuppliers.RocksDBDslStoreSuppliers.class
                        : BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers.class);
        // Else windows that emit on close, and joins that wait for a match, look at most once a second.
        config.put(StreamsConfig.InternalConfig.EMIT_INTERVAL_MS_KSTREAMS_WINDOWED_AGGREGATION, 0L);
        config.put(StreamsConfig.InternalConfig.EMIT_INTERVAL_MS_KSTREAMS_OUTER_JOIN_SPURIOUS_RESULTS_FIX, 0L);
        if (options.path("optimize").asBoolean()) {
            config.put(StreamsConfig.TOPOLOGY_OPTIMIZATION_CONFIG, StreamsConfig.OPTIMIZE);
        }
        if (options.path("deserialization").asText().equals("continue")) {
            config.put(
                    StreamsConfig.DESERIALIZATION_EXCEPTION_HANDLER_CLASS_CONFIG,
                    org.apache.kafka.streams.errors.LogAndContinueExceptionHandler.class);
        }
        if (options.path("deserialization").asText().equals("some")) {
            config.put(StreamsConfig.DESERIALIZATION_EXCEPTION_HANDLER_CLASS_CONFIG, Handlers.Unread.class);
        }
        if (options.path("deserialization").asText().equals("told")) {
            config.put(StreamsConfig.DESERIALIZATION_EXCEPTION_HANDLER_CLASS_CONFIG, Handlers.ToldUnread.class);
        }
        if (options.path("processing").asText().equals("told")) {
            config.put(StreamsConfig.PROCESSING_EXCEPTION_HANDLER_CLASS_CONFIG, Handlers.ToldUnprocessed.class);
        }
        if (options.path("processing").asText().equals("some")) {
            config.put(StreamsConfig.PROCESSING_EXCEPTION_HANDLER_CLASS_CONFIG, Handlers.Unprocessed.class);
        }
        if (options.path("processing").asText().equals("continue")) {
            config.put(
                    StreamsConfig.PROCESSING_EXCEPTION_HANDLER_CLASS_CONFIG,
                    org.apache.kafka.streams.errors.LogAndContinueProcessingExceptionHandler.class);
        }
        options.path("config").properties().forEach(entry -> config.put(entry.getKey(), entry.getValue().asText()));
        return config;
    }

    /** One case on one driver. */
    private static final class Run {
        private final JsonNode asked;
        private final TopologyTestDriver driver;
        private final List<Object[]> seen;
        private final ObjectNode result;
        private final Map<String, Serde<Object>[]> serdes = new HashMap<>();
        private final Map<String, TestInputTopic<byte[], byte[]>> inputs = new HashMap<>();
        private final Map<String, TestOutputTopic<Object, Object>> outputs = new LinkedHashMap<>();

        @SuppressWarnings({"unchecked", "rawtypes"})
        Run(JsonNode asked, TopologyTestDriver driver, List<Object[]> seen, ObjectNode result) {
            this.asked = asked;
            this.driver = driver;
            this.seen = seen;
            this.result = result;
            asked.get("topics").properties().forEach(topic -> {
                Serde<Object> key = Values.serde(topic.getValue().get("key").asText());
                Serde<Object> value = Values.serde(topic.getValue().get("value").asText());
                serdes.put(topic.getKey(), new Serde[] {key, value});
                if (topic.getValue().path("out").asBoolean()) {
                    outputs.put(
                            topic.getKey(),
                            driver.createOutputTopic(topic.getKey(), key.deserializer(), value.deserializer()));
                }
            });
        }

        void all() {
            ArrayNode steps = result.putArray("steps");
            long dropped = 0;
            int number = 0;
            for (JsonNode input : asked.get("inputs")) {
                ObjectNode step = steps.addObject();
                try {
                    if (input.has("advance_wall_clock")) {
                        driver.advanceWallClockTime(Duration.ofMillis(input.get("advance_wall_clock").asLong()));
                    } else {
                        pipe(input);
                    }
                } catch (RuntimeException e) {
                    result.set("error", error(Integer.toString(number), e));
                }
                tell(step);
                long now = dropped();
                if (now != dropped) {
                    step.put("dropped", now - dropped);
                    dropped = now;
                }
                if (result.has("error")) {
                    return;
                }
                number++;
            }
            stores(result.putObject("stores"));
        }

        private void pipe(JsonNode input) {
            String topic = input.get("topic").asText();
            RecordHeaders headers = new RecordHeaders();
            for (JsonNode header : input.path("headers")) {
                JsonNode value = header.get(1);
                headers.add(header.get(0).asText(), value.isNull() ? null : value.asText().getBytes(StandardCharsets.UTF_8));
            }
            inputs.computeIfAbsent(
                            topic,
                            name -> driver.createInputTopic(name, new ByteArraySerializer(), new ByteArraySerializer()))
                    .pipeInput(new TestRecord<>(
                            bytes(topic, 0, input.get("key")),
                            bytes(topic, 1, input.get("value")),
                            headers,
                            input.get("ts").asLong()));
        }

        /** As the topic's serde makes them, or the very bytes that the case gives. */
        private byte[] bytes(String topic, int which, JsonNode json) {
            Object value = Values.of(json);
            return value instanceof byte[] raw ? raw : serdes.get(topic)[which].serializer().serialize(topic, value);
        }

        private void tell(ObjectNode step) {
            outputs.forEach((topic, output) -> {
                if (output.isEmpty()) {
                    return;
                }
                ArrayNode records = step.withObject("/out").putArray(topic);
                for (TestRecord<Object, Object> record : output.readRecordsToList()) {
                    ArrayNode one = records.addArray();
                    one.add(Values.json(record.key())).add(Values.json(record.value())).add(record.timestamp());
                    ArrayNode headers = Values.NODES.arrayNode();
                    for (Header header : record.headers()) {
                        String value = header.value() == null ? null : new String(header.value(), StandardCharsets.UTF_8);
                        headers.addArray().add(header.key()).add(value);
                    }
                    if (!headers.isEmpty()) {
                        one.add(headers);
                    }
                }
            });
            if (!seen.isEmpty()) {
                ArrayNode all = step.putArray("seen");
                seen.forEach(one -> all.addArray().add((String) one[0]).add(Values.json(one[1])).add(Values.json(one[2])));
                seen.clear();
            }
        }

        private long dropped() {
            return driver.metrics().entrySet().stream()
                    .filter(metric -> metric.getKey().name().equals("dropped-records-total"))
                    .mapToLong(metric -> ((Number) metric.getValue().metricValue()).longValue())
                    .sum();
        }

        // --- What the named stores hold

        private void stores(ObjectNode told) {
            TreeSet<String> names = new TreeSet<>();
            for (JsonNode node : asked.get("nodes")) {
                if (node.path("store").hasNonNull("name")) {
                    names.add(node.get("store").get("name").asText());
                }
            }
            asked.path("stores").forEach(store -> names.add(store.get("name").asText()));
            Map<String, StateStore> all = driver.getAllStateStores();
            for (String name : names) {
                if (all.get(name) != null) {
                    told.set(name, contents(name, all.get(name)));
                }
            }
        }

        @SuppressWarnings("unchecked")
        private ArrayNode contents(String name, StateStore store) {
            ArrayNode told = Values.NODES.arrayNode();
            if (store instanceof VersionedKeyValueStore<?, ?> versioned) {
                Map<String, Object> keys = new TreeMap<>();
                asked.get("inputs").forEach(input -> {
                    Object key = Values.of(input.get("key"));
                    if (key != null && !(key instanceof byte[])) {
                        keys.put(Values.text(key), key);
                    }
                });
                for (Object key : keys.values()) {
                    VersionedRecord<Object> version;
                    try {
                        version = ((VersionedKeyValueStore<Object, Object>) versioned).get(key);
                    } catch (org.apache.kafka.streams.errors.StreamsException e) {
                        continue; // a key of another topic, of another type
                    }
                    if (version != null) {
                        told.addArray().add(Values.json(key)).add(Values.json(version.value())).add(version.timestamp());
                    }
                }
            } else if (store instanceof KeyValueStore<?, ?> table) {
                add(told, ((KeyValueStore<Object, Object>) table).all());
            } else if (store instanceof WindowStore<?, ?> windows) {
                add(told, ((WindowStore<Object, Object>) windows).all());
            } else if (store instanceof SessionStore<?, ?> sessions) {
                add(told, ((SessionStore<Object, Object>) sessions).fetch(null, null));
            } else {
                throw new IllegalStateException(name + " is a " + store.getClass());
            }
            return told;
        }

        private static void add(ArrayNode told, KeyValueIterator<?, Object> iterator) {
            try (iterator) {
                while (iterator.hasNext()) {
                    KeyValue<?, Object> entry = iterator.next();
                    ArrayNode one = told.addArray();
                    if (entry.key instanceof Windowed<?> windowed) {
                        // The end that a window store gives is made of the store's window size, not of the window.
                        one.addArray().add(Values.json(windowed.key())).add(windowed.window().start()).add(windowed.window().end());
                    } else {
                        one.add(Values.json(entry.key));
                    }
                    if (entry.value instanceof ValueAndTimestamp<?> stamped) {
                        one.add(Values.json(stamped.value())).add(stamped.timestamp());
                    } else {
                        one.add(Values.json(Scripts.headed(entry.value)));
                    }
                }
            }
        }
    }
}
