// A worker that listens, with each transport, and says what it hears.
import { fetchTransport } from "../../../src/fetch/index.js";
import { eventSourceTransport, FoghornClient } from "../../../src/index.js";

self.onmessage = ({ data: url }: MessageEvent<string>) => {
  for (const [name, transport] of Object.entries({ native: eventSourceTransport, fetch: fetchTransport() })) {
    const client = new FoghornClient({ url, channels: ["worker"], transport });
    client.on("message", (data) => self.postMessage(`${name} ${data}`));
    client.onConnect(() => self.postMessage(`${name} connected`));
    client.connect();
  }
};
