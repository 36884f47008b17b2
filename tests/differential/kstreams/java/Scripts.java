import com.fasterxml.jackson.databind.JsonNode;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BiConsumer;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.kstream.internals.SessionWindow;
import org.apache.kafka.streams.processor.Cancellable;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.Punctuator;
import org.apache.kafka.streams.processor.StateStore;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.ProcessingContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.processor.api.RecordMetadata;
import org.apache.kafka.streams.state.AggregationWithHeaders;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.SessionStore;
import org.apache.kafka.streams.state.ValueAndTimestamp;
import org.apache.kafka.streams.state.ValueTimestampHeaders;
import org.apache.kafka.streams.state.VersionedKeyValueStore;
import org.apache.kafka.streams.state.VersionedRecord;
import org.apache.kafka.streams.state.WindowStore;
import org.apache.kafka.streams.state.WindowStoreIterator;

/**
 * Processors as data: {"do": [action, …], "every": [{"ms", "type", "do": […]}, …]}.
 *
 * <p>The actions of a record work on its key, value, timestamp and headers; what they read becomes the value. README.md
 * lists them.
 */
final class Scripts {
    private Scripts() {}

    /** What the actions work on. */
    static final class State {
        Object key;
        Object value;
        long time;
        Headers headers;
        boolean stopped;
        FixedKeyRecord<Object, Object> fixed;
    }

    /** What a context of either kind of processor can do. */
    private abstract static class Runner {
        final JsonNode script;
        final BiConsumer<Object, Object> seen;
        final Map<Integer, Cancellable> schedules = new HashMap<>();
        ProcessingContext context;

        Runner(JsonNode script, BiConsumer<Object, Object> seen) {
            this.script = script;
            this.seen = seen;
        }

        abstract void forward(State state, String child);

        abstract long streamTime();

        abstract long systemTime();

        void init(ProcessingContext context) {
            this.context = context;
            script.path("every").forEach(this::schedule);
        }

        private void schedule(JsonNode every) {
            int mine = schedules.size();
            PunctuationType type = every.get("type").asText().equals("stream")
                    ? PunctuationType.STREAM_TIME
                    : PunctuationType.WALL_CLOCK_TIME;
            int[] left = {every.path("times").asInt(Integer.MAX_VALUE)};
            Punctuator punctuator = time -> {
                State state = new State();
                state.value = time;
                state.time = time;
                state.headers = new RecordHeaders();
                run(every.get("do"), state);
                if (--left[0] == 0) {
                    schedules.get(mine).cancel();
                }
            };
            Duration interval = Duration.ofMillis(every.get("ms").asLong());
            schedules.put(
                    mine,
                    every.has("start")
                            ? context.schedule(
                                    Instant.ofEpochMilli(every.get("start").asLong()), interval, type, punctuator)
                            : context.schedule(interval, type, punctuator));
        }

        void run(JsonNode actions, State state) {
            for (JsonNode action : actions) {
                act(action, state);
                if (state.stopped) {
                    return;
                }
            }
        }

        private <S extends StateStore> S store(JsonNode action) {
            return context.getStateStore(action.get(1).asText());
        }

        private void act(JsonNode action, State s) {
            JsonNode a = action.get(1);
            switch (action.get(0).asText()) {
                case "set" -> s.value = Functions.fn(a).of(s.key, s.value);
                case "set_key" -> s.key = Functions.fn(a).of(s.key, s.value);
                case "time" -> s.time += a.asLong();
                case "header" -> {
                    JsonNode value = action.get(2);
                    // Records share their headers object; a copy, as one is told to make.
                    s.headers = new RecordHeaders(s.headers)
                            .add(a.asText(), value.isNull() ? null : value.asText().getBytes(StandardCharsets.UTF_8));
                }
                case "no_header" -> s.headers = new RecordHeaders(s.headers).remove(a.asText());
                case "forward" -> forward(s, a == null || a.isNull() ? null : a.asText());
                case "seen" -> seen.accept(s.key, s.value);
                case "stop_if" -> s.stopped = Functions.fn(a).holds(s.key, s.value);
                case "fail_if" -> {
                    if (Functions.fn(a).holds(s.key, s.value)) {
                        throw new IllegalStateException("asked to fail");
                    }
                }
                case "meta" -> s.value = context.recordMetadata()
                        .map(Scripts::meta)
                        .orElse("none");
                case "stream_time" -> s.value = streamTime();
                case "system_time" -> s.value = systemTime();
                case "task" -> s.value = context.taskId().toString();
                case "commit" -> context.commit();
                case "schedule" -> schedule(a);
                case "cancel" -> schedules.get(a.asInt()).cancel();
                // --- key-value stores
                case "get" -> s.value = this.<KeyValueStore<Object, Object>>store(action).get(s.key);
                case "put" -> this.<KeyValueStore<Object, Object>>store(action).put(s.key, s.value);
                case "put_if_absent" -> s.value =
                        this.<KeyValueStore<Object, Object>>store(action).putIfAbsent(s.key, s.value);
                case "delete" -> s.value = this.<KeyValueStore<Object, Object>>store(action).delete(s.key);
                case "count" -> {
                    KeyValueStore<Object, Object> store = store(action);
                    Object old = store.get(s.key);
                    s.value = old == null ? 1L : (Long) old + 1;
                    store.put(s.key, s.value);
                }
                case "range" -> s.value = pairs(this.<KeyValueStore<Object, Object>>store(action)
                        .range(Values.of(action.get(2)), Values.of(action.get(3))));
                case "reverse_range" -> s.value = pairs(this.<KeyValueStore<Object, Object>>store(action)
                        .reverseRange(Values.of(action.get(2)), Values.of(action.get(3))));
                case "all" -> s.value = pairs(this.<KeyValueStore<Object, Object>>store(action).all());
                case "reverse_all" -> s.value = pairs(this.<KeyValueStore<Object, Object>>store(action).reverseAll());
                case "prefix" -> s.value = pairs(this.<KeyValueStore<Object, Object>>store(action)
                        .prefixScan(action.get(2).asText(), Serdes.String().serializer()));
                case "entries" -> s.value =
                        this.<KeyValueStore<Object, Object>>store(action).approximateNumEntries();
                case "each" -> {
                    List<KeyValue<Object, Object>> entries = new ArrayList<>();
                    try (KeyValueIterator<Object, Object> all =
                            this.<KeyValueStore<Object, Object>>store(action).all()) {
                        all.forEachRemaining(entries::add);
                    }
                    for (KeyValue<Object, Object> entry : entries) {
                        State one = new State();
                        one.key = entry.key;
                        one.value = entry.value;
                        one.time = s.time;
                        one.headers = s.headers;
                        one.fixed = s.fixed;
                        run(action.get(2), one);
                    }
                }
                // --- key-value stores with timestamps
                case "get_stamped" -> s.value = stamped(
                        this.<KeyValueStore<Object, ValueAndTimestamp<Object>>>store(action).get(s.key));
                case "put_stamped" -> this.<KeyValueStore<Object, ValueAndTimestamp<Object>>>store(action)
                        .put(s.key, ValueAndTimestamp.make(s.value, s.time));
                // --- stores with headers
                case "get_headed" -> s.value =
                        headed(this.<KeyValueStore<Object, Object>>store(action).get(s.key));
                case "put_headed" -> this.<KeyValueStore<Object, ValueTimestampHeaders<Object>>>store(action)
                        .put(s.key, ValueTimestampHeaders.make(s.value, s.time, s.headers));
                case "put_headed_if_absent" -> s.value =
                        headed(this.<KeyValueStore<Object, ValueTimestampHeaders<Object>>>store(action)
                                .putIfAbsent(s.key, ValueTimestampHeaders.make(s.value, s.time, s.headers)));
                case "delete_headed" -> s.value =
                        headed(this.<KeyValueStore<Object, Object>>store(action).delete(s.key));
                case "put_headed_window" -> this.<WindowStore<Object, ValueTimestampHeaders<Object>>>store(action)
                        .put(s.key, ValueTimestampHeaders.make(s.value, s.time + 1, s.headers), s.time);
                case "put_headed_session" -> this.<SessionStore<Object, AggregationWithHeaders<Object>>>store(action)
                        .put(session(s, action.get(2).asLong()), AggregationWithHeaders.make(s.value, s.headers));
                case "with_headers" -> {
                    ValueTimestampHeaders<Object> found = this.<KeyValueStore<Object, ValueTimestampHeaders<Object>>>store(
                                    action)
                            .get(s.key);
                    s.value = found == null ? null : found.value();
                    s.headers = found == null ? s.headers : found.headers();
                }
                // --- versioned stores
                case "put_version" -> s.value =
                        this.<VersionedKeyValueStore<Object, Object>>store(action).put(s.key, s.value, s.time);
                case "get_version" -> s.value =
                        version(this.<VersionedKeyValueStore<Object, Object>>store(action).get(s.key));
                case "get_as_of" -> s.value = version(this.<VersionedKeyValueStore<Object, Object>>store(action)
                        .get(s.key, s.time + action.get(2).asLong()));
                case "delete_version" -> s.value =
                        version(this.<VersionedKeyValueStore<Object, Object>>store(action).delete(s.key, s.time));
                // --- window stores
                case "put_window" -> this.<WindowStore<Object, Object>>store(action).put(s.key, s.value, s.time);
                case "fetch_one" -> s.value =
                        this.<WindowStore<Object, Object>>store(action).fetch(s.key, s.time + action.get(2).asLong());
                case "fetch" -> s.value = windows(this.<WindowStore<Object, Object>>store(action)
                        .fetch(s.key, at(s, action.get(2)), at(s, action.get(3))));
                case "backward_fetch" -> s.value = windows(this.<WindowStore<Object, Object>>store(action)
                        .backwardFetch(s.key, at(s, action.get(2)), at(s, action.get(3))));
                case "fetch_all" -> s.value = pairs(this.<WindowStore<Object, Object>>store(action)
                        .fetchAll(at(s, action.get(2)), at(s, action.get(3))));
                case "all_windows" -> s.value = pairs(this.<WindowStore<Object, Object>>store(action).all());
                // --- session stores
                case "put_session" -> this.<SessionStore<Object, Object>>store(action)
                        .put(session(s, action.get(2).asLong()), s.value);
                case "remove_session" -> this.<SessionStore<Object, Object>>store(action)
                        .remove(session(s, action.get(2).asLong()));
                case "sessions" -> s.value = pairs(this.<SessionStore<Object, Object>>store(action)
                        .findSessions(s.key, at(s, action.get(2)), at(s, action.get(3))));
                case "all_sessions" -> s.value =
                        pairs(this.<SessionStore<Object, Object>>store(action).fetch(s.key));
                default -> throw new IllegalArgumentException("no action: " + action);
            }
        }
    }

    private static String meta(RecordMetadata meta) {
        // What a wall-clock punctuator forwards has either no metadata or some without a topic: both say that there is no record.
        if (meta.topic() == null) {
            return "none";
        }
        // Internal topics have names, and offsets, of each system's own.
        return meta.topic().startsWith("in")
                ? meta.topic() + "/" + meta.partition() + "/" + meta.offset()
                : "internal";
    }

    private static Instant at(State state, JsonNode distance) {
        return Instant.ofEpochMilli(Math.max(0, state.time + distance.asLong()));
    }

    private static Windowed<Object> session(State state, long length) {
        return new Windowed<>(state.key, new SessionWindow(Math.max(0, state.time - length), state.time));
    }

    private static Object stamped(ValueAndTimestamp<Object> stamped) {
        return stamped == null ? null : Functions.list(stamped.value(), stamped.timestamp());
    }

    private static Object version(VersionedRecord<Object> version) {
        return version == null
                ? null
                : Functions.list(version.value(), version.timestamp());
    }

    /** A value with headers as a list; others as they are. */
    static Object headed(Object value) {
        if (value instanceof ValueTimestampHeaders<?> found) {
            return Functions.list(found.value(), found.timestamp(), headers(found.headers()));
        }
        if (value instanceof AggregationWithHeaders<?> found) {
            return Functions.list(found.aggregation(), headers(found.headers()));
        }
        return value;
    }

    private static Object headers(Headers headers) {
        List<Object> all = new ArrayList<>();
        for (Header header : headers) {
            byte[] value = header.value();
            all.add(Functions.list(header.key(), value == null ? null : new String(value, StandardCharsets.UTF_8)));
        }
        return all;
    }

    /** Text, since keys may have windows: [[key, value], …]. */
    private static String pairs(KeyValueIterator<?, Object> iterator) {
        StringBuilder all = new StringBuilder();
        try (iterator) {
            while (iterator.hasNext()) {
                KeyValue<?, Object> entry = iterator.next();
                Object value = entry.value instanceof ValueAndTimestamp<?> stamped
                        ? Functions.list(stamped.value(), stamped.timestamp())
                        : headed(entry.value);
                all.append(Values.text(entry.key)).append('=').append(Values.text(value)).append(';');
            }
        }
        return all.toString();
    }

    private static String windows(WindowStoreIterator<Object> iterator) {
        StringBuilder all = new StringBuilder();
        try (iterator) {
            while (iterator.hasNext()) {
                KeyValue<Long, Object> entry = iterator.next();
                all.append(entry.key).append('=').append(Values.text(headed(entry.value))).append(';');
            }
        }
        return all.toString();
    }

    static Processor<Object, Object, Object, Object> processor(JsonNode script, BiConsumer<Object, Object> seen) {
        return new Processor<>() {
            private Runner runner;

            @Override
            public void init(ProcessorContext<Object, Object> mine) {
                runner = new Runner(script, seen) {
                    @Override
                    void forward(State s, String child) {
                        Record<Object, Object> record = new Record<>(s.key, s.value, s.time, s.headers);
                        if (child == null) {
                            mine.forward(record);
                        } else {
                            mine.forward(record, child);
                        }
                    }

                    @Override
                    long streamTime() {
                        return mine.currentStreamTimeMs();
                    }

                    @Override
                    long systemTime() {
                        return mine.currentSystemTimeMs();
                    }
                };
                runner.init(mine);
            }

            @Override
            public void process(Record<Object, Object> record) {
                State state = new State();
                state.key = record.key();
                state.value = record.value();
                state.time = record.timestamp();
                state.headers = record.headers();
                runner.run(script.get("do"), state);
            }
        };
    }

    static FixedKeyProcessor<Object, Object, Object> fixed(JsonNode script, BiConsumer<Object, Object> seen) {
        return new FixedKeyProcessor<>() {
            private Runner runner;

            @Override
            public void init(FixedKeyProcessorContext<Object, Object> mine) {
                runner = new Runner(script, seen) {
                    @Override
                    void forward(State s, String child) {
                        mine.forward(s.fixed
                                .withValue(s.value)
                                .withTimestamp(s.time)
                                .withHeaders(s.headers));
                    }

                    @Override
                    long streamTime() {
                        return mine.currentStreamTimeMs();
                    }

                    @Override
                    long systemTime() {
                        return mine.currentSystemTimeMs();
                    }
                };
                runner.init(mine);
            }

            @Override
            public void process(FixedKeyRecord<Object, Object> record) {
                State state = new State();
                state.key = record.key();
                state.value = record.value();
                state.time = record.timestamp();
                state.headers = record.headers();
                state.fixed = record;
                runner.run(script.get("do"), state);
            }
        };
    }
}
