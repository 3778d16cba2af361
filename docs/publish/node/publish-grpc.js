// Publishes an event over gRPC.
//
//   npm install
//   FOGHORN_TOKEN=… node publish-grpc.js 127.0.0.1:50051 orders.eu.42 paid payment-7781 '{"amount":990}'
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

// Where the .proto lies: beside your program, or in this repository.
const protos =
  process.env.FOGHORN_PROTO ?? fileURLToPath(new URL("../../../crates/rpc/proto", import.meta.url));
// As strings: a position's numbers may be above what a double can tell apart.
const definition = loadSync("foghorn/v1/foghorn.proto", { includeDirs: [protos], longs: String });
const { Publisher } = grpc.loadPackageDefinition(definition).foghorn.v1;

// Codes after which the same request may succeed. The id keeps it from being published twice.
const { UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED } = grpc.status;
const RETRYABLE = [UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED];

async function publish(publisher, request, metadata, attempts = 6) {
  for (let attempt = 0; ; attempt++) {
    try {
      return await new Promise((resolve, reject) => {
        const done = (error, answer) => (error ? reject(error) : resolve(answer));
        publisher.publish(request, metadata, { deadline: Date.now() + 25_000 }, done);
      });
    } catch (error) {
      if (!RETRYABLE.includes(error.code) || attempt + 1 === attempts) throw error;
      await sleep(Math.random() * Math.min(100 * 2 ** attempt, 5_000));
    }
  }
}

const [address, channel, event, id, data] = process.argv.slice(2);
const metadata = new grpc.Metadata();
if (process.env.FOGHORN_TOKEN) metadata.set("authorization", `Bearer ${process.env.FOGHORN_TOKEN}`);
// grpc.credentials.createSsl() over TLS
const publisher = new Publisher(address, grpc.credentials.createInsecure());
const { position } = await publish(publisher, { channel, event, id, data: Buffer.from(data) }, metadata);
publisher.close();
console.log(`stored at ${position.shard ?? 0}/${position.epoch}/${position.seq}`);
