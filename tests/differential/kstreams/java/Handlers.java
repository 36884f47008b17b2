import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.streams.errors.DeserializationExceptionHandler;
import org.apache.kafka.streams.errors.ErrorHandlerContext;
import org.apache.kafka.streams.errors.ProcessingExceptionHandler;
import org.apache.kafka.streams.kstream.internals.Change;
import org.apache.kafka.streams.processor.api.Record;

/** Handlers that go on with some records: those of even offsets in the topics that begin with "in"; and ones that go on, and say what they were told. */
final class Handlers {
    private Handlers() {}

    static boolean goesOn(ErrorHandlerContext context) {
        return context.topic() != null && context.topic().startsWith("in") && context.offset() % 2 == 0;
    }

    /** What handlers were told, as `seen`. */
    static List<Object[]> seen = new ArrayList<>();

    /** Whether the case has caches, which keep those bytes here. */
    static boolean cached;

    private static void see(ErrorHandlerContext context, Record<?, ?> record) {
        String topic = context.topic();
        boolean mine = topic != null && topic.startsWith("in");
        List<Object> told = new ArrayList<>();
        told.add(topic == null ? null : mine ? topic + "/" + context.partition() + "/" + context.offset() : "internal");
        told.add(context.timestamp());
        context.headers().forEach(header -> told.add(header.key()));
        told.add(mine && !cached ? context.sourceRawKey() : null);
        told.add(mine && !cached ? context.sourceRawValue() : null);
        Object key = null;
        if (record != null) {
            key = record.key();
            told.addAll(Arrays.asList(record.value() instanceof Change<?> change ? change.newValue : record.value(), record.timestamp()));
            record.headers().forEach(header -> told.add(header.key()));
        }
        seen.add(new Object[] {"handler", key, told});
    }

    public static final class ToldUnread implements DeserializationExceptionHandler {
        @Override
        public Response handleError(
                ErrorHandlerContext context, ConsumerRecord<byte[], byte[]> record, Exception exception) {
            see(context, null);
            return Response.resume();
        }

        @Override
        public void configure(Map<String, ?> configs) {}
    }

    public static final class ToldUnprocessed implements ProcessingExceptionHandler {
        @Override
        public Response handleError(ErrorHandlerContext context, Record<?, ?> record, Exception exception) {
            see(context, record);
            return Response.resume();
        }

        @Override
        public void configure(Map<String, ?> configs) {}
    }

    public static final class Unread implements DeserializationExceptionHandler {
        @Override
        public Response handleError(
                ErrorHandlerContext context, ConsumerRecord<byte[], byte[]> record, Exception exception) {
            return goesOn(context) ? Response.resume() : Response.fail();
        }

        @Override
        public void configure(Map<String, ?> configs) {}
    }

    public static final class Unprocessed implements ProcessingExceptionHandler {
        @Override
        public Response handleError(ErrorHandlerContext context, Record<?, ?> record, Exception exception) {
            return goesOn(context) ? Response.resume() : Response.fail();
        }

        @Override
        public void configure(Map<String, ?> configs) {}
    }
}
