import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;

import org.apache.flink.api.common.serialization.SerializerConfigImpl;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.cep.EventComparator;
import org.apache.flink.cep.functions.PatternProcessFunction;
import org.apache.flink.cep.functions.TimedOutPartialMatchHandler;
import org.apache.flink.cep.nfa.NFAState;
import org.apache.flink.cep.nfa.aftermatch.AfterMatchSkipStrategy;
import org.apache.flink.cep.nfa.compiler.NFACompiler;
import org.apache.flink.cep.nfa.sharedbuffer.SharedBuffer;
import org.apache.flink.cep.operator.CepOperator;
import org.apache.flink.cep.pattern.Pattern;
import org.apache.flink.cep.pattern.WithinType;
import org.apache.flink.cep.pattern.conditions.IterativeCondition;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.util.KeyedOneInputStreamOperatorTestHarness;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;

import org.apache.flink.shaded.guava33.com.google.common.collect.Iterables;

/**
 * Runs cases, one JSON object a line, on the operator of the real Flink CEP, and answers with one line each: what came out by key,
 * and what is left. A pattern is a list of calls of its API, by their names.
 */
public class FlinkCep {
    static final ObjectMapper JSON = new ObjectMapper();
    static final OutputTag<String> GONE = new OutputTag<String>("gone") {};
    static final OutputTag<Event> LATE = new OutputTag<Event>("late") {};

    public static class Event {
        public int id;
        public String key;
        public long ts;
        public String t;
        public int v;

        public Event() {}
    }

    /** {"t": letter}, {"gt": n}, {"below": [stage, n]}: the sum of v over a stage and this event is less than n. */
    static class Test extends IterativeCondition<Event> {
        private final String letters;
        private final Integer above;
        private final String stage;
        private final int limit;

        Test(JsonNode said) {
            letters = said.has("t") ? said.get("t").asText() : null;
            above = said.has("gt") ? said.get("gt").asInt() : null;
            stage = said.has("below") ? said.get("below").get(0).asText() : null;
            limit = said.has("below") ? said.get("below").get(1).asInt() : 0;
        }

        @Override
        public boolean filter(Event e, Context<Event> context) throws Exception {
            if (letters != null) {
                return letters.contains(e.t);
            }
            if (above != null) {
                return e.v > above;
            }
            int sum = e.v;
            for (Event taken : context.getEventsForPattern(stage)) {
                sum += taken.v;
            }
            return sum < limit;
        }
    }

    static class ByValue implements EventComparator<Event> {
        @Override
        public int compare(Event one, Event other) {
            return Integer.compare(one.v, other.v);
        }
    }

    static class Tell extends PatternProcessFunction<Event, String> implements TimedOutPartialMatchHandler<Event> {
        static String text(Map<String, List<Event>> match) {
            ObjectNode made = JSON.createObjectNode();
            for (Map.Entry<String, List<Event>> stage : match.entrySet()) {
                ArrayNode ids = made.putArray(stage.getKey());
                stage.getValue().forEach(e -> ids.add(e.id));
            }
            return made.toString();
        }

        static String keyOf(Map<String, List<Event>> match) {
            return match.values().iterator().next().get(0).key;
        }

        @Override
        public void processMatch(Map<String, List<Event>> match, Context context, Collector<String> out) {
            out.collect(keyOf(match) + " " + context.timestamp() + " " + text(match));
        }

        @Override
        public void processTimedOutMatch(Map<String, List<Event>> match, Context context) {
            context.output(GONE, keyOf(match) + " " + context.timestamp() + " " + text(match));
        }
    }

    static AfterMatchSkipStrategy skip(JsonNode said) {
        switch (said.get(0).asText()) {
            case "to_next":
                return AfterMatchSkipStrategy.skipToNext();
            case "past_last":
                return AfterMatchSkipStrategy.skipPastLastEvent();
            case "to_first":
                return AfterMatchSkipStrategy.skipToFirst(said.get(1).asText());
            case "to_last":
                return AfterMatchSkipStrategy.skipToLast(said.get(1).asText());
            default:
                return AfterMatchSkipStrategy.noSkip();
        }
    }

    @SuppressWarnings({"unchecked", "rawtypes"})
    static Pattern<Event, ?> pattern(JsonNode calls, AfterMatchSkipStrategy skip) {
        Pattern p = null;
        for (JsonNode call : calls) {
            JsonNode a = call.get(1);
            Pattern group = a != null && a.isArray() && a.size() > 0 && a.get(0).isArray() ? pattern(a, null) : null;
            String name = a == null ? null : a.asText();
            Duration window = call.size() > 3 && !call.get(3).isNull() ? Duration.ofMillis(call.get(3).asLong()) : null;
            switch (call.get(0).asText()) {
                case "begin":
                    if (group != null) {
                        p = skip == null ? Pattern.begin(group) : Pattern.begin(group, skip);
                    } else {
                        p = skip == null ? Pattern.begin(name) : Pattern.begin(name, skip);
                    }
                    break;
                case "next":
                    p = group != null ? p.next(group) : p.next(name);
                    break;
                case "followed_by":
                    p = group != null ? p.followedBy(group) : p.followedBy(name);
                    break;
                case "followed_by_any":
                    p = group != null ? p.followedByAny(group) : p.followedByAny(name);
                    break;
                case "not_next":
                    p = p.notNext(name);
                    break;
                case "not_followed_by":
                    p = p.notFollowedBy(name);
                    break;
                case "where":
                    p = p.where(new Test(a));
                    break;
                case "or_where":
                    p = p.or(new Test(a));
                    break;
                case "until":
                    p = p.until(new Test(a));
                    break;
                case "times":
                    p = call.get(2).isNull() ? p.times(a.asInt(), window) : p.times(a.asInt(), call.get(2).asInt(), window);
                    break;
                case "times_or_more":
                    p = p.timesOrMore(a.asInt(), window);
                    break;
                case "one_or_more":
                    p = p.oneOrMore(window);
                    break;
                case "optional":
                    p = p.optional();
                    break;
                case "greedy":
                    p = p.greedy();
                    break;
                case "consecutive":
                    p = p.consecutive();
                    break;
                case "allow_combinations":
                    p = p.allowCombinations();
                    break;
                case "within":
                    p = p.within(Duration.ofMillis(a.asLong()));
                    break;
                case "within_previous":
                    p = p.within(Duration.ofMillis(a.asLong()), WithinType.PREVIOUS_AND_CURRENT);
                    break;
                default:
                    throw new IllegalStateException(call.toString());
            }
        }
        return p;
    }

    @SuppressWarnings("unchecked")
    static Object field(Object of, String name) throws Exception {
        Field field = CepOperator.class.getDeclaredField(name);
        field.setAccessible(true);
        return field.get(of);
    }

    static void tell(ObjectNode answer, String name, Iterable<String> lines) {
        ObjectNode byKey = answer.putObject(name);
        for (String line : lines) {
            String key = line.substring(0, line.indexOf(' '));
            ArrayNode list = byKey.has(key) ? (ArrayNode) byKey.get(key) : byKey.putArray(key);
            list.add(line.substring(line.indexOf(' ') + 1));
        }
    }

    @SuppressWarnings("unchecked")
    static ObjectNode play(JsonNode said) throws Exception {
        ObjectNode answer = JSON.createObjectNode();
        NFACompiler.NFAFactory<Event> factory;
        AfterMatchSkipStrategy skip = skip(said.get("skip"));
        try {
            Pattern<Event, ?> pattern = pattern(said.get("calls"), skip);
            factory = NFACompiler.compileFactory(pattern, true);
        } catch (Exception e) {
            answer.put("rejected", e.getClass().getSimpleName() + ": " + e.getMessage());
            return answer;
        }
        boolean processing = said.path("time").asText().equals("processing");
        CepOperator<Event, String, String> operator =
                new CepOperator<>(
                        Types.POJO(Event.class).createSerializer(new SerializerConfigImpl()),
                        processing,
                        factory,
                        said.path("sorted").asBoolean() ? new ByValue() : null,
                        skip,
                        new Tell(),
                        LATE);
        TreeSet<String> keys = new TreeSet<>();
        List<String> late = new ArrayList<>();
        try (KeyedOneInputStreamOperatorTestHarness<String, Event, String> harness =
                new KeyedOneInputStreamOperatorTestHarness<>(operator, e -> e.key, Types.STRING)) {
            harness.open();
            long largest = Long.MIN_VALUE;
            long bound = said.get("bound").asLong();
            int id = 0;
            for (JsonNode row : said.get("events")) {
                Event e = new Event();
                e.id = id++;
                e.key = row.get(0).asText();
                e.ts = row.get(1).asLong();
                e.t = row.get(2).asText();
                e.v = row.get(3).asInt();
                keys.add(e.key);
                if (processing) {
                    largest = Math.max(largest, e.ts);
                    harness.setProcessingTime(largest);
                    harness.processElement(new StreamRecord<>(e, e.ts));
                } else {
                    harness.processElement(new StreamRecord<>(e, e.ts));
                    if (e.ts > largest) {
                        largest = e.ts;
                        harness.processWatermark(largest - bound - 1);
                    }
                }
            }
            if (processing) {
                harness.setProcessingTime(largest + said.get("rest").asLong());
            }
            List<String> found = new ArrayList<>();
            for (Object one : harness.getOutput()) {
                if (one instanceof StreamRecord) {
                    found.add((String) ((StreamRecord<?>) one).getValue());
                }
            }
            tell(answer, "found", found);
            List<String> gone = new ArrayList<>();
            if (harness.getSideOutput(GONE) != null) {
                harness.getSideOutput(GONE).forEach(one -> gone.add(one.getValue()));
            }
            tell(answer, "gone", gone);
            ArrayNode lateIds = answer.putArray("late");
            if (harness.getSideOutput(LATE) != null) {
                harness.getSideOutput(LATE).forEach(one -> lateIds.add(one.getValue().id));
            }
            ValueState<NFAState> states = (ValueState<NFAState>) field(operator, "computationStates");
            SharedBuffer<Event> buffer = (SharedBuffer<Event>) field(operator, "partialMatches");
            Field field = SharedBuffer.class.getDeclaredField("eventsBuffer");
            field.setAccessible(true);
            MapState<?, ?> events = (MapState<?, ?>) field.get(buffer);
            ObjectNode left = answer.putObject("left");
            for (String key : keys) {
                operator.setCurrentKey(key);
                NFAState state = states.value();
                ArrayNode counts = left.putArray(key);
                counts.add(state == null ? 1 : state.getPartialMatches().size());
                counts.add(state == null ? 0 : state.getCompletedMatches().size());
                counts.add(Iterables.size(events.keys()));
            }
        } catch (Exception e) {
            Throwable cause = e;
            while (cause.getCause() != null) {
                cause = cause.getCause();
            }
            answer.removeAll();
            answer.put("failed", cause.toString());
        }
        return answer;
    }

    public static void main(String[] args) throws Exception {
        PrintStream out = System.out;
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            out.println(play(JSON.readTree(line)));
            out.flush();
        }
    }
}
