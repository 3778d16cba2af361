// Publishes an event over gRPC.
//
//	go install tool        # what protoc makes Go with
//	go generate ./...      # with protoc, of the .proto, wherever yours lies
//	FOGHORN_TOKEN=… go run ./publish-grpc 127.0.0.1:50051 orders.eu.42 paid payment-7781 '{"amount":990}'
package main

//go:generate protoc -I ../../../../crates/rpc/proto --go_out=.. --go_opt=module=example.com/publish,Mfoghorn/v1/foghorn.proto=example.com/publish/foghorn --go-grpc_out=.. --go-grpc_opt=module=example.com/publish,Mfoghorn/v1/foghorn.proto=example.com/publish/foghorn foghorn/v1/foghorn.proto

import (
	"context"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/publish/foghorn"
)

// publish gives the answer, or the error of the last attempt.
func publish(ctx context.Context, publisher foghorn.PublisherClient, event *foghorn.PublishRequest) (*foghorn.PublishResponse, error) {
	const attempts = 6
	for attempt := 0; ; attempt++ {
		timed, cancel := context.WithTimeout(ctx, 25*time.Second)
		answer, err := publisher.Publish(timed, event)
		cancel()
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
			// The same request may succeed yet. The id keeps it from being published twice.
		default:
			return answer, err
		}
		if attempt+1 == attempts {
			return nil, err
		}
		time.Sleep(time.Duration(rand.Float64() * float64(min(100*time.Millisecond<<attempt, 5*time.Second))))
	}
}

func main() {
	if len(os.Args) != 6 {
		log.Fatal("usage: publish-grpc ADDRESS CHANNEL EVENT ID DATA")
	}
	// credentials.NewTLS over TLS
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx := context.Background()
	if token := os.Getenv("FOGHORN_TOKEN"); token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	event := &foghorn.PublishRequest{Channel: os.Args[2], Event: os.Args[3], Id: os.Args[4], Data: []byte(os.Args[5])}
	answer, err := publish(ctx, foghorn.NewPublisherClient(connection), event)
	if err != nil {
		log.Fatalf("not published: %v", err)
	}
	at := answer.Position
	fmt.Printf("stored at %d/%d/%d\n", at.Shard, at.Epoch, at.Seq)
}
