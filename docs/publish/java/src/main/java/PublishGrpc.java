import com.google.protobuf.ByteString;
import foghorn.v1.Foghorn.Position;
import foghorn.v1.Foghorn.PublishRequest;
import foghorn.v1.Foghorn.PublishResponse;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import java.util.Set;
import java.util.concurrent.TimeUnit;

/**
 * Publishes an event over gRPC.
 *
 * <pre>
 * mvn process-classes
 * FOGHORN_TOKEN=… java -cp 'target/classes:target/dependency/*' PublishGrpc 127.0.0.1:50051 orders.eu.42 paid payment-7781 '{"amount":990}'
 * </pre>
 */
public final class PublishGrpc {
    private static final int ATTEMPTS = 6;
    /** Codes after which the same request may succeed. The id keeps it from being published twice. */
    private static final Set<Status.Code> RETRYABLE =
            Set.of(Status.Code.UNAVAILABLE, Status.Code.DEADLINE_EXCEEDED, Status.Code.RESOURCE_EXHAUSTED);
    /** For one method it is as quickly written as generated; for more, have protoc-gen-grpc-java make PublisherGrpc. */
    private static final MethodDescriptor<PublishRequest, PublishResponse> PUBLISH =
            MethodDescriptor.<PublishRequest, PublishResponse>newBuilder()
                    .setType(MethodDescriptor.MethodType.UNARY)
                    .setFullMethodName("foghorn.v1.Publisher/Publish")
                    .setRequestMarshaller(ProtoUtils.marshaller(PublishRequest.getDefaultInstance()))
                    .setResponseMarshaller(ProtoUtils.marshaller(PublishResponse.getDefaultInstance()))
                    .build();

    /** The answer; throws when it can't be had. */
    static PublishResponse publish(Channel publisher, PublishRequest request) throws InterruptedException {
        for (int attempt = 0; ; attempt++) {
            try {
                CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(25, TimeUnit.SECONDS);
                return ClientCalls.blockingUnaryCall(publisher, PUBLISH, options, request);
            } catch (StatusRuntimeException failure) {
                if (!RETRYABLE.contains(failure.getStatus().getCode()) || attempt + 1 == ATTEMPTS) {
                    throw failure;
                }
            }
            Thread.sleep((long) (Math.random() * Math.min(100 << attempt, 5_000)));
        }
    }

    public static void main(String[] args) throws InterruptedException {
        // Without usePlaintext over TLS.
        ManagedChannel connection = ManagedChannelBuilder.forTarget(args[0]).usePlaintext().build();
        Channel publisher = connection;
        String token = System.getenv("FOGHORN_TOKEN");
        if (token != null) {
            Metadata metadata = new Metadata();
            metadata.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
            publisher = ClientInterceptors.intercept(publisher, MetadataUtils.newAttachHeadersInterceptor(metadata));
        }
        PublishRequest request = PublishRequest.newBuilder()
                .setChannel(args[1])
                .setEvent(args[2])
                .setId(args[3])
                .setData(ByteString.copyFromUtf8(args[4]))
                .build();
        try {
            Position at = publish(publisher, request).getPosition();
            System.out.printf("stored at %d/%d/%d%n", at.getShard(), at.getEpoch(), at.getSeq());
        } finally {
            connection.shutdownNow();
        }
    }
}
