import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.UUID;
import com.fasterxml.jackson.databind.JsonNode;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.kafka.streams.kstream.SessionWindowedSerializer;
import org.apache.kafka.streams.kstream.TimeWindowedSerializer;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.kstream.internals.SessionWindow;
import org.apache.kafka.streams.kstream.internals.TimeWindow;

/** Lines "serde TAB value" in; the bytes that Java's serialiser makes of it, in hex, out; "-" for no bytes. */
public class Vectors {
    private static final ObjectMapper JSON = new ObjectMapper();

    private static byte[] bytes(String serde, String text) throws Exception {
        if (text.equals("-")) {
            return Serdes.String().serializer().serialize("t", null);
        }
        String[] parts = text.split(" ", 3);
        return switch (serde) {
            case "string" -> Serdes.String().serializer().serialize("t", JSON.readValue(text, String.class));
            case "bytes" -> Serdes.ByteArray().serializer().serialize("t", HexFormat.of().parseHex(text));
            case "int16" -> Serdes.Short().serializer().serialize("t", Short.valueOf(text));
            case "int32" -> Serdes.Integer().serializer().serialize("t", Integer.valueOf(text));
            case "int64" -> Serdes.Long().serializer().serialize("t", Long.valueOf(text));
            case "float32" -> Serdes.Float().serializer().serialize("t", Float.valueOf(text));
            case "float64" -> Serdes.Double().serializer().serialize("t", Double.valueOf(text));
            case "boolean" -> Serdes.Boolean().serializer().serialize("t", Boolean.valueOf(text));
            case "uuid" -> Serdes.UUID().serializer().serialize("t", UUID.fromString(text));
            case "decimal" -> new BigDecimal(text).unscaledValue().toByteArray();
            case "json" -> JSON.writeValueAsBytes(JSON.readTree(text));
            case "list" -> list(text);
            case "time_windowed" -> new TimeWindowedSerializer<>(Serdes.String().serializer()).serialize(
                "t", new Windowed<>(parts[2], new TimeWindow(Long.parseLong(parts[0]), Long.parseLong(parts[1]))));
            case "session_windowed" -> new SessionWindowedSerializer<>(Serdes.String().serializer()).serialize(
                "t", new Windowed<>(parts[2], new SessionWindow(Long.parseLong(parts[0]), Long.parseLong(parts[1]))));
            default -> throw new IllegalArgumentException(serde);
        };
    }

    /** "items' serde, a space, JSON list". */
    @SuppressWarnings("unchecked")
    private static byte[] list(String text) throws Exception {
        String[] parts = text.split(" ", 2);
        List<Object> items = new ArrayList<>();
        for (JsonNode item : JSON.readTree(parts[1])) {
            items.add(
                item.isNull() ? null
                : switch (parts[0]) {
                    case "int16" -> (Object) (short) item.asInt();
                    case "int32" -> item.asInt();
                    case "int64" -> item.asLong();
                    case "float32" -> (float) item.asDouble();
                    case "float64" -> item.asDouble();
                    case "uuid" -> UUID.fromString(item.asText());
                    default -> item.asText();
                });
        }
        Serde<?> inner = switch (parts[0]) {
            case "int16" -> Serdes.Short();
            case "int32" -> Serdes.Integer();
            case "int64" -> Serdes.Long();
            case "float32" -> Serdes.Float();
            case "float64" -> Serdes.Double();
            case "uuid" -> Serdes.UUID();
            default -> Serdes.String();
        };
        return Serdes.ListSerde(ArrayList.class, (Serde<Object>) inner).serializer().serialize("t", items);
    }

    public static void main(String[] arguments) throws Exception {
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        var out = new StringBuilder();
        for (String line; (line = lines.readLine()) != null; ) {
            int tab = line.indexOf('\t');
            byte[] made = bytes(line.substring(0, tab), line.substring(tab + 1));
            out.append(made == null ? "-" : HexFormat.of().formatHex(made)).append('\n');
        }
        System.out.print(out);
    }
}
