import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.SessionWindows;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.kstream.Joined;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.kstream.WindowedSerdes;

/**
 * One topology on Kafka Streams, to the end of its input: one thread, exactly once, stores in memory, commits every 100 ms.
 * Arguments: bootstrap, application id, case, records in all, records after which the clock starts (the JVM is warm then).
 * Prints one JSON object: seconds and CPU seconds of the rest, to the last moment at which anything was done.
 */
public final class StreamsBench {
    static final ObjectMapper JSON = new ObjectMapper();
    static final AtomicLong SEEN = new AtomicLong();
    /** Whatever is done for a record, also behind a shuffle. */
    static final AtomicLong WORK = new AtomicLong();
    static final long QUIET_NS = 8_000_000_000L;
    static long warm, total;
    static volatile long[] began;

    static long[] now() {
        var os = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        return new long[] {System.nanoTime(), os.getProcessCpuTime()};
    }

    /** Counts what the application reads of its inputs: each record's value is read once. */
    static void seen() {
        WORK.incrementAndGet();
        if (SEEN.incrementAndGet() == warm) {
            began = now();
        }
    }

    static JsonNode parse(byte[] data) {
        try {
            return data == null ? null : JSON.readTree(data);
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    static Serde<JsonNode> json(boolean input) {
        Serializer<JsonNode> serializer = (topic, node) -> {
            try {
                return node == null ? null : JSON.writeValueAsBytes(node);
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        };
        Deserializer<JsonNode> deserializer = (topic, data) -> {
            JsonNode node = parse(data);
            if (input) {
                seen();
            }
            return node;
        };
        return Serdes.serdeFrom(serializer, deserializer);
    }

    static ObjectNode fold(String key, JsonNode value, JsonNode aggregate) {
        WORK.incrementAndGet();
        ObjectNode made = JSON.createObjectNode();
        made.put("n", aggregate.get("n").asLong() + 1);
        made.put("total", aggregate.get("total").asLong() + value.get("amount").asLong());
        return made;
    }

    static ObjectNode less(String key, JsonNode value, JsonNode aggregate) {
        ObjectNode made = JSON.createObjectNode();
        made.put("n", aggregate.get("n").asLong() - 1);
        made.put("total", aggregate.get("total").asLong() - value.get("amount").asLong());
        return made;
    }

    static ObjectNode merge(String key, JsonNode one, JsonNode other) {
        ObjectNode made = JSON.createObjectNode();
        made.put("n", one.get("n").asLong() + other.get("n").asLong());
        made.put("total", one.get("total").asLong() + other.get("total").asLong());
        return made;
    }

    static ObjectNode nothing() {
        return JSON.createObjectNode().put("n", 0L).put("total", 0L);
    }

    static JsonNode joined(JsonNode left, JsonNode right) {
        ObjectNode made = ((ObjectNode) left).deepCopy();
        right.fields().forEachRemaining(f -> made.set("r_" + f.getKey(), f.getValue()));
        return made;
    }

    static void windowed(KTable<Windowed<String>, JsonNode> table, Serde<Windowed<String>> key, String out) {
        table.toStream().to(out, Produced.with(key, json(false)));
    }

    public static void main(String[] args) throws Exception {
        String bootstrap = args[0], app = args[1], which = args[2];
        total = Long.parseLong(args[3]);
        warm = Long.parseLong(args[4]);
        String out = app + "-out";
        var builder = new StreamsBuilder();
        Serde<JsonNode> in = json(true), inside = json(false);
        KStream<String, JsonNode> events = builder.stream("events", Consumed.with(Serdes.String(), in));
        var size = Duration.ofMinutes(1);
        var grace = Duration.ofSeconds(10);
        switch (which) {
            case "windows", "shuffled" -> {
                var grouped = which.equals("windows")
                    ? events.groupByKey(Grouped.with(Serdes.String(), inside))
                    : events.groupBy((k, v) -> v.get("shop").asText(), Grouped.with("by-shop", Serdes.String(), inside));
                windowed(grouped.windowedBy(TimeWindows.ofSizeAndGrace(size, grace))
                    .aggregate(StreamsBench::nothing, StreamsBench::fold, Materialized.with(Serdes.String(), inside)),
                    WindowedSerdes.timeWindowedSerdeFrom(String.class, size.toMillis()), out);
            }
            case "sessions" -> windowed(events.groupByKey(Grouped.with(Serdes.String(), inside))
                .windowedBy(SessionWindows.ofInactivityGapAndGrace(Duration.ofSeconds(5), grace))
                .aggregate(StreamsBench::nothing, StreamsBench::fold, StreamsBench::merge, Materialized.with(Serdes.String(), inside)),
                WindowedSerdes.sessionWindowedSerdeFrom(String.class), out);
            case "stream_table" -> {
                KTable<String, JsonNode> users = builder.table("users", Consumed.with(Serdes.String(), in));
                events.join(users, StreamsBench::joined, Joined.with(Serdes.String(), inside, inside))
                    .to(out, Produced.with(Serdes.String(), inside));
            }
            case "stream_stream" -> {
                KStream<String, JsonNode> others = builder.stream("users", Consumed.with(Serdes.String(), in));
                events.join(others, StreamsBench::joined, JoinWindows.ofTimeDifferenceAndGrace(Duration.ofSeconds(10), grace),
                    StreamJoined.with(Serdes.String(), inside, inside)).to(out, Produced.with(Serdes.String(), inside));
            }
            case "table_groups" -> events.toTable(Materialized.with(Serdes.String(), inside))
                .groupBy((k, v) -> KeyValue.pair(v.get("shop").asText(), v), Grouped.with("by-shop", Serdes.String(), inside))
                .aggregate(StreamsBench::nothing, StreamsBench::fold, StreamsBench::less, Materialized.with(Serdes.String(), inside))
                .toStream().to(out, Produced.with(Serdes.String(), inside));
            default -> throw new IllegalArgumentException(which);
        }
        var settings = new Properties();
        settings.putAll(Map.of(
            StreamsConfig.APPLICATION_ID_CONFIG, app,
            StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap,
            StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2,
            StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1,
            StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100,
            StreamsConfig.DSL_STORE_SUPPLIERS_CLASS_CONFIG,
            "org.apache.kafka.streams.state.BuiltInDslStoreSuppliers$InMemoryDslStoreSuppliers",
            StreamsConfig.REPLICATION_FACTOR_CONFIG, 1,
            "auto.offset.reset", "earliest"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, args[5]);
        long[] ended = now();
        try (var streams = new KafkaStreams(builder.build(), settings)) {
            streams.start();
            long work = -1;
            while (SEEN.get() < total || System.nanoTime() - ended[0] < QUIET_NS) {
                Thread.sleep(50);
                if (WORK.get() != work) {
                    work = WORK.get();
                    ended = now();
                }
            }
        }
        System.out.printf("{\"seconds\": %.3f, \"cpu\": %.3f, \"records\": %d}%n",
            (ended[0] - began[0]) / 1e9, (ended[1] - began[1]) / 1e9, total - warm);
    }
}
