import { useEvents } from "@foghorn/client/react";
import { type ReactElement, useState } from "react";
import type { Line } from "../client";
import { useNewest } from "../newest";
import { Button } from "./button";
import { Card } from "./card";

/** Lines that are shown. */
const LINES = 100;

/** What happens on the servers of the shop. */
export function Log(): ReactElement {
  const { events } = useEvents<Line>("demo.log", "line", { limit: LINES });
  const before = useNewest<Line>("demo.log", LINES);
  const [stopped, setStopped] = useState<readonly Line[]>();
  const heard = events.map((event) => event.data);
  // What is in both is shown once.
  const known = new Set(heard.map((line) => line.id));
  const lines = [...heard, ...before.filter((line) => !known.has(line.id))].slice(0, LINES);
  const shown = stopped ?? lines;
  return (
    <Card
      id="log"
      title="Live log"
      how={
        <>
          What happens in a shop, the newest first:{" "}
          <code>{'useEvents("demo.log", "line", { limit: 100 })'}</code>, and what was before from{" "}
          <code>GET /api/channels/demo.log/events</code>.
        </>
      }
      actions={
        <Button action={() => setStopped(stopped === undefined ? lines : undefined)}>
          {stopped === undefined ? "Pause" : "Go on"}
        </Button>
      }
    >
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reached by keyboard. */}
      <section className="log" aria-label="Lines of the log" tabIndex={0}>
        <ol>
          {shown.map((line) => (
            <li key={line.id}>
              <span className={`level ${line.level}`}>{line.level}</span>
              <span className="service">{line.service}</span>
              <span>{line.text}</span>
            </li>
          ))}
        </ol>
      </section>
    </Card>
  );
}
