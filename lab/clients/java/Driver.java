import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * A worker process for the Java client: lines of JSON in, lines of JSON out.
 * The operations are those of labkit/serve.py. Compiled against the oldest
 * client, so that it runs with that and with the newest.
 */
public final class Driver {
    private static final PrintStream OUT = new PrintStream(System.out, false);
    private static final Map<String, Member> MEMBERS = new ConcurrentHashMap<>();

    interface Note {
        void say(String event);
    }

    public static void main(String[] args) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = lines.readLine()) != null; ) {
            Map<String, Object> request = map(Json.parse(line));
            Thread thread = new Thread(() -> handle(request));
            thread.setDaemon(true);
            thread.start();
        }
        System.exit(0);
    }

    private static void emit(Map<String, Object> answer) {
        synchronized (OUT) {
            OUT.println(Json.write(answer));
            OUT.flush();
        }
    }

    private static void handle(Map<String, Object> request) {
        Object id = request.get("id");
        Map<String, Object> answer = new LinkedHashMap<>();
        answer.put("id", id);
        long from = System.nanoTime();
        try {
            answer.putAll(run(request, event -> emit(pairs("id", id, "ev", event))));
            answer.put("ok", true);
        } catch (Throwable thrown) {
            Throwable error = thrown instanceof ExecutionException ? thrown.getCause() : thrown;
            error.printStackTrace();
            answer.put("ok", false);
            answer.put("error", error.getClass().getSimpleName() + ": " + error.getMessage());
            answer.put("retriable", error instanceof RetriableException);
            answer.put("elapsed_ms", (System.nanoTime() - from) / 1_000_000);
        }
        emit(answer);
    }

    private static Map<String, Object> run(Map<String, Object> request, Note note) throws Exception {
        switch ((String) request.get("op")) {
            case "produce": return produce(request);
            case "consume": return consume(request, note);
            case "txn": return txn(request);
            case "member_start": {
                Member member = new Member(request);
                MEMBERS.put(member.name, member);
                member.start();
                return Collections.emptyMap();
            }
            case "member_stop": {
                Member member = MEMBERS.remove(request.get("member"));
                member.stop.set(true);
                member.join(20_000);
                if (member.isAlive()) throw new IllegalStateException("the member did not leave within 20 s");
                return Collections.emptyMap();
            }
            default: throw new IllegalArgumentException("no operation named " + request.get("op"));
        }
    }

    private static Map<String, Object> common(Map<String, Object> request) {
        Map<String, Object> config = new HashMap<>();
        config.put("bootstrap.servers", request.get("bootstrap"));
        config.put("key.serializer", ByteArraySerializer.class);
        config.put("value.serializer", ByteArraySerializer.class);
        config.put("key.deserializer", ByteArrayDeserializer.class);
        config.put("value.deserializer", ByteArrayDeserializer.class);
        return config;
    }

    private static void props(Map<String, Object> request, Map<String, Object> config) {
        if (request.get("props") != null) {
            map(request.get("props")).forEach((name, value) -> config.put(name, String.valueOf(value)));
        }
    }

    private static Map<String, Object> produce(Map<String, Object> request) throws Exception {
        Map<String, Object> config = common(request);
        config.put("acks", "all");
        config.put("compression.type", request.getOrDefault("codec", "none"));
        config.put("enable.idempotence", String.valueOf(Boolean.TRUE.equals(request.get("idempotent"))));
        config.put("linger.ms", "20");
        config.put("max.request.size", "4000000");
        config.put("max.block.ms", "20000");
        config.put("delivery.timeout.ms", "30000");
        config.put("request.timeout.ms", "20000");
        props(request, config);
        KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(config);
        try {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (Object entry : list(request.get("records"))) {
                Map<String, Object> r = map(entry);
                Integer partition = r.get("p") == null ? null : ((Long) r.get("p")).intValue();
                ProducerRecord<byte[], byte[]> record = new ProducerRecord<>((String) request.get("topic"), partition,
                    (Long) r.get("t"), bytes(r.get("k")), bytes(r.get("v")));
                if (r.get("h") != null) {
                    for (Object header : list(r.get("h"))) {
                        record.headers().add((String) list(header).get(0), bytes(list(header).get(1)));
                    }
                }
                sent.add(producer.send(record));
            }
            producer.flush();
            List<Object> offsets = new ArrayList<>();
            for (Future<RecordMetadata> one : sent) {
                offsets.add(Arrays.asList(one.get().partition(), one.get().offset()));
            }
            return pairs("offsets", offsets);
        } finally {
            producer.close();
        }
    }

    private static Map<String, Object> consume(Map<String, Object> request, Note note) {
        Map<String, Object> config = common(request);
        config.put("enable.auto.commit", "false");
        config.put("auto.offset.reset", "none");
        config.put("max.partition.fetch.bytes", "4000000");
        props(request, config);
        TopicPartition at = new TopicPartition((String) request.get("topic"),
            ((Long) request.getOrDefault("partition", 0L)).intValue());
        long deadline = System.nanoTime() + (Long) request.getOrDefault("timeout_ms", 20000L) * 1_000_000;
        List<Object> out = new ArrayList<>();
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config)) {
            consumer.assign(Collections.singleton(at));
            for (Object entry : list(request.get("steps"))) {
                Map<String, Object> step = map(entry);
                Object from = step.get("from");
                if ("beginning".equals(from)) {
                    consumer.seekToBeginning(Collections.singleton(at));
                } else if ("end".equals(from)) {
                    consumer.seekToEnd(Collections.singleton(at));
                    consumer.position(at);
                    note.say("positioned");
                } else if (map(from).containsKey("offset")) {
                    consumer.seek(at, (Long) map(from).get("offset"));
                } else {
                    OffsetAndTimestamp found =
                        consumer.offsetsForTimes(Collections.singletonMap(at, (Long) map(from).get("time"))).get(at);
                    if (found == null) return pairs("records", out, "at_end", true);
                    consumer.seek(at, found.offset());
                }
                long wanted = (Long) step.get("count");
                for (long got = 0; got < wanted; ) {
                    if (System.nanoTime() > deadline) {
                        throw new IllegalStateException(got + " of " + wanted + " records came");
                    }
                    for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(200))) {
                        if (got++ >= wanted) break;
                        List<Object> headers = new ArrayList<>();
                        for (Header header : r.headers()) {
                            headers.add(Arrays.asList(header.key(), b64(header.value())));
                        }
                        out.add(pairs("p", r.partition(), "o", r.offset(), "t", r.timestamp(), "k", b64(r.key()),
                            "v", b64(r.value()), "h", headers));
                    }
                }
            }
        }
        return pairs("records", out);
    }

    private static Map<String, Object> txn(Map<String, Object> request) {
        Map<String, Object> config = common(request);
        config.put("transactional.id", request.get("transactional_id"));
        config.put("max.block.ms", "15000");
        KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(config);
        try {
            producer.initTransactions();
        } finally {
            producer.close();
        }
        return Collections.emptyMap();
    }

    /** A group member on a thread of its own. */
    private static final class Member extends Thread {
        final String name;
        final AtomicBoolean stop = new AtomicBoolean();
        private final Map<String, Object> request;

        Member(Map<String, Object> request) {
            this.request = request;
            this.name = (String) request.get("member");
            setDaemon(true);
        }

        private void event(Object... fields) {
            Map<String, Object> answer = new LinkedHashMap<>();
            answer.put("member", name);
            answer.putAll(pairs(fields));
            emit(answer);
        }

        @Override
        public void run() {
            try {
                follow();
                event("ev", "left");
            } catch (Throwable error) {
                error.printStackTrace();
                event("ev", "error", "error", error.getClass().getSimpleName() + ": " + error.getMessage());
            }
        }

        private void show(KafkaConsumer<byte[], byte[]> consumer, Collection<TopicPartition> without, boolean revoked) {
            List<TopicPartition> kept = new ArrayList<>(consumer.assignment());
            kept.removeAll(without);
            kept.sort((a, b) -> a.topic().equals(b.topic()) ? a.partition() - b.partition() : a.topic().compareTo(b.topic()));
            List<Object> out = new ArrayList<>();
            for (TopicPartition one : kept) out.add(Arrays.asList(one.topic(), one.partition()));
            event("ev", "assigned", "partitions", out, "revoked", revoked);
        }

        private void follow() {
            long session = (Long) request.get("session_timeout_ms");
            Map<String, Object> config = common(request);
            config.put("group.id", request.get("group"));
            config.put("enable.auto.commit", "false");
            config.put("auto.offset.reset", request.getOrDefault("reset", "earliest"));
            config.put("partition.assignment.strategy", assignor((String) request.get("assignor")));
            config.put("session.timeout.ms", String.valueOf(session));
            config.put("heartbeat.interval.ms", String.valueOf(session / 5));
            config.put("max.poll.interval.ms", "30000");
            if (request.get("instance_id") != null) config.put("group.instance.id", request.get("instance_id"));
            props(request, config);
            List<String> topics = new ArrayList<>();
            for (Object topic : list(request.get("topics"))) topics.add((String) topic);
            try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config)) {
                consumer.subscribe(topics, new ConsumerRebalanceListener() {
                    @Override
                    public void onPartitionsRevoked(Collection<TopicPartition> gone) {
                        show(consumer, gone, !"cooperative-sticky".equals(request.get("assignor")));
                    }

                    @Override
                    public void onPartitionsAssigned(Collection<TopicPartition> come) {
                        show(consumer, Collections.emptyList(), false);
                    }
                });
                while (!stop.get()) {
                    ConsumerRecords<byte[], byte[]> polled = consumer.poll(Duration.ofMillis(100));
                    if (polled.isEmpty()) continue;
                    List<Object> rows = new ArrayList<>();
                    Map<TopicPartition, OffsetAndMetadata> next = new HashMap<>();
                    for (ConsumerRecord<byte[], byte[]> r : polled) {
                        String text = r.value() == null ? "" : new String(r.value(), StandardCharsets.UTF_8);
                        rows.add(Arrays.asList(r.topic(), r.partition(), r.offset(), text));
                        next.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
                    }
                    event("ev", "records", "records", rows);
                    if (!Boolean.FALSE.equals(request.get("commit"))) {
                        try {
                            consumer.commitSync(next);
                        } catch (CommitFailedException | RetriableException lost) {
                            // The partitions are another member's by now: it reads them again.
                        } catch (RuntimeException other) {
                            // A class that the oldest client does not have yet.
                            if (!other.getClass().getSimpleName().equals("RebalanceInProgressException")) throw other;
                        }
                    }
                }
            }
        }

        private static String assignor(String name) {
            String in = "org.apache.kafka.clients.consumer.";
            switch (name) {
                case "range": return in + "RangeAssignor";
                case "roundrobin": return in + "RoundRobinAssignor";
                case "sticky": return in + "StickyAssignor";
                default: return in + "CooperativeStickyAssignor";
            }
        }
    }

    private static byte[] bytes(Object text) {
        return text == null ? null : Base64.getDecoder().decode((String) text);
    }

    private static String b64(byte[] data) {
        return data == null ? null : Base64.getEncoder().encodeToString(data);
    }

    private static Map<String, Object> pairs(Object... fields) {
        Map<String, Object> out = new LinkedHashMap<>();
        for (int i = 0; i < fields.length; i += 2) out.put((String) fields[i], fields[i + 1]);
        return out;
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> map(Object value) {
        return (Map<String, Object>) value;
    }

    @SuppressWarnings("unchecked")
    private static List<Object> list(Object value) {
        return (List<Object>) value;
    }
}
