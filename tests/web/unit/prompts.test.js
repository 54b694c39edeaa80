import assert from "node:assert/strict";
import { test } from "node:test";

import { Prompts, takeOutValues } from "../../../web/lib/data/prompts.js";
import { joinQueueing } from "../../../web/lib/host/queueing.js";
import { answers, api } from "./comfy.js";

const node = (class_type, inputs = {}, title) => ({ class_type, inputs, ...(title && { _meta: { title } }) });
const NODES = {
  1: node("Loader"),
  2: node("SideStreamPreview", { model: ["1", 0], throttle_ms: 5, quality: ["9", 0] }),
  3: node("SideStreamPreview", { model: ["2", 0] }),
  4: node("Patch", { model: ["3", 0] }),
  5: node("KSampler", { model: ["4", 0], latent_image: ["7", 0], seed: ["8", 0] }, "First pass"),
  6: node("SideStreamPreview", { model: ["1", 0] }),
  7: node("KSampler", { model: ["6", 0], noise: ["10", 0] }),
  8: node("Primitive", { value: 42 }),
  10: node("RandomNoise", { noise_seed: 7 }),
};
const WORKFLOW = { opened: null, name: "portrait", id: null };

function known() {
  const prompts = new Prompts();
  prompts.define({ KSampler: { output: ["LATENT"] }, Loader: { output: ["MODEL"] }, Patch: { output: ["MODEL"] } });
  prompts.remember("p", NODES, WORKFLOW);
  return prompts;
}

test("a sampler's preview nodes are the nearest upstream, not those behind its latent", () => {
  assert.deepEqual(known().previewNodesOf("p", "5"), ["3"]);
  assert.deepEqual(known().previewNodesOf("p", "7"), ["6"]);
  assert.deepEqual(known().previewNodesOf("another", "5"), []);
});

test("what a sampler makes is followed through the prompt, and unknown where that does not say", () => {
  const prompts = known();
  assert.ok(prompts.leadsTo("p", "2", "5"));
  assert.ok(prompts.leadsTo("p", "7", "5"));
  assert.equal(prompts.leadsTo("p", "5", "7"), false);
  for (const [prompt, to] of [["p", "77"], ["another", "5"]]) assert.equal(prompts.leadsTo(prompt, "7", to), null);
});

test("names and seeds are those of the prompt that was queued", async () => {
  answers["/queue"] = { queue_running: [] };
  const prompts = known();
  assert.deepEqual([prompts.titleOf("p", "5"), prompts.titleOf("p", "1"), prompts.titleOf("p", "77")], ["First pass", "Loader", "#77"]);
  assert.deepEqual(prompts.originOf("p", "5"), { workflow: "portrait", seed: 42 });
  assert.deepEqual(prompts.originOf("p", "7"), { workflow: "portrait", seed: 7 });
  assert.deepEqual(prompts.originOf("p", "1"), { workflow: "portrait", seed: null });
});

test("a prompt that this page did not queue is learnt from the server", async () => {
  answers["/queue"] = { queue_running: [[0, "q", { 5: node("KSampler", {}, "Elsewhere") }, {}]] };
  const prompts = new Prompts();
  const learnt = new Promise((resolve) => (prompts.learnt = resolve));
  assert.equal(prompts.titleOf("q", "5"), "#5");
  await learnt;
  assert.equal(prompts.titleOf("q", "5"), "Elsewhere");
});

test("the oldest of many prompts are forgotten", () => {
  const prompts = known();
  for (let i = 0; i < 30; i++) prompts.remember(`p${i}`, NODES, WORKFLOW);
  assert.deepEqual(prompts.previewNodesOf("p", "5"), []);
  assert.deepEqual(prompts.previewNodesOf("p0", "5"), ["3"]);
});

test("values that preview nodes hold are taken out, linked ones stay", () => {
  const nodes = structuredClone(NODES);
  assert.deepEqual(takeOutValues(nodes, ["throttle_ms", "quality"]), { 2: { throttle_ms: 5 } });
  assert.deepEqual(nodes[2].inputs, { model: ["1", 0], quality: ["9", 0] });
  assert.deepEqual(nodes[5], NODES[5]);
});

test("whatever else is given with a request is handed on", async () => {
  const heard = [];
  api.fetchApi = async function (...args) {
    heard.push([this === api, ...args.slice(2)]);
    return Response.json({ prompt_id: "x" });
  };
  const queued = [];
  joinQueueing(api, (body) => (body.extra = true), (...told) => queued.push(told));
  const joined = api.fetchApi;
  const prompt = { 1: node("A") };
  await joined("/prompt", { method: "POST", body: JSON.stringify({ prompt }) }, "third", 4);
  await joined("/queue", {}, "third");
  await joined("/queue");
  assert.deepEqual(heard, [[true, "third", 4], [true, "third"], [true]]);
  assert.deepEqual(queued.map(([id, nodes]) => [id, nodes]), [["x", prompt]]);
});
