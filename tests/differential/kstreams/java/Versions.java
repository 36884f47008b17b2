import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.time.Instant;
import java.util.Properties;
import org.apache.kafka.common.serialization.LongSerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.TestInputTopic;
import org.apache.kafka.streams.TopologyTestDriver;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.query.MultiVersionedKeyQuery;
import org.apache.kafka.streams.query.PositionBound;
import org.apache.kafka.streams.query.QueryConfig;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.VersionedRecord;
import org.apache.kafka.streams.state.VersionedRecordIterator;

/** Versions of a table, asked by `MultiVersionedKeyQuery`: one case a line in, its answers a line out. */
final class Versions {
    public static void main(String[] arguments) throws Exception {
        ObjectMapper json = new ObjectMapper();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            JsonNode asked = json.readTree(line);
            StreamsBuilder builder = new StreamsBuilder();
            builder.table(
                    "in",
                    Consumed.with(Serdes.String(), Serdes.Long()),
                    Materialized.<String, Long>as(Stores.persistentVersionedKeyValueStore(
                                    "kept", Duration.ofMillis(asked.get("history").asLong())))
                            .withKeySerde(Serdes.String())
                            .withValueSerde(Serdes.Long()));
            Properties config = new Properties();
            config.put("application.id", "app");
            config.put("bootstrap.servers", "none:1");
            try (TopologyTestDriver driver = new TopologyTestDriver(builder.build(), config)) {
                TestInputTopic<String, Long> topic =
                        driver.createInputTopic("in", new StringSerializer(), new LongSerializer());
                for (JsonNode put : asked.get("puts")) {
                    topic.pipeInput(
                            put.get(0).asText(), put.get(1).isNull() ? null : put.get(1).asLong(), put.get(2).asLong());
                }
                ArrayNode answers = json.createArrayNode();
                for (JsonNode ask : asked.get("asks")) {
                    MultiVersionedKeyQuery<String, Long> query = MultiVersionedKeyQuery.withKey(ask.get(0).asText());
                    if (!ask.get(1).isNull()) {
                        query = query.fromTime(Instant.ofEpochMilli(ask.get(1).asLong()));
                    }
                    if (!ask.get(2).isNull()) {
                        query = query.toTime(Instant.ofEpochMilli(ask.get(2).asLong()));
                    }
                    query = ask.get(3).asBoolean() ? query.withDescendingTimestamps() : query.withAscendingTimestamps();
                    ArrayNode told = answers.addArray();
                    try (VersionedRecordIterator<Long> found = driver.getVersionedKeyValueStore("kept")
                            .query(query, PositionBound.unbounded(), new QueryConfig(false))
                            .getResult()) {
                        while (found.hasNext()) {
                            VersionedRecord<Long> one = found.next();
                            told.addArray()
                                    .add(one.value())
                                    .add(one.timestamp())
                                    .add(one.validTo().orElse(null));
                        }
                    }
                }
                System.out.println(json.writeValueAsString(answers));
                System.out.flush();
            }
        }
    }
}
