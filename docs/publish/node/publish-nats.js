// Publishes an event over NATS.
//
//   npm install
//   FOGHORN_TOKEN=… node publish-nats.js nats://127.0.0.1:4222 orders.eu.42 paid payment-7781 '{"amount":990}'
import { setTimeout as sleep } from "node:timers/promises";
import { connect, headers as emptyHeaders } from "nats";

async function publish(client, channel, data, headers, attempts = 6) {
  for (let attempt = 0; ; attempt++) {
    let problem;
    try {
      const reply = await client.request(`foghorn.publish.${channel}`, data, { timeout: 25_000, headers });
      const answer = reply.json();
      if (!answer.error) return answer;
      problem = answer.error;
      // The same problem as over HTTP: below 500, but for 429, nothing is changed by trying again.
      if (problem.status < 500 && problem.status !== 429) attempt = attempts;
    } catch (error) {
      // Nobody there (503), or no answer in time.
      problem = error;
    }
    if (attempt + 1 >= attempts) throw new Error("not published", { cause: problem });
    await sleep(Math.random() * Math.min(100 * 2 ** attempt, 5_000));
  }
}

const [url, channel, event, id, data] = process.argv.slice(2);
const headers = emptyHeaders();
// The id keeps it from being published twice. Headers' names are as case-sensitive as all of NATS.
headers.set("Foghorn-Event", event);
headers.set("Foghorn-Id", id);
if (process.env.FOGHORN_TOKEN) headers.set("Authorization", `Bearer ${process.env.FOGHORN_TOKEN}`);
const client = await connect({ servers: url });
try {
  const { position } = await publish(client, channel, data, headers);
  console.log(`stored at ${position.shard}/${position.epoch}/${position.seq}`);
} finally {
  await client.close();
}
