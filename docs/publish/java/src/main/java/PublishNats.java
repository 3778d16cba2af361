import io.nats.client.Connection;
import io.nats.client.Message;
import io.nats.client.Nats;
import io.nats.client.impl.Headers;
import io.nats.client.support.JsonParser;
import io.nats.client.support.JsonValue;
import io.nats.client.support.JsonValueUtils;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Publishes an event over NATS.
 *
 * <pre>
 * mvn process-classes
 * FOGHORN_TOKEN=… java -cp 'target/classes:target/dependency/*' PublishNats nats://127.0.0.1:4222 orders.eu.42 paid payment-7781 '{"amount":990}'
 * </pre>
 */
public final class PublishNats {
    private static final int ATTEMPTS = 6;

    /** The answer; throws when it can't be had. */
    static JsonValue publish(Connection client, String channel, Headers headers, byte[] data) throws Exception {
        for (int attempt = 0; ; attempt++) {
            Exception failure;
            try {
                Message reply = client.request("foghorn.publish." + channel, headers, data).get(25, TimeUnit.SECONDS);
                JsonValue answer = JsonParser.parse(reply.getData());
                JsonValue problem = JsonValueUtils.readObject(answer, "error");
                int status = JsonValueUtils.readInteger(problem, "status", 0);
                if (status == 0) {
                    return answer;
                }
                failure = new Exception("refused: " + problem.toJson());
                // The same problem as over HTTP: below 500, but for 429, nothing is changed by trying again.
                if (status < 500 && status != 429) {
                    throw failure;
                }
            } catch (TimeoutException | CancellationException | ExecutionException nobody) {
                // No answer in time, or nobody there.
                failure = nobody;
            }
            if (attempt + 1 == ATTEMPTS) {
                throw failure;
            }
            Thread.sleep((long) (Math.random() * Math.min(100 << attempt, 5_000)));
        }
    }

    public static void main(String[] args) throws Exception {
        Headers headers = new Headers();
        // The id keeps it from being published twice. Headers' names are as case-sensitive as all of NATS.
        headers.put("Foghorn-Event", args[2]);
        headers.put("Foghorn-Id", args[3]);
        String token = System.getenv("FOGHORN_TOKEN");
        if (token != null) {
            headers.put("Authorization", "Bearer " + token);
        }
        try (Connection client = Nats.connect(args[0])) {
            JsonValue answer = publish(client, args[1], headers, args[4].getBytes(StandardCharsets.UTF_8));
            JsonValue at = JsonValueUtils.readObject(answer, "position");
            long epoch = JsonValueUtils.readLong(at, "epoch", 0);
            long seq = JsonValueUtils.readLong(at, "seq", 0);
            System.out.printf("stored at %d/%d/%d%n", JsonValueUtils.readInteger(at, "shard", 0), epoch, seq);
        }
    }
}
