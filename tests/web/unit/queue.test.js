import assert from "node:assert/strict";
import { test } from "node:test";

import { Prompts } from "../../../web/lib/data/prompts.js";
import { Queue } from "../../../web/lib/data/queue.js";
import { FrameStore } from "../../../web/lib/data/store.js";
import { receive } from "../../../web/lib/data/wire.js";
import { answers, api, app, preview, tell } from "./comfy.js";

api.clientId = "me";

function opened() {
  const store = new FrameStore(() => ({ frames: 600, bytes: 2 ** 20 }));
  receive(store);
  const prompts = new Prompts();
  const queue = new Queue(store, prompts);
  return { prompts, queue, ids: () => queue.waiting.map(({ promptId, running }) => promptId + (running ? "!" : "")) };
}

/** As the server's queue has it. */
const item = (number, id, client_id = "me") => [number, id, { 5: { class_type: "KSampler", inputs: { seed: number, steps: 4 } } }, { client_id }];

test("a prompt waits until its first sampler begins, or it is over", () => {
  const { queue, ids } = opened();
  for (const id of ["a", "b", "c"]) queue.add(id);
  tell("execution_start", { prompt_id: "a" });
  assert.deepEqual(ids(), ["a!", "b", "c"]);
  preview(1, { run: "ra", prompt: "a" });
  assert.deepEqual(ids(), ["b", "c"]);
  tell("execution_success", { prompt_id: "b" }); // all of it was cached
  assert.deepEqual(ids(), ["c"]);
  queue.add("b"); // the answer to the request came late
  assert.deepEqual(ids(), ["c"]);
});

test("a prompt that begins before its request is answered is known to run", () => {
  const { queue, ids } = opened();
  tell("execution_start", { prompt_id: "quick" });
  for (const id of ["quick", "next"]) queue.add(id);
  assert.deepEqual(ids(), ["quick!", "next"]);
});

test("the server's queue is the truth, and what others queued is theirs", async () => {
  const { queue, prompts, ids } = opened();
  queue.add("gone");
  preview(1, { run: "r0", prompt: "begun" });
  answers["/queue"] = {
    queue_running: [item(1, "begun")],
    queue_pending: [item(9, "late"), item(3, "early"), item(4, "theirs", "somebody")],
  };
  const asking = queue.ask();
  queue.add("newer");
  await asking;
  assert.deepEqual(ids(), ["early", "late", "newer"]);
  assert.equal(prompts.originOf("late", prompts.samplerOf("late")).seed, 9);
});

test("the server is asked where fewer prompts are left than should be", async () => {
  const { queue, ids } = opened();
  for (const id of ["a", "b"]) queue.add(id);
  answers["/queue"] = { queue_running: [], queue_pending: [item(1, "b")] };
  tell("status", { exec_info: { queue_remaining: 2 } });
  await new Promise(setImmediate);
  assert.deepEqual(ids(), ["a", "b"]);
  tell("status", { exec_info: { queue_remaining: 1 } });
  tell("status", null); // the connection is lost
  await new Promise(setImmediate);
  await new Promise(setImmediate);
  assert.deepEqual(ids(), ["b"]);
});

test("to skip a prompt takes it out of the queue, or interrupts it alone", async () => {
  const { queue, ids } = opened();
  for (const id of ["a", "b"]) queue.add(id);
  tell("execution_start", { prompt_id: "a" });
  const before = api.fetchApi;
  const posted = [];
  api.fetchApi = async (route, { body }) => (posted.push([route, JSON.parse(body)]), new Response());
  await queue.skip("b");
  await queue.skip("a");
  await queue.skip("one with a run");
  api.fetchApi = before;
  assert.deepEqual(posted, [
    ["/queue", { delete: ["b"] }],
    ["/interrupt", { prompt_id: "a" }],
    ["/interrupt", { prompt_id: "one with a run" }],
  ]);
  assert.deepEqual(ids(), ["a!"]); // until the server says that it is over
});

const silences = {
  "does not answer": async () => { throw new TypeError("Failed to fetch"); },
  refuses: async () => new Response("", { status: 403 }),
};
for (const [what, fetchApi] of Object.entries(silences)) {
  test(`a prompt that the server ${what} to skip still waits, and the user is told`, async () => {
    const { queue, ids } = opened();
    queue.add("a");
    const before = api.fetchApi;
    const said = [];
    app.extensionManager.toast = { add: ({ severity }) => said.push(severity) };
    api.fetchApi = fetchApi;
    await queue.skip("a");
    api.fetchApi = before;
    assert.deepEqual([ids(), said], [["a"], ["error"]]);
  });
}

test("prompts that wait or run are known however many there are, later ones go as they are over", async () => {
  const { queue, prompts, ids } = opened();
  const queued = Array.from({ length: 150 }, (_, i) => `p${i}`);
  const known = () => queued.filter((id, seed) => prompts.originOf(id, "5").seed === seed);
  const remember = (seed, id) => prompts.remember(id, item(seed, id)[2], { opened: null, name: "", id: null });
  for (const [seed, id] of queued.entries()) {
    remember(seed, id);
    queue.add(id);
    if (seed === 0) preview(1, { run: "r0", prompt: id });
  }
  assert.deepEqual([ids().length, known().length], [149, 150]);
  for (const id of queued) tell("execution_success", { prompt_id: id });
  remember(0, "another");
  assert.deepEqual(known(), queued.slice(51));
  const reloaded = opened();
  answers["/queue"] = { queue_running: [], queue_pending: queued.map((id, seed) => item(seed, id)) };
  await reloaded.queue.ask();
  assert.deepEqual([reloaded.ids().length, reloaded.prompts.originOf("p0", "5").seed], [150, 0]);
});
