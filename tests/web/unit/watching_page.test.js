import assert from "node:assert/strict";
import { afterEach, mock, test } from "node:test";

const { WatchConnection } = await import("../../../web/lib/data/watch_connection.js");
const { watchAddress } = await import("../../../web/lib/data/sharing.js");

/** Sockets that were opened. */
let sockets = [];

globalThis.WebSocket = class {
  constructor(address) {
    Object.assign(this, { address: String(address), sent: [], closed: false });
    sockets.push(this);
  }
  send(text) {
    this.sent.push(text);
  }
  close() {
    this.closed = true;
  }
};

function connect() {
  sockets = [];
  mock.timers.enable({ apis: ["setTimeout"] });
  const connection = new WatchConnection(new URL("ws://a/sidestream/watch"), "key");
  const heard = [];
  for (const name of ["state", "picture", "progress"]) {
    connection.addEventListener(name, ({ detail }) => heard.push([name, detail]));
  }
  connection.open();
  return { connection, heard };
}

/** How long after the newest socket ended another one is opened. */
function secondsUntilNext(limit = 60) {
  const before = sockets.length;
  for (let seconds = 1; seconds <= limit; seconds++) {
    mock.timers.tick(1000);
    if (sockets.length > before) return seconds;
  }
  return Infinity;
}

afterEach(() => mock.timers.reset());

test("the key is sent when it is open, and is in no address", () => {
  connect();
  assert.deepEqual(sockets[0].sent, []);
  sockets[0].onopen();
  assert.deepEqual(sockets[0].sent, ["key"]);
  assert.ok(!sockets[0].address.includes("key"));
});

test("a lost connection is opened again, later each time, and at once when asked to", () => {
  const { connection, heard } = connect();
  const waits = [];
  for (let i = 0; i < 6; i++) {
    sockets.at(-1).onclose({ code: 1006 });
    waits.push(secondsUntilNext());
  }
  assert.deepEqual(waits, [1, 2, 4, 8, 10, 10]);
  sockets.at(-1).onclose({ code: 1006 });
  connection.open();
  connection.open();
  assert.equal(sockets.length, 8);
  sockets.at(-1).onmessage({ data: '{"run":null}' });
  assert.deepEqual(heard.slice(-2), [["state", "open"], ["progress", { run: null }]]);
  sockets.at(-1).onclose({ code: 1006 });
  assert.equal(secondsUntilNext(), 1);
});

test("one that is silent is given up", () => {
  const { heard } = connect();
  sockets[0].onmessage({ data: '{"run":null}' });
  mock.timers.tick(39_000);
  sockets[0].onmessage({ data: new Blob(["picture"]) });
  mock.timers.tick(39_000);
  assert.equal(sockets[0].closed, false);
  mock.timers.tick(2000);
  assert.ok(sockets[0].closed);
  assert.deepEqual(heard.at(-1), ["state", "lost"]);
  assert.equal(secondsUntilNext(), 1);
});

for (const [code, state] of [[4401, "refused"], [4429, "full"]]) {
  test(`one that is ${state} is tried again in a while`, () => {
    const { heard } = connect();
    sockets[0].onclose({ code });
    assert.deepEqual(heard, [["state", state]]);
    assert.equal(secondsUntilNext(), 15);
  });
}

const PATH = "extensions/ComfyUI-SideStream/watch.html";

for (const [page, network, address, reach] of [
  [`http://192.168.1.2:8188/${PATH}`, "10.0.0.9", `http://192.168.1.2:8188/${PATH}#k`, "all"],
  [`https://a.example/some/folder/${PATH}?v=1`, null, `https://a.example/some/folder/${PATH}#k`, "all"],
  [`http://127.0.0.1:8188/${PATH}`, "192.168.1.2", `http://192.168.1.2:8188/${PATH}#k`, "replaced"],
  [`http://[::1]:8188/${PATH}`, "[fd00::2]", `http://[fd00::2]:8188/${PATH}#k`, "replaced"],
  [`http://localhost:8188/${PATH}`, null, `http://localhost:8188/${PATH}#k`, "here"],
]) {
  test(`the address of ${page} for other devices, where the server has ${network}`, () => {
    const told = { user: "default", on: true, key: "k", watchers: 0, network_address: network };
    const found = watchAddress(told, new URL(page));
    assert.deepEqual([found.address, found.reach], [address, reach]);
  });
}
