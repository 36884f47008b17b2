import com.fasterxml.jackson.databind.JsonNode;
import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.kstream.Windowed;

/**
 * The library of user functions, by name: ["append", "x"], ["then", f, g]. functions.py is the same in Python, and
 * test_functions.py holds them to each other.
 */
final class Functions {
    /** Of a key and a value. A predicate is one that gives true or not. */
    interface Fn {
        Object of(Object key, Object value);

        default boolean holds(Object key, Object value) {
            return Boolean.TRUE.equals(of(key, value));
        }

        default KeyValue<Object, Object> pair(Object key, Object value) {
            return pairOf(of(key, value));
        }
    }

    /** Of a key and two values: joiners, aggregators and subtractors (value, aggregate), reducers, mergers. */
    interface Fn2 {
        Object of(Object key, Object left, Object right);
    }

    private Functions() {}

    static KeyValue<Object, Object> pairOf(Object pair) {
        return pair == null ? null : KeyValue.pair(((List<?>) pair).get(0), ((List<?>) pair).get(1));
    }

    static List<KeyValue<Object, Object>> pairsOf(Object pairs) {
        if (pairs == null) {
            return null;
        }
        List<KeyValue<Object, Object>> all = new ArrayList<>();
        ((List<?>) pairs).forEach(pair -> all.add(pairOf(pair)));
        return all;
    }

    static Fn fn(JsonNode json) {
        String name = json.get(0).asText();
        JsonNode a = json.get(1);
        switch (name) {
            // --- predicates
            case "always" -> {
                return (k, v) -> true;
            }
            case "never" -> {
                return (k, v) -> false;
            }
            case "value_gt" -> {
                long bound = a.asLong();
                return (k, v) -> v instanceof Long number && number > bound;
            }
            case "value_even" -> {
                return (k, v) -> v instanceof Long number && Math.floorMod(number, 2L) == 0;
            }
            case "value_contains" -> {
                String part = a.asText();
                return (k, v) -> v != null && Values.text(v).contains(part);
            }
            case "longer" -> {
                int bound = a.asInt();
                return (k, v) -> Values.text(v).length() > bound;
            }
            case "key_in" -> {
                Object keys = Values.of(a);
                return (k, v) -> k != null && ((List<?>) keys).contains(Values.text(k));
            }
            case "key_is_null" -> {
                return (k, v) -> k == null;
            }
            case "value_is_null" -> {
                return (k, v) -> v == null;
            }
            case "not" -> {
                Fn f = fn(a);
                return (k, v) -> !f.holds(k, v);
            }
            // --- mappers
            case "value" -> {
                return (k, v) -> v;
            }
            case "key" -> {
                return (k, v) -> k;
            }
            case "const" -> {
                Object value = Values.of(a);
                return (k, v) -> value;
            }
            case "text" -> {
                return (k, v) -> Values.text(v);
            }
            case "append" -> {
                String more = a.asText();
                return (k, v) -> Values.text(v) + more;
            }
            case "prepend" -> {
                String more = a.asText();
                return (k, v) -> more + Values.text(v);
            }
            case "append_key" -> {
                return (k, v) -> Values.text(v) + "/" + Values.text(k);
            }
            case "first" -> {
                int count = a.asInt();
                return (k, v) -> v == null ? null : Values.text(v).substring(0, Math.min(count, Values.text(v).length()));
            }
            case "part" -> {
                String separator = a.asText();
                int at = json.get(2).asInt();
                return (k, v) -> {
                    if (v == null) {
                        return null;
                    }
                    List<Object> parts = split(Values.text(v), separator);
                    return at < parts.size() ? parts.get(at) : null;
                };
            }
            case "length" -> {
                return (k, v) -> v == null ? null : (Object) (long) Values.text(v).length();
            }
            case "add" -> {
                long more = a.asLong();
                return (k, v) -> v instanceof Long number ? (Object) (number + more) : null;
            }
            case "mul" -> {
                long factor = a.asLong();
                return (k, v) -> v instanceof Long number ? (Object) (number * factor) : null;
            }
            case "mod" -> {
                long modulus = a.asLong();
                return (k, v) -> v instanceof Long number ? (Object) Math.floorMod(number, modulus) : null;
            }
            case "pair" -> {
                return (k, v) -> list(element(k), element(v));
            }
            case "item" -> {
                int at = a.asInt();
                return (k, v) -> v instanceof List<?> list && at < list.size() ? list.get(at) : null;
            }
            case "window_key" -> {
                return (k, v) -> k instanceof Windowed<?> windowed ? windowed.key() : null;
            }
            case "window_start" -> {
                return (k, v) -> k instanceof Windowed<?> windowed ? (Object) windowed.window().start() : null;
            }
            // --- made of others
            case "then" -> {
                Fn f = fn(a);
                Fn g = fn(json.get(2));
                return (k, v) -> g.of(k, f.of(k, v));
            }
            case "of_key" -> {
                Fn f = fn(a);
                return (k, v) -> f.of(k, k);
            }
            case "if" -> {
                Fn condition = fn(a);
                Fn f = fn(json.get(2));
                Fn g = fn(json.get(3));
                return (k, v) -> condition.holds(k, v) ? f.of(k, v) : g.of(k, v);
            }
            case "null_if" -> {
                Fn condition = fn(a);
                Fn f = fn(json.get(2));
                return (k, v) -> condition.holds(k, v) ? null : f.of(k, v);
            }
            case "fail_if" -> {
                Fn condition = fn(a);
                Fn f = fn(json.get(2));
                return (k, v) -> {
                    if (condition.holds(k, v)) {
                        throw new IllegalStateException("asked to fail");
                    }
                    return f.of(k, v);
                };
            }
            // --- pairs and lists
            case "kv" -> {
                Fn key = fn(a);
                Fn value = fn(json.get(2));
                return (k, v) -> list(key.of(k, v), value.of(k, v));
            }
            case "split" -> {
                String separator = a.asText();
                return (k, v) -> v == null ? List.of() : split(Values.text(v), separator);
            }
            case "repeat" -> {
                int times = a.asInt();
                Fn f = fn(json.get(2));
                return (k, v) -> {
                    List<Object> all = new ArrayList<>();
                    for (int i = 0; i < times; i++) {
                        all.add(f.of(k, v));
                    }
                    return all;
                };
            }
            case "both" -> {
                Fn f = fn(a);
                Fn g = fn(json.get(2));
                return (k, v) -> list(f.of(k, v), g.of(k, v));
            }
            case "none" -> {
                return (k, v) -> List.of();
            }
            case "each" -> {
                Fn all = fn(a);
                Fn pair = fn(json.get(2));
                return (k, v) -> {
                    List<Object> pairs = new ArrayList<>();
                    ((List<?>) all.of(k, v)).forEach(value -> pairs.add(pair.of(k, value)));
                    return pairs;
                };
            }
            default -> throw new IllegalArgumentException("no function: " + json);
        }
    }

    static Fn2 fn2(JsonNode json) {
        String name = json.get(0).asText();
        JsonNode a = json.get(1);
        switch (name) {
            case "left" -> {
                return (k, l, r) -> l;
            }
            case "right" -> {
                return (k, l, r) -> r;
            }
            case "join" -> {
                String separator = a.asText();
                return (k, l, r) -> Values.text(l) + separator + Values.text(r);
            }
            case "join_key" -> {
                return (k, l, r) -> Values.text(k) + ":" + Values.text(l) + "+" + Values.text(r);
            }
            case "back" -> {
                // The aggregate comes second: what was there, then what came.
                String separator = a.asText();
                return (k, l, r) -> Values.text(r) + separator + Values.text(l);
            }
            case "back_key" -> {
                return (k, l, r) -> Values.text(r) + "," + Values.text(k) + "=" + Values.text(l);
            }
            case "sum" -> {
                return (k, l, r) -> number(l) + number(r);
            }
            case "minus" -> {
                return (k, l, r) -> number(r) - number(l);
            }
            case "plus" -> {
                long more = a.asLong();
                return (k, l, r) -> number(r) + more;
            }
            case "max" -> {
                return (k, l, r) -> Math.max(number(l), number(r));
            }
            case "lists" -> {
                return (k, l, r) -> list(element(l), element(r));
            }
            case "null_when" -> {
                Functions.Fn condition = fn(a);
                Fn2 f = fn2(json.get(2));
                return (k, l, r) -> condition.holds(k, l) ? null : f.of(k, l, r);
            }
            case "fail_when" -> {
                Functions.Fn condition = fn(a);
                Fn2 f = fn2(json.get(2));
                return (k, l, r) -> {
                    if (condition.holds(k, l)) {
                        throw new IllegalStateException("asked to fail");
                    }
                    return f.of(k, l, r);
                };
            }
            case "shorten" -> {
                int bound = a.asInt();
                Fn2 f = fn2(json.get(2));
                return (k, l, r) -> {
                    String text = Values.text(f.of(k, l, r));
                    return text.length() <= bound ? text : text.substring(text.length() - bound);
                };
            }
            default -> throw new IllegalArgumentException("no function: " + json);
        }
    }

    static List<Object> list(Object... values) {
        List<Object> list = new ArrayList<>();
        for (Object value : values) {
            list.add(value);
        }
        return list;
    }

    /** Of a list that becomes JSON: what has no form there is text. */
    private static Object element(Object value) {
        return value instanceof Windowed<?> || value instanceof byte[] ? Values.text(value) : value;
    }

    private static long number(Object value) {
        return value == null ? 0 : (Long) value;
    }

    private static List<Object> split(String text, String separator) {
        List<Object> parts = new ArrayList<>();
        int from = 0;
        for (int at = text.indexOf(separator); at >= 0; at = text.indexOf(separator, from)) {
            parts.add(text.substring(from, at));
            from = at + separator.length();
        }
        parts.add(text.substring(from));
        return parts;
    }
}
