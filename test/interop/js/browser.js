// What runs in the page: the cases over the browser's own WebSocket.
import { headers, wsconnect } from "@nats-io/nats-core";
import { run } from "./cases.js";

window.runCases = (url) => run({
  headers,
  connect: (options) => wsconnect({ servers: url, ...options }),
  restart: window.restartServer,
});
