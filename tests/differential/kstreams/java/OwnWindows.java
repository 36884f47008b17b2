import com.fasterxml.jackson.databind.JsonNode;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.streams.kstream.Windows;
import org.apache.kafka.streams.kstream.internals.TimeWindow;

/** Windows of two lengths in turn; with "more" a record is in the next one, too, which comes "after" or "before" its own. */
final class OwnWindows extends Windows<TimeWindow> {
    private final long first;
    private final long period;
    private final long grace;
    private final String more;

    OwnWindows(JsonNode json) {
        first = json.get("lengths").get(0).asLong();
        period = first + json.get("lengths").get(1).asLong();
        grace = json.path("grace").asLong();
        more = json.path("more").asText();
    }

    private TimeWindow at(long time) {
        long start = time / period * period;
        return time - start < first
                ? new TimeWindow(start, start + first)
                : new TimeWindow(start + first, start + period);
    }

    @Override
    public Map<Long, TimeWindow> windowsFor(long timestamp) {
        TimeWindow own = at(timestamp);
        TimeWindow next = at(own.end());
        Map<Long, TimeWindow> windows = new LinkedHashMap<>();
        for (TimeWindow window : more.equals("before") ? List.of(next, own) : List.of(own, next)) {
            if (window == own || !more.isEmpty()) {
                windows.put(window.start(), window);
            }
        }
        return windows;
    }

    @Override
    public long size() {
        return Math.max(first, period - first);
    }

    @Override
    public long gracePeriodMs() {
        return grace;
    }
}
