import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;

/**
 * Runs cases as real applications on a broker, whose address is the only argument: one JSON object a line in, one line out.
 * A case names its application ("app") and its topics as they are called there; the inputs are in them already. It is over
 * when everything that there is has been processed and committed, exactly once.
 */
public final class Live {
    private static final long TIMEOUT_MS = 60_000;

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), false, StandardCharsets.UTF_8);
        System.setOut(System.err); // a library that prints must not garble the answers
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        Path scratch = Files.createTempDirectory("live");
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", args[0]))) {
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                out.println(Values.write(run(Values.JSON.readTree(line), args[0], admin, scratch)));
                out.flush();
            }
        }
    }

    private static ObjectNode run(JsonNode asked, String bootstrap, Admin admin, Path scratch) throws Exception {
        ObjectNode result = Values.NODES.objectNode();
        result.put("name", asked.get("name").asText());
        String app = asked.get("app").asText();
        Properties config = Recorder.config(asked, scratch);
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, app);
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 50L);
        config.put("auto.offset.reset", "earliest");
        AtomicReference<Throwable> failed = new AtomicReference<>();
        try (KafkaStreams streams = new KafkaStreams(
                new Build(asked, Collections.synchronizedList(new ArrayList<>())).build(), config)) {
            streams.setUncaughtExceptionHandler(error -> {
                failed.compareAndSet(null, error);
                return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
            });
            streams.start();
            long deadline = System.currentTimeMillis() + TIMEOUT_MS;
            while (failed.get() == null && !isSurelyDone(asked, app, admin)) {
                if (System.currentTimeMillis() > deadline) {
                    throw new IllegalStateException(app + " did not come to an end: " + streams.state());
                }
                Thread.sleep(50);
            }
            if (failed.get() == null) {
                streams.close(Duration.ofSeconds(20));
            }
        }
        if (failed.get() != null) {
            result.set("error", Recorder.error("run", failed.get()));
        }
        return result;
    }

    /** An internal topic that is being made may be listed before its partitions have leaders. */
    private static boolean isSurelyDone(JsonNode asked, String app, Admin admin) throws Exception {
        try {
            return isDone(asked, app, admin);
        } catch (ExecutionException e) {
            if (e.getCause() instanceof UnknownTopicOrPartitionException) {
                return false;
            }
            throw e;
        }
    }

    /**
     * Positions first, then ends: what was written in between makes it say no. The last offset may be a marker's. Where readers
     * of what is committed see less than there is, a marker is still to come.
     */
    private static boolean isDone(JsonNode asked, String app, Admin admin) throws Exception {
        Map<TopicPartition, OffsetAndMetadata> committed =
                admin.listConsumerGroupOffsets(app).partitionsToOffsetAndMetadata().get();
        Set<String> topics = new HashSet<>();
        asked.get("topics").properties().forEach(topic -> {
            if (!topic.getValue().path("out").asBoolean() && !topic.getValue().path("global").asBoolean()) {
                topics.add(topic.getKey());
            }
        });
        for (String topic : admin.listTopics().names().get()) {
            if (topic.startsWith(app + "-") && (topic.endsWith("-repartition") || topic.endsWith("-topic"))) {
                topics.add(topic);
            }
        }
        Map<TopicPartition, OffsetSpec> asks = new HashMap<>();
        admin.describeTopics(topics).allTopicNames().get().forEach((topic, about) -> about.partitions()
                .forEach(partition -> asks.put(new TopicPartition(topic, partition.partition()), OffsetSpec.latest())));
        var settled = admin.listOffsets(asks, new ListOffsetsOptions(IsolationLevel.READ_COMMITTED)).all().get();
        var ends = admin.listOffsets(asks, new ListOffsetsOptions(IsolationLevel.READ_UNCOMMITTED)).all().get();
        return ends.entrySet().stream().allMatch(end -> {
            if (settled.get(end.getKey()).offset() != end.getValue().offset()) {
                return false;
            }
            OffsetAndMetadata position = committed.get(end.getKey());
            return end.getValue().offset() - (position == null ? 0 : position.offset()) <= 1;
        });
    }
}
