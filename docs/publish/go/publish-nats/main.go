// Publishes an event over NATS.
//
//	FOGHORN_TOKEN=… go run ./publish-nats nats://127.0.0.1:4222 orders.eu.42 paid payment-7781 '{"amount":990}'
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

type answer struct {
	Position struct{ Shard, Epoch, Seq uint64 }
	// The same problem as over HTTP.
	Error *struct {
		Status        int
		Title, Detail string
	}
}

// publish gives the answer, or why it can't be had.
func publish(client *nats.Conn, message *nats.Msg) (*answer, error) {
	const attempts = 6
	var failure error
	for attempt := range attempts {
		reply, err := client.RequestMsg(message, 25*time.Second)
		switch {
		case err == nil:
			var said answer
			if err := json.Unmarshal(reply.Data, &said); err != nil {
				return nil, err
			}
			if said.Error == nil {
				return &said, nil
			}
			failure = fmt.Errorf("%d %s: %s", said.Error.Status, said.Error.Title, said.Error.Detail)
			// Below 500, but for 429, nothing is changed by trying again.
			if said.Error.Status < 500 && said.Error.Status != 429 {
				return nil, failure
			}
		case errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrNoResponders):
			failure = err
		default:
			return nil, err
		}
		time.Sleep(time.Duration(rand.Float64() * float64(min(100*time.Millisecond<<attempt, 5*time.Second))))
	}
	return nil, failure
}

func main() {
	if len(os.Args) != 6 {
		log.Fatal("usage: publish-nats URL CHANNEL EVENT ID DATA")
	}
	client, err := nats.Connect(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	message := nats.NewMsg("foghorn.publish." + os.Args[2])
	// Headers' names are as case-sensitive as all of NATS.
	message.Header["Foghorn-Event"] = []string{os.Args[3]}
	// The id keeps it from being published twice.
	message.Header["Foghorn-Id"] = []string{os.Args[4]}
	if token := os.Getenv("FOGHORN_TOKEN"); token != "" {
		message.Header["Authorization"] = []string{"Bearer " + token}
	}
	message.Data = []byte(os.Args[5])
	said, err := publish(client, message)
	if err != nil {
		log.Fatalf("not published: %v", err)
	}
	fmt.Printf("stored at %d/%d/%d\n", said.Position.Shard, said.Position.Epoch, said.Position.Seq)
}
