import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.zip.CRC32;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Tells what a range holds, by Kafka's own client.
 *
 * A request is a line of seven words parted by tabs: servers, topic, partition, start, end, committed or uncommitted,
 * seconds without progress after which to give up. The answer is "ok", low, stable, high, number of records; then a
 * line for each record: offset, CRC-32 of the key and of the value ("-" for null), number of headers, timestamp. Or
 * "error" and a text.
 */
public class Oracle {
    private static final Duration TIMEOUT = Duration.ofSeconds(10);

    public static void main(String[] arguments) throws Exception {
        var requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            String answer;
            try {
                answer = answer(line.split("\t"));
            } catch (Exception exception) {
                answer = "error\t" + exception.toString().replaceAll("\\s+", " ") + "\n";
            }
            System.out.print(answer);
            System.out.flush();
        }
    }

    private static String answer(String[] words) {
        var partition = new TopicPartition(words[1], Integer.parseInt(words[2]));
        boolean committed = words[5].equals("committed");
        // New clients for each request: nothing that an earlier one has seen of the topic can colour the answer.
        try (var stableReader = consumer(words[0], "read_committed"); var allReader = consumer(words[0], "read_uncommitted")) {
            long low = allReader.beginningOffsets(List.of(partition), TIMEOUT).get(partition);
            long stable = stableReader.endOffsets(List.of(partition), TIMEOUT).get(partition);
            long high = allReader.endOffsets(List.of(partition), TIMEOUT).get(partition);
            long start = Math.max(low, Long.parseLong(words[3]));
            long end = Math.min(committed ? stable : high, Long.parseLong(words[4]));
            var reader = committed ? stableReader : allReader;
            var records = new StringBuilder();
            long count = start < end ? read(reader, partition, start, end, Long.parseLong(words[6]), records) : 0;
            return "ok\t" + low + "\t" + stable + "\t" + high + "\t" + count + "\n" + records;
        }
    }

    private static long read(
            KafkaConsumer<byte[], byte[]> reader, TopicPartition partition, long start, long end, long patience, StringBuilder records) {
        reader.assign(List.of(partition));
        reader.seek(partition, start);
        long count = 0;
        long position = start;
        long deadline = System.nanoTime() + patience * 1_000_000_000L;
        while (position < end) {
            for (ConsumerRecord<byte[], byte[]> found : reader.poll(Duration.ofMillis(100))) {
                if (found.offset() >= end) break;
                records.append(found.offset()).append('\t').append(checksum(found.key())).append('\t').append(checksum(found.value()))
                        .append('\t').append(found.headers().toArray().length).append('\t').append(found.timestamp()).append('\n');
                count++;
            }
            long reached = reader.position(partition, TIMEOUT);
            if (reached > position) {
                position = reached;
                deadline = System.nanoTime() + patience * 1_000_000_000L;
            } else if (System.nanoTime() > deadline) {
                throw new IllegalStateException("no progress for " + patience + " s at " + partition + " offset " + position);
            }
        }
        return count;
    }

    private static String checksum(byte[] bytes) {
        if (bytes == null) return "-";
        var crc = new CRC32();
        crc.update(bytes);
        return Long.toString(crc.getValue());
    }

    private static KafkaConsumer<byte[], byte[]> consumer(String servers, String isolation) {
        var settings = new Properties();
        settings.putAll(Map.of(
                "bootstrap.servers", servers,
                "isolation.level", isolation,
                "enable.auto.commit", "false",
                "auto.offset.reset", "none",
                "allow.auto.create.topics", "false",
                "check.crcs", "true",
                "fetch.max.wait.ms", "100"));
        return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }
}
