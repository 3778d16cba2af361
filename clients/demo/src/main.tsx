import { FoghornProvider } from "@foghorn/client/react";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app";
import { client } from "./client";
import "./style.css";

createRoot(document.getElementById("root") as HTMLElement).render(
  <StrictMode>
    <FoghornProvider client={client}>
      <App />
    </FoghornProvider>
  </StrictMode>,
);
