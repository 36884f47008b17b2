import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.kstream.SessionWindowedDeserializer;
import org.apache.kafka.streams.kstream.SessionWindowedSerializer;
import org.apache.kafka.streams.kstream.TimeWindowedDeserializer;
import org.apache.kafka.streams.kstream.TimeWindowedSerializer;
import org.apache.kafka.streams.kstream.Windowed;

/**
 * The values of a case: null, String, Long, Double, byte[], List, Windowed. Their JSON, their text, their serdes.
 *
 * <p>There is one kind of integer, Long: "int32" is a serde, not a value. A byte[] is {"hex": "00ff"}, a key with a window
 * {"w": [key, start, end]}.
 */
final class Values {
    static final ObjectMapper JSON = new ObjectMapper();
    static final JsonNodeFactory NODES = JsonNodeFactory.instance;

    private Values() {}

    static Object of(JsonNode node) {
        if (node == null || node.isNull()) {
            return null;
        }
        if (node.isTextual()) {
            return node.asText();
        }
        if (node.isIntegralNumber()) {
            return node.asLong();
        }
        if (node.isNumber()) {
            return node.asDouble();
        }
        if (node.isArray()) {
            List<Object> list = new ArrayList<>();
            node.forEach(element -> list.add(of(element)));
            return list;
        }
        if (node.has("hex")) {
            return HexFormat.of().parseHex(node.get("hex").asText());
        }
        throw new IllegalArgumentException("no value: " + node);
    }

    static JsonNode json(Object value) {
        if (value == null) {
            return NODES.nullNode();
        }
        if (value instanceof String text) {
            return NODES.textNode(text);
        }
        if (value instanceof Long number) {
            return NODES.numberNode(number);
        }
        if (value instanceof Integer number) {
            return NODES.numberNode(number);
        }
        if (value instanceof Double number) {
            return NODES.numberNode(number);
        }
        if (value instanceof byte[] bytes) {
            return NODES.objectNode().put("hex", HexFormat.of().formatHex(bytes));
        }
        if (value instanceof List<?> list) {
            ArrayNode array = NODES.arrayNode();
            list.forEach(element -> array.add(json(element)));
            return array;
        }
        if (value instanceof Windowed<?> windowed) {
            ArrayNode array = NODES.arrayNode();
            array.add(json(windowed.key())).add(windowed.window().start()).add(windowed.window().end());
            return NODES.objectNode().set("w", array);
        }
        throw new IllegalArgumentException("no value: " + value.getClass());
    }

    /** A value as user functions see it as text. */
    static String text(Object value) {
        if (value instanceof String text) {
            return text;
        }
        if (value instanceof Windowed<?> windowed) {
            return text(windowed.key()) + "@" + windowed.window().start() + "/" + windowed.window().end();
        }
        if (value instanceof byte[] bytes) {
            return HexFormat.of().formatHex(bytes);
        }
        return write(json(value));
    }

    static String write(JsonNode node) {
        try {
            return JSON.writeValueAsString(node);
        } catch (JsonProcessingException e) {
            throw new IllegalStateException(e);
        }
    }

    static JsonNode read(String text) {
        try {
            return JSON.readTree(text);
        } catch (JsonProcessingException e) {
            throw new SerializationException(e.getMessage());
        }
    }

    /** string, int64, int32, double, bytes, json, windowed:INNER:SIZE, session:INNER. */
    static Serde<Object> serde(String type) {
        switch (type) {
            case "string" -> {
                return serde((t, v) -> ((String) v).getBytes(StandardCharsets.UTF_8), Serdes.String().deserializer());
            }
            case "int64" -> {
                Serializer<Long> to = Serdes.Long().serializer();
                return serde((t, v) -> to.serialize(t, (Long) v), Serdes.Long().deserializer());
            }
            case "int32" -> {
                Serializer<Integer> to = Serdes.Integer().serializer();
                Deserializer<Integer> from = Serdes.Integer().deserializer();
                return serde(
                        (t, v) -> to.serialize(t, Math.toIntExact((Long) v)),
                        (t, bytes) -> bytes == null ? null : (Object) from.deserialize(t, bytes).longValue());
            }
            case "double" -> {
                Serializer<Double> to = Serdes.Double().serializer();
                return serde((t, v) -> to.serialize(t, (Double) v), Serdes.Double().deserializer());
            }
            case "bytes" -> {
                return serde((t, v) -> (byte[]) v, Serdes.ByteArray().deserializer());
            }
            case "json" -> {
                return serde(
                        (t, v) -> write(json(v)).getBytes(StandardCharsets.UTF_8),
                        (t, bytes) -> bytes == null ? null : of(read(new String(bytes, StandardCharsets.UTF_8))));
            }
            default -> {}
        }
        if (type.startsWith("session:")) {
            Serde<Object> inner = serde(type.substring("session:".length()));
            return windows(
                    new SessionWindowedSerializer<>(inner.serializer()),
                    new SessionWindowedDeserializer<>(inner.deserializer()));
        }
        if (type.startsWith("windowed:")) {
            int last = type.lastIndexOf(':');
            Serde<Object> inner = serde(type.substring("windowed:".length(), last));
            return windows(
                    new TimeWindowedSerializer<>(inner.serializer()),
                    new TimeWindowedDeserializer<>(inner.deserializer(), Long.parseLong(type.substring(last + 1))));
        }
        throw new IllegalArgumentException("no type: " + type);
    }

    /** The DSL looks for the windowed serializers by their classes, so these must not be wrapped. */
    @SuppressWarnings({"unchecked", "rawtypes"})
    private static Serde<Object> windows(Serializer serializer, Deserializer deserializer) {
        return Serdes.serdeFrom(serializer, deserializer);
    }

    @SuppressWarnings({"unchecked", "rawtypes"})
    private static Serde<Object> serde(Serializer<Object> notNull, Deserializer deserializer) {
        return Serdes.serdeFrom((topic, value) -> value == null ? null : notNull.serialize(topic, value), deserializer);
    }
}
