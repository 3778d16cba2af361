"""Publishes an event over gRPC.

    pip install -r requirements.txt
    FOGHORN_TOKEN=… python publish_grpc.py 127.0.0.1:50051 orders.eu.42 paid payment-7781 '{"amount":990}'
"""

import os
import random
import sys
import time

import grpc

# Where the .proto lies: beside your program, or in this repository. It is compiled when it is imported.
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.environ.get("FOGHORN_PROTO", os.path.join(HERE, "../../../crates/rpc/proto")))
messages, services = grpc.protos_and_services("foghorn/v1/foghorn.proto")

# Codes after which the same request may succeed. The id keeps it from being published twice.
RETRYABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def publish(publisher, request, metadata, attempts=6):
    """The answer; raises grpc.RpcError when it can't be had."""
    for attempt in range(attempts):
        try:
            return publisher.Publish(request, timeout=25, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() not in RETRYABLE or attempt + 1 == attempts:
                raise
            time.sleep(random.uniform(0, min(0.1 * 2**attempt, 5)))


def main():
    address, channel, event, event_id, data = sys.argv[1:]
    token = os.environ.get("FOGHORN_TOKEN")
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address) as connection:  # grpc.secure_channel over TLS
        publisher = services.PublisherStub(connection)
        request = messages.PublishRequest(channel=channel, event=event, id=event_id, data=data.encode())
        answer = publish(publisher, request, metadata)
    print(f"stored at {answer.position.shard}/{answer.position.epoch}/{answer.position.seq}")


main()
