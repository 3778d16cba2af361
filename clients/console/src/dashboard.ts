import { FoghornClient, type FoghornError, type Status } from "@foghorn/client";
import { fetchTransport } from "@foghorn/client/fetch";
import type { Known } from "./format.js";
import { session } from "./session.js";

export interface Latency {
  p50: number;
  p95: number;
  p99: number;
}

export interface Totals {
  connections: number;
  connectionsMax: number;
  slowConnections: number;
  eventsPerSecond: number | null;
  deliveriesPerSecond: number | null;
  latency: Latency | null;
  errorRate: number | null;
  gaps: number;
  resets: number;
  lagEntries: number;
  lagSeconds: number;
  cpu: number | null;
  memoryBytes: number;
}

export interface Instance {
  service: string;
  instance: string;
  host: string;
  version: string;
  uptimeSeconds: number;
  state: "ready" | "waiting" | "draining" | "missing" | "stopped";
  waitingFor: string[];
  cpu: number | null;
  memoryBytes: number;
  connections: number;
  eventsPerSecond: number | null;
  deliveriesPerSecond: number | null;
  lagEntries: number;
}

export interface Alert {
  name: string;
  metric: string;
  value: number;
  above?: number;
  below?: number;
}

export interface Metrics {
  time: string;
  cluster: Totals;
  instances: Instance[];
  leftOut: number;
  alerts: Alert[];
}

/** An alert that has begun, or is over. */
export interface AlertEvent extends Alert {
  state: "firing" | "resolved";
}

/** An alert, and when it was told. */
export interface Happened extends AlertEvent {
  time: Date;
}

/** Seconds that are remembered for the charts. */
export const REMEMBERED = 300;
/** Alerts that are remembered. */
const ALERTS = 50;
/** Nothing comes less often than once a second: a link that is silent for so long is dead. */
const DEAD_MS = 8_000;

/** The stream of the dashboard, and what it has said in the last minutes. */
export class Dashboard {
  readonly #client: FoghornClient<{ metrics: Metrics; alert: AlertEvent }>;
  /** Oldest first. A second in which nothing was heard is none. */
  readonly history: (Metrics | undefined)[] = [];
  readonly happened: Happened[] = [];
  #last = 0;

  constructor(listeners: {
    onMetrics: (metrics: Metrics) => void;
    onStatus: (status: Status) => void;
    onError: (error: FoghornError) => void;
  }) {
    this.#client = new FoghornClient({
      url: "/api/dashboard/stream",
      transport: fetchTransport({ headers: session.headers() }),
      heartbeatTimeout: DEAD_MS,
      onStatus: listeners.onStatus,
      onError: listeners.onError,
    });
    this.#client.on("metrics", (metrics) => {
      this.#remember(metrics);
      listeners.onMetrics(metrics);
    });
    this.#client.on("alert", (alert) => {
      this.happened.unshift({ ...alert, time: new Date() });
      this.happened.length = Math.min(this.happened.length, ALERTS);
    });
    this.#client.connect();
  }

  get latest(): Metrics | undefined {
    return this.history.at(-1);
  }

  close(): void {
    this.#client.close();
  }

  /** What was so each second, for a chart. */
  series(of: (metrics: Metrics) => Known): Known[] {
    return this.history.map((metrics) => (metrics === undefined ? null : of(metrics)));
  }

  #remember(metrics: Metrics): void {
    const now = Date.now();
    // Seconds in which there was no connection leave a gap in the charts.
    const silent = this.#last === 0 ? 0 : Math.min(Math.round((now - this.#last) / 1_000) - 1, REMEMBERED);
    for (let second = 0; second < silent; second += 1) {
      this.history.push(undefined);
    }
    this.#last = now;
    this.history.push(metrics);
    this.history.splice(0, this.history.length - REMEMBERED);
  }
}
