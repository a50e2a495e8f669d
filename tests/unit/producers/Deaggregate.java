import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.Base64;
import java.util.List;
import java.util.Scanner;
import software.amazon.kinesis.retrieval.AggregatorUtil;
import software.amazon.kinesis.retrieval.KinesisClientRecord;

/**
 * KCL's own de-aggregation of one record a line: first and last hash key of its shard, sequence number, partition key and
 * data (both base64). Prints the user records that KCL hands on: sequence number, sub-sequence number, key, data.
 */
public class Deaggregate {
    public static void main(String[] arguments) {
        Base64.Encoder encoder = Base64.getEncoder();
        Base64.Decoder decoder = Base64.getDecoder();
        Scanner lines = new Scanner(System.in);
        while (lines.hasNextLine()) {
            String[] fields = lines.nextLine().split(" ");
            KinesisClientRecord record = KinesisClientRecord.builder()
                    .sequenceNumber(fields[2])
                    .partitionKey(new String(decoder.decode(fields[3]), StandardCharsets.UTF_8))
                    .data(ByteBuffer.wrap(fields.length > 4 ? decoder.decode(fields[4]) : new byte[0]))
                    .approximateArrivalTimestamp(Instant.EPOCH)
                    .build();
            List<KinesisClientRecord> users = new AggregatorUtil()
                    .deaggregate(List.of(record), new BigInteger(fields[0]), new BigInteger(fields[1]));
            for (KinesisClientRecord user : users) {
                byte[] data = new byte[user.data().remaining()];
                user.data().get(data);
                System.out.println(user.sequenceNumber() + " " + user.subSequenceNumber() + " "
                        + encoder.encodeToString(user.partitionKey().getBytes(StandardCharsets.UTF_8)) + " "
                        + encoder.encodeToString(data));
            }
        }
    }
}
