import { useEvents } from "@foghorn/client/react";
import type { ReactElement } from "react";
import type { Progress } from "../client";
import { useNewest } from "../newest";
import { ask } from "../server";
import { Button } from "./button";
import { Card } from "./card";

/** How far the long job is. */
export function Job(): ReactElement {
  const { data } = useEvents<Progress>("demo.job", "progress");
  const before = useNewest<Progress>("demo.job", 1);
  const progress = data ?? before[0];
  const isUnderWay = progress !== undefined && progress.percent < 100;
  return (
    <Card
      id="job"
      title="Long job"
      how={
        <>
          Something takes a while on the server, and says how far it is:{" "}
          <code>useEvents("demo.job", "progress")</code>. What was missed while the connection was gone comes
          by itself.
        </>
      }
      actions={
        <Button action={() => ask("/demo/job")} isOff={isUnderWay} isPrimary>
          Start a job
        </Button>
      }
    >
      <div className="progress">
        <progress max={100} value={progress?.percent ?? 0} aria-label="Long job" />
        <span className="percent">{progress?.percent ?? 0} %</span>
      </div>
      <p className="quiet" role="status">
        {progress === undefined ? "No job yet." : isUnderWay ? `${progress.phase} …` : "Done."}
      </p>
    </Card>
  );
}
