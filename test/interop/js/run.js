// node --experimental-websocket run.js PROGRAM...: runs the cases against each program
// over TCP, over WebSocket, and in headless Chromium over ws:// and wss://. It prints a
// line a case, and ends with 1 if one failed.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import { headers, wsconnect } from "@nats-io/nats-core";
import { connect } from "@nats-io/transport-node";
import { chromium } from "playwright-core";
import { run } from "./cases.js";
import { Server } from "./server.js";

const programs = process.argv.slice(2);
if (programs.length === 0) programs.push("../../../bin/leafd");

const node = (dial) => (server) => run({
  headers,
  connect: (options) => dial(server, options),
  restart: () => server.restart(),
});

// page serves the bundle of browser.js on an origin of its own.
async function page() {
  const dir = mkdtempSync(join(tmpdir(), "leafd-page-"));
  await build({ entryPoints: ["browser.js"], bundle: true, format: "iife", outfile: join(dir, "page.js"), logLevel: "error" });
  const script = readFileSync(join(dir, "page.js"));
  rmSync(dir, { recursive: true });
  const s = createServer((req, res) => {
    const js = req.url === "/page.js";
    res.writeHead(200, { "Content-Type": js ? "text/javascript" : "text/html" });
    res.end(js ? script : "<!doctype html><title>leafd</title><script src=page.js></script>");
  });
  await new Promise((resolve) => s.listen(0, "127.0.0.1", resolve));
  return s;
}

async function inChromium(server) {
  const site = await page();
  const profile = mkdtempSync(join(tmpdir(), "leafd-chromium-"));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium", headless: true, ignoreHTTPSErrors: true,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--ignore-certificate-errors"],
  });
  try {
    const p = await browser.newPage();
    await p.exposeFunction("restartServer", () => server.restart());
    await p.goto("http://localhost:" + site.address().port + "/");
    return await p.evaluate((url) => window.runCases(url), server.url);
  } finally {
    await browser.close();
    site.close();
    rmSync(profile, { recursive: true, force: true });
  }
}

const ways = [
  ["Node, TCP", false, node((s, o) => connect({ servers: "127.0.0.1:" + s.nats, ...o }))],
  ["Node, ws://", false, node((s, o) => wsconnect({ servers: s.url, ...o }))],
  ["Chromium, ws://", false, inChromium],
  ["Chromium, wss://", true, inChromium],
];

let failed = 0;
for (const program of programs) {
  for (const [way, secured, play] of ways) {
    const server = await Server.start(program, secured);
    const results = await play(server);
    for (const [name, why] of Object.entries(results)) {
      console.log(`${why ? "FAIL" : "ok  "} ${program.split("/").pop()}: ${way}: ${name}`);
      if (why) {
        failed++;
        console.log(why);
      }
    }
    if (Object.values(results).some(Boolean)) console.log("--- log of the server\n" + server.log);
    await server.stop();
  }
}
console.log(failed ? `${failed} failed` : "all passed");
process.exit(failed ? 1 : 0);
