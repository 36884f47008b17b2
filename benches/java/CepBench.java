import java.lang.management.ManagementFactory;
import java.lang.reflect.Field;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;

import org.apache.flink.api.common.serialization.SerializerConfigImpl;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.cep.functions.PatternProcessFunction;
import org.apache.flink.cep.functions.TimedOutPartialMatchHandler;
import org.apache.flink.cep.nfa.NFAState;
import org.apache.flink.cep.nfa.aftermatch.AfterMatchSkipStrategy;
import org.apache.flink.cep.nfa.compiler.NFACompiler;
import org.apache.flink.cep.operator.CepOperator;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.util.KeyedOneInputStreamOperatorTestHarness;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;

/**
 * Flink's CepOperator on a file of events, in the harness of Flink's tests: state on the heap, events from memory, a watermark each
 * thousand events, no network, no checkpoint. Answers with one JSON object.
 */
public class CepBench {
    static final ObjectMapper JSON = new ObjectMapper();
    static final OutputTag<String> GONE = new OutputTag<String>("gone") {};
    static final int WATERMARK_EVERY = 1_000;
    static final int SAMPLE_EVERY = 997;
    /** By how much the last event is later: all windows end. */
    static final long END_MS = 100_000_000;

    static class Matches extends PatternProcessFunction<FlinkCep.Event, String> {
        static String text(Map<String, List<FlinkCep.Event>> match) {
            StringBuilder made = new StringBuilder(match.values().iterator().next().get(0).key);
            for (Map.Entry<String, List<FlinkCep.Event>> stage : match.entrySet()) {
                made.append(' ').append(stage.getKey());
                for (FlinkCep.Event event : stage.getValue()) {
                    made.append(',').append(event.id);
                }
            }
            return made.toString();
        }

        @Override
        public void processMatch(Map<String, List<FlinkCep.Event>> match, Context context, Collector<String> out) {
            out.collect(text(match));
        }
    }

    static class MatchesAndTimeouts extends Matches implements TimedOutPartialMatchHandler<FlinkCep.Event> {
        @Override
        public void processTimedOutMatch(Map<String, List<FlinkCep.Event>> match, Context context) {
            context.output(GONE, text(match));
        }
    }

    static List<FlinkCep.Event> read(String path, long start) throws Exception {
        ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(Paths.get(path)));
        List<FlinkCep.Event> events = new ArrayList<>(bytes.remaining() / 6);
        while (bytes.hasRemaining()) {
            FlinkCep.Event e = new FlinkCep.Event();
            e.id = events.size();
            e.ts = start + e.id + (bytes.remaining() > 6 ? 0 : END_MS);
            e.key = "k" + bytes.getInt();
            e.t = String.valueOf((char) bytes.get());
            e.v = bytes.get();
            events.add(e);
        }
        return events;
    }

    static long cpu() {
        return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
    }

    static long heap() throws Exception {
        for (int i = 0; i < 3; i++) {
            System.gc();
            Thread.sleep(50);
        }
        return ManagementFactory.getMemoryMXBean().getHeapMemoryUsage().getUsed();
    }

    @SuppressWarnings("unchecked")
    static ObjectNode run(JsonNode said, List<FlinkCep.Event> events, boolean sample, boolean memory) throws Exception {
        AfterMatchSkipStrategy skip = FlinkCep.skip(said.get("skip"));
        CepOperator<FlinkCep.Event, String, String> operator =
                new CepOperator<>(
                        Types.POJO(FlinkCep.Event.class).createSerializer(new SerializerConfigImpl()),
                        false,
                        NFACompiler.compileFactory(FlinkCep.pattern(said.get("calls"), skip), said.path("timed_out").asBoolean()),
                        null,
                        skip,
                        said.path("timed_out").asBoolean() ? new MatchesAndTimeouts() : new Matches(),
                        null);
        ObjectNode answer = JSON.createObjectNode();
        try (KeyedOneInputStreamOperatorTestHarness<String, FlinkCep.Event, String> harness =
                new KeyedOneInputStreamOperatorTestHarness<>(operator, e -> e.key, Types.STRING)) {
            harness.open();
            Field field = CepOperator.class.getDeclaredField("computationStates");
            field.setAccessible(true);
            ValueState<NFAState> states = (ValueState<NFAState>) field.get(operator);
            long heapBefore = memory ? heap() : 0;
            long live = 0;
            long samples = 0;
            long wall = System.nanoTime();
            long before = cpu();
            int n = events.size();
            for (int i = 0; i < n; i++) {
                FlinkCep.Event e = events.get(i);
                harness.processElement(new StreamRecord<>(e, e.ts));
                if (memory) {
                    events.set(i, null);
                }
                if (i % WATERMARK_EVERY == 0 || i == n - 1) {
                    harness.processWatermark(e.ts - 1);
                }
                if (sample && i % SAMPLE_EVERY == 0) {
                    operator.setCurrentKey(e.key);
                    live += states.value() == null ? 0 : states.value().getPartialMatches().size() - 1;
                    samples++;
                }
            }
            answer.put("cpu", (cpu() - before) / 1e9);
            answer.put("seconds", (System.nanoTime() - wall) / 1e9);
            answer.put("live", samples == 0 ? 0 : (double) live / samples);
            if (memory) {
                answer.put("bytes", heap() - heapBefore);
            }
            List<String> found = new ArrayList<>();
            for (Object one : harness.getOutput()) {
                if (one instanceof StreamRecord) {
                    found.add((String) ((StreamRecord<?>) one).getValue());
                }
            }
            if (harness.getSideOutput(GONE) != null) {
                harness.getSideOutput(GONE).forEach(one -> found.add("gone " + one.getValue()));
            }
            Collections.sort(found);
            MessageDigest digest = MessageDigest.getInstance("SHA-256");
            for (String line : found) {
                digest.update((line + "\n").getBytes(StandardCharsets.UTF_8));
            }
            StringBuilder hex = new StringBuilder();
            for (byte one : digest.digest()) {
                hex.append(String.format("%02x", one));
            }
            answer.put("hash", hex.substring(0, 12));
            answer.put("matches", found.size());
        }
        return answer;
    }

    /** The pattern, the file of events, their first time, how many of them warm the JVM up; or no such number: measure memory. */
    public static void main(String[] args) throws Exception {
        JsonNode said = JSON.readTree(args[0]);
        long start = Long.parseLong(args[2]);
        int warm = Integer.parseInt(args[3]);
        List<FlinkCep.Event> events = read(args[1], start);
        double live = 0;
        for (int i = 0; i < 3 && warm > 0; i++) {
            live = run(said, events.subList(0, Math.min(warm, events.size())), true, false).get("live").asDouble();
        }
        System.gc();
        ObjectNode answer = run(said, events, false, warm == 0);
        answer.put("live", live);
        System.out.println(answer);
    }
}
