import {
  createContext,
  createElement,
  type ReactElement,
  type ReactNode,
  useContext,
  useEffect,
  useMemo,
  useState,
} from "react";
import { FoghornClient } from "../client.js";
import type { FoghornOptions } from "../options.js";
import { type AnyClient, Connection } from "./connection.js";

/** What a provider is given: options of a client, or a client; one of the two, for as long as it lives. */
export interface FoghornProviderProps {
  /** For a client that the provider makes, connects when it is mounted and closes when it goes. Read once. */
  options?: FoghornOptions;
  /** A client of the application's own, such as a `SharedFoghornClient`. The provider connects it, no more. */
  client?: AnyClient;
  children?: ReactNode;
}

const Context = createContext<Connection | null>(null);

/** Gives one connection to all components below it. It is made when the provider is mounted, never on a server. */
export function FoghornProvider({ options, client, children }: FoghornProviderProps): ReactElement {
  const [own] = useState(() => (client === undefined ? new FoghornClient(options) : undefined));
  const connection = useMemo(() => connectionOf(client, own), [client, own]);
  useEffect(() => connection.begin(), [connection]);
  return createElement(Context.Provider, { value: connection }, children);
}

function connectionOf(client: AnyClient | undefined, own: AnyClient | undefined): Connection {
  const used = client ?? own;
  if (used === undefined) {
    throw new Error("a FoghornProvider that was given a client has to be given one for as long as it lives");
  }
  return new Connection(used, client === undefined);
}

/** The connection of the provider above. */
export function useConnection(): Connection {
  const connection = useContext(Context);
  if (connection === null) {
    throw new Error("there is no FoghornProvider above this component");
  }
  return connection;
}
