import { useFoghorn } from "@foghorn/client/react";
import { useEffect, useState } from "react";
import { newest } from "./server";

/**
 * What was published on a channel before this part of the page was there, the newest first. Asked for once the
 * connection is there, so that nothing is between it and what is heard; what is in both is to be shown once.
 */
export function useNewest<T>(channel: string, limit: number): readonly T[] {
  const { isConnected } = useFoghorn();
  const [data, setData] = useState<readonly T[]>();
  const isDue = isConnected && data === undefined;
  useEffect(() => {
    if (!isDue) {
      return;
    }
    const aborter = new AbortController();
    newest<T>(channel, limit, aborter.signal).then(setData, (error) => {
      if (!aborter.signal.aborted) {
        console.warn(`what was on ${channel} before can't be had:`, error);
        setData([]);
      }
    });
    return () => aborter.abort();
  }, [channel, limit, isDue]);
  return data ?? [];
}
