// What the official client must be able to do, in Node and in a browser alike. Each
// case gets connect(options), and restart(), which kills the server and starts it again.

const say = new TextEncoder();
const text = (m) => new TextDecoder().decode(m.data);

function check(ok, what) {
  if (!ok) throw new Error(what);
}

// until resolves when the promise does, and fails when it takes too long.
function until(promise, what, ms = 20000) {
  let timer;
  const late = new Promise((_, fail) => { timer = setTimeout(() => fail(new Error(what + ": nothing in time")), ms); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function take(sub, n) {
  const got = [];
  for await (const m of sub) {
    got.push(m);
    if (got.length === n) break;
  }
  return got;
}

async function failure(promise) {
  try {
    await promise;
  } catch (err) {
    return err;
  }
  throw new Error("did not fail");
}

export const cases = {
  async "publish and subscribe, with wildcards"({ connect }) {
    const nc = await connect({ user: "all", pass: "a" });
    const sub = nc.subscribe("js.*.x.>", { max: 3 });
    nc.publish("js.a.x.1", "one");
    nc.publish("js.b.x.2.3", say.encode("two"));
    nc.publish("js.b.y.2", "not this");
    nc.publish("js.c.x.4");
    const got = await until(take(sub, 3), "messages");
    check(got.map((m) => m.subject + "=" + text(m)).join() === "js.a.x.1=one,js.b.x.2.3=two,js.c.x.4=", "wrong messages");
    await nc.close();
  },

  async "a payload of every byte and of the largest size"({ connect }) {
    const nc = await connect({ user: "all", pass: "a" });
    const largest = new Uint8Array(nc.info.max_payload);
    for (let i = 0; i < largest.length; i++) largest[i] = i % 256;
    const sub = nc.subscribe("js.large", { max: 41 });
    for (let i = 0; i < 40; i++) nc.publish("js.large", largest.subarray(0, 700)); // in one message with the next
    nc.publish("js.large", largest);
    const got = await until(take(sub, 41), "messages");
    check(got[40].data.length === largest.length && got[40].data.every((b, i) => b === i % 256), "payload changed");
    await nc.close();
  },

  async "many messages, in order"({ connect }) {
    const nc = await connect({ user: "all", pass: "a" });
    const n = 20000;
    const sub = nc.subscribe("js.many", { max: n });
    for (let i = 0; i < n; i++) nc.publish("js.many", String(i));
    const got = await until(take(sub, n), "messages");
    check(got.every((m, i) => text(m) === String(i)), "out of order");
    await nc.close();
  },

  async "request and reply"({ connect }) {
    const server = await connect({ user: "all", pass: "a" });
    server.subscribe("js.echo", { callback: (_, m) => m.respond(m.data) });
    await server.flush();
    const nc = await connect({ user: "all", pass: "a" });
    const answers = await Promise.all([...Array(50).keys()].map((i) => nc.request("js.echo", String(i), { timeout: 20000 })));
    check(answers.every((m, i) => text(m) === String(i)), "wrong answers");
    await nc.close();
    await server.close();
  },

  async "no responders"({ connect }) {
    const nc = await connect({ user: "all", pass: "a" });
    const err = await failure(nc.request("js.nobody", "", { timeout: 20000 }));
    check(err.name === "RequestError" && err.isNoResponders(), "got " + err);
    await nc.close();
  },

  async "headers"({ connect, headers }) {
    const nc = await connect({ user: "all", pass: "a" });
    const sub = nc.subscribe("js.headers", { max: 1 });
    const h = headers();
    h.append("Key", "one");
    h.append("Key", "two");
    h.set("other", "grüße");
    nc.publish("js.headers", "body", { headers: h });
    const [m] = await until(take(sub, 1), "message");
    check(m.headers.values("Key").join() === "one,two" && m.headers.get("other") === "grüße" && text(m) === "body", "headers changed");
    await nc.close();
  },

  async "a queue group shares, and each message comes once"({ connect }) {
    const n = 600;
    const seen = new Set();
    const counts = [0, 0, 0];
    let done;
    const all = new Promise((resolve) => { done = resolve; });
    const members = [];
    for (let i = 0; i < 3; i++) {
      const nc = await connect({ user: "all", pass: "a" });
      nc.subscribe("js.work", { queue: "q", callback: (_, m) => {
        check(!seen.has(text(m)), "twice");
        seen.add(text(m));
        counts[i]++;
        if (seen.size === n) done();
      } });
      await nc.flush();
      members.push(nc);
    }
    for (let i = 0; i < n; i++) members[0].publish("js.work", String(i));
    await until(all, "messages");
    check(counts.every((c) => c > 0), "not shared: " + counts);
    for (const nc of members) await nc.close();
  },

  async "drain delivers what is under way"({ connect }) {
    const pub = await connect({ user: "all", pass: "a" });
    const nc = await connect({ user: "all", pass: "a" });
    let got = 0;
    nc.subscribe("js.drain", { callback: () => { got++; } });
    await nc.flush();
    for (let i = 0; i < 1000; i++) pub.publish("js.drain", "x");
    await pub.flush();
    await until(nc.drain(), "drain");
    check(nc.isClosed() && got === 1000, "got " + got);
    await pub.close();
  },

  async "unsubscribe after a maximum"({ connect }) {
    const nc = await connect({ user: "all", pass: "a" });
    let got = 0;
    const sub = nc.subscribe("js.max", { callback: () => { got++; } });
    sub.unsubscribe(2);
    for (let i = 0; i < 5; i++) nc.publish("js.max", "x");
    await nc.flush();
    check(got === 2 && sub.isClosed(), "got " + got);
    await nc.close();
  },

  async "a wrong password, and none"({ connect }) {
    for (const who of [{ user: "all", pass: "wrong" }, {}]) {
      const err = await failure(connect({ ...who, reconnect: false }));
      check(err.name === "AuthorizationError", "got " + err.name + ": " + err.message);
    }
  },

  async "permissions"({ connect }) {
    const nc = await connect({ user: "few", pass: "f" });
    const told = (async () => {
      for await (const s of nc.status()) {
        if (s.type === "error") return s.error;
      }
    })();
    nc.publish("js.forbidden", "x");
    const err = await until(told, "error");
    check(err.name === "PermissionViolationError" && err.operation === "publish" && err.subject === "js.forbidden", "got " + err);
    const failed = new Promise((resolve) => nc.subscribe("js.secret", { callback: (e) => resolve(e) }));
    const denied = await until(failed, "error of the subscription");
    check(denied.name === "PermissionViolationError" && denied.operation === "subscription", "got " + denied);
    const sub = nc.subscribe("js.few.>", { max: 1 }); // and it is still connected
    nc.publish("js.few.ok", "ok");
    check(text((await until(take(sub, 1), "message"))[0]) === "ok", "wrong message");
    await nc.close();
  },

  async "it reconnects after a restart, and subscribes again"({ connect, restart }) {
    const nc = await connect({ user: "all", pass: "a", reconnectTimeWait: 100, maxReconnectAttempts: -1 });
    const sub = nc.subscribe("js.again", { max: 1 });
    await nc.flush();
    const back = (async () => {
      for await (const s of nc.status()) {
        if (s.type === "reconnect") return;
      }
    })();
    await restart();
    await until(back, "reconnect");
    nc.publish("js.again", "here");
    check(text((await until(take(sub, 1), "message"))[0]) === "here", "wrong message");
    await nc.close();
  },
};

// run runs them one after the other and says what became of each: null, or why it failed.
export async function run(tools) {
  const results = {};
  for (const [name, body] of Object.entries(cases)) {
    try {
      await until(body(tools), "the case", 60000);
      results[name] = null;
    } catch (err) {
      results[name] = String(err && err.stack || err);
    }
  }
  return results;
}
