import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.streams.errors.DeserializationExceptionHandler;
import org.apache.kafka.streams.errors.ErrorHandlerContext;
import org.apache.kafka.streams.errors.ProcessingExceptionHandler;
import org.apache.kafka.streams.processor.api.Record;

/** Handlers that go on with some records: those of even offsets in the topics that begin with "in". */
final class Handlers {
    private Handlers() {}

    static boolean goesOn(ErrorHandlerContext context) {
        return context.topic() != null && context.topic().startsWith("in") && context.offset() % 2 == 0;
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
