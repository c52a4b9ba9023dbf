// A server for the cases: leafd, or a stock nats-server with the same configuration.
import { spawn, execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

async function freePort() {
  const s = createServer();
  await new Promise((resolve) => s.listen(0, "127.0.0.1", resolve));
  const { port } = s.address();
  await new Promise((resolve) => s.close(resolve));
  return port;
}

function listens(port) {
  return new Promise((resolve) => {
    const c = connect(port, "127.0.0.1");
    c.on("connect", () => { c.destroy(); resolve(true); });
    c.on("error", () => resolve(false));
  });
}

export class Server {
  static async start(program, secured) {
    const s = new Server();
    s.program = program;
    s.dir = mkdtempSync(join(tmpdir(), "leafd-js-"));
    s.nats = await freePort();
    s.ws = await freePort();
    let tls = "no_tls: true";
    if (secured) {
      const [key, cert] = [join(s.dir, "key.pem"), join(s.dir, "cert.pem")];
      execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert], { stdio: "ignore" });
      tls = `tls { cert_file: "${cert}", key_file: "${key}" }`;
    }
    writeFileSync(join(s.dir, "server.conf"), `
listen: "127.0.0.1:${s.nats}"
authorization { users: [
  { user: all, password: a }
  { user: few, password: f, permissions { publish: "js.few.>", subscribe: "js.few.>" } }
] }
websocket { listen: "127.0.0.1:${s.ws}", ${tls}, compression: true }
`);
    s.url = (secured ? "wss" : "ws") + "://localhost:" + s.ws;
    await s.run();
    return s;
  }

  async run() {
    this.child = spawn(this.program, ["-c", join(this.dir, "server.conf")], { stdio: ["ignore", "ignore", "pipe"] });
    this.log = "";
    this.child.stderr.on("data", (b) => { this.log = (this.log + b).slice(-20000); });
    for (let i = 0; i < 600; i++) {
      if (await listens(this.nats) && await listens(this.ws)) return;
      if (this.child.exitCode !== null) break;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(this.program + " does not start:\n" + this.log);
  }

  async kill() {
    const gone = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill("SIGKILL");
    await gone;
  }

  async restart() {
    await this.kill();
    await this.run();
  }

  async stop() {
    await this.kill();
    rmSync(this.dir, { recursive: true });
  }
}
