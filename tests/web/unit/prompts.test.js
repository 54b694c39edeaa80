import assert from "node:assert/strict";
import { test } from "node:test";

import { unpacked } from "../../../web/lib/data/packed.js";
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
  const seeds = ["5", "7", "1"].map((id) => prompts.originOf("p", id).seed);
  assert.deepEqual([prompts.originOf("p", "5").workflow, ...seeds], ["portrait", 42, 7, null]);
});

const CUSTOM = {
  20: node("SamplerCustomAdvanced", { noise: ["21", 0], guider: ["22", 0], sampler: ["23", 0], sigmas: ["24", 0] }),
  21: node("RandomNoise", { noise_seed: 5 }),
  22: node("CFGGuider", { cfg: 3.5 }),
  23: node("KSamplerSelect", { sampler_name: "dpmpp_2m" }),
  24: node("SplitSigmas", { sigmas: ["25", 0], step: 4 }),
  25: node("BasicScheduler", { steps: 12 }),
};
const PLAIN = { 5: node("KSampler", { seed: 9, steps: 20, cfg: ["6", 0], sampler_name: "euler" }), 6: node("PrimitiveFloat", { value: 7 }) };

test("what a run is made of is said by its sampler, or by the nodes behind that", () => {
  const prompts = new Prompts();
  prompts.remember("custom", CUSTOM, WORKFLOW);
  prompts.remember("plain", PLAIN, WORKFLOW);
  assert.deepEqual([prompts.samplerOf("custom"), prompts.samplerOf("plain"), prompts.samplerOf("unknown")], ["20", "5", undefined]);
  assert.deepEqual(prompts.originOf("custom", "20"), { workflow: "portrait", seed: 5, sampler: "dpmpp_2m", steps: 12, cfg: 3.5 });
  assert.deepEqual(prompts.originOf("plain", "5"), { workflow: "portrait", seed: 9, sampler: "euler", steps: 20, cfg: 7 });
  assert.deepEqual(prompts.originOf("unknown", undefined), { workflow: "", seed: null, sampler: "", steps: null, cfg: null });
});

test("the workflow of a prompt is kept packed, as it was then", async () => {
  const prompts = new Prompts();
  const graph = { nodes: [{ id: 5, widgets_values: [42, "größer"] }] };
  prompts.remember("p", NODES, WORKFLOW, graph);
  graph.nodes[0].widgets_values[0] = 43;
  const blob = await prompts.about({ promptId: "p", nodeId: "5", displayNodeId: "5" }).graph;
  assert.deepEqual(await unpacked(blob), { nodes: [{ id: 5, widgets_values: [42, "größer"] }] });
  prompts.keep((id) => id !== "p");
  assert.equal(prompts.about({ promptId: "p", nodeId: "5", displayNodeId: "5" }).graph, null);
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
  for (let i = 0; i < 100; i++) prompts.remember(`p${i}`, NODES, WORKFLOW);
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
  const extra_data = { extra_pnginfo: { workflow: { nodes: [] } } };
  await joined("/prompt", { method: "POST", body: JSON.stringify({ prompt, extra_data }) }, "third", 4);
  await joined("/queue", {}, "third");
  await joined("/queue");
  assert.deepEqual(heard, [[true, "third", 4], [true, "third"], [true]]);
  assert.deepEqual(queued.map(([id, nodes, , graph]) => [id, nodes, graph]), [["x", prompt, { nodes: [] }]]);
});

test("an answer that cannot be read is the page's all the same", async (context) => {
  const said = context.mock.method(console, "warn", () => {});
  const answer = { ok: true, status: 200, json: async () => ({ prompt_id: "x" }) }; // as another pack's wrapper may give
  api.fetchApi = async () => answer;
  joinQueueing(api, () => {}, () => {});
  assert.equal(await api.fetchApi("/prompt", { method: "POST", body: JSON.stringify({ prompt: {} }) }), answer);
  assert.equal(said.mock.callCount(), 1);
});
